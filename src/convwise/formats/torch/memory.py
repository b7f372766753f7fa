"""Which tensors lie over the same memory: a write in place through one changes all of them."""

from __future__ import annotations

from collections.abc import Sequence

from convwise.formats.torch.program import Node

# Operators whose outputs are, or may be, their first argument seen in another way.
VIEWS = frozenset((
    "alias", "as_strided", "chunk", "contiguous", "detach", "diagonal", "dropout", "expand",
    "expand_as", "feature_dropout", "flatten", "mT", "movedim", "narrow", "numpy_T", "permute",
    "real", "reshape", "reshape_as", "select", "slice", "split", "split_with_sizes", "squeeze",
    "swapaxes", "swapdims", "t", "tensor_split", "to", "transpose", "type_as", "unbind",
    "unflatten", "unfold", "unsqueeze", "view", "view_as",
))  # fmt: skip


class Memory:
    """Follows views and writes through a program, node by node in its order."""

    def __init__(self, nodes: Sequence[Node], outputs: Sequence[str]) -> None:
        self.place = {node.name: i for i, node in enumerate(nodes)}
        self.last_read = {name: i for i, node in enumerate(nodes) for name in node.reads}
        self.last_read |= dict.fromkeys(outputs, len(nodes))
        self.over: dict[str, list[str]] = {}  # of each tensor, all that lie over its memory

    def changed(self, node: Node) -> list[str]:
        """The tensors besides its own output that the node writes to and a later node reads."""
        writes = node.operator.endswith("_") and not node.operator.endswith("__")
        if not node.reads or not (writes or node.operator in VIEWS):
            return []
        base = node.reads[0]
        over = self.over.setdefault(base, [base])
        now = self.place[node.name]
        found = [name for name in over if self.last_read.get(name, -1) > now] if writes else []
        over += [name for name in node.outputs if name]
        self.over |= dict.fromkeys(node.outputs, over)
        return found
