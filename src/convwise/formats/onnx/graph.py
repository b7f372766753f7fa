"""An ONNX file as a graph whose every value is known: a constant, or a tensor of one shape.

Operator libraries are refused. values.py learns the values; weights in files beside the model are
read by external.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from convwise.core.problems import ConvwiseError, UnusableInput
from convwise.core.text import times
from convwise.formats.onnx.external import fill
from convwise.formats.onnx.learnt import Told, told_by
from convwise.formats.onnx.nodes import Node, Shape, Tensor, array_of, node_of
from convwise.formats.onnx.plain import opset_of, plain
from convwise.formats.onnx.steps import outer
from convwise.formats.onnx.values import Known

USUAL = (224, 224, 3)  # a size that is proposed where a file leaves it open
MOST_BYTES = 2**31  # of a file; what a protobuf can hold
# Which of our axes (0 the batch) the axes of a 4D tensor are
FIRST, LAST = (0, 3, 1, 2), (0, 1, 2, 3)
# Operators that pass the image on before its channels are moved.
_PASSING = ("Identity", "Cast", "Add", "Sub", "Mul", "Div")


@dataclass(frozen=True)
class Graph:
    """The operators that read `image`, in order, with the shapes (with the batch) of all tensors.

    outputs: what the model answers, the first first. order: which of our axes the axes of the image
    are. hidden: constants whose numbers are not known. made: constants that come from shapes and
    single numbers alone, as masks do. roots: for a constant that is another, turned or of another
    type, which one the file holds; parts: for one that is worked out, all of which it is made.
    told: which initializers the file says are learnt. fix: what to do where sizes do not fit.
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
    fix: str

    @property
    def batch(self) -> int:
        """The size of the batch that the shapes are for."""
        return self.shapes[self.image][0]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = (
            self.shapes[self.image][self.order.index(axis)] for axis in (1, 2, 3)
        )
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
        raise UnusableInput(where, "is not a file", "an ONNX model")
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
    """The graph for images of (height, width, channels). UnusableInput where there is none."""
    told, model = told_by(model), plain(model)
    proto = model.graph
    constants: dict[str, Tensor] = {}
    for tensor in proto.initializer:
        array = array_of(tensor)
        if constants.setdefault(tensor.name, array).shape != array.shape:
            what = "is there twice, in two shapes"
            raise UnusableInput(f"weight {tensor.name}", what, "a name for each tensor")
    image = _image(proto, constants)
    nodes = [node_of(each) for each in proto.node]
    order = _order(image.name, nodes)
    known = Known(model, constants, {image.name: _size(image, order, input_shape)}, image)
    kept = list(known.read(proto.node))
    outputs = [each.name for each in proto.output]
    seen = [
        name
        for name in outputs
        if name in known.shapes and name not in constants and name not in known.hidden
    ]
    if not seen:
        what = f"gives {outputs[0]!r}, which does not come from its image"
        raise UnusableInput("model", what, "one that reads images")
    hidden, made = frozenset(known.hidden), frozenset(known.made)
    return Graph(image.name, tuple(seen), order, opset_of(model), tuple(kept), constants,
                 known.shapes, hidden, made, known.roots, known.parts, told,
                 known.fix)  # fmt: skip


# --- the file -------------------------------------------------------------------------------


def _image(proto: onnx.GraphProto, constants: Mapping[str, Tensor]) -> onnx.ValueInfoProto:
    read = {name for node in proto.node for name in (*node.input, *outer(node))}
    given = [value for value in proto.input if value.name not in constants]
    found = [value for value in given if value.name in read] or given
    if len(found) != 1 or len(found[0].type.tensor_type.shape.dim) != 4:
        shaped = [v for v in found if v.type.tensor_type.HasField("shape")]
        lists = {v.name for v in found if v.type.WhichOneof("value") not in (None, "tensor_type")}
        told = {v.name: f"of {len(v.type.tensor_type.shape.dim)} axes" for v in shaped}
        told |= dict.fromkeys(lists, "(not a tensor)")
        unknown = "of an unknown number of axes"
        named = ", ".join(f"{v.name} {told.get(v.name, unknown)}" for v in found) or "none"
        fix = "give a network of 2D convolutions; networks for sequences and volumes are not read"
        if len(found) > 1 or lists:
            fix = "give the part of it that reads one image"
            fix += ", which onnx.utils.extract_model cuts out"
        elif not shaped:
            fix = "declare the shape of its input, as onnx.tools.update_model_dims does"
        expected = "one: images (n, channels, height, width)"
        raise UnusableInput("model", f"has the inputs {named}", expected, fix)
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
    told = times(n or "?" for n in own)
    usual = times(n or each for n, each in zip(own, USUAL, strict=True))
    if not given and not all(own):
        fix = f"--input-shape {usual}, or the size you use"
        raise UnusableInput("model", f"has a free input size, {told}", "a size", fix)
    if given and any(n and n != wanted for n, wanted in zip(own, given, strict=True)):
        fix = f"--input-shape {usual}"
        raise UnusableInput("model", f"takes images of {told}, not of {times(given)}", told, fix)
    sides = [n or wanted for n, wanted in zip(own, given or own, strict=True)]
    return tuple([dims[0] or 1, *sides][axis] for axis in order)
