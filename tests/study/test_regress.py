"""A number from an image, from end to end: chosen, written, predicted, measured, and told in its
own unit.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score

import convwise
from convwise import measuring
from convwise.core.clock import Clock
from convwise.core.layers import (
    Activation,
    Conv2D,
    Dense,
    Flatten,
    GlobalAveragePooling2D,
    Rescaling,
)
from convwise.core.net import Net
from convwise.core.problems import UnusableInput
from convwise.core.progress import quiet
from convwise.core.records import Result
from convwise.core.score import Score, Target, numbers_of, score_of
from convwise.core.task import KINDS
from convwise.evidence.fitting import fitted
from convwise.inspect.models import learnt_by
from convwise.output import deliver, predicting, tables
from convwise.output.answered import ANSWERED, answered_by
from convwise.output.words import compared_bars
from convwise.training.lab import Lab
from convwise.training.tasks import TASKS
from convwise.web import following
from imagesets import picture
from labs import MadeHost
from studies import TARGET


def blobs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A round blob at a random place: x (n, 12, 12, 1), and its radius in tenths of a millimetre,
    30 to 90.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:12, :12]
    centre, radius = rng.uniform(4, 8, (2, count, 1, 1)), rng.uniform(1.5, 4.5, count)
    inside = np.hypot(rows - centre[0], columns - centre[1]) < radius[:, None, None]
    noisy = 60 + 130 * inside[..., None] + rng.normal(0, 8, (count, 12, 12, 1))
    return np.clip(noisy, 0, 255).astype(np.uint8), 20 * radius


IMAGES = blobs(500, 0)
OTHER = Net((12, 12, 1), (Conv2D(4, 3, activation="relu"), GlobalAveragePooling2D(), Dense(1)))


@pytest.fixture(scope="module")
def choice(tmp_path_factory) -> convwise.Choice:
    return convwise.choose(IMAGES, task="regress", goal="error where macs<400k", against=OTHER,
                           out=tmp_path_factory.mktemp("regress") / "x", trials=4,
                           workers=1)  # fmt: skip


@pytest.fixture(scope="module")
def unseen() -> tuple[np.ndarray, np.ndarray]:
    return blobs(60, 1)


def test_it_is_better_than_the_median_and_says_by_how_much(choice):
    test = choice.record["test"]
    assert choice.record["task"] == "regress"
    assert set(test) == {
        "kind",
        "error",
        "low",
        "high",
        "n",
        "r2",
        "baseline",
        "better_than_guessing",
    }
    assert choice.is_chosen
    assert test["low"] < test["error"] < test["high"] < test["baseline"]
    assert choice.error == test["error"]
    assert choice.record["goal"] == {"text": "error where macs<400k", "kept": True}
    assert all("validation_error" in row for row in choice.record["alternatives"])


def test_what_it_says_of_new_images_is_what_it_was_said_to_be_worth(choice, unseen):
    pixels, radius = unseen
    found = choice.predict(pixels)
    assert found.dtype == np.float64
    assert mean_absolute_error(radius, found) < 1.7 * choice.error
    assert choice.score(pixels, radius) == pytest.approx(r2_score(radius, found))


def test_every_framework_answers_in_the_unit_of_the_target(choice, unseen):
    import torch

    pixels = unseen[0][:8]
    expected = choice.predict(pixels)
    with torch.no_grad():
        by_torch = choice.torch()(torch.from_numpy(pixels).permute(0, 3, 1, 2).float()).numpy()[
            :, 0
        ]
    by_keras = choice.keras()(pixels.astype("float32")).detach().cpu().numpy()[:, 0]
    assert by_torch == pytest.approx(expected, abs=0.02)
    assert by_keras == pytest.approx(expected, abs=0.02)


def test_predict_and_the_written_source_print_the_number(choice, unseen, tmp_path):
    picture(unseen[0][0], "L").save(tmp_path / "one.png")
    (row,) = convwise.predict(choice, tmp_path / "one.png")
    assert row["number"] == pytest.approx(choice.predict(unseen[0][:1])[0], rel=1e-6)
    with (tmp_path / "said.csv").open("w") as file:
        tables.write_csv([row], predicting.outputs(choice.record), file, "regress")
    head, line = (tmp_path / "said.csv").read_text().splitlines()
    assert head == "path,number"
    assert float(line.rpartition(",")[2]) == row["number"]
    source = [sys.executable, choice.folder / "model_torch.py", tmp_path / "one.png"]
    printed = subprocess.run(source, capture_output=True, text=True, check=True).stdout
    assert float(printed) == pytest.approx(row["number"], abs=0.02)


def test_the_report_shows_errors_instead_of_mistakes(choice):
    text = choice.report().read_text(encoding="utf-8")
    for said in ("Error, sealed test", "Error and cost", "Predicted against true", "Residuals",
                 "From low to high",
                 "always the median", "prints the number", "change of the error"):  # fmt: skip
        assert said in text
    plain = re.sub(r"<(style|script).*?</\1>|<svg.*?</svg>", "", text, flags=re.DOTALL)
    for said in ("Accuracy", "validation accuracy", "most probable class", "largest class"):
        assert said not in plain
    assert "Error: " in repr(choice)
    assert "always the median: " in repr(choice)


def test_effects_are_told_in_the_unit_of_the_target(choice):
    assert choice.effects, "four trials measure something"
    for row, effect in zip(choice.record["effects"], choice.effects, strict=True):
        assert "accuracy_change" not in row
        assert row["low"] <= row["error_change"] <= row["high"]
        deviation = choice.net.layers[-1].scale[0]
        assert effect.score == Score("error", pytest.approx(deviation))
        assert effect.accuracy_change == pytest.approx(-row["error_change"] / deviation)
        assert (
            deliver.effect_row(effect) == pytest.approx({**row}, nan_ok=True)
            or row["verdict"] == effect.verdict
        )


def test_another_network_is_compared_by_its_error(choice):
    (row,) = choice.record["against"]
    assert row["chosen_error"] - row["error"] == pytest.approx(row["error_change"], rel=1e-3)
    assert row["low"] < row["error_change"] < row["high"]
    assert "Your network (Net): error " in repr(choice)
    # Always the median, both after equal time, and the whole training
    assert choice._repr_html_().count("<rect ") == 4
    text = choice.report().read_text(encoding="utf-8")
    assert "the shorter a bar, the better" in text
    assert "your network (Net), after the same number of epochs" in text
    state = following.state(following.Following(choice.folder).look())
    shares = {bar["name"]: bar["share"] for bar in state["bars"]}
    theirs, ours = (shares[name] for name, *_ in compared_bars(row))
    assert theirs / ours == pytest.approx(row["error"] / row["chosen_error"])


def test_measures_speak_of_numbers():
    facts = convwise.look(IMAGES, task="regress")
    said = " ".join(measure.meaning for measure in facts.measures)
    assert "a network must beat that" in facts.measure("target_error").meaning
    assert "of the fifths of the numbers right" in facts.measure("probe_accuracy").meaning
    assert not re.search(r"\bclass(es)?\b", said)


class Made:
    """A runner that trains nothing, while a clock goes on: the net as it is is off by 5, another
    activation by 4.
    """

    def __init__(self, activation: str) -> None:
        self.now, self.activation = 0.0, activation

    def __call__(self, work, host, workers):
        self.folder, self.task = work.args[0], work.args[2]
        return self

    def run(self, trials):
        for trial in trials:
            self.now += (trial.seconds or 1.0) + 0.5
            count = len(np.load(next(self.folder.glob("*-valid-labels.npy"))))
            activations = {
                layer.activation for layer in trial.net.layers if isinstance(layer, Activation)
            }
            off = 5.0 if self.activation in activations else 4.0
            errors = tuple((off + np.random.default_rng(trial.seed).normal(0, 0.1, count)).tolist())
            score = score_of(trial.net).score(float(np.mean(errors)))
            yield Result(trial, "done", score, errors=errors, images_per_second=1e4)

    def close(self):
        pass


def test_measure_tells_a_change_of_the_error_and_keeps_it(choice, tmp_path):
    folder, now = (
        Path(shutil.copytree(choice.folder, tmp_path / "x")),
        choice.record["configuration"]["activation"],
    )
    made, other = Made(now), "gelu" if now == "relu" else "relu"
    lab = Lab(MadeHost(), Clock(60.0, 0.0, lambda: made.now), quiet, made)
    images = convwise.read(IMAGES, task="regress")
    found = measuring.measure_in(lab, folder, images, f"activation={other}")
    (effect,) = found.effects
    told = found.to_json()
    assert (effect.verdict, told["error"]) == ("matters", pytest.approx(5, abs=0.1))
    assert told["effects"][0]["error_change"] == pytest.approx(-1, abs=0.1)
    assert "-1" in str(found.measured[0])
    assert "error" in repr(found)
    kept = json.loads((folder / "choice.json").read_text())["effects"]
    assert kept[-1]["error_change"] == told["effects"][0]["error_change"]
    assert f"activation {now} → {other}" in (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def copied(choice, tmp_path) -> Path:
    """A copy of the folder, chosen from a file that can be read again."""
    np.savez(tmp_path / "blobs.npz", x=IMAGES[0], y=IMAGES[1])
    record = json.loads((choice.folder / "choice.json").read_text())
    record["data"]["source"] = str(tmp_path / "blobs.npz")
    folder = Path(shutil.copytree(choice.folder, tmp_path / "x"))
    (folder / "choice.json").write_text(json.dumps(record))
    return folder


def measured_task(folder: Path, images: convwise.Images | None = None) -> str:
    """What `measure` trains."""
    now = deliver.read_choice(folder)["configuration"]["activation"]
    made = Made(now)
    lab = Lab(MadeHost(), Clock(60.0, 0.0, lambda: made.now), quiet, made)
    measuring.measure_in(lab, folder, images, f"activation={'gelu' if now == 'relu' else 'relu'}")
    return made.task


def test_a_folder_tells_its_task_where_another_one_reads_the_same(copied, monkeypatch):
    """To `measure`, with its own images and with others, and to `predict`."""
    for table in (KINDS, TASKS, ANSWERED):
        monkeypatch.setitem(table, "count", replace(table["regress"]))
    record = json.loads((copied / "choice.json").read_text())
    (copied / "choice.json").write_text(json.dumps({**record, "task": "count"}))
    assert measured_task(copied) == "count"
    assert measured_task(copied, convwise.read(IMAGES, task=learnt_by(copied))) == "count"
    assert answered_by(deliver.read_choice(copied)) is ANSWERED["count"]


def test_a_folder_that_says_what_was_read_and_not_the_task_can_still_be_measured(copied):
    """Earlier versions wrote only what was read of each image."""
    record = json.loads((copied / "choice.json").read_text())
    reading = record["data"]["facts"]["reading"]
    assert reading.pop("task") == "regress"
    reading["target"] = "number"
    (copied / "choice.json").write_text(json.dumps(record))
    assert measured_task(copied) == "regress"


@pytest.mark.slow
def test_check_tries_its_fixes_on_the_images_of_a_folder(copied):
    """As it is typed: an activation was taken out of the network, so that there is something to
    fix.
    """
    record = json.loads((copied / "choice.json").read_text())
    net = Net.from_json(record["net"])
    lost = next(layer for layer in net.layers if isinstance(layer, Activation))
    layers = tuple(
        replace(each, activation="linear") if each == lost else each for each in net.layers
    )
    (copied / "choice.json").write_text(
        json.dumps({**record, "net": replace(net, layers=layers).to_json()})
    )
    (copied / "model.safetensors").unlink()  # or its network would be read
    answer: dict = {}
    for budget in ("45s", "3m"):  # the second one for a busy machine
        command = [
            sys.executable,
            "-m",
            "convwise",
            "check",
            copied,
            "--apply",
            "--budget",
            budget,
            "--json",
        ]
        ended = subprocess.run(command, capture_output=True, text=True)
        answer = json.loads(ended.stdout)
        assert ended.returncode == any(row["severity"] == "error" for row in answer["problems"])
        if "too short" not in " ".join(answer["applied"]["notes"]):
            break
    (tried,) = (row for row in answer["problems"] if lost.name in row["layers"])
    effect = tried["effect"]
    assert tried["rule"] == "dead layers"
    assert 0 < answer["applied"]["error"] < record["test"]["baseline"]
    assert effect["low"] <= effect["error_change"] <= effect["high"]
    assert effect["deviation"] == pytest.approx(net.layers[-1].scale[0])
    assert effect["runs"] >= 2
    assert "accuracy_change" not in effect


@pytest.mark.parametrize(
    ("task", "goal"), [("regress", "accuracy"), ("classify", "error"), ("guess", None)]
)
def test_what_does_not_fit_the_task_is_refused(task, goal, tmp_path):
    with pytest.raises(UnusableInput) as refused:
        convwise.choose(IMAGES, task=task, goal=goal, out=tmp_path / "x")
    assert "--goal" in str(refused.value) or "classify, regress" in str(refused.value)


def test_every_task_says_what_is_written_of_it():
    assert list(ANSWERED) == list(KINDS)


HEADS = {
    "classes": (GlobalAveragePooling2D(), Dense(10, activation="softmax")),
    "logits, then softmax": (Flatten(), Dense(10), Activation("softmax")),
    "a sigmoid": (GlobalAveragePooling2D(), Dense(1, activation="sigmoid")),
    "features": (Conv2D(6, 3), GlobalAveragePooling2D()),
    "a number already": (GlobalAveragePooling2D(), Dense(1)),
}


@pytest.mark.parametrize("name", HEADS)
def test_any_net_gets_one_output_in_the_unit_of_the_target(name):
    given = Net((12, 12, 1), (Rescaling(1 / 255), Conv2D(4, 3, name="first"), *HEADS[name]))
    found = fitted(given, 0, (0.5,), (0.05,), TARGET)
    unit = numbers_of(found.net)
    assert (unit.scale, unit.offset) == ((TARGET.deviations[0],), (TARGET.means[0],))
    bounded = [
        layer
        for layer in found.net.layers
        if getattr(layer, "activation", "linear") in ("softmax", "sigmoid")
    ]
    assert not bounded
    other = Target((replace(TARGET.columns[0], mean=0.0),))
    again = fitted(found.net, 0, (0.5,), (0.05,), other)
    assert again.net == found.net


@pytest.mark.parametrize(("target", "wanted"), [(TARGET, "number to learn"), (None, "class")])
def test_a_net_that_ends_in_a_map_is_refused_in_the_words_of_its_target(target, wanted):
    with pytest.raises(UnusableInput, match=f"one output for each {wanted}"):
        fitted(Net((12, 12, 1), (Conv2D(4, 3),)), 0 if target else 3, (0.5,), (0.05,), target)
