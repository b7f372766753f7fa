"""What is written of answers: rows and columns of predict, a section of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convwise.core.problems import UnusableInput
from convwise.output.answered import classify, regress
from convwise.output.answered.scored import Scored

__all__ = ["ANSWERED", "Answered", "Scored", "answered_by"]


@dataclass(frozen=True)
class Answered:
    """What one task writes. names: what the outputs of a network are called.

    row(answer, names) -> the fields of one answer in a row of predict; columns(names) -> the
    headings after 'path'; cells(row, names) -> what stands under them.
    title, template: of the section of the report; section(scored) -> its values.
    accuracy(estimate, spread) -> the sentence of the report on how good the network is: see
    report.py.
    """

    row: Callable[[np.ndarray, Sequence[str]], dict[str, Any]]
    columns: Callable[[Sequence[str]], list[str]]
    cells: Callable[[Mapping[str, Any], Sequence[str]], list[Any]]
    title: str
    template: str
    section: Callable[[Scored], dict[str, Any]]
    told: Callable[[Mapping[str, Any]], str]


# A row for each task: see core/task.py.
ANSWERED: dict[str, Answered] = {
    "classify": Answered(classify.row, classify.columns, classify.cells, "Mistakes",
    "mistakes.html.j2",
                         classify.section, classify.told),
    "regress": Answered(regress.row, regress.columns, regress.cells, "Errors", "errors.html.j2",
    regress.section,
                        regress.told),
}  # fmt: skip


def answered_by(choice: Mapping[str, Any]) -> Answered:
    """The row of a choice.json; older ones, which do not name their task, are of classes."""
    if (task := choice.get("task", "classify")) not in ANSWERED:
        raise UnusableInput(
            "choice.json", f"says the task {task!r}", ", ".join(ANSWERED), "run `convwise choose`"
        )
    return ANSWERED[task]
