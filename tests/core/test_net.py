"""Nets: names, inputs, JSON, identity, edits; layers: what they accept and how they refuse."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings

from convwise.core import layers as L
from convwise.core.calculus import analyse
from convwise.core.net import Net
from convwise.core.parameters import REQUIRED, Number, Numbers
from convwise.core.problems import ConvwiseError, ShapeError, UnusableInput
from nets import nets

SMALL = Net(
    (28, 28, 1), (L.Conv2D(8, 3, padding="same", activation="relu"), L.Flatten(), L.Dense(10))
)


# --- names and inputs -------------------------------------------------------------------------


def test_layers_get_names_and_inputs_in_order():
    net = Net((8, 8, 1), (L.Conv2D(2, 3), L.Conv2D(2, 3), L.Conv2D(2, 3, name="last")))
    assert [(layer.name, layer.inputs) for layer in net.layers] == [
        ("conv2d", ("input",)),
        ("conv2d_1", ("conv2d",)),
        ("last", ("conv2d_1",)),
    ]
    assert net.is_chain


def test_given_names_are_not_taken_again():
    net = Net((8, 8, 1), (L.Conv2D(2, 3, name="conv2d_1"), L.Conv2D(2, 3), L.Conv2D(2, 3)))
    assert [layer.name for layer in net.layers] == ["conv2d_1", "conv2d", "conv2d_2"]


def test_a_branch_is_no_chain():
    net = Net((8, 8, 1), (L.Conv2D(1, 1), L.Add(inputs=("input", "conv2d"))))
    assert not net.is_chain


@pytest.mark.parametrize(
    ("layers", "what"),
    [
        ((L.Flatten(name="a"), L.Flatten(name="a")), "taken"),
        ((L.Flatten(name="input"),), "taken"),
        ((L.Flatten(name="two words"),), "not a word"),
        ((L.Flatten(name="a/b"),), "not a word"),
        ((L.Flatten(inputs=("later",)), L.Flatten(name="later")), "reads"),
        (
            (L.Conv2D(2, 3, shares="gone"),),
            "shares the weights of 'gone'; expected an earlier Conv2D",
        ),
        (
            (L.Conv2D(2, 3, name="a"), L.Dense(2, shares="a")),
            "shares the weights of 'a'; expected an earlier Dense",
        ),
        ((L.Conv2D(2, 3, shares="input"),), "shares the weights of 'input'"),
    ],
)
def test_bad_names_and_inputs_are_refused(layers, what):
    with pytest.raises(UnusableInput, match=what):
        Net((8, 8, 1), layers)


@pytest.mark.parametrize(
    "shape",
    [
        (8, 8),
        (8, 8, 0),
        (8, 8, 1.0),
        (8, 8, 1, 1),
        (8, 8, True),
        "881",
        (8, 2**41, 1),
        (10**400, 8, 1),
    ],
)
def test_bad_input_shapes_are_refused(shape):
    with pytest.raises(UnusableInput, match="input shape") as error:
        Net(shape, ())
    assert len(str(error.value)) < 200


# --- JSON and identity ------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(net=nets(everywhere=False))
def test_json_and_pickle_come_back(net):
    text = json.dumps(net.to_json())
    back = Net.from_json(json.loads(text))
    assert back == net
    assert hash(back) == hash(net)
    assert back.id == net.id
    assert pickle.loads(pickle.dumps(net)) == net


@settings(max_examples=100, deadline=None)
@given(one=nets(), other=nets())
def test_nets_have_one_id_each(one, other):
    assert (one.id == other.id) == (one == other)


def test_the_id_does_not_depend_on_how_a_net_is_written():
    long = Net((28, 28, 1), ( L.Conv2D(8, (3, 3), (1, 1), "same", (1, 1), 1, True, "relu",
        name="conv2d", inputs=("input",)), L.Flatten(inputs=("conv2d",)), L.Dense(10,
        activation=None)))  # fmt: skip
    assert long.id == SMALL.id


def test_the_id_is_the_same_in_another_process_and_in_every_version():
    """Ledgers and choices name nets by it: a change here is a change of format."""
    source = "from test_net import SMALL; print(SMALL.id)"
    path = [str(Path(__file__).parents[2] / "src"), *map(str, Path(__file__).parents[:2])]
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {path}; {source}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.strip() == SMALL.id == "84fa9012225d"


def test_json_leaves_defaults_out():
    assert SMALL.to_json() == {
        "input_shape": [28, 28, 1],
        "layers": [
            {"name": "conv2d", "type": "Conv2D", "filters": 8, "kernel_size": [3, 3],
            "padding": "same",
             "activation": "relu"},
            {"name": "flatten", "type": "Flatten"},
            {"name": "dense", "type": "Dense", "units": 10},
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ({}, "input_shape and layers"),
        ({"input_shape": 3, "layers": []}, "cannot be read"),
        ({"input_shape": "8x8x1", "layers": []}, "is '8x8x1'; expected"),
        ({"input_shape": [8, 8, 1], "layers": [{"type": "Conv3D"}]}, "Conv3D"),
        (
            {"input_shape": [8, 8, 1], "layers": [{"type": "Conv2D", "filters": 3}]},
            "lacks kernel_size",
        ),
        ({"input_shape": [8, 8, 1], "layers": [{"type": "Flatten", "size": 3}]}, "no parameter"),
    ],
)
def test_json_that_is_no_net_is_refused(data, what):
    with pytest.raises(UnusableInput, match=what):
        Net.from_json(data)


# --- edit and diff ----------------------------------------------------------------------------


def test_edit_changes_one_parameter_and_diff_finds_it():
    edited = SMALL.edit("conv2d", kernel_size=5)
    assert SMALL.diff(edited) == [("conv2d", "kernel_size", (3, 3), (5, 5))]
    assert SMALL.diff(SMALL) == []
    assert SMALL["conv2d"].kernel_size == (3, 3)
    assert edited.id != SMALL.id


def test_diff_names_layers_on_one_side_and_other_shapes():
    other = Net((14, 14, 1), (SMALL["conv2d"], L.GlobalAveragePooling2D(), L.Dense(10)))
    assert SMALL.diff(other) == [
        ("input", "shape", (28, 28, 1), (14, 14, 1)),
        ("flatten", "", "Flatten", None),
        ("dense", "inputs", ("flatten",), ("globalaveragepooling2d",)),
        ("globalaveragepooling2d", "", None, "GlobalAveragePooling2D"),
    ]


@settings(max_examples=50, deadline=None)
@given(one=nets(), other=nets())
def test_a_diff_is_empty_only_between_equals(one, other):
    if {layer.name for layer in one.layers} == {layer.name for layer in other.layers}:
        assert (one.diff(other) == []) == (one == other)
    else:
        assert one.diff(other)
    assert one.diff(one) == []


def test_an_unknown_layer_is_named_with_those_there_are():
    with pytest.raises(UnusableInput, match="conv2d, flatten, dense"):
        SMALL.edit("conv3d", filters=3)


# --- layers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "where", "expected"),
    [
        (lambda: L.Conv2D(0, 3), "Conv2D.filters: is 0", "at least 1"),
        (lambda: L.Conv2D(True, 3), "Conv2D.filters", "whole number"),
        (lambda: L.Conv2D(8, 3.0), "Conv2D.kernel_size", "whole number"),
        (lambda: L.Conv2D(8, (3, 0)), "Conv2D.kernel_size", "whole number"),
        (lambda: L.Conv2D(8, (3, 3, 3)), "Conv2D.kernel_size", "rows, columns"),
        (lambda: L.Conv2D(8, 3, padding="full"), "Conv2D.padding: is 'full'", "'same', 'valid' or"),
        (lambda: L.Conv2D(8, 3, padding=(1, 1)), "Conv2D.padding", "top, bottom, left, right"),
        (
            lambda: L.Conv2D(8, 3, padding=(1, 1, 1, -1)),
            "Conv2D.padding",
            "top, bottom, left, right",
        ),
        (lambda: L.Conv2D(8, 3, activation="rectify"), "Conv2D.activation", "leaky_relu"),
        (lambda: L.Conv2D(8, 3, use_bias=1), "Conv2D.use_bias", "True or False"),
        (lambda: L.MaxPooling2D(2, 0), "MaxPooling2D.strides", "None"),
        (lambda: L.Dropout(1.0), "Dropout.rate", "to below 1"),
        (lambda: L.Dropout(float("nan")), "Dropout.rate", "to below 1"),
        (lambda: L.BatchNormalization(momentum=-0.1), "BatchNormalization.momentum", "from 0"),
        (lambda: L.Normalization((), 1.0), "Normalization.mean", "one per channel"),
    ],
)
def test_illegal_parameters_are_refused(make, where, expected):
    with pytest.raises(UnusableInput) as caught:
        make()
    assert where in str(caught.value)
    assert expected in caught.value.problem.expected
    assert isinstance(caught.value, ConvwiseError)


HUGE = 10**400  # which JSON may hold, and no float
NUMBERS = [
    (kind, p.name)
    for kind in L.LAYERS
    for p in L.parameters(L.LAYERS[kind])
    if isinstance(p, Number | Numbers)
]


def of_json(kind: str, name: str, value: object) -> Net:
    """A net of one layer with this value, and 2 for what else it must have."""
    needed = {p.name: 2 for p in L.parameters(L.LAYERS[kind]) if p.default is REQUIRED}
    needed |= {"operator": "odd"} if kind == "Opaque" else {}
    return Net.from_json(
        {"input_shape": [8, 8, 2], "layers": [{"type": kind, **needed, name: value}]}
    )


@pytest.mark.parametrize("value", [HUGE, -HUGE, [HUGE], True, [1, False], "3", None, []])
@pytest.mark.parametrize(("kind", "name"), NUMBERS)
def test_what_is_no_number_is_refused_where_one_is_read(kind, name, value):
    of_json(kind, name, 0.5)
    with pytest.raises(UnusableInput, match=rf"{kind}.{name}: is ") as error:
        of_json(kind, name, value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "value", [HUGE, [HUGE, HUGE], 2**40, True, [True, True], "3", None, [], {}, float("nan")]
)
@pytest.mark.parametrize("kind", L.LAYERS)
def test_whatever_a_parameter_is_in_a_file_there_is_no_other_error(kind, value):
    for parameter in L.parameters(L.LAYERS[kind]):
        with suppress(UnusableInput, ShapeError):
            total = analyse(of_json(kind, parameter.name, value)).total
            assert json.dumps([total.params, total.macs, f"{total.activation_bytes / 1e6:.1f}"])


def test_what_is_required_is_required():
    with pytest.raises(TypeError, match="kernel_size"):
        L.Conv2D(8)  # type: ignore[call-arg]


def test_parameters_are_normalised_once():
    assert L.Conv2D(8, 3) == L.Conv2D(8, [3, 3], 1, "valid", activation=None)
    assert L.MaxPooling2D(3).strides == (3, 3)
    assert L.MaxPooling2D(3, None) == L.MaxPooling2D(3, 3)
    assert L.AveragePooling2D((2, 3), 2).strides == (2, 2)


def test_pool_strides_equal_to_the_pool_come_back():
    net = Net((9, 9, 1), (L.MaxPooling2D(2), L.MaxPooling2D(2, 1)))
    assert Net.from_json(net.to_json()) == net


@pytest.mark.parametrize("kind", L.LAYERS.values(), ids=L.LAYERS)
def test_every_parameter_says_what_it_is(kind):
    for parameter in L.parameters(kind):
        assert parameter.legal
        assert parameter.meaning
        assert (
            parameter.default is L.REQUIRED
            or parameter.normalise(parameter.default) == parameter.default
        )


def test_the_table_of_layers_is_whole():
    kinds = {
        kind.__name__: kind for kind in L.Layer.__subclasses__() if kind.__module__ == L.__name__
    }
    assert kinds == L.LAYERS


# --- a mirrored view --------------------------------------------------------------------------


def test_a_mirrored_view_is_kept_and_told_apart():
    both = Net(SMALL.input_shape, SMALL.layers, mirrored_view=True)
    assert Net.from_json(json.loads(json.dumps(both.to_json()))) == both
    assert "mirrored_view" not in SMALL.to_json(), (
        "so that the ids of all other nets stay what they were"
    )
    assert both.id != SMALL.id
    assert both.one_view == SMALL == SMALL.one_view
    assert both.edit("dense", units=3).mirrored_view
    assert SMALL.diff(both) == [("input", "mirrored_view", False, True)]
    with pytest.raises(UnusableInput, match="mirrored_view 'yes'; expected true or false"):
        Net.from_json({**SMALL.to_json(), "mirrored_view": "yes"})


def test_what_learns_is_what_stands_behind_a_first_layer_that_averages():
    mean, conv, head = (
        L.AveragePooling2D(2, name="mean"),
        L.Conv2D(4, 3),
        L.GlobalAveragePooling2D(),
    )
    net = Net((8, 12, 3), (mean, conv, head))
    assert (net.shrinks, net.shrunk) == (2, Net((4, 6, 3), (conv, head)))
    assert net.shrunk.shrinks == 1
    for other in (
        Net((8, 12, 3), (conv, head)),
        Net((8, 12, 3), (L.AveragePooling2D(1), conv)),
        Net((9, 12, 3), (mean, conv)),  # a row that the windows leave out
        Net((8, 12, 3), (L.AveragePooling2D(2, strides=1), conv)),
        Net((8, 12, 3), (L.AveragePooling2D(2, padding="same"), conv)),
        Net((8, 12, 3), (L.AveragePooling2D((2, 3)), conv)),
        Net((8, 12, 3), (L.MaxPooling2D(2), conv)),
        Net(
            (8, 12, 3),
            (mean, conv, L.Conv2D(4, 3, strides=2, padding="same", inputs=("input",), name="past")),
        ),
        Net((8, 12, 3), (mean,)),
    ):
        assert (other.shrinks, other.shrunk) == (1, other)
