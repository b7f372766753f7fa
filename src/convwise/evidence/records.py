"""The records of an experiment: what is edited and on which terms, where the trainings run, where
their results are kept, and what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from convwise.core.clock import Clock
from convwise.core.configuration import Draft
from convwise.core.net import Net
from convwise.core.problems import UnusableInput
from convwise.core.progress import Watcher, quiet
from convwise.core.records import Effect, Pace, Recipe, Result
from convwise.core.score import ACCURACY, Score
from convwise.core.text import number as shown
from convwise.training.runners import Runner

MOST_SEEDS = 10  # pairs of trainings for each edit, where the time is not short


@dataclass(frozen=True)
class Base:
    """What is edited.

    recipe: how it and its edits are trained; configuration: what the record keeps of it. Where the
    recipe is None, `measure_on` asks the images, and `experiment` takes the default one.
    """

    net: Net
    recipe: Recipe | None = None
    configuration: Draft = field(default_factory=dict)


@dataclass(frozen=True)
class Edit:
    """One change of the base. parameter: its name; before, after: its values; the rest as in Base.

    recipe: None where the edited net is trained as the base is.
    """

    parameter: str
    net: Net
    before: Any = "as it is"
    after: Any = "edited"
    recipe: Recipe | None = None
    configuration: Draft = field(default_factory=dict)


@dataclass(frozen=True)
class Terms:
    """What all trainings share.

    seeds: pairs of trainings for each edit, fewer where the time is short, up to most_seeds where
    it is not; most_seconds: no training is longer; name: the ids of all trials begin with it, and
    what the record holds under it is used again.
    """

    seeds: int = 3
    seed: int = 0
    most_seconds: float = float("inf")
    most_seeds: int = MOST_SEEDS
    name: str = "experiment"

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UnusableInput("seeds", f"is {self.seeds}", "at least 1")


@dataclass(frozen=True)
class Bench:
    """Where the trainings run, on what, and until when.

    folder: where `runner` and its `workers` find the stored parts and leave weights (train.run);
    ensure: stores both parts there as a net learns from them; pace: seconds of one training
    image, all workers busy; train: images in the stored train part; labels: of the stored valid
    part, (n,); clock: the budget of everything; watcher: hears how far the trainings are; task:
    what is learnt.
    """

    folder: Path
    runner: Runner
    workers: int
    pace: Pace
    train: int
    labels: np.ndarray
    ensure: Callable[[Net], None]
    clock: Clock
    watcher: Watcher = quiet
    task: str = "classify"


class Record(Protocol):
    """Where results are kept and found again: a Ledger is one."""

    @property
    def results(self) -> Sequence[Result]: ...

    def append(self, result: Result) -> None: ...


@dataclass
class Memory:
    """A record that lasts as long as the process."""

    results: list[Result] = field(default_factory=list)

    def append(self, result: Result) -> None:
        """Keep one more result."""
        self.results.append(result)


@dataclass(frozen=True)
class Measured:
    """What one edit is worth; effect is None where that was not measured, and the notes say why."""

    edit: Edit
    effect: Effect | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        notes = "; ".join(self.notes)
        if (effect := self.effect) is None:
            return f"not measured: {notes}"
        low, high = sorted(map(effect.score.change, (effect.low, effect.high)))
        within = effect.span if effect.score.is_error else f"{100 * low:.1f} to {100 * high:.1f}"
        told = f"measured: {effect.moved} ({within}) after {shown(effect.seconds)} s of training, "
        told += f"{effect.verdict}; a step takes {effect.time_ratio:.2f} times as long"
        return told + (f" ({notes})" if notes else "")


@dataclass(frozen=True)
class Found:
    """Every edit in the order given, and how the base did on the validation images.

    accuracy: of the base, or its error: see score; baseline: what knowing nothing of these images
    scores; seconds: of each training; notes: what to know of them all.
    """

    measured: tuple[Measured, ...]
    accuracy: float | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    interrupted: bool = False
    score: Score = ACCURACY
    baseline: float | None = None

    @property
    def effects(self) -> tuple[Effect, ...]:
        """Of the edits that were measured."""
        return tuple(one.effect for one in self.measured if one.effect)
