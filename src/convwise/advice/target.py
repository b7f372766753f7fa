"""Numbers instead of classes: what they are like, and the groups of them that probes tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core.records import Measure
from convwise.core.score import Column, Target
from convwise.core.text import number

GRADES = 5  # groups that numbers are divided into for the probes
# What probes tell apart, in words: of images with classes, and of images with numbers.
CLASSES, FIFTHS = "the classes", "the fifths of the numbers"


def target_of(names: Sequence[str], numbers: NDArray[Any]) -> Target:
    """The numbers, (n,) or (n, k), of the training images, in short."""
    values = np.asarray(numbers, np.float64)
    columns = values.reshape(len(values), -1).T
    return Target(tuple(_column(name, column) for name, column in zip(names, columns, strict=True)))


def _column(name: str, values: NDArray[np.float64]) -> Column:
    """One number of all images, (n,); its deviation is never 0, so that it can be divided by."""
    median, deviation = float(np.median(values)), float(values.std())
    ends = float(values.min()), float(values.max()), float(values.mean())
    return Column(name, *ends, deviation or 1.0, median, float(np.abs(values - median).mean()))


def grades(numbers: NDArray[Any]) -> NDArray[np.int64]:
    """(n,): which of GRADES equal parts each number is in, from low to high; equal numbers are in
    the same.

    Of several numbers, (n, k), it is what they have most in common, their first principal
    component.
    """
    values = np.asarray(numbers, np.float64)
    if values.ndim > 1:
        alike = (values - values.mean(0)) / np.where(values.std(0) > 0, values.std(0), 1.0)
        values = alike @ np.linalg.svd(alike, full_matrices=False)[2][0]
    edges = np.unique(np.quantile(values, np.linspace(0, 1, GRADES + 1)[1:-1]))
    return np.searchsorted(edges, values, side="right").astype(np.int64)


def spread(target: Target) -> Measure:
    """What knowing nothing of the images is worth, and what the measures of probes are about."""
    if len(target.columns) > 1:
        return _spread_of_several(target)
    (column,) = target.columns
    low, high, median = map(number, (column.low, column.high, column.median))
    meaning = (
        f"The numbers range from {low} to {high}. Always answering the median, {median}, is off by"
        " this much on average: a network must beat that. Probes divide the images into five equal"
        " groups by their number ('fifths'); all accuracies here are about those."
    )
    return Measure("target_error", column.error, column.name, meaning)


def _spread_of_several(target: Target) -> Measure:
    """As `spread`, as several numbers are scored: in deviations of each."""
    error = sum(column.error / column.deviation for column in target.columns) / len(target.columns)
    each = "; ".join(
        f"{c.words}, the median {number(c.median)} is off by {number(c.error)}"
        for c in target.columns
    )
    meaning = (
        f"{each}. On average over the {len(target.columns)} numbers, always answering the median is"
        f" off by {number(error)} standard deviations: a network must beat that. Probes divide the"
        " images into five equal groups by what the numbers have most in common ('fifths'); all"
        " accuracies here are about those."
    )
    return Measure("target_error", error, "deviations", meaning)
