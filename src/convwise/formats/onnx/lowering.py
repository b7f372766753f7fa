"""Each layer as ONNX operators, at opset 20; what ONNX lacks is composed of what it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core import layers as L
from convwise.core.activations import INFINITY, activation
from convwise.core.geometry import GEOMETRY, normalized_sides, window_of
from convwise.core.layer_windows import transposed_crops
from convwise.core.parameters import Pads
from convwise.core.problems import Unsupported
from convwise.core.windows import Shape, Window, pads_of
from convwise.formats.weights import Array, channels_first

Tensor = NDArray[Any]
Kernels = Mapping[str, Array]


@dataclass(frozen=True)
class Op:
    """One operator on earlier values of its layer; constants follow as further inputs.

    reads: -1 the operator before, -2 the one before that. Before the first operator lies all that
    the layer reads, and before this its inputs one by one, the first last. spare: outputs besides
    the first, which nothing reads.
    """

    kind: str
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    reads: tuple[int, ...] = (-1,)
    spare: int = 0


Ops = tuple[Op, ...]


def lower(layer: L.Layer, shapes: Sequence[Shape], weights: Kernels) -> Ops:
    """The operators that do what the layer does on maps of `shapes`; weights by 'kernel' and so on.

    Unsupported where ONNX has none.
    """
    rule = LOWER.get(type(layer))
    if rule is None:
        what = f"{layer.op} cannot be expressed in ONNX"
        known = ", ".join(kind.__name__ for kind in LOWER)
        raise Unsupported("onnx", layer.name, what, f"one of {known}")
    return rule(layer, shapes[0], weights) or (Op("Identity"),)


# --- arrays ---------------------------------------------------------------------------------


def _numbers(*values: float) -> Tensor:
    return np.array(values if len(values) > 1 else values[0], np.float32)


def _whole(*values: int) -> Tensor:
    return np.array(values, np.int64)


def _first(array: Tensor, rank: int) -> Tensor:
    """A weight over the last axes of a value of `rank` axes, with the channels first."""
    full = array.reshape([1] * (rank - array.ndim) + list(array.shape))
    return np.ascontiguousarray(np.moveaxis(full, -1, 0))


def _turn_last(rank: int) -> Ops:
    """The channels to the end; `rank` is without the batch."""
    return (Op("Transpose", {}, {"perm": (0, *range(2, rank + 1), 1)}),) if rank > 1 else ()


def _turn_first(rank: int) -> Ops:
    return (Op("Transpose", {}, {"perm": (0, rank, *range(1, rank))}),) if rank > 1 else ()


# --- activations ----------------------------------------------------------------------------


def _clip(low: float = -INFINITY, high: float = INFINITY) -> Op:
    return Op("Clip", {"low": _numbers(low), "high": _numbers(high)})


def _relu(max_value: float, negative_slope: float, threshold: float) -> Ops:
    most = (Op("Min", {"most": _numbers(max_value)}),) if max_value < INFINITY else ()
    if threshold:
        below = (
            Op("Greater", {"threshold": _numbers(threshold)}),
            Op("Sub", {"by": _numbers(threshold)}, reads=(-2,)),
        )
        slope = Op("Mul", {"slope": _numbers(negative_slope)})
        return (*below, slope, Op("Where", reads=(-3, -4, -1)), *most)
    if negative_slope:
        return (Op("LeakyRelu", {}, {"alpha": negative_slope}), *most)
    return (_clip(0, max_value),) if most else (Op("Relu"),)


def _softplus(beta: float) -> Ops:
    if beta == 1:
        return (Op("Softplus"),)
    factor = {"beta": _numbers(beta)}
    return Op("Mul", factor), Op("Softplus"), Op("Div", factor)


def _sparsemax(channels: int) -> Ops:
    """max(x - t, 0), t the largest of (sum of the k largest - 1) / k: Martins & Astudillo 2016."""
    counts = _numbers(*range(1, channels + 1)).reshape(1, channels)
    sort = Op("TopK", {"k": _whole(channels)}, {"axis": -1}, spare=1)
    sums = Op("CumSum", {"axis": np.array(-1, np.int64)}), Op("Sub", {"one": _numbers(1)})
    most = Op("Div", {"counts": counts}), Op("ReduceMax", {"axes": _whole(-1)})
    return (sort, *sums, *most, Op("Sub", reads=(-6, -1)), Op("Relu"))


# What ONNX lacks at this opset, from the arguments of core/activations.py.
_COMPOSED: dict[str, Callable[..., Ops]] = {
    "relu": _relu,
    "gelu_tanh": lambda: (Op("Gelu", {}, {"approximate": "tanh"}),),
    "silu": lambda: (Op("Sigmoid"), Op("Mul", reads=(-2, -1))),
    "relu6": lambda: (_clip(0, 6),),
    "softplus": _softplus,
    "squareplus": lambda b: (
        Op("Mul", reads=(-1, -1)), Op("Add", {"b": _numbers(b)}), Op("Sqrt"),
        Op("Add", reads=(-4, -1)), Op("Mul", {"half": _numbers(0.5)}),
    ),
    "sparse_plus": lambda: (
        _clip(-1, 1), Op("Add", {"one": _numbers(1)}),
        Op("Mul", reads=(-1, -1)), Op("Mul", {"part": _numbers(0.25)}),
        Op("Sub", {"one": _numbers(1)}, reads=(-5,)), Op("Relu"), Op("Add", reads=(-3, -1)),
    ),
    "hard_tanh": lambda min_val, max_val: (_clip(min_val, max_val),),
    "tanh_shrink": lambda: (Op("Tanh"), Op("Sub", reads=(-2, -1))),
    "threshold": lambda threshold, value: (
        Op("Greater", {"threshold": _numbers(threshold)}),
        Op("Where", {"value": _numbers(value)}, reads=(-1, -2)),
    ),
    "log_sigmoid": lambda: (Op("Neg"), Op("Softplus"), Op("Neg")),
    "sparse_sigmoid": lambda: (
        _clip(-1, 1), Op("Add", {"one": _numbers(1)}), Op("Mul", {"half": _numbers(0.5)}),
    ),
    "softmin": lambda: (Op("Neg"), Op("Softmax", {}, {"axis": 1})),
}  # fmt: skip


def _activation(name: str, shape: Shape) -> Ops:
    """The operators of an activation on a value of `shape`."""
    given = activation(name)
    if given.name == "linear":
        return ()
    if given.name == "sparsemax":
        return (*_turn_last(len(shape)), *_sparsemax(shape[-1]), *_turn_first(len(shape)))
    if given.name in _COMPOSED:
        return _COMPOSED[given.name](**given.arguments)
    return (Op(given.row.onnx, {}, given.onnx_attributes),)


# --- convolutions ---------------------------------------------------------------------------


def _sides(pads: Pads) -> Pads:
    """(top, bottom, left, right) as ONNX's: all beginnings, then all ends."""
    top, bottom, left, right = pads
    return top, left, bottom, right


def _moves(window: Window) -> dict[str, Any]:
    """Attributes of Conv and of pooling."""
    return {"kernel_shape": window.kernel, "strides": window.strides, "pads": _sides(window.pads)}


def _convolved(
    layer: L.Layer, shape: Shape, weights: Kernels, key: str, outputs: int, groups: int
) -> Op:
    window = window_of(layer, shape)
    turned = channels_first(layer, weights[key], (outputs, shape[2] // groups, *window.kernel), key)
    bias = {"bias": weights["bias"]} if "bias" in weights else {}
    attributes = {**_moves(window), "dilations": window.dilation, "group": groups}
    return Op("Conv", {key: turned, **bias}, attributes)


def _conv(layer: L.Conv2D, shape: Shape, weights: Kernels) -> Ops:
    made = _convolved(layer, shape, weights, "kernel", layer.filters, layer.groups)
    return (made, *_activation(layer.activation, (1, 1, layer.filters)))


def _depthwise(layer: L.DepthwiseConv2D, shape: Shape, weights: Kernels) -> Ops:
    outputs = shape[2] * layer.depth_multiplier
    made = _convolved(layer, shape, weights, "kernel", outputs, shape[2])
    return (made, *_activation(layer.activation, (1, 1, outputs)))


def _separable(layer: L.SeparableConv2D, shape: Shape, weights: Kernels) -> Ops:
    between, key = shape[2] * layer.depth_multiplier, "pointwise_kernel"
    depthwise = {"depthwise_kernel": weights["depthwise_kernel"]}
    first = _convolved(layer, shape, depthwise, "depthwise_kernel", between, shape[2])
    turned = channels_first(layer, weights[key], (layer.filters, between, 1, 1), key)
    bias = {"bias": weights["bias"]} if "bias" in weights else {}
    after = _activation(layer.activation, (1, 1, layer.filters))
    return (first, Op("Conv", {key: turned, **bias}, {"kernel_shape": (1, 1)}), *after)


def _transposed(layer: L.Conv2DTranspose, shape: Shape, weights: Kernels) -> Ops:
    top, bottom, left, right = transposed_crops(layer)
    sides = (shape[2], layer.filters // layer.groups, *layer.kernel_size)
    turned = channels_first(layer, weights["kernel"], sides)
    attributes = {
        "kernel_shape": layer.kernel_size,
        "strides": layer.strides,
        "dilations": layer.dilation_rate,
        "group": layer.groups,
        "pads": _sides((top, max(bottom, 0), left, max(right, 0))),
    }
    after = _activation(layer.activation, (1, 1, layer.filters))
    # Rows that no input writes, and the bias there: ONNX Runtime's output_padding is limited, a Pad
    # is not.
    extra = max(-bottom, 0), max(-right, 0)
    if not any(extra):
        return (Op("ConvTranspose", {**weights, "kernel": turned}, attributes), *after)
    made = Op("ConvTranspose", {"kernel": turned}, attributes)
    bias = (Op("Add", {"bias": _first(weights["bias"], 3)}),) if "bias" in weights else ()
    return (made, _pad((0, extra[0], 0, extra[1])), *bias, *after)


def _dense(layer: L.Dense, shape: Shape, weights: Kernels) -> Ops:
    after = _activation(layer.activation, (*shape[:-1], layer.units))
    if len(shape) == 1:
        return (Op("Gemm", weights), *after)
    # Keras applies Dense at every position of a map, which is a 1x1 convolution.
    sides = (layer.units, shape[-1], *(1 for _ in shape[:-1]))
    kernel = channels_first(layer, weights["kernel"], sides)
    return (Op("Conv", {**weights, "kernel": kernel}), *after)


# --- pooling --------------------------------------------------------------------------------


def _max_pool(layer: L.MaxPooling2D, shape: Shape, weights: Kernels) -> Ops:
    return (_pool("MaxPool", layer, window_of(layer, shape)),)


def _average_pool(layer: L.AveragePooling2D, shape: Shape, weights: Kernels) -> Ops:
    window = window_of(layer, shape)
    if not layer.count_include_pad:  # which is ONNX's default
        return (_pool("AveragePool", layer, window),)
    counted = pads_of(layer.padding, shape, layer.pool_size, layer.strides)
    if counted == window.pads:
        return (_pool("AveragePool", layer, window, count_include_pad=1),)
    # What ceil_mode adds does not count, so the padding that does comes first.
    top, bottom, left, right = (pad - part for pad, part in zip(window.pads, counted, strict=True))
    inside = Window(window.kernel, window.strides, window.dilation, (top, bottom, left, right))
    return _pad(counted), _pool("AveragePool", layer, inside)


def _pool(kind: str, layer: L.Layer, window: Window, **more: int) -> Op:
    (rows, columns), (top, bottom, left, right) = window.kernel, window.pads
    if max(top, bottom) >= rows or max(left, right) >= columns:
        what = f"padding {window.pads} makes windows of {window.kernel} that hold only padding"
        raise Unsupported("onnx", layer.name, what, "padding smaller than the pool")
    return Op(kind, {}, {**_moves(window), **more})


def _global(kind: str) -> Callable[[Any, Shape, Kernels], Ops]:
    row = Op("Flatten", {}, {"axis": 1})
    return lambda layer, shape, weights: (Op(kind),) if layer.keepdims else (Op(kind), row)


def _adaptive_windows(
    layer: L.AdaptiveAveragePooling2D | L.AdaptiveMaxPooling2D, shape: Shape
) -> list[list[range]]:
    """The rows, and the columns, that each output reads."""
    moves = GEOMETRY[type(layer)].moves(layer, shape, (*layer.output_size, shape[2]))
    assert moves is not None
    reads = (
        [steps.reads(i) for i in range(n)]
        for steps, n in zip(moves, layer.output_size, strict=True)
    )
    return [[range(each[0], each[-1] + 1) for each in axis] for axis in reads]


def _regular(windows: Sequence[range]) -> tuple[int, int] | None:
    """(size, step) of windows that move evenly."""
    sizes = {len(window) for window in windows}
    steps = {after[0] - before[0] for before, after in zip(windows, windows[1:], strict=False)}
    steps = steps or {1}
    return (sizes.pop(), steps.pop()) if len(sizes) == len(steps) == 1 and 0 not in steps else None


def _adaptive(
    layer: L.AdaptiveAveragePooling2D | L.AdaptiveMaxPooling2D, shape: Shape, weights: Kernels
) -> Ops:
    """One pool where the windows move evenly; else one axis after the other."""
    windows = _adaptive_windows(layer, shape)
    mean = isinstance(layer, L.AdaptiveAveragePooling2D)
    rows, columns = (_regular(each) for each in windows)
    if rows and columns:
        even = Window((rows[0], columns[0]), (rows[1], columns[1]), (1, 1), (0, 0, 0, 0))
        return (Op("AveragePool" if mean else "MaxPool", {}, _moves(even)),)
    if mean:
        swap = Op("Transpose", {}, {"perm": (0, 1, 3, 2)})
        shares = [
            np.array([[(i in w) / len(w) for w in each] for i in range(n)], np.float32)
            for each, n in zip(windows, shape, strict=False)
        ]
        return Op("MatMul", {"columns": shares[1]}), swap, Op("MatMul", {"rows": shares[0]}), swap
    return (*_largest(windows[0], 2), *_largest(windows[1], 3))


def _largest(windows: Sequence[range], axis: int) -> Ops:
    """The largest number of each window; short ones read their last place again."""
    longest = max(len(window) for window in windows)
    places = [[window[min(i, len(window) - 1)] for i in range(longest)] for window in windows]
    gather = Op("Gather", {"places": np.array(places, np.int64)}, {"axis": axis})
    return gather, Op("ReduceMax", {"axes": _whole(axis + 1)}, {"keepdims": 0})


# --- normalisation --------------------------------------------------------------------------


def _batch_norm(layer: L.BatchNormalization, shape: Shape, weights: Kernels) -> Ops:
    ones, zeros = np.ones(shape[-1], np.float32), np.zeros(shape[-1], np.float32)
    constants = {"gamma": ones, "beta": zeros, **weights}
    return (Op("BatchNormalization", constants, {"epsilon": layer.epsilon}),)


def _group_norm(layer: L.GroupNormalization, shape: Shape, weights: Kernels) -> Ops:
    """GroupNormalization means another thing from opset 21 on; this does not."""
    grouped = Op("Reshape", {"groups": _whole(0, layer.groups, -1)})
    ones, zeros = np.ones(layer.groups, np.float32), np.zeros(layer.groups, np.float32)
    norm = Op("InstanceNormalization", {"ones": ones, "zeros": zeros}, {"epsilon": layer.epsilon})
    back = Op("Reshape", {"shape": _whole(-1, shape[-1], *shape[:-1])})
    return (grouped, norm, back, *_learnt(weights, len(shape)))


def _learnt(weights: Kernels, rank: int) -> Ops:
    kinds = {"gamma": "Mul", "beta": "Add"}
    return tuple(Op(kinds[key], {key: _first(value, rank)}) for key, value in weights.items())


def _layer_norm(layer: L.LayerNormalization, shape: Shape, weights: Kernels) -> Ops:
    rank, sides = len(shape), normalized_sides(layer, shape)
    axes = sorted(axis if axis > 0 else rank + 1 + axis for axis in layer.axis)
    if axes == list(range(rank + 1 - len(axes), rank + 1)):
        constants = {"gamma": np.ones(sides, np.float32), **weights}
        attributes = {"axis": axes[0], "epsilon": layer.epsilon}
        norm = Op("LayerNormalization", constants, attributes)
        return (*_turn_last(rank), norm, *_turn_first(rank))
    kept = [n if axis in axes else 1 for axis, n in enumerate(shape, 1)]
    spread = {key: value.reshape(kept) for key, value in weights.items()}
    mean = {"axes": _whole(*(axis + 1 if axis < rank else 1 for axis in axes))}
    centred = Op("ReduceMean", mean), Op("Sub", reads=(-2, -1))
    variance = Op("Mul", reads=(-1, -1)), Op("ReduceMean", mean)
    deviation = Op("Add", {"epsilon": _numbers(layer.epsilon)}), Op("Sqrt")
    normed = (*centred, *variance, *deviation, Op("Div", reads=(-5, -1)))
    return (*normed, *_learnt(spread, rank))


def _prelu(layer: L.PReLU, shape: Shape, weights: Kernels) -> Ops:
    return (Op("PRelu", {"alpha": _first(weights["alpha"], len(shape))}),)


def _glu(layer: L.GLU, shape: Shape, weights: Kernels) -> Ops:
    half, whole, axis = _whole(shape[-1] // 2), _whole(shape[-1]), _whole(1)
    first = Op("Slice", {"starts": _whole(0), "ends": half, "axes": axis})
    second = Op("Slice", {"starts": half, "ends": whole, "axes": axis}, reads=(-2,))
    return first, second, Op("Sigmoid"), Op("Mul", reads=(-3, -1))


def _per_channel(numbers: Sequence[float], shape: Shape) -> Tensor:
    return np.array(numbers, np.float32).reshape(-1, *(1 for _ in shape[:-1]))


def _rescaling(layer: L.Rescaling, shape: Shape, weights: Kernels) -> Ops:
    scale, offset = (_per_channel(numbers, shape) for numbers in (layer.scale, layer.offset))
    return Op("Mul", {"scale": scale}), Op("Add", {"offset": offset})


def _normalization(layer: L.Normalization, shape: Shape, weights: Kernels) -> Ops:
    mean, variance = (_per_channel(numbers, shape) for numbers in (layer.mean, layer.variance))
    deviation = np.maximum(np.sqrt(variance), np.float32(1e-7))  # as Keras
    return Op("Sub", {"mean": mean}), Op("Div", {"deviation": deviation})


# --- shapes ---------------------------------------------------------------------------------


def _flatten(layer: L.Flatten, shape: Shape, weights: Kernels) -> Ops:
    return (*_turn_last(len(shape)), Op("Flatten", {}, {"axis": 1}))


def _reshape(layer: L.Reshape, shape: Shape, weights: Kernels) -> Ops:
    target = GEOMETRY[L.Reshape].shape(layer, [shape])
    made = Op("Reshape", {"shape": _whole(-1, *target)})
    return (*_turn_last(len(shape)), made, *_turn_first(len(target)))


def _pad(pads: Pads) -> Op:
    top, left, bottom, right = _sides(pads)
    return Op("Pad", {"pads": _whole(0, 0, top, left, 0, 0, bottom, right)})


def _cropping(layer: L.Cropping2D, shape: Shape, weights: Kernels) -> Ops:
    top, bottom, left, right = layer.cropping
    ends = _whole(shape[0] - bottom, shape[1] - right)
    return (Op("Slice", {"starts": _whole(top, left), "ends": ends, "axes": _whole(2, 3)}),)


# Left and right of a map change places: from the last column, backwards, to before the first
_COLUMNS = {"starts": -1, "ends": -(2**31), "axes": 3, "steps": -1}
MIRRORED = (Op("Slice", {key: _whole(n) for key, n in _COLUMNS.items()}),)

_WAY = "coordinate_transformation_mode"
_RESIZE: dict[str, dict[str, Any]] = {
    "nearest": {"mode": "nearest", _WAY: "asymmetric", "nearest_mode": "floor"},
    "bilinear": {"mode": "linear", _WAY: "half_pixel"},
}


def _upsampling(layer: L.UpSampling2D, shape: Shape, weights: Kernels) -> Ops:
    if layer.interpolation not in _RESIZE:
        what = f"{layer.interpolation} interpolation has another kernel in each framework"
        raise Unsupported("onnx", layer.name, what, "bilinear")
    sizes = {"region": np.zeros(0, np.float32), "scales": _numbers(1, 1, *layer.size)}
    return (Op("Resize", sizes, _RESIZE[layer.interpolation]),)


def _product(layer: L.Multiply, shape: Shape, weights: Kernels) -> Ops:
    """Mul takes two."""
    more = (Op("Mul", reads=(-1, -3 - 2 * i)) for i in range(1, len(layer.inputs) - 1))
    return (Op("Mul", reads=(-2, -3)), *more)


def _nothing(layer: L.Layer, shape: Shape, weights: Kernels) -> Ops:
    return ()


def _one(kind: str, **attributes: Any) -> Callable[[Any, Shape, Kernels], Ops]:
    return lambda layer, shape, weights: (Op(kind, {}, attributes),)


LOWER: dict[type[L.Layer], Callable[[Any, Shape, Kernels], Ops]] = {
    L.Conv2D: _conv,
    L.DepthwiseConv2D: _depthwise,
    L.SeparableConv2D: _separable,
    L.Conv2DTranspose: _transposed,
    L.MaxPooling2D: _max_pool,
    L.AveragePooling2D: _average_pool,
    L.GlobalAveragePooling2D: _global("GlobalAveragePool"),
    L.GlobalMaxPooling2D: _global("GlobalMaxPool"),
    L.AdaptiveAveragePooling2D: _adaptive,
    L.AdaptiveMaxPooling2D: _adaptive,
    L.BatchNormalization: _batch_norm,
    L.GroupNormalization: _group_norm,
    L.LayerNormalization: _layer_norm,
    L.Activation: lambda layer, shape, weights: _activation(layer.activation, shape),
    L.PReLU: _prelu,
    L.GLU: _glu,
    L.LayerScale: lambda layer, shape, weights: _learnt(weights, len(shape)),
    L.Dropout: _nothing,
    L.SpatialDropout2D: _nothing,
    L.AlphaDropout: _nothing,
    L.GaussianDropout: _nothing,
    L.GaussianNoise: _nothing,
    L.StochasticDepth: _nothing,
    L.Flatten: _flatten,
    L.Reshape: _reshape,
    L.Dense: _dense,
    L.Add: _one("Sum"),
    L.Subtract: _one("Sub"),
    L.Multiply: _product,
    L.Average: _one("Mean"),
    L.Maximum: _one("Max"),
    L.Minimum: _one("Min"),
    L.Concatenate: _one("Concat", axis=1),
    L.ZeroPadding2D: lambda layer, shape, weights: (_pad(layer.padding),),
    L.Cropping2D: _cropping,
    L.UpSampling2D: _upsampling,
    L.Rescaling: _rescaling,
    L.Normalization: _normalization,
}
