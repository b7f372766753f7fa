"""Geometry and cost of every layer type: one row each, integers only.

Geometry follows Keras on TensorFlow: 'same' gives ceil(n / s) outputs and pads (o - 1) s + k_e - n,
the smaller half before; 'valid' gives ceil((n - k_e + 1) / s). ceil_mode follows PyTorch: a last
window may start inside the map or its first padding and reach past the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from convwise.core import layers as L
from convwise.core.field import Steps
from convwise.core.parameters import Pads, Pair
from convwise.core.problems import ShapeError
from convwise.core.windows import (
    Shape,
    Window,
    adaptive,
    ceil_after,
    crops,
    effective,
    enlarge,
    everything,
    outputs_of,
    pads_of,
    resized,
    spread,
)

Windowed = L.Conv2D | L.DepthwiseConv2D | L.SeparableConv2D | L.Opaque
Pool = L.MaxPooling2D | L.AveragePooling2D


Moves = tuple[Steps, Steps]


@dataclass(frozen=True)
class Geometry:
    """The formulas of one layer type: over the layer, its input shapes and its output shape.

    shape: the output shape; window: its moving window or None; moves: how its units see the map,
    where no window says so; weights: key and shape of each, in Keras's order; besides: numbers stored
    that are no weights of ours, (all, trainable); macs: multiply-accumulates; elementwise:
    operations besides (core/calculus.py says which); view: whether the output is the input's memory.
    """

    shape: Callable[[Any, Sequence[Shape]], Shape]
    window: Callable[[Any, Shape], Window | None] = lambda layer, shape: None
    moves: Callable[[Any, Shape, Shape], Moves | None] = lambda layer, given, output: None
    weights: Callable[[Any, Shape], dict[str, Shape]] = lambda layer, shape: {}
    besides: Callable[[Any], tuple[int, int]] = lambda layer: (0, 0)
    macs: Callable[[Any, Shape, Shape], int] = lambda layer, given, output: 0
    elementwise: Callable[[Any, Shape, Shape], int] = lambda layer, given, output: 0
    view: bool = False


# --- windows and moves ----------------------------------------------------------------------


def _conv_window(layer: Windowed, shape: Shape) -> Window:
    pads = pads_of(layer.padding, shape, layer.kernel_size, layer.strides, layer.dilation_rate)
    return Window(layer.kernel_size, layer.strides, layer.dilation_rate, pads)


def _pool_window(layer: Pool, shape: Shape) -> Window:
    top, bottom, left, right = pads_of(layer.padding, shape, layer.pool_size, layer.strides)
    if layer.ceil_mode:
        bottom = ceil_after(shape[0], top, bottom, layer.pool_size[0], layer.strides[0])
        right = ceil_after(shape[1], left, right, layer.pool_size[1], layer.strides[1])
    return Window(layer.pool_size, layer.strides, (1, 1), (top, bottom, left, right))


def _pad_window(layer: L.ZeroPadding2D, shape: Shape) -> Window:
    return Window((1, 1), (1, 1), (1, 1), layer.padding)


def _crop_window(layer: L.Cropping2D, shape: Shape) -> Window:
    top, bottom, left, right = layer.cropping
    return Window((1, 1), (1, 1), (1, 1), (-top, -bottom, -left, -right))


def transposed_crops(layer: L.Conv2DTranspose) -> Pads:
    """(top, bottom, left, right) taken from the full output, (n - 1) s + k_e; negative where it is padded instead."""
    padding, extra = layer.padding, layer.output_padding
    sides = padding if isinstance(padding, tuple) else (padding,) * 4
    reach = [effective(k, d) for k, d in zip(layer.kernel_size, layer.dilation_rate, strict=True)]
    top, bottom = crops(sides[0], _number(sides[1]), reach[0], layer.strides[0], extra[0])
    left, right = crops(sides[2], _number(sides[3]), reach[1], layer.strides[1], extra[1])
    return top, bottom, left, right


def _number(side: str | int) -> int:
    return 0 if isinstance(side, str) else side


def _transposed_moves(layer: L.Conv2DTranspose, given: Shape, output: Shape) -> Moves:
    before = transposed_crops(layer)[::2]
    rows, columns = (
        spread(*each) for each in zip(layer.kernel_size, layer.strides, layer.dilation_rate, before, strict=True)
    )
    return rows, columns


def _whole_moves(layer: L.Layer, given: Shape, output: Shape) -> Moves | None:
    return (everything(given[0]), everything(given[1])) if len(given) == 3 else None


def _adaptive_moves(layer: L.AdaptiveAveragePooling2D | L.AdaptiveMaxPooling2D, given: Shape, output: Shape) -> Moves:
    return adaptive(given[0], output[0]), adaptive(given[1], output[1])


def _enlarging_moves(layer: L.UpSampling2D, given: Shape, output: Shape) -> Moves:
    return enlarge(layer.size[0], layer.interpolation), enlarge(layer.size[1], layer.interpolation)


def _reshape_moves(layer: L.Reshape, given: Shape, output: Shape) -> Moves | None:
    """Numbers of a map change their places, but where a side of 1 is left out, or places stand in one row."""
    squeezed = len(output) == 2 and [n for n in given if n > 1] == [n for n in output if n > 1]
    tokens = len(given) == 3 and output == (given[0] * given[1], given[2])
    return None if given == output or squeezed or tokens else _whole_moves(layer, given, output)


def _opaque_window(layer: L.Opaque, shape: Shape) -> Window | None:
    return _conv_window(layer, shape) if layer.moves == "window" and len(shape) == 3 else None


def _opaque_moves(layer: L.Opaque, given: Shape, output: Shape) -> Moves | None:
    if layer.moves in ("unknown", "same", "window") or len(given) != 3:
        return None
    if layer.moves == "whole" or len(output) != 3:
        return _whole_moves(layer, given, output)
    return resized(given[0], output[0], layer.moves), resized(given[1], output[1], layer.moves)


# --- shapes ---------------------------------------------------------------------------------


def _slid(layer: L.Layer, shape: Shape, window: Window) -> Pair:
    """The map that a window leaves; ShapeError where it fits nowhere."""
    top, bottom, left, right = window.pads
    rows = outputs_of(shape[0], top, bottom, window.reach[0], window.strides[0])
    columns = outputs_of(shape[1], left, right, window.reach[1], window.strides[1])
    if rows < 1 or columns < 1:
        what = f"needs {window.reach[0]}x{window.reach[1]} inputs, but its map is {shape[0]}x{shape[1]}"
        what += f" with padding {window.pads}" if any(window.pads) else ""
        fix = "padding='same', a smaller kernel, or fewer strides and pools before it"
        raise ShapeError(f"layer {layer.name}", what, "a map at least as large as the kernel", fix)
    return rows, columns


def _grouped(layer: L.Conv2D | L.Conv2DTranspose, channels: int) -> None:
    for label, number in (("input channels", channels), ("filters", layer.filters)):
        if number % layer.groups:
            what = f"has {number} {label} in {layer.groups} groups"
            raise ShapeError(f"layer {layer.name}", what, f"{label} divisible by groups", "change groups or filters")


def _conv_shape(layer: L.Conv2D, shapes: Sequence[Shape]) -> Shape:
    _grouped(layer, shapes[0][2])
    return (*_slid(layer, shapes[0], _conv_window(layer, shapes[0])), layer.filters)


def _separable_shape(layer: L.SeparableConv2D, shapes: Sequence[Shape]) -> Shape:
    return (*_slid(layer, shapes[0], _conv_window(layer, shapes[0])), layer.filters)


def _depthwise_shape(layer: L.DepthwiseConv2D, shapes: Sequence[Shape]) -> Shape:
    channels = shapes[0][2] * layer.depth_multiplier
    return (*_slid(layer, shapes[0], _conv_window(layer, shapes[0])), channels)


def _transposed_shape(layer: L.Conv2DTranspose, shapes: Sequence[Shape]) -> Shape:
    _grouped(layer, shapes[0][2])
    top, bottom, left, right = transposed_crops(layer)
    rows, columns = (
        (n - 1) * s + effective(k, d)
        for n, s, k, d in zip(shapes[0][:2], layer.strides, layer.kernel_size, layer.dilation_rate, strict=True)
    )
    if rows <= top + bottom or columns <= left + right:
        what = f"takes {(top, bottom, left, right)} from an output of {rows}x{columns}"
        raise ShapeError(f"layer {layer.name}", what, "less than the output", "less padding, or a larger kernel")
    return rows - top - bottom, columns - left - right, layer.filters


def _pool_shape(layer: Pool, shapes: Sequence[Shape]) -> Shape:
    return (*_slid(layer, shapes[0], _pool_window(layer, shapes[0])), shapes[0][2])


def _padded_shape(layer: L.ZeroPadding2D, shapes: Sequence[Shape]) -> Shape:
    return (*_slid(layer, shapes[0], _pad_window(layer, shapes[0])), shapes[0][2])


def _cropped_shape(layer: L.Cropping2D, shapes: Sequence[Shape]) -> Shape:
    return (*_slid(layer, shapes[0], _crop_window(layer, shapes[0])), shapes[0][2])


def _global_shape(layer: L.GlobalAveragePooling2D | L.GlobalMaxPooling2D, shapes: Sequence[Shape]) -> Shape:
    return (1, 1, shapes[0][2]) if layer.keepdims else (shapes[0][2],)


def _unchanged(layer: L.Layer, shapes: Sequence[Shape]) -> Shape:
    return shapes[0]


def _normalized(layer: L.Normalization | L.Rescaling, shapes: Sequence[Shape]) -> Shape:
    both = (layer.mean, layer.variance) if isinstance(layer, L.Normalization) else (layer.scale, layer.offset)
    for numbers in both:
        if len(numbers) not in (1, shapes[0][-1]):
            what = f"has {len(numbers)} numbers for {shapes[0][-1]} channels"
            raise ShapeError(f"layer {layer.name}", what, "one number, or one per channel")
    return shapes[0]


def _group_normalized(layer: L.GroupNormalization, shapes: Sequence[Shape]) -> Shape:
    if shapes[0][-1] % layer.groups:
        what = f"splits {shapes[0][-1]} channels into {layer.groups} groups"
        raise ShapeError(f"layer {layer.name}", what, "channels divisible by groups", "change groups")
    return shapes[0]


def _layer_normalized(layer: L.LayerNormalization, shapes: Sequence[Shape]) -> Shape:
    normalized_sides(layer, shapes[0])
    return shapes[0]


def normalized_sides(layer: L.LayerNormalization, shape: Shape) -> Shape:
    """The sizes of the axes that are normalised over, in Keras's numbers: -1 the last, 0 the batch."""
    places = sorted(axis - 1 if axis > 0 else len(shape) + axis for axis in layer.axis)
    if not places or not all(0 <= place < len(shape) for place in places) or 0 in layer.axis:
        what = f"normalises over axes {layer.axis} of a shape {shape}"
        raise ShapeError(f"layer {layer.name}", what, f"axes from 1 to {len(shape)}, or -{len(shape)} to -1")
    return tuple(shape[place] for place in places)


def _halved(layer: L.GLU, shapes: Sequence[Shape]) -> Shape:
    if shapes[0][-1] % 2:
        raise ShapeError(f"layer {layer.name}", f"halves {shapes[0][-1]} channels", "an even number of channels")
    return (*shapes[0][:-1], shapes[0][-1] // 2)


def _reshaped(layer: L.Reshape, shapes: Sequence[Shape]) -> Shape:
    known = prod(n for n in layer.target_shape if n != -1)
    left, rest = divmod(prod(shapes[0]), known) if known > 0 else (0, 1)
    shape = tuple(left if n == -1 else n for n in layer.target_shape)
    if rest or layer.target_shape.count(-1) > 1 or prod(shape) != prod(shapes[0]) or min(shape, default=0) < 1:
        what = f"makes {layer.target_shape} of {shapes[0]}"
        raise ShapeError(f"layer {layer.name}", what, f"a shape of {prod(shapes[0])} numbers")
    return shape


def _combined(layer: L.Layer, shapes: Sequence[Shape]) -> Shape:
    sides = [set(side) - {1} for side in zip(*shapes, strict=False)]
    if len({len(shape) for shape in shapes}) > 1 or any(len(side) > 1 for side in sides):
        raise ShapeError(f"layer {layer.name}", f"combines maps of shapes {list(shapes)}", "one shape, or sides of 1")
    return tuple(max(side, default=1) for side in sides)


def _joined(layer: L.Layer, shapes: Sequence[Shape]) -> Shape:
    if len({shape[:-1] for shape in shapes}) != 1:
        raise ShapeError(f"layer {layer.name}", f"joins maps of shapes {list(shapes)}", "one height and width")
    return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))


# --- weights --------------------------------------------------------------------------------

FIXED = ("moving_mean", "moving_variance")  # the weights that no gradient changes


def layer_weights(layer: L.Layer, given: Shape) -> dict[str, Shape]:
    """Key and shape of each weight of a layer that reads `given`, in Keras's order; none where it shares another's."""
    return {} if layer.shares else GEOMETRY[type(layer)].weights(layer, given)


def params_of(layer: L.Layer, given: Shape) -> tuple[int, int]:
    """(numbers that a layer of its type needs on `given`, those of them that learn), its own or shared ones."""
    rule = GEOMETRY[type(layer)]
    sizes = {key: prod(shape) for key, shape in rule.weights(layer, given).items()}
    stored, trainable = rule.besides(layer)
    return stored + sum(sizes.values()), trainable + sum(n for key, n in sizes.items() if key not in FIXED)


def _conv_weights(layer: L.Conv2D, shape: Shape) -> dict[str, Shape]:
    kernel = (*layer.kernel_size, shape[2] // layer.groups, layer.filters)
    return {"kernel": kernel, **_bias(layer, layer.filters)}


def _transposed_weights(layer: L.Conv2DTranspose, shape: Shape) -> dict[str, Shape]:
    kernel = (*layer.kernel_size, layer.filters // layer.groups, shape[2])
    return {"kernel": kernel, **_bias(layer, layer.filters)}


def _depthwise_weights(layer: L.DepthwiseConv2D, shape: Shape) -> dict[str, Shape]:
    kernel = (*layer.kernel_size, shape[2], layer.depth_multiplier)
    return {"kernel": kernel, **_bias(layer, shape[2] * layer.depth_multiplier)}


def _separable_weights(layer: L.SeparableConv2D, shape: Shape) -> dict[str, Shape]:
    depthwise = (*layer.kernel_size, shape[2], layer.depth_multiplier)
    pointwise = (1, 1, shape[2] * layer.depth_multiplier, layer.filters)
    return {"depthwise_kernel": depthwise, "pointwise_kernel": pointwise, **_bias(layer, layer.filters)}


def _bias(layer: Any, outputs: int) -> dict[str, Shape]:
    return {"bias": (outputs,)} if layer.use_bias else {}


def _learnt(
    layer: L.BatchNormalization | L.GroupNormalization | L.LayerNormalization, shape: Shape
) -> dict[str, Shape]:
    return {key: shape for key, present in (("gamma", layer.scale), ("beta", layer.center)) if present}


def prelu_shape(layer: L.PReLU, shape: Shape) -> Shape:
    """The shape of the learnt slopes: 1 along the shared axes."""
    return tuple(1 if axis in layer.shared_axes else n for axis, n in enumerate(shape, 1))


def _adapted(layer: L.Normalization) -> tuple[int, int]:
    """Mean, variance, and the count of what was seen."""
    return layer.adapted * (len(layer.mean) + len(layer.variance) + 1), 0


# --- work -----------------------------------------------------------------------------------


def _after(layer: Any, given: Shape, output: Shape) -> int:
    """Bias and activation: one each per output."""
    return prod(output) * (int(layer.use_bias) + int(layer.activation != "linear"))


def _pool_work(layer: Pool, given: Shape, output: Shape) -> int:
    return prod(output) * prod(layer.pool_size)


def _each(times: int) -> Callable[[Any, Shape, Shape], int]:
    return lambda layer, given, output: times * prod(output)


def _read(layer: Any, given: Shape, output: Shape) -> int:
    return prod(given)


def _dropping() -> Geometry:
    return Geometry(_unchanged, view=True)


def _joining() -> Geometry:
    return Geometry(_combined, elementwise=_each(1))


GEOMETRY: dict[type[L.Layer], Geometry] = {
    L.Conv2D: Geometry(
        _conv_shape,
        _conv_window,
        weights=_conv_weights,
        macs=lambda layer, given, out: prod(out) * prod(layer.kernel_size) * (given[2] // layer.groups),
        elementwise=_after,
    ),
    L.DepthwiseConv2D: Geometry(
        _depthwise_shape,
        _conv_window,
        weights=_depthwise_weights,
        macs=lambda layer, given, out: prod(out) * prod(layer.kernel_size),
        elementwise=_after,
    ),
    L.SeparableConv2D: Geometry(
        _separable_shape,
        _conv_window,
        weights=_separable_weights,
        macs=lambda layer, given, out: (
            prod(out[:2]) * given[2] * layer.depth_multiplier * (prod(layer.kernel_size) + layer.filters)
        ),
        elementwise=_after,
    ),
    L.Conv2DTranspose: Geometry(
        _transposed_shape,
        moves=_transposed_moves,
        weights=_transposed_weights,
        macs=lambda layer, given, out: prod(given) * prod(layer.kernel_size) * (layer.filters // layer.groups),
        elementwise=_after,
    ),
    L.MaxPooling2D: Geometry(_pool_shape, _pool_window, elementwise=_pool_work),
    L.AveragePooling2D: Geometry(_pool_shape, _pool_window, elementwise=_pool_work),
    L.GlobalAveragePooling2D: Geometry(_global_shape, moves=_whole_moves, elementwise=_read),
    L.GlobalMaxPooling2D: Geometry(_global_shape, moves=_whole_moves, elementwise=_read),
    L.AdaptiveAveragePooling2D: Geometry(
        lambda layer, shapes: (*layer.output_size, shapes[0][2]), moves=_adaptive_moves, elementwise=_read
    ),
    L.AdaptiveMaxPooling2D: Geometry(
        lambda layer, shapes: (*layer.output_size, shapes[0][2]), moves=_adaptive_moves, elementwise=_read
    ),
    L.BatchNormalization: Geometry(
        _unchanged,
        weights=lambda layer, shape: {**_learnt(layer, shape[-1:]), **dict.fromkeys(FIXED, shape[-1:])},
        elementwise=_each(2),
    ),
    L.GroupNormalization: Geometry(
        _group_normalized, weights=lambda layer, shape: _learnt(layer, shape[-1:]), elementwise=_each(5)
    ),
    L.LayerNormalization: Geometry(
        _layer_normalized,
        weights=lambda layer, shape: _learnt(layer, normalized_sides(layer, shape)),
        elementwise=_each(5),
    ),
    L.Activation: Geometry(
        _unchanged, elementwise=lambda layer, given, out: prod(out) * (layer.activation != "linear")
    ),
    L.PReLU: Geometry(
        _unchanged, weights=lambda layer, shape: {"alpha": prelu_shape(layer, shape)}, elementwise=_each(1)
    ),
    L.GLU: Geometry(_halved, elementwise=_each(2)),
    L.LayerScale: Geometry(_unchanged, weights=lambda layer, shape: {"gamma": shape[-1:]}, elementwise=_each(1)),
    L.Dropout: _dropping(),
    L.SpatialDropout2D: _dropping(),
    L.AlphaDropout: _dropping(),
    L.GaussianDropout: _dropping(),
    L.GaussianNoise: _dropping(),
    L.StochasticDepth: _dropping(),
    L.Flatten: Geometry(lambda layer, shapes: (prod(shapes[0]),), moves=_whole_moves, view=True),
    L.Reshape: Geometry(_reshaped, moves=_reshape_moves, view=True),
    L.Dense: Geometry(
        lambda layer, shapes: (*shapes[0][:-1], layer.units),
        weights=lambda layer, shape: {"kernel": (shape[-1], layer.units), **_bias(layer, layer.units)},
        macs=lambda layer, given, out: prod(out) * given[-1],
        elementwise=_after,
    ),
    L.Add: _joining(),
    L.Subtract: _joining(),
    L.Multiply: _joining(),
    L.Average: _joining(),
    L.Maximum: _joining(),
    L.Minimum: _joining(),
    L.Concatenate: Geometry(_joined),
    L.ZeroPadding2D: Geometry(_padded_shape, _pad_window),
    L.Cropping2D: Geometry(_cropped_shape, _crop_window),
    L.UpSampling2D: Geometry(
        lambda layer, shapes: (shapes[0][0] * layer.size[0], shapes[0][1] * layer.size[1], shapes[0][2]),
        moves=_enlarging_moves,
        elementwise=_each(1),
    ),
    L.Rescaling: Geometry(_normalized, elementwise=_each(2)),
    L.Normalization: Geometry(_normalized, besides=_adapted, elementwise=_each(2)),
    L.Opaque: Geometry(
        lambda layer, shapes: layer.output_shape,
        _opaque_window,
        _opaque_moves,
        besides=lambda layer: (max(layer.params, 0),) * 2,
        macs=lambda layer, given, out: max(layer.macs, 0),
        elementwise=lambda layer, given, out: max(layer.elementwise, 0),
    ),
}

# Layers that read a map: (height, width, channels), not a row of numbers.
SPATIAL = (
    L.Conv2D, L.DepthwiseConv2D, L.SeparableConv2D, L.Conv2DTranspose, L.MaxPooling2D, L.AveragePooling2D,
    L.GlobalAveragePooling2D, L.GlobalMaxPooling2D, L.AdaptiveAveragePooling2D, L.AdaptiveMaxPooling2D,
    L.ZeroPadding2D, L.Cropping2D, L.UpSampling2D, L.SpatialDropout2D,
)  # fmt: skip
COMBINING = (L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum)
JOINS = (*COMBINING, L.Concatenate)
CONVOLUTIONS = (L.Conv2D, L.DepthwiseConv2D, L.SeparableConv2D)


def window_of(layer: L.Layer, shape: Shape) -> Window:
    """The moving window of a layer that has one, on maps of `shape`."""
    window = GEOMETRY[type(layer)].window(layer, shape)
    assert window is not None
    return window
