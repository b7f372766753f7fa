"""What every task promises: each row of TASKS is tried on answers that are right, and on those that need no image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from convwise.core.layers import Conv2D, Dense, GlobalAveragePooling2D, Rescaling
from convwise.core.net import Net
from convwise.core.recipe import Recipe
from convwise.core.records import Result, Trial
from convwise.core.task import KINDS
from convwise.training.tasks import TASKS

BODY = (Rescaling(1 / 255), Conv2D(4, 3), GlobalAveragePooling2D())
CLASSES, NUMBERS = np.arange(91) % 3, np.linspace(480.0, 520.0, 91)
NETS = {
    "label": Net((8, 8, 1), (*BODY, Dense(3, activation="softmax"))),
    "number": Net((8, 8, 1), (*BODY, Dense(1), Rescaling(20.0, 500.0))),
}
LABELS = {"label": CLASSES, "number": NUMBERS}
# What a net answers that is always right, and one that says the same of every image.
RIGHT = {"label": np.eye(3, dtype=np.float32)[CLASSES], "number": NUMBERS[:, None]}
NOTHING = {"label": np.eye(3, dtype=np.float32)[CLASSES * 0], "number": np.full((91, 1), 500.0)}


def outputs(target: str, answers: np.ndarray) -> torch.Tensor:
    """The outputs of which `answers` are made: without the softmax, or the unit of the number."""
    told = 20 * answers if target == "label" else (answers - 500.0) / 20.0
    return torch.tensor(told, dtype=torch.float32)


@pytest.mark.parametrize("name", TASKS)
class TestConformance:
    """A new row of TASKS is tried here; one that reads something new needs examples above."""

    def test_outcomes_in_training_are_those_of_the_whole_net(self, name):
        task, target = TASKS[name], KINDS[name].target
        learnt = task.learnt(torch.tensor(LABELS[target]), NETS[target])
        for answers in (RIGHT[target], NOTHING[target], np.roll(RIGHT[target], 1, 0)):
            found = task.outcomes(outputs(target, answers), learnt, NETS[target]).numpy()
            np.testing.assert_allclose(found.astype(float), task.answered(answers, LABELS[target]), atol=1e-4)

    def test_right_answers_are_better_than_nothing_and_nothing_is_not(self, name):
        task, target, score = TASKS[name], KINDS[name].target, KINDS[name].scored
        labels = LABELS[target]
        for answers, good in ((RIGHT[target], True), (NOTHING[target], False)):
            outcomes = task.answered(answers, labels)
            assert task.better(outcomes, labels) == good
            assert task.surely(answers, labels, score) == good
            assert task.learns([outcomes, outcomes], labels) == good
        assert not task.better(outcomes[:0], labels[:0])

    def test_the_loss_prefers_what_is_right_also_with_a_teacher(self, name):
        task, target, recipe = TASKS[name], KINDS[name].target, Recipe()
        right, nothing = (outputs(target, each) for each in (RIGHT[target], NOTHING[target]))
        labels, net = torch.tensor(LABELS[target]), NETS[target]
        taught = task.taught(labels, torch.tensor(RIGHT[target], dtype=torch.float32), recipe)
        for said in (labels, taught):
            learnt = task.learnt(said, net)
            assert task.loss(right, learnt, recipe) < task.loss(nothing, learnt, recipe)

    def test_the_estimate_holds_the_score_inside_its_interval(self, name):
        target, score = KINDS[name].target, KINDS[name].scored
        for answers in (RIGHT[target], NOTHING[target]):
            found = TASKS[name].estimate(answers, LABELS[target])
            assert found["low"] <= found[score] <= found["high"]
            assert found["n"] == 91

    def test_what_is_kept_fits_a_result(self, name):
        task, target = TASKS[name], KINDS[name].target
        outcomes = task.answered(RIGHT[target], LABELS[target])
        result = Result(Trial("t", "race", {}, NETS[target], epochs=1), "done")
        kept = replace(result, **task.kept(outcomes, outcomes))
        assert kept != result
