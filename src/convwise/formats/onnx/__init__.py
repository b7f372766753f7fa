"""Nets as ONNX: input 'image' (batch, channels, height, width), raw pixels.

The output is 'probabilities', 'number' or 'numbers'. Opset 20, written with onnx.helper;
formats/onnx/lowering.py says what each layer becomes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from convwise.core.geometry import GEOMETRY
from convwise.core.net import INPUT, Net, is_mirror
from convwise.core.score import numbers_of
from convwise.core.windows import Shape
from convwise.formats.lowering.calls import consumed, shapes_of
from convwise.formats.onnx.lowering import MIRRORED, Op, Tensor, lower
from convwise.formats.weights import Weights, require_own
from convwise.formats.written import NOTHING, Beside, about

OPSET = 20
IR_VERSION = 10  # the newest that ONNX Runtime 1.18 reads


def build(
    net: Net, weights: Weights, classes: Sequence[str] = (), beside: Beside = NOTHING
) -> onnx.ModelProto:
    """The net with these weights as a checked ONNX model, with metadata as `about` says."""
    require_own(net, weights)
    graph = net.both_views if net.mirrored_view else net
    shapes, written = shapes_of(graph), _Written()
    for layer in graph.layers:
        if is_mirror(layer):
            written.add(layer.name, MIRRORED, layer.inputs, layer.name)
            continue
        owner = layer
        while owner.shares:
            owner = graph[owner.shares]
        given = [shapes[name] for name in layer.inputs]
        with consumed("onnx", layer, "shape", "values"):
            own = {
                key: weights[f"{owner.name}/{key}"]
                for key in GEOMETRY[type(layer)].weights(layer, given[0])
            }
            operators = lower(layer, given, own)
        written.add(layer.name, operators, layer.inputs, owner.name)
    output = written.values[graph.layers[-1].name]
    unit = numbers_of(net)
    said = ("number" if len(unit.scale) == 1 else "numbers") if unit else "probabilities"
    written.nodes.append(helper.make_node("Identity", [output], [said], said))
    return _model(net, written, shapes[net.layers[-1].name], about(net, classes, beside))


def session(
    model_or_path: onnx.ModelProto | str | Path, threads: int = 1
) -> onnxruntime.InferenceSession:
    """A CPU session of a model, or of a file, on so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    source = (
        str(model_or_path)
        if isinstance(model_or_path, (str, Path))
        else model_or_path.SerializeToString()
    )
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class _Written:
    """The graph so far: tensor names carry a slash, which layer names cannot."""

    def __init__(self) -> None:
        self.values = {INPUT: "image"}  # the tensor that each layer gives
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, onnx.TensorProto] = {}

    def add(self, layer: str, ops: Sequence[Op], inputs: Sequence[str], owner: str) -> None:
        """The operators of a layer; one that shares reads its owner's tensors."""
        read, labels = (
            [self.values[name] for name in inputs],
            [f"{layer}/{op.kind}_{i}" for i, op in enumerate(ops)],
        )
        for number, (op, label) in enumerate(zip(ops, labels, strict=True)):
            values = [name for back in op.reads for name in _read(number + back, labels, read)]
            constants = self._constants(op.constants, label, owner if owner != layer else "")
            outputs = [label, *(f"{label}/spare_{i}" for i in range(op.spare))]
            self.nodes.append(
                helper.make_node(op.kind, [*values, *constants], outputs, label, **op.attributes)
            )
        self.values[layer] = labels[-1]

    def _constants(self, constants: Mapping[str, Tensor], label: str, owner: str) -> list[str]:
        made = [
            numpy_helper.from_array(value, f"{label}/{key}") for key, value in constants.items()
        ]
        names = [self._shared(tensor, owner) if owner else tensor.name for tensor in made]
        self.tensors.update(
            {name: tensor for name, tensor in zip(names, made, strict=True) if name == tensor.name}
        )
        return names

    def _shared(self, tensor: onnx.TensorProto, owner: str) -> str:
        for name, other in self.tensors.items():
            if name.startswith(f"{owner}/") and (other.dims, other.raw_data) == (
                tensor.dims,
                tensor.raw_data,
            ):
                return name
        return str(tensor.name)


def _read(place: int, labels: Sequence[str], read: Sequence[str]) -> Sequence[str]:
    """The values at a place: of an operator, or below 0, all or one that the layer reads."""
    if place >= 0:
        return [labels[place]]
    return read if place == -1 else [read[-2 - place]]


def _model(net: Net, written: _Written, output: Shape, told: Mapping[str, Any]) -> onnx.ModelProto:
    height, width, channels = net.input_shape
    image = helper.make_tensor_value_info(
        "image", TensorProto.FLOAT, ["batch", channels, height, width]
    )
    last = [output[-1], *output[:-1]]
    answer = helper.make_tensor_value_info(
        written.nodes[-1].output[0], TensorProto.FLOAT, ["batch", *last]
    )
    graph = helper.make_graph(
        written.nodes, "convwise", [image], [answer], list(written.tensors.values())
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="convwise",
    )
    helper.set_model_props(model, {key: json.dumps(value) for key, value in told.items()})
    onnx.checker.check_model(model, full_check=True)
    return model


# --- files ----------------------------------------------------------------------------------


def save(
    folder: Path, net: Net, weights: Weights, classes: Sequence[str], beside: Beside = NOTHING
) -> None:
    """Write model.onnx; its metadata say what `about` says."""
    (folder / "model.onnx").write_bytes(build(net, weights, classes, beside).SerializeToString())


def run(folder: Path, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """What the written file gives for pixels (n, height, width, channels)."""
    return [forward(session(folder / "model.onnx"), pixels)]


def forward(model: onnxruntime.InferenceSession, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The model's outputs for pixels (n, height, width, channels), channels last."""
    output = model.run(None, {"image": pixels.transpose(0, 3, 1, 2).astype(np.float32)})[0]
    return np.asarray(np.moveaxis(output, 1, -1))
