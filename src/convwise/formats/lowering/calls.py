"""Calls: what a layer becomes in a framework, built for use and rendered as source alike."""

from __future__ import annotations

import json
import keyword
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from convwise.core.calculus import analyse
from convwise.core.layers import Layer, parameters
from convwise.core.net import INPUT, Net, fresh
from convwise.core.parameters import REQUIRED, Concern, reading
from convwise.core.problems import Unsupported
from convwise.core.windows import Shape

PADS = ("ZeroPad2d", "ConstantPad2d", "ZeroPadding2D")


@dataclass(frozen=True)
class Call:
    """One call of a class, by name."""

    kind: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def source(self, prefix: str = "", **more: Any) -> str:
        """The call as Python: 'nn.Conv2d(3, 16, 5, stride=2)'."""
        words = [literal(value) for value in self.args]
        words += [f"{name}={literal(value)}" for name, value in {**self.kwargs, **more}.items()]
        return f"{prefix}{self.kind}({', '.join(words)})"


@dataclass(frozen=True)
class Step:
    """One call in a net: its name, the layer it belongs to, and the steps, or 'input', it reads."""

    name: str
    layer: str
    call: Call
    inputs: tuple[str, ...]


Lower = Callable[[Layer, Sequence[Shape]], tuple[Call, ...]]


@contextmanager
def consumed(form: str, layer: Layer, *concerns: Concern) -> Iterator[None]:
    """Unsupported where what is written inside leaves a parameter unread, unless at its default.

    concerns: those of the format: it need not read a parameter that concerns another. So no format
    drops a parameter without a word, one that was added after it included.
    """
    with reading(layer) as read:
        yield
    for parameter in parameters(layer):
        if parameter.concern in concerns and parameter.name not in read:
            value = getattr(layer, parameter.name)
            if value != parameter.default:
                given = f"{parameter.name}={value!r} of {layer.op}"
                what = f"{given} cannot be expressed in this format"
                default = f"{parameter.name}={parameter.default!r}"
                fix = "" if parameter.default is REQUIRED else default
                raise Unsupported(form, layer.name, what, fix)


def short(
    kind: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Call:
    """The call of a class, without the keyword arguments that are at their defaults."""
    told = {name: value for name, value in kwargs.items() if value != defaults[name]}
    return Call(kind, args, told)


def one(value: Any) -> Any:
    """(3, 3) and (3,) as 3, anything else as it is."""
    alike = isinstance(value, tuple) and len(value) in (1, 2) and len(set(value)) == 1
    return value[0] if alike else value


def literal(value: Any) -> str:
    """The value as a person writes it: 1 / 255, float32's digits and no more."""
    if isinstance(value, (tuple, list)):
        inside = ", ".join(literal(each) for each in value)
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(value) == 1)})"
    if isinstance(value, float):
        return _number(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _number(value: float) -> str:
    if value in (float("inf"), float("-inf")):
        return f'float("{value}")'
    if 0 < value < 0.1 and value == 1 / round(1 / value) and len(repr(value)) > 8:
        return f"1 / {round(1 / value)}"
    return repr(float(f"{value:.9g}"))


def shapes_of(net: Net) -> dict[str, Shape]:
    """Output shape of each layer, and of 'input'. ShapeError where a layer does not fit."""
    return {INPUT: net.input_shape, **{row.name: row.output_shape for row in analyse(net).layers}}


def plan(net: Net, lower: Lower, names: Mapping[str, str]) -> tuple[Step, ...]:
    """The net as steps; `names` are the names of the steps that stand for whole layers."""
    shapes, last, taken = shapes_of(net), {INPUT: INPUT}, set(names.values())
    steps: list[Step] = []
    for layer in net.layers:
        inputs = tuple(last[name] for name in layer.inputs)
        calls = lower(layer, [shapes[name] for name in layer.inputs])
        for name, each in zip(_step_names(names[layer.name], calls, taken), calls, strict=True):
            steps.append(Step(name, layer.name, each, inputs))
            inputs = (name,)
        last[layer.name] = inputs[0]
    return tuple(steps)


def _step_names(name: str, calls: Sequence[Call], taken: set[str]) -> list[str]:
    """The first call that is no padding has the layer's name, the others add what they are."""
    main = next((i for i, each in enumerate(calls) if each.kind not in PADS), 0)
    suffixes = ["pad" if i < main else each.kind.lower() for i, each in enumerate(calls)]
    names = []
    for i, suffix in enumerate(suffixes):
        names.append(name if i == main else fresh(f"{name}_{suffix}", taken))
        taken.add(names[-1])
    return names


def identifiers(names: Iterable[str], reserved: Callable[[str], bool]) -> dict[str, str]:
    """Each name as an identifier that is no keyword and not reserved, all different."""
    words: dict[str, str] = {}
    left = list(names)
    for name in left:
        bad = keyword.iskeyword(name) or reserved(name)
        words[name] = fresh(f"{name}_", [*left, *words.values()]) if bad else name
    return words


def variables(net: Net, words: Mapping[str, str]) -> dict[str, str]:
    """The variable of each layer's output: 'x' where the next layer alone reads it, or its word."""
    names = {INPUT: "x" if _private(INPUT, net.layers[0], net) else "image"}
    for layer, after in zip(net.layers, (*net.layers[1:], None), strict=True):
        names[layer.name] = "x" if _private(layer.name, after, net) else words[layer.name]
    return names


def _private(name: str, after: Layer | None, net: Net) -> bool:
    """Whether no layer but `after` reads what the one of this name gives."""
    return all(layer is after for layer in net.layers if name in layer.inputs)
