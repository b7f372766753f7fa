"""Small real parts of studies and experiments: a host that needs no measuring, runners of this
process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from convwise import study
from convwise.advice.fingerprint import look
from convwise.core.calculus import analyse
from convwise.core.clock import Clock
from convwise.core.goal import parse_goal
from convwise.core.net import Net
from convwise.core.progress import Live, Watcher, quiet
from convwise.core.records import INTERRUPTED, Engine, Fingerprint, Pace, Point, Result, Trial
from convwise.core.space import LatencyModel
from convwise.core.task import kind_of
from convwise.formats import torch as torch_format
from convwise.images.loading import read
from convwise.output.deliver import Material
from convwise.search import race
from convwise.settings import Settings
from convwise.training import train
from convwise.training.lab import Lab
from studies import answers


@dataclass(frozen=True)
class MadeHost:
    """A host that is known without measuring: every net answers as fast as is predicted."""

    name: str = "made up"
    cores: int = 1
    workers: int = 1
    pace: Pace = Pace(2e-11, 1e-9, 1e-5)
    engine: Engine = Engine()
    latency: LatencyModel = LatencyModel(0.001, 1e-9, 0)

    def slowness(self) -> float:
        return 1.0

    def latency_ms(self, net: Net) -> float:
        return self.latency.milliseconds(analyse(net))

    def describe(self) -> dict[str, Any]:
        return {"cpu": self.name, "cores": self.cores}


@dataclass
class Serial:
    """A runner in this process; its fields say how its trials go.

    stops: (n, error) raises it instead of the trial after n; before: {stage: error} before a trial
    of that phase. score: sample -> a made-up score, instead of training. fails: the ids of trials
    that fail. ended: the ids of the trials since it was started last; closed: whether it was closed
    after that. cuts: whether the trial that `stops` came before can be brought to an early end.
    """

    stops: tuple[int, BaseException] | None = None
    before: dict[str, BaseException] = field(default_factory=dict)
    score: Callable[[Any], float] | None = None
    fails: tuple[str, ...] = ()
    ended: list[str] = field(default_factory=list)
    closed: bool = False
    cuts: bool = False
    begun: Trial | None = None
    live: tuple[Live, ...] = ()

    def __call__(self, work: Any, host: Any, workers: int) -> Serial:
        self.work, self.ended, self.closed, self.begun = work, [], False, None
        return self

    def run(self, trials: Iterable[Trial]) -> Iterator[Result]:
        for trial in trials:
            if trial.phase in self.before:
                raise self.before[trial.phase]
            if self.stops and len(self.ended) >= self.stops[0]:
                self.begun = trial
                raise self.stops[1]
            self.ended.append(trial.id)
            yield self.result(trial)

    def result(self, trial: Trial) -> Result:
        if trial.id in self.fails:
            return Result(trial, "failed", reason="made up")
        if self.score is None:
            found: Result = self.work(trial)
            return found
        keep_untrained(self.work.args[0], trial)
        return made_up(trial, self.score(trial.configuration))

    def cut(self, seconds: float) -> Iterator[Result]:
        if self.begun and self.cuts:
            cut = replace(self.begun, span=(self.begun.span[0], 1.0))
            yield replace(self.result(cut), reason=INTERRUPTED)

    def close(self) -> None:
        self.closed = True


def keep_untrained(folder: Path, trial: Trial) -> None:
    """Weights as they begin, where a trial would have left trained ones."""
    path = train.weights_path(folder, trial.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **torch_format.weights(torch_format.build(trial.net), trial.net))


def made_up(trial: Trial, score: float) -> Result:
    """What a trial gives that is said to reach a score."""
    if trial.part == "all":
        return Result(trial, "done", seconds=1.0, images_per_second=1e4)
    total = analyse(trial.net).total
    cost = {"params": total.params, "macs": total.macs, "activation_bytes": total.activation_bytes}
    seconds, right = trial.seconds or 1.0, answers(score, 200)
    seen = (Point(seconds, 10 * race.LEAST_IMAGES, 0.5, score),)
    return Result(trial, "done", score, right, cost, seen, seconds, images_per_second=1e4)


@dataclass(frozen=True)
class Asked:
    """A study that is asked for; `written` gets what it would have written."""

    settings: Settings
    lab: Lab
    written: list[Material]
    read: Callable[..., Any] = read
    look: Callable[..., Fingerprint] = look

    def run(self, write: Callable[[Material], Path] | None = None) -> Path:
        return study.run(self.settings, self.lab, self.read, self.look, write or self._write)

    def _write(self, material: Material) -> Path:
        self.written.append(material)
        return material.folder


def ask(source: Any, out: Path, runner: Any, written: list[Material], watcher: Watcher = quiet,
        clock: Clock | None = None, **fields: Any) -> Asked:  # fmt: skip
    """A study of `source` in `out`, looked at once for all that ask the same; fields as in Settings
    and Asked.
    """
    out.mkdir(exist_ok=True)
    ways = {name: fields.pop(name) for name in ("read", "look") if name in fields}
    host = fields.pop("host", MadeHost())
    wanted = parse_goal(fields.get("goal"), kind_of(fields.get("task", "classify")).scored)
    given = {"workers": 1, "trials": 4, "cache_size": 0, **fields, "goal": wanted}
    settings = Settings(source, out=out, **given)
    clock = clock or Clock(settings.budget, time.monotonic())
    return Asked(settings, Lab(host, clock, watcher, runner), written, **{"look": looked, **ways})


SEEN: dict[tuple[Any, ...], Fingerprint] = {}


def looked(part: Any, classes: Any, *, seed: int, budget: float, numbers: Any = ()) -> Fingerprint:
    """`look`, once for the same images."""
    key = hash(np.asarray(part.pixels).tobytes()), classes, seed, tuple(numbers)
    if key not in SEEN:
        SEEN[key] = look(part, classes, seed=seed, budget=budget, numbers=numbers)
    return SEEN[key]
