"""The best so far go on: the next rung of successive halving (Jamieson & Talwalkar 2016)."""

from __future__ import annotations

from collections.abc import Sequence

from convwise.core.records import Advice, Result
from convwise.core.space import Sample
from convwise.search.ranking import distinct, scored


def propose(advice: Advice, results: Sequence[Result], count: int, seed: int) -> list[Sample]:
    """The best samples of the earlier rungs; the last place is kept for the advised one, the default."""
    best = [result.trial.sample for result in scored(results, "plan", "rung", "design")]
    kept = distinct(advice.space, best)[: max(count - 1, 1)]
    return distinct(advice.space, [*kept, advice.sample, *best])[:count]
