"""The modules that torch.nn lacks. model_torch.py carries a copy of those it uses, so each stands alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class FlattenLast(nn.Module):
    """(n, channels, height, width) to rows in the order height, width, channels, as Keras."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


class Rescaling(nn.Module):
    """x * scale + offset."""

    def __init__(self, scale: float, offset: float = 0.0) -> None:
        super().__init__()
        self.scale, self.offset = scale, offset

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.offset


class Normalization(nn.Module):
    """(x - mean) / sqrt(variance), per channel; as in Keras, a deviation is at least 1e-7."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: list[float], variance: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("deviation", torch.tensor(variance).sqrt().clamp(min=1e-7), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        per_channel = (-1, 1, 1) if x.dim() == 4 else (-1,)
        return (x - self.mean.view(per_channel)) / self.deviation.view(per_channel)


class AveragePool(nn.Module):
    """The mean of each window; padding (left, right, top, bottom) is not counted."""

    def __init__(self, size: int, stride: int | None, padding: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.pad, self.pool = nn.ZeroPad2d(padding), nn.AvgPool2d(size, stride)

    def forward(self, x: Tensor) -> Tensor:
        inside: Tensor = self.pool(self.pad(torch.ones_like(x[:1, :1])))
        total: Tensor = self.pool(self.pad(x))
        return total / inside


class Add(nn.Module):
    """The sum of its inputs."""

    def forward(self, first: Tensor, *more: Tensor) -> Tensor:
        for each in more:
            first = first + each
        return first


class Concatenate(nn.Module):
    """Its inputs side by side, along the channels."""

    def forward(self, *maps: Tensor) -> Tensor:
        return torch.cat(maps, dim=1)


class Graph(nn.Module):
    """A net that branches: each module reads the outputs of those named in `inputs`."""

    def __init__(self, modules: Mapping[str, nn.Module], inputs: Sequence[tuple[str, ...]], source: str) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        last_use = {name: i for i, names in enumerate(inputs) for name in names}
        self.source = source
        # Per step: its name, what it reads, and what no later step needs.
        self.steps = [
            (name, names, [read for read in set(names) if last_use[read] == i])
            for i, (name, names) in enumerate(zip(modules, inputs, strict=True))
        ]

    def forward(self, x: Tensor) -> Tensor:
        values = {self.source: x}
        for name, names, spent in self.steps:
            x = self._modules[name](*(values[read] for read in names))  # type: ignore[misc]
            values[name] = x
            for read in spent:
                del values[read]
        return x


OWN: dict[str, Any] = {
    "FlattenLast": FlattenLast,
    "Rescaling": Rescaling,
    "Normalization": Normalization,
    "AveragePool": AveragePool,
    "Add": Add,
    "Concatenate": Concatenate,
}
