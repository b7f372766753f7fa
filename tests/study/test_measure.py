"""`convwise measure`: a choice folder or any model, what is measured, told, kept and used again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

import convwise
from convwise import measuring, verbs
from convwise.cli import console
from convwise.cli import measure as cli_measure
from convwise.core.clock import Clock, parse_duration
from convwise.core.layers import Conv2D, Dense, GlobalAveragePooling2D
from convwise.core.net import Net
from convwise.core.problems import UnusableInput
from convwise.core.progress import quiet
from convwise.core.records import Result, Trial
from convwise.core.temporary import PREFIX
from convwise.ledger import Ledger
from convwise.measuring import measure
from convwise.output import deliver, report
from convwise.session import held
from convwise.training import train
from convwise.training.lab import Lab
from imagesets import striped, write_folder
from labs import MadeHost

NET = Net((12, 12, 1), (Conv2D(8, 3, padding="same", activation="relu", name="conv"),
                        GlobalAveragePooling2D(), Dense(2, activation="softmax",
                        name="out")))  # fmt: skip
HOST = MadeHost()


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images") / "stripes", ("a", "b"), 60, 12, "L")


@pytest.fixture(scope="module")
def choice(tmp_path_factory, images) -> Path:
    """A folder that `choose` wrote, of a counted study of two trials."""
    return verbs.choose(
        str(images), out=tmp_path_factory.mktemp("chosen") / "x", trials=2, workers=1
    ).folder


@pytest.fixture
def folder(choice, tmp_path) -> Path:
    return Path(shutil.copytree(choice, tmp_path / "x"))


class Made:
    """A runner that trains nothing: results as `answer` says, while a clock goes on."""

    def __init__(self, clock: list[float]) -> None:
        self.clock, self.trials, self.answer = clock, [], self.right
        self.n = 0

    def __call__(self, work, host, workers):
        self.folder = work.args[0]
        return self

    def measure(self, model, images=None, *, budget=30, watcher=quiet, host=HOST, **how):
        """`convwise.measure` in a lab of this runner, its clock and that host."""
        clock = Clock(parse_duration(budget), self.clock[0], lambda: self.clock[0])
        return measuring.measure_in(Lab(host, clock, watcher, self), model, images, **how)

    def right(self, trial: Trial) -> Result:
        """The net as it is has three quarters right, another kernel all but one."""
        kernels = {layer.kernel_size for layer in trial.net.layers if isinstance(layer, Conv2D)}
        share = 0.75 if kernels == self.kernels else 0.95
        right = np.random.default_rng(trial.seed).permutation(self.n) < share * self.n
        return Result(
            trial, "done", share, "".join("01"[int(r)] for r in right), images_per_second=1e4
        )

    def run(self, trials):
        stored = [np.load(path) for path in self.folder.glob("*valid-labels.npy")]
        self.n = len(stored[0])
        for trial in trials:
            self.kernels = getattr(self, "kernels", None) or {
                layer.kernel_size for layer in trial.net.layers if isinstance(layer, Conv2D)
            }
            if trial.phase == "measure":
                self.trials.append(trial)
            result = self.answer(trial)
            self.clock[0] += (trial.seconds or 0.0) + train.OVERHEAD_SECONDS
            yield result

    def close(self) -> None:
        pass


@pytest.fixture
def made() -> Made:
    return Made([1000.0])


def kernel(folder: Path) -> int:
    """Another kernel size of the stages than the chosen one."""
    return 5 if deliver.read_choice(folder)["configuration"]["stage.kernel_size"] != 5 else 3


# --- a choice folder -----------------------------------------------------------------------------


def test_a_choice_folder_has_its_images_recipe_and_space_and_keeps_the_effects(made, folder):
    before = deliver.read_choice(folder)
    trials = len(Ledger(folder / "study.db").results)
    found = made.measure(folder, parameter=f"stage.kernel_size={kernel(folder)}")
    (effect,) = found.effects
    assert effect.verdict == "matters"
    assert effect.seconds == found.seconds > 0
    after = deliver.read_choice(folder)
    (row,) = [row for row in after["effects"] if row.get("by") == "measure"]
    assert (row["parameter"], row["from"], row["to"]) == (
        "stage.kernel_size",
        effect.before,
        effect.after,
    )
    assert {**after, "effects": before["effects"], "reasons": before["reasons"]} == before
    (reason,) = [
        row for row in after["reasons"]["choices"] if row["parameter"] == "stage.kernel_size"
    ]
    assert reason["trials"] == "refuted"
    assert row == found.to_json()["effects"][0]
    results = Ledger(folder / "study.db").results
    assert len(results) == trials + len(made.trials)
    assert {r.trial.phase for r in results[trials:]} == {"measure"}
    assert {t.recipe for t in made.trials} == {Ledger(folder / "study.db").results[0].trial.recipe}
    assert {len(r.correct) for r in results[trials:]} == {before["data"]["valid"]}


def test_the_images_lie_in_a_temporary_folder_that_no_kill_leaves_for_good(made, folder):
    made.measure(folder, parameter=f"stage.kernel_size={kernel(folder)}")
    assert made.folder.name.startswith(PREFIX)
    assert not made.folder.exists()


def test_a_second_call_continues_and_replaces_its_own_effect(made, folder):
    asked = {"stage.kernel_size": kernel(folder)}
    (first,) = made.measure(folder, parameter=asked, budget=40).effects
    before = list(made.trials)
    (second,) = made.measure(folder, parameter=asked, budget=40).effects
    assert second.seconds == first.seconds
    assert second.runs > first.runs
    assert not {(t.net.id, t.seed) for t in before} & {
        (t.net.id, t.seed) for t in made.trials[len(before) :]
    }
    rows = [row for row in deliver.read_choice(folder)["effects"] if row.get("by") == "measure"]
    assert [row["runs"] for row in rows] == [second.runs]


def test_other_images_or_another_machine_start_over(made, folder, tmp_path):
    asked = {"stage.kernel_size": kernel(folder)}
    (first,) = made.measure(folder, parameter=asked, budget=40).effects
    others = write_folder(tmp_path / "others", ("a", "b"), 60, 12, "L", seed=5)
    assert (
        made.measure(folder, str(others), parameter=asked, budget=40).effects[0].runs == first.runs
    )
    other = replace(HOST, name="another")
    assert (
        made.measure(folder, parameter=asked, budget=40, host=other).effects[0].runs == first.runs
    )


def test_the_report_tells_the_effects_and_keeps_the_rest(made, folder):
    before = (folder / "report.html").read_text()
    made.measure(folder, parameter=f"stage.kernel_size={kernel(folder)}")
    after = (folder / "report.html").read_text()
    rest = [text.split("<!-- cards -->")[0] for text in (before, after)]
    assert rest[0] == rest[1]
    rest = [
        text.split("<!-- end of cards -->")[1].split("<!-- same -->")[0] for text in (before, after)
    ]
    assert rest[0] == rest[1]
    rest = [
        text.split("<!-- end of effects -->")[1].split("<!-- reasons -->")[0]
        for text in (before, after)
    ]
    assert rest[0] == rest[1]
    rest = [
        text.split("<!-- end of reasons -->")[1].split("<!-- thoughts -->")[0]
        for text in (before, after)
    ]
    assert rest[0] == rest[1]
    assert before.split("<!-- end of thoughts -->")[1] == after.split("<!-- end of thoughts -->")[1]
    section = after.split("<!-- effects -->")[1].split("<!-- end of effects -->")[0]
    assert "stage.kernel_size" in section
    assert "<svg" in section
    assert "matters" in section
    reasons = after.split("<!-- reasons -->")[1].split("<!-- end of reasons -->")[0]
    assert "refuted" in reasons
    assert reasons.count("<tr>") == before.split("<!-- reasons -->")[1].split(
        "<!-- end of reasons -->"
    )[0].count("<tr>")
    assert report.renewed("<p>no place for it</p>", (), (), {}) is None


def test_what_answers_a_warning_of_check_quotes_what_was_measured_since(made, folder):
    choice = deliver.read_choice(folder)
    place = {"where": "stage2_conv2", "what": "is predicted to add nothing", "answer": "not tested"}
    # The second as earlier versions wrote it
    choice["check"] = [{"rule": "past the border layer", **place}, place]
    (folder / "choice.json").write_text(json.dumps(choice))
    made.measure(folder, parameter="stage.convs=1")
    told, earlier = deliver.read_choice(folder)["check"]
    assert earlier == place
    assert told["answer"].startswith("tested on these images: stage.convs 1 instead of 2: ")
    text = (folder / "report.html").read_text()
    section = text.split("<!-- thoughts -->")[1].split("<!-- end of thoughts -->")[0]
    assert "tested on these images: stage.convs 1 instead of 2: " in section
    # As earlier versions wrote it: the rest is renewed all the same
    older = text.replace("<!-- thoughts -->", "")
    assert report.renewed(older, (), (), {}) is not None


def test_a_report_of_an_older_version_is_left_and_said(made, folder):
    (folder / "report.html").write_text("<html>old</html>")
    found = made.measure(folder, parameter=f"stage.kernel_size={kernel(folder)}")
    assert (folder / "report.html").read_text() == "<html>old</html>"
    assert any("by an older convwise" in note for note in found.notes)


def test_unasked_the_most_doubtful_come_first_and_the_next_call_goes_on(made, folder):
    first = made.measure(folder)
    assert first.effects
    told = {(e.parameter, str(e.after)) for e in first.effects if e.verdict != "not resolved"}
    made.trials.clear()
    second = made.measure(folder)
    assert not told & {(e.parameter, str(e.after)) for e in second.effects[:1]}


def test_a_few_changes_get_all_the_pairs_of_trainings(made, folder):
    few = made.measure(folder, most=2, budget=60)
    asked = [(edit.parameter, edit.after) for edit in (one.edit for one in few.measured)]
    assert len(asked) == len(set(asked)) == 2
    assert all(effect.runs > 2 * 3 for effect in few.effects)  # pairs as usual
    with pytest.raises(UnusableInput, match="--most: is 0"):
        made.measure(folder, most=0)


def test_what_more_time_would_give_is_said_of_what_is_open(made, folder):
    made.answer = lambda trial: replace(made.right(trial),
        correct="".join(  # half right, at places of its own
        "01"[int(n)] for n in np.random.default_rng(len(made.trials)).integers(0, 2,
        made.n)))  # fmt: skip
    found = made.measure(folder, most=2)
    left = sum(effect.verdict == "not resolved" for effect in found.effects)
    assert left
    assert f"{left} of 2 changes are not resolved: run the same command again" in " ".join(
        found.notes
    )


def test_an_unfinished_study_keeps_its_ledger_to_itself(made, folder):
    data = json.loads((folder / "choice.json").read_text())
    data["provenance"]["interrupted"] = True
    (folder / "choice.json").write_text(json.dumps(data))
    trials = len(Ledger(folder / "study.db").results)
    found = made.measure(folder, parameter=f"stage.kernel_size={kernel(folder)}")
    assert len(Ledger(folder / "study.db").results) == trials
    assert any("can be continued" in note for note in found.notes)


def test_without_its_ledger_layers_can_still_be_measured(made, folder):
    (folder / "study.db").unlink()
    with pytest.raises(UnusableInput, match="stage"):
        made.measure(folder, parameter="stage.kernel_size=5")
    name = next(
        row["name"]
        for row in deliver.read_choice(folder)["net"]["layers"]
        if row.get("op", row.get("type")) == "Conv2D"
    )
    found = made.measure(folder, parameter=f"{name}.kernel_size=7")
    assert found.effects
    assert any("study.db is missing" in note for note in found.notes)


def test_while_another_run_works_in_the_folder_nothing_is_measured(made, folder):
    with (
        held(folder),
        pytest.raises(UnusableInput, match="another run of convwise is working in this folder"),
    ):
        made.measure(folder)
    assert not made.trials


def test_images_that_are_gone_are_named(made, folder):
    data = json.loads((folder / "choice.json").read_text())
    data["data"]["source"] = "gone/for/good"
    (folder / "choice.json").write_text(json.dumps(data))
    with pytest.raises(
        UnusableInput, match=r"gone/for/good, can no longer be read.*--images IMAGES"
    ):
        made.measure(folder)


def test_images_named_by_a_relative_path_are_found_from_elsewhere(
    made, folder, monkeypatch, tmp_path
):
    """As a page does that was started in another directory."""
    data = json.loads((folder / "choice.json").read_text())
    place = Path(data["data"]["source"]).resolve()
    assert data["provenance"]["directory"]
    data["data"]["source"], data["provenance"]["directory"] = place.name, str(place.parent)
    (folder / "choice.json").write_text(json.dumps(data))
    monkeypatch.chdir(tmp_path)
    assert made.measure(folder, parameter=f"stage.kernel_size={kernel(folder)}").effects
    assert deliver.located("digits", str(place.parent)) == "digits"  # a name is none


def test_the_choice_is_still_a_finished_study(made, folder, images):
    made.measure(folder, parameter=f"stage.kernel_size={kernel(folder)}")
    told = []
    again = verbs.choose(
        str(images), out=folder, trials=2, workers=1, watcher=lambda p: told.append(p.note)
    )
    assert again.folder == folder
    assert any("holds a finished study" in note for note in told)


# --- any model -----------------------------------------------------------------------------------


def test_a_model_needs_images_and_gets_no_files(made, images, tmp_path):
    with pytest.raises(UnusableInput, match="--images IMAGES"):
        convwise.measure(NET, parameter="conv.kernel_size=5", budget=30)
    found = made.measure(NET, str(images), parameter=["conv.kernel_size=5", "conv.filters=4"])
    assert [e.parameter for e in found.effects] == ["conv.kernel_size", "conv.filters"]
    pixels, labels = striped(2, 60, 12, 1)
    assert made.measure(
        NET, convwise.read((pixels, labels)), parameter="conv.kernel_size=5"
    ).effects


def test_a_wrong_name_is_refused_before_the_images_are_read(made):
    with pytest.raises(UnusableInput, match=r"conv\.kernel_size"):
        made.measure(NET, "no/such/images", parameter="conv.kernel=5")


# --- the command ---------------------------------------------------------------------------------

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(cli_measure.measure)


@pytest.fixture
def run(monkeypatch, made):
    """`convwise measure WORDS`: (exit code, stdout, what it raised)."""

    def measured(
        *given, started, classes_from, skip_empty_classes, follow_links, cache_size, task, **how
    ):
        return made.measure(*given, **how)

    monkeypatch.setattr(measuring, "measure", measured)
    monkeypatch.setattr(cli_measure, "out", lambda: Console(width=200, markup=False))
    monkeypatch.setattr(console, "out", lambda: Console(width=200, markup=False))

    def call(*words: object):
        made.clock[0] = 1000.0
        ended = CliRunner().invoke(app, [str(word) for word in words])
        return SimpleNamespace(
            code=ended.exit_code, out=ended.stdout, err=ended.stderr, error=ended.exception
        )

    return call


@pytest.fixture
def model(tmp_path) -> Path:
    file = tmp_path / "net.json"
    file.write_text(json.dumps(NET.to_json()))
    return file


def test_the_table_says_change_interval_verdict_time_and_horizon(run, model, images):
    ended = run(model, "--images", images, "--parameter", "conv.kernel_size=5", "--budget", "30s")
    assert ended.code == 0
    first, head, row = ended.out.splitlines()[:3]
    assert (
        "s of training; unchanged: 75.0 % on the validation images; always the largest class:"
        " 50.0 %" in first
    )
    assert head.split("  ")[0] == "parameter"
    assert row.startswith("conv.kernel_size")
    assert "+20.0" in row
    assert "matters" in row


def test_json_has_everything(run, model, images):
    ended = run(
        model,
        "--images",
        images,
        "--parameter",
        "conv.kernel_size=3,5",
        "--budget",
        "30s",
        "--json",
    )
    answer = json.loads(ended.out)
    assert set(answer) == {
        "model",
        "seconds",
        "accuracy",
        "baseline",
        "effects",
        "not_measured",
        "notes",
    }
    assert answer["baseline"] == 0.5  # of two classes of 60 images each
    (row,) = answer["effects"]
    assert (row["parameter"], row["from"], row["to"], row["by"]) == (
        "conv.kernel_size",
        3,
        [3, 5],
        "measure",
    )
    assert {"accuracy_change", "low", "high", "time_ratio", "verdict", "runs", "seconds"} <= set(
        row
    )
    lines = [json.loads(line) for line in ended.err.splitlines()]
    assert any("each answer takes about" in line["note"] for line in lines)


def test_what_is_left_is_said_with_a_budget_that_has_room(run, model, images):
    ended = run(model, "--images", images, "--budget", "30s")
    (said,) = [line for line in ended.out.splitlines() if "not enough time" in line]
    budget = said.split("--budget ")[1].split()[0]
    assert "not enough time" not in run(model, "--images", images, "--budget", budget).out


def test_a_budget_too_short_for_one_answer_ends_with_one_that_is_not(run, made, model, images):
    made.answer = lambda trial: replace(made.right(trial), images_per_second=30.0)
    ended = run(model, "--images", images, "--budget", "20s")
    assert isinstance(ended.error, UnusableInput)
    assert "one answer takes about" in str(ended.error)
    ended = run(model, "--images", images, "--budget", ended.error.problem.fix.split()[1])
    assert ended.code == 0


def test_an_interrupt_keeps_what_there_is(run, made, folder):
    def answer(trial: Trial) -> Result:
        if len(made.trials) > 2:
            raise KeyboardInterrupt
        return made.right(trial)

    made.answer = answer
    ended = run(folder, "--budget", "30s")
    assert ended.code == 0
    assert "interrupted: this is what had been measured by then" in ended.out
    rows = [row for row in deliver.read_choice(folder)["effects"] if row.get("by") == "measure"]
    assert len(rows) == 1
    assert rows[0]["parameter"] in ended.out


def test_an_interrupt_before_there_is_anything_goes_on(made, folder):
    def answer(trial: Trial) -> Result:
        raise KeyboardInterrupt

    before = (folder / "choice.json").read_text()
    made.answer = answer
    with pytest.raises(KeyboardInterrupt):
        made.measure(folder)
    assert (folder / "choice.json").read_text() == before


@pytest.mark.slow
def test_digits_chosen_then_measured(tmp_path):
    folder = verbs.choose("digits", out=tmp_path / "digits", trials=2, workers=1).folder
    found = measure(folder, parameter={"stage.filters": 4, "stem.kernel_size": 1}, budget=40)
    left_out = sum("not enough time for 1 of" in note for note in found.notes)  # on a slow machine
    assert (len(found.effects), left_out) in {(2, 0), (1, 1)}
    assert {row.get("by") for row in deliver.read_choice(folder)["effects"]} >= {"measure"}
