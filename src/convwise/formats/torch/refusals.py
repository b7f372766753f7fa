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
from convwise.formats.torch.pt2 import BATCH

Image = tuple[int, int, int]  # height, width, channels
# What the errors of torch.export have in common where the way through a module depends on the values in an image.
BRANCHES = ("data-dependent", "DataDependent", "control flow", "DynamicOutputShape", "Unbacked", "PendingUnbacked")
SIDES = (224, 32, 28, 64, 128, 256, 299, 384, 512, 640, 1024)  # of the images of well-known sets and networks
CHANNELS = re.compile(r"expected input\[[^]]*\] to have (\d+) channels, but got (\d+) channels")
LINE = re.compile(r'raised this error:\s+File "([^"<]+)", line (\d+), in \S+\n\s*(.+)')
PARTS = ("backbone", "features", "encoder", "body", "trunk", "feature_extractor")
TRIALS_SECONDS = 3.0
ONNX = "write it as ONNX in your own code, with torch.onnx.export"
AROUND = "a module around it whose forward takes a batch of images (n, channels, height, width)"
MANY = ("list[", "tuple[", "sequence[", "iterable[", "dict[", "mapping[")  # how types begin that are not one tensor
# Before a module is converted: what observes its values, which depends on them.
OBSERVING = ("torch.ao.quantization.observer", "torch.ao.quantization.fake_quantize")


def unreadable(module: nn.Module) -> UnusableInput | None:
    """What can be said before a module is traced; None where nothing stands against it."""
    name, kinds = type(module).__name__, {type(each) for each in module.modules()}
    if any(isinstance(each, torch.jit.ScriptModule) for each in module.modules()):
        fix = f"give the module that it was made from, or {ONNX}"
        has = "is" if isinstance(module, torch.jit.ScriptModule) else "has a part that is"
        return UnusableInput(name, f"{has} TorchScript, which cannot be traced again", "a torch.nn.Module", fix)
    if type(module).forward is nn.Module.forward:
        fix = "give a module that calls its parts, such as torch.nn.Sequential(*parts)"
        return UnusableInput(name, "has no forward, so it is unknown what it does", "a module that can run", fix)
    if any(".quantized" in kind.__module__ or kind.__module__.startswith("torchao.") for kind in kinds):
        fix = "give the model as it was before it was converted: its shapes, parameters and macs are the same"
        return UnusableInput(name, "is quantised: its weights are packed", "weights of a floating type", fix)
    if any(kind.__module__.startswith(OBSERVING) for kind in kinds):
        fix = "give the model as it was before it was prepared: its shapes, parameters and macs are the same"
        return UnusableInput(name, "is prepared for quantisation", "a module without observers", fix)
    if any(map(nn.parameter.is_lazy, (*module.parameters(), *module.buffers()))):
        fix = "call it once in your own code on a batch of images"
        return UnusableInput(name, "has lazy layers, whose weights are not made yet", "a module with its weights", fix)
    inputs = required(module)
    if len(inputs) != 1:
        named = f"{len(inputs)} inputs" + f" ({', '.join(inputs)})" * bool(inputs)
        fix = "give the part of it that reads one image, or a module around it that makes the other inputs from it"
        return UnusableInput(name, f"has {named}", "one input, the images", fix if inputs else "")
    if given := _several(module):
        fix = _part_of(module) or f"give {AROUND}"
        return UnusableInput(name, f"takes several tensors ({given})", "one tensor, a batch of images", fix)
    flat = {kind.__name__ for kind in kinds if issubclass(kind, (nn.Conv1d, nn.Conv3d))}
    if flat and not any(issubclass(kind, nn.Conv2d) for kind in kinds) and not _runs(module, 32, 32, 3):
        fix = "give a network of 2D convolutions; networks for sequences and volumes are not read"
        return UnusableInput(name, f"has {', '.join(sorted(flat))} and no Conv2d", "a network that reads images", fix)
    return None


def required(module: nn.Module) -> list[str]:
    """The names of the inputs that a module must have."""
    try:
        given = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return ["images"]
    if any(each.kind is each.VAR_POSITIONAL for each in given):
        return ["images"]
    places = [each for each in given if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    needed = [each.name for each in given if each.default is each.empty and each.kind is not each.VAR_KEYWORD]
    return needed or [each.name for each in places[:1]]


def _several(module: nn.Module) -> str:
    """The first input of a module with its type, where that is a list or the like; else ''."""
    try:
        given = next(iter(inspect.signature(module.forward).parameters.values()))
    except (TypeError, ValueError, StopIteration):
        return ""
    kind = inspect.formatannotation(given.annotation).strip("'").removeprefix("typing.")
    return f"{given.name}: {kind}" if kind.lower().startswith(MANY) else ""


def _part_of(module: nn.Module, before: str = "") -> str:
    """To give the part of a module that can be read, by its usual names; '' where it has none of these."""
    part = next((part for part in PARTS if isinstance(getattr(module, part, None), nn.Module)), "")
    return f"give the part of it {before or 'that takes one'} (.{part})" if part else ""


def apart(module: nn.Module) -> UnusableInput:
    """That the images of a batch are treated one by one."""
    fix = _part_of(module) or "give a module whose forward is the body of that loop, on a batch of images"
    what = "splits the batch, and treats its images one by one"
    return UnusableInput(type(module).__name__, what, "the same layers on the whole batch", fix)


def refusal(module: nn.Module, shape: Image, error: Exception) -> UnusableInput:
    """What the failure of torch.export on a module means."""
    name, said = type(module).__name__, _said(error)
    height, width, channels = shape
    failed = _failure(module, height, width, channels)
    if failed is not None:
        wrong = CHANNELS.search(str(error))
        depth = int(wrong[1]) if wrong else channels
        why = f"it reads {depth} channel{'s' * (depth > 1)}, not {wrong[2]}" if wrong else _said(failed)
        what = f"does not take images of {height}x{width}x{channels}: {why}"
        fix = _fitting(module, (height, width, depth)) or _part_of(module) or f"give {AROUND}"
        return UnusableInput(name, what, "images of the kind that it was made for", fix)
    if _failure(module, height, width, channels, 2) is not None:
        fix = "keep the batch in forward, as x.flatten(1) and x.reshape(len(x), ...) do"
        return UnusableInput(name, "takes one image at a time", "a module that takes a batch of images", fix)
    if any(word in f"{type(error).__name__} {error}" for word in BRANCHES):
        fix = _part_of(module, "before that") or "branch on shapes only, not on values"
        found = LINE.search(str(error))
        at = f", in {Path(found[1]).name}, line {found[2]}: {found[3].strip()}" if found else ""
        what = f"cannot be traced by torch.export, because what it does depends on the values in an image{at}"
        return UnusableInput(name, what, "the same operators for every image", f"{fix}, or {ONNX}")
    what = f"cannot be traced by torch.export: {type(error).__name__}: {said}"
    return UnusableInput(name, what, "a module that torch.export can trace", ONNX)


def _said(error: Exception) -> str:
    """Its first line; the number of images that we traced it for means nothing to who reads that."""
    lines = str(error).strip().splitlines()
    return re.sub(rf"\b{BATCH}\b", "n", lines[0]) if lines else type(error).__name__


def _failure(module: nn.Module, height: int, width: int, channels: int, batch: int = 1) -> Exception | None:
    """What a module says of images of this size, by shapes alone: nothing is computed."""
    try:
        shapes = copy.deepcopy(module).to("meta").eval()
        like = next((each.dtype for each in shapes.parameters() if each.is_floating_point()), torch.float32)
        with torch.no_grad():
            shapes(torch.empty(batch, channels, height, width, dtype=like, device="meta"))
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
            return f"--input-shape {rows}x{columns}x{depth}, or in Python input_shape={(rows, columns, depth)}"
        if time.monotonic() > end:
            break
    return ""
