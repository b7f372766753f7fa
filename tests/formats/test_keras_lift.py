"""Keras models are read as they are: Keras's own shapes, counts and answers are the oracle."""

from __future__ import annotations

import gc
import json
import os
import re
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_formats import CASES, assert_close, lacking, net_of, ours

from convwise.core import layers as L
from convwise.core.calculus import analyse
from convwise.core.check import check
from convwise.core.net import Net
from convwise.core.problems import ShapeError, Unsupported, UnusableInput
from convwise.formats import keras as keras_format
from convwise.formats.keras.lift import lift, read
from convwise.formats.keras.rules import _LAYERS, _nothing
from convwise.inspect.checking import checked
from nets import nets, random_pixels, random_weights

keras = keras_format.keras
layers, ops = keras.layers, keras.ops
ROOT = Path(__file__).parents[2]
NETWORKS = [
    name for name, made in vars(keras.applications).items() if callable(made) and name[0].isupper()
]
NOT_ON_TORCH = ("NASNetLarge", "NASNetMobile")

pytestmark = pytest.mark.filterwarnings("ignore:You are using a softmax over axis")


def by_name(net: Net) -> dict[str, L.Layer]:
    return {layer.name: layer for layer in net.layers}


def assert_same_answers(model, net: Net, weights: dict) -> None:
    pixels = random_pixels(net)
    assert_close(
        keras_format.forward(keras_format.build(net, weights), pixels),
        keras_format.forward(model, pixels),
    )


def functional(make, shape=(8, 6, 4)):
    image = keras.Input(shape)
    return keras.Model(image, make(image))


# --- our own models come back ------------------------------------------------------------------


def assert_round_trip(net: Net) -> None:
    """Keras's calls are those of the net, its weights as well; what was read, written and read
    again is itself.
    """
    weights = random_weights(net, 3)
    model = keras_format.build(net, weights)
    back = lift(model)
    there, here = keras_format.steps_of(back.net), keras_format.steps_of(net)
    assert {name: (step.call, step.inputs) for name, step in there.items()} == {
        name: (step.call, step.inputs) for name, step in here.items()
    }
    assert list(there)[-1] == list(here)[-1]
    assert {key: value.tolist() for key, value in back.weights.items()} == {
        key: value.tolist() for key, value in weights.items()
    }
    assert lift(keras_format.build(back.net, back.weights)).net == back.net
    if len(here) == len(net.layers) and not any(map(_resolved, net.layers)):
        assert by_name(back.net) == by_name(net)


def _resolved(layer: L.Layer) -> bool:
    """Whether Keras's terms for the layer are not ours."""
    padded = isinstance(getattr(layer, "padding", ""), tuple) and layer.op != "ZeroPadding2D"
    adaptive = layer.op.startswith("Adaptive") or getattr(layer, "ceil_mode", False)
    return padded or adaptive or isinstance(layer, L.Normalization)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(net=nets())
def test_random_nets_come_back(net):
    assert_round_trip(net)


@pytest.mark.parametrize(
    "case", [case for case in CASES if not lacking("keras", net_of(CASES[case]))]
)
def test_every_layer_comes_back(case):
    assert_round_trip(net_of(CASES[case]))


def test_an_archive_of_ours_keeps_its_classes(tmp_path):
    net = net_of((L.Conv2D(3, 3), L.GlobalAveragePooling2D()))
    weights = random_weights(net)
    keras_format.save(tmp_path, net, weights, ("a", "b", "c"))
    back = read(tmp_path / "model.keras")
    assert back.net == net
    assert back.classes == ("a", "b", "c")
    assert all(np.array_equal(back.weights[key], weights[key]) for key in weights)


SIDES = st.tuples(*[st.integers(0, 2)] * 4)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_pools_and_convolutions_of_any_padding_answer_as_in_pytorch(data):
    """Composed of several Keras layers where one has no word for it; refused where no composition
    is exact.
    """
    size, strides, dilation = (
        data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4))) for _ in range(3)
    )
    padding = data.draw(st.one_of(st.sampled_from(["same", "valid"]), SIDES))
    flags = data.draw(st.tuples(st.booleans(), st.booleans()))
    layer = data.draw(st.sampled_from([
        L.MaxPooling2D(size, strides, padding, flags[0]),
        L.AveragePooling2D(size, strides, padding, *flags),
        L.Conv2D(2, size, strides, padding, dilation, activation="elu(alpha=0.5)"),
        L.DepthwiseConv2D(size, strides, padding, 1, dilation),
        L.SeparableConv2D(2, size, strides, padding, 1, dilation),
        L.Conv2DTranspose(2, size, strides, padding, (int(flags[0]), int(flags[1])),
        activation="relu"),
    ]))  # fmt: skip
    try:
        net = net_of((L.Rescaling(1.0, -0.7), layer))
        weights, pixels = random_weights(net), random_pixels(net)
        expected = ours(net, weights, pixels)
        model = keras_format.build(net, weights)
    except (ShapeError, Unsupported):
        assume(False)
    assert_close(keras_format.forward(model, pixels), expected)


# What Keras has no one word for: each is several Keras layers, exactly.
COMPOSED = {
    "one side": L.MaxPooling2D(3, 2, (1, 0, 1, 0)),
    "two pools": L.MaxPooling2D(3, 4, ceil_mode=True),
    "means of what is there": L.AveragePooling2D((3, 1), (2, 1), (1, 0, 0, 0)),
    "dilated strides": L.Conv2D(4, 3, 2, "same", dilation_rate=2, activation="elu(alpha=0.5)"),
    "uneven depthwise strides": L.DepthwiseConv2D(3, (1, 2), "same"),
    "uneven separable strides": L.SeparableConv2D(4, 3, (2, 1), "same"),
    "cropped": L.Conv2DTranspose(3, 3, 2, (1, 1, 1, 1), (1, 1), activation="softplus(beta=2.0)"),
    "open": L.Conv2DTranspose(3, 2, 3, (1, 0, 0, 0), (1, 0)),
}


@pytest.mark.parametrize("case", COMPOSED)
def test_compositions_answer_as_in_pytorch(case):
    net = net_of((L.Rescaling(1.0, -0.7), COMPOSED[case]))
    weights, pixels = random_weights(net), random_pixels(net)
    assert len(keras_format.steps_of(net)) > 3
    assert_close(
        keras_format.forward(keras_format.build(net, weights), pixels), ours(net, weights, pixels)
    )


OTHER_BACKENDS = """
import numpy as np
from convwise.formats import keras, torch
from nets import random_pixels, random_weights
from test_formats import CASES, lacking, net_of
from test_keras_lift import COMPOSED
cases = {**CASES, **{name: (layer,) for name, layer in COMPOSED.items()}}
for case, layers in cases.items():
    net = net_of(layers)
    if lacking("keras", net) or lacking("torch", net):
        continue
    weights, pixels = random_weights(net, 1), random_pixels(net)
    module = torch.build(net)
    torch.load(module, net, weights)
    expected = torch.forward(module, pixels)
    given = keras.forward(keras.build(net, weights), pixels)
    assert given.shape == expected.shape, case
    assert np.abs(given - expected).max() <= 1e-4 * max(1, np.abs(expected).max()), case
"""


def run_on(backend: str, code: str) -> None:
    pytest.importorskip(backend, reason="another Keras backend")
    path = os.pathsep.join(
        (
            str(ROOT / "src"),
            str(ROOT / "tests"),
            str(ROOT / "tests" / "formats"),
            os.environ.get("PYTHONPATH", ""),
        )
    )
    told = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code], env=told, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_every_layer_is_alike_on_other_backends(backend):
    run_on(backend, OTHER_BACKENDS)


# --- keras.applications ------------------------------------------------------------------------


def assert_read_as_it_is(name: str) -> None:
    # Shapes without numbers: no memory, no time
    with keras.StatelessScope(initialize_variables=False):
        model = getattr(keras.applications, name)(weights=None)
        size = (224, 224, 3)
        if None in model.inputs[0].shape[1:]:
            with pytest.raises(UnusableInput, match="free input size"):
                lift(model)
            model = getattr(keras.applications, name)(weights=None, input_shape=size)
    net = lift(model).net
    assert not [problem for problem in check(net) if problem.severity == "error"]
    costs = analyse(net)
    shapes = {row.name: row.output_shape for row in costs.layers}
    kept = [layer for layer in model.layers if layer.name in shapes]
    assert {layer.name: layer.output.shape[1:] for layer in kept} == {
        layer.name: shapes[layer.name] for layer in kept
    }
    left_out = {type(layer).__name__ for layer in model.layers if layer.name not in shapes}
    # What is nested comes as its layers
    assert left_out <= {"InputLayer", "Identity", "Sequential"}
    assert costs.total.params == model.count_params()
    assert costs.total.trainable == sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert not costs.total.unknown


@pytest.mark.parametrize("name", ["MobileNetV3Small", "EfficientNetB0", "ResNet50"])
def test_small_applications_are_read_as_they_are(name):
    assert_read_as_it_is(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in NOT_ON_TORCH])
def test_applications_are_read_as_they_are(name):
    assert_read_as_it_is(name)
    keras.utils.clear_session()
    gc.collect()


@pytest.mark.slow
@pytest.mark.parametrize("name", NOT_ON_TORCH)
def test_the_others_are_read_on_tensorflow(name):
    run_on(
        "tensorflow",
        f"from test_keras_lift import assert_read_as_it_is; assert_read_as_it_is({name!r})",
    )


def test_an_application_answers_as_in_keras():
    """The weights came along, through stores of shared activations, gates and steps of
    hard_sigmoid.
    """
    model = keras.applications.MobileNetV3Small(
        input_shape=(64, 48, 3), alpha=0.75, classes=5, weights=None
    )
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1, w.shape) * rng.choice((-1, 1),
                       w.shape) * 0.1 if w.ndim > 1 else rng.uniform(0.5, 1,
                       w.shape) for w in model.get_weights()])  # fmt: skip
    back = lift(model)
    assert_same_answers(model, back.net, back.weights)


def test_the_table_in_docs_is_true():
    space = runpy.run_path(str(ROOT / "docs" / "applications.py"))
    table = space["TABLE"].read_text("utf-8")
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == space["networks"]()
    for name in ("MobileNetV2", "EfficientNetB0"):
        assert space["row"](name) in rows


# --- operations, uses and nested models --------------------------------------------------------


def _operations(x):
    x = ops.relu(layers.Conv2D(4, 3, padding="same")(x))
    gate = ops.mean(x, axis=(1, 2), keepdims=True)
    gate = layers.ReLU(6.0)(gate + 3.0) * (1.0 / 6.0)
    y = 1.0 - x * gate
    y = ops.maximum(y / 2.0, 0.0) - x
    y = ops.clip(y, -0.5, 0.7) + np.array([0.1, 0.2, 0.3, 0.4], "float32")
    y = ops.pad(y, [[0, 0], [1, 0], [0, 2], [0, 0]])[:, 1:, :-2, :]
    y = ops.concatenate([ops.gelu(y), ops.square(y), -x, ops.leaky_relu(x, 0.1)], axis=-1)
    y = ops.softmax(ops.minimum(y, ops.tanh(y)), axis=-1)
    y = ops.expand_dims(ops.squeeze(ops.max(y, axis=(1, 2), keepdims=True), 1), 1)
    return layers.Dense(3)(ops.reshape(y, (-1, 16)))


def test_operations_of_keras_are_read():
    model = functional(_operations)
    back = lift(model)
    assert not analyse(back.net).total.unknown
    gelu = [layer for layer in back.net.layers if getattr(layer, "activation", "") == "gelu_tanh"]
    assert len(gelu) == 1
    # The tanh form, which Keras cannot write, is 1e-3 from it
    plain = back.net.edit(gelu[0].name, activation="gelu")
    pixels = random_pixels(plain) / np.float32(255)
    rebuilt = keras_format.build(plain, back.weights)
    assert_close(keras_format.forward(rebuilt, pixels), keras_format.forward(model, pixels), 2e-3)


def test_layers_used_twice_share_their_weights():
    conv, relu = layers.Conv2D(4, 3, padding="same", name="twice"), layers.ReLU(name="act")
    model = functional(lambda x: layers.Add()([relu(conv(relu(conv(x)))), x]))
    back = lift(model)
    assert [(layer.op, layer.shares) for layer in back.net.layers] == [
        ("Conv2D", ""), ("Activation", ""), ("Conv2D", "twice"), ("Activation", ""), ("Add", "")
    ]  # fmt: skip
    assert analyse(back.net).total.params == model.count_params()
    assert_same_answers(model, back.net, back.weights)


def test_shared_layers_come_back():
    net = net_of((L.Conv2D(4, 3, padding="same", name="a"), L.Conv2D(4, 3, padding="same", name="b",
                  shares="a"), L.Dense(2)))  # fmt: skip
    weights = random_weights(net)
    back = lift(keras_format.build(net, weights))
    assert [layer.shares for layer in back.net.layers] == ["", "", "a", ""][: len(back.net.layers)]
    assert_same_answers(keras_format.build(net, weights), back.net, back.weights)


def test_nested_models_are_flattened():
    inner = keras.Sequential(
        [keras.Input((8, 6, 4)), layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization()]
    )
    middle = functional(lambda x: layers.Add()([inner(x), layers.Conv2D(4, 1, name="side")(x)]))
    model = keras.Sequential([keras.Input((8, 6, 4)), middle, inner, layers.Flatten()])
    back = lift(model)
    assert not analyse(back.net).total.unknown
    assert analyse(back.net).total.params == model.count_params()
    assert_same_answers(model, back.net, back.weights)


FUNCTIONS = {
    "a string": ("relu", "relu"),
    "none": (None, "linear"),
    "a function": (keras.activations.gelu, "gelu"),
    "an operation": (ops.gelu, "gelu_tanh"),
    "LeakyReLU": (layers.LeakyReLU(), "leaky_relu(negative_slope=0.3)"),
    "ELU": (layers.ELU(0.5), "elu(alpha=0.5)"),
    "ReLU": (layers.ReLU(max_value=6), "relu6"),
    "ReLU to 1": (layers.ReLU(max_value=1, threshold=0.5), "relu(max_value=1.0, threshold=0.5)"),
    "Softmax": (layers.Softmax(), "softmax"),
    "an alias": ("swish", "silu"),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_activations_of_any_form_are_read(case):
    given, expected = FUNCTIONS[case]
    net = lift(
        functional(lambda x: layers.Activation(given)(layers.Conv2D(2, 1, activation=given)(x)))
    ).net
    assert [layer.activation for layer in net.layers] == [expected, expected]


def test_an_activation_of_ones_own_is_opaque_and_its_convolution_is_not():
    def strange(x):
        return x * ops.sin(x)

    model = functional(lambda x: layers.Conv2D(3, 2, activation=strange, name="conv")(x))
    net = lift(model).net
    assert net["conv"] == L.Conv2D(3, 2, name="conv", inputs=("input",))
    assert net.layers[1].operator == "activation strange"
    assert analyse(net).total.params == model.count_params()
    assert analyse(net).total.unknown == ("conv_opaque",)


class Conv2D(layers.Conv2D):
    """A class of one's own under a known name."""

    def call(self, inputs):
        return super().call(inputs) * 2


OPAQUE = {
    "attention": (lambda x: layers.MultiHeadAttention(2, 3)(x, x), "MultiHeadAttention", (8, 6, 4)),
    "an operation": (lambda x: ops.sin(x), "Sin", (8, 6, 4)),
    "another order": (lambda x: layers.Permute((3, 1, 2))(x), "Permute", (4, 8, 6)),
    "a known name": (lambda x: Conv2D(3, 3)(x), "Conv2D", (6, 4, 3)),
    "another axis": (
        lambda x: layers.BatchNormalization(axis=1)(x),
        "BatchNormalization",
        (8, 6, 4),
    ),
    "a Lambda": (
        lambda x: layers.Lambda(lambda x: x * 2, output_shape=(8, 6, 4))(x),
        "Lambda",
        (8, 6, 4),
    ),
    "random crop": (lambda x: layers.RandomCrop(4, 4)(x), "RandomCrop", (4, 4, 4)),
    "sparsemax": (lambda x: ops.sparsemax(x), "Sparsemax", (8, 6, 4)),
    "one number": (lambda x: ops.sum(x, axis=(1, 2, 3)), "Sum", (1,)),
}


@pytest.mark.parametrize("case", OPAQUE)
def test_what_cannot_be_read_is_opaque_with_its_shape_and_params(case):
    make, operator, shape = OPAQUE[case]
    model = functional(make)
    [layer] = lift(model).net.layers
    assert (layer.op, layer.operator, layer.output_shape, layer.params) == (
        "Opaque", operator, shape, model.count_params()
    )  # fmt: skip


def test_opaque_shapes_follow_a_given_input_size():
    image = keras.Input((None, None, 3))
    model = keras.Model(image, ops.sin(layers.Conv2D(5, 3, 2)(image)))
    assert analyse(lift(model, (21, 31, 3)).net).layers[-1].output_shape == (10, 15, 5)


ARGUMENTS = {"RandomBrightness": 0.5, "RandomColorDegeneration": 0.5, "RandomColorJitter": 0.5,
             "RandomContrast": 0.5,
             "RandomHue": 0.5, "RandomPosterization": 4, "RandomRotation": 0.5,
             "RandomSaturation": 0.5,
             "RandomSharpness": 0.5, "RandomShear": 0.5, "RandomTranslation": (0.5, 0.5),
             "RandomZoom": 0.5}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, rule in _LAYERS.items() if rule is _nothing])
def test_layers_that_are_left_out_do_nothing(name):
    given = ARGUMENTS.get(name, ())
    layer = getattr(layers, name)(*(given if isinstance(given, tuple) else (given,)))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 3)).astype("float32")
    assert np.array_equal(ops.convert_to_numpy(layer(pixels, training=False)), pixels)
    net = lift(functional(lambda x: layers.Flatten()(layer(x)), (8, 6, 3))).net
    assert [layer.op for layer in net.layers] == ["Flatten"]


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_transposed_convolutions_lie_where_keras_puts_them(data):
    size, stride = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    extra = data.draw(st.sampled_from([None, *range(stride)]))
    padding = data.draw(st.sampled_from(["same", "valid"]))
    image = keras.Input((5, 4, 2))
    try:
        made = layers.Conv2DTranspose(3, size, stride, padding, output_padding=extra)(image)
    except ValueError:
        return
    model = keras.Model(image, made)
    back = lift(model)
    assert back.net.layers[0].op == "Conv2DTranspose"
    assert_same_answers(model, back.net, back.weights)


def test_normalisation_with_numbers_and_adapted():
    adapted = layers.Normalization()
    adapted.adapt(np.random.default_rng(0).uniform(0, 9, (5, 8, 6, 4)).astype("float32"))
    given = layers.Normalization(mean=[1.0, 2, 3, 4], variance=[1.0, 4, 9, 16])
    back_again = layers.Normalization(mean=[1.0, 2, 3, 4], variance=[1.0, 4, 9, 16], invert=True)
    model = functional(lambda x: back_again(given(adapted(x))))
    back = lift(model)
    assert [layer.op for layer in back.net.layers] == [
        "Normalization",
        "Normalization",
        "Rescaling",
    ]
    assert analyse(back.net).total.params == model.count_params() == 9
    assert_same_answers(model, back.net, back.weights)


# --- models that are not one path from an image to an answer ------------------------------------


def test_a_free_input_size_asks_for_one():
    model = functional(lambda x: layers.Conv2D(2, 3)(x), (None, None, 3))
    with pytest.raises(
        UnusableInput, match=r"free input size \(None, None, 3\).*Fix: --input-shape 224x224x3"
    ):
        lift(model)
    assert analyse(lift(model, (9, 7, 3)).net).layers[-1].output_shape == (7, 5, 2)


def test_a_sequential_model_without_input_asks_for_one():
    with pytest.raises(UnusableInput, match="no input size.*Fix: --input-shape 224x224x3"):
        lift(keras.Sequential([layers.Conv2D(2, 3)]))
    assert lift(keras.Sequential([layers.Conv2D(2, 3)]), (9, 7, 3)).net.input_shape == (9, 7, 3)


class Written(keras.Model):
    def call(self, inputs):
        return inputs


def _two_inputs():
    ends = [keras.Input((4, 4, 1)), keras.Input((4, 4, 1))]
    return keras.Model(ends, layers.Add()(ends))


UNUSABLE = {
    "another size": (lambda: functional(lambda x: layers.Conv2D(2, 3)(x)), (9, 7, 3),
    r"own: \(8, 6, 4\)"),
    "two inputs": (_two_inputs, None, "has 2 inputs .*Fix: give the part"),
    "a row": (lambda: functional(lambda x: layers.Dense(2)(x), (5,)), None,
    r"reads \(5,\); expected an.*Fix: give"),
    "code": (Written, None, r"whose call is code.*Fix: .*model.export\('model.onnx'"),
    "nothing": (lambda: functional(lambda x: layers.Identity()(x)), None, "no layer that changes"),
    "channels first": (lambda: functional(lambda x: layers.Conv2D(2, 1,
    data_format="channels_first")(x)), None,
                       "reads channels first"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNUSABLE)
def test_models_that_cannot_be_used_are_reported(case):
    make, shape, message = UNUSABLE[case]
    with pytest.raises(UnusableInput, match=message):
        lift(make(), shape)


# --- what learns --------------------------------------------------------------------------------


def _half_frozen():
    base = keras.Sequential([keras.Input((8, 6, 4)), layers.Conv2D(3, 3, name="one"),
                             layers.BatchNormalization(), layers.Conv2D(2, 3,
                             name="two")])  # fmt: skip
    base.trainable = False
    return functional(lambda x: layers.Dense(5, name="head")(layers.Flatten()(base(x))))


def _thawed():
    model = _half_frozen()
    model.layers[1].get_layer("two").trainable = True
    return model


def _frozen_layer():
    return functional(lambda x: layers.Conv2D(2, 1)(layers.Conv2D(3, 3, trainable=False)(x)))


def _quantised():
    model = functional(lambda x: layers.Dense(5)(layers.Flatten()(x)))
    model.layers[-1].quantize("int8")
    return model


# What Keras's own summary says of each.
LEARNING = {
    "a frozen base": (_half_frozen, 16 * 5 + 5),
    "one of its layers is thawed": (_thawed, None),
    "a frozen layer": (_frozen_layer, 3 * 2 + 2),
    "opaque, with statistics": (
        lambda: functional(lambda x: layers.BatchNormalization(axis=1)(x)),
        16,
    ),
    "opaque, of whole numbers": (_quantised, 5),
    "used twice": (
        lambda: functional(lambda x: _twice(x, layers.Conv2D(4, 1, trainable=False))),
        0,
    ),
    "nothing is frozen": (
        lambda: functional(lambda x: layers.BatchNormalization()(layers.Conv2D(4, 1)(x))),
        28,
    ),
}


def _twice(x, layer):
    return layer(layer(x))


def _summary(model) -> int:
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    return int(re.search(r" Trainable params: ([\d,]+)", "\n".join(lines))[1].replace(",", ""))


@pytest.mark.parametrize("case", LEARNING)
def test_what_learns_is_what_keras_trains(case, tmp_path):
    make, expected = LEARNING[case]
    model = make()
    model.save(tmp_path / "model.keras")
    for lifted in (lift(model), read(tmp_path / "model.keras")):
        total = checked(lifted).analysis.total
        assert total.trainable == _summary(model)
        assert expected is None or total.trainable == expected
    assert total.params == model.count_params() or case == "opaque, of whole numbers"


# --- files that are damaged or hostile ----------------------------------------------------------


@pytest.fixture
def archive(tmp_path) -> Path:
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2D(2, 3, name="conv")]).save(path)
    return path


def rewritten(path: Path, change=None, **members: bytes) -> Path:
    """The archive with its configuration changed, or with members more."""
    out = path.with_name("changed.keras")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            text = old.read(name)
            if name == "config.json" and change:
                config = json.loads(text)
                text = json.dumps(change(config) or config).encode()
            new.writestr(name, text)
        for name, text in members.items():
            new.writestr(name, text)
    return out


def _conv(config):
    return next(each for each in config["config"]["layers"] if each["config"]["name"] == "conv")


def test_an_archive_is_read(archive):
    assert [layer.name for layer in read(archive).net.layers] == ["conv"]


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"not a zip",
                                    lambda b: b"",
                                    lambda b: b[:200] + bytes(200) + b[400:]])  # fmt: skip
def test_a_damaged_archive_is_reported(archive, damage):
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(UnusableInput, match=r"model\.keras: (is no|is damaged|cannot be loaded)"):
        read(archive)


def test_a_file_that_is_not_there_is_reported(tmp_path):
    with pytest.raises(UnusableInput, match=r"nowhere\.keras: is not a \.keras archive"):
        read(tmp_path / "nowhere.keras")


def test_lambda_is_refused_and_not_run(tmp_path):
    marker = tmp_path / "ran"
    file = str(marker)
    code = lambda x: (open(file, "w").close(), x)[1]  # noqa: E731, SIM115
    model = functional(lambda x: layers.Lambda(code, output_shape=(8, 6, 4), name="trick")(x))
    marker.unlink(missing_ok=True)
    model.save(tmp_path / "model.keras")
    with pytest.raises(
        UnusableInput, match="holds a Lambda layer, 'trick', which is code: it was not run"
    ):
        read(tmp_path / "model.keras")
    assert not marker.exists()


def _elsewhere(config):
    _conv(config).update(module="antigravity", class_name="Flying", registered_name=None)


def _initializer(config):
    _conv(config)["config"]["kernel_initializer"] = {
        "module": "os",
        "class_name": "function",
        "config": "system",
    }


def _compiled(config):
    _conv(config)["compile_config"] = {
        "loss": {"module": "antigravity", "class_name": "Flying", "config": {}}
    }


def _getter(config):
    _conv(config)["config"]["activation"] = {
        "module": "keras.utils", "class_name": "function", "config": "get_file",
        "registered_name": "function"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_elsewhere, "holds Flying of the module antigravity, which is code: it was not imported"),
        (_initializer, "holds function of the module os"),
        (_compiled, "holds Flying of the module antigravity"),
        (
            lambda config: _conv(config).update(module=None),
            "holds Conv2D of the module __main__.* Fix: load it in yo",
        ),
        (
            lambda config: _conv(config).update(registered_name="theirs>Mine"),
            "holds Conv2D of the package theirs",
        ),
        (lambda config: _conv(config).update(class_name=["Conv2D"]), "cannot be loaded"),
        (
            lambda config: _conv(config).update(class_name="TorchModuleWrapper"),
            "holds a PyTorch module, 'conv'",
        ),
        (_getter, "cannot be loaded"),
        (lambda config: _conv(config)["config"].update(filters=-3), "cannot be loaded"),
        (lambda config: _conv(config)["config"].update(filters=7), "cannot be loaded"),
        (
            lambda config: _conv(config)["config"].update(filters=10**9),
            "asks for 10,000,000,000 weights, but holds",
        ),
        (lambda config: [config], "cannot be loaded"),
        (
            lambda config: _conv(config)["config"].update(kernel_size=[99, 99]),
            "cannot be loaded: Computed output size",
        ),
    ],
)
def test_a_hostile_configuration_is_refused(archive, change, message):
    with pytest.raises(UnusableInput, match=message):
        read(rewritten(archive, change))
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("made", [
    lambda kind, function: kind(name="layer"),
    lambda kind, function: layers.Conv2D(2, 1, activation=function),
    lambda kind, function: layers.Conv2D(2, 1, kernel_regularizer=function),
])  # fmt: skip
def test_classes_and_functions_of_ones_own_are_refused_by_name(tmp_path, made):
    """As a script or a notebook leaves them, whose module is __main__."""
    kind = type("Mine", (layers.Layer,), {"__module__": "__main__", "call": lambda self, x: x})

    def mine(x):
        return 2 * x

    functional(lambda x: made(kind, mine)(x)).save(tmp_path / "model.keras")
    with pytest.raises(
        UnusableInput, match=r"holds (Mine of the module __main__|the function mine), which is code"
    ):
        read(tmp_path / "model.keras")


def test_what_keras_writes_is_not_refused(tmp_path):
    def every(x):
        x = layers.Conv2D(2, 3, dtype="mixed_float16", kernel_initializer="he_normal",
                          kernel_regularizer="l2", kernel_constraint="max_norm",
                          activation=keras.activations.gelu)(x)  # fmt: skip
        x = layers.Conv2D(
            2, 1, activation=layers.ReLU(), kernel_initializer=keras.initializers.Constant(0.5)
        )(x)
        x = layers.TimeDistributed(layers.Dense(2, activation=ops.silu))(layers.RandomFlip()(x))
        return layers.Activation(keras.activations.relu6)(ops.relu(x[:, 1:]) + 1)

    functional(every).save(tmp_path / "model.keras")
    assert len(read(tmp_path / "model.keras").net.layers) == 7


def test_how_it_was_trained_is_not_loaded(tmp_path):
    def loss(wanted, given):
        return ops.mean(wanted - given)

    def trained(model, own):
        model.compile("adam", own, metrics=["accuracy"])
        model.fit(np.zeros((1, 8, 6, 4)), np.zeros((1, 6, 4, 2)), verbose=0)
        return model

    base = trained(functional(lambda x: layers.Conv2D(2, 3)(x)), "mse")
    trained(functional(lambda x: layers.Activation("relu")(base(x))), loss).save(
        tmp_path / "model.keras"
    )
    assert [layer.op for layer in read(tmp_path / "model.keras").net.layers] == [
        "Conv2D",
        "Activation",
    ]


def test_keras_says_what_is_wrong_innermost(archive):
    with pytest.raises(
        UnusableInput,
        match="cannot be loaded: Could not interpret activation function identifier: lo",
    ):
        read(rewritten(archive, lambda config: _conv(config)["config"].update(activation="lost")))


def test_an_archive_of_too_many_members_is_refused(archive):
    with pytest.raises(UnusableInput, match="holds 1,004 members"):
        read(rewritten(archive, **{f"assets/{i}": b"" for i in range(1001)}))


@pytest.mark.parametrize("name", ["../evil", "/evil", "a\\evil", "C:evil", "metadata.json"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_at_strange_paths_are_refused(archive, name):
    with pytest.raises(UnusableInput, match="holds a member"):
        read(rewritten(archive, **{name: b"{}"}))


def test_an_archive_that_unpacks_to_far_more_is_refused(archive, monkeypatch):
    monkeypatch.setattr("convwise.formats.keras.archive._MOST_UNPACKED", 1 << 20)
    with pytest.raises(UnusableInput, match="unpacks to"):
        read(rewritten(archive, bomb=bytes(64 << 20)))


@pytest.mark.parametrize("value", [10**400, float("nan"), float("inf")])
def test_numbers_that_are_none_leave_a_layer_that_cannot_be_read(value, tmp_path):
    """Keras keeps them as they stand in the file."""
    functional(
        lambda x: layers.Rescaling(0.5)(layers.ReLU(negative_slope=0.3, name="act")(x))
    ).save(tmp_path / "a.keras")

    def changed(config):
        by_name = {layer["config"]["name"]: layer["config"] for layer in config["config"]["layers"]}
        by_name["act"]["negative_slope"] = value
        next(each for name, each in by_name.items() if name.startswith("rescaling"))["scale"] = (
            value
        )

    found = read(rewritten(tmp_path / "a.keras", changed)).net.layers
    assert [layer.op for layer in found] == (
        ["Opaque"] * 2 if value == 10**400 else ["Activation", "Rescaling"]
    )


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float16", 2)])
def test_the_bytes_of_each_weight_are_counted(archive, dtype, size):
    """Ten weights for each filter; half as many weights as the archive has bytes, but for int8, are
    too many.
    """
    with zipfile.ZipFile(archive) as file:
        held = sum(each.file_size for each in file.infolist() if each.filename.endswith(".h5"))
    filters = 2 * held // (size * 10)
    with pytest.raises(
        UnusableInput, match=rf"asks for {10 * filters:,} weights.*{10 * filters * size:,} bytes"
    ):
        read(
            rewritten(
                archive, lambda config: _conv(config)["config"].update(filters=filters, dtype=dtype)
            )
        )
    with pytest.raises(UnusableInput, match="cannot be loaded"):  # for they are of another shape
        read(
            rewritten(
                archive,
                lambda config: _conv(config)["config"].update(filters=filters // 4, dtype=dtype),
            )
        )


def test_nothing_is_left_of_a_model_that_was_only_counted(archive):
    """A scope's end makes all variables that are still to be made."""
    with pytest.raises(UnusableInput, match="asks for"):
        read(rewritten(archive, lambda config: _conv(config)["config"].update(filters=10**9)))
    with keras.StatelessScope():
        pass
    assert [layer.name for layer in read(archive).net.layers] == ["conv"]


def _large_then_wrong(config):
    """A layer that takes 40 GB, and one after it that cannot be made."""
    large = _conv(config)
    large["config"].update(filters=10**9)
    wrong = {**large, "config": {**large["config"], "name": "wrong", "filters": -3}}
    config["config"]["layers"].append(wrong)


def test_nothing_is_left_of_a_model_that_could_not_be_counted(archive):
    with pytest.raises(UnusableInput, match="cannot be loaded"):
        read(rewritten(archive, _large_then_wrong))
    with keras.StatelessScope():
        pass
    assert [layer.name for layer in read(archive).net.layers] == ["conv"]


def test_a_huge_configuration_is_refused(archive, monkeypatch):
    monkeypatch.setattr("convwise.formats.keras.archive._MOST_JSON", 100)
    with pytest.raises(UnusableInput, match="more than 100 bytes"):
        read(archive)
