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
