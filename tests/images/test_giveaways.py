"""What gives a class away: told where brightness or size alone finds it, and not where they only
help.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from convwise.images.giveaways import given_away
from convwise.images.loading import read
from imagesets import striped


def said(images) -> list[str]:
    return [str(problem) for problem in images.problems if "away" in str(problem)]


def test_a_class_of_dark_pictures_is_told():
    pixels, labels = striped(3, 60, 12)
    pixels[labels == 1] //= 3
    (told,) = said(read((pixels, np.array(["day", "night", "dusk"])[labels])))
    assert "the mean brightness alone gives class night away" in told
    assert "it finds 100 % of the class's images" in told


def test_pictures_that_differ_in_what_they_show_are_not():
    assert said(read(striped(3, 60, 12))) == []
    assert said(read("digits")) == []


def test_a_class_of_another_size_is_told(tmp_path):
    pixels, labels = striped(3, 40, 16, 3)
    for k, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = tmp_path / "abc"[label]
        folder.mkdir(exist_ok=True)
        picture = picture[:, :12] if label == 2 else picture
        Image.fromarray(picture).save(folder / f"{k}.png")
    (told,) = said(read(str(tmp_path)))
    assert "the size in pixels alone gives class c away" in told


@pytest.mark.parametrize("seed", range(5))
def test_chance_gives_nothing_away(seed):
    rng = np.random.default_rng(seed)
    assert given_away(rng.integers(0, 30, 400), rng.integers(0, 4, 400)) == []
