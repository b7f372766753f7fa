"""RIVALS: everything that `choose` is measured beside, and `choose` itself.

A rival is a function from a Job to an Answer, in a module of its own that is imported on use, so
that no rival pays for what another one loads. `ours`: whether it runs on convwise's own space,
recipe or trainer; its rows then stand for one state of the source only. Kinds 3 and 4 train in
rivals/loop.py, which no change of convwise's trainer reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from rivals.job import Answer, Job

__all__ = ["KINDS", "RIVALS", "Answer", "Job", "Rival"]

KINDS: dict[str, str] = {
    "choose": "the command, as a user runs it",
    "arbitrary": "a random valid configuration of our space, another one for each seed",
    "textbook": "a net that people copy, Adam at its usual rate",
    "expert": "a fixed residual net, one-cycle AdamW, label smoothing",
    "record": "the recipe of airbench94 by the clock (Jordan 2024, arXiv 2404.00498)",
    "tuner": "Optuna's TPE and Hyperband on our space, recipe and engine",
    "advised": "our first advice, trained all the time, no search",
}


@dataclass(frozen=True)
class Rival:
    """kind: of KINDS; where: 'module function'; options: handed over in the Job."""

    kind: str
    where: str
    options: Mapping[str, Any] = field(default_factory=dict)
    ours: bool = False

    @property
    def run(self) -> Callable[[Job], Answer]:
        module, function = self.where.split()
        return getattr(import_module(f"rivals.{module}"), function)


RIVALS: dict[str, Rival] = {
    "choose": Rival("choose", "choose run", ours=True),
    "choose-cheapest": Rival(
        "choose", "choose run", {"arguments": ("--goal", "cheapest")}, ours=True
    ),
    "choose-wanted": Rival("choose", "choose run", {"wanted": True}, ours=True),
    "choose-5M": Rival(
        "choose", "choose run", {"arguments": ("--goal", "accuracy where macs<5M")}, ours=True
    ),
    "arbitrary": Rival("arbitrary", "ours arbitrary", ours=True),
    "one_convolution": Rival("textbook", "textbook run", {"net": "one_convolution"}),
    "three_convolutions": Rival("textbook", "textbook run", {"net": "three_convolutions"}),
    "mixed_activations": Rival("textbook", "textbook run", {"net": "mixed_activations"}),
    "lenet_5": Rival("textbook", "textbook run", {"net": "lenet_5"}),
    "keras_mnist": Rival("textbook", "textbook run", {"net": "keras_mnist"}),
    "expert-16": Rival("expert", "expert run", {"width": 16}),
    "expert-32": Rival("expert", "expert run", {"width": 32}),
    "expert-64": Rival("expert", "expert run", {"width": 64}),
    "record-0.25": Rival("record", "record run", {"width": 0.25, "muon": False}),
    "record-0.5": Rival("record", "record run", {"width": 0.5, "muon": False}),
    "record-1": Rival("record", "record run", {"width": 1, "muon": False}),
    "record-muon-0.25": Rival("record", "record run", {"width": 0.25, "muon": True}),
    "record-muon-0.5": Rival("record", "record run", {"width": 0.5, "muon": True}),
    "record-muon-1": Rival("record", "record run", {"width": 1, "muon": True}),
    "optuna-tpe": Rival("tuner", "tpe run", ours=True),
    "advised": Rival("advised", "ours advised", ours=True),
}
