"""Images -> batches: kept on disk once per input size, streamed from there where they are many, and
augmented.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from convwise.core.mapped import at_rest
from convwise.core.net import Net
from convwise.core.records import Recipe

# Share of the training images that are shown resized without antialiasing: so a net answers those
# alike.
ROUGH = 0.5
AVERAGED_AT_ONCE = 256  # images
# Bytes of pixels that each worker holds in memory; of more it reads batch after batch from the disk
RESIDENT = 2**28


class Part(Protocol):
    """Images with labels: uint8 (n, height, width, channels), and int64 (n,), or float64 numbers,
    (n,) or (n, k).
    """

    @property
    def pixels(self) -> np.ndarray: ...

    @property
    def labels(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Mapped:
    """Images uint8 (n, height, width, channels) that stay on the disk: several mapped tensors, one
    after the other.

    All workers share the pages that are in memory, and the system takes them back where it needs
    the room.
    """

    tensors: tuple[torch.Tensor, ...]

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), *self.tensors[0].shape[1:]))

    def __len__(self) -> int:
        return sum(len(tensor) for tensor in self.tensors)

    def __getitem__(self, index: slice | torch.Tensor) -> torch.Tensor:
        """Some of them, in memory; index: a slice, or the numbers of the images."""
        rows = torch.arange(len(self))[index] if isinstance(index, slice) else index.cpu()
        found = torch.empty((len(rows), *self.shape[1:]), dtype=torch.uint8)
        first = 0
        for tensor in self.tensors:
            mine = (rows >= first) & (rows < first + len(tensor))
            found[mine] = tensor[rows[mine] - first]
            first += len(tensor)
        return found

    def cpu(self) -> Mapped:
        return self

    def to(self, device: str) -> torch.Tensor | Mapped:
        """All on the GPU where it has room; else as they are, and batches are brought there."""
        if device == "cpu" or 2 * math.prod(self.shape) > torch.cuda.mem_get_info(device)[0]:
            return self
        return torch.cat([tensor.to(device) for tensor in self.tensors])


@dataclass(frozen=True)
class Examples:
    """Images: uint8 (n, height, width, channels), labels (n,), or as a task learns them, on one
    device.

    To train on, pixels may be (2n, ...): the same images once more, resized without antialiasing.
    Where a net learns from a teacher, labels are float32 (n, classes): what a task makes of both.
    """

    pixels: torch.Tensor | Mapped
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
    """One part at the size asked for; where it was resized, also without antialiasing."""

    def ways(
        self, height: int, width: int, *, stretched: bool = False
    ) -> tuple[Part, Part | None]: ...


@dataclass(frozen=True)
class Prepared:
    """The parts of some images in a folder that workers read, at each input size asked for."""

    folder: Path
    images: Parts

    def ensure(self, net: Net) -> None:
        """Write both parts as the net learns from them, once."""
        if not is_stored(self.folder, stored_as(net), "valid"):
            for name, part in (("train", self.images.train), ("valid", self.images.valid)):
                prepare(self.folder, net, name, part)


def stored_as(net: Net) -> str:
    """Under which size the images are stored that a net learns from: see `prepare`."""
    rows, columns, _ = net.input_shape
    return f"{rows}x{columns}" + (f"by{net.shrinks}" if net.shrinks > 1 else "")


def prepare(folder: Path, net: Net, name: str, part: Sized) -> None:
    """Write one part as the net learns from it: at its size, and averaged where its first layer
    does that.

    So what has no weights is done once, and not in every step.
    """
    smooth, rough = part.ways(*net.input_shape[:2], stretched=True)
    size, times = stored_as(net), net.shrinks
    store(folder, size, name, _averaged(smooth, times), rough and _averaged(rough, times))


@dataclass(frozen=True)
class _Averaged:
    """Images and labels: see Part."""

    pixels: np.ndarray
    labels: np.ndarray


def _averaged(part: Part, times: int) -> Part:
    """The means of windows of so many px, side by side, rounded."""
    if times == 1:
        return part
    n, height, width, channels = part.pixels.shape
    found = np.empty((n, height // times, width // times, channels), np.uint8)
    for start in range(0, n, AVERAGED_AT_ONCE):
        some = np.asarray(part.pixels[start : start + AVERAGED_AT_ONCE])
        windows = some.reshape(len(some), height // times, times, width // times, times, channels)
        sums = windows.sum((2, 4), dtype=np.uint32)
        found[start : start + AVERAGED_AT_ONCE] = (2 * sums + times**2) // (2 * times**2)
        at_rest(part.pixels)
    return _Averaged(found, part.labels)


def store(folder: Path, size: str, name: str, part: Part, rough: Part | None = None) -> None:
    """Write one part at one input size, for workers in other processes; rough: the same without
    antialiasing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _save(_file(folder, size, name, "pixels"), part.pixels)
    if rough is not None:
        _save(_file(folder, size, name, "rough"), rough.pixels)
    _save(_file(folder, size, name, "labels"), part.labels)


def _save(path: Path, array: np.ndarray) -> None:
    """The whole file or none, whenever this process ends: what is there is used again.

    An array that is a whole file already, mapped from there, gets a second name and is not written
    twice.
    """
    draft = path.with_suffix(".writing")
    draft.unlink(missing_ok=True)
    with suppress(OSError):  # another disk, or one without links
        if isinstance(array, np.memmap) and array.filename and _is_whole(array, array.filename):
            os.link(array.filename, draft)
    if not draft.exists():
        with draft.open("wb") as file:
            np.save(file, array)
    os.replace(draft, path)


def _is_whole(array: np.memmap, file: str | os.PathLike[str]) -> bool:
    """Whether the file that it is mapped from holds just this array."""
    whole = np.load(file, mmap_mode="r")
    return bool(
        (whole.shape, whole.dtype, whole.strides) == (array.shape, array.dtype, array.strides)
    )


def _file(folder: Path, size: str, name: str, what: str) -> Path:
    return folder / f"{size}-{name}-{what}.npy"


def is_stored(folder: Path, size: str, name: str) -> bool:
    """Whether `store` has written this part."""
    return _file(folder, size, name, "labels").exists()


def load(folder: Path, size: str, names: tuple[str, ...], *, training: bool = False) -> Examples:
    """The stored parts, one after the other; with `training` also as they are without antialiasing,
    where stored.
    """
    ways = (
        ("pixels", "rough")
        if training and _file(folder, size, names[0], "rough").exists()
        else ("pixels",)
    )
    # 'c' for PyTorch, which warns of arrays that cannot be written to; nobody does.
    mapped = [
        np.load(_file(folder, size, name, way), mmap_mode="c") for way in ways for name in names
    ]
    labels = torch.from_numpy(
        np.concatenate([np.load(_file(folder, size, name, "labels")) for name in names])
    )
    if sum(array.nbytes for array in mapped) > RESIDENT:
        return Examples(Mapped(tuple(map(torch.from_numpy, mapped))), labels)
    return Examples(torch.from_numpy(np.concatenate(mapped)), labels)


def store_answers(folder: Path, teacher: str, name: str, answers: np.ndarray) -> None:
    """Write what a trained trial, as a teacher, says of one part: float32 (n, classes)."""
    _save(_answers(folder, teacher, name), answers.astype(np.float32))


def has_answers(folder: Path, teacher: str, name: str) -> bool:
    """Whether `store_answers` has written them."""
    return _answers(folder, teacher, name).exists()


def answers(folder: Path, teacher: str, names: tuple[str, ...]) -> torch.Tensor:
    """The stored answers to the parts, one after the other."""
    return torch.from_numpy(
        np.concatenate([np.load(_answers(folder, teacher, name)) for name in names])
    )


def _answers(folder: Path, teacher: str, name: str) -> Path:
    return folder / f"{teacher}-{name}-answers.npy"


def batches(
    examples: Examples, recipe: Recipe, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Epoch after epoch in random order, augmented: float (n, channels, height, width) in
    channels_last, labels.

    Where images are mirrored, half of them are in the first epoch, the others in the next, and so
    on in turns: so each is seen both ways equally often (airbench94, Jordan 2024). The last,
    smaller batch of an epoch is left out where there is a full one before it.
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
            some = augment(examples.pixels, rows, recipe.shift_px, generator, flips)
            yield _as_input(some.to(device)), examples.labels[index]
        mirrored = ~mirrored


def boxed(
    images: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A box of every image replaced by the same box of another: (images, which other, share that is
    still its own).

    images: (n, channels, height, width). The box is one for the batch, its area drawn evenly from
    all shares: CutMix (Yun et al. 2019), but that the box lies inside the image.
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
        labels = examples.labels[start : start + size]
        yield _as_input(examples.pixels[start : start + size].to(labels.device)), labels


def _as_input(pixels: torch.Tensor) -> torch.Tensor:
    # A permuted (n, h, w, c) tensor is channels_last already: no copy beside the cast.
    return pixels.permute(0, 3, 1, 2).float()


def augment(pixels: torch.Tensor | Mapped, index: torch.Tensor, shift_px: int,
            generator: torch.Generator,
            flips: torch.Tensor | None = None) -> torch.Tensor:  # fmt: skip
    """pixels[index], each image shifted by whole pixels at random, and mirrored where `flips`, in
    one gather.

    Where an image ends, it is continued as its own mirror image.
    """
    if isinstance(pixels, Mapped):
        pixels, index = pixels[index], torch.arange(len(index))
    lines = []
    for size in pixels.shape[1:3]:
        shifts = torch.randint(-shift_px, shift_px + 1, (len(index), 1), generator=generator)
        position = ((size - 1) - ((size - 1) - (torch.arange(size) + shifts).abs()).abs()).clamp(
            0, size - 1
        )
        lines.append(position.to(pixels.device))
    rows, columns = lines
    if flips is not None:
        columns = torch.where(flips[:, None].to(columns.device), columns.flip(1), columns)
    return pixels[index[:, None, None], rows[:, :, None], columns[:, None, :]]
