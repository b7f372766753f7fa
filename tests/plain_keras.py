"""Run as a script, in a process where Keras is on TensorFlow: JSON cases in, what Keras says of
each out.

A case has 'layer' and 'shapes', and with 'image' (rows of numbers) a real forward with all weights
one; or 'net', a whole net. It shares no code with convwise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

# What our layers have and Keras's have not; a case that sets one of these to anything else is not
# Keras's.
OURS = {"ceil_mode": False, "count_include_pad": False}
WINDOWED = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "MaxPooling2D", "AveragePooling2D")


def ask(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What Keras on TensorFlow answers to each case; all in one process of its own."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run([sys.executable, __file__], input=json.dumps(cases), env=environment,
                          text=True, capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def steps(row: dict[str, Any]) -> list[Any]:
    """The Keras layers that one of ours stands for: explicit padding is a layer of its own."""
    import keras

    row = {key: value for key, value in row.items() if key not in ("name", "inputs", *OURS)}
    kind, padding = row.pop("type"), row.get("padding")
    if "activation" in row:
        row["activation"] = row["activation"].partition("(")[0]
    if kind in ("ZeroPadding2D", "Cropping2D"):
        key = {"ZeroPadding2D": "padding", "Cropping2D": "cropping"}[kind]
        top, bottom, left, right = row.get(key) or (
            (1,) * 4 if kind == "ZeroPadding2D" else (0,) * 4
        )
        row = {key: ((top, bottom), (left, right))}
    if kind == "Normalization" and row.pop("adapted", False):  # its statistics are weights
        row = {"axis": -1}
    elif kind == "Normalization":  # Keras wants as many means as variances
        many = max(len(row["mean"]), len(row["variance"]))
        row |= {key: row[key] * (many // len(row[key])) for key in ("mean", "variance")}
    if kind == "AveragePooling2D":  # of which Keras has no default
        row = {"pool_size": (2, 2), **row}
    before = []
    if kind in WINDOWED and isinstance(padding, list):
        before, row["padding"] = (
            [keras.layers.ZeroPadding2D((tuple(padding[:2]), tuple(padding[2:])))],
            "valid",
        )
    return [
        *before,
        getattr(keras.layers, kind)(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
        ),
    ]


def called(row: dict[str, Any], *inputs: Any) -> tuple[Any, Any]:
    """The Keras layer and its output."""
    *before, layer = steps(row)
    for step in before:
        inputs = (step(*inputs),)
    return layer, layer(list(inputs) if len(inputs) > 1 else inputs[0])


def single(case: dict[str, Any]) -> dict[str, Any]:
    import keras

    layer, output = called(case["layer"], *(keras.Input(shape) for shape in case["shapes"]))
    trainable = sum(int(keras.ops.size(weight)) for weight in layer.trainable_weights)
    answer = {
        "shape": list(output.shape[1:]),
        "params": layer.count_params(),
        "trainable": trainable,
    }
    if "image" in case:
        layer.set_weights([keras.ops.ones(weight.shape) for weight in layer.weights])
        image = keras.ops.reshape(
            keras.ops.convert_to_tensor(case["image"], "float32"), (1, *case["shapes"][0])
        )
        for step in [*steps(case["layer"])[:-1], layer]:
            image = step(image)
        answer["values"] = keras.ops.convert_to_numpy(image)[0, :, :, 0].tolist()
    return answer


def whole(net: dict[str, Any]) -> dict[str, Any]:
    """Each layer's shape, params and trainable params in a functional model."""
    import keras

    seen = {"input": keras.Input(net["input_shape"])}
    answer, before = {}, "input"
    for row in net["layers"]:
        inputs = row.get("inputs", [before])
        layer, seen[row["name"]] = called(row, *(seen[name] for name in inputs))
        trainable = sum(int(keras.ops.size(weight)) for weight in layer.trainable_weights)
        answer[row["name"]] = [list(seen[row["name"]].shape[1:]), layer.count_params(), trainable]
        before = row["name"]
    return {"layers": answer, "params": keras.Model(seen["input"], seen[before]).count_params()}


def answered(case: dict[str, Any]) -> dict[str, Any]:
    try:
        return whole(case["net"]) if "net" in case else single(case)
    except Exception as error:
        # The answer is that it does not fit; the test says whether it should
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    print("\n" + json.dumps([answered(case) for case in json.load(sys.stdin)]))
