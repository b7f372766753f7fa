"""Folders on disk: class folders, with or without train/, valid/ and test/ above them; or as
`Reading` says.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from convwise.core.problems import Problem, UnusableInput
from convwise.images import kinds, limits
from convwise.images.sources.found import AS_USUAL, Found, Item, Reading, decoded, shown, stamped
from convwise.images.sources.labels import arranged_by
from convwise.images.sources.tree import Listing, nothing, visible


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
    items = tuple(
        Item(
            p.part,
            p.label,
            shown(str(p.path)),
            files.opener(p.path),
            partial(stamped, files.at[p.path]),
            p.group,
        )
        for p in arranged.places
    )
    problems = (*arranged.problems, *files.problems(where))
    return Found(where, items=items, problems=problems, empty=arranged.empty, roles=arranged.roles,
                 numbers=arranged.numbers, grouped=arranged.grouped)  # fmt: skip


def pictures(source: Any, reading: Reading = AS_USUAL) -> Found:
    """Every picture below the folder, or the one file, without classes; names are whole paths."""
    root = Path(source)
    if root.is_file():
        return Found(
            name_of(root),
            (Item(None, "", name_of(root), partial(_open_picture, root), partial(stamped, root)),),
        )
    files = _Files(root, reading.follow_links)
    if not files.listing.pictures:
        what, expected = nothing(files.listing), f"image files: {', '.join(sorted(kinds.READ))}"
        raise UnusableInput(name_of(root), what, expected)
    items = [
        Item(
            None,
            "",
            name_of(Path(files.at[path])),
            files.opener(path),
            partial(stamped, files.at[path]),
        )
        for path in files.listing.pictures
    ]
    return Found(name_of(root), tuple(items), problems=tuple(files.problems(name_of(root))))


def name_of(path: Path) -> str:
    """A path as text that can be printed."""
    return shown(decoded(os.fsencode(path)))


class _Files:
    """What is below a folder. listing: by paths inside it, as text; at: where each is on the
    disk.
    """

    def __init__(self, root: Path, follow_links: bool) -> None:
        self.at: dict[PurePosixPath, str] = {}
        self.machines: set[str] = set()
        folders: list[PurePosixPath] = []
        outside: list[str] = []
        for path, name, is_folder in _walk(root, follow_links, outside):
            inside = PurePosixPath(decoded(os.fsencode(name)))
            if not visible(inside):
                self.machines |= {part for part in inside.parts if not visible(PurePosixPath(part))}
            elif is_folder:
                folders.append(inside)
            else:
                self.at[inside if inside not in self.at else PurePosixPath(f"{inside} (2)")] = path
            if len(self.at) > limits.FILES:
                raise UnusableInput(
                    name_of(root),
                    f"holds over {limits.FILES:,} files",
                    "fewer",
                    "give a part of it",
                )
        if outside:
            links = ", ".join(outside[:5]) + (", ..." if len(outside) > 5 else "")
            what = f"{len(outside)} links lead out of the folder: {links}"
            fix = "copy the files they point to into it, or give --follow-links if you trust them"
            raise UnusableInput(name_of(root), what, "files inside the folder", fix)
        taken = {
            path: self._is_picture(path) for path in sorted(self.at, key=lambda path: path.parts)
        }
        self.listing = Listing(
            [p for p, it in taken.items() if it], [p for p, it in taken.items() if not it], folders
        )

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
            what = (
                f"folders that programs add, such as thumbnails, were ignored: {', '.join(named)}"
            )
            yield Problem(where, what, severity="note", count=len(named))


def _walk(root: Path, follow_links: bool, outside: list[str]) -> Iterator[tuple[str, str, bool]]:
    """Everything below root, each real folder once: its path, that inside root, whether it is a
    folder.

    Links that lead out of root go to `outside`. Text, since there may be millions.
    """
    seen: set[str] = set()
    home = os.path.realpath(root)

    def leaves(path: str, inside: str) -> bool:
        real = os.path.realpath(path)
        if real == home or real.startswith(home + os.sep):
            return False
        outside.append(f"{shown(decoded(os.fsencode(inside)))} -> {name_of(Path(real))}")
        return True

    todo = [(os.fspath(root), "")]
    while todo:
        folder, above = todo.pop()
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        folders = []
        for entry in _listed(folder):
            name, path, inside = entry.name, entry.path, above + entry.name
            is_folder = entry.is_dir()
            if is_folder and name.startswith("."):
                continue
            if entry.is_symlink() and not follow_links and leaves(path, inside):
                continue
            yield path, inside, is_folder
            if is_folder:
                folders.append((path, f"{inside}/"))
        todo += sorted(folders, reverse=True)


def _listed(folder: str) -> list[os.DirEntry[str]]:
    """UnusableInput for a folder that cannot be listed: a whole class must not vanish."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        what, where = f"cannot be read ({error.strerror})", shown(decoded(os.fsencode(folder)))
        raise UnusableInput(
            where, what, "a folder that can be listed", "grant access, or move it elsewhere"
        ) from error


def _open(path: str | Path, most: int | None = None) -> BinaryIO:
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("not a regular file")  # to open a pipe would wait for ever
    if most is not None and about.st_size > most:
        raise ValueError(f"{limits.size(about.st_size)}, over the limit for one image")
    return open(path, "rb")


def _open_picture(path: str | Path) -> BinaryIO:
    if refusal := kinds.refusal(os.path.basename(path)):
        raise ValueError(refusal)
    return _open(path, limits.FILE)  # some decoders read all of a file to see its size
