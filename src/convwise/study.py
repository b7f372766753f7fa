"""The sentence: images, facts, advice, trials, verdict, model, folder."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from convwise.advice.fingerprint import look as look_at
from convwise.core.calculus import analyse
from convwise.core.clock import Clock
from convwise.core.problems import Infeasible, UnusableInput
from convwise.core.progress import Progress, Watcher, quiet
from convwise.core.records import Advice, Engine, Fingerprint, Pace, Result, Trial, Verdict, from_json, to_json
from convwise.core.space import Sample
from convwise.images.loading import Images
from convwise.images.loading import read as read_images
from convwise.interrupts import Interrupts
from convwise.ledger import Ledger
from convwise.output import deliver
from convwise.plan import (
    ANSWER_SHARE,
    MINIMUM_TRIAL_SECONDS,
    TRAINING_SHARE,
    WRITE_SECONDS,
    Plan,
    needed,
    within_latency,
)
from convwise.search import ladder, race
from convwise.search.judge import judge
from convwise.settings import Settings
from convwise.training import batches, machine, train
from convwise.training.runners import RUNNERS, Runner
from convwise.training.tasks import TASKS

# Counted studies (--trials) must not depend on the clock: a fixed pace stands for any machine.
NOMINAL_PACE = Pace(per_mac=6e-12, per_byte=4e-10)
# Notes in the ledger: what was asked, the time spent, how often the sealed part was opened.
SETTINGS, SPENT, OPENED = "convwise:settings", "convwise:spent_seconds", "convwise:test_opened"
FACTS, ADVICE = "convwise:facts", "convwise:advice"
FIRST_ANSWER_SECONDS = 2.0
COUNTED_EPOCHS = {"race": 4, "teacher": 8, "ladder": 8, "final": 16}
MOST_SLOWNESS = 2.0


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
    pace: Pace = field(init=False)
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
                if not self.tried(ladder.TEACHER):
                    self.search()
                if self.settings.goal.cheapest:
                    self.descend()
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
        cache, how = self.work / "images", settings.reading
        self.images = read_images(settings.source, test=settings.test, seed=settings.seed, cache=cache, **how)
        for said in self.images.said():
            self.tell("read", note=said)
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
        self.pace = NOMINAL_PACE if settings.trials is not None else machine.pace(self.engine)
        self.workers = settings.workers or machine.workers(self.engine)
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
        training = TRAINING_SHARE * (300.0 if counted else self.settings.budget)
        return within_latency(self.facts, self.settings.goal, self.pace, training, machine.cores())

    def remember(self) -> None:
        """Note what is studied, or refuse to continue a study of something else."""
        mine = {
            "source": self.images.source,
            "images": len(self.images.train),
            "content": self.images.content(),
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
        """Wave after wave of the race: the leader trains on, others take its first steps."""
        waves, seconds = self.plan.waves() if self.settings.trials is None else (0, None)
        if seconds:
            self.tell("race", note=str(self.plan))
        left = self.settings.trials or 0
        if self.settings.goal.cheapest:
            left -= left // 2  # the others are for the ladder
        left, number = left - len(self.raced), 0
        while number < waves or left > 0:
            most = left if self.settings.trials else 1 if waves == 1 else self.workers  # a single wave compares nothing
            entries = race.wave(self.advice, self.raced, self.workers)[:most]
            if not entries:
                return
            self.wave(number, entries, waves, seconds)
            if seconds and not any(race.tells(result) for result in self.raced):
                return  # slower than was predicted: what there is goes into one network
            left, number = left - len(entries), number + 1

    @property
    def plan(self) -> Plan:
        """How the time is shared out, as far as it is known by now."""
        total = analyse(self.advice.net).total
        image_seconds = self.pace.seconds(total.macs, total.activation_bytes)
        until = ladder.TEACHER_UNTIL if self.settings.goal.cheapest else 1.0
        sizes = len(self.images.train), len(self.images.valid)
        return Plan(self.clock, self.workers, image_seconds, sizes, self.settings.evidence, until)

    @property
    def raced(self) -> tuple[Result, ...]:
        return tuple(r for r in self.ledger.results if r.trial.stage == race.STAGE)

    @property
    def waves_run(self) -> int:
        """Waves of which a result is kept: a continued study must not give their names, and weights, away again."""
        return max((int(result.trial.id.split("-")[1]) for result in self.raced), default=0)

    def wave(self, number: int, entries: Sequence[race.Entry], waves: int, seconds: float | None) -> None:
        name = f"race-{self.waves_run + 1}"
        trials = [self.entered(entry, f"{name}-{slot}", waves, seconds) for slot, entry in enumerate(entries, 1)]
        self.side_by_side("race", number, trials, waves)

    def side_by_side(self, stage: str, number: int, trials: Sequence[Trial], waves: int) -> None:
        """Run a wave of trials, recording each result as it ends."""
        self.measure_latency(trials)
        self.tell(stage, number, waves)
        for result in self.runner.run(trials):
            self.record(result)
        self.tell(stage, number + 1, waves)

    def entered(self, entry: race.Entry, id: str, waves: int, seconds: float | None) -> Trial:
        """The next part of a training: as much of the schedule as its time is of the whole training's."""
        begun = entry.after.trial.span[1] if entry.after else 0.0
        span = (begun, min(begun + self.part_share(waves, seconds), 0.99))
        resumes = entry.after.trial.id if entry.after else ""
        return replace(self.trial(id, race.STAGE, entry.sample, seconds), span=span, resumes=resumes)

    def part_share(self, waves: int, seconds: float | None) -> float:
        """Which share of the leader's whole training one part of the race is."""
        if seconds is not None:
            return self.plan.part_share(waves, seconds)
        rest: float = COUNTED_EPOCHS[ladder.TEACHER if self.settings.goal.cheapest else "final"]
        return COUNTED_EPOCHS["race"] / (COUNTED_EPOCHS["race"] * race.FLIP_SEGMENTS + rest)

    def trial(self, id: str, stage: str, sample: Sample, seconds: float | None) -> Trial:
        space = self.advice.space
        net = space.grow(sample)
        self.ensure(f"{net.input_shape[0]}x{net.input_shape[1]}")
        epochs = COUNTED_EPOCHS[stage] if seconds is None else None
        seed = 1000 * self.settings.seed
        return Trial(id, stage, space.fit(sample), net, space.trained(sample), seconds, epochs, seed)

    def ensure(self, size: str) -> None:
        """Store the images at an input size, once."""
        if not batches.is_stored(self.work, size, "valid"):
            rows, columns = (int(n) for n in size.split("x"))
            for name in ("train", "valid"):
                batches.store(self.work, size, name, getattr(self.images, name).at(rows, columns))

    def measure_latency(self, trials: Sequence[Trial]) -> None:
        """Where the goal names it, measured before the trials start: beside them it would be too long."""
        goal = self.settings.goal
        if "latency_ms" in {limit.metric for limit in goal.limits} | {goal.cheapest and goal.cheapest.metric}:
            for net in {trial.net.id: trial.net for trial in trials if trial.net.id not in self.latency}.values():
                self.latency[net.id] = machine.latency_ms(net)

    def timed(self, result: Result) -> Result:
        """With its latency, where that was measured."""
        latency = self.latency.get(result.trial.net.id)
        return replace(result, cost={**result.cost, "latency_ms": latency}) if latency and result.cost else result

    # verdict ---------------------------------------------------------------------------------

    def verdict(self) -> Verdict:
        try:
            judged = judge(self.advice, self.ledger.results)
        except ValueError as error:
            raise self.nothing_works() from error
        teacher = ladder.teacher(self.results)
        return self.below(teacher).verdict(judged) if teacher else judged

    def below(self, teacher: Result) -> ladder.Ladder:
        return ladder.Ladder(self.advice.space, teacher, self.results)

    def descend(self) -> None:
        """For a goal of cost: what the race has judged trains to its end, then cheaper nets learn from it."""
        counted, overhead = self.settings.trials is not None, self.plan.overhead_seconds
        if not self.tried(ladder.TEACHER):
            seconds = max(self.clock.until(ladder.TEACHER_UNTIL) - overhead, MINIMUM_TRIAL_SECONDS)
            self.train_on(self.verdict().chosen, ladder.TEACHER, None if counted else seconds)
        if (teacher := ladder.teacher(self.results)) is None:
            return  # it failed: the race's own choice is trained to its end
        taught = counted or self.teaching_seconds(teacher) <= ladder.TEACHING_SHARE * self.settings.budget
        if taught:
            train.teach(self.work, teacher.trial)
        rungs, kept = len(self.below(teacher).rungs), len(self.tried(ladder.STAGE))
        waves, seconds = ladder.planned(rungs, self.workers, self.clock.until(ladder.UNTIL), overhead)
        left, number = (self.settings.trials or 0) // 2 - kept, 0
        while left > 0 if counted else number < waves:
            samples = self.below(teacher).wave(self.workers)[: left if counted else None]
            if not samples:
                return
            trials = [self.trial(f"ladder-{kept + slot + 1}", ladder.STAGE, sample, None if counted else seconds)
                      for slot, sample in enumerate(samples)]  # fmt: skip
            trials = [replace(trial, teacher=teacher.trial.id if taught else "") for trial in trials]
            self.side_by_side(ladder.STAGE, number, trials, waves)
            left, kept, number = left - len(samples), kept + len(samples), number + 1

    def teaching_seconds(self, teacher: Result) -> float:
        """Predicted seconds of the teacher's answers to every image: see `scoring_seconds`."""
        images = (len(self.images.train) + len(self.images.valid)) * (2 if teacher.trial.recipe.flip else 1)
        return images / max(teacher.images_per_second, 1.0)

    def tried(self, stage: str) -> list[Result]:
        return [r for r in self.results if r.trial.stage == stage]

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
        trial = self.trial("race-0-1", race.STAGE, self.advice.sample, FIRST_ANSWER_SECONDS)
        self.record(train.run(self.work, self.engine, self.settings.task, trial))

    def refit(self, verdict: Verdict) -> Result | None:
        """The rest of the chosen net's training, by all workers together; None where it failed.

        It is on everything that is not sealed. Where nothing is sealed, the validation part stays out, so that
        the accuracy told is that of the network handed over.
        """
        seconds, chosen = None, verdict.chosen
        if self.settings.trials is None:
            busy = 1 / max(chosen.images_per_second * self.plan.image_seconds, 1e-3)  # 1 where nothing else runs
            writing = min(max(busy, 1.0), MOST_SLOWNESS) * WRITE_SECONDS
            ending = writing + train.OVERHEAD_SECONDS + self.scoring_seconds(chosen)
            seconds = max(self.clock.until(1.0) - ending, 2.0)
            threading.Thread(target=deliver.warm_up, daemon=True).start()
        result = self.train_on(chosen, "final", seconds, "all" if self.images.test else "train")
        return result if result.status == "done" else None

    def train_on(
        self, chosen: Result, stage: str, seconds: float | None, part: Literal["train", "all"] = "train"
    ) -> Result:
        """Go on with a training to the end of its schedule, by all workers together.

        One that has come to its end already goes on at the rate that a training so much longer has there: where
        little time is left, that is a low one, and nothing is lost.
        """
        trial = replace(
            self.trial(stage, stage, chosen.trial.sample, seconds),
            part=part,
            threads=machine.cores() if self.settings.trials is None else 1,
            resumes=chosen.trial.id,
            span=(self.trained_share(chosen, seconds), 1.0),
            teacher=chosen.trial.teacher,
        )
        self.tell(stage, 0, 1)
        result = next(iter(self.runner.run([trial])))
        self.record(result)
        return result

    def trained_share(self, chosen: Result, seconds: float | None) -> float:
        """Which share of its whole training the chosen net has behind it."""
        ended, of_race = chosen.trial.span[1] == 1, chosen.trial.stage in (race.STAGE, ladder.TEACHER)
        parts = race.parts(self.advice, self.raced, chosen.trial.sample) if of_race else []
        if seconds is None:
            behind = sum(r.trial.epochs or 0 for r in (*parts, chosen))
            return behind / (behind + COUNTED_EPOCHS["final"]) if ended else chosen.trial.span[1]
        speed = self.plan.team_speed if chosen.trial.threads > 1 else 1.0
        worked = sum(r.seconds for r in parts) + (chosen.seconds * speed if ended else 0.0)
        return worked / (worked + seconds * self.plan.team_speed)

    def scoring_seconds(self, chosen: Result) -> float:
        """Predicted seconds of answering the sealed part in float32: about a third of as many training steps."""
        images = self.images.test.size if self.images.test else len(self.images.valid)
        return images / max(chosen.images_per_second, 1.0)

    def material(self, verdict: Verdict, final: Result | None) -> deliver.Material:
        """Everything that is written; the sealed part is opened here, once."""
        task, notes = TASKS[self.settings.task], (*verdict.notes, *self.caveats(final))
        net = verdict.chosen.trial.net
        weights = train.load_weights(self.work, (final or verdict.chosen).trial.id)
        kind = "test" if self.images.test else "validation"
        scored = self.images.test.open() if self.images.test else self.images.valid
        part = scored.at(*net.input_shape[:2])
        probabilities = train.probabilities(net, weights, np.asarray(part.pixels))
        better = task.better(probabilities.argmax(1) == part.labels, np.asarray(part.labels))
        notes = notes if better else (self.learnt_nothing(final or verdict.chosen), *notes)
        return deliver.Material(
            folder=self.settings.out,
            images=self.images,
            facts=self.facts,
            advice=self.advice,
            verdict=replace(verdict, notes=notes),
            final=final,
            results=self.ledger.results,
            weights=weights,
            scored=part,
            kind=kind,
            probabilities=probabilities,
            baseline=task.baseline(part.labels),
            better=better,
            provenance=self.provenance(),
            clock=self.clock,
        )

    def learnt_nothing(self, handed_over: Result) -> str:
        """What is said of a network that is not shown to be better than knowing nothing, and what would help."""
        parts = {r.trial.id: r for r in (*self.ledger.results, handed_over)}
        chain = [handed_over]
        while (before := parts.get(chain[-1].trial.resumes)) is not None:
            chain.append(before)
        views = sum(r.history[-1].images for r in chain if r.history) / len(self.images.train)
        said = "This network is not shown to be better than always answering the largest class."
        short = "The trainings were too short" if self.settings.trials else "The budget was too short"
        short = "It was interrupted too early" if self.interrupted else short
        return f"{said} {needed(views, len(self.images.train), self.clock.elapsed, short)}."

    def caveats(self, final: Result | None) -> list[str]:
        """What the report must say beside the choice."""
        failed = [r for r in self.ledger.results if r.trial.stage == "final" and r.status == "failed"]
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
        baseline = TASKS[self.settings.task].baseline(np.asarray(self.images.valid.labels)) if best else None
        self.watcher(Progress(stage, done, planned, best, left, note, baseline))
