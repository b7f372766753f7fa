"""Numbers, values and effects as the report says them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from convwise.core.goal import SCORES
from convwise.core.intervals import Z95, wilson
from convwise.core.records import Effect, Result
from convwise.core.score import Score, score_of
from convwise.core.shown import plain as plain
from convwise.core.text import in_thousands

# Words of the report that a reader may not know; each is explained where it stands, and all of them
# at its end.
GLOSSARY: Mapping[str, str] = {
    "stem": "the first convolution of the network, the one that reads the image itself",
    "stage": (
        "the layers between two halvings of the map: one or more convolutions on maps of the same"
        " size"
    ),
    "probe": (
        "a quick classifier on simple filters, fitted in a second; a trained network should beat it"
    ),
    "sealed": (
        "held out: set aside before anything was looked at, and opened once, after the choice, to"
        " score it"
    ),
    "macs": (
        "multiply-accumulates: how many times a weight is multiplied by a value, for one image; the"
        " usual measure of a network's work"
    ),
    "field": "the receptive field: the part of the image that one output can see",
    "kernel": "the window of weights that a convolution moves over the map",
    "race": (
        "the part of a study in which other values are trained beside the advised network and"
        " compared with it"
    ),
}


def percent(share: float | None, digits: int = 1) -> str:
    """0.973 -> '97.3 %', with a space that does not break."""
    return "–" if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f}\u202f%"


def points(change: float, signed: bool = True) -> str:
    """A change of accuracy in percentage points: 0.021 -> '+2.1'."""
    text = f"{100 * change:{'+' if signed else ''}.1f}" if math.isfinite(change) else "–"
    return text.replace("-", "\u2212")


def said(score: Score, value: float | None) -> str:
    """An accuracy as a percentage, an error in the unit of its target."""
    return sig(value) if score.is_error else percent(value)


def called(score: str) -> str:
    """A score in a sentence: 'balanced accuracy', 'error'."""
    return SCORES.get(score, score)


def asked(test: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of `test` in choice.json what the goal asks for: its name, value, low, high, and baseline
    where that is known.

    Folders of version 0.1.0, and those of numbers, have one score alone.
    """
    name = "error" if "error" in test else "accuracy"
    return test.get("score") or {**test, "name": name, "value": test.get(name)}


def is_chosen(test: Mapping[str, Any]) -> bool:
    """Whether `test` in choice.json is of a network that can be called chosen; one of version 0.1.0
    does not say.

    It is better than guessing, and not surely less accurate than the probe of `look`.
    """
    beats_guessing = bool(test.get("better_than_guessing", True))
    return beats_guessing and test.get("probe", {}).get("verdict") != "worse"


def capital(text: str) -> str:
    """Text as it begins a sentence."""
    return f"{text[:1].upper()}{text[1:]}"


def spaced(text: str) -> str:
    """Words of the report as any terminal shows them: plain spaces and minus signs."""
    return text.replace("\u202f", " ").replace("\u2212", "-")


def told(result: Result) -> str:
    """The score of a trial."""
    score = score_of(result.trial.net, result.trial.score)
    return said(score, None if result.score is None else score.value(result.score))


def moved(score: Score, change: float) -> str:
    """A change of a score, without its unit: percentage points, or by how much an error changes."""
    return score.moved(change).replace("-", "\u2212")


def short(number: float | None) -> str:
    """25450 -> '25.4 k', 4200000 -> '4.20 M'."""
    if number is None or not math.isfinite(number):
        return "–"
    scaled, unit = in_thousands(number)
    return f"{scaled:#.3g}".rstrip(".") + f"\u202f{unit}" if unit else f"{number:.3g}"


def whole(number: float | None) -> str:
    """25450 -> '25,450'."""
    return "–" if number is None or not math.isfinite(number) else f"{number:,.0f}"


def sig(number: float | None) -> str:
    """Three significant digits, without an exponent where it can be helped."""
    if number is None or not math.isfinite(number):
        return "–"
    text = whole(number) if abs(number) >= 1000 else f"{number:.3g}"
    return text.replace("-", "\u2212")


def ms(number: float | None) -> str:
    """Milliseconds, always in three digits, to compare them in a column: 4.3 -> '4.30'."""
    return "–" if number is None or not math.isfinite(number) else f"{number:#.3g}".rstrip(".")


def explained(text: str) -> Markup:
    """HTML of `text`, escaped; the first of each word in the glossary tells what it means."""
    known, parts, rest = list(GLOSSARY), [], text
    while known and (found := re.search(rf"\b({'|'.join(known)})s?\b", rest)):
        known.remove(found[1])
        marked = Markup('<abbr title="{}">{}</abbr>').format(GLOSSARY[found[1]], found[0])
        parts += [escape(rest[: found.start()]), marked]
        rest = rest[found.end() :]
    return Markup("").join([*parts, escape(rest)])


def resized_otherwise(estimate: Mapping[str, Any], shape: Sequence[int]) -> Iterator[str]:
    """How to resize pictures for the network in other programs, and what not to do so costs."""
    if found := estimate.get("resized_otherwise"):
        share = 100 * found["same"] / found["n"]
        same = f"{share:.1f} % of {whole(found['n'])} images get the same answer"
        yield (
            f"Resize pictures to {shape[0]}×{shape[1]} with antialiasing: Pillow's BILINEAR,"
            " tf.image.resize with antialias=True, Keras's load_img with"
            ' interpolation="bilinear", or cv2.INTER_AREA. By nearest pixel, which is load_img\'s'
            f" default, {same}."
        )


def spent(provenance: Mapping[str, Any]) -> str:
    """'298 s of 300', or '41 s' where trials were counted; '' where it is not known."""
    if "wall_seconds" not in provenance:
        return ""
    asked = provenance.get("budget_seconds")
    of = f" of {whole(asked)}" if asked and not provenance.get("trials") else ""
    return f"{whole(provenance['wall_seconds'])} s{of}"


def change(effect: Effect) -> str:
    """'stage.kernel_size 3 → 5'"""
    return f"{effect.parameter} {plain(effect.before)} → {plain(effect.after)}"


def worth(effect: Effect) -> str:
    """'3 → 5: -1.2 points (-2.0 to -0.4)'"""
    return f"{plain(effect.before)} → {plain(effect.after)}: {gain(effect)} ({span(effect)})"


def gain(effect: Effect) -> str:
    """What a change was worth, with its unit: '+2.1 points', or '−0.31' of an error."""
    return moved(effect.score, effect.accuracy_change) + effect.score.unit


def span(effect: Effect) -> str:
    """The 95 % interval of that, without its unit."""
    return effect.span.replace("-", "\u2212")


def at_end(effect: Effect) -> str:
    """The interval that is expected at the end of a training; '' where it is not known."""
    if effect.expected_low is None or effect.expected_high is None:
        return ""
    return effect.score.span(effect.expected_low, effect.expected_high).replace("-", "\u2212")


def horizon(effect: Effect) -> str:
    """How long both networks had been trained; the effect can be another after more."""
    if effect.seconds:
        return f"after {sig(effect.seconds)} s of training"
    return "after the same number of epochs"


def by_horizon(effects: Sequence[Effect], told: Callable[[Effect], str]) -> str:
    """'after 5 s of training: ...; after 10 s of training: ...'."""
    groups: dict[str, list[str]] = {}
    for effect in effects:
        groups.setdefault(horizon(effect), []).append(told(effect))
    return "; ".join(f"{when}: {'; '.join(what)}" for when, what in groups.items())


def beside(row: Mapping[str, Any]) -> str:
    """A comparison in choice.json as sentences: scores, costs, and the difference."""
    title = capital(row["title"])
    if row["failed"]:
        return f"{title} could not be compared: {row['failed']}."
    after = "after the same number of epochs"
    if row["seconds"]:
        after = f"after {sig(row['seconds'])} s of training each"
    ours, theirs = (_scored(row[f"{which}{_name(row)}"], row) for which in ("chosen_", ""))
    told = f"{title}: {theirs}, {short(row['cost'].get('macs'))} macs; the chosen network: "
    told += f"{ours}, {short(row['chosen_cost'].get('macs'))} macs"
    how = f"both newly trained in the same way, {after}, {row['n']:,} validation images"
    return f"{told} ({how}). {_difference(row)}"


def compared_bars(row: Mapping[str, Any]) -> list[tuple[str, float, float, float]]:
    """(what, score, low, high) of both networks of a comparison; none where it failed."""
    if row["failed"]:
        return []
    n, when = row["n"], "after the same number of epochs"
    if row["seconds"]:
        when = f"after {sig(row['seconds'])} s"
    if _name(row) == "error":
        errors = (row["error"], row["chosen_error"])
        halves = [Z95 * each for each in row["error_standard_errors"]]
        spans = zip(errors, halves, strict=True)
        ends = [(max(error - half, 0.0), error + half) for error, half in spans]
    else:
        errors = (row["accuracy"], row["chosen_accuracy"])
        ends = [wilson(round(share * n), n) for share in errors]
    titles = (f"{title}, {when}" for title in (row["title"], "the chosen network"))
    return [(title, value, *end) for title, value, end in zip(titles, errors, ends, strict=True)]


def _name(row: Mapping[str, Any]) -> str:
    """What a comparison is told by."""
    return "error" if "error" in row else "accuracy"


def _scored(value: float, row: Mapping[str, Any]) -> str:
    return f"error {sig(value)}{_deviations(row)}" if _name(row) == "error" else percent(value)


def _deviations(row: Mapping[str, Any]) -> str:
    """The unit of an error behind its number, where it is of several numbers."""
    return " deviations" if row.get("numbers", 1) > 1 else ""


def _difference(row: Mapping[str, Any]) -> str:
    change, low, high = row[f"{_name(row)}_change"], row["low"], row["high"]
    if _name(row) == "error":
        return _error_difference(row, change, low, high)
    if row["verdict"] == "matters":
        better, ends = "the chosen network", (low, high)
        if change <= 0:
            better, ends = row["title"], (-high, -low)
        amount, least, most = (points(each, signed=False) for each in (abs(change), *ends))
        return f"{capital(better)} is {amount} points better ({least} to {most})."
    interval = f"{points(change)} points, {points(low)} to {points(high)}"
    if row["verdict"] == "no difference":
        return f"They are equally good ({interval}): take the cheaper."
    return f"Which one is better is not resolved ({interval})."


def _error_difference(row: Mapping[str, Any], change: float, low: float, high: float) -> str:
    """The same of errors, in their unit: the chosen network's less the other's."""
    if row["verdict"] == "matters":
        better, ends = row["title"], (low, high)
        if change < 0:
            better, ends = "the chosen network", (-high, -low)
        smaller, span = f"{sig(abs(change))}{_deviations(row)}", " to ".join(map(sig, ends))
        return f"The error of {better} is {smaller} smaller ({span})."
    interval = f"the error changes by {sig(change)}{_deviations(row)}, {sig(low)} to {sig(high)}"
    if row["verdict"] == "no difference":
        return f"They are equally good ({interval}): take the cheaper."
    return f"Which one is better is not resolved ({interval})."


def unit(effects: Sequence[Effect]) -> str:
    """What the numbers of effects are: points of accuracy, or changes of an error."""
    return "error" if effects and effects[0].score.is_error else "points"


def effect_columns(effects: Sequence[Effect]) -> tuple[str, ...]:
    """The headings over `effect_cells`."""
    return ("parameter", "from", "to", unit(effects), "95 % interval", "verdict")


def effect_cells(effect: Effect) -> tuple[str, ...]:
    """An effect as a row under `effect_columns`."""
    named = effect.parameter, plain(effect.before), plain(effect.after)
    return (*named, moved(effect.score, effect.accuracy_change), span(effect), effect.verdict)


def flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as rows (dotted name, text), without what is None: not asked for."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{name}.")
        elif value is not None:
            yield f"{above}{name}", plain(value)
