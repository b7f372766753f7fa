"""Nets as Keras models, on any backend: pixels (n, height, width, channels) to probabilities."""

from __future__ import annotations

import json
import os
import re
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras  # noqa: E402
from keras import layers  # noqa: E402

from convwise.core import layers as L  # noqa: E402
from convwise.core.net import INPUT, Net, fresh  # noqa: E402
from convwise.core.problems import Unsupported  # noqa: E402
from convwise.core.windows import Shape  # noqa: E402
from convwise.formats.lowering.calls import (  # noqa: E402
    Call,
    Step,
    identifiers,
    literal,
    plan,
    variables,
)
from convwise.formats.lowering.keras import lower  # noqa: E402
from convwise.formats.lowering.keras_glu import expanded  # noqa: E402
from convwise.formats.weights import Weights, layout, require_own  # noqa: E402
from convwise.formats.written import (  # noqa: E402
    NOTHING,
    Beside,
    about,
    answer_of,
    comments,
    named,
    prepare,
)

FIRST_OF_ZIP = time.struct_time((1980, 1, 1, 0, 0, 0, 1, 1, 0))
MEMBER = "convwise.json"  # in the .keras archive: net, classes and input shape

# Keras's only explicit padding is with zeros: right before max pooling where nothing is below 0.
_NOT_NEGATIVE = ("relu", "relu6", "sigmoid", "hard_sigmoid", "softmax", "softplus", "exponential")
_KEEP_SIGN = (L.MaxPooling2D, L.AveragePooling2D, L.GlobalAveragePooling2D, L.GlobalMaxPooling2D,
              L.Dropout, L.Flatten, L.Reshape, L.Add, L.Concatenate, L.ZeroPadding2D)  # fmt: skip


def build(net: Net, weights: Weights) -> keras.Model:
    """The net as a Keras model (Sequential where it is a chain) with these weights."""
    require_own(net, weights)
    keys, net = list(layout(net)), expanded(net)
    steps = steps_of(net)
    made = {name: _made(steps[name]) for name in _owners(net, steps).values()}
    if _branches(net):
        model = _functional(net, steps, made)
    else:
        model = keras.Sequential([keras.Input(net.input_shape), *made.values()], **_called(net))
    model = _both_views(model) if net.mirrored_view else model
    for layer in net.layers:
        values = [weights[key] for key in keys if key.startswith(f"{layer.name}/")]
        made[layer.name].set_weights(values) if values else None
    return model


def steps_of(net: Net) -> dict[str, Step]:
    """The Keras layers of the net in order, by name. Unsupported where Keras cannot say a layer."""
    net, safe = expanded(net), _not_negative(expanded(net))

    def rule(layer: L.Layer, shapes: Sequence[Shape]) -> tuple[Call, ...]:
        return lower(layer, shapes, not_negative=safe[layer.inputs[0]])

    names = {layer.name: layer.name for layer in net.layers}
    return {step.name: step for step in plan(net, rule, names)}


def _branches(net: Net) -> bool:
    return not net.is_chain or any(layer.shares for layer in net.layers)


def _owners(net: Net, steps: Mapping[str, Step]) -> dict[str, str]:
    """Per step, the step whose Keras layer it calls: itself, or that whose weights it shares."""
    owners: dict[str, str] = {}
    for name, step in steps.items():
        shares = net[step.layer].shares if name == step.layer else ""
        owners[name] = owners[shares] if shares else name
        if shares and steps[owners[name]].call != step.call:
            what = f"shares the weights of {shares}, but is not the same layer"
            raise Unsupported("keras", name, what, f"the parameters of {shares}")
    return owners


def _not_negative(net: Net) -> dict[str, bool]:
    """Per layer, whether its outputs are known to be at least 0; pixels are."""
    safe = {INPUT: True}
    for layer in net.layers:
        keeps = isinstance(layer, _KEEP_SIGN) and all(safe[name] for name in layer.inputs)
        safe[layer.name] = keeps or getattr(layer, "activation", "") in _NOT_NEGATIVE
    return safe


def _made(step: Step) -> keras.layers.Layer:
    return getattr(layers, step.call.kind)(*step.call.args, **step.call.kwargs, name=step.name)


def _called(net: Net) -> dict[str, str]:
    """The name of the part of a model that looks at one view; a model itself has Keras's own."""
    return {"name": "network"} if net.mirrored_view else {}


def _functional(
    net: Net, steps: Mapping[str, Step], made: Mapping[str, keras.layers.Layer]
) -> keras.Model:
    image = keras.Input(net.input_shape)
    values, owners = {INPUT: image}, _owners(net, steps)
    for step in steps.values():
        read = [values[name] for name in step.inputs]
        values[step.name] = made[owners[step.name]](read if len(read) > 1 else read[0])
    return keras.Model(image, list(values.values())[-1], **_called(net))


def _both_views(network: keras.Model) -> keras.Model:
    """The mean of what a network says of images and of their mirror images."""
    image = keras.Input(network.input_shape[1:])
    mirrored = keras.ops.flip(image, axis=2)
    return keras.Model(image, layers.Average()([network(image), network(mirrored)]))


# --- source ---------------------------------------------------------------------------------

_HEAD = '''"""A network chosen by convwise, from pixels to {output}.

Pixels: 0 to 255, shaped (n, height, width, channels).{usage}"""

{imports}import keras
from keras import layers

{names}
INPUT_SHAPE = {shape}  # height, width, channels


def {build}():
'''

_USAGE = """

    python model_keras.py cat.jpg        {prints}; needs keras, its backend, numpy and pillow
"""

_LOAD = '''def load(path=None):
    """The network with its trained weights, by default from the file beside this one."""
    model = build_model()
    model.load_weights(path or Path(__file__).with_name("model.keras"))
    return model
'''

_LOGITS = '''def load_logits(path=None):
    """The same network without its softmax, for a loss with from_logits=True."""
    model = load(path)
    model.layers[-1].activation = keras.activations.linear
    return model
'''

_LOGITS_OF_A_VIEW = '''def load_logits(path=None):
    """The network that looks at each view, without softmax, for a loss with from_logits=True."""
    network = load(path).get_layer("network")
    network.layers[-1].activation = keras.activations.linear
    return network
'''

_BOTH_VIEWS = """def build_model():
    network = build_network()
    image = keras.Input(INPUT_SHAPE)
    mirrored = keras.ops.flip(image, axis=2)
    return keras.Model(image, layers.Average()([network(image), network(mirrored)]))
"""

_PREDICT = '''def predict(picture, model=None):
    """What the network gives for a picture, a file or a PIL image: {gives}."""
    return keras.ops.convert_to_numpy((model or load())(prepare(picture), training=False))[0]
'''

_PREPARED = ("float32 (1, height, width, channels)", 'pixels.astype("float32")')

_BACKEND = """import os
from importlib.util import find_spec
from pathlib import Path

if not find_spec("tensorflow"):
    os.environ.setdefault("KERAS_BACKEND", "torch")

"""


def render(
    net: Net, classes: Sequence[str] = (), beside: Beside = NOTHING, *, trained: bool = False
) -> str:
    """model_keras.py: the source of `build(net, ...)`.

    beside: its reasons are comments in build_model. trained: there are weights beside it, which
    `load` reads; where a picture can be its input, `prepare` and `predict` make it one.
    """
    net = expanded(net)
    steps = steps_of(net)
    activation = getattr(net.layers[-1], "activation", "")
    tail = [_BOTH_VIEWS] if net.mirrored_view else []
    tail += [_LOAD] if trained else []
    if trained and activation == "softmax":
        tail.append(_LOGITS_OF_A_VIEW if net.mirrored_view else _LOGITS)
    answer = answer_of(net)
    output = "class probabilities" if activation in ("softmax", "sigmoid") else "numbers"
    head = _HEAD.format(
        names=named(net, classes),
        shape=net.input_shape,
        output=answer.output if answer else output,
        usage=_USAGE.format(prints=answer.prints) if trained and answer else "",
        imports=_BACKEND if trained else "",
        build="build_network" if net.mirrored_view else "build_model",
    )
    lines = _graph(net, steps) if _branches(net) else _chain(net, steps)
    built = head + "\n".join([*comments(beside.reasons), *(f"    {line}" for line in lines)])
    if trained and answer:
        tail += [prepare(beside, *_PREPARED), _PREDICT.format(gives=answer.gives), answer.main]
    parts = [built, *tail]
    return "\n\n\n".join(part.strip("\n") for part in parts) + "\n"


def _chain(net: Net, steps: Mapping[str, Step]) -> list[str]:
    made = [f"    {_source(step)}," for step in steps.values()]
    return ["return keras.Sequential([", "    keras.Input(INPUT_SHAPE),", *made, f"]{_name(net)})"]


def _name(net: Net) -> str:
    return "".join(f", {key}={literal(value)}" for key, value in _called(net).items())


def _graph(net: Net, steps: Mapping[str, Step]) -> list[str]:
    used = ("x", "image", "keras", "layers", "CLASSES", "TARGET", "TARGETS", "INPUT_SHAPE")
    words = identifiers((layer.name for layer in net.layers), used.__contains__)
    names, owners = {**variables(net, words), INPUT: "image"}, _owners(net, steps)
    twice = {
        owner: fresh(f"{words[owner]}_layer", words.values())
        for name, owner in owners.items()
        if owner != name
    }
    values, lines = {INPUT: "image"}, ["image = keras.Input(INPUT_SHAPE)"]
    for step in steps.values():
        read = [values[name] for name in step.inputs]
        values[step.name] = names[step.layer]
        given = read[0] if len(read) == 1 else f"[{', '.join(read)}]"
        if step.name in twice:
            lines.append(f"{twice[step.name]} = {_source(step)}")
        called = twice.get(owners[step.name]) or _source(step)
        lines.append(f"{names[step.layer]} = {called}({given})")
    return [*lines, f"return keras.Model(image, {names[net.layers[-1].name]}{_name(net)})"]


def _source(step: Step) -> str:
    """The call, with its name where that is more than Keras's 'conv2d_1' or ours."""
    usual = re.fullmatch(rf"{step.call.kind.lower()}(_\d+)?", step.name)
    given = {} if usual or step.name != step.layer else {"name": step.name}
    return step.call.source("layers.", **given)


# --- files ----------------------------------------------------------------------------------


def save(
    folder: Path, net: Net, weights: Weights, classes: Sequence[str], beside: Beside = NOTHING
) -> None:
    """Write model_keras.py, and model.keras; the archive says what `about` says besides."""
    source = render(net, classes, beside, trained=True)
    (folder / "model_keras.py").write_text(source, encoding="utf-8")
    with _dated():
        build(net, weights).save(folder / "model.keras")
        with zipfile.ZipFile(folder / "model.keras", "a") as archive:
            archive.writestr(MEMBER, json.dumps(about(net, classes, beside)))


@contextmanager
def _dated() -> Iterator[None]:
    """Inside, a zip file can be written also where the clock is before 1980, its first year.

    A board without a battery starts at 1970. Neither Keras nor zipfile takes another date.
    """
    usual = time.localtime
    if 1980 <= usual().tm_year <= 2107:
        yield
        return
    time.localtime = lambda seconds=None: FIRST_OF_ZIP
    try:
        yield
    finally:
        time.localtime = usual


def run(folder: Path, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """What model.keras gives for pixels (n, height, width, channels), then the source with it.

    On the CPU: a GPU computes convolutions in TF32, which differs by as much as a fault would.
    """
    with keras.device("cpu"):
        return _run(folder, pixels)


def _run(folder: Path, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    stored = keras.saving.load_model(folder / "model.keras", safe_mode=True)
    space: dict[str, Any] = {"__name__": "model_keras"}
    source = (folder / "model_keras.py").read_text(encoding="utf-8")
    exec(compile(source, "model_keras.py", "exec"), space)
    loaded = space["load"](str(folder / "model.keras"))
    return [forward(model, pixels) for model in (stored, loaded)]


def forward(model: keras.Model, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The model's outputs for pixels (n, height, width, channels)."""
    return np.asarray(keras.ops.convert_to_numpy(model(pixels.astype("float32"), training=False)))
