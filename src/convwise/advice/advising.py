"""Fingerprint + goal + rules -> Advice: a space, a first net, and a reason for every parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from convwise.advice.recipes import RECIPE_RULES
from convwise.advice.rules import RULES, Rule, Situation
from convwise.core.goal import Goal
from convwise.core.layers import Layer, parameters
from convwise.core.net import Net
from convwise.core.records import Advice, Effect, Fingerprint, Pace, Reason, Recipe, TrialsWord
from convwise.core.space import MEANING, Choice, LatencyModel, Sample, Space, Value


def advise(facts: Fingerprint, goal: Goal, pace: Pace, final_seconds: float = 300.0, threads: int = 2,
           latency: LatencyModel | None = None) -> Advice:  # fmt: skip
    """What to start with, without training.

    final_seconds, threads: of the final training, which bounds the width. latency is needed where
    the goal limits it. Infeasible where no net keeps the goal's limits.
    """
    situation = Situation(facts, pace, final_seconds, threads)
    choices, reasons = [], []
    for name in dict.fromkeys(rule.choice for rule in RULES):
        rule = _first(RULES, name, situation)
        situation = replace(situation, chosen={**situation.chosen, name: rule.then(situation)})
        choices.append(Choice(name, _values(rule, situation)))
        reasons.append(_reason(rule, situation))
    recipe, why = _recipe(situation)
    space = _space(facts, goal, latency, tuple(choices), situation.chosen, recipe)
    return _advice(space, situation, (*reasons, *why))


def _first(rules: Sequence[Rule], name: str, situation: Situation) -> Rule:
    return next(rule for rule in rules if rule.choice == name and rule.when(situation))


def _values(rule: Rule, situation: Situation) -> tuple[Value, ...]:
    return tuple(dict.fromkeys((situation.chosen[rule.choice], *rule.tests(situation))))


def _reason(rule: Rule, situation: Situation) -> Reason:
    return Reason(rule.choice, situation.chosen[rule.choice], rule.because(situation), rule.measure, rule.source)


def _space(facts: Fingerprint, goal: Goal, latency: LatencyModel | None, choices: tuple[Choice, ...],
           chosen: Sample, recipe: Recipe) -> Space:  # fmt: skip
    channels = facts.input_shape[2]
    choices = tuple(sorted(choices, key=lambda choice: list(MEANING).index(choice.name)))
    return Space(channels, len(facts.classes), facts.mean, facts.variance, choices, goal, latency, dict(chosen), recipe,
                 facts.target)  # fmt: skip


def _advice(space: Space, situation: Situation, reasons: tuple[Reason, ...]) -> Advice:
    sample = space.fit(situation.chosen)
    changed = [_limited(name, situation.chosen[name], value, space.goal) for name, value in sample.items()
               if value != situation.chosen[name]]  # fmt: skip
    replaced = {reason.parameter for reason in changed}
    kept = tuple(reason for reason in reasons if reason.parameter not in replaced)
    return Advice(space, sample, space.grow(sample), (*kept, *changed))


def _limited(name: str, wanted: Value, value: Value, goal: Goal) -> Reason:
    return Reason(name, value, f"{wanted} would break a limit of the goal ({goal.text})", "goal", "the goal")


def _recipe(situation: Situation) -> tuple[Recipe, list[Reason]]:
    rules = [_first(RECIPE_RULES, name, situation) for name in dict.fromkeys(rule.choice for rule in RECIPE_RULES)]
    values: dict[str, Any] = {rule.choice: rule.then(situation) for rule in rules}
    reasons = [
        Reason(f"training.{rule.choice}", values[rule.choice], rule.because(situation), rule.measure, rule.source)
        for rule in rules
    ]
    return Recipe(**values), reasons


def as_chosen(reasons: tuple[Reason, ...], sample: Sample, effects: Sequence[Effect]) -> tuple[Reason, ...]:
    """The reasons for `sample`, each with what trials said of it; where they overruled it, what they measured."""
    tried = [replace(reason, trials=said_by(effects, reason.parameter, reason.value)) for reason in reasons]
    return tuple(
        reason if sample.get(reason.parameter, reason.value) == reason.value else _overruled(reason, sample, effects)
        for reason in tried
    )


def said_by(effects: Sequence[Effect], parameter: str, value: Any) -> TrialsWord | None:
    """What effects say of a value: refuted by a better one, confirmed where all others are worse or no better.

    Of several effects of one change the last counts: it was asked for, to learn more.
    """
    tried = {e.after: e for e in effects if (e.parameter, e.before) == (parameter, value)}.values()
    better = [e for e in tried if e.verdict == "matters" and e.accuracy_change > 0]
    if not tried:
        return None
    if better:
        return "refuted"
    return "not resolved" if any(e.verdict == "not resolved" for e in tried) else "confirmed"


# Why a value is taken that need not have been ahead when it was measured: search/race.py, `leader`.
WON_BECAUSE = {
    "training.flip": "a net that had never seen a mirrored image answered them as well as the others, so they are more "
    "images of each class; training on them is behind early, because there is more to learn, and was 2 to 3 points "
    "ahead at the end on photos of clothing and on infrared modules (docs/findings.md)"
}


def _overruled(reason: Reason, sample: Sample, effects: Sequence[Effect]) -> Reason:
    value = sample[reason.parameter]
    effect = next(
        (e for e in effects if (e.parameter, e.before, e.after) == (reason.parameter, reason.value, value)), None
    )
    why = WON_BECAUSE.get(reason.parameter, "the net that won the trials has it")
    because = f"{why}; the rules advised {reason.value} ({reason.because})"
    if effect:
        measured = f"{effect.moved} ({effect.span})"
        measured += f" after {effect.seconds:.3g} s" if effect.seconds else ""
        because = f"measured against {reason.value}: {measured}; {because}"
    return Reason(reason.parameter, value, because, "trials", "this study", reason.trials)


def _standing(because: str, source: str, measure: str = "literature") -> Reason:
    return Reason("", None, because, measure, source)


# Reasons that are the same for every set of images.
STANDING: dict[str, Reason] = {
    "raw pixels": _standing("pixels 0-255 become 0-1 inside the network, so that raw images can be given to it",
                            "Keras guide: preprocessing layers inside the model"),
    "mean": _standing("each channel gets mean 0 over the training images", "LeCun et al. 1998", "mean"),
    "variance": _standing("each channel gets deviation 1 over the training images", "LeCun et al. 1998", "variance"),
    "constants": _standing("mean and variance are known before training: constants, not weights", "Keras guide"),
    "one for each class": _standing("one output for each class", "softmax regression, Bridle 1990", "classes"),
    "probabilities": _standing("softmax makes the outputs probabilities that add up to 1", "Bridle 1990"),
    "one number": _standing("one output for the number, as it is: what is learnt has mean 0 and deviation 1",
                            "linear regression"),
    "target's unit": _standing("what is learnt has mean 0 and deviation 1; this brings it back to the unit of the "
                               "target, so that exports answer in it", "LeCun et al. 1998, on inputs", "target"),
    "a row": _standing("the classes read a row of numbers, not a map", "Keras guide"),
    "whole windows": _standing("each window lies whole inside the map, so no border is made up; an odd last row or "
                               "column is left out", "Keras's default"),
    "epsilon": _standing("keeps the division finite in a channel that is even", "Keras's default"),
    "momentum": _standing("the rate falls to zero at the end, so the running statistics must follow within ten steps",
                          "airbench94 (Jordan 2024)"),
    "shift and scale": _standing("learnt, so that a normalised channel can still take any mean and deviation",
                                 "Ioffe & Szegedy 2015, section 3"),
    "every direction": _standing("every direction that a patch of the images can vary in, in both signs: the "
                                 "activation after it drops one sign of each", "airbench94 (Jordan 2024)"),
    "whole patches": _standing("each patch lies whole inside the image: a made-up border could not be whitened",
                               "airbench94 (Jordan 2024)"),
    "learnt bias": _standing("the filters of the images stay as they are; a learnt summand of each is its threshold",
                             "airbench94 (Jordan 2024)"),
    "dilation": _standing("1: every px under the kernel is read; halving the map widens the field for less",
                          "Yu & Koltun 2016 on what dilation costs"),
    "one group": _standing("each output reads every channel; the separable block is the alternative that is tested",
                           "Howard et al. 2017"),
    "one each": _standing("one output for each channel; the 1x1 convolution after it mixes them", "Howard et al. 2017"),
    "pointwise": _standing("1x1: mixes the channels, after the depthwise convolution has looked around",
                           "Howard et al. 2017"),
    "no bias": _standing("the normalisation after it takes every constant out, and adds its own",
                         "Ioffe & Szegedy 2015, section 3.2"),
    "bias": _standing("a learnt summand for each output: no normalisation after it adds one", "Keras's default"),
    "later": _standing("the activation follows as a layer of its own, after the normalisation where there is one",
                       "Ioffe & Szegedy 2015; He et al. 2016"),
    "shortcut": _standing("1x1: only brings the block's input to the block's shape, so that the two can be added",
                          "He et al. 2016"),
    "inside": _standing("1: the map keeps its size; it is halved once a stage at most", "He et al. 2016"),
    "block's size": _standing("residual and separable blocks keep the map's size, so that a sum fits and none shrinks",
                              "He et al. 2016; Howard et al. 2017"),
    "small map": _standing("'valid' would leave a map of under 4 px here", "the shape of the network", "input_shape"),
}  # fmt: skip

# The first pattern that fits "BLOCK STEM PADDING LAYER.PARAMETER=VALUE" (the parameter is empty for the layer itself)
# names what decides: a choice, or a reason of STANDING.
DECIDES: tuple[tuple[str, str], ...] = (
    ("* rescaling.*", "raw pixels"),
    ("* normalization.variance=*", "variance"),
    ("* normalization.adapted=*", "constants"),
    ("* normalization.*", "mean"),
    ("* classes.units=*", "one for each class"),
    ("* classes.use_bias=*", "bias"),
    ("* classes.*", "probabilities"),
    ("* number.use_bias=*", "bias"),
    ("* number.*", "one number"),
    ("* target.*", "target's unit"),
    ("* head.keepdims=*", "a row"),
    ("* head.*", "head"),
    ("* dropout.*", "dropout"),
    ("* *_pool.padding=*", "whole windows"),
    ("* *_pool.c*=*", "whole windows"),
    ("* *_pool.*", "downsampling"),
    ("* *_norm.epsilon=*", "epsilon"),
    ("* *_norm.momentum=*", "momentum"),
    ("* *_norm.*=*", "shift and scale"),
    ("* *_norm.", "normalization"),
    ("* *_act.*", "activation"),
    ("* *_out?.*", "activation"),
    ("* *_add?.*", "block"),
    ("* *.dilation_rate=*", "dilation"),
    ("* *.groups=*", "one group"),
    ("* *.depth_multiplier=*", "one each"),
    ("* *.use_bias=False", "no bias"),
    ("* whitening * stem.use_bias=*", "learnt bias"),
    ("* *.use_bias=True", "bias"),
    ("* *.activation=linear", "later"),
    ("* *.activation=*", "activation"),
    ("* *_shortcut?.*", "shortcut"),
    ("* whitening * stem.filters=*", "every direction"),
    ("* stem.filters=*", "stage.filters"),
    ("* stage1_*.filters=*", "stage.filters"),
    ("* *.filters=*", "stage.widening"),
    ("* stem.kernel_size=*", "stem.kernel_size"),
    ("separable * *_conv?.kernel_size=*", "pointwise"),
    ("* *.kernel_size=*", "stage.kernel_size"),
    ("* stem.strides=*", "stem.strides"),
    ("* *.strides=(1, 1)", "inside"),
    ("* *.strides=*", "downsampling"),
    ("* whitening * stem.padding=*", "whole patches"),
    ("* valid stem.padding=same", "small map"),
    ("* stem.padding=*", "padding"),
    ("p* valid *.padding=same", "small map"),  # plain and pooled
    ("p* *.padding=*", "padding"),
    ("* *.padding=*", "block's size"),
    ("* stem.", "stem"),
    ("* *.", "block"),
)


def layer_reasons(net: Net, reasons: tuple[Reason, ...]) -> dict[str, dict[str, dict[str, str]]]:
    """layer name -> parameter -> {because, measure, source}, for every layer of a grown net and each of its parameters.

    reasons: those of the net's own sample (see as_chosen). The parameter '' is the layer itself.
    """
    known = {**STANDING, **{reason.parameter: reason for reason in reasons}}
    built = f"{known['block'].value} {known['stem'].value} {known['padding'].value}"
    return {layer.name: _reasons_of(layer, built, known) for layer in net.layers}


def _reasons_of(layer: Layer, built: str, known: dict[str, Reason]) -> dict[str, dict[str, str]]:
    keys = {"": "", **{p.name: f"{p.name}={getattr(layer, p.name)}" for p in parameters(layer)}}
    found = {name: known[_decider(f"{built} {layer.name}.{key}")] for name, key in keys.items()}
    return {name: {"because": r.because, "measure": r.measure, "source": r.source} for name, r in found.items()}


def _decider(key: str) -> str:
    return next(decider for pattern, decider in DECIDES if fnmatchcase(key, pattern))
