"""The study: its stages, what it keeps, what it opens, and how it ends when something goes wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

import convwise
from convwise import deliver, study, train
from convwise.clock import Clock
from convwise.core.calculus import analyse
from convwise.core.goal import parse_goal
from convwise.core.net import Net
from convwise.core.problems import ConvwiseError, Infeasible, UnusableInput
from convwise.core.records import Fingerprint, Result
from convwise.fingerprint import look
from convwise.images import read
from convwise.ledger import NAME, Ledger
from convwise.stages import STAGES, counted_share
from convwise.study import Settings, Study
from imagesets import striped, write_folder, write_parts
from studies import answers

LIMITED = "accuracy where macs<100k"


class Serial:
    """A runner in this process; `stops` ends it so, after so many trials in all."""

    stops: tuple[int, BaseException] | None = None
    score = None  # sample -> a made-up score, instead of training
    fails: tuple[str, ...] = ()
    ended: list[str]

    def __init__(self, work, workers) -> None:
        self.work, self.ended, self.closed = work, [], False

    def run(self, trials):
        for trial in trials:
            if self.stops and len(self.ended) >= self.stops[0]:
                raise self.stops[1]
            self.ended.append(trial.id)
            yield self.result(trial)

    def result(self, trial) -> Result:
        if trial.id in self.fails:
            return Result(trial, "failed", reason="made up")
        if type(self).score is None or trial.part == "all":
            return self.work(trial)
        total = analyse(trial.net).total
        score = type(self).score(trial.sample)
        cost = {"params": total.params, "macs": total.macs, "activation_bytes": total.activation_bytes}
        return Result(trial, "done", score, answers(score, 200), cost, images_per_second=1e4)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def serial(monkeypatch):
    """Trials in this process: the class whose fields say how they go."""

    class Mine(Serial):
        pass

    monkeypatch.setitem(study.RUNNERS, "local", Mine)
    monkeypatch.setattr(study, "look_at", lambda part, *rest, **how: _looked(part, rest, how))
    return Mine


SEEN: dict[tuple, Fingerprint] = {}


def _looked(part, rest, how) -> Fingerprint:
    """`look`, once for the same images."""
    key = hash(np.asarray(part.pixels).tobytes()), rest, how["seed"]
    if key not in SEEN:
        SEEN[key] = look(part, *rest, **how)
    return SEEN[key]


@pytest.fixture
def written(monkeypatch):
    """What would have been written: Material by Material, and no file."""
    found = []

    def write(material):
        found.append(material)
        return material.folder

    monkeypatch.setattr(deliver, "write", write)
    return found


@pytest.fixture(scope="module")
def stripes(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images") / "stripes", ("a", "b", "c"), 30, 12, "L")


def a_study(source, out: Path, trials: int | None = 4, watcher=study.quiet, **fields) -> Study:
    goal = parse_goal(fields.pop("goal", LIMITED))
    out.mkdir(exist_ok=True)
    settings = Settings(source, goal=goal, out=out, workers=1, trials=trials, **fields)
    return Study(settings, Clock(settings.budget, time.monotonic()), watcher)


# --- the whole, once -----------------------------------------------------------------------------


def test_the_folder_holds_everything(chosen):
    assert chosen.ended.returncode == 0, chosen.ended.stderr
    expected = {"choice.json", "report.html", "model_keras.py", "model_torch.py", "model.keras", "model.safetensors",
                "model.onnx", "study.db"}  # fmt: skip
    names = {path.name for path in chosen.folder.iterdir()}
    assert expected <= names
    assert not any(name.startswith(".") for name in names)
    assert all(path.stat().st_size > 100 for path in chosen.folder.iterdir())


def test_without_a_terminal_there_are_events_alone(chosen):
    """Of --json, a line each; TensorFlow, which Keras loads, says nothing of its own."""
    events = [json.loads(line) for line in chosen.ended.stderr.splitlines()]
    assert {"stage", "done", "planned", "best", "seconds_left", "note"} <= set(events[0])


def test_choice_json_keeps_the_contract(chosen):
    text = (chosen.folder / "choice.json").read_text()

    def not_json(word):
        raise AssertionError(f"{word} is no JSON")

    choice = json.loads(text, parse_constant=not_json)
    assert {"net", "test", "cost", "effects", "alternatives", "reasons", "data", "provenance"} <= set(choice)
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
        found = model(torch.from_numpy(np.array(sealed.pixels)).permute(0, 3, 1, 2).float()).argmax(1).numpy()
    assert (found == sealed.labels).mean() == pytest.approx(choice["test"]["accuracy"])


def test_optuna_opens_the_study(chosen):
    found = optuna.load_study(study_name=NAME, storage=f"sqlite:///{chosen.folder / 'study.db'}")
    states = [trial.state.name for trial in found.trials]
    assert states == ["COMPLETE"] * 4 + ["PRUNED"]
    assert [t.user_attrs["stage"] for t in found.trials] == ["plan", "plan", "rung", "rung", "final"]


def test_a_finished_study_is_left_as_it_is(chosen):
    before = (chosen.folder / "choice.json").stat().st_mtime_ns
    notes = []
    folder = convwise.choose(chosen.images, goal=LIMITED, trials=4, out=chosen.folder, watcher=notes.append)
    assert folder == chosen.folder
    assert "finished" in notes[-1].note
    assert (chosen.folder / "choice.json").stat().st_mtime_ns == before


# --- sealing -------------------------------------------------------------------------------------


def test_the_test_part_is_opened_once_and_last(stripes, tmp_path, serial, written):
    opened = []
    mine = a_study(stripes, tmp_path / "out", watcher=lambda p: opened.append((p.stage, mine.images.test.opened)))
    mine.run()
    assert mine.images.test.opened == 1
    assert opened
    assert all(count == 0 for _, count in opened)
    (material,) = written
    assert material.kind == "test"
    assert len(material.scored) == mine.images.test.size
    assert deliver.estimate(material)["kind"] == "test"


def test_the_sources_own_test_part_is_the_sealed_one(tmp_path, serial, written):
    source = write_parts(tmp_path / "parts", ("train", "test"), per_class=12, size=12, mode="L")
    a_study(source, tmp_path / "out").run()
    assert all(name.startswith("test/") for name in written[0].scored.names)
    assert len(written[0].scored) == 24


def test_where_nothing_is_sealed_the_estimate_is_called_validation(stripes, tmp_path, serial, written):
    mine = a_study(stripes, tmp_path / "out", test="none")
    mine.run()
    assert mine.images.test is None
    estimate = deliver.estimate(written[0])
    assert estimate["kind"] == "validation"
    assert estimate["n"] == len(mine.images.valid)


def test_a_validation_estimate_is_not_made_on_images_trained_on(stripes, tmp_path, serial, written):
    """It is that of the run which held them back; the final one has seen them all."""
    a_study(stripes, tmp_path / "out", test="none").run()
    (material,) = written
    held_back = material.verdict.chosen.trial
    weights = train.load_weights(tmp_path / "out" / ".study", held_back.id)
    expected = train.probabilities(held_back.net, weights, np.asarray(material.scored.pixels))
    assert material.probabilities == pytest.approx(expected)
    assert deliver.estimate(material)["accuracy"] == pytest.approx(material.verdict.chosen.score)


def test_the_final_training_sees_everything_that_is_not_sealed(stripes, tmp_path, serial, written):
    mine = a_study(stripes, tmp_path / "out")
    mine.run()
    final = written[0].final
    assert (final.trial.part, final.score) == ("all", None)
    assert final.trial.sample == written[0].verdict.chosen.trial.sample
    everything = len(mine.images.train) + len(mine.images.valid)
    assert everything + mine.images.test.size == 90
    assert final.history[-1].images >= 15 * everything - 200


# --- the same again ------------------------------------------------------------------------------


def test_counted_studies_repeat_themselves(stripes, tmp_path, serial, written):
    for name in ("one", "two"):
        a_study(stripes, tmp_path / name).run()
    one, two = written
    assert one.verdict.chosen.trial.net == two.verdict.chosen.trial.net
    assert (one.probabilities == two.probabilities).all()
    assert [(r.trial.id, r.score) for r in one.results] == [(r.trial.id, r.score) for r in two.results]
    assert deliver.estimate(one) == deliver.estimate(two)


def test_another_seed_is_another_study(stripes, tmp_path, serial, written):
    for seed in (0, 1):
        a_study(stripes, tmp_path / str(seed), seed=seed).run()
    assert written[0].scored.names != written[1].scored.names


@given(st.integers(1, 90))
def test_counted_trials_are_shared_out_without_rest(trials):
    shares = {stage.name: counted_share(stage.name, trials) for stage in STAGES}
    assert sum(shares.values()) == trials
    assert min(shares.values()) >= 0
    assert shares["plan"] >= 1
    assert shares["design"] in (0, 4, 8, 12)


# --- the search, with made-up scores -------------------------------------------------------------


def likes_five(sample) -> float:
    """5x5 stems are better; nothing else matters."""
    return 0.9 if sample["stem.kernel_size"] == 5 else 0.6


def searched(stripes, out, serial, score=likes_five, trials=32, **fields) -> Study:
    serial.score = staticmethod(score)
    mine = a_study(stripes, out, trials, goal="accuracy where macs<2M", **fields)
    mine.open()
    mine.start()
    mine.search()
    return mine


def test_what_is_better_is_found_and_called_so(stripes, tmp_path, serial):
    mine = searched(stripes, tmp_path / "out", serial)
    stages = [r.trial.stage for r in mine.ledger.results]
    assert [stages.count(s.name) for s in STAGES] == [counted_share(s.name, 32) for s in STAGES]
    verdict = mine.verdict()
    assert verdict.chosen.trial.sample["stem.kernel_size"] == 5
    effects = {e.parameter: e for e in verdict.effects}
    assert effects["stem.kernel_size"].verdict == "matters"
    assert abs(effects["stem.kernel_size"].accuracy_change) == pytest.approx(0.3)
    assert all(e.accuracy_change == pytest.approx(0) for n, e in effects.items() if n != "stem.kernel_size")


def better_together(sample) -> float:
    """The default loses, and two of its changes are surely better."""
    return 0.6 + 0.1 * (sample["stem.kernel_size"] == 5) + 0.1 * (sample["activation"] != "relu")


def test_the_default_is_always_among_the_finalists(stripes, tmp_path, serial):
    mine = searched(stripes, tmp_path / "out", serial, better_together)
    finalists = [r.trial.sample for r in mine.ledger.results if r.trial.stage == "finalists"]
    assert len(finalists) == 3
    assert mine.advice.sample in finalists


def test_the_reasons_given_are_those_of_what_was_chosen(stripes, tmp_path, serial, written):
    serial.score = staticmethod(likes_five)
    a_study(stripes, tmp_path / "out", 32, goal="accuracy where macs<2M").run()
    (material,) = written
    assert material.chosen.trial.sample["stem.kernel_size"] == 5 != material.advice.sample["stem.kernel_size"]
    choice = deliver._choice(material, {}, {}, {})
    told = {reason["parameter"]: reason["value"] for reason in choice["reasons"]["choices"]}
    assert {name: told[name] for name in choice["sample"]} == choice["sample"]


def test_a_failed_trial_costs_only_itself(stripes, tmp_path, serial, written):
    serial.fails = ("plan-01", "rung-02")
    a_study(stripes, tmp_path / "out", 6).run()
    (material,) = written
    states = {r.trial.id: r.status for r in material.results}
    assert states["plan-01"] == states["rung-02"] == "failed"
    assert len(states) == 7
    assert material.verdict.chosen.status == "done"


def test_where_all_fail_the_reason_is_told(stripes, tmp_path, serial, written):
    serial.fails = tuple(f"{stage}-{i:02d}" for stage in ("plan", "rung") for i in range(9))
    with pytest.raises(Infeasible, match="made up"):
        a_study(stripes, tmp_path / "out").run()
    assert not written


def test_where_the_final_training_fails_the_search_answers(stripes, tmp_path, serial, written):
    serial.fails = ("final",)
    a_study(stripes, tmp_path / "out").run()
    (material,) = written
    assert material.final is None
    assert material.chosen.trial.stage in ("plan", "rung")
    kept = train.load_weights(tmp_path / "out" / ".study", material.chosen.trial.id)
    assert all((material.weights[key] == kept[key]).all() for key in kept)


# --- stopping and going on -----------------------------------------------------------------------


ONE_FAST = [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4))]


@pytest.mark.parametrize("after", ONE_FAST)
def test_an_interrupted_study_gives_the_best_so_far(stripes, tmp_path, serial, written, after):
    serial.stops = (after, KeyboardInterrupt())
    mine = a_study(stripes, tmp_path / "out")
    mine.run()
    (material,) = written
    assert material.final is None
    assert len(material.results) == after
    assert material.chosen.score is not None
    assert material.provenance["interrupted"]
    assert mine.runner.closed


def test_interrupted_in_the_first_trial_the_advised_net_is_the_answer(stripes, tmp_path, serial, written):
    serial.stops = (0, KeyboardInterrupt())
    mine = a_study(stripes, tmp_path / "out")
    mine.run()
    (material,) = written
    assert material.chosen.trial.sample == mine.advice.sample
    assert material.chosen.history[-1].images > 0
    assert material.provenance["interrupted"]


def test_interrupted_before_the_advice_there_is_no_answer(stripes, tmp_path, serial, written, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "look_at", stop)
    with pytest.raises(Infeasible, match="while it read"):
        a_study(stripes, tmp_path / "out").run()
    assert not written


def interrupts(monkeypatch, *, times: int = 1, elapsed: float) -> None:
    """Signals while the study looks at its images, so many seconds after it began."""
    real = study.look_at

    def stop(*args, **options):
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args, **options)

    monkeypatch.setattr(study, "look_at", stop)
    monkeypatch.setattr(study.Clock, "until", lambda clock, share: share * clock.budget - elapsed)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored


def test_after_a_tenth_of_the_budget_an_interrupt_waits_for_the_advised_net(
    stripes, tmp_path, serial, written, monkeypatch
):
    notes = []
    mine = a_study(stripes, tmp_path / "out", watcher=lambda p: notes.append(p.note))
    interrupts(monkeypatch, elapsed=mine.settings.budget)
    mine.run()
    (material,) = written
    assert material.chosen.trial.sample == mine.advice.sample
    assert material.provenance["interrupted"]
    assert any("interrupted" in note for note in notes)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(("times", "elapsed"), [(1, 0.0), (2, 1e9)])
def test_an_interrupt_before_that_or_a_later_second_one_ends_at_once(
    stripes, tmp_path, serial, written, monkeypatch, times, elapsed
):
    monkeypatch.setattr("convwise.interrupts.REPEATED_SECONDS", -1.0)
    interrupts(monkeypatch, times=times, elapsed=elapsed)
    with pytest.raises(Infeasible, match="while it read"):
        a_study(stripes, tmp_path / "out").run()
    assert not written


def test_an_interrupt_while_the_answer_is_written_does_not_lose_it(stripes, tmp_path, serial, monkeypatch):
    """Twice at once, as a shell and make may send it."""
    whole = []

    def write(material):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        whole.append(material)
        return material.folder

    monkeypatch.setattr(deliver, "write", write)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert a_study(stripes, tmp_path / "out").run() == tmp_path / "out"
    assert not whole[0].provenance["interrupted"]


@pytest.mark.parametrize("after", ONE_FAST)
def test_a_killed_study_goes_on_where_it_was(stripes, tmp_path, serial, written, after):
    a_study(stripes, tmp_path / "whole").run()
    serial.stops = (after, SystemExit("killed"))
    with pytest.raises(SystemExit):
        a_study(stripes, tmp_path / "out").run()
    serial.stops, notes = None, []
    mine = a_study(stripes, tmp_path / "out", watcher=lambda p: notes.append(p.note))
    mine.run()
    whole, continued = written
    assert any("continuing" in note and str(after) in note for note in notes)
    assert len(mine.runner.ended) == 5 - after
    assert [(r.trial.id, r.score) for r in continued.results] == [(r.trial.id, r.score) for r in whole.results]
    assert (whole.probabilities == continued.probabilities).all()


@pytest.mark.parametrize("fields", [{"seed": 1}, {"goal": "accuracy where macs<90k"}])
def test_another_study_in_the_same_folder_is_refused(stripes, tmp_path, serial, written, fields):
    serial.stops = (1, SystemExit())
    with pytest.raises(SystemExit):
        a_study(stripes, tmp_path / "out").run()
    with pytest.raises(UnusableInput, match="--out"):
        a_study(stripes, tmp_path / "out", **fields).run()
    assert len(Ledger(tmp_path / "out" / "study.db").results) == 1


def stopped_after(trials: int, serial, source, out: Path) -> None:
    serial.stops = (trials, SystemExit())
    with pytest.raises(SystemExit):
        a_study(source, out).run()
    serial.stops = None


def test_a_continued_study_keeps_its_space(stripes, tmp_path, serial, written, monkeypatch):
    """A measure or a pace taken anew would advise other neighbours, which Optuna refuses in one study."""
    stopped_after(1, serial, stripes, tmp_path / "out")
    monkeypatch.setattr(study, "look_at", lambda *_, **__: pytest.fail("looked again"))
    monkeypatch.setattr(Study, "advise", lambda self: pytest.fail("advised again"))
    mine = a_study(stripes, tmp_path / "out", budget=1200.0)
    mine.run()
    assert len(mine.ledger.results) == 5


def test_other_pictures_under_the_same_names_are_another_study(tmp_path, serial, written):
    source = write_folder(tmp_path / "images", ("a", "b"), 12, 12, "L")
    stopped_after(1, serial, source, tmp_path / "out")
    first, second = source / "a", source / "b"
    first.rename(source / "c")
    second.rename(first)
    (source / "c").rename(second)
    with pytest.raises(UnusableInput, match="something else.*content"):
        a_study(source, tmp_path / "out").run()


def test_a_finished_folder_answers_its_own_question_only(chosen, tmp_path):
    notes, before = [], (chosen.folder / "choice.json").read_text()
    asked = {"goal": "accuracy where macs<100k", "out": chosen.folder, "trials": 4, "workers": 1}
    convwise.choose(chosen.images, **asked, watcher=lambda p: notes.append(p.note))
    assert any("holds a finished study" in note for note in notes)
    other = write_folder(tmp_path / "other", ("a", "b"), 12, 12, "L")
    for changed in ({"goal": "accuracy where macs<1M"}, {"seed": 7}):
        with pytest.raises(UnusableInput, match="something else"):
            convwise.choose(chosen.images, **{**asked, **changed})
    with pytest.raises(UnusableInput, match="something else"):
        convwise.choose(other, **asked)
    assert (chosen.folder / "choice.json").read_text() == before
    assert not (chosen.folder / ".study").exists()


def test_a_folder_of_somebody_else_is_refused(stripes, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(UnusableInput, match="holds report.html, but no study.db"):
        convwise.choose(stripes, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(("field", "value"), [("seed", -1), ("seed", 1.5), ("workers", "2"), ("trials", 0)])
def test_numbers_that_are_none_are_refused(stripes, tmp_path, field, value):
    with pytest.raises(UnusableInput, match=f"--{field}: is"):
        convwise.choose(stripes, out=tmp_path / "out", **{field: value})
    assert not (tmp_path / "out").exists()


def test_the_outputs_are_those_that_are_written(chosen):
    from convwise.settings import OUTPUTS

    names = {path.name for path in chosen.folder.iterdir()}
    assert names - {"study.db"} <= set(OUTPUTS)


def test_no_worker_stays_where_a_study_cannot_start(stripes, tmp_path):
    before = set(multiprocessing.active_children())
    with pytest.raises(Infeasible):
        convwise.choose(stripes, goal="accuracy where params<5", trials=2, workers=2, out=tmp_path / "out")
    assert set(multiprocessing.active_children()) <= before


def test_an_unusable_source_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnusableInput):
        convwise.choose("nothing-here")
    assert list(tmp_path.iterdir()) == []


# --- time ----------------------------------------------------------------------------------------


def test_a_budget_is_shared_by_the_clock(stripes, tmp_path, serial, monkeypatch):
    """On a clock that stands still each stage gets what is left until its own share."""
    mine = a_study(stripes, tmp_path / "out", None, budget=600.0)
    monkeypatch.setattr(Clock, "elapsed", property(lambda self: 6.0))
    mine.open()
    mine.start()
    count, seconds = mine.share(STAGES[0])
    assert 1 <= count <= STAGES[0].most
    assert count * seconds <= 54
    monkeypatch.setattr(Clock, "elapsed", property(lambda self: 599.0))
    assert [mine.share(stage)[0] for stage in STAGES[1:]] == [0, 0, 0]
    assert mine.share(STAGES[0])[0] >= 1  # an answer exists, however late it is


# --- the other verbs, and arrays ------------------------------------------------------------------


def test_arrays_are_a_source(tmp_path, serial, written):
    pixels, labels = striped(2, 30, 12)
    a_study((pixels, labels), tmp_path / "out").run()
    assert written[0].images.classes == ("0", "1")


def test_the_verbs_are_public_and_errors_are_ours(tmp_path):
    assert set(convwise.__all__) >= {"advise", "choose", "look", "predict", "read"}
    with pytest.raises(AttributeError):
        _ = convwise.nothing
    for bad in (lambda: convwise.choose("digits", budget="soon"), lambda: convwise.choose("digits", goal="fame"),
                lambda: convwise.look(tmp_path), lambda: convwise.predict(tmp_path, tmp_path)):  # fmt: skip
        with pytest.raises(ConvwiseError):
            bad()


def test_every_verb_stays_callable():
    assert all(callable(getattr(convwise, name)) for name in convwise.__all__)
