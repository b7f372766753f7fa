"""ONNX's activations, normalisations and joins as layers: axes stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isclose

import numpy as np

from convwise.core import layers as L
from convwise.core.activations import ACTIVATIONS, spelled
from convwise.formats.onnx.context import (
    Context,
    Read,
    Rule,
    is_grid,
    number,
    numbers,
    on,
    same,
    spread_over,
    unflattened,
)
from convwise.formats.onnx.graph import FIRST
from convwise.formats.onnx.learnt import FEW
from convwise.formats.onnx.nodes import Node, Tensor
from convwise.formats.onnx.patterns import ACTIVATED, DEFAULTS, GROUP_NORM, LAYER_NORM
from convwise.formats.onnx.patterns import GLU as GATED

# --- activations ----------------------------------------------------------------------------

# Operators that an activation is.
_NAMES = {
    row.onnx: name
    for name, row in ACTIVATIONS.items()
    if row.onnx and name not in ("linear", "hard_shrink")
}


def _activation(context: Context, node: Node) -> Read | None:
    given = {
        key: node.attributes.get(key, value) for key, value in DEFAULTS.get(node.kind, {}).items()
    }
    name = _named(node, given)
    return on(context, node, L.Activation(name)) if name else None


def _named(node: Node, given: Mapping[str, float]) -> str:
    """The activation that an operator with these attributes is, '' where it is none of ours."""
    match node.kind:
        case "Gelu":
            return "gelu_tanh" if node.attributes.get("approximate", "none") == "tanh" else "gelu"
        case "HardSigmoid":
            return (
                "hard_sigmoid"
                if isclose(given["alpha"], 1 / 6, rel_tol=1e-3) and given["beta"] == 0.5
                else ""
            )
        case "Shrink":
            kinds = {given["lambd"]: "soft_shrink", 0.0: "hard_shrink"}
            return (
                spelled(kinds[given["bias"]], threshold=given["lambd"])
                if given["bias"] in kinds
                else ""
            )
        case "ThresholdedRelu":
            return spelled("threshold", threshold=given["alpha"])
        case "Selu":
            return (
                "selu"
                if all(isclose(given[k], v, rel_tol=1e-4) for k, v in DEFAULTS["Selu"].items())
                else ""
            )
        case "LeakyRelu":
            return spelled("leaky_relu", negative_slope=given["alpha"])
        case "Swish":
            return "silu" if node.attributes.get("alpha", 1.0) == 1 else ""
    return spelled(_NAMES[node.kind], **given)


def _clip(context: Context, node: Node) -> Read | None:
    bounds = [context.constant(node, place) for place in (1, 2)]
    if len(context.maps(node)) > 1 or any(
        array is not None and array.size != 1 for array in bounds
    ):
        return None
    low, high = (limit if array is None else number(array.reshape(-1)[0])
                 for array, limit in zip(bounds, (-inf, inf), strict=True))  # fmt: skip
    return on(context, node, L.Activation(_bounded(low, high)))


def _bounded(low: float, high: float) -> str:
    """The activation that keeps x between two numbers."""
    if low == 0:
        return "relu6" if high == 6 else spelled("relu", max_value=high)
    return spelled("hard_tanh", min_val=low, max_val=high)


def is_over(context: Context, node: Node, ours: int, axis: int | None) -> bool:
    """Whether a softmax is over one of our axes alone; before opset 13, over all from `axis` on."""
    value, shape = context.values[node.inputs[0]], context.graph.shapes[node.inputs[0]]
    start = (-1 if context.graph.opset >= 13 else 1) if axis is None else axis
    first = start % len(shape)
    axes = {first} if context.graph.opset >= 13 else set(range(first, len(shape)))
    wanted = value.order.index(ours)
    return {axis for axis in axes if shape[axis] > 1 or axis == wanted} == {wanted}


def _over_channels(context: Context, node: Node, axis: int | None) -> bool:
    return is_over(context, node, len(context.graph.shapes[node.inputs[0]]) - 1, axis)


def _softmax(context: Context, node: Node) -> Read | None:
    name = _NAMES[node.kind]
    return (
        on(context, node, L.Activation(name))
        if _over_channels(context, node, node.attributes.get("axis"))
        else None
    )


def _composed(context: Context, node: Node) -> Read | None:
    name = node.attributes["activation"]
    fits = ACTIVATIONS[name.partition("(")[0]].elementwise or _over_channels(
        context, node, node.attributes["axis"]
    )
    return on(context, node, L.Activation(name)) if fits else None


def _prelu(context: Context, node: Node) -> Read | None:
    slopes, given = context.constant(node, 1), context.ours(node.inputs[0])
    alpha = None if slopes is None else context.turned(slopes, node.inputs[0])
    if alpha is None:
        return None
    shared = tuple(
        axis
        for axis, (n, whole) in enumerate(zip(alpha.shape, given, strict=True), 1)
        if n == 1 < whole
    )
    return on(context, node, L.PReLU(shared), alpha=alpha)


def _glu(context: Context, node: Node) -> Read | None:
    value = context.values[node.inputs[0]]
    return (
        on(context, node, L.GLU())
        if value.order[node.attributes["axis"]] == len(value.order) - 1
        else None
    )


# --- normalisation --------------------------------------------------------------------------


def _batch_norm(context: Context, node: Node) -> Read | None:
    value = context.values[node.inputs[0]]
    vectors = [context.constant(node, place) for place in range(1, 5)]
    if value.order[1] != len(value.order) - 1 or any(array is None for array in vectors):
        return None
    if node.attributes.get("training_mode", 0):
        return None
    turned = [
        unflattened(array, value.flat) if value.flat else array
        for array in vectors
        if array is not None
    ]
    layer = L.BatchNormalization(
        node.attributes.get("epsilon", 1e-5), min(node.attributes.get("momentum", 0.9), 0.9999)
    )
    return on(
        context,
        node,
        layer,
        **dict(zip(("gamma", "beta", "moving_mean", "moving_variance"), turned, strict=True)),
    )


def _channel_norm(context: Context, node: Node) -> Read | None:
    """InstanceNormalization has a group per channel; GroupNormalization before opset 21 a scale per
    group.
    """
    scale, shift, x = context.constant(node, 1), context.constant(node, 2), node.inputs[0]
    if scale is None or shift is None or not context.first(x):
        return None
    channels = context.ours(x)[2]
    if not context.affords(2 * channels - scale.size - shift.size):
        return None
    groups = node.attributes.get("num_groups", channels)
    gamma, beta = (np.repeat(array, channels // array.size) for array in (scale, shift))
    return on(
        context,
        node,
        L.GroupNormalization(groups, node.attributes.get("epsilon", 1e-5)),
        gamma=gamma,
        beta=beta,
    )


def _group_norm(context: Context, node: Node) -> Read | None:
    """Scale and shift follow, and are taken in by the layer."""
    groups, epsilon = node.attributes["groups"], node.attributes["epsilon"]
    fits = (
        context.values[node.inputs[0]].order in (FIRST, (0, 1))
        and not context.values[node.inputs[0]].flat
    )
    return on(context, node, L.GroupNormalization(groups, epsilon, False, False)) if fits else None


def _layer_norm(context: Context, node: Node) -> Read | None:
    x, rank = node.inputs[0], len(context.graph.shapes[node.inputs[0]])
    value = context.values[x]
    start = node.attributes.get("axis", -1) % rank
    axes = node.attributes["axes"] if node.kind == LAYER_NORM else range(start, rank)
    ours = tuple(sorted(value.order[axis] for axis in axes))
    if 0 in ours or value.flat:
        return None
    learnt = {key: context.constant(node, place) for key, place in (("gamma", 1), ("beta", 2))}
    if any(
        array is None for array, name in zip(learnt.values(), node.inputs[1:], strict=False) if name
    ):
        return None
    spread = {
        key: spread_over(context, array, x, ours)
        for key, array in learnt.items()
        if array is not None
    }
    if any(array is None for array in spread.values()):
        return None
    axis, epsilon = (-1,) if ours == (rank - 1,) else ours, node.attributes.get("epsilon", 1e-5)
    return on(
        context,
        node,
        L.LayerNormalization(axis, epsilon, "beta" in spread, "gamma" in spread),
        **spread,
    )


# --- joins and constants --------------------------------------------------------------------

_JOINED: dict[str, type[L.Layer]] = {"Add": L.Add, "Sum": L.Add, "Sub": L.Subtract,
                                     "Mul": L.Multiply,
                                     "Mean": L.Average, "Max": L.Maximum,
                                     "Min": L.Minimum}  # fmt: skip


def _joined(context: Context, node: Node) -> Read | None:
    maps = context.maps(node)
    if len(maps) == 1:
        return same(context, node) if len(node.inputs) == 1 else _with_constant(context, node)
    value = context.values[maps[0]]
    alike = all(context.values[name] == value for name in maps) and len(maps) == len(node.inputs)
    return Read(_JOINED[node.kind](), value, maps) if alike and node.kind in _JOINED else None


def _with_constant(context: Context, node: Node) -> Read | None:
    """A tensor and a constant: numbers for all, or per channel."""
    if len(node.inputs) != 2 or len(context.maps(node)) != 1:
        return None
    x = context.maps(node)[0]
    array = context.graph.constants[next(name for name in node.inputs if name != x)]
    given = context.per_channel(array, x)
    if given is None or context.graph.shapes[node.outputs[0]] != context.graph.shapes[x]:
        return None
    if array.dtype.kind in "iub" or (node.kind == "Div" and not np.all(given)):
        return None  # whole numbers are divided, and overflow, otherwise
    steps = given.size > FEW and is_grid(given)
    read = _limited(node.kind, given) if node.kind in ("Max", "Min") else None
    if (
        read is None
        and given.size > FEW
        and (node.kind == "Mul" or (node.kind == "Div" and node.inputs[0] == x))
    ):
        if steps:
            return None
        gamma = np.broadcast_to(given if node.kind == "Mul" else 1 / given, (given.size,))
        return Read(L.LayerScale(), context.values[x], (x,), {"gamma": gamma})
    layer = read or _affine(node, given, node.inputs[0] == x)
    learnt = given.size if node.kind in ("Add", "Sub") and given.size > FEW and not steps else 0
    return None if layer is None else Read(layer, context.values[x], (x,), learnt=learnt)


def _limited(kind: str, given: Tensor) -> L.Layer | None:
    if given.size != 1:
        return None
    low, high = (number(given[0]), inf) if kind == "Max" else (-inf, number(given[0]))
    return L.Activation(_bounded(low, high))


def _affine(node: Node, given: Tensor, ahead: bool) -> L.Layer | None:
    """ahead: the tensor comes first, which matters for Sub and Div."""
    match node.kind, ahead:
        case ("Add", _):
            return L.Rescaling(1.0, numbers(given))
        case ("Mul", _):
            return L.Rescaling(numbers(given))
        case ("Sub", True):
            return L.Rescaling(1.0, numbers(-given))
        case ("Sub", False):
            return L.Rescaling(-1.0, numbers(given))
        case ("Div", True):
            return L.Rescaling(
                tuple(1 / float(each) for each in (given[:1] if len(set(given)) == 1 else given))
            )
    return None


def _concat(context: Context, node: Node) -> Read | None:
    value, maps = context.values[context.maps(node)[0]], context.maps(node)
    constants = [context.graph.constants.get(name) for name in node.inputs if name not in maps]
    empty = all(each is not None and not each.size for each in constants)
    alike = all(context.values[name] == value for name in maps) and empty and not value.flat
    if alike and len(maps) == 1:
        return Read(None, value, maps)
    if not alike or value.order[node.attributes["axis"]] != len(value.order) - 1:
        return None
    return Read(L.Concatenate(), value, maps)


POINTWISE: dict[str, Rule] = {
    **dict.fromkeys([*_NAMES, "ThresholdedRelu", "Swish"], _activation),
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "Clip": _clip,
    "PRelu": _prelu,
    "Neg": lambda context, node: on(context, node, L.Rescaling(-1.0)),
    ACTIVATED: _composed,
    GATED: _glu,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _channel_norm,
    "GroupNormalization": _channel_norm,
    "LayerNormalization": _layer_norm,
    GROUP_NORM: _group_norm,
    LAYER_NORM: _layer_norm,
    **dict.fromkeys([*_JOINED, "Div"], _joined),
    "Concat": _concat,
}
