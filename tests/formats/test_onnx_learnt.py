"""Single numbers in ONNX files: what PyTorch learns is counted, what belongs to a formula is
not.
"""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import StringStringEntryProto
from torch import nn

from convwise.formats.onnx.lift import lift, read
from convwise.inspect.checking import checked
from onnx_graphs import floats, model_of, node


class Of(nn.Module):
    """A convolution of 8 filters, and a forward with parameters of its own, one number each if
    nothing else is said.
    """

    def __init__(self, forward, bias=True, filters=8, **numbers):
        super().__init__()
        self.conv, self.does = nn.Conv2d(3, filters, 3, bias=bias), forward
        for name, number in numbers.items():
            setattr(self, name, nn.Parameter(torch.as_tensor(number)))

    def forward(self, x):
        return self.does(self, x)


MODULES = {
    "affine": (lambda s, x: s.scale * F.relu(s.conv(x)) + s.shift, {"scale": [1.31],
    "shift": [0.27]}),
    "star": (lambda s, x: s.scale * F.relu(s.conv(x)) ** 2 + s.shift, {"scale": 0.8944,
    "shift": -0.4472}),
    "generalised mean": (lambda s, x: s.conv(x).clamp(min=1e-6).pow(s.p).mean((2,
    3)).pow(1.0 / s.p), {"p": 3.0123}),
    "gate": (lambda s, x: s.conv(x) * s.gate.sigmoid() * s.temperature.exp(), {"gate": 0.313,
    "temperature": 0.71}),
    "twice": (lambda s, x: F.relu(s.conv(x) * s.gain) * s.gain + s.gain, {"gain": 1.313}),
    "as a bias": (lambda s, x: s.conv(x) + s.shift, {"bias": False, "shift": 0.713}),
    "of one filter": (lambda s, x: s.conv(x) + 0.5, {"bias": False, "filters": 1}),
    "three channels": (lambda s, x: s.conv(x) * s.scale, {"filters": 3, "scale": floats(3, 1, 1)}),
    "of an activation": (lambda s, x: F.softplus(s.conv(x) * s.beta) / s.beta, {"beta": 2.0}),
    "bounds": (lambda s, x: torch.minimum(s.conv(x), s.most).relu(), {"most": 2.713}),
    "formulas": (lambda s, x: F.gelu(s.conv((x / 255 - 0.449) / 0.226),
    approximate="tanh") / math.sqrt(8) * 1.702, {}),
    "no parameter is lost": (lambda s, x: F.hardswish(s.conv(x)) * 0.3333333 + 1 / 3, {}),
}  # fmt: skip
EXPORTERS = pytest.param(False, id="torchscript"), pytest.param(True, id="dynamo",
    marks=pytest.mark.skipif(
    find_spec("onnxscript") is None,
    reason="torch.onnx.export(dynamo=True) needs onnxscript"))  # fmt: skip


def exported(module, path, dynamo):
    torch.onnx.export(
        module.eval(), (torch.zeros(1, 3, 12, 12),), path, dynamo=dynamo, verbose=False
    )
    return read(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", EXPORTERS)
@pytest.mark.parametrize("name", MODULES)
def test_the_single_numbers_of_a_module_are_counted(tmp_path, name, dynamo):
    forward, about = MODULES[name]
    module = Of(forward, **about)
    total = checked(exported(module, tmp_path / "m.onnx", dynamo)).analysis.total
    assert (total.params, total.uncounted) == (
        sum(each.numel() for each in module.parameters()),
        (),
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", EXPORTERS)
def test_a_buffer_is_no_parameter_or_is_said_to_be_counted(tmp_path, dynamo):
    module = Of(lambda s, x: s.conv(x) * s.temperature)
    module.register_buffer("temperature", torch.tensor(1.713))
    lifted = exported(module, tmp_path / "m.onnx", dynamo)
    assert checked(lifted).analysis.total.params == 8 * 28 + (not dynamo)
    said = "counts 1 single number among the parameters by name (temperature); "
    said += "the file does not tell parameters from buffers"
    assert [problem.what for problem in lifted.problems] == [said] * (not dynamo)


NODES = [
    node("Conv", "x,k", "c"),
    node("Mul", "c,s", "m"),
    node("Add", "m,t", "a"),
    node("Mul", "a,half"),
]
NUMBERS = {
    "k": floats(8, 3, 3, 3),
    "s": np.float32(1.3172),
    "t": np.float32(0.27134),
    "half": np.float32(0.5),
}


def test_what_a_file_leaves_open_is_said():
    lifted = lift(model_of(NODES, NUMBERS, (1, 3, 8, 8)))
    assert checked(lifted).analysis.total.params == 216
    (problem,) = lifted.problems
    assert (problem.where, problem.severity, problem.count) == ("model", "note", 2)
    assert problem.what.startswith("does not count 2 single numbers (s, t)")
    assert problem.what.endswith("the number of parameters is a lower bound")


def test_the_words_of_an_exporter_are_believed():
    """As torch.onnx.export writes them with dynamo=True: t was folded from u, which was folded from
    a parameter.
    """
    model = model_of(NODES, NUMBERS, (1, 3, 8, 8))
    signature = (
        "\n# inputs\np_k: PARAMETER target='k'\nb_s: BUFFER target='s' persistent=True\np_w:"
        " PARAMETER target='w'"
    )
    key = "pkg.torch.export.ExportedProgram.graph_signature"
    model.graph.metadata_props.append(StringStringEntryProto(key=key, value=signature))
    for name, of in {"t": "['u', 'val_1']", "u": "['w']"}.items():
        about = StringStringEntryProto(key="pkg.onnxscript.optimizer.folded_from", value=of)
        model.graph.value_info.add(name=name).metadata_props.append(about)
    lifted = lift(model)
    assert (checked(lifted).analysis.total.params, lifted.problems) == (217, ())


def test_numbers_that_prepare_the_image_are_none_of_a_module():
    nodes = [node("Sub", "x,mean", "a"), node("Div", "a,std", "b"), node("Conv", "b,k")]
    tensors = {
        "mean": floats(1, 3, 1, 1),
        "std": 1 + floats(1, 3, 1, 1) ** 2,
        "k": floats(8, 3, 3, 3),
    }
    model = model_of(nodes, tensors, (1, 3, 8, 8))
    for producer in ("", "pytorch"):
        model.producer_name = producer
        lifted = lift(model)
        assert (checked(lifted).analysis.total.params, lifted.problems) == (216, ())
