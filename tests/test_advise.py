"""Advice: every parameter has a value, a reason and a source; limits hold; what was changed is said."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convwise.advice import advise, layer_reasons
from convwise.core.calculus import analyse
from convwise.core.goal import parse_goal
from convwise.core.layers import Conv2D, Dense, DepthwiseConv2D
from convwise.core.problems import Infeasible
from convwise.core.records import Advice, Recipe, from_json, to_json
from convwise.core.space import MEANING, LatencyModel
from convwise.rules import RECIPE_RULES, RULES
from studies import PACE, advice, differing, facts

MEASURED = {
    "f95": st.floats(0.01, 0.5), "discriminative_scale": st.sampled_from((3, 5, 7, 9, 13)),
    "alignment": st.floats(0, 1), "class_imbalance": st.floats(1, 90),
    "flip_gain": st.floats(-0.6, 0.1), "autocorrelation_length": st.floats(0.5, 30),
    "data_sufficiency": st.floats(0, 0.3), "resolution_sensitivity": st.floats(-0.1, 0.5),
}  # fmt: skip


@st.composite
def fingerprints(draw):
    """Images of any size with any measures, some of them not taken."""
    shape = draw(st.integers(6, 200)), draw(st.integers(6, 200)), draw(st.sampled_from((1, 3)))
    counts = draw(st.lists(st.integers(2, 9000), min_size=2, max_size=20))
    taken = draw(st.fixed_dictionaries({}, optional=MEASURED))
    side = [min(n, 64) for n in shape[:2]]
    return replace(facts(shape, counts, **taken), input_shape=(*side, shape[2]))


def advised(found, goal: str = "accuracy") -> Advice:
    return advise(found, parse_goal(goal), PACE, 100.0, 2)


@settings(max_examples=60, deadline=None)
@given(fingerprints())
def test_every_choice_has_a_value_a_reason_and_a_source(found):
    given_ = advised(found)
    reasons = {reason.parameter: reason for reason in given_.reasons}
    assert len(reasons) == len(given_.reasons)
    assert set(MEANING) <= set(reasons)
    for name in MEANING:
        reason = reasons[name]
        assert reason.value == given_.sample[name]
        assert reason.value in given_.space[name].values
        assert reason.because
        assert reason.source
    assert given_.net == given_.space.grow(given_.sample)
    assert given_.net.input_shape == found.input_shape


@settings(max_examples=60, deadline=None)
@given(fingerprints(), st.data())
def test_every_layer_of_every_net_of_the_space_has_reasons(found, data):
    given_ = advised(found)
    sample = {c.name: data.draw(st.sampled_from(c.values)) for c in given_.space.choices}
    for net in (given_.net, given_.space.grow(sample)):
        reasons = layer_reasons(net, given_.reasons)
        assert list(reasons) == [layer.name for layer in net.layers]
        assert all(sentences and all(sentences.values()) for sentences in reasons.values())
        for layer in net.layers:
            if isinstance(layer, Conv2D):
                assert {"filters", "kernel_size", "strides", "padding", "activation"} <= set(reasons[layer.name])
            elif isinstance(layer, DepthwiseConv2D):
                assert {"kernel_size", "strides", "padding", "activation"} <= set(reasons[layer.name])
        assert isinstance(net.layers[-1], Dense)


def test_a_one_by_one_shortcut_is_not_explained_by_the_kernel_of_the_stage():
    given_ = advised(facts((32, 32, 3)))
    reasons = layer_reasons(given_.net, given_.reasons)
    shortcut = next(name for name in reasons if "shortcut" in name and not name.endswith("norm"))
    assert given_.net[shortcut].kernel_size == (1, 1)
    assert reasons[shortcut]["kernel_size"] != reasons["stage2_conv1"]["kernel_size"]


@settings(max_examples=40, deadline=None)
@given(fingerprints(), st.integers(300, 30000), st.integers(10_000, 4_000_000))
def test_limits_hold_for_all_that_is_advised_and_changes_are_explained(found, params, macs):
    goal = f"accuracy where params<{params} and macs<{macs}"
    try:
        given_ = advised(found, goal)
    except Infeasible:  # how it says so: test_an_infeasible_goal_says_by_how_much
        return
    for sample in (given_.sample, *given_.portfolio):
        total = analyse(given_.space.grow(sample)).total
        assert total.params <= params
        assert total.macs <= macs
    reasons = {reason.parameter: reason for reason in given_.reasons}
    free = advised(found)
    for name in differing(free.sample, given_.sample) & set(MEANING):
        assert reasons[name].value == given_.sample[name]
        assert "limit" in reasons[name].because
        assert goal in reasons[name].because


def test_a_latency_limit_bounds_the_prediction():
    model = LatencyModel(per_layer=0.001, per_mac=1e-7, per_byte=1e-9)
    free = advice(latency=model)
    predicted = free.space.cost(free.net)["latency_ms"]
    tight = advice(goal=f"accuracy where latency<{predicted / 2:.4f}ms", latency=model)
    assert tight.space.cost(tight.net)["latency_ms"] <= predicted / 2


def test_an_infeasible_goal_says_by_how_much():
    with pytest.raises(Infeasible, match=r"params \d+\.\d times its limit"):
        advice(goal="accuracy where params<20")


# Both branches of every rule that has two: (choice, facts on one side, value), (facts on the other, value).
BRANCHES = [
    ("stem.strides", {"shape": (64, 64, 3)}, 2, {"shape": (32, 32, 3)}, 1),
    ("stem.kernel_size", {"discriminative_scale": 9}, 5, {"discriminative_scale": 5}, 3),
    ("dropout", {"counts": (100, 100)}, 0.2, {"counts": (4000, 4000)}, 0.0),
]


@pytest.mark.parametrize(("choice", "one", "value", "other", "else_"), BRANCHES)
def test_rules_fire_both_ways(choice, one, value, other, else_):
    here, there = advice(**one), advice(**other)
    assert (here.sample[choice], there.sample[choice]) == (value, else_)
    because = [next(r.because for r in a.reasons if r.parameter == choice) for a in (here, there)]
    assert because[0] != because[1]


def test_an_aligned_set_is_told_so_and_tests_a_flatten_head_first():
    aligned, free = advice(alignment=0.5), advice(alignment=0.02)
    heads = [a.space["head"].values for a in (aligned, free)]
    assert heads[0][1] == "Flatten"
    assert heads[1][1] == "GlobalMaxPooling2D"
    assert all("Flatten" in h for h in heads)
    texts = [next(r.because for r in a.reasons if r.parameter == "head") for a in (aligned, free)]
    assert "0.50" in texts[0]
    assert "0.02" in texts[1]


def test_no_rule_is_dead():
    """Every row decides somewhere: a row under an `always` of the same choice would never be reached."""
    fired = set()
    for shape in ((28, 28, 1), (64, 64, 3)):
        for counts in ((60, 60), (9000, 9000)):
            for scale, alignment in ((3, 0.0), (9, 0.9)):
                found = advice(shape=shape, counts=counts, discriminative_scale=scale, alignment=alignment)
                fired |= {(r.parameter, r.because.split()[0], r.source) for r in found.reasons}
    rows = {(rule.choice, rule.source) for rule in RULES}
    assert rows == {(name, source) for name, _, source in fired if not name.startswith("training.")}


@pytest.mark.parametrize(
    ("measures", "field", "value"),
    [({"flip_gain": 0.01}, "flip", True), ({"flip_gain": -0.1}, "flip", False), ({}, "flip", False)],
)
def test_the_recipe_follows_the_images(measures, field, value):
    assert getattr(advice(**measures).recipe, field) == value


def test_strong_imbalance_weights_the_loss_and_weak_does_not():
    assert advice(counts=(100, 300)).recipe.class_weights == ()
    weights = advice(counts=(100, 2500)).recipe.class_weights
    assert weights[0] / weights[1] == pytest.approx(5, rel=1e-3)
    assert sum(weights) == pytest.approx(2, rel=1e-3)


def test_every_field_of_the_recipe_that_a_rule_sets_has_a_reason():
    given_ = advice()
    reasons = {r.parameter: r for r in given_.reasons}
    for rule in RECIPE_RULES:
        assert reasons[f"training.{rule.field}"].value == getattr(given_.recipe, rule.field)
        assert reasons[f"training.{rule.field}"].source
    assert isinstance(given_.recipe, Recipe)


def test_every_rule_cites_a_source_and_names_a_known_choice():
    assert {rule.choice for rule in RULES} == set(MEANING)
    assert all(rule.source for rule in (*RULES, *RECIPE_RULES))


def test_the_width_shrinks_where_there_is_less_time():
    widths = [advice(seconds=s, counts=(3000, 3000)).sample["stage.filters"] for s in (1, 10, 100, 1000)]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


def test_the_space_holds_the_neighbours_worth_testing():
    """What the first issue asks for: plain and residual, kernels 1 to 7, strides, paddings, activations, heads."""
    space = advice(shape=(32, 32, 3)).space
    assert {"plain", "residual"} <= set(space["block"].values)
    assert {1, 3, 5, 7} <= set(space["stem.kernel_size"].values)
    assert {1, 2} <= set(space["stem.strides"].values)
    assert {"same", "valid"} == set(space["padding"].values)
    assert len(space["activation"].values) >= 4
    assert {"GlobalAveragePooling2D", "Flatten"} <= set(space["head"].values)


def test_advice_survives_json():
    given_ = advice(goal="accuracy where params<30k", alignment=0.4, counts=(100, 2500))
    data = json.loads(json.dumps(to_json(given_), allow_nan=False))
    read = from_json(Advice, data)
    assert replace(read, reasons=()) == replace(given_, reasons=())
    assert to_json(read) == to_json(given_)


def test_reasons_survive_json():
    given_ = advice(counts=(100, 2500))
    assert from_json(Advice, json.loads(json.dumps(to_json(given_)))).reasons == given_.reasons
