"""The effective field: against formulas, loops, and the exact theoretical field."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convwise.core.calculus import analyse
from convwise.core.layers import (
    Activation,
    Add,
    AveragePooling2D,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Flatten,
    GlobalAveragePooling2D,
    Layer,
    Rescaling,
)
from convwise.core.net import Net
from convwise.core.problems import UnusableInput
from convwise.formats.weights import Weights, layout
from convwise.inspect.sight import EDGE, EffectiveField, effective_field


def ones(net: Net) -> Weights:
    """Every kernel 1, no bias: a sum, whatever the path."""
    kinds = {"bias": 0, "beta": 0, "moving_mean": 0}
    return {
        key: np.full(shape, kinds.get(key.rpartition("/")[2], 1), np.float32)
        for key, shape in layout(net).items()
    }


def noise(net: Net, n: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (n, *net.input_shape), dtype=np.uint8)


def seen(net: Net, layer: str = "", n: int = 2) -> EffectiveField:
    return effective_field(net, ones(net), noise(net, n), layer)


kernels = st.tuples(st.integers(1, 4), st.integers(1, 4))
steps = st.tuples(st.integers(1, 2), st.integers(1, 2))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(kernels, steps, st.integers(1, 3)), min_size=1, max_size=3))
def test_uniform_kernels_have_the_deviation_of_the_formula(chain):
    """Variances of independent uniform steps add: j^2 d^2 (k^2 - 1) / 12 each, j the product of the
    strides before.
    """
    layers = tuple(
        Conv2D(2, k, s, "valid", 1 if s != (1, 1) else (d, d), use_bias=False) for k, s, d in chain
    )
    net = Net((48, 48, 1), layers)
    found, variance, jump = seen(net), [0.0, 0.0], [1, 1]
    for layer in layers:
        for axis in (0, 1):
            spread = jump[axis] * layer.dilation_rate[axis]
            variance[axis] += spread**2 * (layer.kernel_size[axis] ** 2 - 1) / 12
            jump[axis] *= layer.strides[axis]
    assert found.sigma == pytest.approx([sqrt(v) for v in variance], abs=1e-4)


def test_three_by_three_chains_are_gaussian_and_grow_as_the_root_of_depth():
    sizes = {}
    for depth in (4, 16):
        found = seen(Net((64, 64, 1), (Conv2D(1, 3, padding="same", use_bias=False),) * depth))
        assert found.sigma == pytest.approx((sqrt(depth * 8 / 12),) * 2, rel=1e-4)
        assert found.theoretical == (2 * depth + 1,) * 2
        # A Gaussian falls to EDGE of its top at sigma sqrt(2 ln(1 / EDGE)).
        radius = found.sigma[0] * sqrt(2 * np.log(1 / EDGE))
        assert found.side == pytest.approx(sqrt(np.pi) * radius, rel=0.12)
        sizes[depth] = found.side
    assert sizes[16] / sizes[4] == pytest.approx(2, rel=0.1)


BODIES: dict[str, tuple[Layer, ...]] = {
    "chain": (Conv2D(3, 3, activation="relu"), Conv2D(2, 5, 2, "same", activation="relu")),
    "pooled": (Conv2D(2, 3, padding="same"), AveragePooling2D(3, 2, "same"), Conv2D(2, 3,
    padding="same")),
    "dilated": (Conv2D(2, 3, dilation_rate=1), Conv2D(2, (2, 3), dilation_rate=2)),
    "depthwise": (DepthwiseConv2D((3, 5), padding="same"), BatchNormalization(), Activation("relu"),
    Conv2D(4, 1)),
    "residual": (Conv2D(2, 3, padding="same", name="a"), Conv2D(2, 3, padding="same", name="b"),
                 Add(inputs=("a", "b"))),
    "joined": (Conv2D(2, 1, name="a"), Conv2D(2, 7, padding="same", name="b", inputs=("input",)),
               Concatenate(inputs=("a", "b"))),
}  # fmt: skip


@pytest.mark.parametrize("shape", [(9, 12, 1), (33, 24, 3)])
@pytest.mark.parametrize("name", BODIES)
def test_positive_weights_reach_all_of_the_theoretical_field(name, shape):
    net = Net(shape, (Rescaling(1 / 255), *BODIES[name], GlobalAveragePooling2D(), Dense(2)))
    found = seen(net)
    rows, columns = (np.flatnonzero((found.map > 0).any(axis)) for axis in (1, 0))
    assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == found.box
    assert found.theoretical == analyse(net).total.field.size


def test_any_layer_can_be_asked_and_the_default_is_the_last_with_places():
    net = Net(
        (12, 12, 1), (Conv2D(2, 3, name="a"), Conv2D(2, 3, name="b"), Flatten(), Dense(2, name="c"))
    )
    assert seen(net).layer == "b"
    assert seen(net, "a").size == (3, 3)
    with pytest.raises(UnusableInput, match="layer c"):
        seen(net, "c")
    with pytest.raises(UnusableInput, match="no layer whose output is a map"):
        seen(Net((4, 4, 1), (Flatten(), Dense(2))))


def test_the_map_is_the_mean_change_of_the_unit_by_brute_force():
    """Each px changed by hand, on a net with relu: the map is the mean of what that does."""
    net = Net((7, 7, 1), (Conv2D(3, 3, activation="relu"), Conv2D(2, 3, 2, activation="relu")))
    rng = np.random.default_rng(1)
    weights = {
        key: rng.normal(0, 1, shape).astype(np.float32) for key, shape in layout(net).items()
    }
    pixels = rng.integers(0, 256, (5, 7, 7, 1), dtype=np.uint8)
    found = effective_field(net, weights, pixels)

    def unit(image: np.ndarray) -> float:
        """The output at (0, 0) of two, summed over filters: a naive convolution."""
        for name, step in (("conv2d", 1), ("conv2d_1", 2)):
            kernel, bias = (
                weights[f"{name}/kernel"].astype(float),
                weights[f"{name}/bias"].astype(float),
            )
            places = range(0, image.shape[0] - 2, step)
            image = np.maximum([[(image[y : y + 3, x : x + 3, :, None] * kernel).sum((0, 1,
                                2)) + bias for x in places]
                                for y in places], 0)  # fmt: skip
        return float(image[0, 0].sum())

    change = np.zeros((7, 7))
    for image in pixels.astype(float):
        for y in range(7):
            for x in range(7):
                up, down = image.copy(), image.copy()
                up[y, x], down[y, x] = up[y, x] + 1e-3, down[y, x] - 1e-3
                change[y, x] += abs(unit(up) - unit(down)) / 2e-3 / len(pixels)
    assert found.map == pytest.approx(change, rel=1e-3, abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 99),
    st.sampled_from((0.05, 0.5, 0.95, 1.0)),
)
def test_what_a_square_holds_is_counted_by_a_loop(height, width, seed, share):
    rng = np.random.default_rng(seed)
    shape = (height, width)
    centre = tuple(float(rng.integers(0, 2 * n - 1)) / 2 for n in shape)
    found = EffectiveField(
        "x", rng.random(shape).astype(np.float32), centre, shape, (0, height, 0, width), 1
    )

    def held(side: int) -> float:
        reach = (side - 1) / 2
        return sum(float(found.map[y, x]) for y in range(height) for x in range(width)
                   if max(abs(y - centre[0]), abs(x - centre[1])) <= reach)  # fmt: skip

    side, total = found.holding(share), held(99)
    assert held(side) >= share * total * (1 - 1e-6)
    smaller = [s for s in range(1, side) if held(s) >= share * total * (1 + 1e-6)]
    assert smaller == []


def test_what_cannot_be_measured_is_said():
    net = Net((8, 8, 1), (Conv2D(2, 3, activation="relu"), Flatten(), Dense(2)))
    dead = {**ones(net), "conv2d/bias": np.full(2, -1e9, np.float32)}
    with pytest.raises(UnusableInput, match="does not depend on the images"):
        effective_field(net, dead, noise(net))
    with pytest.raises(UnusableInput, match="no image"):
        effective_field(net, ones(net), noise(net, 0))


def test_images_are_taken_evenly_and_at_most_so_many():
    net = Net((8, 8, 1), (Conv2D(1, 3), Flatten(), Dense(2)))
    assert seen(net, n=64).images == 64
    assert seen(net, n=65).images == 33
    assert seen(net, n=1000).images == 63
