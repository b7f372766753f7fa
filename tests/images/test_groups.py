"""Images that belong together, such as those of one patient, are never drawn into two parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convwise.core.problems import UnusableInput
from convwise.images.loading import Images, read
from imagesets import picture, write_zip
from parquets import write_parquet

PATIENTS, EACH = 12, 5  # each with images of both classes
PIXELS = np.random.default_rng(0).integers(0, 256, (PATIENTS * EACH, 12, 12, 1), dtype=np.uint8)


@pytest.fixture
def root(tmp_path) -> Path:
    """pictures/0.png, ...: image i is of the patient i % PATIENTS."""
    (tmp_path / "pictures").mkdir()
    for i, image in enumerate(PIXELS):
        picture(image, "L").save(tmp_path / "pictures" / f"{i}.png")
    return tmp_path


def write(root: Path, head: str = "path,label,patient_id", split: str = "") -> Path:
    lines = [head + ",split" * bool(split)]
    for i in range(len(PIXELS)):
        part = f",{('train', split)[i % 4 == 3]}" if split else ""
        lines.append(f"pictures/{i}.png,{i * 3 % 7 % 2},p{i % PATIENTS}{part}")
    (root / "set.csv").write_text("\n".join(lines))
    return root / "set.csv"


def patients(images: Images) -> list[set[int]]:
    """Those of each part."""
    parts = (images.train, images.valid, images.test.open())
    return [{int(Path(name).stem) % PATIENTS for name in part.names} for part in parts]


def apart(images: Images) -> bool:
    """Whether each part has some, and all twelve are in one part each."""
    found = patients(images)
    return all(found) and sum(map(len, found)) == PATIENTS == len(set.union(*found))


def said(images: Images) -> str:
    return "\n".join(map(str, images.problems))


@pytest.mark.parametrize(
    "head", ["path,label,patient_id", "file,class,Group", "image,label,subject"]
)
def test_no_group_is_in_two_parts(root, head):
    images = read(write(root, head))
    assert apart(images)
    assert images.classes == ("0", "1")
    assert f"images of one {head.split(',')[2]} are kept in one part: 12 groups" in said(images)
    assert not apart(read(write(root, "path,label,note")))


def test_in_an_archive_too(root, tmp_path_factory):
    write(root)
    packed = write_zip(tmp_path_factory.mktemp("packed") / "set.zip", root)
    assert list(map(len, patients(read(packed, classes_from="csv")))) == list(
        map(len, patients(read(root / "set.csv")))
    )


def test_of_numbers_too(root):
    images = read(write(root, "path,age,patient_id"), task="regress")
    assert images.numbers == ("age",)
    assert apart(images)


def test_a_row_without_a_group_stands_alone(root):
    table = write(root)
    table.write_text(table.read_text().replace(",p0\n", ",\n").replace(",p1\n", ",NA\n"))
    assert "50 groups" not in said(read(table))
    assert f"{PATIENTS - 2 + 2 * EACH} groups" in said(read(table))


def test_groups_in_two_parts_of_the_source_are_told(root):
    images = read(write(root, split="test"))
    assert "12 groups in the column patient_id have images in two parts of the source" not in said(
        images
    )
    table = root / "set.csv"
    table.write_text(table.read_text().replace(",p3,test", ",p0,test", 1))  # patient 0 is in train
    images = read(table)
    assert "1 group in the column patient_id have images in two parts of the source" in said(images)
    assert "the accuracy reported is too high" in said(images)


def test_too_few_groups_are_named(root):
    table = write(root)
    lines = table.read_text().splitlines()
    table.write_text(
        "\n".join([lines[0], *(line.rpartition(",")[0] + ",p1" for line in lines[1:])])
    )
    with pytest.raises(UnusableInput, match=r"too few groups.*at least 3 groups \(patient_id\)"):
        read(table)


def test_a_class_of_few_groups_keeps_one_to_learn_from(root):
    """Patient 0 has class 0 first and is one of two with class 2: of these one stays in train,
    whatever is drawn.
    """
    table = write(root)
    lines = table.read_text().splitlines()
    for row, patient in ((1 + PATIENTS, 0), (1 + PATIENTS + 5, 5)):
        lines[row] = f"pictures/{row - 1}.png,2,p{patient}"
    table.write_text("\n".join(lines))
    for seed in range(8):
        images = read(table, seed=seed)
        assert 2 in images.train.labels


# --- Parquet --------------------------------------------------------------------------------------


def test_a_parquet_table_of_paths_is_read_as_a_csv(root):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = range(len(PIXELS))
    made = {
        "path": [f"pictures/{i}.png" for i in rows],
        "age": [i / 2 for i in rows],
        "group": [i % 12 for i in rows],
    }
    parquet.write_table(arrow.table(made), root / "set.parquet")
    for source, how in ((root / "set.parquet", {}), (root, {"classes_from": "csv"})):
        images = read(source, task="regress", **how)
        assert images.numbers == ("age",)
        assert apart(images)
        assert images.train.labels.tolist() == [
            int(Path(name).stem) / 2 for name in images.train.names
        ]


def test_pictures_inside_have_numbers_and_groups(tmp_path):
    numbers = {
        "width": np.arange(60.0),
        "age": np.arange(60) / 4,
        "patient": np.arange(60) % PATIENTS,
    }
    made = write_parquet(tmp_path / "set.parquet", PIXELS, ["a", None] * 30, **numbers)
    with pytest.raises(
        UnusableInput, match="2 columns of numbers: width, age.*csv:.*set.parquet:width"
    ):
        read(made, task="regress")
    images = read(made, task="regress", classes_from="csv:set.parquet:age")
    assert images.numbers == ("age",)
    assert apart(images)
    assert images.train.labels.tolist() == [int(Path(name).stem) / 4 for name in images.train.names]
