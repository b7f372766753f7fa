"""A study's folder: opened, continued or refused; what was found is kept in its ledger, and told."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from convwise.core.problems import ConvwiseError, UnusableInput
from convwise.core.progress import Progress
from convwise.core.records import Result, from_json, to_json
from convwise.images.loading import Images
from convwise.ledger import Ledger
from convwise.output import deliver, whole
from convwise.search.stages import BESIDE
from convwise.settings import Settings
from convwise.training.lab import Lab
from convwise.training.tasks import TASKS

# Notes in the ledger: what was asked, the time spent, how often the sealed part was opened, and for which trial last.
SETTINGS, SPENT = "convwise:settings", "convwise:spent_seconds"
OPENED, OPENED_FOR = "convwise:test_opened", "convwise:test_opened_for"
FACTS, ADVICE = "convwise:facts", "convwise:advice"
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
MOST_SPENT = 0.7  # of the budget, by what went before a study was continued


@dataclass(frozen=True)
class Session:
    """A study from its opening to its end: what was asked, of which images, and what was found so far."""

    settings: Settings
    lab: Lab
    images: Images
    ledger: Ledger

    @staticmethod
    def open(settings: Settings, lab: Lab, images: Images) -> Session:
        """A new study, or one to be continued; UnusableInput where the folder holds a study of something else."""
        ledger = Ledger(settings.ledger)
        mine = {
            "source": images.source,
            "images": len(images.train),
            "content": images.content(),
            "task": settings.task,
            "goal": settings.goal.text,
            "seed": settings.seed,
        }
        before = ledger.notes.get(SETTINGS, mine)
        if other := [name for name in mine if before.get(name) != mine[name]]:
            was, now = ({name: record.get(name) for name in other} for record in (before, mine))
            what = f"holds a study of something else: {was}"
            raise UnusableInput(str(settings.out), what, f"{now}", "choose another --out, or remove the folder")
        if SETTINGS not in ledger.notes:
            for left in settings.work.glob("*.npy"):  # of a study whose ledger is gone
                left.unlink()
        ledger.note(SETTINGS, mine)
        return Session(settings, lab, images, ledger)

    def continued(self) -> Session:
        """Where results are kept, the time that they took is spent."""
        if not self.results:
            return self
        clock = self.lab.clock
        spent = min(self.ledger.notes.get(SPENT, 0.0), MOST_SPENT * clock.budget)
        later = replace(self, lab=replace(self.lab, clock=replace(clock, started=clock.started - spent)))
        later.tell("continue", note=f"continuing an unfinished study: {len(self.results)} trials are kept")
        return later

    @property
    def workers(self) -> int:
        """Trainings side by side."""
        return self.settings.workers or self.lab.host.workers

    @property
    def results(self) -> tuple[Result, ...]:
        """What has been tried so far."""
        return self.ledger.results

    def kept(self, key: str, kind: type, make: Callable[[], Any]) -> Any:
        """What the ledger holds under `key`; made, and kept, where it holds nothing.

        Of a continued study: a measure or a pace taken anew would be another space.
        """
        if key in self.ledger.notes:
            return from_json(kind, self.ledger.notes[key])
        made = make()
        self.ledger.note(key, to_json(made))
        return made

    def record(self, result: Result) -> None:
        """Into the ledger, with the time spent so far."""
        self.ledger.append(result)
        self.ledger.note(SPENT, self.lab.clock.elapsed)

    def tell(self, stage: str, done: int = 0, planned: int = 0, note: str = "") -> None:
        """The watcher hears how far the study is."""
        scored = [r for r in self.results if r.score is not None and r.trial.stage != BESIDE.name]
        best = max(scored, key=lambda r: r.score or 0, default=None)
        left = None if self.settings.trials is not None else max(self.lab.clock.left, 0)
        baseline = TASKS[self.settings.task].baseline(np.asarray(self.images.valid.labels)) if best else None
        self.lab.watcher(Progress(stage, done, planned, best, left, note, baseline))


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Inside, no other run of convwise works in `folder`. UnusableInput where one does.

    It is the folder itself that is locked, by the system: the lock ends with the process, however that ends, and no
    file is left. Where the system, or the file system, has no such lock, nothing is held.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        yield
        return
    place = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(place)
        what, fix = "another run of convwise works in this folder", "wait until it has ended, or choose another --out"
        raise UnusableInput(str(folder), what, "one run at a time", fix) from None
    except OSError:  # such as on a network file system
        pass
    try:
        yield
    finally:
        os.close(place)


@contextmanager
def written(settings: Settings) -> Iterator[None]:
    """UnusableInput where the disk is full, or may not be written any more; what was found stays in the ledger."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        what = f"cannot be written ({error.strerror})"
        fix = "make room there, and run the same command again"
        where = str(error.filename or settings.out)
        raise UnusableInput(where, what, "a disk with room that can be written to", fix) from error


@contextmanager
def tidied(settings: Settings) -> Iterator[None]:
    """Afterwards there is nothing where nothing was begun, and of a finished study only what it hands over.

    Before, what a kill left half moved is moved.
    """
    whole.finish(settings.out)
    fresh = not settings.ledger.exists()
    try:
        yield
    except (ConvwiseError, KeyboardInterrupt):
        if fresh and not (settings.ledger.exists() and Ledger(settings.ledger).results):
            shutil.rmtree(settings.work, ignore_errors=True)
            with suppress(OSError):
                settings.ledger.unlink(missing_ok=True)
                settings.out.rmdir()
        elif deliver.is_finished(settings.out):
            shutil.rmtree(settings.work, ignore_errors=True)
        raise
    if deliver.is_finished(settings.out):
        shutil.rmtree(settings.work, ignore_errors=True)
