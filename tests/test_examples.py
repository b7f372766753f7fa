"""The textbook nets: their published counts, trained on real images of their shape, exported."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_images

from convwise import formats
from convwise.core.calculus import analyse
from convwise.core.records import Engine, Recipe, Trial
from convwise.images.loading import resize
from convwise.training import batches, train

sys.path.insert(0, str(Path(__file__).parents[1]))
from examples.textbook import TEXTBOOK  # noqa: E402

# Counted by hand from the layers: kernel rows x columns x inputs x outputs + outputs, summed.
PARAMS = {
    "one_convolution": 3 * 3 * 1 * 32 + 32 + 14 * 14 * 32 * 10 + 10,
    "three_convolutions": (25 * 3 * 64 + 64) + (9 * 64 * 128 + 128) + (9 * 128 * 256 + 256)
    + (16 * 16 * 256 * 1024 + 1024) + (1024 * 10 + 10),
    "mixed_activations": (9 * 3 * 32 + 32) + (9 * 32 * 64 + 64) + 4 * 64 + (9 * 64 * 128 + 128)
    + (32 * 32 * 128 * 512 + 512) + (512 * 10 + 10),
}  # fmt: skip


def digits(count: int) -> SimpleNamespace:
    """Handwritten digits, 28x28x1."""
    found = load_digits()
    small = (found.images[:count] * 255 / 16).astype(np.uint8)[..., None]
    return SimpleNamespace(
        pixels=np.stack([resize(image, 28, 28) for image in small]), labels=found.target[:count]
    )


def photographs(count: int, size: int) -> SimpleNamespace:
    """Crops of the two photographs that scikit-learn ships; the label is the photograph."""
    rng, photos = np.random.default_rng(0), load_sample_images().images
    labels = np.arange(count) % 2
    corners = [
        (rng.integers(photos[k].shape[0] - size), rng.integers(photos[k].shape[1] - size))
        for k in labels
    ]
    crops = [
        photos[k][y : y + size, x : x + size] for k, (y, x) in zip(labels, corners, strict=True)
    ]
    return SimpleNamespace(pixels=np.stack(crops), labels=labels)


def real_images(shape: tuple[int, int, int], count: int) -> SimpleNamespace:
    return digits(count) if shape[2] == 1 else photographs(count, shape[0])


def test_the_first_has_its_published_count():
    assert analyse(TEXTBOOK["one_convolution"]).total.params == PARAMS["one_convolution"] == 63_050


@pytest.mark.parametrize(
    "name",
    [
        "one_convolution",
        *(pytest.param(n, marks=pytest.mark.slow) for n in TEXTBOOK if n != "one_convolution"),
    ],
)
def test_textbook_nets_learn_and_are_exported(name, tmp_path):
    net = TEXTBOOK[name]
    assert analyse(net).total.params == PARAMS[name]
    part = real_images(net.input_shape, 600 if net.input_shape[2] == 1 else 48)
    size = f"{net.input_shape[0]}x{net.input_shape[1]}"
    for side in ("train", "valid"):
        batches.store(tmp_path, size, side, part)
    # Raw pixels go in as people feed them to these nets without preprocessing: a small learning
    # rate.
    recipe = Recipe(batch_size=16, learning_rate=1e-4, shift_px=1, label_smoothing=0.0)
    result, weights = train.train(Trial("t", "t", {}, net, recipe, epochs=6), tmp_path, Engine())
    assert result.score > (0.8 if net.input_shape[2] == 1 else 0.7)
    differences = formats.write(
        tmp_path / "out", net, weights, [str(k) for k in range(10)], part.pixels[:4]
    )
    assert max(differences.values()) < 1e-3
    for file in (
        "model.keras",
        "model.onnx",
        "model.safetensors",
        "model_keras.py",
        "model_torch.py",
    ):
        assert (tmp_path / "out" / file).stat().st_size > 0
