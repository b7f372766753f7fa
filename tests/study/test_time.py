"""Time is kept where other work goes on: budgets, interrupts, and the clock that a person sees."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from convwise.cli import console
from convwise.cli.console import Screen, bar, clock, sparkline
from convwise.core.clock import Clock
from convwise.core.progress import DOING, Live, Progress
from convwise.interrupts import ANSWER_SECONDS, REPEATED_SECONDS, Interrupts
from convwise.output import deliver, plots
from convwise.output.words import is_chosen
from convwise.plan import LEAST_TRAINED, WRITE_SECONDS, Plan
from convwise.search import phases
from convwise.training import machine
from convwise.training.lab import Lab
from imagesets import write_folder
from labs import MadeHost, Serial, ask
from studies import command, started

# Slowness under three busy processes on two cores: what is promised is promised up to there
USUAL = 2.5


@contextmanager
def busy(count: int) -> Iterator[Callable[[], float]]:
    """Inside, so many processes compute all the time; what comes says how long a second of work has
    taken them so far.

    Whoever else computes here makes it longer, at whatever moment.
    """
    begun = time.monotonic()
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]

    def slowness() -> float:
        rows = [
            Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()
            for other in others
        ]
        ticks = sum(int(row[11]) + int(row[12]) for row in rows)  # in user and in system mode
        return (time.monotonic() - begun) * count * os.sysconf("SC_CLK_TCK") / max(ticks, 1)

    try:
        yield slowness
    finally:
        for other in others:
            other.kill()
            other.wait()


# --- what a second of work takes -----------------------------------------------------------------


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="a process cannot be kept on one core here"
)
def test_a_second_of_work_takes_longer_where_others_compute():
    """Four on one core have a quarter of it each, whatever else this machine does."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        with busy(3):
            beside = machine.slowness(0.3)
    finally:
        os.sched_setaffinity(0, before)
    assert beside > 2.0


def test_a_second_of_work_takes_a_second_where_nothing_else_computes(monkeypatch):
    worked = itertools.count(0.0, 0.01)
    monkeypatch.setattr(
        machine, "time", SimpleNamespace(thread_time=lambda: next(worked), monotonic=lambda: 0.0)
    )
    assert machine.slowness(0.1) == 1.0


@pytest.mark.parametrize("slow", [1.0, 2.5])
def test_the_final_training_leaves_time_to_write_at_this_pace(slow):
    plan = Plan(Clock(120, time.monotonic() - 40), 2, 1e-3, (4000, 800), 0.1, slowness=lambda: slow)
    seconds = plan.final_seconds(SimpleNamespace(images_per_second=1000.0), 500)
    assert 80 - seconds == pytest.approx(slow * (WRITE_SECONDS + 0.6) + 0.5 / 3, abs=0.1)


def test_however_slow_writing_is_half_of_what_is_left_trains():
    plan = Plan(Clock(60, time.monotonic() - 40), 2, 1e-3, (4000, 800), 0.1, slowness=lambda: 20.0)
    assert plan.final_seconds(SimpleNamespace(images_per_second=10.0), 5000) == pytest.approx(
        LEAST_TRAINED * 20, abs=0.1
    )


def test_a_busy_machine_is_promised_less():
    from convwise.plan import planned
    from studies import advice

    told = [
        planned(advice(), (800, 200), Lab(MadeHost(), Clock(60, time.monotonic())), slow, 2)
        for slow in (1.0, 3.0)
    ]
    assert told[1].epochs() < 0.6 * told[0].epochs()


def test_the_study_s_own_processes_are_no_other_load(tmp_path):
    """They load PyTorch while the images are read: asked then, an idle machine looks half as
    fast.
    """
    told = []

    class Listening(Serial):
        def __call__(self, *how):
            told.append("started")
            return super().__call__(*how)

        def run(self, trials):
            told.append("race")
            return super().run(trials)

    class Host(MadeHost):
        def slowness(self):
            told.append("asked")
            return 1.0

    images = write_folder(tmp_path / "stripes", ("a", "b"), 30, 12, "L")
    runner = Listening(score=lambda configuration: 0.9)
    ask(images, tmp_path / "out", runner, [], host=Host(), trials=None, budget=20.0).run()
    assert told[:3] == ["asked", "started", "race"]


# --- writing in the time that is left ------------------------------------------------------------


def test_without_time_the_plots_are_left_out_and_that_is_said(tmp_path):
    images = write_folder(tmp_path / "stripes", ("a", "b"), 30, 12, "L")
    steps = []

    def write(material):
        hurried = replace(material, left=lambda: 0.0, tell=lambda *step: steps.append(step))
        return deliver.write(hurried)

    folder = ask(images, tmp_path / "out", Serial(), [], trials=1).run(write)
    record, page = deliver.read_choice(folder), (folder / "report.html").read_text()
    assert (
        record["notes"][-1]
        == "There was no time left to draw the plots of the report; everything else is in it."
    )
    assert plots.LEFT_OUT in page
    assert f"{100 * record['test']['accuracy']:.1f}" in page
    assert {"model.keras", "model.onnx", "model.safetensors"} <= {
        path.name for path in folder.iterdir()
    }
    assert steps == [("writing", done, deliver.STEPS) for done in range(1, deliver.STEPS)]
    assert plots.render(
        SimpleNamespace(to_dict=lambda: {"mark": "point", "data": {"values": []}})
    ).startswith("<svg")


# --- interrupts ----------------------------------------------------------------------------------


def test_after_an_interrupt_there_are_ten_seconds_to_write():
    heard = []
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Interrupts(lambda: heard.append(True)) as interrupts:
        assert interrupts.left() > 1e9
        with interrupts.waiting():
            signal.raise_signal(signal.SIGINT)
        assert heard == [True]
        assert ANSWER_SECONDS - 1 < interrupts.left() <= ANSWER_SECONDS


# --- what a person sees --------------------------------------------------------------------------


def progress(**fields) -> Progress:
    return Progress(
        **{"phase": "race", "done": 0, "planned": 2, "best": None, "seconds_left": 90.0, **fields}
    )


def test_the_clock_ticks_between_two_words(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    screen = Screen()
    now[0] += 5
    assert screen.__rich__().endswith("0:05")
    screen.tell(progress())
    now[0] += 45
    assert screen.__rich__().endswith("0:45 left")
    assert screen.__rich__().count("━") == round(20 * 50 / 95)
    now[0] += 100
    assert screen.__rich__().endswith("0:00 left")  # it does not run below nothing
    screen.tell(progress(seconds_left=None))
    assert screen.__rich__().endswith("2:30")  # counted trials: the time spent


def test_each_phase_is_told_in_words():
    named = [phase.name for phase in vars(phases).values() if isinstance(phase, phases.Phase)]
    assert set(named) <= set(DOING)
    screen = Screen()
    screen.tell(progress(phase="teacher"))
    assert screen.__rich__().startswith("training the network that the others learn from  0/2")


def test_what_trains_shows_its_accuracy_and_its_curve():
    screen = Screen()
    for accuracy in (None, 0.1, 0.5, 0.9):
        screen.tell(
            progress(
                live=(
                    Live("race-1-1", 0.5, 3.25, accuracy, 900.0),
                    Live("race-1-2", 0.5, 3.0, 0.2, 1.0),
                )
            )
        )
    assert (
        f"epoch 3.2 {sparkline([0.1, 0.5, 0.9])} 90.0 % of its training images" in screen.__rich__()
    )
    screen.tell(progress(live=(Live("race-1-1", 0.5, 3.25, 0.9, 900.0, baseline=0.125),)))
    assert "90.0 % of its training images (always the largest class 12.5 %)" in screen.__rich__()


def test_bars_and_clocks():
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([1.0] * 99) == "█" * 16
    assert (bar(0.0), bar(0.5), bar(7.0)) == ("─" * 20, "━" * 10 + "─" * 10, "━" * 20)
    assert (clock(90), clock(5), clock(3600)) == ("1:30", "0:05", "60:00")


# --- the whole, beside three busy processes ------------------------------------------------------


@pytest.mark.slow
def test_a_minute_is_a_minute_beside_three_busy_processes(tmp_path):
    """On a machine that is busy beyond that, as long as its share of the cores explains."""
    with busy(3) as slowness:
        begun = time.monotonic()
        ended = command(
            "choose", "digits", "--budget", "1m", "--out", tmp_path / "out", timeout=600
        )
        spent, slow = time.monotonic() - begun, max(slowness(), USUAL)
    assert ended.returncode == no_choice(tmp_path / "out"), ended.stderr
    assert spent <= 66 * slow / USUAL
    assert deliver.read_choice(tmp_path / "out")["test"]["better_than_guessing"]


def no_choice(out: Path) -> int:
    """The exit code of what was written: a network that was stopped early may not be as good as the
    probe of `look`.
    """
    return int(not is_chosen(deliver.read_choice(out)["test"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "code"), [("read", 130), ("look", 130), ("final", 0), ("writing", 0)]
)
def test_an_interrupt_is_heard_at_once_and_written_soon(tmp_path, phase, code):
    with busy(3) as slowness:
        process = started("choose", "digits", "--budget", "2m", "--out", tmp_path / "out", "--json")
        for line in process.stderr:
            told = json.loads(line) if line.startswith("{") else {"stage": ""}
            if told["stage"] == phase and (told["live"] or phase != "final"):
                break
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        line = next(line for line in process.stderr if "interrupted" in line)
        heard = time.monotonic() - asked
        said = process.communicate()[1]
        answered, slow = time.monotonic() - asked, max(slowness(), USUAL)
    assert heard < slow / USUAL, line
    assert answered < (ANSWER_SECONDS + 1) * slow / USUAL, said
    assert (tmp_path / "out" / "choice.json").exists() == (code == 0)
    assert process.returncode == (code or no_choice(tmp_path / "out")), said


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["final", "writing"])
def test_a_second_interrupt_ends_at_once_and_leaves_no_half(tmp_path, phase):
    """The folder is whole or has no choice.json, and no process is left behind."""
    out = tmp_path / "out"
    process = started(
        "choose", "digits", "--budget", "1m", "--out", out, "--json", start_new_session=True
    )
    for line in process.stderr:
        told = json.loads(line) if line.startswith("{") else {"stage": ""}
        if told["stage"] == phase and (told["live"] or phase != "final"):
            break
    process.send_signal(signal.SIGINT)
    assert any("interrupted" in line for line in process.stderr)
    time.sleep(1.5 * REPEATED_SECONDS)  # sooner, it would be the same wish
    slow, asked = max(machine.slowness(), USUAL), time.monotonic()
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert time.monotonic() - asked < 3 * slow / USUAL
    assert "Traceback" not in said
    ended = (out / "choice.json").exists()  # the answer was there before the second was heard
    assert process.returncode == (no_choice(out) if ended else 130), said
    assert ended == (out / "model.onnx").exists()
    deadline = time.monotonic() + 10 * slow / USUAL
    while _has_processes(process.pid):
        assert time.monotonic() < deadline, "a process is left behind"
        time.sleep(0.1)


def _has_processes(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
