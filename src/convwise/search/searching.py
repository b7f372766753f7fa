"""The search as a whole: wave after wave of its phases, and the verdict on what they gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from convwise.core.records import Trial, Verdict
from convwise.search import ladder, race
from convwise.search.judge import judge
from convwise.search.phases import FINAL, TEACHER, Search, Wave


def waves(search: Search, teach: Callable[[Trial], None]) -> Iterator[Wave]:
    """The race; then, for a goal of cost, the ladder, below a teacher or without one.

    teach: stores a teacher's answers. Each wave is proposed when the results of the one before are
    recorded. What has been trained to its end is judged already: nothing is tried after that.
    """
    if search.tried(FINAL):
        return
    if not search.tried(TEACHER):
        yield from race.waves(search)
    if search.advice.space.goal.cheapest:
        yield from ladder.waves(search, teach)


def verdict(search: Search) -> Verdict:
    """What the race says, or the ladder if tried. Infeasible where no trial gave a network."""
    judged = judge(search.advice, search.record.results)
    return ladder.of(search).verdict(judged) if search.advice.space.goal.cheapest else judged
