"""Probes: quick classifiers that tell what the class labels depend on, without training a network.

A probe is one convolution layer learnt without labels, followed by a linear classifier: whitened
patches, k-means filters, soft threshold, average over a 2x2 grid, ridge regression (Coates, Lee &
Ng 2011, 'An analysis of single-layer networks'; Coates & Ng 2012 for the k-means). Every prediction
is held out: leave-one-out in closed form, so all images serve for learning and for testing, and two
probes are compared image by image. A probe takes some tenths of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifierCV

from convwise.advice.pixels import (
    Curve,
    Doubles,
    Floats,
    Pixels,
    autocorrelation,
    gray,
    power_spectrum,
    resize,
)
from convwise.advice.target import CLASSES
from convwise.advice.telling import Interval
from convwise.core.cores import cores
from convwise.core.intervals import Z95, wilson

Flags = NDArray[np.bool_]

FILTERS = 64
THRESHOLD = 0.5  # of the soft threshold, in standard deviations of a whitened patch
GRID = 14  # patch positions per axis at most: what makes a probe quick on large images
PENALTIES = (1e-2, 1e-1, 1.0, 10.0)  # of the ridge, per image
INTERCEPT = 3.0  # the constant feature: large, so that its penalty is slight
RIDGES = (1e1, 1e2, 1e3, 1e4, 1e5)  # penalties that `taught` picks from


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


def resampled(value: float, draws: Sequence[float]) -> Interval:
    """A value with the percentile bootstrap's interval, of the same of images drawn again."""
    return Interval(float(value), *map(float, np.quantile(draws, [0.025, 0.975])))


def stratified(labels: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """At most `most` indices, each class in proportion and present; so is every prefix of them."""
    keys = np.empty(len(labels))
    for label in np.unique(labels):
        mine = rng.permutation(np.flatnonzero(labels == label))
        places = np.arange(len(mine))
        keys[mine] = (places + rng.random(len(mine)) * (places > 0)) / len(mine)
    return np.argsort(keys, kind="stable")[:most]


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
        with ThreadPoolExecutor(min(4, cores())) as threads:  # numpy releases the lock
            parts = threads.map(lambda at: self._encode(pixels[at : at + step], pool), starts)
            return np.concatenate(list(parts))

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
    """(n, h, w, c) -> (n, rows, columns, patch, patch * c): a view, to cut a few patches alone."""
    n, height, width, channels = pixels.shape
    rows, columns = _positions(height, patch), _positions(width, patch)
    windows = np.lib.stride_tricks.sliding_window_view(
        pixels.reshape(n, height, width * channels), (patch, patch * channels), axis=(1, 2)
    )
    across = slice(columns.start * channels, None, columns.step * channels)
    return windows[:, rows.start :: rows.step, across][:, : len(rows), : len(columns)]


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


def learn_filters(
    pixels: Pixels, patch: int, rng: np.random.Generator, rounds: int = 8
) -> FilterBank:
    """Whiten patches and cluster them on the sphere by k-means (Coates & Ng 2012, section 3)."""
    windows = _windows(pixels[rng.permutation(len(pixels))[:256]], patch)
    places = windows.shape[:3]
    drawn = np.unravel_index(rng.permutation(prod(places))[:6000], places)
    cut = windows[drawn].reshape(-1, patch * patch * pixels.shape[-1]).astype(np.float32)
    mean = cut.mean(axis=0)
    whiten = _whitening(cut - mean)
    # An even background teaches nothing
    lively = np.argsort(-cut.std(axis=1), kind="stable")[: len(cut) // 2]
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
    """(d, d): ZCA whitening, damped by a hundredth of the mean variance: noise stays small."""
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    damping = 1e-2 * max(float(values.mean()), 1e-3)
    scale = np.sqrt(np.clip(values, 0, None) + damping)
    return np.asarray((vectors / scale) @ vectors.T, np.float32)


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

    def __init__(
        self, features: Floats, labels: NDArray[np.int64], weights: Floats | None = None
    ) -> None:
        self.classes, codes = np.unique(labels, return_inverse=True)
        self.codes = codes
        self._mean, self._scale = features.mean(axis=0), features.std(axis=0) + 1e-6
        self._scale /= 1.0 if weights is None else weights
        scaled = self._scaled(features)
        values, self._basis = _axes(scaled)
        self._rotated = scaled @ self._basis
        count = len(self.classes)
        goal = np.eye(count, dtype=np.float32)[codes] - np.float32(1 / count)
        values = np.clip(values, 0, None)
        fits = [self._fit(goal, values + penalty * len(labels)) for penalty in PENALTIES]
        _, self._shrink, self._weights, self._step = min(fits, key=lambda fit: fit[0])

    def _scaled(self, features: Floats) -> Floats:
        """Standardised features and a constant: centred labels would show in each other."""
        constant = np.full((len(features), 1), INTERCEPT, np.float32)
        return np.concatenate([(features - self._mean) / self._scale, constant], axis=1)

    def _fit(self, goal: Floats, values: Floats) -> tuple[float, Floats, Floats, Floats]:
        shrink = (1 / values).astype(np.float32)
        weights = np.asarray(shrink[:, None] * (self._rotated.T @ goal), np.float32)
        leverage = (self._rotated**2) @ shrink
        lacking = np.maximum(1 - leverage, 1e-6)[:, None]
        step = np.asarray((goal - self._rotated @ weights) / lacking, np.float32)
        return float((step**2).mean()), shrink, weights, step

    def correct(self, features: Floats | None = None) -> Flags:
        """(n,): which images are recognised; `features` are those of the same images, changed."""
        return np.asarray(self.scores(features).argmax(axis=1) == self.codes)

    def scores(self, features: Floats | None = None) -> Floats:
        """(n, classes): what is said of each image, in the order of `classes`.

        About 1 of its own, less 1 / classes.
        """
        rotated = self._rotated if features is None else self._scaled(features) @ self._basis
        own = (rotated * self._rotated) @ self._shrink
        return np.asarray(rotated @ self._weights - own[:, None] * self._step)


def _axes(rows: Floats) -> tuple[Floats, Floats]:
    """The eigenvalues and eigenvectors (d, r) of rows' rows, by the smaller Gram matrix."""
    if len(rows) >= rows.shape[1]:
        values, vectors = np.linalg.eigh(rows.T @ rows)
        return values, vectors
    values, vectors = np.linalg.eigh(rows @ rows.T)
    keep = values > 1e-6 * values[-1]
    return values[keep], rows.T @ (vectors[:, keep] / np.sqrt(values[keep]))


@dataclass(frozen=True)
class Probe:
    """A probe of the sample.

    features: (n, d); labels: the class of each image, (n,); bank: its filters, where it has one
    set; weights: (d,), as in LeaveOneOut.
    """

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

    pixels: (n, h, w, c); labels: (n,); parts: what these tell apart, in words. Images whose longer
    side exceeds 64 px are probed at a whole fraction of their size (`zoom` native px a work px),
    except where resolution itself is asked. No clock decides what is probed: the same images get
    the same advice on every machine, busy or not.
    """

    def __init__(
        self, pixels: Pixels, labels: NDArray[np.int64], *, seed: int, parts: str = CLASSES
    ) -> None:
        self.pixels, self.labels, self.seed, self.parts = pixels, labels, seed, parts
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
        """The probe on the images at 1/factor and at each further halving, down to a quarter.

        It holds everything that the pyramid at 2 * factor holds, so the two differ by the detail
        lost in halving, not by how much of the object a patch covers. Each finer level counts
        1 / sqrt(2) of the one before: equal weights let fine noise spoil the coarse evidence.
        """
        if factor not in self._pyramids:
            sizes = [self.shrunk(step) for step in self.factors if step >= factor]
            patches = [min(9 if max(size) > 64 else 5, min(size) - 1) for size in sizes]
            probes = [self.probe(*each) for each in zip(sizes, patches, strict=True)]
            levels = [probe.features for probe in probes[::-1]]
            shares = [2 ** (-i / 2) for i in range(len(levels))]
            weights = [
                np.full(len(level.T), share, np.float32)
                for level, share in zip(levels, shares, strict=True)
            ]
            together = np.concatenate(levels, axis=1)
            self._pyramids[factor] = Probe(together, self.labels, weights=np.concatenate(weights))
        return self._pyramids[factor]

    def made(self) -> list[Probe]:
        """Every probe made so far."""
        return [*self._probes.values(), *self._pyramids.values()]

    def best(self) -> Probe:
        """The most accurate probe at work size, of those made so far."""
        size = (self.work.shape[1], self.work.shape[2])
        made = [probe for key, probe in self._probes.items() if key[:2] == size and not key[3]]
        if not made:
            return self.probe(size, min(5, min(size) - 1))
        return max(made, key=lambda probe: probe.accuracy)

    def changed(self, pixels: Pixels) -> Flags:
        """Which of the work images, changed into `pixels`, the best probe still recognises."""
        probe = self.best()
        assert probe.bank is not None
        return probe.fit.correct(probe.bank.features(pixels))

    def taught(self, pixels: Pixels) -> tuple[Flags, Flags]:
        """Which images a two-fold ridge recognises without `pixels`, and with them besides.

        Of `pixels` it learns from those of its training half.
        """
        best = self.best()
        assert best.bank is not None
        more = best.bank.features(pixels)
        fold = np.random.default_rng(self.seed).permutation(len(self.labels)) % 2
        plain, taught = np.zeros((2, len(fold)), bool)
        for half in (0, 1):
            here, there = fold == half, fold != half
            for out, rows in ((plain, ()), (taught, (more[there],))):
                seen = np.concatenate([best.features[there], *rows])
                labels = np.tile(self.labels[there], 1 + len(rows))
                fit = RidgeClassifierCV(RIDGES).fit(_scaled(seen), labels)
                out[here] = fit.predict(_scaled(best.features[here], seen)) == self.labels[here]
        return plain, taught


def _scaled(rows: Floats, like: Floats | None = None) -> Floats:
    """The rows with the mean and deviation of `like` taken out."""
    base = rows if like is None else like
    scaled: Floats = (rows - base.mean(0)) / (base.std(0) + 1e-6)
    return scaled
