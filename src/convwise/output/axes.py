"""What the axes of a plot show: which scores are left out, and where the ticks are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# An accuracy lies apart below the first quartile by so many quartile ranges, or this range
OUTLYING = 1.5, 0.02


def fitting(scores: Sequence[float], always: Sequence[float] = ()) -> tuple[float, float]:
    """The least and the largest accuracy to draw, without those far below the others (Tukey 1977).

    always: are drawn in any case.
    """
    first, third = np.quantile(scores, (0.25, 0.75))
    fence = first - OUTLYING[0] * max(third - first, OUTLYING[1])
    kept = [*always, *(score for score in scores if score >= fence)]
    low, high = float(min(kept)), float(max(kept))
    return (low, high) if high - low > 1e-3 else (low - 0.005, high + 0.005)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, four to ten of them."""
    size = 10.0 ** math.floor(math.log10(high - low))
    steps = (2 * size, size, size / 2, size / 5, size / 10)
    step = next(step for step in steps if _inside(low, high, step) >= 4)
    first = math.ceil(low / step - 1e-9) * step
    return [round(first + n * step, 12) for n in range(_inside(low, high, step))]


def _inside(low: float, high: float, step: float) -> int:
    """How many multiples of `step` there are from low to high."""
    return math.floor(high / step + 1e-9) - math.ceil(low / step - 1e-9) + 1


def log_ticks(low: float, high: float) -> list[float]:
    """The same over decades: 1, 2 and 5 in each, or their beginnings alone where there are many."""
    if high < 8 * low:
        return ticks(low, high)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    each = (1, 2, 5) if last - first <= 2 else (1, 3) if last - first <= 3 else (1,)
    numbers = (n * 10.0**power for power in range(first, last + 1) for n in each)
    return [number for number in numbers if low <= number <= high]
