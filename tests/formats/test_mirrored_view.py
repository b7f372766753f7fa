"""Nets that answer with the mean of an image and its mirror image: each format says it, and is read
back as such.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from convwise import formats
from convwise.core import layers as L
from convwise.core.calculus import analyse
from convwise.core.net import Net
from convwise.core.problems import Unsupported
from convwise.examining import check
from convwise.formats import torch as torch_format
from convwise.formats.weights import Weights
from convwise.inspect.models import load
from nets import random_weights

CHAIN = Net(
    (9, 12, 3),
    (
        L.Rescaling(1 / 255),
        L.Conv2D(4, 3, padding="same", strides=2, activation="relu"),
        L.BatchNormalization(),
        L.GlobalAveragePooling2D(),
        L.Dense(3, activation="softmax"),
    ),
)
BRANCHES = Net(
    (9, 12, 3),
    (
        L.Rescaling(1 / 255),
        L.Conv2D(4, 3, padding="same", activation="relu"),
        L.Conv2D(4, 3, padding="same", name="network"),
        L.Add(inputs=("network", "conv2d")),
        L.Flatten(),
        L.Dense(3, activation="softmax"),
    ),
)
NUMBER = Net(
    (9, 12, 3), (L.Conv2D(4, 3), L.GlobalMaxPooling2D(), L.Dense(1), L.Rescaling(40.0, 7.0))
)


class Written(NamedTuple):
    """A net of one view, the one with both, and the folder that holds it in every format."""

    one: Net
    both: Net
    weights: Weights
    pixels: np.ndarray
    folder: Path


@pytest.fixture(
    scope="module", params=[CHAIN, BRANCHES, NUMBER], ids=["chain", "branches", "number"]
)
def written(request, tmp_path_factory) -> Written:
    one: Net = request.param
    both, folder = replace(one, mirrored_view=True), tmp_path_factory.mktemp("written")
    pixels = np.random.default_rng(1).integers(0, 256, (6, *one.input_shape), dtype=np.uint8)
    weights = random_weights(one)
    formats.write(
        folder, both, weights, ("a", "b", "c") if one is not NUMBER else ("size",), pixels
    )
    return Written(one, both, weights, pixels, folder)


def by_hand(written: Written) -> np.ndarray:
    """The mean of what the net of one view gives for the images and for their columns in
    reverse.
    """
    module = torch_format.build(written.one)
    torch_format.load(module, written.one, written.weights)
    views = (written.pixels, np.ascontiguousarray(written.pixels[:, :, ::-1]))
    first, second = (torch_format.forward(module, each) for each in views)
    assert np.abs(first - second).max() > 1e-3, "or the test could not tell one view from two"
    return (first + second) / 2


def with_keras(folder: Path, pixels: np.ndarray) -> np.ndarray:
    model = keras.saving.load_model(folder / "model.keras", safe_mode=True)
    return np.asarray(model.predict(pixels.astype("float32"), verbose=0))


def with_onnx(folder: Path, pixels: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    return np.asarray(
        session.run(None, {"image": pixels.transpose(0, 3, 1, 2).astype(np.float32)})[0]
    )


def with_source(folder: Path, pixels: np.ndarray) -> np.ndarray:
    space: dict = {"__name__": "model_torch", "__file__": str(folder / "model_torch.py")}
    exec((folder / "model_torch.py").read_text(), space)
    with torch.no_grad():
        return np.asarray(space["load"]()(torch.from_numpy(pixels).permute(0, 3, 1, 2).float()))


@pytest.mark.parametrize("answer", [with_keras, with_onnx, with_source])
def test_each_format_answers_with_the_mean_of_both_views(written, answer: Callable):
    assert answer(written.folder, written.pixels) == pytest.approx(
        by_hand(written), abs=1e-5, rel=1e-5
    )


@pytest.mark.parametrize("file", ["model.keras", "model.onnx", "model.safetensors", "net.json"])
def test_what_is_written_is_read_back_with_its_weights_once(written, file):
    found = load(written.folder / file)
    assert found.net == written.both
    assert analyse(found.net).total == analyse(written.both).total
    if found.weights:
        assert {
            key: np.abs(array - written.weights[key]).max() for key, array in found.weights.items()
        } == dict.fromkeys(written.weights, pytest.approx(0, abs=1e-6))


def test_the_costs_are_those_that_the_frameworks_count(written):
    """Parameters by Keras, macs by the calls of PyTorch's modules."""
    total, macs = analyse(written.both).total, []

    def count(module: torch.nn.Module, given: tuple, output: torch.Tensor) -> None:
        macs.append(output.numel() * module.weight[0].numel())

    module = torch_format.build(written.both)
    for part in module.modules():
        if isinstance(part, (torch.nn.Conv2d, torch.nn.Linear)):
            part.register_forward_hook(count)
    torch_format.forward(module, written.pixels[:1])
    assert total.macs == sum(macs)
    assert total.params == keras.saving.load_model(written.folder / "model.keras").count_params()


def test_the_graph_alone_says_it_too(written):
    """Without the metadata, as a program that made the same graph would leave it."""
    model = onnx.load(written.folder / "model.onnx")
    del model.metadata_props[:]
    found = load(model)
    assert found.net.mirrored_view
    assert analyse(found.net).total == analyse(written.both).total


def test_a_module_of_ones_own_is_read_and_nothing_is_called_a_duplicate(written, tmp_path):
    """Both views averaged as people write it, by torch.export."""

    class Views(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0.5 * (self.inner(x) + self.inner(torch.flip(x, dims=[-1])))

    inner = torch_format.build(written.one)
    torch_format.load(inner, written.one, written.weights)
    exported = torch.export.export(Views(inner).eval(), (torch.zeros(2, 3, 9, 12),))
    torch.export.save(exported, tmp_path / "views.pt2")
    found = check(tmp_path / "views.pt2")
    assert found.lifted.net.mirrored_view
    assert found.analysis.total.macs == analyse(written.both).total.macs
    assert found.analysis.total.params == sum(each.numel() for each in inner.parameters())
    assert not [finding for finding in found.findings if finding.rule == "duplicated layers"]


def test_the_logits_to_train_on_are_those_of_one_view(written):
    if written.one is NUMBER:
        assert "load_logits" not in (written.folder / "model_torch.py").read_text()
        return
    space: dict = {"__name__": "model_torch", "__file__": str(written.folder / "model_torch.py")}
    exec((written.folder / "model_torch.py").read_text(), space)
    module = torch_format.build(written.one, logits=True)
    torch_format.load(module, written.one, written.weights)
    assert torch_format.forward(space["load_logits"](), written.pixels) == pytest.approx(
        torch_format.forward(module, written.pixels), abs=1e-5
    )


def test_both_views_are_not_trained():
    with pytest.raises(Unsupported, match="mirrored view"):
        torch_format.build(replace(CHAIN, mirrored_view=True), logits=True)


def test_a_mean_of_three_is_no_mirrored_view():
    image = keras.Input((9, 12, 3))
    inner = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2)])
    views = [
        inner(image),
        inner(keras.ops.flip(image, axis=2)),
        inner(keras.ops.flip(image, axis=2)),
    ]
    assert not load(keras.Model(image, keras.layers.Average()(views))).net.mirrored_view
    twice = inner(keras.ops.flip(image, axis=2))
    assert not load(
        keras.Model(image, keras.layers.Average()([inner(image), twice, twice]))
    ).net.mirrored_view


@pytest.mark.parametrize("changed", ["weights", "twice", "half", "map"])
def test_what_is_not_quite_a_mirrored_view_stays_as_it_is(changed):
    """Other weights for the mirror image, a sum of three, another share, maps: none of them is a
    mirrored view.
    """
    inner, other = torch.nn.Conv2d(3, 2, 3), torch.nn.Conv2d(3, 2, 3)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner
            self.other = other if changed == "weights" else inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = self.inner(x), self.other(x.flip(3))
            if changed == "map":
                return (a + b) / 2
            a, b = a.mean((2, 3)), b.mean((2, 3))
            return {"weights": (a + b) / 2, "twice": (a + b + b) / 2, "half": (a + b) / 3}[changed]

    found = load(Model(), (9, 12, 3))
    assert not found.net.mirrored_view
