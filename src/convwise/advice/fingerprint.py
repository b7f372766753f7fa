"""look: images -> Fingerprint, what a set of images is like, in numbers that bear on the network.

What is measured stands in measures.py; here a sample is drawn, measured, and an input shape is
proposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from convwise.advice.doubts import suspects
from convwise.advice.measures import MEASURES, TOLERANCE, class_imbalance, resolution_loss
from convwise.advice.outliers import outliers
from convwise.advice.pixels import gray, in_order_of_file
from convwise.advice.probes import Probes, stratified
from convwise.advice.target import CLASSES, FIFTHS, grades, spread, target_of
from convwise.advice.telling import UNCERTAIN, lost
from convwise.advice.thresholds import SMALL_PX
from convwise.core.records import Fingerprint, Measure
from convwise.core.text import times

MOST_IMAGES, FEWEST_IMAGES = 2000, 500  # that are looked at
USUAL_BUDGET = 600.0  # seconds
# For each second of the budget: half as many images answer the same questions in half the time
IMAGES_A_SECOND = 12
MOST_VALUES = 40_000_000  # pixel values in the sample: bounds time and memory on large images
LONGEST, SHORTEST = 64, 32  # px: bounds of a proposed input
TRUSTED = 0.75  # accuracy: a probe below it misses too much to say that detail is not needed
COLOURED = 2.0  # gray levels between the channels, on average, above which images have colour


class Labelled(Protocol):
    """Images with their answers.

    pixels: uint8 (n, height, width, channels); labels: (n,), int64 indices of the class names, or
    float numbers.
    """

    @property
    def pixels(self) -> NDArray[np.uint8]: ...

    @property
    def labels(self) -> NDArray[Any]: ...


def wanted(budget: float) -> int:
    """How many images are measured, at most, for a study of so many seconds."""
    return min(MOST_IMAGES, max(FEWEST_IMAGES, round(IMAGES_A_SECOND * budget)))


def look(part: Labelled, classes: tuple[str, ...], *, seed: int = 0, budget: float = USUAL_BUDGET,
         counts: Sequence[int] | None = None,
         numbers: Sequence[str] = ()) -> Fingerprint:  # fmt: skip
    """The fingerprint of labelled images: a matter of seconds, the same on every machine.

    At most 2,000 of them are read, each class in proportion, chosen by `seed`; fewer of images over
    80x80x3, and where the whole `budget` is under 167 seconds, but at least 500. mean and variance
    are those of pixels / 255, for each channel of the proposed input. counts: images of each class,
    or in all where they have numbers, where `part` holds only some of them. numbers: what the
    numbers are called that the images have instead of classes; a probe then tells apart equal parts
    of them (see target.py).
    """
    # Threads of BLAS and OpenMP wait by spinning: several times slower on a busy machine
    with threadpool_limits(1):
        return _look(part, classes, seed, budget, counts, numbers)


def _look(part: Labelled, classes: tuple[str, ...], seed: int, budget: float,
          counts: Sequence[int] | None, numbers: Sequence[str]) -> Fingerprint:  # fmt: skip
    start = perf_counter()
    height, width, channels = part.pixels.shape[1:]
    most = min(wanted(budget), max(64, MOST_VALUES // max(1, height * width * channels)))
    target = target_of(numbers, np.asarray(part.labels)) if numbers else None
    labels = grades(np.asarray(part.labels)) if target else np.asarray(part.labels)
    chosen = stratified(labels, most, np.random.default_rng(seed))
    pixels = in_order_of_file(part.pixels, chosen)
    seen = gray(pixels) if channels == 3 and not _coloured(pixels) else pixels
    probes = Probes(seen, labels[chosen], seed=seed, parts=FIFTHS if target else CLASSES)
    here = [len(labels)] if target else np.bincount(labels, minlength=len(classes)).tolist()
    counts = list(counts or here)
    measures = _readings(probes)
    input_shape, reason = _proposal(probes)
    mean, variance = _moments(probes.pixels[: probes.few])
    return Fingerprint(
        shape=(height, width, channels),
        images=sum(counts),
        classes={} if target else dict(zip(classes, counts, strict=True)),
        mean=mean,
        variance=variance,
        measures=(spread(target), *measures) if target else (*class_imbalance(counts), *measures),
        input_shape=input_shape,
        input_reason=reason,
        seconds=perf_counter() - start,
        suspects=() if target else suspects(probes, chosen, classes),
        outliers=outliers(probes, chosen, np.asarray(part.labels)[chosen], classes),
        looked_at=len(chosen),
        target=target,
    )


def _coloured(pixels: NDArray[np.uint8]) -> bool:
    some = pixels[:200].astype(np.int16)
    return bool((some.max(axis=-1) - some.min(axis=-1)).mean() > COLOURED)


def _moments(pixels: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and variance of each channel of pixels / 255, exactly, from the histogram."""
    levels = np.arange(256) / 255
    shares = [
        np.bincount(pixels[..., c].ravel(), minlength=256) / pixels[..., c].size
        for c in range(pixels.shape[-1])
    ]
    means = [float(share @ levels) for share in shares]
    pairs = zip(shares, means, strict=True)
    variances = [float(share @ (levels - mean) ** 2) for share, mean in pairs]
    return tuple(means), tuple(variances)


def _readings(probes: Probes) -> list[Measure]:
    """Every measure of the table that applies, in order."""
    found = []
    for row in MEASURES:
        if min(probes.size) < 4 or (row.probe and probes.classes < 2):
            continue
        reading = row.read(probes)
        if reading is not None:
            found.append(Measure(name=row.name, informs=row.informs, **reading._asdict()))
    return found


def _proposal(probes: Probes) -> tuple[tuple[int, int, int], str]:
    """One input shape for the network, and why."""
    (height, width), channels = probes.size, probes.pixels.shape[-1]
    if max(height, width) <= SMALL_PX:
        why = f"{times(probes.size)} is already small, so every pixel is kept."
        return (height, width, channels), why
    capped = _eighths(height, width, min(1.0, LONGEST / max(height, width)))
    quick = (
        f"at {LONGEST} px on the longer side a training step is quick, and on a CPU more steps are"
        " worth more than more detail; no smaller size was shown to be enough."
    )
    size, why = _enough(probes, capped) or (capped, quick)
    if size == probes.size:
        return (*size, channels), why
    twice = times(2 * side for side in size)
    averaged = f"The network takes images of {twice} and averages them down to it."
    return (*size, channels), f"{times(size)} instead of {times(probes.size)}: {why} {averaged}"


def _eighths(height: int, width: int, scale: float) -> tuple[int, int]:
    """The size at `scale`, each side a multiple of 8, which pools three times without a rest."""
    if scale == 1:
        return height, width
    return max(8, round(height * scale / 8) * 8), max(8, round(width * scale / 8) * 8)


def _enough(probes: Probes, capped: tuple[int, int]) -> tuple[tuple[int, int], str] | None:
    """The smallest size at which the resolution probe loses nothing that matters, and why."""
    for factor in (4, 2):
        size = min(_eighths(*probes.size, 1 / factor), capped)
        loss = resolution_loss(probes, factor)
        if loss is None or min(size) < SHORTEST or probes.pyramid(1).accuracy < TRUSTED:
            continue
        if loss.low <= 0 or loss.value < TOLERANCE:
            told = f"a probe {lost(loss)}"
            if loss.high >= 2 * TOLERANCE:
                told += f"; whether that matters is {UNCERTAIN}, so the smaller and quicker size"
                told += " is taken"
            return size, f"without the detail that 1/{factor} of the size cannot show, {told}."
    return None
