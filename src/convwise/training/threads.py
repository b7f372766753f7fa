"""How many threads compute the steps of a training."""

from __future__ import annotations

import math
import time

import torch


class Threads:
    """Finds out whether `most` threads are faster than one.

    On small nets, or beside other load, they are not. Every PERIOD steps a few are timed with each
    number, and the faster number is kept.
    """

    PERIOD, TIMED = 256, 4  # steps; the first step after a change is not timed

    def __init__(self, most: int) -> None:
        self.counts, self.step = sorted({1, most}, reverse=True), 0
        self.before, self.times = time.perf_counter(), dict.fromkeys(self.counts, math.inf)

    def settle(self) -> None:
        """To be called before each step."""
        if len(self.counts) == 1:
            return
        now, (phase, step) = time.perf_counter(), divmod(self.step % self.PERIOD, self.TIMED + 1)
        if phase < 2:
            count = self.counts[phase]
            torch.set_num_threads(count)
            self.times[count] = math.inf if step < 2 else min(self.times[count], now - self.before)
        elif (phase, step) == (2, 0):
            torch.set_num_threads(min(self.times, key=lambda n: self.times[n]))
        self.step, self.before = self.step + 1, now
