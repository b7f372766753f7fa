"""The space of networks worth testing: named choices, limits, and the pure function that grows a Net.

Every sample grows into a net whose shapes are valid and whose exact costs are inside the limits.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from convwise.core.calculus import Analysis, analyse
from convwise.core.goal import Goal
from convwise.core.layers import (
    Activation,
    Add,
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    GlobalMaxPooling2D,
    Layer,
    MaxPooling2D,
    Normalization,
    Rescaling,
)
from convwise.core.net import INPUT, Net
from convwise.core.parameters import Pair
from convwise.core.problems import Infeasible
from convwise.core.recipe import Recipe
from convwise.core.score import Target
from convwise.core.windows import same_pads

Value = int | float | str
Sample = Mapping[str, Value]

# What each choice means; those with the largest expected effect at a fixed time come first.
MEANING: dict[str, str] = {
    "training.flip": "whether training images are mirrored left-right in turns",
    "stage.filters": "filters of the first stage, and of a stem that is learnt; later stages have more",
    "stem.strides": "stride of the first convolution",
    "input.size": "rows x columns that images are brought to",
    "stage.count": "stages; each of a pooled net, and each but the first of another, halves the map",
    "stage.widening": "filters of later stages: 2 doubles them at every halving, 4 has four times the first's",
    "block": "how a stage's convolutions are joined: pooled (the first one's map is halved before it is normalised), "
    "plain chain, residual, or depthwise separable",
    "stem": "the first convolution: learnt, or filters that whiten patches of the images and stay as they are",
    "stage.convs": "convolutions in each stage",
    "stage.kernel_size": "kernel of the convolutions inside the stages",
    "stem.kernel_size": "kernel of the first convolution",
    "head": "what turns the last map into one row of numbers",
    "downsampling": "what halves the map",
    "activation": "the function after each convolution",
    "normalization": "what stands between a convolution and its activation",
    "padding": "padding of a learnt stem and of plain and pooled convolutions; residual and separable need 'same'",
    "dropout": "share of the last numbers dropped while training",
}
WIDTHS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
MAX_FILTERS = 512
# The running statistics follow within a few steps: a net is used as soon as its rate has fallen to zero.
NORM_MOMENTUM = 0.6
# What a sample that does not name a choice has.
USUAL: Sample = {"stem": "learned", "stage.widening": 2, "training.flip": False}
POOLS: dict[str, type[MaxPooling2D] | type[AveragePooling2D]] = {
    "MaxPooling2D": MaxPooling2D,
    "AveragePooling2D": AveragePooling2D,
}
HEADS: dict[str, type[Layer]] = {
    "GlobalAveragePooling2D": GlobalAveragePooling2D,
    "GlobalMaxPooling2D": GlobalMaxPooling2D,
    "Flatten": Flatten,
}
# What makes a net cheaper when it is over a limit, mildest first; applied one on top of the other.
REDUCTIONS: tuple[Sample, ...] = (
    {},
    {"stage.convs": 1},
    {"stage.kernel_size": 3},
    {"head": "GlobalAveragePooling2D"},
    {"block": "separable", "stem": "learned"},
    {"stem.strides": 2, "stem.kernel_size": 3},
    {"stage.count": 2},
)


@dataclass(frozen=True)
class Choice:
    """One named choice and the values worth testing."""

    name: str
    values: tuple[Value, ...]

    @property
    def meaning(self) -> str:
        return MEANING[self.name]

    @property
    def legal(self) -> tuple[Value, ...]:
        """Every value that a fitted sample can have: those worth testing, and those of smaller nets."""
        reduced = WIDTHS if self.name == "stage.filters" else [r[self.name] for r in REDUCTIONS if self.name in r]
        return tuple(dict.fromkeys([*self.values, *reduced]))


@dataclass(frozen=True)
class LatencyModel:
    """Predicted milliseconds of one image: a sum over layers, macs and activation bytes.

    The coefficients are calibrated on this machine (training/machine.py); margin > 1 keeps predictions safe.
    """

    per_layer: float
    per_mac: float
    per_byte: float
    margin: float = 1.2

    def milliseconds(self, costs: Analysis) -> float:
        total = costs.total
        linear = self.per_layer * len(costs.layers) + self.per_mac * total.macs + self.per_byte * total.activation_bytes
        return self.margin * linear


@dataclass(frozen=True)
class Space:
    """Named choices over images of `channels` and `classes`, or over images with numbers: target.

    mean, variance: per channel, of pixels / 255, for the net's own Normalization layer.
    recipe: how nets are trained, apart from what a sample says of it.
    """

    channels: int
    classes: int
    mean: tuple[float, ...]
    variance: tuple[float, ...]
    choices: tuple[Choice, ...]
    goal: Goal = Goal()
    latency: LatencyModel | None = None
    defaults: Sample = field(default_factory=dict)
    recipe: Recipe = Recipe()
    target: Target | None = None

    def __getitem__(self, name: str) -> Choice:
        return next(choice for choice in self.choices if choice.name == name)

    def cost(self, net: Net) -> dict[str, float]:
        """The metrics of the goal that can be known without running: exact, and latency predicted."""
        costs = analyse(net)
        total = costs.total
        exact: dict[str, float] = {
            "params": total.params,
            "macs": total.macs,
            "activation_bytes": total.activation_bytes,
        }
        return exact | ({"latency_ms": self.latency.milliseconds(costs)} if self.latency else {})

    def sample(self, rng: random.Random) -> Sample:
        """A random sample, already fitted."""
        return self.fit({choice.name: rng.choice(choice.values) for choice in self.choices})

    def neighbours(self, sample: Sample) -> Iterator[tuple[str, Value, Sample]]:
        """Each single change of `sample`, as (choice, value, fitted sample), where it changes the net or its recipe."""
        here = self.key(sample)
        for choice in self.choices:
            for value in choice.values:
                changed = self.fit({**sample, choice.name: value})
                if value != sample[choice.name] and self.key(changed) != here:
                    yield choice.name, value, changed

    def key(self, sample: Sample) -> tuple[str, Recipe]:
        """What tells two samples apart: the net, and how it is trained."""
        return self.grow(sample).id, self.trained(sample)

    def trained(self, sample: Sample) -> Recipe:
        """How the net of a sample is trained: what the sample says, and what follows from its net."""
        sample = {**USUAL, **self.defaults, **sample}
        return replace(
            self.recipe,
            flip=bool(sample["training.flip"]),
            whitened="stem" if sample["stem"] == "whitening" else "",
            identity_start=self.recipe.optimizer == "muon" and sample["block"] in ("pooled", "plain"),
        )

    def grow(self, sample: Sample) -> Net:
        """The net of a sample: the same sample gives the same net, always valid and inside the limits."""
        return self._grow(self.fit(sample))

    def stages(self, sample: Sample) -> int:
        """Stages that the net of a sample really has: a small map ends the halving before stage.count."""
        found = (re.match(r"stage(\d+)", layer.name) for layer in self.grow(sample).layers)
        return max(int(stage[1]) for stage in found if stage)

    def fit(self, sample: Sample) -> Sample:
        """The sample itself where its net keeps every limit, else the nearest smaller one that does.

        Infeasible says by how much the smallest net is over.
        """
        excess: dict[str, float] = {}
        for smaller in self._smaller({**USUAL, **self.defaults, **sample}):
            excess = self.goal.excess(self.cost(self._grow(smaller)))
            if not excess:
                return smaller
        over = ", ".join(f"{metric} {ratio:.1f} times its limit" for metric, ratio in excess.items())
        raise Infeasible(
            "goal", f"the smallest network has {over}", self.goal.text, "raise the limit, or shrink the images"
        )

    def _smaller(self, sample: Sample) -> Iterator[Sample]:
        current = dict(sample)
        for reduction in REDUCTIONS:
            current |= reduction
            for width in reversed(WIDTHS):
                if width <= int(sample["stage.filters"]):
                    yield {**current, "stage.filters": width}
        smallest = min(self["input.size"].values, key=lambda size: parse_size(str(size)))
        for width in reversed(WIDTHS):
            if width <= int(sample["stage.filters"]):
                yield {**current, "input.size": smallest, "stage.filters": width}

    def _grow(self, sample: Sample) -> Net:
        height, width = parse_size(str(sample["input.size"]))
        stack = _Stack(sample, (height, width), self.channels)
        stack.put(Rescaling(1 / 255, name="rescaling"))
        stack.put(Normalization(self.mean, self.variance, name="normalization"))
        stack.stem()
        for stage in range(int(sample["stage.count"])):
            if not stack.stage(stage):
                break
        stack.head()
        for layer in _answer(self.classes, self.target):
            stack.put(layer)
        return Net((height, width, self.channels), tuple(stack.layers))


def parse_size(text: str) -> Pair:
    """'64x48' -> (64, 48): rows, columns."""
    rows, columns = text.split("x")
    return int(rows), int(columns)


class _Stack:
    """Layers put one on the other, with the size of the map that they have reached."""

    def __init__(self, sample: Sample, size: Pair, channels: int) -> None:
        self.sample, self.size, self.channels = sample, size, channels
        self.layers: list[Layer] = []
        self.filters = 0
        self.normalized = sample["normalization"] == "BatchNormalization"

    @property
    def top(self) -> str:
        return self.layers[-1].name if self.layers else INPUT

    def put(self, layer: Layer) -> None:
        self.layers.append(layer)

    def stem(self) -> None:
        kernel, strides = int(self.sample["stem.kernel_size"]), int(self.sample["stem.strides"])
        if self.sample["stem"] == "learned":
            self.conv("stem", int(self.sample["stage.filters"]), kernel, strides, str(self.sample["padding"]))
            return
        # Both signs of each direction, so that nothing is lost by the activation.
        filters = min(2 * self.channels * kernel**2, MAX_FILTERS)
        self.put(Conv2D(filters, kernel, strides, "valid", name="stem"))
        self.moved(kernel, strides, "valid", filters)
        self.put(Activation(str(self.sample["activation"]), name="stem_act"))

    def stage(self, number: int) -> bool:
        """One stage; False where the map is too small to be halved once more."""
        if number > 0 and min(self.size) < 4:
            return False
        pooled = self.sample["block"] == "pooled"
        strides = 1
        if pooled and min(self.size) >= 4:
            strides = 2  # inside the block
        elif not pooled and number > 0:
            strides = self.downsample(f"stage{number + 1}")
        base = int(self.sample["stage.filters"])
        wider = 2**number if self.sample["stage.widening"] == 2 else min(4**number, 4)
        filters = max(min(base * wider, MAX_FILTERS), base)
        BLOCKS[str(self.sample["block"])](self, f"stage{number + 1}", filters, strides)
        return True

    def downsample(self, name: str) -> int:
        """Halve the map with a pool, or return the stride that a convolution must take."""
        how = str(self.sample["downsampling"])
        if how not in POOLS:
            return 2
        self.put(POOLS[how](2, name=f"{name}_pool"))
        self.size = self.size[0] // 2, self.size[1] // 2
        return 1

    def conv(self, name: str, filters: int, kernel: int, strides: int = 1, padding: str = "same",
             active: bool = True, pool: str = "") -> None:  # fmt: skip
        """Convolution, normalisation, activation; 'valid' becomes 'same' where the map would fall under 4 px.

        pool: the name of a stage whose pool comes before the normalisation, or ''.
        """
        if min(self.size) - kernel + 1 < (8 if pool else 4 * strides):
            padding = "same"
        inline = active and not self.normalized
        self.put(
            Conv2D(filters, kernel, strides, padding, use_bias=not self.normalized, name=name,
                   activation=str(self.sample["activation"]) if inline else "linear")
        )  # fmt: skip
        self.moved(kernel, strides, padding, filters)
        if pool:
            self.downsample(pool)
        self.normalize(name, active)

    def depthwise(self, name: str, kernel: int, strides: int) -> None:
        inline = "linear" if self.normalized else str(self.sample["activation"])
        self.put(DepthwiseConv2D(kernel, strides, "same", use_bias=not self.normalized, name=name, activation=inline))
        self.moved(kernel, strides, "same", self.filters)
        self.normalize(name, True)

    def normalize(self, name: str, active: bool) -> None:
        if self.normalized:
            self.put(BatchNormalization(momentum=NORM_MOMENTUM, name=f"{name}_norm"))
            if active:
                self.put(Activation(str(self.sample["activation"]), name=f"{name}_act"))

    def moved(self, kernel: int, strides: int, padding: str, filters: int) -> None:
        rows, columns = (
            (n + sum(same_pads(n, kernel, strides) if padding == "same" else (0, 0)) - kernel) // strides + 1
            for n in self.size
        )
        self.size, self.filters = (rows, columns), filters

    def head(self) -> None:
        self.put(HEADS[str(self.sample["head"])](name="head"))
        if (rate := float(self.sample["dropout"])) > 0:
            self.put(Dropout(rate, name="dropout"))


def _answer(classes: int, target: Target | None) -> tuple[Layer, ...]:
    """The last layers: a probability for each class, or one number, brought to the unit of its target."""
    if target is None:
        return (Dense(classes, activation="softmax", name="classes"),)
    return Dense(1, name="number"), Rescaling(target.deviation, target.mean, name="target")


def _pooled(stack: _Stack, name: str, filters: int, strides: int) -> None:
    """Convolution, pool, normalisation, activation; then the same without a pool: the rest works on a quarter."""
    kernel, padding = int(stack.sample["stage.kernel_size"]), str(stack.sample["padding"])
    for i in range(int(stack.sample["stage.convs"])):
        conv = f"{name}_conv{i + 1}"
        halved = strides == 2 and i == 0
        by_stride = halved and stack.sample["downsampling"] not in POOLS
        stack.conv(conv, filters, kernel, 2 if by_stride else 1, padding, pool=name if halved and not by_stride else "")


def _plain(stack: _Stack, name: str, filters: int, strides: int) -> None:
    for i in range(int(stack.sample["stage.convs"])):
        kernel, padding = int(stack.sample["stage.kernel_size"]), str(stack.sample["padding"])
        stack.conv(f"{name}_conv{i + 1}", filters, kernel, strides if i == 0 else 1, padding)


def _residual(stack: _Stack, name: str, filters: int, strides: int) -> None:
    """Blocks of two convolutions (the last of one, where their number is odd), each added to its input."""
    convs = int(stack.sample["stage.convs"])
    for first in range(0, convs, 2):
        _residual_block(stack, name, filters, strides if first == 0 else 1, range(first, min(first + 2, convs)))


def _residual_block(stack: _Stack, name: str, filters: int, strides: int, convs: range) -> None:
    source, size, channels = stack.top, stack.size, stack.filters
    kernel = int(stack.sample["stage.kernel_size"])
    for i in convs:
        step = strides if i == convs[0] else 1
        stack.conv(f"{name}_conv{i + 1}", filters, kernel, step, active=i != convs[-1])
    body = stack.top
    if channels != filters or strides != 1:
        reached, stack.size = stack.size, size
        shortcut = Conv2D(filters, 1, strides, "same", use_bias=not stack.normalized,
                          name=f"{name}_shortcut{convs[0] + 1}", inputs=(source,))  # fmt: skip
        stack.put(shortcut)
        stack.normalize(shortcut.name, False)
        source, stack.size = stack.top, reached
    stack.put(Add(name=f"{name}_add{convs[0] + 1}", inputs=(body, source)))
    stack.put(Activation(str(stack.sample["activation"]), name=f"{name}_out{convs[0] + 1}"))


def _separable(stack: _Stack, name: str, filters: int, strides: int) -> None:
    for i in range(int(stack.sample["stage.convs"])):
        stack.depthwise(f"{name}_depthwise{i + 1}", int(stack.sample["stage.kernel_size"]), strides if i == 0 else 1)
        stack.conv(f"{name}_conv{i + 1}", filters, 1)


BLOCKS = {"pooled": _pooled, "plain": _plain, "residual": _residual, "separable": _separable}
