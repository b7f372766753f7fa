"""Rules on how layers follow each other: widths, normalisation, activations, output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

from convwise.core import layers as L
from convwise.core.activations import activation
from convwise.core.checks.context import (
    CONVS,
    DROPOUTS,
    NORMS,
    Case,
    Context,
    Conv,
    Edit,
    activation_of,
    is_depthwise,
    is_pointwise,
    is_unknown,
)
from convwise.core.geometry import JOINS
from convwise.core.text import times

TIMES = 4  # by which a width may change from one spatial convolution to the next
HEAD_SHARE, HEAD_PARAMS = 0.5, 100_000
PLAIN_CONVS = 8  # weighted convolutions in a row that train without normalisation
SATURATING, SATURATING_LAYERS = ("sigmoid", "hard_sigmoid", "tanh", "hard_tanh"), 4
PROBABILITIES = ("softmax", "sigmoid", "log_softmax", "sparsemax")


# --- widths ---------------------------------------------------------------------------------


def shrinking_width(context: Context) -> Iterator[Case]:
    """Spatial convolutions of the trunk that drop the width, and nothing after them is as wide."""
    for before, layer in _trunk_pairs(context):
        given, output = context.given(layer), context.shape(layer.name)
        # A decoder narrows as its map grows
        grows = prod(output[:2]) > prod(context.shape(before.name)[:2])
        again = context.widest_after[layer.name] >= given[2]
        if given[2] < TIMES * output[2] or grows or again or layer.name not in context.feeding:
            continue
        what = f"goes from {given[2]} channels to {output[2]}, and nothing after it is as wide"
        edits = (Edit(layer.name, {"filters": given[2]}),)
        expected = f"more than 1/{TIMES} of the channels"
        yield Case((layer.name,), what, expected, f"filters={given[2]}", edits)


def growing_width(context: Context) -> Iterator[Case]:
    """Spatial convolutions of the trunk that multiply the width while the map stays as large."""
    for before, layer in _trunk_pairs(context):
        given, output = context.given(layer), context.shape(layer.name)
        if output[2] <= TIMES * given[2] or prod(output[:2]) < prod(context.shape(before.name)[:2]):
            continue
        what = (
            f"goes from {given[2]} channels to {output[2]} at once, while the map stays"
            f" {times(output[:2])}"
        )
        fix = f"filters={2 * given[2]}, or halve the map with it"
        yield Case((layer.name,), what, f"at most {TIMES} times as many channels", fix,
                   (Edit(layer.name, {"filters": 2 * given[2]}),))  # fmt: skip


def _trunk_pairs(context: Context) -> Iterator[tuple[Conv, L.Conv2D | L.SeparableConv2D]]:
    """Each spatial convolution of the trunk that mixes channels, with the convolution before it."""
    convs = [layer for layer in context.trunk if isinstance(layer, CONVS)]
    for before, layer in zip(convs, convs[1:], strict=False):
        mixes = isinstance(layer, (L.Conv2D, L.SeparableConv2D)) and not is_depthwise(
            layer, context.given(layer)[2]
        )
        if mixes and not is_pointwise(layer):
            assert isinstance(layer, (L.Conv2D, L.SeparableConv2D))
            yield before, layer


def heavy_head(context: Context) -> Iterator[Case]:
    """A Dense layer on a flattened map that holds most of the parameters."""
    total = context.analysis.total.params
    for flat in context.each(L.Flatten, L.Reshape):
        given = context.given(flat)
        _, dense = context.after(
            flat, lambda layer: isinstance(layer, (*DROPOUTS, *NORMS, L.Activation))
        )
        if (
            len(given) != 3
            or prod(given[:2]) == 1
            or len(context.shape(flat.name)) != 1
            or not isinstance(dense, L.Dense)
        ):
            continue
        params = context.rows[dense.name].params
        if params > HEAD_SHARE * total and params > HEAD_PARAMS:
            yield _head_case(context, flat, dense)


def _head_case(context: Context, flat: L.Layer, dense: L.Dense) -> Case:
    given, params = context.given(flat), context.rows[dense.name].params
    pooled = given[2] * dense.units + dense.use_bias * dense.units
    what = (
        f"holds {params:,} of {context.analysis.total.params:,} parameters: it reads a flattened"
        f" {given} map"
    )
    fix = (
        f"GlobalAveragePooling2D() instead of {flat.name}: {pooled:,} parameters instead of"
        f" {params:,}"
    )
    edits = (Edit(flat.name, instead=(L.GlobalAveragePooling2D(),)),)
    return Case((dense.name,), what, "most parameters in the convolutions", fix, edits)


# --- normalisation --------------------------------------------------------------------------


def bias_before_norm(context: Context) -> Iterator[Case]:
    """A bias that the BatchNormalization after it takes away again."""
    for layer in context.each(*CONVS, L.Dense):
        if not layer.use_bias or layer.activation != "linear" or context.is_tied(layer):
            continue
        if isinstance(_first_after(context, layer), L.BatchNormalization):
            biases = context.shape(layer.name)[-1]
            what = f"its {biases:,} biases are cancelled by the BatchNormalization that follows"
            edits = (Edit(layer.name, {"use_bias": False}),)
            expected = "no bias before BatchNormalization"
            yield Case((layer.name,), what, expected, "use_bias=False", edits)


def _first_after(context: Context, layer: L.Layer) -> L.Layer | None:
    """What comes after pools, through which a bias passes as it is."""
    whole = isinstance(layer, L.AveragePooling2D) and layer.count_include_pad
    return context.after(
        layer, lambda each: isinstance(each, (L.MaxPooling2D, L.AveragePooling2D)) and not whole
    )[1]


def missing_norm(context: Context) -> Iterator[Case]:
    """Long plain chains of convolutions without normalisation."""
    going_on = _going_on(context)
    chains: dict[str, Chain | None] = {}
    for layer in context.net.layers:
        before = chains.get(layer.inputs[0])
        is_conv = isinstance(layer, CONVS)
        chain = None if _steadies(layer) else _grown(before, layer) if is_conv else before
        chains[layer.name] = chain
        if is_conv and chain and chain.length >= PLAIN_CONVS and layer.name not in going_on:
            names = chain.names()
            what = (
                f"{len(names)} convolutions follow each other without normalisation or a residual"
                " connection"
            )
            edits = tuple(Edit(name, instead=_normalized(context.layers[name])) for name in names)
            yield Case(
                names, what, f"normalisation within {PLAIN_CONVS} convolutions", _NORM_FIX, edits
            )


class Chain(NamedTuple):
    """A layer, and those before it: held once for all chains that begin alike."""

    length: int
    name: str
    before: Any

    def names(self) -> tuple[str, ...]:
        """The layers, the first first."""
        found, each = [], self
        while each:
            found.append(each.name)
            each = each.before
        return tuple(reversed(found))


def _grown(before: Chain | None, layer: L.Layer) -> Chain:
    return Chain((before.length if before else 0) + 1, layer.name, before)


def _going_on(context: Context) -> set[str]:
    """The layers behind which a plain convolution comes before anything that steadies."""
    found: set[str] = set()
    for layer in reversed(context.net.layers):
        if not _steadies(layer) and (isinstance(layer, CONVS) or layer.name in found):
            found.update(layer.inputs)
    return found


def _steadies(layer: L.Layer) -> bool:
    """Whether a layer ends a plain chain: it normalises (selu too), joins, or cannot be read."""
    return (
        isinstance(layer, (*NORMS, *JOINS)) or is_unknown(layer) or activation_of(layer) == "selu"
    )


_NORM_FIX = "BatchNormalization() between each convolution and its activation, and use_bias=False"


def _normalized(conv: Any) -> tuple[L.Layer, ...]:
    bare = replace(conv, use_bias=False, activation="linear")
    acts = (L.Activation(conv.activation),) if conv.activation != "linear" else ()
    return bare, L.BatchNormalization(), *acts


# --- activations ----------------------------------------------------------------------------


def missing_activation(context: Context) -> Iterator[Case]:
    """A linear layer into a linear layer: together they are one."""
    for layer in context.each(*CONVS, L.Dense):
        if layer.activation != "linear":
            continue
        passed, following = context.after(layer, _passes_linearly)
        alike = (
            isinstance(following, L.Dense)
            if isinstance(layer, L.Dense)
            else isinstance(following, CONVS)
        )
        if (
            alike
            and isinstance(following, (*CONVS, L.Dense))
            and not _is_factor(context, layer, following)
        ):
            yield _linear_case(context, layer, passed, following)


def _passes_linearly(layer: L.Layer) -> bool:
    linear = isinstance(layer, L.Activation) and layer.activation == "linear"
    return linear or isinstance(
        layer, (L.BatchNormalization, L.AveragePooling2D, L.ZeroPadding2D, *DROPOUTS)
    )


def _is_factor(context: Context, first: Conv | L.Dense, second: Conv | L.Dense) -> bool:
    """Whether two linear layers are one on purpose: depthwise and pointwise, or a narrow waist."""
    given, waist, wide = (
        context.given(first)[-1],
        context.shape(first.name)[-1],
        context.shape(second.name)[-1],
    )
    narrow = waist <= given and waist < wide
    point = isinstance(first, L.Dense) or is_pointwise(first) or is_pointwise(second)
    return is_depthwise(first, given) or is_depthwise(second, waist) or (narrow and point)


def _linear_case(
    context: Context, layer: Conv | L.Dense, passed: Sequence[L.Layer], following: L.Layer
) -> Case:
    usual = context.usual_activation
    norms = [each for each in passed if isinstance(each, L.BatchNormalization)]
    between = f" (only {', '.join(each.op for each in passed)})" if passed else ""
    what = f"there is no activation between it and {following.name}{between}: "
    what += "together they can do no more than a single linear layer"
    if norms:
        fix = f'Activation("{usual}") after {norms[0].name}'
        edit = Edit(norms[0].name, instead=(norms[0], L.Activation(usual)))
    else:
        fix, edit = f'activation="{usual}"', Edit(layer.name, {"activation": usual})
    return Case((layer.name,), what, "an activation between them", fix, (edit,))


def saturating(context: Context) -> Iterator[Case]:
    """Sigmoid or tanh again and again along one path; gates, which only multiply, do not count."""
    chains: dict[str, Chain | None] = {}
    longest: Chain | None = None
    for layer in context.net.layers:
        inputs = [chains.get(name) for name in layer.inputs]
        # A sum has a way around the saturating branch: the shorter chain counts
        chain = (min if isinstance(layer, L.Add) else max)(inputs, key=_length)
        saturates = activation(activation_of(layer)).name in SATURATING
        counts = layer is not context.last and saturates and not _is_gate(context, layer)
        chains[layer.name] = _grown(chain, layer) if counts else chain
        longest = max(longest, chains[layer.name], key=_length)
    if longest and longest.length >= SATURATING_LAYERS:
        layers = longest.names()
        names = sorted({activation(activation_of(context.layers[name])).name for name in layers})
        what = (
            f"{' and '.join(names)} {len(layers)} times along one path: each one weakens the"
            " gradient"
        )
        edits = tuple(Edit(name, {"activation": "relu"}) for name in layers)
        yield Case(
            layers, what, f"fewer than {SATURATING_LAYERS} in a row", 'activation="relu"', edits
        )


def _length(chain: Chain | None) -> int:
    return chain.length if chain else 0


def _is_gate(context: Context, layer: L.Layer) -> bool:
    """Whether all that a layer gives is multiplied with something."""
    readers = context.readers[layer.name]
    while len(readers) == 1 and isinstance(readers[0], (L.Reshape, *DROPOUTS)):
        readers = context.readers[readers[0].name]
    return bool(readers) and all(isinstance(reader, L.Multiply) for reader in readers)


# --- output ---------------------------------------------------------------------------------


def output_assumption(context: Context) -> Iterator[Case]:
    """What the output says about the loss, which a network does not hold."""
    last, name = context.last, activation(activation_of(context.last)).name
    if name in ("softmax", "sigmoid"):
        what = f"the network ends in {name}, so it gives probabilities"
        yield Case(
            (last.name,), what, "a loss that takes probabilities", "train with from_logits=False"
        )
    elif (
        isinstance(last, (L.Dense, L.Conv2D))
        and name == "linear"
        and len(context.shape(last.name)) == 1
    ):
        what = "the network ends without an activation, so as a classifier it gives logits"
        fix = 'train with from_logits=True, or activation="softmax"'
        yield Case((last.name,), what, "a loss that takes logits", fix)


def softmax_of_one(context: Context) -> Iterator[Case]:
    """Softmax over a single number, which is 1 whatever the image shows."""
    for layer in context.net.layers:
        if (
            activation(activation_of(layer)).name in ("softmax", "softmin")
            and context.shape(layer.name)[-1] == 1
        ):
            what = "takes the softmax of one number, which is always 1"
            edits = (Edit(layer.name, {"activation": "sigmoid"}),)
            yield Case(
                (layer.name,),
                what,
                "two or more classes, or sigmoid",
                'activation="sigmoid"',
                edits,
            )


def squashed_again(context: Context) -> Iterator[Case]:
    """Probabilities of probabilities."""
    for layer in context.net.layers:
        following = context.reader(layer)
        if following is None or not isinstance(following, L.Activation):
            continue
        name, second = (activation(activation_of(each)).name for each in (layer, following))
        if name in PROBABILITIES and second in PROBABILITIES:
            what = (
                f"takes the {second} of {layer.name}'s {name}: all classes become almost equally"
                " probable"
            )
            edits = (Edit(following.name, reads=layer.name),)
            yield Case(
                (following.name,), what, "just one of the two", f"remove {following.name}", edits
            )


def slow_depthwise(context: Context) -> Iterator[Case]:
    """Depthwise kernels of 5 and more, where this engine has no fast path."""
    for layer in context.each(L.Conv2D, L.DepthwiseConv2D, L.SeparableConv2D):
        depthwise = isinstance(layer, L.SeparableConv2D) or is_depthwise(
            layer, context.given(layer)[2]
        )
        if depthwise and max(layer.kernel_size) >= 5:
            what = (
                f"a depthwise kernel of {times(layer.kernel_size)}: 5x5 trains at 2 Gmac/s on one"
                " core, 3x3 at 15, "
            )
            what += "a full 3x3 at 472"
            fix = "kernel_size=3 (two of them see as far as one 5x5)"
            yield Case(
                (layer.name,),
                what,
                "depthwise kernels of 3x3",
                fix,
                (Edit(layer.name, {"kernel_size": 3}),),
            )
