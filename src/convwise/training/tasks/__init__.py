"""What is learnt: what is read of each image, how it is learnt, what an answer is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from convwise.core.net import Net
from convwise.core.recipe import Recipe
from convwise.training.tasks import classify, regress


@dataclass(frozen=True)
class Task:
    """One task. Labels are what the images say, (n,), or of several numbers (n, k); outcomes, one
    for each example.

    learnt(labels, net) -> labels as the loss takes them; loss(outputs, learnt, recipe) -> a number,
    of what the net gives without its softmax, or unit; taught(labels, answers, recipe) -> labels of
    which a teacher's answers are a part. outcomes(outputs, learnt, net) -> one for each example;
    weighed(outputs, learnt, score) -> what each adds to the score of this name, where its outcome
    does not say it; kept(outcomes, of both views) -> what a Result keeps of them; answered(answers,
    labels, net) -> the same outcomes, of what the whole net answers. baseline(labels, score, net)
    -> what is told of knowing nothing of the images; better(outcomes, labels, net) -> whether
    answers are surely better than that; surely(answers, labels, score, net) -> whether they surely
    score better than that; at_least(answers, labels, score, net) -> the score they surely have;
    learns(outcomes of several trainings, labels, net) -> whether the net that was trained is better
    than knowing nothing. estimate(answers, labels, net) -> what is told, with its interval: `test`
    in choice.json.
    What is read, and what it is called, is in core/task.py; what is written of answers, in
    output/answered.
    """

    learnt: Callable[[torch.Tensor, Net], torch.Tensor]
    loss: Callable[[torch.Tensor, torch.Tensor, Recipe], torch.Tensor]
    taught: Callable[[torch.Tensor, torch.Tensor, Recipe], torch.Tensor]
    outcomes: Callable[[torch.Tensor, torch.Tensor, Net], torch.Tensor]
    weighed: Callable[[torch.Tensor, torch.Tensor, str], np.ndarray]
    kept: Callable[[np.ndarray, np.ndarray], dict[str, Any]]
    answered: Callable[[np.ndarray, np.ndarray, Net], np.ndarray]
    baseline: Callable[[np.ndarray, str, Net], float]
    better: Callable[[np.ndarray, np.ndarray, Net], bool]
    surely: Callable[[np.ndarray, np.ndarray, str, Net], bool]
    at_least: Callable[[np.ndarray, np.ndarray, str, Net], float]
    learns: Callable[[Sequence[np.ndarray], np.ndarray, Net], bool]
    estimate: Callable[[np.ndarray, np.ndarray, Net], dict[str, Any]]


TASKS: dict[str, Task] = {
    "classify": Task(
        classify.learnt, classify.loss, classify.taught, classify.outcomes, classify.weighed,
        classify.kept,
        classify.answered, classify.baseline, classify.better, classify.surely, classify.at_least,
        classify.learns, classify.estimate,
    ),
    "regress": Task(
        regress.learnt, regress.loss, regress.taught, regress.outcomes, regress.weighed,
        regress.kept,
        regress.answered, regress.baseline, regress.better, regress.surely, regress.at_least,
        regress.learns, regress.estimate,
    ),
}  # fmt: skip
