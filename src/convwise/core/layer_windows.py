"""The windows of each layer type on its map, and how its units see the map where no window says so.

What a window or a move is along one axis: windows.py. Which of these belongs to which layer: the
rows of GEOMETRY (geometry.py).
"""

from __future__ import annotations

from convwise.core import layers as L
from convwise.core.field import Steps
from convwise.core.parameters import Pads
from convwise.core.windows import (
    Shape,
    Window,
    adaptive,
    ceil_after,
    crops,
    effective,
    enlarge,
    everything,
    pads_of,
    resized,
    spread,
)

Windowed = L.Conv2D | L.DepthwiseConv2D | L.SeparableConv2D | L.Opaque
Pool = L.MaxPooling2D | L.AveragePooling2D
AdaptivePool = L.AdaptiveAveragePooling2D | L.AdaptiveMaxPooling2D
Moves = tuple[Steps, Steps]  # along rows and along columns


def conv_window(layer: Windowed, shape: Shape) -> Window:
    """The window of a convolution, on maps of `shape`."""
    pads = pads_of(layer.padding, shape, layer.kernel_size, layer.strides, layer.dilation_rate)
    return Window(layer.kernel_size, layer.strides, layer.dilation_rate, pads)


def pool_window(layer: Pool, shape: Shape) -> Window:
    """The window of a pool; ceil_mode lets a last one reach past the padding."""
    top, bottom, left, right = pads_of(layer.padding, shape, layer.pool_size, layer.strides)
    if layer.ceil_mode:
        bottom = ceil_after(shape[0], top, bottom, layer.pool_size[0], layer.strides[0])
        right = ceil_after(shape[1], left, right, layer.pool_size[1], layer.strides[1])
    return Window(layer.pool_size, layer.strides, (1, 1), (top, bottom, left, right))


def pad_window(layer: L.ZeroPadding2D, shape: Shape) -> Window:
    """A window of one px that also moves over the zeros."""
    return Window((1, 1), (1, 1), (1, 1), layer.padding)


def crop_window(layer: L.Cropping2D, shape: Shape) -> Window:
    """A window of one px that leaves out what is taken away."""
    top, bottom, left, right = layer.cropping
    return Window((1, 1), (1, 1), (1, 1), (-top, -bottom, -left, -right))


def opaque_window(layer: L.Opaque, shape: Shape) -> Window | None:
    """The window of an operator that is known to have one."""
    return conv_window(layer, shape) if layer.moves == "window" and len(shape) == 3 else None


def transposed_crops(layer: L.Conv2DTranspose) -> Pads:
    """(top, bottom, left, right) taken from the full output, (n - 1) s + k_e; negative where it is
    padded instead.
    """
    padding, extra = layer.padding, layer.output_padding
    sides = padding if isinstance(padding, tuple) else (padding,) * 4
    reach = [effective(k, d) for k, d in zip(layer.kernel_size, layer.dilation_rate, strict=True)]
    top, bottom = crops(sides[0], _number(sides[1]), reach[0], layer.strides[0], extra[0])
    left, right = crops(sides[2], _number(sides[3]), reach[1], layer.strides[1], extra[1])
    return top, bottom, left, right


def _number(side: str | int) -> int:
    return 0 if isinstance(side, str) else side


def transposed_moves(layer: L.Conv2DTranspose, given: Shape, output: Shape) -> Moves:
    """Each output gets the inputs whose kernels reach it."""
    before = transposed_crops(layer)[::2]
    rows, columns = (
        spread(*each)
        for each in zip(layer.kernel_size, layer.strides, layer.dilation_rate, before, strict=True)
    )
    return rows, columns


def whole_moves(layer: L.Layer, given: Shape, output: Shape) -> Moves | None:
    """Each output reads the whole map; None where the layer reads no map."""
    return (everything(given[0]), everything(given[1])) if len(given) == 3 else None


def adaptive_moves(layer: AdaptivePool, given: Shape, output: Shape) -> Moves:
    """Each output reads its share of the map."""
    return adaptive(given[0], output[0]), adaptive(given[1], output[1])


def enlarging_moves(layer: L.UpSampling2D, given: Shape, output: Shape) -> Moves:
    """Each output reads the inputs next to it."""
    return enlarge(layer.size[0], layer.interpolation), enlarge(layer.size[1], layer.interpolation)


def reshape_moves(layer: L.Reshape, given: Shape, output: Shape) -> Moves | None:
    """Numbers of a map change their places, but where a side of 1 is left out, or places stand in
    one row.
    """
    squeezed = len(output) == 2 and [n for n in given if n > 1] == [n for n in output if n > 1]
    tokens = len(given) == 3 and output == (given[0] * given[1], given[2])
    return None if given == output or squeezed or tokens else whole_moves(layer, given, output)


def opaque_moves(layer: L.Opaque, given: Shape, output: Shape) -> Moves | None:
    """As the operator's `moves` says; None where that is unknown, 'same' or a window's."""
    if layer.moves in ("unknown", "same", "window") or len(given) != 3:
        return None
    if layer.moves == "whole" or len(output) != 3:
        return whole_moves(layer, given, output)
    return resized(given[0], output[0], layer.moves), resized(given[1], output[1], layer.moves)
