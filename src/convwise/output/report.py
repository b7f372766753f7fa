"""Evidence -> one self-contained HTML file that opens offline.

Each section of the page has one function here that turns records into plain rows and words; the
template only lays them out, and escapes everything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from convwise.core.calculus import analyse
from convwise.core.configuration import MEANING, Draft
from convwise.core.layers import Conv2D, DepthwiseConv2D
from convwise.core.net import Net
from convwise.core.records import Effect, Fingerprint, Reason, Result, Verdict
from convwise.formats.written import answer_of, preparation
from convwise.output import answers, drawings, plots, words
from convwise.output.answered import ANSWERED, Scored, classify
from convwise.output.bars import probed, side_by_side
from convwise.output.drawings import by
from convwise.output.evidence import APART, Evidence, joined, parts_of
from convwise.output.words import (
    by_horizon,
    change,
    horizon,
    ms,
    percent,
    plain,
    points,
    short,
    sig,
    whole,
    worth,
)
from convwise.search.phases import BESIDE

TEMPLATES = Path(__file__).with_name("templates")
# What lies across, and up, on the curve behind a measure
AXES: dict[str, tuple[str, str]] = {
    "f95": ("cycles/px", "mean power"),
    "spectral_slope": ("cycles/px", "mean power"),
    "autocorrelation_length": ("px apart", "correlation"),
    "discriminative_scale": ("patch, px", "probe accuracy"),
    "resolution_sensitivity": ("share of the size", "probe accuracy"),
    "data_sufficiency": ("images", "probe accuracy"),
    "fisher_frequency": ("cycles/px", "share of the signal"),
}
VERDICT_ORDER = ("matters", "not resolved", "no difference")


def write(path: str | os.PathLike[str], evidence: Evidence) -> None:
    """Writes the report of `evidence` to `path`, one HTML file without any outside reference."""
    readable = tuple(name.encode("utf-8", "replace").decode() for name in evidence.outputs)
    text = _page("report.html.j2", sections(replace(evidence, outputs=readable)))
    Path(path).write_text(text, encoding="utf-8", errors="replace")


def renewed(text: str, told: Sequence[Effect], given: Sequence[Reason], chosen: Draft,
            thoughts: Sequence[Mapping[str, Any]] = ()) -> str | None:  # fmt: skip
    """The report `text` with what rests on effects written anew, and nothing else; None where it
    has no place for it.

    chosen: the configuration; thoughts: what answers the warnings of `check`, as choice.json has
    it, for which earlier reports have no place. The rest of a report rests on images that were
    sealed, and are not opened again.
    """
    written = {
        "cards": answers.cards(given, told, chosen),
        "effects": effects(told),
        "same": same_line(told),
        "reasons": reasons(given, told, chosen),
        **({"thoughts": thoughts} if "<!-- thoughts -->" in text else {}),
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

    files = FileSystemLoader(TEMPLATES)
    page = Environment(loader=files, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    filters = (percent, points, short, whole, sig, ms, plain, words.explained)
    page.filters |= {word.__name__: word for word in filters}
    page.globals["glossary"] = words.GLOSSARY
    return page.get_template(template).render(values)


def sections(evidence: Evidence) -> dict[str, Any]:
    """What the template shows, section by section, as plain values; plots as SVG."""
    total = analyse(evidence.net).total
    cost = {"params": total.params, "macs": total.macs, "latency_ms": None, **evidence.cost}
    told, chosen = evidence.verdict.effects, evidence.verdict.chosen.trial.configuration
    answered, prints = ANSWERED[evidence.task], answer_of(evidence.net)
    scored = Scored(evidence.pixels, evidence.labels, evidence.answers, evidence.names,
                    evidence.outputs, evidence.net)  # fmt: skip
    provenance = {key: value for key, value in evidence.provenance.items() if key != "command"}
    return {
        "title": evidence.title,
        "estimate": {"kind": "validation", "n": 0, **evidence.estimate},
        "scored": words.called(evidence.score.name),
        "headline": headline(evidence),
        "failed": not words.is_chosen(evidence.estimate),
        "cost": cost,
        "cards": answers.cards(evidence.verdict.reasons, told, chosen),
        "bars": bars(evidence),
        "against": any(not row["failed"] for row in evidence.against),
        "lines": summary(evidence, cost),
        "notes": evidence.verdict.notes,
        "tradeoff": tradeoff(evidence),
        "effects": effects(told),
        "same": same_line(told),
        "reasons": reasons(evidence.verdict.reasons, told, chosen),
        "network": drawings.network(evidence.net),
        "thoughts": answers.second_thoughts(evidence.net, evidence.fingerprint, told, chosen),
        "field": fields(evidence),
        "learning": learning(evidence),
        "answered": answered.section(scored),
        "answered_title": answered.title,
        "answered_template": answered.template,
        "fingerprint": fingerprint(evidence.fingerprint),
        "problems": evidence.problems,
        "odd": drawings.odd(evidence.odd),
        "code": evidence.code,
        "preparation": preparation(evidence.net),
        "prints": prints.prints if prints else "says which input it takes",
        "differences": evidence.differences,
        "command": str(evidence.provenance.get("command", "")),
        "provenance": list(words.flat(provenance)),
        "chosen": chosen,
        "trials": trials(evidence),
        "timed": any("latency_ms" in r.cost for r in evidence.results),
    }


# 1 The choice -------------------------------------------------------------------------------------


def headline(evidence: Evidence) -> dict[str, Any]:
    """The score, its interval, and what knowing nothing of the images scores, as they are said."""
    score, told = evidence.score, words.asked(evidence.estimate)
    said = {key: words.said(score, told.get(key)) for key in ("value", "low", "high")}
    said |= {"title": score.title, "scored": words.capital(words.called(score.name))}
    nothing = words.said(score, told["baseline"]) if told.get("baseline") is not None else ""
    return {
        **said,
        "baseline": nothing,
        "nothing": score.nothing,
        "is_error": score.is_error,
        "numbers": score.numbers,
    }


def bars(evidence: Evidence) -> list[dict[str, Any]]:
    """Knowing nothing, the probe of an accuracy, other networks, this one: with 95 % intervals."""
    told = words.asked(evidence.estimate)
    value = told["value"] if evidence.estimate.get("n") else None
    probe = probed(evidence.fingerprint) if told["name"] == "accuracy" else None
    return side_by_side({**told, "value": value}, evidence.score, probe, evidence.against)


def summary(evidence: Evidence, cost: Mapping[str, float | None]) -> list[tuple[str, str]]:
    """What was chosen and why: (label, sentence)."""
    estimate, net = evidence.estimate, evidence.net
    tried = "Choice" if words.is_chosen(estimate) else "What was tried"
    lines = [
        *_goal_line(estimate),
        ("Error" if evidence.score.is_error else "Accuracy", _accuracy(evidence)),
        ("Network", _network_line(net, cost)),
        (tried, _choice_line(evidence)),
        ("Why", _why_line(evidence.verdict, evidence.fingerprint)),
    ]
    resized = words.resized_otherwise(estimate, net.input_shape)
    lines += [("Other programs", line) for line in resized]
    for row in evidence.against:
        notes = [f"{words.capital(note)}." for note in row["notes"]]
        lines.append(("Beside it", " ".join([words.beside(row), *notes])))
    if time := words.spent(evidence.provenance):
        lines.append(("Time", f"{time}, up to this report."))
    return lines


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
    low, high = (words.said(score, estimate[key]) for key in ("low", "high"))
    spread = f"95 % interval {low} to {high}"
    if (baseline := estimate.get("baseline")) is not None:
        spread += f"; {score.nothing}: {words.said(score, baseline)}"
    if estimate.get("kind") == "test":
        sealed = "on a sealed test part that was opened only once, for this number"
        return f"{right}, {sealed}; {spread}."
    worse = "a larger error" if score.is_error else f"a lower {score.words}"
    return (
        f"{right}: a validation estimate ({spread}). These images also helped to choose the"
        f" network: on other images, expect {worse}."
    )


def _network_line(net: Net, cost: Mapping[str, float | None]) -> str:
    convs = [layer for layer in net.layers if isinstance(layer, (Conv2D, DepthwiseConv2D))]
    kernels = ", ".join(dict.fromkeys(by(layer.kernel_size) for layer in convs))
    what = f"{len(convs)} convolution{'s' * (len(convs) != 1)} ({kernels})"
    what = what if convs else "no convolution"
    what += "" if net.is_chain else ", with branches"
    params, macs = whole(cost.get("params")), short(cost.get("macs"))
    numbers = f"{params} parameters, {macs} multiply-accumulates"
    if cost.get("latency_ms") is not None:
        numbers += f", {ms(cost['latency_ms'])} ms per image"
    return f"{what}, on {by(net.input_shape)} input: {numbers}."


def _choice_line(evidence: Evidence) -> str:
    """How many trainings; where the chosen one stood after equal time, and at the race's end."""
    begun, chosen = len(evidence.trainings), evidence.verdict.chosen
    failed = sum(r.status == "failed" for r in evidence.results if r.trial.phase not in APART)
    text = f"One of {begun} trainings" if begun > 1 else "The only training that finished"
    text += f"; {failed} trial{'s' * (failed != 1)} failed." if failed else "."
    first = parts_of(evidence.results, chosen)[0]
    rivals = plots.scored([training[0] for training in evidence.trainings])
    if begun > 1 and rivals and first.score is not None:
        best = max(rivals, key=lambda r: r.score or 0)
        word = "lowest" if evidence.score.is_error else "highest"
        text += " After its first part, when all had trained equally long, it had"
        text += f" {words.told(first)} in validation"
        macs = f"{short(best.cost.get('macs'))} multiply-accumulates"
        at = f"; the {word} was {words.told(best)}, at {macs}."
        text += f", the {word} of all." if best.score == first.score else at
    if chosen.score is None:
        return text
    return f"{text} At the end of the race: {words.told(chosen)}."


def _why_line(verdict: Verdict, facts: Fingerprint) -> str:
    """What was measured to matter; else the largest measured change; else what the images say.

    What was behind early and is taken all the same has its reason in the table of reasons.
    """
    chosen = verdict.chosen.trial.configuration
    told = [
        e
        for e in verdict.effects
        if (e.verdict, chosen.get(e.parameter)) != ("matters", e.after) or e.low > 0
    ]
    found = [e for e in told if e.verdict == "matters"]
    found.sort(key=lambda e: -abs(e.accuracy_change))
    if found:
        changes = by_horizon(found[:4], lambda e: f"{change(e)} ({words.gain(e)})")
        return f"These changes were measured to matter {changes}."
    if told:
        top = max(told, key=lambda e: abs(e.accuracy_change))
        spread = f"{words.gain(top)}, {words.span(top)}"
        count, other = len(verdict.effects), " other" * (len(told) < len(verdict.effects))
        tried = f"No{other} single change of the {count} tried was measured to matter"
        return f"{tried}; the largest, {horizon(top)}: {change(top)} ({spread})."
    read = [
        f"{r.parameter} {plain(r.value)}, {r.because.rstrip('.')}"
        for r in verdict.reasons
        if r.measure in facts
    ]
    lead = "The study itself measured no effect of a single parameter."
    return f"{lead} The images suggest: {'; '.join(read[:2])}." if read else lead


def same_line(told: Sequence[Effect]) -> str:
    """What makes no difference, and what is not resolved, by the last word on each change."""
    last = {(e.parameter, e.before, e.after): e for e in told}.values()
    words = {w: [e for e in last if e.verdict == w] for w in VERDICT_ORDER}
    same = by_horizon(words["no difference"], change)
    text = "No change was shown to be without effect."
    if same:
        text = f"{same[0].upper()}{same[1:]}: take the cheaper."
    open_ones = "; ".join(change(e) for e in words["not resolved"])
    return text + (f" Not resolved in the time there was: {open_ones}." if open_ones else "")


# 2 to 4 The evidence ------------------------------------------------------------------------------


def tradeoff(evidence: Evidence) -> dict[str, Any]:
    """Accuracy against cost: the plot, and the front as rows from cheap to dear."""
    tried = [training[0] for training in evidence.trainings]  # after equal time
    front = sorted(plots.scored(evidence.verdict.alternatives), key=lambda r: r.cost.get("macs", 0))
    rows = [
        {"result": r, "label": evidence.marked.get(r.trial.id, ""), "score": words.told(r)}
        for r in front
    ]
    return {
        "plot": plots.cost_plot(tried, front, evidence.marked, _told(evidence)),
        "front": rows,
        "trials": len(plots.scored(tried)),
    }


def _told(evidence: Evidence) -> Callable[[Result], str]:
    """What a dot says of its training when it is pointed at."""
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
            "expected": words.at_end(e),
        }
        for e in order
    ]
    scored = words.called(order[0].score.name) if order else ""
    return {"plot": plot, "rows": rows, "scored": scored, "unit": words.unit(order).capitalize()}


def reasons(given: Sequence[Reason], told: Sequence[Effect], chosen: Draft) -> list[dict[str, Any]]:
    """Every reason with what trials said of it, and the value that they chose instead, if any."""
    rows = []
    for r in given:
        instead = None if chosen.get(r.parameter, r.value) == r.value else chosen[r.parameter]
        tried = by_horizon([e for e in told if e.parameter == r.parameter and r.trials], worth)
        meaning = MEANING.get(r.parameter, "")
        rows.append({"row": r, "meaning": meaning, "instead": instead, "tried": tried})
    return rows


# 5 The network ------------------------------------------------------------------------------------


def fields(evidence: Evidence) -> dict[str, Any]:
    """What one output sees, on the scored images, and what it really uses."""
    return drawings.fields(evidence.net, evidence.pixels, evidence.labels, evidence.sight)


# 6 to 9 The training, and the images --------------------------------------------------------------


def learning(evidence: Evidence) -> dict[str, Any]:
    """Learning curves of the trainings, and the loss of the final one."""
    final, runs = evidence.final, [joined(run) for run in evidence.trainings]
    return {
        "plot": plots.learning_plot(runs, evidence.marked, _told(evidence)),
        "loss": plots.loss_plot(final) if final else "",
        "seconds": final.seconds if final else None,
        "seen": final.history[-1].images if final and final.history else 0,
        "all": bool(final and final.trial.part == "all"),
    }


def fingerprint(facts: Fingerprint) -> dict[str, Any]:
    """The measures, the curves behind them, and the counts of the classes."""
    names: dict[Any, list[str]] = {}
    for measure in facts.measures:
        names.setdefault(measure.curve, []).append(measure.name)
    axes = {curve: AXES.get(shared[0], ("", "")) for curve, shared in names.items()}
    drawn = [
        (", ".join(shared), plots.measure_plot(curve, *axes[curve]))
        for curve, shared in names.items()
    ]
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


# 11 How to reproduce ------------------------------------------------------------------------------


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
    if result.trial.phase != BESIDE.name:
        return ""
    which = "newly trained" if result.trial.configuration else "another network"
    return f"{which}, for comparison"


def _differences(configuration: Draft, chosen: Draft) -> str:
    return ", ".join(
        f"{name} {plain(value)}"
        for name, value in configuration.items()
        if chosen.get(name) != value
    )
