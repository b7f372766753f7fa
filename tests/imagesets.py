"""Small image sets for tests: patterns that a tiny CNN learns in seconds, in every kind of
source.
"""

from __future__ import annotations

import gzip
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def striped(
    classes: int, per_class: int, size: int = 16, channels: int = 1, seed: int = 0
) -> tuple[Pixels, NDArray]:
    """Stripes of a class's own direction, random phase, light noise: x (n, size, size, channels), y
    (n,).

    Needs a filter, not a pixel: at any one place all classes look alike on average.
    """
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    rows, columns = np.mgrid[:size, :size]
    angle = (np.pi * labels / classes)[:, None, None]
    phase = rng.uniform(0, 2 * np.pi, len(labels))[:, None, None]
    wave = np.sin(2 * np.pi * (np.cos(angle) * columns + np.sin(angle) * rows) / 5 + phase)
    return _noisy(wave, channels, rng), labels


def blobs(
    classes: int, per_class: int, size: int = 16, channels: int = 1, seed: int = 0
) -> tuple[Pixels, NDArray]:
    """One round blob at a random place; its radius is the class: x (n, size, size, channels), y
    (n,).
    """
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    rows, columns = np.mgrid[:size, :size]
    centre = rng.uniform(0.3 * size, 0.7 * size, (2, len(labels), 1, 1))
    radius = (size * (0.08 + 0.3 * labels / classes))[:, None, None]
    inside = np.hypot(rows - centre[0], columns - centre[1]) < radius
    return _noisy(2.0 * inside - 1, channels, rng), labels


def _noisy(wave: NDArray, channels: int, rng: np.random.Generator) -> Pixels:
    pixels = (
        128
        + 80 * wave[..., None] * np.linspace(1, 0.6, channels)
        + rng.normal(0, 8, (*wave.shape, channels))
    )
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write_folder(
    path: Path,
    classes: Sequence[str] = ("a", "b"),
    per_class: int = 6,
    size: int | tuple[int, int] = 16,
    mode: str = "RGB",
    seed: int = 0,
    suffix: str = ".png",
) -> Path:
    """Class folders of striped images; size in px (or (height, width)); mode: Pillow's; returns the
    path.
    """
    height, width = (size, size) if isinstance(size, int) else size
    pixels, labels = striped(
        len(classes), per_class, max(height, width), 3 if mode != "L" else 1, seed
    )
    for index, (image, label) in enumerate(zip(pixels[:, :height, :width], labels, strict=True)):
        folder = path / classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        picture(image, mode).save(folder / f"{index:04d}{suffix}")
    return path


def write_parts(
    path: Path, parts: Sequence[str] = ("train", "val", "test"), seed: int = 0, **how
) -> Path:
    """The folders of write_folder below train/, val/, test/, all images different."""
    for offset, part in enumerate(parts):
        write_folder(path / part, seed=seed + 1000 * offset, **how)
    return path


def picture(pixels: Pixels, mode: str = "RGB") -> Image.Image:
    """(h, w, 1 or 3) as a Pillow image of the mode."""
    plain = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if mode == "I;16":
        return Image.fromarray(np.asarray(plain.convert("L")).astype(np.uint16) * 257)
    return plain if plain.mode == mode else plain.convert("RGB").convert(mode)


def write_zip(path: Path, folder: Path, top: str = "") -> Path:
    """A zip of everything below the folder, inside a folder `top` where it is given."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, (Path(top) / file.relative_to(folder)).as_posix())
    return path


def write_idx(
    folder: Path, part: str, pixels: Pixels, labels: NDArray, zipped: bool = True
) -> Path:
    """`part`-images-idx3-ubyte and its labels (part: train or t10k); pixels (n, h, w); returns the
    folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for what, array in (("images-idx3", pixels), ("labels-idx1", labels)):
        sizes = struct.pack(f">{array.ndim}I", *array.shape)
        data = bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()
        name = f"{part}-{what}-ubyte" + (".gz" if zipped else "")
        (folder / name).write_bytes(gzip.compress(data) if zipped else data)
    return folder
