"""What torch.export takes apart and our writer splits, put together again: modules of several operators, layers of
several modules ('conv', 'conv_relu')."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core import layers as L
from convwise.core.activations import activation, spelled
from convwise.core.geometry import transposed_crops
from convwise.core.layers import Layer
from convwise.core.net import Net
from convwise.core.windows import Shape
from convwise.formats.lifted import Draft
from convwise.formats.lowering.calls import shapes_of
from convwise.formats.torch.places import Seen
from convwise.formats.torch.pointwise import joined, unary
from convwise.formats.torch.pt2 import Node, Ref, is_float
from convwise.formats.torch.rules import cropped, named
from convwise.formats.torch.walk import Walk, pair

Array = NDArray[Any]
Convolution = L.Conv2D | L.DepthwiseConv2D

# --- modules of several operators -----------------------------------------------------------


def composite(walk: Walk, group: Sequence[Node]) -> Seen | None:
    """The layer that the operators of one module call are, if they are just those of a module that is known."""
    kind = group[-1].stack[-1][2].rpartition(".")[2] if group[-1].stack else ""
    operators, rule = COMPOSITES.get(kind, (frozenset(), None))
    known = rule is not None and len(group) > 1 and {node.operator for node in group} <= operators
    if rule is None or not known or not _read(walk, group):
        return None
    try:
        return rule(walk, group)
    except (StopIteration, ValueError, KeyError):  # a module of that name, but not the one that is known
        return None


def _read(walk: Walk, group: Sequence[Node]) -> tuple[str, ...]:
    """What a group reads from outside it, of the image."""
    names = (name for node in group for name in node.reads if name in walk.values)
    return tuple(dict.fromkeys(names))


def _activated(name: str, **arguments: tuple[str, str]) -> Callable[[Walk, Sequence[Node]], Seen | None]:
    """arguments: of ours, the operator and the argument that it is read from."""

    def rule(walk: Walk, group: Sequence[Node]) -> Seen | None:
        given = {ours: found for ours, (operator, key) in arguments.items()
                 if (found := _number(group, operator, key)) is not None}  # fmt: skip
        (read,) = _read(walk, group)
        layer = L.Activation(spelled(name, **given))
        return unary(walk, replace(group[-1], arguments={"self": _ref(group, read)}), layer)

    return rule


def _ref(group: Sequence[Node], name: str) -> Any:
    values = (value for node in group for value in node.arguments.values())
    return next(value for value in values if isinstance(value, Ref) and value.name == name)


def _number(group: Sequence[Node], operator: str, key: str) -> float | None:
    for node in group:
        value = node.arguments.get(key)
        if node.operator == operator and isinstance(value, (int, float)):
            return float(value)
    return None


def _average(walk: Walk, group: Sequence[Node]) -> Seen | None:
    parts = [walk.values[name] for node in group for name in node.reads if name in walk.values]
    exact = len(group) == len(parts) and _number(group, "div", "other") == len(parts)
    return joined(walk, group[-1], L.Average, parts) if exact else None


def _joining(kind: type[Layer]) -> Callable[[Walk, Sequence[Node]], Seen | None]:
    """Three inputs and more are taken apart into pairs."""

    def rule(walk: Walk, group: Sequence[Node]) -> Seen | None:
        parts = [walk.values[name] for node in group for name in node.reads if name in walk.values]
        plain = len(group) == len(parts) - 1 and all(node.arguments.get("alpha", 1) == 1 for node in group)
        return joined(walk, group[-1], kind, parts) if plain else None

    return rule


def _average_pool(walk: Walk, group: Sequence[Node]) -> Seen | None:
    (read,) = _read(walk, group)
    pads = next((node.arguments["pad"] for node in group if node.operator == "pad"), [0, 0, 0, 0])
    pool = next(node.arguments for node in group if node.operator == "avg_pool2d")
    (left, right, top, bottom), size = pads, pair(pool["kernel_size"])
    strides, seen = pair(pool.get("stride") or list(size)), walk.standard(walk.values[read])
    padding = named((top, bottom, left, right), seen.shape, size, strides)
    return walk.add(group[-1], L.AveragePooling2D(size, strides, padding), seen)


def _normalization(walk: Walk, group: Sequence[Node]) -> Seen | None:
    stored = [array for node in group for name in node.reads if (array := walk.program.constant(name)) is not None]
    (read,) = _read(walk, group)
    mean, deviation = (tuple(map(float, array.reshape(-1))) for array in stored)
    layer = L.Normalization(mean, tuple(float(np.float64(d) ** 2) for d in deviation))
    return unary(walk, replace(group[-1], arguments={"self": _ref(group, read)}), layer)


def _placed_prelu(walk: Walk, group: Sequence[Node]) -> Seen | None:
    (read,) = _read(walk, group)
    seen = walk.standard(walk.values[read])
    alpha = next(array for node in group for name in node.reads if (array := walk.program.constant(name)) is not None)
    turned = alpha.transpose(1, 2, 0) if alpha.ndim == 3 else alpha
    if turned.ndim != len(seen.shape):
        return None
    shared = tuple(axis for axis, n in enumerate(turned.shape, 1) if n == 1)
    return walk.add(group[-1], L.PReLU(shared), seen, weights={"alpha": turned})


Composite = tuple[frozenset[str], Callable[[Walk, Sequence[Node]], Seen | None] | None]
COMPOSITES: dict[str, Composite] = {
    "Softsign": (frozenset({"abs", "add", "div"}), _activated("softsign")),
    "Tanhshrink": (frozenset({"tanh", "sub"}), _activated("tanh_shrink")),
    "Softmin": (frozenset({"neg", "softmax"}), _activated("softmin")),
    "GeneralReLU": (
        frozenset({"gt", "mul", "clamp", "sub", "rsub", "relu"}),
        _activated("relu", max_value=("clamp", "max"), threshold=("gt", "other"), negative_slope=("mul", "other")),
    ),
    "Squareplus": (frozenset({"mul", "add", "sqrt", "div"}), _activated("squareplus", b=("add", "other"))),
    "SparsePlus": (frozenset({"lt", "clamp", "add", "pow", "div", "where"}), _activated("sparse_plus")),
    "SparseSigmoid": (frozenset({"clamp", "add", "div"}), _activated("sparse_sigmoid")),
    "Sparsemax": (
        frozenset(
            ["movedim", "sort", "cumsum", "sub", "arange", "mul", "gt", "sum", "gather", "div", "clamp", "permute"]
        ),
        _activated("sparsemax"),
    ),
    "Average": (frozenset({"add", "div"}), _average),
    "Add": (frozenset({"add"}), _joining(L.Add)),
    "Multiply": (frozenset({"mul"}), _joining(L.Multiply)),
    "Maximum": (frozenset({"maximum"}), _joining(L.Maximum)),
    "Minimum": (frozenset({"minimum"}), _joining(L.Minimum)),
    "AveragePool": (frozenset({"ones_like", "slice", "pad", "avg_pool2d", "div"}), _average_pool),
    "Normalization": (frozenset({"view", "sub", "div"}), _normalization),
    "PlacedPReLU": (frozenset({"gt", "mul", "where"}), _placed_prelu),
}

# --- constants ------------------------------------------------------------------------------


def _arithmetic(function: Callable[..., Array]) -> Callable[..., Array | None]:
    return lambda arrays, given, shape: None if any(each is None for each in arrays) else function(*arrays)


def _first(function: Callable[[Array, Mapping[str, Any], Shape], Array | None]) -> Callable[..., Array | None]:
    return lambda arrays, given, shape: None if arrays[0] is None else function(arrays[0], given, shape)


_RESHAPED = _first(lambda array, given, shape: array.reshape(shape))
CONSTANTS: dict[str, Callable[..., Array | None]] = {
    **dict.fromkeys(("view", "reshape", "flatten", "unsqueeze", "squeeze", "_unsafe_view"), _RESHAPED),
    **dict.fromkeys(("clone", "contiguous", "detach", "alias", "lift_fresh_copy", "type_as"),
                    _first(lambda array, given, shape: array)),
    **dict.fromkeys(("to", "_to_copy"),
                    _first(lambda array, given, shape: array if is_float(given) else None)),
    **dict.fromkeys(("expand", "expand_as"), _first(lambda array, given, shape: np.broadcast_to(array, shape))),
    "permute": _first(lambda array, given, shape: array.transpose(given["dims"])),
    "transpose": _first(lambda array, given, shape: array.swapaxes(given["dim0"], given["dim1"])),
    "t": _first(lambda array, given, shape: array.T),
    "numpy_T": _first(lambda array, given, shape: array.T),
    "add": _arithmetic(np.add),
    "sub": _arithmetic(np.subtract),
    "mul": _arithmetic(np.multiply),
    "div": _arithmetic(np.divide),
    "sqrt": _arithmetic(np.sqrt),
    "exp": _arithmetic(np.exp),
    "neg": _arithmetic(np.negative),
    "rsqrt": _arithmetic(lambda array: 1 / np.sqrt(array)),
    "pow": _arithmetic(np.power),
}  # fmt: skip

# --- layers of several modules --------------------------------------------------------------


def folded(draft: Draft) -> None:
    """Layers that only our writer names so ('conv' and 'conv_relu') become the one that they were written from."""
    if not any(map(_suffix, draft.layers, draft.layers[1:])):
        return
    shapes, renamed, at = shapes_of(Net(draft.input_shape, tuple(draft.layers))), dict[str, str](), 1
    while at < len(draft.layers):
        first, second = draft.layers[at - 1 : at + 1]
        alone = second.inputs == (first.name,) and sum(first.name in each.inputs for each in draft.layers) == 1
        suffix = _suffix(first, second)
        whole = _whole(first, second, suffix, shapes[first.inputs[0]]) if alone and suffix else None
        if whole is None:
            at += 1
            continue
        shapes[whole.name] = shapes[second.name]
        renamed |= {first.name: whole.name, second.name: whole.name}
        _replaced(draft, at, first, second, whole)
        at = max(at - 1, 1)
    draft.renamed(renamed)
    for i, layer in enumerate(draft.layers):
        draft.layers[i] = replace(layer, shares=renamed.get(layer.shares, layer.shares))


def _suffix(first: Layer, second: Layer) -> str:
    """'relu' of 'conv' and 'conv_relu', 'pad' of 'conv_pad' and 'conv', '' where the names say nothing.

    The second call of a shared layer has a number at the end: 'conv_1' and 'conv_relu_1'. A name that PyTorch
    reserves was written with an underscore more: 'Add_' and 'Add__pad'.
    """
    numbers = [re.sub(r".*_(?=\d+$)", "", each.name) for each in (first, second)]
    again = first.shares or second.shares or (numbers[0].isdigit() and numbers[0] == numbers[1])
    one, two = (each.shares or (re.sub(r"_\d+$", "", each.name) if again else each.name) for each in (first, second))
    one, two = (re.sub("_+", "_", name) for name in (one, two))
    if one == f"{two}_pad":
        return "pad"
    return two.removeprefix(f"{one}_") if two.startswith(f"{one}_") else ""


def _replaced(draft: Draft, at: int, first: Layer, second: Layer, whole: Layer) -> None:
    """One layer for two; their weights, and whoever reads them, follow."""
    draft.layers[at - 1 : at + 1] = [whole]
    for i, layer in enumerate(draft.layers[at:], at):
        inputs = tuple(whole.name if name == second.name else name for name in layer.inputs)
        draft.layers[i] = replace(layer, inputs=inputs)
    for told in (draft.params, draft.trainable, draft.buffers):
        told[whole.name] = sum(told.pop(layer.name, 0) for layer in (first, second))
    separable = isinstance(whole, L.SeparableConv2D)
    for layer in (first, second):
        for key in [key for key in draft.weights if key.startswith(f"{layer.name}/")]:
            kind = key.rpartition("/")[2]
            if separable and kind == "kernel":
                kind = "depthwise_kernel" if layer is first else "pointwise_kernel"
            draft.weights[f"{whole.name}/{kind}"] = draft.weights.pop(key)


def _whole(first: Layer, second: Layer, suffix: str, shape: Shape) -> Layer | None:
    """The layer that was written as these two, which read a map of `shape`."""
    match first, second, suffix:
        case L.DepthwiseConv2D(use_bias=False, activation="linear"), L.Conv2D(kernel_size=(1, 1), groups=1), "conv2d":
            return _separable(first, second)
        case L.Conv2DTranspose(activation="linear"), L.Cropping2D(), "zeropad2d":
            top, bottom, left, right = (a + b for a, b in zip(transposed_crops(first), second.cropping, strict=True))
            return cropped(first, (top, bottom, left, right))
        case L.GlobalAveragePooling2D(keepdims=True) | L.GlobalMaxPooling2D(keepdims=True), L.Flatten(), "flatten":
            return replace(first, keepdims=False)
        case (L.Conv2D() | L.DepthwiseConv2D() | L.SeparableConv2D() | L.Conv2DTranspose() | L.Dense(),
              L.Activation(), _):  # fmt: skip
            same = first.activation == "linear" and suffix == _written(second.activation)
            return replace(first, activation=second.activation) if same else None
        case L.ZeroPadding2D(), L.Conv2D(padding="valid") | L.DepthwiseConv2D(padding="valid"), "pad":
            padding = named(first.padding, shape, second.kernel_size, second.strides, second.dilation_rate)
            return replace(second, padding=padding, inputs=first.inputs)
        case L.ZeroPadding2D(), L.AveragePooling2D(padding="valid"), "pad":
            return replace(second, padding=first.padding, count_include_pad=True, inputs=first.inputs)
    return None


def _written(name: str) -> str:
    """The end of the name of the module that our writer makes of an activation."""
    found = activation(name)
    return "generalrelu" if found.name == "relu" and found.changed else found.torch.partition("(")[0].lower()


def _separable(first: L.DepthwiseConv2D, second: L.Conv2D) -> L.SeparableConv2D | None:
    if second.strides != (1, 1) or second.padding not in ("valid", "same"):
        return None
    return L.SeparableConv2D(
        second.filters, first.kernel_size, first.strides, first.padding, first.depth_multiplier, first.dilation_rate,
        second.use_bias, second.activation, name=first.name, inputs=first.inputs, shares=first.shares,
    )  # fmt: skip
