"""How well answers agree with labels: accuracy, balanced accuracy and macro F1, each with its
interval.

Answers and labels are indices of classes, (n,). Balanced accuracy is the mean of the recalls of the
classes that are there; macro F1 the mean of the F1 of the classes that are there or were answered
(as in scikit-learn).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convwise.core.intervals import wilson

SURELY = 1.6448536269514722  # of a normal distribution, 5 % lie above
DRAWS = 1000  # of a bootstrap

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Recall:
    """The share of a class that was found, with its 95 % interval; n: images of it."""

    recall: float
    low: float
    high: float
    n: int


def outcomes(answers: Ints, labels: Ints, score: str) -> Doubles:
    """What each answer adds to the score, (n,): their mean is the score.

    accuracy: 1 where it is right. balanced_accuracy: right answers weigh the more, the rarer their
    class is. macro_f1: the score, and how it changes with the weight of the example (infinitesimal
    jackknife: Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982, chapter 6), so
    that differences of paired outcomes vary as differences of the score do.
    """
    right = (answers == labels).astype(np.float64)
    if score == "accuracy" or not len(labels):
        return np.asarray(right)
    if score == "balanced_accuracy":
        there = np.bincount(labels)
        return np.asarray(right * len(labels) / (there[labels] * np.count_nonzero(there)))
    both = np.bincount(np.concatenate([answers, labels])).astype(np.float64)
    found = 2 * np.bincount(labels, right, len(both)) / np.maximum(both, 1)
    classes = np.count_nonzero(both)
    moved = 2 * right / both[labels] - found[labels] / both[labels] - found[answers] / both[answers]
    return np.asarray((found.sum() + len(labels) * moved) / classes)


def value(answers: Ints, labels: Ints, score: str) -> float:
    """The score of the answers; 0 without any."""
    return min(float(outcomes(answers, labels, score).mean()), 1.0) if len(labels) else 0.0


def largest(labels: Ints) -> Ints:
    """The answers of knowing nothing of the images: always the largest class."""
    return np.full_like(labels, np.bincount(labels).argmax()) if len(labels) else labels


def baseline(labels: Ints, score: str) -> float:
    """What always answering with the largest class would score: an accuracy of its share; 0 without
    labels.
    """
    return value(largest(labels), labels, score)


def recalls(answers: Ints, labels: Ints) -> dict[int, Recall]:
    """class -> the share of it that was found, if it is there; intervals are Wilson's."""
    found = {}
    for label in np.unique(labels).tolist():
        mine = answers[labels == label] == label
        found[label] = Recall(float(mine.mean()), *wilson(int(mine.sum()), len(mine)), len(mine))
    return found


def interval(answers: Ints, labels: Ints, score: str) -> tuple[float, float]:
    """The 95 % interval of the score.

    accuracy: Wilson's. balanced_accuracy: from those of the recalls (square-and-add: Zou & Donner,
    Statistics in Medicine 2008). macro_f1: the percentile bootstrap; where every answer is right
    nothing varies, and the interval is that of balanced_accuracy.
    """
    if score == "accuracy" or not len(labels):
        return wilson(int((answers == labels).sum()), len(labels))
    if score == "macro_f1" and (answers != labels).any():
        low, high = np.percentile(_drawn_f1(answers, labels), [2.5, 97.5])
        return float(low), float(high)
    each = list(recalls(answers, labels).values())
    mean = sum(r.recall for r in each) / len(each)
    below = np.sqrt(sum((r.recall - r.low) ** 2 for r in each)) / len(each)
    above = np.sqrt(sum((r.high - r.recall) ** 2 for r in each)) / len(each)
    return max(0.0, float(mean - below)), min(1.0, float(mean + above))


def _drawn_f1(answers: Ints, labels: Ints) -> Doubles:
    """Macro F1 of as many examples drawn again, (DRAWS,), by how many are of each kind."""
    (labels, answers), kinds = np.unique(np.stack([labels, answers]), axis=1, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(kinds.sum(), kinds / kinds.sum(), DRAWS)
    classes = int(max(labels.max(), answers.max())) + 1
    truly, said = np.eye(classes)[labels], np.eye(classes)[answers]
    both = drawn @ (truly + said)
    hits = 2 * drawn @ (truly * said)
    return np.asarray((hits / np.maximum(both, 1)).sum(1) / np.count_nonzero(both, axis=1))


def surely_higher(answers: Ints, labels: Ints, score: str) -> bool:
    """Whether the score is surely higher than that of always the largest class: paired, one-sided,
    at 5 %.

    The variance holds one changed answer more each way than there was (after Agresti & Min,
    Statistics in Medicine 2005): few examples, or none that differs, would claim too much.
    """
    if not len(labels):
        return False
    ours = outcomes(answers, labels, score)
    changes, n = ours - outcomes(largest(labels), labels, score), len(labels) + 2
    flip = float(np.square(ours).sum() / (np.abs(ours).sum() or 1))
    mean = float(changes.sum()) / n
    variance = (float(np.square(changes).sum()) + 2 * flip**2) / n - mean**2
    return mean > SURELY * float(np.sqrt(variance / n))
