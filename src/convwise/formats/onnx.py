"""Nets as ONNX: input 'image' (batch, channels, height, width), raw pixels; output 'probabilities'.

Opset 20, written with onnx.helper. Dropout is left out: an ONNX file is for prediction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from convwise.core.activations import activation
from convwise.core.geometry import GEOMETRY
from convwise.core.layers import (
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
)
from convwise.core.net import INPUT, Net
from convwise.core.problems import Unsupported
from convwise.core.windows import Shape, Window
from convwise.formats.calls import shapes_of
from convwise.formats.weights import Array, Weights, channels_first, checked, layer_layout

FILES = ("model.onnx",)
OPSET = 20
IR_VERSION = 10  # the newest that ONNX Runtime 1.18 reads


@dataclass(frozen=True)
class Op:
    """One operator on the value before it: constants follow as inputs; `again` reads the value before that as well."""

    kind: str
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    again: bool = False


def lower(layer: Layer, shapes: Sequence[Shape], weights: Mapping[str, Array]) -> tuple[Op, ...]:
    """The operators that do what the layer does on maps of `shapes`; weights by 'kernel', 'bias', ..."""
    rule = LOWER.get(type(layer))
    if rule is None:
        known = ", ".join(kind.__name__ for kind in LOWER)
        raise Unsupported("onnx", layer.name, f"{layer.op} has no form in ONNX", f"one of {known}")
    return rule(layer, shapes[0], weights)


def build(net: Net, weights: Weights, classes: Sequence[str] = ()) -> onnx.ModelProto:
    """The net with these weights as a checked ONNX model; its metadata carry net, classes and input shape."""
    checked(net, weights)
    shapes = shapes_of(net)
    nodes, tensors, values = [], [], {INPUT: "image"}
    for layer in net.layers:
        read = [values[name] for name in layer.inputs]
        own = {key: weights[f"{layer.name}/{key}"] for key in layer_layout(layer, shapes[layer.inputs[0]])}
        ops = lower(layer, [shapes[name] for name in layer.inputs], own)
        made, constants = _nodes(layer.name, ops, read)
        nodes += made
        tensors += constants
        values[layer.name] = made[-1].output[0]
    output = values[net.layers[-1].name]
    nodes.append(helper.make_node("Identity", [output], ["probabilities"], "probabilities"))
    return _model(net, nodes, tensors, shapes[net.layers[-1].name], classes)


def session(model_or_path: onnx.ModelProto | str | Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """A CPU session of a model, or of a file, on so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    source = str(model_or_path) if isinstance(model_or_path, (str, Path)) else model_or_path.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _nodes(name: str, ops: Sequence[Op], read: Sequence[str]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The layer's nodes in line; tensor names carry a slash, which layer names cannot."""
    nodes, tensors, before = [], [], ""
    for number, op in enumerate(ops):
        label = f"{name}/{op.kind}_{number}"
        constants = [numpy_helper.from_array(value, f"{label}/{key}") for key, value in op.constants.items()]
        inputs = [*read, *([before] if op.again else []), *(tensor.name for tensor in constants)]
        nodes.append(helper.make_node(op.kind, inputs, [label], label, **op.attributes))
        tensors += constants
        before, read = read[0], [label]
    return nodes, tensors


def _model(net: Net, nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto], output: Shape,
           classes: Sequence[str]) -> onnx.ModelProto:  # fmt: skip
    height, width, channels = net.input_shape
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", channels, height, width])
    last = [output[-1], *output[:-1]]
    answer = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", *last])
    graph = helper.make_graph(nodes, "convwise", [image], [answer], tensors)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="convwise"
    )
    about = {"net": net.to_json(), "classes": list(classes), "input_shape": net.input_shape}
    helper.set_model_props(model, {key: json.dumps(value) for key, value in about.items()})
    onnx.checker.check_model(model, full_check=True)
    return model


# --- layers ---------------------------------------------------------------------------------

# What ONNX lacks at this opset.
_COMPOSED: dict[str, tuple[Op, ...]] = {
    "silu": (Op("Sigmoid"), Op("Mul", again=True)),
    "relu6": (Op("Clip", {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}),),
}


def _activation(name: str) -> tuple[Op, ...]:
    given = activation(name)
    if name == "linear":
        return ()
    return (Op(given.row.onnx, {}, given.onnx_attributes),) if given.row.onnx else _COMPOSED[name]


def _conv(layer: Conv2D | DepthwiseConv2D, shape: Shape, weights: Mapping[str, Array]) -> tuple[Op, ...]:
    groups = layer.groups if isinstance(layer, Conv2D) else shape[2]
    kernel = weights["kernel"]
    outputs = layer.filters if isinstance(layer, Conv2D) else shape[2] * layer.depth_multiplier
    turned = channels_first(layer, kernel, (outputs, shape[2] // groups, *layer.kernel_size))
    attributes = {**_moves(_window(layer, shape)), "dilations": layer.dilation_rate, "group": groups}
    return (Op("Conv", {**weights, "kernel": turned}, attributes), *_activation(layer.activation))


def _window(layer: Layer, shape: Shape) -> Window:
    window = GEOMETRY[type(layer)].window(layer, shape)
    assert window is not None
    return window


def _moves(window: Window) -> dict[str, Any]:
    """Attributes of Conv and of pooling; pads are all beginnings, then all ends."""
    top, bottom, left, right = window.pads
    return {"kernel_shape": window.kernel, "strides": window.strides, "pads": (top, left, bottom, right)}


def _pool(layer: MaxPooling2D | AveragePooling2D, shape: Shape, weights: Mapping[str, Array]) -> tuple[Op, ...]:
    window = _window(layer, shape)
    (rows, columns), (top, bottom, left, right) = window.kernel, window.pads
    if max(top, bottom) >= rows or max(left, right) >= columns:
        what = f"padding {window.pads} makes windows of {window.kernel} that hold nothing"
        raise Unsupported("onnx", layer.name, what, "padding smaller than the pool")
    kind = "MaxPool" if isinstance(layer, MaxPooling2D) else "AveragePool"  # counts no padding unless told to
    return (Op(kind, {}, _moves(window)),)


def _batch_norm(layer: BatchNormalization, shape: Shape, weights: Mapping[str, Array]) -> tuple[Op, ...]:
    return (Op("BatchNormalization", weights, {"epsilon": layer.epsilon}),)


def _flatten(layer: Flatten, shape: Shape, weights: Mapping[str, Array]) -> tuple[Op, ...]:
    turn = (Op("Transpose", {}, {"perm": (0, 2, 3, 1)}),) if len(shape) == 3 else ()
    return (*turn, Op("Flatten", {}, {"axis": 1}))


def _dense(layer: Dense, shape: Shape, weights: Mapping[str, Array]) -> tuple[Op, ...]:
    after = _activation(layer.activation)
    if len(shape) == 1:
        return (Op("Gemm", weights), *after)
    # Keras applies Dense at every position of a map, which is a 1x1 convolution.
    kernel = channels_first(layer, weights["kernel"], (layer.units, shape[2], 1, 1))
    return (Op("Conv", {**weights, "kernel": kernel}), *after)


def _rescaling(layer: Rescaling, shape: Shape, weights: Mapping[str, Array]) -> tuple[Op, ...]:
    per_channel = (-1, 1, 1) if len(shape) == 3 else (-1,)
    scale, offset = (np.array(n, np.float32).reshape(per_channel) for n in (layer.scale, layer.offset))
    return (Op("Mul", {"scale": scale}), Op("Add", {"offset": offset}))


def _normalization(layer: Normalization, shape: Shape, weights: Mapping[str, Array]) -> tuple[Op, ...]:
    per_channel = (-1, 1, 1) if len(shape) == 3 else (-1,)
    mean, variance = (np.array(n, np.float32).reshape(per_channel) for n in (layer.mean, layer.variance))
    deviation = np.maximum(np.sqrt(variance), np.float32(1e-7))  # as Keras
    return (Op("Sub", {"mean": mean}), Op("Div", {"deviation": deviation}))


def _zero_padding(layer: ZeroPadding2D, shape: Shape, weights: Mapping[str, Array]) -> tuple[Op, ...]:
    top, bottom, left, right = _window(layer, shape).pads
    return (Op("Pad", {"pads": np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)}),)


def _global(kind: str) -> tuple[Op, ...]:
    return Op(kind), Op("Flatten", {}, {"axis": 1})


LOWER: dict[type[Layer], Callable[[Any, Shape, Mapping[str, Array]], tuple[Op, ...]]] = {
    Conv2D: _conv,
    DepthwiseConv2D: _conv,
    MaxPooling2D: _pool,
    AveragePooling2D: _pool,
    GlobalAveragePooling2D: lambda layer, shape, weights: _global("GlobalAveragePool"),
    GlobalMaxPooling2D: lambda layer, shape, weights: _global("GlobalMaxPool"),
    BatchNormalization: _batch_norm,
    Activation: lambda layer, shape, weights: _activation(layer.activation) or (Op("Identity"),),
    Dropout: lambda layer, shape, weights: (Op("Identity"),),
    Flatten: _flatten,
    Dense: _dense,
    Add: lambda layer, shape, weights: (Op("Sum"),),
    Concatenate: lambda layer, shape, weights: (Op("Concat", {}, {"axis": 1}),),
    ZeroPadding2D: _zero_padding,
    Rescaling: _rescaling,
    Normalization: _normalization,
}


# --- files ----------------------------------------------------------------------------------


def save(folder: Path, net: Net, weights: Weights, classes: Sequence[str]) -> None:
    """Write model.onnx."""
    (folder / "model.onnx").write_bytes(build(net, weights, classes).SerializeToString())


def run(folder: Path, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """What the written file gives for pixels (n, height, width, channels)."""
    return [forward(session(folder / "model.onnx"), pixels)]


def forward(model: onnxruntime.InferenceSession, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The model's outputs for pixels (n, height, width, channels), channels last."""
    output = model.run(None, {"image": pixels.transpose(0, 3, 1, 2).astype(np.float32)})[0]
    return np.asarray(output.transpose(0, 2, 3, 1) if output.ndim == 4 else output)
