"""What every rival is given, and what it hands over to be scored."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Job:
    """One run of one rival.

    source: what convwise.read takes; deadline: time.monotonic() at which everything, the
    scoring too, shall have ended; mirror: whether mirroring does no harm on this set; options: of
    the rival's row in RIVALS; threads: cores that the run may use; wanted, task: see sets.Set.
    """

    source: Any
    seed: int
    deadline: float
    mirror: bool = False
    threads: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    keep: Path | None = None
    wanted: float | None = None
    task: str = "classify"

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    @cached_property
    def images(self) -> Any:
        """The Images of the source, split by the seed, the test part sealed."""
        from convwise.images.loading import read

        return read(self.source, seed=self.seed)

    @cached_property
    def dtype(self) -> str:
        """'bfloat16' where this machine's passes its self-test and is faster, else 'float32'."""
        from convwise.training.machine import ThisMachine

        return ThisMachine().engine.dtype


class Answer(Protocol):
    """What a rival hands over."""

    def score(self, job: Job) -> dict[str, Any]:
        """accuracy (0 to 1) and n of the sealed test part, which is opened here alone."""
        ...

    def facts(self) -> dict[str, Any]:
        """What else is known of the net and its training: params, macs, latency_ms, images_seen."""
        ...


@dataclass(frozen=True)
class Learnt:
    """A trained net. size: (rows, columns) that it reads; probabilities: uint8 (n, rows, columns,
    channels) -> float (n, classes); measured: called after the scoring, for what takes time."""

    size: tuple[int, int]
    probabilities: Callable[[np.ndarray], np.ndarray]
    measured: Callable[[], dict[str, Any]] = dict

    def score(self, job: Job) -> dict[str, Any]:
        test = job.images.test.open().at(*self.size)
        right = self.probabilities(np.asarray(test.pixels)).argmax(1) == test.labels
        return {"accuracy": float(right.mean()), "n": len(test)}

    def facts(self) -> dict[str, Any]:
        return {"input_size": list(self.size), **self.measured()}


@dataclass(frozen=True)
class Told:
    """The answer of a command that has opened its own sealed part, in its own process."""

    scored: Mapping[str, Any]
    known: Mapping[str, Any]

    def score(self, job: Job) -> dict[str, Any]:
        return dict(self.scored)

    def facts(self) -> dict[str, Any]:
        return dict(self.known)


def size_for(shape: tuple[int, int, int]) -> tuple[int, int]:
    """(rows, columns) that a fixed net reads: those of `shape`, or 64x64 where one is above 48."""
    rows, columns = shape[:2]
    return (64, 64) if max(rows, columns) > 48 else (rows, columns)
