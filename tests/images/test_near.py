"""Near duplicates: found however a picture was stored again, told, and never on two sides of a
drawn split.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from convwise.images import near
from convwise.images.loading import read
from imagesets import striped, write_folder


def scene(seed: int, height: int = 60, width: int = 48, channels: int = 3) -> np.ndarray:
    """A soft picture of its own: uint8 (height, width, channels)."""
    rough = np.random.default_rng(seed).integers(0, 256, (7, 6, 3), np.uint8)
    picture = np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC))
    return picture if channels == 3 else picture[..., :1]


def jpeg(pixels: np.ndarray, quality: int = 50) -> np.ndarray:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def scaled(pixels: np.ndarray) -> np.ndarray:
    small = Image.fromarray(pixels).resize((36, 45), Image.Resampling.LANCZOS)
    return np.asarray(small.resize((48, 60), Image.Resampling.BICUBIC))


def brighter(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels * 1.05 + 8, 0, 255).astype(np.uint8)


def found(pixels: np.ndarray) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in near.near(pixels, np.arange(len(pixels)))]


@pytest.mark.parametrize("again", [jpeg, scaled, brighter])
def test_a_picture_that_was_stored_again_is_found_among_others(again):
    pixels = np.stack([scene(seed) for seed in range(40)])
    copies = np.stack([again(picture) for picture in pixels[:10]])
    assert found(np.concatenate([pixels, copies])) == [(k, 40 + k) for k in range(10)]


@pytest.mark.parametrize(
    "other",
    [
        lambda p: p[:, ::-1],
        lambda p: 255 - p,
        lambda p: p[..., ::-1],
        lambda p: np.roll(p, 6, 1),
        lambda p: p // 2,
    ],
    ids=["mirrored", "negative", "other colours", "shifted", "half as bright"],
)
def test_another_picture_is_not(other):
    pixels = np.stack([scene(seed) for seed in range(20)])
    assert found(np.concatenate([pixels, np.ascontiguousarray(other(pixels))])) == []


def test_even_surfaces_are_nothing_to_compare():
    even = np.full((5, 12, 12, 1), 200, np.uint8) + np.random.default_rng(0).integers(
        0, 2, (5, 12, 12, 1), np.uint8
    )
    assert found(even) == []


def test_different_drawings_of_one_digit_are_different_pictures():
    images = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)[..., None]
    assert len(found(images)) <= 2  # of 1.6 million pairs, many of them of one digit by one hand


def test_all_pairs_are_compared_however_many_blocks_there_are(monkeypatch):
    """The oracle compares every hash with every other one, without windows."""
    pixels = striped(3, 60, 12, seed=5)[0]
    monkeypatch.setattr(near, "BLOCK", 16)
    monkeypatch.setattr(near, "HASHES_APART", 0.3)
    hashes, contrast = near._hashes(near._thumbnails(pixels, np.arange(len(pixels))))
    apart = np.linalg.norm(hashes[:, None] - hashes[None], axis=2)
    expected = {(a, b) for a, b in np.argwhere(apart <= 0.3).tolist() if a < b}
    got = {tuple(pair) for pair in near._candidates(hashes, contrast).tolist()}
    assert len(expected) > 20
    most = max(np.bincount([a for a, _ in expected]))
    assert got == expected if most <= near.NEAREST else got <= expected


def test_many_copies_of_one_picture_are_one_group_and_take_no_longer():
    one, rng = scene(3).astype(int), np.random.default_rng(0)
    copies = np.clip(one + rng.integers(-2, 3, (300, *one.shape)), 0, 255).astype(np.uint8)
    pairs = near.near(copies, np.arange(300))
    assert len(pairs) <= 300 * near.NEAREST
    assert len(set(near.joined(np.arange(300), pairs).tolist())) == 1


def test_groups_are_joined_along_pairs():
    groups = np.array([7, 7, 8, 9, 10])
    joined = near.joined(groups, np.array([[1, 2], [3, 2]]))
    assert len(set(joined[:4].tolist())) == 1
    assert joined[4] != joined[0]
    assert len(set(near.joined(groups, np.zeros((0, 2), np.int64)).tolist())) == 4


@pytest.mark.parametrize("seed", range(3))
def test_a_drawn_split_never_parts_them(seed):
    pixels = np.stack([scene(k) for k in range(40)])
    labels = np.arange(40) % 2
    both = np.concatenate([pixels, np.stack([jpeg(p, 85) for p in pixels])])
    images = read((both, np.tile(labels, 2)), seed=seed)
    assert images.facts["near_duplicates"] == 40
    sides = [
        {int(name.rpartition("/")[2]) % 40 for name in part.names}
        for part in (images.train, images.valid)
    ]
    sides.append({int(name.rpartition("/")[2]) % 40 for name in images.test.open().names})
    assert sum(map(len, sides)) == 40
    assert all(sides)
    assert len(images.near) == 24
    assert {pair.parts[0] == pair.parts[1] for pair in images.near} == {True}
    # Nothing else is kept alive
    assert all(each.base is None for pair in images.near for each in pair.pictures)


def test_those_in_two_parts_of_the_source_are_told_and_kept(tmp_path):
    folder = write_folder(tmp_path / "train", per_class=8, size=24)
    write_folder(tmp_path / "test", per_class=4, size=24, seed=9)
    for k, label in ((0, "a"), (1, "b")):
        Image.fromarray(scene(k)).save(folder / label / "leak.png")
        Image.fromarray(jpeg(scene(k))).save(tmp_path / "test" / "b" / f"leak{k}.png")
    images = read(str(tmp_path))
    assert images.test.size == 10
    first, second = images.near
    assert all("test" in pair.parts and len(set(pair.parts)) == 2 for pair in images.near)
    # Those of two classes are told first
    assert (set(first.labels), set(second.labels)) == ({"a", "b"}, {"b"})
    told = [str(problem) for problem in images.problems if "nearly the same" in str(problem)]
    assert any("in train and test" in line or "in valid and test" in line for line in told)
    assert any("in two classes" in line and "leak" in line for line in told)
    assert any("remove one of each, or the accuracy reported is too high;" in line for line in told)
