"""What a study or an experiment works with. It is passed in: tests give it others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from convwise.core.clock import Clock
from convwise.core.progress import Watcher, quiet
from convwise.training import train
from convwise.training.host import Host
from convwise.training.runners import RUNNERS, Runner, Start


@dataclass(frozen=True)
class Lab:
    """A host, a clock, a watcher, and how workers are started.

    clock: the budget of everything, which began when the command did; runner: one of RUNNERS.
    """

    host: Host
    clock: Clock
    watcher: Watcher = quiet
    runner: Start = RUNNERS["local"]

    def start(self, folder: Path, task: str, workers: int) -> Runner:
        """Workers that find the images in `folder`, and leave weights there."""
        return self.runner(partial(train.run, folder, self.host.engine, task), self.host, workers)
