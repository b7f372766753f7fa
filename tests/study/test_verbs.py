"""The verbs as Python has them: named options, wrong ones refused, and progress where a notebook runs them."""

from __future__ import annotations

import inspect
import sys
from types import SimpleNamespace

import pytest
import typer

import convwise
from convwise import notebook
from convwise.cli.app import app
from convwise.core.problems import UnusableInput
from convwise.core.progress import Progress, quiet
from convwise.core.records import Effect
from convwise.evidence.experiment import Edit, Measured
from convwise.measuring import Measurement
from screens import Reader, is_a_screen
from studies import advice, nth_net, scored

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
# Flags of commands that are no options of the verb: how it is printed, and what the verb's objects do instead.
PRINTED = {"as_json", "help", "csv_file", "time", "apply", "show"}
NO_VERB = {"serve"}  # a page is for looking at
OTHERWISE = {("choose", "out_dir"): "out", ("check", "budget"): "", ("layer", "kind"): "type"}


@pytest.mark.parametrize("name", sorted({*COMMANDS} - NO_VERB))
def test_every_command_has_a_verb_with_its_options(name):
    options = inspect.signature(getattr(convwise, name)).parameters
    flags = [p.name for p in COMMANDS[name].params if p.name not in PRINTED and p.param_type_name == "option"]
    wanted = {OTHERWISE.get((name, flag), flag) for flag in flags} - {""}
    assert wanted <= set(options)


@pytest.mark.parametrize("name", convwise.__all__)
def test_signatures_name_their_options(name):
    found = inspect.signature(getattr(convwise, name)).parameters.values()
    assert not [p.name for p in found if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    assert all(p.annotation is not inspect.Parameter.empty for p in found)


@pytest.mark.parametrize("name", [name for name in convwise.__all__ if not name.startswith("Convwise")])
def test_a_wrong_option_is_refused_with_the_names_there_are(name):
    with pytest.raises(UnusableInput) as caught:
        getattr(convwise, name)("8x8x1", bugdet="10m")
    assert "bugdet" in str(caught.value)
    known = list(inspect.signature(getattr(convwise, name)).parameters)
    assert all(option in str(caught.value) for option in (known if name != "layer" else ["filters", "kernel_size"]))
    if name in ("choose", "advise", "measure"):
        assert caught.value.problem.fix == "budget=..."


def test_layer_names_every_parameter_of_every_type():
    found = inspect.signature(convwise.layer).parameters
    assert {"filters", "strides", "padding", "pool_size", "depth_multiplier", "output_padding"} <= set(found)
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
    wide = convwise.layer("30x20x3", type="Conv2DTranspose", filters=4, kernel_size=(2, 30), strides=2)
    assert is_a_screen(wide)
    found = convwise.check(advice(shape=(64, 64, 3)).net)
    assert is_a_screen(found)
    assert f"{found.analysis.total.params:,} parameters" in repr(found)


def test_a_measurement_is_a_screen():
    effect = Effect("stage.kernel_size", 3, 5, -0.012, -0.02, -0.004, 1.3, "matters", 3, 5.0)
    edits = [Edit(f"conv{number}.filters", nth_net(number), 8, 16) for number in range(30)]
    measured = [Measured(edit, effect) for edit in edits] + [Measured(edits[0], notes=("there was no time for it",))]
    found = Measurement("model.onnx", 5.0, 0.91, tuple(measured), ("an effect may be different there",))
    assert is_a_screen(found)
    assert "\N{MINUS SIGN}1.2" in repr(found)
    assert "conv0.filters 8 \N{RIGHTWARDS ARROW} 16: not measured: there was no time for it" in repr(found)
    assert is_a_screen(Measurement("model.onnx", 0.0, None, (), ()))


# --- in a notebook ---------------------------------------------------------------------------------


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
    assert "best so far 81.2 % in validation · always the largest class 10.4 % · 1:05 left" in third.said
    assert "<changes>" in last.said  # a note stays, and is text


def test_notes_do_not_pile_up():
    display = Display()
    watcher = notebook.Notebook(display)
    for number in range(40):
        watcher(Progress("race", number, 40, None, None, f"note {number // 2}"))
    assert Reader(display.places[0][-1]).said.count("note") == notebook.MOST_NOTES
    assert "note 19" in display.places[0][-1]


@pytest.mark.parametrize(("shell", "shows"), [(None, False), (SimpleNamespace(), False),
                                              (SimpleNamespace(kernel=object()), True)])  # fmt: skip
def test_only_a_notebook_is_shown_progress(monkeypatch, shell, shows):
    """A script has no IPython, a terminal's has no kernel."""
    display = Display()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    watcher = notebook.watcher()
    assert (watcher is not quiet) == shows
    watcher(events()[0])
    assert len(display.places) == shows
