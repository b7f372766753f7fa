"""A training loop that no change of convwise's own reaches: by the clock, in the fastest dtype.

An optimizer's groups say their rate themselves: `peak`, and `rate`, a function from the share of
the time that is done to the share of the peak.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from rivals.job import Job, Learnt
from rivals.views import Flip, Views

SCORED_AT_ONCE, TIMED_IMAGES = 256, 64
SCORING_TIMED_SECONDS = 1.0  # after which no further timing begins
SHORTEST_SECONDS = 0.5


@dataclass(frozen=True)
class Plan:
    """How a net is trained, beside its optimizers. average_every: steps between two averagings of
    the weights (0: none); summed: the loss is the sum over a batch, else its mean."""

    batch: int
    flip: Flip
    shift_px: int = 2
    smoothing: float = 0.0
    summed: bool = False
    average_every: int = 0


class Prepared(nn.Module):
    """Raw pixels 0 to 255 to mean 0 and deviation 1 by channel, then the net.

    pool: px of an average pool in front, 1 for none.
    """

    def __init__(self, net: nn.Module, pixels: np.ndarray, pool: int = 1) -> None:
        super().__init__()
        mean, deviation = moments(pixels)
        self.register_buffer("mean", mean[:, None, None])
        self.register_buffer("scale", 1 / deviation[:, None, None])
        self.pool, self.net = pool, net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x - self.mean) * self.scale
        return self.net(nn.functional.avg_pool2d(x, self.pool) if self.pool > 1 else x)


def moments(pixels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation (at least 1) of each channel of uint8 (n, rows, columns, channels)."""
    some = pixels[:: -(-len(pixels) // 2000)].astype(np.float64)
    mean, deviation = some.mean((0, 1, 2)), some.std((0, 1, 2))
    return torch.tensor(mean).float(), torch.tensor(deviation).float().clamp(min=1.0)


def trained(
    model: nn.Module, part: Any, plan: Plan, optimizers: Sequence[torch.optim.Optimizer], job: Job
) -> Learnt:
    """Train `model` on `part` (pixels, labels, at the net's size) until there is just the time left
    that scoring will take."""
    model = model.to(memory_format=torch.channels_last)
    shape = part.pixels.shape[1:]
    reserve, scorers = scoring(model, shape, job.images.test.size, job.threads)
    views = Views(part.pixels, part.labels, plan.flip, plan.shift_px, job.seed)
    seconds = max(job.left - reserve, SHORTEST_SECONDS)
    run = fit(model, views, plan, optimizers, seconds, job.threads, job.dtype)
    run |= {"dtype": job.dtype, "epochs": run["images_seen"] / len(part.labels)}
    torch.set_num_threads(scorers)
    return Learnt(shape[:2], partial(probabilities, model), lambda: {**run, **cost(model, shape)})


def fit(
    model: nn.Module,
    views: Views,
    plan: Plan,
    optimizers: Sequence[torch.optim.Optimizer],
    seconds: float,
    threads: int,
    dtype: str,
) -> dict[str, Any]:
    """The loop; returns images_seen, threads used and train_seconds."""
    started, seen = time.monotonic(), 0
    model.train()
    choice, average = Threads(threads), Average(model)
    for step, (x, y) in enumerate(views.batches(plan.batch)):
        choice.settle(step)
        done = (time.monotonic() - started) / seconds if step else 0.0
        if done >= 1:
            break
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * group["rate"](done)
            optimizer.zero_grad(set_to_none=True)
        loss_of(model, x, y, plan, dtype).backward()
        for optimizer in optimizers:
            optimizer.step()
        seen += len(y)
        if plan.average_every and step % plan.average_every == plan.average_every - 1:
            average.update(done)
    if plan.average_every:
        average.finish()
    return {
        "images_seen": seen,
        "threads": choice.best,
        "train_seconds": time.monotonic() - started,
    }


def loss_of(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, plan: Plan, dtype: str
) -> torch.Tensor:
    """Cross-entropy of one batch; FloatingPointError where it is not a number."""
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        logits = model(x)
    reduction = "sum" if plan.summed else "mean"
    loss = nn.functional.cross_entropy(
        logits.float(), y, label_smoothing=plan.smoothing, reduction=reduction
    )
    if not torch.isfinite(loss):
        raise FloatingPointError("the loss is not a number")
    return loss


class Threads:
    """Every PERIOD steps times a few with one thread, then with all, and keeps the faster number.

    A net that is small, or a machine that does other things, is slower with two. All threads are
    given up as soon as they have taken longer than one did.
    """

    PERIOD, WARM, TIMED = 500, 1, 3  # steps; the first after a change is not timed

    def __init__(self, most: int) -> None:
        self.most, self.best = most, 1
        self.one, self.before = 0.0, 0.0  # seconds of TIMED steps with one; when timing began

    def settle(self, step: int) -> None:
        """To be called before each step."""
        now, at, each = time.perf_counter(), step % self.PERIOD, self.WARM + self.TIMED
        if self.most == 1 or at > 2 * each:
            return
        if at == 0:
            self.use(1)
        elif at == each:
            self.one = now - self.before
            self.use(self.most)
        elif at > each + self.WARM and self.best > 1 and now - self.before > self.one:
            self.use(1)
        if at in (self.WARM, each + self.WARM):
            self.before = now

    def use(self, count: int) -> None:
        self.best = count
        torch.set_num_threads(count)


class Average:
    """Weights and running statistics averaged as training goes on: the net is set to the average,
    which keeps more of itself the later it is (Lookahead, as airbench94 has it)."""

    def __init__(self, model: nn.Module) -> None:
        self.live = [t for t in model.state_dict().values() if t.is_floating_point()]
        self.kept = [t.clone() for t in self.live]

    @torch.no_grad()
    def update(self, done: float) -> None:
        torch._foreach_lerp_(self.kept, self.live, 1 - 0.95**5 * done**3)
        torch._foreach_copy_(self.live, self.kept)

    @torch.no_grad()
    def finish(self) -> None:
        torch._foreach_copy_(self.live, self.kept)


def probabilities(model: nn.Module, pixels: np.ndarray) -> np.ndarray:
    """float32 (n, classes) of uint8 (n, rows, columns, channels), in float32."""
    model.eval()
    rows = []
    with torch.inference_mode():
        for start in range(0, len(pixels), SCORED_AT_ONCE):
            some = torch.from_numpy(np.ascontiguousarray(pixels[start : start + SCORED_AT_ONCE]))
            rows.append(model(some.permute(0, 3, 1, 2).float()).softmax(1))
    return torch.cat(rows).numpy()


def scoring(model: nn.Module, shape: Sequence[int], images: int, threads: int) -> tuple[float, int]:
    """(predicted seconds for the answers to so many images, with the faster number of threads,
    that number): the middle of three timings on noise with one thread, then with all."""
    noise = np.random.default_rng(0).integers(0, 256, (TIMED_IMAGES, *shape), np.uint8)
    seconds = {}
    for count in {1: None, threads: None}:
        torch.set_num_threads(count)
        probabilities(model, noise[:1])
        timed = []
        while len(timed) < 3 and sum(timed) < SCORING_TIMED_SECONDS:
            before = time.perf_counter()
            probabilities(model, noise)
            timed.append(time.perf_counter() - before)
        seconds[count] = median(timed)
    best = min(seconds, key=lambda count: seconds[count])
    return 0.5 + 1.2 * seconds[best] * images / TIMED_IMAGES, best


def cost(model: nn.Module, shape: Sequence[int]) -> dict[str, Any]:
    """params (weights, and the statistics that BatchNorm keeps), macs of one image, latency_ms."""
    rows, columns, channels = shape
    macs, hooks = [], []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            hooks.append(module.register_forward_hook(partial(count_macs, macs)))
    model.eval()
    with torch.inference_mode():
        model(torch.zeros(1, channels, rows, columns))
    for hook in hooks:
        hook.remove()
    kept = [p.numel() for p in model.parameters()]
    kept += [2 * m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    return {"params": sum(kept), "macs": sum(macs), "latency_ms": latency_ms(model, shape)}


def count_macs(into: list[int], module: nn.Module, given: Any, made: torch.Tensor) -> None:
    """A forward hook: multiply-accumulates of one image in a convolution or a dense layer."""
    into.append(made[0].numel() * module.weight[0].numel())


def latency_ms(model: nn.Module, shape: Sequence[int]) -> float | None:
    """Of one image as convwise measures it (ONNX Runtime, one thread); None where it cannot read
    the module."""
    from convwise.core.problems import ConvwiseError
    from convwise.formats.torch.lift import lift
    from convwise.training.machine import ThisMachine

    try:
        return ThisMachine().latency_ms(lift(model, tuple(shape)).net)
    except (ConvwiseError, RuntimeError):
        return None
