"""Images -> batches: kept on disk once per input size, resident in memory, augmented by one gather."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from convwise.core.records import Recipe


class Part(Protocol):
    """Images with labels: uint8 (n, height, width, channels) and int64 (n,)."""

    @property
    def pixels(self) -> np.ndarray: ...

    @property
    def labels(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Examples:
    """Images as a tensor: uint8 (n, height, width, channels), labels int64 (n,), on one device."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str) -> Examples:
        return Examples(self.pixels.to(device), self.labels.to(device))


def store(folder: Path, size: str, name: str, part: Part) -> None:
    """Write one part at one input size, for workers in other processes."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(_file(folder, size, name, "pixels"), part.pixels)
    np.save(_file(folder, size, name, "labels"), part.labels)


def _file(folder: Path, size: str, name: str, what: str) -> Path:
    return folder / f"{size}-{name}-{what}.npy"


def is_stored(folder: Path, size: str, name: str) -> bool:
    """Whether `store` has written this part."""
    return _file(folder, size, name, "labels").exists()


def load(folder: Path, size: str, names: tuple[str, ...]) -> Examples:
    """The stored parts, one after the other."""
    pixels = [np.load(_file(folder, size, name, "pixels"), mmap_mode="r") for name in names]
    labels = [np.load(_file(folder, size, name, "labels")) for name in names]
    return Examples(torch.from_numpy(np.concatenate(pixels)), torch.from_numpy(np.concatenate(labels)))


def batches(
    examples: Examples, recipe: Recipe, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch in random order, augmented: float (n, channels, height, width) in channels_last, labels.

    The last, smaller batch is left out where there is a full one before it.
    """
    size = min(recipe.batch_size, len(examples))
    order = torch.randperm(len(examples), generator=generator).to(examples.labels.device)
    for start in range(0, len(order) - size + 1, size):
        index = order[start : start + size]
        yield _as_input(augment(examples.pixels, index, recipe, generator)), examples.labels[index]


def in_order(examples: Examples, size: int = 256) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Every example once, in order, as it is."""
    for start in range(0, len(examples), size):
        yield _as_input(examples.pixels[start : start + size]), examples.labels[start : start + size]


def _as_input(pixels: torch.Tensor) -> torch.Tensor:
    # A permuted (n, h, w, c) tensor is channels_last already: no copy beside the cast.
    return pixels.permute(0, 3, 1, 2).float()


def augment(pixels: torch.Tensor, index: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    """pixels[index], each image zoomed, shifted and mirrored at random in one gather; edges are repeated."""
    count, (height, width) = len(index), pixels.shape[1:3]

    def uniform(spread: float) -> torch.Tensor:
        return (torch.rand(count, 1, generator=generator) * 2 - 1) * spread

    zoom = 1 + uniform(recipe.zoom)
    rows = _source(height, zoom, uniform(recipe.shift_px))
    columns = _source(width, zoom, uniform(recipe.shift_px))
    if recipe.flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    rows, columns = rows.to(pixels.device), columns.to(pixels.device)
    return pixels[index[:, None, None], rows[:, :, None], columns[:, None, :]]


def _source(size: int, zoom: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """For each output position the input position it reads: int64 (n, size), inside the image."""
    centred = torch.arange(size) - (size - 1) / 2
    return (centred * zoom + (size - 1) / 2 + shift).round().long().clamp(0, size - 1)
