"""Where images come from. A new kind is a file in this folder and a row in SOURCES."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convwise.core.problems import UnusableInput
from convwise.images.sources import arrays, datasets, folder, idx, named, zipped
from convwise.images.sources.found import Block, Found, Item

__all__ = ["SOURCES", "Block", "Found", "Item", "Source", "find"]


@dataclass(frozen=True)
class Source:
    """One kind of source. takes: what it reads, in words; find: (source) -> Found, not yet decoded."""

    name: str
    takes: str
    recognises: Callable[[Any], bool]
    find: Callable[[Any], Found]


# In this order: a folder of IDX files is a folder too, an .npz is a zip too, and a path goes before a name.
SOURCES: tuple[Source, ...] = (
    Source("idx", f"a folder of IDX files or one of them: {idx.NAMING}", idx.recognises, idx.find),
    Source("folder", f"a folder: {folder.LAYOUT}", folder.recognises, folder.find),
    Source("npz", f"an .npz file with {arrays.NAMING}", arrays.recognises_npz, arrays.find_npz),
    Source("zip", "a .zip of such a folder", zipped.recognises, zipped.find),
    Source("named", f"one of the names {', '.join(named.NAMED)}", named.recognises, named.find),
    Source("arrays", "arrays (x, y), from Python", arrays.recognises_pair, arrays.find_pair),
    Source("datasets", "a torch Dataset or tf.data.Dataset of (image, label)", datasets.recognises, datasets.find),
)


def find(source: Any) -> Found:
    """What `source` holds, by the first row that recognises it; UnusableInput lists the rows where none does."""
    try:
        for row in SOURCES:
            if row.recognises(source):
                return row.find(source)
    except OSError as error:
        raise UnusableInput(_shown(source), f"cannot be read ({error.strerror})", "a file or folder to read") from error
    raise UnusableInput(_shown(source), _unknown(source), "; or ".join(row.takes for row in SOURCES))


def _shown(source: Any) -> str:
    return str(source) if isinstance(source, (str, Path)) else type(source).__name__


def _unknown(source: Any) -> str:
    if not isinstance(source, (str, Path)):
        return "not a source of images"
    if not Path(source).exists():
        return "no such file or folder, and not the name of a data set"
    return "a single image, not a set of them" if folder.is_image(str(source)) else "a file of unknown kind"
