"""Where trials run: a table of alternatives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from convwise.core.progress import Live
from convwise.core.records import Result, Trial
from convwise.training.host import Host
from convwise.training.runners import local


class Runner(Protocol):
    """Runs trials and hands back their results as they end, each with the host that it ran on.

    One trial's failure is its own.
    """

    def run(self, trials: Iterable[Trial]) -> Iterator[Result]: ...

    def cut(self, seconds: float) -> Iterator[Result]:
        """The results of what runs, brought to an early end, as far as they come in so many seconds."""

    @property
    def live(self) -> Sequence[Live]:
        """How far what runs now is."""

    def close(self) -> None: ...


Start = Callable[[local.Work, Host, int], Runner]  # (what a worker does, where, how many workers)

RUNNERS: dict[str, Start] = {"local": local.LocalRunner}
