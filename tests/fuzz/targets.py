"""What is fuzzed: a row for each reader, with seeds, and what makes a file of bytes that a fuzzer
has changed.

Archives are made anew around what is fuzzed: else nearly every change ends at a checksum.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from imagesets import striped

X, Y = striped(2, 4, size=6)
MODES = {
    "png": "RGBA",
    "jpeg": "RGB",
    "gif": "P",
    "bmp": "RGB",
    "tiff": "I;16",
    "webp": "RGB",
    "ppm": "RGB",
}


@dataclass(frozen=True)
class Target:
    """seeds: whole inputs to begin with; put: writes an input into an empty folder, and says what
    is read of it; read: the reader, which may refuse it with a ConvwiseError; is_json: changes keep
    it JSON, mostly.
    """

    seeds: Callable[[], list[bytes]]
    put: Callable[[bytes, Path], Path]
    read: Callable[[Path], object]
    is_json: bool = False


# --- images ---------------------------------------------------------------------------------------


def picture(kind: str) -> bytes:
    stream = io.BytesIO()
    pixels = Image.fromarray(np.repeat(X[0], 3, axis=2))
    mode = MODES[kind]
    (pixels.convert("L").convert("I;16") if mode == "I;16" else pixels.convert(mode)).save(
        stream, kind
    )
    return stream.getvalue()


def put(name: str) -> Callable[[bytes, Path], Path]:
    def write(data: bytes, folder: Path) -> Path:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        return folder / name

    return write


def images(source: Path) -> object:
    from convwise.images.loading import read

    return read(source)


def one_image(path: Path) -> object:
    from convwise.images.decode import load_image

    return load_image(path, 3)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def put_npz(data: bytes, folder: Path) -> Path:
    """The images are fuzzed, or, behind an l, the labels."""
    members = {"x": npy(X), "y": data[1:]} if data[:1] == b"l" else {"x": data[1:], "y": npy(Y)}
    with zipfile.ZipFile(folder / "set.npz", "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return folder / "set.npz"


def npz_seeds() -> list[bytes]:
    labels = (Y, Y.astype(float), np.array(["a", "b"])[Y], np.array([b"a", b"b"])[Y])
    return [b"x" + npy(X), b"x" + npy(X / 255), *(b"l" + npy(y) for y in labels)]


def named() -> dict[str, bytes]:
    return {f"{'ab'[y]}/{i}.png": _png(x) for i, (x, y) in enumerate(zip(X, Y, strict=True))}


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(stream, "png")
    return stream.getvalue()


def zipped() -> list[bytes]:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in named().items():
            archive.writestr(name, content)
    return [stream.getvalue()]


def tarred() -> list[bytes]:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in named().items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return [stream.getvalue()]


def put_packed_tar(data: bytes, folder: Path) -> Path:
    (folder / "set.tar.gz").write_bytes(gzip.compress(data, 1))
    return folder / "set.tar.gz"


def put_idx(data: bytes, folder: Path) -> Path:
    """The labels are fuzzed where they could be them, else the images."""
    images = bytes([0, 0, 8, 3]) + struct.pack(">3I", *X.shape[:3]) + X.tobytes()
    labels = bytes([0, 0, 8, 1]) + struct.pack(">I", len(Y)) + Y.astype(np.uint8).tobytes()
    of_labels = data[3:4] == b"\1"
    (folder / "train-images-idx3-ubyte").write_bytes(images if of_labels else data)
    (folder / "train-labels-idx1-ubyte").write_bytes(data if of_labels else labels)
    return folder


def idx_seeds() -> list[bytes]:
    images = bytes([0, 0, 8, 3]) + struct.pack(">3I", *X.shape[:3]) + X.tobytes()
    return [images, bytes([0, 0, 8, 1]) + struct.pack(">I", len(Y)) + Y.astype(np.uint8).tobytes()]


def put_table(data: bytes, folder: Path) -> Path:
    for i, pixels in enumerate(X):
        (folder / f"{i}.png").write_bytes(_png(pixels))
    (folder / "set.csv").write_bytes(data)
    return folder / "set.csv"


def table_seeds() -> list[bytes]:
    rows = [f"{i}.png,{'ab'[y]}" for i, y in enumerate(Y)]
    return [
        "\n".join(["file,label", *rows]).encode(),
        "\r\n".join(["path;class", *rows]).replace(",", ";").encode("utf-16"),
    ]


# --- networks and choices -------------------------------------------------------------------------


@cache
def net() -> Any:
    from convwise.core.layers import (
        Activation,
        Add,
        BatchNormalization,
        Conv2D,
        Dense,
        GlobalAveragePooling2D,
    )
    from convwise.core.net import Net

    layers = (Conv2D(4, 3, padding="same", name="one"), BatchNormalization(), Activation("relu",
              name="two"), Conv2D(4, 3, padding="same", name="three"), Add(inputs=("two", "three")),
              GlobalAveragePooling2D(), Dense(2, activation="softmax"))  # fmt: skip
    return Net((6, 6, 1), layers)


@cache
def written() -> dict[str, bytes]:
    """Name -> content of a folder that holds the net in every format."""
    import tempfile

    from convwise import formats
    from convwise.formats.weights import layout

    rng = np.random.default_rng(0)
    weights = {key: rng.random(shape).astype(np.float32) for key, shape in layout(net()).items()}
    with tempfile.TemporaryDirectory() as folder:
        formats.write(folder, net(), weights, ("a", "b"), X[:2])
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@cache
def choice() -> dict[str, Any]:
    """A choice.json, as short as one can be that everything reads."""
    values = {"input.size": "6x6", "stem.filters": 4, "stem.kernel_size": 3, "stage.filters": 4,
              "stage.count": 1,
              "stage.convs": 1, "stage.kernel_size": 3, "block": "plain", "activation": "relu",
              "stem.strides": 1, "head": "GlobalAveragePooling2D"}  # fmt: skip
    effect = {"parameter": "stage.kernel_size", "from": 3, "to": 5, "accuracy_change": 0.01,
              "low": -0.01, "high": 0.03,
              "time_ratio": 1.2, "verdict": "not resolved", "runs": 3}  # fmt: skip
    test = {"kind": "test", "accuracy": 0.9, "low": 0.8, "high": 1.0, "n": 10, "baseline": 0.5}
    reason = {
        "parameter": "stage.kernel_size",
        "value": 3,
        "because": "it is so",
        "source": "a paper",
    }
    data = {
        "source": "x",
        "classes": ["a", "b"],
        "base_shape": [6, 6, 1],
        "preparation": {},
        "facts": {"scale": [0, 1]},
    }
    return {
        "net": net().to_json(), "configuration": values, "test": test, "effects": [effect],
        "data": data, "notes": [],
        "goal": {"text": "accuracy", "kept": True}, "reasons": {"verdict": [], "choices": [reason],
        "layers": {}},
        "cost": {"params": 100, "macs": 1000, "activation_bytes": 10, "latency_ms": 0.1},
        "check": [],
        "provenance": {"interrupted": False, "budget_seconds": 20, "wall_seconds": 19.0},
    }  # fmt: skip


def put_choice(data: bytes, folder: Path) -> Path:
    for name, content in written().items():
        (folder / name).write_bytes(content)
    (folder / "choice.json").write_bytes(data)
    (folder / "0.png").write_bytes(_png(X[0]))
    return folder


def everything_of_a_choice(folder: Path) -> None:
    """What `report`, `check` and `predict` do with it, one after the other."""
    from convwise.core.problems import ConvwiseError
    from convwise.examining import check
    from convwise.output import choice, deliver, predicting

    for act in (
        lambda: choice.summary(choice.load(folder).record, folder),
        lambda: choice.load(folder).screen(),
        lambda: predicting.predict(folder, folder / "0.png", 1),
        lambda: check(folder),
        lambda: deliver.is_finished(folder),
    ):
        try:
            act()
        except ConvwiseError:
            continue


def network(path: Path) -> object:
    from convwise.examining import check

    return str(check(path))


def inside(name: str, member: str) -> Callable[[bytes, Path], Path]:
    """An archive like `written()[name]`, one member of which is what is fuzzed."""

    def write(data: bytes, folder: Path) -> Path:
        source = zipfile.ZipFile(io.BytesIO(archive_of(name)))
        with zipfile.ZipFile(folder / name, "w") as archive:
            for each in source.namelist():
                archive.writestr(each, data if each.endswith(member) else source.read(each))
        return folder / name

    return write


def members(name: str, member: str) -> list[bytes]:
    archive = zipfile.ZipFile(io.BytesIO(archive_of(name)))
    return [archive.read(each) for each in archive.namelist() if each.endswith(member)]


@cache
def archive_of(name: str) -> bytes:
    if name != "model.pt2":
        return written()[name]
    import torch

    from convwise.formats.torch import build

    stream = io.BytesIO()
    torch.export.save(torch.export.export(build(net()).eval(), (torch.zeros(1, 1, 6, 6),)), stream)
    return stream.getvalue()


def put_safetensors(data: bytes, folder: Path) -> Path:
    """The header is fuzzed; the weights stay."""
    whole = written()["model.safetensors"]
    start = 8 + int.from_bytes(whole[:8], "little")
    return put("model.safetensors")(len(data).to_bytes(8, "little") + data + whole[start:], folder)


def header() -> list[bytes]:
    whole = written()["model.safetensors"]
    return [whole[8 : 8 + int.from_bytes(whole[:8], "little")]]


def as_json(value: Callable[[], Any]) -> Callable[[], list[bytes]]:
    return lambda: [json.dumps(value()).encode()]


TARGETS = {
    "image": Target(lambda: [picture(kind) for kind in MODES], put("picture"), one_image),
    "npz": Target(npz_seeds, put_npz, images),
    "zip": Target(zipped, put("set.zip"), images),
    "tar": Target(tarred, put("set.tar"), images),
    "tar.gz": Target(tarred, put_packed_tar, images),
    "idx": Target(idx_seeds, put_idx, images),
    "table": Target(table_seeds, put_table, images),
    "net": Target(as_json(lambda: net().to_json()), put("net.json"), network, is_json=True),
    "choice": Target(as_json(choice), put_choice, everything_of_a_choice, is_json=True),
    "keras": Target(lambda: members("model.keras", "config.json"), inside("model.keras",
    "config.json"), network, True),
    "keras weights": Target(lambda: members("model.keras", ".h5"), inside("model.keras", ".h5"),
    network),
    "onnx": Target(lambda: [written()["model.onnx"]], put("model.onnx"), network),
    "pt2": Target(lambda: members("model.pt2", "models/model.json"), inside("model.pt2",
    "models/model.json"), network,
                  is_json=True),
    "safetensors": Target(header, put_safetensors, network, is_json=True),
}  # fmt: skip


def tried(target: Target, data: bytes, folder: Path) -> str:
    """What becomes of one input, in an empty folder: 'read', or what is said where it is
    refused.
    """
    from convwise.core.problems import ConvwiseError

    try:
        target.read(target.put(data, folder))
    except ConvwiseError as error:
        return str(error)
    return "read"
