"""Trials in worker processes of this machine, one trial a worker at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from convwise.core.records import Result, Trial

Work = Callable[[Trial], Result]
GRACE_SECONDS = 30.0  # over twice its own time, after which a trial's worker is ended
POLL_SECONDS = 0.2


@dataclass
class _Worker:
    """One process, the pipe to it, and the trial that it runs."""

    process: BaseProcess
    pipe: Connection
    trial: Trial | None = None
    started: float = 0.0

    @property
    def overdue(self) -> bool:
        seconds = self.trial.seconds if self.trial else None
        return seconds is not None and time.monotonic() - self.started > 2 * seconds + GRACE_SECONDS


class LocalRunner:
    """Runs trials in `workers` processes that call `work(trial)`.

    A worker that dies or hangs costs its trial alone: it is recorded as failed, and a new worker
    takes its place. Workers ignore Ctrl-C: the process that owns the study decides.
    """

    def __init__(self, work: Work, workers: int = 1) -> None:
        self._work = work
        self._context = multiprocessing.get_context("spawn")
        self._workers = [self._start() for _ in range(workers)]

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(self._work, theirs), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def run(self, trials: Iterable[Trial]) -> Iterator[Result]:
        """The result of each trial as it ends, in the order of ending."""
        waiting = deque(trials)
        while waiting or any(worker.trial for worker in self._workers):
            for worker in self._workers:
                if worker.trial is None and waiting:
                    self._give(worker, waiting.popleft())
            yield from self._ended()

    def _give(self, worker: _Worker, trial: Trial) -> None:
        worker.trial, worker.started = trial, time.monotonic()
        try:
            worker.pipe.send(trial)
        except OSError:  # it died while idle: _ended sees that
            return

    def _ended(self) -> Iterator[Result]:
        busy = [worker for worker in self._workers if worker.trial]
        ready = wait([worker.pipe for worker in busy], timeout=POLL_SECONDS)
        for worker in busy:
            if worker.pipe in ready:
                yield self._collect(worker)
            elif worker.overdue:
                worker.process.kill()

    def _collect(self, worker: _Worker) -> Result:
        trial = worker.trial
        assert trial is not None
        try:
            result: Result = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(5)
            result = Result(trial, "failed", reason=_death(worker.process.exitcode))
            self._workers[self._workers.index(worker)] = self._start()
        worker.trial = None
        return result

    def close(self) -> None:
        """End the workers at once; running trials are lost."""
        for worker in self._workers:
            worker.pipe.close()
            worker.process.kill()
        for worker in self._workers:
            worker.process.join(5)


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"its worker was killed ({name})" + (", perhaps out of memory" if name == "SIGKILL" else "")
    return f"its worker ended with exit code {code}"


def _serve(work: Work, pipe: Connection) -> None:
    """A worker's life: trials in, results out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _warm_up()
    while True:
        try:
            trial = pipe.recv()
        except EOFError:
            os._exit(0)
        pipe.send(_guarded(work, trial))


def _warm_up() -> None:
    """Load the engine while the study still reads images."""
    import torch

    torch.set_num_threads(1)


def _guarded(work: Work, trial: Trial) -> Result:
    started = time.monotonic()
    try:
        return work(trial)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return Result(trial, "failed", seconds=time.monotonic() - started, reason=reason)
