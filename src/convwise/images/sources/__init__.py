"""Where images come from. A new kind is a file in this folder and a row in SOURCES."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from convwise.core import places
from convwise.core.problems import UnusableInput
from convwise.images import kinds
from convwise.images.sources import archives, arrays, datasets, folder, idx, named, parquet, tables
from convwise.images.sources.found import (
    AS_USUAL,
    BY_WAY,
    Block,
    Found,
    Item,
    Reading,
    shown,
    some,
)

__all__ = ["SOURCES", "Block", "Found", "Item", "Reading", "Source", "find", "pictures"]


@dataclass(frozen=True)
class Source:
    """One kind of source. find: (source) -> Found, not yet decoded.

    find takes a Reading too where the source holds files. pictures: (source) -> Found of
    everything in it, to be labelled, whether or not it tells classes; None where that is what
    `find` gives.
    """

    name: str
    recognises: Callable[[Any], bool]
    find: Callable[..., Found]
    pictures: Callable[..., Found] | None = None


# In this order: a folder of IDX or Parquet files is a folder too, an .npz is a zip too, and a path
# goes before a name.
SOURCES: tuple[Source, ...] = (
    Source("idx", idx.recognises, idx.find, idx.pictures),
    Source("parquet", parquet.recognises, parquet.find, parquet.pictures),
    Source("folder", folder.recognises, folder.find, folder.pictures),
    Source("npz", arrays.recognises_npz, arrays.find_npz, arrays.npz_pictures),
    Source("zip", archives.recognises_zip, archives.find_zip, archives.zip_pictures),
    Source("tar", archives.recognises_tar, archives.find_tar, archives.tar_pictures),
    Source("table", tables.recognises, tables.find),
    Source("named", named.recognises, named.find),
    Source("arrays", arrays.recognises_pair, arrays.find_pair),
    Source("datasets", datasets.recognises, datasets.find),
)
OF_FILES = ("parquet", "folder", "zip", "tar", "table")  # what a Reading concerns
PACKED = ("npz", "zip", "tar")  # one file holds a whole set


def find(source: Any, reading: Reading = AS_USUAL) -> Found:
    """What `source` holds, by the first row that recognises it; UnusableInput where none does."""
    with _uncollected():
        return replace(_find(source, reading), place=_place(source))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Inside, nobody looks for garbage: a listing makes none, and to walk over a million paths
    again takes a third.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _place(source: Any) -> str:
    return os.path.abspath(source) if isinstance(source, (str, Path)) else ""


def _find(source: Any, reading: Reading) -> Found:
    try:
        row = _row(source)
        if row.name in OF_FILES:
            return row.find(source, reading)
        if reading.classes_from != Reading.classes_from:
            what, fix = (
                f"{shown_source(source)} holds no files with names or tables",
                "leave it out",
            )
            raise UnusableInput(BY_WAY, what, f"a source of the kind {', '.join(OF_FILES)}", fix)
        return row.find(source)
    except OSError as error:
        what = f"cannot be read ({error.strerror or error})"
        raise UnusableInput(shown_source(source), what, "a file or folder to read") from error


def pictures(source: Any, reading: Reading = AS_USUAL) -> Found:
    """Every picture that `source` holds, with or without classes; it can be one image file."""
    alone = (
        isinstance(source, (str, Path))
        and Path(source).is_file()
        and not any(r.recognises(source) for r in SOURCES)
    )
    try:
        if alone:
            return replace(folder.pictures(source), place=_place(source))
        row = _row(source)
        give = row.pictures or row.find
        found = give(source, reading) if row.name in OF_FILES else give(source)
        return replace(found, place=_place(source))
    except OSError as error:
        what = f"cannot be read ({error.strerror or error})"
        raise UnusableInput(shown_source(source), what, "a file or folder to read") from error


def _row(source: Any) -> Source:
    places.refuse_empty(source, "IMAGES", "a set of images")
    for row in SOURCES:
        if row.recognises(source):
            if row.name == "folder":
                _refuse_packed(Path(source))
            return row
    instead = "see `convwise choose --help`, which lists the kinds of sources"
    if not isinstance(source, (str, Path)):
        expected = "a path, arrays (x, y), a torch Dataset or a tf.data.Dataset"
        raise UnusableInput(shown_source(source), "not a source of images", expected)
    if (path := Path(source)).exists():
        if kinds.is_picture(str(source)):
            raise UnusableInput(
                shown_source(source),
                "a single image, not a set of them",
                "a set of images",
                instead,
            )
        what, fix = archives.unread(path) or ("a file of unknown kind", instead)
        raise UnusableInput(shown_source(source), what, "a set of images", fix)
    what = (
        f"there is no file or folder {folder.name_of(places.gone(path))}, and no data set of this"
        " name"
    )
    # What starts so is the folder of a study
    near = [each for each in places.near(path) if not each.name.startswith("convwise-")]
    alike = [folder.name_of(each) for each in near] + get_close_matches(str(source), named.NAMED, 1)
    raise UnusableInput(
        shown_source(source), what, "a set of images", " or ".join(alike) or instead
    )


def _refuse_packed(root: Path) -> None:
    """UnusableInput where a folder holds no pictures and no folders, but sets in one file each."""
    files = []
    with os.scandir(root) as entries:  # most folders are told by their first entry
        for entry in entries:
            if not entry.name.startswith("."):
                if entry.is_dir() or kinds.is_picture(entry.name):
                    return
                files.append(Path(entry.path))
    rows = [row for row in SOURCES if row.name in PACKED]
    if packed := sorted(path for path in files if any(row.recognises(path) for row in rows)):
        what = f"holds no image, but {some([shown(path.name) for path in packed])}"
        fix = " or ".join(folder.name_of(path) for path in packed[:3])
        raise UnusableInput(folder.name_of(root), what, "a set of images", fix)


def shown_source(source: Any) -> str:
    """What a source is called in a message."""
    return (
        folder.name_of(Path(source)) if isinstance(source, (str, Path)) else type(source).__name__
    )
