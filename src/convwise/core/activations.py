"""The activations, in Keras's names: one row each, spelled once for every format.

An activation is written as its name, with the arguments that are not at their defaults:
'relu', 'leaky_relu(negative_slope=0.01)'. Defaults are those of keras.activations.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

INFINITY = float("inf")


@dataclass(frozen=True)
class ActivationRow:
    """How one activation is written in each format.

    torch: class and arguments in torch.nn, or in formats/torch/modules.py where torch.nn lacks it;
    onnx: operator and attributes at opset 20, or '' where formats/onnx/lowering.py composes it. A
    {word} in torch, and a word as an attribute's value, stands for the argument of that name.
    elementwise: False where it mixes the values of one position. keras: False where
    keras.activations lacks it, or (sparsemax in 3.15, which sums the sums) computes another
    function.
    """

    meaning: str
    torch: str
    onnx: str = ""
    onnx_attributes: Mapping[str, float | str] = field(default_factory=dict)
    arguments: Mapping[str, float] = field(default_factory=dict)
    elementwise: bool = True
    keras: bool = True


Row = ActivationRow
ACTIVATIONS: dict[str, ActivationRow] = {
    "linear": Row("x", "Identity()", "Identity"),
    "relu": Row("max(x, 0), at most max_value; below the threshold negative_slope (x - threshold)",
    "ReLU()", "Relu",
                arguments={"max_value": INFINITY, "negative_slope": 0.0, "threshold": 0.0}),
    "leaky_relu": Row("x, or negative_slope x below 0",
    "LeakyReLU(negative_slope={negative_slope})", "LeakyRelu",
                      {"alpha": "negative_slope"}, {"negative_slope": 0.2}),
    "elu": Row("x, or alpha (exp(x) - 1) below 0", "ELU(alpha={alpha})", "Elu", {"alpha": "alpha"},
    {"alpha": 1.0}),
    "selu": Row("scaled elu", "SELU()", "Selu"),
    "celu": Row("x, or alpha (exp(x / alpha) - 1) below 0", "CELU(alpha={alpha})", "Celu",
    {"alpha": "alpha"},
                {"alpha": 1.0}),
    "gelu": Row("x times the normal distribution function of x", "GELU()", "Gelu"),
    "gelu_tanh": Row("gelu, with tanh for the distribution function", 'GELU(approximate="tanh")',
    keras=False),
    "silu": Row("x sigmoid(x)", "SiLU()"),
    "hard_silu": Row("x relu6(x + 3) / 6", "Hardswish()", "HardSwish"),
    "mish": Row("x tanh(softplus(x))", "Mish()", "Mish"),
    "relu6": Row("min(max(x, 0), 6)", "ReLU6()"),
    "softplus": Row("log(1 + exp(beta x)) / beta", "Softplus(beta={beta})", "Softplus",
    arguments={"beta": 1.0}),
    "softsign": Row("x / (1 + |x|)", "Softsign()", "Softsign"),
    "squareplus": Row("(x + sqrt(x^2 + b)) / 2", "Squareplus(b={b})", arguments={"b": 4.0}),
    "sparse_plus": Row("0 below -1, x above 1, (x + 1)^2 / 4 between", "SparsePlus()"),
    "exponential": Row("exp(x)", "Exponential()", "Exp"),
    "tanh": Row("hyperbolic tangent", "Tanh()", "Tanh"),
    "hard_tanh": Row("x, at least min_val and at most max_val",
    "Hardtanh(min_val={min_val}, max_val={max_val})",
                     arguments={"min_val": -1.0, "max_val": 1.0}),
    "tanh_shrink": Row("x - tanh(x)", "Tanhshrink()"),
    "soft_shrink": Row("x moved towards 0 by threshold, 0 where it would pass",
    "Softshrink(lambd={threshold})",
                       "Shrink", {"lambd": "threshold", "bias": "threshold"}, {"threshold": 0.5}),
    "hard_shrink": Row("x, or 0 where |x| is at most threshold", "Hardshrink(lambd={threshold})",
    "Shrink",
                       {"lambd": "threshold", "bias": 0.0}, {"threshold": 0.5}),
    "threshold": Row("x, or value where x is at most threshold",
    "Threshold(threshold={threshold}, value={value})",
                     arguments={"threshold": 0.0, "value": 0.0}, keras=False),
    "sigmoid": Row("1 / (1 + exp(-x))", "Sigmoid()", "Sigmoid"),
    "hard_sigmoid": Row("relu6(x + 3) / 6", "Hardsigmoid()", "HardSigmoid", {"alpha": 1 / 6,
    "beta": 0.5}),
    "log_sigmoid": Row("log(sigmoid(x))", "LogSigmoid()"),
    "sparse_sigmoid": Row("0 below -1, 1 above 1, (x + 1) / 2 between", "SparseSigmoid()"),
    "softmax": Row("exp(x) / sum of exp over the channels", "Softmax(dim=1)", "Softmax",
    {"axis": 1},
                   elementwise=False),
    "log_softmax": Row("log(softmax(x))", "LogSoftmax(dim=1)", "LogSoftmax", {"axis": 1},
    elementwise=False),
    "softmin": Row("softmax(-x)", "Softmin(dim=1)", elementwise=False, keras=False),
    "sparsemax": Row("the nearest probabilities to x", "Sparsemax()", elementwise=False,
    keras=False),
}  # fmt: skip
# Other names of the same functions.
ALIASES = {"swish": "silu", "hard_swish": "hard_silu", "hardswish": "hard_silu",
           "hardsigmoid": "hard_sigmoid",
           "hardtanh": "hard_tanh", "exp": "exponential", "none": "linear",
           "identity": "linear"}  # fmt: skip

_SPELLED = re.compile(r"(\w+)(?:\((.*)\))?")


@dataclass(frozen=True)
class Activated:
    """An activation with its arguments: what a spelling such as 'elu(alpha=0.5)' stands for."""

    name: str
    row: ActivationRow
    arguments: Mapping[str, float]

    @property
    def changed(self) -> dict[str, float]:
        """The arguments that are not at their defaults."""
        return {
            key: value for key, value in self.arguments.items() if value != self.row.arguments[key]
        }

    @property
    def torch(self) -> str:
        """Class and arguments in torch.nn: 'LeakyReLU(negative_slope=0.2)'."""
        return self.row.torch.format(**self.arguments)

    @property
    def onnx_attributes(self) -> dict[str, float]:
        """The attributes of the ONNX operator."""
        given = self.row.onnx_attributes.items()
        return {
            key: self.arguments[value] if isinstance(value, str) else value for key, value in given
        }

    def __str__(self) -> str:
        words = ", ".join(f"{key}={value!r}" for key, value in self.changed.items())
        return f"{self.name}({words})" if words else self.name


def spelled(name: str, **arguments: float) -> str:
    """The one spelling of an activation: arguments at their defaults are left out."""
    row = ACTIVATIONS[name]
    return str(
        Activated(
            name, row, {**row.arguments, **{key: float(value) for key, value in arguments.items()}}
        )
    )


@lru_cache(maxsize=256)
def activation(text: str) -> Activated:
    """The activation that `text` spells.

    KeyError where it names no row, ValueError where an argument is wrong.
    """
    found = _SPELLED.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not name(argument=number, ...)")
    name = ALIASES.get(found[1], found[1])
    row = ACTIVATIONS[name]
    pairs = [word.split("=") for word in (found[2] or "").split(",") if word.strip()]
    given = {key.strip(): float(value) for key, value in pairs}
    if unknown := set(given) - set(row.arguments):
        raise ValueError(f"{name} has no argument {sorted(unknown)}")
    return Activated(name, row, {**row.arguments, **given})
