"""Net, edits, images -> what each edit is worth: the net as it is and edited, trained alike and compared."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil, sqrt
from pathlib import Path

import numpy as np

from convwise import batches, machine, train
from convwise.advice import advise
from convwise.core.calculus import analyse
from convwise.core.goal import Goal
from convwise.core.net import Net
from convwise.core.problems import ConvwiseError, UnusableInput
from convwise.core.records import Effect, Pace, Recipe, Result, Trial
from convwise.decode import with_channels
from convwise.fingerprint import look
from convwise.fitting import Fitted, fitted
from convwise.formats import format_module
from convwise.images import Images, Part
from convwise.judge import repeated_effect, wilson
from convwise.runners import RUNNERS, Runner
from convwise.study import MOST_WORKERS, OVERHEAD_SECONDS, Progress, Watcher, quiet
from convwise.tasks import TASKS

TASK = "classify"
LEAST_SECONDS = 2.0  # of one training
LEAST_EPOCHS = 2.0  # of one training, where the budget has room
MOST_BYTES = 2**28  # of the stored pixels of each part
STEP_BYTES = 2**31  # of the activations of one training step
MOMENT_IMAGES = 200
WARM_SECONDS, WARM_IMAGES = 3.0, 256  # at most, of one epoch before the plan, which tells how fast trainings are here


@dataclass(frozen=True)
class Terms:
    """What all trainings share.

    seconds: wall clock of everything; seeds: pairs of trainings for each edit; seed: of the first;
    workers: trainings side by side, default one a core; recipe: the images' own advice by default.
    """

    seconds: float = 120.0
    seeds: int = 3
    seed: int = 0
    workers: int | None = None
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        for name, number in (("seeds", self.seeds), ("workers", self.workers)):
            if number is not None and number < 1:
                raise UnusableInput(name, f"is {number}", "at least 1")


@dataclass(frozen=True)
class Measured:
    """What one edit is worth; effect is None where it could not be measured, and the notes say why."""

    label: str
    effect: Effect | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        notes = "; ".join(self.notes)
        if self.effect is None:
            return f"not measured: {notes}"
        change, low, high = (100 * n for n in (self.effect.accuracy_change, self.effect.low, self.effect.high))
        step = f"a step takes {self.effect.time_ratio:.2f} of the time"
        told = f"measured: {change:+.1f} points ({low:.1f} to {high:.1f}), {self.effect.verdict}; {step}"
        return told + (f" ({notes})" if notes else "")


@dataclass(frozen=True)
class Applied:
    """Every edit in the order given, the accuracy of the net as it is, and what to know of all trainings."""

    measured: tuple[Measured, ...]
    accuracy: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Plan:
    """How many of the edits are tried, seconds of one training, and the images that it sees."""

    edits: int
    seconds: float
    train: int
    valid: int


@dataclass
class _Bench:
    """What is tried, and what has come of it; net 0 is the net as it is, the edits count from 1.

    refused: why an edited net cannot be trained; results: by (number of the net, seed).
    """

    nets: dict[int, Fitted]
    refused: dict[int, str]
    images: Images
    terms: Terms
    results: dict[tuple[int, int], Result] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def measure(net: Net, edits: Sequence[tuple[str, Net]], images: Images, *, watcher: Watcher = quiet,
            **terms: object) -> Applied:  # fmt: skip
    """The measured effect of each edit (label, edited net), on the validation part of `images`.

    terms: the fields of Terms. Every training takes the same wall clock and recipe; the net and its
    edits share the seeds, and with them the order of the images. A training that fails costs only
    itself. Ctrl-C gives what is measured so far. UnusableInput, ShapeError or Unsupported where the
    net itself cannot be trained on such images.
    """
    started = time.monotonic()
    asked, scale = Terms(**terms), _scale(images, net.input_shape[2])  # type: ignore[arg-type]
    original = _prepared(net, images, scale)
    bench = _Bench({0: original}, {}, images, asked, notes=list(original.notes))
    for number, (_, edited) in enumerate(edits, 1):
        try:
            bench.nets[number] = _prepared(edited, images, scale, net.input_shape)
        except ConvwiseError as error:
            bench.refused[number] = str(error)
    if len(bench.nets) > 1:
        _train_all(bench, started, watcher)
    measured = tuple(_measured(bench, label, number) for number, (label, _) in enumerate(edits, 1))
    alone = [r.score for (number, _), r in bench.results.items() if number == 0 and r.score is not None]
    return Applied(measured, float(np.mean(alone)) if alone else None, tuple(bench.notes))


# Nets ---------------------------------------------------------------------------------------------


Scale = tuple[tuple[float, ...], tuple[float, ...]]  # mean and variance of pixels / 255, per channel


def _scale(images: Images, channels: int) -> Scale:
    if channels not in (1, 3):
        raise UnusableInput("the network", f"reads {channels} channels", "1 or 3: the images are gray or colour")
    step = -(-len(images.train) // MOMENT_IMAGES)
    pixels = with_channels(np.asarray(images.train.pixels[::step]), channels) / 255
    mean, variance = pixels.mean((0, 1, 2)), pixels.var((0, 1, 2)).clip(1e-6)
    return tuple(mean.tolist()), tuple(variance.tolist())


def _prepared(net: Net, images: Images, scale: Scale, shape: tuple[int, int, int] | None = None) -> Fitted:
    """The net fitted to the images and buildable; an edited one must read `shape`."""
    if shape and net.input_shape != shape:
        raise UnusableInput("the edited network", f"reads {net.input_shape}", f"{shape}, as the network does")
    found = fitted(net, len(images.classes), *scale)
    format_module("torch").build(found.net, logits=True)
    return found


# Trainings ----------------------------------------------------------------------------------------


def _train_all(bench: _Bench, started: float, watcher: Watcher) -> None:
    """Every training of the plan, as far as time and the user allow; the results are put into the bench."""
    terms, engine = bench.terms, machine.engine()
    workers = terms.workers or (min(machine.cores(), MOST_WORKERS) if engine.device == "cpu" else 1)
    with tempfile.TemporaryDirectory(prefix="convwise-") as name:
        folder = Path(name)
        runner = RUNNERS["local"](partial(train.run, folder, engine, TASK), workers)
        try:
            pace = machine.pace(engine)
            recipe = _in_memory(_recipe(bench, pace), bench)
            image_seconds = _slowest(bench, pace)
            few = max(min(WARM_IMAGES, int(WARM_SECONDS / image_seconds)), 16)
            _store(folder, bench, _Plan(0, 0.0, few, few // 4))
            image_seconds *= _warm(runner, bench, recipe, workers, pace)
            left = terms.seconds - (time.monotonic() - started)
            plan = _plan(bench, left, workers, image_seconds)
            trials = _trials(bench, plan, recipe)
            _store(folder, bench, plan)
            watcher(Progress("apply", 0, len(trials), None, left))
            for done, result in enumerate(runner.run(trials.values()), 1):
                key = next(key for key, trial in trials.items() if trial.id == result.trial.id)
                bench.results[key] = result
                train.weights_path(folder, result.trial.id).unlink(missing_ok=True)
                left = terms.seconds - (time.monotonic() - started)
                watcher(Progress("apply", done, len(trials), None, max(left, 0.0)))
        except KeyboardInterrupt:
            bench.notes.append("it was interrupted: this is what was measured until then")
        finally:
            runner.close()


def _slowest(bench: _Bench, pace: Pace) -> float:
    """Predicted seconds of one training image of the slowest net."""
    return max(_predicted(each.net, pace) for each in bench.nets.values())


def _predicted(net: Net, pace: Pace) -> float:
    total = analyse(net).total
    return pace.seconds(total.macs, total.activation_bytes)


def _warm(runner: Runner, bench: _Bench, recipe: Recipe, workers: int, pace: Pace) -> float:
    """Measured / predicted seconds of one training image of the net as it is, by all workers at once.

    It is one counted epoch, which a runner never ends for taking long: when it is over, all have started.
    """
    net, seed = bench.nets[0].net, bench.terms.seed
    trials = [Trial(f"warm{n}", "warm", {}, net, recipe, epochs=1, seed=seed) for n in range(workers)]
    done = [1 / r.images_per_second for r in runner.run(trials) if r.status == "done"]
    return float(np.mean(done)) / _predicted(net, pace) if done else 1.0


def _recipe(bench: _Bench, pace: Pace) -> Recipe:
    """The recipe that the images advise, for the net's own input size."""
    images, terms = bench.images, bench.terms
    if terms.recipe:
        return terms.recipe
    facts = look(images.train, images.classes, seed=terms.seed, seconds=min(4.0, 0.05 * terms.seconds))
    recipe = advise(facts, Goal(), pace, terms.seconds, 1).recipe
    return replace(recipe, shift_px=max(1, round(0.07 * min(bench.nets[0].net.input_shape[:2]))))


def _in_memory(recipe: Recipe, bench: _Bench) -> Recipe:
    """The recipe with a batch whose activations, and as much for their gradients, fit into STEP_BYTES."""
    each = max(analyse(found.net).total.activation_bytes for found in bench.nets.values())
    batch = recipe.batch_size
    while batch > 8 and 2 * each * batch > STEP_BYTES:
        batch //= 2
    if batch == recipe.batch_size:
        return recipe
    bench.notes.append(f"batches of {batch} images instead of {recipe.batch_size}, for the memory that a step needs")
    return replace(recipe, batch_size=batch, learning_rate=recipe.learning_rate * sqrt(batch / recipe.batch_size))


def _plan(bench: _Bench, left: float, workers: int, image_seconds: float) -> _Plan:
    """As many edits as have room for LEAST_EPOCHS each, at least one; UnusableInput where there is no room."""
    wanted = LEAST_EPOCHS * len(bench.images.train) * image_seconds
    plans = [_with(n, bench, left, workers, image_seconds) for n in range(len(bench.nets) - 1, 0, -1)]
    plan = next((plan for plan in plans if plan.seconds >= max(wanted, LEAST_SECONDS)), plans[-1])
    if plan.seconds < LEAST_SECONDS:
        what = f"has {max(plan.seconds, 0.0):.1f} s for each of {2 * bench.terms.seeds} trainings"
        raise UnusableInput("--budget", what, f"at least {LEAST_SECONDS:g} s", "more time, or fewer seeds")
    if plan.seconds < wanted:
        bench.notes.append("the budget has room for less than two passes over the images: small effects stay hidden")
    said = f"{plan.seconds:.1f} s for each training, {bench.terms.seeds} seeds, {plan.valid} validation images"
    bench.notes.append(said)
    return plan


def _with(edits: int, bench: _Bench, left: float, workers: int, image_seconds: float) -> _Plan:
    """The plan that tries so many edits: validation gets a quarter of the time at most."""
    slot = left / ceil((1 + edits) * bench.terms.seeds / workers)
    valid = _some(bench, _scorable(0.25 * slot / image_seconds), len(bench.images.valid))
    scoring = image_seconds / 3 * (valid + train.CURVE_POINTS * min(valid, train.CURVE_IMAGES))
    seconds = slot - OVERHEAD_SECONDS - scoring
    seen = max(1000, round(2 * seconds / image_seconds))
    return _Plan(edits, seconds, _some(bench, seen, len(bench.images.train)), valid)


def _scorable(steps: float) -> int:
    """How many images can be scored, and the learning curve on some, in the time of so many training images.

    Scoring an image takes a third of training on it.
    """
    few = 3 * steps / (1 + train.CURVE_POINTS)
    return max(round(few if few < train.CURVE_IMAGES else 3 * steps - train.CURVE_POINTS * train.CURVE_IMAGES), 50)


def _some(bench: _Bench, wanted: int, there_are: int) -> int:
    height, width, channels = bench.nets[0].net.input_shape
    return min(wanted, there_are, MOST_BYTES // (height * width * channels))


def _trials(bench: _Bench, plan: _Plan, recipe: Recipe) -> dict[tuple[int, int], Trial]:
    """Seed by seed, so that an interrupt leaves whole pairs of every edit."""
    tried = list(bench.nets.items())[: 1 + plan.edits]
    return {
        (number, seed): Trial(
            f"net{number:02d}-seed{seed}",
            "apply",
            {},
            each.net,
            recipe,
            plan.seconds,
            seed=1000 * bench.terms.seed + seed,
        )
        for seed in range(bench.terms.seeds)
        for number, each in tried
    }


def _store(folder: Path, bench: _Bench, plan: _Plan) -> None:
    height, width, channels = bench.nets[0].net.input_shape
    rng = np.random.default_rng(bench.terms.seed)
    for name, count in (("train", plan.train), ("valid", plan.valid)):
        part = _chosen(getattr(bench.images, name), count, rng).at(height, width)
        part = replace(part, pixels=with_channels(np.asarray(part.pixels), channels))
        batches.store(folder, f"{height}x{width}", name, part)


def _chosen(part: Part, count: int, rng: np.random.Generator) -> Part:
    if count >= len(part):
        return part
    rows = np.sort(rng.permutation(len(part))[:count])
    return Part(np.asarray(part.pixels[rows]), part.labels[rows], tuple(part.names[row] for row in rows))


# Effects ------------------------------------------------------------------------------------------


def _measured(bench: _Bench, label: str, number: int) -> Measured:
    """What became of one edit, from the pairs of which both trainings ended."""
    if number in bench.refused:
        return Measured(label, notes=(f"the edited network cannot be trained: {bench.refused[number]}",))
    if not any(key == number for key, _ in bench.results):
        return Measured(label, notes=("there was no time for it",))
    pairs, notes = list(_pairs(bench.results, number, bench.terms.seeds)), tuple(_troubles(bench, number))
    if not pairs:
        return Measured(label, notes=notes)
    effect = repeated_effect(label, ("as it is", "edited"), pairs)
    if not any(_learnt(bench, [pair[side] for pair in pairs]) for side in (0, 1)):
        notes += ("neither network beats always answering the largest class: give more time",)
        effect = replace(effect, verdict="not resolved")
    return Measured(label, effect, notes)


def _pairs(results: Mapping[tuple[int, int], Result], number: int, seeds: int) -> Iterator[tuple[Result, Result]]:
    for seed in range(seeds):
        pair = results.get((0, seed)), results.get((number, seed))
        if pair[0] and pair[1] and pair[0].status == pair[1].status == "done":
            yield pair[0], pair[1]


def _troubles(bench: _Bench, number: int) -> Iterator[str]:
    """A sentence on the trainings that failed or are missing, of the edited net and of the net as it is."""
    for which, name in ((number, "the edited network"), (0, "the network as it is")):
        runs = [r for (net, _), r in bench.results.items() if net == which]
        broken = [r.reason for r in runs if r.status == "failed"]
        if broken:
            yield f"{len(broken)} of {len(runs)} trainings of {name} failed: {broken[0]}"
        if 0 < len(runs) < bench.terms.seeds:
            yield f"{len(runs)} of {bench.terms.seeds} trainings of {name} ended"


def _learnt(bench: _Bench, runs: Sequence[Result]) -> bool:
    """Whether the runs together surely beat the answer that needs no image."""
    answers = "".join(run.correct for run in runs)
    baseline = TASKS[TASK].baseline(np.asarray(bench.images.valid.labels))
    return wilson(round(answers.count("1") / len(runs)), len(runs[0].correct))[0] > baseline
