"""Progress where a notebook runs the study: one output, drawn anew with each event."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from html import escape
from typing import Any

from convwise.core.progress import Progress, Watcher, quiet
from convwise.core.score import score_of

MOST_NOTES = 5


class Html(str):
    """Text that a notebook shows as HTML."""

    def _repr_html_(self) -> str:
        return str(self)


class Notebook:
    """A watcher that shows the newest event in one place. display: IPython's, or what takes the
    same.

    clock: in seconds, from when the watcher is made.
    """

    def __init__(
        self, display: Callable[..., Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.display, self.shown = display, None
        self.notes: list[str] = []
        self.clock, self.begun = clock, clock()

    def __call__(self, progress: Progress) -> None:
        if progress.note and progress.note not in self.notes:
            self.notes = [*self.notes, progress.note][-MOST_NOTES:]
        page = Html(html(progress, self.notes, self.clock() - self.begun))
        if self.shown is None:
            self.shown = self.display(page, display_id=True)
        else:
            self.shown.update(page)


def html(progress: Progress, notes: list[str], spent: float) -> str:
    """The phase with its bar, the best so far beside the baseline, the time left, and the newest
    notes.

    spent: seconds until now; where it is known how many are left, a second bar shows the share of
    the whole.
    """
    said = [f"<strong>{escape(progress.doing)}</strong>"]
    if progress.planned:
        done, planned = progress.done, progress.planned
        said.append(f"<progress max='{planned}' value='{done}'></progress> {done} of {planned}")
    if progress.best is not None and progress.best.score is not None:
        best = progress.best
        score = score_of(best.trial.net, best.trial.score)
        said.append(f"best so far {best.told}{score.behind} in validation")
        if progress.baseline is not None:
            said.append(f"{score.nothing} {score.said(progress.baseline)}")
    for live in progress.live[:1]:
        said.append(", ".join(filter(None, [f"epoch {live.epochs:.1f}", live.right])))
    if (left := progress.seconds_left) is not None:
        share = spent / max(spent + max(left, 0.0), 1e-9)
        whole = (
            f"<progress max='1' value='{share:.3f}' aria-label='time spent' style='margin-left:"
            " 0.5em'></progress>"
        )
        said.append(f"{int(left) // 60}:{int(left) % 60:02d} left{whole}")
    return f"<p>{' · '.join(said)}</p>" + "".join(f"<p>{escape(note)}</p>" for note in notes)


def watcher() -> Watcher:
    """One that shows progress where this code runs in a notebook; else one that says nothing."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if not hasattr(shell, "kernel"):  # a terminal's IPython has none
        return quiet
    from IPython.display import display

    return Notebook(display)
