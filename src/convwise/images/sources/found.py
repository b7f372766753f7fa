"""What a source hands over: encoded files, or whole arrays, each with its class and its part."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from numpy.typing import NDArray

from convwise.core.problems import Problem
from convwise.core.task import Reads, kind_of

PartName = Literal["train", "valid", "test"]
BY_WAY = "--classes-from"  # the option that says where classes come from

# How people call the parts of a data set; compared in lower case.
PART_NAMES: dict[str, PartName] = {
    "train": "train", "training": "train", "trn": "train", "trainval": "train",
    "val": "valid", "valid": "valid", "validation": "valid", "validate": "valid", "dev": "valid",
    "development": "valid", "eval": "valid", "evaluation": "valid",
    "test": "test", "testing": "test", "tst": "test", "t10k": "test", "holdout": "test",
    "heldout": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """How a source is to be read, where it can be read in several ways.

    classes_from: 'folder' names the classes; 'name' takes them from the names of the files, as in
    cat.12.jpg, or by a pattern, 'name:*_{class}'; 'csv' from a table in the folder, 'csv:FILE', or
    one of its columns, 'csv:FILE:COLUMN', or several of numbers, 'csv:FILE:COLUMN,COLUMN'.
    skip_empty_classes: leave out a class without a readable image, instead of refusing.
    follow_links: read what links in the folder point to outside of it.
    labelled: False where classes are not asked for, since the images are to be labelled.
    task: what is learnt of them, which says what is read of each; see core/task.py.
    """

    classes_from: str = "folder"
    skip_empty_classes: bool = False
    follow_links: bool = False
    labelled: bool = True
    task: str = "classify"

    @property
    def target(self) -> Reads:
        """What each image tells: a 'label', its class, or a 'number'; see images/targets."""
        return kind_of(self.task).target


AS_USUAL = Reading()
JOINT = ", "  # between the numbers of one image, where its label is text


@dataclass(frozen=True)
class Item:
    """One encoded image. part: None where the source says nothing; open: a fresh binary stream,
    seekable.

    stamp: what is another text as soon as the file is another, by its path, size and times; group:
    what it has in common with others that must stay in the same part, such as the patient; '' for
    nothing.
    """

    part: PartName | None
    label: str
    name: str
    open: Callable[[], BinaryIO]
    stamp: Callable[[], str] = str
    group: str = ""


@dataclass(frozen=True)
class Block:
    """Images already decoded: pixels (n, h, w) or (n, h, w, channels) of any number type, labels
    (n,) as text.

    Labels that are fractions are floats, and several numbers of each image are floats (n, k): they
    are no classes.
    """

    part: PartName | None
    pixels: NDArray[Any]
    labels: NDArray[Any]


@dataclass(frozen=True)
class Found:
    """What a source holds, not yet decoded. name: what to call it; close: gives back what `open`
    needs.

    empty: class -> why it has no image, where the source names a class without one; roles: which
    folder was taken for which part; place: the path of the source, where it has one; numbers: what
    the numbers of an image are called, where the source says that; grouped: what the groups of the
    items are called, where there are any.
    """

    name: str
    items: tuple[Item, ...] = ()
    blocks: tuple[Block, ...] = ()
    problems: tuple[Problem, ...] = ()
    close: Callable[[], None] = lambda: None
    empty: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[PartName, str] = field(default_factory=dict)
    place: str = ""
    numbers: tuple[str, ...] = ()
    grouped: str = ""


def stamped(path: str | Path, inside: str = "") -> str:
    """The stamp of a file, or of something inside it; '' where it cannot be told."""
    try:
        about = os.stat(path)
    except (OSError, ValueError):
        return ""
    return (
        f"{os.path.abspath(path)}|{about.st_size}|{about.st_mtime_ns}|{about.st_ctime_ns}|{inside}"
    )


def some(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def counted(count: int, noun: str) -> str:
    """'1 image', '2 images'."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def decoded(name: bytes) -> str:
    """A name as a file system, an archive, a table or an array keeps it.

    UTF-8, or else code page 1252 of Windows, or else Latin-1, which reads any bytes.
    """
    for encoding in ("utf-8", "cp1252"):
        with suppress(UnicodeDecodeError):
            return name.decode(encoding)
    return name.decode("latin-1")


def shown(name: str) -> str:
    """A name as it may be printed: control characters, and those that turn the direction of text,
    are escaped.
    """
    return name if name.isprintable() else "".join(map(_visible, name))


def label_of(name: str) -> str:
    """The class that a name says, printable. macOS stores accents apart: composed, one class does
    not look like two.
    """
    return shown(unicodedata.normalize("NFC", name))


JOINERS = "\u200c\u200d"  # parts of words in Persian and Hindi, and of emoji


def _visible(character: str) -> str:
    steers = (
        unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        and character not in JOINERS
    )
    return character.encode("unicode_escape").decode() if steers else character
