"""A zip of class folders; read in place, never unpacked to disk."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from convwise.core.problems import Problem, UnusableInput
from convwise.images.sources.folder import LAYOUT, arrange, is_image
from convwise.images.sources.found import MAX_BYTES, Found, Item

# An image of 100 million RGB pixels, not compressed, is 300 MB: a larger member is no image.
MAX_MEMBER_BYTES = 400 * 2**20


def recognises(source: Any) -> bool:
    """Whether source is the path of a zip file, by its name or its content."""
    if not isinstance(source, (str, Path)) or not Path(source).is_file():
        return False
    return Path(source).suffix.lower() == ".zip" or zipfile.is_zipfile(source)


def find(source: Any) -> Found:
    """All images in the zip; raises UnusableInput where it is broken, encrypted, or unpacks to too much."""
    where = str(source)
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError) as error:
        raise UnusableInput(where, f"not a readable zip ({error})", f"a zip of {LAYOUT}") from None
    try:
        return _found(where, archive)
    except UnusableInput:
        archive.close()
        raise


def _found(where: str, archive: zipfile.ZipFile) -> Found:
    files = [info for info in archive.infolist() if not info.is_dir()]
    members = {_path(info.filename): info for info in files if _safe(_path(info.filename))}
    images = [info for path, info in members.items() if is_image(path.name)]
    _check(where, images)
    unsafe = [info.filename for info in files if not _safe(_path(info.filename))]
    places, problems = arrange(where, sorted(members))
    items = tuple(Item(p.part, p.label, str(p.path), partial(_open, archive, members[p.path])) for p in places)
    return Found(where, items=items, problems=(*problems, *_unsafe(where, unsafe)), close=archive.close)


def _path(name: str) -> PurePosixPath:
    return PurePosixPath(name.replace("\\", "/"))  # some Windows programs write backslashes


def _safe(path: PurePosixPath) -> bool:
    return not path.is_absolute() and ".." not in path.parts and ":" not in path.parts[0]


def _unsafe(where: str, names: Sequence[str]) -> Iterator[Problem]:
    if names:
        what = f"{len(names)} names that point outside of the zip were ignored: {', '.join(names[:5])}"
        yield Problem(where, what, severity="warning", count=len(names))


def _check(where: str, images: Sequence[zipfile.ZipInfo]) -> None:
    if any(info.flag_bits & 0x1 for info in images):
        raise UnusableInput(where, "the zip is encrypted", "a zip without a password", "unpack it and name the folder")
    total = sum(info.file_size for info in images)  # zipfile never unpacks more than this
    if total > MAX_BYTES:
        what = f"unpacks to {total / 2**30:.1f} GiB of images"
        raise UnusableInput(where, what, f"at most {MAX_BYTES / 2**30:.0f} GiB", "unpack it and name the folder")


def _open(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> BinaryIO:
    if member.file_size > MAX_MEMBER_BYTES:
        raise ValueError(f"unpacks to {member.file_size / 2**20:.0f} MiB, over the limit for one image")
    return cast(BinaryIO, archive.open(member))
