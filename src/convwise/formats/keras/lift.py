"""Reading Keras 3 models: any Sequential or Functional one, live or as a .keras archive."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
from keras.src.backend.common import global_state
from keras.src.models.functional import Functional

from convwise.core.geometry import GEOMETRY, layer_weights, params_of
from convwise.core.layers import LayerScale, Opaque
from convwise.core.net import MIRROR
from convwise.core.problems import ConvwiseError, ShapeError, UnusableInput
from convwise.core.windows import Shape
from convwise.formats.json import MOST_BYTES
from convwise.formats.keras import MEMBER
from convwise.formats.keras.costs import cost, sides_of
from convwise.formats.keras.rules import Piece, Unreadable, Use, pieces_of
from convwise.formats.lifted import Draft, Lifted
from convwise.formats.weights import Array

Size = tuple[int, int, int]
_IMAGE = 0  # the value that the draft starts from
_MOST_JSON = MOST_BYTES  # of a text in an archive: NASNetLarge has 1 MB
_MOST_MEMBERS = 1000
_MOST_UNPACKED = 1 << 30  # bytes of an archive's contents, unless it is that large itself: weights hardly shrink
_MOST_TIMES = 50
_CODE = {"Lambda": "a Lambda layer", "__lambda__": "a lambda function", "TorchModuleWrapper": "a PyTorch module"}
_FUNCTIONS = (keras.activations, keras.constraints, keras.initializers, keras.losses, keras.metrics, keras.optimizers,
              keras.regularizers)  # where Keras looks a function up  # fmt: skip
_SIZE = "another --input-shape, for example one that every stride divides"
_TEXTS = ("config.json", "metadata.json", MEMBER)  # the members that hold no weights


def read(path: Path, input_shape: Size | None = None) -> Lifted:
    """A .keras archive as a Net with its weights; class names where `convwise choose` wrote it.

    Nothing in the archive is executed: Lambda layers and classes from elsewhere than Keras are
    refused before it is loaded, in Keras's safe mode. UnusableInput where it cannot be read.
    """
    archive = _inspected(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check_size(path, archive)
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except ConvwiseError:
        raise
    except Exception as error:  # whatever Keras says of a file that it cannot load
        what = f"cannot be loaded: {_reason(error)}"
        raise UnusableInput(path.name, what, "a .keras archive that Keras 3 wrote") from error
    return lift(model, input_shape, archive.classes)


def _reason(error: Exception) -> str:
    """The first line of what went wrong innermost: Keras wraps it in one message per model and layer around it."""
    innermost = str(error).rpartition("Exception encountered: ")[2].strip()
    return (innermost or type(error).__name__).splitlines()[0][:200]


@dataclass(frozen=True)
class _Archive:
    """What a .keras archive says before it is loaded: its configuration, bytes of weights, class names if any."""

    config: Any
    weight_bytes: int
    classes: tuple[str, ...]


def _check_size(path: Path, archive: _Archive) -> None:
    """UnusableInput where the model asks for more weights than the archive can hold; it is built without memory."""
    try:
        with keras.StatelessScope(initialize_variables=False):
            model = keras.saving.deserialize_keras_object(archive.config, safe_mode=True)
    finally:
        global_state.set_global_attribute("uninitialized_variables", [])  # else the next scope would make them
    if model.count_params() > archive.weight_bytes:
        what = f"asks for {model.count_params():,} weights, but holds {archive.weight_bytes:,} bytes"
        raise UnusableInput(path.name, what, "at least a byte for each weight")


def _inspected(path: Path) -> _Archive:
    """An archive that is safe to load: no code in it, and no more than its size lets expect."""
    wanted = "a .keras archive that Keras 3 wrote"
    if not path.is_file() or path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise UnusableInput(path.name, "is not a .keras archive", wanted)
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive.infolist())
            config = _json(archive, "config.json")
            if isinstance(config, dict):
                config.pop("compile_config", None)  # how it was trained, perhaps with a loss of one's own: not loaded
            _check_config(path, config)
            weight_bytes = sum(each.file_size for each in archive.infolist() if each.filename not in _TEXTS)
            about = _json(archive, MEMBER) if MEMBER in archive.namelist() else {}
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError, NotImplementedError, OSError) as error:
        raise UnusableInput(path.name, f"is damaged: {error}", wanted) from error
    names = about.get("classes", []) if isinstance(about, dict) else []
    classes = tuple(str(name) for name in names) if isinstance(names, list) else ()
    return _Archive(config, weight_bytes, classes)


def _check_members(path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    if len(members) > _MOST_MEMBERS:
        raise UnusableInput(path.name, f"holds {len(members):,} members", f"at most {_MOST_MEMBERS:,}")
    seen: set[str] = set()
    for name in (member.filename for member in members):
        if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/") or name in seen:
            raise UnusableInput(path.name, f"holds a member {name!r}", "each member once, at a plain path")
        seen.add(name)
    whole = sum(member.file_size for member in members)
    if whole > max(_MOST_UNPACKED, _MOST_TIMES * path.stat().st_size):
        raise UnusableInput(path.name, f"unpacks to {whole} bytes", f"at most {_MOST_TIMES} times its size")


def _json(archive: zipfile.ZipFile, name: str) -> Any:
    with archive.open(name) as member:
        text = member.read(_MOST_JSON + 1)
    if len(text) > _MOST_JSON:
        raise UnusableInput(str(archive.filename), f"has a {name} of more than {_MOST_JSON} bytes", "a network's")
    return json.loads(text)


def _check_config(path: Path, config: Any) -> None:
    """UnusableInput where a model's configuration asks for code. How pieces of it were trained is taken out."""
    left = [config]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            if "class_name" in each:
                _check_class(path, str(each["class_name"]), each)
            left += each.values()
            each.pop("compile_config", None)  # its optimizers would make variables while the model is counted
        elif isinstance(each, list):
            left += each


def _check_class(path: Path, kind: str, config: Mapping[str, Any]) -> None:
    inside = config.get("config")
    if kind in _CODE:
        name = inside.get("name", kind) if isinstance(inside, dict) else kind
        what = f"holds {_CODE[kind]}, {name!r}, which is code: it was not run"
        raise UnusableInput(path.name, what, "layers without code", "replace it with Keras layers, or export as ONNX")
    if found := _foreign(kind, config):
        what = f"holds {found}, which is code: it was not imported"
        raise UnusableInput(path.name, what, "layers of Keras", "load it in your own code and give package.module:name")


def _foreign(kind: str, config: Mapping[str, Any]) -> str:
    """A class or function that is not Keras's, with where it is from; '' where it is Keras's.

    Keras writes null for the module __main__, and functions as of the module builtins, whoever made them.
    """
    module, inside = config.get("module", "keras"), config.get("config")
    package, registered, _ = str(config.get("registered_name")).partition(">")
    if module is None or str(module).partition(".")[0] not in ("keras", "builtins"):
        return f"{kind} of the module {module or '__main__'}"
    if registered:
        return f"{kind} of the package {package}"
    known = any(hasattr(place, str(inside)) for place in _FUNCTIONS)
    return "" if kind != "function" or module != "builtins" or known else f"the function {inside}"


def lift(model: keras.Model, input_shape: Size | None = None, classes: Sequence[str] = ()) -> Lifted:
    """A Sequential or Functional model as a Net with its weights; layers keep Keras's names and order.

    input_shape: (height, width, channels) where the model leaves its size open. What our layers
    cannot say becomes Opaque. The weights may be views of the model's own memory.
    UnusableInput where the model is not one path from one image to one answer.
    """
    graph = _graph(model, input_shape)
    shape = _input_shape(graph, input_shape)
    reader = _Reader(Draft(shape, _IMAGE), shape, frozenset(map(id, model.trainable_weights)))
    answers = reader.walk(graph, [_IMAGE])
    if not reader.draft.layers or {*answers} == {_IMAGE}:
        raise UnusableInput("model", "holds no layer that changes the image", "a network")
    return reader.draft.lifted(classes, answers)


def _graph(model: Any, input_shape: Size | None) -> Functional:
    """The model as a graph of layers. UnusableInput where it is none."""
    if isinstance(model, keras.Sequential):
        if not model.built and input_shape:
            model.build((None, *input_shape))
        if not model.built:
            raise UnusableInput("model", "has no input size", "a size", "--input-shape 224x224x3, or the size you use")
        graph = model._functional
    else:
        graph = model if isinstance(model, Functional) and type(model).call is Functional.call else None
    if graph is None:
        what = f"is {type(model).__name__}, whose call is code"
        fix = "in your own code call model.export('model.onnx', format='onnx'), and give that file"
        raise UnusableInput("model", what, "a Sequential or Functional model of Keras 3", fix)
    if len(graph.inputs) != 1:
        names = ", ".join(each.name for each in graph.inputs)
        fix = "give the part of it that reads one image, or a model that makes the other inputs from it"
        raise UnusableInput("model", f"has {len(graph.inputs)} inputs ({names})", "one image in", fix)
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
        raise UnusableInput("model", f"reads {declared}", "an image: (height, width, channels)", fix)
    if given is None and None in declared:
        usual = "x".join(str(n or each) for n, each in zip(declared, (224, 224, 3), strict=True))
        fix = f"--input-shape {usual}, or the size you use"
        raise UnusableInput("model", f"has a free input size {declared}", "a size", fix)
    shape: Size = given or declared
    if len(shape) != 3 or any(there not in (None, here) for there, here in zip(declared, shape, strict=True)):
        own = "x".join(str(n or here) for n, here in zip(declared, shape, strict=False))
        raise UnusableInput("input shape", f"is {shape}", f"the model's own: {declared}", f"--input-shape {own}")
    return shape


class _Reader:
    """Walks a graph and fills a draft. Values are numbers: the image is 0, others as they are made."""

    def __init__(self, draft: Draft, shape: Shape, learning: frozenset[int]) -> None:
        self.draft = draft
        self.learning = learning  # the variables that the model trains, by identity
        self.shapes: dict[int, Shape] = {_IMAGE: shape}
        self.first: dict[int, str] = {}  # per Keras layer with weights: its name where it was first used

    def walk(self, graph: Functional, images: Sequence[int]) -> list[int]:
        """The values of the graph's outputs, from those of its inputs."""
        values = {id(tensor): value for tensor, value in zip(graph._inputs, images, strict=True)}
        for node in _nodes(graph):
            values.update(zip(map(id, node.outputs), self._node(node, values), strict=True))
        return [values[id(tensor)] for tensor in graph._outputs]

    def _node(self, node: Any, values: Mapping[int, int]) -> list[int]:
        reads = [values[id(tensor)] for tensor in node.input_tensors]
        inner = getattr(node.operation, "_functional", node.operation)
        if isinstance(inner, Functional) and type(inner).call is Functional.call:
            return self.walk(inner, reads)
        if getattr(node.operation, "data_format", None) == "channels_first":
            fix = "build the model with image_data_format 'channels_last'"
            raise UnusableInput(f"layer {node.operation.name}", "reads channels first", "channels last", fix)
        try:
            return [self._pieces(node, reads)]
        except ShapeError as error:
            problem = error.problem
            raise ShapeError(f"layer {node.operation.name}", problem.what, problem.expected, _SIZE) from error
        except (Unreadable, ConvwiseError):
            return self._opaque(node, reads, values)

    def _pieces(self, node: Any, reads: Sequence[int]) -> int:
        """The node in our layers. Unreadable where they would not be what Keras makes of it."""
        shapes = [self.shapes[value] for value in reads]
        given = Use(node.operation, shapes, node.arguments.args)
        pieces = _resolved(pieces_of(given), shapes)
        _check(node, pieces, shapes)
        main = next(
            (piece for piece, seen, _ in pieces if layer_weights(piece.layer, seen[0])), pieces and pieces[-1][0]
        )
        value = reads[0]
        for piece, _, output in pieces:
            value = self._add(
                node.operation, piece, [reads[n] if n >= 0 else value for n in piece.reads], piece is main
            )
            self.shapes[value] = output
        return value

    def _add(self, op: Any, piece: Piece, reads: Sequence[int], main: bool) -> int:
        """One layer more; the main piece of a Keras layer has its name."""
        value = len(self.shapes)
        given = self.shapes[reads[0]]
        learnt, weights = layer_weights(piece.layer, given), _weights(op, piece, given)
        shares = self.first.get(id(op), "") if learnt else ""
        name = op.name if main else f"{op.name}_{piece.layer.op.lower()}"
        added = self.draft.add(value, replace(piece.layer, shares=shares), name, reads, {} if shares else weights)
        if learnt:
            self.first.setdefault(id(op), added)
        if learnt and not shares and (trains := self._trainable(op)) != params_of(piece.layer, given)[1]:
            self.draft.trainable[added] = trains
        return value

    def _trainable(self, op: Any) -> int:
        return sum(prod(each.shape) for each in getattr(op, "weights", ()) if id(each) in self.learning)

    def _opaque(self, node: Any, reads: Sequence[int], values: Mapping[int, int]) -> list[int]:
        """The node as Opaque layers, one per output; the first has its params, in its first use."""
        op, made = node.operation, list[int]()
        outputs = list(self._output_shapes(node, values))
        known = cost(op, [self.shapes[value] for value in reads], outputs, node.arguments.args)
        for i, shape in enumerate(outputs):
            params = 0 if i or id(op) in self.first else _params(op)
            value = len(self.shapes)
            operator = MIRROR if reads == [_IMAGE] and _is_mirror(op) else type(op).__name__
            added = self.draft.opaque(value, operator, shape, op.name, reads, params, **known)
            known = {**known, "macs": 0, "elementwise": 0} if known else {}  # the first output carries the work
            self.first.setdefault(id(op), added)
            if params > 0:
                self.draft.trainable[added] = self._trainable(op)
            self.shapes[value] = shape
            made.append(value)
        return made

    def _output_shapes(self, node: Any, values: Mapping[int, int]) -> Iterator[Shape]:
        outputs = node.outputs
        if any(None in tensor.shape[1:] for tensor in outputs):
            known = {id(t): keras.KerasTensor((2, *self.shapes[values[id(t)]]), t.dtype) for t in node.input_tensors}
            args, kwargs = node.arguments.fill_in(known)
            try:
                outputs = keras.tree.flatten(node.operation.compute_output_spec(*args, **kwargs))
            except Exception as error:  # whatever Keras says of sizes that do not fit
                shapes = " and ".join(str(tuple(tensor.shape[1:])) for tensor in known.values())
                what = f"reads {shapes}, which does not fit: {_reason(error)}"
                raise ShapeError(f"layer {node.operation.name}", what, "sizes that fit", _SIZE) from error
        if isinstance(node.operation, keras.layers.EinsumDense) and None in outputs[0].shape[1:]:
            sides = sides_of(node.operation, self.shapes[values[id(node.input_tensors[0])]])
            yield tuple(sides[letter] for letter in node.operation.equation.partition("->")[2][1:])
            return
        for tensor in outputs:
            yield tuple(tensor.shape[1:])


def _nodes(graph: Functional) -> Iterator[Any]:
    """The uses of layers and operations, in the order in which Keras runs them."""
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        yield from (node for node in graph._nodes_by_depth[depth] if not node.is_input)


Resolved = tuple[Piece, list[Shape], Shape]  # a piece, the shapes that it reads, and its output's


def _resolved(pieces: Sequence[Piece], shapes: Sequence[Shape]) -> list[Resolved]:
    rows: list[Resolved] = []
    output = shapes[0]
    for piece in pieces:
        seen = [shapes[n] if n >= 0 else output for n in piece.reads]
        if isinstance(piece.layer, Opaque):  # an activation: its shape is its input's
            piece = replace(piece, layer=replace(piece.layer, output_shape=seen[0]))
        output = GEOMETRY[type(piece.layer)].shape(piece.layer, seen)
        rows.append((piece, seen, output))
    return rows


def _check(node: Any, rows: Sequence[Resolved], shapes: Sequence[Shape]) -> None:
    """Unreadable where Keras has another shape or other stored numbers."""
    ours = rows[-1][2] if rows else shapes[0]
    theirs = tuple(node.outputs[0].shape[1:])
    fits = len(ours) == len(theirs) and all(b in (None, a) for a, b in zip(ours, theirs, strict=True))
    params = sum(params_of(piece.layer, seen[0])[0] for piece, seen, _ in rows)
    if len(node.outputs) != 1 or not fits or params != max(_params(node.operation), 0):
        raise Unreadable


def _params(op: Any) -> int:
    if not isinstance(op, keras.layers.Layer):
        return 0
    return int(op.count_params()) if op.built else -1


def _weights(op: Any, piece: Piece, given: Shape) -> dict[str, Array]:
    """The operation's weights, by our keys; none where Keras has not made them yet (keras.StatelessScope)."""
    own = {"gamma": "kernel"} if isinstance(piece.layer, LayerScale) and hasattr(op, "kernel") else {}
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
