"""sources/labels.py: classes from the names of files, and from tables."""

from __future__ import annotations

from pathlib import Path

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
    assert f"as {images.classes[0]} from" in said(images) or f"as {images.classes[1]} from" in said(images)


def test_a_number_that_belongs_to_the_name_stays():
    """type1_12 is the 12th of type1; only where no number stands apart is the last one a counter."""
    from convwise.images.sources.layout import class_before_number

    assert [class_before_number(name) for name in ("type1_12", "type2_12", "cat12", "12", "3_77", "cat")] == [
        "type1", "type2", "cat", None, "3", "cat",
    ]  # fmt: skip


def test_names_below_parts(tmp_path):
    names = [f"train/{label}.{index}.png" for label in ("cat", "dog") for index in range(6)]
    images = read(flat(tmp_path, [*names, "test/cat.77.png", "test/dog.77.png", "test/5.png"]), classes_from="name")
    assert images.test.size == 2
    assert "tells no class: 1 image, test/5.png" in said(images)


def test_names_that_tell_too_little(tmp_path):
    flat(tmp_path, [f"IMG_{index}.png" for index in range(4)])
    assert "tell only one class, 'IMG'" in refused(tmp_path, classes_from="name")
    assert "tells a class" in refused(tmp_path, classes_from="name:{class}-#")
    assert "where the class is" in refused(tmp_path, classes_from="name:IMG_*")
    assert "expected folder, name" in refused(tmp_path, classes_from="names")
    assert "--classes-from" in refused("digits", classes_from="name")


# --- tables --------------------------------------------------------------------------------------

TEN = [f"{index:02d}.png" for index in range(10)]


def lines(*rows: str, cells=",") -> str:
    return "\n".join([*rows, *(cells.join((name, "ab"[index % 2])) for index, name in enumerate(TEN))])


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
    ],
)
def test_tables_in_every_form(tmp_path, text):
    (flat(tmp_path, TEN) / "labels.csv").write_bytes(text.encode())
    for source, how in ((tmp_path, {"classes_from": "csv"}), (tmp_path / "labels.csv", {})):
        assert list(counts(read(source, **how)).values()) == [5, 5]


def test_a_table_in_utf8_whatever_the_locale_and_in_latin_1(tmp_path):
    text = lines("file,label").replace(",a", ",V\u00f6gel")
    for data in (text.encode(), text.encode("latin-1"), text.encode("utf-16")):
        (tmp_path / "labels.csv").write_bytes(data)
        flat(tmp_path, TEN)
        assert read(tmp_path / "labels.csv").classes == ("V\u00f6gel", "b")


def test_parts_and_folders_in_a_table(tmp_path):
    rows = [f"{'test' if index > 6 else 'Training'},in/{name},{'ab'[index % 2]}" for index, name in enumerate(TEN)]
    (flat(tmp_path / "set", [f"in/{name}" for name in TEN]) / "labels.csv").write_text(
        "\n".join(["split,path,label", *rows])
    )
    assert read(tmp_path / "set" / "labels.csv").test.size == 3
    assert read(write_zip(tmp_path / "set.zip", tmp_path / "set"), classes_from="csv").test.size == 3


def test_folders_that_a_table_names_tell_files_of_one_name_apart(tmp_path):
    rows = [f"/elsewhere/set/{folder}/{index}.png,{folder}" for folder in ("x", "y") for index in range(5)]
    names = [f"{folder}/{index}.png" for folder in ("x", "y") for index in range(5)]
    (flat(tmp_path, names) / "labels.csv").write_text("\n".join(["path,label", *rows]))
    images = read(tmp_path, classes_from="csv")
    assert counts(images) == {"x": 5, "y": 5}
    assert [name[0] for name in images.train.names] == [images.classes[label] for label in images.train.labels]


def test_a_table_with_a_column_for_each_class(tmp_path):
    rows = [f"{name[:-4]},{1 - index % 2}.0,{index % 2}.0" for index, name in enumerate(TEN)]
    (flat(tmp_path, TEN) / "labels.csv").write_text("\n".join(["image,MEL,NV", *rows]))
    assert counts(read(tmp_path / "labels.csv")) == {"MEL": 5, "NV": 5}
    (tmp_path / "labels.csv").write_text("\n".join(["image,MEL,NV", *rows, f"{TEN[0]},1.0,1.0"]))
    assert "line 12 is of several classes: MEL, NV" in refused(tmp_path / "labels.csv")


def test_a_table_that_an_archive_cannot_give(tmp_path):
    (flat(tmp_path / "set", TEN) / "labels.csv").write_text(lines("file,label"))
    path = write_zip(tmp_path / "set.zip", tmp_path / "set")
    path.write_bytes(path.read_bytes().replace(b"labels.csv", b"other!.csv", 1))  # in its own header, not in the list
    assert "labels.csv: cannot be read (File name in directory" in refused(path, classes_from="csv")


def test_missing_labels_images_and_lines_are_told(tmp_path):
    text = lines("file,label").replace("00.png,a", "00.png,").replace("01.png,b", "01.png,NaN") + "\ngone.png,a\n"
    (flat(tmp_path, [*TEN, "more.png"]) / "labels.csv").write_text(text)
    images = read(tmp_path, classes_from="csv")
    assert counts(images) == {"a": 4, "b": 4}
    assert "left out for lack of a label: 2 images, 00.png (line 2), 01.png (line 3)" in said(images)
    assert "it names 1 image that could not be found: gone.png (line 12)" in said(images)
    assert "does not name them: 1 image in the folder" in said(images)


def test_a_class_of_a_table_never_disappears(tmp_path):
    (flat(tmp_path, TEN) / "labels.csv").write_text(lines("file,label") + "\ngone.png,birds\n")
    assert "birds (none of 1 file is there)" in refused(tmp_path, classes_from="csv")
    assert "b" in read(tmp_path, classes_from="csv", skip_empty_classes=True).classes


def test_bad_tables(tmp_path):
    flat(tmp_path, [*TEN, "x/same.png", "y/same.png"])
    assert "holds no .csv file" in refused(tmp_path, classes_from="csv")
    for text, message in (
        ("", "holds no line"),
        ("a,b,c\n1,2,3", "has the columns a, b, c"),
        ("file,label\n00.png", "line 2 has too few cells"),
        ("file,label\n00.png,a\n00.png,b", "is of two classes, a (line 2) and b"),
        ("file,label\nsame.png,a", "can be x/same.png or y/same.png"),
        ("file,label,split\n00.png,a,later", "'later' is not the name of a part"),
        ("file,label\nno.png,a", "none is there"),
        ("file,label\n\0\0", "is no text"),
        ("file,label\n00.png," + "a" * 200_000, "line 2 cannot be read"),
        ("file,label\n00.png," + "a" * 2000, "line 2: a label of 2,000 characters"),
    ):
        (tmp_path / "labels.csv").write_text(text)
        assert message in refused(tmp_path / "labels.csv")
    (tmp_path / "other.csv").write_text("")
    assert "holds 2 tables: labels.csv, other.csv" in refused(tmp_path, classes_from="csv")
