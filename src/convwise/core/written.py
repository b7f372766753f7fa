"""One layer as source lines of Keras and of PyTorch, written without either: for answers that must come at once.

Each line is a call; the lines in order, in keras.Sequential or in nn.Sequential, do what the layer
does on an input of the given shape. Where a framework cannot say it, there are no lines but a
Problem; where it could easily be said wrongly, there is a Problem too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from convwise.core.activations import activation
from convwise.core.geometry import GEOMETRY, transposed_crops
from convwise.core.layers import (
    AveragePooling2D,
    Conv2D,
    Conv2DTranspose,
    DepthwiseConv2D,
    Layer,
    MaxPooling2D,
    SeparableConv2D,
    parameters,
)
from convwise.core.parameters import REQUIRED, Pads, Pair
from convwise.core.problems import Problem
from convwise.core.windows import Shape, Window, effective, outputs_of, pads_of, symmetric, torch_positions

Convolution = Conv2D | DepthwiseConv2D | SeparableConv2D
Pool = MaxPooling2D | AveragePooling2D
# Activations that keras.layers has as a layer with arguments; the others take a lambda.
_KERAS_LAYERS = {"relu": "ReLU", "leaky_relu": "LeakyReLU", "elu": "ELU"}
# Activations whose arguments keras.activations lacks.
_FIXED_IN_KERAS = ("hard_tanh", "softplus")
# Activations whose class in core/activations.py is convwise's own: torch.nn has none.
NOT_IN_TORCH = ("squareplus", "sparse_plus", "exponential", "sparse_sigmoid", "sparsemax")


@dataclass(frozen=True)
class Written:
    """Source lines, and what to know before using them."""

    lines: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    def then(self, other: Written) -> Written:
        """These lines, then those."""
        return Written(self.lines + other.lines, self.problems + other.problems)


def keras_lines(layer: Layer, shape: Shape) -> Written:
    """The layer on maps of `shape` as calls of keras.layers."""
    return KERAS[type(layer)](layer, shape)


def torch_lines(layer: Layer, shape: Shape) -> Written:
    """The layer on maps of `shape` as calls of torch.nn; maps there are (channels, height, width)."""
    return TORCH[type(layer)](layer, shape)


def _call(name: str, *args: Any, **kwargs: Any) -> str:
    """'nn.Conv2d(3, 16, 5, stride=2)'; arguments that are None are left out."""
    words = [_literal(value) for value in args]
    words += [f"{key}={_literal(value)}" for key, value in kwargs.items() if value is not None]
    return f"{name}({', '.join(words)})"


def _literal(value: Any) -> str:
    if isinstance(value, tuple) and len(set(value)) == 1 and len(value) == 2:
        value = value[0]
    if value == float("-inf"):
        return 'float("-inf")'
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _unless(value: Any, usual: Any) -> Any:
    """The value, or None where it is the usual one and need not be written."""
    return None if value == usual else value


def _warning(where: str, what: str, fix: str, expected: str = "") -> Problem:
    return Problem(where, what, expected, fix, "warning")


def _cannot(where: str, what: str, fix: str) -> Written:
    return Written((), (_warning(where, what, fix),))


# --- Keras ----------------------------------------------------------------------------------


def _keras(layer: Layer, **changes: Any) -> Written:
    """The class of the same name with the parameters that are not at their defaults, and its activation."""
    rows = [(p, changes.get(p.name, getattr(layer, p.name))) for p in parameters(layer)]
    first = [value for p, value in rows if p.default is REQUIRED]
    rest = {p.name: _unless(value, p.default) for p, value in rows if p.default is not REQUIRED}
    inline, after = _keras_activation(rest.pop("activation") or "linear")
    return Written((_call(f"layers.{layer.op}", *first, **rest, activation=inline),)).then(after)


def _keras_activation(text: str) -> tuple[str | None, Written]:
    """What stands inside the layer, and what after it."""
    found = activation(text)
    if not found.row.keras or (found.changed and found.name in _FIXED_IN_KERAS):
        where = f"Keras, activation {text}"
        problem = _warning(where, "is not in keras.activations", f"write a layer for {found.row.meaning}")
        return None, Written((f"# then {found}: {found.row.meaning}",), (problem,))
    if not found.changed:
        return _unless(found.name, "linear"), Written()
    if found.name in _KERAS_LAYERS:
        return None, Written((_call(f"layers.{_KERAS_LAYERS[found.name]}", **found.changed),))
    words = ", ".join(f"{key}={value!r}" for key, value in found.changed.items())
    return None, Written((f"layers.Activation(lambda x: keras.activations.{found.name}(x, {words}))",))


def _keras_conv(layer: Convolution, shape: Shape) -> Written:
    if max(layer.strides) > 1 and max(layer.dilation_rate) > 1:
        return _mixed(layer)
    word, pads = _keras_padding(layer.padding, _window(layer, shape), shape)
    zeros = Written((_keras_zeros(pads),)) if pads else Written()
    return zeros.then(_keras(layer, padding=word)).then(_uneven_strides(layer))


def _mixed(layer: Convolution | Conv2DTranspose) -> Written:
    what = f"refuses strides {_size(layer.strides)} together with dilation_rate {_size(layer.dilation_rate)}"
    return _cannot("Keras", what, "strides=1 or dilation_rate=1")


def _uneven_strides(layer: Convolution) -> Written:
    if isinstance(layer, Conv2D) or len(set(layer.strides)) == 1:
        return Written()
    what = f"on TensorFlow takes no {layer.op} with other strides along rows than along columns"
    return _cannot("Keras", what, "equal strides, or the torch or JAX backend")


def _window(layer: Layer, shape: Shape) -> Window:
    window = GEOMETRY[type(layer)].window(layer, shape)
    assert window is not None
    return window


def _keras_padding(padding: str | Pads | None, window: Window, shape: Shape) -> tuple[str, Pads | None]:
    """Keras's word for the padding, and the pads that need a layer of their own. None: only the window says them."""
    if isinstance(padding, str):
        return padding, None
    if not any(window.pads):
        return "valid", None
    same = window.pads == pads_of("same", shape, window.kernel, window.strides, window.dilation)
    return ("same", None) if same else ("valid", window.pads)


def _keras_zeros(pads: Pads, name: str = "layers.ZeroPadding2D") -> str:
    top, bottom, left, right = pads
    if (top, left) == (bottom, right):
        return _call(name, (top, left))
    return f"{name}((({top}, {bottom}), ({left}, {right})))"


def _keras_pool(layer: Pool, shape: Shape) -> Written:
    window, zeros = _window(layer, shape), Written()
    word, pads = _keras_padding(None if layer.ceil_mode else layer.padding, window, shape)
    if isinstance(layer, AveragePooling2D) and layer.count_include_pad and any(window.pads) and not layer.ceil_mode:
        word, pads, zeros = "valid", None, Written((_keras_zeros(window.pads),))
    if pads or getattr(layer, "count_include_pad", False) and layer.ceil_mode:
        what = f"has no {layer.op} with padding {window.pads}: zeros from ZeroPadding2D would count as values"
        return _cannot("Keras", what, "padding='same' or 'valid'; before a max pool, zeros are right after relu")
    strides = _unless(layer.strides, layer.pool_size)
    line = _call(f"layers.{layer.op}", layer.pool_size, strides=strides, padding=_unless(word, "valid"))
    return zeros.then(Written((line,), _backends(layer, window, word)))


def _backends(layer: Pool, window: Window, word: str) -> tuple[Problem, ...]:
    top, bottom, left, right = window.pads
    if word != "same" or isinstance(layer, MaxPooling2D) or (top, left) == (bottom, right):
        return ()
    what = f"padding='same' of {window.pads} gives other means at the edge on the torch backend than on TensorFlow"
    return (_warning("Keras", what, "padding='valid', or a map that the pool divides"),)


def keras_crops(padding: str, reach: int, extra: int) -> Pair:
    """(before, after) that Keras takes from a transposed convolution's full output, given output_padding `extra`.

    reach: of its kernel. 'same' leaves (n - 1) s + k mod 2 + extra, 'valid' (n - 1) s + k + extra: after
    _get_output_shape_given_tf_padding in keras/src/backend/common/backend_utils.py.
    """
    total = (reach - reach % 2 if padding == "same" else 0) - extra
    before = max(total, 0) // 2
    return before, total - before


def _keras_transposed(layer: Conv2DTranspose, shape: Shape) -> Written:
    if max(layer.strides) > 1 and max(layer.dilation_rate) > 1:
        return _mixed(layer)
    if layer.groups > 1:
        return _cannot("Keras", "has no groups in Conv2DTranspose", "groups=1")
    crops = transposed_crops(layer)
    for word in ("valid", "same"):
        if crops == transposed_crops(_plain(layer, word)):
            return _keras(layer, padding=word, output_padding=(0, 0))
        extra = _keras_extra(layer, word, crops)
        if extra is not None:
            return Written((_transposed_call(layer, word, extra),)).then(_keras_activation(layer.activation)[1])
    return _keras_cropped(layer, crops)


def _plain(layer: Conv2DTranspose, word: str) -> Conv2DTranspose:
    return Conv2DTranspose(layer.filters, layer.kernel_size, layer.strides, word, dilation_rate=layer.dilation_rate)


def _keras_extra(layer: Conv2DTranspose, word: str, crops: Pads) -> Pair | None:
    """The output_padding with which Keras's word takes just these crops, if there is one."""
    extra = []
    for axis, reach in enumerate(_reach(layer)):
        before, after = crops[2 * axis], crops[2 * axis + 1]
        more = (reach - reach % 2 if word == "same" else 0) - before - after
        if not 0 <= more < layer.strides[axis] or keras_crops(word, reach, more) != (
            before,
            after,
        ):
            return None
        extra.append(more)
    return extra[0], extra[1]


def _reach(layer: Conv2DTranspose) -> Pair:
    rows, columns = (effective(k, d) for k, d in zip(layer.kernel_size, layer.dilation_rate, strict=True))
    return rows, columns


def _transposed_call(layer: Conv2DTranspose, word: str, extra: Pair | None) -> str:
    usual = {p.name: p.default for p in parameters(layer)}
    rest = {name: _unless(getattr(layer, name), usual[name]) for name in ("strides", "dilation_rate", "use_bias")}
    inline, _ = _keras_activation(layer.activation)
    return _call(f"layers.{layer.op}", layer.filters, layer.kernel_size, strides=rest["strides"],
                 padding=_unless(word, "valid"), output_padding=extra, dilation_rate=rest["dilation_rate"],
                 use_bias=rest["use_bias"], activation=inline)  # fmt: skip


def _keras_cropped(layer: Conv2DTranspose, crops: Pads) -> Written:
    """The whole output, then Cropping2D."""
    top, bottom, left, right = crops
    extra = max(-bottom, 0), max(-right, 0)
    if any(more >= stride for more, stride in zip(extra, layer.strides, strict=True)):
        return _cannot("Keras", f"takes output_padding below strides only, this needs {extra}", "less output_padding")
    fills = any(reach < stride for reach, stride in zip(_reach(layer), layer.strides, strict=True))
    line = _transposed_call(layer, "valid", extra if any(extra) or fills else None)
    crop = _keras_zeros((top, max(bottom, 0), left, max(right, 0)), "layers.Cropping2D")
    return Written((line,)).then(_keras_activation(layer.activation)[1]).then(Written((crop,)))


KERAS: dict[type[Layer], Callable[[Any, Shape], Written]] = {
    Conv2D: _keras_conv,
    DepthwiseConv2D: _keras_conv,
    SeparableConv2D: _keras_conv,
    Conv2DTranspose: _keras_transposed,
    MaxPooling2D: _keras_pool,
    AveragePooling2D: _keras_pool,
}


# --- PyTorch --------------------------------------------------------------------------------


def _torch_activation(text: str) -> Written:
    found = activation(text)
    if found.name == "linear":
        return Written()
    lost = [key for key in found.changed if f"{{{key}}}" not in found.row.torch]
    if found.name in NOT_IN_TORCH or lost:
        where = f"PyTorch, activation {text}"
        problem = _warning(where, "is not in torch.nn", f"write a module for {found.row.meaning}")
        return Written((f"# then {found}: {found.row.meaning}",), (problem,))
    return Written((f"nn.{found.torch}",))


def _torch_conv(layer: Convolution, shape: Shape) -> Written:
    window = _window(layer, shape)
    before, padding = _torch_padding(layer, window, shape)
    stride, dilation = _unless(layer.strides, (1, 1)), _unless(layer.dilation_rate, (1, 1))
    more = {"stride": stride, "padding": padding, "dilation": dilation}
    calls = _torch_calls(layer, shape[2], more)
    return Written((*before, *calls), _phase(layer, window, shape)).then(_torch_activation(layer.activation))


def _torch_calls(layer: Convolution, channels: int, more: dict[str, Any]) -> tuple[str, ...]:
    bias = _unless(layer.use_bias, True)
    if isinstance(layer, Conv2D):
        groups = _unless(layer.groups, 1)
        return (_call("nn.Conv2d", channels, layer.filters, layer.kernel_size, **more, groups=groups, bias=bias),)
    inside = channels * layer.depth_multiplier
    only = None if isinstance(layer, DepthwiseConv2D) and layer.use_bias else False
    depthwise = _call("nn.Conv2d", channels, inside, layer.kernel_size, **more, groups=channels, bias=only)
    if isinstance(layer, DepthwiseConv2D):
        return (depthwise,)
    return depthwise, _call("nn.Conv2d", inside, layer.filters, 1, bias=bias)


def _torch_padding(layer: Convolution, window: Window, shape: Shape) -> tuple[tuple[str, ...], Any]:
    """The lines before the convolution, and its own padding."""
    if layer.padding == "same" and layer.strides == (1, 1):
        return (), "same" if max(window.reach) > 1 else None
    native = symmetric(window, shape)
    return ((_torch_pad(window.pads),), None) if native is None else ((), _unless(native, (0, 0)))


def _torch_pad(pads: Pads, name: str = "nn.ZeroPad2d", *value: float) -> str:
    """(top, bottom, left, right) as PyTorch's (left, right, top, bottom)."""
    top, bottom, left, right = pads
    return _call(name, pads[0] if len(set(pads)) == 1 else (left, right, top, bottom), *value)


def _phase(layer: Convolution, window: Window, shape: Shape) -> tuple[Problem, ...]:
    """A strided 'same': Keras pads by the map's size, PyTorch's padding=k // 2 does not."""
    if layer.padding != "same" or max(layer.strides) == 1 or not any(window.pads):
        return ()
    where, size = "Keras and PyTorch", _size(shape[:2])
    befores, afters = window.pads[::2], window.pads[1::2]
    if befores == afters:
        what = f"padding={_literal(befores)} is Keras's 'same' on {size} inputs; with strides it depends on their size"
        return (Problem(where, what, fix="write the line anew for other sizes", severity="note"),)
    axes = [name for name, b, a in zip(("rows", "columns"), befores, afters, strict=True) if b != a]
    given = [torch_positions(*each) for each in zip(shape, afters, window.reach, window.strides, strict=False)]
    wanted = [outputs_of(*each) for each in zip(shape, befores, afters, window.reach, window.strides, strict=False)]
    but = f"starts its windows 1 px earlier along {' and '.join(axes)}"
    what = (
        f"a strided 'same' pads {window.pads} (top, bottom, left, right) here; nn.Conv2d(padding={_literal(afters)}) "
        f'{but if given == wanted else f"gives {_size(given)} outputs"}, and padding="same" is refused with a stride'
    )
    return (_warning(where, what, f"the lines with ZeroPad2d, which are right for {size} inputs"),)


def _torch_pool(layer: Pool, shape: Shape) -> Written:
    window = _window(layer, shape)
    kind = "nn.MaxPool2d" if isinstance(layer, MaxPooling2D) else "nn.AvgPool2d"
    stride = _unless(layer.strides, layer.pool_size)
    if isinstance(layer, AveragePooling2D) and layer.count_include_pad and any(window.pads):
        if layer.ceil_mode:
            return _cannot("PyTorch", "convwise writes no count_include_pad with ceil_mode", "ceil_mode=False")
        return Written((_torch_pad(window.pads), _call(kind, layer.pool_size, stride=stride)))
    for ceil in (False, True):
        native = symmetric(window, shape, ceil)
        if native and all(2 * pad <= size for pad, size in zip(native, window.kernel, strict=True)):
            inside = False if kind == "nn.AvgPool2d" and any(native) else None
            return Written((_call(kind, layer.pool_size, stride=stride, padding=_unless(native, (0, 0)),
                                  ceil_mode=_unless(ceil, False), count_include_pad=inside),))  # fmt: skip
    if isinstance(layer, MaxPooling2D):
        pad = _torch_pad(window.pads, "nn.ConstantPad2d", float("-inf"))
        return Written((pad, _call(kind, layer.pool_size, stride=stride)))
    what = f"has no average pool that leaves out an uneven padding of {window.pads}"
    return _cannot("PyTorch", what, "padding='valid', or an odd pool_size with strides=1")


def _torch_transposed(layer: Conv2DTranspose, shape: Shape) -> Written:
    crops, most = transposed_crops(layer), [max(pair) for pair in zip(layer.strides, layer.dilation_rate, strict=True)]
    axes = [_transposed_axis(crops[2 * axis], crops[2 * axis + 1], most[axis]) for axis in (0, 1)]
    (rows, more_rows, top, bottom), (columns, more_columns, left, right) = axes
    if min(rows, columns) < 0:
        what = f"takes output_padding below the larger of stride and dilation only, this needs {layer.output_padding}"
        return _cannot("PyTorch", what, "less output_padding")
    line = _call("nn.ConvTranspose2d", shape[2], layer.filters, layer.kernel_size,
                 stride=_unless(layer.strides, (1, 1)), padding=_unless((rows, columns), (0, 0)),
                 output_padding=_unless((more_rows, more_columns), (0, 0)), groups=_unless(layer.groups, 1),
                 bias=_unless(layer.use_bias, True), dilation=_unless(layer.dilation_rate, (1, 1)))  # fmt: skip
    cut = (-top, -bottom, -left, -right)
    crop = Written((_torch_pad(cut),) if any(cut) else ())
    return Written((line,)).then(crop).then(_torch_activation(layer.activation))


def _transposed_axis(before: int, after: int, most: int) -> Sequence[int]:
    """PyTorch's padding p and output_padding e, which take p and p - e; and what is then left to take on both sides."""
    extra = min(max(before - after, 0), most - 1)
    padding = min(before, after + extra)
    return padding, extra, before - padding, after + extra - padding


TORCH: dict[type[Layer], Callable[[Any, Shape], Written]] = {
    Conv2D: _torch_conv,
    DepthwiseConv2D: _torch_conv,
    SeparableConv2D: _torch_conv,
    Conv2DTranspose: _torch_transposed,
    MaxPooling2D: _torch_pool,
    AveragePooling2D: _torch_pool,
}


def _size(pair: Sequence[int]) -> str:
    """(7, 5) as '7x5'."""
    return "x".join(map(str, pair))
