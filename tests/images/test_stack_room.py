"""Pixels on disk take their room before they are written, and no memory that they do not need."""

from __future__ import annotations

import os
import zlib

import pytest

from convwise.images import stack
from convwise.images.loading import read
from imagesets import striped


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot reserve room")
def test_where_there_is_no_room_nothing_is_written_and_nothing_left(tmp_path, monkeypatch):
    def fallocate(file, start, length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    with pytest.raises(OSError, match="No space left"):
        stack.filled(
            (100, 10, 10, 1), lambda out: pytest.fail("it was written to"), tmp_path / "a.npy"
        )
    assert not list(tmp_path.iterdir())


def test_what_was_reserved_is_what_was_filled(tmp_path):
    pixels = stack.filled((100, 10, 10, 1), lambda out: out.fill(7), tmp_path / "a.npy")
    assert pixels.shape == (100, 10, 10, 1)
    assert (pixels == 7).all()
    assert os.stat(tmp_path / "a.npy").st_blocks * 512 >= 10_000


def test_the_checksum_of_the_content_is_that_of_all_pixels_together():
    images = read(striped(2, 400, 8))
    for part in (images.train, images.valid):
        assert (
            f"{zlib.crc32(part.pixels.tobytes()):x}-{zlib.crc32(part.labels.tobytes()):x}"
            in images.content()
        )
