"""Weights: one layout, Keras's, for every format.

Keys are 'layer/kernel', 'layer/bias', 'layer/gamma', 'layer/beta', 'layer/moving_mean' and
'layer/moving_variance'; values are float32. Kernels are (rows, columns, inputs, filters),
depthwise (rows, columns, channels, multiplier), dense (inputs, units), with the inputs of a
flattened map in the order height, width, channels.
"""

from __future__ import annotations

from math import prod
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from convwise.core.layers import BatchNormalization, Conv2D, Dense, DepthwiseConv2D, Layer
from convwise.core.net import Net
from convwise.core.problems import UnusableInput
from convwise.core.windows import Shape
from convwise.formats.calls import shapes_of

Array = NDArray[np.float32]
Weights = dict[str, Array]

# Kernel axes from Keras's order to (outputs, inputs, rows, columns), which PyTorch and ONNX share.
_AXES: dict[type[Layer], tuple[int, ...]] = {Conv2D: (3, 2, 0, 1), DepthwiseConv2D: (2, 3, 0, 1), Dense: (1, 0)}


def layout(net: Net) -> dict[str, Shape]:
    """The key and shape of every weight of the net, in Keras's order."""
    shapes = shapes_of(net)
    return {
        f"{layer.name}/{key}": shape
        for layer in net.layers
        for key, shape in layer_layout(layer, shapes[layer.inputs[0]]).items()
    }


def layer_layout(layer: Layer, given: Shape) -> dict[str, Shape]:
    """The weights of one layer that reads `given`, with their shapes, in Keras's order."""
    match layer:
        case Conv2D():
            kernel: Shape = (*layer.kernel_size, given[2] // layer.groups, layer.filters)
        case DepthwiseConv2D():
            kernel = (*layer.kernel_size, given[2], layer.depth_multiplier)
        case Dense():
            kernel = (given[-1], layer.units)
        case BatchNormalization():
            return dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), (given[-1],))
        case _:
            return {}
    outputs = prod(kernel[2:]) if isinstance(layer, DepthwiseConv2D) else kernel[-1]
    return {"kernel": kernel, "bias": (outputs,)} if layer.use_bias else {"kernel": kernel}


def checked(net: Net, weights: Weights) -> Weights:
    """The weights, if they are those of the net; else UnusableInput names the first that is not."""
    expected = layout(net)
    if strange := set(weights) ^ set(expected):
        raise UnusableInput("weights", f"lack or have besides {sorted(strange)}", "the weights of this net")
    for key, shape in expected.items():
        if weights[key].shape != shape:
            raise UnusableInput(f"weight {key}", f"has shape {weights[key].shape}", str(shape))
    return weights


def channels_first(layer: Layer, kernel: Array, shape: tuple[int, ...]) -> Array:
    """A kernel in PyTorch's and ONNX's layout: (outputs, inputs per group, rows, columns) or (units, inputs)."""
    return np.ascontiguousarray(kernel.transpose(_AXES[type(layer)]).reshape(shape))


def channels_last(layer: Layer, kernel: NDArray[Any], shape: tuple[int, ...]) -> Array:
    """The inverse of `channels_first`; `shape` is the one of Keras's layout."""
    axes = _AXES[type(layer)]
    turned = kernel.reshape([shape[axis] for axis in axes]).transpose(np.argsort(axes))
    return cast(Array, np.ascontiguousarray(turned, np.float32))
