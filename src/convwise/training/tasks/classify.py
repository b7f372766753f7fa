"""One label for each image: cross entropy, scores of scores.py, the largest class as baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import special
from torch.nn import functional

from convwise.core.intervals import wilson
from convwise.core.net import Net
from convwise.core.recipe import Recipe
from convwise.training import scores

TEACHER = 0.5  # share of the teacher's answers in what a net learns from


def learnt(labels: torch.Tensor, net: Net) -> torch.Tensor:
    """Labels as the net learns them: as they are."""
    return labels


def loss(logits: torch.Tensor, labels: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Mean cross entropy of logits (n, classes), smoothed, weighted per class where the recipe says
    so.

    labels: (n,), or as `taught` makes them.
    """
    weight = (
        torch.tensor(recipe.class_weights, device=logits.device) if recipe.class_weights else None
    )
    smoothing = recipe.label_smoothing if labels.ndim == 1 else 0.0
    return functional.cross_entropy(logits, labels, weight, label_smoothing=smoothing)


def taught(labels: torch.Tensor, answers: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Half the labels (n,), smoothed, and half a teacher's probabilities (n, classes), as they are.

    What a good net finds alike says more of an image than its label (Hinton et al. 2015).
    """
    hard = functional.one_hot(labels, answers.shape[1]).float()
    hard = (1 - recipe.label_smoothing) * hard + recipe.label_smoothing / answers.shape[1]
    return torch.lerp(hard, answers, TEACHER)


def outcomes(logits: torch.Tensor, labels: torch.Tensor, net: Net) -> torch.Tensor:
    """Whether each example's largest logit is its label: bool (n,)."""
    return logits.argmax(1) == labels


def weighed(logits: torch.Tensor, labels: torch.Tensor, score: str) -> np.ndarray:
    """What each example adds to the score, (n,), see scores.outcomes; none of accuracy: `outcomes`
    says that.
    """
    if score == "accuracy":
        return np.zeros(0)
    return scores.outcomes(logits.argmax(1).cpu().numpy(), labels.cpu().numpy(), score)


def kept(right: np.ndarray, mirrored: np.ndarray) -> dict[str, Any]:
    """What a Result keeps of right answers, bool (n,), and of those to both views."""
    return {"correct": _text(right), "mirrored": _text(mirrored)}


def answered(answers: np.ndarray, labels: np.ndarray, net: Net) -> np.ndarray:
    """Whether each of the answers, probabilities (n, classes), is right: bool (n,)."""
    right: np.ndarray = _likeliest(answers, labels) == labels
    return right


def baseline(labels: np.ndarray, score: str, net: Net) -> float:
    """What always answering with the largest class would score: an accuracy of its share; 0 without
    labels.
    """
    return scores.baseline(labels, score)


def surely(answers: np.ndarray, labels: np.ndarray, score: str, net: Net) -> bool:
    """Whether answers (n, classes) surely score higher than always the largest class."""
    if score == "accuracy":
        return better(answered(answers, labels, net), labels, net)
    return scores.surely_higher(_likeliest(answers, labels), labels, score)


def at_least(answers: np.ndarray, labels: np.ndarray, score: str, net: Net) -> float:
    """The lower end of the 95 % interval of the score."""
    return scores.interval(_likeliest(answers, labels), labels, score)[0]


def better(right: np.ndarray, labels: np.ndarray, net: Net) -> bool:
    """Whether answers that are `right`, bool (n,), are surely better than always the largest class.

    McNemar's exact test of both on the same images, one-sided, at 5 %: it holds for classes of very
    different sizes too.
    """
    guessed = labels == np.bincount(labels).argmax() if len(labels) else right
    won, lost = int((right & ~guessed).sum()), int((~right & guessed).sum())
    return bool(special.bdtrc(won - 1, won + lost, 0.5) < 0.05) if won > lost else False


def learns(runs: Sequence[np.ndarray], labels: np.ndarray, net: Net) -> bool:
    """Whether several trainings of one net, each with its right answers, 1 or 0 (n,), surely beat
    the largest class.
    """
    right = round(float(np.sum(runs)) / len(runs))
    return wilson(right, len(runs[0]))[0] > baseline(labels, "accuracy", net)


def estimate(answers: np.ndarray, labels: np.ndarray, net: Net) -> dict[str, Any]:
    """The accuracy with its 95 % interval, and the scores that count every class alike."""
    said = _likeliest(answers, labels)
    low, high = scores.interval(said, labels, "accuracy")
    return {
        "accuracy": scores.value(said, labels, "accuracy"),
        "low": low,
        "high": high,
        "n": len(labels),
        "balanced_accuracy": scores.value(said, labels, "balanced_accuracy"),
        "macro_f1": scores.value(said, labels, "macro_f1"),
    }


def _likeliest(answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The likeliest class of each answer, (n,): without images there may be no classes either."""
    return answers.argmax(1) if len(labels) else labels


def _text(right: np.ndarray) -> str:
    return "".join("01"[int(each)] for each in right)
