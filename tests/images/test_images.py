"""loading.py, decode.py, stack.py, splits.py: decoding, checks, duplicates, splits, the seal."""

from __future__ import annotations

import io
import math
import os
import struct
import warnings
import zlib
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from convwise.core.problems import UnusableInput
from convwise.images.decode import MAX_PIXELS, with_channels
from convwise.images.loading import load_image, pictures, read, resize
from convwise.images.splits import TEST, TRAIN, VALID, draw, leaks
from convwise.images.value_range import ValueRange
from imagesets import blobs, picture, striped, write_folder, write_idx, write_parts, write_zip

DATA = Path(__file__).parents[3] / "shared" / "data"
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)


def encoded(image: Image.Image, format: str = "PNG", **how) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **how)
    return stream.getvalue()


def said(images) -> str:
    return " | ".join(map(str, images.problems))


def refused(source, **how) -> str:
    with pytest.raises(UnusableInput) as caught:
        read(source, **how)
    return str(caught.value)


# --- one file -> pixels -------------------------------------------------------------------------


class TestModes:
    """Each of Pillow's modes that files come in; the expected values are worked out by hand."""

    def test_gray_and_colour(self):
        np.testing.assert_array_equal(load_image(encoded(Image.fromarray(GRAY)), 1)[..., 0], GRAY)
        np.testing.assert_array_equal(load_image(encoded(Image.fromarray(COLOUR)), 3), COLOUR)

    def test_gray_to_colour_and_back(self):
        three = load_image(encoded(Image.fromarray(GRAY)), 3)
        np.testing.assert_array_equal(three, np.stack([GRAY] * 3, axis=-1))
        one = load_image(encoded(Image.fromarray(COLOUR)), 1)
        np.testing.assert_array_equal(one[..., 0], np.asarray(Image.fromarray(COLOUR).convert("L")))

    def test_gray_stored_in_colour_is_exact(self):
        stored = Image.fromarray(np.stack([GRAY] * 3, axis=-1))
        np.testing.assert_array_equal(load_image(encoded(stored), 1)[..., 0], GRAY)

    def test_one_bit(self):
        bits = Image.fromarray(GRAY > 128)
        assert bits.mode == "1"
        np.testing.assert_array_equal(
            load_image(encoded(bits), 1)[..., 0], np.where(GRAY > 128, 255, 0)
        )

    def test_sixteen_bits(self):
        wide = Image.fromarray(GRAY.astype(np.uint16) * 257)
        for format in ("PNG", "TIFF", "PPM"):
            np.testing.assert_array_equal(load_image(encoded(wide, format), 1)[..., 0], GRAY)

    def test_thirty_two_bits_and_floats(self):
        ints = Image.fromarray(GRAY.astype(np.int32) * 257)
        floats = Image.fromarray(GRAY.astype(np.float32) / 255)
        large = Image.fromarray(GRAY.astype(np.float32))
        for image in (ints, floats, large):
            np.testing.assert_array_equal(load_image(encoded(image, "TIFF"), 1)[..., 0], GRAY)

    def test_float_with_nan(self):
        values = GRAY.astype(np.float32)
        values[0, 0] = np.nan
        with pytest.raises(UnusableInput, match="NaN"):
            load_image(encoded(Image.fromarray(values), "TIFF"), 1)

    def test_palette(self):
        image = Image.new("P", (9, 6))
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        image.putdata(np.arange(54) % 3)
        expected = 255 * np.eye(3, dtype=np.uint8)[np.arange(54).reshape(6, 9) % 3]
        np.testing.assert_array_equal(load_image(encoded(image), 3), expected)
        np.testing.assert_array_equal(load_image(encoded(image, "TIFF"), 3), expected)

    def test_palette_with_a_transparent_entry_shows_white(self):
        image = Image.new("P", (2, 1))
        image.putpalette([255, 0, 0, 0, 255, 0])
        image.putdata([0, 1])
        pixels = load_image(encoded(image, transparency=0), 3)
        assert pixels.tolist() == [[[255, 255, 255], [0, 255, 0]]]

    def test_palette_with_alpha(self):
        image = Image.new("PA", (1, 1))
        image.putpalette([0, 0, 255])
        image.putpixel((0, 0), (0, 0))
        assert load_image(encoded(image.convert("RGBA")), 3).tolist() == [[[255, 255, 255]]]

    @pytest.mark.parametrize("alpha", [0, 51, 255])
    def test_alpha_is_laid_over_white(self, alpha):
        share = alpha / 255
        colour = encoded(Image.new("RGBA", (1, 1), (200, 100, 0, alpha)))
        gray = encoded(Image.new("LA", (1, 1), (100, alpha)))
        expected = [value * share + 255 * (1 - share) for value in (200, 100, 0)]
        np.testing.assert_allclose(load_image(colour, 3)[0, 0], expected, atol=1)
        np.testing.assert_allclose(load_image(gray, 1)[0, 0], expected[1], atol=1)

    def test_one_transparent_colour(self):
        gray = Image.new("L", (2, 1))
        gray.putdata([10, 20])
        assert load_image(encoded(gray, transparency=10), 1).ravel().tolist() == [255, 20]

    def test_cmyk(self):
        ink = Image.new("CMYK", (4, 4), (255, 0, 0, 0))  # only cyan
        np.testing.assert_allclose(load_image(encoded(ink, "TIFF"), 3)[0, 0], (0, 255, 255), atol=2)
        np.testing.assert_allclose(
            load_image(encoded(ink, "JPEG", quality=95), 3)[0, 0], (0, 255, 255), atol=4
        )

    @pytest.mark.parametrize("format", ["JPEG", "WEBP", "TIFF", "PNG", "BMP", "PPM"])
    def test_formats(self, format):
        smooth = Image.fromarray(np.full((8, 8, 3), (200, 120, 40), np.uint8))
        np.testing.assert_allclose(
            load_image(encoded(smooth, format), 3)[4, 4], (200, 120, 40), atol=6
        )

    def test_first_of_several_frames(self):
        frames = [Image.fromarray(COLOUR), Image.new("RGB", (9, 6))]
        data = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(load_image(data, 3), COLOUR)

    def test_phone_pictures_with_a_second_frame(self, tmp_path):
        """Many phones write MPO: a JPEG with a thumbnail behind it."""
        first, second = Image.new("RGB", (16, 8), (200, 120, 40)), Image.new("RGB", (16, 8))
        data = encoded(first, "MPO", save_all=True, append_images=[second])
        np.testing.assert_allclose(load_image(data, 3)[4, 4], (200, 120, 40), atol=6)
        write_folder(tmp_path)
        (tmp_path / "a" / "phone.jpg").write_bytes(data)
        assert "several frames" not in said(read(tmp_path))

    def test_from_path_bytes_and_stream(self, tmp_path):
        data = encoded(Image.fromarray(COLOUR))
        (tmp_path / "a.png").write_bytes(data)
        for file in (data, io.BytesIO(data), tmp_path / "a.png", str(tmp_path / "a.png")):
            np.testing.assert_array_equal(load_image(file, 3), COLOUR)


# How a picture must be stored, for each EXIF orientation, so that it looks like `upright` (EXIF
# 2.3).
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),  # stored turned to the left: the viewer turns it right
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_orientation(orientation, format, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](COLOUR)))
    how = {"lossless": True} if format == "WEBP" else {}
    data = encoded(stored, format, exif=exif, **how)
    np.testing.assert_array_equal(load_image(data, 3), COLOUR)
    for index in range(4):  # the size of the set is that of the upright pictures
        write_folder(tmp_path, "ab", 2, 8)
        (tmp_path / "a" / f"t{index}.{format.lower()}").write_bytes(data)
        (tmp_path / "b" / f"t{index}.{format.lower()}").write_bytes(data[::-1])
    assert read(tmp_path).facts["sizes"]["9x6"] == 4


def test_a_picture_with_an_odd_exif_is_turned_all_the_same():
    """A NaN among its tags, which Pillow reads, but cannot write."""
    orientation, resolution = (
        struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0),
        struct.pack("<HHII", 0x011A, 12, 1, 38),
    )
    entries = struct.pack("<H", 2) + orientation + resolution + struct.pack("<I", 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + entries + struct.pack("<d", math.nan)
    data = encoded(Image.fromarray(np.ascontiguousarray(STORED[6](COLOUR))), exif=exif)
    with Image.open(io.BytesIO(data)) as opened, pytest.raises(ValueError, match="NaN"):
        ImageOps.exif_transpose(opened)
    np.testing.assert_array_equal(load_image(data, 3), COLOUR)


NOISE = Image.fromarray(RNG.integers(0, 256, (80, 80, 3), dtype=np.uint8))
BAD_FILES = {
    "empty.png": (b"", "empty file"),
    "text.png": (b"this is text, renamed", "not an image"),
    "cut.png": (encoded(NOISE)[:9000], "truncated"),
    "cut.jpg": (encoded(NOISE, "JPEG")[:3000], "truncated"),
    "head.jpg": (encoded(Image.fromarray(COLOUR), "JPEG")[:30], "Truncated"),
}


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


BAD_FILES["bomb.png"] = (png_that_claims(10_001, 10_000), "over the limit of 100 million pixels")
BAD_FILES["huge.png"] = (png_that_claims(60_000, 60_000), "over the limit of 100 million pixels")
BAD_FILES["script.png"] = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
    "EPS, which is not read",
)


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_bad_file_is_skipped_counted_and_named(name, zipped, tmp_path):
    data, reason = BAD_FILES[name]
    folder = write_folder(tmp_path / "set")
    before = read(folder)
    (folder / "a" / name).write_bytes(data)
    images = read(write_zip(tmp_path / "set.zip", folder) if zipped else folder)
    assert images.facts["unreadable"] == 1
    assert reason in images.facts["unreadable_files"][f"a/{name}"]
    assert f"a/{name}" in said(images)
    assert "0x" not in said(images)  # no memory addresses in what people read
    assert images.train.names == before.train.names
    np.testing.assert_array_equal(images.train.pixels, before.train.pixels)


@pytest.mark.parametrize("name", BAD_FILES)
def test_load_image_refuses_a_bad_file_by_name(name, tmp_path):
    data, reason = BAD_FILES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UnusableInput, match=reason) as caught:
        load_image(tmp_path / name, 3)
    assert name in str(caught.value)


def test_the_limit_on_pixels_is_exact(monkeypatch):
    monkeypatch.setattr("convwise.images.decode.MAX_PIXELS", 54)
    assert load_image(encoded(Image.fromarray(GRAY)), 1).shape == (6, 9, 1)
    monkeypatch.setattr("convwise.images.decode.MAX_PIXELS", 53)
    with pytest.raises(UnusableInput, match="9x6"):
        load_image(encoded(Image.fromarray(GRAY)), 1)
    assert MAX_PIXELS == 10**8


def test_an_unreadable_folder_is_refused(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.png").write_bytes(b"nothing")
    assert "none of 2 images can be read" in refused(tmp_path)


def test_nothing_is_left_open(tmp_path):
    folder = write_folder(tmp_path / "set")
    (folder / "a" / "bad.png").write_bytes(b"bad")
    archive = write_zip(tmp_path / "set.zip", folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        read(folder)
        read(archive)
    assert not any("set" in os.readlink(f"/proc/self/fd/{fd}") for fd in open_files())


def open_files() -> list[str]:
    folder = Path("/proc/self/fd")
    return [link.name for link in folder.iterdir() if link.is_symlink()] if folder.is_dir() else []


# --- one size, one number of channels -----------------------------------------------------------


def test_median_size_and_limit(tmp_path):
    write_folder(tmp_path / "x", "ab", 3, (10, 20))
    write_folder(tmp_path / "y", "ab", 2, (30, 40), seed=1)
    for name in "ab":
        (tmp_path / "set" / name).mkdir(parents=True)
        for file in [*(tmp_path / "x" / name).iterdir(), *(tmp_path / "y" / name).iterdir()]:
            file.rename(tmp_path / "set" / name / f"{file.parts[-3]}{file.name}")
    images = read(tmp_path / "set")
    assert images.base_shape == (10, 20, 3)
    assert images.facts["sizes"] == {"20x10": 6, "40x30": 4}
    assert "2 sizes" in said(images)
    assert "without keeping its proportions" in said(images)
    assert read(tmp_path / "set", limit_px=10).base_shape == (5, 10, 3)


def test_pixels_are_those_of_load_image_and_resize(tmp_path):
    """What is trained on is what predict will see."""
    images = read(write_folder(tmp_path, "ab", 5, (24, 30)), limit_px=20)
    for pixels, name in zip(images.train.pixels, images.train.names, strict=True):
        np.testing.assert_array_equal(
            pixels, resize(load_image(tmp_path / name, 3), *images.base_shape[:2])
        )


def test_resize_is_antialiased():
    """A 1-px checkerboard becomes even gray; taking every second pixel would give black or
    white.
    """
    board = (np.indices((32, 32)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None]
    small = resize(board, 8, 8)
    assert small.shape == (8, 8, 1)
    assert np.ptp(small[1:-1, 1:-1]) <= 10
    assert abs(int(small[4, 4, 0]) - 127) <= 10
    assert resize(board, 32, 32) is board


def test_part_at_resizes_every_image():
    images = read(striped(2, 300, 12), test="none")
    part = images.train
    small = part.at(6, 7)
    assert small.pixels.shape == (len(part), 6, 7, 1)
    assert small.names == part.names
    for row in (0, 255, 256, len(part) - 1):
        np.testing.assert_array_equal(small.pixels[row], resize(part.pixels[row], 6, 7))
    assert part.at(12, 12) is part


def test_no_picture_is_resized_twice(tmp_path):
    """At any size, of any part of the set: what load_image and one resize give, though the base is
    smaller.
    """
    images = read(write_folder(tmp_path / "set", "ab", 6, (24, 30)), limit_px=20)
    parts = (
        images.train,
        images.valid,
        images.test.at(6, 7).open(),
        images.unsealed(),
        images.at(9, 8).unsealed(),
    )
    for part in (*parts, images.train[np.array([2, 0])], images.train.at(9, 8)[np.array([2, 0])]):
        small = part.at(6, 7)
        for pixels, name in zip(small.pixels, small.names, strict=True):
            np.testing.assert_array_equal(
                pixels, resize(load_image(tmp_path / "set" / name, 3), 6, 7)
            )
    assert images.train.at(6, 7).at(*images.base_shape[:2]) is images.train


def test_neither_are_arrays_nor_zips(tmp_path):
    pixels, labels = striped(2, 10, 40)
    whole = read((pixels, labels), test="none", limit_px=20)
    for row, name in enumerate(whole.train.names):
        picture = pixels[int(name.partition("/")[2])]
        np.testing.assert_array_equal(whole.train.at(6, 7).pixels[row], resize(picture, 6, 7))
    folder = write_folder(tmp_path / "set", "ab", 6, (24, 30))
    zipped = read(write_zip(tmp_path / "set.zip", folder), limit_px=20).train
    np.testing.assert_array_equal(
        zipped.at(6, 7).pixels, read(folder, limit_px=20).train.at(6, 7).pixels
    )


def test_without_antialiasing_every_pixel_is_one_of_the_picture():
    pixels, labels = striped(2, 10, 40)
    part = read((pixels, labels), test="none", limit_px=20).train
    smooth, rough = part.ways(10, 10)
    np.testing.assert_array_equal(smooth.pixels, part.at(10, 10).pixels)
    for row, name in enumerate(part.names):
        picture = pixels[int(name.partition("/")[2])].reshape(40, 40)
        # The middle of each 4 x 4
        np.testing.assert_array_equal(rough.pixels[row, ..., 0], picture[2::4, 2::4])
    assert read((pixels, labels), test="none").train.ways(40, 40)[1] is None


SHAPES = ((20, 15), (20, 27), (20, 24), (15, 20), (27, 20), (24, 20), (27, 27))


def test_to_learn_from_no_picture_is_the_same_without_antialiasing(tmp_path):
    """Most of a set may have its size already: those are as though they had had another shape."""
    folder = write_folder(tmp_path / "set", "ab", 12, 20)
    write_folder(tmp_path / "set", "ab", 4, (20, 28), suffix=".bmp")
    part = read(folder, test="none", limit_px=20).train
    smooth, told = part.ways(20, 20)
    _, learnt = part.ways(20, 20, stretched=True)
    as_is = np.array([name.endswith(".png") for name in part.names])
    assert 0 < as_is.sum() < len(part)
    np.testing.assert_array_equal(told.pixels[as_is], smooth.pixels[as_is])
    np.testing.assert_array_equal(learnt.pixels[~as_is], told.pixels[~as_is])
    for was, now in zip(smooth.pixels[as_is], learnt.pixels[as_is], strict=True):
        assert (was != now).any()
        others = (
            np.asarray(Image.fromarray(was).resize((columns, rows), Image.Resampling.BILINEAR))
            for rows, columns in SHAPES
        )
        nearest = (
            np.asarray(Image.fromarray(other).resize((20, 20), Image.Resampling.NEAREST))
            for other in others
        )
        assert any((now == each).all() for each in nearest)


def test_a_file_that_changes_meanwhile_is_named(tmp_path):
    images = read(write_folder(tmp_path, "ab", 5, (24, 30)), limit_px=20)
    (tmp_path / images.train.names[3]).write_bytes((tmp_path / images.train.names[2]).read_bytes())
    with pytest.raises(
        UnusableInput,
        match=f"{images.train.names[3]}: changed while the study was learning from it",
    ):
        images.train.at(6, 7)


def test_channels_are_made_before_the_size(tmp_path):
    images = read(write_folder(tmp_path, "ab", 5, (24, 30)), limit_px=20)
    gray = images.train.with_channels(1).at(6, 7)
    for pixels, name in zip(gray.pixels, gray.names, strict=True):
        np.testing.assert_array_equal(pixels, resize(load_image(tmp_path / name, 1), 6, 7))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "1", "I;16", "LA"])
def test_sets_of_one_mode(mode, tmp_path):
    suffix = ".tif" if mode == "CMYK" else ".png"
    images = read(write_folder(tmp_path, "ab", 6, 12, mode, suffix=suffix))
    assert images.facts["modes"] == {mode: 12}
    assert images.base_shape[2] == (1 if mode in ("L", "1", "I;16", "LA") else 3)


def test_gray_content_in_colour_files_is_one_channel(tmp_path):
    for index, (pixels, label) in enumerate(zip(*striped(2, 5), strict=True)):
        (tmp_path / "ab"[label]).mkdir(exist_ok=True)
        picture(pixels).convert("RGB").save(tmp_path / "ab"[label] / f"{index}.png")
    images = read(tmp_path)
    assert images.base_shape == (16, 16, 1)
    assert "stored in colour but only grey" in said(images)


def test_mixed_gray_and_colour_is_reported(tmp_path):
    write_folder(tmp_path / "gray", "ab", 4, 16, "L")
    write_folder(tmp_path, "ab", 4, 16, "RGB", seed=1, suffix=".bmp")
    for name in "ab":
        for file in (tmp_path / "gray" / name).iterdir():
            file.rename(tmp_path / name / file.name)
        (tmp_path / "gray" / name).rmdir()
    (tmp_path / "gray").rmdir()
    images = read(tmp_path)
    assert images.base_shape[2] == 3
    assert "8 grey images among 16" in said(images)


def test_dark_sixteen_bit_images_are_reported(tmp_path):
    for index, (pixels, label) in enumerate(zip(*striped(2, 4), strict=True)):
        (tmp_path / "ab"[label]).mkdir(exist_ok=True)
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 16).save(
            tmp_path / "ab"[label] / f"{index}.png"
        )
    assert "only 12 bits are used, which would be very dark, so 0..4095" in said(read(tmp_path))


@given(st.integers(0, 255))
def test_equal_channels_become_the_same_gray(value):
    assert with_channels(np.full((1, 1, 3), value, np.uint8), 1).item() == value


# --- duplicates, conflicts, foreign classes -----------------------------------------------------


def copy(root: Path, source: str, *targets: str) -> None:
    for target in targets:
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        (root / target).write_bytes((root / source).read_bytes())


def disjoint(sides: list[set]) -> bool:
    return len(set.union(*sides)) == sum(map(len, sides))


def test_copies_are_on_one_side(tmp_path):
    write_folder(tmp_path, "ab", 10)
    for index in range(10):
        copy(tmp_path, f"a/{index:04d}.png", f"a/copy{index}.png")
    for seed in range(5):
        images = read(tmp_path, seed=seed)
        sides = [part.pixels for part in (images.train, images.valid, images.test.open())]
        assert disjoint([{image.tobytes() for image in pixels} for pixels in sides])
    assert images.facts["duplicates"] == 10


def test_the_same_picture_in_another_file_format_is_a_copy(tmp_path):
    write_folder(tmp_path, "ab", 6)
    Image.open(tmp_path / "a" / "0000.png").save(tmp_path / "a" / "again.bmp")
    assert read(tmp_path).facts["duplicates"] == 1


def test_pictures_that_differ_only_before_resizing_are_no_copies(tmp_path):
    write_folder(tmp_path, "ab", 6, 64)
    pixels = np.array(Image.open(tmp_path / "a" / "0000.png"))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(tmp_path / "a" / "almost.png")
    assert read(tmp_path, limit_px=8).facts["duplicates"] == 0


def test_train_copies_of_test_and_valid_images_are_dropped(tmp_path):
    write_parts(tmp_path, per_class=6)
    copy(tmp_path, "test/a/0000.png", "train/a/leak.png", "val/a/leak.png")
    copy(tmp_path, "val/b/0006.png", "train/b/leak.png")
    images = read(tmp_path)
    assert not any("leak" in name for name in (*images.train.names, *images.valid.names))
    assert (len(images.train), len(images.valid), images.test.size) == (12, 12, 12)
    assert images.facts["dropped"] == 3
    assert "2 images also in test" in said(images)
    assert "1 image of train also in valid" in said(images)


def test_conflicting_labels_are_dropped_outside_of_test(tmp_path):
    write_folder(tmp_path, "abc", 6)
    copy(tmp_path, "a/0000.png", "a/twin.png", "b/twin.png")
    images = read(tmp_path)
    names = {*images.unsealed().names, *images.test.open().names}
    assert len(names) == 17
    assert not names & {"a/0000.png", "a/twin.png", "b/twin.png"}
    assert "3 images with the same pixels as an image of another class" in said(images)


def test_classes_that_train_lacks_are_dropped(tmp_path):
    write_parts(tmp_path, ("train", "test"), classes=("a", "b"))
    write_folder(tmp_path / "test", ("new",), 3, seed=77)
    images = read(tmp_path)
    assert images.classes == ("a", "b")
    assert images.test.size == 12
    assert "3 images of test in classes without training images" in said(images)


def test_a_valid_part_that_is_all_copies_of_test_is_replaced(tmp_path):
    write_parts(tmp_path, ("train", "test"))
    for name in ("a/0000.png", "b/0006.png"):
        copy(tmp_path, f"test/{name}", f"val/{name}")
    images = read(tmp_path)
    assert set(images.valid.labels) == {0, 1}
    assert all(name.startswith("train/") for name in images.valid.names)


def test_a_dropped_class_does_not_drag_others_along(tmp_path):
    write_parts(tmp_path, ("train", "test"))
    copy(tmp_path, "train/a/0000.png", "test/new/0000.png")
    assert "train/a/0000.png" in read(tmp_path).unsealed().names


def test_unusable_classes(tmp_path):
    write_folder(tmp_path, "ab", 6)
    copy(tmp_path, "a/0000.png", "c/only.png")
    copy(tmp_path, "a/0001.png", "c/only2.png")
    assert "class c" in refused(tmp_path) or "no train image of c" in refused(tmp_path)
    for name in ("only.png", "only2.png"):
        Image.new("RGB", (16, 16), "red").save(tmp_path / "c" / name)
    assert "fewer than two different images in class c" in refused(tmp_path)
    Image.new("RGB", (16, 16), "blue").save(tmp_path / "c" / "only2.png")
    images = read(tmp_path)
    assert 2 in images.train.labels
    assert "valid has no image of c" in said(images)
    assert "fewer than 10 train images in" in said(images)


@pytest.mark.parametrize("test", [None, 0.4])
def test_a_split_that_leaves_no_valid_image_is_refused(test):
    source = striped(2, 2, 6)
    message = refused(source, test=test)
    assert "none is left for valid" in message
    assert "at least 3" in message
    assert "--test none" in message
    images = read(source, test="none")
    assert (len(images.train), len(images.valid)) == (2, 2)


def test_own_parts_that_leave_nothing_are_refused(tmp_path):
    write_parts(tmp_path / "tested", ("train", "test"), per_class=1)
    message = refused(tmp_path / "tested")
    assert "none is left for valid" in message
    assert "at least 2" in message
    assert "--test" not in message
    write_parts(tmp_path / "validated", ("train", "val"), per_class=1)
    assert "none is left for test" in refused(tmp_path / "validated")
    assert read(tmp_path / "validated", test="none").test is None


def test_unbalanced_sets_are_reported(tmp_path):
    write_folder(tmp_path, "a", 40)
    write_folder(tmp_path, "b", 10, seed=1)
    assert "unbalanced: 26 train images of a, 6 of b" in said(read(tmp_path))


# --- splits -------------------------------------------------------------------------------------


@st.composite
def sets(draw_):
    """Labels and groups with one label each, of 2 to 5 classes with 1 to 12 groups of 1 to 4
    copies.
    """
    labels, groups = [], []
    for label in range(draw_(st.integers(2, 5))):
        for copies in draw_(st.lists(st.integers(1, 4), min_size=1, max_size=12)):
            group = len(set(groups))
            labels += [label] * copies
            groups += [group] * copies
    order = draw_(st.permutations(range(len(labels))))
    return np.array(labels)[order], np.array(groups)[order]


class TestDraw:
    @given(sets(), st.floats(0.05, 0.9), st.integers(1, 2), st.integers(0, 5))
    def test_whole_groups_and_something_stays(self, data, fraction, keep, seed):
        labels, groups = data
        chosen = draw(labels, groups, fraction, keep, (seed,))
        assert not set(groups[chosen]) & set(groups[~chosen])
        for label in np.unique(labels):
            here = labels == label
            count = len(set(groups[here]))
            stayed, went = len(set(groups[here & ~chosen])), len(set(groups[here & chosen]))
            assert stayed >= min(keep, count - 1 or 1)
            assert went >= (count >= 2)

    @given(sets(), st.integers(0, 5))
    def test_deterministic(self, data, seed):
        labels, groups = data
        np.testing.assert_array_equal(
            draw(labels, groups, 0.3, 1, (seed,)), draw(labels, groups, 0.3, 1, (seed,))
        )

    @given(st.lists(st.integers(10, 60), min_size=2, max_size=5), st.sampled_from([0.1, 0.2, 0.5]))
    def test_stratified_sizes_without_copies(self, counts, fraction):
        labels = np.repeat(np.arange(len(counts)), counts)
        chosen = draw(labels, np.arange(len(labels)), fraction, 1, (0,))
        for label, count in enumerate(counts):
            assert abs(int(chosen[labels == label].sum()) - fraction * count) <= 0.5 + 1e-9

    def test_seeds_differ(self):
        labels, groups = np.repeat([0, 1], 50), np.arange(100)
        draws = [tuple(draw(labels, groups, 0.2, 1, (seed,))) for seed in range(4)]
        assert len(set(draws)) == 4

    def test_a_large_group_stays_where_smaller_ones_fit(self):
        labels, groups = np.zeros(30, int), np.array([0] * 20 + list(range(1, 11)))
        for seed in range(10):
            assert draw(labels, groups, 0.2, 1, (seed,)).sum() == 6


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from([TRAIN, VALID, TEST]), st.integers(0, 9)),
        min_size=1,
        max_size=40,
    )
)
def test_nothing_leaks(rows):
    labels, parts, groups = (np.array(column) for column in zip(*rows, strict=True))
    lost = leaks(labels, parts, groups)
    assert (lost.in_test.astype(int) + lost.in_valid + lost.conflict).max() <= 1
    assert not lost.any[parts == TEST].any()
    sides = [set(groups[(parts == code) & ~lost.any]) for code in (TRAIN, VALID, TEST)]
    assert disjoint(sides)
    left = ~lost.any & (parts != TEST)
    for group in set(groups[left]):
        assert len(set(labels[left & (groups == group)])) == 1
    for row in np.flatnonzero(lost.any):  # nothing is dropped without one of the three reasons
        same = groups == groups[row]
        assert len(set(parts[same])) > 1 or len(set(labels[same])) > 1


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 4),
    st.integers(3, 20),
    st.integers(0, 3),
    st.floats(0.05, 0.5),
    st.floats(0.05, 0.5),
)
def test_every_class_is_in_every_part(classes, per_class, seed, test, valid):
    source = striped(classes, per_class, 6, seed=seed)
    images = read(source, test=test, valid=valid, seed=seed)
    parts = [images.train, images.valid, images.test.open()]
    assert sum(map(len, parts)) == classes * per_class
    for part in parts:
        assert set(part.labels) == set(range(classes))
    lookup = {image.tobytes(): label for image, label in zip(*source, strict=True)}
    for part in parts:
        assert [lookup[image.tobytes()] for image in part.pixels] == part.labels.tolist()


def test_three_images_of_a_class_are_shared_out_evenly():
    images = read(striped(2, 3, 6), test=0.6)
    assert [part.labels.tolist() for part in (images.train, images.valid, images.test.open())] == [
        [0, 1]
    ] * 3


def test_shares():
    source = striped(2, 100, 6)
    images = read(source)
    assert (len(images.train), len(images.valid), images.test.size) == (128, 32, 40)
    images = read(source, test=0.5, valid=0.1)
    assert (len(images.train), len(images.valid), images.test.size) == (90, 10, 100)
    for nothing in ("none", 0, 0.0):
        images = read(source, test=nothing)
        assert images.test is None
        assert (len(images.train), len(images.valid)) == (160, 40)
    for test, valid in ((1, 0.2), (-0.1, 0.2), (1.5, 0.2), ("half", 0.2), (0.2, 0), (0.2, 1)):
        assert "is not a share" in refused(source, test=test, valid=valid)
    assert "--test: 1.5" in refused(source, test=1.5)


def test_seed_changes_both_draws_and_nothing_else():
    source = striped(2, 50, 6)
    first, again, other = read(source, seed=1), read(source, seed=1), read(source, seed=2)
    assert first.test.open().names == again.test.open().names
    assert set(first.test.open().names) != set(other.test.open().names)
    assert set(first.valid.names) != set(other.valid.names)
    assert first.facts == other.facts


def test_valid_is_at_most_ten_thousand():
    pixels = np.zeros((60_000, 2, 2), np.uint8)
    pixels.reshape(-1, 4).view(np.uint32)[:, 0] = np.arange(60_000)
    images = read((pixels, np.arange(60_000) % 7), test="none")
    assert 9_990 <= len(images.valid) <= 10_000


def test_none_leaves_an_own_test_part_aside(tmp_path):
    write_parts(tmp_path, ("train", "test"))
    (tmp_path / "test" / "a" / "0000.png").write_bytes(b"not even read")
    images = read(tmp_path, test="none")
    assert images.test is None
    assert images.facts["unreadable"] == 0
    assert len(images.unsealed()) == 12
    assert "set aside unread" in said(images)


# --- the records --------------------------------------------------------------------------------


def test_the_seal_counts_also_at_another_size():
    images = read(striped(2, 20, 12))
    small = images.at(6, 6).at(8, 8)
    assert (images.test.size, small.test.size, images.test.opened) == (8, 8, 0)
    part = small.test.open()
    assert part.pixels.shape == (8, 8, 8, 1)
    np.testing.assert_array_equal(part.pixels[0], resize(images.test.open().pixels[0], 8, 8))
    assert images.test.opened == small.test.opened == 2
    assert images.at(12, 12).test is images.test


def test_images_at():
    images = read(striped(2, 20, 12)).at(6, 8)
    assert images.base_shape == (6, 8, 1)
    assert images.train.pixels.shape[1:] == images.valid.pixels.shape[1:] == (6, 8, 1)
    assert images.facts["read_shape"] == [12, 12, 1]
    with pytest.raises(FrozenInstanceError):
        images.source = "other"


def test_unsealed_is_train_and_valid():
    images = read(blobs(3, 20, 10, 3))
    both = images.unsealed()
    assert both.names == images.train.names + images.valid.names
    np.testing.assert_array_equal(
        both.pixels, np.concatenate([images.train.pixels, images.valid.pixels])
    )
    np.testing.assert_array_equal(
        both.labels, np.concatenate([images.train.labels, images.valid.labels])
    )


@pytest.mark.parametrize("kind", ["folder", "idx"])
def test_with_a_cache_the_same_images_are_mapped_from_disk(kind, tmp_path):
    pixels, labels = striped(2, 20, 12)
    folder = write_folder(tmp_path / "set", "ab", 12)
    source = (
        folder if kind == "folder" else write_idx(tmp_path / "idx", "train", pixels[..., 0], labels)
    )
    cache = tmp_path / "new" / "cache"
    plain, mapped = read(source), read(source, cache=cache)
    assert isinstance(mapped.train.pixels, np.memmap)
    assert isinstance(mapped.train.at(6, 6).pixels, np.memmap)
    for one, other in ((plain, mapped), (plain.at(6, 6), mapped.at(6, 6))):
        np.testing.assert_array_equal(one.train.pixels, other.train.pixels)
        np.testing.assert_array_equal(one.unsealed().pixels, other.unsealed().pixels)
        np.testing.assert_array_equal(one.test.open().pixels, other.test.open().pixels)
    read(source, cache=cache, seed=5)  # another run in the same cache: the first one keeps its own
    np.testing.assert_array_equal(plain.train.pixels, mapped.train.pixels)
    mapped.train.pixels[0] = 7  # not an error, and not written to the disk
    assert not any(file.suffix != ".npy" or file.name == "all.npy" for file in cache.iterdir())


def names(source) -> list[str]:
    with pictures(source, 3, ValueRange(0, 1)) as every:
        return [name for name, _ in every]


def test_pictures_of_a_folder_or_of_one_file(tmp_path):
    write_folder(tmp_path / "x", "ab", 2)
    (tmp_path / "x" / "a" / "notes.txt").write_text("x")
    (tmp_path / "x" / ".hidden.png").write_bytes(b"")
    expected = ["a/0000.png", "a/0001.png", "b/0002.png", "b/0003.png"]
    assert names(tmp_path / "x") == [str(tmp_path / "x" / name) for name in expected]
    one = tmp_path / "x" / expected[0]
    assert names(str(one)) == [str(one)]
    (tmp_path / "empty").mkdir()
    for bad in (tmp_path / "no", tmp_path / "empty"):
        with pytest.raises(UnusableInput):
            names(bad)


@pytest.mark.skipif(not (DATA / "breastmnist").is_dir(), reason="the shared data sets are not here")
def test_real_sets():
    images = read(DATA / "breastmnist" / "breastmnist.npz")
    assert (len(images.train), len(images.valid), images.test.size) == (545, 78, 156)
    assert "1 image also in test" in said(images)  # a fact about the official file
    assert "only one class, 'good'" in refused(
        DATA / "infrared-solar-anomaly" / "infrared-solar-anomaly.zip"
    )
