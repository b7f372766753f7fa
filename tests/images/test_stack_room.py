"""Pixels on disk take their room before they are written, and no memory that they do not need."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
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


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the system does not tell")
def test_pixels_at_rest_take_no_memory_and_stay_as_they_are(tmp_path):
    def resident() -> int:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))

    noise = np.random.default_rng(0).integers(0, 256, (2000, 64, 64, 3), np.uint8)

    def fill(out):
        out[:] = noise
        before = resident()
        stack.at_rest(out)
        assert before - resident() > 15_000  # kB, of 24 MB

    pixels = stack.filled(noise.shape, fill, tmp_path / "a.npy")
    np.testing.assert_array_equal(pixels, noise)
    before = resident()
    stack.at_rest(pixels)
    assert before - resident() > 15_000
    np.testing.assert_array_equal(pixels, noise)
    stack.at_rest(noise)  # in memory: nothing is done
    assert noise.any()


def test_the_checksum_of_the_content_is_that_of_all_pixels_together():
    images = read(striped(2, 400, 8))
    for part in (images.train, images.valid):
        assert (
            f"{zlib.crc32(part.pixels.tobytes()):x}-{zlib.crc32(part.labels.tobytes()):x}"
            in images.content()
        )
