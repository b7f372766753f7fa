"""Which files are read, where all would take too long: an amount of work that the budget fixes, not
a clock.

So the same images, budget and seed give the same part on every machine, and a larger budget gives a
part that holds the smaller one. Only where reading is far slower than anywhere, as from a network
drive, a clock ends it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from convwise.core.problems import Problem
from convwise.images import decode
from convwise.images.sources import Found, Item
from convwise.images.splits import Ints, spread

READING_SHARE = 0.1  # of a budget, in which images are read
# What one core takes to open a file; and for each pixel, decoded and again resized
FILE_SECONDS, PIXEL_SECONDS = 4e-4, 2e-8
SIZED = 64  # files whose headers say how large pictures are
FEW, MOST_SHARE = 500, 0.5  # so many are read in any case, where that takes no more than this share
EACH = 5  # of each class in each part, at least


@dataclass(frozen=True)
class Seen:
    """What is read of a source. listed: files in all; affordable: for a study of this budget; read:
    now.

    classes: how many of each class are listed, outside of a test part of the source's own, none of
    numbers; late: reading took so long that it was ended before its time.
    """

    listed: int
    affordable: int
    read: int
    classes: dict[str, int]
    late: bool = False

    @property
    def why(self) -> str:
        """Why it was no more."""
        if self.read < self.affordable:
            return (
                f"enough for the measurements. `convwise choose` reads {self.affordable:,} of them"
                " in this budget"
            )
        return (
            "reading was so slow on this machine that it was stopped early"
            if self.late
            else "as many as a tenth of the budget allows"
        )

    def __str__(self) -> str:
        share = f"{100 * self.read / self.listed:.2g} %"
        each = "each class" if self.classes else "low and high numbers"
        return f"{self.read:,} of {self.listed:,} images ({share}), {each} in proportion"

    def problem(self, where: str) -> Problem:
        """What is said where not all is read."""
        what = (
            f"only {self}, were read: {self.why}. Whether others are broken, or copies, is not"
            " known"
        )
        fix = "" if self.read < self.affordable else "give a longer --budget to read more of them"
        return Problem(
            where,
            what,
            severity="warning" if fix else "note",
            fix=fix,
            count=self.listed - self.read,
        )


@dataclass(frozen=True)
class Sample:
    """What is read of a source, and in which order.

    order: of found.items, so that the first of them, however many, are a part in proportion; first:
    so many are read in any case; listed: files of the source; affordable: for a study of this
    budget; classes: as in Seen.
    """

    found: Found
    order: Ints
    first: int
    listed: int
    affordable: int
    classes: dict[str, int]

    def seen(self, read: int, late: bool) -> Seen | None:
        """Of so many files; None where these are all."""
        if read >= self.listed:
            return None
        return Seen(
            self.listed, read if late else max(self.affordable, read), read, self.classes, late
        )


def sampled(found: Found, alike: Sequence[int], seed: int, budget: float | None, most: float | None,
            named: bool = True) -> Sample:  # fmt: skip
    """The part of the files in `found` that is read; arrays stay whole: they are in memory already.

    alike: of each item, the same number where a share is drawn of both: the class, or about the
    same number. budget: seconds of the study, a tenth of which is for reading; None reads all.
    most: no more than that. named: whether labels are names of classes.
    """
    items = found.items
    classes = dict(Counter(item.label for item in items if item.part != "test" and named))
    order, first = spread(_strata(items, alike), EACH, seed)
    affordable = (
        len(items)
        if budget is None or not items
        else min(_affordable(items, seed, budget), len(items))
    )
    count = max(min(affordable, round(most)) if most else affordable, first)
    rows = np.sort(order[:count])
    part = found
    if count < len(items):
        part = replace(found, items=_moved([items[row] for row in rows]))
    return Sample(
        part,
        np.searchsorted(rows, order[:count]),
        max(first, min(FEW, count)),
        len(items),
        affordable,
        classes,
    )


def _moved(items: Sequence[Item]) -> tuple[Item, ...]:
    """The same items, their texts in memory of their own: of a million that were listed, a few
    everywhere would keep most of it.
    """

    def again(thing: Any) -> Any:
        if isinstance(thing, partial) and not thing.keywords:
            return partial(thing.func, *map(again, thing.args))
        how = "utf-8", "surrogatepass"
        return thing.encode(*how).decode(*how) if isinstance(thing, str) else thing

    return tuple(Item(**{name: again(value) for name, value in vars(i).items()}) for i in items)


def _strata(items: Sequence[Item], alike: Sequence[int]) -> Ints:
    numbers: dict[tuple[str | None, int], int] = {}
    both = zip(items, alike, strict=True)
    return np.array(
        [numbers.setdefault((item.part, each), len(numbers)) for item, each in both], np.int64
    )


def _affordable(items: Sequence[Item], seed: int, budget: float) -> int:
    """How many files can be read in their share of the budget, by the size of some of them."""
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
