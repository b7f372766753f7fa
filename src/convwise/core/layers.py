"""The layers, in Keras's terms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, TypeVar, dataclass_transform

from convwise.core.parameters import (
    REQUIRED,
    Count,
    Crops,
    Dimensions,
    Extra,
    Flag,
    Known,
    Named,
    Number,
    Numbers,
    Outputs,
    Padding,
    Parameter,
    PoolStrides,
    Size,
    Word,
)

Kind = TypeVar("Kind")


@dataclass_transform(frozen_default=True)
def _layer(kind: type[Kind]) -> type[Kind]:
    """A frozen dataclass with Layer's equality and repr: made for each type they slow loading."""
    return dataclass(frozen=True, repr=False, eq=False, match_args=False)(kind)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Layer:
    """Base of every layer. A name is unique in its net; no inputs means: the layer before.

    shares: the name of an earlier layer whose weights this one uses again; '' where it has its own.
    """

    name: str = ""
    inputs: tuple[str, ...] = ()
    shares: str = ""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        return f"{self.op}({', '.join(f'{key}={value!r}' for key, value in self.__dict__.items())})"

    @property
    def op(self) -> str:
        """The layer's type, as Keras calls it."""
        return type(self).__name__


@_layer
class Conv2D(Layer):
    """2D convolution. Kernel (rows, columns, input channels / groups, filters)."""

    filters: Count = Count(meaning="output channels")
    kernel_size: Size = Size(meaning="rows and columns that one output reads")
    strides: Size = Size((1, 1), "step between outputs")
    padding: Padding = Padding()
    dilation_rate: Size = Size((1, 1), "step between the inputs of one output")
    groups: Count = Count(1, "number of independent groups that the channels are split into")
    use_bias: Flag = Flag(True, "add a learnt number per filter")
    activation: Named = Named()


@_layer
class DepthwiseConv2D(Layer):
    """One convolution per input channel. Kernel (rows, columns, channels, depth_multiplier)."""

    kernel_size: Size = Size(meaning="rows and columns that one output reads")
    strides: Size = Size((1, 1), "step between outputs")
    padding: Padding = Padding()
    depth_multiplier: Count = Count(1, "outputs per input channel")
    dilation_rate: Size = Size((1, 1), "step between the inputs of one output")
    use_bias: Flag = Flag(True, "add a learnt number per output channel")
    activation: Named = Named()


@_layer
class SeparableConv2D(Layer):
    """A depthwise convolution, then a 1x1 convolution. Kernels as theirs; one bias, after both."""

    filters: Count = Count(meaning="output channels")
    kernel_size: Size = Size(meaning="rows and columns that one output reads")
    strides: Size = Size((1, 1), "step between outputs")
    padding: Padding = Padding()
    depth_multiplier: Count = Count(1, "depthwise outputs per input channel")
    dilation_rate: Size = Size((1, 1), "step between the inputs of one output")
    use_bias: Flag = Flag(True, "add a learnt number per filter")
    activation: Named = Named()


@_layer
class Conv2DTranspose(Layer):
    """The transpose of a convolution: each input adds a kernel to the output.

    Kernel (rows, columns, filters, inputs).

    padding takes away from the full output of (n - 1) s + k_e: 'valid' nothing, 'same' so much that
    n s are left; output_padding adds after that, at the bottom and right.
    """

    filters: Count = Count(meaning="output channels")
    kernel_size: Size = Size(meaning="rows and columns that one input writes")
    strides: Size = Size((1, 1), "outputs between neighbouring inputs")
    padding: Padding = Padding(meaning="what is cropped around the output")
    output_padding: Extra = Extra(meaning="extra rows and columns, at the bottom and right")
    dilation_rate: Size = Size((1, 1), "step between the outputs of one input")
    groups: Count = Count(1, "number of independent groups that the channels are split into")
    use_bias: Flag = Flag(True, "add a learnt number per filter")
    activation: Named = Named()


def _resolve_strides(pool: MaxPooling2D | AveragePooling2D) -> None:
    if pool.strides == (0, 0):
        object.__setattr__(pool, "strides", pool.pool_size)


@_layer
class MaxPooling2D(Layer):
    """The largest value of each window; padding is never chosen."""

    pool_size: Size = Size((2, 2), "rows and columns of the window")
    strides: PoolStrides = PoolStrides()
    padding: Padding = Padding()
    ceil_mode: Flag = Flag(False, "a last window may reach past the padding")

    def __post_init__(self) -> None:
        _resolve_strides(self)


@_layer
class AveragePooling2D(Layer):
    """The mean of each window; padding is not counted unless count_include_pad."""

    pool_size: Size = Size((2, 2), "rows and columns of the window")
    strides: PoolStrides = PoolStrides()
    padding: Padding = Padding()
    ceil_mode: Flag = Flag(False, "a last window may reach past the padding")
    count_include_pad: Flag = Flag(False, "padding counts as zeros", "values")

    def __post_init__(self) -> None:
        _resolve_strides(self)


@_layer
class GlobalAveragePooling2D(Layer):
    """The mean of each channel over the whole map."""

    keepdims: Flag = Flag(False, "the output stays a map, of 1x1")


@_layer
class GlobalMaxPooling2D(Layer):
    """The largest value of each channel over the whole map."""

    keepdims: Flag = Flag(False, "the output stays a map, of 1x1")


@_layer
class AdaptiveAveragePooling2D(Layer):
    """The mean of each of output_size windows.

    Window i reads from floor(i n / o) to below ceil((i + 1) n / o).
    """

    output_size: Size = Size(meaning="rows and columns of the output")


@_layer
class AdaptiveMaxPooling2D(Layer):
    """The largest value of each of output_size windows, placed as in AdaptiveAveragePooling2D."""

    output_size: Size = Size(meaning="rows and columns of the output")


@_layer
class BatchNormalization(Layer):
    """Per channel: subtract the mean, divide by the deviation, scale, shift."""

    epsilon: Number = Number(0, 1e9, 1e-3, meaning="added to the variance", concern="values")
    momentum: Number = Number(
        0, 1, 0.9, meaning="share of the running statistics kept each step", concern="training"
    )
    center: Flag = Flag(True, "learn what is added")
    scale: Flag = Flag(True, "learn the factor")


@_layer
class GroupNormalization(Layer):
    """As BatchNormalization, but over each image's own map, in groups of channels."""

    groups: Count = Count(32, "groups that the channels are split into")
    epsilon: Number = Number(0, 1e9, 1e-3, meaning="added to the variance", concern="values")
    center: Flag = Flag(True, "learn what is added, per channel")
    scale: Flag = Flag(True, "learn the factor, per channel")


@_layer
class LayerNormalization(Layer):
    """As BatchNormalization, but over axes of each image: by default each position's channels."""

    axis: Dimensions = Dimensions(
        (-1,), "axes to normalise over; -1 is the channels; the batch does not count"
    )
    epsilon: Number = Number(0, 1e9, 1e-3, meaning="added to the variance", concern="values")
    center: Flag = Flag(True, "learn what is added")
    scale: Flag = Flag(True, "learn the factor")


@_layer
class Activation(Layer):
    """An activation as a layer of its own."""

    activation: Named = Named(REQUIRED)


@_layer
class PReLU(Layer):
    """x, or alpha x below 0, with a learnt alpha for each row, column and channel."""

    shared_axes: Dimensions = Dimensions(
        (), "axes along which one alpha is shared: 1 rows, 2 columns, 3 channels"
    )


@_layer
class GLU(Layer):
    """The first half of the channels, times the sigmoid of the second."""


@_layer
class LayerScale(Layer):
    """Times a learnt number per channel."""


@_layer
class Dropout(Layer):
    """While training, sets a share `rate` of the values to 0 and scales the rest."""

    rate: Number = Number(0, 1, meaning="share of the values dropped", concern="training")


@_layer
class SpatialDropout2D(Layer):
    """As Dropout, of whole channels."""

    rate: Number = Number(0, 1, meaning="share of the channels dropped", concern="training")


@_layer
class AlphaDropout(Layer):
    """As Dropout, to a value that keeps mean and variance after selu."""

    rate: Number = Number(0, 1, meaning="share of the values dropped", concern="training")


@_layer
class GaussianDropout(Layer):
    """While training, times 1 + noise of variance rate / (1 - rate)."""

    rate: Number = Number(0, 1, meaning="as Dropout's", concern="training")


@_layer
class GaussianNoise(Layer):
    """While training, plus noise of deviation stddev."""

    stddev: Number = Number(0, 1e9, meaning="deviation of the noise", concern="training")


@_layer
class StochasticDepth(Layer):
    """As Dropout, of whole examples: on a residual branch it skips the branch."""

    rate: Number = Number(0, 1, meaning="share of the examples dropped", concern="training")


@_layer
class Flatten(Layer):
    """The map as one row of numbers, in the order height, width, channels."""


@_layer
class Reshape(Layer):
    """The same numbers in another shape, in the order height, width, channels."""

    target_shape: Dimensions = Dimensions(
        meaning="without the batch; one -1 stands for what is left"
    )


@_layer
class Dense(Layer):
    """Every output reads every input. Kernel (inputs, units)."""

    units: Count = Count(meaning="number of outputs")
    use_bias: Flag = Flag(True, "add a learnt number per unit")
    activation: Named = Named()


@_layer
class Add(Layer):
    """The sum of its inputs; a side of 1 is repeated."""


@_layer
class Subtract(Layer):
    """The first input minus the second; a side of 1 is repeated."""


@_layer
class Multiply(Layer):
    """The product of its inputs; a side of 1 is repeated."""


@_layer
class Average(Layer):
    """The mean of its inputs; a side of 1 is repeated."""


@_layer
class Maximum(Layer):
    """The largest of its inputs; a side of 1 is repeated."""


@_layer
class Minimum(Layer):
    """The smallest of its inputs; a side of 1 is repeated."""


@_layer
class Concatenate(Layer):
    """Its inputs side by side, along the channels."""


@_layer
class ZeroPadding2D(Layer):
    """Zeros around the map: (top, bottom, left, right)."""

    padding: Crops = Crops((1, 1, 1, 1), "rows above and below, columns left and right")


@_layer
class Cropping2D(Layer):
    """Takes rows and columns away: (top, bottom, left, right)."""

    cropping: Crops = Crops((0, 0, 0, 0), "rows above and below, columns left and right")


@_layer
class UpSampling2D(Layer):
    """Repeats rows and columns, or interpolates between them (half-pixel centres)."""

    size: Size = Size((2, 2), "outputs per input")
    interpolation: Word = Word(
        ("nearest", "bilinear", "bicubic"), "nearest", "how values in between are found"
    )


@_layer
class Rescaling(Layer):
    """x * scale + offset."""

    scale: Numbers = Numbers(meaning="factor, or one per channel")
    offset: Numbers = Numbers((0.0,), meaning="offset, or one per channel")


@_layer
class Normalization(Layer):
    """(x - mean) / sqrt(variance), with fixed numbers per channel."""

    mean: Numbers = Numbers(meaning="per channel, of the layer's input")
    variance: Numbers = Numbers(meaning="per channel, of the layer's input")
    adapted: Flag = Flag(
        False,
        "stored as weights with the count of what was seen, as Keras's adapt() leaves them",
        "stored",
    )


MOVES = (
    "unknown", "same", "window", "whole",
    "nearest", "bilinear", "bicubic", "aligned bilinear", "aligned bicubic",
)  # fmt: skip


@_layer
class Opaque(Layer):
    """An operator that is none of the layers above: its name and output shape are known.

    The rest is known where it is told. What it costs never counts as 0 where that is not known, and
    what lies behind it sees an unknown field. moves: 'same' where each place reads its own;
    'window' where it reads one, of the size, strides, padding and dilation here; 'whole' where it
    reads the whole map; 'nearest', 'bilinear' and 'bicubic' where the map is resized by half-pixel
    centres, 'aligned' ones where the corners meet.
    """

    operator: Word = Word(meaning="the format's own name of it", concern="values")
    output_shape: Outputs = Outputs("without the batch")
    params: Known = Known(meaning="stored numbers, -1 where that is not known")
    macs: Known = Known(meaning="multiply-accumulates, -1 where that is not known")
    elementwise: Known = Known(meaning="operations besides, -1 where that is not known")
    moves: Word = Word(MOVES, "unknown", "what part of its inputs each place reads")
    kernel_size: Size = Size((1, 1), "rows and columns of its window")
    strides: Size = Size((1, 1), "step between windows")
    padding: Padding = Padding()
    dilation_rate: Size = Size((1, 1), "step between the inputs of one window")

    @property
    def known(self) -> bool:
        """Whether its cost is known."""
        return min(self.macs, self.elementwise) >= 0


LAYERS: dict[str, type[Layer]] = {
    "Conv2D": Conv2D,
    "DepthwiseConv2D": DepthwiseConv2D,
    "SeparableConv2D": SeparableConv2D,
    "Conv2DTranspose": Conv2DTranspose,
    "MaxPooling2D": MaxPooling2D,
    "AveragePooling2D": AveragePooling2D,
    "GlobalAveragePooling2D": GlobalAveragePooling2D,
    "GlobalMaxPooling2D": GlobalMaxPooling2D,
    "AdaptiveAveragePooling2D": AdaptiveAveragePooling2D,
    "AdaptiveMaxPooling2D": AdaptiveMaxPooling2D,
    "BatchNormalization": BatchNormalization,
    "GroupNormalization": GroupNormalization,
    "LayerNormalization": LayerNormalization,
    "Activation": Activation,
    "PReLU": PReLU,
    "GLU": GLU,
    "LayerScale": LayerScale,
    "Dropout": Dropout,
    "SpatialDropout2D": SpatialDropout2D,
    "AlphaDropout": AlphaDropout,
    "GaussianDropout": GaussianDropout,
    "GaussianNoise": GaussianNoise,
    "StochasticDepth": StochasticDepth,
    "Flatten": Flatten,
    "Reshape": Reshape,
    "Dense": Dense,
    "Add": Add,
    "Subtract": Subtract,
    "Multiply": Multiply,
    "Average": Average,
    "Maximum": Maximum,
    "Minimum": Minimum,
    "Concatenate": Concatenate,
    "ZeroPadding2D": ZeroPadding2D,
    "Cropping2D": Cropping2D,
    "UpSampling2D": UpSampling2D,
    "Rescaling": Rescaling,
    "Normalization": Normalization,
    "Opaque": Opaque,
}


def parameters(layer: Layer | type[Layer]) -> Iterator[Parameter[Any, Any]]:
    """The declared parameters of a layer or layer type, in order."""
    kind = layer if isinstance(layer, type) else type(layer)
    for column in fields(kind):
        if isinstance(declared := kind.__dict__.get(column.name), Parameter):
            yield declared
