"""What is learnt. A task is a loss, a metric and a baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from convwise.core.records import Recipe
from convwise.training.tasks import classify


@dataclass(frozen=True)
class Task:
    """loss(logits, labels, recipe) -> a number; taught(labels, answers, recipe) -> labels of which a
    teacher's answers are a part; correct(logits, labels) -> bool per example; outcomes(logits, labels, score) -> what
    each example adds to a score of core/goal.py, which is their mean; baseline(labels, score) -> the score of knowing
    nothing of the images; better(right, labels) -> whether answers are surely more accurate than that;
    surely(probabilities, labels, score) -> whether they surely score higher than that."""

    loss: Callable[[torch.Tensor, torch.Tensor, Recipe], torch.Tensor]
    taught: Callable[[torch.Tensor, torch.Tensor, Recipe], torch.Tensor]
    correct: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    outcomes: Callable[[torch.Tensor, torch.Tensor, str], np.ndarray]
    baseline: Callable[..., float]
    better: Callable[[np.ndarray, np.ndarray], bool]
    surely: Callable[[np.ndarray, np.ndarray, str], bool]


TASKS: dict[str, Task] = {
    "classify": Task(classify.loss, classify.taught, classify.correct, classify.outcomes, classify.baseline,
                     classify.better, classify.surely),
}  # fmt: skip
