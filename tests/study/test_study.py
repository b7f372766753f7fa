"""The study: its stages, what it keeps, what it opens, and how it ends when something goes
wrong.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from PIL import Image

import convwise
from convwise import formats
from convwise.advice.advising import advise
from convwise.core.calculus import analyse
from convwise.core.clock import Clock
from convwise.core.goal import parse_goal
from convwise.core.layers import AveragePooling2D
from convwise.core.net import Net
from convwise.core.problems import ConvwiseError, Infeasible, Unsupported, UnusableInput
from convwise.core.records import Engine
from convwise.evidence.records import Memory
from convwise.formats import FORMATS, Handed, format_module
from convwise.images import sampling
from convwise.images.loading import read
from convwise.interrupts import REPEATED_SECONDS
from convwise.ledger import NAME, Ledger
from convwise.notes import OPENED
from convwise.output import choice, deliver
from convwise.output.deliver import Material
from convwise.plan import planned
from convwise.search import race
from convwise.search.phases import RACE, Search
from convwise.search.searching import verdict
from convwise.training import machine, train
from convwise.training.lab import Lab
from imagesets import striped, write_folder, write_parts
from labs import Asked, MadeHost, Serial, ask, looked, made_up
from studies import PACE

LIMITED = "accuracy where macs<100k"


@pytest.fixture
def serial() -> Serial:
    """Trials in this process: its fields say how they go. They are made up, unless a test asks for
    `trained`.
    """
    return Serial(score=lambda configuration: 0.9)


@pytest.fixture
def trained(serial) -> Serial:
    """The same, and they train."""
    serial.score = None
    return serial


@pytest.fixture
def written() -> list[Material]:
    """What would have been written: Material by Material, and no file."""
    return []


@pytest.fixture
def a_study(serial, written) -> Callable[..., Asked]:
    """A counted study, of four trials unless more are asked for."""

    def make(source, out: Path, trials: int | None = 4, **fields) -> Asked:
        return ask(source, out, serial, written, trials=trials, **{"goal": LIMITED, **fields})

    return make


@pytest.fixture(scope="module")
def stripes(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images") / "stripes", ("a", "b", "c"), 30, 12, "L")


def test_what_is_no_better_than_guessing_is_not_called_a_choice(
    tmp_path, trained, a_study, written
):
    """Noise without a meaning: nothing can be learnt of it."""
    rng = np.random.default_rng(0)
    pixels, labels = (
        rng.integers(0, 256, (90, 12, 12, 1), dtype=np.uint8),
        rng.permutation(np.arange(90) % 3),
    )
    a_study((pixels, labels), tmp_path / "out", trials=2).run()
    assert not written[0].better
    assert (
        written[0]
        .verdict.notes[0]
        .startswith("This network is not shown to be better than always answering")
    )
    assert (
        "would be needed" in written[0].verdict.notes[0]
        or "check the labels" in written[0].verdict.notes[0]
    )


@pytest.mark.slow
def test_with_time_for_one_training_alone_its_answers_decide_on_mirroring(
    tmp_path, trained, a_study, written
):
    """Upright and lying bars, mirrored, are what they were; slanted ones become the others."""
    upright, labels = striped(2, 60, 12, seed=1)
    rng, rows = np.random.default_rng(0), np.arange(12)
    slanted = np.stack(
        [((rows[:, None] + rows + rng.integers(4)) % 4 < 2) * rng.integers(90, 250) for _ in labels]
    )
    slanted = (slanted + rng.integers(0, 6, slanted.shape))[..., None].astype(np.uint8)
    slanted[labels == 1] = slanted[labels == 1][:, :, ::-1]
    for name, pixels in (("upright", upright), ("slanted", slanted)):
        a_study((pixels, labels), tmp_path / name, trials=1, views=2, goal="accuracy").run()
    assert ["although it was not trained" in found.views.said for found in written] == [False, True]
    safe, unsafe = ((found.final, found.verdict.reasons[0].because) for found in written)
    assert (safe[0].trial.recipe.flip, unsafe[0].trial.recipe.flip) == (True, False)
    assert ("mirrored" in safe[1], "mirrored" in unsafe[1]) == (True, False)
    assert all(each.trial.resumes.startswith("race-") for each, _ in (safe, unsafe))


def test_a_study_of_a_part_of_the_images_says_so(
    stripes, tmp_path, a_study, serial, written, monkeypatch
):
    """Of 90 files that take a second each, a tenth of ten minutes reads 60; counted trials read
    all.
    """
    for name, number in {"FILE_SECONDS": 1.0, "PIXEL_SECONDS": 0.0, "FEW": 1}.items():
        monkeypatch.setattr(sampling, name, number)
    told: list[str] = []
    by_clock = a_study(stripes, tmp_path / "clock", trials=None, budget=600.0)
    replace(
        by_clock, lab=replace(by_clock.lab, watcher=lambda told_now: told.append(told_now.note))
    ).run()
    a_study(stripes, tmp_path / "counted", budget=600.0).run()
    part, everything = written
    with pytest.raises(
        UnusableInput, match=r"a different study: .*'budget': 600.0.*'budget': 300.0"
    ):
        a_study(stripes, tmp_path / "clock", trials=None, budget=300.0).run()
    assert any(
        "60 of 90 images (67 %), each class in proportion" in note for note in part.verdict.notes
    )
    assert any("60 of 90 images" in note for note in told)
    assert part.images.facts["seen"]["read"] == 60
    assert len(part.scored) == 12
    assert everything.images.facts["read"] == 90
    assert not any("The study has read" in note for note in everything.verdict.notes)


def test_how_many_answers_stay_when_pictures_are_resized_by_nearest_pixel_is_counted(
    tmp_path, a_study, serial, written, monkeypatch
):
    """Oracle: the files of the sealed images, resized by Pillow. The made-up answer is told by one
    pixel.
    """
    serial.score = lambda configuration: 0.9
    monkeypatch.setattr(
        train, "answers", lambda net, weights, pixels: np.eye(3)[pixels[:, 30, 40, 0] % 3]
    )
    source = write_folder(tmp_path / "images", ("a", "b", "c"), 20, (90, 100), "L")
    a_study(source, tmp_path / "out", trials=1).run()
    (material,) = written
    first, (height, width, _) = (
        material.chosen.trial.net.layers[0],
        material.chosen.trial.net.input_shape,
    )
    assert isinstance(first, AveragePooling2D)
    assert first.pool_size == (2, 2)
    smooth, nearest = (
        [
            Image.open(source / name).resize((width, height), way).getpixel((40, 30)) % 3
            for name in material.scored.names
        ]
        for way in (Image.Resampling.BILINEAR, Image.Resampling.NEAREST)
    )
    same = sum(one == other for one, other in zip(smooth, nearest, strict=True))
    assert material.otherwise == {"n": 12, "same": same}
    assert 0 < same < 12


# --- the whole, once -----------------------------------------------------------------------------


def test_the_folder_holds_everything(chosen):
    assert chosen.ended.returncode == 0, chosen.ended.stderr
    expected = {"choice.json", "report.html", "model_keras.py", "model_torch.py", "model.keras",
                "model.safetensors",
                "model.onnx", "study.db"}  # fmt: skip
    names = {path.name for path in chosen.folder.iterdir()}
    assert expected <= names
    assert not any(name.startswith(".") for name in names)
    assert all(path.stat().st_size > 100 for path in chosen.folder.iterdir())


def test_without_a_terminal_there_are_events_alone(chosen):
    """Of --json, a line each; TensorFlow, which Keras loads, says nothing of its own."""
    events = [json.loads(line) for line in chosen.ended.stderr.splitlines()]
    assert {"stage", "done", "planned", "best", "seconds_left", "note"} <= set(events[0])
    guessed = {event["baseline"] for event in events if event["stage"] == "race"}
    assert guessed == {1 / 3}, "of three classes alike, also before the first result"


def test_choice_json_keeps_the_contract(chosen):
    text = (chosen.folder / "choice.json").read_text()

    def not_json(word):
        raise AssertionError(f"{word} is no JSON")

    choice = json.loads(text, parse_constant=not_json)
    assert {
        "net",
        "test",
        "cost",
        "effects",
        "alternatives",
        "reasons",
        "data",
        "provenance",
    } <= set(choice)
    net = Net.from_json(choice["net"])
    total = analyse(net).total
    assert {"accuracy", "low", "high", "n"} <= set(choice["test"])
    assert choice["test"]["kind"] == "test"
    assert choice["test"]["low"] <= choice["test"]["accuracy"] <= choice["test"]["high"]
    assert choice["test"]["n"] == choice["data"]["test"] == 24
    assert choice["cost"]["params"] == total.params
    assert choice["cost"]["macs"] == total.macs <= 100_000
    assert choice["cost"]["activation_bytes"] == total.activation_bytes
    assert choice["cost"]["latency_ms"] > 0
    effect = {"parameter", "from", "to", "accuracy_change", "low", "high", "time_ratio", "verdict"}
    assert all(effect <= set(row) for row in choice["effects"])
    assert choice["alternatives"]
    assert choice["data"]["classes"] == ["4", "down", "up, or so"]
    assert {"machine", "seed", "command"} <= set(choice["provenance"])
    assert "choose" in choice["provenance"]["command"]
    assert set(choice["reasons"]["layers"]) == {layer.name for layer in net.layers}
    assert all(difference < 1e-3 for difference in choice["exports"].values())


def test_the_sealed_accuracy_is_that_of_the_written_model(chosen):
    """Read the images anew, take the sealed part, and ask the generated PyTorch source."""
    choice = deliver.read_choice(chosen.folder)
    sealed = read(chosen.images, seed=0).test.open()
    space: dict = {"__name__": "model_torch"}
    exec((chosen.folder / "model_torch.py").read_text(), space)
    import torch

    model = space["load"](str(chosen.folder / "model.safetensors"))
    with torch.no_grad():
        found = (
            model(torch.from_numpy(np.array(sealed.pixels)).permute(0, 3, 1, 2).float())
            .argmax(1)
            .numpy()
        )
    assert (found == sealed.labels).mean() == pytest.approx(choice["test"]["accuracy"])


def test_optuna_opens_the_study(chosen):
    found = optuna.load_study(study_name=NAME, storage=f"sqlite:///{chosen.folder / 'study.db'}")
    states = [trial.state.name for trial in found.trials]
    assert states == ["COMPLETE"] * 4 + ["PRUNED"]
    assert [t.user_attrs["stage"] for t in found.trials] == ["race"] * 4 + ["final"]


def test_a_finished_study_is_left_as_it_is(chosen):
    before = (chosen.folder / "choice.json").stat().st_mtime_ns
    notes = []
    found = convwise.choose(
        chosen.images, goal=LIMITED, trials=4, out=chosen.folder, watcher=notes.append
    )
    assert found.folder == chosen.folder
    assert "finished" in notes[-1].note
    assert (chosen.folder / "choice.json").stat().st_mtime_ns == before


# --- sealing -------------------------------------------------------------------------------------


def test_the_test_part_is_opened_once_and_last(stripes, tmp_path, a_study, written):
    opened, images = [], []

    def reading(*how, **options):
        images.append(read(*how, **options))
        return images[-1]

    def told(progress):
        opened.append((progress.phase, images[0].test.opened))

    a_study(stripes, tmp_path / "out", read=reading, watcher=told).run()
    assert images[0].test.opened == 1
    assert opened
    assert opened.pop() == ("finished", 1)
    assert all(count == 0 for _, count in opened)
    (material,) = written
    assert material.kind == "test"
    assert len(material.scored) == images[0].test.size
    assert deliver.estimate(material)["kind"] == "test"


def test_the_sources_own_test_part_is_the_sealed_one(tmp_path, a_study, written):
    source = write_parts(tmp_path / "parts", ("train", "test"), per_class=12, size=12, mode="L")
    a_study(source, tmp_path / "out").run()
    assert all(name.startswith("test/") for name in written[0].scored.names)
    assert len(written[0].scored) == 24


def test_where_nothing_is_sealed_the_estimate_is_called_validation(
    stripes, tmp_path, a_study, written
):
    a_study(stripes, tmp_path / "out", test="none").run()
    assert written[0].images.test is None
    estimate = deliver.estimate(written[0])
    assert estimate["kind"] == "validation"
    assert estimate["n"] == len(written[0].images.valid)


def test_a_validation_estimate_is_that_of_the_network_handed_over(
    stripes, tmp_path, trained, a_study, written
):
    """Nothing is sealed, so the final training holds the validation part back, and the number told
    is its own.
    """
    a_study(stripes, tmp_path / "out", test="none").run()
    (material,) = written
    final = material.final
    assert (final.trial.phase, final.trial.part) == ("final", "train")
    weights = train.load_weights(tmp_path / "out" / ".study", "final")
    assert all((material.weights[key] == weights[key]).all() for key in weights)
    expected = train.answers(final.trial.net, weights, np.asarray(material.scored.pixels))
    assert material.answers == pytest.approx(expected)
    assert deliver.estimate(material)["accuracy"] == pytest.approx(final.score)
    # None of the validation images was learnt from
    assert final.history[-1].images <= 16 * len(material.images.train)


def test_the_final_training_sees_everything_that_is_not_sealed(
    stripes, tmp_path, trained, a_study, written
):
    a_study(stripes, tmp_path / "out").run()
    final, images = written[0].final, written[0].images
    assert (final.trial.part, final.score) == ("all", None)
    assert final.trial.configuration == written[0].verdict.chosen.trial.configuration
    everything = len(images.train) + len(images.valid)
    assert everything + images.test.size == 90
    assert final.history[-1].images >= 15 * everything - 200


# --- the same again ------------------------------------------------------------------------------


def test_counted_studies_repeat_themselves(stripes, tmp_path, trained, a_study, written):
    for name in ("one", "two"):
        a_study(stripes, tmp_path / name).run()
    one, two = written
    assert one.verdict.chosen.trial.net == two.verdict.chosen.trial.net
    assert (one.answers == two.answers).all()
    assert [(r.trial.id, r.score) for r in one.results] == [
        (r.trial.id, r.score) for r in two.results
    ]
    assert deliver.estimate(one) == deliver.estimate(two)


def test_another_seed_is_another_study(stripes, tmp_path, a_study, written):
    for seed in (0, 1):
        a_study(stripes, tmp_path / str(seed), seed=seed).run()
    assert written[0].scored.names != written[1].scored.names


# --- the race, with made-up scores ---------------------------------------------------------------


def likes_five(configuration) -> float:
    """Only nets of 5x5 kernels learn; nothing else matters."""
    return 0.9 if configuration["stage.kernel_size"] == 5 else 0.3


SMALL = "accuracy where macs<200M"  # so that every single change is inside it


def raced(source, score=likes_five, workers: int = 1, clock: Clock | None = None,
          after=lambda trial: None, **fields) -> Search:  # fmt: skip
    """The race of a study by the clock, its trainings made up; after: is told of each as it
    ends.
    """
    images = read(source, seed=0)
    host = MadeHost(workers=workers, cores=workers, pace=PACE)
    facts = looked(images.train, images.classes, seed=0, budget=600.0)
    clock = clock or Clock(600.0, time.monotonic())
    advice = advise(facts, parse_goal(SMALL), host.pace, 0.8 * clock.budget, workers)
    budget = planned(
        advice, (len(images.train), len(images.valid)), Lab(host, clock), 1.0, **fields
    )
    search = Search(advice, Memory(), budget)
    for wave in race.waves(search):
        for trial in wave.trials:
            after(trial)
            search.record.append(made_up(trial, score(trial.configuration)))
    return search


def test_what_is_better_is_found_called_so_and_trained_to_the_end(
    stripes, tmp_path, a_study, serial, written
):
    serial.score = likes_five
    a_study(stripes, tmp_path / "out", 12, goal=SMALL).run()
    (material,) = written
    assert [r.trial.phase for r in material.results] == ["race"] * 12 + ["final"]
    effects = {e.parameter: e for e in material.verdict.effects}
    assert effects["stage.kernel_size"].verdict == "matters"
    assert effects["stage.kernel_size"].accuracy_change == pytest.approx(0.6)
    assert all(
        e.accuracy_change == pytest.approx(0)
        for n, e in effects.items()
        if n != "stage.kernel_size"
    )
    assert (
        material.chosen.trial.configuration["stage.kernel_size"]
        == 5
        != material.advice.configuration["stage.kernel_size"]
    )
    choice = deliver._choice(material, {}, Handed({}, {}), {})
    told = {reason["parameter"]: reason["value"] for reason in choice["reasons"]["choices"]}
    assert {name: told[name] for name in choice["configuration"]} == choice["configuration"]


def test_the_parts_of_the_chosen_training_follow_one_another_to_the_end(
    stripes, tmp_path, trained, a_study, written
):
    a_study(stripes, tmp_path / "out", 6).run()
    (material,) = written
    known, trial, spans = {r.trial.id: r.trial for r in material.results}, material.final.trial, []
    while True:
        spans.insert(0, trial.span)
        if not trial.resumes:
            break
        trial = known[trial.resumes]
    assert spans[0][0] == 0.0
    assert spans[-1][1] == 1.0
    assert len(spans) >= 2
    assert [end for _, end in spans[:-1]] == pytest.approx([begin for begin, _ in spans[1:]])
    assert trial.configuration == material.chosen.trial.configuration


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_a_timed_race_gives_most_of_the_time_to_one_training(stripes, workers):
    """On a clock that goes on by the seconds of each wave; evidence is the share of core time for
    the others.
    """
    now, ended = [6.0], set()

    def after(trial):
        wave = trial.id.rsplit("-", 1)[0]
        now[0] += 0 if wave in ended else trial.seconds + 0.6
        ended.add(wave)

    search = raced(stripes, workers=workers, clock=Clock(600.0, 0.0, lambda: now[0]), after=after)
    ran = search.tried(RACE)
    beside = [r for r in ran if r.trial.configuration != search.advice.configuration]
    assert len(verdict(search).effects) >= (2 if workers == 1 else 5)
    spent = sum(r.trial.seconds for r in beside)
    assert spent <= (0.1 + 0.1 * (workers == 1) + (workers - 1) * 0.1 / workers) * 600 * workers
    assert now[0] <= 0.5 * 600  # most of it is left for the final training
    assert all(0 <= r.trial.span[0] < r.trial.span[1] < 0.6 for r in ran)


@pytest.mark.parametrize(("budget", "fields"), [(20.0, {}), (600.0, {"evidence": 0.0})])
def test_where_there_is_no_time_or_no_wish_one_net_is_trained_well(stripes, budget, fields):
    search = raced(stripes, workers=2, clock=Clock(budget, time.monotonic()), **fields)
    (only,) = search.tried(RACE)
    assert only.trial.configuration == search.advice.configuration
    assert "nothing was tested" in verdict(search).reasons[0].because
    assert only.trial.seconds <= 0.1 * budget


@pytest.mark.slow
def test_a_failed_trial_costs_only_itself(stripes, tmp_path, a_study, serial, written):
    serial.fails = ("race-2-1", "race-4-1")
    a_study(stripes, tmp_path / "out", 6).run()
    (material,) = written
    states = {r.trial.id: r.status for r in material.results}
    assert states["race-2-1"] == states["race-4-1"] == "failed"
    assert len(states) == 7
    assert material.verdict.chosen.status == "done"


def test_where_all_fail_the_reason_is_told(stripes, tmp_path, a_study, serial, written):
    serial.fails = tuple(f"race-{i}-1" for i in range(9))
    with pytest.raises(Infeasible, match="made up"):
        a_study(stripes, tmp_path / "out").run()
    assert not written


def test_where_the_final_training_fails_the_search_answers(
    stripes, tmp_path, a_study, trained, written
):
    trained.fails = ("final",)
    a_study(stripes, tmp_path / "out").run()
    (material,) = written
    assert material.final is None
    assert material.chosen.trial.phase == "race"
    kept = train.load_weights(tmp_path / "out" / ".study", material.chosen.trial.id)
    assert all((material.weights[key] == kept[key]).all() for key in kept)


# --- stopping and going on -----------------------------------------------------------------------


ONE_FAST = [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4))]


@pytest.mark.parametrize("after", ONE_FAST)
def test_an_interrupted_study_gives_the_best_so_far(
    stripes, tmp_path, a_study, serial, written, after
):
    serial.stops = (after, KeyboardInterrupt())
    a_study(stripes, tmp_path / "out").run()
    (material,) = written
    assert material.final is None
    assert len(material.results) == after
    assert material.chosen.score is not None
    assert material.provenance["interrupted"]
    assert serial.closed


def test_interrupted_in_the_first_trial_the_advised_net_is_the_answer(
    stripes, tmp_path, a_study, trained, written
):
    trained.stops, trained.cuts = (0, KeyboardInterrupt()), True
    a_study(stripes, tmp_path / "out").run()
    (material,) = written
    assert material.chosen.trial.configuration == material.advice.configuration
    assert material.chosen.history[-1].images > 0
    assert material.provenance["interrupted"]


def test_interrupted_before_anything_was_trained_there_is_no_answer(
    stripes, tmp_path, a_study, serial, written
):
    serial.stops = (0, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        a_study(stripes, tmp_path / "out").run()
    assert not written


def test_an_interrupted_final_training_is_the_answer_and_goes_on(
    stripes, tmp_path, a_study, trained, written
):
    """Its weights are handed over; the same command again resumes it, under another name."""
    trained.stops, trained.cuts = (4, KeyboardInterrupt()), True
    a_study(stripes, tmp_path / "out").run()
    trained.stops = None
    a_study(stripes, tmp_path / "out").run()
    cut, whole = written
    assert (cut.chosen.trial.id, cut.chosen.trial.part, cut.provenance["interrupted"]) == (
        "final",
        "all",
        True,
    )
    assert any("interrupted" in note for note in cut.verdict.notes)
    assert trained.ended == ["final-2"]
    assert (whole.chosen.trial.resumes, whole.chosen.trial.span[1]) == ("final", 1.0)
    assert not whole.provenance["interrupted"]
    assert [r.trial.id for r in whole.results][-2:] == ["final", "final-2"]


def interrupted(times: int = 1, notes: list[str] | None = None) -> dict[str, Any]:
    """Of a study that gets signals when it begins to look at its images."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored

    def watcher(progress):
        (notes if notes is not None else []).append(progress.note)
        for number in range(times if progress.phase == "look" else 0):
            # At once, it would be the same wish
            time.sleep(1.1 * REPEATED_SECONDS if number else 0)
            os.kill(os.getpid(), signal.SIGINT)

    return {"watcher": watcher}


def test_an_interrupt_before_the_advice_ends_at_once(stripes, tmp_path, a_study, serial, written):
    with pytest.raises(KeyboardInterrupt):
        a_study(stripes, tmp_path / "out", **interrupted()).run()
    assert not written
    assert serial.closed
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_a_later_second_interrupt_ends_the_writing_at_once(stripes, tmp_path, a_study):
    def write(material):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1.1 * REPEATED_SECONDS)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it goes on")

    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        a_study(stripes, tmp_path / "out").run(write)


def test_an_interrupt_while_the_answer_is_written_does_not_lose_it(stripes, tmp_path, a_study):
    """Twice at once, as a shell and make may send it."""
    whole = []

    def write(material):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        whole.append(material)
        return material.folder

    signal.signal(signal.SIGINT, signal.default_int_handler)
    notes: list[str] = []
    watcher = lambda progress: notes.append(progress.note)  # noqa: E731
    assert a_study(stripes, tmp_path / "out", watcher=watcher).run(write) == tmp_path / "out"
    assert not whole[0].provenance["interrupted"]
    assert any("interrupted" in note for note in notes)
    assert whole[0].left() < 10


@pytest.mark.slow
@pytest.mark.parametrize("after", ONE_FAST)
def test_a_killed_study_goes_on_where_it_was(stripes, tmp_path, a_study, trained, written, after):
    a_study(stripes, tmp_path / "whole").run()
    trained.stops = (after, SystemExit("killed"))
    with pytest.raises(SystemExit):
        a_study(stripes, tmp_path / "out").run()
    trained.stops, notes = None, []
    a_study(stripes, tmp_path / "out", watcher=lambda p: notes.append(p.note)).run()
    whole, continued = written
    assert any("continuing" in note and str(after) in note for note in notes)
    assert len(trained.ended) == 5 - after
    assert [(r.trial.id, r.score) for r in continued.results] == [
        (r.trial.id, r.score) for r in whole.results
    ]
    assert (whole.answers == continued.answers).all()


@pytest.mark.parametrize(("how", "fails"), [({}, ()), ({"test": "none"}, ()), ({}, ("final",))])
def test_a_kill_while_writing_costs_no_training_and_no_second_look_at_the_sealed_part(
    stripes, tmp_path, a_study, serial, written, how, fails
):
    def killed(material):
        written.append(material)
        (material.folder / "model.onnx").write_text("half")
        raise SystemExit("killed")

    serial.fails = fails
    with pytest.raises(SystemExit):
        a_study(stripes, tmp_path / "out", **how).run(killed)
    a_study(stripes, tmp_path / "out", **how).run()
    first, second = written
    assert serial.ended == []  # nothing was trained again
    assert second.final == first.final
    assert second.chosen == first.chosen
    assert second.verdict.notes == first.verdict.notes
    assert not second.provenance["interrupted"]
    assert (second.answers == first.answers).all()
    assert Ledger(tmp_path / "out" / "study.db").notes.get(OPENED, 0) == (0 if how else 1)
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_another_network_after_an_interrupt_opens_the_sealed_part_again_and_says_so(
    stripes, tmp_path, a_study, serial, written
):
    serial.before = {"final": KeyboardInterrupt()}
    a_study(stripes, tmp_path / "out").run()
    serial.before = {}
    a_study(stripes, tmp_path / "out").run()
    assert "opened" not in " ".join(written[0].verdict.notes)
    assert "The sealed test part was opened 2 times" in " ".join(written[1].verdict.notes)


@pytest.mark.slow
def test_a_continued_study_gives_no_name_away_twice(stripes, tmp_path, a_study, serial, written):
    """Weights are kept by name: found here, a continued race began its numbers, and files, anew."""
    serial.stops = (3, SystemExit("killed"))
    with pytest.raises(SystemExit):
        a_study(stripes, tmp_path / "out", 7, workers=2).run()
    serial.stops = None
    a_study(stripes, tmp_path / "out", 7, workers=2).run()
    names = [r.trial.id for r in written[0].results]
    assert len(set(names)) == len(names) == 8
    for result in written[0].results:
        assert result.trial.resumes in {"", *names}


def test_a_study_stopped_in_its_first_trial_trains_its_net_when_continued(
    stripes, tmp_path, a_study, trained, written
):
    """What answered the interrupt is no part of the schedule, and nothing goes on from it."""
    trained.stops, trained.cuts = (0, KeyboardInterrupt()), True
    a_study(stripes, tmp_path / "out").run()
    trained.stops = None
    a_study(stripes, tmp_path / "out", 5).run()
    first = [
        r for r in written[1].results if r.trial.phase == "race" and r.trial.span != race.WHOLE
    ][0]
    assert first.trial.span[0] == 0.0
    assert first.trial.resumes == ""
    assert written[1].final.trial.span[0] < 0.6


@pytest.mark.parametrize("fields", [{"seed": 1}, {"goal": "accuracy where macs<90k"}])
def test_another_study_in_the_same_folder_is_refused(stripes, tmp_path, a_study, serial, fields):
    serial.stops = (1, SystemExit())
    with pytest.raises(SystemExit):
        a_study(stripes, tmp_path / "out").run()
    with pytest.raises(UnusableInput, match="--out"):
        a_study(stripes, tmp_path / "out", **fields).run()
    assert len(Ledger(tmp_path / "out" / "study.db").results) == 1


def stopped_after(trials: int, serial: Serial, asked: Asked) -> None:
    serial.stops = (trials, SystemExit())
    with pytest.raises(SystemExit):
        asked.run()
    serial.stops = None


@pytest.mark.slow
def test_a_continued_study_keeps_its_space(stripes, tmp_path, a_study, serial, written):
    """A measure or a pace taken anew would advise other neighbours, which Optuna refuses in one
    study.
    """
    out = tmp_path / "out"
    stopped_after(1, serial, a_study(stripes, out))
    # This host knows no pace and no cores
    host = SimpleNamespace(name="made up", engine=Engine(), workers=1, describe=dict)
    a_study(
        stripes, out, budget=1200.0, look=lambda *_, **__: pytest.fail("looked again"), host=host
    ).run()
    assert len(written[0].results) == 5


def test_other_pictures_under_the_same_names_are_another_study(tmp_path, a_study, serial):
    source = write_folder(tmp_path / "images", ("a", "b"), 12, 12, "L")
    stopped_after(1, serial, a_study(source, tmp_path / "out"))
    first, second = source / "a", source / "b"
    first.rename(source / "c")
    second.rename(first)
    (source / "c").rename(second)
    with pytest.raises(UnusableInput, match="a different study.*content"):
        a_study(source, tmp_path / "out").run()


def test_a_finished_folder_answers_its_own_question_only(chosen, tmp_path):
    notes, before = [], (chosen.folder / "choice.json").read_text()
    asked = {"goal": "accuracy where macs<100k", "out": chosen.folder, "trials": 4, "workers": 1}
    convwise.choose(chosen.images, **asked, watcher=lambda p: notes.append(p.note))
    assert any("holds a finished study" in note for note in notes)
    other = write_folder(tmp_path / "other", ("a", "b"), 12, 12, "L")
    for changed in ({"goal": "accuracy where macs<1M"}, {"seed": 7}):
        with pytest.raises(UnusableInput, match="a different study"):
            convwise.choose(chosen.images, **{**asked, **changed})
    with pytest.raises(UnusableInput, match="a different study"):
        convwise.choose(other, **asked)
    assert (chosen.folder / "choice.json").read_text() == before
    assert not (chosen.folder / ".study").exists()


def test_a_folder_of_somebody_else_is_refused(stripes, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(UnusableInput, match="holds report.html, but no study.db"):
        convwise.choose(stripes, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


NONE = [
    ("seed", -1),
    ("seed", 1.5),
    ("workers", "2"),
    ("trials", 0),
    ("evidence", 0.6),
    ("evidence", float("nan")),
]


@pytest.mark.parametrize(("field", "value"), NONE)
def test_numbers_that_are_none_are_refused(stripes, tmp_path, field, value):
    with pytest.raises(UnusableInput, match=f"--{field}: is"):
        convwise.choose(stripes, out=tmp_path / "out", **{field: value})
    assert not (tmp_path / "out").exists()


def test_the_outputs_are_those_that_are_written(chosen):
    from convwise.output.whole import OUTPUTS

    names = {path.name for path in chosen.folder.iterdir()}
    assert names - {"study.db"} <= set(OUTPUTS)


def test_no_worker_stays_where_a_study_cannot_start(stripes, tmp_path):
    before = set(multiprocessing.active_children())
    with pytest.raises(Infeasible):
        convwise.choose(
            stripes, goal="accuracy where params<5", trials=2, workers=2, out=tmp_path / "out"
        )
    assert set(multiprocessing.active_children()) <= before


def test_an_unusable_source_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnusableInput):
        convwise.choose("nothing-here")
    assert list(tmp_path.iterdir()) == []


# --- time ----------------------------------------------------------------------------------------


# --- the other verbs, and arrays ------------------------------------------------------------------


def test_a_report_that_cannot_be_drawn_costs_the_report(stripes, tmp_path, a_study, monkeypatch):
    def no_room(*_: object) -> None:
        raise MemoryError("no room for a plot")

    monkeypatch.setattr(deliver.report, "write", no_room)
    folder = a_study(stripes, tmp_path / "out", trials=2).run(deliver.write)
    record = deliver.read_choice(folder)
    assert record["notes"][-1].startswith(
        "The report could not be drawn (MemoryError: no room for a plot)"
    )
    assert (folder / "model.onnx").exists()
    assert not (folder / "report.html").exists()
    assert choice.summary(record, folder)[-1] == record["notes"][-1]


def test_a_format_that_refuses_the_network_costs_its_own_files(
    stripes, tmp_path, a_study, monkeypatch
):
    """It is told where the answer is: in choice.json, in the report, and in the terminal."""

    def save(*_: object) -> None:
        raise Unsupported("keras", "stem", "cannot be expressed there")

    monkeypatch.setattr(format_module("keras"), "save", save)
    folder = a_study(stripes, tmp_path / "out", trials=2).run(deliver.write)
    record, told = (
        deliver.read_choice(folder),
        "keras export, layer stem: cannot be expressed there",
    )
    assert record["left_out"] == {"keras": told}
    assert {*record["exports"]} == {*FORMATS} - {"keras"}
    assert f"Left out: {told}" in record["notes"]
    assert f"Left out: {told}" in (folder / "report.html").read_text(encoding="utf-8")
    assert f"Left out: {told}" in choice.summary(record, folder)
    assert not any((folder / file).exists() for file in FORMATS["keras"].files)
    assert all((folder / file).exists() for file in FORMATS["torch"].files)


class Measured(MadeHost):
    """A host that measures how fast a net answers, as this machine does."""

    def latency_ms(self, net: Net) -> float:
        return machine.latency_ms(net)


def test_without_onnx_its_model_and_the_latency_are_left_out(
    stripes, tmp_path, a_study, monkeypatch
):
    """As where its library is not installed, or does not load: importing it fails."""
    format_module("onnx")
    monkeypatch.setitem(sys.modules, "convwise.formats.onnx", None)
    monkeypatch.delattr(formats, "onnx")
    folder = a_study(stripes, tmp_path / "out", trials=2, goal="accuracy", host=Measured()).run(
        deliver.write
    )
    record = deliver.read_choice(folder)
    assert record["left_out"].keys() == {"onnx"}
    assert record["cost"].keys() == {"params", "macs", "activation_bytes"}
    assert (folder / "report.html").exists()
    (said,) = [line for line in choice.summary(record, folder) if line.startswith("Cost: ")]
    assert said.endswith(" macs")


def test_arrays_are_a_source(tmp_path, a_study, written):
    pixels, labels = striped(2, 30, 12)
    a_study((pixels, labels), tmp_path / "out").run()
    assert written[0].images.classes == ("0", "1")


def test_the_verbs_are_public_and_errors_are_ours(tmp_path):
    assert set(convwise.__all__) >= {"advise", "choose", "look", "predict", "read"}
    with pytest.raises(AttributeError):
        _ = convwise.nothing
    for bad in (lambda: convwise.choose("digits", budget="soon"), lambda: convwise.choose("digits",
                goal="fame"), lambda: convwise.look(tmp_path), lambda: convwise.predict(tmp_path,
                tmp_path)):  # fmt: skip
        with pytest.raises(ConvwiseError):
            bad()


def test_every_verb_stays_callable():
    assert all(callable(getattr(convwise, name)) for name in convwise.__all__)
