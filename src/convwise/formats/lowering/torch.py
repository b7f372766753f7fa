"""What every layer is in PyTorch: classes of torch.nn, or where it lacks one of our own.

These are in formats/torch/modules.py. Maps are (n, channels, height, width) there, all other shapes
stay in their order. PyTorch itself is not loaded.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from convwise.core import layers as L
from convwise.core.activations import activation
from convwise.core.geometry import GEOMETRY, normalized_sides, prelu_shape, window_of
from convwise.core.layer_windows import transposed_crops
from convwise.core.parameters import Pads
from convwise.core.problems import Unsupported
from convwise.core.windows import NO_PADS, Shape, Window, pads_of, symmetric
from convwise.formats.lowering.calls import Call, consumed, one, short

Calls = tuple[Call, ...]
Convolution = L.Conv2D | L.DepthwiseConv2D | L.SeparableConv2D
Pool = L.MaxPooling2D | L.AveragePooling2D
# The calls that hold weights: a layer that shares another's must make the same ones.
STATEFUL = frozenset((
    "Conv2d", "ConvTranspose2d", "Linear", "BatchNorm1d", "BatchNorm2d", "GroupNorm", "LayerNorm",
    "OrderedLayerNorm", "PReLU", "PlacedPReLU", "Scale", "Shift",
))  # fmt: skip
# The classes of our own, by their names in formats/torch/modules.py.
OWN = frozenset((
    "FlattenLast", "Rescaling", "ChannelRescaling", "Normalization", "Scale", "Shift",
    "OrderedLayerNorm", "AveragePool", "PlacedPReLU", "GeneralReLU", "Exponential", "Squareplus",
    "SparsePlus", "SparseSigmoid", "Sparsemax", "GaussianDropout", "GaussianNoise",
    "StochasticDepth", "Reshape", "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum",
    "Concatenate",
))  # fmt: skip
# Keyword arguments that need not be written: PyTorch's defaults, and our own classes'.
_CONVOLVED = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "bias": True}
_POOLED = {"stride": None, "padding": 0, "ceil_mode": False}
_BATCH_NORM = {"eps": 1e-5, "momentum": 0.1, "affine": True}
DEFAULTS: dict[str, Mapping[str, Any]] = {
    "Conv2d": _CONVOLVED,
    "ConvTranspose2d": {**_CONVOLVED, "output_padding": 0},
    "Linear": {"bias": True},
    "MaxPool2d": _POOLED,
    "AvgPool2d": {**_POOLED, "count_include_pad": True},
    "BatchNorm1d": _BATCH_NORM,
    "BatchNorm2d": _BATCH_NORM,
    "GroupNorm": {"eps": 1e-5, "affine": True},
    "LayerNorm": {"eps": 1e-5, "elementwise_affine": True},
    "OrderedLayerNorm": {"order": (0, 2, 3, 1), "eps": 1e-5, "scale": True, "center": True},
    "PReLU": {"num_parameters": 1},
    "Rescaling": {"offset": 0.0},
    "Upsample": {"scale_factor": None, "mode": "nearest"},
}


def lower(layer: L.Layer, shapes: Sequence[Shape]) -> Calls:
    """The classes of torch.nn, or of our own, that do what the layer does on maps of `shapes`."""
    rule = LOWER.get(type(layer))
    if rule is None:
        what = f"{layer.op} cannot be expressed in PyTorch"
        known = ", ".join(kind.__name__ for kind in LOWER)
        raise Unsupported("torch", layer.name, what, f"one of {known}")
    with consumed("torch", layer, "shape", "values", "training"):
        return rule(layer, shapes[0])


def _call(kind: str, *args: Any, **kwargs: Any) -> Call:
    return short(kind, args, kwargs, DEFAULTS[kind])


def _as_keras(layer: L.Layer, shape: Shape) -> None:
    """Unsupported unless the channels are next to the batch, as in a map and in a row."""
    if len(shape) not in (1, 3):
        what = f"{layer.op} on a shape of {len(shape)} sides reads different channels in PyTorch"
        raise Unsupported("torch", layer.name, what, "a map (height, width, channels) or a row")


# --- activations ----------------------------------------------------------------------------


def _activation(name: str, shape: Shape) -> Calls:
    """The call in the row of core/activations.py: 'LeakyReLU(negative_slope=0.2)'."""
    found = activation(name)
    if found.name == "linear":
        return ()
    if found.name == "relu" and found.changed:
        return (Call("GeneralReLU", (), found.changed),)
    # 1e999 is how Python's literals say infinity.
    tree = ast.parse(re.sub(r"\binf\b", "1e999", found.torch), mode="eval").body
    assert isinstance(tree, ast.Call)
    assert isinstance(tree.func, ast.Name)
    words = {str(word.arg): ast.literal_eval(word.value) for word in tree.keywords}
    if not found.row.elementwise and len(shape) not in (1, 3):
        words["dim"] = -1
    return (Call(tree.func.id, (), words),)


def _prelu(layer: L.PReLU, shape: Shape) -> Calls:
    alphas = prelu_shape(layer, shape)
    if len(shape) in (1, 3) and alphas[:-1] in ((), (1, 1)):
        return (_call("PReLU", num_parameters=alphas[-1]),)
    return (Call("PlacedPReLU", alphas[2:] + alphas[:2] if len(alphas) == 3 else alphas),)


# --- convolutions ---------------------------------------------------------------------------


def _conv(layer: L.Conv2D, shape: Shape) -> Calls:
    size, common = one(layer.kernel_size), _common(layer)
    made = _call("Conv2d", shape[2], layer.filters, size, groups=layer.groups, **common)
    return _padded_conv(layer, shape, made)


def _depthwise(layer: L.DepthwiseConv2D, shape: Shape) -> Calls:
    outputs, size = shape[2] * layer.depth_multiplier, one(layer.kernel_size)
    made = _call("Conv2d", shape[2], outputs, size, groups=shape[2], **_common(layer))
    return _padded_conv(layer, shape, made)


def _separable(layer: L.SeparableConv2D, shape: Shape) -> Calls:
    channels, size = shape[2] * layer.depth_multiplier, one(layer.kernel_size)
    common = {**_common(layer), "bias": False}
    depthwise = _call("Conv2d", shape[2], channels, size, groups=shape[2], **common)
    pointwise = _call("Conv2d", channels, layer.filters, 1, bias=layer.use_bias)
    return *_padded(layer, shape, depthwise), pointwise, *_activation(layer.activation, shape)


def _common(layer: Convolution) -> dict[str, Any]:
    stride, dilation = one(layer.strides), one(layer.dilation_rate)
    return {"stride": stride, "dilation": dilation, "bias": layer.use_bias}


def _padded_conv(layer: L.Conv2D | L.DepthwiseConv2D, shape: Shape, made: Call) -> Calls:
    return *_padded(layer, shape, made), *_activation(layer.activation, shape)


def _padded(layer: Convolution, shape: Shape, made: Call) -> Calls:
    """The convolution with its padding: its own where it is symmetric, else in front of it."""
    window = window_of(layer, shape)
    native = symmetric(window, shape)
    if native is None:
        return _pad("ZeroPad2d", window.pads), made
    # In the order of nn.Conv2d: stride before padding
    stride = {key: value for key, value in made.kwargs.items() if key == "stride"}
    padding = {"padding": one(native)} if any(native) else {}
    return (Call(made.kind, made.args, {**stride, **padding, **made.kwargs}),)


def _transposed(layer: L.Conv2DTranspose, shape: Shape) -> Calls:
    """PyTorch takes `padding` from both sides, and adds `output_padding` after.

    A negative pad takes what is left.
    """
    top, bottom, left, right = transposed_crops(layer)
    rows = _taken(layer, top, bottom, max(layer.strides[0], layer.dilation_rate[0]))
    columns = _taken(layer, left, right, max(layer.strides[1], layer.dilation_rate[1]))
    made = _call(
        "ConvTranspose2d",
        shape[2],
        layer.filters,
        one(layer.kernel_size),
        stride=one(layer.strides),
        padding=one((rows[0], columns[0])),
        output_padding=one((rows[1], columns[1])),
        groups=layer.groups,
        bias=layer.use_bias,
        dilation=one(layer.dilation_rate),
    )
    cut = -rows[2], -rows[3], -columns[2], -columns[3]
    crop = (_pad("ZeroPad2d", cut),) if any(cut) else ()
    return made, *crop, *_activation(layer.activation, shape)


def _taken(layer: L.Conv2DTranspose, before: int, after: int, limit: int) -> Pads:
    """On one axis: padding, output padding (below `limit`), what is cropped before and after."""
    if before <= after:
        return before, 0, 0, after - before
    if before - after < limit:
        return before, before - after, 0, 0
    padding, extra = max(after, 0), max(-after, 0)
    if extra >= limit:
        what = f"PyTorch does not accept an output_padding as large as {layer.output_padding} here"
        raise Unsupported("torch", layer.name, what, "output_padding smaller than the strides")
    return padding, extra, before - padding, 0


def _pad(kind: str, pads: Pads) -> Call:
    """(top, bottom, left, right) as PyTorch's (left, right, top, bottom)."""
    top, bottom, left, right = pads
    sides = top if len(set(pads)) == 1 else (left, right, top, bottom)
    return Call(kind, (sides,), {"value": float("-inf")} if kind == "ConstantPad2d" else {})


# --- pooling --------------------------------------------------------------------------------


def _max_pool(layer: L.MaxPooling2D, shape: Shape) -> Calls:
    native = _native_pool(layer, shape, "MaxPool2d")
    if native is not None:
        return (native,)
    return _pad("ConstantPad2d", window_of(layer, shape).pads), _pool("MaxPool2d", layer)


def _average_pool(layer: L.AveragePooling2D, shape: Shape) -> Calls:
    if layer.count_include_pad:
        return _padded_average(layer, shape)
    native = _native_pool(layer, shape, "AvgPool2d")
    if native is not None:
        return (native,)
    top, bottom, left, right = window_of(layer, shape).pads
    stride = None if layer.strides == layer.pool_size else one(layer.strides)
    return (Call("AveragePool", (one(layer.pool_size), stride, (left, right, top, bottom))),)


def _padded_average(layer: L.AveragePooling2D, shape: Shape) -> Calls:
    """Padding counts as zeros, but what ceil_mode adds to it counts nowhere."""
    window = window_of(layer, shape)
    pads = pads_of(layer.padding, shape, layer.pool_size, layer.strides)
    top, bottom, left, right = pads
    half = 2 * top <= layer.pool_size[0] and 2 * left <= layer.pool_size[1]
    for ceil in (False, True):
        even = (top, left) == (bottom, right) or not ceil and window.pads == pads
        if half and even and symmetric(window, shape, ceil):
            return (_pool("AvgPool2d", layer, padding=one((top, left)), ceil_mode=ceil),)
    around = shape[0] + top + bottom, shape[1] + left + right
    rest = Window(window.kernel, window.strides, (1, 1), _less(window.pads, pads))
    for ceil in (False, True):
        if symmetric(rest, around, ceil) == (0, 0):
            return _pad("ZeroPad2d", pads), _pool("AvgPool2d", layer, ceil_mode=ceil)
    what = f"padding {pads} with ceil_mode cannot be expressed in PyTorch"
    raise Unsupported("torch", layer.name, what, "ceil_mode=False")


def _less(pads: Pads, without: Pads) -> Pads:
    top, bottom, left, right = (pad - known for pad, known in zip(pads, without, strict=True))
    return top, bottom, left, right


def _native_pool(layer: Pool, shape: Shape, kind: str) -> Call | None:
    """PyTorch's own pooling, where its rounding gives our windows.

    What lies outside the map never counts.
    """
    window = window_of(layer, shape)
    (top, bottom, left, right), (rows, columns) = window.pads, window.kernel
    if max(top, bottom) >= rows or max(left, right) >= columns:
        what = f"padding {window.pads} makes windows of {window.kernel} that hold only padding"
        raise Unsupported("torch", layer.name, what, "padding smaller than the pool")
    for ceil in (False, True):
        native = symmetric(window, shape, ceil)
        if native and all(2 * pad <= size for pad, size in zip(native, window.kernel, strict=True)):
            inside = {"count_include_pad": False} if kind == "AvgPool2d" and any(native) else {}
            return _pool(kind, layer, padding=one(native), ceil_mode=ceil, **inside)
    return None


def _pool(kind: str, layer: Pool, **more: Any) -> Call:
    step = {} if layer.strides == layer.pool_size else {"stride": one(layer.strides)}
    return _call(kind, one(layer.pool_size), **step, **more)


def _global(kind: str) -> Callable[[Any, Shape], Calls]:
    def rule(layer: L.GlobalAveragePooling2D | L.GlobalMaxPooling2D, shape: Shape) -> Calls:
        return (Call(kind, (1,)),) if layer.keepdims else (Call(kind, (1,)), Call("Flatten"))

    return rule


# --- normalisation --------------------------------------------------------------------------


def _batch_norm(layer: L.BatchNormalization, shape: Shape) -> Calls:
    _as_keras(layer, shape)
    kind = "BatchNorm2d" if len(shape) == 3 else "BatchNorm1d"
    both = layer.scale and layer.center
    # Keras's momentum is the share that stays, PyTorch's the share that is replaced.
    replaced = round(1 - layer.momentum, 12)
    made = _call(kind, shape[-1], eps=layer.epsilon, momentum=replaced, affine=both)
    return made, *_learnt(layer, both, shape[-1:])


def _group_norm(layer: L.GroupNormalization, shape: Shape) -> Calls:
    _as_keras(layer, shape)
    both = layer.scale and layer.center
    made = _call("GroupNorm", layer.groups, shape[-1], eps=layer.epsilon, affine=both)
    return made, *_learnt(layer, both, shape[-1:])


def _layer_norm(layer: L.LayerNormalization, shape: Shape) -> Calls:
    """The axes stay in our order, and so do the weights."""
    sides: Any = normalized_sides(layer, shape)
    sides, order = sides[0] if len(sides) == 1 else sides, _normalized_last(layer, shape)
    if layer.scale == layer.center and order == tuple(range(len(order))):
        return (_call("LayerNorm", sides, eps=layer.epsilon, elementwise_affine=layer.scale),)
    learnt = {"scale": layer.scale, "center": layer.center}
    return (_call("OrderedLayerNorm", sides, order=order, eps=layer.epsilon, **learnt),)


def _normalized_last(layer: L.LayerNormalization, shape: Shape) -> tuple[int, ...]:
    """PyTorch's axes, those that are normalised over last and in our order."""
    ours = {1: 2, 2: 3, 3: 1} if len(shape) == 3 else {}
    axes = sorted(axis % (len(shape) + 1) for axis in layer.axis)
    places = [ours.get(axis, axis) for axis in axes]
    return *(axis for axis in range(len(shape) + 1) if axis not in places), *places


def _learnt(layer: L.BatchNormalization | L.GroupNormalization, both: bool, shape: Shape) -> Calls:
    """The one of scale and shift that is learnt, where PyTorch has both or none."""
    if both:
        return ()
    halves = (("Scale", layer.scale), ("Shift", layer.center))
    return tuple(Call(kind, shape) for kind, present in halves if present)


def _rescaling(layer: L.Rescaling, shape: Shape) -> Calls:
    scale, offset = one(layer.scale), one(layer.offset)
    if isinstance(scale, float) and isinstance(offset, float):
        return (_call("Rescaling", scale, offset=offset),)
    return (Call("ChannelRescaling", (list(layer.scale), list(layer.offset))),)


# --- shapes ---------------------------------------------------------------------------------


def _flatten(layer: L.Layer, shape: Shape) -> Calls:
    return (Call("FlattenLast" if _ordered_channels(shape) else "Flatten"),)


def _ordered_channels(shape: Shape) -> bool:
    """Whether a map has its numbers in another order where the channels come first."""
    return len(shape) == 3 and shape[2] > 1 and shape[0] * shape[1] > 1


def _reshape(layer: L.Reshape, shape: Shape) -> Calls:
    target = GEOMETRY[L.Reshape].shape(layer, [shape])
    if target == shape:
        return (Call("Identity"),)
    if len(target) == 1:
        return _flatten(layer, shape)
    if len(shape) == 1 and len(target) == 3 and not _ordered_channels(target):
        return (Call("Unflatten", (1, (target[2], *target[:2]))),)
    return (Call("Reshape", target),)


def _dense(layer: L.Dense, shape: Shape) -> Calls:
    after = _activation(layer.activation, shape)
    # Keras applies Dense at every position of a map, which is a 1x1 convolution.
    if len(shape) == 3:
        return (_call("Conv2d", shape[2], layer.units, 1, bias=layer.use_bias), *after)
    return (_call("Linear", shape[-1], layer.units, bias=layer.use_bias), *after)


def _concatenate(layer: L.Concatenate, shape: Shape) -> Calls:
    _as_keras(layer, shape)
    return (Call("Concatenate"),)


def _up_sampling(layer: L.UpSampling2D, shape: Shape) -> Calls:
    if layer.interpolation == "bicubic":
        what = "bicubic weighs neighbours differently in PyTorch than in Keras"
        raise Unsupported("torch", layer.name, what, "interpolation='bilinear'")
    return (_call("Upsample", scale_factor=one(layer.size), mode=layer.interpolation),)


def _plain(kind: str) -> Callable[[Any, Shape], Calls]:
    return lambda layer, shape: (Call(kind),)


def _dropping(kind: str) -> Callable[[Any, Shape], Calls]:
    return lambda layer, shape: (Call(kind, (layer.rate,)),)


LOWER: dict[type[L.Layer], Callable[[Any, Shape], Calls]] = {
    L.Conv2D: _conv,
    L.DepthwiseConv2D: _depthwise,
    L.SeparableConv2D: _separable,
    L.Conv2DTranspose: _transposed,
    L.MaxPooling2D: _max_pool,
    L.AveragePooling2D: _average_pool,
    L.GlobalAveragePooling2D: _global("AdaptiveAvgPool2d"),
    L.GlobalMaxPooling2D: _global("AdaptiveMaxPool2d"),
    L.AdaptiveAveragePooling2D: lambda layer, shape: (
        Call("AdaptiveAvgPool2d", (one(layer.output_size),)),
    ),
    L.AdaptiveMaxPooling2D: lambda layer, shape: (
        Call("AdaptiveMaxPool2d", (one(layer.output_size),)),
    ),
    L.BatchNormalization: _batch_norm,
    L.GroupNormalization: _group_norm,
    L.LayerNormalization: _layer_norm,
    L.Activation: lambda layer, shape: _activation(layer.activation, shape) or (Call("Identity"),),
    L.PReLU: _prelu,
    L.GLU: lambda layer, shape: (Call("GLU", (), {"dim": 1} if len(shape) == 3 else {}),),
    L.LayerScale: lambda layer, shape: (Call("Scale", shape[-1:]),),
    L.Dropout: _dropping("Dropout"),
    L.SpatialDropout2D: _dropping("Dropout2d"),
    L.AlphaDropout: _dropping("AlphaDropout"),
    L.GaussianDropout: _dropping("GaussianDropout"),
    L.GaussianNoise: lambda layer, shape: (Call("GaussianNoise", (layer.stddev,)),),
    L.StochasticDepth: _dropping("StochasticDepth"),
    L.Flatten: _flatten,
    L.Reshape: _reshape,
    L.Dense: _dense,
    L.Add: _plain("Add"),
    L.Subtract: _plain("Subtract"),
    L.Multiply: _plain("Multiply"),
    L.Average: _plain("Average"),
    L.Maximum: _plain("Maximum"),
    L.Minimum: _plain("Minimum"),
    L.Concatenate: _concatenate,
    L.ZeroPadding2D: lambda layer, shape: (_pad("ZeroPad2d", window_of(layer, shape).pads),),
    L.Cropping2D: lambda layer, shape: (_pad("ZeroPad2d", _less(NO_PADS, layer.cropping)),),
    L.UpSampling2D: _up_sampling,
    L.Rescaling: _rescaling,
    L.Normalization: lambda layer, shape: (
        Call("Normalization", (list(layer.mean), list(layer.variance))),
    ),
}
