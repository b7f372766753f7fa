"""Any model -> its net, and what `convwise check` says of it: a table and findings."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from convwise.advice.fingerprint import USUAL_BUDGET, look, wanted
from convwise.core.calculus import Analysis, LayerCost, analyse, cost_of, leading_to
from convwise.core.check import SEVERITIES, Finding, findings
from convwise.core.field import Field
from convwise.core.layers import Layer, Opaque
from convwise.core.net import Net
from convwise.core.places import CACHE_SIZE, near
from convwise.core.problems import ConvwiseError, Problem, UnusableInput
from convwise.core.shown import Screen, Shown
from convwise.core.text import times
from convwise.core.verb import verb
from convwise.formats import json as net_json
from convwise.formats.lifted import Lifted
from convwise.images.loading import Images, Within, read
from convwise.inspect.requests import INSTEAD, InputShape, asked, channels_first, folder_instead, live_instead
from convwise.inspect.requests import input_shape as shape_of

# Who reads a file, by its suffix; its lift says why it does not open a pickle.
READERS: dict[str, str] = {
    ".keras": "convwise.formats.keras.lift",
    ".onnx": "convwise.formats.onnx.lift",
    ".pt2": "convwise.formats.torch.lift",
    ".pt": "convwise.formats.torch.lift",
    ".pth": "convwise.formats.torch.lift",
}
# Who reads a live model, by package and class; a Keras model on the torch backend is a torch Module as well.
LIVE: dict[tuple[str, str], str] = {
    ("keras", "Model"): "convwise.formats.keras.lift",
    ("torch", "Module"): "convwise.formats.torch.lift",
    ("onnx", "ModelProto"): "convwise.formats.onnx.lift",
}
EXPECTED = (
    "a .keras, .onnx, .pt2, net .json or model.safetensors file, a folder that `convwise choose` wrote, "
    "or package.module:callable"
)
_SUFFIXES = {suffix[1:] for suffix in (*READERS, *INSTEAD, ".json", ".safetensors")}
_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_named(text: str) -> bool:
    """Whether it is written as package.module:callable."""
    return bool(_CALLABLE.fullmatch(text))


def load(model: Any, input_shape: Any = None, where: str = "input_shape") -> Lifted:
    """The net of a model: a file, a choice folder, 'package.module:callable', or a live model or Net.

    input_shape: (height, width, channels), for models whose input size is free; where: what it is called
    where it was given. What the model prints goes to standard error. UnusableInput where it cannot be
    read; ShapeError where a layer does not fit.
    """
    shape = None if input_shape is None else shape_of(input_shape, where)
    known = str(model) if isinstance(model, (str, os.PathLike)) else ""
    with redirect_stdout(sys.stderr), asked(shape, where, known):
        lifted = _loaded(model, shape)
    return replace(lifted, problems=(*channels_first(shape, where), *lifted.problems))


def _loaded(model: Any, input_shape: InputShape | None) -> Lifted:
    if not isinstance(model, (str, os.PathLike)):
        return _lifted(model, input_shape, type(model).__name__)
    path = Path(model)
    if not path.exists() and _CALLABLE.fullmatch(str(model)):
        return _lifted(_called(str(model), input_shape), input_shape, str(model))
    if not path.exists():
        module, _, name = str(model).rpartition(".")
        fix = f"{module}:{name}" if _CALLABLE.fullmatch(f"{module}:{name}") and name not in _SUFFIXES else ""
        fix = fix or " or ".join(map(str, near(path)))
        raise UnusableInput(str(model), "is not there", EXPECTED, fix)
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
    raise UnusableInput(str(path), f"is a {suffix or 'file without a suffix'}", EXPECTED, INSTEAD.get(suffix, ""))


def _from_json(path: Path) -> Lifted:
    """A net.json, or the choice.json of a choice folder."""
    data = net_json.parsed(path)
    inside = data.get("net", data) if isinstance(data, dict) else data
    try:
        net = Net.from_json(inside)
    except (AttributeError, TypeError, KeyError) as error:
        raise UnusableInput(str(path), f"is not a net: {error}", "keys input_shape and layers") from error
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
    """The task of a folder that `choose` wrote; 'classify' of one that does not say it, and of any other model."""
    file = Path(model) / "choice.json" if isinstance(model, (str, os.PathLike)) else None
    choice = net_json.parsed(file) if file and file.is_file() else None
    return str(choice.get("task", "classify")) if isinstance(choice, dict) else "classify"


def _at(lifted: Lifted, input_shape: InputShape | None) -> Lifted:
    """The net at another input; weights that no longer fit are left out."""
    if input_shape is None or input_shape == lifted.net.input_shape:
        return lifted
    from convwise.formats.weights import layout

    if opaque := [layer.name for layer in lifted.net.layers if isinstance(layer, Opaque)]:
        own = "x".join(map(str, lifted.net.input_shape))
        what = f"is {'x'.join(map(str, input_shape))}, but the output of {opaque[0]} is known only for {own}"
        raise UnusableInput("input shape", what, own, "read the model itself at that size")
    net = replace(lifted.net, input_shape=input_shape)
    return replace(lifted, net=net, weights=lifted.weights if layout(net) == layout(lifted.net) else {})


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
        raise UnusableInput(where, what, "the size of its images", "--input-shape 224x224x3, or the size you use")
    lifted: Lifted = import_module(reader).lift(model, input_shape)
    return lifted


def _reader(model: Any) -> str | None:
    """Who reads a live model; found by its classes' names, so that no framework is loaded to ask."""
    names = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(model).__mro__}
    return next((reader for name, reader in LIVE.items() if name in names), None)


def _called(text: str, input_shape: InputShape | None) -> Any:
    """What package.module:callable names: a model, or what makes one. It is the user's own code, and they asked."""
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
    fix = "name a function without arguments that returns the model; a few lines of your own will do"
    return _told(text, "cannot be called", lambda: maker(**_arguments(maker, input_shape)), fix)


def _attribute(text: str, owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError:
        alike = get_close_matches(name, dir(owner), 3)
        raise UnusableInput(text, f"has no {name}", "package.module:callable", " or ".join(alike)) from None


def _told(text: str, what: str, act: Callable[[], Any], fix: str = "") -> Any:
    """What `act` gives; UnusableInput with the first line of what it says where it fails."""
    try:
        return act()
    except ConvwiseError:
        raise
    except (Exception, SystemExit) as error:
        said = str(error).strip().partition("\n")[0]
        raise UnusableInput(text, f"{what}: {type(error).__name__}: {said}", EXPECTED, fix) from error


def _arguments(maker: Callable[..., Any], input_shape: InputShape | None) -> dict[str, Any]:
    """No arguments; but never a download of weights, and the input's shape where it is asked for and taken."""
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


# --- the answer -----------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Checked(Shown):
    """A model with its analysis and what was found."""

    lifted: Lifted
    analysis: Analysis
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What reading said, and what the rules say, the worst first."""
        found = (*self.lifted.problems, *self._views, *self._outputs, *(finding.problem for finding in self.findings))
        return tuple(sorted(found, key=lambda problem: SEVERITIES.index(problem.severity)))

    @property
    def _views(self) -> tuple[Problem, ...]:
        """That it looks at the mirror image as well, and what that costs."""
        if not self.lifted.net.mirrored_view:
            return ()
        what = "answers with the mean of its answers to an image and to its mirror image: the macs count both"
        return (Problem("model", what, severity="note"),)

    @cached_property
    def _outputs(self) -> tuple[Problem, ...]:
        """That there is more than one, and how much of the totals only the others need."""
        net, others = self.lifted.net, self.lifted.outputs
        if not others:
            return ()
        first = net.layers[-1].name
        own = leading_to(net, others) - leading_to(net, {first})
        cost = cost_of([row for row in self.analysis.layers if row.name in own])
        what = f"has {1 + len(others)} outputs: {', '.join((first, *others))}. The receptive field is that of {first}; "
        return (Problem("model", f"{what}{cost} of the totals are of the others alone", severity="note"),)

    @property
    def is_wrong(self) -> bool:
        """Whether anything is an error."""
        return any(problem.severity == "error" for problem in self.problems)

    def screen(self) -> Screen:
        """The total, what was found, the worst first, and the layers as far as there is room."""
        total, problems = self.analysis.total, self.problems
        field = f"; one output sees {times(total.field.size)} px" if total.field.known else ""
        cost = f"{total.params:,} parameters, {total.macs:,} multiply-accumulates{field}"
        unknown = [f"Unknown: the cost of {len(total.unknown)} layers; the sums are lower bounds"]
        rows = [_shown(row) for row in self.analysis.layers]
        return Screen(
            f"{len(rows)} layers on {times(self.lifted.net.input_shape)}, {len(problems) or 'no'} findings",
            (cost, *(unknown if total.unknown else ()), *(f"{problem.severity}: {problem}" for problem in problems)),
            ("layer", "type", "output", "parameters", "multiply-accumulates", "field"),
            rows,
            more=".analysis.layers",
        )


def _shown(row: LayerCost) -> tuple[str, ...]:
    field = times(row.field.size) if row.field.known else "?"
    macs = f"{row.macs:,}" if row.known else "?"
    return row.name, row.op, times(row.output_shape), f"{row.params:,}", macs, field


def checked(lifted: Lifted, scale_px: float | None = None, vector: int = 16) -> Checked:
    """A model, analysed and checked; scale_px and vector as in core/check.py."""
    analysis = _counted(analyse(lifted.net), lifted)
    found = findings(lifted.net, scale_px=scale_px, vector=vector, outputs=lifted.outputs)
    return Checked(lifted, analysis, found)


def _counted(analysis: Analysis, lifted: Lifted) -> Analysis:
    """The analysis with the params that the model holds and trains."""
    rows = []
    for row in analysis.layers:
        params = lifted.params.get(row.name, row.params)
        trainable = lifted.trainable.get(row.name, row.trainable + max(params - row.params, 0))
        rows.append(replace(row, params=params, trainable=min(trainable, params)))
    params, trainable = sum(row.params for row in rows), sum(row.trainable for row in rows)
    return Analysis(tuple(rows), replace(analysis.total, params=params, trainable=trainable))


@verb
def check(
    model: Any,
    images: Any = None,
    *,
    input_shape: Any = None,
    classes_from: str = "folder",
    skip_empty_classes: bool = False,
    follow_links: bool = False,
    cache_size: str | int = CACHE_SIZE,
    task: str | None = None,
) -> Checked:
    """What is wrong with a model, as `load` takes it; images, or where they are: what its field must cover.

    input_shape: (height, width, channels), or '224x224x3', of a model whose input size is free.
    classes_from, skip_empty_classes, follow_links, cache_size, task: how images are read, as in `convwise.read`; of a
    folder that `choose` wrote the task is known.
    """
    lifted = load(model, input_shape)
    if images is None:
        return checked(lifted)
    how: dict[str, Any] = {"skip_empty_classes": skip_empty_classes, "follow_links": follow_links}
    how |= {"classes_from": classes_from, "task": task or learnt_by(model), "within": to_look(cache_size)}
    found = read_images(images, **how)
    return checked(lifted, scale_px(found, lifted.net.input_shape))


def to_look(cache_size: str | int) -> Within:
    """What it may cost to read images that are only looked at."""
    return Within(USUAL_BUDGET, most=wanted(USUAL_BUDGET), cache_size=cache_size)


def read_images(images: Any, **how: Any) -> Images:
    """The images of a source, read as `how` says; or Images as they are."""
    return images if isinstance(images, Images) else read(images, **how)


def scale_px(images: Images, input_shape: InputShape) -> float | None:
    """The smallest patch that tells the classes apart, in px of the net's input; None where it is not measured."""
    facts = look(images.train, images.classes, counts=images.counts(), numbers=images.numbers)
    if "discriminative_scale" not in facts:
        return None
    return facts["discriminative_scale"] * max(n / side for n, side in zip(input_shape, facts.shape[:2], strict=False))


def to_json(found: Checked) -> dict[str, Any]:
    """input_shape, layers, total and problems as plain JSON values; null for what is not known."""
    rows = zip(found.lifted.net.layers, found.analysis.layers, strict=True)
    return {
        "input_shape": list(found.lifted.net.input_shape),
        "outputs": [found.lifted.net.layers[-1].name, *found.lifted.outputs] if found.lifted.net.layers else [],
        "layers": [_layer_json(layer, row) for layer, row in rows],
        "total": _total_json(found),
        "problems": _problems_json(found),
    }


def _layer_json(layer: Layer, row: LayerCost) -> dict[str, Any]:
    return {
        "name": row.name,
        "op": row.op,
        "inputs": list(row.inputs),
        "output_shape": list(row.output_shape),
        "pads": list(row.pads),
        "params": row.params if row.counted else None,
        "trainable": row.trainable if row.counted else None,
        "macs": row.macs if row.known else None,
        "elementwise": row.elementwise if row.known else None,
        "activation_bytes": row.activation_bytes,
        "receptive_field": _field_json(row.field),
    } | ({"operator": layer.operator} if isinstance(layer, Opaque) else {})


def _field_json(field: Field) -> dict[str, Any] | None:
    if not field.known:
        return None
    return {"size": list(field.size), "convolutions": list(field.windows), "stride": list(field.stride),
            "padding": list(field.padding), "shortest": list(field.shortest), "aligned": field.aligned}  # fmt: skip


SUMS = ("params", "trainable", "macs", "elementwise", "activation_bytes", "peak_bytes")


def _total_json(found: Checked) -> dict[str, Any]:
    """Null for each sum with an unknown part; what it is at least stands in at_least."""
    total, net = found.analysis.total, found.lifted.net
    sums = {name: getattr(total, name) for name in SUMS}
    least: dict[str, Any] = {name: sums[name] for name in total.bounds}
    if not total.field.known:
        least["receptive_field"] = {"size": list(found.analysis.seen_at_least(net))}
    read = leading_to(net, {net.layers[-1].name, *found.lifted.outputs}) if net.layers else set()
    return {
        **{name: None if name in least else number for name, number in sums.items()},
        "buffers": sum(found.lifted.buffers.values()),
        "receptive_field": _field_json(total.field),
        "at_least": least,
        "border": total.border,
        "unknown": list(total.unknown),
        "unread": [row.name for row in found.analysis.layers if row.name not in read],
    }


def _problems_json(found: Checked) -> list[dict[str, Any]]:
    rules = {id(finding.problem): finding for finding in found.findings}
    rows = []
    for problem in found.problems:
        row = {"where": problem.where, "what": problem.what, "expected": problem.expected, "fix": problem.fix,
               "severity": problem.severity, "count": problem.count}  # fmt: skip
        if (finding := rules.get(id(problem))) is not None:
            row |= {"rule": finding.rule, "source": finding.source, "layers": list(finding.layers)}
        rows.append(row)
    return rows
