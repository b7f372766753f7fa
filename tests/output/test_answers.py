"""The answer on the first screen: what the cards claim, what `check` says of the choice, words that
are explained.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from convwise.advice.situation import DECIDERS
from convwise.core import layers as L
from convwise.core.check import findings
from convwise.core.net import Net
from convwise.core.records import Effect, Measure, Reason
from convwise.inspect.checking import scale_of
from convwise.output import answers, report, words
from made_evidence import evidence

SAMPLE = {
    "stem.strides": 2, "stem.kernel_size": 3, "stage.kernel_size": 3, "stage.filters": 16,
    "stage.widening": 4,
    "stage.count": 3, "stage.convs": 2, "padding": "same", "activation": "relu",
    "downsampling": "MaxPooling2D",
    "normalization": "BatchNormalization", "head": "GlobalMaxPooling2D",
}  # fmt: skip
GIVEN = (
    *(
        Reason(name, value, f"{name} is so.", "literature")
        for name, value in SAMPLE.items()
        if name != "stem.strides"
    ),
    Reason("stem.strides", 2, "half the detail is enough", "resolution_sensitivity"),
)


def effect(parameter: str, before: object, after: object, change: float = -0.01) -> Effect:
    return Effect(
        parameter,
        before,
        after,
        change,
        change - 0.01,
        change + 0.01,
        1.0,
        "not resolved",
        seconds=8.0,
    )


def by_title(
    told: tuple[Effect, ...] = (), given: tuple[Reason, ...] = GIVEN, configuration: dict = SAMPLE
) -> dict:
    return {card.title: card for card in answers.cards(given, told, configuration)}


def test_every_question_has_a_card_and_what_people_ask_comes_first():
    assert list(by_title()) == [
        "Kernel size", "Filters", "Stride", "Padding", "Activation", "Depth", "Pooling",
        "Normalisation", "Head"
    ]  # fmt: skip


def test_values_are_said_as_a_person_says_them():
    values = {title: card.value for title, card in by_title().items()}
    assert values["Kernel size"] == "3×3"
    assert values["Filters"] == "16, 4 times that in later stages"
    assert values["Stride"] == "2 in the stem, then 1"
    assert values["Depth"] == "3 stages of 2 convolutions"
    other = by_title(
        configuration={
            **SAMPLE,
            "stem.kernel_size": 2,
            "stage.widening": 2,
            "stem.strides": 1,
            "stage.count": 1,
        }
    )
    assert other["Kernel size"].value == "3×3, stem 2×2"
    assert other["Filters"].value == "16, doubled in each stage"
    assert other["Stride"].value == "1"
    assert other["Depth"].value == "1 stage of 2 convolutions"


@pytest.mark.parametrize("measure", [*DECIDERS, "alignment", "discriminative_scale"])
def test_a_tag_claims_no_more_than_was_done(measure):
    given = tuple(replace(reason, measure=measure) for reason in GIVEN)
    untested = by_title(given=given)
    measured = ("mean", "variance", "pace", "alignment", "discriminative_scale")
    taken = measure not in measured  # counts and sizes are no measurement of what the images show
    assert {card.tag for card in untested.values()} == {"convention" if taken else "measured"}
    assert all("your images" not in card.tagged for card in untested.values()) == (
        taken or measure == "pace"
    )
    tested = by_title((effect("padding", "same", "valid"), effect("stage.convs", 2, 1)), given)
    assert {title for title, card in tested.items() if card.tag == "tested"} == {"Padding", "Depth"}


def test_what_the_size_of_the_images_decides_is_told_so():
    given = tuple(replace(reason, measure="input_shape") for reason in GIVEN)
    told = {title: card.tagged for title, card in by_title(given=given).items()}
    assert told["Stride"] == told["Depth"] == "convention, set by the size of the images"


@pytest.mark.parametrize(
    ("title", "changed", "tagged"),
    [
        (
            "Kernel size",
            (("stem.kernel_size", 3, 5),),
            "tested on your images (the kernel of the first layer)",
        ),
        (
            "Kernel size",
            (("stage.kernel_size", 3, 5),),
            "tested on your images (the kernel inside the stages)",
        ),
        (
            "Kernel size",
            (("stage.kernel_size", 3, 5), ("stem.kernel_size", 3, 5)),
            "tested on your images",
        ),
        (
            "Filters",
            (("stage.filters", 16, 24),),
            "tested on your images (the filters of the first stage)",
        ),
        ("Depth", (("stage.convs", 2, 1),), "tested on your images (the convolutions of a stage)"),
        ("Padding", (("padding", "same", "valid"),), "tested on your images"),
    ],
)
def test_a_card_says_which_part_of_it_was_tested(title, changed, tagged):
    card = by_title(tuple(effect(*change) for change in changed))[title]
    assert (card.tag, card.tagged) == ("tested", tagged)


def test_only_changes_of_the_chosen_value_count_as_tested():
    told = (effect("activation", "silu", "gelu"), effect("padding", "valid", "same", 0.02))
    found = by_title(told)
    assert found["Activation"].tag == "convention"
    assert found["Padding"].tried == (
        "same instead of valid: +2.0 points (+1.0 to +3.0) after 8 s of training, not resolved",
    )


def test_equal_changes_of_two_parameters_are_told_apart():
    told = (effect("stage.convs", 2, 3), effect("stage.count", 2, 3))
    tried = by_title(told)["Depth"].tried
    assert [each.partition(":")[0] for each in tried] == [
        "3 instead of 2 (stage.convs)",
        "3 instead of 2 (stage.count)",
    ]
    assert by_title(told[:1])["Depth"].tried[0].startswith("3 instead of 2: ")


def test_a_verdict_about_the_end_stands_beside_what_is_expected_there():
    """'-0.8 points (-1.8 to +0.3), no difference' would contradict itself."""
    early = replace(effect("padding", "valid", "same", -0.008), verdict="no difference")
    faded = replace(early, low=-0.018, high=0.003, expected_low=-0.003, expected_high=0.0027)
    assert by_title((faded,))["Padding"].tried == (
        "same instead of valid: −0.8 points (−1.8 to +0.3) after 8 s of training; at its end"
        " −0.3 to +0.3: no difference",
    )


def test_what_is_sure_early_and_open_at_the_end_is_told_so():
    """'+2.0 points (+1.0 to +3.0), not resolved' would contradict itself."""
    early = replace(
        effect("padding", "valid", "same", 0.02), expected_low=-0.01, expected_high=0.02
    )
    (told,) = by_title((early,))["Padding"].tried
    assert told.endswith(
        "(+1.0 to +3.0) after 8 s of training, too early to tell what it is worth at the end"
    )


def test_the_last_word_on_a_change_is_told():
    found = by_title(
        (effect("padding", "same", "valid", -0.05), effect("padding", "same", "valid", 0.0))
    )
    assert len(found["Padding"].tried) == 1
    assert "+0.0 points" in found["Padding"].tried[0]


def test_a_sample_without_these_parameters_has_no_cards():
    assert answers.cards(GIVEN, (), {"width": 3}) == []


def deep(last: int) -> Net:
    """Its last convolution reads maps whose px already see the whole image."""
    convs = [
        layer for _ in range(last) for layer in (L.Conv2D(4, 3, padding="same"), L.MaxPooling2D(2))
    ]
    return Net(
        (16, 16, 1), (*convs, L.Conv2D(4, 3, padding="same"), L.GlobalMaxPooling2D(), L.Dense(2))
    )


FACTS = evidence().fingerprint  # patches of 5 px of 64 tell its classes apart


def test_every_warning_of_check_is_answered():
    known = answers.second_thoughts(deep(3), FACTS, (), SAMPLE)
    assert [row["where"] for row in known] == ["conv2d_3"] * len(known)
    (row,) = [row for row in known if "predicted to add nothing" in row["what"]]
    assert row["rule"] == "past the border layer"
    there = "at the end of trainings of other sets (benchmarks/effects.md)"
    ranges = (
        "stage.convs 1 instead of 2: −4.0 to +0.1 points on 7 sets; stage.count 2 instead of 3:"
        " −0.8 to +0.3"
    )
    assert row["answer"] == f"{there}: {ranges} points on 7 sets"
    # More would not mend it
    told = effect("stage.convs", 2, 1, 0.011), effect("stage.convs", 2, 3, 0.05)
    tested = answers.answer(row["rule"], told, SAMPLE)
    here = (
        "tested on these images: stage.convs 1 instead of 2: +1.1 points (+0.1 to +2.1) after 8 s"
        " of training"
    )
    assert tested == f"{here}, not resolved; {row['answer']}"
    assert answers.second_thoughts(deep(1), FACTS, (), SAMPLE) == []


def test_a_warning_is_answered_only_by_what_would_mend_it():
    shrinks = answers.answer(
        "width shrinks", (effect("stage.filters", 16, 24), effect("stage.filters", 16, 12)), SAMPLE
    )
    assert "24 instead of 16" in shrinks
    assert "12 instead of 16" not in shrinks
    turned = answers.answer("past the border layer", (effect("stage.convs", 1, 2, 0.02),), SAMPLE)
    assert turned.startswith("tested on these images: stage.convs 2 instead of 1: +2.0")


def test_what_nobody_measured_is_said_not_to_be_tested():
    for rule in ("border lost", "heavy head"):
        assert answers.answer(rule, (effect("stage.convs", 2, 1),), SAMPLE).startswith(
            "not tested; `convwise measure`"
        )
    # Of 16 filters nobody measured more
    assert answers.answer("width shrinks", (), SAMPLE).startswith("not tested")
    assert "64" not in answers.answer(
        "past the border layer", (), {**SAMPLE, "stage.convs": 3, "stage.count": 4}
    )


def test_what_changes_were_worth_elsewhere_is_what_the_benchmark_says():
    text = (Path(__file__).parents[2] / "benchmarks" / "effects.md").read_text()
    table = text.split("| parameter | change |")[1].split("\n\n")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]
    ]
    mends = {mend for warned in answers.WARNED.values() for mend in warned.mends}
    measured = {}
    for name, changed, _, *sets in cells:
        if name in {parameter for parameter, _ in mends}:
            before, after = map(int, changed.split(" to "))
            points = [float(each) for each in sets if each]
            if (name, 1 if after > before else -1) in mends:
                measured[name, before, after] = (min(points), max(points), len(points))
    assert len(measured) > 5
    assert measured == answers.ELSEWHERE


def test_what_check_says_of_the_measured_scale_is_answered_as_well():
    """`check DIR --images` knows how many px tell the classes apart, and warned of what the report
    was silent on.
    """
    net = Net((64, 64, 3), (L.Conv2D(4, 3, padding="same"), L.GlobalMaxPooling2D(), L.Dense(2)))
    wide = replace(FACTS, measures=(Measure("discriminative_scale", 9, "px", "made up", 7, 13),))
    warned = {f.problem.what for f in findings(net, scale_px=scale_of(wide, net.input_shape))}
    (said,) = [what for what in warned if "less than the 9 px" in what]
    rows = answers.second_thoughts(net, wide, (), SAMPLE)
    assert said in {row["what"] for row in rows}
    # Without images as well
    assert len([row for row in rows if row["rule"] == "field too small"]) == 2
    resized = replace(wide, shape=(128, 128, 3))
    assert scale_of(resized, (64, 64, 3)) == pytest.approx(4.5)


def test_bars_hold_what_is_known():
    rows = report.bars(replace(evidence(), estimate={**evidence().estimate, "baseline": 0.2}))
    assert [row["name"] for row in rows][:: len(rows) - 1] == [
        "always the largest class",
        "this network",
    ]
    assert rows[-1]["low"] <= rows[-1]["share"] <= rows[-1]["high"]
    assert report.bars(replace(evidence(), estimate={"n": 0})) == [
        row for row in rows if "probe" in row["name"]
    ]


def test_a_word_is_explained_once_and_nothing_slips_through_unescaped():
    told = words.explained("The stem and the stages: <b>stem</b>, a system & macs")
    assert told.count("<abbr") == 3
    assert told.startswith(f'The <abbr title="{words.GLOSSARY["stem"]}">stem</abbr> and the <abbr')
    assert "&lt;b&gt;stem&lt;/b&gt;, a system &amp; <abbr" in told
