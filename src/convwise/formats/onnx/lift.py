"""ONNX files as nets, with their weights: any model that reads one image.

Operators that are none of our layers become Opaque. Of a file that we wrote, the net in its metadata
is taken where writing it again gives the same graph: so nothing is lost, and nothing is believed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from convwise.core import layers as L
from convwise.core.activations import ACTIVATIONS, activation
from convwise.core.calculus import analyse
from convwise.core.geometry import GEOMETRY, layer_weights
from convwise.core.net import INPUT, Net
from convwise.core.problems import ConvwiseError, Problem, ShapeError, UnusableInput
from convwise.formats.lifted import Draft, Lifted
from convwise.formats.lowering.calls import shapes_of
from convwise.formats.onnx import build
from convwise.formats.onnx.context import MAPS, Context, Read, Value, numbers, spread_over
from convwise.formats.onnx.costs import cost
from convwise.formats.onnx.external import is_unread
from convwise.formats.onnx.graph import FIRST, LAST, Graph, Node, Shape, Tensor, first_line, graph_of, load
from convwise.formats.onnx.learnt import FEW, JOINING, is_plain
from convwise.formats.onnx.patterns import composed
from convwise.formats.onnx.rules import QUANTISED, RULES, held_by, is_learnt, weights_of
from convwise.formats.weights import Array, Weights, channels_last, is_kernel


def read(path: str | Path, input_shape: Sequence[int] | None = None) -> Lifted:
    """The net in an ONNX file; input_shape (height, width, channels) where the file leaves it free.

    UnusableInput where the file is no ONNX model of one image.
    """
    return lift(load(path), input_shape)


def lift(model: onnx.ModelProto, input_shape: Sequence[int] | None = None) -> Lifted:
    """The net of a model, its weights and the class names in its metadata. Errors as `read`."""
    try:
        about = {prop.key: prop.value for prop in model.metadata_props}
        classes = _classes(about.get("classes", ""))
        return _own(model, about, classes) or _Reader(composed(graph_of(model, input_shape))).lifted(classes)
    except (ConvwiseError, MemoryError):
        raise
    except Exception as error:  # a file may lie about anything: shapes, types, the number of inputs
        raise UnusableInput("model", f"cannot be followed: {first_line(error)}", "a whole ONNX model") from error


def _classes(text: str) -> tuple[str, ...]:
    try:
        names = json.loads(text or "[]")
    except json.JSONDecodeError:
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


# --- files of ours --------------------------------------------------------------------------


def _own(model: onnx.ModelProto, about: Mapping[str, str], classes: Sequence[str]) -> Lifted | None:
    """What the metadata say, where building it gives this graph again."""
    if "net" not in about:
        return None
    try:
        net = Net.from_json(json.loads(about["net"]))
        weights = _own_weights(net, model)
        same = build(net, weights, classes).graph == model.graph
    except (ConvwiseError, KeyError, ValueError, TypeError):
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
    return np.ascontiguousarray(array if last else np.moveaxis(array, 0, -1).reshape(shape), np.float32)


# --- files of others ------------------------------------------------------------------------


class _Reader:
    """Reads a graph, operator after operator, into a draft."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.context = graph, Context(graph)
        self.draft = Draft(graph.input_shape, graph.image)
        self.alias: dict[str, str] = {}  # a tensor that is another, or the layer of another
        self.unread: dict[str, int] = {}
        self.counted: set[str] = set()  # constants that a layer reads, or an unknown operator has been given
        self.held: set[str] = set()  # those of them that are weights
        self.sources: dict[str, tuple[str, ...]] = {}  # for each layer, the constants that its weights are
        self.tied: Counter[str] = Counter()  # for each layer, how many of its weights an earlier one holds
        self.learnt: dict[str, int] = {}  # for each layer, numbers that are no weights of its type
        self.by_name: set[str] = set()  # few numbers that are counted since they are called as a module's are
        self.open: set[str] = set()  # few numbers that may be learnt, and are not counted
        self.places: dict[str, int] = {}  # of the draft's layers, by name
        self.bare = any(map(is_unread, graph.constants.values()))

    def lifted(self, classes: Sequence[str]) -> Lifted:
        for node in self.graph.nodes:
            self._read(node)
        if not self.draft.layers:
            raise UnusableInput("model", "holds no operator that does anything", "a network")
        self._share()
        if self.bare:
            self.draft.weights.clear()
            what = "keeps more weights in other files than are read: shapes and costs rest on the shapes alone"
            self.draft.problems.append(Problem("model", what, severity="note"))
        for kind, count in self.unread.items():
            what = "is none of convwise's layers; what it costs is unknown"
            self.draft.problems.append(Problem(f"operator {kind}", what, severity="note", count=count))
        self._say_what_is_open()
        lifted = self.draft.lifted(classes, self.graph.outputs)
        return replace(lifted, params=self._own(lifted.net)) if self.tied or self.learnt else lifted

    def _own(self, net: Net) -> dict[str, int]:
        """How many params the layers hold that share some, or hold numbers besides."""
        rows = {row.name: row.params for row in analyse(net).layers}
        names = {*self.tied, *self.learnt} & rows.keys()  # not of what a mirrored view says again
        return {name: max(rows[name] - self.tied[name], 0) + self.learnt.get(name, 0) for name in names}

    def _read(self, node: Node) -> None:
        if not self.context.maps(node) and any(name in self.context.single for name in node.inputs):
            self.context.single.update(node.outputs)
            return
        if not self.context.maps(node):
            raise UnusableInput("model", f"operator {node.name} ({node.kind}) reads nothing", "a network of one image")
        try:
            known = self._known(node)
        except (ConvwiseError, MemoryError):
            raise
        except Exception as error:
            read = ", ".join(f"{name} {self._shape(name)}" for name in node.inputs if name)
            what = f"reads {read}, which do not fit: {first_line(error)}"
            raise UnusableInput(f"operator {node.name} ({node.kind})", what, "a model that runs") from error
        if known:
            self.counted.update(map(self._root, node.inputs))
        else:
            self._opaque(node)
        if node.kind in JOINING:
            self._few(node)

    def _shape(self, name: str) -> Shape | str:
        constant = self.graph.constants.get(name)
        return self.graph.shapes.get(name, "of any shape") if constant is None else constant.shape

    def _root(self, name: str) -> str:
        return self.graph.roots.get(name, name)

    def _parts(self, name: str) -> Iterable[str]:
        """What a constant is made of; itself, where the file holds it."""
        return self.graph.parts.get(name, (name,))

    def _hold(self, layer: str, names: Sequence[str]) -> None:
        """A layer has these constants as weights; they are its own where no earlier one has them."""
        roots = tuple(map(self._root, names))
        again = sum(self.graph.constants[name].size for name, root in zip(names, roots, strict=True)
                    if root in self.held)  # fmt: skip
        if again:
            self.tied[layer] += again
        self.held.update(roots)
        self.sources[layer] = (*self.sources.get(layer, ()), *roots)

    def _hold_parts(self, layer: str, names: Sequence[str]) -> None:
        """A weight that is worked out of others, such as gains, holds them as well."""
        for name in names:
            parts = self.graph.parts.get(name, frozenset()) - self.held
            arrays = {part: self.graph.constants[part] for part in parts if part in self.graph.constants}
            learnt = {part: array.size for part, array in arrays.items() if is_learnt(array) and np.ptp(array)}
            more = sum(learnt.values()) - self.graph.constants[name].size
            if more > 0:
                self.learnt[layer] = self.learnt.get(layer, 0) + more
            self.held.update(learnt)

    def _known(self, node: Node) -> bool:
        """Whether an operator is a layer, a part of one, or changes nothing."""
        unread = self.graph.hidden if node.kind in QUANTISED else self.graph.hidden | self.context.single
        hidden = any(name in unread for name in node.inputs)
        if hidden or not all(self.context.values[name].order for name in self.context.maps(node)):
            return False
        if self._absorbed(node) or self._unrolled(node):
            return True
        rule = RULES.get(node.kind)
        several = any(self.context.uses[name] for name in node.outputs[1:])
        found = rule(self.context, node) if rule and not several else None
        if found is None or not self._fits(found, node):
            return False
        self._add(found, node)
        return True

    def _fits(self, found: Read, node: Node) -> bool:
        """Whether our layer gives the shape that the file says."""
        output = self.context.ours(node.outputs[0], found.value)
        given = [self.context.ours(name) for name in found.reads]
        try:
            if found.before is not None:
                given = [GEOMETRY[type(found.before)].shape(found.before, given)]
            return found.layer is None or GEOMETRY[type(found.layer)].shape(found.layer, given) == output
        except ShapeError:
            return False

    def _add(self, found: Read, node: Node) -> None:
        value = node.outputs[0]
        self.context.values[value] = found.value
        if found.layer is None:
            self._same(value, found.reads[0])
            return
        if found.before is not None:
            ahead = f"{value} before"
            self.draft.add(ahead, found.before, f"{_label(node)}_{found.before.op.lower()}", found.reads)
            found = replace(found, reads=(ahead,))
            self.places[self.draft.source(ahead)] = len(self.draft.layers) - 1
        if found.layer and (found.before is not None or not self._joined(found, node)):
            name = self.draft.add(value, found.layer, _label(node), found.reads, found.weights)
            self.places[name] = len(self.draft.layers) - 1
            names = held_by(node, self.graph, bool(found.weights or found.learnt))
            if found.learnt and self._root(names[0]) not in self.held:
                self.learnt[name] = found.learnt
            if found.learnt:
                self.held.update(map(self._root, names))
            else:
                self._hold(name, names)
                self._hold_parts(name, names)

    def _opaque(self, node: Node) -> None:
        params = self._params(node)
        reads = tuple(dict.fromkeys(self.context.maps(node)))
        outputs = [name for name in node.outputs if self.context.uses[name]] or list(node.outputs[:1])
        if node.kind == "DynamicQuantizeLinear":
            self.context.single.update(outputs[1:])
            del outputs[1:]
        for value in outputs:
            shape = self.graph.shapes[value]
            if 0 in shape:
                fix = "another --input-shape, such as the size that it was made for"
                what = (
                    f"reads {', '.join(f'{name} {self._shape(name)}' for name in reads)} and gives {shape}: no numbers"
                )
                raise ShapeError(f"operator {node.name} ({node.kind})", what, "sides of at least 1", fix)
            alike = next((name for name in reads if self.graph.shapes[name] == shape), reads[0])
            self.context.values[value] = self._guessed(node, value, alike)
        known = cost(self.context, node, outputs[0])
        if not known:
            self.unread[node.kind] = self.unread.get(node.kind, 0) + 1
        for value in outputs:
            name = self.draft.opaque(value, node.kind, self.context.ours(value), _label(node), reads, params, **known)
            self.places[name] = len(self.draft.layers) - 1
            params = 0  # the first output carries them, and the work
            known = {**known, "macs": 0, "elementwise": 0} if known else {}

    def _params(self, node: Node) -> int:
        """The numbers of an unknown operator's weights, once each; -1 where it is not known which or how many."""
        weights = weights_of(node, self.graph)
        if weights is None or self.graph.hidden & set(weights):
            return -1
        fresh = {self._root(name): name for name in weights if self._root(name) not in self.counted}
        self.counted.update(fresh)
        self.held.update(fresh)
        return sum(self.graph.constants[name].size for name in fresh.values())

    def _guessed(self, node: Node, value: str, read: str) -> Value:
        """How the output of an unknown operator lies: as its input, or channels first."""
        shape, order = self.graph.shapes[value], self.context.values[read].order
        if len(shape) < 2 or shape[0] != self.graph.batch:
            return Value(())
        if len(shape) == 4 and (order != LAST or node.kind in MAPS or value in self.context.wanted):
            return Value(FIRST)
        return Value(order if len(order) == len(shape) else tuple(range(len(shape))))

    # --- single numbers ---------------------------------------------------------------------

    def _few(self, node: Node) -> None:
        """Single numbers that meet a map here, and few numbers per channel, where they are learnt or may be."""
        layer = self.draft.source(next(name for name in node.outputs if self.draft.knows(name)))
        for name in node.inputs:
            array = self.graph.constants.get(name)
            if array is None or array.size > FEW or array.dtype.kind in "iubOSU" or self._root(name) in self.held:
                continue
            for part in self._parts(name):
                if self.graph.constants[part].size <= FEW:
                    self._learnt(layer, part, self._prepares(layer))

    def _learnt(self, layer: str, part: str, prepares: bool) -> None:
        """What a layer learns by one of the file's few numbers; prepares: whether it only scales and shifts images."""
        told, array = self.graph.told, self.graph.constants[part]
        if told.whole:
            for name in told.parameters.get(part, frozenset()) - self.held:
                size = self.graph.constants.get(name, array).size
                self.learnt[layer] = self.learnt.get(layer, 0) + size
                self.held.add(name)
        elif part in told.stored and part not in self.held and not (prepares and array.size > 1):
            if part in told.named and not prepares:
                self.learnt[layer] = self.learnt.get(layer, 0) + array.size
                self.held.add(part)
                self.by_name.add(part)
            elif part in told.named or not is_plain(array):
                self.open.add(part)

    def _prepares(self, name: str) -> bool:
        """Whether a layer and all before it scale and shift the image."""
        while isinstance(layer := self.draft.layers[self.places[name]], L.Rescaling):
            if layer.inputs == (INPUT,):
                return True
            (name,) = layer.inputs
        return False

    def _say_what_is_open(self) -> None:
        """That the file leaves it open whether some single numbers are learnt."""
        for names in filter(None, (self.by_name, self.open)):
            count = sum(self.graph.constants[name].size for name in names)
            told = f"{count} single number{'s' * (count > 1)}"
            named = ", ".join(sorted(names)[:3]) + ", ..." * (len(names) > 3)
            what = (
                f"counts {told} among the parameters by name ({named}); the file does not tell parameters from buffers"
            )
            if names is self.open:
                what = f"does not count {told} ({named}): the file does not tell what is learnt from the constants of "
                what += "formulas, so the number of parameters is a lower bound"
            self.draft.problems.append(Problem("model", what, severity="note", count=count))

    # --- several operators that are one layer ------------------------------------------------

    def _same(self, value: str, other: str) -> None:
        self.alias[value] = other
        self.draft.same(value, other)

    def _alone(self, value: str) -> bool:
        """Whether only one operator reads the layer that gives this tensor."""
        return self.context.uses[value] == 1 and (value not in self.alias or self._alone(self.alias[value]))

    def _source(self, value: str) -> tuple[int, L.Layer] | None:
        """The layer that gives a tensor, and its place."""
        place = self.places.get(self.draft.source(value))
        return None if place is None else (place, self.draft.layers[place])

    def _change(self, place: int, value: str, other: str, weights: Mapping[str, Tensor], **changes: Any) -> None:
        """A layer with other parameters and more weights, which gives this tensor as well."""
        layer = self.draft.layers[place] = replace(self.draft.layers[place], **changes)
        for key, array in weights.items():
            self.draft.weights[f"{layer.name}/{key}"] = np.ascontiguousarray(array, np.float32)
        self._same(value, other)

    def _joined(self, found: Read, node: Node) -> bool:
        """Whether the layer goes into the one before it: Flatten after global pooling, our own activations."""
        value, x = node.outputs[0], found.reads[0]
        before = self._source(x) if self._alone(x) and len(found.reads) == 1 else None
        if before is None:
            return False
        place, layer = before
        if isinstance(found.layer, L.Flatten) and isinstance(layer, L.GlobalAveragePooling2D | L.GlobalMaxPooling2D):
            self._change(place, value, x, {}, keepdims=False)
            return True
        ours = _group(node) == layer.name and getattr(layer, "activation", "") == "linear"
        if ours and isinstance(found.layer, L.Activation) and not isinstance(layer, L.Activation):
            self._change(place, value, x, {}, activation=found.layer.activation)
            return True
        return False

    def _absorbed(self, node: Node) -> bool:
        """Whether a constant that is added or multiplied belongs to the layer before: bias, scale, shift."""
        if node.kind not in ("Add", "Mul", "Sub", "Div") or len(self.context.maps(node)) != 1 or len(node.inputs) != 2:
            return False
        x = self.context.maps(node)[0]
        if node.inputs[0] != x and node.kind in ("Sub", "Div"):
            return False
        before = self._source(x) if self._alone(x) else None
        if before is None or self.graph.shapes[x] != self.graph.shapes[node.outputs[0]]:
            return False
        constant = next(name for name in node.inputs if name != x)
        array = np.asarray(self.graph.constants[constant], np.float64)
        changes = self._with(before[1], node.kind, array, x)
        if changes is None:
            return False
        weights: dict[str, Tensor] = {key: changes.pop(key) for key in ("bias", "gamma", "beta") if key in changes}
        if weights and array.size == 1 and not any(map(self.graph.told.may_learn, self._parts(constant))):
            return False
        self._change(before[0], node.outputs[0], x, weights, **changes)
        if weights:
            self._hold(before[1].name, [constant])
        self.context.values[node.outputs[0]] = self.context.values[x]
        return True

    def _with(self, layer: L.Layer, kind: str, array: Tensor, x: str) -> dict[str, Any] | None:
        """The layer's new parameters and weights, None where the constant is not its own."""
        added = {"Add": array, "Sub": -array}.get(kind)
        match layer:
            case L.Conv2D() | L.DepthwiseConv2D() | L.Conv2DTranspose() | L.Dense():
                if added is None or layer.use_bias or layer.activation != "linear":
                    return None
                bias = spread_over(self.context, added, x, (len(self.context.ours(x)),))
                return None if bias is None or added.size < bias.size else {"use_bias": True, "bias": bias}
            case L.GroupNormalization() | L.LayerNormalization():
                return self._normalised(layer, kind, array, x)
            case L.Rescaling():
                given = self.context.per_channel(array, x)
                return None if given is None or (kind == "Div" and not np.all(given)) else _rescaled(layer, kind, given)
        return None

    def _normalised(self, layer: L.GroupNormalization | L.LayerNormalization, kind: str, array: Tensor,
                    x: str) -> dict[str, Any] | None:  # fmt: skip
        rank = len(self.context.ours(x))
        axes = layer.axis if isinstance(layer, L.LayerNormalization) else (-1,)
        learnt = spread_over(self.context, array, x, tuple(axis if axis > 0 else rank + 1 + axis for axis in axes))
        if learnt is None or array.size < learnt.size or layer.center:
            return None
        if kind == "Mul" and not layer.scale:
            return {"scale": True, "gamma": learnt}
        return {"center": True, "beta": learnt} if kind == "Add" else None

    def _unrolled(self, node: Node) -> bool:
        """A row that becomes a map (channels, height, width), as decoders start: its Dense gives our order instead."""
        value, out = node.outputs[0], self.graph.shapes[node.outputs[0]]
        x = node.inputs[0]
        if node.kind != "Reshape" or len(out) != 4 or len(self.context.ours(x)) != 1 or self.context.values[x].flat:
            return False
        before = self._source(x) if self._alone(x) and out[0] == self.graph.batch else None
        readers = [each.kind for each in self.graph.nodes if value in each.inputs] if before else []
        if before is None or "Transpose" in readers or max(out[2:]) == 1 or not isinstance(before[1], L.Dense):
            return False
        if not ACTIVATIONS[activation(before[1].activation).name].elementwise:
            return False
        channels, height, width = out[1:]
        for key in (f"{before[1].name}/kernel", f"{before[1].name}/bias"):
            if key in self.draft.weights:
                array = self.draft.weights[key]
                maps = np.moveaxis(array.reshape(-1, channels, height, width), 1, -1)
                self.draft.weights[key] = np.ascontiguousarray(maps.reshape(array.shape))
        self._add(Read(L.Reshape((height, width, channels)), Value(FIRST), (x,)), node)
        return True

    # --- weights that serve twice ---------------------------------------------------------------

    def _share(self) -> None:
        """Layers of one type whose weights are the same constants share them."""
        own: dict[str, dict[str, Array]] = {}
        for key, array in self.draft.weights.items():
            own.setdefault(key.rpartition("/")[0], {})[key.rpartition("/")[2]] = array
        seen: dict[Any, str] = {}
        for place, layer in enumerate(self.draft.layers):
            weights = own.get(layer.name, {})
            if not any(is_kernel(key) for key in weights) or not self.tied[layer.name]:
                seen.setdefault((layer.op, self.sources.get(layer.name)), layer.name)
                continue
            owner = seen.setdefault((layer.op, self.sources[layer.name]), layer.name)
            alike = {key: array.shape for key, array in weights.items()}
            if owner == layer.name or alike != {key: array.shape for key, array in own[owner].items()}:
                continue
            if all(np.array_equal(own[owner][key], array) for key, array in weights.items()):
                self.draft.layers[place] = replace(layer, shares=owner)
                del self.tied[layer.name]
                for key in weights:
                    del self.draft.weights[f"{layer.name}/{key}"]


def _rescaled(layer: L.Rescaling, kind: str, given: Tensor) -> dict[str, Any]:
    scale, offset = np.array(layer.scale), np.array(layer.offset)
    match kind:
        case "Add":
            return {"offset": numbers(offset + given)}
        case "Sub":
            return {"offset": numbers(offset - given)}
        case "Mul":
            return {"scale": numbers(scale * given), "offset": numbers(offset * given)}
    return {"scale": tuple(scale / given), "offset": tuple(offset / given)}


def _group(node: Node) -> str:
    """The layer that formats/onnx/__init__.py wrote an operator for: 'conv' of 'conv/Relu_1', else ''."""
    found = re.fullmatch(r"(\w+)/[A-Za-z0-9]+_\d+", node.name)
    return found[1] if found else ""


def _label(node: Node) -> str:
    return _group(node) or node.name
