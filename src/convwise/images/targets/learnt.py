"""What is learnt of each image, as all targets give it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.images.splits import TEST, TRAIN, VALID

SIDES = {TRAIN: "train", VALID: "valid", TEST: "test"}


@dataclass(frozen=True)
class Learnt:
    """What is learnt of the images of a set.

    labels: what a Part keeps of each image, (n,), or of several numbers (n, k); codes: int64 (n,),
    the same where two images have the same label; known: whether an image has a label that can be
    learnt; classes: the names of the labels, none where they are numbers; numbers: what these are
    called; grouped: what the groups of the images are called, '' where there are none.
    """

    labels: NDArray[Any]
    codes: NDArray[np.int64]
    known: NDArray[np.bool_]
    classes: tuple[str, ...]
    numbers: tuple[str, ...]
    grouped: str = ""
