"""Found -> Stack, of files: each is decoded once, by threads (Pillow works without the interpreter
lock), and kept.

What is kept of each stands in shelves.py; small pictures of one size are taken many at a time, as
plain_jpeg.py does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from convwise.core.problems import Problem, UnusableInput
from convwise.images import decode, limits, plain_jpeg, remarks, stack, value_range
from convwise.images.decode import Pixels
from convwise.images.shelves import HEAD, File, Shelves, with_header
from convwise.images.sources import Found, Item
from convwise.images.stack import Stack
from convwise.images.store import Shelf, Store
from convwise.images.value_range import ValueRange, Values

READ = 1 << 16  # bytes of a file, at first
MANY, A_FEW = 64, 16  # files; those that are asked for the size of all
A = TypeVar("A")
B = TypeVar("B")


def resized(
    file: File, shelves: Shelves, height: int, width: int, *ways: decode.Way
) -> tuple[File, list[Pixels]]:
    """The file, as it is then, and its picture (height, width, 1 or 3) in each of the ways.

    What was kept is taken, and the rest made of the picture, which is decoded once. Raises whatever
    the decoder raises.
    """
    on = [shelves.at(height, width, way) for way in ways]
    kept = [shelf.get(file.key) if file.key else None for shelf in on]
    if all(kept):
        return _unpacked(file, kept, height, width)
    with stack.BUDGET.of(file.header):
        picture = decode.decode(encoded(file.item), file.value_range)
        small = [picture.resized(height, width, way) for way in ways]
        found = file.with_picture(picture)
        del picture  # before another thread takes its place
    for shelf, old, pixels in zip(on, kept, small, strict=True):
        if old is None:
            found.keep(shelf, pixels)
    return found, small


def _unpacked(
    file: File, kept: Sequence[bytes | None], height: int, width: int
) -> tuple[File, list[Pixels]]:
    pixels = []
    for value in kept:
        assert value is not None
        digest, peak, channels = HEAD.unpack_from(value)
        flat = np.frombuffer(value, np.uint8, offset=HEAD.size)
        pixels.append(flat.reshape(height, width, channels))
    return replace(file, digest=digest, gray=channels == 1, peak=peak), pixels


def prepared(
    item: Item, shelves: Shelves, shape: tuple[int, int, int], value_range: ValueRange | None
) -> Pixels:
    """The picture of an item as (height, width, channels), kept, or else decoded once.

    value_range: of values of more than 8 bits. Raises whatever the decoder raises.
    """
    file = replace(with_header(shelves, item), value_range=value_range)
    height, width, channels = shape
    found, (pixels,) = resized(file, shelves, height, width, decode.SMOOTH)
    if channels == 1 and not found.gray:
        return InFile(found, shelves, channels).at(height, width, decode.SMOOTH)
    return decode.with_channels(pixels, channels)


@dataclass(frozen=True)
class _Kept:
    """The pictures of some files at one size, taken from their shelf by one or several rows."""

    files: Sequence[File]
    shelves: Shelves
    shape: tuple[int, int, int, int]

    def __getitem__(self, rows: NDArray[np.int64] | int) -> Pixels:
        if not isinstance(rows, np.ndarray):
            return np.asarray(self[np.array([rows])][0])
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)

        def fill(place: int) -> None:
            file = self.files[rows[place]]
            try:
                found, (pixels,) = resized(file, self.shelves, *self.shape[1:3], decode.SMOOTH)
            except Exception:  # it could be read before
                raise changed(file) from None
            if found.digest != file.digest:
                raise changed(file)
            out[place] = decode.with_channels(pixels, self.shape[3])

        stack.each(fill, range(len(rows)))
        return out


@dataclass(frozen=True)
class InFile:
    """The picture of a file, as it was decoded first, with so many channels."""

    file: File
    shelves: Shelves
    channels: int

    def __call__(self) -> Pixels:
        """UnusableInput where the file is another by now."""
        try:
            with stack.BUDGET.of(self.file.header):
                picture = decode.decode(encoded(self.file.item), self.file.value_range)
            same = picture.digest() == self.file.digest
        except Exception:  # decoders fail in many ways: what could be read is another file now
            same = False
        if not same:
            raise changed(self.file)
        return decode.with_channels(picture.pixels, self.channels)

    def at(
        self, height: int, width: int, way: decode.Way, also: Sequence[decode.Way] = ()
    ) -> Pixels:
        """UnusableInput where the file is another by now."""
        if self.channels == 1 and not self.file.gray:  # colour becomes gray before it is resized
            return decode.resize(self(), height, width, way)
        try:
            found, (pixels, *_) = resized(self.file, self.shelves, height, width, way, *also)
        except Exception:  # as above
            raise changed(self.file) from None
        if found.digest != self.file.digest:
            raise changed(self.file)
        return decode.with_channels(pixels, self.channels)

    def with_channels(self, channels: int) -> InFile:
        return replace(self, channels=channels)

    def flush(self) -> None:
        self.shelves.store.flush()


def changed(file: File) -> UnusableInput:
    """What is raised where a file is not what was read first."""
    what = "changed while the study was learning from it"
    return UnusableInput(file.item.name, what, "the same file", "start again")


@dataclass(frozen=True)
class Pace:
    """In which order files are read, and when that ends.

    order: of all; first: so many are read in any case; late: whether this share of the time for
    reading is over.
    """

    order: Sequence[int]
    first: int = 0
    late: Callable[[float], bool] = lambda share: False

    def each(
        self, work: Callable[[Iterable[A]], list[B]], things: Sequence[A], until: float
    ) -> list[B]:
        """work(things), by threads, of all or of as many as there is time for: the first ones.

        work: takes some things, one by one, and gives as many results.
        """

        def some(places: Sequence[int]) -> list[tuple[list[B], bool]]:
            timely = takewhile(lambda place: place < self.first or not self.late(until), places)
            done = work(things[place] for place in timely)
            return [(done, len(done) == len(places))]

        found: list[B] = []
        for done, whole in stack.some(some, range(len(things))):
            found += done
            if not whole:
                break
        return found


def stacked(
    found: Found, limit_px: int, store: Store, pace: Pace | None = None
) -> tuple[Stack, int]:
    """What can be read of `found`, and how many files were read: fewer where that took too long.

    UnusableInput where nothing is readable, or an array holds NaN.
    """
    if not found.items:
        return stack.of_arrays(found, limit_px), 0
    pace = pace or Pace(range(len(found.items)))
    return _of_files(found, limit_px, Shelves(store, found.place), pace)


def _of_files(found: Found, limit_px: int, shelves: Shelves, pace: Pace) -> tuple[Stack, int]:
    size = _one_size(found.items, limit_px)
    items = [found.items[row] for row in pace.order]
    opened = pace.each(lambda some: _opened(shelves, size, some), items, 1.0 if size else 0.5)
    ends = dict(zip(pace.order, opened, strict=False))
    broken = {row: end for row, end in ends.items() if isinstance(end, str)}
    rows = [row for row, end in ends.items() if isinstance(end, File)]
    files = [file for file in opened if isinstance(file, File)]
    _refuse_empty(found, files, broken)
    files, scales = _scaled(found.name, files)
    sizes = Counter((file.header.height, file.header.width) for file in files)
    height, width = stack.base_size(sizes, limit_px)

    def told(file: File) -> File | str:
        return _or_why(_told, shelves, height, width, file)

    if (height, width) == size:  # each that could be was decoded as it was opened
        read = stack.each(lambda file: file if file.digest else told(file), files)
    else:
        read = pace.each(lambda some: list(map(told, some)), files, 1.0)
    count = len(opened) if len(read) == len(files) else list(pace.order).index(rows[len(read)])
    broken |= {row: end for row, end in zip(rows, read, strict=False) if isinstance(end, str)}
    good = {row: end for row, end in zip(rows, read, strict=False) if isinstance(end, File)}
    files = [good[row] for row in sorted(good)]
    _refuse_empty(found, files, broken)
    shelves.store.flush()
    channels = 1 if all(file.gray for file in files) else 3
    before = set(pace.order[:count])
    unreadable = {found.items[row].name: broken[row] for row in sorted(broken) if row in before}
    pixels = _Kept(files, shelves, (len(files), height, width, channels))
    made = _stack_of(found, files, pixels, unreadable, shelves)
    chosen = next((file.value_range for file in files if file.value_range), ValueRange(0, 1))
    return replace(made, value_range=chosen, problems=(*made.problems, *scales)), count


def _stack_of(found: Found, files: Sequence[File], pixels: _Kept, unreadable: dict[str, str],
              shelves: Shelves) -> Stack:  # fmt: skip
    thumbnails = np.frombuffer(b"".join(file.thumbnail for file in files), np.uint8)
    return Stack(
        pixels,
        np.array([file.item.label for file in files]),
        np.array([stack.PART_CODES[file.item.part] for file in files]),
        tuple(file.item.name for file in files),
        stack.grouped(file.digest for file in files),
        Counter((file.header.height, file.header.width) for file in files),
        Counter(file.header.mode for file in files),
        (*found.problems, *remarks.of_files(found.name, files, pixels.shape[3])),
        unreadable,
        origins=_origins(files, shelves, pixels.shape),
        shapes=np.array([(file.header.height, file.header.width) for file in files]),
        thumbnails=thumbnails.reshape(len(files), -1),
        families=_families([file.item.group for file in files]) if found.grouped else None,
    )


def _families(names: Sequence[str]) -> NDArray[np.int64]:
    """The same number for the same name; what has none is alone."""
    numbers: dict[str | int, int] = {}
    found = (numbers.setdefault(name or row, len(numbers)) for row, name in enumerate(names))
    return np.fromiter(found, np.int64)


def _origins(
    files: Sequence[File], shelves: Shelves, shape: tuple[int, ...]
) -> tuple[stack.Origin, ...]:
    whole = [(file.header.height, file.header.width) == shape[1:3] for file in files]
    if all(whole):
        return ()
    both = zip(whole, files, strict=True)
    return tuple(None if as_is else InFile(file, shelves, shape[3]) for as_is, file in both)


def _one_size(items: Sequence[Item], limit_px: int) -> tuple[int, int] | None:
    """The size (height, width) of all pictures, by a few of them; None if there are more, or large.

    Of many small pictures each is decoded while it is open already, if its size is to stay: to open
    it costs as much.
    """
    if len(items) < MANY:
        return None
    sizes = set()
    for item in items[:: len(items) // A_FEW + 1]:
        with suppress(Exception), item.open() as stream:  # told of later
            header = decode.header(stream)
            sizes.add((header.height, header.width))
    return sizes.pop() if len(sizes) == 1 and max(max(sizes)) <= limit_px else None


@dataclass(frozen=True)
class _Read:
    """What was read of a file at once; data: None where that is not all of it."""

    item: Item
    stamp: str
    data: bytes | None


def _opened(
    shelves: Shelves, size: tuple[int, int] | None, items: Iterable[Item]
) -> list[File | str]:
    """Each file with its header, or why it cannot be read; the items are taken one by one.

    Small files of `size` have with it what their pictures are like, which is kept then.
    """
    if size is None:
        return [_or_why(with_header, shelves, item) for item in items]
    facts, at_size = shelves.facts(*size), shelves.at(*size, decode.SMOOTH)

    def decoded(read: _Read, plain: tuple[decode.Header, decode.Decoded] | None) -> File:
        header, picture = plain or (None, None)
        if plain is None and read.data is not None:
            header, picture = decode.header_and_picture(read.data, size)
        if header is None or picture is None:
            return with_header(shelves, read.item)
        file = File(read.item, header, read.stamp).with_picture(picture)
        file.keep(at_size, picture.pixels)
        return file.keep_facts(facts)

    begun = [_or_why(_read, facts, item) for item in items]
    places = [place for place, each in enumerate(begun) if isinstance(each, _Read)]
    some = [each.data or b"" for each in begun if isinstance(each, _Read)]
    plain = plain_jpeg.pictures(some, size)
    known = {places[row]: found for row, found in plain.items()}
    return [
        _or_why(decoded, each, known.get(place)) if isinstance(each, _Read) else each
        for place, each in enumerate(begun)
    ]


def _or_why(work: Callable[..., A], *about: Any) -> A | str:
    """work(*about), or why that file cannot be read."""
    try:
        return work(*about)
    except Exception as error:  # decoders fail in many ways; all mean: this file cannot be read
        return decode.explain(error, next(filter(None, map(_name, about)), ""))


def _name(about: Any) -> str:
    """What a file is called, of whatever is known of it; '' of anything else."""
    item = about if isinstance(about, Item) else getattr(about, "item", None)
    return item.name if isinstance(item, Item) else ""


def _read(facts: Shelf, item: Item) -> File | _Read:
    stamp = item.stamp()
    if kept := File.kept(item, stamp, None, facts):
        return kept
    with item.open() as stream:
        data = stream.read(READ)
    return _Read(item, stamp, data if len(data) < READ else None)


def _scaled(where: str, files: Sequence[File]) -> tuple[list[File], list[Problem]]:
    """The files with the one scale of all that have more than 8 bits, and what is said of it."""
    wide = [file for file in files if file.wide]
    parts: dict[str, Values] = {}
    measured = zip(wide, stack.each(_values, wide), strict=True)
    wide = []  # those that can be read
    for file, values in measured:
        part = file.item.part or "train"
        if values:
            wide.append(file)
            parts[part] = parts[part] + values if part in parts else values
    if not parts:
        return list(files), []
    chosen, together = value_range.decided(where, parts)
    count = len(wide) + sum(not file.wide for file in files)
    problems = remarks.of_value_range(where, wide, count, together)
    return [replace(file, value_range=chosen) if file.wide else file for file in files], problems


def _values(file: File) -> Values | None:
    try:
        with stack.BUDGET.of(file.header):
            return Values.of(decode.wide_values(encoded(file.item)))
    except Exception:  # told of when it is decoded
        return None


def encoded(item: Item) -> bytes:
    """The bytes of a file; ValueError where they are too many for one image."""
    data = b""
    with item.open() as stream:
        # Not all that is allowed at once: that would take the room for it
        while some := stream.read(max(READ, len(data))):
            data += some
            if len(data) > limits.FILE:
                raise ValueError(f"over {limits.size(limits.FILE)}, the limit for one image")
    return data


def _told(shelves: Shelves, height: int, width: int, file: File) -> File:
    """The file with what its pixels are like, which is kept. Raises what the decoder raises."""
    facts = shelves.facts(height, width)
    if kept := File.kept(file.item, file.stamp, file.value_range, facts):
        return kept
    found, (pixels,) = resized(file, shelves, height, width, decode.SMOOTH)
    return replace(found, thumbnail=decode.thumbnail(pixels)).keep_facts(facts)


def _refuse_empty(found: Found, files: Sequence[File], broken: dict[int, str]) -> None:
    if not files:
        shown = "; ".join(f"{found.items[row].name} ({broken[row]})" for row in sorted(broken)[:3])
        what = f"none of {len(broken)} images can be read: {shown}"
        expected = f"image files ({', '.join(decode.FORMATS)})"
        raise UnusableInput(found.name, what, expected, "check the files")
