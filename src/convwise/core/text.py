"""Sizes and numbers as text: how people type them, and how they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def times(numbers: Sequence[Any]) -> str:
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
    size, sign = next(((size, sign) for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= size), (1, ""))
    return f"{value / size:.3g}{sign}"
