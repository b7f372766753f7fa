"""The plan of the rules and the default: what a study starts with, and what is always a candidate."""

from __future__ import annotations

from collections.abc import Sequence

from convwise.core.records import Advice, Result
from convwise.core.space import Sample
from convwise.search.ranking import distinct


def propose(advice: Advice, results: Sequence[Result], count: int, seed: int) -> list[Sample]:
    """The advised sample, then the portfolio in its order."""
    return distinct(advice.space, [advice.sample, *advice.portfolio])[:count]
