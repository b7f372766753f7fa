"""Nets as PyTorch modules: raw pixels, float (n, channels, height, width), to probabilities.

'same' with a stride becomes the padding that Keras would add; Flatten keeps the order height,
width, channels, so that dense kernels are the same in every format.
"""

from __future__ import annotations

import inspect
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from convwise.core.layers import Layer
from convwise.core.net import INPUT, Net
from convwise.core.problems import ConvwiseError, Unsupported, UnusableInput
from convwise.core.score import numbers_of
from convwise.core.windows import Shape
from convwise.formats.json import MOST_BYTES
from convwise.formats.lowering.calls import Call, Step, identifiers, plan, variables
from convwise.formats.lowering.torch import STATEFUL, lower
from convwise.formats.torch.modules import OWN, BothViews, Graph
from convwise.formats.weights import (
    Array,
    Weights,
    channels_first,
    channels_last,
    is_kernel,
    layout,
    require_own,
)
from convwise.formats.written import NOTHING, Beside, about, answer_of, comments, named, prepare

__all__ = ["build", "forward", "load", "lower", "read", "render", "run", "save", "steps_of",
           "weights"]  # fmt: skip
_KEYS = {
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "pointwise_kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "alpha": "weight",
}


def build(net: Net, *, logits: bool = False) -> nn.Module:
    """The net as a module with PyTorch's initial weights.

    logits: without its final softmax, or unit. That is what is trained: one view. Unsupported where
    it has a mirrored view as well.
    """
    if net.mirrored_view and logits:
        what = "has a mirrored view, and cannot be trained with it"
        raise Unsupported("torch", "net", what, "train its one_view")
    if net.mirrored_view:
        return BothViews(build(net.one_view))
    steps = steps_of(net)
    if logits and (steps[-1].call.kind == "Softmax" or numbers_of(net)):
        steps = (*steps[:-1], replace(steps[-1], call=Call("Identity")))
    called = _called(net, steps)
    own = [step for step in steps if called[step.name] == step.name]
    modules = OrderedDict((step.name, _made(step.call)) for step in own)
    if _sequential(net):
        return nn.Sequential(modules)
    return Graph(modules, [(step.name, called[step.name], step.inputs) for step in steps], INPUT)


def steps_of(net: Net) -> tuple[Step, ...]:
    """The modules of the net in order, with their names."""
    return plan(net, lower, _words(net))


def _sequential(net: Net) -> bool:
    return net.is_chain and not any(layer.shares for layer in net.layers)


def _called(net: Net, steps: Sequence[Step]) -> dict[str, str]:
    """The module that each step calls: its own, or that of the layer whose weights it shares."""
    called: dict[str, str] = {}
    for step in steps:
        shares = net[step.layer].shares
        siblings = [other.name for other in steps if other.layer == step.layer]
        before = [called[name] for name in siblings if name in called]
        same = [other.name for other in steps if other.layer == shares and other.call == step.call]
        known = [called[name] for name in same if called[name] not in before]
        if shares and not known and step.call.kind in STATEFUL:
            what = f"is {step.call.source()}, which {shares} is not"
            fix = "the same parameters, and explicit padding in both"
            raise Unsupported("torch", step.layer, what, fix)
        called[step.name] = known[0] if known else step.name
    return called


def weights(module: nn.Module, net: Net) -> Weights:
    """The module's weights in Keras's layouts, copied to numpy."""
    state, shapes = module.state_dict(), layout(net)
    return {
        key: _to_ours(net, key, state[place].detach().float().cpu().numpy(), shapes[key])
        for key, place in _places(net, state).items()
    }


def load(module: nn.Module, net: Net, weights: Weights) -> None:
    """Put weights in Keras's layouts into the module of `build(net)`, or UnusableInput."""
    require_own(net, weights)
    state = module.state_dict()
    with torch.no_grad():
        for key, place in _places(net, state).items():
            array = _to_torch(net, key, weights[key], tuple(state[place].shape))
            state[place].copy_(torch.tensor(array))


def _places(net: Net, state: Mapping[str, Tensor]) -> dict[str, str]:
    """Where each of our weights lies in the state.

    That is in the last module of its layer, but for depthwise kernels, which are in the first.
    """
    inside = "network." if net.mirrored_view else ""  # of BothViews
    names: dict[str, list[str]] = {layer.name: [] for layer in net.layers}
    for step in steps_of(net):
        names[step.layer].append(step.name)
    places = {}
    for key in layout(net):
        layer, _, kind = key.partition("/")
        possible = [f"{inside}{name}.{_KEYS[kind]}" for name in names[layer]]
        found = [place for place in possible if place in state]
        places[key] = found[0 if kind == "depthwise_kernel" else -1]
    return places


def _to_ours(net: Net, key: str, value: NDArray[np.float32], shape: Shape) -> Array:
    layer, _, kind = key.partition("/")
    if is_kernel(kind):
        return channels_last(net[layer], value, shape, kind)
    if kind == "alpha" and len(shape) == 3:
        return np.ascontiguousarray(value.reshape(shape[2], *shape[:2]).transpose(1, 2, 0))
    return value.copy()


def _to_torch(net: Net, key: str, value: Array, shape: Shape) -> Array:
    layer, _, kind = key.partition("/")
    if is_kernel(kind):
        return channels_first(net[layer], value, shape, kind)
    return value.transpose(2, 0, 1).reshape(shape) if kind == "alpha" and value.ndim == 3 else value


def _words(net: Net) -> dict[str, str]:
    """Layer names as names of submodules: Python has its own 'class', and nn.Module its 'train'."""
    used = {"x", "image", "torch", "nn", *OWN}
    empty = nn.Sequential()
    names = (layer.name for layer in net.layers)
    return identifiers(names, lambda name: name in used or hasattr(empty, name))


def _made(call: Call) -> nn.Module:
    kind: Callable[..., nn.Module] = OWN.get(call.kind) or getattr(nn, call.kind)
    return kind(*call.args, **call.kwargs)


# --- source ---------------------------------------------------------------------------------

_HEAD = '''"""A network chosen by convwise, from pixels to {output}.

Pixels: 0 to 255, shaped (n, channels, height, width).{usage}"""

{imports}

{names}
INPUT_SHAPE = {shape}  # height, width, channels
'''

_USAGE = """

    python model_torch.py cat.jpg        {prints}; needs torch, numpy, pillow and safetensors
"""

_LOAD = '''def load(path=None):
    """The network with its trained weights, by default from the file beside this one."""
    from safetensors.torch import load_file  # pip install safetensors

    model = build_model()
    model.load_state_dict(load_file(path or Path(__file__).with_name("model.safetensors")))
    return model.eval()
'''

_LOGITS = '''def load_logits(path=None):
    """The same network without its softmax, which nn.CrossEntropyLoss applies itself."""
    model = load(path)
    model.{last} = nn.Identity()
    return model
'''

_LOGITS_OF_A_VIEW = '''def load_logits(path=None):
    """The network that looks at each view, without softmax: nn.CrossEntropyLoss applies it."""
    network = load(path).network
    network.{last} = nn.Identity()
    return network
'''

_BOTH_VIEWS = """def build_model():
    return BothViews(build_network())
"""

_PREDICT = '''def predict(picture, model=None):
    """What the network gives for a picture, a file or a PIL image: {gives}."""
    with torch.no_grad():
        return (model or load())(prepare(picture))[0]
'''

_PREPARED = (
    "float (1, channels, height, width)",
    "torch.from_numpy(pixels).permute(0, 3, 1, 2).float()",
)


def render(
    net: Net, classes: Sequence[str] = (), beside: Beside = NOTHING, *, trained: bool = False
) -> str:
    """model_torch.py: the source of `build(net)`, with the same state-dict names.

    beside: its reasons are comments in build_model. trained: there are weights beside it, which
    `load` reads; where a picture can be its input, `prepare` and `predict` make it one.
    """
    steps = steps_of(net)
    kinds = dict.fromkeys(step.call.kind for step in steps)
    body = _chain(steps, beside.reasons) if _sequential(net) else _graph(net, steps, beside.reasons)
    own = [OWN[kind] for kind in kinds if kind in OWN and kind not in _INFIX]
    bodies = [body]
    if net.mirrored_view:
        own.append(BothViews)
        bodies = [body.replace("def build_model():", "def build_network():"), _BOTH_VIEWS]
    head = _head(net, classes, steps[-1], bool(own), trained)
    parts = [head, *map(inspect.getsource, own), *bodies, *_tail(net, steps[-1], beside, trained)]
    return "\n\n\n".join(part.strip("\n") for part in parts) + "\n"


def _tail(net: Net, last: Step, beside: Beside, trained: bool) -> list[str]:
    if not trained:
        return []
    form = _LOGITS_OF_A_VIEW if net.mirrored_view else _LOGITS
    logits = [form.format(last=last.name)] if last.call.kind == "Softmax" else []
    if (answer := answer_of(net)) is None:
        return [_LOAD, *logits]
    predict = _PREDICT.format(gives=answer.gives)
    return [_LOAD, *logits, prepare(beside, *_PREPARED), predict, answer.main]


def _head(net: Net, classes: Sequence[str], last: Step, typed: bool, trained: bool) -> str:
    imports = ["from collections import OrderedDict"] if _sequential(net) else []
    imports += ["from pathlib import Path"] if trained else []
    imports += [""] if imports else []
    imports += ["import torch", "from torch import Tensor, nn" if typed else "from torch import nn"]
    answer = answer_of(net)
    output = "class probabilities" if last.call.kind in ("Softmax", "Sigmoid") else "numbers"
    return _HEAD.format(
        imports="\n".join(imports),
        names=named(net, classes),
        shape=net.input_shape,
        output=answer.output if answer else output,
        usage=_USAGE.format(prints=answer.prints) if trained and answer else "",
    )


def _chain(steps: Sequence[Step], reasons: Sequence[str]) -> str:
    lines = [f'        ("{step.name}", {_source(step.call)}),' for step in steps]
    begin = ["def build_model():", *comments(reasons), "    return nn.Sequential(OrderedDict(["]
    return "\n".join([*begin, *lines, "    ]))"])


def _nested(function: str) -> Callable[[Sequence[str]], str]:
    return lambda names: reduce(lambda text, name: f"{function}({text}, {name})", names)


_INFIX: dict[str, Callable[[Sequence[str]], str]] = {
    "Add": " + ".join,
    "Subtract": " - ".join,
    "Multiply": " * ".join,
    "Average": lambda names: f"({' + '.join(names)}) / {len(names)}",
    "Maximum": _nested("torch.maximum"),
    "Minimum": _nested("torch.minimum"),
    "Concatenate": lambda names: f"torch.cat([{', '.join(names)}], dim=1)",
}


def _graph(net: Net, steps: Sequence[Step], reasons: Sequence[str]) -> str:
    called = _called(net, steps)
    own = [step for step in steps if called[step.name] == step.name]
    modules = [step for step in own if step.call.kind not in _INFIX]
    made = [f"        self.{step.name} = {_source(step.call)}" for step in modules]
    names, lines = variables(net, _words(net)), list[str]()
    for layer in net.layers:
        lines.append(f"        {names[layer.name]} = {_expression(layer, steps, called, names)}")
    lines.append(f"        return {names[net.layers[-1].name]}")
    init = ["class Model(nn.Module):", "    def __init__(self):", "        super().__init__()"]
    end = ["", "", "def build_model():", *comments(reasons), "    return Model()"]
    return "\n".join([*init, *made, "", f"    def forward(self, {names[INPUT]}):", *lines, *end])


def _expression(
    layer: Layer, steps: Sequence[Step], called: Mapping[str, str], names: Mapping[str, str]
) -> str:
    text = ""
    for step in steps:
        if step.layer != layer.name:
            continue
        read = [names[name] for name in layer.inputs] if not text else [text]
        infix = _INFIX.get(step.call.kind)
        text = infix(read) if infix else f"self.{called[step.name]}({read[0]})"
    return text


def _source(call: Call) -> str:
    return call.source("" if call.kind in OWN else "nn.")


# --- files ----------------------------------------------------------------------------------


def save(
    folder: Path, net: Net, weights: Weights, classes: Sequence[str], beside: Beside = NOTHING
) -> None:
    """Write model_torch.py, and model.safetensors, whose header says what `about` says."""
    module = build(net)
    load(module, net, weights)
    source = render(net, classes, beside, trained=True)
    (folder / "model_torch.py").write_text(source, encoding="utf-8")
    told = {key: json.dumps(value) for key, value in about(net, classes, beside).items()}
    header = {"format": "pt", **told}
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, folder / "model.safetensors", header)


def run(folder: Path, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """What the written source, and not ours, gives for pixels (n, height, width, channels)."""
    space: dict[str, Any] = {"__name__": "model_torch"}
    source = (folder / "model_torch.py").read_text(encoding="utf-8")
    exec(compile(source, "model_torch.py", "exec"), space)
    return [forward(space["load"](str(folder / "model.safetensors")), pixels)]


def read(path: Path) -> tuple[Net, Weights, tuple[str, ...]]:
    """Net, weights and class names of a model.safetensors that `save` wrote, or UnusableInput."""
    header = _header(path)
    if "net" not in header:
        expected = "a model.safetensors from a choice folder"
        raise UnusableInput(str(path), "was not written by convwise", expected)
    with _whole(path):
        net = Net.from_json(json.loads(header["net"]))
        needed, held = 4 * sum(map(prod, layout(net).values())), path.stat().st_size
        if needed > held:  # before so much is built
            raise ValueError(f"it describes a network of {needed:,} bytes, but holds {held:,}")
        module = build(net)
        module.load_state_dict(load_file(path))
        return net, weights(module, net), tuple(map(str, json.loads(header["classes"])))


def beside(path: Path) -> Beside:
    """What a model.safetensors that `save` wrote tells beside the net."""
    header = _header(path)
    with _whole(path):
        known = [name for name in ("reasons", "wide") if name in header]
        return Beside.of({name: json.loads(header[name]) for name in known})


def _header(path: Path) -> dict[str, str]:
    with _whole(path), safetensors.safe_open(path, "pt") as file:
        told = dict(file.metadata() or {})
        if (longest := max(map(len, told.values()), default=0)) > MOST_BYTES:
            raise ValueError(f"a text in it has {longest:,} characters")
        return told


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """UnusableInput for whatever safetensors, JSON and torch say of a damaged file."""
    try:
        yield
    except ConvwiseError:
        raise
    except Exception as error:
        expected = "a file that `convwise choose` wrote"
        raise UnusableInput(str(path), f"cannot be read: {error}", expected) from error


def forward(module: nn.Module, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The module's outputs for pixels (n, height, width, channels), channels last."""
    with torch.inference_mode():
        output: Tensor = module.eval()(torch.from_numpy(pixels).permute(0, 3, 1, 2).float())
    return (output.permute(0, 2, 3, 1) if output.dim() == 4 else output).numpy()
