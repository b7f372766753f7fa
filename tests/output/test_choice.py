"""A choice in a program or a notebook: what it says, what it answers, and the models that it hands
over.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import convwise
from convwise.advice.measures import MEASURES
from convwise.core.problems import UnusableInput
from convwise.core.records import Effect
from convwise.core.score import Score
from convwise.images.loading import read
from convwise.output import deliver, predicting, words
from convwise.output.answers import QUESTIONS
from screens import Reader, is_a_screen


@pytest.fixture(scope="module")
def choice(chosen):
    return convwise.load(chosen.folder)


@pytest.fixture(scope="module")
def images(chosen):
    """(pixels, names) of the validation part: arrays, as a program has them."""
    found = read(chosen.images, seed=0)
    return np.asarray(found.valid.pixels), np.array(found.classes)[found.valid.labels]


def test_it_shows_the_answer_on_a_screen(choice):
    assert is_a_screen(choice)
    shown, page = repr(choice), Reader(choice._repr_html_()).said
    test = choice.record["test"]
    for said in (" ".join(shown.split()), page):
        assert said.startswith("Chosen: ")
        assert f"{100 * test['low']:.1f} to {100 * test['high']:.1f} % at 95 %" in said
        assert f"{100 * test['accuracy']:.1f} %" in said
        assert f"always the largest class: {100 * test['baseline']:.1f} %" in said
        assert "report.html" in said
    assert "A probe without training: " in page
    assert choice._repr_html_().count("<rect ") == 3  # this network, the probe, and knowing nothing
    assert "Kernel size" in shown


def test_the_report_is_named_however_much_there_is_to_say(choice):
    one = {**choice.record["effects"][0], "verdict": "no difference"}
    many = [{**one, "parameter": f"parameter.{number}"} for number in range(99)]
    shown = replace(choice, record={**choice.record, "effects": many})
    assert is_a_screen(shown)
    assert repr(shown).splitlines()[-1].startswith("Report: ")


def test_what_a_parameter_rests_on_is_the_truth(choice):
    """Only what has an effect is called tested; what the literature says is not called measured."""
    tested = {effect.parameter for effect in choice.effects}
    measures = {row["parameter"]: row["measure"] for row in choice.record["reasons"]["choices"]}
    rows, questions = (
        choice.screen().rows,
        {question.title: question.parameters for question in QUESTIONS},
    )
    assert len(rows) == len(questions)
    for title, _, rests in rows:
        first, *_ = names = questions[title]
        assert rests.startswith("tested") == (not tested.isdisjoint(names))
        if tested.isdisjoint(names):
            assert rests.startswith("measured") == (
                measures[first] in {row.name for row in MEASURES}
            )


def test_what_is_no_better_than_guessing_is_not_called_chosen(chosen, tmp_path):
    record = json.loads((chosen.folder / "choice.json").read_text())
    record["test"]["better_than_guessing"] = False
    record["notes"] = ["The budget was too short."]
    (tmp_path / "choice.json").write_text(json.dumps(record))
    found = convwise.load(tmp_path)
    assert not found.is_chosen
    assert repr(found).startswith("No network was chosen. The budget was too short.")


def test_labels_probabilities_and_score_agree(choice, images):
    pixels, names = images
    labels, shares = choice.predict(pixels), choice.predict_proba(pixels)
    assert labels.shape == (len(pixels),)
    assert shares.shape == (len(pixels), 3)
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-12)
    assert (np.array(choice.classes)[shares.argmax(axis=1)] == labels).all()
    assert choice.score(pixels, names) == np.mean(labels == names)
    assert choice.score(pixels, list(labels)) == 1.0


def test_files_are_answered_as_convwise_predict_answers_them(choice, chosen, tmp_path):
    for file in sorted(chosen.images.rglob("*.png"))[:3]:
        shutil.copy(file, tmp_path)
    (tmp_path / "zzz.png").write_bytes(b"not an image")
    rows = convwise.predict(choice, tmp_path)  # a choice stands for its folder
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert choice.predict(tmp_path).tolist() == [row["label"] for row in rows]
    shares = choice.predict_proba(tmp_path)
    assert np.isnan(shares[-1]).all()
    assert shares[0].tolist() == pytest.approx(
        [rows[0]["probabilities"][name] for name in choice.classes], abs=1e-5
    )


@pytest.mark.parametrize(
    ("given", "score"), [([0, 1, 2], 1.0), ([0.0, 1.0, 2.0], 1.0), (["0", "1", "1"], 2 / 3)]
)
def test_labels_can_be_whole_numbers(choice, monkeypatch, given, score):
    rows = [{"label": str(number)} for number in range(3)]
    monkeypatch.setattr(predicting, "predict", lambda folder, images, threads: rows)
    assert choice.score("anything", given) == score


def test_a_label_too_many_is_refused(choice, images):
    with pytest.raises(UnusableInput, match="one label for each image"):
        choice.score(images[0], [*images[1], "4"])


@pytest.mark.parametrize("framework", ["keras", "torch"])
def test_the_trained_models_answer_as_predict(choice, images, framework):
    pixels = images[0][:16]
    size = choice.net.input_shape[:2]
    assert pixels.shape[1:3] == size  # so that nothing is resized on the way
    if framework == "keras":
        answer = np.asarray(choice.keras().predict(pixels.astype("float32"), verbose=0))
    else:
        import torch

        with torch.no_grad():
            answer = choice.torch()(torch.from_numpy(pixels).permute(0, 3, 1, 2).float()).numpy()
    assert np.abs(answer - choice.predict_proba(pixels)).max() < 2e-4


def test_its_files(choice, chosen, tmp_path):
    assert choice.report() == convwise.report(chosen.folder) == chosen.folder / "report.html"
    (written,) = convwise.export(choice, "json", out=tmp_path)
    assert json.loads(written.read_text())["layers"]
    assert choice.export("onnx", tmp_path)[0].stat().st_size > 0


def test_what_is_missing_is_named(chosen, tmp_path):
    shutil.copy(chosen.folder / "choice.json", tmp_path)
    found = convwise.load(tmp_path)
    for act in (found.report, found.keras, found.torch):
        with pytest.raises(UnusableInput, match="report.html|model"):
            act()
    with pytest.raises(UnusableInput, match="does not exist"):
        convwise.load(tmp_path / "nothing")


def test_effects_are_records_and_a_frame_where_pandas_is(choice, monkeypatch):
    assert all(isinstance(effect, Effect) for effect in choice.effects)
    assert len(choice.effects) == len(choice.record["effects"]) > 0
    monkeypatch.setitem(
        sys.modules, "pandas", SimpleNamespace(DataFrame=lambda rows, columns: (rows, columns))
    )
    rows, columns = choice.effects_frame()
    assert {"parameter", "from", "to", "accuracy_change", "low", "high", "verdict"} <= set(rows[0])
    assert columns is None  # those of the rows
    rows, columns = replace(choice, record={**choice.record, "effects": []}).effects_frame()
    assert (rows, {"parameter", "from", "to", "verdict"} <= set(columns)) == ([], True)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UnusableInput, match="pip install pandas"):
        choice.effects_frame()


def test_check_and_measure_take_a_choice(choice):
    found = convwise.check(choice)
    assert found.lifted.net == choice.net
    assert is_a_screen(found)


@pytest.mark.parametrize("score", [Score(), Score("macro_f1"), Score("error", 2.0)])
def test_an_effect_is_read_again_as_it_was(score):
    effect = Effect(
        "stem.strides", 1, 2, -0.03, -0.05, -0.01, 0.5, "matters", 2, seconds=8.0, score=score
    )
    row = json.loads(json.dumps(deliver.effect_row(effect)))
    read_again = deliver.effect_of(row)
    assert read_again == replace(effect, **{name: pytest.approx(getattr(effect,
                                            name)) for name in deliver.CHANGES if getattr(effect,
                                            name) is not None})  # fmt: skip
    assert row.get("error_change", 0.06) == pytest.approx(0.06)


def test_what_a_goal_asks_for_is_told_of_every_kind_of_folder():
    score = {"name": "macro_f1", "value": 0.6, "low": 0.5, "high": 0.7, "baseline": 0.2}
    asked = [
        words.asked(test)
        for test in ({"accuracy": 0.9}, {"error": 3.1}, {"accuracy": 0.9, "score": score})
    ]
    assert [(each["name"], each["value"]) for each in asked] == [
        ("accuracy", 0.9),
        ("error", 3.1),
        ("macro_f1", 0.6),
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task", 3),
        ("task", "guess"),
        ("test", {"error": "low"}),
        ("test", {"error": 10**400}),
        ("cost", {"macs": 10**400}),
    ],
)
def test_what_numbers_have_written_and_others_changed_is_refused(
    chosen, images, tmp_path, key, value
):
    folder = shutil.copytree(chosen.folder, tmp_path / "changed")
    record = json.loads((folder / "choice.json").read_text())
    changed = {**record[key], **value} if isinstance(value, dict) else value
    (folder / "choice.json").write_text(json.dumps({**record, key: changed}))
    with pytest.raises(UnusableInput, match="choice.json"):
        convwise.load(folder).predict(images[0][:2])
