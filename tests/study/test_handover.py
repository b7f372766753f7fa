"""What a study says of its result beside the probe of `look`, in its files, on the terminal and by
its exit code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convwise import handover
from convwise.cli import app as cli
from convwise.core.intervals import wilson
from convwise.core.layers import Dense
from convwise.core.net import Net
from convwise.core.records import Fingerprint, Measure, Probed, Verdict
from convwise.formats import Handed
from convwise.images.loading import Part
from convwise.output import choice, deliver, report
from convwise.output.deliver import Material
from convwise.training import train
from labs import Serial, ask, looked
from made_evidence import evidence
from studies import command

IMAGES, TEST = 1000, 200  # of the made study; its test part
FEW, MANY = 0.5, 60.0  # epochs of the made trainings: too few, and as many as are of use


def knowing(probe: float, looked_at: int = 800) -> Callable[..., Fingerprint]:
    """`look`, with a probe that gets that share right."""

    def look(part: Any, classes: Any, **how: Any) -> Fingerprint:
        facts = looked(part, classes, **how)
        measures = [each for each in facts.measures if each.name != "probe_accuracy"]
        made = Measure("probe_accuracy", probe, "accuracy", "made up", probe - 0.03, probe + 0.03)
        return replace(facts, measures=(*measures, made), looked_at=looked_at)

    return look


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Material]:
    """What a study of two classes hands over whose network gets the share `right` of its test
    images right.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(IMAGES) % 2
    pixels = rng.integers(0, 256, (IMAGES, 12, 12, 1), dtype=np.uint8)
    pixels[:, 0, 0, 0] = labels  # by which the made answers know them

    def make(right: float, probe: float, views: float = MANY, goal: str = "accuracy") -> Material:
        def answers(net: Net, weights: Any, images: np.ndarray) -> np.ndarray:
            wrong = np.arange(len(images)) >= round(right * len(images))
            return np.eye(2)[np.where(wrong, 1 - images[:, 0, 0, 0], images[:, 0, 0, 0])]

        class Made(Serial):
            def result(self, trial: Any) -> Any:
                found = super().result(trial)
                seen = [replace(point, images=round(views * IMAGES)) for point in found.history]
                return replace(found, history=tuple(seen))

        monkeypatch.setattr(train, "answers", answers)
        written: list[Material] = []
        runner = Made(score=lambda configuration: right)
        ask(
            (pixels, labels),
            tmp_path / "out",
            runner,
            written,
            look=knowing(probe),
            goal=goal,
            trials=1,
            test=0.2,
        ).run()
        return replace(written[0], folder=tmp_path / "out")  # where it is put when it is whole

    return make


def record_of(material: Material) -> dict[str, Any]:
    """choice.json of what is handed over, without model files and plots."""
    folder = deliver.write(
        replace(material, left=lambda: 0.0), lambda *given, **how: Handed({}, {})
    )
    return deliver.read_choice(folder)


def test_a_network_that_is_surely_less_accurate_than_the_probe_is_not_called_chosen(study):
    material = study(right=0.7, probe=0.9)
    assert material.better, "than guessing"
    record = record_of(material)
    probe, first = record["test"]["probe"], record["notes"][0]
    assert (probe["accuracy"], probe["n"], probe["verdict"]) == (0.9, 800, "worse")
    assert probe["accuracy_change"] == pytest.approx(-0.2)
    assert probe["change_low"] < -0.2 < probe["change_high"] < 0
    assert first.startswith(
        "This network is less accurate than the probe of `look`, a linear model on simple filters: "
    )
    assert "70.0 % against 90.0 % (-20.0 points, -26.9 to -13.7)" in first
    assert "take a linear model" in first
    assert "check the labels" not in first, "which the probe has learnt"
    line, *lines = choice.summary(record, material.folder)
    assert line == f"No network was chosen. {first}"
    assert lines[0].startswith("Written anyway: ")
    assert (
        "A probe without training: 90.0 % (87.7 to 91.9 % at 95 %) on 800 training images; this"
        " network: " in ("\n".join(lines))
    )
    assert not choice.load(material.folder).is_chosen
    text = (material.folder / "report.html").read_text(encoding="utf-8")
    assert (
        text.index("No network was chosen.")
        < text.index("less accurate than the probe")
        < text.index("<dl")
    )


def test_why_it_is_no_choice_goes_by_how_long_it_was_trained_and_by_the_goal(study):
    assert (
        "The trainings were too short: each image was seen"
        in study(0.7, 0.9, views=FEW).verdict.notes[0]
    )


def test_the_limits_of_a_goal_are_named_as_what_may_be_too_tight(study):
    note = study(0.7, 0.9, goal="accuracy where macs<100k").verdict.notes[0]
    assert "raise the limits of the goal, or take a linear model" in note


def test_a_network_that_keeps_the_accuracy_that_was_asked_for_is_chosen(study):
    material = study(0.7, 0.9, goal="macs where accuracy>=0.65")
    assert material.probe is not None
    assert material.probe.verdict == "not better"
    assert material.verdict.notes[0].startswith("This network is less accurate than the probe")
    assert material.verdict.notes[0].endswith("The goal asks for no more.")


def test_a_network_that_may_be_as_good_as_the_probe_is_chosen_with_a_note(study):
    record = record_of(study(right=0.9, probe=0.9))
    assert record["test"]["probe"]["verdict"] == "not better"
    assert record["notes"][0].startswith(
        "This network is not shown to be more accurate than the probe of `look`"
    )
    assert record["notes"][0].endswith("90.0 % against 90.0 % (+0.0 points, -5.3 to +4.1).")
    assert choice.summary(record, Path())[0].startswith("Chosen: ")


def test_a_network_that_surely_beats_the_probe_needs_no_note(study):
    record = record_of(study(right=0.99, probe=0.8))
    assert record["test"]["probe"]["verdict"] == "better"
    assert not any("probe" in note for note in record["notes"])
    assert choice.is_chosen(record["test"])


def test_what_does_not_beat_guessing_is_told_so_first(study):
    first, second, *_ = study(right=0.5, probe=0.9).verdict.notes
    assert first.startswith(
        "This network is not shown to be better than always answering the largest class. "
    )
    assert first.endswith("check the labels.")
    assert second.startswith("This network is less accurate than the probe of `look`")
    assert "linear model, such as" not in second


def test_another_score_than_the_probes_is_not_compared_with_it(study):
    material = study(right=0.7, probe=0.9, goal="balanced_accuracy")
    assert material.probe is None
    assert "probe" not in record_of(material)["test"]


def test_the_report_has_the_same_banner():
    case = evidence()
    probe = Probed(0.95, 0.93, 0.97, 800, -0.05, -0.08, -0.02, "worse")
    estimate = {**case.estimate, "better_than_guessing": True, "probe": vars(probe)}
    assert report.sections(replace(case, estimate=estimate))["failed"]
    assert not report.sections(
        replace(case, estimate={**estimate, "probe": {**vars(probe), "verdict": "better"}})
    )["failed"]


def test_folders_of_older_versions_have_no_probe(chosen):
    record = json.loads((chosen.folder / "choice.json").read_text())
    del record["test"]["probe"]
    assert choice.is_chosen(record["test"])
    assert not any("probe" in line.lower() for line in choice.summary(record, chosen.folder)[:3])


@pytest.mark.slow
def test_digits_under_a_limit_that_a_linear_model_beats(tmp_path):
    """Real digits, by the command line: the folder is whole, and the exit code says that the answer
    is no.
    """
    out = tmp_path / "out"
    ended = command(
        "choose",
        "digits",
        "--trials",
        1,
        "--workers",
        1,
        "--goal",
        "accuracy where params<400",
        "--out",
        out,
    )
    record = deliver.read_choice(out)
    test = record["test"]
    assert test["better_than_guessing"], test
    assert test["probe"]["accuracy"] > 0.97
    assert test["accuracy"] < 0.9
    assert ended.returncode == 1
    assert ended.stdout.startswith(
        "No network was chosen. This network is less accurate than the probe of `look`"
    )
    assert {"model.onnx", "model.keras", "model.safetensors", "report.html"} <= {
        path.name for path in out.iterdir()
    }
    assert not cli._tell_choice(out, as_json=True)


def test_what_effects_say_of_the_end_goes_by_the_most_mistakes_there_may_be(study, monkeypatch):
    told, real = [], handover.at_the_end

    def at_the_end(verdict: Verdict, *given: Any) -> Verdict:
        told.append(given[-1])
        return replace(real(verdict, *given), alternatives=())  # to know it again

    monkeypatch.setattr(handover, "at_the_end", at_the_end)
    assert study(right=0.9, probe=0.5).verdict.alternatives == ()
    assert told == [pytest.approx(1 - wilson(180, TEST)[0])]


@pytest.mark.parametrize(
    ("seconds", "count"),
    [(0.1, 1900), (1.0, handover.LEAST_SCORED), (0.001, IMAGES * 4)],
    ids=["as many as there is time for", "a few in any case", "all"],
)
def test_after_an_interrupt_as_many_are_scored_as_there_is_time_for(monkeypatch, seconds, count):
    """seconds: that TIMED images take, of 9 that are left; a third of the rest is for scoring."""
    pixels = np.arange(IMAGES * 4, dtype=np.int64).astype(np.uint8).reshape(-1, 1, 1, 1)
    part = Part(pixels, np.arange(IMAGES * 4), tuple(map(str, range(IMAGES * 4))))
    spent = []
    monkeypatch.setattr(train, "answers", lambda net, weights, images: spent.append(seconds))
    net = Net((1, 1, 1), (Dense(2),))

    def affordable(left: float, seed: int = 0) -> Part:
        spent.clear()
        return handover._affordable(part, net, {}, seed, lambda: left - sum(spent))

    assert affordable(inf) is part
    assert not spent
    found = affordable(9.0)
    assert len(found) == pytest.approx(count, rel=0.01)
    assert list(found.names) == [str(label) for label in found.labels]
    assert np.array_equal(found.pixels[:, 0, 0, 0], found.labels.astype(np.uint8))
    assert np.array_equal(found.labels, np.sort(found.labels))
    if len(found) < len(part):
        assert set(affordable(9.0).labels) == set(found.labels)
        assert set(affordable(9.0, seed=1).labels) != set(found.labels)
        # Drawn from all, however they are ordered
        assert abs(found.labels.mean() - part.labels.mean()) < 4 * len(part) / len(found) ** 0.5
