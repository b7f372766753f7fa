"""The pure function that grows a Net from a configuration, with a reason for every parameter of
every layer.

A reason is attached where its layer is made: a text names the hyperparameter whose reason it is
('stage.filters'), and what no hyperparameter decides has one of reasons.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convwise.core import layers as L
from convwise.core import reasons as because
from convwise.core.net import INPUT, Net
from convwise.core.reasons import Reason
from convwise.core.score import Target
from convwise.core.windows import same_pads

if TYPE_CHECKING:
    from convwise.core.configuration import Configuration

MAX_FILTERS = 512
# The running statistics follow within a few steps: a net is used as soon as its rate has fallen to
# zero.
NORM_MOMENTUM = 0.6
POOLS: dict[str, type[L.MaxPooling2D] | type[L.AveragePooling2D]] = {
    "MaxPooling2D": L.MaxPooling2D,
    "AveragePooling2D": L.AveragePooling2D,
}
HEADS: dict[str, type[L.Layer]] = {
    "GlobalAveragePooling2D": L.GlobalAveragePooling2D,
    "GlobalMaxPooling2D": L.GlobalMaxPooling2D,
    "Flatten": L.Flatten,
}

# The name of a hyperparameter, for its reason; or a reason that is the same for all images
Why = str | Reason
WHOLE: dict[str, Why] = dict.fromkeys(
    ("padding", "ceil_mode", "count_include_pad"), because.WHOLE_WINDOWS
)


@dataclass(frozen=True)
class Grown:
    """A net, and why it is so.

    stages: that it really has, for a small map ends the halving before stage.count; why: layer ->
    parameter -> what decided it, in the layers' order; the parameter '' is the layer itself.
    """

    net: Net
    stages: int
    why: Mapping[str, Mapping[str, Why]]


def grow(given: Configuration) -> Grown:
    """The net of these values, always valid."""
    space, growing, times = given.space, _Growing(given), given.space.supersampled
    if times > 1:
        growing.put(L.AveragePooling2D(times, name="shrink"), because.SUPERSAMPLED, **WHOLE)
    growing.put(L.Rescaling(1 / 255, name="rescaling"), because.RAW_PIXELS)
    growing.put(
        L.Normalization(space.mean, space.variance, name="normalization"),
        because.MEAN,
        variance=because.VARIANCE,
        adapted=because.CONSTANTS,
    )
    growing.stem()
    stages = 0
    while stages < given.stage_count and growing.stage(stages):
        stages += 1
    growing.head()
    growing.answer(space.classes, space.target)
    rows, columns = given.input_size
    return Grown(
        Net((times * rows, times * columns, space.channels), tuple(growing.layers)),
        stages,
        growing.why,
    )


class _Growing:
    """Layers put one on the other, with the size of the map that they have reached."""

    def __init__(self, given: Configuration) -> None:
        self.given, self.size, self.channels = given, given.input_size, given.space.channels
        self.layers: list[L.Layer] = []
        self.why: dict[str, dict[str, Why]] = {}
        self.filters = 0
        # Of the convolutions that are being made; '' is a convolution itself.
        self.decides: dict[str, Why] = {"": "stem", "filters": "stage.filters"}
        self.decides |= {name: f"stem.{name}" for name in ("kernel_size", "strides")}
        self.normalized = given.normalization == "BatchNormalization"

    @property
    def top(self) -> str:
        return self.layers[-1].name if self.layers else INPUT

    def put(self, layer: L.Layer, itself: Why, **why: Why) -> None:
        """One layer more.

        itself: why it is there, and why each parameter is so that `why` does not name.
        """
        self.layers.append(layer)
        self.why[layer.name] = {
            "": itself,
            **{p.name: why.get(p.name, itself) for p in L.parameters(layer)},
        }

    def put_conv(self, layer: L.Conv2D | L.DepthwiseConv2D, **why: Why) -> None:
        """One convolution more. why: of what it does not share with the others of its kind."""
        decided: dict[str, Why] = {
            **{
                p.name: because.DEFAULT
                for p in L.parameters(layer)
                if getattr(layer, p.name) == p.default
            },
            "strides": because.INSIDE if layer.strides == (1, 1) else "downsampling",
            "padding": because.BLOCK_SIZE,
            "dilation_rate": because.DILATION,
            "groups": because.ONE_GROUP,
            "depth_multiplier": because.ONE_EACH,
            "use_bias": because.BIAS if layer.use_bias else because.NO_BIAS,
            "activation": because.LATER if layer.activation == "linear" else "activation",
            **self.decides,
            **why,
        }
        self.layers.append(layer)
        self.why[layer.name] = {
            name: decided[name] for name in ("", *(p.name for p in L.parameters(layer)))
        }

    def stem(self) -> None:
        kernel, strides = self.given.stem_kernel_size, self.given.stem_strides
        if self.given.stem == "learned":
            self.conv("stem", self.given.stage_filters, kernel, strides, self.given.padding)
            return
        # Both signs of each direction, so that nothing is lost by the activation.
        filters = min(2 * self.channels * kernel**2, MAX_FILTERS)
        self.put_conv(
            L.Conv2D(filters, kernel, strides, "valid", name="stem"),
            filters=because.EVERY_DIRECTION,
            padding=because.WHOLE_PATCHES,
            use_bias=because.LEARNT_BIAS,
        )
        self.moved(kernel, strides, "valid", filters)
        self.put(L.Activation(self.given.activation, name="stem_act"), "activation")

    def stage(self, number: int) -> bool:
        """One stage; False where the map is too small to be halved once more."""
        if number > 0 and min(self.size) < 4:
            return False
        pooled = self.given.block == "pooled"
        strides = 1
        if pooled and min(self.size) >= 4:
            strides = 2  # inside the block
        elif not pooled and number > 0:
            strides = self.downsample(f"stage{number + 1}")
        base = self.given.stage_filters
        wider = 2**number if self.given.stage_widening == 2 else min(4**number, 4)
        filters = max(min(base * wider, MAX_FILTERS), base)
        self.decides = {
            "": "block",
            "filters": "stage.filters" if number == 0 else "stage.widening",
            "kernel_size": (
                because.POINTWISE if self.given.block == "separable" else "stage.kernel_size"
            ),
        }
        BLOCKS[self.given.block](self, f"stage{number + 1}", filters, strides)
        return True

    def downsample(self, name: str) -> int:
        """Halve the map with a pool, or return the stride that a convolution must take."""
        how = self.given.downsampling
        if how not in POOLS:
            return 2
        self.put(POOLS[how](2, name=f"{name}_pool"), "downsampling", **WHOLE)
        self.size = self.size[0] // 2, self.size[1] // 2
        return 1

    def conv(self, name: str, filters: int, kernel: int, strides: int = 1, padding: str = "",
             active: bool = True, pool: str = "") -> None:  # fmt: skip
        """Convolution, normalisation, activation; 'valid' becomes 'same' where the map would fall
        under 4 px.

        padding: '' where the block needs 'same'. pool: the name of a stage whose pool comes before
        the normalisation, or ''.
        """
        why: Why = "padding" if padding else because.BLOCK_SIZE
        if padding == "valid" and min(self.size) - kernel + 1 < (8 if pool else 4 * strides):
            padding, why = "same", because.SMALL_MAP
        padding = padding or "same"
        inline = active and not self.normalized
        layer = L.Conv2D(filters, kernel, strides, padding, use_bias=not self.normalized, name=name,
                       activation=self.given.activation if inline else "linear")  # fmt: skip
        self.put_conv(layer, padding=why)
        self.moved(kernel, strides, padding, filters)
        if pool:
            self.downsample(pool)
        self.normalize(name, active)

    def depthwise(self, name: str, kernel: int, strides: int) -> None:
        inline = "linear" if self.normalized else self.given.activation
        layer = L.DepthwiseConv2D(
            kernel, strides, "same", use_bias=not self.normalized, name=name, activation=inline
        )
        self.put_conv(layer, kernel_size="stage.kernel_size")
        self.moved(kernel, strides, "same", self.filters)
        self.normalize(name, True)

    def normalize(self, name: str, active: bool) -> None:
        if self.normalized:
            layer = L.BatchNormalization(momentum=NORM_MOMENTUM, name=f"{name}_norm")
            learnt = dict.fromkeys(("center", "scale"), because.SHIFT_AND_SCALE)
            self.put(
                layer, "normalization", epsilon=because.EPSILON, momentum=because.MOMENTUM, **learnt
            )
            if active:
                self.put(L.Activation(self.given.activation, name=f"{name}_act"), "activation")

    def moved(self, kernel: int, strides: int, padding: str, filters: int) -> None:
        rows, columns = (
            (n + sum(same_pads(n, kernel, strides) if padding == "same" else (0, 0)) - kernel)
            // strides
            + 1
            for n in self.size
        )
        self.size, self.filters = (rows, columns), filters

    def head(self) -> None:
        self.put(HEADS[self.given.head](name="head"), "head", keepdims=because.A_ROW)
        if (rate := self.given.dropout) > 0:
            self.put(L.Dropout(rate, name="dropout"), "dropout")

    def answer(self, classes: int, target: Target | None) -> None:
        """A probability for each class; or numbers, each brought to the unit of its target."""
        if target is None:
            last = L.Dense(classes, activation="softmax", name="classes")
            self.put(
                last, because.PROBABILITIES, units=because.ONE_FOR_EACH_CLASS, use_bias=because.BIAS
            )
            return
        count = len(target.columns)
        name, why = (
            ("number", because.ONE_NUMBER) if count == 1 else ("numbers", because.SEVERAL_NUMBERS)
        )
        self.put(L.Dense(count, name=name), why, use_bias=because.BIAS)
        self.put(L.Rescaling(target.deviations, target.means, name="target"), because.UNIT)


def _pooled(growing: _Growing, name: str, filters: int, strides: int) -> None:
    """Convolution, pool, normalisation, activation; then the same without a pool.

    All after the pool works on a quarter of the map.
    """
    kernel, padding = growing.given.stage_kernel_size, growing.given.padding
    for i in range(growing.given.stage_convs):
        conv = f"{name}_conv{i + 1}"
        halved, pools = strides == 2 and i == 0, growing.given.downsampling in POOLS
        stride = 2 if halved and not pools else 1
        growing.conv(conv, filters, kernel, stride, padding, pool=name if halved and pools else "")


def _plain(growing: _Growing, name: str, filters: int, strides: int) -> None:
    for i in range(growing.given.stage_convs):
        kernel, padding = growing.given.stage_kernel_size, growing.given.padding
        growing.conv(f"{name}_conv{i + 1}", filters, kernel, strides if i == 0 else 1, padding)


def _residual(growing: _Growing, name: str, filters: int, strides: int) -> None:
    """Blocks of two convolutions, each added to its input; of an odd number the last is of one."""
    convs = growing.given.stage_convs
    for first in range(0, convs, 2):
        _residual_block(
            growing,
            name,
            filters,
            strides if first == 0 else 1,
            range(first, min(first + 2, convs)),
        )


def _residual_block(growing: _Growing, name: str, filters: int, strides: int, convs: range) -> None:
    source, size, channels = growing.top, growing.size, growing.filters
    kernel = growing.given.stage_kernel_size
    for i in convs:
        step = strides if i == convs[0] else 1
        growing.conv(f"{name}_conv{i + 1}", filters, kernel, step, active=i != convs[-1])
    body = growing.top
    if channels != filters or strides != 1:
        reached, growing.size = growing.size, size
        shortcut = L.Conv2D(filters, 1, strides, "same", use_bias=not growing.normalized,
                          name=f"{name}_shortcut{convs[0] + 1}", inputs=(source,))  # fmt: skip
        growing.put_conv(
            shortcut,
            **dict.fromkeys(("", "filters", "kernel_size", "strides", "padding"), because.SHORTCUT),
        )
        growing.normalize(shortcut.name, False)
        source, growing.size = growing.top, reached
    growing.put(L.Add(name=f"{name}_add{convs[0] + 1}", inputs=(body, source)), "block")
    growing.put(
        L.Activation(growing.given.activation, name=f"{name}_out{convs[0] + 1}"), "activation"
    )


def _separable(growing: _Growing, name: str, filters: int, strides: int) -> None:
    for i in range(growing.given.stage_convs):
        growing.depthwise(
            f"{name}_depthwise{i + 1}", growing.given.stage_kernel_size, strides if i == 0 else 1
        )
        growing.conv(f"{name}_conv{i + 1}", filters, 1)


BLOCKS = {"pooled": _pooled, "plain": _plain, "residual": _residual, "separable": _separable}
