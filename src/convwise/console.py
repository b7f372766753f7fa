"""Standard output and error for people. Loaded on use: rich takes longer to load than `convwise layer` to answer."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDE = 180  # columns where the output is no terminal, so that tables are whole


@cache
def out() -> Console:
    """Standard output."""
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE
    return Console(width=width, markup=False, emoji=False)  # names of files and layers are printed as they are


@cache
def err() -> Console:
    """Standard error."""
    from rich.console import Console

    return Console(stderr=True, markup=False, emoji=False)


def table(*columns: str) -> Table:
    """A table without lines."""
    from rich.table import Table

    return Table(*columns, box=None, pad_edge=False)
