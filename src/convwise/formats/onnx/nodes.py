"""An operator of an ONNX file, its attributes and tensors as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from convwise.core.problems import UnusableInput
from convwise.formats.onnx.external import unread
from convwise.formats.onnx.plain import first_line
from convwise.formats.onnx.steps import outer

Tensor = NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """An operator, without its subgraphs; what they read comes after its own inputs."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def where(self) -> str:
        """As errors name it."""
        return f"operator {self.name} ({self.kind})"


def node_of(proto: onnx.NodeProto) -> Node:
    """The operator that a file describes. UnusableInput where a tensor in it cannot be read."""
    graphs = AttributeProto.GRAPH, AttributeProto.GRAPHS
    attributes = {a.name: _attribute(a) for a in proto.attribute if a.type not in graphs}
    kind = proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}.{proto.op_type}"
    name = proto.name or "".join(proto.output[:1]).removesuffix(":0") or proto.op_type
    return Node(kind, name, (*proto.input, *outer(proto)), tuple(proto.output), attributes)


def _attribute(attribute: AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        return array_of(value)
    if isinstance(value, float):
        return float(str(np.float32(value)))  # 1e-05, not 9.999999747378752e-06
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def array_of(tensor: TensorProto) -> Tensor:
    """The numbers of a tensor in a file. UnusableInput where they cannot be read."""
    if tensor.data_location == TensorProto.EXTERNAL:
        return unread(tensor)
    try:
        if min(tensor.dims, default=0) < 0:
            raise ValueError(f"its shape is {tuple(tensor.dims)}")
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:  # too few bytes, unknown types
        what = f"cannot be read: {first_line(error)}"
        raise UnusableInput(f"weight {tensor.name}", what, "a whole tensor") from error
