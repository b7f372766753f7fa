"""The answer: a card for each parameter that people ask about; warnings of `check`, answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from convwise.core.check import findings
from convwise.core.configuration import Draft
from convwise.core.net import Net
from convwise.core.records import Effect, Fingerprint, Reason, from_json
from convwise.inspect.checking import scale_of
from convwise.output.words import at_end, gain, horizon, plain, points, span

Tag = Literal["tested", "measured", "convention"]
TESTED, MEASURED, CONVENTION = (
    "tested on your images",
    "measured on your images",
    "convention, not tested",
)
# What a value rests on that was not tested, by what decided it (advice/rules.py); all else was
# measured on the images.
RESTS_ON: Mapping[str, tuple[Tag, str]] = {
    "literature": ("convention", CONVENTION),
    "findings": ("convention", CONVENTION),
    "trials": ("convention", CONVENTION),
    "goal": ("convention", "set by your goal"),
    "input_shape": ("convention", "convention, set by the size of the images"),
    "images": ("convention", "convention, set by the number of images"),
    "classes": ("convention", "convention, set by the images of each class"),
    "target": ("convention", "convention, set by what is predicted"),
    "pace": ("measured", "measured on this machine"),
}


@dataclass(frozen=True)
class Question:
    """title; the parameters that answer it, the one whose reason is told first; how their values
    are said.

    parts: what each parameter is of the answer, where there are several.
    """

    title: str
    parameters: tuple[str, ...]
    value: Callable[[Draft], str]
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Card:
    """One question answered. tag: what the value rests on, tagged: the same in words; tried: what
    others were worth.
    """

    title: str
    value: str
    because: str
    tag: Tag
    tagged: str
    tried: tuple[str, ...]


def _kernel(configuration: Draft) -> str:
    inside, stem = (
        f"{configuration[name]}×{configuration[name]}"
        for name in ("stage.kernel_size", "stem.kernel_size")
    )
    return inside if inside == stem else f"{inside}, stem {stem}"


def _filters(configuration: Draft) -> str:
    later = configuration.get("stage.widening", 2)
    more = f"{later} times that in later stages" if later == 4 else "doubled in each stage"
    return f"{configuration['stage.filters']}, {more}"


def _strides(configuration: Draft) -> str:
    stem = configuration["stem.strides"]
    return "1" if stem == 1 else f"{stem} in the stem, then 1"


def _depth(configuration: Draft) -> str:
    stages, convs = int(configuration["stage.count"]), int(configuration["stage.convs"])
    each = f"{convs} convolution{'s' * (convs != 1)}"
    return f"{stages} stages of {each}" if stages > 1 else f"1 stage of {each}"


def _of(name: str) -> Callable[[Draft], str]:
    return lambda configuration: plain(configuration[name])


QUESTIONS: tuple[Question, ...] = (
    Question(
        "Kernel size",
        ("stage.kernel_size", "stem.kernel_size"),
        _kernel,
        ("the kernel inside the stages", "the kernel of the first layer"),
    ),
    Question(
        "Filters",
        ("stage.filters", "stage.widening"),
        _filters,
        ("the filters of the first stage", "how much wider later stages are"),
    ),
    Question("Stride", ("stem.strides",), _strides),
    Question("Padding", ("padding",), _of("padding")),
    Question("Activation", ("activation",), _of("activation")),
    Question(
        "Depth",
        ("stage.count", "stage.convs"),
        _depth,
        ("the number of stages", "the convolutions of a stage"),
    ),
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


def cards_of(choice: Mapping[str, Any], told: Sequence[Effect]) -> list[Card]:
    """The same of a choice.json, which may be of version 0.1.0; told: its effects."""
    given = [from_json(Reason, row) for row in choice.get("reasons", {}).get("choices", ())]
    return cards(given, told, choice["configuration"])


def _card(question: Question, reason: Reason, told: Sequence[Effect], chosen: Draft) -> Card:
    about = _about(question.parameters, told, chosen)
    # Said of the stem's kernel in any case
    alike = Counter(_change(each) for each in about if not each.parameter.startswith("stem.kernel"))
    tried = tuple(_tried(each, alike[_change(each)] > 1) for each in about)
    tag, tagged = (
        _tested(question, about) if about else RESTS_ON.get(reason.measure, ("measured", MEASURED))
    )
    because = reason.because.rstrip(".")
    return Card(
        question.title,
        question.value(chosen),
        f"{because[:1].upper()}{because[1:]}.",
        tag,
        tagged,
        tried,
    )


def _tested(question: Question, about: Sequence[Effect]) -> tuple[Tag, str]:
    """That it was tested; where that is true of one part of the answer alone, of which."""
    tested = {effect.parameter for effect in about}
    parts = [
        part
        for name, part in zip(question.parameters, question.parts, strict=False)
        if name in tested
    ]
    return "tested", f"{TESTED} ({parts[0]})" if len(tested) < len(question.parameters) else TESTED


def _about(parameters: Sequence[str], told: Sequence[Effect], chosen: Draft) -> list[Effect]:
    """The last word on each change from or to the chosen value of these parameters."""
    last = {(e.parameter, e.before, e.after): e for e in told if e.parameter in parameters}
    return [e for e in last.values() if chosen.get(e.parameter) in (e.before, e.after)]


def _change(effect: Effect) -> str:
    return f"{plain(effect.after)} instead of {plain(effect.before)}"


def _tried(effect: Effect, named: bool = False) -> str:
    """'5 instead of 3: -0.3 points (-1.7 to +1.0) after 12 s of training; at its end -0.4 to +0.3:
    no difference'

    named: whether it says of which parameter.
    """
    named = named or effect.parameter.startswith("stem.kernel")
    change = _change(effect) + (f" ({effect.parameter})" if named else "")
    told, end = f"{gain(effect)} ({span(effect)}) {horizon(effect)}", at_end(effect)
    if effect.verdict != "not resolved" and end:
        return f"{change}: {told}; at its end {end}: {effect.verdict}"
    early = end and effect.low * effect.high > 0
    verdict = "too early to tell what it is worth at the end" if early else effect.verdict
    return f"{change}: {told}, {verdict}"


@dataclass(frozen=True)
class Warned:
    """What answers a warning of `check`.

    mends: the parameters that a study varies and that would mend it, each with the direction in
    which it would, 1 for more and -1 for less; why: what is to be said of it besides.
    """

    mends: tuple[tuple[str, int], ...] = ()
    why: str = ""


# What `check` may say of a net that the Space grows, by its rule.
WARNED: Mapping[str, Warned] = {
    "past the border layer": Warned((("stage.convs", -1), ("stage.count", -1))),
    "kernel larger than its map": Warned((("stage.count", -1),)),
    "field too small": Warned((("stage.count", 1), ("stage.convs", 1), ("stage.kernel_size", 1))),
    "border lost": Warned(
        why="each window lies wholly inside its map, so no border has to be invented"
    ),
    "width shrinks": Warned(
        (("stage.filters", 1),),
        "a whitening stem has one filter for each direction and sign of its patches; the goal and"
        " the time allow fewer in the convolutions after it",
    ),
    "width explodes": Warned(
        (("stage.filters", -1),),
        "a whitening stem has one filter for each direction and sign of its patches, and no more;"
        " the network of airbench94 (Jordan 2024), whose recipe this is, goes from 24 filters to 64"
        " at the same point",
    ),
}
# (parameter, from, to) -> the least and the most that a change of the advised network was worth at
# the end of whole trainings, in points, and on how many sets: the rows of benchmarks/effects.md
# that mend a warning.
ELSEWHERE: Mapping[tuple[str, Any, Any], tuple[float, float, int]] = {
    ("stage.kernel_size", 3, 5): (-3.4, 0.0, 8),
    ("stage.filters", 32, 24): (-0.2, -0.2, 1),
    ("stage.filters", 32, 48): (-0.4, -0.4, 1),
    ("stage.filters", 48, 32): (-1.0, -0.1, 2),
    ("stage.filters", 48, 64): (-0.2, 0.5, 2),
    ("stage.filters", 64, 48): (-0.5, 1.1, 5),
    ("stage.filters", 64, 96): (-0.2, 0.1, 5),
    ("stage.count", 3, 2): (-0.8, 0.3, 7),
    ("stage.convs", 2, 1): (-4.0, 0.1, 7),
}
UNTESTED = "not tested; `convwise measure` can tell what a change is worth"


def second_thoughts(
    net: Net, facts: Fingerprint, told: Sequence[Effect], chosen: Draft
) -> list[dict[str, Any]]:
    """Every warning that `check` has for the chosen net, with and without its images, and what was
    measured of it.

    rule: of check.CHECKS; where, what: as it says them; answer: see `answer`.
    """
    scales = dict.fromkeys((scale_of(facts, net.input_shape), None))
    found = {
        (f.problem.where, f.problem.what): f
        for scale in scales
        for f in findings(net, scale_px=scale)
    }
    return [
        {"rule": f.rule, "where": where, "what": what, "answer": answer(f.rule, told, chosen)}
        for (where, what), f in found.items()
        if f.problem.severity != "note"
    ]


def answer(rule: str, told: Sequence[Effect], chosen: Draft) -> str:
    """What trials here, then on other sets, say of mending a warning; then why it stands."""
    warned = WARNED.get(rule, Warned())
    here = [
        f"{name} {_tried(effect)}"
        for name, way in warned.mends
        for effect in _about([name], told, chosen)
        if _way(chosen[name], effect.after if chosen[name] == effect.before else effect.before)
        == way
    ]
    there = [
        f"{name} {after} instead of {before}: {_between(least, most)} on {sets}"
        f" set{'s' * (sets != 1)}"
        for name, way in warned.mends
        for (changed, before, after), (least, most, sets) in ELSEWHERE.items()
        if (changed, before) == (name, chosen.get(name)) and _way(before, after) == way
    ]
    said = [f"tested on these images: {'; '.join(here)}"] if here else []
    if there:
        others = "at the end of trainings of other sets (benchmarks/effects.md)"
        said.append(f"{others}: {'; '.join(there)}")
    return "; ".join([*(said or [UNTESTED]), *filter(None, [warned.why])])


def _way(before: Any, after: Any) -> int:
    """1 where `after` is more, -1 where it is less, 0 where they are no two numbers."""
    if not (isinstance(before, (int, float)) and isinstance(after, (int, float))):
        return 0
    return (after > before) - (after < before)


def _between(least: float, most: float) -> str:
    """'-4.0 to +0.1 points', or one number where it was one set."""
    ends = [points(each / 100) for each in dict.fromkeys((least, most))]
    return f"{' to '.join(ends)} points"
