"""A host: what trains and answers. It is made once, at the border, and passed in."""

from __future__ import annotations

from typing import Any, Protocol

from convwise.core.net import Net
from convwise.core.records import Engine, Pace
from convwise.core.space import LatencyModel


class Host(Protocol):
    """A machine, such as `machine.ThisMachine`: what computes, how fast, and its name."""

    @property
    def name(self) -> str:
        """What it is called, beside each result that it gave."""

    @property
    def engine(self) -> Engine:
        """Where and how trainings compute."""

    @property
    def cores(self) -> int:
        """Cores that trainings may use."""

    @property
    def workers(self) -> int:
        """Trainings side by side."""

    @property
    def pace(self) -> Pace:
        """Seconds of a training image on one thread."""

    @property
    def latency(self) -> LatencyModel:
        """Predicted milliseconds of the answer to one image."""

    def slowness(self) -> float:
        """Seconds of the clock for a second of work at this moment: 1 where nothing else runs."""

    def latency_ms(self, net: Net) -> float:
        """Measured milliseconds of the answer to one image; the same each time that it is asked."""

    def describe(self) -> dict[str, Any]:
        """The machine and the versions that matter, for provenance."""
