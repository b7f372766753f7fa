"""A random layer of each type and the shapes that it reads: over all of its parameters, whether it fits or not."""

from __future__ import annotations

import random
from collections.abc import Callable

from convwise.core import layers as L
from convwise.core.net import Net
from convwise.core.windows import Shape

Single = tuple[L.Layer, list[Shape]]
Draw = Callable[[random.Random, Shape], L.Layer]


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
    strides, dilation = rng.choice(((pair(rng, 1, 4), 1), (1, pair(rng, 1, 3)), (pair(rng, 1, 3), pair(rng, 1, 2))))
    return {"kernel_size": pair(rng, 1, 5), "strides": strides, "padding": padding(rng), "dilation_rate": dilation}


def pool(rng: random.Random) -> dict:
    return {"pool_size": pair(rng, 1, 4), "strides": rng.choice((None, pair(rng, 1, 4))), "padding": padding(rng, 2),
            "ceil_mode": flag(rng)}  # fmt: skip


def learnt(rng: random.Random) -> dict:
    return {"center": flag(rng), "scale": flag(rng)}


def reshaped(rng: random.Random, shape: Shape) -> L.Layer:
    height, width, channels = shape
    rest = (-1,) if flag(rng) else (width * channels,)
    return L.Reshape(rng.choice([(height, *rest), (width, height, channels), (channels, -1, 1), (-1,)]))


def grouped(rng: random.Random, channels: int) -> dict:
    groups = divisor(rng, channels)
    return {"groups": groups, "filters": groups * rng.randint(1, 3)}


def _numbers(rng: random.Random, channels: int) -> tuple[float, ...]:
    return tuple(rng.uniform(0.5, 2) for _ in range(rng.choice((1, channels))))


def _normalization(rng: random.Random, channels: int) -> L.Layer:
    """Fixed numbers; or, adapted, stored ones, then one per channel."""
    if flag(rng):
        return L.Normalization(_numbers(rng, channels), _numbers(rng, channels))
    return L.Normalization((0.5,) * channels, (2.0,) * channels, adapted=True)


# Of one input, a map.
ONE: dict[str, Draw] = {
    "Conv2D": lambda r, s: L.Conv2D(**windows(r), **grouped(r, s[2]), use_bias=flag(r), activation="relu"),
    "DepthwiseConv2D": lambda r, s: L.DepthwiseConv2D(**windows(r), depth_multiplier=r.randint(1, 3), use_bias=flag(r)),
    "SeparableConv2D": lambda r, s: L.SeparableConv2D(
        r.randint(1, 4), **windows(r), depth_multiplier=r.randint(1, 3), use_bias=flag(r)
    ),
    "Conv2DTranspose": lambda r, s: L.Conv2DTranspose(
        **windows(r), **grouped(r, s[2]), output_padding=r.choice((0, 0, pair(r, 0, 2))), use_bias=flag(r)
    ),
    "MaxPooling2D": lambda r, s: L.MaxPooling2D(**pool(r)),
    "AveragePooling2D": lambda r, s: L.AveragePooling2D(**pool(r), count_include_pad=flag(r)),
    "GlobalAveragePooling2D": lambda r, s: L.GlobalAveragePooling2D(flag(r)),
    "GlobalMaxPooling2D": lambda r, s: L.GlobalMaxPooling2D(flag(r)),
    "AdaptiveAveragePooling2D": lambda r, s: L.AdaptiveAveragePooling2D(pair(r, 1, 9)),
    "AdaptiveMaxPooling2D": lambda r, s: L.AdaptiveMaxPooling2D(pair(r, 1, 9)),
    "BatchNormalization": lambda r, s: L.BatchNormalization(**learnt(r)),
    "GroupNormalization": lambda r, s: L.GroupNormalization(divisor(r, s[2]), **learnt(r)),
    "LayerNormalization": lambda r, s: L.LayerNormalization(
        r.choice([(-1,), (3,), (1, 2, 3), (2, 3), (1,), (-3, -1)]), **learnt(r)
    ),
    "Activation": lambda r, s: L.Activation(r.choice(("relu", "softmax", "gelu"))),
    "PReLU": lambda r, s: L.PReLU(r.choice([(), (1,), (1, 2), (1, 2, 3), (2, 3)])),
    "GLU": lambda r, s: L.GLU(),
    "LayerScale": lambda r, s: L.LayerScale(),
    "Dropout": lambda r, s: L.Dropout(0.3),
    "SpatialDropout2D": lambda r, s: L.SpatialDropout2D(0.3),
    "AlphaDropout": lambda r, s: L.AlphaDropout(0.3),
    "GaussianDropout": lambda r, s: L.GaussianDropout(0.3),
    "GaussianNoise": lambda r, s: L.GaussianNoise(0.3),
    "StochasticDepth": lambda r, s: L.StochasticDepth(0.3),
    "Flatten": lambda r, s: L.Flatten(),
    "Reshape": reshaped,
    "Dense": lambda r, s: L.Dense(r.randint(1, 5), flag(r)),
    "ZeroPadding2D": lambda r, s: L.ZeroPadding2D((*pair(r, 0, 3), *pair(r, 0, 3))),
    "Cropping2D": lambda r, s: L.Cropping2D((*pair(r, 0, 3), *pair(r, 0, 3))),
    "UpSampling2D": lambda r, s: L.UpSampling2D(pair(r, 1, 4), r.choice(("nearest", "bilinear", "bicubic"))),
    "Rescaling": lambda r, s: L.Rescaling(_numbers(r, s[2]), _numbers(r, s[2])),
    "Normalization": lambda r, s: _normalization(r, s[2]),
    "Opaque": lambda r, s: L.Opaque("NonMaxSuppression", pair(r, 1, 9), r.randint(-1, 9)),
}
JOINING = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate")
KINDS = (*ONE, *JOINING)


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
    return ONE[kind](rng, shape), [shape]


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
