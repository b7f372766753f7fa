"""How two results compare, over the validation examples that both answered."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from convwise.core.records import Result

# The standard deviation of a whole run's accuracy beyond independent flips of single examples: a floor, and a share of
# the error. Measured by benchmarks/calibration.py, 20 s of a training of 480, 24 runs a set: 0.05 points at an error of
# 1.3 %, 0.22 at 10.5 %, 0.80 at 39 %. Other lengths are taken to be alike at one error; by Jordan (arXiv 2304.01910) it
# is far below 0.1 points for trainings that have converged on 50,000 images. Few degrees of freedom: sets differ.
RUN_FLOOR, RUN_SHARE, RUN_FREEDOM = 0.0004, 0.02, 4.0


def known_run_variance(error: float) -> tuple[float, float]:
    """(variance of a run's accuracy beyond flips of single examples, degrees of freedom), by its share of mistakes."""
    return (RUN_FLOOR + RUN_SHARE * error) ** 2, RUN_FREEDOM


def outcomes(result: Result) -> NDArray[np.float64]:
    """What each validation example adds to the score of a run, (n,): their mean is the score.

    For an accuracy that is 1 where the example was answered right, 0 where not.
    """
    if result.outcomes:
        return np.array(result.outcomes)
    return np.asarray(np.frombuffer(result.correct.encode(), np.uint8) == ord("1"), np.float64)


def standard_error(result: Result) -> float:
    """Of a run's score, over its validation examples; 0 without any."""
    found = outcomes(result)
    return float(found.std() / sqrt(len(found))) if len(found) else 0.0


def paired_difference(a: Result, b: Result) -> tuple[float, float]:
    """(score of a - score of b, its standard error) over the examples both answered; McNemar's variance."""
    changes = outcomes(a) - outcomes(b)
    return float(changes.mean()), float(changes.std() / sqrt(max(len(changes) - 1, 1)))
