"""A .pt2 file as a program: what torch.export.save wrote of a module.

It is read as JSON and raw bytes alone: torch.export.load would unpickle what a file asks for,
load libraries, and evaluate its shapes as Python. The format is that of torch.export.save since
PyTorch 2.8 (torch/_export/serde/schema.py); what is pickled inside is refused, not read.
"""

from __future__ import annotations

import ast
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from math import inf, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core.net import MOST_SIDE
from convwise.core.problems import UnusableInput
from convwise.core.text import times
from convwise.core.windows import Shape
from convwise.formats.lifted import SIZE
from convwise.formats.torch.program import (
    BATCH,
    Node,
    Program,
    Ref,
    Region,
    first_of,
    one_image,
    opened,
    renamed,
)

JSON_BYTES = 2**26  # a graph of fifty thousand nodes stays below
MOST_REPEATED = 2**24  # numbers of a tensor that repeats fewer, as expand makes one
# What a file whose parts do not fit together ends in.
DAMAGES = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError,
           SyntaxError, StopIteration, AssertionError, MemoryError)  # fmt: skip
EXPECTED = "a file that torch.export.save of PyTorch 2.8 or later wrote"


def read_program(path: str | Path, input_shape: tuple[int, int, int] | None = None) -> Program:
    """The graph in a .pt2 file. UnusableInput where it cannot be read without running it."""
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
    fix = "save it again with torch.export.save"
    return UnusableInput(str(path), f"is damaged: {why}", EXPECTED, fix)


class _Archive:
    """The members of a .pt2 file: never compressed, each read once, so that nothing can grow."""

    def __init__(self, archive: zipfile.ZipFile, path: str) -> None:
        self.archive, self.path = archive, path
        self.data: dict[str, bytes] = {}  # of the members that were read
        self.flat: dict[tuple[str, str], NDArray[Any]] = {}  # their numbers, by their type too
        infos = archive.infolist()
        if (whole := sum(info.file_size for info in infos)) > (size := Path(path).stat().st_size):
            what = f"says that it holds {whole:,} bytes, but is {size:,} bytes long"
            raise UnusableInput(path, what, EXPECTED)
        roots = {info.filename.partition("/")[0] for info in infos}
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
            raise UnusableInput(path, "holds compressed members", EXPECTED)
        self.members = {info.filename.partition("/")[2]: info for info in infos}
        if len(roots) != 1 or "models/model.json" not in self.members:
            fix = "save it again with torch.export.save, or as ONNX"
            raise UnusableInput(path, "holds no models/model.json", EXPECTED, fix)

    def json(self, name: str) -> Any:
        size = self.members[name].file_size
        if size > JSON_BYTES:
            raise UnusableInput(self.path, f"holds {name} of {size:,} bytes", EXPECTED)
        return json.loads(self.archive.read(self.members[name]))

    def configs(self) -> dict[str, Any]:
        """What is said of every stored tensor, by its name in the module."""
        kinds = ("weights", "constants")
        return {
            name: {**about, "path_name": f"data/{kind}/{about['path_name']}"}
            for kind in kinds
            for name, about in self.json(f"data/{kind}/model_{kind}_config.json")["config"].items()
        }

    @property
    def held(self) -> int:
        """How many numbers were read."""
        return sum(array.size for array in self.flat.values())

    def array(self, about: Mapping[str, Any]) -> NDArray[Any] | None:
        """A stored tensor, seen in its member's numbers; None where no weights have its type."""
        member = about["path_name"]
        if about["use_pickle"] or about["tensor_meta"] is None:
            fix = "save plain tensors with torch.export.save, or use ONNX or safetensors"
            what = f"{member} is a pickle, which can run code"
            raise UnusableInput(self.path, what, EXPECTED, fix)
        meta = about["tensor_meta"]
        kind = _DTYPES.get(meta["dtype"])
        if kind is None or (meta.get("device") or {}).get("type") == "meta":
            return None
        flat = self._numbers(member, kind)
        sizes, strides = ([int(n["as_int"]) for n in meta[key]] for key in ("sizes", "strides"))
        first = int(meta["storage_offset"]["as_int"])
        last = first + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        numbers = prod(sizes)
        if min([first, *sizes, *strides]) < 0 or (numbers and last >= flat.size):
            raise UnusableInput(self.path, f"{member} is too short for {sizes}", EXPECTED)
        if numbers > max(flat.size, MOST_REPEATED):
            return None
        steps = [stride * flat.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(flat[first:], sizes, steps, writeable=False)

    def _numbers(self, member: str, kind: str) -> NDArray[Any]:
        """All that a member holds; bfloat16 is the upper half of a float32."""
        if member not in self.data:
            self.data[member] = self.archive.read(self.members[member])
        if (member, kind) not in self.flat:
            flat = np.frombuffer(self.data[member], kind)
            if flat.dtype == np.uint16:
                flat = (flat.astype(np.uint32) << 16).view(np.float32)
            self.flat[member, kind] = flat
        return self.flat[member, kind]


COMPLEX = (9, 10, 11)
# torch's numbers as numpy's types; bfloat16 as whole numbers.
_DTYPES: dict[int, str] = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f2", 7: "<f4",
                           8: "<f8", 12: "?", 13: "<u2"}  # fmt: skip


def _program(archive: _Archive, input_shape: tuple[int, int, int] | None) -> Program:
    module = archive.json("models/model.json")["graph_module"]
    graph, configs = module["graph"], archive.configs()
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
        shapes = _shapes(graph, free)
        numbers = graph["sym_int_values"].items()
        sizes = {name: _shape([about], free, -inf)[0] for name, about in numbers}
    except NoSize as error:
        fix = "another --input-shape, such as the one that it was exported with" if free else ""
        what, expected = f"has a tensor with a side of {error}", f"sides from 0 to {MOST_SIDE:,}"
        raise UnusableInput(archive.path, what, expected, fix) from error
    specs = [each for each in module["signature"]["output_specs"] if "user_output" in each]
    outputs = tuple(name for each in specs for name in _names(each["user_output"]["arg"]))
    made = [renamed(_node(each, sizes, free), names) for each in graph["nodes"]]
    nodes, shapes = opened(made, shapes)
    own = {name: kind for name, kind in kinds.items() if name not in names}
    parameters = frozenset(name for name, kind in own.items() if kind == "parameter")
    buffers = frozenset(name for name, kind in own.items() if kind == "buffer")
    learning = frozenset(name for name in parameters if _learns(configs.get(places[name])))
    held = {name: place for name, place in places.items() if name in own and place in configs}
    stored = {name: archive.array(configs[place]) for name, place in held.items()}
    tensors = graph["tensor_values"].items()
    complex_ = frozenset(name for name, about in tensors if about.get("dtype") in COMPLEX)
    for name, first in same.items():
        if (array := stored.get(first)) is not None and array.shape != shapes[name]:
            taken = f"which its graph takes for {shapes[name]}"
            what = f"stores {places[name]} as {array.shape}, {taken}"
            fix = "save it again with torch.export.save"
            raise UnusableInput(archive.path, what, "one shape", fix)
    return Program(
        image,
        outputs,
        nodes,
        shapes,
        constant=stored.get,
        parameters=parameters,
        stored=parameters | buffers,
        learning=learning,
        held=archive.held,
        complex=complex_,
    )


def _tensor(configs: Mapping[str, Any], place: str) -> str:
    """What tells one stored tensor from another: where it lies, and how."""
    about = configs.get(place)
    # A tensor of the meta device lies nowhere
    if about is None or ((about["tensor_meta"] or {}).get("device") or {}).get("type") == "meta":
        return place
    return json.dumps([about["path_name"], about["tensor_meta"]], sort_keys=True)


def _learns(about: Mapping[str, Any] | None) -> bool:
    meta = {} if about is None else about["tensor_meta"] or {}
    return bool(meta.get("requires_grad", True))


def _node(data: Mapping[str, Any], sizes: Mapping[str, int], free: Mapping[str, int]) -> Node:
    outputs = tuple(name for output in data["outputs"] for name in _names(output))
    given = {each["name"] or str(i): each["arg"] for i, each in enumerate(data["inputs"])}
    arguments = {
        name: _region(arg["as_graph"], sizes, free) if "as_graph" in arg else _argument(arg, sizes)
        for name, arg in given.items()
    }
    prefix, _, target = str(data["target"]).partition("torch.ops.aten.")
    operator = target.partition(".")[0] if not prefix else str(data["target"])
    items = data["metadata"].get("nn_module_stack", "").split(";")
    stack = [item.split(",") for item in items if item.count(",") == 2]
    calls = tuple((call, path, kind) for call, path, kind in stack)
    return Node(first_of(outputs), operator, arguments, outputs, calls)


def _region(data: Mapping[str, Any], sizes: Mapping[str, int], free: Mapping[str, int]) -> Region:
    graph = data["graph"]
    inputs, outputs = (
        tuple(first_of(_names(each)) for each in graph[key]) for key in ("inputs", "outputs")
    )
    nodes = tuple(_node(each, sizes, free) for each in graph["nodes"])
    return Region(inputs, nodes, outputs, _shapes(graph, free))


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
    # JSON has no word for infinity: it is the string "-Infinity"
    if kind in ("as_float", "as_floats"):
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
        what = f"reads an input of {len(sizes)} axes"
        raise UnusableInput(path, what, "images (n, channels, height, width)")
    channels, height, width = (each.get("as_int", "any") for each in sizes[1:])
    own = height, width, channels
    made = times(own)
    solved: dict[int, tuple[Shape, dict[str, int]]] = {}
    for axis, (size, want) in enumerate(zip(sizes, wanted, strict=True)):
        if "as_int" in size:
            if axis and want not in (None, size["as_int"]):
                fix = "omit --input-shape"
                if "any" in made and input_shape:
                    fix = _filled(own, input_shape)
                asked = times(input_shape or ())
                what = f"is made for images of {made} (height, width, channels), not {asked}"
                raise UnusableInput(path, what, "images of the size that it was exported for", fix)
        elif want is None:
            fix = f"{_filled(own, (224, 224, 3))}, or the size you use"
            raise UnusableInput(path, "has a free input size", SIZE, fix)
        else:
            solved[axis] = _solved(size["as_expr"]["expr_str"], want)
    sides = {axis: solved[axis][0][0] if axis in solved else n for axis, n in enumerate(wanted)}
    for axis, (near, found) in solved.items():
        fix = f"--input-shape {sides[2]}x{sides[3]}x{sides[1]}"
        if not found:
            what = f"takes no images with a side of {wanted[axis]}"
            raise UnusableInput(path, what, f"sizes {', '.join(map(str, near[1:]))}, ...", fix)
        for name, n in found.items():
            if (known := free.setdefault(name, n)) != n:  # as in images that must be square
                sides[axis] = near[1] + (near[2] - near[1]) * (known - 1)
                asked = f"{wanted[2]}x{wanted[3]}x{wanted[1]}"
                what = f"takes no images of {asked}: one side says what another is"
                fix = f"--input-shape {sides[2]}x{sides[3]}x{sides[1]}"
                raise UnusableInput(path, what, f"a side of {sides[axis]}, not {wanted[axis]}", fix)
    return free


def _filled(own: Sequence[Any], given: Sequence[int]) -> str:
    """An input shape as it is typed: the model's own sides, or those given where it takes any."""
    if given[0] == own[2] != given[2]:  # the channels came first
        given = (*given[1:], given[0])
    sides = (b if a == "any" else a for a, b in zip(own, given, strict=True))
    return f"--input-shape {times(sides)}"


def _solved(text: str, want: int) -> tuple[Shape, dict[str, int]]:
    """The symbol in a size of the image, s or 32 s, where the size is `want`; else nothing.

    With it the sizes that there are: the nearest, and the first three.
    """
    tree = _tree(text)
    calls = [each for each in ast.walk(tree) if isinstance(each, ast.Call)]
    (name,) = {_symbol(each) for each in calls if _is_symbol(each)}
    one, two = (_size(tree, {name: n}) for n in (1, 2))
    steps, rest = divmod(want - one, two - one)
    nearest = one + (two - one) * max(steps, 0)
    return (nearest, one, two, 2 * two - one), {} if rest or steps < 0 else {name: 1 + steps}


def _tree(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _is_symbol(tree: ast.Call) -> bool:
    return isinstance(tree.func, ast.Name) and tree.func.id == "Symbol"


def _symbol(tree: ast.Call) -> str:
    if isinstance(tree.args[0], ast.Constant):
        return str(tree.args[0].value)
    raise ValueError(f"{ast.unparse(tree)} is not a symbol")


def _shapes(graph: Mapping[str, Any], free: Mapping[str, int]) -> dict[str, Shape]:
    """Of all tensors of a graph."""
    return {name: _shape(about["sizes"], free) for name, about in graph["tensor_values"].items()}


def _shape(sizes: list[Any], free: Mapping[str, int], least: float = 0) -> Shape:
    given = [size.get("as_int", size.get("as_expr")) for size in sizes]
    shape = [n if isinstance(n, int) else _size(_tree(n["expr_str"]), free) for n in given]
    if min(shape, default=0) < least:
        raise NoSize(min(shape))
    if max(shape, default=0) > MOST_SIDE:
        raise NoSize(f"more than {MOST_SIDE:,}")
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
        if _is_symbol(tree):
            return free[_symbol(tree)]
        made = _FUNCTIONS[tree.func.id](*(_size(each, free) for each in tree.args))
        if abs(made) > MOST_SIDE**4:  # else powers of powers take all memory
            raise NoSize(f"more than {MOST_SIDE:,}")
        return made
    raise ValueError(f"a size is {ast.unparse(tree)}")
