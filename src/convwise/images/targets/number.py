"""A number for each image: read from text or arrays, and split so that all parts reach from low to high."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core.problems import Problem, UnusableInput
from convwise.core.text import number as shown
from convwise.images.parts import Part
from convwise.images.sources.found import Found, Reading, counted, some
from convwise.images.splits import TRAIN, Leaks
from convwise.images.stack import Stack
from convwise.images.targets.learnt import Learnt

STRATA = 10  # of equal size, from low to high, of which equal shares are drawn
USUAL = "number"  # what numbers are called that have no name
FAR = 10.0  # distances between the quartiles, from the median: what lies further is asked about
Ints = NDArray[np.int64]


def check_found(found: Found, reading: Reading) -> None:
    """Refuse what is no number, before anything is decoded."""
    labels = [np.array([item.label for item in found.items])] if found.items else []
    for each in (*labels, *(block.labels for block in found.blocks)):
        _numbers(found.name, each)


def check_decoded(found: Found, stack: Stack, reading: Reading) -> list[Problem]:
    """Nothing more than that some images could not be read, which is told anyway."""
    return []


def _numbers(where: str, labels: NDArray[Any]) -> NDArray[np.float64]:
    """Labels (n,), text or numbers, as numbers; UnusableInput where some are none."""
    distinct, which = np.unique(labels, return_inverse=True)
    values = np.array([_number(label) for label in distinct.tolist()])
    if not np.isfinite(values).all():
        bad = distinct[~np.isfinite(values)].tolist()
        count = int((~np.isfinite(values))[which].sum())
        what = f"{count} of {counted(len(labels), 'label')} are not numbers: {some([repr(each) for each in bad])}"
        fix = "correct them, name another column with --classes-from csv:FILE:COLUMN, or leave --task regress out"
        raise UnusableInput(where, what, "a number for each image", fix)
    return values[which]


def _number(label: Any) -> float:
    try:
        return float(label)
    except ValueError:
        return float("nan")


def learnt(stack: Stack, found: Found) -> Learnt:
    """The number of each image."""
    values = _numbers(found.name, stack.labels)
    codes = np.unique(values, return_inverse=True)[1].astype(np.int64)
    return Learnt(values, codes, np.ones(len(values), bool), (), found.number or USUAL, found.grouped)


def strata(labels: NDArray[Any]) -> Ints:
    """What each image is alike to when shares are drawn: those of about the same number. labels: text, or numbers."""
    values = np.asarray(labels, np.float64)
    if not len(values):
        return np.empty(0, np.int64)
    count = max(min(len(values) // STRATA, STRATA), 1)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, count + 1)[1:-1]))
    return np.searchsorted(edges, values, side="right").astype(np.int64)


def check(where: str, found: Learnt, kept: Ints, parts: Ints, groups: Ints, lost: Leaks) -> None:
    """Refuse what cannot be learnt: no image left, or the same number everywhere."""
    values = found.labels[kept][parts == TRAIN]
    if len(np.unique(values)) < 2:
        only = f"only the number {shown(values[0])}" if len(values) else "no number"
        what = f"holds {only} in {counted(len(values), 'image')} to learn from"
        raise UnusableInput(where, what, "images with different numbers", "add images")


def problems(where: str, all_: Stack, found: Learnt, parts: Mapping[int, Part], rows: Ints,
             sealed: bool) -> Iterator[Problem]:  # fmt: skip
    """Numbers far from all others: they may be a code for a missing value, or in another unit."""
    values = np.sort(parts[TRAIN].labels)
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    far = values[np.abs(values - middle) > FAR * max(high - low, 1e-12)] if high > low else values[:0]
    if 0 < len(far) <= len(values) // 20:
        what = f"{counted(len(far), 'train image')} with a number far from the others: "
        what += some([shown(each) for each in np.unique(far).tolist()])
        fix = "check that they do not stand for missing values, and are in the same unit"
        yield Problem(where, what, f"about {shown(low)} to {shown(high)}", fix, "warning", len(far))


def said(found: Learnt, labels: NDArray[np.float64]) -> str:
    """What the images tell, in words: 'angle from -60 to 60'."""
    return f"{found.number} from {shown(float(labels.min()))} to {shown(float(labels.max()))}"
