"""MEASURES: a name, a function, and the parameters whose rules of advice read it; those that decide
something come first. What no rule reads describes the images and recommends nothing.

A function takes the Probes (the sampled images and their probes, see probes.py) and gives a
Reading, or None where the measure does not apply to these images. Frequencies are in cycles/px and
lengths in px of the images as read.

Where a Reading has low and high they are a 95 % interval over the held-out images: Wilson's for an
accuracy, Bonett & Price's for a paired difference, the percentile bootstrap for a fit. They do not
cover the choice of the sample or of the filters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convwise.advice.pixels import dimension_of, f_ratio
from convwise.advice.probes import Flags, LeaveOneOut, Probes, paired_loss, resampled, share_right
from convwise.advice.target import CLASSES
from convwise.advice.telling import Interval, lost, points, span, sure
from convwise.advice.thresholds import ALIGNED_FROM, UNEVEN_FROM
from convwise.core.records import Measure

PATCHES = (3, 5, 7, 9, 13)
TOLERANCE = 0.01  # accuracy: a smaller loss is no reason for larger images
WORTH_IT = 0.05  # share of the error, which twice the images must remove to be worth collecting


class Reading(NamedTuple):
    """The outcome of a measure: the fields of a Measure but its name and what it informs."""

    value: float
    unit: str
    meaning: str
    low: float | None = None
    high: float | None = None
    curve: tuple[tuple[float, float], ...] = ()


class Row(NamedTuple):
    """A measure.

    informs: the parameters whose rules read it, '' where none does; probe: whether it asks what the
    classes depend on, so that it needs two of them.
    """

    name: str
    read: Callable[[Probes], Reading | None]
    informs: str = ""
    probe: bool = False


def class_imbalance(counts: list[int]) -> tuple[Measure, ...]:
    """How unevenly the images are spread over the classes; nothing where there are none."""
    present = [count for count in counts if count]
    if not present:
        return ()
    ratio = max(present) / min(present)
    small = ": one accuracy for all images says little of it" if ratio >= UNEVEN_FROM else ""
    meaning = f"The largest class has {ratio:.1f} times as many images as the smallest{small}."
    return (Measure("class_imbalance", ratio, "ratio", meaning, informs="training.class_weights"),)


def _f95(probes: Probes) -> Reading | None:
    """The radial frequency below which 95 % of the power lies."""
    frequency, power, curve = probes.spectrum
    if power.sum() <= 0:
        return None
    order = np.argsort(frequency, kind="stable")
    total = np.cumsum(power[order])
    f95 = float(frequency[order][np.searchsorted(total, 0.95 * total[-1])])
    waves = f", in waves of {1 / f95:.1f} px or longer" if f95 else ""
    meaning = f"95 % of the image energy lies below {f95:.2f} cycles/px{waves}."
    return Reading(f95, "cycles/px", meaning, curve=curve)


def _spectral_slope(probes: Probes) -> Reading | None:
    """The slope of log power against log frequency, by least squares over the spectrum's rings."""
    curve = np.array([point for point in probes.spectrum[2] if point[0] <= 0.5 and point[1] > 0])
    if len(curve) < 3:
        return None
    slope = float(np.polyfit(np.log(curve[:, 0]), np.log(curve[:, 1]), 1)[0])
    kind = "like photographs" if slope > -2.5 else "smooth"
    kind = "like noise, with fine detail" if slope > -1 else kind
    meaning = (
        f"Power goes as frequency to the power {slope:.1f}: the images are {kind} (photographs:"
        " about -2)."
    )
    return Reading(slope, "log/log", meaning, curve=probes.spectrum[2])


def _autocorrelation_length(probes: Probes) -> Reading | None:
    """The radius at which the radial mean of the autocorrelation falls below 1/e."""
    curve = probes.autocorrelation
    below = [i for i, (_, value) in enumerate(curve) if value < 1 / np.e]
    if not below or below[0] == 0:
        return None
    (r0, v0), (r1, v1) = curve[below[0] - 1], curve[below[0]]
    length = r0 + (r1 - r0) * (v0 - 1 / np.e) / (v0 - v1)
    meaning = f"Pixels are alike up to {length:.1f} px apart, where their correlation falls to 1/e."
    return Reading(float(length), "px", meaning, curve=tuple(curve))


def _noise(probes: Probes) -> Reading:
    """Immerkaer 1996, median over the images; an upper bound, as fine texture counts as noise."""
    images = probes.gray[..., 0].astype(np.float32)
    rows = images[:, 2:] - 2 * images[:, 1:-1] + images[:, :-2]
    response = np.abs(rows[:, :, 2:] - 2 * rows[:, :, 1:-1] + rows[:, :, :-2])
    sigma = float(np.median(response.mean(axis=(1, 2))) * np.sqrt(np.pi / 2) / 6)
    meaning = (
        "Noise and the finest texture, which this cannot tell apart, vary by"
        f" {sigma:.1f} of 255 grey levels (standard deviation)."
    )
    return Reading(sigma, "grey levels", meaning)


def _alignment(probes: Probes) -> Reading | None:
    """Variance of the class mean images / total variance, less what chance gives.

    Epsilon squared, Kelley 1935.
    """
    images = probes.work.reshape(len(probes.work), -1).astype(np.float32)
    images -= images.mean(axis=0)
    total = float(np.einsum("ij,ij->", images, images, dtype=np.float64))
    if total <= 0 or len(images) <= probes.classes:
        return None
    members = [images[probes.labels == label] for label in np.unique(probes.labels)]
    between = sum(
        len(mine) * float((mine.mean(axis=0).astype(np.float64) ** 2).sum()) for mine in members
    )
    within = (total - between) / (len(images) - probes.classes)
    share = max(0.0, (between - (probes.classes - 1) * within) / total)
    fixed = f"what tells {probes.parts} apart has a fixed place"
    loose = f"little that tells {probes.parts} apart has a fixed place"
    meaning = f"The means of {probes.parts} explain {points(share)} % of the pixel variance"
    return Reading(share, "share", f"{meaning}: {fixed if share > ALIGNED_FROM else loose}.")


def _intrinsic_dimension(probes: Probes) -> Reading | None:
    """Levina & Bickel's estimate as averaged by MacKay & Ghahramani, of images at <= 32 px.

    k = 20, as Pope et al. 2021.
    """
    factor = -(-max(probes.size) // 32)
    points = probes.at(probes.shrunk(factor)).reshape(len(probes.pixels), -1).astype(np.float32)
    dimension = dimension_of(points)
    if dimension is None:
        return None
    meaning = (
        f"From one image to those most like it, the set varies in about {dimension:.0f} directions."
    )
    return Reading(dimension, "dimensions", meaning)


def _discriminative_scale(probes: Probes) -> Reading | None:
    """The smallest patch at 98 % of the best patch's accuracy (Coates, Lee & Ng 2011).

    In native px: images above 64 px are probed at 1 / zoom of their size, where a patch of p covers
    p * zoom px.
    """
    size = (probes.work.shape[1], probes.work.shape[2])
    fitting = [patch for patch in PATCHES if patch < min(size)]
    correct = np.stack([probes.probe(size, patch).correct for patch in fitting])
    accuracy = correct.mean(axis=1)
    n = correct.shape[1]
    drawn = np.random.default_rng(probes.seed).integers(0, n, (200, n))
    scales = [_at_plateau(fitting, correct[:, draw].mean(axis=1)) * probes.zoom for draw in drawn]
    scale, low, high = resampled(_at_plateau(fitting, accuracy) * probes.zoom, scales)
    px = f"{scale:.0f} px" + (f" ({low:.0f} to {high:.0f})" if low < high else "")
    best = f"{points(accuracy.max())} % at best"
    meaning = f"Patches of {px} tell {probes.parts} apart as well as larger ones ({best})."
    curve = tuple(
        (float(patch * probes.zoom), float(value))
        for patch, value in zip(fitting, accuracy, strict=True)
    )
    return Reading(scale, "px", meaning, low, high, curve)


def _at_plateau(patches: list[int], accuracy: NDArray[np.float64]) -> int:
    return patches[int(np.argmax(accuracy >= 0.98 * accuracy.max()))]


def resolution_loss(probes: Probes, factor: int) -> Interval | None:
    """Accuracy lost at 1 / factor of the native size; None where it cannot be measured."""
    if factor not in probes.factors or probes.classes < 2:
        return None
    return paired_loss(probes.pyramid(1).correct, probes.pyramid(factor).correct)


def _cost(loss: Interval, probe: str, safe: str, unsafe: str) -> Reading:
    """The reading of a probe that lost `loss`: surely over a point, surely under two, or open."""
    verdict = sure(loss, (2 * TOLERANCE, safe), (TOLERANCE, unsafe))
    return Reading(loss.value, "accuracy", f"{probe} {lost(loss)}: {verdict}.", loss.low, loss.high)


def _resolution_sensitivity(probes: Probes) -> Reading | None:
    """Accuracy lost by halving the images: Probes.pyramid with and without its finest level."""
    loss = resolution_loss(probes, 2)
    if loss is None:
        return None
    curve = tuple((1 / factor, probes.pyramid(factor).accuracy) for factor in probes.factors)
    few, fine = "it needs little of the finest detail", "it needs the finest detail"
    return _cost(loss, "A probe on images at half size", few, fine)._replace(curve=curve)


def _colour_gain(probes: Probes) -> Reading | None:
    """RGB less gray probe, paired."""
    if probes.pixels.shape[-1] != 3:
        return None
    best, size = probes.best(), (probes.work.shape[1], probes.work.shape[2])
    assert best.bank is not None
    gain = paired_loss(best.correct, probes.probe(size, best.bank.patch, in_gray=True).correct)
    verdict = sure(gain, (TOLERANCE, "it hardly needs colour"), (0.0, "colour helps it"))
    meaning = (
        f"Colour is worth {points(gain.value)} points of accuracy to a probe ({span(gain)}):"
        f" {verdict}."
    )
    return Reading(gain.value, "accuracy", meaning, gain.low, gain.high)


def _flip_cost(probes: Probes) -> Reading:
    loss = paired_loss(probes.best().correct, probes.changed(probes.work[:, :, ::-1]))
    probe = "A probe shown held-out images mirrored left-right"
    alike = f"{probes.parts} look the same in a mirror"
    return _cost(loss, probe, alike, "left and right look different")


def _flip_gain(probes: Probes) -> Reading:
    """What mirrored copies of its training images are worth to a probe on images as they are.

    Two-fold, paired.
    """
    plain, taught = probes.taught(probes.work[:, :, ::-1])
    gain = paired_loss(taught, plain)
    verdict = sure(gain, (0.0, "they mislead it"), (0.0, "they help it"))
    meaning = (
        f"Mirrored training images are worth {points(gain.value)} points to a probe ({span(gain)}):"
        f" {verdict}."
    )
    return Reading(gain.value, "accuracy", meaning, gain.low, gain.high)


def _rotation_cost(probes: Probes) -> Reading:
    """A quarter turn of square images, else a half turn: both exact, without interpolation."""
    square = probes.work.shape[1] == probes.work.shape[2]
    turned = np.rot90(probes.work, 1 if square else 2, axes=(1, 2))
    loss = paired_loss(probes.best().correct, probes.changed(turned))
    probe = f"A probe shown held-out images turned by {90 if square else 180} degrees"
    alike = f"{probes.parts} look the same when turned"
    return _cost(loss, probe, alike, "which way is up carries meaning")


def _shift_cost(probes: Probes) -> Reading:
    """A shift down and right by 1/14 of the longer side (2 px at 28), the border repeated."""
    work = probes.work
    shift = max(1, round(max(work.shape[1:3]) / 14))
    padded = np.pad(work, ((0, 0), (shift, 0), (shift, 0), (0, 0)), mode="edge")
    shifted = padded[:, : work.shape[1], : work.shape[2]]
    loss = paired_loss(probes.best().correct, probes.changed(shifted))
    probe = f"A probe shown held-out images shifted by {shift * probes.zoom} px"
    matters = "the place of things matters to it"
    return _cost(loss, probe, "the place of things hardly matters to it", matters)


def _data_sufficiency(probes: Probes) -> Reading | None:
    """How much of the error goes when the images double: power law through the probe at n, n/2 and
    n/4.

    Each image is tested by a fit on all others, on those of its half, and on those of its quarter.
    """
    wrong = np.stack([~_in_parts(probes, parts) for parts in (4, 2, 1)])
    n = wrong.shape[1]
    if n < 40 or not wrong[2].any():
        return None
    patterns = np.bincount(np.array([4, 2, 1]) @ wrong, minlength=8)
    drawn = np.random.default_rng(probes.seed).multinomial(n, patterns / n, size=500)
    gains = [_doubling(_error_shares(draw)) for draw in drawn]
    gain = resampled(_doubling(wrong.mean(axis=1)), gains)
    little, much = "more images would help it little", "more images would help it"
    verdict = sure(gain, (WORTH_IT, little), (WORTH_IT, much))
    meaning = (
        f"Twice as many images would remove {points(gain.value)} % of a probe's error"
        f" ({span(gain)}): {verdict}."
    )
    curve = tuple(zip((n / 4, n / 2, float(n)), (1 - wrong.mean(axis=1)).tolist(), strict=True))
    return Reading(gain.value, "share of the error", meaning, gain.low, gain.high, curve)


def _in_parts(probes: Probes, parts: int) -> Flags:
    """(n,): which images a fit on the rest of their part recognises, the classes spread evenly."""
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
    wrong = np.array([patterns[(codes & bit) > 0].sum() for bit in (4, 2, 1)], np.float64)
    return wrong / float(patterns.sum())


def _doubling(errors: NDArray[np.float64]) -> float:
    """1 - 2^slope of the power law through the errors at n/4, n/2 and n."""
    slope = (np.log2(max(errors[2], 1e-4)) - np.log2(max(errors[0], 1e-4))) / 2
    return float(1 - 2**slope)


def _fisher_frequency(probes: Probes) -> Reading | None:
    """The frequency below which 90 % of the class signal lies, by the F ratio of each DCT
    coefficient.

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
    meaning = f"90 % of what tells {probes.parts} apart by position lies below {edge:.2f} cycles/px"
    return Reading(
        edge, "cycles/px", f"{meaning}, in detail of {0.5 / edge:.1f} px or more.", curve=curve
    )


def _probe_accuracy(probes: Probes) -> Reading | None:
    """The best probe of all that were made; the best of several looks a little too good."""
    best = max(probes.made(), key=lambda probe: probe.accuracy, default=None)
    if best is None:
        return None
    found = share_right(best.correct)
    end = ": a network must beat that" if probes.parts == CLASSES else f" of {probes.parts} right"
    meaning = f"A probe without training gets {points(found.value)} % ({span(found)}){end}."
    return Reading(found.value, "accuracy", meaning, found.low, found.high)


MEASURES: tuple[Row, ...] = (
    Row("resolution_sensitivity", _resolution_sensitivity, "input.size, stem.strides", probe=True),
    Row("alignment", _alignment, "head", probe=True),
    Row("discriminative_scale", _discriminative_scale, "stem.kernel_size", probe=True),
    Row("f95", _f95),
    Row("spectral_slope", _spectral_slope),
    Row("autocorrelation_length", _autocorrelation_length),
    Row("noise", _noise),
    Row("data_sufficiency", _data_sufficiency, probe=True),
    Row("colour_gain", _colour_gain, probe=True),
    Row("flip_gain", _flip_gain, "training.flip", probe=True),
    Row("flip_cost", _flip_cost, probe=True),
    Row("intrinsic_dimension", _intrinsic_dimension),
    Row("fisher_frequency", _fisher_frequency, probe=True),
    Row("shift_cost", _shift_cost, probe=True),
    Row("rotation_cost", _rotation_cost, probe=True),
    Row("probe_accuracy", _probe_accuracy, probe=True),
)
