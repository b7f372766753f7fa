"""Intervals in which a share lies."""

from __future__ import annotations

from math import hypot, sqrt

Z95 = 1.959963984540054  # of a normal distribution, 95 % lie within


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share, `right` of `n` (Wilson, JASA 1927)."""
    if not n:
        return 0.0, 1.0
    share = right / n
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def difference(one: tuple[int, int], other: tuple[int, int]) -> tuple[float, float]:
    """The 95 % interval of one share less another, each (right, n), of images that are not the
    same.

    From Wilson's interval of each by square and add (Newcombe, Statistics in Medicine 17 (1998)
    873-890, method 10).
    """
    if not one[1] or not other[1]:
        return -1.0, 1.0
    (low, high), (other_low, other_high) = wilson(*one), wilson(*other)
    share, other_share = one[0] / one[1], other[0] / other[1]
    below, above = (
        hypot(share - low, other_high - other_share),
        hypot(high - share, other_share - other_low),
    )
    return share - other_share - below, share - other_share + above
