"""One label for each image: cross entropy, the scores of scores.py, the largest class as baseline."""

from __future__ import annotations

import numpy as np
import torch
from scipy import special
from torch.nn import functional

from convwise.core.records import Recipe
from convwise.training import scores

TEACHER = 0.5  # share of the teacher's answers in what a net learns from


def loss(logits: torch.Tensor, labels: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Mean cross entropy of logits (n, classes), smoothed, weighted per class where the recipe says so.

    labels: (n,), or as `taught` makes them.
    """
    weight = torch.tensor(recipe.class_weights, device=logits.device) if recipe.class_weights else None
    smoothing = recipe.label_smoothing if labels.ndim == 1 else 0.0
    return functional.cross_entropy(logits, labels, weight, label_smoothing=smoothing)


def taught(labels: torch.Tensor, answers: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Half the labels (n,), smoothed, and half a teacher's probabilities (n, classes), as they are.

    What a good net finds alike says more of an image than its label (Hinton et al. 2015).
    """
    hard = functional.one_hot(labels, answers.shape[1]).float()
    hard = (1 - recipe.label_smoothing) * hard + recipe.label_smoothing / answers.shape[1]
    return torch.lerp(hard, answers, TEACHER)


def correct(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Whether each example's largest logit is its label: bool (n,)."""
    return logits.argmax(1) == labels


def outcomes(logits: torch.Tensor, labels: torch.Tensor, score: str) -> np.ndarray:
    """What each example adds to the score, (n,): see scores.outcomes."""
    return scores.outcomes(logits.argmax(1).cpu().numpy(), labels.cpu().numpy(), score)


def baseline(labels: np.ndarray, score: str = "accuracy") -> float:
    """What always answering with the largest class would score: an accuracy of its share; 0 without labels."""
    return scores.baseline(labels, score)


def surely(probabilities: np.ndarray, labels: np.ndarray, score: str) -> bool:
    """Whether the likeliest classes, of probabilities (n, classes), surely score higher than always the largest."""
    answers = probabilities.argmax(1) if len(labels) else labels
    return better(answers == labels, labels) if score == "accuracy" else scores.surely_higher(answers, labels, score)


def better(right: np.ndarray, labels: np.ndarray) -> bool:
    """Whether answers that are `right`, bool (n,), are surely better than always the largest class.

    McNemar's exact test of both on the same images, one-sided, at 5 %: it holds for classes of very
    different sizes too.
    """
    guessed = labels == np.bincount(labels).argmax() if len(labels) else right
    won, lost = int((right & ~guessed).sum()), int((~right & guessed).sum())
    return bool(special.bdtrc(won - 1, won + lost, 0.5) < 0.05) if won > lost else False
