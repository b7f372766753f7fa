"""The ladder: nets of falling cost; which is the cheapest that is good enough?

Each rung of the ladder is trained for as long as every other one and to the end of its schedule.
They are tried from the middle of the ladder outwards.

For goals such as 'macs where accuracy>=best-0.3%' the net that the race has judged is trained to
its end first: the teacher, which shows what the best is. Cheaper nets learn from its answers as
well as from the labels (Hinton et al. 2015). Where the accuracy to keep is a number, as in 'macs
where accuracy>=0.97', there is no teacher, and the race's net is the first rung (docs/findings.md,
'a weak teacher').
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf, log

from convwise.core.configuration import Configuration, Draft
from convwise.core.goal import Goal
from convwise.core.records import Reason, Result, Trial, Verdict
from convwise.core.score import Score, score_of
from convwise.core.space import WIDTHS, Space
from convwise.core.text import short
from convwise.evidence.effects import INDIFFERENT
from convwise.evidence.paired import paired_difference
from convwise.search import race
from convwise.search.judge import judge
from convwise.search.phases import LADDER, RACE, TEACHER, Search, Wave, last_number
from convwise.search.ranking import front

# Share of the budget that the teacher's answers may take: where there are too many images for it,
# each is seen seldom, and rungs learn from labels alone.
TEACHING_SHARE = 0.1
TIMES_CHEAPER = (3, 6, 12, 24, 48, 96, 192)  # than the teacher: the rungs
# What can make a net cheaper beside fewer filters, best first: of two nets of one rung the first is
# taken (docs/findings.md, 'which way down').
SHAPES: tuple[Draft, ...] = (
    {"stage.widening": 2},
    {},
    {"block": "separable", "stem": "learned"},
    {"stage.widening": 2, "stem.strides": 2},
    {"stem.strides": 2},
    {"block": "separable", "stem": "learned", "stem.strides": 2},
)
# Share of a rung's mistakes that the final training takes away at least, being several times as
# long; none of a rung that has seen enough already (docs/findings.md, 'a narrow net has soon seen
# enough').
LEARNT_LATER = 0.1
LEAST_SECONDS = 3.0  # of a rung's training
SHORT = {
    "macs": "macs",
    "params": "parameters",
    "activation_bytes": "activation bytes",
    "latency_ms": "ms",
}


def waves(search: Search, teach: Callable[[Trial], None]) -> Iterator[Wave]:
    """Cheaper nets, wave after wave; where the best is to be found out, the race's net is trained
    to its end before.

    teach: stores the answers that the cheaper nets learn from.
    """
    budget, space = search.budget, search.advice.space
    chosen, ran = judge(search.advice, search.record.results).chosen, search.tried(LADDER)
    top, taught = race.onwards(search.advice, search.tried(RACE), chosen), ""
    if (wanted := space.goal.cheapest) and wanted.given:
        steps = [top, *rungs(top, _metric(space))]
    else:
        if not search.tried(TEACHER):
            yield Wave(
                TEACHER, (race.to_the_end(search, chosen, TEACHER, budget.teacher_seconds()),)
            )
        if (trained := teacher(search.record.results)) is None:
            return  # it failed: the race's own choice is trained to its end
        if budget.teaches(trained):
            teach(trained.trial)
            taught = trained.trial.id
        steps = rungs(space.fit(trained.trial.configuration), _metric(space))
    allowed = budget.ladder(len(steps), len(ran))
    before = last_number(ran)
    number = done = 0
    while most := allowed.room(budget.workers, number, done):
        taken = of(search).wave(steps, budget.workers)[:most]
        if not taken:
            return
        trials = [search.trial(f"ladder-{before + done + slot}", LADDER, rung, allowed.seconds)
                  for slot, rung in enumerate(taken, 1)]  # fmt: skip
        trials = [replace(trial, teacher=taught) for trial in trials]
        yield Wave(LADDER, tuple(trials), number, allowed.waves)
        number, done = number + 1, done + len(taken)


def answering_seconds(teacher: Result, images: int) -> float:
    """Predicted seconds of the teacher's answers to so many images: about a third of as many
    training steps.

    They are in float32, and of both views where it has learnt mirrored images.
    """
    views = images * (2 if teacher.trial.recipe.flip else 1)
    return views / max(teacher.images_per_second, 1.0)


def teacher(results: Sequence[Result]) -> Result | None:
    """The teacher, where its training has ended well."""
    return next((r for r in results if r.trial.phase == TEACHER.name and r.status == "done"), None)


def rungs(top: Configuration, metric: str) -> list[Configuration]:
    """From dear to cheap: at most one net for each of TIMES_CHEAPER, the dearest of its shape that
    fits there.

    Latency is not known before it is measured: macs stand for it.
    """
    by = metric if metric in top.cost else "macs"
    narrower = [width for width in reversed(WIDTHS) if width <= top.stage_filters]
    known = [
        top.space.fit({**top, **shape, "stage.filters": width})
        for shape in SHAPES
        for width in narrower
    ]
    times = [top.cost[by] / each.cost[by] for each in known]
    steps = zip(TIMES_CHEAPER, (*TIMES_CHEAPER[1:], 2 * TIMES_CHEAPER[-1]), strict=True)
    found = [
        next((s for s, t in zip(known, times, strict=True) if least <= t < below), None)
        for least, below in steps
    ]
    return [rung for rung in found if rung is not None]


@dataclass(frozen=True)
class Ladder:
    """What became of the rungs that were tried, and of the teacher where there is one.

    enough: as a Search has it.
    """

    space: Space
    results: Sequence[Result]
    enough: float = inf

    @property
    def teacher(self) -> Result | None:
        return teacher(self.results)

    @property
    def goal(self) -> Goal:
        return self.space.goal

    @property
    def metric(self) -> str:
        return _metric(self.space)

    @property
    def score(self) -> Score:
        """How scores are told."""
        return score_of(self.ended[0].trial.net, self.goal.score)

    @property
    def floor(self) -> float:
        """The score to keep; a rung's may be the best, where the teacher saw few images."""
        assert self.goal.cheapest is not None
        return self.goal.cheapest.floor(max(r.score or 0.0 for r in self.ended), self.score)

    @property
    def tried(self) -> list[Result]:
        """The trainings of rungs that ended well."""
        return [
            r
            for r in self.results
            if r.trial.phase == LADDER.name and r.status == "done" and r.score is not None
        ]

    @property
    def ended(self) -> list[Result]:
        """The trainings that one can be chosen of."""
        return [*filter(None, [self.teacher]), *self.tried]

    def keeps(self, result: Result) -> bool:
        """Whether a net trained for long will have the accuracy to keep, inside all limits."""
        seen = result.history[-1].images if result.history else 0
        mistakes = (1 - (result.score or 0.0)) * (1 - (LEARNT_LATER if seen < self.enough else 0.0))
        return 1 - mistakes >= self.floor and not self.goal.excess(result.cost)

    def wave(self, rungs: Sequence[Configuration], workers: int) -> list[Configuration]:
        """What runs next, side by side: some of the rungs, spread over those still in question."""
        ended = {r.trial.key: r for r in self.results if r.trial.phase == LADDER.name}
        outcomes = [ended.get(rung.key) for rung in rungs]
        kept = max(
            (i for i, r in enumerate(outcomes) if r and r.status == "done" and self.keeps(r)),
            default=-1,
        )
        missed = next((i for i, r in enumerate(outcomes) if r and i > kept), len(rungs))
        question = rungs[kept + 1 : missed]
        count = min(workers, len(question))
        return [question[(i + 1) * (len(question) + 1) // (count + 1) - 1] for i in range(count)]

    def verdict(self, judged: Verdict) -> Verdict:
        """The cheapest net that keeps the accuracy; where none does, the cheapest of those that
        come nearest.

        judged: what the race says, where none ended that is inside the limits.
        """
        candidates = [r for r in self.ended if not self.goal.excess(r.cost)]
        if not candidates:
            return judged
        good = [r for r in candidates if self.keeps(r)]
        nearest = max(candidates, key=lambda r: (r.score or 0.0, -r.cost[self.metric]))
        as_near = [r for r in candidates if _is_as_near(nearest, r)]
        chosen = min(good or as_near, key=lambda r: r.cost[self.metric])
        why = self._why(chosen, None if good else nearest)
        source = (
            "Hinton et al. 2015"
            if chosen.trial.teacher
            else "ours: docs/findings.md, 'which way down'"
        )
        reason = Reason("net", chosen.trial.net.id, why, "trials", source)
        notes = () if good else (self._miss(nearest),)
        return replace(judged, chosen=chosen, alternatives=front(candidates, self.metric),
                       reasons=(reason,), notes=(*judged.notes, *notes))  # fmt: skip

    def _why(self, chosen: Result, nearest: Result | None) -> str:
        wanted, top = f"the {self.score.told(self.floor)} that must be kept", ""
        if self.teacher:
            top = (
                f"the teacher reached {self.teacher.told} at {amount(self.metric, self.teacher)}; "
            )
        if chosen is self.teacher:
            tried = len(self.tried)
            others = (
                f"none of the {tried} cheaper networks tried keeps"
                if tried
                else "no cheaper one was tried for"
            )
            return f"{top}{others} {wanted}, so the teacher itself is handed over"
        why = f"{top}this network keeps {chosen.told} at {amount(self.metric, chosen)}"
        if nearest is chosen:
            return f"{why}: of the {len(self.tried)} tried, it comes nearest to {wanted}"
        if nearest:
            level = "the cheapest whose score cannot be told apart from that of the nearest"
            missed = f"none of the {len(self.tried)} tried keeps {wanted}"
            return f"{why}: {missed}, and it is {level}, {nearest.told}"
        later = "" if (chosen.score or 0.0) >= self.floor else ", once it is trained for longer"
        return f"{why}, the cheapest of {len(self.tried)} tried that reaches {wanted}{later}"

    def _miss(self, nearest: Result) -> str:
        wanted = self.score.told(self.floor)
        missing = (
            self.score.moved(self.floor - (nearest.score or 0.0), signed=False) + self.score.unit
        )
        longest = (
            f"; the teacher, which was trained the longest, got {self.teacher.told}"
            if self.teacher
            else ""
        )
        if self.score.is_error:
            what = f"No network tried reaches an error of {wanted}: the best got {nearest.told}"
            return f"{what} on the validation images, {missing} more{longest}."
        right = self.score.name == "accuracy"
        there = "of the validation images right" if right else f"{self.score.words} in validation"
        best = f"the best got {nearest.told} {there}, {missing} below"
        return f"No network tried reaches {wanted}: {best}{longest}."


def of(search: Search) -> Ladder:
    """The ladder of a search, as far as it has come."""
    return Ladder(search.advice.space, search.record.results, search.enough)


def planned(rungs: int, workers: int, seconds: float, overhead: float) -> tuple[int, float]:
    """(waves, seconds of each training) with which the last good one of so many rungs is found in
    `seconds`.

    Fewer waves where there is little time.
    """
    waves = min(needed(rungs, workers), int(seconds / (LEAST_SECONDS + overhead)))
    return waves, seconds / waves - overhead if waves else 0.0


def needed(rungs: int, workers: int) -> int:
    """Waves in which the last good one of so many rungs is found."""
    return ceil(log(rungs + 1) / log(min(workers, rungs) + 1) - 1e-9) if rungs else 0


def _is_as_near(nearest: Result, other: Result) -> bool:
    """Whether it is behind the nearest by no more than a standard error, and than a point."""
    behind, error = paired_difference(nearest, other)
    return behind <= min(error, INDIFFERENT)


def _metric(space: Space) -> str:
    """What is to be cheap."""
    assert space.goal.cheapest is not None
    return space.goal.cheapest.metric


def amount(metric: str, result: Result) -> str:
    """82_310_000 macs -> '82.3M macs'."""
    return f"{short(result.cost[metric])} {SHORT[metric]}"
