"""Which call of a module an operator is of, and the name of the layer that it becomes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from convwise.formats.torch.modules import OWN
from convwise.formats.torch.program import Node


def groups(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    """Nodes of one call of a module of ours or of an activation together, all others alone."""
    group: list[Node] = []
    for node in nodes:
        if group and not (_grouped(node) and node.call == group[-1].call):
            yield group
            group = []
        group.append(node)
        if not _grouped(node):
            yield group
            group = []
    if group:
        yield group


def _grouped(node: Node) -> bool:
    return is_of(node, *OWN, "LocalResponseNorm", "Softsign", "Tanhshrink", "Softmin")


def is_of(node: Node, *kinds: str) -> bool:
    """Whether a node is of the innermost call of a module of these kinds."""
    return bool(node.stack) and node.stack[-1][2].rpartition(".")[2] in kinds


def name_of(node: Node) -> str:
    """The module's path; with the operator where a module that is not torch's does several."""
    path, kind = node.stack[-1][1:] if node.stack else ("", "")
    leaf = kind.startswith("torch.nn.") or kind.rpartition(".")[2] in OWN
    operator = node.operator.removesuffix("_").strip("_").removesuffix("2d") if not leaf else ""
    return "_".join(part for part in (path, operator) if part) or node.operator
