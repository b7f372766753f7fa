"""Class folders on disk, with or without train/, valid/ and test/ above them."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from convwise.core.problems import Problem, UnusableInput
from convwise.images.sources.found import PART_NAMES, Found, Item, PartName

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"})
LAYOUT = "one folder of images per class (cats/1.jpg, dogs/2.jpg), with or without train/, valid/ and test/ above"


def recognises(source: Any) -> bool:
    """Whether source is the path of a folder."""
    return isinstance(source, (str, Path)) and Path(source).is_dir()


def find(source: Any) -> Found:
    """All images below the folder; raises UnusableInput where there are none, or no class folders."""
    root = Path(source)
    files = sorted(_walk(root))
    places, problems = arrange(str(root), [PurePosixPath(file.relative_to(root).as_posix()) for file in files])
    items = tuple(Item(p.part, p.label, str(p.path), partial(_open, root / p.path)) for p in places)
    return Found(str(root), items=items, problems=problems)


def find_images(path: str | Path) -> list[Path]:
    """The image files to predict: the file itself, or all images below the folder, sorted."""
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UnusableInput(str(path), "no such file or folder", "an image file or a folder of images")
    shown = (file for file in _walk(path) if visible(PurePosixPath(file.relative_to(path))))
    images = sorted(file for file in shown if is_image(file.name))
    if not images:
        raise UnusableInput(str(path), "the folder holds no image", _kinds())
    return images


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image, by its suffix."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def visible(path: PurePosixPath) -> bool:
    """False for hidden files and for what macOS adds to archives."""
    return not any(piece.startswith(".") or piece == "__MACOSX" for piece in path.parts)


@dataclass(frozen=True)
class Place:
    """Where an image stands: its path in the source, its part and its class."""

    path: PurePosixPath
    part: PartName | None
    label: str


def arrange(where: str, paths: Sequence[PurePosixPath]) -> tuple[list[Place], tuple[Problem, ...]]:
    """Part and class of every image among `paths`, and what was left out; the same for a folder and a zip."""
    shown = [path for path in paths if visible(path)]
    images = [path for path in shown if is_image(path.name)]
    others = Counter(path.suffix.lower() or "(no suffix)" for path in shown if not is_image(path.name))
    if not images:
        raise UnusableInput(where, _nothing(others), LAYOUT, _kinds())
    places = _placed(where, images)
    if not places:
        raise UnusableInput(where, f"{len(images)} images, but no class folders", LAYOUT, "put each class in a folder")
    homeless = sorted(set(images) - {place.path for place in places})
    return places, tuple(_left_out(where, others, homeless))


def _placed(where: str, images: Sequence[PurePosixPath]) -> list[Place]:
    skip = _wrapping(images)
    tops = {path.parts[skip] for path in images if len(path.parts) >= skip + 3}
    parts = {top for top in tops if top.lower() in PART_NAMES}
    if any(PART_NAMES[part.lower()] == "train" for part in parts):
        below = [path for path in images if path.parts[skip] in parts and len(path.parts) >= skip + 3]
        return [Place(p, PART_NAMES[p.parts[skip].lower()], _label(p.parts[skip + 1])) for p in below]
    if parts and parts == {path.parts[skip] for path in images}:
        only = ", ".join(sorted(parts))
        fix = "add train/, or name the folder of classes itself"
        raise UnusableInput(where, f"has {only} but no train", LAYOUT, fix)
    return [Place(p, None, _label(p.parts[skip])) for p in images if len(p.parts) >= skip + 2]


def _wrapping(images: Sequence[PurePosixPath]) -> int:
    """How many folders, one inside the other, wrap everything and are neither a part nor a class."""
    skip = 0
    while all(len(path.parts) >= skip + 3 for path in images):
        tops = {path.parts[skip] for path in images}
        if len(tops) > 1 or min(tops).lower() in PART_NAMES:
            break
        skip += 1
    return skip


def _label(name: str) -> str:
    # macOS stores accents decomposed: without this one class can look like two.
    return unicodedata.normalize("NFC", name)


def _left_out(where: str, others: Counter[str], homeless: Sequence[PurePosixPath]) -> Iterator[Problem]:
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        yield Problem(where, f"files that are not images were ignored: {kinds}", severity="note", count=others.total())
    if homeless:
        names = ", ".join(map(str, homeless[:5])) + (", ..." if len(homeless) > 5 else "")
        what = f"{len(homeless)} images are in no class folder and were ignored: {names}"
        yield Problem(where, what, LAYOUT, severity="warning", count=len(homeless))


def _nothing(others: Counter[str]) -> str:
    if not others:
        return "holds no file"
    return "holds no image, only " + ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))


def _kinds() -> str:
    return "image files are " + ", ".join(sorted(SUFFIXES))


def _walk(root: Path) -> Iterator[Path]:
    """Every file below root, through links to folders, each real folder once."""
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, onerror=_refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in files)


def _refuse(error: OSError) -> None:
    """A folder that cannot be listed may be a whole class: it must not vanish."""
    what = f"cannot be read ({error.strerror})"
    raise UnusableInput(str(error.filename), what, "a folder that can be listed", "grant access, or take it out")


def _open(path: Path) -> BinaryIO:
    if path.exists() and not path.is_file():
        raise ValueError("not a regular file")  # to open a pipe would wait for ever
    return path.open("rb")
