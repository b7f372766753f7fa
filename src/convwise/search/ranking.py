"""What the strategies share: which results count, which sample leads, what was tried."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from convwise.core.records import Advice, Result
from convwise.core.space import Sample, Space


def scored(results: Iterable[Result], *stages: str) -> list[Result]:
    """The finished results of `stages` (of all, where none is named), best first; ties: the cheaper first."""
    kept = [r for r in results if r.score is not None and (not stages or r.trial.stage in stages)]
    return sorted(kept, key=lambda r: (-(r.score or 0), r.cost.get("macs", 0)))


def leader(advice: Advice, results: Sequence[Result]) -> Sample:
    """The sample that leads after the rung (after the plan, without a rung); else the advice's own."""
    best = scored(results, "rung") or scored(results, "plan")
    return best[0].trial.sample if best else advice.sample


def distinct(space: Space, samples: Iterable[Sample], seen: Iterable[str] = ()) -> list[Sample]:
    """The fitted samples whose nets differ from each other and from the ids in `seen`, in order."""
    known, kept = set(seen), []
    for sample in samples:
        fitted = space.fit(sample)
        if (id := space.grow(fitted).id) not in known:
            known.add(id)
            kept.append(fitted)
    return kept


def tried(results: Iterable[Result]) -> set[str]:
    """The ids of the nets that have a result."""
    return {result.trial.net.id for result in results}
