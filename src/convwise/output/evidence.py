"""What the report shows: a study's records, and which of its trainings are told of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from convwise.core.configuration import Draft
from convwise.core.net import Net
from convwise.core.problems import Problem
from convwise.core.records import Fingerprint, Point, Result, Verdict
from convwise.core.score import Score, score_of
from convwise.inspect.sight import EffectiveField
from convwise.output.drawings import Odd
from convwise.search.phases import FINAL, PHASES

# Phases whose trainings are no part of the race
APART = tuple(phase.name for phase in PHASES if phase.role != "search")


@dataclass(frozen=True)
class Evidence:
    """Everything that the report shows.

    results: every trial, failed ones too; the final training's has the phase 'final'. estimate:
    kind ('test' or 'validation'), accuracy or error, low, high (95 %), n. pixels: uint8 (n, h, w,
    c), the images that were scored; labels: (n,), or (n, k); answers: (n, classes), or numbers (n,
    k); names: their files; outputs: what the numbers of an answer are called. code: file name ->
    source. cost: params, macs, activation_bytes, latency_ms. differences: the largest difference of
    each exported format from our own forward. provenance: command, versions, machine, seeds,
    budget, wall clock. sight: the measured field, where there was an image to measure on. advised:
    the sample that the advice began with. against: comparisons with other networks, as choice.json
    has them. odd: what is odd about the images.
    """

    title: str
    verdict: Verdict
    results: tuple[Result, ...]
    fingerprint: Fingerprint
    problems: tuple[Problem, ...]
    outputs: tuple[str, ...]
    estimate: Mapping[str, Any]
    pixels: np.ndarray
    labels: np.ndarray
    answers: np.ndarray
    names: tuple[str, ...]
    code: Mapping[str, str]
    cost: Mapping[str, float]
    differences: Mapping[str, float]
    provenance: Mapping[str, Any]
    sight: EffectiveField | None = None
    advised: Draft = field(default_factory=dict)
    against: tuple[Mapping[str, Any], ...] = ()
    odd: Odd = Odd()
    task: str = "classify"

    @property
    def score(self) -> Score:
        """How its score is told: what the goal scores by."""
        return score_of(self.net, self.verdict.chosen.trial.score)

    @property
    def net(self) -> Net:
        """The chosen network."""
        return self.verdict.chosen.trial.net

    @property
    def final(self) -> Result | None:
        """The rest of the chosen network's training, where there was one."""
        ended = [r for r in self.results if r.trial.phase == FINAL.name and r.status == "done"]
        return ended[-1] if ended else None

    @property
    def marked(self) -> dict[str, str]:
        """First trial -> label of the trainings that the plots point out."""
        chosen = parts_of(self.results, self.verdict.chosen)[0]
        if chosen.trial.configuration == self.advised:
            return {chosen.trial.id: "chosen, as advised"}
        begun = [training[0].trial for training in self.trainings]
        advised = [trial.id for trial in begun if trial.configuration == self.advised]
        return {chosen.trial.id: "chosen", **({min(advised): "advised"} if advised else {})}

    @property
    def trainings(self) -> list[list[Result]]:
        """The trainings of the race that ended, each as its segments in their order."""
        ended = [r for r in self.results if r.trial.phase not in APART and r.status == "done"]
        gone_on = {r.trial.resumes for r in ended}
        return [parts_of(ended, r) for r in ended if r.trial.id not in gone_on]


def parts_of(results: Sequence[Result], last: Result) -> list[Result]:
    """The segments of one training that end with `last`, in their order."""
    known, segments = {r.trial.id: r for r in results}, [last]
    while (before := known.get(segments[0].trial.resumes)) and before not in segments:
        segments.insert(0, before)
    return segments


def joined(segments: Sequence[Result]) -> Result:
    """The segments of a training as one: their curves in line, the score of the last."""
    history: list[Point] = []
    for segment in segments:
        seconds, images = (history[-1].seconds, history[-1].images) if history else (0.0, 0)
        history += [
            replace(p, seconds=p.seconds + seconds, images=p.images + images)
            for p in segment.history
        ]
    return replace(
        segments[0],
        history=tuple(history),
        score=segments[-1].score,
        seconds=sum(p.seconds for p in segments),
    )
