"""The answer: a card for each parameter that people ask about, and what `check` says of the choice, answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from convwise.core.check import findings
from convwise.core.configuration import Draft
from convwise.core.net import Net
from convwise.core.records import Effect, Reason
from convwise.output.words import gain, horizon, plain, span

Tag = Literal["tested", "measured", "convention"]
TESTED, MEASURED, CONVENTION = "tested on your images", "measured on your images", "convention, not tested"
# What a value rests on that was not tested, by what decided it (advice/rules.py); all else was measured on the images.
RESTS_ON: Mapping[str, tuple[Tag, str]] = {
    "literature": ("convention", CONVENTION),
    "findings": ("convention", CONVENTION),
    "trials": ("convention", CONVENTION),
    "goal": ("convention", "set by your goal"),
    "pace": ("measured", "measured on this machine"),
}


@dataclass(frozen=True)
class Question:
    """title; the parameters that answer it, the one whose reason is told first; how their values are said."""

    title: str
    parameters: tuple[str, ...]
    value: Callable[[Draft], str]


@dataclass(frozen=True)
class Card:
    """One question answered. tag: what the value rests on, tagged: the same in words; tried: what others were worth."""

    title: str
    value: str
    because: str
    tag: Tag
    tagged: str
    tried: tuple[str, ...]


def _kernel(configuration: Draft) -> str:
    inside, stem = (
        f"{configuration[name]}×{configuration[name]}" for name in ("stage.kernel_size", "stem.kernel_size")
    )
    return inside if inside == stem else f"{inside}, stem {stem}"


def _filters(configuration: Draft) -> str:
    later = configuration.get("stage.widening", 2)
    return f"{configuration['stage.filters']}" + (
        f", {later} times that in later stages" if later == 4 else ", doubled in each stage"
    )


def _strides(configuration: Draft) -> str:
    return "1" if configuration["stem.strides"] == 1 else f"{configuration['stem.strides']} in the stem, then 1"


def _depth(configuration: Draft) -> str:
    stages, convs = int(configuration["stage.count"]), int(configuration["stage.convs"])
    each = f"{convs} convolution{'s' * (convs != 1)}"
    return f"{stages} stages of {each}" if stages > 1 else f"1 stage of {each}"


def _of(name: str) -> Callable[[Draft], str]:
    return lambda configuration: plain(configuration[name])


QUESTIONS: tuple[Question, ...] = (
    Question("Kernel size", ("stage.kernel_size", "stem.kernel_size"), _kernel),
    Question("Filters", ("stage.filters", "stage.widening"), _filters),
    Question("Stride", ("stem.strides",), _strides),
    Question("Padding", ("padding",), _of("padding")),
    Question("Activation", ("activation",), _of("activation")),
    Question("Depth", ("stage.count", "stage.convs"), _depth),
    Question("Pooling", ("downsampling",), _of("downsampling")),
    Question("Normalisation", ("normalization",), _of("normalization")),
    Question("Head", ("head",), _of("head")),
)


def cards(given: Sequence[Reason], told: Sequence[Effect], chosen: Draft) -> list[Card]:
    """The questions that the configuration answers, those that people ask most first."""
    reasons = {reason.parameter: reason for reason in given}
    return [
        _card(question, reasons[question.parameters[0]], told, chosen)
        for question in QUESTIONS
        if all(name in chosen or name == "stage.widening" for name in question.parameters)
        and question.parameters[0] in reasons
    ]


def _card(question: Question, reason: Reason, told: Sequence[Effect], chosen: Draft) -> Card:
    tried = tuple(_tried(e) for e in _about(question.parameters, told, chosen))
    tested: tuple[Tag, str] = ("tested", TESTED)
    tag, tagged = tested if tried else RESTS_ON.get(reason.measure, ("measured", MEASURED))
    because = reason.because.rstrip(".")
    return Card(question.title, question.value(chosen), f"{because[:1].upper()}{because[1:]}.", tag, tagged, tried)


def _about(parameters: Sequence[str], told: Sequence[Effect], chosen: Draft) -> list[Effect]:
    """The last word on each change from or to the chosen value of these parameters."""
    last = {(e.parameter, e.before, e.after): e for e in told if e.parameter in parameters}
    return [e for e in last.values() if chosen.get(e.parameter) in (e.before, e.after)]


def _tried(effect: Effect) -> str:
    """'5 instead of 3: -0.3 points (-1.7 to +1.0) after 12 s of training, no difference'"""
    change = f"{plain(effect.after)} instead of {plain(effect.before)}"
    change += f" ({effect.parameter})" if effect.parameter.startswith("stem.kernel") else ""
    early = effect.verdict == "not resolved" and effect.expected_low is not None and effect.low * effect.high > 0
    verdict = "too early to tell what it is worth at the end" if early else effect.verdict
    return f"{change}: {gain(effect)} ({span(effect)}) {horizon(effect)}, {verdict}"


# What `check` may say of a net that the Space grows: rule -> (the parameter that would mend it, what others say).
KNOWN: Mapping[str, tuple[str, str]] = {
    "past the border layer": (
        "stage.convs",
        "with one convolution per stage instead of two, clothing lost 2.4 and infrared modules 4.0 points at the end "
        "of a five-minute training; on six easier sets it made no difference (benchmarks/effects.md)",
    ),
    "kernel larger than its map": ("stage.count", "one stage fewer would fix it; that was not tested here"),
    "border lost": ("", "each window lies wholly inside its map; padding the pools instead was not tested"),
    "width shrinks": (
        "stage.filters",
        "a whitening stem has one filter for each direction and sign of its patches; the goal and the time allow "
        "fewer in the convolutions after it",
    ),
    "width explodes": (
        "stage.filters",
        "a whitening stem has one filter for each direction and sign of its patches, and no more; the network of "
        "airbench94 (Jordan 2024), whose recipe this is, goes from 24 filters to 64 at the same point",
    ),
}
UNKNOWN = "not tested; `convwise measure` can tell what a change is worth"


def second_thoughts(net: Net, told: Sequence[Effect], chosen: Draft) -> list[dict[str, Any]]:
    """Every warning that `check` has for the chosen net, with what trials say of it, or what is known elsewhere."""
    rows = []
    for finding in findings(net):
        if finding.problem.severity == "note":
            continue
        parameter, known = KNOWN.get(finding.rule, ("", UNKNOWN))
        tried = [_tried(e) for e in _about([parameter], told, chosen)]
        answer = f"tested on these images: {parameter} {'; '.join(tried)}" if tried else known
        rows.append({"where": finding.problem.where, "what": finding.problem.what, "answer": answer})
    return rows
