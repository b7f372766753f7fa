"""The space of networks worth testing: named hyperparameters and limits.

Every draft is fitted to a configuration whose net is valid and whose exact costs are inside the
limits.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from convwise.core.calculus import Analysis, analyse
from convwise.core.configuration import MEANING, Configuration, Draft, Value
from convwise.core.goal import Goal
from convwise.core.net import Net
from convwise.core.problems import Infeasible
from convwise.core.recipe import Recipe
from convwise.core.score import Target
from convwise.core.text import parse_size

WIDTHS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
# What makes a net cheaper when it is over a limit, mildest first; applied one on top of the other.
REDUCTIONS: tuple[Draft, ...] = (
    {},
    {"stage.convs": 1},
    {"stage.kernel_size": 3},
    {"head": "GlobalAveragePooling2D"},
    {"block": "separable", "stem": "learned"},
    {"stem.strides": 2, "stem.kernel_size": 3},
    {"stage.count": 2},
)


@dataclass(frozen=True)
class Hyperparameter:
    """One named hyperparameter and the values worth testing."""

    name: str
    values: tuple[Value, ...]

    @property
    def meaning(self) -> str:
        return MEANING[self.name]

    @property
    def legal(self) -> tuple[Value, ...]:
        """Every value that a configuration can have: worth testing, or of smaller nets."""
        reduced = (
            WIDTHS
            if self.name == "stage.filters"
            else [r[self.name] for r in REDUCTIONS if self.name in r]
        )
        return tuple(dict.fromkeys([*self.values, *reduced]))


@dataclass(frozen=True)
class LatencyModel:
    """Predicted milliseconds of one image: a sum over layers, macs and activation bytes.

    The coefficients are calibrated on this machine (training/machine.py); margin > 1 keeps
    predictions safe. The record is a noun of core, as Pace is: a ledger keeps it with its Space,
    and is read back by core alone.
    """

    per_layer: float
    per_mac: float
    per_byte: float
    margin: float = 1.2

    def milliseconds(self, costs: Analysis) -> float:
        total = costs.total
        linear = (
            self.per_layer * len(costs.layers)
            + self.per_mac * total.macs
            + self.per_byte * total.activation_bytes
        )
        return self.margin * linear


@dataclass(frozen=True)
class Space:
    """Named hyperparameters over images of `channels` and `classes`, or over images with numbers:
    target.

    mean, variance: per channel, of pixels / 255, for the net's own Normalization layer.
    recipe: how nets are trained, apart from what a configuration says of it.
    defaults: values of hyperparameters that a draft does not name.
    supersampled: nets take images of so many times input.size, and their first layer averages them
    down.
    """

    channels: int
    classes: int
    mean: tuple[float, ...]
    variance: tuple[float, ...]
    hyperparameters: tuple[Hyperparameter, ...] = field(metadata={"key": "choices"})
    goal: Goal = Goal()
    latency: LatencyModel | None = None
    defaults: Draft = field(default_factory=dict)
    recipe: Recipe = Recipe()
    target: Target | None = None
    supersampled: int = 1

    def __getitem__(self, name: str) -> Hyperparameter:
        return next(each for each in self.hyperparameters if each.name == name)

    def cost(self, net: Net) -> dict[str, float]:
        """The metrics of the goal that are known without running: exact, and latency predicted."""
        costs = analyse(net)
        return costs.total.cost | (
            {"latency_ms": self.latency.milliseconds(costs)} if self.latency else {}
        )

    def sample(self, rng: random.Random) -> Configuration:
        """A random configuration."""
        return self.fit({each.name: rng.choice(each.values) for each in self.hyperparameters})

    def neighbours(self, here: Configuration) -> Iterator[tuple[str, Value, Configuration]]:
        """Each single change, as (hyperparameter, value, fitted), where it changes the net or how
        it is trained.
        """
        for each in self.hyperparameters:
            for value in each.values:
                if (
                    value != here[each.name]
                    and (changed := self.fit({**here, each.name: value})).key != here.key
                ):
                    yield each.name, value, changed

    def fit(self, draft: Draft) -> Configuration:
        """The draft itself where its net keeps every limit, else the nearest smaller one that does.

        UnusableInput where it is no draft of a configuration. Infeasible says by how much the
        smallest net is over.
        """
        excess: dict[str, float] = {}
        for smaller in self._smaller(Configuration.of(self, {**self.defaults, **draft})):
            excess = self.goal.excess(smaller.cost)
            if not excess:
                return smaller
        over = ", ".join(
            f"{metric} {ratio:.1f} times its limit" for metric, ratio in excess.items()
        )
        what = f"even the smallest network is over the limits: {over}"
        raise Infeasible("goal", what, self.goal.text, "raise the limit, or use smaller images")

    def _smaller(self, whole: Configuration) -> Iterator[Configuration]:
        narrower = [width for width in reversed(WIDTHS) if width <= whole.stage_filters]
        current: Draft = whole
        for reduction in REDUCTIONS:
            current = {**current, **reduction}
            for width in narrower:
                yield Configuration.of(self, {**current, "stage.filters": width})
        smallest = min(self["input.size"].values, key=lambda size: parse_size(str(size)))
        for width in narrower:
            yield Configuration.of(
                self, {**current, "input.size": smallest, "stage.filters": width}
            )
