"""The report's pictures of receptive fields: what an output could see, and what it really uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convwise.core.calculus import Analysis, LayerCost, analyse
from convwise.core.net import Net
from convwise.inspect.sight import EffectiveField
from convwise.output import plots

MOST_FIELDS = 5
PICTURE_PX = 224


def by(pair: Sequence[int]) -> str:
    """(3, 3) -> '3×3'."""
    return "×".join(str(n) for n in pair)


def fields(net: Net, pixels: np.ndarray, labels: np.ndarray, sight: EffectiveField | None) -> dict[str, Any]:
    """The receptive field after each stage, drawn on up to three of the scored images; the measured one on another.

    pixels: uint8 (n, h, w, c); labels: (n,).
    """
    costs = analyse(net)
    height, width = net.input_shape[:2]
    seen = [_box(row, height, width) for row in _milestones(costs)]
    first = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)[:3]]
    images = [plots.png(pixels[i], PICTURE_PX) for i in first]
    used = _used(sight, pixels[first[0]]) if sight and first else None
    pixelated = max(height, width) < 100
    return {"stages": seen, "images": images, "height": height, "width": width, "pixelated": pixelated, "used": used}


def _milestones(costs: Analysis) -> list[LayerCost]:
    """The first layer that looks around itself, and the last of each map size."""
    rows = [row for row in costs.layers if len(row.output_shape) == 3 and max(row.field.size) > 1]
    last = {row.output_shape[:2]: row for row in rows if row.field.size}
    distinct = {row.field.size: row for row in reversed([*rows[:1], *last.values()])}
    return sorted(distinct.values(), key=lambda row: row.field.size)[-MOST_FIELDS:]


def _box(row: LayerCost, height: int, width: int) -> dict[str, Any]:
    """What the middle output of a layer sees, clipped to the image, in input px."""
    spans = []
    for axis, outputs, size in zip(
        (row.field.rows, row.field.columns), row.output_shape[:2], (height, width), strict=True
    ):
        start = (axis.at((outputs - 1) // 2) or (0, 0))[0] if row.field.aligned else (size - axis.size) // 2
        spans.append((max(start, 0), min(start + axis.size, size)))
    (top, bottom), (left, right) = spans
    share = (bottom - top) * (right - left) / (height * width)
    box = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    return {"name": row.name, "size": by(row.field.size), "map": by(row.output_shape[:2]), "share": share, "box": box}


def _used(sight: EffectiveField, pixels: np.ndarray) -> dict[str, Any]:
    """The measured field over one image in gray: how much each px counts, the theoretical box, and what holds 95 %."""
    top, bottom, left, right = sight.box
    half, most = sight.holding(0.5), sight.holding(0.95)  # a square around the middle may reach past the image
    (y, dashed_bottom), (x, dashed_right) = (
        (max(middle + 0.5 - most / 2, 0), min(middle + 0.5 + most / 2, n))
        for middle, n in zip(sight.centre, sight.map.shape, strict=True)
    )
    return {
        "image": plots.png(pixels.mean(axis=-1, keepdims=True).astype(np.uint8), PICTURE_PX),
        "shade": plots.shade(np.sqrt(sight.map / sight.map.max())),
        "field": {"x": left, "y": top, "width": right - left, "height": bottom - top},
        "most": {"x": x, "y": y, "width": dashed_right - x, "height": dashed_bottom - y},
        "layer": sight.layer,
        "theoretical": by(sight.theoretical),
        "half": by([min(half, side) for side in sight.map.shape]),
        "all": by([min(most, side) for side in sight.map.shape]),
        "images": sight.images,
    }
