"""What a layer or operation of Keras that is none of ours costs, and what its places read, where that can be told."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from convwise.core.windows import Shape

# One operation for each number that is given.
_POINTWISE = {
    "Abs", "Absolute", "Add", "Arccos", "Arccosh", "Arcsin", "Arcsinh", "Arctan", "Arctan2", "Arctanh", "Cbrt", "Ceil",
    "Clip", "Cos", "Cosh", "Divide", "Equal", "Erf", "Exp", "Exp2", "Expm1", "Floor", "FloorDivide", "Gelu", "Greater",
    "GreaterEqual", "Less", "LessEqual", "Log", "Log10", "Log1p", "Log2", "Logaddexp", "LogicalAnd", "LogicalNot",
    "LogicalOr", "Maximum", "Minimum", "Mod", "Multiply", "Negative", "NotEqual", "Power", "Reciprocal", "Relu",
    "Round", "Rsqrt", "Sigmoid", "Sign", "Silu", "Sin", "Sinh", "Sqrt", "Square", "Subtract", "Tan", "Tanh",
    "TrueDivide", "Where",
}  # fmt: skip
_REDUCING = {"Amax", "Amin", "Argmax", "Argmin", "Logsumexp", "Max", "Mean", "Min", "Prod", "Std", "Sum", "Var"}
_NORMS = {"BatchNormalization", "GroupNormalization", "LayerNormalization", "RMSNormalization", "UnitNormalization"}
_CELLS = {"LSTMCell", "GRUCell", "SimpleRNNCell"}
# No arithmetic at all: numbers go elsewhere.
_MOVING = {"BroadcastTo", "Concatenate", "ExpandDims", "Flip", "GetItem", "Moveaxis", "Permute", "Ravel", "Repeat",
           "RepeatVector", "Reshape", "Roll", "Split", "Squeeze", "Stack", "Swapaxes", "Take", "Tile", "Transpose",
           "Unstack"}  # fmt: skip


def cost(op: Any, shapes: Sequence[Shape], outputs: Sequence[Shape], arguments: Sequence[Any]) -> dict[str, Any]:
    """macs, elementwise and moves of the Opaque layer that an operation becomes; nothing where they are not known.

    shapes, outputs: of what is read and given, without the batch; arguments: the positional ones of the call.
    """
    kind, given = type(op).__name__, sum(map(prod, outputs))
    if not type(op).__module__.startswith("keras."):
        return {}
    if kind == "Matmul" and len(shapes) == 2:
        return {"macs": given * shapes[0][-1], "elementwise": 0}
    if kind in ("Conv1D", "Conv3D") and op.built:
        return {"macs": given * prod(op.kernel.shape[:-1]), "elementwise": given * op.use_bias}
    if kind in ("Bidirectional", "LSTM", "GRU", "SimpleRNN") and op.built:
        return _recurrent(op, shapes[0])
    if kind == "EinsumDense":
        return _einsum(op, shapes[0], given)
    if kind == "MultiHeadAttention" and op.built:
        return _attention(op, shapes)
    if kind in _POINTWISE or kind.startswith("Softmax"):
        alike = kind in _POINTWISE and {len(shape) for shape in (*shapes, *outputs)} == {len(outputs[0])}
        return {"macs": 0, "elementwise": given, "moves": "same" if alike else "unknown"}
    if kind in _NORMS:
        return {"macs": 0, "elementwise": 5 * given, "moves": "same"}
    if kind in ("Resizing", "Resize"):
        return {"macs": 0, "elementwise": given, "moves": _resized(op, shapes[0], outputs[0])}
    if kind in _REDUCING or kind in _MOVING:
        work = sum(map(prod, shapes)) if kind in _REDUCING else 0
        alike = _over_channels(op, shapes, outputs, arguments)
        return {"macs": 0, "elementwise": work, "moves": "same" if alike else "unknown"}
    return {}


def _recurrent(op: Any, shape: Shape) -> dict[str, Any]:
    """Two matrices at each step, in each direction; nothing where a cell is none of Keras's."""
    ways = (op.forward_layer, op.backward_layer) if type(op).__name__ == "Bidirectional" else (op,)
    cells = [way.cell for way in ways if hasattr(way, "cell")]
    if len(shape) != 2 or len(cells) < len(ways) or {type(cell).__name__ for cell in cells} - _CELLS:
        return {}
    matrices = [matrix for cell in cells for matrix in (cell.kernel, cell.recurrent_kernel)]
    return {"macs": shape[0] * sum(prod(matrix.shape) for matrix in matrices), "elementwise": 0}


def _attention(op: Any, shapes: Sequence[Shape]) -> dict[str, Any]:
    """Four projections, and the two products between them, of query, value and, where it is another, key."""
    if len(shapes[0]) != 2 or getattr(op, "_gate_dense", None) is not None:  # over some axes alone, or gated
        return {}
    asking, held = prod(shapes[0][:-1]), prod(shapes[1][:-1] if len(shapes) > 1 else shapes[0][:-1])
    projections = ((asking, op.query_dense), (held, op.key_dense), (held, op.value_dense), (asking, op.output_dense))
    pairs = asking * held * op.num_heads
    macs = sum(places * prod(dense.kernel.shape) for places, dense in projections)
    biases = sum(places * prod(dense.bias.shape) for places, dense in projections if dense.bias is not None)
    scaled = asking * op.num_heads * op.key_dim
    return {"macs": macs + pairs * (op.key_dim + op.value_dim), "elementwise": biases + scaled + pairs}


def _einsum(op: Any, shape: Shape, outputs: int) -> dict[str, Any]:
    """The product of all sides of the equation but the batch's."""
    given, _, _ = op.equation.partition("->")
    read, _, kernel = given.partition(",")
    if "." in op.equation or len(read) != len(shape) + 1:
        return {}
    return {"macs": prod(sides_of(op, shape).values()), "elementwise": outputs * (op.bias is not None)}


def sides_of(op: Any, shape: Shape) -> dict[str, int]:
    """For each letter of an EinsumDense's equation but the batch's: the size of its axis."""
    read, _, kernel = op.equation.partition("->")[0].partition(",")
    return dict(zip(read[1:], shape, strict=True)) | dict(zip(kernel, op.kernel.shape, strict=True))


def _resized(op: Any, shape: Shape, output: Shape) -> str:
    way = str(getattr(op, "interpolation", ""))
    crops = getattr(op, "crop_to_aspect_ratio", False) or getattr(op, "pad_to_aspect_ratio", False)
    fits = len(shape) == len(output) == 3 and not crops and not getattr(op, "antialias", False)
    return way if fits and way in ("nearest", "bilinear", "bicubic") else "unknown"


def _over_channels(op: Any, shapes: Sequence[Shape], outputs: Sequence[Shape], arguments: Sequence[Any]) -> bool:
    """Whether rows and columns stay as they are, and only channels are taken, joined or reduced."""
    shape = shapes[0]
    if len(shape) != 3 or any(len(out) != 3 or out[:2] != shape[:2] for out in outputs):
        return False
    if type(op).__name__ == "GetItem":
        keys = arguments[1] if len(arguments) > 1 and isinstance(arguments[1], tuple) else ()
        rest = keys[:-1] if keys[:1] == (Ellipsis,) else keys[:3]
        return bool(keys) and len(keys) in (2, 4) and all(key in (Ellipsis, slice(None)) for key in rest)
    axis = getattr(op, "axis", None)
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    return all(each in (-1, 3) for each in axes)
