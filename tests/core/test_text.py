"""core/text.py: sizes and numbers as people read them."""

from __future__ import annotations

import pytest

from convwise.core.text import in_thousands, number, of_bytes, parse_size, short, square, times


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (times((224, 224, 3)), "224x224x3"), (times(n or "?" for n in (None, 8)), "?x8"),
        (times(()), ""),
        (square((3, 3)), "3"), (square((2.5, 3.0)), "2.5x3"),
        (number(0.12345), "0.123"), (number(27221.1), "27,221"), (number(999.4), "999"),
        (short(640), "640"), (short(25_450), "25.4k"), (short(82_310_000), "82.3M"), (short(1e9),
        "1G"),
        (of_bytes(9_999), "9,999 B"), (of_bytes(10_000), "10.0 kB"), (of_bytes(60_450_000),
        "60.45 MB"),
    ],
)  # fmt: skip
def test_how_sizes_and_numbers_are_shown(said, text):
    assert said == text


def test_thousands_keep_the_sign():
    assert [in_thousands(value) for value in (640, -1500, 2e6)] == [
        (640, ""),
        (-1.5, "k"),
        (2, "M"),
    ]


def test_a_size_is_read_as_it_is_shown():
    assert parse_size(times((64, 48))) == (64, 48)
