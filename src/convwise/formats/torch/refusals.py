"""Why a module cannot be read, and what to do next, in the words of its user."""

from __future__ import annotations

import copy
import inspect
import re
import time
from pathlib import Path

import torch
from torch import nn

from convwise.core.problems import UnusableInput
from convwise.core.text import times
from convwise.formats.torch.program import BATCH

Image = tuple[int, int, int]  # height, width, channels
# Words in the errors of torch.export where the way through a module depends on an image's values
BRANCHES = ("data-dependent", "DataDependent", "control flow", "DynamicOutputShape", "Unbacked",
            "PendingUnbacked")  # fmt: skip
# Sides of the images of well-known sets and networks
SIDES = (224, 32, 28, 64, 128, 256, 299, 384, 512, 640, 1024)
CHANNELS = re.compile(r"expected input\[[^]]*\] to have (\d+) channels, but got (\d+) channels")
LINE = re.compile(r'raised this error:\s+File "([^"<]+)", line (\d+), in \S+\n\s*(.+)')
PARTS = ("backbone", "features", "encoder", "body", "trunk", "feature_extractor")
TRIALS_SECONDS = 3.0
ONNX = "write it as ONNX in your own code, with torch.onnx.export"
AROUND = "a module around it whose forward takes a batch of images (n, channels, height, width)"
# Types that are not one tensor begin so
MANY = ("list[", "tuple[", "sequence[", "iterable[", "dict[", "mapping[")
BEFORE = "give the model as it was before it was {}: its shapes, parameters and macs are the same"
# Modules that observe values, and do what depends on them, until a model is converted
OBSERVING = ("torch.ao.quantization.observer", "torch.ao.quantization.fake_quantize")


def unreadable(module: nn.Module) -> UnusableInput | None:
    """What can be said before a module is traced; None where nothing stands against it."""
    name, kinds = type(module).__name__, {type(each) for each in module.modules()}
    if any(isinstance(each, torch.jit.ScriptModule) for each in module.modules()):
        fix = f"give the module that it was made from, or {ONNX}"
        has = "is" if isinstance(module, torch.jit.ScriptModule) else "has a part that is"
        what = f"{has} TorchScript, which cannot be traced again"
        return UnusableInput(name, what, "a torch.nn.Module", fix)
    if type(module).forward is nn.Module.forward:
        fix = "give a module that calls its parts, such as torch.nn.Sequential(*parts)"
        what = "has no forward, so it is unknown what it does"
        return UnusableInput(name, what, "a module that can run", fix)
    places = {kind.__module__ for kind in kinds}
    if any(".quantized" in place or place.startswith("torchao.") for place in places):
        fix = BEFORE.format("converted")
        what = "is quantised: its weights are packed"
        return UnusableInput(name, what, "weights of a floating type", fix)
    if any(place.startswith(OBSERVING) for place in places):
        what, fix = "is prepared for quantisation", BEFORE.format("prepared")
        return UnusableInput(name, what, "a module without observers", fix)
    if any(map(nn.parameter.is_lazy, (*module.parameters(), *module.buffers()))):
        fix = "call it once in your own code on a batch of images"
        what = "has lazy layers, whose weights are not made yet"
        return UnusableInput(name, what, "a module with its weights", fix)
    inputs = required(module)
    some = [each for each in _inputs(module) or () if each.kind is each.VAR_KEYWORD]
    if some and not inputs:
        taken = f"takes whatever it is given by name (**{some[0].name})"
        what = f"{taken}, so it is unknown what the images are called"
        return UnusableInput(name, what, "one input, the images", f"give {AROUND}")
    if len(inputs) != 1:
        named = f"{len(inputs)} inputs" + f" ({', '.join(inputs)})" * bool(inputs)
        around = "a module around it that makes the other inputs from it"
        fix = f"give the part of it that reads one image, or {around}"
        return UnusableInput(name, f"has {named}", "one input, the images", fix if inputs else "")
    if given := _several(module):
        fix = _part_of(module) or f"give {AROUND}"
        what = f"takes several tensors ({given})"
        return UnusableInput(name, what, "one tensor, a batch of images", fix)
    others = {kind.__name__ for kind in kinds if issubclass(kind, (nn.Conv1d, nn.Conv3d))}
    plain = any(issubclass(kind, nn.Conv2d) for kind in kinds)
    if others and not plain and not _runs(module, 32, 32, 3):
        fix = "give a network of 2D convolutions; networks for sequences and volumes are not read"
        what = f"has {', '.join(sorted(others))} and no Conv2d"
        return UnusableInput(name, what, "a network that reads images", fix)
    return None


def required(module: nn.Module) -> list[str]:
    """The names of the inputs that a module must have."""
    given = _inputs(module)
    if given is None or any(each.kind is each.VAR_POSITIONAL for each in given):
        return ["images"]
    declared = [each for each in given if each.kind is not each.VAR_KEYWORD]
    needed = [each.name for each in declared if each.default is each.empty]
    by_place = [each.name for each in declared if each.kind is not each.KEYWORD_ONLY]
    return needed or by_place[:1]


def _inputs(module: nn.Module) -> list[inspect.Parameter] | None:
    """What its forward declares; None where that is not known."""
    try:
        return list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return None


def taken(
    module: nn.Module, image: torch.Tensor
) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    """The image as arguments of the module: by place, or by name where it takes it so alone."""
    inputs = required(module)
    by_name = [each.name for each in _inputs(module) or () if each.kind is each.KEYWORD_ONLY]
    return ((), {inputs[0]: image}) if inputs and inputs[0] in by_name else ((image,), {})


def _several(module: nn.Module) -> str:
    """The first input of a module with its type, where that is a list or the like; else ''."""
    if not (inputs := _inputs(module)):
        return ""
    given = inputs[0]
    kind = inspect.formatannotation(given.annotation).strip("'").removeprefix("typing.")
    return f"{given.name}: {kind}" if kind.lower().startswith(MANY) else ""


def _part_of(module: nn.Module, before: str = "") -> str:
    """To give the part of a module that can be read, if it has one of the usual names; else ''."""
    part = next((part for part in PARTS if isinstance(getattr(module, part, None), nn.Module)), "")
    return f"give the part of it {before or 'that takes one'} (.{part})" if part else ""


def apart(module: nn.Module) -> UnusableInput:
    """That the images of a batch are treated one by one."""
    body = "give a module whose forward is the body of that loop, on a batch of images"
    fix = _part_of(module) or body
    what = "splits the batch, and treats its images one by one"
    return UnusableInput(type(module).__name__, what, "the same layers on the whole batch", fix)


def refusal(module: nn.Module, shape: Image, error: Exception) -> UnusableInput:
    """What the failure of torch.export on a module means."""
    name, said = type(module).__name__, _said(error)
    height, width, channels = shape
    failed = _failure(module, height, width, channels)
    if "Guard failed" in f"{error} {failed}":
        file = "the file that torch.export.save writes of the exported program"
        fix = f"give the model that was exported, or {file}"
        what = "was made by torch.export for another number or size of images"
        return UnusableInput(name, what, "a module that takes any", fix)
    if failed is not None:
        wrong = CHANNELS.search(str(error))
        depth = int(wrong[1]) if wrong else channels
        why = _said(failed)
        if wrong:
            why = f"it reads {depth} channel{'s' * (depth > 1)}, not {wrong[2]}"
        what = f"does not take images of {times(shape)}: {why}"
        fix = _fitting(module, (height, width, depth)) or _part_of(module) or f"give {AROUND}"
        return UnusableInput(name, what, "images of the kind that it was made for", fix)
    if _failure(module, height, width, channels, 2) is not None:
        fix = "keep the batch in forward, as x.flatten(1) and x.reshape(len(x), ...) do"
        what = "takes one image at a time"
        return UnusableInput(name, what, "a module that takes a batch of images", fix)
    if any(word in f"{type(error).__name__} {error}" for word in BRANCHES):
        fix = _part_of(module, "before that") or "branch on shapes only, not on values"
        found = LINE.search(str(error))
        at = f", in {Path(found[1]).name}, line {found[2]}: {found[3].strip()}" if found else ""
        because = f"because what it does depends on the values in an image{at}"
        what = f"cannot be traced by torch.export, {because}"
        return UnusableInput(name, what, "the same operators for every image", f"{fix}, or {ONNX}")
    what = f"cannot be traced by torch.export: {type(error).__name__}: {said}"
    return UnusableInput(name, what, "a module that torch.export can trace", ONNX)


def _said(error: Exception) -> str:
    """Its first line, without the number of images that we trace with: a user does not know it."""
    lines = str(error).strip().splitlines()
    return re.sub(rf"\b{BATCH}\b", "n", lines[0]) if lines else type(error).__name__


def _failure(
    module: nn.Module, height: int, width: int, channels: int, batch: int = 1
) -> Exception | None:
    """What a module says of images of this size, by shapes alone: nothing is computed."""
    try:
        shapes = copy.deepcopy(module).to("meta").eval()
        types = (each.dtype for each in shapes.parameters() if each.is_floating_point())
        like = next(types, torch.float32)
        image = torch.empty(batch, channels, height, width, dtype=like, device="meta")
        with torch.no_grad():
            args, named = taken(module, image)
            shapes(*args, **named)
    except NotImplementedError:  # of the device, not of the module
        return None
    except Exception as error:  # whatever the module says
        return None if "meta" in str(error) else error
    return None


def _runs(module: nn.Module, height: int, width: int, channels: int) -> bool:
    return _failure(module, height, width, channels) is None


def _fitting(module: nn.Module, shape: Image) -> str:
    """An input shape that the module takes, this one or another, as it is typed."""
    height, width, depth = shape
    end = time.monotonic() + TRIALS_SECONDS
    for rows, columns in ((height, width), *((side, side) for side in SIDES)):
        if _runs(module, rows, columns, depth):
            return f"--input-shape {times((rows, columns, depth))}"
        if time.monotonic() > end:
            break
    return ""
