"""Fingerprint + goal + rules -> Advice: a space, a first net, and a reason for every parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from convwise.advice.recipes import RECIPE_RULES
from convwise.advice.rules import RULES
from convwise.advice.situation import Rule, Situation
from convwise.core.configuration import MEANING, Draft
from convwise.core.goal import Goal
from convwise.core.growth import Grown
from convwise.core.records import Advice, Effect, Fingerprint, Pace, Reason, Recipe, TrialsWord
from convwise.core.space import Hyperparameter, LatencyModel, Space
from convwise.core.text import number


def advise(facts: Fingerprint, goal: Goal, pace: Pace, final_seconds: float = 300.0,
           threads: int = 2, latency: LatencyModel | None = None) -> Advice:  # fmt: skip
    """What to start with, without training.

    final_seconds, threads: of the final training, which bounds the width. latency is needed where
    the goal limits it. Infeasible where no net keeps the goal's limits.
    """
    situation = Situation(facts, pace, final_seconds, threads, score=goal.score)
    hyperparameters, reasons = [], []
    for name in dict.fromkeys(rule.parameter for rule in RULES):
        rule = _first(RULES, name, situation)
        value = rule.then(situation)
        situation = replace(situation, chosen={**situation.chosen, name: value})
        hyperparameters.append(
            Hyperparameter(name, tuple(dict.fromkeys((value, *rule.tests(situation)))))
        )
        reasons.append(Reason(name, value, rule.because(situation), rule.measure, rule.source))
    hyperparameters.sort(key=lambda each: list(MEANING).index(each.name))
    recipe, why = _recipe(situation)
    chosen, channels = situation.chosen, facts.input_shape[2]
    space = Space(channels, len(facts.classes), facts.mean, facts.variance, tuple(hyperparameters),
                  goal, latency, dict(chosen), recipe, facts.target,
                  situation.supersampled)  # fmt: skip
    return _within_limits(space, chosen, (*reasons, *why))


def _first(rules: Sequence[Rule], name: str, situation: Situation) -> Rule:
    return next(rule for rule in rules if rule.parameter == name and rule.when(situation))


def _within_limits(space: Space, chosen: Draft, reasons: tuple[Reason, ...]) -> Advice:
    """What was chosen where it keeps the goal's limits, else what comes near.

    Each change is explained by the limit.
    """
    configuration, text = space.fit(chosen), space.goal.text
    changed = [
        Reason(
            name,
            value,
            f"{chosen[name]} would break a limit of the goal ({text})",
            "goal",
            "the goal",
        )
        for name, value in configuration.items()
        if value != chosen[name]
    ]
    replaced = {reason.parameter for reason in changed}
    kept = tuple(reason for reason in reasons if reason.parameter not in replaced)
    return Advice(space, configuration, (*kept, *changed))


def _recipe(situation: Situation) -> tuple[Recipe, list[Reason]]:
    rules = [
        _first(RECIPE_RULES, name, situation)
        for name in dict.fromkeys(rule.parameter for rule in RECIPE_RULES)
    ]
    values: dict[str, Any] = {rule.parameter: rule.then(situation) for rule in rules}
    reasons = [
        Reason(
            f"training.{rule.parameter}",
            values[rule.parameter],
            rule.because(situation),
            rule.measure,
            rule.source,
        )
        for rule in rules
    ]
    return Recipe(**values), reasons


def as_chosen(
    reasons: tuple[Reason, ...], configuration: Draft, effects: Sequence[Effect]
) -> tuple[Reason, ...]:
    """The reasons for `sample`, each with what trials said of it.

    Where they overruled it, what they measured.
    """
    tried = [
        replace(reason, trials=said_by(effects, reason.parameter, reason.value))
        for reason in reasons
    ]
    return tuple(
        (
            reason
            if configuration.get(reason.parameter, reason.value) == reason.value
            else _overruled(reason, configuration, effects)
        )
        for reason in tried
    )


def said_by(effects: Sequence[Effect], parameter: str, value: Any) -> TrialsWord | None:
    """What effects say of a value: refuted by a better one, confirmed where another is worse and
    none better.

    Of several effects of one change the last counts: it was asked for, to learn more.
    """
    tried = {e.after: e for e in effects if (e.parameter, e.before) == (parameter, value)}.values()
    if not tried:
        return None
    words = {e.verdict for e in tried}
    if any(e.verdict == "matters" and e.accuracy_change > 0 for e in tried):
        return "refuted"
    if "not resolved" in words:
        return "not resolved"
    return "confirmed" if "matters" in words else "no difference"


# Why a value is taken that need not have been ahead when it was measured: search/race.py, `leader`.
WON_BECAUSE = {
    "training.flip": (
        "a network that had never seen a mirrored image did as well on them as on the others, so"
        " they serve as more training images; training on them is behind early, because there is"
        " more to learn, but was 2 to 3 points ahead at the end on photos of clothing and on"
        " infrared modules (docs/findings.md)"
    )
}


def _overruled(reason: Reason, configuration: Draft, effects: Sequence[Effect]) -> Reason:
    value = configuration[reason.parameter]
    effect = next(
        (
            e
            for e in effects
            if (e.parameter, e.before, e.after) == (reason.parameter, reason.value, value)
        ),
        None,
    )
    why = WON_BECAUSE.get(reason.parameter, "the network that won the trials has it")
    because = f"{why}; the rules advised {reason.value} ({reason.because})"
    if effect:
        measured = f"{effect.moved} ({effect.span})"
        measured += f" after {number(effect.seconds)} s" if effect.seconds else ""
        because = f"measured against {reason.value}: {measured}; {because}"
    return Reason(reason.parameter, value, because, "trials", "this study", reason.trials)


def layer_reasons(
    grown: Grown, reasons: tuple[Reason, ...]
) -> dict[str, dict[str, dict[str, str]]]:
    """layer name -> parameter -> {because, measure, source}, for each layer and its parameters.

    reasons: those of the net's own configuration (see as_chosen). The parameter '' is the layer
    itself.
    """
    known = {reason.parameter: reason for reason in reasons}
    told = {}
    for layer, decided in grown.why.items():
        whys = {p: known[why] if isinstance(why, str) else why for p, why in decided.items()}
        told[layer] = {
            parameter: {"because": why.because, "measure": why.measure, "source": why.source}
            for parameter, why in whys.items()
        }
    return told
