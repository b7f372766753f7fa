"""Numbers instead of classes: from tables, folders and arrays, split from low to high, and what is
refused.
"""

from __future__ import annotations

import csv
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convwise.advice.fingerprint import look
from convwise.core.problems import UnusableInput
from convwise.images import sampling
from convwise.images.loading import Within, read
from convwise.images.targets import TARGETS
from imagesets import picture


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 10, 10, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def table(tmp_path_factory, pixels) -> Path:
    """pictures/0.png, ... and angles.csv beside the folder, with a column of numbers and others."""
    root = tmp_path_factory.mktemp("table")
    (root / "pictures").mkdir()
    with (root / "angles.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "angle", "note", "age"])
        for i, image in enumerate(pixels):
            picture(image, "L").save(root / "pictures" / f"{i}.png")
            writer.writerow([f"pictures/{i}.png", i - 29.5, "seen", 20 + i % 7])
    return root


def told(source, **how) -> str:
    with pytest.raises(UnusableInput) as refused:
        read(source, **how)
    return str(refused.value)


def test_a_column_of_a_table_is_learnt_as_numbers(table):
    images = read(table / "angles.csv", classes_from="csv:angles.csv:angle", task="regress")
    assert (images.numbers, images.classes, images.task) == (("angle",), (), "regress")
    for part in (images.train, images.valid, images.test.open()):
        assert part.labels.tolist() == [int(Path(name).stem) - 29.5 for name in part.names]
    assert "angle from -29.5 to 29.5" in images.facts["read_as"]
    assert images.facts["reading"]["task"] == "regress"


def test_the_folder_says_the_same_as_its_table(table):
    one = read(table, classes_from="csv:angles.csv:age", task="regress")
    two = read(table / "angles.csv", classes_from="csv::age", task="regress")
    assert one.numbers == two.numbers == ("age",)
    assert one.train.labels.tolist() == two.train.labels.tolist()


def test_the_one_column_of_numbers_needs_no_name(tmp_path, table):
    lines = [line.split(",") for line in (table / "angles.csv").read_text().splitlines()]
    (table / "short.csv").write_text(
        "\n".join(f"{path},{note},{angle}" for path, angle, note, _ in lines)
    )
    try:
        assert read(table / "short.csv", task="regress").numbers == ("angle",)
    finally:
        (table / "short.csv").unlink()


def test_of_several_columns_one_must_be_named_and_the_fix_names_it(table):
    said = told(table / "angles.csv", task="regress")
    assert "2 columns of numbers: angle, age" in said
    one = "--classes-from csv:angles.csv:angle"
    assert said.endswith(f"name one: {one}, or several: {one},age")
    assert "no column 'angel'" in told(table, classes_from="csv:angles.csv:angel", task="regress")
    assert "60 of 60 labels are not numbers: 'seen'" in told(
        table, classes_from="csv:angles.csv:note", task="regress"
    )


def test_folders_that_are_numbers(tmp_path, pixels):
    for i, image in enumerate(pixels):
        folder = tmp_path / ("-1.5", "0", "20", "7e1")[i % 4]
        folder.mkdir(exist_ok=True)
        picture(image, "L").save(folder / f"{i}.png")
    images = read(tmp_path, task="regress")
    assert sorted(set(images.train.labels.tolist())) == [-1.5, 0, 20, 70]
    assert read(tmp_path).classes == ("-1.5", "0", "20", "7e1")  # the same as classes


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int32, str])
def test_arrays(pixels, kind):
    values = np.linspace(-3, 7, 60).round(2) if kind is not np.int32 else np.arange(60)
    images = read((pixels, values.astype(kind)), task="regress")
    everything = np.concatenate(
        [images.train.labels, images.valid.labels, images.test.open().labels]
    )
    assert np.sort(everything) == pytest.approx(values, abs=1e-6)
    assert everything.dtype == np.float64
    assert images.numbers == ("number",)


def test_every_part_reaches_from_low_to_high(pixels):
    numbers = np.random.default_rng(1).exponential(5, 60)
    images = read((pixels, numbers), task="regress")
    low, high = np.quantile(numbers, (0.2, 0.8))
    for part in (images.valid, images.test.open()):
        assert len(part) == 12
        assert 1 <= (part.labels <= low).sum() <= 4
        assert 1 <= (part.labels >= high).sum() <= 4


def test_strata_are_of_equal_size_and_keep_equal_numbers_together():
    strata = TARGETS["number"].strata
    assert np.bincount(strata(np.random.default_rng(0).normal(size=1000))).tolist() == [100] * 10
    some = np.repeat([1.0, 2.0, 9.0], 40)
    assert len({tuple(strata(some)[some == value]) for value in (1.0, 2.0, 9.0)}) >= 2
    assert all(len(set(strata(some)[some == value].tolist())) == 1 for value in (1.0, 2.0, 9.0))


def test_a_picture_with_two_numbers_is_dropped(pixels):
    twice = np.concatenate([pixels, pixels[:1]])
    images = read((twice, np.append(np.arange(60.0) / 7, 5.5)), task="regress", test="none")
    assert len(images.train) + len(images.valid) == 59
    assert any("with the same pixels" in str(problem) for problem in images.problems)


def test_a_number_far_from_all_others_is_asked_about(pixels):
    numbers = np.random.default_rng(0).normal(30, 3, 60)
    numbers[::30] = -999
    said = " ".join(
        str(problem) for problem in read((pixels, numbers), task="regress", test="none").problems
    )
    assert "far from the others: -999" in said
    plain = read((pixels, np.arange(60)), task="regress")
    assert "far from" not in " ".join(map(str, plain.problems))


def test_what_is_no_number_is_refused(pixels):
    assert "30 of 60 labels are not numbers: 'cat'" in told(
        (pixels, ["1.5", "cat"] * 30), task="regress"
    )
    assert "only the number 3" in told((pixels, np.full(60, 3.0)), task="regress")
    assert "missing" in told((pixels, np.full(60, np.nan)), task="regress")
    assert "not numbers: inf" in told(
        (pixels, np.append(np.arange(59.0) / 2, np.inf)), task="regress"
    )
    assert "labels of shape (60, 2, 2)" in told((pixels, np.random.rand(60, 2, 2)), task="regress")


def test_what_is_said_of_numbers_does_not_speak_of_classes(tmp_path, pixels):
    rows = [f"{i}.png,{i + 0.5}" for i in range(8)]
    colour = pixels[:3, ..., 0].transpose(1, 2, 0)
    for i in range(8):
        picture(np.repeat(pixels[i], 3, axis=2) if i else colour, "RGB").save(tmp_path / f"{i}.png")
    table, how = tmp_path / "labels.csv", {"classes_from": "csv", "task": "regress"}
    table.write_text("\n".join(["file,label", *rows, "0.png,7.5"]))
    said = [told(tmp_path, **how), told((pixels, [None, *range(59)]), task="regress")]
    table.write_text("\n".join(["file,label", *rows[:-1], "7.png,"]))
    said += [str(problem) for problem in read(tmp_path, **how).problems]
    assert "0.png has two labels, 0.5 (line 2) and 7.5 (line 10)" in said[0]
    assert "expected a label for each image" in said[1]
    assert any("have no label: 1 image, 7.png (line 9)" in line for line in said)
    assert any("does not give the answer away" in line for line in said)
    assert [line for line in said if re.search(r"\bclass(es)?\b", line)] == []


def test_without_it_numbers_that_are_no_classes_name_the_task(pixels, table):
    for source, how in (
        ((pixels, np.linspace(0, 1, 60)), {}),
        (table, {"classes_from": "csv:angles.csv:angle"}),
    ):
        assert "--task regress" in told(source, **how)
    few = np.array(["0.5", "1.5"])[np.arange(60) % 2]
    assert read((pixels, few)).classes == ("0.5", "1.5")


def test_a_part_of_a_table_reaches_from_low_to_high(table, monkeypatch):
    monkeypatch.setattr(sampling, "FILE_SECONDS", 0.1)
    monkeypatch.setattr(sampling, "PIXEL_SECONDS", 0.0)
    monkeypatch.setattr(sampling, "FEW", 1)
    how = {"classes_from": "csv:angles.csv:angle", "task": "regress", "test": "none"}
    images = read(table, within=Within(40.0), **how)
    numbers = np.concatenate([images.train.labels, images.valid.labels])
    assert np.histogram(numbers, 6, (-30, 30))[0].tolist() == pytest.approx([40 / 6] * 6, abs=1)
    assert images.facts["seen"]["classes"] == {}
    assert "40 of 60 images (67 %), low and high numbers in proportion" in images.facts["read_as"]
    looked = read(table, within=Within(600.0, most=20), **how)
    assert looked.counts() == pytest.approx([0.8 * 60], abs=2)
    facts = look(looked.train, looked.classes, counts=looked.counts(), numbers=looked.numbers)
    assert (facts.images, facts.classes, facts.suspects) == (looked.counts()[0], {}, ())


def test_nearly_the_same_picture_with_two_numbers_stays_together_and_nothing_is_said_of_classes():
    rng, one = np.random.default_rng(0), []
    for _ in range(30):
        rough = Image.fromarray(rng.integers(0, 256, (7, 6), np.uint8))
        one.append(np.asarray(rough.resize((48, 60), Image.Resampling.BICUBIC)))
    again = np.clip(np.stack(one) * 1.05 + 8, 0, 255).astype(np.uint8)
    numbers = np.arange(30.0)
    images = read(
        (np.concatenate([np.stack(one), again]), np.concatenate([numbers, numbers + 0.5])),
        task="regress",
    )
    assert images.facts["near_duplicates"] == 30
    sides = [
        {int(label) for label in part.labels}
        for part in (images.train, images.valid, images.test.open())
    ]
    assert [len(side & other) for side, other in itertools.combinations(sides, 2)] == [0, 0, 0]
    assert not any("class" in str(problem) for problem in images.problems)
