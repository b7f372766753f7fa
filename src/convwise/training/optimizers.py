"""How weights move: Muon for the filters of convolutions, AdamW for everything else, and their
running average.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
from torch import nn

from convwise.core.recipe import AVERAGE_EVERY, Recipe

MOMENTUM, NEWTON_SCHULZ_STEPS = 0.6, 3
QUINTIC = 3.4445, -4.7750, 2.0315  # coefficients of the iteration, Jordan et al. 2024
AVERAGE_KEPT = 0.95**AVERAGE_EVERY  # share of the average that stays at the end; less before


class Muon(torch.optim.Optimizer):
    """Filters move along the orthogonalised momentum of their gradients.

    Jordan et al., 'Muon: an optimizer for hidden layers', 2024, as airbench94_muon uses it:
    Nesterov momentum, a bank of filters as a matrix (filters, everything they read), three
    Newton-Schulz steps. torch.optim.Muon takes matrices alone. Banks of one shape are
    orthogonalised together.

    scale_free: parameters that a normalisation follows, so that their length means nothing: it is
    kept at sqrt(filters). The step of the others is in proportion to their length.
    """

    def __init__(self, filters: Iterable[torch.Tensor], lr: float,
                 scale_free: Iterable[torch.Tensor],
                 low_precision: bool = False) -> None:  # fmt: skip
        super().__init__(list(filters), {"lr": lr})
        self.scale_free = {id(parameter) for parameter in scale_free}
        self.dtype = torch.bfloat16 if low_precision else torch.float32

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[torch.Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault((parameter.shape[0], parameter[0].numel()), []).append(
                        parameter
                    )
            for parameters in alike.values():
                directions = orthogonalised(
                    torch.stack([self._momentum(p) for p in parameters]).to(self.dtype)
                )
                for parameter, direction in zip(parameters, directions, strict=True):
                    length = parameter.norm().clamp_min(1e-7)
                    free = id(parameter) in self.scale_free
                    if free:
                        parameter.mul_(parameter.shape[0] ** 0.5 / length)
                    rate = group["lr"] * (
                        1.0 if free else float(length) / parameter.shape[0] ** 0.5
                    )
                    filters, channels, height, width = parameter.shape
                    step = direction.view(filters, height, width, channels).permute(0, 3, 1, 2)
                    parameter.add_(step.to(parameter.dtype), alpha=-rate)

    def _momentum(self, parameter: torch.Tensor) -> torch.Tensor:
        gradient = rows(parameter.grad)  # type: ignore[arg-type]
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        state["momentum"].mul_(MOMENTUM).add_(gradient)
        return gradient.add(state["momentum"], alpha=MOMENTUM)


def rows(filters: torch.Tensor) -> torch.Tensor:
    """Filters (n, channels, rows, columns) as (n, rows * columns * channels), which costs nothing
    in channels_last.
    """
    return filters.permute(0, 2, 3, 1).flatten(1)


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """Matrices (n, rows, columns) with all singular values brought near 1, by a quintic
    Newton-Schulz iteration.

    x -> a x + (b g + c g g) x with g = x x'. Each step multiplies x from the left by a polynomial
    of its g, so the iteration runs on g, which is much smaller, and x is multiplied once, at the
    end.
    """
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    gram = x @ x.mT
    # The Frobenius norm, squared
    square = gram.diagonal(dim1=1, dim2=2).sum(1).clamp_min(1e-14)[:, None, None]
    gram, factors = gram / square, []
    for _ in range(NEWTON_SCHULZ_STEPS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        factors.append(factor)
        gram = factor @ gram @ factor
    x = reduce(torch.matmul, factors) / square.sqrt() @ x  # they commute
    return x.mT if tall else x


def optimizers(
    model: nn.Module, recipe: Recipe, low_precision: bool
) -> list[torch.optim.Optimizer]:
    """Those of the recipe; each of their groups has a 'peak', which the schedule scales.

    Biases and the numbers of normalisations are not decayed.
    """
    learnt = [p for p in model.parameters() if p.requires_grad]
    found: list[torch.optim.Optimizer] = []
    if recipe.optimizer == "muon":
        convolutions = [
            m for m in model.modules() if isinstance(m, nn.Conv2d) and m.weight.requires_grad
        ]
        filters = [m.weight for m in convolutions]
        if filters:
            normalised = [m.weight for m in convolutions if m.bias is None]
            found.append(Muon(filters, recipe.filter_rate, normalised, low_precision))
        taken = {id(p) for p in filters}
        learnt = [p for p in learnt if id(p) not in taken]
    many, few = [p for p in learnt if p.ndim > 1], [p for p in learnt if p.ndim <= 1]
    groups = [
        {"params": many, "weight_decay": recipe.weight_decay},
        {"params": few, "weight_decay": 0.0},
    ]
    found.append(
        torch.optim.AdamW([g for g in groups if g["params"]], lr=recipe.learning_rate, fused=True)
    )
    for optimizer in found:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return found


class RunningAverage:
    """Every AVERAGE_EVERY steps the weights become the running average of themselves.

    Lookahead (Zhang et al. 2019) as airbench94 (Jordan 2024) uses it: the average forgets quickly
    at first, and keeps AVERAGE_KEPT at the end of the schedule. It includes the running statistics.
    """

    def __init__(self, model: nn.Module) -> None:
        self.live = [t for t in model.state_dict().values() if t.is_floating_point()]
        self.mean = [t.clone() for t in self.live]
        self.steps = 0

    @torch.no_grad()
    def step(self, done: float) -> None:
        """To be called after each step; done: share of the schedule."""
        self.steps += 1
        if self.steps % AVERAGE_EVERY == 0:
            torch._foreach_lerp_(self.mean, self.live, 1 - AVERAGE_KEPT * done**3)
            torch._foreach_copy_(self.live, self.mean)

    @torch.no_grad()
    def end(self) -> None:
        """The weights become the average."""
        if self.steps >= AVERAGE_EVERY:
            torch._foreach_copy_(self.live, self.mean)


class TailMean:
    """The mean of the weights over the second half of a segment of a training: what the segment is
    judged by.

    At a high rate the last weights are noisy; their mean is about as good as weights whose rate has
    come down (docs/findings.md, 'the mean of the tail'). Running statistics are of other weights
    then: `settling` measures them anew.
    """

    BEGINS = 0.5  # share of the segment

    def __init__(self, model: nn.Module) -> None:
        self.live = [p.detach() for p in model.parameters()]
        self.mean, self.count = [p.clone() for p in self.live], 0

    def step(self, done: float) -> None:
        """To be called after each step; done: share of the segment."""
        if done >= self.BEGINS:
            self.count += 1
            torch._foreach_lerp_(self.mean, self.live, 1 / self.count)

    def end(self) -> None:
        """The weights become the mean."""
        if self.count:
            torch._foreach_copy_(self.live, self.mean)


@contextmanager
def settling(model: nn.Module) -> Iterator[None]:
    """Inside, normalisations measure their statistics anew: the mean over all that the model is
    given.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
