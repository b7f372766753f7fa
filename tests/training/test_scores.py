"""Scores, against scikit-learn and against draws: values, what each example adds, intervals,
guessing.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from convwise.core.goal import SCORES
from convwise.training import scores

ORACLES = {
    "accuracy": metrics.accuracy_score,
    "balanced_accuracy": metrics.balanced_accuracy_score,
    "macro_f1": lambda labels, answers: metrics.f1_score(
        labels, answers, average="macro", zero_division=0
    ),
}


def uneven(n: int = 400, error: float = 0.2, seed: int = 0, shares=(0.7, 0.2, 0.07, 0.03)):
    """(answers, labels): classes of very different sizes; wrong answers mostly name the largest."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(len(shares), n, p=shares)
    answers = np.where(rng.random(n) < error, rng.choice(len(shares), n, p=shares), labels)
    return answers, labels


def test_every_score_has_an_oracle():
    assert set(ORACLES) == set(SCORES)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("seed", range(5))
def test_values_are_those_of_scikit_learn(score, seed):
    answers, labels = uneven(120, 0.3, seed)
    assert scores.value(answers, labels, score) == pytest.approx(
        ORACLES[score](labels, answers), abs=1e-12
    )
    guess = np.full(len(labels), np.bincount(labels).argmax())
    assert scores.baseline(labels, score) == pytest.approx(ORACLES[score](labels, guess), abs=1e-12)


def test_a_class_that_is_answered_but_not_there_counts_as_in_scikit_learn():
    labels, answers = np.array([0, 0, 1, 1, 3]), np.array([0, 2, 1, 1, 3])
    assert scores.value(answers, labels, "macro_f1") == pytest.approx(
        ORACLES["macro_f1"](labels, answers)
    )
    assert scores.value(answers, labels, "balanced_accuracy") == pytest.approx((0.5 + 1 + 1) / 3)


@pytest.mark.parametrize("score", ["balanced_accuracy", "macro_f1"])
def test_paired_outcomes_vary_as_the_difference_of_the_score_does(score):
    """The oracle draws whole validation parts anew, and looks at how the difference of two nets
    spreads.
    """
    told, seen = [], []
    for seed in range(200):
        answers, labels = uneven(500, 0.25, seed)
        rng = np.random.default_rng(1000 + seed)
        others = np.where(rng.random(len(labels)) < 0.15, rng.integers(0, 4, len(labels)), labels)
        change = scores.outcomes(others, labels, score) - scores.outcomes(answers, labels, score)
        told.append(change.std() / np.sqrt(len(change)))
        seen.append(change.mean())
    assert np.mean(told) == pytest.approx(np.std(seen), rel=0.2)


@pytest.mark.parametrize("score", SCORES)
def test_intervals_hold_the_truth_about_as_often_as_they_say(score):
    truth = scores.value(*uneven(400_000, 0.2, 99), score)
    held = [
        low <= truth <= high
        for low, high in (scores.interval(*uneven(600, 0.2, s), score) for s in range(120))
    ]
    assert np.mean(held) >= 0.88  # 95 % of 120, less three standard deviations


def test_an_interval_of_faultless_answers_says_what_few_images_can_say():
    labels = np.repeat([0, 1], (96, 4))
    for score in ("balanced_accuracy", "macro_f1"):
        low, high = scores.interval(labels, labels, score)
        assert high == 1
        # Four images leave a recall wide open: Wilson's lower end of 4 of 4 is 0.51
        assert 0.7 < low < 0.8


@pytest.mark.parametrize("score", ["balanced_accuracy", "macro_f1"])
def test_guessing_is_seldom_called_better_and_a_rare_class_that_is_found_is(score):
    alarms = []
    for seed in range(300):
        _, labels = uneven(200, 0, seed, (0.55, 0.25, 0.2))
        alarms.append(scores.surely_higher(np.full_like(labels, labels[0]), labels, score))
    assert np.mean(alarms) <= 0.05
    labels = np.repeat([0, 1], (950, 50))
    answers = labels.copy()
    # Less accurate than always 0, and yet it tells the classes apart
    answers[:60], answers[-10:] = 1, 0
    assert (answers == labels).mean() < 0.95
    assert scores.surely_higher(answers, labels, score)
    assert not scores.surely_higher(np.zeros(0, int), np.zeros(0, int), score)
    # Four images
    assert not scores.surely_higher(
        np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), "balanced_accuracy"
    )


def test_recalls_are_by_class():
    found = scores.recalls(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1]))
    assert {k: (r.recall, r.n) for k, r in found.items()} == {0: (0.5, 2), 1: (0.5, 2)}
    assert found[0].low < 0.5 < found[0].high
