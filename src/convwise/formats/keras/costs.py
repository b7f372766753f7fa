"""What a layer or operation of Keras that is none of ours costs, and what its places read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

from convwise.core import layers as L
from convwise.core.geometry import GEOMETRY
from convwise.core.windows import Shape
from convwise.formats.keras.rules import pieces_of
from convwise.formats.keras.use import UNREADABLE, Piece, Use

# One operation for each number that is given.
_POINTWISE = {
    "Abs", "Absolute", "Add", "Arccos", "Arccosh", "Arcsin", "Arcsinh", "Arctan", "Arctan2",
    "Arctanh", "Cbrt", "Ceil", "Clip", "Cos", "Cosh", "Divide", "Equal", "Erf", "Exp", "Exp2",
    "Expm1", "Floor", "FloorDivide", "Gelu", "Greater", "GreaterEqual", "Less", "LessEqual", "Log",
    "Log10", "Log1p", "Log2", "Logaddexp", "LogicalAnd", "LogicalNot", "LogicalOr", "Maximum",
    "Minimum", "Mod", "Multiply", "Negative", "NotEqual", "Power", "Reciprocal", "Relu", "Round",
    "Rsqrt", "Sigmoid", "Sign", "Silu", "Sin", "Sinh", "Sqrt", "Square", "Subtract", "Tan", "Tanh",
    "TrueDivide", "Where",
}  # fmt: skip
_REDUCING = {
    "All", "Amax", "Amin", "Any", "Argmax", "Argmin", "Logsumexp", "Max", "Mean", "Min", "Prod",
    "Std", "Sum", "Var",
}  # fmt: skip
_POOLS = {"AveragePooling1D", "AveragePooling3D", "MaxPooling1D", "MaxPooling3D"}
_WHOLE = {"GlobalAveragePooling1D", "GlobalAveragePooling3D", "GlobalMaxPooling1D",
          "GlobalMaxPooling3D"}  # fmt: skip
_NORMS = {"BatchNormalization", "GroupNormalization", "LayerNormalization", "RMSNormalization",
          "UnitNormalization"}  # fmt: skip
_CELLS = {"LSTMCell", "GRUCell", "SimpleRNNCell"}
# No arithmetic at all: numbers go elsewhere.
_MOVING = {
    "BroadcastTo", "Concatenate", "Cropping1D", "Cropping3D", "ExpandDims", "ExtractPatches",
    "Flip", "GetItem", "Moveaxis", "OneHot", "Permute", "Ravel", "Repeat", "RepeatVector",
    "Reshape", "Roll", "Split", "Squeeze", "Stack", "Swapaxes", "Take", "Tile", "Transpose",
    "Unstack", "UpSampling1D", "UpSampling3D", "ZeroPadding1D", "ZeroPadding3D",
}  # fmt: skip


def cost(
    op: Any, shapes: Sequence[Shape], outputs: Sequence[Shape], arguments: Sequence[Any]
) -> dict[str, Any]:
    """macs, elementwise and moves of the Opaque layer that an operation becomes, where known.

    shapes, outputs: of what is read and given, without the batch. arguments: the positional ones
    of the call.
    """
    kind, given = type(op).__name__, sum(map(prod, outputs))
    if not type(op).__module__.startswith("keras."):
        return {}
    if kind in ("Matmul", "Dot", "Einsum") and len(shapes) == 2:
        return _product(op, shapes, given)
    if kind in _KERNELS and op.built:
        macs = _KERNELS[kind](op, shapes[0], outputs[0])
        return {"macs": macs, "elementwise": given * op.use_bias}
    if kind in ("Bidirectional", "LSTM", "GRU", "RNN", "SimpleRNN") and op.built:
        return _recurrent(op, shapes[0])
    if kind == "ConvLSTM2D" and op.built:
        # At each step; its state is as large as its output
        places = prod(outputs[0][-3:-1]) * shapes[0][0]
        weights = prod(op.cell.kernel.shape) + prod(op.cell.recurrent_kernel.shape)
        return {"macs": places * weights, "elementwise": 0}
    if kind == "Masking":
        return {"macs": 0, "elementwise": 3 * given, "moves": "same"}
    if kind == "Attention" and op.score_mode == "dot":
        (asking, size), (held, values) = shapes[0][-2:], shapes[1][-2:]
        return {"macs": asking * held * (size + values), "elementwise": asking * held}
    if kind == "EinsumDense":
        return _einsum(op, shapes[0], given)
    if kind == "MultiHeadAttention" and op.built:
        return _attention(op, shapes)
    if kind in _POINTWISE or kind.startswith("Softmax"):
        alike = kind in _POINTWISE and len({len(shape) for shape in (*shapes, *outputs)}) == 1
        return {"macs": 0, "elementwise": given, "moves": "same" if alike else "unknown"}
    if kind in _NORMS:
        return {"macs": 0, "elementwise": 5 * given, "moves": "same"}
    if kind in ("Resizing", "Resize"):
        return {"macs": 0, "elementwise": given, "moves": _resized(op, shapes[0], outputs[0])}
    if kind in ("Normalization", "Rescaling"):
        return {"macs": 0, "elementwise": 2 * given, "moves": "same"}
    if kind in _POOLS:
        return {"macs": 0, "elementwise": given * prod(op.pool_size)}
    if kind in _WHOLE:
        return {"macs": 0, "elementwise": sum(map(prod, shapes))}
    if kind in _REDUCING or kind in _MOVING:
        work = sum(map(prod, shapes)) if kind in _REDUCING else 0
        alike = _over_channels(op, shapes, outputs, arguments)
        return {"macs": 0, "elementwise": work, "moves": "same" if alike else "unknown"}
    if kind == "TimeDistributed":
        return _at_each(op.layer, shapes[0], outputs[0])
    return _as_layers(op.layer if kind == "SpectralNormalization" else op, shapes, outputs[0])


# What each number of the output of a layer reads, or each of the input is multiplied with.
_KERNELS: dict[str, Any] = {
    **dict.fromkeys(
        ("Conv1D", "Conv3D"), lambda op, given, output: prod(output) * prod(op.kernel.shape[:-1])
    ),
    **dict.fromkeys(
        ("Conv1DTranspose", "Conv3DTranspose"),
        lambda op, given, output: prod(given[:-1]) * prod(op.kernel.shape),
    ),
    "DepthwiseConv1D": lambda op, given, output: prod(output) * op.kernel.shape[0],
    "SeparableConv1D": lambda op, given, output: (
        output[0] * (prod(op.depthwise_kernel.shape) + prod(op.pointwise_kernel.shape))
    ),
}
Resolved = tuple[Piece, list[Shape], Shape]  # a piece, the shapes that it reads, and its output's


def resolved(pieces: Sequence[Piece], shapes: Sequence[Shape]) -> list[Resolved]:
    """The pieces that an operation on maps of these shapes becomes, or ShapeError."""
    rows: list[Resolved] = []
    output = shapes[0]
    for piece in pieces:
        seen = [shapes[n] if n >= 0 else output for n in piece.reads]
        if isinstance(piece.layer, L.Opaque):  # an activation: its shape is its input's
            piece = replace(piece, layer=replace(piece.layer, output_shape=seen[0]))
        output = GEOMETRY[type(piece.layer)].shape(piece.layer, seen)
        rows.append((piece, seen, output))
    return rows


def _as_layers(op: Any, shapes: Sequence[Shape], output: Shape) -> dict[str, Any]:
    """The cost of a layer that works as one of ours, but stores other numbers.

    These are quantised, or those of adapters (LoRA).
    """
    try:
        rows = resolved(pieces_of(Use(op, shapes)), shapes)
    except UNREADABLE:
        return {}
    opaque = any(isinstance(piece.layer, L.Opaque) for piece, _, _ in rows)
    if opaque or not rows or rows[-1][2] != output:
        return {}
    work = {"macs": 0, "elementwise": 0}
    for piece, seen, made in rows:
        row = GEOMETRY[type(piece.layer)]
        work["macs"] += row.macs(piece.layer, seen[0], made)
        work["elementwise"] += row.elementwise(piece.layer, seen[0], made)
    if getattr(op, "quantization_mode", None):  # what is read is rounded, what is given scaled back
        work["elementwise"] += prod(shapes[0]) + prod(output)
        # Where nothing is quantised, Keras adds the adapters to the kernel
        if getattr(op, "lora_enabled", False):
            adapters = prod(op.lora_kernel_a.shape) + prod(op.lora_kernel_b.shape)
            work["macs"] += prod(shapes[0][:-1]) * adapters
    first = rows[0][0].layer
    if isinstance(first, L.Conv2D | L.DepthwiseConv2D | L.SeparableConv2D):
        names = ("kernel_size", "strides", "padding", "dilation_rate")
        return {**work, "moves": "window", **{name: getattr(first, name) for name in names}}
    return {**work, "moves": "same" if isinstance(first, L.Dense) else "unknown"}


def _at_each(op: Any, shape: Shape, output: Shape) -> dict[str, Any]:
    """A layer at each step of a sequence."""
    one = cost(op, [shape[1:]], [output[1:]], ())
    work = {key: shape[0] * one[key] for key in ("macs", "elementwise") if one}
    return {**work, "moves": "same"} if one.get("moves") == "same" else work


def _product(op: Any, shapes: Sequence[Shape], given: int) -> dict[str, Any]:
    """Of two factors: so many macs for each number that is given as are summed."""
    if type(op).__name__ == "Matmul":
        return {"macs": given * shapes[0][-1], "elementwise": 0}
    if type(op).__name__ == "Dot":
        axis = op.axes if isinstance(op.axes, int) else op.axes[0]
        return {"macs": given * shapes[0][axis if axis < 0 else axis - 1], "elementwise": 0}
    terms = str(op.subscripts).replace(" ", "").partition("->")[0].split(",")
    ranks = [len(shape) for shape in shapes]
    if "." in op.subscripts or [len(term) - 1 for term in terms] != ranks:
        return {}
    if terms[0][0] != terms[1][0]:  # the batch
        return {}
    sides = dict(zip("".join(term[1:] for term in terms), sum(shapes, ()), strict=True))
    return {"macs": prod(sides.values()), "elementwise": 0}


def _recurrent(op: Any, shape: Shape) -> dict[str, Any]:
    """Two matrices at each step, in each direction; nothing where a cell is none of Keras's."""
    ways = (op.forward_layer, op.backward_layer) if type(op).__name__ == "Bidirectional" else (op,)
    stacks = [way.cell for way in ways if hasattr(way, "cell")]
    cells = [cell for stack in stacks for cell in getattr(stack, "cells", [stack])]
    foreign = {type(cell).__name__ for cell in cells} - _CELLS
    if len(shape) != 2 or len(cells) < len(ways) or foreign:
        return {}
    matrices = [matrix for cell in cells for matrix in (cell.kernel, cell.recurrent_kernel)]
    return {"macs": shape[0] * sum(prod(matrix.shape) for matrix in matrices), "elementwise": 0}


def _attention(op: Any, shapes: Sequence[Shape]) -> dict[str, Any]:
    """Four projections, and the two products between them.

    shapes: of query, value and, where it is another, key. Nothing where some axes attend alone, or
    where the answer is gated.
    """
    axes = tuple(getattr(op, "_attention_axes", None) or (1,))
    if axes != tuple(range(1, len(shapes[0]))) or getattr(op, "_gate_dense", None) is not None:
        return {}
    asking, held = prod(shapes[0][:-1]), prod(shapes[1][:-1] if len(shapes) > 1 else shapes[0][:-1])
    asked, read = (op.query_dense, op.output_dense), (op.key_dense, op.value_dense)
    projections = [(asking, dense) for dense in asked] + [(held, dense) for dense in read]
    pairs = asking * held * op.num_heads
    macs = sum(places * prod(dense.kernel.shape) for places, dense in projections)
    biased = [(places, dense.bias) for places, dense in projections if dense.bias is not None]
    biases = sum(places * prod(bias.shape) for places, bias in biased)
    scaled = asking * op.num_heads * op.key_dim
    macs += pairs * (op.key_dim + op.value_dim)
    return {"macs": macs, "elementwise": biases + scaled + pairs}


def _einsum(op: Any, shape: Shape, outputs: int) -> dict[str, Any]:
    """The product of all sides of the equation but the batch's."""
    given, _, _ = op.equation.partition("->")
    read, _, kernel = given.partition(",")
    if "." in op.equation or len(read) != len(shape) + 1:
        return {}
    macs = prod(sides_of(op, shape).values())
    return {"macs": macs, "elementwise": outputs * (op.bias is not None)}


def sides_of(op: Any, shape: Shape) -> dict[str, int]:
    """For each letter of an EinsumDense's equation but the batch's: the size of its axis."""
    read, _, kernel = op.equation.partition("->")[0].partition(",")
    return dict(zip(read[1:], shape, strict=True)) | dict(zip(kernel, op.kernel.shape, strict=True))


def _resized(op: Any, shape: Shape, output: Shape) -> str:
    way = str(getattr(op, "interpolation", ""))
    crops = getattr(op, "crop_to_aspect_ratio", False) or getattr(op, "pad_to_aspect_ratio", False)
    fits = len(shape) == len(output) == 3 and not crops and not getattr(op, "antialias", False)
    return way if fits and way in ("nearest", "bilinear", "bicubic") else "unknown"


def _over_channels(
    op: Any, shapes: Sequence[Shape], outputs: Sequence[Shape], arguments: Sequence[Any]
) -> bool:
    """Whether rows and columns stay as they are, and only channels are taken, joined or reduced."""
    shape = shapes[0]
    if len(shape) != 3 or any(len(out) != 3 or out[:2] != shape[:2] for out in outputs):
        return False
    if type(op).__name__ == "GetItem":
        keys = Use(op, shapes, arguments).keys
        return len(keys) == 4 and all(key == slice(None) for key in keys[:3])
    axis = getattr(op, "axis", None)
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    return all(each in (-1, 3) for each in axes)
