"""Every reader on what a fuzzer begins with, on what it has found, and for some seconds on what it
makes of that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from targets import TARGETS, choice, header, put_choice, put_safetensors, tried

from convwise.core.problems import UnusableInput
from convwise.output import choice as choices
from convwise.output import deliver, predicting, stored
from studies import ENVIRONMENT

HERE = Path(__file__).parent
FOUND = [path for path in sorted((HERE / "corpus").rglob("*")) if path.is_file()]


@pytest.mark.parametrize("name", TARGETS)
def test_every_reader_reads_what_its_fuzzer_begins_with(name, tmp_path):
    for number, seed in enumerate(TARGETS[name].seeds()):
        (place := tmp_path / str(number)).mkdir()
        assert tried(TARGETS[name], seed, place) == "read"


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_is_read_or_refused(path, tmp_path):
    assert tried(TARGETS[path.parent.name], path.read_bytes(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run_finds_nothing(name, tmp_path):
    pytest.importorskip("atheris", reason="the fuzzer; there are wheels of it for Linux alone")
    # The same inputs each time: a landing is decided by the change, not by luck.
    how = [
        "-max_total_time=5",
        "-runs=300",
        "-seed=1",
        "-timeout=60",
        "-rss_limit_mb=0",
    ]
    ended = subprocess.run(
        [sys.executable, str(HERE / "fuzz.py"), name, *how], capture_output=True, text=True,
        timeout=500, check=False,
        env={**ENVIRONMENT, "TF_CPP_MIN_LOG_LEVEL": "3"}, cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert os.listdir(tmp_path) == []


# --- a choice that somebody has changed -----------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("test"), "has no test"),
        (lambda c: c.update(data=None), "at data"),
        (lambda c: c["data"].update(classes="ab"), "at data.classes"),
        (lambda c: c["data"].update(base_shape=[6, 6]), "at data.base_shape"),
        (lambda c: c["data"].update(base_shape=[6, -6, 1]), "at data.base_shape"),
        (lambda c: c["data"].update(base_shape=[10**6, 10**6, 1]), "at data.base_shape"),
        (lambda c: c["data"]["facts"].update(scale=[0, 1, 2]), "at data.facts.scale"),
        (lambda c: c["test"].update(accuracy="high"), "at test.accuracy"),
        (lambda c: c["test"].update(n=True), "at test.n"),
        (lambda c: c["effects"].append({}), "at effects"),
        (lambda c: c["effects"].append(3), "at effects[1]"),
        (lambda c: c["effects"][0].update(low=[]), "at effects[0].low"),
        (lambda c: c["effects"][0].update({"from": {}}), "at effects"),
        (lambda c: c["effects"][0].update(to=[[{}]]), "at effects"),
        (lambda c: c["reasons"]["choices"][0].pop("because"), "at reasons.choices"),
        (lambda c: c["reasons"]["verdict"].append({}), "at reasons.verdict"),
        (
            lambda c: c.update(training={"recipe": {"batch_size": 1.5}}),
            "training.recipe.batch_size",
        ),
        (lambda c: c["provenance"].update(seed="1"), "at provenance.seed"),
        (lambda c: c["effects"][0].update(time_ratio="2"), "at effects[0].time_ratio"),
        (lambda c: c["effects"][0].update(expected_high={}), "at effects[0].expected_high"),
        (lambda c: c["net"].update(layers=3), "at net"),
        (lambda c: c["net"]["layers"].append({"type": "Conv9D"}), "at net"),
        (lambda c: c.update(notes=[None]), "at notes[0]"),
        (lambda c: c["reasons"]["choices"][0].update(because=3), "at reasons.choices[0].because"),
    ],
)
def test_a_choice_that_was_changed_is_refused_by_the_place(change, said, tmp_path):
    changed = json.loads(json.dumps(choice()))
    change(changed)
    (tmp_path / "choice.json").write_text(json.dumps(changed))
    with pytest.raises(UnusableInput) as caught:
        deliver.read_choice(tmp_path)
    assert said in str(caught.value)
    assert "expected a folder that `convwise choose` wrote" in str(caught.value)


def test_what_is_asked_for_and_missing_names_itself(tmp_path):
    changed = json.loads(json.dumps(choice()))
    del changed["configuration"]["stage.filters"]
    (tmp_path / "choice.json").write_text(json.dumps(changed))
    found = deliver.read_choice(tmp_path)
    with pytest.raises(UnusableInput, match="its choice.json has no stage.filters"):
        found["configuration"]["stage.filters"]
    assert json.loads(json.dumps(found)) == changed


def test_a_choice_of_version_0_1_0_is_read(tmp_path):
    """It called its configuration a sample."""
    record = choice()
    old = {("sample" if key == "configuration" else key): value for key, value in record.items()}
    (tmp_path / "choice.json").write_text(json.dumps(old))
    assert deliver.read_choice(tmp_path)["configuration"] == record["configuration"]


def test_a_choice_of_gigabytes_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "MOST_BYTES", 1000)
    (tmp_path / "choice.json").write_text(json.dumps(choice()))
    with pytest.raises(UnusableInput, match="is larger than"):
        deliver.read_choice(tmp_path)


def test_weights_that_claim_a_larger_net_than_their_file_holds_are_refused(tmp_path):
    """Before it is built: of this one, the dense layer alone would take 34 GB."""
    given = json.loads(header()[0])
    net = json.loads(given["__metadata__"]["net"])
    net["layers"][-1]["units"] = 2**31 - 1
    given["__metadata__"]["net"] = json.dumps(net)
    said = tried(TARGETS["safetensors"], json.dumps(given).encode(), tmp_path)
    assert "it describes a network of" in said


def test_everything_of_a_folder_is_read_where_nothing_was_changed(tmp_path):

    folder = put_choice(json.dumps(choice()).encode(), tmp_path)
    assert choices.summary(choices.load(folder).record, folder)[1].startswith("Accuracy: 90.0 %")
    assert [
        row["label"] in ("a", "b") for row in predicting.predict(folder, folder / "0.png", 1)
    ] == [True]
    assert (
        put_safetensors(header()[0], tmp_path).read_bytes()
        == (folder / "model.safetensors").read_bytes()
    )
