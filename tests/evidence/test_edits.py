"""Edits by name: what is asked is what is edited; what cannot be is refused, with what would
work.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from convwise.core.layers import (
    Activation,
    Add,
    BatchNormalization,
    Conv2D,
    Dense,
    GlobalAveragePooling2D,
    MaxPooling2D,
)
from convwise.core.net import Net
from convwise.core.parameters import FIVE
from convwise.core.problems import ConvwiseError, ShapeError, UnusableInput
from convwise.evidence.edits import BESIDE, Subject, named, questions
from studies import advice

NET = Net(
    (16, 16, 1),
    (
        Conv2D(8, 3, padding="same", name="first", activation="relu"),
        MaxPooling2D(name="pool"),
        Conv2D(16, 3, name="second", use_bias=False),
        BatchNormalization(name="norm"),
        Activation("relu", name="act"),
        Conv2D(4, 1, name="mix"),
        GlobalAveragePooling2D(),
        Dense(3, activation="softmax", name="out"),
    ),
)
PLAIN = Subject(NET)


@pytest.fixture(scope="module")
def chosen() -> Subject:
    given = advice()
    return Subject(given.net, given.recipe, given.configuration)


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("first.kernel_size=5", 3, 5),
        ("first.kernel_size=3,5", 3, (3, 5)),
        ("first.kernel_size=3x5", 3, (3, 5)),
        ("first.padding=valid", "same", "valid"),
        ("first.padding=1,2,1,2", "same", (1, 2, 1, 2)),
        ("first.activation=gelu", "relu", "gelu"),
        (" first.filters = 12 ", 8, 12),
        ("first.filters=x2", 8, 16),
        ("second.use_bias=true", False, True),
        ("pool.pool_size=3", 2, 3),
        ("out.use_bias=False", True, False),
    ],
)
def test_one_parameter_of_one_layer(text, before, after):
    edit = named(PLAIN, text)
    layer, _, parameter = edit.parameter.rpartition(".")
    assert (edit.before, edit.after, edit.recipe) == (before, after, None)
    assert [row[:2] for row in NET.diff(edit.net)] == [(layer, parameter)]
    again = named(PLAIN, f"{edit.parameter}={str(edit.after).strip('()')}")
    assert again.net == edit.net


def test_all_convolutions_at_once():
    # 1x1 mixes channels
    assert [row[0] for row in NET.diff(named(PLAIN, "kernel_size=5").net)] == ["first", "second"]
    wider = named(PLAIN, "filters=x2")
    assert [wider.net[name].filters for name in ("first", "second", "mix")] == [16, 32, 8]
    assert (wider.before, wider.after) == ("as it is", "x2")
    active = named(PLAIN, "activation=gelu").net
    assert (active["first"].activation, active["act"].activation, active["out"].activation) == (
        "gelu",
        "gelu",
        "softmax",
    )
    assert active["second"].activation == "linear"


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("second.kernel_size=99", ShapeError, "needs 99x99 inputs, but its map is 8x8"),
        (
            "second.kernal_size=5",
            UnusableInput,
            "second has no kernal_size; expected second.kernel_size",
        ),
        ("secnd.kernel_size=5", UnusableInput, "second.kernel_size"),
        ("kernelsize=5", UnusableInput, "kernel_size"),
        ("nothing.like=this", UnusableInput, "such as first.kernel_size=5"),
        ("first.kernel_size=3", UnusableInput, "is what the network already has"),
        ("padding=huge", UnusableInput, "huge is not a possible padding; expected 'same', 'valid'"),
        ("first.filters=-3", UnusableInput, "at least 1"),
        ("first.kernel_size", UnusableInput, "NAME=VALUE, such as first.kernel_size=5"),
        ("=5", UnusableInput, "NAME=VALUE"),
    ],
)
def test_what_cannot_be_is_refused_with_what_could(text, kind, words):
    with pytest.raises(kind, match=words):
        named(PLAIN, text)


def test_layers_that_no_longer_fit_each_other_are_refused():
    joined = Net((8, 8, 1), (Conv2D(4, 3, padding="same", name="a"), Conv2D(4, 3, padding="same",
                             name="b"), Add(name="sum", inputs=("a", "b")),
                             GlobalAveragePooling2D(), Dense(2)))  # fmt: skip
    with pytest.raises(ShapeError, match="sum"):
        named(Subject(joined), "b.filters=6")
    assert all(
        "filters" not in edit.parameter or edit.parameter == "filters"
        for edit in questions(Subject(joined))
    )
    together = named(Subject(joined), "b.filters=6 & a.filters=6")
    assert together.net == joined.edit("b", filters=6).edit("a", filters=6)
    assert (together.parameter, together.before, together.after) == (
        "b.filters & a.filters",
        "4 & 4",
        "6 & 6",
    )


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("first.kernel_size=5 & second.kernel_size=99", ShapeError, "needs 99x99"),
        ("first.kernel_size=5 & second.kernal_size=5", UnusableInput, "second has no kernal_size"),
        ("first.kernel_size=5 & second", UnusableInput, "NAME=VALUE"),
        ("first.kernel_size=3 & second.filters=-1", UnusableInput, "at least 1"),
        ("kernel_size=5 & second.filters=9", UnusableInput, "kernel_size"),
        (
            "first.kernel_size=3 & first.kernel_size=3",
            UnusableInput,
            "is what the network already has",
        ),
        ("&", UnusableInput, "NAME=VALUE"),
    ],
)
def test_what_cannot_be_changed_together_is_refused(text, kind, words):
    with pytest.raises(kind, match=words):
        named(PLAIN, text)


# --- of a space ----------------------------------------------------------------------------------


def test_a_name_that_is_near_others_names_each_once(chosen):
    with pytest.raises(UnusableInput) as refused:
        named(chosen, "stem.kernal_size=5")
    near = refused.value.problem.expected.split(" or ")
    assert "stem.kernel_size" in near
    assert len(near) == len(set(near))


def test_a_choice_of_the_space(chosen):
    now = chosen.configuration["stage.kernel_size"]
    edit = named(chosen, f"stage.kernel_size={now + 2}")
    assert (edit.before, edit.after) == (now, now + 2)
    assert edit.net == chosen.space.fit({**chosen.configuration, "stage.kernel_size": now + 2}).net
    assert edit.configuration["stage.kernel_size"] == now + 2
    assert edit.recipe == chosen.recipe
    # A change of one layer has no configuration
    assert named(chosen, "stage1_conv1.kernel_size=7").configuration == {}


def test_a_value_that_the_space_would_change_is_refused(chosen):
    with pytest.raises(UnusableInput, match="would become"):
        named(chosen, "stage.filters=17")
    with pytest.raises(UnusableInput, match=r"is 'many'; expected one of \d+"):
        named(chosen, "stage.filters=many")
    now = chosen.configuration["stage.filters"]
    with pytest.raises(
        UnusableInput, match="the network already has; expected another value, such as"
    ) as refused:
        named(chosen, f"stage.filters={now}")
    other = refused.value.problem.expected.split("such as ")[1].split(",")[0]
    assert named(chosen, f"stage.filters={other}").after == int(other)


def test_a_layer_that_is_named_as_a_choice_can_be_what_no_sample_is(chosen):
    with pytest.raises(UnusableInput, match="is '3,5'"):
        named(chosen, "stem.kernel_size=3,5")
    edit = named(chosen, "stem.kernel_size=3,5 &")
    assert edit.net == chosen.net.edit("stem", kernel_size=(3, 5))
    assert (edit.parameter, edit.configuration) == ("stem.kernel_size", {})


def test_a_change_that_needs_others_to_keep_the_goal_is_refused():
    given = advice("accuracy where params<4k")
    subject = Subject(given.net, given.recipe, given.configuration)
    with pytest.raises(UnusableInput, match="goal's limits|would become|would also change"):
        named(subject, "stage.kernel_size=31")


def test_a_choice_of_the_recipe_alone_is_an_edit(chosen):
    edit = named(chosen, "training.flip=true")
    assert (edit.net, edit.recipe) == (chosen.net, replace(chosen.recipe, flip=True))


def test_a_value_that_gives_the_same_network_is_refused(chosen):
    """The map is too small for more stages."""
    stages = chosen.configuration["stage.count"]
    assert chosen.space.fit({**chosen.configuration, "stage.count": 9}).net == chosen.net
    with pytest.raises(UnusableInput, match=f"gives the same network as stage.count={stages}"):
        named(chosen, "stage.count=9")


# --- nothing asked -------------------------------------------------------------------------------


def test_unasked_the_five_parameters_come_first_then_the_layers():
    found = [edit.parameter for edit in questions(PLAIN)]
    assert [name.rpartition(".")[2] for name in found[:5]] == list(FIVE)
    assert found[2] == "first.strides"
    general = next(i for i, name in enumerate(found) if "." in name and name != "first.strides")
    assert all("." in name for name in found[general:])
    assert "mix.kernel_size" not in found
    nets = [edit.net.id for edit in questions(PLAIN)]
    assert len(set(nets)) == len(nets)


def test_every_unasked_edit_can_be_typed(chosen):
    for subject in (PLAIN, chosen):
        for edit in questions(subject):
            value = ",".join(map(str, edit.after)) if isinstance(edit.after, tuple) else edit.after
            assert named(subject, f"{edit.parameter}={value}").net == edit.net


def test_on_a_choice_the_names_are_of_the_space_and_the_doubtful_come_first(chosen):
    first = questions(chosen)
    general = [edit.parameter for edit in first if edit.parameter in chosen.hyperparameters]
    assert general == [edit.parameter for edit in first][: len(general)]
    asked = [name for name in general if name.rpartition(".")[2] in FIVE]
    once = list(dict.fromkeys(asked))
    assert {name.rpartition(".")[2] for name in once} == set(FIVE)
    besides = list(dict.fromkeys(name for name in general if name not in asked))
    # One value of each before a second of any
    assert general[: len(once) + len(besides)] == [*once, *besides]
    assert besides == [name for name in BESIDE if name in besides]
    one, two = first[0], first[1]
    told = [
        {
            "parameter": one.parameter,
            "from": one.before,
            "to": one.after,
            "verdict": "no difference",
        },
        {
            "parameter": two.parameter,
            "from": two.before,
            "to": two.after,
            "verdict": "not resolved",
        },
    ]
    again = questions(chosen, told)
    assert again[-1].net == one.net
    assert again[0].net not in (one.net, two.net)
    assert len(again) == len(first)


def test_where_the_space_has_one_stride_the_first_convolution_is_asked(chosen):
    names = {each.name: each for each in chosen.space.hyperparameters}
    one = replace(names["stem.strides"], values=(chosen.configuration["stem.strides"],))
    space = replace(chosen.space, hyperparameters=tuple({**names, "stem.strides": one}.values()))
    found = [
        edit.parameter
        for edit in questions(replace(chosen, configuration=space.fit(chosen.configuration)))
    ]
    assert {name.rpartition(".")[2] for name in found[:6]} == set(FIVE)
    assert "stem.strides" in found[:6]


def test_a_network_without_convolutions_has_no_questions():
    dense = Subject(Net((8, 8, 1), (GlobalAveragePooling2D(), Dense(2, name="out"))))
    assert questions(dense) == []
    with pytest.raises(ConvwiseError, match="no layer of this network"):
        named(dense, "kernel_size=5")
