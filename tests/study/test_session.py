"""A study's folder: what is spent by a study that is continued, and what is left of one that ends
early.
"""

from __future__ import annotations

import errno
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import convwise
from convwise.core.clock import Clock
from convwise.core.problems import UnusableInput
from convwise.core.progress import Live
from convwise.images.loading import read
from convwise.ledger import Ledger
from convwise.notes import SPENT
from convwise.session import Session, held, tidied, written
from convwise.settings import Settings
from convwise.training.lab import Lab
from imagesets import striped
from labs import MadeHost
from studies import nth_net, scored


def session(
    out: Path, now: list[float], told=lambda progress: None, source: object = None
) -> Session:
    """Of a clock that stands at now[0], its budget of 100 s begun at 0."""
    (out / ".study").mkdir(parents=True, exist_ok=True)
    images = read(source or striped(2, 10, 8))
    lab = Lab(MadeHost(), Clock(100.0, 0.0, lambda: now[0]), told)
    return Session.open(Settings("stripes", 100.0, out=out), lab, images)


@pytest.mark.parametrize(("spent", "counted"), [(30.0, 30.0), (95.0, 70.0)])
def test_what_went_before_is_spent_but_not_all_of_it(tmp_path, spent, counted):
    session(tmp_path, [spent]).record(scored({}, nth_net(1), 0.5))
    notes = []
    later = session(tmp_path, [1.0], notes.append).continued()
    assert later.lab.clock.elapsed == pytest.approx(1.0 + counted)
    assert [p.seconds_left for p in notes] == [pytest.approx(99.0 - counted)]
    assert "1 trials are kept" in notes[0].note
    assert later.ledger.notes[SPENT] == spent


def test_where_nothing_is_kept_nothing_is_spent(tmp_path):
    session(tmp_path, [30.0])
    notes = []
    assert session(tmp_path, [1.0], notes.append).continued().lab.clock.elapsed == 1.0
    assert notes == []


def test_what_was_found_once_is_not_made_again(tmp_path):
    asked = []

    def make():
        asked.append(1)
        return scored({}, nth_net(1), 0.5)

    first = session(tmp_path, [0.0]).kept("convwise:made", type(make()), make)
    again = session(tmp_path, [0.0]).kept("convwise:made", type(first), make)
    assert again == first
    assert len(asked) == 2  # once by this test


@pytest.mark.parametrize("begun", [False, True])
def test_a_study_that_fails_leaves_what_it_has_and_else_nothing(tmp_path, begun):
    out = tmp_path / "out"
    out.mkdir()

    def fail():
        with tidied(Settings("stripes", out=out)):
            mine = session(out, [0.0])
            if begun:
                mine.record(scored({}, nth_net(1), 0.5))
            raise UnusableInput("made up", "failed")

    with pytest.raises(UnusableInput):
        fail()
    assert out.exists() == begun
    if begun:
        assert len(Ledger(out / "study.db").results) == 1


def test_no_accuracy_is_told_without_what_guessing_would_get(tmp_path):
    """Also before the first result, where only the trainings that run now have one."""
    told, labels = [], [0] * 24 + [1] * 8
    pixels = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1), dtype=np.uint8)
    mine = session(tmp_path, [0.0], told.append, (pixels, np.array(labels)))
    live = Live("race-1-1", 0.5, 3.0, 0.8, 900.0)
    mine.tell("race", live=(live,))
    mine.record(scored({}, nth_net(1), 0.9))
    mine.tell("race")
    large, learnt = (
        float(np.mean(part.labels == 0)) for part in (mine.images.valid, mine.images.train)
    )
    assert [each.baseline for each in told] == [large, large]
    assert told[0].best is None
    assert told[0].live == (replace(live, baseline=learnt),)
    assert 0.7 < learnt < large, "so that they are told apart"


# --- one run at a time ---------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from convwise.session import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_second_run_is_refused_until_the_first_has_ended_however_it_ends(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout.readline() == "held\n"
        for run in (
            lambda: convwise.choose("digits", out=tmp_path),
            lambda: held(tmp_path).__enter__(),
        ):
            with pytest.raises(
                UnusableInput, match="another run of convwise is working in this folder"
            ) as refused:
                run()
            assert refused.value.exit_code == 2
        assert (tmp_path / ".study").is_dir()  # of the first: what is refused tidies nothing away
        first.kill()
    with held(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".study"]


def test_where_a_file_system_has_no_locks_nothing_is_held(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def flock(place, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with held(tmp_path), held(tmp_path):
        pass


# --- disks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True])
def test_a_full_disk_is_said_in_a_sentence_and_loses_nothing(tmp_path, begun):
    out = tmp_path / "out"
    out.mkdir()

    def full():
        settings = Settings("stripes", out=out)
        with tidied(settings), written(settings):
            mine = session(out, [0.0])
            if begun:
                mine.record(scored({}, nth_net(1), 0.5))
            raise OSError(errno.ENOSPC, "No space left on device", str(out / "model.onnx"))

    with pytest.raises(
        UnusableInput, match=r"model.onnx: cannot be written \(No space left on device\)"
    ) as said:
        full()
    assert said.value.exit_code == 2
    assert out.exists() == begun


@pytest.mark.slow
def test_a_ledger_that_cannot_be_written_any_more_keeps_what_it_has(tmp_path):
    mine = session(tmp_path, [0.0])
    mine.record(scored({}, nth_net(1), 0.5))
    with closing(sqlite3.connect(tmp_path / "study.db")) as other:
        for table in ("trials", "study_user_attributes"):
            other.execute(f"create trigger full_{table} before insert on {table} "
                          "begin select there_is_no_room(); end")  # fmt: skip
    for write in (
        lambda: mine.record(scored({}, nth_net(2), 0.6)),
        lambda: mine.ledger.note("a", 1),
    ):
        with pytest.raises(
            UnusableInput,
            match=r"study.db: can no longer be written to \(no such function: there_is_no_room\)",
        ):
            write()
    assert len(mine.results) == len(Ledger(tmp_path / "study.db").results) == 1
