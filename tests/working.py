"""What workers are told to do in test_runners.py: light, because every worker imports it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from convwise.core.progress import Live
from convwise.core.records import Result, Trial


def half(pipe: Any, text: bytes) -> None:
    os.write(pipe.fileno(), text[:3])
    os.kill(os.getpid(), signal.SIGSTOP)


def work(trial: Trial, line: Any = None) -> Result:
    """As the trial's id says: 'return', 'raise', 'exit', 'kill', 'stop', 'half', 'hang', 'sleep-1',
    'wait-', 'tell'.

    'wait-FILE' ends once the file is there; 'hang-FILE' writes its process into it, and does not
    end.
    """
    # Else what follows would end or stop the tests themselves
    if multiprocessing.parent_process() is None:
        raise AssertionError(
            "the runner works in the study's own process: its workers need processes of their own"
        )
    what, _, rest = trial.id.partition("-")
    if what == "mean":  # 'mean-kill-1': the member of rank 1 does so instead
        how, _, rank = rest.rpartition("-")
        if how and line.team.rank == int(rank):
            return work(replace(trial, id=how), line)
        return Result(
            trial,
            "done",
            score=float(line.team.mean(np.full(3, line.team.rank, np.float32)).mean()),
        )
    if what == "raise":
        raise RuntimeError("a made-up error\nwith a second line")
    if what == "memory":
        raise MemoryError("cannot allocate")
    if what == "exit":
        os._exit(7)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "hang":
        if rest:
            Path(rest).write_text(str(os.getpid()))
        time.sleep(600)
    if what == "sleep":
        time.sleep(float(rest))
    if what == "wait":
        while not Path(rest).exists():
            time.sleep(0.02)
    if what == "tell":  # until it is asked to end
        while not line.ending:
            line.tell(Live(trial.id, 0.5, 1.0, None, 1.0))
            time.sleep(0.05)
    if what == "half":  # it stops in the midst of what it says next
        Connection._send = half  # type: ignore[attr-defined]
    if what == "tangle":
        return Result(trial, "done", cost={"cannot be sent": lambda: None})  # type: ignore[dict-item]
    return Result(trial, "done", score=0.5, reason=str(os.getpid()))
