"""The calculus against oracles that share no formula with it: Keras, PyTorch's counters, gradients, publications."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convwise.core import layers as L
from convwise.core.calculus import Analysis, analyse
from convwise.core.geometry import GEOMETRY
from convwise.core.net import Net
from convwise.core.problems import ShapeError
from convwise.formats import keras as keras_format
from convwise.formats import torch as torch_format
from nets import nets, random_weights

LOOSE = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
pytestmark = pytest.mark.filterwarnings("ignore:You are using a softmax over axis")


def test_every_layer_has_its_geometry():
    assert set(GEOMETRY) == set(L.LAYERS.values())


# --- shapes and params: Keras -----------------------------------------------------------------


@LOOSE
@given(net=nets())
def test_shapes_and_params_are_those_of_keras(net):
    analysis = analyse(net)
    model = keras_format.build(net, random_weights(net))
    assert analysis.total.params == model.count_params()
    assert analysis.total.trainable == sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    for row in analysis.layers:
        layer = model.get_layer(row.name)
        assert row.params == layer.count_params()
        assert row.output_shape == tuple(layer.output.shape[1:])


# --- shapes, macs and bytes: PyTorch ----------------------------------------------------------


@LOOSE
@given(net=nets(everywhere=False))
def test_shapes_and_macs_are_those_of_torch(net):
    analysis = analyse(net)
    module = torch_format.build(net).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shapes = dict(_shapes(net, module))
    assert 2 * analysis.total.macs == counter.get_total_flops()
    assert shapes == {row.name: row.output_shape for row in analysis.layers}
    assert analysis.total.activation_bytes == 4 * sum(int(np.prod(shape)) for shape in shapes.values())


def _shapes(net: Net, module: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The shape of each layer's output in a forward of one image, channels last."""
    seen: dict[str, torch.Tensor] = {}
    for name, part in module.named_children():
        part.register_forward_hook(lambda _, __, output, name=name: seen.__setitem__(name, output))
    height, width, channels = net.input_shape
    module(torch.zeros(1, channels, height, width))
    for step in torch_format.steps_of(net):
        output = seen[step.name][0]
        yield step.layer, tuple(output.permute(1, 2, 0).shape if output.dim() == 3 else output.shape)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (L.Conv2D(6, (3, 2), (2, 1), "same", groups=2), (5, 7, 4)),
        (L.Conv2D(3, 3, padding=(0, 2, 1, 0), dilation_rate=2), (6, 6, 2)),
        (L.DepthwiseConv2D(3, 2, depth_multiplier=2), (7, 8, 3)),
    ],
)
def test_macs_are_the_turns_of_a_loop(layer, shape):
    """Multiplications with padded zeros count: an implementation does them as well."""
    row = analyse(Net(shape, (layer,))).layers[0]
    groups = shape[2] if isinstance(layer, L.DepthwiseConv2D) else layer.groups
    turns = 0
    for _row in range(row.output_shape[0]):
        for _column in range(row.output_shape[1]):
            for _filter in range(row.output_shape[2]):
                for _tap in np.ndindex(*layer.kernel_size):
                    turns += shape[2] // groups
    assert row.macs == turns


# --- receptive field: gradients ---------------------------------------------------------------


def random_chain(rng: random.Random) -> Net:
    """Windows of every kind, one after the other, on a map large enough to see a whole field."""
    layers: list[L.Layer] = []
    for _ in range(rng.randint(1, 4)):
        size = (rng.randint(1, 4), rng.randint(1, 4))
        strides = (rng.randint(1, 2), rng.randint(1, 3))
        padding = rng.choice(("same", "valid", tuple(rng.randint(0, 2) for _ in range(4))))
        spread = (rng.randint(1, 2), rng.randint(1, 2))
        layers.append(rng.choice([
            L.Conv2D(1, size, strides, padding, spread, use_bias=False),
            L.DepthwiseConv2D(size, strides, padding, dilation_rate=spread, use_bias=False),
            L.AveragePooling2D(size, strides, "valid" if isinstance(padding, tuple) else padding),
            L.MaxPooling2D(size, strides, "valid" if isinstance(padding, tuple) else padding),
            L.ZeroPadding2D(rng.choice((0, 1, (0, 1, 2, 0)))),
        ]))  # fmt: skip
    return Net((rng.randint(60, 70), rng.randint(60, 70), 1), tuple(layers))


def reached(net: Net, unit: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last input row, and column, that can change an output: where the gradient is not zero.

    All weights are one; max pooling, whose gradient sees the winner alone, becomes average pooling
    over the same windows.
    """
    soft = tuple(
        L.AveragePooling2D(x.pool_size, x.strides, x.padding, name=x.name, inputs=x.inputs)
        if isinstance(x, L.MaxPooling2D) else x for x in net.layers
    )  # fmt: skip
    module = torch_format.build(Net(net.input_shape, soft)).double()
    for weight in module.parameters():
        nn.init.ones_(weight)
    height, width, channels = net.input_shape
    image = torch.ones(1, channels, height, width, dtype=torch.float64, requires_grad=True)
    module(image)[0, :, unit[0], unit[1]].sum().backward()
    rows, columns = (image.grad[0].sum(0).abs() > 0).nonzero(as_tuple=True)
    return (int(rows.min()), int(rows.max())), (int(columns.min()), int(columns.max()))


def expected_reach(analysis: Analysis, unit: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The same from size, stride and effective padding: -P + i j to that + size - 1."""
    field = analysis.total.field
    rows, columns = (
        (i * axis.stride - axis.padding, i * axis.stride - axis.padding + axis.size - 1)
        for i, axis in zip(unit, (field.rows, field.columns), strict=True)
    )
    return rows, columns


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1))
def test_fields_are_where_the_gradient_is(seed):
    net = random_chain(random.Random(seed))
    try:
        analysis = analyse(net)
    except ShapeError:
        assume(False)
    rows, columns, _ = analysis.layers[-1].output_shape
    unit = rows // 2, columns // 2
    expected = expected_reach(analysis, unit)
    assume(all(low >= 0 and high < size for (low, high), size in zip(expected, net.input_shape[:2], strict=True)))
    assert reached(net, unit) == expected


def test_fields_of_residual_and_branching_nets_are_where_the_gradient_is():
    stem = L.Conv2D(1, 3, 2, (1, 1, 1, 1), name="stem")
    body = (stem, L.Conv2D(1, 3, padding="same"), L.Conv2D(1, 3, padding="same"), L.Add(inputs=("stem", "conv2d_1")))
    wide = (stem, L.Conv2D(2, 5, padding="same", name="wide"), L.Conv2D(2, 1, inputs=("stem",)),
            L.Concatenate(inputs=("wide", "conv2d")))  # fmt: skip
    for layers, size, shortest in ((body, (11, 11), (3, 3)), (wide, (11, 11), (3, 3))):
        net = Net((40, 40, 1), layers)
        field = analyse(net).total.field
        assert (field.size, field.shortest, field.aligned) == (size, shortest, True)
        assert reached(net, (10, 10)) == expected_reach(analyse(net), (10, 10))


def test_branches_with_other_centres_are_called_misaligned():
    layers = (L.Conv2D(1, 2, padding="same", name="even"), L.Conv2D(1, 3, padding="same", inputs=("input",)),
              L.Add(inputs=("even", "conv2d")))  # fmt: skip
    net = Net((20, 20, 1), layers)
    assert not analyse(net).total.field.aligned
    assert reached(net, (10, 10)) == expected_reach(analyse(net), (10, 10))  # the cover is right all the same


# --- published fields: Araujo, Norris, Sim, Distill 2019 ----------------------------------------


def alexnet_v2() -> Net:
    conv, pool = L.Conv2D, L.MaxPooling2D
    return Net((224, 224, 3), (
        conv(64, 11, 4, name="conv1"), pool(3, 2, name="pool1"),
        conv(192, 5, padding="same", name="conv2"), pool(3, 2, name="pool2"),
        conv(384, 3, padding="same", name="conv3"), conv(384, 3, padding="same", name="conv4"),
        conv(256, 3, padding="same", name="conv5"), pool(3, 2, name="pool5")))  # fmt: skip


def vgg_16() -> Net:
    layers: list[L.Layer] = []
    for number, (convs, filters) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1):
        layers += [L.Conv2D(filters, 3, padding="same", activation="relu") for _ in range(convs)]
        layers += [L.MaxPooling2D(2, name=f"pool{number}")]
    head = (L.Flatten(), L.Dense(4096, activation="relu"), L.Dense(4096, activation="relu"), L.Dense(1000))
    return Net((224, 224, 3), (*layers, *head))


def resnet(units: tuple[int, ...], *, bottleneck: bool, last: bool, pool: str | L.Pads) -> Net:
    """ResNets for 224 px. last: the stride is in the last unit of a stage (TF-slim), not its first (torchvision)."""
    one = (1, 1, 1, 1)
    layers: list[L.Layer] = [L.Conv2D(64, 7, 2, (3, 3, 3, 3), use_bias=False), L.BatchNormalization(),
                             L.Activation("relu"), L.MaxPooling2D(3, 2, pool, name="stem")]  # fmt: skip
    before, given = "stem", 64
    for stage, count in enumerate(units):
        width = 64 * 2**stage
        output = 4 * width if bottleneck else width
        for unit in range(count):
            halves = (unit == count - 1 and stage < 3) if last else (unit == 0 and stage > 0)
            stride, name = 1 + halves, f"s{stage}u{unit}"
            deep = ((1, 1, width), (3, stride, width), (1, 1, output))
            plan = deep if bottleneck else ((3, stride, width), (3, 1, width))
            layers += _unit(name, before, plan, one)
            shortcut = before
            if given != output or stride > 1:
                layers += [L.Conv2D(output, 1, stride, use_bias=False, name=f"{name}_skip", inputs=(before,)),
                           L.BatchNormalization(name=f"{name}_skip_bn")]  # fmt: skip
                shortcut = f"{name}_skip_bn"
            layers += [L.Add(inputs=(f"{name}_bn", shortcut)), L.Activation("relu", name=name)]
            before, given = name, output
    return Net((224, 224, 3), (*layers, L.GlobalAveragePooling2D(), L.Dense(1000)))


def _unit(name: str, before: str, plan: tuple[tuple[int, int, int], ...], one: L.Pads) -> list[L.Layer]:
    layers: list[L.Layer] = []
    for i, (kernel, stride, filters) in enumerate(plan):
        padding = one if kernel == 3 else "valid"
        inputs = () if i else (before,)
        layers += [L.Conv2D(filters, kernel, stride, padding, use_bias=False, inputs=inputs)]
        final = i == len(plan) - 1
        layers += [L.BatchNormalization(name=f"{name}_bn" if final else "")]
        layers += [] if final else [L.Activation("relu")]
    return layers


def facts(field) -> tuple[int, int, int]:
    assert field.rows == field.columns
    return field.rows.size, field.rows.stride, field.rows.padding


def test_alexnet_as_published():
    analysis = analyse(alexnet_v2())
    assert facts(analysis.total.field) == (195, 32, 64)
    published = {"conv1": 11, "pool1": 19, "conv2": 51, "conv3": 99, "conv4": 131, "conv5": 163, "pool5": 195}
    assert {name: analysis[name].field.rows.size for name in published} == published


def test_vgg_as_published():
    analysis = analyse(vgg_16())
    pools = [facts(analysis[f"pool{i}"].field) for i in range(1, 6)]
    assert pools == [(6, 2, 2), (16, 4, 6), (44, 8, 18), (100, 16, 42), (212, 32, 90)]
    assert analysis.total.params == 138_357_544  # keras.applications.VGG16, torchvision vgg16
    assert analysis.total.macs == 15_470_264_320  # fvcore, ptflops: 15.47 GMac without bias


def test_resnet_50_of_slim_as_published():
    net = resnet((3, 4, 6, 3), bottleneck=True, last=True, pool="same")
    assert facts(analyse(net).total.field) == (483, 32, 239)
    assert analyse(net).total.field.aligned


@pytest.mark.parametrize(
    ("units", "bottleneck", "size", "params", "macs"),
    [
        ((2, 2, 2, 2), False, 435, 11_689_512, 1_814_073_344),
        ((3, 4, 6, 3), False, 899, 21_797_672, 3_663_761_408),
        ((3, 4, 6, 3), True, 427, 25_557_032, 4_089_184_256),
    ],
    ids=["resnet18", "resnet34", "resnet50"],
)
def test_torchvision_resnets_as_published(units, bottleneck, size, params, macs):
    """Params: torchvision's model cards (without the running statistics). macs: fvcore's counts."""
    total = analyse(resnet(units, bottleneck=bottleneck, last=False, pool=(1, 1, 1, 1))).total
    assert total.field.size == (size, size)
    assert total.trainable == params
    assert total.macs == macs


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "what"),
    [
        ((L.Conv2D(4, 9, name="big"),), "layer big: needs 9x9 inputs, but its map is 8x8"),
        ((L.Conv2D(4, 5, dilation_rate=2),), "needs 9x9"),
        ((L.MaxPooling2D(2), L.MaxPooling2D(2), L.MaxPooling2D(3)), "needs 3x3"),
        ((L.Conv2D(4, 3, groups=3),), "2 input channels in 3 groups"),
        ((L.Conv2D(3, 3, groups=2),), "3 filters in 2 groups"),
        ((L.Flatten(), L.Conv2D(4, 3)), "reads a row of 128 numbers"),
        ((L.Add(),), "two or more"),
        ((L.Conv2D(4, 3), L.Add(inputs=("input", "conv2d"))), r"combines maps of shapes \[\(8, 8, 2\), \(6, 6, 4\)\]"),
        ((L.Conv2D(4, 3), L.Concatenate(inputs=("input", "conv2d"))), "one height and width"),
        ((L.Flatten(inputs=("input", "input")),), "has 2 inputs"),
        ((L.Normalization((0.0, 0.0, 0.0), 1.0),), "3 numbers for 2 channels"),
    ],
)
def test_what_does_not_fit_is_refused(layers, what):
    with pytest.raises(ShapeError, match=what):
        analyse(Net((8, 8, 2), layers))
