"""ONNX files as nets, with their weights: any model that reads one image.

Operators that are none of our layers become Opaque. Of a file that we wrote, the net in its
metadata is taken where writing it again gives the same graph: so nothing is lost, and nothing is
believed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from convwise.core import layers as L
from convwise.core.activations import ACTIVATIONS, activation
from convwise.core.calculus import analyse
from convwise.core.geometry import GEOMETRY
from convwise.core.net import INPUT
from convwise.core.problems import ConvwiseError, Problem, ShapeError, UnusableInput
from convwise.formats.lifted import Draft, Lifted
from convwise.formats.onnx.context import MAPS, Context, Read, Value, numbers, spread_over
from convwise.formats.onnx.costs import cost
from convwise.formats.onnx.counted import Counted
from convwise.formats.onnx.external import is_unread
from convwise.formats.onnx.graph import FIRST, LAST, Graph, graph_of, load
from convwise.formats.onnx.learnt import JOINING
from convwise.formats.onnx.nodes import Node, Shape, Tensor
from convwise.formats.onnx.ours import own
from convwise.formats.onnx.patterns import composed
from convwise.formats.onnx.plain import first_line
from convwise.formats.onnx.rules import QUANTISED, RULES, held_by
from convwise.formats.onnx.values import MOST_NUMBERS
from convwise.formats.weights import Array, is_kernel


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
        if ours := own(model, about, classes):
            return ours
        return _Reader(composed(graph_of(model, input_shape))).lifted(classes)
    except (ConvwiseError, MemoryError):
        raise
    except Exception as error:  # a file may lie about anything: shapes, types, the number of inputs
        what = f"cannot be followed: {first_line(error)}"
        raise UnusableInput("model", what, "a whole ONNX model") from error


def _classes(text: str) -> tuple[str, ...]:
    try:
        names = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return ()
    told = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if told else ()


# --- files of others ------------------------------------------------------------------------


class _Reader:
    """Reads a graph, operator after operator, into a draft."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.context = graph, Context(graph)
        self.draft = Draft(graph.input_shape, graph.image)
        self.alias: dict[str, str] = {}  # a tensor that is another, or the layer of another
        self.unread: dict[str, int] = {}
        self.counted = Counted(graph)
        self.places: dict[str, int] = {}  # of the draft's layers, by name
        self.bare = any(map(is_unread, graph.constants.values()))
        self.arrays: dict[int, Tensor] = {}  # that the layers hold already, by id
        # Numbers that they may still hold: a constant that many read is turned for each of them
        self.room = MOST_NUMBERS + 4 * sum(array.size for array in graph.constants.values())

    def lifted(self, classes: Sequence[str]) -> Lifted:
        for node in self.graph.nodes:
            self._read(node)
        if not self.draft.layers:
            raise UnusableInput("model", "holds no operator that does anything", "a network")
        self._share()
        if self.bare or self.room < 0:
            self.draft.weights.clear()
            what = "reads the same weights in so many layers that they are not kept"
            if self.bare:
                what = "keeps more weights in other files than are read"
            what += ": costs are derived from their shapes alone"
            self.draft.problems.append(Problem("model", what, severity="note"))
        for kind, count in self.unread.items():
            what = "is not an operator that convwise knows; its cost is unknown"
            problem = Problem(f"operator {kind}", what, severity="note", count=count)
            self.draft.problems.append(problem)
        self.draft.problems += self.counted.left_open()
        lifted = self.draft.lifted(classes, self.graph.outputs)
        if not self.counted.tied and not self.counted.learnt:
            return lifted
        rows = {row.name: row.params for row in analyse(lifted.net).layers}
        return replace(lifted, params=self.counted.params(rows))

    def _read(self, node: Node) -> None:
        if not self.context.maps(node) and any(name in self.context.single for name in node.inputs):
            self.context.single.update(node.outputs)
            return
        if not self.context.maps(node):
            what = f"{node.where} reads nothing"
            raise UnusableInput("model", what, "a network of one image")
        try:
            known = self._known(node)
        except UnusableInput as error:
            problem = error.problem
            if problem.where.partition(".")[0] not in L.LAYERS:
                raise
            what = f"makes a layer whose {problem.where} {problem.what}"
            raise UnusableInput(node.where, what, problem.expected) from error
        except (ConvwiseError, MemoryError):
            raise
        except Exception as error:
            read = ", ".join(f"{name} {self._shape(name)}" for name in node.inputs if name)
            what = f"reads {read}, which do not fit: {first_line(error)}"
            raise UnusableInput(node.where, what, "a model that runs") from error
        if known:
            self.counted.read(node.inputs)
        else:
            self._opaque(node)
        if node.kind in JOINING:
            value = next(name for name in node.outputs if self.draft.knows(name))
            layer = self.draft.source(value)
            for part in self.counted.few(node):
                self.counted.learn(layer, part, self._prepares(layer))

    def _prepares(self, name: str) -> bool:
        """Whether a layer and all before it scale and shift the image."""
        while isinstance(layer := self.draft.layers[self.places[name]], L.Rescaling):
            if layer.inputs == (INPUT,):
                return True
            (name,) = layer.inputs
        return False

    def _shape(self, name: str) -> Shape | str:
        constant = self.graph.constants.get(name)
        return self.graph.shapes.get(name, "of any shape") if constant is None else constant.shape

    def _known(self, node: Node) -> bool:
        """Whether an operator is a layer, a part of one, or changes nothing."""
        unread = self.graph.hidden
        if node.kind not in QUANTISED:
            unread = unread | self.context.single
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
            layer = found.layer
            return layer is None or GEOMETRY[type(layer)].shape(layer, given) == output
        except ShapeError:
            return False

    def _add(self, found: Read, node: Node) -> None:
        value = node.outputs[0]
        self.context.values[value] = found.value
        if found.layer is None:
            self._same(value, found.reads[0])
            return
        if found.before is not None:
            ahead, label = f"{value} before", f"{_label(node)}_{found.before.op.lower()}"
            self.draft.add(ahead, found.before, label, found.reads)
            found = replace(found, reads=(ahead,))
            self.places[self.draft.source(ahead)] = len(self.draft.layers) - 1
        if found.layer and (found.before is not None or not self._joined(found, node)):
            new = [array for array in found.weights.values() if id(array) not in self.arrays]
            self.room -= sum(array.size for array in new)
            weights = found.weights if self.room >= 0 else {}
            self.arrays |= {id(array): array for array in weights.values()}
            name = self.draft.add(value, found.layer, _label(node), found.reads, weights)
            self.places[name] = len(self.draft.layers) - 1
            names = held_by(node, self.graph, bool(found.weights or found.learnt))
            if found.learnt:
                self.counted.hold_learnt(name, names, found.learnt)
            else:
                self.counted.hold(name, names)
                self.counted.hold_parts(name, names)

    def _opaque(self, node: Node) -> None:
        params = self.counted.of_unknown(node)
        reads = tuple(dict.fromkeys(self.context.maps(node)))
        outputs = [name for name in node.outputs if self.context.uses[name]]
        outputs = outputs or [*node.outputs[:1]]
        if node.kind == "DynamicQuantizeLinear":
            self.context.single.update(outputs[1:])
            del outputs[1:]
        for value in outputs:
            shape = self.graph.shapes[value]
            if 0 in shape:
                seen = ", ".join(f"{name} {self._shape(name)}" for name in reads)
                what = f"reads {seen} and gives {shape}, which holds no numbers"
                raise ShapeError(node.where, what, "sides of at least 1", self.graph.fix)
            alike = next((name for name in reads if self.graph.shapes[name] == shape), reads[0])
            self.context.values[value] = self._guessed(node, value, alike)
        known = cost(self.context, node, outputs[0])
        if not known:
            self.unread[node.kind] = self.unread.get(node.kind, 0) + 1
        for value in outputs:
            name = self.draft.opaque(
                value, node.kind, self.context.ours(value), _label(node), reads, params, **known
            )
            self.places[name] = len(self.draft.layers) - 1
            params = 0  # the first output carries them, and the work
            known = {**known, "macs": 0, "elementwise": 0} if known else {}

    def _guessed(self, node: Node, value: str, read: str) -> Value:
        """How the output of an unknown operator lies: as its input, or channels first."""
        shape, order = self.graph.shapes[value], self.context.values[read].order
        if len(shape) < 2 or shape[0] != self.graph.batch:
            return Value(())
        if len(shape) == 4 and (order != LAST or node.kind in MAPS or value in self.context.wanted):
            return Value(FIRST)
        return Value(order if len(order) == len(shape) else tuple(range(len(shape))))

    # --- several operators that are one layer ------------------------------------------------

    def _same(self, value: str, other: str) -> None:
        self.alias[value] = other
        self.draft.same(value, other)

    def _alone(self, value: str) -> bool:
        """Whether only one operator reads the layer that gives this tensor."""
        while self.context.uses[value] == 1 and value in self.alias:
            value = self.alias[value]
        return self.context.uses[value] == 1

    def _source(self, value: str) -> tuple[int, L.Layer] | None:
        """The layer that gives a tensor, and its place."""
        place = self.places.get(self.draft.source(value))
        return None if place is None else (place, self.draft.layers[place])

    def _change(
        self, place: int, value: str, other: str, weights: Mapping[str, Tensor], **changes: Any
    ) -> None:
        """A layer with other parameters and more weights, which gives this tensor as well."""
        layer = self.draft.layers[place] = replace(self.draft.layers[place], **changes)
        for key, array in weights.items():
            self.draft.weights[f"{layer.name}/{key}"] = np.ascontiguousarray(array, np.float32)
        self._same(value, other)

    def _joined(self, found: Read, node: Node) -> bool:
        """Whether the layer goes into the one before it, as Flatten does after global pooling."""
        value, x = node.outputs[0], found.reads[0]
        before = self._source(x) if self._alone(x) and len(found.reads) == 1 else None
        if before is None:
            return False
        place, layer = before
        pooled = isinstance(layer, L.GlobalAveragePooling2D | L.GlobalMaxPooling2D)
        if pooled and isinstance(found.layer, L.Flatten):
            self._change(place, value, x, {}, keepdims=False)
            return True
        # Our own activations: names alone tell them from a layer of activation. A file of ours
        # comes here if its metadata are gone (ours.py).
        ours = _group(node) == layer.name and getattr(layer, "activation", "") == "linear"
        if ours and isinstance(found.layer, L.Activation) and not isinstance(layer, L.Activation):
            self._change(place, value, x, {}, activation=found.layer.activation)
            return True
        return False

    def _absorbed(self, node: Node) -> bool:
        """Whether a constant is the bias, scale or shift of the layer before it."""
        maps = self.context.maps(node)
        if node.kind not in ("Add", "Mul", "Sub", "Div") or len(maps) != 1 or len(node.inputs) != 2:
            return False
        x = maps[0]
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
        weights: dict[str, Tensor] = {
            key: changes.pop(key) for key in ("bias", "gamma", "beta") if key in changes
        }
        parts = self.counted.parts(constant)
        if weights and array.size == 1 and not any(map(self.graph.told.may_learn, parts)):
            return False
        self._change(before[0], node.outputs[0], x, weights, **changes)
        if weights:
            self.counted.hold(before[1].name, [constant])
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
                if bias is None or added.size < bias.size:
                    return None
                return {"use_bias": True, "bias": bias}
            case L.GroupNormalization() | L.LayerNormalization():
                return self._normalised(layer, kind, array, x)
            case L.Rescaling():
                given = self.context.per_channel(array, x)
                if given is None or (kind == "Div" and not np.all(given)):
                    return None
                return _rescaled(layer, kind, given)
        return None

    def _normalised(
        self, layer: L.GroupNormalization | L.LayerNormalization, kind: str, array: Tensor, x: str
    ) -> dict[str, Any] | None:
        rank = len(self.context.ours(x))
        axes = layer.axis if isinstance(layer, L.LayerNormalization) else (-1,)
        ours = tuple(axis if axis > 0 else rank + 1 + axis for axis in axes)
        learnt = spread_over(self.context, array, x, ours)
        if learnt is None or array.size < learnt.size or layer.center:
            return None
        if kind == "Mul" and not layer.scale:
            return {"scale": True, "gamma": learnt}
        return {"center": True, "beta": learnt} if kind == "Add" else None

    def _unrolled(self, node: Node) -> bool:
        """Whether a row becomes a map (channels, height, width), as decoders start; the Dense
        before it then gives our order.
        """
        value, out = node.outputs[0], self.graph.shapes[node.outputs[0]]
        x = node.inputs[0]
        if node.kind != "Reshape" or len(out) != 4:
            return False
        if len(self.context.ours(x)) != 1 or self.context.values[x].flat:
            return False
        before = self._source(x) if self._alone(x) and out[0] == self.graph.batch else None
        readers = [each.kind for each in self.graph.nodes if value in each.inputs] if before else []
        if before is None or "Transpose" in readers or max(out[2:]) == 1:
            return False
        if not isinstance(before[1], L.Dense):
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
            sources = self.counted.sources.get(layer.name)
            owner = seen.setdefault((layer.op, sources), layer.name)
            if not any(is_kernel(key) for key in weights) or not self.counted.tied[layer.name]:
                continue
            sides = [
                {key: array.shape for key, array in own[name].items()}
                for name in (owner, layer.name)
            ]
            if owner == layer.name or sides[0] != sides[1]:
                continue
            if all(np.array_equal(own[owner][key], array) for key, array in weights.items()):
                self.draft.layers[place] = replace(layer, shares=owner)
                del self.counted.tied[layer.name]
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
    """'conv' of 'conv/Relu_1', as formats/onnx/__init__.py names what it writes, else ''."""
    found = re.fullmatch(r"(\w+)/[A-Za-z0-9]+_\d+", node.name)
    return found[1] if found else ""


def _label(node: Node) -> str:
    return _group(node) or node.name
