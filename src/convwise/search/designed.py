"""A designed experiment around the leader: every choice is changed in half of the runs.

Plackett & Burman 1946: with N runs, N a multiple of 4, up to N - 1 two-level main effects are
estimated independently, each from all N runs. Main effects alias two-way interactions.
"""

from __future__ import annotations

from collections.abc import Sequence

from convwise.core.calculus import analyse
from convwise.core.records import Advice, Result
from convwise.core.space import Sample, Space, Value
from convwise.search.ranking import leader

# The first rows of the cyclic designs of Plackett & Burman 1946, for 4, 8 and 12 runs.
GENERATORS: dict[int, str] = {4: "++-", 8: "+++-+--", 12: "++-+++---+-"}
AFFORDABLE = 1.8
SMALLEST = 8  # with fewer runs the noise cannot be told from the effects


def propose(advice: Advice, results: Sequence[Result], count: int, seed: int) -> list[Sample]:
    """The runs of the largest design that `count` allows; none where it allows none."""
    sizes = [runs for runs in GENERATORS if SMALLEST <= runs <= count]
    if not sizes:
        return []
    base = leader(advice, results)
    changes = list(contrasts(advice.space, base, results).items())[: max(sizes) - 1]
    return [
        advice.space.fit({**base, **{name: after for (name, (_, after)), up in zip(changes, row, strict=False) if up}})
        for row in design(max(sizes))
    ]


def design(runs: int) -> list[list[bool]]:
    """The design as `runs` rows of `runs` - 1 levels; the last row has every factor at its first level."""
    first = [sign == "+" for sign in GENERATORS[runs]]
    return [first[-i:] + first[:-i] for i in range(runs - 1)] + [[False] * (runs - 1)]


def contrasts(space: Space, base: Sample, results: Sequence[Result]) -> dict[str, tuple[Value, Value]]:
    """choice -> (the leader's value, the value to test against it): the untested neighbour comes first.

    A change that costs over AFFORDABLE times the leader's macs is left out: several such in one run leave
    it no time to learn anything, and then say nothing of the others. The rung tests them one by one.
    """
    limit = AFFORDABLE * _macs(space, base)
    seen = {(name, result.trial.sample.get(name)) for result in results for name in base}
    options: dict[str, list[Value]] = {}
    for name, value, sample in space.neighbours(base):
        if _macs(space, sample) > limit:
            continue
        options.setdefault(name, []).append(value)
    return {
        name: (base[name], min(values, key=lambda value: (name, value) in seen)) for name, values in options.items()
    }


def _macs(space: Space, sample: Sample) -> int:
    return analyse(space.grow(sample)).total.macs
