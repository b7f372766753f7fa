"""The shortest way to the pixels of many small JPEGs of one size, by Pillow's own decoder.

Pillow's open reads all that a file says of itself before its pixels, which takes longer than to
decode 64x64 px. Most small JPEGs say nothing but their size. Those are handed to the decoder at
once, and laid one below the other, so that what follows is asked once for all of them. Whatever
says more, is of another kind or is not sound is left to the usual way, which also has the words for
what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from convwise.images import decode
from convwise.images.decode import THUMBNAIL_PX, Decoded, Header, Pixels

MODES = {1: "L", 3: "RGB"}  # by the number of components, as Pillow takes it
FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, all of Huffman codes
# Quantisation and Huffman tables, restart interval, JFIF, comment: nothing that changes how the
# picture is to be seen.
SKIPPED = frozenset((0xDB, 0xC4, 0xDD, 0xE0, 0xFE))
START_OF_SCAN = 0xDA


def pictures(files: Sequence[bytes], size: tuple[int, int]) -> dict[int, tuple[Header, Decoded]]:
    """Of the files that are plain JPEGs of `size` (height, width): place -> header and picture."""
    found: dict[int, tuple[Header, Decoded]] = {}
    head, mode = b"", None
    # For each mode, pictures one below the other, and their places
    strips: dict[str, tuple[Image.Image, list[int]]] = {}
    height, width = size
    for place, data in enumerate(files):
        # Files of one program often begin alike, so the head of the last one is tried first
        if not (head and data.startswith(head)):
            head, mode = _head(data, size)
        if not mode:
            continue
        if mode not in strips:
            strips[mode] = Image.new(mode, (width, height * len(files))), []
        strip, places = strips[mode]
        if _laid(strip, data, (0, len(places) * height, width, (len(places) + 1) * height)):
            places.append(place)
    for mode, (strip, places) in strips.items():
        if places:
            header = Header(*size, mode, alpha=False, several_frames=False, deep=False)
            laid = (
                strip
                if len(places) == len(files)
                else strip.crop((0, 0, width, len(places) * height))
            )
            found |= zip(
                places, ((header, each) for each in _decoded(laid, len(places))), strict=True
            )
    return found


def _laid(strip: Image.Image, data: bytes, box: tuple[int, int, int, int]) -> bool:
    """Decode a JPEG to its place in a strip; False where it is cut off or damaged."""
    try:
        # This is what Image.frombytes does with a whole image
        decoder = Image._getdecoder(strip.mode, "jpeg", (strip.mode, ""))
        decoder.setimage(strip.im, box)
        rest, error = decoder.decode(data)
    except Exception:
        return False
    return rest < 0 and error == 0  # as Image.frombytes has it


def _decoded(strip: Image.Image, count: int) -> list[Decoded]:
    """The pictures of a strip as decode.decode gives them, with their thumbnails."""
    pixels = np.asarray(strip).reshape(count, -1, strip.width, len(strip.getbands()))
    gray = decode.gray_ones(pixels)
    if strip.height > count * strip.width:  # of high pictures Pillow may resize the columns first
        small = [decode.thumbnail(each) for each in pixels]
    else:
        small = [each.tobytes() for each in _thumbnails(strip.convert("L"), count)]
    return [
        Decoded(each[..., :1] if alike else each, thumbnail=shown)
        for each, alike, shown in zip(pixels, gray, small, strict=True)
    ]


def _thumbnails(strip: Image.Image, count: int) -> Pixels:
    """decode.thumbnail of each of the pictures that lie in a strip of mode L, one below the other.

    Pillow resizes rows, then columns. Here the columns are turned into rows in between: so no
    picture meets the next.
    """
    rows = strip.resize((THUMBNAIL_PX, strip.height), decode.SMOOTH)
    columns = np.asarray(rows).reshape(count, -1, THUMBNAIL_PX).swapaxes(1, 2)
    turned = Image.fromarray(columns.reshape(count * THUMBNAIL_PX, -1))
    small = np.asarray(turned.resize((THUMBNAIL_PX, turned.height), decode.SMOOTH))
    return small.reshape(count, THUMBNAIL_PX, THUMBNAIL_PX).swapaxes(1, 2)


def _head(data: bytes, size: tuple[int, int]) -> tuple[bytes, str | None]:
    """What stands before the scan of a plain JPEG of this size, and Pillow's mode of it; (b'',
    None) for any other.
    """
    if data[:3] != b"\xff\xd8\xff":
        return b"", None
    at, mode = 2, None
    while at + 10 <= len(data) and data[at] == 0xFF:
        kind = data[at + 1]
        if kind in FRAMES:
            of_size = data[at + 4] == 8 and size == (
                data[at + 5] << 8 | data[at + 6],
                data[at + 7] << 8 | data[at + 8],
            )
            if mode or not of_size:
                break
            mode = MODES.get(data[at + 9])
        elif kind == START_OF_SCAN:
            return (data[: at + 2], mode) if mode else (b"", None)
        elif kind not in SKIPPED:
            break
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return b"", None
