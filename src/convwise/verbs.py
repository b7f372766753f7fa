"""The public verbs: what `convwise.choose(...)` and its like do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from convwise import study
from convwise.advice.fingerprint import look as look_at
from convwise.core.clock import Clock, parse_duration
from convwise.core.goal import parse_goal
from convwise.core.progress import Watcher, quiet
from convwise.core.records import Advice, Fingerprint
from convwise.images.loading import Images
from convwise.images.loading import read as read_images
from convwise.output import deliver
from convwise.plan import within_latency
from convwise.session import tidied
from convwise.settings import TRAINING_SHARE, Settings, checked, folder_for
from convwise.training.lab import Lab
from convwise.training.machine import ThisMachine
from convwise.training.runners import RUNNERS


def choose(source: Any, *, budget: str | float = "10m", goal: str = "accuracy", out: str | Path | None = None,
           watcher: Watcher = quiet, started: float | None = None, **options: Any) -> Path:  # fmt: skip
    """Choose a network for the images of `source` inside `budget`; returns the folder written.

    options: task, test, seed, workers, trials, evidence, runner, command as in Settings. started: when the
    budget began (time.monotonic), now where it is not given.
    """
    begun = time.monotonic() if started is None else started
    settings = Settings(source, parse_duration(budget), parse_goal(goal), out=folder_for(source, out), **options)
    checked(settings)
    lab = Lab(ThisMachine(), Clock(settings.budget, begun), watcher, RUNNERS[settings.runner])
    with tidied(settings):
        return study.run(settings, lab)


def read(source: Any, **options: Any) -> Images:
    """The images of `source`, as `convwise choose` reads them."""
    return read_images(source, **options)


def look(source: Any, *, budget: str | float = "10m", seed: int = 0, **options: Any) -> Fingerprint:
    """The fingerprint of the images of `source` (or of Images already read), without their test part.

    budget: of the study that it is for; a short one looks at fewer images.
    """
    images = source if isinstance(source, Images) else read_images(source, seed=seed, **options)
    return look_at(images.train, images.classes, seed=seed, budget=parse_duration(budget))


def advise(source: Any, *, goal: str = "accuracy", budget: str | float = "10m", seed: int = 0) -> Advice:
    """What to start with for the images of `source`, without training."""
    facts, host = look(source, budget=budget, seed=seed), ThisMachine()
    return within_latency(facts, parse_goal(goal), host.pace, TRAINING_SHARE * parse_duration(budget), host)


def predict(folder: str | Path, images: Any) -> list[dict[str, Any]]:
    """A row for each image: path, label, and the probability of each class."""
    return deliver.predict(folder, images)
