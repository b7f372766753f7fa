"""Nets as Keras models, on any backend: raw pixels (n, height, width, channels) to probabilities."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras  # noqa: E402
from keras import layers  # noqa: E402

from convwise.core.geometry import GEOMETRY  # noqa: E402
from convwise.core.layers import (  # noqa: E402
    Activation,
    Add,
    AveragePooling2D,
    BatchNormalization,
    Concatenate,
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
    ZeroPadding2D,
    parameters,
)
from convwise.core.net import INPUT, Net  # noqa: E402
from convwise.core.parameters import REQUIRED, Pads  # noqa: E402
from convwise.core.problems import Unsupported  # noqa: E402
from convwise.core.windows import Shape, pads_of  # noqa: E402
from convwise.formats.calls import Call, Step, call, identifiers, literal, one, plan, variables  # noqa: E402
from convwise.formats.weights import Weights, checked, layout  # noqa: E402

FILES = ("model_keras.py", "model.keras")
MEMBER = "convwise.json"  # in the .keras archive: net, classes and input shape

# Zero padding before max pooling is Keras's only explicit one; it is right where nothing is below 0.
_NOT_NEGATIVE = ("relu", "relu6", "sigmoid", "softmax", "softplus")
_KEEP_SIGN = (MaxPooling2D, AveragePooling2D, GlobalAveragePooling2D, GlobalMaxPooling2D, Dropout, Flatten, Add,
              Concatenate, ZeroPadding2D)  # fmt: skip


def lower(layer: Layer, shapes: Sequence[Shape], *, not_negative: bool = False) -> tuple[Call, ...]:
    """The keras.layers classes that do what the layer does on maps of `shapes`.

    not_negative: whether the layer's input is known to hold no number below 0.
    """
    rule = LOWER.get(type(layer))
    if rule is None:
        known = ", ".join(kind.__name__ for kind in LOWER)
        raise Unsupported("keras", layer.name, f"{layer.op} has no form in Keras", f"one of {known}")
    return rule(layer, shapes[0], not_negative)


def build(net: Net, weights: Weights) -> keras.Model:
    """The net as a Keras model (Sequential where it is a chain) with these weights."""
    checked(net, weights)
    made = {step.name: _made(step) for step in steps_of(net)}
    model = _sequential(net, made) if net.is_chain else _functional(net, made)
    for layer in net.layers:
        values = [weights[key] for key in layout(net) if key.startswith(f"{layer.name}/")]
        made[layer.name].set_weights(values) if values else None
    return model


def steps_of(net: Net) -> tuple[Step, ...]:
    """The Keras layers of the net in order, with their names."""
    safe = _not_negative(net)

    def rule(layer: Layer, shapes: Sequence[Shape]) -> tuple[Call, ...]:
        return lower(layer, shapes, not_negative=safe[layer.inputs[0]])

    return plan(net, rule, {layer.name: layer.name for layer in net.layers})


def _not_negative(net: Net) -> dict[str, bool]:
    """Per layer, whether its outputs are known to be at least 0; pixels are."""
    safe = {INPUT: True}
    for layer in net.layers:
        keeps = isinstance(layer, _KEEP_SIGN) and all(safe[name] for name in layer.inputs)
        safe[layer.name] = keeps or getattr(layer, "activation", "") in _NOT_NEGATIVE
    return safe


def _made(step: Step) -> keras.layers.Layer:
    return getattr(layers, step.call.kind)(*step.call.args, **step.call.kwargs, name=step.name)


def _sequential(net: Net, made: Mapping[str, keras.layers.Layer]) -> keras.Model:
    return keras.Sequential([keras.Input(net.input_shape), *made.values()])


def _functional(net: Net, made: Mapping[str, keras.layers.Layer]) -> keras.Model:
    image = keras.Input(net.input_shape)
    values = {INPUT: image}
    for step in steps_of(net):
        read = [values[name] for name in step.inputs]
        values[step.name] = made[step.name](read if len(read) > 1 else read[0])
    return keras.Model(image, list(values.values())[-1])


# --- layers ---------------------------------------------------------------------------------


def _same_terms(layer: Layer, **changes: Any) -> Call:
    """The Keras layer of the same name with the same parameters, apart from `changes`."""
    declared = {p.name: changes.get(p.name, getattr(layer, p.name)) for p in parameters(layer)}
    first = [p.name for p in parameters(layer) if p.default is REQUIRED]
    rest = {name: _plain(name, value) for name, value in declared.items() if name not in first}
    return call(getattr(layers, layer.op), *(one(declared[name]) for name in first), **rest)


def _plain(name: str, value: Any) -> Any:
    return None if (name, value) == ("activation", "linear") else one(value)


def _windowed(layer: Conv2D | DepthwiseConv2D, shape: Shape, not_negative: bool) -> tuple[Call, ...]:
    if max(layer.strides) > 1 and max(layer.dilation_rate) > 1:
        what = f"strides {layer.strides} with dilation_rate {layer.dilation_rate} is refused by Keras"
        raise Unsupported("keras", layer.name, what, "strides or dilation_rate of 1")
    padding, pads = _padding(layer, shape)
    made = _same_terms(layer, padding=padding)
    return (_zeros(pads), made) if pads else (made,)


def _padding(layer: Layer, shape: Shape) -> tuple[str, Pads | None]:
    """Keras's word for the layer's padding, and the pads that need a layer of their own."""
    given = getattr(layer, "padding", "valid")
    if isinstance(given, str):
        return given, None
    window = GEOMETRY[type(layer)].window(layer, shape)
    if window and given == pads_of("same", shape, window.kernel, window.strides, window.dilation):
        return "same", None
    return "valid", given if any(given) else None


def _zeros(pads: Pads) -> Call:
    """ZeroPadding2D, as short as it can be written."""
    top, bottom, left, right = pads
    if top == bottom and left == right:
        return Call("ZeroPadding2D", (one((top, left)),))
    return Call("ZeroPadding2D", (((top, bottom), (left, right)),))


def _pool(layer: MaxPooling2D | AveragePooling2D, shape: Shape, not_negative: bool) -> tuple[Call, ...]:
    padding, pads = _padding(layer, shape)
    _check_average(layer, shape, padding)
    strides = None if layer.strides == layer.pool_size else one(layer.strides)
    made = call(getattr(layers, layer.op), one(layer.pool_size), strides=strides, padding=padding)
    if not pads:
        return (made,)
    # An edge that is all padding would give 0 where ours refuses.
    if isinstance(layer, MaxPooling2D) and not_negative and max(pads) < min(layer.pool_size):
        return _zeros(pads), made
    what = f"explicit padding {pads} of {layer.op} has no form in Keras, which would count the zeros"
    raise Unsupported("keras", layer.name, what, "padding='same' or 'valid', or relu before max pooling")


def _check_average(layer: MaxPooling2D | AveragePooling2D, shape: Shape, padding: str) -> None:
    """Uneven 'same' is refused: Keras 3.15 on PyTorch counts copies of the edge there, on TensorFlow it does not."""
    top, bottom, left, right = pads_of(padding, shape, layer.pool_size, layer.strides)
    if isinstance(layer, AveragePooling2D) and (top, left) != (bottom, right):
        what = f"padding='same' of {(top, bottom, left, right)} gives other means on other Keras backends"
        raise Unsupported("keras", layer.name, what, "padding='valid', MaxPooling2D, or a map that the pool divides")


def _normalization(layer: Normalization, shape: Shape, not_negative: bool) -> tuple[Call, ...]:
    mean, variance = (list(n) if len(n) > 1 else list(n) * shape[-1] for n in (layer.mean, layer.variance))
    return (Call("Normalization", (), {"mean": mean, "variance": variance}),)


def _as_it_is(layer: Layer, shape: Shape, not_negative: bool) -> tuple[Call, ...]:
    return (_same_terms(layer),)


def _zero_padding(layer: ZeroPadding2D, shape: Shape, not_negative: bool) -> tuple[Call, ...]:
    return (_zeros(pads_of(layer.padding, shape, (1, 1), (1, 1))),)


LOWER: dict[type[Layer], Callable[[Any, Shape, bool], tuple[Call, ...]]] = {
    Conv2D: _windowed,
    DepthwiseConv2D: _windowed,
    MaxPooling2D: _pool,
    AveragePooling2D: _pool,
    GlobalAveragePooling2D: _as_it_is,
    GlobalMaxPooling2D: _as_it_is,
    BatchNormalization: _as_it_is,
    Activation: _as_it_is,
    Dropout: _as_it_is,
    Flatten: _as_it_is,
    Dense: _as_it_is,
    Add: _as_it_is,
    Concatenate: _as_it_is,
    ZeroPadding2D: _zero_padding,
    Rescaling: _as_it_is,
    Normalization: _normalization,
}


# --- source ---------------------------------------------------------------------------------

_HEAD = '''"""A network chosen by convwise: raw pixels 0 to 255, shaped (n, height, width, channels), to {output}."""

import keras
from keras import layers

CLASSES = {classes}
INPUT_SHAPE = {shape}  # height, width, channels


def build_model():
'''

_TAIL = '''

def load(path="model.keras"):
    """The network with its trained weights, ready to predict."""
    model = build_model()
    model.load_weights(path)
    return model


if __name__ == "__main__":
    build_model().summary()
'''


def render(net: Net, classes: Sequence[str] = ()) -> str:
    """model_keras.py: the source of `build(net, ...)`, needing only Keras."""
    steps = steps_of(net)
    last = net.layers[-1]
    output = "class probabilities" if getattr(last, "activation", "") in ("softmax", "sigmoid") else "numbers"
    head = _HEAD.format(classes=literal(list(classes)), shape=net.input_shape, output=output)
    lines = _chain(steps) if net.is_chain else _graph(net, steps)
    return head + "\n".join(f"    {line}" for line in lines) + "\n" + _TAIL


def _chain(steps: Sequence[Step]) -> list[str]:
    made = [f"    {_source(step)}," for step in steps]
    return ["return keras.Sequential([", "    keras.Input(INPUT_SHAPE),", *made, "])"]


def _graph(net: Net, steps: Sequence[Step]) -> list[str]:
    used = ("x", "image", "keras", "layers", "CLASSES", "INPUT_SHAPE")
    words = identifiers((layer.name for layer in net.layers), used.__contains__)
    names = {**variables(net, words), INPUT: "image"}
    values, lines = {INPUT: "image"}, ["image = keras.Input(INPUT_SHAPE)"]
    for step in steps:
        read = [values[name] for name in step.inputs]
        values[step.name] = names[step.layer]
        given = read[0] if len(read) == 1 else f"[{', '.join(read)}]"
        lines.append(f"{names[step.layer]} = {_source(step)}({given})")
    return [*lines, f"return keras.Model(image, {names[net.layers[-1].name]})"]


def _source(step: Step) -> str:
    """The call, with its name where that is more than Keras's 'conv2d_1' or ours."""
    given = re.fullmatch(rf"{step.call.kind.lower()}(_\d+)?", step.name) is None and step.name == step.layer
    return step.call.source("layers.", **({"name": step.name} if given else {}))


# --- files ----------------------------------------------------------------------------------


def save(folder: Path, net: Net, weights: Weights, classes: Sequence[str]) -> None:
    """Write model_keras.py and model.keras; the archive carries the net, the classes and the input shape besides."""
    (folder / "model_keras.py").write_text(render(net, classes), encoding="utf-8")
    build(net, weights).save(folder / "model.keras")
    about = {"net": net.to_json(), "classes": list(classes), "input_shape": net.input_shape}
    with zipfile.ZipFile(folder / "model.keras", "a") as archive:
        archive.writestr(MEMBER, json.dumps(about))


def run(folder: Path, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """What model.keras gives for pixels (n, height, width, channels), and what the source gives with its weights."""
    stored = keras.saving.load_model(folder / "model.keras", safe_mode=True)
    space: dict[str, Any] = {"__name__": "model_keras"}
    exec(compile((folder / "model_keras.py").read_text(encoding="utf-8"), "model_keras.py", "exec"), space)
    return [forward(model, pixels) for model in (stored, space["load"](str(folder / "model.keras")))]


def forward(model: keras.Model, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The model's outputs for pixels (n, height, width, channels)."""
    return np.asarray(keras.ops.convert_to_numpy(model(pixels.astype("float32"), training=False)))
