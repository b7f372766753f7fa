"""The command `convwise check`: any model -> a table of its layers, and findings, the worst first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convwise.cli.console import out, table, watching
from convwise.cli.reading import CacheOption, ClassesOption, LinksOption, ModelTaskOption, SkipOption
from convwise.core.calculus import Analysis, LayerCost
from convwise.core.clock import STARTED, Clock, parse_duration
from convwise.core.layers import Layer, Opaque
from convwise.core.net import INPUT, Net
from convwise.core.places import CACHE_SIZE
from convwise.core.problems import Problem, UnusableInput
from convwise.core.text import square, times

if TYPE_CHECKING:
    from rich.table import Table

    from convwise.core.records import Effect
    from convwise.evidence.experiment import Measured
    from convwise.images.loading import Images
    from convwise.inspect.checking import Checked

FEW_LAYERS = 60  # up to which the table says what each layer reads, and how fields move
MODEL_HELP = (
    "A .keras, .onnx, .pt2 or net .json file, a folder that `convwise choose` wrote, or package.module:callable "
    "such as keras.applications:ResNet50."
)

APPLY_HELP = (
    "Try each fix on --images: train the model both as it is and with the fix. A folder that `choose` wrote is by "
    "default tried on the images that its network was chosen with."
)


def check(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)],
    images: Annotated[
        str | None,
        typer.Option(
            help="Images that the model is meant for; its receptive field is compared with the scale measured on them."
        ),
    ] = None,
    input_shape: Annotated[
        str | None, typer.Option(metavar="HxWxC", help="Input shape, for a model that takes any size: 224x224x3.")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help=APPLY_HELP)] = False,
    budget: Annotated[str, typer.Option(help="Wall clock for --apply: 90s, 10m.")] = "2m",
    classes_from: ClassesOption = "folder",
    skip_empty_classes: SkipOption = False,
    follow_links: LinksOption = False,
    cache_size: CacheOption = CACHE_SIZE,
    task: ModelTaskOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say what MODEL costs and sees, layer by layer, and what is wrong with it.

    The exit code is 1 if any finding is an error.
    """
    from convwise.images.loading import Within
    from convwise.inspect.checking import checked, learnt_by, load, read_images, scale_px, to_json, to_look

    shape = parse_shape(input_shape) if input_shape else None
    lifted = load(model, shape, "--input-shape")
    how: dict[str, Any] = {"skip_empty_classes": skip_empty_classes, "follow_links": follow_links}
    how |= {"classes_from": classes_from, "task": task or learnt_by(model)}
    how["within"] = Within(parse_duration(budget), cache_size=cache_size) if apply else to_look(cache_size)
    read = read_images(images, **how) if images else _own_images(model, cache_size) if apply else None
    found = checked(lifted, scale_px(read, lifted.net.input_shape) if read else None)
    applied = _apply(found, read, budget, as_json) if apply and read else None
    answers = _answers(Path(model))
    if as_json:
        print(json.dumps(_with_effects(to_json(found), found, applied, answers)))
    else:
        _tell(model, found, applied, answers)
    if found.is_wrong:
        raise typer.Exit(1)


def _own_images(model: str, cache_size: str) -> Images:
    """The images that the network of a choice folder was chosen with. UnusableInput where there is no such folder."""
    from convwise.measuring import own_images

    if (found := own_images(model, cache_size)) is None:
        raise UnusableInput("--apply", "has nothing to train on", "images to try the fixes on", "--images IMAGES")
    return found


def parse_shape(text: str) -> tuple[int, int, int]:
    """'224x224x3' -> (224, 224, 3). UnusableInput where it is no shape."""
    from convwise.inspect.requests import input_shape

    return input_shape(text, "--input-shape")


# --- with images ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Applied:
    """What each fix that a program can make is worth, by its problem; scored: the model as it is; and notes."""

    measured: Mapping[Problem, Measured]
    scored: dict[str, float | None]
    notes: tuple[str, ...]


def _apply(found: Checked, images: Any, budget: str, as_json: bool) -> Applied | None:
    """Every fix tried, the gravest first; None where there is none. A budget that is too short is told, not raised."""
    from convwise.evidence.bench import measure_on
    from convwise.evidence.experiment import Base, Edit, Terms, TooShort
    from convwise.evidence.fixes import edited
    from convwise.training.lab import Lab
    from convwise.training.machine import ThisMachine

    net, clock = found.lifted.net, Clock(parse_duration(budget), STARTED)
    nets = [(finding.problem, edited(net, finding)) for finding in found.findings]  # the gravest first
    tried = [(problem, other) for problem, other in nets if other is not None]
    if not tried:
        return None
    try:
        with watching(as_json) as watcher:
            edits = [Edit(problem.fix, other) for problem, other in tried]
            answer = measure_on(images, Base(net), edits, Terms(name="apply"), Lab(ThisMachine(), clock, watcher))
    except TooShort as error:
        return Applied({}, {}, (f"no fix was tried: {error}",))
    measured = {problem: one for (problem, _), one in zip(tried, answer.measured, strict=True)}
    return Applied(measured, {answer.score.name: answer.accuracy}, answer.notes)


def _answers(folder: Path) -> dict[tuple[str, str], str]:
    """What `choose` answered to the warnings of the network in its folder: (where, what) -> answer."""
    if not (folder / "choice.json").is_file():
        return {}
    from convwise.output.deliver import read_choice

    return {(row["where"], row["what"]): row["answer"] for row in read_choice(folder).get("check", ())}


def _with_effects(
    answer: dict[str, Any], found: Checked, applied: Applied | None, answers: Mapping[tuple[str, str], str]
) -> dict[str, Any]:
    """The answer with `measured` and `effect` beside each problem whose fix was tried, and what `choose` answered."""

    for row in answer["problems"]:
        row |= {"answer": said} if (said := answers.get((row["where"], row["what"]))) else {}
    if applied is None:
        return answer
    for row, problem in zip(answer["problems"], found.problems, strict=True):
        if (measured := applied.measured.get(problem)) is not None:
            row |= {"measured": str(measured), "effect": _told(measured.effect)}
    return answer | {"applied": {**applied.scored, "notes": list(applied.notes)}}


def _told(effect: Effect | None) -> dict[str, Any] | None:
    """An effect as in choice.json, but for the names of the two values."""
    from convwise.output.deliver import KEYS, effect_row

    names = {key: name for name, key in KEYS.items()}
    return {names.get(key, key): value for key, value in effect_row(effect).items()} if effect else None


# --- for people -----------------------------------------------------------------------------


def _tell(model: str, found: Checked, applied: Applied | None, answers: Mapping[tuple[str, str], str]) -> None:
    title = f"{model}: {len(found.analysis.layers)} layers on {times(found.lifted.net.input_shape)}"
    out().print(title, highlight=False, soft_wrap=True)
    out().print(_table(found))
    for line in _totals(found.analysis, found.lifted.net):
        out().print(line, highlight=False, soft_wrap=True)
    for problem in found.problems:
        measured = applied.measured.get(problem) if applied else None
        text = f"{problem.severity}: {problem}" + (f". {measured}" if measured else "")
        out().print(f"- {text}", highlight=False, soft_wrap=True)
        if said := answers.get((problem.where, problem.what)):
            out().print(f"  `choose` kept it anyway: {said}", highlight=False, soft_wrap=True)
    for note in applied.notes if applied else ():
        out().print(f"  {note}", highlight=False, soft_wrap=True)


def _table(found: Checked) -> Table:
    """One row a layer: whole, and with fewer columns where there are many."""
    net, few = found.lifted.net, len(found.analysis.layers) <= FEW_LAYERS
    columns = ["layer", "type", "output", "params", "macs", "field", *(["stride", "padding", "reads"] if few else [])]
    rows = table()
    for name in columns:
        rows.add_column(name, justify="right" if name in ("params", "macs") else "left", no_wrap=True)
    before = INPUT
    for layer, row in zip(net.layers, found.analysis.layers, strict=True):
        reads = "" if layer.inputs == (before,) else ", ".join(layer.inputs)
        moves = [square(row.field.stride), square(row.field.padding)] if row.field.known else ["?", "?"]
        rows.add_row(*_cells(layer, row), *([*moves, reads] if few else []))
        before = layer.name
    return rows


def _cells(layer: Layer, row: LayerCost) -> list[str]:
    kind = layer.operator + ("" if row.known else "?") if isinstance(layer, Opaque) else row.op
    params = f"{row.params:,}" if row.counted else "?"
    field = square(row.field.size) if row.field.known else "?"
    return [row.name, kind, times(row.output_shape), params, f"{row.macs:,}" if row.known else "?", field]


def _totals(analysis: Analysis, net: Net) -> Iterator[str]:
    total = analysis.total
    least = {name: "at least " if name in total.bounds else "" for name in ("params", "macs", "peak_bytes")}
    fixed = total.params - total.trainable
    params = f"{least['params']}{total.params:,} params" + (f" ({fixed:,} not trainable)" if fixed else "")
    memory = f"{total.activation_bytes / 1e6:,.2f} MB of activations ({total.peak_bytes / 1e6:,.2f} MB at once)"
    yield f"Total: {params}, {least['macs']}{total.macs:,} macs, {least['peak_bytes']}{memory}"
    if count := len(total.unknown):
        yield f"Unknown: the cost of {count} layer{'s' * (count > 1)}; figures marked 'at least' leave it out"
    field = total.field
    if not field.known:
        yield f"Field: unknown, at least {square(analysis.seen_at_least(net))} px"
        return
    beside = f" (convolutions and pools alone see {square(field.windows)} px)" if field.windows != field.size else ""
    border = f"; border layer {total.border}" if total.border else ""
    moves = f"stride {square(field.stride)}, padding {square(field.padding)}"
    yield f"Field: {square(field.size)} px{beside}, {moves}{border}"
