"""ONNX models without functions of their own, at an opset that can be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx
from onnx import inliner, version_converter

from convwise.core.problems import UnusableInput

OLDEST_OPSET = 11
EACH = 16  # to standardise a kernel, as exporters write it, takes 13
# Bytes of operators that functions are written out to, beyond EACH times those of the file
MOST_WRITTEN = 2**22


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators."""
    return max(
        (each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=1
    )


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without functions of its own, at an opset that can be read."""
    functions = {(each.domain, each.name): each.node for each in model.functions}
    if (
        functions
        and _written_out(model.graph.node, functions, {}) > MOST_WRITTEN + EACH * model.ByteSize()
    ):
        raise UnusableInput(
            "model", "calls its functions too often", "one that can be held without functions"
        )
    try:
        model = inliner.inline_local_functions(model) if model.functions else model
    except Exception as error:  # as below
        what = f"has functions that cannot be put in their places: {first_line(error)}"
        raise UnusableInput("model", what, "a whole model") from error
    try:
        if opset_of(model) < OLDEST_OPSET:
            model = version_converter.convert_version(model, OLDEST_OPSET)
    except Exception as error:  # the converter raises plain RuntimeErrors, and others
        what = f"is at opset {opset_of(model)}, and cannot be converted: {first_line(error)}"
        raise UnusableInput(
            "model", what, f"opset {OLDEST_OPSET} or newer", "export it again"
        ) from error
    if model.graph.sparse_initializer:
        raise UnusableInput("model", "keeps sparse weights", "dense ones", "export it again")
    return model


def _written_out(nodes: Iterable[onnx.NodeProto], functions: Mapping[tuple[str, str],
                 Sequence[onnx.NodeProto]], known: dict[tuple[str, str], int]) -> int:  # fmt: skip
    """The bytes of operators once functions, which may call functions, are put in their places."""
    total = 0
    for node in nodes:
        key = node.domain, node.op_type
        if key in functions and key not in known:
            known[key] = 2**62  # where it calls itself
            known[key] = _written_out(functions[key], functions, known)
        inside = [graph.node for a in node.attribute for graph in (a.g, *a.graphs)]
        total += known.get(key, node.ByteSize()) + sum(
            _written_out(each, functions, known) for each in inside
        )
    return total


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
