"""An ONNX file as a graph whose every value is known: a constant, or a tensor of one shape.

Nothing in a file is run: constant arithmetic of the kinds that exporters leave is computed with onnx.reference,
one operator at a time and so much in all; operator libraries are refused. Weights in files beside it are read by
external.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper, inliner, numpy_helper, shape_inference, version_converter
from onnx.reference import ReferenceEvaluator

from convwise.core.problems import ConvwiseError, ShapeError, UnusableInput
from convwise.formats.onnx.external import SMALL, fill, is_unread, unread
from convwise.formats.onnx.learnt import Told, told_by

Tensor = NDArray[Any]
Shape = tuple[int, ...]

OLDEST_OPSET = 11
USUAL = (224, 224, 3)  # a size that is proposed where a file leaves it open
MOST_BYTES = 2**31  # of a file; what a protobuf can hold
MOST_NUMBERS = 2**25  # that constant arithmetic may read and give, beyond _EACH times those that the file holds
_EACH = 16  # to standardise a kernel, as exporters write it, takes 13
MOST_WRITTEN = 2**22  # bytes of operators, likewise
_NO_LISTS = 4  # the IR version from which on constants need not be listed as inputs
FIRST, LAST = (0, 3, 1, 2), (0, 1, 2, 3)  # which of our axes (0 the batch) the axes of a 4D tensor are
# Operators that pass the image on before its channels are moved.
_PASSING = ("Identity", "Cast", "Add", "Sub", "Mul", "Div")


@dataclass(frozen=True)
class Node:
    """An operator; attributes are plain values. Subgraphs are left out; what they read comes after its own inputs."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Graph:
    """The operators that read `image`, in order, with the shapes (with the batch) of all tensors.

    outputs: what the model answers, the first first. order: which of our axes the axes of the image are. hidden:
    constants whose numbers are not known. made: constants that come from shapes and single numbers alone, as masks do.
    roots: for a constant that is another, turned or of another type, which one the file holds; parts: for one that is
    worked out, all of which it is made. told: which initializers the file says are learnt.
    """

    image: str
    outputs: tuple[str, ...]
    order: Shape
    opset: int
    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    shapes: Mapping[str, Shape]
    hidden: frozenset[str]
    made: frozenset[str]
    roots: Mapping[str, str]
    parts: Mapping[str, frozenset[str]]
    told: Told

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
        """How many operators read each tensor; the answers are read once more."""
        return Counter([*(name for node in self.nodes for name in node.inputs), *self.outputs])

    def with_nodes(self, nodes: Sequence[Node]) -> Graph:
        """The graph with other operators, without those that nothing needs now, but did before."""
        uses = self.uses
        unread = [name for node in self.nodes for name in node.outputs if not uses[name]]
        needed, kept = {*self.outputs, *unread}, []
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
        fill(model, Path(path))
    except ConvwiseError:
        raise
    except Exception as error:  # protobuf's DecodeError, which has no types
        raise UnusableInput(where, "cannot be read as ONNX", "a whole ONNX model") from error
    if not model.graph.node:
        raise UnusableInput(where, "holds no ONNX graph", "a whole ONNX model")
    return model


def graph_of(model: onnx.ModelProto, input_shape: Sequence[int] | None = None) -> Graph:
    """The model's graph for images of (height, width, channels). UnusableInput where it cannot be followed."""
    told, model = told_by(model), _plain(model)
    proto = model.graph
    constants = {tensor.name: _array(tensor) for tensor in proto.initializer}
    image = _image(proto, constants)
    nodes = [_node(each) for each in proto.node]
    order = _order(image.name, nodes)
    known = _Known(model, constants, {image.name: _size(image, order, input_shape)}, image)
    kept = [node for node, each in zip(nodes, proto.node, strict=True) if known.add(node, each)]
    outputs = [each.name for each in proto.output]
    seen = [name for name in outputs if name in known.shapes and name not in constants and name not in known.hidden]
    if not seen:
        what = f"gives {outputs[0]!r}, which does not come from its image"
        raise UnusableInput("model", what, "one that reads images")
    return Graph(image.name, tuple(seen), order, _opset(model), tuple(kept), constants, known.shapes,
                 frozenset(known.hidden), frozenset(known.made), known.roots, known.parts, told)  # fmt: skip


# --- the file -------------------------------------------------------------------------------


def _opset(model: onnx.ModelProto) -> int:
    return max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=1)


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without functions of its own, at an opset that can be read."""
    functions = {(each.domain, each.name): each.node for each in model.functions}
    if functions and _written_out(model.graph.node, functions, {}) > MOST_WRITTEN + _EACH * model.ByteSize():
        raise UnusableInput("model", "calls its functions too often", "one that can be held without functions")
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


def _written_out(nodes: Iterable[onnx.NodeProto], functions: Mapping[tuple[str, str], Sequence[onnx.NodeProto]],
                 known: dict[tuple[str, str], int]) -> int:  # fmt: skip
    """The bytes of operators once functions, which may call functions, are put in their places."""
    total = 0
    for node in nodes:
        key = node.domain, node.op_type
        if key in functions and key not in known:
            known[key] = 2**62  # where it calls itself
            known[key] = _written_out(functions[key], functions, known)
        inside = [graph.node for a in node.attribute for graph in (a.g, *a.graphs)]
        total += known.get(key, node.ByteSize()) + sum(_written_out(each, functions, known) for each in inside)
    return total


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _array(tensor: TensorProto) -> Tensor:
    if tensor.data_location == TensorProto.EXTERNAL:
        return unread(tensor)
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:  # too few bytes, unknown types
        what = f"cannot be read: {first_line(error)}"
        raise UnusableInput(f"weight {tensor.name}", what, "a whole tensor") from error


def _image(proto: onnx.GraphProto, constants: Mapping[str, Tensor]) -> onnx.ValueInfoProto:
    found = [value for value in proto.input if value.name not in constants]
    if len(found) != 1 or len(found[0].type.tensor_type.shape.dim) != 4:
        axes = {v.name: len(v.type.tensor_type.shape.dim) for v in found if v.type.tensor_type.HasField("shape")}
        named = ", ".join(f"{v.name} of {axes.get(v.name, 'nobody knows how many')} axes" for v in found) or "none"
        fix = "give a network of 2D convolutions; networks for sequences and volumes are not read"
        if len(found) > 1:
            fix = "give the part of it that reads one image, which onnx.utils.extract_model cuts out"
        elif not axes:
            fix = "declare the shape of its input, as onnx.tools.update_model_dims does"
        raise UnusableInput("model", f"has the inputs {named}", "one: images (n, channels, height, width)", fix)
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
        usual = "x".join(str(n or each) for n, each in zip(own, USUAL, strict=True))
        fix = f"--input-shape {usual}, or the size you use"
        raise UnusableInput("model", f"has a free input size, {told}", "a size", fix)
    if given and any(n and n != wanted for n, wanted in zip(own, given, strict=True)):
        told, wanted = "x".join(str(n) if n else "?" for n in own), "x".join(map(str, given))
        fix = f"--input-shape {'x'.join(str(n or each) for n, each in zip(own, USUAL, strict=True))}"
        raise UnusableInput("model", f"takes images of {told}, not of {wanted}", told, fix)
    sides = [n or wanted for n, wanted in zip(own, given or own, strict=True)]
    return tuple([dims[0] or 1, *sides][axis] for axis in order)


def _node(proto: onnx.NodeProto) -> Node:
    plain = [a for a in proto.attribute if a.type not in (AttributeProto.GRAPH, AttributeProto.GRAPHS)]
    attributes = {a.name: _attribute(a) for a in plain}
    kind = proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}.{proto.op_type}"
    name = proto.name or proto.output[0].removesuffix(":0")
    return Node(kind, name, (*proto.input, *_outer(proto)), tuple(proto.output), attributes)


def _outer(proto: onnx.NodeProto) -> Iterator[str]:
    """What the subgraphs of an operator read of the graph around it."""
    for graph in (graph for a in proto.attribute for graph in (a.g, *a.graphs)):
        made = {name for node in graph.node for name in node.output}
        own = {each.name for each in (*graph.input, *graph.initializer)} | made
        reads = [name for node in graph.node for name in (*node.input, *_outer(node))]
        yield from (name for name in (*reads, *(value.name for value in graph.output)) if name and name not in own)


def _attribute(attribute: AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        return _array(value)
    if isinstance(value, float):
        return float(str(np.float32(value)))  # 1e-05, not 9.999999747378752e-06
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


# --- values ---------------------------------------------------------------------------------

# What is computed of constants: what exporters leave, all linear in what it reads and gives.
_COMPUTED = {
    "Abs", "Add", "And", "BatchNormalization", "Cast", "CastLike", "Ceil", "Clip", "Concat", "ConstantOfShape", "Cos",
    "DequantizeLinear", "Div", "Equal", "Exp", "Expand", "Flatten", "Floor", "Gather", "Greater", "GreaterOrEqual",
    "Identity", "Less", "LessOrEqual", "Log", "MatMul", "Max", "Mean", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pad",
    "Pow", "QuantizeLinear", "Range", "Reciprocal", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "Relu", "Reshape", "Round", "Sigmoid", "Sign", "Sin", "Size", "Slice", "Softplus", "Split", "Sqrt",
    "Squeeze", "Sub", "Sum", "Tanh", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where", "Xor",
}  # fmt: skip
# What gives the numbers that it reads, elsewhere or in another type.
_SAME_NUMBERS = ("Cast", "DequantizeLinear", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
# Opsets from which on onnx infers, or computes, what it does not before. Of pools before 22, inference counts windows
# of ceil_mode that start behind the map; no runtime does.
_SINCE = {"MaxPool": 22, "AveragePool": 22, "DequantizeLinear": 19, "QuantizeLinear": 19, "GreaterOrEqual": 16,
          "LessOrEqual": 16}  # fmt: skip
_MEETING = ("Add", "Concat", "Div", "Max", "Mean", "Min", "Mul", "Pow", "Sub", "Sum", "Where")  # maps meet here
_WINDOWS = ("Conv", "MaxPool", "AveragePool", "LpPool")
_AS_READ = ("GroupNormalization", "MeanVarianceNormalization")  # shaped as their input, which onnx does not infer
_CONSTANTS = {"value": None, "value_float": np.float32, "value_floats": np.float32, "value_int": np.int64,
              "value_ints": np.int64}  # fmt: skip


class _Known:
    """What is known of every value, one operator after the other."""

    def __init__(self, model: onnx.ModelProto, constants: dict[str, Tensor], shapes: dict[str, Shape],
                 image: onnx.ValueInfoProto) -> None:  # fmt: skip
        self.constants, self.shapes = constants, shapes
        self.hidden: set[str] = set()
        self.made: set[str] = set()
        self.roots: dict[str, str] = {}
        self.parts: dict[str, frozenset[str]] = {}
        self.left = MOST_NUMBERS + _EACH * sum(array.size for array in constants.values())
        self.types = {image.name: image.type.tensor_type.elem_type}
        self.imports, self.version = list(model.opset_import), model.ir_version
        self.declared = {value.name: value for value in [*model.graph.value_info, *model.graph.output]}
        dims = zip(image.type.tensor_type.shape.dim, shapes[image.name], strict=True)
        self.named = {dim.dim_param: size for dim, size in dims if dim.dim_param}

    def add(self, node: Node, proto: onnx.NodeProto) -> bool:
        """Learn what an operator gives; False where that is a constant."""
        reads = [name for name in node.inputs if name]
        if unknown := [name for name in reads if not self._knows(name)]:
            what = f"operator {node.name} reads {unknown[0]!r}, which nothing gives"
            raise UnusableInput("model", what, "a whole model")
        if twice := [name for name in node.outputs if name and self._knows(name)]:
            raise UnusableInput("model", f"operator {node.name} gives {twice[0]!r} once more", "a name for each tensor")
        if node.kind == "Shape" and (shape := self._shape(reads[0])) is not None:
            start, end = node.attributes.get("start", 0), node.attributes.get("end")
            self.constants[node.outputs[0]] = np.array(shape[start:end], np.int64)
            self.made.add(node.outputs[0])
        elif all(name in self.constants or name in self.hidden for name in reads):
            self._fold(node, proto)
        else:
            self._tell(node, proto, self._inferred(node, proto))
            return True
        return False

    def _knows(self, name: str) -> bool:
        return name in self.constants or name in self.shapes or name in self.hidden

    def _shape(self, name: str) -> Shape | None:
        return self.constants[name].shape if name in self.constants else self.shapes.get(name)

    # --- constants --------------------------------------------------------------------------

    def _fold(self, node: Node, proto: onnx.NodeProto) -> None:
        """A constant's numbers; where they are not computed, at most its shape."""
        outputs = [name for name in node.outputs if name]
        of = frozenset().union(*(self.parts.get(name, frozenset([name])) for name in node.inputs if name))
        self.parts |= dict.fromkeys(outputs, of)
        held = node.kind == "Constant" and {*node.attributes} <= {*_CONSTANTS}
        if not held and all(self._made(name) for name in node.inputs if name):
            self.made.update(outputs)
        try:
            made = self._held(node) if held else self._computed(node, proto, outputs)
        except Exception:  # whatever inference and the reference say of what they do not know, or of wrong arguments
            made = []
        if len(made) == len(outputs):
            self.constants.update(zip(outputs, made, strict=True))
        else:
            self.hidden.update(outputs)
        if node.kind in _SAME_NUMBERS and outputs:
            self.roots[outputs[0]] = self.roots.get(node.inputs[0], node.inputs[0])

    def _made(self, name: str) -> bool:
        array = self.constants.get(name)
        return name in self.made or (array is not None and (array.size == 1 or array.dtype in (np.int64, np.bool_)))

    def _held(self, node: Node) -> list[Tensor]:
        (key, value), = node.attributes.items()  # fmt: skip
        array = np.asarray(value, _CONSTANTS[key])
        self.left += _EACH * array.size
        return [array]

    def _computed(self, node: Node, proto: onnx.NodeProto, outputs: Sequence[str]) -> list[Tensor]:
        """Nothing where it is no arithmetic that exporters leave, or too much of it."""
        inferred = self._inferred(node, proto)
        self._learn(node, inferred)
        sizes = [_told(inferred.get(name), {}) for name in outputs]  # not as declared, which may be wrong
        given = {name: self.constants[name] for name in node.inputs if name in self.constants}
        words = any(array.dtype.kind in "OSU" for array in given.values())
        if node.kind not in _COMPUTED or words or self.hidden & set(node.inputs) or None in sizes:
            return []
        if any(map(is_unread, given.values())):
            first = given[node.inputs[0]]
            moved = node.kind in _SAME_NUMBERS and sizes[0] and is_unread(first)
            return [np.broadcast_to(np.zeros((), first.dtype), sizes[0] or ())] if moved else []
        each = given[node.inputs[0]].shape[-1] if node.kind == "MatMul" else 1
        work = sum(array.size for array in given.values()) + each * sum(prod(size or ()) for size in sizes)
        if work > self.left:
            return []
        self.left -= work
        with np.errstate(all="ignore"):
            return [np.asarray(each) for each in ReferenceEvaluator(self._model(node, proto, [])).run(outputs, given)]

    # --- shapes -----------------------------------------------------------------------------

    def _inferred(self, node: Node, proto: onnx.NodeProto) -> dict[str, onnx.ValueInfoProto]:
        try:
            inferred = shape_inference.infer_shapes(self._model(node, proto, self._small(node)))
        except Exception as error:
            what = f"operator {node.name} ({node.kind}) does not fit what it reads: {first_line(error)}"
            raise UnusableInput("model", what, "a model that runs") from error
        return {value.name: value for value in inferred.graph.output}

    def _learn(self, node: Node, inferred: Mapping[str, onnx.ValueInfoProto]) -> None:
        """The shapes that are inferred, else those that the file declares."""
        for name in filter(None, node.outputs):
            for value, named in ((inferred.get(name), {}), (self.declared.get(name), self.named)):
                if value is not None and (shape := _told(value, named)) is not None:
                    self.shapes[name], self.types[name] = shape, value.type.tensor_type.elem_type
                    break

    def _tell(self, node: Node, proto: onnx.NodeProto, inferred: Mapping[str, onnx.ValueInfoProto]) -> None:
        """Learn all of an operator's shapes."""
        self._fits(node, proto, inferred)
        self._learn(node, inferred)
        first, shape = node.outputs[0], self._shape(node.inputs[0])
        if node.kind in _AS_READ and first not in self.shapes and shape is not None:
            self.shapes[first], self.types[first] = shape, self._type(node.inputs[0])
        if untold := [name for name in node.outputs if name and name not in self.shapes]:
            what = f"reads {self._read(node)}, and the shape of what it gives, {untold[0]!r}, "
            what += "is not declared and cannot be inferred"
            fix = "where it runs, declare the shape as value_info, as onnxruntime.tools.symbolic_shape_infer does"
            raise UnusableInput(f"operator {node.name} ({node.kind})", what, "a shape for every tensor", fix)

    def _read(self, node: Node) -> str:
        shapes = {name: self._shape(name) for name in node.inputs if name}
        return ", ".join(f"{name} {'of any shape' if shape is None else shape}" for name, shape in shapes.items())

    def _fits(self, node: Node, proto: onnx.NodeProto, inferred: Mapping[str, onnx.ValueInfoProto]) -> None:
        """An error where nothing was inferred because sizes clash. Of operators on one map the file is believed."""
        sizes = {name: _told(inferred.get(name), {}) for name in node.outputs if name}
        open_ = [name for name, shape in sizes.items() if shape is None or 0 in shape]
        told = [_told(self.declared.get(name), self.named) for name in open_]
        if None not in told and node.kind not in _MEETING:
            return
        if open_ and (clash := self._clash(node, proto)):
            fix = "another --input-shape, such as the size that it was made for"
            what = f"reads {self._read(node)}, which do not fit together: {clash}"
            kind = ShapeError if node.kind in _MEETING else UnusableInput
            raise kind(f"operator {node.name} ({node.kind})", what, "sizes that fit", fix)

    def _clash(self, node: Node, proto: onnx.NodeProto) -> str:
        """Why the operator cannot run on these shapes, '' where that is not the reason."""
        shapes = [self._shape(name) for name in node.inputs if name]
        if node.kind == "Concat" and None not in shapes and len({len(shape or ()) for shape in shapes}) == 1:
            axis = node.attributes.get("axis", 0) % max(len(shapes[0] or ()), 1)
            rest = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes if shape is not None}
            return f"all axes but axis {axis} must be alike" if len(rest) > 1 else ""
        if larger := self._too_large(node):
            return larger
        try:
            shape_inference.infer_shapes(self._model(node, proto, self._small(node)), strict_mode=True, check_type=True)
        except Exception as error:  # of shapes, or of an operator that inference does not know
            said = first_line(error)
            return said.rpartition("[ShapeInferenceError] ")[2] if "[ShapeInferenceError]" in said else ""
        return ""

    def _too_large(self, node: Node) -> str:
        """That the window of a convolution or pool is larger than its map, which inference does not say."""
        read = self._shape(node.inputs[0]) or ()
        kernel = (self._shape(node.inputs[1]) or ())[2:] if node.kind == "Conv" else ()
        size = tuple(node.attributes.get("kernel_shape", kernel))
        same = str(node.attributes.get("auto_pad"))[:4] == "SAME"
        if node.kind not in _WINDOWS or len(size) != len(read) - 2 or same:
            return ""
        pads = node.attributes.get("pads", (0,) * (2 * len(size)))
        reach = [(k - 1) * d + 1 for k, d in zip(size, node.attributes.get("dilations", (1,) * len(size)), strict=True)]
        whole = [side + sum(pads[i :: len(size)]) for i, side in enumerate(read[2:])]
        if all(n <= side for n, side in zip(reach, whole, strict=True)):
            return ""
        return f"a window of {'x'.join(map(str, reach))} on a map of {'x'.join(map(str, whole))}, its padding included"

    def _small(self, node: Node) -> list[str]:
        names = [name for name in node.inputs if name in self.constants]
        return [name for name in names if self.constants[name].size <= SMALL]

    def _model(self, node: Node, proto: onnx.NodeProto, small: Sequence[str]) -> onnx.ModelProto:
        """One operator as a model."""
        inputs = [self._value(name) for name in dict.fromkeys(node.inputs) if name and name not in small]
        tensors = [numpy_helper.from_array(self.constants[name], name) for name in dict.fromkeys(small)]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.outputs if name]
        graph = helper.make_graph([proto], "one", inputs, outputs, tensors)
        since = 0 if proto.domain else _SINCE.get(node.kind, 0)
        own = max((each.version for each in self.imports if each.domain in ("", "ai.onnx")), default=1)
        imports = [helper.make_opsetid("", since)] if since > own else self.imports
        return helper.make_model(graph, opset_imports=imports, ir_version=max(self.version, _NO_LISTS))

    def _value(self, name: str) -> onnx.ValueInfoProto:
        kind = self._type(name)
        return helper.make_tensor_value_info(name, kind, self._shape(name)) if kind else onnx.ValueInfoProto(name=name)

    def _type(self, name: str) -> int:
        """0 where it is not known."""
        known = name in self.constants
        kind: int = helper.np_dtype_to_tensor_dtype(self.constants[name].dtype) if known else self.types.get(name, 0)
        return kind


def _told(value: onnx.ValueInfoProto | None, named: Mapping[str, int]) -> Shape | None:
    """A shape that is told in full, with what its free sides stand for."""
    if value is None or not value.type.tensor_type.HasField("shape"):
        return None
    sides = [dim.dim_value if dim.HasField("dim_value") else named.get(dim.dim_param, -1)
             for dim in value.type.tensor_type.shape.dim]  # fmt: skip
    return tuple(sides) if min(sides, default=0) >= 0 else None
