"""Put together again: modules that torch.export takes apart, and layers that our writer splits.

The first are of several operators, the second of several modules ('conv', 'conv_relu').
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core import layers as L
from convwise.core.activations import activation, spelled
from convwise.core.layer_windows import transposed_crops
from convwise.core.layers import Layer
from convwise.core.net import Net
from convwise.core.windows import Shape
from convwise.formats.lifted import Draft
from convwise.formats.lowering.calls import shapes_of
from convwise.formats.torch.places import Seen
from convwise.formats.torch.pointwise import joined, unary
from convwise.formats.torch.program import Node, Ref
from convwise.formats.torch.rules import cropped, named
from convwise.formats.torch.walk import Walk, pair

Array = NDArray[Any]
Convolution = L.Conv2D | L.DepthwiseConv2D

# --- modules of several operators -----------------------------------------------------------


def composite(walk: Walk, group: Sequence[Node]) -> Seen | None:
    """The layer that the operators of one module call are, if they are those of a known module."""
    kind = group[-1].stack[-1][2].rpartition(".")[2] if group[-1].stack else ""
    operators, rule = COMPOSITES.get(kind, (frozenset(), None))
    known = rule is not None and len(group) > 1 and {node.operator for node in group} <= operators
    if rule is None or not known or not _read(walk, group):
        return None
    try:
        return rule(walk, group)
    except (StopIteration, ValueError, KeyError):  # another module of that name
        return None


def _read(walk: Walk, group: Sequence[Node]) -> tuple[str, ...]:
    """What a group reads from outside it, of the image."""
    names = (name for node in group for name in node.reads if name in walk.values)
    return tuple(dict.fromkeys(names))


def _activated(
    name: str, **arguments: tuple[str, str]
) -> Callable[[Walk, Sequence[Node]], Seen | None]:
    """arguments: of ours, the operator and the argument that it is read from."""

    def rule(walk: Walk, group: Sequence[Node]) -> Seen | None:
        found = {ours: _number(group, *theirs) for ours, theirs in arguments.items()}
        given = {ours: number for ours, number in found.items() if number is not None}
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


def _parts(walk: Walk, group: Sequence[Node]) -> list[Seen]:
    """The tensors of the image that a group reads, each as often as it does."""
    return [walk.values[name] for node in group for name in node.reads if name in walk.values]


def _average(walk: Walk, group: Sequence[Node]) -> Seen | None:
    parts = _parts(walk, group)
    exact = len(group) == len(parts) and _number(group, "div", "other") == len(parts)
    return joined(walk, group[-1], L.Average, parts) if exact else None


def _joining(kind: type[Layer]) -> Callable[[Walk, Sequence[Node]], Seen | None]:
    """Three inputs and more are taken apart into pairs."""

    def rule(walk: Walk, group: Sequence[Node]) -> Seen | None:
        parts = _parts(walk, group)
        plain = all(node.arguments.get("alpha", 1) == 1 for node in group)
        exact = len(group) == len(parts) - 1 and plain
        return joined(walk, group[-1], kind, parts) if exact else None

    return rule


def _average_pool(walk: Walk, group: Sequence[Node]) -> Seen | None:
    (read,) = _read(walk, group)
    pads = next((node.arguments["pad"] for node in group if node.operator == "pad"), [0, 0, 0, 0])
    pool = next(node.arguments for node in group if node.operator == "avg_pool2d")
    (left, right, top, bottom), size = pads, pair(pool["kernel_size"])
    strides, seen = pair(pool.get("stride") or list(size)), walk.standard(walk.values[read])
    padding = named((top, bottom, left, right), seen.shape, size, strides)
    return walk.add(group[-1], L.AveragePooling2D(size, strides, padding), seen)


def _stored(walk: Walk, group: Sequence[Node]) -> list[Array]:
    """The stored arrays that a group reads."""
    arrays = (walk.program.constant(name) for node in group for name in node.reads)
    return [array for array in arrays if array is not None]


def _normalization(walk: Walk, group: Sequence[Node]) -> Seen | None:
    (read,) = _read(walk, group)
    mean, deviation = (tuple(map(float, array.reshape(-1))) for array in _stored(walk, group))
    layer = L.Normalization(mean, tuple(float(np.float64(d) ** 2) for d in deviation))
    return unary(walk, replace(group[-1], arguments={"self": _ref(group, read)}), layer)


def _local_response(walk: Walk, group: Sequence[Node]) -> Seen | None:
    """Each number over those of the channels around it; its operations are counted as for ONNX."""
    (read,) = _read(walk, group)
    seen = walk.standard(walk.values[read])
    pool = next(node for node in group if node.operator == "avg_pool3d")
    work = prod(seen.shape) * (int(pool.arguments["kernel_size"][0]) + 3)
    layer = L.Opaque("local_response_norm", seen.shape, 0, 0, work, "same")
    return walk.add(group[-1], layer, seen)


def _placed_prelu(walk: Walk, group: Sequence[Node]) -> Seen | None:
    (read,) = _read(walk, group)
    seen = walk.standard(walk.values[read])
    alpha = next(iter(_stored(walk, group)))
    turned = alpha.transpose(1, 2, 0) if alpha.ndim == 3 else alpha
    if turned.ndim != len(seen.shape):
        return None
    shared = tuple(axis for axis, n in enumerate(turned.shape, 1) if n == 1)
    return walk.add(group[-1], L.PReLU(shared), seen, weights={"alpha": turned})


_SPARSEMAX = frozenset(("movedim", "sort", "cumsum", "sub", "arange", "mul", "gt", "sum", "gather",
                        "div", "clamp", "permute"))  # fmt: skip
_LOCAL_RESPONSE = frozenset(("mul", "unsqueeze", "view", "reshape", "pad", "avg_pool3d", "squeeze",
                             "add", "pow", "div"))  # fmt: skip
Composite = tuple[frozenset[str], Callable[[Walk, Sequence[Node]], Seen | None] | None]
COMPOSITES: dict[str, Composite] = {
    "Softsign": (frozenset({"abs", "add", "div"}), _activated("softsign")),
    "Tanhshrink": (frozenset({"tanh", "sub"}), _activated("tanh_shrink")),
    "Softmin": (frozenset({"neg", "softmax"}), _activated("softmin")),
    "GeneralReLU": (
        frozenset({"gt", "mul", "clamp", "sub", "rsub", "relu"}),
        _activated(
            "relu",
            max_value=("clamp", "max"),
            threshold=("gt", "other"),
            negative_slope=("mul", "other"),
        ),
    ),
    "Squareplus": (
        frozenset({"mul", "add", "sqrt", "div"}),
        _activated("squareplus", b=("add", "other")),
    ),
    "SparsePlus": (
        frozenset({"lt", "clamp", "add", "pow", "div", "where"}),
        _activated("sparse_plus"),
    ),
    "SparseSigmoid": (frozenset({"clamp", "add", "div"}), _activated("sparse_sigmoid")),
    "Sparsemax": (
        _SPARSEMAX,
        _activated("sparsemax"),
    ),
    "Average": (frozenset({"add", "div"}), _average),
    "Add": (frozenset({"add"}), _joining(L.Add)),
    "Multiply": (frozenset({"mul"}), _joining(L.Multiply)),
    "Maximum": (frozenset({"maximum"}), _joining(L.Maximum)),
    "Minimum": (frozenset({"minimum"}), _joining(L.Minimum)),
    "AveragePool": (frozenset({"ones_like", "slice", "pad", "avg_pool2d", "div"}), _average_pool),
    "Normalization": (frozenset({"view", "sub", "div"}), _normalization),
    "LocalResponseNorm": (
        _LOCAL_RESPONSE,
        _local_response,
    ),
    "PlacedPReLU": (frozenset({"gt", "mul", "where"}), _placed_prelu),
}

# --- layers of several modules --------------------------------------------------------------


def folded(draft: Draft) -> None:
    """Layers that only our writer names so, 'conv' and 'conv_relu', become the one they were.

    The names are all that tells them apart: a convolution with an activation of its own, and a
    convolution with a layer of activation behind it, are traced as the same operators, and so are
    all the pairs of `_whole`. By structure alone one of each two would come back as the other, and
    what others wrote as two layers would be told as one.
    """
    if not any(map(_suffix, draft.layers, draft.layers[1:])):
        return
    shapes = shapes_of(Net(draft.input_shape, tuple(draft.layers)))
    renamed, at = dict[str, str](), 1
    while at < len(draft.layers):
        first, second = draft.layers[at - 1 : at + 1]
        readers = [each for each in draft.layers if first.name in each.inputs]
        alone = second.inputs == (first.name,) and len(readers) == 1
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
    """'relu' of 'conv' and 'conv_relu', 'pad' of 'conv_pad' and 'conv', else ''.

    The second call of a shared layer has a number at the end: 'conv_1' and 'conv_relu_1'. A name
    that PyTorch reserves was written with an underscore more: 'Add_' and 'Add__pad'.
    """
    numbers = [re.sub(r".*_(?=\d+$)", "", each.name) for each in (first, second)]
    again = first.shares or second.shares or (numbers[0].isdigit() and numbers[0] == numbers[1])
    one, two = (
        each.shares or (re.sub(r"_\d+$", "", each.name) if again else each.name)
        for each in (first, second)
    )
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
        case (
            L.DepthwiseConv2D(use_bias=False, activation="linear"),
            L.Conv2D(kernel_size=(1, 1), groups=1),
            "conv2d",
        ):
            return _separable(first, second)
        case L.Conv2DTranspose(activation="linear"), L.Cropping2D(), "zeropad2d":
            both = zip(transposed_crops(first), second.cropping, strict=True)
            top, bottom, left, right = (own + more for own, more in both)
            return cropped(first, (top, bottom, left, right))
        case (
            L.GlobalAveragePooling2D(keepdims=True) | L.GlobalMaxPooling2D(keepdims=True),
            L.Flatten(),
            "flatten",
        ):
            return replace(first, keepdims=False)
        case (
            L.Conv2D()
            | L.DepthwiseConv2D()
            | L.SeparableConv2D()
            | L.Conv2DTranspose()
            | L.Dense(),
            L.Activation(),
            _,
        ):
            same = first.activation == "linear" and suffix == _written(second.activation)
            return replace(first, activation=second.activation) if same else None
        case (
            L.ZeroPadding2D(),
            L.Conv2D(padding="valid") | L.DepthwiseConv2D(padding="valid"),
            "pad",
        ):
            window = second.kernel_size, second.strides, second.dilation_rate
            padding = named(first.padding, shape, *window)
            return replace(second, padding=padding, inputs=first.inputs)
        case L.ZeroPadding2D(), L.AveragePooling2D(padding="valid"), "pad":
            pads = first.padding
            return replace(second, padding=pads, count_include_pad=True, inputs=first.inputs)
    return None


def _written(name: str) -> str:
    """The end of the name of the module that our writer makes of an activation."""
    found = activation(name)
    general = found.name == "relu" and found.changed
    return "generalrelu" if general else found.torch.partition("(")[0].lower()


def _separable(first: L.DepthwiseConv2D, second: L.Conv2D) -> L.SeparableConv2D | None:
    if second.strides != (1, 1) or second.padding not in ("valid", "same"):
        return None
    return L.SeparableConv2D(
        filters=second.filters,
        kernel_size=first.kernel_size,
        strides=first.strides,
        padding=first.padding,
        depth_multiplier=first.depth_multiplier,
        dilation_rate=first.dilation_rate,
        use_bias=second.use_bias,
        activation=second.activation,
        name=first.name,
        inputs=first.inputs,
        shares=first.shares,
    )
