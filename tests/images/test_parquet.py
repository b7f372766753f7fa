"""Hugging Face data sets on disk: Parquet and Arrow files, their parts and labels, and what is
wrong with them.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest

from convwise.core.problems import UnusableInput
from convwise.images.loading import pictures, read
from convwise.images.value_range import ValueRange
from imagesets import striped, write_folder
from parquets import write_arrow, write_parquet

X, Y = striped(3, 8, size=12)
X_TEST, Y_TEST = striped(3, 4, size=12, seed=9)


def refused(source) -> str:
    with pytest.raises(UnusableInput) as caught:
        read(str(source))
    return str(caught.value)


@pytest.mark.parametrize("write", [write_parquet, write_arrow])
@pytest.mark.parametrize("layout", ["data/{}-00000-of-00001", "{}/data-00000-of-00001", "{}/0000"])
def test_parts_and_names_of_classes(write, layout, tmp_path):
    suffix = ".parquet" if write is write_parquet else ".arrow"
    write(tmp_path / (layout.format("train") + suffix), X, Y, ("up", "down", "left"))
    write(tmp_path / (layout.format("test") + suffix), X_TEST, Y_TEST, ("up", "down", "left"))
    images = read(str(tmp_path))
    assert images.classes == ("down", "left", "up")
    assert images.test.size == len(X_TEST)
    names = np.array(images.classes)[images.test.open().labels]
    assert names.tolist() == np.array(["up", "down", "left"])[Y_TEST].tolist()
    order = [int(name.removesuffix(".png")) for name in images.test.open().names]
    assert (images.test.open().pixels == X_TEST[order]).all()


def test_one_file_with_words_for_labels(tmp_path):
    images = read(str(write_parquet(tmp_path / "cats.parquet", X, [f"cat {k}" for k in Y])))
    assert images.classes == ("cat 0", "cat 1", "cat 2")
    assert images.facts["read"] == len(X)


def test_a_missing_label_is_left_out_and_told(tmp_path):
    labels = Y.copy()
    labels[:2] = -1
    images = read(str(write_parquet(tmp_path / "a.parquet", X, labels, ("a", "b", "c"))))
    assert images.facts["read"] == len(X) - 2
    assert any("2 pictures without a label" in str(problem) for problem in images.problems)


def test_it_can_be_labelled_without_labels(tmp_path):
    made = write_parquet(tmp_path / "test.parquet", X, [-1] * len(X), ("a", "b"))
    with pictures(str(made), 1, ValueRange(0, 1)) as every:
        assert len(every) == len(X)
        assert (every[3][1](*X[3].shape[:2]) == X[3]).all()


def test_a_table_beside_pictures_is_none_of_these(tmp_path):
    folder = write_folder(tmp_path / "set", "ab", 6)
    write_parquet(folder / "labels.parquet", X, Y)
    assert read(str(folder)).facts["read"] == 12


def test_what_is_wrong_is_said(tmp_path, monkeypatch):
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and nothing else")
    assert "broken.parquet: cannot be read" in refused(broken)
    renamed = write_parquet(tmp_path / "b" / "x.parquet", X, Y)
    from pyarrow import parquet

    parquet.write_table(parquet.read_table(renamed).rename_columns(["image", "answer"]), renamed)
    assert "has the columns image, answer" in refused(renamed)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "needs pyarrow, which is not installed" in refused(renamed)
    assert "pip install pyarrow" in refused(renamed)


def test_only_a_column_of_the_table_can_be_asked_for(tmp_path):
    made = write_parquet(tmp_path / "a.parquet", X, Y, ("a", "b", "c"))
    with pytest.raises(UnusableInput, match="--classes-from: is 'name'; expected csv:FILE:COLUMN"):
        read(str(made), classes_from="name")
