"""Hugging Face data sets on disk, with encoded pictures inside: Parquet, or the Arrow files of save_to_disk."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from convwise.core.problems import Problem, UnusableInput
from convwise.images import kinds, limits
from convwise.images.sources.folder import name_of
from convwise.images.sources.found import PART_NAMES, Found, Item, PartName, counted, label_of, shown
from convwise.images.sources.labels import LABEL_COLUMNS, MISSING

SUFFIXES = (".parquet", ".arrow")
NAMING = "Parquet or Arrow files with a column of encoded pictures and one of labels, as Hugging Face writes them"
COLUMNS = "a column of encoded pictures ('image') and one of labels ('label')"
PICTURE_COLUMNS = ("image", "img", "picture", "pixel_values", "jpg", "png")
LABELS = (*LABEL_COLUMNS, "fine_label", "coarse_label")  # the surest name first


def recognises(source: Any) -> bool:
    """Whether source is such a file, or a folder whose files, but for texts beside them, are all such ones."""
    return isinstance(source, (str, Path)) and bool(_files(Path(source)))


def find(source: Any) -> Found:
    """The pictures of all files, still encoded. UnusableInput where they cannot be read, or hold none or no labels."""
    return _found(Path(source), labelled=True)


def pictures(source: Any) -> Found:
    """The pictures of all files, with or without labels beside them."""
    return _found(Path(source), labelled=False)


def _found(root: Path, labelled: bool) -> Found:
    where = name_of(root)
    items: list[Item] = []
    roles: dict[PartName, str] = {}
    total = missing = 0
    for file in _files(root):
        part = _part(file, root)
        if part:
            roles.setdefault(part, shown(file.parent.name if file.parent != root else file.name))
        for number, row in enumerate(_rows(file, labelled)):
            total += len(row.encoded)
            if total > limits.UNPACKED or len(items) >= limits.FILES:
                what, expected = "holds too many pictures", f"{limits.FILES:,} pictures, {limits.size(limits.UNPACKED)}"
                raise UnusableInput(where, what, expected, "take some of the files")
            if labelled and not row.label:
                missing += 1
                continue
            name = row.name or f"{file.name}/{number}"
            items.append(Item(part, label_of(row.label), shown(name), partial(BytesIO, row.encoded)))
    if not items:
        raise UnusableInput(where, "holds no picture with a label" if labelled else "holds no picture", COLUMNS)
    what = f"{counted(missing, 'picture')} without a label left out"
    problems = (Problem(where, what, "a label for each", severity="warning", count=missing),) if missing else ()
    return Found(where, items=tuple(items), problems=problems, roles=roles)


def _files(root: Path) -> list[Path]:
    """The files of the set; none where pictures lie beside them: then they are a table of those."""
    if root.is_file():
        return [root] if root.suffix.lower() in SUFFIXES else []
    found = [path for level in ("*", "*/*") for suffix in SUFFIXES for path in sorted(root.glob(f"{level}{suffix}"))]
    inside = (path for level in ("*", "*/*") for path in root.glob(f"{level}.*"))
    return [] if not found or any(path.suffix.lower() in kinds.READ for path in inside) else found


def _part(file: Path, root: Path) -> PartName | None:
    """The part that a file is of, by its name (train-00000-of-00003.parquet) or that of its folder (train/)."""
    inside = file.relative_to(root).parts[:-1] if file != root else ()
    first = re.split(r"[-_.]", file.stem.lower())[0]
    called = [first, *(name.lower() for name in inside)]
    return next((PART_NAMES[name] for name in called if name in PART_NAMES), None)


@dataclass(frozen=True)
class _Row:
    encoded: bytes
    label: str
    name: str


def _rows(file: Path, labelled: bool) -> Iterator[_Row]:
    where = name_of(file)
    try:
        import pyarrow as arrow
    except ImportError as error:
        what, fix = "needs pyarrow, which is not installed", "pip install pyarrow"
        raise UnusableInput(where, what, "pyarrow, which reads Parquet and Arrow files", fix) from error
    try:
        schema, batches = _opened(file, where)
        picture, label = _columns(where, schema, labelled)
        names = _class_names(schema.metadata or {}, label)
        for batch in batches:
            cells = batch.column(picture).to_pylist()
            labels = batch.column(label).to_pylist() if label else [None] * len(cells)
            for cell, value in zip(cells, labels, strict=True):
                encoded = cell.get("bytes") if isinstance(cell, Mapping) else cell
                name = str(cell.get("path") or "") if isinstance(cell, Mapping) else ""
                if encoded is not None:
                    yield _Row(bytes(encoded), _label(value, names), name)
    except (arrow.ArrowException, OSError, ValueError, MemoryError) as error:
        if isinstance(error, UnusableInput):
            raise
        what = f"cannot be read ({str(error).splitlines()[0][:200] if str(error) else type(error).__name__})"
        raise UnusableInput(where, what, NAMING, "download it again") from error


def _opened(file: Path, where: str) -> tuple[Any, Iterable[Any]]:
    """(schema, batches of rows); UnusableInput where a file says that it unpacks to far too much."""
    from pyarrow import ipc, parquet

    if file.suffix.lower() == ".arrow":
        stream = ipc.open_stream(file)
        return stream.schema, stream
    opened = parquet.ParquetFile(file)
    told = sum(opened.metadata.row_group(k).total_byte_size for k in range(opened.metadata.num_row_groups))
    if told > limits.unpacked(file.stat().st_size):
        what, expected = f"unpacks to {limits.size(told)}", limits.size(limits.unpacked(file.stat().st_size))
        raise UnusableInput(where, what, f"at most {expected}")
    return opened.schema_arrow, opened.iter_batches(batch_size=256)


def _columns(where: str, schema: Any, labelled: bool) -> tuple[str, str]:
    """The column of pictures, and that of labels ('' where none is wanted and none is there)."""
    from pyarrow import types

    there = {field.name: field.type for field in schema}

    def encoded(kind: Any) -> bool:
        inside = {kind.field(k).name for k in range(kind.num_fields)} if types.is_struct(kind) else set()
        return "bytes" in inside or types.is_binary(kind) or types.is_large_binary(kind)

    held = [name for name, kind in there.items() if encoded(kind)]
    picture = _first(held, PICTURE_COLUMNS) or (held[0] if len(held) == 1 else "")
    label = _first([name for name in there if name not in held], LABELS)
    if not picture or (labelled and not label):
        raise UnusableInput(where, f"has the columns {', '.join(map(shown, there)) or 'none'}", COLUMNS, "rename them")
    return picture, label


def _first(names: Iterable[str], wanted: Iterable[str]) -> str:
    """The surest of the wanted names that is there, as it is written; '' where none is."""
    there = {name.lower(): name for name in names}
    return next((there[name] for name in wanted if name in there), "")


def _class_names(metadata: Mapping[bytes, bytes], label: str) -> list[str]:
    """What the numbers of the labels stand for, as Hugging Face keeps it beside the columns; [] where it does not."""
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][label]
        return [str(name) for name in feature["names"]]
    except (KeyError, TypeError, ValueError):
        return []


def _label(value: Any, names: list[str]) -> str:
    """A label as text, '' where it is missing: -1 stands for none beside names."""
    if isinstance(value, int) and names:
        return names[value] if 0 <= value < len(names) else ""
    text = "" if value is None else str(value)
    return "" if text in MISSING else text
