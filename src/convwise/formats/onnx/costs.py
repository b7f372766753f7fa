"""What ONNX operators cost that are none of our layers, and what places read, by shapes alone."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from convwise.core.parameters import Pads
from convwise.formats.onnx.context import Context
from convwise.formats.onnx.nodes import Node, Shape
from convwise.formats.onnx.patterns import GROUP_SUM, SHUFFLE
from convwise.formats.onnx.pointwise import is_over
from convwise.formats.onnx.sizes import sampling

# Operators with a kernel: which input it is. Each output of a convolution reads the kernel of its
# filter.
_CONVS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "DeformConv": 1}
_PRODUCTS = {"MatMul": (0, 1), "Gemm": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3),
             "com.microsoft.FusedMatMul": (0, 1), "com.microsoft.QGemm": (0, 3)}  # fmt: skip
_RECURRENT = ("GRU", "LSTM", "RNN")  # two matrices at each step of each sequence
# One operation for each number that is given.
_POINTWISE = {
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift",
    "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu",
    "Clip", "Cos", "Cosh", "DequantizeLinear", "Div", "DynamicQuantizeLinear", "Elu", "Equal",
    "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "IsInf",
    "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul",
    "Neg", "Not", "Or", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu",
    "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum",
    "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
}  # fmt: skip
# One for each number that is read.
_REDUCING = {
    "ArgMax", "ArgMin", "GlobalAveragePool", "GlobalMaxPool", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "GlobalLpPool", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare",
}  # fmt: skip
# Five for each number: mean, deviation, scale and shift. Its statistics are not counted as sight.
_NORMS = {"BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization",
          "LpNormalization", "MeanVarianceNormalization", "RMSNormalization"}  # fmt: skip
_POOLS = {"AveragePool", "LpPool", "MaxPool"}
# One for each number, of whichever places.
_ALONG = {
    "Bernoulli", "GridSample", "Hardmax", "LogSoftmax", "MaxUnpool", "RandomNormalLike",
    "RandomUniformLike", "Softmax", "TopK",
}  # fmt: skip
# No arithmetic at all: numbers go elsewhere.
_MOVING = {
    "BitCast", "CenterCropPad", "Col2Im", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather",
    "GatherElements", "GatherND", "Identity", "OneHot", "Pad", "Reshape", "Reverse",
    "ReverseSequence", "Scatter", "ScatterElements", "ScatterND", "Slice", "SpaceToDepth", "Split",
    "Squeeze", "TensorScatter", "Tile", "Transpose", "Trilu", "Unsqueeze", SHUFFLE,
}  # fmt: skip
_ACROSS = {"Concat", "Gather", "Slice", "Split"}  # 'same' where every axis of places stays as it is


def cost(context: Context, node: Node, value: str) -> dict[str, Any]:
    """macs, elementwise and moves of the layer that gives `value`, the first output; or {}."""
    macs = _macs(context, node, value)
    elementwise = _elementwise(context, node, value)
    if macs is None or elementwise is None:
        return {}
    batch = context.graph.batch  # of a file for several images at once: the work of one
    known = {"macs": -(-macs // batch), "elementwise": -(-elementwise // batch)}
    if window := _window(context, node):
        return {**known, "moves": "window", **window}
    return {**known, "moves": _moves(context, node, value)}


def _shape(context: Context, name: str) -> Shape | None:
    constant = context.graph.constants.get(name)
    return context.graph.shapes.get(name) if constant is None else constant.shape


def _macs(context: Context, node: Node, value: str) -> int | None:
    out = context.graph.shapes[value]
    place = _CONVS.get(node.kind, 1)
    if node.kind in _CONVS or node.kind == "ConvTranspose":
        kernel = _shape(context, node.inputs[place])
        read = context.graph.shapes[node.inputs[0]] if node.kind == "ConvTranspose" else out
        return None if not kernel else prod(read) * prod(kernel[1:])
    if node.kind in _PRODUCTS:
        left = _shape(context, node.inputs[_PRODUCTS[node.kind][0]])
        axis = 0 if node.attributes.get("transA", 0) else -1
        return prod(out) * int(left[axis]) if left else None
    if node.kind == "Attention":
        keys = _keys(context, node)
        if keys is None:
            return None
        return keys * (prod(context.graph.shapes[node.inputs[0]]) + prod(out))
    if node.kind in _RECURRENT:
        steps, *matrices = (_shape(context, name) for name in node.inputs[:3])
        if None in (steps, *matrices):
            return None
        return prod((steps or ())[:2]) * sum(prod(each or ()) for each in matrices)
    return _summed(context, node) if node.kind == "Einsum" else 0


def _keys(context: Context, node: Node) -> int | None:
    """How many places of keys and values each query of an Attention is compared with."""
    with_past = len(node.outputs) > 1 and node.outputs[1]
    shape = _shape(context, node.outputs[1] if with_past else node.inputs[1])
    if shape is None or (len(node.inputs) > 4 and node.inputs[4] and not with_past):
        return None
    return int(shape[-2])


def _summed(context: Context, node: Node) -> int | None:
    """Of an Einsum of two: the product of all its sides."""
    terms = node.attributes["equation"].replace(" ", "").partition("->")[0].split(",")
    shapes = [_shape(context, name) for name in node.inputs]
    if len(terms) != 2 or any("." in term for term in terms) or None in shapes:
        return None
    sides = {letter: n for term, shape in zip(terms, shapes, strict=True)
             for letter, n in zip(term, shape or (), strict=False)}  # fmt: skip
    return prod(sides.values())


def _elementwise(context: Context, node: Node, value: str) -> int | None:
    kind, outputs = node.kind, prod(context.graph.shapes[value])
    if kind in _CONVS or kind == "ConvTranspose":
        return outputs * (len(node.inputs) > 2 and kind in ("Conv", "ConvTranspose"))
    if kind == "Gemm":
        return outputs * (len(node.inputs) > 2)
    if kind in _PRODUCTS or kind in _MOVING or kind in _RECURRENT or kind == "Einsum":
        return 0
    if kind in _REDUCING:
        return prod(context.graph.shapes[node.inputs[0]])
    if kind == "Attention":
        read = context.graph.shapes[node.inputs[0]]
        heads = read[1] if len(read) == 4 else int(node.attributes["q_num_heads"])
        pairs = read[0] * heads * read[-2] * (_keys(context, node) or 0)
        return prod(read) + pairs  # scaled queries, and a softmax
    if kind == "RotaryEmbedding":
        return 3 * outputs
    if kind == GROUP_SUM:
        return sum(prod(context.graph.shapes[name]) for name in node.inputs)
    if kind in _POOLS:
        return outputs * int(prod(node.attributes["kernel_shape"]))
    if kind == "LRN":
        return outputs * (int(node.attributes["size"]) + 3)
    if kind in _NORMS:
        return 5 * outputs or None
    single = kind in _POINTWISE or kind in _ALONG or kind in ("Resize", "Upsample")
    return outputs * single or None


# --- what places read -----------------------------------------------------------------------


def _moves(context: Context, node: Node, value: str) -> str:
    """As core/layers.py names it."""
    if node.kind in ("Resize", "Upsample"):
        return _resized(context, node)
    if node.kind == "DepthToSpace" and context.first(node.inputs[0]):
        return "nearest"
    if node.kind == "MaxUnpool":
        return _unpooled(context, node)
    if node.kind == "MatMul" and _attends(context, node):
        return "whole"
    if node.kind == "Attention":
        three = len([name for name in node.inputs if name]) == 3
        rows = all(context.values[name].order == (0, 1, 2) for name in context.maps(node))
        return "whole" if rows and three and not node.attributes.get("is_causal", 0) else "unknown"
    given, out = context.values[context.maps(node)[0]], context.values[value]
    if (
        node.kind == "Softmax"
        and len(given.order) == 3
        and is_over(context, node, 1, node.attributes.get("axis"))
    ):
        return "whole"
    if node.kind == "Pad":
        return "same" if _pads_channels(context, node) else "unknown"
    if node.kind in (SHUFFLE, GROUP_SUM):
        return "same" if context.first(node.inputs[0]) else "unknown"
    if node.kind == "LRN" or node.kind in _NORMS:
        return "same"
    if node.kind in _POINTWISE:
        return "same" if _alike(context, node, value) else "unknown"
    if (
        node.kind in _REDUCING
        and context.first(context.maps(node)[0])
        and _over_channels(context, node)
    ):
        return "same"
    if node.kind in _ACROSS and given.order == out.order and len(given.order) > 2:
        read = context.ours(context.maps(node)[0])
        alike = read[:-1] == context.ours(value)[:-1]
        return "same" if alike and _over_channels(context, node) else "unknown"
    return "unknown"


def _attends(context: Context, node: Node) -> bool:
    """Whether each number of a product of rows (places, channels) comes to read every place."""
    if len(context.maps(node)) != 2 or not all(
        _is_read(context, node, name) for name in node.inputs
    ):
        return False
    left, right = (context.values[name].order for name in node.inputs)
    # Whether the product sums over the places
    summed = len(left) == 3 and left[-1] == 1 or len(right) == 3 and right[-2] == 1
    rows = len(left) == len(right) == 3
    return summed or (rows and left[-2] == right[-1] == 1 and _softened(context, node.outputs[0]))


def _is_read(context: Context, node: Node, name: str) -> bool:
    """Whether a factor of a product is rows (places, channels), or one row that is read by every
    number given.
    """
    order, shape = context.values[name].order, context.graph.shapes[name]
    one_row = prod(shape) == context.graph.batch * context.graph.shapes[node.inputs[0]][-1]
    return len(order) == 3 or bool(order) and one_row


def _softened(context: Context, value: str) -> bool:
    """Whether all of a product of places with places passes a softmax first, nothing left out."""
    while context.uses[value] == 1:
        reader = next((node for node in context.graph.nodes if value in node.inputs), None)
        if reader is None or reader.kind == "Softmax":
            return reader is not None
        others = [
            context.graph.constants.get(name) for name in reader.inputs if name and name != value
        ]
        if reader.kind not in ("Add", "Cast", "Div", "Mul", "Reshape"):
            return False
        if any(each is None or not np.isfinite(each).all() for each in others):
            return False
        value = reader.outputs[0]
    return False


def _alike(context: Context, node: Node, value: str) -> bool:
    """Whether each place reads its own of every map: numbers for a whole side are repeated."""
    rank = len(context.graph.shapes[value])
    maps = [name for name in context.maps(node) if prod(context.graph.shapes[name]) > 1]
    return all(
        len(context.graph.shapes[name]) == rank and context.values[name].order for name in maps
    )


def _pads_channels(context: Context, node: Node) -> bool:
    """Whether a padding adds channels alone, as shortcuts of ResNets for small images do."""
    pads, given = context.constant(node, 1), context.constant(node, 3)
    order = context.values[node.inputs[0]].order
    axes = range(len(order)) if given is None else [int(axis) % len(order) for axis in given]
    if not order or pads is None or pads.size != 2 * len(axes):
        return False
    sides = zip([*axes, *axes], pads.reshape(-1), strict=True)
    return {order[axis] for axis, n in sides if n} == {len(order) - 1}


def _over_channels(context: Context, node: Node) -> bool:
    """Whether what an operator does to axes, it does to that of the channels."""
    order = context.values[context.maps(node)[0]].order
    if node.kind == "Slice":
        axes = context.constant(node, 3)
        return axes is not None and all(
            order[int(axis) % len(order)] == len(order) - 1 for axis in axes
        )
    told = context.constant(node, 1) if node.kind in _REDUCING else None
    axes = node.attributes.get("axes", ()) if told is None else told.reshape(-1)
    several = node.kind in _REDUCING and node.kind[:3] != "Arg"
    given = list(axes) if several else [node.attributes.get("axis", 0)]
    return bool(given) and all(order[int(axis) % len(order)] == len(order) - 1 for axis in given)


def _resized(context: Context, node: Node) -> str:
    """Rows and columns to any size; '... corners' where the outermost px stay where they are."""
    shapes = context.graph.shapes[node.inputs[0]], context.graph.shapes[node.outputs[0]]
    if (
        not context.first(node.inputs[0])
        or shapes[0][:2] != shapes[1][:2]
        or node.attributes.get("antialias", 0)
    ):
        return "unknown"
    mode, (way, rounding) = node.attributes.get("mode", "nearest"), sampling(node)
    if mode == "nearest":
        return "nearest" if (way, rounding) == ("asymmetric", "floor") else "unknown"
    smooth = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, "")
    if way == "align_corners" and smooth:
        return f"aligned {smooth}"
    return smooth if way in ("half_pixel", "pytorch_half_pixel") and smooth else "unknown"


def _unpooled(context: Context, node: Node) -> str:
    """Each number goes back into its window, where these do not overlap and leave nothing over."""
    read, made = (context.graph.shapes[name] for name in (node.inputs[0], node.outputs[0]))
    size = node.attributes
    kernel, strides = tuple(size["kernel_shape"]), tuple(size.get("strides", (1, 1)))
    whole = made[2:] == tuple(n * k for n, k in zip(read[2:], kernel, strict=False))
    plain = kernel == strides and not any(size.get("pads", ())) and context.first(node.inputs[0])
    return "nearest" if whole and plain else "unknown"


def _window(context: Context, node: Node) -> dict[str, Any] | None:
    """The moving window of an operator on a map, where it has one."""
    if node.kind == "Pad":
        sides = _around(context, node)
        return {"padding": sides} if sides else None
    kernel = _shape(context, node.inputs[_CONVS[node.kind]]) if node.kind in _CONVS else None
    if node.kind == "SpaceToDepth" and context.first(node.inputs[0]):
        return dict.fromkeys(("kernel_size", "strides"), (node.attributes["blocksize"],) * 2)
    size = kernel[2:] if kernel else None
    if node.kind in _POOLS:
        size = node.attributes.get("kernel_shape")
    if size is None or len(size) != 2 or not context.first(node.inputs[0]):
        return None
    if node.kind == "DeformConv":
        return None
    top, left, bottom, right = node.attributes.get("pads", (0, 0, 0, 0))
    automatic = node.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    if automatic or min(top, left, bottom, right) < 0:
        return None
    about = {ours: tuple(node.attributes.get(name, (1, 1))) for ours, name in _TERMS.items()}
    return {"kernel_size": tuple(size), "padding": (top, bottom, left, right), **about}


_TERMS = {"strides": "strides", "dilation_rate": "dilations"}


def _around(context: Context, node: Node) -> Pads | None:
    """Rows and columns that are repeated or mirrored around a map: (top, bottom, left, right)."""
    pads, given = context.constant(node, 1), context.constant(node, 3)
    if (
        not context.first(node.inputs[0])
        or pads is None
        or given is not None
        or pads.size != 8
        or pads.min() < 0
    ):
        return None
    (*batch, top, left), (*more, bottom, right) = pads.reshape(2, 4).tolist()
    return None if any(batch) or any(more) else (top, bottom, left, right)
