"""Random valid Nets, and weights for them: for every test that needs many different networks."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from math import prod

import numpy as np
from hypothesis import strategies as st

from convwise.core import layers as L
from convwise.core.calculus import analyse
from convwise.core.geometry import GEOMETRY, prelu_shape
from convwise.core.layer_windows import transposed_crops
from convwise.core.net import INPUT, Net
from convwise.core.problems import ShapeError
from convwise.core.windows import pads_of
from convwise.formats.weights import Weights, layout

# Words that mean something in the generated sources, beside plain ones.
AWKWARD = (
    "train",
    "class",
    "x",
    "image",
    "torch",
    "layers",
    "Add",
    "forward",
    "stem_pad",
    "a_relu",
)


# Activations that every format has by name.
EVERYWHERE = ("linear", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "hard_silu", "mish",
              "relu6", "softplus",
              "tanh", "sigmoid", "softmax")  # fmt: skip


class Draft:
    """A net under construction: `add` keeps a layer only where it fits."""

    def __init__(self, rng: random.Random, shape: tuple[int, int, int], everywhere: bool) -> None:
        self.rng, self.everywhere = rng, everywhere
        self.net = Net(shape, ())
        self.names = list(AWKWARD)

    @property
    def last(self) -> str:
        return self.net.layers[-1].name if self.net.layers else INPUT

    @property
    def shape(self) -> tuple[int, ...]:
        return (
            analyse(self.net).layers[-1].output_shape if self.net.layers else self.net.input_shape
        )

    def add(self, layer: L.Layer) -> bool:
        """Whether the layer fitted."""
        net = Net(self.net.input_shape, (*self.net.layers, layer))
        try:
            analyse(net)
        except ShapeError:
            return False
        self.net = net
        return True

    def name(self) -> str:
        """Mostly none; sometimes an awkward one."""
        return (
            self.names.pop(self.rng.randrange(len(self.names)))
            if self.names and self.rng.random() < 0.15
            else ""
        )

    def pair(self, *values: int) -> tuple[int, int]:
        one = self.rng.choice(values)
        return (one, one) if self.rng.random() < 0.7 else (one, self.rng.choice(values))

    def activation(self) -> str:
        return self.rng.choice(EVERYWHERE) if self.rng.random() < 0.6 else "linear"

    def padding(self, most: int = 2) -> str | tuple[int, int, int, int]:
        words: list[str | tuple[int, int, int, int]] = [
            "same",
            "valid",
            "same",
            "valid",
            (0, 0, 0, 0),
        ]
        sides = tuple(self.rng.randint(0, most) for _ in range(4))
        return self.rng.choice([*words, (sides[0], sides[1], sides[2], sides[3])])

    def steps(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Strides and dilation; Keras takes one of them only."""
        strides, dilation = self.pair(1, 1, 2, 3), self.pair(1, 1, 2)
        if self.everywhere and max(strides) > 1:
            dilation = (1, 1)
        return strides, dilation


def _conv(draft: Draft) -> None:
    rng, channels = draft.rng, draft.shape[2]
    groups = rng.choice([g for g in (1, 1, 2, 3, channels) if channels % g == 0])
    strides, dilation = draft.steps()
    draft.add(
        L.Conv2D(
            groups * rng.randint(1, 4),
            draft.pair(1, 2, 3, 5),
            strides,
            draft.padding(3),
            dilation,
            groups,
            rng.random() < 0.5,
            draft.activation(),
            name=draft.name(),
        )
    )


def _depthwise(draft: Draft) -> None:
    rng = draft.rng
    strides, dilation = draft.steps()
    strides = (strides[0], strides[0])
    bias = rng.random() < 0.5
    layer = L.DepthwiseConv2D(
        draft.pair(1, 2, 3),
        strides,
        draft.padding(),
        rng.randint(1, 2),
        dilation,
        bias,
        draft.activation(),
    )
    draft.add(layer)


def _pool(draft: Draft) -> None:
    kind = draft.rng.choice((L.MaxPooling2D, L.AveragePooling2D))
    size = draft.pair(2, 2, 3, 4)
    strides = None if draft.rng.random() < 0.5 else draft.pair(1, 2, 3)
    padding = (
        draft.rng.choice(("same", "valid")) if draft.everywhere else draft.padding(min(size) - 1)
    )
    layer = kind(size, strides, padding, name=draft.name())
    top, bottom, left, right = pads_of(layer.padding, draft.shape, layer.pool_size, layer.strides)
    uneven = kind is L.AveragePooling2D and (top, left) != (bottom, right)
    draft.add(layer if not (draft.everywhere and uneven) else replace(layer, padding="valid"))


def _norm(draft: Draft) -> None:
    draft.add(L.BatchNormalization(draft.rng.choice((1e-3, 1e-5)), name=draft.name()))


def _activation(draft: Draft) -> None:
    draft.add(L.Activation(draft.rng.choice(EVERYWHERE), name=draft.name()))


def _dropout(draft: Draft) -> None:
    draft.add(L.Dropout(draft.rng.choice((0.0, 0.3))))


def _zeros(draft: Draft) -> None:
    draft.add(L.ZeroPadding2D(draft.rng.choice((0, 1, (2, 1), (0, 1, 2, 3)))))


def _scale(draft: Draft) -> None:
    channels = draft.shape[-1]
    draft.add(L.Rescaling(draft.rng.choice((1 / 255, 0.5)), draft.rng.choice((0.0, -1.0))))
    many = draft.rng.choice((1, channels))
    mean = tuple(draft.rng.uniform(-1, 1) for _ in range(many))
    draft.add(L.Normalization(mean, tuple(draft.rng.uniform(0.3, 2) for _ in range(many))))


def _residual(draft: Draft) -> None:
    start, channels = draft.last, draft.shape[2]
    draft.add(
        L.Conv2D(
            channels, draft.rng.choice((1, 3)), padding="same", activation="relu", name=draft.name()
        )
    )
    if draft.rng.random() < 0.5:
        draft.add(L.BatchNormalization())
    draft.add(L.Add(inputs=(start, draft.last), name=draft.name()))
    if draft.rng.random() < 0.5:
        draft.add(L.Activation("relu"))


def _branches(draft: Draft) -> None:
    start, ends = draft.last, []
    for kernel in draft.rng.sample((1, 2, 3, 5), draft.rng.randint(2, 3)):
        filters, strides = draft.rng.randint(1, 3), 1
        draft.add(
            L.Conv2D(
                filters, kernel, strides, "same", activation=draft.activation(), inputs=(start,)
            )
        )
        ends.append(draft.last)
    draft.add(L.Concatenate(inputs=tuple(ends), name=draft.name()))


def _pointwise(draft: Draft) -> None:
    draft.add(L.Dense(draft.rng.randint(1, 4), activation=draft.activation()))


BODY: tuple[Callable[[Draft], None], ...] = (
    _conv, _conv, _conv, _depthwise, _pool, _norm, _activation, _dropout, _zeros, _residual,
    _branches, _pointwise,
    _scale,
)  # fmt: skip
HEADS: tuple[L.Layer | None, ...] = (
    L.GlobalAveragePooling2D(), L.GlobalMaxPooling2D(), L.Flatten(), L.Flatten(), None
)  # fmt: skip


def random_net(
    rng: random.Random, *, blocks: int = 5, size: int = 12, everywhere: bool = True
) -> Net:
    """A valid net of up to so many blocks on a map of up to `size`.

    everywhere: only what every format can express (no pooling with explicit padding, no dilation
    together with strides, no average over uneven 'same' padding).
    """
    shape = rng.randint(3, size), rng.randint(3, size), rng.randint(1, 4)
    draft = Draft(rng, shape, everywhere)
    draft.add(L.Rescaling(1 / 255))
    for _ in range(rng.randint(1, blocks)):
        rng.choice(BODY)(draft)
    head = rng.choice(HEADS)
    if head is not None:
        draft.add(head)
        draft.add(L.BatchNormalization()) if rng.random() < 0.2 else None
        draft.add(L.Dense(rng.randint(2, 5), rng.random() < 0.7, activation=draft.activation()))
        draft.add(L.Activation("softmax")) if rng.random() < 0.5 else None
    return draft.net


def nets(*, blocks: int = 5, size: int = 12, everywhere: bool = True) -> st.SearchStrategy[Net]:
    """`random_net` as a hypothesis strategy."""
    # Seeds, not st.randoms: whole nets do not shrink well, and variety finds more.
    seeds = st.integers(0, 2**32 - 1)
    return seeds.map(
        lambda seed: random_net(
            random.Random(seed), blocks=blocks, size=size, everywhere=everywhere
        )
    )


Row = tuple[str, dict, tuple[int, ...], int]


def canonical(net: Net) -> list[Row]:
    """The net as rows (type, parameters, inputs, shares), the same for two nets that PyTorch cannot
    tell apart.

    Names and layers that do nothing while predicting are left out; padding is what windows reach;
    what is written as several modules (an activation behind a convolution) is several rows.
    """
    shapes = {INPUT: net.input_shape, **{row.name: row.output_shape for row in analyse(net).layers}}
    rows: list[Row] = []
    at, first = {INPUT: -1}, {"": -1}
    for layer in net.layers:
        inputs = tuple(at[name] for name in layer.inputs)
        parts = _parts(layer, shapes[layer.inputs[0]], shapes[layer.name])
        first[layer.name] = len(rows)
        for i, (op, parameters) in enumerate(parts):
            shared = layer.shares and op != "Activation"
            rows.append((op, parameters, inputs, first[layer.shares] + i if shared else -1))
            inputs = (len(rows) - 1,)
        at[layer.name] = inputs[0]
    return rows


GONE = (L.GaussianDropout, L.GaussianNoise, L.StochasticDepth)


def _parts(
    layer: L.Layer, given: tuple[int, ...], output: tuple[int, ...]
) -> list[tuple[str, dict]]:
    values = {p.name: _plain(getattr(layer, p.name)) for p in L.parameters(layer)}
    pads = _reached(layer, given, output)
    after = (
        [("Activation", {"activation": layer.activation})]
        if values.get("activation", "linear") != "linear"
        else []
    )
    match layer:
        case L.Activation():
            return after
        case L.Conv2D() | L.DepthwiseConv2D() | L.SeparableConv2D():
            return [*_convolutions(values, layer, given, pads), *after]
        case L.Dense():
            return [
                _pointwise(layer.units, values) if len(given) == 3 else ("Dense", _less(values)),
                *after,
            ]
        case L.Conv2DTranspose():
            parts = {**_less(values, "padding", "output_padding"), "crops": transposed_crops(layer)}
            return [("Conv2DTranspose", parts), *after]
        case L.MaxPooling2D():
            return [(layer.op, {"size": layer.pool_size, "strides": layer.strides, "pads": pads})]
        case L.AveragePooling2D():
            counted = layer.count_include_pad and any(
                pads_of(layer.padding, given, layer.pool_size, layer.strides)
            )
            return [
                (
                    layer.op,
                    {
                        "size": layer.pool_size,
                        "strides": layer.strides,
                        "pads": pads,
                        "all": counted,
                    },
                )
            ]
        case L.GlobalAveragePooling2D() | L.GlobalMaxPooling2D():
            return [(layer.op, {}), *([] if layer.keepdims else [("Reshape", {"shape": output})])]
        case L.AdaptiveAveragePooling2D() | L.AdaptiveMaxPooling2D() if layer.output_size == (1, 1):
            return [(layer.op.replace("Adaptive", "Global"), {})]
        case L.Flatten() | L.Reshape():
            return [("Reshape", {"shape": output})] if given != output else []
        case L.ZeroPadding2D() | L.Cropping2D():
            moved = any(next(iter(values.values())))
            return [(layer.op, values)] if moved else []
        case L.LayerNormalization():
            axes = tuple(sorted(axis % (len(given) + 1) for axis in layer.axis))
            return [("LayerNormalization", {**values, "axis": axes})]
        case L.PReLU():
            return [("PReLU", {"alpha": prelu_shape(layer, given)})]
    return [] if isinstance(layer, GONE) else [(layer.op, values)]


def _convolutions(
    values: dict, layer: L.Layer, given: tuple[int, ...], pads: tuple[int, ...]
) -> list:
    common = {**_less(values, "padding", "depth_multiplier", "filters", "groups"), "pads": pads}
    if isinstance(layer, L.Conv2D):
        return [("Conv2D", {**common, "filters": layer.filters, "groups": layer.groups})]
    deep = {**common, "filters": given[2] * layer.depth_multiplier, "groups": given[2]}
    if isinstance(layer, L.DepthwiseConv2D):
        return [("Conv2D", deep)]
    return [("Conv2D", {**deep, "use_bias": False}), _pointwise(layer.filters, values)]


def _pointwise(filters: int, values: dict) -> tuple[str, dict]:
    ones = dict.fromkeys(("kernel_size", "strides", "dilation_rate"), (1, 1))
    return "Conv2D", {
        **ones,
        "use_bias": values["use_bias"],
        "pads": (0, 0, 0, 0),
        "filters": filters,
        "groups": 1,
    }


def _less(values: dict, *names: str) -> dict:
    return {key: value for key, value in values.items() if key not in ("activation", *names)}


def _plain(value: object) -> object:
    """Numbers to six digits; one number for several that are the same."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, tuple) and value and all(isinstance(n, float) for n in value):
        several = tuple(_plain(n) for n in value)
        return several[:1] if len(set(several)) == 1 else several
    return value


def _reached(layer: L.Layer, given: tuple[int, ...], output: tuple[int, ...]) -> tuple[int, ...]:
    """(top, bottom, left, right) of a window: bottom and right as far as the last window
    reaches.
    """
    window = GEOMETRY[type(layer)].window(layer, given)
    if window is None:
        return ()
    ends = [
        (output[i] - 1) * window.strides[i] + window.reach[i] - given[i] - window.pads[2 * i]
        for i in (0, 1)
    ]
    return window.pads[0], ends[0], window.pads[2], ends[1]


def random_weights(net: Net, seed: int = 0) -> Weights:
    """Weights under which nothing explodes, with batch statistics far from 0 and 1."""
    rng = np.random.default_rng(seed)
    return {key: _weight(key.rpartition("/")[2], shape, rng) for key, shape in layout(net).items()}


def _weight(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if kind == "kernel":
        return rng.normal(0, prod(shape[:-1]) ** -0.5, shape).astype(np.float32)
    if kind in ("gamma", "moving_variance"):
        return rng.uniform(0.5, 2, shape).astype(np.float32)
    return rng.normal(0, 0.5, shape).astype(np.float32)


def random_pixels(net: Net, images: int = 3, seed: int = 0) -> np.ndarray:
    """Noise as raw pixels, (n, height, width, channels) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (images, *net.input_shape), dtype=np.uint8)
