"""What is a change worth? A base, edits of it, paired trainings at equal time -> an Effect each.

`measure` and `check --apply` run it on a bench of their own (bench.py), and the page runs
`measure`. A study plans its own trainings (search/race.py, search/rivals.py) and shares what makes
effects of them, effects.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil

import numpy as np

from convwise.core.calculus import analyse
from convwise.core.clock import Clock, duration
from convwise.core.configuration import Draft
from convwise.core.net import Net
from convwise.core.problems import UnusableInput
from convwise.core.progress import Progress
from convwise.core.records import Recipe, Result, Trial
from convwise.core.score import score_of
from convwise.core.text import number as shown
from convwise.evidence.effects import repeated_effect
from convwise.evidence.records import Base, Bench, Edit, Found, Measured, Memory, Record, Terms
from convwise.training import batches, train
from convwise.training.tasks import TASKS

LEAST_SECONDS, LEAST_STEPS = 2.0, 8  # of one training
# What one training gets, whichever is less, before another edit gets time
FAIR_SECONDS, FAIR_EPOCHS = 10.0, 5.0
FEW_SEEDS = 2  # pairs of trainings for each edit, where the time is short
SPARE = 0.1  # share of the time that is not planned: a busy machine takes it
NO_TIME = "there was no time for it"
# Trainings up to so many times longer or shorter than planned are worth continuing with more seeds
ALIKE = 2.0


class TooShort(UnusableInput):
    """A budget that is too short for one answer; the fix is one that is not."""


def experiment(
    base: Base, edits: Sequence[Edit], bench: Bench, terms: Terms, record: Record | None = None
) -> Found:
    """The measured effect of each edit, on the stored validation part.

    Every training takes the same wall clock; an edit and the base share their seeds, and with them
    the order of the images. The first edits come first, with fewer seeds where the time is short;
    the notes say what is left and what it would cost. A training that fails costs only itself.
    Ctrl-C gives what is measured so far. TooShort where there is no time for one edit.
    """
    run = _Run(base, tuple(edits), bench, terms, record or Memory())
    plan = run.plan()
    if plan:
        run.carry_out(plan)
    return run.found(plan)


def least_seconds(base: Base, edits: Sequence[Edit], bench: Bench) -> float:
    """Wall clock of the shortest trainings that answer for one edit, by the bench's pace."""
    run = _Run(base, tuple(edits), bench, Terms(seeds=1), Memory())
    return run.waves(1, 1) * run.slot(run.least_seconds())


def too_short(clock: Clock, seconds: float) -> TooShort:
    """The refusal where one answer takes so many seconds of training; its fix names a budget."""
    what = (
        f"{clock.budget:g} s is too short: one answer takes about {seconds:.0f} s of training on"
        " this machine"
    )
    what += f", after {clock.elapsed:.0f} s of preparation"
    fix = f"--budget {_budget(clock, seconds)}"
    return TooShort("--budget", what, "time for one answer", fix)


def _budget(clock: Clock, seconds: float) -> str:
    """What to type for so many seconds of trainings beside what comes before them."""
    return duration(1.1 * (clock.elapsed + seconds / (1 - SPARE)))


@dataclass(frozen=True)
class _Arm:
    """What is trained: the base, or one edit of it."""

    net: Net
    recipe: Recipe
    configuration: Draft


Job = tuple[int, int]  # number of the net (0 is the base, edits count from 1), seed


@dataclass(frozen=True)
class _Plan:
    """Edits `first` to `edits`, counted from 1: further seeds of each, seconds of each training."""

    edits: int
    seeds: int
    seconds: float
    first: int = 1


@dataclass
class _Run:
    """An experiment while it goes on."""

    base: Base
    edits: tuple[Edit, ...]
    bench: Bench
    terms: Terms
    record: Record
    results: dict[Job, Result] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    rest: str = ""  # what it costs to try what is left
    interrupted: bool = False

    @property
    def clock(self) -> Clock:
        return self.bench.clock

    @property
    def phase(self) -> str:
        """Of the trials."""
        return self.terms.name.partition("-")[0]

    @cached_property
    def arms(self) -> tuple[_Arm, ...]:
        """The base, then each edit."""
        recipe = self.base.recipe or Recipe()
        edited = [_Arm(e.net, e.recipe or recipe, e.configuration) for e in self.edits]
        return _Arm(self.base.net, recipe, self.base.configuration), *edited

    @cached_property
    def image_seconds(self) -> tuple[float, ...]:
        """Predicted seconds of one training image of each arm."""
        totals, pace = [analyse(arm.net).total for arm in self.arms], self.bench.pace
        return tuple(pace.seconds(total.macs, total.activation_bytes) for total in totals)

    # The plan --------------------------------------------------------------------------------

    def plan(self) -> _Plan | None:
        """As many edits as fit into fair trainings; None where there is nothing to try."""
        if not self.edits:
            return None
        least = self.least_seconds()
        fair, few, most = self.fair_seconds(), min(FEW_SEEDS, self.terms.seeds), len(self.edits)
        wishes = [(most, seeds, fair) for seeds in range(self.terms.seeds, few, -1)]
        wishes += [(n, few, fair) for n in range(most, 0, -1)]
        left = (1 - SPARE) * self.clock.left
        for edits, seeds, seconds in (*wishes, (1, few, least), (1, 1, least)):
            if (waves := self.waves(edits, seeds)) * self.slot(seconds) <= left:
                longest = min(_rounded(self.longest(left / waves)), self.terms.most_seconds)
                plan = _Plan(edits, seeds, max(longest, min(seconds, self.terms.most_seconds)))
                return self.told(self.widened(self.continued(plan)))
        raise too_short(self.clock, self.waves(1, few) * self.slot(least))

    def slot(self, seconds: float) -> float:
        """Wall clock of one training beside others, with a last step, validation and overhead."""
        valid, each = len(self.bench.labels), max(self.image_seconds)
        scored = valid + train.curve_images(valid, seconds / each)
        # Scoring an image is a third of training on it
        images = self.arms[0].recipe.batch_size + scored / 3
        return seconds + train.OVERHEAD_SECONDS + images * each

    def longest(self, slot: float) -> float:
        """Seconds of the training that so long a slot is for."""
        curve = train.curve_images(len(self.bench.labels)) / 3 * max(self.image_seconds)
        rest = slot - self.slot(0.0)
        return max(rest - curve, rest / (1 + train.CURVE_SHARE))

    def least_seconds(self) -> float:
        """A shorter training would not have learnt anything."""
        images = LEAST_STEPS * min(self.arms[0].recipe.batch_size, self.bench.train)
        return max(LEAST_SECONDS, images * max(self.image_seconds))

    def fair_seconds(self) -> float:
        """Of one training, before more edits are tried instead."""
        epochs = FAIR_EPOCHS * self.bench.train * self.image_seconds[0]
        return min(max(self.least_seconds(), min(epochs, FAIR_SECONDS)), self.terms.most_seconds)

    def waves(self, edits: int, seeds: int, seconds: float = 0.0) -> int:
        """How often all workers train; `seconds`: known trainings of that length are continued."""
        return self.waves_of(_Plan(edits, seeds, seconds))

    def waves_of(self, plan: _Plan) -> int:
        return max(ceil(len(self.jobs(plan)) / self.bench.workers), 1)

    def jobs(self, plan: _Plan) -> list[Job]:
        """What is to be trained, seed by seed: an interrupt then leaves pairs of every edit."""
        known = self.known(plan.seconds) | self.results
        seeds = range(plan.seeds + len(known))
        ahead = {
            number: [seed for seed in seeds if not {(0, seed), (number, seed)} <= known.keys()]
            for number in range(plan.first, plan.edits + 1)
        }
        pairs = [(number, ahead[number][turn]) for turn in range(plan.seeds) for number in ahead]
        wanted = [job for number, seed in pairs for job in ((0, seed), (number, seed))]
        return [job for job in dict.fromkeys(wanted) if job not in known]

    def filled(self, plan: _Plan) -> list[Job]:
        """The jobs, and further seeds where workers would be idle in the last wave.

        Who trains alone sees more images.
        """
        jobs = self.jobs(plan)
        if empty := -len(jobs) % self.bench.workers:
            more = self.jobs(replace(plan, seeds=plan.seeds + empty))
            jobs += [job for job in more if job not in jobs][:empty]
        return jobs

    def known(self, seconds: float) -> dict[Job, Result]:
        """What the record holds of these nets, trained so long under this name, on these images."""
        return {
            (number, result.trial.seed - 1000 * self.terms.seed): result
            for result in self.kept()
            if result.trial.seconds == seconds
            for number, arm in enumerate(self.arms)
            if result.trial.key == (arm.net.id, arm.recipe)
        }

    def kept(self) -> Iterator[Result]:
        """Results of the record that can be used again."""
        for result in self.record.results:
            ours = result.trial.id.startswith(f"{self.terms.name}-") and result.status == "done"
            alike = ours and len(result.outcomes) == len(self.bench.labels)
            if alike and result.trial.seed >= 1000 * self.terms.seed:
                yield result

    def continued(self, plan: _Plan) -> _Plan:
        """With the length of earlier trainings where it is alike, so that they count as well."""
        nets = {arm.net.id for arm in self.arms[1 : plan.edits + 1]}
        lengths = {r.trial.seconds for r in self.kept() if r.trial.net.id in nets}
        alike = [s for s in lengths if s and 1 / ALIKE <= s / plan.seconds <= ALIKE]
        for seconds in sorted(alike, reverse=True):
            again = [_Plan(plan.edits, plan.seeds, seconds)]
            again += [_Plan(edits, 1, seconds) for edits in range(plan.edits, 0, -1)]
            if possible := next((each for each in again if self.fits(each)), None):
                return possible
        return plan

    def widened(self, plan: _Plan) -> _Plan:
        """With more seeds, where trainings need not be longer."""
        while plan.seeds < self.terms.most_seeds:
            more = replace(plan, seeds=plan.seeds + 1)
            if not self.fits(more):
                break
            plan = more
        return plan

    def fits(self, plan: _Plan) -> bool:
        return self.waves_of(plan) * self.slot(plan.seconds) <= (1 - SPARE) * self.clock.left

    def told(self, plan: _Plan) -> _Plan:
        """What one answer costs here, told before anything starts."""
        each = 2 * plan.seeds * self.slot(plan.seconds) / self.bench.workers
        seeds = f"{plan.seeds} seed{'s' * (plan.seeds > 1)}"
        pairs = f"{seeds} x 2 trainings of {shown(plan.seconds)} s"
        room = f"the budget has time for {plan.edits} of {len(self.edits)} changes"
        said = f"each answer takes about {each:.0f} s here: {pairs}; {room}"
        slot, few = self.slot(self.fair_seconds()), min(FEW_SEEDS, self.terms.seeds)
        enough = _budget(self.clock, self.waves(len(self.edits), few) * slot)
        self.rest = f"about {few * slot / self.bench.workers:.0f} s each"
        self.rest += f"; --budget {enough} would test all"
        if plan.seconds < 2 * self.bench.train * self.image_seconds[0]:
            self.notes.append(
                "each training sees the images less than twice, so small effects cannot be detected"
            )
        left = max(self.clock.left, 0.0)
        self.bench.watcher(Progress(self.phase, 0, len(self.jobs(plan)), None, left, said))
        return plan

    # The trainings ---------------------------------------------------------------------------

    def carry_out(self, plan: _Plan) -> None:
        """Wave by wave, as long as one more ends in time; what the record knows is not trained."""
        self.results = self.known(plan.seconds)
        try:
            for net in {batches.stored_as(arm.net): arm.net for arm in self.arms}.values():
                self.bench.ensure(net)
            wave = 0.0  # seconds of the longest so far
            while (jobs := self.filled(plan)) and wave <= self.clock.left:
                wave, left = self.work(jobs, plan.seconds, wave)
                if left:
                    self.notes.append(
                        f"the trainings took longer than planned: {left} of {len(jobs)} were"
                        " left out"
                    )
                if left or (more := self.further(plan, wave)) is None:
                    break
                plan = more
        except KeyboardInterrupt:
            self.interrupted = True
            self.notes.append("interrupted: this is what had been measured by then")

    def work(self, jobs: Sequence[Job], seconds: float, wave: float) -> tuple[float, int]:
        """Train as many of the jobs as end in time: (longest wave in seconds, jobs left out)."""
        done, workers = 0, self.bench.workers
        while done < len(jobs) and wave <= max(self.clock.left, 0.0):
            began = self.clock.now()
            for job, result in self.train(jobs[done : done + workers], seconds):
                self.results[job] = result
                self.record.append(result)
                done += 1
                left = max(self.clock.left, 0.0)
                self.bench.watcher(Progress(self.phase, done, len(jobs), None, left))
            wave = max(wave, self.clock.now() - began)
        return wave, len(jobs) - done

    def further(self, plan: _Plan, wave: float) -> _Plan | None:
        """As many of the next edits as there is time for, or of all with one more seed.

        Which ones does not depend on what was found: the verdict of a change that is tried until it
        is resolved would be wrong more often.
        """
        first, seeds = plan.edits + 1, plan.seeds
        if plan.edits == len(self.edits):
            tried = max((seed + 1 for _, seed in self.results), default=0)
            first, seeds = 1, int(tried < self.terms.most_seeds)
        for edits in range(len(self.edits), first - 1, -1):
            more = _Plan(edits, seeds, plan.seconds, first)
            if self.waves_of(more) * wave <= (1 - SPARE) * self.clock.left:
                return more
        return None

    def train(self, jobs: Sequence[Job], seconds: float) -> Iterator[tuple[Job, Result]]:
        """The results of one wave."""
        trials = [self.trial(job, seconds) for job in jobs]
        which = {trial.id: job for trial, job in zip(trials, jobs, strict=True)}
        for result in self.bench.runner.run(trials):
            train.weights_path(self.bench.folder, result.trial.id).unlink(missing_ok=True)
            yield which[result.trial.id], result

    def trial(self, job: Job, seconds: float) -> Trial:
        number, seed = job
        arm, name = self.arms[number], self.terms.name
        return Trial(
            id=f"{name}-{number:02d}-{arm.net.id}-{seconds:g}s-seed{seed}",
            phase=self.phase,
            configuration=arm.configuration,
            net=arm.net,
            recipe=arm.recipe,
            seconds=seconds,
            seed=1000 * self.terms.seed + seed,
        )

    # What they say ---------------------------------------------------------------------------

    def found(self, plan: _Plan | None) -> Found:
        """The answer."""
        alone = [r.score for (net, _), r in self.results.items() if net == 0]
        scores = [each for each in alone if each is not None]
        tried, count = {net for net, _ in self.results if net > 0}, len(self.edits)
        if left := count - len(tried):
            self.notes.append(f"not enough time for {left} of {count} changes: {self.rest}")
        labels = np.asarray(self.bench.labels)
        if plan:
            each = f"{shown(plan.seconds)} s for each training"
            self.notes.append(f"{each}, {len(labels)} validation images")
        measured = tuple(self.measured(number) for number in range(1, count + 1))
        score = score_of(self.base.net)
        accuracy = score.value(float(np.mean(scores))) if scores else None
        baseline = TASKS[self.bench.task].baseline(labels, score.name, self.base.net)
        seconds, notes = plan.seconds if plan else 0.0, tuple(self.notes)
        return Found(measured, accuracy, seconds, notes, self.interrupted, score, baseline)

    def measured(self, number: int) -> Measured:
        """What became of one edit, from the pairs of which both trainings ended."""
        edit = self.edits[number - 1]
        seeds = sorted(seed for net, seed in self.results if net == number)
        if not seeds:
            return Measured(edit, notes=(NO_TIME,))
        both = [(self.results.get((0, seed)), self.results[number, seed]) for seed in seeds]
        pairs = [(a, b) for a, b in both if a and a.status == b.status == "done"]
        notes = tuple(self.troubles(number, seeds))
        if not pairs:
            return Measured(edit, notes=notes or (NO_TIME,))
        effect = repeated_effect(edit.parameter, (edit.before, edit.after), pairs)
        effect = replace(effect, seconds=pairs[0][0].trial.seconds or 0.0)
        if not any(self.learnt([pair[side] for pair in pairs]) for side in (0, 1)):
            nothing = score_of(self.base.net).nothing.replace("always", "always answering")
            notes += (f"neither network beats {nothing}: give it more time",)
            effect = replace(effect, verdict="not resolved")
        return Measured(edit, effect, notes)

    def troubles(self, number: int, seeds: Sequence[int]) -> Iterator[str]:
        """A sentence on the trainings that failed, of the edited net and of the net as it is."""
        for which, name in ((number, "the edited network"), (0, "the network as it is")):
            runs = [self.results[which, seed] for seed in seeds if (which, seed) in self.results]
            if broken := [r.reason for r in runs if r.status == "failed"]:
                yield f"{len(broken)} of {len(runs)} trainings of {name} failed: {broken[0]}"
            if len(runs) < len(seeds):
                yield f"{len(runs)} of {len(seeds)} trainings of {name} ended"

    def learnt(self, runs: Sequence[Result]) -> bool:
        """Whether the runs together surely beat the answer that needs no image."""
        outcomes = [np.array(run.errors or run.outcomes) for run in runs]
        labels = np.asarray(self.bench.labels)
        return TASKS[self.bench.task].learns(outcomes, labels, runs[0].trial.net)


def _rounded(seconds: float) -> float:
    """Down to whole seconds, or halves of short times: lengths that a later experiment can have."""
    return float(int(seconds)) if seconds >= 5 else int(2 * seconds) / 2
