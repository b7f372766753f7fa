"""What a record shows of itself, read as a person's screen and a browser would."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from convwise.core.shown import COLUMNS, LINES


class Reader(HTMLParser):
    """The text and the tags of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.said, self.open = [], "", 0
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open += 1

    def handle_endtag(self, tag):
        self.open -= 1

    def handle_data(self, data):
        self.said += data


def is_a_screen(shown: Any) -> bool:
    """As text within a terminal's window; as HTML not much longer, and every tag is closed."""
    text, page = repr(shown), Reader(shown._repr_html_())
    assert len(text.splitlines()) <= LINES
    assert max(map(len, text.splitlines()), default=0) <= COLUMNS
    assert page.open == 0
    assert page.tags.count("tr") <= LINES
    return True
