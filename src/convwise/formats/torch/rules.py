"""What each ATen operator is as a layer. A rule gives None where it is none: then it becomes Opaque.

Arguments that an operator was not given are at the defaults of its schema.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from convwise.core import layers as L
from convwise.core.geometry import layer_weights, transposed_crops
from convwise.core.layers import Layer
from convwise.core.parameters import Pads, Pair
from convwise.core.windows import NO_PADS, Shape, pads_of
from convwise.formats.torch.moves import MOVES
from convwise.formats.torch.pointwise import POINTWISE, like
from convwise.formats.torch.pt2 import Node
from convwise.formats.torch.walk import Array, Rule, Seen, Walk, image, pair
from convwise.formats.weights import channels_last


def _missing(walk: Walk, node: Node, *names: str) -> bool:
    """Whether an argument is given whose numbers are not stored."""
    return any(node.arguments.get(name) is not None and walk.number(node.arguments[name]) is None for name in names)


def named(pads: Pads, shape: Shape, kernel: Pair, strides: Pair, dilation: Pair = (1, 1)) -> str | Pads:
    """The padding as a person writes it."""
    if pads == NO_PADS:
        return "valid"
    return "same" if pads == pads_of("same", shape, kernel, strides, dilation) else pads


# --- convolutions --------------------------------------------------------------------------


def _conv(walk: Walk, node: Node) -> Seen | None:
    given = node.arguments
    if given.get("transposed"):
        return _transposed(walk, node)
    seen, kernel = image(walk, node), walk.number(given["weight"])
    if seen is None or kernel is None or kernel.ndim != 4 or _missing(walk, node, "bias"):
        return None
    size, strides, dilation = pair(list(kernel.shape[2:])), pair(given.get("stride")), pair(given.get("dilation"))
    padding = given.get("padding", 0)
    if not isinstance(padding, str):
        rows, columns = pair(padding, 0)
        padding = named((rows, rows, columns, columns), seen.shape, size, strides, dilation)
    groups, channels, filters = given.get("groups", 1), seen.shape[2], kernel.shape[0]
    common: dict[str, Any] = {"kernel_size": size, "strides": strides, "padding": padding, "dilation_rate": dilation,
                              "use_bias": given.get("bias") is not None}  # fmt: skip
    if groups == channels > 1 and filters % channels == 0:
        return _weighted(walk, node, L.DepthwiseConv2D(depth_multiplier=filters // channels, **common), seen, kernel)
    return _weighted(walk, node, L.Conv2D(filters, groups=groups, **common), seen, kernel)


def _transposed(walk: Walk, node: Node) -> Seen | None:
    given = node.arguments
    seen, kernel = image(walk, node), walk.number(given["weight"])
    if seen is None or kernel is None or kernel.ndim != 4 or _missing(walk, node, "bias"):
        return None
    groups, size, extra = given.get("groups", 1), pair(list(kernel.shape[2:])), pair(given.get("output_padding"), 0)
    rows, columns = pair(given.get("padding"), 0)
    layer = L.Conv2DTranspose(
        kernel.shape[1] * groups, size, pair(given.get("stride")), (rows, rows, columns, columns), extra,
        pair(given.get("dilation")), groups, given.get("bias") is not None,
    )  # fmt: skip
    return _weighted(walk, node, cropped(layer, transposed_crops(layer)), seen, kernel)


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


def _weighted(walk: Walk, node: Node, layer: Layer, seen: Seen, kernel: Array) -> Seen:
    """The layer with its kernel turned into our order, and its bias."""
    weights = {"kernel": channels_last(layer, kernel, layer_weights(layer, seen.shape)["kernel"])}
    bias = walk.number(node.arguments.get("bias"))
    return walk.add(node, layer, seen, weights=weights if bias is None else {**weights, "bias": bias})


def _linear(walk: Walk, node: Node) -> Seen | None:
    given = node.arguments
    kernel = walk.number(given.get("weight", given.get("mat2", given.get("other"))))
    seen = walk.seen(given.get("input", given.get("mat1", given.get("self"))))
    if seen is None or kernel is None or kernel.ndim != 2 or _missing(walk, node, "bias"):
        return None
    kernel = kernel.T if "weight" in given else kernel
    order, bias = seen.order, walk.number(given.get("bias", given.get("self") if "mat1" in given else None))
    if "mat1" in given:
        if bias is None or bias.shape[-1:] != kernel.shape[1:] or bias.size != kernel.shape[1]:
            return None
        if not given.get("alpha", 1) == given.get("beta", 1) == 1:
            return None
        bias = bias.reshape(-1)
    if len(seen.shape) == 1:
        kernel = kernel if seen.places is None else kernel[np.argsort(seen.places)]
        order = (0,)
    if order is None or order[-1:] != (len(seen.shape) - 1,) or seen.shape[-1] != kernel.shape[0]:
        return None
    weights = {"kernel": kernel} if bias is None else {"kernel": kernel, "bias": bias}
    made = walk.add(node, L.Dense(kernel.shape[1], bias is not None), seen, weights=weights)
    return like(made, seen)


# --- pooling -------------------------------------------------------------------------------


def _max_pool(walk: Walk, node: Node) -> Seen | None:
    given, seen = node.arguments, image(walk, node)
    if seen is None or pair(given.get("dilation")) != (1, 1):
        return None
    size, strides, pads = _pool(node)
    pads = walk.pads.get(node.reads[0], pads)
    ceil = bool(given.get("ceil_mode", False))
    padding = pads if ceil and any(pads) else named(pads, seen.shape, size, strides)
    return walk.add(node, L.MaxPooling2D(size, strides, padding, ceil), seen)


def _average_pool(walk: Walk, node: Node) -> Seen | None:
    given, seen = node.arguments, image(walk, node)
    if seen is None or given.get("divisor_override") is not None:
        return None
    size, strides, pads = _pool(node)
    ceil, counted = bool(given.get("ceil_mode", False)), bool(given.get("count_include_pad", True)) and any(pads)
    padding = pads if ceil and any(pads) else named(pads, seen.shape, size, strides)
    return walk.add(node, L.AveragePooling2D(size, strides, padding, ceil, counted), seen)


def _pool(node: Node) -> tuple[Pair, Pair, Pads]:
    size = pair(node.arguments["kernel_size"])
    rows, columns = pair(node.arguments.get("padding"), 0)
    return size, pair(node.arguments.get("stride") or list(size)), (rows, rows, columns, columns)


def _adaptive(largest: bool) -> Rule:
    whole, parts = (
        (L.GlobalMaxPooling2D, L.AdaptiveMaxPooling2D) if largest else
        (L.GlobalAveragePooling2D, L.AdaptiveAveragePooling2D)
    )  # fmt: skip

    def rule(walk: Walk, node: Node) -> Seen | None:
        seen = image(walk, node)
        rows, columns = (walk.program.shapes[node.name][2:] if seen else (0, 0))[:2]
        if seen is None:
            return None
        return walk.add(node, whole(True) if (rows, columns) == (1, 1) else parts((rows, columns)), seen)

    return rule


def _over_axes(kind: type[L.GlobalAveragePooling2D] | type[L.GlobalMaxPooling2D]) -> Rule:
    """The mean (largest) over rows and columns; over other axes it is no layer of ours."""

    def rule(walk: Walk, node: Node) -> Seen | None:
        seen = walk.seen(node.arguments["self"])
        if seen is None or seen.order is None or len(seen.shape) != 3:
            return None
        dims = node.arguments.get("dim")
        axes = {seen.order[dim % 4 - 1] for dim in (dims if isinstance(dims, list) else [dims or 0]) if dim % 4}
        keep = bool(node.arguments.get("keepdim", False))
        if axes != {0, 1} or (keep and seen.places is not None):
            return None
        return walk.add(node, kind(keep), seen)

    return rule


# --- normalisation -------------------------------------------------------------------------


def _batch_norm(walk: Walk, node: Node) -> Seen | None:
    given, seen = node.arguments, walk.seen(node.arguments["input"])
    mean, variance = walk.number(given.get("running_mean")), walk.number(given.get("running_var"))
    if seen is None or mean is None or variance is None or given.get("training") or len(seen.shape) not in (1, 3):
        return None
    seen = seen if len(seen.shape) == 1 else walk.standard(seen)
    weights = {**_affine(walk, node), "moving_mean": mean, "moving_variance": variance}
    if len(seen.shape) == 1 and seen.places is not None:
        weights = {key: value[np.argsort(seen.places)] for key, value in weights.items()}
    momentum = 1 - (given.get("momentum") or 0.1)
    layer = L.BatchNormalization(given.get("eps", 1e-5), round(momentum, 12), "beta" in weights, "gamma" in weights)
    return like(walk.add(node, layer, seen, weights=weights), seen)


def _affine(walk: Walk, node: Node) -> dict[str, Array]:
    found = {"gamma": walk.number(node.arguments.get("weight")), "beta": walk.number(node.arguments.get("bias"))}
    return {key: value for key, value in found.items() if value is not None}


def _group_norm(walk: Walk, node: Node) -> Seen | None:
    given, seen = node.arguments, walk.seen(node.arguments["input"])
    if seen is None or len(seen.shape) not in (1, 3) or _missing(walk, node, "weight", "bias", "running_mean"):
        return None
    seen, weights = walk.standard(seen), _affine(walk, node)
    groups = given.get("num_groups", seen.shape[-1])
    if len(seen.shape) == 3 and given.get("running_mean") is None:
        layer = L.GroupNormalization(groups, given.get("eps", 1e-5), "beta" in weights, "gamma" in weights)
        return walk.add(node, layer, seen, weights=weights)
    return None


def _layer_norm(walk: Walk, node: Node) -> Seen | None:
    given, seen = node.arguments, walk.seen(node.arguments["input"])
    if seen is None or seen.order is None or _missing(walk, node, "weight", "bias"):
        return None
    last = seen.order[-len(given["normalized_shape"]) :]
    turn = np.argsort(last)
    weights = {key: value.transpose(turn) for key, value in _affine(walk, node).items()}
    axes = (-1,) if last == (len(seen.shape) - 1,) else tuple(sorted(axis + 1 for axis in last))
    layer = L.LayerNormalization(axes, given.get("eps", 1e-5), "beta" in weights, "gamma" in weights)
    return like(walk.add(node, layer, seen, weights=weights), seen)


RULES: dict[str, Rule] = {
    "conv2d": _conv,
    "convolution": _conv,
    "conv_transpose2d": _transposed,
    "linear": _linear,
    "addmm": _linear,
    "mm": _linear,
    "matmul": _linear,
    "max_pool2d": _max_pool,
    "max_pool2d_with_indices": _max_pool,
    "avg_pool2d": _average_pool,
    "adaptive_avg_pool2d": _adaptive(False),
    "_adaptive_avg_pool2d": _adaptive(False),
    "adaptive_max_pool2d": _adaptive(True),
    "mean": _over_axes(L.GlobalAveragePooling2D),
    "amax": _over_axes(L.GlobalMaxPooling2D),
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "group_norm": _group_norm,
    "instance_norm": _group_norm,
    "layer_norm": _layer_norm,
    **POINTWISE,
    **MOVES,
}
