"""What the user wants: the best score, or the lowest cost that keeps one, within limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from convwise.core.problems import UnusableInput
from convwise.core.score import ACCURACY, Score
from convwise.core.score import SCORES as SCORES

# metric -> (its unit inside convwise, what its suffixes multiply by)
METRICS: dict[str, tuple[str, dict[str, float]]] = {
    "params": ("parameters", {"": 1, "k": 1e3, "m": 1e6}),
    "macs": ("multiply-accumulates", {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}),
    "activation_bytes": ("bytes", {"": 1, "kb": 1e3, "mb": 1e6, "kib": 2**10, "mib": 2**20}),
    "latency_ms": ("ms", {"ms": 1, "us": 1e-3, "s": 1e3, "": 1}),
}
UNEVEN = 3.0  # largest class / smallest class from which classes are called uneven
ALIASES = {"latency": "latency_ms", "parameters": "params", "activations": "activation_bytes"}
_NUMBER = r"((?:\d+\.?\d*|\.\d+)(?:e\d+)?)"
_LIMIT = re.compile(rf"\s*(\w+)\s*(?:<=|<)\s*{_NUMBER}\s*([a-z]*)\s*", re.IGNORECASE)
_WANTED_ERROR = re.compile(
    rf"\s*error\s*(?:<=|<)\s*(?:{_NUMBER}|(best)\s*(?:\+\s*{_NUMBER}\s*%)?)\s*", re.IGNORECASE
)
_KEPT = rf"\s*({'|'.join(SCORES)})\b"
_WANTED = re.compile(
    rf"{_KEPT}\s*(?:>=|>)\s*(best\b)?\s*(?:(-?)\s*{_NUMBER}\s*(%?))?\s*", re.IGNORECASE
)


@dataclass(frozen=True)
class Limit:
    """A bound on the result: `metric` is one of METRICS, `at_most` is in that metric's unit."""

    metric: str
    at_most: float

    def __str__(self) -> str:
        return f"{self.metric} < {self.at_most:,g}"


@dataclass(frozen=True)
class Cheapest:
    """To cost as little of `metric` as a network can that keeps an accuracy.

    accuracy: the one to keep; None: that of the best network found. within: how far below it will
    do. score: what is to be kept, one of SCORES, or 'error'. error: then the one to keep; None:
    that of the best network found, and within is the share of it that may come on top.
    """

    metric: str
    accuracy: float | None = None
    within: float = 0.0
    score: str = "accuracy"
    error: float | None = None

    @property
    def of_error(self) -> bool:
        """Whether an error is to be kept."""
        return self.score == "error"

    @property
    def given(self) -> bool:
        """Whether what is to be kept is a number, whatever the best network found has."""
        return (self.error if self.of_error else self.accuracy) is not None

    def floor(self, best: float, score: Score = ACCURACY) -> float:
        """The score to keep, where the best network has `best`; score: how scores are told."""
        if self.of_error:
            return score.score(
                score.value(best) * (1 + self.within) if self.error is None else self.error
            )
        return (best if self.accuracy is None else self.accuracy) - self.within

    def missed(self, value: float) -> bool:
        """Whether a network of this accuracy, or error, has not the one to keep, where that was
        given as a number.
        """
        if self.of_error:
            return self.error is not None and value > self.error
        return self.accuracy is not None and value < self.accuracy


@dataclass(frozen=True)
class Goal:
    """What to maximise, or else the cost to minimise, and the limits that the result must keep."""

    maximise: str = "accuracy"
    limits: tuple[Limit, ...] = ()
    text: str = "accuracy"
    cheapest: Cheapest | None = None

    @property
    def score(self) -> str:
        """What networks are compared by, of SCORES or 'error': to be the best, or to be kept."""
        return self.cheapest.score if self.cheapest else self.maximise

    def excess(self, cost: Mapping[str, float]) -> dict[str, float]:
        """metric -> how many times over its limit `cost` is; only of metrics that `cost` has."""
        strictest = sorted(
            (limit for limit in self.limits if limit.metric in cost),
            key=lambda limit: -limit.at_most,
        )
        over = {limit.metric: cost[limit.metric] / limit.at_most for limit in strictest}
        return {metric: ratio for metric, ratio in over.items() if ratio > 1}


EXAMPLE = "accuracy where latency<2ms and macs<5M and params<100k"
# What 'cheapest' keeps, where nothing else is said; and an example of a number to keep.
USUAL = {"accuracy": "accuracy>=best-0.3%", "error": "error<=best+3%"}
KEPT = {"accuracy": "accuracy>=0.97", "error": "error<=3.5"}


def parse_goal(text: str | None, scored: str = "accuracy") -> Goal:
    """'accuracy where latency<2ms and params<100k' or 'macs where accuracy>=97%' -> Goal.

    'cheapest' is 'macs where accuracy>=best-0.3%'; balanced_accuracy and macro_f1 stand where
    accuracy can. scored: what the task scores, 'accuracy', which stands for all of SCORES, or
    'error'; of an error that is 'error where latency<2ms', 'macs where error<=3.5', in the unit of
    the target, or 'macs where error<=best+3%', which is 'cheapest'. text: None: the best of what
    the task scores. UnusableInput says what is not understood.
    """
    text, example = scored if text is None else text, EXAMPLE.replace("accuracy", scored)
    aim, *conditions = re.split(r"\bwhere\b", text, maxsplit=1, flags=re.IGNORECASE)
    parts = [
        part
        for part in re.split(r"\band\b|,", "".join(conditions), flags=re.IGNORECASE)
        if part.strip()
    ]
    if conditions and not parts:
        raise UnusableInput(
            "--goal", "names no limit after 'where'", "metric<number", f"'{example}'"
        )
    _refuse_other(text, scored)
    known = ("error",) if scored == "error" else tuple(SCORES)
    wanted = [part for part in parts if re.match(rf"\s*({'|'.join(known)})\b", part, re.IGNORECASE)]
    limits = tuple(_limit(part) for part in parts if part not in wanted)
    asked = aim.strip().lower()
    if (score := re.sub(r"[\s-]+", "_", asked)) in known:
        if wanted:
            fix = f"'macs where {KEPT[scored].replace('accuracy', score)}'"
            what = f"asks for {SCORES.get(score, score)}, and names one to keep"
            raise UnusableInput("--goal", what, "the cost to be minimised", fix)
        return Goal(score, limits, text.strip())
    if asked == "cheapest":
        asked, wanted = "macs", wanted or [USUAL[scored]]
    if (metric := ALIASES.get(asked, asked)) not in METRICS:
        expected = f"{', '.join(known)}, cheapest, or one of latency, " + ", ".join(METRICS)
        raise UnusableInput("--goal", f"asks for {aim.strip()!r}", expected, f"'{example}'")
    if len(wanted) != 1:
        several = {"accuracy": "accuracies", "error": "errors"}[scored]
        what = f"names two {several} to keep" if wanted else f"names no {scored} to keep"
        raise UnusableInput(
            "--goal", what, "one, beside any limits", f"'{asked} where {KEPT[scored]}'"
        )
    kept = {"accuracy": _cheapest, "error": _cheapest_by_error}[scored]
    return Goal("", limits, text.strip(), kept(metric, wanted[0]))


def _refuse_other(text: str, scored: str) -> None:
    """UnusableInput where a goal speaks of the score of another task."""
    if scored == "accuracy" and re.search(r"\berror\b", text, re.IGNORECASE):
        fix = "accuracy>=... instead, or --task regress where the images have numbers"
        raise UnusableInput(
            "--goal", "asks for an error, but classes are scored by accuracy", f"'{EXAMPLE}'", fix
        )
    if scored == "error" and re.search(r"accuracy\b|\bmacro[\s_-]+f1\b", text, re.IGNORECASE):
        fix = "--goal error, or 'macs where error<=3.5', or --task classify"
        raise UnusableInput(
            "--goal",
            "asks for a score of classes, but numbers are scored by their error",
            "error",
            fix,
        )


def _cheapest_by_error(metric: str, text: str) -> Cheapest:
    """'error<=3.5', in the unit of the target, 'error<=best' or 'error<=best+3%'."""
    found = _WANTED_ERROR.fullmatch(text)
    number, best, more = found.groups() if found else (None, None, None)
    number = number or "0"
    if not best and not float(number):
        expected = "an error in the unit of the target, or the best found plus a share of it"
        fix = f"'{metric} where {KEPT['error']}' or '{metric} where {USUAL['error']}'"
        raise UnusableInput("--goal", f"says {text.strip()!r}", expected, fix)
    if best:
        return Cheapest(metric, None, float(more or 0) / 100, "error")
    return Cheapest(metric, score="error", error=float(number))


def _cheapest(metric: str, text: str) -> Cheapest:
    """'accuracy>=0.97', 'accuracy>=97%', 'accuracy>=best' or 'accuracy>=best-0.3%'."""
    found = _WANTED.fullmatch(text)
    score, best, minus, number, percent = (
        found.groups() if found else ("accuracy", None, None, None, None)
    )
    score, where, said = score.lower(), "--goal", f"says {text.strip()!r}"
    if not (number or best) or bool(best and number) != bool(minus):
        expected, fix = (
            "an accuracy, or the best found minus some of it",
            f"'{metric} where {USUAL['accuracy']}'",
        )
        raise UnusableInput(where, said, expected, f"'{metric} where accuracy>=0.97' or {fix}")
    share = float(number or 0) / (100 if percent else 1)
    if share >= 1 or not (best or share):
        shown = number if not percent and not best and 1 < share < 100 else "97"
        fix = USUAL["accuracy"] if best else f"{score}>={shown}%"
        raise UnusableInput(
            where, said, "a share below 1, or a percentage below 100 %", f"'{metric} where {fix}'"
        )
    return Cheapest(metric, None, share, score) if best else Cheapest(metric, share, score=score)


def _limit(text: str) -> Limit:
    found = _LIMIT.fullmatch(text)
    if not found:
        raise UnusableInput(
            "--goal", f"has the limit {text.strip()!r}", "metric<number", f"'{EXAMPLE}'"
        )
    metric = ALIASES.get(found[1].lower(), found[1].lower())
    if metric not in METRICS:
        raise UnusableInput(
            "--goal", f"limits {found[1]!r}", "one of latency, " + ", ".join(METRICS)
        )
    unit, factors = METRICS[metric]
    if found[3].lower() not in factors:
        raise UnusableInput(
            "--goal",
            f"gives {metric} in {found[3]!r}",
            f"{unit}: " + ", ".join(filter(None, factors)),
        )
    at_most = float(found[2]) * factors[found[3].lower()]
    if at_most <= 0:
        raise UnusableInput("--goal", f"limits {metric} to {at_most:g}", "a number above 0")
    return Limit(metric, at_most)
