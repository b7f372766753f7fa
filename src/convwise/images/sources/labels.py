"""Where classes come from, if not from folders: the names of the files, or a table beside them."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from convwise.core.problems import Problem, UnusableInput
from convwise.images import limits
from convwise.images.sources.columns import PARQUET, of_parquet
from convwise.images.sources.found import JOINT, PartName, Reading, counted, decoded, label_of, shown
from convwise.images.sources.layout import BY_CSV, Arranged, Listing, Place, arrange, class_before_number, nothing, role

ReadTable = Callable[[PurePosixPath], bytes]
WAYS = "folder, name, name:PATTERN, csv, csv:FILE, csv:FILE:COLUMN or, of numbers, csv:FILE:COLUMN,COLUMN"
PATTERN = "'name:*_{class}' or 'name:{class}-#': {class} is the class, # a number, * anything; without the suffix"
TABLES = (".csv", ".tsv", ".parquet")
# How columns are called, in lower case, the surest name first.
PATH_COLUMNS = (
    "path", "filepath", "file_path", "image_path", "img_path", "filename", "file_name", "file", "image_name", "image",
    "img", "image_id", "img_id", "name", "id",
)  # fmt: skip
LABEL_COLUMNS = (
    "label", "labels", "class", "class_name", "classname", "category", "target", "species", "breed", "diagnosis", "y",
)  # fmt: skip
PART_COLUMNS = ("split", "part", "subset", "set", "partition")
GROUP_COLUMNS = ("group", "groups", "group_id", "patient", "patient_id", "subject", "subject_id")
COLUMNS = "columns called path and label, split where there are parts, and group where images belong together"
ONE, ZERO = ("1", "1.0"), ("0", "0.0")  # cells of a table with a column for each class
# What pandas takes for a missing value (pandas.read_csv, na_values); 'none' in small letters can be a class.
MISSING = frozenset(
    ["", "#N/A", "#NA", "-NaN", "-nan", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"]
)


def arranged_by(reading: Reading, where: str, listing: Listing, table: ReadTable) -> Arranged:
    """Part and class of every picture, as `reading` wants; `table` gives the bytes of a file of the listing."""
    way, _, how = reading.classes_from.partition(":")
    if way == "folder" and not how:
        return arrange(where, listing)
    if way == "name":
        return _by_name(where, listing, how)
    if way == "csv":
        return _by_table(where, listing, how, table, reading)
    raise UnusableInput("--classes-from", f"is {reading.classes_from!r}", WAYS)


# --- names of files ------------------------------------------------------------------------------


def _by_name(where: str, listing: Listing, pattern: str) -> Arranged:
    wanted = _compiled(pattern) if pattern else None
    labels = {path: _class_in(path.stem, wanted) for path in listing.pictures}
    places = [Place(path, _part_of(path), label_of(label)) for path, label in labels.items() if label]
    if not places:
        what = f"none of the {len(listing.pictures)} file names tells a class" if labels else nothing(listing)
        raise UnusableInput(where, what, "names such as cat.12.jpg or dog_003.png", f"give a pattern: {PATTERN}")
    counts = Counter(place.label for place in places)
    if len(counts) == 1:
        what = f"the names of the files tell only one class, {places[0].label!r} (such as {places[0].path.name})"
        raise UnusableInput(where, what, "at least two", f"give a pattern: {PATTERN}")
    some = ", ".join(f"{label} ({count})" for label, count in counts.most_common(5))
    more = f" and {len(counts) - 5} more" if len(counts) > 5 else ""
    first = places[0]
    what = f"classes from the names of the files, as {first.label} from {shown(first.path.name)}: {some}{more}"
    nameless = [path for path, label in labels.items() if not label]
    problems = [Problem(where, what, severity="note"), *_nameless(where, nameless)]
    roles = {place.part: next(name for name in place.path.parts if role(name)) for place in places if place.part}
    return Arranged(places, problems, roles=dict(sorted(roles.items())))


def _nameless(where: str, paths: Sequence[PurePosixPath]) -> Iterator[Problem]:
    if paths:
        names = ", ".join(shown(str(path)) for path in paths[:5]) + (", ..." if len(paths) > 5 else "")
        what = f"left out, because the name tells no class: {counted(len(paths), 'image')}, {names}"
        yield Problem(where, what, severity="warning", count=len(paths))


def _compiled(pattern: str) -> re.Pattern[str]:
    if pattern.count("{class}") != 1:
        raise UnusableInput("--classes-from", f"the pattern {pattern!r} does not say once where the class is", PATTERN)
    pieces = {"*": ".*", "#": r"\d+", "{class}": "(?P<label>.+?)"}
    parts = re.split(r"(\*|#|\{class\})", pattern)
    return re.compile("".join(pieces.get(part, re.escape(part)) for part in parts))


def _class_in(stem: str, pattern: re.Pattern[str] | None) -> str | None:
    """The class in a file's name: what stands before its number, or where the pattern says."""
    if pattern:
        match = pattern.fullmatch(stem)
        return match["label"] if match else None
    return class_before_number(stem)


def _part_of(path: PurePosixPath) -> PartName | None:
    return next((part for name in path.parts[:-1] if (part := role(name))), None)


# --- a table -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    label: str
    part: str = ""
    group: str = ""


def column_in(way: str) -> str:
    """'angle' of 'csv:labels.csv:angle', 'x,y' of 'csv:labels.csv:x,y'; '' where no column is named."""
    _, _, how = way.partition(":")
    return how.rpartition(":")[2] if ":" in how else ""


def _by_table(where: str, listing: Listing, how: str, table: ReadTable, reading: Reading) -> Arranged:
    column = column_in(reading.classes_from)
    file = _table_in(where, listing, how.removesuffix(f":{column}") if column else how)
    about = f"{where}, {shown(str(file))}"
    try:
        data = table(file)
    except Exception as error:  # what an archive or a file system raises has no common base
        raise UnusableInput(about, f"cannot be read ({shown(str(error))})", "a table", "save it again") from None
    if len(data) > limits.MANIFEST:
        raise UnusableInput(about, "is too large", f"at most {limits.size(limits.MANIFEST)}", "split it")
    index = _Index(about, listing.pictures, file.parent)
    found = Arranged()
    labels: dict[PurePosixPath, _Row] = {}
    unlabelled, gone = [], []
    columns, rows = _rows(about, data, index, reading, column)
    found.numbers, found.grouped = columns.numbers, columns.grouped
    for row in rows:
        path = index.find(row)
        if row.label in MISSING:
            unlabelled.append(row)
        elif path is None:
            gone.append(row)
        elif labels.setdefault(path, row).label != row.label:
            what = f"{row.path} is of two classes, {labels[path].label} (line {labels[path].line}) and {row.label}"
            raise UnusableInput(about, f"{what} (line {row.line})", "one class for each image", "keep one of the lines")
    found.places = [Place(path, _part(about, row), label_of(row.label), row.group) for path, row in labels.items()]
    found.places.sort(key=lambda place: place.path.parts)
    known = {place.label for place in found.places}
    lost = Counter(label_of(row.label) for row in gone)
    found.empty = {name: f"none of {counted(n, 'file')} is there" for name, n in lost.items() if name not in known}
    rest = index.paths - labels.keys() - set(map(index.find, unlabelled))
    found.problems += _told(about, found, unlabelled, gone, len(rest))
    if not found.places:
        what = f"names {len(gone)} images, such as {gone[0].path}, and none is there" if gone else "names no image"
        raise UnusableInput(about, what, "paths of images below the folder", "correct the paths")
    return found


def _table_in(where: str, listing: Listing, name: str) -> PurePosixPath:
    tables = [path for path in listing.others if path.suffix.lower() in TABLES and (not name or str(path) == name)]
    top = [path for path in tables if len(path.parts) == min(len(path.parts) for path in tables)]
    if len(top) == 1:
        return top[0]
    if not top:
        raise UnusableInput(where, f"holds no {name or '.csv file'}", f"a table with {COLUMNS}", "add one")
    some = ", ".join(shown(str(path)) for path in top[:5])
    raise UnusableInput(where, f"holds {len(top)} tables: {some}", "one", f"name it: {BY_CSV}:{shown(str(top[0]))}")


def _told(where: str, found: Arranged, unlabelled: list[_Row], gone: list[_Row], rest: int) -> Iterator[Problem]:
    def shown_of(rows: list[_Row]) -> str:
        return ", ".join(f"{shown(row.path)} (line {row.line})" for row in rows[:5]) + ", ..." * (len(rows) > 5)

    yield Problem(where, f"labels from this table: {len(found.places):,} images", severity="note")
    if unlabelled:
        what = f"left out for lack of a label: {counted(len(unlabelled), 'image')}, {shown_of(unlabelled)}"
        yield Problem(where, what, "a class for each image", severity="warning", count=len(unlabelled))
    if gone:
        what = f"it names {counted(len(gone), 'image')} that could not be found: {shown_of(gone)}"
        yield Problem(where, what, "paths of images below the folder", "correct the paths", "warning", len(gone))
    if rest:
        what = f"left out, because the table does not name them: {counted(rest, 'image')} in the folder"
        yield Problem(where, what, "a line for each image", severity="warning", count=rest)


class _Index:
    """Pictures by what a table may call them: the path, the name, or the name without its suffix."""

    def __init__(self, where: str, pictures: Sequence[PurePosixPath], beside: PurePosixPath) -> None:
        self.where, self.beside = where, beside
        self.paths = set(pictures)
        self.called: dict[str, list[PurePosixPath]] = {}
        for path in pictures:
            for name in {path.name, path.stem}:
                self.called.setdefault(name, []).append(path)

    def find(self, row: _Row) -> PurePosixPath | None:
        """The picture that a row means; UnusableInput where it can mean several."""
        path = PurePosixPath(row.path.replace("\\", "/"))
        for whole in (self.beside / path, path):
            if whole in self.paths:
                return whole
        found = [each for each in self.called.get(path.name, []) if _same_folders(each.parent, path.parent)]
        if len(found) > 1:
            what = f"{row.path} (line {row.line}) can be {' or '.join(shown(str(each)) for each in found[:3])}"
            raise UnusableInput(self.where, what, "paths that tell them apart", "put the folder before the name")
        return found[0] if found else None


def _same_folders(one: PurePosixPath, other: PurePosixPath) -> bool:
    """Whether the longer path ends as the shorter one: tables are written elsewhere, with other folders above."""
    depth = min(len(one.parts), len(other.parts))
    return depth == 0 or one.parts[-depth:] == other.parts[-depth:]


@dataclass(frozen=True)
class _Columns:
    """Where the path, the label and the part stand in a line.

    labels: one column, or one of 0 and 1 for each class, or one for each number of an image. numbers: what the labels
    are called, but for classes with a column each. grouped: what the column of the group is called.
    """

    path: int
    labels: dict[int, str]
    part: int | None
    numbers: tuple[str, ...] = ()
    group: int | None = None
    grouped: str = ""

    def row(self, where: str, number: int, cells: list[str]) -> _Row:
        """The row that a line says; UnusableInput where it says none."""
        if len(cells) <= max(self.path, *self.labels, self.part or 0, self.group or 0):
            raise UnusableInput(where, f"line {number} has too few cells", "a cell for each column", "complete it")
        said = [cells[column].strip() for column in self.labels]
        label = "" if any(each in MISSING for each in said) else JOINT.join(said)
        if len(self.labels) > 1 and not self.numbers:
            of = [name for column, name in self.labels.items() if cells[column].strip() in ONE]
            if len(of) > 1:
                what = f"line {number} is of several classes: {', '.join(map(shown, of))}"
                raise UnusableInput(where, what, "one class for each image", "keep one of them")
            label = of[0] if of else ""
        if len(label) > limits.LABEL:
            what = f"line {number}: a label of {len(label):,} characters"
            raise UnusableInput(where, what, f"at most {limits.LABEL:,}", "give names of classes")
        part, group = (cells[place].strip() if place is not None else "" for place in (self.part, self.group))
        return _Row(number, cells[self.path].strip(), label, part, "" if group in MISSING else group)


def _rows(where: str, data: bytes, index: _Index, reading: Reading, column: str) -> tuple[_Columns, Iterator[_Row]]:
    """column: the name of the labels' one, or ''."""
    lines = [(number, cells) for number, cells in _cells(where, data) if any(cell.strip() for cell in cells)]
    if not lines:
        raise UnusableInput(where, "holds no line", f"a table with {COLUMNS}")
    head = lines[0][1]
    if len(head) == 2 and index.find(_Row(1, head[0], "")):  # no line of names
        columns = _Columns(0, {1: ""}, None)
    else:
        columns, lines = _named(where, head, [cells for _, cells in lines[1:2]], index, reading, column), lines[1:]
    return columns, (columns.row(where, number, cells) for number, cells in lines)


def _named(where: str, head: list[str], first: list[list[str]], index: _Index, reading: Reading,
           column: str) -> _Columns:  # fmt: skip
    """The columns by their names; where these tell nothing, by what stands in the first line.

    Where classes are not asked for, the path stands for the label as well.
    """
    names = [cell.strip().lower() for cell in head]
    cells = first[0] if first and len(first[0]) == len(head) else []
    known = {"path": PATH_COLUMNS, "label": LABEL_COLUMNS, "part": PART_COLUMNS, "group": GROUP_COLUMNS}
    by_name = {kind: next(map(names.index, filter(names.__contains__, some)), None) for kind, some in known.items()}
    path, label, part, group = (by_name[kind] for kind in known)
    if path is None:
        path = next((place for place, cell in enumerate(cells) if index.find(_Row(2, cell.strip(), ""))), None)
    asked = asked_of(where, head, column, reading) if column else []
    if group in asked:
        group = None
    rest = [place for place in range(len(head)) if place not in (path, part, group)]
    grouped = "" if group is None else shown(head[group].strip())
    if path is not None and not reading.labelled:
        return _Columns(path, {path: ""}, part)
    if asked:
        label = asked[0]
    elif reading.target == "number":
        label = _numeric(where, head, cells, rest, label)
    elif label is None and len(rest) == 1:
        label = rest[0]
    if path is not None and label is not None and path not in (labels := asked or [label]):
        called = tuple(shown(head[place].strip()) for place in labels)
        return _Columns(path, dict.fromkeys(labels, ""), part, called, group, grouped)
    if path is not None and len(rest) > 1 and cells and all(cells[place].strip() in (*ONE, *ZERO) for place in rest):
        return _Columns(path, {place: head[place].strip() for place in rest}, part, (), group, grouped)
    raise UnusableInput(where, f"has the columns {', '.join(map(shown, head))}", COLUMNS, "rename them")


def asked_of(where: str, head: Sequence[str], column: str, reading: Reading) -> list[int]:
    """The column of this name; or, where numbers are learnt, those of several names with commas between them."""
    names = [cell.strip().lower() for cell in head]
    whole = column.strip().lower() in names or reading.target != "number"
    wanted = [column] if whole else column.split(",")
    for each in wanted:
        if each.strip().lower() not in names:
            what = f"has no column {each.strip()!r}, but {', '.join(map(shown, head))}"
            raise UnusableInput(where, what, "one of its columns", f"{BY_CSV}:FILE:{shown(head[-1].strip())}")
    found = [names.index(each.strip().lower()) for each in wanted]
    if len(set(found)) < len(found):
        what = f"names the column {next(head[place] for place in found if found.count(place) > 1)!r} twice"
        raise UnusableInput("--classes-from", what, "each column once", "leave one out")
    return found


def one_or_all(where: str, table: str, numeric: Sequence[str]) -> UnusableInput:
    """What is said of several columns of numbers, of which none was named."""
    what = f"has {len(numeric)} columns of numbers: {', '.join(map(shown, numeric))}"
    one, several = shown(numeric[0]), ",".join(map(shown, numeric))
    fix = f"name one: {BY_CSV}:{table}:{one}, or several: {BY_CSV}:{table}:{several}"
    return UnusableInput(where, what, "one to be learnt, or several", fix)


def _numeric(where: str, head: list[str], cells: list[str], rest: list[int], label: int | None) -> int | None:
    """The column of numbers: the one that is called as labels are, or the only one; None where there is none."""
    numeric = [place for place in rest if cells and _is_number(cells[place])]
    if label in numeric:
        return label
    if len(numeric) > 1:
        table = PurePosixPath(where).name.rpartition(", ")[2]
        raise one_or_all(where, table, [head[place].strip() for place in numeric])
    return numeric[0] if numeric else label


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _cells(where: str, data: bytes) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells), divided by comma, semicolon or tab; UTF-8 whatever the locale, with or without a mark."""
    if data.startswith(PARQUET):
        yield from enumerate(of_parquet(where, data), 1)
        return
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")  # as Excel saves 'Unicode text'
    text = data.decode("utf-16", "replace") if wide else decoded(data.removeprefix(b"\xef\xbb\xbf"))
    if "\0" in text[:10_000]:
        raise UnusableInput(where, "is no text", f"a table with {COLUMNS}")
    head = text.partition("\n")[0]
    reader: Any = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        what = f"line {reader.line_num} cannot be read ({error})"
        raise UnusableInput(where, what, f"a table with {COLUMNS}") from None


def _part(where: str, row: _Row) -> PartName | None:
    part = role(row.part)
    if row.part and part is None:
        raise UnusableInput(where, f"line {row.line}: {row.part!r} is not the name of a part", "train, valid or test")
    return part
