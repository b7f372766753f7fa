"""A network and changes of its layers -> shapes, costs, what one output sees, and what is wrong: as
plain JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convwise.core import layers as L
from convwise.core.activations import ACTIVATIONS
from convwise.core.calculus import Analysis, LayerCost, analyse
from convwise.core.check import findings
from convwise.core.net import INPUT, Net
from convwise.core.parameters import (
    FIVE,
    Count,
    Extra,
    Flag,
    Named,
    Number,
    Padding,
    Parameter,
    Size,
    Word,
)
from convwise.core.problems import ConvwiseError, UnusableInput

BETWEEN = (
    L.BatchNormalization,
    L.GroupNormalization,
    L.LayerNormalization,
    L.MaxPooling2D,
    L.AveragePooling2D,
    L.Dropout,
)
KINDS: dict[type, str] = {
    Count: "count", Size: "pair", Extra: "pair", Padding: "padding", Flag: "flag", Named: "word",
    Word: "word",
    Number: "number",
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One parameter of one layer at another value."""

    layer: str
    parameter: str
    value: Any

    @staticmethod
    def from_json(row: Any) -> Change:
        """UnusableInput where it is none."""
        if not isinstance(row, Mapping) or not {"layer", "parameter", "value"} <= row.keys():
            raise UnusableInput("change", f"is {row!r}", "layer, parameter and value")
        value = row["value"]
        return Change(
            str(row["layer"]),
            str(row["parameter"]),
            tuple(value) if isinstance(value, list) else value,
        )

    def __str__(self) -> str:
        """As `convwise measure --parameter` takes it."""
        same = (
            isinstance(self.value, tuple)
            and len(self.value) == 2
            and self.value[0] == self.value[1]
        )
        value = self.value[0] if same else self.value
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        return f"{self.layer}.{self.parameter}={shown}"


def edited(net: Net, changes: Sequence[Change]) -> Net:
    """The net with these changes. UnusableInput where a name or a value is none."""
    for change in changes:
        if change.parameter not in [declared.name for declared in L.parameters(net[change.layer])]:
            raise UnusableInput(
                change.layer, f"has no parameter {change.parameter!r}", "one that it declares"
            )
        net = net.edit(change.layer, **{change.parameter: change.value})
    return net


def layers(net: Net) -> list[dict[str, Any]]:
    """Every layer with its controls: those of the activation behind a convolution stand with it."""
    return [
        {"name": each.name, "op": each.op, "controls": list(_controls(net, each))}
        for each in net.layers
    ]


def answer(
    net: Net, changes: Sequence[Change], layer: str, at: tuple[float, float] = (0.5, 0.5)
) -> dict[str, Any]:
    """What the changes make of the net: a row for each layer, the total, and what an output of
    `layer` sees.

    at: which output, as shares of the rows and columns of its map. Where the changes cannot be,
    only `problem`: where, what, expected, fix.
    """
    before = analyse(net)
    try:
        changed = edited(net, changes)
        after = analyse(changed)
    except ConvwiseError as error:
        said = error.problem
        told = {"where": said.where, "what": said.what, "expected": said.expected, "fix": said.fix}
        return {"problem": told, "net": net.id, "together": together(net, changes)}
    shown = layer if layer in {row.name for row in after.layers} else after.layers[0].name
    known = {str(finding.problem) for finding in findings(net)}
    return {
        "problem": None,
        "net": net.id,
        "edited": changed.id,
        "input": list(net.input_shape),
        "rows": [
            _row(a, b, changed[b.name]) for a, b in zip(before.layers, after.layers, strict=True)
        ],
        "total": {"before": _total(before), "after": _total(after)},
        "seen": {"before": seen(before[shown], net, at), "after": seen(after[shown], changed, at)},
        "findings": [
            str(each.problem) for each in findings(changed) if str(each.problem) not in known
        ][:6],
    }


def together(net: Net, changes: Sequence[Change]) -> list[dict[str, Any]]:
    """Further changes with which these can be: layers whose maps are joined have as many filters.
    None: no such.
    """
    filters = [change for change in changes if change.parameter == "filters"]
    named = {change.layer for change in filters}
    try:
        more = [
            Change(name, "filters", each.value)
            for each in filters
            for name in joined(net, each.layer) - named
        ]
        analyse(edited(net, [*changes, *more]))
    except ConvwiseError:
        return []
    return [{"layer": each.layer, "parameter": "filters", "value": each.value} for each in more]


def joined(net: Net, name: str) -> set[str]:
    """The layers with filters whose maps meet that of layer `name` where maps are joined, and
    itself.

    UnusableInput where there is no such layer.
    """
    groups = {layer.name: {layer.name} for layer in net.layers}
    for layer in net.layers:
        if hasattr(layer, "filters") or isinstance(layer, (L.Concatenate, L.Dense)):
            continue  # its output has channels of its own
        group = {layer.name}.union(*(groups[each] for each in layer.inputs if each != INPUT))
        groups |= dict.fromkeys(group, group)
    return {each for each in groups[net[name].name] if hasattr(net[each], "filters")}


def seen(row: LayerCost, net: Net, at: tuple[float, float] = (0.5, 0.5)) -> dict[str, Any] | None:
    """What one output of a layer sees, in input px, clipped to the image; None behind what has no
    places.

    size: of the whole field, before clipping.
    """
    if len(row.output_shape) != 3 or not row.field.known:
        return None
    spans, units = [], []
    for axis, outputs, size, share in zip(
        (row.field.rows, row.field.columns), row.output_shape, net.input_shape, at, strict=False
    ):
        unit = min(int(share * outputs), outputs - 1)
        if (span := axis.at(unit)) is None:
            return None
        spans.append((min(max(span[0], 0), size), min(max(span[1] + 1, 0), size)))
        units.append(unit)
    (top, bottom), (left, right) = spans
    share = (bottom - top) * (right - left) / (net.input_shape[0] * net.input_shape[1])
    box = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    return {
        "box": box,
        "size": list(row.field.size),
        "map": list(row.output_shape),
        "unit": units,
        "share": share,
    }


def _row(before: LayerCost, after: LayerCost, layer: L.Layer) -> dict[str, Any]:
    return {
        "name": after.name,
        "op": after.op,
        "settings": _settings(layer),
        "before": _cost(before),
        "after": _cost(after),
        "pads": list(after.pads),
    }


def _cost(row: LayerCost) -> dict[str, Any]:
    field = list(row.field.size) if row.field.known else None
    return {"shape": list(row.output_shape), "params": row.params, "macs": row.macs, "field": field,
            "bytes": row.activation_bytes}  # fmt: skip


def _settings(layer: L.Layer) -> str:
    """What people ask about, in one line."""
    told = []
    for declared in L.parameters(layer):
        value = getattr(layer, declared.name)
        if declared.name in (*FIVE, "pool_size", "units", "rate") and value != "linear":
            told.append(f"{declared.name} {_short(value)}")
    return " · ".join(told)


def _short(value: Any) -> str:
    if not isinstance(value, tuple):
        return f"{value:.4g}" if isinstance(value, float) else str(value)
    return "×".join(map(str, value)) if len(value) == 2 else ", ".join(map(str, value))


def _total(found: Analysis) -> dict[str, Any]:
    total = found.total
    return {"params": total.params, "macs": total.macs, "peak_bytes": total.peak_bytes,
            "activation_bytes": total.activation_bytes,
            "field": list(total.field.size)}  # fmt: skip


# Controls, from what each layer declares ----------------------------------------------------------


def _controls(net: Net, layer: L.Layer) -> Iterator[dict[str, Any]]:
    declared = sorted(
        L.parameters(layer),
        key=lambda each: FIVE.index(each.name) if each.name in FIVE else len(FIVE),
    )
    behind = (
        _activation_of(net, layer)
        if hasattr(layer, "activation") and not isinstance(layer, L.Activation)
        else None
    )
    for each in declared:
        if each.name == "activation" and behind:
            yield _control(behind, next(L.parameters(behind)), asked=True)
        elif kind_of(each):
            yield _control(layer, each, asked=each.name in FIVE)


def kind_of(declared: Parameter[Any, Any]) -> str:
    """How a parameter is asked for, '' where it is not: a word of many, numbers per channel."""
    kind = KINDS.get(type(declared), "")
    return "" if isinstance(declared, Word) and not declared.words else kind


def _control(layer: L.Layer, declared: Parameter[Any, Any], asked: bool) -> dict[str, Any]:
    value = getattr(layer, declared.name)
    options = (
        list(ACTIVATIONS) if isinstance(declared, Named) else list(getattr(declared, "words", ()))
    )
    return {
        "layer": layer.name,
        "parameter": declared.name,
        "kind": kind_of(declared),
        "value": list(value) if isinstance(value, tuple) else value,
        "options": options if value in options or not options else [value, *options],
        "meanings": (
            {name: row.meaning for name, row in ACTIVATIONS.items()}
            if isinstance(declared, Named)
            else {}
        ),
        "meaning": declared.meaning,
        "legal": declared.legal,
        "asked": asked,
    }


def _activation_of(net: Net, layer: L.Layer) -> L.Layer | None:
    """The activation that is a layer of its own behind a convolution, with nothing but BETWEEN in
    between.
    """
    while layer.name != INPUT:
        readers = [each for each in net.layers if layer.name in each.inputs]
        if len(readers) != 1:
            return None
        layer = readers[0]
        if isinstance(layer, L.Activation):
            return layer
        if not isinstance(layer, BETWEEN):
            return None
    return None
