"""Every picture of a source, one at a time, to be labelled by a network that learnt from others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from convwise.images import decode, sources
from convwise.images.decode import Pixels
from convwise.images.scale import Scale
from convwise.images.sources import Item
from convwise.images.stack import as_learnt, encoded

Picture = tuple[str, Callable[[], Pixels]]  # its name, and its pixels (h, w, channels) when they are needed


def pictures(source: Any, channels: int, scale: Scale) -> list[Picture]:
    """All pictures of anything that `read` reads, of a loose folder, or of one file; classes are not asked for.

    scale: of the set that was learnt from. UnusableInput where there is none; a picture that
    cannot be read raises UnusableInput when its pixels are asked for.
    """
    found = sources.pictures(source)
    files: list[Picture] = [(item.name, partial(_of_file, item, channels, scale)) for item in found.items]
    held: list[Picture] = [
        (f"{block.part or 'images'}/{index}", partial(decode.with_channels, image, channels))
        for block in found.blocks
        for index, image in enumerate(as_learnt(found.name, block.pixels, scale))
    ]
    return files + held


def _of_file(item: Item, channels: int, scale: Scale) -> Pixels:
    return decode.load_image(encoded(item), channels, scale)
