"""An ONNX file as a graph whose every value is known: a constant, or a tensor of one shape.

Nothing in a file is run: integer subgraphs that compute shapes are folded with onnx.reference, one
operator at a time, external data and operator libraries are refused, and sizes are limited.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper, inliner, numpy_helper, shape_inference, version_converter
from onnx.reference import ReferenceEvaluator

from convwise.core.problems import UnusableInput

Tensor = NDArray[Any]
Shape = tuple[int, ...]

OLDEST_OPSET = 11
MOST_BYTES = 2**31  # of a file; what a protobuf can hold
MOST_NUMBERS = 2**27  # in a folded constant
SMALL = 4096  # constants up to so many numbers take part in shape inference
FIRST, LAST = (0, 3, 1, 2), (0, 1, 2, 3)  # which of our axes (0 the batch) the axes of a 4D tensor are
# Operators that pass the image on before its channels are moved.
_PASSING = ("Identity", "Cast", "Add", "Sub", "Mul", "Div")


@dataclass(frozen=True)
class Node:
    """An operator; attributes are plain values, and subgraphs are left out."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Graph:
    """The operators between `image` and `output`, in order, with the shapes (with the batch) of all tensors.

    order: which of our axes the axes of the image are.
    """

    image: str
    output: str
    order: Shape
    opset: int
    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    shapes: Mapping[str, Shape]

    @property
    def batch(self) -> int:
        """The size of the batch that the shapes are for."""
        return self.shapes[self.image][0]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = (self.shapes[self.image][self.order.index(axis)] for axis in (1, 2, 3))
        return height, width, channels

    @property
    def uses(self) -> Counter[str]:
        """How many operators read each tensor; the answer is read once more."""
        return Counter([name for node in self.nodes for name in node.inputs] + [self.output])

    def with_nodes(self, nodes: Sequence[Node]) -> Graph:
        """The graph with other operators, without those that the answer does not need."""
        needed, kept = {self.output}, []
        for node in reversed(nodes):
            if needed & set(node.outputs):
                needed |= set(node.inputs)
                kept.append(node)
        return replace(self, nodes=tuple(reversed(kept)))


def load(path: str | Path) -> onnx.ModelProto:
    """The model in a file. UnusableInput where it is none, or too large."""
    where = str(path)
    if not Path(path).is_file():
        raise UnusableInput(where, "is no file", "an ONNX model")
    if Path(path).stat().st_size > MOST_BYTES:
        raise UnusableInput(where, "is larger than 2 GiB", "an ONNX model in one file")
    try:
        model = onnx.load_model_from_string(Path(path).read_bytes())
    except Exception as error:  # protobuf's DecodeError, which has no types
        raise UnusableInput(where, "cannot be read as ONNX", "a whole ONNX model") from error
    if not model.graph.node:
        raise UnusableInput(where, "holds no ONNX graph", "a whole ONNX model")
    return model


def graph_of(model: onnx.ModelProto, input_shape: Sequence[int] | None = None) -> Graph:
    """The model's graph for images of (height, width, channels). UnusableInput where it cannot be followed."""
    model = _plain(model)
    proto = model.graph
    constants = {tensor.name: _array(tensor) for tensor in proto.initializer}
    image = _image(proto, constants)
    nodes = [_node(each) for each in proto.node]
    order = _order(image.name, nodes)
    known = _Known(model, constants, {image.name: _size(image, order, input_shape)}, image)
    kept = [node for node, each in zip(nodes, proto.node, strict=True) if known.add(node, each)]
    output = proto.output[0].name
    if output in constants or output not in known.shapes:
        raise UnusableInput("model", f"gives {output!r}, which does not come from its image", "one that reads images")
    graph = Graph(image.name, output, order, _opset(model), tuple(kept), constants, known.shapes)
    return graph.with_nodes(graph.nodes)


# --- the file -------------------------------------------------------------------------------


def _opset(model: onnx.ModelProto) -> int:
    return max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=1)


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without functions of its own, at an opset that can be read."""
    try:
        if model.functions:
            model = inliner.inline_local_functions(model)
        if _opset(model) < OLDEST_OPSET:
            model = version_converter.convert_version(model, OLDEST_OPSET)
    except Exception as error:  # the converter raises plain RuntimeErrors, and others
        what = f"is at opset {_opset(model)}, and cannot be converted: {first_line(error)}"
        raise UnusableInput("model", what, f"opset {OLDEST_OPSET} or newer", "export it again") from error
    if model.graph.sparse_initializer:
        raise UnusableInput("model", "keeps sparse weights", "dense ones", "export it again")
    return model


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _array(tensor: TensorProto) -> Tensor:
    if tensor.data_location == TensorProto.EXTERNAL:
        fix = "save it with onnx.save(onnx.load(path), path)"
        raise UnusableInput("model", "keeps its weights in other files", "one file", fix)
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:  # too few bytes, unknown types
        raise UnusableInput(
            f"weight {tensor.name}", f"cannot be read: {first_line(error)}", "a whole tensor"
        ) from error


def _image(proto: onnx.GraphProto, constants: Mapping[str, Tensor]) -> onnx.ValueInfoProto:
    found = [value for value in proto.input if value.name not in constants]
    if len(found) != 1 or len(found[0].type.tensor_type.shape.dim) != 4:
        named = ", ".join(f"{value.name} of {len(value.type.tensor_type.shape.dim)} axes" for value in found) or "none"
        raise UnusableInput("model", f"has the inputs {named}", "one: images (n, channels, height, width)")
    if not proto.output:
        raise UnusableInput("model", "gives nothing", "one output")
    return found[0]


def _order(image: str, nodes: Iterable[Node]) -> Shape:
    """Channels first, unless the image's channels are moved there."""
    passed = {image}
    for node in nodes:
        if not passed & set(node.inputs):
            continue
        if node.kind == "Transpose":
            return LAST if tuple(node.attributes.get("perm", ())) == FIRST else FIRST
        if node.kind in _PASSING:
            passed |= set(node.outputs)
    return FIRST


def _size(image: onnx.ValueInfoProto, order: Shape, given: Sequence[int] | None) -> Shape:
    """The image's shape: what is free is taken from `given`, the batch is 1."""
    dims = [dim.dim_value if dim.dim_value > 0 else 0 for dim in image.type.tensor_type.shape.dim]
    own = [dims[order.index(axis)] for axis in (1, 2, 3)]
    if not given and not all(own):
        told = "x".join(str(n) if n else "?" for n in own)
        raise UnusableInput(
            "model", f"has a free input size, {told}", "a size", "give --input-shape, such as 224x224x3"
        )
    if given and any(n and n != wanted for n, wanted in zip(own, given, strict=True)):
        told, wanted = "x".join(str(n) if n else "?" for n in own), "x".join(map(str, given))
        raise UnusableInput("model", f"takes images of {told}, not of {wanted}", told, "leave --input-shape out")
    sides = [n or wanted for n, wanted in zip(own, given or own, strict=True)]
    return tuple([dims[0] or 1, *sides][axis] for axis in order)


def _node(proto: onnx.NodeProto) -> Node:
    plain = [a for a in proto.attribute if a.type not in (AttributeProto.GRAPH, AttributeProto.GRAPHS)]
    attributes = {a.name: _attribute(a) for a in plain}
    kind = proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}.{proto.op_type}"
    return Node(
        kind, proto.name or proto.output[0].removesuffix(":0"), tuple(proto.input), tuple(proto.output), attributes
    )


def _attribute(attribute: AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        return _array(value)
    if isinstance(value, float):
        return float(str(np.float32(value)))  # 1e-05, not 9.999999747378752e-06
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


# --- values ---------------------------------------------------------------------------------

_GROWING = ("ConstantOfShape", "Expand", "Tile", "Range", "Pad", "Resize", "OneHot", "EyeLike", "Upsample")
_RANDOM = ("RandomNormal", "RandomUniform", "Bernoulli", "Multinomial")


class _Known:
    """What is known of every value, one operator after the other."""

    def __init__(self, model: onnx.ModelProto, constants: dict[str, Tensor], shapes: dict[str, Shape],
                 image: onnx.ValueInfoProto) -> None:  # fmt: skip
        self.constants, self.shapes = constants, shapes
        self.types = {image.name: image.type.tensor_type.elem_type}
        self.imports, self.version = list(model.opset_import), model.ir_version
        self.declared = {value.name: value for value in [*model.graph.value_info, *model.graph.output]}

    def add(self, node: Node, proto: onnx.NodeProto) -> bool:
        """Learn what an operator gives; False where that is a constant."""
        reads = [name for name in node.inputs if name]
        if unknown := [name for name in reads if name not in self.shapes and name not in self.constants]:
            raise UnusableInput(
                "model", f"operator {node.name} reads {unknown[0]!r}, which nothing gives", "a whole model"
            )
        if node.kind == "Shape":
            start, end = node.attributes.get("start", 0), node.attributes.get("end")
            self.constants[node.outputs[0]] = np.array(self._shape(reads[0])[start:end], np.int64)
            return False
        fixed = all(name in self.constants for name in reads) and not node.kind.startswith(_RANDOM)
        if fixed and not any(a.type == AttributeProto.GRAPH for a in proto.attribute):
            self._fold(node, proto)
            return False
        self._infer(node, proto)
        return True

    def _shape(self, name: str) -> Shape:
        return self.constants[name].shape if name in self.constants else self.shapes[name]

    def _fold(self, node: Node, proto: onnx.NodeProto) -> None:
        if node.kind in _GROWING:
            self._infer(node, proto)
            if any(prod(self.shapes.pop(name, ())) > MOST_NUMBERS for name in node.outputs):
                what = f"operator {node.name} makes a constant of more than {MOST_NUMBERS} numbers"
                raise UnusableInput("model", what, "a model that can be held")
        try:
            model = self._model(proto, [])
            given = {name: self.constants[name] for name in node.inputs if name}
            made = ReferenceEvaluator(model).run([name for name in node.outputs if name], given)
        except Exception as error:  # whatever the reference says of wrong arguments
            what = f"operator {node.name} ({node.kind}) cannot be computed: {first_line(error)}"
            raise UnusableInput("model", what, "a model that runs") from error
        self.constants.update(zip([name for name in node.outputs if name], map(np.asarray, made), strict=True))

    def _infer(self, node: Node, proto: onnx.NodeProto) -> None:
        small = [name for name in node.inputs if name in self.constants and self.constants[name].size <= SMALL]
        try:
            inferred = shape_inference.infer_shapes(self._model(proto, small), strict_mode=False, data_prop=True)
        except Exception as error:
            what = f"operator {node.name} ({node.kind}) does not fit what it reads: {first_line(error)}"
            raise UnusableInput("model", what, "a model that runs") from error
        found = {value.name: value for value in inferred.graph.output}
        for name in filter(None, node.outputs):
            self._learn(node, name, [found[name], self.declared.get(name)])

    def _learn(self, node: Node, name: str, told: Sequence[onnx.ValueInfoProto | None]) -> None:
        """The first shape that is told in full; an operator without inference must have its own in the file."""
        for value in filter(None, told):
            tensor = value.type.tensor_type
            dims = [dim.dim_value for dim in tensor.shape.dim]
            if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
                self.shapes[name], self.types[name] = tuple(dims), tensor.elem_type
                return
        what = f"operator {node.name} ({node.kind}) gives a shape that cannot be told"
        raise UnusableInput("model", what, "operators with fixed shapes", "export it with a fixed input size")

    def _model(self, proto: onnx.NodeProto, small: Sequence[str]) -> onnx.ModelProto:
        """One operator as a model."""
        reads = list(dict.fromkeys(name for name in proto.input if name and name not in small))
        inputs = [helper.make_tensor_value_info(name, self._type(name), self._shape(name)) for name in reads]
        tensors = [numpy_helper.from_array(self.constants[name], name) for name in dict.fromkeys(small)]
        outputs = [onnx.ValueInfoProto(name=name) for name in proto.output if name]
        graph = helper.make_graph([proto], "one", inputs, outputs, tensors)
        # Before opset 22, inference counts windows of ceil_mode that start behind the map; no runtime does.
        ceil = proto.op_type in ("MaxPool", "AveragePool") and not proto.domain
        imports = [helper.make_opsetid("", 22)] if ceil else self.imports
        return helper.make_model(graph, opset_imports=imports, ir_version=self.version)

    def _type(self, name: str) -> int:
        known = name in self.constants
        kind: int = helper.np_dtype_to_tensor_dtype(self.constants[name].dtype) if known else self.types[name]
        return kind
