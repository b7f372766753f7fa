"""The modules that torch.nn lacks; model_torch.py carries a copy of those that it uses."""

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
        self.register_buffer(
            "deviation", torch.tensor(variance).sqrt().clamp(min=1e-7), persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        per_channel = (-1, 1, 1) if x.dim() == 4 else (-1,)
        return (x - self.mean.view(per_channel)) / self.deviation.view(per_channel)


class AveragePool(nn.Module):
    """The mean of each window; padding (left, right, top, bottom) is not counted."""

    def __init__(self, size: int, stride: int | None, padding: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.size, self.stride, self.padding = size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x) / self.pool(torch.ones_like(x[:1, :1]))

    def pool(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(nn.functional.pad(x, self.padding), self.size, self.stride)


class ChannelRescaling(nn.Module):
    """x * scale + offset, with a number per channel."""

    scale: Tensor
    offset: Tensor

    def __init__(self, scale: list[float], offset: list[float]) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
        self.register_buffer("offset", torch.tensor(offset), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        per_channel = (-1, 1, 1) if x.dim() == 4 else (-1,)
        return x * self.scale.view(per_channel) + self.offset.view(per_channel)


class Scale(nn.Module):
    """Times a learnt number: one per channel, or one each of a shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * (
            self.weight.view(-1, 1, 1) if x.dim() == 4 and self.weight.dim() == 1 else self.weight
        )


class Shift(nn.Module):
    """Plus a learnt number: one per channel, or one each of a shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + (
            self.bias.view(-1, 1, 1) if x.dim() == 4 and self.bias.dim() == 1 else self.bias
        )


class OrderedLayerNorm(nn.LayerNorm):
    """LayerNorm over the last axes of x in another order; (0, 2, 3, 1) puts the channels of a map
    last.
    """

    def __init__(
        self,
        shape: int | tuple[int, ...],
        order: tuple[int, ...] = (0, 2, 3, 1),
        eps: float = 1e-5,
        scale: bool = True,
        center: bool = True,
    ) -> None:
        super().__init__(shape, eps)
        self.order, self.back = order, [order.index(axis) for axis in range(len(order))]
        for name, present in (("weight", scale), ("bias", center)):
            if not present:
                self.register_parameter(name, None)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(self.order)).permute(self.back)


class PlacedPReLU(nn.Module):
    """x, or alpha x below 0, with alphas of any shape that fits the map (channels, height,
    width).
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full(shape, 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, self.weight * x)


class GeneralReLU(nn.Module):
    """max(x, 0) and at most max_value; below the threshold negative_slope * (x - threshold)."""

    def __init__(
        self, max_value: float = float("inf"), negative_slope: float = 0.0, threshold: float = 0.0
    ) -> None:
        super().__init__()
        self.max_value, self.negative_slope, self.threshold = max_value, negative_slope, threshold

    def forward(self, x: Tensor) -> Tensor:
        above = x * (x > self.threshold)
        if self.max_value < float("inf"):
            above = above.clamp(0.0, self.max_value)
        return (
            above - self.negative_slope * (self.threshold - x).relu()
            if self.negative_slope
            else above
        )


class Exponential(nn.Module):
    """exp(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


class Squareplus(nn.Module):
    """(x + sqrt(x^2 + b)) / 2."""

    def __init__(self, b: float = 4.0) -> None:
        super().__init__()
        self.b = b

    def forward(self, x: Tensor) -> Tensor:
        return (x + (x * x + self.b).sqrt()) / 2


class SparsePlus(nn.Module):
    """0 below -1, x above 1, (x + 1)^2 / 4 between."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x < 1, (x.clamp(-1, 1) + 1) ** 2 / 4, x)


class SparseSigmoid(nn.Module):
    """0 below -1, 1 above 1, (x + 1) / 2 between."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.clamp(-1, 1) + 1) / 2


class Sparsemax(nn.Module):
    """The nearest probabilities to x (Martins and Astudillo 2016, arXiv 1602.02068, algorithm
    1).
    """

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(self.dim, -1)
        ordered = x.sort(dim=-1, descending=True).values
        total, count = ordered.cumsum(-1) - 1, torch.arange(1, x.shape[-1] + 1, device=x.device)
        kept = (count * ordered > total).sum(-1, keepdim=True)
        return (x - total.gather(-1, kept - 1) / kept).clamp(min=0).movedim(-1, self.dim)


class GaussianDropout(nn.Module):
    """While training, times 1 + noise of variance rate / (1 - rate)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        deviation = (self.rate / (1 - self.rate)) ** 0.5
        return x * (1 + deviation * torch.randn_like(x)) if self.training else x


class GaussianNoise(nn.Module):
    """While training, plus noise of deviation stddev."""

    def __init__(self, stddev: float) -> None:
        super().__init__()
        self.stddev = stddev

    def forward(self, x: Tensor) -> Tensor:
        return x + self.stddev * torch.randn_like(x) if self.training else x


class StochasticDepth(nn.Module):
    """While training, sets a share `rate` of the examples to 0 and scales the rest."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.rand((len(x),) + (1,) * (x.dim() - 1), device=x.device) >= self.rate
        return x * kept / (1 - self.rate) if self.training else x


class Reshape(nn.Module):
    """The same numbers in the shape (height, width, channels), taken in this order, as Keras."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1) if x.dim() == 4 else x
        x = x.reshape(len(x), *self.shape)
        return x.permute(0, 3, 1, 2) if x.dim() == 4 else x


class Add(nn.Module):
    """The sum of its inputs."""

    def forward(self, first: Tensor, *more: Tensor) -> Tensor:
        for each in more:
            first = first + each
        return first


class Subtract(nn.Module):
    """The first input minus the second."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first - second


class Multiply(nn.Module):
    """The product of its inputs."""

    def forward(self, first: Tensor, *more: Tensor) -> Tensor:
        for each in more:
            first = first * each
        return first


class Average(nn.Module):
    """The mean of its inputs."""

    def forward(self, first: Tensor, *more: Tensor) -> Tensor:
        for each in more:
            first = first + each
        return first / (1 + len(more))


class Maximum(nn.Module):
    """The largest of its inputs."""

    def forward(self, first: Tensor, *more: Tensor) -> Tensor:
        for each in more:
            first = torch.maximum(first, each)
        return first


class Minimum(nn.Module):
    """The smallest of its inputs."""

    def forward(self, first: Tensor, *more: Tensor) -> Tensor:
        for each in more:
            first = torch.minimum(first, each)
        return first


class Concatenate(nn.Module):
    """Its inputs side by side, along the channels."""

    def forward(self, *maps: Tensor) -> Tensor:
        return torch.cat(maps, dim=1)


class Graph(nn.Module):
    """A net that branches. Each step is (name, module, inputs); its inputs are other steps."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        steps: Sequence[tuple[str, str, tuple[str, ...]]],
        source: str,
    ) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        last_use = {read: i for i, (_, _, inputs) in enumerate(steps) for read in inputs}
        self.source = source
        # With each step, what no later one needs.
        self.steps = [
            (name, module, inputs, [read for read in set(inputs) if last_use[read] == i])
            for i, (name, module, inputs) in enumerate(steps)
        ]

    def forward(self, x: Tensor) -> Tensor:
        values = {self.source: x}
        for name, module, inputs, spent in self.steps:
            x = self._modules[module](*(values[read] for read in inputs))  # type: ignore[misc]
            values[name] = x
            for read in spent:
                del values[read]
        return x


class BothViews(nn.Module):
    """The mean of what a network says of images and of their mirror images, left-right."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        both: Tensor = self.network(x) + self.network(x.flip(3))
        return both / 2


OWN: dict[str, Any] = {
    "FlattenLast": FlattenLast,
    "Rescaling": Rescaling,
    "ChannelRescaling": ChannelRescaling,
    "Normalization": Normalization,
    "Scale": Scale,
    "Shift": Shift,
    "OrderedLayerNorm": OrderedLayerNorm,
    "AveragePool": AveragePool,
    "PlacedPReLU": PlacedPReLU,
    "GeneralReLU": GeneralReLU,
    "Exponential": Exponential,
    "Squareplus": Squareplus,
    "SparsePlus": SparsePlus,
    "SparseSigmoid": SparseSigmoid,
    "Sparsemax": Sparsemax,
    "GaussianDropout": GaussianDropout,
    "GaussianNoise": GaussianNoise,
    "StochasticDepth": StochasticDepth,
    "Reshape": Reshape,
    "Add": Add,
    "Subtract": Subtract,
    "Multiply": Multiply,
    "Average": Average,
    "Maximum": Maximum,
    "Minimum": Minimum,
    "Concatenate": Concatenate,
}
