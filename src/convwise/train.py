"""Trial -> Result: one complete training run, inside its time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from convwise import batches
from convwise.batches import Examples
from convwise.core.calculus import analyse
from convwise.core.net import Net
from convwise.core.problems import ConvwiseError
from convwise.core.records import Engine, Point, Recipe, Result, Trial
from convwise.formats import torch as torch_format
from convwise.formats.weights import Weights
from convwise.tasks import TASKS, Task

WARM_UP = 0.15  # share of the schedule in which the learning rate rises
CURVE_POINTS = 8  # validation points of a learning curve, beside the last
CURVE_IMAGES = 500  # validation images at most that a point is measured on


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
    examples = batches.load(folder, size, names).to(engine.device)
    held_out = None if trial.part == "all" else batches.load(folder, size, ("valid",)).to(engine.device)
    model = _model(trial, engine, initial)
    run = _fit(model, trial, examples, held_out, engine, TASKS[task], team)
    seconds = time.monotonic() - run.started
    correct = _correct(model, held_out, engine, TASKS[task]) if held_out else np.zeros(0, bool)
    result = Result(
        trial=trial,
        status="done",
        score=float(correct.mean()) if held_out else None,
        correct="".join("01"[int(c)] for c in correct),
        cost=_cost(trial),
        history=tuple(run.history),
        seconds=seconds,
        images_per_second=run.images / seconds,
        dtype=engine.dtype,
    )
    return result, torch_format.weights(model, trial.net)


def _cost(trial: Trial) -> dict[str, float]:
    total = analyse(trial.net).total
    return {"params": total.params, "macs": total.macs, "activation_bytes": total.activation_bytes}


def _model(trial: Trial, engine: Engine, initial: Weights | None) -> nn.Module:
    torch.manual_seed(trial.seed)
    model = torch_format.build(trial.net, logits=True)
    if initial is None:
        _initialise(model)
    else:
        torch_format.load(model, trial.net, initial)
    return model.to(engine.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _initialise(model: nn.Module) -> None:
    """He et al. 2015 for convolutions: variance 2 / fan out, of one group; zero biases; Dense as in PyTorch."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _fit(model: nn.Module, trial: Trial, examples: Examples, held_out: Examples | None, engine: Engine,
         task: Task, team: Team | None) -> _Run:  # fmt: skip
    model.train()
    recipe, rank, members = _shared_out(trial.recipe, team)
    optimizer = _optimizer(model, recipe)
    run = _Run(time.monotonic())
    progress = _progress(trial, examples, run)
    threads = _Threads(1 if team else trial.threads)
    for x, y in _endless(examples, recipe, torch.Generator().manual_seed(trial.seed + 7919 * rank)):
        threads.settle()
        optimizer.zero_grad(set_to_none=True)
        loss = _loss(model, x, y, recipe, engine, task)
        loss.backward()  # type: ignore[no-untyped-call]
        done = _agree(team, model, progress()) if team else progress()
        if done >= 1:
            break
        _set_rate(optimizer, one_cycle(done))
        optimizer.step()
        run.images += members * len(y)
        run.losses.append(loss.detach())
        _record(run, model, held_out, engine, task, done)
    _close(run, model, held_out, engine, task)
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


def _set_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share


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


def _endless(
    examples: Examples, recipe: Recipe, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    while True:
        yield from batches.batches(examples, recipe, generator)


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; biases and the normalisation's numbers are not decayed."""
    many = [p for p in model.parameters() if p.ndim > 1]
    few = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": many, "weight_decay": recipe.weight_decay}, {"params": few, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
    for group in optimizer.param_groups:
        group["peak"] = recipe.learning_rate
    return optimizer


def _logits(model: nn.Module, x: torch.Tensor, engine: Engine) -> torch.Tensor:
    low = engine.dtype == "bfloat16"
    with torch.autocast(engine.device.split(":")[0], dtype=torch.bfloat16, enabled=low):
        logits: torch.Tensor = model(x)
    return logits.float()


def _loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor, recipe: Recipe, engine: Engine,
          task: Task) -> torch.Tensor:  # fmt: skip
    loss = task.loss(_logits(model, x, engine), y, recipe)
    if not torch.isfinite(loss):
        raise TrainingFailed("training", "the loss is not a number", "a finite loss", "a lower learning rate")
    return loss


def _record(run: _Run, model: nn.Module, held_out: Examples | None, engine: Engine, task: Task, done: float) -> None:
    """A point of the learning curve at equal steps of the run; the clock stands still meanwhile."""
    if len(run.history) + 1 > done * CURVE_POINTS or done > 0.97:
        return
    before = time.monotonic()
    _point(run, model, held_out, engine, task, before)
    run.started += time.monotonic() - before


def _close(run: _Run, model: nn.Module, held_out: Examples | None, engine: Engine, task: Task) -> None:
    if run.losses or not run.history:
        _point(run, model, held_out, engine, task, time.monotonic())


def _point(run: _Run, model: nn.Module, held_out: Examples | None, engine: Engine, task: Task, now: float) -> None:
    mean = float(torch.stack(run.losses).mean()) if run.losses else float("nan")
    run.losses.clear()
    # Every k-th: the images may be in the order of their classes.
    step = -(-len(held_out) // CURVE_IMAGES) if held_out else 1
    some = Examples(held_out.pixels[::step], held_out.labels[::step]) if held_out else None
    accuracy = float(_correct(model, some, engine, task).mean()) if some else None
    run.history.append(Point(now - run.started, run.images, mean, accuracy))


def _correct(model: nn.Module, examples: Examples, engine: Engine, task: Task) -> np.ndarray:
    """Which examples the model gets right: bool (n,)."""
    training = model.training
    model.eval()
    with torch.inference_mode():
        rows = [task.correct(_logits(model, x, engine), y) for x, y in batches.in_order(examples)]
    model.train(training)
    return torch.cat(rows).cpu().numpy()


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


def probabilities(net: Net, weights: Weights, pixels: np.ndarray) -> np.ndarray:
    """Class probabilities (n, classes) of uint8 images (n, h, w, c), in float32."""
    model = torch_format.build(net)
    torch_format.load(model, net, weights)
    model.eval()
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    with torch.inference_mode():
        rows = [model(x) for x, _ in batches.in_order(Examples(torch.from_numpy(np.ascontiguousarray(pixels)), labels))]
    return torch.cat(rows).numpy() if rows else np.zeros((0, 0), np.float32)
