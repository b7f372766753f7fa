"""Which image goes where: train, valid or the sealed test. Pure functions of labels, groups and a
seed.

A group is a set of images with exactly the same pixels; no group is ever on two sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TRAIN, VALID, TEST = 0, 1, 2
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Leaks:
    """Masks over the images (n,) that must leave train and valid, by reason, without overlap."""

    in_test: Mask
    in_valid: Mask
    conflict: Mask

    @property
    def any(self) -> Mask:
        return self.in_test | self.in_valid | self.conflict


def leaks(labels: Ints, parts: Ints, groups: Ints) -> Leaks:
    """What stands in two parts of the source, or under two labels.

    in_test: a train or valid image that is also a test image; in_valid: a train image that is
    also a valid image; conflict: every copy, outside of test, of a picture with several labels.
    """
    in_test = (parts != TEST) & np.isin(groups, groups[parts == TEST])
    here = (parts != TEST) & ~in_test
    conflict = here & disagreeing(labels, groups, here)
    in_valid = (
        (parts == TRAIN) & here & ~conflict & np.isin(groups, groups[(parts == VALID) & here])
    )
    return Leaks(in_test, in_valid, conflict)


def disagreeing(labels: Ints, groups: Ints, among: Mask) -> Mask:
    """True for each image whose group has more than one label among the images of the mask."""
    low = np.full(int(groups.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    high = np.full_like(low, -1)
    np.minimum.at(low, groups[among], labels[among])
    np.maximum.at(high, groups[among], labels[among])
    return np.asarray((low < high)[groups])


def draw(labels: Ints, groups: Ints, fraction: float, keep: int, seed: tuple[int, ...]) -> Mask:
    """A stratified share of the images, whole groups only: about `fraction` of each class, at least
    one image.

    keep: so many groups of each class stay behind if it has more than that (else all but one; a
    class with one group is left alone). Groups must have one label each. The same seed and
    order of images draw the same share.
    """
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        _, which, sizes = np.unique(groups[members], return_inverse=True, return_counts=True)
        stay = max(1, min(keep, len(sizes) - 1))
        taken = _whole_groups(sizes, max(1, round(fraction * len(members))), stay, rng)
        chosen[members] = taken[which]
    return chosen


def spread(strata: Ints, least: int, seed: int) -> tuple[Ints, int]:
    """All positions (n,), so that the first of them, however many, are of each stratum in
    proportion.

    strata (n,): the number of the stratum that each belongs to. `least` of each stratum, or all,
    come first: how many these are is told beside.
    """
    rng = np.random.default_rng((seed, len(strata)))
    order = np.argsort(strata[shuffled := rng.permutation(len(strata))], kind="stable")
    members = shuffled[order]  # stratum by stratum, each in random order
    starts = np.flatnonzero(np.diff(strata[members], prepend=-1))
    sizes = np.diff(np.append(starts, len(strata)))
    place = np.arange(len(strata)) - np.repeat(starts, sizes)
    # The half, so that small strata are neither all first nor all last.
    keys = np.where(place < least, -1.0, (place + 0.5) / np.repeat(sizes, sizes))
    return members[np.argsort(keys, kind="stable")], int((place < least).sum())


def _whole_groups(sizes: Ints, wanted: int, stay: int, rng: np.random.Generator) -> Mask:
    """Groups in random order while they fit into `wanted` images; the smallest if none does."""
    taken = np.zeros(len(sizes), bool)
    spare, room = len(sizes) - stay, wanted
    for group in rng.permutation(len(sizes)):
        if spare and sizes[group] <= room:
            taken[group] = True
            spare, room = spare - 1, room - int(sizes[group])
    if len(sizes) > stay and not taken.any():
        taken[np.argmin(sizes)] = True
    return taken
