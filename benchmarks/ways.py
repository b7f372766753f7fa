"""How often a network answers the same where other programs read and resize the pictures.

    python benchmarks/ways.py sign-digits clothing-10 --budget 300  # rows in results/ways.jsonl
    python benchmarks/ways.py clothing-10 --choice FOLDER           # what choose wrote before
    python benchmarks/ways.py clothing-10 --shares 0 0.25 --epochs 25    # prints only

Each way takes the test images from file to input as a user of that library would. Agreement is with
the answers to the same files prepared by convwise: the share of images that get the same class.
With --budget, `choose` trains and `predict` prepares; model.onnx answers. With --shares, the
advised network is trained for counted epochs on train and valid, one thread, bf16, once for each
share of the images that training shows without antialiasing (training/batches.py, ROUGH). Needs
opencv-python-headless and TensorFlow beside convwise.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Before anything imports Keras: its load_img is what is wanted
os.environ.setdefault("KERAS_BACKEND", "torch")
import cv2
import keras
import numpy as np
import tensorflow as tf
from PIL import Image

import convwise
import matrix
import sets

RESULTS = Path(__file__).parent / "results" / "ways.jsonl"
FILTERS = ("BILINEAR", "NEAREST", "BOX", "BICUBIC", "LANCZOS")  # Pillow's
Shape = tuple[int, int, int]  # height, width, channels 1 or 3
# float32 pixels (n, height, width, channels), 0 to 255 -> classes (n,)
Answer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Trained:
    """A network: its input, what answers pixels, and its answers to `files` prepared by convwise;
    classes by index.
    """

    shape: Shape
    answer: Answer
    ours: np.ndarray
    classes: Sequence[str]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--data", type=Path, default=sets.DATA)
    parser.add_argument("--budget", type=float, default=300, help="seconds that choose has")
    parser.add_argument(
        "--choice", type=Path, help="of the set: a folder that choose wrote, instead of training"
    )
    parser.add_argument(
        "--shares",
        type=float,
        nargs="+",
        default=[],
        help="train without choose, with these shares",
    )
    parser.add_argument("--epochs", type=float, default=25, help="of each training, with --shares")
    given = parser.parse_args()
    for name in given.sets:
        with tempfile.TemporaryDirectory(prefix="ways-") as passing:
            root = unpacked(name, given.data, Path(passing))
            for share in given.shares:
                print(f"{name}, {given.epochs:g} epochs, {share:g} without antialiasing:")
                list(map(tell, compared(advised(root, share, given.epochs), pictures(root))))
            if not given.shares:
                folder = given.choice or Path(passing) / "out"
                if not given.choice:
                    convwise.choose(root, budget=given.budget, out=folder)
                for row in compared(chosen(folder, root), pictures(root)):
                    tell(row)
                    matrix.append(RESULTS, {"set": name, **row, **conditions(folder)})


def conditions(folder: Path) -> dict[str, Any]:
    """How the network in a choice folder came about, and what it was asked with."""
    held = convwise.load(folder).record["provenance"]
    about = {"budget": held["budget_seconds"], "seed": held["seed"], "trained_on": held["machine"]}
    versions = {**matrix.versions(), "tensorflow": tf.__version__, "cv2": cv2.__version__}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {**about, "date": now, "revision": matrix.revision(), "versions": versions}


def tell(row: dict[str, Any]) -> None:
    print(
        f"  {row['way']:28} agrees {100 * row['agrees']:5.1f} %, right {100 * row['right']:5.1f} %,"
        f" n = {row['n']}"
    )


def unpacked(name: str, data: Path, folder: Path) -> Path:
    """The images of a set as files, in `folder`: train/CLASS/ and test/CLASS/."""
    with zipfile.ZipFile(sets.source(name, data)) as packed:
        packed.extractall(folder / "images")
    return folder / "images"


def pictures(root: Path) -> list[Path]:
    """The test images, sorted as `predict` sorts them."""
    return sorted(path for path in (root / "test").rglob("*") if path.is_file())


def compared(trained: Trained, files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """For each way, how many of `files` get the class that they get where convwise prepares
    them.
    """
    labels = np.array([trained.classes.index(path.parent.name) for path in files])
    for way, load in ways(trained.shape).items():
        told = trained.answer(np.stack([load(path) for path in files]).astype(np.float32))
        agrees, right = (float((told == other).mean()) for other in (trained.ours, labels))
        yield {"way": way, "agrees": agrees, "right": right, "n": len(files)}


def chosen(out: Path, root: Path) -> Trained:
    """What `choose` handed over in `out`, asked by `predict` and by ONNX Runtime."""
    import onnxruntime

    choice = convwise.load(out)
    session, files = onnxruntime.InferenceSession(out / "model.onnx"), pictures(root)

    def answer(pixels: np.ndarray) -> np.ndarray:
        parts = np.array_split(pixels.transpose(0, 3, 1, 2), -(-len(pixels) // 64))
        return np.concatenate([session.run(None, {"image": part})[0].argmax(1) for part in parts])

    labels = {Path(row["path"]).name: row["label"] for row in convwise.predict(out, root / "test")}
    assert len(labels) == len(files), "file names repeat, or files are missing"
    ours = np.array([choice.classes.index(labels[path.name]) for path in files])
    return Trained(choice.net.input_shape, answer, ours, choice.classes)


def advised(root: Path, share: float, epochs: float) -> Trained:
    """The advised network after counted epochs with `share` of the images shown without
    antialiasing.
    """
    from convwise.advice.advising import advise
    from convwise.advice.fingerprint import look
    from convwise.core.goal import Goal
    from convwise.core.records import Engine, Trial
    from convwise.images.loading import load_image, read, resize
    from convwise.training import batches, machine, train

    batches.ROUGH = share
    images, engine = read(root, seed=0), Engine("cpu", "bfloat16")
    advice = advise(
        look(images.train, images.classes), Goal(), machine.ThisMachine().pace, 240.0, 2
    )
    height, width, channels = advice.net.input_shape
    with tempfile.TemporaryDirectory(prefix="convwise-") as passing:
        folder = Path(passing)
        batches.Prepared(folder, images).ensure(advice.net)
        trial = Trial(
            "ways",
            "final",
            dict(advice.configuration),
            advice.net,
            advice.recipe,
            epochs=epochs,
            part="all",
        )
        _, weights = train.train(trial, folder, engine)

    def answer(pixels: np.ndarray) -> np.ndarray:
        return train.answers(
            advice.net, weights, np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        ).argmax(1)

    prepared = np.stack(
        [resize(load_image(path, channels), height, width) for path in pictures(root)]
    )
    return Trained(advice.net.input_shape, answer, answer(prepared), images.classes)


def ways(shape: Shape) -> dict[str, Callable[[Path], np.ndarray]]:
    """What programs do: its name, and file -> pixels (height, width, channels) from 0 to 255."""
    height, width, channels = shape
    gray = channels == 1

    def pillow(path: Path, way: Image.Resampling) -> np.ndarray:
        with Image.open(path) as picture:
            return np.asarray(
                picture.convert("L" if gray else "RGB").resize((width, height), way)
            ).reshape(shape)

    def tensorflow(path: Path, **how: Any) -> np.ndarray:
        whole = tf.io.decode_image(
            tf.io.read_file(str(path)), channels=channels, expand_animations=False
        )
        return np.clip(tf.image.resize(whole, (height, width), **how).numpy(), 0, 255)

    def load_img(path: Path, **how: Any) -> np.ndarray:
        mode = "grayscale" if gray else "rgb"
        return np.asarray(keras.utils.img_to_array( keras.utils.load_img(path, color_mode=mode,
            target_size=(height, width), **how)))  # fmt: skip

    def opencv(path: Path, way: int) -> np.ndarray:
        whole = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR_RGB)
        return cv2.resize(whole, (width, height), interpolation=way).reshape(shape)

    return {
        **{
            f"Pillow {name}": lambda path, way=Image.Resampling[name]: pillow(path, way)
            for name in FILTERS
        },
        "tf.image.resize, antialias": lambda path: tensorflow(path, antialias=True),
        "tf.image.resize": tensorflow,
        "tf.image.resize, area": lambda path: tensorflow(path, method="area"),
        "Keras load_img": load_img,
        "Keras load_img, bilinear": lambda path: load_img(path, interpolation="bilinear"),
        "cv2.INTER_AREA": lambda path: opencv(path, cv2.INTER_AREA),
        "cv2.INTER_LINEAR": lambda path: opencv(path, cv2.INTER_LINEAR),
    }


if __name__ == "__main__":
    main()
