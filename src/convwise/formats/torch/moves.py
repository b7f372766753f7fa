"""Numbers that move: reshapes, permutations, padding, slices, upsampling. See rules.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf, prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from convwise.core import layers as L
from convwise.core.net import MIRROR
from convwise.core.parameters import Pads
from convwise.core.windows import Shape
from convwise.formats.torch.places import Seen
from convwise.formats.torch.pointwise import like
from convwise.formats.torch.program import Node, Ref, is_float
from convwise.formats.torch.walk import MOST_MOVED, Found, Rule, Walk, image, pair


def _cast(walk: Walk, node: Node) -> Seen | None:
    """Nothing between floating types; to whole numbers it rounds."""
    return walk.first(node) if is_float(node.arguments) else None


def _expanded(walk: Walk, node: Node) -> Found:
    """Repeated sides: what joins it repeats them anyway."""
    joins = ("add", "sub", "mul", "maximum", "minimum", "div")
    readers = [each for each in walk.program.nodes if node.name in each.reads]
    if all(each.operator.removesuffix("_") in joins for each in readers):
        return walk.first(node)
    return _picked(lambda x, given, shape: x.expand(shape))(walk, node)


def _reshaped(walk: Walk, node: Node) -> Seen | None:
    seen, shape = walk.first(node), walk.program.shapes[node.name]
    if seen is None or prod(shape[1:]) != prod(seen.shape):
        return None
    if shape[1:] == seen.torch_shape:
        return seen
    if prod(seen.shape) > MOST_MOVED:
        return None
    return walk.moved(node, seen, seen.index.reshape(shape[1:]), True)


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
    if dims[0] != 0:
        return None
    return walk.moved(node, seen, seen.index.transpose([dim - 1 for dim in dims[1:]]), False)


def _padded(walk: Walk, node: Node) -> Seen | None:
    given = node.arguments
    pads, mode = given.get("pad", given.get("padding")), given.get("mode", "constant")
    if not all(isinstance(side, int) for side in pads):
        return None
    sides, value = [*pads, 0, 0, 0, 0], given.get("value") or 0
    zeros = mode == "constant" and node.operator in ("pad", "constant_pad_nd")
    if zeros and value == -inf and min(pads) >= 0 and (seen := _pooled_next(walk, node)):
        return seen
    if parts := _padded_parts(walk, node, pads):
        return parts
    seen = image(walk, node)
    if seen is None or any(sides[6:]):
        return None
    left, right, top, bottom = sides[:4]
    around: Pads = max(top, 0), max(bottom, 0), max(left, 0), max(right, 0)
    cut: Pads = max(-top, 0), max(-bottom, 0), max(-left, 0), max(-right, 0)
    if any(cut):
        seen = walk.add(node, L.Cropping2D(cut), seen)
    if zeros and value == 0 and not any(sides[4:]):
        if any(cut) and not any(around):
            return seen
        return walk.add(node, L.ZeroPadding2D(around), seen)
    depth, *size = walk.program.shapes[node.name][1:]
    layer = L.Opaque(node.operator, (*size, depth), 0, 0, 0, "window", padding=around)
    return walk.add(node, layer, seen)


def _padded_parts(walk: Walk, node: Node, pads: list[int]) -> Seen | None:
    """Parts of a map with numbers beside those of each place, which see what those see."""
    seen, most = walk.first(node), prod(walk.program.shapes[node.name])
    if seen is None or seen.order is not None or min(pads) < 0 or most > MOST_MOVED:
        return None
    inner = list(zip(pads[::2], pads[1::2], strict=True))[::-1]
    around = [(0, 0)] * (seen.index.ndim - len(inner)) + inner
    if len(around) != seen.index.ndim:
        return None
    return walk.kept(node, seen, np.pad(seen.index, around, "edge"))


def _pooled_next(walk: Walk, node: Node) -> Seen | None:
    """Padding that the one max pooling after it can have itself."""
    readers = [each for each in walk.program.nodes if node.name in each.reads]
    if len(readers) != 1 or len(node.arguments["pad"]) != 4:
        return None
    pool, given = readers[0].operator.startswith("max_pool2d"), readers[0].arguments
    if not pool or any(pair(given.get("padding"), 0)) or given.get("ceil_mode"):
        return None
    left, right, top, bottom = node.arguments["pad"]
    walk.pads[node.name] = (top, bottom, left, right)
    return walk.first(node)


def _sliced(walk: Walk, node: Node) -> Seen | None:
    seen, shape = walk.first(node), walk.program.shapes[node.name][1:]
    if seen is None or seen.torch_shape == shape:
        return seen
    given, whole = node.arguments, len(seen.torch_shape) + 1
    dim, start, step = given.get("dim", 0) % whole, given.get("start") or 0, given.get("step", 1)
    if dim == 0 or not isinstance(start, int) or not isinstance(step, int):
        return None
    size = seen.torch_shape[dim - 1]
    before = min(start + size if start < 0 else start, size)
    if (
        whole != 4
        or dim < 2
        or step != 1
        or (order := seen.order) is None
        or {order[1], order[2]} != {0, 1}
    ):
        return _cut(walk, node, seen, dim, before, shape[dim - 1], step)
    seen = walk.standard(seen)
    crops = [0, 0, 0, 0]
    crops[2 * (dim - 2) : 2 * (dim - 2) + 2] = before, size - before - shape[dim - 1]
    return walk.add(node, L.Cropping2D((crops[0], crops[1], crops[2], crops[3])), seen)


def _cut(
    walk: Walk, node: Node, seen: Seen, dim: int, before: int, count: int, step: int = 1
) -> Seen | None:
    """So many numbers along one axis of a tensor, the first of which is the batch."""
    order = seen.order
    # Along the channels of a map, whichever axis they are
    if order is not None and len(order) == 3 and order[dim - 1] == 2 and step == 1:
        layer = L.Opaque(node.operator, (*seen.shape[:2], count), 0, 0, 0, "same")
        return like(walk.add(node, layer, seen), seen)
    if prod(seen.shape) > MOST_MOVED:
        return None
    kept = [slice(None)] * len(seen.torch_shape)
    kept[dim - 1] = slice(before, before + (count - 1) * step + 1, step)
    places = seen.index[tuple(kept)]
    return walk.kept(node, seen, places) or walk.told(node, [seen], places)


def _chunks(walk: Walk, node: Node) -> dict[str, Seen] | None:
    """One tensor in parts along an axis: split, chunk, unbind."""
    seen, given = walk.first(node), node.arguments
    if seen is None:
        return None
    dim, single = given.get("dim", 0) % (len(seen.torch_shape) + 1), node.operator == "unbind"
    if dim == 0:
        return None
    whole = seen.torch_shape[dim - 1]
    sizes = given.get("split_size", given.get("split_sizes"))
    if node.operator == "chunk":
        sizes = -(-whole // given["chunks"])
    if single or isinstance(sizes, int):
        sizes = [min(sizes if not single else 1, whole)] * (whole if single else -(-whole // sizes))
        sizes[-1] -= sum(sizes) - whole
    if not isinstance(sizes, list) or sum(sizes) != whole:
        return None
    found, before = {}, 0
    for name, size in zip(node.outputs, sizes, strict=False):
        if name and walk.uses[name]:
            part = _cut(walk, replace(node, name=name), seen, dim, before, size)
            if part is None:
                return None
            found[name] = replace(part, places=part.index.squeeze(dim - 1)) if single else part
        before += size
    return found or None


def _chosen(walk: Walk, node: Node) -> Seen | None:
    """One of an axis, which goes."""
    seen, given = walk.first(node), node.arguments
    if seen is None or not isinstance(given["index"], int):
        return None
    dim = given["dim"] % (len(seen.torch_shape) + 1)
    if dim == 0:
        return None
    part = _cut(walk, node, seen, dim, given["index"] % seen.torch_shape[dim - 1], 1)
    return part and replace(part, places=part.index.squeeze(dim - 1))


def _picked(move: Callable[[torch.Tensor, Mapping[str, Any], Shape], torch.Tensor]) -> Rule:
    """An operator that puts numbers at other places: the same operator, on the places."""

    def rule(walk: Walk, node: Node) -> Seen | None:
        seen, shape = walk.first(node), walk.program.shapes[node.name]
        if seen is None or max(prod(shape[1:]), prod(seen.shape)) > MOST_MOVED:
            return None
        index = torch.from_numpy(np.ascontiguousarray(seen.index))[None]
        one = 1, *shape[1:]
        try:
            places = move(index, node.arguments, one)
        except (RuntimeError, TypeError, KeyError, IndexError):  # arguments that it cannot have
            return None
        return walk.told(node, [seen], places[0].numpy()) if tuple(places.shape) == one else None

    return rule


def _flipped(walk: Walk, node: Node) -> Found:
    """The mirror image, which a mirrored view begins with, or any other flip."""
    given = node.arguments
    if given["self"] == Ref(walk.program.image) and [dim % 4 for dim in given["dims"]] == [3]:
        seen = walk.values[walk.program.image]
        return walk.add(node, L.Opaque(MIRROR, seen.shape, 0, 0, 0), seen)
    return _picked(lambda x, given, shape: x.flip(given["dims"]))(walk, node)


def _stacked(walk: Walk, node: Node) -> Seen | None:
    """Maps side by side along an axis of their own: along the channels, seen apart."""
    parts = [walk.seen(each) for each in node.arguments["tensors"]]
    whole = [part for part in parts if part is not None and len(part.torch_shape) == 3]
    sides = {part.torch_shape for part in whole}
    if len(whole) < len(parts) or node.arguments.get("dim", 0) != 1 or len(sides) > 1:
        return None
    whole = [walk.standard(part) for part in whole]
    made = walk.add(node, L.Concatenate(), *whole) if len(whole) > 1 else whole[0]
    return Seen(made.value, made.shape, made.index.reshape(len(whole), *whole[0].torch_shape))


def _upsampled(interpolation: str, ours: bool = True) -> Rule:
    """To whole multiples it is a layer of ours; ours: whether that layer gives the same numbers."""

    def rule(walk: Walk, node: Node) -> Seen | None:
        seen, shape = image(walk, node), walk.program.shapes[node.name][2:]
        if seen is None:
            return None
        corners = bool(node.arguments.get("align_corners"))
        factors = [new // old for new, old in zip(shape, seen.shape[:2], strict=True)]
        given = node.arguments.get("scale_factors") or factors
        exact = [f * n for f, n in zip(factors, seen.shape[:2], strict=True)] == list(shape)
        if exact and list(given) == factors and not corners and ours:
            return walk.add(node, L.UpSampling2D(pair(factors), interpolation), seen)
        word, output = "aligned " * corners + interpolation, (*shape, seen.shape[2])
        return walk.add(node, L.Opaque(node.operator, output, 0, 0, prod(output), word), seen)

    return rule


_SAME = ("contiguous", "clone", "detach", "alias", "lift_fresh_copy", "identity",
         "feature_alpha_dropout", "type_as", "positive")  # fmt: skip
_CHANNEL_SHUFFLE = _picked(lambda x, given, shape: F.channel_shuffle(x, given["groups"]))
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
    "swapdims": _permuted,
    "pad": _padded,
    "constant_pad_nd": _padded,
    "reflection_pad2d": _padded,
    "replication_pad2d": _padded,
    "slice": _sliced,
    "narrow": _sliced,
    "select": _chosen,
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "unbind"), _chunks),
    "stack": _stacked,
    "roll": _picked(lambda x, given, shape: x.roll(given["shifts"], given["dims"])),
    "flip": _flipped,
    "repeat": _picked(lambda x, given, shape: x.repeat([1, *given["repeats"][1:]])),
    "repeat_interleave": _picked(
        lambda x, given, shape: x.repeat_interleave(given["repeats"], given["dim"])
    ),
    "pixel_shuffle": _picked(lambda x, given, shape: F.pixel_shuffle(x, given["upscale_factor"])),
    "pixel_unshuffle": _picked(
        lambda x, given, shape: F.pixel_unshuffle(x, given["downscale_factor"])
    ),
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), _CHANNEL_SHUFFLE),
    "upsample_nearest2d": _upsampled("nearest"),
    "_upsample_nearest_exact2d": _upsampled("nearest"),
    "upsample_bilinear2d": _upsampled("bilinear"),
    "upsample_bicubic2d": _upsampled("bicubic", ours=False),
    "expand": _expanded,
    "expand_as": _expanded,
    "to": _cast,
    "_to_copy": _cast,
    **dict.fromkeys(_SAME, lambda walk, node: walk.first(node)),
}
