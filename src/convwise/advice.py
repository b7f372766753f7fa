"""Fingerprint + goal + rules -> Advice: a space, a first net, and a reason for every parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from convwise.core.goal import Goal
from convwise.core.layers import Conv2D, Dense, DepthwiseConv2D, Layer
from convwise.core.net import Net
from convwise.core.records import Advice, Effect, Fingerprint, Pace, Reason, Recipe
from convwise.core.space import MEANING, Choice, LatencyModel, Sample, Space, Value
from convwise.rules import RECIPE_RULES, RULES, Rule, Situation

# Strong plain defaults that need no fingerprint: the portfolio is always tried beside the plan.
PORTFOLIO: tuple[Sample, ...] = (
    {"block": "residual", "stage.filters": 16, "stage.convs": 2, "stage.count": 3},
    {"block": "plain", "stage.filters": 24, "stage.convs": 1, "stage.count": 4},
)


def advise(facts: Fingerprint, goal: Goal, pace: Pace, final_seconds: float = 300.0, threads: int = 2,
           latency: LatencyModel | None = None) -> Advice:  # fmt: skip
    """What to start with, without training.

    final_seconds, threads: of the final training, which bounds the width. latency is needed where
    the goal limits it. Infeasible where no net keeps the goal's limits.
    """
    situation = Situation(facts, pace, final_seconds, threads)
    choices, reasons = [], []
    for name in dict.fromkeys(rule.choice for rule in RULES):
        rule = next(rule for rule in RULES if rule.choice == name and rule.when(situation))
        situation = replace(situation, chosen={**situation.chosen, name: rule.then(situation)})
        choices.append(Choice(name, _values(rule, situation)))
        reasons.append(_reason(rule, situation))
    space = _space(facts, goal, latency, tuple(choices), situation.chosen)
    return _advice(space, situation, tuple(reasons))


def _values(rule: Rule, situation: Situation) -> tuple[Value, ...]:
    return tuple(dict.fromkeys((situation.chosen[rule.choice], *rule.tests(situation))))


def _reason(rule: Rule, situation: Situation) -> Reason:
    return Reason(rule.choice, situation.chosen[rule.choice], rule.because(situation), rule.measure, rule.source)


def _space(facts: Fingerprint, goal: Goal, latency: LatencyModel | None, choices: tuple[Choice, ...],
           chosen: Sample) -> Space:  # fmt: skip
    channels = facts.input_shape[2]
    choices = tuple(sorted(choices, key=lambda choice: list(MEANING).index(choice.name)))
    return Space(channels, len(facts.classes), facts.mean, facts.variance, choices, goal, latency, dict(chosen))


def _advice(space: Space, situation: Situation, reasons: tuple[Reason, ...]) -> Advice:
    sample = space.fit(situation.chosen)
    changed = [_limited(name, situation.chosen[name], value, space.goal) for name, value in sample.items()
               if value != situation.chosen[name]]  # fmt: skip
    replaced = {reason.parameter for reason in changed}
    recipe, why = _recipe(situation)
    kept = tuple(reason for reason in reasons if reason.parameter not in replaced)
    portfolio = tuple(space.fit({**sample, **other}) for other in PORTFOLIO)
    return Advice(space, sample, space.grow(sample), (*kept, *changed, *why), recipe, portfolio)


def _limited(name: str, wanted: Value, value: Value, goal: Goal) -> Reason:
    return Reason(name, value, f"{wanted} would break a limit of the goal ({goal.text})", "", "the goal")


def _recipe(situation: Situation) -> tuple[Recipe, list[Reason]]:
    values: dict[str, Any] = {rule.field: rule.then(situation) for rule in RECIPE_RULES}
    reasons = [
        Reason(f"training.{rule.field}", values[rule.field], rule.because(situation), rule.measure, rule.source)
        for rule in RECIPE_RULES
    ]
    return Recipe(**values), reasons


def as_chosen(reasons: tuple[Reason, ...], sample: Sample, effects: Sequence[Effect]) -> tuple[Reason, ...]:
    """The reasons for `sample`: where the trials overruled the advice, what they measured."""
    return tuple(
        reason if sample.get(reason.parameter, reason.value) == reason.value else _overruled(reason, sample, effects)
        for reason in reasons
    )


def _overruled(reason: Reason, sample: Sample, effects: Sequence[Effect]) -> Reason:
    value = sample[reason.parameter]
    effect = next(
        (e for e in effects if (e.parameter, e.before, e.after) == (reason.parameter, reason.value, value)), None
    )
    because = f"the net that won the trials has it; the rules advised {reason.value} ({reason.because})"
    if effect:
        measured = f"{100 * effect.accuracy_change:+.1f} points ({100 * effect.low:+.1f} to {100 * effect.high:+.1f})"
        because = f"measured against {reason.value}: {measured}; {because}"
    return Reason(reason.parameter, value, because, "trials", "this study")


# Which choice stands behind which parameter of a grown layer; the first prefix that fits a layer's name.
CHOICE_OF: tuple[tuple[str, dict[str, str]], ...] = (
    ("stem", {"filters": "stage.filters", "kernel_size": "stem.kernel_size", "strides": "stem.strides",
              "padding": "padding", "activation": "activation", "use_bias": "normalization"}),
    ("stage", {"filters": "stage.filters", "kernel_size": "stage.kernel_size", "strides": "downsampling",
               "padding": "padding", "pool_size": "downsampling", "activation": "activation",
               "use_bias": "normalization", "epsilon": "normalization", "momentum": "normalization"}),
    ("head", {"": "head"}),
    ("dropout", {"rate": "dropout"}),
)  # fmt: skip
FIXED: dict[str, str] = {
    "rescaling": "pixels 0-255 become 0-1 inside the network, so that raw images can be given to it",
    "normalization": "each channel gets mean 0 and deviation 1 over the training images",
    "classes": "one output for each class; softmax makes them probabilities",
}


SHORTCUT = "1x1: only brings the block's input to the block's shape, so that the two can be added"


def layer_reasons(net: Net, reasons: tuple[Reason, ...]) -> dict[str, dict[str, str]]:
    """layer name -> parameter -> the reason's sentence, for every layer of a grown net."""
    by_choice = {reason.parameter: reason for reason in reasons}
    return {layer.name: _reasons_of(layer, by_choice) for layer in net.layers}


def _reasons_of(layer: Layer, by_choice: dict[str, Reason]) -> dict[str, str]:
    if layer.name in FIXED:
        return {"": FIXED[layer.name]}
    if "_shortcut" in layer.name and isinstance(layer, Conv2D):
        return dict.fromkeys(("", "filters", "kernel_size", "strides", "padding", "activation"), SHORTCUT)
    table = next((table for prefix, table in CHOICE_OF if layer.name.startswith(prefix)), {})
    names = table if isinstance(layer, (Conv2D, DepthwiseConv2D, Dense)) else {"": "block", **table}
    found = {parameter: by_choice[choice] for parameter, choice in names.items() if choice in by_choice}
    known = {parameter: reason for parameter, reason in found.items() if not parameter or hasattr(layer, parameter)}
    return {parameter: reason.because for parameter, reason in known.items()}
