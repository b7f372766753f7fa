"""What was decoded once, kept on the disk for all runs: keys -> bytes, on shelves, bounded.

A shelf is a folder of segments. One process writes a segment, once, under another name; a rename
makes it visible. So there are no halves, writers never meet, and a kill costs what was not written
yet. Each value has a checksum: one that was damaged counts as missing, and what is missing is
decoded again. Where nothing can be written, and for what does not fit, there is no more to say: a
store saves time, and no result depends on it.
"""

from __future__ import annotations

import os
import re
import struct
import threading
import time
import uuid
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convwise.core.places import CACHE_SIZE, cache_folder
from convwise.core.problems import UnusableInput

SEGMENT = 2**26  # bytes that are written together: a kill costs no more
HELD = 2**27  # bytes of a shelf that stay in memory where they cannot be written
STALE_SECONDS = 3600.0  # after which a file that is still being written belongs to nobody
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}

ENTRY = np.dtype(
    [
        ("key", "<u8"),
        ("rest", "<u8"),
        ("at", "<u8"),
        ("size", "<u4"),
        ("sum", "<u4"),
        ("segment", "<u4"),
    ]
)
KEY = struct.Struct("<QQ")
# MAGIC, number of entries, their checksum; the entries stand before it
FOOTER = struct.Struct("<8sQI")
MAGIC = b"convwis1"
SUFFIX, DRAFT = ".seg", ".writing"


def size_of(text: str | int) -> int:
    """'4GB', '500 MB', '0' or a number of bytes -> bytes. UnusableInput for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(text).lower())
    if not found or found[2].replace("i", "") not in UNITS:
        raise UnusableInput(
            "--cache-size", f"is {text!r}", "a size such as 4GB or 500MB, or 0 for no cache"
        )
    return int(float(found[1]) * UNITS[found[2].replace("i", "")])


@dataclass
class Store:
    """Shelves below `folder`, of at most `most` bytes together; None: nothing is written. used: in
    this run.
    """

    folder: Path | None
    most: int
    used: set[Path] = field(default_factory=set)
    _shelves: dict[str, Shelf] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @staticmethod
    def usual(size: str | int | None = CACHE_SIZE) -> Store:
        """That of this user; size as in `size_of`, 0 or None for none."""
        most, place = size_of(size or 0), cache_folder()
        return Store(place / "pixels" if place and most else None, most)

    def shelf(self, name: str) -> Shelf:
        """The shelf of this name, the same one each time."""
        with self._lock:
            if name not in self._shelves:
                self._shelves[name] = Shelf(self, self.folder and self.folder / name)
            return self._shelves[name]

    def flush(self) -> None:
        """Write what waits on all shelves."""
        for shelf in tuple(self._shelves.values()):
            shelf.flush()

    def release(self) -> None:
        """Give back the memory of what could not be written."""
        for shelf in tuple(self._shelves.values()):
            shelf.release()

    def has_room(self, size: int) -> bool:
        """Whether so many bytes may be added; segments that no run has used for longest are removed
        for that.
        """
        assert self.folder is not None
        files = []
        for file in self.folder.glob("*/*"):
            with suppress(OSError):
                about = file.stat()
                if file.suffix == DRAFT and about.st_mtime < time.time() - STALE_SECONDS:
                    file.unlink()
                else:
                    files.append((about.st_mtime, about.st_size, file))
        filled = sum(each for _, each, _ in files)
        # What this run has found here it may want again: to remove that would be to decode it each
        # time.
        others = [
            row for row in sorted(files) if row[2] not in self.used and row[2].suffix == SUFFIX
        ]
        for _, each, file in others:
            if filled + size <= self.most:
                break
            with suppress(OSError):
                file.unlink()
                filled -= each
        return filled + size <= self.most


class Shelf:
    """Values by keys of 16 bytes. Safe to use from several threads."""

    def __init__(self, store: Store, folder: Path | None) -> None:
        self._store, self._folder = store, folder
        self._lock = threading.RLock()
        self._files: list[int] = []  # descriptors of the segments
        self._table = np.empty(0, np.uint64), np.empty(0, ENTRY)  # keys, sorted, and their entries
        self._waiting: dict[bytes, bytes] = {}
        self._bytes = 0  # that wait
        if folder and folder.is_dir():
            for path in sorted(folder.glob(f"*{SUFFIX}")):
                self._add(path)

    def get(self, key: bytes) -> bytes | None:
        """The value, or None where it is missing."""
        if (value := self._waiting.get(key)) is not None:
            return value
        keys, entries = self._table
        if not len(keys):
            return None
        head, rest = KEY.unpack(key)
        place = int(np.searchsorted(keys, np.uint64(head)))
        while place < len(keys) and keys[place] == head:
            _, other, at, size, checksum, segment = entries[place].tolist()
            if other == rest:
                found = self._read(self._files[segment], size, at)
                if found is not None and zlib.crc32(found) == checksum:
                    return found
            place += 1
        return None

    def put(self, key: bytes, value: bytes) -> None:
        """Keep a value that was missing."""
        with self._lock:
            if self._folder is None and self._bytes > HELD:
                return
            self._waiting[key] = value
            self._bytes += len(value)
            if self._folder and self._bytes >= SEGMENT:
                self._publish()

    def flush(self) -> None:
        """Write what waits, for others to find."""
        with self._lock:
            if self._folder and self._waiting:
                self._publish()

    def release(self) -> None:
        """Forget what waits and cannot be written."""
        with self._lock:
            if self._folder is None:
                self._waiting, self._bytes = {}, 0

    def _publish(self) -> None:
        assert self._folder is not None
        path = self._folder / f"{uuid.uuid4().hex}{SUFFIX}"
        draft = path.with_suffix(DRAFT)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._store.has_room(
                self._bytes + ENTRY.itemsize * len(self._waiting) + FOOTER.size
            ):
                self._folder = None
                return
            entries = self._entries()
            with draft.open("xb", buffering=2**20) as file:
                file.writelines(self._waiting.values())
                file.write(entries.tobytes())
                file.write(FOOTER.pack(MAGIC, len(entries), zlib.crc32(entries.tobytes())))
            os.replace(draft, path)
        except OSError:
            # Without room or permission what is there stays of use, and nothing more is written
            self._folder = None
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            return
        if self._add(path):
            self._waiting, self._bytes = {}, 0

    def _entries(self) -> NDArray[np.void]:
        """Those of what waits, as it lies in its segment."""
        values = self._waiting.values()
        entries = np.zeros(len(values), ENTRY)
        entries["size"] = [len(value) for value in values]
        entries["at"][1:] = np.cumsum(entries["size"], dtype=np.uint64)[:-1]
        entries["sum"] = [zlib.crc32(value) for value in values]
        keys = np.frombuffer(b"".join(self._waiting), "<u8").reshape(-1, 2)
        entries["key"], entries["rest"] = keys[:, 0], keys[:, 1]
        return entries

    def _add(self, path: Path) -> bool:
        """Read which keys a segment holds; False where it cannot be read."""
        self._store.used.add(path)
        with suppress(OSError):
            os.utime(path)
        try:
            file = os.open(
                path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
            )
        except OSError:
            return False
        entries = self._entries_of(file)
        if entries is None:
            os.close(file)
            with suppress(OSError):
                path.unlink()
            return False
        entries["segment"] = len(self._files)
        self._files.append(file)
        both = np.concatenate([self._table[1], entries])
        both = both[np.argsort(both["key"], kind="stable")]
        self._table = np.ascontiguousarray(both["key"]), both
        return True

    def _entries_of(self, file: int) -> NDArray[np.void] | None:
        size = os.fstat(file).st_size
        footer = self._read(file, FOOTER.size, size - FOOTER.size)
        if footer is None:
            return None
        magic, count, checksum = FOOTER.unpack(footer)
        start = size - FOOTER.size - count * ENTRY.itemsize
        if magic != MAGIC or start < 0:
            return None
        table = self._read(file, count * ENTRY.itemsize, start)
        if table is None or zlib.crc32(table) != checksum:
            return None
        return np.frombuffer(table, ENTRY).copy()

    def _read(self, file: int, size: int, at: int) -> bytes | None:
        if at < 0:
            return None
        try:
            if hasattr(os, "pread"):
                found = os.pread(file, size, at)
            else:
                with self._lock:
                    os.lseek(file, at, os.SEEK_SET)
                    found = os.read(file, size)
        except OSError:
            return None
        return found if len(found) == size else None

    def __del__(self) -> None:
        for file in self._files:
            with suppress(OSError):
                os.close(file)
