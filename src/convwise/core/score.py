"""What the score of a network is called, and how it is told."""

from __future__ import annotations

import math
from dataclasses import dataclass

from convwise.core.layers import Dense, Rescaling
from convwise.core.net import INPUT, Net
from convwise.core.text import number

# What classes can be scored by, and what it is called in a sentence; the formulas: training/scores.py.
SCORES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1"}


@dataclass(frozen=True)
class Score:
    """How scores are told: as one of SCORES, or as the mean absolute 'error' of a number, in the unit of the target.

    A score itself is the mean of one outcome for each validation example, the higher the better, 1 without a mistake:
    of a class 1 or 0, or what training/scores.py says, of a number 1 - error / deviation. deviation: of the target,
    over the training images. So a hundredth is a point of accuracy, or a hundredth of the deviation, and what holds
    of scores holds of all.
    """

    name: str = "accuracy"
    deviation: float = 1.0

    @property
    def is_error(self) -> bool:
        """Whether what is told is the lower the better."""
        return self.name == "error"

    @property
    def words(self) -> str:
        """What it is called in a sentence."""
        return "mean absolute error" if self.is_error else SCORES[self.name]

    @property
    def behind(self) -> str:
        """What stands behind a value in a line, where a percentage alone would say another score."""
        return "" if self == ACCURACY else f" {self.words}"

    @property
    def nothing(self) -> str:
        """What an answer is called that needs no image."""
        return "always the median" if self.is_error else "always the largest class"

    @property
    def unit(self) -> str:
        """What a change is counted in, behind its number."""
        return "" if self.is_error else " points"

    def value(self, score: float) -> float:
        """The accuracy, a share, or the error."""
        return (1 - score) * self.deviation if self.is_error else score

    def score(self, value: float) -> float:
        """The inverse of `value`."""
        return 1 - value / self.deviation if self.is_error else value

    def change(self, of_score: float) -> float:
        """What the value changes by where the score changes by so much: an error falls where a score rises."""
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
class Target:
    """The numbers that are learnt, over the training images, all in the target's own unit.

    name: what they are called; low, high, mean, median, and deviation, the standard one; error: the mean absolute
    error of always answering the median.
    """

    name: str
    low: float
    high: float
    mean: float
    deviation: float
    median: float
    error: float


def number_of(net: Net) -> Rescaling | None:
    """The layer that brings the one number of a net to the unit of its target; None of a net that tells classes."""
    last = net.layers[-1] if net.layers else None
    if not isinstance(last, Rescaling) or last.inputs == (INPUT,) or len(last.scale) != 1:
        return None
    before = net[last.inputs[0]]
    return last if isinstance(before, Dense) and before.units == 1 else None


def resolution(net: Net) -> float:
    """What a thousandth of a probability is in the unit of what a net answers, as far as float32 can tell it."""
    unit = number_of(net)
    return 1e-3 * unit.scale[0] + 1e-6 * abs(unit.offset[0]) if unit else 1e-3


def score_of(net: Net, name: str = "accuracy") -> Score:
    """How the score of a network is told: by what it answers; of classes by the score of this name."""
    unit = number_of(net)
    return Score("error", float(unit.scale[0])) if unit else Score(name)
