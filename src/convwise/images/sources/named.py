"""Data sets that come with a dependency and are called by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convwise.images.sources.arrays import block
from convwise.images.sources.found import Found


def digits() -> Found:
    """scikit-learn's 1,797 handwritten digits, 8x8, values 0..16 brought to 0..255 (UCI Optical Recognition)."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

    data = load_digits()
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)
    return Found("digits", blocks=(block("digits", pixels, data.target, None),))


NAMED: dict[str, Callable[[], Found]] = {"digits": digits}


def recognises(source: Any) -> bool:
    """Whether source is one of NAMED."""
    return isinstance(source, str) and source in NAMED


def find(source: Any) -> Found:
    """The named set, out of the package that ships it."""
    return NAMED[source]()
