"""A score, told as accuracy or as an error, and what a net says of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convwise.core.layers import Conv2D, Dense, GlobalAveragePooling2D, Rescaling
from convwise.core.net import Net
from convwise.core.records import Effect, Result, Trial, from_json, to_json
from convwise.core.score import ACCURACY, Score, numbers_of, resolution, score_of
from studies import TARGET, wide_space

DEGREES = Score("error", 50.0)


def test_an_accuracy_is_its_score():
    assert ACCURACY.value(0.973) == ACCURACY.score(0.973) == 0.973
    assert (ACCURACY.told(0.973), ACCURACY.moved(0.021), ACCURACY.unit) == (
        "97.3 %",
        "+2.1",
        " points",
    )
    assert ACCURACY.span(-0.004, 0.012) == "-0.4 to +1.2"


@pytest.mark.parametrize(("score", "words"), [
    (ACCURACY, "accuracy"), (Score("balanced_accuracy"), "balanced accuracy"), (Score("macro_f1"),
    "macro F1"),
    (DEGREES, "mean absolute error"),
])  # fmt: skip
def test_a_score_has_a_name_in_a_sentence(score, words):
    assert score.words == words


def test_a_score_that_counts_every_class_alike_is_told_in_points():
    told = score_of(Net((8, 8, 1), (Conv2D(1, 3), GlobalAveragePooling2D())), "macro_f1")
    assert told.name == "macro_f1"
    assert (told.told(0.5), told.moved(-0.02), told.unit, told.is_error) == (
        "50.0 %",
        "-2.0",
        " points",
        False,
    )


def test_an_error_is_told_in_the_unit_of_the_target_and_falls_where_the_score_rises():
    assert DEGREES.value(1.0) == 0
    assert DEGREES.value(0.9) == pytest.approx(5.0)
    assert (DEGREES.told(0.9), DEGREES.moved(0.01), DEGREES.moved(-0.01)) == ("5", "-0.5", "+0.5")
    assert DEGREES.span(-0.02, 0.04) == "-2 to +1"
    assert DEGREES.told(None) == "–"


@given(st.floats(-3, 1), st.floats(1e-3, 1e6))
def test_a_value_says_its_score(score, deviation):
    told = Score("error", deviation)
    assert told.score(told.value(score)) == pytest.approx(score, abs=1e-9)
    assert told.value(score) + told.change(0.1) == pytest.approx(
        told.value(score + 0.1), rel=1e-6, abs=1e-9
    )


def test_a_net_that_ends_in_a_unit_answers_a_number():
    configuration = {"input.size": "24x24", "block": "plain", "stem": "learned"}
    space = wide_space(target=TARGET)
    grown = space.fit({**{c.name: c.values[0] for c in space.hyperparameters}, **configuration}).net
    assert [layer.op for layer in grown.layers[-2:]] == ["Dense", "Rescaling"]
    assert (numbers_of(grown).scale, numbers_of(grown).offset) == (
        (TARGET.deviations[0],),
        (TARGET.means[0],),
    )
    assert score_of(grown) == score_of(grown, "error") == Score("error", TARGET.deviations[0])
    assert resolution(grown) == pytest.approx((1e-3 * TARGET.deviations[0],), rel=1e-3)


@pytest.mark.parametrize("last", [
    (Dense(3, activation="softmax"),), (Dense(1),), (Dense(2), Rescaling(2.0)), (Rescaling(2.0),)
])  # fmt: skip
def test_other_nets_have_an_accuracy(last):
    net = Net((8, 8, 1), (Conv2D(1, 3), GlobalAveragePooling2D(), *last))
    assert numbers_of(net) is None
    assert score_of(net) == ACCURACY


def test_a_result_counts_its_errors_in_deviations():
    net = Net((8, 8, 1), (GlobalAveragePooling2D(), Dense(1), Rescaling(4.0, 7.0)))
    result = Result(
        Trial("t", "race", {}, net), "done", 0.5, errors=(1.0, 3.0), mirrored_errors=(0.0, 4.0)
    )
    assert result.outcomes == (0.75, 0.25)
    assert result.views == ((1.0,), (0.0,))
    assert result.told == "2"
    assert from_json(Result, to_json(result)) == result


def test_an_effect_keeps_how_it_is_told():
    effect = Effect("padding", "same", "valid", 0.02, 0.01, 0.03, 1.0, "matters", score=DEGREES)
    assert (effect.moved, effect.span) == ("-1", "-1.5 to -0.5")
    assert from_json(Effect, to_json(effect)) == effect
