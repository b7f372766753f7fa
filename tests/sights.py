"""Random nets with branches, and the px of the image that change their units: by gradients, in
plain PyTorch.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

import plain_torch
from convwise.core import layers as L
from convwise.core.calculus import Analysis, analyse
from convwise.core.field import Axis, Field
from convwise.core.net import INPUT, Net
from convwise.core.problems import ShapeError
from convwise.core.windows import Shape
from singles import flag, padding, pair

Span = tuple[int, int]


# --- random nets ----------------------------------------------------------------------------------


def _window(rng: random.Random) -> dict:
    return {"strides": pair(rng, 1, rng.choice((1, 2, 3))), "padding": padding(rng, 2),
            "dilation_rate": pair(rng, 1, rng.choice((1, 2)))}  # fmt: skip


def _pool(rng: random.Random) -> dict:
    ceil = flag(rng)
    sides = "valid" if ceil else padding(rng, 2)
    return {
        "pool_size": pair(rng, 1, 4),
        "strides": pair(rng, 1, 3),
        "padding": sides,
        "ceil_mode": ceil,
    }


def _transposed(rng: random.Random) -> L.Layer:
    """Kernels smaller than, as large as, and larger than the stride."""
    extra = rng.choice((0, 0, pair(rng, 0, 1)))
    spread = pair(rng, 1, rng.choice((1, 2)))
    return L.Conv2DTranspose(1, pair(rng, 1, 4), pair(rng, 1, 3), padding(rng, 2), extra, spread)


Draw = Callable[[random.Random, Shape], L.Layer]
STILL: dict[str, Draw] = {  # a stride of at least 1 px
    "conv": lambda r, s: L.Conv2D(1, pair(r, 1, 4), **_window(r)),
    "depthwise": lambda r, s: L.DepthwiseConv2D(pair(r, 1, 4), **_window(r)),
    "separable": lambda r, s: L.SeparableConv2D(1, pair(r, 1, 4), **_window(r)),
    "max": lambda r, s: L.MaxPooling2D(**_pool(r)),
    "average": lambda r, s: L.AveragePooling2D(**_pool(r)),
    "pad": lambda r, s: L.ZeroPadding2D((*pair(r, 0, 3), *pair(r, 0, 3))),
    "crop": lambda r, s: L.Cropping2D((*pair(r, 0, 3), *pair(r, 0, 3))),
}
UNEVEN: dict[str, Draw] = {  # fields in phases
    "transposed": lambda r, s: _transposed(r),
    "enlarged": lambda r, s: L.UpSampling2D(
        pair(r, 1, 3), r.choice(("nearest", "bilinear", "bicubic"))
    ),
    "adaptive": lambda r, s: L.AdaptiveAveragePooling2D((r.randint(1, s[0]), r.randint(1, s[1]))),
}
EVERY = {**STILL, **UNEVEN}


JOINS: tuple[type[L.Layer], ...] = L.Add, L.Multiply, L.Maximum, L.Concatenate


class Growing:
    """A net under construction, of images with so many channels; a layer that does not fit is left
    out.
    """

    def __init__(
        self, rng: random.Random, draws: dict[str, Draw], size: int, channels: int = 1
    ) -> None:
        self.rng, self.draws, self.channels = rng, draws, channels
        sides = rng.randint(size, size + 9), rng.randint(size, size + 9)
        self.net = Net((*sides, channels), (L.Conv2D(channels, 1, name="start"),))
        self.shapes = {INPUT: self.net.input_shape, "start": self.net.input_shape}

    @property
    def last(self) -> str:
        return self.net.layers[-1].name

    def add(self, layer: L.Layer) -> str:
        """The name of the last layer, which is this one where it fitted."""
        net = Net(self.net.input_shape, (*self.net.layers, layer))
        try:
            shape = analyse(net).layers[-1].output_shape
        except ShapeError:
            return layer.inputs[0] if layer.inputs else self.last
        if max(shape[:2]) <= 140:
            self.net = net
            self.shapes[self.last] = shape
            return self.last
        return layer.inputs[0] if layer.inputs else self.last

    def chain(self, start: str, most: int) -> str:
        """Up to so many layers after `start`."""
        for _ in range(self.rng.randint(0, most)):
            layer = self.rng.choice(list(self.draws.values()))(self.rng, self.shapes[start])
            start = self.add(type(layer)(**{**vars(layer), "inputs": (start,)}))
        return start

    def cropped(self, name: str, rows: int, columns: int) -> str:
        """Cut to so many rows and columns, anywhere."""
        height, width, _ = self.shapes[name]
        if (height, width) == (rows, columns):
            return name
        top, left = self.rng.randint(0, height - rows), self.rng.randint(0, width - columns)
        if flag(self.rng):
            top, left = (height - rows) // 2, (width - columns) // 2
        return self.add(
            L.Cropping2D((top, height - rows - top, left, width - columns - left), inputs=(name,))
        )

    def gate(self, start: str) -> None:
        """start * f(mean of start), as in squeeze-and-excitation."""
        self.add(L.GlobalAveragePooling2D(keepdims=True, inputs=(start,)))
        squeezed = self.add(L.Conv2D(1, 1))
        self.add(L.Multiply(inputs=(start, squeezed)))

    def branch(self, most: int, one_stride: bool) -> None:
        """Two or three chains from the last layer, cut to one shape, joined."""
        start = self.last
        ends = [self.chain(start, most) for _ in range(self.rng.randint(2, 3))]
        if one_stride:  # go on from those that moved as the first
            strides = {row.name: row.field.stride for row in analyse(self.net).layers}
            ends = [end for end in ends if strides[end] == strides[ends[0]]]
            ends += [start] if len(ends) == 1 and strides[start] == strides[ends[0]] else []
        if len(ends) == 1:
            return
        rows, columns = (min(self.shapes[end][axis] for end in ends) for axis in (0, 1))
        ends = [self.cropped(end, rows, columns) for end in ends]
        alike = len({self.shapes[end][2] for end in ends}) == 1
        self.add(self.rng.choice(JOINS if alike else (L.Concatenate,))(inputs=tuple(ends)))
        self.add(L.Conv2D(self.channels, 1))  # as many as before


def random_chain(rng: random.Random, draws: dict[str, Draw] = EVERY) -> Net:
    growing = Growing(rng, draws, 40)
    growing.chain("start", 6)
    return growing.net


def random_dag(
    rng: random.Random, draws: dict[str, Draw] = EVERY, *, gates: bool = False, most: int = 2,
    one_stride: bool = True,
    channels: int = 1,
) -> Net:  # fmt: skip
    """Chains, branches and joins. one_stride: no field is true of all units where branches of other
    strides meet.
    """
    growing = Growing(rng, draws, 40, channels)
    for _ in range(rng.randint(1, 2)):
        growing.chain(growing.last, 1)
        growing.branch(most, one_stride)
        if gates and rng.random() < 0.3:
            growing.gate(growing.last)
    growing.chain(growing.last, 1)
    return growing.net


# --- the oracle -----------------------------------------------------------------------------------


def seen_outputs(net: Net, image: Tensor) -> dict[str, Tensor]:
    """Every output, through layers in which each px that is read counts: all weights are one.

    Maxima, whose gradient sees the winner alone, become means over the same windows or products;
    products are of x + 1, so that no factor is 0.
    """
    seen = {INPUT: image}
    for layer in net.layers:
        inputs = [seen[name] for name in layer.inputs]
        if isinstance(layer, L.MaxPooling2D):
            layer = L.AveragePooling2D(
                layer.pool_size, layer.strides, layer.padding, layer.ceil_mode, name=layer.name
            )
        if isinstance(layer, (L.Multiply, L.Maximum)):
            seen[layer.name] = torch.stack(torch.broadcast_tensors(*(x + 1 for x in inputs))).prod(
                0
            )
        else:
            seen[layer.name] = plain_torch.call(layer, *inputs)
    return seen


Seen = tuple[Span | None, Span | None]


def reached(net: Net, names: list[str], units: list[Span]) -> dict[str, list[Seen]]:
    """For each layer and unit: first and last row, and column, of the image that can change the
    unit.
    """
    height, width, channels = net.input_shape
    # One image per unit, so that one backward pass serves all of them.
    image = torch.ones(len(units), height, width, channels, dtype=torch.float64, requires_grad=True)
    outputs = seen_outputs(net, image)
    answer = {}
    for name in names:
        picked = sum(outputs[name][n, i, j].sum() for n, (i, j) in enumerate(units))
        (slopes,) = torch.autograd.grad(picked, image, retain_graph=True, allow_unused=True)
        answer[name] = [_edges(slope.abs().sum(-1)) for slope in slopes]
    return answer


def _edges(slope: Tensor) -> Seen:
    """Rounding of interpolation weights that are 0 is no sight."""
    rows, columns = (slope > slope.max() * 1e-13).nonzero(as_tuple=True)
    return (_span(rows), _span(columns)) if len(rows) else (None, None)


def _span(places: Tensor) -> Span:
    return int(places.min()), int(places.max())


def axes(field: Field) -> tuple[Axis, Axis]:
    return field.rows, field.columns


def clean(net: Net, analysis: Analysis, axis: int) -> Span:
    """The px that only units away from every border reach: a field inside cannot have read padding.

    Padding continues a map: its units have fields before those of the map's first, or after its
    last.
    """
    first, last = 0, net.input_shape[axis] - 1
    for row in analysis.layers:
        if len(row.output_shape) == 3:
            field, many = axes(row.field)[axis], row.output_shape[axis]
            turn = range(min(len(field.phases), many))
            first = max([first, *(span[0] for i in turn if (span := field.moving(i)))])
            last = min([last, *(span[1] for i in turn if (span := field.moving(many - 1 - i)))])
    return first, last


def apart(net: Net, analysis: Analysis) -> bool:
    """Whether rows and columns can be looked at apart.

    Where branches meet and one of them has holes, units that a transposed kernel leaves out, rows
    may be seen through one branch and columns through another, which sees no row: no px is in both.
    """
    holes = any(None in axis.phases for row in analysis.layers for axis in axes(row.field))
    return net.is_chain or not holes


def inside(span: Span | None, limits: Span) -> bool:
    return span is None or (limits[0] <= span[0] and span[1] <= limits[1])


def clipped(span: Span | None, size: int) -> Span | None:
    cut = span and (max(span[0], 0), min(span[1], size - 1))
    return cut if cut and cut[0] <= cut[1] else None


def covers(claimed: Span | None, seen: Span | None) -> bool:
    return seen is None or (claimed is not None and inside(seen, claimed))


def around_the_middle(shape: Shape, many: int) -> list[Span]:
    """Neighbours on a diagonal, so that one list serves both axes."""
    top, left = (max((n - many) // 2, 0) for n in shape[:2])
    return [(top + t, left + t) for t in range(min(many, shape[0], shape[1]))]


def compared(net: Net, field: Field, seed: int) -> int:
    """Of how many units a field of the last layer is just what gradients say; AssertionError where
    it is wrong.

    Each unit sees no more than that, and no less where no padding lies in between.
    """
    analysis, rng = analyse(net), random.Random(seed)
    last, shape = net.layers[-1].name, analysis.layers[-1].output_shape
    middle = around_the_middle(shape, 7)
    anywhere = [
        (0, 0),
        (shape[0] - 1, shape[1] - 1),
        (rng.randrange(shape[0]), rng.randrange(shape[1])),
    ]
    found = reached(net, [last], middle + anywhere)[last]
    exact = 0
    limits = [clean(net, analysis, axis) for axis in (0, 1)]
    for unit, seen in zip(middle + anywhere, found, strict=True):
        claimed = [axis.at(i) for axis, i in zip(axes(field), unit, strict=True)]
        for axis, span in enumerate(claimed):
            assert covers(clipped(span, net.input_shape[axis]), seen[axis]), (net, unit, axis)
        if apart(net, analysis) and all(map(inside, claimed, limits)):
            # No row without a column
            expected = (None, None) if None in claimed else tuple(claimed)
            assert seen == expected, (net, unit)
            exact += expected != (None, None)
    return exact
