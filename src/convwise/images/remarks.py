"""What is said of a set of images that was read: in numbers, in words, and as problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core.problems import Problem, Severity
from convwise.images import decode, value_range
from convwise.images.shelves import File
from convwise.images.sources.found import counted, some
from convwise.images.splits import TEST, VALID, Leaks
from convwise.images.stack import Stack
from convwise.images.targets import SIDES, Learnt
from convwise.images.value_range import Values

DARK = 16  # 8 bits of pictures of 16 that use 12 of them or fewer
Ints = NDArray[np.int64]


def facts(all_: Stack, own: Mapping[int, bool], dropped: int) -> dict[str, Any]:
    """The facts of Images. own: whether the source has a part of its own; dropped: images."""
    sizes = {f"{width}x{height}": count for (height, width), count in all_.sizes.most_common(10)}
    return {
        "sizes": sizes,
        "modes": dict(all_.modes.most_common()),
        "own_test": own[TEST],
        "own_valid": own[VALID],
        "duplicates": len(all_.groups) - len(np.unique(all_.groups)),
        "dropped": dropped,
        "unreadable": len(all_.unreadable),
        "unreadable_files": dict(all_.unreadable),
        "read": len(all_.labels),
        "read_shape": list(all_.pixels.shape[1:]),
        "scale": [all_.value_range.offset, all_.value_range.factor],
    }


def unreadable(where: str, all_: Stack) -> Iterator[Problem]:
    """What is said of files that could not be read."""
    if count := len(all_.unreadable):
        shown = some([f"{name} ({reason})" for name, reason in all_.unreadable.items()], 10)
        what = f"{counted(count, 'file')} could not be read and were skipped: {shown}"
        yield Problem(where, what, "readable images", "repair or remove them", "warning", count)


def sizes(where: str, all_: Stack) -> Iterator[Problem]:
    """What is said of images that are resized to one shape."""
    height, width = all_.pixels.shape[1:3]
    if set(all_.sizes) == {(height, width)}:
        return
    heights, widths = zip(*all_.sizes, strict=True)
    shapes = [w / h for h, w in all_.sizes]
    span = f"{min(widths)}..{max(widths)} px wide, {min(heights)}..{max(heights)} px high"
    what = f"{counted(len(all_.sizes), 'size')}, {span};"
    what += " each image is resized as a whole to one shape"
    what += ", without keeping its proportions" if len(set(shapes)) > 1 else ""
    count = sum(all_.sizes.values())
    if max(shapes) / min(shapes) > 1.5:
        fix = "crop the images to one shape if their proportions matter"
        yield Problem(where, what, severity="warning", fix=fix, count=count)
    else:
        yield Problem(where, what, severity="note", count=count)


def leaked(where: str, all_: Stack, lost: Leaks) -> Iterator[Problem]:
    """What is said of images with exactly the pixels of another one; which are dropped."""
    disagree = "with the same pixels as an image of another class,"
    reasons = (
        (lost.in_test, "also in test, so dropped from train and valid"),
        (lost.in_valid, "of train also in valid, so dropped from train"),
        (lost.conflict, f"{disagree} dropped from train and valid with all copies"),
    )
    for mask, reason in reasons:
        if count := int(mask.sum()):
            rows = np.flatnonzero(mask)
            names = some([f"{all_.names[row]} ({all_.labels[row]})" for row in rows])
            what = f"{counted(count, 'image')} {reason}: {names}"
            yield Problem(where, what, "each picture once", "", "warning", count)
    if copies := len(all_.groups) - len(np.unique(all_.groups)):
        what = f"{counted(copies, 'image')} with exactly the pixels of an earlier one"
        fix = "copies always stay on one side of the split"
        yield Problem(where, what, fix=fix, severity="note", count=copies)


def grouped(where: str, families: Ints, sides: Ints, learnt: Learnt) -> Iterator[Problem]:
    """What is said of groups: how many there are, and how many are in two parts of the source."""
    count, name = int(families.max(initial=-1)) + 1, learnt.grouped
    of = [np.unique(families[sides == side]) for side in SIDES]
    groups = counted(len(np.unique(families)), "group")
    what = f"images of one {name} are kept in one part: {groups}"
    yield Problem(where, what, severity="note", count=count)
    across = np.flatnonzero(np.bincount(np.concatenate(of), minlength=count) > 1)
    if len(across):
        what = f"{counted(len(across), 'group')} in the column {name}"
        what += " have images in two parts of the source"
        told = "accuracy reported is too high" if learnt.classes else "error reported is too low"
        fix = f"move each into one part; otherwise the {told}"
        yield Problem(where, what, "each group in one part", fix, "warning", len(across))


def of_value_range(where: str, wide: Sequence[File], count: int, values: Values) -> list[Problem]:
    """What is said of the `wide` files, those of more than 8 bits, with these values.

    count: of all files that can be read.
    """
    (low, high), names, cut = values.range, _first(wide), ""
    if values.count_outside:
        cut = f"; {counted(values.count_outside, 'value')} outside that range clipped"
    problems = []
    if len(wide) < count:
        what = f"{len(wide)} images of more than 8 bits among {count} ({names})"
        fix = "save all in the same way"
        problems.append(Problem(where, what, "all of one kind", fix, "warning", len(wide)))
    kind = "with float values"
    if values.whole:
        bits = sorted({"32" if file.header.mode == "I" else "16" for file in wide})
        kind = f"of {' or '.join(bits)} bits"
    severity: Severity = "warning"
    how = f"{low:g}..{high:g} was scaled to 0..255 in all images alike{cut}"
    if (low, high) == (0, 2**16 - 1):
        how, severity = f"reduced to 8{cut}", "note"
        if (most := values.crowded) is not None:
            how = f"{how}, and become very dark: 99 % of their values are at most {most:g}"
            severity = "warning"
    elif values.whole and low == 0 and values.range in value_range.WHOLE:
        how = f"only {int(high).bit_length()} bits are used, which would be very dark, so {how}"
    what = f"{counted(len(wide), 'image')} {kind}: {how} ({names})"
    return [*problems, Problem(where, what, severity=severity, count=len(wide))]


def _first(files: Sequence[File]) -> str:
    """The names of the first three, and '...' where there are more."""
    return ", ".join(file.item.name for file in files[:3]) + ", ..." * (len(files) > 3)


def of_files(where: str, files: Sequence[File], channels: int) -> Iterator[Problem]:
    """What is said of files of the less usual kinds. channels: those that the set has."""

    def note(
        those: Sequence[File], what: str, fix: str = "", severity: Severity = "note"
    ) -> Iterator[Problem]:
        if those:
            text = f"{counted(len(those), 'image')} {what} ({_first(those)})"
            yield Problem(where, text, fix=fix, severity=severity, count=len(those))

    clear = [file for file in files if file.header.alpha]
    yield from note(clear, "with transparency: laid over white")
    moving = [file for file in files if file.header.several_frames]
    yield from note(moving, "with several frames: the first was used")
    printed = [file for file in files if file.header.mode == "CMYK"]
    yield from note(printed, "in CMYK: converted to RGB without a colour profile")
    deep = [file for file in files if file.header.deep]
    if deep and max(file.peak for file in deep) < DARK:
        what = "with 16 bits per channel, of which at most 12 are used: the result is very dark"
        fix = "scale the values to 0..65535, or save as 8 bits"
        yield from note(deep, what, fix, "warning")
    else:
        yield from note(deep, "with 16 bits per channel: reduced to 8")
    if channels == 1:
        colour = [file for file in files if file.header.mode not in decode.GRAY_MODES]
        what = "stored in colour but only grey, like all the others: one channel is used"
        yield from note(colour, what)
    gray = sum(file.gray for file in files)
    if channels == 3 and gray:
        what = f"{counted(gray, 'grey image')} among {len(files)}"
        fix = "grey was repeated in three channels; check that colour does not give the answer away"
        yield Problem(where, what, "all grey or all colour", fix, severity="warning", count=gray)
