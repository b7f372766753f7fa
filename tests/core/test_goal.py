"""Goals and durations as people write them."""

from __future__ import annotations

import re
from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convwise.core.clock import Clock, parse_duration, process_age
from convwise.core.goal import Cheapest, Goal, Limit, parse_goal
from convwise.core.problems import UnusableInput
from convwise.core.records import from_json, to_json
from convwise.core.score import Score

# What each suffix means, written out once more: (metric as written, its name, suffix, factor).
UNITS = [
    ("params", "params", "", 1), ("params", "params", "k", 1000), ("parameters", "params", "M",
    1_000_000),
    ("macs", "macs", "K", 1000), ("macs", "macs", "M", 10**6), ("MACs", "macs", "G", 10**9),
    ("latency", "latency_ms", "ms", 1), ("latency", "latency_ms", "us", Decimal("0.001")),
    ("latency_ms", "latency_ms", "", 1), ("Latency", "latency_ms", "s", 1000),
    ("activations", "activation_bytes", "kB", 1000), ("activation_bytes", "activation_bytes", "KiB",
    1024),
    ("activations", "activation_bytes", "MB", 10**6), ("activation_bytes", "activation_bytes",
    "MiB", 1024**2),
]  # fmt: skip
numbers = st.decimals("0.001", "99999", places=3, allow_nan=False)
spaces = st.sampled_from(("", " ", "  "))


limits = st.tuples(st.sampled_from(UNITS), numbers, st.sampled_from(("<", "<=")), spaces)


@given(st.lists(limits, min_size=1, max_size=4), st.sampled_from((" and ", ", ", " , ")))
def test_limits_mean_what_is_written(rows, joint):
    written = [f"{u[0]}{gap}{sign}{gap}{number:f}{gap}{u[2]}" for u, number, sign, gap in rows]
    goal = parse_goal("accuracy where " + joint.join(written))
    assert [limit.metric for limit in goal.limits] == [u[1] for u, *_ in rows]
    for limit, (u, number, *_) in zip(goal.limits, rows, strict=True):
        assert limit.at_most == pytest.approx(float(number * u[3]), rel=1e-12)


def test_the_examples():
    goal = parse_goal("accuracy where latency<2ms and macs<5M and params<100k")
    assert goal.limits == (Limit("latency_ms", 2.0), Limit("macs", 5e6), Limit("params", 1e5))
    assert goal.text == "accuracy where latency<2ms and macs<5M and params<100k"
    assert parse_goal(" accuracy ") == Goal()
    assert parse_goal("Accuracy WHERE latency<2ms AND macs<5M").limits == (
        Limit("latency_ms", 2.0),
        Limit("macs", 5e6),
    )
    assert parse_goal("accuracy where params<1.5e3").limits == (Limit("params", 1500.0),)


BAD_GOALS = {
    "speed": "speed", "": "asks for", "accuracy where": "no limit after",
    "accuracy where size<3": "size",
    "accuracy where params<": "params<", "accuracy where params>3": "params>3",
    "accuracy where params<0": "above 0",
    "accuracy where params<3 parsecs": "parsecs", "accuracy where latency<2M": "M",
    "accuracy where params<-3": "-3",
    "accuracy where macs<5M or params<3": "or", "accuracy params<3": "accuracy params<3",
    "accuracy where params<3 and": None,
}  # fmt: skip


@pytest.mark.parametrize(("text", "named"), [(t, n) for t, n in BAD_GOALS.items() if n])
def test_bad_goals_say_what_is_not_understood(text, named):
    with pytest.raises(UnusableInput) as caught:
        parse_goal(text)
    assert caught.value.exit_code == 2
    assert "--goal" in str(caught.value)
    assert named in str(caught.value)
    assert caught.value.problem.expected


@pytest.mark.parametrize("number", ["1.2.3", ".", "1..2"])
def test_bad_numbers_are_refused(number):
    with pytest.raises(UnusableInput):
        parse_goal(f"accuracy where params<{number}")


@given(st.text(max_size=40))
def test_no_text_crashes(text):
    with suppress(UnusableInput):
        goal = parse_goal(text)
        assert (goal.maximise == "accuracy") == (goal.cheapest is None)


@pytest.mark.parametrize(
    "text", ["balanced_accuracy", "Balanced accuracy", "balanced-accuracy where params<50k"]
)
def test_classes_can_count_alike(text):
    goal = parse_goal(text)
    assert (goal.score, goal.maximise, goal.text) == (
        "balanced_accuracy",
        "balanced_accuracy",
        text,
    )
    assert goal.limits == ((Limit("params", 5e4),) if "params" in text else ())
    assert parse_goal("macro_f1").score == "macro_f1"
    assert from_json(Goal, to_json(goal)) == goal
    with pytest.raises(UnusableInput, match="macro F1, and names one to keep"):
        parse_goal("macro_f1 where balanced_accuracy>=0.9")


def test_excess_is_the_ratio_of_what_is_over():
    goal = parse_goal("accuracy where params<100 and macs<1k")
    assert goal.excess({"params": 250, "macs": 1000}) == {"params": 2.5}
    assert goal.excess({"params": 100}) == {}
    assert goal.excess({"macs": 3000}) == {"macs": 3.0}


def test_the_stricter_of_two_limits_counts():
    assert parse_goal("accuracy where params<50 and params<100").excess({"params": 75}) == {
        "params": 1.5
    }


# --- the cheapest network that keeps an accuracy -------------------------------------------------

CHEAP = {
    "macs where accuracy>=0.97": Cheapest("macs", 0.97),
    "MACs WHERE Accuracy > 97 %": Cheapest("macs", 0.97),
    "params where accuracy>=.5": Cheapest("params", 0.5),
    "latency where accuracy>=97.5%": Cheapest("latency_ms", 0.975),
    "activation_bytes where accuracy>=best": Cheapest("activation_bytes", None),
    "macs where accuracy >= best - 0.005": Cheapest("macs", None, 0.005),
    "macs where accuracy>=best-0.3%": Cheapest("macs", None, 0.003),
    "cheapest": Cheapest("macs", None, 0.003),
    "cheapest where accuracy>=97%": Cheapest("macs", 0.97),
    "cheapest where balanced_accuracy>=97%": Cheapest("macs", 0.97, score="balanced_accuracy"),
    "params where Macro_F1>=best-1%": Cheapest("params", None, 0.01, "macro_f1"),
}


@pytest.mark.parametrize("text", CHEAP)
def test_the_cheapest_that_keeps_an_accuracy(text):
    found, meant = parse_goal(text), CHEAP[text]
    assert (found.text, found.limits, found.maximise) == (text, (), "")
    assert found.cheapest == Cheapest(meant.metric,
                                      meant.accuracy and pytest.approx(meant.accuracy),
                                      pytest.approx(meant.within), meant.score)  # fmt: skip
    assert found.score == meant.score


def test_limits_stand_beside_the_accuracy_to_keep():
    goal = parse_goal("macs where params<100k and accuracy>=97% and latency<2ms")
    assert goal.limits == (Limit("params", 1e5), Limit("latency_ms", 2.0))
    assert goal.cheapest.accuracy == pytest.approx(0.97)
    assert goal.excess({"params": 2e5, "macs": 1e12}) == {"params": 2.0}
    assert parse_goal("cheapest where params<100k").limits == (Limit("params", 1e5),)


def test_what_is_to_be_kept():
    assert Cheapest("macs", 0.97).floor(best=0.5) == 0.97
    assert Cheapest("macs", None, 0.003).floor(best=0.99) == pytest.approx(0.987)


def test_a_goal_of_cost_is_kept_as_json():
    goal = parse_goal("macs where accuracy>=97% and params<100k")
    assert from_json(Goal, to_json(goal)) == goal


BAD_CHEAP = {
    "macs": "no accuracy", "latency where params<3": "no accuracy",
    "macs where accuracy>=97": "accuracy>=97",
    "macs where accuracy>=100%": "100%", "macs where accuracy>=150%": "150%",
    "macs where accuracy>=0": ">=0",
    "macs where accuracy<=0.9": "<=0.9", "macs where accuracy": "'accuracy'",
    "macs where accuracy>=-0.3": "-0.3",
    "macs where accuracy>=best+1%": "best+1%", "macs where accuracy>=best 1%": "best 1%",
    "macs where accuracy>=best-": "best-", "macs where accuracy>=best-30": "best-30",
    "macs where accuracy>=0.9 and accuracy>=0.8": "two",
    "accuracy where accuracy>=0.9": "one to keep",
    "speed where accuracy>=0.9": "speed", "cheapest where": "no limit after",
}  # fmt: skip


@pytest.mark.parametrize("text", BAD_CHEAP)
def test_every_fix_works_when_it_is_typed(text):
    with pytest.raises(UnusableInput) as caught:
        parse_goal(text)
    assert BAD_CHEAP[text] in str(caught.value)
    fixes = re.findall("'([^']*)'", caught.value.problem.fix)
    assert fixes
    for fix in fixes:
        parse_goal(fix)


@given(st.integers(0, 9), st.integers(0, 90), st.integers(0, 90), st.sampled_from(("", " ")))
def test_durations(hours, minutes, seconds, gap):
    total = 3600 * hours + 60 * minutes + seconds
    text = gap.join(f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (seconds, "s")) if n)
    if total >= 20:
        assert parse_duration(text) == total
        assert parse_duration(float(total)) == total
        assert parse_duration(text.upper()) == total
    elif text:
        with pytest.raises(UnusableInput, match="at least 20 s"):
            parse_duration(text)


def test_durations_as_people_write_them():
    assert [parse_duration(t) for t in ("90s", "10m", "1h30m", "45", 30, "1.5m")] == [
        90,
        600,
        5400,
        45,
        30,
        90,
    ]


@pytest.mark.parametrize(
    "text", ["", "soon", "10 parsecs", "-5m", "5s", "m", "1e3", "10m!", "nan", "inf", "0"]
)
def test_bad_durations(text):
    with pytest.raises(UnusableInput) as caught:
        parse_duration(text)
    assert "--budget" in str(caught.value)
    assert caught.value.problem.expected


def test_the_clock_shares_a_budget_out():
    import time

    clock = Clock(100.0, time.monotonic() - 30)
    assert clock.elapsed == pytest.approx(30, abs=0.5)
    assert clock.until(0.5) == pytest.approx(20, abs=0.5)
    assert clock.until(0.1) == 0
    assert process_age() > 0.05


# --- of numbers, an error -------------------------------------------------------------------------


def test_a_goal_of_numbers_is_an_error():
    assert parse_goal(None, "error") == parse_goal("error", "error")
    goal = parse_goal("error where latency<2ms and params<100k", "error")
    assert (goal.maximise, len(goal.limits), goal.cheapest) == ("error", 2, None)
    assert goal.score == parse_goal("cheapest", "error").score == "error"


@pytest.mark.parametrize(("text", "best", "kept"), [
    ("macs where error<=3.5", 2.0, 3.5),
    ("macs where error < best", 2.0, 2.0),
    ("params where error<=best+10%", 2.0, 2.2),
    ("cheapest", 2.0, 2.06),
])  # fmt: skip
def test_the_error_to_keep(text, best, kept):
    told = Score("error", 8.0)
    cheapest = parse_goal(text, "error").cheapest
    assert told.value(cheapest.floor(told.score(best), told)) == pytest.approx(kept)


def test_an_error_is_missed_only_where_it_is_given_as_a_number():
    assert parse_goal("macs where error<=3.5", "error").cheapest.missed(3.6)
    assert not parse_goal("macs where error<=3.5", "error").cheapest.missed(3.4)
    assert not parse_goal("cheapest", "error").cheapest.missed(99.0)


@pytest.mark.parametrize(("text", "scored", "said"), [
    ("accuracy", "error", "--goal error"),
    ("macro F1", "error", "--goal error"),
    ("macs where balanced_accuracy>=90%", "error", "error<=3.5"),
    ("macs where accuracy>=90%", "error", "error<=3.5"),
    ("macs where error<=3.5", "accuracy", "--task regress"),
    ("macs where error<=0", "error", "error<=best+3%"),
    ("macs where error>=3", "error", "error<=3.5"),
    ("macs", "error", "macs where error<=3.5"),
    ("error where error<=3", "error", "macs where error<=3.5"),
])  # fmt: skip
def test_a_goal_of_another_score_is_refused_with_one_that_works(text, scored, said):
    with pytest.raises(UnusableInput, match=re.escape(said)):
        parse_goal(text, scored)
