"""One layer as source lines of Keras and of PyTorch, at once: without loading either.

The lines in order, in keras.Sequential or in nn.Sequential, do what the layer does on an input of
the given shape. Where a framework cannot say it, there are no lines but a Problem; where it could
easily be said wrongly, there is a Problem too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from convwise.core import layers as L
from convwise.core.activations import Activated, activation
from convwise.core.geometry import window_of
from convwise.core.layer_windows import transposed_crops
from convwise.core.parameters import Pads, Pair
from convwise.core.problems import Problem, Unsupported
from convwise.core.text import times
from convwise.core.windows import Shape, Window, effective, outputs_of, torch_positions
from convwise.formats.lowering import keras, torch
from convwise.formats.lowering.calls import Call, consumed, literal, one

Convolution = L.Conv2D | L.DepthwiseConv2D | L.SeparableConv2D
CONVOLUTIONS = (L.Conv2D, L.DepthwiseConv2D, L.SeparableConv2D)


@dataclass(frozen=True)
class Written:
    """Source lines, and what to know before using them."""

    lines: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    def then(self, other: Written) -> Written:
        """These lines, then those."""
        return Written(self.lines + other.lines, self.problems + other.problems)


def keras_lines(layer: L.Layer, shape: Shape) -> Written:
    """The layer on maps of `shape` as calls of keras.layers."""
    found = activation(getattr(layer, "activation", "linear"))
    inside, after = layer, Written()
    if found.changed or not found.row.keras:
        inside = _linear(layer)
        after = _after(found, _keras_calls, shape, "layers.", "Keras", "keras.activations")
    try:
        calls = _keras_calls(inside, shape)
    except Unsupported as error:
        return _cannot("Keras", error)
    return _written(calls, "layers.", _known_of_keras(layer, shape)).then(after)


def torch_lines(layer: L.Layer, shape: Shape) -> Written:
    """The layer on maps of `shape` as calls of torch.nn, where channels come first."""
    found, after = activation(getattr(layer, "activation", "linear")), Written()
    if found.name != "linear":
        after = _after(found, _torch_calls, shape, "nn.", "PyTorch", "torch.nn")
    try:
        calls = _torch_calls(_linear(layer), shape)
    except Unsupported as error:
        return _cannot("PyTorch", error)
    return _written(calls, "nn.", _phase(layer, shape)).then(after)


def _linear(layer: Any) -> L.Layer:
    linear: L.Layer = replace(layer, activation="linear") if hasattr(layer, "activation") else layer
    return linear


def _written(calls: Sequence[Call], prefix: str, problems: Sequence[Problem] = ()) -> Written:
    return Written(tuple(call.source(prefix) for call in calls), tuple(problems))


def _after(
    found: Activated,
    calls: Callable[[L.Layer, Shape], Sequence[Call]],
    shape: Shape,
    prefix: str,
    framework: str,
    place: str,
) -> Written:
    """The activation as lines of its own, or a comment where the framework lacks it."""
    try:
        return _written(calls(L.Activation(str(found)), shape), prefix)
    except Unsupported:
        fix = f"write it yourself: {found.row.meaning}"
        problem = _warning(f"{framework}, activation {found}", f"is not in {place}", fix)
        return Written((f"# then {found}: {found.row.meaning}",), (problem,))


def _warning(where: str, what: str, fix: str) -> Problem:
    return Problem(where, what, fix=fix, severity="warning")


def _cannot(framework: str, error: Unsupported) -> Written:
    return Written((), (_warning(framework, error.problem.what, error.problem.fix),))


# --- Keras ----------------------------------------------------------------------------------


def _keras_calls(layer: L.Layer, shape: Shape) -> Sequence[Call]:
    """As the format writes it, but in Keras's own words where they are shorter.

    Also where they say it on some backends only.
    """
    if isinstance(layer, L.AveragePooling2D) and _in_words(layer):
        with consumed("keras", layer, "shape", "values", "training"):
            return (keras.pool_call(layer, str(layer.padding)),)
    calls = keras.lower(layer, [shape])
    words = _transposed_words(layer) if isinstance(layer, L.Conv2DTranspose) else None
    return calls if words is None else (words,)


def _in_words(layer: L.AveragePooling2D) -> bool:
    return isinstance(layer.padding, str) and not layer.ceil_mode and not layer.count_include_pad


def _known_of_keras(layer: L.Layer, shape: Shape) -> Sequence[Problem]:
    if isinstance(layer, CONVOLUTIONS):
        return _picked(layer)
    if isinstance(layer, L.AveragePooling2D) and _in_words(layer):
        return _backends(layer, shape)
    return ()


def _picked(layer: Convolution) -> Sequence[Problem]:
    """Strides that Keras refuses are written as stride 1, of which a layer picks."""
    if max(layer.strides) > 1 and max(layer.dilation_rate) > 1:
        strides, rates = times(layer.strides), times(layer.dilation_rate)
        what = f"refuses strides {strides} together with dilation_rate {rates}"
    elif not isinstance(layer, L.Conv2D) and len(set(layer.strides)) > 1:
        uneven = f"{layer.op} with different strides along rows and columns"
        what = f"on TensorFlow does not accept {uneven}"
    else:
        return ()
    ratio = layer.strides[0] * layer.strides[1]
    what += f"; the lines compute all outputs and pick from them, at {ratio} times the macs"
    return (_warning("Keras", what, "equal strides without dilation_rate"),)


def _backends(layer: L.AveragePooling2D, shape: Shape) -> Sequence[Problem]:
    pads = window_of(layer, shape).pads
    if pads[::2] == pads[1::2]:
        return ()
    differs = "gives different means at the edge on the torch backend than on TensorFlow"
    what = f"padding='same' of {pads} {differs}"
    return (_warning("Keras", what, "padding='valid', or a map that the pool divides"),)


def keras_crops(padding: str, reach: int, extra: int) -> Pair:
    """(before, after) that Keras takes from the full output of a transposed convolution.

    reach: of its kernel; extra: its output_padding. 'same' leaves (n - 1) s + k mod 2 + extra,
    'valid' (n - 1) s + k + extra: after _get_output_shape_given_tf_padding in
    keras/src/backend/common/backend_utils.py.
    """
    total = (reach - reach % 2 if padding == "same" else 0) - extra
    before = max(total, 0) // 2
    return before, total - before


def _transposed_words(layer: L.Conv2DTranspose) -> Call | None:
    """The layer by Keras's padding and output_padding alone, where they take just its crops."""
    crops = transposed_crops(layer)
    for word in ("valid", "same"):
        if crops == transposed_crops(replace(layer, padding=word, output_padding=(0, 0))):
            return keras.same_terms(layer, padding=word, output_padding=None)
        if (extra := _extra(layer, word, crops)) is not None:
            return keras.same_terms(layer, padding=word, output_padding=extra)
    return None


def _extra(layer: L.Conv2DTranspose, word: str, crops: Pads) -> Pair | None:
    """The output_padding with which Keras's word takes just these crops, if there is one."""
    extra = []
    for axis in (0, 1):
        reach = effective(layer.kernel_size[axis], layer.dilation_rate[axis])
        before, after = crops[2 * axis : 2 * axis + 2]
        more = (reach - reach % 2 if word == "same" else 0) - before - after
        if not 0 <= more < layer.strides[axis] or keras_crops(word, reach, more) != (before, after):
            return None
        extra.append(more)
    return extra[0], extra[1]


# --- PyTorch --------------------------------------------------------------------------------


def _torch_calls(layer: L.Layer, shape: Shape) -> Sequence[Call]:
    """As the format writes it; Unsupported where that takes a class of our own."""
    calls = torch.lower(layer, [shape])
    if own := [call.kind for call in calls if call.kind in torch.OWN]:
        what = f"torch.nn has no {own[0]}"
        if isinstance(layer, L.AveragePooling2D):
            pads = window_of(layer, shape).pads
            what = f"cannot exclude uneven padding, {pads}, from an average pool"
        fix = "padding='valid', or an odd pool_size with strides=1"
        raise Unsupported("torch", layer.name, what, fix)
    return calls


def _phase(layer: L.Layer, shape: Shape) -> Sequence[Problem]:
    """A strided 'same': Keras pads by the map's size, PyTorch's padding=k // 2 does not."""
    if not isinstance(layer, CONVOLUTIONS) or layer.padding != "same" or max(layer.strides) == 1:
        return ()
    window = window_of(layer, shape)
    befores, afters = window.pads[::2], window.pads[1::2]
    if befores != afters:
        return (_shifted(window, shape),)
    if not any(befores):
        return ()
    same = f"padding={literal(one(befores))} is Keras's 'same' on {times(shape[:2])} inputs"
    what = f"{same}; with strides it depends on their size"
    fix = "write a new line for other sizes"
    return (Problem("Keras and PyTorch", what, fix=fix, severity="note"),)


def _shifted(window: Window, shape: Shape) -> Problem:
    """PyTorch's padding of the larger side gives windows that start earlier, or more of them."""
    befores, afters = window.pads[::2], window.pads[1::2]
    axes = [name for name, b, a in zip(("rows", "columns"), befores, afters, strict=True) if b != a]
    steps = window.reach, window.strides
    given = [torch_positions(*each) for each in zip(shape, afters, *steps, strict=False)]
    wanted = [outputs_of(*each) for each in zip(shape, befores, afters, *steps, strict=False)]
    but = f"starts its windows 1 px earlier along {' and '.join(axes)}"
    padding, size = literal(one(afters)), times(shape[:2])
    but = but if given == wanted else f"gives {times(given)} outputs"
    what = (
        f"a strided 'same' pads {window.pads} (top, bottom, left, right) here;"
        f" nn.Conv2d(padding={padding}) {but},"
        ' and padding="same" is refused with a stride'
    )
    fix = f"the lines with ZeroPad2d, which are right for {size} inputs"
    return _warning("Keras and PyTorch", what, fix)
