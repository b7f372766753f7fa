"""A zip or tar of class folders: read in place, but for a packed tar, which is unpacked to a file
without a name.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import shutil
import struct
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from convwise.core.problems import Problem, UnusableInput
from convwise.images import kinds, limits
from convwise.images.sources.folder import name_of
from convwise.images.sources.found import (
    AS_USUAL,
    Found,
    Item,
    Reading,
    counted,
    decoded,
    shown,
    stamped,
)
from convwise.images.sources.labels import arranged_by
from convwise.images.sources.layout import LAYOUT
from convwise.images.sources.tree import Listing, nothing, visible

TAR_SUFFIXES = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")
# First bytes of archives that are not read, and of what packs a single file.
UNREAD = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "RAR", b"\x28\xb5\x2f\xfd": "zstd",
          b"\x04\x22\x4d\x18": "lz4", b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz",
          b"MSCF": "CAB"}  # fmt: skip
UTF8_NAME = 0x800  # the flag of a zip's member whose name is UTF-8
UNICODE_PATH = 0x7075  # an extra field
ENCRYPTED = 0x1


@dataclass(frozen=True)
class Member:
    """A file in an archive: its path as text, its unpacked size, what opens it, and where in the
    archive it begins.
    """

    path: PurePosixPath
    bytes: int
    open: Callable[[], BinaryIO]
    start: int


@dataclass
class Archive:
    """What an archive holds. bytes: its own size; outside: names that point out of it, or nowhere;
    links: in a tar.

    stamp: of the archive itself, as it was opened.
    """

    bytes: int
    stamp: str
    close: Callable[[], None]
    members: list[Member] = field(default_factory=list)
    folders: list[PurePosixPath] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)

    def check(self, where: str, unpacked: int, claimed: int = 0) -> None:
        """UnusableInput where it would cost more to unpack than such a file may, or claims more
        than any may.
        """
        most = limits.unpacked(self.bytes)
        if unpacked > most or claimed > limits.UNPACKED:
            what = f"unpacks to {limits.size(max(unpacked, claimed))} or more"
            raise UnusableInput(
                where, what, f"at most {limits.size(most)}", "unpack it and give the folder"
            )
        if len(self.members) > limits.FILES:
            raise UnusableInput(
                where,
                f"holds over {limits.FILES:,} files",
                "fewer",
                "unpack it and give a part of it",
            )


def recognises_zip(source: Any) -> bool:
    """Whether source is the path of a zip file, by its name or its content."""
    return _is_file(source) and (
        Path(source).suffix.lower() == ".zip" or zipfile.is_zipfile(source)
    )


def recognises_tar(source: Any) -> bool:
    """Whether source is the path of a tar file, packed or not, by its name."""
    return _is_file(source) and Path(source).name.lower().endswith(TAR_SUFFIXES)


def unread(source: Path) -> tuple[str, str] | None:
    """What a file is that is packed and not read, and what to do about it; None where it is
    something else.
    """
    if not source.is_file():  # to open a pipe would wait for ever
        return None
    with source.open("rb") as begin:
        head = begin.read(8)
    if _is_tar(source):
        packed = {b"\x1f\x8b": ".gz", b"BZ": ".bz2", b"\xfd7": ".xz"}.get(head[:2], "")
        return (
            "a tar under another name",
            f"call it {shown(re.sub(r'([.]tar)?[.][^.]*$', '', source.name))}.tar{packed}",
        )
    name = next((name for sign, name in UNREAD.items() if head.startswith(sign)), None)
    return (
        (f"packed as {name}, which is not read", "unpack it, and give the folder") if name else None
    )


def _is_tar(source: Path) -> bool:
    """Whether it is a tar with something in it, packed or not, whatever it is called."""
    with suppress(Exception), tarfile.open(source) as archive:
        return archive.next() is not None
    return False


def find_zip(source: Any, reading: Reading = AS_USUAL) -> Found:
    """All images in the zip; UnusableInput where it is broken, encrypted or far too large."""
    return _found(source, _zip, lambda archive, where: _arranged(archive, where, reading))


def find_tar(source: Any, reading: Reading = AS_USUAL) -> Found:
    """All images in the tar; raises UnusableInput where it is broken or unpacks to too much."""
    return _found(source, _tar, lambda archive, where: _arranged(archive, where, reading))


def zip_pictures(source: Any, _: Reading = AS_USUAL) -> Found:
    """Every picture in the zip, without classes."""
    return _found(source, _zip, _unarranged)


def tar_pictures(source: Any, _: Reading = AS_USUAL) -> Found:
    """Every picture in the tar, without classes."""
    return _found(source, _tar, _unarranged)


def _is_file(source: Any) -> bool:
    return isinstance(source, (str, Path)) and Path(source).is_file()


def _found(
    source: Any, opened: Callable[[Path], Archive], made: Callable[[Archive, str], Found]
) -> Found:
    where = name_of(Path(source))
    try:
        archive = opened(Path(source))
    except UnusableInput:
        raise
    except Exception as error:
        # A damaged archive fails in many ways: structure, names, versions, zlib
        kind = "zip" if opened is _zip else "tar"
        raise UnusableInput(
            where, f"not a readable {kind} ({error})", f"a {kind} of {LAYOUT}"
        ) from None
    try:
        return made(archive, where)
    except BaseException:
        archive.close()
        raise


def _arranged(archive: Archive, where: str, reading: Reading) -> Found:
    listing, at = _listing(archive, where)
    arranged = arranged_by(
        reading, where, listing, lambda path: at[path].open().read(limits.MANIFEST + 1)
    )
    items = tuple(
        Item(
            p.part,
            p.label,
            shown(str(p.path)),
            partial(_open, at[p.path]),
            partial(_stamp, archive, at[p.path]),
            p.group,
        )
        for p in arranged.places
    )
    problems = (*arranged.problems, *_ignored(where, archive))
    return Found(where, items, (), problems, archive.close, arranged.empty, arranged.roles,
                 numbers=arranged.numbers, grouped=arranged.grouped)  # fmt: skip


def _unarranged(archive: Archive, where: str) -> Found:
    listing, at = _listing(archive, where)
    if not listing.pictures:
        raise UnusableInput(
            where, nothing(listing), f"image files: {', '.join(sorted(kinds.READ))}"
        )
    items = tuple(
        Item(
            None, "", shown(str(path)), partial(_open, at[path]), partial(_stamp, archive, at[path])
        )
        for path in listing.pictures
    )
    return Found(where, items, problems=tuple(_ignored(where, archive)), close=archive.close)


def _listing(archive: Archive, where: str) -> tuple[Listing, dict[PurePosixPath, Member]]:
    at = {member.path: member for member in archive.members if visible(member.path)}
    taken = {path: _is_picture(at[path]) for path in sorted(at)}
    pictures, others = (
        [path for path, it in taken.items() if it is wanted] for wanted in (True, False)
    )
    # Neither zipfile nor tarfile unpacks more than the archive says; one file that is too large
    # costs only itself.
    sizes = [at[path].bytes for path in pictures]
    archive.check(where, sum(size for size in sizes if size <= limits.FILE), sum(sizes))
    return Listing(pictures, others, [path for path in archive.folders if visible(path)]), at


def _is_picture(member: Member) -> bool:
    if kinds.is_picture(member.path.name):
        return True
    try:
        with member.open() as stream:
            return kinds.looks_like_picture(stream.read(kinds.HEAD))
    except Exception:  # as above
        return False


def _open(member: Member) -> BinaryIO:
    if member.bytes > limits.FILE:
        raise ValueError(f"unpacks to {limits.size(member.bytes)}, over the limit for one image")
    if refusal := kinds.refusal(member.path.name):
        raise ValueError(refusal)
    return member.open()


def _stamp(archive: Archive, member: Member) -> str:
    return archive.stamp and f"{archive.stamp}{member.start}|{member.bytes}"


def _safe(path: PurePosixPath) -> bool:
    return (
        bool(path.parts)
        and not path.is_absolute()
        and ".." not in path.parts
        and ":" not in path.parts[0]
    )


def _ignored(where: str, archive: Archive) -> Iterator[Problem]:
    ignored = (
        (archive.outside, "name", " leading out of the archive"),
        (archive.links, "link", ""),
    )
    for names, noun, where_to in ignored:
        if names:
            some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            told = (
                f"{counted(len(names), noun)}{where_to} {'were' if len(names) > 1 else 'was'}"
                f" ignored: {some}"
            )
            yield Problem(where, told, severity="warning", count=len(names))


# --- zip -----------------------------------------------------------------------------------------


def _zip(source: Path) -> Archive:
    archive = zipfile.ZipFile(source)
    try:
        found = Archive(source.stat().st_size, stamped(source), archive.close)
        for info in archive.infolist():
            path = _path_in_zip(info)
            if not _safe(path):
                found.outside.append(shown(str(path)))
            elif info.filename.endswith(("/", "\\")):
                found.folders.append(path)
            else:
                opened = partial(_open_in_zip, archive, info)
                found.members.append(Member(path, info.file_size, opened, info.header_offset))
        if any(info.flag_bits & ENCRYPTED for info in archive.infolist()):
            what, fix = "the zip is encrypted", "unpack it and give the folder"
            raise UnusableInput(name_of(source), what, "a zip without a password", fix)
    except BaseException:
        archive.close()
        raise
    return found


def _path_in_zip(info: zipfile.ZipInfo) -> PurePosixPath:
    """The path of a member: names without the flag are code page 437 by the standard, and UTF-8
    from macOS.

    Where the member says its UTF-8 name beside (APPNOTE 4.6.9), as Info-ZIP and WinZip write it, it
    is that.
    """
    name = info.orig_filename.partition("\0")[0]
    if not info.flag_bits & UTF8_NAME:
        with suppress(UnicodeError):
            name = (
                _unicode_name(info.extra, name.encode("cp437")) or name.encode("cp437")
            ).decode()
    return PurePosixPath(name.replace("\\", "/"))  # some Windows programs write backslashes


def _unicode_name(extra: bytes, name: bytes) -> bytes | None:
    """The name in a Unicode Path field, where that was written for `name`."""
    while len(extra) >= 4:
        tag, size = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if tag == UNICODE_PATH and field[1:5] == struct.pack("<I", zlib.crc32(name)):
            return field[5:]
    return None


def _open_in_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> BinaryIO:
    return cast(BinaryIO, archive.open(info))


# --- tar -----------------------------------------------------------------------------------------


PACKINGS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}


def _tar(source: Path) -> Archive:
    """Members as slices of the tar, or, where it is packed, of a scratch file without a name."""
    with source.open("rb") as begin:
        unpack = PACKINGS.get(begin.read(2))
    file = cast(BinaryIO, tempfile.TemporaryFile()) if unpack else source.open("rb")  # noqa: SIM115 (closed below)
    found, lock = Archive(source.stat().st_size, stamped(source), file.close), threading.Lock()
    try:
        with unpack(source) if unpack else nullcontext(file) as stream:
            held = _Bounded(stream, found, name_of(source)) if unpack else stream
            with tarfile.open(
                fileobj=held, mode="r|" if unpack else "r:", errors="surrogateescape"
            ) as archive:
                for info in archive:
                    _take(
                        found, archive, info, partial(_slice, file, lock), file if unpack else None
                    )
                    archive.members = []  # type: ignore[attr-defined]  # else it keeps a record of each
                    found.check(name_of(source), 0)
    except BaseException:
        file.close()
        raise
    return found


def _take(found: Archive, archive: tarfile.TarFile, info: tarfile.TarInfo, part: Callable[...,
          BinaryIO], scratch: BinaryIO | None) -> None:  # fmt: skip
    path = PurePosixPath(decoded(os.fsencode(info.name)).replace("\\", "/"))
    if not _safe(path):
        found.outside.append(shown(str(path)))
    elif info.isdir():
        found.folders.append(path)
    elif not info.isreg():
        found.links.append(shown(str(path)))
    else:
        start = _copied(archive.extractfile(info), scratch) if scratch else info.offset_data
        found.members.append(Member(path, info.size, partial(part, start, info.size), start))


class _Bounded(io.RawIOBase):
    """What is unpacked, headers included, up to the limit for an archive of this size."""

    def __init__(self, stream: BinaryIO, archive: Archive, where: str) -> None:
        self._stream, self._archive, self._where, self._read = stream, archive, where, 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._read += len(data)
        self._archive.check(self._where, self._read)
        return data


def _copied(member: Any, scratch: BinaryIO) -> int:
    """Where in the scratch file the member now begins."""
    start = scratch.tell()
    shutil.copyfileobj(member, scratch)
    return start


def _slice(file: BinaryIO, lock: threading.Lock, start: int, size: int) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Slice(file, lock, start, size)))


class _Slice(io.RawIOBase):
    """A part of a file, as a file of its own; several threads may read the same one."""

    def __init__(self, file: BinaryIO, lock: threading.Lock, start: int, size: int) -> None:
        self._file, self._lock, self._start, self._size, self._at = file, lock, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        with self._lock:
            self._file.seek(self._start + self._at)
            data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
