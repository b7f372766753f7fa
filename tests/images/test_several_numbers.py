"""Several numbers of each image: from tables, arrays and Parquet, split alike, and what is
refused.
"""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest

from convwise.advice.fingerprint import look
from convwise.advice.target import grades
from convwise.core.problems import UnusableInput
from convwise.core.records import Fingerprint, from_json, to_json
from convwise.images.loading import Images, read
from convwise.images.targets import TARGETS
from imagesets import picture
from parquets import write_parquet

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (60, 10, 10, 1), dtype=np.uint8)
PLACES = RNG.uniform((0, -5), (10, 5), (60, 2)).round(3)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """pictures/0.png, ... and places.csv beside the folder."""
    root = tmp_path_factory.mktemp("places")
    (root / "pictures").mkdir()
    with (root / "places.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "left", "top", "left,top"])
        for i, (image, (left, top)) in enumerate(zip(PIXELS, PLACES, strict=True)):
            picture(image, "L").save(root / "pictures" / f"{i}.png")
            writer.writerow([f"pictures/{i}.png", left, "NA" if i == 7 else top, i])
    return root


def told(source, **how) -> str:
    with pytest.raises(UnusableInput) as refused:
        read(source, **{"task": "regress", **how})
    return str(refused.value)


def everything(images: Images) -> np.ndarray:
    """The numbers of all parts, in the order of the first."""
    parts = (images.train, images.valid, images.test.open())
    return np.array(sorted(np.concatenate([part.labels for part in parts]).tolist()))


def test_columns_of_a_table_in_the_order_in_which_they_are_named(table):
    images = read(table, classes_from="csv:places.csv:Top, left", task="regress")
    assert (images.numbers, images.classes, images.task) == (("top", "left"), (), "regress")
    for part in (images.train, images.valid, images.test.open()):
        rows = [int(Path(name).stem) for name in part.names]
        assert part.labels.tolist() == PLACES[rows][:, ::-1].tolist()
        assert 7 not in rows
    said = " ".join(map(str, images.problems))
    assert "left out, because they have no label: 1 image, pictures/7.png (line 9)" in said
    kept = np.delete(PLACES, 7, axis=0)
    assert (
        f"top from {kept[:, 1].min():.3g} to {kept[:, 1].max():.3g}, left from"
        in images.facts["read_as"]
    )


def test_a_column_that_is_called_so_is_one(table):
    images = read(table / "places.csv", classes_from="csv::left,top", task="regress")
    assert images.numbers == ("left,top",)
    assert images.train.labels.ndim == 1


def test_columns_that_are_not_there_or_named_twice_are_refused(table):
    assert "no column 'bottom'" in told(table, classes_from="csv:places.csv:left,bottom")
    assert "names the column 'left' twice" in told(table, classes_from="csv:places.csv:left,Left")
    said = told(table, classes_from="csv:places.csv:left,bottom", task="classify")
    assert "no column 'left,bottom'" in said  # a class has one column


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int32])
def test_arrays(kind, tmp_path):
    values = PLACES.astype(kind)
    for source in (
        (PIXELS, values),
        [(image, label) for image, label in zip(PIXELS, values, strict=True)],
    ):
        if isinstance(source, list):
            source = Pairs(source)
        images = read(source, task="regress")
        assert images.numbers == ("number_1", "number_2")
        assert images.train.labels.dtype == np.float64
        assert everything(images) == pytest.approx(np.array(sorted(values.tolist())))
    np.savez(
        tmp_path / "set.npz",
        x_train=PIXELS,
        y_train=values,
        x_test=PIXELS[::-1] // 2,
        y_test=values,
    )
    images = read(tmp_path / "set.npz", task="regress")
    assert images.test.open().labels.tolist() == values.tolist()


class Pairs:
    """As a torch Dataset: items by number, and a length."""

    def __init__(self, items) -> None:
        self.items = items

    def __getitem__(self, index):
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)


def test_parquet_by_columns_or_by_a_column_of_lists(tmp_path):
    left, top = PLACES.T.tolist()
    places = [*PLACES[:-1].tolist(), None]
    write_parquet(tmp_path / "set.parquet", PIXELS, ["seen"] * 60, left=left, top=top, place=places)
    images = read(tmp_path / "set.parquet", classes_from="csv::left,top", task="regress")
    assert images.numbers == ("left", "top")
    assert everything(images).tolist() == sorted(PLACES.tolist())
    images = read(tmp_path / "set.parquet", classes_from="csv::place", task="regress")
    assert images.numbers == ("place_1", "place_2")
    assert everything(images).tolist() == sorted(PLACES[:-1].tolist())
    assert "1 picture without a label" in " ".join(map(str, images.problems))
    assert "3 columns of numbers: left, top, place" in told(tmp_path / "set.parquet")
    assert "no column 'bottom'" in told(tmp_path / "set.parquet", classes_from="csv::left,bottom")


def test_every_part_reaches_from_low_to_high_in_each_number():
    pixels = np.random.default_rng(1).integers(0, 256, (400, 8, 8, 1), dtype=np.uint8)
    places = np.random.default_rng(2).exponential(5, (400, 2))
    images = read((pixels, places), task="regress")
    for part, column in itertools.product((images.valid, images.test.open()), (0, 1)):
        low, high = np.quantile(places[:, column], (1 / 3, 2 / 3))
        third = len(part) / 3
        assert (part.labels[:, column] <= low).sum() == pytest.approx(third, abs=3)
        assert (part.labels[:, column] >= high).sum() == pytest.approx(third, abs=3)


def test_strata_of_several_numbers_are_a_grid_of_about_as_many():
    values = np.random.default_rng(3).normal(size=(900, 5))
    strata = TARGETS["number"].strata
    assert np.bincount(strata(values[:, :2])).tolist() == pytest.approx([100] * 9, abs=30)
    assert len(set(strata(values).tolist())) == 8  # of three of them, in halves
    text = np.array([", ".join(map(str, row)) for row in values[:, :2].tolist()])
    assert (strata(text) == strata(values[:, :2])).all()


def test_what_cannot_be_learnt_is_refused_by_its_name(table):
    constant = np.stack([PLACES[:, 0], np.full(60, 3.0)], axis=1)
    said = told((PIXELS, constant))
    assert "only the number 3 of number_2" in said
    assert "leave number_2 out" in said
    assert "labels are missing (None or NaN), at 3" in told((PIXELS, with_nan(PLACES, 3)))
    assert "60 of 60 labels are not numbers" in told((PIXELS, ["a, b"] * 60))
    assert "has 1, 2 numbers for an image" in told((PIXELS, ["1.5", "1.5, 2"] * 30))
    parts = ((PIXELS, PLACES), (PIXELS[::-1] // 2, PLACES[:, 0]))
    assert "parts with 1, 2 numbers for each image" in told(parts)
    assert "--task regress" in told((PIXELS, PLACES), task="classify")


def with_nan(values: np.ndarray, row: int) -> np.ndarray:
    found = values.copy()
    found[row, 1] = np.nan
    return found


def test_a_number_far_from_the_others_is_told_by_its_name():
    far = PLACES.copy()
    far[::30, 1] = -999
    said = " ".join(map(str, read((PIXELS, far), task="regress", test="none").problems))
    assert "a number (number_2) far from the others: -999" in said


def test_copies_with_other_numbers_are_dropped_and_near_pairs_stay_together():
    twice = np.concatenate([PIXELS, PIXELS[:1]])
    images = read((twice, np.concatenate([PLACES, [[1.0, 1.0]]])), task="regress", test="none")
    assert len(images.train) + len(images.valid) == 59


def test_look_speaks_of_each_number_and_its_record_comes_back():
    images = read((PIXELS, PLACES), task="regress")
    facts = look(images.train, (), counts=images.counts(), numbers=images.numbers)
    assert facts.answers.startswith("number_1 from ")
    assert ", number_2 from " in facts.answers
    measure = facts.measure("target_error")
    train = images.train.labels
    errors = np.abs(train - np.median(train, axis=0)).mean(0) / train.std(0)
    assert measure.value == pytest.approx(errors.mean())
    assert measure.unit == "deviations"
    assert from_json(Fingerprint, to_json(facts)) == facts
    one = look(
        images.train.__class__(images.train.pixels, train[:, 0], images.train.names),
        (),
        numbers=("left",),
    )
    assert to_json(one)["target"]["name"] == "left"  # as it was before there could be several


def test_probes_tell_apart_what_several_numbers_have_in_common():
    common = np.random.default_rng(4).normal(size=500)
    numbers = np.stack([common, -1000 * common], axis=1)
    found = grades(numbers)
    assert np.bincount(found).tolist() == [100] * 5
    assert len({tuple(sorted(set(np.digitize(common[found == k], np.quantile(common, (0.2, 0.4, 0.6,
                0.8))).tolist())))
                for k in range(5)}) == 5  # fmt: skip
