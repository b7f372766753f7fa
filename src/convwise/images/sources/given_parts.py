"""The parts that a source gives beside its folders: in a column of a table, in the names of files,
in the paths.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from convwise.images.sources.found import PartName
from convwise.images.sources.layout import role

PART_COLUMNS = ("split", "part", "subset", "set", "partition")
YES, NO = (
    frozenset({"1", "1.0", "true", "yes", "t", "y"}),
    frozenset({"0", "0.0", "false", "no", "f", "n"}),
)
FEW = 20  # different words at most in a column that tells parts
# As CelebA's list_eval_partition has them (Liu et al., ICCV 2015)
NUMBERED: Mapping[str, PartName] = {"0": "train", "1": "valid", "2": "test"}


@dataclass(frozen=True)
class PartColumns:
    """The columns of a table that tell the part of a row, by their places.

    word: the one with its name; numbered: it says 0, 1 and 2 for them; flags: those that say yes or
    no, as is_train does, each with the part that yes means.
    """

    word: int | None = None
    numbered: bool = False
    flags: Mapping[int, PartName] = field(default_factory=dict)

    @property
    def places(self) -> set[int]:
        return {*self.flags, *(() if self.word is None else (self.word,))}

    def of(self, cells: Sequence[str]) -> str:
        """What a row says of its part, a name as people write it; '' where it says nothing."""
        if self.word is not None:
            cell = cells[self.word].strip()
            return NUMBERED.get(cell, cell) if self.numbered else cell
        said = {part: cells[place].strip().lower() for place, part in self.flags.items()}
        return next(
            (part for part, cell in said.items() if cell in YES),
            self._rest if any(said.values()) else "",
        )

    @property
    def _rest(self) -> PartName:
        """The part of a row of which every flag says no."""
        order: tuple[PartName, ...] = ("train", "test", "valid")
        return next((part for part in order if part not in self.flags.values()), "train")


def part_columns(
    names: Sequence[str], rows: Sequence[Sequence[str]], taken: Collection[int | None]
) -> PartColumns:
    """The columns that tell parts: by name, else by what stands in them. names: in small letters;
    taken: other columns.

    A column counts by what stands in it where that is names of parts, train among them, or yes and
    no below is_train or the like. Below such a name 0, 1 and 2 tell parts where most are 0, train.
    """
    whole = [row for row in rows if len(row) >= len(names)]
    free = [place for place in range(len(names)) if place not in taken]
    named = (names.index(name) for name in PART_COLUMNS if name in names)
    if (word := next((place for place in named if place in free), None)) is not None:
        said = Counter(row[word].strip() for row in whole)
        return PartColumns(word, said.keys() == NUMBERED.keys() and 2 * said["0"] > len(whole))
    flags: dict[int, PartName] = {}
    for place in free:
        if _few_words(whole, place, lambda cell: role(cell) is not None):
            columns = PartColumns(place)
            if any(role(columns.of(row)) == "train" for row in whole):
                return columns
        match = re.match(r"is[\W_]*([a-z]+)", names[place])
        part = role(match[1]) if match else None
        if part and _few_words(whole, place, lambda cell: cell.lower() in YES | NO):
            flags[place] = part
    columns = PartColumns(flags=flags)
    to_train = sum(columns.of(row) == "train" for row in whole)
    # is_valid can also mean that an image is sound: then it says yes of nearly all.
    return columns if "train" in flags.values() or 2 * to_train > len(whole) else PartColumns()


def _few_words(rows: Sequence[Sequence[str]], place: int, fits: Callable[[str], bool]) -> bool:
    """Whether a column has only such cells, and few different ones; some may be empty."""
    seen: set[str] = set()
    for row in rows:
        cell = row[place].strip()
        if cell and cell not in seen:
            seen.add(cell)
            if len(seen) > FEW or not fits(cell):
                return False
    return bool(seen)


def parts_of_folders(paths: Collection[PurePosixPath]) -> dict[PurePosixPath, str]:
    """The folder that names the part of each path; nothing unless all have one, some train."""
    found = {path: next((name for name in path.parts[:-1] if role(name)), "") for path in paths}
    return found if "train" in map(role, set(found.values())) and all(found.values()) else {}


def parts_in_names(
    texts: Mapping[PurePosixPath, str],
    labels: Mapping[PurePosixPath, str] | None = None,
    numbers: bool = False,
) -> dict[PurePosixPath, tuple[PartName, str]]:
    """Part and class of each file whose name says both, as train_cat and test_cat do; nothing where
    some do not.

    texts: what stands in the names; labels: the classes, where they are known; else the class is
    the rest of the text. train_station and test_tube are classes themselves: test has no class of
    train, which of numbers is no matter.
    """
    for pattern in (
        r"(?P<part>[^\W_]+?)[\s._-]+(?P<rest>.+)",
        r"(?P<rest>.+?)[\s._-]+(?P<part>[^\W_]+)",
    ):
        matches = {text: re.fullmatch(pattern, text) for text in set(texts.values())}
        parts = {
            text: (part, match["rest"])
            for text, match in matches.items()
            if match and (part := role(match["part"]))
        }
        if len(parts) < len(matches):
            continue
        if labels and not all(labels[path] in parts[text][1] for path, text in texts.items()):
            continue
        found = {
            path: (parts[text][0], labels[path] if labels else parts[text][1])
            for path, text in texts.items()
        }
        classes: dict[PartName, set[str]] = {}
        for part, label in found.values():
            classes.setdefault(part, set()).add(label)
        known = classes.get("train", set())
        if (
            len(classes) > 1
            and known
            and all(numbers or known & those for those in classes.values())
        ):
            return found
    return {}
