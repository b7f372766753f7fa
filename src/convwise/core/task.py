"""What can be learnt of images, in words and without an engine; training/tasks says how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from convwise.core.problems import UnusableInput

Reads = Literal["label", "number"]


@dataclass(frozen=True)
class Kind:
    """target: what is read of each image, see images/targets; scored: what is told of a network,
    see core/score.py;

    learnt: what is learnt of each image, in the words of the help.
    """

    target: Reads
    scored: Literal["accuracy", "error"]
    learnt: str


KINDS: dict[str, Kind] = {
    "classify": Kind("label", "accuracy", "its class"),
    "regress": Kind("number", "error", "a number, such as an age, an angle or a share"),
}


def kind_of(task: str) -> Kind:
    """The kind of a task. UnusableInput where there is none of this name."""
    if task not in KINDS:
        raise UnusableInput("--task", f"is {task!r}", "one of " + ", ".join(KINDS))
    return KINDS[task]
