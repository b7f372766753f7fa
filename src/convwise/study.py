"""The sentence: images, facts, advice, trials, verdict, model, folder."""

from __future__ import annotations

import shutil
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from convwise import batches, deliver, machine, train
from convwise.advice import advise as advise_from
from convwise.clock import Clock, parse_duration
from convwise.core.goal import Goal, parse_goal
from convwise.core.problems import ConvwiseError, Infeasible, UnusableInput
from convwise.core.records import Advice, Engine, Fingerprint, Pace, Result, Trial, Verdict, from_json, to_json
from convwise.core.space import LatencyModel, Sample
from convwise.fingerprint import look as look_at
from convwise.images import Images
from convwise.images import read as read_images
from convwise.interrupts import Interrupts
from convwise.judge import improved, judge, measured_effects
from convwise.ledger import Ledger
from convwise.runners import RUNNERS, Runner
from convwise.search import STRATEGIES
from convwise.search.designed import contrasts
from convwise.search.ranking import distinct, leader
from convwise.settings import Settings, checked, folder_for
from convwise.stages import COUNTED_EPOCHS, STAGES, Stage, counted_share
from convwise.tasks import TASKS

# Counted studies (--trials) must not depend on the clock: a fixed pace stands for any machine.
NOMINAL_PACE = Pace(per_mac=6e-12, per_byte=4e-10)
# Notes in the ledger: what was asked, the time spent, how often the sealed part was opened.
SETTINGS, SPENT, OPENED = "convwise:settings", "convwise:spent_seconds", "convwise:test_opened"
FACTS, ADVICE = "convwise:facts", "convwise:advice"
MOST_WORKERS = 8  # a team's batch grows with its members
OVERHEAD_SECONDS = 0.6  # of one trial beside training and validation
MINIMUM_TRIAL_SECONDS = 1.5
FIRST_ANSWER_SECONDS = 2.0
ANSWER_SHARE = 0.1  # of the budget: an interrupt after it gets an answer
PLAN_SHARE = 0.04  # of the budget, at most, for one wave of the plan
WRITE_SECONDS = 6.5  # kept for checking and writing what comes out, beside scoring


@dataclass(frozen=True)
class Progress:
    """What a watcher is told: the stage, trials done in it and planned, the best so far, seconds left."""

    stage: str
    done: int
    planned: int
    best: Result | None
    seconds_left: float | None
    note: str = ""


Watcher = Callable[[Progress], None]


def quiet(progress: Progress) -> None:
    """A watcher that says nothing."""


@dataclass
class Study:
    """One run of the sentence; every field is filled once, in the order of the sentence."""

    settings: Settings
    clock: Clock
    watcher: Watcher = quiet
    images: Images = field(init=False)
    facts: Fingerprint = field(init=False)
    advice: Advice = field(init=False)
    ledger: Ledger = field(init=False)
    engine: Engine = field(init=False)
    runner: Runner = field(init=False)
    workers: int = field(init=False)
    interrupted: bool = False
    latency: dict[str, float] = field(default_factory=dict)  # ms by the id of a net

    def run(self) -> Path:
        """Read, look, advise, search, judge, refit, write; returns the folder written."""
        with Interrupts(self.stopping) as interrupts:
            try:
                with interrupts.waiting(self.clock.until(ANSWER_SHARE)):
                    self.open()
                    if deliver.is_finished(self.settings.out):
                        return self.finished()
                    self.start()
                if interrupts.asked:
                    raise KeyboardInterrupt
                self.search()
                verdict = self.verdict()
                final = self.refit(verdict)
            except KeyboardInterrupt:
                self.interrupted = True
                verdict, final = self.best_so_far(), None
            finally:
                if hasattr(self, "runner"):
                    self.runner.close()
            with interrupts.waiting():
                self.tell("writing")
                return deliver.write(self.material(verdict, final))

    def open(self) -> None:
        """The images, and the ledger of a study of just these, new or unfinished."""
        settings = self.settings
        self.images = read_images(settings.source, test=settings.test, seed=settings.seed, cache=self.work / "images")
        self.ledger = Ledger(settings.out / "study.db")
        self.remember()

    def finished(self) -> Path:
        """Where the study was finished before."""
        shutil.rmtree(self.work, ignore_errors=True)
        out = self.settings.out
        self.tell("finished", note=f"{out} holds a finished study of this; remove it or give --out for a new one")
        return out

    def start(self) -> None:
        """Everything else that comes before the first trial."""
        settings = self.settings
        self.engine = machine.engine()
        self.workers = settings.workers or (min(machine.cores(), MOST_WORKERS) if self.engine.device == "cpu" else 1)
        work = partial(train.run, self.work, self.engine, settings.task)
        self.runner = RUNNERS[settings.runner](work, self.workers)
        if ADVICE in self.ledger.notes:  # a measure or a pace taken anew would be another space
            self.facts = from_json(Fingerprint, self.ledger.notes[FACTS])
            self.advice = from_json(Advice, self.ledger.notes[ADVICE])
        else:
            self.look()
        self.ledger.know(self.advice.space)
        self.resume()

    def look(self) -> None:
        """Facts and advice, kept for a study that is continued."""
        self.tell("look")
        counted = self.settings.trials is not None
        seconds = 60.0 if counted else min(8.0, 0.04 * self.settings.budget)
        self.facts = look_at(self.images.train, self.images.classes, seed=self.settings.seed, seconds=seconds)
        self.advice = self.advise()
        self.ledger.note(FACTS, to_json(self.facts))
        self.ledger.note(ADVICE, to_json(self.advice))

    def stopping(self) -> None:
        """Say that an interrupt was heard, and that an answer comes."""
        self.tell("stopping", note="interrupted: the best so far is written in a few seconds; once more ends at once")

    @property
    def work(self) -> Path:
        """What only an unfinished study needs: images at their input sizes, weights of the trials."""
        return self.settings.out / ".study"

    def advise(self) -> Advice:
        counted = self.settings.trials is not None
        pace = NOMINAL_PACE if counted else machine.pace(self.engine)
        final = 0.45 * (300.0 if counted else self.settings.budget)
        return within_latency(self.facts, self.settings.goal, pace, final, machine.cores())

    def remember(self) -> None:
        """Note what is studied, or refuse to continue a study of something else."""
        mine = {
            "source": self.images.source,
            "images": len(self.images.train),
            "content": content(self.images),
            "task": self.settings.task,
            "goal": self.settings.goal.text,
            "seed": self.settings.seed,
        }
        before = self.ledger.notes.get(SETTINGS, mine)
        if other := [name for name in mine if before.get(name) != mine[name]]:
            was, now = ({name: record.get(name) for name in other} for record in (before, mine))
            what = f"holds a study of something else: {was}"
            raise UnusableInput(str(self.settings.out), what, f"{now}", "choose another --out, or remove the folder")
        if SETTINGS not in self.ledger.notes:
            for left in self.work.glob("*.npy"):  # of a study whose ledger is gone
                left.unlink()
        self.ledger.note(SETTINGS, mine)

    def resume(self) -> None:
        """Where trials are kept, the time that they took is spent."""
        if self.ledger.results:
            spent = min(self.ledger.notes.get(SPENT, 0.0), 0.7 * self.settings.budget)
            self.clock = replace(self.clock, started=self.clock.started - spent)
            self.tell("continue", note=f"continuing an unfinished study: {len(self.ledger.results)} trials are kept")

    def record(self, result: Result) -> None:
        """Into the ledger, with the time spent so far, for a study that is continued."""
        self.ledger.append(self.timed(result))
        self.ledger.note(SPENT, self.clock.elapsed)

    # search ----------------------------------------------------------------------------------

    def search(self) -> None:
        """Every stage in turn, each in its share of the time."""
        for stage in STAGES:
            count, seconds = self.share(stage)
            if count:
                self.stage(stage, self.proposals(stage, count), seconds)

    def share(self, stage: Stage) -> tuple[int, float | None]:
        """(trials, seconds each) of a stage; counted studies have no seconds."""
        if self.settings.trials is not None:
            return counted_share(stage.name, self.settings.trials), None
        left = self.clock.until(stage.until)
        least = self.least_seconds(stage)
        overhead = self.overhead_seconds()
        waves = min(int(left / (least + overhead)), -(-stage.most // self.workers))
        if stage.name == "plan":  # a first answer, soon: what it leaves of its share is better spent later
            left, waves = min(left, PLAN_SHARE * self.settings.budget), max(waves, 1)
        if not waves:
            return 0, None
        return min(stage.most, waves * self.workers), max(left / waves - overhead, MINIMUM_TRIAL_SECONDS)

    def least_seconds(self, stage: Stage) -> float:
        """A trial shorter than this would say nothing: so many epochs, but at most a share of the budget."""
        wanted = stage.epochs * len(self.images.train) * self.image_seconds()
        return max(min(wanted, 0.08 * self.settings.budget), MINIMUM_TRIAL_SECONDS)

    def image_seconds(self) -> float:
        """Seconds of one training image in the plan's trials; 0 before them."""
        planned = [r for r in self.ledger.results if r.trial.stage == "plan" and r.status == "done"]
        return min((1 / r.images_per_second for r in planned), default=0.0)

    def overhead_seconds(self) -> float:
        """Of one trial beside its training: loading, handing over, and validation at a third of a training step."""
        images = len(self.images.valid)
        seen = images + train.CURVE_POINTS * min(images, train.CURVE_IMAGES)
        return OVERHEAD_SECONDS + seen * self.image_seconds() / 3

    def proposals(self, stage: Stage, count: int) -> list[Sample]:
        samples = STRATEGIES[stage.strategy](self.advice, self.before(stage), count, self.settings.seed)
        if stage.name != "finalists" or not (effects := self.effects()):
            return samples
        best = improved(self.advice, leader(self.advice, self.ledger.results), effects)
        others = [sample for sample in samples if sample != self.advice.sample]
        # The last place is the default's.
        return [*distinct(self.advice.space, [best, *others], [self.advice.net.id])[: count - 1], self.advice.sample]

    def before(self, stage: Stage) -> tuple[Result, ...]:
        """The results of the stages before `stage`: a continued study proposes what it proposed at first."""
        names = [s.name for s in STAGES]
        earlier = names[: names.index(stage.name)]
        return tuple(r for r in self.ledger.results if r.trial.stage in earlier)

    def stage(self, stage: Stage, samples: Sequence[Sample], seconds: float | None) -> None:
        """Run what is not in the ledger yet, recording each result as it ends."""
        done = [r.trial.net.id for r in self.ledger.results if r.trial.stage == stage.name]
        trials = []
        for i, sample in enumerate(samples):
            trial = self.trial(f"{stage.name}-{i + 1:02d}", stage.name, sample, seconds, i)
            if trial.net.id in done:
                done.remove(trial.net.id)
            else:
                trials.append(trial)
        self.measure_latency(trials)
        self.tell(stage.name, 0, len(trials))
        for number, result in enumerate(self.runner.run(trials), 1):
            self.record(result)
            self.tell(stage.name, number, len(trials))

    def trial(self, id: str, stage: str, sample: Sample, seconds: float | None, number: int) -> Trial:
        net = self.advice.space.grow(sample)
        self.ensure(f"{net.input_shape[0]}x{net.input_shape[1]}")
        epochs = COUNTED_EPOCHS[stage] if seconds is None else None
        seed = 1000 * self.settings.seed + number
        return Trial(id, stage, self.advice.space.fit(sample), net, self.advice.recipe, seconds, epochs, seed)

    def ensure(self, size: str) -> None:
        """Store the images at an input size, once."""
        if not batches.is_stored(self.work, size, "valid"):
            rows, columns = (int(n) for n in size.split("x"))
            for name in ("train", "valid"):
                batches.store(self.work, size, name, getattr(self.images, name).at(rows, columns))

    def measure_latency(self, trials: Sequence[Trial]) -> None:
        """Where the goal limits it, measured before the trials start: beside them it would be too long."""
        if "latency_ms" in {limit.metric for limit in self.settings.goal.limits}:
            for net in {trial.net.id: trial.net for trial in trials if trial.net.id not in self.latency}.values():
                self.latency[net.id] = machine.latency_ms(net)

    def timed(self, result: Result) -> Result:
        """With its latency, where that was measured."""
        latency = self.latency.get(result.trial.net.id)
        return replace(result, cost={**result.cost, "latency_ms": latency}) if latency and result.cost else result

    def effects(self) -> tuple[Any, ...]:
        runs = [r for r in self.ledger.results if r.trial.stage == "design" and r.score is not None]
        return measured_effects(runs, self.contrasts())

    def contrasts(self) -> dict[str, Any]:
        earlier = [r for r in self.ledger.results if r.trial.stage in ("plan", "rung")]
        return contrasts(self.advice.space, leader(self.advice, earlier), earlier)

    # verdict ---------------------------------------------------------------------------------

    def verdict(self) -> Verdict:
        try:
            return judge(self.ledger.results, self.settings.goal, self.contrasts())
        except ValueError as error:
            raise self.nothing_works() from error

    def nothing_works(self) -> Infeasible:
        failed = [r.reason for r in self.ledger.results if r.status == "failed"]
        what = f"no trial gave a network that can be used: {failed[0]}" if failed else "no trial ended"
        return Infeasible("choose", what, "at least one finished trial", "a larger --budget, or fewer limits")

    def best_so_far(self) -> Verdict:
        if not hasattr(self, "advice"):
            raise Infeasible("choose", "was interrupted while it read the images", "an advised network", "let it run")
        if not self.ledger.results:
            self.first_answer()
        return self.verdict()

    def first_answer(self) -> None:
        """The advised net, trained here for two seconds: what an interrupt during the first trial is answered with."""
        trial = self.trial("plan-00", "plan", self.advice.sample, FIRST_ANSWER_SECONDS, 0)
        self.record(train.run(self.work, self.engine, self.settings.task, trial))

    def refit(self, verdict: Verdict) -> Result | None:
        """The long final training, on everything that is not sealed; None where it failed."""
        seconds = None
        if self.settings.trials is None:
            seconds = max(self.clock.until(1.0) - WRITE_SECONDS - self.scoring_seconds(verdict.chosen), 2.0)
            threading.Thread(target=deliver.warm_up, daemon=True).start()
        trial = replace(
            self.trial("final", "final", verdict.chosen.trial.sample, seconds, 0),
            part="all",
            threads=machine.cores() if self.settings.trials is None else 1,
        )
        self.tell("final", 0, 1)
        result = next(iter(self.runner.run([trial])))
        self.record(result)
        return result if result.status == "done" else None

    def scoring_seconds(self, chosen: Result) -> float:
        """Predicted seconds of answering the sealed part in float32: about a third of as many training steps."""
        images = self.images.test.size if self.images.test else len(self.images.valid)
        return images / max(chosen.images_per_second, 1.0)

    def material(self, verdict: Verdict, final: Result | None) -> deliver.Material:
        """Everything that is written; the sealed part is opened here, once."""
        verdict = replace(verdict, notes=(*verdict.notes, *self.caveats(final)))
        net = verdict.chosen.trial.net
        weights = train.load_weights(self.work, (final or verdict.chosen).trial.id)
        if self.images.test:
            scored, kind, scorer = self.images.test.open(), "test", weights
        else:  # the final training has seen the validation images, the chosen trial has not
            scored, kind, scorer = (
                self.images.valid,
                "validation",
                train.load_weights(self.work, verdict.chosen.trial.id),
            )
        part = scored.at(*net.input_shape[:2])
        probabilities = train.probabilities(net, scorer, np.asarray(part.pixels))
        return deliver.Material(
            folder=self.settings.out,
            images=self.images,
            facts=self.facts,
            advice=self.advice,
            verdict=verdict,
            final=final,
            results=self.ledger.results,
            weights=weights,
            scored=part,
            kind=kind,
            probabilities=probabilities,
            baseline=TASKS[self.settings.task].baseline(part.labels),
            provenance=self.provenance(),
            clock=self.clock,
        )

    def caveats(self, final: Result | None) -> list[str]:
        """What the report must say beside the choice."""
        failed = [r for r in self.ledger.results if r.trial.part == "all" and r.status == "failed"]
        said = ["The study was interrupted: this is the best so far."] if self.interrupted else []
        if final is None:
            why = f" ({failed[-1].reason})" if failed else ""
            said.append(
                f"There was no final training{why}: the weights are those of the trial, without the validation part."
            )
        if (opened := self.ledger.notes.get(OPENED, 0)) and self.images.test:
            said.append(f"The sealed test part was opened {opened + 1} times: the study had been interrupted before.")
        if self.images.test:
            self.ledger.note(OPENED, opened + 1)
        return said

    def provenance(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "command": settings.command,
            "budget_seconds": settings.budget,
            "trials": settings.trials,
            "seed": settings.seed,
            "workers": self.workers,
            "engine": {"device": self.engine.device, "dtype": self.engine.dtype},
            "goal": settings.goal.text,
            "interrupted": self.interrupted,
            "machine": machine.describe(),
        }

    @property
    def results(self) -> tuple[Result, ...]:
        """What has been tried so far."""
        return self.ledger.results if hasattr(self, "ledger") else ()

    def tell(self, stage: str, done: int = 0, planned: int = 0, note: str = "") -> None:
        scored = [r for r in self.results if r.score is not None]
        best = max(scored, key=lambda r: r.score or 0, default=None)
        left = None if self.settings.trials is not None else max(self.settings.budget - self.clock.elapsed, 0)
        self.watcher(Progress(stage, done, planned, best, left, note))


def content(images: Images) -> str:
    """What is learnt from and scored, as a checksum: another picture, label or split is another one."""
    sums = [zlib.crc32("/".join(images.classes).encode()), images.test.size if images.test else 0]
    for part in (images.train, images.valid):
        sums += [zlib.crc32(np.ascontiguousarray(array).data) for array in (part.pixels, part.labels)]
    return "-".join(f"{each:x}" for each in sums)


def within_latency(facts: Fingerprint, goal: Goal, pace: Pace, final_seconds: float, threads: int) -> Advice:
    """The advice whose first net keeps a latency limit as *measured*: the prediction is corrected by what is seen."""
    limit = next((limit.at_most for limit in goal.limits if limit.metric == "latency_ms"), None)
    if limit is None:
        return advise_from(facts, goal, pace, final_seconds, threads)
    model: LatencyModel = machine.latency_model()
    for _ in range(6):
        advice = advise_from(facts, goal, pace, final_seconds, threads, model)
        measured = machine.latency_ms(advice.net)
        if measured <= limit:
            return advice
        predicted = advice.space.cost(advice.net)["latency_ms"]
        model = replace(model, margin=model.margin * 1.1 * measured / predicted)
    what = f"the smallest network tried takes {measured:.3g} ms, {measured / limit:.1f} times its limit"
    raise Infeasible("goal", what, goal.text, "raise the limit, or shrink the images")


def choose(source: Any, *, budget: str | float = "10m", goal: str = "accuracy", out: str | Path | None = None,
           watcher: Watcher = quiet, started: float | None = None, **options: Any) -> Path:  # fmt: skip
    """Choose a network for the images of `source` inside `budget`; returns the folder written.

    options: task, test, seed, workers, trials, runner, command as in Settings. started: when the
    budget began (time.monotonic), now where it is not given.
    """
    begun = time.monotonic() if started is None else started
    settings = Settings(source, parse_duration(budget), parse_goal(goal), out=folder_for(source, out), **options)
    checked(settings)
    study = Study(settings, Clock(settings.budget, begun), watcher)
    ledger = settings.out / "study.db"
    fresh = not ledger.exists()
    try:
        written = study.run()
    except (ConvwiseError, KeyboardInterrupt):
        if fresh and not study.results:  # nothing was begun: leave nothing
            shutil.rmtree(study.work, ignore_errors=True)
            ledger.unlink(missing_ok=True)
            with suppress(OSError):
                settings.out.rmdir()
        elif deliver.is_finished(settings.out):
            shutil.rmtree(study.work, ignore_errors=True)
        raise
    if not study.interrupted:
        shutil.rmtree(study.work, ignore_errors=True)
    return written


def read(source: Any, **options: Any) -> Images:
    """The images of `source`, as convwise.images.read."""
    return read_images(source, **options)


def look(source: Any, *, seed: int = 0, **options: Any) -> Fingerprint:
    """The fingerprint of the images of `source` (or of Images already read), without their test part."""
    images = source if isinstance(source, Images) else read_images(source, seed=seed, **options)
    return look_at(images.train, images.classes, seed=seed)


def advise(source: Any, *, goal: str = "accuracy", budget: str | float = "10m", seed: int = 0) -> Advice:
    """What to start with for the images of `source`, without training."""
    wanted = parse_goal(goal)
    facts = look(source, seed=seed)
    return within_latency(facts, wanted, machine.pace(machine.engine()), 0.45 * parse_duration(budget), machine.cores())


def predict(folder: str | Path, images: Any) -> list[dict[str, Any]]:
    """A row for each image: path, label, and the probability of each class."""
    return deliver.predict(folder, images)
