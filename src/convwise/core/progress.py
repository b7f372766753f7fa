"""What is told while something long goes on, and to whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from convwise.core.records import Result
from convwise.core.score import ACCURACY

# What is done in each phase, in words; a phase without words stands for itself.
DOING = {
    "read": "reading the images",
    "look": "looking at the images",
    "continue": "continuing an unfinished study",
    "race": "comparing networks",
    "teacher": "training the network that the others learn from",
    "ladder": "trying cheaper networks",
    "beside": "training other networks for comparison",
    "final": "training the chosen network to its end",
    "measure": "measuring what changes are worth",
    "apply": "testing the proposed fixes",
    "stopping": "taking the best so far",
    "writing": "writing code, weights and the report",
    "finished": "finished",
}


@dataclass(frozen=True)
class Live:
    """How far a training is that runs now.

    done: the share of this run; epochs: of it so far; accuracy: the share of the images seen since
    it was asked last that were answered right as they were learnt from, None where that is not
    known yet, and of numbers; images_per_second: so far. baseline: the share that always answering
    the largest class would get right of them.
    """

    trial: str
    done: float
    epochs: float
    accuracy: float | None
    images_per_second: float
    baseline: float | None = None

    @property
    def right(self) -> str:
        """The accuracy, and what it would be without looking, in words; '' where not known."""
        if self.accuracy is None:
            return ""
        beside = (
            f" ({ACCURACY.nothing} {ACCURACY.said(self.baseline)})"
            if self.baseline is not None
            else ""
        )
        return f"{ACCURACY.said(self.accuracy)} of its training images{beside}"


@dataclass(frozen=True)
class Progress:
    """What a watcher is told: the phase, trials done in it and planned, the best so far, seconds
    left.

    baseline: what knowing nothing of the validation images scores; None of numbers before the first
    result, whose network says in which unit. live: the trainings that run now, where this tells of
    nothing else.
    """

    phase: str = field(metadata={"key": "stage"})  # as older files call it
    done: int
    planned: int
    best: Result | None
    seconds_left: float | None
    note: str = ""
    baseline: float | None = None
    live: tuple[Live, ...] = ()

    @property
    def doing(self) -> str:
        """The phase in words."""
        return DOING.get(self.phase, self.phase)


Watcher = Callable[[Progress], None]


def quiet(progress: Progress) -> None:
    """A watcher that says nothing."""
