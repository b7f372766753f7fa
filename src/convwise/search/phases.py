"""The phases of a search, one record each, and what they share: advice, results, what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal, Protocol

from convwise.core.configuration import Configuration
from convwise.core.records import INTERRUPTED, Advice, Result, Trial


@dataclass(frozen=True)
class Phase:
    """One phase of a search.

    name: of its trials, in the ledger. until: the share of the budget by which it has ended.
    epochs: of one of its trainings, where trials are counted. alone: it is one training, by all
    workers together. role: whether its trainings are to choose from, to compare the choice with, or
    that of the network handed over. strategy: the row of STRATEGIES that proposes them; '' where
    its own waves do.
    """

    name: str
    until: float
    epochs: int
    alone: bool = False
    role: Literal["search", "comparison", "final"] = "search"
    strategy: str = ""


# The leader trains on, others take its first steps; with less evidence it ends earlier.
RACE = Phase("race", 0.6, 4, strategy="neighbours")
# For a goal of cost the leader is trained to its end, as the teacher
TEACHER = Phase("teacher", 0.45, 8, alone=True)
KNOWN_UNTIL = 0.25  # instead, where the accuracy to keep is a number: the best net is not needed
LADDER = Phase("ladder", 0.68, 8)  # nets of falling cost
# The chosen net and others that were named, from the beginning, to be compared.
BESIDE = Phase("beside", 0.85, 8, role="comparison")
# The rest of the chosen net's training, on everything not sealed.
FINAL = Phase("final", 1.0, 16, alone=True, role="final")
PHASES = (RACE, TEACHER, LADDER, BESIDE, FINAL)


@dataclass(frozen=True)
class Wave:
    """Trials that run side by side: the `number`th of so many planned (0 where that is not known).

    note: what is to be said before it.
    """

    phase: Phase
    trials: tuple[Trial, ...]
    number: int = 0
    planned: int = 1
    note: str = ""


@dataclass(frozen=True)
class Allowed:
    """What a phase may spend: so many waves, or so many trials where they are limited.

    seconds: of each training; None where epochs are counted.
    """

    waves: int
    trials: int | None
    seconds: float | None

    def room(self, workers: int, waves: int, trials: int) -> int:
        """Trials of the next wave at most, after so many waves and trials."""
        if self.trials is None:
            return workers if waves < self.waves else 0
        return max(min(workers, self.trials - trials), 0)


class Budget(Protocol):
    """What is left to spend, by the clock or in counted trials, and how it is shared out."""

    @property
    def workers(self) -> int:
        """Trials side by side."""

    @property
    def threads(self) -> int:
        """Of a training that has the machine to itself."""

    def race(self, kept: int) -> Allowed:
        """What the race may spend, of which so many trials have ended."""

    def segment_share(self, allowed: Allowed) -> float:
        """Which share of the leader's whole training one segment of the race is."""

    def teacher_seconds(self) -> float | None:
        """Of the teacher's training; None where epochs are counted, here as below."""

    def teaches(self, teacher: Result) -> bool:
        """Whether there is time for the teacher's answers to every image."""

    def ladder(self, rungs: int, kept: int) -> Allowed:
        """What a ladder of so many rungs may spend, of which so many trials have ended."""

    def beside(self, rivals: int) -> Allowed:
        """What trainings of the chosen net and so many others may spend; no wave without time."""

    def final_seconds(self, chosen: Result, scored: int) -> float | None:
        """Of the final training; scored: images that are answered after it."""

    def trained_share(
        self, chosen: Result, segments: Sequence[Result], seconds: float | None
    ) -> float:
        """Which share of its whole training a net has behind it that is trained for so many seconds
        more.

        segments: of the race, of which its training consists so far.
        """


class Record(Protocol):
    """Where the results are so far; a ledger is one."""

    @property
    def results(self) -> Sequence[Result]: ...


@dataclass(frozen=True)
class Search:
    """What the phases share. What they propose follows from it alone: they see neither storage nor
    runner.

    enough: images, each counted as often as it is seen, from which a training on these images
    learns little more.
    """

    advice: Advice
    record: Record
    budget: Budget
    seed: int = 0
    enough: float = inf

    def trial(self, id: str, phase: Phase, given: Configuration, seconds: float | None) -> Trial:
        """Its training, of so many seconds, or of the phase's epochs."""
        epochs = phase.epochs if seconds is None else None
        how = (seconds, epochs, 1000 * self.seed)
        score = self.advice.space.goal.score
        return Trial(id, phase.name, dict(given), given.net, given.recipe, *how, score=score)

    def tried(self, phase: Phase) -> list[Result]:
        """The results of one phase."""
        return [r for r in self.record.results if r.trial.phase == phase.name]

    @property
    def ended(self) -> bool:
        """Whether the chosen net has been trained to its end."""
        return any(result.reason != INTERRUPTED for result in self.tried(FINAL))


def last_number(ran: Sequence[Result]) -> int:
    """The highest number in the names of trials, 'race-NUMBER-SLOT' or 'ladder-NUMBER'; 0 where
    there are none.

    A continued study goes on counting from there, also where trials side by side did not all end: a
    name, and the weights that are kept under it, stand for one network for ever.
    """
    return max((int(result.trial.id.split("-")[1]) for result in ran), default=0)
