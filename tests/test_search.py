"""Search: the conformance suite of every strategy, and the mathematics of the designs."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from convwise.core.calculus import analyse
from convwise.search import STRATEGIES
from convwise.search.designed import GENERATORS, contrasts, design
from convwise.search.ranking import distinct, leader, tried
from studies import advice, differing, failed, scored, some_results

GIVEN = advice(goal="accuracy where params<40k", shape=(24, 24, 1))
RESULTS = some_results(GIVEN)
ALL_FAILED = [failed(r.trial.sample, r.trial.net, r.trial.stage, i) for i, r in enumerate(RESULTS)]
SITUATIONS = {"nothing yet": [], "some": RESULTS, "all failed": ALL_FAILED, "one": RESULTS[:1]}
every_strategy = pytest.mark.parametrize("name", STRATEGIES)
every_situation = pytest.mark.parametrize("results", SITUATIONS.values(), ids=SITUATIONS)


@every_strategy
@every_situation
@pytest.mark.parametrize("count", [0, 1, 3, 8, 12, 30])
def test_at_most_count_fitted_samples_inside_the_limits(name, results, count):
    samples = STRATEGIES[name](GIVEN, results, count, 0)
    assert len(samples) <= count
    for sample in samples:
        assert GIVEN.space.fit(sample) == sample
        assert set(sample) == {choice.name for choice in GIVEN.space.choices}
        assert analyse(GIVEN.space.grow(sample)).total.params <= 40_000


@every_strategy
@every_situation
def test_pure(name, results):
    before = copy.deepcopy((GIVEN, results))
    first = STRATEGIES[name](GIVEN, results, 12, 5)
    again = STRATEGIES[name](GIVEN, tuple(results), 12, 5)
    assert first == again
    assert (GIVEN, results) == before


@every_strategy
@every_situation
def test_nets_are_distinct_except_in_a_design(name, results):
    samples = STRATEGIES[name](GIVEN, results, 12, 0)
    nets = [GIVEN.space.grow(sample).id for sample in samples]
    repeated = 1 if name == "neighbours" else 0  # the plan, once more for the noise
    if name != "designed":
        assert len(set(nets)) == len(nets) - repeated


@every_strategy
def test_something_is_proposed_where_nothing_has_ended(name):
    assert STRATEGIES[name](GIVEN, [], 8, 0)


def test_what_was_tried_is_not_drawn_again():
    nets = {GIVEN.space.grow(sample).id for sample in STRATEGIES["random"](GIVEN, RESULTS, 30, 0)}
    assert nets
    assert not nets & {r.trial.net.id for r in RESULTS}


def test_random_follows_its_seed():
    draw = STRATEGIES["random"]
    assert draw(GIVEN, [], 6, 1) != draw(GIVEN, [], 6, 2)


def test_the_plan_starts_with_the_advice_and_the_default_follows():
    samples = STRATEGIES["planned"](GIVEN, [], 3, 0)
    assert samples[0] == GIVEN.sample
    assert samples[1] in GIVEN.portfolio


def test_neighbours_change_one_choice_of_the_plan_each_choice_in_turn():
    free = advice(shape=(24, 24, 1))
    known = STRATEGIES["planned"](free, [], 9, 0)
    *samples, again = STRATEGIES["neighbours"](free, [], 60, 0)
    assert again == free.sample  # the plan twice: what another seed does
    assert samples[: len(known)] == known  # the plan and the default are compared at equal time
    changes = [differing(free.sample, sample) for sample in samples[len(known) :]]
    assert all(len(change) == 1 for change in changes)
    names = [change.pop() for change in changes]
    first = names[: len(set(names))]
    assert len(set(first)) == len(first)


def test_halving_takes_the_best_and_keeps_a_place_for_the_default():
    tried_ = [r.trial for r in RESULTS[:3]]
    ended = [scored(t.sample, t.net, score) for t, score in zip(tried_, (0.6, 0.95, 0.8), strict=True)]
    samples = STRATEGIES["halving"](GIVEN, ended, 3, 0)
    assert samples == [tried_[1].sample, tried_[2].sample, GIVEN.sample]


def test_halving_takes_the_cheapest_that_is_as_good_as_the_best():
    """Found by hand: a net of a seventh of the macs, one answer of 287 behind, never became a finalist."""
    free = advice(shape=(8, 8, 1))
    others = [sample for _, _, sample in free.space.neighbours(free.sample)][:5]
    right = (286, 285, 285, 284, 250)
    macs = (4.7e6, 4.7e6, 0.68e6, 3.7e6, 0.1e6)  # the cheapest of all is far behind
    ended = [
        scored(sample, free.space.grow(sample), n / 287, "rung", 287, correct="1" * n + "0" * (287 - n), number=i,
               cost={"macs": cost, "params": cost / 100})
        for i, (sample, n, cost) in enumerate(zip(others, right, macs, strict=True))
    ]  # fmt: skip
    propose = STRATEGIES["halving"]
    assert propose(free, ended, 3, 0) == [others[2], others[0], free.sample]
    assert propose(free, ended, 2, 0) == [others[2], free.sample]
    assert propose(free, [ended[0], ended[4]], 3, 0) == [others[0], others[4], free.sample]


def test_the_leader_is_the_best_that_ended_and_the_cheaper_of_equals():
    a, b = RESULTS[0].trial, RESULTS[1].trial
    one = scored(a.sample, a.net, 0.8, "plan", cost={"macs": 5.0})
    two = scored(b.sample, b.net, 0.8, "rung", cost={"macs": 4.0})
    worse = scored(a.sample, a.net, 0.7, "rung", cost={"macs": 1.0})
    assert leader(GIVEN, [one, worse, two]) == two.trial.sample
    assert leader(GIVEN, [*ALL_FAILED, worse]) == worse.trial.sample
    assert leader(GIVEN, ALL_FAILED) == GIVEN.sample


def test_distinct_keeps_order_and_leaves_out_what_was_seen():
    samples = [r.trial.sample for r in RESULTS]
    kept = distinct(GIVEN.space, [*samples, *samples])
    assert [GIVEN.space.grow(s).id for s in kept] == list(dict.fromkeys(r.trial.net.id for r in RESULTS))
    assert distinct(GIVEN.space, samples, tried(RESULTS)) == []


# --- designs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", GENERATORS)
def test_designs_are_orthogonal(runs):
    rows = np.array(design(runs))
    signs = np.column_stack([np.ones(runs), np.where(rows, 1, -1)]).astype(int)
    assert signs.shape == (runs, runs)
    assert (signs.T @ signs == runs * np.eye(runs, dtype=int)).all()
    assert not rows[-1].any()


def test_the_twelve_runs_are_those_of_plackett_and_burman():
    """The table of the paper, Biometrika 33 (1946), as every handbook prints its first row."""
    first = "".join("-+"[int(level)] for level in design(12)[0])
    assert first == "++-+++---+-"
    assert all(sum(column) == 6 for column in zip(*design(12), strict=True))


@pytest.mark.parametrize(("count", "runs"), [(3, 0), (4, 0), (7, 0), (8, 8), (11, 8), (12, 12), (20, 12)])
def test_the_largest_design_that_fits(count, runs):
    free = advice(shape=(24, 24, 1))
    samples = STRATEGIES["designed"](free, [], count, 0)
    assert len(samples) == runs
    if not runs:
        return
    assert samples[-1] == free.sample
    pairs = list(contrasts(free.space, free.sample, []).items())[: runs - 1]
    for name, (before, after) in pairs:
        values = [sample[name] for sample in samples]
        assert sorted(map(str, values)) == sorted([str(before)] * (runs // 2) + [str(after)] * (runs // 2))
    untouched = {choice.name for choice in free.space.choices} - {name for name, _ in pairs}
    assert all(sample[name] == free.sample[name] for sample in samples for name in untouched)


def test_contrasts_prefer_what_is_untested():
    free = advice(shape=(24, 24, 1))
    first = contrasts(free.space, free.sample, [])
    name = next(n for n, values in ((c.name, c.values) for c in free.space.choices) if len(values) >= 3)
    before, after = first[name]
    assert before == free.sample[name]
    sample = {**free.sample, name: after}
    seen = [scored(sample, free.space.grow(sample), 0.5, "rung")]
    assert contrasts(free.space, free.sample, seen)[name][1] not in (before, after)
    assert all(a != b for a, b in first.values())


def test_a_design_leaves_out_what_multiplies_the_cost():
    """Several dear changes in one run leave it no time to learn, and the run then says nothing of the others."""
    free = advice(shape=(64, 64, 3))
    base = analyse(free.net).total.macs
    pairs = contrasts(free.space, free.sample, [])
    changed = {name: free.space.grow({**free.sample, name: after}) for name, (_, after) in pairs.items()}
    assert all(analyse(net).total.macs <= 1.8 * base for net in changed.values())
    dear = {name for name, _, sample in free.space.neighbours(free.sample) if name not in pairs}
    assert "stage.kernel_size" in dear  # 5x5 for 3x3
