"""What torch.export makes of a module: a graph of ATen operators, from memory or from a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from convwise.core.problems import UnusableInput
from convwise.core.windows import Shape

BATCH = 97  # images, where it is ours to say: a prime that is hardly the size of another axis
MODES = ("wrap_with_autocast", "wrap_with_set_grad_enabled")
FLOATS = {"float16": 6, "float32": 7, "float64": 8, "bfloat16": 13}  # torch's numbers of its types


@dataclass(frozen=True)
class Ref:
    """The value of another node, by name."""

    name: str


@dataclass(frozen=True)
class Node:
    """One ATen operator: 'conv2d' with its arguments by name.

    name: of its first output that is read. outputs: in order, '' for those that are not read.
    stack: the module calls around it, outermost first, each (call, path, class), such as
    ('L__self__a@1', 'a', 'torch...').
    """

    name: str
    operator: str
    arguments: Mapping[str, Any]
    outputs: tuple[str, ...]
    stack: tuple[tuple[str, str, str], ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """The values it reads, in order."""
        given = self.arguments.values()
        lists = [value if isinstance(value, list) else [value] for value in given]
        return tuple(each.name for many in lists for each in many if isinstance(each, Ref))

    @property
    def call(self) -> str:
        """The innermost module call."""
        return self.stack[-1][0] if self.stack else ""


@dataclass(frozen=True)
class Region:
    """A graph that a node runs under a mode of its own, autocast or without gradients.

    It is an argument of that node. inputs: the names of what it reads, which are the arguments
    after it. outputs: of what the node gives.
    """

    inputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, Shape]


@dataclass(frozen=True)
class Program:
    """A graph of nodes over one image.

    shapes: of every tensor, with the batch; constant: a stored array by name; stored: the names of
    all parameters and buffers, each tensor once; learning: those of the parameters that a training
    changes; held: how many numbers lie in memory for them, which are fewer where tensors overlap or
    repeat numbers; complex: the tensors of complex numbers.
    """

    image: str
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    shapes: Mapping[str, Shape]
    constant: Callable[[str], NDArray[Any] | None]
    parameters: frozenset[str] = field(default_factory=frozenset)
    stored: frozenset[str] = field(default_factory=frozenset)
    learning: frozenset[str] = field(default_factory=frozenset)
    held: int = 0
    complex: frozenset[str] = field(default_factory=frozenset)

    @property
    def batch(self) -> int:
        """How many images it was traced for."""
        return self.shapes[self.image][0]


def one_image(images: list[str], where: str) -> str:
    """The one input of a model."""
    if len(images) != 1:
        raise UnusableInput(where, f"has {len(images)} inputs", "one input, the images")
    return images[0]


def first_of(outputs: Sequence[str]) -> str:
    """The first output that has a name."""
    return next(filter(None, outputs), "")


def renamed(node: Node, names: Mapping[str, str]) -> Node:
    """The node, reading other values: tensors that are one have one name."""

    def new(value: Any) -> Any:
        if isinstance(value, list):
            return [new(each) for each in value]
        return Ref(names[value.name]) if isinstance(value, Ref) and value.name in names else value

    if not names:
        return node
    return replace(node, arguments={key: new(value) for key, value in node.arguments.items()})


def opened(
    nodes: Sequence[Node], shapes: Mapping[str, Shape]
) -> tuple[tuple[Node, ...], dict[str, Shape]]:
    """The nodes, with those of a region in its place, and the shapes of all their tensors."""
    found: list[Node] = []
    sides = dict(shapes)
    for node in nodes:
        given = list(node.arguments.values())
        at = next((i for i, value in enumerate(given) if isinstance(value, Region)), 0)
        if not node.operator.endswith(MODES) or not isinstance(given[at], Region):
            found.append(node)
            continue
        inner, inside = opened(given[at].nodes, given[at].shapes)
        own = {name for each in inner for name in each.outputs if name}
        names = {name: f"{node.name}.{name}" for name in own}
        read = zip(given[at].inputs, given[at + 1 :], strict=False)
        names |= {name: value.name for name, value in read if isinstance(value, Ref)}
        pairs = zip(given[at].outputs, node.outputs, strict=False)
        ends = [(end, name) for end, name in pairs if name]
        names |= {end: name for end, name in reversed(ends) if end in own}
        for each in inner:
            outputs = tuple(names.get(name, name) for name in each.outputs)
            found.append(replace(renamed(each, names), name=first_of(outputs), outputs=outputs))
        # What a region gives again as it was given, or twice
        again = [(names.get(end, end), name) for end, name in ends if names.get(end) != name]
        found += [Node(name, "alias", {"self": Ref(end)}, (name,)) for end, name in again]
        sides |= {names[name]: shape for name, shape in inside.items() if name in own}
    return tuple(found), sides


def is_float(given: Mapping[str, Any]) -> bool:
    """Whether a cast gives a floating type, from which and to which numbers stay the same."""
    return given.get("dtype") is None or given["dtype"] in FLOATS.values()
