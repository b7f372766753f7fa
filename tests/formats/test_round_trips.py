"""Round the formats: a net and its weights through Keras, PyTorch and ONNX, one after the other, and back."""

from __future__ import annotations

import random
import runpy
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convwise.core.calculus import analyse
from convwise.core.net import Net
from convwise.core.problems import ShapeError, Unsupported
from convwise.formats import keras as keras_format
from convwise.formats import onnx as onnx_format
from convwise.formats import torch as torch_format
from convwise.formats.keras import lift as keras_lift
from convwise.formats.lifted import Lifted
from convwise.formats.onnx import lift as onnx_lift
from convwise.formats.torch import lift as torch_lift
from nets import canonical, random_net, random_pixels, random_weights
from singles import KINDS, net_of, singles

pytestmark = pytest.mark.filterwarnings("ignore:You are using a softmax over axis")
LARGE = pytest.mark.slow
TEXTBOOK = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "textbook.py"))["TEXTBOOK"]


def through_keras(net: Net, weights: dict) -> Lifted:
    return keras_lift.lift(keras_format.build(net, weights))


def through_torch(net: Net, weights: dict) -> Lifted:
    module = torch_format.build(net).eval()
    torch_format.load(module, net, weights)
    return torch_lift.lift(module, net.input_shape)


def through_onnx(net: Net, weights: dict) -> Lifted:
    return onnx_lift.lift(onnx_format.build(net, weights))


FORMS: dict[str, Callable[[Net, dict], Lifted]] = {
    "keras": through_keras, "torch": through_torch, "onnx": through_onnx,
}  # fmt: skip


def answers(net: Net, weights: dict, pixels: np.ndarray) -> np.ndarray:
    return onnx_format.forward(onnx_format.session(onnx_format.build(net, weights)), pixels)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "name", ["one_convolution", pytest.param("three_convolutions", marks=LARGE),
             pytest.param("mixed_activations", marks=LARGE)]
)  # fmt: skip
def test_a_textbook_net_comes_back_from_every_format(name, form):
    net = TEXTBOOK[name]
    weights = random_weights(net, 3)
    back = FORMS[form](net, weights)
    assert canonical(back.net) == canonical(net)
    assert analyse(back.net).total.params == analyse(net).total.params
    assert sorted(back.weights) == sorted(weights)
    assert all(np.allclose(back.weights[key], weights[key], atol=1e-6) for key in weights)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "Opaque"])  # which no format writes
def test_every_parameter_of_a_layer_comes_back(kind):
    """A layer drawn over all of its declared parameters, written and read: it answers as before, or is refused."""
    tried = Counter()
    for layer, shapes in singles(kind, 12, 3):
        net = net_of(layer, shapes)
        with suppress(ShapeError, Unsupported):
            weights, pixels = random_weights(net), random_pixels(net, 2)
            expected = answers(net, weights, pixels)
            for form in FORMS:
                with suppress(ShapeError, Unsupported):
                    back = FORMS[form](net, weights)
                    again = answers(back.net, back.weights, pixels)
                    assert np.abs(again - expected).max() <= 1e-4 * max(1, np.abs(expected).max()), (form, layer)
                    tried[form] += 1
    assert set(tried) == set(FORMS)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1), order=st.permutations(list(FORMS)))
def test_weights_travel_round_all_formats(seed, order):
    """In any order; the answers stay, with BatchNormalization in its trained state."""
    net = random_net(random.Random(seed))
    weights, pixels = random_weights(net, seed % 1000), random_pixels(net, 3)
    expected = answers(net, weights, pixels)
    for form in order:
        back = FORMS[form](net, weights)
        net, weights = back.net, back.weights
    given_back = answers(net, weights, pixels)
    assert np.abs(given_back - expected).max() <= 1e-4 * max(1, np.abs(expected).max())
