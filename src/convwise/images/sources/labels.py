"""Where classes come from, if not from folders: the names of the files, or a table beside them."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import PurePosixPath

from convwise.core.problems import Problem, UnusableInput
from convwise.images import limits
from convwise.images.sources.file_names import by_name, part_of, roles_of
from convwise.images.sources.found import (
    BY_WAY,
    PartName,
    Reading,
    counted,
    label_of,
    shown,
    some,
)
from convwise.images.sources.given_parts import parts_of_folders
from convwise.images.sources.label_columns import COLUMNS, MISSING, Columns, Index, Row, rows_of
from convwise.images.sources.layout import Arranged, Place, arrange, is_spare, role
from convwise.images.sources.tree import Listing

ReadTable = Callable[[PurePosixPath], bytes]
WAYS = (
    "folder, name, name:PATTERN, csv, csv:FILE, csv:FILE:COLUMN or, of numbers,"
    " csv:FILE:COLUMN,COLUMN"
)
TABLES = (".csv", ".tsv", ".parquet")
MOST_TABLES = 10  # of several, so many at most are opened to see which tells labels


def arranged_by(reading: Reading, where: str, listing: Listing, table: ReadTable) -> Arranged:
    """Part and class of every picture, as `reading` wants.

    table: gives the bytes of a file of the listing.
    """
    way, _, how = reading.classes_from.partition(":")
    if way == "folder" and not how:
        return arrange(where, listing)
    if way == "name":
        return by_name(where, listing, how, reading)
    if way == "csv":
        return _by_table(where, listing, how, table, reading)
    raise UnusableInput(BY_WAY, f"is {reading.classes_from!r}", WAYS)


# --- a table -------------------------------------------------------------------------------------


def column_in(way: str) -> str:
    """'angle' of 'csv:labels.csv:angle', 'x,y' of 'csv:labels.csv:x,y'; '' of 'csv:labels.csv'."""
    _, _, how = way.partition(":")
    return how.rpartition(":")[2] if ":" in how else ""


def _by_table(
    where: str, listing: Listing, how: str, table: ReadTable, reading: Reading
) -> Arranged:
    column = column_in(reading.classes_from)
    name = how.removesuffix(f":{column}") if column else how
    index, found = Index(where, listing.pictures), _Rows()
    tables = _tables_in(index, listing, name, table, reading)
    about = f"{where}, {some([shown(str(file)) for file, _ in tables])}"
    for file, part in tables:
        at = index.beside(file, part or role(file.stem))
        try:
            columns, rows = rows_of(at, _data(at.where, file, table), reading, column)
        except UnusableInput as error:
            if part in (None, "train"):
                raise
            what = f"left out, since it {error.problem.what}"
            found.problems.append(replace(error.problem, what=what, fix="", severity="warning"))
            continue
        found.take(at, rows, part, columns)
    arranged = found.arranged(about)
    rest = index.paths - found.labels.keys() - found.named
    arranged.problems += _told(about, arranged, found.unlabelled, found.gone, len(rest))
    if not arranged.places:
        what = "names no image"
        if gone := found.gone:
            what = f"names {len(gone)} images, such as {gone[0].path}, but none of them exists"
        raise UnusableInput(about, what, "paths of images below the folder", "correct the paths")
    return arranged


def _data(about: str, file: PurePosixPath, table: ReadTable) -> bytes:
    try:
        data = table(file)
    except Exception as error:  # what an archive or a file system raises has no common base
        what = f"cannot be read ({shown(str(error))})"
        raise UnusableInput(about, what, "a table", "save it again") from None
    if len(data) > limits.MANIFEST:
        most = f"at most {limits.size(limits.MANIFEST)}"
        raise UnusableInput(about, "is too large", most, "split it")
    return data


@dataclass
class _Rows:
    """What the rows of all tables say. named: pictures without a label."""

    labels: dict[PurePosixPath, Row] = field(default_factory=dict)
    parts: dict[PurePosixPath, PartName | None] = field(default_factory=dict)
    unlabelled: list[Row] = field(default_factory=list)
    gone: list[Row] = field(default_factory=list)
    named: set[PurePosixPath | None] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    columns: Columns | None = None

    def take(
        self, index: Index, rows: Iterator[Row], part: PartName | None, columns: Columns
    ) -> None:
        """The rows of one table, of this part where it is not None."""
        self.columns = self.columns or columns
        for row in rows:
            path = index.find(row)
            if row.label in MISSING:
                self.unlabelled.append(row)
                self.named.add(path)
            elif path is None:
                self.gone.append(row)
            elif (known := self.labels.setdefault(path, row)).label != row.label:
                what = f"{row.path} has two labels, {known.label} (line {known.line})"
                what += f" and {row.label} (line {row.line})"
                expected, fix = "one label for each image", "keep one of the lines"
                raise UnusableInput(index.where, what, expected, fix)
            else:
                self.parts[path] = part or _part(index.where, row)

    def arranged(self, where: str) -> Arranged:
        """Every labelled picture in its place; where no column tells parts, their folders do."""
        folders = parts_of_folders(self.labels) if not any(self.parts.values()) else {}
        found = Arranged(problems=[*self.problems])
        for path, row in self.labels.items():
            part = role(folders[path]) if folders else self.parts[path]
            found.places.append(Place(path, part, label_of(row.label), row.group))
        found.places.sort(key=lambda place: place.path.parts)
        known = {place.label for place in found.places}
        for name, count in Counter(label_of(row.label) for row in self.gone).items():
            if name not in known:
                found.empty[name] = f"none of {counted(count, 'file')} exists"
        if folders:
            found.roles = roles_of(found.places)
        if self.columns:
            found.numbers, found.grouped = self.columns.numbers, self.columns.grouped
        return found


def _tables_in(index: Index, listing: Listing, name: str, table: ReadTable,
               reading: Reading) -> list[tuple[PurePosixPath, PartName | None]]:  # fmt: skip
    """The table; or those of the parts, as train/metadata.csv and test/metadata.csv."""
    where, there = index.where, [path for path in listing.others if path.suffix.lower() in TABLES]
    if name:
        if asked := [path for path in listing.others if str(path) == name]:
            return [(asked[0], None)]
        expected, fix = f"a table with {COLUMNS}", "add one"
        if there:
            names = [shown(str(path)) for path in there]
            near = (get_close_matches(name, names, 1) or names)[0]
            expected, fix = some(names), f"{BY_WAY} {shlex.quote(f'csv:{near}')}"
        raise UnusableInput(where, f"holds no {name}", expected, fix)
    top = [path for path in there if len(path.parts) == min(len(path.parts) for path in there)]
    if len(top) == 1:
        return [(top[0], None)]
    if not top:
        raise UnusableInput(where, "holds no .csv file", f"a table with {COLUMNS}", "add one")
    by_part: dict[PartName | None, list[PurePosixPath]] = {}
    for path in top:
        by_part.setdefault(role(path.stem) or part_of(path), []).append(path)
    plain = {
        part: [path for path in paths if not is_spare(path.stem)] or paths
        for part, paths in by_part.items()
    }
    if "train" in plain and None not in plain and all(len(one) == 1 for one in plain.values()):
        order = sorted(plain, key=lambda part: (part != "train", str(part)))
        return [(plain[part][0], part) for part in order]
    tried = [*by_part.get("train", []), *top][:MOST_TABLES]
    labelled = [path for path in tried if _tells(index, path, table, reading)]
    what = f"holds {len(top)} tables: {some([shown(str(path)) for path in top])}"
    best = shown(str((labelled or top)[0]))
    fix = f"name it: {BY_WAY} {shlex.quote(f'csv:{best}')}"
    raise UnusableInput(where, what, "one, or one for each part", fix)


def _tells(index: Index, file: PurePosixPath, table: ReadTable, reading: Reading) -> bool:
    """Whether a table tells labels."""
    with suppress(UnusableInput):
        at = index.beside(file, role(file.stem))
        return bool(rows_of(at, _data(at.where, file, table), reading, ""))
    return False


def _told(
    where: str, found: Arranged, unlabelled: list[Row], gone: list[Row], rest: int
) -> Iterator[Problem]:
    def shown_of(rows: list[Row]) -> str:
        first = ", ".join(f"{shown(row.path)} (line {row.line})" for row in rows[:5])
        return first + ", ..." * (len(rows) > 5)

    yield Problem(where, f"labels from this table: {len(found.places):,} images", severity="note")
    if unlabelled:
        count = counted(len(unlabelled), "image")
        what = f"left out, because they have no label: {count}, {shown_of(unlabelled)}"
        yield Problem(where, what, "a label for each image", "", "warning", len(unlabelled))
    if gone:
        what = f"it names {counted(len(gone), 'image')} that could not be found: {shown_of(gone)}"
        expected, fix = "paths of images below the folder", "correct the paths"
        yield Problem(where, what, expected, fix, "warning", len(gone))
    if rest:
        what = "left out, because the table does not name them:"
        what += f" {counted(rest, 'image')} in the folder"
        yield Problem(where, what, "a line for each image", "", "warning", rest)


def _part(where: str, row: Row) -> PartName | None:
    part = role(row.part)
    if row.part and part is None:
        what = f"line {row.line}: {row.part!r} is not the name of a part"
        fix = "use one of these words, or rename the column"
        raise UnusableInput(where, what, "train, valid or test", fix)
    return part
