"""Images unlike all others: planted ones are found, whatever is learnt; of a clean set hardly any
is named.
"""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from convwise.advice.fingerprint import look
from convwise.advice.outliers import FENCE, beyond, outliers, shown, told
from convwise.advice.probes import Probes
from convwise.core.records import Fingerprint, Outlier, from_json, to_json
from convwise.images.loading import Part, read
from convwise.output.tables import write_odd
from made_evidence import pictures

CLASSES = tuple("0123456789")
RNG = np.random.default_rng(0)


def part(planted=None, labels=None) -> Part:
    """Digits to learn from, with other images in some places."""
    digits = read("digits").train
    pixels = np.asarray(digits.pixels).copy()
    for row, image in (PLANTED if planted is None else planted).items():
        pixels[row] = image
    return Part(pixels, digits.labels if labels is None else labels, digits.names)


DIGITS = part({})
SHAPE = DIGITS.pixels.shape[1:]
PLANTED = {
    17: np.zeros(SHAPE, np.uint8),
    120: np.full(SHAPE, 255, np.uint8),
    299: RNG.integers(0, 256, SHAPE, np.uint8),
    450: 255 - DIGITS.pixels[450],
}


def rows_of(some: Part) -> set[int]:
    probes = Probes(some.pixels, some.labels, seed=0)
    return {outlier.row for outlier in outliers(probes, np.arange(len(some)), some.labels, CLASSES)}


@pytest.fixture(scope="module")
def facts() -> Fingerprint:
    return look(part(), CLASSES)


def test_planted_ones_are_found_and_no_other(facts):
    assert {outlier.row for outlier in facts.outliers} == set(PLANTED)
    distances = [outlier.distance for outlier in facts.outliers]
    assert distances == sorted(distances, reverse=True)
    assert min(distances) > FENCE
    assert all(outlier.label == CLASSES[DIGITS.labels[outlier.row]] for outlier in facts.outliers)


def test_of_a_clean_set_none_is_named(facts):
    assert rows_of(DIGITS) == set()
    assert told(replace(facts, outliers=()), DIGITS.names) == ""


def test_in_colour_a_picture_without_it_is_found():
    pixels, labels = pictures(300, (32, 32, 3), 4)
    pixels[7] = pixels[7].mean(axis=-1, keepdims=True)
    assert 7 in rows_of(Part(pixels, labels, tuple(map(str, range(300)))))


def test_the_same_seed_names_the_same(facts):
    assert look(part(), CLASSES).outliers == facts.outliers


@pytest.mark.slow
def test_images_with_numbers_are_compared_too():
    values = np.arange(len(DIGITS)) + 0.5
    for labels, numbers, label in (
        (values, ("angle",), "17.5"),
        (np.column_stack([values, 2 * values]), ("x", "y"), "17.5, 35"),
    ):
        found = look(part(labels=labels), (), numbers=numbers).outliers
        assert {outlier.row for outlier in found} == set(PLANTED)
        assert {outlier.row: outlier.label for outlier in found}[17] == label


def test_more_than_ten_alike_are_a_kind_of_their_own():
    noise = dict(enumerate(RNG.integers(0, 256, (200, *SHAPE), np.uint8)))
    assert rows_of(part(noise)) == set()


def test_where_more_than_a_tenth_is_far_out_none_is_named():
    for count, found in ((4, set(range(4))), (8, set())):
        some = part({row: np.full(SHAPE, 30 * row, np.uint8) for row in range(count)})
        assert rows_of(Part(some.pixels[:60], some.labels[:60], some.names[:60])) == found


def test_few_images_are_not_judged():
    some = part()
    for most, found in ((49, set()), (200, {17, 120})):
        assert rows_of(Part(some.pixels[:most], some.labels[:most], some.names[:most])) == found


def test_the_distance_is_that_of_a_plain_loop():
    """In interquartile ranges of the logarithm of the mean distance to the 10 nearest."""
    points = np.concatenate([RNG.normal(size=(60, 5)), np.full((1, 5), 9.0)]).astype(np.float32)
    near = []
    for i, point in enumerate(points):
        others = sorted(
            float(np.sqrt(((point - other) ** 2).sum())) for j, other in enumerate(points) if j != i
        )
        near.append(np.log(sum(others[:10]) / 10))
    low, high = np.percentile(near, [25, 75])
    np.testing.assert_allclose(
        beyond(points), (np.array(near) - high) / (high - low), rtol=1e-4, atol=1e-4
    )


def test_copies_make_nothing_infinite():
    copies = np.zeros((100, 4), np.float32)
    copies[0] = 5
    assert np.isfinite(beyond(copies)).all()
    copies[:60] = RNG.normal(size=(60, 4))
    assert np.isfinite(beyond(copies)).all()


def test_they_are_told_and_written(facts, tmp_path):
    names = ("=HYPERLINK(0).png", *part().names[1:])
    odd = replace(facts, outliers=(Outlier(0, "-1+1", 4.25), *facts.outliers), looked_at=1234)
    line = told(odd, names)
    assert line.startswith(
        f"{len(odd.outliers)} images look unlike all others, of 1,234 images checked: "
    )
    assert "=HYPERLINK(0).png (-1+1)" in line
    assert line.endswith(f"and {len(odd.outliers) - 3} more")
    one = told(replace(odd, outliers=odd.outliers[:1]), names)
    assert (
        one == "1 image looks unlike all others, of 1,234 images checked: =HYPERLINK(0).png (-1+1)"
    )
    write_odd(tmp_path / "outliers.csv", shown(odd, names))
    rows = list(csv.DictReader((tmp_path / "outliers.csv").read_text().splitlines()))
    assert rows[0] == {"path": "'=HYPERLINK(0).png", "label": "'-1+1", "distance": "4.25"}
    assert [row["path"] for row in rows[1:]] == [names[outlier.row] for outlier in facts.outliers]


def test_a_fingerprint_of_before_is_still_read(facts):
    stored = json.loads(json.dumps(to_json(facts)))
    assert from_json(Fingerprint, stored) == facts
    del stored["outliers"]
    assert from_json(Fingerprint, stored) == replace(facts, outliers=())
