"""PyTorch modules and .pt2 files as nets, by way of the ATen operators that torch.export finds."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from convwise.core.problems import ConvwiseError, UnusableInput
from convwise.formats.lifted import Lifted
from convwise.formats.torch.batches import batch_first, one_by_one
from convwise.formats.torch.fold import CONSTANTS, composite, folded
from convwise.formats.torch.pt2 import (
    BATCH,
    DAMAGES,
    FLOATS,
    Node,
    Program,
    Ref,
    Region,
    damaged,
    first_of,
    one_image,
    opened,
    read_program,
    renamed,
)
from convwise.formats.torch.refusals import apart, refusal, unreadable
from convwise.formats.torch.rules import RULES
from convwise.formats.torch.walk import Walk


def lift(module: nn.Module, input_shape: tuple[int, int, int]) -> Lifted:
    """The net of any module that torch.export can trace, on images of (height, width, channels).

    Weights come along in Keras's layouts. Operators without a layer become Opaque. UnusableInput
    where the module cannot be traced, or reads more than one image.
    """
    return _walked(_exported(module, input_shape), input_shape)


def read(path: str | Path, input_shape: tuple[int, int, int] | None = None) -> Lifted:
    """The net in a .pt2 file, which is read as JSON and raw numbers: nothing in it is run or unpickled.

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
    walk = Walk(batch_first(program), input_shape)
    walk.run(RULES, composite, CONSTANTS)
    folded(walk.draft)
    return walk.draft.lifted(outputs=walk.outputs)


def _exported(module: nn.Module, input_shape: tuple[int, int, int]) -> Program:
    """The module's program for so many images that the batch is known among the axes, also once it was moved."""
    height, width, channels = input_shape
    with _quiet():
        if (told := unreadable(module)) is not None:
            raise told
    like = next((each for each in module.parameters() if each.is_floating_point()), torch.empty(0))
    try:
        with _quiet(), torch.no_grad(), _unchanged(module):
            image = torch.empty(BATCH, channels, height, width, dtype=like.dtype, device=like.device)
            program = _program(torch.export.export(module.eval(), (image,)), type(module).__name__)
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
    """Afterwards each part of the module is as it was: in its mode, and without what its forward kept while traced."""
    before = [
        (part, {key: value.copy() if type(value) in (dict, list) else value for key, value in vars(part).items()})
        for part in module.modules()
    ]
    try:
        yield
    finally:
        for part, kept in before:
            vars(part).clear()
            vars(part).update(kept)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings, logs and graphs that torch.export prints where it fails: the error says it."""
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
    kept = {key: tensors[place] for key, place in places.items() if isinstance(tensors.get(place), torch.Tensor)}
    one = {id(tensor): key for key, tensor in kept.items()}
    names = {key: one[id(tensor)] for key, tensor in kept.items() if one[id(tensor)] != key}

    def constant(key: str) -> NDArray[Any] | None:
        tensor = kept.get(key)
        return tensor.detach().float().cpu().numpy() if tensor is not None and not tensor.is_meta else None

    graph = _region(exported.graph_module)
    nodes, shapes = opened([renamed(node, names) for node in graph.nodes], graph.shapes)
    outputs = tuple(each for each in signature.user_outputs if isinstance(each, str))
    image = one_image([each for each in signature.user_inputs if isinstance(each, str)], name)
    own = frozenset(parameters) - names.keys()
    return Program(
        image, outputs, nodes, shapes, constant, own,
        own | frozenset(buffers) - names.keys(), frozenset(key for key in own if kept[key].requires_grad),
    )  # fmt: skip


def _region(module: Any) -> Region:
    """The whole of a graph module of torch.fx."""
    graph = module.graph.nodes
    values = {node.name: node.meta.get("val") for node in graph}
    shapes = {key: tuple(map(int, v.shape)) for key, v in values.items() if isinstance(v, torch.Tensor)}
    nodes = [_node(node) for node in graph if node.op == "call_function" and "getitem" not in str(node.target)]
    inputs = tuple(node.name for node in graph if node.op == "placeholder")
    outputs = [each for node in graph if node.op == "output" for each in node.args[0]]
    return Region(inputs, tuple(nodes), tuple(each.name if each is not None else "" for each in outputs), shapes)


def _node(node: Any) -> Node:
    """An fx node, with its arguments by the names of its schema and its outputs in order."""
    schema = getattr(node.target, "_schema", None)
    names = [each.name for each in schema.arguments] if schema else [str(i) for i in range(len(node.args))]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    parts = {user.args[1]: user.name for user in node.users if "getitem" in str(user.target)}
    outputs = tuple(parts.get(i, "") for i in range(max(parts) + 1)) if parts else (node.name,)
    stack = tuple((call, path, _class(kind)) for call, (path, kind) in (node.meta.get("nn_module_stack") or {}).items())
    operator = schema.name.removeprefix("aten::") if schema else str(node.target)
    return Node(first_of(outputs), operator, {key: _argument(value) for key, value in given.items()}, outputs, stack)


def _class(kind: Any) -> str:
    return kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


def _argument(value: Any) -> Any:
    if isinstance(value, torch.fx.Node):
        inside = getattr(value.graph.owning_module, str(value.target), None) if value.op == "get_attr" else None
        return _region(inside) if isinstance(inside, torch.fx.GraphModule) else Ref(value.name)
    if isinstance(value, torch.dtype):
        return FLOATS.get(str(value).removeprefix("torch."), 0)
    return [_argument(each) for each in value] if isinstance(value, (list, tuple)) else value
