"""Net, images -> a net to train on them: channels' scale in front, an output for each class."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from convwise.core import layers as L
from convwise.core.activations import activation
from convwise.core.calculus import analyse
from convwise.core.net import INPUT, Net, fresh
from convwise.core.problems import UnusableInput
from convwise.core.score import Target, numbers_of

# Layers between the one that makes a net's numbers and its end: they keep how many there are.
_AFTER = (L.Activation, L.AdaptiveAveragePooling2D, L.AdaptiveMaxPooling2D, L.AlphaDropout,
          L.Dropout, L.Flatten, L.GaussianDropout, L.GaussianNoise, L.GlobalAveragePooling2D,
          L.GlobalMaxPooling2D, L.Reshape, L.SpatialDropout2D)  # fmt: skip


@dataclass(frozen=True)
class Fitted:
    """A net fitted to images, and a sentence for each thing that was changed."""

    net: Net
    notes: tuple[str, ...] = ()


def fitted(net: Net, classes: int, mean: Sequence[float], variance: Sequence[float],
           target: Target | None = None) -> Fitted:  # fmt: skip
    """`net` with `classes` outputs, or one for each number of `target`, over raw pixels 0 to 255.

    mean, variance: of pixels / 255, one for each of the net's input channels; they are put in front
    where the net has no scaling of its own. The layer that makes the last numbers (a Dense, or a
    1x1 convolution) gets as many as there are classes; a net without one gets a Dense at its end.
    UnusableInput where the net cannot be trained: it ends in a map, or has an Opaque layer.
    """
    if opaque := [layer.name for layer in net.layers if isinstance(layer, L.Opaque)]:
        what = f"has {len(opaque)} layers that could not be read ({', '.join(opaque[:3])})"
        raise UnusableInput(
            "the network", what, "layers that can be trained here", "check it without --apply"
        )
    views = ["only one view is trained, not its mirrored view"] if net.mirrored_view else []
    net = net.one_view
    shape = _end(net)
    outputs, each = (
        (classes, "class") if target is None else (len(target.columns), "number to learn")
    )
    if len(shape) != 1:
        raise UnusableInput(
            "the network",
            f"ends in a map of {shape}",
            f"one output for each {each}",
            "give it a head",
        )
    headed, notes = (
        _headed(net, shape[0], classes) if target is None else _numbered(net, shape[0], target)
    )
    if _end(headed) != (outputs,):
        raise UnusableInput(
            "the network", f"has {_end(headed)} outputs", f"{outputs}, one for each {each}"
        )
    scaled, more = _scaled(headed, mean, variance)
    return Fitted(scaled, (*views, *notes, *more))


def _end(net: Net) -> tuple[int, ...]:
    return analyse(net)[net.layers[-1].name].output_shape


def _headed(net: Net, units: int, classes: int) -> tuple[Net, list[str]]:
    """The net with `classes` outputs instead of `units`, and probabilities that add up to 1."""
    tail = list(_tail(net))
    head = tail[-1] if tail and isinstance(tail[-1], (L.Dense, L.Conv2D)) else None
    notes = []
    if head is None and units != classes:
        notes.append(
            f"a Dense layer with an output for each of the {classes} classes was added at its end"
        )
        name = fresh("classes", {layer.name for layer in net.layers})
        dense = L.Dense(classes, activation="softmax", name=name, inputs=(net.layers[-1].name,))
        return Net(net.input_shape, (*net.layers, dense)), notes
    if units != classes:
        notes.append(f"{head.name} has {classes} outputs instead of {units}: one for each class")  # type: ignore[union-attr]
    if any(_activation(layer) == "sigmoid" for layer in tail):
        notes.append("its last activation is softmax instead of sigmoid: each image has one class")
    changed = {layer.name: _resized(layer, units, classes) for layer in tail}
    return Net(
        net.input_shape, tuple(changed.get(layer.name, layer) for layer in net.layers)
    ), notes


def _numbered(net: Net, units: int, target: Target) -> tuple[Net, list[str]]:
    """The net with one output for each number, linear and in its unit.

    One that ends so already stays as it is.
    """
    count = len(target.columns)
    if (unit := numbers_of(net)) and len(unit.scale) == count:
        return net, []
    outputs, said, named = ("one output", "the number", "number") if count == 1 else (
        f"{count} outputs", "the numbers", "numbers")  # fmt: skip
    tail = list(_tail(net))
    head = tail[-1] if tail and isinstance(tail[-1], L.Dense) else None
    after = {
        layer.name
        for layer in tail
        if layer is not head and (head or isinstance(layer, L.Activation))
    }
    layers = [layer for layer in net.layers if layer.name not in after]
    if head:
        number: L.Layer = replace(head, units=count, activation="linear", shares="")
        layers = [number if layer is head else layer for layer in layers]
        instead = f" instead of {units}" * (units != count)
        bounded = any(_activation(layer) != "linear" for layer in tail)
        notes = [f"{head.name} has {outputs}{instead}, without an activation: {said}"] * (
            units != count or bounded
        )
    else:
        name = fresh(named, {layer.name for layer in net.layers})
        number = L.Dense(count, name=name, inputs=(_before(net, after),))
        layers.append(number)
        notes = [f"a Dense layer with {outputs}, for {said}, was added at its end"]
    name = fresh("target", {layer.name for layer in net.layers})
    layers.append(L.Rescaling(target.deviations, target.means, name=name, inputs=(number.name,)))
    rewired = (
        replace(layer, inputs=tuple(_before(net, after, name) for name in layer.inputs))
        for layer in layers
    )
    return Net(net.input_shape, tuple(rewired)), notes


def _before(net: Net, after: Container[str], name: str = "") -> str:
    """The layer whose numbers the one called `name`, or the net, gives, leaving out `after`."""
    name = name or net.layers[-1].name
    while name in after:
        name = net[name].inputs[0]
    return name


def _tail(net: Net) -> Iterator[L.Layer]:
    """From the last layer back to the one that makes the net's numbers, if there is one way."""
    layer = net.layers[-1]
    while isinstance(layer, _AFTER):
        yield layer
        if layer.inputs == (INPUT,):
            return
        layer = net[layer.inputs[0]]
    if isinstance(layer, L.Dense) or (
        isinstance(layer, L.Conv2D) and (*layer.kernel_size, layer.groups) == (1, 1, 1)
    ):
        yield layer


def _activation(layer: L.Layer) -> str:
    return activation(getattr(layer, "activation", "linear")).name


def _resized(layer: L.Layer, units: int, classes: int) -> L.Layer:
    changes: dict[str, Any] = {"activation": "softmax"} if _activation(layer) == "sigmoid" else {}
    match layer:
        case L.Dense():
            changes |= {"units": classes, "shares": ""}
        case L.Conv2D():
            changes |= {"filters": classes, "shares": ""}
        case L.Reshape():
            changes["target_shape"] = tuple(
                classes if n == units else n for n in layer.target_shape
            )
    return replace(layer, **changes)


def _scaled(net: Net, mean: Sequence[float], variance: Sequence[float]) -> tuple[Net, list[str]]:
    # A layer that only makes images smaller may stand before the scaling
    first_read = net.shrunk.layers
    if any(
        INPUT in layer.inputs and isinstance(layer, (L.Rescaling, L.Normalization))
        for layer in first_read
    ):
        return net, []
    taken = {layer.name for layer in net.layers}
    first = L.Rescaling(1 / 255, name=fresh("pixels", taken), inputs=(INPUT,))
    second = L.Normalization(
        tuple(mean), tuple(variance), name=fresh("scaled", taken), inputs=(first.name,)
    )
    rest = [
        replace(
            layer, inputs=tuple(second.name if read == INPUT else read for read in layer.inputs)
        )
        for layer in net.layers
    ]
    note = (
        "it has no scaling of its own, so pixels are brought to mean 0 and standard deviation 1 "
        "before it"
    )
    return Net(net.input_shape, (first, second, *rest)), [note]
