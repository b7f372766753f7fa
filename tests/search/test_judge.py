"""The judge: the leader is chosen, a change takes its place only where that is sure, effects are of
equal time.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from convwise.core.intervals import difference, wilson
from convwise.core.problems import Infeasible
from convwise.core.records import Advice, Point, Result
from convwise.evidence.paired import known_run_variance, paired_difference
from convwise.search import race
from convwise.search.judge import at_the_end, judge, raced_effects
from studies import advice, answers, failed, nth_net, scored, segment

GIVEN = advice(shape=(24, 24, 1), counts=(300, 300))
TWIN = {**GIVEN.configuration, race.FLIP: True}
GOOD, FLAT = answers(0.8, 1000), answers(0.2, 1000)


def edited(**changes) -> dict:
    """The advised sample with changes; '__' stands for a dot."""
    return {
        **GIVEN.configuration,
        **{name.replace("__", "."): value for name, value in changes.items()},
    }


def flipped(correct: str, lost: int, won: int) -> str:
    """Other answers: so many right ones wrong, so many wrong ones right, from the front."""
    for old, new, count in (("1", "x", lost), ("0", "1", won)):
        correct = correct.replace(old, new, count)
    return correct.replace("x", "0")


def answered(
    configuration, correct: str, number: int = 1, given_: Advice = GIVEN, **fields
) -> Result:
    """A part with these answers; its steps take as long as any other's."""
    share = correct.count("1") / len(correct)
    return segment(
        given_,
        configuration,
        number,
        score=share,
        correct=correct,
        **{"images_per_second": 1e3, **fields},
    )


def leader(parts: int = 2, correct: str = GOOD, **fields) -> list[Result]:
    return [
        answered(GIVEN.configuration, correct, number, **fields) for number in range(1, parts + 1)
    ]


# --- which net -----------------------------------------------------------------------------------


def test_the_longest_part_of_the_leader_is_chosen_however_far_ahead_others_are_early():
    ahead = answered(edited(stem__strides=2), flipped(GOOD, 0, 150), images_per_second=4e3)
    verdict = judge(GIVEN, [*leader(3), ahead])
    assert verdict.chosen.trial.configuration == GIVEN.configuration
    assert verdict.chosen.trial.span[0] == pytest.approx(0.2)
    assert "none of the 1 changes" in verdict.reasons[0].because
    (effect,) = verdict.effects
    # The effect is told, but not followed
    assert (effect.verdict, effect.accuracy_change) == ("not resolved", pytest.approx(0.15))


def test_where_the_advised_net_does_not_learn_a_change_that_does_is_chosen():
    better = edited(activation="relu")
    verdict = judge(GIVEN, [*leader(correct=FLAT), answered(better, GOOD, images_per_second=990.0)])
    assert verdict.chosen.trial.configuration == better
    (reason,) = verdict.reasons
    assert "activation relu instead of gelu" in reason.because
    assert "60.0 points ahead after 5 s" in reason.because
    assert reason.value == verdict.chosen.trial.net.id


def test_a_change_that_is_a_little_better_is_not():
    verdict = judge(GIVEN, [*leader(), answered(edited(activation="relu"), flipped(GOOD, 2, 8))])
    assert verdict.chosen.trial.configuration == GIVEN.configuration


def test_counted_epochs_are_not_told_as_no_seconds():
    better = answered(edited(activation="relu"), GOOD, seconds=None)
    verdict = judge(GIVEN, [*leader(correct=FLAT, seconds=None), better])
    assert "after the same number of epochs" in verdict.reasons[0].because
    assert verdict.effects[0].seconds == 0.0


def test_where_nothing_was_tested_that_is_said():
    verdict = judge(GIVEN, leader(1))
    assert verdict.effects == ()
    assert "nothing was tested" in verdict.reasons[0].because


def test_a_leader_that_is_mirrored_is_called_so():
    mirrored = answers(0.9, 100) * 2
    results = [
        r
        for n in (1, 2)
        for r in (
            answered(GIVEN.configuration, GOOD, n, mirrored=mirrored),
            answered(TWIN, GOOD, n),
        )
    ]
    verdict = judge(GIVEN, results)
    assert verdict.chosen.trial.configuration == TWIN
    assert "mirrored" in verdict.reasons[0].because


def test_a_leader_that_will_be_mirrored_is_called_so():
    (alone,) = leader(1, mirrored=answers(0.9, 100) * 2)
    assert "mirrored" in judge(GIVEN, [alone]).reasons[0].because
    assert "mirrored" not in judge(GIVEN, leader(1)).reasons[0].because


def test_where_the_advised_net_failed_another_is_chosen_and_that_is_said():
    broken = [failed(configuration, GIVEN.net) for configuration in (GIVEN.configuration, TWIN)]
    verdict = judge(GIVEN, [*broken, answered(edited(padding="valid"), GOOD)])
    assert verdict.chosen.trial.configuration["padding"] == "valid"
    assert "could not be used; this one, with padding valid" in verdict.reasons[0].because


def test_limits_as_measured_are_never_broken():
    """Params and macs hold by construction; a latency is only predicted until it was measured."""
    limited = advice(
        shape=(24, 24, 1), counts=(300, 300), goal="accuracy where macs<50M and latency<2ms"
    )
    cost = {"macs": 1e6, "params": 10, "activation_bytes": 1.0}
    fast, slow = {**cost, "latency_ms": 1.9}, {**cost, "latency_ms": 2.1}
    mine = [answered(limited.configuration, GOOD, given_=limited, cost=fast)]
    configuration = {**limited.configuration, "activation": "relu"}
    over = answered(configuration, flipped(GOOD, 0, 150), given_=limited, cost=slow)
    verdict = judge(limited, [*mine, over])
    assert verdict.chosen is mine[0]
    assert verdict.alternatives == (mine[0],)
    assert "none of the 1 changes" in verdict.reasons[0].because
    assert (
        judge(
            limited, [replace(mine[0], cost=slow), replace(over, cost=fast)]
        ).chosen.trial.configuration
        == configuration
    )
    with pytest.raises(Infeasible):
        judge(limited, [over])


def test_the_final_training_and_failures_are_no_rivals():
    final = scored(GIVEN.configuration, GIVEN.net, 0.99, "final")
    mine = leader(1)
    assert judge(GIVEN, [*mine, final, failed(TWIN, GIVEN.net)]).chosen is mine[0]
    for results in ([], [final], [failed(GIVEN.configuration, GIVEN.net)]):
        with pytest.raises(Infeasible):
            judge(GIVEN, results)


def test_an_answer_to_an_interrupt_is_chosen_where_there_is_nothing_else():
    answer = segment(GIVEN, GIVEN.configuration, how={"span": race.WHOLE})
    assert judge(GIVEN, [answer]).chosen is answer
    assert judge(GIVEN, [answer, *leader(1)]).chosen.trial.span != race.WHOLE


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=9))
def test_the_pareto_front_is_that_of_a_naive_loop(pairs):
    results = [
        scored({**GIVEN.configuration, "n": i}, nth_net(i), score / 10, cost={"macs": 10.0 * macs,
        "params": 1},
               how={"span": (0.0, 0.1)}, number=i)
        for i, (score, macs) in enumerate(pairs)
    ]  # fmt: skip
    points = {(r.cost["macs"], r.score) for r in results}
    naive = {
        (m, s) for m, s in points if not any(m2 <= m and s2 >= s and (m2, s2) != (m, s) for m2,
        s2 in points)
    }  # fmt: skip
    front = judge(GIVEN, results).alternatives
    assert [(r.cost["macs"], r.score) for r in front] == sorted(naive)


def test_the_front_compares_first_parts_alone():
    """The leader had more time after them: that it is then ahead says nothing against the
    others.
    """
    first, second = (
        answered(GIVEN.configuration, GOOD),
        answered(GIVEN.configuration, "1" * 1000, 2),
    )
    cheap = answered(edited(stem__strides=2), answers(0.7, 1000), cost={"macs": 1.0, "params": 1})
    assert judge(GIVEN, [first, second, cheap]).alternatives == (cheap, first)


# --- what each change was worth ------------------------------------------------------------------


def by_name(results) -> dict:
    return {(e.parameter, e.after): e for e in raced_effects(GIVEN, results)}


def test_effects_are_of_equally_long_trainings_and_say_how_long():
    """The leader's later parts are better, and no measure of a net that was trained for one
    part.
    """
    mine = [
        answered(GIVEN.configuration, answers(score, 1000), n)
        for n, score in ((1, 0.6), (2, 0.8), (3, 0.95))
    ]
    one = answered(edited(padding="valid"), flipped(mine[0].correct, 10, 30))
    two = [answered(TWIN, flipped(mine[n - 1].correct, 50, 0), n) for n in (1, 2)]
    found = by_name([*mine, one, *two])
    assert set(found) == {("padding", "valid"), (race.FLIP, True)}
    assert found["padding", "valid"].accuracy_change == pytest.approx(0.02)
    assert found["padding", "valid"].seconds == 5.0
    assert found[race.FLIP, True].accuracy_change == pytest.approx(-0.05)
    assert found[race.FLIP, True].seconds == 10.0
    assert found[race.FLIP, True].before is False


def test_every_value_that_was_tried_has_its_effect_once():
    tried = [
        answered(edited(activation=value), flipped(GOOD, lost, 0))
        for value, lost in (("relu", 20), ("silu", 90))
    ]
    found = by_name([*leader(1), *tried, tried[0]])
    assert {key: round(e.accuracy_change, 4) for key, e in found.items()} == {
        ("activation", "relu"): -0.02, ("activation", "silu"): -0.09,
    }  # fmt: skip
    assert len(raced_effects(GIVEN, [*leader(1), *tried, tried[0]])) == 2


def test_edits_of_a_mirrored_leader_are_measured_against_it():
    plain, mirrored = leader(2), [answered(TWIN, flipped(GOOD, 0, 60), n) for n in (1, 2)]
    edit = answered({**TWIN, "padding": "valid"}, flipped(GOOD, 0, 20))
    found = by_name([*plain, *mirrored, edit])
    assert found["padding", "valid"].accuracy_change == pytest.approx(-0.04)
    assert set(found) == {(race.FLIP, True), ("padding", "valid")}  # the twin is not told backwards


def test_two_changes_at_once_have_no_effect_of_their_own():
    both = answered(edited(padding="valid", activation="relu"), GOOD)
    assert raced_effects(GIVEN, [*leader(1), both]) == ()


@pytest.mark.parametrize(
    ("images", "told"), [(race.LEAST_IMAGES, True), (race.LEAST_IMAGES - 1, False)]
)
def test_parts_that_saw_too_few_images_are_not_compared(images, told):
    """Where a step is much slower than was predicted; counted epochs are as long as was asked
    for.
    """
    history = (Point(5.0, images, 0.5, 0.8),)
    edit = answered(edited(padding="valid"), flipped(GOOD, 100, 0), history=history)
    assert race.tells(
        [answered(GIVEN.configuration, GOOD, history=history, how={"seconds": None, "epochs": 4})]
    )
    assert bool(raced_effects(GIVEN, [*leader(1), edit])) == told
    assert judge(GIVEN, [*leader(1), edit]).chosen.trial.configuration == GIVEN.configuration


def test_parts_of_unequal_length_are_not_compared():
    """A study that was continued has had another time for each wave."""
    longer = answered(edited(padding="valid"), flipped(GOOD, 100, 0), how={"seconds": 77.0})
    assert raced_effects(GIVEN, [*leader(1), longer]) == ()


def test_time_ratios_are_of_seconds_an_image():
    slow = answered(edited(padding="valid"), GOOD, images_per_second=500.0)
    (effect,) = raced_effects(GIVEN, [*leader(1), slow])
    assert effect.time_ratio == pytest.approx(2.0)


def test_once_the_chosen_net_is_scored_its_mistakes_say_what_can_matter():
    """A change that is one point better after the first part cannot be told then; where a tenth of
    the mistakes is left at the end, it can be no difference. The choice is as it was.
    """
    results = [*leader(1), answered(edited(padding="valid"), flipped(GOOD, 20, 30))]
    verdict = judge(GIVEN, results)
    assert [e.verdict for e in verdict.effects] == ["not resolved"]
    ended = at_the_end(verdict, GIVEN, results, 0.02)
    assert [e.verdict for e in ended.effects] == ["no difference"]
    assert replace(ended, effects=verdict.effects) == verdict
    assert at_the_end(verdict, GIVEN, results, 0.5) == verdict  # as many as early, at most
    of_the_ladder = replace(verdict, chosen=replace(
        verdict.chosen, trial=replace(verdict.chosen.trial, phase="ladder")))  # fmt: skip
    assert at_the_end(of_the_ladder, GIVEN, results, 0.02) == of_the_ladder


@pytest.mark.slow
def test_a_planted_effect_is_found_and_its_absence_is_not():
    """A hundred studies of one change each, over 1,000 examples, trainings as far apart as they
    are taken to be.
    """
    rng = np.random.default_rng(4)
    deviation = known_run_variance(0.2)[0] ** 0.5

    def run(accuracy: float) -> str:
        share = accuracy + rng.normal(0, deviation)
        return "".join("01"[int(right)] for right in rng.random(1000) < share)

    words = {}
    for planted in (0.0, 0.15, -0.6):
        told = [
            raced_effects(
                GIVEN, [*leader(1, run(0.8)), answered(edited(padding="valid"), run(0.8 + planted))]
            )[0]
            for _ in range(100)
        ]
        covered = np.mean([e.low <= planted <= e.high for e in told])
        assert 0.92 <= covered <= 1.0
        words[planted] = np.mean([e.verdict == "matters" for e in told])
    assert words[0.0] <= 0.07
    assert words[-0.6] == 1.0  # it does not learn, and will not at the end
    assert words[0.15] <= 0.07  # an early lead says little of the end


# --- intervals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_that_of_the_published_table(right, n, low, high):
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    assert wilson(right, n) == pytest.approx((low, high), abs=6e-5)
    mirrored = wilson(n - right, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=6e-5)


def test_wilson_of_nothing_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)
    assert difference((0, 0), (3, 4)) == difference((3, 4), (0, 0)) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((6, 7), (2, 7),
    0.0582, 0.8062),
     ((5, 56), (0, 29), -0.0381, 0.1926), ((0, 10), (0, 20), -0.1611, 0.2775), ((0, 10), (0, 10),
     -0.2775, 0.2775),
     ((10, 10), (0, 20), 0.6791, 1.0), ((10, 10), (0, 10), 0.6075, 1.0)],
)  # fmt: skip
def test_the_difference_of_two_shares_is_that_of_the_published_table(one, other, low, high):
    """Newcombe, Statistics in Medicine 17 (1998) 873-890, table II, method 10."""
    assert difference(one, other) == pytest.approx((low, high), abs=6e-5)
    assert difference(other, one) == pytest.approx((-high, -low), abs=6e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 400), st.integers(0, 2**32 - 1))
def test_paired_differences_are_those_of_a_paired_t_test(n, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.random(n) < share for share in (0.8, 0.7))
    one, two = (
        scored({}, nth_net(i), 0, correct="".join("01"[int(c)] for c in bits))
        for i, bits in enumerate((a, b))
    )
    mean, error = paired_difference(one, two)
    assert mean == pytest.approx(a.mean() - b.mean())
    if error:
        assert mean / error == pytest.approx(
            stats.ttest_rel(a.astype(float), b.astype(float)).statistic
        )
