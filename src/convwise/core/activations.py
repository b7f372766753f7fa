"""The activations, in Keras's names: one row each, spelled once for every format."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ActivationRow:
    """How one activation is written in each format.

    torch: class and arguments in torch.nn; onnx: operator and attributes at opset 20, or
    () where formats/onnx.py composes it; elementwise: False where it mixes values of one position.
    """

    meaning: str
    torch: str
    onnx: str = ""
    onnx_attributes: dict[str, float] = field(default_factory=dict)
    elementwise: bool = True


# Slopes and approximations are Keras's defaults for the name (keras.activations).
ACTIVATIONS: dict[str, ActivationRow] = {
    "linear": ActivationRow("x", "Identity()", "Identity"),
    "relu": ActivationRow("max(x, 0)", "ReLU()", "Relu"),
    "leaky_relu": ActivationRow("x, or 0.2 x below 0", "LeakyReLU(negative_slope=0.2)", "LeakyRelu", {"alpha": 0.2}),
    "elu": ActivationRow("x, or exp(x) - 1 below 0", "ELU()", "Elu", {"alpha": 1.0}),
    "selu": ActivationRow("scaled elu", "SELU()", "Selu"),
    "gelu": ActivationRow("x times the normal distribution function of x", "GELU()", "Gelu"),
    "silu": ActivationRow("x sigmoid(x)", "SiLU()"),
    "hard_silu": ActivationRow("x relu6(x + 3) / 6", "Hardswish()", "HardSwish"),
    "mish": ActivationRow("x tanh(softplus(x))", "Mish()", "Mish"),
    "relu6": ActivationRow("min(max(x, 0), 6)", "ReLU6()"),
    "softplus": ActivationRow("log(1 + exp(x))", "Softplus()", "Softplus"),
    "tanh": ActivationRow("hyperbolic tangent", "Tanh()", "Tanh"),
    "sigmoid": ActivationRow("1 / (1 + exp(-x))", "Sigmoid()", "Sigmoid"),
    "softmax": ActivationRow("exp(x) / sum of exp over the channels", "Softmax(dim=1)", "Softmax", {"axis": 1}, False),
}
