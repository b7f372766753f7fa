"""How windows lie and move along an axis: padding, positions, and what each output reads."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from convwise.core.field import Steps
from convwise.core.parameters import Pads, Pair

Shape = tuple[int, ...]
NO_PADS: Pads = (0, 0, 0, 0)


@dataclass(frozen=True)
class Window:
    """How a spatial layer moves over its map: size, step, spread, and the padding around the map.

    pads: (top, bottom, left, right) that the windows reach: negative where they leave pixels out.
    """

    kernel: Pair
    strides: Pair
    dilation: Pair
    pads: Pads

    @property
    def reach(self) -> Pair:
        """Effective kernel size, rows and columns."""
        rows, columns = (effective(k, d) for k, d in zip(self.kernel, self.dilation, strict=True))
        return rows, columns

    def steps(self) -> tuple[Steps, Steps]:
        """The moves along rows and columns."""
        rows, columns = (
            slide(*each)
            for each in zip(self.kernel, self.strides, self.dilation, self.pads[::2], strict=True)
        )
        return rows, columns


def effective(kernel: int, dilation: int) -> int:
    """Pixels from the first to the last tap of a dilated kernel: d (k - 1) + 1."""
    return dilation * (kernel - 1) + 1


def same_pads(size: int, kernel: int, stride: int, dilation: int = 1) -> Pair:
    """(before, after) of TensorFlow's 'same' along one axis."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + effective(kernel, dilation) - size, 0)
    return total // 2, total - total // 2


def pads_of(
    padding: str | Pads, shape: Shape, kernel: Pair, strides: Pair, dilation: Pair = (1, 1)
) -> Pads:
    """(top, bottom, left, right) of any form of padding on a map of `shape`."""
    if isinstance(padding, tuple):
        return padding
    if padding == "valid":
        return NO_PADS
    (top, bottom), (left, right) = (
        same_pads(*each) for each in zip(shape[:2], kernel, strides, dilation, strict=True)
    )
    return top, bottom, left, right


def outputs_of(size: int, before: int, after: int, reach: int, stride: int) -> int:
    """Positions at which a window of effective size `reach` fits; 0 or less where it does not."""
    return (size + before + after - reach) // stride + 1


def ceil_after(size: int, before: int, after: int, reach: int, stride: int) -> int:
    """The padding after the map with ceil_mode: at least `after`; a last window starts inside."""
    outputs = -(-(size + before + after - reach) // stride) + 1
    outputs -= (outputs - 1) * stride >= size + before
    return max((outputs - 1) * stride + reach - size - before, after)


def crops(padding: str | int, after: int, reach: int, stride: int, extra: int) -> Pair:
    """(before, after) that a transposed convolution takes from its full output, on one axis."""
    if not isinstance(padding, str):
        return padding, after - extra
    total = reach - stride if padding == "same" else min(reach - stride, 0)
    before = max(total, 0) // 2
    return before, total - before - extra


def slide(kernel: int, stride: int, dilation: int, before: int) -> Steps:
    """A convolution or a pool: one tap every `dilation`, one output every `stride`."""
    return Steps(
        1,
        stride,
        lambda i: range(i * stride - before, i * stride - before + kernel * dilation, dilation),
    )


def landings(window: Window, axis: int, px: int, outputs: int) -> list[tuple[range, range]]:
    """For each tap of a window along one axis: the outputs for which it lies on the map, and the px
    it reads there.
    """
    stride, rate, before = window.strides[axis], window.dilation[axis], window.pads[2 * axis]
    found = []
    for start in range(-before, window.kernel[axis] * rate - before, rate):
        first, end = max(0, -(start // stride)), min(outputs, (px - 1 - start) // stride + 1)
        found.append(
            (range(first, end), range(start + first * stride, start + end * stride, stride))
        )
    return found


def spread(kernel: int, stride: int, dilation: int, before: int) -> Steps:
    """A transposed convolution: output i gets input q by tap t where i + before = q s + t d."""
    shared = gcd(stride, dilation)
    turn = stride // shared  # from one tap that can reach an output to the next
    inverse = pow(dilation // shared, -1, turn)

    def reads(i: int) -> range:
        place, rest = divmod(i + before, shared)
        taps = range(place * inverse % turn, 0 if rest else kernel, turn)
        if not taps:
            return range(0)
        first, last = ((i + before - tap * dilation) // stride for tap in (taps[-1], taps[0]))
        return range(first, last + 1, dilation // shared)

    return Steps(stride, 1, reads)


def everything(size: int) -> Steps:
    """Every output reads the whole axis."""
    return Steps(1, 0, lambda i: range(size))


def adaptive(size: int, outputs: int) -> Steps:
    """Adaptive pooling, as PyTorch."""
    shared = gcd(outputs, size)
    return Steps(
        outputs // shared,
        size // shared,
        lambda i: range(i * size // outputs, -(-(i + 1) * size // outputs)),
    )


def enlarge(factor: int, interpolation: str) -> Steps:
    """Half-pixel centres: output i lies at (2 i + 1 - f) / 2 f between the inputs."""
    if interpolation == "nearest":
        return Steps(factor, 1, lambda i: (i // factor,))

    def reads(i: int) -> range:
        place = 2 * i + 1 - factor
        first, exact = place // (2 * factor), place % (2 * factor) == 0
        if exact:
            return range(first, first + 1)
        return (
            range(first, first + 2) if interpolation == "bilinear" else range(first - 1, first + 3)
        )

    return Steps(factor, 1, reads)


def resized(size: int, outputs: int, way: str) -> Steps:
    """Any size to any other: 'nearest' reads input floor(i n / o); the others lie as formats
    resize.

    Half-pixel centres put output i at ((2 i + 1) n / o - 1) / 2, 'aligned' ones at i (n - 1) / (o -
    1).
    """
    if way == "nearest":
        over, under = _shortened(size, outputs)
        return Steps(under, over, lambda i: (i * over // under,))
    aligned, more = way.startswith("aligned"), int(way.endswith("bicubic"))
    over, under = (
        _shortened(size - 1, max(outputs - 1, 1)) if aligned else _shortened(size, outputs)
    )

    def reads(i: int) -> range:
        place, whole = (i * over, under) if aligned else ((2 * i + 1) * over - under, 2 * under)
        first, exact = place // whole, place % whole == 0
        return range(first, first + 1) if exact else range(first - more, first + 2 + more)

    return Steps(under, over, reads)


def _shortened(over: int, under: int) -> Pair:
    shared = gcd(over, under)
    return over // shared, under // shared


def symmetric(window: Window, shape: Shape, ceil: bool = False) -> Pair | None:
    """The one padding per axis with which PyTorch puts its windows where ours are, if there is one.

    ceil: with ceil_mode=True. What lies beyond PyTorch's padding on the far side is then read by no
    window of ours.
    """
    (top, bottom, left, right), (rows, columns) = window.pads, window.reach
    axes = (
        (shape[0], top, bottom, rows, window.strides[0]),
        (
            shape[1],
            left,
            right,
            columns,
            window.strides[1],
        ),
    )
    fits = all(
        torch_positions(size, before, reach, stride, ceil)
        == outputs_of(size, before, after, reach, stride)
        for size, before, after, reach, stride in axes
    )
    return (top, left) if fits else None


def torch_positions(size: int, padding: int, reach: int, stride: int, ceil: bool = False) -> int:
    """Outputs of PyTorch's pooling and convolution along one axis."""
    room = size + 2 * padding - reach
    count = -(-room // stride) + 1 if ceil else room // stride + 1
    return count - 1 if ceil and (count - 1) * stride >= size + padding else count
