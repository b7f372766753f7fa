"""Which of an ONNX file's numbers count as parameters, and of which layer: each is counted once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from convwise.core.problems import Problem
from convwise.formats.onnx.graph import Graph
from convwise.formats.onnx.learnt import FEW, is_plain
from convwise.formats.onnx.nodes import Node
from convwise.formats.onnx.rules import is_learnt, weights_of


class Counted:
    """What the layers read so far hold.

    tied: for each layer, how many of its weights an earlier one holds. learnt: for each layer,
    numbers that are no weights of its type. sources: for each layer, the constants that its weights
    are.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.tied: Counter[str] = Counter()
        self.learnt: Counter[str] = Counter()
        self.sources: dict[str, tuple[str, ...]] = {}
        # Constants that a layer reads, or an unknown operator has been given
        self._read: set[str] = set()
        self._held: set[str] = set()  # those of them that are weights
        # Few numbers that are counted since they are called as a module's are
        self._by_name: set[str] = set()
        self._open: set[str] = set()  # few numbers that may be learnt, and are not counted

    def params(self, rows: Mapping[str, int]) -> dict[str, int]:
        """How many params the layers hold that share some, or hold numbers besides.

        rows: layer -> the params of its type.
        """
        names = {*self.tied, *self.learnt} & rows.keys()  # not of what a mirrored view says again
        return {name: max(rows[name] - self.tied[name], 0) + self.learnt[name] for name in names}

    def read(self, names: Iterable[str]) -> None:
        """A layer reads these."""
        self._read.update(map(self._root, names))

    def parts(self, name: str) -> Iterable[str]:
        """What a constant is made of; itself, where the file holds it."""
        return self.graph.parts.get(name, (name,))

    def _root(self, name: str) -> str:
        return self.graph.roots.get(name, name)

    # --- weights ----------------------------------------------------------------------------

    def hold(self, layer: str, names: Sequence[str]) -> None:
        """A layer's weights are these constants, its own where no earlier layer has them."""
        roots = tuple(map(self._root, names))
        again = sum(
            self.graph.constants[name].size
            for name, root in zip(names, roots, strict=True)
            if root in self._held
        )
        if again:
            self.tied[layer] += again
        self._held.update(roots)
        self.sources[layer] = (*self.sources.get(layer, ()), *roots)

    def hold_parts(self, layer: str, names: Sequence[str]) -> None:
        """A weight that is worked out of others, such as gains, holds them as well."""
        for name in names:
            parts = self.graph.parts.get(name, frozenset()) - self._held
            arrays = {
                part: self.graph.constants[part] for part in parts if part in self.graph.constants
            }
            learnt = {
                part: array.size
                for part, array in arrays.items()
                if is_learnt(array) and np.ptp(array)
            }
            more = sum(learnt.values()) - self.graph.constants[name].size
            if more > 0:
                self.learnt[layer] += more
            self._held.update(learnt)

    def hold_learnt(self, layer: str, names: Sequence[str], count: int) -> None:
        """A layer without weights learns so many numbers, which are the first of these constants,
        unless an earlier one holds it.
        """
        if self._root(names[0]) not in self._held:
            self.learnt[layer] = count
        self._held.update(map(self._root, names))

    def of_unknown(self, node: Node) -> int:
        """The numbers of an unknown operator's weights, each counted once; -1 where not known."""
        weights = weights_of(node, self.graph)
        if weights is None or self.graph.hidden & set(weights):
            return -1
        fresh = {self._root(name): name for name in weights if self._root(name) not in self._read}
        self._read.update(fresh)
        self._held.update(fresh)
        return sum(self.graph.constants[name].size for name in fresh.values())

    # --- single numbers ---------------------------------------------------------------------

    def few(self, node: Node) -> Iterator[str]:
        """The few numbers, single or per channel, that meet a map here and are or may be learnt."""
        for name in node.inputs:
            array = self.graph.constants.get(name)
            if array is None or array.size > FEW or array.dtype.kind in "iubOSU":
                continue
            if self._root(name) not in self._held:
                parts = self.parts(name)
                yield from (part for part in parts if self.graph.constants[part].size <= FEW)

    def learn(self, layer: str, part: str, prepares: bool) -> None:
        """What a layer learns by one of the file's few numbers.

        prepares: whether the layer only scales and shifts images.
        """
        told, array = self.graph.told, self.graph.constants[part]
        if told.whole:
            for name in told.parameters.get(part, frozenset()) - self._held:
                self.learnt[layer] += self.graph.constants.get(name, array).size
                self._held.add(name)
        elif part in told.stored and part not in self._held and not (prepares and array.size > 1):
            if part in told.named and not prepares:
                self.learnt[layer] += array.size
                self._held.add(part)
                self._by_name.add(part)
            elif part in told.named or not is_plain(array):
                self._open.add(part)

    def left_open(self) -> Iterator[Problem]:
        """That the file leaves it open whether some single numbers are learnt."""
        for names in filter(None, (self._by_name, self._open)):
            count = sum(self.graph.constants[name].size for name in names)
            told = f"{count} single number{'s' * (count > 1)}"
            named = ", ".join(sorted(names)[:3]) + ", ..." * (len(names) > 3)
            what = (
                f"counts {told} among the parameters by name ({named}); the file does not tell"
                " parameters from buffers"
            )
            if names is self._open:
                what = (
                    f"does not count {told} ({named}): the file does not tell what is learnt from"
                    " the constants of formulas, so the number of parameters is a lower bound"
                )
            yield Problem("model", what, severity="note", count=count)
