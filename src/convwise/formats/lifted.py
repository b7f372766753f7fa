"""What reading a model gives, and the draft that the readers of every format fill."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core.calculus import analyse
from convwise.core.layers import Activation, Add, Average, Layer, Opaque, Rescaling
from convwise.core.net import INPUT, Net, fresh, is_mirror
from convwise.core.problems import Problem, UnusableInput
from convwise.formats.weights import Weights, require_own

SIZE = "the size of its images"  # what is expected where a model takes images of any
LONGEST = 200  # letters of a layer's name: of modules inside modules they reach 100


@dataclass(frozen=True)
class Lifted:
    """A model that was read.

    weights: in Keras's layouts, without those of Opaque layers; empty where the source has none, or
    where the numbers of some are not known. classes: their names. problems: what to know of it.
    trainable: how many params of a layer learn, where they are not those
    that its type lets expect: frozen layers, Opaque ones. params: how many it holds, where that is
    another number: of weights that are made of others, are another layer's, or are no parameters.
    buffers: numbers that it holds besides, which PyTorch calls no parameters. outputs: the layers
    that give what the model answers besides, after the net's last.
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
    """A net in the making; values of the source (tensors) stand for the layers that give them."""

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

    def add(
        self,
        value: Hashable,
        layer: Layer,
        name: str,
        reads: Sequence[Hashable],
        weights: Mapping[str, NDArray[np.generic]] | None = None,
    ) -> str:
        """A layer that gives `value` from the values it reads; returns the name it got."""
        word, inputs = self.fresh(name or layer.op.lower()), tuple(map(self.source, reads))
        named = replace(layer, name=word, inputs=inputs)
        self.layers.append(named)
        self._layer_of[value] = named.name
        for key, array in (weights or {}).items():
            self.weights[f"{named.name}/{key}"] = np.ascontiguousarray(array, np.float32)
        return named.name

    def opaque(
        self,
        value: Hashable,
        operator: str,
        shape: tuple[int, ...],
        name: str,
        reads: Sequence[Hashable],
        params: int = -1,
        **known: Any,
    ) -> str:
        """An operator that is none of our layers.

        shape: of its output, without the batch, channels last; () is one number. known: macs,
        elementwise and moves, where they are.
        """
        return self.add(value, Opaque(operator, shape or (1,), params, **known), name, reads)

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
            what = f"reads {value!r}, which does not come from its image"
            raise UnusableInput("model", what, "one image as input")
        return self._layer_of[value]

    def fresh(self, name: str) -> str:
        """The name as a word that is not taken yet: 'block1/conv.2' gives 'block1_conv_2'."""
        word = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")[:LONGEST] or "layer"
        found = fresh(word if word[0].isalpha() else f"layer_{word}", self._taken, self._numbers)
        self._taken.add(found)
        return found

    def lifted(self, classes: Sequence[str] = (), outputs: Sequence[Hashable] = ()) -> Lifted:
        """The net, checked: ShapeError where a layer misfits, UnusableInput where weights do.

        outputs: the values that the model answers with, the first first; by default one, that of
        the last layer.
        """
        names = list(dict.fromkeys(map(self.source, outputs))) or [self.layers[-1].name]
        end = self._end(names)
        net = Net(self.input_shape, tuple(self.layers))
        if self.weights:
            require_own(net, self.weights)
        more = tuple(name for name in names if name not in (end, INPUT))
        told = tuple(self.problems), self.trainable, self.params, self.buffers
        return with_view(Lifted(net, self.weights, tuple(classes), *told, more))

    def _end(self, names: Sequence[str]) -> str:
        """The output that becomes the last layer: the first that none reads, else one passed on."""
        read = {name for layer in self.layers for name in (*layer.inputs, layer.shares)}
        free = [layer for layer in self.layers if layer.name in names and layer.name not in read]
        if not free:
            self.layers.append(Activation("linear", name=self.fresh("output"), inputs=(names[0],)))
            return names[0]
        end = min(free, key=lambda layer: names.index(layer.name))
        self.layers.remove(end)
        self.layers.append(end)
        return end.name


# --- a mirrored view ------------------------------------------------------------------------


def with_view(lifted: Lifted) -> Lifted:
    """A net that answers with the mean over an image and its mirror image has a mirrored view.

    Any other net stays as it is.
    """
    net, end = lifted.net, lifted.net.layers[-1]
    mirrors = [layer.name for layer in net.layers if is_mirror(layer)]
    if len(mirrors) != 1 or lifted.outputs:
        return lifted
    halves = _halves(net, end)
    if not halves and not isinstance(end, Average):
        return lifted
    mean = [net[end.inputs[0]], end] if halves else [end]
    behind = {mirrors[0]}  # what the mirror image leads to
    for layer in net.layers:
        behind |= {layer.name} if behind & {*layer.inputs} else set()
    first = [layer for layer in net.layers if layer.name not in behind]
    others = behind - {*mirrors, *(layer.name for layer in mean)}
    second = [layer for layer in net.layers if layer.name in others]
    if not first or len(first) != len(second) or not _alike(lifted, first, second, mirrors[0]):
        return lifted
    if sorted(mean[0].inputs) != sorted([first[-1].name, second[-1].name]):
        return lifted
    kept = {layer.name for layer in first}
    weights = {key: array for key, array in lifted.weights.items() if key.partition("/")[0] in kept}
    told: dict[str, Any] = {
        name: {key: value for key, value in getattr(lifted, name).items() if key in kept}
        for name in ("trainable", "params", "buffers")
    }
    one_view = Net(net.input_shape, tuple(first), mirrored_view=True)
    return replace(lifted, net=one_view, weights=weights, **told)


def _halves(net: Net, layer: Layer) -> bool:
    """Whether a layer gives half the sum of two."""
    sum_of = net[layer.inputs[0]] if layer.inputs != (INPUT,) else layer
    half = isinstance(layer, Rescaling) and (*layer.scale, *layer.offset) == (0.5, 0.0)
    return half and isinstance(sum_of, Add) and len(sum_of.inputs) == 2


def _alike(lifted: Lifted, first: Sequence[Layer], second: Sequence[Layer], mirror: str) -> bool:
    """Whether the second layers do to the mirror image what the first do, with their weights."""
    names, rows = {INPUT: mirror}, {row.name: row for row in analyse(lifted.net).layers}
    # Of two maps it is another mean: left and right of one have changed places
    if len(rows[first[-1].name].output_shape) != 1:
        return False
    for one, other in zip(first, second, strict=True):
        names[one.name] = other.name
        inputs = tuple(names.get(name, "") for name in one.inputs)
        mirrored = replace(one, name="", inputs=inputs, shares="")
        if mirrored != replace(other, name="", shares=""):
            return False
        shared = other.shares == (one.shares or one.name) or not rows[one.name].params
        if not shared and not _same(lifted.weights, one, other):
            return False
    return True


def _same(weights: Weights, one: Layer, other: Layer) -> bool:
    """Whether two layers are known to have the same numbers."""
    own, others = (
        {key.rpartition("/")[2]: weights[key] for key in weights if key.startswith(f"{name}/")}
        for name in (one.name, other.name)
    )
    if not own or own.keys() != others.keys():
        return False
    return all(np.array_equal(own[key], others[key]) for key in own)
