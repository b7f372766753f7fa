"""What somebody else has made: nothing costs more than its limit, steers a terminal, or ends in a
traceback.
"""

from __future__ import annotations

import gzip
import io
import os
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from convwise.core.problems import UnusableInput
from convwise.images import decode, limits
from convwise.images.loading import pictures, read
from convwise.images.stack import _Budget
from convwise.images.value_range import ValueRange
from imagesets import striped, write_folder, write_zip
from studies import ENVIRONMENT

X, Y = striped(2, 8, size=12)


STATUS = Path("/proc/self/status")


def resident(kind: str) -> int:
    """VmRSS (now) or VmHWM (the most since it was reset) of this process, in kB."""
    return int(
        next(line.split()[1] for line in STATUS.read_text().splitlines() if line.startswith(kind))
    )


@pytest.fixture(scope="module", autouse=True)
def before():
    """What this process holds before the first test of this file; its peak is counted anew, where
    that is allowed.
    """
    if not STATUS.exists():
        return 0
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return resident("VmHWM")


def refused(source, **how) -> str:
    with pytest.raises(UnusableInput) as caught:
        read(source, **how)
    return str(caught.value)


def said(images) -> str:
    return " | ".join(map(str, images.problems))


@pytest.mark.parametrize("name", limits.LIMITS)
def test_every_limit_has_a_reason_and_a_unit(name):
    limit = limits.LIMITS[name]
    assert limit.most > 0
    assert limit.unit
    assert len(limit.why) > 20


# --- memory and time -----------------------------------------------------------------------------


def read_in(source: Path, bytes: int) -> subprocess.CompletedProcess:
    """Read a source in a process of its own that has so much address space beside what the
    libraries take.
    """
    code = (
        "import sys, resource\nfrom convwise.images.loading import read\nfrom"
        " convwise.core.problems import UnusableInput\nused ="
        " int(open('/proc/self/statm').read().split()[0]) *"
        f" resource.getpagesize()\nresource.setrlimit(resource.RLIMIT_AS, (used + {bytes},) *"
        " 2)\ntry: read(sys.argv[1])\nexcept UnusableInput as error: print(error)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, source], env=ENVIRONMENT, capture_output=True, text=True
    )


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="address space is counted on Linux"
)
@pytest.mark.parametrize("kind", ["npz", "idx", "idx.gz"])
def test_arrays_that_claim_gigabytes_cost_no_memory(kind, tmp_path):
    head = bytes([0, 0, 8, 3]) + struct.pack(">3I", 6, 2**14, 2**16)
    made = tmp_path / ("set.npz" if kind == "npz" else f"train-images-idx3-ubyte{kind[3:]}")
    if kind == "npz":
        stream = io.BytesIO()
        header = {"descr": "|u1", "fortran_order": False, "shape": (6, 2**14, 2**16)}
        np.lib.format.write_array_header_1_0(stream, header)
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr("x.npy", stream.getvalue() + bytes(2**20))
            archive.writestr("y.npy", npy(np.arange(6) % 2))
    else:
        made.write_bytes(
            gzip.compress(head + bytes(2**20)) if kind.endswith("gz") else head + bytes(2**20)
        )
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(
            bytes([0, 0, 8, 1]) + struct.pack(">I", 6) + bytes(6)
        )
    done = read_in(made, 2**29)
    assert done.stderr == ""
    expected = {
        "npz": "x should have 6442450944 bytes",
        "idx": "only 10485",
        "idx.gz": "unpacks to 6.0 GiB",
    }
    assert expected[kind] in done.stdout


@pytest.fixture
def little(monkeypatch):
    """Only 1 MiB may be unpacked by any factor."""
    monkeypatch.setitem(
        limits.LIMITS, "unpacked free", limits.Limit(2**20, "bytes", "for the test")
    )


def test_an_npz_that_unpacks_by_a_factor_of_a_thousand_is_refused(tmp_path, little):
    np.savez_compressed(
        tmp_path / "set.npz", x=np.zeros((8, 2048, 2048), np.uint8), y=np.arange(8) % 2
    )
    assert "unpacks to 32 MiB; expected at most 7 MiB" in refused(tmp_path / "set.npz")


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    "labels", [np.array(["a", "b" * 100_000])[Y], np.array([b"a", b"b" * 100_000])[Y]]
)
def test_long_labels_are_refused(labels, tmp_path):
    assert "a label of 100,000 characters" in refused((X, labels))
    np.savez_compressed(tmp_path / "set.npz", x=X, y=labels)
    assert "a label of 100,000 characters" in refused(tmp_path / "set.npz")


@pytest.mark.parametrize(
    "labels",
    [
        np.zeros(len(Y), [("a", "i4"), ("b", "f4")]),
        np.zeros(len(Y), "V8"),
        np.zeros(len(Y), complex),
        np.zeros(len(Y), "datetime64[s]"),
        np.zeros((2, 2, 2)),
        np.array(5),
    ],
    ids=str,
)
def test_labels_of_no_use_are_refused_in_words(labels):
    assert "labels of" in refused((X, labels))


def test_a_tampered_npz_never_ends_in_a_traceback(tmp_path):
    """Every single byte of a small file turned over, and cut at each place: read, or refused in
    words.
    """
    np.savez(tmp_path / "whole.npz", x=X[::4, :2, :2], y=Y[::4])
    whole = (tmp_path / "whole.npz").read_bytes()
    for place in range(0, len(whole), 3):
        for damaged in (
            whole[:place],
            whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :],
        ):
            (tmp_path / "set.npz").write_bytes(damaged)
            with suppress(UnusableInput):
                read(tmp_path / "set.npz")


def test_a_tampered_zip_or_tar_never_ends_in_a_traceback(tmp_path):
    folder = write_folder(tmp_path / "set", "ab", 3, 4)
    (folder / "labels.csv").write_text("x,y")
    with tarfile.open(tmp_path / "whole.tar", "w") as archive:
        archive.add(folder, "set")
    for name, step in (("whole.zip", 97), ("whole.tar", 511), ("whole.tgz", 67)):
        if name.endswith("zip"):
            write_zip(tmp_path / name, folder)
        if name.endswith("tgz"):
            (tmp_path / name).write_bytes(gzip.compress((tmp_path / "whole.tar").read_bytes()))
        whole = (tmp_path / name).read_bytes()
        for place in range(0, len(whole), step):
            for damaged in (
                whole[:place],
                whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :],
            ):
                (tmp_path / f"set{name[5:]}").write_bytes(damaged)
                with suppress(UnusableInput):
                    read(tmp_path / f"set{name[5:]}")


def test_folders_nested_thousands_deep_are_refused(tmp_path):
    archive = write_zip(tmp_path / "set.zip", write_folder(tmp_path / "set"))
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("x/" * 20_000 + "1.png", b"")
    assert "is nested 20001 folders deep; expected at most 100" in refused(archive)


def test_zip_members_without_a_name_are_told(tmp_path):
    archive = write_zip(tmp_path / "set.zip", write_folder(tmp_path / "set"))
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr(zipfile.ZipInfo("x"), b"")
    data = archive.read_bytes()
    at = data.rfind(b"PK\x01\x02")
    # The name of the last one is gone
    data = data[: at + 28] + b"\0\0" + data[at + 30 : at + 46] + data[at + 47 :]
    end = data.rfind(b"PK\x05\x06")
    size = struct.unpack("<I", data[end + 12 : end + 16])[0] - 1
    archive.write_bytes(data[: end + 12] + struct.pack("<I", size) + data[end + 16 :])
    images = read(archive)
    assert images.facts["read"] == 12
    assert "1 name leading out of the archive was ignored" in said(images)


def test_a_packed_tar_that_unpacks_to_too_much_is_refused(tmp_path, little):
    for kind in (tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME):  # tarfile holds a long name in memory
        with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
            info = tarfile.TarInfo("a/1.bmp")
            info.size, info.type = 2**25, kind
            archive.addfile(info, io.BytesIO(bytes(2**25)))
        message = refused(tmp_path / "set.tar.gz")
        assert "MiB or more; expected at most 7 MiB" in message


def test_a_tiff_of_many_pages_costs_as_much_as_one(tmp_path):
    """60,000 directories, each pointing to the next: to count them takes seconds."""
    write_folder(tmp_path, suffix=".tif")
    page = Image.new("L", (4, 4), 7)
    stream = io.BytesIO()
    page.save(stream, "TIFF")
    data = bytearray(stream.getvalue())
    first = struct.unpack("<I", data[4:8])[0]
    entries = struct.unpack("<H", data[first : first + 2])[0]
    directory = bytes(data[first : first + 2 + 12 * entries])
    data = data[:first] if first > len(data) - len(directory) - 8 else data
    start = len(data)
    struct.pack_into("<I", data, 4, start)
    for index in range(60_000):
        data += directory + struct.pack(
            "<I", start + (index + 1) * (len(directory) + 4) if index < 59_999 else 0
        )
    (tmp_path / "a" / "pages.tif").write_bytes(data)
    begun = time.process_time()
    images = read(tmp_path)
    assert time.process_time() - begun < 2
    assert images.facts["read"] == 13
    assert "with several frames" in said(images)


def test_large_pictures_are_not_decoded_all_at_once(tmp_path, monkeypatch):
    """By threads, as many at a time as the limit lets; each is told to be read."""
    monkeypatch.setattr("convwise.images.stack.BUDGET", _Budget(3 * 64 * 64))
    monkeypatch.setattr("convwise.images.stack.THREADS", 8)
    lock, now, most = threading.Lock(), 0, 0
    whole = decode.decode

    def counted(*what):
        nonlocal now, most
        with lock:
            now, most = now + 1, max(most, now + 1)
        time.sleep(0.02)
        try:
            return whole(*what)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(decode, "decode", counted)
    assert read(write_folder(tmp_path, "ab", 8, 64)).facts["read"] == 16
    assert most == 3


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="ru_maxrss is counted in kB on Linux"
)
def test_memory_of_large_pictures_is_given_back(tmp_path):
    """Eight threads, one picture of 12 megapixels at a time: 48 MB as Pillow holds it, 170 with its
    copies.
    """
    for index in range(8):
        folder = tmp_path / "ab"[index % 2]
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (4000, 3000), (index, 20, 30)).save(
            folder / f"{index}.png", compress_level=1
        )
    code = (
        "import sys, resource\nfrom convwise.images import stack\nfrom convwise.images.loading"
        " import read\nused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nstack.THREADS,"
        " stack.BUDGET = 8, stack._Budget(4000 *"
        " 3000)\nread(sys.argv[1])\nprint((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss -"
        " used) // 1024)\n"
    )
    words = [sys.executable, "-c", code, tmp_path]
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".gif", ".bmp"])
def test_the_size_is_read_without_the_pixels(suffix, tmp_path, monkeypatch):
    """All threads read sizes at once, whatever the size."""
    file = next(write_folder(tmp_path, "a", 1, 64, suffix=suffix).rglob("*.*"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("it was decoded"))
    found = decode.header(file)
    assert (found.height, found.width) == (64, 64)


def test_a_picture_larger_than_the_whole_budget_is_still_read(tmp_path, monkeypatch):
    monkeypatch.setattr("convwise.images.stack.BUDGET", _Budget(10))
    assert read(write_folder(tmp_path)).facts["read"] == 12


def test_a_file_over_the_limit_is_named_and_not_read(tmp_path, monkeypatch):
    write_folder(tmp_path)
    monkeypatch.setattr(limits, "FILE", 4000)
    with (tmp_path / "a" / "0000.png").open("ab") as file:
        file.write(bytes(4000))
    images = read(tmp_path)
    assert list(images.facts["unreadable_files"]) == ["a/0000.png"]
    assert "the limit for one image" in said(images)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in tmp_path.rglob("*.png"):
            archive.write(file, file.relative_to(tmp_path))
    assert list(read(tmp_path / "set.zip").facts["unreadable_files"]) == ["a/0000.png"]


@pytest.mark.parametrize("what", ["profile", "text"])
def test_a_sound_png_with_large_metadata_is_read(what, tmp_path):
    write_folder(tmp_path)
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * (3 << 20), zip=True)
    how = {"pnginfo": info} if what == "text" else {"icc_profile": bytes(3 << 20)}
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a" / "large.png", **how)
    assert read(tmp_path).facts["unreadable"] == 0


def test_a_png_whose_metadata_unpacks_to_too_much_is_named_in_words(tmp_path):
    write_folder(tmp_path)
    Image.new("RGB", (16, 16), "red").save(
        tmp_path / "a" / "bomb.png", icc_profile=bytes(limits.METADATA + 99)
    )
    images = read(tmp_path)
    assert "a/bomb.png" in images.facts["unreadable_files"]
    assert "MAX_TEXT" not in said(images)


# --- names ---------------------------------------------------------------------------------------


def test_links_that_leave_the_folder_are_refused_by_name(tmp_path):
    write_folder(tmp_path / "set")
    write_folder(tmp_path / "elsewhere", "c")
    (tmp_path / "set" / "b" / "inside.png").symlink_to("../a/0000.png")
    assert read(tmp_path / "set").facts["read"] == 13
    (tmp_path / "set" / "c").symlink_to(tmp_path / "elsewhere" / "c")
    (tmp_path / "set" / "a" / "secret.png").symlink_to("../../elsewhere/c/0000.png")
    message = refused(tmp_path / "set")
    assert "2 links lead out of the folder" in message
    assert "a/secret.png -> " in message
    assert "c -> " in message
    assert "--follow-links" in message
    assert read(tmp_path / "set", follow_links=True).classes == ("a", "b", "c")
    with (
        pytest.raises(UnusableInput, match="links lead out"),
        pictures(tmp_path / "set", 3, ValueRange(0, 1)),
    ):
        pass
    (tmp_path / "door").symlink_to(tmp_path / "elsewhere")  # the source itself may be a link
    with pictures(tmp_path / "door", 3, ValueRange(0, 1)) as every:
        assert len(every) == 6


EVIL = "a\x1b]0;owned\x07\u202e"


def test_control_characters_in_names_are_made_visible(tmp_path):
    write_folder(tmp_path / "set", (EVIL, "b"))
    (tmp_path / "set" / EVIL / "x\x1b[2J.png").write_bytes(b"")
    for source in (tmp_path / "set", write_zip(tmp_path / "set.zip", tmp_path / "set")):
        images = read(source)
        assert images.classes[0] == "a\\x1b]0;owned\\x07\\u202e"
        assert "x\\x1b[2J.png" in said(images)
        assert (said(images) + "".join(images.classes + images.train.names)).isprintable()
    assert read((X, np.array([EVIL, "b"])[Y])).classes[0].isprintable()


def test_names_that_are_not_utf8(tmp_path):
    write_folder(tmp_path, ("cats", "dogs"))
    os.rename(os.fsencode(tmp_path / "cats"), os.fsencode(tmp_path) + b"/v\xf6gel")
    images = read(tmp_path)
    assert images.classes == ("dogs", "v\u00f6gel")
    assert any(name.startswith("v\u00f6gel/") for name in images.train.names)


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("utf-8", "\u732b"), ("utf-8", "caf\u00e9"), ("cp437", "\u00fc\u00e9\u00f1")],
)
def test_zip_names_without_the_flag_for_utf8(tmp_path, encoding, name):
    """macOS writes UTF-8 without saying so; old DOS programs wrote code page 437."""
    folder = write_folder(tmp_path / "set", ("x" * len(name.encode(encoding)), "b"))
    data = write_zip(tmp_path / "set.zip", folder).read_bytes()
    (tmp_path / "set.zip").write_bytes(
        data.replace(b"x" * len(name.encode(encoding)) + b"/", name.encode(encoding) + b"/")
    )
    assert read(tmp_path / "set.zip").classes == ("b", name)


@pytest.mark.parametrize("stale", [False, True])
def test_zip_names_with_the_utf8_name_beside(tmp_path, stale):
    """APPNOTE 4.6.9: version, CRC-32 of the plain name, the name; another CRC says: renamed
    since.
    """
    folder = write_folder(tmp_path / "set", ("n_me", "b"))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            info = zipfile.ZipInfo(file.relative_to(folder).as_posix())
            crc = zlib.crc32(info.filename.encode()) ^ stale
            field = (
                b"\1" + struct.pack("<I", crc) + info.filename.replace("n_me", "n\u0101me").encode()
            )
            info.extra = struct.pack("<HH", 0x7075, len(field)) + field
            archive.writestr(info, file.read_bytes())
    assert read(tmp_path / "set.zip").classes == ("b", "n_me" if stale else "n\u0101me")


def test_links_and_pipes_in_a_tar_are_named_and_not_followed(tmp_path):
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(write_folder(tmp_path / "set"), "set")
        for name, kind in (
            ("set/a/link.png", tarfile.SYMTYPE),
            ("set/a/hard.png", tarfile.LNKTYPE),
            ("set/p", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("../out.png"))
    images = read(tmp_path / "set.tar")
    assert images.facts["read"] == 12
    assert "3 links were ignored: set/a/link.png, set/a/hard.png, set/p" in said(images)
    assert "1 name leading out of the archive was ignored: ../out.png" in said(images)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tars_of_every_packing_are_read_by_threads(mode, tmp_path):
    folder = write_folder(tmp_path / "set", "abc", 20, 24)
    path = tmp_path / ("set.tar" + mode[1:].replace(":", "."))
    with tarfile.open(path, mode) as archive:
        archive.add(folder, ".")
    images, plain = read(path), read(folder)
    np.testing.assert_array_equal(images.train.pixels, plain.train.pixels)
    assert images.train.names == plain.train.names


def test_idx_files_under_other_names_are_told_the_names(tmp_path):
    data = bytes([0, 0, 8, 3]) + struct.pack(">3I", 16, 12, 12) + X.tobytes()
    for name in ("images.idx", "x_train-idx3-ubyte"):
        (tmp_path / name).write_bytes(data)
    message = refused(tmp_path)
    assert "IDX files under other names: images.idx, x_train-idx3-ubyte" in message
    assert "train-images-idx3-ubyte" in message


def test_idx_files_in_the_folder_that_torchvision_makes(tmp_path):
    from imagesets import write_idx

    write_idx(tmp_path / "raw", "train", X[..., 0], Y)
    assert read(tmp_path).facts["read"] == 16


@pytest.mark.skipif(not STATUS.exists(), reason="the peak is read on Linux")
def test_memory_of_this_process_stayed_small(before):
    """After all of the above, beside what the tests of other files had left in this process."""
    assert resident("VmHWM") - before < 2**20


def test_the_documentation_gives_every_limit_and_its_reason():
    told = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
    assert [name for name, limit in limits.LIMITS.items() if f"| {limit.why} |" not in told] == []
