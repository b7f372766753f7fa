"""Scores side by side: knowing nothing, the probe of `look`, other networks, this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convwise.core.records import Fingerprint
from convwise.core.score import Score
from convwise.output.words import compared_bars, said

PROBE = "a probe without training"


def side_by_side(
    told: Mapping[str, Any],
    score: Score,
    probe: Mapping[str, Any] | None = None,
    against: Sequence[Mapping[str, Any]] = (),
    own: str = "this network",
) -> list[dict[str, Any]]:
    """A row for each: name, share of the width, text; where they are known low, high (95 %) and
    their text, `within`.

    told: of the network, which `own` is the name of, as words.asked gives it: each of its keys may
    be missing. probe: accuracy, low and high; against: comparisons as choice.json has them. An
    accuracy is a share of the width itself; of errors the longest takes all of it.
    """
    rows: list[tuple[str, float, float | None, float | None]] = []
    if told.get("baseline") is not None:
        rows.append((score.nothing, told["baseline"], None, None))
    if probe:
        rows.append((PROBE, probe["accuracy"], probe["low"], probe["high"]))
    beside = [bar for row in against for bar in compared_bars(row)]
    rows += beside
    if told.get("value") is not None:
        name = f"{own}, trained to its end" if beside else own
        rows.append((name, told["value"], told.get("low"), told.get("high")))
    longest = max((high or value for _, value, _, high in rows), default=1.0) or 1.0
    return [_row(score, longest if score.is_error else 1.0, *row) for row in rows]


def probed(facts: Fingerprint) -> dict[str, Any] | None:
    """The probe of a fingerprint as `side_by_side` takes it; None where there is none."""
    if "probe_accuracy" not in facts:
        return None
    found = facts.measure("probe_accuracy")
    return {"accuracy": found.value, "low": found.low, "high": found.high}


def _row(
    score: Score, whole: float, name: str, value: float, low: float | None, high: float | None
) -> dict[str, Any]:
    ends = {"share": value, "low": low, "high": high}
    shares = {key: min(end / whole, 1.0) for key, end in ends.items() if end is not None}
    within = {} if low is None else {"within": f"{said(score, low)} to {said(score, high)}"}
    return {"name": name, "text": said(score, value), **shares, **within}
