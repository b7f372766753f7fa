"""The preparation is the same everywhere: other libraries' ways to an input get the answers that
`predict` gives.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import convwise
from convwise.images.loading import load_image, resize

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))
import sets  # noqa: E402

SETS = ("sign-digits", "clothing-10")
# load_img: its default
USUAL = ("Pillow BILINEAR", "tf.image.resize, antialias", "Keras load_img", "cv2.INTER_AREA")
SAME = 0.97  # share of the images that get the same class


def rows() -> list[dict]:
    """What was measured; `python benchmarks/ways.py sign-digits clothing-10` adds to it."""
    return [
        json.loads(line)
        for line in (BENCHMARKS / "results" / "ways.jsonl").read_text().splitlines()
    ]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("way", USUAL)
def test_the_usual_ways_were_measured_to_agree_with_predict(name, way):
    # Older rows are of networks that are no longer handed over so
    newest = {row.get("seed"): row for row in rows() if (row["set"], row["way"]) == (name, way)}
    found = newest.values()
    assert found
    assert min(row["agrees"] for row in found) >= SAME
    # The whole test part
    assert {row["n"] for row in found} == {{"sign-digits": 411, "clothing-10": 372}[name]}
    # One that always says the same would agree, too
    assert min(row["right"] for row in found) > 0.8


@pytest.mark.parametrize("channels", [1, 3])
def test_each_way_is_what_its_library_does(tmp_path, channels):
    """Oracles: our own preparation; every second pixel; means of 2x2 px. A picture of 24x32 px to
    12x16.
    """
    from ways import ways

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 32, channels), np.uint8)
    file = tmp_path / "a.png"
    Image.fromarray(pixels.squeeze()).save(file)
    found = {name: load(file) for name, load in ways((12, 16, channels)).items()}
    assert {pixels.shape for pixels in found.values()} == {(12, 16, channels)}
    ours = resize(load_image(file, channels), 12, 16)
    assert np.array_equal(found["Pillow BILINEAR"], ours)
    assert np.abs(found["tf.image.resize, antialias"] - ours).max() <= 1
    assert np.array_equal(found["Keras load_img"], pixels[1::2, 1::2])
    means = pixels.astype(float).reshape(12, 2, 16, 2, channels).mean(axis=(1, 3))
    assert np.abs(found["cv2.INTER_AREA"] - means).max() <= 0.5


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(
    not (sets.DATA / "sign-digits").is_dir(), reason="the shared data sets are not here"
)
def test_a_network_of_a_minute_answers_alike_in_the_usual_ways(tmp_path):
    """What `choose` hands over, asked by ONNX Runtime; the files as each library reads and resizes
    them.
    """
    import ways

    root = ways.unpacked("sign-digits", sets.DATA, tmp_path)
    convwise.choose(root, budget=50, out=tmp_path / "out")
    found = {
        row["way"]: row
        for row in ways.compared(ways.chosen(tmp_path / "out", root), ways.pictures(root))
    }
    assert {way: found[way]["agrees"] for way in USUAL if found[way]["agrees"] < SAME} == {}
    assert all(found[way]["n"] == 411 for way in USUAL)
    # A network that always says the same would agree, too
    assert min(found[way]["right"] for way in USUAL) > 0.8
