"""Where trials run: a table of alternatives, imported on use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

from convwise.core.progress import Live
from convwise.core.records import Result, Trial
from convwise.training.host import Host

Work = Callable[..., Result]  # (trial, line): what a worker does, see train.Line


class Runner(Protocol):
    """Runs trials and hands back their results as they end, each with the host that it ran on.

    One trial's failure is its own, also where it ends its process.
    """

    def run(self, trials: Iterable[Trial]) -> Iterator[Result]: ...

    def cut(self, seconds: float) -> Iterator[Result]:
        """The results of what runs, brought to an early end; those that come in so many seconds."""

    @property
    def live(self) -> Sequence[Live]:
        """How far what runs now is."""

    def close(self) -> None: ...


Start = Callable[[Work, Host, int], Runner]  # (what a worker does, where, how many workers)


@dataclass(frozen=True)
class Place:
    """module, kind: the class of a Runner, which is called with work, host and workers; said: in
    the help's words.
    """

    module: str
    kind: str
    said: str

    def __call__(self, work: Work, host: Host, workers: int) -> Runner:
        """Started. UnusableInput where it cannot have so many workers."""
        runner: Runner = getattr(import_module(self.module), self.kind)(work, host, workers)
        return runner


RUNNERS: dict[str, Place] = {
    "local": Place(
        "convwise.training.runners.local", "LocalRunner", "in processes on this machine"
    ),
}
