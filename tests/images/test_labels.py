"""sources/labels.py: classes from the names of files, and from tables."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from convwise.core.problems import UnusableInput
from convwise.images.loading import read
from imagesets import write_folder, write_zip


def flat(root: Path, names: list[str]) -> Path:
    """Different pictures under these names."""
    made = sorted(write_folder(root / "made", ("x",), len(names)).rglob("*.png"))
    for file, name in zip(made, names, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        file.rename(root / name)
    for folder in (root / "made" / "x", root / "made"):
        folder.rmdir()
    return root


def counts(images) -> dict[str, int]:
    every = [*images.unsealed().labels, *(images.test.open().labels if images.test else ())]
    return {name: every.count(code) for code, name in enumerate(images.classes)}


def refused(source, **how) -> str:
    with pytest.raises(UnusableInput) as caught:
        read(source, **how)
    return str(caught.value)


def said(images) -> str:
    return " | ".join(map(str, images.problems))


def by_fix(source, message: str) -> dict[str, int]:
    """The classes by the one option that a message names, as it is typed."""
    (way,) = re.findall(r"--classes-from ('[^']*'|[^\s;,]+)", message)
    return counts(read(source, classes_from=shlex.split(way)[0]))


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "way"),
    [
        ("{}.{:d}.png", "name"),
        ("{}_{:04d}.png", "name"),
        ("{} ({:d}).png", "name"),
        ("{}{:d}.png", "name"),
        ("x_{1:d}_{0}.png", "name:*_#_{class}"),
        ("{}-{:d}-left.png", "name:{class}-#-*"),
        ("{1:d}{0}.png", "name:#{class}"),
    ],
)
def test_classes_from_names(tmp_path, form, way):
    names = [form.format(label, index) for label in ("cat", "great_dane") for index in range(6)]
    images = read(flat(tmp_path, names), classes_from=way)
    assert counts(images) == {"cat": 6, "great_dane": 6}
    assert f"as {images.classes[0]} from" in said(images) or f"as {images.classes[1]} from" in said(
        images
    )


def test_a_number_that_belongs_to_the_name_stays():
    """type1_12 is the 12th of type1; only where no number stands apart is the last one a
    counter.
    """
    from convwise.images.sources.layout import class_before_number

    assert [class_before_number(name) for name in ("type1_12", "type2_12", "cat12", "12", "3_77",
        "cat")] == [
        "type1", "type2", "cat", None, "3", "cat",
    ]  # fmt: skip


def test_names_below_parts(tmp_path):
    names = [f"train/{label}.{index}.png" for label in ("cat", "dog") for index in range(6)]
    images = read(
        flat(tmp_path, [*names, "test/cat.77.png", "test/dog.77.png", "test/5.png"]),
        classes_from="name",
    )
    assert images.test.size == 2
    assert "gives no label: 1 image, test/5.png" in said(images)


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ("{1:03d}_{0}.png", "name:#_{class}"),
        ("{1:d}-{0}-left.png", "name:#-{class}-*"),
        ("{0}-{1:d}-left.png", "name:{class}-#-*"),
        ("{0}_x{1:d}y.png", "name:{class}_*"),
        ("{0}.x{1:d}y.png", "name:{class}.*"),
        ("x{1:d}y {0}.png", "name:* {class}"),
    ],
)
def test_where_each_name_is_a_class_a_pattern_is_named_that_works(tmp_path, form, pattern):
    flat(tmp_path, [form.format(label, index) for label in ("cat", "dog") for index in range(6)])
    message = refused(tmp_path, classes_from="name")
    assert "12 file names tell 12 classes" in message
    assert shlex.quote(pattern) in message
    assert by_fix(tmp_path, message) == {"cat": 6, "dog": 6}


def test_a_class_with_one_image_among_others_is_no_case_for_a_pattern(tmp_path):
    flat(tmp_path, ["cat_1.png", "cat_2.png", "cat_3.png", "dog_1.png"])
    assert "fewer than two different images in class dog" in refused(tmp_path, classes_from="name")


def test_names_that_tell_nothing_have_the_same_fix(tmp_path):
    flat(tmp_path, [f"{label}.{index}y.png" for label in ("cat", "dog") for index in range(6)])
    message = refused(tmp_path, classes_from="name:*_{class}")
    assert "none of the 12 file names give a label" in message
    assert by_fix(tmp_path, message) == {"cat": 6, "dog": 6}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{class}/**", {"x": 12, "y": 6}),
        ("**/{class}/*", {"cat": 6, "old": 6}),
        ("x/cat/{class}_#", {"a": 3, "b": 3}),
        ("**/{class}_#", {"a": 9, "b": 9}),
    ],
)
def test_a_pattern_with_folders_is_of_the_whole_path(tmp_path, pattern, expected):
    names = [f"{label}_{index}.png" for label in ("a", "b") for index in range(3)]
    flat(tmp_path, [f"{folder}/{name}" for folder in ("x/cat", "x/cat/old", "y") for name in names])
    assert counts(read(tmp_path, classes_from=f"name:{pattern}")) == expected
    assert "give only one label, 'cat'" in refused(tmp_path, classes_from="name:*/{class}/**")


def test_names_that_tell_too_little(tmp_path):
    flat(tmp_path, [f"IMG_{index}.png" for index in range(4)])
    assert "give only one label, 'IMG'" in refused(tmp_path, classes_from="name")
    assert "none of the 4 file names give a label" in refused(
        tmp_path, classes_from="name:{class}-#"
    )
    assert "must contain {class} exactly once" in refused(tmp_path, classes_from="name:IMG_*")
    assert "expected folder, name" in refused(tmp_path, classes_from="names")
    assert "--classes-from" in refused("digits", classes_from="name")


# --- tables --------------------------------------------------------------------------------------

TEN = [f"{index:02d}.png" for index in range(10)]


def lines(*rows: str, cells=",") -> str:
    return "\n".join(
        [*rows, *(cells.join((name, "ab"[index % 2])) for index, name in enumerate(TEN))]
    )


@pytest.mark.parametrize(
    "text",
    [
        lines("file,label"),
        lines("\ufeffFilename;Class", cells=";"),
        lines("path\tspecies", cells="\t"),
        lines(),  # no line of names
        lines("id,breed").replace(".png", ""),
        lines("file,label").replace(",a", ",b x"),
        lines("image,anything"),
        lines("Where it is,What it is"),
        lines("file,label").replace("\n", "\r\n"),
        lines("path,label").replace("\n", "\nC:\\data\\"),
        lines("path|label", cells="|"),
        # Three columns without a head: which is the label is not told
        "\n".join(f"{name},{'ab'[index % 2]},train" for index, name in enumerate(TEN)),
        "\n".join(
            ["image,a,b", *(f"{name},{i % 2 == 0},{i % 2 == 1}" for i, name in enumerate(TEN))]
        ),
    ],
)
def test_tables_in_every_form(tmp_path, text):
    (flat(tmp_path, TEN) / "labels.csv").write_bytes(text.encode())
    for source, how in ((tmp_path, {"classes_from": "csv"}), (tmp_path / "labels.csv", {})):
        assert list(counts(read(source, **how)).values()) == [5, 5]


@pytest.mark.parametrize("text", [lines("file,label"), lines(cells=" "), lines(cells="\t")])
def test_a_table_of_any_name_is_read_where_it_is_named(tmp_path, text):
    (flat(tmp_path, TEN) / "labels.txt").write_text(text)
    assert counts(read(tmp_path, classes_from="csv:labels.txt")) == {"a": 5, "b": 5}
    assert "holds no .csv file" in refused(tmp_path, classes_from="csv")


@pytest.mark.parametrize(
    ("head", "asked", "said"),
    [
        ("file,label,x", "csv:labels.csv:Lable", "has no column 'Lable'"),
        ("file,label,x", "csv:labels.csv:nothing like it", "has no column 'nothing like it'"),
        ("file,what is it,x", "csv", "has the columns file, what is it, x"),
        ("where,lbl,x", "csv", "has the columns where, lbl, x"),
        ("file,label,x", "csv:tables.csv", "holds no tables.csv"),
    ],
)
def test_the_option_that_a_refused_table_names_reads_it(tmp_path, head, asked, said):
    rows = [f"{name},{'ab'[index % 2]},{index % 5}" for index, name in enumerate(TEN)]
    (flat(tmp_path, TEN) / "labels.csv").write_text("\n".join([head, *rows]))
    message = refused(tmp_path, classes_from=asked)
    assert said in message
    assert by_fix(tmp_path, message) == {"a": 5, "b": 5}
    if asked != "csv:tables.csv":
        assert by_fix(tmp_path / "labels.csv", message) == {"a": 5, "b": 5}


def test_a_table_without_names_of_columns_can_be_asked_for_one(tmp_path):
    rows = [f"{index},{name},{'ab'[index % 2]}" for index, name in enumerate(TEN)]
    (flat(tmp_path, TEN) / "labels.csv").write_text("\n".join(rows))
    message = refused(tmp_path, classes_from="csv")
    assert "has the columns column 1, column 2, column 3" in message
    assert by_fix(tmp_path, message) == {"a": 5, "b": 5}  # the first line is a picture too


def test_of_several_columns_of_numbers_the_fix_works_from_a_folder_and_with_spaces(tmp_path):
    rows = [f"{name},{index / 2},{index * 3}" for index, name in enumerate(TEN)]
    (flat(tmp_path, TEN) / "sub").mkdir()
    (tmp_path / "sub" / "my table.csv").write_text("\n".join(["file,an angle,age", *rows]))
    message = refused(tmp_path, classes_from="csv", task="regress")
    ways = [
        shlex.split(way)[0] for way in re.findall(r"--classes-from ('[^']*'|[^\s;,]+)", message)
    ]
    named = [read(tmp_path, classes_from=way, task="regress").numbers for way in ways]
    assert named == [("an angle",), ("an angle", "age")]


def test_labels_that_are_no_numbers_name_a_column_only_where_a_table_is(tmp_path):
    (flat(tmp_path, TEN) / "labels.csv").write_text(lines("file,label"))
    message = refused(tmp_path, classes_from="csv:labels.csv:label", task="regress")
    assert "name another column with --classes-from csv:labels.csv:COLUMN" in message
    assert "--classes-from" not in refused(write_folder(tmp_path / "set"), task="regress")


def test_text_of_windows_and_of_latin_1(tmp_path):
    """Code page 1252, by the table of WHATWG: 0x80 is the euro sign, 0x9d nothing, and then it is
    Latin-1.
    """
    flat(tmp_path, TEN)
    for raw, name in (
        (b"\x80\x92", "\u20ac\u2019"),
        (b"caf\xe9", "caf\u00e9"),
        (b"\x9d\xe9", "\\x9d\u00e9"),
    ):
        (tmp_path / "labels.csv").write_bytes(
            lines("file,label").encode().replace(b",a", b"," + raw)
        )
        assert set(read(tmp_path / "labels.csv").classes) == {"b", name}


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "", "N/A", " nan "])
def test_words_for_a_missing_label_are_no_classes_in_arrays_either(word, tmp_path):
    pixels = np.zeros((8, 4, 4), np.uint8)
    for labels in (np.array(["a", "b", word, "a"] * 2), ["a", "b", word, "a"] * 2):
        message = refused((pixels, labels))
        assert "2 of 8 labels are missing" in message
        assert "at 2, 6" in message
    with pytest.raises(UnusableInput, match="different images"):  # 'none' can be a class
        read((pixels, ["a", "none"] * 4))


def test_a_table_in_utf8_whatever_the_locale_and_in_latin_1(tmp_path):
    text = lines("file,label").replace(",a", ",V\u00f6gel")
    for data in (text.encode(), text.encode("latin-1"), text.encode("utf-16")):
        (tmp_path / "labels.csv").write_bytes(data)
        flat(tmp_path, TEN)
        assert read(tmp_path / "labels.csv").classes == ("V\u00f6gel", "b")


def test_parts_and_folders_in_a_table(tmp_path):
    rows = [
        f"{'test' if index > 6 else 'Training'},in/{name},{'ab'[index % 2]}"
        for index, name in enumerate(TEN)
    ]
    (flat(tmp_path / "set", [f"in/{name}" for name in TEN]) / "labels.csv").write_text(
        "\n".join(["split,path,label", *rows])
    )
    assert read(tmp_path / "set" / "labels.csv").test.size == 3
    assert (
        read(write_zip(tmp_path / "set.zip", tmp_path / "set"), classes_from="csv").test.size == 3
    )


def test_folders_that_a_table_names_tell_files_of_one_name_apart(tmp_path):
    rows = [
        f"/elsewhere/set/{folder}/{index}.png,{folder}"
        for folder in ("x", "y")
        for index in range(5)
    ]
    names = [f"{folder}/{index}.png" for folder in ("x", "y") for index in range(5)]
    (flat(tmp_path, names) / "labels.csv").write_text("\n".join(["path,label", *rows]))
    images = read(tmp_path, classes_from="csv")
    assert counts(images) == {"x": 5, "y": 5}
    assert [name[0] for name in images.train.names] == [
        images.classes[label] for label in images.train.labels
    ]


def test_a_table_with_a_column_for_each_class(tmp_path):
    rows = [f"{name[:-4]},{1 - index % 2}.0,{index % 2}.0" for index, name in enumerate(TEN)]
    (flat(tmp_path, TEN) / "labels.csv").write_text("\n".join(["image,MEL,NV", *rows]))
    assert counts(read(tmp_path / "labels.csv")) == {"MEL": 5, "NV": 5}
    (tmp_path / "labels.csv").write_text("\n".join(["image,MEL,NV", *rows, f"{TEN[0]},1.0,1.0"]))
    assert "line 12 marks several classes: MEL, NV" in refused(tmp_path / "labels.csv")


def test_a_table_that_an_archive_cannot_give(tmp_path):
    (flat(tmp_path / "set", TEN) / "labels.csv").write_text(lines("file,label"))
    path = write_zip(tmp_path / "set.zip", tmp_path / "set")
    # In its own header, not in the list
    path.write_bytes(path.read_bytes().replace(b"labels.csv", b"other!.csv", 1))
    assert "labels.csv: cannot be read (File name in directory" in refused(path, classes_from="csv")


def test_missing_labels_images_and_lines_are_told(tmp_path):
    text = (
        lines("file,label").replace("00.png,a", "00.png,").replace("01.png,b", "01.png,NaN")
        + "\ngone.png,a\n"
    )
    (flat(tmp_path, [*TEN, "more.png"]) / "labels.csv").write_text(text)
    images = read(tmp_path, classes_from="csv")
    assert counts(images) == {"a": 4, "b": 4}
    assert (
        "left out, because they have no label: 2 images, 00.png (line 2), 01.png (line 3)"
        in said(images)
    )
    assert "it names 1 image that could not be found: gone.png (line 12)" in said(images)
    assert "does not name them: 1 image in the folder" in said(images)


def test_a_class_of_a_table_never_disappears(tmp_path):
    (flat(tmp_path, TEN) / "labels.csv").write_text(lines("file,label") + "\ngone.png,birds\n")
    assert "birds (none of 1 file exists)" in refused(tmp_path, classes_from="csv")
    assert "b" in read(tmp_path, classes_from="csv", skip_empty_classes=True).classes


# --- spelling ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spelt",
    [("Cat", "dog house"), ("cat ", "dog_house"), ("CAT", "Dog-House"), ("cat", "dog  house")],
)
@pytest.mark.parametrize("part", ["test", "val"])
def test_classes_of_a_part_that_are_spelt_otherwise_are_those_of_train(tmp_path, spelt, part):
    write_folder(tmp_path / "train", ("cat", "dog_house"), 10)
    write_folder(tmp_path / part, spelt, 3, seed=5)
    images = read(tmp_path)
    assert images.classes == ("cat", "dog_house")
    kept = images.test.open() if part == "test" else images.valid
    assert np.bincount(kept.labels).tolist() == [3, 3]
    assert "dropped" not in said(images)
    for name in set(spelt) - {"cat", "dog_house"}:
        assert repr(name) in said(images)


@pytest.mark.parametrize("names", [("-1", "1"), ("A", "a"), ("a", "b"), ("x1", "x-1")])
def test_names_that_differ_by_more_are_their_own(tmp_path, names):
    images = read(write_folder(tmp_path, names, 10))
    assert set(images.classes) == set(names)
    assert "nearly alike" not in said(images)


def test_train_classes_that_are_spelt_nearly_alike_are_told_and_kept(tmp_path):
    images = read(write_folder(tmp_path / "train", ("Cats", "cats", "x_1", "x 1", "z"), 10).parent)
    assert len(images.classes) == 5
    assert "spelt nearly alike: 'Cats' and 'cats', 'x 1' and 'x_1'" in said(images)


# --- what is wrong -------------------------------------------------------------------------------


def test_bad_tables(tmp_path):
    flat(tmp_path, [*TEN, "x/same.png", "y/same.png"])
    assert "holds no .csv file" in refused(tmp_path, classes_from="csv")
    for text, message in (
        ("", "holds no line"),
        ("a,b,c\n1,2,3", "has the columns a, b, c"),
        ("file,label\n00.png", "line 2 has too few cells"),
        ("file,label\n00.png,a\n00.png,b", "has two labels, a (line 2) and b"),
        ("file,label\nsame.png,a", "can be x/same.png or y/same.png"),
        ("file,label,split\n00.png,a,later", "'later' is not the name of a part"),
        ("file,label\nno.png,a", "but none of them exists"),
        ("file,label\n\0\0", "is not a text file"),
        ("file,label\n00.png," + "a" * 200_000, "line 2 cannot be read"),
        ("file,label\n00.png," + "a" * 2000, "line 2: a label of 2,000 characters"),
    ):
        (tmp_path / "labels.csv").write_text(text)
        assert message in refused(tmp_path / "labels.csv")
    (tmp_path / "other.csv").write_text("")
    assert "holds 2 tables: labels.csv, other.csv" in refused(tmp_path, classes_from="csv")
