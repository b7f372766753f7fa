"""One layer on one input: everything that can be said of it without running it.

macs_per_byte, the arithmetic intensity, is multiply-accumulates per byte that must move at least:
the input, the weights and the output, each number once, in float32.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import Any, get_args

from convwise.core import layers as L
from convwise.core import parameters as P
from convwise.core.calculus import BYTES, analyse
from convwise.core.check import OF_A_LAYER, findings
from convwise.core.geometry import GEOMETRY
from convwise.core.layer_windows import transposed_crops
from convwise.core.net import Net, layer_from_json
from convwise.core.parameters import REQUIRED, Pads, Pair, Parameter
from convwise.core.problems import ConvwiseError, Problem, ShapeError, UnusableInput
from convwise.core.shown import Screen, Shown, plain
from convwise.core.text import square, times
from convwise.core.windows import Shape, Window, effective
from convwise.formats.lowering.lines import keras_crops, keras_lines, torch_lines
from convwise.inspect.landing import Along, landing
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
DECLARED: dict[str, Parameter[Any, Any]] = {
    p.name: p for kind in KINDS.values() for p in L.parameters(kind)
}
GROUPED = (L.Conv2D, L.Conv2DTranspose)
POOLS = (L.MaxPooling2D, L.AveragePooling2D)


@dataclass(frozen=True)
class Change:
    """What one step in one parameter would make.

    output_shape: None where the layer then does not fit, and `problem` says why.
    """

    parameter: str
    before: Any
    after: Any
    output_shape: Shape | None
    params: int = 0
    macs: int = 0
    problem: str = ""


@dataclass(frozen=True, repr=False)
class Answer(Shown):
    """One layer on one input. Shapes are (height, width, channels).

    layer: as in a Net, where Keras's output_padding is explicit padding; changes: of what was
    given. input_bytes, activation_bytes, weight_bytes: input, output and parameters in float32;
    receptive_field: (rows, columns); keras, torch: source lines, none where there is no such layer.
    The rest is as in core/calculus.py.
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
        """Shapes, padding, cost, the layer as code, and one step in each parameter."""
        top, bottom, left, right = self.pads
        verb = "crops" if self.layer.op == "Conv2DTranspose" else "pads"
        padding = f"{verb} top {top}, bottom {bottom}, left {left}, right {right}"
        cost = f"{self.params:,} parameters, {self.macs:,} multiply-accumulates"
        steps = []
        for c in self.changes:
            then = "does not fit", "", ""
            if c.output_shape:
                then = times(c.output_shape), f"{c.params:,}", f"{c.macs:,}"
            steps.append((c.parameter, _value(c.before), _value(c.after), *then))
        return Screen(
            f"{self.layer.op} on {times(self.input_shape)} gives {times(self.output_shape)}",
            (
                f"{padding}; one output sees {times(self.receptive_field)} px",
                f"{cost}, {self.activation_bytes:,} bytes out",
                f"Keras: {'; '.join(self.keras) or 'has no such layer'}",
                f"PyTorch: {'; '.join(self.torch) or 'has no such layer'}",
            ),
            ("one step in", "from", "to", "output", "parameters", "multiply-accumulates"),
            steps,
            [str(problem) for problem in self.problems],
            ".changes",
        )


def layer(input_shape: str | Sequence[int], type: str = "Conv2D", **parameters: Any) -> Answer:
    """What one layer does to an input of (height, width, channels), or '224x224x3', in Keras's
    terms.

    layer((224, 224, 3), filters=64, kernel_size=7, strides=2, padding="same"). type: one of KINDS;
    the parameters are those of that type in Keras, with its defaults. Values may be words as well,
    as `understood` reads them. ShapeError says which numbers clash and what would fit;
    UnusableInput, which parameter is wrong, or that the shape has its channels first.
    """
    where = "input" if isinstance(input_shape, str) else "input_shape"
    shape = shape_of(input_shape, where)
    kind = {known.casefold(): known for known in KINDS}.get(type.casefold(), type)
    given = {
        name: understood(DECLARED.get(name), value, f"{kind}.{name}")
        for name, value in parameters.items()
    }
    made(kind, given)  # which parameters are wrong, whatever the shape
    with asked(shape, where):
        found = answer(kind, given, shape)
    return replace(found, problems=(*channels_first(shape, where), *found.problems))


def _signed() -> inspect.Signature:
    """The signature of `layer`, which takes every parameter of every layer type by its name.

    None stands for the default of the type.
    """
    first, second, _ = inspect.signature(layer).parameters.values()
    declared = {each.name: type(each) for kind in KINDS.values() for each in L.parameters(kind)}
    rest = []
    for name, kind in declared.items():
        # Of Parameter[kept as, given as]
        _, given = get_args(kind.__orig_bases__[0])  # type: ignore[attr-defined]
        by_name = inspect.Parameter.KEYWORD_ONLY
        rest.append(inspect.Parameter(name, by_name, default=None, annotation=given | None))
    return inspect.Signature([first, second, *rest], return_annotation="Answer")


layer.__signature__ = _signed()  # type: ignore[attr-defined]


def made(kind: str, given: Mapping[str, Any]) -> L.Layer:
    """The layer of a type with these parameters, padding and output_padding as in Keras."""
    if kind not in KINDS:
        raise UnusableInput("layer type", f"is {kind!r}", "one of " + ", ".join(KINDS))
    known = {p.name: p for p in L.parameters(KINDS[kind])}
    if unknown := [name for name in given if name not in known]:
        taken = {name: {p.name for p in L.parameters(each)} for name, each in KINDS.items()}
        takers = [name for name, names in taken.items() if given.keys() <= names]
        fix = f"the layer type {' or '.join(takers)}" if takers else ""
        what = f"does not take {' or '.join(unknown)}"
        raise UnusableInput(kind, what, "some of " + ", ".join(known), fix)
    if missing := [p for p in known.values() if p.default is REQUIRED and p.name not in given]:
        expected = " and ".join(f"{p.name} ({p.meaning})" for p in missing)
        raise UnusableInput(kind, f"lacks {' and '.join(p.name for p in missing)}", expected)
    layer = _said(kind, given)
    extra = given.get("output_padding") is not None
    return _as_keras(layer) if isinstance(layer, L.Conv2DTranspose) and extra else layer


def _said(kind: str, given: Mapping[str, Any]) -> L.Layer:
    """The layer word for word, where Keras's output_padding of None becomes 0, as its 0 does."""
    said = {name: value for name, value in given.items() if value is not None}
    return layer_from_json({"type": kind, **said})


def _as_keras(layer: L.Conv2DTranspose) -> L.Conv2DTranspose:
    """Keras counts output_padding from a smaller base than the output without it: the same as
    explicit padding.
    """
    pairs = zip(layer.output_padding, layer.strides, strict=True)
    if any(extra >= stride for extra, stride in pairs):
        what = f"has output_padding {layer.output_padding} with strides {layer.strides}"
        fix = "larger strides, or output_padding=0"
        raise ShapeError("Conv2DTranspose", what, "output_padding below strides", fix)
    if isinstance(layer.padding, tuple):
        return layer
    sides: list[int] = []
    axes = zip(layer.kernel_size, layer.dilation_rate, layer.output_padding, strict=True)
    for kernel, rate, extra in axes:
        sides += keras_crops(layer.padding, effective(kernel, rate), extra)
    top, bottom, left, right = sides
    explicit = top, max(bottom, 0), left, max(right, 0)
    return replace(layer, padding=explicit, output_padding=(max(-bottom, 0), max(-right, 0)))


def answer(kind: str, given: Mapping[str, Any], shape: tuple[int, int, int]) -> Answer:
    """Everything about the layer that `made` makes, on an input of `shape`; ShapeError too."""
    layer = made(kind, given)
    net = Net(shape, (layer,))
    try:
        cost = analyse(net).layers[0]
    except ShapeError as error:
        raise _explained(net.layers[0], shape, error) from error
    rows, columns = landing(net.layers[0], shape, cost)
    keras, torch = keras_lines(layer, shape), torch_lines(layer, shape)
    found = [each.problem for each in findings(net) if each.rule in OF_A_LAYER]
    here = [replace(problem, where=layer.op) for problem in found]
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
        problems=(*here, *keras.problems, *torch.problems),
    )


# --- one step in each parameter -------------------------------------------------------------


def changes(kind: str, given: Mapping[str, Any], shape: tuple[int, int, int]) -> Iterator[Change]:
    """One step up and one down in each parameter as it was given, and what the layer then is."""
    said = _said(kind, given)
    for declared in L.parameters(said):
        name = declared.name
        here = None if name == "output_padding" and given.get(name) is None else getattr(said, name)
        for value in steps(said, declared, shape[2]):
            both = {name: value}
            # In Keras, the strides of a pooling layer are its pool_size unless they are given
            if isinstance(said, POOLS) and name == "pool_size" and said.strides == here:
                both["strides"] = value
            yield _change(kind, {**given, **both}, shape, " and ".join(both), (here, value))


def _change(
    kind: str,
    given: Mapping[str, Any],
    shape: tuple[int, int, int],
    label: str,
    step: tuple[Any, Any],
) -> Change:
    here, value = step
    try:
        cost = analyse(Net(shape, (made(kind, given),))).layers[0]
    except ConvwiseError as error:
        return Change(label, here, value, None, problem=error.problem.what)
    return Change(label, here, value, cost.output_shape, cost.params, cost.macs)


def _moved(step: int, least: int = 1) -> Callable[[Pair], list[Pair]]:
    """Both numbers one step down and one up, where they stay at least so large."""
    return lambda pair: [
        (pair[0] + by, pair[1] + by) for by in (-step, step) if min(pair) + by >= least
    ]


def _kernels(layer: Any, channels: int) -> list[Pair]:
    """Odd stays odd, even stays even; 2 becomes 1 or 3."""
    return _moved(1 if 2 in layer.kernel_size else 2)(layer.kernel_size)


def _filters(layer: Any, channels: int) -> list[int]:
    groups = getattr(layer, "groups", 1)
    half = layer.filters // 2
    return [*([half] if half and half % groups == 0 else []), 2 * layer.filters]


def _groups(layer: Any, channels: int) -> list[int]:
    """The nearest numbers of groups that divide the channels and the filters."""
    fitting = _divisors(gcd(channels, layer.filters))
    below = [n for n in fitting if n < layer.groups]
    above = [n for n in fitting if n > layer.groups]
    return [*below[-1:], *above[:1]]


def _divisors(number: int) -> list[int]:
    small = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


STEPS: dict[str, Callable[[Any, int], Sequence[Any]]] = {
    "filters": _filters,
    "kernel_size": _kernels,
    "groups": _groups,
}
# Steps of every other parameter, by its kind. An activation or a word has none: it need not change
# shape or cost.
STEPS_OF_KIND: dict[type[Parameter[Any, Any]], Callable[[Any], Sequence[Any]]] = {
    P.Count: lambda number: [number + 1],
    P.Size: _moved(1),
    P.PoolStrides: _moved(1),
    P.Extra: _moved(1, 0),
    P.Padding: lambda here: [word for word in ("same", "valid") if word != here],
    P.Flag: lambda here: [not here],
}


def steps(layer: L.Layer, declared: Parameter[Any, Any], channels: int) -> Sequence[Any]:
    """The values one step away from that of a parameter of `layer`, which reads `channels`."""
    here = getattr(layer, declared.name)
    if declared.name in STEPS:
        return STEPS[declared.name](layer, channels)
    return STEPS_OF_KIND[type(declared)](here) if type(declared) in STEPS_OF_KIND else ()


# --- impossible requests --------------------------------------------------------------------


def _explained(layer: L.Layer, shape: Shape, error: ShapeError) -> ShapeError:
    """The error with the numbers that clash, and what would fit."""
    where = f"{layer.op} on {times(shape)}"
    if isinstance(layer, GROUPED) and (shape[2] % layer.groups or layer.filters % layer.groups):
        return _groups_clash(layer, shape[2], where)
    if window := GEOMETRY[type(layer)].window(layer, shape):
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
    expected = f"groups that divide both {channels} and {layer.filters}: {said}"
    fix = ""
    if channels % layer.groups == 0:
        below = layer.filters // layer.groups * layer.groups
        above = below + layer.groups
        fix = f"filters {below} or {above}" if below else f"filters {above}"
    return ShapeError(where, what, expected, fix)


def _kernel_clash(layer: L.Layer, window: Window, shape: Shape, where: str) -> ShapeError:
    size = "pool_size" if isinstance(layer, POOLS) else "kernel_size"
    what, fix = f"{size} {times(window.kernel)}", "padding='same'"
    if max(window.dilation) > 1:
        reach = times(window.reach)
        what += f" with dilation_rate {times(window.dilation)} reaches over {reach}, which"
        if all(kernel <= side for kernel, side in zip(window.kernel, shape, strict=False)):
            fix += ", or dilation_rate=1"
    what += f" does not fit into a map of {times(shape[:2])}"
    what += f" with padding {window.pads}" if any(window.pads) else ""
    most = _most(window, shape)
    top, bottom, left, right = window.pads
    least = max(window.reach[0] - top - bottom, 1), max(window.reach[1] - left - right, 1)
    fit = [f"{size} up to {times(most)}"] if min(most) > 0 else []
    expected = " or ".join([*fit, f"a map of at least {times(least)}"])
    return ShapeError(where, what, expected, fix)


def _most(window: Window, shape: Shape) -> Pair:
    """The largest kernel that fits, rows and columns."""
    top, bottom, left, right = window.pads
    room = shape[0] + top + bottom, shape[1] + left + right
    rows, columns = (
        (side - 1) // rate + 1 for side, rate in zip(room, window.dilation, strict=True)
    )
    return rows, columns


def _crops_clash(layer: L.Conv2DTranspose, shape: Shape, where: str) -> ShapeError:
    axes = zip(shape[:2], layer.strides, layer.kernel_size, layer.dilation_rate, strict=True)
    full = [(n - 1) * s + effective(k, d) for n, s, k, d in axes]
    what = f"padding {transposed_crops(layer)} (top, bottom, left, right)"
    what += f" removes all of an output of {times(full)}"
    expected = f"less than {full[0]} rows and {full[1]} columns in all"
    fix = "padding='same', a larger kernel_size, or larger strides"
    return ShapeError(where, what, expected, fix)


def _value(value: Any) -> str:
    """(3, 3) -> '3', (3, 5) -> '3x5'."""
    return square(value) if isinstance(value, tuple) else plain(value)
