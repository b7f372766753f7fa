"""What the strategies share: which configurations differ, what was tried, what no other beats."""

from __future__ import annotations

from collections.abc import Iterable

from convwise.core.configuration import Configuration
from convwise.core.recipe import Recipe
from convwise.core.records import Result


def distinct(
    given: Iterable[Configuration], seen: Iterable[tuple[str, Recipe]] = ()
) -> list[Configuration]:
    """Those that differ in net or recipe from each other and from the keys in `seen`, in order."""
    known, kept = set(seen), []
    for each in given:
        if each.key not in known:
            known.add(each.key)
            kept.append(each)
    return kept


def front(results: Iterable[Result], metric: str) -> tuple[Result, ...]:
    """The results that no other beats in both accuracy and the cost `metric`, cheapest first."""
    kept: list[Result] = []
    for result in sorted(results, key=lambda r: (r.cost[metric], -(r.score or 0))):
        if not kept or (result.score or 0) > (kept[-1].score or 0):
            kept.append(result)
    return tuple(kept)


def tried(results: Iterable[Result]) -> set[tuple[str, Recipe]]:
    """The nets that have a result, each with its recipe."""
    return {result.trial.key for result in results}
