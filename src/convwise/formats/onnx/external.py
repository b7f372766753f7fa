"""Weights that an ONNX file keeps in other files beside it, as PyTorch writes them.

Only a plain file in the folder of the model is opened, or in a folder under it: no path that leads
out, no link.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from convwise.core.problems import UnusableInput

MOST_BYTES = 2**31  # of weights that are read; of larger ones the shapes alone
# How often a file is read at most, as where weights serve twice; or so few bytes in all
MOST_TIMES, FEW_BYTES = 4, 2**26
SMALL = 4096  # numbers up to which a constant may say how the network is built, and must be known


def fill(model: onnx.ModelProto, path: Path) -> None:
    """Read the weights that are kept beside the file at `path` into the model, where they are not
    too many.

    UnusableInput where a file is missing, too short, or not one that lies beside the model.
    """
    tensors = [tensor for tensor in _tensors(model) if tensor.data_location == TensorProto.EXTERNAL]
    files = {
        place: _file(path, place)
        for place in dict.fromkeys(_about(tensor).get("location", "") for tensor in tensors)
    }
    read = (
        tensors
        if sum(map(_bytes, tensors)) <= MOST_BYTES
        else [t for t in tensors if prod(t.dims) <= SMALL]
    )
    held = sum(file.stat().st_size for file in {file.resolve() for file in files.values()})
    if (named := sum(map(_bytes, read))) > max(MOST_TIMES * held, FEW_BYTES):
        what = (
            f"names {named:,} bytes of weights in files of {held:,}: the same ones again and again"
        )
        raise UnusableInput(
            path.name, what, "a place of its own for each weight", "export it again"
        )
    for tensor in read:
        about = _about(tensor)
        tensor.raw_data = _part(files[about.get("location", "")], tensor, about)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def unread(tensor: TensorProto) -> NDArray[Any]:
    """An array of the tensor's shape that takes no memory, for weights that are not read."""
    if prod(tensor.dims) <= SMALL:
        what = (
            f"is kept in another file, {_about(tensor).get('location', '')!r}, which was not read"
        )
        raise UnusableInput(
            f"weight {tensor.name}", what, "the path of the .onnx file that it lies beside"
        )
    return np.broadcast_to(
        np.zeros((), helper.tensor_dtype_to_np_dtype(tensor.data_type)), tuple(tensor.dims)
    )


def is_unread(array: NDArray[Any]) -> bool:
    """Whether only the shape of a constant is known."""
    return array.size > 1 and not any(array.strides)


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        yield from graph.initializer
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            yield from (attribute.t,) if attribute.HasField("t") else ()
            graphs += [*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs]


def _about(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _bytes(tensor: TensorProto) -> int:
    try:
        return int(prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except KeyError as error:
        raise UnusableInput(
            f"weight {tensor.name}", f"is of an unknown type, {tensor.data_type}"
        ) from error


def _file(path: Path, place: str) -> Path:
    """The file that a model names, where it may be opened."""
    inside = PurePosixPath(place)
    plain = (
        place
        and not inside.is_absolute()
        and ".." not in inside.parts
        and not set("\\:\0") & set(place)
    )
    found = path.parent / place if plain else path
    folder = path.parent.resolve()
    if not plain or not found.resolve().is_relative_to(folder):
        what = f"keeps weights in {place!r}, which is not in its own folder: it was not opened"
        raise UnusableInput(path.name, what, "a file beside the model")
    if not found.is_file():
        fix = f"copy it into {path.parent}, or export again with the weights inside"
        raise UnusableInput(
            path.name, f"keeps its weights in {place!r}, which is not beside it", "both files", fix
        )
    return found


def _part(file: Path, tensor: TensorProto, about: dict[str, str]) -> bytes:
    """The bytes of one tensor. UnusableInput where they are not as many as its shape asks for."""
    wanted = _bytes(tensor)
    numbers = about.get("offset", "0"), about.get("length", str(wanted))
    if (
        not all(each.isascii() and each.isdigit() and len(each) < 20 for each in numbers)
        or int(numbers[1]) != wanted
    ):
        what = f"lies at {numbers[0]} in {file.name} with {numbers[1]} bytes"
        expected = f"{wanted} bytes, as its shape {tuple(tensor.dims)} asks for"
        raise UnusableInput(f"weight {tensor.name}", what, expected)
    with file.open("rb") as opened:
        opened.seek(int(numbers[0]))
        data = opened.read(wanted)
    if len(data) != wanted:
        what = f"is cut off: {file.name} ends after {len(data)} of its {wanted} bytes"
        raise UnusableInput(f"weight {tensor.name}", what, "the whole file", "copy it again")
    return data
