"""A network: an input shape and layers in order."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from convwise.core.layers import LAYERS, Average, AveragePooling2D, Layer, Opaque, parameters
from convwise.core.parameters import REQUIRED, whole
from convwise.core.problems import UnusableInput
from convwise.core.text import brief

INPUT = "input"
# The operator of an Opaque layer in which left and right of the image change places
MIRROR = "mirror"
# The most px and channels of an input or a map: more than any file holds, and exact in every format
MOST_SIDE = 2**40
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Net:
    """Layers in order, over an input of shape (height, width, channels).

    A layer without a name gets one ('conv2d', 'conv2d_1', ...); a layer without inputs reads the
    layer before it. The last layer is the output. Inside, names and inputs are always set.

    mirrored_view: its answer is the mean of what the layers give for an image and for its mirror
    image, left-right.
    """

    input_shape: tuple[int, int, int]
    layers: tuple[Layer, ...]
    mirrored_view: bool = False

    def __post_init__(self) -> None:
        given, what = tuple[Any, ...](self.input_shape), f"is {brief(self.input_shape)}"
        shape = tuple(n for n in map(whole, given) if n is not None and n > 0)
        if len(shape) != 3 or len(given) != 3:
            raise UnusableInput("input shape", what, "(height, width, channels), each at least 1")
        if max(shape) > MOST_SIDE:
            raise UnusableInput("input shape", what, f"at most {MOST_SIDE:,} px and channels")
        object.__setattr__(self, "input_shape", shape)
        object.__setattr__(self, "layers", tuple(_resolved(self.layers)))

    @cached_property
    def id(self) -> str:
        """Twelve characters that stand for this net: the hash of its canonical JSON."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def is_chain(self) -> bool:
        """Whether each layer reads just the layer before it."""
        before = [INPUT, *(layer.name for layer in self.layers)]
        return all(
            layer.inputs == (name,) for layer, name in zip(self.layers, before, strict=False)
        )

    def __getitem__(self, name: str) -> Layer:
        for layer in self.layers:
            if layer.name == name:
                return layer
        names = ", ".join(layer.name for layer in self.layers)
        raise UnusableInput(f"layer {name!r}", "is not in the network", names)

    def edit(self, name: str, **changes: Any) -> Net:
        """A new net in which layer `name` has other parameters."""
        changed = replace(self[name], **changes)
        return replace(
            self, layers=tuple(changed if layer.name == name else layer for layer in self.layers)
        )

    @cached_property
    def shrinks(self) -> int:
        """How many times smaller its first layer makes images, by means of windows side by side."""
        first, times = self.layers[0], getattr(self.layers[0], "pool_size", (1, 1))[0]
        plain = AveragePooling2D(times, name=first.name, inputs=(INPUT,))
        alone = not any(
            INPUT in layer.inputs or layer.shares == first.name for layer in self.layers[1:]
        )
        whole = all(side % times == 0 for side in self.input_shape[:2])
        return times if first == plain and alone and whole and len(self.layers) > 1 else 1

    @property
    def shrunk(self) -> Net:
        """What stands behind that layer, which has no weights, on smaller images: what learns."""
        if self.shrinks == 1:
            return self
        rows, columns, channels = self.input_shape
        first, *others = self.layers
        shape = (rows // self.shrinks, columns // self.shrinks, channels)
        names = {first.name: INPUT}
        reads = [tuple(names.get(name, name) for name in layer.inputs) for layer in others]
        read = [replace(layer, inputs=given) for layer, given in zip(others, reads, strict=True)]
        return replace(self, input_shape=shape, layers=tuple(read))

    @property
    def one_view(self) -> Net:
        """The same layers, asked for an image as it is alone: what is trained."""
        return replace(self, mirrored_view=False) if self.mirrored_view else self

    @cached_property
    def both_views(self) -> Net:
        """A net with a mirrored view written out: its layers twice, with one set of weights, and
        the mean of both answers.
        """
        taken = {INPUT, *(layer.name for layer in self.layers)}
        names = {INPUT: fresh("mirror", taken)}
        names |= {layer.name: fresh(f"{layer.name}_mirrored", taken) for layer in self.layers}
        again = []
        for layer in self.layers:
            inputs = tuple(names[name] for name in layer.inputs)
            shares = layer.shares or layer.name
            again.append(replace(layer, name=names[layer.name], inputs=inputs, shares=shares))
        mirror = Opaque(MIRROR, self.input_shape, 0, 0, 0, name=names[INPUT], inputs=(INPUT,))
        last = self.layers[-1].name
        mean = Average(name=fresh("mean", {*taken, *names.values()}), inputs=(last, names[last]))
        return Net(self.input_shape, (*self.layers, mirror, *again, mean))

    def diff(self, other: Net) -> list[tuple[str, str, Any, Any]]:
        """What differs, as (layer, parameter, here, there); '' for a layer on one side only."""
        here, there = ({layer.name: layer for layer in net.layers} for net in (self, other))
        rows: list[tuple[str, str, Any, Any]] = []
        if self.input_shape != other.input_shape:
            rows.append((INPUT, "shape", self.input_shape, other.input_shape))
        if self.mirrored_view != other.mirrored_view:
            rows.append((INPUT, "mirrored_view", self.mirrored_view, other.mirrored_view))
        for name in [*here, *(name for name in there if name not in here)]:
            rows += _layer_diff(name, here.get(name), there.get(name))
        return rows

    def to_json(self) -> dict[str, Any]:
        """The canonical JSON form; `from_json` is its inverse."""
        layers, before = [], INPUT
        for layer in self.layers:
            row = {"name": layer.name, **layer_to_json(layer)}
            if layer.inputs != (before,):
                row["inputs"] = list(layer.inputs)
            if layer.shares:
                row["shares"] = layer.shares
            layers.append(row)
            before = layer.name
        views = {"mirrored_view": True} if self.mirrored_view else {}
        return {"input_shape": list(self.input_shape), "layers": layers, **views}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Net:
        """The net that `to_json` wrote. UnusableInput where the data is not a net."""
        try:
            given, rows = data["input_shape"], list(data["layers"])
            shape: Any = given if isinstance(given, str) else tuple(given)
        except (KeyError, TypeError) as error:
            what = f"cannot be read: {error!r}"
            raise UnusableInput("net", what, "keys input_shape and layers") from error
        if not isinstance(mirrored := data.get("mirrored_view", False), bool):
            raise UnusableInput("net", f"has mirrored_view {mirrored!r}"[:100], "true or false")
        return Net(shape, tuple(layer_from_json(row) for row in rows), mirrored)


def layer_to_json(layer: Layer) -> dict[str, Any]:
    """The layer as plain JSON: its type and every parameter that is not at its default."""
    data: dict[str, Any] = {"type": layer.op}
    for parameter in parameters(layer):
        if (value := getattr(layer, parameter.name)) != parameter.default:
            data[parameter.name] = list(value) if isinstance(value, tuple) else value
    return data


def layer_from_json(data: Mapping[str, Any]) -> Layer:
    """The inverse of `layer_to_json`; `name`, `inputs` and `shares` may be present.

    UnusableInput names what is unknown.
    """
    kind = LAYERS.get(str(data.get("type")))
    if kind is None:
        what = f"has type {data.get('type')!r}"
        raise UnusableInput("layer", what, "one of " + ", ".join(LAYERS))
    arguments: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in data.items()
        if key != "type"
    }
    known = {"name", "inputs", "shares", *(p.name for p in parameters(kind))}
    if unknown := set(arguments) - known:
        what = f"has no parameter {sorted(unknown)}"
        raise UnusableInput(kind.__name__, what, "one of " + ", ".join(sorted(known)))
    required = [p.name for p in parameters(kind) if p.default is REQUIRED]
    if missing := [name for name in required if name not in arguments]:
        what = f"lacks {', '.join(missing)}"
        raise UnusableInput(kind.__name__, what, "every parameter without a default")
    return kind(**arguments)


def _resolved(layers: Iterable[Layer]) -> Iterable[Layer]:
    """The layers with their names and inputs filled in, checked."""
    known, before, numbers = {INPUT: Layer()}, INPUT, dict[str, int]()
    for layer in layers:
        name = layer.name or fresh(layer.op.lower(), known, numbers)
        if name in known or not _NAME.fullmatch(name):
            what = f"has a name that is {'taken' if name in known else 'not a word'}"
            expected = "a word of its own, of letters, digits and _"
            raise UnusableInput(f"layer {name!r}", what, expected)
        inputs = tuple(layer.inputs) or (before,)
        if unknown := [i for i in inputs if i not in known]:
            expected = "the input or earlier layers"
            raise UnusableInput(f"layer {name!r}", f"reads {unknown}", expected)
        if layer.shares and type(known.get(layer.shares)) is not type(layer):
            what = f"shares the weights of {layer.shares!r}"
            raise UnusableInput(f"layer {name!r}", what, f"an earlier {layer.op}")
        known[name] = layer
        before = name
        yield replace(layer, name=name, inputs=inputs)


def is_mirror(layer: Layer) -> bool:
    """Whether left and right of the image change places in it."""
    return isinstance(layer, Opaque) and layer.operator == MIRROR and layer.inputs == (INPUT,)


def fresh(base: str, taken: Container[str], numbers: dict[str, int] | None = None) -> str:
    """The name, or the first of 'name_1', 'name_2', ... that is not taken.

    numbers: below which all are, by name.
    """
    numbers = {} if numbers is None else numbers
    number = numbers.get(base, 0)
    while (name := f"{base}_{number}" if number else base) in taken:
        number += 1
    numbers[base] = number
    return name


def _layer_diff(
    name: str, here: Layer | None, there: Layer | None
) -> list[tuple[str, str, Any, Any]]:
    if here is None or there is None or here.op != there.op:
        return [(name, "", here and here.op, there and there.op)]
    columns = [p.name for p in parameters(here)] + ["inputs", "shares"]
    pairs = [(column, getattr(here, column), getattr(there, column)) for column in columns]
    return [(name, column, a, b) for column, a, b in pairs if a != b]
