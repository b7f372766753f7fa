"""ONNX models written by hand, for the tests that read them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from convwise.formats import onnx as onnx_format
from convwise.formats.lifted import Lifted


def ops(lifted: Lifted) -> list[str]:
    return [layer.op for layer in lifted.net.layers]


def model_of(nodes, tensors=None, shape=("n", 3, 8, 6), opset=17, output="y", more=()):
    """A model from `x` to `output`; tensors are initialisers."""
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    outputs = [onnx.ValueInfoProto(name=name) for name in (output, *more)]
    initialisers = [
        numpy_helper.from_array(np.asarray(array), name) for name, array in (tensors or {}).items()
    ]
    graph = helper.make_graph(nodes, "test", [image], outputs, initialisers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(kind, inputs, output="y", **attributes):
    return helper.make_node(kind, inputs.split(","), output.split(","), **attributes)


def floats(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


def run(model, images):
    """ONNX Runtime's answer, channels last; the output needs a type there."""
    full = onnx.shape_inference.infer_shapes(model)
    if not full.graph.output[0].type.tensor_type.elem_type:
        full.graph.output[0].CopyFrom(
            helper.make_tensor_value_info(full.graph.output[0].name, TensorProto.FLOAT, None)
        )
    return np.moveaxis(onnx_format.session(full).run(None, {"x": images})[0], 1, -1)
