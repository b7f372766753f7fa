"""Numbers for each image, from text or arrays, split so that all parts reach from low to high."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core.problems import Problem, UnusableInput
from convwise.core.score import several
from convwise.core.text import number as shown
from convwise.images.parts import Part
from convwise.images.sources.found import BY_WAY, JOINT, Found, Reading, counted, some
from convwise.images.splits import TRAIN, Leaks
from convwise.images.stack import Stack
from convwise.images.targets.learnt import Learnt

STRATA = 10  # of equal size, from low to high, of which equal shares are drawn
STRATIFIED = 3  # of several numbers, so many at most say of what equal shares are drawn
FAR = 10.0  # distances between the quartiles, from the median: what lies further is asked about
Ints = NDArray[np.int64]


def check_found(found: Found, reading: Reading) -> None:
    """Refuse what is no number, and images with more or fewer of them than others, before anything
    is decoded.
    """
    labels = [np.array([item.label for item in found.items])] if found.items else []
    ways, (way, _, how) = (
        [
            "correct them",
            "leave --task regress out",
        ],
        reading.classes_from.partition(":"),
    )
    if way == "csv":
        ways.insert(
            1,
            f"name another column with {BY_WAY}"
            f" csv:{how.rpartition(':')[0] or how or 'FILE'}:COLUMN",
        )
    read = [
        _numbers(found.name, each, ways)
        for each in (*labels, *(block.labels for block in found.blocks))
    ]
    if len(counts := {each.shape[1:] for each in read}) > 1:
        what = (
            f"parts with {some(sorted(str(count[0]) if count else '1' for count in counts))}"
            " numbers for each image"
        )
        raise UnusableInput(found.name, what, "the same count in each part", "remove the others")


def check_decoded(found: Found, stack: Stack, reading: Reading) -> list[Problem]:
    """Nothing more than that some images could not be read, which is told anyway."""
    return []


def _numbers(where: str, labels: NDArray[Any], ways: Sequence[str] = ()) -> NDArray[np.float64]:
    """Labels, text or numbers, as numbers: (n,), or (n, k). UnusableInput where some are none."""
    distinct, which = np.unique(labels, return_inverse=True)
    cells = [str(label).split(JOINT) for label in distinct.tolist()]
    values = [[_number(cell) for cell in each] for each in cells]
    good = np.array([bool(np.isfinite(each).all()) for each in values], bool)
    if not good.all():
        bad = [
            label
            for label, is_good in zip(distinct.tolist(), good.tolist(), strict=True)
            if not is_good
        ]
        count = int((~good)[which].sum())
        what = (
            f"{count} of {counted(labels.size, 'label')} are not numbers:"
            f" {some([repr(each) for each in bad])}"
        )
        raise UnusableInput(where, what, "a number for each image", ", or ".join(ways))
    by_count = {len(each): JOINT.join(each) for each in cells}
    if len(by_count) > 1:
        what = (
            f"has {some(sorted(map(str, by_count)))} numbers for an image:"
            f" {some(list(by_count.values()), 2)}"
        )
        raise UnusableInput(where, what, "the same count for each image", "correct them")
    found = np.array(values, np.float64)[which.reshape(-1)]
    return found.reshape(labels.shape) if labels.ndim > 1 or set(by_count) <= {1} else found


def _number(label: str) -> float:
    try:
        return float(label)
    except ValueError:
        return float("nan")


def learnt(stack: Stack, found: Found) -> Learnt:
    """The numbers of each image."""
    values = _numbers(found.name, stack.labels)
    codes = np.unique(values, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    count = 1 if values.ndim == 1 else values.shape[1]
    return Learnt(
        values, codes, np.ones(len(values), bool), (), _named(found.numbers, count), found.grouped
    )


def _named(given: Sequence[str], count: int) -> tuple[str, ...]:
    """What so many numbers are called: as their columns are; those of a list are counted."""
    if len(given) == count and all(given):
        return tuple(given)
    if len(given) == 1 and given[0]:
        return tuple(f"{given[0]}_{place}" for place in range(1, count + 1))
    return tuple(several(count))


def _columns(labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Numbers (n,) or (n, k), by column: (k, n)."""
    return labels[None] if labels.ndim == 1 else labels.T


def strata(labels: NDArray[Any]) -> Ints:
    """What each image is alike to when shares are drawn: those of about the same number. labels:
    text, or numbers.

    Of several numbers each is divided into so few parts that together they are about as many.
    """
    if not len(labels):
        return np.empty(0, np.int64)
    columns = _columns(_numbers("", labels))[:STRATIFIED]
    count = max(min(len(labels) // STRATA, STRATA), 1)
    each = int(count ** (1 / len(columns)) + 1e-9)
    found = np.zeros(len(labels), np.int64)
    for values in columns:
        edges = np.unique(np.quantile(values, np.linspace(0, 1, each + 1)[1:-1]))
        found = found * each + np.searchsorted(edges, values, side="right")
    return found


def check(where: str, found: Learnt, kept: Ints, parts: Ints, groups: Ints, lost: Leaks) -> None:
    """Refuse what cannot be learnt: no image left, or the same number everywhere."""
    for name, values in zip(
        found.numbers, _columns(found.labels[kept][parts == TRAIN]), strict=True
    ):
        if len(np.unique(values)) < 2:
            only = f"only the number {shown(values[0])}" if len(values) else "no number"
            of = f" of {name}" if len(found.numbers) > 1 else ""
            what = f"holds {only}{of} in {counted(len(values), 'image')} to learn from"
            raise UnusableInput(
                where,
                what,
                "images with different numbers",
                "add images" + (of and f", or leave {name} out"),
            )


def problems(where: str, all_: Stack, found: Learnt, parts: Mapping[int, Part], rows: Ints,
             sealed: bool) -> Iterator[Problem]:  # fmt: skip
    """Numbers far from all others: they may be a code for a missing value, or in another unit."""
    for name, column in zip(found.numbers, _columns(parts[TRAIN].labels), strict=True):
        values = np.sort(column)
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
        far = (
            values[np.abs(values - middle) > FAR * max(high - low, 1e-12)]
            if high > low
            else values[:0]
        )
        if 0 < len(far) <= len(values) // 20:
            called = f"a number ({name})" if len(found.numbers) > 1 else "a number"
            what = f"{counted(len(far), 'train image')} with {called} far from the others: "
            what += some([shown(each) for each in np.unique(far).tolist()])
            fix = "check that they do not stand for missing values, and are in the same unit"
            yield Problem(
                where, what, f"about {shown(low)} to {shown(high)}", fix, "warning", len(far)
            )


def said(found: Learnt, labels: NDArray[np.float64]) -> str:
    """What the images tell, in words: 'angle from -60 to 60'."""
    return ", ".join(
        f"{name} from {shown(float(values.min()))} to {shown(float(values.max()))}"
        for name, values in zip(found.numbers, _columns(labels), strict=True)
    )
