"""Rows as CSV, for spreadsheets: what `predict` answers, and images to look at."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convwise.output.answered import ANSWERED

NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def write_csv(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], file: Any, task: str = "classify"
) -> None:
    """The rows of `predict` as CSV: path, and what the task says of an answer. names: of the
    outputs.

    A cell that a spreadsheet would take for a formula begins with an apostrophe.
    """
    writer, answered = csv.writer(file, lineterminator="\n"), ANSWERED[task]
    writer.writerow(["path", *map(_cell, answered.columns(names))])
    for row in rows:
        writer.writerow([_cell(row["path"]), *map(_cell, answered.cells(row, names))])


def write_odd(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows (at least one) of doubts.shown or outliers.shown as CSV, under their keys."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows(
            [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
        )


def _cell(text: Any) -> Any:
    """Text that no spreadsheet runs: OWASP, CSV injection. Numbers are left as they are."""
    if not isinstance(text, str):
        return text
    return (
        f"'{text}"
        if text.startswith(("=", "+", "-", "@", "\t", "\r")) and not NUMBER.fullmatch(text)
        else text
    )
