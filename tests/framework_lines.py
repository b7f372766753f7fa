"""Source lines of one layer, run: with weights in PyTorch's layouts, on one map (height, width,
channels).

Run as a script it is a process where Keras is on TensorFlow: JSON cases in, outputs out. It shares
no code with convwise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("KERAS_BACKEND", "torch")
Array = NDArray[np.float32]
Case = tuple[Sequence[str], str, Array, list[Array]]  # lines, layer type, map, weights


def torch_forward(lines: Sequence[str], x: Array, weights: list[Array]) -> Array:
    import torch
    from torch import nn

    module = nn.Sequential(*(eval(line, {"nn": nn}) for line in lines))
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), weights, strict=True):
            parameter.copy_(torch.tensor(value))
        return module(torch.tensor(x).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()


def keras_forward(lines: Sequence[str], kind: str, x: Array, weights: list[Array]) -> Array:
    import keras
    from keras import layers

    model = keras.Sequential(
        [keras.Input(x.shape), *(eval(line, {"keras": keras, "layers": layers}) for line in lines)]
    )
    model.set_weights(list(as_keras(kind, weights, x.shape[2])))
    return keras.ops.convert_to_numpy(model(x[None]))[0]


def as_keras(kind: str, weights: list[Array], channels: int) -> Any:
    """The weights in Keras's layouts."""
    for number, value in enumerate(weights):
        if value.ndim == 1:
            yield value
        elif kind == "DepthwiseConv2D" or (kind == "SeparableConv2D" and number == 0):
            yield value.reshape(channels, -1, *value.shape[2:]).transpose(2, 3, 0, 1)
        else:
            yield value.transpose(2, 3, 1, 0)


def on_tensorflow(cases: list[Case]) -> list[Array]:
    """The outputs of Keras on TensorFlow, in one process of its own."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
    }
    plain = [
        (list(lines), kind, x.tolist(), [w.tolist() for w in weights])
        for lines, kind, x, weights in cases
    ]
    done = subprocess.run([sys.executable, __file__], input=json.dumps(plain), env=environment,
                          text=True, capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [np.array(output, np.float32) for output in json.loads(done.stdout.splitlines()[-1])]


def _main() -> None:
    outputs = []
    for lines, kind, x, weights in json.load(sys.stdin):
        arrays = [np.array(w, np.float32) for w in weights]
        outputs.append(keras_forward(lines, kind, np.array(x, np.float32), arrays).tolist())
    print(json.dumps(outputs))


if __name__ == "__main__":
    _main()
