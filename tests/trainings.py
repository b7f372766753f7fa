"""Simulated trainings, the oracle of the statistics: answers are drawn, no formula of the product
is used.

Every example has a difficulty of its own on the logit scale; a run answers it right with the
probability that follows, by itself, and is as a whole a little better or worse than other runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import optimize
from scipy.special import expit

from convwise.core.records import Result, Trial
from studies import nth_net

HARDNESS = 2.5  # standard deviation of the examples' logits: most are always right, few flip
NET = nth_net(0)
Pair = tuple[Result, Result]


@dataclass(frozen=True)
class World:
    """Where experiments are made.

    n: validation examples; error: of the net as it is, on all examples there are; seeds: pairs of
    runs; run: standard deviation of a run's accuracy beyond single flips, on an average set; sets
    differ in it as a scaled inverse chi^2 of `freedom` says; own: standard deviation, in logits, of
    what an edit makes of single examples.
    """

    n: int = 1000
    error: float = 0.1
    seeds: int = 3
    run: float = 0.005
    freedom: float = 8.0
    own: float = 0.0


@cache
def middle(accuracy: float, spread: float = HARDNESS) -> float:
    """The mean logit at which normal difficulties give this accuracy."""
    z = np.linspace(-6, 6, 2001)
    weights = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
    return float(
        optimize.brentq(lambda m: (weights * expit(m + spread * z)).sum() - accuracy, -30, 30)
    )


def family(world: World, changes: Sequence[float], rng: np.random.Generator) -> list[list[Pair]]:
    """For each edit, truly better by its change, the pairs of runs of one net and of that edit of
    it.
    """
    logits = middle(1 - world.error) + rng.normal(0, HARDNESS, world.n)
    deviation = (
        world.run * np.sqrt(world.freedom / rng.chisquare(world.freedom)) if world.run else 0.0
    )
    before = [run(logits, deviation, rng) for _ in range(world.seeds)]
    wider = float(np.hypot(HARDNESS, world.own))
    edits = []
    for change in changes:
        moved = middle(1 - world.error + change, wider) - middle(1 - world.error)
        edited = logits + moved + (rng.normal(0, world.own, world.n) if world.own else 0.0)
        edits.append([(each, run(edited, deviation, rng)) for each in before])
    return edits


def experiments(world: World, change: float, times: int, seed: int = 0) -> Iterator[list[Pair]]:
    """Pairs of runs of a net and of an edit of it, `times` over, each time of another net and other
    examples.
    """
    rng = np.random.default_rng([seed, world.n, world.seeds, round(1000 * world.error)])
    return (family(world, (change,), rng)[0] for _ in range(times))


def run(logits: np.ndarray, deviation: float, rng: np.random.Generator) -> Result:
    """One training, its whole accuracy shifted by a normal number of this deviation."""
    share = expit(logits)
    steep = float((share * (1 - share)).mean())
    right = rng.random(len(logits)) < expit(logits + rng.normal(0, deviation) / steep)
    correct = (right.astype(np.uint8) + ord("0")).tobytes().decode()
    trial = Trial("t", "measure", {}, NET, seconds=10.0)
    return Result(trial, "done", float(right.mean()), correct, images_per_second=1000.0)
