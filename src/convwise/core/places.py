"""Places on the disk: where convwise keeps things between runs, and what is near a wrong path."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from convwise.core.problems import UnusableInput

if TYPE_CHECKING:
    from pathlib import Path

CACHE_SIZE = "4GB"  # of decoded pictures that are kept, unless another is asked for


def cache_folder() -> Path | None:
    """The user's cache folder for convwise; None for a user without a home."""
    from pathlib import Path  # which takes longer to load than all of core

    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convwise"
    except RuntimeError:  # a user that the system does not know
        return None


@contextmanager
def some_home() -> Iterator[None]:
    """Inside, the user has a home folder, that of temporary files where there is none."""
    from pathlib import Path

    try:
        Path.home()
    except RuntimeError:
        from tempfile import gettempdir

        os.environ["HOME"] = gettempdir()
        try:
            yield
        finally:
            os.environ.pop("HOME", None)
    else:
        yield


def gone(path: Path) -> Path:
    """The part of a path, as it was typed, that is not there, up to the first such folder."""
    return next(
        (each for each in reversed([path, *path.parents]) if not os.path.lexists(each)), path
    )


def refuse_empty(path: object, where: str, expected: str) -> None:
    """UnusableInput for an empty name, as of an unset variable: it would be the working folder."""
    if isinstance(path, (str, os.PathLike)) and not os.fspath(path).strip():
        fix = "name one; '.' is the folder that you are in"
        raise UnusableInput(where, "is empty", expected, fix)


def near(path: Path) -> list[Path]:
    """Paths that are there, and whose names are like what is missing of `path`: at most three."""
    from difflib import get_close_matches

    missing = gone(path)
    try:
        hidden = missing.name.startswith(".")
        names = {
            name.lower(): name
            for name in sorted(os.listdir(missing.parent))
            if hidden or name[0] != "."
        }
    except OSError:
        return []
    rest = path.relative_to(missing)
    found = [
        missing.parent / names[name] / rest
        for name in get_close_matches(missing.name.lower(), names, 3)
    ]
    return [each for each in found if os.path.exists(each)]
