"""How a record shows itself: at most one screen, as text, and as HTML for notebooks."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

COLUMNS, LINES = 100, 24  # of a screen of text
ABOVE, BELOW = 8, 8  # lines of text above and below a table, at most
LEAST_CELL = 12  # characters that a column keeps when the table is too wide

STYLE = "max-width: 60em; line-height: 1.4"
LINE = "margin: 0.2em 0"
BAR_PX = 240
CELL = "text-align: left; vertical-align: top; padding: 0.1em 1.5em 0.1em 0"


@dataclass(frozen=True)
class Bar:
    """A share, 0 to 1, of the width, and where it lies with 95 % certainty; drawn in HTML alone:
    the lines say it too.

    said: the value that it stands for.
    """

    label: str
    share: float
    said: str
    low: float | None = None
    high: float | None = None

    def html(self) -> str:
        """The bar in a line of its own, with its interval as a line through its end."""
        width, said = BAR_PX * self.share, f"{escape(self.label)} {escape(self.said)}"
        bar = (
            f"<rect width='{width:.1f}' height='12' y='2' fill='currentColor'"
            " opacity='0.35'></rect>"
        )
        if self.low is not None and self.high is not None:
            low, high = BAR_PX * self.low, BAR_PX * self.high
            bar += (
                f"<path d='M{low:.1f} 8H{high:.1f}M{low:.1f} 4v8M{high:.1f} 4v8'"
                " stroke='currentColor'></path>"
            )
        drawn = f"<svg width='{BAR_PX}' height='16' role='img' aria-label='{said}'>{bar}</svg>"
        return f"<p style='{LINE}'>{drawn} {said}</p>"


@dataclass(frozen=True)
class Screen:
    """What is shown of a record.

    lines: above the table; below: after it; more: where the rest of the rows is; bars: over a
    common axis.
    """

    title: str
    lines: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    below: Sequence[str] = ()
    more: str = ""
    bars: Sequence[Bar] = ()

    def text(self) -> str:
        """At most LINES lines of at most COLUMNS characters."""
        above = [*_wrapped([self.title], 2), *_wrapped(self.lines, ABOVE)]
        below = _wrapped(self.below, BELOW)
        fitting = self._fitting(LINES - len(above) - len(below) - bool(self.columns))
        table = _table([self.columns, *self.rows[:fitting]]) if self.columns and self.rows else []
        return "\n".join([*above, *table, *_wrapped(self._left_out(fitting), 1), *below])

    def html(self) -> str:
        """The same as a piece of HTML in which everything is escaped."""
        fitting = self._fitting(LINES - min(len(self.lines), ABOVE) - min(len(self.below), BELOW))
        head = "".join(f"<th style='{CELL}'>{escape(name)}</th>" for name in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td style='{CELL}'>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.rows[:fitting]
        )
        table = (
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if body else ""
        )
        above = "".join(bar.html() for bar in self.bars) + _paragraphs(self.lines, ABOVE)
        below = _paragraphs([*self._left_out(fitting), *self.below], BELOW)
        return (
            f"<div style='{STYLE}'><p><strong>{escape(self.title)}</strong></p>"
            f"{above}{table}{below}</div>"
        )

    def _fitting(self, lines: int) -> int:
        """How many rows are shown in so many lines: all, or as many as leave a line to say how many
        more there are.
        """
        return len(self.rows) if len(self.rows) <= lines else max(lines - 1, 0)

    def _left_out(self, fitting: int) -> list[str]:
        left = len(self.rows) - fitting
        return [f"... and {left} more" + (f": {self.more}" if self.more else "")] if left else []


class Shown:
    """A record that shows itself by its `screen`; a dataclass says repr=False beside it."""

    def screen(self) -> Screen:
        """What is shown of it."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.screen().text()

    def _repr_html_(self) -> str:
        return self.screen().html()


def plain(value: Any) -> str:
    """A parameter's value as a person writes it."""
    if isinstance(value, (tuple, list)):
        return ", ".join(plain(v) for v in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def _wrapped(texts: Sequence[str], most: int) -> list[str]:
    """Each text on lines of its own, `most` in all; what does not fit ends in '...'."""
    lines = [
        line for text in texts for line in textwrap.wrap(text, COLUMNS, subsequent_indent="  ")
    ]
    return (
        lines
        if len(lines) <= most
        else [*lines[: most - 1], _cut(f"{lines[most - 1]} ...", COLUMNS)]
    )


def _paragraphs(texts: Sequence[str], most: int) -> str:
    shown = (
        [*texts[: most - 1], f"... and {len(texts) - most + 1} more"]
        if len(texts) > most
        else texts
    )
    return "".join(f"<p style='{LINE}'>{escape(text)}</p>" for text in shown)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    while sum(widths) + 2 * (len(widths) - 1) > COLUMNS and max(widths) > LEAST_CELL:
        widths[widths.index(max(widths))] -= 1
    return [
        "  ".join(
            _cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3].rstrip() + "..."
