"""What is known of a file whose header could be read, and what is kept of it on the shelves of a
store.

On the shelf of its size stands what a picture became by its one resize, in its own channels, so
that other sets, commands and runs find it there. A file is known by its path, size and times: while
they stay, it is not read again.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from functools import cached_property, lru_cache

from convwise.images import decode
from convwise.images.decode import Pixels
from convwise.images.sources import Item
from convwise.images.store import Shelf, Store
from convwise.images.value_range import ValueRange

VERSION = 2  # of what stands on a shelf: to be raised with every change of decode.py
HEAD = struct.Struct("<16sBB")  # digest, peak, channels; the pixels follow
# Digest, peak, channels and thumbnail; the header follows
FACTS = struct.Struct(f"<16sBB{decode.THUMBNAIL_PX**2}s")


def key_of(text: str) -> bytes:
    """What something is kept under."""
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()


@dataclass(frozen=True)
class File:
    """A file whose header could be read, and then what its pixels were like."""

    item: Item
    header: decode.Header
    stamp: str = ""  # as it was before it was read first
    digest: bytes = b""
    gray: bool = False
    peak: int = 0  # of its pixels
    thumbnail: bytes = b""  # of what it became at the size of its set
    value_range: ValueRange | None = None  # of its set, where it has values of more than 8 bits

    @property
    def wide(self) -> bool:
        return self.header.mode in decode.WIDE_MODES

    @cached_property
    def key(self) -> bytes:
        """Of what was decoded, on a shelf; b'' where nothing is kept of it."""
        return key_of(f"{self.stamp}|{self.value_range}") if self.stamp else b""

    def with_picture(self, picture: decode.Decoded) -> File:
        """The same file, with what its pixels are like."""
        peak = int(picture.pixels.max()) if self.header.deep else 0
        gray = picture.pixels.shape[2] == 1
        digest, small = picture.digest(), picture.thumbnail
        return File(self.item, self.header, self.stamp, digest, gray, peak, small, self.value_range)

    def keep(self, shelf: Shelf, pixels: Pixels) -> None:
        """Put what the picture became on the shelf."""
        if self.key:
            shelf.put(
                self.key, HEAD.pack(self.digest, self.peak, pixels.shape[2]) + pixels.tobytes()
            )

    def keep_facts(self, shelf: Shelf) -> File:
        """The same file; all that was found of it is put on the shelf."""
        if self.key:
            facts = FACTS.pack(self.digest, self.peak, 1 if self.gray else 3, self.thumbnail)
            shelf.put(self.key, facts + _text(self.header))
        return self

    @staticmethod
    def kept(item: Item, stamp: str, value_range: ValueRange | None, shelf: Shelf) -> File | None:
        """The file as `keep_facts` has put it on the shelf, if it has."""
        found = shelf.get(key_of(f"{stamp}|{value_range}")) if stamp else None
        if found is None:
            return None
        digest, peak, channels, thumbnail = FACTS.unpack_from(found)
        header = _header(found[FACTS.size :])
        return File(item, header, stamp, digest, channels == 1, peak, thumbnail, value_range)


@lru_cache(1024)  # most files of a set say the same
def _text(header: decode.Header) -> bytes:
    return json.dumps(list(vars(header).values())).encode()


@lru_cache(1024)
def _header(text: bytes) -> decode.Header:
    return decode.Header(*json.loads(text))


@dataclass(frozen=True)
class Shelves:
    """What is kept of the pictures of one source, by its place: their headers, and their pixels at
    each size.
    """

    store: Store
    place: str

    @cached_property
    def headers(self) -> Shelf:
        return self._shelf("headers")

    def at(self, height: int, width: int, way: decode.Way) -> Shelf:
        """Of pictures that were resized so."""
        return self._shelf(f"{height}x{width}-{way.name.lower()}")

    def facts(self, height: int, width: int) -> Shelf:
        """Of what was found of the pictures of a set of this size."""
        return self._shelf(f"{height}x{width}-facts")

    def _shelf(self, what: str) -> Shelf:
        return self.store.shelf(f"{self._name}-{what}-{VERSION}")

    @cached_property
    def _name(self) -> str:
        return key_of(self.place).hex()[:16]


def with_header(shelves: Shelves, item: Item) -> File:
    """The file with its header, kept or read. Raises whatever the decoder raises."""
    stamp = item.stamp()
    key = key_of(stamp) if stamp else b""
    if key and (kept := shelves.headers.get(key)):
        return File(item, _header(kept), stamp)
    with item.open() as stream:
        header = decode.header(stream)
    if key:
        shelves.headers.put(key, _text(header))
    return File(item, header, stamp)
