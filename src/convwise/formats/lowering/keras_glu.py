"""GLU for Keras, which has no layer that splits channels: as several other layers."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from convwise.core import layers as L
from convwise.core.net import Net, fresh
from convwise.core.windows import Shape
from convwise.formats.lowering.calls import shapes_of


def expanded(net: Net) -> Net:
    """The net with each GLU in terms of other layers."""
    if not any(isinstance(layer, L.GLU) for layer in net.layers):
        return net
    shapes, taken = shapes_of(net), {layer.name for layer in net.layers}
    made: list[L.Layer] = []
    for layer in net.layers:
        if isinstance(layer, L.GLU):
            made += _halves(layer, shapes[layer.inputs[0]], taken)
        else:
            made.append(layer)
    return replace(net, layers=tuple(made))


def _halves(layer: L.GLU, shape: Shape, taken: set[str]) -> list[L.Layer]:
    """The channels as columns (first half, second half), one of which is cropped away."""
    columns, values, first, gates, second, gate = (
        fresh(f"{layer.name}_{word}", taken)
        for word in ("halves", "left", "values", "right", "gates", "sigmoid")
    )
    half = shape[-1] // 2
    target = (*shape[:-1], half)
    return [
        L.Reshape((prod(shape[:-1]), 2, half), name=columns, inputs=layer.inputs),
        L.Cropping2D((0, 0, 0, 1), name=values, inputs=(columns,)),
        L.Reshape(target, name=first, inputs=(values,)),
        L.Cropping2D((0, 0, 1, 0), name=gates, inputs=(columns,)),
        L.Reshape(target, name=second, inputs=(gates,)),
        L.Activation("sigmoid", name=gate, inputs=(second,)),
        L.Multiply(name=layer.name, inputs=(first, gate)),
    ]
