"""Trial -> Result: one training run, whole or a segment of one, inside its time."""

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
from convwise.core.progress import Live
from convwise.core.records import INTERRUPTED, Engine, Point, Recipe, Result, Trial
from convwise.core.score import score_of
from convwise.formats import torch as torch_format
from convwise.formats.weights import Weights
from convwise.training import batches
from convwise.training.batches import Examples
from convwise.training.initial import freeze, initialise
from convwise.training.narrow import quicken
from convwise.training.optimizers import RunningAverage, TailMean, optimizers, settling
from convwise.training.tasks import TASKS, Task
from convwise.training.threads import Threads

WARM_UP = 0.15  # share of the schedule in which the learning rate rises
OVERHEAD_SECONDS = 0.6  # of one trial beside training and validation
BOXED_UNTIL = 0.85  # share of the schedule after which images are whole again
SETTLING_BATCHES = 10  # that the statistics of averaged weights are measured on
CURVE_POINTS = 8  # validation points of a learning curve, beside the last
CURVE_IMAGES = 500  # validation images at most that a point is measured on
CURVE_SHARE = 1 / 16  # of the time of a training, at most, for the points of its curve
# Validation images at most by which a segment of a training is judged, and one that was cut short
SEGMENT_IMAGES, CUT_IMAGES = 5000, 1000
LEAST_OWN = 32  # images of a batch that each member of a team takes
TELLING_SECONDS = 1.0  # from one word on how far it is to the next
COOLING_SECONDS = 1.0  # in which a training comes to an early end
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


class Line(Protocol):
    """The line to whoever wants the training."""

    @property
    def team(self) -> Team | None:
        """Who trains the same net, where this is not alone."""

    @property
    def ending(self) -> bool:
        """Whether the training is to come to an early end."""

    def tell(self, live: Live) -> None:
        """How far it is."""


class Alone:
    """Nobody asks, and nobody is told."""

    team: Team | None = None
    ending = False

    def tell(self, live: Live) -> None:
        pass


ALONE = Alone()


@dataclass
class _Run:
    """What changes while a run goes on.

    right, asked: of `asked` images seen since it was told last, how many were answered right. cut:
    when it was asked to come to an early end, in time.monotonic seconds.
    """

    started: float
    images: int = 0
    history: list[Point] = field(default_factory=list)
    losses: list[torch.Tensor] = field(default_factory=list)
    told: float = 0.0
    right: list[torch.Tensor] = field(default_factory=list)
    asked: int = 0
    cut: float | None = None

    def cooled(self) -> float:
        """How much of COOLING_SECONDS has passed, where it was asked to come to an early end."""
        return (time.monotonic() - self.cut) / COOLING_SECONDS if self.cut and self.images else 0.0

    def mean_loss(self) -> float:
        """Over the steps since it was asked last; not a number where there were none."""
        mean = float(torch.stack(self.losses).mean()) if self.losses else math.nan
        self.losses.clear()
        return mean


def train(trial: Trial, folder: Path, engine: Engine, task: str = "classify",
          initial: Weights | None = None, line: Line = ALONE
          ) -> tuple[Result, Weights]:  # fmt: skip
    """Train `trial` on the parts stored in `folder`; returns its result and its weights.

    With a team every member calls this with the same trial, and gets the same weights. Asked to
    come to an early end, the learning rate falls to zero in COOLING_SECONDS: what there is by then
    is the result. TrainingFailed where the loss stops being a number.
    """
    torch.set_num_threads(1 if line.team else trial.threads)
    size = batches.stored_as(trial.net)
    names = ("train", "valid") if trial.part == "all" else ("train",)
    stored = batches.load(folder, size, names, training=True)
    taught = _taught(trial, folder, names, stored, TASKS[task])
    examples = _learnt(taught, trial, TASKS[task]).to(engine.device)
    held_out = None
    if trial.part != "all":
        stored = batches.load(folder, size, ("valid",))
        held_out = _learnt(stored, trial, TASKS[task]).to(engine.device)
    model = _model(trial, engine, initial, examples)
    run = _fit(model, trial, examples, held_out, engine, TASKS[task], line)
    seconds = time.monotonic() - run.started
    if run.cut:
        trial = replace(trial, span=(trial.span[0], 1.0))
    most = CUT_IMAGES if run.cut else SEGMENT_IMAGES if trial.span[1] < 1 else None
    asked, score = _Asked(trial, engine, TASKS[task]), None
    outcomes, weighed, mirrored = np.zeros(0), np.zeros(0), np.zeros(0)
    if held_out:
        held_out = _some(held_out, most) if most else held_out
        outcomes, weighed = asked.outcomes(model, held_out)
        score = asked.score(outcomes, weighed)
    line.tell(Live(trial.id, 1.0, run.images / len(examples), None, run.images / seconds))
    cheap = run.images >= 2 * min(len(outcomes), MIRRORED_IMAGES) and not run.cut
    if held_out and cheap and not trial.recipe.flip:
        mirrored = asked.mirrored(model, held_out)
    run.history.append(Point(seconds, run.images, run.mean_loss(), score))
    result = Result(
        trial=trial,
        status="done",
        score=score,
        weighed=tuple(weighed.round(6).tolist()),
        **TASKS[task].kept(outcomes, mirrored),
        cost=analyse(trial.net).total.cost,
        history=tuple(run.history),
        seconds=seconds,
        images_per_second=run.images / seconds,
        dtype=engine.dtype,
        reason=INTERRUPTED if run.cut else "",
    )
    return result, torch_format.weights(model, trial.net.shrunk)


def _taught(
    trial: Trial, folder: Path, names: tuple[str, ...], examples: Examples, task: Task
) -> Examples:
    """The examples as the trial learns them: with their labels, or a teacher's answers as well."""
    if not trial.teacher:
        return examples
    said = batches.answers(folder, trial.teacher, names)
    return Examples(examples.pixels, task.taught(examples.labels, said, trial.recipe))


def _learnt(examples: Examples, trial: Trial, task: Task) -> Examples:
    return Examples(examples.pixels, task.learnt(examples.labels, trial.net))


def _model(trial: Trial, engine: Engine, initial: Weights | None, examples: Examples) -> nn.Module:
    torch.manual_seed(trial.seed)
    net = trial.net.shrunk
    model = torch_format.build(net, logits=True)
    if initial is None:
        initialise(model, trial.recipe, examples.pixels.cpu())
    else:
        torch_format.load(model, net, initial)
    freeze(model, trial.recipe)
    if engine.beside:
        quicken(model)
    return model.to(engine.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _fit(model: nn.Module, trial: Trial, examples: Examples, held_out: Examples | None,
         engine: Engine, task: Task, line: Line) -> _Run:  # fmt: skip
    model.train()
    recipe, rank, members = _shared_out(trial.recipe, line.team)
    movers = optimizers(model, recipe, engine.dtype == "bfloat16")
    average = RunningAverage(model) if recipe.average else None
    tail = TailMean(model) if trial.span[1] < 1 else None
    run = _Run(time.monotonic())
    progress = _progress(trial, examples, run)
    threads = Threads(1 if line.team else trial.threads)
    begin, end = trial.span
    share = begin  # of the schedule
    counted = not trial.teacher and not score_of(trial.net).is_error  # answers are right or wrong
    # Each member, and each segment of a training, has an order of its own; nets that are compared
    # share it.
    generator = torch.Generator().manual_seed(trial.seed + 7919 * rank + round(1e4 * begin))
    source = batches.batches(examples, recipe, generator)
    for x, y in source:
        threads.settle()
        model.zero_grad(set_to_none=True)
        boxed = recipe.cutmix and share < BOXED_UNTIL
        if boxed and float(torch.rand((), generator=generator)) < recipe.cutmix:
            x, others, own = batches.boxed(x, generator)
            loss, _ = _loss(model, x, (y, y[others]), (own, 1 - own), recipe, engine, task)
        else:
            loss, logits = _loss(model, x, (y,), (1.0,), recipe, engine, task)
            if counted:
                run.right.append(task.outcomes(logits.detach(), y, trial.net).sum())
                run.asked += len(y)
        loss.backward()  # type: ignore[no-untyped-call]
        mine = progress(), float(line.ending), run.cooled()
        done, ending, cooled = _agree(line.team, model, mine) if line.team else mine
        if ending and run.cut is None:
            run.cut = time.monotonic()
        if max(done, cooled) >= 1:
            break
        share = begin + done * (end - begin)
        rate = falling(share) if recipe.optimizer == "muon" else one_cycle(share)
        _set_rate(movers, rate * (1 - cooled))
        for mover in movers:
            mover.step()
        if average:
            average.step(share)
        if tail:
            tail.step(done)
        run.images += members * len(y)
        run.losses.append(loss.detach())
        if trial.span == (0.0, 1.0) or held_out is None:  # a segment is one point of its curve
            _record(run, model, held_out, _Asked(trial, engine, task), done)
        _tell(line, run, trial, done, len(examples))
    if average:
        average.end()
    # Where it was cut, the rate has come down, and the running statistics are of these weights
    if tail and run.cut is None:
        tail.end()
        with settling(model), torch.no_grad():
            for x, _ in islice(source, SETTLING_BATCHES):
                _logits(model, x, engine)
    return run


def _shared_out(recipe: Recipe, team: Team | None) -> tuple[Recipe, int, int]:
    """(what one member does, its rank, the number of members): a team shares one batch."""
    if team is None:
        return recipe, 0, 1
    mine = replace(recipe, batch_size=members_batch(recipe.batch_size, team.size))
    return mine, team.rank, team.size


def members_batch(batch: int, members: int) -> int:
    """Images that one of a team takes of a batch."""
    return batch if members == 1 else max(batch // members, LEAST_OWN)


def _agree(team: Team, model: nn.Module, mine: tuple[float, ...]) -> tuple[float, ...]:
    """Give every member the mean gradients; returns the mean of their numbers.

    So all of them stop at the same step.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([torch.tensor(mine), *(g.flatten().cpu() for g in gradients)])
    mean = torch.from_numpy(team.mean(flat.numpy()))
    sizes = [g.numel() for g in gradients]
    for gradient, part in zip(gradients, torch.split(mean[len(mine) :], sizes), strict=True):
        gradient.copy_(part.view_as(gradient))
    return tuple(float(number) for number in mean[: len(mine)])


def _set_rate(movers: list[torch.optim.Optimizer], share: float) -> None:
    for mover in movers:
        for group in mover.param_groups:
            group["lr"] = group["peak"] * share


def falling(done: float) -> float:
    """The learning rate's share of its peak after the share `done` of it all: down in a line."""
    return 1 - done


def one_cycle(done: float) -> float:
    """The same share where the rate first rises, in a line, and then falls by a cosine."""
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


def _loss(model: nn.Module, x: torch.Tensor, labels: Sequence[torch.Tensor],
          shares: Sequence[float], recipe: Recipe, engine: Engine,
          task: Task) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """(loss, logits) of images of which each holds `shares` of what `labels` name."""
    logits = _logits(model, x, engine)
    losses = [own * task.loss(logits, y, recipe) for y, own in zip(labels, shares, strict=True)]
    loss = torch.stack(losses).sum()
    if not torch.isfinite(loss):
        what, fix = "the loss is not a number", "a lower learning rate"
        raise TrainingFailed("training", what, "a finite loss", fix)
    return loss, logits


def _record(
    run: _Run, model: nn.Module, held_out: Examples | None, asked: _Asked, done: float
) -> None:
    """A point of the learning curve at equal steps of the run, or fewer where they would take long;
    the clock stands still meanwhile.
    """
    points, each = len(run.history) + 1, min(len(held_out), CURVE_IMAGES) if held_out else 0
    if points > done * CURVE_POINTS or done > 0.97 or points * each > _affordable(run.images):
        return
    before = time.monotonic()
    score = asked.score(*asked.outcomes(model, _some(held_out, CURVE_IMAGES))) if held_out else None
    run.history.append(Point(before - run.started, run.images, run.mean_loss(), score))
    run.started += time.monotonic() - before


def curve_images(valid: int, trained: float = math.inf) -> float:
    """Validation images that a curve asks at most, of a training that sees so many images."""
    return min(CURVE_POINTS * min(valid, CURVE_IMAGES), _affordable(trained))


def _affordable(trained: float) -> float:
    return 3 * CURVE_SHARE * trained  # scoring an image is a third of training on it


def _tell(line: Line, run: _Run, trial: Trial, done: float, images: int) -> None:
    """How far it is, every TELLING_SECONDS; answers to what it learns from cost next to nothing."""
    now = time.monotonic()
    if now - run.told < TELLING_SECONDS:
        return
    accuracy = float(torch.stack(run.right).sum()) / run.asked if run.asked else None
    pace = run.images / max(now - run.started, 1e-9)
    line.tell(Live(trial.id, done, run.images / images, accuracy, pace))
    run.told, run.right, run.asked = now, [], 0


def _some(examples: Examples, most: int) -> Examples:
    """At most so many of them: every k-th, because they may be in the order of their classes."""
    step = -(-len(examples) // most)
    return Examples(examples.pixels[::step], examples.labels[::step])


@dataclass(frozen=True)
class _Asked:
    """How a model, the trial's net without its softmax or unit, is asked for its answers."""

    trial: Trial
    engine: Engine
    task: Task

    def outcomes(self, model: nn.Module, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
        """What each answer is worth, as the task counts it: (n,); and, where that differs, what it
        adds to the score.
        """
        training = model.training
        model.eval()
        with torch.inference_mode():
            rows = [_logits(model, x, self.engine).cpu() for x, _ in batches.in_order(examples)]
        model.train(training)
        outputs, labels = torch.cat(rows), examples.labels.cpu()
        outcomes = self.task.outcomes(outputs, labels, self.trial.net).numpy()
        return outcomes, self.task.weighed(outputs, labels, self.trial.score)

    def mirrored(self, model: nn.Module, examples: Examples) -> np.ndarray:
        """The same of some of the examples as they are, then of as many mirrored left-right."""
        some = _some(examples, MIRRORED_IMAGES)
        both = (some, Examples(some.pixels[:].flip(2), some.labels))
        return np.concatenate([self.outcomes(model, each)[0] for each in both])

    def score(self, outcomes: np.ndarray, weighed: np.ndarray) -> float:
        """The mean of what each answer adds to the score."""
        if len(weighed):
            return float(weighed.mean())
        return score_of(self.trial.net).score(float(outcomes.mean()))


def run(folder: Path, engine: Engine, task: str, trial: Trial, line: Line = ALONE) -> Result:
    """A worker's work: train on the parts stored in `folder`, and keep the weights there."""
    initial = load_weights(folder, trial.resumes) if trial.resumes else None
    result, weights = train(trial, folder, engine, task, initial, line)
    if line.team and line.team.rank:
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
    weights, net = load_weights(folder, teacher.id), teacher.net.shrunk
    for name in ("train", "valid"):
        if not batches.has_answers(folder, teacher.id, name):
            examples = batches.load(folder, batches.stored_as(teacher.net), (name,))
            said = _answers(net, weights, examples, teacher.recipe.flip)
            batches.store_answers(folder, teacher.id, name, said)


def answers(net: Net, weights: Weights, pixels: np.ndarray) -> np.ndarray:
    """Class probabilities (n, classes), or numbers (n, 1), of uint8 (n, h, w, c), in float32."""
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    return _answers(net, weights, Examples(torch.from_numpy(np.ascontiguousarray(pixels)), labels))


@torch.inference_mode()
def _answers(net: Net, weights: Weights, examples: Examples, mirrored: bool = False) -> np.ndarray:
    """What the net answers in float32, (n, outputs); with `mirrored`, the mean of both views."""
    model = torch_format.build(net)
    torch_format.load(model, net, weights)
    model.eval()
    rows = []
    for x, _ in batches.in_order(examples):
        views = (x, x.flip(3)) if mirrored else (x,)
        rows.append(torch.stack([model(view) for view in views]).mean(0))
    return torch.cat(rows).numpy() if rows else np.zeros((0, 0), np.float32)
