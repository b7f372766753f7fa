"""What gives a class away beside the content of its pictures: their brightness, or their size in
pixels.

A network learns the easiest thing that works. Where the pictures of one class were all taken at
night, or all have one size, that is what it learns, and what it fails on elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from convwise.core.problems import Problem

# A class is given away where this share of it is found, and this share of what is found is right
SURE = 0.9
LEAST = 20  # pictures of a class
BINS, IN_BIN = 32, 12  # of brightness at most, and the pictures in each at least

Ints = NDArray[np.int64]


def given_away(kinds: Ints, labels: Ints) -> list[tuple[int, float, float]]:
    """(class, share of it that is found, share of what is found that is right) of each class that
    `kinds` tell.

    kinds: (n,), what is known of each picture. Each half of the pictures is answered by the most
    frequent class of its kind in the other half.
    """
    halves = np.arange(len(labels)) % 2
    answers = np.full(len(labels), -1)
    classes = int(labels.max()) + 1
    for half in (0, 1):
        known, asked = halves != half, halves == half
        counts = np.zeros((int(kinds.max()) + 1, classes), np.int64)
        np.add.at(counts, (kinds[known], labels[known]), 1)
        best = np.where(counts.sum(1) > 0, counts.argmax(1), -1)
        answers[asked] = best[kinds[asked]]
    found = []
    for label in np.unique(labels).tolist():
        mine, said = labels == label, answers == label
        if mine.sum() >= LEAST and said.any():
            shares = float(said[mine].mean()), float(mine[said].mean())
            if min(shares) >= SURE:
                found.append((label, *shares))
    return found


def told(where: str, brightness: NDArray[np.float64], shapes: Ints, labels: Ints,
         classes: Sequence[str], seed: int = 0) -> Iterator[Problem]:  # fmt: skip
    """A warning for each class that mean brightness (n,), or the size (n, 2) in px, gives away."""
    # Pictures may come in some order, and one half is every second of them
    order = np.random.default_rng(seed).permutation(len(labels))
    bins = min(BINS, max(len(labels) // IN_BIN, 2))
    edges = np.unique(np.quantile(brightness, np.linspace(0, 1, bins + 1)[1:-1]))
    bright = np.searchsorted(edges, brightness, "right")
    size = np.unique(shapes, axis=0, return_inverse=True)[1].ravel()
    for name, kinds, fix in (
        ("mean brightness", bright, "compare pictures taken in the same light, or vary it"),
        (
            "size in pixels",
            size,
            "take the pictures of all classes from the same source, or crop them to one shape",
        ),
    ):
        if kinds.max(initial=0):
            for label, found, right in given_away(kinds[order], labels[order]):
                what = (
                    f"the {name} alone gives class {classes[label]} away: it finds"
                    f" {100 * found:.0f} % of the "
                )
                what += f"class's images, and {100 * right:.0f} % of its guesses are right"
                yield Problem(
                    where, what, "classes that differ in what the pictures show", fix, "warning"
                )
