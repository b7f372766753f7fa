"""Memory that arrays on the disk give back."""

from pathlib import Path

import numpy as np
import pytest

from convwise.core.mapped import at_rest


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the system does not tell")
def test_pixels_at_rest_take_no_memory_and_stay_as_they_are(tmp_path):
    def resident() -> int:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))

    noise = np.random.default_rng(0).integers(0, 256, (2000, 64, 64, 3), np.uint8)
    file = tmp_path / "a.npy"
    out = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=noise.shape)
    out[:] = noise
    before = resident()
    at_rest(out)
    assert before - resident() > 15_000  # kB, of 24 MB
    out.flush()
    pixels = np.load(file, mmap_mode="c")
    np.testing.assert_array_equal(pixels, noise)
    before = resident()
    at_rest(pixels)
    assert before - resident() > 15_000
    np.testing.assert_array_equal(pixels, noise)
    at_rest(noise)  # in memory: nothing is done
    assert noise.any()
