"""Weights: one layout, Keras's, for every format.

Keys are 'layer/kernel', 'layer/bias', 'layer/gamma', 'layer/beta', 'layer/moving_mean',
'layer/moving_variance', 'layer/alpha', and of SeparableConv2D 'layer/depthwise_kernel' and
'layer/pointwise_kernel'; values are float32. Kernels are (rows, columns, inputs, filters),
transposed (rows, columns, filters, inputs), depthwise (rows, columns, channels, multiplier), dense
(inputs, units), with the inputs of a flattened map in the order height, width, channels. A layer
that shares the weights of another has none of its own.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from convwise.core import layers as L
from convwise.core.geometry import layer_weights
from convwise.core.net import Net
from convwise.core.problems import UnusableInput
from convwise.core.windows import Shape
from convwise.formats.lowering.calls import shapes_of

Array = NDArray[np.float32]
Weights = dict[str, Array]

_KERNEL, _DEPTHWISE = (3, 2, 0, 1), (2, 3, 0, 1)
# Kernel axes from Keras's order to PyTorch's and ONNX's, (outputs, inputs, rows, columns), or of
# transposed ones (inputs, outputs, rows, columns).
_AXES: dict[tuple[type[L.Layer], str], tuple[int, ...]] = {
    (L.Conv2D, "kernel"): _KERNEL,
    (L.Conv2DTranspose, "kernel"): _KERNEL,
    (L.DepthwiseConv2D, "kernel"): _DEPTHWISE,
    (L.SeparableConv2D, "depthwise_kernel"): _DEPTHWISE,
    (L.SeparableConv2D, "pointwise_kernel"): _KERNEL,
    (L.Dense, "kernel"): (1, 0),
}


def layout(net: Net) -> dict[str, Shape]:
    """The key and shape of every weight of the net, in Keras's order."""
    shapes = shapes_of(net)
    return {
        f"{layer.name}/{key}": shape
        for layer in net.layers
        for key, shape in layer_weights(layer, shapes[layer.inputs[0]]).items()
    }


def require_own(net: Net, weights: Weights) -> Weights:
    """The weights, if they are those of the net; else UnusableInput names the first that is not."""
    expected = layout(net)
    if strange := set(weights) ^ set(expected):
        what = f"do not fit the net: missing or unexpected: {', '.join(sorted(strange))}"
        raise UnusableInput("weights", what, "the weights of this net")
    for key, shape in expected.items():
        if weights[key].shape != shape:
            raise UnusableInput(f"weight {key}", f"has shape {weights[key].shape}", str(shape))
    return weights


def is_kernel(key: str) -> bool:
    """Whether a weight has another order of axes in PyTorch and ONNX."""
    return key.endswith("kernel")


def channels_first(
    layer: L.Layer, kernel: Array, shape: tuple[int, ...], key: str = "kernel"
) -> Array:
    """A kernel as in PyTorch and ONNX: (outputs, inputs per group, rows, columns).

    Of Dense, (units, inputs).
    """
    return np.ascontiguousarray(kernel.transpose(_AXES[type(layer), key]).reshape(shape))


def channels_last(
    layer: L.Layer, kernel: NDArray[Any], shape: tuple[int, ...], key: str = "kernel"
) -> Array:
    """The inverse of `channels_first`; `shape` is the one of Keras's layout."""
    axes = _AXES[type(layer), key]
    turned = kernel.reshape([shape[axis] for axis in axes]).transpose(np.argsort(axes))
    return cast(Array, np.ascontiguousarray(turned, np.float32))
