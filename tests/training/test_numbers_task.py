"""A number from an image: what is learnt, what an answer is worth, and that a net learns it, in the
target's unit.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import mean_absolute_error, r2_score

from convwise.core.layers import Conv2D, Dense, GlobalAveragePooling2D, Rescaling
from convwise.core.net import Net
from convwise.core.records import Engine, Recipe, Trial
from convwise.core.task import KINDS
from convwise.training import batches, train
from convwise.training.tasks import TASKS, regress

MEAN, DEVIATION = 500.0, 20.0
NET = Net((8, 8, 1), (Rescaling(1 / 255), Conv2D(4, 3, activation="relu"), GlobalAveragePooling2D(),
                      Dense(1), Rescaling(DEVIATION, MEAN)))  # fmt: skip


def test_every_kind_of_task_has_a_row():
    assert list(TASKS) == list(KINDS)


def test_labels_are_learnt_with_mean_0_and_deviation_1():
    labels = torch.tensor([500.0, 520.0, 470.0], dtype=torch.float64)
    assert regress.learnt(labels, NET).tolist() == [[0.0], [1.0], [-1.5]]


def test_the_loss_is_straight_beyond_one_deviation():
    targets = torch.zeros(1, 1)
    losses = [
        float(regress.loss(torch.full((1, 1), x), targets, Recipe())) for x in (0.5, 1.0, 3.0)
    ]
    assert losses == pytest.approx([0.125, 0.5, 2.5])


def test_outcomes_are_absolute_errors_in_the_unit_of_the_target():
    labels = torch.tensor([500.0, 520.0], dtype=torch.float64)
    outputs = torch.tensor([[0.5], [-1.0]])  # of the net without its unit: 510 and 480
    found = regress.outcomes(outputs, regress.learnt(labels, NET), NET).numpy()
    assert found == pytest.approx([10, 40])
    assert found == pytest.approx(
        regress.answered(np.array([[510.0], [480.0]]), labels.numpy(), NET)
    )


def test_a_teacher_s_answers_are_half_of_what_is_learnt():
    labels, answers = torch.tensor([10.0, 20.0]), torch.tensor([[12.0], [10.0]])
    assert regress.taught(labels, answers, Recipe()).tolist() == [11.0, 15.0]


def test_the_median_is_the_best_that_needs_no_image():
    labels = np.random.default_rng(0).exponential(3.0, 201)
    tried = [np.abs(labels - constant).mean() for constant in np.linspace(0, 15, 1501)]
    assert regress.baseline(labels, "error", NET) <= min(tried) + 1e-12
    assert regress.baseline(labels, "error", NET) == pytest.approx(min(tried), abs=1e-2)


def test_the_estimate_is_scikit_learn_s_and_its_interval_scipy_s():
    rng = np.random.default_rng(1)
    labels = rng.normal(40, 9, 150)
    answers = (labels + rng.normal(1, 3, 150))[:, None].astype(np.float32)
    found = regress.estimate(answers, labels, NET)
    assert found["error"] == pytest.approx(mean_absolute_error(labels, answers))
    assert found["r2"] == pytest.approx(r2_score(labels, answers))
    errors = np.abs(answers[:, 0].astype(float) - labels)
    within = stats.t.interval(0.95, 149, errors.mean(), stats.sem(errors))
    assert (found["low"], found["high"]) == pytest.approx(within)


def test_better_is_student_s_paired_test():
    rng = np.random.default_rng(2)
    labels = rng.normal(0, 1, 80)
    for noise in (0.2, 0.8, 0.95, 1.0, 1.3):
        errors = np.abs(rng.normal(0, noise, 80))
        nothing = np.abs(labels - np.median(labels))
        p = stats.ttest_rel(nothing, errors, alternative="greater").pvalue
        assert regress.better(errors, labels, NET) == (p < 0.05)
        assert regress.surely((labels + errors)[:, None], labels, "error", NET) == (p < 0.05)
    assert not regress.better(np.zeros(0), np.zeros(0), NET)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Even images whose number is their brightness, from 480 to about 520."""
    where, rng = tmp_path_factory.mktemp("brightness"), np.random.default_rng(0)
    for name, count in (("train", 256), ("valid", 100)):
        value = rng.uniform(0, 255, count)
        pixels = np.clip(
            value[:, None, None, None] + rng.normal(0, 4, (count, 8, 8, 1)), 0, 255
        ).astype(np.uint8)
        batches.store(
            where,
            "8x8",
            name,
            SimpleNamespace(pixels=pixels, labels=MEAN + 40 * (value / 255 - 0.5)),
        )
    return where


def test_a_net_learns_numbers_and_answers_in_their_unit(folder):
    recipe = Recipe(batch_size=32, learning_rate=0.03, shift_px=0, label_smoothing=0.0)
    trial = Trial("t", "race", {}, NET, recipe, epochs=8)
    result, weights = train.train(trial, folder, Engine(), "regress")
    valid = batches.load(folder, "8x8", ("valid",))
    labels = valid.labels.numpy()
    errors = np.abs(train.answers(NET, weights, valid.pixels.numpy())[:, 0] - labels)
    assert result.errors == pytest.approx(errors, abs=2e-3)
    assert result.score == pytest.approx(1 - errors.mean() / DEVIATION, abs=1e-4)
    assert errors.mean() < 0.3 * regress.baseline(labels, "error", NET)
    assert result.correct == result.mirrored == ""
    assert result.weighed == ()
    # Even images are their own mirror images, but for the noise.
    as_is, mirrored = result.views
    assert np.mean(as_is) == pytest.approx(np.mean(mirrored), abs=0.02)
    assert result.history[-1].accuracy == result.score


PAIR = Net((8, 8, 1), (Rescaling(1 / 255), Conv2D(4, 3, activation="relu"),
                       GlobalAveragePooling2D(), Dense(2), Rescaling((DEVIATION, 0.5), (MEAN,
                       3.0))))  # fmt: skip


def test_of_several_numbers_each_counts_in_its_own_deviations():
    labels = torch.tensor([[500.0, 3.0], [520.0, 2.0]], dtype=torch.float64)
    assert regress.learnt(labels, PAIR).tolist() == [[0.0, 0.0], [1.0, -2.0]]
    answers = np.array([[510.0, 3.0], [480.0, 2.5]])
    # (10/20 + 0)/2, (40/20 + .5/.5)/2
    assert regress.answered(answers, labels.numpy(), PAIR).tolist() == [0.25, 1.5]
    taught = regress.taught(labels, torch.tensor(answers), Recipe())
    assert taught.tolist() == [[505.0, 3.0], [500.0, 2.25]]


def test_the_estimate_of_several_numbers_is_scikit_learn_s():
    rng = np.random.default_rng(3)
    labels = rng.normal((40, -2), (9, 0.1), (150, 2))
    answers = labels + rng.normal(0, (3, 0.02), (150, 2))
    found = regress.estimate(answers, labels, PAIR)
    each = mean_absolute_error(labels, answers, multioutput="raw_values")
    assert found["error"] == pytest.approx((each / [DEVIATION, 0.5]).mean())
    assert found["r2"] == pytest.approx(r2_score(labels, answers))
    assert [column["error"] for column in found["columns"]] == pytest.approx(each)
    assert [column["r2"] for column in found["columns"]] == pytest.approx(
        r2_score(labels, answers, multioutput="raw_values")
    )
    nothing = np.abs(labels - np.median(labels, axis=0))
    assert [column["baseline"] for column in found["columns"]] == pytest.approx(nothing.mean(0))
    assert regress.baseline(labels, "error", PAIR) == pytest.approx(
        (nothing / [DEVIATION, 0.5]).mean()
    )
