"""What a source hands over: encoded files, or whole arrays, each with its class and its part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from convwise.core.problems import Problem

PartName = Literal["train", "valid", "test"]

# How people call the parts of a data set; compared in lower case.
PART_NAMES: dict[str, PartName] = {
    "train": "train", "training": "train",
    "val": "valid", "valid": "valid", "validation": "valid",
    "test": "test", "testing": "test", "t10k": "test",
}  # fmt: skip

# More than this, unpacked, is taken for a decompression bomb and refused.
MAX_BYTES = 16 * 2**30


@dataclass(frozen=True)
class Item:
    """One encoded image. part: None where the source says nothing; open: a fresh binary stream, seekable."""

    part: PartName | None
    label: str
    name: str
    open: Callable[[], BinaryIO]


@dataclass(frozen=True)
class Block:
    """Images already decoded: pixels (n, h, w) or (n, h, w, channels) of any number type, labels (n,) as text."""

    part: PartName | None
    pixels: NDArray[Any]
    labels: NDArray[np.str_]


@dataclass(frozen=True)
class Found:
    """What a source holds, not yet decoded. name: what to call it; close: gives back what `open` needs."""

    name: str
    items: tuple[Item, ...] = ()
    blocks: tuple[Block, ...] = ()
    problems: tuple[Problem, ...] = ()
    close: Callable[[], None] = lambda: None
