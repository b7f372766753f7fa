"""What people type for a shape, and what to do next with what convwise does not read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convwise.core.parameters import whole
from convwise.core.problems import Problem, ShapeError, UnusableInput
from convwise.core.text import brief, times

InputShape = tuple[int, int, int]
EXPECTED = "HEIGHTxWIDTHxCHANNELS such as 224x224x3, or (224, 224, 3), each at least 1"
# Numbers of channels that images have, and the least side that cannot be one
CHANNELS, SIDE = (1, 2, 3, 4), 16


def input_shape(given: Any, where: str = "input_shape") -> InputShape:
    """(height, width, channels) of what was given: '224x224x3', '224,224,3', a tuple, list or
    array.

    UnusableInput where it is no such shape, with one that would be.
    """
    parts = _parts(given)
    numbers = [whole(part) for part in parts] if parts is not None else []
    if len(numbers) == 3 and all(n is not None and n > 0 for n in numbers):
        height, width, channels = (n for n in numbers if n is not None)
        return height, width, channels
    why = {1: ", one number", 2: ", without the channels", 4: ", with the batch"}
    what = f"is {brief(given)}{why.get(len(numbers), '')}"
    raise UnusableInput(where, what, EXPECTED, _instead(numbers, where))


def _parts(given: Any) -> Sequence[Any] | None:
    """The numbers of a shape; a word that is none stays a word."""
    if isinstance(given, str):
        words = re.split(r"\s*[x×*,]\s*|\s+", given.strip(" ()[],.").lower())
        return [
            int(word) if word.isascii() and word.isdigit() and len(word) < 20 else word
            for word in words
        ]
    if whole(given) is not None:
        return [given]
    return (
        list(given) if hasattr(given, "__len__") and not isinstance(given, (dict, bytes)) else None
    )


def _instead(numbers: Sequence[int | None], where: str) -> str:
    """The shape that was meant, as it would be typed."""
    known = [n for n in numbers if n]
    if len(numbers) == 1 and known:
        return typed((known[0], known[0], 3), where)
    if len(numbers) == 2 and len(known) == 2:
        return (
            f"{typed((known[0], known[1], 3), where)} for colour images,"
            f" {typed((*known, 1), where)} for grey ones"
        )
    if len(numbers) == 4 and all(n for n in numbers[1:]):
        image = tuple(n for n in numbers[1:] if n)
        return typed(turned(image) if is_channels_first(image, CHANNELS[-1] + 1) else image, where)
    return typed((224, 224, 3), where)


def typed(shape: Sequence[int], where: str) -> str:
    """A shape as it is typed: as an option or argument of the command line, or in Python."""
    if where.startswith("--"):
        return f"{where} {times(shape)}"
    return f"{where}={tuple(shape)}" if where == "input_shape" else times(shape)


def is_channels_first(shape: Sequence[int], least: int = SIDE) -> bool:
    """Whether a shape is as PyTorch has it: few channels, then two sides of at least so much."""
    return shape[0] in CHANNELS and min(shape[1:]) >= least


def turned(shape: Sequence[int]) -> InputShape:
    """(channels, height, width) as (height, width, channels)."""
    return shape[1], shape[2], shape[0]


def channels_first(shape: Sequence[int] | None, where: str) -> tuple[Problem, ...]:
    """A note on a shape that fits, and that nevertheless may have its channels first; none where it
    has not.
    """
    if shape is None or not is_channels_first(shape):
        return ()
    height, width, channels = shape
    what = f"is {times(shape)}, read as height {height}, width {width} and {channels} channels"
    fix = f"{typed(turned(shape), where)}, if {height} is the number of channels"
    return (Problem(where, what, "height, width, channels: channels last", fix, "note"),)


@contextmanager
def asked(shape: Sequence[int] | None, where: str, name: str = "") -> Iterator[None]:
    """Errors as who asked reads them: a fix as it is typed there, and a shape that has its channels
    first as that.

    name: the file, if it is one, whose own errors the shape has nothing to do with, or
    package.module:callable.
    """
    try:
        yield
    except (ShapeError, UnusableInput) as error:
        problem = error.problem
        about_file = name and problem.where in (name, Path(name).name)
        if shape is None or about_file or not is_channels_first(shape):
            fix = (
                _OPTION.sub(r"input_shape=(\1, \2, \3)", problem.fix)
                if where == "input_shape"
                else problem.fix
            )
            fix = _PART.sub(rf"\g<0>: {name}\1", fix) if ":" in name else fix
            if fix == problem.fix:
                raise
            raise type(error)(problem.where, problem.what, problem.expected, fix) from error
        height, width, channels = shape
        what = (
            f"is {times(shape)}, read as height {height}, width {width} and {channels} channels,"
            " which "
        )
        what += f"does not fit ({problem.where} {problem.what})"
        fix = typed(turned(shape), where)
        raise type(error)(where, what, "height, width, channels: channels last", fix) from error


_OPTION = re.compile(r"--input-shape (\d+)x(\d+)x(\d+)")
_PART = re.compile(r"\((\.\w+)\)")  # of a module, which can be named behind what makes it


# --- models ---------------------------------------------------------------------------------

_TO_ONNX = "in your own code write it as ONNX"
_KERAS = 'load it in your own code and call model.save("model.keras")'
_TORCH = (
    "in your own code load it into its module, and "
    "torch.export.save(torch.export.export(model, (images,)), 'model.pt2')"
)
# What to do with a file of a kind that is not read, by its suffix.
INSTEAD = {
    ".h5": _KERAS,
    ".hdf5": _KERAS,
    ".py": "name what it defines, as module:callable",
    ".ipynb": "move the network into a .py file and name it: module:callable",
    ".pb": (
        "python -m tf2onnx.convert --saved-model FOLDER --output model.onnx, with the folder that"
        " holds it"
    ),
    ".tflite": (
        "give the model that it was made from, or python -m tf2onnx.convert --tflite FILE --output"
        " model.onnx"
    ),
    ".mlmodel": (
        "give the model that it was made from, as .keras, .pt2 or .onnx: Core ML files are not read"
    ),
    ".mlpackage": (
        "give the model that it was made from, as .keras, .pt2 or .onnx: Core ML files are not read"
    ),
    ".ckpt": _TORCH,
    ".bin": _TORCH,
    ".pkl": _TORCH,
    ".pickle": _TORCH,
    ".ptl": _TORCH,
    ".torchscript": _TORCH,
    ".caffemodel": f"{_TO_ONNX}, as caffe2onnx does",
    ".prototxt": f"{_TO_ONNX}, as caffe2onnx does",
    ".weights": f"{_TO_ONNX}: it holds darknet's weights without their network",
    ".cfg": f"{_TO_ONNX}: darknet's files are not read",
    ".engine": "give the .onnx file that it was built from",
    ".plan": "give the .onnx file that it was built from",
    ".trt": "give the .onnx file that it was built from",
    ".xml": "give the model that it was converted from: OpenVINO's files are not read",
    ".npz": (
        "build the network in your own code, load the weights, and give package.module:callable"
    ),
    ".zip": "unpack it, and give the model inside it",
    ".tar": "unpack it, and give the model inside it",
    ".gz": "unpack it, and give the model inside it",
}

# What to do with an object of another package than those whose models are read, by that package.
LIVE_INSTEAD = {
    "torch": (
        "save what torch.export.export returned with torch.export.save, as 'model.pt2', and give"
        " that file"
    ),
    "tensorflow": (
        "tf.saved_model.save(it, 'folder'), and "
        "python -m tf2onnx.convert --saved-model folder --output model.onnx"
    ),
    "tf_keras": (
        "load it with Keras 3, or tf.saved_model.save(it, 'folder'), and "
        "python -m tf2onnx.convert --saved-model folder --output model.onnx"
    ),
    "coremltools": INSTEAD[".mlmodel"],
    "onnxruntime": "give the .onnx file that it runs",
    "flax": _TO_ONNX,
}


def folder_instead(path: Path) -> str:
    """What to do with a folder that is not one of ours."""
    if (path / "saved_model.pb").exists():
        fix = f"python -m tf2onnx.convert --saved-model {path} --output model.onnx"
        return f"{fix}, or load it in Keras and model.save('model.keras')"
    if path.suffix == ".mlpackage":
        return INSTEAD[".mlpackage"]
    models = sorted(
        each.name for each in path.iterdir() if each.suffix in (".keras", ".onnx", ".pt2")
    )
    return f"give a file in it: {path / models[0]}" if models else ""


def live_instead(model: Any) -> tuple[str, str]:
    """What an object is that is no model, and what to give instead."""
    name = getattr(model, "__qualname__", type(model).__name__)
    if isinstance(model, type):
        return (
            f"is the class {name}, not a model",
            f"call it, and give what it returns: {name}(...)",
        )
    if isinstance(model, dict):
        return (
            "is a dict, such as weights without their network",
            "build the network, load them into it, and give that",
        )
    if callable(model) and hasattr(model, "__qualname__"):
        return (
            f"is the function {name}, not a model",
            f"call it, and give what it returns: {name}(...)",
        )
    if model is None:
        return "is None, not a model", "return the model"
    fix = LIVE_INSTEAD.get(type(model).__module__.partition(".")[0], "")
    return f"is of type {type(model).__name__}, not a model that can be read", fix
