"""Classes from the names of files, or by a pattern of them or of whole paths; parts too, where the
names say them.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from convwise.core.problems import Problem, UnusableInput
from convwise.images.sources.found import BY_WAY, PartName, Reading, counted, label_of, shown, some
from convwise.images.sources.given_parts import parts_in_names
from convwise.images.sources.layout import Arranged, Place, class_before_number, role
from convwise.images.sources.tree import Listing, nothing

MOST = 10_000  # names that patterns are tried on
PATTERN = (
    "'name:*_{class}' or 'name:{class}-#': {class} is the class, # a number, * anything; leave out"
    " the suffix. For the whole path: 'name:*/{class}/**', where ** is anything below"
)


def by_name(where: str, listing: Listing, pattern: str, reading: Reading) -> Arranged:
    """Part and class of every picture whose name tells them; UnusableInput where that is fewer than
    two classes.
    """
    wanted, whole = _compiled(pattern) if pattern else None, "/" in pattern
    stems = {
        path: str(path.with_name(path.stem)) if whole else path.stem for path in listing.pictures
    }
    labels = {path: label for path, stem in stems.items() if (label := _class_in(stem, wanted))}
    if not labels:
        what = (
            f"none of the {len(listing.pictures)} file names give a label"
            if stems
            else nothing(listing)
        )
        raise UnusableInput(
            where, what, "names such as cat.12.jpg or dog_003.png", _pattern_for(stems)
        )
    texts = {path: path.stem for path in labels} if pattern else labels
    both = parts_in_names(texts, labels if pattern else None, reading.target == "number")
    if any(part_of(path) not in (None, part) for path, (part, _) in both.items()):
        both = {}
    places = [Place(path, part, label_of(label)) for path, (part, label) in both.items()]
    places = places or [
        Place(path, part_of(path), label_of(label)) for path, label in labels.items()
    ]
    counts = Counter(place.label for place in places)
    first = places[0]
    if len(counts) == 1:
        what = (
            f"the names of the files give only one label, {first.label!r} (such as"
            f" {shown(first.path.name)})"
        )
        raise UnusableInput(where, what, "at least two", _pattern_for(stems))
    if 2 * sum(count == 1 for count in counts.values()) > len(counts) and reading.target == "label":
        what = (
            f"{counted(len(places), 'file name')} tell {len(counts)} classes, such as"
            f" {some(sorted(counts), 3)}"
        )
        raise UnusableInput(where, what, "several images of each class", _pattern_for(stems))
    told = ", ".join(f"{label} ({count})" for label, count in counts.most_common(5))
    more = f" and {len(counts) - 5} more" if len(counts) > 5 else ""
    of = f" of {first.part}" if both else ""
    name = shown(str(first.path) if whole else first.path.name)
    those = "labels and parts" if both else "labels"
    what = f"{those} from the names of the files, such as {first.label}{of} from {name}: {told}"
    nameless = [path for path in stems if path not in labels]
    problems = [Problem(where, what + more, severity="note"), *_nameless(where, nameless)]
    return Arranged(places, problems, roles=roles_of(places))


def roles_of(places: Sequence[Place]) -> dict[PartName, str]:
    """The folder of each part, where it is folders that say the parts."""
    roles = {
        place.part: name
        for place in places
        if place.part
        for name in place.path.parts[:-1]
        if role(name) == place.part
    }
    return dict(sorted(roles.items()))


def _pattern_for(stems: Mapping[PurePosixPath, str]) -> str:
    """A pattern that gives each of the files a class, with several of each, as it is typed; else
    what a pattern is.

    Of several patterns that with the fewest classes, and the shortest names. Of many files some are
    looked at.
    """
    names = [PurePosixPath(stem).name for stem in [*stems.values()][:: len(stems) // MOST + 1]]
    forms = (
        "#{0}{class}",
        "#{0}{class}{0}*",
        "{class}{0}#{0}*",
        "{class}{0}*",
        "*{0}{class}{0}#",
        "*{0}{class}",
    )
    found = []
    for pattern in (form.replace("{0}", separator) for form in forms for separator in "_- ."):
        compiled = _compiled(pattern)
        classes = {_class_in(name, compiled) or "" for name in names}
        if "" not in classes and 2 <= len(classes) <= len(names) / 2:
            found.append((len(classes), len("".join(classes)), pattern, sorted(classes)))
    if not found:
        return f"give a pattern: {PATTERN}"
    _, _, pattern, taken = min(found)
    return (
        f"give a pattern, such as {BY_WAY} {shlex.quote(f'name:{pattern}')}, which takes"
        f" {some(taken, 3)}"
    )


def _nameless(where: str, paths: Sequence[PurePosixPath]) -> Iterator[Problem]:
    if paths:
        names = ", ".join(shown(str(path)) for path in paths[:5]) + (
            ", ..." if len(paths) > 5 else ""
        )
        what = f"left out, because the name gives no label: {counted(len(paths), 'image')}, {names}"
        yield Problem(where, what, severity="warning", count=len(paths))


def _compiled(pattern: str) -> re.Pattern[str]:
    if pattern.count("{class}") != 1:
        what = f"the pattern {pattern!r} must contain {{class}} exactly once"
        raise UnusableInput(BY_WAY, what, PATTERN)
    pieces = {"**": ".*", "*": "[^/]*", "#": r"\d+", "{class}": "(?P<label>[^/]+?)"}
    parts = re.split(r"(\*\*|\*|#|\{class\})", pattern)
    return re.compile("".join(pieces.get(part, re.escape(part)) for part in parts))


def _class_in(stem: str, pattern: re.Pattern[str] | None) -> str | None:
    """The class in a file's name: what stands before its number, or where the pattern says."""
    if pattern:
        match = pattern.fullmatch(stem)
        return match["label"] if match else None
    return class_before_number(stem)


def part_of(path: PurePosixPath) -> PartName | None:
    """The part that a folder of the path says."""
    return next((part for name in path.parts[:-1] if (part := role(name))), None)
