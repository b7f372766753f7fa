"""What an ATen operator costs that is no layer of ours: macs, and operations besides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from convwise.core.parameters import Pair
from convwise.core.windows import Shape
from convwise.formats.torch.program import Node, Ref

UNKNOWN = -1, -1
Shapes = Mapping[str, Shape]


def cost(node: Node, shapes: Shapes, batch: int) -> Pair:
    """(macs, elementwise) of one image: of a product the macs, of the rest no macs.

    They are -1 where they are not known. shapes: of all tensors, for `batch` images together.
    """
    operator = node.operator.strip("_")
    output = prod(shapes[node.name])
    given = [shapes[name] for name in node.reads if name in shapes]
    if operator in PRODUCTS:
        macs = PRODUCTS[operator](node, shapes)
        return UNKNOWN if macs is None or macs % batch else (macs // batch, 0)
    if operator in MOVING:
        return 0, 0
    if operator in REDUCING and given:
        return 0, max(1, prod(given[0]) // batch)
    return (0, max(1, output // batch)) if operator in EACH else UNKNOWN


# --- products -------------------------------------------------------------------------------


def _shape(node: Node, shapes: Shapes, *names: str) -> Shape:
    """The shape of the first of these arguments that the operator has."""
    value = next(node.arguments[name] for name in names if name in node.arguments)
    return shapes[value.name] if isinstance(value, Ref) else ()


def _matmul(node: Node, shapes: Shapes) -> int:
    """Every output is a sum over the last axis of the first factor."""
    return prod(shapes[node.name]) * _shape(node, shapes, "input", "batch1", "mat1", "self")[-1]


def _convolution(node: Node, shapes: Shapes) -> int:
    """A kernel (outputs, inputs per group, ...) at each output."""
    if node.arguments.get("transposed"):
        return _transposed(node, shapes)
    return prod(shapes[node.name]) * prod(_shape(node, shapes, "weight")[1:])


def _transposed(node: Node, shapes: Shapes) -> int:
    """A kernel (inputs, outputs per group, ...) at each input."""
    return prod(_shape(node, shapes, "input")) * prod(_shape(node, shapes, "weight")[1:])


def _attention(node: Node, shapes: Shapes) -> int:
    """Queries with keys, then with values."""
    query, key, value = (_shape(node, shapes, name) for name in ("query", "key", "value"))
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _einsum(node: Node, shapes: Shapes) -> int | None:
    """A loop over every letter; of more than two factors the order is not known."""
    factors = [shapes[name] for name in node.reads]
    letters = str(node.arguments.get("equation", "")).replace(" ", "").partition("->")[0].split(",")
    if len(factors) != 2 or [len(each) for each in letters] != [len(each) for each in factors]:
        return None
    sides = dict(zip("".join(letters), sum(factors, ()), strict=True))
    return prod(sides.values())


def _recurrent(node: Node, shapes: Shapes) -> int:
    """Each of its matrices at each step of each sequence."""
    steps = prod(_shape(node, shapes, "input")[:2])
    weights = [shapes[each.name] for each in node.arguments["params"]]
    return steps * sum(prod(sides) for sides in weights if len(sides) == 2)


def _cell(node: Node, shapes: Shapes) -> int:
    """Both of its matrices for each example."""
    matrices = prod(_shape(node, shapes, "w_ih")) + prod(_shape(node, shapes, "w_hh"))
    return prod(_shape(node, shapes, "input")[:-1]) * matrices


def _tensordot(node: Node, shapes: Shapes) -> int:
    """Every output is a sum over the sides of the first factor that are named."""
    first = _shape(node, shapes, "self")
    summed: list[int] = [first[axis] for axis in node.arguments["dims_self"]]
    return prod(shapes[node.name]) * prod(summed)


PRODUCTS: dict[str, Callable[[Node, Any], int | None]] = {
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "linear", "addmm", "baddbmm", "addbmm"), _matmul),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    "scaled_dot_product_attention": _attention,
    "einsum": _einsum,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), _cell),
    "tensordot": _tensordot,
}

# --- the rest -------------------------------------------------------------------------------

MOVING = frozenset((
    "alias", "as_strided", "broadcast_to", "cat", "channel_shuffle", "chunk", "clone",
    "column_stack", "concat", "constant_pad_nd", "contiguous", "copy", "detach", "diagonal",
    "dropout", "expand", "expand_as", "feature_dropout", "alpha_dropout", "fill", "flatten", "flip",
    "fold", "gather", "getitem", "hstack", "im2col", "col2im", "embedding", "index", "index_put",
    "index_select", "lift_fresh_copy", "masked_select", "meshgrid", "movedim", "moveaxis", "mT",
    "narrow", "native_channel_shuffle", "numpy_T", "one_hot", "pad", "permute", "pixel_shuffle",
    "pixel_unshuffle", "ravel", "reflection_pad2d", "replication_pad2d", "repeat",
    "repeat_interleave", "reshape", "reshape_as", "roll", "rot90", "scatter", "select", "slice",
    "slice_scatter", "select_scatter", "split", "split_with_sizes", "squeeze", "stack", "swapaxes",
    "swapdims", "t", "take", "take_along_dim", "tensor_split", "tile", "to", "to_copy", "transpose",
    "tril", "triu", "type_as", "unbind", "unflatten", "unfold", "unsafe_view", "unsqueeze", "view",
    "view_as", "vstack", "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros",
    "new_ones", "new_full", "new_empty", "zero", "view_as_complex", "view_as_real",
))  # fmt: skip

# One number at a time: their cost is that of an activation or a join.
FUNCTIONS = frozenset((
    "abs", "acos", "acosh", "add", "addcdiv", "addcmul", "arctan", "asin", "atan", "atan2",
    "bitwise_and", "bitwise_not", "bitwise_or", "ceil", "celu", "clamp", "clamp_max", "clamp_min",
    "clip", "cos", "cosh", "div", "elu", "eq", "erf", "erfc", "exp", "exp2", "expm1", "floor",
    "floor_divide", "fmod", "frac", "ge", "gelu", "gt", "hardshrink", "hardsigmoid", "hardswish",
    "hardtanh", "isinf", "isnan", "le", "leaky_relu", "lerp", "log", "log10", "log1p", "log2",
    "log_sigmoid", "logical_and", "logical_not", "logical_or", "lt", "maximum", "minimum", "mish",
    "mul", "nan_to_num", "ne", "neg", "pow", "prelu", "reciprocal", "relu", "relu6", "remainder",
    "round", "rrelu", "rsqrt", "rsub", "selu", "sgn", "sigmoid", "sign", "silu", "sin", "sinh",
    "softplus", "softshrink", "sqrt", "square", "sub", "tan", "tanh", "threshold", "true_divide",
    "trunc", "xlogy", "positive", "where", "masked_fill",
))  # fmt: skip

# Some operations for each output, wherever its inputs lie.
EACH = FUNCTIONS | frozenset((
    "softmax", "log_softmax", "glu", "cumsum", "cumprod", "sort", "argsort", "topk", "grid_sampler",
    "grid_sampler_2d", "upsample_nearest2d", "upsample_nearest_exact2d", "upsample_bilinear2d",
    "upsample_bicubic2d", "upsample_bilinear2d_aa", "upsample_bicubic2d_aa", "upsample_linear1d",
    "batch_norm", "native_batch_norm_legit_no_training", "instance_norm", "group_norm",
    "layer_norm", "rms_norm", "max_unpool2d", "affine_grid_generator", "bernoulli", "rand_like",
    "randn_like",
))  # fmt: skip

# One operation for each number that is read.
REDUCING = frozenset((
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "all", "amax", "amin", "aminmax", "any", "argmax", "argmin", "avg_pool1d", "avg_pool2d",
    "avg_pool3d", "linalg_vector_norm", "logsumexp", "max", "max_pool1d", "max_pool2d",
    "max_pool2d_with_indices", "mean", "median", "min", "norm", "prod", "std", "std_mean", "sum",
    "var", "var_mean",
))  # fmt: skip
