"""Numbers instead of classes: what they are like, and the classes that they are divided into for the probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core.records import Measure
from convwise.core.score import Target
from convwise.core.text import number

GRADES = 5  # classes that numbers are divided into for the probes
# What measures say of classes -> the same of these.
FIFTHS = {
    "the classes": "the fifths",
    "The class means": "The means of the fifths",
    ": a network must beat that": " of the fifths right",
}


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


def spread(target: Target, measures: Sequence[Measure]) -> tuple[Measure, ...]:
    """What knowing nothing of the images is worth, then the measures of probes, which speak of fifths."""
    low, high, median = map(number, (target.low, target.high, target.median))
    meaning = (
        f"The numbers range from {low} to {high}. Always answering the median, {median}, is off by this much on "
        "average: a network must beat that. Probes sort the images into five equal parts of the numbers, the fifths; "
        "all accuracies here are about those."
    )
    return Measure("target_error", target.error, target.name, meaning, informs="baseline"), *map(_of_fifths, measures)


def _of_fifths(measure: Measure) -> Measure:
    meaning = measure.meaning
    for said, instead in FIFTHS.items():
        meaning = meaning.replace(said, instead)
    return replace(measure, meaning=meaning)
