"""The command `convwise check`: a model -> a table of its layers, and findings, worst first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from convwise.cli.console import out, table, watching
from convwise.cli.reading import (
    CacheOption,
    ClassesOption,
    LinksOption,
    ModelTaskOption,
    SkipOption,
)
from convwise.core.calculus import Analysis, LayerCost
from convwise.core.clock import STARTED, Clock, parse_duration
from convwise.core.layers import Layer, Opaque
from convwise.core.net import INPUT, Net
from convwise.core.places import CACHE_SIZE
from convwise.core.text import of_bytes, square, times

if TYPE_CHECKING:
    from rich.table import Table

    from convwise.core.records import Effect
    from convwise.inspect.checking import Checked

FEW_LAYERS = 60  # up to which the table says what each layer reads, and how fields move
WIDEST = 60  # letters of an operator's name in the table, which a file may make as long as it likes
MODEL_HELP = (
    "A .keras, .onnx, .pt2 or net .json file, a folder that `convwise choose` wrote, or"
    " package.module:callable such as keras.applications:ResNet50."
)

APPLY_HELP = (
    "Try each fix on --images: train the model both as it is and with the fix. A folder that"
    " `choose` wrote is by default tried on the images that its network was chosen with."
)


def check(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)],
    images: Annotated[
        str | None,
        typer.Option(
            help=(
                "Images that the model is meant for; its receptive field is compared with the scale"
                " measured on them."
            )
        ),
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(
            metavar="HxWxC", help="Input shape, for a model that takes any size: 224x224x3."
        ),
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
    from convwise.examining import examined, lab_of, reading
    from convwise.inspect.checking import to_json
    from convwise.inspect.models import load

    shape = parse_shape(input_shape) if input_shape else None
    lifted = load(model, shape, "--input-shape")
    seconds = parse_duration(budget) if apply else None
    how = reading(model, seconds, cache_size, task, classes_from=classes_from,
                  skip_empty_classes=skip_empty_classes,
                  follow_links=follow_links)  # fmt: skip
    with watching(as_json) if seconds else nullcontext() as watcher:
        lab = lab_of(Clock(seconds, STARTED), watcher) if seconds and watcher else None
        found = examined(lifted, model, images, how, lab)
    answers = _answers(Path(model))
    if as_json:
        print(json.dumps(_with_effects(to_json(found), found, answers)))
    else:
        _tell(model, found, answers)
    if found.is_wrong:
        raise typer.Exit(1)


def parse_shape(text: str) -> tuple[int, int, int]:
    """'224x224x3' -> (224, 224, 3). UnusableInput where it is no shape."""
    from convwise.inspect.requests import input_shape

    return input_shape(text, "--input-shape")


# --- with images ----------------------------------------------------------------------------


def _answers(folder: Path) -> dict[tuple[str, str], str]:
    """What `choose` answered to its network's warnings: (where, what) -> answer."""
    if not (folder / "choice.json").is_file():
        return {}
    from convwise.output.deliver import read_choice

    rows = read_choice(folder).get("check", ())
    return {(row["where"], row["what"]): row["answer"] for row in rows}


def _with_effects(
    answer: dict[str, Any], found: Checked, answers: Mapping[tuple[str, str], str]
) -> dict[str, Any]:
    """The answer with what `choose` said of each problem, and `measured` and `effect` of fixes."""

    for row in answer["problems"]:
        row |= {"answer": said} if (said := answers.get((row["where"], row["what"]))) else {}
    if (applied := found.applied) is None:
        return answer
    for row, problem in zip(answer["problems"], found.problems, strict=True):
        if (tried := applied.tried.get(problem)) is not None:
            row |= {"measured": tried.said, "effect": _told(tried.effect)}
    return answer | {"applied": {**applied.scored, "notes": list(applied.notes)}}


def _told(effect: Effect | None) -> dict[str, Any] | None:
    """An effect as in choice.json, but for the names of the two values."""
    from convwise.output.deliver import KEYS, effect_row

    if effect is None:
        return None
    names = {key: name for name, key in KEYS.items()}
    return {names.get(key, key): value for key, value in effect_row(effect).items()}


# --- for people -----------------------------------------------------------------------------


def _tell(model: str, found: Checked, answers: Mapping[tuple[str, str], str]) -> None:
    title = f"{model}: {len(found.analysis.layers)} layers on {times(found.lifted.net.input_shape)}"
    out().print(title, highlight=False, soft_wrap=True)
    out().print(_table(found))
    for line in _totals(found.analysis, found.lifted.net):
        out().print(line, highlight=False, soft_wrap=True)
    for problem in found.problems:
        tried = found.applied.tried.get(problem) if found.applied else None
        text = f"{problem.severity}: {problem}" + (f". {tried}" if tried else "")
        out().print(f"- {text}", highlight=False, soft_wrap=True)
        if said := answers.get((problem.where, problem.what)):
            out().print(f"  `choose` kept it anyway: {said}", highlight=False, soft_wrap=True)
    for note in found.applied.notes if found.applied else ():
        out().print(f"  {note}", highlight=False, soft_wrap=True)


def _table(found: Checked) -> Table:
    """One row a layer: whole, and with fewer columns where there are many."""
    net, few = found.lifted.net, len(found.analysis.layers) <= FEW_LAYERS
    columns = ["layer", "type", "output", "params", "macs", "field"]
    columns += ["stride", "padding", "reads"] if few else []
    rows = table()
    for name in columns:
        side: Literal["left", "right"] = "right" if name in ("params", "macs") else "left"
        rows.add_column(name, justify=side, no_wrap=True)
    before = INPUT
    for layer, row in zip(net.layers, found.analysis.layers, strict=True):
        reads = "" if layer.inputs == (before,) else ", ".join(layer.inputs)
        moves = ["?", "?"]
        if row.field.known:
            moves = [square(row.field.stride), square(row.field.padding)]
        rows.add_row(*_cells(layer, row), *([*moves, reads] if few else []))
        before = layer.name
    return rows


def _cells(layer: Layer, row: LayerCost) -> list[str]:
    kind = " ".join(layer.operator.split())[:WIDEST] if isinstance(layer, Opaque) else row.op
    kind += "" if row.known else "?"
    params = f"{row.params:,}" if row.counted else "?"
    macs = f"{row.macs:,}" if row.known else "?"
    field = square(row.field.size) if row.field.known else "?"
    return [row.name, kind, times(row.output_shape), params, macs, field]


def _totals(analysis: Analysis, net: Net) -> Iterator[str]:
    total = analysis.total
    bounded = ("params", "macs", "peak_bytes")
    least = {name: "at least " if name in total.bounds else "" for name in bounded}
    params = f"{least['params']}{total.params:,} params"
    if fixed := total.params - total.trainable:
        params += f" ({fixed:,} not trainable)"
    memory = f"{of_bytes(total.activation_bytes)} of activations"
    memory += f" ({of_bytes(total.peak_bytes)} at once)"
    yield f"Total: {params}, {least['macs']}{total.macs:,} macs, {least['peak_bytes']}{memory}"
    if count := len(total.unknown):
        left_out = "figures marked 'at least' do not include it"
        yield f"Unknown: the cost of {count} layer{'s' * (count > 1)}; {left_out}"
    field = total.field
    if not field.known:
        yield f"Field: unknown, at least {square(analysis.seen_at_least(net))} px"
        return
    beside = ""
    if field.windows != field.size:
        beside = f" (convolutions and pools alone see {square(field.windows)} px)"
    border = f"; border layer {total.border}" if total.border else ""
    moves = f"stride {square(field.stride)}, padding {square(field.padding)}"
    yield f"Field: {square(field.size)} px{beside}, {moves}{border}"
