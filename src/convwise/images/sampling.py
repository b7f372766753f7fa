"""Which files are read, where all would take too long: an amount of work that the budget fixes, never a clock.

So the same images, budget and seed give the same part on every machine, however busy it is, and a larger
budget gives a part that holds the smaller one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from convwise.core.problems import Problem
from convwise.images import decode
from convwise.images.sources import Found, Item
from convwise.images.splits import spread

READING_SHARE = 0.1  # of a budget, in which images are read
FILE_SECONDS, PIXEL_SECONDS = 4e-4, 2e-8  # of one core: to open a file; to decode it, and again for the input's size
SIZED = 64  # files whose headers say how large pictures are
FEW, MOST_SHARE = 500, 0.5  # so many are read in any case, where that takes no more than this share
EACH = 5  # of each class in each part, at least


@dataclass(frozen=True)
class Seen:
    """What is read of a source. listed: files in all; affordable: for a study of this budget; read: now.

    classes: how many of each class are listed, outside of a test part of the source's own.
    """

    listed: int
    affordable: int
    read: int
    classes: dict[str, int]

    def __str__(self) -> str:
        share = f"{100 * self.read / self.listed:.2g} %"
        return f"{self.read:,} of {self.listed:,} images ({share}), each class in proportion"

    def problem(self, where: str) -> Problem:
        """What is said where not all is read."""
        why = "what a tenth of the budget is enough for"
        if self.read < self.affordable:
            why = f"what is measured. `convwise choose` reads {self.affordable:,} of them in this budget"
        what = f"only {self}, were read: {why}. Whether others are broken, or copies, is not known"
        fix = "" if self.read < self.affordable else "give a longer --budget to read more of them"
        return Problem(where, what, severity="warning" if fix else "note", fix=fix, count=self.listed - self.read)


def sampled(found: Found, seed: int, budget: float | None, most: float | None) -> tuple[Found, Seen | None]:
    """The part of the files in `found` that is read, and what it is a part of; None where it is all of them.

    budget: seconds of the study, a tenth of which is for reading; None reads all. most: no more than that. Arrays
    stay whole: they are in memory already.
    """
    items = found.items
    if budget is None or not items:
        return found, None
    affordable = min(_affordable(items, seed, budget), len(items))
    count = min(affordable, round(most)) if most else affordable
    if count >= len(items):
        return found, None
    rows = spread(_strata(items), count, EACH, seed)
    part = tuple(items[row] for row in rows)
    classes = Counter(item.label for item in items if item.part != "test")
    return replace(found, items=part), Seen(len(items), max(affordable, len(part)), len(part), dict(classes))


def _strata(items: Sequence[Item]) -> np.ndarray:
    numbers: dict[tuple[str | None, str], int] = {}
    return np.array([numbers.setdefault((item.part, item.label), len(numbers)) for item in items], np.int64)


def _affordable(items: Sequence[Item], seed: int, budget: float) -> int:
    """How many files can be read in their share of the budget; the size of some stands for that of all."""
    rows = np.random.default_rng(seed).permutation(len(items))[:SIZED]
    each = FILE_SECONDS + PIXEL_SECONDS * float(np.mean([_pixels(items[row]) for row in rows]))
    return max(int(READING_SHARE * budget / each), min(FEW, int(MOST_SHARE * budget / each)))


def _pixels(item: Item) -> int:
    try:
        with item.open() as stream:
            header = decode.header(stream)
    except Exception:  # decoders fail in many ways; it is told of when it is decoded
        return 0
    return header.height * header.width
