"""What is told while something long goes on, and to whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from convwise.core.records import Result


@dataclass(frozen=True)
class Progress:
    """What a watcher is told: the stage, trials done in it and planned, the best so far, seconds left.

    baseline: what knowing nothing of the images scores, beside the best.
    """

    stage: str
    done: int
    planned: int
    best: Result | None
    seconds_left: float | None
    note: str = ""
    baseline: float | None = None


Watcher = Callable[[Progress], None]


def quiet(progress: Progress) -> None:
    """A watcher that says nothing."""
