"""look: images -> Fingerprint, what a set of images is like, in numbers that bear on the network.

MEASURES is the table: a name, a function, and the choices it informs; those that decide something
come first. A function takes the Probes (the sampled images and their probes, see probes.py) and
gives a Reading, or None where the measure does not apply to these images. Frequencies are in
cycles/px and lengths in px of the images as read.

Where a Reading has low and high they are a 95 % interval over the held-out images: Wilson's for an
accuracy, Bonett & Price's for a paired difference, the percentile bootstrap for a fit. They do not
cover the choice of the sample or of the filters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from convwise.advice.doubts import suspects
from convwise.advice.outliers import outliers
from convwise.advice.probes import (
    Flags,
    Interval,
    LeaveOneOut,
    Probes,
    dimension_of,
    f_ratio,
    gray,
    in_order_of_file,
    paired_loss,
    share_right,
    stratified,
)
from convwise.advice.target import grades, spread, target_of
from convwise.core.records import Fingerprint, Measure

MOST_IMAGES, FEWEST_IMAGES = 2000, 500  # that are looked at
USUAL_BUDGET = 600.0  # seconds
IMAGES_A_SECOND = 12  # of the budget: half as many images answer the same questions in half the time
MOST_VALUES = 40_000_000  # pixel values in the sample: bounds time and memory on large images
PATCHES = (3, 5, 7, 9, 13)
NATIVE_UP_TO = 48  # px: such images are small enough to keep
LONGEST, SHORTEST = 64, 32  # px: bounds of a proposed input
TOLERANCE = 0.01  # accuracy: a smaller loss is no reason for larger images
TRUSTED = 0.75  # accuracy: a probe below it misses too much to say that detail is not needed
COLOURED = 2.0  # gray levels between the channels, on average, above which images have colour


class Labelled(Protocol):
    """pixels: uint8 (n, height, width, channels); labels: (n,), int64 indices of the class names, or float numbers."""

    @property
    def pixels(self) -> NDArray[np.uint8]: ...

    @property
    def labels(self) -> NDArray[Any]: ...


class Reading(NamedTuple):
    """The outcome of a measure: the fields of a Measure but its name and what it informs."""

    value: float
    unit: str
    meaning: str
    low: float | None = None
    high: float | None = None
    curve: tuple[tuple[float, float], ...] = ()


class Row(NamedTuple):
    """A measure; probe: whether it asks what the classes depend on, so that it needs two of them."""

    name: str
    read: Callable[[Probes], Reading | None]
    informs: str
    probe: bool = False


def wanted(budget: float) -> int:
    """How many images are measured, at most, for a study of so many seconds."""
    return min(MOST_IMAGES, max(FEWEST_IMAGES, round(IMAGES_A_SECOND * budget)))


def look(part: Labelled, classes: tuple[str, ...], *, seed: int = 0, budget: float = USUAL_BUDGET,
         counts: Sequence[int] | None = None, numbers: Sequence[str] = ()) -> Fingerprint:  # fmt: skip
    """The fingerprint of labelled images: a matter of seconds, the same on every machine.

    At most 2,000 of them are read, each class in proportion, chosen by `seed`; fewer of images over
    80x80x3, and where the whole `budget` is under 167 seconds, but at least 500. mean and variance are
    those of pixels / 255, for each channel of the proposed input. counts: images of each class, or in all where they
    have numbers, where `part` holds only some of them. numbers: what the numbers are called that the images have
    instead of classes; a probe then tells apart equal parts of them (see target.py).
    """
    with threadpool_limits(1):  # threads of BLAS and OpenMP wait by spinning: several times slower on a busy machine
        return _look(part, classes, seed, budget, counts, numbers)


def _look(part: Labelled, classes: tuple[str, ...], seed: int, budget: float, counts: Sequence[int] | None,
          numbers: Sequence[str]) -> Fingerprint:  # fmt: skip
    start = perf_counter()
    height, width, channels = part.pixels.shape[1:]
    most = min(wanted(budget), max(64, MOST_VALUES // max(1, height * width * channels)))
    target = target_of(numbers, np.asarray(part.labels)) if numbers else None
    labels = grades(np.asarray(part.labels)) if target else np.asarray(part.labels)
    chosen = stratified(labels, most, np.random.default_rng(seed))
    pixels = in_order_of_file(part.pixels, chosen)
    probes = Probes(gray(pixels) if channels == 3 and not _coloured(pixels) else pixels, labels[chosen], seed=seed)
    counts = list(counts or ([len(labels)] if target else np.bincount(labels, minlength=len(classes)).tolist()))
    measures = _readings(probes)
    input_shape, reason = _proposal(probes)
    mean, variance = _moments(probes.pixels[: probes.few])
    return Fingerprint(
        shape=(height, width, channels),
        images=sum(counts),
        classes={} if target else dict(zip(classes, counts, strict=True)),
        mean=mean,
        variance=variance,
        measures=spread(target, measures) if target else (*_class_imbalance(counts), *measures),
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
    shares = [np.bincount(pixels[..., c].ravel(), minlength=256) / pixels[..., c].size for c in range(pixels.shape[-1])]
    means = [float(share @ levels) for share in shares]
    variances = [float(share @ (levels - mean) ** 2) for share, mean in zip(shares, means, strict=True)]
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
    if max(height, width) <= NATIVE_UP_TO:
        why = f"{height}x{width} is already small, so every pixel is kept."
        return (height, width, channels), why
    capped = _eighths(height, width, min(1.0, LONGEST / max(height, width)))
    size, why = _enough(probes, capped) or (
        capped,
        f"at {LONGEST} px on the longer side a training step is quick, and on a CPU more steps are worth more than "
        f"more detail; no smaller size was shown to be enough.",
    )
    if size == probes.size:
        return (*size, channels), why
    averaged = f"The network takes images of {2 * size[0]}x{2 * size[1]} and averages them down to it."
    return (*size, channels), f"{size[0]}x{size[1]} instead of {height}x{width}: {why} {averaged}"


def _eighths(height: int, width: int, scale: float) -> tuple[int, int]:
    """The size at `scale`, each side rounded to a multiple of 8, which pools three times without a rest."""
    if scale == 1:
        return height, width
    return max(8, round(height * scale / 8) * 8), max(8, round(width * scale / 8) * 8)


def _enough(probes: Probes, capped: tuple[int, int]) -> tuple[tuple[int, int], str] | None:
    """The smallest size at which the resolution probe loses nothing that matters, and why."""
    for factor in (4, 2):
        size = min(_eighths(*probes.size, 1 / factor), capped)
        loss = _resolution_loss(probes, factor)
        if loss is None or min(size) < SHORTEST or probes.pyramid(1).accuracy < TRUSTED:
            continue
        if loss.low <= 0 or loss.value < TOLERANCE:
            return size, f"without the detail that 1/{factor} of the size cannot show, a probe {_lost(loss)}."
    return None


def _resolution_loss(probes: Probes, factor: int) -> Interval | None:
    """Accuracy lost at 1 / factor of the native size; None where it cannot be measured."""
    if factor not in probes.factors or probes.classes < 2:
        return None
    return paired_loss(probes.pyramid(1).correct, probes.pyramid(factor).correct)


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _range(interval: Interval) -> str:
    return f"{_points(interval.low)} to {_points(interval.high)}"


def _lost(loss: Interval) -> str:
    """'loses 3.1 points of accuracy (2.0 to 4.2)', or gains."""
    verb = "loses" if loss.value >= 0 else "gains"
    unclear = ", indistinguishable from none" if loss.low <= 0 <= loss.high else ""
    return f"{verb} {_points(abs(loss.value))} points of accuracy (loss {_range(loss)}{unclear})"


def _cost(loss: Interval, probe: str, safe: str, unsafe: str) -> Reading:
    """The reading of a probe that lost `loss`: more than a point for sure, less than two for sure, or open."""
    verdict = unsafe if loss.low > TOLERANCE else safe if loss.high < 2 * TOLERANCE else "too uncertain to say"
    return Reading(loss.value, "accuracy", f"{probe} {_lost(loss)}: {verdict}.", loss.low, loss.high)


def _class_imbalance(counts: list[int]) -> tuple[Measure, ...]:
    present = [count for count in counts if count]
    if not present:
        return ()
    ratio = max(present) / min(present)
    verdict = "look at the accuracy of each" if ratio > 2 else "no class is favoured"
    meaning = f"The largest class has {ratio:.1f} times as many images as the smallest: {verdict}."
    return (Measure("class_imbalance", ratio, "ratio", meaning, informs="class weights"),)


def _f95(probes: Probes) -> Reading | None:
    """The radial frequency below which 95 % of the power lies; each image less its mean, Hann window."""
    frequency, power, curve = probes.spectrum
    if power.sum() <= 0:
        return None
    order = np.argsort(frequency, kind="stable")
    total = np.cumsum(power[order])
    f95 = float(frequency[order][np.searchsorted(total, 0.95 * total[-1])])
    stride = int(0.5 / f95 + 1e-6)
    what = f"of {min(stride, 4)} in the first layer would lose little of it" if stride > 1 else "would lose some of it"
    meaning = f"95 % of the image energy lies below {f95:.2f} cycles/px: a stride {what}."
    return Reading(f95, "cycles/px", meaning, curve=curve)


def _spectral_slope(probes: Probes) -> Reading | None:
    """The slope of log power against log frequency, by least squares over the rings of the spectrum."""
    curve = np.array([point for point in probes.spectrum[2] if point[0] <= 0.5 and point[1] > 0])
    if len(curve) < 3:
        return None
    slope = float(np.polyfit(np.log(curve[:, 0]), np.log(curve[:, 1]), 1)[0])
    kind = "like noise, with fine detail" if slope > -1 else "like photographs" if slope > -2.5 else "smooth"
    meaning = f"Power goes as frequency to the power {slope:.1f}: the images are {kind} (photographs: about -2)."
    return Reading(slope, "log/log", meaning, curve=probes.spectrum[2])


def _autocorrelation_length(probes: Probes) -> Reading | None:
    """The radius at which the radial mean of the autocorrelation falls below 1/e (without wrap-around)."""
    curve = probes.autocorrelation
    below = [i for i, (_, value) in enumerate(curve) if value < 1 / np.e]
    if not below or below[0] == 0:
        return None
    (r0, v0), (r1, v1) = curve[below[0] - 1], curve[below[0]]
    length = r0 + (r1 - r0) * (v0 - 1 / np.e) / (v0 - v1)
    kernel = min(7, max(3, 2 * round(length / 2) + 1))
    meaning = f"Pixels up to {length:.1f} px apart are alike: the first layers together should see about {kernel} px."
    return Reading(float(length), "px", meaning, curve=tuple(curve))


def _noise(probes: Probes) -> Reading:
    """Immerkaer 1996, median over the images; fine texture counts as noise, so it is an upper bound."""
    images = probes.gray[..., 0].astype(np.float32)
    rows = images[:, 2:] - 2 * images[:, 1:-1] + images[:, :-2]
    response = np.abs(rows[:, :, 2:] - 2 * rows[:, :, 1:-1] + rows[:, :, :-2])
    sigma = float(np.median(response.mean(axis=(1, 2))) * np.sqrt(np.pi / 2) / 6)
    verdict = "a larger first kernel or a pooled stem averages it" if sigma > 10 else "no smoothing is needed"
    meaning = f"Noise and the finest texture have a standard deviation of {sigma:.1f} out of 255: {verdict}."
    return Reading(sigma, "grey levels", meaning)


def _alignment(probes: Probes) -> Reading | None:
    """Variance of the class mean images / total variance, less what chance gives (epsilon squared, Kelley 1935)."""
    images = probes.work.reshape(len(probes.work), -1).astype(np.float32)
    images -= images.mean(axis=0)
    total = float(np.einsum("ij,ij->", images, images, dtype=np.float64))
    if total <= 0 or len(images) <= probes.classes:
        return None
    members = [images[probes.labels == label] for label in np.unique(probes.labels)]
    between = sum(len(mine) * float((mine.mean(axis=0).astype(np.float64) ** 2).sum()) for mine in members)
    within = (total - between) / (len(images) - probes.classes)
    share = max(0.0, (between - (probes.classes - 1) * within) / total)
    fixed = "position matters, so a head that keeps it (pool and flatten) is worth a test"
    loose = "the classes have no fixed position, so global average pooling fits"
    meaning = f"The class means explain {_points(share)} % of the pixel variance: {fixed if share > 0.15 else loose}."
    return Reading(share, "share", meaning)


def _intrinsic_dimension(probes: Probes) -> Reading | None:
    """Levina & Bickel's estimate as averaged by MacKay & Ghahramani, k = 20 (Pope et al. 2021), at <= 32 px."""
    factor = -(-max(probes.size) // 32)
    points = probes.at(probes.shrunk(factor)).reshape(len(probes.pixels), -1).astype(np.float32)
    dimension = dimension_of(points)
    if dimension is None:
        return None
    ease = "that is simple, and narrow layers may do" if dimension < 12 else "that is varied, so width is worth a test"
    meaning = f"Locally, the images vary in about {dimension:.0f} directions: {ease}."
    return Reading(dimension, "dimensions", meaning)


def _discriminative_scale(probes: Probes) -> Reading | None:
    """The smallest patch at 98 % of the best patch's accuracy (Coates, Lee & Ng 2011), in native px.

    Images above 64 px are probed at 1 / zoom of their size, where a patch of p covers p * zoom px.
    """
    size = (probes.work.shape[1], probes.work.shape[2])
    fitting = [patch for patch in PATCHES if patch < min(size)]
    correct = np.stack([probes.probe(size, patch).correct for patch in fitting])
    accuracy = correct.mean(axis=1)
    drawn = np.random.default_rng(probes.seed).integers(0, correct.shape[1], (200, correct.shape[1]))
    scales = [_at_plateau(fitting, correct[:, draw].mean(axis=1)) * probes.zoom for draw in drawn]
    scale = _at_plateau(fitting, accuracy) * probes.zoom
    low, high = np.quantile(scales, [0.025, 0.975])
    meaning = (
        f"Patches of {scale} px tell the classes apart as well as larger ones ({_points(accuracy.max())} % at best): "
        f"the first layers should see that far."
    )
    curve = tuple((float(patch * probes.zoom), float(value)) for patch, value in zip(fitting, accuracy, strict=True))
    return Reading(float(scale), "px", meaning, float(low), float(high), curve)


def _at_plateau(patches: list[int], accuracy: NDArray[np.float64]) -> int:
    return patches[int(np.argmax(accuracy >= 0.98 * accuracy.max()))]


def _resolution_sensitivity(probes: Probes) -> Reading | None:
    """Accuracy lost by halving the images: the pyramid probe (see Bench.pyramid) with and without its finest level."""
    loss = _resolution_loss(probes, 2)
    if loss is None:
        return None
    curve = tuple((1 / factor, probes.pyramid(factor).accuracy) for factor in probes.factors)
    little = "smaller images or an early stride cost little"
    return _cost(loss, "A probe on images at half size", little, "keep the detail")._replace(curve=curve)


def _colour_gain(probes: Probes) -> Reading | None:
    """RGB less gray probe, paired."""
    if probes.pixels.shape[-1] != 3:
        return None
    best, size = probes.best(), (probes.work.shape[1], probes.work.shape[2])
    assert best.bank is not None
    gain = paired_loss(best.correct, probes.probe(size, best.bank.patch, in_gray=True).correct)
    little = "grey images would do" if gain.high < TOLERANCE else "not shown to matter, so all three channels stay"
    verdict = "keep the three channels" if gain.low > 0 else little
    meaning = f"Colour is worth {_points(gain.value)} points of accuracy to a probe ({_range(gain)}): {verdict}."
    return Reading(gain.value, "accuracy", meaning, gain.low, gain.high)


def _flip_cost(probes: Probes) -> Reading:
    loss = paired_loss(probes.best().correct, probes.changed(probes.work[:, :, ::-1]))
    probe = "A probe shown held-out images mirrored left-right"
    return _cost(loss, probe, "the classes look the same in a mirror", "left and right look different")


def _flip_gain(probes: Probes) -> Reading:
    """Two-fold, paired: what mirrored copies of its training images are worth to a probe on images as they are."""
    plain, taught = probes.taught(probes.work[:, :, ::-1])
    gain = paired_loss(taught, plain)
    verdict = "they mislead" if gain.high < 0 else "they help" if gain.low > 0 else "too uncertain to say"
    meaning = f"Mirrored training images are worth {_points(gain.value)} points to a probe ({_range(gain)}): {verdict}."
    return Reading(gain.value, "accuracy", meaning, gain.low, gain.high)


def _rotation_cost(probes: Probes) -> Reading:
    """A quarter turn where the images are square, else a half turn: both exact, without interpolation."""
    square = probes.work.shape[1] == probes.work.shape[2]
    loss = paired_loss(probes.best().correct, probes.changed(np.rot90(probes.work, 1 if square else 2, axes=(1, 2))))
    probe = f"A probe shown held-out images turned by {90 if square else 180} degrees"
    return _cost(loss, probe, "rotation is a safe augmentation", "which way is up carries meaning")


def _shift_cost(probes: Probes) -> Reading:
    """A shift down and right by 1/14 of the longer side (2 px at 28), the border repeated."""
    work = probes.work
    shift = max(1, round(max(work.shape[1:3]) / 14))
    padded = np.pad(work, ((0, 0), (shift, 0), (shift, 0), (0, 0)), mode="edge")
    loss = paired_loss(probes.best().correct, probes.changed(padded[:, : work.shape[1], : work.shape[2]]))
    probe = f"A probe shown held-out images shifted by {shift * probes.zoom} px"
    return _cost(loss, probe, "position hardly matters", "train with shifts, and pool")


def _data_sufficiency(probes: Probes) -> Reading | None:
    """How much of the error goes when the images double: power law through the probe at n, n/2 and n/4.

    Each image is tested by a fit on all others, on those of its half, and on those of its quarter.
    """
    wrong = np.stack([~_in_parts(probes, parts) for parts in (4, 2, 1)])
    n = wrong.shape[1]
    if n < 40 or not wrong[2].any():
        return None
    patterns = np.bincount(np.array([4, 2, 1]) @ wrong, minlength=8)
    drawn = np.random.default_rng(probes.seed).multinomial(n, patterns / n, size=500)
    gains = [_doubling(_error_shares(draw)) for draw in drawn]
    gain = _doubling(wrong.mean(axis=1))
    interval = Interval(gain, *map(float, np.quantile(gains, [0.025, 0.975])))
    verdict = "more images, or augmentation, would help" if interval.low > 0.05 else "more images would help little"
    meaning = f"Twice as many images would remove {_points(gain)} % of a probe's error ({_range(interval)}): {verdict}."
    curve = tuple(zip((n / 4, n / 2, float(n)), (1 - wrong.mean(axis=1)).tolist(), strict=True))
    return Reading(gain, "share of the error", meaning, interval.low, interval.high, curve)


def _in_parts(probes: Probes, parts: int) -> Flags:
    """(n,): which images are recognised by a fit on the rest of their part, the classes spread evenly."""
    best = probes.best()
    if parts == 1:
        return best.correct
    correct = np.zeros(len(probes.labels), bool)
    rank = np.zeros(len(probes.labels), int)
    for label in np.unique(probes.labels):
        mine = probes.labels == label
        rank[mine] = np.arange(mine.sum()) + label
    for part in range(parts):
        mine = rank % parts == part
        if mine.sum() > 1:
            correct[mine] = LeaveOneOut(best.features[mine], probes.labels[mine]).correct()
    return correct


def _error_shares(patterns: NDArray[Any]) -> NDArray[np.float64]:
    """The three error shares, of counts of the 8 patterns of (wrong at n/4, at n/2, at n)."""
    codes = np.arange(8)
    return np.array([patterns[(codes & bit) > 0].sum() for bit in (4, 2, 1)], np.float64) / float(patterns.sum())


def _doubling(errors: NDArray[np.float64]) -> float:
    """1 - 2^slope of the power law through the errors at n/4, n/2 and n."""
    slope = (np.log2(max(errors[2], 1e-4)) - np.log2(max(errors[0], 1e-4))) / 2
    return float(1 - 2**slope)


def _fisher_frequency(probes: Probes) -> Reading | None:
    """The frequency below which 90 % of the class signal lies, by the F ratio of each DCT coefficient.

    The F ratio is between / within class variance; what exceeds 1 counts, where it is beyond chance
    (p < 0.0005). It sees patterns with a fixed place; where the classes have none it is left out.
    """
    from scipy.fft import dctn
    from scipy.special import fdtri

    images = probes.gray[..., 0].astype(np.float32)
    labels = probes.labels[: len(images)]
    groups = len(np.unique(labels))
    if groups < 2 or len(images) <= 2 * groups:
        return None
    ratio = f_ratio(np.asarray(dctn(images, axes=(1, 2), norm="ortho")), labels)
    weight = np.where(ratio > fdtri(groups - 1, len(images) - groups, 0.9995), ratio - 1, 0.0)
    weight[0, 0] = 0.0  # mean brightness has no scale
    if weight.sum() <= 0:
        return None
    down, across = (np.arange(side) / (2 * side) for side in images.shape[1:])
    radius = np.hypot(down[:, None], across[None, :]).ravel()
    order = np.argsort(radius, kind="stable")
    share = np.cumsum(weight.ravel()[order]) / weight.sum()
    edge = float(radius[order][np.searchsorted(share, 0.9 - 1e-9)])
    marks = np.linspace(0.05, 0.7, 14)
    curve = tuple(zip(marks.tolist(), np.interp(marks, radius[order], share).tolist(), strict=True))
    meaning = f"90 % of what tells the classes apart by position lies below {edge:.2f} cycles/px"
    return Reading(edge, "cycles/px", f"{meaning}, in detail of {0.5 / edge:.1f} px or more.", curve=curve)


def _probe_accuracy(probes: Probes) -> Reading | None:
    """The best probe of all that were made; the best of several looks a little too good."""
    best = max(probes.made(), key=lambda probe: probe.accuracy, default=None)
    if best is None:
        return None
    found = share_right(best.correct)
    meaning = f"A probe without training gets {_points(found.value)} % ({_range(found)}): a network must beat that."
    return Reading(found.value, "accuracy", meaning, found.low, found.high)


MEASURES: tuple[Row, ...] = (
    Row("resolution_sensitivity", _resolution_sensitivity, "input size, stem strides", probe=True),
    Row("alignment", _alignment, "head", probe=True),
    Row("discriminative_scale", _discriminative_scale, "kernel_size, receptive field", probe=True),
    Row("f95", _f95, "stem strides"),
    Row("spectral_slope", _spectral_slope, "stem strides, stem kernel_size"),
    Row("autocorrelation_length", _autocorrelation_length, "stem kernel_size, pooling"),
    Row("noise", _noise, "stem kernel_size"),
    Row("data_sufficiency", _data_sufficiency, "filters, dropout, augmentation", probe=True),
    Row("colour_gain", _colour_gain, "input channels", probe=True),
    Row("flip_gain", _flip_gain, "augmentation", probe=True),
    Row("flip_cost", _flip_cost, "augmentation", probe=True),
    Row("intrinsic_dimension", _intrinsic_dimension, "filters"),
    Row("fisher_frequency", _fisher_frequency, "input size", probe=True),
    Row("shift_cost", _shift_cost, "augmentation, head", probe=True),
    Row("rotation_cost", _rotation_cost, "augmentation", probe=True),
    Row("probe_accuracy", _probe_accuracy, "baseline", probe=True),
)
