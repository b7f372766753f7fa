"""Reading ONNX: every model that is read gives, built again, what ONNX Runtime gives for the
file.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper
from torch import nn

from convwise.core import layers as L
from convwise.core.activations import ACTIVATIONS
from convwise.core.calculus import analyse
from convwise.core.net import Net
from convwise.core.problems import UnusableInput
from convwise.formats import onnx as onnx_format
from convwise.formats.lifted import Lifted
from convwise.formats.onnx.lift import lift
from nets import nets, random_pixels, random_weights
from onnx_graphs import floats, model_of, node, ops, run

KEPT_APART = {"sparsemax"}  # activations whose pieces are not put together again


def bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without its metadata: as any other file."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.metadata_props[:]
    return copy


def rebuilt(lifted: Lifted, pixels: np.ndarray) -> np.ndarray:
    """What the lifted net answers, built again."""
    return onnx_format.forward(
        onnx_format.session(onnx_format.build(lifted.net, lifted.weights)), pixels
    )


def assert_close(given: np.ndarray, expected: np.ndarray) -> None:
    assert given.shape == expected.shape
    assert np.abs(given - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


# --- files of ours --------------------------------------------------------------------------


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(net=nets(everywhere=False), seed=st.integers(0, 99))
def test_our_own_files_come_back_whole(net, seed):
    weights = random_weights(net, seed)
    lifted = lift(onnx_format.build(net, weights, ("a", "b")))
    assert (lifted.net, lifted.classes) == (net, ("a", "b"))
    assert list(lifted.weights) == list(weights)
    assert all(np.array_equal(lifted.weights[key], weights[key]) for key in weights)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(net=nets(everywhere=False), seed=st.integers(0, 99))
def test_without_metadata_they_answer_and_cost_the_same(net, seed):
    weights, pixels = random_weights(net, seed), random_pixels(net)
    model = onnx_format.build(net, weights)
    lifted = lift(bare(model))
    assert_close(rebuilt(lifted, pixels), onnx_format.forward(onnx_format.session(model), pixels))
    here, there = analyse(net), analyse(lifted.net)
    assert (there.total.macs, there.total.params) == (here.total.macs, here.total.params)
    assert there.layers[-1].output_shape == here.layers[-1].output_shape
    assert not there.total.unknown


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name not in KEPT_APART])
def test_every_activation_is_recognised(name):
    net = Net(
        (5, 4, 3),
        (
            L.Conv2D(4, 1, activation=name),
            L.Activation(name),
            L.Flatten(),
            L.Dense(3, activation=name),
        ),
    )
    lifted = lift(bare(onnx_format.build(net, random_weights(net))))
    said = [getattr(layer, "activation", None) for layer in lifted.net.layers]
    assert said == [name, *([name] if name != "linear" else []), None, name]


def test_weights_that_serve_twice_are_shared():
    layers = (
        L.Conv2D(2, 3, padding="same", name="a"),
        L.Conv2D(2, 3, shares="a", name="b"),
        L.Conv2D(2, 3, name="c"),
    )
    net = Net((6, 6, 2), layers)
    model = onnx_format.build(net, random_weights(net))
    assert len(model.graph.initializer) == 4
    for lifted in (lift(model), lift(bare(model))):
        assert [layer.shares for layer in lifted.net.layers] == ["", "a", ""]
        assert_close(
            rebuilt(lifted, random_pixels(net)),
            onnx_format.forward(onnx_format.session(model), random_pixels(net)),
        )


def test_metadata_are_not_believed():
    """A net in the metadata that is not the graph's own is passed over; so are class names that are
    none.
    """
    net = Net((6, 6, 2), (L.Conv2D(2, 3, name="a"), L.Dropout(0.5), L.Flatten()))
    model = onnx_format.build(net, random_weights(net), ("cat", "dog"))
    assert ops(lift(model)) == ["Conv2D", "Dropout", "Flatten"]
    model.graph.node[0].attribute.append(helper.make_attribute("auto_pad", "VALID"))
    lifted = lift(model)
    assert ops(lifted) == ["Conv2D", "Flatten"]
    assert lifted.classes == ("cat", "dog")
    for text in ("{", '{"a": 1}', "[1]"):
        helper.set_model_props(model, {"classes": text, "net": text})
        assert lift(model).classes == ()


# --- what PyTorch exports -----------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.depthwise, self.pool = (
            nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False),
            nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        )
        self.mean, self.drop, self.head = nn.AdaptiveAvgPool2d(1), nn.Dropout(0.3), nn.Linear(8, 5)

    def forward(self, x):
        x = self.pool(F.relu6(self.norm(self.stem(x))))
        x = x + F.silu(self.depthwise(x))
        return self.head(self.drop(torch.flatten(self.mean(x), 1))).softmax(-1)


class Flattened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = (
            nn.Conv2d(3, 4, (3, 5), padding=(1, 0)),
            nn.AvgPool2d(2, padding=1, count_include_pad=False),
        )
        self.norm, self.head = nn.BatchNorm1d(4 * 9 * 7), nn.Linear(4 * 9 * 7, 6)

    def forward(self, x):
        x = self.pool(F.hardswish(self.conv(x)))
        return F.gelu(self.head(self.norm(x.view(x.size(0), -1))))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.slope = nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.PReLU(8)
        self.squeeze, self.excite = nn.Linear(8, 4), nn.Linear(4, 8)

    def forward(self, x):
        x = self.slope(self.norm(self.conv(x)))
        n, c, _, _ = x.shape
        return x * F.hardsigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3)))))).view(n, c, 1, 1)


class Enlarging(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 6, 3, padding=1), nn.ConvTranspose2d(6, 4, 3, 2, 1, 1)
        self.norm, self.out = nn.InstanceNorm2d(4, affine=True), nn.Conv2d(10, 3, 1)

    def forward(self, x):
        both = [
            F.interpolate(self.conv(x), scale_factor=2),
            F.mish(self.norm(self.up(self.conv(x)))),
        ]
        x = F.interpolate(
            self.out(torch.cat(both, 1)), scale_factor=2, mode="bilinear", align_corners=False
        )
        return x[:, :, 1:-1, 2:]


class ChannelsLast(nn.Module):
    """A block of ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm, self.last = (
            nn.Conv2d(3, 3, 7, padding=3, groups=3),
            nn.LayerNorm(3),
            nn.LayerNorm(3),
        )
        self.wide, self.narrow = nn.Linear(3, 12), nn.Linear(12, 3)
        self.gamma = nn.Parameter(torch.rand(3))

    def forward(self, x):
        y = self.wide(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        y = self.narrow(F.gelu(y, approximate="tanh")) * self.gamma
        return self.last((x + y.permute(0, 3, 1, 2)).mean([-2, -1]))


class Decoding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.code = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4 * 8 * 8, 8 * 3 * 5)
        self.up, self.norm = nn.ConvTranspose2d(8, 4, 4, 2, 1), nn.LayerNorm([4, 6, 10])

    def forward(self, x):
        x = self.up(self.code(self.conv(x).flatten(1)).view(-1, 8, 3, 5))
        return F.glu(self.norm(F.leaky_relu(x, 0.2)), 1).tanh()


class Arithmetic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.twice = nn.Conv2d(3, 8, 3, padding="same"), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        x = self.conv(F.pad((x - 0.5) / 0.25, (0, 1, 0, 1)))[:, :, :16, :16]
        x = torch.max(self.twice(x), self.twice(x.clamp(-1, 2)))
        x = F.elu(x) + F.softplus(x) - F.logsigmoid(x) * x.exp()
        return (F.max_pool2d(x, 2) * 0.5).amax((2, 3))


EXPORTED = {
    Residual: ["Conv2D", "Activation", "MaxPooling2D", "DepthwiseConv2D", "Activation", "Add",
    "GlobalAveragePooling2D",
               "Dense", "Activation"],
    Flattened: ["Conv2D", "Activation", "AveragePooling2D", "Flatten", "BatchNormalization",
    "Dense", "Activation"],
    Gated: ["Conv2D", "GroupNormalization", "PReLU", "GlobalAveragePooling2D", "Dense",
    "Activation", "Dense",
            "Activation", "Reshape", "Multiply"],
    Enlarging: ["Conv2D", "UpSampling2D", "Conv2DTranspose", "GroupNormalization", "Activation",
    "Concatenate",
                "Conv2D", "UpSampling2D", "Cropping2D", "Cropping2D"],
    ChannelsLast: ["DepthwiseConv2D", "LayerNormalization", "Dense", "Activation", "Dense",
    "Rescaling", "Add",
                   "GlobalAveragePooling2D", "LayerNormalization"],
    Decoding: ["Conv2D", "Flatten", "Dense", "Reshape", "Conv2DTranspose", "Activation",
    "LayerNormalization", "GLU",
               "Activation"],
    Arithmetic: ["Rescaling", "ZeroPadding2D", "Conv2D", "Cropping2D", "Cropping2D", "Conv2D",
    "Activation", "Conv2D",
                 "Maximum", "Activation", "Activation", "Add", "Activation", "Activation",
                 "Multiply", "Subtract",
                 "MaxPooling2D", "Rescaling", "GlobalMaxPooling2D"],
}  # fmt: skip


@pytest.mark.parametrize("opset", [11, 13, 17, 20])
@pytest.mark.parametrize("kind", EXPORTED)
def test_pytorch_exports(kind, opset):
    torch.manual_seed(0)
    module, images = kind(), torch.rand(2, 3, 16, 16)
    module.train()(images)  # so that the statistics are not 0 and 1
    expected = module.eval()(images).detach().movedim(1, -1).numpy()
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (images,), file, opset_version=opset, dynamo=False,
                          input_names=["x"], dynamic_axes={"x": {0: "n"}})  # fmt: skip
    lifted = lift(onnx.load_from_string(file.getvalue()))
    assert ops(lifted) == EXPORTED[kind]
    model = onnx_format.build(lifted.net, lifted.weights)
    assert_close(
        np.moveaxis(onnx_format.session(model).run(None, {"image": images.numpy()})[0], 1, -1),
        expected,
    )


# --- graphs by hand ---------------------------------------------------------------------------


def check(model, shape=(3, 8, 6), input_shape=None, last=False):
    """Lift, build again, and compare; the images are channels first unless `last`."""
    images = floats(3, *shape, seed=1)
    lifted = lift(model, input_shape)
    given = onnx_format.session(onnx_format.build(lifted.net, lifted.weights))
    ours = np.moveaxis(images, -1, 1) if last else images
    assert_close(np.moveaxis(given.run(None, {"image": ours})[0], 1, -1), run(model, images))
    return lifted


@pytest.mark.parametrize(
    ("way", "padding"), [("SAME_UPPER", "same"), ("SAME_LOWER", (1, 0, 1, 0)), ("VALID", "valid")]
)
def test_automatic_padding(way, padding):
    model = model_of([node("Conv", "x,k", strides=[2, 2], auto_pad=way)], {"k": floats(5, 3, 3, 3)})
    assert check(model).net.layers[0].padding == padding
    pool = model_of([node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], auto_pad=way)])
    assert check(pool).net.layers[0].padding == padding


@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    "more", [{"ceil_mode": 1}, {"ceil_mode": 1, "pads": [1, 1, 1, 1]}, {"pads": [1, 0, 0, 1]}]
)
def test_pools(kind, more):
    lifted = check(model_of([node(kind, "x", kernel_shape=[2, 3], strides=[3, 2], **more)]))
    assert lifted.net.layers[0].ceil_mode == bool(more.get("ceil_mode"))


def test_padding_that_counts():
    model = model_of(
        [node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)]
    )
    assert check(model).net.layers[0].count_include_pad


def test_dilated_pools_are_opaque_with_their_window():
    lifted = lift(model_of([node("MaxPool", "x", kernel_shape=[2, 2], dilations=[2, 2])]))
    assert ops(lifted) == ["Opaque"]
    (row,) = analyse(lifted.net).layers
    assert (row.output_shape, row.macs, row.elementwise, row.field.size) == (
        (6, 4, 3),
        0,
        6 * 4 * 3 * 4,
        (3, 3),
    )
    assert not lifted.problems


@pytest.mark.parametrize(
    ("more", "padding"),
    [
        ({"strides": [2, 2], "auto_pad": "SAME_UPPER"}, "same"),
        ({"strides": [2, 2], "auto_pad": "SAME_LOWER"}, (1, 0, 1, 0)),
        ({"strides": [2, 2], "pads": [1, 0, 0, 1], "output_padding": [1, 0]}, (1, 0, 0, 1)),
        ({"strides": [2, 3], "output_shape": [17, 16]}, (0, 0, 1, 1)),
        ({"group": 3, "dilations": [2, 1]}, "valid"),
    ],
)
def test_transposed_convolutions(more, padding):
    kernel = floats(3, 2, 3, 3)
    assert (
        check(model_of([node("ConvTranspose", "x,k", **more)], {"k": kernel})).net.layers[0].padding
        == padding
    )


def test_a_clip_is_what_its_bounds_say():
    bounds = {
        "low": np.float32(0),
        "six": np.float32(6),
        "one": np.float32(1),
        "minus": np.float32(-1),
    }
    nodes = [node("Clip", "x,low,six", "a"), node("Clip", "a,low", "b"), node("Clip", "b,minus,one",
             "c"), node("Clip", "c,,one", "d"), node("Max", "d,low", "e"), node("Min",
             "one,e")]  # fmt: skip
    assert [layer.activation for layer in check(model_of(nodes, bounds)).net.layers] == [
        "relu6", "relu", "hard_tanh", "hard_tanh(min_val=-inf)", "relu", "hard_tanh(min_val=-inf)"
    ]  # fmt: skip


def test_silu_in_pieces_only_where_it_is_one():
    silu = [node("Sigmoid", "x", "s"), node("Mul", "s,x", "y")]
    assert [layer.activation for layer in check(model_of(silu)).net.layers] == ["silu"]
    other = [node("Tanh", "x", "t"), node("Sigmoid", "x", "s"), node("Mul", "s,t", "y")]
    assert ops(check(model_of(other))) == ["Activation", "Activation", "Multiply"]


def test_a_constant_goes_into_a_layer_only_where_no_other_reads_it():
    tensors = {"k": floats(3, 3, 3, 3), "b": floats(3, 1, 1)}
    conv, add = node("Conv", "x,k", "a"), node("Add", "a,b", "c")
    assert ops(check(model_of([conv, add, node("Relu", "c")], tensors))) == ["Conv2D", "Activation"]
    assert ops(check(model_of([conv, add, node("Mul", "a,c")], tensors))) == [
        "Conv2D",
        "Rescaling",
        "Multiply",
    ]


COMPUTED = [node("Shape", "x", "shape"), node("Gather", "shape,zero", "n"), node("Unsqueeze",
            "n,zeros", "dim"), node("Concat", "dim,rest", "to", axis=0), node("Reshape", "x,to",
            "row")]  # fmt: skip
INTEGERS = {"zero": np.int64(0), "zeros": np.array([0]), "rest": np.array([-1])}


def test_a_computed_reshape_and_the_gemm_after_it():
    nodes = [*COMPUTED, node("Gemm", "row,k,b", alpha=0.5, beta=2.0, transB=1)]
    lifted = check(model_of(nodes, {**INTEGERS, "k": floats(4, 144), "b": floats(4)}))
    assert ops(lifted) == ["Flatten", "Dense"]


def test_rows_in_the_order_of_channels_go_through_what_follows():
    """Bias, batch statistics, slopes and softmax between Flatten and MatMul; and back to a map."""
    vectors = {
        name: np.abs(floats(144, seed=i)) + 0.5 for i, name in enumerate(("a", "b", "c", "d", "e"))
    }
    nodes = [node("Flatten", "x", "r"), node("Add", "r,a", "s"), node("BatchNormalization",
             "s,b,c,d,e", "t"), node("PRelu", "t,a", "u"), node("Softmax", "u", "v", axis=1),
             node("Dropout", "v", "w"), node("MatMul", "w,k", "z"), node("Add", "z,f",
             "y")]  # fmt: skip
    lifted = check(model_of(nodes, {**vectors, "k": floats(144, 5), "f": floats(5)}))
    assert ops(lifted) == [
        "Flatten",
        "Rescaling",
        "BatchNormalization",
        "PReLU",
        "Activation",
        "Dense",
    ]
    back = [
        node("Flatten", "x", "r"),
        node("Relu", "r", "s"),
        node("Reshape", "s,to", "t"),
        node("Conv", "t,k"),
    ]
    lifted = check(model_of(back, {"to": np.array([-1, 3, 8, 6]), "k": floats(2, 3, 3, 3)}))
    assert ops(lifted) == ["Flatten", "Activation", "Reshape", "Conv2D"]


def test_a_free_input_size_is_asked_for():
    nodes = [
        node("Conv", "x,k", "a"),
        node("GlobalAveragePool", "a", "b"),
        node("Squeeze", "b,axes"),
    ]
    tensors = {"k": floats(4, 3, 3, 3), "axes": np.array([2, 3])}
    model = model_of(nodes, tensors, ("n", 3, "h", "w"))
    with pytest.raises(UnusableInput, match=r"free input size, \?x\?x3; .*--input-shape"):
        lift(model)
    assert check(model, input_shape=(8, 6, 3)).net.input_shape == (8, 6, 3)
    with pytest.raises(UnusableInput, match=r"takes images of \?x\?x3, not of 8x6x1"):
        lift(model, (8, 6, 1))


def test_channels_that_come_last():
    """As tf2onnx writes: a Transpose at the start, channels last between and at the end."""
    nodes = [node("Mul", "x,scale", "a"), node("Transpose", "a", "b", perm=[0, 3, 1, 2]),
             node("Conv", "b,k", "c"), node("Transpose", "c", "d", perm=[0, 2, 3, 1]), node("Add",
             "d,bias", "e"), node("Relu", "e", "f"), node("Pad", "f,pads", "g"), node("Concat",
             "g,g", "h", axis=3), node("Softmax", "h", "i", axis=-1), node("ReduceMean", "i", "j",
             axes=[1, 2], keepdims=0), node("MatMul", "j,m")]  # fmt: skip
    tensors = {"scale": np.float32(1 / 255), "k": floats(4, 3, 3, 3), "bias": floats(4),
               "m": floats(8, 2),
               "pads": np.array([0, 1, 0, 0, 0, 0, 2, 0])}  # fmt: skip
    lifted = check(model_of(nodes, tensors, ("n", 8, 6, 3)), (8, 6, 3), last=True)
    assert lifted.net.input_shape == (8, 6, 3)
    assert ops(lifted) == ["Rescaling", "Conv2D", "Activation", "ZeroPadding2D", "Concatenate",
                           "Activation",
                           "GlobalAveragePooling2D", "Dense"]  # fmt: skip
    assert lifted.net.layers[0].scale == (1 / 255,)
    flat = [*nodes[1:4], node("Reshape", "d,to", "e"), node("MatMul", "e,m")]
    flat[0] = node("Transpose", "x", "b", perm=[0, 3, 1, 2])
    check(
        model_of(flat, {**tensors, "to": np.array([-1, 96]), "m": floats(96, 2)}, ("n", 8, 6, 3)),
        (8, 6, 3),
        last=True,
    )


def test_softmax_before_opset_13_is_over_all_axes_from_one_on():
    old = lift(model_of([node("Softmax", "x", axis=1)], opset=11))
    assert ops(old) == ["Opaque"]
    assert ops(check(model_of([node("Softmax", "x", axis=1)], opset=13))) == ["Activation"]
    nodes = [node("GlobalMaxPool", "x", "a"), node("Flatten", "a", "b"), node("Softmax", "b")]
    assert ops(check(model_of(nodes, opset=11))) == ["GlobalMaxPooling2D", "Activation"]


@pytest.mark.parametrize(
    ("more", "fits"),
    [
        (
            {
                "mode": "nearest",
                "coordinate_transformation_mode": "asymmetric",
                "nearest_mode": "floor",
            },
            True,
        ),
        ({"mode": "nearest"}, True),
        (
            {
                "mode": "nearest",
                "coordinate_transformation_mode": "asymmetric",
                "nearest_mode": "ceil",
            },
            False,
        ),
        ({"mode": "linear"}, True),
        ({"mode": "linear", "coordinate_transformation_mode": "align_corners"}, False),
        ({"mode": "cubic", "coordinate_transformation_mode": "asymmetric"}, False),
    ],
)
def test_resizes(more, fits):
    model = model_of(
        [node("Resize", "x,,scales", **more)], {"scales": np.array([1, 1, 2, 3], np.float32)}
    )
    lifted = check(model) if fits else lift(model)
    assert ops(lifted) == ["UpSampling2D" if fits else "Opaque"]
    assert analyse(lifted.net).layers[-1].output_shape == (16, 18, 3)


def test_old_files_are_converted():
    model = model_of(
        [node("Upsample", "x,scales", mode="nearest")],
        {"scales": np.array([1, 1, 2, 2], np.float32)},
        opset=9,
    )
    assert ops(lift(model)) == ["UpSampling2D"]
    assert ops(lift(model_of([node("Pad", "x", pads=[0, 0, 1, 1, 0, 0, 1, 1])], opset=10))) == [
        "ZeroPadding2D"
    ]


def test_what_is_not_known_stays_opaque_and_does_not_stop_the_rest():
    """A sum along the rows, behind channels that are shuffled and split."""
    nodes = [node("Conv", "x,k", "a"), node("Reshape", "a,five", "b"), node("Transpose", "b", "c",
             perm=[0, 2, 1, 3, 4]), node("Reshape", "c,four", "d"), node("Split", "d,half", "e,f",
             axis=1), node("Add", "e,f", "g"), node("CumSum", "g,two", "h"),
             node("GlobalAveragePool", "h", "y")]  # fmt: skip
    tensors = {"k": floats(4, 3, 3, 3), "five": np.array([-1, 2, 2, 6, 4]), "four": np.array([-1, 4,
               6, 4]),
               "half": np.array([2, 2]), "two": np.array(2)}  # fmt: skip
    lifted = lift(model_of(nodes, tensors))
    assert ops(lifted) == ["Conv2D", *["Opaque"] * 3, "Add", "Opaque", "GlobalAveragePooling2D"]
    analysis = analyse(lifted.net)
    assert analysis.layers[-1].output_shape == (1, 1, 2)
    assert analysis.total.unknown == ("h",)
    assert [problem.where for problem in lifted.problems] == ["operator CumSum"]
