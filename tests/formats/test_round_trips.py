"""Round the formats: a net and its weights through Keras, PyTorch and ONNX, one after the other,
and back.
"""

from __future__ import annotations

import random
import runpy
import warnings
from collections import Counter
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import plain_torch
from convwise.core import layers as L
from convwise.core.calculus import analyse, leading_to
from convwise.core.net import INPUT, Net
from convwise.core.problems import ShapeError, Unsupported
from convwise.formats import keras as keras_format
from convwise.formats import onnx as onnx_format
from convwise.formats import torch as torch_format
from convwise.formats.keras import lift as keras_lift
from convwise.formats.lifted import Lifted
from convwise.formats.onnx import lift as onnx_lift
from convwise.formats.torch import lift as torch_lift
from convwise.inspect.checking import checked
from convwise.inspect.models import load
from nets import canonical, random_net, random_pixels, random_weights
from sights import EVERY, Draw, compared, random_dag
from singles import KINDS, divisors, net_of, singles, windows

pytestmark = [pytest.mark.filterwarnings(f"ignore:{each}") for each in (
    "You are using a softmax over axis", "Using padding='same' with even kernel lengths",
)]  # fmt: skip
LARGE = pytest.mark.slow
ROUNDS = [pytest.param(1, id="some"), pytest.param(20, id="many", marks=LARGE)]
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


# No format writes an Opaque
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "Opaque"])
def test_every_parameter_of_a_layer_comes_back(kind):
    """A layer drawn over all of its declared parameters, written and read: it answers as before, or
    is refused.

    What a format has written is never refused by its reader. Each parameter came back at some value
    that is not its default, unless its format refuses all of them.
    """
    tried, moved, refused = (
        Counter(),
        {form: set() for form in FORMS},
        {form: set() for form in FORMS},
    )
    for layer, shapes in singles(kind, 12, 3):
        net, other = (
            net_of(layer, shapes),
            {p.name for p in L.parameters(layer) if getattr(layer, p.name) != p.default},
        )
        try:
            weights, pixels = random_weights(net), random_pixels(net, 2)
            expected = answers(net, weights, pixels)
        except (ShapeError, Unsupported):
            continue
        for form in FORMS:
            try:
                back = FORMS[form](net, weights)
            except Unsupported:  # by its writer
                refused[form] |= other
                continue
            again = answers(back.net, back.weights, pixels)
            assert np.abs(again - expected).max() <= 1e-4 * max(1, np.abs(expected).max()), (
                form,
                layer,
            )
            tried[form] += 1
            moved[form] |= other
    assert set(tried) == set(FORMS)
    declared = {p.name for p in L.parameters(L.LAYERS[kind])}
    assert {form: declared - moved[form] - refused[form] for form in FORMS} == dict.fromkeys(
        FORMS, set()
    )


POOLED = L.GlobalAveragePooling2D(keepdims=True, name="pool")
# Two nets that compute the same: as one layer, and as two.
TWINS = {
    "activation": (L.Conv2D(4, 3, activation="relu"), (L.Conv2D(4, 3), L.Activation("relu"))),
    "padding": (
        L.Conv2D(4, 3, padding=(1, 0, 2, 1)),
        (L.ZeroPadding2D((1, 0, 2, 1)), L.Conv2D(4, 3)),
    ),
    "average": (
        L.AveragePooling2D(2, padding=(1, 0, 0, 0), count_include_pad=True),
        (L.ZeroPadding2D((1, 0, 0, 0)), L.AveragePooling2D(2)),
    ),
    "separable": (L.SeparableConv2D(4, 3), (L.DepthwiseConv2D(3, use_bias=False), L.Conv2D(4, 1))),
    "row": (L.GlobalAveragePooling2D(), (POOLED, L.Flatten())),
}


@pytest.mark.parametrize("name", TWINS)
def test_of_two_nets_that_are_the_same_operators_each_comes_back_from_pytorch_as_it_was(name):
    """By the names of its modules: nothing else is another."""
    one, several = TWINS[name]
    operators = []
    for layers in ((one,), several):
        net = Net((8, 8, 3), layers)
        module = torch_format.build(net).eval()
        traced = torch.export.export(module, (torch.zeros(1, 3, 8, 8),))
        operators.append([node.target for node in traced.graph.nodes if node.op == "call_function"])
        back = torch_lift.lift(module, net.input_shape)
        assert [layer.op for layer in back.net.layers] == [layer.op for layer in layers]
    assert operators[0] == operators[1]


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


# --- graphs that PyTorch has written ----------------------------------------------------------


class Plain(nn.Module):
    """A net in plain PyTorch, as somebody writes it who knows nothing of ours; no two of its
    weights are equal.
    """

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net, seen = net, plain_torch.outputs(net, torch.zeros(1, *net.input_shape))
        alone = [layer for layer in net.layers if len(layer.inputs) == 1]
        self.steps = nn.ModuleDict(
            {layer.name: plain_torch.module_of(layer, seen[layer.inputs[0]]) for layer in alone}
        )
        for weight in self.parameters():
            nn.init.normal_(weight)

    def forward(self, image: Tensor) -> Tensor:
        seen = {INPUT: image}
        for layer in self.net.layers:
            inputs = [seen[name] for name in layer.inputs]
            if layer.name in self.steps:
                seen[layer.name] = self.steps[layer.name](*inputs)
            else:
                join = JOINED.get(type(layer))
                seen[layer.name] = reduce(join, inputs) if join else torch.cat(inputs, 1)
        return seen[layer.name]


def of_a_callable(module: nn.Module, image: Tensor, folder: Path) -> Lifted:
    return load(module, tuple(image.shape[axis] for axis in (2, 3, 1)))


def of_pt2(module: nn.Module, image: Tensor, folder: Path) -> Lifted:
    torch.export.save(torch.export.export(module, (image,)), folder / "graph.pt2")
    return load(folder / "graph.pt2")


def of_onnx(module: nn.Module, image: Tensor, folder: Path) -> Lifted:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (image,), folder / "graph.onnx", dynamo=False)
    return load(folder / "graph.onnx")


WRITTEN = {"callable": of_a_callable, "pt2": of_pt2, "onnx": of_onnx}
JOINED = {L.Add: torch.add, L.Multiply: torch.mul, L.Maximum: torch.maximum}
DRAWS: dict[str, Draw] = {  # of several channels, so that none is taken for a row or a column
    **{name: draw for name, draw in EVERY.items() if name != "adaptive"},  # which ONNX has not
    "conv": lambda r, s: L.Conv2D(**windows(r), **divisors(r, s[2])),
    "depthwise": lambda r, s: L.DepthwiseConv2D(**windows(r), depth_multiplier=r.randint(1, 2)),
}


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("turns", ROUNDS)
def test_a_graph_that_pytorch_has_written_is_read_as_it_is(form, turns, tmp_path):
    """Its shape, params and macs by PyTorch's own count, what its units see by gradients."""
    exact = []

    @settings(max_examples=7 * turns, deadline=None, suppress_health_check=list(HealthCheck))
    @given(seed=st.integers(0, 2**32 - 1))
    def check(seed: int) -> None:
        net = random_dag(random.Random(seed), DRAWS, channels=3)
        read = leading_to(net, {net.layers[-1].name})  # exporters leave out what nothing reads
        net = Net(net.input_shape, tuple(layer for layer in net.layers if layer.name in read))
        module = Plain(net).eval()
        height, width, channels = net.input_shape
        image = torch.zeros(2, channels, height, width)
        lifted = WRITTEN[form](module, image, tmp_path)
        with FlopCounterMode(display=False) as counter:
            _, channels, height, width = module(image[:1]).shape
        analysis = checked(lifted).analysis
        total, params = analysis.total, sum(each.numel() for each in module.parameters())
        assert (total.field.known, total.unknown) == (True, ()), net
        assert analysis.layers[-1].output_shape == (height, width, channels), net
        assert (total.params, total.macs) == (params, counter.get_total_flops() // 2), net
        exact.append(compared(net, total.field, seed))

    check()
    assert sum(exact) > 2 * len(exact)
