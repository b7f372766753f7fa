"""What is odd about the images stands in the report as pictures: near duplicates, and doubtful labels."""

from __future__ import annotations

import numpy as np

from convwise.images.loading import Pair
from convwise.output import report
from convwise.output.drawings import MOST_ODD, Odd
from made_evidence import HOSTILE, evidence, pictures

PIXELS = pictures(40, (64, 64, 3), 4)[0]


def page(tmp_path, odd: Odd) -> str:
    report.write(tmp_path / "report.html", evidence(odd=odd))
    return (tmp_path / "report.html").read_text()


def test_pairs_and_suspects_are_shown_with_their_names(tmp_path):
    pair = Pair(("train/a.png", f"test/{HOSTILE}.png"), ("disc", "ring"), ("train", "test"), (PIXELS[0], PIXELS[1]))
    row = {"path": "train/x.png", "label": "disc", "suggested": "ring", "confidence": 0.93}
    text = page(tmp_path, Odd((pair,), ((PIXELS[2], row),), 41, 1151))
    odd = text[text.index("Nearly the same picture") : text.index('<section id="code"')]
    assert odd.count("<img ") == 3
    assert "ring, test" in odd
    assert "labelled <s>disc</s><br>rather ring, 93" in odd
    assert "1,151 images were checked by a probe that was fitted on the others; it would label 41 of them" in odd
    assert HOSTILE not in text
    assert 'src="http' not in text


def test_without_any_nothing_is_said_of_them(tmp_path):
    text = page(tmp_path, Odd())
    assert "Nearly the same picture" not in text
    assert "Doubtful labels" not in text


def test_of_many_pairs_some_are_shown(tmp_path):
    pair = Pair(("a", "b"), ("disc", "disc"), ("train", "train"), (np.asarray(PIXELS[0]), np.asarray(PIXELS[0])))
    text = page(tmp_path, Odd((pair,) * 60))
    odd = text[text.index("Nearly the same picture") : text.index('<section id="code"')]
    assert odd.count("<img ") == 2 * MOST_ODD
