"""Evidence -> one self-contained HTML file that opens without a network.

Each section of the page has one function here that turns records into plain rows and words; the
template only lays them out, and escapes everything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from convwise.core.calculus import analyse
from convwise.core.configuration import MEANING, Draft
from convwise.core.layers import Conv2D, DepthwiseConv2D
from convwise.core.net import Net
from convwise.core.problems import Problem
from convwise.core.records import Effect, Fingerprint, Point, Reason, Result, Verdict
from convwise.core.score import Score, score_of
from convwise.formats.written import answer_of, preparation
from convwise.inspect.sight import EffectiveField
from convwise.output import answers, drawings, plots, words
from convwise.output.answered import ANSWERED, Scored, classify
from convwise.output.drawings import Odd, by
from convwise.output.words import by_horizon, change, horizon, ms, percent, plain, points, short, sig, whole, worth

TEMPLATES = Path(__file__).with_name("templates")
# The axes of the curve behind a measure.
AXES: dict[str, tuple[str, str]] = {
    "f95": ("cycles/px", "mean power"),
    "spectral_slope": ("cycles/px", "mean power"),
    "autocorrelation_length": ("px apart", "correlation"),
    "discriminative_scale": ("patch, px", "probe accuracy"),
    "resolution_sensitivity": ("share of the size", "probe accuracy"),
    "data_sufficiency": ("images", "probe accuracy"),
    "fisher_frequency": ("cycles/px", "share of the signal"),
}
APART = ("final", "beside")  # phases whose trainings are none of the race
VERDICT_ORDER = ("matters", "not resolved", "no difference")


@dataclass(frozen=True)
class Evidence:
    """Everything that the report shows.

    results: every trial, failed ones too; the final training's has the phase 'final'. estimate: kind ('test' or
    'validation'), accuracy or error, low, high (95 %), n. pixels: uint8 (n, h, w, c), the images that were scored;
    labels: (n,), or (n, k); answers: (n, classes), or numbers (n, k); names: their files; outputs: what the numbers
    of an answer are called. code: file name -> source. cost: params, macs, activation_bytes, latency_ms. differences:
    the largest difference of each exported format from our own forward. provenance: command, versions, machine,
    seeds, budget, wall clock. sight: the measured field, where there was an image to measure on.
    advised: the sample that the advice began with. against: comparisons with other networks, as choice.json has them.
    odd: what is odd about the images.
    """

    title: str
    verdict: Verdict
    results: tuple[Result, ...]
    fingerprint: Fingerprint
    problems: tuple[Problem, ...]
    outputs: tuple[str, ...]
    estimate: Mapping[str, Any]
    pixels: np.ndarray
    labels: np.ndarray
    answers: np.ndarray
    names: tuple[str, ...]
    code: Mapping[str, str]
    cost: Mapping[str, float]
    differences: Mapping[str, float]
    provenance: Mapping[str, Any]
    sight: EffectiveField | None = None
    advised: Draft = field(default_factory=dict)
    against: tuple[Mapping[str, Any], ...] = ()
    odd: Odd = Odd()
    task: str = "classify"

    @property
    def score(self) -> Score:
        """How its score is told: what the goal scores by."""
        return score_of(self.net, self.verdict.chosen.trial.score)

    @property
    def net(self) -> Net:
        """The chosen network."""
        return self.verdict.chosen.trial.net

    @property
    def final(self) -> Result | None:
        """The rest of the chosen network's training, where there was one."""
        return next((r for r in reversed(self.results) if r.trial.phase == "final" and r.status == "done"), None)

    @property
    def marked(self) -> dict[str, str]:
        """First trial -> label of the trainings that the plots point out: the chosen one, then the advised one."""
        chosen = parts_of(self.results, self.verdict.chosen)[0]
        if chosen.trial.configuration == self.advised:
            return {chosen.trial.id: "chosen, as advised"}
        begun = [training[0].trial for training in self.trainings]
        advised = min((trial.id for trial in begun if trial.configuration == self.advised), default="")
        return {chosen.trial.id: "chosen", **({advised: "advised"} if advised else {})}

    @property
    def trainings(self) -> list[list[Result]]:
        """The trainings of the race that ended, each as its parts in their order."""
        ended = [r for r in self.results if r.trial.phase not in APART and r.status == "done"]
        gone_on = {r.trial.resumes for r in ended}
        return [parts_of(ended, r) for r in ended if r.trial.id not in gone_on]


def parts_of(results: Sequence[Result], last: Result) -> list[Result]:
    """The parts of one training that end with `last`, in their order."""
    known, segments = {r.trial.id: r for r in results}, [last]
    while (before := known.get(segments[0].trial.resumes)) and before not in segments:
        segments.insert(0, before)
    return segments


def write(path: str | os.PathLike[str], evidence: Evidence) -> None:
    """Writes the report of `evidence` to `path`, one HTML file without any outside reference."""
    readable = tuple(name.encode("utf-8", "replace").decode() for name in evidence.outputs)
    text = _page("report.html.j2", sections(replace(evidence, outputs=readable)))
    Path(path).write_text(text, encoding="utf-8", errors="replace")


def renewed(text: str, told: Sequence[Effect], given: Sequence[Reason], chosen: Draft) -> str | None:
    """The report `text` with what rests on effects written anew, and nothing else; None where it has no place for it.

    chosen: the configuration. The rest of a report rests on images that were sealed, and are not opened again.
    """
    written = {
        "cards": answers.cards(given, told, chosen),
        "effects": effects(told),
        "same": same_line(told),
        "reasons": reasons(given, told, chosen),
    }
    for name in written:
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, opened, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not opened or not closed:
            return None
        text = f"{before}{start}\n{_page(f'{name}.html.j2', written)}\n{end}{after}"
    return text


def _page(template: str, values: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader

    page = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {word.__name__: word for word in (percent, points, short, whole, sig, ms, plain, words.explained)}
    page.globals["glossary"] = words.GLOSSARY
    return page.get_template(template).render(values)


def sections(evidence: Evidence) -> dict[str, Any]:
    """What the template shows, section by section, as plain values; plots as SVG."""
    total = analyse(evidence.net).total
    cost = {"params": total.params, "macs": total.macs, "latency_ms": None, **evidence.cost}
    told, chosen = evidence.verdict.effects, evidence.verdict.chosen.trial.configuration
    answered, prints = ANSWERED[evidence.task], answer_of(evidence.net)
    return {
        "title": evidence.title,
        "estimate": {"kind": "validation", "n": 0, **evidence.estimate},
        "scored": words.called(evidence.score.name),
        "headline": headline(evidence),
        "cost": cost,
        "cards": answers.cards(evidence.verdict.reasons, told, chosen),
        "bars": bars(evidence),
        "against": any(not row["failed"] for row in evidence.against),
        "lines": summary(evidence, cost),
        "notes": evidence.verdict.notes,
        "network": drawings.network(evidence.net),
        "thoughts": answers.second_thoughts(evidence.net, told, chosen),
        "field": fields(evidence),
        "tradeoff": tradeoff(evidence),
        "effects": effects(told),
        "same": same_line(told),
        "reasons": reasons(evidence.verdict.reasons, told, chosen),
        "fingerprint": fingerprint(evidence.fingerprint),
        "learning": learning(evidence),
        "answered": answered.section(
            Scored(evidence.pixels, evidence.labels, evidence.answers, evidence.names, evidence.outputs, evidence.net)
        ),
        "answered_title": answered.title,
        "answered_template": answered.template,
        "problems": evidence.problems,
        "odd": drawings.odd(evidence.odd),
        "code": evidence.code,
        "preparation": preparation(evidence.net),
        "prints": prints.prints if prints else "says which input it takes",
        "differences": evidence.differences,
        "command": str(evidence.provenance.get("command", "")),
        "provenance": list(words.flat({k: v for k, v in evidence.provenance.items() if k != "command"})),
        "chosen": chosen,
        "trials": trials(evidence),
        "timed": any("latency_ms" in r.cost for r in evidence.results),
    }


# 1 The choice ---------------------------------------------------------------------------------------------


def headline(evidence: Evidence) -> dict[str, Any]:
    """The accuracy or the error, its interval, and what knowing nothing of the images scores, as they are said."""
    score, told = evidence.score, words.asked(evidence.estimate)
    said = {key: words.said(score, told.get(key)) for key in ("value", "low", "high")}
    said |= {"title": score.title, "scored": words.capital(words.called(score.name))}
    nothing = words.said(score, told["baseline"]) if told.get("baseline") is not None else ""
    return {**said, "baseline": nothing, "nothing": score.nothing, "is_error": score.is_error, "numbers": score.numbers}


def bars(evidence: Evidence) -> list[dict[str, Any]]:
    """Side by side, with 95 % intervals: knowing nothing, the probe of an accuracy, other networks, this one.

    share: of the width, an accuracy itself, or an error over the largest.
    """
    found, facts, score = evidence.estimate, evidence.fingerprint, evidence.score
    told = words.asked(found)
    rows: list[dict[str, Any]] = []
    if told.get("baseline") is not None:
        rows.append({"name": score.nothing, "share": told["baseline"]})
    if "probe_accuracy" in facts and told["name"] == "accuracy":
        probe = facts.measure("probe_accuracy")
        rows.append({"name": "a probe without training", "share": probe.value, "low": probe.low, "high": probe.high})
    for row in evidence.against:
        rows += [dict(zip(("name", "share", "low", "high"), bar, strict=True)) for bar in words.compared_bars(row)]
    if found.get("n"):
        beside = any(not row["failed"] for row in evidence.against)
        name = "this network, trained to its end" if beside else "this network"
        rows.append({**{k: told[k] for k in ("low", "high")}, "name": name, "share": told["value"]})
    whole = max((row.get("high") or row["share"] for row in rows), default=1.0) if score.is_error else 1.0
    return [{**row, "text": words.said(score, row["share"]), **_of(row, whole or 1.0)} for row in rows]


def _of(row: Mapping[str, Any], whole: float) -> dict[str, float]:
    return {name: min(row[name] / whole, 1.0) for name in ("share", "low", "high") if row.get(name) is not None}


def summary(evidence: Evidence, cost: Mapping[str, float | None]) -> list[tuple[str, str]]:
    """What was chosen and why: (label, sentence)."""
    return [
        *_goal_line(evidence.estimate),
        ("Error" if evidence.score.is_error else "Accuracy", _accuracy(evidence)),
        ("Network", _network_line(evidence.net, cost)),
        ("Choice" if evidence.estimate.get("better_than_guessing", True) else "What was tried", _choice_line(evidence)),
        ("Why", _why_line(evidence.verdict, evidence.fingerprint)),
        *(("Other programs", line) for line in words.resized_otherwise(evidence.estimate, evidence.net.input_shape)),
        *(("Beside it", _beside_line(row)) for row in evidence.against),
        *([("Time", f"{time}, up to this report.")] if (time := words.spent(evidence.provenance)) else []),
    ]


def _beside_line(row: Mapping[str, Any]) -> str:
    return " ".join([words.beside(row), *(f"{words.capital(note)}." for note in row["notes"])])


def _goal_line(estimate: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The score that the goal asks for, where that is not the one that is told anyway."""
    told = words.asked(estimate)
    if estimate.get("n") and told["name"] not in ("accuracy", "error"):
        name = words.capital(words.called(told["name"]))
        spread = f"95 % interval {percent(told['low'])} to {percent(told['high'])}"
        guess = f"always the largest class: {percent(told['baseline'])}"
        yield "Goal", f"{name} {percent(told['value'])}; {spread}; {guess}."


def _accuracy(evidence: Evidence) -> str:
    estimate, score = evidence.estimate, evidence.score
    if not estimate.get("n"):
        return "Not measured: no labelled image was left to score."
    right = words.capital(ANSWERED[evidence.task].told(estimate))
    spread = f"95 % interval {words.said(score, estimate['low'])} to {words.said(score, estimate['high'])}"
    if (baseline := estimate.get("baseline")) is not None:
        spread += f"; {score.nothing}: {words.said(score, baseline)}"
    if estimate.get("kind") == "test":
        return f"{right}, on a sealed test part that was opened only once, for this number; {spread}."
    worse = "a larger one" if score.is_error else "a lower one"
    return f"{right}: a validation estimate ({spread}). These images also helped to choose: on others expect {worse}."


def _network_line(net: Net, cost: Mapping[str, float | None]) -> str:
    convs = [layer for layer in net.layers if isinstance(layer, (Conv2D, DepthwiseConv2D))]
    kernels = ", ".join(dict.fromkeys(by(layer.kernel_size) for layer in convs))
    what = f"{len(convs)} convolution{'s' * (len(convs) != 1)} ({kernels})" if convs else "no convolution"
    latency = f", {ms(cost['latency_ms'])} ms per image" if cost.get("latency_ms") is not None else ""
    numbers = f"{whole(cost.get('params'))} parameters, {short(cost.get('macs'))} multiply-accumulates"
    return f"{what}{'' if net.is_chain else ', with branches'}, on {by(net.input_shape)} input: {numbers}{latency}."


def _choice_line(evidence: Evidence) -> str:
    """How many trainings there were, where the chosen one stood after equal time, and where the race left it."""
    begun, chosen = len(evidence.trainings), evidence.verdict.chosen
    failed = sum(r.status == "failed" for r in evidence.results if r.trial.phase not in APART)
    text = f"One of {begun} trainings" if begun > 1 else "The only training that finished"
    text += f"; {failed} trial{'s' * (failed != 1)} failed." if failed else "."
    first = parts_of(evidence.results, chosen)[0]
    rivals = plots.scored([training[0] for training in evidence.trainings])
    if begun > 1 and rivals and first.score is not None:
        best, best_word = max(rivals, key=lambda r: r.score or 0), "lowest" if evidence.score.is_error else "highest"
        text += f" After its first part, when all had trained equally long, it had {words.told(first)} in validation"
        at = f"the {best_word} was {words.told(best)}, at {short(best.cost.get('macs'))} multiply-accumulates."
        text += f", the {best_word} of all." if best.score == first.score else f"; {at}"
    if chosen.score is None:
        return text
    error = words.moved(evidence.score, evidence.verdict.standard_error, signed=False) + evidence.score.unit
    return f"{text} At the end of the race: {words.told(chosen)}, standard error {error}."


def _why_line(verdict: Verdict, facts: Fingerprint) -> str:
    """What was measured to matter; else the largest change that was measured; else what the images themselves say.

    What was behind early and is taken all the same has its reason in the table of reasons.
    """
    chosen = verdict.chosen.trial.configuration
    told = [e for e in verdict.effects if (e.verdict, chosen.get(e.parameter)) != ("matters", e.after) or e.low > 0]
    found = sorted((e for e in told if e.verdict == "matters"), key=lambda e: -abs(e.accuracy_change))
    if found:
        changes = by_horizon(found[:4], lambda e: f"{change(e)} ({words.gain(e)})")
        return f"These changes were measured to matter {changes}."
    if told:
        top = max(told, key=lambda e: abs(e.accuracy_change))
        spread = f"{words.gain(top)}, {words.span(top)}"
        other = " other" * (len(told) < len(verdict.effects))
        tried = f"No{other} single change of the {len(verdict.effects)} tried was measured to matter"
        return f"{tried}; the largest, {horizon(top)}: {change(top)} ({spread})."
    read = [f"{r.parameter} {plain(r.value)}, {r.because.rstrip('.')}" for r in verdict.reasons if r.measure in facts]
    lead = "The study itself measured no effect of a single parameter."
    return f"{lead} The images suggest: {'; '.join(read[:2])}." if read else lead


def same_line(told: Sequence[Effect]) -> str:
    """What makes no difference, so that the cheaper can be taken, and what is not resolved: the last word on each."""
    last = {(e.parameter, e.before, e.after): e for e in told}.values()
    words = {w: [e for e in last if e.verdict == w] for w in VERDICT_ORDER}
    same = by_horizon(words["no difference"], change)
    text = f"{same[0].upper()}{same[1:]}: take the cheaper." if same else "Nothing was shown to make no difference."
    open_ones = "; ".join(change(e) for e in words["not resolved"])
    return text + (f" Not resolved in the time there was: {open_ones}." if open_ones else "")


# 2 The network --------------------------------------------------------------------------------------------


def fields(evidence: Evidence) -> dict[str, Any]:
    """What one output sees, on the scored images, and what it really uses."""
    return drawings.fields(evidence.net, evidence.pixels, evidence.labels, evidence.sight)


# 3 to 7 The evidence --------------------------------------------------------------------------------------


def tradeoff(evidence: Evidence) -> dict[str, Any]:
    """Accuracy against cost: the plot, and the front as rows from cheap to dear."""
    tried = [training[0] for training in evidence.trainings]  # after equal time
    front = sorted(plots.scored(evidence.verdict.alternatives), key=lambda r: r.cost.get("macs", 0))
    rows = [{"result": r, "label": evidence.marked.get(r.trial.id, ""), "score": words.told(r)} for r in front]
    return {
        "plot": plots.cost_plot(tried, front, evidence.marked, _told(evidence)),
        "front": rows,
        "trials": len(plots.scored(tried)),
    }


def _told(evidence: Evidence) -> Callable[[Result], str]:
    """What a dot says of its training when it is pointed at: its configuration, accuracy, cost and time."""
    chosen = evidence.verdict.chosen.trial.configuration

    def told(result: Result) -> str:
        changed = _differences(result.trial.configuration, chosen)
        which = f"like the chosen network, but with {changed}" if changed else "the chosen network"
        after = f" after {sig(result.seconds)} s" if result.trial.seconds else ""
        macs = short(result.cost.get("macs"))
        return f"{result.trial.id}: {which}. {words.told(result)} in validation{after}, {macs} macs"

    return told


def effects(told: Sequence[Effect]) -> dict[str, Any]:
    """Every measured effect, what matters first; the plot and its rows are in the same order."""
    order = sorted(told, key=lambda e: (VERDICT_ORDER.index(e.verdict), -abs(e.accuracy_change)))
    plot = plots.forest_plot(order, [change(e) for e in order])
    rows = [
        {
            "row": e,
            "meaning": MEANING.get(e.parameter, ""),
            "key": e.verdict.replace(" ", "-"),
            "after": f"{sig(e.seconds)} s" if e.seconds else "equal epochs",
            "moved": words.moved(e.score, e.accuracy_change),
            "span": words.span(e),
            "expected": _expected(e),
        }
        for e in order
    ]
    scored = words.called(order[0].score.name) if order else ""
    return {"plot": plot, "rows": rows, "scored": scored, "unit": words.unit(order).capitalize()}


def _expected(effect: Effect) -> str:
    """The interval at the end of a training; '' where it is not known."""
    if effect.expected_low is None or effect.expected_high is None:
        return ""
    return effect.score.span(effect.expected_low, effect.expected_high).replace("-", "\u2212")


def reasons(given: Sequence[Reason], told: Sequence[Effect], chosen: Draft) -> list[dict[str, Any]]:
    """Every reason with what trials said of it; where they chose another value than the one reasoned for, that one."""
    return [
        {
            "row": r,
            "meaning": MEANING.get(r.parameter, ""),
            "instead": None if chosen.get(r.parameter, r.value) == r.value else chosen[r.parameter],
            "tried": by_horizon([e for e in told if e.parameter == r.parameter and r.trials], worth),
        }
        for r in given
    ]


def fingerprint(facts: Fingerprint) -> dict[str, Any]:
    """The measures, the curves behind them, and the counts of the classes."""
    names: dict[Any, list[str]] = {}
    for measure in facts.measures:
        names.setdefault(measure.curve, []).append(measure.name)
    axes = {curve: AXES.get(shared[0], ("", "")) for curve, shared in names.items()}
    drawn = [(", ".join(shared), plots.measure_plot(curve, *axes[curve])) for curve, shared in names.items()]
    counts = sorted(facts.classes.items(), key=lambda item: -item[1])
    return {
        "facts": facts,
        "shape": by(facts.shape),
        "input": by(facts.input_shape),
        "curves": [(name, plot) for name, plot in drawn if plot],
        "answers": facts.answers if facts.target or len(counts) != 1 else "in 1 class",
        "counts": counts if len(counts) <= classify.MAP_CLASSES else [],
        "most": max((n for _, n in counts), default=1) or 1,
        "range": (counts[-1][1], counts[0][1]) if counts else (0, 0),
        "classes": len(counts),
    }


def learning(evidence: Evidence) -> dict[str, Any]:
    """Learning curves of the trainings, and the loss of the final one."""
    final = evidence.final
    return {
        "plot": plots.learning_plot([joined(run) for run in evidence.trainings], evidence.marked, _told(evidence)),
        "loss": plots.loss_plot(final) if final else "",
        "seconds": final.seconds if final else None,
        "seen": final.history[-1].images if final and final.history else 0,
        "all": bool(final and final.trial.part == "all"),
    }


def joined(segments: Sequence[Result]) -> Result:
    """The parts of a training as one: their curves one after the other, the score of the last."""
    history: list[Point] = []
    for segment in segments:
        seconds, images = (history[-1].seconds, history[-1].images) if history else (0.0, 0)
        history += [replace(p, seconds=p.seconds + seconds, images=p.images + images) for p in segment.history]
    return replace(
        segments[0], history=tuple(history), score=segments[-1].score, seconds=sum(p.seconds for p in segments)
    )


# 11 How to reproduce --------------------------------------------------------------------------------------


def trials(evidence: Evidence) -> list[dict[str, Any]]:
    """Every trial as a row; of its configuration, only where it differs from the chosen one's."""
    chosen, marked = evidence.verdict.chosen.trial.configuration, evidence.marked
    labels = [marked.get(parts_of(evidence.results, r)[0].trial.id, "") for r in evidence.results]
    return [
        {
            "result": r,
            "label": label,
            "differs": _differences(r.trial.configuration, chosen) or _beside(r),
            "score": words.told(r),
        }
        for r, label in zip(evidence.results, labels, strict=True)
    ]


def _beside(result: Result) -> str:
    if result.trial.phase != "beside":
        return ""
    return "newly trained, for comparison" if result.trial.configuration else "another network, for comparison"


def _differences(configuration: Draft, chosen: Draft) -> str:
    return ", ".join(f"{name} {plain(value)}" for name, value in configuration.items() if chosen.get(name) != value)
