"""What several ONNX operators say together: activations and normalisations that exporters compose.

A pattern is nested tuples of operator kinds and inputs: 'x' the one tensor that is read, a number a
constant, '?name' a constant whose number is the activation's argument of that name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from math import isclose, pi, sqrt
from typing import Any

import numpy as np

from convwise.core.activations import spelled
from convwise.formats.onnx.adaptive import adaptive
from convwise.formats.onnx.graph import Graph
from convwise.formats.onnx.nodes import Node

ACTIVATED, GLU = "our activation", "our glu"
GROUP_NORM, LAYER_NORM = "our group norm", "our layer norm"
SHUFFLE, GROUP_SUM, ADAPTIVE = "ChannelShuffle", "ChannelGroupSum", "our adaptive pooling"
# What the attributes of activations are where a file does not say.
DEFAULTS: dict[str, dict[str, float]] = {
    "LeakyRelu": {"alpha": 0.01}, "Elu": {"alpha": 1.0}, "Celu": {"alpha": 1.0},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5}, "Shrink": {"lambd": 0.5, "bias": 0.0},
    "ThresholdedRelu": {"alpha": 1.0},
    "Selu": {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
}  # fmt: skip
_BOTH_WAYS = ("Add", "Mul", "Max", "Min", "Sum")

_RELU6_3 = ("Clip", ("Add", "x", 3.0), 0.0, 6.0)
_ERF = ("Add", ("Erf", ("Div", "x", sqrt(2))), 1.0)
_ERF_TIMES = ("Add", ("Erf", ("Mul", "x", sqrt(0.5))), 1.0)
_CUBES = (("Pow", "x", 3.0), ("Mul", "x", ("Mul", "x", "x")))
_TANHS = tuple(
    ("Add", ("Tanh", ("Mul", ("Add", "x", ("Mul", cube, 0.044715)), sqrt(2 / pi))), 1.0)
    for cube in _CUBES
)
_STEP = ("Add", ("Clip", "x", -1.0, 1.0), 1.0)


def _halved(part: Any) -> tuple[Any, ...]:
    """x part / 2, in the orders that are met."""
    return (
        ("Mul", ("Mul", "x", part), 0.5),
        ("Mul", ("Mul", "x", 0.5), part),
        ("Mul", "x", ("Mul", part, 0.5)),
    )


# An activation and how it is composed; the first that fits is taken.
_ACTIVATIONS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("silu", (("Mul", "x", ("Sigmoid", "x")),)),
    ("hard_silu", (("Div", ("Mul", "x", _RELU6_3), 6.0), ("Mul", "x", ("Div", _RELU6_3, 6.0)),
                   ("Mul", "x", ("HardSigmoid", "x", {"alpha": 1 / 6, "beta": 0.5})),
                   ("Mul", "x", ("Mul", _RELU6_3, 1 / 6)), ("Mul", ("Mul", "x", _RELU6_3), 1 / 6))),
    ("hard_sigmoid", (("Div", _RELU6_3, 6.0), ("Mul", _RELU6_3, 1 / 6))),
    ("mish", (("Mul", "x", ("Tanh", ("Softplus", "x"))),)),
    ("gelu", (*_halved(_ERF), *_halved(_ERF_TIMES))),
    ("gelu_tanh", tuple(each for part in _TANHS for each in _halved(part))),
    ("log_sigmoid", (("Neg", ("Softplus", ("Neg", "x"))), ("Log", ("Sigmoid", "x")))),
    ("softplus", (("Div", ("Softplus", ("Mul", "x", "?beta")), "?beta"),)),
    ("squareplus", (("Mul", ("Add", "x", ("Sqrt", ("Add", ("Mul", "x", "x"), "?b"))), 0.5),)),
    ("sparse_plus", (("Add", ("Mul", ("Mul", _STEP, _STEP), 0.25), ("Relu", ("Sub", "x", 1.0))),)),
    ("sparse_sigmoid", (("Mul", _STEP, 0.5),)),
    ("tanh_shrink", (("Sub", "x", ("Tanh", "x")),)),
    ("softsign", (("Div", "x", ("Add", ("Abs", "x"), 1.0)),)),
    ("threshold", (("Where", ("Greater", "x", "?threshold"), "x", "?value"),)),
    ("softmin", (("Softmax", ("Neg", "x")),)),
    ("relu", (
        ("Min", ("Where", ("Greater", "x", "?threshold"), "x",
                 ("Mul", ("Sub", "x", "?threshold"), "?negative_slope")), "?max_value"),
        ("Where", ("Greater", "x", "?threshold"), "x", ("Mul", ("Sub", "x", "?threshold"),
        "?negative_slope")),
        ("Min", ("LeakyRelu", "x", {"alpha": "?negative_slope"}), "?max_value"),
    )),
)  # fmt: skip


# (x - mean) / sqrt(mean of squares + epsilon).
_MEAN = {"axes": "axes"}
_CENTRED = ("Sub", "x", ("ReduceMean", "x", _MEAN))
_LAYER_NORMS = tuple(
    ("Div", _CENTRED, ("Sqrt", ("Add", ("ReduceMean", square, _MEAN), "?epsilon")))
    for square in (("Pow", _CENTRED, 2.0), ("Mul", _CENTRED, _CENTRED))
)


def composed(graph: Graph) -> Graph:
    """The graph with each composition as one operator, of a kind that starts with 'our'."""
    found = _Finder(graph)
    return graph.with_nodes([found.replaced(node) for node in graph.nodes])


class _Finder:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.maker = {name: node for node in graph.nodes for name in node.outputs}

    def replaced(self, node: Node) -> Node:
        ways = (self._activation, self._group_norm, self._layer_norm, self._glu, self._shuffle,
                self._stacked, self._blocks, self._summed, self._pooled, self._picked,
                self._plain)  # fmt: skip
        return next(filter(None, (way(node) for way in ways)), node)

    def _activation(self, node: Node) -> Node | None:
        for name, patterns in _ACTIVATIONS:
            for pattern in patterns:
                bound = (
                    self._match(node.outputs[0], pattern, {}) if pattern[0] == node.kind else None
                )
                if bound is not None and (name != "softmin" or "axis" in node.attributes):
                    return self._read(node, name, bound)
        return None

    def _read(self, node: Node, name: str, bound: Mapping[str, Any]) -> Node:
        arguments = {key[1:]: value for key, value in bound.items() if key.startswith("?")}
        about = {"activation": spelled(name, **arguments), "axis": node.attributes.get("axis")}
        return replace(node, kind=ACTIVATED, inputs=(bound["x"],), attributes=about)

    # --- matching ---------------------------------------------------------------------------

    def _match(self, value: str, pattern: Any, bound: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the words in a pattern stand for, where the value fits it."""
        if not isinstance(pattern, tuple):
            return self._leaf(value, pattern, bound)
        node = self.maker.get(value)
        wanted = [each for each in pattern[1:] if not isinstance(each, dict)]
        if node is None or node.kind != pattern[0] or len(self._reads(node)) != len(wanted):
            return None
        start = (
            self._attributes(node, pattern[-1], bound)
            if isinstance(pattern[-1], dict)
            else dict(bound)
        )
        if start is None:
            return None
        reads = self._reads(node)
        both = node.kind in _BOTH_WAYS and len(reads) == 2
        for inputs in permutations(reads) if both else [reads]:
            if (found := self._all(inputs, wanted, start)) is not None:
                return found
        return None

    def _reads(self, node: Node) -> tuple[str, ...]:
        """What a pattern says of a node's inputs: not the axes of a reduction."""
        reads = tuple(name for name in node.inputs if name)
        return reads[:1] if node.kind == "ReduceMean" else reads

    def _all(
        self, inputs: Sequence[str], wanted: Sequence[Any], bound: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        found: dict[str, Any] | None = dict(bound)
        for value, pattern in zip(inputs, wanted, strict=True):
            found = self._match(value, pattern, found) if found is not None else None
        return found

    def _leaf(self, value: str, pattern: Any, bound: Mapping[str, Any]) -> dict[str, Any] | None:
        number = self.number(value)
        if isinstance(pattern, float):
            fits = number is not None and isclose(number, pattern, rel_tol=1e-3)
            return dict(bound) if fits else None
        given: Any = number
        if not pattern.startswith("?"):
            given = None if value in self.graph.constants else value
        if given is None or bound.get(pattern, given) != given:
            return None
        return {**bound, pattern: given}

    def _attributes(
        self, node: Node, wanted: Mapping[str, Any], bound: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        found = dict(bound)
        for key, value in wanted.items():
            standard = DEFAULTS.get(node.kind, {}).get(key)
            given: Any = self._axes(node) if key == "axes" else node.attributes.get(key, standard)
            if given is None or (isinstance(value, str) and found.get(value, given) != given):
                return None
            if isinstance(value, float) and not isclose(given, value, rel_tol=1e-3):
                return None
            if isinstance(value, str):
                found[value] = given
        return found

    def number(self, value: str) -> float | None:
        """The one number of a constant that is not learnt, as short as float32 allows."""
        parts = self.graph.parts.get(value, (value,))
        array = None if any(map(self.graph.told.learnt, parts)) else self.graph.constants.get(value)
        if array is None or array.size != 1:
            return None
        return float(str(np.float32(array.reshape(-1)[0])))

    # --- normalisations ---------------------------------------------------------------------

    def _made(self, value: str, kind: str) -> Node | None:
        node = self.maker.get(value)
        return node if node is not None and node.kind == kind else None

    def _group_norm(self, node: Node) -> Node | None:
        """Reshape (n, groups, ...), InstanceNormalization, Reshape back, as before opset 18."""
        norm = (
            self._made(node.inputs[0], "InstanceNormalization") if node.kind == "Reshape" else None
        )
        split = self._made(norm.inputs[0], "Reshape") if norm else None
        shapes = self.graph.shapes
        if norm is None or split is None or shapes[split.inputs[0]] != shapes[node.outputs[0]]:
            return None
        factors = [self.graph.constants.get(name) for name in norm.inputs[1:3]]
        if (
            any(array is None for array in factors)
            or shapes[split.outputs[0]][0] != self.graph.batch
        ):
            return None
        if np.any(np.asarray(factors[0]) != 1) or np.any(np.asarray(factors[1]) != 0):
            return None
        groups = shapes[split.outputs[0]][1]
        about = {"groups": groups, "epsilon": norm.attributes.get("epsilon", 1e-5)}
        return replace(node, kind=GROUP_NORM, inputs=(split.inputs[0],), attributes=about)

    def _layer_norm(self, node: Node) -> Node | None:
        """As exporters before opset 17 write it; scale and shift follow."""
        for pattern in _LAYER_NORMS if node.kind == "Div" else ():
            if (bound := self._match(node.outputs[0], pattern, {})) is not None:
                about = {"axes": bound["axes"], "epsilon": bound["?epsilon"]}
                return replace(node, kind=LAYER_NORM, inputs=(bound["x"],), attributes=about)
        return None

    def _axes(self, node: Node) -> tuple[int, ...] | None:
        """The axes of a reduction that keeps its dimensions."""
        given = self._reduced(node)
        if given is None or not node.attributes.get("keepdims", 1):
            return None
        rank = len(self.graph.shapes[node.inputs[0]])
        return tuple(sorted(int(axis) % rank for axis in np.asarray(given).reshape(-1)))

    # --- channels in another order ------------------------------------------------------------

    def _shuffle(self, node: Node) -> Node | None:
        """ShuffleNet's: Reshape to (n, groups, channels / groups, ...), axes exchanged, Reshape."""
        turned = self._made(node.inputs[0], "Transpose") if node.kind == "Reshape" else None
        split = self._made(turned.inputs[0], "Reshape") if turned else None
        if turned is None or split is None:
            return None
        shapes = self.graph.shapes
        given, inside = shapes[split.inputs[0]], shapes[split.outputs[0]]
        swapped = (0, 2, 1, *range(3, len(inside)))
        fits = (
            len(inside) == len(given) + 1
            and inside[3:] == given[2:]
            and tuple(turned.attributes.get("perm", ())) == swapped
        )
        if (
            not fits
            or shapes[node.outputs[0]] != given
            or not inside[0] == given[0] == self.graph.batch
        ):
            return None
        return replace(node, kind=SHUFFLE, inputs=(split.inputs[0],), attributes={})

    # --- blocks of px that become channels, and back ------------------------------------------

    def _blocks(self, node: Node) -> Node | None:
        """SpaceToDepth and DepthToSpace by Reshape, Transpose, Reshape; channels in any order."""
        turned = self._made(node.inputs[0], "Transpose") if node.kind == "Reshape" else None
        split = self._made(turned.inputs[0], "Reshape") if turned else None
        if turned is None or split is None:
            return None
        shapes, perm = self.graph.shapes, tuple(turned.attributes.get("perm", ()))
        names = (split.inputs[0], split.outputs[0], node.outputs[0])
        given, inside, out = (shapes[name] for name in names)
        if not len(given) == len(out) == len(perm) - 2 == 4:
            return None
        if inside[0] != self.graph.batch or perm[0] != 0:
            return None
        n, depth, rows, columns = given
        if sorted(perm[1:4]) == [1, 3, 5] and perm[4:] == (2, 4):
            kind, size = "SpaceToDepth", inside[3]
            fits = inside == (n, depth, rows // size, size, columns // size, size)
            fits = fits and out == (n, depth * size**2, rows // size, columns // size)
        else:
            kind, size = "DepthToSpace", inside[perm[3]]
            fits = (
                sorted(perm[1::2]) == [1, 2, 3]
                and perm[2::2] == (4, 5)
                and inside[4:] == (rows, columns)
            )
            fits = fits and out == (n, depth // size**2, rows * size, columns * size)
        if not fits:
            return None
        return replace(node, kind=kind, inputs=split.inputs[:1], attributes={"blocksize": size})

    # --- stacks -----------------------------------------------------------------------------

    def _stacked(self, node: Node) -> Node | None:
        """The sum, or mean, over the axis along which maps were stacked: theirs."""
        kind = {"ReduceSum": "Sum", "ReduceMean": "Mean"}.get(node.kind)
        axis = self._left_out(node) if kind else None
        maps = self._maps(node.inputs[0], axis) if axis is not None else ()
        return replace(node, kind=kind, inputs=maps, attributes={}) if kind and maps else None

    def _summed(self, node: Node) -> Node | None:
        """The sum over groups of channels, or over stacked maps, each channel with a weight or not:
        split attention.
        """
        if node.kind != "ReduceSum" or self._left_out(node) != 1:
            return None
        whole = (*self.graph.shapes[node.inputs[0]][:3], 1, 1)
        product = self._made(node.inputs[0], "Mul")
        for stack, *weights in permutations(product.inputs) if product else ((node.inputs[0],),):
            maps = self._maps(stack, 1) or self._groups(stack)
            if maps and all(self.graph.shapes.get(name) == whole for name in weights):
                return replace(node, kind=GROUP_SUM, inputs=(*maps, *weights), attributes={})
        return None

    def _left_out(self, node: Node) -> int | None:
        """The one axis that a reduction leaves out."""
        given = self._reduced(node)
        axes = [int(axis) for axis in np.asarray([] if given is None else given).reshape(-1)]
        if len(axes) != 1 or axes[0] < 0 or node.attributes.get("keepdims", 1):
            return None
        return axes[0]

    def _reduced(self, node: Node) -> Any:
        """The axes that a reduction names, None where it names none."""
        if len(node.inputs) > 1:
            return self.graph.constants.get(node.inputs[1])
        return node.attributes.get("axes")

    def _maps(self, value: str, axis: int) -> tuple[str, ...]:
        """The maps that were stacked along an axis."""
        stack, shapes = self._made(value, "Concat"), self.graph.shapes
        parts = [self._made(name, "Unsqueeze") for name in stack.inputs] if stack else []
        whole = list(shapes[value]) if parts else []
        one = [*whole[:axis], 1, *whole[axis + 1 :]]
        if (
            stack is None
            or stack.attributes["axis"] != axis
            or any(list(shapes[name]) != one for name in stack.inputs)
        ):
            return ()
        maps = tuple(part.inputs[0] for part in parts if part)
        return maps if len(maps) == len(parts) else ()

    def _groups(self, value: str) -> tuple[str, ...]:
        """The map that was parted into (n, groups, channels / groups, height, width)."""
        split, shapes = self._made(value, "Reshape"), self.graph.shapes
        inside, given = shapes.get(value, ()), shapes.get(split.inputs[0], ()) if split else ()
        parted = len(inside) == 5 and len(given) == 4 and inside[3:] == given[2:]
        whole = split and parted and inside[0] == given[0] == self.graph.batch
        return split.inputs[:1] if split and whole else ()

    def _pooled(self, node: Node) -> Node | None:
        """Adaptive average pooling, with windows that differ."""
        source = adaptive(self.graph, self.maker, node)
        return replace(node, kind=ADAPTIVE, inputs=(source,), attributes={}) if source else None

    def _picked(self, node: Node) -> Node | None:
        """Numbers in a row, all picked in their order: as_strided of PyTorch's mean."""
        row = self._made(node.inputs[0], "Reshape") if node.kind == "Gather" else None
        picked = self.graph.constants.get(node.inputs[1]) if row else None
        if (
            row is None
            or picked is None
            or self.graph.shapes[row.inputs[0]] != self.graph.shapes[node.outputs[0]]
        ):
            return None
        whole = len(self.graph.shapes[node.inputs[0]]) == 1 and np.array_equal(
            picked.reshape(-1), range(picked.size)
        )
        return (
            replace(node, kind="Identity", inputs=row.inputs[:1], attributes={}) if whole else None
        )

    def _plain(self, node: Node) -> Node | None:
        """A product of rows (n, 1, ..., ...): of the rows before they got the side of 1 for it."""
        sides = [self.graph.shapes.get(name, ()) for name in node.inputs]
        if node.kind != "MatMul" or any(len(each) != 4 or each[1] != 1 for each in sides):
            return None
        inputs = tuple(map(self._narrower, node.inputs))
        return replace(node, inputs=inputs) if inputs != node.inputs else None

    def _narrower(self, value: str) -> str:
        """Of rows behind a side of 1, the rows."""
        widened, shapes = self._made(value, "Unsqueeze"), self.graph.shapes
        widened = widened or self._made(value, "Reshape")
        given = shapes.get(widened.inputs[0], ()) if widened else ()
        same = len(given) == 3 and (given[0], 1, *given[1:]) == shapes[value]
        return widened.inputs[0] if widened and same else value

    # --- gates ------------------------------------------------------------------------------

    def _glu(self, node: Node) -> Node | None:
        """The first half of the channels, times the sigmoid of the second."""
        if node.kind != "Mul":
            return None
        for first, gate in permutations(node.inputs):
            sigmoid = self._made(gate, "Sigmoid")
            parts = [self._half(first), self._half(sigmoid.inputs[0])] if sigmoid else []
            if parts and parts[0] and parts[1] == (*parts[0][:2], 1) and parts[0][2] == 0:
                name, axis, _ = parts[0]
                return replace(node, kind=GLU, inputs=(name,), attributes={"axis": axis})
        return None

    def _half(self, value: str) -> tuple[str, int, int] | None:
        """(what is halved, axis, which half)."""
        node = self.maker.get(value)
        if node is None or node.kind not in ("Split", "Slice"):
            return None
        whole, part = self.graph.shapes[node.inputs[0]], self.graph.shapes[value]
        axes = [axis for axis, (n, m) in enumerate(zip(whole, part, strict=True)) if n != m]
        if len(axes) != 1 or whole[axes[0]] != 2 * part[axes[0]]:
            return None
        if node.kind == "Split":
            return node.inputs[0], axes[0], node.outputs.index(value)
        starts = self.graph.constants.get(node.inputs[1])
        first = -1
        if starts is not None and starts.size == 1:
            first = int(starts.reshape(-1)[0]) % whole[axes[0]]
        if len(node.inputs) > 4 or first % part[axes[0]]:  # every so many-th, or no half
            return None
        return node.inputs[0], axes[0], first // part[axes[0]]
