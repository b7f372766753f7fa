"""What records show of themselves: at most a screen, whatever they hold, and nothing unescaped."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convwise.core.shown import BAR_PX, COLUMNS, LINES, Bar, Screen
from screens import Reader, is_a_screen
from studies import advice, facts

WORDS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=300)


@given(
    WORDS,
    st.lists(WORDS, max_size=40),
    st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=60),
    st.lists(WORDS),
)
def test_it_fits_whatever_it_holds(title, lines, rows, below):
    screen = Screen(title, lines, ("one", "two", "three"), rows, below, "the report")
    text = screen.text().splitlines()
    assert len(text) <= LINES
    assert all(len(line) <= COLUMNS for line in text)
    page = Reader(screen.html())
    assert page.open == 0
    assert set(page.tags) <= {"div", "p", "strong", "table", "thead", "tbody", "tr", "th", "td"}


def test_what_is_left_out_is_counted():
    screen = Screen(
        "title", (), ("name",), [(f"row {number}",) for number in range(100)], more=".rows"
    )
    text = screen.text().splitlines()
    shown = sum(line.startswith("row") for line in text)
    assert text[-1] == f"... and {100 - shown} more: .rows"
    assert 15 <= shown <= LINES - 3
    assert f"... and {100 - Reader(screen.html()).tags.count('td')} more: .rows" in screen.html()


def test_a_short_one_is_whole():
    screen = Screen(
        "title", ("a line",), ("name", "value"), [("first", "1"), ("second", "22")], ("the end",)
    )
    assert screen.text().splitlines() == [
        "title",
        "a line",
        "name    value",
        "first   1",
        "second  22",
        "the end",
    ]


def test_nothing_is_taken_for_a_tag():
    said = "<script>alert('x')</script>"
    page = Screen(said, (said,), (said,), [(said,)], (said,)).html()
    assert "<script" not in page
    assert Reader(page).said.count(said) == 5


def test_bars_are_as_long_as_their_shares():
    bars = [Bar("nothing <known>", 0.1, "10.0 %"), Bar("this network", 0.88, "88.0 %", 0.84, 0.91)]
    page = Screen("title", bars=bars).html()
    assert [float(width) for width in re.findall(r"<rect width='([\d.]+)'", page)] == [
        0.1 * BAR_PX,
        0.88 * BAR_PX,
    ]
    (interval,) = re.findall(r"M([\d.]+) 8H([\d.]+)", page)
    assert [float(end) for end in interval] == [
        pytest.approx(0.84 * BAR_PX, 1e-3),
        pytest.approx(0.91 * BAR_PX, 1e-3),
    ]
    assert Reader(page).open == 0
    assert "nothing <known> 10.0 %" in Reader(page).said


@pytest.mark.parametrize("classes", [2, 400])
def test_a_fingerprint_is_a_screen(classes):
    many = {f"measure_{number}": 0.1 * number for number in range(40)}
    shown = facts((64, 48, 3), [30] * classes, **many)
    assert is_a_screen(shown)
    assert f"images of 64x48x3 px to learn from, in {classes} classes" in repr(shown)
    assert "measure_3 " in repr(shown)


def test_advice_is_a_screen_and_says_first_what_people_ask():
    given_advice = advice(shape=(28, 28, 1))
    assert is_a_screen(given_advice)
    first = repr(given_advice).splitlines()
    rows = [
        line.split()[0]
        for line in first[first.index(next(x for x in first if x.startswith("parameter"))) + 1 :]
    ]
    asked = {
        "stage.kernel_size",
        "stem.kernel_size",
        "stage.filters",
        "stem.strides",
        "padding",
        "activation",
    }
    assert set(rows[: len(asked)]) == asked
    assert str(given_advice.configuration["stage.filters"]) in repr(given_advice)
