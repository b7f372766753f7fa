"""Every format answers as every other: Keras, PyTorch and ONNX Runtime are each other's oracles."""

from __future__ import annotations

import json
import os
import random
import runpy
import subprocess
import sys
import zipfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from convwise import formats
from convwise.core import layers as L
from convwise.core.activations import ACTIVATIONS, activation
from convwise.core.net import Net
from convwise.core.problems import ExportMismatch, Unsupported, UnusableInput
from convwise.formats import FORMATS
from convwise.formats import keras as keras_format
from convwise.formats import onnx as onnx_format
from convwise.formats import torch as torch_format
from convwise.formats.onnx import lowering as onnx_layers
from convwise.formats.weights import require_own
from nets import nets, random_net, random_pixels, random_weights

pytestmark = pytest.mark.filterwarnings("ignore:You are using a softmax over axis")
SOURCE = Path(__file__).parents[2] / "src"
TEXTBOOK: dict[str, Net] = runpy.run_path(str(SOURCE.parent / "examples" / "textbook.py"))[
    "TEXTBOOK"
]
CLASSES = ("cat", 'a "quoted" dog', "Überraschung")

# At least one net per layer type; a type without one fails test_every_layer_has_an_example.
EXAMPLES: dict[str, list[tuple[L.Layer, ...]]] = {
    "Conv2D": [
        (L.Conv2D(4, (3, 2), (2, 3), "same"),),
        (L.Conv2D(4, 3, padding=(0, 2, 1, 0), groups=2, use_bias=False),),
        (L.Conv2D(4, 3, padding="same", dilation_rate=(2, 1)),),
        (L.Conv2D(4, 3, 2, (1, 0, 1, 0)),),
    ],
    "DepthwiseConv2D": [
        (L.DepthwiseConv2D(3, 2, "same", depth_multiplier=2),),
        (L.DepthwiseConv2D((2, 3), (1, 2), (1, 1, 0, 2)),),
    ],
    "SeparableConv2D": [
        (L.SeparableConv2D(5, 3, 2, "same", depth_multiplier=2, activation="relu"),),
        (L.SeparableConv2D(3, (2, 3), padding=(1, 0, 0, 2), dilation_rate=2, use_bias=False),),
    ],
    "Conv2DTranspose": [
        (L.Conv2DTranspose(3, 3, 2, "same"),),
        (L.Conv2DTranspose(3, (2, 4), (2, 3), "valid", use_bias=False, activation="relu"),),
        (L.Conv2DTranspose(5, 4, 2, (1, 1, 1, 1)),),
    ],
    "MaxPooling2D": [
        (L.Rescaling(-1.0), L.MaxPooling2D(3, 2, "same")),
        (L.Activation("relu"), L.MaxPooling2D(3, 2, (1, 1, 1, 1))),
        (L.MaxPooling2D(2, 2, ceil_mode=True),),
    ],
    "AveragePooling2D": [
        (L.AveragePooling2D(3, 1, "same"),),
        (L.AveragePooling2D((2, 3), 2),),
        (L.AveragePooling2D(3, 2, (1, 1, 1, 1), count_include_pad=True),),
    ],
    "GlobalAveragePooling2D": [
        (L.GlobalAveragePooling2D(),),
        (L.GlobalAveragePooling2D(True), L.Conv2D(3, 1)),
    ],
    "GlobalMaxPooling2D": [(L.GlobalMaxPooling2D(),), (L.GlobalMaxPooling2D(True), L.Conv2D(3, 1))],
    "AdaptiveAveragePooling2D": [
        (L.AdaptiveAveragePooling2D((3, 7)),),
        (L.AdaptiveAveragePooling2D((4, 5)),),
    ],
    "AdaptiveMaxPooling2D": [(L.AdaptiveMaxPooling2D((3, 7)),), (L.AdaptiveMaxPooling2D((4, 5)),)],
    "BatchNormalization": [
        (L.BatchNormalization(0.01),),
        (L.GlobalAveragePooling2D(), L.BatchNormalization(), L.Dense(3)),
        (
            L.BatchNormalization(scale=False),
            L.BatchNormalization(center=False),
            L.BatchNormalization(scale=False, center=False),
        ),
    ],
    "GroupNormalization": [
        (L.GroupNormalization(2),),
        (L.GroupNormalization(4, 1e-5, False, False),),
    ],
    "LayerNormalization": [
        (L.LayerNormalization(),),
        (L.LayerNormalization((1, 2, 3), 1e-5),),
        (L.GlobalAveragePooling2D(), L.LayerNormalization(scale=False)),
    ],
    "PReLU": [
        (L.Rescaling(2.0, -1.0), L.PReLU((1, 2))),
        (L.Rescaling(2.0, -1.0), L.PReLU((1, 2, 3))),
    ],
    "GLU": [(L.GLU(),), (L.Flatten(), L.GLU())],
    "LayerScale": [(L.LayerScale(),), (L.GlobalAveragePooling2D(), L.LayerScale())],
    "SpatialDropout2D": [(L.SpatialDropout2D(0.5),)],
    "AlphaDropout": [(L.AlphaDropout(0.5),)],
    "GaussianDropout": [(L.GaussianDropout(0.5),)],
    "GaussianNoise": [(L.GaussianNoise(0.5),)],
    "StochasticDepth": [(L.StochasticDepth(0.5),)],
    "Reshape": [
        (L.Reshape((7, 9, 4)), L.Conv2D(3, 3)),
        (L.Flatten(), L.Reshape((6, 6, -1)), L.Conv2D(3, 3)),
        (L.GlobalAveragePooling2D(), L.Reshape((1, 1, 4)), L.Conv2D(3, 1)),
        (L.Reshape((-1,)), L.Dense(3)),
    ],
    "Activation": [(L.Activation("leaky_relu"),)],
    "Dropout": [(L.Dropout(0.5), L.Flatten())],
    "Flatten": [(L.Flatten(), L.Dense(3))],
    "Dense": [
        (L.Dense(3, use_bias=False, activation="softmax"),),
        (L.Flatten(), L.Flatten(), L.Dense(2)),
    ],
    "Add": [(L.Conv2D(4, 1, name="train"), L.Add(inputs=("input", "train", "input")))],
    **{
        op: [
            (L.Conv2D(4, 1, name="other"), getattr(L, op)(inputs=("input", "other"))),
            (L.GlobalAveragePooling2D(True, name="gate"), getattr(L, op)(inputs=("input", "gate"))),
        ]
        for op in ("Subtract", "Multiply", "Average", "Maximum", "Minimum")
    },
    "Concatenate": [
        (
            L.Conv2D(3, 1, name="class"),
            L.Concatenate(inputs=("input", "class")),
            L.Flatten(),
            L.Dense(2),
        )
    ],
    "ZeroPadding2D": [(L.ZeroPadding2D((0, 1, 2, 3)),), (L.ZeroPadding2D((0, 0, 0, 0)),)],
    "Cropping2D": [(L.Cropping2D((1, 0, 2, 1)),)],
    "UpSampling2D": [
        (L.UpSampling2D(2),),
        (L.UpSampling2D((1, 3)),),
        (L.UpSampling2D(2, "bilinear"),),
    ],
    "Rescaling": [
        (L.Rescaling(1 / 255, -0.5),),
        (L.Rescaling((1.0, 2.0, 3.0, 4.0), (0.0, 1.0, 0.0, -1.0)),),
    ],
    "Normalization": [
        (L.Normalization((0.1, 0.2, 0.3, 0.4), (0.5, 1e-3, 2.0, 1.0)),),
        (L.GlobalAveragePooling2D(), L.Normalization(0.5, 4.0)),
    ],
}
CASES = {f"{op}-{i}": layers for op, nets in EXAMPLES.items() for i, layers in enumerate(nets)}
# Activations with arguments, beside each at its defaults.
SPELLED = ("relu(max_value=0.5, negative_slope=0.1, threshold=0.2)", "relu(max_value=6.0)",
           "relu(negative_slope=0.1)",
           "leaky_relu(negative_slope=0.01)", "elu(alpha=0.5)", "celu(alpha=0.5)",
           "softplus(beta=2.0)",
           "squareplus(b=1.0)", "hard_tanh(min_val=-0.2, max_val=0.4)",
           "hard_tanh(min_val=0.0, max_val=inf)",
           "soft_shrink(threshold=0.1)", "hard_shrink(threshold=0.1)",
           "threshold(threshold=0.1, value=0.3)",
           )  # fmt: skip


def lacking(form: str, net: Net) -> bool:
    """Whether the format says that it cannot express the net: then it must refuse it, and else
    write it.
    """
    activations = [getattr(layer, "activation", "linear") for layer in net.layers]
    names = {*(layer.op for layer in net.layers), *(activation(name).name for name in activations)}
    return not names.isdisjoint(FORMATS[form].lacks)


def net_of(layers: tuple[L.Layer, ...]) -> Net:
    """The layers on a 9x7 map of four channels in [0, 1]."""
    first = L.Rescaling(1 / 255, name="unit")
    return Net((9, 7, 4), (first, *(_reads(layer, "unit") for layer in layers)))


def _reads(layer: L.Layer, name: str) -> L.Layer:
    inputs = tuple(name if each == "input" else each for each in layer.inputs)
    return type(layer)(**{**layer.__dict__, "inputs": inputs})


def ours(net: Net, weights: dict, pixels: np.ndarray) -> np.ndarray:
    module = torch_format.build(net)
    torch_format.load(module, net, weights)
    return torch_format.forward(module, pixels)


def assert_close(given: np.ndarray, expected: np.ndarray, tolerance: float = 1e-4) -> None:
    assert given.shape == expected.shape
    assert np.abs(given - expected).max() <= tolerance * max(1, np.abs(expected).max())


# --- conformance ----------------------------------------------------------------------------


def test_every_layer_has_an_example():
    assert set(EXAMPLES) == set(L.LAYERS) - {"Opaque"}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_every_format_writes_every_layer(form, case, tmp_path):
    net = net_of(CASES[case])
    if lacking(form, net):
        with pytest.raises(Unsupported, match=f"{form} export"):
            formats.write(
                tmp_path, net, random_weights(net, 1), CLASSES, random_pixels(net), (form,)
            )
        return
    differences = formats.write(
        tmp_path, net, random_weights(net, 1), CLASSES, random_pixels(net), (form,)
    )
    assert differences[form] < 1e-4
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(FORMATS[form].files)


@pytest.mark.parametrize("form", FORMATS)
def test_a_format_that_writes_a_source_can_give_it_without_weights(form, tmp_path):
    """Which is its first file, and of the same network."""
    module, net = formats.format_module(form), net_of((L.Conv2D(23, 1),))
    assert FORMATS[form].source == hasattr(module, "render")
    if FORMATS[form].source:
        formats.write(tmp_path, net, random_weights(net, 1), CLASSES, random_pixels(net), (form,))
        assert "23" in (tmp_path / FORMATS[form].files[0]).read_text()
        assert "23" in module.render(net, CLASSES)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_writes_every_activation(form, tmp_path):
    """As a layer of its own and as an argument of Conv2D and Dense, on maps and rows; tanh between,
    against inf.
    """
    calm = L.Activation("tanh")
    for name in (*ACTIVATIONS, *SPELLED):
        net = net_of((L.Conv2D(4, 1, activation=name), calm, L.Activation(name),
                      L.GlobalAveragePooling2D(), calm, L.Dense(3, activation=name), calm,
                      L.Activation(name)))  # fmt: skip
        refused = pytest.raises(Unsupported, match=f"{form} export")
        with refused if lacking(form, net) else nullcontext():
            given = formats.write(
                tmp_path, net, random_weights(net, 2), CLASSES, random_pixels(net), (form,)
            )
            assert given[form] < 1e-4, name


@pytest.mark.parametrize(
    "form", [name for name in FORMATS if hasattr(formats.format_module(name), "lower")]
)
def test_an_unknown_layer_is_reported(form):
    @dataclass(frozen=True)
    class Spectral(L.Layer):
        pass

    arguments = ({},) if form == "onnx" else ()
    with pytest.raises(Unsupported, match=rf"{form} export, layer odd: Spectral"):
        formats.format_module(form).lower(Spectral(name="odd"), [(4, 4, 1)], *arguments)


def test_an_unknown_format_is_reported(tmp_path):
    with pytest.raises(UnusableInput, match=", ".join(FORMATS)):
        formats.export(tmp_path, "pickle")


# --- random nets ----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(net=nets(), seed=st.integers(0, 99))
def test_torch_keras_and_onnx_agree(net, seed):
    weights, pixels = random_weights(net, seed), random_pixels(net, seed=seed)
    expected = ours(net, weights, pixels)
    assert_close(keras_format.forward(keras_format.build(net, weights), pixels), expected)
    assert_close(
        onnx_format.forward(onnx_format.session(onnx_format.build(net, weights)), pixels), expected
    )


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(net=nets(everywhere=False))
def test_torch_and_onnx_agree_on_what_keras_lacks(net):
    weights, pixels = random_weights(net), random_pixels(net)
    answer = onnx_format.forward(onnx_format.session(onnx_format.build(net, weights)), pixels)
    assert_close(answer, ours(net, weights, pixels))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(net=nets(everywhere=False))
def test_weights_come_back(net):
    weights = random_weights(net)
    module = torch_format.build(net)
    torch_format.load(module, net, weights)
    back = torch_format.weights(module, net)
    assert list(back) == list(weights)
    assert all(np.array_equal(back[key], weights[key]) for key in weights)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(net=nets(everywhere=False))
def test_torch_nets_train_in_bfloat16_and_channels_last(net):
    module = torch_format.build(net, logits=True).to(memory_format=torch.channels_last)
    pixels = torch.from_numpy(random_pixels(net, 4)).permute(0, 3, 1, 2).float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = module(pixels.to(memory_format=torch.channels_last)).float().square().mean()
    assert torch.isfinite(loss)
    if list(module.parameters()):
        loss.backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in module.parameters())


TENSORFLOW = """
import random, sys
import numpy as np
from convwise.formats import keras, torch
from nets import random_net, random_pixels, random_weights
assert keras.keras.backend.backend() == "tensorflow"
worst = 0
for seed in range(60):
    net = random_net(random.Random(seed))
    weights, pixels = random_weights(net, seed), random_pixels(net)
    module = torch.build(net)
    torch.load(module, net, weights)
    expected = torch.forward(module, pixels)
    given = keras.forward(keras.build(net, weights), pixels)
    assert given.shape == expected.shape, (seed, net)
    worst = max(worst, np.abs(given - expected).max() / max(1, np.abs(expected).max()))
    assert worst < 1e-4, (seed, worst, net)
"""


def test_a_written_keras_model_is_compared_on_the_cpu(tmp_path, monkeypatch):
    """Where Keras would compute elsewhere, as on a GPU in TF32: here a device without numbers."""
    net = Net((8, 8, 1), (L.Conv2D(2, 3), L.GlobalAveragePooling2D(), L.Dense(2)))
    weights, pixels = random_weights(net), np.zeros((2, 8, 8, 1), np.uint8)
    keras_format.save(tmp_path, net, weights, ("a", "b"))
    monkeypatch.setattr("keras.src.backend.torch.core.DEFAULT_DEVICE", "meta")
    stored, sourced = keras_format.run(tmp_path, pixels)
    assert np.isfinite(stored).all()
    assert_close(sourced, stored)
    with pytest.raises(NotImplementedError):
        keras_format._run(tmp_path, pixels)


@pytest.mark.slow
def test_keras_on_tensorflow_agrees():
    pytest.importorskip("tensorflow", reason="the second Keras backend")
    run_python(
        TENSORFLOW,
        KERAS_BACKEND="tensorflow",
        PYTHONPATH=f"{SOURCE}{os.pathsep}{Path(__file__).parents[1]}",
    )


def test_batch_statistics_move_as_in_keras():
    """A training step on the same batch leaves the same running mean: momentum means the share
    kept.
    """
    net = net_of((L.BatchNormalization(momentum=0.8),))
    weights, pixels = random_weights(net), random_pixels(net, 8)
    module, model = torch_format.build(net), keras_format.build(net, weights)
    torch_format.load(module, net, weights)
    module.train()(torch.from_numpy(pixels).permute(0, 3, 1, 2).float())
    model(pixels.astype("float32"), training=True)
    moved = torch_format.weights(module, net)["batchnormalization/moving_mean"]
    assert_close(moved, np.asarray(model.get_layer("batchnormalization").moving_mean.numpy()))


def test_logits_are_the_numbers_before_the_softmax():
    for head in ((L.Dense(3, activation="softmax"),), (L.Dense(3), L.Activation("softmax"))):
        net = net_of((L.Flatten(), *head))
        weights, pixels = random_weights(net), random_pixels(net)
        module = torch_format.build(net, logits=True)
        torch_format.load(module, net, weights)
        logits = torch.from_numpy(torch_format.forward(module, pixels))
        assert_close(logits.softmax(1).numpy(), ours(net, weights, pixels))
        assert abs(float(logits.sum(1)[0]) - 1) > 1e-3


# --- sources --------------------------------------------------------------------------------

ALONE = """
import importlib.abc, runpy, sys
from pathlib import Path
kind, blocked, folders = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Block())
try:
    import convwise
except ImportError:
    pass
else:
    raise AssertionError("convwise can be imported")
import numpy as np
for folder in map(Path, folders):
    space = runpy.run_path(str(folder / f"model_{kind}.py"), run_name="model")
    pixels, expected = np.load(folder / "pixels.npy"), np.load(folder / "expected.npy")
    if kind == "torch":
        import torch
        model = space["load"](str(folder / "model.safetensors"))
        with torch.no_grad():
            given = model(torch.from_numpy(pixels).permute(0, 3, 1, 2).float())
        given = (given.permute(0, 2, 3, 1) if given.ndim == 4 else given).numpy()
    else:
        import keras
        model = space["load"](str(folder / "model.keras"))
        given = keras.ops.convert_to_numpy(model(pixels.astype("float32")))
    assert tuple(space["INPUT_SHAPE"]) == pixels.shape[1:]
    assert space["CLASSES"][2] == "\\u00dcberraschung"
    assert given.shape == expected.shape, folder
    assert np.abs(given - expected).max() <= 1e-4 * max(1, np.abs(expected).max()), folder
sys.argv[1:] = ["-"]
for folder in folders:
    if "predict" not in Path(folder, f"model_{kind}.py").read_text("utf-8"):
        runpy.run_path(str(Path(folder) / f"model_{kind}.py"), run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "others"), [("torch", "keras,tensorflow,onnx"), ("keras", "safetensors")]
)
def test_sources_run_without_convwise(kind, others, tmp_path):
    folders = [
        _stored(tmp_path / str(seed), random_net(random.Random(seed)), kind) for seed in range(12)
    ]
    run_python(ALONE, kind, f"convwise,{others}", *folders, KERAS_BACKEND="torch", PYTHONPATH="")


def _stored(folder: Path, net: Net, kind: str) -> str:
    weights, pixels = random_weights(net, 3), random_pixels(net)
    formats.write(folder, net, weights, CLASSES, pixels, (kind,))
    np.save(folder / "pixels.npy", pixels)
    np.save(folder / "expected.npy", ours(net, weights, pixels))
    return str(folder)


def run_python(source: str, *arguments: str, **environment: str) -> None:
    command = [sys.executable, "-c", source, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_importing_formats_imports_no_framework():
    check = (
        "import sys, convwise.formats; assert not {'torch', 'keras', 'onnx', 'tensorflow'} &"
        " set(sys.modules)"
    )
    run_python(check, PYTHONPATH=str(SOURCE))


def test_sources_read_as_a_person_writes_them():
    net = TEXTBOOK["one_convolution"]
    assert """
    return keras.Sequential([
        keras.Input(INPUT_SHAPE),
        layers.Conv2D(32, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(10, activation="softmax"),
    ])
""" in keras_format.render(net)
    assert """
        ("conv2d", nn.Conv2d(1, 32, 3, padding=1)),
        ("conv2d_relu", nn.ReLU()),
        ("maxpooling2d", nn.MaxPool2d(2)),
""" in torch_format.render(net)
    branching = net_of(
        (L.Conv2D(4, 3, 2, "same", name="stem"), L.Conv2D(4, 1), L.Add(inputs=("stem", "conv2d")))
    )
    assert "        x = self.conv2d(stem)\n        x = stem + x\n" in torch_format.render(branching)
    assert (
        'stem = layers.Conv2D(4, 3, strides=2, padding="same", name="stem")(x)\n'
        in keras_format.render(branching)
    )


def test_source_names_are_those_of_the_module(tmp_path):
    for seed in range(30):
        net = random_net(random.Random(seed), everywhere=False)
        space: dict = {"__name__": "model"}
        exec(torch_format.render(net), space)
        assert list(space["build_model"]().state_dict()) == list(
            torch_format.build(net).state_dict()
        )


# --- files ----------------------------------------------------------------------------------


def small() -> tuple[Net, dict, np.ndarray]:
    """A net whose kernels, pads and flattening are all lopsided, so that no slip stays hidden."""
    layers = (
        L.Conv2D(3, 3, 2, "same", activation="relu"),
        L.Flatten(),
        L.Dense(3, activation="softmax"),
    )
    net = Net((8, 6, 2), (L.Rescaling(1 / 255), *layers))
    return net, random_weights(net, 5), random_pixels(net, 64)


def test_write_fills_the_folder(tmp_path):
    net, weights, pixels = small()
    differences = formats.write(tmp_path, net, weights, CLASSES, pixels)
    assert set(differences) == set(FORMATS)
    assert max(differences.values()) < 1e-5
    assert {p.name for p in tmp_path.iterdir()} == {*formats.WRITTEN}


def test_every_file_carries_the_classes_and_the_input_size(tmp_path):
    net, weights, pixels = small()
    formats.write(tmp_path, net, weights, CLASSES, pixels)
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        in_keras = json.loads(archive.read("convwise.json"))
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        in_torch = {
            key: json.loads(file.metadata()[key]) for key in ("net", "classes", "input_shape")
        }
    props = onnx_format.session(tmp_path / "model.onnx").get_modelmeta().custom_metadata_map
    in_onnx = {key: json.loads(value) for key, value in props.items()}
    for about in (in_keras, in_torch, in_onnx):
        assert about["classes"] == list(CLASSES)
        assert about["input_shape"] == [8, 6, 2]
        assert Net.from_json(about["net"]) == net
    assert json.loads((tmp_path / "net.json").read_text("utf-8"))["classes"] == list(CLASSES)


def test_onnx_takes_any_batch_and_names_its_ends(tmp_path):
    net, weights, pixels = small()
    session = onnx_format.session(onnx_format.build(net, weights, CLASSES))
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("image", ["batch", 2, 8, 6])]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("probabilities", ["batch", 3])]
    for images in (1, 5):
        assert onnx_format.forward(session, pixels[:images]).shape == (images, 3)


@pytest.mark.parametrize("form", FORMATS)
def test_export_reads_the_folder_back(form, tmp_path):
    net, weights, pixels = small()
    formats.write(tmp_path / "choice", net, weights, CLASSES, pixels, ("torch",))
    files = formats.export(tmp_path / "choice", form, tmp_path / "out")
    assert all(file.is_file() for file in files)
    read_net, read_weights, classes = formats.read(tmp_path / "choice")
    assert (read_net, classes) == (net, CLASSES)
    assert all(np.array_equal(read_weights[key], weights[key]) for key in weights)


def test_a_foreign_or_missing_file_is_reported(tmp_path):
    with pytest.raises(UnusableInput, match="holds no model.safetensors"):
        formats.export(tmp_path, "onnx")
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UnusableInput, match="was not written by convwise"):
        formats.read(tmp_path)


def test_weights_that_do_not_fit_are_reported():
    net, weights, _ = small()
    with pytest.raises(UnusableInput, match="conv2d/bias"):
        require_own(net, {key: value for key, value in weights.items() if key != "conv2d/bias"})
    with pytest.raises(UnusableInput, match=r"weight dense/kernel: has shape \(3, 36\)"):
        require_own(net, {**weights, "dense/kernel": weights["dense/kernel"].T})


# --- planted faults: each must be refused, and leave nothing -----------------------------------


def _refused(tmp_path: Path, form: str) -> None:
    net, weights, pixels = small()
    with pytest.raises(ExportMismatch, match=f"{form} export"):
        formats.write(tmp_path, net, weights, CLASSES, pixels)
    assert list(tmp_path.iterdir()) == []


def test_a_transposed_kernel_is_refused(tmp_path, monkeypatch):
    right = onnx_layers.channels_first
    turned = lambda *given, **how: right(*given, **how).swapaxes(2, 3)  # noqa: E731
    monkeypatch.setattr(onnx_layers, "channels_first", turned)
    _refused(tmp_path, "onnx")


def test_another_flattening_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(onnx_layers.LOWER, L.Flatten, lambda *_: (onnx_layers.Op("Flatten"),))
    _refused(tmp_path, "onnx")


def test_pads_on_the_wrong_side_are_refused(tmp_path, monkeypatch):
    """PyTorch's padding=1 on a 'same' stride of 2: the shape is right, the numbers are not."""
    right = onnx_layers._moves
    monkeypatch.setattr(
        onnx_layers, "_moves", lambda window: {**right(window), "pads": (1, 1, 0, 0)}
    )
    _refused(tmp_path, "onnx")


@pytest.mark.parametrize("old", ["nn.ZeroPad2d((0, 1, 0, 1))", "FlattenLast()"])
def test_a_source_that_says_something_else_is_refused(old, tmp_path, monkeypatch):
    right = torch_format.render
    new = {
        "nn.ZeroPad2d((0, 1, 0, 1))": "nn.ZeroPad2d((1, 0, 1, 0))",
        "FlattenLast()": "nn.Flatten()",
    }[old]
    assert old in right(small()[0])
    monkeypatch.setattr(
        torch_format,
        "render",
        lambda *given, **how: right(*given, **how).replace(f" {old})", f" {new})"),
    )
    _refused(tmp_path, "torch")


def test_a_dropped_pad_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(
        keras_format,
        "render",
        lambda *given, **how: _KERAS_RENDER(*given, **how).replace(', padding="same"', ""),
    )
    _refused(tmp_path, "keras")


_KERAS_RENDER = keras_format.render


@pytest.mark.parametrize("form", formats.FORMATS)
def test_a_disk_that_is_full_is_said_whatever_a_framework_calls_it(form, tmp_path, monkeypatch):
    def save(*given):
        raise RuntimeError("Error while serializing: No space left on device (os error 28)")

    monkeypatch.setattr(formats.format_module(form), "save", save)
    with pytest.raises(
        ExportMismatch, match=rf"{form} export: cannot be written \(Error while .*Fix: make room"
    ):
        formats.write(tmp_path, *small()[:2], CLASSES, small()[2])
    assert list(tmp_path.iterdir()) == []


def test_not_a_number_is_refused(tmp_path):
    net, weights, pixels = small()
    weights["dense/bias"] = np.full(3, np.nan, np.float32)
    with pytest.raises(ExportMismatch):
        formats.write(tmp_path, net, weights, CLASSES, pixels)


# --- what a format lacks ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "what"),
    [
        ((L.Conv2DTranspose(4, 3, 2, dilation_rate=2),), "is refused by Keras"),
        ((L.Conv2DTranspose(4, 3, groups=2),), "cannot be expressed in Keras"),
        ((L.Conv2DTranspose(4, 3, 2, "valid", (2, 0)),), "is refused by Keras"),
        ((L.Conv2D(4, 1), L.MaxPooling2D(2, 2, (1, 1, 1, 1))), "the same on every backend"),
        ((L.MaxPooling2D(2, 1, (2, 0, 0, 0)),), "hold only padding"),
        ((L.AveragePooling2D(2, 2, "same"),), "the same on every backend"),
        ((L.AveragePooling2D(3, 2, (1, 1, 0, 1), True, True),), "the same on every backend"),
        ((L.Cropping2D((6, 0, 0, 0)), L.AdaptiveMaxPooling2D((7, 7))), "Keras on JAX"),
        ((L.UpSampling2D(2, "bicubic"),), "on other Keras backends"),
    ],
)
def test_keras_refuses_what_it_cannot_express(layers, what):
    net = net_of(layers)
    with pytest.raises(Unsupported, match=what):
        keras_format.build(net, random_weights(net))


LACKED = (L.Flatten(), L.Dense(3, activation="softmin"))


def test_what_cannot_be_written_is_left_out_where_the_rest_is_handed_over(tmp_path, monkeypatch):
    """As Keras of this net, and ONNX of any where its library is not there."""

    def save(*given):
        raise ImportError("No module named 'onnx'")

    monkeypatch.setattr(onnx_format, "save", save)
    net = net_of(LACKED)
    found = formats.hand_over(tmp_path, net, random_weights(net, 1), CLASSES, random_pixels(net))
    assert {*found.differences} == {*FORMATS} - {"keras", "onnx"}
    assert "keras.activations lacks softmin" in found.left_out["keras"]
    assert "Fix:" not in found.left_out["keras"]
    assert (
        "onnx export: its library cannot be loaded (No module named 'onnx'). Fix:"
        in found.left_out["onnx"]
    )
    kept = {file for form in found.differences for file in FORMATS[form].files}
    assert {p.name for p in tmp_path.iterdir()} == kept
    with pytest.raises(Unsupported):
        formats.write(tmp_path, net, random_weights(net, 1), CLASSES, random_pixels(net))


def test_without_the_trained_network_nothing_is_handed_over(tmp_path, monkeypatch):
    def save(*given):
        raise ImportError("No module named 'safetensors'")

    monkeypatch.setattr(torch_format, "save", save)
    net, weights, pixels = small()
    with pytest.raises(Unsupported, match="torch export: its library"):
        formats.hand_over(tmp_path, net, weights, CLASSES, pixels)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("build", [torch_format.build, lambda net: onnx_format.build(net, {})])
def test_pool_windows_that_hold_nothing_are_refused(build):
    with pytest.raises(Unsupported, match="hold only padding"):
        build(net_of((L.MaxPooling2D(2, 1, (2, 0, 0, 0)),)))


# --- the textbook -----------------------------------------------------------------------------


def test_textbook_one_through_everything(tmp_path):
    _through_everything("one_convolution", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["three_convolutions", "mixed_activations"])
def test_large_textbooks_through_everything(name, tmp_path):
    _through_everything(name, tmp_path)


def _through_everything(name: str, tmp_path: Path) -> None:
    net = TEXTBOOK[name]
    weights = random_weights(net)
    classes = [str(digit) for digit in range(10)]
    assert (
        max(formats.write(tmp_path, net, weights, classes, random_pixels(net, 8)).values()) < 1e-4
    )
