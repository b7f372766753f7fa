"""Every picture of a source, one at a time, to be labelled by a network that learnt from others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from convwise.core.places import CACHE_SIZE
from convwise.core.problems import UnusableInput
from convwise.images import decode, files, sources, stack
from convwise.images.decode import Pixels
from convwise.images.shelves import Shelves
from convwise.images.sources import Item, datasets
from convwise.images.store import Store
from convwise.images.value_range import ValueRange

# Its name, and what gives its pixels (height, width, channels) at a size when they are needed.
Picture = tuple[str, Callable[[int, int], Pixels]]


@contextmanager
def pictures(
    source: Any, channels: int, value_range: ValueRange, follow_links: bool = False,
    wide: bool = True,
    cache_size: str | int = CACHE_SIZE,
) -> Iterator[list[Picture]]:  # fmt: skip
    """All pictures of whatever `read` reads by its name, of a loose folder, of one file, of a data
    set, or of an array.

    value_range: of the set that was learnt from; wide: whether its files had more than 8 bits, so
    that it holds for such files; follow_links: as in Reading; cache_size: of what is kept of
    decoded files, as in Within. Classes are not asked for.
    UnusableInput where there is none; a picture that cannot be read raises UnusableInput when its
    pixels are asked for. The picture of an array is called by its index.
    """
    if not isinstance(source, (str, Path)) and not datasets.recognises(source):
        pixels = stack.as_learnt("images", source, value_range)
        yield [(str(index), partial(_held, image, channels)) for index, image in enumerate(pixels)]
        return
    found = sources.pictures(source, sources.Reading(follow_links=follow_links, labelled=False))
    store = Store.usual(cache_size)
    give = partial(_of_file, Shelves(store, found.place), channels, value_range if wide else None)
    try:
        encoded: list[Picture] = [(item.name, partial(give, item)) for item in found.items]
        held: list[Picture] = [
            (f"{block.part or 'images'}/{index}", partial(_held, image, channels))
            for block in found.blocks
            for index, image in enumerate(stack.as_learnt(found.name, block.pixels, value_range))
        ]
        yield encoded + held
    finally:
        store.flush()
        found.close()


def _held(pixels: Pixels, channels: int, height: int, width: int) -> Pixels:
    return decode.resize(decode.with_channels(pixels, channels), height, width)


def _of_file(
    shelves: Shelves,
    channels: int,
    value_range: ValueRange | None,
    item: Item,
    height: int,
    width: int,
) -> Pixels:
    try:
        return files.prepared(item, shelves, (height, width, channels), value_range)
    except Exception as error:
        # What decoders, archives and file systems raise has no common base
        expected = f"an image file ({', '.join(decode.FORMATS)})"
        raise UnusableInput(item.name, decode.explain(error, item.name), expected) from None
