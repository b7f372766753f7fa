"""Images -> batches: kept on disk once per input size, resident in memory, augmented by one gather."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from convwise.core.records import Recipe

# Share of the training images that are shown resized without antialiasing: so a net answers those alike.
ROUGH = 0.25


class Part(Protocol):
    """Images with labels: uint8 (n, height, width, channels), and int64, or float64 numbers, (n,)."""

    @property
    def pixels(self) -> np.ndarray: ...

    @property
    def labels(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Examples:
    """Images as a tensor: uint8 (n, height, width, channels), labels (n,), or as a task learns them, on one device.

    To train on, pixels may be (2n, ...): the same images once more, resized without antialiasing. Where a net
    learns from a teacher, labels are float32 (n, classes): what a task makes of both.
    """

    pixels: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str) -> Examples:
        return Examples(self.pixels.to(device), self.labels.to(device))


class Parts(Protocol):
    """Images to train on and to validate on, at any size."""

    @property
    def train(self) -> Sized: ...

    @property
    def valid(self) -> Sized: ...


class Sized(Protocol):
    """One part, at the size that is asked for, and the same without antialiasing where it was resized."""

    def ways(self, height: int, width: int) -> tuple[Part, Part | None]: ...


@dataclass(frozen=True)
class Store:
    """The parts of some images in a folder that workers read, at each input size that was asked for."""

    folder: Path
    images: Parts

    def ensure(self, height: int, width: int) -> None:
        """Write both parts at this size, once."""
        size = f"{height}x{width}"
        if not is_stored(self.folder, size, "valid"):
            for name, part in (("train", self.images.train), ("valid", self.images.valid)):
                store(self.folder, size, name, *part.ways(height, width))


def store(folder: Path, size: str, name: str, part: Part, rough: Part | None = None) -> None:
    """Write one part at one input size, for workers in other processes; rough: the same without antialiasing."""
    folder.mkdir(parents=True, exist_ok=True)
    _save(_file(folder, size, name, "pixels"), part.pixels)
    if rough is not None:
        _save(_file(folder, size, name, "rough"), rough.pixels)
    _save(_file(folder, size, name, "labels"), part.labels)


def _save(path: Path, array: np.ndarray) -> None:
    """The whole file or none, whenever this process ends: what is there is used again."""
    draft = path.with_suffix(".writing")
    with draft.open("wb") as file:
        np.save(file, array)
    os.replace(draft, path)


def _file(folder: Path, size: str, name: str, what: str) -> Path:
    return folder / f"{size}-{name}-{what}.npy"


def is_stored(folder: Path, size: str, name: str) -> bool:
    """Whether `store` has written this part."""
    return _file(folder, size, name, "labels").exists()


def load(folder: Path, size: str, names: tuple[str, ...], *, training: bool = False) -> Examples:
    """The stored parts, one after the other; with `training` also as they are without antialiasing, where stored."""
    ways = ("pixels", "rough") if training and _file(folder, size, names[0], "rough").exists() else ("pixels",)
    pixels = [np.load(_file(folder, size, name, way), mmap_mode="r") for way in ways for name in names]
    labels = [np.load(_file(folder, size, name, "labels")) for name in names]
    return Examples(torch.from_numpy(np.concatenate(pixels)), torch.from_numpy(np.concatenate(labels)))


def store_answers(folder: Path, teacher: str, name: str, answers: np.ndarray) -> None:
    """Write what a trained trial says of one part, float32 (n, classes), for nets that learn from it."""
    _save(_answers(folder, teacher, name), answers.astype(np.float32))


def has_answers(folder: Path, teacher: str, name: str) -> bool:
    """Whether `store_answers` has written them."""
    return _answers(folder, teacher, name).exists()


def answers(folder: Path, teacher: str, names: tuple[str, ...]) -> torch.Tensor:
    """The stored answers to the parts, one after the other."""
    return torch.from_numpy(np.concatenate([np.load(_answers(folder, teacher, name)) for name in names]))


def _answers(folder: Path, teacher: str, name: str) -> Path:
    return folder / f"{teacher}-{name}-answers.npy"


def batches(
    examples: Examples, recipe: Recipe, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Epoch after epoch in random order, augmented: float (n, channels, height, width) in channels_last, labels.

    Where images are mirrored, half of them are in the first epoch, the others in the next, and so
    on in turns: so each is seen both ways equally often (airbench94, Jordan 2024). The last, smaller
    batch of an epoch is left out where there is a full one before it.
    """
    size, device = min(recipe.batch_size, len(examples)), examples.labels.device
    mirrored = torch.rand(len(examples), generator=generator).to(device) < 0.5
    while True:
        order = torch.randperm(len(examples), generator=generator).to(device)
        for start in range(0, len(order) - size + 1, size):
            index = order[start : start + size]
            flips, rows = mirrored[index] if recipe.flip else None, index
            if len(examples.pixels) > len(examples):
                rough = torch.rand(len(index), generator=generator).to(device) < ROUGH
                rows = index + len(examples) * rough
            yield _as_input(augment(examples.pixels, rows, recipe.shift_px, generator, flips)), examples.labels[index]
        mirrored = ~mirrored


def boxed(images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A box of every image replaced by the same box of another: (images, which other, share that is still its own).

    images: (n, channels, height, width). The box is one for the batch, its area drawn evenly from all
    shares: CutMix (Yun et al. 2019), but that the box lies inside the image.
    """
    height, width = images.shape[2:]
    side = float(torch.rand((), generator=generator)) ** 0.5
    rows, columns = int(height * side), int(width * side)
    top = int(torch.randint(height - rows + 1, (), generator=generator))
    left = int(torch.randint(width - columns + 1, (), generator=generator))
    others = torch.randperm(len(images), generator=generator).to(images.device)
    box = (..., slice(top, top + rows), slice(left, left + columns))
    mixed = images.clone()
    mixed[box] = images[others][box]
    return mixed, others, 1 - rows * columns / (height * width)


def in_order(examples: Examples, size: int = 256) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Every example once, in order, as it is."""
    for start in range(0, len(examples), size):
        yield _as_input(examples.pixels[start : start + size]), examples.labels[start : start + size]


def _as_input(pixels: torch.Tensor) -> torch.Tensor:
    # A permuted (n, h, w, c) tensor is channels_last already: no copy beside the cast.
    return pixels.permute(0, 3, 1, 2).float()


def augment(pixels: torch.Tensor, index: torch.Tensor, shift_px: int, generator: torch.Generator,
            flips: torch.Tensor | None = None) -> torch.Tensor:  # fmt: skip
    """pixels[index], each image shifted by whole pixels at random, and mirrored where `flips`, in one gather.

    Where an image ends, it is continued as its own mirror image.
    """
    lines = []
    for size in pixels.shape[1:3]:
        shifts = torch.randint(-shift_px, shift_px + 1, (len(index), 1), generator=generator)
        position = ((size - 1) - ((size - 1) - (torch.arange(size) + shifts).abs()).abs()).clamp(0, size - 1)
        lines.append(position.to(pixels.device))
    rows, columns = lines
    if flips is not None:
        columns = torch.where(flips[:, None], columns.flip(1), columns)
    return pixels[index[:, None, None], rows[:, :, None], columns[:, None, :]]
