"""IDX files, the format of MNIST (yann.lecun.com/exdb/mnist): a magic number, the sizes, the values."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from convwise.core.problems import UnusableInput
from convwise.images.sources.arrays import block
from convwise.images.sources.found import MAX_BYTES, PART_NAMES, Block, Found, PartName

NAME = re.compile(r"(?P<stem>.*?)[-_.]?(?P<what>images|labels)[-_.]idx[134][-_.]ubyte(\.gz)?$", re.IGNORECASE)
TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
NAMING = "train-images-idx3-ubyte and train-labels-idx1-ubyte, t10k-..., each with or without .gz"


def recognises(source: Any) -> bool:
    """Whether source is an IDX file, or a folder that holds some."""
    return isinstance(source, (str, Path)) and bool(_files(Path(source)))


def find(source: Any) -> Found:
    """The pairs of image and label files; raises UnusableInput for a missing partner or a damaged file."""
    files = _files(Path(source))
    sets = sorted({file.set for file in files})
    if len(sets) > 1:
        what = f"holds several sets: {', '.join(sets)}"
        raise UnusableInput(str(source), what, "one set", "name one file of the set")
    parts = sorted({file.part or "" for file in files})
    blocks = tuple(_pair(str(source), [file for file in files if (file.part or "") == part]) for part in parts)
    return Found(str(source), blocks=blocks)


@dataclass(frozen=True)
class _File:
    path: Path
    set: str
    part: PartName | None
    what: str


def _files(source: Path) -> list[_File]:
    """The IDX files of a folder, or of the set that one file belongs to; an unpacked file before its .gz."""
    if source.is_dir():
        # The longer name, with .gz, first: the unpacked one then takes its place.
        named = {_describe(path): path for path in sorted(source.iterdir(), reverse=True) if NAME.match(path.name)}
        return [_File(path, *key) for key, path in sorted(named.items(), key=str) if path.is_file()]
    if not source.is_file() or not NAME.match(source.name):
        return []
    mine = _describe(source)[0]
    return [file for file in _files(source.parent) if file.set == mine]


def _describe(path: Path) -> tuple[str, PartName | None, str]:
    """(set, part, images or labels) of a name: emnist-letters-train-images... is of the set emnist-letters."""
    match = NAME.match(path.name)
    assert match is not None, path
    *front, last = re.split(r"[-_.]", match["stem"].lower())
    part = PART_NAMES.get(last)
    return "-".join(front if part else [*front, last]), part, match["what"].lower()


def _pair(where: str, files: list[_File]) -> Block:
    images = next((file for file in files if file.what == "images"), None)
    labels = next((file for file in files if file.what == "labels"), None)
    if images is None or labels is None:
        lacks = "images" if images is None else "labels"
        raise UnusableInput(where, f"{files[0].path.name} has no file of {lacks} beside it", NAMING)
    return block(str(images.path), read_idx(images.path), read_idx(labels.path), images.part)


def read_idx(path: Path) -> NDArray[Any]:
    """The array in one IDX file, plain or gzipped."""
    try:
        with _opened(path) as stream:
            return _parsed(stream)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UnusableInput(str(path), f"not a readable IDX file ({error})", NAMING, "fetch the file again") from None


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path, "rb")) if packed else path.open("rb")


def _parsed(stream: BinaryIO) -> NDArray[Any]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES:
        raise ValueError(f"magic number {magic.hex() or 'missing'}")
    header = stream.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise ValueError("the header is cut off")
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4"))
    dtype = np.dtype(TYPES[magic[2]])
    need = math.prod(shape) * dtype.itemsize
    if need > MAX_BYTES:
        raise ValueError(f"declares {need / 2**30:.1f} GiB, over the limit")
    data = stream.read(need)
    if len(data) != need or stream.read(1):
        raise ValueError(f"the header says {' x '.join(map(str, shape))} values, the file holds {_more(need, data)}")
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False).reshape(shape)


def _more(need: int, data: bytes) -> str:
    return f"only {len(data)} of {need} bytes" if len(data) < need else "more"
