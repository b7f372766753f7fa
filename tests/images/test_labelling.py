"""Pictures to be labelled come out of every kind of source as `read` takes them from there, decoded
once.
"""

from __future__ import annotations

import tarfile

import numpy as np
import pytest

from convwise.images import decode
from convwise.images.decode import resize
from convwise.images.loading import pictures
from convwise.images.value_range import ValueRange
from imagesets import picture, striped, write_idx, write_zip
from parquets import write_parquet

X, Y = striped(2, 6, size=12)
SIZE = (9, 10)


def folder(root):
    (root / "set").mkdir()
    for number, pixels in enumerate(X):
        picture(pixels, "L").save(root / "set" / f"{number:02d}.png")
    return root / "set"


def as_zip(root):
    return write_zip(root / "set.zip", folder(root))


def as_tar(root):
    with tarfile.open(root / "set.tar.gz", "w:gz") as archive:
        archive.add(folder(root), "set")
    return root / "set.tar.gz"


def as_csv(root):
    (folder(root) / "set.csv").write_text(
        "path\n" + "\n".join(f"{number:02d}.png" for number in range(len(X)))
    )
    return root / "set" / "set.csv"


def as_npz(root):
    np.savez(root / "set.npz", x=X)
    return root / "set.npz"


def as_idx(root):
    return write_idx(root / "set", "train", X[..., 0], Y)


def as_parquet(root):
    return write_parquet(root / "set" / "train-00000-of-00001.parquet", X, Y).parent


@pytest.mark.parametrize("made", [folder, as_zip, as_tar, as_csv, as_npz, as_idx, as_parquet])
def test_every_source_gives_the_same_pictures_and_files_are_decoded_once(
    made, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = made(tmp_path)
    for _ in range(2):
        with pictures(str(source), 1, ValueRange(0, 1)) as every:
            assert len(every) == len(X)
            for (_, give), pixels in zip(every, X, strict=True):
                np.testing.assert_array_equal(give(*SIZE), resize(pixels, *SIZE))
        if made is not as_parquet:  # whose pictures are in memory, and have no time of change
            monkeypatch.setattr(decode, "decode", None)
