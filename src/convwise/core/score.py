"""What the score of a network is called, and how it is told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from convwise.core.layers import Dense, Rescaling
from convwise.core.net import INPUT, Net
from convwise.core.text import number

# What classes can be scored by, and what it is called in a sentence; the formulas:
# training/scores.py.
SCORES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1"}


@dataclass(frozen=True)
class Score:
    """How scores are told: as one of SCORES, or as the mean absolute 'error' of a number, in the
    unit of the target.

    A score itself is the mean of one outcome for each validation example, the higher the better, 1
    without a mistake: of a class 1 or 0, or what training/scores.py says, of a number 1 - error /
    deviation. deviation: of the target, over the training images. So a hundredth is a point of
    accuracy, or a hundredth of the deviation, and what holds of scores holds of all.
    numbers: how many an image has. Of several the error is the mean over them of each one's error
    in its own deviations, since their units can differ; it is told in deviations, and `deviation`
    is 1.
    """

    name: str = "accuracy"
    deviation: float = 1.0
    numbers: int = 1

    @property
    def is_error(self) -> bool:
        """Whether what is told is the lower the better."""
        return self.name == "error"

    @property
    def words(self) -> str:
        """What it is called in a sentence."""
        if not self.is_error:
            return SCORES[self.name]
        return "mean absolute error" + " in standard deviations" * (self.numbers > 1)

    @property
    def title(self) -> str:
        """What stands before a value: 'Accuracy', 'Error', or 'Error in standard deviations'."""
        title = SCORES.get(self.name, self.name) + " in standard deviations" * (self.numbers > 1)
        return f"{title[:1].upper()}{title[1:]}"

    @property
    def behind(self) -> str:
        """What stands behind a value, where a percentage alone would say another score."""
        return "" if self == ACCURACY else f" {self.words}"

    @property
    def nothing(self) -> str:
        """What an answer is called that needs no image."""
        return (
            ("always the median" + "s" * (self.numbers > 1))
            if self.is_error
            else "always the largest class"
        )

    @property
    def unit(self) -> str:
        """What a change is counted in, behind its number."""
        return (" deviations" * (self.numbers > 1)) if self.is_error else " points"

    def value(self, score: float) -> float:
        """The accuracy, a share, or the error."""
        return (1 - score) * self.deviation if self.is_error else score

    def score(self, value: float) -> float:
        """The inverse of `value`."""
        return 1 - value / self.deviation if self.is_error else value

    def change(self, of_score: float) -> float:
        """By how much the value changes as the score does: an error falls where a score rises."""
        return -of_score * self.deviation if self.is_error else of_score

    def said(self, value: float) -> str:
        """A value: '97.3 %' of an accuracy, '3.42' of an error."""
        if not math.isfinite(value):
            return "–"
        return number(value) if self.is_error else f"{100 * value:.1f} %"

    def told(self, score: float | None) -> str:
        """The value of a score; a score of None is not known."""
        return "–" if score is None else self.said(self.value(score))

    def moved(self, of_score: float, signed: bool = True) -> str:
        """A change, without its unit: '+2.1' percentage points, '-0.31' of an error."""
        change = self.change(of_score)
        if not math.isfinite(change):
            return "–"
        if not self.is_error:
            return f"{100 * change:{'+' if signed else ''}.1f}"
        return ("+" if signed and change > 0 else "") + number(change if signed else abs(change))

    def span(self, low: float, high: float) -> str:
        """The interval of a change, the lower end first: '-0.4 to +1.2'."""
        ends = (high, low) if self.is_error else (low, high)
        return " to ".join(map(self.moved, ends))


ACCURACY = Score()


@dataclass(frozen=True)
class Column:
    """One number that is learnt of each image, over the training images, all in its own unit.

    name: what it is called; low, high, mean, median, and deviation, the standard one; error: the
    mean absolute error of always answering the median.
    """

    name: str
    low: float
    high: float
    mean: float
    deviation: float
    median: float
    error: float

    @property
    def words(self) -> str:
        """'angle from 0 to 359'."""
        return f"{self.name} from {number(self.low)} to {number(self.high)}"


@dataclass(frozen=True)
class Target:
    """The numbers that are learnt of each image: one, or several."""

    columns: tuple[Column, ...]

    @property
    def words(self) -> str:
        """'angle from 0 to 359', or 'x from 0 to 31, y from 2 to 29'."""
        return ", ".join(column.words for column in self.columns)

    @property
    def means(self) -> tuple[float, ...]:
        """The mean of each."""
        return tuple(column.mean for column in self.columns)

    @property
    def deviations(self) -> tuple[float, ...]:
        """The standard deviation of each."""
        return tuple(column.deviation for column in self.columns)

    def to_json(self) -> Any:
        """The fields of the one number, or a list of those of each."""
        rows = [asdict(column) for column in self.columns]
        return rows[0] if len(rows) == 1 else rows

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Target:
        """The inverse of `to_json`."""
        rows = [data] if isinstance(data, Mapping) else data
        return cls(tuple(Column(**row) for row in rows))


def several(count: int) -> list[str]:
    """Names for so many numbers that have none: 'number', or 'number_1', 'number_2', ..."""
    return ["number"] if count == 1 else [f"number_{place}" for place in range(1, count + 1)]


def numbers_of(net: Net) -> Rescaling | None:
    """The layer that brings a net's numbers to their units; None where it tells classes."""
    last = net.layers[-1] if net.layers else None
    if (
        not isinstance(last, Rescaling)
        or last.inputs == (INPUT,)
        or len(last.scale) != len(last.offset)
    ):
        return None
    before = net[last.inputs[0]]
    return last if isinstance(before, Dense) and before.units == len(last.scale) else None


def resolution(net: Net) -> tuple[float, ...]:
    """What a thousandth of a probability is in the units of what a net answers, as far as float32
    can tell it.

    One for all outputs, or one for each number.
    """
    unit = numbers_of(net)
    if unit is None:
        return (1e-3,)
    return tuple(
        1e-3 * scale + 1e-6 * abs(offset)
        for scale, offset in zip(unit.scale, unit.offset, strict=True)
    )


def score_of(net: Net, name: str = "accuracy") -> Score:
    """How a network's score is told: by what it answers; of classes by the score of this name."""
    unit = numbers_of(net)
    if unit is None:
        return Score(name)
    return (
        Score("error", float(unit.scale[0]))
        if len(unit.scale) == 1
        else Score("error", numbers=len(unit.scale))
    )
