"""What torch.export makes of a module: a graph of ATen operators, from memory or from a .pt2 file.

A file is read as JSON and raw bytes alone: torch.export.load would unpickle what a file asks for,
load libraries, and evaluate its shapes as Python. The format is that of torch.export.save since
PyTorch 2.8 (torch/_export/serde/schema.py); what is pickled inside is refused, not read.
"""

from __future__ import annotations

import ast
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core.problems import UnusableInput
from convwise.core.windows import Shape

BATCH = 97  # images, where it is ours to say: a prime that is hardly the size of another axis
JSON_BYTES = 2**26  # a graph of fifty thousand nodes stays below
# What a file whose parts do not fit together ends in.
DAMAGES = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    SyntaxError,
    StopIteration,
    AssertionError,
    MemoryError,
)
MODES = ("wrap_with_autocast", "wrap_with_set_grad_enabled")
EXPECTED = "a file that torch.export.save of PyTorch 2.8 or later wrote"


@dataclass(frozen=True)
class Ref:
    """The value of another node, by name."""

    name: str


@dataclass(frozen=True)
class Node:
    """One ATen operator: 'conv2d' with its arguments by name; name is that of its first output that is read.

    outputs: in order, '' for those that are not read.

    stack: the module calls around it, outermost first, each (call, path, class): ('L__self__a@1', 'a', 'torch...').
    """

    name: str
    operator: str
    arguments: Mapping[str, Any]
    outputs: tuple[str, ...]
    stack: tuple[tuple[str, str, str], ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """The values it reads, in order."""
        flat = [v for value in self.arguments.values() for v in (value if isinstance(value, list) else [value])]
        return tuple(value.name for value in flat if isinstance(value, Ref))

    @property
    def call(self) -> str:
        """The innermost module call."""
        return self.stack[-1][0] if self.stack else ""


@dataclass(frozen=True)
class Region:
    """What a node runs under a mode of its own, autocast or without gradients: a graph, an argument of that node.

    inputs: the names of what it reads, which are the arguments after it; outputs: of what the node gives.
    """

    inputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, Shape]


@dataclass(frozen=True)
class Program:
    """A graph of nodes over one image.

    shapes: of every tensor, with the batch; constant: a stored array by name; stored: the names of all
    parameters and buffers, each tensor once; learning: those of the parameters that a training changes.
    """

    image: str
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    shapes: Mapping[str, Shape]
    constant: Callable[[str], NDArray[Any] | None]
    parameters: frozenset[str] = field(default_factory=frozenset)
    stored: frozenset[str] = field(default_factory=frozenset)
    learning: frozenset[str] = field(default_factory=frozenset)

    @property
    def batch(self) -> int:
        """How many images it was traced for."""
        return self.shapes[self.image][0]


def read_program(path: str | Path, input_shape: tuple[int, int, int] | None = None) -> Program:
    """The graph in a .pt2 file. UnusableInput where it cannot be read without running what it holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _program(_Archive(archive, str(path)), input_shape)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise UnusableInput(str(path), f"cannot be opened: {error}", EXPECTED) from error
    except DAMAGES as error:
        raise damaged(path, error) from error


def damaged(path: str | Path, error: Exception) -> UnusableInput:
    """What an error says of a file whose parts do not fit together."""
    if isinstance(error, KeyError):
        why = f"it lacks {error}"
    elif isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        why = f"its graph is cut off or is not JSON ({error})"
    else:
        why = f"its parts do not fit together ({str(error) or type(error).__name__})"
    return UnusableInput(str(path), f"is damaged: {why}", EXPECTED, "save it again with torch.export.save")


class _Archive:
    """The members of a .pt2 file. They are never compressed, so nothing can grow."""

    def __init__(self, archive: zipfile.ZipFile, path: str) -> None:
        self.archive, self.path = archive, path
        infos = archive.infolist()
        roots = {info.filename.partition("/")[0] for info in infos}
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
            raise UnusableInput(path, "holds compressed members", EXPECTED)
        self.members = {info.filename.partition("/")[2]: info for info in infos}
        if len(roots) != 1 or "models/model.json" not in self.members:
            what = "holds no models/model.json"
            raise UnusableInput(path, what, EXPECTED, "save it again with torch.export.save, or as ONNX")

    def json(self, name: str) -> Any:
        if self.members[name].file_size > JSON_BYTES:
            raise UnusableInput(self.path, f"holds {name} of {self.members[name].file_size:,} bytes", EXPECTED)
        return json.loads(self.archive.read(self.members[name]))

    def configs(self) -> dict[str, Any]:
        """What is said of every stored tensor, by its name in the module."""
        kinds = ("weights", "constants")
        return {
            name: {**about, "path_name": f"data/{kind}/{about['path_name']}"}
            for kind in kinds
            for name, about in self.json(f"data/{kind}/model_{kind}_config.json")["config"].items()
        }

    def arrays(self, configs: Mapping[str, Any]) -> dict[str, NDArray[Any] | None]:
        """Every stored tensor by its name in the module; None where its type is none that weights have."""
        return {name: self._array(about["path_name"], about) for name, about in configs.items()}

    def _array(self, member: str, about: Mapping[str, Any]) -> NDArray[Any] | None:
        if about["use_pickle"] or about["tensor_meta"] is None:
            fix = "save plain tensors with torch.export.save, or use ONNX or safetensors"
            raise UnusableInput(self.path, f"{member} is a pickle, which can run code", EXPECTED, fix)
        meta = about["tensor_meta"]
        kind = _DTYPES.get(meta["dtype"])
        if kind is None or (meta.get("device") or {}).get("type") == "meta":
            return None
        data = self.archive.read(self.members[member])
        flat = np.frombuffer(data, kind)
        sizes, strides = ([int(n["as_int"]) for n in meta[key]] for key in ("sizes", "strides"))
        first = int(meta["storage_offset"]["as_int"])
        last = first + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        numbers = prod(sizes)
        if min([first, *sizes, *strides]) < 0 or numbers > flat.size or (numbers and last >= flat.size):
            raise UnusableInput(self.path, f"{member} is too short for {sizes}", EXPECTED)
        steps = [stride * flat.itemsize for stride in strides]
        return _float(np.lib.stride_tricks.as_strided(flat[first:], sizes, steps, writeable=False))


FLOATS = {"float16": 6, "float32": 7, "float64": 8, "bfloat16": 13}  # torch's numbers of its types


def is_float(given: Mapping[str, Any]) -> bool:
    """Whether a cast gives a floating type, from which and to which numbers stay the same."""
    return given.get("dtype") is None or given["dtype"] in FLOATS.values()


# torch's numbers as numpy's types; bfloat16 is the upper half of a float32.
_DTYPES: dict[int, str] = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f2", 7: "<f4", 8: "<f8", 12: "?",
                           13: "<u2"}  # fmt: skip


def _float(array: NDArray[Any]) -> NDArray[Any]:
    return (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array


def _program(archive: _Archive, input_shape: tuple[int, int, int] | None) -> Program:
    module = archive.json("models/model.json")["graph_module"]
    graph, configs = module["graph"], archive.configs()
    arrays = archive.arrays(configs)
    places: dict[str, str] = {}
    kinds: dict[str, str] = {}
    images = []
    for spec in module["signature"]["input_specs"]:
        ((kind, about),) = spec.items()
        if kind == "user_input":
            images += _names(about["arg"])
        elif kind in ("parameter", "buffer", "tensor_constant"):
            places[about["arg"]["name"]], kinds[about["arg"]["name"]] = about[f"{kind}_name"], kind
    one = {_tensor(configs, place): name for name, place in places.items()}
    same = {name: one[_tensor(configs, place)] for name, place in places.items()}
    names = {name: first for name, first in same.items() if name != first}
    image = one_image(images, archive.path)
    free = _free(graph["tensor_values"][image]["sizes"], input_shape, archive.path)
    try:
        shapes = {name: _shape(about["sizes"], free) for name, about in graph["tensor_values"].items()}
        sizes = {name: _shape([about], free, -inf)[0] for name, about in graph["sym_int_values"].items()}
    except NoSize as error:
        fix = "larger images, or the input shape that it was exported with" if free else ""
        raise UnusableInput(archive.path, f"has a tensor with a side of {error}", "sides of at least 0", fix) from error
    specs = module["signature"]["output_specs"]
    outputs = tuple(name for spec in specs if "user_output" in spec for name in _names(spec["user_output"]["arg"]))
    nodes, shapes = opened([renamed(_node(each, sizes, free), names) for each in graph["nodes"]], shapes)
    own = {kind: frozenset(n for n, k in kinds.items() if k == kind and n not in names) for kind in set(kinds.values())}
    parameters = own.get("parameter", frozenset())
    learning = frozenset(name for name in parameters if _learns(configs.get(places[name])))
    stored = {name: arrays.get(place) for name, place in places.items()}
    return Program(image, outputs, nodes, shapes, stored.get, parameters, parameters | own.get("buffer", frozenset()),
                   learning)  # fmt: skip


def _tensor(configs: Mapping[str, Any], place: str) -> str:
    """What tells one stored tensor from another: where it lies, and how."""
    about = configs.get(place)
    return json.dumps([about["path_name"], about["tensor_meta"]], sort_keys=True) if about else place


def _learns(about: Mapping[str, Any] | None) -> bool:
    return about is None or about["tensor_meta"] is None or bool(about["tensor_meta"].get("requires_grad", True))


def one_image(images: list[str], where: str) -> str:
    """The one input of a model."""
    if len(images) != 1:
        raise UnusableInput(where, f"has {len(images)} inputs", "one input, the images")
    return images[0]


def _node(data: Mapping[str, Any], sizes: Mapping[str, int], free: Mapping[str, int]) -> Node:
    outputs = tuple(name for output in data["outputs"] for name in _names(output))
    given = {each["name"] or str(i): each["arg"] for i, each in enumerate(data["inputs"])}
    arguments = {
        name: _region(arg["as_graph"], sizes, free) if "as_graph" in arg else _argument(arg, sizes)
        for name, arg in given.items()
    }
    prefix, _, target = str(data["target"]).partition("torch.ops.aten.")
    operator = target.partition(".")[0] if not prefix else str(data["target"])
    stack = [item.split(",") for item in data["metadata"].get("nn_module_stack", "").split(";") if item.count(",") == 2]
    calls = tuple((call, path, kind) for call, path, kind in stack)
    return Node(first_of(outputs), operator, arguments, outputs, calls)


def first_of(outputs: Sequence[str]) -> str:
    """The first output that has a name."""
    return next(filter(None, outputs), "")


def renamed(node: Node, names: Mapping[str, str]) -> Node:
    """The node, reading other values: tensors that are one have one name."""

    def new(value: Any) -> Any:
        if isinstance(value, list):
            return [new(each) for each in value]
        return Ref(names[value.name]) if isinstance(value, Ref) and value.name in names else value

    return replace(node, arguments={key: new(value) for key, value in node.arguments.items()}) if names else node


def opened(nodes: Sequence[Node], shapes: Mapping[str, Shape]) -> tuple[tuple[Node, ...], dict[str, Shape]]:
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
        ends = [(end, name) for end, name in zip(given[at].outputs, node.outputs, strict=False) if name]
        names |= {end: name for end, name in reversed(ends) if end in own}
        for each in inner:
            outputs = tuple(names.get(name, name) for name in each.outputs)
            found.append(replace(renamed(each, names), name=first_of(outputs), outputs=outputs))
        again = [(names.get(end, end), name) for end, name in ends if names.get(end) != name]  # or as it was given
        found += [Node(name, "alias", {"self": Ref(end)}, (name,)) for end, name in again]
        sides |= {names[name]: shape for name, shape in inside.items() if name in own}
    return tuple(found), sides


def _region(data: Mapping[str, Any], sizes: Mapping[str, int], free: Mapping[str, int]) -> Region:
    graph = data["graph"]
    inputs, outputs = (tuple(first_of(_names(each)) for each in graph[key]) for key in ("inputs", "outputs"))
    shapes = {name: _shape(about["sizes"], free) for name, about in graph["tensor_values"].items()}
    return Region(inputs, tuple(_node(each, sizes, free) for each in graph["nodes"]), outputs, shapes)


def _names(output: Mapping[str, Any]) -> list[str]:
    ((kind, value),) = output.items()
    if kind == "as_tensors":
        return [each["name"] for each in value]
    return [value["name"]] if kind == "as_tensor" else []


def _argument(data: Mapping[str, Any], sizes: Mapping[str, int]) -> Any:
    """sizes: of the free ones, by name."""
    ((kind, value),) = data.items()
    if kind == "as_tensor":
        return Ref(value["name"])
    if kind == "as_tensors":
        return [Ref(each["name"]) for each in value]
    if kind == "as_optional_tensor":
        return _argument(value, sizes)
    if kind == "as_optional_tensors":
        return [_argument(each, sizes) for each in value]
    if kind in ("as_sym_int", "as_sym_float"):
        return value.get("as_int", value.get("as_float", sizes.get(value.get("as_name", ""))))
    if kind == "as_sym_ints":
        return [each.get("as_int", sizes.get(each.get("as_name", ""))) for each in value]
    if kind in ("as_float", "as_floats"):  # JSON has no word for infinity: it is the string "-Infinity"
        return float(value) if kind == "as_float" else [float(each) for each in value]
    return None if kind == "as_none" else value


# --- shapes ---------------------------------------------------------------------------------


class NoSize(ValueError):
    """A size that no tensor has."""


def _free(sizes: list[Any], input_shape: tuple[int, int, int] | None, path: str) -> dict[str, int]:
    """The values of the free sizes of the image, (n, channels, height, width)."""
    wanted = (BATCH, input_shape[2], *input_shape[:2]) if input_shape else (BATCH, None, None, None)
    free: dict[str, int] = {}
    if len(sizes) != 4:
        raise UnusableInput(path, f"reads an input of {len(sizes)} axes", "images (n, channels, height, width)")
    channels, height, width = (each.get("as_int", "any") for each in sizes[1:])
    made = f"{height}x{width}x{channels}"
    for axis, (size, want) in enumerate(zip(sizes, wanted, strict=True)):
        if "as_int" in size:
            if axis and want not in (None, size["as_int"]):
                fix = "leave out --input-shape" if "any" not in made else made.replace("any", "...")
                asked = "x".join(map(str, input_shape or ()))
                what = f"is made for images of {made} (height, width, channels), not {asked}"
                raise UnusableInput(path, what, "images of the size that it was exported for", fix)
        elif want is None:
            fix = f"--input-shape 224x224x{3 if channels == 'any' else channels}"
            raise UnusableInput(path, "has a free input size", "the size of its images", fix)
        else:
            free |= _solved(size["as_expr"]["expr_str"], want, path)
    return free


def _solved(text: str, want: int, path: str) -> dict[str, int]:
    """The symbol in a size of the image, s or a multiple of it like 32 s, where the size is `want`."""
    tree = ast.parse(text, mode="eval").body
    (name,) = {_symbol(each) for each in ast.walk(tree) if isinstance(each, ast.Call) and _is_symbol(each)}
    one, two = (_size(tree, {name: n}) for n in (1, 2))
    steps, rest = divmod(want - one, two - one)
    if rest or steps < 0:
        expected = f"sizes {one}, {two}, {2 * two - one}, ..."
        raise UnusableInput(path, f"takes no images with a side of {want}", expected, "another --input-shape")
    return {name: 1 + steps}


def _is_symbol(tree: ast.Call) -> bool:
    return isinstance(tree.func, ast.Name) and tree.func.id == "Symbol"


def _symbol(tree: ast.Call) -> str:
    if isinstance(tree.args[0], ast.Constant):
        return str(tree.args[0].value)
    raise ValueError(f"{ast.unparse(tree)} is not a symbol")


def _shape(sizes: list[Any], free: Mapping[str, int], least: float = 0) -> Shape:
    given = [size.get("as_int", size.get("as_expr")) for size in sizes]
    shape = [n if isinstance(n, int) else _size(ast.parse(n["expr_str"], mode="eval").body, free) for n in given]
    if min(shape, default=0) < least:
        raise NoSize(min(shape))
    return tuple(shape)


# How sympy writes sizes: Add(FloorDiv(Symbol('s0', integer=True), Integer(2)), Integer(1)).
_FUNCTIONS: dict[str, Callable[..., int]] = {
    "Integer": int,
    "Add": lambda *given: sum(given),
    "Mul": lambda *given: prod(given),
    "FloorDiv": lambda a, b: a // b,
    "CleanDiv": lambda a, b: a // b,
    "Mod": lambda a, b: a % b,
    "PythonMod": lambda a, b: a % b,
    "CeilDiv": lambda a, b: -(-a // b),
    "Pow": lambda a, b: a**b if 0 <= b <= 4 else _no_power(b),
    "Max": max,
    "Min": min,
    "Identity": lambda a: a,
}


def _no_power(exponent: int) -> int:
    raise ValueError(f"a size is to the power of {exponent}")


def _size(tree: ast.expr, free: Mapping[str, int]) -> int:
    """A size of a tensor, worked out by hand: the text is never run."""
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
        return tree.value
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        return -_size(tree.operand, free)
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
        if tree.func.id == "Symbol":
            return free[_symbol(tree)]
        return _FUNCTIONS[tree.func.id](*(_size(each, free) for each in tree.args))
    raise ValueError(f"a size is {ast.unparse(tree)}")
