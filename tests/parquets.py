"""Hugging Face data sets on disk, written with pyarrow alone; tests that need them are skipped
without it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagesets import picture


def table(
    pixels: np.ndarray, labels: Sequence[Any], classes: Sequence[str] = (), **columns: Any
) -> Any:
    """A pyarrow Table: image {bytes, path}, and label; `classes` are kept as the ClassLabel of
    datasets keeps them.
    """
    arrow = pytest.importorskip("pyarrow")
    cells = []
    for number, pixel in enumerate(pixels):
        file = BytesIO()
        picture(pixel, "L" if pixel.shape[2] == 1 else "RGB").save(file, "PNG")
        cells.append({"bytes": file.getvalue(), "path": f"{number}.png"})
    made = arrow.table({"image": cells, "label": list(labels), **columns})
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(classes), "_type": "ClassLabel"},
    }
    about = {"huggingface": json.dumps({"info": {"features": features}})} if classes else None
    return made.replace_schema_metadata(about)


def write_parquet(path: Path, *what: Any, **columns: Any) -> Path:
    """The table as a Parquet file; returns the path."""
    made = table(*what, **columns)
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(made, path)
    return path


def write_arrow(path: Path, *what: Any) -> Path:
    """The table as save_to_disk writes it: an Arrow stream."""
    made = table(*what)
    from pyarrow import ipc

    path.parent.mkdir(parents=True, exist_ok=True)
    with ipc.new_stream(path, made.schema) as stream:
        stream.write_table(made)
    return path
