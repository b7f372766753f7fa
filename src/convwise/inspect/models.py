"""Any model -> its net: a file, a folder, package.module:callable, or a live model."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from convwise.core.layers import Opaque
from convwise.core.net import Net
from convwise.core.places import near, refuse_empty
from convwise.core.problems import ConvwiseError, UnusableInput
from convwise.core.text import times
from convwise.formats import json as net_json
from convwise.formats.lifted import SIZE, Lifted
from convwise.inspect.requests import (
    INSTEAD,
    InputShape,
    asked,
    channels_first,
    folder_instead,
    live_instead,
)
from convwise.inspect.requests import input_shape as shape_of

# Who reads a file, by its suffix; its lift says why it does not open a pickle.
READERS: dict[str, str] = {
    ".keras": "convwise.formats.keras.lift",
    ".onnx": "convwise.formats.onnx.lift",
    ".pt2": "convwise.formats.torch.lift",
    ".pt": "convwise.formats.torch.lift",
    ".pth": "convwise.formats.torch.lift",
}
# Who reads a live model, by package and class; a Keras model on the torch backend is a torch Module
# as well.
LIVE: dict[tuple[str, str], str] = {
    ("keras", "Model"): "convwise.formats.keras.lift",
    ("torch", "Module"): "convwise.formats.torch.lift",
    ("onnx", "ModelProto"): "convwise.formats.onnx.lift",
}
EXPECTED = (
    "a .keras, .onnx, .pt2, net .json or model.safetensors file, a folder that `convwise choose` "
    "wrote, or package.module:callable"
)
_SUFFIXES = {suffix[1:] for suffix in (*READERS, *INSTEAD, ".json", ".safetensors")}
_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_named(text: str) -> bool:
    """Whether it is written as package.module:callable."""
    return bool(_CALLABLE.fullmatch(text))


def load(model: Any, input_shape: Any = None, where: str = "input_shape") -> Lifted:
    """The net of a model: a file, a choice folder, 'package.module:callable', a live model or Net.

    input_shape: (height, width, channels), for models whose input size is free; where: what it is
    called where it was given. What the model prints goes to standard error. UnusableInput where it
    cannot be read; ShapeError where a layer does not fit.
    """
    shape = None if input_shape is None else shape_of(input_shape, where)
    known = str(model) if isinstance(model, (str, os.PathLike)) else ""
    with redirect_stdout(sys.stderr), asked(shape, where, known):
        lifted = _loaded(model, shape)
    return replace(lifted, problems=(*channels_first(shape, where), *lifted.problems))


def _loaded(model: Any, input_shape: InputShape | None) -> Lifted:
    if not isinstance(model, (str, os.PathLike)):
        return _lifted(model, input_shape, type(model).__name__)
    refuse_empty(model, "MODEL", EXPECTED)
    path = Path(model)
    # Also of a name that is too long for a file, which Path.exists raises for
    there = os.path.exists(path)
    if not there and is_named(str(model)):
        return _lifted(_called(str(model), input_shape), input_shape, str(model))
    if not there:
        module, _, name = str(model).rpartition(".")
        meant = f"{module}:{name}"
        if not is_named(meant) or name in _SUFFIXES:
            alike = [each for each in near(path) if each.is_dir() or each.suffix[1:] in _SUFFIXES]
            meant = " or ".join(map(str, alike))
        raise UnusableInput(str(model)[:200], "does not exist", EXPECTED, meant)
    return _at(_from_folder(path), input_shape) if path.is_dir() else _from_file(path, input_shape)


# --- files ----------------------------------------------------------------------------------


def _from_file(path: Path, input_shape: InputShape | None) -> Lifted:
    suffix = path.suffix.lower()
    if suffix in READERS:
        lifted: Lifted = import_module(READERS[suffix]).read(path, input_shape)
        return lifted
    if suffix == ".json":
        return _at(_from_json(path), input_shape)
    if suffix == ".safetensors":
        return _at(_from_safetensors(path), input_shape)
    what = f"is a {suffix or 'file without a suffix'}"
    raise UnusableInput(str(path), what, EXPECTED, INSTEAD.get(suffix, ""))


def _from_json(path: Path) -> Lifted:
    """A net.json, or the choice.json of a choice folder."""
    data = net_json.parsed(path)
    inside = data.get("net", data) if isinstance(data, dict) else data
    try:
        net = Net.from_json(inside)
    except (AttributeError, TypeError, KeyError) as error:
        what = f"is not a net: {error}"
        raise UnusableInput(str(path), what, "keys input_shape and layers") from error
    if not isinstance(names := data.get("classes", []), list):
        raise UnusableInput(str(path), f"has classes {names!r}"[:100], "a list of names")
    return Lifted(net, classes=tuple(map(str, names)))


def _from_safetensors(path: Path) -> Lifted:
    from convwise import formats

    net, weights, classes = formats.format_module("torch").read(path)
    return Lifted(net, weights, classes)


def _from_folder(path: Path) -> Lifted:
    if (path / "model.safetensors").is_file():
        return _from_safetensors(path / "model.safetensors")
    for name in ("choice.json", "net.json"):
        if (path / name).is_file():
            return _from_json(path / name)
    what = "holds neither model.safetensors nor choice.json nor net.json"
    raise UnusableInput(str(path), what, EXPECTED, folder_instead(path))


def learnt_by(model: Any) -> str:
    """The task of a folder that `choose` wrote; 'classify' where it says none, and of others."""
    file = Path(model) / "choice.json" if isinstance(model, (str, os.PathLike)) else None
    choice = net_json.parsed(file) if file and os.path.isfile(file) else None
    return str(choice.get("task", "classify")) if isinstance(choice, dict) else "classify"


def _at(lifted: Lifted, input_shape: InputShape | None) -> Lifted:
    """The net at another input; weights that no longer fit are left out."""
    if input_shape is None or input_shape == lifted.net.input_shape:
        return lifted
    from convwise.formats.weights import layout

    if opaque := [layer.name for layer in lifted.net.layers if isinstance(layer, Opaque)]:
        own = times(lifted.net.input_shape)
        what = f"is {times(input_shape)}, but the output of {opaque[0]} is known only for {own}"
        raise UnusableInput("input shape", what, own, "read the model itself at that size")
    net = replace(lifted.net, input_shape=input_shape)
    weights = lifted.weights if layout(net) == layout(lifted.net) else {}
    return replace(lifted, net=net, weights=weights)


# --- live models ----------------------------------------------------------------------------


def _lifted(model: Any, input_shape: InputShape | None, where: str) -> Lifted:
    if isinstance(model, Net):
        return _at(Lifted(model), input_shape)
    if isinstance(model, Lifted):
        return _at(model, input_shape)
    if (reader := _reader(model)) is None:
        expected = "keras.Model, torch.nn.Module, onnx.ModelProto or convwise's Net"
        what, fix = live_instead(model)
        raise UnusableInput(where, what, expected, fix)
    if input_shape is None and reader == LIVE["torch", "Module"]:
        what = "is a module, which takes images of any size"
        fix = "--input-shape 224x224x3, or the size you use"
        raise UnusableInput(where, what, SIZE, fix)
    lifted: Lifted = import_module(reader).lift(model, input_shape)
    return lifted


def _reader(model: Any) -> str | None:
    """Who reads a live model, by the names of its classes: no framework is loaded to ask."""
    names = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(model).__mro__}
    return next((reader for name, reader in LIVE.items() if name in names), None)


def _called(text: str, input_shape: InputShape | None) -> Any:
    """What package.module:callable names: a model, or what makes one; it is the user's own code."""
    module_name, _, path = text.partition(":")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if find_spec("tensorflow") is None:  # Keras's own default; some of its networks need it
        os.environ.setdefault("KERAS_BACKEND", "torch")
    with _here_first():
        found = _told(text, "cannot be imported", lambda: import_module(module_name))
        for name in path.split("."):
            if not hasattr(found, name):  # perhaps what it makes has such a part
                found = _model_of(text, found, input_shape)
            found = _attribute(text, found, name)
        return _model_of(text, found, input_shape)


def _model_of(text: str, maker: Any, input_shape: InputShape | None) -> Any:
    """What a class or function makes; anything else as it is."""
    if not isinstance(maker, type) and (_reader(maker) is not None or not callable(maker)):
        return maker
    fix = "name a function without arguments that returns the model;"
    fix += " a few lines of your own will do"
    return _told(text, "cannot be called", lambda: maker(**_arguments(maker, input_shape)), fix)


def _attribute(text: str, owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError:
        alike = " or ".join(get_close_matches(name, dir(owner), 3))
        raise UnusableInput(text, f"has no {name}", "package.module:callable", alike) from None


def _told(text: str, what: str, act: Callable[[], Any], fix: str = "") -> Any:
    """What `act` gives; UnusableInput with the first line of what it says where it fails."""
    try:
        return act()
    except ConvwiseError:
        raise
    except (Exception, SystemExit) as error:
        said = str(error).strip().partition("\n")[0]
        told = f"{what}: {type(error).__name__}: {said}"
        raise UnusableInput(text, told, EXPECTED, fix) from error


def _arguments(maker: Callable[..., Any], input_shape: InputShape | None) -> dict[str, Any]:
    """What keeps weights from being downloaded, and the input's shape where it is taken."""
    try:
        taken = signature(maker).parameters
    except (TypeError, ValueError):
        return {}
    arguments: dict[str, Any] = {}
    for name in ("weights", "weights_backbone"):
        if name in taken and taken[name].default not in (None, Parameter.empty):
            arguments[name] = None
    if input_shape is not None and "input_shape" in taken:
        arguments["input_shape"] = input_shape
    return arguments


@contextmanager
def _here_first() -> Iterator[None]:
    """The working directory can be imported from, as with `python -m`."""
    before, sys.path = sys.path, ["", *sys.path]
    try:
        yield
    finally:
        sys.path = before
