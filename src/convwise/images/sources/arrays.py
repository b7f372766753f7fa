"""Arrays: (x, y) in memory, and .npz files in Keras's and MedMNIST's naming."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core.problems import UnusableInput
from convwise.images.sources.found import MAX_BYTES, Block, Found, PartName

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
    where = str(source)
    arrays = _load(where)
    pairs = [(x, y, part) for x, y, part in KEYS if x in arrays]
    if not any(part != "test" for _, _, part in pairs):
        raise UnusableInput(where, f"holds the arrays {', '.join(sorted(arrays)) or '(none)'}", NAMING, "rename them")
    missing = [y for _, y, _ in pairs if y not in arrays]
    if missing:
        raise UnusableInput(where, f"has images but no {', '.join(missing)}", NAMING, "add the labels")
    blocks = tuple(block(f"{where}, {x}", arrays[x], arrays[y], part) for x, y, part in pairs)
    return Found(where, blocks=tuple(b for b in blocks if len(b.labels)))


def find_pair(source: Any) -> Found:
    """(x, y), or ((x_train, y_train), (x_test, y_test)) as the data sets of Keras come."""
    if isinstance(source[0], (tuple, list)) and len(source[0]) == len(source[1]) == 2:
        (x_train, y_train), (x_test, y_test) = source
        blocks = (block("train", x_train, y_train, "train"), block("test", x_test, y_test, "test"))
        return Found("arrays", blocks=blocks)
    return Found("arrays", blocks=(block("(x, y)", source[0], source[1], None),))


def block(where: str, images: Any, labels: Any, part: PartName | None) -> Block:
    """Images (n, h, w[, channels]) and labels (n,), (n, 1) or one-hot (n, classes), checked, as a Block."""
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
        what = f"{type(thing).__name__} is no array ({error})"
        raise UnusableInput(where, what, "numpy arrays, or what numpy makes one of", "convert it") from error


def _load(where: str) -> Mapping[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(where) as archive:
            total = sum(info.file_size for info in archive.infolist())
        if total > MAX_BYTES:
            raise UnusableInput(where, f"unpacks to {total / 2**30:.1f} GiB", f"at most {MAX_BYTES / 2**30:.0f} GiB")
        with np.load(where, allow_pickle=False) as file:
            wanted = {name for row in KEYS for name in row[:2]}
            # Other arrays in the file are not unpacked: only their names are needed, for the message.
            return {key.lower(): file[key] if key.lower() in wanted else np.empty(0) for key in file.files}
    except UnusableInput:
        raise
    except Exception as error:  # a damaged archive fails in many ways: zip, zlib, header, size
        fix = "save plain arrays: np.savez(file, x_train=..., y_train=...)"
        raise UnusableInput(where, f"not a readable .npz ({error})", "arrays of numbers, none pickled", fix) from None


def _labels(where: str, labels: NDArray[Any]) -> NDArray[np.str_]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and bool(((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()):
        labels = labels.argmax(axis=1)
    if labels.ndim != 1:
        what = f"labels of shape {labels.shape}, not one class for each image"
        raise UnusableInput(where, what, "labels (n,), (n, 1) or one-hot (n, classes)")
    if labels.dtype.kind == "f":
        labels = _whole(where, labels)
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8")
    return labels.astype(np.str_)


def _whole(where: str, labels: NDArray[Any]) -> NDArray[np.int64]:
    if not (np.isfinite(labels).all() and (labels == np.rint(labels)).all()):
        what = "labels that are fractions or NaN"
        raise UnusableInput(where, what, "class numbers or names", "this may be regression")
    return labels.astype(np.int64)


def _channels_last(where: str, pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.dtype.kind not in "buif":
        raise UnusableInput(where, f"images of type {pixels.dtype}", "numbers", "convert them to uint8")
    if pixels.ndim == 4 and pixels.shape[3] > 4 and pixels.shape[1] in (1, 3, 4):
        pixels = pixels.transpose(0, 2, 3, 1)  # PyTorch's order
    if pixels.ndim not in (3, 4) or 0 in pixels.shape[1:] or (pixels.ndim == 4 and pixels.shape[3] > 4):
        expected = "(n, height, width) or (n, height, width, channels) with 1 to 4 channels"
        raise UnusableInput(where, f"images of shape {pixels.shape}", expected, "reshape them")
    return pixels
