"""One layer on one input: everything that can be said of it without running it.

macs_per_byte, the arithmetic intensity, is multiply-accumulates per byte that must move at least:
the input, the weights and the output, each number once, in float32.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import Any, get_args

from convwise.core import layers as L
from convwise.core.calculus import BYTES, LayerCost, analyse
from convwise.core.check import OF_A_LAYER, findings
from convwise.core.geometry import GEOMETRY, Moves, transposed_crops
from convwise.core.net import Net
from convwise.core.parameters import (
    MOST_SIZE,
    REQUIRED,
    Pads,
    Pair,
    Parameter,
)
from convwise.core.problems import ConvwiseError, Problem, ShapeError, UnusableInput
from convwise.core.shown import Screen, Shown, plain
from convwise.core.text import square, times
from convwise.core.windows import Shape, Window, effective, landings
from convwise.formats.lowering.lines import keras_crops, keras_lines, torch_lines
from convwise.inspect.requests import asked, channels_first
from convwise.inspect.requests import input_shape as shape_of
from convwise.inspect.words import understood

KINDS: dict[str, type[L.Layer]] = {
    "Conv2D": L.Conv2D,
    "DepthwiseConv2D": L.DepthwiseConv2D,
    "SeparableConv2D": L.SeparableConv2D,
    "Conv2DTranspose": L.Conv2DTranspose,
    "MaxPooling2D": L.MaxPooling2D,
    "AveragePooling2D": L.AveragePooling2D,
}
DECLARED: dict[str, Parameter[Any, Any]] = {p.name: p for kind in KINDS.values() for p in L.parameters(kind)}
GROUPED = (L.Conv2D, L.Conv2DTranspose)
POOLS = (L.MaxPooling2D, L.AveragePooling2D)


@dataclass(frozen=True)
class Along:
    """How the kernel lands along one axis of the input.

    before, after: padding (of Conv2DTranspose: what is taken from the output); reads: per input, by
    how many taps of all windows it is read; sums: per output, how many inputs it takes, padding not
    counted; windows: what outputs 0, 1 and the last read, beyond the input where that is padded.
    """

    size: int
    outputs: int
    before: int
    after: int
    reads: tuple[int, ...]
    sums: tuple[int, ...]
    windows: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Change:
    """What one step in one parameter would make; output_shape is None where the layer then does not fit: `problem`."""

    parameter: str
    before: Any
    after: Any
    output_shape: Shape | None
    params: int = 0
    macs: int = 0
    problem: str = ""


@dataclass(frozen=True, repr=False)
class Answer(Shown):
    """One layer on one input. Shapes are (height, width, channels), the rest as in core/calculus.py.

    layer: as in a Net, where Keras's output_padding is explicit padding; changes: of what was given.
    input_bytes, activation_bytes, weight_bytes: input, output and parameters in float32;
    receptive_field: (rows, columns); keras, torch: source lines, none where there is no such layer.
    """

    layer: L.Layer
    input_shape: tuple[int, int, int]
    output_shape: Shape
    pads: Pads
    params: int
    macs: int
    elementwise: int
    input_bytes: int
    activation_bytes: int
    weight_bytes: int
    macs_per_byte: float
    receptive_field: Pair
    rows: Along
    columns: Along
    keras: tuple[str, ...]
    torch: tuple[str, ...]
    changes: tuple[Change, ...]
    problems: tuple[Problem, ...]

    def screen(self) -> Screen:
        """Shapes, padding, cost, the layer as code, and what one step in each parameter would make."""
        top, bottom, left, right = self.pads
        verb = "crops" if self.layer.op == "Conv2DTranspose" else "pads"
        steps = [
            (c.parameter, _value(c.before), _value(c.after))
            + ((times(c.output_shape), f"{c.params:,}", f"{c.macs:,}") if c.output_shape else ("does not fit", "", ""))
            for c in self.changes
        ]
        return Screen(
            f"{self.layer.op} on {times(self.input_shape)} gives {times(self.output_shape)}",
            (
                f"{verb} top {top}, bottom {bottom}, left {left}, right {right}; one output sees "
                f"{times(self.receptive_field)} px",
                f"{self.params:,} parameters, {self.macs:,} multiply-accumulates, {self.activation_bytes:,} bytes out",
                f"Keras: {'; '.join(self.keras) or 'has no such layer'}",
                f"PyTorch: {'; '.join(self.torch) or 'has no such layer'}",
            ),
            ("one step in", "from", "to", "output", "parameters", "multiply-accumulates"),
            steps,
            [str(problem) for problem in self.problems],
            ".changes",
        )


def layer(input_shape: str | Sequence[int], type: str = "Conv2D", **parameters: Any) -> Answer:
    """What one layer does to an input of (height, width, channels), or '224x224x3', in Keras's terms.

    layer((224, 224, 3), filters=64, kernel_size=7, strides=2, padding="same"). type: one of KINDS; the
    parameters are those of that type in Keras, with its defaults. Values may be words as well, as
    `understood` reads them. ShapeError says which numbers clash and what would fit; UnusableInput, which
    parameter is wrong, or that the shape has its channels first.
    """
    where = "input" if isinstance(input_shape, str) else "input_shape"
    shape = shape_of(input_shape, where)
    kind = {known.casefold(): known for known in KINDS}.get(type.casefold(), type)
    given = {name: understood(DECLARED.get(name), value, f"{kind}.{name}") for name, value in parameters.items()}
    made(kind, given)  # which parameters are wrong, whatever the shape
    with asked(shape, where):
        found = answer(kind, given, shape)
    return replace(found, problems=(*channels_first(shape, where), *found.problems))


def _signed() -> inspect.Signature:
    """The signature of `layer` with every parameter of every layer type by name; None is the type's own default."""
    first, second, _ = inspect.signature(layer).parameters.values()
    declared = {each.name: type(each) for kind in KINDS.values() for each in L.parameters(kind)}
    rest = []
    for name, kind in declared.items():
        _, given = get_args(kind.__orig_bases__[0])  # type: ignore[attr-defined]  # Parameter[kept as, given as]
        rest.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=given | None))
    return inspect.Signature([first, second, *rest], return_annotation="Answer")


layer.__signature__ = _signed()  # type: ignore[attr-defined]


def made(kind: str, given: Mapping[str, Any]) -> L.Layer:
    """The layer of a type with these parameters; padding and output_padding mean what they mean in Keras."""
    if kind not in KINDS:
        raise UnusableInput("layer type", f"is {kind!r}", "one of " + ", ".join(KINDS))
    known = {p.name: p for p in L.parameters(KINDS[kind])}
    if unknown := [name for name in given if name not in known]:
        takers = [name for name, each in KINDS.items() if given.keys() <= {p.name for p in L.parameters(each)}]
        fix = f"the layer type {' or '.join(takers)}" if takers else ""
        raise UnusableInput(kind, f"takes no {' and no '.join(unknown)}", "some of " + ", ".join(known), fix)
    if missing := [p for p in known.values() if p.default is REQUIRED and p.name not in given]:
        expected = " and ".join(f"{p.name} ({p.meaning})" for p in missing)
        raise UnusableInput(kind, f"lacks {' and '.join(p.name for p in missing)}", expected)
    layer = _said(kind, given)
    extra = given.get("output_padding") is not None
    return _as_keras(layer) if isinstance(layer, L.Conv2DTranspose) and extra else layer


def _said(kind: str, given: Mapping[str, Any]) -> L.Layer:
    """The layer word for word. Of Keras's output_padding, None and 0 are two things; ours is 0 for both."""
    return L.layer_from_json({"type": kind, **{name: value for name, value in given.items() if value is not None}})


def _as_keras(layer: L.Conv2DTranspose) -> L.Conv2DTranspose:
    """Keras counts output_padding from a smaller base than the output without it: the same as explicit padding."""
    pairs = zip(layer.output_padding, layer.strides, strict=True)
    if any(extra >= stride for extra, stride in pairs):
        what = f"has output_padding {layer.output_padding} with strides {layer.strides}"
        raise ShapeError("Conv2DTranspose", what, "output_padding below strides", "larger strides, or output_padding=0")
    if isinstance(layer.padding, tuple):
        return layer
    sides: list[int] = []
    for kernel, rate, extra in zip(layer.kernel_size, layer.dilation_rate, layer.output_padding, strict=True):
        sides += keras_crops(layer.padding, effective(kernel, rate), extra)
    top, bottom, left, right = sides
    explicit = top, max(bottom, 0), left, max(right, 0)
    return replace(layer, padding=explicit, output_padding=(max(-bottom, 0), max(-right, 0)))


def answer(kind: str, given: Mapping[str, Any], shape: tuple[int, int, int]) -> Answer:
    """Everything about the layer that `made` makes, on an input of `shape`. ShapeError as `layer`."""
    layer = made(kind, given)
    net = Net(shape, (layer,))
    try:
        cost = analyse(net).layers[0]
    except ShapeError as error:
        raise _explained(net.layers[0], shape, error) from error
    rows, columns = _along(net.layers[0], shape, cost)
    keras, torch = keras_lines(layer, shape), torch_lines(layer, shape)
    found = [replace(each.problem, where=layer.op) for each in findings(net) if each.rule in OF_A_LAYER]
    problems = (*found, *keras.problems, *torch.problems)
    moved = BYTES * (prod(shape) + cost.params) + cost.activation_bytes
    return Answer(
        layer=layer,
        input_shape=shape,
        output_shape=cost.output_shape,
        pads=cost.pads,
        params=cost.params,
        macs=cost.macs,
        elementwise=cost.elementwise,
        input_bytes=BYTES * prod(shape),
        activation_bytes=cost.activation_bytes,
        weight_bytes=BYTES * cost.params,
        macs_per_byte=cost.macs / moved,
        receptive_field=cost.field.size,
        rows=rows,
        columns=columns,
        keras=keras.lines,
        torch=torch.lines,
        changes=tuple(changes(kind, given, shape)),
        problems=problems,
    )


# --- where the kernel lands -----------------------------------------------------------------


def _along(layer: Any, shape: Shape, cost: LayerCost) -> tuple[Along, Along]:
    """Along rows and columns. A transposed convolution spreads its inputs as a convolution gathers its outputs."""
    _drawable(layer, shape, cost)
    sent = isinstance(layer, L.Conv2DTranspose)
    window = Window(layer.kernel_size, layer.strides, layer.dilation_rate, cost.pads) if sent else _window(layer, shape)
    assert window is not None
    moves = GEOMETRY[type(layer)].moves(layer, shape, cost.output_shape) or window.steps()
    rows, columns = (_axis(window, moves, axis, (shape[axis], cost.output_shape[axis]), sent) for axis in (0, 1))
    return rows, columns


def _drawable(layer: L.Layer, shape: Shape, cost: LayerCost) -> None:
    """ShapeError where a map has more rows or columns than can be listed."""
    for said, map_shape in (("reads", shape), ("gives", cost.output_shape)):
        if max(map_shape[:2]) > MOST_SIZE:
            what = f"{said} a map of {times(map_shape[:2])}"
            raise ShapeError(layer.op, what, f"at most {MOST_SIZE:,} rows and columns", "ask about a part of it")


def _window(layer: L.Layer, shape: Shape) -> Window | None:
    return GEOMETRY[type(layer)].window(layer, shape)


def _axis(window: Window, moves: Moves, axis: int, both: Pair, sent: bool) -> Along:
    (size, outputs), (before, after) = both, window.pads[2 * axis : 2 * axis + 2]
    near, far = (size, outputs) if sent else (outputs, size)  # the side on which windows stand, and the other
    stands, taps = zip(*landings(window, axis, far, near), strict=True)
    counts = _counted(stands, near), _counted(taps, far)
    sums, reads = reversed(counts) if sent else counts
    units = sorted({0, min(1, outputs - 1), outputs - 1})
    return Along(size, outputs, before, after, reads, sums, tuple(tuple(moves[axis].reads(unit)) for unit in units))


def _counted(ranges: Iterable[range], size: int) -> tuple[int, ...]:
    """For each number below `size`, in how many of the ranges it is; all have one step."""
    rises, step = [0] * size, 1
    for each in filter(None, ranges):
        step = each.step
        rises[each.start] += 1
        if each[-1] + step < size:
            rises[each[-1] + step] -= 1
    for place in range(step, size):
        rises[place] += rises[place - step]
    return tuple(rises)


# --- one step in each parameter -------------------------------------------------------------


def changes(kind: str, given: Mapping[str, Any], shape: tuple[int, int, int]) -> Iterator[Change]:
    """One step up and one down in each parameter as it was given, with what becomes of the layer."""
    said = _said(kind, given)
    for declared in L.parameters(said):
        name = declared.name
        here = None if name == "output_padding" and given.get(name) is None else getattr(said, name)
        for value in STEPS[name](said, shape[2]) if name in STEPS else ():
            both = {name: value}
            if isinstance(said, POOLS) and name == "pool_size" and said.strides == here:  # Keras's default
                both["strides"] = value
            yield _change(kind, {**given, **both}, shape, " and ".join(both), (here, value))


def _change(
    kind: str, given: Mapping[str, Any], shape: tuple[int, int, int], label: str, step: tuple[Any, Any]
) -> Change:
    here, value = step
    try:
        cost = analyse(Net(shape, (made(kind, given),))).layers[0]
    except ConvwiseError as error:
        return Change(label, here, value, None, problem=error.problem.what)
    return Change(label, here, value, cost.output_shape, cost.params, cost.macs)


def _moved(step: int, least: int = 1) -> Callable[[Pair], list[Pair]]:
    """Both numbers one step down and one up, where they stay at least so large."""
    return lambda pair: [(pair[0] + by, pair[1] + by) for by in (-step, step) if min(pair) + by >= least]


def _kernels(pair: Pair) -> list[Pair]:
    """Odd stays odd, even stays even; 2 becomes 1 or 3."""
    return _moved(1 if 2 in pair else 2)(pair)


def _paddings(layer: Any, channels: int) -> list[str]:
    return [word for word in ("same", "valid") if word != layer.padding]


def _filters(layer: Any, channels: int) -> list[int]:
    groups = getattr(layer, "groups", 1)
    half = layer.filters // 2
    return [*([half] if half and half % groups == 0 else []), 2 * layer.filters]


def _groups(layer: Any, channels: int) -> list[int]:
    """The nearest numbers of groups that divide the channels and the filters."""
    fitting = _divisors(gcd(channels, layer.filters))
    below, above = ([n for n in fitting if n < layer.groups], [n for n in fitting if n > layer.groups])
    return [*below[-1:], *above[:1]]


def _divisors(number: int) -> list[int]:
    small = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


STEPS: dict[str, Callable[[Any, int], Sequence[Any]]] = {
    "filters": _filters,
    "kernel_size": lambda layer, channels: _kernels(layer.kernel_size),
    "pool_size": lambda layer, channels: _moved(1)(layer.pool_size),
    "strides": lambda layer, channels: _moved(1)(layer.strides),
    "padding": _paddings,
    "output_padding": lambda layer, channels: _moved(1, 0)(layer.output_padding),
    "dilation_rate": lambda layer, channels: _moved(1)(layer.dilation_rate),
    "groups": _groups,
    "depth_multiplier": lambda layer, channels: [layer.depth_multiplier + 1],
    "use_bias": lambda layer, channels: [not layer.use_bias],
    "ceil_mode": lambda layer, channels: [not layer.ceil_mode],
    "count_include_pad": lambda layer, channels: [not layer.count_include_pad],
}


# --- impossible requests --------------------------------------------------------------------


def _explained(layer: L.Layer, shape: Shape, error: ShapeError) -> ShapeError:
    """The error with the numbers that clash, and what would fit."""
    where = f"{layer.op} on {times(shape)}"
    if isinstance(layer, GROUPED) and (shape[2] % layer.groups or layer.filters % layer.groups):
        return _groups_clash(layer, shape[2], where)
    window = _window(layer, shape)
    if window:
        return _kernel_clash(layer, window, shape, where)
    if isinstance(layer, L.Conv2DTranspose):
        return _crops_clash(layer, shape, where)
    return error


def _groups_clash(layer: L.Conv2D | L.Conv2DTranspose, channels: int, where: str) -> ShapeError:
    both = ((channels, "input channels"), (layer.filters, "filters"))
    clash = [f"{n} {label}" for n, label in both if n % layer.groups]
    what = f"{' and '.join(clash)} cannot be split into {layer.groups} equal groups"
    fitting = _divisors(gcd(channels, layer.filters))
    said = ", ".join(map(str, fitting if len(fitting) < 10 else [*fitting[:8], "...", fitting[-1]]))
    fix = "" if channels % layer.groups else f"filters {_around(layer.filters, layer.groups)}"
    return ShapeError(where, what, f"groups that divide both {channels} and {layer.filters}: {said}", fix)


def _around(number: int, step: int) -> str:
    """The nearest multiples of `step`: '63 or 66'."""
    below = number // step * step
    return f"{below} or {below + step}" if below else str(step)


def _kernel_clash(layer: L.Layer, window: Window, shape: Shape, where: str) -> ShapeError:
    size = "pool_size" if isinstance(layer, POOLS) else "kernel_size"
    dilated = f" with dilation_rate {times(window.dilation)} reaches over {times(window.reach)}, which"
    padded = f" with padding {window.pads}" if any(window.pads) else ""
    what = f"{size} {times(window.kernel)}{dilated if max(window.dilation) > 1 else ''} does not fit into "
    what += f"a map of {times(shape[:2])}{padded}"
    most = _most(window, shape, window.pads)
    top, bottom, left, right = window.pads
    least = max(window.reach[0] - top - bottom, 1), max(window.reach[1] - left - right, 1)
    fit = [f"{size} up to {times(most)}"] if min(most) > 0 else []
    expected = " or ".join([*fit, f"a map of at least {times(least)}"])
    return ShapeError(where, what, expected, "padding='same'" + _undilated(window, shape))


def _undilated(window: Window, shape: Shape) -> str:
    fits = all(kernel <= size for kernel, size in zip(window.kernel, shape, strict=False))
    return ", or dilation_rate=1" if fits and max(window.dilation) > 1 else ""


def _most(window: Window, shape: Shape, pads: Pads) -> Pair:
    """The largest kernel that fits, rows and columns."""
    room = shape[0] + pads[0] + pads[1], shape[1] + pads[2] + pads[3]
    rows, columns = ((size - 1) // rate + 1 for size, rate in zip(room, window.dilation, strict=True))
    return rows, columns


def _crops_clash(layer: L.Conv2DTranspose, shape: Shape, where: str) -> ShapeError:
    full = [
        (n - 1) * s + effective(k, d)
        for n, s, k, d in zip(shape[:2], layer.strides, layer.kernel_size, layer.dilation_rate, strict=True)
    ]
    what = f"padding {transposed_crops(layer)} (top, bottom, left, right) takes all of an output of {times(full)}"
    expected = f"less than {full[0]} rows and {full[1]} columns in all"
    return ShapeError(where, what, expected, "padding='same', a larger kernel_size, or larger strides")


def _value(value: Any) -> str:
    """(3, 3) -> '3', (3, 5) -> '3x5'."""
    return square(value) if isinstance(value, tuple) else plain(value)
