"""Where convwise keeps what is worth keeping between runs."""

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
