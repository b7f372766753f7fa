"""Everything that a source holds, as uint8 of one size: arrays, and what files share with them."""

from __future__ import annotations

import os
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from convwise.core.cores import cores
from convwise.core.mapped import at_rest
from convwise.core.problems import Problem, UnusableInput
from convwise.images import decode, limits, value_range
from convwise.images.decode import Pixels
from convwise.images.sources import Block, Found
from convwise.images.sources.arrays import pixels_of
from convwise.images.splits import TEST, TRAIN, VALID
from convwise.images.value_range import ValueRange, Values

PART_CODES = {None: TRAIN, "train": TRAIN, "valid": VALID, "test": TEST}
THREADS = min(32, cores())
CHUNK = 256  # rows that one thread takes at a time

A = TypeVar("A")
B = TypeVar("B")


class Original(Protocol):
    """A picture as it was decoded."""

    def __call__(self) -> Pixels: ...

    def at(
        self, height: int, width: int, way: decode.Way, also: Sequence[decode.Way] = ()
    ) -> Pixels:
        """Resized, once; also: other ways that will be asked for."""
        ...

    def with_channels(self, channels: int) -> Original: ...

    def flush(self) -> None:
        """Make known to other runs what has been resized."""
        ...


Origin = Original | None  # None where the stack holds the picture as it was


class Rows(Protocol):
    """Pictures of one size, in memory or where they are kept until they are taken."""

    @property
    def shape(self) -> Any: ...  # (n, h, w, c)

    def __getitem__(self, rows: NDArray[np.int64] | int, /) -> Pixels: ...


@dataclass(frozen=True)
class Stack:
    """All readable images. pixels (n, h, w, c), taken by rows; labels (n,) text, or floats, (n, k)
    of several numbers.

    parts (n,): TRAIN, VALID or TEST; groups (n,): the same number where the pixels, as decoded, are
    the same; sizes, modes: how many images of each size (height, width) and Pillow mode;
    unreadable: name -> reason; scale: what brought the source's values to 0..255; origins (n,), or
    none where no picture was resized: from them other sizes are made, so that no picture is ever
    resized twice; shapes (n, 2): height and width of each as decoded; thumbnails (n, values):
    decode.thumbnail of each of `pixels`, or none where it costs nothing to make them; families
    (n,): the same number where the source says that images belong together, if it says that of any.
    """

    pixels: Rows
    labels: NDArray[Any]
    parts: NDArray[np.int64]
    names: tuple[str, ...]
    groups: NDArray[np.int64]
    sizes: Counter[tuple[int, int]]
    modes: Counter[str]
    problems: tuple[Problem, ...] = ()
    unreadable: dict[str, str] = field(default_factory=dict)
    value_range: ValueRange = ValueRange(0, 1)
    origins: tuple[Origin, ...] = ()
    shapes: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    thumbnails: Pixels | None = None
    families: NDArray[np.int64] | None = None


def filled(shape: Sequence[int], fill: Callable[[Pixels], None], file: Path | None) -> Pixels:
    """A uint8 array that `fill` has written: in memory, or mapped from `file` (changes never reach
    the disk).
    """
    if file is None or 0 in shape:
        out = np.empty(shape, np.uint8)
        fill(out)
        return out
    file.parent.mkdir(parents=True, exist_ok=True)
    # Another process may have the file mapped: it keeps the old one, and never sees half of the
    # new.
    draft = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
    mapped = np.lib.format.open_memmap(draft, mode="w+", dtype=np.uint8, shape=tuple(shape))  # type: ignore[no-untyped-call, unused-ignore]
    _reserve(draft)
    fill(mapped)
    mapped.flush()
    os.replace(draft, file)
    loaded: Pixels = np.load(file, mmap_mode="c")
    return loaded


def _reserve(file: Path) -> None:
    """Take the room of a mapped file now: a disk that is full later ends the process, and no error
    is raised.
    """
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as reserved:
            try:
                os.posix_fallocate(reserved.fileno(), 0, file.stat().st_size)
            except OSError:
                file.unlink()
                raise


def resized(pixels: Pixels, height: int, width: int, file: Path | None = None,
            origins: Sequence[Origin] = (), ways: Sequence[decode.Way] = (decode.SMOOTH,),
            stretched: bool = False) -> Pixels:  # fmt: skip
    """All images (n, h, w, c) as (n, height, width, c), with decode.resize, each from its origin
    where it has one.

    ways: that of these, and others that will be asked for: nothing is decoded once more for them.
    stretched: those that have the size already go through decode.stretched.
    """
    way, *also = ways
    stretched = stretched and pixels.shape[1:3] == (height, width)

    def fill(out: Pixels) -> None:
        def some(rows: slice) -> None:
            for row in range(rows.start, rows.stop):
                origin = origins[row] if origins else None
                small = origin.at(height, width, way, also) if origin else None
                if small is None and stretched:
                    small = decode.stretched(pixels[row])
                elif small is None:
                    small = decode.resize(pixels[row], height, width, way)
                out[row] = small
            at_rest(pixels)
            at_rest(out)

        each(some, chunks(len(pixels)))
        for origin in {type(origin): origin for origin in origins if origin}.values():
            origin.flush()

    return filled((len(pixels), height, width, pixels.shape[3]), fill, file)


def chunks(count: int) -> list[slice]:
    """0 to count in slices of at most CHUNK."""
    return [slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def each(work: Callable[[A], B], things: Iterable[A]) -> list[B]:
    """[work(thing) for thing in things], by threads."""
    return some(lambda few: [work(thing) for thing in few], list(things))


def some(work: Callable[[Sequence[A]], list[B]], things: Sequence[A]) -> list[B]:
    """The results of work on some of the things at a time, one after the other, by threads."""
    # To hand one small picture to a thread costs as much as to decode it
    step = min(64, len(things) // (8 * THREADS) + 1)
    few = [things[start : start + step] for start in range(0, len(things), step)]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(chain.from_iterable(pool.map(work, few)))


def base_size(sizes: Counter[tuple[int, int]], limit_px: int) -> tuple[int, int]:
    """The median height and width, the longer one reduced to limit_px."""
    counts = list(sizes.values())
    height, width = (
        float(np.median(np.repeat([size[axis] for size in sizes], counts))) for axis in (0, 1)
    )
    scale = min(1.0, limit_px / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def grouped(digests: Iterable[bytes]) -> NDArray[np.int64]:
    """The same number for the same digest."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(digest, len(numbers)) for digest in digests], np.int64)


class _Budget:
    """Lets so many pixels be decoded at once, by all threads together; one picture always may."""

    def __init__(self, most: int) -> None:
        self._most, self._used, self._freed = most, 0, threading.Condition()

    @contextmanager
    def of(self, header: decode.Header) -> Iterator[None]:
        """Waits until there is room for a picture of this size."""
        pixels = min(header.height * header.width, self._most)
        with self._freed:
            self._freed.wait_for(lambda: self._used + pixels <= self._most)
            self._used += pixels
        try:
            yield
        finally:
            with self._freed:
                self._used -= pixels
                self._freed.notify_all()


BUDGET = _Budget(limits.AT_ONCE)


# --- arrays --------------------------------------------------------------------------------------


def of_arrays(found: Found, limit_px: int) -> Stack:
    """All images of the arrays; UnusableInput where there is none, or one holds NaN."""
    blocks = [block for block in found.blocks if len(block.labels)]
    if not blocks:
        raise UnusableInput(
            found.name, "the arrays hold no image", "at least two classes of images"
        )
    chosen, problems = _value_range(found.name, blocks)
    arrays = [_eight_bits(block.pixels, chosen) for block in blocks]
    gray = all(array.shape[3] == 1 or decode.is_gray(array) for array in arrays)
    arrays = [array[..., :1] if gray else decode.with_channels(array, 3) for array in arrays]
    sizes = Counter({array.shape[1:3]: 0 for array in arrays})
    for array in arrays:
        sizes[array.shape[1:3]] += len(array)
    height, width = base_size(sizes, limit_px)
    small = [
        array if array.shape[1:3] == (height, width) else resized(array, height, width)
        for array in arrays
    ]
    pixels = small[0] if len(small) == 1 else np.concatenate(small)
    modes: Counter[str] = Counter()
    for block, array in zip(blocks, arrays, strict=True):
        modes[_mode(block.pixels)] += len(array)
    return Stack(
        pixels,
        np.concatenate([block.labels for block in blocks]),
        np.repeat(
            [PART_CODES[block.part] for block in blocks], [len(block.labels) for block in blocks]
        ),
        tuple(
            f"{block.part or 'images'}/{index}"
            for block in blocks
            for index in range(len(block.labels))
        ),
        grouped(decode.digest(image) for array in arrays for image in np.ascontiguousarray(array)),
        sizes,
        modes,
        (*found.problems, *problems),
        value_range=chosen,
        origins=_origins_of(arrays, (height, width)),
        shapes=np.repeat(
            [array.shape[1:3] for array in arrays], [len(array) for array in arrays], axis=0
        ),
    )


@dataclass(frozen=True)
class _InArray:
    """A picture of an array, with its channels or with as many."""

    array: Pixels
    row: int
    channels: int

    def __call__(self) -> Pixels:
        return decode.with_channels(self.array[self.row], self.channels)

    def at(
        self, height: int, width: int, way: decode.Way, also: Sequence[decode.Way] = ()
    ) -> Pixels:
        return decode.resize(self(), height, width, way)

    def with_channels(self, channels: int) -> Original:
        return replace(self, channels=channels)

    def flush(self) -> None:
        """Nothing is kept of arrays."""


def _origins_of(arrays: Sequence[Pixels], size: tuple[int, int]) -> tuple[Origin, ...]:
    if all(array.shape[1:3] == size for array in arrays):
        return ()
    rows = [(array, row) for array in arrays for row in range(len(array))]
    return tuple(
        None if array.shape[1:3] == size else _InArray(array, row, array.shape[3])
        for array, row in rows
    )


def as_learnt(where: str, images: Any, learnt: ValueRange) -> Pixels:
    """Images in memory as uint8 (n, h, w, 1 or 3), by the scale of the images that were learnt
    from.

    UnusableInput where their values are plainly on another scale.
    """
    array = pixels_of(where, images)
    if not len(array) or (array.ndim == 3 and array.shape[2] in (1, 3, 4)):
        shown = "no image" if not len(array) else f"one image {array.shape}"
        raise UnusableInput(
            where, f"holds {shown}", "(n, height, width, channels)", "one image is images[None]"
        )
    _refuse_gaps(where, array)
    low, high = float(array.min()), float(array.max())
    top = learnt.back(255)
    faint = (array.dtype.kind in "bf" and 0 < high <= 1 < top) or (
        array.dtype == np.uint8 and top > value_range.APART * 255
    )
    if faint or low < learnt.back(-255) or high > learnt.back(2 * 255):
        expected = f"the range of the images it learnt from, {learnt.back(0):g} to {top:g}"
        raise UnusableInput(
            where, f"values from {low:g} to {high:g}", expected, "scale them in the same way"
        )
    return _eight_bits(array, learnt)


def _value_range(where: str, blocks: Sequence[Block]) -> tuple[ValueRange, list[Problem]]:
    """One scale for all parts; UnusableInput for NaN, and for parts on different scales."""
    for block in blocks:
        _refuse_gaps(where, block.pixels)
    chosen, values = value_range.decided(
        where, {block.part or "images": Values.of(block.pixels) for block in blocks}
    )
    return chosen, value_range.told(where, values)


def _refuse_gaps(where: str, array: NDArray[Any]) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.count_nonzero(~np.isfinite(array)))
        raise UnusableInput(
            where,
            f"{bad} pixel values are NaN or infinite",
            "finite numbers",
            "remove those images",
        )


def _eight_bits(array: NDArray[Any], value_range: ValueRange) -> Pixels:
    """(n, h, w[, 1 to 4]) of any number type as uint8 (n, h, w, 1 or 3)."""
    array = array if array.ndim == 4 else array[..., None]
    if array.dtype != np.uint8 or value_range != ValueRange(0, 1):
        out = np.empty(array.shape, np.uint8)
        for rows in chunks(len(array)):  # float copies of all images at once could fill the memory
            out[rows] = value_range.eight_bits(array[rows])
        array = out
    return decode.without_alpha(array)


def _mode(array: NDArray[Any]) -> str:
    channels = array.shape[3] if array.ndim == 4 else 1
    return {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels] + (
        "" if array.dtype == np.uint8 else f" {array.dtype}"
    )
