"""What the rules look at: a net with its analysis, who reads what, and the path that all takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from convwise.core import layers as L
from convwise.core.calculus import Analysis, LayerCost, analyse
from convwise.core.field import Field
from convwise.core.geometry import GEOMETRY
from convwise.core.net import INPUT, Net
from convwise.core.problems import Severity
from convwise.core.windows import Shape, Window

Conv = L.Conv2D | L.DepthwiseConv2D | L.SeparableConv2D | L.Conv2DTranspose
CONVS = (L.Conv2D, L.DepthwiseConv2D, L.SeparableConv2D, L.Conv2DTranspose)
NORMS = (L.BatchNormalization, L.GroupNormalization, L.LayerNormalization)
DROPOUTS = (
    L.Dropout, L.SpatialDropout2D, L.AlphaDropout,
    L.GaussianDropout, L.GaussianNoise, L.StochasticDepth,
)  # fmt: skip
# Activations that are chosen for an output, or for nothing.
OUTPUTS = ("linear", "softmax", "log_softmax", "softmin", "sigmoid", "sparsemax", "log_sigmoid")


@dataclass(frozen=True)
class Edit:
    """One change of one layer, of three forms.

    changes: other parameters. instead: the layers that take its place, each reading the one
    before. reads: the layer is left out, and its readers read this one.
    """

    layer: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    instead: tuple[L.Layer, ...] = ()
    reads: str = ""


@dataclass(frozen=True)
class Case:
    """One place where a rule holds. severity: where it is not the rule's own."""

    layers: tuple[str, ...]
    what: str
    expected: str
    fix: str = ""
    edits: tuple[Edit, ...] = ()
    severity: Severity | None = None


@dataclass(frozen=True)
class Context:
    """A net as the rules see it.

    scale_px: the measured scale of the data, in px of the net's input, or None; vector: float32
    lanes of the machine; outputs: layers that answer besides the last.
    """

    net: Net
    scale_px: float | None = None
    vector: int = 16
    outputs: tuple[str, ...] = ()

    @cached_property
    def analysis(self) -> Analysis:
        """The exact cost of the net."""
        return analyse(self.net)

    @cached_property
    def layers(self) -> Mapping[str, L.Layer]:
        """The layers by name."""
        return {layer.name: layer for layer in self.net.layers}

    @cached_property
    def rows(self) -> Mapping[str, LayerCost]:
        """The costs by name."""
        return {row.name: row for row in self.analysis.layers}

    @cached_property
    def readers(self) -> Mapping[str, list[L.Layer]]:
        """For each layer and the input, who reads it."""
        found: dict[str, list[L.Layer]] = {name: [] for name in (INPUT, *self.layers)}
        for layer in self.net.layers:
            for name in dict.fromkeys(layer.inputs):
                found[name].append(layer)
        return found

    @property
    def last(self) -> L.Layer:
        """The output."""
        return self.net.layers[-1]

    def each(self, *kinds: type[L.Layer]) -> Iterator[Any]:
        """The layers of these types, in order."""
        return (layer for layer in self.net.layers if isinstance(layer, kinds))

    def shape(self, name: str) -> Shape:
        """The output shape of a layer or of the input."""
        return self.net.input_shape if name == INPUT else self.rows[name].output_shape

    def given(self, layer: L.Layer) -> Shape:
        """The shape of what a layer reads (first)."""
        return self.shape(layer.inputs[0])

    def seen(self, name: str) -> Field:
        """The receptive field of a layer or of the input."""
        return Field() if name == INPUT else self.rows[name].field

    def window(self, layer: L.Layer) -> Window | None:
        """The moving window of a layer, where it has one."""
        return GEOMETRY[type(layer)].window(layer, self.given(layer))

    def reader(self, layer: L.Layer) -> L.Layer | None:
        """The only reader of a layer; None where there are more or fewer."""
        readers = self.readers[layer.name]
        return readers[0] if len(readers) == 1 and len(readers[0].inputs) == 1 else None

    def after(
        self, layer: L.Layer, passing: Callable[[L.Layer], bool]
    ) -> tuple[list[L.Layer], L.Layer | None]:
        """Along only readers: the layers for which `passing` holds, then the first other one."""
        passed: list[L.Layer] = []
        following = self.reader(layer)
        while following is not None and passing(following):
            passed.append(following)
            following = self.reader(following)
        return passed, following

    def is_tied(self, layer: L.Layer) -> bool:
        """Whether a layer's weights serve more than one layer."""
        return bool(layer.shares) or layer.name in self._shared

    @cached_property
    def _shared(self) -> set[str]:
        return {layer.shares for layer in self.net.layers if layer.shares}

    @cached_property
    def trunk(self) -> tuple[L.Layer, ...]:
        """The layers that every path from input to output passes: none in a branch or residual."""
        order = {name: number for number, name in enumerate((INPUT, *self.layers))}
        furthest, found = -1, []
        reach = {
            name: max((order[r.name] for r in readers), default=-1)
            for name, readers in self.readers.items()
        }
        for name, number in order.items():
            if number >= furthest and name != INPUT:
                found.append(self.layers[name])
            furthest = max(furthest, reach[name])
        return tuple(found)

    @cached_property
    def widest_after(self) -> Mapping[str, int]:
        """For each layer, the channels of the widest convolution that comes later, or 0."""
        widest, found = 0, {}
        for layer in reversed(self.net.layers):
            found[layer.name] = widest
            widest = max(widest, self.shape(layer.name)[-1] if isinstance(layer, CONVS) else 0)
        return found

    @cached_property
    def feeding(self) -> set[str]:
        """What leads on to a layer with weights: the others are outputs."""
        found: set[str] = set()
        for layer in reversed(self.net.layers):
            if layer.name in found or isinstance(layer, (*CONVS, L.Dense)) or is_unknown(layer):
                found.update(layer.inputs)
        return found

    @cached_property
    def usual_activation(self) -> str:
        """The activation that the net's layers have most often; relu where they have none."""
        counted = Counter(filter(None, map(hidden_activation, self.net.layers)))
        return next((name for name, _ in counted.most_common(1)), "relu")


def hidden_activation(layer: L.Layer) -> str:
    """The activation of a layer where it bends what passes inside a net, else ''."""
    text = activation_of(layer)
    return "" if text.partition("(")[0] in OUTPUTS else text


def activation_of(layer: L.Layer) -> str:
    """The activation of a layer, its own or as a layer; 'linear' where it has none."""
    return str(getattr(layer, "activation", "linear"))


def is_unknown(layer: L.Layer) -> bool:
    """Whether what a layer does to its inputs is not known."""
    return isinstance(layer, L.Opaque) and layer.moves == "unknown"


def is_depthwise(layer: L.Layer, channels: int) -> bool:
    """Whether each output channel of a convolution of `channels` reads one input channel alone."""
    return isinstance(layer, L.DepthwiseConv2D) or (
        isinstance(layer, L.Conv2D) and layer.groups == channels > 1
    )


def is_pointwise(layer: L.Layer) -> bool:
    """Whether a layer is a 1x1 convolution."""
    return isinstance(layer, (L.Conv2D, L.Conv2DTranspose)) and layer.kernel_size == (1, 1)


def is_activation(layer: L.Layer) -> bool:
    """Whether a layer is an activation that does something."""
    return isinstance(layer, L.Activation) and layer.activation != "linear"


def names_of(layers: Iterable[L.Layer]) -> tuple[str, ...]:
    """The layers' names."""
    return tuple(layer.name for layer in layers)


def one(numbers: tuple[int, int]) -> str:
    """(3, 3) -> '3', (3, 1) -> '(3, 1)': as an argument is written."""
    return str(numbers[0]) if numbers[0] == numbers[1] else str(numbers)
