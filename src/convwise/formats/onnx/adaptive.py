"""Adaptive average pooling as PyTorch's exporter writes it where its windows differ: px picked by
index, then averaged.

The operators are worked out on random numbers: where they give the averages of the windows, they
are that pooling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from convwise.formats.onnx.graph import Graph
from convwise.formats.onnx.nodes import Node, Shape, Tensor

MOST_STEPS = 400  # operators that are worked out for one pooling
MOST_NUMBERS = 2**22  # that one of them may give
_PICKING = ("Gather", "GatherND")


def adaptive(graph: Graph, makers: Mapping[str, Node], node: Node) -> str:
    """The map that is averaged to the operator's rows and columns; '' where none is."""
    out = graph.shapes[node.outputs[0]]
    if node.kind not in ("Div", "Mul", "ReduceMean") or len(out) != 4 or min(out[2:]) < 2:
        return ""
    worked = _Worked(graph, makers)
    try:
        given = worked.out(node.outputs[0])
    except (_Unknown, IndexError, KeyError, RecursionError, TypeError, ValueError):
        return ""  # other operators, or what does not fit
    read = worked.numbers.get(worked.source)
    if read is None or read.shape[:2] != out[:2] or given.shape != out:
        return ""
    return worked.source if np.allclose(given, _averages(read, out[2:])) else ""


def _averages(array: Tensor, sides: Shape) -> Tensor:
    """As nn.AdaptiveAvgPool2d: unit i averages floor(i n / m) to before ceil((i + 1) n / m)."""
    for axis, units in zip((2, 3), sides, strict=True):
        n = array.shape[axis]
        windows = [range(i * n // units, -(-(i + 1) * n // units)) for i in range(units)]
        array = np.stack([array.take(window, axis).mean(axis) for window in windows], axis)
    return array


class _Unknown(Exception):
    """An operator that no such pooling has."""


class _Worked:
    """What operators give for a random map."""

    def __init__(self, graph: Graph, makers: Mapping[str, Node]) -> None:
        self.graph, self.makers, self.source = graph, makers, ""
        self.numbers: dict[str, Tensor] = {}

    def out(self, name: str) -> Tensor:
        """The numbers of a tensor."""
        if name in self.graph.constants:
            return self.graph.constants[name]
        if name not in self.numbers:
            self.numbers[name] = self._made(self.makers[name], self.graph.shapes[name])
        return self.numbers[name]

    def _made(self, node: Node, shape: Shape) -> Tensor:
        if node.kind not in _RULES or prod(shape) > MOST_NUMBERS or len(self.numbers) > MOST_STEPS:
            raise _Unknown
        if node.kind in _PICKING:
            self._begin(node.inputs[0])
        return _RULES[node.kind](
            [self.out(each) for each in node.inputs if each], node.attributes, shape
        )

    def _begin(self, name: str) -> None:
        """The map that is read is the one of which px are picked, perhaps turned for that."""
        turned = self.makers.get(name)
        name = turned.inputs[0] if turned and turned.kind == "Transpose" else name
        shape = self.graph.shapes[name]
        if len(shape) == 4 and name not in self.numbers:
            if self.source or prod(shape) > MOST_NUMBERS:
                raise _Unknown
            self.source = name
            self.numbers[name] = np.random.default_rng(0).normal(size=shape)


Reads = list[Tensor]
Attributes = Mapping[str, Any]


def _sliced(reads: Reads, attributes: Attributes, shape: Shape) -> Tensor:
    array, starts, ends, *more = reads
    axes = more[0] if more else range(len(starts))
    steps = more[1] if len(more) > 1 else [1] * len(starts)
    places = [slice(None)] * array.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        places[int(axis)] = slice(int(start), int(end), int(step))
    return np.asarray(array[tuple(places)])


def _reduced(by: Callable[..., Any]) -> Callable[[Reads, Attributes, Shape], Tensor]:
    def rule(reads: Reads, attributes: Attributes, shape: Shape) -> Tensor:
        axes = reads[1] if len(reads) > 1 else attributes["axes"]
        return np.asarray(by(reads[0], tuple(int(axis) for axis in axes))).reshape(shape)

    return rule


def _picked(reads: Reads, attributes: Attributes, shape: Shape) -> Tensor:
    if attributes.get("batch_dims", 0):
        raise _Unknown
    return np.asarray(reads[0][tuple(np.moveaxis(reads[1], -1, 0))])


_RULES: dict[str, Callable[[Reads, Attributes, Shape], Tensor]] = {
    "Transpose": lambda reads, attributes, shape: reads[0].transpose(attributes["perm"]),
    **dict.fromkeys(
        ("Reshape", "Squeeze", "Unsqueeze"),
        lambda reads, attributes, shape: reads[0].reshape(shape),
    ),
    "Gather": lambda reads, attributes, shape: reads[0].take(reads[1], attributes.get("axis", 0)),
    "GatherND": _picked,
    "Slice": _sliced,
    "Where": lambda reads, attributes, shape: np.where(*reads),
    "Cast": lambda reads, attributes, shape: reads[0],
    "Identity": lambda reads, attributes, shape: reads[0],
    "Add": lambda reads, attributes, shape: np.add(*reads),
    "Mul": lambda reads, attributes, shape: np.multiply(*reads),
    "Div": lambda reads, attributes, shape: np.divide(*reads),
    "ReduceMean": _reduced(np.mean),
    "ReduceSum": _reduced(np.sum),
}
