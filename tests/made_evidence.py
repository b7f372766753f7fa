"""Made-up evidence for the report's tests: real small nets and their exact costs, invented
results.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np

from convwise.core.calculus import analyse
from convwise.core.configuration import Draft
from convwise.core.problems import Problem
from convwise.core.records import (
    Effect,
    Fingerprint,
    Measure,
    Point,
    Reason,
    Result,
    Trial,
    Verdict,
)
from convwise.core.space import Hyperparameter, Space
from convwise.inspect.sight import EffectiveField
from convwise.output.evidence import Evidence
from studies import advice

HOSTILE = "<script>alert('x')</script>"
BASE: dict[str, Any] = {
    "input.size": "64x64", "stem.kernel_size": 3, "stem.strides": 1, "stage.filters": 16,
    "stage.count": 3,
    "stage.convs": 2, "stage.kernel_size": 3, "block": "residual", "downsampling": "MaxPooling2D",
    "padding": "same",
    "activation": "relu", "normalization": "BatchNormalization", "head": "GlobalAveragePooling2D",
    "dropout": 0.2,
    "training.flip": False, "stem": "learned", "stage.widening": 2,
}  # fmt: skip
VARIED = {
    "stem.kernel_size": (5, 7), "stem.strides": (2,), "stage.filters": (8, 24, 32),
    "stage.kernel_size": (5,),
    "block": ("plain", "separable"), "activation": ("silu", "leaky_relu"), "head": ("Flatten",),
    "dropout": (0.0, 0.5),
}  # fmt: skip


def space(shape: tuple[int, int, int], classes: int) -> Space:
    base = {
        **BASE,
        "input.size": f"{shape[0]}x{shape[1]}",
        "stage.count": 2 if shape[0] < 32 else 3,
    }
    hyperparameters = tuple(
        Hyperparameter(name, (value, *VARIED.get(name, ()))) for name, value in base.items()
    )
    channels = shape[2]
    return Space(
        channels, classes, (0.5,) * channels, (0.06,) * channels, hyperparameters, defaults=base
    )


def result(
    grown: Space, configuration: Draft, number: int, seconds: float, rng: random.Random
) -> Result:
    fitted = grown.fit(configuration)
    net = fitted.net
    cost = fitted.cost | {"latency_ms": 0.05 + analyse(net).total.macs * 8e-8}
    score = (
        0.97
        - 0.5 * math.exp(-math.log10(cost["macs"]) * 0.42)
        - 0.35 / seconds
        + rng.gauss(0, 0.008)
    )
    times = [seconds * (i + 1) / 6 for i in range(6)]
    history = tuple(
        Point(
            t,
            int(t * 900),
            2.3 * math.exp(-3 * t / seconds) + 0.5,
            score * (1 - 0.7 * math.exp(-4 * t / seconds)),
        )
        for t in times
    )
    trial = Trial(f"t{number:03d}", "race", dict(fitted), net, seconds=seconds, seed=number)
    return Result(
        trial, "done", round(score, 4), "1" * 80, cost, history, seconds + 0.2, 900.0, "float32"
    )


def goes_on(before: Result, number: int, gain: float) -> Result:
    """The next part of a training: one point, as a part of a run has."""
    begun, after = before.trial.span[1], round((before.score or 0) + gain, 4)
    trial = replace(
        before.trial, id=f"t{number:03d}", resumes=before.trial.id, span=(begun, begun + 0.05)
    )
    return replace(before, trial=trial, score=after, history=(Point(8.1, 7200, 0.6, after),))


def trials(grown: Space) -> tuple[Result, ...]:
    """A race: the advised net in three parts, its twin in two, single changes, one failed; and the
    final training.
    """
    rng = random.Random(3)
    configurations: list[Draft] = [{}, {"training.flip": True}]
    configurations += [{name: value} for name, values in VARIED.items() for value in values]
    results = [
        result(grown, configuration, i, 8.0, rng) for i, configuration in enumerate(configurations)
    ]
    results = [replace(r, trial=replace(r.trial, span=(0.0, 0.05))) for r in results]
    failed = replace(
        results[9], status="failed", score=None, history=(), reason="out of memory: 512 MiB asked"
    )
    later = [goes_on(results[0], 90, 0.02), goes_on(results[1], 91, 0.01)]
    later.append(goes_on(later[0], 92, 0.01))
    return (*results[:9], failed, *results[10:], *later, final(later[-1], rng))


def final(chosen: Result, rng: random.Random) -> Result:
    trial = replace(
        chosen.trial,
        id="final",
        phase="final",
        part="all",
        seconds=180.0,
        resumes=chosen.trial.id,
        span=(0.15, 1.0),
    )
    history = tuple(
        Point(3.0 * i, 1650 * i, 2.3 * math.exp(-i / 14) + 0.52 + rng.gauss(0, 0.01))
        for i in range(1, 60)
    )
    return replace(chosen, trial=trial, score=None, history=history, seconds=180.0)


EFFECTS = (
    Effect("stem.kernel_size", 3, 5, 0.021, 0.011, 0.031, 1.08, "matters", 2, seconds=8.0),
    Effect("stage.filters", 16, 32, 0.016, 0.005, 0.027, 2.31, "matters", 2, seconds=8.0),
    Effect("stem.strides", 1, 2, -0.034, -0.046, -0.022, 0.41, "matters", 2, seconds=8.0),
    Effect(
        "activation", "relu", "silu", 0.001, -0.006, 0.008, 1.07, "no difference", 2, seconds=8.0
    ),
    Effect("dropout", 0.0, 0.2, -0.002, -0.009, 0.005, 1.0, "no difference", 2, seconds=8.0),
    Effect(
        "head",
        "GlobalAveragePooling2D",
        "Flatten",
        0.006,
        -0.014,
        0.026,
        1.02,
        "not resolved",
        2,
        seconds=8.0,
    ),
    Effect(
        "training.flip", False, True, -0.012, -0.034, 0.01, 1.0, "not resolved", 2, seconds=16.0
    ),
)
PROBE, METHODS = "Coates, Lee & Ng 2011", "methods, section 3"
REASONS = (
    Reason(
        "input.size",
        "64x64",
        "a probe loses 0.4 points at half the size",
        "resolution_sensitivity",
        PROBE,
    ),
    Reason(
        "stem.kernel_size",
        5,
        "patches of 5 px tell the classes apart",
        "discriminative_scale",
        PROBE,
    ),
    Reason("stem.strides", 1, "detail reaches 0.31 cycles per px", "f95", "sampling theorem"),
    Reason(
        "stage.filters",
        16,
        "the widest stem that the time allows",
        "intrinsic_dimension",
        "RegNet 2020",
    ),
    Reason("padding", "same", "things touch the border in one image of three", "border", METHODS),
    Reason(
        "activation", "relu", "others gain 0.3 points at most, for 5 to 8 % more time", "", METHODS
    ),
)


def measures() -> tuple[Measure, ...]:
    decay = tuple((i / 20, math.exp(-6 * i / 20)) for i in range(1, 11))
    return (
        Measure("spectral_slope", -2.31, "", "Power falls with frequency as in photographs.",
        curve=decay,
                informs="stem stride"),
        Measure("f95", 0.31, "cycles/px", "95 % of the power lies below this frequency.",
        informs="stem.strides"),
        Measure("autocorrelation_length", 4.6, "px",
        "Neighbouring pixels say the same up to this distance.",
                curve=tuple((float(i), math.exp(-i / 4.6)) for i in range(16)),
                informs="first kernel, pooling"),
        Measure("discriminative_scale", 5, "px", "The smallest patch that tells the classes apart.",
        3, 7,
                curve=((3, 0.71), (5, 0.83), (7, 0.84), (9, 0.843), (13, 0.84)),
                informs="kernel, receptive field"),
        Measure("flip_drop", 0.021, "", "Accuracy that a probe loses on mirrored images.", 0.004,
        0.038,
                informs="augmentation"),
        Measure("data_sufficiency", 0.034, "", "Expected gain from twice as many images.", 0.01,
        0.06,
                curve=((400, 0.74), (800, 0.79), (1600, 0.83)), informs="width, dropout"),
    )  # fmt: skip


def pictures(
    n: int, shape: tuple[int, int, int], classes: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Discs whose size and place follow the class, on a soft ground: (pixels uint8, labels)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    rows, columns = np.mgrid[: shape[0], : shape[1]] / max(shape[:2])
    pixels = np.empty((n, *shape), np.uint8)
    for i, label in enumerate(labels):
        x, y = 0.3 + 0.4 * rng.random(2)
        disc = np.hypot(rows - y, columns - x) < 0.1 + 0.25 * (label + 1) / classes
        colour = 90 + 120 * np.cos(label + np.arange(shape[2])) ** 2
        ground = 60 + 80 * rows[..., None] + rng.normal(0, 9, shape)
        pixels[i] = np.clip(np.where(disc[..., None], colour, ground), 0, 255)
    return pixels, labels


def evidence(
    shape: tuple[int, int, int] = (64, 64, 3),
    classes: tuple[str, ...] = ("disc", "ring", "arrow", HOSTILE, "hexagon, filled", "star"),
    n: int = 240,
    **changes: Any,
) -> Evidence:
    """A whole report's evidence; `changes` replaces fields of it."""
    grown = space(shape, len(classes))
    results = trials(grown)
    chosen = results[-2]  # the advised net's last part
    pixels, labels = pictures(n, shape, len(classes))
    rng = np.random.default_rng(1)
    guess = np.where(rng.random(n) < 0.9, labels, rng.integers(0, len(classes), n))
    logits = rng.normal(0, 1, (n, len(classes))) + 4 * np.eye(len(classes))[guess]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    right = float((probabilities.argmax(axis=1) == labels).mean()) if n else 0.0
    facts = Fingerprint(
        shape, 40 * len(classes), {name: 40 + 7 * (i % 5) for i, name in enumerate(classes)},
        (0.5,) * shape[2],
        (0.06,) * shape[2], measures(), shape, "A probe loses nothing at this size.", 3.1,
    )  # fmt: skip
    last = [row.name for row in analyse(chosen.trial.net).layers if len(row.output_shape) == 3][-1]
    source = (
        "import keras\n\nmodel = keras.Sequential([\n    keras.Input((64, 64, 3)),  # < & > are"
        " escaped\n])\n"
    )
    whole = Evidence(
        title="shapes",
        verdict=Verdict(chosen, EFFECTS, front(results), REASONS, ("Classes are balanced.",)),
        results=results,
        fingerprint=facts,
        problems=(
            Problem(f"photos/{HOSTILE}.png", "cannot be decoded", "a whole image file",
            "save it again"),
            Problem("photos", "has exact duplicates", "each image once", "kept on one side",
            "warning", 14),
            Problem("photos", "mixes gray and colour images", severity="note", count=3),
        ),
        outputs=classes,
        estimate={"kind": "test", "accuracy": right, "low": max(right - 0.04, 0),
        "high": min(right + 0.03, 1), "n": n},
        pixels=pixels,
        labels=labels,
        answers=probabilities,
        names=tuple(f"test/{HOSTILE if i == 3 else i}.png" for i in range(n)),
        code={"model_keras.py": source, "model_torch.py": source.replace("keras", "torch")},
        cost=chosen.cost,
        differences={"keras": 2.4e-7, "torch": 0.0, "onnx": 3.6e-7},
        provenance={
            "command": "convwise choose photos/ --budget 5m --seed 0",
            "seed": 0, "budget": "5m", "wall_clock_seconds": 301.4,
            "machine": {"cpu": "a processor", "cores": 2, "memory_gib": 8},
            "versions": {"convwise": "0.1.0", "torch": "2.13.0", "python": "3.11.2"},
        },
        sight=sight(shape, last) if n else None,
        advised=results[0].trial.configuration,
    )  # fmt: skip
    return replace(whole, **changes)


def sight(shape: tuple[int, int, int], layer: str) -> EffectiveField:
    """A Gaussian field, a little off the middle, as a trained net has it."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    centre = (shape[0] - 2) / 2, (shape[1] - 2) / 2
    distance = (rows - centre[0]) ** 2 + 1.4 * (columns - centre[1] - 1) ** 2
    bell = np.exp(-distance / (0.02 * shape[0] * shape[1])).astype(np.float32)
    box = 1, shape[0] - 1, 1, shape[1] - 1
    return EffectiveField(layer, bell, centre, (shape[0] - 2, shape[1] - 2), box, 64)


def front(results: tuple[Result, ...]) -> tuple[Result, ...]:
    """The first parts that no cheaper one beats."""
    kept: list[Result] = []
    begun = [r for r in results if r.score is not None and not r.trial.resumes]
    for r in sorted(begun, key=lambda r: (r.cost["macs"], -(r.score or 0))):
        if not kept or (r.score or 0) > (kept[-1].score or 0):
            kept.append(r)
    return tuple(kept)


MORE_EFFECTS = (
    Effect("stem.kernel_size", 3, 7, 0.018, 0.004, 0.032, 1.21, "matters", 2, seconds=8.0),
    Effect("stage.kernel_size", 3, 5, -0.008, -0.019, 0.003, 1.74, "not resolved", 2, seconds=8.0),
    Effect(
        "block", "residual", "separable", -0.027, -0.041, -0.013, 0.66, "matters", 2, seconds=16.0
    ),
    Effect(
        "activation",
        "relu",
        "leaky_relu",
        0.0,
        -0.005,
        0.005,
        1.02,
        "no difference",
        2,
        seconds=8.0,
    ),
    Effect(
        "normalization",
        "BatchNormalization",
        "none",
        -0.062,
        -0.081,
        -0.043,
        0.88,
        "matters",
        2,
        seconds=8.0,
    ),
)


def longest() -> dict[str, Any]:
    """Changes for a report as long as they become: 20 classes, 12 effects, 6 alternatives, every
    reason.
    """
    classes = tuple(f"{kind}, {state}" for kind in ("apple", "pear", "plum", "cherry", "grape")
                    for state in ("healthy leaf", "leaf with rust", "leaf with scab",
                    "dry leaf"))  # fmt: skip
    whole = evidence(shape=(128, 128, 3), classes=classes, n=400)
    given = (*REASONS[1:3], *advice(shape=(128, 128, 3), counts=(90,) * 20).reasons)
    alternatives = tuple(each for each in whole.results if each.score is not None)[:6]
    effects = (*EFFECTS, *MORE_EFFECTS)
    notes = tuple(
        f"{note}: photos of one plant may lie in both parts."
        for note in ("A note", "Another", "A third")
    )
    return {
        "shape": (128, 128, 3), "classes": classes, "n": 400,
        "verdict": replace(whole.verdict, effects=effects, alternatives=alternatives, reasons=given,
        notes=notes),
    }  # fmt: skip
