"""Places on the disk: where convwise keeps what is worth keeping between runs, and what lies near a wrong path."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

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


def gone(path: Path) -> Path:
    """The part of a path, as it was typed, that is not there, up to the first such folder."""
    return next((each for each in reversed([path, *path.parents]) if not os.path.lexists(each)), path)


def near(path: Path) -> list[Path]:
    """Paths that are there, and whose names are like what is missing of `path`: at most three."""
    from difflib import get_close_matches

    missing = gone(path)
    try:
        names = {name.lower(): name for name in sorted(os.listdir(missing.parent))}
    except OSError:
        return []
    rest = path.relative_to(missing)
    found = [missing.parent / names[name] / rest for name in get_close_matches(missing.name.lower(), names, 3)]
    return [each for each in found if each.exists()]
