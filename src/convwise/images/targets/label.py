"""A class for each image: which there are, which of them can be learnt, and how even they are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core.goal import UNEVEN
from convwise.core.problems import Problem, UnusableInput
from convwise.images import giveaways, stack
from convwise.images.parts import Part
from convwise.images.sources.found import Found, Reading, counted, some
from convwise.images.splits import TEST, TRAIN, VALID, Leaks
from convwise.images.stack import Stack
from convwise.images.targets.learnt import SIDES, Learnt

FEW = 10  # a class with fewer train images is called small
# More classes than so many that are all numbers, fractions among them, are no classes
MANY_NUMBERS = 20
Labels = NDArray[np.int64]


def check_found(found: Found, reading: Reading) -> None:
    """Refuse numbers that are no classes, a class without any file, and a single class, before
    anything is decoded.
    """
    _refuse_several(found)
    if any(block.labels.dtype.kind == "f" for block in found.blocks):
        raise _no_classes(found.name, "labels that are fractions or infinite")
    names = {item.label for item in found.items if item.part in ("train", None)}
    for block in found.blocks:
        names |= set(np.unique(block.labels).tolist()) if block.part in ("train", None) else set()
    _check_empty(found, names, reading)
    if len(names) == 1:
        raise _too_few(found.name, tuple(names))
    if (
        len(names) > MANY_NUMBERS
        and all(map(is_number, names))
        and not all(float(name).is_integer() for name in names)
    ):
        raise _no_classes(
            found.name, f"{len(names)} different numbers, such as {some(sorted(names), 3)}"
        )


def is_number(name: str) -> bool:
    """Whether a class is called by a number."""
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", name, re.IGNORECASE) is not None


def _refuse_several(found: Found) -> None:
    for block in found.blocks:
        if block.labels.ndim != 1:
            what = f"labels of shape {block.labels.shape}, not one class per image"
            fix = "--task regress, if several numbers are to be learnt from each image"
            raise UnusableInput(
                found.name, what, "labels (n,), (n, 1) or one-hot (n, classes)", fix
            )


def _no_classes(where: str, what: str) -> UnusableInput:
    fix = "--task regress, where the numbers themselves are to be predicted"
    return UnusableInput(where, what, "class numbers or names", fix)


def check_decoded(found: Found, all_: Stack, reading: Reading) -> list[Problem]:
    """Refuse classes of which no image can be read; or say that they are left out."""
    learnt = set(np.unique(all_.labels[all_.parts == TRAIN]).tolist())
    return _check_empty(found, learnt, reading, all_.unreadable)


def _check_empty(
    found: Found, names: set[str], reading: Reading, unreadable: Mapping[str, str] | None = None
) -> list[Problem]:
    """Refuse classes of the source that are not among `names`, those with an image; or say that
    they are left out.
    """
    lost = [
        item for item in found.items if item.part in ("train", None) and item.label not in names
    ]
    reasons = unreadable or {}
    counts, why = (
        Counter(item.label for item in lost),
        {item.label: reasons.get(item.name, "") for item in lost},
    )
    broken = {
        name: f"none of {counted(n, 'file')} can be read: {why[name]}" for name, n in counts.items()
    }
    empty = {label: why for label, why in {**found.empty, **broken}.items() if label not in names}
    if not empty:
        return []
    shown = some([f"{label} ({why})" for label, why in empty.items()])
    if not reading.skip_empty_classes:
        fix = (
            "add images, remove folders that are not classes, or leave these classes out with"
            " --skip-empty-classes"
        )
        what = f"{_classes(len(empty))} without an image: {shown}"
        raise UnusableInput(found.name, what, "images of each class", fix)
    what = f"skipped {_classes(len(empty))} without an image: {shown}"
    return [Problem(found.name, what, "images of each class", severity="warning", count=len(empty))]


def learnt(all_: Stack, found: Found) -> Learnt:
    """The classes of the train part, and the code of each image: -1 where train lacks its class."""
    classes = tuple(sorted(np.unique(all_.labels[all_.parts == TRAIN]).tolist(), key=_order))
    codes = _codes(all_.labels, classes)
    return Learnt(codes, codes, codes >= 0, classes, (), found.grouped)


def strata(labels: NDArray[Any]) -> Labels:
    """What each image is alike to when shares are drawn: its class. labels: text, or codes."""
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _order(name: str) -> tuple[int, float, str]:
    """Numbers by value, before words."""
    number = re.fullmatch(r"-?\d+(\.\d+)?", name)
    return (0, float(name), name) if number else (1, 0.0, name)


def _codes(names: NDArray[np.str_], classes: Sequence[str]) -> Labels:
    """The index of each name in classes, or of one that is spelt alike; -1 where there is none."""
    distinct, which = np.unique(names, return_inverse=True)
    index = {name: code for code, name in enumerate(classes)}
    alike = _spelt_alike(distinct.tolist(), classes)
    return np.array([index.get(alike.get(name, name), -1) for name in distinct.tolist()], np.int64)[
        which
    ]


def _spelt_alike(names: Iterable[str], classes: Sequence[str]) -> dict[str, str]:
    """Names that are no class -> the only class that differs by capitals, spaces and the like: cat
    and Cat.
    """
    groups, known = _by_spelling(classes), set(classes)
    found = {name: groups.get(_spelling(name), []) for name in names if name not in known}
    return {name: those[0] for name, those in found.items() if len(those) == 1}


def _by_spelling(names: Iterable[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_spelling(name), []).append(name)
    return groups


def _spelling(name: str) -> str:
    spaced = re.sub(r"[\s_-]+", " ", name.strip())
    return spaced if len(name) == 1 else spaced.casefold()  # A and a are letters of their own


def check(
    where: str, found: Learnt, kept: Labels, parts: Labels, groups: Labels, lost: Leaks
) -> None:
    """Refuse what cannot be learnt: fewer than two classes, a class with one picture or without a
    train image.
    """
    classes, labels = found.classes, found.codes[kept]
    if len(classes) < 2:
        raise _too_few(where, classes)
    distinct = np.unique(np.stack([labels, groups]), axis=1)[0]
    pictures = np.bincount(distinct, minlength=len(classes))
    train = np.bincount(labels[parts == TRAIN], minlength=len(classes))
    single = [name for name, count in zip(classes, pictures, strict=True) if count < 2]
    empty = [name for name, count in zip(classes, train, strict=True) if count < 1]
    if not single and not empty:
        return
    after = (
        f" (after {counted(int(lost.any.sum()), 'duplicate')} were dropped)"
        if lost.any.any()
        else ""
    )
    lacks = f"fewer than two different images in class {some(single)}" if single else ""
    what = lacks or f"no train image of {some(empty)}"
    expected, fix = "at least two in each class, one in train", "add images or remove the class"
    if all(map(is_number, classes)):
        fix += "; or --task regress, where the numbers themselves are to be predicted"
    raise UnusableInput(where, what + after, expected, fix)


def _too_few(where: str, classes: Sequence[str]) -> UnusableInput:
    only = f"only one class, {classes[0]!r}" if classes else "no class"
    return UnusableInput(
        where, f"holds {only}", "at least two classes", "add a folder, or labels, for each class"
    )


def problems(where: str, all_: Stack, found: Learnt, parts: Mapping[int, Part], rows: Labels,
             sealed: bool) -> Iterator[Problem]:  # fmt: skip
    """Images of classes that train lacks, what gives a class away, small classes, and parts that
    lack one.
    """
    yield from _unknown(where, all_, found.known)
    yield from _alike(where, all_, found.classes)
    yield from _given_away(where, all_, found.classes, parts[TRAIN], rows)
    yield from _balance(where, found.classes, parts, sealed)


def _unknown(where: str, all_: Stack, known: NDArray[np.bool_]) -> Iterator[Problem]:
    for code, name in ((VALID, "valid"), (TEST, "test")):
        labels = all_.labels[~known & (all_.parts == code)].tolist()
        if labels:
            what = (
                f"{counted(len(labels), 'image')} of {name} in classes without training images were"
                " dropped: "
            )
            fix = "add train images of them, or correct the names"
            yield Problem(
                where,
                what + some(sorted(set(labels))),
                "the same classes",
                fix,
                "warning",
                len(labels),
            )


def _alike(where: str, all_: Stack, classes: Sequence[str]) -> Iterator[Problem]:
    """What is said of names that only differ by capitals, spaces and the like."""
    taken = _spelt_alike(np.unique(all_.labels).tolist(), classes)
    if taken:
        shown = some([f"{name!r} for {meant!r}" for name, meant in sorted(taken.items())])
        count = int(np.isin(all_.labels, [*taken]).sum())
        what = (
            f"classes that train spells otherwise were taken for those of train: {shown},"
            f" {counted(count, 'image')}"
        )
        yield Problem(where, what, "one name for each class", severity="warning", count=count)
    twice = [
        " and ".join(map(repr, those)) for those in _by_spelling(classes).values() if len(those) > 1
    ]
    if twice:
        what, fix = (
            f"classes that are spelt nearly alike: {some(twice)}",
            "give them one name if they are one class",
        )
        yield Problem(where, what, "one name for each class", fix, "warning", len(twice))


def _given_away(
    where: str, all_: Stack, classes: Sequence[str], train: Part, rows: Labels
) -> Iterator[Problem]:
    """What brightness and size tell of the images to learn from, which are these rows."""
    bright = np.concatenate(
        [train.pixels[chunk].mean((1, 2, 3)) for chunk in stack.chunks(len(rows))]
    )
    yield from giveaways.told(where, bright, all_.shapes[rows], train.labels, classes)


def _balance(
    where: str, classes: Sequence[str], parts: Mapping[int, Part], sealed: bool
) -> Iterator[Problem]:
    counts = {
        code: np.bincount(part.labels, minlength=len(classes)) for code, part in parts.items()
    }
    train = counts[TRAIN]
    small = [f"{classes[c]} ({train[c]})" for c in np.flatnonzero(train < FEW).tolist()]
    if small:
        what = f"fewer than {FEW} train images in {some(small)}"
        yield Problem(
            where, what, "tens of images in each class", "add images", "warning", len(small)
        )
    if train.max() > UNEVEN * train.min():
        most, least = int(train.argmax()), int(train.argmin())
        what = (
            f"unbalanced: {train[most]} train images of {classes[most]}, {train[least]} of"
            f" {classes[least]}"
        )
        fix = "--goal balanced_accuracy counts every class equally"
        yield Problem(where, what, fix=fix, severity="note")
    for code in (VALID, TEST) if sealed else (VALID,):
        lacking = [classes[c] for c in np.flatnonzero(counts[code] == 0).tolist()]
        if lacking:
            what = f"{SIDES[code]} has no image of {some(lacking)}"
            yield Problem(
                where, what, "every class in every part", "add images", "warning", len(lacking)
            )


def said(found: Learnt, labels: Labels) -> str:
    """What the images tell, in words: '10 classes'."""
    return _classes(len(found.classes))


def _classes(count: int) -> str:
    return f"{count} class" + "es" * (count != 1)
