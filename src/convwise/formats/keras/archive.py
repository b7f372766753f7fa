"""A .keras archive before Keras loads it: what is safe to load, and what it says of itself."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import keras
from keras.src.backend.common import global_state

from convwise.core.problems import UnusableInput
from convwise.formats.json import MOST_BYTES
from convwise.formats.keras import MEMBER

_MOST_JSON = MOST_BYTES  # of a text in an archive: NASNetLarge has 1 MB
_MOST_MEMBERS = 1000
# Bytes of an archive's contents, unless it is that large itself: weights hardly shrink
_MOST_UNPACKED = 1 << 30
_MOST_TIMES = 50
_CODE = {
    "Lambda": "a Lambda layer",
    "__lambda__": "a lambda function",
    "TorchModuleWrapper": "a PyTorch module",
}
# Where Keras looks a function up
_FUNCTIONS = (keras.activations, keras.constraints, keras.initializers, keras.losses, keras.metrics,
              keras.optimizers, keras.regularizers)  # fmt: skip
# What zipfile and json end in where a file is damaged
_DAMAGES = (zipfile.BadZipFile, KeyError, ValueError, RecursionError, NotImplementedError, OSError)
_TEXTS = ("config.json", "metadata.json", MEMBER)  # the members that hold no weights


@dataclass(frozen=True)
class Archive:
    """What an archive says of itself: its configuration, bytes of weights, class names if any."""

    config: Any
    weight_bytes: int
    classes: tuple[str, ...]


def inspected(path: Path) -> Archive:
    """An archive that is safe to load: no code in it, and no more than its size lets expect."""
    wanted = "a .keras archive that Keras 3 wrote"
    if not path.is_file() or path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise UnusableInput(path.name, "is not a .keras archive", wanted)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(path, members)
            config = _json(archive, "config.json")
            if isinstance(config, dict):
                # How it was trained, perhaps with a loss of one's own: not loaded
                config.pop("compile_config", None)
            _check_config(path, config)
            weight_bytes = sum(each.file_size for each in members if each.filename not in _TEXTS)
            about = _json(archive, MEMBER) if MEMBER in archive.namelist() else {}
    except _DAMAGES as error:
        raise UnusableInput(path.name, f"is damaged: {error}", wanted) from error
    names = about.get("classes", []) if isinstance(about, dict) else []
    classes = tuple(str(name) for name in names) if isinstance(names, list) else ()
    return Archive(config, weight_bytes, classes)


def _check_members(path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    if len(members) > _MOST_MEMBERS:
        raise UnusableInput(
            path.name, f"holds {len(members):,} members", f"at most {_MOST_MEMBERS:,}"
        )
    seen: set[str] = set()
    for name in (member.filename for member in members):
        plain = not name.startswith("/") and ".." not in name.split("/") and not {*name} & {*"\\:"}
        if not plain or name in seen:
            expected = "each member once, at a plain path"
            raise UnusableInput(path.name, f"holds a member {name!r}", expected)
        seen.add(name)
    whole = sum(member.file_size for member in members)
    if whole > max(_MOST_UNPACKED, _MOST_TIMES * path.stat().st_size):
        expected = f"at most {_MOST_TIMES} times its size"
        raise UnusableInput(path.name, f"unpacks to {whole} bytes", expected)


def _json(archive: zipfile.ZipFile, name: str) -> Any:
    with archive.open(name) as member:
        text = member.read(_MOST_JSON + 1)
    if len(text) > _MOST_JSON:
        what = f"has a {name} of more than {_MOST_JSON} bytes"
        raise UnusableInput(str(archive.filename), what, "a network's")
    return json.loads(text)


def _check_config(path: Path, config: Any) -> None:
    """UnusableInput where a configuration asks for code; how parts were trained is taken out."""
    left = [config]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            if "class_name" in each:
                _check_class(path, str(each["class_name"]), each)
            left += each.values()
            # Its optimizers would make variables while the model is counted
            each.pop("compile_config", None)
        elif isinstance(each, list):
            left += each


def _check_class(path: Path, kind: str, config: Mapping[str, Any]) -> None:
    inside = config.get("config")
    if kind in _CODE:
        name = inside.get("name", kind) if isinstance(inside, dict) else kind
        what = f"holds {_CODE[kind]}, {name!r}, which is code: it was not run"
        fix = "replace it with Keras layers, or export as ONNX"
        raise UnusableInput(path.name, what, "layers without code", fix)
    if found := _foreign(kind, config):
        what = f"holds {found}, which is code: it was not imported"
        fix = "load it in your own code and give package.module:name"
        raise UnusableInput(path.name, what, "layers of Keras", fix)


def _foreign(kind: str, config: Mapping[str, Any]) -> str:
    """A class or function that is not Keras's, with where it is from; '' where it is Keras's.

    Keras writes null for the module __main__, and functions as of the module builtins, whoever
    made them.
    """
    module, inside = config.get("module", "keras"), config.get("config")
    package, registered, _ = str(config.get("registered_name")).partition(">")
    if module is None or str(module).partition(".")[0] not in ("keras", "builtins"):
        return f"{kind} of the module {module or '__main__'}"
    if registered:
        return f"{kind} of the package {package}"
    known = any(hasattr(place, str(inside)) for place in _FUNCTIONS)
    return "" if kind != "function" or module != "builtins" or known else f"the function {inside}"


def check_size(path: Path, archive: Archive) -> None:
    """UnusableInput where the model asks for more weights than the archive can hold.

    It is built without memory for them.
    """
    try:
        with keras.StatelessScope(initialize_variables=False):
            model = keras.saving.deserialize_keras_object(archive.config, safe_mode=True)
    finally:
        # The next scope would make the variables that are left here
        global_state.set_global_attribute("uninitialized_variables", [])
    weights = model.weights if model.built else ()
    needed = sum(prod(each.shape) * _bytes(each.dtype) for each in weights)
    if needed > archive.weight_bytes:
        held = archive.weight_bytes
        what = f"asks for {model.count_params():,} weights, but holds {held:,} bytes"
        raise UnusableInput(path.name, what, f"at least {needed:,} bytes for them")


def _bytes(kind: str) -> int:
    """How many a number of this type takes: 4 of 'float32', 1 of 'float8_e4m3fn' and of 'bool'."""
    bits = re.search(r"\d+", kind)
    return max(int(bits[0]) // 8, 1) if bits else 1
