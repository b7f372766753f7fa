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
from convwise.core.layer_windows import (
    Moves,
    Pool,
    adaptive_moves,
    conv_window,
    crop_window,
    enlarging_moves,
    opaque_moves,
    opaque_window,
    pad_window,
    pool_window,
    reshape_moves,
    transposed_crops,
    transposed_moves,
    whole_moves,
)
from convwise.core.parameters import Pair
from convwise.core.problems import ShapeError
from convwise.core.text import times
from convwise.core.windows import Shape, Window, effective, outputs_of


@dataclass(frozen=True)
class Geometry:
    """The formulas of one layer type: over the layer, its input shapes and its output shape.

    shape: the output shape; window: its moving window or None; moves: how its units see the map,
    where no window says so; weights: key and shape of each, in Keras's order; besides: numbers
    stored that are no weights of ours, (all, trainable); macs: multiply-accumulates; elementwise:
    operations besides (core/calculus.py says which); view: whether the output is the input's
    memory.
    """

    shape: Callable[[Any, Sequence[Shape]], Shape]
    window: Callable[[Any, Shape], Window | None] = lambda layer, shape: None
    moves: Callable[[Any, Shape, Shape], Moves | None] = lambda layer, given, output: None
    weights: Callable[[Any, Shape], dict[str, Shape]] = lambda layer, shape: {}
    besides: Callable[[Any], tuple[int, int]] = lambda layer: (0, 0)
    macs: Callable[[Any, Shape, Shape], int] = lambda layer, given, output: 0
    elementwise: Callable[[Any, Shape, Shape], int] = lambda layer, given, output: 0
    view: bool = False


# --- shapes ---------------------------------------------------------------------------------


def _slid(layer: L.Layer, shape: Shape, window: Window) -> Pair:
    """The map that a window leaves; ShapeError where it fits nowhere."""
    top, bottom, left, right = window.pads
    rows = outputs_of(shape[0], top, bottom, window.reach[0], window.strides[0])
    columns = outputs_of(shape[1], left, right, window.reach[1], window.strides[1])
    if rows < 1 or columns < 1:
        what = f"needs {times(window.reach)} inputs, but its map is {times(shape[:2])}"
        what += f" with padding {window.pads}" if any(window.pads) else ""
        fix = "padding='same', a smaller kernel, or fewer strides and pools before it"
        raise ShapeError(f"layer {layer.name}", what, "a map at least as large as the kernel", fix)
    return rows, columns


def _grouped(layer: L.Conv2D | L.Conv2DTranspose, channels: int) -> None:
    for label, number in (("input channels", channels), ("filters", layer.filters)):
        if number % layer.groups:
            what = f"has {number} {label} in {layer.groups} groups"
            expected = f"{label} divisible by groups"
            raise ShapeError(f"layer {layer.name}", what, expected, "change groups or filters")


def _conv_shape(layer: L.Conv2D, shapes: Sequence[Shape]) -> Shape:
    _grouped(layer, shapes[0][2])
    return (*_slid(layer, shapes[0], conv_window(layer, shapes[0])), layer.filters)


def _separable_shape(layer: L.SeparableConv2D, shapes: Sequence[Shape]) -> Shape:
    return (*_slid(layer, shapes[0], conv_window(layer, shapes[0])), layer.filters)


def _depthwise_shape(layer: L.DepthwiseConv2D, shapes: Sequence[Shape]) -> Shape:
    channels = shapes[0][2] * layer.depth_multiplier
    return (*_slid(layer, shapes[0], conv_window(layer, shapes[0])), channels)


def _transposed_shape(layer: L.Conv2DTranspose, shapes: Sequence[Shape]) -> Shape:
    _grouped(layer, shapes[0][2])
    top, bottom, left, right = transposed_crops(layer)
    rows, columns = (
        (n - 1) * s + effective(k, d)
        for n, s, k, d in zip(
            shapes[0][:2], layer.strides, layer.kernel_size, layer.dilation_rate, strict=True
        )
    )
    if rows <= top + bottom or columns <= left + right:
        what = f"takes {(top, bottom, left, right)} from an output of {times((rows, columns))}"
        fix = "less padding, or a larger kernel"
        raise ShapeError(f"layer {layer.name}", what, "less than the output", fix)
    return rows - top - bottom, columns - left - right, layer.filters


def _pool_shape(layer: Pool, shapes: Sequence[Shape]) -> Shape:
    return (*_slid(layer, shapes[0], pool_window(layer, shapes[0])), shapes[0][2])


def _padded_shape(layer: L.ZeroPadding2D, shapes: Sequence[Shape]) -> Shape:
    return (*_slid(layer, shapes[0], pad_window(layer, shapes[0])), shapes[0][2])


def _cropped_shape(layer: L.Cropping2D, shapes: Sequence[Shape]) -> Shape:
    return (*_slid(layer, shapes[0], crop_window(layer, shapes[0])), shapes[0][2])


def _global_shape(
    layer: L.GlobalAveragePooling2D | L.GlobalMaxPooling2D, shapes: Sequence[Shape]
) -> Shape:
    return (1, 1, shapes[0][2]) if layer.keepdims else (shapes[0][2],)


def _unchanged(layer: L.Layer, shapes: Sequence[Shape]) -> Shape:
    return shapes[0]


def _normalized(layer: L.Normalization | L.Rescaling, shapes: Sequence[Shape]) -> Shape:
    both = (
        (layer.mean, layer.variance)
        if isinstance(layer, L.Normalization)
        else (layer.scale, layer.offset)
    )
    for numbers in both:
        if len(numbers) not in (1, shapes[0][-1]):
            what = f"has {len(numbers)} numbers for {shapes[0][-1]} channels"
            raise ShapeError(f"layer {layer.name}", what, "one number, or one per channel")
    return shapes[0]


def _group_normalized(layer: L.GroupNormalization, shapes: Sequence[Shape]) -> Shape:
    if shapes[0][-1] % layer.groups:
        what = f"splits {shapes[0][-1]} channels into {layer.groups} groups"
        expected = "channels divisible by groups"
        raise ShapeError(f"layer {layer.name}", what, expected, "change groups")
    return shapes[0]


def _layer_normalized(layer: L.LayerNormalization, shapes: Sequence[Shape]) -> Shape:
    normalized_sides(layer, shapes[0])
    return shapes[0]


def normalized_sides(layer: L.LayerNormalization, shape: Shape) -> Shape:
    """The sizes of the axes that are normalised over, as Keras counts: -1 the last, 0 the batch."""
    places = sorted(axis - 1 if axis > 0 else len(shape) + axis for axis in layer.axis)
    if not places or not all(0 <= place < len(shape) for place in places) or 0 in layer.axis:
        what = f"normalises over axes {layer.axis} of a shape {shape}"
        expected = f"axes from 1 to {len(shape)}, or -{len(shape)} to -1"
        raise ShapeError(f"layer {layer.name}", what, expected)
    return tuple(shape[place] for place in places)


def _halved(layer: L.GLU, shapes: Sequence[Shape]) -> Shape:
    *places, channels = shapes[0]
    if channels % 2:
        what = f"halves {channels} channels"
        raise ShapeError(f"layer {layer.name}", what, "an even number of channels")
    return (*places, channels // 2)


def _reshaped(layer: L.Reshape, shapes: Sequence[Shape]) -> Shape:
    known = prod(n for n in layer.target_shape if n != -1)
    left, rest = divmod(prod(shapes[0]), known) if known > 0 else (0, 1)
    shape = tuple(left if n == -1 else n for n in layer.target_shape)
    open_sides, least = layer.target_shape.count(-1), min(shape, default=0)
    if rest or open_sides > 1 or least < 1 or prod(shape) != prod(shapes[0]):
        what = f"makes {layer.target_shape} of {shapes[0]}"
        raise ShapeError(f"layer {layer.name}", what, f"a shape of {prod(shapes[0])} numbers")
    return shape


def _combined(layer: L.Layer, shapes: Sequence[Shape]) -> Shape:
    sides = [set(side) - {1} for side in zip(*shapes, strict=False)]
    if len({len(shape) for shape in shapes}) > 1 or any(len(side) > 1 for side in sides):
        what = f"combines maps of shapes {list(shapes)}"
        raise ShapeError(f"layer {layer.name}", what, "one shape, or sides of 1")
    return tuple(max(side, default=1) for side in sides)


def _joined(layer: L.Layer, shapes: Sequence[Shape]) -> Shape:
    if len({shape[:-1] for shape in shapes}) != 1:
        what = f"joins maps of shapes {list(shapes)}"
        raise ShapeError(f"layer {layer.name}", what, "one height and width")
    return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))


# --- weights --------------------------------------------------------------------------------

FIXED = ("moving_mean", "moving_variance")  # the weights that no gradient changes


def layer_weights(layer: L.Layer, given: Shape) -> dict[str, Shape]:
    """Key and shape of each weight of a layer on `given`, in Keras's order; none that it shares."""
    return {} if layer.shares else GEOMETRY[type(layer)].weights(layer, given)


def params_of(layer: L.Layer, given: Shape) -> tuple[int, int]:
    """(numbers that such a layer needs on `given`, those of them that learn), its own or shared."""
    rule = GEOMETRY[type(layer)]
    sizes = {key: prod(shape) for key, shape in rule.weights(layer, given).items()}
    stored, trainable = rule.besides(layer)
    learning = sum(n for key, n in sizes.items() if key not in FIXED)
    return stored + sum(sizes.values()), trainable + learning


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
    kernels = {"depthwise_kernel": depthwise, "pointwise_kernel": pointwise}
    return {**kernels, **_bias(layer, layer.filters)}


def _bias(layer: Any, outputs: int) -> dict[str, Shape]:
    return {"bias": (outputs,)} if layer.use_bias else {}


def _learnt(
    layer: L.BatchNormalization | L.GroupNormalization | L.LayerNormalization, shape: Shape
) -> dict[str, Shape]:
    present = (("gamma", layer.scale), ("beta", layer.center))
    return {key: shape for key, learnt in present if learnt}


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


def _separable_work(layer: L.SeparableConv2D, given: Shape, output: Shape) -> int:
    """Multiply-accumulates of the depthwise convolution and of the 1x1 one after it."""
    depthwise = prod(output[:2]) * given[2] * layer.depth_multiplier
    return depthwise * (prod(layer.kernel_size) + layer.filters)


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
        conv_window,
        weights=_conv_weights,
        macs=lambda layer, given, out: (
            prod(out) * prod(layer.kernel_size) * (given[2] // layer.groups)
        ),
        elementwise=_after,
    ),
    L.DepthwiseConv2D: Geometry(
        _depthwise_shape,
        conv_window,
        weights=_depthwise_weights,
        macs=lambda layer, given, out: prod(out) * prod(layer.kernel_size),
        elementwise=_after,
    ),
    L.SeparableConv2D: Geometry(
        _separable_shape,
        conv_window,
        weights=_separable_weights,
        macs=_separable_work,
        elementwise=_after,
    ),
    L.Conv2DTranspose: Geometry(
        _transposed_shape,
        moves=transposed_moves,
        weights=_transposed_weights,
        macs=lambda layer, given, out: (
            prod(given) * prod(layer.kernel_size) * (layer.filters // layer.groups)
        ),
        elementwise=_after,
    ),
    L.MaxPooling2D: Geometry(_pool_shape, pool_window, elementwise=_pool_work),
    L.AveragePooling2D: Geometry(_pool_shape, pool_window, elementwise=_pool_work),
    L.GlobalAveragePooling2D: Geometry(_global_shape, moves=whole_moves, elementwise=_read),
    L.GlobalMaxPooling2D: Geometry(_global_shape, moves=whole_moves, elementwise=_read),
    L.AdaptiveAveragePooling2D: Geometry(
        lambda layer, shapes: (*layer.output_size, shapes[0][2]),
        moves=adaptive_moves,
        elementwise=_read,
    ),
    L.AdaptiveMaxPooling2D: Geometry(
        lambda layer, shapes: (*layer.output_size, shapes[0][2]),
        moves=adaptive_moves,
        elementwise=_read,
    ),
    L.BatchNormalization: Geometry(
        _unchanged,
        weights=lambda layer, shape: {
            **_learnt(layer, shape[-1:]),
            **dict.fromkeys(FIXED, shape[-1:]),
        },
        elementwise=_each(2),
    ),
    L.GroupNormalization: Geometry(
        _group_normalized,
        weights=lambda layer, shape: _learnt(layer, shape[-1:]),
        elementwise=_each(5),
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
        _unchanged,
        weights=lambda layer, shape: {"alpha": prelu_shape(layer, shape)},
        elementwise=_each(1),
    ),
    L.GLU: Geometry(_halved, elementwise=_each(2)),
    L.LayerScale: Geometry(
        _unchanged, weights=lambda layer, shape: {"gamma": shape[-1:]}, elementwise=_each(1)
    ),
    L.Dropout: _dropping(),
    L.SpatialDropout2D: _dropping(),
    L.AlphaDropout: _dropping(),
    L.GaussianDropout: _dropping(),
    L.GaussianNoise: _dropping(),
    L.StochasticDepth: _dropping(),
    L.Flatten: Geometry(lambda layer, shapes: (prod(shapes[0]),), moves=whole_moves, view=True),
    L.Reshape: Geometry(_reshaped, moves=reshape_moves, view=True),
    L.Dense: Geometry(
        lambda layer, shapes: (*shapes[0][:-1], layer.units),
        weights=lambda layer, shape: {
            "kernel": (shape[-1], layer.units),
            **_bias(layer, layer.units),
        },
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
    L.ZeroPadding2D: Geometry(_padded_shape, pad_window),
    L.Cropping2D: Geometry(_cropped_shape, crop_window),
    L.UpSampling2D: Geometry(
        lambda layer, shapes: (
            shapes[0][0] * layer.size[0],
            shapes[0][1] * layer.size[1],
            shapes[0][2],
        ),
        moves=enlarging_moves,
        elementwise=_each(1),
    ),
    L.Rescaling: Geometry(_normalized, elementwise=_each(2)),
    L.Normalization: Geometry(_normalized, besides=_adapted, elementwise=_each(2)),
    L.Opaque: Geometry(
        lambda layer, shapes: layer.output_shape,
        opaque_window,
        opaque_moves,
        besides=lambda layer: (max(layer.params, 0),) * 2,
        macs=lambda layer, given, out: max(layer.macs, 0),
        elementwise=lambda layer, given, out: max(layer.elementwise, 0),
    ),
}

# Layers that read a map: (height, width, channels), not a row of numbers.
SPATIAL = (
    L.Conv2D, L.DepthwiseConv2D, L.SeparableConv2D, L.Conv2DTranspose,
    L.MaxPooling2D, L.AveragePooling2D, L.GlobalAveragePooling2D, L.GlobalMaxPooling2D,
    L.AdaptiveAveragePooling2D, L.AdaptiveMaxPooling2D,
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
