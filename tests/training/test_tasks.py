"""What every task promises: each row of TASKS is tried on answers that are right, and on those that
need no image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from convwise.core.layers import Conv2D, Dense, GlobalAveragePooling2D, Rescaling
from convwise.core.net import Net
from convwise.core.recipe import Recipe
from convwise.core.records import Result, Trial
from convwise.core.score import score_of
from convwise.core.task import KINDS
from convwise.training.tasks import TASKS

BODY = (Rescaling(1 / 255), Conv2D(4, 3), GlobalAveragePooling2D())
CLASSES, NUMBERS = np.arange(91) % 3, np.linspace(480.0, 520.0, 91)
PAIRS = np.stack([NUMBERS, np.sin(NUMBERS) / 100], axis=1)  # of very different sizes


@dataclass(frozen=True)
class Case:
    """right: what a net answers that is always right; nothing: one that says the same of every
    image.
    """

    task: str
    net: Net
    labels: np.ndarray
    right: np.ndarray
    nothing: np.ndarray

    def outputs(self, answers: np.ndarray) -> torch.Tensor:
        """The outputs of which `answers` are made: without the softmax, or the units of the
        numbers.
        """
        unit: Any = self.net.layers[-1]
        told = (
            20 * answers
            if self.task == "classify"
            else (answers - np.array(unit.offset)) / np.array(unit.scale)
        )
        return torch.tensor(told, dtype=torch.float32)


EYE = np.eye(3, dtype=np.float32)
CASES = {
    "classify": Case("classify", Net((8, 8, 1), (*BODY, Dense(3, activation="softmax"))), CLASSES,
    EYE[CLASSES],
                     EYE[CLASSES * 0]),
    "regress": Case("regress", Net((8, 8, 1), (*BODY, Dense(1), Rescaling(20.0, 500.0))), NUMBERS,
    NUMBERS[:, None],
                    np.full((91, 1), 500.0)),
    "regress, several": Case("regress", Net((8, 8, 1), (*BODY, Dense(2), Rescaling((20.0, 0.007),
    (500.0, 0.0)))),
                             PAIRS, PAIRS, np.tile(np.median(PAIRS, axis=0), (91, 1))),
}  # fmt: skip


def test_every_row_has_a_case():
    assert {case.task for case in CASES.values()} == set(TASKS)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
class TestConformance:
    """A new row of TASKS is tried here, on the case that it has above."""

    def test_outcomes_in_training_are_those_of_the_whole_net(self, case):
        task = TASKS[case.task]
        learnt = task.learnt(torch.tensor(case.labels), case.net)
        for answers in (case.right, case.nothing, np.roll(case.right, 1, 0)):
            found = task.outcomes(case.outputs(answers), learnt, case.net).numpy()
            np.testing.assert_allclose(
                found.astype(float), task.answered(answers, case.labels, case.net), atol=1e-4
            )

    def test_right_answers_are_better_than_nothing_and_nothing_is_not(self, case):
        task, score, labels, net = TASKS[case.task], KINDS[case.task].scored, case.labels, case.net
        for answers, good in ((case.right, True), (case.nothing, False)):
            outcomes = task.answered(answers, labels, net)
            assert task.better(outcomes, labels, net) == good
            assert task.surely(answers, labels, score, net) == good
            assert task.learns([outcomes, outcomes], labels, net) == good
        assert not task.better(outcomes[:0], labels[:0], net)

    def test_the_loss_prefers_what_is_right_also_with_a_teacher(self, case):
        task, recipe = TASKS[case.task], Recipe()
        right, nothing = (case.outputs(each) for each in (case.right, case.nothing))
        labels = torch.tensor(case.labels)
        taught = task.taught(labels, torch.tensor(case.right, dtype=torch.float32), recipe)
        for said in (labels, taught):
            learnt = task.learnt(said, case.net)
            assert task.loss(right, learnt, recipe) < task.loss(nothing, learnt, recipe)

    def test_the_estimate_holds_the_score_inside_its_interval(self, case):
        for answers in (case.right, case.nothing):
            found = TASKS[case.task].estimate(answers, case.labels, case.net)
            assert found["low"] <= found[KINDS[case.task].scored] <= found["high"]
            assert found["n"] == 91

    def test_the_score_is_at_least_the_worse_end_of_the_interval(self, case):
        task, score = TASKS[case.task], KINDS[case.task].scored
        for answers in (case.right, case.nothing):
            least = task.at_least(answers, case.labels, score, case.net)
            found = task.estimate(answers, case.labels, case.net)
            told = score_of(case.net).value(least)
            assert told == pytest.approx(found["high" if score == "error" else "low"])
        assert task.at_least(case.right[:0], case.labels[:0], score, case.net) <= 0

    def test_what_is_kept_fits_a_result(self, case):
        task = TASKS[case.task]
        outcomes = task.answered(case.right, case.labels, case.net)
        result = Result(Trial("t", "race", {}, case.net, epochs=1), "done")
        kept = replace(result, **task.kept(outcomes, outcomes))
        assert kept != result
