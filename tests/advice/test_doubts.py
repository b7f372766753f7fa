"""Doubtful labels: wrong ones that were planted are found, right ones are seldom doubted."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from convwise.advice.doubts import doubts, shown, told
from convwise.advice.fingerprint import look
from convwise.advice.probes import Probes
from convwise.images.loading import Part, read
from convwise.output.tables import write_odd


def planted(share: float, seed: int = 0) -> tuple[Part, np.ndarray]:
    """Digits to learn from, and which of their labels were changed."""
    images = read("digits")
    labels, rng = images.train.labels.copy(), np.random.default_rng(seed)
    wrong = rng.permutation(len(labels))[: round(share * len(labels))]
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, len(wrong))) % 10
    return Part(np.asarray(images.train.pixels), labels, images.train.names), wrong


@pytest.fixture(scope="module")
def found():
    part, wrong = planted(0.05)
    return look(part, tuple("0123456789")), part, set(wrong.tolist())


def test_most_of_the_wrong_labels_are_found_and_few_others(found):
    facts, part, wrong = found
    rows = {suspect.row for suspect in facts.suspects}
    assert len(rows & wrong) >= 0.6 * len(wrong)
    assert len(rows - wrong) <= 0.01 * len(part)
    assert facts.looked_at == len(part)
    for suspect in facts.suspects:
        assert suspect.label == str(part.labels[suspect.row]) != suspect.suggested
        assert 0 < suspect.confidence <= 1


def test_the_suggested_label_is_the_true_one(found):
    facts, _, wrong = found
    truth = read("digits").train.labels
    right = [
        suspect.suggested == str(truth[suspect.row])
        for suspect in facts.suspects
        if suspect.row in wrong
    ]
    assert np.mean(right) > 0.9


def test_right_labels_are_not_doubted():
    facts = look(planted(0.0)[0], tuple("0123456789"))
    assert len(facts.suspects) <= 3
    assert told(facts, planted(0.0)[0].names, 0) == "" or facts.suspects


def test_a_probe_that_knows_nothing_doubts_nothing():
    rng = np.random.default_rng(0)
    probes = Probes(rng.integers(0, 256, (200, 8, 8, 1), np.uint8), rng.integers(0, 3, 200), seed=0)
    assert doubts(probes.best()) == []


def test_they_are_told_and_written(found, tmp_path):
    facts, part, _ = found
    line = told(facts, part.names)
    assert line.startswith(
        f"{len(facts.suspects)} labels look doubtful, of {len(part):,} images checked: "
    )
    first = facts.suspects[0]
    assert f"{part.names[first.row]} (labelled {first.label}, looks like {first.suggested})" in line
    write_odd(tmp_path / "suspects.csv", shown(facts, part.names))
    rows = list(csv.DictReader((tmp_path / "suspects.csv").read_text().splitlines()))
    assert [row["path"] for row in rows] == [part.names[suspect.row] for suspect in facts.suspects]
    assert set(rows[0]) == {"path", "label", "suggested", "confidence"}
