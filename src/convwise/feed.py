"""What a study tells whoever looks into its folder: progress as JSON lines, and a wish to stop on
the way back.

The one who looks is another process, which may come later, go, and come again: it reads files, and
writes one. While the study runs, the file of events is touched every second.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from convwise.core.clock import Clock
from convwise.core.progress import Progress, Watcher
from convwise.core.records import to_json
from convwise.core.score import score_of
from convwise.interrupts import SIGNALS
from convwise.notes import RESULT

if TYPE_CHECKING:  # which loads the training: the other side does without
    from convwise.settings import Settings

EVENTS, STOP = "events.jsonl", "stop"  # in the folder of what only an unfinished study needs
BEAT_SECONDS = 0.25
SILENT_SECONDS = 15.0  # a study that has not touched its events for so long does not run any more
WORK = ".study"


def event(progress: Progress) -> dict[str, Any]:
    """A Progress as JSON; of the best result its accuracy and its cost."""
    told: dict[str, Any] = to_json(replace(progress, best=None))
    if best := progress.best:
        score = score_of(best.trial.net, best.trial.score)
        told["best"] = {
            "trial": best.trial.id,
            score.name: score.value(best.score or 0.0),
            **best.cost,
        }
    return told


class Feed:
    """Inside `with`, every progress goes to `watcher` and into the folder `work`, and a wish to
    stop is heard.

    about: what is studied, in plain values. A stop is what Ctrl-C is; where this is not the main
    thread, nobody can ask for one.
    """

    def __init__(self, work: Path, about: Mapping[str, Any], watcher: Watcher) -> None:
        self._file, self._stop = work / EVENTS, work / STOP
        self._about, self._watcher = about, watcher
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._main = threading.current_thread() is threading.main_thread()

    @staticmethod
    def of(settings: Settings, clock: Clock, watcher: Watcher) -> Feed:
        """The feed of a study of `settings` whose budget is that of `clock`."""
        source = settings.source
        about = {
            "source": str(source) if isinstance(source, (str, Path)) else "arrays",
            "directory": os.getcwd(),
            "goal": settings.goal.text,
            "budget_seconds": settings.budget,
            "trials": settings.trials,
            "command": settings.command,
            "ends": time.time() + settings.budget - clock.elapsed,
        }
        return Feed(settings.work, about, watcher)

    def __enter__(self) -> Feed:
        self._stop.unlink(missing_ok=True)
        about = {**self._about, "stoppable": self._main and _signal() is not None}
        self._file.write_text(json.dumps({"about": about, "time": time.time()}, default=str) + "\n")
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self._write({"ended": True})

    def tell(self, progress: Progress) -> None:
        """A watcher."""
        self._watcher(progress)
        self._write(event(progress))

    def _write(self, line: Mapping[str, Any]) -> None:
        """In one piece and without a lock: an interrupt may tell of itself amid another line."""
        with suppress(OSError):  # a folder that was removed stays so
            file = os.open(self._file, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(file, (json.dumps({**line, "time": time.time()}) + "\n").encode())
            finally:
                os.close(file)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with suppress(OSError):
                os.utime(self._file)
                if self._stop.exists():
                    self._stop.unlink()
                    self._interrupt()

    def _interrupt(self) -> None:
        number, main = _signal(), threading.main_thread().ident
        if self._main and number is not None and main is not None:
            signal.pthread_kill(main, number)  # also out of a wait for a worker


def _signal() -> signal.Signals | None:
    """The one that is answered: a shell lets what it starts in the background ignore Ctrl-C."""
    return next((each for each in SIGNALS if callable(signal.getsignal(each))), None)


# The other side -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class News:
    """What a study has told. about: as it was given to Feed; events: in their order, each with its
    `time`.

    running: whether it goes on.
    """

    about: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[Mapping[str, Any], ...] = ()
    running: bool = False


def news(folder: Path) -> News:
    """What the study in `folder` has told since its last start; nothing where it is finished."""
    file = folder / WORK / EVENTS
    try:
        lines = [
            json.loads(line)
            for line in file.read_text().splitlines(keepends=True)
            if line.endswith("\n")
        ]
        beat = file.stat().st_mtime
    except (OSError, ValueError):
        return News()
    events = tuple(line for line in lines if "stage" in line)
    ended = any("ended" in line for line in lines)
    return News(
        lines[0].get("about", {}) if lines else {},
        events,
        not ended and time.time() - beat < SILENT_SECONDS,
    )


def ask_to_stop(folder: Path) -> None:
    """As Ctrl-C where the study in `folder` was started: the best so far is written."""
    (folder / WORK / STOP).touch()


def stored(database: Path, after: int = 0) -> tuple[list[tuple[int, Any]], dict[str, Any]]:
    """Of a ledger that another process writes: (number, Result as JSON) of those after `after`, and
    the notes.

    It is only read, for a moment, so that the study never waits. Nothing where there is none yet.
    """
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True, timeout=0.5)
        ) as found:
            asked = (
                "select trial_id, value_json from trial_user_attributes where key = ? and"
                " trial_id > ?"
            )
            rows = found.execute(f"{asked} order by trial_id", (RESULT, after)).fetchall()
            notes = found.execute("select key, value_json from study_user_attributes").fetchall()
    except sqlite3.Error:
        return [], {}
    return [(number, json.loads(text)) for number, text in rows], {
        key: json.loads(text) for key, text in notes
    }
