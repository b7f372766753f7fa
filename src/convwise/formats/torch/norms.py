"""Normalisation: of batches, groups, layers. See rules.py."""

from __future__ import annotations

from math import prod

import numpy as np

from convwise.core import layers as L
from convwise.formats.torch.places import Seen
from convwise.formats.torch.pointwise import like
from convwise.formats.torch.program import Node
from convwise.formats.torch.walk import Array, Rule, Walk


def _batch_norm(walk: Walk, node: Node) -> Seen | None:
    given, seen = node.arguments, walk.seen(node.arguments["input"])
    if seen is None or given.get("training") or len(seen.shape) not in (1, 3):
        return None
    if any(walk.sides(given.get(name)) is None for name in ("running_mean", "running_var")):
        return None
    seen = seen if len(seen.shape) == 1 else walk.standard(seen)
    mean, variance = walk.number(given["running_mean"]), walk.number(given["running_var"])
    weights = {**_affine(walk, node), "moving_mean": mean, "moving_variance": variance}
    if len(seen.shape) == 1 and seen.places is not None:
        turn = np.argsort(seen.places)
        weights = {key: None if value is None else value[turn] for key, value in weights.items()}
    momentum = round(1 - (given.get("momentum") or 0.1), 12)
    kept = momentum if 0 <= momentum < 1 else 0.9  # it matters to training alone
    learnt = "beta" in weights, "gamma" in weights
    layer = L.BatchNormalization(given.get("eps", 1e-5), kept, *learnt)
    return like(walk.add(node, layer, seen, weights=weights), seen)


def _affine(walk: Walk, node: Node) -> dict[str, Array | None]:
    given = {"gamma": node.arguments.get("weight"), "beta": node.arguments.get("bias")}
    return {key: walk.number(value) for key, value in given.items() if value is not None}


def _group_norm(walk: Walk, node: Node) -> Seen | None:
    given, seen = node.arguments, walk.seen(node.arguments["input"])
    if seen is None or len(seen.shape) not in (1, 3) or _of_the_image(walk, node, "weight", "bias"):
        return None
    seen, weights = walk.standard(seen), _affine(walk, node)
    groups = given.get("num_groups", seen.shape[-1])
    if len(seen.shape) == 3 and given.get("running_mean") is None:
        learnt = "beta" in weights, "gamma" in weights
        layer = L.GroupNormalization(groups, given.get("eps", 1e-5), *learnt)
        return walk.add(node, layer, seen, weights=weights)
    return None


def _layer_norm(walk: Walk, node: Node) -> Seen | None:
    given, seen = node.arguments, walk.seen(node.arguments["input"])
    if seen is None or seen.order is None or _of_the_image(walk, node, "weight", "bias"):
        return None
    last = seen.order[-len(given["normalized_shape"]) :]
    turn = np.argsort(last)
    weights = _affine(walk, node)
    weights = {key: n if n is None else n.transpose(turn) for key, n in weights.items()}
    axes = (-1,) if last == (len(seen.shape) - 1,) else tuple(sorted(axis + 1 for axis in last))
    learnt = "beta" in weights, "gamma" in weights
    layer = L.LayerNormalization(axes, given.get("eps", 1e-5), *learnt)
    return like(walk.add(node, layer, seen, weights=weights), seen)


def _rms_norm(walk: Walk, node: Node) -> Seen | None:
    """Over the channels alone: each place is told by its own."""
    given, seen = node.arguments, walk.seen(node.arguments["input"])
    if seen is None or seen.order is None or _of_the_image(walk, node, "weight"):
        return None
    if seen.order[-len(given["normalized_shape"]) :] != (len(seen.shape) - 1,):
        return None
    layer = L.Opaque(node.operator, seen.shape, 0, 0, 5 * prod(seen.shape), "same")
    return like(walk.add(node, layer, seen), seen)


def _of_the_image(walk: Walk, node: Node, *names: str) -> bool:
    """Whether an argument is no constant: it comes from the image."""
    return any(walk.seen(node.arguments.get(name)) is not None for name in names)


NORMS: dict[str, Rule] = {
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "group_norm": _group_norm,
    "instance_norm": _group_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
}
