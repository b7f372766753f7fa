"""The calculus against oracles that share no formula with it: Keras on TensorFlow, PyTorch, ONNX
Runtime, loops.
"""

from __future__ import annotations

import random
from dataclasses import astuple
from itertools import product
from math import prod
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch.utils.flop_counter import FlopCounterMode

import plain_keras
import plain_torch
from convwise.core import layers as L
from convwise.core.calculus import LayerCost, analyse
from convwise.core.geometry import GEOMETRY
from convwise.core.net import INPUT, Net, layer_from_json, layer_to_json
from convwise.core.problems import ShapeError
from convwise.core.windows import Shape
from nets import nets, random_net
from singles import JOINING, KINDS, Single, net_of, single, singles

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
# Cases of each kind, the same ones in each run; the slow round takes others, and many.
ROUNDS = [
    pytest.param((0, 40), id="some"),
    pytest.param((1, 400), id="many", marks=pytest.mark.slow),
]
LOOSE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def cost(layer: L.Layer, shapes: list[Shape]) -> LayerCost | None:
    """The row of a layer that reads these shapes; None where it does not fit."""
    try:
        return analyse(net_of(layer, shapes)).layers[-1]
    except ShapeError:
        return None


def test_every_layer_has_its_geometry_and_its_random_cases():
    assert set(GEOMETRY) == set(L.LAYERS.values())
    assert set(KINDS) == set(L.LAYERS)


@pytest.mark.parametrize("kind", KINDS)
def test_most_random_cases_fit_and_some_layers_refuse_some(kind):
    fitting = [cost(*case) is not None for case in singles(kind, 200)]
    assert sum(fitting) > 60


# --- shapes, params and places of windows: Keras on TensorFlow -----------------------------------

UNKNOWN_TO_KERAS = ("GLU", "LayerScale", "StochasticDepth", "Opaque")
PLACED = (
    "Conv2D",
    "DepthwiseConv2D",
    "SeparableConv2D",
    "Conv2DTranspose",
    "MaxPooling2D",
    "AveragePooling2D",
)


def keras_expresses(layer: L.Layer) -> bool:
    """Strides or dilation, not both; of transposed convolutions the padding in words, without
    output_padding.
    """
    if getattr(layer, "ceil_mode", False) or getattr(layer, "count_include_pad", False):
        return False
    if isinstance(layer, L.Conv2DTranspose) and (
        layer.output_padding != (0, 0) or layer.padding not in WORDS
    ):
        return False
    if isinstance(layer, L.Conv2DTranspose) and layer.groups > 1:
        return False
    return (
        max(getattr(layer, "strides", (1,))) == 1 or max(getattr(layer, "dilation_rate", (1,))) == 1
    )


WORDS = ("same", "valid")


def runs_on_tensorflow(layer: L.Layer) -> bool:
    """What TensorFlow's kernels on a CPU take: one stride of depthwise kernels, no dilated
    transposition.

    Explicit padding is zeros before them, which an average would count.
    """
    if isinstance(layer, L.AveragePooling2D):
        return layer.padding in WORDS
    if isinstance(layer, (L.DepthwiseConv2D, L.SeparableConv2D)):
        return layer.strides[0] == layer.strides[1]
    return not isinstance(layer, L.Conv2DTranspose) or layer.dilation_rate == (1, 1)


def bare(layer: L.Layer) -> L.Layer:
    """The layer from one channel to one, linear and without bias: what its windows alone do."""
    row = {
        key: value
        for key, value in layer_to_json(layer).items()
        if key not in ("groups", "activation")
    }
    changes = {"filters": 1, "depth_multiplier": 1, "use_bias": False}
    known = {p.name for p in L.parameters(layer)}
    return layer_from_json(
        {**row, **{key: value for key, value in changes.items() if key in known}}
    )


def image_of(shape: Shape, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1, 2, shape[:2]).astype(np.float32)


@pytest.fixture(scope="module", params=ROUNDS)
def keras_said(request) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Cases, and what Keras on TensorFlow says of each: all of them in one process."""
    seed, turns = request.param
    cases: list[dict[str, Any]] = []
    for kind in (kind for kind in KINDS if kind not in UNKNOWN_TO_KERAS):
        for layer, shapes in singles(kind, turns, seed):
            if keras_expresses(layer):
                cases.append({"layer": layer_to_json(layer), "shapes": shapes})
            if kind in PLACED and keras_expresses(layer) and runs_on_tensorflow(layer):
                shape = (*shapes[0][:2], 1)
                image = image_of(shape, len(cases)).tolist()
                cases.append(
                    {"layer": layer_to_json(bare(layer)), "shapes": [shape], "image": image}
                )
    rng = random.Random(seed)
    cases += [{"net": random_net(rng).to_json()} for _ in range(turns)]
    return list(zip(cases, plain_keras.ask(cases), strict=True))


def read(case: dict[str, Any]) -> Single:
    return layer_from_json(case["layer"]), [tuple(shape) for shape in case["shapes"]]


def test_shapes_and_params_are_those_of_keras(keras_said):
    for case, answer in keras_said:
        if "layer" in case:
            row = cost(*read(case))
            expected = ("error",) if row is None else (row.output_shape, row.params, row.trainable)
            said = (
                ("error",)
                if "error" in answer
                else (tuple(answer["shape"]), answer["params"], answer["trainable"])
            )
            assert said == expected, (case, answer)


def test_nets_have_the_shapes_and_params_of_keras(keras_said):
    for case, answer in keras_said:
        if "net" in case:
            analysis = analyse(Net.from_json(case["net"]))
            rows = {
                row.name: [list(row.output_shape), row.params, row.trainable]
                for row in analysis.layers
            }
            assert answer == {"layers": rows, "params": analysis.total.params}, case


def test_windows_lie_where_those_of_tensorflow_lie(keras_said):
    for case, answer in keras_said:
        if "values" in answer:
            layer, shapes = read(case)
            image = np.array(case["image"], np.float32)
            expected = by_loops(layer, image, cost(layer, shapes))
            np.testing.assert_allclose(answer["values"], expected, rtol=1e-4, err_msg=str(case))


SUMMARIES = {L.MaxPooling2D: lambda inside: max(inside, default=0), L.AveragePooling2D: np.mean}


def by_loops(layer: Any, image: np.ndarray, row: LayerCost) -> np.ndarray:
    """What a window layer makes of one channel with weights of one, from the pads of its row
    alone.
    """
    height, width = row.output_shape[:2]
    if isinstance(layer, L.Conv2DTranspose):
        return scattered(layer, image, row)
    kernel = getattr(layer, "pool_size", None) or layer.kernel_size
    dilation, (top, _, left, _) = getattr(layer, "dilation_rate", (1, 1)), row.pads
    output = np.zeros((height, width))
    for i, j in product(range(height), range(width)):
        places = [(i * layer.strides[0] - top + a * dilation[0],
                  j * layer.strides[1] - left + b * dilation[1])
                  for a, b in np.ndindex(*kernel)]  # fmt: skip
        inside = [
            image[r, c] for r, c in places if 0 <= r < image.shape[0] and 0 <= c < image.shape[1]
        ]
        output[i, j] = SUMMARIES.get(type(layer), sum)(inside)
    return output


def scattered(layer: L.Conv2DTranspose, image: np.ndarray, row: LayerCost) -> np.ndarray:
    """Each input adds its kernel to the output, where the output has that place."""
    output = np.zeros(row.output_shape[:2])
    for (q, p), value in np.ndenumerate(image):
        for a, b in np.ndindex(*layer.kernel_size):
            i = q * layer.strides[0] + a * layer.dilation_rate[0] - row.pads[0]
            j = p * layer.strides[1] + b * layer.dilation_rate[1] - row.pads[2]
            if 0 <= i < output.shape[0] and 0 <= j < output.shape[1]:
                output[i, j] += value
    return output


# --- shapes, params, macs, values: PyTorch -------------------------------------------------------

UNKNOWN_TO_TORCH = ("GaussianDropout", "GaussianNoise", "StochasticDepth", "Opaque")


@pytest.mark.parametrize("turns", ROUNDS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in UNKNOWN_TO_TORCH])
def test_single_layers_are_those_of_torch(kind, turns):
    """Shape, params and macs; and that PyTorch refuses what the calculus refuses."""
    seed, count = turns
    done = 0
    for layer, shapes in singles(kind, 3 * count, seed):
        if plain_torch.expresses(layer):
            done += 1
            assert torch_said(layer, shapes) == torch_facts(layer, shapes), (layer, shapes)
    assert done > count / 4


def torch_facts(layer: L.Layer, shapes: list[Shape]) -> tuple[Any, ...] | None:
    row = cost(layer, shapes)
    return row and (row.output_shape, row.params, row.trainable, row.macs)


def torch_said(layer: L.Layer, shapes: list[Shape]) -> tuple[Any, ...] | None:
    images = [torch.ones(2, *shape) for shape in shapes]
    modules = [] if layer.op in JOINING else [plain_torch.module_of(layer, images[0])]
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            output = plain_torch.call(layer, *images)
    except (RuntimeError, ValueError):
        return None
    if 0 in output.shape:  # PyTorch crops to nothing
        return None
    trainable = sum(weight.numel() for module in modules for weight in module.parameters())
    stored = sum(
        weight.numel() for module in modules for weight in module.buffers() if weight.dim()
    )
    return tuple(output.shape[1:]), trainable + stored, trainable, counter.get_total_flops() // 4


@LOOSE
@given(seed=st.integers(0, 2**32 - 1))
def test_nets_have_the_shapes_macs_and_bytes_of_torch(seed):
    net = random_net(random.Random(seed), everywhere=False)
    analysis = analyse(net)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        outputs = plain_torch.outputs(net, torch.ones(1, *net.input_shape))
    assert 2 * analysis.total.macs == counter.get_total_flops()
    assert {row.name: row.output_shape for row in analysis.layers} == {
        name: tuple(output.shape[1:]) for name, output in outputs.items() if name != INPUT
    }
    assert analysis.total.activation_bytes == sum(
        outputs[layer.name].nbytes for layer in net.layers
    )
    assert [row.activation_bytes for row in analysis.layers] == [
        outputs[layer.name].nbytes for layer in net.layers
    ]


@pytest.mark.parametrize("turns", ROUNDS)
def test_transposed_convolutions_lie_where_those_of_torch_lie(turns):
    """PyTorch takes padding away from the full output, then adds output_padding; so does an
    explicit padding here.
    """
    seed, count = turns
    for layer, shapes in singles("Conv2DTranspose", count, seed):
        layer, shape = bare(layer), (*shapes[0][:2], 1)
        row = cost(layer, [shape])
        if row is not None:
            image = image_of(shape, seed)
            said = plain_torch.call(layer, torch.from_numpy(image)[None, :, :, None])[
                0, :, :, 0
            ].detach()
            np.testing.assert_allclose(said, scattered(layer, image, row), 1e-4, err_msg=str(layer))


# --- explicit pads and ceil_mode: ONNX Runtime ---------------------------------------------------

OPERATORS = {"Conv2D": "Conv", "DepthwiseConv2D": "Conv", "Conv2DTranspose": "ConvTranspose",
             "MaxPooling2D": "MaxPool", "AveragePooling2D": "AveragePool"}  # fmt: skip


def onnx_output(layer: Any, image: np.ndarray) -> np.ndarray | None:
    """What ONNX Runtime makes of one channel with weights of one; None where it refuses."""
    pool = hasattr(layer, "pool_size")
    kernel = layer.pool_size if pool else layer.kernel_size
    top, bottom, left, right = layer.padding
    attributes = {
        "kernel_shape": kernel,
        "strides": layer.strides,
        "pads": (top, left, bottom, right),
    }
    attributes |= (
        {"ceil_mode": int(layer.ceil_mode)} if pool else {"dilations": layer.dilation_rate}
    )
    if isinstance(layer, L.Conv2DTranspose):
        attributes["output_padding"] = layer.output_padding
    node = helper.make_node(OPERATORS[layer.op], ["x"] if pool else ["x", "w"], ["y"], **attributes)
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4)] for name in "xy"]
    weights = (
        []
        if pool
        else [helper.make_tensor("w", TensorProto.FLOAT, (1, 1, *kernel), [1.0] * prod(kernel))]
    )
    model = helper.make_model(helper.make_graph([node], "g", *ends, weights), ir_version=10,
                              opset_imports=[helper.make_opsetid("", 22)])  # fmt: skip
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), QUIET, providers=["CPUExecutionProvider"]
        )
        return session.run(None, {"x": image[None, None]})[0][0, 0]
    except Exception:
        return None


QUIET = onnxruntime.SessionOptions()
QUIET.log_severity_level = 4


@pytest.mark.parametrize("turns", ROUNDS)
@pytest.mark.parametrize("kind", OPERATORS)
def test_explicit_pads_and_ceil_mode_are_those_of_onnx_runtime(kind, turns):
    """Shapes and values, so also which side is padded and whether a last window counts."""
    seed, count = turns
    done = 0
    for layer, shapes in singles(kind, 4 * count, seed):
        layer, shape = bare(layer), (*shapes[0][:2], 1)
        if layer.padding not in WORDS and onnx_takes(layer):
            done += 1
            row, image = cost(layer, [shape]), image_of(shape, done)
            said = onnx_output(layer, image)
            # A pool larger than its map is answered all the same: a division that rounds towards 0.
            assert said is not None or row is None, (layer, shape)
            if row is not None:
                np.testing.assert_allclose(
                    said, by_loops(layer, image, row), 1e-4, err_msg=f"{layer} {shape}"
                )
    assert done > count / 2


def onnx_takes(layer: Any) -> bool:
    """Pools are padded by less than their window, and output_padding is less than the stride."""
    if hasattr(layer, "pool_size"):
        (top, bottom, left, right), (rows, columns) = layer.padding, layer.pool_size
        return max(top, bottom) < rows and max(left, right) < columns
    extra = getattr(layer, "output_padding", (0, 0))
    return all(more < stride for more, stride in zip(extra, layer.strides, strict=True))


# --- work and memory: loops and intervals --------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose", "Dense"]
)
def test_macs_are_the_turns_of_a_loop(kind):
    """Multiplications with padded zeros count: an implementation does them as well."""
    for layer, shapes in singles(kind, 40, 7):
        if (row := cost(layer, shapes)) is not None:
            assert row.macs == sum(1 for _ in turns_of(layer, shapes[0], row.output_shape)), (
                layer,
                shapes,
            )


def turns_of(layer: Any, given: Shape, output: Shape) -> product:
    """One turn per multiplication."""
    places, channels = [range(n) for n in output[:2]], given[2]
    taps = [range(n) for n in getattr(layer, "kernel_size", ())]
    match layer:
        case L.Conv2D():
            return product(*places, *taps, range(layer.filters), range(channels // layer.groups))
        case L.DepthwiseConv2D():
            return product(*places, *taps, range(channels), range(layer.depth_multiplier))
        case L.SeparableConv2D():
            each = [*product(range(channels), range(layer.depth_multiplier))]
            return product(*places, each, [*product(*taps), *range(layer.filters)])
        case L.Conv2DTranspose():  # each input writes a kernel into every filter of its group
            return product(*(range(n) for n in given), *taps, range(layer.filters // layer.groups))
    return product(*places, range(layer.units), range(channels))


@pytest.mark.parametrize(
    ("layer", "shapes", "operations"),
    [
        (L.Conv2D(4, 3, use_bias=False), [(5, 5, 2)], 0),
        (L.Conv2D(4, 3), [(5, 5, 2)], 9 * 4),
        (L.Conv2D(4, 3, activation="relu"), [(5, 5, 2)], 2 * 9 * 4),
        (L.SeparableConv2D(4, 3, activation="relu"), [(5, 5, 2)], 2 * 9 * 4),
        (L.Conv2DTranspose(4, 2, 2, activation="relu"), [(5, 5, 2)], 2 * 100 * 4),
        (L.MaxPooling2D((2, 3), 2), [(6, 7, 2)], 3 * 3 * 2 * 6),
        (L.GlobalMaxPooling2D(), [(6, 7, 2)], 6 * 7 * 2),
        (L.AdaptiveAveragePooling2D(2), [(6, 7, 2)], 6 * 7 * 2),
        (L.BatchNormalization(), [(6, 7, 2)], 2 * 84),
        (L.GroupNormalization(2), [(6, 7, 2)], 5 * 84),
        (L.LayerNormalization(), [(6, 7, 2)], 5 * 84),
        (L.Activation("relu"), [(6, 7, 2)], 84),
        (L.Activation("linear"), [(6, 7, 2)], 0),
        (L.PReLU(), [(6, 7, 2)], 84),
        (L.GLU(), [(6, 7, 2)], 2 * 42),
        (L.LayerScale(), [(6, 7, 2)], 84),
        (L.Dropout(0.5), [(6, 7, 2)], 0),
        (L.Flatten(), [(6, 7, 2)], 0),
        (L.Dense(3, activation="relu"), [(6, 7, 2)], 2 * 6 * 7 * 3),
        (L.Add(), [(6, 7, 2)] * 3, 2 * 84),
        (L.Multiply(), [(6, 7, 2), (1, 1, 2)], 84),
        (L.Concatenate(), [(6, 7, 2)] * 3, 0),
        (L.ZeroPadding2D(1), [(6, 7, 2)], 0),
        (L.UpSampling2D(2), [(6, 7, 2)], 4 * 84),
        (L.Rescaling(2.0), [(6, 7, 2)], 2 * 84),
        (L.Opaque("Topk", (3,)), [(6, 7, 2)], 0),
    ],
    ids=lambda value: getattr(value, "op", None),
)
def test_operations_besides_are_counted_by_hand(layer, shapes, operations):
    assert cost(layer, shapes).elementwise == operations


VIEWS = ("Dropout", "SpatialDropout2D", "AlphaDropout", "GaussianDropout", "GaussianNoise",
         "StochasticDepth",
         "Flatten", "Reshape")  # fmt: skip


def peak_by_intervals(net: Net) -> int:
    """Each buffer from the step that writes it to the last that reads it; then the fullest step."""
    outputs = {row.name: row.activation_bytes for row in analyse(net).layers}
    sizes = {INPUT: 4 * prod(net.input_shape), **outputs}
    origin, used = {INPUT: INPUT}, {INPUT: [0]}
    for step, layer in enumerate(net.layers, 1):
        origin[layer.name] = origin[layer.inputs[0]] if layer.op in VIEWS else layer.name
        for name in (layer.name, *layer.inputs):
            used.setdefault(origin[name], []).append(step)
    used[origin[net.layers[-1].name]].append(len(net.layers))
    spans = [(min(steps), max(steps), sizes[name]) for name, steps in used.items()]
    return max(
        sum(size for a, b, size in spans if a <= step <= b) for step in range(len(net.layers) + 1)
    )


@LOOSE
@given(net=nets(blocks=8), seed=st.integers(0, 2**32 - 1))
def test_peak_bytes_are_those_of_the_fullest_step(net, seed):
    assert analyse(net).total.peak_bytes == peak_by_intervals(net)
    tail = random.Random(seed).choices([layer.name for layer in net.layers] + [INPUT], k=3)
    # Long lives, views of views, and outputs that nobody reads.
    more = (L.Flatten(inputs=(tail[0],)), L.Dropout(0.5), L.Activation("relu", inputs=(tail[1],)),
            L.Dropout(0.5, inputs=(tail[2],)))  # fmt: skip
    longer = Net(net.input_shape, (*net.layers, *more))
    assert analyse(longer).total.peak_bytes == peak_by_intervals(longer)


def test_weights_that_are_shared_count_once():
    once = Net((8, 8, 3), (L.Conv2D(3, 3, name="a"), L.Conv2D(3, 3)))
    twice = Net((8, 8, 3), (L.Conv2D(3, 3, name="a"), L.Conv2D(3, 3, shares="a")))
    assert analyse(twice).total.params == analyse(once).total.params // 2 == 84
    assert analyse(twice).total.macs == analyse(once).total.macs


@pytest.mark.parametrize(
    ("channels", "use_bias", "filters"), [(3, True, 4), (3, False, 3), (6, True, 3)]
)
def test_weights_that_do_not_fit_are_not_shared(channels, use_bias, filters):
    again = L.Conv2D(filters, 3, use_bias=use_bias, shares="a")
    net = Net((8, 8, 3), (L.Conv2D(3, 3, name="a"), L.Conv2D(channels, 1), again))
    with pytest.raises(
        ShapeError, match="needs .* weights, but a, whose weights it shares, has 84"
    ):
        analyse(net)


def test_a_mirrored_view_is_a_second_run_with_the_same_weights():
    """By hand: an image of 120 bytes, 60 macs, 2 biases; the copy of the image, and a mean of 2
    numbers.
    """
    net = Net((6, 5, 1), (L.Flatten(), L.Dense(2)), mirrored_view=True)
    found = analyse(net)
    assert [(row.macs, row.params) for row in found.layers] == [(0, 0), (120, 62)]
    assert (found.total.params, found.total.macs, found.total.elementwise) == (62, 120, 2 * 2 + 2)
    assert found.total.activation_bytes == 2 * (120 + 8) + 120 + 8
    assert found.total.peak_bytes == 120 + 120 + 8, (
        "the image, its copy, and the answer to the first view"
    )


def test_the_answer_to_both_views_sees_what_either_sees():
    """The left four of twelve columns are left by the crop; in the mirror image they are the right
    four.
    """
    layers = (L.Cropping2D((0, 0, 1, 7)), L.Flatten(), L.Dense(2))
    one, both = (
        analyse(Net((8, 12, 1), layers, mirrored_view=views))["dense"].field
        for views in (False, True)
    )
    assert (one.columns.at(0), both.columns.at(0)) == ((1, 4), (1, 10))
    assert one.rows == both.rows


def test_a_map_has_no_mirrored_view():
    with pytest.raises(ShapeError, match="mirrored view, but answers with a map"):
        analyse(Net((8, 12, 1), (L.Conv2D(2, 3),), mirrored_view=True))


def test_a_net_without_places_sees_what_its_last_layer_sees():
    net = Net(
        (6, 4, 3), (L.Flatten(name="f", inputs=("input",)), L.Dense(2, name="d", inputs=("f",)))
    )
    assert analyse(net).total.field.size == (6, 4)


def test_maps_beyond_any_computer_are_refused():
    """Before their numbers are too long to print, or no floats."""
    with pytest.raises(
        ShapeError, match=r"layer upsampling2d_2: gives \(2251.*at most 1,099,511,627,776"
    ):
        analyse(Net((8, 8, 1), (L.UpSampling2D(65_536),) * 1000))
    with pytest.raises(ShapeError, match=r"layer opaque: gives \(1000.*at most 1,099"):
        analyse(Net((8, 8, 1), (L.Opaque("odd", (10**4000, 1)),)))


def test_an_operator_that_cannot_be_read_is_reported():
    net = Net(
        (8, 8, 3),
        (
            L.Conv2D(4, 3),
            L.Opaque("Topk", (3, 3, 5), 7, name="top"),
            L.Conv2D(4, 3, padding="same"),
        ),
    )
    total = analyse(net).total
    assert total.unknown == ("top",)
    assert total.params == (3 * 9 * 4 + 4) + 7 + (5 * 9 * 4 + 4)
    assert not total.field.known
    # Not known: named, never negative
    assert analyse(Net((8, 8, 3), (L.Opaque("Topk", (3,)),))).total.params == 0


@LOOSE
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS))
def test_every_number_is_an_integer(seed, kind):
    layer, shapes = single(random.Random(seed), kind)
    assume(cost(layer, shapes) is not None)
    analysis = analyse(net_of(layer, shapes))
    for record in (*analysis.layers, analysis.total):
        assert set(map(type, numbers_in(astuple(record)))) <= {int, bool}
        assert all(type(getattr(record, key)) is int for key in vars(record) if key in COUNTED)
    assert set(map(type, (*analysis.total.field.size, *analysis.total.field.padding))) == {int}


COUNTED = ("params", "trainable", "macs", "elementwise", "activation_bytes", "peak_bytes")


def numbers_in(value: Any) -> list[Any]:
    if isinstance(value, tuple):
        return [number for part in value for number in numbers_in(part)]
    return [] if value is None or isinstance(value, str) else [value]


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
        (
            (L.Conv2D(4, 3), L.Add(inputs=("input", "conv2d"))),
            r"combines maps of shapes \[\(8, 8, 2\), \(6, 6, 4\)\]",
        ),
        ((L.Conv2D(4, 3), L.Concatenate(inputs=("input", "conv2d"))), "one height and width"),
        ((L.Flatten(inputs=("input", "input")),), "has 2 inputs"),
        ((L.Normalization((0.0, 0.0, 0.0), 1.0),), "3 numbers for 2 channels"),
    ],
)
def test_what_does_not_fit_is_refused(layers, what):
    with pytest.raises(ShapeError, match=what):
        analyse(Net((8, 8, 2), layers))
