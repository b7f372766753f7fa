"""What is odd about the images stands in the report as pictures: near duplicates, doubtful labels,
outliers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from convwise.core.records import Outlier, Suspect
from convwise.images.loading import Pair, read
from convwise.output import report
from convwise.output.drawings import MOST_ODD, MOST_UNLIKE, Odd, odd_among
from made_evidence import HOSTILE, evidence, pictures

PIXELS = pictures(40, (64, 64, 3), 4)[0]


def page(tmp_path, odd: Odd) -> str:
    report.write(tmp_path / "report.html", evidence(odd=odd))
    return (tmp_path / "report.html").read_text()


def test_pairs_and_suspects_are_shown_with_their_names(tmp_path):
    pair = Pair(
        ("train/a.png", f"test/{HOSTILE}.png"),
        ("disc", "ring"),
        ("train", "test"),
        (PIXELS[0], PIXELS[1]),
    )
    row = {"path": "train/x.png", "label": "disc", "suggested": "ring", "confidence": 0.93}
    text = page(tmp_path, Odd((pair,), ((PIXELS[2], row),), 41, 1151))
    odd = text[text.index("Nearly the same picture") : text.index('<section id="code"')]
    assert odd.count("<img ") == 3
    assert "ring, test" in odd
    assert "labelled <s>disc</s><br>looks like ring, 93" in odd
    assert (
        "1,151 images were checked by a probe that was fitted on the others; it would label 41 of"
        " them" in odd
    )
    assert HOSTILE not in text
    assert 'src="http' not in text


def test_images_unlike_all_others_are_shown_with_path_label_and_distance(tmp_path):
    row = {"path": f"train/{HOSTILE}.png", "label": HOSTILE, "distance": 7.249}
    text = page(tmp_path, Odd(outliers=((PIXELS[2], row),), unlike=1, looked_at=1321))
    odd = text[text.index("Unlike all others") : text.index('<section id="code"')]
    assert odd.count("<img ") == 1
    assert "1,321 images were compared with each other; 1 of them is unusually far" in odd
    assert ", 7.2<small>train/" in odd
    assert HOSTILE not in text
    assert "Unlike all others" not in page(tmp_path, Odd())


def test_of_many_the_first_are_shown_beside_their_own_pictures(tmp_path):
    images = read("digits")
    names = images.train.names
    rows = [5 * i for i in range(20)]
    facts = replace(
        evidence().fingerprint,
        looked_at=len(names),
        suspects=(Suspect(3, "3", "8", 0.9),),
        outliers=tuple(Outlier(row, "0", 20.0 - row / 10) for row in rows),
    )
    odd = odd_among(images, facts)
    assert (odd.unlike, odd.doubtful, odd.looked_at) == (20, 1, len(names))
    assert [row["path"] for _, row in odd.outliers] == [names[row] for row in rows[:MOST_UNLIKE]]
    for (pixels, _), row in zip(odd.outliers, rows, strict=False):
        np.testing.assert_array_equal(pixels, images.train.pixels[row])
    np.testing.assert_array_equal(odd.suspects[0][0], images.train.pixels[3])
    text = page(tmp_path, odd)
    assert (
        text[text.index("Unlike all others") : text.index('<section id="code"')].count("<img ")
        == MOST_UNLIKE
    )


def test_without_any_nothing_is_said_of_them(tmp_path):
    text = page(tmp_path, Odd())
    assert "Nearly the same picture" not in text
    assert "Doubtful labels" not in text


def test_of_many_pairs_some_are_shown(tmp_path):
    pair = Pair(
        ("a", "b"),
        ("disc", "disc"),
        ("train", "train"),
        (np.asarray(PIXELS[0]), np.asarray(PIXELS[0])),
    )
    text = page(tmp_path, Odd((pair,) * 60))
    odd = text[text.index("Nearly the same picture") : text.index('<section id="code"')]
    assert odd.count("<img ") == 2 * MOST_ODD
