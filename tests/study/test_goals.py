"""A study whose goal counts every class alike: its trials, its effects and what is told go by that
score.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import convwise
from convwise.evidence.paired import paired_difference
from convwise.images.loading import read
from convwise.ledger import Ledger
from convwise.output import choice, report
from imagesets import striped


@pytest.fixture(scope="module")
def balanced(tmp_path_factory) -> SimpleNamespace:
    """Stripes in three classes of 90, 40 and 12 images."""
    pixels, labels = striped(3, 90, 12, seed=3)
    kept = np.concatenate(
        [np.flatnonzero(labels == k)[:count] for k, count in enumerate((90, 40, 12))]
    )
    folder, source = tmp_path_factory.mktemp("goal") / "chosen", (pixels[kept], labels[kept])
    goal = "balanced_accuracy where params<60k"
    found = convwise.choose(source, trials=4, workers=1, goal=goal, out=folder, test=0.3)
    return SimpleNamespace(choice=found, folder=folder, images=read(source, test=0.3))


@pytest.mark.slow
def test_trials_are_scored_by_the_goal(balanced):
    labels = balanced.images.valid.labels
    raced = [r for r in Ledger(balanced.folder / "study.db").results if r.score is not None]
    assert raced
    for result in raced:
        right = np.array([c == "1" for c in result.correct])
        recalls = [right[labels == k].mean() for k in range(3)]
        assert result.trial.score == "balanced_accuracy"
        assert result.score == pytest.approx(np.mean(recalls))
        assert np.mean(result.outcomes) == pytest.approx(result.score, abs=1e-5)
        assert result.history[-1].accuracy == result.score
    change, error = paired_difference(raced[0], raced[-1])
    assert change == pytest.approx(raced[0].score - raced[-1].score, abs=1e-5)
    assert error >= 0
    assert raced[0].trial.recipe.class_weights[0] < raced[0].trial.recipe.class_weights[2]


@pytest.mark.slow
def test_the_number_told_is_the_goals(balanced):
    test, labels = balanced.choice.record["test"], balanced.images.test.open().labels
    assert test["score"]["name"] == "balanced_accuracy"
    assert test["score"]["value"] == pytest.approx(test["balanced_accuracy"])
    assert test["score"]["value"] == pytest.approx(
        np.mean([row["recall"] for row in test["recall"].values()])
    )
    assert test["score"]["baseline"] == pytest.approx(1 / 3)
    assert test["score"]["low"] < test["score"]["value"] <= test["score"]["high"] <= 1
    assert test["baseline"] == pytest.approx(np.bincount(labels).max() / len(labels))
    assert [row["n"] for row in test["recall"].values()] == np.bincount(labels).tolist()
    told = choice.summary(balanced.choice.record, balanced.folder)
    assert [line.split(":")[0] for line in told][1:3] == ["Balanced accuracy, the goal", "Accuracy"]
    assert any(line.startswith("Recall of each class, worst first: ") for line in told)
    page = (balanced.folder / "report.html").read_text()
    assert "Balanced accuracy, sealed test" in page
    assert "Change of the validation balanced accuracy" in page


def test_where_classes_are_even_their_recalls_are_left_to_the_report(chosen):
    record = convwise.load(chosen.folder).record
    assert record["test"]["score"]["name"] == "accuracy"
    told = choice.summary(record, chosen.folder)
    assert not any(line.startswith(("Recall of each class", "Balanced")) for line in told)
    assert list(report._goal_line(record["test"])) == []
