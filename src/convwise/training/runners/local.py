"""Trials in worker processes of this machine, one trial a worker at a time."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from convwise.core.calculus import analyse
from convwise.core.problems import UnusableInput
from convwise.core.progress import Live
from convwise.core.records import Result, Trial
from convwise.training.host import Host
from convwise.training.runners import Work

CAPACITY = 4_000_000  # numbers that a team can exchange: larger nets train on one member's threads
# A worker is ended so long after twice its trial's own time, if it does not say how far it is
GRACE_SECONDS = 120.0
SILENT_SECONDS = 30.0  # without a sign of life, after which a worker is ended
LOADING_SECONDS = 180.0  # the same until it is ready: what is loaded may keep it from giving one
BEAT_SECONDS = 0.5  # from one sign of life to the next
POLL_SECONDS = 0.2
# Time that counts between two polls at most: a study that was itself stopped has not waited
AWAKE_SECONDS = 1.0
# What a worker says, beside results
BEAT, READY, BEGUN, GONE = "beat", "ready", "begun", "gone"
LEFT = "another worker of its team ended"
# A core of a virtual machine that falls asleep at each meeting computes a third slower after it
# (docs/findings.md).
AWAKE_WAITING_SECONDS = 0.05
_make_room = getattr(os, "sched_yield", partial(time.sleep, 0))  # for whoever else wants this core


class TeamLost(Exception):
    """A member of the team is gone: there will be no mean."""


@dataclass(frozen=True)
class Member:
    """One of `size` processes that compute means together, through shared memory.

    doors: a semaphore for each, which all others release as they arrive; lost: whether one is gone.
    Nothing is held while a member waits, so one that dies leaves no lock behind, as it would in a
    Barrier.
    """

    rank: int
    size: int
    doors: Sequence[Any]
    lost: Any
    memory: Any

    def mean(self, values: np.ndarray) -> np.ndarray:
        """The mean over all members of float32 (n,); TeamLost where a member is gone."""
        table = np.frombuffer(self.memory, np.float32).reshape(self.size, CAPACITY)[
            :, : len(values)
        ]
        table[self.rank] = values
        self._meet()
        mean: np.ndarray = table.mean(0)
        self._meet()  # nobody writes again before all have read
        return mean

    def _meet(self) -> None:
        """Wait until all have arrived. Whoever is one meeting ahead stands for the others: it had
        met them all.
        """
        for rank, door in enumerate(self.doors):
            if rank != self.rank:
                door.release()
        for _ in range(self.size - 1):
            until = time.monotonic() + AWAKE_WAITING_SECONDS
            while not self.doors[self.rank].acquire(time.monotonic() > until):
                _make_room()
            if self.lost.value:
                raise TeamLost(LEFT)

    def leave(self) -> None:
        """Whoever waits for the others waits in vain."""
        self.lost.value = 1
        for door in self.doors:
            for _ in range(self.size):
                door.release()

    def gather(self) -> None:
        """Begin anew, while no member works."""
        self.lost.value = 0
        for door in self.doors:
            while door.acquire(False):
                pass


@dataclass(frozen=True)
class _Door:
    """A semaphore that begins at 0, in the two ends of a pipe: one of the system's has a name,
    which a kill leaves.
    """

    ends: tuple[Connection, Connection]

    def release(self) -> None:
        os.write(self.ends[1].fileno(), b"+")

    def acquire(self, block: bool = True) -> bool:
        return (block or self.ends[0].poll()) and bool(os.read(self.ends[0].fileno(), 1))


@dataclass(frozen=True)
class WorkerLine:
    """A worker's line to the study. asked: shared memory, not 0 where trainings are to come to an
    early end.
    """

    say: Callable[[Any], None]
    asked: Any
    team: Member | None = None

    @property
    def ending(self) -> bool:
        return bool(self.asked.value)

    def tell(self, live: Live) -> None:
        self.say(live)


@dataclass(eq=False)
class _Worker:
    """One process, the pipe to it, and the trial that it runs. Times are in seconds that the study
    was awake.
    """

    process: BaseProcess
    pipe: Connection
    member: Member
    trial: Trial | None = None
    heard: bool = False  # since it was looked at last
    ready: bool = False
    silent: float = 0.0
    worked: float | None = None  # on its trial, since it began or told how far it is
    live: Live | None = None
    ended: str = ""  # by us, and why

    def listen(self, inbox: queue.SimpleQueue[tuple[_Worker, Any]]) -> None:
        """Put what it says into `inbox`: a thread's work, since one that is stopped in mid-sentence
        says no more.
        """
        said: Any = None
        with self.pipe:
            while said != GONE:
                try:
                    said = self.pipe.recv()
                except Exception:  # the end, or half of what it wanted to say
                    said = GONE
                self.heard = True
                if said != BEAT:
                    inbox.put((self, said))

    def look(self, seconds: float) -> str:
        """So many have passed: why it is not waited for any longer; '' where it is."""
        self.silent, self.heard = 0.0 if self.heard else self.silent + seconds, False
        if self.silent > (most := SILENT_SECONDS if self.ready else LOADING_SECONDS):
            return f"its worker gave no sign of life for {most:.0f} s, and was ended"
        if self.trial is None or self.worked is None:
            return ""
        self.worked += seconds
        late = (
            self.trial.seconds is not None and self.worked > 2 * self.trial.seconds + GRACE_SECONDS
        )
        return "it took more than twice its time, and was ended" if late else ""


class LocalRunner:
    """Runs trials in `workers` processes of `host`, this machine.

    Each calls `work(trial, line)`. A trial with threads > 1 is run by all workers together, as a
    team: the first one's result counts. A worker that dies, hangs or is stopped costs its trial
    alone: it is recorded as failed, and a new worker takes its place. Workers ignore Ctrl-C: the
    process that owns the study decides; they end soon after it, however it ends.
    """

    def __init__(self, work: Work, host: Host, workers: int = 1) -> None:
        if workers < 1:
            raise UnusableInput("--workers", f"is {workers}", "at least 1")
        self._work, self._host = work, host
        self._context = multiprocessing.get_context("spawn")
        doors = [self._door() for _ in range(workers)]
        lost = self._context.RawValue("b", 0)
        memory = self._context.RawArray("f", workers * CAPACITY if workers > 1 else 1)
        self._inbox: queue.SimpleQueue[tuple[_Worker, Any]] = queue.SimpleQueue()
        self._team: dict[int, Result] = {}  # of the members that have ended, by rank
        self._ending = self._context.RawValue("b", 0)
        self._looked = time.monotonic()
        self._workers = [
            self._start(Member(rank, workers, doors, lost, memory)) for rank in range(workers)
        ]

    def _door(self) -> Any:
        return (
            _Door(self._context.Pipe(duplex=False))
            if os.name == "posix"
            else self._context.Semaphore(0)
        )

    def _start(self, member: Member) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(theirs, member, self._ending), daemon=True
        )
        process.start()
        ours.send(self._work)  # which loads the engine: by then the worker gives signs of life
        theirs.close()
        worker = _Worker(process, ours, member)
        threading.Thread(target=worker.listen, args=(self._inbox,), daemon=True).start()
        return worker

    def run(self, trials: Iterable[Trial]) -> Iterator[Result]:
        """The result of each trial as it ends, in the order of ending."""
        waiting = deque(trials)
        self._ending.value = 0
        while waiting or self._is_busy:
            yield from self._ended()
            self._hand_out(waiting)

    def cut(self, seconds: float) -> Iterator[Result]:
        """The results of what runs, brought to an early end; what takes longer than so many seconds
        gives none.
        """
        self._ending.value = 1
        until = time.monotonic() + seconds
        while self._is_busy and time.monotonic() < until:
            yield from self._ended()

    @property
    def live(self) -> tuple[Live, ...]:
        """How far what runs now is; a team speaks with one voice."""
        told = {
            worker.trial.id: worker.live
            for worker in reversed(self._workers)
            if worker.trial and worker.live
        }
        return tuple(reversed(told.values()))

    @property
    def _is_busy(self) -> bool:
        return any(worker.trial for worker in self._workers)

    def _hand_out(self, waiting: deque[Trial]) -> None:
        idle = [worker for worker in self._workers if worker.trial is None]
        while idle and waiting:
            if not self._is_for_all(waiting[0]):
                self._give(idle.pop(0), waiting.popleft())
            elif len(idle) == len(self._workers):
                self._team.clear()
                idle[0].member.gather()
                trial = waiting.popleft()
                while idle:
                    self._give(idle.pop(0), trial)
            else:
                return

    def _is_for_all(self, trial: Trial) -> bool:
        return (
            trial.threads > 1
            and len(self._workers) > 1
            and analyse(trial.net).total.trainable < CAPACITY
        )

    def _give(self, worker: _Worker, trial: Trial) -> None:
        worker.trial, worker.live = trial, None
        worker.worked = None  # its time starts when it begins: loading torch may take long
        with suppress(OSError):  # it died while idle: _ended hears of that
            worker.pipe.send((trial, self._is_for_all(trial)))

    def _ended(self) -> Iterator[Result]:
        """What has ended by now; where workers are busy, a moment is waited for more."""
        patience = POLL_SECONDS if self._is_busy else 0.0
        with suppress(queue.Empty):
            while True:
                worker, said = self._inbox.get(timeout=patience)
                patience = 0.0
                yield from self._told(worker, said)
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, AWAKE_SECONDS), now
        for worker in tuple(self._workers):
            if why := worker.look(passed):
                worker.ended = why
                yield from self._told(worker, GONE)

    def _told(self, worker: _Worker, said: Any) -> Iterator[Result]:
        """Heed what a worker says; it may be the result of a trial."""
        if self._workers[worker.member.rank] is not worker:  # its place is taken
            return
        if isinstance(said, Live):
            worker.live, worker.worked = said, 0.0
            return
        if said in (READY, BEGUN):
            worker.ready = True
            worker.worked = 0.0 if said == BEGUN else None
            return
        trial, worker.trial = worker.trial, None
        if said == GONE:
            self._replace(worker)
        if trial is None:
            return
        result: Result = Result(trial, "failed", reason=_death(worker)) if said == GONE else said
        ended = (
            self._of_all(trial, worker.member.rank, result) if self._is_for_all(trial) else result
        )
        if ended:
            yield replace(ended, host=self._host.name)

    def _replace(self, worker: _Worker) -> None:
        if not worker.ended:
            worker.process.join(5)  # so that it can be said how it ended
        worker.process.kill()
        worker.process.join(5)
        self._workers[worker.member.rank] = self._start(worker.member)
        worker.member.leave()

    def _of_all(self, trial: Trial, rank: int, result: Result) -> Result | None:
        """The team's result, once its last member has ended: that of the first; of a failure, the
        cause.
        """
        self._team[rank] = result
        if any(worker.trial is trial for worker in self._workers):
            return None
        first = self._team[0]
        causes = [
            r.reason for r in self._team.values() if r.status == "failed" and LEFT not in r.reason
        ]
        return replace(first, reason=causes[0]) if causes and first.status == "failed" else first

    def close(self) -> None:
        """End the workers at once; running trials are lost."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join(5)


def _death(worker: _Worker) -> str:
    code = worker.process.exitcode
    if worker.ended:
        return worker.ended
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"its worker was killed ({name})" + (
            ", perhaps out of memory" if name == "SIGKILL" else ""
        )
    return f"its worker ended with exit code {code}"


def _serve(pipe: Connection, member: Member, ending: Any) -> None:
    """A worker's life: trials in, results out, until there is nobody to hear it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    one_at_a_time = threading.Lock()

    def say(what: Any) -> None:
        try:
            with one_at_a_time:
                pipe.send(what)
        except OSError:  # the study is gone
            os._exit(0)

    threading.Thread(target=_beat, args=(say,), daemon=True).start()
    _warm_up()
    try:
        work = pipe.recv()
        say(READY)
        while True:
            trial, together = pipe.recv()
            say(BEGUN)
            say(_guarded(work, trial, WorkerLine(say, ending, member if together else None)))
    except (EOFError, OSError):
        os._exit(0)


def _beat(say: Callable[[str], None]) -> None:
    """Signs of life, which also find out whether the study lives."""
    while True:
        say(BEAT)
        time.sleep(BEAT_SECONDS)


def _warm_up() -> None:
    """Load the engine while the study still reads images; PyTorch loads more where the first
    optimizer is made.
    """
    import torch

    torch.set_num_threads(1)
    with suppress(AttributeError):
        torch.optim.AdamW([torch.zeros(1, requires_grad=True)])


def _guarded(work: Work, trial: Trial, line: WorkerLine) -> Result:
    started = time.monotonic()
    try:
        return work(trial, line)
    except Exception as error:
        if line.team:
            line.team.leave()
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return Result(trial, "failed", seconds=time.monotonic() - started, reason=reason)
