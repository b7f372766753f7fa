"""Arrays: (x, y) in memory, and .npz files in Keras's and MedMNIST's naming."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core.problems import Problem, UnusableInput
from convwise.images import limits
from convwise.images.sources.folder import name_of
from convwise.images.sources.found import (
    Block,
    Found,
    PartName,
    counted,
    decoded,
    label_of,
    shown,
    some,
)
from convwise.images.sources.label_columns import MISSING
from convwise.images.sources.layout import is_spare, role

# What arrays of images are called, with a word for the part beside it or none, and the labels to
# them; in lower case. The words of Keras and of MedMNIST: x_train and y_train, train_images and
# train_labels.
KEYS = {"x": "y", "images": "labels"}
NAMING = "x_train, y_train, x_test, y_test, or train_images, train_labels, val_images, ..., or x, y"


def recognises_npz(source: Any) -> bool:
    """Whether source is the path of an .npz file."""
    return (
        isinstance(source, (str, Path))
        and Path(source).is_file()
        and Path(source).suffix.lower() == ".npz"
    )


def recognises_pair(source: Any) -> bool:
    """Whether source is two things: images and labels, or a train and a test part."""
    return isinstance(source, (tuple, list)) and len(source) == 2


def find_npz(source: Any) -> Found:
    """The arrays of an .npz file; nothing pickled is ever loaded."""
    where = name_of(Path(source))
    arrays = _load(Path(source), where)
    pairs = _pairs(arrays)
    if not any(part != "test" for _, _, part in pairs):
        raise UnusableInput(
            where,
            f"holds the arrays {', '.join(sorted(arrays)) or '(none)'}",
            NAMING,
            "rename them",
        )
    missing = [y for _, y, _ in pairs if y not in arrays]
    if missing:
        raise UnusableInput(
            where, f"has images but no {', '.join(missing)}", NAMING, "add the labels"
        )
    blocks = tuple(block(f"{where}, {x}", arrays[x], arrays[y], part) for x, y, part in pairs)
    used = {name for x, y, _ in pairs for name in (x, y)}
    unread = tuple(_unread(where, sorted(arrays.keys() - used)))
    return Found(where, blocks=tuple(b for b in blocks if len(b.labels)), problems=unread)


def _pairs(names: Iterable[str]) -> list[tuple[str, str, PartName | None]]:
    """The names (images, labels, part) of all arrays of images, in the order of KEYS and parts."""
    order: tuple[PartName | None, ...] = ("train", "valid", "test", None)
    found = []
    for name in names:
        words = re.split(r"([\W_]+)", name)
        told = [word for word in words if word in KEYS]
        rest = "".join(word for word in words if word not in KEYS).strip("_")
        part = role(rest)
        if len(told) == 1 and (part or not rest):
            labels = "".join(KEYS.get(word, word) for word in words)
            found.append(
                (
                    (part is None, [*KEYS].index(told[0]), order.index(part), name),
                    (name, labels, part),
                )
            )
    plain = {part for _, (name, _, part) in found if not is_spare(name)}
    return [pair for _, pair in sorted(found) if pair[2] not in plain or not is_spare(pair[0])]


def _unread(where: str, names: list[str]) -> Iterator[Problem]:
    """What is said of arrays under other names: they may be a part."""
    if names:
        lost = any(
            role(name) or {*re.split(r"[\W_]+", name)} & {*KEYS, *KEYS.values()} for name in names
        )
        what = f"{counted(len(names), 'array')} under other names left out: {some(names)}"
        fix = "rename them if they are images or labels"
        yield Problem(where, what, NAMING, fix, "warning" if lost else "note", len(names))


def npz_pictures(source: Any) -> Found:
    """The arrays of images in an .npz file, with or without labels beside them."""
    where = name_of(Path(source))
    arrays = _load(Path(source), where)
    found = [(pixels_of(f"{where}, {x}", arrays[x]), part) for x, _, part in _pairs(arrays)]
    if not found:
        raise UnusableInput(
            where,
            f"holds the arrays {', '.join(sorted(arrays)) or '(none)'}",
            NAMING,
            "rename them",
        )
    return Found(
        where, blocks=tuple(Block(part, pixels, np.full(len(pixels), "")) for pixels, part in found)
    )


def find_pair(source: Any) -> Found:
    """(x, y), or ((x_train, y_train), (x_test, y_test)) as the data sets of Keras come."""
    if isinstance(source[0], (tuple, list)) and len(source[0]) == len(source[1]) == 2:
        (x_train, y_train), (x_test, y_test) = source
        blocks = (block("train", x_train, y_train, "train"), block("test", x_test, y_test, "test"))
        return Found("arrays", blocks=blocks)
    return Found("arrays", blocks=(block("(x, y)", source[0], source[1], None),))


def block(where: str, images: Any, labels: Any, part: PartName | None) -> Block:
    """Images (n, h, w[, channels]) and labels (n,), (n, 1), one-hot (n, classes) or numbers (n, k),
    as a Block.

    Labels that are fractions stay numbers, and so do several for each image.
    """
    if np.ma.isMaskedArray(labels):
        labels = np.array(labels.tolist(), object)  # None where it is masked
    if isinstance(labels, list) and any(isinstance(label, str) for label in labels):
        labels = np.array(labels, object)  # else numpy would write NaN as the word
    pixels, names = pixels_of(where, images), _labels(where, array_of(where, labels))
    if len(pixels) != len(names):
        what = f"{len(pixels)} images but {len(names)} labels"
        raise UnusableInput(where, what, "one label for each image", "check how the file was made")
    return Block(part, pixels, names)


def pixels_of(where: str, images: Any) -> NDArray[Any]:
    """Anything like an array of images, as (n, h, w) or (n, h, w, 1 to 4), values as they are."""
    return _channels_last(where, array_of(where, images))


def array_of(where: str, thing: Any) -> NDArray[Any]:
    """What numpy makes of it; a tensor first leaves its gradients and its device."""
    try:
        return np.asarray(thing.detach().cpu() if hasattr(thing, "detach") else thing)
    except Exception as error:  # whose array this is, is not known: it may raise anything
        what = f"{type(thing).__name__} is not an array ({error})"
        raise UnusableInput(
            where, what, "numpy arrays, or something that numpy can convert to one", "convert it"
        ) from error


def _load(path: Path, where: str) -> Mapping[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as file:
            wanted = {name for row in _pairs(key.lower() for key in file.files) for name in row[:2]}
            taken = [key for key in file.files if key.lower() in wanted]
            total = sum(_claimed(archive, key) for key in taken)
            if total > (most := limits.unpacked(path.stat().st_size)):
                raise UnusableInput(
                    where, f"unpacks to {limits.size(total)}", f"at most {limits.size(most)}"
                )
            # Other arrays in the file are not unpacked: only their names are needed, for the
            # message.
            return {
                shown(key.lower()): file[key] if key in taken else np.empty(0) for key in file.files
            }
    except UnusableInput:
        raise
    except Exception as error:  # a damaged archive fails in many ways: zip, zlib, header, size
        fix = "save plain arrays: np.savez(file, x_train=..., y_train=...)"
        what = f"not a readable .npz ({shown(str(error))})"
        raise UnusableInput(where, what, "arrays of numbers, none pickled", fix) from None


def _claimed(archive: zipfile.ZipFile, key: str) -> int:
    """Bytes of an array by its header, where that agrees with the file; numpy takes so much memory
    at once.
    """
    name = key if key in archive.namelist() else f"{key}.npy"
    with archive.open(name) as stream:
        version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call, unused-ignore]
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(stream)  # type: ignore[no-untyped-call, unused-ignore]
        claimed, there = (
            math.prod(shape) * dtype.itemsize,
            archive.getinfo(name).file_size - stream.tell(),
        )
    if claimed != there and not dtype.hasobject:  # objects are refused by numpy, in better words
        raise ValueError(f"{key} should have {claimed} bytes and has {there}")
    return int(claimed)


def _labels(where: str, labels: NDArray[Any]) -> NDArray[Any]:
    if labels.dtype.kind not in "biufUSO":
        raise UnusableInput(
            where, f"labels of type {labels.dtype}", "numbers or names", "convert them"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and bool(
        ((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()
    ):
        labels = labels.argmax(axis=1)
    if labels.ndim == 2 and labels.dtype.kind in "biuf" and labels.shape[1]:
        _refuse_missing(where, labels)
        return labels.astype(np.float64)
    if labels.ndim != 1:
        what = f"labels of shape {labels.shape}, not one label for each image"
        expected = (
            "labels (n,), (n, 1), one-hot (n, classes), or with --task regress numbers (n, k)"
        )
        raise UnusableInput(where, what, expected)
    _refuse_missing(where, labels)
    if labels.dtype.kind == "f":
        if not (np.isfinite(labels).all() and (labels == np.rint(labels)).all()):
            return labels.astype(np.float64)
        labels = labels.astype(np.int64)
    if labels.dtype.kind in "US" and labels.dtype.itemsize > 4 * limits.LABEL:
        labels = labels.astype(object)  # as wide as its longest: each is looked at alone
    try:
        texts = [
            decoded(label) if isinstance(label, bytes) else str(label) for label in labels.tolist()
        ]
    except (SystemError, ValueError) as error:  # numpy's words for a character beyond U+10FFFF
        what = "labels that cannot be read as text"
        raise UnusableInput(where, what, "numbers or names", "save them again") from error
    distinct, which = np.unique(np.array(texts, object), return_inverse=True)
    if odd := [place for place, name in enumerate(distinct.tolist()) if name.strip() in MISSING]:
        called, gone = (
            some([repr(distinct[place]) for place in odd]),
            np.flatnonzero(np.isin(which, odd)).tolist(),
        )
        raise _missing(where, gone, len(texts), called, ", or rename the class if it is one")
    longest = max(distinct.tolist(), key=len, default="")
    if len(longest) > limits.LABEL:
        what = f"a label of {len(longest):,} characters ({longest[:20]}...)"
        raise UnusableInput(where, what, f"at most {limits.LABEL:,}", "give shorter labels")
    return np.array([label_of(name) for name in distinct.tolist()], np.str_)[which]


def _refuse_missing(where: str, labels: NDArray[Any]) -> None:
    """None, NaN, and pandas's NA and NaT are no classes: only None of them is equal to itself."""
    if labels.dtype.kind == "O":
        gone = [
            row
            for row, label in enumerate(labels.tolist())
            if label is None or not _is_itself(label)
        ]
    else:
        odd = (labels != labels) if labels.dtype.kind == "f" else np.zeros(len(labels), bool)
        gone = np.flatnonzero(odd if odd.ndim == 1 else odd.any(axis=1)).tolist()
    if gone:
        raise _missing(where, gone, len(labels), "None or NaN")


def _missing(
    where: str, gone: list[int], count: int, called: str, otherwise: str = ""
) -> UnusableInput:
    """What is said of labels, by their places among so many, that are none."""
    places = ", ".join(map(str, gone[:5])) + (", ..." if len(gone) > 5 else "")
    what = f"{len(gone)} of {count} labels are missing ({called}), at {places}"
    return UnusableInput(where, what, "a label for each image", f"remove those images{otherwise}")


def _is_itself(label: Any) -> bool:
    try:
        return bool(label == label)
    except (TypeError, ValueError):  # pandas.NA
        return False


def _channels_last(where: str, pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.dtype.kind not in "buif":
        raise UnusableInput(
            where, f"images of type {pixels.dtype}", "numbers", "convert them to uint8"
        )
    if pixels.ndim == 4 and pixels.shape[3] > 4 and pixels.shape[1] in (1, 3, 4):
        pixels = pixels.transpose(0, 2, 3, 1)  # PyTorch's order
    if (
        pixels.ndim not in (3, 4)
        or 0 in pixels.shape[1:]
        or (pixels.ndim == 4 and pixels.shape[3] > 4)
    ):
        expected = "(n, height, width) or (n, height, width, channels) with 1 to 4 channels"
        raise UnusableInput(where, f"images of shape {pixels.shape}", expected, "reshape them")
    return pixels
