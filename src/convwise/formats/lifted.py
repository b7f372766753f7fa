"""What reading a model gives, and the draft that the readers of every format fill."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core.layers import Activation, Layer, Opaque
from convwise.core.net import INPUT, Net, fresh
from convwise.core.problems import Problem, UnusableInput
from convwise.formats.weights import Weights, checked


@dataclass(frozen=True)
class Lifted:
    """A model that was read: its net, its weights in Keras's layouts, its class names, and what to know of it.

    weights: without those of Opaque layers; empty where the source has none, or where the numbers of some are
    not known. trainable: how many params of a layer learn, where they are not those that its type lets expect:
    frozen layers, Opaque ones. params: how many it holds, where that is another number: of weights that are made
    of others, are another layer's, or are no parameters. buffers: numbers that it holds besides, which PyTorch calls
    no parameters. outputs: the layers that give what the model answers besides, after the net's last.
    """

    net: Net
    weights: Weights = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    trainable: Mapping[str, int] = field(default_factory=dict)
    params: Mapping[str, int] = field(default_factory=dict)
    buffers: Mapping[str, int] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()


class Draft:
    """A net in the making. Values of the source (tensors, nodes) stand for the layers that give them."""

    def __init__(self, input_shape: tuple[int, int, int], image: Hashable) -> None:
        self.input_shape = input_shape
        self.layers: list[Layer] = []
        self.weights: Weights = {}
        self.problems: list[Problem] = []
        self.trainable: dict[str, int] = {}
        self.params: dict[str, int] = {}
        self.buffers: dict[str, int] = {}
        self._layer_of: dict[Hashable, str] = {image: INPUT}
        self._taken = {INPUT}
        self._numbers: dict[str, int] = {}

    def add(self, value: Hashable, layer: Layer, name: str, reads: Sequence[Hashable],
            weights: Mapping[str, NDArray[np.generic]] | None = None) -> str:  # fmt: skip
        """A layer that gives `value` from the values it reads; returns the name it got."""
        named = replace(layer, name=self.fresh(name or layer.op.lower()), inputs=tuple(self.source(v) for v in reads))
        self.layers.append(named)
        self._layer_of[value] = named.name
        for key, array in (weights or {}).items():
            self.weights[f"{named.name}/{key}"] = np.ascontiguousarray(array, np.float32)
        return named.name

    def opaque(self, value: Hashable, operator: str, shape: tuple[int, ...], name: str, reads: Sequence[Hashable],
               params: int = -1, **known: Any) -> str:  # fmt: skip
        """An operator that is none of our layers, with the shape of its output (without the batch, channels last).

        known: macs, elementwise and moves, where they are.
        """
        return self.add(value, Opaque(operator, shape or (1,), params, **known), name, reads)  # () is one number

    def same(self, value: Hashable, as_value: Hashable) -> None:
        """`value` is `as_value`: an operator that changes nothing was left out."""
        self._layer_of[value] = self.source(as_value)

    def renamed(self, names: Mapping[str, str]) -> None:
        """The layers of these names have become others: what they gave, those give."""
        self._layer_of = {value: names.get(name, name) for value, name in self._layer_of.items()}

    def knows(self, value: Hashable) -> bool:
        """Whether the value comes from the image."""
        return value in self._layer_of

    def source(self, value: Hashable) -> str:
        """The name of the layer that gives a value."""
        if value not in self._layer_of:
            raise UnusableInput("model", f"reads {value!r}, which does not come from its image", "one image as input")
        return self._layer_of[value]

    def fresh(self, name: str) -> str:
        """The name as a word that is not taken yet: 'block1/conv.2' gives 'block1_conv_2'."""
        word = re.sub(r"\W+", "_", name).strip("_") or "layer"
        found = fresh(word if word[0].isalpha() else f"layer_{word}", self._taken, self._numbers)
        self._taken.add(found)
        return found

    def lifted(self, classes: Sequence[str] = (), outputs: Sequence[Hashable] = ()) -> Lifted:
        """The net, checked: ShapeError where a layer does not fit, UnusableInput where weights are not its own.

        outputs: the values that the model answers with, the first first; by default the last layer's.
        """
        names = list(dict.fromkeys(map(self.source, outputs))) or [self.layers[-1].name]
        end = self._end(names)
        net = Net(self.input_shape, tuple(self.layers))
        if self.weights:
            checked(net, self.weights)
        more = tuple(name for name in names if name not in (end, INPUT))
        told = self.trainable, self.params, self.buffers
        return Lifted(net, self.weights, tuple(classes), tuple(self.problems), *told, more)

    def _end(self, names: Sequence[str]) -> str:
        """The output that becomes the last layer: the first that no layer reads, else the first of all, passed on."""
        read = {name for layer in self.layers for name in (*layer.inputs, layer.shares)}
        free = [layer for layer in self.layers if layer.name in names and layer.name not in read]
        if not free:
            self.layers.append(Activation("linear", name=self.fresh("output"), inputs=(names[0],)))
            return names[0]
        end = min(free, key=lambda layer: names.index(layer.name))
        self.layers.remove(end)
        self.layers.append(end)
        return end.name
