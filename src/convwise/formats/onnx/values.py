"""What every tensor of an ONNX graph is: a constant with its numbers, or of one shape.

Nothing in a file is run: constant arithmetic of the kinds that exporters leave is computed with
onnx.reference, one operator at a time and so much in all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from convwise.core.problems import ShapeError, UnusableInput
from convwise.core.text import times
from convwise.formats.onnx.external import SMALL, is_unread
from convwise.formats.onnx.nodes import Node, Shape, Tensor, array_of, node_of
from convwise.formats.onnx.operators import (
    AS_READ,
    COMPUTED,
    CONSTANTS,
    MEETING,
    SAME_NUMBERS,
    SINCE,
    WINDOWS,
    lacking,
    untold,
)
from convwise.formats.onnx.plain import EACH, first_line, opset_of
from convwise.formats.onnx.steps import in_order, taken, unfused

# Numbers that constant arithmetic may read and give, beyond EACH times those in the file
MOST_NUMBERS = 2**25
_NO_LISTS = 4  # the IR version from which on constants need not be listed as inputs


class Known:
    """What is known of every value, one operator after the other.

    constants, shapes (with the batch): by name; they grow. hidden, made, roots, parts, fix: as in
    Graph.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        constants: dict[str, Tensor],
        shapes: dict[str, Shape],
        image: onnx.ValueInfoProto,
    ) -> None:
        self.constants, self.shapes = constants, shapes
        self.hidden: set[str] = set()
        self.made: set[str] = set()
        self.roots: dict[str, str] = {}
        self.parts: dict[str, frozenset[str]] = {}
        self.left = MOST_NUMBERS + EACH * sum(array.size for array in constants.values())
        self.types: dict[str, int] = {image.name: image.type.tensor_type.elem_type}
        self.imports, self.version = list(model.opset_import), model.ir_version
        self.opset = opset_of(model)
        self.declared = {each.name: each for each in (*model.graph.value_info, *model.graph.output)}
        dims = list(zip(image.type.tensor_type.shape.dim, shapes[image.name], strict=True))
        free = any(dim.dim_value != size for dim, size in dims[1:])
        other = "another --input-shape, such as the size that it was made for"
        self.fix = other if free else "export it again"
        self.named = {dim.dim_param: size for dim, size in dims if dim.dim_param}

    def read(self, protos: Sequence[onnx.NodeProto]) -> Iterator[Node]:
        """The operators that are no constants; what stands for one, as the branch of an If does, in
        its place. UnusableInput, or ShapeError, where one does not fit.
        """
        left = in_order(protos)[::-1]
        while left:
            node = node_of(proto := left.pop())
            if missing := lacking(proto, self.opset):
                raise UnusableInput(node.where, f"lacks {missing}", "a whole model")
            branches = node.kind == "If" and node.inputs
            condition = self.constants.get(node.inputs[0]) if branches else None
            known = condition is not None and condition.size == 1
            steps = taken(proto, bool(condition)) if known else unfused(proto)
            if steps:
                held = {name: array_of(tensor) for name, tensor in steps.tensors.items()}
                self.constants |= held
                self.left += EACH * sum(array.size for array in held.values())
                self.declared |= steps.declared
                left += steps.nodes[::-1]
            elif self.add(node, proto):
                yield node

    def add(self, node: Node, proto: onnx.NodeProto) -> bool:
        """Learn what an operator gives; False where that is a constant."""
        reads = [name for name in node.inputs if name]
        if unknown := [name for name in reads if not self._knows(name)]:
            what = f"operator {node.name} reads {unknown[0]!r}, which nothing produces"
            raise UnusableInput("model", what, "a whole model")
        made = [name for name in node.outputs if name]
        if twice := [name for name in made if self._knows(name) or made.count(name) > 1]:
            what = f"operator {node.name} produces {twice[0]!r} a second time"
            raise UnusableInput("model", what, "a name for each tensor")
        if node.kind == "Shape" and (shape := self._shape(reads[0])) is not None:
            start, end = node.attributes.get("start", 0), node.attributes.get("end")
            self.constants[node.outputs[0]] = np.array(shape[start:end], np.int64)
            self.made.add(node.outputs[0])
        elif all(name in self.constants or name in self.hidden for name in reads):
            self._fold(node, proto)
        else:
            self._tell(node, proto, self._inferred(node, proto))
            if node.kind != "Slice" or 0 not in (shape := self.shapes[node.outputs[0]]):
                return True
            # Nothing of the image is left where a slice is empty
            self.constants[node.outputs[0]] = np.zeros(shape, np.float32)
        return False

    def _knows(self, name: str) -> bool:
        return name in self.constants or name in self.shapes or name in self.hidden

    def _shape(self, name: str) -> Shape | None:
        return self.constants[name].shape if name in self.constants else self.shapes.get(name)

    # --- constants --------------------------------------------------------------------------

    def _fold(self, node: Node, proto: onnx.NodeProto) -> None:
        """A constant's numbers; where they are not computed, at most its shape."""
        reads, outputs = [[*filter(None, names)] for names in (node.inputs, node.outputs)]
        of = frozenset[str]().union(*(self.parts.get(name, {name}) for name in reads))
        self.parts |= dict.fromkeys(outputs, of)
        held = node.kind == "Constant" and {*node.attributes} <= {*CONSTANTS}
        if not held and all(map(self._made, reads)):
            self.made.update(outputs)
        try:
            made = self._held(node) if held else self._computed(node, proto, outputs)
        except Exception:  # what is not known, or wrong arguments, by inference or the reference
            made = []
        if len(made) == len(outputs):
            self.constants.update(zip(outputs, made, strict=True))
        else:
            self.hidden.update(outputs)
        if node.kind in SAME_NUMBERS and outputs:
            self.roots[outputs[0]] = self.roots.get(node.inputs[0], node.inputs[0])

    def _made(self, name: str) -> bool:
        array = self.constants.get(name)
        return name in self.made or (
            array is not None and (array.size == 1 or array.dtype in (np.int64, np.bool_))
        )

    def _held(self, node: Node) -> list[Tensor]:
        (key, value), = node.attributes.items()  # fmt: skip
        array = np.asarray(value, CONSTANTS[key])
        self.left += EACH * array.size
        return [array]

    def _computed(self, node: Node, proto: onnx.NodeProto, outputs: Sequence[str]) -> list[Tensor]:
        """Nothing where it is no arithmetic that exporters leave, or too much of it."""
        inferred = self._inferred(node, proto)
        self._learn(node, inferred)
        # As inferred: what the file declares may be wrong
        sizes = [_told(inferred.get(name), {}) for name in outputs]
        given = {name: self.constants[name] for name in node.inputs if name in self.constants}
        words = any(array.dtype.kind in "OSU" for array in given.values())
        if node.kind not in COMPUTED or words or self.hidden & set(node.inputs) or None in sizes:
            return []
        if any(map(is_unread, given.values())):
            first = given[node.inputs[0]]
            moved = node.kind in SAME_NUMBERS and sizes[0] and is_unread(first)
            return [np.broadcast_to(np.zeros((), first.dtype), sizes[0] or ())] if moved else []
        each = given[node.inputs[0]].shape[-1] if node.kind == "MatMul" else 1
        work = sum(array.size for array in given.values())
        work += each * sum(prod(size or ()) for size in sizes)
        if work > self.left:
            return []
        self.left -= work
        with np.errstate(all="ignore"):
            made = ReferenceEvaluator(self._model(node, proto, [])).run(outputs, given)
        return [np.asarray(each) for each in made]

    # --- shapes -----------------------------------------------------------------------------

    def _inferred(self, node: Node, proto: onnx.NodeProto) -> dict[str, onnx.ValueInfoProto]:
        try:
            inferred = shape_inference.infer_shapes(self._model(node, proto, self._small(node)))
        except Exception as error:
            what = f"{node.where} does not fit what it reads: {first_line(error)}"
            raise UnusableInput("model", what, "a model that runs") from error
        return {value.name: value for value in inferred.graph.output}

    def _learn(self, node: Node, inferred: Mapping[str, onnx.ValueInfoProto]) -> None:
        """The shapes that are inferred, else those that the file declares."""
        for name in filter(None, node.outputs):
            for value, named in ((inferred.get(name), {}), (self.declared.get(name), self.named)):
                if value is not None and (shape := _told(value, named)) is not None:
                    self.shapes[name], self.types[name] = shape, value.type.tensor_type.elem_type
                    break

    def _tell(
        self, node: Node, proto: onnx.NodeProto, inferred: Mapping[str, onnx.ValueInfoProto]
    ) -> None:
        """Learn all of an operator's shapes."""
        self._fits(node, proto, inferred)
        self._learn(node, inferred)
        first, shape = node.outputs[0], self._shape(node.inputs[0])
        if node.kind in AS_READ and first not in self.shapes and shape is not None:
            self.shapes[first], self.types[first] = shape, self._type(node.inputs[0])
        for name in node.outputs:
            if name and name not in self.shapes:
                raise untold(node.where, self._read(node), name, inferred.get(name))
        if node.kind == "Reshape" and shape is not None and prod(shape) != prod(self.shapes[first]):
            what = f"reads {self._read(node)}, and gives {self.shapes[first]}"
            what += ", which are not as many numbers"
            raise ShapeError(node.where, what, "the same numbers in another shape", self.fix)

    def _read(self, node: Node) -> str:
        shapes = {name: self._shape(name) for name in node.inputs if name}
        told = {name: "of any shape" if shape is None else shape for name, shape in shapes.items()}
        return ", ".join(f"{name} {shape}" for name, shape in told.items())

    def _fits(
        self, node: Node, proto: onnx.NodeProto, inferred: Mapping[str, onnx.ValueInfoProto]
    ) -> None:
        """Raises where sizes clash, so that none are inferred; of one map, the file is believed."""
        sizes = {name: _told(inferred.get(name), {}) for name in node.outputs if name}
        open_ = [name for name, shape in sizes.items() if shape is None or 0 in shape]
        told = [_told(self.declared.get(name), self.named) for name in open_]
        if None not in told and node.kind not in MEETING:
            return
        if open_ and (clash := self._clash(node, proto)):
            what = f"reads {self._read(node)}, which do not fit together: {clash}"
            kind = ShapeError if node.kind in MEETING else UnusableInput
            raise kind(node.where, what, "sizes that fit", self.fix)

    def _clash(self, node: Node, proto: onnx.NodeProto) -> str:
        """Why the operator cannot run on these shapes, '' where that is not the reason."""
        shapes = [self._shape(name) for name in node.inputs if name]
        known = [shape for shape in shapes if shape is not None]
        if node.kind == "Concat" and known == shapes and len({*map(len, known)}) == 1:
            axis = node.attributes.get("axis", 0) % max(len(known[0]), 1)
            rest = {(*shape[:axis], *shape[axis + 1 :]) for shape in known}
            return f"all axes but axis {axis} must be alike" if len(rest) > 1 else ""
        if larger := self._too_large(node):
            return larger
        try:
            model = self._model(node, proto, self._small(node))
            shape_inference.infer_shapes(model, strict_mode=True, check_type=True)
        except Exception as error:  # of shapes, or of an operator that inference does not know
            said = first_line(error)
            of_shapes = "[ShapeInferenceError]" in said
            return said.rpartition("[ShapeInferenceError] ")[2] if of_shapes else ""
        return ""

    def _too_large(self, node: Node) -> str:
        """That a convolution's or pool's window exceeds its map, which inference does not say."""
        read = self._shape(node.inputs[0]) or ()
        kernel = (self._shape(node.inputs[1]) or ())[2:] if node.kind == "Conv" else ()
        size = tuple(node.attributes.get("kernel_shape", kernel))
        same = str(node.attributes.get("auto_pad"))[:4] == "SAME"
        if node.kind not in WINDOWS or len(size) != len(read) - 2 or same:
            return ""
        pads = node.attributes.get("pads", (0,) * (2 * len(size)))
        dilation = node.attributes.get("dilations", (1,) * len(size))
        reach = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
        whole = [side + sum(pads[i :: len(size)]) for i, side in enumerate(read[2:])]
        if all(n <= side for n, side in zip(reach, whole, strict=True)):
            return ""
        return f"a window of {times(reach)} on a map of {times(whole)}, its padding included"

    def _small(self, node: Node) -> list[str]:
        names = [name for name in node.inputs if name in self.constants]
        return [name for name in names if self.constants[name].size <= SMALL]

    def _model(self, node: Node, proto: onnx.NodeProto, small: Sequence[str]) -> onnx.ModelProto:
        """One operator as a model."""
        reads = [name for name in dict.fromkeys(node.inputs) if name and name not in small]
        inputs, held = [self._value(name) for name in reads], dict.fromkeys(small)
        tensors = [numpy_helper.from_array(self.constants[name], name) for name in held]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.outputs if name]
        graph = helper.make_graph([proto], "one", inputs, outputs, tensors)
        since = 0 if proto.domain else SINCE.get(node.kind, 0)
        imports = [helper.make_opsetid("", since)] if since > self.opset else self.imports
        version = max(self.version, _NO_LISTS)
        return helper.make_model(graph, opset_imports=imports, ir_version=version)

    def _value(self, name: str) -> onnx.ValueInfoProto:
        if kind := self._type(name):
            return helper.make_tensor_value_info(name, kind, self._shape(name))
        return onnx.ValueInfoProto(name=name)

    def _type(self, name: str) -> int:
        """0 where it is not known."""
        constant = self.constants.get(name)
        if constant is None:
            return self.types.get(name, 0)
        return int(helper.np_dtype_to_tensor_dtype(constant.dtype))


def _told(value: onnx.ValueInfoProto | None, named: Mapping[str, int]) -> Shape | None:
    """A shape that is told in full, with what its free sides stand for."""
    if value is None or not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    sides = [d.dim_value if d.HasField("dim_value") else named.get(d.dim_param, -1) for d in dims]
    return tuple(sides) if min(sides, default=0) >= 0 else None
