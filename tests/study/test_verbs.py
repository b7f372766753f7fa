"""The verbs as Python has them: named options, wrong ones refused, and progress where a notebook
runs them.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

import convwise
from convwise import notebook
from convwise.cli.app import app
from convwise.core.defaults import MOST_EVIDENCE, MOST_WORKERS, TEST_SHARE
from convwise.core.problems import UnusableInput
from convwise.core.progress import Live, Progress, quiet
from convwise.core.records import Effect
from convwise.evidence.records import Edit, Measured
from convwise.measuring import Measurement
from screens import Reader, is_a_screen
from studies import ENVIRONMENT, advice, nth_net, scored

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
# Flags of commands that are no options of the verb: how it is printed, and what the verb's objects
# do instead.
PRINTED = {"as_json", "help", "csv_file", "time", "show"}
NO_VERB = {"serve"}  # a page is for looking at
OTHERWISE = {("choose", "out_dir"): "out", ("layer", "kind"): "type"}


@pytest.mark.parametrize("name", sorted({*COMMANDS} - NO_VERB))
def test_every_command_has_a_verb_with_its_options(name):
    options = inspect.signature(getattr(convwise, name)).parameters
    flags = [
        p.name
        for p in COMMANDS[name].params
        if p.name not in PRINTED and p.param_type_name == "option"
    ]
    wanted = {OTHERWISE.get((name, flag), flag) for flag in flags}
    assert wanted <= set(options)


@pytest.mark.parametrize("name", convwise.__all__)
def test_signatures_name_their_options(name):
    found = inspect.signature(getattr(convwise, name)).parameters.values()
    assert not [p.name for p in found if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    assert all(p.annotation is not inspect.Parameter.empty for p in found)


@pytest.mark.parametrize(
    "name", [name for name in convwise.__all__ if not name.startswith("Convwise")]
)
def test_a_wrong_option_is_refused_with_the_names_there_are(name):
    with pytest.raises(UnusableInput) as caught:
        getattr(convwise, name)("8x8x1", bugdet="10m")
    assert "bugdet" in str(caught.value)
    known = list(inspect.signature(getattr(convwise, name)).parameters)
    assert all(
        option in str(caught.value)
        for option in (known if name != "layer" else ["filters", "kernel_size"])
    )
    if name in ("choose", "advise", "measure"):
        assert caught.value.problem.fix == "budget=..."


@pytest.mark.parametrize(
    "verb",
    [
        convwise.load,
        convwise.report,
        lambda folder: convwise.predict(folder, "digits"),
        lambda folder: convwise.export(folder, "onnx"),
    ],
)
def test_an_empty_folder_name_is_not_the_folder_that_one_is_in(verb, tmp_path, monkeypatch):
    """As the commands refuse it: an unset variable must not read or write what lies there."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnusableInput, match="the folder: is empty.*Fix: name one"):
        verb("")


def test_choose_tells_its_defaults_and_bounds_as_they_are():
    """A docstring cannot take them from where they are decided, as the help does."""
    said = " ".join(str(convwise.choose.__doc__).split())
    for told in (
        f"(None: {TEST_SHARE})",
        f"one per core, at most {MOST_WORKERS}",
        f"0 to {MOST_EVIDENCE}",
    ):
        assert told in said


def test_layer_names_every_parameter_of_every_type():
    found = inspect.signature(convwise.layer).parameters
    assert {
        "filters",
        "strides",
        "padding",
        "pool_size",
        "depth_multiplier",
        "output_padding",
    } <= set(found)
    assert found["kernel_size"].annotation == int | tuple[int, int] | None
    assert found["use_bias"].annotation == bool | None


def test_the_answers_of_layer_and_check_are_screens():
    answer = convwise.layer("224x224x3", filters=64, kernel_size=7, strides=2, padding="same")
    assert is_a_screen(answer)
    for said in (
        "gives 112x112x64",
        "top 2, bottom 3",
        "9,472",
        "layers.Conv2D(64, 7",
        "nn.Conv2d(3, 64, 7, stride=2)",
    ):
        assert said in repr(answer)
    wide = convwise.layer(
        "30x20x3", type="Conv2DTranspose", filters=4, kernel_size=(2, 30), strides=2
    )
    assert is_a_screen(wide)
    found = convwise.check(advice(shape=(64, 64, 3)).net)
    assert is_a_screen(found)
    assert f"{found.analysis.total.params:,} parameters" in repr(found)


def test_advise_says_what_the_budget_is_enough_for(run):
    """In the words of the command, which asks this verb; the numbers are this machine's."""
    found = convwise.advise("digits", budget="5m", goal="accuracy where params<20k")
    said = r"in 5m this machine can train one network for about [\d,]+ epochs? and test .* to it.*"
    assert re.fullmatch(said, found.plan)
    assert f"Time: {found.plan}"[:60] in repr(found)
    assert is_a_screen(found)
    # A study's ledger keeps what is advised, not what a machine is fast at
    assert "plan" not in found.to_json()
    code, said, _ = run(
        "advise", "digits", "--budget", "5m", "--goal", "accuracy where params<20k", "--json"
    )
    assert code == 0
    assert json.loads(said)["plan"].startswith(
        "in 5m this machine can train one network for about "
    )


def test_a_measurement_is_a_screen():
    effect = Effect("stage.kernel_size", 3, 5, -0.012, -0.02, -0.004, 1.3, "matters", 3, 5.0)
    edits = [Edit(f"conv{number}.filters", nth_net(number), 8, 16) for number in range(30)]
    measured = [Measured(edit, effect) for edit in edits] + [
        Measured(edits[0], notes=("there was no time for it",))
    ]
    found = Measurement(
        "model.onnx", 5.0, 0.91, tuple(measured), ("an effect may be different there",)
    )
    assert is_a_screen(found)
    assert "\N{MINUS SIGN}1.2" in repr(found)
    assert (
        "conv0.filters 8 \N{RIGHTWARDS ARROW} 16: not measured: there was no time for it"
        in repr(found)
    )
    assert is_a_screen(Measurement("model.onnx", 0.0, None, (), ()))


# --- in a notebook --------------------------------------------------------------------------------


class Display:
    """As IPython's display(..., display_id=True): what is shown in each place, newest last."""

    def __init__(self) -> None:
        self.places: list[list[str]] = []

    def __call__(self, page, display_id):
        assert display_id is True
        self.places.append([page._repr_html_()])
        return SimpleNamespace(update=lambda page: self.places[-1].append(page._repr_html_()))


def events() -> list[Progress]:
    best = scored({"block": "plain"}, nth_net(1), 0.8125)
    return [
        Progress("look", 0, 0, None, 119.6),
        Progress("race", 0, 4, None, 110.0, "2m would test 5 <changes>"),
        Progress("race", 2, 4, best, 65.2, baseline=0.104),
        Progress("writing", 0, 0, best, 3.0, baseline=0.104),
    ]


def test_the_stream_of_events_is_shown_in_one_place():
    display = Display()
    watcher = notebook.Notebook(display)
    for event in events():
        watcher(event)
    (pages,) = display.places
    first, second, third, last = (Reader(page) for page in pages)
    assert first.said == "looking at the images · 1:59 left"
    assert second.said == "comparing networks ·  0 of 4 · 1:50 left2m would test 5 <changes>"
    assert "value='2'" in pages[2]
    assert (
        "best so far 81.2 % in validation · always the largest class 10.4 % · 1:05 left"
        in third.said
    )
    assert "<changes>" in last.said  # a note stays, and is text


def test_what_trains_now_stands_beside_guessing():
    live = Live("race-1-1", 0.5, 3.25, 0.9, 900.0, baseline=0.125)
    said = Reader(notebook.html(Progress("race", 0, 4, None, 110.0, live=(live,)), [], 0.0)).said
    assert "epoch 3.2, 90.0 % of its training images (always the largest class 12.5 %)" in said


WHOLE = re.compile(r"<progress max='1' value='([\d.]+)' aria-label='time spent'")


def test_a_second_bar_shows_how_much_of_the_whole_time_is_spent():
    """10 s of 100, 35 of 100, and 120 of what was to be 100; nobody knows it of counted trials."""
    now, display = [50.0], Display()
    watcher = notebook.Notebook(display, lambda: now[0])
    for second, left in ((60.0, 90.0), (85.0, 65.0), (170.0, -20.0), (171.0, None)):
        now[0] = second
        watcher(Progress("race", 1, 4, None, left))
    assert [WHOLE.findall(page) for page in display.places[0]] == [
        ["0.100"],
        ["0.350"],
        ["1.000"],
        [],
    ]


def in_a_kernel(code: str, folder: Path) -> list[dict[str, Any]]:
    """What a real Jupyter kernel publishes while it runs `code` in `folder`; its errors end the
    test.
    """
    from jupyter_client.manager import KernelManager

    manager, told = KernelManager(connection_file=str(folder / "kernel.json")), []
    manager.start_kernel(
        cwd=str(folder), env={**ENVIRONMENT, "IPYTHONDIR": str(folder / "ipython")}
    )
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        client.execute_interactive(code, timeout=300, output_hook=told.append)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert [each["content"] for each in told if each["msg_type"] == "error"] == []
    return told


TOLD = """
from convwise import notebook
from convwise.core.progress import Progress
watcher = notebook.watcher()
for done in range(4):
    watcher(Progress("race", done, 4, None, 90.0 - 10 * done, "<note>"))
"""


def test_a_real_kernel_draws_one_output_anew(tmp_path):
    told = in_a_kernel(TOLD, tmp_path)
    pages = [each for each in told if "text/html" in each["content"].get("data", {})]
    assert [each["msg_type"] for each in pages] == ["display_data", *["update_display_data"] * 3]
    assert len({each["content"]["transient"]["display_id"] for each in pages}) == 1
    last = pages[-1]["content"]["data"]["text/html"]
    assert Reader(last).said == "comparing networks ·  3 of 4 · 1:00 left<note>"
    assert len(WHOLE.findall(last)) == 1


@pytest.mark.slow
def test_a_study_in_a_real_kernel_is_followed_and_shows_its_choice(tmp_path):
    code = "import convwise\nconvwise.choose('digits', budget='30s', out='out')"
    told = in_a_kernel(code, tmp_path)
    pages = [each for each in told if each["msg_type"] in ("display_data", "update_display_data")]
    assert len({each["content"]["transient"]["display_id"] for each in pages}) == 1
    shares = [
        float(each)
        for page in pages
        for each in WHOLE.findall(page["content"]["data"]["text/html"])
    ]
    assert len(shares) > 10
    assert shares[0] < 0.2
    assert shares == pytest.approx(sorted(shares), abs=0.01), "two threads tell"
    last = pages[-1]["content"]["data"]["text/html"]
    assert Reader(last).said.startswith("finished")
    assert not WHOLE.findall(last)
    (answer,) = [each["content"]["data"] for each in told if each["msg_type"] == "execute_result"]
    assert "Chosen:" in Reader(answer["text/html"]).said
    assert (tmp_path / "out" / "choice.json").exists()


def test_notes_do_not_pile_up():
    display = Display()
    watcher = notebook.Notebook(display)
    for number in range(40):
        watcher(Progress("race", number, 40, None, None, f"note {number // 2}"))
    assert Reader(display.places[0][-1]).said.count("note") == notebook.MOST_NOTES
    assert "note 19" in display.places[0][-1]


@pytest.mark.parametrize(("shell", "shows"), [(None, False), (SimpleNamespace(), False),
                                              (SimpleNamespace(kernel=object()),
                                              True)])  # fmt: skip
def test_only_a_notebook_is_shown_progress(monkeypatch, shell, shows):
    """A script has no IPython, a terminal's has no kernel."""
    display = Display()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    watcher = notebook.watcher()
    assert (watcher is not quiet) == shows
    watcher(events()[0])
    assert len(display.places) == shows
