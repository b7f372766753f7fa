"""Standard output, errors and progress. Loaded on use: rich takes longer to load than `layer` to answer."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # all but tab and line feed
WIDE = 180  # columns where the output is no terminal, so that tables are whole


@cache
def out() -> Console:
    """Standard output."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE
    return _console()(width=width, markup=False, emoji=False)  # names of files and layers are not taken for markup


@cache
def err() -> Console:
    """Standard error."""
    return _console()(stderr=True, markup=False, emoji=False)


@cache
def _console() -> type[Console]:
    from rich.console import Console

    class Plain(Console):
        """A console on which no name can steer the terminal: control characters are written as escapes."""

        def render_str(self, text: str, **how: Any) -> Text:
            return super().render_str(CONTROL.sub(lambda found: repr(found[0])[1:-1], text), **how)

    return Plain


def table(*columns: str) -> Table:
    """A table without lines."""
    from rich.table import Table

    return Table(*columns, box=None, pad_edge=False)


class watching:
    """Progress: a live line on a terminal, a JSON line an event with --json, else nothing."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.status = err().status("starting") if err().is_terminal and not as_json else None

    def __enter__(self) -> Callable[[Any], None]:
        if self.status:
            self.status.start()
        return self.tell

    def __exit__(self, *error: object) -> None:
        if self.status:
            self.status.stop()

    def tell(self, progress: Any) -> None:
        if self.as_json:
            print(json.dumps(_event(progress)), file=sys.stderr, flush=True)
        elif self.status:
            self.status.update(_line(progress))
            if progress.note or progress.done == progress.planned > 0:
                err().print(_line(progress), highlight=False, soft_wrap=True)
        elif progress.note:
            err().print(progress.note, highlight=False, soft_wrap=True)


def _event(progress: Any) -> dict[str, Any]:
    best = progress.best
    from convwise.core.score import score_of

    score = score_of(best.trial.net) if best else None
    told = {score.name: score.value(best.score)} if score and best.score is not None else {}
    found = {**told, "baseline": progress.baseline, **best.cost} if best else None
    return {"stage": progress.stage, "done": progress.done, "planned": progress.planned, "best": found,
            "seconds_left": progress.seconds_left, "note": progress.note}  # fmt: skip


def _line(progress: Any) -> str:
    parts = [progress.note or progress.stage]
    if progress.planned:
        parts.append(f"{progress.done}/{progress.planned}")
    if progress.best:
        from convwise.core.score import score_of

        cost, guessing, score = progress.best.cost, progress.baseline, score_of(progress.best.trial.net)
        beside = f", {score.nothing} {score.said(guessing)}" if guessing is not None else ""
        parts.append(
            f"best so far {progress.best.told} (validation{beside}), {cost['params'] / 1e3:,.1f}k params, "
            f"{cost['macs'] / 1e6:,.2f}M macs"
        )
    if progress.seconds_left is not None:
        parts.append(f"{int(progress.seconds_left) // 60}:{int(progress.seconds_left) % 60:02d} left")
    return "  ".join(parts)
