"""What each layer and operation of Keras 3 is in our terms: one row each. The inverse of lowering.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from convwise.core import layers as L
from convwise.core.activations import ACTIVATIONS, ALIASES, INFINITY, spelled
from convwise.core.layers import Layer, parameters
from convwise.core.parameters import Pads, Pair
from convwise.core.windows import Shape, effective


class Unreadable(Exception):
    """An operation that our layers cannot say: it becomes an Opaque layer."""


@dataclass(frozen=True)
class Use:
    """One use of a Keras layer or operation: what is called, on maps of which shapes (without the batch).

    arguments: the positional ones of the call, Keras's tensors among them.
    """

    op: Any
    shapes: Sequence[Shape]
    arguments: Sequence[Any] = ()

    @property
    def shape(self) -> Shape:
        return self.shapes[0]


@dataclass(frozen=True)
class Piece:
    """A layer that a use becomes, and what it reads: inputs of the use by number, -1 for the piece before."""

    layer: Layer
    reads: tuple[int, ...]


Rule = Callable[[Use], Sequence[Layer | Piece]]


def pieces_of(use: Use) -> list[Piece]:
    """The use in our terms; none where it changes nothing. Unreadable where they do not suffice."""
    table = _OPS if isinstance(use.op, keras.Operation) and not isinstance(use.op, keras.layers.Layer) else _LAYERS
    rule = table.get(type(use.op).__name__)
    if rule is None or not type(use.op).__module__.startswith("keras."):  # a class of one's own may do anything
        raise Unreadable
    found = list(rule(use))
    every = tuple(range(len(use.shapes)))
    return [each if isinstance(each, Piece) else Piece(each, (-1,) if i else every) for i, each in enumerate(found)]


# --- activations ----------------------------------------------------------------------------


def activation_of(function: Any) -> str:
    """The spelling of a Keras activation: None, a function, or a layer. Unreadable where it is none of ours."""
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
        return [make("linear"), L.Opaque(f"activation {name}", (1,), 0)]  # its shape is that of its input


def _alone(use: Use) -> list[Layer]:
    return [L.Activation(activation_of(use.op.activation))]


def _relu(use: Use) -> list[Layer]:
    most = INFINITY if use.op.max_value is None else float(use.op.max_value)
    slope, threshold = float(use.op.negative_slope), float(use.op.threshold)
    if (most, slope, threshold) == (6.0, 0.0, 0.0):
        return [L.Activation("relu6")]
    if slope and (most, threshold) == (INFINITY, 0.0):
        return [L.Activation(spelled("leaky_relu", negative_slope=slope))]
    return [L.Activation(spelled("relu", max_value=most, negative_slope=slope, threshold=threshold))]


def _softmax(use: Use) -> list[Layer]:
    _last(use.op.axis, use)
    return [L.Activation("softmax")]


def _last(axis: Any, use: Use) -> None:
    """Unreadable where the axis is not that of the channels."""
    if isinstance(axis, (list, tuple)) and len(axis) == 1:
        axis = axis[0]
    if axis not in (-1, len(use.shape)):
        raise Unreadable


def _spelled(name: str, **attributes: str) -> Rule:
    """An operation that is an activation; `attributes` gives its argument names, where Keras's differ."""

    def rule(use: Use) -> list[Layer]:
        if hasattr(use.op, "axis"):
            _last(use.op.axis, use)
        usual = ACTIVATIONS[name].arguments
        given = {key: getattr(use.op, attributes.get(key, key), value) for key, value in usual.items()}
        return [L.Activation(spelled(name, **{key: float(value) for key, value in given.items()}))]

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
    return lambda use: _activated(lambda name: kind(**_terms(kind, use.op), activation=name), use.op)


def _along_channels(kind: type[Layer]) -> Rule:
    """As `_same`, of an axis that must be the channels'."""

    def rule(use: Use) -> Sequence[Layer | Piece]:
        _last(use.op.axis, use)
        return _same(kind)(use)

    return rule


def _transposed(use: Use) -> list[Layer]:
    op = use.op
    padding, extra = (op.padding, (0, 0)) if op.output_padding is None else _with_extra(op)
    return _activated(
        lambda name: L.Conv2DTranspose(
            op.filters, op.kernel_size, op.strides, padding, extra, op.dilation_rate, 1, op.use_bias, name
        ),
        op,
    )


def _with_extra(op: Any) -> tuple[Pads, Pair]:
    """Padding and output_padding in numbers: Keras's output_padding leaves (n - 1) s + k_e mod 2 + it of 'same'."""
    given = (op.output_padding,) * 2 if isinstance(op.output_padding, int) else op.output_padding
    pads, extra = [], []
    for size, rate, more in zip(op.kernel_size, op.dilation_rate, given, strict=True):
        reach = effective(size, rate)
        total = reach - reach % 2 - more if op.padding == "same" else -more
        before = max(total, 0) // 2
        pads += [before, max(total - before, 0)]
        extra.append(max(before - total, 0))
    return (pads[0], pads[1], pads[2], pads[3]), (extra[0], extra[1])


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
    if array.dtype.kind not in "fiu" or not (array.size == 1 or array.shape[-1:] == (array.size,) == shape[-1:]
                                             or array.shape == (*(1,) * (array.ndim - 1), shape[-1])):  # fmt: skip
        raise Unreadable
    return tuple(float(n) for n in array.ravel())


def _rescaling(use: Use) -> list[Layer]:
    return [L.Rescaling(numbers(use.op.scale, use.shape), numbers(use.op.offset, use.shape))]


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


def _dropout(use: Use) -> list[Layer]:
    noise = use.op.noise_shape
    if noise and noise[0] in (None, -1) and all(n == 1 for n in noise[1:]):
        return [L.StochasticDepth(use.op.rate)]
    return [L.Dropout(use.op.rate)]


# --- operations on two values ---------------------------------------------------------------


def _joining(kind: Callable[[], Layer]) -> Rule:
    return lambda use: [_join(kind, use)]


def _join(kind: Callable[[], Layer], use: Use) -> Layer:
    if len({len(shape) for shape in use.shapes}) > 1:
        raise Unreadable
    return kind()


def _binary(kind: Callable[[], Layer], first: Callable[[float], tuple[float, float]] | None,
            second: Callable[[float], tuple[float, float]]) -> Rule:  # fmt: skip
    """An operator of two values: a join, or with one constant (factor, summand) of the value that varies."""

    def rule(use: Use) -> Sequence[Layer | Piece]:
        left, right = use.arguments[:2]
        if isinstance(left, keras.KerasTensor) and isinstance(right, keras.KerasTensor):
            both = (0, 0) if left is right else (0, 1)
            return [Piece(_join(kind, use), both)]
        moves = second if isinstance(left, keras.KerasTensor) else first
        if moves is None:
            raise Unreadable
        pairs = [moves(n) for n in numbers(right if moves is second else left, use.shape)]
        return [L.Rescaling(tuple(pair[0] for pair in pairs), _short(tuple(pair[1] for pair in pairs)))]

    return rule


def _short(many: tuple[float, ...]) -> tuple[float, ...]:
    return many[:1] if len(set(many)) == 1 else many


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
    return [L.Activation("relu6" if (low, high) == (0, 6) else spelled("hard_tanh", min_val=low, max_val=high))]


# --- shapes ---------------------------------------------------------------------------------


def _padding(use: Use) -> list[Layer]:
    return [L.ZeroPadding2D(tuple(n for pair in use.op.padding for n in pair))]


def _cropping(use: Use) -> list[Layer]:
    return [L.Cropping2D(tuple(n for pair in use.op.cropping for n in pair))]


def _pad(use: Use) -> list[Layer]:
    width = [tuple(pair) for pair in use.op.pad_width]
    if len(width) == 1 or len(use.shape) != 3 or use.op.mode != "constant" or (0, 0) not in (width[0], width[-1]):
        raise Unreadable
    if width[0] != width[-1] or any(constant for constant in use.arguments[1:]):
        raise Unreadable
    return [L.ZeroPadding2D((*width[1], *width[2]))]


def _item(use: Use) -> list[Layer]:
    """x[:, 1:, :-1, :] and such."""
    keys = use.arguments[1] if isinstance(use.arguments[1], tuple) else (use.arguments[1],)
    if len(use.shape) != 3 or len(keys) > 4 or not all(isinstance(key, slice) for key in keys):
        raise Unreadable
    keys = (*keys, *(slice(None),) * (4 - len(keys)))
    spans = [key.indices(n) for key, n in zip(keys[1:], use.shape, strict=True)]
    whole = keys[0] == slice(None) and spans[2] == (0, use.shape[2], 1)
    if not whole or any(step != 1 or start >= stop for start, stop, step in spans):
        raise Unreadable
    (top, bottom, _), (left, right, _) = spans[:2]
    return [L.Cropping2D((top, use.shape[0] - bottom, left, use.shape[1] - right))]


def _concatenate(use: Use) -> Sequence[Layer]:
    _last(use.op.axis, use)
    return [L.Concatenate()] if len(use.shapes) > 1 else []


def _glu(use: Use) -> list[Layer]:
    _last(use.op.axis, use)
    return [L.GLU()]


def _reshape(use: Use) -> list[Layer]:
    first, *rest = use.op.newshape
    if first not in (-1, None) or not rest:
        raise Unreadable
    return [L.Reshape(tuple(-1 if n is None else int(n) for n in rest))]


def _squeezed(use: Use) -> list[Layer]:
    shape = use.op.compute_output_spec(keras.KerasTensor((2, *use.shape))).shape
    if shape[0] != 2:  # the axis of the batch itself
        raise Unreadable
    return [L.Reshape(tuple(shape[1:]))]


def _nothing_if(unchanged: bool) -> list[Layer]:
    if not unchanged:
        raise Unreadable
    return []


def _center_crop(use: Use) -> list[Layer]:
    rows, columns = use.shape[0] - use.op.height, use.shape[1] - use.op.width
    if min(rows, columns) < 0:
        raise Unreadable
    return [L.Cropping2D((rows // 2, rows - rows // 2, columns // 2, columns - columns // 2))]


def _nothing(use: Use) -> list[Layer]:
    return []


# --- the tables -----------------------------------------------------------------------------

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
    "BatchNormalization": _along_channels(L.BatchNormalization),
    "GroupNormalization": _along_channels(L.GroupNormalization),
    "LayerNormalization": _layer_norm,
    "Activation": _alone,
    "ReLU": _relu,
    "LeakyReLU": _spelled("leaky_relu"),
    "ELU": _spelled("elu"),
    "Softmax": _softmax,
    "PReLU": lambda use: [L.PReLU(tuple(use.op.shared_axes or ()))],
    "EinsumDense": _einsum,
    "LayerScale": lambda use: [L.LayerScale()],  # of keras.applications, as the two below
    "StochasticDepth": lambda use: [L.StochasticDepth(use.op.drop_path_rate)],
    # InceptionResNetV2's: the first input plus the second, scaled.
    "CustomScaleLayer": lambda use: [Piece(L.Rescaling(float(use.op.scale)), (1,)), Piece(L.Add(), (0, -1))],
    "Dropout": _dropout,
    "SpatialDropout2D": _same(L.SpatialDropout2D),
    "AlphaDropout": _same(L.AlphaDropout),
    "GaussianDropout": _same(L.GaussianDropout),
    "GaussianNoise": _same(L.GaussianNoise),
    "Flatten": _same(L.Flatten),
    "Reshape": lambda use: [L.Reshape(tuple(-1 if n is None else int(n) for n in use.op.target_shape))],
    "Dense": _learnt(L.Dense),
    "Add": _joining(L.Add),
    "Subtract": _joining(L.Subtract),
    "Multiply": _joining(L.Multiply),
    "Average": _joining(L.Average),
    "Maximum": _joining(L.Maximum),
    "Minimum": _joining(L.Minimum),
    "Concatenate": _concatenate,
    "ZeroPadding2D": _padding,
    "Cropping2D": _cropping,
    "UpSampling2D": _same(L.UpSampling2D),
    "Rescaling": _rescaling,
    "Normalization": _normalization,
    "Permute": lambda use: _nothing_if(tuple(use.op.dims) == tuple(range(1, len(use.shape) + 1))),
    "Resizing": lambda use: _nothing_if((use.op.height, use.op.width) == use.shape[:2]),
    "CenterCrop": _center_crop,
    "Identity": _nothing,
    "ActivityRegularization": _nothing,
    # While a model answers, these leave the image as it is.
    **dict.fromkeys(
        ("AugMix", "CutMix", "MixUp", "RandAugment", "RandomBrightness", "RandomColorDegeneration",
         "RandomColorJitter", "RandomContrast", "RandomElasticTransform", "RandomErasing", "RandomFlip",
         "RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective",
         "RandomPosterization", "RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear",
         "RandomTranslation", "RandomZoom"),
        _nothing,
    ),
}  # fmt: skip

_FUNCTIONS = {
    "Relu": "relu", "Relu6": "relu6", "LeakyRelu": "leaky_relu", "Elu": "elu", "Selu": "selu", "Celu": "celu",
    "Silu": "silu", "HardSilu": "hard_silu", "Softplus": "softplus", "Softsign": "softsign",
    "Squareplus": "squareplus", "SparsePlus": "sparse_plus", "Exp": "exponential", "Tanh": "tanh",
    "HardTanh": "hard_tanh", "TanhShrink": "tanh_shrink", "SoftShrink": "soft_shrink", "HardShrink": "hard_shrink",
    "Sigmoid": "sigmoid", "HardSigmoid": "hard_sigmoid", "LogSigmoid": "log_sigmoid",
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
    "Concatenate": _concatenate,
    "Reshape": _reshape,
    "Squeeze": _squeezed,
    "ExpandDims": _squeezed,
    "Pad": _pad,
    "GetItem": _item,
    "Mean": _over_map(L.GlobalAveragePooling2D),
    "Max": _over_map(L.GlobalMaxPooling2D),
    "Glu": _glu,
    "Gelu": lambda use: [L.Activation("gelu_tanh" if use.op.approximate else "gelu")],
    "Threshold": _spelled("threshold", value="default_value"),
    **{name: _spelled(known) for name, known in _FUNCTIONS.items()},
    **dict.fromkeys(("Divide", "TrueDivide"), _divided),
    **dict.fromkeys(("Identity", "StopGradient", "Cast", "Copy"), _nothing),
}
