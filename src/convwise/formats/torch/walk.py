"""The walk from a program of ATen operators to a net.

PyTorch's maps are (n, channels, height, width), ours (height, width, channels). Where a model moves
numbers (permute, flatten, view), no layer is made at first: `Seen` remembers where each number of a
tensor lies in the layer that gives it, and the layers that read it turn their weights accordingly.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core.geometry import GEOMETRY, layer_weights
from convwise.core.layers import LAYERS, Activation, Cropping2D, Flatten, Layer, Opaque, Reshape
from convwise.core.parameters import Pads, Pair
from convwise.core.problems import Problem, UnusableInput
from convwise.core.windows import Shape
from convwise.formats.lifted import Draft
from convwise.formats.torch.costs import cost
from convwise.formats.torch.memory import Memory
from convwise.formats.torch.module_calls import groups, is_of, name_of
from convwise.formats.torch.places import (
    UNKNOWN,
    Order,
    Places,
    Seen,
    Sight,
    orders,
    per_image,
    placed,
    sight,
    standard_order,
)
from convwise.formats.torch.program import Node, Program, Ref

Array = NDArray[Any]
MOST_MOVED = 2**25  # numbers of a tensor whose moves are followed
MOST_FOLLOWED = 2**27  # of all tensors that are still read
LEAST_ROOM = 2**24
# Operators that have a rule also where the batch is not the first axis.
ANYWHERE = ("linear", "addmm", "mm", "matmul")
# What takes the sides and the type of a tensor, and none of its numbers: it gives a constant.
LIKE = ("empty_like", "full_like", "new_empty", "new_full", "new_ones", "new_zeros", "ones_like",
        "zeros_like")  # fmt: skip


class Walk:
    """From a program to a net, node by node."""

    def __init__(self, program: Program, input_shape: tuple[int, int, int]) -> None:
        self.program, self.keys = program, count(1)
        self.draft = Draft(input_shape, 0)
        self.values: dict[str, Seen] = {program.image: Seen(0, input_shape)}
        self.folded: dict[str, NDArray[Any] | None] = {}
        # The parameters and buffers that a constant is made of, and those that a layer holds.
        self.origins = {name: frozenset([name]) for name in program.stored}
        self.held: dict[str, frozenset[str]] = {}
        self.whole = True  # whether the numbers of all weights are known
        self.besides = 0  # macs of what is made of constants alone
        self.memory = Memory(program.nodes, program.outputs)
        self.outputs: list[int] = []
        self.following = 0  # numbers whose places are kept
        self.pads: dict[str, Pads] = {}  # of values that a max pooling reads
        self.makers = {name: node for node in program.nodes for name in node.outputs}
        self.readers: defaultdict[str, list[Node]] = defaultdict(list)
        for node in program.nodes:
            for name in node.reads:
                self.readers[name].append(node)
        self.owners: dict[frozenset[str], tuple[str, type[Layer], dict[str, Shape]]] = {}
        # How many numbers weights may have, the same in several forms too, and how many may be
        # worked out of them.
        self.room = LEAST_ROOM + 4 * program.held
        self.work = LEAST_ROOM + 16 * program.held
        # What `standard` made of a tensor
        self.stood: dict[tuple[int, int], tuple[Seen, Seen]] = {}
        self.uses = Counter(name for node in program.nodes for name in node.reads)
        self.uses.update(program.outputs)

    def run(self, rules: Mapping[str, Rule], composite: Composite, worked_out: WorkedOut) -> None:
        """Fill the draft with the layers of the program."""
        for group in groups(self.program.nodes):
            reads = [name for node in group for name in node.reads if name in self.values]
            seen = composite(self, group) if self._in_front(reads) else None
            if seen is not None:
                self.values[group[-1].name] = seen
                self.hold(self.draft.layers[-1].name, frozenset().union(*map(self.origin, group)))
                continue
            for node in group:
                self._read(node, rules, worked_out)
                self._forget(node)
        self._end()
        self._counted()

    def _read(self, node: Node, rules: Mapping[str, Rule], worked_out: WorkedOut) -> None:
        operator = node.operator.removesuffix("_")
        last = 0 if operator in LIKE else 1 if operator == "type_as" else None
        reads = [name for name in node.reads[:last] if name in self.values]
        shape = self.program.shapes.get(node.name)
        if shape is None:
            return
        if not reads:
            batch = self.program.batch if shape[:1] == (self.program.batch,) else 1
            self.besides += max(cost(node, self.program.shapes, batch)[0], 0)
            self.folded[node.name] = worked_out(self, node)
            self.origins |= dict.fromkeys(node.outputs, self.origin(node))
            self._written(node)
            return
        if 0 in shape and operator in ("slice", "narrow"):
            self.folded[node.name] = np.zeros(shape)  # nothing of the image is left in it
            return
        if 0 in shape:
            what = f"gives a tensor of {per_image(shape, self.program.batch)}: no numbers"
            where = f"operator {name_of(node)} ({node.operator})"
            raise UnusableInput(where, what, "sides of at least 1")
        # A kernel, also one that is made, has no batch
        told = reads[:1] if operator == "conv2d" else reads
        known = operator in ANYWHERE or self._in_front([*told, node.name])
        found = self._ruled(rules.get(operator) if known else None, node) or self.opaque(node)
        many = found if isinstance(found, dict) else {node.name: found}
        for i, name in enumerate(node.outputs):
            if name and name not in many and self.uses[name]:
                other = replace(node, name=name, outputs=node.outputs[i:])
                many[name] = self.opaque(other, again=True)
        for name, seen in many.items():
            sides = per_image(self.program.shapes[name], self.program.batch)
            free = operator in ("expand", "expand_as") or name in self.pads
            if seen.torch_shape != sides and not free:
                what = f"gives {seen.torch_shape} where the model says {sides}"
                where = f"operator {name} ({node.operator})"
                raise UnusableInput(where, what, "one shape", "report this model as a bug")
            is_read = name in self.memory.last_read
            self.values[name] = seen if is_read else replace(seen, places=None)
            self.following += 0 if seen.places is None else seen.places.size
        if self.following > MOST_FOLLOWED:
            where = f"operator {node.name} ({node.operator})"
            what = "moves more numbers at once than a network would"
            raise UnusableInput(where, what, f"at most {MOST_FOLLOWED:,}")
        self._written(node)

    def _ruled(self, rule: Rule | None, node: Node) -> Found:
        """What a rule says of a node; there is none of complex numbers."""
        if rule is None or not self._is_real(node):
            return None
        try:
            return rule(self, node)
        except UnusableInput as error:
            problem = error.problem
            if problem.where.partition(".")[0] not in LAYERS:
                raise
            what = f"makes a layer whose {problem.where} {problem.what}"
            where = f"operator {name_of(node)} ({node.operator})"
            raise UnusableInput(where, what, problem.expected) from error

    def _is_real(self, node: Node) -> bool:
        """Whether it reads and gives no complex numbers."""
        return not self.program.complex & {node.name, *node.reads}

    def _forget(self, node: Node) -> None:
        """The places of tensors that nobody reads from here on: they take memory."""
        now = self.memory.place[node.name]
        for name in node.reads:
            if name in self.values and self.memory.last_read[name] == now:
                places = self.values[name].places
                self.following -= 0 if places is None else places.size
                self.values[name] = replace(self.values[name], places=None)

    def _in_front(self, names: Sequence[str]) -> bool:
        """Whether the batch is the first axis of all these tensors, and was not moved or merged."""
        return all(self.program.shapes[name][:1] == (self.program.batch,) for name in names)

    def _written(self, node: Node) -> None:
        """What a node changes in place, in the tensors that share memory with its own."""
        for name in self.memory.changed(node):
            if node.name not in self.values:
                self.folded[name] = None
                continue
            both: dict[str, Any] = {"self": Ref(name), "written": Ref(node.name)}
            write = replace(node, name=name, outputs=(name,), arguments=both)
            self.values[name] = self.opaque(write)

    def _end(self) -> None:
        """The outputs, as layers give them."""
        found = [name for name in self.program.outputs if name in self.values]
        if not found:
            fix = "return what its layers compute from the image"
            raise UnusableInput("model", "has no output that comes from its image", "a tensor", fix)
        seen = [self.standard(self.values[name]) for name in found]
        if not self.draft.layers:
            self.draft.add(0, Activation("linear"), "identity", [0])
        self.outputs = [each.value for each in seen]

    def _counted(self) -> None:
        """What each layer holds that none before it does: parameters, learning ones, other numbers.

        Notes name the parameters that nothing reads, and the work that no layer does.
        """
        counted: frozenset[str] = frozenset()
        for i, layer in enumerate(self.draft.layers):
            new = self.held.get(layer.name, frozenset()) - counted
            counted |= new
            own = new & self.program.parameters
            if isinstance(layer, Opaque):
                self.draft.layers[i] = replace(layer, params=self._size(own))
            self.draft.params[layer.name] = self._size(own)
            self.draft.trainable[layer.name] = self._size(own & self.program.learning)
            self.draft.buffers[layer.name] = self._size(new - own)
        if not self.whole:
            self.draft.weights.clear()
        unread = self.program.parameters - {*self.readers}
        if unread:
            some = [name.removeprefix("p_") for name in sorted(unread)[:3]]
            named = ", ".join([*some, *["..."] * (len(unread) > 3)])
            which = f"{self._size(unread):,} parameters that its forward never reads ({named})"
            what = f"has {which}; they are not counted"
            self.draft.problems.append(Problem("model", what, severity="note", count=len(unread)))
        if self.besides:
            work = f"{self.besides:,} macs on what does not depend on the image"
            what = f"spends {work}; they are not counted"
            self.draft.problems.append(Problem("model", what, severity="note"))

    def hold(self, name: str, origin: frozenset[str]) -> None:
        """A layer holds these parameters and buffers, besides those that it held."""
        self.held[name] = self.held.get(name, frozenset()) | origin

    def _size(self, stored: frozenset[str]) -> int:
        return sum(prod(self.program.shapes[name]) for name in stored)

    # --- what rules use ---

    def seen(self, value: Any) -> Seen | None:
        """The tensor that an argument stands for, if it comes from the image."""
        return self.values.get(value.name) if isinstance(value, Ref) else None

    def first(self, node: Node) -> Seen | None:
        """The tensor that a node's first argument stands for."""
        return self.seen(next(iter(node.arguments.values())))

    def number(self, value: Any) -> NDArray[Any] | None:
        """The constant that an argument is: a number, an array, stored or worked out of those."""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return np.asarray(value, np.float64)
        if not isinstance(value, Ref) or value.name in self.values:
            return None
        if value.name in self.folded:
            return self.folded[value.name]
        return self.program.constant(value.name)

    def sides(self, value: Any) -> Shape | None:
        """The shape of a constant, whether its numbers are known or not."""
        constant = isinstance(value, Ref) and value.name not in self.values
        return self.program.shapes.get(value.name) if constant else None

    def producer(self, name: str) -> Node | None:
        """The node that gives a value."""
        return self.makers.get(name)

    def is_learnt(self, value: Any) -> bool:
        """Whether a constant is a parameter, or made of one, and not a buffer."""
        origin = self.origins.get(value.name, ()) if isinstance(value, Ref) else ()
        return not self.program.parameters.isdisjoint(origin)

    def origin(self, node: Node) -> frozenset[str]:
        """The parameters and buffers that a node reads, also by way of constants made of them."""
        constants = [name for name in node.reads if name not in self.values]
        return frozenset().union(*(self.origins.get(name, ()) for name in constants))

    def add(
        self,
        node: Node,
        layer: Layer,
        *reads: Seen,
        weights: Mapping[str, NDArray[Any] | None] | None = None,
        name: str = "",
    ) -> Seen:
        """A layer on what it reads, in our order. The same weights read again are shared.

        weights: None where the numbers of one are not known.
        """
        key, origin = next(self.keys), self.origin(node)
        known = {kind: array for kind, array in (weights or {}).items() if array is not None}
        held = origin or frozenset(name for name in node.reads if name not in self.values)
        kind = type(layer), layer_weights(layer, reads[0].shape)
        owner = self.owners.get(held) if weights else None
        if owner and owner[1:] == kind and self._same(owner[0], known):
            layer, known, origin = replace(layer, shares=owner[0]), {}, frozenset()
        self.room -= sum(array.size for array in known.values())
        if self.room < 0 or len(known) < len(kind[1]) and not layer.shares:
            self.whole, known = False, {}
        read = [seen.value for seen in reads]
        named = self.draft.add(key, layer, name or name_of(node), read, known)
        if weights and held and not layer.shares:
            self.owners.setdefault(held, (named, *kind))
        self.hold(named, origin)
        shape = GEOMETRY[type(layer)].shape(self.draft.layers[-1], [seen.shape for seen in reads])
        return Seen(key, shape)

    def _same(self, owner: str, weights: Mapping[str, NDArray[Any]]) -> bool:
        """Whether these are the numbers of another layer's weights."""
        stored = self.draft.weights
        known = {
            key.rpartition("/")[2]: stored[key] for key in stored if key.startswith(f"{owner}/")
        }
        return known.keys() == weights.keys() and all(
            np.array_equal(known[key], weights[key].astype(np.float32)) for key in known
        )

    def dropped(self, name: str) -> None:
        """The layer that gives a value goes, where its only reader does its work."""
        if self.uses[name] == 1:
            gone = self.draft.source(self.values[name].value)
            self.draft.layers[:] = [layer for layer in self.draft.layers if layer.name != gone]

    def opaque(self, node: Node, again: bool = False) -> Seen:
        """An operator that is no layer of ours; again: another output of one that was counted."""
        named = [name for name in dict.fromkeys(node.reads) if name in self.values]
        reads = [self.values[name].value for name in named]
        sides = per_image(self.program.shapes[node.name], self.program.batch)
        key, places = next(self.keys), None
        shape = (*sides[1:], sides[0]) if len(sides) == 3 else sides
        if len(sides) == 3 and not self._in_front([node.name]) and prod(sides) <= MOST_MOVED // 8:
            shape, places = sides, placed(sides, (0, 1, 2))  # windows, or heads: no map
        macs, elementwise = -1, -1
        if again:
            macs, elementwise = 0, 0
        elif self._is_real(node):
            macs, elementwise = cost(node, self.program.shapes, self.program.batch)
        layer = Opaque(node.operator, shape or (1,), 0, macs, elementwise)
        self.hold(self.draft.add(key, layer, name_of(node), reads), self.origin(node))
        return Seen(key, shape, places)

    def told(
        self,
        node: Node,
        reads: Sequence[Seen],
        first: Places,
        last: Places | None = None,
        elementwise: int = 0,
    ) -> Seen:
        """An operator that is no layer of ours, but of which it is known what it reads.

        first, last: as `sight` takes them, in the shape of the output as PyTorch has it, of the
        first of `reads`.
        """
        sides, last = first.shape, first if last is None else last
        if first.ndim > 3:
            first, last = (each.reshape(-1, *sides[-2:]) for each in (first, last))
        way = sight(first, last, reads[0].shape)
        if any(way.before):
            cropped = self.add(node, Cropping2D((way.before[0], 0, way.before[1], 0)), reads[0])
            reads = [cropped, *reads[1:]]
        made = self.add(node, _moving(node.operator, first.shape, elementwise, way), *reads)
        return Seen(made.value, made.shape, made.index.reshape(sides) if len(sides) > 3 else None)

    def kept(self, node: Node, seen: Seen, places: Places) -> Seen | None:
        """Numbers of parts of a map, as many of each place: a map whose parts the tensor has."""
        if seen.order is not None or len(seen.shape) < 2 or not places.size:
            return None
        own, whole = (places // seen.shape[-1]).reshape(-1), prod(seen.shape[:-1])
        turn, each = np.argsort(own, kind="stable"), own.size // whole
        if own.size % whole or not np.array_equal(own[turn], np.arange(whole).repeat(each)):
            return None
        layer = Opaque(node.operator, (*seen.shape[:-1], each), 0, 0, 0, "same")
        made = self.add(node, layer, seen)
        return Seen(made.value, made.shape, np.argsort(turn).reshape(places.shape))

    def standard(self, seen: Seen, name: str = "permute") -> Seen:
        """The tensor with its numbers where the next layer expects them; an Opaque moves them."""
        if seen.places is None:
            return seen
        known = seen.value, id(seen.places)
        if known not in self.stood:
            self.stood[known] = seen, self._stood(seen, name)
        return self.stood[known][1]

    def _stood(self, seen: Seen, name: str) -> Seen:
        assert seen.places is not None
        rank = seen.places.ndim
        shape = next((s for order, s in orders(seen.places) if order == standard_order(rank)), None)
        if shape is not None:
            return seen if shape == seen.shape else self._shaped(name, seen, shape)
        key, way = next(self.keys), sight(seen.places, seen.places, seen.shape)
        layer = _moving(name, seen.places.shape, 0, UNKNOWN if any(way.before) else way)
        self.draft.add(key, layer, name, [seen.value])
        return Seen(key, layer.output_shape)

    def _shaped(self, name: str, seen: Seen, shape: Shape) -> Seen:
        key, shape = next(self.keys), shape or (1,)  # () is one number
        self.draft.add(key, Flatten() if len(shape) == 1 else Reshape(shape), name, [seen.value])
        return Seen(key, shape)

    def moved(self, node: Node, seen: Seen, places: Places, reshaped: bool) -> Seen:
        """The same numbers at other places.

        A Flatten or Reshape where the shape changed and our order allows it.
        """
        standard = standard_order(places.ndim)
        if not reshaped:
            same = seen.order is not None and np.array_equal(placed(seen.shape, standard), places)
            return Seen(seen.value, seen.shape, None if same else places)
        # A map is seen in parts for a while, unless a module of ours makes another map of it.
        parts = places.ndim == len(seen.shape) == 3 and not is_of(node, "Reshape")
        parts = parts or places.ndim > 3
        sides = [[n for n in each if n > 1] for each in (seen.torch_shape, places.shape)]
        # The same rows, with sides of 1 between
        apart = len(seen.shape) == 2 < places.ndim and sides[0] == sides[1]
        for order, shape in _ways(node, seen.shape, places) if not (parts or apart) else ():
            made = seen if shape == seen.shape else self._shaped(name_of(node), seen, shape)
            return Seen(made.value, shape, None if order == standard else placed(shape, order))
        if places.ndim == 1:
            row = len(seen.shape) == 1
            made = seen if row else self._shaped(name_of(node), seen, (places.size,))
            return Seen(made.value, made.shape, places)
        return Seen(seen.value, seen.shape, places)


def _ways(node: Node, before: Shape, places: Places) -> Sequence[tuple[Order, Shape]]:
    """As `orders`; of a map of one channel, a row of places comes before one row of numbers."""
    tokens = prod(before[:2]), before[-1]
    return sorted(orders(places), key=lambda way: way[1] != tokens or is_of(node, "Reshape"))


def _moving(operator: str, sides: Shape, elementwise: int, way: Sight) -> Opaque:
    """An operator without weights that gives a tensor of these sides."""
    shape = (*sides[1:], sides[0]) if len(sides) == 3 else sides
    window = way.kernel_size, way.strides
    return Opaque(operator, shape or (1,), 0, 0, elementwise, way.moves, *window)


Found = Seen | dict[str, Seen] | None  # several by their names, where a node has several outputs
Rule = Callable[[Walk, Node], Found]
Composite = Callable[[Walk, Sequence[Node]], Seen | None]
WorkedOut = Callable[[Walk, Node], Array | None]  # of constants alone


def pair(value: Any, default: int = 1) -> Pair:
    """One number or a list of one or two, as two."""
    many = [default] if value in (None, []) else value if isinstance(value, list) else [value]
    return int(many[0]), int(many[-1])


def image(walk: Walk, node: Node) -> Seen | None:
    """The node's first argument in our order, where it is a map."""
    seen = walk.first(node)
    seen = walk.standard(seen) if seen and len(seen.torch_shape) == 3 else None
    return seen if seen and len(seen.shape) == 3 else None
