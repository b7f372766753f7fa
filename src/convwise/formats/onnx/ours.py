"""ONNX files that we wrote: the net in their metadata, where it gives the same graph again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from convwise.core import layers as L
from convwise.core.geometry import layer_weights
from convwise.core.net import Net
from convwise.formats.json import MOST_BYTES
from convwise.formats.lifted import Lifted
from convwise.formats.lowering.calls import shapes_of
from convwise.formats.onnx import build
from convwise.formats.onnx.nodes import Shape, Tensor
from convwise.formats.weights import Array, Weights, channels_last, is_kernel


def own(model: onnx.ModelProto, about: Mapping[str, str], classes: Sequence[str]) -> Lifted | None:
    """What the metadata say, where building it gives this graph again; None where it does not."""
    if len(about.get("net", "")) not in range(1, MOST_BYTES):
        return None
    try:
        net = Net.from_json(json.loads(about["net"]))
        weights = _own_weights(net, model)
        same = build(net, weights, classes).graph == model.graph
    except MemoryError:
        raise
    except Exception:  # others may keep anything under this name
        return None
    return Lifted(net, weights, tuple(classes)) if same else None


def _own_weights(net: Net, model: onnx.ModelProto) -> Weights:
    """The initialisers 'layer/Kind_0/key', in Keras's layouts."""
    found = {re.sub(r"/\w+/", "/", tensor.name): tensor for tensor in model.graph.initializer}
    shapes, weights = shapes_of(net), {}
    for layer in net.layers:
        for key, shape in layer_weights(layer, shapes[layer.inputs[0]]).items():
            array = numpy_helper.to_array(found[f"{layer.name}/{key}"])
            weights[f"{layer.name}/{key}"] = _as_ours(layer, key, array, shape)
    return weights


def _as_ours(layer: L.Layer, key: str, array: Tensor, shape: Shape) -> Array:
    """The inverse of what formats/onnx/lowering.py writes."""
    if is_kernel(key):
        return array if array.ndim == 2 else channels_last(layer, array, shape, key)
    last = isinstance(layer, L.LayerNormalization) and array.shape == shape
    return np.ascontiguousarray(
        array if last else np.moveaxis(array, 0, -1).reshape(shape), np.float32
    )
