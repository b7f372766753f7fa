"""Configurations drawn at random: the strategy that every other one must beat."""

from __future__ import annotations

import random
from collections.abc import Sequence

from convwise.core.configuration import Configuration
from convwise.core.records import Advice, Result
from convwise.search.ranking import distinct, tried


def propose(
    advice: Advice, results: Sequence[Result], count: int, seed: int
) -> list[Configuration]:
    """`count` random configurations that no result has."""
    rng = random.Random(f"{seed}-{len(results)}")
    return distinct((advice.space.sample(rng) for _ in range(4 * count)), tried(results))[:count]
