"""What the rules of advice look at, and what a rule is.

The rules themselves: rules.py, and of the training recipes.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from convwise.advice.target import CLASSES, FIFTHS
from convwise.core.calculus import analyse
from convwise.core.configuration import Draft, Value
from convwise.core.records import Fingerprint, Pace
from convwise.core.space import Space
from convwise.core.text import parse_size

# What can decide beside a measure: facts of the images, this machine, what was asked, tried,
# published, found by us.
DECIDERS = (
    "input_shape", "images", "classes", "target", "mean", "variance",
    "pace", "goal", "trials", "literature", "findings",
)  # fmt: skip


@dataclass(frozen=True)
class Situation:
    """What the rules look at.

    facts: of the images; pace: of this machine; final_seconds, threads: of the final training;
    chosen: what earlier rules decided; score: what networks are compared by, of goal.SCORES.
    """

    facts: Fingerprint
    pace: Pace
    final_seconds: float
    threads: int
    chosen: Draft = field(default_factory=dict)
    score: str = "accuracy"

    @property
    def size(self) -> tuple[int, int]:
        return parse_size(self.chosen["input.size"])

    @property
    def supersampled(self) -> int:
        """How many times `size` the network takes images at: twice, where they are resized."""
        return 1 if self.facts.input_shape[:2] == self.facts.shape[:2] else 2

    @property
    def images(self) -> int:
        return self.facts.images

    @property
    def parts(self) -> str:
        """What probes tell apart."""
        return FIFTHS if self.facts.target else CLASSES

    @property
    def map_px(self) -> int:
        """The shorter side of the map after the stem.

        Whitening pads nothing, a learnt stem is 'same'.
        """
        side, strides = min(self.size), int(self.chosen["stem.strides"])
        if self.chosen["stem"] == "whitening":
            return (side - int(self.chosen["stem.kernel_size"])) // strides + 1
        return -(-side // strides)

    def epochs(self, filters: int) -> float:
        """Predicted epochs of the final training with so many filters in the first stage.

        All else must be chosen.
        """
        facts = self.facts
        space = Space(facts.input_shape[2], len(facts.classes), facts.mean, facts.variance, (),
                      target=facts.target, supersampled=self.supersampled)  # fmt: skip
        total = analyse(space.fit({**self.chosen, "stage.filters": filters}).net).total
        seconds = self.pace.seconds(total.macs, total.activation_bytes) * self.images / self.threads
        return self.final_seconds / seconds


@dataclass(frozen=True)
class Rule:
    """For `parameter`: when it holds, then its value, because of this, after this source.

    measure: what decides, as a Reason has it; tests: values to try beside it.
    """

    parameter: str
    when: Callable[[Situation], bool]
    then: Callable[[Situation], Any]
    because: Callable[[Situation], str]
    source: str
    measure: str
    tests: Callable[[Situation], tuple[Value, ...]] = lambda s: ()


def always(situation: Situation) -> bool:
    """Holds in every situation."""
    return True


def numbers(situation: Situation) -> bool:
    """Holds where the images have numbers instead of classes."""
    return situation.facts.target is not None


def measured(name: str) -> Callable[[Situation], bool]:
    """Holds where the measure `name` was taken."""
    return lambda s: name in s.facts
