"""How two results compare, over the validation examples that both answered."""

from __future__ import annotations

from math import inf, sqrt

from convwise.core.records import Result

# The standard deviation of a whole run's accuracy beyond independent flips of single examples, by the
# length of training: (seconds at most, standard deviation, degrees of freedom). Assumed on the safe
# side, not measured: `benchmarks/calibration.py` trains equal nets, and its report prints the rows to
# put here. By Jordan (arXiv 2304.01910) it is far below 0.1 points for trainings that have converged
# on 50,000 images; here they are short and end by the clock. Few degrees of freedom: sets differ.
RUN_DEVIATIONS: tuple[tuple[float, float, float], ...] = (
    (20.0, 0.007, 4.0),
    (60.0, 0.005, 4.0),
    (inf, 0.003, 4.0),
)


def known_run_variance(seconds: float | None) -> tuple[float, float]:
    """(variance of a run's accuracy beyond flips of single examples, its degrees of freedom).

    seconds: of training; None, counted epochs, is taken for the shortest.
    """
    deviation, freedom = next(row[1:] for row in RUN_DEVIATIONS if (seconds or 0.0) <= row[0])
    return deviation**2, freedom


def paired_difference(a: Result, b: Result) -> tuple[float, float]:
    """(accuracy of a - accuracy of b, its standard error) over the examples both answered; McNemar's variance."""
    pairs = list(zip(a.correct, b.correct, strict=True))
    won, lost = pairs.count(("1", "0")), pairs.count(("0", "1"))
    mean = (won - lost) / len(pairs)
    return mean, sqrt(max((won + lost) / len(pairs) - mean**2, 0) / max(len(pairs) - 1, 1))
