"""What a change is worth: intervals, words and error rates, against simulated trainings.

The oracle draws trainings (tests/trainings.py); what is checked is how often the words are wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from scipy import stats

from convwise.core.records import Effect, Result, Trial, from_json, to_json
from convwise.evidence import effects as evidence
from convwise.evidence.effects import INDIFFERENT, RunVariance, effect_of, repeated_effect, verdicts
from convwise.evidence.paired import known_run_variance
from studies import nth_net
from trainings import Pair, World, experiments, family, middle, run

TIMES = 2000  # experiments of one cell: a rate of 5 % is then known to 0.5 points
CELLS = [
    (n, error, seeds) for n in (300, 1000) for error in (0.02, 0.1, 0.3) for seeds in (1, 2, 3)
]
AS_PROMISED = 0.03, 0.07  # of alarms at nominal 5 %


def told(world: World) -> RunVariance:
    """What a bank of such sets would have taught."""
    return RunVariance(world.run**2, world.freedom)


def known(pairs: Sequence[Pair], world: World) -> Effect:
    return effect_of("edit", (0, 1), pairs, told(world))


def with_repeats(pairs: Sequence[Pair], world: World) -> Effect:
    return effect_of("edit", (0, 1), pairs, told(world).updated([before for before, _ in pairs]))


def double_counted(pairs: Sequence[Pair], world: World) -> Effect:
    """As in version 0.1.0: err / 2n of each run beside a variance that holds it already (the
    planted fault).
    """
    right = np.array([[[c == "1" for c in r.correct] for r in pair] for pair in pairs], float)
    changes = right[:, 1] - right[:, 0]
    n, seeds = changes.shape[1], len(pairs)
    theory = float((1 - right.mean(2)).sum(1).mean()) / (2 * n) / seeds
    seen = float(changes.mean(1).var(ddof=1)) / seeds if seeds > 1 else 0.0
    examples = float(changes.mean(0).var(ddof=1)) / n
    half = float(stats.norm.ppf(0.975)) * sqrt(examples + max(theory, seen))
    if seen > theory:
        freedom = (examples + seen) ** 2 / (seen**2 / (seeds - 1) + examples**2 / (n - 1))
        half *= float(stats.t.ppf(0.975, freedom) / stats.norm.ppf(0.975))
    change = float(changes.mean())
    word = "matters" if abs(change) > half else "not resolved"
    return Effect("edit", 0, 1, change, change - half, change + half, 1.0, word)


Formula = Callable[[Sequence[Pair], World], Effect]


def share(
    word: str, world: World, change: float, formula: Formula = known, times: int = TIMES
) -> float:
    """How often the formula says the word, of an edit that is truly worth `change`."""
    return float(
        np.mean(
            [formula(pairs, world).verdict == word for pairs in experiments(world, change, times)]
        )
    )


# --- one effect ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("n", "error", "seeds"), CELLS)
def test_of_equal_nets_one_in_twenty_is_said_to_matter(n, error, seeds):
    low, high = AS_PROMISED
    assert low <= share("matters", World(n, error, seeds), 0.0) <= high


def test_counting_the_flips_twice_would_be_seen():
    """The planted fault, by the check above."""
    low, _ = AS_PROMISED
    for seeds in (1, 2, 3):
        assert share("matters", World(1000, 0.3, seeds), 0.0, double_counted, 500) < low


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("error", [0.02, 0.1, 0.3])
def test_own_repeats_keep_the_promise(seeds, error):
    assert 0.025 <= share("matters", World(1000, error, seeds), 0.0, with_repeats) <= 0.07


@pytest.mark.parametrize(
    ("spread", "most"), [(0.0, 0.05), (0.003, 0.05), (0.007, 0.07), (0.05, 0.09)]
)
def test_runs_unlike_those_that_were_expected_do_not_alarm(spread, most):
    """Nothing is told of the runs but what stands in the table; the last ones spread by 5
    points.
    """
    alarms = [
        repeated_effect("edit", (0, 1), pairs).verdict == "matters"
        for pairs in experiments(World(1000, 0.2, 3, spread, 1e9), 0.0, 1000)
    ]
    assert np.mean(alarms) <= most


@pytest.mark.parametrize(
    ("n", "seeds", "least"),
    [(300, 1, 0.15), (300, 3, 0.3), (1000, 1, 0.3), (1000, 2, 0.5), (1000, 3, 0.65)],
)
def test_two_points_are_found_more_often_than_before(n, seeds, least):
    world = World(n, 0.1, seeds, own=0.5)
    power = share("matters", world, 0.02, times=600)
    assert power > least
    assert power > share("matters", world, 0.02, double_counted, 600) + 0.03


def test_the_interval_covers_a_planted_change():
    for change in (-0.04, 0.01, 0.04):
        world = World(500, 0.15, 2, own=0.5)
        effects = [known(pairs, world) for pairs in experiments(world, change, 1000)]
        assert 0.93 <= np.mean([e.low <= change <= e.high for e in effects]) <= 0.975
        assert np.mean([e.accuracy_change for e in effects]) == pytest.approx(change, abs=0.002)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "error", "seeds"),
    [(2000, 0.1, 3), (3000, 0.05, 2), pytest.param(5000, 0.3, 3, marks=pytest.mark.slow)],
)
def test_a_whole_point_is_seldom_called_no_difference(n, error, seeds):
    world = World(n, error, seeds, 0.003)
    for change in (-INDIFFERENT, INDIFFERENT):
        # 5 %, and two deviations of this simulation
        assert share("no difference", world, change) <= 0.062
    assert share("no difference", world, 0.0, times=300) > 0.15


def test_few_examples_answered_alike_prove_nothing():
    def same(n: int) -> Effect:
        result = Result(
            Trial("t", "s", {}, nth_net(0)), "done", 1.0, "1" * n, images_per_second=1.0
        )
        return effect_of("edit", (0, 1), [(result, result)], RunVariance(0.0, 4.0))

    assert same(50).verdict == "not resolved"
    assert same(5000).verdict == "no difference"


def test_speed_horizon_and_number_of_runs_are_told():
    pairs = [
        (a, replace(b, images_per_second=500.0)) for a, b in next(experiments(World(), 0.0, 1))
    ]
    effect = known(pairs, World())
    assert (effect.time_ratio, effect.seconds, effect.runs) == (pytest.approx(2.0), 10.0, 6)


def test_pairs_must_answer_the_same_examples():
    (pair,) = next(experiments(World(seeds=1), 0.0, 1))
    shorter = replace(pair[1], correct=pair[1].correct[1:])
    for pairs in ([], [(pair[0], shorter)], [pair, (shorter, shorter)]):
        with pytest.raises(ValueError, match="edit"):
            effect_of("edit", (0, 1), pairs, RunVariance(0.0, 4.0))


# --- the variance of a run -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("planted", [0.0, 0.004, 0.02])
def test_many_repeats_tell_the_variance_of_a_run(planted):
    """Also where it is told a thousand times too much before."""
    rng = np.random.default_rng(3)
    logits = middle(0.85) + rng.normal(0, 2.5, 4000)
    repeats = [[run(logits, planted, rng) for _ in range(2)] for _ in range(1500)]
    for prior in (1e-8, planted**2 + 1e-6, 1e-3):
        assert RunVariance(prior, 4.0).updated(*repeats).variance == pytest.approx(
            planted**2, abs=4e-6, rel=0.12
        )


def test_one_run_tells_nothing_of_the_variance():
    (pair,) = next(experiments(World(seeds=1), 0.0, 1))
    prior = RunVariance(1e-4, 4.0)
    assert prior.updated() == prior.updated([pair[0]]) == prior


def test_repeats_make_the_variance_better_known():
    pairs = next(experiments(World(), 0.0, 1))
    updated = RunVariance(2.5e-5, 4.0).updated(*zip(*pairs, strict=True))
    assert 4 < updated.freedom < 8


@pytest.mark.parametrize(("error", "measured"), [(0.013, 0.0005), (0.105, 0.0022), (0.39, 0.0080)])
def test_runs_that_make_more_mistakes_differ_more_as_was_measured(error, measured):
    """benchmarks/results/aa.jsonl: MNIST, Fashion-MNIST, infrared modules."""
    deviation = known_run_variance(error)[0] ** 0.5
    assert deviation == pytest.approx(measured, rel=0.2, abs=0.0004)
    right = round(1000 * (1 - error))
    runs = [
        Result(
            Trial("a", "race", {}, nth_net(0)),
            "done",
            right / 1000,
            "1" * right + "0" * (1000 - right),
        )
    ] * 2
    assert RunVariance.known(runs).variance ** 0.5 == pytest.approx(deviation, rel=0.01)


# --- several effects -----------------------------------------------------------------------------


def effects_of(
    changes: Sequence[float], world: World, rng: np.random.Generator
) -> tuple[Effect, ...]:
    """Effects of several edits of one net, measured against the same runs of it."""
    edits = enumerate(family(world, changes, rng))
    return tuple(effect_of(str(number), (0, 1), pairs, told(world)) for number, pairs in edits)


def false_share(effects: Sequence[Effect], changes: Sequence[float]) -> float:
    found = [
        change
        for effect, change in zip(effects, changes, strict=True)
        if effect.verdict == "matters"
    ]
    return sum(change == 0 for change in found) / max(len(found), 1)


@pytest.mark.parametrize("changes", [(0.0,) * 8, (0.0,) * 6 + (0.05, -0.05)])
def test_of_what_is_said_to_matter_at_most_one_in_twenty_is_nothing(changes):
    rng, world = np.random.default_rng(4), World(500, 0.15, 2)
    families = [effects_of(changes, world, rng) for _ in range(400)]
    alone = np.mean([false_share(effects, changes) for effects in families])
    together = np.mean([false_share(verdicts(effects), changes) for effects in families])
    assert together <= 0.065
    assert alone > 2 * together
    if any(changes):
        found = [sum(e.verdict == "matters" for e in verdicts(effects)[6:]) for effects in families]
        assert np.mean(found) > 1.2


def test_the_largest_of_several_is_expected_to_be_smaller_again():
    """Changes of about a point under noise of about a point: the largest seen is nearer to the
    truth when shrunk.
    """
    rng, world, raw, shrunk = np.random.default_rng(5), World(500, 0.15, 2), [], []
    for _ in range(200):
        changes = rng.normal(0, 0.01, 6)
        effects = verdicts(effects_of(changes, world, rng))
        largest = max(range(6), key=lambda i: abs(effects[i].accuracy_change))
        raw.append((effects[largest].accuracy_change - changes[largest]) ** 2)
        shrunk.append(((effects[largest].expected or 0.0) - changes[largest]) ** 2)
        assert all(
            e.low < e.accuracy_change < e.high and e.low < (e.expected or 0.0) < e.high
            for e in effects
        )
    assert np.mean(shrunk) < 0.7 * np.mean(raw)


def made(
    change: float,
    half: float,
    word: str = "matters",
    p: float | None = 0.0,
    p_same: float | None = 1.0,
):
    return Effect("edit", 0, 1, change, change - half, change + half, 1.0, word, p=p, p_same=p_same)  # type: ignore[arg-type]


def test_one_large_effect_among_nothings_remains():
    one, *others = verdicts(
        [made(0.2, 0.01), *(made(0.001, 0.01, "not resolved", 0.8) for _ in range(99))]
    )
    assert one.verdict == "matters"
    assert 0.19 < (one.expected or 0.0) <= 0.2
    assert all(abs(e.expected or 0.0) < 0.001 for e in others)


def test_words_are_only_ever_weakened():
    few = [made(0.006, 0.005, "matters", 0.03, 0.01), made(0.02, 0.019, "matters", 0.04, 0.9)]
    silenced, unknown = made(0.2, 0.1, "not resolved", 1e-9), made(0.2, 0.1, "matters", None, None)
    words = [
        e.verdict
        for e in verdicts([*few, silenced, unknown, *(made(0, 1, "not resolved", 0.9),) * 4])
    ]
    assert words[:4] == ["no difference", "not resolved", "not resolved", "matters"]
    assert verdicts([]) == ()


def test_of_one_effect_the_word_stays():
    for pairs in experiments(World(seeds=1), 0.02, 50):
        effect = known(pairs, World())
        assert verdicts([effect])[0].verdict == effect.verdict


# --- the record ----------------------------------------------------------------------------------


def test_an_effect_goes_through_json():
    for effect in (
        known(next(experiments(World(), 0.02, 1)), World()),
        Effect("n", 0, 1, 0.1, 0, 0.2, 1.0, "matters"),
    ):
        assert from_json(Effect, json.loads(json.dumps(to_json(effect)))) == effect


# --- from a part to the end ----------------------------------------------------------------------


def early(change: float, error: float, ratio: float = 1.0) -> Effect:
    """As it was measured after a part, far more certain than p = 0.05 or not at all."""
    p = 2 * stats.norm.sf(abs(change) / error)
    word = "matters" if p < 0.05 else "not resolved"
    return Effect(
        "x",
        0,
        1,
        change,
        change - 1.96 * error,
        change + 1.96 * error,
        ratio,
        word,
        seconds=10.0,
        p=p,
    )


@pytest.mark.parametrize("share", [1 / 24, 0.25, 0.9])
@pytest.mark.parametrize("mistakes", [0.02, 0.3])
def test_the_interval_told_for_the_end_holds_what_comes_out(mistakes, share):
    """Ends simulated from the constants, and from what the part measured with an error of its
    own.
    """
    rng, held, length = np.random.default_rng(1), [], -np.log(share)
    for _ in range(2000):
        true, error = rng.normal(0, 0.1 * mistakes), 0.01
        told = evidence.carried(early(true + rng.normal(0, error), error), mistakes, share)
        left = max(1 - rng.normal(evidence.FADES, evidence.FADES_SPREAD) * length, 0)
        end = left * true + rng.normal(0, evidence.DRIFT * length * mistakes)
        held.append(told.expected_low <= end <= told.expected_high)
    # Few mistakes: at least as many as the error
    assert 0.94 <= np.mean(held) <= (0.98 if mistakes > 0.1 else 0.995)


def test_an_early_lead_is_told_to_matter_only_where_little_is_left_to_come():
    told = {share: evidence.carried(early(0.04, 0.01), 0.4, share) for share in (1 / 24, 0.2, 0.8)}
    assert [t.verdict for t in told.values()] == ["not resolved", "not resolved", "matters"]
    assert [t.expected for t in told.values()] == sorted(t.expected for t in told.values())
    # What was measured stays as it was
    assert {t.low for t in told.values()} == {early(0.04, 0.01).low}


def test_of_a_whole_training_nothing_is_carried():
    whole = evidence.carried(early(0.04, 0.01), 0.4, 1.0)
    assert whole.expected == pytest.approx(0.04)
    assert (whole.expected_low, whole.expected_high) == pytest.approx(
        (whole.low, whole.high), rel=0.02
    )


def test_what_fails_at_once_matters():
    told = evidence.carried(early(-0.55, 0.01), 0.4, 1 / 24)  # 0.325 beside 0.875
    assert told.verdict == "matters"
    assert told.expected == pytest.approx(-0.55)
    other = evidence.carried(early(0.55, 0.01), 0.4, 1 / 24)  # the net as it is does not learn
    assert (other.verdict, other.expected) == ("matters", pytest.approx(0.55))
    # It has seen half as many images
    slow = evidence.carried(early(-0.55, 0.01, ratio=2.0), 0.4, 1 / 24)
    behind = evidence.carried(early(-0.3, 0.01), 0.4, 1 / 24)  # 0.45 beside 0.75: it learns
    assert {slow.verdict, behind.verdict} == {"not resolved"}


def test_where_few_mistakes_are_left_nothing_can_matter_by_a_point():
    assert evidence.carried(early(0.002, 0.003), 0.02, 1 / 24).verdict == "no difference"
    assert evidence.carried(early(0.0, 0.003), 0.0, 1 / 24).verdict == "no difference"


def test_what_is_wrong_at_the_end_bounds_what_a_change_can_be_worth_there():
    """A change counts as a share of the mistakes: 20 % of them early are 20 % of fewer later."""
    ends = (1.0, 0.4, 0.2, 0.05, 0.0)
    told = [evidence.carried(early(0.02, 0.01), 0.4, 1 / 20, end) for end in ends]
    assert told[0] == told[1]  # never more than after the segment
    spans = [each.expected_high - each.expected_low for each in told]
    for each, span, end in zip(told[1:], spans[1:], ends[1:], strict=True):
        assert each.expected == pytest.approx(told[0].expected * end / 0.4)
        assert span == pytest.approx(spans[0] * end / 0.4, abs=1e-9)
    assert [each.verdict for each in told[-2:]] == ["no difference"] * 2
    assert {each.accuracy_change for each in told} == {0.02}


def test_what_does_not_train_is_as_far_behind_at_the_end():
    told = evidence.carried(early(-0.55, 0.01), 0.4, 1 / 24, 0.01)
    assert (told.verdict, told.expected) == ("matters", pytest.approx(-0.55))


def test_of_a_part_so_small_that_nothing_is_left_a_smaller_one_says_as_much():
    spans = [evidence.carried(early(0.02, 0.01), 0.4, share).expected_high
             for share in (1 / 20, 1 / 40, 1 / 400)]  # fmt: skip
    assert spans[0] < spans[1] == pytest.approx(spans[2])


def test_effects_told_together_keep_what_they_say_of_the_end():
    told = [evidence.carried(early(change, 0.01), 0.4, 1 / 24) for change in (-0.3, 0.02, 0.0)]
    assert [e.expected for e in evidence.verdicts(told)] == [e.expected for e in told]
