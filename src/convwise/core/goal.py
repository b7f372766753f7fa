"""What the user wants: what to maximise, and the limits that the result must keep."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from convwise.core.problems import UnusableInput

# metric -> (its unit inside convwise, what its suffixes multiply by)
METRICS: dict[str, tuple[str, dict[str, float]]] = {
    "params": ("parameters", {"": 1, "k": 1e3, "m": 1e6}),
    "macs": ("multiply-accumulates", {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}),
    "activation_bytes": ("bytes", {"": 1, "kb": 1e3, "mb": 1e6, "kib": 2**10, "mib": 2**20}),
    "latency_ms": ("ms", {"ms": 1, "us": 1e-3, "s": 1e3, "": 1}),
}
ALIASES = {"latency": "latency_ms", "parameters": "params", "activations": "activation_bytes"}
_LIMIT = re.compile(r"\s*(\w+)\s*(?:<=|<)\s*((?:\d+\.?\d*|\.\d+)(?:e\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Limit:
    """A bound on the result: `metric` is one of METRICS, `at_most` is in that metric's unit."""

    metric: str
    at_most: float

    def __str__(self) -> str:
        return f"{self.metric} < {self.at_most:,g}"


@dataclass(frozen=True)
class Goal:
    """What to maximise, and the limits the result must keep."""

    maximise: str = "accuracy"
    limits: tuple[Limit, ...] = ()
    text: str = "accuracy"

    def excess(self, cost: Mapping[str, float]) -> dict[str, float]:
        """metric -> how many times over its limit `cost` is; a metric that `cost` lacks is not counted."""
        strictest = sorted((limit for limit in self.limits if limit.metric in cost), key=lambda limit: -limit.at_most)
        over = {limit.metric: cost[limit.metric] / limit.at_most for limit in strictest}
        return {metric: ratio for metric, ratio in over.items() if ratio > 1}


def parse_goal(text: str) -> Goal:
    """'accuracy where latency<2ms and params<100k' -> Goal. UnusableInput says what is not understood."""
    aim, *limits = re.split(r"\bwhere\b", text, maxsplit=1, flags=re.IGNORECASE)
    if aim.strip().lower() != "accuracy":
        raise UnusableInput("--goal", f"asks for {aim.strip()!r}", "accuracy, optionally with limits", f"'{EXAMPLE}'")
    parts = [part for part in re.split(r"\band\b|,", "".join(limits), flags=re.IGNORECASE) if part.strip()]
    if limits and not parts:
        raise UnusableInput("--goal", "names no limit after 'where'", "metric<number", f"'{EXAMPLE}'")
    return Goal("accuracy", tuple(_limit(part) for part in parts), text.strip())


EXAMPLE = "accuracy where latency<2ms and macs<5M and params<100k"


def _limit(text: str) -> Limit:
    found = _LIMIT.fullmatch(text)
    if not found:
        raise UnusableInput("--goal", f"has the limit {text.strip()!r}", "metric<number", f"'{EXAMPLE}'")
    metric = ALIASES.get(found[1].lower(), found[1].lower())
    if metric not in METRICS:
        raise UnusableInput("--goal", f"limits {found[1]!r}", "one of latency, " + ", ".join(METRICS))
    unit, factors = METRICS[metric]
    if found[3].lower() not in factors:
        raise UnusableInput("--goal", f"gives {metric} in {found[3]!r}", f"{unit}: " + ", ".join(filter(None, factors)))
    at_most = float(found[2]) * factors[found[3].lower()]
    if at_most <= 0:
        raise UnusableInput("--goal", f"limits {metric} to {at_most:g}", "a number above 0")
    return Limit(metric, at_most)
