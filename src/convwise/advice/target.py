"""Numbers instead of classes: what they are like, and the classes that they are divided into for the probes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core.records import Measure
from convwise.core.score import Target
from convwise.core.text import number

GRADES = 5  # classes that numbers are divided into for the probes


def target_of(name: str, numbers: NDArray[Any]) -> Target:
    """The numbers (n,) of the training images, in short; their deviation is never 0, so that it can be divided by."""
    values = np.asarray(numbers, np.float64)
    median, deviation = float(np.median(values)), float(values.std())
    ends = float(values.min()), float(values.max()), float(values.mean())
    return Target(name, *ends, deviation or 1.0, median, float(np.abs(values - median).mean()))


def grades(numbers: NDArray[Any]) -> NDArray[np.int64]:
    """(n,): which of GRADES equal parts each number is in, from low to high; equal numbers are in the same."""
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, GRADES + 1)[1:-1]))
    return np.searchsorted(edges, numbers, side="right").astype(np.int64)


def spread(target: Target) -> tuple[Measure, ...]:
    """The measure that says what knowing nothing of the images is worth."""
    low, high, median = map(number, (target.low, target.high, target.median))
    meaning = (
        f"The numbers lie from {low} to {high}; always the median, {median}, is off by so much on average. Where a "
        f"probe tells classes apart, these are {GRADES} equal parts of the numbers, from low to high."
    )
    return (Measure("target_error", target.error, target.name, meaning, informs="baseline"),)
