"""Rules on single parts: layers that do nothing, that do it twice, that waste the machine, that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from convwise.core.activations import activation
from convwise.core.checks.view import DROPOUTS, NORMS, Case, Edit, View, activation_of, is_activation
from convwise.core.layers import (
    Activation,
    AlphaDropout,
    AveragePooling2D,
    Conv2D,
    Conv2DTranspose,
    Cropping2D,
    Dropout,
    GaussianDropout,
    GaussianNoise,
    Layer,
    MaxPooling2D,
    Opaque,
    Rescaling,
    Reshape,
    SeparableConv2D,
    SpatialDropout2D,
    StochasticDepth,
    UpSampling2D,
    ZeroPadding2D,
)

LANES, MACS_SHARE = 8, 0.01
# Applied twice they are as once.
IDEMPOTENT = ("relu", "relu6", "hard_tanh", "hard_shrink", "sparsemax")


def uneven_channels(view: View) -> Iterator[Case]:
    """Convolutions whose filters leave lanes of the machine's vectors empty."""
    total, lanes = view.analysis.total.macs, min(LANES, view.vector)
    for layer in view.each(Conv2D, SeparableConv2D, Conv2DTranspose):
        if layer.filters % lanes == 0 or layer.filters <= view.vector or layer.name not in view.feeding:
            continue
        if view.rows[layer.name].macs > MACS_SHARE * total:
            even = -(-layer.filters // lanes) * lanes
            room = -(-layer.filters // view.vector) * view.vector
            what = f"{layer.filters} filters leave {room - layer.filters} of {room} lanes empty in vectors of "
            what += f"{view.vector}, in {100 * view.rows[layer.name].macs / total:.0f} % of the macs"
            edits = (Edit(layer.name, {"filters": even}),)
            yield Case((layer.name,), what, f"a multiple of {lanes}", f"filters={even}", edits)


# --- dead layers ----------------------------------------------------------------------------

# When a layer gives what it reads, and why.
IDLE: dict[type[Layer], tuple[Callable[[Any], bool], str]] = {
    MaxPooling2D: (lambda layer: _is_still(layer), "it pools 1x1 at stride 1"),
    AveragePooling2D: (lambda layer: _is_still(layer), "it pools 1x1 at stride 1"),
    Activation: (lambda layer: layer.activation == "linear", "its activation is linear"),
    ZeroPadding2D: (lambda layer: not any(layer.padding), "it adds no row and no column"),
    Cropping2D: (lambda layer: not any(layer.cropping), "it takes no row and no column"),
    UpSampling2D: (lambda layer: layer.size == (1, 1), "it enlarges by 1"),
    Rescaling: (lambda layer: {*layer.scale} == {1.0} and {*layer.offset} == {0.0}, "it multiplies by 1 and adds 0"),
    GaussianNoise: (lambda layer: layer.stddev == 0, "its deviation is 0"),
    Dropout: (lambda layer: layer.rate == 0, "its rate is 0"),
    SpatialDropout2D: (lambda layer: layer.rate == 0, "its rate is 0"),
    AlphaDropout: (lambda layer: layer.rate == 0, "its rate is 0"),
    GaussianDropout: (lambda layer: layer.rate == 0, "its rate is 0"),
    StochasticDepth: (lambda layer: layer.rate == 0, "its rate is 0"),
}


def _is_still(pool: MaxPooling2D | AveragePooling2D) -> bool:
    padded = isinstance(pool.padding, tuple) and any(pool.padding)
    return pool.pool_size == pool.strides == (1, 1) and not padded


def idle_layers(view: View) -> Iterator[Case]:
    """Layers that give what they read."""
    for layer in view.net.layers:
        holds, why = IDLE.get(type(layer), (lambda each: False, ""))
        same = isinstance(layer, Reshape) and view.given(layer) == view.shape(layer.name)
        if holds(layer) or same:
            what = f"gives what it reads: {why or 'its shape is as before'}"
            edits = (Edit(layer.name, reads=layer.inputs[0]),)
            yield Case((layer.name,), what, "a layer that does something", "leave it out", edits)


def unread_layers(view: View) -> Iterator[Case]:
    """Layers from which no path leads to the output."""
    useful = {view.last.name}
    for layer in reversed(view.net.layers):
        if layer.name in useful:
            useful.update(layer.inputs)
    dead = [layer for layer in view.net.layers if layer.name not in useful]
    if dead:
        params = sum(view.rows[layer.name].params for layer in dead)
        what = f"no path leads from here to the output {view.last.name}: {params:,} parameters for nothing"
        names = tuple(layer.name for layer in dead)
        # From the end, so that nobody reads what is left out.
        edits = tuple(Edit(layer.name, reads=layer.inputs[0]) for layer in reversed(dead))
        yield Case(names, what, "every layer on a path to the output", "leave them out, or join them", edits)


# --- twice ----------------------------------------------------------------------------------


def repeated_layers(view: View) -> Iterator[Case]:
    """A normalisation on a normalisation, or an activation that was applied already."""
    for layer in view.net.layers:
        following = view.reader(layer)
        if following is not None and _repeats(layer, following):
            what = f"does again what {layer.name} just did"
            edits = (Edit(following.name, reads=layer.name),)
            yield Case((following.name,), what, "once", "leave it out", edits)


def _repeats(layer: Layer, following: Layer) -> bool:
    if isinstance(layer, NORMS):
        return type(following) is type(layer)
    given, again = activation_of(layer), activation_of(following)
    return is_activation(following) and given == again and activation(again).name in IDEMPOTENT


def duplicated_layers(view: View) -> Iterator[Case]:
    """Layers without weights, or with shared ones, that do the same to the same map."""
    known: dict[Layer, str] = {}
    for layer in view.net.layers:
        if view.rows[layer.name].params or isinstance(layer, (Opaque, *DROPOUTS)):
            twin = layer.name
        else:
            twin = known.setdefault(replace(layer, name="same"), layer.shares or layer.name)
        first = twin if view.rows[twin].inputs == layer.inputs else layer.name
        if first != layer.name:
            what = f"does to {', '.join(layer.inputs)} what {first} does"
            fix, edits = f"read {first} instead of it", (Edit(layer.name, reads=first),)
            yield Case((layer.name,), what, "once", fix, edits)


# --- what cannot be read --------------------------------------------------------------------


def unknown_layers(view: View) -> Iterator[Case]:
    """How much of the net is not known."""
    opaque = list(view.each(Opaque))
    if opaque:
        operators = ", ".join(dict.fromkeys(layer.operator for layer in opaque))
        known = sum(max(layer.params, 0) for layer in opaque)
        guess = any(layer.params < 0 for layer in opaque)
        what = f"{len(opaque)} of {len(view.net.layers)} layers cannot be read ({operators}): their macs are in no sum"
        what += f", {known:,} parameters" + (" and some that are not known" if guess else "") + " are theirs"
        names = tuple(layer.name for layer in opaque)
        yield Case(names, what, "layers that convwise knows", "read the figures as lower bounds")
