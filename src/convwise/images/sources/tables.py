"""A CSV or Parquet table that names images and their classes, beside or above them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from convwise.images.sources import folder
from convwise.images.sources.found import AS_USUAL, Found, Reading
from convwise.images.sources.labels import TABLES, column_in


def recognises(source: Any) -> bool:
    """Whether source is the path of a table."""
    return (
        isinstance(source, (str, Path))
        and Path(source).is_file()
        and Path(source).suffix.lower() in TABLES
    )


def find(source: Any, reading: Reading = AS_USUAL) -> Found:
    """The images that the table names, below its folder."""
    file = Path(source)
    column = f":{name}" if (name := column_in(reading.classes_from)) else ""
    found = folder.find(file.parent, replace(reading, classes_from=f"csv:{file.name}{column}"))
    return replace(found, name=folder.name_of(file))
