"""What several commands take: the options that say how images are read, and paths as typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convwise.core.task import KINDS

CLASSES_HELP = (
    "Where the class of each file comes from: 'folder'; 'name', as in cat.12.jpg, or by a pattern,"
    " 'name:*_{class}' (# is a number, * is anything), or by a pattern of the whole path,"
    " 'name:*/{class}/**' (** is anything below); 'csv', a CSV or Parquet table in the folder, or"
    " 'csv:FILE', or one of its columns, 'csv:FILE:COLUMN'. With --task regress the numbers come"
    " from the same place; if a table has several columns of numbers, 'csv:FILE:COLUMN' names one,"
    " and 'csv:FILE:COLUMN,COLUMN' several. Images with the same value in a column called group,"
    " patient or subject stay in the same part (train, validation or test)."
)
SKIP_HELP = "Skip classes that have no readable image, instead of stopping."
CACHE_HELP = (
    "Disk space for decoded images, shared by all commands and runs: 4GB, 500MB; 0 keeps nothing."
    " The images that have gone unused the longest are removed first."
)


def path_of(text: str) -> Path:
    """A path as it is typed; an empty one, as of an unset variable, would be the working folder."""
    if not text.strip():
        raise typer.BadParameter("it is empty (the folder that you are in is called '.')")
    return Path(text)


DIR_HELP = "A folder that `convwise choose` wrote."
DirArgument = Annotated[Path, typer.Argument(metavar="DIR", parser=path_of, help=DIR_HELP)]
ClassesOption = Annotated[str, typer.Option("--classes-from", metavar="WAY", help=CLASSES_HELP)]
SkipOption = Annotated[bool, typer.Option("--skip-empty-classes", help=SKIP_HELP)]
TASK_HELP = (
    "What to learn from each image: "
    + "; ".join(f"{name}, {kind.learnt}" for name, kind in KINDS.items())
    + "."
)
TaskOption = Annotated[str, typer.Option(help=TASK_HELP)]
MODEL_TASK_HELP = (
    f"{TASK_HELP} By default the task of a folder that `convwise choose` wrote, else classify."
)
ModelTaskOption = Annotated[str | None, typer.Option("--task", help=MODEL_TASK_HELP)]
LinksOption = Annotated[
    bool, typer.Option("--follow-links", help="Follow links that lead out of the folder.")
]
CacheOption = Annotated[str, typer.Option("--cache-size", metavar="SIZE", help=CACHE_HELP)]
