"""How an ONNX graph's tensors lie in our order of axes, and what a rule says of an operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from convwise.core.layers import Layer
from convwise.formats.onnx.graph import FIRST, Graph
from convwise.formats.onnx.nodes import Node, Shape, Tensor
from convwise.formats.onnx.values import MOST_NUMBERS
from convwise.formats.weights import channels_last


@dataclass(frozen=True)
class Value:
    """How a tensor lies: order[i] is which of our axes (0 the batch) its axis i is, () where it is
    no such shape.

    flat: of a row that was a map (height, width, channels) and is in the order channels, height,
    width.
    """

    order: Shape
    flat: Shape = ()


ROW = Value((0, 1))


@dataclass(frozen=True)
class Read:
    """What an operator is: a layer, or None where it changes nothing, on the tensors that it reads.

    learnt: numbers of the layer that are taken for parameters, and are no weights of its type;
    before: a layer that the tensor passes first.
    """

    layer: Layer | None
    value: Value
    reads: tuple[str, ...]
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    learnt: int = 0
    before: Layer | None = None


class Context:
    """The graph, and how each tensor read so far lies."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.uses: Counter[str] = graph.uses
        self.values: dict[str, Value] = {graph.image: Value(graph.order)}
        self.single: set[str] = set()  # numbers that a whole map is quantised by
        self.wanted = _wanted(graph)
        self._kernels: dict[tuple[int, type[Layer], Shape], tuple[Tensor, Tensor]] = {}
        self._left = MOST_NUMBERS

    def constant(self, node: Node, place: int) -> Tensor | None:
        return self.graph.constants.get(node.inputs[place]) if len(node.inputs) > place else None

    def maps(self, node: Node) -> tuple[str, ...]:
        """The inputs that come from the image."""
        known = self.graph.constants, self.graph.hidden, self.single
        return tuple(
            name for name in node.inputs if name and not any(name in each for each in known)
        )

    def ours(self, name: str, value: Value | None = None) -> Shape:
        """The tensor's shape in our order, without the batch."""
        order, shape = (value or self.values[name]).order, self.graph.shapes[name]
        return tuple(shape[order.index(axis)] for axis in range(1, len(order))) if order else shape

    def first(self, name: str) -> bool:
        """Whether the tensor is a map with its channels first."""
        return self.values[name].order == FIRST

    def affords(self, more: int) -> bool:
        """Whether weights may grow by so many numbers when they are spread out: in all, no more
        than are computed.
        """
        self._left -= max(more, 0)
        return self._left >= 0

    def turned_once(self, layer: Layer, kernel: Tensor, shape: Shape) -> Tensor:
        """A constant kernel in our layout; the same array wherever it is read in the same way."""
        key = id(kernel), type(layer), shape
        if key not in self._kernels:  # with the constant, so that no other gets its id
            self._kernels[key] = kernel, channels_last(layer, kernel, shape)
        return self._kernels[key][1]

    def turned(self, array: Tensor, name: str) -> Tensor | None:
        """A constant that meets the tensor, in our order; sides of 1 where it is repeated."""
        value, rank = self.values[name], len(self.graph.shapes[name])
        if not value.order or array.ndim > rank:
            return None
        full = array.reshape([1] * (rank - array.ndim) + list(array.shape))
        full = full.transpose(np.argsort(value.order))
        if full.shape[0] != 1:
            return None
        if value.flat and full.size > 1:
            return unflattened(full[0], value.flat)
        return np.asarray(full[0])

    def per_channel(self, array: Tensor, name: str) -> Tensor | None:
        """One number, or one per channel."""
        turned = self.turned(array, name)
        fits = turned is not None and turned.size == turned.shape[-1]
        return turned.reshape(-1) if turned is not None and fits else None


MAPS = (
    "AveragePool", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace", "GlobalAveragePool",
    "GlobalMaxPool", "InstanceNormalization", "MaxPool", "QLinearConv", "SpaceToDepth",
)  # fmt: skip


def _wanted(graph: Graph) -> frozenset[str]:
    """The tensors that must be maps, channels first, for what reads them, directly or later."""
    found: set[str] = set()
    for node in reversed(graph.nodes):
        if node.kind in MAPS or (node.outputs[0] in found and node.kind not in _TURNING):
            found.update(
                name for name in node.inputs if len(graph.shapes.get(name, ())) == len(FIRST)
            )
    return frozenset(found)


# Operators whose output has other axes than what they read
_TURNING = ("Einsum", "Flatten", "Gemm", "MatMul", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def unflattened(rows: Tensor, flat: Shape) -> Tensor:
    """An array whose first axis is in the order channels, height, width, in our order."""
    height, width, channels = flat
    turned = np.moveaxis(rows.reshape(channels, height, width, *rows.shape[1:]), 0, 2)
    return np.ascontiguousarray(turned.reshape(rows.shape))


Rule = Callable[[Context, Node], Read | None]


def same(context: Context, node: Node) -> Read | None:
    """What changes nothing."""
    return Read(None, context.values[node.inputs[0]], (node.inputs[0],))


def on(context: Context, node: Node, layer: Layer, **weights: Tensor | None) -> Read:
    """A layer whose output lies as its input."""
    given = {key: array for key, array in weights.items() if array is not None}
    return Read(layer, context.values[node.inputs[0]], (node.inputs[0],), given)


def is_grid(array: Tensor) -> bool:
    """Whether a constant says places or steps, as the anchors of detectors do: whole and half
    numbers, not all alike.

    Trained weights are no such numbers, and those that are not trained are all alike, or drawn.
    """
    return (
        array.size > 1
        and bool(np.isfinite(array).all() and np.ptp(array))
        and not np.any(array * 2 % 1)
    )


def number(value: Any) -> float:
    """As short as float32 allows; 1 / 255 stays what it was."""
    short = float(str(np.float32(value)))
    part = 1 / round(1 / short) if 0 < short < 0.1 else short
    return part if np.float32(part) == np.float32(value) else short


def numbers(array: Tensor) -> tuple[float, ...]:
    """The numbers of a constant; one, where they are all the same."""
    flat = tuple(number(each) for each in array.reshape(-1))
    return flat[:1] if len(set(flat)) == 1 else flat


def spread_over(context: Context, array: Tensor, name: str, axes: Sequence[int]) -> Tensor | None:
    """A constant over some of our axes of the tensor; None where it changes along others."""
    turned, given = context.turned(array, name), context.ours(name)
    if turned is None or any(n > 1 for axis, n in enumerate(turned.shape, 1) if axis not in axes):
        return None
    sides = [n if axis in axes else 1 for axis, n in enumerate(given, 1)]
    kept = [n for axis, n in enumerate(given, 1) if axis in axes]
    if not context.affords(prod(kept) - array.size):
        return None
    return np.broadcast_to(turned, sides).reshape(kept)
