"""Arrays: (x, y) in memory, and .npz files in Keras's and MedMNIST's naming."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core.problems import UnusableInput
from convwise.images import limits
from convwise.images.sources.folder import name_of
from convwise.images.sources.found import Block, Found, PartName, decoded, label_of, shown

# (images, labels, part), in lower case; the names of Keras, of MedMNIST, and plain ones.
KEYS: tuple[tuple[str, str, PartName | None], ...] = (
    ("x_train", "y_train", "train"),
    ("x_val", "y_val", "valid"),
    ("x_valid", "y_valid", "valid"),
    ("x_test", "y_test", "test"),
    ("train_images", "train_labels", "train"),
    ("val_images", "val_labels", "valid"),
    ("test_images", "test_labels", "test"),
    ("x", "y", None),
    ("images", "labels", None),
)
NAMING = "x_train, y_train, x_test, y_test, or train_images, train_labels, val_images, ..., or x, y"


def recognises_npz(source: Any) -> bool:
    """Whether source is the path of an .npz file."""
    return isinstance(source, (str, Path)) and Path(source).is_file() and Path(source).suffix.lower() == ".npz"


def recognises_pair(source: Any) -> bool:
    """Whether source is two things: images and labels, or a train and a test part."""
    return isinstance(source, (tuple, list)) and len(source) == 2


def find_npz(source: Any) -> Found:
    """The arrays of an .npz file; nothing pickled is ever loaded."""
    where = name_of(Path(source))
    arrays = _load(Path(source), where)
    pairs = [(x, y, part) for x, y, part in KEYS if x in arrays]
    if not any(part != "test" for _, _, part in pairs):
        raise UnusableInput(where, f"holds the arrays {', '.join(sorted(arrays)) or '(none)'}", NAMING, "rename them")
    missing = [y for _, y, _ in pairs if y not in arrays]
    if missing:
        raise UnusableInput(where, f"has images but no {', '.join(missing)}", NAMING, "add the labels")
    blocks = tuple(block(f"{where}, {x}", arrays[x], arrays[y], part) for x, y, part in pairs)
    return Found(where, blocks=tuple(b for b in blocks if len(b.labels)))


def npz_pictures(source: Any) -> Found:
    """The arrays of images in an .npz file, with or without labels beside them."""
    where = name_of(Path(source))
    arrays = _load(Path(source), where)
    found = [(pixels_of(f"{where}, {x}", arrays[x]), part) for x, _, part in KEYS if x in arrays]
    if not found:
        raise UnusableInput(where, f"holds the arrays {', '.join(sorted(arrays)) or '(none)'}", NAMING, "rename them")
    return Found(where, blocks=tuple(Block(part, pixels, np.full(len(pixels), "")) for pixels, part in found))


def find_pair(source: Any) -> Found:
    """(x, y), or ((x_train, y_train), (x_test, y_test)) as the data sets of Keras come."""
    if isinstance(source[0], (tuple, list)) and len(source[0]) == len(source[1]) == 2:
        (x_train, y_train), (x_test, y_test) = source
        blocks = (block("train", x_train, y_train, "train"), block("test", x_test, y_test, "test"))
        return Found("arrays", blocks=blocks)
    return Found("arrays", blocks=(block("(x, y)", source[0], source[1], None),))


def block(where: str, images: Any, labels: Any, part: PartName | None) -> Block:
    """Images (n, h, w[, channels]) and labels (n,), (n, 1), one-hot (n, classes) or numbers (n, k), as a Block.

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
        raise UnusableInput(where, what, "numpy arrays, or what numpy makes one of", "convert it") from error


def _load(path: Path, where: str) -> Mapping[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as file:
            wanted = {name for row in KEYS for name in row[:2]}
            taken = [key for key in file.files if key.lower() in wanted]
            total = sum(_claimed(archive, key) for key in taken)
            if total > (most := limits.unpacked(path.stat().st_size)):
                raise UnusableInput(where, f"unpacks to {limits.size(total)}", f"at most {limits.size(most)}")
            # Other arrays in the file are not unpacked: only their names are needed, for the message.
            return {shown(key.lower()): file[key] if key in taken else np.empty(0) for key in file.files}
    except UnusableInput:
        raise
    except Exception as error:  # a damaged archive fails in many ways: zip, zlib, header, size
        fix = "save plain arrays: np.savez(file, x_train=..., y_train=...)"
        what = f"not a readable .npz ({shown(str(error))})"
        raise UnusableInput(where, what, "arrays of numbers, none pickled", fix) from None


def _claimed(archive: zipfile.ZipFile, key: str) -> int:
    """Bytes of an array by its header, where that agrees with the file; numpy takes so much memory at once."""
    name = key if key in archive.namelist() else f"{key}.npy"
    with archive.open(name) as stream:
        version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call, unused-ignore]
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)  # type: ignore[no-untyped-call, unused-ignore]
        claimed, there = math.prod(shape) * dtype.itemsize, archive.getinfo(name).file_size - stream.tell()
    if claimed != there and not dtype.hasobject:  # objects are refused by numpy, in better words
        raise ValueError(f"{key} should have {claimed} bytes and has {there}")
    return int(claimed)


def _labels(where: str, labels: NDArray[Any]) -> NDArray[Any]:
    if labels.dtype.kind not in "biufUSO":
        raise UnusableInput(where, f"labels of type {labels.dtype}", "class numbers or names", "convert them")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and bool(((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()):
        labels = labels.argmax(axis=1)
    if labels.ndim == 2 and labels.dtype.kind in "biuf" and labels.shape[1]:
        _refuse_missing(where, labels)
        return labels.astype(np.float64)
    if labels.ndim != 1:
        what = f"labels of shape {labels.shape}, not one class for each image"
        expected = "labels (n,), (n, 1), one-hot (n, classes), or with --task regress numbers (n, k)"
        raise UnusableInput(where, what, expected)
    _refuse_missing(where, labels)
    if labels.dtype.kind == "f":
        if not (np.isfinite(labels).all() and (labels == np.rint(labels)).all()):
            return labels.astype(np.float64)
        labels = labels.astype(np.int64)
    if labels.dtype.kind in "US" and labels.dtype.itemsize > 4 * limits.LABEL:
        labels = labels.astype(object)  # as wide as its longest: each is looked at alone
    try:
        texts = [decoded(label) if isinstance(label, bytes) else str(label) for label in labels.tolist()]
    except (SystemError, ValueError) as error:  # numpy's words for a character beyond U+10FFFF
        raise UnusableInput(where, "labels that are no text", "class numbers or names", "save them again") from error
    distinct, which = np.unique(np.array(texts, object), return_inverse=True)
    longest = max(distinct.tolist(), key=len, default="")
    if len(longest) > limits.LABEL:
        what = f"a label of {len(longest):,} characters ({longest[:20]}...)"
        raise UnusableInput(where, what, f"at most {limits.LABEL:,}", "give class names or numbers")
    return np.array([label_of(name) for name in distinct.tolist()], np.str_)[which]


def _refuse_missing(where: str, labels: NDArray[Any]) -> None:
    """None, NaN, and pandas's NA and NaT are no classes: of them all, only None is equal to itself."""
    if labels.dtype.kind == "O":
        gone = [row for row, label in enumerate(labels.tolist()) if label is None or not _is_itself(label)]
    else:
        odd = (labels != labels) if labels.dtype.kind == "f" else np.zeros(len(labels), bool)
        gone = np.flatnonzero(odd if odd.ndim == 1 else odd.any(axis=1)).tolist()
    if gone:
        some = ", ".join(map(str, gone[:5])) + (", ..." if len(gone) > 5 else "")
        what = f"{len(gone)} of {len(labels)} labels are missing (None or NaN), at {some}"
        raise UnusableInput(where, what, "a class for each image", "remove those images")


def _is_itself(label: Any) -> bool:
    try:
        return bool(label == label)
    except (TypeError, ValueError):  # pandas.NA
        return False


def _channels_last(where: str, pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.dtype.kind not in "buif":
        raise UnusableInput(where, f"images of type {pixels.dtype}", "numbers", "convert them to uint8")
    if pixels.ndim == 4 and pixels.shape[3] > 4 and pixels.shape[1] in (1, 3, 4):
        pixels = pixels.transpose(0, 2, 3, 1)  # PyTorch's order
    if pixels.ndim not in (3, 4) or 0 in pixels.shape[1:] or (pixels.ndim == 4 and pixels.shape[3] > 4):
        expected = "(n, height, width) or (n, height, width, channels) with 1 to 4 channels"
        raise UnusableInput(where, f"images of shape {pixels.shape}", expected, "reshape them")
    return pixels
