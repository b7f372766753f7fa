"""A random layer of each type and the shapes that it reads: over all of its parameters, whether it
fits or not.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from convwise.core import layers as L
from convwise.core import parameters as P
from convwise.core.net import Net
from convwise.core.parameters import Parameter
from convwise.core.windows import Shape

Single = tuple[L.Layer, list[Shape]]


def pair(rng: random.Random, low: int, high: int) -> tuple[int, int]:
    return rng.randint(low, high), rng.randint(low, high)


def flag(rng: random.Random) -> bool:
    return rng.random() < 0.5


def padding(rng: random.Random, most: int = 3) -> str | L.Padding:
    """A word, the same on opposite sides, or anything."""
    rows, columns = pair(rng, 0, most)
    sides = (*pair(rng, 0, most), *pair(rng, 0, most))
    return rng.choice(("same", "valid", (rows, rows, columns, columns), sides))


def divisor(rng: random.Random, number: int) -> int:
    return rng.choice([n for n in range(1, number + 1) if number % n == 0])


def windows(rng: random.Random) -> dict:
    """Mostly strides or dilation, for few frameworks take both."""
    strides, dilation = rng.choice(
        ((pair(rng, 1, 4), 1), (1, pair(rng, 1, 3)), (pair(rng, 1, 3), pair(rng, 1, 2)))
    )
    return {
        "kernel_size": pair(rng, 1, 5),
        "strides": strides,
        "padding": padding(rng),
        "dilation_rate": dilation,
    }


def divisors(rng: random.Random, channels: int) -> dict:
    """Groups of the input's channels, and filters that they divide."""
    groups = divisor(rng, channels)
    return {"groups": groups, "filters": groups * rng.randint(1, 3)}


def _numbers(rng: random.Random, channels: int) -> tuple[float, ...]:
    return tuple(rng.uniform(0.5, 2) for _ in range(rng.choice((1, channels))))


# A legal value of each kind of parameter: a new parameter is drawn as what it is, without a word
# here.
VALUES: dict[type[Parameter], Callable[[random.Random, Shape, Any], Any]] = {
    P.Count: lambda r, s, p: r.randint(1, 4),
    P.Size: lambda r, s, p: pair(r, 1, 4),
    P.PoolStrides: lambda r, s, p: r.choice((None, pair(r, 1, 4))),
    P.Padding: lambda r, s, p: padding(r, 2),
    P.Flag: lambda r, s, p: flag(r),
    P.Named: lambda r, s, p: r.choice(("linear", "relu", "silu", "elu(alpha=0.5)")),
    P.Number: lambda r, s, p: p.low + 10 ** r.uniform(-5, -0.3),
    P.Numbers: lambda r, s, p: _numbers(r, s[2]),
    P.Crops: lambda r, s, p: (*pair(r, 0, 3), *pair(r, 0, 3)),
    P.Extra: lambda r, s, p: r.choice((0, 0, pair(r, 0, 2))),
    P.Word: lambda r, s, p: r.choice(p.words or ("NonMaxSuppression", "Cosh")),
    P.Outputs: lambda r, s, p: pair(r, 1, 9),
    P.Known: lambda r, s, p: r.randint(-1, 9),
}


def _axes(rng: random.Random, shape: Shape) -> dict:
    return {"axis": rng.choice([(-1,), (3,), (1, 2, 3), (1, 2), (2, 3), (1,), (-3, -1)])}


def _reshaped(rng: random.Random, shape: Shape) -> dict:
    height, width, channels = shape
    rest = (-1,) if flag(rng) else (width * channels,)
    return {
        "target_shape": rng.choice(
            [(height, *rest), (width, height, channels), (channels, -1, 1), (-1,)]
        )
    }


def _normalized(rng: random.Random, shape: Shape) -> dict:
    """Fixed numbers; or, adapted, stored ones, then one per channel."""
    if flag(rng):
        return {"adapted": False}
    return {"mean": (0.5,) * shape[2], "variance": (2.0,) * shape[2], "adapted": True}


# What must fit to something else, by the layer.
FITTING: dict[str, Callable[[random.Random, Shape], dict]] = {
    "Conv2D": lambda r, s: {**windows(r), **divisors(r, s[2])},
    "DepthwiseConv2D": lambda r, s: windows(r),
    "SeparableConv2D": lambda r, s: windows(r),
    "Conv2DTranspose": lambda r, s: {**windows(r), **divisors(r, s[2])},
    "AdaptiveAveragePooling2D": lambda r, s: {"output_size": pair(r, 1, 9)},
    "AdaptiveMaxPooling2D": lambda r, s: {"output_size": pair(r, 1, 9)},
    "GroupNormalization": lambda r, s: {"groups": divisor(r, s[2])},
    "LayerNormalization": _axes,
    "PReLU": lambda r, s: {"shared_axes": r.choice([(), (1,), (1, 2), (1, 2, 3), (2, 3)])},
    "Reshape": _reshaped,
    "Normalization": _normalized,
}


def values(kind: str, rng: random.Random, shape: Shape) -> dict[str, Any]:
    """A value of each declared parameter of a layer type."""
    fitting = FITTING[kind](rng, shape) if kind in FITTING else {}
    free = [p for p in L.parameters(L.LAYERS[kind]) if p.name not in fitting]
    return {**{p.name: VALUES[type(p)](rng, shape, p) for p in free}, **fitting}


JOINING = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate")
KINDS = tuple(L.LAYERS)


def _joined(rng: random.Random, shape: Shape, kind: str) -> list[Shape]:
    """Two or three shapes that mostly go together."""
    many = 2 if kind == "Subtract" or flag(rng) else 3
    if kind == "Concatenate":
        return [(*shape[:2], rng.randint(1, 5)) for _ in range(many)]
    return [tuple(1 if rng.random() < 0.2 else n for n in shape) for _ in range(many)]


def single(rng: random.Random, kind: str) -> Single:
    shape = (*pair(rng, 1, 13), rng.randint(1, 6))
    if kind in JOINING:
        return L.LAYERS[kind](), _joined(rng, shape, kind)
    return L.LAYERS[kind](**values(kind, rng, shape)), [shape]


def singles(kind: str, turns: int, seed: int = 0) -> list[Single]:
    """So many cases, the same ones in each run."""
    rng = random.Random(f"{kind} {seed}")
    return [single(rng, kind) for _ in range(turns)]


def net_of(layer: L.Layer, shapes: list[Shape]) -> Net:
    """A net that ends in `layer`, which reads maps of these shapes."""
    height, width = max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)
    if len(shapes) == 1:
        return Net((height, width, shapes[0][2]), (layer,))
    ways = [L.Conv2D(s[2], (height + 1 - s[0], width + 1 - s[1]), name=f"way{i}", inputs=("input",))
            for i, s in enumerate(shapes)]  # fmt: skip
    joined = type(layer)(inputs=tuple(way.name for way in ways))
    return Net((height, width, 1), (*ways, joined))
