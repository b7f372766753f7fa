"""Wall clock: how a budget is written, how much is left, how it is shared out."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from convwise.core.problems import UnusableInput

UNITS = {"s": 1, "m": 60, "h": 3600, "": 1}
MINIMUM_SECONDS = 20.0


def parse_duration(text: str | float) -> float:
    """'90s', '10m', '1h30m', or a number of seconds -> seconds."""
    compact = str(text).replace(" ", "").lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh]?)", compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise UnusableInput("--budget", f"is {text!r}", "a duration such as 90s, 10m or 1h30m")
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if seconds < MINIMUM_SECONDS:
        raise UnusableInput(
            "--budget", f"is {seconds:g} s", f"at least {MINIMUM_SECONDS:g} s", "give it more time"
        )
    return seconds


def duration(seconds: float) -> str:
    """A budget of at least so many seconds, as typed: 41 -> '50s', 95 -> '2m', 4000 -> '1h10m'."""
    if seconds <= 60:
        return f"{max(10 * ceil(seconds / 10), round(MINIMUM_SECONDS))}s"
    hours, minutes = divmod(ceil(seconds / 60), 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes else "")


@dataclass(frozen=True)
class Clock:
    """A budget that began at `started`, in the seconds that `now` tells."""

    budget: float
    started: float
    now: Callable[[], float] = time.monotonic

    @property
    def elapsed(self) -> float:
        return self.now() - self.started

    @property
    def left(self) -> float:
        """Seconds until the budget is spent; negative after that."""
        return self.budget - self.elapsed

    def until(self, share: float) -> float:
        """Seconds until `share` of the budget is spent; 0 where it is already."""
        return max(self.budget * share - self.elapsed, 0.0)


def process_age() -> float:
    """Seconds since this process began, with its start-up; 0 where the system does not tell."""
    try:
        with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
            ticks = float(stat.read().rsplit(")", 1)[1].split()[19])
            return max(float(uptime.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK"), 0.0)
    except (OSError, ValueError, IndexError):
        return 0.0


STARTED = time.monotonic() - process_age()
