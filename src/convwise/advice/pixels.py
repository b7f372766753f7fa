"""What is read off the pixels themselves, without a probe: grey and smaller images, their spectrum
and autocorrelation, how many directions they vary in, and how far classes differ at each place.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from convwise.core.luma import LUMA

Pixels = NDArray[np.uint8]  # (n, height, width, channels)
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Curve = tuple[tuple[float, float], ...]


def in_order_of_file(pixels: NDArray[np.uint8], chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
    """pixels[chosen], read front to back: they may lie in a memory-mapped file."""
    order = np.argsort(chosen)
    found = np.empty((len(chosen), *pixels.shape[1:]), np.uint8)
    found[order] = pixels[chosen[order]]
    return found


def gray(pixels: Pixels) -> Pixels:
    """(n, h, w, 3) -> (n, h, w, 1) by luma; other channels by their mean; one channel as it is."""
    channels = pixels.shape[-1]
    if channels == 1:
        return pixels
    weights = np.asarray(LUMA if channels == 3 else [1 / channels] * channels, np.float32)
    parts = [np.rint(part @ weights) for part in _chunks(pixels)]
    return np.concatenate(parts).astype(np.uint8)[..., None]


def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Images at `size` (height, width): each new pixel is the mean of the area that it covers."""
    _, height, width, channels = pixels.shape
    if (height, width) == size:
        return pixels
    rows = _area_weights(height, size[0])
    columns = np.kron(_area_weights(width, size[1]).T, np.eye(channels, dtype=np.float32))
    parts = [rows @ (part.reshape(len(part), height, -1) @ columns) for part in _chunks(pixels)]
    whole = np.asarray(np.rint(np.concatenate(parts)), np.uint8)
    return whole.reshape(len(pixels), *size, channels)


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
    """(n, h, w) -> frequency and mean power of each wave, flat, and (frequency, power) on rings.

    Each image less its mean, under a Hann window: abs(FFT)^2 / pixels. The rings are as wide as one
    wave, and have the mean power on them.
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
    down = np.clip(height - np.abs(rows), 1, None)
    across = np.clip(width - np.abs(columns), 1, None)
    covariance /= np.outer(down, across)
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
    chance = np.maximum(within, scale) / (len(values) - len(present))
    return np.asarray(between / (len(present) - 1) / chance)
