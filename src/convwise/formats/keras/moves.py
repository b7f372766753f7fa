"""Numbers that move: reshapes, padding, slices. See rules.py."""

from __future__ import annotations

import keras

from convwise.core import layers as L
from convwise.core.layers import Layer
from convwise.formats.keras.use import Rule, Unreadable, Use


def _pad(use: Use) -> list[Layer]:
    """Zeros around rows and columns, and nothing else."""
    width = [tuple(pair) for pair in use.op.pad_width]
    if len(width) == 1 or len(use.shape) != 3 or use.op.mode != "constant":
        raise Unreadable
    if not width[0] == width[-1] == (0, 0) or any(constant for constant in use.arguments[1:]):
        raise Unreadable
    return [L.ZeroPadding2D((*width[1], *width[2]))]


def _item(use: Use) -> list[Layer]:
    """x[:, 1:, :-1, :] and such."""
    keys = use.keys
    if len(use.shape) != 3 or len(keys) > 4 or not all(isinstance(key, slice) for key in keys):
        raise Unreadable
    spans = [key.indices(n) for key, n in zip(keys[1:], use.shape, strict=True)]
    whole = keys[0] == slice(None) and spans[2] == (0, use.shape[2], 1)
    if not whole or any(step != 1 or start >= stop for start, stop, step in spans):
        raise Unreadable
    (top, bottom, _), (left, right, _) = spans[:2]
    return [L.Cropping2D((top, use.shape[0] - bottom, left, use.shape[1] - right))]


def _reshape(use: Use) -> list[Layer]:
    first, *rest = use.op.newshape
    if first not in (-1, None) or not rest:
        raise Unreadable
    return [L.Reshape(tuple(-1 if n is None else int(n) for n in rest))]


def _squeezed(use: Use) -> list[Layer]:
    shape = use.op.compute_output_spec(keras.KerasTensor((2, *use.shape))).shape
    if shape[0] != 2:  # the axis of the batch itself
        raise Unreadable
    return [L.Reshape(tuple(shape[1:]))]


def _center_crop(use: Use) -> list[Layer]:
    rows, columns = use.shape[0] - use.op.height, use.shape[1] - use.op.width
    if min(rows, columns) < 0:
        raise Unreadable
    return [L.Cropping2D((rows // 2, rows - rows // 2, columns // 2, columns - columns // 2))]


MOVING_LAYERS: dict[str, Rule] = {
    "Reshape": lambda use: [
        L.Reshape(tuple(-1 if n is None else int(n) for n in use.op.target_shape))
    ],
    "ZeroPadding2D": lambda use: [
        L.ZeroPadding2D(tuple(n for pair in use.op.padding for n in pair))
    ],
    "Cropping2D": lambda use: [L.Cropping2D(tuple(n for pair in use.op.cropping for n in pair))],
    "CenterCrop": _center_crop,
}
MOVING_OPS: dict[str, Rule] = {
    "Reshape": _reshape,
    "Squeeze": _squeezed,
    "ExpandDims": _squeezed,
    "Pad": _pad,
    "GetItem": _item,
}
