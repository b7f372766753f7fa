"""What a budget can do: how its time is shared out, predicted from the machine's pace, and said in a sentence."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from math import ceil

from convwise.advice.advising import advise
from convwise.advice.rules import wanted_epochs
from convwise.core.calculus import analyse
from convwise.core.clock import Clock, duration
from convwise.core.goal import Goal
from convwise.core.problems import Infeasible
from convwise.core.records import Advice, Fingerprint, Pace
from convwise.core.space import LatencyModel
from convwise.search import race
from convwise.settings import Settings
from convwise.training import machine, train

TRAINING_SHARE = 0.8  # of a budget's core time that the network handed over is trained for, about
ANSWER_SHARE = 0.1  # of the budget: an interrupt after it gets an answer
QUESTION = 5  # parameters that people ask about: kernel size, filters, strides, padding, activation
WAVES = race.FLIP_SEGMENTS + QUESTION  # of the race, at most: for mirroring, and for the question
LEAST_SECONDS = 3.0  # of a part of the race
MINIMUM_TRIAL_SECONDS = 1.5
TEAM_GAIN = 0.9  # of a further worker, where several train one net
WRITE_SECONDS = 6.5  # kept for checking and writing what comes out, beside scoring


@dataclass(frozen=True)
class Plan:
    """How the time of a study by the clock is shared out.

    image_seconds: predicted, of one training image of the advised net on one worker; sizes: images to
    train on, and to validate; evidence: share of the core time for comparisons; goes_until: the share
    of the budget by which the training of the race's leader has come to its end.
    """

    clock: Clock
    workers: int
    image_seconds: float
    sizes: tuple[int, int]
    evidence: float
    goes_until: float = 1.0

    @property
    def overhead_seconds(self) -> float:
        """Of one trial beside its training: loading, handing over, and validation at a third of a training step."""
        return train.OVERHEAD_SECONDS + self.sizes[1] * self.image_seconds / 3

    @property
    def team_speed(self) -> float:
        """Images a second of the final training over those of one worker."""
        return 1 + TEAM_GAIN * (self.workers - 1)

    @property
    def least_seconds(self) -> float:
        """Of one wave: its parts see images enough to be compared."""
        return max(LEAST_SECONDS, race.LEAST_IMAGES * self.image_seconds) + self.overhead_seconds

    @property
    def race_until(self) -> float:
        """The share of the budget by which the race has ended, where it compares at all."""
        beside = max(self.workers - 1, 1)
        return min(ANSWER_SHARE + self.evidence * self.workers / beside, 0.6 * self.goes_until)

    def waves(self) -> tuple[int, float]:
        """(waves of the race, seconds of training in each).

        At least one, which is the first answer: its training goes on to the end. Where the budget is too short
        for more, one network is trained well, and nothing else is tested.
        """
        left = self.clock.until(self.race_until)
        waves = min(int(left / self.least_seconds), WAVES)
        if waves <= race.FLIP_SEGMENTS or not self.evidence:  # nothing could, or shall, be compared
            waves, left = 1, min(left, self.clock.until(ANSWER_SHARE))
        return waves, max(left / waves - self.overhead_seconds, MINIMUM_TRIAL_SECONDS)

    def part_share(self, waves: int, seconds: float) -> float:
        """Which share of the leader's whole training one part of the race is."""
        return seconds / self.leader_seconds(waves, seconds)

    def leader_seconds(self, waves: int, seconds: float) -> float:
        """Of one worker, for the leader's whole training: its parts of the race, and the rest by all together."""
        ours = (waves if self.workers > 1 else min(waves, race.FLIP_SEGMENTS)) * seconds
        rest = self.clock.until(self.goes_until) - WRITE_SECONDS - waves * (seconds + self.overhead_seconds)
        return ours + max(rest, 1.0) * self.team_speed

    def changes(self) -> int:
        """Single changes of the advised network that the race has time for, beside its mirrored twin."""
        waves, _ = self.waves()
        return max((waves - race.FLIP_SEGMENTS) * max(self.workers - 1, 1), 0)

    def epochs(self) -> float:
        """How often the leader sees each image in its whole training, about."""
        return self.leader_seconds(*self.waves()) / (self.image_seconds * self.sizes[0])

    def enough(self) -> float:
        """Seconds of a budget in which the race tests every parameter of the question, about."""
        if not self.evidence:
            return self.clock.budget
        waves = race.FLIP_SEGMENTS + ceil(QUESTION / max(self.workers - 1, 1))
        left = waves * self.least_seconds + self.clock.elapsed
        return max(left / self.race_until, self.clock.budget)

    def __str__(self) -> str:
        """What the budget is enough for, in a sentence."""
        changes = self.changes()
        budget, epochs = duration(self.clock.budget), f"{max(self.epochs(), 1):,.0f}"
        said = f"in {budget} this machine can train one network for about {epochs} epochs"
        if not self.evidence:
            return said
        said += f" and test {f'about {changes}' if changes else 'no'} change{'s' if changes > 1 else ''} of it"
        return said if changes >= QUESTION else f"{said}; {duration(self.enough())} would test {QUESTION}"


def planned(advice: Advice, sizes: tuple[int, int], budget: float) -> Plan:
    """What a study on this machine would do with a budget that begins now; sizes as a Plan has them."""
    engine, total = machine.engine(), analyse(advice.net).total
    image_seconds = machine.pace(engine).seconds(total.macs, total.activation_bytes)
    return Plan(Clock(budget, time.monotonic()), machine.workers(engine), image_seconds, sizes, Settings.evidence)


def needed(views: float, images: int, seconds: float, short: str = "The budget was too short") -> str:
    """What to do where nothing was learnt in so many seconds: how many show each image often enough, or what else."""
    wanted = wanted_epochs(images)
    if views >= wanted:
        return f"Each image was seen {views:.0f} times, so more time will hardly help: check the labels and the classes"
    more = duration(seconds * wanted / max(views, 0.1))
    return f"{short}: each image was seen {views:.1f} times; about {more} are needed here"


def within_latency(facts: Fingerprint, goal: Goal, pace: Pace, final_seconds: float, threads: int) -> Advice:
    """The advice whose first net keeps a latency limit as *measured*: the prediction is corrected by what is seen."""
    limit = next((limit.at_most for limit in goal.limits if limit.metric == "latency_ms"), None)
    if limit is None:
        return advise(facts, goal, pace, final_seconds, threads)
    model: LatencyModel = machine.latency_model()
    for _ in range(6):
        advice = advise(facts, goal, pace, final_seconds, threads, model)
        measured = machine.latency_ms(advice.net)
        if measured <= limit:
            return advice
        predicted = advice.space.cost(advice.net)["latency_ms"]
        model = replace(model, margin=model.margin * 1.1 * measured / predicted)
    what = f"the smallest network tried takes {measured:.3g} ms, {measured / limit:.1f} times its limit"
    raise Infeasible("goal", what, goal.text, "raise the limit, or shrink the images")
