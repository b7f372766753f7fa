"""Receptive fields against gradients: the input px that change a unit, in plain PyTorch."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from math import lcm

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import plain_torch
from convwise.core import layers as L
from convwise.core.calculus import Analysis, analyse
from convwise.core.field import Axis, Field
from convwise.core.net import INPUT, Net
from convwise.core.problems import ShapeError
from convwise.core.windows import Shape
from singles import flag, padding, pair

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
Span = tuple[int, int]
# filter_too_much stays: it says when too few nets can be compared.
LOOSE = settings(deadline=None, report_multiple_bugs=False, suppress_health_check=[HealthCheck.too_slow])
ROUNDS = [pytest.param(1, id="some"), pytest.param(10, id="many", marks=pytest.mark.slow)]
SEEDS = st.integers(0, 2**32 - 1)


# --- random nets of one channel -----------------------------------------------------------------


def _window(rng: random.Random) -> dict:
    return {"strides": pair(rng, 1, rng.choice((1, 2, 3))), "padding": padding(rng, 2),
            "dilation_rate": pair(rng, 1, rng.choice((1, 2)))}  # fmt: skip


def _pool(rng: random.Random) -> dict:
    ceil = flag(rng)
    sides = "valid" if ceil else padding(rng, 2)
    return {"pool_size": pair(rng, 1, 4), "strides": pair(rng, 1, 3), "padding": sides, "ceil_mode": ceil}


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
    "enlarged": lambda r, s: L.UpSampling2D(pair(r, 1, 3), r.choice(("nearest", "bilinear", "bicubic"))),
    "adaptive": lambda r, s: L.AdaptiveAveragePooling2D((r.randint(1, s[0]), r.randint(1, s[1]))),
}
EVERY = {**STILL, **UNEVEN}


class Growing:
    """A net under construction; a layer that does not fit is left out."""

    def __init__(self, rng: random.Random, draws: dict[str, Draw], size: int) -> None:
        self.rng, self.draws, self.rows = rng, draws, [L.Conv2D(1, 1, name="start")]
        self.net = Net((rng.randint(size, size + 9), rng.randint(size, size + 9), 1), tuple(self.rows))
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
        return self.add(L.Cropping2D((top, height - rows - top, left, width - columns - left), inputs=(name,)))

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
        self.add(self.rng.choice((L.Add, L.Multiply, L.Maximum, L.Concatenate))(inputs=tuple(ends)))
        self.add(L.Conv2D(1, 1))  # one channel again


def random_chain(rng: random.Random, draws: dict[str, Draw] = EVERY) -> Net:
    growing = Growing(rng, draws, 40)
    growing.chain("start", 6)
    return growing.net


def random_dag(
    rng: random.Random, draws: dict[str, Draw] = EVERY, *, gates: bool = False, most: int = 2, one_stride: bool = True
) -> Net:
    """Chains, branches and joins. one_stride: no field is true of all units where branches of other strides meet."""
    growing = Growing(rng, draws, 40)
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
            layer = L.AveragePooling2D(layer.pool_size, layer.strides, layer.padding, layer.ceil_mode, name=layer.name)
        if isinstance(layer, (L.Multiply, L.Maximum)):
            seen[layer.name] = torch.stack(torch.broadcast_tensors(*(x + 1 for x in inputs))).prod(0)
        else:
            seen[layer.name] = plain_torch.call(layer, *inputs)
    return seen


Seen = tuple[Span | None, Span | None]


def reached(net: Net, names: list[str], units: list[Span]) -> dict[str, list[Seen]]:
    """For each layer and unit: first and last row, and column, of the image that can change the unit."""
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

    Padding continues a map: its units have fields before those of the map's first, or after its last.
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


# --- sight ----------------------------------------------------------------------------------------


def check_sight(net: Net, seed: int) -> None:
    analysis = analyse(net)
    last, shape = net.layers[-1].name, analysis.layers[-1].output_shape
    rng = random.Random(seed)
    middle = around_the_middle(shape, 7)
    anywhere = [(0, 0), (shape[0] - 1, shape[1] - 1), (rng.randrange(shape[0]), rng.randrange(shape[1]))]
    found = reached(net, [last], middle + anywhere)[last]
    exact = 0
    limits = [clean(net, analysis, axis) for axis in (0, 1)]
    for unit, seen in zip(middle + anywhere, found, strict=True):
        claimed = [field.at(i) for field, i in zip(axes(analysis[last].field), unit, strict=True)]
        for axis, span in enumerate(claimed):
            assert covers(clipped(span, net.input_shape[axis]), seen[axis]), (net, unit, axis)
        if apart(net, analysis) and all(map(inside, claimed, limits)):
            expected = (None, None) if None in claimed else tuple(claimed)  # no row without a column
            assert seen == expected, (net, unit)
            exact += expected != (None, None)
    assume(exact > 3 or not apart(net, analysis))


@pytest.mark.parametrize("turns", ROUNDS)
def test_chains_see_what_the_gradient_says(turns):
    @settings(LOOSE, max_examples=40 * turns)
    @given(seed=SEEDS)
    def check(seed: int) -> None:
        check_sight(random_chain(random.Random(seed)), seed)

    check()


@pytest.mark.parametrize("turns", ROUNDS)
def test_branching_nets_see_what_the_gradient_says(turns):
    @settings(LOOSE, max_examples=30 * turns)
    @given(seed=SEEDS)
    def check(seed: int) -> None:
        check_sight(random_dag(random.Random(seed)), seed)

    check()


# Layers that read no padding: for them a field holds for every unit, also beside the border.
UNPADDED: dict[str, Draw] = {
    "conv": lambda r, s: L.Conv2D(1, pair(r, 1, 3), pair(r, 1, 2), "valid", pair(r, 1, 2)),
    "pool": lambda r, s: L.MaxPooling2D(pair(r, 1, 3), pair(r, 1, 3)),
    "crop": STILL["crop"],
    "nearest": lambda r, s: L.UpSampling2D(pair(r, 1, 3)),
    "adaptive": UNEVEN["adaptive"],
    "write": lambda r, s: L.Conv2DTranspose(1, (2, 2), (r.randint(2, 3), 2)),
}


@pytest.mark.parametrize("turns", ROUNDS)
def test_without_padding_every_unit_sees_what_the_gradient_says(turns):
    """Also where a gate lets each unit see the whole map."""

    @settings(LOOSE, max_examples=30 * turns)
    @given(seed=SEEDS)
    def check(seed: int) -> None:
        rng = random.Random(seed)
        net = random_dag(rng, UNPADDED, gates=True)
        analysis = analyse(net)
        last, shape = net.layers[-1].name, analysis.layers[-1].output_shape
        units = [*around_the_middle(shape, 5), (0, 0), (shape[0] - 1, shape[1] - 1), (0, shape[1] // 3)]
        for unit, seen in zip(units, reached(net, [last], units)[last], strict=True):
            claimed = [field.at(i) for field, i in zip(axes(analysis[last].field), unit, strict=True)]
            assert all(map(covers, claimed, seen)), (net, unit)
            if apart(net, analysis):
                assert seen == ((None, None) if None in claimed else tuple(claimed)), (net, unit)

    check()


@settings(LOOSE, max_examples=40)
@given(seed=SEEDS)
def test_size_stride_and_padding_sum_up_the_units(seed):
    """Of fields that the tests above compare with gradients unit by unit."""
    field = analyse(random_dag(random.Random(seed))).layers[-1].field
    for axis in axes(field):
        turn = len(axis.phases)
        spans = [axis.at(unit) for unit in range(3 * turn)]
        assert axis.size == max((last - first + 1 for first, last in filter(None, spans)), default=0)
        for unit in range(2 * turn):
            here, there = spans[unit], spans[unit + turn]
            assert (here is None) == (there is None)
            if here and there:
                assert (there[0] - here[0], there[1] - here[1]) == (axis.step,) * 2
        assert axis.stride == pytest.approx(axis.step / turn)
        first = next(filter(None, spans), None)
        assert axis.padding == (-first[0] if first else 0)


# --- whether branches agree -----------------------------------------------------------------------


def agreement(net: Net, analysis: Analysis) -> bool | None:
    """Whether the branches of every join see around the same centres, by gradients; None where borders interfere.

    The centre is that of a unit on average over whole turns of the phases, each moved back by its strides.
    """
    for layer in net.layers:
        if len(layer.inputs) > 1:
            fields = {name: analysis[name].field for name in layer.inputs}
            turn = lcm(*(len(axis.phases) for field in fields.values() for axis in axes(field)))
            units = turn * -(-9 // turn)
            shape = analysis[layer.inputs[0]].output_shape
            middle = around_the_middle(shape, units)
            if min(shape[:2]) < units:
                return None
            seen = reached(net, list(layer.inputs), middle)
            if not all(_inner(net, analysis, name, middle) for name in layer.inputs):
                return None
            if any((None, None) in each for each in seen.values()):
                return None  # a hole along one axis hides what is seen along the other
            if len({_centres(field, middle, seen[name]) for name, field in fields.items()}) > 1:
                return False
    return True


def _centres(field: Field, units: list[Span], seen: list[Seen]) -> tuple[tuple[Fraction, Fraction], ...]:
    """Of unit 0, and the stride, along rows and columns."""
    found = []
    for number, axis in enumerate(axes(field)):
        stride = Fraction(axis.step, len(axis.phases))
        pairs = [(unit[number], two[number]) for unit, two in zip(units, seen, strict=True)]
        spots = [Fraction(sum(span), 2) - unit * stride for unit, span in pairs if span]
        found.append((sum(spots) / len(spots), stride))
    return tuple(found)


def _inner(net: Net, analysis: Analysis, name: str, units: list[Span]) -> bool:
    for axis, field in enumerate(axes(analysis[name].field)):
        limits = clean(net, analysis, axis)
        if not all(inside(field.at(unit[axis]), limits) for unit in units):
            return False
    return True


@pytest.mark.parametrize("turns", ROUNDS)
@pytest.mark.parametrize("draws", [STILL, EVERY], ids=["still", "uneven"])
def test_branches_are_aligned_where_their_centres_are(draws, turns):
    @settings(LOOSE, max_examples=15 * turns)
    @given(seed=SEEDS)
    def check(seed: int) -> None:
        net = random_dag(random.Random(seed), draws, most=1, one_stride=False)
        analysis = analyse(net)
        expected = agreement(net, analysis)
        assume(expected is not None)
        assert analysis.layers[-1].field.aligned == expected, net

    check()


# --- the shortest path ----------------------------------------------------------------------------


def paths(net: Net, name: str) -> list[tuple[L.Layer, ...]]:
    """Every way from the input to a layer, without what joins; ways through a global mean are no path of places."""
    if name == INPUT:
        return [()]
    layer = net[name]
    if isinstance(layer, L.GlobalAveragePooling2D):
        return []
    own = () if len(layer.inputs) > 1 else (layer,)
    return [(*way, *own) for start in layer.inputs for way in paths(net, start)]


def sizes_of_paths(net: Net, axis: int) -> list[int]:
    """The field's size along each path, as that of a chain."""
    found = []
    for way in paths(net, net.layers[-1].name):
        chain = tuple(type(layer)(**{**vars(layer), "inputs": ()}) for layer in way)
        found.append(analyse(Net(net.input_shape, chain)).layers[-1].field.size[axis])
    return found


@settings(LOOSE, max_examples=40)
@given(seed=SEEDS)
def test_the_shortest_path_is_the_least_of_all_paths(seed):
    net = random_dag(random.Random(seed), STILL, gates=True)
    analysis = analyse(net)
    expected = tuple(min(sizes_of_paths(net, axis)) for axis in (0, 1))
    assert analysis.layers[-1].field.shortest == expected, net


@settings(LOOSE, max_examples=40)
@given(seed=SEEDS)
def test_after_upsampling_the_shortest_is_that_of_one_path(seed):
    """There the least at each join, which is kept, is not always the least in the end."""
    net = random_dag(random.Random(seed), EVERY, gates=True)
    field = analyse(net).layers[-1].field
    for axis in (0, 1):
        assert field.shortest[axis] in sizes_of_paths(net, axis), net


# --- by hand --------------------------------------------------------------------------------------


def seen_as_claimed(net: Net) -> Field:
    """The field of the last layer, which reads no padding, after a look at a few units' gradients."""
    row = analyse(net).layers[-1]
    units = [*around_the_middle(row.output_shape, 6), (0, 0), (1, 0), (row.output_shape[0] - 1, 1)]
    for unit, seen in zip(units, reached(net, [row.name], units)[row.name], strict=True):
        assert seen == tuple(field.at(i) for field, i in zip(axes(row.field), unit, strict=True)), unit
    return row.field


def test_branches_at_other_strides_are_called_misaligned():
    """Also where their first units look at the same place."""
    layers = (L.Conv2D(1, 3, 2, "same", name="half"), L.Cropping2D((1, 9, 1, 9), inputs=("input",)),
              L.Add(inputs=("half", "cropping2d")))  # fmt: skip
    assert not analyse(Net((20, 20, 1), layers)).total.field.aligned


@pytest.mark.parametrize("inputs", [("start", "up"), ("up", "start")])
def test_a_skip_over_down_and_up_is_seen_in_phases(inputs):
    """The px that the nearest neighbour repeats lies off the skip's centre at every second unit."""
    layers = (L.Conv2D(1, 1, name="start"), L.MaxPooling2D(1, 2), L.UpSampling2D(2, name="up"), L.Add(inputs=inputs))
    field = seen_as_claimed(Net((12, 12, 1), layers))
    assert (field.rows.phases, field.rows.stride, field.aligned) == (((0, 0), (0, 1)), 1, False)


UP = {"nearest": L.UpSampling2D(2), "bilinear": L.UpSampling2D(2, "bilinear"), "bicubic": L.UpSampling2D(2, "bicubic"),
      "k2": L.Conv2DTranspose(1, 2, 2), "k4": L.Conv2DTranspose(1, 4, 2, "same"),
      "k3": L.Conv2DTranspose(1, 3, 2, "same")}  # fmt: skip


@pytest.mark.parametrize("name", UP)
def test_a_decoder_is_aligned_where_its_weights_are(name):
    """The centre of mass of a decoder's units, each px weighed: on the skip's but where k - s is odd."""
    down, up = L.MaxPooling2D(2, name="down"), type(UP[name])(**{**vars(UP[name]), "name": "up"})
    net = Net((24, 24, 1), (L.Conv2D(1, 1, name="start"), down, up, L.Add(inputs=("start", "up"))))
    image = torch.ones(8, 24, 24, 1, dtype=torch.float64, requires_grad=True)
    upped = seen_outputs(net, image)["up"]
    (slopes,) = torch.autograd.grad(sum(upped[n, 8 + n, 8].sum() for n in range(8)), image)
    mass = slopes.sum((2, 3)) / slopes.sum((1, 2, 3))[:, None]
    off = float((mass @ torch.arange(24.0, dtype=torch.float64) - torch.arange(8, 16)).mean())
    field = analyse(net)["up"].field.rows
    assert (off, field.stride) == (pytest.approx(field.centre[0] / field.centre[1]), 1)
    assert analyse(net).total.field.aligned == (abs(off) < 1e-9) == (name != "k3")


def test_a_strip_is_repeated_along_its_one_side_only():
    layers = (L.Conv2D(1, 3, name="body"), L.AdaptiveAveragePooling2D((1, 12), name="row"),
              L.AdaptiveAveragePooling2D((12, 1), inputs=("body",), name="column"),
              L.Multiply(inputs=("body", "row")), L.Multiply(inputs=("multiply", "column")))  # fmt: skip
    both, rows = (seen_as_claimed(Net((14, 14, 1), some)) for some in (layers, (*layers[:2], layers[3])))
    assert (both.rows.fixed, both.columns.fixed, both.aligned) == ((0, 13), (0, 13), True)
    assert (rows.rows.fixed, rows.columns.fixed, rows.aligned) == ((0, 13), None, True)


def test_a_gate_is_no_shortest_path():
    convs = tuple(L.Conv2D(1, 3, padding="same") for _ in range(5))
    gate = L.GlobalAveragePooling2D(keepdims=True, inputs=("input",))
    field = analyse(Net((7, 7, 1), (*convs, gate, L.Multiply(inputs=("conv2d_4", gate.op.lower()))))).total.field
    assert field.shortest == (11, 11)


def test_a_gate_adds_the_whole_map_and_leaves_the_stride():
    layers = (L.Conv2D(4, 3, 2, "same", name="body"), L.GlobalAveragePooling2D(keepdims=True), L.Conv2D(4, 1),
              L.Multiply(inputs=("body", "conv2d")))  # fmt: skip
    field = analyse(Net((33, 33, 1), layers)).total.field
    assert (field.stride, field.shortest, field.aligned) == ((2, 2), (3, 3), True)
    assert field.size[0] >= 33
    assert field.rows.moving(3) == (5, 7)


def test_a_decoder_has_phases_and_a_fraction_of_a_stride():
    layers = (L.Conv2D(1, 3, 2, "same"), L.Conv2DTranspose(1, 3, 4, "valid"))
    field = analyse(Net((32, 32, 1), layers)).total.field
    assert field.stride == (0.5, 0.5)
    assert field.rows.phases == ((0, 2), (0, 2), (0, 2), None)  # a kernel of 3 leaves out every fourth output


def test_the_border_layer_is_the_first_whose_input_is_seen_whole():
    convs = tuple(L.Conv2D(1, 3, padding="same", name=f"c{i}") for i in range(6))
    assert analyse(Net((9, 9, 1), convs)).total.border == "c4"  # its input has a field of 1 + 4 * 2
    assert analyse(Net((9, 14, 1), convs)).total.border == ""
    skip = (*convs[:5], L.Add(inputs=("c0", "c4")), L.Conv2D(1, 3, padding="same"))
    assert analyse(Net((9, 9, 1), skip)).total.border == "c4"
    gated = (L.Conv2D(4, 3, name="body"), L.GlobalAveragePooling2D(keepdims=True), L.Conv2D(4, 1, name="squeeze"),
             L.Multiply(inputs=("body", "squeeze")), L.Conv2D(4, 3, name="after"))  # fmt: skip
    assert analyse(Net((33, 33, 1), gated)).total.border == ""  # a gate is not on the way of what has places


def test_places_that_stand_in_a_row_stay_places():
    """Patches as tokens, each for itself, until all are read; rows that become columns are other places."""
    patches = L.Conv2D(8, 4, 4), L.Reshape((16, 8)), L.Dense(8)
    seen = [
        row.field.size for row in analyse(Net((16, 16, 3), (*patches, L.Reshape((4, 4, 8)), L.Conv2D(2, 3)))).layers
    ]
    assert seen == [(4, 4)] * 4 + [(12, 12)]
    assert analyse(Net((16, 16, 3), (*patches, L.Flatten()))).layers[-1].field.size == (16, 16)
    turned = analyse(Net((1, 5, 3), (L.Conv2D(3, 1), L.Reshape((5, 1, 3))))).layers[-1].field
    assert not turned.known
    grey = analyse(Net((8, 8, 1), (L.Conv2D(1, 3), L.Reshape((6, 6)), L.Dense(4)))).layers
    assert [row.field.size for row in grey] == [(3, 3), (3, 3), (3, 8)]  # a Dense on what is left mixes the columns
