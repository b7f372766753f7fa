"""ONNX's operators as layers: a rule for each, which gives None where it is none of our layers.

Tensors keep their axes; what a rule knows of them is a Value, so that a Transpose is no layer but
another order, and cancels where it is undone.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto

from convwise.core import layers as L
from convwise.core.geometry import layer_weights
from convwise.core.parameters import Pads, Pair
from convwise.core.problems import UnusableInput
from convwise.core.windows import crops, effective, pads_of
from convwise.formats.onnx.context import (
    ROW,
    Context,
    Read,
    Rule,
    Value,
    is_grid,
    on,
    same,
    unflattened,
)
from convwise.formats.onnx.graph import FIRST, Graph
from convwise.formats.onnx.nodes import Node, Shape, Tensor
from convwise.formats.onnx.patterns import ADAPTIVE
from convwise.formats.onnx.pointwise import POINTWISE
from convwise.formats.onnx.sizes import SIZES
from convwise.formats.weights import channels_last

# --- convolutions and pools -----------------------------------------------------------------


def _sides(node: Node) -> Pads | None:
    """Explicit padding, as ours; None where it is negative."""
    top, left, bottom, right = node.attributes.get("pads", (0, 0, 0, 0))
    return (top, bottom, left, right) if min(top, left, bottom, right) >= 0 else None


def _padding(
    node: Node, shape: Shape, kernel: Pair, strides: Pair, dilation: Pair = (1, 1)
) -> str | Pads | None:
    """'valid' or 'same' where that is what the padding is."""
    given = node.attributes.get("auto_pad", "NOTSET")
    words = {name: pads_of(name, shape, kernel, strides, dilation) for name in ("valid", "same")}
    (top, bottom, left, right), none = words["same"], words["valid"]
    lower = (bottom, top, right, left)
    automatic = {"SAME_UPPER": words["same"], "SAME_LOWER": lower, "VALID": none}
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
    what = f"reads {given} channels in {groups} groups; "
    what += f"its kernel {shape} is for {reads}, with {filters} filters"
    expected = "a kernel for the channels that it reads, and both divisible by the groups"
    raise UnusableInput(node.where, what, expected)


def _reads_one_map(context: Context, node: Node) -> bool:
    return context.first(node.inputs[0]) and len(context.maps(node)) == 1


def _conv(context: Context, node: Node) -> Read | None:
    return _convolved(context, node, context.constant(node, 1), context.constant(node, 2))


def _convolved(
    context: Context, node: Node, kernel: Tensor | None, bias: Tensor | None
) -> Read | None:
    if not _reads_one_map(context, node) or kernel is None or kernel.ndim != 4:
        return None
    given, groups = context.ours(node.inputs[0]), node.attributes.get("group", 1)
    size, strides, dilation = kernel.shape[2:], _pair(node, "strides"), _pair(node, "dilations")
    padding = _padding(node, given, size, strides, dilation)
    if padding is None:
        return None
    common: dict[str, Any] = {"kernel_size": size, "strides": strides, "padding": padding}
    common |= {"dilation_rate": dilation, "use_bias": bias is not None}
    _fitting(context, node, kernel.shape[1] * groups, kernel.shape[0], groups)
    layer: L.Conv2D | L.DepthwiseConv2D = L.Conv2D(kernel.shape[0], groups=groups, **common)
    if groups == given[2] > 1:
        layer = L.DepthwiseConv2D(depth_multiplier=kernel.shape[0] // groups, **common)
    sides = layer_weights(layer, given)["kernel"]
    return on(context, node, layer, kernel=context.turned_once(layer, kernel, sides), bias=bias)


# Operators on whole numbers: which input is the kernel.
QUANTISED = {"ConvInteger": 1, "MatMulInteger": 1, "QLinearConv": 3, "QLinearMatMul": 3}


def _quantised(context: Context, node: Node) -> Read | None:
    """A convolution or Dense of whole numbers, its kernel less the zero point.

    What surrounds it is Opaque.
    """
    place = QUANTISED[node.kind]
    kernel = context.constant(node, place)
    zero = context.constant(node, 3 if place == 1 else 5)
    if kernel is None or kernel.ndim not in (2, 4):
        return None
    turned = kernel.astype(np.float32)
    if zero is not None:  # one for all, for each filter, or for each unit
        sides = (1, 1, 1) if kernel.ndim == 4 else ()
        turned = turned - zero.astype(np.float32).reshape(-1, *sides)
    if node.kind.endswith("Conv") or node.kind == "ConvInteger":
        return _convolved(context, node, turned, context.constant(node, 8))
    return _dense(context, node, turned, None)


def _transposed(context: Context, node: Node) -> Read | None:
    kernel, bias = context.constant(node, 1), context.constant(node, 2)
    if not _reads_one_map(context, node) or kernel is None or kernel.ndim != 4:
        return None
    given, groups = context.ours(node.inputs[0]), node.attributes.get("group", 1)
    strides, dilation = _pair(node, "strides"), _pair(node, "dilations")
    extra: Pair = tuple(node.attributes.get("output_padding", (0, 0)))
    _fitting(context, node, kernel.shape[0], kernel.shape[1] * groups, groups)
    reach = [effective(k, d) for k, d in zip(kernel.shape[2:], dilation, strict=True)]
    padding = _taken(context, node, reach, strides, extra)
    if padding is None:
        return None
    filters, size = kernel.shape[1] * groups, kernel.shape[2:]
    layer = L.Conv2DTranspose(
        filters, size, strides, padding, extra, dilation, groups, bias is not None
    )
    turned = channels_last(layer, kernel, layer_weights(layer, given)["kernel"])
    return on(context, node, layer, kernel=turned, bias=bias)


def _taken(
    context: Context, node: Node, reach: Sequence[int], strides: Pair, extra: Pair
) -> str | Pads | None:
    """What a ConvTranspose takes from its full output."""
    pads, way = _sides(node), node.attributes.get("auto_pad", "NOTSET")
    if way in ("SAME_UPPER", "SAME_LOWER") or "output_shape" in node.attributes:
        ends = (node.inputs[0], node.outputs[0])
        given, out = (context.graph.shapes[name][2:] for name in ends)
        sides = zip(given, strides, reach, extra, out, strict=True)
        total = [(n - 1) * s + k + e - o for n, s, k, e, o in sides]
        halves = [(t // 2, t - t // 2) for t in total]
        if way != "SAME_UPPER":
            halves = [(large, small) for small, large in halves]
        pads = (*halves[0], *halves[1]) if min(total) >= 0 else None
    for word in ("valid", "same"):
        rows, columns = (crops(word, 0, k, s, 0) for k, s in zip(reach, strides, strict=True))
        if pads == (*rows, *columns):
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
    return lambda context, node: (
        on(context, node, kind(True)) if context.first(node.inputs[0]) else None
    )


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
    layer = L.AdaptiveAveragePooling2D((rows, columns))
    return on(context, node, layer) if context.first(node.inputs[0]) else None


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
        # Places in a row, each with the number of its one channel
        if given[2:] == (1,) and out[1:] == (1, prod(given)):
            return Read(L.Reshape((prod(given), 1)), Value((0, 2, 1)), (x,))
        return Read(L.Reshape(out[1:]), Value(tuple(range(len(out)))), (x,))
    if _natural(given, value) and out[1:] == (1, *given):  # one channel, ahead of the places
        return Read(L.Reshape((*given, 1)), Value(FIRST), (x,))
    last = len(given)  # our axis of the channels
    if (
        value.order[:2] == (0, last)
        and _natural(given[:-1], Value(value.order[2:]))
        and out[1] == given[-1]
    ):
        places = Value((0, len(out) - 1, *range(1, len(out) - 1)))
        return Read(L.Reshape((*out[2:], out[1])), places, (x,)) if len(out) > 2 else None
    return None


def _transpose(context: Context, node: Node) -> Read | None:
    value = context.values[node.inputs[0]]
    order = value.order
    turned = tuple(order[axis] for axis in node.attributes.get("perm", range(len(order))[::-1]))
    return Read(None, Value(turned, value.flat), (node.inputs[0],)) if turned[0] == 0 else None


# --- types and weights ----------------------------------------------------------------------


def _cast(context: Context, node: Node) -> Read | None:
    """To a float changes nothing; to whole numbers rounds and overflows."""
    return same(context, node) if node.attributes["to"] in _FLOATS else None


_FLOATS = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16


def held_by(node: Node, graph: Graph, weighted: bool) -> tuple[str, ...]:
    """The constants that are weights of one of our layers; weighted: whether it has any."""
    places = _WEIGHTS.get(node.kind, range(len(node.inputs)) if weighted else ())
    return tuple(name for name in _at(node, places) if name in graph.constants)


def weights_of(node: Node, graph: Graph) -> tuple[str, ...] | None:
    """The constants that are weights of an unknown operator; None where that is not known."""
    held = [name for name in node.inputs if name in graph.constants or name in graph.hidden]
    if node.kind in _WEIGHTS:
        return tuple(name for name in _at(node, _WEIGHTS[node.kind]) if name in held)
    if node.kind in _SUBGRAPHS:
        return None
    several = [name for name in held if name in graph.hidden or is_learnt(graph.constants[name])]
    if "." in node.kind:
        return None if several else ()
    if node.kind not in _ELEMENTWISE:
        return ()
    return tuple(name for name in several if name not in graph.made)


def _at(node: Node, places: Sequence[int]) -> list[str]:
    return [name for place, name in enumerate(node.inputs) if place in places]


def is_learnt(array: Tensor) -> bool:
    """Whether a constant may be weights: several floats, none infinite as in masks, no grid."""
    floats = array.size > 1 and array.dtype.kind not in "iubOSU" and bool(np.isfinite(array).all())
    return floats and not is_grid(array)


# Which inputs of an operator are weights, whatever their type.
_WEIGHTS: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "DeformConv": (1, 3), "ConvInteger": (1,),
    "QLinearConv": (3, 8),
    "Gemm": (0, 1, 2), "MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3),
    "com.microsoft.FusedMatMul": (0, 1), "com.microsoft.QGemm": (3, 6),
    "RNN": (1, 2, 3), "GRU": (1, 2, 3), "LSTM": (1, 2, 3, 7),
    "BatchNormalization": (1, 2, 3, 4), "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2), "LayerNormalization": (1, 2), "RMSNormalization": (1,),
    "PRelu": (1,), "Gather": (0,),
}  # fmt: skip
# Any constant that these read is a weight, single numbers excepted; of others, none is
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Concat", "Einsum")
# What the subgraphs of these hold is not known
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
    **SIZES,
    "Identity": same,
    "Dropout": same,
    "Cast": _cast,
}
