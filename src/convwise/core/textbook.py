"""Networks that people know, to compare with a chosen one: from shape and classes to a Net."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from convwise.core import layers as L
from convwise.core.net import Net

Shape = tuple[int, int, int]
EXPERT_FILTERS = 32
# px: images with a longer side than the first are read at the second, by the fixed net
LARGE, USUAL = 48, 64


@dataclass(frozen=True)
class Known:
    """A network with a name.

    title: what it is called; source: where it is from; net: from (images' shape, classes).
    """

    title: str
    source: str
    net: Callable[[Shape, int], Net]


def lenet_5(shape: Shape, classes: int) -> Net:
    """At 28x28, with average pooling and softmax, as it is copied today."""
    return Net(
        (28, 28, shape[2]),
        (
            L.Conv2D(6, 5, padding="same", activation="tanh"),
            L.AveragePooling2D(2),
            L.Conv2D(16, 5, activation="tanh"),
            L.AveragePooling2D(2),
            L.Flatten(),
            L.Dense(120, activation="tanh"),
            L.Dense(84, activation="tanh"),
            L.Dense(classes, activation="softmax"),
        ),
    )


def keras_mnist(shape: Shape, classes: int) -> Net:
    """At 28x28."""
    return Net(
        (28, 28, shape[2]),
        (
            L.Conv2D(32, 3, activation="relu"),
            L.MaxPooling2D(2),
            L.Conv2D(64, 3, activation="relu"),
            L.MaxPooling2D(2),
            L.Flatten(),
            L.Dropout(0.5),
            L.Dense(classes, activation="softmax"),
        ),
    )


def expert(shape: Shape, classes: int, filters: int = EXPERT_FILTERS) -> Net:
    """A small residual net that is hard to beat: BatchNormalization and ReLU after each 3x3
    convolution.

    Convolutions to `filters` and to twice as many, a pool, a residual block, a convolution to four
    times as many, a pool, a residual block, the global average. At the size of the images; larger
    ones at 64x64, with stride 2.
    """
    rows, columns, channels = shape
    size = (USUAL, USUAL) if max(rows, columns) > LARGE else (rows, columns)
    layers: list[L.Layer] = [
        *_convolution(filters, "stem", strides=2 if max(size) >= USUAL else 1),
        *_convolution(2 * filters, "widened"),
        L.MaxPooling2D(2, name="pool1"),
        *_residual(2 * filters, "block1", "pool1"),
        *_convolution(4 * filters, "widened2"),
        L.MaxPooling2D(2, name="pool2"),
        *_residual(4 * filters, "block2", "pool2"),
        L.GlobalAveragePooling2D(),
        L.Dense(classes, activation="softmax"),
    ]
    return Net((*size, channels), tuple(layers))


def _convolution(filters: int, name: str, strides: int = 1) -> Sequence[L.Layer]:
    """3x3, with BatchNormalization and ReLU."""
    conv = L.Conv2D(filters, 3, strides=strides, padding=(1, 1, 1, 1), use_bias=False, name=name)
    return (
        conv,
        L.BatchNormalization(epsilon=1e-5, name=f"{name}_norm"),
        L.Activation("relu", name=f"{name}_relu"),
    )


def _residual(filters: int, name: str, before: str) -> Sequence[L.Layer]:
    """What is `before`, plus two convolutions of it (He et al. 2016), then ReLU."""
    body = [*_convolution(filters, f"{name}_conv1"), *_convolution(filters, f"{name}_conv2")[:2]]
    last = body[-1].name
    return (
        *body,
        L.Add(name=f"{name}_sum", inputs=(before, last)),
        L.Activation("relu", name=f"{name}_relu"),
    )


KNOWN: dict[str, Known] = {
    "lenet5": Known(
        "LeNet-5",
        "LeCun et al. 1998, 'Gradient-based learning applied to document recognition'",
        lenet_5,
    ),
    "keras-mnist": Known(
        "Keras's MNIST example", "keras.io/examples/vision/mnist_convnet", keras_mnist
    ),
    "expert": Known("a fixed residual net", "He et al. 2016; benchmarks/rivals/expert.py", expert),
}
