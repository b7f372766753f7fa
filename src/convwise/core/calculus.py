"""Exact cost of a net: each layer and the total, integers only.

Conventions. Shapes are (height, width, channels), or (units,) after Flatten or global pooling,
without the batch. params: every stored number, trainable or not, as Keras's `count_params`. macs:
multiply-accumulates of convolutions and dense layers, bias excluded. elementwise: operations
besides, one per output for a bias, an activation, a join (per further input), an interpolation; two
for a normalisation with stored statistics, five where it takes them from the image; one per number
read for pooling. activation_bytes: the layer's output in float32. peak_bytes: the most that is held
at once while one image is answered: a layer's inputs and its output together, each buffer freed at
its last use, Dropout, Flatten and Reshape without a buffer of their own. A mirrored view is a
second run of the same layers, after the first, on a mirrored copy of the image. Receptive fields:
see core/field.py; statistics that GroupNormalization and LayerNormalization take are not counted as
sight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

from convwise.core.field import Field, join
from convwise.core.geometry import CONVOLUTIONS, GEOMETRY, JOINS, SPATIAL, params_of
from convwise.core.layer_windows import transposed_crops
from convwise.core.layers import Conv2DTranspose, Dense, Layer, Opaque, Reshape, Subtract
from convwise.core.net import INPUT, MOST_SIDE, Net
from convwise.core.parameters import Pads, Pair
from convwise.core.problems import ShapeError
from convwise.core.text import brief
from convwise.core.windows import NO_PADS, Shape, everything, slide

BYTES = 4  # of one activation, float32
MOST_PHASES = 2**20  # that the fields of a net are looked at in, in all: some seconds


@dataclass(frozen=True)
class LayerCost:
    """What one layer does and costs. known: False for an Opaque layer whose cost is not known.

    counted: False where its params are not known either; both are 0 then. pads: padding (top,
    bottom, left, right) that its windows reach, negative where they leave pixels out; of
    Conv2DTranspose what is taken from the full output.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    output_shape: Shape
    pads: Pads
    params: int
    trainable: int
    macs: int
    elementwise: int
    activation_bytes: int
    field: Field
    known: bool = True
    counted: bool = True


@dataclass(frozen=True)
class Total:
    """The sums over a net, and the receptive field at the last layer on the way to the output that
    still has places.

    It is unknown where a layer on that way sees nobody knows what, as places that attend to each
    other do.

    All layers are in the sums, those that no output reads as well. unknown: the layers whose cost
    is in no sum, so that `bounds` are lower bounds; uncounted: those whose params are in none;
    border: the border layer, the first convolution whose input field along the shortest path covers
    the image already, '' where there is none (Richter et al., arXiv 2106.12307).
    """

    params: int
    trainable: int
    macs: int
    elementwise: int
    activation_bytes: int
    peak_bytes: int
    field: Field
    border: str = ""
    unknown: tuple[str, ...] = ()
    uncounted: tuple[str, ...] = ()

    @property
    def cost(self) -> dict[str, float]:
        """The sums that a goal can ask for."""
        return {"params": self.params, "macs": self.macs, "activation_bytes": self.activation_bytes}

    @property
    def bounds(self) -> tuple[str, ...]:
        """The sums here that are lower bounds: an unknown operator may do and hold anything."""
        work = ("macs", "elementwise", "activation_bytes", "peak_bytes") if self.unknown else ()
        return (("params", "trainable") if self.uncounted else ()) + work


@dataclass(frozen=True)
class Analysis:
    """A net's layers with their costs, and the total."""

    layers: tuple[LayerCost, ...]
    total: Total

    def __getitem__(self, name: str) -> LayerCost:
        return next(row for row in self.layers if row.name == name)

    def seen_at_least(self, net: Net) -> Pair:
        """The largest known field, rows and columns, of the layers that have places."""
        way = leading_to(net, {net.layers[-1].name})
        seen = [
            row.field.size
            for row in self.layers
            if row.name in way and row.field.known and row.field.rows.step
        ]
        rows, columns = (max((size[axis] for size in seen), default=1) for axis in (0, 1))
        return rows, columns


def analyse(net: Net) -> Analysis:
    """The exact cost of each layer of `net` and in total. ShapeError where a layer does not fit.

    Where it has a mirrored view, each layer works twice, and the last sees what the answer of both
    views sees.
    """
    if net.mirrored_view:
        return _both_views(net)
    shapes: dict[str, Shape] = {INPUT: net.input_shape}
    reach: dict[str, Field] = {INPUT: Field()}
    maps = dict(shapes)  # where the places of a map stand in one row: the map
    stored: dict[str, int] = {}
    rows, looked = [], 0
    for layer in net.layers:
        read = [maps[name] for name in layer.inputs]
        seen = _Seen([reach[name] for name in layer.inputs], read, looked < MOST_PHASES)
        row = _layer_cost(layer, [shapes[name] for name in layer.inputs], seen)
        shapes[layer.name], reach[layer.name] = row.output_shape, row.field
        maps[layer.name] = _map(row.output_shape, read[0])
        looked += row.field.phases
        stored[layer.name] = (
            _used(layer, shapes[layer.inputs[0]], stored) if layer.shares else row.params
        )
        rows.append(row)
    return Analysis(tuple(rows), _total(net, rows, reach))


def _both_views(net: Net) -> Analysis:
    one, both = analyse(net.one_view), analyse(net.both_views)
    if len(one.layers[-1].output_shape) != 1:
        what = f"has a mirrored view, but answers with a map {one.layers[-1].output_shape}"
        raise ShapeError(
            "net", what, "a row of numbers, such as class probabilities", "remove mirrored_view"
        )
    rows = [
        replace(
            row,
            macs=2 * row.macs,
            elementwise=2 * row.elementwise,
            activation_bytes=2 * row.activation_bytes,
        )
        for row in one.layers
    ]
    rows[-1] = replace(rows[-1], field=rows[-1].field.mirrored_as_well(net.input_shape[1]))
    of_a_view = {
        name: getattr(one.total, name) for name in ("field", "border", "unknown", "uncounted")
    }
    return Analysis(tuple(rows), replace(both.total, **of_a_view))


class _Seen(NamedTuple):
    """A layer's inputs: fields, shapes as maps, and whether there is time to look further."""

    fields: Sequence[Field]
    maps: Sequence[Shape]
    timely: bool


def _map(shape: Shape, before: Shape) -> Shape:
    """A shape as the map that it is: (196, 768) of a map of 14x14 is (14, 14, 768)."""
    if len(shape) != 2 or len(before) != 3:
        return shape
    return (*before[:2], shape[1] if shape[0] == before[0] * before[1] else 1)


def _layer_cost(layer: Layer, shapes: Sequence[Shape], seen: _Seen) -> LayerCost:
    _check_inputs(layer, shapes)
    rule = GEOMETRY[type(layer)]
    output = rule.shape(layer, shapes)
    if max(output) > MOST_SIDE:
        fix = "a smaller input, less padding, or less upsampling"
        raise ShapeError(
            f"layer {layer.name}", f"gives {brief(output)}", f"sides of at most {MOST_SIDE:,}", fix
        )
    params, trainable = (0, 0) if layer.shares else params_of(layer, shapes[0])
    return LayerCost(
        name=layer.name,
        op=layer.op,
        inputs=layer.inputs,
        output_shape=output,
        pads=_pads(layer, shapes[0]),
        params=params,
        trainable=trainable,
        macs=rule.macs(layer, shapes[0], output),
        elementwise=rule.elementwise(layer, shapes[0], output)
        * (len(shapes) - 1 if isinstance(layer, JOINS) else 1),
        activation_bytes=BYTES * prod(output),
        field=_field(layer, shapes, output, seen),
        known=layer.known if isinstance(layer, Opaque) else True,
        counted=layer.params >= 0 if isinstance(layer, Opaque) else True,
    )


def _used(layer: Layer, given: Shape, stored: Mapping[str, int]) -> int:
    """How many weights of another a layer uses. ShapeError where it needs more or fewer."""
    needed, _ = params_of(layer, given)
    if needed != stored[layer.shares]:
        what = (
            f"needs {needed:,} weights, but {layer.shares}, whose weights it shares, has"
            f" {stored[layer.shares]:,}"
        )
        raise ShapeError(
            f"layer {layer.name}", what, f"the parameters of {layer.shares}, on as many channels"
        )
    return needed


def _check_inputs(layer: Layer, shapes: Sequence[Shape]) -> None:
    where = f"layer {layer.name}"
    if isinstance(layer, Opaque):
        return
    if isinstance(layer, JOINS) != (len(shapes) > 1) or (
        isinstance(layer, Subtract) and len(shapes) > 2
    ):
        expected = (
            "two"
            if isinstance(layer, Subtract)
            else "two or more"
            if isinstance(layer, JOINS)
            else "one"
        )
        raise ShapeError(where, f"{layer.op} has {len(shapes)} inputs", expected)
    if isinstance(layer, SPATIAL) and len(shapes[0]) != 3:
        what = f"{layer.op} reads " + (
            f"a row of {shapes[0][0]} numbers" if len(shapes[0]) == 1 else f"{shapes[0]}"
        )
        fix = "put it before Flatten, global pooling and Dense"
        raise ShapeError(where, what, "a map (height, width, channels)", fix)


def _pads(layer: Layer, shape: Shape) -> Pads:
    if isinstance(layer, Conv2DTranspose):
        return transposed_crops(layer)
    window = GEOMETRY[type(layer)].window(layer, shape)
    return window.pads if window else NO_PADS


def _field(layer: Layer, shapes: Sequence[Shape], output: Shape, seen: _Seen) -> Field:
    still = all(
        field.known and not field.rows.step and not field.columns.step for field in seen.fields
    )
    # What all of its inputs see alike, all of its units go on to see
    lost = isinstance(layer, Opaque) and layer.moves == "unknown" and not still
    if lost or not seen.timely:
        return Field(known=False)
    try:
        given, fields = seen.maps[0], seen.fields
        if isinstance(layer, Opaque) and layer.moves == "whole":
            fields = [_of_all(field, shape) for field, shape in zip(fields, seen.maps, strict=True)]
        units = (output[0], output[1]) if len(output) == 3 else (1, 1)
        field = (
            join(fields, [_repeated(shape, output) for shape in shapes], units)
            if len(fields) > 1
            else fields[0]
        )
        rule = GEOMETRY[type(layer)]
        window = rule.window(layer, given)
        moves = window.steps() if window else rule.moves(layer, given, output)
        # A Dense layer on rows of channels mixes the columns
        if isinstance(layer, Dense) and len(given) == 3 and given[:2] == shapes[0]:
            moves = slide(1, 1, 1, 0), everything(shapes[0][1])
        # A Reshape makes places of parts of rows, which see no rectangle
        if isinstance(layer, Reshape) and moves and len(output) > 1 and not still:
            return Field(known=False)
        return field.through(*moves) if moves else field
    except OverflowError:  # too many units to look at
        return Field(known=False)


def _of_all(field: Field, shape: Shape) -> Field:
    """What all places of a map see together."""
    return field.through(everything(shape[0]), everything(shape[1])) if len(shape) == 3 else field


def _repeated(shape: Shape, output: Shape) -> tuple[bool, bool]:
    """Whether the one row (column) of a branch is read by all of the output's."""
    if len(output) != 3 or len(shape) == 1:
        return False, False
    return shape[0] == 1 < output[0], shape[1] == 1 < output[1]


def _total(net: Net, rows: Sequence[LayerCost], reach: Mapping[str, Field]) -> Total:
    way = leading_to(net, {net.layers[-1].name}) if net.layers else set()
    placed = [
        row.field
        for row in rows
        if row.name in way and len(row.output_shape) == 3 and row.field.rows.step
    ]
    lost = any(not row.field.known for row in rows if row.name in way)
    # The last field counts where a net never has places, as one of Dense layers alone
    ends = [row.field for row in rows[-1:]]
    return Total(
        params=sum(row.params for row in rows),
        trainable=sum(row.trainable for row in rows),
        macs=sum(row.macs for row in rows),
        elementwise=sum(row.elementwise for row in rows),
        activation_bytes=sum(row.activation_bytes for row in rows),
        peak_bytes=_peak(net, rows),
        field=Field(known=False) if lost else [Field(), *ends, *placed][-1],
        border=_border(net, reach),
        unknown=tuple(row.name for row in rows if not row.known),
        uncounted=tuple(row.name for row in rows if not row.counted),
    )


def cost_of(rows: Sequence[LayerCost]) -> str:
    """'1,234 parameters and at least 5,678 macs'."""
    params, macs = sum(row.params for row in rows), sum(row.macs for row in rows)
    least = [
        "" if all(known) else "at least "
        for known in ([row.counted for row in rows], [row.known for row in rows])
    ]
    return f"{least[0]}{params:,} parameters and {least[1]}{macs:,} macs"


def leading_to(net: Net, names: Iterable[str]) -> set[str]:
    """The names of these layers and of all from which a path leads to one of them."""
    found = set(names)
    for layer in reversed(net.layers):
        if layer.name in found:
            found.update(layer.inputs)
    return found


def _border(net: Net, reach: Mapping[str, Field]) -> str:
    for layer in net.layers:
        seen = reach[layer.inputs[0]]
        # Behind global pooling there are no places left to look at
        placed = seen.known and seen.rows.step
        covered = all(size >= n for size, n in zip(seen.shortest, net.input_shape, strict=False))
        if isinstance(layer, CONVOLUTIONS) and placed and covered:
            return layer.name
    return ""


def _peak(net: Net, rows: Sequence[LayerCost]) -> int:
    sizes: dict[str, int] = {INPUT: BYTES * prod(net.input_shape)}
    buffer = {INPUT: INPUT}  # of each layer's output
    last: dict[str, Any] = {}
    for layer, row in zip(net.layers, rows, strict=True):
        buffer[layer.name] = buffer[layer.inputs[0]] if GEOMETRY[type(layer)].view else layer.name
        sizes.setdefault(buffer[layer.name], row.activation_bytes)
        last.update(
            dict.fromkeys(
                [buffer[layer.name], *(buffer[name] for name in layer.inputs)], layer.name
            )
        )
    ending: dict[str, list[str]] = {}  # for each layer, the buffers that nobody reads after it
    for name, reader in last.items():
        ending.setdefault(reader, []).append(name)
    made, held, most = {INPUT}, sizes[INPUT], sizes[INPUT]
    for layer in net.layers:
        held += sizes[buffer[layer.name]] if buffer[layer.name] not in made else 0
        made.add(buffer[layer.name])
        most = max(most, held)
        held -= sum(
            sizes[name]
            for name in ending.get(layer.name, ())
            if name != buffer[net.layers[-1].name]
        )
    return most
