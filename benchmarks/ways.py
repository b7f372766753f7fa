"""How far a trained network agrees with itself where other programs resize its pictures: prints a table.

    python benchmarks/ways.py clothing-10 sign-digits --epochs 25 --shares 0 0.25 0.5

For each share of the training images that is shown without antialiasing (training/batches.py, ROUGH), the advised
network is trained on train and valid for counted epochs, one thread, bf16; then the test images, resized in each way,
are answered. Agreement is with the answers to pictures prepared as `prepare` does. TensorFlow's ways need TensorFlow.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import sets

WAYS = ("BILINEAR", "NEAREST", "BOX", "BICUBIC", "LANCZOS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--data", type=Path, default=sets.DATA)
    parser.add_argument("--epochs", type=float, default=25)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.25])
    given = parser.parse_args()
    for name in given.sets:
        for share in given.shares:
            answers, labels = answered(name, share, given)
            ours = answers["Pillow BILINEAR"]
            print(f"{name}, {given.epochs:g} epochs, {share:g} without antialiasing:")
            for way, told in answers.items():
                agrees, right = (100 * (told == other).mean() for other in (ours, labels))
                print(f"  {way:28} agrees {agrees:5.1f} %, right {right:5.1f} %")


def answered(name: str, share: float, given: argparse.Namespace) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The class answered to each test image, for each way of resizing; and the true ones."""
    from convwise.advice.advising import advise
    from convwise.advice.fingerprint import look
    from convwise.core.goal import Goal
    from convwise.core.records import Engine, Trial
    from convwise.images.loading import read
    from convwise.training import batches, machine, train

    batches.ROUGH = share
    images, engine = read(sets.source(name, given.data), seed=0), Engine("cpu", "bfloat16")
    advice = advise(look(images.train, images.classes), Goal(), machine.ThisMachine().pace, 240.0, 2)
    height, width, _ = advice.net.input_shape
    with tempfile.TemporaryDirectory(prefix="convwise-") as passing:
        folder = Path(passing)
        batches.Store(folder, images).ensure(advice.net)
        trial = Trial(
            "ways", "final", dict(advice.configuration), advice.net, advice.recipe, epochs=given.epochs, part="all"
        )
        _, weights = train.train(trial, folder, engine)
    test = images.test.open()
    origins = test.origins or (None,) * len(test)
    pictures = [origin() if origin else pixels for origin, pixels in zip(origins, test.pixels, strict=True)]
    return {
        way: train.answers(advice.net, weights, np.stack([resize(picture) for picture in pictures])).argmax(1)
        for way, resize in ways(height, width)
    }, test.labels


def ways(height: int, width: int) -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """What programs do: their names, and uint8 (h, w, c) -> (height, width, c)."""
    from convwise.images.loading import resize

    for name in WAYS:
        yield f"Pillow {name}", lambda picture, way=Image.Resampling[name]: resize(picture, height, width, way)
    try:
        import tensorflow as tf
    except ImportError:
        return

    def by(picture: np.ndarray, **how: Any) -> np.ndarray:
        small = tf.image.resize(picture.astype("float32"), (height, width), **how).numpy()
        return np.clip(np.rint(small), 0, 255).astype(np.uint8)

    yield "tf.image.resize, antialias", lambda picture: by(picture, antialias=True)
    yield "tf.image.resize", lambda picture: by(picture)
    yield "tf.image.resize, area", lambda picture: by(picture, method="area")


if __name__ == "__main__":
    main()
