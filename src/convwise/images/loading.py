"""source -> Images: decoded, checked, deduplicated and split, with the test part sealed.

What is dropped, and always reported: unreadable files; classes of the valid or test part that
train lacks; train and valid copies of test images, and train copies of valid images (exact
pixels, before any resizing); outside of test, every copy of a picture that has several labels.
Near duplicates (near.py) are never dropped: a drawn split keeps them on one side, and those in two
parts of the source are told.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from convwise.core.defaults import TEST_SHARE
from convwise.core.mapped import at_rest
from convwise.core.parameters import at_least
from convwise.core.problems import Problem, UnusableInput
from convwise.images import files, near, remarks, sources, stack
from convwise.images.decode import Pixels, has_wide, load_image, resize
from convwise.images.labelling import Picture, pictures
from convwise.images.near import Pair
from convwise.images.parts import Part, Sealed, file_of
from convwise.images.sampling import Seen, sampled
from convwise.images.sources.found import counted
from convwise.images.splits import TEST, TRAIN, VALID, draw, leaks
from convwise.images.stack import Stack
from convwise.images.store import Store
from convwise.images.targets import SIDES, TARGETS, Learnt, Target
from convwise.images.value_range import ValueRange

__all__ = [
    "Images", "Pair", "Part", "Picture", "Sealed", "Seen", "ValueRange", "Within", "has_wide",
    "load_image", "pictures", "read", "resize",
]  # fmt: skip

ENDED = "read.txt"  # beside the pixels: how many files were read, where that took too long
MOST_VALID = 10_000
MOST_SHOWN = 24  # pairs of near duplicates that are kept as pictures
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Within:
    """What reading may cost.

    budget: seconds of the study that it is for: where a tenth of it is not enough for all files, a
    part is read, see sampling.py; late: whether this share of the time that reading may take at
    most is over, then it ends. most: train images that are wanted. cache_size: of what is kept of
    decoded files for all runs and commands, as in store.size_of; 0 keeps nothing.
    """

    budget: float | None = None
    late: Callable[[float], bool] = lambda share: False
    most: int | None = None
    cache_size: str | int = 0


@dataclass(frozen=True)
class Images:
    """A set of images, ready to learn from.

    classes: none where the images have numbers, which are called `numbers`; task: what is learnt of
    them; near: some pairs of near duplicates as pictures, those in two parts first, then those of
    two classes; test: None only where nothing was to be sealed; base_shape: (height, width,
    channels) that all images have.

    facts: sizes {"WxH": n}, modes {"RGB": n}, own_test, own_valid, duplicates (images whose pixels
    occurred before), unreadable and dropped (n), read (n), read_shape (base_shape before any `at`),
    near_duplicates (pairs), scale (of arrays, and of files of more than 8 bits:
    (value - scale[0]) * scale[1] is 0..255), unreadable_files {name: reason}, read_as (in words:
    parts, where they were, classes), reading; where not all files were read, seen (the fields of
    sampling.Seen) and the budget that it was for.
    """

    source: str
    classes: tuple[str, ...]
    train: Part
    valid: Part
    test: Sealed | None
    problems: tuple[Problem, ...]
    base_shape: tuple[int, int, int]
    facts: Mapping[str, Any] = field(default_factory=dict)
    near: tuple[Pair, ...] = ()
    numbers: tuple[str, ...] = ()
    task: str = "classify"

    def unsealed(self) -> Part:
        """Train and valid together, in this order, for the final training."""
        both = (self.train, self.valid)
        pixels = [part.pixels for part in both]
        file = file_of(self.train.pixels)

        def fill(out: Pixels) -> None:
            np.concatenate(pixels, out=out)

        shape = (len(self.train) + len(self.valid), *self.train.pixels.shape[1:])
        origins = [part.origins or (None,) * len(part) for part in both]
        train, valid = self.train.base, self.valid.base
        return Part(
            stack.filled(shape, fill, file and file.with_name(f"unsealed-{file.name}")),
            np.concatenate([part.labels for part in both]),
            tuple(name for part in both for name in part.names),
            tuple(chain(*origins)) if any(part.origins for part in both) else (),
            replace(self, train=train, valid=valid).unsealed() if train and valid else None,
        )

    def at(self, height: int, width: int) -> Images:
        """All parts resized to (height, width); the test part stays sealed."""
        test = self.test and self.test.at(height, width)
        shape = (height, width, self.base_shape[2])
        train, valid = self.train.at(height, width), self.valid.at(height, width)
        return replace(self, train=train, valid=valid, test=test, base_shape=shape)

    def said(self) -> list[str]:
        """What to know before anything is learnt: how the source was read, and the warnings."""
        warnings = [str(problem) for problem in self.problems if problem.severity != "note"]
        return [f"{self.source}: read as: {self.facts['read_as']}", *warnings]

    def counts(self) -> list[int]:
        """Train images of each class, or all where they have numbers.

        Where `look` read a part: how many a study of this budget would have, about.
        """
        read = [len(self.train)]
        if not self.numbers:
            read = np.bincount(self.train.labels, minlength=len(self.classes)).tolist()
        if not (seen := self.facts.get("seen")) or seen["read"] == seen["affordable"]:
            return read
        listed = [seen["classes"].get(name, 0) for name in self.classes] or [seen["listed"]]
        share = sum(read) / seen["read"] * seen["affordable"] / max(sum(listed), 1)
        return [max(round(n * share), few) for n, few in zip(listed, read, strict=True)]

    def content(self) -> str:
        """What is learnt from and scored, as a checksum: of each picture, label and split."""
        sums = [zlib.crc32("/".join(self.classes).encode()), self.test.size if self.test else 0]
        for part in (self.train, self.valid):
            sums += [0, zlib.crc32(np.ascontiguousarray(part.labels).data)]
            for rows in stack.chunks(len(part)):
                sums[-2] = zlib.crc32(np.ascontiguousarray(part.pixels[rows]).data, sums[-2])
                at_rest(part.pixels)
        return "-".join(f"{each:x}" for each in sums)


def read(
    source: Any,
    *,
    test: float | Literal["none"] | None = None,
    valid: float = 0.2,
    seed: int = 0,
    cache: Path | None = None,
    limit_px: int = 128,
    within: Within = Within(),
    **how: Any,
) -> Images:
    """Read a source (see sources.SOURCES) as Images; raises UnusableInput where it cannot be learnt
    from.

    test: the share to seal where the source has no test part of its own (default 0.2); 'none' or 0
    seals nothing, and an own test part is then left aside, unread. valid: the share of what is
    not sealed, at most 10,000 images, where there is no own valid part. seed: of both draws.
    cache: a folder for the pixels, which are then mapped from there. limit_px: the longer side
    of the base size is at most this. how: task, classes_from, skip_empty_classes, follow_links, as
    in Reading.
    """
    at_least("--seed", seed, 0)
    share = TEST_SHARE if test is None else 0.0
    if test not in (None, "none", 0):
        share = _fraction("--test", test)
    valid, reading = _fraction("valid", valid), sources.Reading(**how)
    target = TARGETS[reading.target]
    found = sources.find(source, reading)
    try:
        if share == 0:
            found = _without_test(found)
        target.check_found(found, reading)
        most = within.most and within.most / _train_share(found, share, valid)
        alike = target.strata(np.array([item.label for item in found.items])).tolist()
        sample = sampled(found, alike, seed, within.budget, most, named=reading.target == "label")
        store = Store.usual(within.cache_size)
        found, ended = sample.found, cache and cache / ENDED
        order = sample.order.tolist()
        if ended and ended.exists():  # this study has begun with so many
            order = order[: max(int(ended.read_text()), sample.first)]
        pace = files.Pace(order, sample.first, within.late)
        everything, count = files.stacked(found, limit_px, store, pace)
        late = count < len(sample.order)
        if late and ended:
            ended.parent.mkdir(parents=True, exist_ok=True)
            ended.write_text(str(count))
        seen = sample.seen(count, late)
        found = replace(found, items=tuple(found.items[row] for row in sorted(order[:count])))
        empty = target.check_decoded(found, everything, reading)
        learnt = target.learnt(everything, found)
        images = _images(found.name, everything, target, learnt, (share, valid), seed, cache)
        store.release()
    except BaseException:
        found.close()
        raise
    if not everything.origins:
        found.close()
    read_as = _read_as(images, everything, target.said(learnt, learnt.labels), found.roles, seen)
    told = {**images.facts, "read_as": read_as, "reading": asdict(reading)}
    if seen:
        told |= {"seen": asdict(seen), "budget": within.budget}
        empty.append(seen.problem(found.name))
    return replace(images, task=reading.task, problems=(*images.problems, *empty), facts=told)


def _train_share(found: sources.Found, share: float, valid: float) -> float:
    """Of all files, those that are trained on."""
    parts = Counter(item.part or "train" for item in found.items)
    mine = parts["train"] / max(len(found.items), 1)
    mine *= 1 if parts["test"] else 1 - share
    mine *= 1 if parts["valid"] else 1 - valid
    return max(mine, 1e-3)


def _images(where: str, all_: Stack, target: Target, learnt: Learnt, shares: tuple[float, float],
            seed: int, cache: Path | None) -> Images:  # fmt: skip
    (share, valid), labels, known = shares, learnt.labels, learnt.known
    # What is dropped for its class must not make others look like copies: each is its own group
    alone = len(known) + np.arange(len(known))
    lost = leaks(learnt.codes, all_.parts, np.where(known, all_.groups, alone))
    kept = np.flatnonzero(known & ~lost.any)
    own = {code: bool((all_.parts[kept] == code).any()) for code in (VALID, TEST)}
    target.check(where, learnt, kept, all_.parts[kept], all_.groups[kept], lost)
    pairs = near.near(all_.pixels, kept, all_.thumbnails)
    pairs = pairs[all_.groups[kept[pairs[:, 0]]] != all_.groups[kept[pairs[:, 1]]]]
    families = None if all_.families is None else all_.families[kept]
    bound = pairs if families is None else np.concatenate([pairs, near.chained(families)])
    together = near.joined(all_.groups[kept], bound)
    sides = _sides(target.strata(labels[kept]), all_.parts[kept], together, own, share, valid, seed)
    twins = near.twins(all_, kept[pairs], sides[pairs])
    _check_sides(where, sides, own, share, learnt.grouped)
    parts = {}
    for code, name in SIDES.items():
        parts[code] = _part(all_, labels, kept[sides == code], cache, name)
    problems = (
        *remarks.unreadable(where, all_),
        *all_.problems,
        *remarks.sizes(where, all_),
        *remarks.leaked(where, all_, lost),
        *near.told(where, twins, bool(learnt.classes)),
        *(() if families is None else remarks.grouped(where, families, sides, learnt)),
        *target.problems(where, all_, learnt, parts, kept[sides == TRAIN], bool(share)),
    )
    dropped = len(all_.labels) - len(kept)
    return Images(
        source=where,
        classes=learnt.classes,
        numbers=learnt.numbers,
        train=parts[TRAIN],
        valid=parts[VALID],
        test=Sealed(parts[TEST]) if share else None,
        problems=problems,
        base_shape=all_.pixels.shape[1:],
        facts={**remarks.facts(all_, own, dropped), "near_duplicates": len(pairs)},
        near=tuple(pair.kept() for pair in twins[:MOST_SHOWN]),
    )


def _fraction(name: str, value: Any) -> float:
    if isinstance(value, (int, float)) and 0 < value < 1:
        return float(value)
    expected = "a number between 0 and 1" + ", or none" * (name == "--test")
    raise UnusableInput(name, f"{value!r} is not a share", expected)


def _without_test(found: sources.Found) -> sources.Found:
    items = tuple(item for item in found.items if item.part != "test")
    blocks = tuple(block for block in found.blocks if block.part != "test")
    left = len(found.items) - len(items)
    left += sum(len(block.labels) for block in found.blocks if block.part == "test")
    problems = found.problems
    if left:
        what = f"the source's own test part ({counted(left, 'image')}) was set aside unread:"
        what += " nothing was to be sealed"
        problems = (*problems, Problem(found.name, what, severity="note", count=left))
    return replace(found, items=items, blocks=blocks, problems=problems)


def _read_as(
    images: Images, all_: Stack, told: str, roles: Mapping[Any, str], seen: Seen | None
) -> str:
    """How the source was read, and what it became.

    'train 800 (Training/), test 200 (Testing/), 10 classes; split into train 640, valid 160,
    sealed test 200'.
    """
    split = {
        "train": len(images.train),
        "valid": len(images.valid),
        "test": images.test.size if images.test else 0,
    }
    there = {name: int((all_.parts == code).sum()) for code, name in SIDES.items()}
    named = [
        f"{name} {n}" + (f" ({roles[name]}/)" if name in roles else "")
        for name, n in there.items()
        if n
    ]
    found = named if len(named) > 1 or roles else [f"{len(all_.labels)} images"]
    became = ", ".join(
        f"{'sealed ' * (name == 'test')}{name} {n}" for name, n in split.items() if n
    )
    whole = f"{seen}: " if seen else ""
    return f"{whole}{', '.join([*found, told])}; split into {became}"


def _sides(
    strata: Ints,
    parts: Ints,
    groups: Ints,
    own: Mapping[int, bool],
    share: float,
    valid: float,
    seed: int,
) -> Ints:
    """TRAIN, VALID or TEST for each image: the source's own parts, else drawn ones.

    What is drawn is whole groups, each as of the one of its strata that the fewest groups have.
    """
    sides = parts.copy()
    _, which = np.unique(groups, return_inverse=True)
    # One row of each stratum in each group
    rows = np.unique(which * (int(strata.max(initial=0)) + 1) + strata, return_index=True)[1]
    rare = np.bincount(strata[rows])[strata[rows]]
    rows = rows[np.lexsort((rows, rare, which[rows]))]
    strata = strata[rows[np.unique(which[rows], return_index=True)[1]]][which]
    if share and not own[TEST]:
        rows = np.flatnonzero(sides == TRAIN)
        keep = 1 if own[VALID] else 2  # one group for train, one for valid
        sides[rows[draw(strata[rows], groups[rows], share, keep, (seed, TEST))]] = TEST
    if not own[VALID]:
        rows = np.flatnonzero(sides == TRAIN)
        # Drawing rounds each class by up to 1/2
        most = max(0, MOST_VALID - len(np.unique(strata)) / 2) / len(rows)
        sides[rows[draw(strata[rows], groups[rows], min(valid, most), 1, (seed, VALID))]] = VALID
    return sides


def _check_sides(
    where: str, sides: Ints, own: Mapping[int, bool], share: float, grouped: str
) -> None:
    """Refuse a split that leaves nothing to choose by, or nothing to seal.

    grouped: what groups are called, if there are any.
    """
    wanted = (VALID, TEST) if share else (VALID,)
    if empty := [SIDES[code] for code in wanted if not (sides == code).any()]:
        drawn = [SIDES[code] for code in wanted if not own[code]]
        share_out = ", one for ".join(["one for train", *drawn])
        what = f"groups ({grouped})" if grouped else "different images"
        expected = f"at least {len(drawn) + 1} {what} in each class to split: {share_out}"
        fix = "add images" + (", or seal no test part (--test none)" if "test" in drawn else "")
        few = f"too few {'groups' if grouped else 'images'}: none is left for {' and '.join(empty)}"
        raise UnusableInput(where, few, expected, fix)


def _part(all_: Stack, labels: NDArray[Any], rows: Ints, cache: Path | None, name: str) -> Part:
    def fill(out: Pixels) -> None:
        for chunk in stack.chunks(len(rows)):
            out[chunk] = all_.pixels[rows[chunk]]
            at_rest(out)

    pixels = stack.filled(
        (len(rows), *all_.pixels.shape[1:]), fill, cache and cache / f"{name}.npy"
    )
    names, origins = (
        tuple(each[row] for row in rows) if each else () for each in (all_.names, all_.origins)
    )
    return Part(pixels, labels[rows], names, origins)
