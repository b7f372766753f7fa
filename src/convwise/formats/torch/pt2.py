"""What torch.export makes of a module: a graph of ATen operators, from memory or from a .pt2 file.

A file is read as JSON and raw bytes alone: torch.export.load would unpickle what a file asks for,
load libraries, and evaluate its shapes as Python. The format is that of torch.export.save since
PyTorch 2.8 (torch/_export/serde/schema.py); what is pickled inside is refused, not read.
"""

from __future__ import annotations

import ast
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core.problems import UnusableInput
from convwise.core.windows import Shape

BATCH = 97  # images, where it is ours to say: a prime that is hardly the size of another axis
JSON_BYTES = 2**28  # a graph of a million nodes stays below
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
EXPECTED = "a file that torch.export.save of PyTorch 2.8 or later wrote"


@dataclass(frozen=True)
class Ref:
    """The value of another node, by name."""

    name: str


@dataclass(frozen=True)
class Node:
    """One ATen operator: 'conv2d' with its arguments by name; shape is its (first) output's, with the batch.

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
class Program:
    """A graph of nodes over one image. shapes: of every tensor, with the batch; constant: a stored array by name."""

    image: str
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    shapes: Mapping[str, Shape]
    constant: Callable[[str], NDArray[Any] | None]
    parameters: frozenset[str] = field(default_factory=frozenset)

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
        raise UnusableInput(str(path), f"is damaged: {error!r}", EXPECTED) from error


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
            raise UnusableInput(path, what, EXPECTED, "save it anew with torch.export.save, or as ONNX")

    def json(self, name: str) -> Any:
        if self.members[name].file_size > JSON_BYTES:
            raise UnusableInput(self.path, f"holds {name} of {self.members[name].file_size:,} bytes", EXPECTED)
        return json.loads(self.archive.read(self.members[name]))

    def arrays(self) -> dict[str, NDArray[Any] | None]:
        """Every stored tensor by its name in the module; None where its type is none that weights have."""
        kinds = ("weights", "constants")
        found = {}
        for kind in kinds:
            for name, about in self.json(f"data/{kind}/model_{kind}_config.json")["config"].items():
                found[name] = self._array(f"data/{kind}/{about['path_name']}", about)
        return found

    def _array(self, member: str, about: Mapping[str, Any]) -> NDArray[Any] | None:
        if about["use_pickle"] or about["tensor_meta"] is None:
            fix = "save plain tensors with torch.export.save, or use ONNX or safetensors"
            raise UnusableInput(self.path, f"{member} is a pickle, which can run code", EXPECTED, fix)
        meta, data = about["tensor_meta"], self.archive.read(self.members[member])
        kind = _DTYPES.get(meta["dtype"])
        if kind is None:
            return None
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
    graph, arrays = module["graph"], archive.arrays()
    stored, parameters, images = {}, set(), []
    for spec in module["signature"]["input_specs"]:
        ((kind, about),) = spec.items()
        if kind == "user_input":
            images += _names(about["arg"])
        elif kind in ("parameter", "buffer", "tensor_constant"):
            stored[about["arg"]["name"]] = arrays.get(about[f"{kind}_name"])
            parameters |= {about["arg"]["name"]} if kind == "parameter" else set()
    image = one_image(images, archive.path)
    free = _free(graph["tensor_values"][image]["sizes"], input_shape, archive.path)
    shapes = {name: _shape(about["sizes"], free) for name, about in graph["tensor_values"].items()}
    specs = module["signature"]["output_specs"]
    names = tuple(name for spec in specs if "user_output" in spec for name in _names(spec["user_output"]["arg"]))
    nodes = tuple(_node(each) for each in graph["nodes"])
    return Program(image, names, nodes, shapes, stored.get, frozenset(parameters))


def one_image(images: list[str], where: str) -> str:
    """The one input of a model."""
    if len(images) != 1:
        raise UnusableInput(where, f"has {len(images)} inputs", "one input, the images")
    return images[0]


def _node(data: Mapping[str, Any]) -> Node:
    outputs = tuple(name for output in data["outputs"] for name in _names(output))
    arguments = {each["name"]: _argument(each["arg"]) for each in data["inputs"]}
    prefix, _, target = str(data["target"]).partition("torch.ops.aten.")
    operator = target.partition(".")[0] if not prefix else str(data["target"])
    stack = [item.split(",") for item in data["metadata"].get("nn_module_stack", "").split(";") if item.count(",") == 2]
    calls = tuple((call, path, kind) for call, path, kind in stack)
    return Node(outputs[0] if outputs else "", operator, arguments, outputs, calls)


def _names(output: Mapping[str, Any]) -> list[str]:
    ((kind, value),) = output.items()
    if kind == "as_tensors":
        return [each["name"] for each in value]
    return [value["name"]] if kind == "as_tensor" else []


def _argument(data: Mapping[str, Any]) -> Any:
    ((kind, value),) = data.items()
    if kind == "as_tensor":
        return Ref(value["name"])
    if kind == "as_tensors":
        return [Ref(each["name"]) for each in value]
    if kind in ("as_optional_tensor", "as_sym_int", "as_sym_float"):
        return _argument(value) if kind == "as_optional_tensor" else value.get("as_int", value.get("as_float"))
    if kind in ("as_sym_ints", "as_optional_tensors"):
        return [each.get("as_int") if kind == "as_sym_ints" else _argument(each) for each in value]
    if kind in ("as_float", "as_floats"):  # JSON has no word for infinity: it is the string "-Infinity"
        return float(value) if kind == "as_float" else [float(each) for each in value]
    return None if kind == "as_none" else value


# --- shapes ---------------------------------------------------------------------------------


def _free(sizes: list[Any], input_shape: tuple[int, int, int] | None, path: str) -> dict[str, int]:
    """The values of the free sizes of the image, (n, channels, height, width)."""
    wanted = (BATCH, input_shape[2], *input_shape[:2]) if input_shape else (BATCH, None, None, None)
    free: dict[str, int] = {}
    if len(sizes) != 4:
        raise UnusableInput(path, f"reads an input of {len(sizes)} axes", "images (n, channels, height, width)")
    for axis, (size, want) in enumerate(zip(sizes, wanted, strict=True)):
        if "as_int" in size:
            if axis and want not in (None, size["as_int"]):
                what = f"is made for images of {[each.get('as_int') for each in sizes[1:]]} (channels first)"
                raise UnusableInput(path, what, f"{list(wanted[1:])}", "the input shape that it was exported with")
        elif want is None:
            raise UnusableInput(path, "has a free input size", "the size of its images", "--input-shape 224,224,3")
        else:
            free[_symbol(size["as_expr"]["expr_str"])] = want
    return free


def _symbol(text: str) -> str:
    tree = ast.parse(text, mode="eval").body
    if isinstance(tree, ast.Call) and isinstance(tree.args[0], ast.Constant):
        return str(tree.args[0].value)
    raise ValueError(f"{text} is no symbol")


def _shape(sizes: list[Any], free: Mapping[str, int]) -> Shape:
    given = [size.get("as_int", size.get("as_expr")) for size in sizes]
    shape = [n if isinstance(n, int) else _size(ast.parse(n["expr_str"], mode="eval").body, free) for n in given]
    if min(shape, default=0) < 0:
        raise ValueError(f"a shape is {shape}")
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
    "Max": max,
    "Min": min,
}


def _size(tree: ast.expr, free: Mapping[str, int]) -> int:
    """A size of a tensor, worked out by hand: the text is never run."""
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
        return tree.value
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        return -_size(tree.operand, free)
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
        if tree.func.id == "Symbol":
            return free[_symbol(ast.unparse(tree))]
        return _FUNCTIONS[tree.func.id](*(_size(each, free) for each in tree.args))
    raise ValueError(f"a size is {ast.unparse(tree)}")
