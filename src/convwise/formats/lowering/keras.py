"""What each layer becomes in Keras: classes of keras.layers, alike on its backends.

These are TensorFlow, JAX and PyTorch. What one class cannot say is composed of several where that
is exact: the outputs of a stride are every s-th output of stride 1 (MaxPooling2D(1, strides=s)
picks them), explicit padding is ZeroPadding2D or Cropping2D, and functions that scale with their
argument stand between two Rescaling. GLU is in keras_glu.py. Keras itself is not loaded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from math import ceil, floor
from typing import Any

from convwise.core import layers as L
from convwise.core.activations import INFINITY, Activated, activation
from convwise.core.geometry import window_of
from convwise.core.layer_windows import transposed_crops
from convwise.core.parameters import REQUIRED, Pads, Pair
from convwise.core.problems import Unsupported
from convwise.core.windows import NO_PADS, Shape, Window, outputs_of, pads_of
from convwise.formats.lowering.calls import Call, consumed, one, short

Pool = L.MaxPooling2D | L.AveragePooling2D
Adaptive = L.AdaptiveAveragePooling2D | L.AdaptiveMaxPooling2D
Calls = tuple[Call, ...]
_SIDES = ((0, 1), (2, 3))  # of (top, bottom, left, right), per axis
# The parameters that Keras's layers have under the same names: no other is handed on.
TERMS = frozenset((
    "activation", "axis", "center", "depth_multiplier", "dilation_rate", "epsilon", "filters",
    "groups", "interpolation", "keepdims", "kernel_size", "momentum", "output_padding",
    "output_size", "padding", "pool_size", "rate", "scale", "size", "stddev", "strides",
    "target_shape", "units", "use_bias",
))  # fmt: skip
# Keyword arguments that need not be written, since they are Keras's defaults: of classes that are
# no layer of ours by name...
DEFAULTS: dict[str, Mapping[str, Any]] = {
    "ReLU": {"max_value": None, "negative_slope": 0.0, "threshold": 0.0},
    "Rescaling": {"offset": 0.0},
    "PReLU": {"shared_axes": None},
    "MaxPooling2D": {"strides": None, "padding": "valid"},
    "AveragePooling2D": {"strides": None, "padding": "valid"},
}
# ... and of those that are, where Keras's default is not ours.
DIFFERENT: dict[tuple[str, str], Any] = {
    ("BatchNormalization", "momentum"): 0.99,
    ("Conv2DTranspose", "output_padding"): None,
}


def lower(layer: L.Layer, shapes: Sequence[Shape], *, not_negative: bool = False) -> Calls:
    """The keras.layers classes that do what the layer does on maps of `shapes`, or Unsupported.

    not_negative: whether the layer's input is known to hold no number below 0.
    """
    rule = LOWER.get(type(layer))
    if rule is None:
        what = f"{layer.op} cannot be expressed in Keras"
        known = ", ".join(kind.__name__ for kind in LOWER)
        raise Unsupported("keras", layer.name, what, f"one of {known}")
    with consumed("keras", layer, "shape", "values", "training"):
        return rule(layer, shapes[0], not_negative)


# --- terms ----------------------------------------------------------------------------------


def same_terms(layer: L.Layer, **changes: Any) -> Call:
    """The Keras layer of the same name with the same parameters, apart from `changes`."""
    shared = [p for p in L.parameters(layer) if p.name in TERMS]
    declared = {p.name: changes.get(p.name, getattr(layer, p.name)) for p in shared}
    first = [p.name for p in shared if p.default is REQUIRED]
    apart = [*first, "groups"] if isinstance(layer, L.Conv2DTranspose) else first
    rest = {name: _plain(name, value) for name, value in declared.items() if name not in apart}
    args = tuple(one(declared[name]) for name in first)
    return short(layer.op, args, rest, defaults(type(layer)))


def defaults(kind: type[L.Layer]) -> dict[str, Any]:
    """Keras's defaults of the parameters that its layer of the same name shares with ours."""
    shared = [p for p in L.parameters(kind) if p.name in TERMS]
    return {
        p.name: DIFFERENT.get((kind.__name__, p.name), _plain(p.name, p.default)) for p in shared
    }


def _call(kind: str, *args: Any, **kwargs: Any) -> Call:
    return short(kind, args, kwargs, DEFAULTS[kind])


def _plain(name: str, value: Any) -> Any:
    return None if (name, value) == ("activation", "linear") else one(value)


def _as_it_is(layer: L.Layer, shape: Shape, not_negative: bool) -> Calls:
    return (same_terms(layer),)


def _activated(layer: Any, **changes: Any) -> Calls:
    """The layer with its activation: inside by its name, or after it where it has arguments."""
    after = _function(layer, activation(layer.activation))
    inside = "linear" if after else layer.activation
    return (same_terms(layer, activation=inside, **changes), *after)


# --- activations ----------------------------------------------------------------------------

# f(x) = c f'(x / c), where f' has Keras's fixed arguments: c from the arguments.
_SCALED: dict[str, Callable[[Mapping[str, float]], float]] = {
    "celu": lambda given: given["alpha"],
    "softplus": lambda given: 1 / given["beta"],
    "squareplus": lambda given: (given["b"] / 4) ** 0.5,
    "soft_shrink": lambda given: given["threshold"] / 0.5,
    "hard_shrink": lambda given: given["threshold"] / 0.5,
}


def _function(layer: L.Layer, given: Activated) -> Calls:
    """An activation with arguments as layers; nothing where Keras has it by its name."""
    if not given.row.keras:
        what = f"keras.activations lacks {given.name}"
        raise Unsupported("keras", layer.name, what, "gelu, relu, or softmax")
    if not given.changed:
        return ()
    arguments = dict(given.arguments)
    match given.name:
        case "relu":
            most = arguments.pop("max_value")
            return (_call("ReLU", max_value=None if most == INFINITY else most, **arguments),)
        case "leaky_relu":
            return (Call("LeakyReLU", (), arguments),)
        case "elu":
            return (Call("ELU", (), arguments),)
        case "hard_tanh":
            return _clipped(layer, arguments["min_val"], arguments["max_val"])
    return _scaled(layer, given)


def _clipped(layer: L.Layer, low: float, high: float) -> Calls:
    """low + min(max(x - low, 0), high - low)."""
    if not -INFINITY < low < high:
        what = f"hard_tanh from {low} to {high} cannot be expressed in Keras"
        raise Unsupported("keras", layer.name, what, "other ends")
    inside = _call("ReLU", max_value=None if high == INFINITY else high - low)
    return (_moved(offset=-low), inside, _moved(offset=low)) if low else (inside,)


def _moved(scale: float = 1.0, offset: float = 0.0) -> Call:
    return _call("Rescaling", scale, offset=offset)


def _scaled(layer: L.Layer, given: Activated) -> Calls:
    by = _SCALED[given.name](given.arguments)
    if not 0 < by < INFINITY:
        what = f"{given} cannot be expressed in Keras"
        raise Unsupported("keras", layer.name, what, "arguments above 0")
    return _moved(1 / by), Call("Activation", (given.name,)), _moved(by)


def _activation(layer: L.Activation, shape: Shape, not_negative: bool) -> Calls:
    return _function(layer, activation(layer.activation)) or (same_terms(layer),)


# --- convolutions ---------------------------------------------------------------------------


def _windowed(
    layer: L.Conv2D | L.DepthwiseConv2D | L.SeparableConv2D, shape: Shape, not_negative: bool
) -> Calls:
    """Strides that Keras refuses follow as a layer of picks.

    It refuses them with dilation, and on TensorFlow uneven ones of a depthwise convolution.
    """
    uneven = not isinstance(layer, L.Conv2D) and layer.strides[0] != layer.strides[1]
    if max(layer.strides) > 1 and (uneven or max(layer.dilation_rate) > 1):
        made = _activated(layer, padding="valid", strides=(1, 1))
        return *_zeros(window_of(layer, shape).pads), *made, _picked(layer.strides)
    padding, pads = _padding(layer, shape)
    return *_zeros(pads), *_activated(layer, padding=padding)


def _picked(strides: Pair) -> Call:
    """Every s-th row and column, from the first."""
    return Call("MaxPooling2D", (1,), {"strides": one(strides)})


def _padding(layer: Any, shape: Shape) -> tuple[str, Pads]:
    """Keras's word for the layer's padding, and the pads that need a layer of their own."""
    if isinstance(layer.padding, str):
        return layer.padding, NO_PADS
    window = window_of(layer, shape)
    if layer.padding == pads_of("same", shape, window.kernel, window.strides, window.dilation):
        return "same", NO_PADS
    return "valid", layer.padding


def _zeros(pads: Pads) -> Calls:
    """ZeroPadding2D, as short as it can be written; nothing where nothing is padded."""
    return (Call("ZeroPadding2D", (_sides(pads),)),) if any(pads) else ()


def _sides(pads: Pads) -> Any:
    top, bottom, left, right = pads
    return one((top, left)) if top == bottom and left == right else ((top, bottom), (left, right))


def _cropped(crops: Pads) -> Calls:
    return (Call("Cropping2D", (_sides(crops),)),) if any(crops) else ()


def _transposed(layer: L.Conv2DTranspose, shape: Shape, not_negative: bool) -> Calls:
    _check_transposed(layer)
    if isinstance(layer.padding, str) and layer.output_padding == (0, 0):
        return _activated(layer, output_padding=None)
    top, bottom, left, right = transposed_crops(layer)
    extra = max(-bottom, 0), max(-right, 0)
    if any(more >= step for more, step in zip(extra, layer.strides, strict=True) if more):
        what = f"output_padding that adds {extra} to the full output is refused by Keras"
        raise Unsupported("keras", layer.name, what, "output_padding below the strides")
    # Without a word on it, Keras adds what a step larger than the kernel leaves open.
    sizes = zip(layer.kernel_size, layer.strides, strict=True)
    open_ended = any(size < step for size, step in sizes)
    added = extra if any(extra) or open_ended else None
    made = _activated(layer, padding="valid", output_padding=added)
    return *made, *_cropped((top, max(bottom, 0), left, max(right, 0)))


def _check_transposed(layer: L.Conv2DTranspose) -> None:
    if layer.groups > 1:
        what = f"groups={layer.groups} of Conv2DTranspose cannot be expressed in Keras"
        raise Unsupported("keras", layer.name, what, "groups=1")
    if max(layer.dilation_rate) > 1 and max(layer.strides) > 1:
        both = f"strides {layer.strides} with dilation_rate {layer.dilation_rate}"
        what = f"{both} is refused by Keras"
        raise Unsupported("keras", layer.name, what, "strides or dilation_rate of 1")


# --- pooling --------------------------------------------------------------------------------


def _pool(layer: Pool, shape: Shape, not_negative: bool) -> Calls:
    window = window_of(layer, shape)
    reached = tuple(_reached(shape, window, axis) for axis in (0, 1))
    if any(pad >= layer.pool_size[i // 2] for i, pad in enumerate(window.pads)):
        what = f"padding {window.pads} makes windows of {layer.pool_size} that hold only padding"
        raise Unsupported("keras", layer.name, what, "padding smaller than the pool")
    made = _pool_by_word(layer, shape, window, reached)
    made = made or _pool_of_zeros(layer, window, not_negative)
    made = made or _pool_of_picks(layer, shape, window, reached)
    if not made:
        cannot = "cannot be expressed in Keras the same on every backend"
        what = f"padding {window.pads} of {layer.op} {cannot}"
        fix = "padding='valid', an odd pool size, or MaxPooling2D after relu"
        raise Unsupported("keras", layer.name, what, fix)
    return made


def _reached(shape: Shape, window: Window, axis: int) -> Pair:
    """(before, after) that the windows reach along an axis.

    after may be less than the padding, or below 0.
    """
    before, after = (window.pads[side] for side in _SIDES[axis])
    step, size = window.strides[axis], window.kernel[axis]
    last = (outputs_of(shape[axis], before, after, size, step) - 1) * step
    return before, last + size - shape[axis] - before


def _pool_by_word(layer: Pool, shape: Shape, window: Window, reached: Sequence[Pair]) -> Calls:
    """'valid' or 'same' where it puts the same windows on the map: the layer's own word first."""
    own = (layer.padding,) if isinstance(layer.padding, str) else ()
    for word in dict.fromkeys((*own, "valid", "same")):
        pads = pads_of(word, shape, layer.pool_size, layer.strides)
        by_word = Window(window.kernel, window.strides, (1, 1), pads)
        there = [_reached(shape, by_word, axis) for axis in (0, 1)]
        # Where 'same' is uneven, Keras 3.15 averages copies of the edge on PyTorch alone.
        fair = not isinstance(layer, L.AveragePooling2D) or pads[::2] == pads[1::2]
        counted = getattr(layer, "count_include_pad", False) and any(pads)
        if list(reached) == there and fair and not counted:
            return (pool_call(layer, word),)
    return ()


def pool_call(layer: Pool, padding: str) -> Call:
    """The Keras layer of the same name with Keras's word for the padding."""
    strides = None if layer.strides == layer.pool_size else one(layer.strides)
    return _call(layer.op, one(layer.pool_size), strides=strides, padding=padding)


def _pool_of_zeros(layer: Pool, window: Window, not_negative: bool) -> Calls:
    """Zeros around the map, where they count, or where no number is below them."""
    if isinstance(layer, L.AveragePooling2D):
        # The pads are others where ceil_mode adds some, which do not count
        fits = layer.count_include_pad and window.pads == layer.padding
    else:
        fits = not_negative
    return (*_zeros(window.pads), pool_call(layer, "valid")) if fits else ()


def _pool_of_picks(layer: Pool, shape: Shape, window: Window, reached: Sequence[Pair]) -> Calls:
    """Every s-th output of pools of stride 1 with 'same': what is outside the map never counts."""
    if getattr(layer, "count_include_pad", False) and any(window.pads):
        return ()
    plans = [
        _pools_for(layer, size, sides) for size, sides in zip(layer.pool_size, reached, strict=True)
    ]
    if None in plans:
        return ()
    sizes = zip_longest(*(plan[0] for plan in plans if plan), fillvalue=1)
    pools = [_call(layer.op, one(size), strides=1, padding="same") for size in sizes]
    starts = [plan[1] - sides[0] for plan, sides in zip(plans, reached, strict=True) if plan]
    picks = () if layer.strides == (1, 1) else (_picked(layer.strides),)
    return *pools, *_cropped(_crops_of_picks(shape, window, starts)), *picks


def _pools_for(layer: Pool, size: int, sides: Pair) -> tuple[list[int], int] | None:
    """Sizes of pools in a row that reach at least `sides` around the map, and what before it."""
    before = (size - 1) // 2
    enough = sides[0] <= before and sides[1] <= size - 1 - before
    if enough and (size % 2 or isinstance(layer, L.MaxPooling2D)):
        return [size], before
    before = size - 1 - max(sides[1], 0)
    if isinstance(layer, L.AveragePooling2D) or sides[0] > before or 2 * before > size - 1:
        return None
    twos = [2] * (size - 1 - 2 * before)
    return ([2 * before + 1, *twos] if before else twos), before


def _crops_of_picks(shape: Shape, window: Window, starts: Sequence[int]) -> Pads:
    """What to crop of outputs of stride 1, so that the picks begin and end with the windows."""
    ends = []
    for axis in (0, 1):
        before, after = (window.pads[side] for side in _SIDES[axis])
        step = window.strides[axis]
        outputs = outputs_of(shape[axis], before, after, window.kernel[axis], step)
        last = starts[axis] + (outputs - 1) * step
        ends.append(max(shape[axis] - 1 - last - (step - 1), 0))
    return starts[0], ends[0], starts[1], ends[1]


# --- the others -----------------------------------------------------------------------------


def _normalization(layer: L.Normalization, shape: Shape, not_negative: bool) -> Calls:
    numbers = (layer.mean, layer.variance)
    mean, variance = (list(n) if len(n) > 1 else list(n) * shape[-1] for n in numbers)
    return (Call("Normalization", (), {"mean": mean, "variance": variance}),)


def _adaptive(layer: Adaptive, shape: Shape, not_negative: bool) -> Calls:
    """Equal windows are those of a plain pool, which every backend has right."""
    outputs = layer.output_size
    if all(n % out == 0 for n, out in zip(shape, outputs, strict=False)):
        kind = layer.op.removeprefix("Adaptive")
        return (Call(kind, (one((shape[0] // outputs[0], shape[1] // outputs[1])),)),)
    if any(_misplaced(n, out) for n, out in zip(shape, outputs, strict=False)):
        what = f"{outputs} windows on a map of {shape[:2]} give NaN with Keras on JAX"
        raise Unsupported("keras", layer.name, what, "output_size that divides the map")
    return (same_terms(layer),)


def _misplaced(size: int, outputs: int) -> bool:
    """Whether float32 puts a window elsewhere: Keras 3.15 on JAX finds them as i n times 1 / o."""
    for n in range(0, outputs * size + 1, size):
        place = _float32(_float32(n) * _float32(1 / outputs))
        if floor(place) != n // outputs or ceil(place) != -(-n // outputs):
            return True
    return False


def _float32(number: float) -> float:
    """The nearest float32; a product of two of them is exact in Python's float."""
    return float(struct.unpack("f", struct.pack("f", number))[0])


def _upsampling(layer: L.UpSampling2D, shape: Shape, not_negative: bool) -> Calls:
    if layer.interpolation == "bicubic":
        what = "bicubic interpolation gives other numbers on other Keras backends"
        raise Unsupported("keras", layer.name, what, "interpolation='bilinear'")
    return (same_terms(layer),)


def _rescaling(layer: L.Rescaling, shape: Shape, not_negative: bool) -> Calls:
    scale, offset = (list(n) if len(n) > 1 else n[0] for n in (layer.scale, layer.offset))
    return (_call("Rescaling", scale, offset=offset),)


def _layer_norm(layer: L.LayerNormalization, shape: Shape, not_negative: bool) -> Calls:
    axes = sorted(axis % (len(shape) + 1) for axis in layer.axis)
    if axes[-1] < len(shape) and axes == list(range(axes[0], axes[-1] + 1)):
        # Keras 3.15 on PyTorch normalises the last axes instead, on TensorFlow and JAX these.
        which = f"axis={layer.axis}, which are neighbours before the channels,"
        what = f"{which} is not the same on every backend of Keras"
        fix = f"axis={(*layer.axis, len(shape))}, or axis=-1"
        raise Unsupported("keras", layer.name, what, fix)
    return _as_it_is(layer, shape, not_negative)


def _layer_scale(layer: L.LayerScale, shape: Shape, not_negative: bool) -> Calls:
    axes = "abcdefgh"[: len(shape) + 1]
    return (Call("EinsumDense", (f"{axes},{axes[-1]}->{axes}", shape)),)


def _stochastic(layer: L.StochasticDepth, shape: Shape, not_negative: bool) -> Calls:
    return (Call("Dropout", (layer.rate,), {"noise_shape": (None, *(1 for _ in shape))}),)


LOWER: dict[type[L.Layer], Callable[[Any, Shape, bool], Calls]] = {
    L.Conv2D: _windowed,
    L.DepthwiseConv2D: _windowed,
    L.SeparableConv2D: _windowed,
    L.Conv2DTranspose: _transposed,
    L.MaxPooling2D: _pool,
    L.AveragePooling2D: _pool,
    L.GlobalAveragePooling2D: _as_it_is,
    L.GlobalMaxPooling2D: _as_it_is,
    L.AdaptiveAveragePooling2D: _adaptive,
    L.AdaptiveMaxPooling2D: _adaptive,
    L.BatchNormalization: _as_it_is,
    L.GroupNormalization: _as_it_is,
    L.LayerNormalization: _layer_norm,
    L.Activation: _activation,
    L.PReLU: lambda layer, shape, not_negative: (
        _call("PReLU", shared_axes=list(layer.shared_axes) or None),
    ),
    L.LayerScale: _layer_scale,
    L.Dropout: _as_it_is,
    L.SpatialDropout2D: _as_it_is,
    L.AlphaDropout: _as_it_is,
    L.GaussianDropout: _as_it_is,
    L.GaussianNoise: _as_it_is,
    L.StochasticDepth: _stochastic,
    L.Flatten: _as_it_is,
    L.Reshape: lambda layer, shape, not_negative: (Call("Reshape", (layer.target_shape,)),),
    L.Dense: lambda layer, shape, not_negative: _activated(layer),
    L.Add: _as_it_is,
    L.Subtract: _as_it_is,
    L.Multiply: _as_it_is,
    L.Average: _as_it_is,
    L.Maximum: _as_it_is,
    L.Minimum: _as_it_is,
    L.Concatenate: _as_it_is,
    L.ZeroPadding2D: lambda layer, shape, not_negative: (
        Call("ZeroPadding2D", (_sides(layer.padding),)),
    ),
    L.Cropping2D: lambda layer, shape, not_negative: (
        Call("Cropping2D", (_sides(layer.cropping),)),
    ),
    L.UpSampling2D: _upsampling,
    L.Rescaling: _rescaling,
    L.Normalization: _normalization,
}
