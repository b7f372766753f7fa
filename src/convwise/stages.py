"""The stages of a search: which strategy, until which share of the budget, how many trials."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One step of the search: its strategy, the share of the budget at which it ends, how many trials at
    most, and how many epochs each should have at least (by the pace measured so far)."""

    name: str
    strategy: str
    until: float
    most: int
    epochs: float


# A valid answer in the first tenth, a rung at equal time, a designed experiment, finalists.
STAGES: tuple[Stage, ...] = (
    Stage("plan", "planned", 0.10, 2, 0.0),
    Stage("rung", "neighbours", 0.30, 10, 3.0),
    Stage("design", "designed", 0.44, 12, 3.0),
    Stage("finalists", "halving", 0.55, 3, 6.0),
)
COUNTED_EPOCHS = {"plan": 4, "rung": 4, "design": 4, "finalists": 8, "final": 16}


def counted_share(stage: str, trials: int) -> int:
    """How many of `trials` a stage gets: the plan, then the largest design in half of them, finalists, the rest."""
    plan = min(trials, 2)
    finalists = min(3, max((trials - plan) // 5, 0))
    design = max(n for n in (0, 8, 12) if n <= (trials - plan) / 2)
    return {"plan": plan, "finalists": finalists, "design": design, "rung": trials - plan - finalists - design}[stage]
