"""The plan, the default, and single changes of the plan, the choices with the largest expected effect first."""

from __future__ import annotations

from collections.abc import Sequence

from convwise.core.records import Advice, Result
from convwise.core.space import Sample
from convwise.search.ranking import distinct

REPEATED = 6


def propose(advice: Advice, results: Sequence[Result], count: int, seed: int) -> list[Sample]:
    """One change of each choice in the space's order, then a second change of each, and so on.

    The plan and the default are among them, so that all are compared at equal time. Where there are
    REPEATED places or more, the last is the plan's once more: what another seed does is the noise.
    """
    by_choice: dict[str, list[Sample]] = {}
    for name, _, sample in advice.space.neighbours(advice.sample):
        by_choice.setdefault(name, []).append(sample)
    rounds = max((len(samples) for samples in by_choice.values()), default=0)
    ordered = [samples[i] for i in range(rounds) for samples in by_choice.values() if i < len(samples)]
    samples = distinct(advice.space, [advice.sample, *advice.portfolio, *ordered])[:count]
    return [*samples[: count - 1], advice.sample] if len(samples) >= REPEATED else samples
