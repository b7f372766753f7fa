"""The walk from a program of ATen operators to a net.

PyTorch's maps are (n, channels, height, width), ours (height, width, channels). Where a model moves
numbers (permute, flatten, view), no layer is made at first: `Seen` remembers where each number of a
tensor lies in the layer that gives it, and the layers that read it turn their weights accordingly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, permutations
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core.geometry import GEOMETRY
from convwise.core.layers import Activation, Flatten, Layer, Opaque, Reshape
from convwise.core.parameters import Pads, Pair
from convwise.core.problems import Problem, UnusableInput
from convwise.core.windows import Shape
from convwise.formats.lifted import Draft
from convwise.formats.torch.memory import Memory
from convwise.formats.torch.modules import OWN
from convwise.formats.torch.pt2 import Node, Program, Ref

Order = tuple[int, ...]
Array = NDArray[Any]
MOST_MOVED = 2**27  # numbers of a tensor whose moves are followed
ANYWHERE = ("linear", "addmm", "mm", "matmul")  # what is told also where the batch is not the first axis


class Tied(Exception):
    """Weights that another layer holds in another form: a net cannot say so, and they must not count twice."""


@dataclass(frozen=True)
class Seen:
    """A tensor: the layer that gives its numbers, that layer's shape, and the place of each number in it.

    places: an array of the tensor's own shape, without the batch; None where it is a map with its
    channels first, or any other shape in our order.
    """

    value: int
    shape: Shape
    places: NDArray[np.int64] | None = None

    @property
    def torch_shape(self) -> Shape:
        if self.places is not None:
            return self.places.shape
        return tuple(self.shape[axis] for axis in standard_order(len(self.shape)))

    @property
    def index(self) -> NDArray[np.int64]:
        """The places, spelled out."""
        return placed(self.shape, standard_order(len(self.shape))) if self.places is None else self.places

    @property
    def order(self) -> Order | None:
        """Our axes in the order of the tensor's, where numbers were moved by whole axes only."""
        if self.places is None:
            return standard_order(len(self.shape))
        return next((order for order, shape in orders(self.places) if shape == self.shape), None)


def standard_order(rank: int) -> Order:
    """Our axes in PyTorch's order: channels first in a map."""
    return (2, 0, 1) if rank == 3 else tuple(range(rank))


def placed(shape: Shape, order: Order) -> NDArray[np.int64]:
    """The places of a layer's numbers, with its axes in another order."""
    return np.arange(prod(shape)).reshape(shape).transpose(order)


def orders(places: NDArray[np.int64]) -> Iterator[tuple[Order, Shape]]:
    """Every (order, our shape) of which the places are those; channels first first."""
    rank = places.ndim
    for order in dict.fromkeys([standard_order(rank), *permutations(range(rank))]):
        shape = [0] * rank
        for axis, size in zip(order, places.shape, strict=True):
            shape[axis] = size
        if np.array_equal(placed(tuple(shape), order), places):
            yield order, tuple(shape)


def per_image(shape: Shape, batch: int) -> Shape:
    """A tensor's sides without the batch: the axis that it is, or else is merged with. The last axis last."""
    whole = [axis for axis, n in enumerate(shape[:-1]) if n == batch]
    merged = [axis for axis, n in enumerate(shape) if n % batch == 0]
    for axis in (whole or merged)[:1]:
        rest = () if shape[axis] == batch else (shape[axis] // batch,)
        return (*shape[:axis], *rest, *shape[axis + 1 :])
    return shape


class Walk:
    """From a program to a net, node by node."""

    def __init__(self, program: Program, input_shape: tuple[int, int, int]) -> None:
        self.program, self.keys = program, count(1)
        self.draft = Draft(input_shape, 0)
        self.values: dict[str, Seen] = {program.image: Seen(0, input_shape)}
        self.folded: dict[str, NDArray[Any] | None] = {}
        # The parameters that a constant is made of, that a layer holds, and that layers of ours hold.
        self.origins = {name: frozenset([name]) for name in program.parameters}
        self.held: dict[str, frozenset[str]] = {}
        self.taken: frozenset[str] = frozenset()
        self.memory = Memory(program.nodes, program.outputs)
        self.pads: dict[str, Pads] = {}  # of values that a max pooling reads
        self.makers = {name: node for node in program.nodes for name in node.outputs}
        self.owners: dict[frozenset[str], str] = {}
        self.uses = Counter([*(name for node in program.nodes for name in node.reads), *program.outputs])

    def run(self, rules: Mapping[str, Rule], composite: Composite, constants: Mapping[str, Constant]) -> None:
        """Fill the draft with the layers of the program."""
        for group in _groups(self.program.nodes):
            reads = [name for node in group for name in node.reads if name in self.values]
            seen = composite(self, group) if self._in_front(reads) else None
            if seen is not None:
                self.values[group[-1].name] = seen
                continue
            for node in group:
                self._read(node, rules, constants)
        self._end()
        self._pruned()
        self._counted()

    def _read(self, node: Node, rules: Mapping[str, Rule], constants: Mapping[str, Constant]) -> None:
        reads = [name for name in node.reads if name in self.values]
        operator = node.operator.removesuffix("_")
        shape = self.program.shapes.get(node.name)
        if shape is None:
            return
        if not reads:
            self.folded[node.name] = _worked_out(self, node, constants)
            self.origins |= dict.fromkeys(node.outputs, self.origin(node))
            self._written(node)
            return
        rule = rules.get(operator) if operator in ANYWHERE or self._in_front([*reads, node.name]) else None
        try:
            seen = (rule(self, node) if rule else None) or self.opaque(node)
        except Tied:
            seen = self.opaque(node)
        sides = per_image(shape, self.program.batch)
        if seen.torch_shape != sides and operator not in ("expand", "expand_as") and node.name not in self.pads:
            what = f"gives {seen.torch_shape} where the model says {sides}"
            where = f"operator {node.name} ({node.operator})"
            raise UnusableInput(where, what, "one shape", "report this model as a bug")
        self.values[node.name] = seen
        for i, name in enumerate(node.outputs[1:], 1):
            if self.uses[name]:
                self.values[name] = self.opaque(replace(node, name=name, outputs=node.outputs[i:]))
        self._written(node)

    def _in_front(self, names: Sequence[str]) -> bool:
        """Whether the first axis of all these tensors is the batch; else it was moved, merged or reduced."""
        return all(self.program.shapes[name][:1] == (self.program.batch,) for name in names)

    def _written(self, node: Node) -> None:
        """What a node changes in place, in the tensors that share memory with its own."""
        for name in self.memory.changed(node):
            if node.name not in self.values:
                self.folded[name] = None
                continue
            both: dict[str, Any] = {"self": Ref(name), "written": Ref(node.name)}
            self.values[name] = self.opaque(replace(node, name=name, outputs=(name,), arguments=both))

    def _end(self) -> None:
        """The output, as the last layer's."""
        if not self.program.outputs or self.program.outputs[0] not in self.values:
            raise UnusableInput("model", "has no output that comes from its image", "a tensor")
        if len(self.program.outputs) > 1:
            what = f"has {len(self.program.outputs)} outputs; the first is read"
            self.draft.problems.append(Problem("model", what, severity="note"))
        seen = self.values[self.program.outputs[0]]
        if seen.places is not None and seen.places.ndim == 1:
            what = "gives a row in the order channels, height, width; here it is height, width, channels"
            self.draft.problems.append(Problem("output", what, severity="note"))
        elif seen.places is not None:
            seen = self.standard(seen)
        self.values[self.program.outputs[0]] = seen
        if not self.draft.layers:
            self.draft.add(next(self.keys), Activation("linear"), "identity", [0])

    def _pruned(self) -> None:
        """Only what the output reads."""
        kept = {self.draft.source(self.values[self.program.outputs[0]].value)} if len(self.draft.layers) > 1 else None
        if kept is None:
            return
        left: list[Layer] = []
        for layer in reversed(self.draft.layers):
            if layer.name in kept:
                kept |= {*layer.inputs, layer.shares}
                left.insert(0, layer)
        self.draft.layers[:] = left
        names = {layer.name for layer in left}
        self.draft.weights = {key: v for key, v in self.draft.weights.items() if key.partition("/")[0] in names}

    def _counted(self) -> None:
        """Opaque layers with the parameters that no other layer holds; a note of those that nothing reads."""
        counted = {name for layer in self.draft.layers if not isinstance(layer, Opaque) for name in self._holds(layer)}
        for i, layer in enumerate(self.draft.layers):
            if isinstance(layer, Opaque):
                held = self._holds(layer)
                self.draft.layers[i] = replace(layer, params=self._size(held - counted))
                counted |= held
        unread = self.program.parameters - {name for node in self.program.nodes for name in node.reads}
        if unread:
            named = ", ".join(name.removeprefix("p_") for name in sorted(unread)[:3]) + ", ..." * (len(unread) > 3)
            what = f"has {self._size(unread):,} parameters that its forward never reads ({named}); they are left out"
            self.draft.problems.append(Problem("model", what, severity="note", count=len(unread)))

    def _holds(self, layer: Layer) -> frozenset[str]:
        return self.held.get(layer.name, frozenset())

    def _size(self, parameters: frozenset[str]) -> int:
        return sum(prod(self.program.shapes[name]) for name in parameters)

    # --- what rules use ---

    def seen(self, value: Any) -> Seen | None:
        """The tensor that an argument stands for, if it comes from the image."""
        return self.values.get(value.name) if isinstance(value, Ref) else None

    def first(self, node: Node) -> Seen | None:
        """The tensor that a node's first argument stands for."""
        return self.seen(next(iter(node.arguments.values())))

    def number(self, value: Any) -> NDArray[Any] | None:
        """The constant that an argument stands for: a number, a stored array, or one worked out from those."""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return np.asarray(value, np.float64)
        if not isinstance(value, Ref) or value.name in self.values:
            return None
        return self.folded[value.name] if value.name in self.folded else self.program.constant(value.name)

    def producer(self, name: str) -> Node | None:
        """The node that gives a value."""
        return self.makers.get(name)

    def is_learnt(self, value: Any) -> bool:
        """Whether a constant is a parameter, or made of one, and not a buffer."""
        return isinstance(value, Ref) and bool(self.origins.get(value.name))

    def origin(self, node: Node) -> frozenset[str]:
        """The parameters that a node reads, itself or through constants that are made of them."""
        return frozenset().union(*(self.origins.get(name, ()) for name in node.reads if name not in self.values))

    def add(self, node: Node, layer: Layer, *reads: Seen, weights: Mapping[str, NDArray[Any]] | None = None,
            name: str = "") -> Seen:  # fmt: skip
        """A layer on what it reads, in our order. The same weights read again are shared; Tied in another form."""
        key, kinds, origin = next(self.keys), weights or {}, self.origin(node)
        held = origin or frozenset(name for name in node.reads if name not in self.values)
        owner = self.owners.get(held) if kinds else None
        if owner and self._same(owner, layer, kinds):
            layer, kinds = replace(layer, shares=owner), {}
        elif kinds and origin & self.taken:
            raise Tied
        named = self.draft.add(key, layer, name or name_of(node), [seen.value for seen in reads], kinds)
        if kinds and held:
            self.owners.setdefault(held, named)
            self.held[named] = origin
            self.taken |= origin
        shape = GEOMETRY[type(layer)].shape(self.draft.layers[-1], [seen.shape for seen in reads])
        return Seen(key, shape)

    def _same(self, owner: str, layer: Layer, weights: Mapping[str, NDArray[Any]]) -> bool:
        known = {key.rpartition("/")[2]: v for key, v in self.draft.weights.items() if key.startswith(f"{owner}/")}
        first = next(each for each in self.draft.layers if each.name == owner)
        return type(first) is type(layer) and known.keys() == weights.keys() and all(
            known[key].shape == weights[key].shape and np.array_equal(known[key], weights[key].astype(np.float32))
            for key in known
        )  # fmt: skip

    def opaque(self, node: Node) -> Seen:
        """An operator that is no layer of ours."""
        reads = [self.values[name].value for name in dict.fromkeys(node.reads) if name in self.values]
        sides, key, places = per_image(self.program.shapes[node.name], self.program.batch), next(self.keys), None
        shape = (*sides[1:], sides[0]) if len(sides) == 3 else sides
        if len(sides) == 3 and not self._in_front([node.name]) and prod(sides) <= MOST_MOVED // 8:
            shape, places = sides, placed(sides, (0, 1, 2))  # windows, or heads: no map
        named = self.draft.opaque(key, node.operator, shape, name_of(node), reads)
        self.held[named] = self.origin(node)
        return Seen(key, shape, places)

    def standard(self, seen: Seen, name: str = "permute") -> Seen:
        """The tensor with its numbers where the next layer expects them; Opaque where that moves them."""
        if seen.places is None:
            return seen
        rank = seen.places.ndim
        shape = next((s for order, s in orders(seen.places) if order == standard_order(rank)), None)
        key = next(self.keys)
        if shape is None:
            ours = (*seen.places.shape[1:], seen.places.shape[0]) if rank == 3 else seen.places.shape
            self.draft.opaque(key, name, ours, name, [seen.value], 0)
            return Seen(key, ours)
        return seen if shape == seen.shape else self._shaped(name, seen, shape)

    def _shaped(self, name: str, seen: Seen, shape: Shape) -> Seen:
        key = next(self.keys)
        self.draft.add(key, Flatten() if len(shape) == 1 else Reshape(shape), name, [seen.value])
        return Seen(key, shape)

    def moved(self, node: Node, seen: Seen, places: NDArray[np.int64], reshaped: bool) -> Seen:
        """The same numbers at other places: a Flatten or Reshape where the shape changed and our order allows it."""
        standard = standard_order(places.ndim)
        if not reshaped:
            same = seen.order is not None and np.array_equal(placed(seen.shape, standard), places)
            return Seen(seen.value, seen.shape, None if same else places)
        for order, shape in orders(places):
            made = seen if shape == seen.shape else self._shaped(name_of(node), seen, shape)
            return Seen(made.value, shape, None if order == standard else placed(shape, order))
        if places.ndim == 1:
            made = seen if len(seen.shape) == 1 else self._shaped(name_of(node), seen, (places.size,))
            return Seen(made.value, made.shape, places)
        return Seen(seen.value, seen.shape, places)


def _groups(nodes: Sequence[Node]) -> Iterator[list[Node]]:
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
    return bool(node.stack) and node.stack[-1][2].rpartition(".")[2] in {*OWN, "Softsign", "Tanhshrink", "Softmin"}


def name_of(node: Node) -> str:
    """The module's path; with the operator where a module of the model's own does several things."""
    path, kind = node.stack[-1][1:] if node.stack else ("", "")
    leaf = kind.startswith("torch.nn.") or kind.rpartition(".")[2] in OWN
    operator = node.operator.removesuffix("_").strip("_").removesuffix("2d") if not leaf else ""
    return "_".join(part for part in (path, operator) if part) or node.operator


def _worked_out(walk: Walk, node: Node, constants: Mapping[str, Constant]) -> Array | None:
    """What a node makes of constants alone, where that is plain."""
    rule = constants.get(node.operator.removesuffix("_"))
    arrays = [walk.number(value) for value in list(node.arguments.values())[:2]]
    try:
        return rule(arrays, node.arguments, walk.program.shapes[node.name]) if rule and arrays else None
    except (ValueError, TypeError, KeyError, IndexError):
        return None


Rule = Callable[[Walk, Node], Seen | None]
Composite = Callable[[Walk, Sequence[Node]], Seen | None]
Constant = Callable[..., Array | None]


def pair(value: Any, default: int = 1) -> Pair:
    """One number or a list of one or two, as two."""
    many = [default] if value in (None, []) else value if isinstance(value, list) else [value]
    return int(many[0]), int(many[-1])


def image(walk: Walk, node: Node) -> Seen | None:
    """The node's first argument in our order, where it is a map."""
    seen = walk.first(node)
    seen = walk.standard(seen) if seen and len(seen.torch_shape) == 3 else None
    return seen if seen and len(seen.shape) == 3 else None
