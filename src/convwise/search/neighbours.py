"""Single changes of the advised sample, the parameters that people ask about first."""

from __future__ import annotations

from collections.abc import Sequence

from convwise.core.configuration import Configuration
from convwise.core.records import Advice, Result
from convwise.search.ranking import distinct, tried

# The five parameters of the question, then every other choice in the space's order.
QUESTION = ("stage.kernel_size", "stage.filters", "stem.strides", "padding", "activation")


def propose(advice: Advice, results: Sequence[Result], count: int, seed: int) -> list[Configuration]:
    """One change of each choice, then a second change of each, and so on; what has a result is left out."""
    by_choice: dict[str, list[Configuration]] = {name: [] for name in QUESTION}
    for name, value, sample in advice.space.neighbours(advice.sample):
        if sample == {**advice.sample, name: value}:  # where a limit changes more, neither change can be told
            by_choice.setdefault(name, []).append(sample)
    rounds = max((len(samples) for samples in by_choice.values()), default=0)
    ordered = [samples[i] for i in range(rounds) for samples in by_choice.values() if i < len(samples)]
    seen = {*tried(results), advice.sample.key}
    return distinct(ordered, seen)[:count]
