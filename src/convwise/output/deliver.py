"""The folder that is handed over: models, code, choice.json and the report."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from convwise import formats
from convwise.advice import doubts, outliers
from convwise.advice.advising import as_chosen, layer_reasons, said_by
from convwise.core.calculus import analyse
from convwise.core.clock import Clock
from convwise.core.net import Net
from convwise.core.problems import ConvwiseError, Unsupported
from convwise.core.records import (
    Advice,
    Comparison,
    Effect,
    Fingerprint,
    Probed,
    Reason,
    Result,
    Verdict,
    Views,
    from_json,
    to_json,
)
from convwise.core.score import ACCURACY, Score, score_of
from convwise.formats.weights import Weights
from convwise.formats.written import Beside, preparation
from convwise.images.loading import Images, Part, has_wide
from convwise.inspect.sight import EffectiveField, effective_field
from convwise.output import plots, report, stored, tables
from convwise.output.answers import answer, second_thoughts
from convwise.output.drawings import odd_among
from convwise.output.evidence import Evidence
from convwise.output.words import asked
from convwise.training.host import Host
from convwise.training.scores import baseline, interval, recalls, value

VERIFIED_IMAGES = 32
STEPS = 4  # of writing: scoring, the models, what the network sees, the report
SIGHT_SECONDS, REPORT_SECONDS = 2.0, 2.0  # of these steps, on an idle machine


@dataclass(frozen=True)
class Material:
    """What is written: the choice, its weights, the scored images with the answers to them, the
    evidence.

    task: what was learnt. kind: 'test' where `scored` was sealed until now, else 'validation'.
    answers: probabilities (n, classes), or numbers (n, k). baseline: what is told of knowing
    nothing of the images; better: whether the choice is surely better than that, by the goal's
    score. otherwise: of how many images (n) that are resized without antialiasing the answer is the
    same; {} where none is resized. against: the networks that it was compared with. probe: the
    probe of `look` beside it, where both are told by the accuracy.
    left: seconds that writing may still take; tell: is told (phase, steps done, steps in all).
    """

    folder: Path
    images: Images
    facts: Fingerprint
    advice: Advice
    verdict: Verdict
    final: Result | None
    results: tuple[Result, ...]
    weights: Weights
    scored: Part
    kind: str
    answers: np.ndarray
    baseline: float
    better: bool
    otherwise: Mapping[str, int]
    provenance: Mapping[str, Any]
    clock: Clock
    host: Host
    against: tuple[Comparison, ...] = ()
    task: str = "classify"
    views: Views = Views()
    probe: Probed | None = None
    left: Callable[[], float] = lambda: inf
    tell: Callable[[str, int, int], None] = lambda phase, done, planned: None

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the numbers of an answer are called: the classes, or what is learnt."""
        return self.images.classes or self.images.numbers

    @property
    def score(self) -> Score:
        """How scores are told: what the goal scores by."""
        return score_of(self.chosen.trial.net, self.advice.space.goal.score)

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why each parameter of the chosen net has its value."""
        return as_chosen(self.advice.reasons, self.chosen.trial.configuration, self.verdict.effects)

    @property
    def chosen(self) -> Result:
        """The run whose weights are handed over."""
        return self.final or self.verdict.chosen


def write(material: Material, export: Callable[..., formats.Handed] = formats.hand_over) -> Path:
    """Write everything; choice.json last, so that its presence says the folder is whole.

    Where there is little time left, what the answer can do without is left out, and that is said.
    export: formats.hand_over, or what does the same.
    """
    folder, net = material.folder, material.chosen.trial.net
    pixels = np.ascontiguousarray(material.scored.pixels[:VERIFIED_IMAGES])
    why = tuple(
        f"{reason.parameter} = {reason.value}: {reason.because}" for reason in material.reasons
    )
    facts = material.images.facts
    beside = Beside(why, tuple(facts["scale"]) if has_wide(facts.get("modes", {})) else None)
    material.tell("writing", 1, STEPS)
    handed = export(folder, net, material.weights, material.outputs, pixels, beside=beside)
    material.tell("writing", 2, STEPS)
    cost = {**analyse(net).total.cost, **_latency(material.host, net)}
    score, slow = estimate(material), material.host.slowness()
    for name, odd in (("suspects.csv", doubts), ("outliers.csv", outliers)):
        if rows := odd.shown(material.facts, material.images.train.names):
            tables.write_odd(folder / name, rows)
    sight = _sight(material) if material.left() > slow * (SIGHT_SECONDS + REPORT_SECONDS) else None
    pictured = material.left() > slow * REPORT_SECONDS
    material.tell("writing", 3, STEPS)
    undrawn = _drawn(
        folder / "report.html", lambda: _evidence(material, cost, handed, score, sight), pictured
    )
    choice = _choice(material, cost, handed, score)
    choice["notes"] += undrawn
    replaced(folder / "choice.json", json.dumps(choice, indent=2, default=str) + "\n")
    return folder


def _drawn(page: Path, evidence: Callable[[], Evidence], pictured: bool) -> list[str]:
    """Write the report; what to say where that fails, which costs the report alone."""
    try:
        with nullcontext() if pictured else plots.left_out():
            report.write(page, evidence())
    except Exception as error:  # memory, a font, the plot library
        page.unlink(missing_ok=True)
        why = f"{type(error).__name__}: {error}"
        return [f"The report could not be drawn ({why}); everything else was written."]
    if pictured:
        return []
    return ["There was no time left to draw the plots of the report; everything else is in it."]


def estimate(material: Material) -> dict[str, Any]:
    """The accuracy, or error, on the scored images with its 95 % interval, and what knowing nothing
    of them scores.

    score: the same of what the goal asks for, recall: by class, the share that was found; both of
    classes only. numbers: where there are several, the same of each, in its own unit.
    """
    # Loads PyTorch, which whoever only reads a folder does without
    from convwise.training.tasks import TASKS

    labels = np.asarray(material.scored.labels)
    found = TASKS[material.task].estimate(material.answers, labels, material.chosen.trial.net)
    if "columns" in found:
        found["numbers"] = dict(zip(material.outputs, found.pop("columns"), strict=True))
    return {
        "kind": material.kind,
        **found,
        "baseline": material.baseline,
        "better_than_guessing": material.better,
        **({"probe": to_json(material.probe)} if material.probe else {}),
        **({"resized_otherwise": dict(material.otherwise)} if material.otherwise else {}),
        **(_of_classes(material, labels) if material.images.classes else {}),
    }


def _of_classes(material: Material, labels: np.ndarray) -> dict[str, Any]:
    name, classes = material.score.name, material.images.classes
    answers = material.answers.argmax(1) if len(labels) else labels
    low, high = interval(answers, labels, name)
    return {
        "score": {"name": name, "value": value(answers, labels, name), "low": low, "high": high,
                  "baseline": baseline(labels, name)},
        "recall": {classes[k]: to_json(found) for k, found in recalls(answers, labels).items()},
    }  # fmt: skip


def _choice(material: Material, cost: Mapping[str, float], handed: formats.Handed,
            score: Mapping[str, Any]) -> dict[str, Any]:  # fmt: skip
    images, chosen, views = material.images, material.chosen, material.views
    goal, configuration = material.advice.space.goal, chosen.trial.configuration
    grown, told = material.advice.space.fit(configuration).grown, material.verdict.effects
    return {
        "net": chosen.trial.net.to_json(),
        "configuration": dict(configuration),
        "task": material.task,
        "test": dict(score),
        "goal": {
            "text": goal.text,
            "kept": not (goal.cheapest and goal.cheapest.missed(asked(score)["value"])),
        },
        "cost": dict(cost),
        "notes": _notes(material, handed),
        "effects": [effect_row(effect) for effect in told],
        "views": {**to_json(views), "effect": effect_row(views.effect) if views.effect else None},
        "against": [comparison_row(each) for each in material.against],
        "alternatives": [_alternative(result) for result in material.verdict.alternatives],
        "reasons": {
            "verdict": to_json(material.verdict.reasons),
            "choices": to_json(material.reasons),
            "layers": layer_reasons(grown, material.reasons),
        },
        "data": {
            "source": images.source,
            "classes": list(images.classes),
            **stored.called(images.numbers),
            "train": len(images.train),
            "valid": len(images.valid),
            "test": images.test.size if images.test else 0,
            "base_shape": list(images.base_shape),
            "preparation": preparation(chosen.trial.net),
            "problems": to_json(images.problems),
            "facts": to_json(images.facts),
        },
        "training": {
            "recipe": to_json(chosen.trial.recipe),
            "seconds": chosen.seconds,
            "dtype": chosen.dtype,
        },
        "check": second_thoughts(chosen.trial.net, material.facts, told, configuration),
        "exports": dict(handed.differences),
        "left_out": dict(handed.left_out),
        "provenance": {**material.provenance, "wall_seconds": round(material.clock.elapsed, 2)},
    }


def _notes(material: Material, handed: formats.Handed) -> list[str]:
    return [*material.verdict.notes, *(f"Left out: {why}" for why in handed.left_out.values())]


# Field of an Effect -> its key in choice.json, where it is another
KEYS = {"before": "from", "after": "to"}
# Changes of a score, each before what its opposite is where the score is told as an error.
CHANGES = {"accuracy_change": "accuracy_change", "low": "high", "high": "low",
           "expected": "expected",
           "expected_low": "expected_high", "expected_high": "expected_low"}  # fmt: skip


def effect_row(effect: Effect) -> dict[str, Any]:
    """An Effect as choice.json has it; of an error, the changes in its unit, and the deviation
    behind them.

    Where each image has several numbers the changes are in deviations of them, and `numbers` says
    how many.
    """
    row = {KEYS.get(name, name): value for name, value in to_json(effect).items()}
    row.pop("score", None)
    if not effect.score.is_error:
        return row if effect.score == ACCURACY else {**row, "score": effect.score.name}
    told = {name: _changed(effect.score.change, row[other]) for name, other in CHANGES.items()}
    row = {
        ("error_change" if name == "accuracy_change" else name): told.get(name, row[name])
        for name in row
    }
    several = {"numbers": effect.score.numbers} if effect.score.numbers > 1 else {}
    return {**row, "deviation": effect.score.deviation, **several}


def comparison_row(found: Comparison) -> dict[str, Any]:
    """A Comparison as choice.json has it: of its effect what is told, and no more."""
    score, row = found.told, effect_row(found.effect) if found.effect else {}
    name = "error" if score.is_error else "accuracy"
    spread = {f"{name}_standard_errors": [score.deviation * each for each in found.standard_errors]}
    keys = (f"{name}_change", "low", "high", "time_ratio", "verdict", "runs")
    return {
        "model": found.model,
        "title": found.title,
        name: _changed(score.value, found.score),
        f"chosen_{name}": _changed(score.value, found.chosen_score),
        **(spread if score.is_error else {}),
        **{key: row.get(key) for key in keys},
        **({"numbers": score.numbers} if score.numbers > 1 else {}),
        "seconds": found.seconds,
        "n": found.images,
        "cost": dict(found.cost),
        "chosen_cost": dict(found.chosen_cost),
        "failed": found.failed,
        "notes": list(found.notes),
    }


def effect_of(row: Mapping[str, Any]) -> Effect:
    """The inverse of `effect_row`; what else the row says is left out."""
    names = {key: name for name, key in KEYS.items()} | {"error_change": "accuracy_change"}
    values = {names.get(key, key): value for key, value in row.items()}
    if "score" in row:
        values["score"] = {"name": row["score"]}
    if "error_change" in row:
        deviation = row["deviation"]
        back = {
            name: _changed(lambda told: -told / deviation, values.get(other))
            for name, other in CHANGES.items()
        }
        values |= {
            **back,
            "score": {"name": "error", "deviation": deviation, "numbers": row.get("numbers", 1)},
        }
    found: Effect = from_json(Effect, values)
    return found


def _changed(by: Callable[[float], float], change: float | None) -> float | None:
    return None if change is None else by(change)


def add_effects(folder: Path, effects: Sequence[Effect], by: str) -> str:
    """Put effects into choice.json, each marked with what made it, and into report.html; what could
    not be, in words.

    An earlier effect of the same change by the same maker is replaced.
    """
    choice = read_choice(folder)
    rows = [{**effect_row(effect), "by": by} for effect in effects]
    new = [_same_change(row) for row in rows]
    choice["effects"] = [row for row in choice["effects"] if _same_change(row) not in new] + rows
    told, reasons = [effect_of(row) for row in choice["effects"]], choice["reasons"]
    for row in reasons["choices"]:
        row["trials"] = said_by(told, row["parameter"], row["value"]) or row.get("trials")
    for row in choice.get("check", ()):
        if "rule" in row:
            row["answer"] = answer(row["rule"], told, choice["configuration"])
    replaced(folder / "choice.json", json.dumps(choice, indent=2, default=str) + "\n")
    page, thoughts = folder / "report.html", choice.get("check", ())
    given = [from_json(Reason, row) for row in (*reasons["verdict"], *reasons["choices"])]
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    renewed = report.renewed(text, told, given, choice["configuration"], thoughts) if text else None
    if renewed is None:
        why = "is missing or was written by an older convwise"
        return f"{page} {why}: the effects are only in choice.json"
    replaced(page, renewed)
    return ""


def _same_change(row: Mapping[str, Any]) -> str:
    return json.dumps([row.get(key) for key in ("by", "parameter", "from", "to")])


def _alternative(result: Result) -> dict[str, Any]:
    configuration = dict(result.trial.configuration)
    score = score_of(result.trial.net, result.trial.score)
    value = None if result.score is None else score.value(result.score)
    return {
        "trial": result.trial.id,
        "configuration": configuration,
        f"validation_{score.name}": value,
        **result.cost,
    }


def _evidence(material: Material, cost: Mapping[str, float], handed: formats.Handed,
              score: Mapping[str, Any],
              sight: EffectiveField | None) -> Evidence:  # fmt: skip
    verdict = material.verdict
    reasons = (*verdict.reasons, *material.reasons)
    return Evidence(
        title=Path(material.images.source).name or material.images.source,
        verdict=replace(verdict, reasons=reasons, notes=tuple(_notes(material, handed))),
        results=material.results,
        fingerprint=material.facts,
        problems=material.images.problems,
        outputs=material.outputs,
        estimate=score,
        pixels=np.asarray(material.scored.pixels),
        labels=np.asarray(material.scored.labels),
        answers=material.answers,
        names=material.scored.names,
        code={file.name: file.read_text("utf-8") for name in formats.WRITTEN if name.endswith(".py")
              and (file := material.folder / name).exists()},
        cost=cost,
        differences=handed.differences,
        provenance={**material.provenance, "wall_seconds": round(material.clock.elapsed, 1)},
        sight=sight,
        advised=material.advice.configuration,
        task=material.task,
        against=tuple(comparison_row(each) for each in material.against),
        odd=odd_among(material.images, material.facts),
    )  # fmt: skip


def _sight(material: Material) -> EffectiveField | None:
    """How far the chosen net really looks; None without an image, or where nothing is reached."""
    net = material.chosen.trial.net
    try:
        return effective_field(net, material.weights, np.asarray(material.scored.pixels))
    except ConvwiseError:
        return None


def _latency(host: Host, net: Net) -> dict[str, float]:
    """latency_ms of the net; {} where what measures it cannot be loaded, or express the net."""
    try:
        return {"latency_ms": round(host.latency_ms(net), 4)}
    except (ImportError, Unsupported):
        return {}


def warm_up() -> None:
    """Load what the report needs, beside a training; an error comes again in `write`."""
    with suppress(Exception):
        plots.altair()
        import_module("vl_convert")


def replaced(path: Path, text: str) -> None:
    """Write a file beside `path` and move it there; where that fails, the old one stays whole."""
    if path.exists() and not path.is_file():  # a pipe, a device
        path.write_text(text, encoding="utf-8", newline="")
        return
    beside = path.with_name(f".{path.name}.writing")
    try:
        beside.write_text(text, encoding="utf-8", newline="")
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_choice(folder: str | Path) -> dict[str, Any]:
    """choice.json of a folder that `choose` wrote. UnusableInput where it is not one."""
    return stored.read(Path(folder), effect_of)


def located(source: str, directory: str | None) -> str:
    """A source, as a path that is found from anywhere if it was relative to `directory`."""
    there = Path(directory or ".", source)
    return str(there) if directory and not Path(source).exists() and there.exists() else source


def is_finished(folder: Path) -> bool:
    """Whether `folder` holds a choice that was not interrupted."""
    if not (folder / "choice.json").exists():
        return False
    return not read_choice(folder)["provenance"]["interrupted"]
