"""Parquet and Arrow files by their columns: opened with pyarrow, which only those need who have
such files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from convwise.core.problems import UnusableInput
from convwise.images import limits

PARQUET = b"PAR1"  # with which such files begin
NAMING = (
    "Parquet or Arrow files with a column of encoded pictures and one of labels, as Hugging Face"
    " writes them"
)


@contextmanager
def reading(where: str) -> Iterator[None]:
    """What pyarrow raises inside becomes UnusableInput; where it is not installed, that is said."""
    try:
        import pyarrow as arrow
    except ImportError as error:
        what, fix = "needs pyarrow, which is not installed", "pip install pyarrow"
        raise UnusableInput(
            where, what, "pyarrow, which reads Parquet and Arrow files", fix
        ) from error
    try:
        yield
    except (arrow.ArrowException, OSError, ValueError, MemoryError) as error:
        if isinstance(error, UnusableInput):
            raise
        what = (
            "cannot be read"
            f" ({str(error).splitlines()[0][:200] if str(error) else type(error).__name__})"
        )
        raise UnusableInput(where, what, NAMING, "download it again") from error


def opened(
    file: Path | BytesIO, where: str, columns: list[str] | None = None
) -> tuple[Any, Iterable[Any]]:
    """(schema, batches of rows); UnusableInput where a file says that it unpacks to far too much.

    columns: those that are wanted; None: all.
    """
    from pyarrow import ipc, parquet

    if isinstance(file, Path) and file.suffix.lower() == ".arrow":
        stream = ipc.open_stream(file)
        return stream.schema, stream
    packed = file.stat().st_size if isinstance(file, Path) else len(file.getbuffer())
    found = parquet.ParquetFile(file)
    told = sum(
        found.metadata.row_group(k).total_byte_size for k in range(found.metadata.num_row_groups)
    )
    if told > limits.unpacked(packed):
        what = f"unpacks to {limits.size(told)}"
        raise UnusableInput(where, what, f"at most {limits.size(limits.unpacked(packed))}")
    return found.schema_arrow, found.iter_batches(batch_size=256, columns=columns)


def encoded(kind: Any) -> bool:
    """Whether a column of this type can hold encoded pictures."""
    from pyarrow import types

    inside = (
        {kind.field(k).name for k in range(kind.num_fields)} if types.is_struct(kind) else set()
    )
    return "bytes" in inside or types.is_binary(kind) or types.is_large_binary(kind)


def of_parquet(where: str, data: bytes) -> Iterator[list[str]]:
    """The names of the columns, then the cells of each row, as text: '' where one is missing."""
    with reading(where):
        schema, batches = opened(BytesIO(data), where)
        yield list(schema.names)
        for batch in batches:
            columns = [column.to_pylist() for column in batch.columns]
            yield from (
                ["" if cell is None else str(cell) for cell in row]
                for row in zip(*columns, strict=True)
            )
