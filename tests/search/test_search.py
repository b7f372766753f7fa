"""Search: the conformance suite of every strategy, and the race: who leads it, who runs beside, who
takes the lead.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convwise.core.calculus import analyse
from convwise.core.records import Effect, Point, Result
from convwise.search import STRATEGIES, phases, race
from convwise.search.neighbours import QUESTION
from convwise.search.ranking import distinct, tried
from studies import advice, answers, differing, failed, raced, segment, some_results

GIVEN = advice(goal="accuracy where params<40k", shape=(24, 24, 1))
RESULTS = some_results(GIVEN)
ALL_FAILED = [
    failed(r.trial.configuration, r.trial.net, r.trial.phase, i) for i, r in enumerate(RESULTS)
]
SITUATIONS = {"nothing yet": [], "some": RESULTS, "all failed": ALL_FAILED, "one": RESULTS[:1]}


def test_every_phase_stands_in_the_table_and_names_a_strategy_that_there_is():
    assert [*phases.PHASES] == [
        each for each in vars(phases).values() if isinstance(each, phases.Phase)
    ]
    assert len({phase.name for phase in phases.PHASES}) == len(phases.PHASES)
    assert {phase.strategy for phase in phases.PHASES} - {""} <= set(STRATEGIES)


every_strategy = pytest.mark.parametrize("name", STRATEGIES)
every_situation = pytest.mark.parametrize("results", SITUATIONS.values(), ids=SITUATIONS)


# --- every strategy ------------------------------------------------------------------------------


@every_strategy
@every_situation
@pytest.mark.parametrize("count", [0, 1, 3, 30])
def test_at_most_count_fitted_samples_inside_the_limits(name, results, count):
    configurations = STRATEGIES[name](GIVEN, results, count, 0)
    assert len(configurations) <= count
    for configuration in configurations:
        assert GIVEN.space.fit(configuration) == configuration
        assert set(configuration) == {each.name for each in GIVEN.space.hyperparameters}
        assert analyse(configuration.net).total.params <= 40_000


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
def test_nets_and_their_training_are_distinct_and_new(name, results):
    configurations = STRATEGIES[name](GIVEN, results, 12, 0)
    keys = [(configuration.net.id, configuration.recipe) for configuration in configurations]
    assert len(set(keys)) == len(keys)
    assert not set(keys) & {(r.trial.net.id, r.trial.recipe) for r in results}


@every_strategy
def test_something_is_proposed_where_nothing_has_ended(name):
    assert STRATEGIES[name](GIVEN, [], 8, 0)


def test_random_follows_its_seed():
    draw = STRATEGIES["random"]
    assert draw(GIVEN, [], 6, 1) != draw(GIVEN, [], 6, 2)


def test_neighbours_change_one_choice_each_in_turn_the_five_of_the_question_first():
    free = advice(shape=(24, 24, 1))
    configurations = STRATEGIES["neighbours"](free, [], 60, 0)
    changes = [differing(free.configuration, configuration) for configuration in configurations]
    assert all(len(change) == 1 for change in changes)
    names = [change.pop() for change in changes]
    assert tuple(names[: len(QUESTION)]) == QUESTION
    first = names[: len(set(names))]
    # A second value of a choice comes after the first of every other
    assert len(set(first)) == len(first)


def test_under_a_limit_a_change_that_needs_another_is_not_proposed():
    """Found here: at a limit a larger kernel has fewer filters as well, and the trial told nothing
    of either.
    """
    macs = FREE.space.cost(FREE.net)["macs"]
    limited = advice(shape=(24, 24, 1), counts=(300, 300), goal=f"accuracy where macs<{int(macs)}")
    assert limited.configuration == FREE.configuration
    configurations = STRATEGIES["neighbours"](limited, [], 60, 0)
    assert {
        len(differing(limited.configuration, configuration)) for configuration in configurations
    } == {1}
    assert 5 not in {configuration["stage.kernel_size"] for configuration in configurations}
    assert len(configurations) < len(STRATEGIES["neighbours"](FREE, [], 60, 0))


def test_distinct_keeps_order_and_leaves_out_what_was_seen():
    configurations = [GIVEN.space.fit(r.trial.configuration) for r in RESULTS]
    kept = distinct([*configurations, *configurations])
    keys = [configuration.key for configuration in kept]
    assert keys == list(dict.fromkeys(configuration.key for configuration in configurations))
    assert distinct(kept, keys) == []
    assert tried(RESULTS) == {(r.trial.net.id, r.trial.recipe) for r in RESULTS}


def test_a_net_that_is_trained_in_another_way_is_another():
    free = advice(shape=(24, 24, 1))
    twin = free.space.fit({**free.configuration, race.FLIP: True})
    assert twin.net == free.net
    assert distinct([free.configuration, twin], [free.configuration.key]) == [twin]


# --- the race ------------------------------------------------------------------------------------

FREE = advice(shape=(24, 24, 1), counts=(300, 300))
TWIN = FREE.space.fit({**FREE.configuration, race.FLIP: True})
HARMLESS = answers(0.8, 200) * 2  # as right on mirrored images as on the others
HARMFUL = answers(0.8, 200) + answers(0.4, 200)


def plain_truth(configuration, number) -> Result:
    """Every part ends, all nets are equally good, and mirrored images are answered badly."""
    return segment(
        FREE, configuration, number, mirrored="" if configuration[race.FLIP] else HARMFUL
    )


def flat(waves) -> list[Result]:
    return [result for wave in waves for result in wave]


def samples_of(results) -> list[dict]:
    return [dict(result.trial.configuration) for result in results]


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_a_race_ends_and_trains_its_leader(workers):
    waves = raced(FREE, plain_truth, workers, 12)
    assert 1 <= len(waves) <= 12
    assert all(1 <= len(wave) <= workers for wave in waves)
    mine = race.segments(flat(waves), FREE.configuration.key)
    assert len(mine) == (len(waves) if workers > 1 else race.FLIP_SEGMENTS)
    assert all(wave[0].trial.configuration == FREE.configuration for wave in waves if workers > 1)
    for before, after in itertools.pairwise(mine):  # one training, part after part
        assert after.trial.resumes == before.trial.id
        assert after.trial.span[0] == before.trial.span[1]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_race_of_a_small_space_ends_by_itself_for_one_worker(workers):
    tiny = advice(shape=(8, 8, 1), goal="accuracy where params<300")
    tiny = replace(tiny, space=replace(tiny.space, hyperparameters=tiny.space.hyperparameters[:8]))
    waves = raced(
        tiny, lambda configuration, number: segment(tiny, configuration, number), workers, 30
    )
    beside = [
        r
        for r in flat(waves)
        if tiny.space.fit(r.trial.configuration).key != tiny.configuration.key
    ]
    firsts = [tiny.space.fit(r.trial.configuration).key for r in beside if r.trial.span[0] == 0]
    assert len(set(firsts)) == len(firsts)  # nothing is begun twice
    # Beside others the leader goes on as long as it is let
    assert (len(waves) < 30) == (workers == 1)


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_what_runs_beside_the_leader_is_its_twin_and_single_changes_of_it(workers):
    for wave in raced(FREE, plain_truth, workers, 8):
        for result in wave:
            changed = differing(FREE.configuration, result.trial.configuration)
            assert len(changed) <= 1
            if changed != {race.FLIP} and changed:
                assert result.trial.span[0] == 0  # compared after its first part, and left there
    order = [
        differing(FREE.configuration, r.trial.configuration)
        for r in flat(raced(FREE, plain_truth, workers, 8))
    ]
    others = [change for change in order if change]
    assert others[0] == {race.FLIP}
    singles = [change.copy().pop() for change in others if change != {race.FLIP}]
    assert tuple(singles[: len(QUESTION)]) == QUESTION[: len(singles)]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(0, 6), st.sampled_from((False, True)))
def test_whatever_becomes_of_the_trials_every_entry_is_valid_and_inside_the_limits(
    seed, workers, waves, harmless
):
    rng = np.random.default_rng(seed)

    def truth(configuration, number):
        if rng.random() < 0.3:
            return "made up"
        mirrored = "" if configuration[race.FLIP] else HARMLESS if harmless else HARMFUL
        return segment(
            GIVEN, configuration, number, score=round(rng.uniform(0.5, 0.9), 2), mirrored=mirrored
        )

    results = flat(raced(GIVEN, truth, workers, waves))
    before = copy.deepcopy(results)
    entries = race.wave(GIVEN, results, workers)
    assert race.wave(GIVEN, tuple(results), workers) == entries  # a pure function
    assert results == before
    assert len(entries) <= workers
    ended = {r.trial.id: r for r in results}
    keys = [entry.configuration.key for entry in entries]
    assert len(set(keys)) == len(keys)
    assert not set(keys) & {
        (r.trial.net.id, r.trial.recipe) for r in results if r.status == "failed"
    }
    for entry, key in zip(entries, keys, strict=True):
        assert GIVEN.space.fit(entry.configuration) == entry.configuration
        assert analyse(entry.configuration.net).total.params <= 40_000
        if entry.after:
            assert ended[entry.after.trial.id] is entry.after
            assert key == (entry.after.trial.net.id, entry.after.trial.recipe)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_a_race_goes_on_from_any_wave_as_if_it_had_not_stopped(workers):
    whole = raced(FREE, plain_truth, workers, 7)
    for kept in range(7):
        entries = race.wave(FREE, flat(whole[:kept]), workers)
        told = [(dict(e.configuration), e.after.trial.id if e.after else "") for e in entries]
        assert told == [(dict(r.trial.configuration), r.trial.resumes) for r in whole[kept]]


@pytest.mark.parametrize("seconds", [5.0, None])
def test_changes_whose_first_part_would_be_too_short_to_compare_come_last(seconds):
    """The leader saw a quarter more than the least, so what has more macs than that is slower; in
    counted epochs all see as many.
    """
    history = (Point(5.0, race.LEAST_IMAGES * 5 // 4, 0.5, 0.8),)
    mine = [segment(FREE, FREE.configuration, n, history=history, seconds=seconds) for n in (1, 2)]
    other = segment(FREE, TWIN, 1, score=0.1, mirrored=HARMFUL, history=history, seconds=seconds)
    twins = [other, segment(FREE, TWIN, 2, score=0.1, history=history, seconds=seconds)]
    _, *entries = race.wave(FREE, [*mine, *twins], 100)
    dear = [e.configuration.cost["macs"] > 1.25 * FREE.configuration.cost["macs"] for e in entries]
    assert any(dear)
    assert not all(dear)
    order = STRATEGIES["neighbours"](FREE, [*mine, *twins], 100, 0)
    wanted = [each for each in order if each in [e.configuration for e in entries]]
    if seconds:
        wanted.sort(key=lambda each: each.cost["macs"] > 1.25 * FREE.configuration.cost["macs"])
        assert dear == sorted(dear)
    assert [e.configuration for e in entries] == wanted


def test_with_one_worker_any_prefix_is_such_a_wave():
    whole = flat(raced(FREE, plain_truth, 1, 9))
    assert [race.wave(FREE, whole[:n], 1)[0].configuration for n in range(9)] == samples_of(whole)


# --- mirroring: by trial, and by answers ---------------------------------------------------------


def pair(
    plain: str, flipped: str, mirrored: str, segments: int = race.FLIP_SEGMENTS
) -> list[Result]:
    """Both trainings after so many parts, with these answers at their ends."""
    found = []
    for number in range(1, segments + 1):
        found.append(segment(FREE, FREE.configuration, number, correct=plain, mirrored=mirrored))
        found.append(segment(FREE, TWIN, number, correct=flipped))
    return found


GOOD, SAME, BAD = answers(0.9, 400), answers(0.9, 400, seed=1), answers(0.7, 400, seed=2)
BEHIND = answers(0.86, 400)


@pytest.mark.parametrize(
    ("flipped", "mirrored", "leads"),
    [(GOOD, HARMLESS, TWIN), (SAME, HARMLESS, TWIN), (BEHIND, HARMLESS, TWIN), (SAME, HARMFUL,
    FREE.configuration),
     (BAD, HARMLESS, FREE.configuration), (BAD, HARMFUL, FREE.configuration), (GOOD, "",
     FREE.configuration),
     (answers(1.0, 400), HARMFUL, FREE.configuration)],
    ids=["equal", "as good", "a little behind", "as good, but mirror images are others", "worse",
    "worse in both",
         "never asked", "better, but mirror images are others"],
)  # fmt: skip
def test_the_twin_leads_only_where_trial_and_answers_both_say_harmless(flipped, mirrored, leads):
    assert race.leader(FREE, pair(GOOD, flipped, mirrored)) == leads


def test_what_a_few_images_say_of_the_twin_does_not_keep_it_from_leading():
    """On 683 photos of clothing six points are within chance."""
    plain = answers(0.7, 100)
    behind = plain.replace("1", "0", 8)
    assert race.leader(FREE, pair(plain, behind, HARMLESS)) == TWIN
    assert race.leader(FREE, pair(plain * 20, behind * 20, HARMLESS)) == FREE.configuration


@pytest.mark.parametrize(
    ("images", "leads"), [(race.LEAST_IMAGES // 2, TWIN), (race.LEAST_IMAGES // 2 - 1, None)]
)
def test_images_of_both_parts_count_where_steps_are_slow(images, leads):
    """Beside other load a part of 9 s sees fewer than 2,000 images; both together are enough."""
    seen = (Point(5.0, images, 0.5, 0.8),)
    results = [replace(result, history=seen) for result in pair(GOOD, SAME, HARMLESS)]
    assert race.leader(FREE, results) == (leads or FREE.configuration)


def test_before_both_have_gone_far_enough_the_advised_net_leads():
    assert race.leader(FREE, []) == FREE.configuration
    assert race.leader(FREE, pair(BAD, GOOD, HARMLESS, segments=1)) == FREE.configuration
    assert race.leader(FREE, pair(BAD, GOOD, HARMLESS)[:-1]) == FREE.configuration


@pytest.mark.parametrize(("lost", "alike"), [(0, True), (9, True), (11, False), (200, False)])
def test_mirrored_images_may_lose_five_points_over_all_parts(lost, alike):
    as_is = "1" * 200
    asked = segment(FREE, FREE.configuration, mirrored=as_is + "0" * lost + "1" * (200 - lost))
    assert race.mirrored_alike([asked]) == alike
    assert race.mirrored_alike([asked, segment(FREE, FREE.configuration, mirrored=as_is * 2)]) == (
        lost <= 20
    )
    assert not race.mirrored_alike([segment(FREE, FREE.configuration)])


def test_a_net_that_has_learnt_little_says_nothing_of_mirrored_images():
    """Found on two classes of hand signs after a second: 12 % right, 8 % mirrored, which are not
    five points.
    """
    little = segment(FREE, FREE.configuration, mirrored="1" * 12 + "0" * 88 + "1" * 8 + "0" * 92)
    assert not race.mirrored_alike([little])
    assert race.mirrored_alike(
        [segment(FREE, FREE.configuration, mirrored="1" * 60 + "0" * 40 + "1" * 56 + "0" * 44)]
    )


@pytest.mark.parametrize(
    ("mirrored", "how", "mirrors"),
    [
        (HARMLESS, {}, True),
        (HARMFUL, {}, False),
        ("", {}, False),
        (HARMLESS, {"history": (Point(1.0, 100, 0.5, 0.8),)}, False),
    ],
    ids=["harmless", "another image", "never asked", "has seen too few"],
)
def test_where_the_twin_never_ran_the_answers_to_mirrored_images_decide(mirrored, how, mirrors):
    alone = segment(FREE, FREE.configuration, mirrored=mirrored, **how)
    assert race.onwards(FREE, [alone], alone) == (TWIN if mirrors else FREE.configuration)
    # Where there is time, both are trained
    assert race.wave(FREE, [alone], 1)[0].configuration == TWIN


def test_where_the_twin_ran_the_leader_goes_on_as_it_began():
    alone, twin = segment(FREE, FREE.configuration, mirrored=HARMLESS), segment(FREE, TWIN)
    assert race.onwards(FREE, [alone, twin], alone) == FREE.configuration
    assert race.onwards(FREE, [alone, twin], twin) == TWIN


def test_a_space_without_mirroring_has_no_twin():
    hyperparameters = tuple(c for c in FREE.space.hyperparameters if c.name != race.FLIP)
    still = replace(FREE, space=replace(FREE.space, hyperparameters=hyperparameters))
    assert race.twin(still) is None
    assert race.leader(still, []) == FREE.configuration


def test_a_twin_that_leads_takes_the_advised_nets_place_and_its_edits_are_mirrored():
    def truth(configuration, number):
        return segment(
            FREE,
            configuration,
            number,
            correct=GOOD,
            mirrored="" if configuration[race.FLIP] else HARMLESS,
        )

    waves = raced(FREE, truth, 3, 6)
    assert [wave[0].trial.configuration for wave in waves] == [FREE.configuration] * 2 + [TWIN] * 4
    assert all(r.trial.configuration[race.FLIP] for wave in waves[2:] for r in wave)
    mine = race.segments(flat(waves), TWIN.key)
    assert [r.trial.span[0] for r in mine] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_where_the_advised_training_fails_its_twin_takes_over(workers):
    def truth(configuration, number):
        return segment(FREE, configuration, number) if configuration[race.FLIP] else "made up"

    waves = raced(FREE, truth, workers, 6)
    results = flat(waves)
    assert race.leader(FREE, results) == TWIN
    assert samples_of(results).count(dict(FREE.configuration)) == 1  # what failed is not run again
    assert race.segments(results, TWIN.key)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_where_both_fail_single_changes_are_tried(workers):
    def truth(configuration, number):
        return (
            segment(FREE, configuration, number)
            if differing(FREE.configuration, configuration) - {race.FLIP}
            else "made up"
        )

    results = flat(raced(FREE, truth, workers, 6))
    assert (
        samples_of(results).count(dict(FREE.configuration)) == samples_of(results).count(TWIN) == 1
    )
    assert sum(r.status == "done" for r in results) >= 4


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_later_part_that_fails_leaves_the_leader_where_it_was(workers):
    def truth(configuration, number):
        return (
            "made up"
            if (number, configuration[race.FLIP]) == (2, False)
            else plain_truth(configuration, number)
        )

    results = flat(raced(FREE, truth, workers, 6))
    assert race.leader(FREE, results) == FREE.configuration
    assert len(race.segments(results, FREE.configuration.key)) == 1
    assert sum(r.status == "failed" for r in results) == 1


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_twin_that_fails_ends_the_question_of_mirroring(workers):
    def truth(configuration, number):
        return "made up" if configuration[race.FLIP] else plain_truth(configuration, number)

    results = flat(raced(FREE, truth, workers, 6))
    assert race.leader(FREE, results) == FREE.configuration
    assert samples_of(results).count(TWIN) == 1


def test_a_short_answer_to_an_interrupt_is_no_part_of_a_training():
    """Found here: its span is the whole schedule, so that the next part would have begun at its
    end, at no rate.
    """
    answer = segment(FREE, FREE.configuration, how={"span": (0.0, 1.0)})
    assert race.segments([answer], FREE.configuration.key) == []
    assert race.wave(FREE, [answer], 1)[0].after is None


# --- who may take the lead -----------------------------------------------------------------------


def effect(
    parameter: str = "activation", low: float = 0.01, time_ratio: float = 1.0, **fields
) -> Effect:
    given_ = {"verdict": "matters", "accuracy_change": low + 0.02, "high": low + 0.04, **fields}
    return Effect(parameter, "relu", "silu", low=low, time_ratio=time_ratio, **given_)


effects = st.lists(
    st.builds(effect, st.sampled_from(("activation", "padding", race.FLIP)), st.floats(-0.1, 0.3),
    st.floats(0.1, 4.0),
              verdict=st.sampled_from(("matters", "not resolved", "no difference"))),
    max_size=6,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(effects)
def test_only_what_is_surely_better_without_cheaper_steps_is_adopted(found):
    taken = race.adopted(found)
    if taken is None:
        assert not any(
            e.verdict == "matters"
            and e.low > 0
            and e.time_ratio >= race.SLOWER
            and e.parameter != race.FLIP
            for e in found
        )
        return
    assert taken in found
    assert taken.verdict == "matters"
    assert taken.low > 0
    assert taken.time_ratio >= 0.95
    assert taken.parameter != race.FLIP


def test_cheaper_steps_are_never_adopted_however_far_ahead():
    """What was measured: strides 1 -> 2 was 30 points ahead after 8 s, and 4 behind after 130."""
    assert race.adopted([effect("stem.strides", low=0.3, time_ratio=0.41)]) is None
    dearer, sooner = (
        effect("stem.strides", low=0.02, time_ratio=2.4),
        effect("activation", low=0.03),
    )
    assert race.adopted([dearer, sooner]) is sooner
    assert race.adopted([dearer]) is dearer
