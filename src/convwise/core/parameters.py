"""Parameters of layers, declared once: default, legal values, meaning, and whom each concerns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import index
from typing import Any, Generic, Literal, TypeVar, cast

from convwise.core.activations import ACTIVATIONS, activation
from convwise.core.problems import UnusableInput
from convwise.core.text import brief

# What people ask about a convolution
FIVE = ("kernel_size", "filters", "strides", "padding", "activation")
Pair = tuple[int, int]
Pads = tuple[int, int, int, int]
Got = TypeVar("Got")
Given = TypeVar("Given")

REQUIRED: Any = object()
# Whom a parameter concerns. Every writer uses or refuses one of shape or values, and the calculus
# one of shape as well; of training: writers of what can be trained; stored: how one format keeps
# it, which leaves the answers alone.
Concern = Literal["shape", "values", "training", "stored"]
# Beyond them nothing is built, and the calculus, which looks at every tap, would not answer soon.
MOST_COUNT, MOST_SIZE = 2**31 - 1, 65_536


class Parameter(Generic[Got, Given]):
    """A layer's parameter: normalises what is given and refuses what is not legal.

    It is a descriptor, so that a layer may be written with `kernel_size=3` and read as (3, 3), and
    so that it is known whether it was read: see `reading`.
    """

    def __init__(
        self,
        normalise: Callable[[Any], Got | None],
        legal: str,
        default: Any = REQUIRED,
        meaning: str = "",
        concern: Concern = "shape",
    ) -> None:
        self.normalise, self.legal, self.default = normalise, legal, default
        self.meaning, self.concern, self.name = meaning, concern, ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object | None, owner: type | None = None) -> Got:
        if instance is not None:
            for layer, names in _readers:
                if layer is instance:
                    names.add(self.name)
            return cast(Got, instance.__dict__[self.name])
        if self.default is REQUIRED:
            raise AttributeError(self.name)
        return cast(Got, self.default)

    def __set__(self, instance: object, value: Given) -> None:
        normal = self.normalise(value)
        if normal is None:
            where = f"{type(instance).__name__}.{self.name}"
            raise UnusableInput(
                where, f"is {brief(value)}", ": ".join(filter(None, (self.legal, self.meaning)))
            )
        instance.__dict__[self.name] = normal


# What is read now, and of which of its parameters that is known
_readers: list[tuple[object, set[str]]] = []


@contextmanager
def reading(layer: object) -> Iterator[set[str]]:
    """The names of the parameters of `layer` that are read while it is open."""
    entry: tuple[object, set[str]] = (layer, set())
    _readers.append(entry)
    try:
        yield entry[1]
    finally:
        _readers[:] = [each for each in _readers if each is not entry]


def whole(v: Any) -> int | None:
    """A whole number of any library as Python's own; None for all else, True and False among it."""
    if type(v) is int:
        return v
    try:
        return None if isinstance(v, bool) else index(v)
    except TypeError:
        return None


def at_least(flag: str, number: Any, least: int) -> None:
    """UnusableInput where what is given for a flag is not a whole number of at least `least`."""
    if number is not None and ((given := whole(number)) is None or given < least):
        raise UnusableInput(flag, f"is {brief(number)}", f"a whole number of at least {least}")


def _integer(low: int, high: int = MOST_COUNT) -> Callable[[Any], int | None]:
    def normalise(v: Any) -> int | None:
        number = whole(v)
        return number if number is not None and low <= number <= high else None

    return normalise


def _many(v: Any, times: int) -> tuple[Any, ...]:
    """Several values; one stands for all."""
    return (
        (v,) * times if whole(v) is not None else tuple(v) if isinstance(v, (tuple, list)) else ()
    )


def _pair(low: int) -> Callable[[Any], Pair | None]:
    one = _integer(low, MOST_SIZE)

    def normalise(v: Any) -> Pair | None:
        two = tuple(map(one, _many(v, 2)))
        return cast(Pair, two) if len(two) == 2 and None not in two else None

    return normalise


def _sides(v: Any) -> Pads | None:
    many = tuple(map(_integer(0), _many(v, 4)))
    four = (many[0], many[0], many[1], many[1]) if len(many) == 2 else many
    return cast(Pads, four) if len(four) == 4 and None not in four else None


def _whole(v: Any) -> tuple[int, ...] | None:
    many = (
        tuple(map(whole, _many(v, 1)))
        if isinstance(v, (tuple, list)) or whole(v) is not None
        else (None,)
    )
    return cast(tuple[int, ...], many) if None not in many else None


def _sizes(v: Any) -> tuple[int, ...] | None:
    many = _whole(v)
    return many if many and min(many) >= 1 else None


def _padding(v: Any) -> str | Pads | None:
    if isinstance(v, str):
        return v if v in ("same", "valid") else None
    four = tuple(map(_integer(0), v)) if isinstance(v, (tuple, list)) and len(v) == 4 else (None,)
    return cast(Pads, four) if None not in four else None


def _activation(v: Any) -> str | None:
    if not isinstance(v, str | None):
        return None
    try:
        return str(activation("linear" if v is None else v))
    except (KeyError, ValueError):
        return None


def _float(v: Any) -> float | None:
    """A number as Python's own.

    None for all else, True and False and whole numbers beyond the largest among it.
    """
    try:
        return float(v) if isinstance(v, (int, float)) and not isinstance(v, bool) else None
    except OverflowError:
        return None


def _number(low: float, high: float) -> Callable[[Any], float | None]:
    def normalise(v: Any) -> float | None:
        number = _float(v)
        return number if number is not None and low <= number < high else None

    return normalise


def _numbers(v: Any) -> tuple[float, ...] | None:
    many = tuple(map(_float, v if isinstance(v, (tuple, list)) else (v,)))
    return cast(tuple[float, ...], many) if many and None not in many else None


class Count(Parameter[int, int]):
    """A whole number of at least 1."""

    def __init__(
        self, default: Any = REQUIRED, meaning: str = "", concern: Concern = "shape"
    ) -> None:
        legal = f"a whole number of at least 1, at most {MOST_COUNT:,}"
        super().__init__(_integer(1), legal, default, meaning, concern)


class Size(Parameter[Pair, int | Pair]):
    """[rows, columns], each at least 1 and at most MOST_SIZE; one number stands for both."""

    def __init__(
        self, default: Any = REQUIRED, meaning: str = "", concern: Concern = "shape"
    ) -> None:
        legal = f"a whole number of at least 1, at most {MOST_SIZE:,}, or two: (rows, columns)"
        super().__init__(_pair(1), legal, default, meaning, concern)


class PoolStrides(Parameter[Pair, int | Pair | None]):
    """As Size; None stands for the pool's size, as in Keras."""

    def __init__(self) -> None:
        legal = (
            f"a whole number of at least 1, at most {MOST_SIZE:,}, two of them, or None for the"
            " pool's size"
        )
        super().__init__(
            lambda v: (0, 0) if v in (None, (0, 0)) else _pair(1)(v),
            legal,
            (0, 0),
            "step between windows",
        )


class Padding(Parameter[str | Pads, str | Pads]):
    """'same', 'valid', or explicit (top, bottom, left, right)."""

    def __init__(self, default: Any = "valid", meaning: str = "what surrounds the map") -> None:
        legal = "'same', 'valid' or (top, bottom, left, right)"
        super().__init__(_padding, legal, default, meaning)


class Flag(Parameter[bool, bool]):
    """True or False."""

    def __init__(self, default: bool, meaning: str = "", concern: Concern = "shape") -> None:
        super().__init__(
            lambda v: v if isinstance(v, bool) else None, "True or False", default, meaning, concern
        )


class Named(Parameter[str, str | None]):
    """An activation as core/activations.py spells it; None is 'linear'."""

    def __init__(
        self, default: Any = "linear", meaning: str = "the function after the layer"
    ) -> None:
        super().__init__(_activation, "one of " + ", ".join(ACTIVATIONS), default, meaning)


class Number(Parameter[float, float]):
    """A number in [low, high)."""

    def __init__(self, low: float, high: float, default: Any = REQUIRED, meaning: str = "",
                 concern: Concern = "shape") -> None:  # fmt: skip
        self.low, self.high = low, high
        super().__init__(
            _number(low, high),
            f"a number from {low:g} to below {high:g}",
            default,
            meaning,
            concern,
        )


class Numbers(Parameter[tuple[float, ...], float | tuple[float, ...]]):
    """One number, or one per channel."""

    def __init__(self, default: Any = REQUIRED, meaning: str = "") -> None:
        super().__init__(_numbers, "a number, or one per channel", default, meaning, "values")


class Crops(Parameter[Pads, int | Pair | Pads]):
    """(top, bottom, left, right), each at least 0; one number is all, two are rows and columns."""

    def __init__(self, default: Any = REQUIRED, meaning: str = "") -> None:
        super().__init__(
            _sides, "a whole number, two, or four: (top, bottom, left, right)", default, meaning
        )


class Extra(Parameter[Pair, int | Pair]):
    """[rows, columns], each at least 0."""

    def __init__(self, default: Any = (0, 0), meaning: str = "") -> None:
        legal = f"a whole number of at least 0, at most {MOST_SIZE:,}, or two: (rows, columns)"
        super().__init__(_pair(0), legal, default, meaning)


class Dimensions(Parameter[tuple[int, ...], int | tuple[int, ...]]):
    """Whole numbers: a shape, or the axes of one, without the batch."""

    def __init__(self, default: Any = REQUIRED, meaning: str = "") -> None:
        super().__init__(_whole, "whole numbers", default, meaning)


class Outputs(Parameter[tuple[int, ...], int | tuple[int, ...]]):
    """A shape without the batch: one whole number or more, each at least 1."""

    def __init__(self, meaning: str = "") -> None:
        super().__init__(_sizes, "one whole number or more, each at least 1", REQUIRED, meaning)


class Word(Parameter[str, str]):
    """One of a few words; any, where none are given."""

    def __init__(self, legal: tuple[str, ...] = (), default: Any = REQUIRED, meaning: str = "",
                 concern: Concern = "shape") -> None:  # fmt: skip
        said = "one of " + ", ".join(legal) if legal else "a word"
        self.words = legal
        super().__init__(lambda v: v if isinstance(v, str) and (v in legal or not legal) else None,
                         said, default, meaning, concern)  # fmt: skip


class Known(Parameter[int, int | None]):
    """A whole number of at least 0, or -1 where it is not known."""

    def __init__(self, default: Any = -1, meaning: str = "") -> None:
        super().__init__(
            lambda v: -1 if v is None else _integer(-1, 2**256)(v),
            "a whole number, or -1",
            default,
            meaning,
        )
