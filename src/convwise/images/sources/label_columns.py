"""A table of labels -> its rows: which column is the path, the label, the part or the group, and
which picture a row means.
"""

from __future__ import annotations

import copy
import csv
import io
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import Any

from convwise.core.problems import UnusableInput
from convwise.images import limits
from convwise.images.sources.columns import PARQUET, of_parquet
from convwise.images.sources.file_names import part_of
from convwise.images.sources.found import BY_WAY, JOINT, PartName, Reading, decoded, shown
from convwise.images.sources.given_parts import PartColumns, part_columns

# How columns are called, in lower case, the surest name first.
PATH_COLUMNS = (
    "path", "filepath", "file_path", "image_path", "img_path", "filename", "file_name", "file",
    "image_name", "image", "img", "image_id", "img_id", "name", "id",
)  # fmt: skip
LABEL_COLUMNS = (
    "label", "labels", "class", "class_name", "classname", "category", "target", "species", "breed",
    "diagnosis", "y",
)  # fmt: skip
GROUP_COLUMNS = ("group", "groups", "group_id", "patient", "patient_id", "subject", "subject_id")
COLUMNS = (
    "columns called 'path' and 'label', also 'split' if there are parts, and 'group' if images"
    " belong together"
)
# Cells of a table with a column for each class.
ONE, ZERO = ("1", "1.0", "True", "true", "TRUE"), ("0", "0.0", "False", "false", "FALSE")
# What pandas takes for a missing value (pandas.read_csv, na_values); 'none' in small letters can be
# a class.
MISSING = frozenset({
    "", "#N/A", "#NA", "-NaN", "-nan", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan",
    "null",
})  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What a line says of one picture, as text; '' where it says nothing. line: its number."""

    line: int
    path: str
    label: str
    part: str = ""
    group: str = ""


class Index:
    """Pictures by what a table may call them: the path, the name, or the name without its suffix.

    file: the table that names them, and part: the part that it is of, as `beside` sets them.
    """

    def __init__(self, where: str, pictures: Sequence[PurePosixPath]) -> None:
        self.where, self.file = where, PurePosixPath()
        self.part: PartName | None = None
        self.paths = set(pictures)
        self.called: dict[str, list[PurePosixPath]] = {}
        for path in pictures:
            for name in {path.name, path.stem}:
                self.called.setdefault(name, []).append(path)

    def beside(self, file: PurePosixPath, part: PartName | None) -> Index:
        """The same pictures, as this table calls them."""
        other = copy.copy(self)
        other.where, other.file, other.part = f"{self.where}, {shown(str(file))}", file, part
        return other

    def find(self, row: Row) -> PurePosixPath | None:
        """The picture that a row means; UnusableInput where it can mean several."""
        path = PurePosixPath(row.path.replace("\\", "/"))
        for whole in (self.file.parent / path, path):
            if whole in self.paths:
                return whole
        called = self.called.get(path.name, [])
        found = [each for each in called if _same_folders(each.parent, path.parent)]
        if len(found) > 1 and self.part:
            found = [each for each in found if part_of(each) == self.part] or found
        if len(found) > 1:
            either = " or ".join(shown(str(each)) for each in found[:3])
            what = f"{row.path} (line {row.line}) can be {either}"
            fix = "put the folder before the name"
            raise UnusableInput(self.where, what, "paths that tell them apart", fix)
        return found[0] if found else None


def _same_folders(one: PurePosixPath, other: PurePosixPath) -> bool:
    """Whether the longer path ends as the shorter one: where a table was written, other folders
    may have stood above.
    """
    depth = min(len(one.parts), len(other.parts))
    return depth == 0 or one.parts[-depth:] == other.parts[-depth:]


@dataclass(frozen=True)
class Columns:
    """Where the path, the label and the part stand in a line.

    labels: one column, or one of 0 and 1 for each class, or one for each number of an image.
    numbers: what the labels are called, but for classes with a column each. grouped: what the
    column of the group is called.
    """

    path: int
    labels: dict[int, str]
    parts: PartColumns = PartColumns()
    numbers: tuple[str, ...] = ()
    group: int | None = None
    grouped: str = ""

    def row(self, where: str, number: int, cells: list[str]) -> Row:
        """The row that a line says; UnusableInput where it says none."""
        if len(cells) <= max(self.path, *self.labels, *self.parts.places, self.group or 0):
            what = f"line {number} has too few cells"
            raise UnusableInput(where, what, "a cell for each column", "complete it")
        said = [cells[column].strip() for column in self.labels]
        label = "" if any(each in MISSING for each in said) else JOINT.join(said)
        if len(self.labels) > 1 and not self.numbers:
            of = [name for column, name in self.labels.items() if cells[column].strip() in ONE]
            if len(of) > 1:
                what = f"line {number} marks several classes: {', '.join(map(shown, of))}"
                raise UnusableInput(where, what, "one class for each image", "keep one of them")
            label = of[0] if of else ""
        if len(label) > limits.LABEL:
            what = f"line {number}: a label of {len(label):,} characters"
            raise UnusableInput(where, what, f"at most {limits.LABEL:,}", "give shorter labels")
        part, group = self.parts.of(cells), "" if self.group is None else cells[self.group].strip()
        part, group = ("" if said in MISSING else said for said in (part, group))
        return Row(number, cells[self.path].strip(), label, part, group)


def rows_of(
    index: Index, data: bytes, reading: Reading, column: str
) -> tuple[Columns, Iterator[Row]]:
    """The columns of a table, and its rows; UnusableInput where the columns are not clear.

    column: what the one of the labels is called, or '' where that was not said.
    """
    where = index.where
    lines = [line for line in _cells(where, data) if any(cell.strip() for cell in line[1])]
    if not lines:
        raise UnusableInput(where, "holds no line", f"a table with {COLUMNS}")
    head = lines[0][1]
    places = [place for place, cell in enumerate(head) if index.find(Row(1, cell.strip(), ""))]
    if places and (len(head) != 2 or places != [0]):
        places = [place for place in places if head[place].strip().lower() not in PATH_COLUMNS]
    if places == [0] and len(head) == 2:  # no line of names
        columns = Columns(0, {1: ""})
    elif places:
        names = [f"column {place + 1}" for place in range(len(head))]
        columns = _named(index, names, [cells for _, cells in lines], reading, column)
    else:
        lines = lines[1:]
        columns = _named(index, head, [cells for _, cells in lines], reading, column)
    return columns, (columns.row(where, number, cells) for number, cells in lines)


def _named(
    index: Index, head: list[str], rows: list[list[str]], reading: Reading, column: str
) -> Columns:
    """The columns by their names; where these tell nothing, by what stands in the first row.

    Where classes are not asked for, the path stands for the label as well.
    """
    where, names = index.where, [cell.strip().lower() for cell in head]
    cells = rows[0] if rows and len(rows[0]) == len(head) else []
    path, label, group = (
        next(map(names.index, filter(names.__contains__, some)), None)
        for some in (PATH_COLUMNS, LABEL_COLUMNS, GROUP_COLUMNS)
    )
    if path is None:
        found = (place for place, cell in enumerate(cells) if index.find(Row(2, cell.strip(), "")))
        path = next(found, None)
    asked = asked_of(where, head, column, reading) if column else []
    if group in asked:
        group = None
    parts = part_columns(names, rows, {path, group, *asked} | ({label} if not asked else set()))
    rest = [place for place in range(len(head)) if place not in (path, group, *parts.places)]
    grouped = "" if group is None else shown(head[group].strip())
    if path is not None and not reading.labelled:
        return Columns(path, {path: ""}, parts)
    if asked:
        label = asked[0]
    elif reading.target == "number":
        label = _numeric(index, head, cells, rest, label)
    elif label is None and len(rest) == 1:
        label = rest[0]
    if path is not None and label is not None and path not in (labels := asked or [label]):
        called = tuple(shown(head[place].strip()) for place in labels)
        return Columns(path, dict.fromkeys(labels, ""), parts, called, group, grouped)
    flags = bool(cells) and all(cells[place].strip() in (*ONE, *ZERO) for place in rest)
    if path is not None and len(rest) > 1 and flags:
        classes = {place: head[place].strip() for place in rest}
        return Columns(path, classes, parts, (), group, grouped)
    fix = "call the column of file names 'path'"
    if path is not None:
        fix = _column_of_classes(index, head, rows, rest)
    raise UnusableInput(where, f"has the columns {', '.join(map(shown, head))}", COLUMNS, fix)


def _column_of_classes(
    index: Index, head: Sequence[str], rows: list[list[str]], rest: Sequence[int]
) -> str:
    """The option that names the column most like one of classes: few words, each in many rows."""
    words = {place: {row[place].strip() for row in rows if len(row) > place} for place in rest}
    repeated = [place for place, said in words.items() if 2 <= len(said) <= len(rows) / 2]
    if not repeated:
        return "add a column called label"
    best = min(repeated, key=lambda place: (all(map(_is_number, words[place])), len(words[place])))
    return f"name the column of the classes, such as {by_column(index.file, head[best])}"


def by_column(table: PurePosixPath | str, *names: str) -> str:
    """The option that names these columns of a table, as it is typed."""
    columns = ",".join(name.strip() for name in names)
    return f"{BY_WAY} {shlex.quote(shown(f'csv:{table}:{columns}'))}"


def asked_of(where: str, head: Sequence[str], column: str, reading: Reading) -> list[int]:
    """The column of this name; where numbers are learnt, those of several names 'x,y' as well."""
    names = [cell.strip().lower() for cell in head]
    whole = column.strip().lower() in names or reading.target != "number"
    wanted = [column] if whole else column.split(",")
    for each in wanted:
        if each.strip().lower() not in names:
            what = f"has no column {each.strip()!r}; its columns are {', '.join(map(shown, head))}"
            alike = get_close_matches(each.strip().lower(), names, 1)
            near = [name for name in head if name.strip().lower() in alike]
            near += [name for name in head if name.strip().lower() in LABEL_COLUMNS]
            table = reading.classes_from.partition(":")[2].removesuffix(f":{column}")
            fix = by_column(table, (near or head[-1:])[0])
            raise UnusableInput(where, what, "one of its columns", fix)
    found = [names.index(each.strip().lower()) for each in wanted]
    if len(set(found)) < len(found):
        doubled = next(head[place] for place in found if found.count(place) > 1)
        what = f"names the column {doubled!r} twice"
        raise UnusableInput(BY_WAY, what, "each column once", "remove one of them")
    return found


def one_or_all(where: str, table: str, numeric: Sequence[str]) -> UnusableInput:
    """What is said of several columns of numbers, of which none was named."""
    what = f"has {len(numeric)} columns of numbers: {', '.join(map(shown, numeric))}"
    fix = f"name one: {by_column(table, numeric[0])}, or several: {by_column(table, *numeric)}"
    return UnusableInput(where, what, "one to be learnt, or several", fix)


def _numeric(
    index: Index, head: list[str], cells: list[str], rest: list[int], label: int | None
) -> int | None:
    """The column of numbers: the one that is called as labels are, or the only one."""
    numeric = [place for place in rest if cells and _is_number(cells[place])]
    if label in numeric:
        return label
    if len(numeric) > 1:
        raise one_or_all(index.where, str(index.file), [head[place].strip() for place in numeric])
    return numeric[0] if numeric else label


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _cells(where: str, data: bytes) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells), divided by comma, semicolon or tab, or else by | or spaces.

    UTF-8 whatever the locale, with or without a mark.
    """
    if data.startswith(PARQUET):
        yield from enumerate(of_parquet(where, data), 1)
        return
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")  # as Excel saves 'Unicode text'
    text = data.decode("utf-16", "replace") if wide else decoded(data.removeprefix(b"\xef\xbb\xbf"))
    if "\0" in text[:10_000]:
        raise UnusableInput(where, "is not a text file", f"a table with {COLUMNS}")
    head = text.partition("\n")[0]
    if not any(each in head for each in ",;\t|") and " " in head.strip():
        yield from ((number, line.split()) for number, line in enumerate(text.splitlines(), 1))
        return
    most = max(",;\t", key=head.count)
    divider = most if most in head else "|"
    reader: Any = csv.reader(io.StringIO(text, newline=""), delimiter=divider)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        what = f"line {reader.line_num} cannot be read ({error})"
        raise UnusableInput(where, what, f"a table with {COLUMNS}") from None
