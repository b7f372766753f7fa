"""Net, weights, images -> the effective receptive field: how far the centre unit really looks.

Luo, Li, Urtasun & Zemel, Understanding the Effective Receptive Field in Deep CNNs, NIPS 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from convwise.core.calculus import Analysis, LayerCost, analyse
from convwise.core.net import Net
from convwise.core.problems import UnusableInput
from convwise.formats.weights import Weights, layout

MOST_IMAGES = 64
MOST_MACS = 5e9  # of all images together: under a second on one core
EDGE = 0.0455  # of the largest value: two deviations of a Gaussian hold 1 - 0.0455 of it
BATCH = 16


@dataclass(frozen=True)
class EffectiveField:
    """What the centre unit of `layer` reads, measured.

    map: mean over `images` images of |d y / d x|, summed over the channels of both: float32 (rows,
    columns) of the input; centre: (row, column) px in the middle of the theoretical field;
    theoretical: its rows and columns, before the image cuts them; box: (top, bottom, left, right)
    of what it leaves inside the image, the ends not included.
    """

    layer: str
    map: NDArray[np.float32]
    centre: tuple[float, float]
    theoretical: tuple[int, int]
    box: tuple[int, int, int, int]
    images: int

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns from the first to the last px above EDGE of the largest value."""
        rows, columns = (np.flatnonzero(self._used.any(axis)) for axis in (1, 0))
        return int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)

    @property
    def side(self) -> float:
        """The side of a square of as many px as lie above EDGE of the largest value."""
        return sqrt(int(self._used.sum()))

    @property
    def sigma(self) -> tuple[float, float]:
        """The deviation of the map along rows and columns, px."""
        rows, columns = (_deviation(self.map.sum(axis)) for axis in (1, 0))
        return rows, columns

    def holding(self, share: float) -> int:
        """The side, px, of the smallest centred square that holds this share of the map."""
        rows, columns = (
            np.abs(np.arange(n) - c) for n, c in zip(self.map.shape, self.centre, strict=True)
        )
        distance = np.maximum(rows[:, None], columns[None, :]).ravel()
        order = np.argsort(distance, kind="stable")
        held = np.cumsum(self.map.ravel()[order], dtype=np.float64)
        last = int(np.searchsorted(held, share * held[-1]))
        return round(2 * float(distance[order][min(last, len(order) - 1)]) + 1)

    @property
    def _used(self) -> NDArray[np.bool_]:
        used: NDArray[np.bool_] = self.map > EDGE * self.map.max()
        return used


def _deviation(weights: NDArray[np.float32]) -> float:
    places, share = np.arange(len(weights)), weights.astype(np.float64) / float(weights.sum())
    return sqrt(float(share @ (places - share @ places) ** 2))


def effective_field(
    net: Net, weights: Weights, pixels: NDArray[np.uint8], layer: str = ""
) -> EffectiveField:
    """The effective field of the middle unit of `layer`, by default the last that still has places.

    weights: Keras's layouts; pixels: (n, height, width, channels), of which MOST_IMAGES at most are
    taken, evenly. Computed in float32 with trained statistics. UnusableInput where the layer is no
    map, there is no image, or nothing reaches the unit.
    """
    costs = analyse(net)
    row = costs[layer] if layer else _last_with_places(costs)
    if len(row.output_shape) != 3:
        raise UnusableInput(
            f"layer {row.name}", f"gives a row of {row.output_shape[0]} numbers", "a map"
        )
    most = min(MOST_IMAGES, max(int(MOST_MACS / (3 * costs.total.macs + 1)), 4))
    some = pixels[:: max(-(-len(pixels) // most), 1)]
    unit = (row.output_shape[0] - 1) // 2, (row.output_shape[1] - 1) // 2
    found = (
        _sensitivity(net, weights, some, row.name, unit)
        if len(some)
        else np.zeros(net.input_shape[:2], np.float32)
    )
    if not (np.isfinite(found).all() and found.max() > 0):
        what = "does not depend on the images" if len(some) else "was given no image"
        raise UnusableInput(f"layer {row.name}", what, "trained weights, and images")
    centre, box = _theory(row, unit, net)
    return EffectiveField(row.name, found, centre, row.field.size, box, len(some))


def _last_with_places(costs: Analysis) -> LayerCost:
    placed = [row for row in costs.layers if len(row.output_shape) == 3 and row.field.rows.step]
    if not placed:
        raise UnusableInput("the network", "has no layer whose output is a map", "a convolution")
    return placed[-1]


def _theory(
    row: LayerCost, unit: tuple[int, int], net: Net
) -> tuple[tuple[float, float], tuple[int, int, int, int]]:
    """(centre, box) of the theoretical field of one unit."""
    (top, bottom), (left, right) = (
        axis.at(i) or (0, 0)
        for axis, i in zip((row.field.rows, row.field.columns), unit, strict=True)
    )
    height, width = net.input_shape[:2]
    box = max(top, 0), min(bottom + 1, height), max(left, 0), min(right + 1, width)
    return ((top + bottom) / 2, (left + right) / 2), box


def _sensitivity(net: Net, weights: Weights, pixels: NDArray[np.uint8], layer: str,
                 unit: tuple[int, int]) -> NDArray[np.float32]:  # fmt: skip
    """The map of EffectiveField, by one backward pass a batch through the net as far as `layer`."""
    import torch

    from convwise.formats import torch as torch_format

    last = next(i for i, each in enumerate(net.layers) if each.name == layer)
    part = Net(net.input_shape, net.layers[: last + 1])
    model = torch_format.build(part)
    torch_format.load(model, part, {key: weights[key] for key in layout(part)})
    model.eval().requires_grad_(False)
    total = np.zeros(net.input_shape[:2], np.float64)
    for start in range(0, len(pixels), BATCH):
        some = torch.from_numpy(np.ascontiguousarray(pixels[start : start + BATCH]))
        x = some.permute(0, 3, 1, 2).float().requires_grad_()
        (gradient,) = torch.autograd.grad(model(x)[:, :, unit[0], unit[1]].sum(), x)
        total += gradient.abs().sum((0, 1)).numpy()
    return (total / len(pixels)).astype(np.float32)
