"""The layers, in Keras's terms. Each parameter declares itself once: default, legal values,
values worth searching, meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar, cast

from convwise.core.activations import ACTIVATIONS
from convwise.core.problems import UnusableInput

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]
Got = TypeVar("Got")
Given = TypeVar("Given")

REQUIRED: Any = object()


class Parameter(Generic[Got, Given]):
    """A layer's parameter: normalises what is given and refuses what is not legal.

    It is a descriptor, so that a layer may be written with `kernel_size=3` and read as (3, 3).
    """

    def __init__(
        self,
        normalise: Callable[[Any], Got | None],
        legal: str,
        default: Any = REQUIRED,
        search: tuple[Any, ...] = (),
        meaning: str = "",
    ) -> None:
        self.normalise, self.legal, self.default = normalise, legal, default
        self.search, self.meaning, self.name = search, meaning, ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object | None, owner: type | None = None) -> Got:
        if instance is not None:
            return cast(Got, instance.__dict__[self.name])
        if self.default is REQUIRED:
            raise AttributeError(self.name)
        return cast(Got, self.default)

    def __set__(self, instance: object, value: Given) -> None:
        normal = self.normalise(value)
        if normal is None:
            where = f"{type(instance).__name__}.{self.name}"
            raise UnusableInput(where, f"is {value!r}", self.legal, self.meaning)
        instance.__dict__[self.name] = normal


def _integer(low: int) -> Callable[[Any], int | None]:
    return lambda v: v if isinstance(v, int) and not isinstance(v, bool) and v >= low else None


def _pair(low: int) -> Callable[[Any], Pair | None]:
    def normalise(v: Any) -> Pair | None:
        two = (v, v) if isinstance(v, int) else tuple(v) if isinstance(v, (tuple, list)) else ()
        whole = len(two) == 2 and all(_integer(low)(n) is not None for n in two)
        return cast(Pair, two) if whole else None

    return normalise


def _padding(v: Any) -> str | Pads | None:
    if v in ("same", "valid"):
        return cast(str, v)
    four = isinstance(v, (tuple, list)) and len(v) == 4 and all(_integer(0)(n) is not None for n in v)
    return cast(Pads, tuple(v)) if four else None


def _activation(v: Any) -> str | None:
    name = "linear" if v is None else v
    return name if name in ACTIVATIONS else None


def _number(low: float, high: float) -> Callable[[Any], float | None]:
    return lambda v: float(v) if isinstance(v, (int, float)) and low <= v < high else None


def _numbers(v: Any) -> tuple[float, ...] | None:
    many = v if isinstance(v, (tuple, list)) else (v,)
    return tuple(float(n) for n in many) if many and all(isinstance(n, (int, float)) for n in many) else None


def _flag(v: Any) -> bool | None:
    return v if isinstance(v, bool) else None


class Count(Parameter[int, int]):
    """A whole number of at least 1."""

    def __init__(self, default: Any = REQUIRED, search: tuple[int, ...] = (), meaning: str = "") -> None:
        super().__init__(_integer(1), "a whole number of at least 1", default, search, meaning)


class Size(Parameter[Pair, int | Pair]):
    """[rows, columns], each at least 1; one number stands for both."""

    def __init__(self, default: Any = REQUIRED, search: tuple[int, ...] = (), meaning: str = "") -> None:
        super().__init__(_pair(1), "a whole number of at least 1, or two: (rows, columns)", default, search, meaning)


class PoolStrides(Parameter[Pair, int | Pair | None]):
    """As Size; None stands for the pool's size, as in Keras."""

    def __init__(self) -> None:
        legal = "a whole number of at least 1, two of them, or None for the pool's size"
        super().__init__(
            lambda v: (0, 0) if v in (None, (0, 0)) else _pair(1)(v), legal, (0, 0), (2,), "step between windows"
        )


class Padding(Parameter[str | Pads, str | Pads]):
    """'same', 'valid', or explicit (top, bottom, left, right)."""

    def __init__(self, default: Any = "valid", meaning: str = "what surrounds the map") -> None:
        legal = "'same', 'valid' or (top, bottom, left, right)"
        super().__init__(_padding, legal, default, ("same", "valid"), meaning)


class Flag(Parameter[bool, bool]):
    """True or False."""

    def __init__(self, default: bool, meaning: str = "") -> None:
        super().__init__(_flag, "True or False", default, (True, False), meaning)


class Named(Parameter[str, str | None]):
    """The name of an activation; None is 'linear'."""

    def __init__(self, default: Any = "linear", meaning: str = "the function after the layer") -> None:
        search = ("relu", "leaky_relu", "elu", "silu", "gelu")
        super().__init__(_activation, "one of " + ", ".join(ACTIVATIONS), default, search, meaning)


class Number(Parameter[float, float]):
    """A number in [low, high)."""

    def __init__(
        self, low: float, high: float, default: Any = REQUIRED, search: tuple[float, ...] = (), meaning: str = ""
    ) -> None:
        super().__init__(_number(low, high), f"a number from {low:g} to below {high:g}", default, search, meaning)


class Numbers(Parameter[tuple[float, ...], float | tuple[float, ...]]):
    """One number, or one per channel."""

    def __init__(self, default: Any = REQUIRED, meaning: str = "") -> None:
        super().__init__(_numbers, "a number, or one per channel", default, (), meaning)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Base of every layer. A name is unique in its net; no inputs means: the layer before."""

    name: str = ""
    inputs: tuple[str, ...] = ()

    @property
    def op(self) -> str:
        """The layer's type, as Keras calls it."""
        return type(self).__name__


@dataclass(frozen=True)
class Conv2D(Layer):
    """2D convolution. Kernel (rows, columns, input channels / groups, filters)."""

    filters: Count = Count(search=(8, 16, 24, 32, 48, 64, 96, 128), meaning="output channels")
    kernel_size: Size = Size(search=(1, 3, 5, 7), meaning="rows and columns that one output reads")
    strides: Size = Size((1, 1), (1, 2), "step between outputs")
    padding: Padding = Padding()
    dilation_rate: Size = Size((1, 1), (1, 2), "step between the inputs of one output")
    groups: Count = Count(1, (1, 2, 4), "channels are split into so many independent groups")
    use_bias: Flag = Flag(True, "add a learnt number per filter")
    activation: Named = Named()


@dataclass(frozen=True)
class DepthwiseConv2D(Layer):
    """One convolution per input channel. Kernel (rows, columns, channels, depth_multiplier)."""

    kernel_size: Size = Size(search=(3, 5, 7), meaning="rows and columns that one output reads")
    strides: Size = Size((1, 1), (1, 2), "step between outputs")
    padding: Padding = Padding()
    depth_multiplier: Count = Count(1, (1, 2), "outputs per input channel")
    dilation_rate: Size = Size((1, 1), (1, 2), "step between the inputs of one output")
    use_bias: Flag = Flag(True, "add a learnt number per output channel")
    activation: Named = Named()


def _resolve_strides(pool: MaxPooling2D | AveragePooling2D) -> None:
    if pool.strides == (0, 0):
        object.__setattr__(pool, "strides", pool.pool_size)


@dataclass(frozen=True)
class MaxPooling2D(Layer):
    """The largest value of each window; padding is never chosen."""

    pool_size: Size = Size((2, 2), (2, 3), "rows and columns of the window")
    strides: PoolStrides = PoolStrides()
    padding: Padding = Padding()

    def __post_init__(self) -> None:
        _resolve_strides(self)


@dataclass(frozen=True)
class AveragePooling2D(Layer):
    """The mean of each window; padding is not counted."""

    pool_size: Size = Size((2, 2), (2, 3), "rows and columns of the window")
    strides: PoolStrides = PoolStrides()
    padding: Padding = Padding()

    def __post_init__(self) -> None:
        _resolve_strides(self)


@dataclass(frozen=True)
class GlobalAveragePooling2D(Layer):
    """The mean of each channel over the whole map."""


@dataclass(frozen=True)
class GlobalMaxPooling2D(Layer):
    """The largest value of each channel over the whole map."""


@dataclass(frozen=True)
class BatchNormalization(Layer):
    """Per channel: subtract the mean, divide by the deviation, scale, shift."""

    epsilon: Number = Number(0, 1, 1e-3, meaning="added to the variance")
    momentum: Number = Number(0, 1, 0.9, meaning="share of the running statistics kept each step")


@dataclass(frozen=True)
class Activation(Layer):
    """An activation as a layer of its own."""

    activation: Named = Named(REQUIRED)


@dataclass(frozen=True)
class Dropout(Layer):
    """While training, sets a share `rate` of the values to 0 and scales the rest."""

    rate: Number = Number(0, 1, search=(0.0, 0.2, 0.5), meaning="share of the values dropped")


@dataclass(frozen=True)
class Flatten(Layer):
    """The map as one row of numbers, in the order height, width, channels."""


@dataclass(frozen=True)
class Dense(Layer):
    """Every output reads every input. Kernel (inputs, units)."""

    units: Count = Count(search=(64, 128, 256), meaning="number of outputs")
    use_bias: Flag = Flag(True, "add a learnt number per unit")
    activation: Named = Named()


@dataclass(frozen=True)
class Add(Layer):
    """The sum of its inputs, which have one shape."""


@dataclass(frozen=True)
class Concatenate(Layer):
    """Its inputs side by side, along the channels."""


@dataclass(frozen=True)
class ZeroPadding2D(Layer):
    """Zeros around the map: (top, bottom, left, right)."""

    padding: Padding = Padding((1, 1, 1, 1))


@dataclass(frozen=True)
class Rescaling(Layer):
    """x * scale + offset."""

    scale: Number = Number(-1e9, 1e9, meaning="factor")
    offset: Number = Number(-1e9, 1e9, 0.0, meaning="summand")


@dataclass(frozen=True)
class Normalization(Layer):
    """(x - mean) / sqrt(variance), with fixed numbers per channel."""

    mean: Numbers = Numbers(meaning="per channel, of the layer's input")
    variance: Numbers = Numbers(meaning="per channel, of the layer's input")


LAYERS: dict[str, type[Layer]] = {
    "Conv2D": Conv2D,
    "DepthwiseConv2D": DepthwiseConv2D,
    "MaxPooling2D": MaxPooling2D,
    "AveragePooling2D": AveragePooling2D,
    "GlobalAveragePooling2D": GlobalAveragePooling2D,
    "GlobalMaxPooling2D": GlobalMaxPooling2D,
    "BatchNormalization": BatchNormalization,
    "Activation": Activation,
    "Dropout": Dropout,
    "Flatten": Flatten,
    "Dense": Dense,
    "Add": Add,
    "Concatenate": Concatenate,
    "ZeroPadding2D": ZeroPadding2D,
    "Rescaling": Rescaling,
    "Normalization": Normalization,
}


def parameters(layer: Layer | type[Layer]) -> Iterator[Parameter[Any, Any]]:
    """The declared parameters of a layer or layer type, in order."""
    kind = layer if isinstance(layer, type) else type(layer)
    for column in fields(kind):
        if isinstance(declared := kind.__dict__.get(column.name), Parameter):
            yield declared


def layer_to_json(layer: Layer) -> dict[str, Any]:
    """The layer as plain JSON: its type and every parameter that is not at its default."""
    values = {p.name: getattr(layer, p.name) for p in parameters(layer)}
    given = {name: value for name, value in values.items() if value != type(layer).__dict__[name].default}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    return {"type": layer.op, **plain}


def layer_from_json(data: Mapping[str, Any]) -> Layer:
    """The inverse of `layer_to_json`; `name` and `inputs` may be present. UnusableInput names what is unknown."""
    kind = LAYERS.get(str(data.get("type")))
    if kind is None:
        raise UnusableInput("layer", f"has type {data.get('type')!r}", "one of " + ", ".join(LAYERS))
    arguments: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in data.items() if key != "type"
    }
    known = {"name", "inputs", *(p.name for p in parameters(kind))}
    if unknown := set(arguments) - known:
        raise UnusableInput(kind.__name__, f"has no parameter {sorted(unknown)}", "one of " + ", ".join(sorted(known)))
    if missing := [p.name for p in parameters(kind) if p.default is REQUIRED and p.name not in arguments]:
        raise UnusableInput(kind.__name__, f"lacks {', '.join(missing)}", "every parameter without a default")
    return kind(**arguments)
