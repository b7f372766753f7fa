"""One side of the split: its images at any size, each resized once; and the test part, sealed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.images import decode, stack
from convwise.images.decode import Pixels, with_channels

Labels = NDArray[Any]


@dataclass(frozen=True)
class Part:
    """Images of one side of the split.

    pixels: uint8 (n, height, width, channels), mapped from disk where read() had a cache;
    labels: (n,) int64 index into Images.classes, or float64 numbers, of several (n, k); names: the
    path inside the source, or part/index; origins: what gives each picture as it was decoded, or
    none where `pixels` holds them all so; base: of a part made by `at`, the one that it was made
    from.
    """

    pixels: Pixels
    labels: Labels
    names: tuple[str, ...]
    origins: tuple[stack.Origin, ...] = ()
    base: Part | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: NDArray[np.int64]) -> Part:
        """Some of the images, by their positions."""
        names, origins = (
            tuple(each[row] for row in rows) if each else () for each in (self.names, self.origins)
        )
        return Part(
            np.asarray(self.pixels[rows]),
            self.labels[rows],
            names,
            origins,
            self.base and self.base[rows],
        )

    def with_channels(self, channels: int) -> Part:
        """The same images with 1 or 3 channels."""
        if self.pixels.shape[3] == channels:
            return self

        pixels = with_channels(np.asarray(self.pixels), channels)
        origins = tuple(origin and origin.with_channels(channels) for origin in self.origins)
        return replace(
            self,
            pixels=pixels,
            origins=origins,
            base=self.base and self.base.with_channels(channels),
        )

    def at(self, height: int, width: int) -> Part:
        """The same images at another size, each resized once, from what was decoded."""
        whole = self.base or self
        return (
            whole
            if whole.pixels.shape[1:3] == (height, width)
            else whole._resized(height, width, decode.SMOOTH)
        )

    def ways(self, height: int, width: int, *, stretched: bool = False) -> tuple[Part, Part | None]:
        """At a size, `at`, and the same without antialiasing, or None where nothing is resized.

        Others resize without it (Keras's load_img, tf.image.resize): so a network learns from both
        to answer them alike. stretched: pictures that have the size already, and so are the same
        in both, are in the second as though they had another shape; see `decode.stretched`.
        """
        whole = self.base or self
        same = whole.pixels.shape[1:3] == (height, width) and not whole.origins
        if same:
            return self.at(height, width), None
        smooth = whole
        if whole.pixels.shape[1:3] != (height, width):
            smooth = whole._resized(height, width, decode.SMOOTH, decode.ROUGH)
        return smooth, whole._resized(height, width, decode.ROUGH, stretched=stretched)

    def _resized(self, height: int, width: int, *ways: decode.Way, stretched: bool = False) -> Part:
        """In the first of the ways; the others will be asked for."""
        file, way = file_of(self.pixels), ways[0].name.lower() + "-stretched" * stretched
        beside = file and file.with_name(f"{file.stem}-{height}x{width}-{way}.npy")
        pixels = stack.resized(self.pixels, height, width, beside, self.origins, ways, stretched)
        return replace(self, pixels=pixels, base=self)


class Sealed:
    """The test part, kept from every phase but the last; `opened` counts its openings."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._opened = 0

    @property
    def size(self) -> int:
        """How many images there are; looking at this opens nothing."""
        return len(self._part)

    @property
    def opened(self) -> int:
        return self._opened

    def open(self) -> Part:
        self._opened += 1
        return self._part

    def at(self, height: int, width: int) -> Sealed:
        """The same part at another size, still sealed; opening it counts here too."""
        return (
            self
            if self._part.pixels.shape[1:3] == (height, width)
            else _SealedAt(self, height, width)
        )


class _SealedAt(Sealed):
    """A sealed part that is resized when it is opened."""

    def __init__(self, inner: Sealed, height: int, width: int) -> None:
        super().__init__(inner._part)
        self._inner, self._shape = inner, (height, width)

    @property
    def opened(self) -> int:
        return self._inner.opened

    def open(self) -> Part:
        return self._inner.open().at(*self._shape)

    def at(self, height: int, width: int) -> Sealed:
        return self._inner.at(height, width)


def file_of(pixels: Pixels) -> Path | None:
    """Where pixels are mapped from, if they are."""
    return Path(pixels.filename) if isinstance(pixels, np.memmap) and pixels.filename else None
