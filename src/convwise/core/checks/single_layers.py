"""Rules on single layers: those that do nothing, twice the same, waste time, or cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from convwise.core import layers as L
from convwise.core.activations import activation
from convwise.core.calculus import cost_of, leading_to
from convwise.core.checks.context import (
    DROPOUTS,
    NORMS,
    Case,
    Context,
    Edit,
    activation_of,
    is_activation,
    names_of,
)

LANES, MACS_SHARE = 8, 0.01
# Applied twice they are as once.
IDEMPOTENT = ("relu", "relu6", "hard_tanh", "hard_shrink", "sparsemax")


def uneven_channels(context: Context) -> Iterator[Case]:
    """Convolutions whose filters leave lanes of the machine's vectors empty."""
    total, lanes = context.analysis.total.macs, min(LANES, context.vector)
    for layer in context.each(L.Conv2D, L.SeparableConv2D, L.Conv2DTranspose):
        if (
            layer.filters % lanes == 0
            or layer.filters <= context.vector
            or layer.name not in context.feeding
        ):
            continue
        if context.rows[layer.name].macs > MACS_SHARE * total:
            even = -(-layer.filters // lanes) * lanes
            room = -(-layer.filters // context.vector) * context.vector
            what = (
                f"{layer.filters} filters leave {room - layer.filters} of {room} lanes empty in"
                " vectors of "
            )
            what += (
                f"{context.vector}; this layer has"
                f" {100 * context.rows[layer.name].macs / total:.0f} % of the macs"
            )
            edits = (Edit(layer.name, {"filters": even}),)
            yield Case((layer.name,), what, f"a multiple of {lanes}", f"filters={even}", edits)


# --- dead layers ----------------------------------------------------------------------------

# When a layer gives what it reads, and why.
IDLE: dict[type[L.Layer], tuple[Callable[[Any], bool], str]] = {
    L.MaxPooling2D: (lambda layer: _is_still(layer), "it pools windows of 1x1 at stride 1"),
    L.AveragePooling2D: (lambda layer: _is_still(layer), "it pools windows of 1x1 at stride 1"),
    L.Activation: (lambda layer: layer.activation == "linear", "its activation is linear"),
    L.ZeroPadding2D: (lambda layer: not any(layer.padding), "it adds no rows or columns"),
    L.Cropping2D: (lambda layer: not any(layer.cropping), "it removes no rows or columns"),
    L.UpSampling2D: (lambda layer: layer.size == (1, 1), "it enlarges by 1"),
    L.Rescaling: (
        lambda layer: {*layer.scale} == {1.0} and {*layer.offset} == {0.0},
        "it multiplies by 1 and adds 0",
    ),
    L.GaussianNoise: (lambda layer: layer.stddev == 0, "its deviation is 0"),
    L.Dropout: (lambda layer: layer.rate == 0, "its rate is 0"),
    L.SpatialDropout2D: (lambda layer: layer.rate == 0, "its rate is 0"),
    L.AlphaDropout: (lambda layer: layer.rate == 0, "its rate is 0"),
    L.GaussianDropout: (lambda layer: layer.rate == 0, "its rate is 0"),
    L.StochasticDepth: (lambda layer: layer.rate == 0, "its rate is 0"),
}


def _is_still(pool: L.MaxPooling2D | L.AveragePooling2D) -> bool:
    padded = isinstance(pool.padding, tuple) and any(pool.padding)
    return pool.pool_size == pool.strides == (1, 1) and not padded


def idle_layers(context: Context) -> Iterator[Case]:
    """Layers that give what they read."""
    for layer in context.net.layers:
        holds, why = IDLE.get(type(layer), (lambda each: False, ""))
        same = isinstance(layer, L.Reshape) and context.given(layer) == context.shape(layer.name)
        # An output stays where others read what it passes on
        passed_on = layer is context.last and len(context.readers[layer.inputs[0]]) > 1
        if (holds(layer) or same) and not passed_on:
            what = f"changes nothing: {why or 'the shape stays the same'}"
            edits = (Edit(layer.name, reads=layer.inputs[0]),)
            yield Case((layer.name,), what, "a layer that does something", "remove it", edits)


def unread_layers(context: Context) -> Iterator[Case]:
    """Layers from which no path leads to an output."""
    useful = leading_to(context.net, {context.last.name, *context.outputs})
    dead = [layer for layer in context.net.layers if layer.name not in useful]
    if dead:
        outputs = ", ".join((context.last.name, *context.outputs))
        what = (
            f"no path leads from here to the output {outputs}: "
            f"{cost_of([context.rows[name] for name in names_of(dead)])}"
        )
        what += " are spent without effect"
        names = names_of(dead)
        # From the end, so that nobody reads what is left out.
        edits = tuple(Edit(layer.name, reads=layer.inputs[0]) for layer in reversed(dead))
        yield Case(
            names,
            what,
            "every layer on a path to the output",
            "remove them, or connect them",
            edits,
        )


# --- twice ----------------------------------------------------------------------------------


def repeated_layers(context: Context) -> Iterator[Case]:
    """A normalisation on a normalisation, or an activation that was applied already."""
    for layer in context.net.layers:
        following = context.reader(layer)
        if following is not None and _repeats(layer, following):
            what = f"repeats what {layer.name} just did"
            edits = (Edit(following.name, reads=layer.name),)
            yield Case((following.name,), what, "once", "remove it", edits)


def _repeats(layer: L.Layer, following: L.Layer) -> bool:
    if isinstance(layer, NORMS):
        return type(following) is type(layer)
    given, again = activation_of(layer), activation_of(following)
    return is_activation(following) and given == again and activation(again).name in IDEMPOTENT


def duplicated_layers(context: Context) -> Iterator[Case]:
    """Layers that are alike in everything, weights included, and do the same to the same map."""
    known: dict[L.Layer, str] = {}
    owners: dict[str, str] = {}  # of the weights, '' where there are none
    for layer in context.net.layers:
        owner = owners.get(layer.shares, layer.name if context.rows[layer.name].params else "")
        owners[layer.name] = owner
        if isinstance(layer, (L.Opaque, *DROPOUTS)):
            continue
        first = known.setdefault(replace(layer, name="same", shares=owner), layer.name)
        if first != layer.name:
            what = (
                f"computes the same as {first}, from the same input{'s' * (len(layer.inputs) > 1)}"
            )
            fix, edits = f"use {first} instead", (Edit(layer.name, reads=first),)
            yield Case((layer.name,), what, "once", fix, edits)


# --- what cannot be read --------------------------------------------------------------------


def unknown_layers(context: Context) -> Iterator[Case]:
    """How much of the net is not known."""
    opaque = [
        layer for layer in context.each(L.Opaque) if not layer.known or layer.moves == "unknown"
    ]
    costly = [layer for layer in opaque if not layer.known]
    far = [layer for layer in opaque if layer.known]
    if costly:
        known = sum(max(layer.params, 0) for layer in costly)
        guess = any(layer.params < 0 for layer in costly)
        what = (
            f"{len(costly)} of {len(context.net.layers)} layers cannot be read"
            f" ({_operators(costly)}): "
        )
        held = (
            f"; they hold {'at least ' * guess}{known:,} parameters" if known or not guess else ""
        )
        what += "their macs are not counted" + (held or ", nor are their parameters")
        what += (
            f"; of {len(far)} more, only the receptive field is unknown ({_operators(far)})"
            if far
            else ""
        )
        yield Case(
            names_of(opaque), what, "layers that convwise knows", "read the figures as lower bounds"
        )
    elif far:
        what = (
            f"{len(far)} of {len(context.net.layers)} layers are counted, but their receptive"
            " field, and that "
        )
        what += f"of later layers, is unknown ({_operators(far)})"
        yield Case(
            names_of(far),
            what,
            "layers that convwise knows",
            "rely only on the receptive field before them",
        )


def _operators(layers: Iterable[L.Opaque]) -> str:
    return ", ".join(dict.fromkeys(layer.operator for layer in layers))
