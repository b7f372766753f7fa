"""What a budget can do: how its time is shared out, predicted from the machine's pace, and said in
a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from convwise.advice.advising import advise
from convwise.advice.rules import wanted_epochs
from convwise.core.calculus import analyse
from convwise.core.clock import Clock, duration
from convwise.core.goal import Goal
from convwise.core.net import Net
from convwise.core.parameters import FIVE
from convwise.core.problems import Infeasible
from convwise.core.records import Advice, Fingerprint, Pace, Result
from convwise.core.space import LatencyModel
from convwise.search import ladder, race
from convwise.search.phases import BESIDE, FINAL, KNOWN_UNTIL, LADDER, RACE, TEACHER, Allowed
from convwise.settings import ANSWER_SHARE, Settings
from convwise.training import train
from convwise.training.host import Host
from convwise.training.lab import Lab

QUESTION = len(FIVE)
WAVES = race.FLIP_SEGMENTS + QUESTION  # of the race, at most: for mirroring, and for the question
LEAST_SECONDS = 3.0  # of a segment of the race
# The largest share of the budget for a wave that is the only one, which asks about mirrored images
ONLY_SHARE = 0.1
MINIMUM_TRIAL_SECONDS = 1.5
MINIMUM_FINAL_SECONDS = 2.0
MEETING_SECONDS = 0.012  # of a step of several workers that train one net: they wait for each other
# Time kept for checking and writing what comes out, beside scoring, on an idle machine
WRITE_SECONDS = 6.0
# Shares of the budget: for training beside another network, and beside all of them
BESIDE_SHARE, MOST_BESIDE = 0.15, 0.3
# Share of the time left that is trained, however slow writing is: that can leave things out
LEAST_TRAINED = 0.5


@dataclass(frozen=True)
class Plan:
    """How the time of a study by the clock is shared out.

    image_seconds: predicted, of one training image of the advised net on one worker; sizes: images
    to train on, and to validate; evidence: share of the core time for comparisons; team_speed:
    images a second of the final training, by all workers, over those of one; goes_until: the share
    of the budget by which the training of the race's leader has come to its end; threads: of a
    training that has the machine to itself; rivals: the image_seconds of each network to be
    compared with. slowness: how many seconds one second of work takes at this moment.
    """

    clock: Clock
    workers: int
    image_seconds: float
    sizes: tuple[int, int]
    evidence: float
    team_speed: float = 1.0
    goes_until: float = 1.0
    threads: int = 1
    rivals: tuple[float, ...] = ()
    slowness: Callable[[], float] = lambda: 1.0

    @property
    def overhead_seconds(self) -> float:
        """Of one trial beside its training: loading, handing over, and validation at a third of a
        training step.
        """
        return train.OVERHEAD_SECONDS + self.sizes[1] * self.image_seconds / 3

    @property
    def segment_overhead_seconds(self) -> float:
        """The same of a segment of a training, as the race has them."""
        return (
            train.OVERHEAD_SECONDS
            + min(self.sizes[1], train.SEGMENT_IMAGES) * self.image_seconds / 3
        )

    @property
    def least_seconds(self) -> float:
        """Of one wave: its segments see images enough to be compared."""
        return (
            max(LEAST_SECONDS, race.LEAST_IMAGES * self.image_seconds)
            + self.segment_overhead_seconds
        )

    @property
    def race_until(self) -> float:
        """The share of the budget by which the race has ended, where it compares at all."""
        beside = max(self.workers - 1, 1)
        return min(
            ANSWER_SHARE + self.evidence * self.workers / beside, RACE.until * self.goes_until
        )

    def waves(self) -> tuple[int, float]:
        """(waves of the race, seconds of training in each).

        At least one, which is the first answer: its training goes on to the end. Where the budget
        is too short for more, one network is trained well, and nothing else is tested but what it
        says of mirrored images.
        """
        left = self.clock.until(self.race_until)
        waves = min(int(left / self.least_seconds), WAVES)
        if waves > race.FLIP_SEGMENTS and self.evidence:
            return waves, max(left / waves - self.segment_overhead_seconds, MINIMUM_TRIAL_SECONDS)
        told = min(1.2 * race.LEAST_IMAGES * self.image_seconds, ONLY_SHARE * self.clock.budget)
        first = min(left, self.clock.until(ANSWER_SHARE)) - self.segment_overhead_seconds
        return 1, max(first, told, MINIMUM_TRIAL_SECONDS)

    # What the phases of a search ask: see search/phases.py.

    def race(self, kept: int) -> Allowed:
        waves, seconds = self.waves()
        return Allowed(waves, 1 if waves == 1 else None, seconds)  # a single wave compares nothing

    def segment_share(self, allowed: Allowed) -> float:
        seconds = allowed.seconds or 0.0
        return seconds / self.leader_seconds(allowed.waves, seconds)

    def teacher_seconds(self) -> float:
        return max(self.clock.until(self.goes_until) - self.overhead_seconds, MINIMUM_TRIAL_SECONDS)

    def teaches(self, teacher: Result) -> bool:
        return (
            ladder.answering_seconds(teacher, sum(self.sizes))
            <= ladder.TEACHING_SHARE * self.clock.budget
        )

    def ladder(self, rungs: int, kept: int) -> Allowed:
        waves, seconds = ladder.planned(
            rungs, self.workers, self.clock.until(LADDER.until), self.overhead_seconds
        )
        return Allowed(waves, None, seconds)

    def beside(self, rivals: int) -> Allowed:
        waves, seconds = self.beside_waves()
        left = self.clock.until(BESIDE.until) / waves - self.scoring_seconds
        seconds = float(int(2 * min(seconds, left))) / 2
        return Allowed(waves if seconds >= self.least_beside else 0, None, seconds)

    def final_seconds(self, chosen: Result, scored: int) -> float:
        """What is left beside scoring, and writing, which a busy machine makes slower."""
        left = self.clock.until(FINAL.until)
        ending = self.slowness() * (WRITE_SECONDS + train.OVERHEAD_SECONDS)
        ending += scored / max(3 * chosen.images_per_second, 1.0)  # a third of a training step
        return max(left - ending, LEAST_TRAINED * left, MINIMUM_FINAL_SECONDS)

    def trained_share(
        self, chosen: Result, segments: Sequence[Result], seconds: float | None
    ) -> float:
        speed = self.team_speed if chosen.trial.threads > 1 else 1.0
        worked = sum(r.seconds for r in segments) + (
            chosen.seconds * speed if chosen.trial.span[1] == 1 else 0.0
        )
        return worked / (worked + (seconds or 0.0) * self.team_speed)

    # Beside other networks ---------------------------------------------------------------------

    @property
    def scoring_seconds(self) -> float:
        """Of one training beside others, apart from the training itself."""
        scored = self.sizes[1] + train.curve_images(self.sizes[1])
        return train.OVERHEAD_SECONDS + scored * max((self.image_seconds, *self.rivals)) / 3

    @property
    def least_beside(self) -> float:
        """Seconds of a training that is worth comparing."""
        return max(LEAST_SECONDS, race.LEAST_IMAGES / 8 * max((self.image_seconds, *self.rivals)))

    def beside_waves(self) -> tuple[int, float]:
        """(waves, seconds of training in each) of the chosen network and those that were named."""
        waves = ceil((len(self.rivals) + 1) / self.workers)
        share = min(BESIDE_SHARE * waves, MOST_BESIDE)
        return waves, share * self.clock.budget / waves - self.scoring_seconds

    @property
    def set_aside(self) -> float:
        """Seconds of the budget for that."""
        waves, seconds = self.beside_waves()
        return (
            waves * (seconds + self.scoring_seconds)
            if self.rivals and seconds >= self.least_beside
            else 0.0
        )

    def said_beside(self) -> str:
        """What is planned of it, after the rest of the plan."""
        if not self.rivals:
            return ""
        waves, seconds = self.beside_waves()
        if seconds >= self.least_beside:
            return (
                f"; then it and the networks to compare it with train for about {seconds:.0f} s"
                " each"
            )
        share = min(BESIDE_SHARE * waves, MOST_BESIDE) / waves
        enough = 1.1 * (self.least_beside + self.scoring_seconds) / share
        return (
            "; there is no time left to compare it with other networks: --budget"
            f" {duration(enough)} would be enough"
        )

    # What it is enough for -------------------------------------------------------------------

    def leader_seconds(self, waves: int, seconds: float) -> float:
        """Of one worker, for the leader's whole training: its segments of the race, and the rest by
        all together.
        """
        ours = (waves if self.workers > 1 else min(waves, race.FLIP_SEGMENTS)) * seconds
        ended = WRITE_SECONDS + self.set_aside if self.goes_until == FINAL.until else 0.0
        rest = (
            self.clock.until(self.goes_until)
            - ended
            - waves * (seconds + self.segment_overhead_seconds)
        )
        return ours + max(rest, 1.0) * self.team_speed

    def changes(self) -> int:
        """Single changes of the advised network that the race has time for, beside its twin."""
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
        given, epochs = self.clock.budget, round(max(self.epochs(), 1))
        budget = f"{given:.0f}s" if given % 60 else duration(given)  # not rounded up
        said = (
            f"in {budget} this machine can train one network for about {epochs:,}"
            f" epoch{'s' if epochs > 1 else ''}"
        )
        if self.evidence:
            said += (
                f" and test {f'about {changes}' if changes else 'no'}"
                f" change{'s' if changes != 1 else ''} to it"
            )
            said += (
                "" if changes >= QUESTION else f"; {duration(self.enough())} would test {QUESTION}"
            )
        if self.goes_until < FINAL.until:
            rest = duration((1 - self.goes_until) * self.clock.budget)
            said += f"; after that, it tries smaller networks for about {rest}"
        return said + self.said_beside()


@dataclass(frozen=True)
class Counted:
    """A number of trials, each of its phase's epochs: with one worker, the same choice each time.

    cheapest: half of them are for the ladder.
    """

    trials: int
    workers: int
    cheapest: bool = False
    threads: int = 1

    def race(self, kept: int) -> Allowed:
        return Allowed(0, self.trials - (self.trials // 2 if self.cheapest else 0) - kept, None)

    def segment_share(self, allowed: Allowed) -> float:
        rest = (TEACHER if self.cheapest else FINAL).epochs
        return RACE.epochs / (RACE.epochs * race.FLIP_SEGMENTS + rest)

    def teacher_seconds(self) -> None:
        return None

    def teaches(self, teacher: Result) -> bool:
        return True

    def ladder(self, rungs: int, kept: int) -> Allowed:
        return Allowed(ladder.needed(rungs, self.workers), self.trials // 2 - kept, None)

    def beside(self, rivals: int) -> Allowed:
        return Allowed(ceil((rivals + 1) / self.workers), None, None)

    def final_seconds(self, chosen: Result, scored: int) -> None:
        return None

    def trained_share(
        self, chosen: Result, segments: Sequence[Result], seconds: float | None
    ) -> float:
        if chosen.trial.span[1] < 1:
            return chosen.trial.span[1]
        behind = sum(r.trial.epochs or 0 for r in (*segments, chosen))
        return behind / (behind + FINAL.epochs)


def planned(advice: Advice, sizes: tuple[int, int], lab: Lab, slow: float,
            workers: int | None = None, evidence: float = Settings.evidence,
            rivals: Sequence[Net] = ()) -> Plan:  # fmt: skip
    """How a study in this lab shares out its time; sizes and evidence as a Plan has them, rivals as
    nets.

    slow: what host.slowness() is beside whatever else computes than the study itself.
    """
    host, batch = lab.host, min(advice.recipe.batch_size, sizes[0])
    workers = workers or host.workers
    costs = [analyse(net).total.cost for net in (advice.net, *rivals)]
    alone, *others = (slow * image_seconds(cost, host.pace, batch) for cost in costs)
    together = slow * image_seconds(costs[0], host.pace, batch, workers)
    cheapest = advice.space.goal.cheapest
    until = FINAL.until if cheapest is None else KNOWN_UNTIL if cheapest.given else TEACHER.until
    return Plan(lab.clock, workers, alone, sizes, evidence, alone / together, until, host.cores,
                tuple(others), host.slowness)  # fmt: skip


def image_seconds(cost: Mapping[str, float], pace: Pace, batch: int, members: int = 1) -> float:
    """Predicted, of one training image of a net of this cost, by workers that share a batch."""
    step = pace.of_step(cost["params"]) + (MEETING_SECONDS if members > 1 else 0.0)
    own = pace.seconds(cost["macs"], cost["activation_bytes"]) + step / train.members_batch(
        batch, members
    )
    return own / members


def needed(views: float, images: int, seconds: float, short: str = "The budget was too short",
           otherwise: str = "check the labels") -> str:  # fmt: skip
    """What to do where too little was learnt in so many seconds: how many show each image often
    enough, or `otherwise`.

    views: how often each of so many images was seen; short: why they were few.
    """
    wanted = wanted_epochs(images)
    if views >= wanted:
        return (
            f"Each image was seen {views:.0f} times already, so more time will hardly help:"
            f" {otherwise}"
        )
    more = duration(seconds * wanted / max(views, 0.1))
    return f"{short}: each image was seen {views:.1f} times; about {more} would be needed"


def within_latency(
    facts: Fingerprint, goal: Goal, pace: Pace, final_seconds: float, host: Host
) -> Advice:
    """The advice whose first net keeps a latency limit as *measured*: the prediction is corrected
    by what is seen.
    """
    limit = next((limit.at_most for limit in goal.limits if limit.metric == "latency_ms"), None)
    if limit is None:
        return advise(facts, goal, pace, final_seconds, host.cores)
    model: LatencyModel = host.latency
    for _ in range(6):
        advice = advise(facts, goal, pace, final_seconds, host.cores, model)
        measured = host.latency_ms(advice.net)
        if measured <= limit:
            return advice
        predicted = advice.configuration.cost["latency_ms"]
        model = replace(model, margin=model.margin * 1.1 * measured / predicted)
    what = (
        f"the smallest network that was tried takes {measured:.3g} ms, {measured / limit:.1f} times"
        " the limit"
    )
    raise Infeasible("goal", what, goal.text, "raise the limit, or use smaller images")
