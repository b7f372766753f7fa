"""Operators in the order in which they run, and what stands for an If or a fused one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

import onnx
from onnx import helper

from convwise.core.problems import UnusableInput

MICROSOFT = "com.microsoft"


def in_order(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The operators, each behind those that it reads, otherwise as they are. UnusableInput where
    they go in a circle.

    The format asks files for such an order, and ONNX Runtime does not.
    """
    makers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    waits = [
        {makers[name] for name in (*node.input, *outer(node)) if name in makers} for node in nodes
    ]
    readers: dict[int, list[int]] = {}
    for i, before in enumerate(waits):
        for other in before:
            readers.setdefault(other, []).append(i)
    missing = [len(before) for before in waits]
    ready, found = [i for i, count in enumerate(missing) if not count], list[onnx.NodeProto]()
    while ready:
        i = heappop(ready)
        found.append(nodes[i])
        for reader in readers.get(i, ()):
            missing[reader] -= 1
            if not missing[reader]:
                heappush(ready, reader)
    if len(found) < len(nodes):
        circle = next(node for node, count in zip(nodes, missing, strict=True) if count)
        what = (
            f"has an operator {circle.name or circle.output[0]} ({circle.op_type}) that reads what"
            " comes of it"
        )
        raise UnusableInput("model", what, "a graph without circles")
    return found


def outer(node: onnx.NodeProto) -> Iterator[str]:
    """What the subgraphs of an operator read of the graph around it."""
    for graph in (graph for a in node.attribute for graph in (a.g, *a.graphs)):
        made = {name for each in graph.node for name in each.output}
        own = {each.name for each in (*graph.input, *graph.initializer)} | made
        reads = [name for each in graph.node for name in (*each.input, *outer(each))]
        yield from (
            name
            for name in (*reads, *(value.name for value in graph.output))
            if name and name not in own
        )


@dataclass(frozen=True)
class Steps:
    """Operators that stand for one; by name the weights that they bring, and what the file declares
    of tensors.
    """

    nodes: Sequence[onnx.NodeProto]
    tensors: Mapping[str, onnx.TensorProto] = field(default_factory=dict)
    declared: Mapping[str, onnx.ValueInfoProto] = field(default_factory=dict)


# --- branches -------------------------------------------------------------------------------


def taken(node: onnx.NodeProto, condition: bool) -> Steps:
    """What an If does where its condition is this. UnusableInput where it lacks the branch.

    Exporters write such an If where a step hangs on a shape, as squeezing an axis does. Tensors
    made inside get names that are those of this If alone: both branches, and those of others, may
    have the same.
    """
    wanted = "then_branch" if condition else "else_branch"
    graph = next((each.g for each in node.attribute if each.name == wanted), None)
    if graph is None or len(graph.output) < len(node.output) or graph.sparse_initializer:
        what = f"has no {wanted} that gives its {len(node.output)} outputs"
        raise UnusableInput(f"operator {node.name or node.output[0]} (If)", what, "a whole model")
    made = [
        *(each.name for each in graph.initializer),
        *(name for each in graph.node for name in each.output),
    ]
    names = {name: f"{node.output[0]}/{name}" for name in made if name}
    nodes = [_renamed(each, names) for each in graph.node]
    ends = zip(graph.output, node.output, strict=False)
    nodes += [
        helper.make_node("Identity", [names.get(end.name, end.name)], [name])
        for end, name in ends
        if name
    ]
    return Steps(
        nodes,
        {names[each.name]: each for each in graph.initializer},
        {
            names[each.name]: each
            for each in (*graph.value_info, *graph.output)
            if each.name in names
        },
    )


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A copy of an operator, and of the graphs inside it, with tensors under their new names."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    for attribute in copy.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            own = {each.name for each in (*graph.input, *graph.initializer)}
            outer = {name: new for name, new in names.items() if name not in own}
            inside = [_renamed(each, outer) for each in graph.node]
            del graph.node[:]
            graph.node.extend(inside)
            for end in graph.output:
                end.name = outer.get(end.name, end.name)
    return copy


# --- fused operators ------------------------------------------------------------------------


def unfused(node: onnx.NodeProto) -> Steps | None:
    """The operators of which ONNX Runtime has made one of its own; None of any other.

    UnusableInput where it has laid them out for one processor. Source: docs/ContribOperators.md of
    ONNX Runtime 1.22.
    """
    where = f"operator {node.name or node.output[0]} ({node.domain}.{node.op_type})"
    if node.domain == f"{MICROSOFT}.nchwc":
        fix = "give the model as it was before, or let ONNX Runtime write it with ORT_ENABLE_BASIC"
        raise UnusableInput(
            where, "was made by ONNX Runtime for one kind of processor", "ONNX's own operators", fix
        )
    parts = _PARTS.get(node.op_type) if node.domain == MICROSOFT else None
    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    written = parts(_Parts(node), given) if parts else None
    return Steps(written) if written else None


class _Parts:
    """Writes operators one after the other, the last of which gives what the whole gave."""

    def __init__(self, node: onnx.NodeProto) -> None:
        self.inputs, self.output, self.name = [*node.input, *[""] * 4], node.output[0], node.name
        self.written: list[onnx.NodeProto] = []

    def add(self, kind: str, *reads: str, **attributes: Any) -> str:
        """One operator more, and the name of what it gives."""
        value = f"{self.output}/{kind}_{len(self.written)}"
        names = [*reads]
        while names and not names[-1]:
            names.pop()
        self.written.append(helper.make_node(kind, names, [value], self.name, **attributes))
        return value

    def whole(self) -> list[onnx.NodeProto]:
        self.written[-1].output[0] = self.output
        return self.written


Parts = Callable[[_Parts, Mapping[str, Any]], "list[onnx.NodeProto] | None"]
# The arguments of the activation of a fused operator, in the order in which they are given.
_ARGUMENTS = {"Relu": (), "Tanh": (), "Sigmoid": (), "LeakyRelu": ("alpha",), "Elu": ("alpha",),
              "HardSigmoid": ("alpha", "beta")}  # fmt: skip


def _activated(parts: _Parts, value: str, given: Mapping[str, Any]) -> list[onnx.NodeProto] | None:
    """With the activation, where it has one."""
    kind = given.get("activation", b"").decode()
    if kind and kind not in _ARGUMENTS:
        return None
    if kind:
        numbers = dict(zip(_ARGUMENTS[kind], given.get("activation_params", ()), strict=False))
        named = {
            key.partition("_")[2]: value
            for key, value in given.items()
            if key.startswith("activation_")
        }
        parts.add(
            kind,
            value,
            **{key: n for key, n in {**named, **numbers}.items() if key in _ARGUMENTS[kind]},
        )
    return parts.whole()


def _own(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if not key.startswith("activation")}


def _conv(parts: _Parts, given: Mapping[str, Any]) -> list[onnx.NodeProto] | None:
    image, kernel, bias, added = parts.inputs[:4]
    value = parts.add("Conv", image, kernel, bias, **_own(given))
    return _activated(parts, parts.add("Add", value, added) if added else value, given)


def _gemm(parts: _Parts, given: Mapping[str, Any]) -> list[onnx.NodeProto] | None:
    return _activated(parts, parts.add("Gemm", *parts.inputs[:3], **_own(given)), given)


def _matmul(parts: _Parts, given: Mapping[str, Any]) -> list[onnx.NodeProto] | None:
    if (
        any(given.get(key) for key in ("transA", "transB", "transBatchA", "transBatchB"))
        or given.get("alpha", 1) != 1
    ):
        return None
    parts.add("MatMul", *parts.inputs[:2])
    return parts.whole()


def _gelu(approximate: str) -> Parts:
    def made(parts: _Parts, given: Mapping[str, Any]) -> list[onnx.NodeProto]:
        value = parts.add("Add", *parts.inputs[:2]) if parts.inputs[1] else parts.inputs[0]
        parts.add("Gelu", value, approximate=approximate)
        return parts.whole()

    return made


def _quick_gelu(parts: _Parts, given: Mapping[str, Any]) -> list[onnx.NodeProto]:
    """x sigmoid(alpha x), alpha 1.702 unless it is told."""
    image = value = parts.inputs[0]
    if (alpha := given.get("alpha", 1.702)) != 1:
        factor = parts.add("Constant", value_float=alpha)
        value = parts.add("Mul", image, factor)
    parts.add("Mul", image, parts.add("Sigmoid", value))
    return parts.whole()


_PARTS: dict[str, Parts] = {
    "FusedConv": _conv,
    "FusedGemm": _gemm,
    "FusedMatMul": _matmul,
    "Gelu": _gelu("none"),
    "BiasGelu": _gelu("none"),
    "FastGelu": _gelu("tanh"),
    "QuickGelu": _quick_gelu,
}
