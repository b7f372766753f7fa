"""Layers in plain PyTorch, from their parameters alone: an oracle that shares no code with
convwise.formats.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from convwise.core import layers as L
from convwise.core.net import Net

Sides = tuple[int, int, int, int]  # left, right, top, bottom: the order of torch.nn.functional.pad


def same(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """(before, after) of 'same', by trying: the least that gives ceil(n / s) outputs, the smaller
    half first.
    """
    wanted = len(range(0, size, stride))
    least = next(
        pad
        for pad in count()
        if len(range(0, size + pad - (kernel - 1) * dilation, stride)) >= wanted
    )
    return least // 2, least - least // 2


def sides_of(layer: Any, kernel: tuple[int, int], image: Tensor) -> Sides:
    if layer.padding == "valid":
        return 0, 0, 0, 0
    if layer.padding == "same":
        dilation = getattr(layer, "dilation_rate", (1, 1))
        rows, columns = (
            same(*each)
            for each in zip(image.shape[2:], kernel, layer.strides, dilation, strict=True)
        )
        return *columns, *rows
    top, bottom, left, right = layer.padding
    return left, right, top, bottom


def windowed(
    layer: Any, kernel: tuple[int, int], image: Tensor, outside: float = 0.0
) -> tuple[list[nn.Module], Any]:
    """Padding as a layer of its own, where PyTorch's has not the same on opposite sides, and the
    argument that is left.

    Pools take at most half a window themselves.
    """
    left, right, top, bottom = sides_of(layer, kernel, image)
    pool = hasattr(layer, "pool_size")
    if (left, top) == (right, bottom) and not (
        pool and (2 * top > kernel[0] or 2 * left > kernel[1])
    ):
        return [], (top, left)
    return [nn.ConstantPad2d((left, right, top, bottom), outside)], 0


def conv(layer: L.Conv2D, x: Tensor) -> nn.Module:
    pad, rest = windowed(layer, layer.kernel_size, x)
    if layer.padding == "same" and layer.strides == (1, 1):
        pad, rest = [], "same"
    return nn.Sequential(*pad, nn.Conv2d(x.shape[1], layer.filters, layer.kernel_size,
                                         layer.strides, rest, layer.dilation_rate, layer.groups,
                                         layer.use_bias))  # fmt: skip


def depthwise(layer: Any, x: Tensor, use_bias: bool) -> nn.Module:
    pad, rest = windowed(layer, layer.kernel_size, x)
    channels = x.shape[1]
    return nn.Sequential(*pad, nn.Conv2d(channels, channels * layer.depth_multiplier,
                                         layer.kernel_size, layer.strides, rest,
                                         layer.dilation_rate, channels, use_bias))  # fmt: skip


def separable(layer: L.SeparableConv2D, x: Tensor) -> nn.Module:
    channels = x.shape[1] * layer.depth_multiplier
    return nn.Sequential(
        depthwise(layer, x, False), nn.Conv2d(channels, layer.filters, 1, bias=layer.use_bias)
    )


def transposed(layer: L.Conv2DTranspose, x: Tensor) -> nn.Module:
    def made(padding: Any = 0, extra: Any = 0) -> nn.Module:
        return nn.ConvTranspose2d(x.shape[1], layer.filters, layer.kernel_size, layer.strides,
                                  padding, extra, layer.groups, layer.use_bias,
                                  layer.dilation_rate)  # fmt: skip

    if not isinstance(layer.padding, str):
        top, bottom, left, right = layer.padding
        each = zip(layer.output_padding, layer.strides, layer.dilation_rate, strict=True)
        allowed = all(extra < max(two) for extra, *two in each)
        if (top, left) == (bottom, right) and allowed:
            return made((top, left), layer.output_padding)
        return nn.Sequential(
            made(), nn.ZeroPad2d(_less((left, right, top, bottom), layer.output_padding))
        )
    rows, columns = (
        _cut(layer.padding, *each)
        for each in zip(layer.kernel_size, layer.strides, layer.dilation_rate, strict=True)
    )
    return nn.Sequential(made(), nn.ZeroPad2d(_less((*columns, *rows), layer.output_padding)))


def _cut(word: str, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Keras makes n s outputs of 'same' and n s + max(k_e - s, 0) of 'valid'; PyTorch (n - 1) s +
    k_e.
    """
    reach = dilation * (kernel - 1) + 1
    cut = reach - stride - (max(reach - stride, 0) if word == "valid" else 0)
    return max(cut, 0) // 2, cut - max(cut, 0) // 2


def _less(cut: Sides, extra: tuple[int, int]) -> Sides:
    left, right, top, bottom = cut
    return -left, extra[1] - right, -top, extra[0] - bottom


def max_pool(layer: L.MaxPooling2D, x: Tensor) -> nn.Module:
    pad, rest = windowed(layer, layer.pool_size, x, -torch.inf)
    return nn.Sequential(
        *pad, nn.MaxPool2d(layer.pool_size, layer.strides, rest, ceil_mode=layer.ceil_mode)
    )


def average_pool(layer: L.AveragePooling2D, x: Tensor) -> nn.Module:
    pad, rest = windowed(layer, layer.pool_size, x)
    return nn.Sequential(
        *pad,
        nn.AvgPool2d(
            layer.pool_size, layer.strides, rest, layer.ceil_mode, layer.count_include_pad
        ),
    )


def batch_norm(layer: L.BatchNormalization, x: Tensor) -> nn.Module:
    return (nn.BatchNorm2d if x.dim() == 4 else nn.BatchNorm1d)(x.shape[1], affine=layer.scale)


class Scale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def _zeros(sides: tuple[int, int, int, int], sign: int) -> nn.Module:
    top, bottom, left, right = (sign * side for side in sides)
    return nn.ZeroPad2d((left, right, top, bottom))


def _global(kind: Callable[[int], nn.Module], keepdims: bool) -> nn.Module:
    return kind(1) if keepdims else nn.Sequential(kind(1), nn.Flatten())


# Over (batch, channels, ...).
CHANNELS_FIRST: dict[type[L.Layer], Callable[[Any, Tensor], nn.Module]] = {
    L.Conv2D: conv,
    L.DepthwiseConv2D: lambda layer, x: depthwise(layer, x, layer.use_bias),
    L.SeparableConv2D: separable,
    L.Conv2DTranspose: transposed,
    L.MaxPooling2D: max_pool,
    L.AveragePooling2D: average_pool,
    L.GlobalAveragePooling2D: lambda layer, x: _global(nn.AdaptiveAvgPool2d, layer.keepdims),
    L.GlobalMaxPooling2D: lambda layer, x: _global(nn.AdaptiveMaxPool2d, layer.keepdims),
    L.AdaptiveAveragePooling2D: lambda layer, x: nn.AdaptiveAvgPool2d(layer.output_size),
    L.AdaptiveMaxPooling2D: lambda layer, x: nn.AdaptiveMaxPool2d(layer.output_size),
    L.BatchNormalization: batch_norm,
    L.GroupNormalization: lambda layer, x: nn.GroupNorm(
        layer.groups, x.shape[1], affine=layer.scale
    ),
    L.PReLU: lambda layer, x: nn.PReLU(1 if 3 in layer.shared_axes else x.shape[1]),
    L.GLU: lambda layer, x: nn.GLU(dim=1),
    L.LayerScale: lambda layer, x: Scale(x.shape[1]),
    L.Dropout: lambda layer, x: nn.Dropout(layer.rate),
    L.SpatialDropout2D: lambda layer, x: nn.Dropout2d(layer.rate),
    L.AlphaDropout: lambda layer, x: nn.AlphaDropout(layer.rate),
    L.ZeroPadding2D: lambda layer, x: _zeros(layer.padding, 1),
    L.Cropping2D: lambda layer, x: _zeros(layer.cropping, -1),
    L.UpSampling2D: lambda layer, x: nn.Upsample(scale_factor=layer.size, mode=layer.interpolation),
}
# Over (batch, ..., channels).
CHANNELS_LAST: dict[type[L.Layer], Callable[[Any, Tensor], nn.Module]] = {
    L.Activation: lambda layer, x: nn.Identity(),
    L.Rescaling: lambda layer, x: nn.Identity(),
    L.Normalization: lambda layer, x: nn.Identity(),
    L.LayerNormalization: lambda layer, x: nn.LayerNorm(
        x.shape[-len(layer.axis) :], elementwise_affine=layer.scale
    ),
    L.Flatten: lambda layer, x: nn.Flatten(),
    L.Reshape: lambda layer, x: nn.Unflatten(1, layer.target_shape),
    L.Dense: lambda layer, x: nn.Linear(x.shape[-1], layer.units, layer.use_bias),
}
JOINS: dict[type[L.Layer], Callable[[list[Tensor]], Tensor]] = {
    L.Add: lambda xs: sum(xs),
    L.Subtract: lambda xs: xs[0] - xs[1],
    L.Multiply: lambda xs: torch.stack(torch.broadcast_tensors(*xs)).prod(0),
    L.Average: lambda xs: torch.stack(torch.broadcast_tensors(*xs)).mean(0),
    L.Maximum: lambda xs: torch.stack(torch.broadcast_tensors(*xs)).amax(0),
    L.Minimum: lambda xs: torch.stack(torch.broadcast_tensors(*xs)).amin(0),
    L.Concatenate: lambda xs: torch.cat(xs, -1),
}


def expresses(layer: L.Layer) -> bool:
    """Whether the tables say in PyTorch what the layer is: a few of Keras's ways are not there."""
    match layer:
        case L.BatchNormalization() | L.GroupNormalization():
            return layer.center == layer.scale
        case L.LayerNormalization():
            return layer.center == layer.scale and layer.axis in ((-1,), (3,), (2, 3), (1, 2, 3))
        case L.PReLU():
            return layer.shared_axes in ((1, 2), (1, 2, 3))
        case L.MaxPooling2D() | L.AveragePooling2D():
            return not layer.ceil_mode or _native(layer)
        case L.Normalization():
            return not layer.adapted
    return type(layer) in CHANNELS_FIRST or type(layer) in CHANNELS_LAST or type(layer) in JOINS


def _native(pool: Any) -> bool:
    """Whether PyTorch's pool takes the padding itself: only then its ceil_mode knows what is
    padding.
    """
    if pool.padding == "valid":
        return True
    sides = pool.padding
    return sides != "same" and sides[0] == sides[1] <= pool.pool_size[0] / 2 and (
        sides[2] == sides[3] <= pool.pool_size[1] / 2)  # fmt: skip


def module_of(layer: L.Layer, x: Tensor) -> nn.Module:
    """The layer as a module, of all weights one, for a channels-last input x."""
    first = CHANNELS_FIRST.get(type(layer))
    module = first(layer, x.movedim(-1, 1)) if first else CHANNELS_LAST[type(layer)](layer, x)
    for weight in module.parameters():
        nn.init.ones_(weight)
    return module.to(x.dtype).eval()


def call(layer: L.Layer, *inputs: Tensor) -> Tensor:
    """The output of a layer whose weights are one; everything channels last."""
    if type(layer) in JOINS:
        return JOINS[type(layer)](list(inputs))
    (x,) = inputs
    module = module_of(layer, x)
    if type(layer) in CHANNELS_FIRST:
        return module(x.movedim(-1, 1)).movedim(1, -1)
    return module(x.flatten(1) if isinstance(layer, L.Reshape) else x)


def outputs(net: Net, image: Tensor) -> dict[str, Tensor]:
    """Every layer's output, and the input, by name; weights are one."""
    seen = {"input": image}
    for layer in net.layers:
        seen[layer.name] = call(layer, *(seen[name] for name in layer.inputs))
    return seen
