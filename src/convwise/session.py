"""A study's folder: opened, continued or refused; what was found is kept and told."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from convwise.core.problems import ConvwiseError, UnusableInput, of_the_machine
from convwise.core.progress import Live, Progress
from convwise.core.records import Result, from_json, to_json
from convwise.core.temporary import locked, temporaries_in
from convwise.images.loading import Images
from convwise.ledger import Ledger
from convwise.notes import SETTINGS, SPENT
from convwise.output import deliver, whole
from convwise.search.phases import BESIDE
from convwise.settings import Settings
from convwise.training import scores
from convwise.training.lab import Lab
from convwise.training.tasks import TASKS

MOST_SPENT = 0.7  # of the budget, by what went before a study was continued


@dataclass(frozen=True)
class Session:
    """A study from opening to end: what was asked, of which images, and what was found."""

    settings: Settings
    lab: Lab
    images: Images
    ledger: Ledger

    @staticmethod
    def open(settings: Settings, lab: Lab, images: Images) -> Session:
        """A new study, or one to be continued; UnusableInput where the folder holds a study of
        something else.
        """
        ledger = Ledger(settings.ledger)
        mine = {
            "source": images.source,
            "images": len(images.train),
            "content": images.content(),
            "task": settings.task,
            "goal": settings.goal.text,
            "seed": settings.seed,
            # The budget counts where it decided which part of the images was read
            "budget": images.facts.get("budget"),
        }
        before = ledger.notes.get(SETTINGS, mine)
        if other := [name for name in mine if before.get(name) != mine[name]]:
            was, now = ({name: record.get(name) for name in other} for record in (before, mine))
            what = f"holds a different study: {was}"
            raise UnusableInput(
                str(settings.out), what, f"{now}", "choose another --out, or remove the folder"
            )
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
        later = replace(
            self, lab=replace(self.lab, clock=replace(clock, started=clock.started - spent))
        )
        later.tell(
            "continue", note=f"continuing an unfinished study: {len(self.results)} trials are kept"
        )
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

    @property
    def left(self) -> float:
        """Seconds of the budget that are left; without end where trials are counted."""
        return inf if self.settings.trials is not None else self.lab.clock.left

    def tell(
        self,
        phase: str,
        done: int = 0,
        planned: int = 0,
        note: str = "",
        live: tuple[Live, ...] = (),
    ) -> None:
        """The watcher hears how far the study is."""
        ended = [r for r in self.results if r.score is not None and r.trial.phase != BESIDE.name]
        best = max(ended, key=lambda r: r.score or 0, default=None)
        left = None if self.left == inf or phase == "finished" else max(self.left, 0)
        if live and self.images.classes:
            guessed = scores.baseline(np.asarray(self.images.train.labels), "accuracy")
            live = tuple(replace(each, baseline=guessed) for each in live)
        self.lab.watcher(
            Progress(phase, done, planned, best, left, note, self._baseline(best), live)
        )

    def _baseline(self, best: Result | None) -> float | None:
        """What knowing nothing of the validation images scores; of numbers it is told in the unit
        of a network.
        """
        labels, score = np.asarray(self.images.valid.labels), self.settings.goal.score
        if best:
            return TASKS[self.settings.task].baseline(labels, score, best.trial.net)
        return scores.baseline(labels, score) if self.images.classes else None


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Inside, no other run of convwise works in `folder`. UnusableInput where one does.

    Where the system, or the file system, has no locks, nothing is held.
    """
    with ExitStack() as until_the_end:
        try:
            until_the_end.enter_context(locked(folder))
        except BlockingIOError:
            fix = "wait until it has ended, or choose another --out"
            what = "another run of convwise is working in this folder"
            raise UnusableInput(str(folder), what, "one run at a time", fix) from None
        yield


@contextmanager
def written(settings: Settings) -> Iterator[None]:
    """UnusableInput where disk or memory is at its end; what was found stays in the ledger."""
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        if (told := of_the_machine(error, str(settings.out))) is None:
            raise
        raise told from error


@contextmanager
def tidied(settings: Settings) -> Iterator[None]:
    """Afterwards there is nothing where nothing was begun, and of a finished study only what it
    hands over.

    Before, what a kill left half moved is moved. Inside, temporary files of any framework are the
    study's own, so that they go with it, whatever ends it.
    """
    whole.finish(settings.out)
    fresh = not settings.ledger.exists()
    try:
        with temporaries_in(settings.work):
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
