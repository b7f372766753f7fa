"""Data sets that come with a dependency and are called by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from convwise.core.problems import UnusableInput
from convwise.images.sources.arrays import block
from convwise.images.sources.found import Found


def digits() -> Found:
    """scikit-learn's 1,797 handwritten digits, 8x8, values 0..16 brought to 0..255 (UCI Optical
    Recognition).
    """
    from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

    data = load_digits()
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)
    return Found("digits", blocks=(block("digits", pixels, data.target, None),))


OPENML = "openml:"
FETCHED = (
    "download it yourself and save it as a file; for square grey images, for example: python -c"
    " \"import numpy, sklearn.datasets; s = sklearn.datasets.fetch_openml('NAME', as_frame=False);"
    " n = round(s.data.shape[1] ** 0.5); numpy.savez('NAME.npz', x=s.data.reshape(-1, n, n),"
    ' y=s.target.astype(str))", then name NAME.npz'
)
NAMED: dict[str, Callable[[], Found]] = {"digits": digits}


def recognises(source: Any) -> bool:
    """Whether source is one of NAMED, or the name of a set that would have to be downloaded."""
    return isinstance(source, str) and (source in NAMED or source.startswith(OPENML))


def find(source: Any) -> Found:
    """The named set, out of the package that ships it; UnusableInput for one that would have to be
    downloaded.
    """
    if source.startswith(OPENML):
        name = re.sub(r"[^\w.-]", "", source.removeprefix(OPENML)) or "mnist_784"
        fix = FETCHED.replace("NAME", name)
        raise UnusableInput(
            source,
            "is on the internet, and convwise downloads nothing",
            "images on this machine",
            fix,
        )
    return NAMED[source]()
