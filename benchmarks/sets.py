"""The sets of images that rivals meet: real ones, and sets made of them.

Made sets let the number of images, their size and their channels vary apart, all else equal. They
are written once into a cache folder, as .npz files that `convwise choose` reads like any other.
The draw of a smaller set is the same for every seed; a seed decides the validation part, and the
test part where a set has none of its own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

DATA = Path(__file__).parents[2] / "shared" / "data"
CACHE = Path(tempfile.gettempdir()) / "convwise-benchmark-sets"
LARGEST_PX = 128  # convwise reads no larger
# name -> where it lies in the data folder; 'digits' comes with scikit-learn.
BASES = {
    "bccd-cells": "bccd-cells/bccd-cells.zip",
    "breastmnist": "breastmnist/breastmnist.npz",
    "clothing-10": "clothing-10/clothing-10.zip",
    "digits": "",
    "fashion-mnist": "fashion-mnist",
    "infrared-solar-12": "infrared-solar-12/infrared-solar-12.zip",
    "mnist-5k": "mnist-5k",
    "omniglot-100": "omniglot-100/omniglot-100.zip",
    "sign-digits": "sign-digits/sign-digits.zip",
}


@dataclass(frozen=True)
class Set:
    """A base, as it is or made into another: images, the training images drawn from it, evenly
    from each class; px, the side that they are resized to; channels, 1 or 3; test, images at most
    in its test part. mirror: whether mirroring left-right does no harm. wanted: the accuracy of
    the best fixed rival after 300 s, less 0.3 points: what the cheapest network shall reach.
    number: of NUMBERS, what is to be predicted instead of the class."""

    base: str
    mirror: bool = False
    images: int | None = None
    px: int | None = None
    channels: int | None = None
    test: int | None = None
    wanted: float | None = None
    number: str = ""

    @property
    def made(self) -> bool:
        """Whether it differs from its base."""
        return any((self.images, self.px, self.channels, self.test, self.number))

    @property
    def task(self) -> str:
        """What `convwise choose` is asked to learn."""
        return "regress" if self.number else "classify"


# Mirroring: measured as -5 and -6 points on digits and hand signs; letters have a handedness too.
SETS: dict[str, Set] = {
    "bccd-cells": Set("bccd-cells", mirror=True),
    "breastmnist": Set("breastmnist"),
    "clothing-10": Set("clothing-10", mirror=True, wanted=0.836),
    "digits": Set("digits"),
    "fashion-mnist": Set("fashion-mnist", mirror=True, wanted=0.941),
    "infrared-solar-12": Set("infrared-solar-12", mirror=True, wanted=0.763),
    "mnist-5k": Set("mnist-5k", wanted=0.993),
    "omniglot-100": Set("omniglot-100", wanted=0.979),
    "sign-digits": Set("sign-digits", wanted=0.995),
    # The number of images: fashion-mnist itself has 60,000.
    "fashion-500": Set("fashion-mnist", mirror=True, images=500),
    "fashion-2000": Set("fashion-mnist", mirror=True, images=2000),
    "fashion-10000": Set("fashion-mnist", mirror=True, images=10_000),
    "infrared-2000": Set("infrared-solar-12", mirror=True, images=2000),
    "mnist-1000": Set("mnist-5k", images=1000),
    # The size: the same photos, hands and panels.
    "clothing-28": Set("clothing-10", mirror=True, px=28),
    "clothing-64": Set("clothing-10", mirror=True, px=64),
    "clothing-128": Set("clothing-10", mirror=True, px=128),
    "signs-32": Set("sign-digits", px=32),
    "signs-64": Set("sign-digits", px=64),
    "signs-128": Set("sign-digits", px=128),
    "infrared-64": Set("infrared-solar-12", mirror=True, px=64),
    "infrared-128": Set("infrared-solar-12", mirror=True, px=128),
    "fashion-2000-64": Set("fashion-mnist", mirror=True, images=2000, px=64, test=2000),
    "fashion-2000-128": Set("fashion-mnist", mirror=True, images=2000, px=128, test=2000),
    # The channels: colour made gray, and gray repeated.
    "clothing-64-gray": Set("clothing-10", mirror=True, px=64, channels=1),
    "clothing-128-gray": Set("clothing-10", mirror=True, px=128, channels=1),
    "signs-64-gray": Set("sign-digits", px=64, channels=1),
    "cells-gray": Set("bccd-cells", mirror=True, channels=1),
    "fashion-2000-rgb": Set("fashion-mnist", mirror=True, images=2000, channels=3),
    "infrared-rgb": Set("infrared-solar-12", mirror=True, channels=3),
    # Numbers instead of classes: the angle that a digit was turned by, the share of a blood smear
    # that is stained.
    "digits-angle": Set("digits", px=20, number="angle"),
    "cells-foreground": Set("bccd-cells", mirror=True, px=64, number="foreground"),
}


def angle(pixels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The images (n, rows, columns, channels), each turned by up to 60 degrees, and by how many,
    counter-clockwise.
    """
    degrees = rng.uniform(-60, 60, len(pixels))
    turned = [
        np.asarray(Image.fromarray(image.squeeze()).rotate(by, Image.Resampling.BILINEAR)).reshape(
            image.shape
        )
        for image, by in zip(pixels, degrees, strict=True)
    ]
    return np.stack(turned), degrees


def foreground(pixels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The images as they are, and the percentage of each that is darker than its own threshold by
    Otsu (1979).
    """
    return pixels, np.array(
        [100 * float((gray < otsu(gray)).mean()) for gray in pixels.mean(axis=-1)]
    )


def otsu(gray: np.ndarray) -> float:
    """The level that parts the pixels into two classes with the most variance between them."""
    counts = np.bincount(gray.astype(int).ravel(), minlength=256)
    below, mass = (
        np.cumsum(counts) / counts.sum(),
        np.cumsum(counts * np.arange(256)) / counts.sum(),
    )
    between = (mass[-1] * below - mass) ** 2 / np.maximum(below * (1 - below), 1e-12)
    return float(between.argmax() + 1)


NUMBERS: dict[str, Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]] = {
    "angle": angle,
    "foreground": foreground,
}


def source(name: str, data: Path = DATA, cache: Path = CACHE) -> str:
    """What convwise reads as the set `name`; a made one is written where it is not there yet."""
    row = SETS[name]
    base = str(data / BASES[row.base]) if BASES[row.base] else row.base
    if not row.made:
        return base
    path = cache / f"{name}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        passing = path.with_name(f"{name}-{os.getpid()}.npz")
        np.savez(passing, **arrays(row, base))
        passing.replace(path)  # whole or not at all
    return str(path)


def arrays(row: Set, base: str) -> dict[str, Any]:
    """x_train, y_train, x_test, y_test of a made set: uint8 (n, rows, columns, channels), names."""
    from convwise.images.loading import read

    images = read(base, limit_px=LARGEST_PX)
    parts = {"train": (images.unsealed(), row.images), "test": (images.test.open(), row.test)}
    found = {}
    for name, (part, count) in parts.items():
        index = drawn(part.labels, count)
        some = part[index].with_channels(row.channels or part.pixels.shape[3])
        some = some.at(row.px, row.px) if row.px else some
        if row.number:
            rng = np.random.default_rng(len(some))
            found[f"x_{name}"], found[f"y_{name}"] = NUMBERS[row.number](
                np.asarray(some.pixels), rng
            )
            continue
        found[f"x_{name}"] = some.pixels
        found[f"y_{name}"] = np.array(images.classes)[some.labels]
    return found


def drawn(labels: np.ndarray, count: int | None) -> np.ndarray:
    """Sorted positions of `count` examples, so that classes keep their shares; all where None."""
    if count is None or count >= len(labels):
        return np.arange(len(labels))
    order = np.random.default_rng(0).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # by class, at random inside each
    return np.sort(order[np.linspace(0, len(order), count, endpoint=False).astype(int)])
