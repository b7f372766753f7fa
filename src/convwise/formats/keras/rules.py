"""What each layer and operation of Keras 3 is in our terms, one row each: the inverse of lowering.

Those that move numbers are in moves.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from convwise.core import layers as L
from convwise.core.activations import ACTIVATIONS, ALIASES, INFINITY, spelled
from convwise.core.layers import Layer, parameters
from convwise.core.parameters import Pads, Pair
from convwise.core.windows import Shape, effective
from convwise.formats.keras.moves import MOVING_LAYERS, MOVING_OPS
from convwise.formats.keras.use import Piece, Rule, Unreadable, Use


def pieces_of(use: Use) -> list[Piece]:
    """The use in our terms; none where it changes nothing. Unreadable where they do not suffice."""
    is_layer = isinstance(use.op, keras.layers.Layer) or not isinstance(use.op, keras.Operation)
    rule = (_LAYERS if is_layer else _OPS).get(type(use.op).__name__)
    # A class of the user's own may do anything
    if rule is None or not type(use.op).__module__.startswith("keras."):
        raise Unreadable
    found = list(rule(use))
    every = tuple(range(len(use.shapes)))
    return [
        each if isinstance(each, Piece) else Piece(each, (-1,) if i else every)
        for i, each in enumerate(found)
    ]


# --- activations ----------------------------------------------------------------------------


def activation_of(function: Any) -> str:
    """The spelling of a Keras activation: None, a function, or a layer.

    Unreadable where it is none of ours.
    """
    if function is None:
        return "linear"
    if isinstance(function, keras.layers.Layer):
        layer = pieces_of(Use(function, [(1,)]))[0].layer
        if isinstance(layer, L.Activation):
            return layer.activation
        raise Unreadable
    name = str(getattr(function, "__name__", ""))
    if name == "gelu" and function is keras.ops.gelu:
        return "gelu_tanh"  # keras.ops approximates by default, keras.activations does not
    known = ALIASES.get(name, name)
    if known not in ACTIVATIONS or known == "sparsemax":  # which Keras 3.15 computes otherwise
        raise Unreadable
    if not any(getattr(place, name, None) is function for place in (keras.activations, keras.ops)):
        raise Unreadable
    return known


def _activated(make: Callable[[str], Layer], op: Any) -> list[Layer]:
    """The layer with its activation; an activation that is not ours follows it."""
    try:
        return [make(activation_of(op.activation))]
    except Unreadable:
        name = getattr(op.activation, "__name__", type(op.activation).__name__)
        # Its shape, that of its input, is put in by `resolved`
        return [make("linear"), L.Opaque(f"activation {name}", (1,), 0)]


def _relu(use: Use) -> list[Layer]:
    most = INFINITY if use.op.max_value is None else float(use.op.max_value)
    slope, threshold = float(use.op.negative_slope), float(use.op.threshold)
    if (most, slope, threshold) == (6.0, 0.0, 0.0):
        return [L.Activation("relu6")]
    if slope and (most, threshold) == (INFINITY, 0.0):
        return [L.Activation(spelled("leaky_relu", negative_slope=slope))]
    general = spelled("relu", max_value=most, negative_slope=slope, threshold=threshold)
    return [L.Activation(general)]


def _last(axis: Any, use: Use) -> None:
    """Unreadable where the axis is not that of the channels."""
    if isinstance(axis, (list, tuple)) and len(axis) == 1:
        axis = axis[0]
    if axis not in (-1, len(use.shape)):
        raise Unreadable


def _along_channels(rule: Rule) -> Rule:
    """The rule, of an axis that must be the channels'."""

    def along(use: Use) -> Sequence[Layer | Piece]:
        _last(use.op.axis, use)
        return rule(use)

    return along


def _spelled(name: str, **attributes: str) -> Rule:
    """An operation that is an activation; attributes: how Keras calls arguments otherwise."""

    def rule(use: Use) -> list[Layer]:
        if hasattr(use.op, "axis"):
            _last(use.op.axis, use)
        given = {
            key: float(getattr(use.op, attributes.get(key, key), usual))
            for key, usual in ACTIVATIONS[name].arguments.items()
        }
        return [L.Activation(spelled(name, **given))]

    return rule


# --- convolutions and pooling ---------------------------------------------------------------


def _same(kind: type[Layer]) -> Rule:
    """A layer whose parameters Keras has under the same names."""
    return lambda use: [kind(**_terms(kind, use.op))]


def _terms(kind: type[Layer], op: Any) -> dict[str, Any]:
    names = [p.name for p in parameters(kind) if p.name != "activation"]
    return {name: getattr(op, name) for name in names if hasattr(op, name)}


def _learnt(kind: type[Any]) -> Rule:
    """As `_same`, with an activation."""

    def rule(use: Use) -> list[Layer]:
        terms = _terms(kind, use.op)
        return _activated(lambda name: kind(**terms, activation=name), use.op)

    return rule


def _transposed(use: Use) -> list[Layer]:
    op = use.op
    padding, extra = (op.padding, (0, 0)) if op.output_padding is None else _with_extra(op)
    window = op.kernel_size, op.strides, padding, extra, op.dilation_rate
    return _activated(lambda name: L.Conv2DTranspose(op.filters, *window, 1, op.use_bias, name), op)


def _with_extra(op: Any) -> tuple[Pads, Pair]:
    """Padding and output_padding in numbers.

    With Keras's output_padding, 'same' leaves (n - 1) s + k_e mod 2 and that much more.
    """
    given = (op.output_padding,) * 2 if isinstance(op.output_padding, int) else op.output_padding
    pads, extra = [], []
    for size, rate, more in zip(op.kernel_size, op.dilation_rate, given, strict=True):
        reach = effective(size, rate)
        total = reach - reach % 2 - more if op.padding == "same" else -more
        before = max(total, 0) // 2
        pads += [before, max(total - before, 0)]
        extra.append(max(before - total, 0))
    return (pads[0], pads[1], pads[2], pads[3]), (extra[0], extra[1])


def _pool(kind: Callable[..., Layer]) -> Rule:
    """keras.ops.max_pool and average_pool."""

    def rule(use: Use) -> list[Layer]:
        if len(use.shape) != 3 or use.op.data_format == "channels_first":
            raise Unreadable
        return [kind(use.op.pool_size, use.op.strides, use.op.padding)]

    return rule


def _over_map(kind: Callable[..., Layer]) -> Rule:
    """keras.ops.mean and max over rows and columns."""

    def rule(use: Use) -> list[Layer]:
        axes = use.op.axis if isinstance(use.op.axis, (list, tuple)) else ()
        if len(use.shape) != 3 or sorted(axis % 4 for axis in axes) != [1, 2]:
            raise Unreadable
        return [kind(bool(use.op.keepdims))]

    return rule


# --- normalisation and numbers --------------------------------------------------------------


def _layer_norm(use: Use) -> list[Layer]:
    axes = use.op.axis if isinstance(use.op.axis, (list, tuple)) else (use.op.axis,)
    axes = (-1,) if tuple(axes) in ((-1,), (len(use.shape),)) else tuple(axes)
    return [L.LayerNormalization(axes, use.op.epsilon, use.op.center, use.op.scale)]


def numbers(value: Any, shape: Shape) -> tuple[float, ...]:
    """A constant as one number, or one per channel. Unreadable where it is neither."""
    array = np.asarray(keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else value)
    if array.dtype.kind not in "fiu" or not (
        array.size == 1
        or array.shape[-1:] == (array.size,) == shape[-1:]
        or array.shape == (*(1,) * (array.ndim - 1), shape[-1])
    ):
        raise Unreadable
    return tuple(float(n) for n in array.ravel())


def _normalization(use: Use) -> list[Layer]:
    op, adapted = use.op, use.op.input_mean is None
    both = (op.mean, op.variance) if adapted else (op.input_mean, op.input_variance)
    mean, variance = (numbers(each, use.shape) for each in both)
    if not use.op.invert:
        return [L.Normalization(mean, variance, adapted)]
    if adapted:
        raise Unreadable
    return [L.Rescaling(tuple(max(n**0.5, 1e-7) for n in variance), mean)]


def _einsum(use: Use) -> list[Layer]:
    """'abcd,d->abcd': a learnt number per channel."""
    given, _, output = use.op.equation.partition("->")
    axes, _, kernel = given.partition(",")
    plain = use.op.bias is None and activation_of(use.op.activation) == "linear"
    if not plain or axes != output or kernel != axes[-1:] or len(axes) != len(use.shape) + 1:
        raise Unreadable
    return [L.LayerScale()]


def _dropout(use: Use) -> Sequence[Layer | Piece]:
    noise = use.op.noise_shape
    per_image = noise and noise[0] in (None, -1) and all(n == 1 for n in noise[1:])
    return _dropping(L.StochasticDepth if per_image else L.Dropout)(use)


def _dropping(kind: Callable[[float], Layer]) -> Rule:
    """What drops numbers while a model learns; our layers cannot say that all are dropped."""
    return lambda use: [kind(use.op.rate)] if use.op.rate < 1 else []


def _batch_norm(use: Use) -> list[Layer]:
    _last(use.op.axis, use)
    terms = _terms(L.BatchNormalization, use.op)
    if not 0 <= use.op.momentum < 1:  # it matters to training alone
        del terms["momentum"]
    return [L.BatchNormalization(**terms)]


# --- operations on two values ---------------------------------------------------------------


def _joining(kind: Callable[[], Layer]) -> Rule:
    return lambda use: [_join(kind, use)]


def _join(kind: Callable[[], Layer], use: Use) -> Layer:
    if len({len(shape) for shape in use.shapes}) > 1:
        raise Unreadable
    return kind()


def _binary(kind: Callable[[], Layer], first: Callable[[float], tuple[float, float]] | None,
            second: Callable[[float], tuple[float, float]]) -> Rule:  # fmt: skip
    """An operator of two values: a join, or with a constant a Rescaling of the other.

    first, second: (factor, summand) by a constant that comes first, or second.
    """

    def rule(use: Use) -> Sequence[Layer | Piece]:
        left, right = use.arguments[:2]
        if isinstance(left, keras.KerasTensor) and isinstance(right, keras.KerasTensor):
            both = (0, 0) if left is right else (0, 1)
            return [Piece(_join(kind, use), both)]
        moves = second if isinstance(left, keras.KerasTensor) else first
        if moves is None:
            raise Unreadable
        pairs = [moves(n) for n in numbers(right if moves is second else left, use.shape)]
        factors, summands = zip(*pairs, strict=True)
        return [L.Rescaling(factors, summands[:1] if len({*summands}) == 1 else summands)]

    return rule


def _concatenate(use: Use) -> list[Layer]:
    return [L.Concatenate()] if len(use.shapes) > 1 else []


def _maximum(use: Use) -> Sequence[Layer | Piece]:
    constant = [each for each in use.arguments[:2] if not isinstance(each, keras.KerasTensor)]
    if constant and set(numbers(constant[0], use.shape)) == {0.0}:
        return [L.Activation("relu")]
    return _binary(L.Maximum, None, _none)(use)


def _divided(use: Use) -> Sequence[Layer | Piece]:
    if isinstance(use.arguments[1], keras.KerasTensor):
        raise Unreadable
    return _binary(L.Multiply, None, lambda n: (1 / n, 0.0))(use)


def _none(number: float) -> tuple[float, float]:
    raise Unreadable


def _clip(use: Use) -> list[Layer]:
    low, high = float(use.op.x_min), float(use.op.x_max)
    if (low, high) == (0, 6):
        return [L.Activation("relu6")]
    return [L.Activation(spelled("hard_tanh", min_val=low, max_val=high))]


def _nothing(use: Use) -> list[Layer]:
    return []


def _nothing_if(unchanged: bool) -> list[Layer]:
    if not unchanged:
        raise Unreadable
    return []


# --- the tables -----------------------------------------------------------------------------

# While a model answers, these leave the image as it is.
_AUGMENTING = (
    "AugMix", "CutMix", "MixUp", "RandAugment", "RandomBrightness", "RandomColorDegeneration",
    "RandomColorJitter", "RandomContrast", "RandomElasticTransform", "RandomErasing", "RandomFlip",
    "RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective",
    "RandomPosterization", "RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear",
    "RandomTranslation", "RandomZoom",
)  # fmt: skip
_LAYERS: dict[str, Rule] = {
    "Conv2D": _learnt(L.Conv2D),
    "DepthwiseConv2D": _learnt(L.DepthwiseConv2D),
    "SeparableConv2D": _learnt(L.SeparableConv2D),
    "Conv2DTranspose": _transposed,
    "MaxPooling2D": _same(L.MaxPooling2D),
    "AveragePooling2D": _same(L.AveragePooling2D),
    "GlobalAveragePooling2D": _same(L.GlobalAveragePooling2D),
    "GlobalMaxPooling2D": _same(L.GlobalMaxPooling2D),
    "AdaptiveAveragePooling2D": _same(L.AdaptiveAveragePooling2D),
    "AdaptiveMaxPooling2D": _same(L.AdaptiveMaxPooling2D),
    "BatchNormalization": _batch_norm,
    "GroupNormalization": _along_channels(_same(L.GroupNormalization)),
    "LayerNormalization": _layer_norm,
    "Activation": lambda use: [L.Activation(activation_of(use.op.activation))],
    "ReLU": _relu,
    "LeakyReLU": _spelled("leaky_relu"),
    "ELU": _spelled("elu"),
    "Softmax": _along_channels(lambda use: [L.Activation("softmax")]),
    "PReLU": lambda use: [L.PReLU(tuple(use.op.shared_axes or ()))],
    "EinsumDense": _einsum,
    "LayerScale": lambda use: [L.LayerScale()],  # of keras.applications, as the two below
    "StochasticDepth": lambda use: [L.StochasticDepth(use.op.drop_path_rate)],
    # InceptionResNetV2's: the first input plus the second, scaled.
    "CustomScaleLayer": lambda use: [
        Piece(L.Rescaling(float(use.op.scale)), (1,)),
        Piece(L.Add(), (0, -1)),
    ],
    "Dropout": _dropout,
    "SpatialDropout2D": _dropping(L.SpatialDropout2D),
    "AlphaDropout": _dropping(L.AlphaDropout),
    "GaussianDropout": _dropping(L.GaussianDropout),
    "GaussianNoise": _same(L.GaussianNoise),
    "Flatten": _same(L.Flatten),
    "Dense": _learnt(L.Dense),
    "Add": _joining(L.Add),
    "Subtract": _joining(L.Subtract),
    "Multiply": _joining(L.Multiply),
    "Average": _joining(L.Average),
    "Maximum": _joining(L.Maximum),
    "Minimum": _joining(L.Minimum),
    "Concatenate": _along_channels(_concatenate),
    "UpSampling2D": _same(L.UpSampling2D),
    "Rescaling": lambda use: [
        L.Rescaling(numbers(use.op.scale, use.shape), numbers(use.op.offset, use.shape))
    ],
    "Normalization": _normalization,
    "Permute": lambda use: _nothing_if(tuple(use.op.dims) == tuple(range(1, len(use.shape) + 1))),
    "Resizing": lambda use: _nothing_if((use.op.height, use.op.width) == use.shape[:2]),
    "Identity": _nothing,
    "ActivityRegularization": _nothing,
    **MOVING_LAYERS,
    **dict.fromkeys(_AUGMENTING, _nothing),
}

_FUNCTIONS = {
    "Relu": "relu", "Relu6": "relu6", "LeakyRelu": "leaky_relu", "Elu": "elu", "Selu": "selu",
    "Celu": "celu", "Silu": "silu", "HardSilu": "hard_silu", "Softplus": "softplus",
    "Softsign": "softsign", "Squareplus": "squareplus", "SparsePlus": "sparse_plus",
    "Exp": "exponential", "Tanh": "tanh", "HardTanh": "hard_tanh", "TanhShrink": "tanh_shrink",
    "SoftShrink": "soft_shrink", "HardShrink": "hard_shrink", "Sigmoid": "sigmoid",
    "HardSigmoid": "hard_sigmoid", "LogSigmoid": "log_sigmoid",
    "SparseSigmoid": "sparse_sigmoid", "Softmax": "softmax", "LogSoftmax": "log_softmax",
}  # fmt: skip
_OPS: dict[str, Rule] = {
    "Add": _binary(L.Add, lambda n: (1.0, n), lambda n: (1.0, n)),
    "Subtract": _binary(L.Subtract, lambda n: (-1.0, n), lambda n: (1.0, -n)),
    "Multiply": _binary(L.Multiply, lambda n: (n, 0.0), lambda n: (n, 0.0)),
    "Maximum": _maximum,
    "Minimum": _binary(L.Minimum, None, _none),
    "Negative": lambda use: [L.Rescaling(-1.0)],
    "Square": lambda use: [Piece(L.Multiply(), (0, 0))],
    "Clip": _clip,
    "Concatenate": _along_channels(_concatenate),
    **MOVING_OPS,
    "MaxPool": _pool(L.MaxPooling2D),
    "AveragePool": _pool(L.AveragePooling2D),
    "Mean": _over_map(L.GlobalAveragePooling2D),
    "Max": _over_map(L.GlobalMaxPooling2D),
    "Glu": _along_channels(lambda use: [L.GLU()]),
    "Gelu": lambda use: [L.Activation("gelu_tanh" if use.op.approximate else "gelu")],
    "Threshold": _spelled("threshold", value="default_value"),
    **{name: _spelled(known) for name, known in _FUNCTIONS.items()},
    **dict.fromkeys(("Divide", "TrueDivide"), _divided),
    **dict.fromkeys(("Identity", "StopGradient", "Cast", "Copy"), _nothing),
}
