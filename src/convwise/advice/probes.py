"""Probes: quick classifiers that tell what the class labels depend on, without training a network.

A probe is one convolution layer learnt without labels, followed by a linear classifier: whitened
patches, k-means filters, soft threshold, average over a 2x2 grid, ridge regression (Coates, Lee &
Ng 2011, 'An analysis of single-layer networks'; Coates & Ng 2012 for the k-means). Every prediction
is held out: leave-one-out in closed form, so all images serve for learning and for testing, and two
probes are compared image by image. A probe takes some tenths of a second.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifierCV

from convwise.core.intervals import Z95, wilson

Pixels = NDArray[np.uint8]  # (n, height, width, channels)
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]
Curve = tuple[tuple[float, float], ...]

FILTERS = 64
THRESHOLD = 0.5  # of the soft threshold, in standard deviations of a whitened patch
GRID = 14  # patch positions per axis at most: what makes a probe quick on large images
PENALTIES = (1e-2, 1e-1, 1.0, 10.0)  # of the ridge, per image
INTERCEPT = 3.0  # the constant feature: large, so that its penalty is slight
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


RIDGES = (1e1, 1e2, 1e3, 1e4, 1e5)  # penalties that `taught` picks from


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float


def share_right(correct: Flags) -> Interval:
    """The share of True with Wilson's score interval."""
    return Interval(float(correct.mean()), *wilson(int(correct.sum()), len(correct)))


def paired_loss(before: Flags, after: Flags) -> Interval:
    """The accuracy lost from `before` to `after` on the same images.

    The interval is the adjusted Wald interval for paired proportions (Bonett & Price 2012), which
    keeps a width where no image changed sides.
    """
    n = len(before)
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    p, q = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    half = Z95 * float(np.sqrt((p + q - (p - q) ** 2) / (n + 2)))
    return Interval((lost - won) / n, p - q - half, p - q + half)


def stratified(labels: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """At most `most` indices, each class in proportion and present; every prefix is again such a sample."""
    keys = np.empty(len(labels))
    for label in np.unique(labels):
        mine = rng.permutation(np.flatnonzero(labels == label))
        keys[mine] = (np.arange(len(mine)) + rng.random(len(mine)) * (np.arange(len(mine)) > 0)) / len(mine)
    return np.argsort(keys, kind="stable")[:most]


def in_order_of_file(pixels: NDArray[np.uint8], chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
    """pixels[chosen], read front to back: they may lie in a memory-mapped file."""
    order = np.argsort(chosen)
    found = np.empty((len(chosen), *pixels.shape[1:]), np.uint8)
    found[order] = pixels[chosen[order]]
    return found


def gray(pixels: Pixels) -> Pixels:
    """(n, h, w, 3) -> (n, h, w, 1) by luma; other channel counts by their mean; one channel as it is."""
    channels = pixels.shape[-1]
    if channels == 1:
        return pixels
    weights = np.asarray(LUMA if channels == 3 else [1 / channels] * channels, np.float32)
    parts = [np.rint(part @ weights) for part in _chunks(pixels)]
    return np.concatenate(parts).astype(np.uint8)[..., None]


def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Images at `size` (height, width) by area averaging: each new pixel is the mean of what it covers."""
    _, height, width, channels = pixels.shape
    if (height, width) == size:
        return pixels
    rows = _area_weights(height, size[0])
    columns = np.kron(_area_weights(width, size[1]).T, np.eye(channels, dtype=np.float32))
    parts = [rows @ (part.reshape(len(part), height, -1) @ columns) for part in _chunks(pixels)]
    return np.asarray(np.rint(np.concatenate(parts)), np.uint8).reshape(len(pixels), *size, channels)


def _area_weights(old: int, new: int) -> Floats:
    """(new, old): the share of each old pixel in each new one."""
    edges = np.arange(new + 1) * old / new
    starts = np.arange(old)
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return np.asarray(np.clip(overlap, 0, None) * new / old, np.float32)


def _chunks(pixels: Pixels, values: int = 1 << 21) -> Iterator[Floats]:
    """The images as float32, so many at a time that a chunk stays near the processor's caches."""
    step = max(1, values // max(1, int(np.prod(pixels.shape[1:]))))
    for start in range(0, len(pixels), step):
        yield pixels[start : start + step].astype(np.float32)


def power_spectrum(images: Pixels) -> tuple[Doubles, Doubles, Curve]:
    """(n, h, w) -> frequency and mean power of each wave, flat, and (frequency, mean power) on rings.

    Each image less its mean, under a Hann window: abs(FFT)^2 / pixels. The rings are as wide as one wave.
    """
    _, height, width = images.shape
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1]).astype(np.float32)
    power = np.zeros((height, width))
    for part in _chunks(images):
        part -= part.mean(axis=(1, 2), keepdims=True)
        power += (np.abs(np.fft.fft2(part * window)) ** 2).sum(axis=0)
    power /= len(images) * height * width
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    ring = np.rint(radius * max(height, width)).astype(int)
    rings = [ring == i for i in range(1, int(ring.max()) + 1) if (ring == i).any()]
    curve = tuple((float(radius[mask].mean()), float(power[mask].mean())) for mask in rings)
    return radius.ravel(), power.ravel(), curve


def autocorrelation(images: Pixels) -> Curve:
    """(n, h, w) -> (radius px, radial mean of the autocorrelation), up to half the shorter side.

    The inverse transform of the mean power of images less their means, padded with zeros so that
    nothing wraps round, over the number of pixel pairs at each distance.
    """
    _, height, width = images.shape
    power = np.zeros((2 * height, width + 1))
    for part in _chunks(images):
        part -= part.mean(axis=(1, 2), keepdims=True)
        power += (np.abs(np.fft.rfft2(part, (2 * height, 2 * width))) ** 2).sum(axis=0)
    covariance = np.fft.irfft2(power, (2 * height, 2 * width))
    rows, columns = (np.rint(np.fft.fftfreq(2 * side) * 2 * side) for side in (height, width))
    pairs = np.outer(np.clip(height - np.abs(rows), 1, None), np.clip(width - np.abs(columns), 1, None))
    covariance /= pairs
    radius = np.hypot(rows[:, None], columns[None, :])
    ring = np.rint(radius).astype(int)
    if covariance[0, 0] <= 0:
        return ()
    last = max(2, min(height, width) // 2)
    covariance /= covariance[0, 0]
    rings = [ring == i for i in range(last + 1)]
    return tuple((float(radius[mask].mean()), float(covariance[mask].mean())) for mask in rings)


def dimension_of(points: Floats, k: int = 20) -> float | None:
    """The intrinsic dimension of points (n, d); None where fewer than 3 of them differ."""
    points = np.unique(points, axis=0)
    k = min(k, len(points) - 1)
    if k < 2:
        return None
    points = points - points.mean(axis=0)
    norms = np.einsum("ij,ij->i", points, points)
    squares = norms[:, None] + norms - 2 * points @ points.T
    np.fill_diagonal(squares, np.inf)
    near = np.sort(np.partition(squares, k - 1, axis=1)[:, :k], axis=1)
    logs = np.log(np.maximum(near, 1e-6 * max(float(norms.mean()), 1e-12))) / 2
    inverse = float((logs[:, -1:] - logs[:, :-1]).sum(axis=1).mean() / (k - 1))
    return 1 / inverse if inverse > 0 else None


def f_ratio(values: Floats, labels: NDArray[np.int64]) -> Doubles:
    """(n, h, w) -> (h, w): one-way analysis of variance, between / within mean squares."""
    centred = values - values.mean(axis=0)
    present = np.unique(labels)
    between = np.zeros(values.shape[1:])
    for label in present:
        mine = centred[labels == label]
        between += len(mine) * mine.mean(axis=0).astype(np.float64) ** 2
    within = (centred.astype(np.float64) ** 2).sum(axis=0) - between
    scale = 1e-9 * max(float(within.max()), 1e-12)
    return np.asarray(between / (len(present) - 1) / (np.maximum(within, scale) / (len(values) - len(present))))


@dataclass(frozen=True)
class FilterBank:
    """Filters on patches: weights (patch * patch * channels, filters), bias (filters,)."""

    patch: int
    weights: Floats
    bias: Floats

    def features(self, pixels: Pixels) -> Floats:
        """(n, h, w, c) -> (n, 8 * filters): both signs, soft threshold, mean over each quadrant."""
        rows, columns = (_positions(side, self.patch) for side in pixels.shape[1:3])
        pool = np.kron(_halves(len(rows)), _halves(len(columns)))
        step = max(1, (1 << 20) // (len(rows) * len(columns) * max(len(self.weights), FILTERS)))
        starts = range(0, len(pixels), step)
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:  # numpy releases the lock
            return np.concatenate(list(threads.map(lambda at: self._encode(pixels[at : at + step], pool), starts)))

    def _encode(self, pixels: Pixels, pool: Floats) -> Floats:
        response = patches(pixels, self.patch) @ self.weights
        response += self.bias
        on = np.maximum(response - THRESHOLD, 0)
        off = np.maximum(-THRESHOLD - response, 0)
        return np.concatenate([pool @ on, pool @ off], axis=1).reshape(len(pixels), -1)


def patches(pixels: Pixels, patch: int) -> Floats:
    """(n, h, w, c) -> (n, positions, patch * patch * c): patches on a centred, regular grid."""
    windows = _windows(pixels, patch)
    n, rows, columns = windows.shape[:3]
    return np.asarray(windows, np.float32).reshape(n, rows * columns, -1)


def _windows(pixels: Pixels, patch: int) -> Pixels:
    """(n, h, w, c) -> (n, rows, columns, patch, patch * c): a view, so that a few patches can be cut alone."""
    n, height, width, channels = pixels.shape
    rows, columns = _positions(height, patch), _positions(width, patch)
    windows = np.lib.stride_tricks.sliding_window_view(
        pixels.reshape(n, height, width * channels), (patch, patch * channels), axis=(1, 2)
    )
    chosen = windows[:, rows.start :: rows.step, columns.start * channels :: columns.step * channels]
    return chosen[:, : len(rows), : len(columns)]


def _positions(side: int, patch: int) -> range:
    """Where patches start along one axis: at most GRID places, evenly, centred."""
    room = side - patch
    step = -(-(room + 1) // GRID)
    return range(room % step // 2, room + 1, step)


def _halves(count: int) -> Floats:
    """(2, count): the mean over the first and over the last half; an odd middle belongs to both."""
    half = (count + 1) // 2
    weights = np.zeros((2, count), np.float32)
    weights[0, :half] = weights[1, count - half :] = 1 / half
    return weights


def learn_filters(pixels: Pixels, patch: int, rng: np.random.Generator, rounds: int = 8) -> FilterBank:
    """Whiten patches and cluster them on the sphere by k-means (Coates & Ng 2012, section 3)."""
    windows = _windows(pixels[rng.permutation(len(pixels))[:256]], patch)
    places = windows.shape[:3]
    drawn = np.unravel_index(rng.permutation(prod(places))[:6000], places)
    cut = windows[drawn].reshape(-1, patch * patch * pixels.shape[-1]).astype(np.float32)
    mean = cut.mean(axis=0)
    whiten = _whitening(cut - mean)
    lively = np.argsort(-cut.std(axis=1), kind="stable")[: len(cut) // 2]  # an even background teaches nothing
    white = (cut[rng.permutation(lively)] - mean) @ whiten
    filters = _unit(white[:FILTERS]).T
    for _ in range(rounds):
        match = white @ filters
        best = np.abs(match).argmax(axis=1)
        code = np.zeros_like(match)
        code[np.arange(len(match)), best] = match[np.arange(len(match)), best]
        filters = _unit((white.T @ code + filters).T).T
    weights = whiten @ filters
    return FilterBank(patch, weights, -mean @ weights)


def _whitening(centred: Floats) -> Floats:
    """(d, d): ZCA whitening, damped by a hundredth of the mean variance so that noise is not blown up."""
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    damping = 1e-2 * max(float(values.mean()), 1e-3)
    return np.asarray((vectors / np.sqrt(np.clip(values, 0, None) + damping)) @ vectors.T, np.float32)


def _unit(rows: Floats) -> Floats:
    return np.asarray(rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-8), np.float32)


class LeaveOneOut:
    """Ridge regression onto class indicators; every prediction is by the fit that lacks that image.

    features: (n, d); labels: (n,) integers; weights: (d,), how much each feature counts, all alike
    by default. The penalty is the one of PENALTIES with the least leave-one-out squared error. With
    A = X'X + penalty and h_i = x_i A^-1 x_i, the fit without image i differs by
    A^-1 x_i r_i / (1 - h_i), r_i its residual (Cook & Weisberg 1982): one eigendecomposition serves
    all images and penalties.
    """

    def __init__(self, features: Floats, labels: NDArray[np.int64], weights: Floats | None = None) -> None:
        self.classes, codes = np.unique(labels, return_inverse=True)
        self.codes = codes
        self._mean, self._scale = features.mean(axis=0), features.std(axis=0) + 1e-6
        self._scale /= 1.0 if weights is None else weights
        scaled = self._scaled(features)
        values, self._basis = _axes(scaled)
        self._rotated = scaled @ self._basis
        goal = np.eye(len(self.classes), dtype=np.float32)[codes] - np.float32(1 / len(self.classes))
        fits = [self._fit(goal, np.clip(values, 0, None) + penalty * len(labels)) for penalty in PENALTIES]
        _, self._shrink, self._weights, self._step = min(fits, key=lambda fit: fit[0])

    def _scaled(self, features: Floats) -> Floats:
        """Standardised features and a constant: centring the labels instead would let each show in the others."""
        constant = np.full((len(features), 1), INTERCEPT, np.float32)
        return np.concatenate([(features - self._mean) / self._scale, constant], axis=1)

    def _fit(self, goal: Floats, values: Floats) -> tuple[float, Floats, Floats, Floats]:
        shrink = (1 / values).astype(np.float32)
        weights = np.asarray(shrink[:, None] * (self._rotated.T @ goal), np.float32)
        leverage = (self._rotated**2) @ shrink
        step = np.asarray((goal - self._rotated @ weights) / np.maximum(1 - leverage, 1e-6)[:, None], np.float32)
        return float((step**2).mean()), shrink, weights, step

    def correct(self, features: Floats | None = None) -> Flags:
        """(n,): which images are recognised; `features` are those of the same images, changed."""
        return np.asarray(self.scores(features).argmax(axis=1) == self.codes)

    def scores(self, features: Floats | None = None) -> Floats:
        """(n, classes): what is said of each image, in the order of `classes`; about 1 of its own, less 1 / classes."""
        rotated = self._rotated if features is None else self._scaled(features) @ self._basis
        own = (rotated * self._rotated) @ self._shrink
        return np.asarray(rotated @ self._weights - own[:, None] * self._step)


def _axes(rows: Floats) -> tuple[Floats, Floats]:
    """The eigenvalues and eigenvectors (d, r) of rows' rows, by the smaller of the two Gram matrices."""
    if len(rows) >= rows.shape[1]:
        values, vectors = np.linalg.eigh(rows.T @ rows)
        return values, vectors
    values, vectors = np.linalg.eigh(rows @ rows.T)
    keep = values > 1e-6 * values[-1]
    return values[keep], rows.T @ (vectors[:, keep] / np.sqrt(values[keep]))


@dataclass(frozen=True)
class Probe:
    """A probe of the sample: its features (n, d), the class of each image (n,), its filters where it has one set."""

    features: Floats
    labels: NDArray[np.int64]
    bank: FilterBank | None = None
    weights: Floats | None = None

    @cached_property
    def fit(self) -> LeaveOneOut:
        return LeaveOneOut(self.features, self.labels, self.weights)

    @cached_property
    def correct(self) -> Flags:
        return self.fit.correct()

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())


class Probes:
    """The sampled images, and the probes already made of them.

    pixels: (n, h, w, c); labels: (n,). Images whose longer side exceeds 64 px are probed at a
    whole fraction of their size (`zoom` native px a work px), except where resolution itself is asked. No clock
    decides what is probed: the same images get the same advice on every machine, busy or not.
    """

    def __init__(self, pixels: Pixels, labels: NDArray[np.int64], *, seed: int) -> None:
        self.pixels, self.labels, self.seed = pixels, labels, seed
        self.zoom = -(-max(self.size) // 64)
        self._probes: dict[tuple[int, int, int, bool], Probe] = {}
        self._pyramids: dict[int, Probe] = {}
        self._resized: dict[tuple[int, int], Pixels] = {}

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[2]

    @cached_property
    def work(self) -> Pixels:
        """The images as probed."""
        return self.at(self.shrunk(self.zoom))

    @property
    def few(self) -> int:
        """How many images hold 3 million pixels: enough for averages over images."""
        return max(64, 3_000_000 // (self.size[0] * self.size[1]))

    @cached_property
    def gray(self) -> Pixels:
        """The first few native images, gray (n, h, w, 1)."""
        return gray(self.pixels[: self.few])

    @cached_property
    def spectrum(self) -> tuple[Doubles, Doubles, Curve]:
        """Frequency (cycles/px) and mean power of each wave, and the mean power on rings."""
        return power_spectrum(self.gray[..., 0])

    @cached_property
    def autocorrelation(self) -> Curve:
        """(px, radial mean of the autocorrelation), 1 at 0 px."""
        return autocorrelation(self.gray[..., 0])

    @property
    def factors(self) -> tuple[int, ...]:
        """Of 1, 2 and 4 those by which the images can be reduced and still be probed."""
        return tuple(factor for factor in (1, 2, 4) if min(self.shrunk(factor)) >= 4)

    @cached_property
    def classes(self) -> int:
        return len(np.unique(self.labels))

    def shrunk(self, factor: int) -> tuple[int, int]:
        """The size of the images at 1 / factor."""
        return max(1, round(self.size[0] / factor)), max(1, round(self.size[1] / factor))

    def at(self, size: tuple[int, int]) -> Pixels:
        if size not in self._resized:
            self._resized[size] = resize(self.pixels, size)
        return self._resized[size]

    def probe(self, size: tuple[int, int], patch: int, *, in_gray: bool = False) -> Probe:
        """The probe with patches of `patch` px on images brought to `size`."""
        key = (*size, patch, in_gray)
        if key not in self._probes:
            pixels = gray(self.at(size)) if in_gray else self.at(size)
            bank = learn_filters(pixels, patch, np.random.default_rng(self.seed))
            self._probes[key] = Probe(bank.features(pixels), self.labels, bank)
        return self._probes[key]

    def pyramid(self, factor: int) -> Probe:
        """The probe on the images at 1/factor, and at each further halving down to a quarter of the native size.

        It holds everything that the pyramid at 2 * factor holds, so the two differ by the detail
        lost in halving, not by how much of the object a patch covers. Each finer level counts
        1 / sqrt(2) of the one before: equal weights let fine noise spoil the coarse evidence.
        """
        if factor not in self._pyramids:
            sizes = [self.shrunk(step) for step in self.factors if step >= factor]
            levels = [self.probe(size, min(9 if max(size) > 64 else 5, min(size) - 1)).features for size in sizes]
            weights = [np.full(len(level.T), 2 ** (-i / 2), np.float32) for i, level in enumerate(levels[::-1])]
            together = np.concatenate(levels[::-1], axis=1)
            self._pyramids[factor] = Probe(together, self.labels, weights=np.concatenate(weights))
        return self._pyramids[factor]

    def made(self) -> list[Probe]:
        """Every probe made so far."""
        return [*self._probes.values(), *self._pyramids.values()]

    def best(self) -> Probe:
        """The most accurate probe at work size, of those made so far."""
        size = (self.work.shape[1], self.work.shape[2])
        made = [probe for key, probe in self._probes.items() if key[:2] == size and not key[3]]
        return max(made, key=lambda probe: probe.accuracy) if made else self.probe(size, min(5, min(size) - 1))

    def changed(self, pixels: Pixels) -> Flags:
        """Which of the work images, changed into `pixels`, the best probe still recognises."""
        probe = self.best()
        assert probe.bank is not None
        return probe.fit.correct(probe.bank.features(pixels))

    def taught(self, pixels: Pixels) -> tuple[Flags, Flags]:
        """Which images a two-fold ridge recognises without, and with, `pixels` of its training half besides."""
        best = self.best()
        assert best.bank is not None
        more = best.bank.features(pixels)
        fold = np.random.default_rng(self.seed).permutation(len(self.labels)) % 2
        plain, taught = np.zeros((2, len(fold)), bool)
        for half in (0, 1):
            here, there = fold == half, fold != half
            for out, rows in ((plain, ()), (taught, (more[there],))):
                seen = np.concatenate([best.features[there], *rows])
                fit = RidgeClassifierCV(RIDGES).fit(_scaled(seen), np.tile(self.labels[there], 1 + len(rows)))
                out[here] = fit.predict(_scaled(best.features[here], seen)) == self.labels[here]
        return plain, taught


def _scaled(rows: Floats, like: Floats | None = None) -> Floats:
    """The rows with the mean and deviation of `like` taken out."""
    base = rows if like is None else like
    scaled: Floats = (rows - base.mean(0)) / (base.std(0) + 1e-6)
    return scaled
