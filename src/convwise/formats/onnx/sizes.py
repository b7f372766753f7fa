"""ONNX's operators that change the rows and columns of a map as layers: one rule each.

A rule gives None where the operator is none of our layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil, floor

import numpy as np

from convwise.core import layers as L
from convwise.core.net import MIRROR
from convwise.core.parameters import MOST_SIZE, Pads, Pair
from convwise.formats.onnx.context import Context, Read, Rule, on, same
from convwise.formats.onnx.nodes import Node, Tensor


def _per_axis(
    context: Context, node: Node, places: Sequence[int], parts: Sequence[int]
) -> Pair | None:
    """What is said of axes, as (rows, columns); None where it is also said of others."""
    order = context.values[node.inputs[0]].order
    told = {order[place]: part for place, part in zip(places, parts, strict=True) if part}
    return (told.get(1, 0), told.get(2, 0)) if len(order) == 4 and not set(told) - {1, 2} else None


def _pad(context: Context, node: Node) -> Read | None:
    rank = len(context.graph.shapes[node.inputs[0]])
    pads, value, given = (context.constant(node, place) for place in (1, 2, 3))
    constant = node.attributes.get("mode", "constant") == "constant"
    if pads is None or not constant or (value is not None and np.any(value)):
        return None
    axes = list(range(rank)) if given is None else [int(axis) % rank for axis in given]
    before, after = (
        _per_axis(context, node, axes, [int(n) for n in each])
        for each in np.split(pads.reshape(-1), 2)
    )
    if before is None or after is None:
        return None
    return _around(context, node, (before[0], after[0], before[1], after[1]))


def _around(context: Context, node: Node, sides: Pads) -> Read | None:
    """Rows and columns added around a map, or cut off where sides are below 0."""
    if not any(sides):
        return same(context, node)
    top, bottom, left, right = sides
    added, cut = (
        (max(sign * top, 0), max(sign * bottom, 0), max(sign * left, 0), max(sign * right, 0))
        for sign in (1, -1)
    )
    if not any(added):
        return on(context, node, L.Cropping2D(cut))
    crop = L.Cropping2D(cut) if any(cut) else None
    return replace(on(context, node, L.ZeroPadding2D(added)), before=crop)


def _mirrors(context: Context, node: Node) -> bool:
    """Whether left and right of the image change places, which a mirrored view begins with."""
    given = [context.constant(node, place) for place in range(1, 5)]
    single = [each.item() for each in given if each is not None and each.size == 1]
    if node.inputs[0] != context.graph.image or len(single) < 4:
        return False
    start, end, axis, step = map(int, single)
    order, size = context.values[node.inputs[0]].order, context.graph.shapes[node.inputs[0]][axis]
    return order[axis] == 2 and step == -1 and (start == -1 or start >= size - 1) and end < -size


def _slice(context: Context, node: Node) -> Read | None:
    shape = context.graph.shapes[node.inputs[0]]
    starts, ends, axes, steps = (context.constant(node, place) for place in range(1, 5))
    if starts is None or ends is None:
        return None
    if _mirrors(context, node):
        return on(context, node, L.Opaque(MIRROR, context.graph.input_shape, 0, 0, 0))
    if steps is not None and np.any(steps < 1):
        return None
    places = list(range(len(starts))) if axes is None else [int(axis) % len(shape) for axis in axes]
    if steps is not None and np.any(steps != 1):
        return _every_other(context, node, places, starts, steps)
    sides = [shape[axis] for axis in places]
    spans = [range(n)[int(a) : int(b)] for n, a, b in zip(sides, starts, ends, strict=True)]
    before = _per_axis(context, node, places, [-span.start for span in spans])
    behind = [span.stop - n for n, span in zip(sides, spans, strict=True)]
    after = _per_axis(context, node, places, behind)
    if before is None or after is None:
        return None
    return _around(context, node, (before[0], after[0], before[1], after[1]))


def _every_other(
    context: Context, node: Node, places: Sequence[int], starts: Tensor, steps: Tensor
) -> Read | None:
    """Every second row or column and such, as YOLO's Focus takes; the first are cropped."""
    first, strides = (
        _per_axis(context, node, places, [int(n) for n in each]) for each in (starts, steps)
    )
    if not context.first(node.inputs[0]) or first is None or strides is None or min(first) < 0:
        return None
    strides = strides[0] or 1, strides[1] or 1
    output = context.ours(node.outputs[0], context.values[node.inputs[0]])
    taken = L.Opaque(node.kind, output, 0, 0, 0, "window", strides=strides)
    crop = L.Cropping2D((first[0], 0, first[1], 0)) if any(first) else None
    return replace(on(context, node, taken), before=crop)


def _resize(context: Context, node: Node) -> Read | None:
    given, out = (context.graph.shapes[name] for name in (node.inputs[0], node.outputs[0]))
    if any(after % before for before, after in zip(given, out, strict=True)):
        return None
    sides = zip(given, out, strict=True)
    ratios = [after // before if after != before else 0 for before, after in sides]
    factors = _per_axis(context, node, range(len(given)), ratios)
    mode = node.attributes.get("mode", "nearest")
    way, rounding = sampling(node)
    if factors is None or node.attributes.get("antialias", 0):
        return None
    size = factors[0] or 1, factors[1] or 1
    if mode == "nearest":
        even = all(_repeats(factor, way, rounding) for factor in size)
        return on(context, node, L.UpSampling2D(size)) if even else None
    smooth = {"linear": "bilinear", "cubic": "bicubic"}.get(mode)
    half = way in ("half_pixel", "pytorch_half_pixel")
    return on(context, node, L.UpSampling2D(size, smooth)) if smooth and half else None


def sampling(node: Node) -> tuple[str, str]:
    """How Resize, or Upsample, places px, and how it rounds where it takes the nearest."""
    usual = "asymmetric", "floor"
    if node.kind == "Resize":
        usual = "half_pixel", "round_prefer_floor"
    way = node.attributes.get("coordinate_transformation_mode", usual[0])
    return way, node.attributes.get("nearest_mode", usual[1])


_ROUNDED: dict[str, Callable[[float], float]] = {
    "floor": floor,
    "ceil": ceil,
    "round_prefer_ceil": lambda x: floor(x + 0.5),
    "round_prefer_floor": lambda x: ceil(x - 0.5),
}


def _repeats(factor: int, way: str, rounding: str) -> bool:
    """Whether output i reads input i // factor, over two inputs."""
    halves = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn")
    if way not in ("asymmetric", *halves) or factor > MOST_SIZE:
        return False
    centre = 0.5 if way in halves else 0.0
    back = 0.0 if way == "tf_half_pixel_for_nn" else centre
    places = [(i + centre) / factor - back for i in range(2 * factor)]
    rounded: Callable[[float], float] = _ROUNDED[rounding]
    return all(max(rounded(place), 0) == i // factor for i, place in enumerate(places))


SIZES: dict[str, Rule] = {"Pad": _pad, "Slice": _slice, "Resize": _resize, "Upsample": _resize}
