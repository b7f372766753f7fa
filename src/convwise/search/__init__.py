"""What to try next: a table of pure functions from the advice and the results so far to
configurations.

A strategy is called as (advice, results, count, seed) and returns at most `count` configurations,
best guesses first. It sees neither storage nor runner, so a crash or a rerun changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from convwise.core.configuration import Configuration
from convwise.core.records import Advice, Result
from convwise.search import neighbours, random

__all__ = ["judge", "ladder", "race", "rivals", "searching", "phases"]
Strategy = Callable[[Advice, Sequence[Result], int, int], list[Configuration]]

STRATEGIES: dict[str, Strategy] = {
    "neighbours": neighbours.propose,
    "random": random.propose,
}
