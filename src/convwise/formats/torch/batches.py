"""Programs in which the batch leaves the first axis for a while, and how they read where it stays there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from convwise.core.windows import Shape
from convwise.formats.torch.pt2 import Node, Program, Ref

SHAPED = ("view", "reshape", "_unsafe_view")
PADS = ("pad", "constant_pad_nd")
SUMS = ("sum", "mean")


def batch_first(program: Program) -> Program:
    """The same program where two ways of the field are undone; another is left as it is.

    Convolutions by a kernel of each image's own take the images as groups of channels of one image; maps are
    stacked along a new first axis, and summed over it.
    """
    return _unstacked(_ungrouped(program))


def one_by_one(program: Program) -> bool:
    """Whether a loop goes over the images of a batch, which makes all of what it does as many times."""
    taken = Counter[str]()
    for node in program.nodes:
        first = node.reads[:1]
        whole = first and first[0] not in program.stored and program.shapes.get(first[0], ())[:1] == (program.batch,)
        if whole and node.operator in ("unbind", "select") and node.arguments.get("dim", 0) == 0:
            taken[first[0]] += program.batch if node.operator == "unbind" else 1
    return max(taken.values(), default=0) >= program.batch


def _ungrouped(program: Program) -> Program:
    """Images as channels of one, up to the convolution of as many groups and back."""
    batch, old = program.batch, program.shapes
    shapes, nodes, grouped = dict(old), list[Node](), set[str]()
    for node in program.nodes:
        first, side, given = node.reads[:1], old.get(node.name, ()), node.arguments
        if any(name in grouped for name in node.reads[1:]):
            return program
        if not first or first[0] not in grouped:
            whole = old.get(first[0], ()) if first else ()
            images = len(whole) == 4 and whole[0] == batch > 1
            if images and node.operator in SHAPED and side == (1, batch * whole[1], *whole[2:]):
                node, shapes[node.name] = _same(node, first[0]), whole
                grouped.add(node.name)
            nodes.append(node)
            continue
        whole = shapes[first[0]]
        if node.operator in PADS and len(given["pad"]) <= 4 and len(side) == 4:
            shapes[node.name] = (batch, whole[1], *side[2:])
            grouped.add(node.name)
        elif node.operator == "conv2d" and given.get("groups", 1) % batch == 0 and side[1] % batch == 0:
            node = replace(node, arguments={**given, "groups": given["groups"] // batch})
            shapes[node.name] = (batch, side[1] // batch, *side[2:])
            grouped.add(node.name)
        elif node.operator == "permute" and given.get("dims") == [1, 0, 2, 3]:
            node, shapes[node.name] = _same(node, first[0]), whole
            grouped.add(node.name)
        elif node.operator in SHAPED and side == whole:
            node = _same(node, first[0])
        else:
            return program
        nodes.append(node)
    return program if grouped & {*program.outputs} else replace(program, nodes=tuple(nodes), shapes=shapes)


def _unstacked(program: Program) -> Program:
    """The sum over a stack as the sum of what was stacked."""
    readers: dict[str, list[Node]] = {}
    for node in program.nodes:
        for name in node.reads:
            readers.setdefault(name, []).append(node)
    stacks = {
        node.name: node.arguments["tensors"]
        for node in program.nodes
        if node.operator == "stack" and node.arguments.get("dim", 0) == 0 and node.name not in program.outputs
        and all(each.operator in SUMS and _over_first(each.arguments) for each in readers.get(node.name, ()))
    }  # fmt: skip
    shapes, nodes = dict(program.shapes), list[Node]()
    for node in program.nodes:
        if node.name in stacks:
            continue
        parts = stacks.get(node.reads[0]) if node.reads and node.operator in SUMS else None
        nodes += _added(node, parts, shapes) if parts else [node]
    return replace(program, nodes=tuple(nodes), shapes=shapes) if stacks else program


def _over_first(given: Mapping[str, object]) -> bool:
    return given.get("dim") in (0, [0]) and not given.get("keepdim")


def _added(node: Node, parts: list[Ref], shapes: dict[str, Shape]) -> list[Node]:
    """The parts added up one by one, the sum under the node's name; divided by their number where it is a mean."""
    mean = node.operator == "mean"
    names = [f"{node.name}.{i}" for i in range(1, len(parts))]
    if not mean and names:
        names[-1] = node.name
    shapes |= dict.fromkeys(names, shapes[node.name])
    before = [parts[0], *map(Ref, names)]
    found = [
        Node(name, "add", {"self": last, "other": part}, (name,), node.stack)
        for name, last, part in zip(names, before, parts[1:], strict=False)
    ]
    if mean or not names:
        given = {"self": before[len(names)], "other": len(parts)}
        found.append(Node(node.name, "div", given, (node.name,), node.stack))
    return found


def _same(node: Node, name: str) -> Node:
    return replace(node, operator="alias", arguments={"self": Ref(name)})
