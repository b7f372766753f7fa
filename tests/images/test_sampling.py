"""A budget never ends in reading: of a large set a part is read, the same on every run, and it is
said which.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from convwise.images import files, sampling, splits, stack
from convwise.images.loading import Within, read
from imagesets import write_folder, write_parts, write_zip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of 60, 60 and 12 pictures."""
    where = write_folder(tmp_path_factory.mktemp("set"), ("a", "b", "c"), 60, 8)
    for file in sorted((where / "c").iterdir())[12:]:
        file.unlink()
    return where


@pytest.fixture
def slow(monkeypatch):
    """A file that takes a tenth of a second to read: 30 of them in the tenth of a budget of 30 s,
    none in any case.
    """
    monkeypatch.setattr(sampling, "FILE_SECONDS", 0.1)
    monkeypatch.setattr(sampling, "PIXEL_SECONDS", 0.0)
    monkeypatch.setattr(sampling, "FEW", 1)


def test_a_budget_that_is_enough_reads_everything_and_says_nothing(folder):
    images = read(folder, within=Within(20.0))
    assert images.facts["read"] == 132
    assert "seen" not in images.facts
    assert images.counts() == np.bincount(images.train.labels).tolist()
    assert not any("were read" in str(problem) for problem in images.problems)


def test_a_part_is_read_each_class_in_proportion_and_it_is_said(folder, slow):
    images = read(folder, within=Within(60.0), test="none")
    assert images.facts["seen"] == {
        "listed": 132, "affordable": 60, "read": 60, "classes": {"a": 60, "b": 60, "c": 12},
        "late": False
    }  # fmt: skip
    together = Counter(name[0] for part in (images.train, images.valid) for name in part.names)
    assert together.total() == 60
    for name, listed in {"a": 60, "b": 60, "c": 12}.items():
        assert abs(together[name] - listed * 60 / 132) <= 1
    assert "60 of 132 images (45 %), each class in proportion" in images.facts["read_as"]
    assert any("only 60 of 132 images" in line and "--budget" in line for line in images.said())


def test_the_same_budget_and_seed_give_the_same_part_from_a_folder_and_a_zip(
    folder, slow, tmp_path
):
    one, again, zipped, other = (
        read(source, within=Within(60.0), seed=seed)
        for source, seed in (
            (folder, 3),
            (folder, 3),
            (write_zip(tmp_path / "set.zip", folder), 3),
            (folder, 4),
        )
    )
    assert one.train.names == again.train.names == zipped.train.names
    assert one.content() == again.content() == zipped.content()
    assert one.train.names != other.train.names


def test_a_larger_budget_keeps_what_a_smaller_one_reads(folder, slow):
    small, large = (
        {*images.train.names, *images.valid.names}
        for images in (
            read(folder, within=Within(seconds), test="none") for seconds in (30.0, 90.0)
        )
    )
    assert len(small) == 30 < len(large) == 90
    assert small < large


def test_every_part_of_the_source_is_read_in_proportion(slow, tmp_path):
    write_parts(tmp_path, per_class=30, size=8)
    images = read(tmp_path, within=Within(60.0))
    assert images.test is not None
    assert (len(images.train), len(images.valid), images.test.size) == (20, 20, 20)


def test_small_classes_are_kept_even_where_the_budget_is_tiny(folder, slow):
    images = read(folder, within=Within(1.0))
    assert images.classes == ("a", "b", "c")
    assert images.facts["read"] == 3 * sampling.EACH
    assert images.facts["seen"]["affordable"] == 3 * sampling.EACH


@pytest.mark.parametrize(("many", "when"), [(64, 1.0), (10**9, 0.5), (10**9, 1.0)])
def test_where_reading_is_very_slow_a_clock_ends_it_and_the_next_run_reads_the_same(
    many, when, folder, tmp_path, monkeypatch
):
    """While files are opened, or when they are decoded."""
    monkeypatch.setattr(files, "MANY", many)
    monkeypatch.setattr(sampling, "FEW", 1)
    monkeypatch.setattr(stack, "THREADS", 1)  # else one may be far behind the others
    asked = 0

    def late(share: float) -> bool:
        nonlocal asked
        asked += share == when
        return asked > 40 and share == when

    one = read(folder, within=Within(600.0, late), cache=tmp_path / "study")
    assert 3 * sampling.EACH < one.facts["seen"]["read"] < 90
    assert one.facts["seen"]["late"]
    assert any("reading was so slow on this machine" in line for line in one.said())
    counts = Counter(
        name[0] for part in (one.train, one.valid, one.test.open()) for name in part.names
    )
    assert counts.total() == one.facts["seen"]["read"]
    assert abs(counts["a"] - counts["b"]) <= 1
    again = read(folder, within=Within(600.0), cache=tmp_path / "study")
    assert again.content() == one.content()
    assert again.facts == one.facts


@pytest.mark.parametrize("few", [1, 40])
def test_some_are_read_however_late_it_is(few, folder, monkeypatch):
    monkeypatch.setattr(sampling, "FEW", few)
    images = read(folder, within=Within(600.0, lambda share: True))
    assert images.facts["read"] == max(3 * sampling.EACH, few)


@pytest.mark.parametrize("size", [8, (9, 200)])
def test_in_which_order_files_are_read_changes_nothing(size, tmp_path):
    write_folder(tmp_path, "ab", 8, size)
    (tmp_path / "a" / "broken.png").write_bytes(b"no picture")
    plain, ordered = read(tmp_path), read(tmp_path, within=Within(600.0))
    assert plain.content() == ordered.content()
    assert plain.facts == ordered.facts
    assert plain.problems == ordered.problems


def test_larger_pictures_take_more_of_the_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "FEW", 1)
    monkeypatch.setattr(sampling, "PIXEL_SECONDS", 1e-3)
    small, large = (
        read(write_folder(tmp_path / str(size), "ab", 60, size), within=Within(60.0)).facts["read"]
        for size in (8, 16)
    )
    assert small == int(6 / (sampling.FILE_SECONDS + 64e-3))
    assert large == int(6 / (sampling.FILE_SECONDS + 256e-3))


def test_looking_reads_what_is_measured_and_tells_the_counts_of_all(folder):
    images = read(folder, within=Within(600.0, most=30))
    assert len(images.train) == pytest.approx(30, abs=3)
    seen = images.facts["seen"]
    assert seen["listed"] == seen["affordable"] == 132
    assert images.counts() == pytest.approx([0.64 * 60, 0.64 * 60, 0.64 * 12], abs=2)
    assert any("convwise choose` reads 132 of them" in str(problem) for problem in images.problems)


@pytest.mark.parametrize("seed", range(3))
def test_spread_against_a_plain_count(seed):
    rng = np.random.default_rng(seed)
    strata = rng.choice(7, 1000, p=[0.4, 0.3, 0.2, 0.07, 0.02, 0.008, 0.002])
    before: set[int] = set()
    for most in (60, 300, 999, 1000):
        order, first = splits.spread(strata, 3, seed)
        assert first == sum(min(3, count) for count in Counter(strata.tolist()).values())
        rows = order[:most]
        assert len(rows) == most == len(set(rows.tolist()))
        assert before <= set(rows.tolist())
        before = set(rows.tolist())
        for stratum, count in Counter(strata.tolist()).items():
            expected = max(min(3, count), count * most / 1000)
            assert abs(int((strata[rows] == stratum).sum()) - expected) <= 3


MANY = """
from functools import partial
from pathlib import Path
from convwise.images import sampling
from convwise.images.sources import Found, Item

def resident():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))

def listed(count):
    names = (f"/a/long/way/to/the/pictures/class{row % 10}/{row:07d}.jpg" for row in range(count))
    return tuple(Item(None, name[-13], name, partial(open, name)) for name in names)

before = resident()
found = Found("set", listed(200_000))
taken = resident() - before
sampling.FILE_SECONDS = 1.0
part = sampling.sampled(found, [0] * 200_000, 0, 100_000, None).found
del found
print(taken, resident() - before, len(part.items), part.items[5].open.args == (part.items[5].name,))
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the system does not tell")
def test_of_very_many_files_the_rest_gives_its_memory_back():
    told = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True, check=True)
    taken, left, read_, opens = told.stdout.split()
    assert (read_, opens) == ("10000", "True")
    assert int(left) < int(taken) / 3
