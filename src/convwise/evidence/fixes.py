"""A finding of `check` -> the net with its fix, which an experiment can try."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from convwise.core.calculus import analyse
from convwise.core.check import Finding
from convwise.core.checks.context import Edit
from convwise.core.layers import Layer
from convwise.core.net import Net, fresh
from convwise.core.problems import ShapeError, UnusableInput


def edited(net: Net, finding: Finding) -> Net | None:
    """The net with a finding's fix; None where it has no edits, or would not fit together."""
    layers = list(net.layers)
    try:
        for edit in finding.edits:
            layers = _edit(layers, edit)
        changed = replace(net, layers=tuple(layers))
        analyse(changed)
    except (ShapeError, UnusableInput):
        return None
    return changed if changed.layers and changed.id != net.id else None


def _edit(layers: list[Layer], edit: Edit) -> list[Layer]:
    place = next(number for number, layer in enumerate(layers) if layer.name == edit.layer)
    before, layer, after = layers[:place], layers[place], layers[place + 1 :]
    if edit.reads:
        return [*before, *_redirected(after, edit.layer, edit.reads)]
    if not edit.instead:
        return [*before, replace(layer, **edit.changes), *after]
    chain = _chain(layer, edit.instead, {each.name for each in layers})
    return [*before, *chain, *_redirected(after, edit.layer, chain[-1].name)]


def _chain(layer: Layer, instead: Sequence[Layer], taken: set[str]) -> list[Layer]:
    """New layers, each reading the one before, the first what `layer` reads.

    The layer's own kind keeps its name.
    """
    chain: list[Layer] = []
    keeper = next((each for each in instead if each.op == layer.op), instead[0])
    for new in instead:
        name = layer.name if new is keeper else fresh(f"{layer.name}_{new.op.lower()}", taken)
        taken.add(name)
        inputs = (chain[-1].name,) if chain else layer.inputs
        chain.append(replace(new, name=name, inputs=inputs))
    return chain


def _redirected(layers: Sequence[Layer], old: str, new: str) -> list[Layer]:
    return [
        replace(layer, inputs=tuple(new if name == old else name for name in layer.inputs))
        for layer in layers
    ]
