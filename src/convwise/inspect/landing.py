"""Where the kernel of one layer lands along each axis of its input."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from convwise.core import layers as L
from convwise.core.calculus import LayerCost
from convwise.core.geometry import GEOMETRY
from convwise.core.layer_windows import Moves
from convwise.core.parameters import MOST_SIZE, Pair
from convwise.core.problems import ShapeError
from convwise.core.text import times
from convwise.core.windows import Shape, Window, landings


@dataclass(frozen=True)
class Along:
    """How the kernel lands along one axis of the input.

    before, after: padding (of Conv2DTranspose: what is taken from the output); reads: per input, by
    how many taps of all windows it is read; sums: per output, how many inputs it takes, padding not
    counted; windows: what outputs 0, 1 and the last read, beyond the input where that is padded.
    """

    size: int
    outputs: int
    before: int
    after: int
    reads: tuple[int, ...]
    sums: tuple[int, ...]
    windows: tuple[tuple[int, ...], ...]


def landing(layer: Any, shape: Shape, cost: LayerCost) -> tuple[Along, Along]:
    """Along rows and columns. A transposed convolution spreads its inputs as a convolution gathers
    its outputs.
    """
    _drawable(layer, shape, cost)
    sent = isinstance(layer, L.Conv2DTranspose)
    geometry = GEOMETRY[type(layer)]
    window = geometry.window(layer, shape)
    if sent:
        window = Window(layer.kernel_size, layer.strides, layer.dilation_rate, cost.pads)
    assert window is not None
    moves = geometry.moves(layer, shape, cost.output_shape) or window.steps()
    rows, columns = (
        _axis(window, moves, axis, (shape[axis], cost.output_shape[axis]), sent) for axis in (0, 1)
    )
    return rows, columns


def _drawable(layer: L.Layer, shape: Shape, cost: LayerCost) -> None:
    """ShapeError where a map has more rows or columns than can be listed."""
    for said, map_shape in (("reads", shape), ("gives", cost.output_shape)):
        if max(map_shape[:2]) > MOST_SIZE:
            what = f"{said} a map of {times(map_shape[:2])}"
            raise ShapeError(
                layer.op, what, f"at most {MOST_SIZE:,} rows and columns", "ask about a part of it"
            )


def _axis(window: Window, moves: Moves, axis: int, both: Pair, sent: bool) -> Along:
    (size, outputs), (before, after) = both, window.pads[2 * axis : 2 * axis + 2]
    # Windows stand on the near side
    near, far = (size, outputs) if sent else (outputs, size)
    stands, taps = zip(*landings(window, axis, far, near), strict=True)
    counts = _counted(stands, near), _counted(taps, far)
    sums, reads = reversed(counts) if sent else counts
    units = sorted({0, min(1, outputs - 1), outputs - 1})
    windows = tuple(tuple(moves[axis].reads(unit)) for unit in units)
    return Along(size, outputs, before, after, reads, sums, windows)


def _counted(ranges: Iterable[range], size: int) -> tuple[int, ...]:
    """For each number below `size`, in how many of the ranges it is; all have one step."""
    rises, step = [0] * size, 1
    for each in filter(None, ranges):
        step = each.step
        rises[each.start] += 1
        if each[-1] + step < size:
            rises[each[-1] + step] -= 1
    for place in range(step, size):
        rises[place] += rises[place - step]
    return tuple(rises)
