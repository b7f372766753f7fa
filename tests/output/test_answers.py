"""The answer on the first screen: what the cards claim, what `check` says of the choice, words that are explained."""

from __future__ import annotations

from dataclasses import replace

import pytest

from convwise.core import layers as L
from convwise.core.net import Net
from convwise.core.records import Effect, Reason
from convwise.output import answers, report, words
from made_evidence import evidence

SAMPLE = {
    "stem.strides": 2, "stem.kernel_size": 3, "stage.kernel_size": 3, "stage.filters": 16, "stage.widening": 4,
    "stage.count": 3, "stage.convs": 2, "padding": "same", "activation": "relu", "downsampling": "MaxPooling2D",
    "normalization": "BatchNormalization", "head": "GlobalMaxPooling2D",
}  # fmt: skip
GIVEN = (
    *(Reason(name, value, f"{name} is so.", "literature") for name, value in SAMPLE.items() if name != "stem.strides"),
    Reason("stem.strides", 2, "half the detail is enough", "resolution_sensitivity"),
)


def effect(parameter: str, before: object, after: object, change: float = -0.01) -> Effect:
    return Effect(parameter, before, after, change, change - 0.01, change + 0.01, 1.0, "not resolved", seconds=8.0)


def by_title(told: tuple[Effect, ...] = (), given: tuple[Reason, ...] = GIVEN, configuration: dict = SAMPLE) -> dict:
    return {card.title: card for card in answers.cards(given, told, configuration)}


def test_every_question_has_a_card_and_what_people_ask_comes_first():
    assert list(by_title()) == [
        "Kernel size", "Filters", "Stride", "Padding", "Activation", "Depth", "Pooling", "Normalisation", "Head"
    ]  # fmt: skip


def test_values_are_said_as_a_person_says_them():
    values = {title: card.value for title, card in by_title().items()}
    assert values["Kernel size"] == "3×3"
    assert values["Filters"] == "16, 4 times that in later stages"
    assert values["Stride"] == "2 in the stem, then 1"
    assert values["Depth"] == "3 stages of 2 convolutions"
    other = by_title(
        configuration={**SAMPLE, "stem.kernel_size": 2, "stage.widening": 2, "stem.strides": 1, "stage.count": 1}
    )
    assert other["Kernel size"].value == "3×3, stem 2×2"
    assert other["Filters"].value == "16, doubled in each stage"
    assert other["Stride"].value == "1"
    assert other["Depth"].value == "1 stage of 2 convolutions"


@pytest.mark.parametrize("measure", [*answers.RESTS_ON, "images", "alignment", "input_shape"])
def test_a_tag_claims_no_more_than_was_done(measure):
    given = tuple(replace(reason, measure=measure) for reason in GIVEN)
    untested = by_title(given=given)
    taken = measure in ("literature", "findings", "trials", "goal")
    assert {card.tag for card in untested.values()} == {"convention" if taken else "measured"}
    assert all("your images" not in card.tagged for card in untested.values()) == (taken or measure == "pace")
    tested = by_title((effect("padding", "same", "valid"), effect("stage.convs", 2, 1)), given)
    assert {title for title, card in tested.items() if card.tag == "tested"} == {"Padding", "Depth"}


def test_only_changes_of_the_chosen_value_count_as_tested():
    told = (effect("activation", "silu", "gelu"), effect("padding", "valid", "same", 0.02))
    found = by_title(told)
    assert found["Activation"].tag == "convention"
    assert found["Padding"].tried == (
        "same instead of valid: +2.0 points (+1.0 to +3.0) after 8 s of training, not resolved",
    )


def test_what_is_sure_early_and_open_at_the_end_is_told_so():
    """'+2.0 points (+1.0 to +3.0), not resolved' would contradict itself."""
    early = replace(effect("padding", "valid", "same", 0.02), expected_low=-0.01, expected_high=0.02)
    (told,) = by_title((early,))["Padding"].tried
    assert told.endswith("(+1.0 to +3.0) after 8 s of training, too early to tell what it is worth at the end")


def test_the_last_word_on_a_change_is_told():
    found = by_title((effect("padding", "same", "valid", -0.05), effect("padding", "same", "valid", 0.0)))
    assert len(found["Padding"].tried) == 1
    assert "+0.0 points" in found["Padding"].tried[0]


def test_a_sample_without_these_parameters_has_no_cards():
    assert answers.cards(GIVEN, (), {"width": 3}) == []


def deep(last: int) -> Net:
    """Its last convolution reads maps whose px already see the whole image."""
    convs = [layer for _ in range(last) for layer in (L.Conv2D(4, 3, padding="same"), L.MaxPooling2D(2))]
    return Net((16, 16, 1), (*convs, L.Conv2D(4, 3, padding="same"), L.GlobalMaxPooling2D(), L.Dense(2)))


def test_every_warning_of_check_is_answered():
    known = answers.second_thoughts(deep(3), (), SAMPLE)
    assert [row["where"] for row in known] == ["conv2d_3"] * len(known)
    assert any("predicted to add nothing" in row["what"] and "2.4" in row["answer"] for row in known)
    told = (effect("stage.convs", 2, 1, 0.011),)
    tested = answers.second_thoughts(deep(3), told, SAMPLE)
    assert any(row["answer"].startswith("tested on these images: stage.convs 1 instead of 2: +1.1") for row in tested)
    assert answers.second_thoughts(deep(1), (), SAMPLE) == []


def test_bars_hold_what_is_known():
    rows = report.bars(replace(evidence(), estimate={**evidence().estimate, "baseline": 0.2}))
    assert [row["name"] for row in rows][:: len(rows) - 1] == ["always the largest class", "this network"]
    assert rows[-1]["low"] <= rows[-1]["share"] <= rows[-1]["high"]
    assert report.bars(replace(evidence(), estimate={"n": 0})) == [row for row in rows if "probe" in row["name"]]


def test_a_word_is_explained_once_and_nothing_slips_through_unescaped():
    told = words.explained("The stem and the stages: <b>stem</b>, a system & macs")
    assert told.count("<abbr") == 3
    assert told.startswith(f'The <abbr title="{words.GLOSSARY["stem"]}">stem</abbr> and the <abbr')
    assert "&lt;b&gt;stem&lt;/b&gt;, a system &amp; <abbr" in told
