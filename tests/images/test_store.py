"""What was decoded once is found again by other runs and processes, and never in place of another
picture.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convwise.core.problems import UnusableInput
from convwise.images import decode, files, store
from convwise.images.loading import Images, Within, load_image, read, resize
from convwise.images.store import Store, size_of
from imagesets import picture, striped, write_folder, write_zip
from studies import ENVIRONMENT

KEEPING = Within(cache_size="1GB")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "convwise" / "pixels"


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Grows by an entry with each picture that is decoded."""
    done: list[str] = []
    whole = decode.decode

    def counted(*what):
        done.append("once")
        return whole(*what)

    monkeypatch.setattr(decode, "decode", counted)
    return done


def same(one: Images, other: Images) -> bool:
    parts = [(images.train, images.valid, images.test.open()) for images in (one, other)]
    return one.content() == other.content() and all(
        np.array_equal(a.pixels, b.pixels) and a.names == b.names
        for a, b in zip(*parts, strict=True)
    )


# --- keys and values ------------------------------------------------------------------------------


def key(number: int) -> bytes:
    return number.to_bytes(16, "little")


def value(number: int, size: int = 1000) -> bytes:
    return np.random.default_rng(number).bytes(size)


def kept(folder: Path, numbers: range, most: int = 10**9) -> Store:
    made = Store(folder, most)
    for number in numbers:
        made.shelf("a").put(key(number), value(number))
    made.flush()
    return made


def test_what_was_put_is_found_by_this_run_and_by_others(tmp_path):
    mine, other = kept(tmp_path, range(50)), Store(tmp_path, 10**9)
    for number in range(50):
        assert (
            mine.shelf("a").get(key(number)) == other.shelf("a").get(key(number)) == value(number)
        )
    assert other.shelf("a").get(key(50)) is None
    assert other.shelf("b").get(key(0)) is None


def test_keys_that_begin_alike_are_told_apart(tmp_path):
    made = Store(tmp_path, 10**9)
    keys = [(7).to_bytes(8, "little") + bytes([n] * 8) for n in range(9)]
    for number, each in enumerate(keys):
        made.shelf("a").put(each, value(number))
        made.flush()
    assert [made.shelf("a").get(each) for each in keys] == [value(number) for number in range(9)]


def test_what_waits_is_written_bit_by_bit(tmp_path, monkeypatch):
    """So that a kill costs no more than the last part of it."""
    monkeypatch.setattr(store, "SEGMENT", 10_000)
    made = Store(tmp_path, 10**9)
    for number in range(25):
        made.shelf("a").put(key(number), value(number))
    assert [Store(tmp_path, 10**9).shelf("a").get(key(n)) is not None for n in (0, 19, 20, 24)] == [
        True,
        True,
        False,
        False,
    ]
    assert made.shelf("a").get(key(24)) == value(24)


@pytest.mark.parametrize("at", [0, 500, 1999])
def test_a_damaged_value_is_missing_and_can_be_kept_again(at, tmp_path):
    kept(tmp_path, range(2))
    (file,) = tmp_path.glob("a/*.seg")
    with file.open("r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte[0] ^ 1]))
    made = Store(tmp_path, 10**9)
    found = [made.shelf("a").get(key(number)) for number in range(2)]
    assert found == ([None, value(1)] if at < 1000 else [value(0), None])
    made.shelf("a").put(key(at // 1000), value(at // 1000))
    made.flush()
    assert [Store(tmp_path, 10**9).shelf("a").get(key(number)) for number in range(2)] == [
        value(0),
        value(1),
    ]


@pytest.mark.parametrize("left", [0, 5, 1500, -1, -20, -30])
def test_a_segment_that_was_cut_or_is_none_counts_for_nothing(left, tmp_path):
    kept(tmp_path, range(2))
    (file,) = tmp_path.glob("a/*.seg")
    os.truncate(file, left % file.stat().st_size if left else 0)
    (tmp_path / "a" / "other.seg").write_bytes(b"x" * 5000)
    assert Store(tmp_path, 10**9).shelf("a").get(key(0)) is None
    assert not list(tmp_path.glob("a/*.seg"))


def test_what_a_kill_left_is_removed_after_a_while(tmp_path):
    (tmp_path / "a").mkdir()
    old, new = tmp_path / "a" / "old.writing", tmp_path / "a" / "new.writing"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * store.STALE_SECONDS,) * 2)
    kept(tmp_path, range(1))
    assert new.exists()
    assert not old.exists()


def test_the_size_is_kept_and_what_was_unused_for_longest_goes(tmp_path):
    for number in range(5):
        kept(tmp_path, range(10 * number, 10 * number + 10))
    files = {Store(tmp_path, 10**9).shelf("a"): None}  # opened, so all are in use now
    del files
    order = sorted(tmp_path.glob("a/*.seg"))
    for age, file in enumerate(order):
        os.utime(file, (time.time() - 1000 + age,) * 2)
    made = Store(tmp_path, 45_000)
    made.shelf("b").put(key(0), value(0, 3000))
    made.flush()
    left = sorted(tmp_path.glob("*/*.seg"))
    assert sum(file.stat().st_size for file in left) <= 45_000
    assert set(left) >= set(order[2:])
    assert order[0] not in left
    assert made.shelf("b").get(key(0)) == value(0, 3000)


def test_a_run_does_not_remove_what_it_has_found_itself(tmp_path):
    """Else a set that is larger than the store would be decoded each time, and never found."""
    kept(tmp_path, range(20))
    made = Store(tmp_path, 25_000)
    assert made.shelf("a").get(key(0))
    for number in range(100, 120):
        made.shelf("a").put(key(number), value(number))
    made.flush()
    assert Store(tmp_path, 10**9).shelf("a").get(key(0)) == value(0)
    assert Store(tmp_path, 10**9).shelf("a").get(key(100)) is None
    assert made.shelf("a").get(key(100)) == value(100)  # in memory


def test_a_full_or_read_only_disk_is_a_run_without_the_store(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    made = kept(tmp_path, range(3))
    assert [made.shelf("a").get(key(n)) for n in range(3)] == [value(n) for n in range(3)]
    assert not list(tmp_path.glob("a/*"))


def test_memory_is_bounded_where_nothing_can_be_written(monkeypatch):
    monkeypatch.setattr(store, "HELD", 10_000)
    made = kept(Path("/proc/nowhere"), range(100)) if Path("/proc").exists() else Store(None, 0)
    for number in range(100, 200):
        made.shelf("a").put(key(number), value(number))
    held = sum(made.shelf("a").get(key(number)) is not None for number in range(200))
    assert held <= 112  # what waited when it was found out, and no more than HELD beside


WRITER = """
import sys
from pathlib import Path
import numpy as np
from convwise.images import store
store.SEGMENT = 20_000
made = store.Store(Path(sys.argv[1]), 10**9)
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    made.shelf("a").put(number.to_bytes(16, "little"), np.random.default_rng(number).bytes(1000))
made.flush()
"""


def test_two_writers_at_once_do_not_harm_each_other(tmp_path):
    both = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(start), str(start + 300)],
            env=ENVIRONMENT,
        )
        for start in (0, 150)
    ]
    assert [each.wait() for each in both] == [0, 0]
    made = Store(tmp_path, 10**9)
    assert all(made.shelf("a").get(key(number)) == value(number) for number in range(450))


def test_a_kill_while_writing_costs_what_was_not_written(tmp_path):
    """Killed as soon as something is there: what is there is whole, and the next run adds the
    rest.
    """
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path), "0", "1000000"], env=ENVIRONMENT
    )
    while not list(tmp_path.glob("a/*.seg")):
        time.sleep(0.01)
    writer.kill()
    writer.wait()
    made = Store(tmp_path, 10**9)
    found = [number for number in range(1000) if made.shelf("a").get(key(number))]
    assert found[:20] == list(range(20))
    assert all(made.shelf("a").get(key(number)) == value(number) for number in found)
    made = kept(tmp_path, range(1000))
    assert made.shelf("a").get(key(999)) == value(999)


@pytest.mark.parametrize(("text", "expected"), [("4GB", 4 * 10**9), ("500 mb", 5 * 10**8), ("0", 0),
                         (7, 7), ("1.5k", None), ("much", None), ("-1GB",
                         None)])  # noqa: E501  # fmt: skip
def test_sizes(text, expected):
    if expected is not None:
        assert size_of(text) == expected
        return
    with pytest.raises(UnusableInput, match="--cache-size"):
        size_of(text)


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("size", [(12, 12), (24, 30)])
def test_a_second_run_decodes_nothing_and_sees_the_same(zipped, size, tmp_path, decoded):
    folder = write_folder(tmp_path / "set", "ab", 8, size)
    source = write_zip(tmp_path / "set.zip", folder) if zipped else folder
    plain = read(source, limit_px=20)
    small = plain.at(6, 7)
    assert same(small, read(source, limit_px=20, within=KEEPING).at(6, 7))
    decoded.clear()
    again = read(source, limit_px=20, within=KEEPING)
    smaller = again.at(6, 7)
    smaller.test.open()
    assert decoded == []
    assert same(plain, again)
    assert same(small, smaller)
    assert again.facts == plain.facts
    assert again.problems == plain.problems


def test_many_small_pictures_are_opened_once(tmp_path, monkeypatch, decoded):
    """Most of one size; among them larger, gray, broken, turned and doubled ones."""
    folder = write_folder(tmp_path / "set", "ab", 40, 12, suffix=".jpg")
    picture(striped(2, 8, 30, 3, seed=5)[0][3]).save(folder / "a" / "0017.jpg")
    picture(striped(2, 8, 12, 1, seed=6)[0][3], "L").save(folder / "a" / "0018.jpg")
    (folder / "b" / "0058.jpg").write_bytes((folder / "b" / "0057.jpg").read_bytes()[:-30])
    (folder / "b" / "0056.jpg").write_bytes((folder / "b" / "0055.jpg").read_bytes())
    turned = Image.Exif()
    turned[0x0112] = 3
    picture(striped(2, 8, 12, 3, seed=7)[0][3]).save(folder / "b" / "0054.jpg", exif=turned)
    many = read(folder, within=KEEPING)
    assert len(decoded) == 2  # the larger and the broken one
    again = read(folder, within=KEEPING)
    monkeypatch.setattr(files, "MANY", 10**9)
    plain = read(folder)
    assert same(many, plain)
    assert same(many, again)
    assert many.facts == plain.facts == again.facts
    assert [str(each) for each in many.problems] == [str(each) for each in plain.problems]
    for name, pixels in zip(many.train.names, many.train.pixels, strict=True):
        np.testing.assert_array_equal(pixels, resize(load_image(folder / name, 3), 12, 12))


def test_both_ways_of_a_size_cost_one_decoding(tmp_path, decoded):
    train = read(
        write_folder(tmp_path / "set", "ab", 8, (24, 30)), limit_px=20, within=KEEPING
    ).train
    decoded.clear()
    smooth, rough = train.ways(6, 7)
    assert len(decoded) == len(train)
    for name, one, other in zip(train.names, smooth.pixels, rough.pixels, strict=True):
        whole = load_image(tmp_path / "set" / name, 3)
        np.testing.assert_array_equal(one, resize(whole, 6, 7))
        np.testing.assert_array_equal(other, resize(whole, 6, 7, decode.ROUGH))


def test_a_picture_that_was_replaced_is_read_again(tmp_path):
    """Even one of the same name, size and time."""
    folder = write_folder(tmp_path / "set", "ab", 8, 12, suffix=".bmp")
    before = read(folder, within=KEEPING)
    name = before.train.names[0]
    file = folder / name
    old = file.stat()
    picture(striped(2, 8, 12, 3, seed=99)[0][3]).save(tmp_path / "new.bmp")
    assert (tmp_path / "new.bmp").stat().st_size == old.st_size
    os.replace(tmp_path / "new.bmp", file)
    os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))
    after = read(folder, within=KEEPING)
    assert same(after, read(folder))
    np.testing.assert_array_equal(
        after.train.pixels[after.train.names.index(name)], load_image(file, 3)
    )


def test_another_range_of_deep_pictures_is_another_picture(tmp_path):
    """A 12-bit file means another thing as soon as the set is one of 16 bits."""
    for index in range(12):
        (tmp_path / "set" / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(index).integers(0, 4096, (8, 8)).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / "set" / "ab"[index % 2] / f"{index}.png")
    dim = read(tmp_path / "set", within=KEEPING)
    bright = np.random.default_rng(99).integers(0, 65536, (8, 8)).astype(np.uint16)
    Image.fromarray(bright).save(tmp_path / "set" / "a" / "99.png")
    wide = read(tmp_path / "set", within=KEEPING)
    assert dim.facts["scale"] != wide.facts["scale"]
    assert same(wide, read(tmp_path / "set"))


@pytest.mark.parametrize("way", [decode.SMOOTH, decode.ROUGH])
def test_gray_may_be_repeated_before_or_after_it_is_resized(way):
    """What is kept has its own channels, whatever the set has."""
    gray = np.random.default_rng(0).integers(0, 256, (37, 53, 1), np.uint8)
    for height, width in ((9, 20), (64, 64), (37, 10)):
        before = resize(decode.with_channels(gray, 3), height, width, way)
        np.testing.assert_array_equal(
            before, decode.with_channels(resize(gray, height, width, way), 3)
        )


def test_gray_pictures_are_kept_for_gray_and_for_mixed_sets(tmp_path, decoded):
    folder = write_folder(tmp_path / "set", "ab", 8, 12, "L")
    assert read(folder, within=KEEPING).base_shape == (12, 12, 1)
    write_folder(folder / "c", "c", 8, 12)
    for file in (folder / "c" / "c").iterdir():
        file.rename(folder / "c" / file.name)
    (folder / "c" / "c").rmdir()
    decoded.clear()
    mixed = read(folder, within=KEEPING)
    assert mixed.base_shape == (12, 12, 3)
    assert len(decoded) == 8
    assert same(mixed, read(folder))


def test_nothing_is_kept_unless_asked(tmp_path, cache):
    read(write_folder(tmp_path / "set", "ab", 8))
    assert not cache.exists()
    read(tmp_path / "set", within=KEEPING)
    assert list(cache.glob("*/*.seg"))


@pytest.mark.parametrize("size", [12, (20, 12), (200, 150)])
def test_what_is_kept_is_taken_once(size, tmp_path, monkeypatch):
    folder, (height, width) = tmp_path / "set", (size, size) if isinstance(size, int) else size
    rng = np.random.default_rng(0)
    for number in range(80):  # so different that none has to be compared with another
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "ab"[number % 2] / f"{number}.png")
    first = read(folder, within=KEEPING)
    taken, get = [], store.Shelf.get

    def counted(self, key):
        taken.append(self._folder.name)
        return get(self, key)

    monkeypatch.setattr(store.Shelf, "get", counted)
    assert same(read(folder, within=KEEPING), first)
    assert sum(decode.SMOOTH.name.lower() in name for name in taken) == 80


def test_pictures_that_cannot_be_kept_are_decoded_again_where_they_are_asked_for(
    tmp_path, monkeypatch, decoded
):
    monkeypatch.setattr(store, "HELD", -1)
    folder = write_folder(tmp_path / "set", "ab", 8, 12)
    images = read(folder)
    assert len(decoded) == 32  # as they are found, and as pixels
    for name, pixels in zip(images.train.names, images.train.pixels, strict=True):
        np.testing.assert_array_equal(pixels, load_image(folder / name, 3))


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = write_folder(tmp_path / "set", "ab", 8)
    assert same(read(folder, within=KEEPING), read(folder))
