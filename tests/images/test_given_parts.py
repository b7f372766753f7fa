"""Parts that a source gives beside its folders: in columns, in the names of files, in tables of
their own.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from convwise.core.problems import UnusableInput
from convwise.images.sources import Found, Reading, find
from convwise.images.sources.given_parts import part_columns, parts_in_names
from imagesets import striped, write_zip

COUNT = 20
LABELS = ["ab"[index % 2] for index in range(COUNT)]
PARTS = ["train"] * 13 + ["valid"] * 3 + ["test"] * 4


def pictures(root: Path, names: list[str]) -> Path:
    """Files under these names, which nothing decodes."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    return root


def table(root: Path, head: str, *columns: list) -> Path:
    """Pictures 0.png to 19.png and labels.csv: path, label and these columns."""
    pictures(root, [f"{index}.png" for index in range(COUNT)])
    cells = [[f"{index}.png" for index in range(COUNT)], LABELS, *columns]
    rows = [",".join(map(str, row)) for row in zip(*cells, strict=True)]
    (root / "labels.csv").write_text("\n".join([f"path,label,{head}", *rows]))
    return root


def parts(found: Found) -> list[str | None]:
    """The part of each picture, in the order of the numbers in their names."""
    return [
        item.part
        for item in sorted(found.items, key=lambda item: int(re.findall(r"\d+", item.name)[-1]))
    ]


def by_table(root: Path, way: str = "csv", **how) -> Found:
    return find(root, Reading(way, **how))


def refused(root: Path, way: str = "csv", **how) -> str:
    with pytest.raises(UnusableInput) as caught:
        by_table(root, way, **how)
    return str(caught.value)


def asked(said: str) -> list[str]:
    """The ways that a message names, as they are typed."""
    return [shlex.split(way)[0] for way in re.findall(r"--classes-from ('[^']*'|[^\s;,]+)", said)]


# --- columns -------------------------------------------------------------------------------------


def flag(part: str, yes="1", no="0") -> list[str]:
    return [yes if each == part else no for each in PARTS]


@pytest.mark.parametrize(
    ("head", "columns"),
    [
        ("split", [PARTS]),
        (
            "Usage",
            [
                [
                    {"train": "Training", "valid": "Validation", "test": "PrivateTest"}[each]
                    for each in PARTS
                ]
            ],
        ),
        ("partition", [[("train", "valid", "test").index(each) for each in PARTS]]),
        ("phase", [PARTS]),
        ("what,phase", [range(COUNT), PARTS]),
        ("is_valid,is_test", [flag("valid"), flag("test")]),
        ("is_train,is_test", [flag("train", "True", "False"), flag("test", "True", "False")]),
        ("isTrain,isValid", [flag("train", "yes", "no"), flag("valid", "yes", "no")]),
        (
            "is_training_image,is_validation",
            [flag("train", "1.0", "0.0"), flag("valid", "1.0", "0.0")],
        ),
    ],
)
def test_columns_that_tell_parts(tmp_path, head, columns):
    assert parts(by_table(table(tmp_path, head, *columns))) == PARTS


@pytest.mark.parametrize(
    ("head", "column"),
    [
        ("is_valid", ["1"] * 18 + ["0"] * 2),  # that they are sound, not that they validate
        ("vehicle", ["train", "bus"] * 10),
        ("phase", ["first", "train"] * 10),
        ("isolated", ["0", "1"] * 10),
        ("usage", ["test"] * 20),  # none to train on
        ("fold", [index % 5 for index in range(COUNT)]),
    ],
)
def test_columns_that_tell_none(tmp_path, head, column):
    assert parts(by_table(table(tmp_path, head, column))) == [None] * COUNT


def test_one_flag_says_the_rest():
    for name, yes, no in (
        ("is_train", "train", "test"),
        ("is_test", "test", "train"),
        ("is_valid", "valid", "train"),
    ):
        rows = [[each] for each in (["1"] * 9 + ["0"] if name == "is_train" else ["0"] * 9 + ["1"])]
        found = part_columns([name], rows, ())
        assert [found.of(row) for row in (["1"], ["0"], [""])] == [yes, no, ""]


def test_a_column_of_parts_is_neither_a_label_nor_a_number(tmp_path):
    (table(tmp_path, "phase", PARTS) / "labels.csv").write_text(
        "\n".join(
            [
                "fname,angle,phase",
                *(f"{index}.png,{index / 2},{part}" for index, part in enumerate(PARTS)),
            ]
        )
    )
    found = by_table(tmp_path, task="regress")
    assert found.numbers == ("angle",)
    assert parts(found) == PARTS
    assert "has the columns fname, phase" in refused(without_column(tmp_path, 1))


def without_column(root: Path, place: int) -> Path:
    lines = [line.split(",") for line in (root / "labels.csv").read_text().splitlines()]
    (root / "labels.csv").write_text(
        "\n".join(",".join(line[:place] + line[place + 1 :]) for line in lines)
    )
    return root


def test_a_missing_cell_is_no_part(tmp_path):
    column = ["NaN", *PARTS[1:]]
    assert parts(by_table(table(tmp_path, "split", column))) == [None, *PARTS[1:]]
    said = refused(table(tmp_path, "split", ["later", *PARTS[1:]]))
    assert "'later' is not the name of a part; expected train, valid or test. Fix: " in said
    for column in ([index % 3 for index in range(COUNT)], [0] * 15 + [1] * 5):
        assert "is not the name of a part" in refused(table(tmp_path, "split", column))


def test_folders_that_a_table_names_tell_the_part(tmp_path):
    names = [f"{part}/{index}.png" for index, part in enumerate(PARTS)]
    rows = [f"{name},{label}" for name, label in zip(names, LABELS, strict=True)]
    (pictures(tmp_path, names) / "labels.csv").write_text("\n".join(["path,label", *rows]))
    found = by_table(tmp_path)
    assert parts(found) == PARTS
    assert found.roles == {"test": "test", "train": "train", "valid": "valid"}
    for folder in ("test_tube", "steam_train"):
        others = [f"{folder if index % 2 else 'bus'}/{index}.png" for index in range(COUNT)]
        rows = [f"{name},{label}" for name, label in zip(others, LABELS, strict=True)]
        (pictures(tmp_path / folder, others) / "labels.csv").write_text(
            "\n".join(["path,label", *rows])
        )
        assert parts(by_table(tmp_path / folder)) == [None] * COUNT


def test_parts_in_parquet(tmp_path):
    from parquets import write_parquet

    pixels, labels = striped(2, 10, size=8)
    for name, column, expected in (
        ("split", PARTS, PARTS),
        ("Usage", PARTS, PARTS),
        (
            "Is_Test",
            [part == "test" for part in PARTS],
            [("train", "test")[part == "test"] for part in PARTS],
        ),
        ("split", ["a", "b"] * 10, [None] * COUNT),
        ("note", ["x"] * COUNT, [None] * COUNT),
    ):
        file = write_parquet(tmp_path / "set.parquet", pixels, labels, "ab", **{name: column})
        assert parts(find(file)) == expected
    file = write_parquet(tmp_path / "train.parquet", pixels, labels, "ab", split=PARTS)
    assert parts(find(file)) == ["train"] * COUNT  # the name of the file goes first


# --- tables of parts -----------------------------------------------------------------------------


def imagefolder(
    root: Path, train="train/metadata.csv", test="test/metadata.csv", labelled=True
) -> Path:
    """Pictures train/0.png ... test/0.png ..., and a table for each part: the same names in
    both.
    """
    for part, file, count in (("train", train, 14), ("test", test, 6)):
        pictures(root, [f"{part}/{index}.png" for index in range(count)])
        with_label = labelled or part == "train"
        rows = [f"{index}.png" + f",{LABELS[index]}" * with_label for index in range(count)]
        (root / file).write_text("\n".join(["file_name" + ",label" * with_label, *rows]))
    return root


@pytest.mark.parametrize(
    "files",
    [
        ("train/metadata.csv", "test/metadata.csv"),
        ("train.csv", "test.csv"),
        ("my_train.csv", "my_test.csv"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_table_for_each_part_is_one_set(tmp_path, files, packed):
    root = imagefolder(tmp_path / "set", *files)
    found = by_table(write_zip(tmp_path / "set.zip", root) if packed else root)
    assert len(found.items) == 20
    assert {(item.part, item.name.split("/")[0]) for item in found.items} == {
        ("train", "train"),
        ("test", "test"),
    }
    assert "csv" in asked(refused(root, "folder"))  # the fix where no way is given


def test_a_table_of_test_without_labels_is_left_out_and_told(tmp_path):
    found = by_table(imagefolder(tmp_path, "train.csv", "test.csv", labelled=False))
    assert [item.part for item in found.items] == ["train"] * 14
    told = [str(problem) for problem in found.problems if problem.severity == "warning"]
    assert any("test.csv: left out, since it has the columns file_name" in text for text in told)


def test_of_several_tables_the_one_with_labels_is_named(tmp_path):
    imagefolder(tmp_path, "train.csv", "test.csv", labelled=False)
    (tmp_path / "a_submission.csv").write_text("file_name,label\ntest/0.png,a\n")
    said = refused(tmp_path)
    assert "holds 3 tables: a_submission.csv, test.csv, train.csv" in said
    assert asked(said) == ["csv:train.csv"]
    # In train/, though test/ has the same names
    assert len(by_table(tmp_path, "csv:train.csv").items) == 14


# --- names of files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    ["{part}_{label}_{index}.png", "{label}-{part}-{index}.png", "{part}.{label}.{index}.png"],
)
@pytest.mark.parametrize("folders", [False, True])
def test_names_that_tell_the_part_and_the_class(tmp_path, form, folders):
    names = [
        form.format(part=PARTS[i], label=("cat", "great_dane")[i % 2], index=i)
        for i in range(COUNT)
    ]
    if folders:
        names = [f"{part}/{name}" for part, name in zip(PARTS, names, strict=True)]
    found = find(pictures(tmp_path, names), Reading("name"))
    assert parts(found) == PARTS
    assert {item.label for item in found.items} == {"cat", "great_dane"}
    assert "labels and parts from the names of the files" in str(found.problems[0])


def test_a_pattern_gives_the_class_and_the_name_still_the_part(tmp_path):
    names = [f"{part}_cat{index % 2}_{index}.png" for index, part in enumerate(PARTS)]
    found = find(pictures(tmp_path, names), Reading("name:*_{class}_#"))
    assert (parts(found), {item.label for item in found.items}) == (PARTS, {"cat0", "cat1"})
    found = find(tmp_path, Reading("name:{class}_#"))  # the class is the part as well, as asked
    assert (parts(found), {item.part for item in found.items}) == ([None] * COUNT, {None})
    numbers = [f"{part}_face_{index}.png" for index, part in enumerate(PARTS)]
    found = find(pictures(tmp_path / "b", numbers), Reading("name:*_{class}", task="regress"))
    assert parts(found) == PARTS


@pytest.mark.parametrize(
    "names",
    [
        ["train_station", "test_tube"],  # no class of train in test
        ["train", "bus"],
        ["train_car", "cat"],
        ["train_cat", "train_dog"],
        ["test_cat", "test_dog"],
    ],
)
def test_names_of_classes_stay_whole(names):
    labels = {PurePosixPath(f"{name}_{index}.png"): name for name in names for index in range(3)}
    assert parts_in_names(labels) == {}


# --- arrays --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (
            {"x_train": "train", "x_validation": "valid", "x_test": "test"},
            ["train", "valid", "test"],
        ),
        (
            {"test_images": "test", "val_images": "valid", "train_images": "train"},
            ["train", "valid", "test"],
        ),
        ({"train_x": "train", "dev_x": "valid", "holdout_x": "test"}, ["train", "valid", "test"]),
        ({"X_Train": "train", "X_VAL": "valid"}, ["train", "valid"]),
        ({"x_trainval": "train", "x_test": "test"}, ["train", "test"]),
        ({"images": None}, [None]),
        ({"x": None, "train_images": "train"}, ["train", None]),
    ],
)
def test_parts_in_an_npz_by_any_word_for_them(tmp_path, named, expected):
    pixels, labels = striped(2, 4, size=8)
    arrays = {}
    for name in named:
        arrays[name] = pixels
        arrays[name.replace("images", "labels").replace("x", "y").replace("X", "Y")] = labels
    np.savez(tmp_path / "set.npz", **arrays)
    found = find(tmp_path / "set.npz")
    assert [block.part for block in found.blocks] == expected
    assert found.problems == ()


@pytest.mark.parametrize(
    ("name", "severity"),
    [("x_extra", "warning"), ("y_test", "warning"), ("x_trainval", "warning"), ("about", "note")],
)
def test_arrays_that_are_not_read_are_told(tmp_path, name, severity):
    pixels, labels = striped(2, 4, size=8)
    np.savez(tmp_path / "set.npz", x_train=pixels, y_train=labels, **{name: labels})
    (told,) = find(tmp_path / "set.npz").problems
    assert told.severity == severity
    assert f"1 array under other names left out: {name}" in told.what
