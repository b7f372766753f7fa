"""Nets as PyTorch modules: float (n, channels, height, width), raw pixels 0 to 255, to probabilities.

'same' with a stride becomes the padding that Keras would add; Flatten keeps the order height,
width, channels, so that dense kernels are the same in every format.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from convwise.core.activations import activation
from convwise.core.geometry import GEOMETRY
from convwise.core.layers import (
    Activation,
    Add,
    AveragePooling2D,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    GlobalMaxPooling2D,
    Layer,
    MaxPooling2D,
    Normalization,
    Rescaling,
    ZeroPadding2D,
)
from convwise.core.net import INPUT, Net
from convwise.core.parameters import Pads, Pair
from convwise.core.problems import Unsupported, UnusableInput
from convwise.core.windows import Shape, Window, outputs_of
from convwise.formats.calls import Call, Step, call, identifiers, literal, one, plan, variables
from convwise.formats.modules import OWN, Graph
from convwise.formats.weights import Weights, channels_first, channels_last, checked, layout

FILES = ("model_torch.py", "model.safetensors")
_KEYS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def lower(layer: Layer, shapes: Sequence[Shape]) -> tuple[Call, ...]:
    """The torch.nn classes (or those of formats/modules.py) that do what the layer does on maps of `shapes`."""
    rule = LOWER.get(type(layer))
    if rule is None:
        known = ", ".join(kind.__name__ for kind in LOWER)
        raise Unsupported("torch", layer.name, f"{layer.op} has no form in PyTorch", f"one of {known}")
    return rule(layer, shapes[0])


def build(net: Net, *, logits: bool = False) -> nn.Module:
    """The net as a module with PyTorch's initial weights; with `logits`, without its final softmax."""
    steps = steps_of(net)
    if logits and steps[-1].call.kind == "Softmax":
        steps = (*steps[:-1], replace(steps[-1], call=Call("Identity")))
    modules = OrderedDict((step.name, _made(step.call)) for step in steps)
    return nn.Sequential(modules) if net.is_chain else Graph(modules, [step.inputs for step in steps], INPUT)


def steps_of(net: Net) -> tuple[Step, ...]:
    """The modules of the net in order, with their names."""
    return plan(net, lower, _words(net))


def weights(module: nn.Module, net: Net) -> Weights:
    """The module's weights in Keras's layouts, copied to numpy."""
    state, words, found = module.state_dict(), _words(net), {}
    for key, shape in layout(net).items():
        layer, _, kind = key.partition("/")
        value = state[f"{words[layer]}.{_KEYS[kind]}"].detach().float().cpu().numpy()
        found[key] = channels_last(net[layer], value, shape) if kind == "kernel" else value.copy()
    return found


def load(module: nn.Module, net: Net, weights: Weights) -> None:
    """Put weights in Keras's layouts into the module of `build(net)`. UnusableInput where they do not fit."""
    checked(net, weights)
    state, words = module.state_dict(), _words(net)
    with torch.no_grad():
        for key, value in weights.items():
            layer, _, kind = key.partition("/")
            tensor = state[f"{words[layer]}.{_KEYS[kind]}"]
            shape = tuple(tensor.shape)
            turned = channels_first(net[layer], value, shape) if kind == "kernel" else value
            tensor.copy_(torch.tensor(turned))


def _words(net: Net) -> dict[str, str]:
    """Layer names as names of submodules: 'train' or 'class' would be taken by Python or by nn.Module."""
    used = {"x", "image", "torch", "nn", *OWN}
    empty = nn.Sequential()
    return identifiers((layer.name for layer in net.layers), lambda name: name in used or hasattr(empty, name))


def _made(call: Call) -> nn.Module:
    kind: Callable[..., nn.Module] = OWN.get(call.kind) or getattr(nn, call.kind)
    return kind(*call.args, **call.kwargs)


# --- layers ---------------------------------------------------------------------------------


def _activation(name: str) -> tuple[Call, ...]:
    """The call in the row of core/activations.py: 'LeakyReLU(negative_slope=0.2)'."""
    if name == "linear":
        return ()
    tree = ast.parse(activation(name).torch, mode="eval").body
    assert isinstance(tree, ast.Call)
    assert isinstance(tree.func, ast.Name)
    return (Call(tree.func.id, (), {str(word.arg): ast.literal_eval(word.value) for word in tree.keywords}),)


def _conv(layer: Conv2D, shape: Shape) -> tuple[Call, ...]:
    made = call(nn.Conv2d, shape[2], layer.filters, one(layer.kernel_size), groups=layer.groups, **_common(layer))
    return _padded_conv(layer, shape, made)


def _depthwise(layer: DepthwiseConv2D, shape: Shape) -> tuple[Call, ...]:
    outputs = shape[2] * layer.depth_multiplier
    made = call(nn.Conv2d, shape[2], outputs, one(layer.kernel_size), groups=shape[2], **_common(layer))
    return _padded_conv(layer, shape, made)


def _common(layer: Conv2D | DepthwiseConv2D) -> dict[str, Any]:
    return {"stride": one(layer.strides), "dilation": one(layer.dilation_rate), "bias": layer.use_bias}


def _padded_conv(layer: Conv2D | DepthwiseConv2D, shape: Shape, made: Call) -> tuple[Call, ...]:
    window = _window(layer, shape)
    after = _activation(layer.activation)
    native = _symmetric(window, shape)
    if native is None:
        return (_pad("ZeroPad2d", window.pads), made, *after)
    padding = {"padding": one(native)} if any(native) else {}
    return (Call(made.kind, made.args, _ordered(padding, made.kwargs)), *after)


def _ordered(padding: Mapping[str, Any], rest: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments in the order of nn.Conv2d: stride before padding."""
    return {**{k: v for k, v in rest.items() if k == "stride"}, **padding, **rest}


def _window(layer: Layer, shape: Shape) -> Window:
    window = GEOMETRY[type(layer)].window(layer, shape)
    assert window is not None
    return window


def _symmetric(window: Window, shape: Shape, ceil: bool = False) -> Pair | None:
    """The one padding per axis with which PyTorch puts its windows where ours are, if there is one."""
    (top, bottom, left, right), (rows, columns) = window.pads, window.reach
    fits = [
        _positions(size, before, reach, stride, ceil) == outputs_of(size, before, after, reach, stride)
        for size, before, after, reach, stride in (
            (shape[0], top, bottom, rows, window.strides[0]),
            (shape[1], left, right, columns, window.strides[1]),
        )
    ]
    return (top, left) if all(fits) else None


def _positions(size: int, padding: int, reach: int, stride: int, ceil: bool) -> int:
    """Outputs of PyTorch's pooling and convolution along one axis."""
    room = size + 2 * padding - reach
    count = -(-room // stride) + 1 if ceil else room // stride + 1
    return count - 1 if ceil and (count - 1) * stride >= size + padding else count


def _pad(kind: str, pads: Pads) -> Call:
    """(top, bottom, left, right) as PyTorch's (left, right, top, bottom)."""
    top, bottom, left, right = pads
    sides = top if len(set(pads)) == 1 else (left, right, top, bottom)
    return Call(kind, (sides,), {"value": float("-inf")} if kind == "ConstantPad2d" else {})


def _max_pool(layer: MaxPooling2D, shape: Shape) -> tuple[Call, ...]:
    native = _native_pool(layer, shape, nn.MaxPool2d)
    if native is not None:
        return (native,)
    return _pad("ConstantPad2d", _window(layer, shape).pads), _pool(nn.MaxPool2d, layer)


def _average_pool(layer: AveragePooling2D, shape: Shape) -> tuple[Call, ...]:
    native = _native_pool(layer, shape, nn.AvgPool2d)
    if native is not None:
        return (native,)
    top, bottom, left, right = _window(layer, shape).pads
    stride = None if layer.strides == layer.pool_size else one(layer.strides)
    return (Call("AveragePool", (one(layer.pool_size), stride, (left, right, top, bottom))),)


def _native_pool(layer: MaxPooling2D | AveragePooling2D, shape: Shape, kind: type) -> Call | None:
    """PyTorch's own pooling, where its rounding gives our windows: what lies outside the map never counts."""
    window = _window(layer, shape)
    if any(pad >= size for pad, size in zip(window.pads, _by_side(window.kernel), strict=True)):
        what = f"padding {window.pads} makes windows of {window.kernel} that hold nothing"
        raise Unsupported("torch", layer.name, what, "padding smaller than the pool")
    for ceil in (False, True):
        native = _symmetric(window, shape, ceil)
        if native and all(2 * pad <= size for pad, size in zip(native, window.kernel, strict=True)):
            inside = {"count_include_pad": False} if kind is nn.AvgPool2d and any(native) else {}
            return _pool(kind, layer, padding=one(native), ceil_mode=ceil, **inside)
    return None


def _by_side(pair: Pair) -> Pads:
    return pair[0], pair[0], pair[1], pair[1]


def _pool(kind: type, layer: MaxPooling2D | AveragePooling2D, **more: Any) -> Call:
    step = {} if layer.strides == layer.pool_size else {"stride": one(layer.strides)}
    return call(kind, one(layer.pool_size), **step, **more)


def _batch_norm(layer: BatchNormalization, shape: Shape) -> tuple[Call, ...]:
    kind = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
    # Keras's momentum is the share that stays, PyTorch's the share that is replaced.
    return (call(kind, shape[-1], eps=layer.epsilon, momentum=round(1 - layer.momentum, 12)),)


def _flatten(layer: Flatten, shape: Shape) -> tuple[Call, ...]:
    order_matters = len(shape) == 3 and shape[2] > 1 and shape[0] * shape[1] > 1
    return (Call("FlattenLast" if order_matters else "Flatten"),)


def _dense(layer: Dense, shape: Shape) -> tuple[Call, ...]:
    after = _activation(layer.activation)
    if len(shape) == 3:  # Keras applies Dense at every position of a map, which is a 1x1 convolution.
        return (call(nn.Conv2d, shape[2], layer.units, 1, bias=layer.use_bias), *after)
    return (call(nn.Linear, shape[0], layer.units, bias=layer.use_bias), *after)


def _normalization(layer: Normalization, shape: Shape) -> tuple[Call, ...]:
    return (Call("Normalization", (list(layer.mean), list(layer.variance))),)


def _zero_padding(layer: ZeroPadding2D, shape: Shape) -> tuple[Call, ...]:
    return (_pad("ZeroPad2d", _window(layer, shape).pads),)


LOWER: dict[type[Layer], Callable[[Any, Shape], tuple[Call, ...]]] = {
    Conv2D: _conv,
    DepthwiseConv2D: _depthwise,
    MaxPooling2D: _max_pool,
    AveragePooling2D: _average_pool,
    GlobalAveragePooling2D: lambda layer, shape: (Call("AdaptiveAvgPool2d", (1,)), Call("Flatten")),
    GlobalMaxPooling2D: lambda layer, shape: (Call("AdaptiveMaxPool2d", (1,)), Call("Flatten")),
    BatchNormalization: _batch_norm,
    Activation: lambda layer, shape: _activation(layer.activation) or (Call("Identity"),),
    Dropout: lambda layer, shape: (Call("Dropout", (layer.rate,)),),
    Flatten: _flatten,
    Dense: _dense,
    Add: lambda layer, shape: (Call("Add"),),
    Concatenate: lambda layer, shape: (Call("Concatenate"),),
    ZeroPadding2D: _zero_padding,
    Rescaling: lambda layer, shape: (call(OWN["Rescaling"], one(layer.scale), offset=one(layer.offset)),),
    Normalization: _normalization,
}


# --- source ---------------------------------------------------------------------------------

_HEAD = '''"""A network chosen by convwise: raw pixels 0 to 255, shaped (n, channels, height, width), to {output}."""

{imports}

CLASSES = {classes}
INPUT_SHAPE = {shape}  # height, width, channels
'''

_TAIL = '''def load(path="model.safetensors"):
    """The network with its trained weights, ready to predict."""
    from safetensors.torch import load_file  # pip install safetensors

    model = build_model()
    model.load_state_dict(load_file(path))
    return model.eval()


if __name__ == "__main__":
    height, width, channels = INPUT_SHAPE
    image = torch.randint(0, 256, (1, channels, height, width)).float()
    with torch.no_grad():
        print(build_model().eval()(image))  # load() instead of build_model() for the trained weights
'''


def render(net: Net, classes: Sequence[str] = ()) -> str:
    """model_torch.py: the source of `build(net)`, with the same state-dict names, needing only PyTorch."""
    steps = steps_of(net)
    kinds = [kind for kind in dict.fromkeys(step.call.kind for step in steps) if kind in OWN and kind not in _INFIX]
    body = _chain(steps) if net.is_chain else _graph(net, steps)
    head = _head(net, classes, steps[-1], bool(kinds))
    parts = [head, *(inspect.getsource(OWN[kind]) for kind in kinds), body, _TAIL]
    return "\n\n\n".join(part.strip("\n") for part in parts) + "\n"


def _head(net: Net, classes: Sequence[str], last: Step, typed: bool) -> str:
    imports = ["from collections import OrderedDict", ""] if net.is_chain else []
    imports += ["import torch", "from torch import Tensor, nn" if typed else "from torch import nn"]
    output = "class probabilities" if last.call.kind in ("Softmax", "Sigmoid") else "numbers"
    return _HEAD.format(
        imports="\n".join(imports), classes=literal(list(classes)), shape=net.input_shape, output=output
    )


def _chain(steps: Sequence[Step]) -> str:
    lines = [f'        ("{step.name}", {_source(step.call)}),' for step in steps]
    return "\n".join(["def build_model():", "    return nn.Sequential(OrderedDict([", *lines, "    ]))"])


_INFIX: dict[str, Callable[[Sequence[str]], str]] = {
    "Add": " + ".join,
    "Concatenate": lambda names: f"torch.cat([{', '.join(names)}], dim=1)",
}


def _graph(net: Net, steps: Sequence[Step]) -> str:
    made = [f"        self.{step.name} = {_source(step.call)}" for step in steps if step.call.kind not in _INFIX]
    names = variables(net, _words(net))
    lines = [f"        {names[layer.name]} = {_expression(layer, steps, names)}" for layer in net.layers]
    lines.append(f"        return {names[net.layers[-1].name]}")
    init = ["class Model(nn.Module):", "    def __init__(self):", "        super().__init__()", *made, ""]
    end = ["", "", "def build_model():", "    return Model()"]
    return "\n".join([*init, f"    def forward(self, {names[INPUT]}):", *lines, *end])


def _expression(layer: Layer, steps: Sequence[Step], names: Mapping[str, str]) -> str:
    text = ""
    for step in steps:
        if step.layer != layer.name:
            continue
        read = [names[name] for name in layer.inputs] if not text else [text]
        infix = _INFIX.get(step.call.kind)
        text = infix(read) if infix else f"self.{step.name}({read[0]})"
    return text


def _source(call: Call) -> str:
    return call.source("" if call.kind in OWN else "nn.")


# --- files ----------------------------------------------------------------------------------


def save(folder: Path, net: Net, weights: Weights, classes: Sequence[str]) -> None:
    """Write model_torch.py and model.safetensors, whose header carries the net, the classes and the input shape."""
    module = build(net)
    load(module, net, weights)
    (folder / "model_torch.py").write_text(render(net, classes), encoding="utf-8")
    header = {"net": json.dumps(net.to_json()), "classes": json.dumps(list(classes)), "format": "pt",
              "input_shape": json.dumps(net.input_shape)}  # fmt: skip
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, folder / "model.safetensors", header)


def run(folder: Path, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """What the written files give for pixels (n, height, width, channels): the source is executed, not ours."""
    space: dict[str, Any] = {"__name__": "model_torch"}
    exec(compile((folder / "model_torch.py").read_text(encoding="utf-8"), "model_torch.py", "exec"), space)
    return [forward(space["load"](str(folder / "model.safetensors")), pixels)]


def read(path: Path) -> tuple[Net, Weights, tuple[str, ...]]:
    """The net, weights and class names in a model.safetensors that `save` wrote."""
    with safetensors.safe_open(path, "pt") as file:
        header = file.metadata() or {}
    if "net" not in header:
        raise UnusableInput(str(path), "was not written by convwise", "a model.safetensors from a choice folder")
    net = Net.from_json(json.loads(header["net"]))
    module = build(net)
    module.load_state_dict(load_file(path))
    return net, weights(module, net), tuple(json.loads(header["classes"]))


def forward(module: nn.Module, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The module's outputs for pixels (n, height, width, channels), channels last."""
    with torch.inference_mode():
        output: Tensor = module.eval()(torch.from_numpy(pixels).permute(0, 3, 1, 2).float())
    return (output.permute(0, 2, 3, 1) if output.dim() == 4 else output).numpy()
