"""One scale for a whole set: which range its values have, so that 0..255 means the same in every
picture.

A range is taken where nearly all values are in it: one hot pixel must not make 12 bits look like
16. Where few values are high, strays count against all values if they lie several bits beyond. The
    test part has no say, and is held against what the others gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core.problems import Problem, Severity, UnusableInput

# (low, high) that values are expected to fill; whole numbers and floats, the narrowest first.
WHOLE = ((0.0, 1.0), (0.0, 255.0), *((0.0, float(2**bits - 1)) for bits in range(9, 17)))
FLOAT = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))
# Values outside, as a share of those in the upper half of the range: hot pixels, one at least
STRAY = 1e-3
# A part with no more than this share of its values outside the range of the others has the same
FEW = 1e-2
# Values in the upper half of a range for each stray far beyond it: else it is a range that nothing
# fills
FILLED = 4
APART = 8.0  # a part whose values fill less than this part of the range is on another scale
CHUNK = 1 << 22  # values looked at together


@dataclass(frozen=True)
class ValueRange:
    """uint8 = round((value - offset) * factor), cut to 0..255."""

    offset: float
    factor: float

    def back(self, value: float) -> float:
        """The source's value that became `value`."""
        return value / self.factor + self.offset

    def eight_bits(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Values of any number type as uint8."""
        if values.dtype == np.uint8 and self == ValueRange(0, 1):
            return values
        return np.clip(np.rint((values.astype(float) - self.offset) * self.factor), 0, 255).astype(
            np.uint8
        )


@dataclass(frozen=True)
class Values:
    """What values are like: how many, the lowest, the highest, and for each range how many lie
    outside, and high in it.

    The sum of two is what all their values are like together.
    """

    count: int
    whole: bool
    low: float
    high: float
    outside: tuple[int, ...]
    upper: tuple[int, ...]

    @staticmethod
    def of(array: NDArray[Any]) -> Values:
        """The values of an array of any number type, which has some; they are finite."""
        flat, whole = array.reshape(-1), array.dtype.kind in "bui"
        counted = _bytes if array.dtype == np.uint8 else _whole if whole else _floats
        within, upper = np.zeros((2, len(WHOLE if whole else FLOAT)), int)
        for start in range(0, flat.size, CHUNK):
            counts = counted(flat[start : start + CHUNK])
            within, upper = within + counts[0], upper + counts[1]
        outside = tuple((flat.size - within).tolist())
        return Values(
            flat.size, whole, float(flat.min()), float(flat.max()), outside, tuple(upper.tolist())
        )

    def __add__(self, other: Values) -> Values:
        mine, theirs = (
            (self, other) if self.whole == other.whole else (self.as_floats(), other.as_floats())
        )
        return Values(
            mine.count + theirs.count, mine.whole, min(mine.low, theirs.low), max(mine.high,
            theirs.high),
            tuple(map(sum, zip(mine.outside, theirs.outside, strict=True))),
            tuple(map(sum, zip(mine.upper, theirs.upper, strict=True))),
        )  # fmt: skip

    def as_floats(self) -> Values:
        """Whole numbers among floats: 0..1 and 0..255 are ranges of both."""
        if not self.whole:
            return self
        beside = self.count if self.high > 1 or self.low < -1 else 0
        return Values(
            self.count,
            False,
            self.low,
            self.high,
            (*self.outside[:2], beside),
            (*self.upper[:2], 0),
        )

    @property
    def count_outside(self) -> int:
        """How many values the range leaves out."""
        return self.outside_of(self.range)

    def outside_of(self, bounds: tuple[float, float]) -> int:
        """How many values one of the ranges leaves out; 0 for bounds that are none of them."""
        return self.outside[self._ranges.index(bounds)] if bounds in self._ranges else 0

    @property
    def _ranges(self) -> tuple[tuple[float, float], ...]:
        return WHOLE if self.whole else FLOAT

    def _far(self, index: int) -> int:
        """The values outside of a range where they are hot pixels: few of all, and nearly all of
        them far beyond it.
        """
        low, high = self._ranges[index]
        wide = [
            k
            for k, (least, most) in enumerate(self._ranges)
            if least == low and most >= APART * high
        ]
        strays, beyond = self.outside[index], self.outside[wide[0]] if wide else 0
        few = strays <= STRAY * self.count and FILLED * strays <= self.upper[index]
        return strays if few and 10 * beyond >= 9 * strays else 0

    @property
    def crowded(self) -> float | None:
        """What 99 % of the values are at most, where that is far below the end of their range, and
        no empty ground.
        """
        low, high = self.range
        if self.outside[0] <= FEW * self.count:
            return None
        within = [
            most for (least, most), n in zip(self._ranges, self.outside, strict=True)
            if least == low and APART * most <= high and n <= FEW * self.count
        ]  # fmt: skip
        return within[0] if within else None

    @property
    def range(self) -> tuple[float, float]:
        """The narrowest range that holds nearly all of them; their own where none does."""
        for index, (low, high) in enumerate(self._ranges):
            # Off and on is a claim about every value: sparse pictures have few that are neither.
            some = max(STRAY * self.upper[index], self.upper[index] > 100, self._far(index))
            strays = 0 if self.whole and high == 1 else some
            # Floats up to 1.1, say, are not taken for part of 0..255
            used = self.whole or high == 1 or self.high * APART > high
            if self.outside[index] <= strays and used:
                return low, high
        return self.low, self.high


# How many values are in each range, and how many in its upper half
Counts = tuple[NDArray[np.int64], NDArray[np.int64]]


def _bytes(values: NDArray[Any]) -> Counts:
    """Of 8 bits only 0..1 and 0..255 are in question, and no histogram is needed."""
    rest = len(WHOLE) - 1
    bits, high = np.count_nonzero(values <= 1), np.count_nonzero(values > 127)
    return np.array([bits] + rest * [len(values)]), np.array(
        [np.count_nonzero(values == 1), high] + (rest - 1) * [0]
    )


def _whole(values: NDArray[Any]) -> Counts:
    """By one histogram: all of WHOLE begin at 0 and end below 2**16."""
    up_to = np.bincount(
        np.clip(values.astype(np.int64), -1, 2**16) + 1, minlength=2**16 + 2
    ).cumsum()
    ends = np.array([int(high) for _, high in WHOLE])
    return up_to[ends + 1] - up_to[0], up_to[ends + 1] - up_to[ends // 2 + 1]


def _floats(values: NDArray[Any]) -> Counts:
    within = [np.count_nonzero((values >= low) & (values <= high)) for low, high in FLOAT]
    upper = [
        np.count_nonzero((values > (low + high) / 2) & (values <= high)) for low, high in FLOAT
    ]
    return np.array(within), np.array(upper)


def decided(where: str, parts: Mapping[str, Values]) -> tuple[ValueRange, Values]:
    """The scale of a set, and the values that gave it: those of all parts but test.

    UnusableInput where the parts, by their names, are plainly on different scales.
    """
    seen = [values for part, values in parts.items() if not part.startswith("test")] or list(
        parts.values()
    )
    together = seen[0]
    for values in seen[1:]:
        together += values
    low, high = together.range
    if any(_apart(values, together) for values in parts.values()):
        in_order = sorted(parts, key=lambda part: ("train", "valid", part).index(part))
        said = ", ".join("{} {:g}..{:g}".format(part, *parts[part].range) for part in in_order)
        what = f"its parts are on different scales: {said}"
        raise UnusableInput(
            where, what, "one scale", "scale the values of all parts in the same way"
        )
    return ValueRange(low, 255 / ((high - low) or 1.0)), together


def _apart(values: Values, together: Values) -> bool:
    """Whether a part's values cannot be of the range of all together."""
    (low, high), (lowest, highest) = together.range, values.range
    if (low, high) in values._ranges and values.outside_of((low, high)) <= FEW * values.count:
        lowest, highest = max(low, lowest), min(high, highest)
    span = ((together.crowded or high) - low) / APART
    if values.low == values.high:  # empty pictures fit everywhere
        return False
    too_wide = highest > high + APART * (high - low) or lowest < low - 2 * span
    return too_wide or highest < low + span or values.low >= 0 > low


def told(where: str, values: Values) -> list[Problem]:
    """What is said of the range that was taken for the values of arrays."""
    low, high = values.range
    severity: Severity = "note"
    how = f"0..{high:g} scaled to 0..255"
    if (low, high) == (0, 255):
        how = "" if values.whole else "rounded to whole numbers"
    elif (low, high) == (0, 1):
        how = "taken as off and on, multiplied by 255" if values.whole else ""
    elif values.whole and low == 0 and (low, high) in WHOLE:
        how = f"taken for {int(high).bit_length()} bits, {how}"
    elif (low, high) == (-1, 1):
        how, severity = "taken as -1..1, scaled to 0..255", "warning"
    else:
        how, severity = "this range was scaled to 0..255", "warning"
    if (most := values.crowded) is not None:
        how, severity = (
            f"{how}, and become very dark, since 99 % of them are at most {most:g}",
            "warning",
        )
    cut = values.count_outside
    how += f", {cut} value{'s' * (cut > 1)} outside of {low:g}..{high:g} cut" if cut else ""
    what = f"values from {values.low:g} to {values.high:g}: {how.removeprefix(', ')}"
    return [Problem(where, what, "0..255", severity=severity)] if how else []
