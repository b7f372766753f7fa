"""Programs whose batch leaves the first axis for a while, rewritten so that it stays there."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from convwise.core.windows import Shape
from convwise.formats.torch.program import Node, Program, Ref

SHAPED = ("view", "reshape", "_unsafe_view")
PADS = ("pad", "constant_pad_nd")
SUMS = ("sum", "mean")


def batch_first(program: Program) -> Program:
    """The same program where two ways of the field are undone; another is left as it is.

    Convolutions by a kernel of each image's own take the images as groups of channels of one image;
    maps are stacked along a new first axis, and summed over it.
    """
    return _unstacked(_ungrouped(program))


def one_by_one(program: Program) -> bool:
    """Whether a loop goes over the images of a batch: all that it does is there once for each."""
    taken = Counter[str]()
    for node in program.nodes:
        first = next(iter(node.reads), "")
        whole = program.shapes.get(first, ())[:1] == (program.batch,)
        if not whole or first in program.stored or node.arguments.get("dim", 0) != 0:
            continue
        if node.operator in ("unbind", "select"):
            taken[first] += program.batch if node.operator == "unbind" else 1
    return max(taken.values(), default=0) >= program.batch


def some_alone(program: Program) -> bool:
    """Whether a program looks at some images of its batch alone: nobody knows what one costs."""
    taken = set[int]()
    for node in (node for node in program.nodes if program.image in node.reads):
        given, sides = node.arguments, program.shapes.get(node.name, ())
        if given.get("dim", 0) != 0 or node.operator not in ("select", "slice"):
            return False
        first = given.get("index", given.get("start") or 0)
        if not isinstance(first, int):
            return False
        first %= program.batch
        taken.update(range(first, first + (1 if "index" in given else sides[0])))
    return 0 < len(taken) < program.batch


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
        whole, groups = shapes[first[0]], given.get("groups", 1)
        if node.operator in PADS and len(given["pad"]) <= 4 and len(side) == 4:
            shapes[node.name] = (batch, whole[1], *side[2:])
            grouped.add(node.name)
        elif node.operator == "conv2d" and groups % batch == 0 and side[1] % batch == 0:
            node = replace(node, arguments={**given, "groups": groups // batch})
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
    if grouped & {*program.outputs}:
        return program
    return replace(program, nodes=tuple(nodes), shapes=shapes)


def _unstacked(program: Program) -> Program:
    """The sum over a stack as the sum of what was stacked."""
    readers: dict[str, list[Node]] = {}
    for node in program.nodes:
        for name in node.reads:
            readers.setdefault(name, []).append(node)
    stacks = {}
    for node in program.nodes:
        first = node.operator == "stack" and node.arguments.get("dim", 0) == 0
        summed = all(map(_over_first, readers.get(node.name, ())))
        if first and summed and node.name not in program.outputs:
            stacks[node.name] = node.arguments["tensors"]
    shapes, nodes = dict(program.shapes), list[Node]()
    for node in program.nodes:
        if node.name in stacks:
            continue
        parts = stacks.get(node.reads[0]) if node.reads and node.operator in SUMS else None
        nodes += _added(node, parts, shapes) if parts else [node]
    return replace(program, nodes=tuple(nodes), shapes=shapes) if stacks else program


def _over_first(node: Node) -> bool:
    """Whether it sums over the first axis."""
    given = node.arguments
    return node.operator in SUMS and given.get("dim") in (0, [0]) and not given.get("keepdim")


def _added(node: Node, parts: list[Ref], shapes: dict[str, Shape]) -> list[Node]:
    """The parts added up one by one, or their mean, under the node's name in the end."""
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
