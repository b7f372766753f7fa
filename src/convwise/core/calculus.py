"""Exact geometry and cost of every layer: integers only.

Conventions. Shapes are (height, width, channels), or (units,) after Flatten or global pooling,
without the batch. macs: multiply-accumulates of convolutions and dense layers, bias excluded.
params: every stored number, trainable or not, as Keras's `count_params`. activation_bytes: the
layer's output in float32. Geometry follows Keras and TensorFlow: 'same' gives ceil(n / s) outputs
and pads (o - 1) s + k_e - n, the smaller half before; 'valid' gives ceil((n - k_e + 1) / s).
Receptive fields after Araujo, Norris & Sim, Computing Receptive Fields of Convolutional Neural
Networks, Distill 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from convwise.core.layers import (
    Activation,
    Add,
    AveragePooling2D,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    GlobalMaxPooling2D,
    Layer,
    MaxPooling2D,
    Normalization,
    Pads,
    Pair,
    Rescaling,
    ZeroPadding2D,
)
from convwise.core.net import INPUT, Net
from convwise.core.problems import ShapeError

Shape = tuple[int, ...]
NO_PADS: Pads = (0, 0, 0, 0)
BYTES = 4  # of one activation, float32


@dataclass(frozen=True)
class Axis:
    """The receptive field along one axis, in input px.

    size: pixels that one output can see; stride: input px between neighbouring outputs; padding:
    how far the first output's field reaches before the input's edge (effective padding).
    """

    size: int = 1
    stride: int = 1
    padding: int = 0

    def through(self, kernel: int, stride: int, before: int) -> Axis:
        """The field after a window of effective size `kernel`, with `before` padding."""
        size = self.size + (kernel - 1) * self.stride
        return Axis(size, self.stride * stride, self.padding + before * self.stride)


@dataclass(frozen=True)
class Field:
    """The receptive field of a layer: rows, columns; along its longest and its shortest path.

    aligned: False where branches with other strides or centres meet, so that no one stride and
    padding is true for all of them.
    """

    rows: Axis = Axis()
    columns: Axis = Axis()
    shortest: Pair = (1, 1)
    aligned: bool = True

    @property
    def size(self) -> Pair:
        return self.rows.size, self.columns.size

    @property
    def stride(self) -> Pair:
        return self.rows.stride, self.columns.stride

    @property
    def padding(self) -> Pair:
        return self.rows.padding, self.columns.padding


@dataclass(frozen=True)
class LayerCost:
    """What one layer does and costs."""

    name: str
    op: str
    inputs: tuple[str, ...]
    output_shape: Shape
    pads: Pads
    params: int
    trainable: int
    macs: int
    activation_bytes: int
    field: Field


@dataclass(frozen=True)
class Total:
    """The sums over a net, and the receptive field at its last spatial layer."""

    params: int
    trainable: int
    macs: int
    activation_bytes: int
    field: Field


@dataclass(frozen=True)
class Analysis:
    """A net's layers with their costs, and the total."""

    layers: tuple[LayerCost, ...]
    total: Total

    def __getitem__(self, name: str) -> LayerCost:
        return next(row for row in self.layers if row.name == name)


@dataclass(frozen=True)
class Window:
    """How a spatial layer moves over its map: size, step, spread, and the padding around the map."""

    kernel: Pair
    strides: Pair
    dilation: Pair
    pads: Pads

    @property
    def reach(self) -> Pair:
        """Effective kernel size, rows and columns."""
        rows, columns = (d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        return rows, columns


@dataclass(frozen=True)
class Geometry:
    """The formulas of one layer type: over the layer and its input shapes.

    shape: the output shape; window: its moving window or None; params: (all, trainable); macs.
    """

    shape: Callable[[Any, Sequence[Shape]], Shape]
    window: Callable[[Any, Shape], Window | None] = lambda layer, shape: None
    params: Callable[[Any, Shape], tuple[int, int]] = lambda layer, shape: (0, 0)
    macs: Callable[[Any, Shape, Shape], int] = lambda layer, given, output: 0


def effective(kernel: int, dilation: int) -> int:
    """Pixels from the first to the last tap of a dilated kernel: d (k - 1) + 1."""
    return dilation * (kernel - 1) + 1


def same_pads(size: int, kernel: int, stride: int, dilation: int = 1) -> Pair:
    """(before, after) of TensorFlow's 'same' along one axis."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + effective(kernel, dilation) - size, 0)
    return total // 2, total - total // 2


def pads_of(padding: str | Pads, shape: Shape, kernel: Pair, strides: Pair, dilation: Pair = (1, 1)) -> Pads:
    """(top, bottom, left, right) of any form of padding on a map of `shape`."""
    if isinstance(padding, tuple):
        return padding
    if padding == "valid":
        return NO_PADS
    (top, bottom), (left, right) = (same_pads(*each) for each in zip(shape[:2], kernel, strides, dilation, strict=True))
    return top, bottom, left, right


def outputs_of(size: int, before: int, after: int, reach: int, stride: int) -> int:
    """Positions at which a window of effective size `reach` fits; 0 or less where it does not."""
    return (size + before + after - reach) // stride + 1


def _conv_window(layer: Conv2D | DepthwiseConv2D, shape: Shape) -> Window:
    pads = pads_of(layer.padding, shape, layer.kernel_size, layer.strides, layer.dilation_rate)
    return Window(layer.kernel_size, layer.strides, layer.dilation_rate, pads)


def _pool_window(layer: MaxPooling2D | AveragePooling2D, shape: Shape) -> Window:
    pads = pads_of(layer.padding, shape, layer.pool_size, layer.strides)
    return Window(layer.pool_size, layer.strides, (1, 1), pads)


def _whole_window(layer: Layer, shape: Shape) -> Window | None:
    return Window((shape[0], shape[1]), (1, 1), (1, 1), NO_PADS) if len(shape) == 3 else None


def _pad_window(layer: ZeroPadding2D, shape: Shape) -> Window:
    pads = pads_of(layer.padding, shape, (1, 1), (1, 1))
    return Window((1, 1), (1, 1), (1, 1), pads)


def _slid(layer: Layer, shape: Shape, window: Window) -> Pair:
    """The map that a window leaves; ShapeError where it fits nowhere."""
    top, bottom, left, right = window.pads
    rows = outputs_of(shape[0], top, bottom, window.reach[0], window.strides[0])
    columns = outputs_of(shape[1], left, right, window.reach[1], window.strides[1])
    if rows < 1 or columns < 1:
        what = f"needs {window.reach[0]}x{window.reach[1]} inputs, but its map is {shape[0]}x{shape[1]}"
        fix = "padding='same', a smaller kernel, or fewer strides and pools before it"
        raise ShapeError(f"layer {layer.name}", what, "a map at least as large as the kernel", fix)
    return rows, columns


def _conv_shape(layer: Conv2D, shapes: Sequence[Shape]) -> Shape:
    for label, number in (("input channels", shapes[0][2]), ("filters", layer.filters)):
        if number % layer.groups:
            what = f"has {number} {label} in {layer.groups} groups"
            raise ShapeError(f"layer {layer.name}", what, f"{label} divisible by groups", "change groups or filters")
    return (*_slid(layer, shapes[0], _conv_window(layer, shapes[0])), layer.filters)


def _depthwise_shape(layer: DepthwiseConv2D, shapes: Sequence[Shape]) -> Shape:
    channels = shapes[0][2] * layer.depth_multiplier
    return (*_slid(layer, shapes[0], _conv_window(layer, shapes[0])), channels)


def _pool_shape(layer: MaxPooling2D | AveragePooling2D, shapes: Sequence[Shape]) -> Shape:
    return (*_slid(layer, shapes[0], _pool_window(layer, shapes[0])), shapes[0][2])


def _padded_shape(layer: ZeroPadding2D, shapes: Sequence[Shape]) -> Shape:
    return (*_slid(layer, shapes[0], _pad_window(layer, shapes[0])), shapes[0][2])


def _unchanged(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    return shapes[0]


def _normalized(layer: Normalization, shapes: Sequence[Shape]) -> Shape:
    for numbers in (layer.mean, layer.variance):
        if len(numbers) not in (1, shapes[0][-1]):
            what = f"has {len(numbers)} numbers for {shapes[0][-1]} channels"
            raise ShapeError(f"layer {layer.name}", what, "one number, or one per channel")
    return shapes[0]


def _one_shape(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    if len(set(shapes)) != 1:
        raise ShapeError(f"layer {layer.name}", f"adds maps of shapes {list(shapes)}", "one shape")
    return shapes[0]


def _joined(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    if len({shape[:-1] for shape in shapes}) != 1:
        raise ShapeError(f"layer {layer.name}", f"joins maps of shapes {list(shapes)}", "one height and width")
    return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))


def _weights(kernel: int, biases: int) -> tuple[int, int]:
    return kernel + biases, kernel + biases


def _conv_params(layer: Conv2D, shape: Shape) -> tuple[int, int]:
    return _weights(
        prod(layer.kernel_size) * (shape[2] // layer.groups) * layer.filters, layer.use_bias * layer.filters
    )


def _depthwise_params(layer: DepthwiseConv2D, shape: Shape) -> tuple[int, int]:
    channels = shape[2] * layer.depth_multiplier
    return _weights(prod(layer.kernel_size) * channels, layer.use_bias * channels)


GEOMETRY: dict[type[Layer], Geometry] = {
    Conv2D: Geometry(
        _conv_shape,
        _conv_window,
        _conv_params,
        lambda layer, given, out: prod(out) * prod(layer.kernel_size) * (given[2] // layer.groups),
    ),
    DepthwiseConv2D: Geometry(
        _depthwise_shape,
        _conv_window,
        _depthwise_params,
        lambda layer, given, out: prod(out) * prod(layer.kernel_size),
    ),
    MaxPooling2D: Geometry(_pool_shape, _pool_window),
    AveragePooling2D: Geometry(_pool_shape, _pool_window),
    GlobalAveragePooling2D: Geometry(lambda layer, shapes: (shapes[0][2],), _whole_window),
    GlobalMaxPooling2D: Geometry(lambda layer, shapes: (shapes[0][2],), _whole_window),
    BatchNormalization: Geometry(_unchanged, params=lambda layer, shape: (4 * shape[-1], 2 * shape[-1])),
    Activation: Geometry(_unchanged),
    Dropout: Geometry(_unchanged),
    Flatten: Geometry(lambda layer, shapes: (prod(shapes[0]),), _whole_window),
    Dense: Geometry(
        lambda layer, shapes: (*shapes[0][:-1], layer.units),
        params=lambda layer, shape: _weights(shape[-1] * layer.units, layer.use_bias * layer.units),
        macs=lambda layer, given, out: prod(out) * given[-1],
    ),
    Add: Geometry(_one_shape),
    Concatenate: Geometry(_joined),
    ZeroPadding2D: Geometry(_padded_shape, _pad_window),
    Rescaling: Geometry(_unchanged),
    Normalization: Geometry(_normalized),
}

# Layers that read a map: (height, width, channels), not a row of numbers.
SPATIAL = (Conv2D, DepthwiseConv2D, MaxPooling2D, AveragePooling2D, GlobalAveragePooling2D, GlobalMaxPooling2D,
           ZeroPadding2D)  # fmt: skip
JOINS = (Add, Concatenate)


def analyse(net: Net) -> Analysis:
    """The exact cost of each layer of `net` and in total. ShapeError where a layer does not fit."""
    shapes: dict[str, Shape] = {INPUT: net.input_shape}
    reach: dict[str, Field] = {INPUT: Field()}
    rows = []
    for layer in net.layers:
        row = _layer_cost(layer, [shapes[name] for name in layer.inputs], [reach[name] for name in layer.inputs])
        shapes[layer.name], reach[layer.name] = row.output_shape, row.field
        rows.append(row)
    return Analysis(tuple(rows), _total(rows))


def _layer_cost(layer: Layer, shapes: Sequence[Shape], seen: Sequence[Field]) -> LayerCost:
    _check_inputs(layer, shapes)
    rule = GEOMETRY[type(layer)]
    output = rule.shape(layer, shapes)
    window = rule.window(layer, shapes[0])
    params, trainable = rule.params(layer, shapes[0])
    return LayerCost(
        name=layer.name,
        op=layer.op,
        inputs=layer.inputs,
        output_shape=output,
        pads=window.pads if window else NO_PADS,
        params=params,
        trainable=trainable,
        macs=rule.macs(layer, shapes[0], output),
        activation_bytes=BYTES * prod(output),
        field=_field(seen, window),
    )


def _check_inputs(layer: Layer, shapes: Sequence[Shape]) -> None:
    where = f"layer {layer.name}"
    if isinstance(layer, JOINS) != (len(shapes) > 1):
        raise ShapeError(where, f"{layer.op} has {len(shapes)} inputs", "two or more" if len(shapes) == 1 else "one")
    if isinstance(layer, SPATIAL) and len(shapes[0]) != 3:
        fix = "put it before Flatten, global pooling and Dense"
        raise ShapeError(
            where, f"{layer.op} reads a row of {shapes[0][0]} numbers", "a map (height, width, channels)", fix
        )


def _field(seen: Sequence[Field], window: Window | None) -> Field:
    field = _join(seen) if len(seen) > 1 else seen[0]
    if window is None:
        return field
    (rows, columns), (top, _, left, _) = window.reach, window.pads
    shortest = tuple(
        short + (reach - 1) * stride
        for short, reach, stride in zip(field.shortest, window.reach, field.stride, strict=True)
    )
    return Field(
        field.rows.through(rows, window.strides[0], top),
        field.columns.through(columns, window.strides[1], left),
        (shortest[0], shortest[1]),
        field.aligned,
    )


def _join(seen: Sequence[Field]) -> Field:
    """Where branches meet: the interval that covers all of them."""
    rows, rows_aligned = _join_axis([field.rows for field in seen])
    columns, columns_aligned = _join_axis([field.columns for field in seen])
    shortest = min(field.shortest[0] for field in seen), min(field.shortest[1] for field in seen)
    return Field(rows, columns, shortest, rows_aligned and columns_aligned and all(field.aligned for field in seen))


def _join_axis(axes: Sequence[Axis]) -> tuple[Axis, bool]:
    padding = max(axis.padding for axis in axes)
    last = max(axis.size - axis.padding for axis in axes)
    # Twice the centre, so that it stays an integer.
    centres = {axis.size - 2 * axis.padding for axis in axes}
    strides = {axis.stride for axis in axes}
    return Axis(last + padding, max(strides), padding), len(centres) == len(strides) == 1


def _total(rows: Sequence[LayerCost]) -> Total:
    spatial = [row for row in rows if len(row.output_shape) == 3]
    return Total(
        params=sum(row.params for row in rows),
        trainable=sum(row.trainable for row in rows),
        macs=sum(row.macs for row in rows),
        activation_bytes=sum(row.activation_bytes for row in rows),
        field=spatial[-1].field if spatial else Field(),
    )
