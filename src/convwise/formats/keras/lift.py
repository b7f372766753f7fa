"""Reading Keras 3 models: any Sequential or Functional one, live or as a .keras archive."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
from keras.src.models.functional import Functional

from convwise.core.geometry import layer_weights, params_of
from convwise.core.layers import LayerScale
from convwise.core.net import MIRROR
from convwise.core.problems import ConvwiseError, ShapeError, UnusableInput
from convwise.core.text import times
from convwise.core.windows import Shape
from convwise.formats.keras.archive import check_size, inspected
from convwise.formats.keras.costs import Resolved, cost, resolved, sides_of
from convwise.formats.keras.rules import pieces_of
from convwise.formats.keras.use import UNREADABLE, Piece, Unreadable, Use
from convwise.formats.lifted import Draft, Lifted
from convwise.formats.weights import Array

Size = tuple[int, int, int]
_IMAGE = 0  # the value that the draft starts from
# What Keras's messages begin with before the line that tells the reason
_AROUND = ("Exception encountered when calling", "A total of ")


def read(path: Path, input_shape: Size | None = None) -> Lifted:
    """A .keras archive as a Net with its weights; class names where `convwise choose` wrote it.

    Nothing in the archive is executed: Lambda layers and classes from elsewhere than Keras are
    refused before it is loaded, in Keras's safe mode. UnusableInput where it cannot be read.
    """
    archive = inspected(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_size(path, archive)
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except ConvwiseError:
        raise
    except Exception as error:  # whatever Keras says of a file that it cannot load
        what = f"cannot be loaded: {_reason(error)}"
        raise UnusableInput(path.name, what, "a .keras archive that Keras 3 wrote") from error
    try:
        return lift(model, input_shape, archive.classes)
    except (ConvwiseError, MemoryError):
        raise
    except Exception as error:  # a file may hold any value that Keras does not look at
        what = f"cannot be followed: {_reason(error)}"
        raise UnusableInput(path.name, what, "a network of Keras's layers") from error


def _reason(error: Exception) -> str:
    """The first line of what went wrong innermost.

    Keras wraps it in one message per model and layer around it.
    """
    innermost = re.sub(r"\x1b\[\d*m", "", str(error).rpartition("Exception encountered: ")[2])
    lines = [line.strip() for line in innermost.splitlines() if line.strip()]
    lines = lines or [type(error).__name__]
    return next((line for line in lines if not line.startswith(_AROUND)), lines[0])[:200]


def lift(
    model: keras.Model, input_shape: Size | None = None, classes: Sequence[str] = ()
) -> Lifted:
    """A Sequential or Functional model as a Net with its weights, in Keras's names and order.

    input_shape: (height, width, channels) where the model leaves its size open. What our layers
    cannot say becomes Opaque. The weights may be views of the model's own memory.
    UnusableInput where the model is not one path from one image to one answer.
    """
    graph = _graph(model, input_shape)
    shape = _input_shape(graph, input_shape)
    free = None in graph.inputs[0].shape[1:]
    fix = "another --input-shape, for example one that every stride divides" if free else ""
    reader = _Reader(Draft(shape, _IMAGE), shape, frozenset(map(id, model.trainable_weights)), fix)
    answers = reader.walk(graph, [_IMAGE])
    if not reader.draft.layers or {*answers} == {_IMAGE}:
        raise UnusableInput("model", "holds no layer that changes the image", "a network")
    return reader.draft.lifted(classes, answers)


def _graph(model: Any, input_shape: Size | None) -> Functional:
    """The model as a graph of layers. UnusableInput where it is none."""
    graph: Functional | None = None
    if isinstance(model, keras.Sequential):
        if not model.layers:
            raise UnusableInput("model", "holds no layer", "a network")
        if not model.built and input_shape:
            model.build((None, *input_shape))
        if not model.built:
            fix = "--input-shape 224x224x3, or the size you use"
            raise UnusableInput("model", "has no input size", "a size", fix)
        graph = model._functional
    elif isinstance(model, Functional) and type(model).call is Functional.call:
        graph = model
    if graph is None:
        what = f"is {type(model).__name__}, whose call is code"
        fix = "in your own code call model.export('model.onnx', format='onnx'), and give that file"
        raise UnusableInput("model", what, "a Sequential or Functional model of Keras 3", fix)
    if len(graph.inputs) != 1:
        names = ", ".join(each.name for each in graph.inputs)
        what = f"has {len(graph.inputs)} inputs ({names})"
        others = "a model that makes the other inputs from it"
        fix = f"give the part of it that reads one image, or {others}"
        raise UnusableInput("model", what, "one image in", fix)
    return graph


def _is_mirror(op: Any) -> bool:
    """Whether left and right of a map change places in an operation, and nothing else does."""
    axis = getattr(op, "axis", None)
    axes = axis if isinstance(axis, (list, tuple)) else (axis,)
    return isinstance(op, keras.src.ops.numpy.Flip) and [*axes] in ([2], [-2])


def _input_shape(graph: Functional, given: Size | None) -> Size:
    declared = tuple(graph.inputs[0].shape[1:])
    if len(declared) != 3:
        fix = "give a network of 2D convolutions; networks for sequences and volumes are not read"
        expected = "an image: (height, width, channels)"
        raise UnusableInput("model", f"reads {declared}", expected, fix)
    if given is None and None in declared:
        usual = times(n or each for n, each in zip(declared, (224, 224, 3), strict=True))
        fix = f"--input-shape {usual}, or the size you use"
        raise UnusableInput("model", f"has a free input size {declared}", "a size", fix)
    shape: Size = given or declared
    both = list(zip(declared, shape, strict=False))
    if len(shape) != 3 or any(there not in (None, here) for there, here in both):
        fix = f"--input-shape {times(there or here for there, here in both)}"
        raise UnusableInput("input shape", f"is {shape}", f"the model's own: {declared}", fix)
    return shape


class _Reader:
    """Walks a graph and fills a draft. Values are numbers: the image is 0, others as they are made.

    fix: what to do where sizes do not fit.
    """

    def __init__(self, draft: Draft, shape: Shape, learning: frozenset[int], fix: str) -> None:
        self.draft, self.fix = draft, fix
        self.learning = learning  # the variables that the model trains, by identity
        self.shapes: dict[int, Shape] = {_IMAGE: shape}
        # Per Keras layer with weights: its name where it was first used
        self.first: dict[int, str] = {}

    def walk(self, graph: Functional, images: Sequence[int]) -> list[int]:
        """The values of the graph's outputs, from those of its inputs."""
        values = {id(tensor): value for tensor, value in zip(graph._inputs, images, strict=True)}
        # The uses of layers and operations, in the order in which Keras runs them
        for depth in sorted(graph._nodes_by_depth, reverse=True):
            for node in graph._nodes_by_depth[depth]:
                if not node.is_input:
                    made = self._node(node, values)
                    values.update(zip(map(id, node.outputs), made, strict=True))
        return [values[id(tensor)] for tensor in graph._outputs]

    def _node(self, node: Any, values: Mapping[int, int]) -> list[int]:
        reads = [values[id(tensor)] for tensor in node.input_tensors]
        inner = getattr(node.operation, "_functional", node.operation)
        if isinstance(inner, Functional) and type(inner).call is Functional.call:
            return self.walk(inner, reads)
        where = f"layer {node.operation.name}"
        if getattr(node.operation, "data_format", None) == "channels_first":
            fix = "build the model with image_data_format 'channels_last'"
            raise UnusableInput(where, "reads channels first", "channels last", fix)
        try:
            return [self._pieces(node, reads)]
        except ShapeError as error:
            problem = error.problem
            raise ShapeError(where, problem.what, problem.expected, self.fix) from error
        except UNREADABLE:
            return self._opaque(node, reads, values)

    def _pieces(self, node: Any, reads: Sequence[int]) -> int:
        """The node in our layers. Unreadable where they would not be what Keras makes of it."""
        shapes = [self.shapes[value] for value in reads]
        given = Use(node.operation, shapes, node.arguments.args)
        pieces = resolved(pieces_of(given), shapes)
        _check(node, pieces, shapes)
        learning = (piece for piece, seen, _ in pieces if layer_weights(piece.layer, seen[0]))
        main = next(learning, pieces and pieces[-1][0])
        value = reads[0]
        for piece, _, output in pieces:
            read = [reads[n] if n >= 0 else value for n in piece.reads]
            value = self._add(node.operation, piece, read, piece is main)
            self.shapes[value] = output
        return value

    def _add(self, op: Any, piece: Piece, reads: Sequence[int], main: bool) -> int:
        """One layer more; the main piece of a Keras layer has its name."""
        value = len(self.shapes)
        given = self.shapes[reads[0]]
        learnt, weights = layer_weights(piece.layer, given), _weights(op, piece, given)
        shares = self.first.get(id(op), "") if learnt else ""
        name = op.name if main else f"{op.name}_{piece.layer.op.lower()}"
        layer = replace(piece.layer, shares=shares)
        added = self.draft.add(value, layer, name, reads, {} if shares else weights)
        if learnt:
            self.first.setdefault(id(op), added)
            trains = self._trainable(op)
            if not shares and trains != params_of(piece.layer, given)[1]:
                self.draft.trainable[added] = trains
        return value

    def _trainable(self, op: Any) -> int:
        weights = getattr(op, "weights", ())
        return sum(prod(each.shape) for each in weights if id(each) in self.learning)

    def _opaque(self, node: Any, reads: Sequence[int], values: Mapping[int, int]) -> list[int]:
        """The node as Opaque layers, one per output; the first has its params, in its first use."""
        op, made = node.operation, list[int]()
        outputs = list(self._output_shapes(node, values))
        known = cost(op, [self.shapes[value] for value in reads], outputs, node.arguments.args)
        for i, shape in enumerate(outputs):
            if 0 in shape:
                what = f"gives a tensor of {shape}: no numbers"
                raise ShapeError(f"layer {op.name}", what, "sides of at least 1", self.fix)
            params = 0 if i or id(op) in self.first else _params(op)
            value = len(self.shapes)
            operator = MIRROR if reads == [_IMAGE] and _is_mirror(op) else type(op).__name__
            added = self.draft.opaque(value, operator, shape, op.name, reads, params, **known)
            # The work is that of the first output
            known = {**known, "macs": 0, "elementwise": 0} if known else {}
            self.first.setdefault(id(op), added)
            if params > 0:
                self.draft.trainable[added] = self._trainable(op)
            self.shapes[value] = shape
            made.append(value)
        return made

    def _output_shapes(self, node: Any, values: Mapping[int, int]) -> Iterator[Shape]:
        outputs = node.outputs
        if any(None in tensor.shape[1:] for tensor in outputs):
            known = {
                id(t): keras.KerasTensor((2, *self.shapes[values[id(t)]]), t.dtype)
                for t in node.input_tensors
            }
            args, kwargs = node.arguments.fill_in(known)
            try:
                outputs = keras.tree.flatten(node.operation.compute_output_spec(*args, **kwargs))
            except Exception as error:  # whatever Keras says of sizes that do not fit
                shapes = " and ".join(str(tuple(tensor.shape[1:])) for tensor in known.values())
                what = f"reads {shapes}, which does not fit: {_reason(error)}"
                where = f"layer {node.operation.name}"
                raise ShapeError(where, what, "sizes that fit", self.fix) from error
        if isinstance(node.operation, keras.layers.EinsumDense) and None in outputs[0].shape[1:]:
            sides = sides_of(node.operation, self.shapes[values[id(node.input_tensors[0])]])
            _, _, output = node.operation.equation.partition("->")
            yield tuple(sides[letter] for letter in output[1:])
            return
        for tensor in outputs:
            yield tuple(tensor.shape[1:])


def _check(node: Any, rows: Sequence[Resolved], shapes: Sequence[Shape]) -> None:
    """Unreadable where Keras has another shape or other stored numbers."""
    ours = rows[-1][2] if rows else shapes[0]
    theirs = tuple(node.outputs[0].shape[1:])
    fits = len(ours) == len(theirs)
    fits = fits and all(b in (None, a) for a, b in zip(ours, theirs, strict=True))
    params = sum(params_of(piece.layer, seen[0])[0] for piece, seen, _ in rows)
    if len(node.outputs) != 1 or not fits or params != max(_params(node.operation), 0):
        raise Unreadable


def _params(op: Any) -> int:
    if not isinstance(op, keras.layers.Layer):
        return 0
    return int(op.count_params()) if op.built else -1


def _weights(op: Any, piece: Piece, given: Shape) -> dict[str, Array]:
    """The operation's weights, by our keys; none where Keras has not made them yet."""
    einsum = isinstance(piece.layer, LayerScale) and hasattr(op, "kernel")
    own = {"gamma": "kernel"} if einsum else {}
    found = {key: getattr(op, own.get(key, key)) for key in layer_weights(piece.layer, given)}
    if any(getattr(variable, "_value", 0) is None for variable in found.values()):
        return {}
    return {key: _array(variable) for key, variable in found.items()}


def _array(variable: Any) -> Array:
    """A variable's numbers, without a copy where its backend allows it."""
    tensor = keras.ops.convert_to_tensor(variable)
    if keras.backend.backend() == "torch":
        return cast(Array, tensor.detach().cpu().float().numpy())
    return cast(Array, np.asarray(tensor))
