"""Hugging Face data sets on disk, with encoded pictures inside: Parquet, or the Arrow files of
save_to_disk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from convwise.core.problems import Problem, UnusableInput
from convwise.images import kinds, limits
from convwise.images.sources.columns import encoded, opened, reading
from convwise.images.sources.folder import name_of
from convwise.images.sources.found import (
    AS_USUAL,
    BY_WAY,
    JOINT,
    PART_NAMES,
    Found,
    Item,
    PartName,
    Reading,
    counted,
    label_of,
    shown,
)
from convwise.images.sources.given_parts import PartColumns, part_columns
from convwise.images.sources.label_columns import (
    GROUP_COLUMNS,
    LABEL_COLUMNS,
    MISSING,
    PATH_COLUMNS,
    asked_of,
    by_column,
    one_or_all,
)
from convwise.images.sources.labels import column_in
from convwise.images.sources.layout import role

SUFFIXES = (".parquet", ".arrow")
COLUMNS = "a column of encoded pictures ('image') and one of labels ('label')"
PICTURE_COLUMNS = ("image", "img", "picture", "pixel_values", "jpg", "png")
LABELS = (*LABEL_COLUMNS, "fine_label", "coarse_label")  # the surest name first


def recognises(source: Any) -> bool:
    """Whether source is such a file, or a folder whose files, but for texts beside them, are all
    such ones.
    """
    return isinstance(source, (str, Path)) and bool(_files(Path(source)))


def find(source: Any, how: Reading = AS_USUAL) -> Found:
    """The pictures of all files, still encoded. UnusableInput where they cannot be read, or hold
    none or no labels.
    """
    if how.classes_from.partition(":")[0] not in ("folder", "csv"):
        what, expected = f"is {how.classes_from!r}", "csv:FILE:COLUMN for the pictures of a table"
        raise UnusableInput(BY_WAY, what, expected)
    return _found(Path(source), how)


def pictures(source: Any, how: Reading = AS_USUAL) -> Found:
    """The pictures of all files, with or without labels beside them."""
    return _found(Path(source), replace(how, labelled=False))


def _found(root: Path, how: Reading) -> Found:
    where, labelled = name_of(root), how.labelled
    numbers: tuple[str, ...] = ()
    grouped = ""
    items: list[Item] = []
    roles: dict[PartName, str] = {}
    total = missing = 0
    for file in _files(root):
        part = _part(file, root)
        if part:
            roles.setdefault(part, shown(file.parent.name if file.parent != root else file.name))
        for place, row in enumerate(_rows(file, how, not part)):
            total += len(row.encoded)
            if total > limits.UNPACKED or len(items) >= limits.FILES:
                what, expected = (
                    "holds too many pictures",
                    f"{limits.FILES:,} pictures, {limits.size(limits.UNPACKED)}",
                )
                raise UnusableInput(where, what, expected, "give only some of the files")
            if labelled and not row.label:
                missing += 1
                continue
            name = row.name or f"{file.name}/{place}"
            numbers, grouped = row.columns.labels, row.columns.group
            of = part or role(row.part)
            items.append(
                Item(
                    of,
                    label_of(row.label),
                    shown(name),
                    partial(BytesIO, row.encoded),
                    group=row.group,
                )
            )
    if not items:
        raise UnusableInput(
            where, "holds no picture with a label" if labelled else "holds no picture", COLUMNS
        )
    what = f"skipped {counted(missing, 'picture')} without a label"
    problems = (
        (Problem(where, what, "a label for each", severity="warning", count=missing),)
        if missing
        else ()
    )
    called = tuple(map(shown, numbers))
    return Found(
        where,
        items=tuple(items),
        problems=problems,
        roles=roles,
        numbers=called,
        grouped=shown(grouped),
    )


def _files(root: Path) -> list[Path]:
    """The files of the set; none where pictures lie beside them: then they are a table of those."""
    if root.is_file():
        return [root] if root.suffix.lower() in SUFFIXES and not _names_pictures(root) else []
    found = [
        path
        for level in ("*", "*/*")
        for suffix in SUFFIXES
        for path in sorted(root.glob(f"{level}{suffix}"))
    ]
    inside = (path for level in ("*", "*/*") for path in root.glob(f"{level}.*"))
    return [] if not found or any(path.suffix.lower() in kinds.READ for path in inside) else found


def _names_pictures(file: Path) -> bool:
    """Whether it holds no pictures itself, but paths of some: then it is a table as a CSV is."""
    with suppress(UnusableInput), reading(name_of(file)):
        kinds_of = {field.name: field.type for field in opened(file, name_of(file))[0]}
        return not any(map(encoded, kinds_of.values())) and bool(_first(kinds_of, PATH_COLUMNS))
    return False


def _part(file: Path, root: Path) -> PartName | None:
    """The part that a file is of, by its name (train-00000-of-00003.parquet) or that of its folder
    (train/).
    """
    inside = file.relative_to(root).parts[:-1] if file != root else ()
    first = re.split(r"[-_.]", file.stem.lower())[0]
    called = [first, *(name.lower() for name in inside)]
    return next((PART_NAMES[name] for name in called if name in PART_NAMES), None)


@dataclass(frozen=True)
class _Columns:
    """The names of the columns, '' where none is there or wanted. labels: several are numbers."""

    picture: str
    labels: tuple[str, ...]
    group: str


@dataclass(frozen=True)
class _Row:
    encoded: bytes
    label: str
    name: str
    group: str
    part: str
    columns: _Columns


def _rows(file: Path, how: Reading, parted: bool) -> Iterator[_Row]:
    """parted: whether a column may tell the part of each row."""
    where = name_of(file)
    with reading(where):
        schema, batches = opened(file, where)
        columns = _columns(where, schema, how)
        names = (
            _class_names(schema.metadata or {}, columns.labels[0])
            if len(columns.labels) == 1
            else []
        )
        words, parts = _part_columns(file, schema, columns) if parted else ([], PartColumns())
        for batch in batches:
            cells = batch.column(columns.picture).to_pylist()
            said_parts = (
                [parts.of(row) for row in _texts(batch, words)] if words else [""] * len(cells)
            )
            *labels, groups = (
                batch.column(name).to_pylist() if name else [None] * len(cells)
                for name in (*columns.labels, columns.group)
            )
            said = (
                [_label(values, names) for values in zip(*labels, strict=True)]
                if labels
                else [""] * len(cells)
            )
            for cell, label, group, part in zip(cells, said, groups, said_parts, strict=True):
                data = cell.get("bytes") if isinstance(cell, Mapping) else cell
                name = str(cell.get("path") or "") if isinstance(cell, Mapping) else ""
                if data is not None:
                    yield _Row(bytes(data), label, name, _label((group,), []), part, columns)


def _part_columns(file: Path, schema: Any, columns: _Columns) -> tuple[list[str], PartColumns]:
    """The columns of words, and which of them tell parts."""
    taken = {columns.picture, columns.group, *columns.labels}
    words = [field.name for field in schema if field.name not in taken and _is_word(field.type)]
    if not words:
        return [], PartColumns()
    rows = [row for batch in opened(file, name_of(file), words)[1] for row in _texts(batch, words)]
    return words, part_columns([name.lower() for name in words], rows, ())


def _texts(batch: Any, names: Sequence[str]) -> Iterator[list[str]]:
    """Some columns of a batch, row by row, as text."""
    for row in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
        yield ["" if cell is None else str(cell) for cell in row]


def _columns(where: str, schema: Any, how: Reading) -> _Columns:
    """The column of pictures, that of labels or those of numbers, and that of groups."""
    there = {field.name: field.type for field in schema}
    held = [name for name, kind in there.items() if encoded(kind)]
    rest = [name for name in there if name not in held]
    picture = _first(held, PICTURE_COLUMNS) or (held[0] if len(held) == 1 else "")
    label, group = _first(rest, LABELS), _first(rest, GROUP_COLUMNS)
    labels: tuple[str, ...] = (label,) if label else ()
    if how.labelled and (asked := column_in(how.classes_from)):
        labels = tuple(rest[place] for place in asked_of(where, rest, asked, how))
        group = "" if group in labels else group
    elif how.target == "number":
        numeric = [name for name in rest if name != group and _is_numeric(there[name])]
        labels = tuple(filter(None, [_first(numeric, LABELS)])) or tuple(numeric)
        if len(labels) > 1:
            raise one_or_all(where, where, labels)
    if not picture or (how.labelled and not labels):
        fix = "keep the pictures in a column called image"
        if picture:
            named = [name for name in rest if _is_word(there[name])]
            fix = (
                f"name the column of labels, such as {by_column(where, *named[:1])}"
                if named
                else "add labels"
            )
        raise UnusableInput(
            where, f"has the columns {', '.join(map(shown, there)) or 'none'}", COLUMNS, fix
        )
    return _Columns(picture, labels, group)


def _is_word(kind: Any) -> bool:
    """Whether a column has a word, a truth value or a whole number in each row."""
    from pyarrow import types

    of_words = (types.is_string, types.is_large_string, types.is_boolean, types.is_integer)
    return any(each(kind) for each in of_words)


def _is_numeric(kind: Any) -> bool:
    """Whether a column has a number in each row, or a list of them."""
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind = kind.value_type
    return bool(types.is_floating(kind) or types.is_integer(kind))


def _first(names: Iterable[str], wanted: Iterable[str]) -> str:
    """The surest of the wanted names that is there, as it is written; '' where none is."""
    there = {name.lower(): name for name in names}
    return next((there[name] for name in wanted if name in there), "")


def _class_names(metadata: Mapping[bytes, bytes], label: str) -> list[str]:
    """What the numbers of the labels stand for, as Hugging Face keeps it beside the columns; []
    where it does not.
    """
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][label]
        return [str(name) for name in feature["names"]]
    except (KeyError, TypeError, ValueError):
        return []


def _label(values: Sequence[Any], names: list[str]) -> str:
    """A label as text, '' where it, or one of several numbers, is missing: -1 stands for none
    beside names.
    """
    if names and isinstance(values[0], int):
        return names[values[0]] if 0 <= values[0] < len(names) else ""
    texts = [
        str(each) for value in values for each in (value if isinstance(value, list) else [value])
    ]
    return "" if not texts or any(text in MISSING for text in texts) else JOINT.join(texts)
