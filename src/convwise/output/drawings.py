"""The report's table of the network, what an output sees of an image, and odd images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convwise.advice import doubts, outliers
from convwise.core.calculus import Analysis, LayerCost, analyse
from convwise.core.layers import Layer, parameters
from convwise.core.net import INPUT, Net
from convwise.core.records import Fingerprint, Outlier, Suspect
from convwise.images.loading import Images, Pair
from convwise.inspect.sight import EffectiveField
from convwise.output import plots
from convwise.output.words import plain

MOST_FIELDS = 5
# Parameters that are shown even at their default: what people ask about.
ALWAYS = (
    "filters",
    "kernel_size",
    "strides",
    "padding",
    "activation",
    "pool_size",
    "units",
    "rate",
)
PICTURE_PX = 224
ODD_PX, MOST_ODD, MOST_UNLIKE = 112, 24, 12  # of pictures that are odd, and how many are shown
# uint8 (h, w, c), and what is said of each
Pictures = tuple[tuple[np.ndarray, Mapping[str, Any]], ...]


@dataclass(frozen=True)
class Odd:
    """What is odd about the images. near: pairs of near duplicates; suspects: images to learn from
    whose labels are doubtful, each with its path, label and suggested label, some of `doubtful` of
    so many `looked_at`; outliers: images unlike all others, each with its path, label and distance,
    some of `unlike`.
    """

    near: tuple[Pair, ...] = ()
    suspects: Pictures = ()
    doubtful: int = 0
    looked_at: int = 0
    outliers: Pictures = ()
    unlike: int = 0


def odd_among(images: Images, facts: Fingerprint) -> Odd:
    """What is odd about the images, as pictures."""

    def pictures(
        rows: Sequence[Mapping[str, Any]], found: Sequence[Suspect | Outlier], most: int
    ) -> Pictures:
        shown = list(zip(rows, found, strict=True))[:most]
        return tuple((np.asarray(images.train.pixels[each.row]), row) for row, each in shown)

    names = images.train.names
    return Odd(
        near=images.near,
        suspects=pictures(doubts.shown(facts, names), facts.suspects, MOST_ODD),
        doubtful=len(facts.suspects),
        looked_at=facts.looked_at,
        outliers=pictures(outliers.shown(facts, names), facts.outliers, MOST_UNLIKE),
        unlike=len(facts.outliers),
    )


def by(pair: Sequence[int]) -> str:
    """(3, 3) -> '3×3'."""
    return "×".join(str(n) for n in pair)


def fields(
    net: Net, pixels: np.ndarray, labels: np.ndarray, sight: EffectiveField | None
) -> dict[str, Any]:
    """The receptive field after each stage, drawn on up to three of the scored images; the measured
    one on another.

    pixels: uint8 (n, h, w, c); labels: (n,), or (n, k) of several numbers.
    """
    costs = analyse(net)
    height, width = net.input_shape[:2]
    seen = [_box(row, height, width) for row in _milestones(costs)]
    first = np.unique(labels, axis=0, return_index=True)[1][:3].tolist()  # of three labels
    images = [plots.png(pixels[i], PICTURE_PX) for i in first]
    used = _used(sight, pixels[first[0]]) if sight and first else None
    pixelated = max(height, width) < 100
    return {
        "stages": seen,
        "images": images,
        "height": height,
        "width": width,
        "pixelated": pixelated,
        "used": used,
    }


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
        start = (
            (axis.at((outputs - 1) // 2) or (0, 0))[0]
            if row.field.aligned
            else (size - axis.size) // 2
        )
        spans.append((max(start, 0), min(start + axis.size, size)))
    (top, bottom), (left, right) = spans
    share = (bottom - top) * (right - left) / (height * width)
    box = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    return {
        "name": row.name,
        "size": by(row.field.size),
        "map": by(row.output_shape[:2]),
        "share": share,
        "box": box,
    }


def _used(sight: EffectiveField, pixels: np.ndarray) -> dict[str, Any]:
    """The measured field over one image in gray: how much each px counts, the theoretical box, and
    what holds 95 %.
    """
    top, bottom, left, right = sight.box
    # A square around the middle may reach past the image
    half, most = sight.holding(0.5), sight.holding(0.95)
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


def network(net: Net) -> dict[str, Any]:
    """The layers as rows with their shapes and costs, and the wires between them."""
    costs = analyse(net)
    wires, lanes = _wires(net)
    top: dict[str, Any] = {
        "name": INPUT,
        "shape": by(net.input_shape),
        "block": _block(net.input_shape, net),
    }
    rows = [top] + [
        _layer_row(net, layer, row) for layer, row in zip(net.layers, costs.layers, strict=True)
    ]
    for row, paths in zip(rows, wires, strict=True):
        row["wires"] = paths
    return {
        "rows": rows,
        "total": costs.total,
        "width": 20 + 14 * lanes,
        "branches": not net.is_chain,
    }


def _layer_row(net: Net, layer: Layer, cost: LayerCost) -> dict[str, Any]:
    return {
        "name": layer.name,
        "op": layer.op,
        "settings": [
            text for p in parameters(layer) if (text := _setting(layer, p.name, p.default, cost))
        ],
        "shape": by(cost.output_shape),
        "block": _block(cost.output_shape, net),
        "params": cost.params,
        "macs": cost.macs,
        "field": by(cost.field.size),
        "light": not cost.params and not cost.macs,
    }


def _setting(layer: Layer, name: str, default: Any, cost: LayerCost) -> str:
    """One parameter as text, '' where it is at its default and nobody asks about it."""
    value = getattr(layer, name)
    if value == default and (name not in ALWAYS or value == "linear"):
        return ""
    if name == "padding":
        around = dict.fromkeys(cost.pads) if len(set(cost.pads)) == 1 else cost.pads
        return f"padding {plain(value)}" + (
            f" ({plain(tuple(around))})" if value == "same" and any(cost.pads) else ""
        )
    pair = isinstance(value, tuple) and len(value) == 2 and all(isinstance(n, int) for n in value)
    return f"{name} {by(value) if pair else plain(value)}"


def _block(shape: Sequence[int], net: Net) -> tuple[float, float]:
    """(width, height) in px: the channels, on a log scale, and the rows of the map."""
    width = 3 + 4 * math.log2(shape[-1] + 1)
    height = 4 + 24 * math.sqrt(min(shape[0] / net.input_shape[0], 1)) if len(shape) == 3 else 4
    return round(min(width, 48), 1), round(height, 1)


def _wires(net: Net) -> tuple[list[list[str]], int]:
    """SVG paths for each row (100 high, lane 0 at x = 10), and the number of side lanes.

    A layer that reads the row above it hangs on lane 0; every other edge runs in a lane beside.
    """
    place = {INPUT: 0} | {layer.name: i for i, layer in enumerate(net.layers, 1)}
    edges = [(place[name], i) for i, layer in enumerate(net.layers, 1) for name in layer.inputs]
    paths: list[list[str]] = [[] for _ in place]
    busy: list[int] = []  # the row at which each lane is free again
    for start, end in sorted(edges):
        if end == start + 1:
            paths[start].append("M10 50V100")
            paths[end].append("M10 0V50")
            continue
        lane = next((i for i, free in enumerate(busy) if free <= start), len(busy))
        busy[lane : lane + 1] = [end]
        x = 24 + 14 * lane
        paths[start].append(f"M10 50Q{x} 50 {x} 100")
        paths[end].append(f"M{x} 0Q{x} 50 10 50")
        for row in range(start + 1, end):
            paths[row].append(f"M{x} 0V100")
    return paths, len(busy)


def odd(found: Odd) -> dict[str, Any]:
    """Near duplicates side by side, the images whose labels are doubtful, and those unlike all
    others, as pictures.
    """
    return {
        "near": [
            {"images": [plots.png(each, ODD_PX) for each in pair.pictures],
             "sides": list(zip(pair.names, pair.parts, pair.labels, strict=True))}
            for pair in found.near[:MOST_ODD]
        ],
        "suspects": [{"image": plots.png(pixels, ODD_PX), **row} for pixels, row in found.suspects],
        "doubtful": found.doubtful,
        "looked_at": found.looked_at,
        "outliers": [{"image": plots.png(pixels, ODD_PX), **row} for pixels, row in found.outliers],
        "unlike": found.unlike,
    }  # fmt: skip
