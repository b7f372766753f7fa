"""Found -> Stack: everything that a source holds in one uint8 array, at one size.

Files are decoded by threads (Pillow works without the interpreter lock) straight into their
row; whole arrays are brought to 0..255 together.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from convwise.core.problems import Problem, Severity, UnusableInput
from convwise.images import decode, limits, scale
from convwise.images.decode import Pixels
from convwise.images.scale import Scale, Values
from convwise.images.sources import Block, Found, Item
from convwise.images.sources.arrays import pixels_of
from convwise.images.sources.found import counted
from convwise.images.splits import TEST, TRAIN, VALID

PART_CODES = {None: TRAIN, "train": TRAIN, "valid": VALID, "test": TEST}
THREADS = min(32, os.cpu_count() or 1)
DARK = 16  # 8 bits of pictures of 16 that use 12 of them or fewer
CHUNK = 256  # rows that one thread takes at a time

A = TypeVar("A")
B = TypeVar("B")
Origin = Callable[[], Pixels] | None  # gives a picture as it was decoded; None where the stack holds it as it was


@dataclass(frozen=True)
class Stack:
    """All readable images. pixels (n, h, w, c); labels (n,) text, or floats; parts (n,) TRAIN, VALID or TEST;

    groups (n,): the same number where the pixels, as decoded, are the same; sizes, modes: how
    many images of each size (height, width) and Pillow mode; unreadable: name -> reason;
    scale: what brought the source's values to 0..255; origins (n,), or none where no picture was
    resized: from them other sizes are made, so that no picture is ever resized twice.
    """

    pixels: Pixels
    labels: NDArray[Any]
    parts: NDArray[np.int64]
    names: tuple[str, ...]
    groups: NDArray[np.int64]
    sizes: Counter[tuple[int, int]]
    modes: Counter[str]
    problems: tuple[Problem, ...] = ()
    unreadable: dict[str, str] = field(default_factory=dict)
    scale: Scale = Scale(0, 1)
    origins: tuple[Origin, ...] = ()


def stacked(found: Found, limit_px: int, scratch: Path | None) -> Stack:
    """Decode everything; raises UnusableInput where nothing is readable or an array holds NaN."""
    return _from_files(found, limit_px, scratch) if found.items else _from_blocks(found, limit_px, scratch)


def filled(shape: Sequence[int], fill: Callable[[Pixels], None], file: Path | None) -> Pixels:
    """A uint8 array that `fill` has written: in memory, or mapped from `file` (changes never reach the disk)."""
    if file is None or 0 in shape:
        out = np.empty(shape, np.uint8)
        fill(out)
        return out
    file.parent.mkdir(parents=True, exist_ok=True)
    # Another process may have the file mapped: it keeps the old one, and never sees half of the new.
    draft = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
    mapped = np.lib.format.open_memmap(draft, mode="w+", dtype=np.uint8, shape=tuple(shape))  # type: ignore[no-untyped-call, unused-ignore]
    _reserve(draft)
    fill(mapped)
    mapped.flush()
    os.replace(draft, file)
    loaded: Pixels = np.load(file, mmap_mode="c")
    return loaded


def _reserve(file: Path) -> None:
    """Take the room of a mapped file now: a disk that is full later ends the process, and no error is raised."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as reserved:
            try:
                os.posix_fallocate(reserved.fileno(), 0, file.stat().st_size)
            except OSError:
                file.unlink()
                raise


def resized(pixels: Pixels, height: int, width: int, file: Path | None = None, origins: Sequence[Origin] = (),
            way: decode.Way = decode.SMOOTH) -> Pixels:  # fmt: skip
    """All images (n, h, w, c) as (n, height, width, c), with decode.resize, each from its origin where it has one."""

    def fill(out: Pixels) -> None:
        def some(rows: slice) -> None:
            for row in range(rows.start, rows.stop):
                origin = origins[row] if origins else None
                out[row] = decode.resize(origin() if origin else pixels[row], height, width, way)

        each(some, chunks(len(pixels)))

    return filled((len(pixels), height, width, pixels.shape[3]), fill, file)


def chunks(count: int) -> list[slice]:
    """0 to count in slices of at most CHUNK."""
    return [slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def each(work: Callable[[A], B], things: Iterable[A]) -> list[B]:
    """[work(thing) for thing in things], by threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, things))


def _base(sizes: Counter[tuple[int, int]], limit_px: int) -> tuple[int, int]:
    """The median height and width, the longer one reduced to limit_px."""
    counts = list(sizes.values())
    height, width = (float(np.median(np.repeat([size[axis] for size in sizes], counts))) for axis in (0, 1))
    scale = min(1.0, limit_px / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _groups(digests: Iterable[bytes]) -> NDArray[np.int64]:
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(digest, len(numbers)) for digest in digests], np.int64)


# --- files ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """A file whose header could be read, and then what its pixels were like."""

    item: Item
    header: decode.Header
    digest: bytes = b""
    gray: bool = False
    peak: int = 0  # of its pixels
    scale: Scale | None = None  # of its set, where it has values of more than 8 bits

    @property
    def wide(self) -> bool:
        return self.header.mode in decode.WIDE_MODES


def _from_files(found: Found, limit_px: int, scratch: Path | None) -> Stack:
    opened = each(_opened, found.items)
    unreadable = {item.name: file for item, file in zip(found.items, opened, strict=True) if isinstance(file, str)}
    files = [file for file in opened if isinstance(file, _File)]
    _refuse_empty(found.name, files, unreadable)
    files, scales = _scaled(found.name, files)
    base = _base(Counter((file.header.height, file.header.width) for file in files), limit_px)
    channels = 1 if all(file.header.mode in decode.GRAY_MODES for file in files) else 3
    read: list[_File | str] = []

    def fill(out: Pixels) -> None:
        read.extend(each(lambda row: _decoded(files[row], out[row]), range(len(files))))

    pixels = filled((len(files), *base, channels), fill, scratch)
    unreadable |= {file.item.name: end for file, end in zip(files, read, strict=True) if isinstance(end, str)}
    good = [row for row, end in enumerate(read) if isinstance(end, _File)]
    files = [end for end in read if isinstance(end, _File)]
    _refuse_empty(found.name, files, unreadable)
    pixels = pixels if len(good) == len(pixels) else pixels[good]
    pixels = pixels[..., :1] if all(file.gray for file in files) else pixels
    stack = _stack_of(found, files, pixels, unreadable)
    chosen = next((file.scale for file in files if file.scale), Scale(0, 1))
    return replace(stack, scale=chosen, problems=(*stack.problems, *scales))


def _stack_of(found: Found, files: Sequence[_File], pixels: Pixels, unreadable: dict[str, str]) -> Stack:
    return Stack(
        pixels,
        np.array([file.item.label for file in files]),
        np.array([PART_CODES[file.item.part] for file in files]),
        tuple(file.item.name for file in files),
        _groups(file.digest for file in files),
        Counter((file.header.height, file.header.width) for file in files),
        Counter(file.header.mode for file in files),
        (*found.problems, *_file_problems(found.name, files, pixels.shape[3])),
        unreadable,
        origins=_origins(files, pixels.shape),
    )


def _origins(files: Sequence[_File], shape: tuple[int, ...]) -> tuple[Origin, ...]:
    whole = [(file.header.height, file.header.width) == shape[1:3] for file in files]
    if all(whole):
        return ()
    return tuple(None if as_is else partial(_again, file, shape[3]) for as_is, file in zip(whole, files, strict=True))


def _again(file: _File, channels: int) -> Pixels:
    """The picture as it was decoded first; UnusableInput where the file is another by now."""
    try:
        with _BUDGET.of(file.header):
            picture = decode.decode(encoded(file.item), file.scale)
        changed = picture.digest() != file.digest
    except Exception:  # decoders fail in many ways; what could be read before is another file now
        changed = True
    if changed:
        raise UnusableInput(file.item.name, "was changed while it was learnt from", "the same file", "start again")
    return decode.with_channels(picture.pixels, channels)


def _opened(item: Item) -> _File | str:
    try:
        with item.open() as stream:
            return _File(item, decode.header(stream))
    except Exception as error:  # decoders fail in many ways; all mean: this file cannot be read
        return decode.explain(error)


def _scaled(where: str, files: Sequence[_File]) -> tuple[list[_File], list[Problem]]:
    """The files with the one scale of all that have more than 8 bits, and what is said of it."""
    wide = [file for file in files if file.wide]
    parts: dict[str, Values] = {}
    for file, values in zip(wide, each(_values, wide), strict=True):
        part = file.item.part or "train"
        if values:
            parts[part] = parts[part] + values if part in parts else values
    if not parts:
        return list(files), []
    chosen, together = scale.decided(where, parts)
    problems = _scale_problems(where, wide, len(files), together)
    return [replace(file, scale=chosen) if file.wide else file for file in files], problems


def _values(file: _File) -> Values | None:
    try:
        with _BUDGET.of(file.header):
            return Values.of(decode.wide_values(encoded(file.item)))
    except Exception:  # told of when it is decoded
        return None


def _scale_problems(where: str, wide: Sequence[_File], count: int, values: Values) -> list[Problem]:
    (low, high), names = values.range, ", ".join(file.item.name for file in wide[:3]) + ", ..." * (len(wide) > 3)
    cut = f"; {counted(values.count_outside, 'value')} outside of it cut" if values.count_outside else ""
    problems = []
    if len(wide) < count:
        what = f"{len(wide)} images of more than 8 bits among {count} ({names})"
        problems.append(Problem(where, what, "all of one kind", "save all alike", "warning", len(wide)))
    kind = "of 16 bits" if values.whole else "with float values"
    severity: Severity = "warning"
    how = f"{low:g}..{high:g} was brought to 0..255, for all alike{cut}"
    if (low, high) == (0, 2**16 - 1):
        how, severity = f"reduced to 8{cut}", "note"
    elif values.whole and low == 0 and values.range in scale.WHOLE:
        how = f"use only {int(high).bit_length()} bits and would become very dark: {how}"
    what = f"{counted(len(wide), 'image')} {kind} {how} ({names})"
    return [*problems, Problem(where, what, severity=severity, count=len(wide))]


def encoded(item: Item) -> bytes:
    """The bytes of a file; ValueError where they are too many for one image."""
    with item.open() as stream:
        data = stream.read(limits.FILE + 1)
    if len(data) > limits.FILE:
        raise ValueError(f"over {limits.size(limits.FILE)}, the limit for one image")
    return data


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


_BUDGET = _Budget(limits.AT_ONCE)


def _decoded(file: _File, row: Pixels) -> _File | str:
    """Decode into `row` (height, width, channels of the stack)."""
    try:
        with _BUDGET.of(file.header):
            picture = decode.decode(encoded(file.item), file.scale)
            row[:] = decode.resize(decode.with_channels(picture.pixels, row.shape[2]), *row.shape[:2])
            gray, peak = picture.pixels.shape[2] == 1, int(picture.pixels.max()) if file.header.deep else 0
            digest = picture.digest()
            del picture  # before another thread takes its place
        return replace(file, digest=digest, gray=gray, peak=peak)
    except Exception as error:
        return decode.explain(error)


def _refuse_empty(where: str, files: Sequence[_File], unreadable: dict[str, str]) -> None:
    if not files:
        shown = "; ".join(f"{name} ({reason})" for name, reason in list(unreadable.items())[:3])
        what = f"none of {len(unreadable)} images can be read: {shown}"
        raise UnusableInput(where, what, f"image files ({', '.join(decode.FORMATS)})", "check the files")


def _file_problems(where: str, files: Sequence[_File], channels: int) -> Iterator[Problem]:
    def note(those: Sequence[_File], what: str, fix: str = "", severity: Severity = "note") -> Iterator[Problem]:
        if those:
            names = ", ".join(file.item.name for file in those[:3]) + (", ..." if len(those) > 3 else "")
            text = f"{counted(len(those), 'image')} {what} ({names})"
            yield Problem(where, text, fix=fix, severity=severity, count=len(those))

    yield from note([f for f in files if f.header.alpha], "with transparency laid over white")
    yield from note([f for f in files if f.header.several_frames], "with several frames: the first was taken")
    yield from note([f for f in files if f.header.mode == "CMYK"], "in CMYK turned into RGB without a colour profile")
    deep = [file for file in files if file.header.deep]
    if deep and max(file.peak for file in deep) < DARK:
        fix = "scale the values to 0..65535, or save as 8 bits"
        yield from note(deep, "of 16 bits a channel use 12 of them or fewer, and become very dark", fix, "warning")
    else:
        yield from note(deep, "of 16 bits a channel reduced to 8")
    if channels == 1:
        colour = [file for file in files if file.header.mode not in decode.GRAY_MODES]
        yield from note(colour, "stored in colour hold only gray, as all others: one channel is used")
    gray = sum(file.gray for file in files)
    if channels == 3 and gray:
        what = f"{counted(gray, 'gray image')} among {len(files)}"
        fix = "gray was repeated in three channels; check that colour does not give the class away"
        yield Problem(where, what, "all gray or all colour", fix, severity="warning", count=gray)


# --- arrays --------------------------------------------------------------------------------------


def _from_blocks(found: Found, limit_px: int, scratch: Path | None) -> Stack:
    blocks = [block for block in found.blocks if len(block.labels)]
    if not blocks:
        raise UnusableInput(found.name, "the arrays hold no image", "at least two classes of images")
    chosen, problems = _scale(found.name, blocks)
    arrays = [_eight_bits(block.pixels, chosen) for block in blocks]
    arrays = _same_channels(arrays)
    sizes = Counter({array.shape[1:3]: 0 for array in arrays})
    for array in arrays:
        sizes[array.shape[1:3]] += len(array)
    height, width = _base(sizes, limit_px)
    small = [array if array.shape[1:3] == (height, width) else resized(array, height, width) for array in arrays]
    pixels = small[0] if len(small) == 1 else np.concatenate(small)
    modes: Counter[str] = Counter()
    for block, array in zip(blocks, arrays, strict=True):
        modes[_mode(block.pixels)] += len(array)
    return Stack(
        pixels,
        np.concatenate([block.labels for block in blocks]),
        np.repeat([PART_CODES[block.part] for block in blocks], [len(block.labels) for block in blocks]),
        tuple(f"{block.part or 'images'}/{index}" for block in blocks for index in range(len(block.labels))),
        _groups(digest for array in arrays for digest in _digests(array)),
        sizes,
        modes,
        (*found.problems, *problems),
        scale=chosen,
        origins=_origins_of(arrays, (height, width)),
    )


def _origins_of(arrays: Sequence[Pixels], size: tuple[int, int]) -> tuple[Origin, ...]:
    if all(array.shape[1:3] == size for array in arrays):
        return ()
    rows = [(array, row) for array in arrays for row in range(len(array))]
    return tuple(None if array.shape[1:3] == size else partial(array.__getitem__, row) for array, row in rows)


def as_learnt(where: str, images: Any, learnt: Scale) -> Pixels:
    """Images in memory as uint8 (n, h, w, 1 or 3), by the scale of the images that were learnt from.

    UnusableInput where their values are plainly on another scale.
    """
    array = pixels_of(where, images)
    if not len(array) or (array.ndim == 3 and array.shape[2] in (1, 3, 4)):
        shown = "no image" if not len(array) else f"one image {array.shape}"
        raise UnusableInput(where, f"holds {shown}", "(n, height, width, channels)", "one image is images[None]")
    _refuse_gaps(where, array)
    low, high = float(array.min()), float(array.max())
    top = learnt.back(255)
    faint = (array.dtype.kind in "bf" and 0 < high <= 1 < top) or (array.dtype == np.uint8 and top > scale.APART * 255)
    if faint or low < learnt.back(-255) or high > learnt.back(2 * 255):
        expected = f"the range of the images it learnt from, {learnt.back(0):g} to {top:g}"
        raise UnusableInput(where, f"values from {low:g} to {high:g}", expected, "scale them as those were")
    return _eight_bits(array, learnt)


def _scale(where: str, blocks: Sequence[Block]) -> tuple[Scale, list[Problem]]:
    """One scale for all parts; raises UnusableInput for NaN, and for parts that are on different ones."""
    for block in blocks:
        _refuse_gaps(where, block.pixels)
    chosen, values = scale.decided(where, {block.part or "images": Values.of(block.pixels) for block in blocks})
    return chosen, scale.told(where, values)


def _refuse_gaps(where: str, array: NDArray[Any]) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.count_nonzero(~np.isfinite(array)))
        raise UnusableInput(where, f"{bad} pixel values are NaN or infinite", "finite numbers", "remove those images")


def _eight_bits(array: NDArray[Any], scale: Scale) -> Pixels:
    """(n, h, w[, 1 to 4]) of any number type as uint8 (n, h, w, 1 or 3)."""
    array = array if array.ndim == 4 else array[..., None]
    if array.dtype != np.uint8 or scale != Scale(0, 1):
        out = np.empty(array.shape, np.uint8)
        for rows in chunks(len(array)):  # float copies of all images at once could fill the memory
            out[rows] = scale.eight_bits(array[rows])
        array = out
    return decode.without_alpha(array)


def _same_channels(arrays: Sequence[Pixels]) -> list[Pixels]:
    gray = all(array.shape[3] == 1 or decode.is_gray(array) for array in arrays)
    return [array[..., :1] if gray else decode.with_channels(array, 3) for array in arrays]


def _digests(array: Pixels) -> Iterator[bytes]:
    return (decode.digest(image) for image in np.ascontiguousarray(array))


def _mode(array: NDArray[Any]) -> str:
    channels = array.shape[3] if array.ndim == 4 else 1
    return {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels] + ("" if array.dtype == np.uint8 else f" {array.dtype}")
