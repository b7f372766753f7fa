"""What a study tells those who look into its folder, and how it hears them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from convwise import feed
from convwise.core.clock import Clock
from convwise.core.goal import parse_goal
from convwise.core.progress import Progress, quiet
from convwise.core.records import to_json
from convwise.ledger import Ledger
from convwise.settings import Settings
from studies import advice, segment


@pytest.fixture(autouse=True)
def _hears_ctrl_c():
    """Also where these tests were started in the background, which makes a process ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / feed.WORK).mkdir()
    return tmp_path


def test_all_that_is_told_can_be_read_beside(folder):
    given, heard = advice(), []
    best = segment(given, given.configuration)
    with feed.Feed(folder / feed.WORK, {"source": "photos"}, heard.append) as telling:
        telling.tell(Progress("race", 1, 4, best, 12.5, "a note", 0.25))
        told = feed.news(folder)
    assert heard == [Progress("race", 1, 4, best, 12.5, "a note", 0.25)]
    assert told.running
    assert told.about == {"source": "photos", "stoppable": True}
    (event,) = told.events
    assert abs(event["time"] - time.time()) < 60
    assert event["best"] == {"trial": best.trial.id, "accuracy": best.score, **best.cost}
    assert (event["stage"], event["planned"], event["seconds_left"], event["baseline"]) == (
        "race",
        4,
        12.5,
        0.25,
    )
    assert not feed.news(folder).running, "it has ended"


def test_what_is_studied_is_told(folder):
    settings = Settings(
        "photos", 90.0, parse_goal("accuracy where macs<1M"), out=folder, command="convwise choose"
    )
    before = time.time()
    with feed.Feed.of(settings, Clock(90.0, 0.0, lambda: 30.0), quiet):
        about = feed.news(folder).about
    assert before + 60 <= about.pop("ends") <= time.time() + 60
    assert about == {"source": "photos", "goal": settings.goal.text, "budget_seconds": 90.0,
                     "trials": None,
                     "command": "convwise choose", "stoppable": True,
                     "directory": str(Path.cwd())}  # fmt: skip


def test_a_study_that_is_silent_for_long_does_not_run(folder):
    file = folder / feed.WORK / feed.EVENTS

    def silent() -> None:
        os.utime(file, (time.time() - feed.SILENT_SECONDS - 1,) * 2)

    with feed.Feed(folder / feed.WORK, {}, quiet):
        silent()
        while not feed.news(folder).running:  # until it gives a sign of life
            time.sleep(feed.BEAT_SECONDS)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))  # as after a power cut
    assert feed.news(folder).running
    silent()
    assert not feed.news(folder).running


@pytest.mark.parametrize("text", ["", '{"about": {"source": "a"}}\n{"stage": "ra', "nonsense\n"])
def test_half_a_line_is_no_news(folder, text):
    (folder / feed.WORK / feed.EVENTS).write_text(text)
    assert feed.news(folder).events == ()
    assert feed.news(folder / "nowhere") == feed.News()


def test_asked_to_stop_it_is_interrupted_as_by_ctrl_c(folder):
    with feed.Feed(folder / feed.WORK, {}, quiet):
        threading.Timer(0.1, feed.ask_to_stop, [folder]).start()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(20)
        assert not (folder / feed.WORK / feed.STOP).exists()
        # Once is enough: a second one would end it without an answer
        time.sleep(3 * feed.BEAT_SECONDS)


def test_a_wish_from_before_is_none_of_this_study(folder):
    feed.ask_to_stop(folder)
    with feed.Feed(folder / feed.WORK, {}, quiet):
        time.sleep(3 * feed.BEAT_SECONDS)


def test_from_another_thread_it_cannot_be_stopped(folder):
    told = []

    def run():
        with feed.Feed(folder / feed.WORK, {}, quiet):
            told.append(feed.news(folder).about["stoppable"])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert told == [False]


def test_a_folder_that_is_removed_stays_so(folder):
    with feed.Feed(folder / feed.WORK, {}, quiet) as telling:
        shutil.rmtree(folder / feed.WORK)
        telling.tell(Progress("finished", 0, 0, None, None))
    assert list(folder.iterdir()) == []


def test_a_ledger_is_read_as_the_ledger_itself_reads_it(tmp_path):
    given = advice()
    ledger = Ledger(tmp_path / "study.db")
    ledger.know(given.space)
    ledger.note("convwise:advice", to_json(given))
    for number in (1, 2, 3):
        ledger.append(segment(given, given.configuration, number))
    rows, notes = feed.stored(tmp_path / "study.db")
    assert [row for _, row in rows] == [
        json.loads(json.dumps(to_json(result))) for result in ledger.results
    ]
    assert notes == dict(ledger.notes)
    later, _ = feed.stored(tmp_path / "study.db", after=rows[1][0])
    assert later == rows[2:]


def test_a_ledger_that_is_missing_or_locked_says_nothing(tmp_path):
    assert feed.stored(tmp_path / "study.db") == ([], {})
    assert not (tmp_path / "study.db").exists()
    Ledger(tmp_path / "study.db")
    writing = sqlite3.connect(tmp_path / "study.db", isolation_level=None)
    writing.execute("begin exclusive")
    assert feed.stored(tmp_path / "study.db") == ([], {})
    writing.close()
