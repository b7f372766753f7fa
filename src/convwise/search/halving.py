"""The best so far go on: the next rung of successive halving (Jamieson & Talwalkar 2016)."""

from __future__ import annotations

from collections.abc import Sequence

from convwise.core.paired import cheapest_near
from convwise.core.records import Advice, Result
from convwise.core.space import Sample
from convwise.search.ranking import distinct, scored


def propose(advice: Advice, results: Sequence[Result], count: int, seed: int) -> list[Sample]:
    """The cheapest that is as good as the best, then the best; the last place is kept for the default.

    As good: within one standard error, as the finalists will be judged. Else a net that costs a fraction would end
    its time in the rung, and the dearer one would be chosen without a rival.
    """
    ranked = scored(results, "plan", "rung", "design")
    first = [cheapest_near(ranked[0], ranked)] if ranked else []
    best = [result.trial.sample for result in (*first, *ranked)]
    kept = distinct(advice.space, best)[: max(count - 1, 1)]
    return distinct(advice.space, [*kept, advice.sample, *best])[:count]
