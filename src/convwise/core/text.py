"""Sizes and numbers as text: how people type them, and how they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def brief(value: Any, most: int = 60) -> str:
    """A value as Python writes it, cut where that is long: for errors that quote somebody else."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def times(numbers: Iterable[Any]) -> str:
    """(224, 224, 3) -> '224x224x3'."""
    return "x".join(map(str, numbers))


def parse_size(text: str) -> tuple[int, int]:
    """'64x48' -> (64, 48): rows, columns. The inverse of `times`."""
    rows, columns = text.split("x")
    return int(rows), int(columns)


def square(numbers: Sequence[float]) -> str:
    """(3, 3) -> '3', (3, 5) -> '3x5', (2.5, 3.0) -> '2.5x3'."""
    return times([f"{n:g}" for n in (numbers[:1] if len(set(numbers)) == 1 else numbers)])


def number(value: float) -> str:
    """0.12345 -> '0.123', 27221.1 -> '27,221': three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def short(value: float) -> str:
    """25_450 -> '25.4k', 82_310_000 -> '82.3M'."""
    scaled, sign = in_thousands(value)
    return f"{scaled:.3g}{sign}"


def in_thousands(value: float) -> tuple[float, str]:
    """25_450 -> (25.45, 'k'), -82_310_000 -> (-82.31, 'M'), 640 -> (640, '')."""
    size, sign = next(
        (row for row in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if abs(value) >= row[0]), (1.0, "")
    )
    return value / size, sign


def of_bytes(count: int) -> str:
    """9_999 -> '9,999 B', 60_450_000 -> '60.45 MB': decimal units."""
    if count < 10_000:
        return f"{count:,} B"
    return f"{count / 1e6:,.2f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"
