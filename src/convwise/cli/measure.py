"""The command `convwise measure`: what a change of a network is worth on images, as a table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convwise.cli.check import MODEL_HELP, parse_shape
from convwise.cli.console import out, table, watching
from convwise.cli.reading import (
    CacheOption,
    ClassesOption,
    LinksOption,
    ModelTaskOption,
    SkipOption,
)
from convwise.core.clock import MINIMUM_SECONDS, STARTED
from convwise.core.places import CACHE_SIZE
from convwise.core.text import number, times

if TYPE_CHECKING:
    from rich.table import Table

    from convwise.evidence.records import Measured
    from convwise.measuring import Measurement

PARAMETER_HELP = (
    "What to change: a parameter of a choice folder (stage.kernel_size=5), of one layer"
    " (stage2_conv1.kernel_size=5; 3,5 means 3 rows x 5 columns), or of all convolutions"
    " (activation=gelu, filters=x2). Repeat it for several changes, each tried alone; join layers"
    " that change together with & ('stem.filters=32 & stage1_conv2.filters=32'). Default: kernel"
    " size, filters, strides, padding, activation; then normalization, depth, pooling and head;"
    " then further values; then layer by layer; within each of these, the least certain first."
)

MOST_HELP = "Test only the first N changes, each with more pairs of trainings."


def measure(
    model: Annotated[str, typer.Argument(metavar="DIR|MODEL", help=MODEL_HELP, show_default=False)],
    images: Annotated[
        str | None,
        typer.Option(
            help=(
                "Images to train on; for a folder that `choose` wrote, by default the ones it used."
            )
        ),
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help=PARAMETER_HELP)
    ] = None,
    most: Annotated[int | None, typer.Option(metavar="N", help=MOST_HELP)] = None,
    budget: Annotated[
        str,
        typer.Option(
            help=f"Wall clock for everything: 90s, 10m, 1h30m; at least {MINIMUM_SECONDS:g}s."
        ),
    ] = "10m",
    input_shape: Annotated[
        str | None,
        typer.Option(
            metavar="HxWxC", help="Input shape, for a model that takes any size: 224x224x3."
        ),
    ] = None,
    classes_from: ClassesOption = "folder",
    skip_empty_classes: SkipOption = False,
    follow_links: LinksOption = False,
    cache_size: CacheOption = CACHE_SIZE,
    task: ModelTaskOption = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print JSON on standard output, for programs; progress goes to stderr."
        ),
    ] = False,
) -> None:
    """Measure what a change to a network is worth on your images.

    The network as it is and the changed one are trained in the same way, seed by seed. The answer
    is the change in validation accuracy, or in the error of a number, with its 95 % interval. A
    choice folder keeps the effects in choice.json, report.html and study.db, and the same command
    again adds to them. Ctrl-C prints and keeps what has been measured so far.
    """
    from convwise import measuring

    shape = parse_shape(input_shape) if input_shape else None
    how: dict[str, Any] = {"skip_empty_classes": skip_empty_classes, "follow_links": follow_links}
    how["cache_size"] = cache_size
    with watching(as_json) as watcher:
        found = measuring.measure(
            model, images, parameter=parameter or (), most=most, budget=budget, input_shape=shape,
            watcher=watcher,
            started=STARTED, classes_from=classes_from, task=task, **how,
        )  # fmt: skip
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        _tell(found)


def _tell(found: Measurement) -> None:
    if found.effects:
        told = "; ".join(
            filter(None, [f"after {number(found.seconds)} s of training", found.unchanged])
        )
        out().print(f"{found.model}: {told}", highlight=False, soft_wrap=True)
        out().print(_table([one for one in found.measured if one.effect]))
    from convwise.evidence.experiment import NO_TIME

    rest = [one for one in found.measured if one.effect is None]
    for one in [one for one in rest if one.notes != (NO_TIME,)]:
        out().print(f"- {_change(one)}: {one}", highlight=False, soft_wrap=True)
    for note in (
        *(f"{_change(one)}: {note}" for one in found.measured if one.effect for note in one.notes),
        *found.notes,
    ):
        out().print(f"- {note}", highlight=False, soft_wrap=True)


def _table(measured: list[Measured]) -> Table:
    from convwise.output.words import unit

    rows = table("parameter", "from", "to")
    for name in (
        unit([one.effect for one in measured if one.effect]),
        "95 % interval",
        "time",
        "runs",
    ):
        rows.add_column(name, justify="right", no_wrap=True)
    rows.add_column("verdict")
    for one in measured:
        if (effect := one.effect) is None:
            continue
        changed = effect.score.moved(effect.accuracy_change)
        cells = [changed, effect.span, f"x {effect.time_ratio:.2f}", str(effect.runs)]
        rows.add_row(
            effect.parameter, _shown(effect.before), _shown(effect.after), *cells, effect.verdict
        )
    return rows


def _change(one: Measured) -> str:
    return f"{one.edit.parameter} {_shown(one.edit.before)} -> {_shown(one.edit.after)}"


def _shown(value: Any) -> str:
    return times(value) if isinstance(value, (tuple, list)) else str(value)
