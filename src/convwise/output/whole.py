"""What is handed over takes its place in the folder together, so that a kill mixes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convwise.core.temporary import folder_inside, remove_left
from convwise.formats import DRAFT, WRITTEN

# What a study writes: a folder that holds one of these without a ledger holds somebody else's.
OUTPUTS = ("choice.json", "report.html", "suspects.csv", "outliers.csv", *WRITTEN)
FIRST = "choice.json"  # says that the folder is whole: it goes first, and comes last
READY, MOVING = ".written", ".moving"  # folders inside, after DRAFT, from one step to the next


@contextmanager
def together(folder: Path) -> Iterator[Path]:
    """Inside, an empty folder to write to; afterwards its files stand in `folder`, in place of what
    was handed over.

    An error, or a kill, inside leaves `folder` as it was; what a kill afterwards leaves undone,
    `finish` does.
    """
    with folder_inside(folder, DRAFT) as draft:
        yield draft
        os.replace(draft, folder / READY)
    finish(folder)


def finish(folder: Path) -> None:
    """Move in what was written whole before a kill, and remove what was not."""
    remove_left(folder, DRAFT)  # one that an export is filling at this moment stays
    for left in folder.glob(".*.writing"):
        left.unlink(missing_ok=True)
    ready, moving = folder / READY, folder / MOVING
    if ready.is_dir():
        for name in (FIRST, *OUTPUTS):
            (folder / name).unlink(missing_ok=True)
        os.replace(ready, moving)
    if moving.is_dir():
        for file in sorted(moving.iterdir(), key=lambda file: file.name == FIRST):
            os.replace(file, folder / file.name)
        moving.rmdir()
