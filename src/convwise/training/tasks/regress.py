"""One number for each image: Huber's loss on standardised targets, absolute error, the median as baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import special
from torch.nn import functional

from convwise.core.net import Net
from convwise.core.recipe import Recipe
from convwise.core.score import number_of
from convwise.training.tasks.classify import TEACHER

DIGITS = 6  # significant ones that are kept of an error


def learnt(labels: torch.Tensor, net: Net) -> torch.Tensor:
    """Numbers (n,) as the net learns them, float32 (n, 1): with mean 0 and deviation 1 over the training images."""
    mean, deviation = _moments(net)
    return ((labels.double() - mean) / deviation).float()[:, None]


def loss(outputs: torch.Tensor, targets: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Mean Huber loss of outputs (n, 1) of the net without its unit: squares up to one deviation, then straight.

    Few images whose numbers are far off pull less than they would by squares (Huber, Annals of Mathematical
    Statistics 1964).
    """
    return functional.huber_loss(outputs, targets)


def taught(labels: torch.Tensor, answers: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Numbers half way from the labels (n,) to a teacher's answers (n, 1), as for classes."""
    return torch.lerp(labels.double(), answers[:, 0].double(), TEACHER)


def outcomes(outputs: torch.Tensor, targets: torch.Tensor, net: Net) -> torch.Tensor:
    """The absolute error of each example, in the unit of the target: float32 (n,)."""
    return (outputs - targets).abs()[:, 0] * _moments(net)[1]


def weighed(outputs: torch.Tensor, targets: torch.Tensor, score: str) -> np.ndarray:
    """None: the error of each example says what it adds to the score."""
    return np.zeros(0)


def kept(errors: np.ndarray, mirrored: np.ndarray) -> dict[str, Any]:
    """What a Result keeps of absolute errors (n,), and of those of both views."""
    return {"errors": _short(errors), "mirrored_errors": _short(mirrored)}


def answered(answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The absolute error of answers (n, 1) to images with the numbers (n,)."""
    errors: np.ndarray = np.abs(answers[:, 0].astype(np.float64) - labels)
    return errors


def baseline(labels: np.ndarray, score: str = "error") -> float:
    """The mean absolute error of always answering the median: no other number does better."""
    return float(np.abs(labels - np.median(labels)).mean()) if len(labels) else 0.0


def better(errors: np.ndarray, labels: np.ndarray) -> bool:
    """Whether answers with these absolute errors (n,) are surely better than always the median.

    Student's paired test of both on the same images, one-sided, at 5 %.
    """
    if len(labels) < 2:
        return False
    gains = np.abs(labels - np.median(labels)) - errors
    error = float(gains.std(ddof=1)) / np.sqrt(len(gains))
    if not error:
        return bool(gains.mean() > 0)
    return bool(special.stdtr(len(gains) - 1, -gains.mean() / error) < 0.05)


def surely(answers: np.ndarray, labels: np.ndarray, score: str) -> bool:
    """Whether answers (n, 1) surely have a smaller error than that."""
    return better(answered(answers, labels), labels)


def learns(runs: Sequence[np.ndarray], labels: np.ndarray) -> bool:
    """Whether several trainings of one net are better than that, by the mean of their errors on each image."""
    return better(np.mean(runs, axis=0), labels)


def estimate(answers: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The mean absolute error with Student's 95 % interval, and the share of the variance that is explained, R2."""
    errors, n = answered(answers, labels), len(labels)
    error = float(errors.mean()) if n else 0.0
    spread = float(errors.std(ddof=1)) / np.sqrt(n) if n > 1 else float("inf")
    half = float(special.stdtrit(n - 1, 0.975)) * spread if n > 1 else float("inf")
    squares = float(((labels - labels.mean()) ** 2).sum()) if n else 0.0
    missed = float(((answers[:, 0].astype(np.float64) - labels) ** 2).sum())
    return {
        "error": error,
        "low": max(error - half, 0.0),
        "high": error + half,
        "n": n,
        "r2": 1 - missed / squares if squares else 0.0,
    }


def _moments(net: Net) -> tuple[float, float]:
    """(mean, deviation) of the numbers that the net has learnt, as its last layer says."""
    number = number_of(net)
    assert number is not None, "a net that answers a number ends in the unit of its target"
    return number.offset[0], number.scale[0]


def _short(errors: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{error:.{DIGITS}g}") for error in errors.tolist())
