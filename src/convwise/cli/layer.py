"""`convwise layer`: one layer on one input, as text with a small picture or as JSON."""

from __future__ import annotations

import inspect
import json
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from convwise.core.layers import LAYERS, parameters
from convwise.core.parameters import (
    REQUIRED,
    Count,
    Extra,
    Flag,
    Named,
    Number,
    Padding,
    Parameter,
    PoolStrides,
    Size,
)
from convwise.core.text import of_bytes, square, times

if TYPE_CHECKING:  # loaded on use: other commands do not wait for it
    from convwise.inspect.landing import Along
    from convwise.inspect.single import Answer, Change

TYPES = (
    "Conv2D",
    "DepthwiseConv2D",
    "SeparableConv2D",
    "Conv2DTranspose",
    "MaxPooling2D",
    "AveragePooling2D",
)
PAIR = "N|ROWSxCOLUMNS"
Times = Mapping[str, float | None]
EDGE = 12  # inputs shown at either end of a large map
WHOLE = 60  # inputs and padding that are shown whole

ShapeArgument = Annotated[
    str,
    typer.Argument(
        metavar="HEIGHTxWIDTHxCHANNELS", help="The layer's input: 224x224x3.", show_default=False
    ),
]
TypeOption = Annotated[str, typer.Option("--type", help=f"The layer: {', '.join(TYPES)}.")]
TimeOption = Annotated[
    bool,
    typer.Option(
        "--time", help="Measure and predict the time in ms on this machine; takes a few seconds."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


# --- the options ----------------------------------------------------------------------------

# How each kind of parameter is typed.
METAVARS: dict[type[Parameter[Any, Any]], str] = {
    Count: "N", Size: PAIR, PoolStrides: PAIR, Extra: PAIR, Padding: "PADDING", Named: "NAME",
    Number: "NUMBER",
}  # fmt: skip
FORMS = {
    Padding: "same, valid, N, ROWS,COLUMNS or TOP,BOTTOM,LEFT,RIGHT",
    Named: "relu, silu, 'elu(alpha=0.5)' and others",
}


def declared() -> dict[str, dict[str, Parameter[Any, Any]]]:
    """The parameters of all TYPES by name, each with the types that have it."""
    found: dict[str, dict[str, Parameter[Any, Any]]] = {}
    for kind in TYPES:
        for parameter in parameters(LAYERS[kind]):
            found.setdefault(parameter.name, {})[kind] = parameter
    return found


DECLARED = declared()


def _options() -> Iterator[inspect.Parameter]:
    """An option for each declared parameter, so that a new one needs no word here."""
    for name, per_kind in DECLARED.items():
        first, flag = next(iter(per_kind.values())), name.replace("_", "-")
        help = _help(per_kind)
        if isinstance(first, Flag):
            off = f"/--no-{flag.removeprefix('use-')}" if first.default else ""
            typed: Any = Annotated[bool | None, typer.Option(f"--{flag}{off}", help=help)]
        else:
            metavar = METAVARS.get(type(first), "WORD")
            typed = Annotated[str | None, typer.Option(metavar=metavar, help=help)]
        keyword = inspect.Parameter.KEYWORD_ONLY
        yield inspect.Parameter(name, keyword, default=None, annotation=typed)


def _help(per_kind: Mapping[str, Parameter[Any, Any]]) -> str:
    """'Step between outputs. Default 1; for MaxPooling2D and AveragePooling2D the pool's size.'"""
    first = next(iter(per_kind.values()))
    some = f"For {' and '.join(per_kind)}: " if len(per_kind) < 3 else ""
    meaning = first.meaning[:1].upper() + first.meaning[1:] if not some else first.meaning
    defaults: dict[str, list[str]] = {}
    for kind, parameter in per_kind.items():
        defaults.setdefault(_default(parameter), []).append(kind)
    usual, *others = defaults
    said = [usual, *(f"for {' and '.join(defaults[other])} {other}" for other in others)]
    said = said if usual else []
    forms = f": {FORMS[type(first)]}" if type(first) in FORMS else ""
    return f"{some}{meaning}{forms}." + (f" Default {'; '.join(said)}." if said else "")


def _default(parameter: Parameter[Any, Any]) -> str:
    if isinstance(parameter, Flag) or parameter.default is REQUIRED:
        return ""
    if isinstance(parameter, PoolStrides):
        return "the pool's size"
    return "none" if parameter.default in ("linear", (0, 0)) else _value(parameter.default)


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return (
            square(value) if len(value) == 2 or len(set(value)) == 1 else ",".join(map(str, value))
        )
    return str(value)


class Words(TyperCommand):
    """Takes words as typed: typer's conversion needs a third of this command's time to load."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given, rest, _ = self.make_parser(ctx).parse_args(args=list(args))
        if rest or given.get("shape") is None or given.get("help"):
            return super().parse_args(ctx, args)  # which says what is wrong, or helps
        ctx.params = {
            str(p.name): given.get(str(p.name), p.default) for p in self.params if p.expose_value
        }
        return []


def layer(shape: ShapeArgument, kind: TypeOption = "Conv2D", time: TimeOption = False,
          as_json: JsonOption = False, **words: Any) -> None:  # fmt: skip
    """Say what one layer does to one input: shape, padding, cost, code in Keras and PyTorch, and
    what a step changes.

    For example: convwise layer 224x224x3 --filters 64 --kernel-size 7 --strides 2 --padding same
    """
    from convwise.inspect import single
    from convwise.inspect.words import understood

    typed = {name: word for name, word in words.items() if word is not None}
    known = single.DECLARED
    given = {
        name: understood(known.get(name), word, f"--{name.replace('_', '-')}")
        for name, word in typed.items()
    }
    answer = single.layer(shape, kind, **given)
    measured: Times = _timed(answer) if time else {}
    print(json.dumps(_plain(answer, measured)) if as_json else "\n".join(text(answer, measured)))


def _signed(command: Callable[..., None]) -> None:
    """Name the declared parameters in the signature, from which typer makes the options."""
    shape, kind, *rest = inspect.signature(command, eval_str=True).parameters.values()
    fixed = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for each in (shape, kind, *_options(), *rest[:-1])
    ]
    command.__signature__ = inspect.Signature(fixed)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in fixed}


_signed(layer)


# --- time -----------------------------------------------------------------------------------


def _timed(answer: Answer) -> dict[str, float | None]:
    """Milliseconds of one image, measured (None where ONNX has no such layer) and predicted: batch
    1, one thread.
    """
    from dataclasses import replace

    from convwise.core.calculus import analyse
    from convwise.core.net import Net
    from convwise.core.problems import Unsupported
    from convwise.training.machine import ThisMachine

    host = ThisMachine()
    net = Net(answer.input_shape, (answer.layer,))
    model = replace(host.latency, margin=1.0)
    measured: float | None = None
    with suppress(Unsupported):
        measured = host.latency_ms(net)
    return {"measured_ms": measured, "predicted_ms": model.milliseconds(analyse(net))}


# --- JSON -----------------------------------------------------------------------------------


def _plain(answer: Answer, measured: Times) -> dict[str, Any]:
    from convwise.core.net import layer_to_json
    from convwise.core.records import to_json

    took = {"measured_ms": None, "predicted_ms": None, **measured}
    data: dict[str, Any] = to_json(answer)
    return {**data, **took, "layer": layer_to_json(answer.layer)}


# --- text -----------------------------------------------------------------------------------


def text(answer: Answer, measured: Times) -> Iterator[str]:
    """The answer for a reader, line by line, in 80 columns or as wide as the terminal."""
    yield f"{answer.layer.op} on {times(answer.input_shape)} gives {times(answer.output_shape)}"
    yield ""
    yield from _facts(answer, measured)
    yield ""
    yield from _picture(answer)
    for title, lines in (("Keras", answer.keras), ("PyTorch", answer.torch)):
        yield from (
            "",
            title,
            *(f"  {line}" for line in lines or ["(has no such layer: see below)"]),
        )
    if answer.problems:
        yield from ("", "Please note")
    for problem in answer.problems:
        yield from _wrapped(str(problem), "  - ")
    yield ""
    yield from _changes(answer)


def _wrapped(line: str, bullet: str) -> list[str]:
    width = min(max(shutil.get_terminal_size().columns, 60), 110)
    after = " " * len(bullet)
    return textwrap.wrap(
        line, width, initial_indent=bullet, subsequent_indent=after, break_on_hyphens=False
    )


def _facts(answer: Answer, measured: Times) -> Iterator[str]:
    sides = zip(("top", "bottom", "left", "right"), answer.pads, strict=True)
    verb = "crops" if answer.layer.op == "Conv2DTranspose" else "pads"
    weights = f" + {of_bytes(answer.weight_bytes)} of weights" if answer.weight_bytes else ""
    yield _fact(verb, ", ".join(f"{side} {number}" for side, number in sides))
    yield _fact("params", f"{answer.params:,}")
    yield _fact(
        "macs", f"{answer.macs:,} multiply-accumulates, and {answer.elementwise:,} other operations"
    )
    given, made = of_bytes(answer.input_bytes), of_bytes(answer.activation_bytes)
    yield _fact("bytes", f"{given} in{weights} -> {made} out (float32)")
    yield _fact("intensity", f"{answer.macs_per_byte:.3g} macs per byte, each number moved once")
    yield _fact("field", f"{times(answer.receptive_field)} px seen by one output")
    yield _fact("time", _time(measured))


def _fact(name: str, value: str) -> str:
    return f"  {name:10} {value}"


def _time(measured: Times) -> str:
    if not measured:
        return "add --time to measure it here"
    took, predicted = measured["measured_ms"], measured["predicted_ms"]
    said = "cannot be measured" if took is None else f"{took:.3g} ms measured here"
    return f"{said}, {predicted:.3g} ms predicted (one image, one thread)"


# --- the picture ----------------------------------------------------------------------------


def _picture(answer: Answer) -> Iterator[str]:
    """Each axis as a strip; one for both where they are alike."""
    alike = answer.rows == answer.columns
    axes = [("rows", answer.rows), ("columns", answer.columns)]
    if alike:
        axes = [("rows and columns", answer.rows)]
    for name, along in axes:
        if answer.layer.op == "Conv2DTranspose":
            yield f"How many inputs each output adds up, along {name} ('-' is cropped)"
            yield "  " + _sums(along)
            yield f"  {_spread(along.sums, name, 'adds up', 'inputs')}"
        else:
            yield f"How often each input is read, along {name} ('.' padding, 'x' never)"
            yield from (f"  {line}" for line in _strips(along))
            yield f"  {_spread(along.reads, name, 'is read', 'times')}"
    if answer.layer.op != "Conv2DTranspose":
        most = max(answer.rows.reads) * max(answer.columns.reads)
        once = "  no pixel is read twice"
        yield f"  each pixel is read at most {most} times, once per output" if most > 1 else once


def _sums(along: Along) -> str:
    before, after = max(along.before, 0), max(along.after, 0)
    return _shortened(
        lambda place: _mark(along.sums, place - before, "-"), along.outputs, before, after
    )


def _strips(along: Along) -> Iterator[str]:
    """The inputs with their padding, and under them the first two windows and the last."""
    before, after = along.before, along.after
    yield _shortened(
        lambda place: _mark(along.reads, place - before, "."), along.size, before, after
    )
    second = ["second"] if len(along.windows) == 3 else []
    names = ["first window", *second, "last"]
    for name, taps in zip(names, along.windows, strict=False):
        strip = _shortened(_window(taps, before), along.size, before, after, " ")
        yield f"{strip.rstrip()}  {name}"


def _mark(counts: Sequence[int], place: int, outside: str) -> str:
    if not 0 <= place < len(counts):
        return outside
    return str(min(counts[place], 9)) if counts[place] else "x"


def _window(taps: Sequence[int], before: int) -> Callable[[int], str]:
    """'#' a tap, '-' what it steps over."""
    places = {tap + before for tap in taps}
    first, last = min(places), max(places)
    return lambda place: "#" if place in places else "-" if first < place < last else " "


def _shortened(
    mark: Callable[[int], str], size: int, before: int, after: int, gap: str = "."
) -> str:
    """The marks of all places, from the padding before to that after; or those at both ends."""
    length = before + size + after
    if length <= WHOLE:
        return "".join(map(mark, range(length)))
    head, tail = min(before + EDGE, WHOLE // 2), min(after + EDGE, WHOLE // 2)
    return (
        f"{''.join(map(mark, range(head)))} {3 * gap}"
        f" {''.join(map(mark, range(length - tail, length)))}"
    )


def _spread(counts: Sequence[int], name: str, verb: str, unit: str) -> str:
    """'each row is read 3 to 4 times, but 2 of 9 never'."""
    some = [count for count in counts if count]
    least, most = min(some, default=0), max(some, default=0)
    often = f"{least} to {most}" if least < most else f"{most}"
    one = name.replace("rows", "row").replace("columns", "column")
    never = len(counts) - len(some)
    counted = f"{often} {unit if most > 1 else unit[:-1]}"
    said = f"each {one} {verb} {'once' if counted == '1 time' else counted}"
    return said + (f", but {never} of {len(counts)} never" if never else "")


# --- steps ----------------------------------------------------------------------------------


def _changes(answer: Answer) -> Iterator[str]:
    yield "What one step in each parameter would change"
    rows = [
        ("", "from", "to", "output", "params", "macs"),
        *(_change(each, answer) for each in answer.changes),
    ]
    widths = [
        max(map(len, column))
        for column in zip(*(row for row in rows if len(row) == 6), strict=True)
    ]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        yield f"  {'  '.join(cells)}".rstrip()


def _change(change: Change, answer: Answer) -> tuple[str, ...]:
    name = change.parameter.replace(" and ", ", ")
    start = name, _value(change.before), _value(change.after)
    if change.output_shape is None:
        return (*start, "does not fit", "", "")
    params, macs = _ratio(change.params, answer.params), _ratio(change.macs, answer.macs)
    return (*start, times(change.output_shape), params, macs)


def _ratio(after: int, before: int) -> str:
    if before == after:
        return "as now" if after else "0"
    return f"{after:,} (x{after / before:.3g})" if before else f"{after:,}"
