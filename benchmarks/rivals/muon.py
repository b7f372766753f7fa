"""Muon: momentum whose step is made orthogonal (Jordan 2024, as in airbench94_muon.py)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch

# A quintic that makes small singular values grow fastest; it ends in a band around 1, not at 1.
A, B, C = 3.4445, -4.7750, 2.0315


def orthogonal(matrices: torch.Tensor, steps: int = 3) -> torch.Tensor:
    """U S' V^T of each matrix U S V^T of (k, rows, columns), S' near 1: Newton-Schulz, no SVD."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.flatten(1).float().norm(dim=1)[:, None, None].to(x.dtype) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = A * x + (B * square + C * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Filters (filters, channels, rows, columns), each read as one matrix of `filters` rows.

    Before a step each tensor is scaled to the norm sqrt(filters): only its direction is learnt.
    Tensors of one shape go through Newton-Schulz together. dtype: that this is computed in.
    """

    def __init__(self, params: Iterable[torch.Tensor], peak: float, momentum: float,
                 rate: Callable[[float], float],
                 dtype: torch.dtype = torch.float32) -> None:  # fmt: skip
        group = {"params": list(params), "peak": peak, "rate": rate}
        super().__init__([group], {"lr": peak})
        self.momentum, self.dtype = momentum, dtype

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[len(p), p[0].numel()].append(p)
            for params in alike.values():
                self.step_alike(params, group["lr"])

    def step_alike(self, params: list[torch.Tensor], rate: float) -> None:
        """One step of tensors whose matrices have one shape."""
        moved = []
        for p in params:
            kept = self.state[p].setdefault("momentum", torch.zeros_like(p.grad))
            kept.mul_(self.momentum).add_(p.grad)
            moved.append((p.grad + self.momentum * kept).reshape(len(p), -1))  # Nesterov
        updates = orthogonal(torch.stack(moved).to(self.dtype)).to(params[0].dtype)
        for p, update in zip(params, updates, strict=True):
            p.mul_(len(p) ** 0.5 / p.norm()).add_(update.view(p.shape), alpha=-rate)
