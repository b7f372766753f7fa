"""Numbers that move: reshapes, permutations, padding, slices, upsampling. See rules.py."""

from __future__ import annotations

from math import inf, prod

from convwise.core import layers as L
from convwise.core.parameters import Pads
from convwise.formats.torch.pt2 import Node, is_float
from convwise.formats.torch.walk import MOST_MOVED, Rule, Seen, Walk, image, pair


def _unmoved(walk: Walk, node: Node) -> Seen | None:
    return walk.first(node)


def _cast(walk: Walk, node: Node) -> Seen | None:
    """Nothing between floating types; to whole numbers it rounds."""
    return walk.first(node) if is_float(node.arguments) else None


def _expanded(walk: Walk, node: Node) -> Seen | None:
    """Repeated sides: what joins it repeats them anyway."""
    joins = ("add", "sub", "mul", "maximum", "minimum", "div")
    readers = [each for each in walk.program.nodes if node.name in each.reads]
    return walk.first(node) if all(each.operator.removesuffix("_") in joins for each in readers) else None


def _reshaped(walk: Walk, node: Node) -> Seen | None:
    seen, shape = walk.seen(next(iter(node.arguments.values()))), walk.program.shapes[node.name]
    if seen is None or prod(shape[1:]) != prod(seen.shape):
        return None
    if shape[1:] == seen.torch_shape:
        return seen
    return walk.moved(node, seen, seen.index.reshape(shape[1:]), True) if prod(seen.shape) <= MOST_MOVED else None


def _permuted(walk: Walk, node: Node) -> Seen | None:
    seen, given = walk.seen(node.arguments["self"]), node.arguments
    if seen is None or prod(seen.shape) > MOST_MOVED:
        return None
    rank = len(seen.torch_shape) + 1
    dims = list(range(rank))
    if "dims" in given:
        dims = [dim % rank for dim in given["dims"]]
    else:
        first, second = given.get("dim0", 0) % rank, given.get("dim1", 1) % rank
        dims[first], dims[second] = dims[second], dims[first]
    return walk.moved(node, seen, seen.index.transpose([dim - 1 for dim in dims[1:]]), False) if dims[0] == 0 else None


def _padded(walk: Walk, node: Node) -> Seen | None:
    given = node.arguments
    if given.get("mode", "constant") != "constant":
        return None
    sides, value = [*given["pad"], 0, 0, 0, 0], given.get("value") or 0
    if value == -inf and all(side >= 0 for side in given["pad"]):
        return _pooled_next(walk, node)
    seen = image(walk, node)
    if seen is None or value != 0 or any(sides[4:]):
        return None
    left, right, top, bottom = sides[:4]
    zeros: Pads = max(top, 0), max(bottom, 0), max(left, 0), max(right, 0)
    cut: Pads = max(-top, 0), max(-bottom, 0), max(-left, 0), max(-right, 0)
    if any(cut):
        seen = walk.add(node, L.Cropping2D(cut), seen)
    return walk.add(node, L.ZeroPadding2D(zeros), seen) if any(zeros) or not any(cut) else seen


def _pooled_next(walk: Walk, node: Node) -> Seen | None:
    """Padding that the one max pooling after it can have itself."""
    readers = [each for each in walk.program.nodes if node.name in each.reads]
    plain = len(readers) == 1 and readers[0].operator.startswith("max_pool2d") and len(node.arguments["pad"]) == 4
    if not plain or any(pair(readers[0].arguments.get("padding"), 0)) or readers[0].arguments.get("ceil_mode"):
        return None
    left, right, top, bottom = node.arguments["pad"]
    walk.pads[node.name] = (top, bottom, left, right)
    return walk.first(node)


def _sliced(walk: Walk, node: Node) -> Seen | None:
    seen, shape = walk.first(node), walk.program.shapes[node.name][1:]
    if seen is None or seen.torch_shape == shape:
        return seen
    given, whole = node.arguments, len(seen.torch_shape) + 1
    dim, start = given.get("dim", 0) % whole, given.get("start") or 0
    if whole != 4 or dim < 2 or given.get("step", 1) != 1 or (seen := walk.standard(seen)) is None:
        return None
    size = seen.torch_shape[dim - 1]
    before = min(start + size if start < 0 else start, size)
    crops = [0, 0, 0, 0]
    crops[2 * (dim - 2) : 2 * (dim - 2) + 2] = before, size - before - shape[dim - 1]
    return walk.add(node, L.Cropping2D((crops[0], crops[1], crops[2], crops[3])), seen)


def _upsampled(interpolation: str) -> Rule:
    def rule(walk: Walk, node: Node) -> Seen | None:
        seen, shape = image(walk, node), walk.program.shapes[node.name][2:]
        if seen is None or node.arguments.get("align_corners"):
            return None
        factors = [new // old for new, old in zip(shape, seen.shape[:2], strict=True)]
        given = node.arguments.get("scale_factors") or factors
        if [f * n for f, n in zip(factors, seen.shape[:2], strict=True)] != list(shape) or list(given) != factors:
            return None
        return walk.add(node, L.UpSampling2D(pair(factors), interpolation), seen)

    return rule


MOVES: dict[str, Rule] = {
    "flatten": _reshaped,
    "unflatten": _reshaped,
    "view": _reshaped,
    "_unsafe_view": _reshaped,
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "unsqueeze": _reshaped,
    "permute": _permuted,
    "transpose": _permuted,
    "swapaxes": _permuted,
    "pad": _padded,
    "constant_pad_nd": _padded,
    "slice": _sliced,
    "upsample_nearest2d": _upsampled("nearest"),
    "_upsample_nearest_exact2d": _upsampled("nearest"),
    "upsample_bilinear2d": _upsampled("bilinear"),
    "expand": _expanded,
    "expand_as": _expanded,
    "to": _cast,
    "_to_copy": _cast,
    **dict.fromkeys(("contiguous", "clone", "detach", "alias", "lift_fresh_copy", "identity",
                     "feature_alpha_dropout", "type_as", "positive"), _unmoved),
}  # fmt: skip
