"""ONNX's operators as layers: one rule each, which gives None where the operator is none of our layers.

Tensors keep their axes; what a rule knows of them is a Value, so that a Transpose is no layer but
another order, and cancels where it is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil, floor, prod
from typing import Any

import numpy as np
from onnx import TensorProto

from convwise.core import layers as L
from convwise.core.geometry import layer_weights
from convwise.core.net import MIRROR
from convwise.core.parameters import Pads, Pair
from convwise.core.problems import UnusableInput
from convwise.core.windows import crops, effective, pads_of
from convwise.formats.onnx.context import ROW, Context, Read, Rule, Value, is_grid, on, same, unflattened
from convwise.formats.onnx.graph import FIRST, Graph, Node, Shape, Tensor
from convwise.formats.onnx.patterns import ADAPTIVE
from convwise.formats.onnx.pointwise import POINTWISE
from convwise.formats.weights import channels_last

# --- convolutions and pools -----------------------------------------------------------------


def _sides(node: Node) -> Pads | None:
    """Explicit padding, as ours; None where it is negative."""
    top, left, bottom, right = node.attributes.get("pads", (0, 0, 0, 0))
    return (top, bottom, left, right) if min(top, left, bottom, right) >= 0 else None


def _padding(node: Node, shape: Shape, kernel: Pair, strides: Pair, dilation: Pair = (1, 1)) -> str | Pads | None:
    """'valid' or 'same' where that is what the padding is."""
    given = node.attributes.get("auto_pad", "NOTSET")
    words = {name: pads_of(name, shape, kernel, strides, dilation) for name in ("valid", "same")}
    (top, bottom, left, right), none = words["same"], words["valid"]
    automatic = {"SAME_UPPER": words["same"], "SAME_LOWER": (bottom, top, right, left), "VALID": none}
    pads = automatic[given] if given in automatic else _sides(node)
    return next((name for name, each in words.items() if each == pads), pads)


def _pair(node: Node, name: str) -> Pair:
    rows, columns = node.attributes.get(name, (1, 1))
    return rows, columns


def _fitting(context: Context, node: Node, reads: int, filters: int, groups: int) -> None:
    """UnusableInput where a convolution's kernel is for other channels."""
    given = context.ours(node.inputs[0])[2]
    if reads == given and not filters % groups and not given % groups:
        return
    shape = context.graph.constants[node.inputs[QUANTISED.get(node.kind, 1)]].shape
    what = f"reads {given} channels in {groups} groups; its kernel {shape} is for {reads}, with {filters} filters"
    expected = "a kernel for the channels that it reads, and both divisible by the groups"
    raise UnusableInput(f"operator {node.name} ({node.kind})", what, expected)


def _conv(context: Context, node: Node) -> Read | None:
    return _convolved(context, node, context.constant(node, 1), context.constant(node, 2))


def _convolved(context: Context, node: Node, kernel: Tensor | None, bias: Tensor | None) -> Read | None:
    if not context.first(node.inputs[0]) or kernel is None or kernel.ndim != 4 or len(context.maps(node)) > 1:
        return None
    given, groups = context.ours(node.inputs[0]), node.attributes.get("group", 1)
    size, strides, dilation = kernel.shape[2:], _pair(node, "strides"), _pair(node, "dilations")
    padding = _padding(node, given, size, strides, dilation)
    if padding is None:
        return None
    common: dict[str, Any] = {"kernel_size": size, "strides": strides, "padding": padding, "dilation_rate": dilation,
                              "use_bias": bias is not None}  # fmt: skip
    _fitting(context, node, kernel.shape[1] * groups, kernel.shape[0], groups)
    layer: L.Conv2D | L.DepthwiseConv2D = L.Conv2D(kernel.shape[0], groups=groups, **common)
    if groups == given[2] > 1:
        layer = L.DepthwiseConv2D(depth_multiplier=kernel.shape[0] // groups, **common)
    return on(
        context, node, layer, kernel=channels_last(layer, kernel, layer_weights(layer, given)["kernel"]), bias=bias
    )


# Operators on whole numbers: which input is the kernel.
QUANTISED = {"ConvInteger": 1, "MatMulInteger": 1, "QLinearConv": 3, "QLinearMatMul": 3}


def _quantised(context: Context, node: Node) -> Read | None:
    """A convolution or Dense of whole numbers, each kernel less its zero point; what surrounds it is Opaque."""
    place = QUANTISED[node.kind]
    kernel = context.constant(node, place)
    zero = context.constant(node, 3 if place == 1 else 5)
    if kernel is None or kernel.ndim not in (2, 4):
        return None
    sides = (1,) * (kernel.ndim - 1)  # a zero point for all, for each filter, or for each unit
    shift = 0.0 if zero is None else zero.astype(np.float32).reshape(-1, *(sides if kernel.ndim == 4 else ()))
    turned = kernel.astype(np.float32) - shift
    if node.kind.endswith("Conv") or node.kind == "ConvInteger":
        return _convolved(context, node, turned, context.constant(node, 8))
    return _dense(context, node, turned, None)


def _transposed(context: Context, node: Node) -> Read | None:
    kernel, bias = context.constant(node, 1), context.constant(node, 2)
    if not context.first(node.inputs[0]) or kernel is None or kernel.ndim != 4 or len(context.maps(node)) > 1:
        return None
    given, groups = context.ours(node.inputs[0]), node.attributes.get("group", 1)
    strides, dilation = _pair(node, "strides"), _pair(node, "dilations")
    extra: Pair = tuple(node.attributes.get("output_padding", (0, 0)))
    _fitting(context, node, kernel.shape[0], kernel.shape[1] * groups, groups)
    reach = [effective(k, d) for k, d in zip(kernel.shape[2:], dilation, strict=True)]
    padding = _taken(context, node, reach, strides, extra)
    if padding is None:
        return None
    layer = L.Conv2DTranspose(kernel.shape[1] * groups, kernel.shape[2:], strides, padding, extra, dilation, groups,
                            bias is not None)  # fmt: skip
    turned = channels_last(layer, kernel, layer_weights(layer, given)["kernel"])
    return on(context, node, layer, kernel=turned, bias=bias)


def _taken(context: Context, node: Node, reach: Sequence[int], strides: Pair, extra: Pair) -> str | Pads | None:
    """What a ConvTranspose takes from its full output."""
    pads, way = _sides(node), node.attributes.get("auto_pad", "NOTSET")
    if way in ("SAME_UPPER", "SAME_LOWER") or "output_shape" in node.attributes:
        given, out = context.graph.shapes[node.inputs[0]][2:], context.graph.shapes[node.outputs[0]][2:]
        total = [(n - 1) * s + k + e - o for n, s, k, e, o in zip(given, strides, reach, extra, out, strict=True)]
        halves = [(t // 2, t - t // 2) if way == "SAME_UPPER" else (t - t // 2, t // 2) for t in total]
        pads = (*halves[0], *halves[1]) if min(total) >= 0 else None
    for word in ("valid", "same"):
        (top, bottom), (left, right) = (crops(word, 0, k, s, 0) for k, s in zip(reach, strides, strict=True))
        if pads == (top, bottom, left, right):
            return word
    return pads


def _pool(context: Context, node: Node) -> Read | None:
    dilation = _pair(node, "dilations")
    if not context.first(node.inputs[0]) or dilation != (1, 1):
        return None
    size, strides = _pair(node, "kernel_shape"), _pair(node, "strides")
    padding = _padding(node, context.ours(node.inputs[0]), size, strides)
    if padding is None:
        return None
    automatic = node.attributes.get("auto_pad", "NOTSET") != "NOTSET"
    ceil = bool(node.attributes.get("ceil_mode", 0)) and not automatic
    if node.kind == "MaxPool":
        return on(context, node, L.MaxPooling2D(size, strides, padding, ceil))
    counted = bool(node.attributes.get("count_include_pad", 0)) and padding != "valid"
    return on(context, node, L.AveragePooling2D(size, strides, padding, ceil, counted))


def _global(kind: type[L.GlobalAveragePooling2D | L.GlobalMaxPooling2D]) -> Rule:
    return lambda context, node: on(context, node, kind(True)) if context.first(node.inputs[0]) else None


def _reduced(kind: type[L.GlobalAveragePooling2D | L.GlobalMaxPooling2D]) -> Rule:
    """ReduceMean and ReduceMax over rows and columns."""

    def rule(context: Context, node: Node) -> Read | None:
        value, array = context.values[node.inputs[0]], context.constant(node, 1)
        axes = node.attributes.get("axes", ()) if array is None else array.reshape(-1)
        if len(value.order) != 4 or {value.order[axis] for axis in axes} != {1, 2}:
            return None
        kept = bool(node.attributes.get("keepdims", 1))
        return Read(kind(kept), value if kept else ROW, (node.inputs[0],))

    return rule


def _adaptive(context: Context, node: Node) -> Read | None:
    rows, columns = context.graph.shapes[node.outputs[0]][2:]
    return on(context, node, L.AdaptiveAveragePooling2D((rows, columns))) if context.first(node.inputs[0]) else None


# --- rows -----------------------------------------------------------------------------------


def _dense(context: Context, node: Node, kernel: Tensor, bias: Tensor | None) -> Read | None:
    """kernel (inputs, units)."""
    value = context.values[node.inputs[0]]
    if value.order[-1] != len(value.order) - 1 or kernel.ndim != 2:
        return None
    turned = unflattened(kernel, value.flat) if value.flat else kernel
    full = None if bias is None else np.broadcast_to(bias.reshape(-1), (kernel.shape[1],))
    layer = L.Dense(kernel.shape[1], full is not None)
    weights = {"kernel": turned} if full is None else {"kernel": turned, "bias": full}
    return Read(layer, Value(value.order), (node.inputs[0],), weights)


def _gemm(context: Context, node: Node) -> Read | None:
    kernel, bias = context.constant(node, 1), context.constant(node, 2)
    if kernel is None or len(context.maps(node)) > 1 or node.attributes.get("transA", 0):
        return None
    turned = kernel.T if node.attributes.get("transB", 0) else kernel
    if bias is not None and bias.size not in (1, turned.shape[1]):
        return None
    shift = bias if bias is None else bias * node.attributes.get("beta", 1.0)
    alpha = node.attributes.get("alpha", 1.0)
    return _dense(context, node, turned if alpha == 1 else turned * alpha, shift)


def _matmul(context: Context, node: Node) -> Read | None:
    kernel = context.constant(node, 1)
    return None if kernel is None else _dense(context, node, kernel, None)


def _natural(given: Shape, value: Value) -> bool:
    """Whether the numbers lie in our order: rows, columns, channels."""
    places = [axis for axis in value.order if axis and given[axis - 1] > 1]
    return places == sorted(places) and not value.flat


def _reshaped(context: Context, node: Node) -> Read | None:
    x = node.inputs[0]
    value, given, out = context.values[x], context.ours(x), context.graph.shapes[node.outputs[0]]
    if out == context.graph.shapes[x]:
        return same(context, node)
    if out[0] != context.graph.batch or len(out) < 2:
        return None
    if len(out) == 2 and (value.order == FIRST or _natural(given, value)):
        return Read(L.Flatten(), Value((0, 1), () if _natural(given, value) else given), (x,))
    if value.flat:
        height, width, channels = value.flat
        whole = out[1:] == (channels, height, width)
        return Read(L.Reshape(value.flat), Value(FIRST), (x,)) if whole else None
    if len(given) == 1 and out[2:] == (1, 1):
        return Read(L.Reshape((1, 1, *given)), Value(FIRST), (x,))
    wanted = node.outputs[0] in context.wanted
    if _natural(given, value) and not wanted:
        if given[2:] == (1,) and out[1:] == (1, prod(given)):  # places in a row, each with the number of its channel
            return Read(L.Reshape((prod(given), 1)), Value((0, 2, 1)), (x,))
        return Read(L.Reshape(out[1:]), Value(tuple(range(len(out)))), (x,))
    if _natural(given, value) and out[1:] == (1, *given):  # one channel, ahead of the places
        return Read(L.Reshape((*given, 1)), Value(FIRST), (x,))
    last = len(given)  # our axis of the channels
    if value.order[:2] == (0, last) and _natural(given[:-1], Value(value.order[2:])) and out[1] == given[-1]:
        places = Value((0, len(out) - 1, *range(1, len(out) - 1)))
        return Read(L.Reshape((*out[2:], out[1])), places, (x,)) if len(out) > 2 else None
    return None


def _transpose(context: Context, node: Node) -> Read | None:
    value = context.values[node.inputs[0]]
    order = value.order
    turned = tuple(order[axis] for axis in node.attributes.get("perm", range(len(order))[::-1]))
    return Read(None, Value(turned, value.flat), (node.inputs[0],)) if turned[0] == 0 else None


# --- sizes of maps --------------------------------------------------------------------------


def _per_axis(context: Context, node: Node, places: Sequence[int], parts: Sequence[int]) -> Pair | None:
    """What is said of axes, as (rows, columns); None where the batch or the channels are meant as well."""
    order = context.values[node.inputs[0]].order
    told = {order[place]: part for place, part in zip(places, parts, strict=True) if part}
    return (told.get(1, 0), told.get(2, 0)) if len(order) == 4 and not set(told) - {1, 2} else None


def _pad(context: Context, node: Node) -> Read | None:
    pads, value, rank = context.constant(node, 1), context.constant(node, 2), len(context.graph.shapes[node.inputs[0]])
    zero = node.attributes.get("mode", "constant") == "constant" and (value is None or not np.any(value))
    if pads is None or not zero:
        return None
    given = context.constant(node, 3)
    axes = list(range(rank)) if given is None else [int(axis) % rank for axis in given]
    before, after = (_per_axis(context, node, axes, [int(n) for n in each]) for each in np.split(pads.reshape(-1), 2))
    if before is None or after is None:
        return None
    sides = before[0], after[0], before[1], after[1]
    return _around(context, node, sides)


def _around(context: Context, node: Node, sides: Pads) -> Read | None:
    if not any(sides):
        return same(context, node)
    top, bottom, left, right = sides
    added, cut = (
        (max(sign * top, 0), max(sign * bottom, 0), max(sign * left, 0), max(sign * right, 0)) for sign in (1, -1)
    )
    if not any(added):
        return on(context, node, L.Cropping2D(cut))
    return replace(on(context, node, L.ZeroPadding2D(added)), before=L.Cropping2D(cut) if any(cut) else None)


def _mirrors(context: Context, node: Node) -> bool:
    """Whether left and right of the image change places, which a mirrored view begins with."""
    given = [context.constant(node, place) for place in range(1, 5)]
    if node.inputs[0] != context.graph.image or any(each is None or each.size != 1 for each in given):
        return False
    start, end, axis, step = (int(each.item()) for each in given if each is not None)
    order, size = context.values[node.inputs[0]].order, context.graph.shapes[node.inputs[0]][axis]
    return order[axis] == 2 and step == -1 and (start == -1 or start >= size - 1) and end < -size


def _slice(context: Context, node: Node) -> Read | None:
    shape = context.graph.shapes[node.inputs[0]]
    starts, ends, axes, steps = (context.constant(node, place) for place in range(1, 5))
    if starts is None or ends is None:
        return None
    if _mirrors(context, node):
        return on(context, node, L.Opaque(MIRROR, context.graph.input_shape, 0, 0, 0))
    if steps is not None and np.any(steps < 1):
        return None
    places = list(range(len(starts))) if axes is None else [int(axis) % len(shape) for axis in axes]
    if steps is not None and np.any(steps != 1):
        return _every_other(context, node, places, starts, steps)
    spans = [range(shape[axis])[int(a) : int(b)] for axis, a, b in zip(places, starts, ends, strict=True)]
    before = _per_axis(context, node, places, [-span.start for span in spans])
    after = _per_axis(
        context, node, places, [span.stop - shape[axis] for axis, span in zip(places, spans, strict=True)]
    )
    return (
        None if before is None or after is None else _around(context, node, (before[0], after[0], before[1], after[1]))
    )


def _every_other(context: Context, node: Node, places: Sequence[int], starts: Tensor, steps: Tensor) -> Read | None:
    """Every second row or column and such, as YOLO's Focus takes them: what comes before the first is cropped."""
    first, strides = (_per_axis(context, node, places, [int(n) for n in each]) for each in (starts, steps))
    if not context.first(node.inputs[0]) or first is None or strides is None or min(first) < 0:
        return None
    strides = strides[0] or 1, strides[1] or 1
    output = context.ours(node.outputs[0], context.values[node.inputs[0]])
    taken = L.Opaque(node.kind, output, 0, 0, 0, "window", strides=strides)
    crop = L.Cropping2D((first[0], 0, first[1], 0)) if any(first) else None
    return replace(on(context, node, taken), before=crop)


def _resize(context: Context, node: Node) -> Read | None:
    given, out = (context.graph.shapes[name] for name in (node.inputs[0], node.outputs[0]))
    if any(after % before for before, after in zip(given, out, strict=True)):
        return None
    ratios = [after // before if after != before else 0 for before, after in zip(given, out, strict=True)]
    factors = _per_axis(context, node, range(len(given)), ratios)
    mode = node.attributes.get("mode", "nearest")
    way = node.attributes.get("coordinate_transformation_mode", "half_pixel" if node.kind == "Resize" else "asymmetric")
    if factors is None or node.attributes.get("antialias", 0):
        return None
    size = factors[0] or 1, factors[1] or 1
    if mode == "nearest":
        rounding = node.attributes.get("nearest_mode", "round_prefer_floor" if node.kind == "Resize" else "floor")
        even = all(_repeats(factor, way, rounding) for factor in size)
        return on(context, node, L.UpSampling2D(size)) if even else None
    smooth = {"linear": "bilinear", "cubic": "bicubic"}.get(mode)
    half = way in ("half_pixel", "pytorch_half_pixel")
    return on(context, node, L.UpSampling2D(size, smooth)) if smooth and half else None


_ROUNDED: dict[str, Callable[[float], float]] = {
    "floor": floor,
    "ceil": ceil,
    "round_prefer_ceil": lambda x: floor(x + 0.5),
    "round_prefer_floor": lambda x: ceil(x - 0.5),
}


def _repeats(factor: int, way: str, rounding: str) -> bool:
    """Whether output i reads input i // factor, over two inputs."""
    centre = {"asymmetric": 0.0, "half_pixel": 0.5, "pytorch_half_pixel": 0.5, "tf_half_pixel_for_nn": 0.5}.get(way)
    if centre is None:
        return False
    back = 0.0 if way == "tf_half_pixel_for_nn" else centre
    places = [(i + centre) / factor - back for i in range(2 * factor)]
    rounded: Callable[[float], float] = _ROUNDED[rounding]
    return all(max(rounded(place), 0) == i // factor for i, place in enumerate(places))


# --- types and weights ----------------------------------------------------------------------


def _cast(context: Context, node: Node) -> Read | None:
    """To a float changes nothing; to whole numbers rounds and overflows."""
    return same(context, node) if node.attributes["to"] in _FLOATS else None


_FLOATS = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16


def held_by(node: Node, graph: Graph, weighted: bool) -> tuple[str, ...]:
    """The constants that are weights of an operator that is one of our layers; weighted: whether it has any."""
    places = _WEIGHTS.get(node.kind, range(len(node.inputs)) if weighted else ())
    return tuple(name for place, name in enumerate(node.inputs) if place in places and name in graph.constants)


def weights_of(node: Node, graph: Graph) -> tuple[str, ...] | None:
    """The constants that are weights of an operator that is none of our layers; None where that is not known."""
    held = [name for name in node.inputs if name in graph.constants or name in graph.hidden]
    if node.kind in _WEIGHTS:
        return tuple(name for place, name in enumerate(node.inputs) if place in _WEIGHTS[node.kind] and name in held)
    if node.kind in _SUBGRAPHS:
        return None
    several = [name for name in held if name in graph.hidden or is_learnt(graph.constants[name])]
    if "." in node.kind:
        return None if several else ()
    return tuple(name for name in several if name not in graph.made) if node.kind in _ELEMENTWISE else ()


def is_learnt(array: Tensor) -> bool:
    """Whether a constant may be weights: several numbers of a float type, none infinite as in masks, and no grid."""
    floats = array.size > 1 and array.dtype.kind not in "iubOSU" and bool(np.isfinite(array).all())
    return floats and not is_grid(array)


# Which inputs of an operator are weights, whatever their type.
_WEIGHTS: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "DeformConv": (1, 3), "ConvInteger": (1,), "QLinearConv": (3, 8),
    "com.microsoft.FusedConv": (1, 2),
    "Gemm": (0, 1, 2), "MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3),
    "com.microsoft.FusedMatMul": (0, 1), "com.microsoft.QGemm": (3, 6),
    "RNN": (1, 2, 3), "GRU": (1, 2, 3), "LSTM": (1, 2, 3, 7),
    "BatchNormalization": (1, 2, 3, 4), "InstanceNormalization": (1, 2), "GroupNormalization": (1, 2),
    "LayerNormalization": (1, 2), "RMSNormalization": (1,), "PRelu": (1,), "Gather": (0,),
}  # fmt: skip
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Concat", "Einsum")  # any constant but single numbers; of others, none
_SUBGRAPHS = ("If", "Loop", "Scan", "SequenceMap")

RULES: dict[str, Rule] = {
    "Conv": _conv,
    "ConvTranspose": _transposed,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global(L.GlobalAveragePooling2D),
    "GlobalMaxPool": _global(L.GlobalMaxPooling2D),
    ADAPTIVE: _adaptive,
    "ReduceMean": _reduced(L.GlobalAveragePooling2D),
    "ReduceMax": _reduced(L.GlobalMaxPooling2D),
    **dict.fromkeys(QUANTISED, _quantised),
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Flatten": _reshaped,
    "Reshape": _reshaped,
    "Squeeze": _reshaped,
    "Unsqueeze": _reshaped,
    "Transpose": _transpose,
    **POINTWISE,
    "Pad": _pad,
    "Slice": _slice,
    "Resize": _resize,
    "Upsample": _resize,
    "Identity": same,
    "Dropout": same,
    "Cast": _cast,
}
