"""Data sets of PyTorch and TensorFlow: known by what they can do, so that neither is imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core.problems import UnusableInput
from convwise.images.sources.arrays import array_of, block
from convwise.images.sources.found import Block, Found

MOST_BYTES = 8 * 2**30  # all images are held in memory at once
PAIRS = "finitely many pairs (image, label), all images of one shape"


def recognises(source: Any) -> bool:
    """Whether source is a tf.data.Dataset, or has items by number as a torch Dataset has."""
    plain = isinstance(source, (str, Path, tuple, list, Mapping)) or hasattr(source, "shape")
    return hasattr(source, "as_numpy_iterator") or (hasattr(source, "__getitem__") and not plain)


def find(source: Any) -> Found:
    """All images of the data set, in memory; UnusableInput where it has no end or no pairs."""
    where = type(source).__name__.lstrip("_")
    images: list[NDArray[Any]] = []
    labels: list[Any] = []
    for item in _items(where, source):
        some, theirs = _batch(where, item)
        images += [array_of(where, _plain(image)) for image in some]
        # A single label as Python has it: among arrays of text, numpy would write NaN as the word
        told = [array_of(where, label) for label in theirs]
        labels += [label.item() if label.ndim == 0 else label for label in told]
        _check(where, images)
    if not images:
        raise UnusableInput(where, "holds no image", PAIRS)
    return Found(where, blocks=(_named(source, block(where, np.stack(images), labels, None)),))


def _items(where: str, source: Any) -> Iterator[Any]:
    if hasattr(source, "as_numpy_iterator"):
        if int(source.cardinality()) == -1:  # tf.data.INFINITE_CARDINALITY
            raise UnusableInput(where, "never ends", PAIRS, "remove repeat()")
        return iter(source.as_numpy_iterator())
    if not hasattr(source, "__len__"):
        raise UnusableInput(
            where, "has no length, such as an IterableDataset", PAIRS, "give a map-style data set"
        )
    return (source[index] for index in range(len(source)))


def _batch(where: str, item: Any) -> tuple[Any, Any]:
    """Images and labels of an item, which holds one of each or many."""
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise UnusableInput(
            where, f"gives items of type {type(item).__name__}", PAIRS, "let it give (image, label)"
        )
    images, labels = item
    return (images, labels) if getattr(images, "ndim", 3) == 4 else ([images], [labels])


def _check(where: str, images: Sequence[NDArray[Any]]) -> None:
    first, last = images[0], images[-1]
    if first.shape != last.shape:
        what = f"images of the shapes {first.shape} and {last.shape}"
        raise UnusableInput(
            where, what, PAIRS, "resize them in the data set, or give the folder they are in"
        )
    if len(images) * first.nbytes > MOST_BYTES:
        what = f"holds over {MOST_BYTES / 2**30:.0f} GiB of images"
        raise UnusableInput(
            where, what, "a set that fits into memory", "give the folder of the images instead"
        )


def _plain(image: Any) -> Any:
    """A Pillow image whose array holds gray or colour: no palette, no ink; others as they are."""
    if not hasattr(image, "has_transparency_data"):
        return image
    if image.has_transparency_data:
        return image.convert("RGBA")
    gray = image.mode in ("L", "F") or image.mode.startswith("I")
    return image if gray else image.convert("L" if image.mode == "1" else "RGB")


def _named(source: Any, numbered: Block) -> Block:
    """With the class names of torchvision (`classes`) or Keras (`class_names`) where labels are
    their numbers.
    """
    names = getattr(source, "classes", None) or getattr(source, "class_names", None)
    numbers = {str(number): str(name) for number, name in enumerate(names or ())}
    if not names or not set(numbered.labels.tolist()) <= set(numbers):
        return numbered
    return replace(
        numbered, labels=np.array([numbers[label] for label in numbered.labels.tolist()])
    )
