"""Progress where a notebook runs the study: one output, drawn anew with each event, without any widget."""

from __future__ import annotations

import sys
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
    """A watcher that shows the newest event in one place. display: IPython's, or what takes the same."""

    def __init__(self, display: Callable[..., Any]) -> None:
        self.display, self.shown = display, None
        self.notes: list[str] = []

    def __call__(self, progress: Progress) -> None:
        if progress.note and progress.note not in self.notes:
            self.notes = [*self.notes, progress.note][-MOST_NOTES:]
        page = Html(html(progress, self.notes))
        if self.shown is None:
            self.shown = self.display(page, display_id=True)
        else:
            self.shown.update(page)


def html(progress: Progress, notes: list[str]) -> str:
    """The stage with its bar, the best so far beside the baseline, the time left, and the newest notes."""
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
        now = f", {100 * live.accuracy:.1f} % of its training images" if live.accuracy is not None else ""
        said.append(f"epoch {live.epochs:.1f}{now}")
    if progress.seconds_left is not None:
        said.append(f"{int(progress.seconds_left) // 60}:{int(progress.seconds_left) % 60:02d} left")
    return f"<p>{' · '.join(said)}</p>" + "".join(f"<p>{escape(note)}</p>" for note in notes)


def watcher() -> Watcher:
    """One that shows progress where this code runs in a notebook; elsewhere one that says nothing."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if not hasattr(shell, "kernel"):  # a terminal's IPython has none
        return quiet
    from IPython.display import display

    return Notebook(display)
