"""Standard output, errors and progress. rich is loaded on use: it takes longer than `layer`."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

from convwise.core.text import short

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

# Control characters, all but tab and line feed
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
BARS = "▁▂▃▄▅▆▇█"
WIDE = 180  # columns where the output is no terminal, so that tables are whole


@cache
def out() -> Console:
    """Standard output."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE
    # Names of files and layers are not taken for markup
    return _console()(width=width, markup=False, emoji=False)


@cache
def err() -> Console:
    """Standard error."""
    return _console()(stderr=True, markup=False, emoji=False)


@cache
def _console() -> type[Console]:
    from rich.console import Console

    class Plain(Console):
        """A console that no name can steer: control characters are written as escapes."""

        def render_str(self, text: str, **how: Any) -> Text:
            return super().render_str(CONTROL.sub(lambda found: repr(found[0])[1:-1], text), **how)

    return Plain


def table(*columns: str) -> Table:
    """A table without lines."""
    from rich.table import Table

    return Table(*columns, box=None, pad_edge=False)


class watching:
    """Progress: a ticking line on a terminal, a JSON line an event with --json; else notes."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.screen = Screen()
        self.status = (
            err().status(self.screen, refresh_per_second=4)
            if err().is_terminal and not as_json
            else None
        )

    def __enter__(self) -> Callable[[Any], None]:
        if self.status:
            self.status.start()
        return self.tell

    def __exit__(self, *error: object) -> None:
        if self.status:
            self.status.stop()

    def tell(self, progress: Any) -> None:
        if self.as_json:
            sys.stderr.write(json.dumps(_event(progress)) + "\n")  # at once: two threads tell
            sys.stderr.flush()
        elif self.status:
            self.screen.tell(progress)
            if progress.note or progress.done == progress.planned > 0:
                err().print(_line(progress), highlight=False, soft_wrap=True)
        elif progress.note:
            err().print(progress.note, highlight=False, soft_wrap=True)


def _event(progress: Any) -> dict[str, Any]:
    best = progress.best
    from convwise.core.score import score_of

    score = score_of(best.trial.net, best.trial.score) if best else None
    told = {score.name: score.value(best.score)} if score and best.score is not None else {}
    found = {**told, "baseline": progress.baseline, **best.cost} if best else None
    return {"stage": progress.phase, "done": progress.done, "planned": progress.planned,
            "best": found,
            "seconds_left": progress.seconds_left, "note": progress.note,
            "baseline": progress.baseline,
            "live": [asdict(live) for live in progress.live]}  # fmt: skip


class Screen:
    """What a terminal shows: the phase, what trains, a bar of the whole, a ticking clock."""

    def __init__(self) -> None:
        self.progress: Any = None
        self.curves: dict[str, list[float]] = {}  # trial -> its accuracies so far
        self.begun = self.told = time.monotonic()

    def tell(self, progress: Any) -> None:
        """Something new."""
        self.progress, self.told = progress, time.monotonic()
        for live in progress.live:
            if live.accuracy is not None:
                self.curves.setdefault(live.trial, []).append(live.accuracy)

    def __rich__(self) -> str:
        if self.progress is None:
            return f"starting  {clock(time.monotonic() - self.begun)}"
        parts, now = [_line(self.progress, clocked=False)], time.monotonic()
        for live in self.progress.live[:1]:
            curve = sparkline(self.curves.get(live.trial, []))
            parts.append(f"epoch {live.epochs:.1f} {curve} {live.right}".rstrip())
        if (left := self.progress.seconds_left) is not None:
            spent, left = now - self.begun, max(left - (now - self.told), 0.0)
            parts.append(f"{bar(spent / max(spent + left, 1e-9))} {clock(left)} left")
        else:
            parts.append(clock(now - self.begun))
        return "  ".join(parts)


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """The last values as a row of bars from 0 to 1."""
    return "".join(BARS[min(int(value * len(BARS)), len(BARS) - 1)] for value in values[-width:])


def bar(share: float, width: int = 20) -> str:
    """How much of the whole is done."""
    full = round(min(share, 1.0) * width)
    return "━" * full + "─" * (width - full)


def clock(seconds: float) -> str:
    """90 -> '1:30'."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _line(progress: Any, clocked: bool = True) -> str:
    parts = [progress.note or progress.doing]
    if progress.planned:
        parts.append(f"{progress.done}/{progress.planned}")
    if progress.best:
        from convwise.core.score import score_of

        cost, guessing, best = progress.best.cost, progress.baseline, progress.best
        score = score_of(best.trial.net, best.trial.score)
        beside = f", {score.nothing} {score.said(guessing)}" if guessing is not None else ""
        parts.append(
            f"best so far {best.told}{score.behind} (validation{beside}), {short(cost['params'])}"
            f" params, {short(cost['macs'])} macs"
        )
    if clocked and progress.seconds_left is not None:
        parts.append(f"{clock(progress.seconds_left)} left")
    return "  ".join(parts)
