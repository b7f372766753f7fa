"""choose beside textbook nets and an expert's fixed nets: same images, same machine, same wall clock.

    python benchmarks/compare.py SET METHOD [--budget 300] [--seed 0] [--data ../shared/data]

METHOD is 'choose', 'fixed-16', 'fixed-32', 'fixed-64', or the name of a net in examples/textbook.py.
Each run appends one row to benchmarks/results/compare.jsonl: accuracy on the set's own sealed test
part, macs, params, latency, wall clock, with seed, machine, versions and load beside it. Only the
last step of a run opens the test part. Runs are to be made one at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

STARTED = time.monotonic()
HERE = Path(__file__).parent
RESULTS = HERE / "results" / "compare.jsonl"
SETS = {
    "mnist-5k": "mnist-5k",
    "fashion-mnist": "fashion-mnist",
    "sign-digits": "sign-digits/sign-digits.zip",
    "clothing-10": "clothing-10/clothing-10.zip",
    "infrared-solar-12": "infrared-solar-12/infrared-solar-12.zip",
    "bccd-cells": "bccd-cells/bccd-cells.zip",
    "breastmnist": "breastmnist/breastmnist.npz",
}
# Where mirroring does no harm: mirrored digits and hand signs mislead (fingerprint, flip_gain: -5 and -6 points).
FLIP = {"clothing-10", "bccd-cells", "infrared-solar-12", "fashion-mnist"}
GRAY_28 = {"mnist-5k", "fashion-mnist", "breastmnist"}
SCORE_SECONDS = 3.0  # kept for scoring, out of the budget


def main() -> None:
    arguments = _arguments()
    run = {"choose": choose}.get(arguments.method) or (fixed if arguments.method.startswith("fixed-") else textbook)
    row = run(arguments)
    _record(arguments, row)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("set", choices=SETS)
    parser.add_argument("method")
    parser.add_argument("--budget", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--keep", type=Path, help="keep the folder that choose wrote, here")
    parser.add_argument("--note", default="")
    return parser.parse_args()


def choose(arguments: argparse.Namespace) -> dict[str, Any]:
    """The command as a user runs it; its own sealed accuracy."""
    with tempfile.TemporaryDirectory() as passing:
        folder = str(arguments.keep or passing)
        command = [sys.executable, "-m", "convwise", "choose", str(arguments.data / SETS[arguments.set]),
                   "--budget", f"{arguments.budget:g}s", "--seed", str(arguments.seed), "--out", folder]  # fmt: skip
        before = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall = time.monotonic() - before
        choice = json.loads((Path(folder) / "choice.json").read_text())
    test = choice["test"]
    return {**{k: test[k] for k in ("accuracy", "n")}, **choice["cost"], "wall_seconds": wall,
            "sample": choice["sample"], "input_shape": choice["net"]["input_shape"]}  # fmt: skip


def fixed(arguments: argparse.Namespace) -> dict[str, Any]:
    """An expert's fixed residual 3x3 net: stem, two stages, one-cycle AdamW, label smoothing, flips and shifts,
    bf16 + channels_last, trained on everything unsealed for the whole budget."""
    import numpy as np

    from convwise import batches, machine, train
    from convwise.core.records import Recipe, Trial
    from convwise.images import read

    images = read(arguments.data / SETS[arguments.set], seed=arguments.seed)
    size = (28, 28) if arguments.set in GRAY_28 else images.base_shape[:2]
    if max(size) > 48:
        size = (64, 64)
    net = _fixed_net((*size, images.base_shape[2]), len(images.classes), int(arguments.method.split("-")[1]))
    recipe = Recipe(batch_size=128 if len(images.train) > 2500 else 64, flip=arguments.set in FLIP,
                    shift_px=max(2, round(0.06 * min(size))))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for name in ("train", "valid"):
            batches.store(Path(folder), f"{size[0]}x{size[1]}", name, getattr(images, name).at(*size))
        seconds = arguments.budget - (time.monotonic() - STARTED) - SCORE_SECONDS
        trial = Trial(
            "fixed", "fixed", {}, net, recipe, seconds, seed=arguments.seed, part="all", threads=machine.cores()
        )
        result, weights = train.train(trial, Path(folder), machine.engine())
    assert images.test is not None
    test = images.test.open().at(*size)
    right = train.probabilities(net, weights, np.asarray(test.pixels)).argmax(1) == test.labels
    return {"accuracy": float(right.mean()), "n": len(test), **result.cost, "latency_ms": machine.latency_ms(net),
            "wall_seconds": time.monotonic() - STARTED, "images_seen": result.history[-1].images,
            "input_shape": net.input_shape}  # fmt: skip


def _fixed_net(shape: tuple[int, int, int], classes: int, width: int) -> Any:
    """Conv stem (stride 2 above 48 px), two residual stages with widths doubling and a 2x2 max pool between, GAP."""
    from convwise.core.space import Choice, Space

    size = f"{shape[0]}x{shape[1]}"
    half, quarter = (0.5,) * shape[2], (0.0625,) * shape[2]
    space = Space(shape[2], classes, half, quarter, (Choice("input.size", (size,)),))
    return space.grow({
        "input.size": size, "stem.kernel_size": 3, "stem.strides": 2 if min(shape[:2]) > 48 else 1,
        "stage.filters": width, "stage.count": 2, "stage.convs": 2, "stage.kernel_size": 3, "block": "residual",
        "downsampling": "MaxPooling2D", "padding": "same", "activation": "relu",
        "normalization": "BatchNormalization", "head": "GlobalAveragePooling2D", "dropout": 0.0,
    })  # fmt: skip


def textbook(arguments: argparse.Namespace) -> dict[str, Any]:
    """A net that people copy, in Keras on TensorFlow, as people train it: Adam, batch 32, pixels / 255, a tenth of
    the training images to pick the best epoch by; for the whole budget."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import numpy as np

    sys.path.insert(0, str(HERE.parent))
    from examples.textbook import TEXTBOOK

    from convwise.core.calculus import analyse
    from convwise.images import read

    net = TEXTBOOK[arguments.method]
    height, width, channels = net.input_shape
    images = read(arguments.data / SETS[arguments.set], seed=arguments.seed)
    if len(images.classes) != 10:
        raise SystemExit("the textbook nets have 10 classes")
    keras.utils.set_random_seed(arguments.seed)
    model = _keras_model(net)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    part = images.unsealed().at(height, width)
    x, y = _channels(np.asarray(part.pixels), channels) / np.float32(255), np.asarray(part.labels)
    order = np.random.default_rng(arguments.seed).permutation(len(y))
    held = len(y) // 10
    best = _Best(arguments.budget - SCORE_SECONDS)
    model.fit(x[order[held:]], y[order[held:]], batch_size=32, epochs=100_000, verbose=0,
              validation_data=(x[order[:held]], y[order[:held]]), callbacks=[best.callback(keras)])  # fmt: skip
    model.set_weights(best.weights)
    assert images.test is not None
    test = images.test.open().at(height, width)
    answers = model.predict(_channels(np.asarray(test.pixels), channels) / np.float32(255), verbose=0).argmax(1)
    total = analyse(net).total
    return {"accuracy": float((answers == test.labels).mean()), "n": len(test), "params": total.params,
            "macs": total.macs, "activation_bytes": total.activation_bytes, "epochs": best.epochs,
            "wall_seconds": time.monotonic() - STARTED, "input_shape": net.input_shape}  # fmt: skip


def _keras_model(net: Any) -> Any:
    from convwise.formats import keras as keras_format
    from convwise.formats import torch as torch_format

    model = keras_format.build(net, torch_format.weights(torch_format.build(net), net))
    import keras

    return keras.models.clone_model(model)  # Keras's own initial weights


def _channels(pixels: Any, channels: int) -> Any:
    import numpy as np

    if pixels.shape[-1] == channels:
        return pixels.astype(np.float32)
    if channels == 1:  # ITU-R 601 luma, as Pillow's convert('L')
        return (pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    return np.repeat(pixels, channels, -1).astype(np.float32)


class _Best:
    """Stops at the time limit, and keeps the weights of the best validation accuracy."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.best, self.weights, self.epochs = seconds, -1.0, [], 0

    def callback(self, keras: Any) -> Any:
        outer = self

        class Stop(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                if time.monotonic() - STARTED > outer.seconds:
                    self.model.stop_training = True

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                outer.epochs = epoch + 1
                if logs["val_accuracy"] > outer.best:
                    outer.best, outer.weights = logs["val_accuracy"], self.model.get_weights()

        return Stop()


def _record(arguments: argparse.Namespace, row: dict[str, Any]) -> None:
    from convwise import machine

    full = {"set": arguments.set, "method": arguments.method, "seed": arguments.seed, "budget": arguments.budget, **row,
            "load_1m": os.getloadavg()[0], "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine.describe(), "note": arguments.note}  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(full) + "\n")
    print({k: full[k] for k in ("set", "method", "accuracy", "params", "macs", "wall_seconds")})


if __name__ == "__main__":
    main()
