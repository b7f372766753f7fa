"""sources/: every kind of source is recognised, round-trips, and says clearly what is wrong with
it.
"""

from __future__ import annotations

import ast
import gzip
import io
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from convwise.core.problems import UnusableInput
from convwise.images import sources
from convwise.images.loading import load_image, pictures, read
from convwise.images.sources import SOURCES
from convwise.images.value_range import ValueRange
from imagesets import striped, write_folder, write_idx, write_parts, write_zip
from studies import ENVIRONMENT

X, Y = striped(3, 8, size=12)
X_TEST, Y_TEST = striped(3, 4, size=12, seed=9)


def refused(source, **how) -> str:
    """The message with which reading stops."""
    with pytest.raises(UnusableInput) as caught:
        read(source, **how)
    assert "Traceback" not in str(caught.value)
    return str(caught.value)


# --- one example for each row of SOURCES: 24 images of 3 classes in all, none of them twice -------


def folder_example(tmp_path):
    return write_folder(tmp_path / "set", "abc", 8, 12, "L")


def parquet_example(tmp_path):
    """As Hugging Face writes it: names of the classes beside numbers, the pictures as PNG."""
    from parquets import write_parquet

    return write_parquet(tmp_path / "set" / "train-00000-of-00001.parquet", X, Y, "abc").parent


def zip_example(tmp_path):
    return write_zip(tmp_path / "set.zip", folder_example(tmp_path))


def tar_example(tmp_path):
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        archive.add(folder_example(tmp_path), "set")
    return tmp_path / "set.tar.gz"


def table_example(tmp_path):
    """Loose images, and their classes in a table."""
    files = sorted(folder_example(tmp_path).rglob("*.png"))
    lines = [f"{file.name},{file.parent.name}" for file in files]
    for file in files:
        file.rename(tmp_path / "set" / file.name)
    (tmp_path / "set" / "labels.csv").write_text("\n".join(["file,label", *lines]))
    return tmp_path / "set" / "labels.csv"


def npz_example(tmp_path):
    np.savez(tmp_path / "set.npz", x=X, y=Y)
    return tmp_path / "set.npz"


EXAMPLES = {
    "folder": folder_example,
    "parquet": parquet_example,
    "zip": zip_example,
    "tar": tar_example,
    "table": table_example,
    "npz": npz_example,
    "idx": lambda tmp_path: write_idx(tmp_path / "set", "train", X[..., 0], Y),
    "named": lambda tmp_path: "digits",
    "arrays": lambda tmp_path: (X, Y),
    "datasets": lambda tmp_path: Numbered(X, Y),
}


class Numbered:
    """Like a torch Dataset: items by number."""

    def __init__(self, images, labels, classes=None) -> None:
        self.items = list(zip(images, labels, strict=True))
        self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        return self.items[index]


@pytest.mark.parametrize("row", SOURCES, ids=lambda row: row.name)
class TestConformance:
    """What every source promises; a new row needs an example above."""

    def test_is_recognised_first_by_its_own_row(self, row, tmp_path):
        source = EXAMPLES[row.name](tmp_path)
        assert next(other.name for other in SOURCES if other.recognises(source)) == row.name

    def test_strangers_are_not_recognised(self, row, tmp_path):
        (tmp_path / "notes.txt").write_text("no images")
        for stranger in (tmp_path / "notes.txt", tmp_path / "missing", "missing", 7, None, {}):
            assert not row.recognises(stranger)

    def test_reads_everything_into_disjoint_parts(self, row, tmp_path):
        images = read(EXAMPLES[row.name](tmp_path))
        test = images.test.open()
        names = [*images.train.names, *images.valid.names, *test.names]
        assert len(set(names)) == len(names) == images.facts["read"]
        assert images.train.pixels.dtype == np.uint8
        assert images.train.pixels.shape[1:] == images.base_shape
        assert all(
            set(part.labels) == set(range(len(images.classes)))
            for part in (images.train, images.valid, test)
        )

    def test_twice_the_same(self, row, tmp_path):
        source = EXAMPLES[row.name](tmp_path)
        first, again = read(source), read(source)
        assert first.train.names == again.train.names
        np.testing.assert_array_equal(first.train.pixels, again.train.pixels)


@pytest.mark.parametrize("name", ["folder", "zip", "tar", "table", "npz", "idx", "arrays"])
def test_the_same_images_come_out_of_every_source(name, tmp_path):
    images = read(EXAMPLES[name](tmp_path), test="none")
    got = sorted(image.tobytes() for image in images.unsealed().pixels)
    assert got == sorted(image.tobytes() for image in X)


# --- folders and zips ---------------------------------------------------------------------------


@pytest.mark.parametrize("valid", ["val", "valid", "validation", "Val"])
def test_parts_of_a_folder_are_respected(tmp_path, valid):
    images = read(write_parts(tmp_path, ("train", valid, "test"), per_class=4))
    assert images.facts["own_test"]
    assert images.facts["own_valid"]
    assert all(name.startswith("train/") for name in images.train.names)
    assert all(name.startswith(valid) for name in images.valid.names)
    assert all(name.startswith("test/") for name in images.test.open().names)


@pytest.mark.parametrize("top", ["", "wrapped", "twice/wrapped"])
def test_zip_with_and_without_a_wrapping_folder(tmp_path, top):
    folder = write_parts(tmp_path / "set", ("train", "test"), per_class=4)
    images = read(write_zip(tmp_path / "set.zip", folder, top))
    assert images.classes == ("a", "b")
    assert images.test.size == 8


def test_classes_may_be_called_train_and_test(tmp_path):
    assert read(write_folder(tmp_path, ("train", "bus", "test"))).classes == (
        "bus",
        "test",
        "train",
    )


def test_folders_inside_a_class_belong_to_it(tmp_path):
    write_folder(tmp_path / "a", ("x", "y"))
    write_folder(tmp_path / "b", ("x", "z"), seed=5)
    assert read(tmp_path).classes == ("a", "b")


def test_numeric_classes_in_numeric_order(tmp_path):
    assert read(write_folder(tmp_path, ("10", "9", "1.5", "-1", "x"))).classes == (
        "-1",
        "1.5",
        "9",
        "10",
        "x",
    )


def test_composed_and_decomposed_names_are_one_class(tmp_path):
    write_folder(tmp_path / "train", ("e\u0301", "b"))
    write_folder(tmp_path / "test", ("\u00e9", "b"), seed=3)
    images = read(tmp_path)
    assert images.classes == ("b", "\u00e9")
    assert images.test.size == 12


def test_hidden_files_are_ignored_and_other_kinds_reported(tmp_path):
    write_folder(tmp_path)
    for name in ("a/.DS_Store", "a/._0000.png", "__MACOSX/a/._1.png", ".git/b/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"junk")
    (tmp_path / "labels.csv").write_text("a,b")
    Image.new("L", (16, 16)).save(tmp_path / "loose.png")
    images = read(tmp_path)
    assert images.facts["read"] == 12
    text = " ".join(map(str, images.problems))
    assert "1 .csv" in text
    assert "loose.png" in text
    assert "DS_Store" not in text


def test_linked_folders_are_followed_once(tmp_path):
    write_folder(tmp_path / "real" / "x")
    (tmp_path / "set").mkdir()
    for name in "ab":
        (tmp_path / "set" / name).symlink_to(tmp_path / "real" / "x" / name)
        (tmp_path / "real" / "x" / name / "loop").symlink_to(tmp_path / "real" / "x" / name)
    assert read(tmp_path / "set", follow_links=True).facts["read"] == 12


def test_a_folder_that_cannot_be_listed_does_not_vanish(tmp_path, monkeypatch):
    """Not by its permissions: these tests may run as root."""
    listed = os.scandir

    def denied(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    write_folder(tmp_path / "set", "abc")
    monkeypatch.setattr(os, "scandir", denied)
    message = refused(tmp_path / "set")
    assert str(tmp_path / "set" / "b") in message
    assert "Permission denied" in message
    with (
        pytest.raises(UnusableInput, match="Permission denied"),
        pictures(tmp_path / "set", 3, ValueRange(0, 1)),
    ):
        pass


def test_a_source_that_cannot_be_listed(tmp_path, monkeypatch):
    def denied(path="."):
        raise PermissionError(13, "Permission denied", str(path))

    write_folder(tmp_path / "set")
    monkeypatch.setattr(os, "listdir", denied)
    monkeypatch.setattr(os, "scandir", denied)
    assert f"{tmp_path / 'set'}: cannot be read (Permission denied)" in refused(tmp_path / "set")


def test_a_pipe_among_the_images_is_named_and_not_waited_for(tmp_path):
    write_folder(tmp_path)
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "b" / "link.png").symlink_to(tmp_path / "a" / "0000.png")
    # In a process of its own: what waits for a pipe cannot be stopped otherwise.
    told = subprocess.run(
        [sys.executable, "-c",
        f"from convwise.images.loading import read; print(read({str(tmp_path)!r}).facts)"],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    facts = ast.literal_eval(told)
    assert facts["unreadable_files"] == {"a/pipe.png": "not a regular file"}
    assert facts["read"] == 13
    with pytest.raises(UnusableInput, match="empty file"):
        load_image(tmp_path / "a" / "pipe.png", 3)


def test_the_first_frame_of_a_gif_is_read(tmp_path):
    write_folder(tmp_path, mode="P", suffix=".gif")
    frames = [Image.new("L", (16, 16), value) for value in (200, 10)]
    frames[0].save(tmp_path / "a" / "moving.gif", save_all=True, append_images=frames[1:])
    images = read(tmp_path, test="none")
    assert images.facts["read"] == 13
    everything = images.unsealed()
    assert everything.pixels[everything.names.index("a/moving.gif")].min() == 200
    assert any("several frames" in str(problem) for problem in images.problems)


@pytest.mark.parametrize(
    ("given", "missing", "fix"),
    [
        ("photo", "photo", "photos or photos.zip"),
        ("PHOTOS/", "PHOTOS", "photos or photos.zip"),
        ("phots/train", "phots", "photos/train"),  # the zip has nothing below it
        ("photos/trian", "photos/trian", "photos/train"),
        ("digit", "digit", "digits"),
        ("xyz", "xyz", "see `convwise choose --help`, which lists the kinds of sources"),
        (
            "photos.zip/train",
            "photos.zip/train",
            "see `convwise choose --help`, which lists the kinds of sources",
        ),
        (
            "nothing/below/this",
            "nothing",
            "see `convwise choose --help`, which lists the kinds of sources",
        ),
    ],
)
def test_of_a_path_that_is_not_there_it_is_said_what_is_like_it(
    given, missing, fix, tmp_path, monkeypatch
):
    (tmp_path / "photos" / "train").mkdir(parents=True)
    (tmp_path / "photos.zip").touch()
    monkeypatch.chdir(tmp_path)
    said = (
        f"there is no file or folder {missing}, and no data set of this name; expected a set of"
        f" images. Fix: {fix}"
    )
    assert refused(given) == f"{given.rstrip('/')}: {said}"


def test_of_an_absolute_path_the_near_one_is_absolute(tmp_path):
    (tmp_path / "photos").mkdir()
    assert refused(tmp_path / "photo").endswith(f"Fix: {tmp_path / 'photos'}")


def test_a_folder_of_archives_names_them(tmp_path):
    """What a folder holds in one file each is a source itself, and the fix is typed as it is."""
    root = tmp_path / "signs"
    root.mkdir()
    (root / "LICENSE").write_text("free")
    with zipfile.ZipFile(root / "signs.zip", "w") as archive:
        for label in "ab":
            for number in range(12):
                shade = Image.new("L", (8, 8), 20 * number + (label == "b"))
                held = io.BytesIO()
                shade.save(held, "png")
                archive.writestr(f"{label}/{number}.png", held.getvalue())
    said = refused(root)
    assert "holds no image, but signs.zip" in said
    fix = said.rpartition("Fix: ")[2]
    assert fix == str(root / "signs.zip")
    assert len(sources.find(fix).items) == 24
    np.savez(root / "more.npz", x=np.zeros((2, 8, 8), np.uint8), y=[0, 1])
    assert refused(root).endswith(f"Fix: {root / 'more.npz'} or {root / 'signs.zip'}")
    (root / "notes").mkdir()
    assert "holds no image, only" in refused(root)


def test_a_folder_is_not_listed_to_see_that_it_is_none_of_archives(tmp_path, monkeypatch):
    """Of many pictures in one folder only the first is looked at."""
    for number in range(9):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
    seen, real = [], os.scandir

    @contextmanager
    def counted(path):
        with real(path) as entries:
            yield (seen.append(entry.name) or entry for entry in entries)

    monkeypatch.setattr(os, "scandir", counted)
    sources._refuse_packed(tmp_path)
    assert len(seen) == 1


def test_bad_folders(tmp_path):
    assert "holds no file" in refused(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.txt").write_text("no image")
    assert "only 1 .txt" in refused(tmp_path)
    Image.new("L", (8, 8)).save(tmp_path / "1.png")
    assert "no class folders" in refused(tmp_path)
    assert "a single image" in refused(tmp_path / "1.png")
    assert "unknown kind" in refused(tmp_path / "a" / "1.txt")
    assert "no train" in refused(write_parts(tmp_path / "set", ("test",)))
    assert "only one class, 'a'" in refused(write_folder(tmp_path / "one", ("a",)))
    assert "int: not a source" in refused(7)


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_not_the_folder_that_one_is_in(name, tmp_path, monkeypatch):
    monkeypatch.chdir(write_folder(tmp_path))
    assert read(".").classes == ("a", "b")
    assert "is empty; expected a set of images" in refused(name)
    with pytest.raises(UnusableInput, match="is empty"), pictures(name, 1, ValueRange(0, 1)):
        pass


# The first bytes by the descriptions of the formats: 7-zip's 7zFormat.txt, RAR 5.0, RFC 8878, LZ4
# frames, RFC 1952.
PACKED = {
    "set.7z": (b"7z\xbc\xaf\x27\x1c", "7z"), "set.rar": (b"Rar!\x1a\x07\x01\0", "RAR"),
    "old.rar": (b"Rar!\x1a\x07\0", "RAR"), "set.tar.zst": (b"\x28\xb5\x2f\xfd", "zstd"),
    "set.lz4": (b"\x04\x22\x4d\x18", "lz4"), "a.gz": (gzip.compress(b"x"), "gzip"),
}  # fmt: skip


@pytest.mark.parametrize("name", PACKED)
def test_archives_that_are_not_read_are_named(name, tmp_path):
    (tmp_path / name).write_bytes(PACKED[name][0] + bytes(50) * (name != "a.gz"))
    said = refused(tmp_path / name)
    assert (
        f"packed as {PACKED[name][1]}, which is not read; expected a set of images. Fix: unpack it"
        in said
    )


@pytest.mark.parametrize(
    ("mode", "name"),
    [("w:gz", "set.bin"), ("w:bz2", "my.set.tar.bz"), ("w:xz", "set"), ("w", "set.old")],
)
def test_a_tar_under_another_name_is_read_by_the_name_of_the_fix(mode, name, tmp_path):
    with tarfile.open(tmp_path / name, mode) as archive:
        archive.add(write_folder(tmp_path / "pictures"), "set")
    said = refused(tmp_path / name)
    assert "a tar under another name" in said
    (tmp_path / name).rename(renamed := tmp_path / said.rpartition("Fix: call it ")[2])
    assert renamed.name.startswith(name.split(".")[0])
    assert read(renamed).classes == ("a", "b")


@pytest.mark.parametrize("data", [b"", bytes(10_000), b"hello"])
def test_other_files_are_no_tars(data, tmp_path):
    (tmp_path / "some.bin").write_bytes(data)
    assert "a file of unknown kind" in refused(tmp_path / "some.bin")


# The first bytes by the descriptions of the formats, where these say any; DICOM, part 10; FITS 4.0;
# and so on.
UNREAD = {
    "x.tga": (bytes(18), "TGA"), "x.ico": (b"\0\0\1\0", "icon"),
    "x.svg": (b'<?xml version="1.0"?>\n<svg/>', "SVG"),
    "x.dcm": (bytes(128) + b"DICM", "DICOM"), "x.nii": (b"\x5c\1\0\0", "NIfTI"),
    "x.nii.gz": (gzip.compress(b"x"), "NIfTI"),
    "x.fits": (b"SIMPLE  =                    T", "FITS"), "x.hdr": (b"#?RADIANCE\n",
    "Radiance HDR"),
    "x.dds": (b"DDS |\0\0\0", "DDS"), "x.jxr": (b"II\xbc\1", "JPEG XR"), "x.czi": (b"ZISRAWFILE",
    "Zeiss CZI"),
    "x.JP2": (b"?", "JPEG 2000"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREAD)
def test_pictures_of_other_kinds_are_called_by_their_kind(name, tmp_path):
    data, kind = UNREAD[name]
    data += bytes(60)
    (write_folder(tmp_path / "set") / "a" / name).write_bytes(data)
    files = read(tmp_path / "set").facts["unreadable_files"]
    assert files == {f"a/{name}": f"{kind}, which is not read: save it as PNG or JPEG"}
    with pytest.raises(UnusableInput, match=f"{kind}, which is not read"):
        load_image(tmp_path / "set" / "a" / name, 3)
    with (
        pictures(tmp_path / "set" / "a" / name, 3, ValueRange(0, 1)) as ((_, give),),
        pytest.raises(UnusableInput, match=f"{kind}, which is not read"),
    ):
        give(8, 8)
    archive = write_zip(tmp_path / "set.zip", tmp_path / "set")
    assert read(archive).facts["unreadable_files"] == files


@pytest.mark.parametrize("kind", ["DICOM", "FITS", "DDS", "JPEG XR", "Zeiss CZI", "Radiance HDR"])
def test_they_are_also_known_by_their_first_bytes(kind, tmp_path):
    """Without a suffix, as scanners save DICOM: else they would be some other file, and ignored."""
    (data,) = [data for data, name in UNREAD.values() if name == kind]
    (write_folder(tmp_path) / "a" / "IM0001").write_bytes(data + bytes(60))
    assert kind in read(tmp_path).facts["unreadable_files"]["a/IM0001"]


def test_a_suffix_alone_makes_no_picture_unreadable(tmp_path):
    for index, file in enumerate(sorted((write_folder(tmp_path) / "a").iterdir())):
        file.rename(file.with_suffix((".dcm", ".tga", ".svg", ".nii", ".heic", ".ico")[index]))
    (tmp_path / "b" / "x.jpg").write_bytes(b"<html>not found</html>")
    assert read(tmp_path).facts["unreadable_files"] == {
        "b/x.jpg": "not an image in a format that can be read"
    }


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def png(seed: int, size: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)
    ).save(stream, "PNG")
    return stream.getvalue()


def good_members() -> dict[str, bytes]:
    return {f"{name}/{i}.png": png(10 * i + k) for k, name in enumerate("ab") for i in range(5)}


def test_zip_names_that_point_outside_are_ignored(tmp_path):
    evil = {"../a/evil.png": png(91), "/a/evil.png": png(92), "C:/a/evil.png": png(93)}
    images = read(zipped(tmp_path / "set.zip", good_members() | evil))
    assert images.facts["read"] == 10
    assert any(
        "3 names leading out of the archive were ignored" in str(problem)
        for problem in images.problems
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.zip"]


def test_zip_with_windows_separators(tmp_path):
    members = {name.replace("/", "\\"): data for name, data in good_members().items()}
    assert read(zipped(tmp_path / "set.zip", members)).classes == ("a", "b")


def patched(path: Path, offset: int, value: bytes) -> Path:
    """Write `value` at `offset` of every entry of the central directory."""
    data = bytearray(path.read_bytes())
    start = data.find(b"PK\x01\x02")
    while start >= 0:
        data[start + offset : start + offset + len(value)] = value
        start = data.find(b"PK\x01\x02", start + 4)
    path.write_bytes(data)
    return path


def test_encrypted_zip(tmp_path):
    assert "the zip is encrypted; expected a zip without a password" in refused(
        patched(zipped(tmp_path / "set.zip", good_members()), 8, b"\x01\x00")
    )


def test_zip_bomb_of_many_members(tmp_path):
    path = patched(zipped(tmp_path / "set.zip", good_members()), 24, struct.pack("<I", 2**31))
    assert "unpacks to 20.0 GiB" in refused(path)


def test_zip_bomb_of_one_member_costs_only_itself(tmp_path):
    bomb = zipped(tmp_path / "set.zip", good_members() | {"a/bomb.bmp": b"BM" + bytes(401 * 2**20)})
    images = read(bomb)
    assert list(images.facts["unreadable_files"]) == ["a/bomb.bmp"]
    assert "over the limit" in images.facts["unreadable_files"]["a/bomb.bmp"]


def test_damaged_zips(tmp_path):
    (tmp_path / "empty.zip").write_bytes(b"")
    assert "not a readable zip" in refused(tmp_path / "empty.zip")
    whole = zipped(tmp_path / "set.zip", good_members()).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    assert "not a readable zip" in refused(tmp_path / "cut.zip")
    assert "no image" in refused(zipped(tmp_path / "text.zip", {"a/1.txt": b"x"}))


# --- arrays -------------------------------------------------------------------------------------


def saved(tmp_path: Path, **arrays) -> Path:
    np.savez(tmp_path / "set.npz", **arrays)
    return tmp_path / "set.npz"


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
    ],
)
def test_npz_in_both_namings(tmp_path, keys):
    arrays = dict(zip(keys, (X, Y[:, None], X_TEST, Y_TEST[:, None]), strict=True))
    images = read(saved(tmp_path, **arrays))
    np.testing.assert_array_equal(images.test.open().pixels, X_TEST)
    np.testing.assert_array_equal(images.test.open().labels, Y_TEST)
    assert images.classes == ("0", "1", "2")
    assert images.train.names[0].startswith("train/")


def test_npz_with_its_own_valid_part(tmp_path):
    images = read(saved(tmp_path, x_train=X, y_train=Y, x_val=X_TEST, y_val=Y_TEST))
    np.testing.assert_array_equal(images.valid.pixels, X_TEST)
    assert images.test.size > 0
    assert len(images.train) + images.test.size == len(X)


def test_keras_pair_of_pairs():
    images = read(((X[..., 0], Y), (X_TEST[..., 0], Y_TEST)))
    assert images.test.size == len(X_TEST)
    assert images.source == "arrays"


@pytest.mark.parametrize(
    "labels",
    [np.eye(3)[Y], Y.astype(float), Y.astype("S1"), Y[:, None], [str(label) for label in Y]],
)
def test_labels_in_every_form(labels):
    images = read((X, labels))
    assert images.classes == ("0", "1", "2")
    np.testing.assert_array_equal(
        np.bincount(images.unsealed().labels), np.bincount(read((X, Y)).unsealed().labels)
    )


# Both ends of the range occur, so that it tells the scale.
FULL = X.copy()
FULL[0, 0, :2, 0] = 0, 255


@pytest.mark.parametrize(
    ("pixels", "exact"),
    [
        (FULL / 255, True),
        (FULL.astype(np.float32) / 255, True),
        (FULL.astype(np.int64), True),
        (FULL.astype(float), True),
        (FULL.astype(np.uint16) * 257, True),
        (FULL.astype(float) / 127.5 - 1, True),
        (FULL[..., 0], True),
        (np.repeat(FULL, 3, axis=3), True),
        (np.repeat(FULL, 3, axis=3).transpose(0, 3, 1, 2), True),
        (np.concatenate([FULL, np.full_like(FULL, 255)], axis=3), True),
        (FULL.astype(float) * 1000 - 5e4, False),
    ],
)
def test_values_and_channels_in_every_form_are_the_same_images(pixels, exact):
    images, plain = read((pixels, Y)), read((FULL, Y))
    assert images.base_shape == (12, 12, 1)
    if exact:
        np.testing.assert_allclose(images.train.pixels.astype(int), plain.train.pixels, atol=1)
    else:
        assert images.train.pixels.max() == 255
        assert any("scaled to 0..255" in str(problem) for problem in images.problems)


def test_binary_images_use_the_whole_range():
    images = read(((X > 128).astype(np.uint8), Y))
    assert set(np.unique(images.train.pixels)) == {0, 255}
    assert any("multiplied by 255" in str(problem) for problem in images.problems)


def test_the_range_of_test_does_not_change_train(tmp_path):
    quiet, loud = X / 255, X_TEST / 255
    loud[0, 0, 0] = 40
    images = read(saved(tmp_path, x_train=quiet, y_train=Y, x_test=loud, y_test=Y_TEST))
    np.testing.assert_array_equal(
        images.train.pixels, read((X, Y), test="none").train.pixels[: len(images.train)]
    )


def test_bad_arrays(tmp_path):
    broken = X / 255
    broken[3, 2, 1] = np.nan
    assert "NaN" in refused((broken, Y))
    assert "24 images but 23 labels" in refused((X, Y[:-1]))
    assert "24 images but 23 labels" in refused(saved(tmp_path, x_train=X, y_train=Y[:-1]))
    assert "shape (24, 144)" in refused((X.reshape(24, -1), Y))
    assert "shape (24, 12, 12, 7)" in refused((np.repeat(X, 7, axis=3), Y))
    assert "not one class" in refused((X, np.ones((24, 3), int)))
    assert "fractions" in refused((X, Y + 0.5))
    assert "no y_test" in refused(saved(tmp_path, x_train=X, y_train=Y, x_test=X_TEST))
    assert "pictures" in refused(saved(tmp_path, pictures=X))
    assert "type <U1" in refused((np.full(X.shape, "a"), Y))
    assert "no image" in refused((X[:0], Y[:0]))
    assert "is not an array" in refused(([X[0], X[1], X[2, :3]], [0, 1, 1]))


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_npz_never_unpickles(tmp_path):
    path = saved(
        tmp_path, x_train=np.array([Bomb(tmp_path / "ran"), None], dtype=object), y_train=Y[:2]
    )
    assert "not a readable .npz" in refused(path)
    assert not (tmp_path / "ran").exists()
    (tmp_path / "set.npz").write_bytes(b"PK not a zip")
    assert "not a readable .npz" in refused(tmp_path / "set.npz")


# --- IDX ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("one_file", [True, False])
def test_idx_round_trip(tmp_path, zipped, one_file):
    write_idx(tmp_path, "train", X[..., 0], Y, zipped)
    write_idx(tmp_path, "t10k", X_TEST[..., 0], Y_TEST, zipped)
    source = tmp_path / f"t10k-labels-idx1-ubyte{'.gz' if zipped else ''}" if one_file else tmp_path
    images = read(source)
    np.testing.assert_array_equal(images.test.open().pixels, X_TEST)
    np.testing.assert_array_equal(images.test.open().labels, Y_TEST)
    assert len(images.train) + len(images.valid) == len(X)


def test_idx_file_that_is_there_packed_and_unpacked_is_read_once(tmp_path):
    write_idx(tmp_path, "train", X[..., 0], Y, True)
    write_idx(tmp_path, "train", X[..., 0], Y, False)
    assert read(tmp_path).facts["read"] == len(X)


def test_idx_sets_side_by_side(tmp_path):
    write_idx(tmp_path, "emnist-letters-train", X[..., 0], Y)
    write_idx(tmp_path, "emnist-digits-train", X_TEST[..., 0], Y_TEST)
    assert "emnist-digits, emnist-letters" in refused(tmp_path)
    assert read(tmp_path / "emnist-digits-train-images-idx3-ubyte.gz").facts["read"] == len(X_TEST)


def test_bad_idx(tmp_path):
    write_idx(tmp_path, "train", X[..., 0], Y, False)
    images, labels = (tmp_path / f"train-{what}-ubyte" for what in ("images-idx3", "labels-idx1"))
    whole = images.read_bytes()
    for damage, message in (
        (whole[:-1], "only 3455 of 3456 bytes"),
        (whole + b"x", "holds more"),
        (whole[:10], "header is cut off"),
        (b"", "magic number missing"),
        (b"\x01\x02\x03\x04" + whole[4:], "magic number 01020304"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12 + whole[16:], "over the limit"),
        (gzip.compress(whole)[:-20], "not a readable IDX file"),
    ):
        images.write_bytes(damage)
        assert message in refused(tmp_path)
    images.write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", 23, 12, 12) + whole[16:-144])
    assert "23 images but 24 labels" in refused(tmp_path)
    labels.unlink()
    assert "no file of labels" in refused(tmp_path)


def test_digits_fill_the_range_of_pixels():
    (block,) = sources.find("digits").blocks
    assert block.pixels.dtype == np.uint8
    assert (block.pixels.min(), block.pixels.max()) == (0, 255)
    assert len(np.unique(block.pixels)) == 17


# --- data sets of PyTorch and TensorFlow ----------------------------------------------------------


def test_tensors_with_gradients_are_arrays():
    torch = pytest.importorskip("torch")
    learnt = torch.from_numpy(X / 255).requires_grad_()
    np.testing.assert_array_equal(
        read((learnt, torch.from_numpy(Y))).train.pixels, read((X, Y)).train.pixels
    )


COLOURED, _ = striped(3, 8, size=12, channels=3)


@pytest.mark.parametrize("kind", ["tensors", "floats", "pillow", "ink", "arrays", "batches"])
def test_torch_data_sets_are_the_same_images(kind):
    torch = pytest.importorskip("torch")
    tensors = torch.from_numpy(COLOURED).permute(0, 3, 1, 2)
    pictures = [Image.fromarray(image) for image in COLOURED]
    labels = torch.from_numpy(Y)
    made = {
        "tensors": torch.utils.data.TensorDataset(tensors, labels),
        "floats": torch.utils.data.TensorDataset(tensors / 255, labels),
        "pillow": Numbered(pictures, Y.tolist(), ["x", "y", "z"]),
        "ink": Numbered([picture.convert("CMYK") for picture in pictures], Y.tolist()),
        "arrays": Numbered(COLOURED, np.eye(3)[Y]),
        "batches": Numbered(np.split(COLOURED, 4), np.split(Y, 4)),
    }
    images, plain = read(made[kind]), read((COLOURED, Y))
    assert images.classes == (("x", "y", "z") if kind == "pillow" else plain.classes)
    np.testing.assert_array_equal(images.train.pixels, plain.train.pixels)
    np.testing.assert_array_equal(images.train.labels, plain.train.labels)


@pytest.mark.parametrize("batch", [0, 5])
def test_tensorflow_data_sets_are_the_same_images(batch):
    """By what such a data set can do; TensorFlow itself is not needed here."""
    singles, batches = (
        zip(X, Y, strict=True),
        zip(np.split(X, [batch]), np.split(Y, [batch]), strict=True),
    )
    images = read(Streamed(batches if batch else singles, -2))
    np.testing.assert_array_equal(images.train.pixels, read((X, Y)).train.pixels)


class Streamed:
    """Like a tf.data.Dataset."""

    def __init__(self, items, cardinality: int) -> None:
        self.items, self.count = items, cardinality

    def cardinality(self) -> int:
        return self.count

    def as_numpy_iterator(self):
        return iter(self.items)


@pytest.mark.slow
def test_a_real_tensorflow_data_set():
    data = pytest.importorskip("tensorflow").data.Dataset.from_tensor_slices((X, Y))
    for source in (data, data.batch(5)):
        np.testing.assert_array_equal(read(source).train.pixels, read((X, Y)).train.pixels)
    assert "never ends" in refused(data.repeat())


def test_bad_data_sets(monkeypatch):
    class Endless:
        def __getitem__(self, index: int):
            return X[0], 0

    assert "has no length" in refused(Endless())
    assert "never ends" in refused(Streamed(zip(X, Y, strict=True), -1))
    assert "items of type ndarray" in refused(Streamed(X, 24))
    assert "no image" in refused(Numbered([], []))
    assert "(12, 12, 1) and (12, 3, 1)" in refused(Numbered([X[0], X[1, :, :3]], [0, 1]))
    monkeypatch.setattr("convwise.images.sources.datasets.MOST_BYTES", 12 * 12 * 23)
    assert "GiB" in refused(Numbered(X, Y))


def test_a_set_on_the_internet_is_refused_with_a_line_that_fetches_it(tmp_path, monkeypatch):
    """The line is run as it is printed, with a stand-in for what would download."""
    import shlex

    import sklearn.datasets

    told = refused("openml:mnist_784")
    assert "convwise downloads nothing" in told
    code = shlex.split(told[told.index("python -c") : told.index(", then name")])[2]
    data = SimpleNamespace(
        data=X.reshape(len(X), -1), target=np.array([f"class {y}" for y in Y], object)
    )
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", lambda name, as_frame: data)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert read(tmp_path / "mnist_784.npz").classes == ("class 0", "class 1", "class 2")


def test_the_folder_that_a_study_has_just_made_is_not_proposed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("convwise-nowhere").mkdir()
    Path("nowhere2").mkdir()
    with pytest.raises(UnusableInput) as caught:
        sources.find("nowhere")
    assert str(caught.value).endswith("Fix: nowhere2")
