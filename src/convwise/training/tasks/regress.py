"""Numbers for each image: Huber's loss on standardised targets, absolute error, the median as
baseline.

Of several numbers each is learnt by its own mean and deviation, so that all count alike whatever
their units; the outcome of an image is then the mean of its errors, each in deviations of its
number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import special
from torch.nn import functional

from convwise.core.layers import Rescaling
from convwise.core.net import Net
from convwise.core.recipe import Recipe
from convwise.core.score import numbers_of, score_of
from convwise.training.tasks.classify import TEACHER

DIGITS = 6  # significant ones that are kept of an error


def learnt(labels: torch.Tensor, net: Net) -> torch.Tensor:
    """Numbers (n,) or (n, k) as the net learns them, float32 (n, k): each with mean 0 and deviation
    1 in training.
    """
    unit = _unit(net)
    means, deviations = (torch.tensor(each, dtype=torch.float64, device=labels.device)
                         for each in (unit.offset, unit.scale))  # fmt: skip
    return ((labels.double().reshape(len(labels), -1) - means) / deviations).float()


def loss(outputs: torch.Tensor, targets: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Mean Huber loss of outputs (n, k) of the net without its unit: squares up to one deviation,
    then straight.

    Few images whose numbers are far off pull less than they would by squares (Huber, Annals of
    Mathematical Statistics 1964).
    """
    return functional.huber_loss(outputs, targets)


def taught(labels: torch.Tensor, answers: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Numbers half way from the labels, (n,) or (n, k), to a teacher's answers (n, k)."""
    return torch.lerp(labels.double(), answers.double().reshape(labels.shape), TEACHER)


def outcomes(outputs: torch.Tensor, targets: torch.Tensor, net: Net) -> torch.Tensor:
    """The absolute error of each example, float32 (n,): of one number in its unit, of several their
    mean in deviations.

    The deviations are those of the training images, which the net's last layer keeps.
    """
    return (outputs - targets).abs().mean(1) * score_of(net).deviation


def weighed(outputs: torch.Tensor, targets: torch.Tensor, score: str) -> np.ndarray:
    """None: the error of each example says what it adds to the score."""
    return np.zeros(0)


def kept(errors: np.ndarray, mirrored: np.ndarray) -> dict[str, Any]:
    """What a Result keeps of absolute errors (n,), and of those of both views."""
    return {"errors": _short(errors), "mirrored_errors": _short(mirrored)}


def answered(answers: np.ndarray, labels: np.ndarray, net: Net) -> np.ndarray:
    """The same of answers (n, k) of the whole net to images with the numbers (n,) or (n, k):
    float64 (n,).
    """
    return _together(np.abs(answers.astype(np.float64) - _rows(labels)), net)


def baseline(labels: np.ndarray, score: str, net: Net) -> float:
    """The mean error of always answering the median of each number: no other answer does better."""
    return float(_of_medians(labels, net).mean()) if len(labels) else 0.0


def better(errors: np.ndarray, labels: np.ndarray, net: Net) -> bool:
    """Whether answers with these errors (n,) are surely better than always the medians.

    Student's paired test of both on the same images, one-sided, at 5 %.
    """
    if len(labels) < 2:
        return False
    gains = _of_medians(labels, net) - errors
    error = float(gains.std(ddof=1)) / np.sqrt(len(gains))
    if not error:
        return bool(gains.mean() > 0)
    return bool(special.stdtr(len(gains) - 1, -gains.mean() / error) < 0.05)


def surely(answers: np.ndarray, labels: np.ndarray, score: str, net: Net) -> bool:
    """Whether answers (n, k) surely have a smaller error than that."""
    return better(answered(answers, labels, net), labels, net)


def at_least(answers: np.ndarray, labels: np.ndarray, score: str, net: Net) -> float:
    """The score at the upper end of the 95 % interval of the error."""
    return score_of(net).score(float(estimate(answers, labels, net)["high"]))


def learns(runs: Sequence[np.ndarray], labels: np.ndarray, net: Net) -> bool:
    """Whether several trainings of one net are better than that, by the mean of their errors on
    each image.
    """
    return better(np.mean(runs, axis=0), labels, net)


def estimate(answers: np.ndarray, labels: np.ndarray, net: Net) -> dict[str, Any]:
    """The mean error with Student's 95 % interval, and the share of the variance that is explained,
    R2.

    Of several numbers R2 is the mean over them, and `columns` says the same of each, in its own
    unit, with what always answering its median would be off by.
    """
    true = _rows(labels)
    found = _estimated(answered(answers, labels, net), answers, true)
    if true.shape[1] == 1:
        return found
    each = [
        (answers[:, place : place + 1], true[:, place : place + 1])
        for place in range(true.shape[1])
    ]
    columns = [
        {**_estimated(np.abs(said - truth)[:, 0], said, truth),
         "baseline": float(np.abs(truth - np.median(truth)).mean()) if len(truth) else 0.0}
        for said, truth in each
    ]  # fmt: skip
    return {**found, "columns": columns}


def _estimated(errors: np.ndarray, answers: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """errors: of each image, (n,); answers, true: (n, k)."""
    n = len(errors)
    error = float(errors.mean()) if n else 0.0
    spread = float(errors.std(ddof=1)) / np.sqrt(n) if n > 1 else float("inf")
    half = float(special.stdtrit(n - 1, 0.975)) * spread if n > 1 else float("inf")
    squares = ((true - true.mean(0)) ** 2).sum(0) if n else np.zeros(true.shape[1])
    missed = ((answers.astype(np.float64) - true) ** 2).sum(0)
    explained = [
        1 - lost / of if of else 0.0
        for lost, of in zip(missed.tolist(), squares.tolist(), strict=True)
    ]
    return {
        "error": error,
        "low": max(error - half, 0.0),
        "high": error + half,
        "n": n,
        "r2": sum(explained) / len(explained),
    }


def _rows(labels: np.ndarray) -> np.ndarray:
    """Numbers (n,) or (n, k) as (n, k)."""
    return labels[:, None] if labels.ndim == 1 else labels


def _of_medians(labels: np.ndarray, net: Net) -> np.ndarray:
    """The error of always answering the medians, for each image: (n,)."""
    true = _rows(labels)
    return _together(np.abs(true - np.median(true, axis=0)), net)


def _together(errors: np.ndarray, net: Net) -> np.ndarray:
    """What the absolute errors (n, k) of each image are together: (n,), as `outcomes` has them."""
    together: np.ndarray = (errors * (score_of(net).deviation / np.array(_unit(net).scale))).mean(1)
    return together


def _unit(net: Net) -> Rescaling:
    """The last layer of a net that answers numbers, which says the mean and deviation of what it
    has learnt.
    """
    unit = numbers_of(net)
    assert unit is not None, "a net that answers numbers ends in their units"
    return unit


def _short(errors: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{error:.{DIGITS}g}") for error in errors.tolist())
