"""A net -> what `convwise check` says of it: a table and findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from convwise.advice.fingerprint import USUAL_BUDGET, look, wanted
from convwise.core.calculus import Analysis, LayerCost, analyse, cost_of, leading_to
from convwise.core.check import SEVERITIES, Finding, findings
from convwise.core.field import Field
from convwise.core.layers import Layer, Opaque
from convwise.core.problems import Problem
from convwise.core.records import Effect, Fingerprint
from convwise.core.shown import Screen, Shown
from convwise.core.text import times
from convwise.formats.lifted import Lifted
from convwise.images.loading import Images, Within, read
from convwise.inspect.requests import InputShape


@dataclass(frozen=True)
class Tried:
    """What a fix is worth, in words; effect: None where it was not measured."""

    said: str
    effect: Effect | None

    def __str__(self) -> str:
        return self.said


@dataclass(frozen=True)
class Applied:
    """What each fix that a program can make is worth, by its problem.

    scored: the model as it is.
    """

    tried: Mapping[Problem, Tried]
    scored: Mapping[str, float | None]
    notes: tuple[str, ...]

    @property
    def said(self) -> tuple[str, ...]:
        """A line for each fix, then the notes."""
        return (*(f"{problem.fix}: {tried}" for problem, tried in self.tried.items()), *self.notes)


@dataclass(frozen=True, repr=False)
class Checked(Shown):
    """A model with its analysis and what was found.

    applied: what its fixes are worth, where they were tried.
    """

    lifted: Lifted
    analysis: Analysis
    findings: tuple[Finding, ...]
    applied: Applied | None = None

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What reading said, and what the rules say, the worst first."""
        read = (*self.lifted.problems, *self._views, *self._outputs)
        found = (*read, *(finding.problem for finding in self.findings))
        return tuple(sorted(found, key=lambda problem: SEVERITIES.index(problem.severity)))

    @property
    def _views(self) -> tuple[Problem, ...]:
        """That it looks at the mirror image as well, and what that costs."""
        if not self.lifted.net.mirrored_view:
            return ()
        what = "answers with the mean of its answers to an image and to its mirror image: "
        what += "the macs count both"
        return (Problem("model", what, severity="note"),)

    @cached_property
    def _outputs(self) -> tuple[Problem, ...]:
        """That there is more than one, and how much of the totals only the others need."""
        net, others = self.lifted.net, self.lifted.outputs
        if not others:
            return ()
        first = net.layers[-1].name
        own = leading_to(net, others) - leading_to(net, {first})
        cost = cost_of([row for row in self.analysis.layers if row.name in own])
        what = f"has {1 + len(others)} outputs: {', '.join((first, *others))}. The receptive field "
        what += f"is that of {first}; {cost} of the totals belong to the others alone"
        return (Problem("model", what, severity="note"),)

    @property
    def is_wrong(self) -> bool:
        """Whether anything is an error."""
        return any(problem.severity == "error" for problem in self.problems)

    def screen(self) -> Screen:
        """The total, what was found, the worst first, what fixes are worth, and the layers."""
        total, problems = self.analysis.total, self.problems
        field = f"; one output sees {times(total.field.size)} px" if total.field.known else ""
        said = [f"{total.params:,} parameters, {total.macs:,} multiply-accumulates{field}"]
        if total.unknown:
            count = len(total.unknown)
            said.append(f"Unknown: the cost of {count} layers; the totals are lower bounds")
        rows = [_shown(row) for row in self.analysis.layers]
        shape = times(self.lifted.net.input_shape)
        return Screen(
            f"{len(rows)} layers on {shape}, {len(problems) or 'no'} findings",
            (*said, *(f"{problem.severity}: {problem}" for problem in problems)),
            ("layer", "type", "output", "parameters", "multiply-accumulates", "field"),
            rows,
            self.applied.said if self.applied else (),
            ".analysis.layers",
        )


def _shown(row: LayerCost) -> tuple[str, ...]:
    """What the table says of a layer; '?' where it is not known."""
    field = times(row.field.size) if row.field.known else "?"
    macs = f"{row.macs:,}" if row.known else "?"
    return row.name, row.op, times(row.output_shape), f"{row.params:,}", macs, field


def checked(lifted: Lifted, scale_px: float | None = None, vector: int = 16) -> Checked:
    """A model, analysed and checked; scale_px and vector as in core/check.py."""
    analysis = _counted(analyse(lifted.net), lifted)
    found = findings(lifted.net, scale_px=scale_px, vector=vector, outputs=lifted.outputs)
    return Checked(lifted, analysis, found)


def _counted(analysis: Analysis, lifted: Lifted) -> Analysis:
    """The analysis with the params that the model holds and trains."""
    rows = []
    for row in analysis.layers:
        params = lifted.params.get(row.name, row.params)
        trainable = lifted.trainable.get(row.name, row.trainable + max(params - row.params, 0))
        rows.append(replace(row, params=params, trainable=min(trainable, params)))
    params, trainable = sum(row.params for row in rows), sum(row.trainable for row in rows)
    return Analysis(tuple(rows), replace(analysis.total, params=params, trainable=trainable))


def to_look(cache_size: str | int) -> Within:
    """What it may cost to read images that are only looked at."""
    return Within(USUAL_BUDGET, most=wanted(USUAL_BUDGET), cache_size=cache_size)


def read_images(images: Any, **how: Any) -> Images:
    """The images of a source, read as `how` says; or Images as they are."""
    return images if isinstance(images, Images) else read(images, **how)


def scale_px(images: Images, input_shape: InputShape) -> float | None:
    """The smallest patch that tells the classes apart, in px of the net's input.

    None where it is not measured.
    """
    facts = look(images.train, images.classes, counts=images.counts(), numbers=images.numbers)
    return scale_of(facts, input_shape)


def scale_of(facts: Fingerprint, input_shape: InputShape) -> float | None:
    """As `scale_px`, of images that were looked at before."""
    if "discriminative_scale" not in facts:
        return None
    resized = (n / side for n, side in zip(input_shape, facts.shape[:2], strict=False))
    return facts["discriminative_scale"] * max(resized)


def to_json(found: Checked) -> dict[str, Any]:
    """input_shape, layers, total and problems as plain JSON values; null for what is not known."""
    net = found.lifted.net
    rows = zip(net.layers, found.analysis.layers, strict=True)
    return {
        "input_shape": list(net.input_shape),
        "outputs": [net.layers[-1].name, *found.lifted.outputs] if net.layers else [],
        "layers": [_layer_json(layer, row) for layer, row in rows],
        "total": _total_json(found),
        "problems": _problems_json(found),
    }


def _layer_json(layer: Layer, row: LayerCost) -> dict[str, Any]:
    return {
        "name": row.name,
        "op": row.op,
        "inputs": list(row.inputs),
        "output_shape": list(row.output_shape),
        "pads": list(row.pads),
        "params": row.params if row.counted else None,
        "trainable": row.trainable if row.counted else None,
        "macs": row.macs if row.known else None,
        "elementwise": row.elementwise if row.known else None,
        "activation_bytes": row.activation_bytes,
        "receptive_field": _field_json(row.field),
    } | ({"operator": layer.operator} if isinstance(layer, Opaque) else {})


def _field_json(field: Field) -> dict[str, Any] | None:
    if not field.known:
        return None
    return {
        "size": list(field.size),
        "convolutions": list(field.windows),
        "stride": list(field.stride),
        "padding": list(field.padding),
        "shortest": list(field.shortest),
        "aligned": field.aligned,
    }


SUMS = ("params", "trainable", "macs", "elementwise", "activation_bytes", "peak_bytes")


def _total_json(found: Checked) -> dict[str, Any]:
    """Null for each sum with an unknown part; what it is at least stands in at_least."""
    total, net = found.analysis.total, found.lifted.net
    sums = {name: getattr(total, name) for name in SUMS}
    least: dict[str, Any] = {name: sums[name] for name in total.bounds}
    if not total.field.known:
        least["receptive_field"] = {"size": list(found.analysis.seen_at_least(net))}
    read = leading_to(net, {net.layers[-1].name, *found.lifted.outputs}) if net.layers else set()
    return {
        **{name: None if name in least else number for name, number in sums.items()},
        "buffers": sum(found.lifted.buffers.values()),
        "receptive_field": _field_json(total.field),
        "at_least": least,
        "border": total.border,
        "unknown": list(total.unknown),
        "unread": [row.name for row in found.analysis.layers if row.name not in read],
    }


def _problems_json(found: Checked) -> list[dict[str, Any]]:
    rules = {finding.problem: finding for finding in found.findings}
    rows = []
    for problem in found.problems:
        row: dict[str, Any] = {
            "where": problem.where,
            "what": problem.what,
            "expected": problem.expected,
            "fix": problem.fix,
            "severity": problem.severity,
            "count": problem.count,
        }
        if (finding := rules.get(problem)) is not None:
            row |= {"rule": finding.rule, "source": finding.source, "layers": list(finding.layers)}
        rows.append(row)
    return rows
