"""Three networks that people copy from textbooks, as Nets, layer for layer, with no
preprocessing.
"""

from __future__ import annotations

from convwise.core.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, MaxPooling2D
from convwise.core.net import Net

TEXTBOOK: dict[str, Net] = {
    "one_convolution": Net(
        (28, 28, 1),
        (
            Conv2D(32, 3, padding="same", activation="relu"),
            MaxPooling2D(2),
            Flatten(),
            Dense(10, activation="softmax"),
        ),
    ),
    "three_convolutions": Net(
        (64, 64, 3),
        (
            Conv2D(64, 5, padding="same", activation="relu"),
            Conv2D(128, 3, padding="same", activation="relu"),
            MaxPooling2D(2),
            Conv2D(256, 3, padding="same", activation="relu"),
            MaxPooling2D(2),
            Flatten(),
            Dense(1024, activation="relu"),
            Dense(10, activation="softmax"),
        ),
    ),
    "mixed_activations": Net(
        (128, 128, 3),
        (
            Conv2D(32, 3, strides=2, padding="same", activation="leaky_relu"),
            Conv2D(64, 3, padding="same", activation="relu"),
            BatchNormalization(),
            Conv2D(128, 3, padding="same", activation="elu"),
            MaxPooling2D(2),
            Flatten(),
            Dense(512, activation="relu"),
            Dropout(0.5),
            Dense(10, activation="softmax"),
        ),
    ),
}
