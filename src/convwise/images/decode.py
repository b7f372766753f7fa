"""One file or array -> uint8 pixels. Every picture that convwise sees, to train or to predict,
passes here.

Decisions: EXIF and TIFF orientation is applied; transparent pixels are laid over white; values of
more than 8 bits are brought to 0..255 by the scale of their set (a picture without a set: 16-bit
gray is divided by 257); CMYK and the like become RGB by Pillow's plain formulas, colour profiles
are not applied; of several frames the first is taken.
"""

from __future__ import annotations

import hashlib
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from convwise.core.luma import LUMA
from convwise.core.problems import UnusableInput
from convwise.core.text import times
from convwise.images import kinds, limits
from convwise.images.value_range import ValueRange

Pixels = NDArray[np.uint8]
Way = Image.Resampling
File = str | Path | bytes | BinaryIO

# Only these decoders run: others of Pillow's start programs (EPS) or are rarely tested.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF", "AVIF")
MAX_PIXELS = limits.PICTURE
THUMBNAIL_PX = 16  # in which near duplicates are looked for
SMOOTH = Way.BILINEAR  # the one way in which pictures are resized: antialiased where they shrink
ROUGH = Way.NEAREST  # what others do, Keras's load_img among them: training meets it, nothing else
# Those that pictures of a set often have, as shares of the height and width of most of them
SHAPES = ((1, 3 / 4), (1, 4 / 3), (1, 6 / 5), (3 / 4, 1), (4 / 3, 1), (6 / 5, 1), (4 / 3, 4 / 3))
# Pillow's own limit refuses sound pictures with a large colour profile.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = limits.METADATA
# Pillow's own limit is double this and kept; its warning below that would only repeat ours.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Remarks on odd metadata, one for each file: the pixels are either read or the file is reported.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
GRAY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
WIDE_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
ORIENTATION_TAG = 0x0112
# The keys of Image.info in which Pillow looks for that tag
TURNED_BY = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})
# Pillow's blocks of 16 MiB stay with the thread that freed them; what is larger than 32 goes back
# to the system.
Image.core.set_block_size(64 * 2**20)  # type: ignore[attr-defined, unused-ignore]
# EXIF 2.3, tag Orientation: what makes the picture upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Header:
    """What the first bytes of a file say. height, width: of the upright picture, px; mode: Pillow's
    word.

    deep: of 16 bits a channel, of which Pillow gives the upper 8.
    """

    height: int
    width: int
    mode: str
    alpha: bool
    several_frames: bool
    deep: bool


@dataclass(frozen=True)
class Decoded:
    """pixels: (h, w, 1) where the content is gray, else (h, w, 3); image: the same, where Pillow
    holds it so.

    thumbnail: as `thumbnail` makes it of the same pixels, where it is known.
    """

    pixels: Pixels
    image: Image.Image | None = None
    thumbnail: bytes = b""

    def digest(self) -> bytes:
        """16 bytes, the same only for the same picture: size, gray or colour, and every value."""
        return digest(self.pixels)

    def resized(self, height: int, width: int, way: Way = SMOOTH) -> Pixels:
        """As `resize` makes it, (height, width, 1 or 3)."""
        if self.image is None or self.pixels.shape[:2] == (height, width):
            return resize(self.pixels, height, width, way)
        return np.asarray(self.image.resize((width, height), way)).reshape(height, width, -1)


def load_image(file: File, channels: int, value_range: ValueRange | None = None) -> Pixels:
    """The picture as (h, w, channels), channels 1 or 3; UnusableInput where it cannot be read."""
    try:
        return with_channels(decode(file, value_range).pixels, channels)
    except Exception as error:  # decoders fail in many ways; all mean: this file cannot be read
        where = str(file) if isinstance(file, (str, Path)) else "image"
        raise UnusableInput(
            where, explain(error, where), f"an image file ({', '.join(FORMATS)})"
        ) from None


def header(file: File) -> Header:
    """Size and mode, read without decoding the pixels."""
    with _open(file) as image:
        return _header(image)


def header_and_picture(data: bytes, size: tuple[int, int]) -> tuple[Header, Decoded | None]:
    """Both from one opening; the picture only where it has 8 bits and is of `size` (height, width),
    and sound.
    """
    with _open(data) as image:
        header = _header(image)
        if (header.height, header.width) != size or header.mode in WIDE_MODES:
            return header, None
        try:
            found = _gray_or_colour(_upright(image))
        except Exception:  # decoders fail in many ways
            return header, None
        if found.pixels.shape[:2] != size:  # a PNG may say at its end that it is to be turned
            return header, None
        return header, replace(
            found, thumbnail=_thumbnail_of(found.image) if found.image else thumbnail(found.pixels)
        )


def _header(image: Image.Image) -> Header:
    width, height = image.size
    # The plain method: that of a PNG decodes all pixels, to see what stands behind them.
    exif = Image.Image.getexif(image) if _may_be_turned(image) else {}
    # A TIFF is turned by Pillow as it is loaded
    turned = image.format != "TIFF" and exif.get(ORIENTATION_TAG, 1) in (5, 6, 7, 8)
    # To count frames can mean to walk through all of them: 60,000 pages of a TIFF.
    several = image.format != "MPO" and bool(getattr(image, "is_animated", False))
    size = (width, height) if turned else (height, width)
    deep = image.mode not in WIDE_MODES and ";16" in str(getattr(image, "tile", ""))
    return Header(*size, image.mode, image.has_transparency_data, several, deep)


def decode(file: File, value_range: ValueRange | None = None) -> Decoded:
    """Upright 8-bit pixels of a file; raises whatever the decoder raises.

    scale: what brings values of more than 8 bits to 0..255; of other pictures it changes nothing.
    """
    with _open(file) as image:
        upright = _upright(image)
        if upright.mode in WIDE_MODES:
            values = _finite(np.asarray(upright))
            return Decoded(
                (value_range.eight_bits(values) if value_range else _narrowed(values))[..., None]
            )
        return _gray_or_colour(upright)


def has_wide(modes: Iterable[str]) -> bool:
    """Whether any of Pillow's modes holds more than 8 bits."""
    return not WIDE_MODES.isdisjoint(modes)


def wide_values(file: File) -> NDArray[Any]:
    """The values (h, w) of a picture of one of the WIDE_MODES, as they are; ValueError where they
    are not finite.
    """
    with _open(file) as image:
        return _finite(np.asarray(_upright(image)))


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    """The same values; ValueError where some are NaN or infinite, of which no pixel can be made."""
    if values.dtype.kind == "f" and not (fine := np.isfinite(values)).all():
        raise ValueError(
            f"holds NaN or infinite values, {np.count_nonzero(~fine)} of {values.size}"
        )
    return values


def _upright(image: Image.Image) -> Image.Image:
    """As ImageOps.exif_transpose, which would also refuse a picture with an EXIF value that cannot
    be written anew.
    """
    image.load()
    turn = UPRIGHT.get(image.getexif().get(ORIENTATION_TAG, 1)) if _may_be_turned(image) else None
    return image if turn is None else image.transpose(turn)


def _may_be_turned(image: Image.Image) -> bool:
    """Whether there is anything for getexif to look at, which takes as long as a small picture."""
    return image.format == "TIFF" or not TURNED_BY.isdisjoint(image.info)


def explain(error: Exception, name: str = "") -> str:
    """Why a file of this name could not be read, in words fit for a report."""
    if isinstance(error, UnidentifiedImageError):
        kind = kinds.UNREAD.get(kinds.suffix(name))
        return kinds.unread(kind) if kind else "not an image in a format that can be read"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"over the limit of {MAX_PIXELS // 10**6} million pixels"
    if "MAX_TEXT" in str(error):
        return f"its colour profile or texts unpack to more than {limits.size(limits.METADATA)}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def with_channels(pixels: Pixels, channels: int) -> Pixels:
    """(..., h, w, 1 or 3) with 1 or 3 channels: gray is repeated, colour weighted by LUMA."""
    if pixels.shape[-1] == channels:
        return pixels
    if pixels.shape[-1] == 1:
        return np.repeat(pixels, 3, axis=-1)
    # The weights are whole numbers, as in Pillow, so that equal channels stay exact
    weights = np.array([round(share * 2**16) for share in LUMA], np.uint32)
    return ((pixels @ weights + 0x8000) >> 16).astype(np.uint8)[..., None]


def resize(pixels: Pixels, height: int, width: int, way: Way = SMOOTH) -> Pixels:
    """One image (h, w, 1 or 3) as (height, width, same), by Pillow."""
    if pixels.shape[:2] == (height, width):
        return pixels
    flat = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    small = Image.fromarray(np.ascontiguousarray(flat)).resize((width, height), way)
    return np.asarray(small).reshape(height, width, pixels.shape[2])


def stretched(pixels: Pixels) -> Pixels:
    """One image (h, w, 1 or 3) as it would be, had its picture had another shape and been resized
    without antialiasing. Which shape follows from its pixels.
    """
    height, width = pixels.shape[:2]
    rows, columns = SHAPES[zlib.crc32(pixels.tobytes()) % len(SHAPES)]
    other = resize(pixels, max(1, round(rows * height)), max(1, round(columns * width)))
    return resize(other, height, width, ROUGH)


def thumbnail(pixels: Pixels) -> bytes:
    """The gray values of a picture (h, w, 1 or 3) at THUMBNAIL_PX x THUMBNAIL_PX, row by row."""
    return _thumbnail_of(
        Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
    )


def _thumbnail_of(image: Image.Image) -> bytes:
    return image.convert("L").resize((THUMBNAIL_PX, THUMBNAIL_PX), SMOOTH).tobytes()


def digest(pixels: Pixels) -> bytes:
    """16 bytes that tell one picture from another, by shape and values."""
    code = hashlib.sha256(repr(pixels.shape).encode())  # processors have instructions for it
    code.update(np.ascontiguousarray(pixels).data)
    return code.digest()[:16]


def gray_ones(pixels: Pixels) -> list[bool]:
    """Of pictures (n, h, w, 1 or 3), whether each holds only gray."""
    first = (pixels[:, 0] == pixels[:, 0, :, :1]).all((1, 2))  # most often this says it already
    return [bool(alike) and is_gray(each) for each, alike in zip(pixels, first, strict=True)]


def is_gray(pixels: Pixels) -> bool:
    """True where the three channels of (..., 3), or all of (..., 1), are equal everywhere."""
    if pixels.shape[-1] == 1:
        return True
    if pixels.shape[0] > 1 and not is_gray(pixels[:1]):  # which most often says it already
        return False
    first = pixels[..., 0]
    return bool((first == pixels[..., 1]).all() and (first == pixels[..., 2]).all())


def without_alpha(pixels: NDArray[Any]) -> NDArray[Any]:
    """uint8 (..., 1 to 4): gray or RGB, with the alpha of (..., 2) and (..., 4) laid over white."""
    if pixels.shape[-1] in (1, 3):
        return pixels
    alpha = pixels[..., -1:].astype(np.uint16)
    over = pixels[..., :-1] * alpha + 255 * (255 - alpha)
    return ((over + 127) // 255).astype(np.uint8)


def _open(file: File) -> Image.Image:
    stream = BytesIO(file) if isinstance(file, bytes) else file
    if _is_empty(stream):
        raise ValueError("empty file")
    try:
        image = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        if kind := kinds.kind(_head(stream)):
            raise ValueError(kinds.unread(kind)) from None
        raise
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ValueError(
            f"{times(image.size)}, over the limit of {MAX_PIXELS // 10**6} million pixels"
        )
    return image


def _is_empty(file: str | Path | BinaryIO) -> bool:
    if isinstance(file, (str, Path)):
        return Path(file).stat().st_size == 0
    empty = not file.read(1)
    file.seek(0)
    return empty


def _head(file: str | Path | BinaryIO) -> bytes:
    if isinstance(file, (str, Path)):
        with open(file, "rb") as stream:
            return stream.read(kinds.HEAD)
    file.seek(0)
    return file.read(kinds.HEAD)


def _gray_or_colour(image: Image.Image) -> Decoded:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "L" if image.mode in GRAY_MODES else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    pixels = np.asarray(image).reshape(image.height, image.width, -1)
    return Decoded(pixels[..., :1]) if mode == "RGB" and is_gray(pixels) else Decoded(pixels, image)


def _narrowed(values: NDArray[Any]) -> Pixels:
    """16-bit, 32-bit or float values (h, w) as uint8: floats in 0..1 are multiplied by 255, other
    floats kept.
    """
    factor = 1 / 257
    if values.dtype.kind == "f":
        factor = 255.0 if values.min() >= 0 and values.max() <= 1 else 1.0
    return np.clip(np.rint(values * factor), 0, 255).astype(np.uint8)
