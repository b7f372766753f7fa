"""Folders on disk: class folders, with or without train/, valid/ and test/ above them; or as `Reading` says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from convwise.core.problems import Problem, UnusableInput
from convwise.images import kinds, limits
from convwise.images.sources.found import AS_USUAL, Found, Item, Reading, decoded, shown
from convwise.images.sources.labels import arranged_by
from convwise.images.sources.layout import Listing, nothing, visible


def recognises(source: Any) -> bool:
    """Whether source is the path of a folder."""
    return isinstance(source, (str, Path)) and Path(source).is_dir()


def find(source: Any, reading: Reading = AS_USUAL) -> Found:
    """All images below the folder; raises UnusableInput where there are none, or no classes."""
    root = Path(source)
    files = _Files(root, reading.follow_links)
    where = name_of(root)

    def table(name: PurePosixPath) -> bytes:
        with _open(files.at[name]) as stream:
            return stream.read(limits.MANIFEST + 1)

    arranged = arranged_by(reading, where, files.listing, table)
    items = tuple(Item(p.part, p.label, shown(str(p.path)), files.opener(p.path)) for p in arranged.places)
    problems = (*arranged.problems, *files.problems(where))
    return Found(where, items=items, problems=problems, empty=arranged.empty, roles=arranged.roles,
                 number=arranged.number)  # fmt: skip


def pictures(source: Any, reading: Reading = AS_USUAL) -> Found:
    """Every picture below the folder, or the one file, without classes; names are whole paths."""
    root = Path(source)
    if root.is_file():
        return Found(name_of(root), (Item(None, "", name_of(root), partial(_open_picture, root)),))
    files = _Files(root, reading.follow_links)
    if not files.listing.pictures:
        what, expected = nothing(files.listing), f"image files: {', '.join(sorted(kinds.READ))}"
        raise UnusableInput(name_of(root), what, expected)
    items = [Item(None, "", name_of(files.at[path]), files.opener(path)) for path in files.listing.pictures]
    return Found(name_of(root), tuple(items), problems=tuple(files.problems(name_of(root))))


def name_of(path: Path) -> str:
    """A path as text that can be printed."""
    return shown(decoded(os.fsencode(path)))


class _Files:
    """What is below a folder. listing: by paths inside it, as text; at: where each is on the disk."""

    def __init__(self, root: Path, follow_links: bool) -> None:
        self.at: dict[PurePosixPath, Path] = {}
        self.machines: set[str] = set()
        folders: list[PurePosixPath] = []
        outside: list[str] = []
        for path, is_folder in _walk(root, follow_links, outside):
            inside = PurePosixPath(decoded(os.fsencode(path.relative_to(root))))
            if not visible(inside):
                self.machines |= {part for part in inside.parts if not visible(PurePosixPath(part))}
            elif is_folder:
                folders.append(inside)
            else:
                self.at[inside if inside not in self.at else PurePosixPath(f"{inside} (2)")] = path
            if len(self.at) > limits.FILES:
                raise UnusableInput(name_of(root), f"holds over {limits.FILES:,} files", "fewer", "name a part of it")
        if outside:
            links = ", ".join(outside[:5]) + (", ..." if len(outside) > 5 else "")
            what = f"{len(outside)} links lead out of the folder: {links}"
            fix = "copy what they point to into it, or give --follow-links where you trust them"
            raise UnusableInput(name_of(root), what, "files of the folder itself", fix)
        taken = {path: self._is_picture(path) for path in sorted(self.at)}
        self.listing = Listing([p for p, it in taken.items() if it], [p for p, it in taken.items() if not it], folders)

    def _is_picture(self, path: PurePosixPath) -> bool:
        if kinds.is_picture(path.name):
            return True
        try:
            with _open(self.at[path]) as stream:
                return kinds.looks_like_picture(stream.read(kinds.HEAD))
        except (OSError, ValueError):
            return False

    def opener(self, path: PurePosixPath) -> partial[BinaryIO]:
        return partial(_open_picture, self.at[path])

    def problems(self, where: str) -> Iterator[Problem]:
        named = sorted(shown(name) for name in self.machines if not name.startswith("."))
        if named:
            what = f"folders that machines add, such as thumbnails, were ignored: {', '.join(named)}"
            yield Problem(where, what, severity="note", count=len(named))


def _walk(root: Path, follow_links: bool, outside: list[str]) -> Iterator[tuple[Path, bool]]:
    """Everything below root with whether it is a folder, each real folder once; links out of it go to `outside`."""
    seen: set[str] = set()
    home = os.path.realpath(root)

    def leaves(path: str) -> bool:
        if follow_links or not os.path.islink(path):
            return False
        real = os.path.realpath(path)
        if real == home or real.startswith(home + os.sep):
            return False
        outside.append(f"{name_of(Path(path).relative_to(root))} -> {name_of(Path(real))}")
        return True

    for folder, folders, files in os.walk(root, onerror=_refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(n for n in folders if not n.startswith(".") and not leaves(os.path.join(folder, n)))
        yield from ((Path(folder, name), True) for name in folders)
        yield from ((Path(folder, name), False) for name in files if not leaves(os.path.join(folder, name)))


def _refuse(error: OSError) -> None:
    """A folder that cannot be listed may be a whole class: it must not vanish."""
    what = f"cannot be read ({error.strerror})"
    where = shown(decoded(os.fsencode(error.filename)))
    raise UnusableInput(where, what, "a folder that can be listed", "grant access, or take it out")


def _open(path: Path) -> BinaryIO:
    if path.exists() and not path.is_file():
        raise ValueError("not a regular file")  # to open a pipe would wait for ever
    return path.open("rb")


def _open_picture(path: Path) -> BinaryIO:
    if refusal := kinds.refusal(path.name):
        raise ValueError(refusal)
    stream = _open(path)
    if (size := os.fstat(stream.fileno()).st_size) > limits.FILE:  # some decoders read all of it to see the size
        stream.close()
        raise ValueError(f"{limits.size(size)}, over the limit for one image")
    return stream
