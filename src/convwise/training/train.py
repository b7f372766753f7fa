"""Trial -> Result: one training run, whole or a part of one, inside its time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from convwise.core.calculus import analyse
from convwise.core.net import Net
from convwise.core.problems import ConvwiseError
from convwise.core.records import Engine, Point, Recipe, Result, Trial
from convwise.core.score import score_of
from convwise.formats import torch as torch_format
from convwise.formats.weights import Weights
from convwise.training import batches
from convwise.training.batches import Examples
from convwise.training.initial import freeze, initialise
from convwise.training.optimizers import RunningAverage, TailMean, optimizers, settling
from convwise.training.tasks import TASKS, Task

WARM_UP = 0.15  # share of the schedule in which the learning rate rises
OVERHEAD_SECONDS = 0.6  # of one trial beside training and validation
BOXED_UNTIL = 0.85  # share of the schedule after which images are whole again
SETTLING_BATCHES = 10  # that the statistics of averaged weights are measured on
CURVE_POINTS = 8  # validation points of a learning curve, beside the last
CURVE_IMAGES = 500  # validation images at most that a point is measured on
MIRRORED_IMAGES = 1000  # validation images at most that are asked mirrored as well


class TrainingFailed(ConvwiseError):
    """A run that cannot go on, such as a loss that is not a number."""


class Team(Protocol):
    """Processes that train one net together: each step uses the mean of their gradients."""

    rank: int
    size: int

    def mean(self, values: np.ndarray) -> np.ndarray:
        """The mean over all members of float32 (n,), once every member has called."""
        ...


@dataclass
class _Run:
    """What changes while a run goes on."""

    started: float
    images: int = 0
    history: list[Point] = field(default_factory=list)
    losses: list[torch.Tensor] = field(default_factory=list)

    def mean_loss(self) -> float:
        """Over the steps since it was asked last; not a number where there were none."""
        mean = float(torch.stack(self.losses).mean()) if self.losses else math.nan
        self.losses.clear()
        return mean


def train(trial: Trial, folder: Path, engine: Engine, task: str = "classify", initial: Weights | None = None,
          team: Team | None = None) -> tuple[Result, Weights]:  # fmt: skip
    """Train `trial` on the parts stored in `folder`; returns its result and its weights.

    With a team every member calls this with the same trial, and gets the same weights.

    TrainingFailed where the loss stops being a number.
    """
    torch.set_num_threads(1 if team else trial.threads)
    height, width, _ = trial.net.input_shape
    size = f"{height}x{width}"
    names = ("train", "valid") if trial.part == "all" else ("train",)
    stored = batches.load(folder, size, names, training=True)
    examples = _learnt(_taught(trial, folder, names, stored, TASKS[task]), trial, TASKS[task]).to(engine.device)
    held_out = None
    if trial.part != "all":
        held_out = _learnt(batches.load(folder, size, ("valid",)), trial, TASKS[task]).to(engine.device)
    model = _model(trial, engine, initial, examples)
    run = _fit(model, trial, examples, held_out, engine, TASKS[task], team)
    seconds = time.monotonic() - run.started
    asked, none = _Asked(trial.net, engine, TASKS[task]), np.zeros(0)
    outcomes = asked.outcomes(model, held_out) if held_out else none
    mirrored = asked.mirrored(model, held_out) if held_out and not trial.recipe.flip else none
    score = asked.score(outcomes) if held_out else None
    run.history.append(Point(seconds, run.images, run.mean_loss(), score))
    result = Result(
        trial=trial,
        status="done",
        score=score,
        **TASKS[task].kept(outcomes, mirrored),
        cost=_cost(trial),
        history=tuple(run.history),
        seconds=seconds,
        images_per_second=run.images / seconds,
        dtype=engine.dtype,
    )
    return result, torch_format.weights(model, trial.net)


def _taught(trial: Trial, folder: Path, names: tuple[str, ...], examples: Examples, task: Task) -> Examples:
    """The examples as the trial learns them: with the labels alone, or with a teacher's answers as well."""
    if not trial.teacher:
        return examples
    said = batches.answers(folder, trial.teacher, names)
    return Examples(examples.pixels, task.taught(examples.labels, said, trial.recipe))


def _learnt(examples: Examples, trial: Trial, task: Task) -> Examples:
    return Examples(examples.pixels, task.learnt(examples.labels, trial.net))


def _cost(trial: Trial) -> dict[str, float]:
    total = analyse(trial.net).total
    return {"params": total.params, "macs": total.macs, "activation_bytes": total.activation_bytes}


def _model(trial: Trial, engine: Engine, initial: Weights | None, examples: Examples) -> nn.Module:
    torch.manual_seed(trial.seed)
    model = torch_format.build(trial.net, logits=True)
    if initial is None:
        initialise(model, trial.recipe, examples.pixels.cpu())
    else:
        torch_format.load(model, trial.net, initial)
    freeze(model, trial.recipe)
    return model.to(engine.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _fit(model: nn.Module, trial: Trial, examples: Examples, held_out: Examples | None, engine: Engine,
         task: Task, team: Team | None) -> _Run:  # fmt: skip
    model.train()
    recipe, rank, members = _shared_out(trial.recipe, team)
    movers = optimizers(model, recipe, engine.dtype == "bfloat16")
    average = RunningAverage(model) if recipe.average else None
    tail = TailMean(model) if trial.span[1] < 1 else None
    run = _Run(time.monotonic())
    progress = _progress(trial, examples, run)
    threads = _Threads(1 if team else trial.threads)
    begin, end = trial.span
    share = begin  # of the schedule
    # Each member, and each part of a training, has an order of its own; nets that are compared share it.
    generator = torch.Generator().manual_seed(trial.seed + 7919 * rank + round(1e4 * begin))
    source = batches.batches(examples, recipe, generator)
    for x, y in source:
        threads.settle()
        model.zero_grad(set_to_none=True)
        if share < BOXED_UNTIL and recipe.cutmix and float(torch.rand((), generator=generator)) < recipe.cutmix:
            x, others, own = batches.boxed(x, generator)
            loss = _loss(model, x, (y, y[others]), (own, 1 - own), recipe, engine, task)
        else:
            loss = _loss(model, x, (y,), (1.0,), recipe, engine, task)
        loss.backward()  # type: ignore[no-untyped-call]
        done = _agree(team, model, progress()) if team else progress()
        if done >= 1:
            break
        share = begin + done * (end - begin)
        _set_rate(movers, falling(share) if recipe.optimizer == "muon" else one_cycle(share))
        for mover in movers:
            mover.step()
        if average:
            average.step(share)
        if tail:
            tail.step(done)
        run.images += members * len(y)
        run.losses.append(loss.detach())
        if trial.span == (0.0, 1.0) or held_out is None:  # a part of a run is one point of its curve
            _record(run, model, held_out, _Asked(trial.net, engine, task), done)
    if average:
        average.end()
    if tail:
        tail.end()
        with settling(model), torch.no_grad():
            for x, _ in islice(source, SETTLING_BATCHES):
                _logits(model, x, engine)
    return run


def _shared_out(recipe: Recipe, team: Team | None) -> tuple[Recipe, int, int]:
    """(what one member does, its rank, the number of members): a team shares one batch, 32 images a member or more."""
    if team is None:
        return recipe, 0, 1
    return replace(recipe, batch_size=max(recipe.batch_size // team.size, 32)), team.rank, team.size


def _agree(team: Team, model: nn.Module, done: float) -> float:
    """Give every member the mean gradients; returns the mean progress, so that all stop at the same step."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    own = torch.cat([torch.tensor([done]), *(g.flatten().cpu() for g in gradients)])
    mean = torch.from_numpy(team.mean(own.numpy()))
    for gradient, part in zip(gradients, torch.split(mean[1:], [g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
    return float(mean[0])


class _Threads:
    """Finds out whether `most` threads are faster than one: on small nets, or beside other load, they are not.

    Every PERIOD steps a few are timed with each number, and the faster number is kept.
    """

    PERIOD, TIMED = 256, 4  # steps; the first step after a change is not timed

    def __init__(self, most: int) -> None:
        self.counts, self.step = sorted({1, most}, reverse=True), 0
        self.before, self.times = time.perf_counter(), dict.fromkeys(self.counts, math.inf)

    def settle(self) -> None:
        """To be called before each step."""
        if len(self.counts) == 1:
            return
        now, (phase, step) = time.perf_counter(), divmod(self.step % self.PERIOD, self.TIMED + 1)
        if phase < 2:
            count = self.counts[phase]
            torch.set_num_threads(count)
            self.times[count] = math.inf if step < 2 else min(self.times[count], now - self.before)
        elif (phase, step) == (2, 0):
            torch.set_num_threads(min(self.times, key=lambda n: self.times[n]))
        self.step, self.before = self.step + 1, now


def _set_rate(movers: list[torch.optim.Optimizer], share: float) -> None:
    for mover in movers:
        for group in mover.param_groups:
            group["lr"] = group["peak"] * share


def falling(done: float) -> float:
    """The learning rate's share of its peak after the share `done` of the schedule: down to zero in a line."""
    return 1 - done


def one_cycle(done: float) -> float:
    """The learning rate's share of its peak after the share `done` of the run: up linearly, down by a cosine."""
    if done < WARM_UP:
        return 0.1 + 0.9 * done / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


def _progress(trial: Trial, examples: Examples, run: _Run) -> Callable[[], float]:
    """How much of the run is done, by the clock or by counted epochs."""
    if trial.seconds is not None:
        seconds = trial.seconds
        return lambda: (time.monotonic() - run.started) / seconds if run.images else 0.0
    batch = min(trial.recipe.batch_size, len(examples))
    total = (trial.epochs or 1) * (len(examples) // batch) * batch
    return lambda: run.images / total


def _logits(model: nn.Module, x: torch.Tensor, engine: Engine) -> torch.Tensor:
    low = engine.dtype == "bfloat16"
    with torch.autocast(engine.device.split(":")[0], dtype=torch.bfloat16, enabled=low):
        logits: torch.Tensor = model(x)
    return logits.float()


def _loss(model: nn.Module, x: torch.Tensor, labels: Sequence[torch.Tensor], shares: Sequence[float], recipe: Recipe,
          engine: Engine, task: Task) -> torch.Tensor:  # fmt: skip
    """Of images of which each holds `shares` of what `labels` name."""
    logits = _logits(model, x, engine)
    losses = [own * task.loss(logits, y, recipe) for y, own in zip(labels, shares, strict=True)]
    loss = torch.stack(losses).sum()
    if not torch.isfinite(loss):
        raise TrainingFailed("training", "the loss is not a number", "a finite loss", "a lower learning rate")
    return loss


def _record(run: _Run, model: nn.Module, held_out: Examples | None, asked: _Asked, done: float) -> None:
    """A point of the learning curve at equal steps of the run; the clock stands still meanwhile."""
    if len(run.history) + 1 > done * CURVE_POINTS or done > 0.97:
        return
    before = time.monotonic()
    score = asked.score(asked.outcomes(model, _some(held_out, CURVE_IMAGES))) if held_out else None
    run.history.append(Point(before - run.started, run.images, run.mean_loss(), score))
    run.started += time.monotonic() - before


def _some(examples: Examples, most: int) -> Examples:
    """At most so many of them: every k-th, because they may be in the order of their classes."""
    step = -(-len(examples) // most)
    return Examples(examples.pixels[::step], examples.labels[::step])


@dataclass(frozen=True)
class _Asked:
    """How a model is asked for its answers to examples: it is `net` without its softmax, or unit."""

    net: Net
    engine: Engine
    task: Task

    def outcomes(self, model: nn.Module, examples: Examples) -> np.ndarray:
        """What each answer is worth, as the task counts it: (n,)."""
        training = model.training
        model.eval()
        with torch.inference_mode():
            answers = ((_logits(model, x, self.engine), y) for x, y in batches.in_order(examples))
            rows = [self.task.outcomes(outputs, y, self.net) for outputs, y in answers]
        model.train(training)
        return torch.cat(rows).cpu().numpy()

    def mirrored(self, model: nn.Module, examples: Examples) -> np.ndarray:
        """The same of some of the examples as they are, then of as many mirrored left-right."""
        some = _some(examples, MIRRORED_IMAGES)
        both = (some, Examples(some.pixels.flip(2), some.labels))
        return np.concatenate([self.outcomes(model, each) for each in both])

    def score(self, outcomes: np.ndarray) -> float:
        """Their mean, told as an accuracy or an error, as a score."""
        return score_of(self.net).score(float(outcomes.mean()))


def run(folder: Path, engine: Engine, task: str, trial: Trial, team: Team | None = None) -> Result:
    """A worker's work: train on the parts stored in `folder`, keep the weights there, return the result."""
    initial = load_weights(folder, trial.resumes) if trial.resumes else None
    result, weights = train(trial, folder, engine, task, initial, team)
    if team and team.rank:
        return result
    path = weights_path(folder, trial.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **weights)  # type: ignore[arg-type]
    return result


def weights_path(folder: Path, trial: str) -> Path:
    """Where the weights of a trial are kept."""
    return folder / "weights" / f"{trial}.npz"


def load_weights(folder: Path, trial: str) -> Weights:
    """The weights that `run` kept."""
    with np.load(weights_path(folder, trial), allow_pickle=False) as kept:
        return dict(kept)


def teach(folder: Path, teacher: Trial) -> None:
    """Store, once, what a trained trial says of the images that others learn from.

    Where it has learnt mirrored images, that is the mean of what it says of both views.
    """
    weights, net = load_weights(folder, teacher.id), teacher.net
    for name in ("train", "valid"):
        if not batches.has_answers(folder, teacher.id, name):
            pixels = batches.load(folder, "{}x{}".format(*net.input_shape), (name,)).pixels.numpy()
            views = [pixels, pixels[:, :, ::-1]] if teacher.recipe.flip else [pixels]
            given = [answers(net, weights, view) for view in views]
            batches.store_answers(folder, teacher.id, name, np.mean(given, axis=0))


def answers(net: Net, weights: Weights, pixels: np.ndarray) -> np.ndarray:
    """Class probabilities (n, classes), or numbers (n, 1), of uint8 images (n, h, w, c), in float32."""
    model = torch_format.build(net)
    torch_format.load(model, net, weights)
    model.eval()
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    with torch.inference_mode():
        rows = [model(x) for x, _ in batches.in_order(Examples(torch.from_numpy(np.ascontiguousarray(pixels)), labels))]
    return torch.cat(rows).numpy() if rows else np.zeros((0, 0), np.float32)
