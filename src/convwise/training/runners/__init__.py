"""Where trials run: a table of alternatives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from convwise.core.records import Result, Trial
from convwise.training.host import Host
from convwise.training.runners import local


class Runner(Protocol):
    """Runs trials and hands back their results as they end, each with the host that it ran on.

    One trial's failure is its own.
    """

    def run(self, trials: Iterable[Trial]) -> Iterator[Result]: ...

    def close(self) -> None: ...


Start = Callable[[local.Work, Host, int], Runner]  # (what a worker does, where, how many workers)

RUNNERS: dict[str, Start] = {"local": local.LocalRunner}
