"""IDX files, the format of MNIST (yann.lecun.com/exdb/mnist): magic number, sizes, values."""

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
from convwise.images import limits
from convwise.images.sources.arrays import block, pixels_of
from convwise.images.sources.folder import name_of
from convwise.images.sources.found import PART_NAMES, Block, Found, PartName

NAME = re.compile(
    r"(?P<stem>.*?)[-_.]?(?P<what>images|labels)[-_.]idx[134][-_.]ubyte(\.gz)?$", re.IGNORECASE
)
TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
NAMING = "train-images-idx3-ubyte and train-labels-idx1-ubyte, t10k-..., each with or without .gz"


def recognises(source: Any) -> bool:
    """Whether source is an IDX file, or a folder that holds some."""
    return isinstance(source, (str, Path)) and bool(_files(Path(source)) or _misnamed(Path(source)))


def find(source: Any) -> Found:
    """The pairs of image and label files; UnusableInput where one is missing or damaged."""
    where, files = _asked(source)
    parts = sorted({file.part or "" for file in files})
    blocks = tuple(
        _pair(where, [file for file in files if (file.part or "") == part]) for part in parts
    )
    return Found(where, blocks=blocks)


def pictures(source: Any) -> Found:
    """The images of all parts, with or without labels beside them."""
    where, files = _asked(source)
    images = [file for file in files if file.what == "images"]
    if not images:
        raise UnusableInput(where, "holds only labels", NAMING)
    arrays = [(file.part, pixels_of(name_of(file.path), read_idx(file.path))) for file in images]
    return Found(
        where, blocks=tuple(Block(part, array, np.full(len(array), "")) for part, array in arrays)
    )


def _asked(source: Any) -> tuple[str, list[_File]]:
    """What to call the source, and the files of its one set."""
    where, files = name_of(Path(source)), _files(Path(source))
    if not files:
        what = f"holds IDX files under other names: {', '.join(_misnamed(Path(source))[:4])}"
        raise UnusableInput(where, what, f"the names {NAMING}", "rename them")
    sets = sorted({file.set for file in files})
    if len(sets) > 1:
        raise UnusableInput(
            where, f"holds several sets: {', '.join(sets)}", "one set", "name one file of the set"
        )
    return where, files


@dataclass(frozen=True)
class _File:
    path: Path
    set: str
    part: PartName | None
    what: str


def _files(source: Path) -> list[_File]:
    """The IDX files of a folder, or of the set of one file; an unpacked file before its .gz."""
    if source.is_dir():
        if (source / "raw").is_dir() and not any(
            NAME.match(path.name) for path in source.iterdir()
        ):
            return _files(source / "raw")  # as torchvision stores them
        # The longer name, with .gz, first: the unpacked one then takes its place.
        named = {
            _describe(path): path
            for path in sorted(source.iterdir(), reverse=True)
            if NAME.match(path.name)
        }
        return [_File(path, *key) for key, path in sorted(named.items(), key=str) if path.is_file()]
    if not source.is_file() or not NAME.match(source.name):
        return []
    mine = _describe(source)[0]
    return [file for file in _files(source.parent) if file.set == mine]


def _misnamed(source: Path) -> list[str]:
    """Files in a folder, or the file itself, with the first bytes of IDX and another name."""
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    return [
        name_of(Path(file.name)) for file in files if "idx" in file.name.lower() and _is_idx(file)
    ]


def _is_idx(file: Path) -> bool:
    try:
        with _opened(file) as stream:
            magic = stream.read(4)
    except (OSError, EOFError, zlib.error):
        return False
    return len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in TYPES


def _describe(path: Path) -> tuple[str, PartName | None, str]:
    """(set, part, images or labels) of a name: emnist-letters-train-images... is of the set
    emnist-letters.
    """
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
    return block(name_of(images.path), read_idx(images.path), read_idx(labels.path), images.part)


def read_idx(path: Path) -> NDArray[Any]:
    """The array in one IDX file, plain or gzipped."""
    try:
        with _opened(path) as stream:
            there = path.stat().st_size
            return _parsed(
                stream, limits.unpacked(there) if isinstance(stream, gzip.GzipFile) else there
            )
    except (OSError, EOFError, ValueError, zlib.error) as error:
        what = f"not a readable IDX file ({error})"
        raise UnusableInput(name_of(path), what, NAMING, "download the file again") from None


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path, "rb")) if packed else path.open("rb")


def _parsed(stream: BinaryIO, most: int) -> NDArray[Any]:
    """most: bytes that there can be, by the size of the file."""
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES:
        raise ValueError(f"magic number {magic.hex() or 'missing'}")
    header = stream.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise ValueError("the header is cut off")
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4"))
    dtype = np.dtype(TYPES[magic[2]])
    need = math.prod(shape) * dtype.itemsize
    if need > (most if isinstance(stream, gzip.GzipFile) else limits.UNPACKED):
        raise ValueError(f"unpacks to {limits.size(need)}, over the limit for a file of its size")
    data = stream.read(min(need, most))  # memory for no more than there can be
    if len(data) != need or stream.read(1):
        held = f"only {len(data)} of {need} bytes" if len(data) < need else "more"
        raise ValueError(
            f"the header says {' x '.join(map(str, shape))} values, the file holds {held}"
        )
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False).reshape(shape)
