"""Several numbers from an image, from end to end: where a blob is, chosen, written, predicted, and
told.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from sklearn.metrics import mean_absolute_error, r2_score
from typer.testing import CliRunner

import convwise
from convwise import formats
from convwise.cli.app import app
from convwise.core.layers import Conv2D, Dense, GlobalAveragePooling2D, Rescaling
from convwise.core.net import Net
from convwise.core.problems import UnusableInput
from convwise.core.records import Effect
from convwise.core.score import Score, Target, numbers_of, resolution, score_of
from convwise.evidence.fitting import fitted
from convwise.measuring import own_images
from convwise.output import deliver, predicting, tables, words
from convwise.output.answered import regress
from convwise.output.answered.scored import Scored
from studies import TARGET

NAMES = ("across", "down")
BOTH = Target((replace(TARGET.columns[0], name="across"),
               replace(TARGET.columns[0], name="down", mean=0.5, deviation=0.2)))  # fmt: skip
TWO = Net((12, 12, 1), (Rescaling(1 / 255), Conv2D(4, 3), GlobalAveragePooling2D(), Dense(2),
                        Rescaling(BOTH.deviations, BOTH.means)))  # fmt: skip


def blobs(folder: Path, count: int, seed: int) -> np.ndarray:
    """Pictures of a round blob in `folder`, with a table of where it is, µm across and mm down;
    returns both (n, 2).
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:12, :12]
    across, down = rng.uniform(3, 9, (2, count))
    far = np.hypot(rows - down[:, None, None], columns - across[:, None, None])
    pixels = np.clip(60 + 130 * (far < 2.2) + rng.normal(0, 8, (count, 12, 12)), 0, 255).astype(
        np.uint8
    )
    places = np.stack([100 * across, down / 10], axis=1)
    folder.mkdir()
    with (folder / "places.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "across", "down"])
        for i, (image, place) in enumerate(zip(pixels, places.tolist(), strict=True)):
            Image.fromarray(image).save(folder / f"{i:03}.png")
            writer.writerow([f"{i:03}.png", *place])
    return places


@pytest.fixture(scope="module")
def choice(tmp_path_factory) -> convwise.Choice:
    root = tmp_path_factory.mktemp("several")
    blobs(root / "blobs", 400, 0)
    return convwise.choose(root / "blobs" / "places.csv", task="regress",
                           classes_from="csv::across,down", goal="error where macs<400k",
                           out=root / "x", trials=3, workers=1)  # fmt: skip


@pytest.fixture(scope="module")
def unseen(tmp_path_factory) -> tuple[Path, np.ndarray]:
    folder = tmp_path_factory.mktemp("unseen") / "blobs"
    return folder, blobs(folder, 60, 1)


@pytest.mark.slow
def test_the_score_is_the_mean_error_in_deviations_and_each_number_has_its_own(choice):
    test, data = choice.record["test"], choice.record["data"]
    assert (data["numbers"], data["classes"]) == (list(NAMES), [])
    assert "number" not in data
    assert choice.numbers == NAMES
    assert choice.is_chosen
    each, deviations = test["numbers"], numbers_of(choice.net).scale
    assert list(each) == list(NAMES)
    assert test["error"] == pytest.approx(
        sum(each[n]["error"] / d for n, d in zip(NAMES, deviations, strict=True)) / 2
    )
    assert test["r2"] == pytest.approx(sum(row["r2"] for row in each.values()) / 2)
    assert test["low"] < test["error"] < test["high"] < test["baseline"] < 1
    for row in each.values():
        assert row["low"] < row["error"] < row["high"] < row["baseline"]
    # Each in its own unit
    assert each["across"]["baseline"] > 1000 * each["down"]["baseline"] * 0.5


@pytest.mark.slow
def test_what_it_says_of_new_images(choice, unseen):
    folder, places = unseen
    found = choice.predict(folder)
    assert (found.shape, found.dtype) == ((60, 2), np.float64)
    errors = mean_absolute_error(places, found, multioutput="raw_values")
    for error, row in zip(errors, choice.record["test"]["numbers"].values(), strict=True):
        assert error < 1.7 * row["error"]
    assert choice.score(folder, places) == pytest.approx(r2_score(places, found))
    with pytest.raises(UnusableInput, match=r"one label for each image, \(60, 2\)"):
        choice.score(folder, places[:, 0])
    with pytest.raises(UnusableInput, match="no probabilities"):
        choice.predict_proba(folder)


@pytest.mark.slow
def test_every_framework_answers_in_the_units_of_the_numbers(choice, unseen):
    import torch

    pixels = np.stack(
        [np.asarray(Image.open(path))[..., None] for path in sorted(unseen[0].glob("*.png"))[:8]]
    )
    expected = choice.predict(pixels)
    as_torch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    session = onnxruntime.InferenceSession(
        choice.folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (output,) = session.get_outputs()
    assert output.name == "numbers"
    with torch.no_grad():
        by_torch = choice.torch()(as_torch).numpy()
    by_keras = choice.keras()(pixels.astype("float32")).detach().cpu().numpy()
    (by_onnx,) = session.run(None, {"image": as_torch.numpy()})
    for answers in (by_torch, by_keras, by_onnx):
        assert (np.abs(answers - expected).max(0) <= resolution(choice.net)).all()


@pytest.mark.slow
def test_predict_and_the_written_sources_print_each_number_under_its_name(choice, unseen, tmp_path):
    picture = unseen[0] / "000.png"
    (row,) = convwise.predict(choice, picture)
    assert list(row["numbers"]) == list(NAMES)
    assert list(row["numbers"].values()) == pytest.approx(choice.predict(picture)[0])
    shutil.copy(picture, tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    rows = convwise.predict(choice, tmp_path)
    with (tmp_path / "said.csv").open("w") as file:
        tables.write_csv(rows, predicting.outputs(choice.record), file, "regress")
    head, line, broken = (tmp_path / "said.csv").read_text().splitlines()
    assert head == "path,across,down"
    assert [float(cell) for cell in line.split(",")[1:]] == list(row["numbers"].values())
    assert broken.endswith("broken.png,,")
    assert np.isnan(choice.predict(tmp_path)).tolist() == [[False, False], [True, True]]
    for source in ("model_torch.py", "model_keras.py"):
        run = [sys.executable, choice.folder / source, picture]
        printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
        found = re.fullmatch(r"across (\S+), down (\S+)", printed)
        assert [float(number) for number in found.groups()] == pytest.approx(
            list(row["numbers"].values()), rel=1e-2
        )


@pytest.mark.slow
def test_it_is_told_as_a_whole_and_of_each_number(choice):
    said = " ".join(repr(choice).split())
    assert "Error in standard deviations: " in said
    assert "always the medians: " in said
    for name in NAMES:
        assert re.search(
            rf"{name}: off by \S+ on average \(.*; always the median: \S+; R2 0\.\d", said
        )
    text = choice.report().read_text(encoding="utf-8")
    plain = re.sub(r"<(style|script).*?</\1>|<svg.*?</svg>", "", text, flags=re.DOTALL)
    for said in ("Error in standard deviations, sealed test",
                 "Each of the 2 numbers in its own unit",
                 "each in its own standard deviations", "Predicted against true",
                 "The largest errors"):  # fmt: skip
        assert said in plain
    assert "Error and cost" in plain
    for name, row in choice.record["test"]["numbers"].items():
        assert f'data-of="R²">{row["r2"]:.3f}<' in plain
        assert f"predicted {name}" in text
        assert f'<td class="name">{name}</td>' in plain
    for said in (
        "Accuracy",
        "validation accuracy",
        "most probable class",
        "largest class",
        "Residuals",
    ):
        assert said not in plain


@pytest.mark.slow
def test_effects_are_in_deviations_and_come_back(choice):
    for row, effect in zip(choice.record["effects"], choice.effects, strict=True):
        assert (row["deviation"], row["numbers"]) == (1, 2)
        assert effect.score == score_of(choice.net) == Score("error", numbers=2)
        assert effect.accuracy_change == pytest.approx(-row["error_change"])
    told = Effect(
        "stage.kernel_size", 3, 5, 0.02, 0.01, 0.03, 1.0, "matters", score=Score("error", numbers=2)
    )
    assert (told.moved, told.span) == ("-0.02 deviations", "-0.03 to -0.01")
    assert deliver.effect_of(deliver.effect_row(told)) == told


def test_a_comparison_is_told_in_deviations():
    row = {"error": 0.13, "chosen_error": 0.12, "error_change": -0.01, "low": -0.02, "high": -0.005,
           "numbers": 2,
           "title": "LeNet-5", "failed": "", "seconds": 5.0, "n": 90, "verdict": "matters",
           "cost": {"macs": 1e6},
           "chosen_cost": {"macs": 2e6}}  # fmt: skip
    said = words.beside(row)
    assert "LeNet-5: error 0.13 deviations" in said
    assert said.endswith(
        "The error of the chosen network is 0.01 deviations smaller (0.005 to 0.02)."
    )


@pytest.mark.slow
def test_older_and_other_folders_are_read_as_before(choice, tmp_path):
    """A choice.json that names `numbers` of another kind is refused; without them the one number is
    called number.
    """
    record = json.loads((choice.folder / "choice.json").read_text())
    record["data"]["numbers"] = "across"
    (tmp_path / "choice.json").write_text(json.dumps(record))
    with pytest.raises(UnusableInput, match="unexpected value at data.numbers"):
        convwise.load(tmp_path)
    assert predicting.outputs({"data": {"classes": []}}) == ["number"]


@pytest.mark.slow
def test_the_exports_must_agree_in_every_unit(choice, unseen, monkeypatch):
    """A difference that is nothing in one unit is all in another: each number is checked in its
    own.
    """
    net, weights, names = formats.read(choice.folder)
    pixels = np.stack(
        [np.asarray(Image.open(path))[..., None] for path in sorted(unseen[0].glob("*.png"))[:4]]
    )
    # A thousandth of the first number's deviation is more
    off = np.array([[0.0, 0.02]], np.float32)
    own = formats._answers
    monkeypatch.setattr(formats, "_answers", lambda *how: [answer + off for answer in own(*how)])
    with pytest.raises(formats.ExportMismatch, match="differ by 0.02"):
        formats.write(choice.folder.parent / "again", net, weights, names, pixels, ("onnx",))


HEADS = {
    "classes": (GlobalAveragePooling2D(), Dense(10, activation="softmax")),
    "as many outputs already": (GlobalAveragePooling2D(), Dense(2)),
    "features": (Conv2D(6, 3), GlobalAveragePooling2D()),
    "one number in its unit": (GlobalAveragePooling2D(), Dense(1), Rescaling(3.0, 1.0)),
}


@pytest.mark.parametrize("name", HEADS)
def test_any_net_gets_an_output_for_each_number(name):
    given = Net((12, 12, 1), (Rescaling(1 / 255), Conv2D(4, 3), *HEADS[name]))
    found = fitted(given, 0, (0.5,), (0.05,), BOTH)
    unit = numbers_of(found.net)
    assert (unit.scale, unit.offset) == (BOTH.deviations, BOTH.means)
    assert score_of(found.net) == Score("error", numbers=2)
    assert fitted(found.net, 0, (0.5,), (0.05,), BOTH).net == found.net


def test_of_many_numbers_six_are_drawn_and_all_are_in_the_table():
    count = 8
    net = Net(
        (12, 12, 1),
        (GlobalAveragePooling2D(), Dense(count), Rescaling((1.0,) * 7 + (100.0,), (0.0,) * count)),
    )
    rng = np.random.default_rng(0)
    labels = rng.normal(size=(30, count)) * np.array([1.0] * 7 + [100.0])
    answers = labels + rng.normal(0, 0.1, (30, count))
    answers[3, 2] += 5  # 5 deviations of a number with deviation 1
    answers[4, 7] += 50  # half a one of the last
    names = tuple(f"n{i}" for i in range(count))
    pixels = np.zeros((30, 12, 12, 1), np.uint8)
    found = regress.section(Scored(pixels, labels, answers, tuple(map(str, range(30))), names, net))
    assert [bool(number.get("plot")) for number in found["numbers"]] == [True] * 6 + [False] * 2
    first, second = found["pictures"][:2]
    assert (first["file"], first["true"].split()[0]) == ("3", "n2")
    assert (second["file"], second["true"].split()[0]) == ("4", "n7")


@pytest.mark.slow
def test_check_and_measure_know_what_a_choice_folder_has_learnt_and_from_which_images(
    choice, unseen
):
    images, data = own_images(choice.folder), choice.record["data"]
    assert images.numbers == NAMES
    assert (len(images.train), len(images.valid), images.test.size) == (
        data["train"],
        data["valid"],
        data["test"],
    )
    assert own_images("lenet5") is None
    table = ["--images", str(unseen[0] / "places.csv"), "--classes-from", "csv::across,down"]
    checked = CliRunner().invoke(app, ["check", str(choice.folder), *table])  # without --task
    assert checked.exception is None or isinstance(checked.exception, SystemExit)
    assert "Field: " in checked.stdout
