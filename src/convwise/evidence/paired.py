"""How two results compare, over the validation examples that both answered."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from convwise.core.records import Result

# The standard deviation of a whole run's accuracy beyond independent flips of single examples: a
# floor, and a share of the error. Measured by benchmarks/calibration.py, 20 s of a training of 480,
# 24 runs a set: 0.05 points at an error of 1.3 %, 0.22 at 10.5 %, 0.80 at 39 %. Other lengths are
# taken to be alike at one error; by Jordan (arXiv 2304.01910) it is far below 0.1 points for
# trainings that have converged on 50,000 images. Few degrees of freedom: sets differ.
RUN_FLOOR, RUN_SHARE, RUN_FREEDOM = 0.0004, 0.02, 4.0


def known_run_variance(error: float) -> tuple[float, float]:
    """(variance of a run's accuracy beyond flips of single examples, degrees of freedom).

    By its share of mistakes.
    """
    return (RUN_FLOOR + RUN_SHARE * error) ** 2, RUN_FREEDOM


def paired_difference(a: Result, b: Result) -> tuple[float, float]:
    """(score of a - score of b, its standard error) over the examples both answered.

    Of classes, McNemar's variance.
    """
    changes = [one - other for one, other in zip(a.outcomes, b.outcomes, strict=True)]
    return sum(changes) / len(changes), sqrt(_variance(changes) / max(len(changes) - 1, 1))


def standard_error(result: Result) -> float:
    """Of a score, over the validation examples."""
    return sqrt(_variance(result.outcomes) / max(len(result.outcomes), 1))


def _variance(values: Sequence[float]) -> float:
    n = max(len(values), 1)
    return max(sum(value**2 for value in values) / n - (sum(values) / n) ** 2, 0)
