"""What each ATen operator is as a layer. A rule gives None where it is none: it becomes Opaque.

Numbers one by one are in pointwise.py, those that move in moves.py, normalisation in norms.py.

Arguments that an operator was not given are at the defaults of its schema.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from convwise.core import layers as L
from convwise.core.geometry import layer_weights
from convwise.core.layer_windows import transposed_crops
from convwise.core.layers import Layer
from convwise.core.parameters import Pads, Pair
from convwise.core.windows import NO_PADS, Shape, pads_of
from convwise.formats.torch.costs import FUNCTIONS, cost
from convwise.formats.torch.moves import MOVES
from convwise.formats.torch.norms import NORMS
from convwise.formats.torch.places import Seen
from convwise.formats.torch.pointwise import POINTWISE, applied, like, or_applied
from convwise.formats.torch.program import Node, Ref
from convwise.formats.torch.walk import MOST_MOVED, Array, Found, Rule, Walk, image, pair
from convwise.formats.weights import channels_last


def named(
    pads: Pads, shape: Shape, kernel: Pair, strides: Pair, dilation: Pair = (1, 1)
) -> str | Pads:
    """The padding as a person writes it."""
    if pads == NO_PADS:
        return "valid"
    return "same" if pads == pads_of("same", shape, kernel, strides, dilation) else pads


# --- convolutions --------------------------------------------------------------------------


def _conv(walk: Walk, node: Node) -> Seen | None:
    given = node.arguments
    if given.get("transposed"):
        return _transposed(walk, node)
    seen, kernel = image(walk, node), walk.program.shapes[given["weight"].name]
    if seen is None or len(kernel) != 4:
        return None
    size, strides = pair(list(kernel[2:])), pair(given.get("stride"))
    dilation = pair(given.get("dilation"))
    padding = given.get("padding", 0)
    if not isinstance(padding, str):
        rows, columns = pair(padding, 0)
        padding = named((rows, rows, columns, columns), seen.shape, size, strides, dilation)
    if made := [part for key in ("weight", "bias") if (part := walk.seen(given.get(key)))]:
        return _by_made(walk, node, [seen, *made], (size, strides, padding, dilation))
    groups, channels, filters = given.get("groups", 1), seen.shape[2], kernel[0]
    common: dict[str, Any] = {"kernel_size": size, "strides": strides, "padding": padding}
    common |= {"dilation_rate": dilation, "use_bias": given.get("bias") is not None}
    if groups == channels > 1 and filters % channels == 0:
        layer = L.DepthwiseConv2D(depth_multiplier=filters // channels, **common)
        return _weighted(walk, node, layer, seen)
    return _weighted(walk, node, L.Conv2D(filters, groups=groups, **common), seen)


def _by_made(
    walk: Walk, node: Node, reads: list[Seen], window: tuple[Pair, Pair, str | Pads, Pair]
) -> Seen | None:
    """A convolution by a kernel, or with a bias, that is made of the image."""
    channels, rows, columns = walk.program.shapes[node.name][1:]
    # A kernel acts at every place: what it sees must be known to be the same for all
    if any(_moves(walk, made) != "unknown" for made in reads[1:]):
        return None
    work = cost(node, walk.program.shapes, walk.program.batch)
    size, strides, padding, dilation = window
    shape = rows, columns, channels
    layer = L.Opaque(node.operator, shape, 0, *work, "window", size, strides, padding, dilation)
    return walk.add(node, layer, *reads)


def _moves(walk: Walk, seen: Seen) -> str:
    """How the Opaque layer that gives a tensor reads; '' where a layer of ours gives it."""
    name = walk.draft.source(seen.value)
    layer = next((layer for layer in walk.draft.layers if layer.name == name), None)
    return layer.moves if isinstance(layer, L.Opaque) else ""


def _transposed(walk: Walk, node: Node) -> Seen | None:
    given = node.arguments
    seen, kernel = image(walk, node), walk.sides(given["weight"])
    if seen is None or kernel is None or len(kernel) != 4 or walk.seen(given.get("bias")):
        return None
    groups, size = given.get("groups", 1), pair(list(kernel[2:]))
    extra = pair(given.get("output_padding"), 0)
    rows, columns = pair(given.get("padding"), 0)
    strides, dilation = pair(given.get("stride")), pair(given.get("dilation"))
    padding = (rows, rows, columns, columns)
    more = (dilation, groups, given.get("bias") is not None)
    layer = L.Conv2DTranspose(kernel[1] * groups, size, strides, padding, extra, *more)
    return _weighted(walk, node, cropped(layer, transposed_crops(layer)), seen)


def cropped(layer: L.Conv2DTranspose, crops: Pads) -> L.Conv2DTranspose:
    """The layer with padding that takes `crops` from its full output, as a person writes it."""
    parts = {**layer.__dict__, "output_padding": (0, 0)}
    for padding in ("valid", "same"):
        if transposed_crops(found := L.Conv2DTranspose(**{**parts, "padding": padding})) == crops:
            return found
    top, bottom, left, right = crops
    extra = max(0, -bottom), max(0, -right)
    pads = (top, bottom + extra[0], left, right + extra[1])
    if (top, left) >= (bottom, right) and top >= bottom and left >= right:
        pads, extra = (top, top, left, left), (top - bottom, left - right)
    return L.Conv2DTranspose(**{**parts, "padding": pads, "output_padding": extra})


def _weighted(walk: Walk, node: Node, layer: Layer, seen: Seen) -> Seen:
    """The layer with its kernel turned into our order, and its bias."""
    kernel, bias = walk.number(node.arguments["weight"]), node.arguments.get("bias")
    sides = layer_weights(layer, seen.shape)["kernel"]
    weights = {"kernel": None if kernel is None else channels_last(layer, kernel, sides)}
    if bias is not None:
        weights["bias"] = walk.number(bias)
    return walk.add(node, layer, seen, weights=weights)


def _linear(walk: Walk, node: Node) -> Seen | None:
    given = node.arguments
    weight = given.get("weight", given.get("mat2", given.get("other")))
    bias = given.get("bias", given.get("self") if "mat1" in given else None)
    seen = walk.seen(given.get("input", given.get("mat1", given.get("self"))))
    sides, added = walk.sides(weight), walk.sides(bias)
    if seen is None or sides is None or len(sides) != 2 or walk.seen(bias) is not None:
        return None
    inputs, units = sides[::-1] if "weight" in given else sides
    if "mat1" in given:
        if added is None or added[-1:] != (units,) or prod(added) != units:
            return None
        if not given.get("alpha", 1) == given.get("beta", 1) == 1:
            return None
    order = (0,) if len(seen.shape) == 1 else seen.order
    if order is None or order[-1:] != (len(seen.shape) - 1,) or seen.shape[-1] != inputs:
        return None
    kernel = walk.number(weight)
    if kernel is not None:
        kernel = kernel.T if "weight" in given else kernel
        if len(seen.shape) == 1 and seen.places is not None:
            kernel = kernel[np.argsort(seen.places)]
    weights = {"kernel": kernel}
    if bias is not None:
        numbers = walk.number(bias)
        weights["bias"] = None if numbers is None else numbers.reshape(-1)
    made = walk.add(node, L.Dense(units, bias is not None), seen, weights=weights)
    return made if len(seen.shape) == 1 else like(made, seen)  # the numbers of a row are new ones


# --- pooling -------------------------------------------------------------------------------


def _max_pool(walk: Walk, node: Node) -> Found:
    given, seen = node.arguments, image(walk, node)
    if seen is None:
        return None
    size, strides, pads = _pool(node)
    pads = walk.pads.get(node.reads[0], pads)
    ceil, dilation = bool(given.get("ceil_mode", False)), pair(given.get("dilation"))
    if dilation != (1, 1):
        return _windowed(walk, node, seen, size, strides, pads, dilation)
    padding = pads if ceil and any(pads) else named(pads, seen.shape, size, strides)
    made = walk.add(node, L.MaxPooling2D(size, strides, padding, ceil), seen)
    # The outputs that say where the maxima lay are seen as the maxima are
    places = [name for name in node.outputs[1:] if name]
    readers = [each.operator for each in walk.program.nodes if {*places} & {*each.reads}]
    unpooled = {*readers} == {"max_unpool2d"} and not {*places} & {*walk.program.outputs}
    return {node.name: made, **dict.fromkeys(places, made)} if unpooled else made


def _unpooled(walk: Walk, node: Node) -> Seen | None:
    """Each number back where it was the maximum: in its window, where these do not overlap."""
    seen, places = image(walk, node), walk.seen(node.arguments["indices"])
    pool, shape = walk.producer(node.arguments["indices"].name), walk.program.shapes[node.name]
    if seen is None or places is None or pool is None or not pool.operator.startswith("max_pool2d"):
        return None
    size, strides, pads = _pool(pool)
    whole = (shape[2], shape[3]) == (size[0] * seen.shape[0], size[1] * seen.shape[1])
    if size != strides or any(pads) or not whole or places.shape != seen.shape:
        return None
    layer = L.Opaque(node.operator, (*shape[2:], shape[1]), 0, 0, prod(shape[1:]), "nearest")
    return walk.add(node, layer, seen, places)


def _average_pool(walk: Walk, node: Node) -> Seen | None:
    given, seen = node.arguments, image(walk, node)
    if seen is None:
        return None
    size, strides, pads = _pool(node)
    if given.get("divisor_override") is not None:
        return _windowed(walk, node, seen, size, strides, pads)
    ceil = bool(given.get("ceil_mode", False))
    counted = bool(given.get("count_include_pad", True)) and any(pads)
    padding = pads if ceil and any(pads) else named(pads, seen.shape, size, strides)
    return walk.add(node, L.AveragePooling2D(size, strides, padding, ceil, counted), seen)


def _windowed(
    walk: Walk,
    node: Node,
    seen: Seen,
    size: Pair,
    strides: Pair,
    pads: Pads,
    dilation: Pair = (1, 1),
) -> Seen:
    """A pooling that our layers do not know."""
    channels, rows, columns = walk.program.shapes[node.name][1:]
    work = channels * rows * columns * prod(size)
    shape = rows, columns, channels
    layer = L.Opaque(node.operator, shape, 0, 0, work, "window", size, strides, pads, dilation)
    return walk.add(node, layer, seen)


def _pool(node: Node) -> tuple[Pair, Pair, Pads]:
    size = pair(node.arguments["kernel_size"])
    rows, columns = pair(node.arguments.get("padding"), 0)
    return size, pair(node.arguments.get("stride") or list(size)), (rows, rows, columns, columns)


def _adaptive(largest: bool) -> Rule:
    whole = L.GlobalMaxPooling2D if largest else L.GlobalAveragePooling2D
    parts = L.AdaptiveMaxPooling2D if largest else L.AdaptiveAveragePooling2D

    def rule(walk: Walk, node: Node) -> Seen | None:
        seen = image(walk, node)
        if seen is None:
            return None
        rows, columns = walk.program.shapes[node.name][2:4]
        layer = whole(True) if (rows, columns) == (1, 1) else parts((rows, columns))
        return walk.add(node, layer, seen)

    return rule


def _over_axes(
    kind: type[L.GlobalAveragePooling2D] | type[L.GlobalMaxPooling2D] | None = None,
) -> Rule:
    """One number of each channel's map is a layer of ours; what is over other axes is none."""

    def rule(walk: Walk, node: Node) -> Seen | None:
        given, seen = node.arguments, walk.first(node)
        if seen is None:
            return None
        rank, dims = len(seen.torch_shape) + 1, given.get("dim")
        many = dims if isinstance(dims, list) else [dims]
        axes = sorted({dim % rank for dim in many if isinstance(dim, int)})
        if not axes or 0 in axes:
            return None
        keep, order = bool(given.get("keepdim", False)), seen.order
        plain = len(seen.shape) == 3 and not (keep and seen.places is not None)
        if kind and plain and order and {order[axis - 1] for axis in axes} == {0, 1}:
            return walk.add(node, kind(keep), seen)
        if prod(seen.shape) > MOST_MOVED:
            return None
        over = tuple(axis - 1 for axis in axes)
        first, last = _ends(seen, over)
        made = walk.told(node, [seen], first, last, prod(seen.shape))
        return made if keep else Seen(made.value, made.shape, made.index.squeeze(over))

    return rule


def _ends(seen: Seen, over: tuple[int, ...]) -> tuple[Array, Array]:
    """The first and last place, along rows and columns, that each number of a reduction reads."""
    index, shape = seen.index, seen.shape
    if len(shape) != 3:
        return index.min(axis=over, keepdims=True), index.max(axis=over, keepdims=True)
    depth, width = shape[2], shape[1]
    rows, columns = index // (depth * width), index // depth % width
    first, last = (
        (end(rows, axis=over, keepdims=True) * width + end(columns, axis=over, keepdims=True))
        * depth
        for end in (np.min, np.max)
    )
    return first, last


# --- attention -----------------------------------------------------------------------------

# What may stand between a product of queries with keys and its softmax.
_BETWEEN = ("mul", "div", "add", "view", "reshape", "_unsafe_view", "contiguous", "clone",
            "dropout", "to", "_to_copy")  # fmt: skip


def _product(walk: Walk, node: Node) -> Seen | None:
    """Dense by a constant; of two tensors, where each number comes to see all places of a map."""
    given = node.arguments
    left, right = walk.seen(given.get("self")), walk.seen(given.get("other", given.get("mat2")))
    if left is None or right is None:
        return _linear(walk, node) if node.operator == "matmul" else None
    # It sums over places, compares each place with all, or reads what did so
    summed = _whole(left, (-1,)) or _whole(right, (-2,))
    compared = _whole(left, (-2, -1)) and _whole(right, (-2, -1)) and _softened(walk, node)
    looked = "whole" in (_moves(walk, left), _moves(walk, right))
    return _all_seen(walk, node) if summed or compared or looked else None


def _attention(walk: Walk, node: Node) -> Seen | None:
    """A mean of all values, weighed by how alike a query and their keys are."""
    given, values = node.arguments, walk.seen(node.arguments["value"])
    masked = given.get("is_causal") or given.get("attn_mask") is not None
    if values is None or masked or not _whole(values, (-2,)):
        return None
    return _all_seen(walk, node)


def _all_seen(walk: Walk, node: Node) -> Seen:
    """An operator that is no layer of ours, each of whose numbers reads whole maps."""
    made, layer = walk.opaque(node), walk.draft.layers[-1]
    assert isinstance(layer, L.Opaque)
    walk.draft.layers[-1] = replace(layer, moves="whole")
    return made


def _whole(seen: Seen, axes: tuple[int, ...]) -> bool:
    """Whether the numbers along these axes, together, come from all places of a map."""
    rank = len(seen.torch_shape)
    if len(seen.shape) not in (2, 3) or rank < 2 or prod(seen.shape) > MOST_MOVED:
        return False
    first, last = _ends(seen, tuple(axis % rank for axis in axes))
    depth = seen.shape[-1]
    return bool(np.all(first // depth == 0) and np.all(last // depth == prod(seen.shape[:-1]) - 1))


def _softmax(walk: Walk, node: Node) -> Found:
    """Over channels a layer of ours; over the places of a map, each number sees all of them."""
    seen, own = walk.first(node), POINTWISE["softmax"](walk, node)
    if own or seen is None or len(seen.shape) != 2 or seen.order is None:
        return own
    if node.arguments["dim"] % 3 == 0:
        return None
    layer = L.Opaque(node.operator, seen.shape, 0, 0, prod(seen.shape), "whole")
    return like(walk.add(node, layer, seen), seen)


def _softened(walk: Walk, node: Node) -> bool:
    """Whether all that a product gives passes a softmax first."""
    name = node.name
    while len(readers := walk.readers[name]) == 1:
        (reader,) = readers
        if reader.operator.removesuffix("_").strip("_") == "softmax":
            return True
        if reader.operator.removesuffix("_") not in _BETWEEN or _masks(walk, reader, name):
            return False
        name = reader.name
    return False


def _masks(walk: Walk, node: Node, scores: str) -> bool:
    """Whether what meets the scores here may leave some of them out, as an infinity does."""
    read = [each for each in node.arguments.values() if isinstance(each, Ref)]
    numbers = [walk.number(each) for each in read if each.name != scores]
    return any(each is None or not np.isfinite(each).all() for each in numbers)


_REDUCING = ("amin", "max", "min", "sum", "std", "var", "logsumexp", "linalg_vector_norm", "norm",
             "prod")  # fmt: skip
_RULES: dict[str, Rule] = {
    "conv2d": _conv,
    "convolution": _conv,
    "conv_transpose2d": _transposed,
    "linear": _linear,
    "addmm": _linear,
    "mm": _linear,
    **dict.fromkeys(("matmul", "bmm"), _product),
    "scaled_dot_product_attention": _attention,
    "max_pool2d": _max_pool,
    "max_pool2d_with_indices": _max_pool,
    "max_unpool2d": _unpooled,
    "avg_pool2d": _average_pool,
    "adaptive_avg_pool2d": _adaptive(False),
    "_adaptive_avg_pool2d": _adaptive(False),
    "adaptive_max_pool2d": _adaptive(True),
    "mean": _over_axes(L.GlobalAveragePooling2D),
    "amax": _over_axes(L.GlobalMaxPooling2D),
    **dict.fromkeys(_REDUCING, _over_axes()),
    **NORMS,
    **POINTWISE,
    **dict.fromkeys(("softmax", "_softmax"), _softmax),
    **MOVES,
}
RULES: dict[str, Rule] = {
    **dict.fromkeys(FUNCTIONS, applied),
    **{name: or_applied(rule) if name in FUNCTIONS else rule for name, rule in _RULES.items()},
}
