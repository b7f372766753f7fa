"""The public verbs: what `convwise.choose(...)` and its like do."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from convwise.advice.fingerprint import look as look_at
from convwise.core.clock import Clock, parse_duration
from convwise.core.goal import parse_goal
from convwise.core.problems import ConvwiseError
from convwise.core.progress import Watcher, quiet
from convwise.core.records import Advice, Fingerprint
from convwise.feed import Feed
from convwise.images.loading import Images
from convwise.images.loading import read as read_images
from convwise.output import deliver
from convwise.plan import TRAINING_SHARE, within_latency
from convwise.settings import Settings, checked, folder_for
from convwise.study import Study
from convwise.training import machine


def choose(source: Any, *, budget: str | float = "10m", goal: str = "accuracy", out: str | Path | None = None,
           watcher: Watcher = quiet, started: float | None = None, **options: Any) -> Path:  # fmt: skip
    """Choose a network for the images of `source` inside `budget`; returns the folder written.

    options: task, test, seed, workers, trials, evidence, runner, command as in Settings. started: when the
    budget began (time.monotonic), now where it is not given.
    """
    begun = time.monotonic() if started is None else started
    settings = Settings(source, parse_duration(budget), parse_goal(goal), out=folder_for(source, out), **options)
    checked(settings)
    clock = Clock(settings.budget, begun)
    telling = Feed.of(settings, clock, watcher)
    study = Study(settings, clock, telling.tell)
    ledger = settings.out / "study.db"
    fresh = not ledger.exists()
    try:
        with telling:
            written = study.run()
    except (ConvwiseError, KeyboardInterrupt):
        if fresh and not study.results:  # nothing was begun: leave nothing
            shutil.rmtree(study.work, ignore_errors=True)
            ledger.unlink(missing_ok=True)
            with suppress(OSError):
                settings.out.rmdir()
        elif deliver.is_finished(settings.out):
            shutil.rmtree(study.work, ignore_errors=True)
        raise
    if not study.interrupted:
        shutil.rmtree(study.work, ignore_errors=True)
    return written


def read(source: Any, **options: Any) -> Images:
    """The images of `source`, as `convwise choose` reads them."""
    return read_images(source, **options)


def look(source: Any, *, seed: int = 0, **options: Any) -> Fingerprint:
    """The fingerprint of the images of `source` (or of Images already read), without their test part."""
    images = source if isinstance(source, Images) else read_images(source, seed=seed, **options)
    return look_at(images.train, images.classes, seed=seed)


def advise(source: Any, *, goal: str = "accuracy", budget: str | float = "10m", seed: int = 0) -> Advice:
    """What to start with for the images of `source`, without training."""
    wanted = parse_goal(goal)
    facts = look(source, seed=seed)
    return within_latency(
        facts, wanted, machine.pace(machine.engine()), TRAINING_SHARE * parse_duration(budget), machine.cores()
    )


def predict(folder: str | Path, images: Any) -> list[dict[str, Any]]:
    """A row for each image: path, label, and the probability of each class."""
    return deliver.predict(folder, images)
