"""Single changes of the advised configuration, the parameters that people ask about first."""

from __future__ import annotations

from collections.abc import Sequence

from convwise.core.configuration import Configuration
from convwise.core.parameters import FIVE
from convwise.core.records import Advice, Result
from convwise.search.ranking import distinct, tried

# The five parameters of the question, where a space varies them; then every other hyperparameter in
# its order.
WHERE = {"kernel_size": "stage.", "filters": "stage.", "strides": "stem."}
QUESTION = tuple(WHERE.get(name, "") + name for name in FIVE)


def propose(
    advice: Advice, results: Sequence[Result], count: int, seed: int
) -> list[Configuration]:
    """One change of each hyperparameter, then a second of each, and so on.

    What has a result is left out.
    """
    by_name: dict[str, list[Configuration]] = {name: [] for name in QUESTION}
    for name, value, configuration in advice.space.neighbours(advice.configuration):
        if configuration == {
            **advice.configuration,
            name: value,
        }:  # where a limit changes more, neither change can be told
            by_name.setdefault(name, []).append(configuration)
    rounds = max((len(configurations) for configurations in by_name.values()), default=0)
    ordered = [
        configurations[i]
        for i in range(rounds)
        for configurations in by_name.values()
        if i < len(configurations)
    ]
    seen = {*tried(results), advice.configuration.key}
    return distinct(ordered, seen)[:count]
