"""Found -> Stack: everything that a source holds in one uint8 array, at one size.

Files are decoded by threads (Pillow works without the interpreter lock) straight into their
row; whole arrays are brought to 0..255 together.
"""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from convwise import decode
from convwise.core.problems import Problem, UnusableInput
from convwise.decode import Pixels
from convwise.sources import Block, Found, Item
from convwise.splits import TEST, TRAIN, VALID

PART_CODES = {None: TRAIN, "train": TRAIN, "valid": VALID, "test": TEST}
THREADS = min(32, os.cpu_count() or 1)
CHUNK = 256  # rows that one thread takes at a time
DARK = 4096  # 16-bit pictures whose values all stay below this use 12 bits or fewer

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Stack:
    """All readable images. pixels (n, h, w, c); labels (n,) text; parts (n,) TRAIN, VALID or TEST;

    groups (n,): the same number where the pixels, as decoded, are the same; sizes, modes: how
    many images of each size (height, width) and Pillow mode; unreadable: name -> reason.
    """

    pixels: Pixels
    labels: NDArray[np.str_]
    parts: NDArray[np.int64]
    names: tuple[str, ...]
    groups: NDArray[np.int64]
    sizes: Counter[tuple[int, int]]
    modes: Counter[str]
    problems: tuple[Problem, ...] = ()
    unreadable: dict[str, str] = field(default_factory=dict)


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
    fill(mapped)
    mapped.flush()
    os.replace(draft, file)
    loaded: Pixels = np.load(file, mmap_mode="c")
    return loaded


def resized(pixels: Pixels, height: int, width: int, file: Path | None = None) -> Pixels:
    """All images (n, h, w, c) as (n, height, width, c), with decode.resize."""

    def fill(out: Pixels) -> None:
        def some(rows: slice) -> None:
            for row in range(rows.start, rows.stop):
                out[row] = decode.resize(pixels[row], height, width)

        each(some, chunks(len(pixels)))

    return filled((len(pixels), height, width, pixels.shape[3]), fill, file)


def chunks(count: int) -> list[slice]:
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
class _Row:
    """What is kept of a decoded file beside its pixels."""

    digest: bytes
    gray: bool
    peak: float


def _from_files(found: Found, limit_px: int, scratch: Path | None) -> Stack:
    items, headers, unreadable = _readable(found.items, each(_header, found.items))
    _refuse_empty(found, items, unreadable)
    height, width = _base(Counter((head.height, head.width) for head in headers), limit_px)
    channels = 1 if all(head.mode in decode.GRAY_MODES for head in headers) else 3
    rows: list[_Row | str] = []

    def fill(out: Pixels) -> None:
        def one(row: int) -> _Row | str:
            return _decoded(items[row], out[row])

        rows.extend(each(one, range(len(items))))

    pixels = filled((len(items), height, width, channels), fill, scratch)
    kept, heads, failed = _readable(list(zip(items, headers, range(len(items)), strict=True)), rows)
    unreadable |= {item.name: str(reason) for (item, _, _), reason in failed.items()}
    _refuse_empty(found, kept, unreadable)
    if failed:
        pixels = pixels[[row for _, _, row in kept]]
    if all(head.gray for head in heads):
        pixels = pixels[..., :1]
    items, headers = [item for item, _, _ in kept], [head for _, head, _ in kept]
    return Stack(
        pixels,
        np.array([item.label for item in items]),
        np.array([PART_CODES[item.part] for item in items]),
        tuple(item.name for item in items),
        _groups(head.digest for head in heads),
        Counter((head.height, head.width) for head in headers),
        Counter(head.mode for head in headers),
        (*_file_problems(found.name, items, headers, heads),),
        unreadable,
    )
