"""A few pictures of a source, without reading the rest."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from convwise.core.problems import UnusableInput
from convwise.images.preview import preview


def paint(path, value: int, size=(40, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 10, 20)).save(path)


def test_each_class_is_seen_before_any_twice(tmp_path):
    for number in range(5):
        for label, value in (("a", 100), ("b", 150), ("c", 200)):
            paint(tmp_path / "train" / label / f"{number}.png", value + number)
            paint(tmp_path / "test" / label / f"{number}.png", 0)
    found = preview(tmp_path, 4, 32)
    assert [int(pixels[0, 0, 0]) for pixels in found] == [100, 101, 150, 200]
    assert {pixels.shape for pixels in found} == {(16, 32, 3)}


def test_only_what_is_shown_is_opened(tmp_path):
    for number in range(50):
        paint(tmp_path / "a" / f"{number:02d}.png", number)
        paint(tmp_path / "b" / f"{number:02d}.png", number)
    for file in [*tmp_path.rglob("[1-4]*.png")]:
        file.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert len(preview(tmp_path, 6)) == 6


def test_of_arrays_and_names(tmp_path):
    assert [pixels.shape for pixels in preview("digits", 3)] == [(8, 8, 1)] * 3
    np.savez(tmp_path / "a.npz", x_train=np.full((9, 6, 5, 3), 7, np.uint8),
             y_train=np.arange(9) % 3, x_test=np.zeros((3, 6, 5, 3), np.uint8),
             y_test=np.arange(3))  # fmt: skip
    assert [int(pixels.max()) for pixels in preview(tmp_path / "a.npz", 3)] == [7, 7, 7]


def test_what_is_gone_is_said(tmp_path):
    with pytest.raises(UnusableInput, match="no file or folder"):
        preview(str(tmp_path / "gone"))
