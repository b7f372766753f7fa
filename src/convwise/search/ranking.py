"""What the strategies share: which samples differ, what was tried, what no other beats."""

from __future__ import annotations

from collections.abc import Iterable

from convwise.core.recipe import Recipe
from convwise.core.records import Result
from convwise.core.space import Sample, Space


def distinct(space: Space, samples: Iterable[Sample], seen: Iterable[tuple[str, Recipe]] = ()) -> list[Sample]:
    """The fitted samples that differ in net or recipe from each other and from the keys in `seen`, in order."""
    known, kept = set(seen), []
    for sample in samples:
        fitted = space.fit(sample)
        if (key := space.key(fitted)) not in known:
            known.add(key)
            kept.append(fitted)
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
    return {(result.trial.net.id, result.trial.recipe) for result in results}
