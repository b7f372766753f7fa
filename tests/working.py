"""What workers are told to do in test_runners.py: light, because every worker imports it."""

from __future__ import annotations

import os
import signal
import time

from convwise.core.records import Result, Trial


def work(trial: Trial) -> Result:
    """Does what the trial's id says: 'return', 'raise', 'exit', 'kill', 'hang', 'sleep-0.5', 'tangle', 'who'."""
    what, _, rest = trial.id.partition("-")
    if what == "raise":
        raise RuntimeError("a made-up error\nwith a second line")
    if what == "memory":
        raise MemoryError("cannot allocate")
    if what == "exit":
        os._exit(7)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hang":
        time.sleep(600)
    if what == "sleep":
        time.sleep(float(rest))
    reason = lambda: None if what == "tangle" else str(os.getpid())  # noqa: E731
    return Result(trial, "done", score=0.5, reason=reason if what == "tangle" else reason())
