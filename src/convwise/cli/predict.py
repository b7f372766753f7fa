"""The command `convwise predict`: the answers of the network in a folder, as CSV."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from convwise.cli.console import err
from convwise.cli.reading import CacheOption, DirArgument, LinksOption, path_of
from convwise.core.places import CACHE_SIZE
from convwise.core.problems import UnusableInput

IMAGES_HELP = "An image file, a folder of them, or anything else that `choose` reads."


def predict(
    folder: DirArgument,
    images: Annotated[str, typer.Argument(metavar="IMAGES", help=IMAGES_HELP)],
    csv_file: Annotated[
        Path | None,
        typer.Option(
            "--csv", metavar="FILE", parser=path_of, help="File to write; default: standard output."
        ),
    ] = None,
    follow_links: LinksOption = False,
    cache_size: CacheOption = CACHE_SIZE,
) -> None:
    """Label IMAGES with the network in DIR, as CSV.

    The columns are path, label, and a probability for each class; or path and the number. An image
    that cannot be read gets an empty label and is named on stderr; if none can be read, the exit
    code is 2.
    """
    from convwise.output import deliver, predicting, tables
    from convwise.training.machine import ThisMachine

    if csv_file and not _writable(csv_file):  # before all the work
        expected = "a file in a folder that can be written to"
        raise UnusableInput("--csv", f"{csv_file} cannot be written", expected)
    cores = ThisMachine().cores
    rows = predicting.predict(
        folder, images, cores, follow_links=follow_links, cache_size=cache_size
    )
    choice = deliver.read_choice(folder)
    outputs, task = predicting.outputs(choice), choice.get("task", "classify")
    if csv_file is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # as in a file, whatever the locale
        tables.write_csv(rows, outputs, sys.stdout, task)
    else:
        with io.StringIO(newline="") as text:
            tables.write_csv(rows, outputs, text, task)
            deliver.replaced(csv_file, text.getvalue())
    broken = [row for row in rows if "error" in row]
    for row in broken:
        err().print(f"{row['path']}: {row['error']}", highlight=False, soft_wrap=True)
    labelled = len(rows) - len(broken)
    err().print(f"{labelled} images labelled, {len(broken)} unreadable", highlight=False)


def _writable(file: Path) -> bool:
    folder = file.absolute().parent
    written = file if file.exists() else folder  # a file that is not there yet is put into it
    return not file.is_dir() and folder.is_dir() and os.access(written, os.W_OK)
