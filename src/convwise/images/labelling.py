"""Every picture of a source, one at a time, to be labelled by a network that learnt from others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from convwise.core.problems import UnusableInput
from convwise.images import decode, sources
from convwise.images.decode import Pixels
from convwise.images.files import encoded
from convwise.images.scale import Scale
from convwise.images.sources import Item, datasets
from convwise.images.stack import as_learnt

Picture = tuple[str, Callable[[], Pixels]]  # its name, and its pixels (h, w, channels) when they are needed


@contextmanager
def pictures(
    source: Any, channels: int, scale: Scale, follow_links: bool = False, wide: bool = True
) -> Iterator[list[Picture]]:
    """All pictures of whatever `read` reads by its name, of a loose folder, of one file, of a data set, or of an array.

    scale: of the set that was learnt from; wide: whether its files had more than 8 bits, so that it holds for
    such files; follow_links: as in Reading. Classes are not asked for.
    UnusableInput where there is none; a picture that cannot be read raises UnusableInput when its pixels
    are asked for. The picture of an array is called by its index.
    """
    if not isinstance(source, (str, Path)) and not datasets.recognises(source):
        pixels = as_learnt("images", source, scale)
        yield [(str(index), partial(decode.with_channels, image, channels)) for index, image in enumerate(pixels)]
        return
    found = sources.pictures(source, sources.Reading(follow_links=follow_links, labelled=False))
    try:
        theirs = scale if wide else None
        files: list[Picture] = [(item.name, partial(_of_file, item, channels, theirs)) for item in found.items]
        held: list[Picture] = [
            (f"{block.part or 'images'}/{index}", partial(decode.with_channels, image, channels))
            for block in found.blocks
            for index, image in enumerate(as_learnt(found.name, block.pixels, scale))
        ]
        yield files + held
    finally:
        found.close()


def _of_file(item: Item, channels: int, scale: Scale | None) -> Pixels:
    try:
        data = encoded(item)
    except Exception as error:  # what an archive or a file system raises has no common base
        raise UnusableInput(item.name, decode.explain(error), "an image file") from None
    return decode.load_image(data, channels, scale)
