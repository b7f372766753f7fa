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
    teacher's answers are a part; correct(logits, labels) -> bool per example; baseline(labels) -> the
    score of knowing nothing of the images; better(right, labels) -> whether answers are surely better than that."""

    loss: Callable[[torch.Tensor, torch.Tensor, Recipe], torch.Tensor]
    taught: Callable[[torch.Tensor, torch.Tensor, Recipe], torch.Tensor]
    correct: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    baseline: Callable[[np.ndarray], float]
    better: Callable[[np.ndarray, np.ndarray], bool]


TASKS: dict[str, Task] = {
    "classify": Task(classify.loss, classify.taught, classify.correct, classify.baseline, classify.better),
}
