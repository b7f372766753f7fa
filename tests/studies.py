"""Made-up fingerprints, advice and results: what the tests of the search's phases need."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from convwise.advice.advising import advise
from convwise.core.configuration import Draft
from convwise.core.goal import parse_goal
from convwise.core.layers import Dense, GlobalAveragePooling2D
from convwise.core.net import Net
from convwise.core.records import Advice, Fingerprint, Measure, Pace, Point, Result, Trial
from convwise.core.score import Column, Target
from convwise.core.space import Hyperparameter, LatencyModel, Space
from convwise.search import race

TARGET = Target(
    (Column("angle", low=-90.0, high=90.0, mean=3.0, deviation=50.0, median=2.0, error=45.0),)
)
PLACE = Target(
    (
        *TARGET.columns,
        Column("top", low=0.0, high=31.0, mean=15.0, deviation=9.0, median=15.0, error=8.0),
    )
)
PACE = Pace(per_mac=6e-12, per_byte=4e-10)
WIDE: dict[str, tuple[Any, ...]] = {
    "input.size": ("8x8", "9x16", "17x11", "24x24", "32x20", "64x48"),
    "stem.kernel_size": (1, 2, 3, 4, 5, 6, 7),
    "stem.strides": (1, 2),
    "stage.filters": (4, 8, 12),
    "stage.count": (1, 2, 3, 4, 5),
    "stage.convs": (1, 2, 3, 4),
    "stage.kernel_size": (1, 2, 3, 4, 5, 6, 7),
    "stage.widening": (2, 4),
    "block": ("plain", "residual", "separable", "pooled"),
    "stem": ("learned", "whitening"),
    "training.flip": (False, True),
    "downsampling": ("MaxPooling2D", "AveragePooling2D", "strides"),
    "padding": ("same", "valid"),
    "normalization": ("BatchNormalization", "none"),
    "activation": ("relu", "leaky_relu", "silu", "elu", "gelu"),
    "head": ("GlobalAveragePooling2D", "GlobalMaxPooling2D", "Flatten"),
    "dropout": (0.0, 0.2, 0.5),
}


def wide_space(channels: int = 1, classes: int = 3, goal: str = "accuracy", **fields: Any) -> Space:
    """Every value that the search may ever test, and more."""
    hyperparameters = tuple(Hyperparameter(name, values) for name, values in WIDE.items())
    moments = (0.4,) * channels, (0.07,) * channels
    return Space(channels, classes, *moments, hyperparameters, parse_goal(goal), **fields)


def wide_samples() -> st.SearchStrategy[Draft]:
    """A value of every choice of `wide_space`."""
    return st.fixed_dictionaries({name: st.sampled_from(values) for name, values in WIDE.items()})


def facts(
    shape: tuple[int, int, int] = (28, 28, 1), counts: Sequence[int] = (300, 310, 290),
    target: Target | None = None,
    **measures: float,
) -> Fingerprint:  # fmt: skip
    """A fingerprint of images of `shape`, `counts` of each class or in all with numbers, with these
    measures.
    """
    channels = shape[2]
    return Fingerprint(
        shape=shape,
        images=sum(counts),
        classes={} if target else {f"class {i}": count for i, count in enumerate(counts)},
        mean=(0.4,) * channels,
        variance=(0.07,) * channels,
        measures=tuple(Measure(name, value, "", "made up") for name, value in measures.items()),
        input_shape=shape,
        input_reason="made up",
        target=target,
    )


def advice(
    goal: str = "accuracy", latency: LatencyModel | None = None, seconds: float = 60.0, **how: Any
) -> Advice:
    """The advice for `facts(**how)`."""
    return advise(facts(**how), parse_goal(goal), PACE, seconds, 2, latency)


def answers(score: float, n: int, seed: int = 0) -> str:
    """n answers of which the share `score` is right, at random places."""
    right = np.arange(n) < round(score * n)
    return "".join("01"[int(r)] for r in np.random.default_rng(seed).permutation(right))


def scored(
    configuration: Draft, net: Net, score: float, phase: str = "race", n: int = 200, **fields: Any
) -> Result:
    """A finished result of `net`; its costs are exact unless given, and `how` of its trial."""
    from convwise.core.calculus import analyse

    total = analyse(net).total
    cost = {"params": total.params, "macs": total.macs, "activation_bytes": total.activation_bytes}
    number = fields.pop("number", 0)
    how = {"epochs": 4, "seed": number, **fields.pop("how", {})}
    trial = Trial(how.pop("id", f"{phase}-{number:02d}"), phase, configuration, net, **how)
    correct = fields.pop("correct", answers(score, n, number))
    seen = (Point(5.0, 10 * race.LEAST_IMAGES, 0.5, score),)  # enough to be compared
    fields = {"images_per_second": 1e5 / total.macs, "history": seen, **fields}
    return Result(trial, "done", score, correct, fields.pop("cost", cost), **fields)


def failed(configuration: Draft, net: Net, phase: str = "race", number: int = 0) -> Result:
    return Result(
        Trial(f"{phase}-{number:02d}", phase, configuration, net, epochs=4),
        "failed",
        reason="made up",
    )


def nth_net(number: int) -> Net:
    """Nets that differ in nothing but their id."""
    return Net((4, 4, 1), (GlobalAveragePooling2D(), Dense(number + 2)))


def some_results(
    given: Advice, count: int = 12, seed: int = 0, phases: Sequence[str] = ("race",)
) -> list[Result]:
    """Results of random samples, every fourth of them failed."""
    rng = random.Random(seed)
    found = []
    for i in range(count):
        configuration = given.space.sample(rng)
        net, phase = configuration.net, phases[i % len(phases)]
        ended = scored(configuration, net, round(rng.uniform(0.3, 0.95), 3), phase, number=i)
        found.append(failed(configuration, net, phase, i) if i % 4 == 3 else ended)
    return found


# (sample, part) -> what becomes of it: a result, or why it fails
Truth = Callable[[Draft, int], Result | str]
SHARE = 0.1  # of the schedule, one part of a made-up race


def segment(
    given: Advice, configuration: Draft, number: int = 1, seconds: float | None = 5.0, **fields: Any
) -> Result:
    """The `number`th part of the training of a sample: scored(sample, its net, **fields), as a
    study names it.
    """
    fitted, score = given.space.fit(configuration), fields.pop("score", 0.8)
    span = (round((number - 1) * SHARE, 6), round(number * SHARE, 6))
    how = {
        "recipe": fitted.recipe,
        "span": span,
        "epochs": None if seconds else 4,
        "seconds": seconds,
    }
    how |= {"seed": 0, **fields.pop("how", {})}
    return scored(dict(fitted), fitted.net, score, how=how, **fields)


def raced(given: Advice, truth: Truth, workers: int, waves: int) -> list[list[Result]]:
    """The waves of a whole race, its trainings made up: truth(sample, part) -> a Result, or why
    that part fails.
    """
    done: list[list[Result]] = []
    for number in range(1, waves + 1):
        ended = []
        for slot, entry in enumerate(
            race.wave(given, [r for wave in done for r in wave], workers), 1
        ):
            begun = round(entry.after.trial.span[1] / SHARE) if entry.after else 0
            found = truth(entry.configuration, begun + 1)
            made = (
                found
                if isinstance(found, Result)
                else segment(given, entry.configuration, begun + 1)
            )
            resumes = entry.after.trial.id if entry.after else ""
            made = replace(
                made, trial=replace(made.trial, id=f"race-{number}-{slot}", resumes=resumes)
            )
            ended.append(
                made if isinstance(found, Result) else Result(made.trial, "failed", reason=found)
            )
        if not ended:
            break
        done.append(ended)
    return done


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> set[str]:
    """The keys under which two mappings differ."""
    return {key for key in {*a, *b} if a.get(key) != b.get(key)}


# --- the command line -----------------------------------------------------------------------------

# As a user's shell has it: not what other tests, or Keras, have set in this process.
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith(("KERAS_", "TF_"))
}
ENVIRONMENT["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)


def command(
    *words: object, cwd: object = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """`python -m convwise WORDS`, in a process of its own, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "convwise", *map(str, words)], capture_output=True, text=True,
        timeout=timeout,
        env=ENVIRONMENT, cwd=cwd, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def started(*words: object, **how: Any) -> subprocess.Popen[str]:
    """The same, still running; its stderr can be read line by line."""
    return subprocess.Popen(
        [sys.executable, "-m", "convwise", *map(str, words)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
        env=ENVIRONMENT, stdin=subprocess.DEVNULL, preexec_fn=_hears_interrupts, **how,
    )  # fmt: skip


def _hears_interrupts() -> None:
    """As from a terminal: a shell lets what it starts in the background ignore SIGINT, perhaps this
    run as well.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def lives(pid: int) -> bool:
    """Whether there is such a process, and it has not ended: nobody may be there to be told that it
    has.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def events(stderr: str) -> list[dict[str, Any]]:
    """The progress that --json tells on stderr."""
    return [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]


def own(stderr: str) -> str:
    """Without what TensorFlow says when it is loaded: where it is installed, Keras imports it on
    any backend.
    """
    foreign = (
        "WARNING: All log messages before absl",
        "I0000 ",
        "W0000 ",
        "To enable the following instructions",
    )
    return "".join(
        line for line in stderr.splitlines(keepends=True) if not line.startswith(foreign)
    )
