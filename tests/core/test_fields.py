"""Receptive fields against gradients: the input px that change a unit, in plain PyTorch."""

from __future__ import annotations

import random
from fractions import Fraction
from math import lcm

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from convwise.core import layers as L
from convwise.core.calculus import Analysis, analyse
from convwise.core.field import Field
from convwise.core.net import INPUT, Net
from sights import (
    EVERY,
    STILL,
    UNEVEN,
    Draw,
    Seen,
    Span,
    apart,
    around_the_middle,
    axes,
    clean,
    compared,
    covers,
    inside,
    random_chain,
    random_dag,
    reached,
    seen_outputs,
)
from singles import pair

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
# filter_too_much stays: it says when too few nets can be compared.
LOOSE = settings(
    deadline=None, report_multiple_bugs=False, suppress_health_check=[HealthCheck.too_slow]
)
ROUNDS = [pytest.param(1, id="some"), pytest.param(10, id="many", marks=pytest.mark.slow)]
SEEDS = st.integers(0, 2**32 - 1)


# --- sight ----------------------------------------------------------------------------------------


def check_sight(net: Net, seed: int) -> None:
    analysis = analyse(net)
    exact = compared(net, analysis.total.field, seed)
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
        units = [
            *around_the_middle(shape, 5),
            (0, 0),
            (shape[0] - 1, shape[1] - 1),
            (0, shape[1] // 3),
        ]
        for unit, seen in zip(units, reached(net, [last], units)[last], strict=True):
            claimed = [
                field.at(i) for field, i in zip(axes(analysis[last].field), unit, strict=True)
            ]
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
        assert axis.size == max(
            (last - first + 1 for first, last in filter(None, spans)), default=0
        )
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
    """Whether the branches of every join see around the same centres, by gradients; None where
    borders interfere.

    The centre is that of a unit on average over whole turns of the phases, each moved back by its
    strides.
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


def _centres(
    field: Field, units: list[Span], seen: list[Seen]
) -> tuple[tuple[Fraction, Fraction], ...]:
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
    """Every way from the input to a layer, without what joins; ways through a global mean are no
    path of places.
    """
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
    """The field of the last layer, which reads no padding, after a look at a few units'
    gradients.
    """
    row = analyse(net).layers[-1]
    units = [*around_the_middle(row.output_shape, 6), (0, 0), (1, 0), (row.output_shape[0] - 1, 1)]
    for unit, seen in zip(units, reached(net, [row.name], units)[row.name], strict=True):
        assert seen == tuple(field.at(i) for field, i in zip(axes(row.field), unit, strict=True)), (
            unit
        )
    return row.field


def test_branches_at_other_strides_are_called_misaligned():
    """Also where their first units look at the same place."""
    layers = (L.Conv2D(1, 3, 2, "same", name="half"), L.Cropping2D((1, 9, 1, 9), inputs=("input",)),
              L.Add(inputs=("half", "cropping2d")))  # fmt: skip
    assert not analyse(Net((20, 20, 1), layers)).total.field.aligned


@pytest.mark.parametrize("inputs", [("start", "up"), ("up", "start")])
def test_a_skip_over_down_and_up_is_seen_in_phases(inputs):
    """The px that the nearest neighbour repeats lies off the skip's centre at every second unit."""
    layers = (
        L.Conv2D(1, 1, name="start"),
        L.MaxPooling2D(1, 2),
        L.UpSampling2D(2, name="up"),
        L.Add(inputs=inputs),
    )
    field = seen_as_claimed(Net((12, 12, 1), layers))
    assert (field.rows.phases, field.rows.stride, field.aligned) == (((0, 0), (0, 1)), 1, False)


UP = {"nearest": L.UpSampling2D(2), "bilinear": L.UpSampling2D(2, "bilinear"),
      "bicubic": L.UpSampling2D(2, "bicubic"),
      "k2": L.Conv2DTranspose(1, 2, 2), "k4": L.Conv2DTranspose(1, 4, 2, "same"),
      "k3": L.Conv2DTranspose(1, 3, 2, "same")}  # fmt: skip


@pytest.mark.parametrize("name", UP)
def test_a_decoder_is_aligned_where_its_weights_are(name):
    """The centre of mass of a decoder's units, each px weighed: on the skip's but where k - s is
    odd.
    """
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
              L.Multiply(inputs=("body", "row")), L.Multiply(inputs=("multiply",
              "column")))  # fmt: skip
    both, rows = (
        seen_as_claimed(Net((14, 14, 1), some)) for some in (layers, (*layers[:2], layers[3]))
    )
    assert (both.rows.fixed, both.columns.fixed, both.aligned) == ((0, 13), (0, 13), True)
    assert (rows.rows.fixed, rows.columns.fixed, rows.aligned) == ((0, 13), None, True)


def test_a_gate_is_no_shortest_path():
    convs = tuple(L.Conv2D(1, 3, padding="same") for _ in range(5))
    gate = L.GlobalAveragePooling2D(keepdims=True, inputs=("input",))
    field = analyse(
        Net((7, 7, 1), (*convs, gate, L.Multiply(inputs=("conv2d_4", gate.op.lower()))))
    ).total.field
    assert field.shortest == (11, 11)


def test_a_gate_adds_the_whole_map_and_leaves_the_stride():
    layers = (L.Conv2D(4, 3, 2, "same", name="body"), L.GlobalAveragePooling2D(keepdims=True),
              L.Conv2D(4, 1), L.Multiply(inputs=("body", "conv2d")))  # fmt: skip
    field = analyse(Net((33, 33, 1), layers)).total.field
    assert (field.stride, field.shortest, field.aligned) == ((2, 2), (3, 3), True)
    assert field.size[0] >= 33
    assert field.rows.moving(3) == (5, 7)


def test_a_decoder_has_phases_and_a_fraction_of_a_stride():
    layers = (L.Conv2D(1, 3, 2, "same"), L.Conv2DTranspose(1, 3, 4, "valid"))
    field = analyse(Net((32, 32, 1), layers)).total.field
    assert field.stride == (0.5, 0.5)
    # A kernel of 3 leaves out every fourth output
    assert field.rows.phases == ((0, 2), (0, 2), (0, 2), None)


def test_the_border_layer_is_the_first_whose_input_is_seen_whole():
    convs = tuple(L.Conv2D(1, 3, padding="same", name=f"c{i}") for i in range(6))
    assert analyse(Net((9, 9, 1), convs)).total.border == "c4"  # its input has a field of 1 + 4 * 2
    assert analyse(Net((9, 14, 1), convs)).total.border == ""
    skip = (*convs[:5], L.Add(inputs=("c0", "c4")), L.Conv2D(1, 3, padding="same"))
    assert analyse(Net((9, 9, 1), skip)).total.border == "c4"
    gated = (L.Conv2D(4, 3, name="body"), L.GlobalAveragePooling2D(keepdims=True), L.Conv2D(4, 1,
             name="squeeze"), L.Multiply(inputs=("body", "squeeze")), L.Conv2D(4, 3,
             name="after"))  # fmt: skip
    # A gate is not on the way of what has places
    assert analyse(Net((33, 33, 1), gated)).total.border == ""


def test_places_that_stand_in_a_row_stay_places():
    """Patches as tokens, each for itself, until all are read; rows that become columns are other
    places.
    """
    patches = L.Conv2D(8, 4, 4), L.Reshape((16, 8)), L.Dense(8)
    seen = [
        row.field.size
        for row in analyse(
            Net((16, 16, 3), (*patches, L.Reshape((4, 4, 8)), L.Conv2D(2, 3)))
        ).layers
    ]
    assert seen == [(4, 4)] * 4 + [(12, 12)]
    assert analyse(Net((16, 16, 3), (*patches, L.Flatten()))).layers[-1].field.size == (16, 16)
    turned = analyse(Net((1, 5, 3), (L.Conv2D(3, 1), L.Reshape((5, 1, 3))))).layers[-1].field
    assert not turned.known
    grey = analyse(Net((8, 8, 1), (L.Conv2D(1, 3), L.Reshape((6, 6)), L.Dense(4)))).layers
    # A Dense on what is left mixes the columns
    assert [row.field.size for row in grey] == [(3, 3), (3, 3), (3, 8)]
