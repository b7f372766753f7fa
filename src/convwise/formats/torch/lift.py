"""PyTorch modules and .pt2 files as nets, by way of the ATen operators that torch.export finds."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._pytree import SUPPORTED_NODES

from convwise.core.problems import ConvwiseError, UnusableInput
from convwise.formats.lifted import Lifted
from convwise.formats.torch.batches import batch_first, one_by_one, some_alone
from convwise.formats.torch.constants import worked_out
from convwise.formats.torch.fold import composite, folded
from convwise.formats.torch.program import (
    BATCH,
    FLOATS,
    Node,
    Program,
    Ref,
    Region,
    first_of,
    one_image,
    opened,
    renamed,
)
from convwise.formats.torch.pt2 import DAMAGES, damaged, read_program
from convwise.formats.torch.refusals import apart, refusal, taken, unreadable
from convwise.formats.torch.rules import RULES
from convwise.formats.torch.walk import Walk


def lift(module: nn.Module, input_shape: tuple[int, int, int]) -> Lifted:
    """The net of any module that torch.export can trace, also of a compiled one.

    input_shape: of the images, (height, width, channels).

    Weights come along in Keras's layouts. Operators without a layer become Opaque. UnusableInput
    where the module cannot be traced, or reads more than one image.
    """
    # torch.compile wraps a module in another
    while isinstance(inside := getattr(module, "_orig_mod", None), nn.Module):
        module = inside
    return _walked(_exported(module, input_shape), input_shape)


def read(path: str | Path, input_shape: tuple[int, int, int] | None = None) -> Lifted:
    """The net in a .pt2 file, read as JSON and raw numbers: nothing in it is run or unpickled.

    input_shape: (height, width, channels), where the file leaves the size free. A .pt or .pth file
    is refused unread, since it is a pickle.
    """
    if Path(path).suffix.lower() in (".pt", ".pth", ".pkl", ".bin", ".ckpt"):
        fix = "save with torch.export.save, safetensors or ONNX, or give package.module:callable"
        raise UnusableInput(str(path), "is a pickle, which can run code", "a .pt2 file", fix)
    program = read_program(path, input_shape)
    _, channels, height, width = program.shapes[program.image]
    try:
        return _walked(program, (height, width, channels))
    except (ConvwiseError, *DAMAGES) as error:
        if isinstance(error, UnusableInput) and not error.problem.where.startswith("weight"):
            raise
        raise damaged(path, error) from error


def _walked(program: Program, input_shape: tuple[int, int, int]) -> Lifted:
    if some_alone(program):
        fix = "give a module whose forward takes a batch of images (n, channels, height, width)"
        what = "looks at some images of a batch, as of a list, and not at the others"
        raise UnusableInput("model", what, "the same layers on the whole batch", fix)
    walk = Walk(batch_first(program), input_shape)
    walk.run(RULES, composite, worked_out)
    folded(walk.draft)
    return walk.draft.lifted(outputs=walk.outputs)


def _exported(module: nn.Module, input_shape: tuple[int, int, int]) -> Program:
    """The module's program, for so many images that the batch is known among the axes."""
    height, width, channels = input_shape
    with _quiet():
        if (told := unreadable(module)) is not None:
            raise told
    like = next((each for each in module.parameters() if each.is_floating_point()), torch.empty(0))
    try:
        with _quiet(), torch.no_grad(), _unchanged(module), _plain_answers(module):
            shape = BATCH, channels, height, width
            image = torch.empty(shape, dtype=like.dtype, device=like.device)
            exported = torch.export.export(module.eval(), *taken(module, image))
            program = _program(exported, type(module).__name__)
        if one_by_one(program):
            raise apart(module)
        return program
    except UnusableInput:
        raise
    except Exception as error:  # whatever torch.export, or the module itself, says
        with _quiet():
            raise refusal(module, input_shape, error) from error


@contextlib.contextmanager
def _unchanged(module: nn.Module) -> Iterator[None]:
    """Afterwards each part of the module is as it was.

    That is, in its mode, and without what its forward kept while it was traced.
    """

    def kept(value: Any) -> Any:
        return value.copy() if type(value) in (dict, list) else value

    parts = list(module.modules())
    before = [{key: kept(value) for key, value in vars(part).items()} for part in parts]
    try:
        yield
    finally:
        for part, values in zip(parts, before, strict=True):
            vars(part).clear()
            vars(part).update(values)


@contextlib.contextmanager
def _plain_answers(module: nn.Module) -> Iterator[None]:
    """Inside, an answer of a class that torch.export does not know is a dict or list."""
    hook = module.register_forward_hook(lambda module, given, answer: _plain(answer))
    try:
        yield
    finally:
        hook.remove()


def _plain(answer: Any) -> Any:
    known = type(answer) in SUPPORTED_NODES and type(answer) not in (dict, list, tuple)
    if known or isinstance(answer, torch.Tensor):
        return answer
    if is_dataclass(answer) and not isinstance(answer, type):
        return {each.name: _plain(getattr(answer, each.name)) for each in fields(answer)}
    if isinstance(answer, Mapping):
        return {key: _plain(value) for key, value in answer.items()}
    return [_plain(each) for each in answer] if isinstance(answer, (list, tuple)) else answer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch.export prints where it fails, which the error says: warnings, graphs."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _program(exported: Any, name: str) -> Program:
    """An ExportedProgram as ours."""
    signature, tensors = exported.graph_signature, {**exported.constants, **exported.state_dict}
    parameters, buffers = signature.inputs_to_parameters, signature.inputs_to_buffers
    places = {**signature.inputs_to_lifted_tensor_constants, **buffers, **parameters}
    found = {key: tensors.get(place) for key, place in places.items()}
    kept = {key: value for key, value in found.items() if isinstance(value, torch.Tensor)}
    one = {id(tensor): key for key, tensor in kept.items()}
    names = {key: one[id(tensor)] for key, tensor in kept.items() if one[id(tensor)] != key}

    def constant(key: str) -> NDArray[Any] | None:
        tensor = kept.get(key)
        if tensor is None or tensor.is_meta or tensor.is_complex():
            return None
        array: NDArray[Any] = tensor.detach().float().cpu().numpy()
        return array

    graph = _region(exported.graph_module)
    nodes, shapes = opened([renamed(node, names) for node in graph.nodes], graph.shapes)
    outputs = tuple(each for each in signature.user_outputs if isinstance(each, str))
    image = one_image([each for each in signature.user_inputs if isinstance(each, str)], name)
    own = frozenset(parameters) - names.keys()
    return Program(
        image, outputs, nodes, shapes, constant, own,
        own | frozenset(buffers) - names.keys(),
        frozenset(key for key in own if kept[key].requires_grad),
        sum(tensor.numel() for key, tensor in kept.items() if key not in names),
        _complex(exported.graph_module),
    )  # fmt: skip


def _complex(module: Any) -> frozenset[str]:
    """The nodes that give complex numbers."""
    values = {node.name: node.meta.get("val") for node in module.graph.nodes}
    tensors = {key: value for key, value in values.items() if isinstance(value, torch.Tensor)}
    return frozenset(key for key, tensor in tensors.items() if tensor.is_complex())


def _region(module: Any) -> Region:
    """The whole of a graph module of torch.fx."""
    graph = module.graph.nodes
    values = {node.name: node.meta.get("val") for node in graph}
    tensors = {key: value for key, value in values.items() if isinstance(value, torch.Tensor)}
    shapes = {key: tuple(map(int, tensor.shape)) for key, tensor in tensors.items()}
    calls = [node for node in graph if node.op == "call_function"]
    nodes = [_node(node) for node in calls if "getitem" not in str(node.target)]
    inputs = tuple(node.name for node in graph if node.op == "placeholder")
    outputs = [each for node in graph if node.op == "output" for each in node.args[0]]
    # Other answers are None, or a number
    names = tuple(each.name if isinstance(each, torch.fx.Node) else "" for each in outputs)
    return Region(inputs, tuple(nodes), names, shapes)


def _node(node: Any) -> Node:
    """An fx node, with its arguments by the names of its schema and its outputs in order."""
    schema = getattr(node.target, "_schema", None)
    names = [each.name for each in schema.arguments] if schema else map(str, count())
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    parts = {user.args[1]: user.name for user in node.users if "getitem" in str(user.target)}
    outputs = tuple(parts.get(i, "") for i in range(max(parts) + 1)) if parts else (node.name,)
    modules = node.meta.get("nn_module_stack") or {}
    stack = tuple((call, path, _class(kind)) for call, (path, kind) in modules.items())
    operator = schema.name.removeprefix("aten::") if schema else _target(node.target)
    arguments = {key: _argument(value) for key, value in given.items()}
    return Node(first_of(outputs), operator, arguments, outputs, stack)


def _target(target: Any) -> str:
    """What is called that is no operator: a function of torch's own, or a way to run a graph."""
    return target if isinstance(target, str) else str(getattr(target, "__name__", None) or target)


def _class(kind: Any) -> str:
    return kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


def _argument(value: Any) -> Any:
    if isinstance(value, torch.fx.Node):
        stored = value.op == "get_attr"
        inside = getattr(value.graph.owning_module, str(value.target), None) if stored else None
        return _region(inside) if isinstance(inside, torch.fx.GraphModule) else Ref(value.name)
    if isinstance(value, torch.dtype):
        return FLOATS.get(str(value).removeprefix("torch."), 0)
    return [_argument(each) for each in value] if isinstance(value, (list, tuple)) else value
