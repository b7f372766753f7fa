"""The command line: exit codes, one clear message, and nothing where nothing was asked for."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import convwise
from convwise.cli import app as cli
from convwise.core.problems import UnusableInput
from convwise.core.records import Effect
from convwise.output import choice as choice_of
from convwise.output.deliver import effect_row
from convwise.output.words import is_chosen
from imagesets import write_folder
from studies import command, events, own, started

COMMANDS = [info.name or info.callback.__name__ for info in cli.app.registered_commands]


@pytest.fixture(scope="module")
def stripes(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images") / "stripes", ("a", "b"), 30, 12, "L")


def test_how_images_are_read_can_be_said(run, tmp_path):
    """What the messages propose works when typed; names cannot steer the terminal."""
    write_folder(tmp_path / "set", ("a", "b"), 12, 12, "L")
    (tmp_path / "set" / "birds\x1b[2J").mkdir()
    code, out, err = run("look", "set")
    is_one_clear_message(code, out, err, "birds", "--skip-empty-classes")
    assert "\x1b" not in err
    code, out, _ = run("look", "set", "--skip-empty-classes")
    assert code == 0
    assert "read as: 24 images, 2 classes; split into train 16, valid 4, sealed test 4" in out
    (tmp_path / "flat").mkdir()
    for file in (tmp_path / "set").rglob("*.png"):
        file.rename(tmp_path / "flat" / f"{file.parent.name}.{file.name}")
    is_one_clear_message(*run("look", "flat"), "--classes-from name")
    code, out, _ = run("look", "flat", "--classes-from", "name")
    assert code == 0
    assert "24 images, 2 classes" in out
    assert run("advise", "flat", "--classes-from", "name", "--json")[0] == 0
    (tmp_path / "linked").mkdir()
    for name in "ab":
        (tmp_path / "linked" / name).symlink_to(tmp_path / "set" / name)
    is_one_clear_message(*run("look", "linked"), "--follow-links")


def test_look_says_that_it_read_a_part(run, tmp_path, monkeypatch):
    """Five of each class suffice here; how many there are is told from their names."""
    monkeypatch.setattr("convwise.advice.fingerprint.MOST_IMAGES", 5)
    where = write_folder(tmp_path / "set", "ab", 30, 12)
    code, out, _ = run("look", where)
    assert code == 0
    assert "10 of 60 images (17 %), each class in proportion" in out
    assert "`convwise choose` reads 60 of them" in " ".join(out.split())
    facts = json.loads(run("look", where, "--json")[1])
    assert facts["facts"]["seen"]["listed"] == facts["facts"]["seen"]["affordable"] == 60
    assert facts["facts"]["seen"]["read"] == 10
    assert facts["images"] == pytest.approx(0.64 * 60, abs=3)
    assert "about" in run("advise", where)[1]


def test_a_cache_size_that_is_none_is_one_clear_message(run, tmp_path):
    where = write_folder(tmp_path / "set", "ab", 6, 12)
    is_one_clear_message(*run("look", where, "--cache-size", "much"), "4GB or 500MB")


# --- help ----------------------------------------------------------------------------------------


def test_help_names_every_command(run):
    code, out, _ = run("--help")
    assert code == 0
    assert {"choose", "look", "advise", "predict", "export", "report"} <= set(COMMANDS)
    assert all(re.search(rf"\b{name}\b", out) for name in COMMANDS)


def test_help_is_whole_on_a_narrow_terminal(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = run("--help")
    listed = out[out.index("Commands:") :]
    assert "..." not in listed
    assert len(listed.strip().splitlines()) == len(COMMANDS) + 1
    assert "Exit codes: 0 done" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_for_everything_it_takes(run, name):
    code, out, _ = run(name, "--help")
    assert code == 0
    import typer

    parameters = typer.main.get_command(cli.app).commands[name].params
    for parameter in parameters:
        shown = (
            parameter.opts[0]
            if parameter.param_type_name == "option"
            else (parameter.metavar or parameter.name)
        )
        assert shown in out
        assert getattr(parameter, "help", None), parameter.name
    assert len(out) > 200


def test_the_module_runs_and_says_what_is_wrong(tmp_path):
    ended = command("choose", tmp_path / "nowhere")
    assert ended.returncode == 2
    assert "nowhere" in ended.stderr
    assert ended.stdout == ""


# --- bad input: one message, exit 2, no traceback ------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("choose", "digits", "--out", ""), ("choose", "", "--trials", "1"), ("look", ""), ("advise",
        " "),
        ("check", ""), ("check", ".", "--images", ""), ("measure", ".", "--images", ""), 
        ("measure", "", "--images", "digits"), ("predict", "", "digits"), ("predict", ".", ""),
        ("report", ""),
        ("predict", ".", "digits", "--csv", ""), ("export", "", "--to", "json"), ("serve", ""),
    ],
)  # fmt: skip
def test_an_empty_name_is_refused_and_never_the_folder_that_one_is_in(run, chosen, tmp_path, words):
    """As a shell gives it for a variable that is not set."""
    shutil.copytree(chosen.folder, tmp_path, dirs_exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    code, out, err = run(*words)
    assert code == 2
    assert "is empty" in err
    assert "Traceback" not in err
    assert out == ""
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert run("report", ".")[0] == 0


def test_an_empty_out_of_the_verb_is_refused_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnusableInput, match="--out: is empty"):
        convwise.choose("digits", out="", trials=1)
    assert list(tmp_path.iterdir()) == []


def bad_sources(where: Path) -> dict[str, tuple[Path, str]]:
    """name -> (source, a word that the message must hold)."""
    (where / "empty").mkdir()
    (where / "texts" / "a").mkdir(parents=True)
    (where / "texts" / "a" / "one.txt").write_text("no image")
    write_folder(where / "one class", ("only",), 5)
    write_folder(where / "one image", ("a", "b"), 5)
    for extra in sorted((where / "one image" / "b").iterdir())[1:]:
        extra.unlink()
    (where / "notes.txt").write_text("hello")
    (where / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    np.savez(where / "unnamed.npz", a=np.zeros(3))
    for label in ("a", "b"):
        (where / "unreadable" / label).mkdir(parents=True)
        for i in range(4):
            (where / "unreadable" / label / f"{i}.png").write_bytes(b"not an image")
    words = {"nowhere": "no file or folder", "empty": "empty", "texts": "texts",
             "one class": "only one class",
             "one image": "class b", "notes.txt": "notes.txt", "broken.zip": "broken.zip",
             "unnamed.npz": "unnamed.npz",
             "unreadable": "unreadable"}  # fmt: skip
    return {name: (where / name, word) for name, word in words.items()}


def is_one_clear_message(code: int, out: str, err: str, *words: str) -> None:
    assert code == 2, err
    assert out == ""
    assert err.startswith("convwise: ")
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err


@pytest.mark.parametrize("name", ["choose", "look", "advise"])
def test_unusable_images(run, tmp_path, name):
    for source, word in bad_sources(tmp_path).values():
        is_one_clear_message(*run(name, source), word)


@pytest.mark.parametrize(
    ("words", "named"),
    [(("--budget", "soon"), "soon"), (("--budget", "3s"), "at least 20 s"), (("--budget", "-1m"),
    "-1m"),
     (("--goal", "speed"), "speed"), (("--goal", "accuracy where size<3"), "size"), (("--test",
     "1.5"), "--test"),
     (("--test", "some"), "some"), (("--test", "-0.2"), "-0.2"), (("--test", "nan"), "nan"),
     (("--runner", "cloud"), "local"), (("--task", "dream"), "classify"), (("--workers", "0"),
     "--workers"),
     (("--workers", "-1"), "--workers"), (("--evidence", "0.9"), "--evidence"), (("--evidence",
     "nan"), "0.5"),
      (("--trials", "0"), "--trials"), (("--trials", "-3"), "--trials")],
    ids=" ".join,
)  # fmt: skip
def test_bad_options(run, stripes, words, named):
    option, value = words
    is_one_clear_message(*run("choose", stripes, f"{option}={value}"), named)


def test_a_bad_number_in_a_goal(run, stripes):
    is_one_clear_message(*run("choose", stripes, "--goal", "accuracy where params<1.2.3"), "1.2.3")


def test_a_folder_that_is_a_file(run, stripes, tmp_path):
    (tmp_path / "taken").write_text("mine")
    is_one_clear_message(*run("choose", stripes, "--out", tmp_path / "taken"), "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_no_study_in_a_folder(run, tmp_path, stripes):
    is_one_clear_message(*run("predict", tmp_path, stripes), str(tmp_path))
    is_one_clear_message(*run("export", tmp_path, "--to", "onnx"), str(tmp_path))
    is_one_clear_message(*run("report", tmp_path), str(tmp_path))


def test_usage_errors_exit_2(run):
    for words in (
        ("choose",),
        ("paint", "x"),
        ("choose", "x", "--colour"),
        ("choose", "x", "--trials", "many"),
    ):
        code, out, err = run(*words)
        assert code == 2
        assert out == ""
        assert "Traceback" not in err
        assert err


def test_a_goal_that_no_net_meets_is_answered_no(run, stripes):
    code, out, err = run("advise", stripes, "--goal", "accuracy where params<5")
    assert code == 1
    assert re.search(r"params \d+\.\d times its limit", err)
    assert out == ""
    assert "Traceback" not in err


# --- answers -------------------------------------------------------------------------------------


def test_look_and_advise_speak_json(run, stripes):
    code, out, err = run("look", stripes, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["images"] > 0
    assert {"shape", "classes", "measures", "input_shape", "input_reason", "problems"} <= set(found)
    code, out, err = run("advise", stripes, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert {"net", "configuration", "reasons", "space", "cost", "layers"} <= set(found)
    assert {row["name"] for row in found["net"]["layers"]} == set(found["layers"])


def test_look_and_advise_speak_to_people(run, stripes):
    code, out, _ = run("look", stripes)
    assert code == 0
    assert "2 classes" in " ".join(out.split())
    assert "Proposed input" in out
    code, out, _ = run("advise", stripes)
    assert code == 0
    assert "keras.layers.Conv2D" in out or "layers.Conv2D" in out
    assert f"CLASSES = {json.dumps(sorted(path.name for path in stripes.iterdir()))}" in out
    for choice in ("stem.kernel_size", "stage.filters", "padding", "activation"):
        assert choice in out


def test_the_code_that_advise_prints_runs_as_it_is_copied(run, tmp_path, monkeypatch):
    """However narrow the terminal, no line of it is broken: here its list of classes is longer than
    any.
    """
    monkeypatch.setenv("COLUMNS", "60")
    classes = tuple(f"a rather long name of a class, number {number}" for number in range(10, 22))
    code, out, _ = run("advise", write_folder(tmp_path / "many", classes, 12, 12, "L"))
    assert code == 0
    lines = out.splitlines()
    end = next(n for n, line in enumerate(lines) if line.startswith("parameter"))
    names: dict = {}
    exec("\n".join(lines[:end]), names)
    assert tuple(names["CLASSES"]) == classes
    assert names["build_model"]().input_shape == (None, *names["INPUT_SHAPE"])


def test_look_names_images_unlike_all_others(run, tmp_path):
    """To people in one sentence, in JSON with how far they are; names cannot steer the terminal."""
    folder = write_folder(tmp_path / "set", ("a", "b"), 60, 12, "L")
    planted = ["dark\x1b[2J.png", "light.png", "middle.png"]
    for name, level in zip(planted, (0, 255, 128), strict=True):
        Image.new("L", (12, 12), level).save(folder / "a" / name)
    code, out, _ = run("look", folder, "--test", "none")
    assert code == 0
    assert re.search(
        r"- \d images? looks? unlike all others, of \d+ images checked: a/\S+\.png \(a\)",
        " ".join(out.split()),
    )
    assert "\x1b" not in out
    found = json.loads(run("look", folder, "--test", "none", "--json")[1])["outliers"]
    assert found
    assert {row["path"] for row in found} <= {"a/dark\\x1b[2J.png", "a/light.png", "a/middle.png"}
    assert all(row["label"] == "a" and row["distance"] > 3 for row in found)


def test_choose_prints_one_json_on_stdout_and_events_on_stderr(chosen):
    choice = json.loads(chosen.ended.stdout)
    assert choice == json.loads((chosen.folder / "choice.json").read_text())
    told = events(chosen.ended.stderr)
    assert told[0]["note"].startswith(
        f"{chosen.images}: read as: 120 images, 3 classes; split into train "
    )
    assert [e["stage"] for e in told if e["stage"] != "read"][0] == "look"
    assert [e["stage"] for e in told][-2:] == ["writing", "finished"]
    assert all({"stage", "done", "planned", "best", "seconds_left"} <= set(event) for event in told)
    assert len(told) == len(own(chosen.ended.stderr).splitlines())  # and nothing else


def test_report_and_a_second_choose_say_it_again(chosen, run):
    code, out, _ = run("report", chosen.folder)
    assert code == 0
    test = json.loads((chosen.folder / "choice.json").read_text())["test"]
    assert f"{100 * test['accuracy']:.1f} %" in out
    assert "sealed test" in out
    assert str(chosen.folder / "report.html") in out
    words = (
        "choose",
        chosen.images,
        "--trials",
        4,
        "--goal",
        "accuracy where macs<100k",
        "--out",
        chosen.folder,
    )
    code, again, err = run(*words)
    assert (code, again) == (0, out)
    assert "finished" in err


@pytest.mark.parametrize(
    "to", ["torch", "onnx", "json", pytest.param("keras", marks=pytest.mark.slow)]
)
def test_export_writes_again_what_was_lost(chosen, run, tmp_path, to):
    folder = tmp_path / "copy"
    shutil.copytree(chosen.folder, folder)
    code, out, _ = run("export", folder, "--to", to)
    assert code == 0
    assert all(Path(line).is_file() for line in out.split())


def test_export_of_an_unknown_format(chosen, run):
    is_one_clear_message(*run("export", chosen.folder, "--to", "mp3"), "mp3", "onnx")


def test_a_network_no_better_than_guessing_exits_1_and_is_not_called_chosen(
    run, chosen, stripes, tmp_path, monkeypatch
):
    from convwise import verbs

    choice = json.loads((chosen.folder / "choice.json").read_text())
    choice["test"] |= {"better_than_guessing": False, "accuracy": 0.3, "baseline": 0.34}
    choice["notes"] = ["The budget was too short: about 20m would be needed.", *choice["notes"]]
    (tmp_path / "choice.json").write_text(json.dumps(choice))
    monkeypatch.setattr(verbs, "choose", lambda *given, **options: tmp_path)
    code, out, _ = run("choose", stripes)
    assert code == 1
    first, second, third, *_ = out.splitlines()
    assert first == f"No network was chosen. {choice['notes'][0]}"
    assert second.startswith("Written anyway: ")
    assert "Accuracy: 30.0 %" in third
    assert third.endswith("; always the largest class: 34.0 %")
    assert "Chosen:" not in out


def test_the_summary_says_how_to_get_a_smaller_network(chosen):
    choice = json.loads((chosen.folder / "choice.json").read_text())
    choice["goal"] = {"text": "accuracy", "kept": True}
    choice["cost"]["macs"] = 82_000_000
    choice["test"]["better_than_guessing"] = True
    hint = "Smaller: choose --goal cheapest looks for the fewest macs with accuracy>=best-0.3%"
    assert hint in choice_of.summary(choice, chosen.folder)
    for other in (
        {"cost": {**choice["cost"], "macs": 400_000}},
        {"goal": {"text": "cheapest", "kept": True}},
    ):
        assert hint not in choice_of.summary({**choice, **other}, chosen.folder)


def test_the_summary_says_what_was_not_resolved_and_reads_a_folder_of_the_first_version(chosen):
    choice = json.loads((chosen.folder / "choice.json").read_text())
    tried = [("activation", "relu", "gelu", "matters"), ("padding", "same", "valid",
             "no difference"),
             ("stage.filters", 64, 96, "not resolved"), ("stage.filters", 64, 48, "no difference"),
             ("stage.filters", 64, 32, "no difference")]  # fmt: skip
    made = [
        Effect(*named, 0.0, -0.01, 0.01, 1.0, verdict, seconds=10.0) for *named, verdict in tried
    ]
    choice["effects"] = [effect_row(effect) for effect in made]
    (line,) = (
        line for line in choice_of.summary(choice, chosen.folder) if line.startswith("Measured")
    )
    same = "padding same to valid, stage.filters 64 to 48 or 32"
    told = f"Matters: activation relu to gelu. No difference: {same}. "
    told += "Not resolved: stage.filters 64 to 96."
    assert line == f"Measured after 10 s of training or less. {told}"
    *first, last = choice["effects"]
    for effect in first:
        effect["expected_low"] = effect["expected_high"] = 0.0
    assert line in choice_of.summary(choice, chosen.folder), "not all are told for the end"
    last["expected_low"] = last["expected_high"] = 0.0
    assert (
        f"Measured after 10 s of training or less; the verdicts are about its end. {told}"
        in choice_of.summary(choice, chosen.folder)
    )
    del choice["configuration"]["stem"]
    for effect in choice["effects"]:
        del effect["seconds"], effect["expected_low"]
    assert f"Measured. {told}" in choice_of.summary(choice, chosen.folder)


# --- whole studies in processes of their own ------------------------------------------------------

COUNTED = ("--trials", 4, "--workers", 1)
QUICK = (*COUNTED, "--goal", "accuracy where macs<300k")


@pytest.mark.slow
def test_the_same_command_gives_the_same_choice_and_is_quiet(tmp_path):
    found = []
    for name in ("one", "two"):
        ended = command("choose", "digits", *QUICK, "--out", tmp_path / name)
        assert ended.returncode == 0, ended.stderr
        read = "digits: read as: 1797 images, 10 classes; "
        read += "split into train 1151, valid 287, sealed test 359\n"
        assert own(ended.stderr) == read  # and no progress where there is no terminal
        assert "Chosen:" in ended.stdout
        found.append(json.loads((tmp_path / name / "choice.json").read_text()))
    one, two = found
    assert one["net"] == two["net"]
    assert one["test"] == two["test"]
    clocked = "time_ratio"  # the one number of an effect that is not counted
    for effects in zip(one["effects"], two["effects"], strict=True):
        assert len({json.dumps({k: v for k, v in e.items() if k != clocked}) for e in effects}) == 1
    assert [a["validation_accuracy"] for a in one["alternatives"]] == [
        a["validation_accuracy"] for a in two["alternatives"]
    ]
    assert one["test"]["accuracy"] > 0.7


@pytest.mark.slow
def test_test_none_says_validation(tmp_path, stripes):
    ended = command("choose", stripes, *QUICK, "--test", "none", "--out", tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    assert "validation" in ended.stdout
    assert "sealed test images" not in ended.stdout
    choice = json.loads((tmp_path / "out" / "choice.json").read_text())
    assert (choice["test"]["kind"], choice["data"]["test"]) == ("validation", 0)


@pytest.mark.slow
def test_the_smallest_budget_gives_a_good_answer(tmp_path):
    """How well budgets are kept is measured by benchmarks/budgets.py: a test beside other load
    could not say.
    """
    ended = command("choose", "digits", "--budget", "20s", "--out", tmp_path / "out")
    test = json.loads((tmp_path / "out" / "choice.json").read_text())["test"]
    assert ended.returncode == int(test["probe"]["verdict"] == "worse"), ended.stderr
    assert test["accuracy"] > 0.8


def wait_for(process, phase: str, done: int) -> None:
    """Read the events of a study until so many trials of the stage are done."""
    for line in process.stderr:
        if (
            line.startswith("{")
            and (event := json.loads(line))["stage"] == phase
            and event["done"] >= done
        ):
            return
    raise AssertionError(f"it ended: {process.wait()}")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_study_writes_its_best(tmp_path, how):
    words = ("choose", "digits", "--budget", "5m", "--out", tmp_path / "out", "--json")
    process = started(*words)
    wait_for(process, "race", 1)
    process.send_signal(how)
    out, err = process.communicate(timeout=300)
    choice = json.loads(out)
    # As good as the probe, or stopped too early
    assert process.returncode == int(not is_chosen(choice["test"])), err
    assert choice["provenance"]["interrupted"]
    assert choice["test"]["kind"] == "test"
    assert (tmp_path / "out" / "report.html").exists()
    assert (tmp_path / "out" / "model.onnx").exists()


@pytest.mark.slow
def test_stopped_before_the_first_trial_there_is_nothing_to_write(tmp_path):
    process = started("choose", "digits", "--budget", "5m", "--out", tmp_path / "out", "--json")
    wait_for(process, "look", 0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (1, 130)
    assert out == ""
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "choice.json").exists()


@pytest.mark.slow
def test_a_killed_study_is_continued_and_says_so(tmp_path):
    words = ("choose", "digits", *QUICK, "--out", tmp_path / "out", "--json")
    process = started(*words)
    wait_for(process, "race", 2)
    process.kill()
    process.communicate()
    ended = command(*words)
    assert ended.returncode == 0, ended.stderr
    told = events(ended.stderr)
    (note,) = [e["note"] for e in told if e["stage"] == "continue"]
    assert re.search(r"continuing an unfinished study: [234] trials are kept", note)
    whole = command(*words[:-3], "--out", tmp_path / "whole", "--json")
    assert json.loads(whole.stdout)["net"] == json.loads(ended.stdout)["net"]
    assert json.loads(whole.stdout)["test"] == json.loads(ended.stdout)["test"]


def test_check_of_a_choice_tells_what_choose_answered(chosen, run, tmp_path):
    shutil.copytree(chosen.folder, tmp_path / "copy")
    first = json.loads(run("check", tmp_path / "copy", "--json")[1])["problems"][0]
    record = json.loads((tmp_path / "copy" / "choice.json").read_text())
    record["check"] = [{"where": first["where"], "what": first["what"], "answer": "it was tested"}]
    (tmp_path / "copy" / "choice.json").write_text(json.dumps(record))
    told = json.loads(run("check", tmp_path / "copy", "--json")[1])["problems"]
    assert [row.get("answer") for row in told] == ["it was tested", *[None] * (len(told) - 1)]
    assert "`choose` kept it anyway: it was tested" in run("check", tmp_path / "copy")[1]
