"""Numbers and values as the report says them."""

from __future__ import annotations

import math
from typing import Any


def percent(share: float | None, digits: int = 1) -> str:
    """0.973 -> '97.3 %', with a space that does not break."""
    return "–" if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f}\u202f%"


def points(change: float, signed: bool = True) -> str:
    """A change of accuracy in percentage points: 0.021 -> '+2.1'."""
    text = f"{100 * change:{'+' if signed else ''}.1f}" if math.isfinite(change) else "–"
    return text.replace("-", "\u2212")


def short(number: float | None) -> str:
    """25450 -> '25.4 k', 4200000 -> '4.2 M'."""
    if number is None or not math.isfinite(number):
        return "–"
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= factor:
            return f"{number / factor:#.3g}".rstrip(".") + f"\u202f{unit}"
    return f"{number:.3g}"


def whole(number: float | None) -> str:
    """25450 -> '25,450'."""
    return "–" if number is None or not math.isfinite(number) else f"{number:,.0f}"


def sig(number: float | None) -> str:
    """Three significant digits, without an exponent where it can be helped."""
    if number is None or not math.isfinite(number):
        return "–"
    text = whole(number) if abs(number) >= 1000 else f"{number:.3g}"
    return text.replace("-", "\u2212")


def ms(number: float | None) -> str:
    """Milliseconds, always three digits, so that a column of them can be compared: 4.3 -> '4.30'."""
    return "–" if number is None or not math.isfinite(number) else f"{number:#.3g}".rstrip(".")


def plain(value: Any) -> str:
    """A parameter's value as a person writes it."""
    if isinstance(value, (tuple, list)):
        return ", ".join(plain(v) for v in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
