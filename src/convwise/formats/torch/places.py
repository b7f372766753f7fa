"""Where the numbers of a tensor lie in the layer that gives them, and what is read where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convwise.core.parameters import Pair
from convwise.core.windows import Shape

Order = tuple[int, ...]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Seen:
    """A tensor: the layer that gives its numbers, its shape, and where each number is in it.

    places: an array of the tensor's own shape, without the batch; None where it is a map with its
    channels first, or any other shape in our order.
    """

    value: int
    shape: Shape
    places: Places | None = None

    @property
    def torch_shape(self) -> Shape:
        if self.places is not None:
            return self.places.shape
        return tuple(self.shape[axis] for axis in standard_order(len(self.shape)))

    @property
    def index(self) -> Places:
        """The places, spelled out."""
        if self.places is not None:
            return self.places
        return placed(self.shape, standard_order(len(self.shape)))

    @property
    def order(self) -> Order | None:
        """Our axes in the order of the tensor's, where numbers were moved by whole axes only."""
        if self.places is None:
            return standard_order(len(self.shape))
        return next((order for order, shape in orders(self.places) if shape == self.shape), None)


def standard_order(rank: int) -> Order:
    """Our axes in PyTorch's order: channels first in a map."""
    return (2, 0, 1) if rank == 3 else tuple(range(rank))


def placed(shape: Shape, order: Order) -> Places:
    """The places of a layer's numbers, with its axes in another order."""
    return np.arange(prod(shape)).reshape(shape).transpose(order)


def orders(places: Places) -> Iterator[tuple[Order, Shape]]:
    """Every (order, our shape) of which the places are those; channels first first."""
    rank, sides = places.ndim, places.shape
    steps = [
        int(places.take(1, axis).flat[0] - places.flat[0]) if n > 1 else 0
        for axis, n in enumerate(sides)
    ]
    if not places.size or places.flat[0] != 0 or not _is_regular(places, steps):
        return
    for order in dict.fromkeys([standard_order(rank), *permutations(range(rank))]):
        shape = [0] * rank
        for axis, size in zip(order, sides, strict=True):
            shape[axis] = size
        axes = zip(order, sides, steps, strict=True)
        if all(n == 1 or step == prod(shape[axis + 1 :]) for axis, n, step in axes):
            yield order, tuple(shape)


def _is_regular(places: Places, steps: list[int]) -> bool:
    """Whether each axis has one step from place to place."""
    axes = np.ix_(*(np.arange(n) * step for n, step in zip(places.shape, steps, strict=True)))
    return bool(np.array_equal(sum(axes), places)) if axes else True


def per_image(shape: Shape, batch: int) -> Shape:
    """A tensor's sides without the batch: the axis that it is, or else is merged with."""
    # The last axis is tried last
    whole = [axis for axis, n in enumerate(shape[:-1]) if n == batch]
    merged = [axis for axis, n in enumerate(shape) if n % batch == 0]
    for axis in (whole or merged)[:1]:
        rest = () if shape[axis] == batch else (shape[axis] // batch,)
        return (*shape[:axis], *rest, *shape[axis + 1 :])
    return shape


# --- what is read where ---------------------------------------------------------------------


@dataclass(frozen=True)
class Sight:
    """How the places of a new map read those of another, in Opaque's words (core/layers.py)."""

    moves: str
    kernel_size: Pair = (1, 1)
    strides: Pair = (1, 1)
    before: Pair = (0, 0)  # rows and columns in front of the first window


SAME, UNKNOWN = Sight("same"), Sight("unknown")


def sight(first: Places, last: Places, before: Shape) -> Sight:
    """What each number of a new tensor, a map (channels, rows, columns) or tokens, sees.

    before: the shape of the layer that it sees. first, last: of each number, the places that it
    reads, as a range along rows and along columns.
    """
    if len(before) == len(first.shape) == 1:
        return SAME
    if len(before) == len(first.shape) == 2:
        return _of_its_own(first, last, before[1], np.arange(len(first))[:, None])
    if len(before) == 2 and len(first.shape) == 3 and first.shape[1] * first.shape[2] == before[0]:
        return _of_its_own(first, last, before[1], np.arange(before[0]).reshape(first.shape[1:]))
    if len(before) != 3:
        return UNKNOWN
    width, depth = before[1:]
    if first.ndim == 2 and len(first) == before[0] * width:  # tokens
        return _of_its_own(first, last, depth, np.arange(len(first))[:, None])
    if first.ndim != 3:
        return UNKNOWN
    rows = _along(first // (width * depth), last // (width * depth), 1)
    columns = _along(first // depth % width, last // depth % width, 2)
    if rows is None or columns is None:
        return UNKNOWN
    if first.shape[1:] == (1, 1) and (rows.size, columns.size) == before[:2] != (1, 1):
        return Sight("whole")
    still = rows.size == rows.stride == columns.size == columns.stride == 1
    still = still and rows.before == columns.before == 0
    if rows.repeated or columns.repeated:
        return Sight("nearest") if still else UNKNOWN
    if still and first.shape[1:] == before[:2]:
        return SAME
    size, stride = (rows.size, columns.size), (rows.stride, columns.stride)
    return Sight("window", size, stride, (rows.before, columns.before))


def _of_its_own(first: Places, last: Places, depth: int, places: Places) -> Sight:
    """Whether each number reads `depth` numbers of its own place alone."""
    same = np.all(first // depth == places) and np.all(last // depth == places)
    return SAME if same else UNKNOWN


class _Axis(NamedTuple):
    """How places read along one axis: a window every `stride`, or each place `repeated`."""

    size: int = 1
    stride: int = 1
    before: int = 0
    repeated: bool = False


def _along(first: Places, last: Places, axis: int) -> _Axis | None:
    """How places read along one of (channels, rows, columns); None where not all do it alike."""
    others = tuple(n for n in range(3) if n != axis)
    low, high = first.min(axis=others), last.max(axis=others)
    count, before = len(low), int(low[0])
    stride, size = int(low[1]) - before if count > 1 else 1, int(high[0]) - before + 1
    if stride > 0 and np.array_equal(low, before + np.arange(count) * stride):
        return _Axis(size, stride, before) if np.array_equal(high, low + size - 1) else None
    factor = int(np.count_nonzero(low == low[0]))
    repeated = np.array_equal(low, high) and np.array_equal(low, np.arange(count) // factor)
    return _Axis(repeated=True) if repeated and count % factor == 0 else None
