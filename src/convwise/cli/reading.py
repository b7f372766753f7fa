"""The options that say how images are read: the same for every command that learns from some."""

from __future__ import annotations

from typing import Annotated

import typer

CLASSES_HELP = (
    "Where the classes of files come from: 'folder'; 'name', as in cat.12.jpg, or by a pattern, 'name:*_{class}' (# "
    "is a number, * anything); 'csv', a CSV or Parquet table in the folder, or 'csv:FILE'; with --task regress the "
    "numbers come from there, of a table with several columns of them from 'csv:FILE:COLUMN', or several numbers of "
    "each image from 'csv:FILE:COLUMN,COLUMN'. Images with the same value in a column called group, patient or "
    "subject are kept in one part."
)
SKIP_HELP = "Leave out classes without a readable image, instead of refusing them."
CACHE_HELP = (
    "Disk space for decoded images, shared by all commands and runs: 4GB, 500MB; 0 keeps nothing. What was "
    "unused for longest goes first."
)
ClassesOption = Annotated[str, typer.Option("--classes-from", metavar="WAY", help=CLASSES_HELP)]
SkipOption = Annotated[bool, typer.Option("--skip-empty-classes", help=SKIP_HELP)]
TASK_HELP = (
    "What is learnt of each image: classify, its class, or regress, a number or several: an age, an angle, a place."
)
TaskOption = Annotated[str, typer.Option(help=TASK_HELP)]
LinksOption = Annotated[bool, typer.Option("--follow-links", help="Follow links that lead out of the folder.")]
CacheOption = Annotated[str, typer.Option("--cache-size", metavar="SIZE", help=CACHE_HELP)]
