"""How two results compare, over the validation examples that both answered."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt

from convwise.core.records import Result


def paired_difference(a: Result, b: Result) -> tuple[float, float]:
    """(accuracy of a - accuracy of b, its standard error) over the examples both answered; McNemar's variance."""
    pairs = list(zip(a.correct, b.correct, strict=True))
    won, lost = pairs.count(("1", "0")), pairs.count(("0", "1"))
    mean = (won - lost) / len(pairs)
    return mean, sqrt(max((won + lost) / len(pairs) - mean**2, 0) / max(len(pairs) - 1, 1))


def seed_variance(*results: Result) -> float:
    """The variance that trainings differing in their seed alone add to a difference: err / 2n each.

    Jordan, arXiv 2304.01910.
    """
    return sum((1 - (r.score or 0)) / (2 * max(len(r.correct), 1)) for r in results)


def is_near(best: Result, rival: Result) -> bool:
    """Whether the rival is not worse than the best by more than one standard error (Breiman et al. 1984).

    The error is that of the difference: over the examples both answered, and between seeds.
    """
    if len(best.correct) < 2 or len(rival.correct) != len(best.correct):
        return False
    worse, error = paired_difference(best, rival)
    return worse <= sqrt(error**2 + seed_variance(best, rival))


def cheapest_near(best: Result, rivals: Iterable[Result]) -> Result:
    """The cheapest of the best and of the rivals near it; ties: the best, then in their order."""
    near = [best, *(rival for rival in rivals if rival is not best and is_near(best, rival))]
    return min(near, key=lambda r: (r.cost["macs"], r.cost["params"]))
