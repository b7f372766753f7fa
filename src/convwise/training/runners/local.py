"""Trials in worker processes of this machine, one trial a worker at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from convwise.core.calculus import analyse
from convwise.core.problems import UnusableInput
from convwise.core.records import Result, Trial
from convwise.training.host import Host

Work = Callable[..., Result]  # (trial) or, for a team, (trial, member)
CAPACITY = 4_000_000  # numbers that a team can exchange: larger nets train on one member's threads
PATIENCE_SECONDS = 120.0  # of a member for the others
GRACE_SECONDS = 30.0  # over twice its own time, after which a trial's worker is ended
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Member:
    """One of `size` processes that compute means together, through shared memory."""

    rank: int
    size: int
    barrier: Any
    memory: Any

    def mean(self, values: np.ndarray) -> np.ndarray:
        """The mean over all members of float32 (n,); BrokenBarrierError where a member is gone."""
        table = np.frombuffer(self.memory, np.float32).reshape(self.size, CAPACITY)[:, : len(values)]
        table[self.rank] = values
        self.barrier.wait(PATIENCE_SECONDS)
        mean: np.ndarray = table.mean(0)
        self.barrier.wait(PATIENCE_SECONDS)  # nobody writes again before all have read
        return mean


@dataclass
class _Worker:
    """One process, the pipe to it, and the trial that it runs."""

    process: BaseProcess
    pipe: Connection
    member: Member
    trial: Trial | None = None
    started: float = 0.0
    ended: bool = False  # by us, for taking too long

    @property
    def overdue(self) -> bool:
        seconds = self.trial.seconds if self.trial else None
        return seconds is not None and time.monotonic() - self.started > 2 * seconds + GRACE_SECONDS


class LocalRunner:
    """Runs trials in `workers` processes of `host`, this machine, that call `work(trial)`.

    A trial with threads > 1 is run by all workers together, as a team: each calls `work(trial,
    member)`, and the first one's result counts. A worker that dies or hangs costs its trial
    alone: it is recorded as failed, and a new worker takes its place. Workers ignore Ctrl-C: the
    process that owns the study decides.
    """

    def __init__(self, work: Work, host: Host, workers: int = 1) -> None:
        if workers < 1:
            raise UnusableInput("--workers", f"is {workers}", "at least 1")
        self._work, self._host = work, host
        self._context = multiprocessing.get_context("spawn")
        self._barrier = self._context.Barrier(workers)
        self._memory = self._context.RawArray("f", workers * CAPACITY if workers > 1 else 1)
        self._workers = [self._start(Member(rank, workers, self._barrier, self._memory)) for rank in range(workers)]

    def _start(self, member: Member) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(self._work, theirs, member), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, member)

    def run(self, trials: Iterable[Trial]) -> Iterator[Result]:
        """The result of each trial as it ends, in the order of ending."""
        waiting = deque(trials)
        while waiting or any(worker.trial for worker in self._workers):
            self._hand_out(waiting)
            yield from self._ended()

    def _hand_out(self, waiting: deque[Trial]) -> None:
        idle = [worker for worker in self._workers if worker.trial is None]
        while idle and waiting:
            if not self._is_for_all(waiting[0]):
                self._give(idle.pop(0), waiting.popleft())
            elif len(idle) == len(self._workers):
                self._barrier.reset()
                trial = waiting.popleft()
                while idle:
                    self._give(idle.pop(0), trial)
            else:
                return

    def _is_for_all(self, trial: Trial) -> bool:
        return trial.threads > 1 and len(self._workers) > 1 and analyse(trial.net).total.trainable < CAPACITY

    def _give(self, worker: _Worker, trial: Trial) -> None:
        worker.trial, worker.started = (
            trial,
            float("inf"),
        )  # its time starts when it is ready: loading torch may take long
        try:
            worker.pipe.send((trial, self._is_for_all(trial)))
        except OSError:  # it died while idle: _ended sees that
            return

    def _ended(self) -> Iterator[Result]:
        busy = [worker for worker in self._workers if worker.trial]
        ready = wait([worker.pipe for worker in busy], timeout=POLL_SECONDS)
        for worker in busy:
            if worker.pipe in ready:
                result = self._collect(worker)
                if result is None:
                    continue
                if worker.member.rank == 0 or not self._is_for_all(result.trial):
                    yield replace(result, host=self._host.name)
            elif worker.overdue:
                worker.ended = True
                worker.process.kill()

    def _collect(self, worker: _Worker) -> Result | None:
        """The worker's result; None where it says that it begins."""
        trial = worker.trial
        assert trial is not None
        try:
            result: Result | None = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(5)
            result = Result(trial, "failed", reason=_death(worker))
            self._workers[worker.member.rank] = self._start(worker.member)
            self._barrier.abort()  # a team that waits for the dead one fails now
        if result is None:
            worker.started = time.monotonic()
        else:
            worker.trial = None
        return result

    def close(self) -> None:
        """End the workers at once; running trials are lost."""
        for worker in self._workers:
            worker.pipe.close()
            worker.process.kill()
        for worker in self._workers:
            worker.process.join(5)


def _death(worker: _Worker) -> str:
    code = worker.process.exitcode
    if worker.ended:
        return "it took more than twice its time, and was ended"
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"its worker was killed ({name})" + (", perhaps out of memory" if name == "SIGKILL" else "")
    return f"its worker ended with exit code {code}"


def _serve(work: Work, pipe: Connection, member: Member) -> None:
    """A worker's life: trials in, results out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _warm_up()
    while True:
        try:
            trial, together = pipe.recv()
            pipe.send(None)  # it begins
            pipe.send(_guarded(work, trial, member if together else None))
        except (EOFError, OSError):  # the study is gone: there is nobody to tell
            os._exit(0)


def _warm_up() -> None:
    """Load the engine while the study still reads images."""
    import torch

    torch.set_num_threads(1)


def _guarded(work: Work, trial: Trial, member: Member | None) -> Result:
    started = time.monotonic()
    try:
        return work(trial, member) if member else work(trial)
    except Exception as error:
        if member:
            member.barrier.abort()
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return Result(trial, "failed", seconds=time.monotonic() - started, reason=reason)
