"""Rivals on our own Space, recipe and engine: what the search adds is the difference to them.

- advised: the first advice for these images, trained for the whole time, nothing tried.
- arbitrary: a random valid configuration, drawn anew for each seed.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import convwise
from convwise.core.configuration import Configuration
from convwise.core.problems import ConvwiseError
from convwise.core.records import Recipe, Trial
from convwise.core.space import Hyperparameter, Space
from convwise.formats import torch as torch_format
from convwise.training import batches, train
from convwise.training.machine import ThisMachine
from convwise.training.runners import RUNNERS
from rivals.job import Job, Learnt
from rivals.loop import scoring

# What somebody might take who looks at nothing; choices that are not named here keep their values.
ANYTHING: dict[str, tuple[Any, ...]] = {
    "stage.filters": (8, 16, 32, 64),
    "stem.strides": (1, 2),
    "stage.count": (1, 2, 3, 4),
    "block": ("plain", "residual", "separable"),
    "stage.convs": (1, 2, 3),
    "stage.kernel_size": (1, 3, 5, 7),
    "stem.kernel_size": (3, 5, 7),
    "head": ("GlobalAveragePooling2D", "GlobalMaxPooling2D", "Flatten"),
    "downsampling": ("MaxPooling2D", "AveragePooling2D", "strides"),
    "activation": ("relu", "leaky_relu", "elu", "silu", "gelu"),
    "normalization": ("BatchNormalization", "none"),
    "padding": ("same", "valid"),
    "dropout": (0.0, 0.2, 0.5),
}
DRAWS = 100  # at most, until a configuration is valid
OVERHEAD_SECONDS = 1.0  # of the final training beside its loop: handing over, building, keeping
SHORTEST_SECONDS = 0.5


def advised(job: Job) -> Learnt:
    """What `convwise advise` says for this budget."""
    with workshop(job) as work:
        advice = advice_for(job)
        return work.final(advice.configuration, advice.recipe)


def arbitrary(job: Job) -> Learnt:
    """A random configuration in the advised recipe."""
    with workshop(job) as work:
        advice = advice_for(job)
        space = anything(advice.space)
        rng = random.Random(job.seed)
        configuration = next(
            drawn for _ in range(DRAWS) if (drawn := valid(space, rng)) is not None
        )
        return work.final(configuration, advice.recipe)


def advice_for(job: Job) -> Any:
    """The advice that `choose` would begin with, for the time that is left."""
    budget = max(job.left, 20.0)  # convwise takes no less
    return convwise.advise(job.images, budget=budget, seed=job.seed)


def anything(space: Space) -> Space:
    """The space with every value of ANYTHING."""
    hyperparameters = (
        Hyperparameter(c.name, ANYTHING.get(c.name, c.values)) for c in space.hyperparameters
    )
    return replace(space, hyperparameters=tuple(hyperparameters))


def valid(space: Space, rng: random.Random) -> Configuration | None:
    """A random sample; None where no net grows from it."""
    try:
        return space.sample(rng)
    except (ConvwiseError, KeyError):
        return None


class Workshop:
    """Workers, as `choose` has them, and a folder of images at the sizes that nets read."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job, self.folder, self.host = job, folder, ThisMachine()
        self.workers = min(job.threads, 8)
        work = partial(train.run, folder, self.host.engine, "classify")
        self.runner = RUNNERS["local"](work, self.host, self.workers)

    def final(self, given: Configuration, recipe: Recipe) -> Learnt:
        """Its net trained on everything unsealed, by all workers, until the time for scoring."""
        net = given.net
        batches.Prepared(self.folder, self.job.images).ensure(net)
        model = torch_format.build(net)
        reserve, scorers = scoring(model, net.input_shape, self.job.images.test.size, self.workers)
        torch.set_num_threads(scorers)
        seconds = max(self.job.left - reserve - OVERHEAD_SECONDS, SHORTEST_SECONDS)
        how = {"seconds": seconds, "seed": self.job.seed, "part": "all", "threads": self.workers}
        trial = Trial("final", "final", configuration=dict(given), net=net, recipe=recipe, **how)
        result = next(iter(self.runner.run([trial])))
        if result.status == "failed":
            raise RuntimeError(result.reason)
        weights = train.load_weights(self.folder, trial.id)
        return Learnt(
            net.input_shape[:2], partial(train.answers, net, weights), partial(self.known, result)
        )

    def known(self, result: Any) -> dict[str, Any]:
        """Facts of the final training."""
        images = len(self.job.images.train) + len(self.job.images.valid)
        seen = result.history[-1].images
        return {
            **result.cost,
            "latency_ms": self.host.latency_ms(result.trial.net),
            "images_seen": seen,
            "epochs": seen / images,
            "train_seconds": result.seconds,
            "dtype": result.dtype,
            "sample": dict(result.trial.configuration),
        }


@contextmanager
def workshop(job: Job) -> Iterator[Workshop]:
    """A Workshop in a passing folder; its workers load while the images are read."""
    with tempfile.TemporaryDirectory() as folder:
        work = Workshop(job, Path(folder))
        try:
            yield work
        finally:
            work.runner.close()
