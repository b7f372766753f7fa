"""A few pictures of a source, to look at: without reading the rest of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from convwise.images import files, sources
from convwise.images.decode import Pixels
from convwise.images.sources import Block
from convwise.images.store import Store


def preview(source: Any, count: int = 6, limit_px: int = 256) -> list[Pixels]:
    """At most `count` images, uint8 (h, w, channels), of as many classes as can be; none that the
    source calls test.

    limit_px: of the longer side. UnusableInput where the source cannot be read.
    """
    found = sources.find(source)
    try:
        items = [item for item in found.items if item.part != "test"] or list(found.items)
        blocks = [block for block in found.blocks if block.part != "test"] or list(found.blocks)
        items = [items[row] for row in _various([item.label for item in items], count)]
        few = replace(
            found, items=tuple(items), blocks=tuple(_few(block, count) for block in blocks[:1])
        )
        pixels = files.stacked(few, limit_px, Store(None, 0))[0].pixels
        return list(pixels[np.arange(min(count, pixels.shape[0]))])
    finally:
        found.close()


def _few(block: Block, count: int) -> Block:
    rows = _various(block.labels.tolist(), count)
    return replace(block, pixels=block.pixels[rows], labels=block.labels[rows])


def _various(labels: Sequence[str], count: int) -> list[int]:
    """The first row of each class, then others, in their order: at most `count`."""
    first = dict(reversed([(label, row) for row, label in enumerate(labels)]))
    chosen: Iterable[int] = [*sorted(first.values()), *range(len(labels))]
    return sorted(list(dict.fromkeys(chosen))[:count])
