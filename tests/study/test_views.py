"""The mirror image averaged in: when it is, what is said of it, and that all that is handed over
does so.
"""

from __future__ import annotations

import html
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from convwise import formats, measuring, mirrored
from convwise.core.calculus import analyse
from convwise.core.goal import parse_goal
from convwise.core.layers import Dense, Flatten, Rescaling
from convwise.core.net import Net
from convwise.core.problems import UnusableInput
from convwise.core.recipe import Recipe
from convwise.core.records import Result, Trial, Views
from convwise.evidence.fitting import fitted
from convwise.mirrored import decided, with_views
from convwise.output import choice, deliver, predicting
from convwise.settings import Settings, validate
from convwise.training import train
from imagesets import blobs
from labs import MadeHost, Serial, ask

NET = Net((6, 5, 1), (Flatten(), Dense(2, activation="softmax")))
FLIPPED = Recipe(flip=True)


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


class Made(SimpleNamespace):
    """As much of a study as decides on its views: 200 noise images, and a net with random weights.

    right: whether an image's label is what the mean of both views says, or what the image alone
    says.
    """

    def __init__(
        self,
        folder: Path,
        right: str,
        views: str = "auto",
        goal: str = "accuracy",
        left: float = 1e9,
    ) -> None:
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (200, *NET.input_shape), dtype=np.uint8)
        kernel = rng.normal(0, 0.01, (30, 2)).astype(np.float32)
        one, other = (
            softmax(each.reshape(200, -1).astype(np.float64) @ kernel)
            for each in (pixels, pixels[:, :, ::-1])
        )
        self.alone, self.both = one.argmax(1), ((one + other) / 2).argmax(1)
        either = np.where(np.arange(200) % 2, self.both, self.alone)
        labels = {"both": self.both, "alone": self.alone, "either": either}[right]
        folder.mkdir(exist_ok=True)
        (folder / "weights").mkdir(exist_ok=True)
        np.savez(
            train.weights_path(folder, "race-1"),
            **{"dense/kernel": kernel, "dense/bias": np.zeros(2, np.float32)},
        )
        notes: dict[str, Any] = {}
        super().__init__(
            settings=SimpleNamespace(
                views=views, goal=parse_goal(goal), task="classify", work=folder
            ),
            ledger=SimpleNamespace(notes=notes, note=notes.__setitem__),
            images=SimpleNamespace(
                valid=SimpleNamespace(
                    at=lambda *size: SimpleNamespace(pixels=pixels, labels=labels)
                )
            ),
            lab=SimpleNamespace(host=MadeHost()),
            left=left,
        )

    def decided(self, recipe: Recipe = FLIPPED, hurried: bool = False, net: Net = NET) -> Views:
        trial = Trial("race-1", "race", {}, net, recipe)
        return decided(
            self, Result(trial, "done", 0.5, images_per_second=1e4), recipe.flip, hurried
        )


def test_the_second_view_is_taken_where_it_is_more_often_right(tmp_path):
    made = Made(tmp_path, "both")
    views, gain = made.decided(), float((made.alone != made.both).mean())
    assert 0.05 < gain < 0.5
    assert views.count == 2
    assert views.images == 200
    assert views.effect is not None
    assert views.effect.accuracy_change == pytest.approx(gain)
    assert 0 < views.effect.low < gain < views.effect.high
    assert views.effect.time_ratio == pytest.approx(2)
    for words in (
        f"+{100 * gain:.1f} points",
        "200 validation images",
        "twice the macs",
        "--views 1",
    ):
        assert words in views.said


def test_it_is_taken_where_early_answers_cannot_tell(tmp_path):
    views = Made(tmp_path, "either").decided()
    assert views.effect is not None
    assert views.effect.low < 0 < views.effect.high
    assert views.count == 2
    assert "within chance" in views.said


def test_it_is_left_out_where_it_is_surely_less_often_right_and_that_is_said(tmp_path):
    views = Made(tmp_path, "alone").decided()
    assert views.count == 1
    assert views.effect is not None
    assert views.effect.high < 0
    assert "tried and dropped" in views.said
    assert "--views 2" in views.said


@pytest.mark.parametrize(
    ("how", "recipe", "count"),
    [
        ({}, Recipe(), 1),  # mirrored images were not trained on
        ({"views": "2"}, Recipe(), 2),
        ({"views": "1"}, FLIPPED, 1),
        ({"goal": "cheapest"}, FLIPPED, 1),
        ({"goal": "accuracy where macs<100"}, FLIPPED, 1),  # one view has 60, two have 120
        ({"goal": "accuracy where macs<100", "views": "2"}, FLIPPED, 1),
        ({"goal": "accuracy where macs<120.5"}, FLIPPED, 2),
        ({"goal": "accuracy where latency<0.001ms"}, FLIPPED, 1),
        ({"left": 1e-3}, FLIPPED, 1),  # no time to measure it
    ],
)
def test_when_it_is_thought_of_at_all(tmp_path, how, recipe, count):
    assert Made(tmp_path, "both", **how).decided(recipe).count == count


def test_a_limit_that_it_would_break_is_named(tmp_path):
    said = Made(tmp_path, "both", goal="accuracy where macs<100").decided().said
    assert "over the limit of macs" in said


def test_what_was_decided_stays_decided(tmp_path, monkeypatch):
    """The final training may have seen the validation images: they are not asked again."""
    made = Made(tmp_path, "both")
    first = made.decided()
    monkeypatch.setattr(mirrored, "measured", None)
    made.ledger.notes[mirrored.VIEWS] = json.loads(json.dumps(made.ledger.notes[mirrored.VIEWS]))
    assert made.decided() == first
    assert made.decided(hurried=True) == first


def test_an_interrupted_study_does_not_measure_it(tmp_path):
    assert Made(tmp_path, "both").decided(hurried=True).count == 1
    made = Made(tmp_path, "both", views="2")
    assert made.decided(hurried=True).count == 2
    assert not made.ledger.notes, "so that a continued study measures it"


def test_what_it_costs_is_told_with_the_result():
    result = Result(
        Trial("final", "final", {}, NET, FLIPPED),
        "done",
        cost={"params": 62, "macs": 60, "latency_ms": 1.0},
    )
    assert with_views(result, Views()) is result
    both = with_views(result, Views(2))
    assert both.trial.net == replace(NET, mirrored_view=True)
    assert (both.cost["params"], both.cost["macs"]) == (62, 120)


def test_a_number_of_views_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(UnusableInput, match="--views: is '3'; expected one of auto, 1, 2"):
        validate(Settings("digits", out=tmp_path, views="3"))


def test_of_numbers_the_mean_is_taken_too(tmp_path):
    """Each image's number is the mean of what its views say: the second view leaves no error."""
    made = Made(tmp_path, "both")
    net = Net(NET.input_shape, (Flatten(), Dense(1), Rescaling(10.0, 5.0)))
    pixels = made.images.valid.at().pixels
    kernel = np.random.default_rng(1).normal(0, 0.01, (30, 1)).astype(np.float32)
    np.savez(
        train.weights_path(tmp_path, "race-1"),
        **{"dense/kernel": kernel, "dense/bias": np.ones(1, np.float32)},
    )
    views = [
        10 * (each.reshape(200, -1) @ kernel.astype(float) + 1) + 5
        for each in (pixels, pixels[:, :, ::-1])
    ]
    numbers = (views[0] + views[1])[:, 0] / 2
    made.images.valid.at = lambda *size: SimpleNamespace(pixels=pixels, labels=numbers)
    made.settings.task, made.settings.goal = "regress", parse_goal(None, "error")
    found = made.decided(net=net)
    error = float(np.abs(views[0][:, 0] - numbers).mean())
    assert found.count == 2
    assert found.effect is not None
    assert found.effect.score.change(found.effect.accuracy_change) == pytest.approx(
        -error, rel=1e-3
    )
    assert "mean absolute error -" in found.said


def test_what_is_trained_of_such_a_net_is_one_view():
    found = fitted(replace(NET, mirrored_view=True), 2, (0.4,), (0.07,))
    assert not found.net.mirrored_view
    assert "only one view is trained, not its mirrored view" in found.notes[0]


@pytest.fixture(scope="module")
def handed_over(tmp_path_factory) -> Path:
    """A short study of round blobs, which look the same in a mirror, that looks at both views."""
    pixels, labels = blobs(2, 60, 12)
    folder = tmp_path_factory.mktemp("views") / "out"
    np.savez(folder.with_name("blobs.npz"), x=pixels, y=labels)
    asked = ask(
        str(folder.with_name("blobs.npz")),
        folder,
        Serial(),
        [],
        trials=2,
        views="2",
        goal="accuracy where params<3k",
    )
    return asked.run(deliver.write)


def test_all_that_is_handed_over_looks_at_both_views(handed_over):
    found = choice.load(handed_over)
    assert found.net.mirrored_view
    assert found.record["views"]["count"] == 2
    assert found.record["cost"]["macs"] == 2 * analyse(found.net.one_view).total.macs
    said = found.record["views"]["said"]
    assert said in found.record["notes"]
    assert said in "\n".join(choice.summary(found.record, handed_over))
    assert said.split(":")[0] in html.unescape((handed_over / "report.html").read_text())
    assert max(found.record["exports"].values()) < 1e-3


def test_it_predicts_with_the_mean_of_both(handed_over):
    net, weights, _ = formats.read(handed_over)
    pixels, _ = blobs(2, 4, net.input_shape[0], seed=1)
    rows = predicting.predict(handed_over, pixels, 1)
    views = [train.answers(net.one_view, weights, each) for each in (pixels, pixels[:, :, ::-1])]
    told = np.array([list(row["probabilities"].values()) for row in rows])
    assert told == pytest.approx((views[0] + views[1]) / 2, abs=1e-3)


def test_what_is_measured_of_it_is_the_net_that_was_trained(handed_over):
    subject = measuring._Chosen.read(handed_over).subject
    assert not subject.net.mirrored_view
    assert subject.configuration is not None
