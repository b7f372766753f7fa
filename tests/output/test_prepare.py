"""The one preparation step: training, predict and the written sources make the same input of a
picture.
"""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convwise import formats
from convwise.core import layers as L
from convwise.core.net import Net
from convwise.formats.written import Beside, preparation
from convwise.images.loading import ValueRange, load_image, resize
from nets import random_weights

CLASSES = ("cat", "dog", "hare")
RNG = np.random.default_rng(4)
GRAY, COLOUR = RNG.integers(0, 256, (37, 53), np.uint8), RNG.integers(0, 256, (37, 53, 4), np.uint8)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# name -> (picture, how it is saved)
PICTURES = {
    "gray.png": (Image.fromarray(GRAY), {}),
    "colour.png": (Image.fromarray(COLOUR[..., :3]), {}),
    "photo.jpg": (Image.fromarray(COLOUR[..., :3]), {"exif": turned(6)}),
    "mirrored.jpg": (Image.fromarray(COLOUR[..., :3]), {"exif": turned(5)}),
    "turned.tif": (Image.fromarray(COLOUR[..., :3]), {"tiffinfo": {0x0112: 8}}),
    "transparent.png": (Image.fromarray(COLOUR), {}),
    "gray-transparent.png": (Image.fromarray(COLOUR).convert("LA"), {}),
    "palette.png": (Image.fromarray(COLOUR[..., :3]).quantize(17), {"transparency": 3}),
    "two.png": (Image.fromarray(GRAY).convert("1"), {}),
    "deep.png": (Image.fromarray(GRAY.astype(np.uint16) * 200), {}),
    "floats.tif": (Image.fromarray((GRAY / 255).astype(np.float32)), {}),
    "print.jpg": (Image.fromarray(COLOUR).convert("CMYK"), {}),
    "moving.gif": (
        Image.fromarray(GRAY),
        {"save_all": True, "append_images": [Image.fromarray(GRAY.T)]},
    ),
}


def net_for(channels: int) -> Net:
    layers = (
        L.Rescaling(1 / 255),
        L.Conv2D(4, 3),
        L.GlobalAveragePooling2D(),
        L.Dense(3, activation="softmax"),
    )
    return Net((16, 12, channels), layers)


@pytest.fixture(scope="module", params=[1, 3])
def written(request, tmp_path_factory) -> tuple[Path, Net]:
    folder, net = tmp_path_factory.mktemp("choice"), net_for(request.param)
    pixels = RNG.integers(0, 256, (4, *net.input_shape), np.uint8)
    formats.write(folder, net, random_weights(net, 1), CLASSES, pixels, ("keras", "torch"), 
                  Beside(("kernel_size = 3: enough",)))  # fmt: skip
    return folder, net


def space_of(folder: Path, kind: str) -> dict:
    space: dict = {"__name__": "model", "__file__": str(folder / f"model_{kind}.py")}
    exec(
        compile((folder / f"model_{kind}.py").read_text("utf-8"), f"model_{kind}.py", "exec"), space
    )
    return space


@pytest.mark.parametrize("name", PICTURES)
def test_the_sources_prepare_as_training_does(name, written, tmp_path):
    folder, net = written
    picture, how = PICTURES[name]
    picture.save(tmp_path / name, **how)
    height, width, channels = net.input_shape
    expected = resize(load_image(tmp_path / name, channels), height, width)
    keras_input = space_of(folder, "keras")["prepare"](tmp_path / name)
    torch_input = space_of(folder, "torch")["prepare"](str(tmp_path / name))
    assert keras_input.dtype == np.float32
    np.testing.assert_array_equal(keras_input, expected[None])
    np.testing.assert_array_equal(torch_input.numpy(), expected.transpose(2, 0, 1)[None])
    with Image.open(tmp_path / name) as opened:
        np.testing.assert_array_equal(space_of(folder, "keras")["prepare"](opened), expected[None])


@pytest.mark.parametrize(("offset", "factor"), [(0.0, 255 / 4095), (-100.0, 0.5)])
def test_the_sources_know_the_scale_of_a_set_of_more_than_8_bits(offset, factor, tmp_path):
    """12 bits in a file of 16, and any other range: as training took them."""
    net, values = net_for(1), RNG.integers(0, 4096, (16, 12)).astype(np.uint16)
    formats.write(tmp_path, net, random_weights(net, 1), CLASSES, np.zeros((1, *net.input_shape),
                  np.uint8), ("torch",), Beside(wide=(offset, factor)))  # fmt: skip
    Image.fromarray(values).save(tmp_path / "deep.png")
    expected = load_image(tmp_path / "deep.png", 1, ValueRange(offset, factor))
    given = space_of(tmp_path, "torch")["prepare"](tmp_path / "deep.png")
    np.testing.assert_array_equal(given.numpy()[0, 0], expected[..., 0])
    formats.export(tmp_path, "keras")
    again = space_of(tmp_path, "keras")["prepare"](tmp_path / "deep.png")
    np.testing.assert_array_equal(again[0], expected)


def test_logits_and_probabilities_are_both_there(written):
    import keras
    import torch

    folder, net = written
    pixels = RNG.integers(0, 256, (2, *net.input_shape)).astype(np.float32)
    with_torch, with_keras = space_of(folder, "torch"), space_of(folder, "keras")
    given = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    with torch.no_grad():
        probabilities, logits = (with_torch[load]()(given) for load in ("load", "load_logits"))
    np.testing.assert_allclose(torch.softmax(logits, 1), probabilities, atol=1e-6)
    assert float(logits.sum(1).sub(1).abs().min()) > 1e-3
    for load, expected in (("load", probabilities), ("load_logits", logits)):
        answer = keras.ops.convert_to_numpy(with_keras[load]()(pixels, training=False))
        np.testing.assert_allclose(answer, expected.numpy(), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", "keras"])
def test_a_source_labels_a_picture_from_anywhere(kind, written, tmp_path, monkeypatch):
    """`python model_torch.py cat.jpg` prints 'cat 0.93', in a folder that holds neither weights nor
    convwise.
    """
    folder, _ = written
    Image.fromarray(COLOUR[..., :3]).save(tmp_path / "cat.jpg")
    file = str(folder / f"model_{kind}.py")
    done = subprocess.run(
        [sys.executable, file, "cat.jpg", "cat.jpg"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    answer = np.asarray(space_of(folder, kind)["predict"](tmp_path / "cat.jpg"))
    assert done.stdout == f"{CLASSES[int(answer.argmax())]} {answer.max():.2f}\n" * 2
    monkeypatch.setattr(sys, "argv", [file])
    # Which Python prints, with exit code 1
    with pytest.raises(SystemExit, match=rf"python model_{kind}\.py cat\.jpg"):
        runpy.run_path(file, run_name="__main__")


def test_reasons_ride_as_comments(written):
    for kind in ("keras", "torch"):
        assert (
            "def build_model():\n    # kernel_size = 3: enough\n"
            in (written[0] / f"model_{kind}.py").read_text()
        )


def test_a_source_without_weights_promises_none():
    for kind in ("keras", "torch"):
        source = formats.format_module(kind).render(net_for(3))
        assert all(word not in source for word in ("def load", "def predict", "Path", "cat.jpg")), (
            source
        )


def test_other_channels_are_not_made_of_a_picture():
    for kind in ("keras", "torch"):
        source = formats.format_module(kind).render(net_for(5), CLASSES, trained=True)
        assert "def load(" in source
        assert "def prepare" not in source
    assert "5 channels" in preparation(net_for(5))
