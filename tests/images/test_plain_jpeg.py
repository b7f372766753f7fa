"""Small JPEGs that are decoded many at a time: the same pixels, headers and thumbnails as one by
one, by Pillow.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convwise.images import decode, files, plain_jpeg, sources
from convwise.images.store import Store

SIZE = (40, 56)  # height, width


def picture(seed: int, channels: int = 3, size: tuple[int, int] = SIZE) -> Image.Image:
    """A smooth picture with noise on it."""
    rng = np.random.default_rng(seed)
    rough = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize(
        size[::-1], Image.Resampling.BICUBIC
    )
    noisy = np.clip(np.asarray(rough, np.int64) + rng.integers(-9, 10, (*size, 3)), 0, 255).astype(
        np.uint8
    )
    return Image.fromarray(noisy if channels == 3 else noisy[..., 0])


def written(image: Image.Image, kind: str = "JPEG", **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def all_of_gray() -> Image.Image:
    return picture(9, 1).convert("RGB")


PLAIN = {
    "as usual": written(picture(1)),
    "another": written(picture(2)),
    "with tables of its own": written(picture(3), optimize=True, quality=31),
    "progressive": written(picture(4), progressive=True),
    "no subsampling": written(picture(5), subsampling=0, quality=100),
    "halved": written(picture(6), subsampling=1),
    "one channel": written(picture(7, 1)),
    "gray in three channels": written(all_of_gray()),
    "a comment": written(picture(8), comment=b"made by hand"),
    "restarts": written(picture(10), restart_marker_rows=1),
    "with bytes behind it": written(picture(11)) + b"and more",
}
turned = Image.Exif()
turned[decode.ORIENTATION_TAG] = 3
OTHERS = {
    "another size": written(picture(1, size=SIZE[::-1])),
    "turned by EXIF": written(picture(1), exif=turned),
    "four channels": written(picture(1).convert("CMYK")),
    "a PNG": written(picture(1), "PNG"),
    "cut in its pixels": PLAIN["as usual"][:-200],
    "cut in its tables": PLAIN["as usual"][:90],
    "nothing": b"",
    "no picture": b"\xff\xd8\xff but no more",
}


def test_many_at_a_time_are_as_one_by_one() -> None:
    every = {**PLAIN, **OTHERS}
    found = plain_jpeg.pictures(list(every.values()), SIZE)
    assert [list(every)[place] for place in sorted(found)] == list(PLAIN)
    for place, (header, made) in found.items():
        data = list(every.values())[place]
        assert header == decode.header(data)
        alone = decode.decode(data).pixels
        np.testing.assert_array_equal(made.pixels, alone)
        with Image.open(io.BytesIO(data)) as image:  # Pillow alone
            small = image.convert("RGB").convert("L").resize((16, 16), Image.Resampling.BILINEAR)
        assert made.thumbnail == small.tobytes() == decode.thumbnail(alone)


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (13, 90), (128, 31)])
def test_thumbnails_do_not_meet(size: tuple[int, int]) -> None:
    some = [written(picture(seed, size=size)) for seed in range(5)]
    found = plain_jpeg.pictures(some, size)
    assert [found[k][1].thumbnail for k in range(5)] == [
        decode.thumbnail(decode.decode(data).pixels) for data in some
    ]


def test_what_is_wrong_is_said_as_always(tmp_path: Path) -> None:
    """Each file of a set of small pictures has the digest, thumbnail, or words that it has
    alone.
    """
    every = {**PLAIN, **OTHERS}
    for k in range(60):  # so many that they are decoded as they are opened
        every[f"more {k}"] = written(picture(100 + k))
    for name, data in every.items():
        (tmp_path / "one").mkdir(exist_ok=True)
        (tmp_path / "one" / f"{name}.jpg").write_bytes(data)
    found = sources.find(tmp_path)
    made, count = files.stacked(found, 128, Store(tmp_path / "kept", 10**9))
    assert count == len(every)
    alone, why = {}, {}
    for name, data in every.items():
        try:
            alone[name] = decode.decode(data)
        except Exception as error:
            why[f"one/{name}.jpg"] = decode.explain(error)
    assert len(why) == 4
    assert made.unreadable == why
    assert set(made.names) == {f"one/{name}.jpg" for name in alone}
    for row, name in enumerate(made.names):
        there = alone[Path(name).stem]
        if there.pixels.shape[:2] == SIZE:
            np.testing.assert_array_equal(made.pixels[row], decode.with_channels(there.pixels, 3))
            assert made.thumbnails is not None
            assert made.thumbnails[row].tobytes() == decode.thumbnail(there.pixels)


def test_a_png_that_says_at_its_end_how_it_is_turned() -> None:
    """The chunk after the pixels is known only once they are decoded; a picture of another shape is
    not of the size.
    """
    plain = written(picture(1), "PNG")
    for orientation, upright in ((3, SIZE), (6, SIZE[::-1])):
        exif = Image.Exif()
        exif[decode.ORIENTATION_TAG] = orientation
        body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        data = plain[:-12] + chunk + plain[-12:]
        assert decode.decode(data).pixels.shape[:2] == upright
        found = decode.header_and_picture(data, SIZE)[1]
        if upright == SIZE:
            assert found is not None
            np.testing.assert_array_equal(found.pixels, decode.decode(data).pixels)
        else:
            assert found is None
