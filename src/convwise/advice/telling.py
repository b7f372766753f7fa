"""How a measured interval is put into words, so that `look` and the reasons of `advise` say the
same of it.

A direction is told only where the whole 95 % interval lies on one side of what matters; else the
sentence says that this is uncertain. A measure that no rule reads is described and recommends
nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from convwise.core.records import Fingerprint

UNCERTAIN = "too uncertain to say"
FAR_PX = 7  # from which a patch is larger than the usual first kernels, which are 3 and 5 px


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float


def points(share: float) -> str:
    """0.031 -> '3.1', percentage points."""
    return f"{100 * share:.1f}"


def span(interval: Interval) -> str:
    """'2.0 to 4.2', percentage points."""
    return f"{points(interval.low)} to {points(interval.high)}"


def sure(interval: Interval, under: tuple[float, str], over: tuple[float, str]) -> str:
    """The words of `over` where the whole interval is above its number, of `under` where it is
    below; else UNCERTAIN.

    Where both hold, which two numbers allow, it is `over`.
    """
    if interval.low > over[0]:
        return over[1]
    return under[1] if interval.high < under[0] else UNCERTAIN


def lost(loss: Interval) -> str:
    """'loses 3.1 points of accuracy (2.0 to 4.2)', or gains; where it may be either, that."""
    if loss.low > 0:
        return f"loses {points(loss.value)} points of accuracy ({span(loss)})"
    if loss.high < 0:
        return (
            f"gains {points(-loss.value)} points of accuracy ({points(-loss.high)} to"
            f" {points(-loss.low)})"
        )
    return f"shows no clear loss of accuracy ({points(loss.value)} points, {span(loss)})"


def taken(facts: Fingerprint, name: str) -> Interval | None:
    """The measure `name` with its interval; None where it was not taken, or has none."""
    if name not in facts:
        return None
    measure = facts.measure(name)
    if measure.low is None or measure.high is None:
        return None
    return Interval(measure.value, measure.low, measure.high)


def beside_the_stride(facts: Fingerprint) -> str:
    """What half the size cost a probe, to end the reason of a stride, and why it does not decide;
    '' where unknown.

    Images that are resized were halved from their own size, which says nothing of a stride at the
    network's.
    """
    loss = (
        taken(facts, "resolution_sensitivity") if facts.input_shape[:2] == facts.shape[:2] else None
    )
    if loss is None:
        return ""
    return (
        f"; a probe on images at half size {lost(loss)}, but the size of the images alone decides,"
        " because a convolution with a stride still reads every pixel"
    )


def beside_mirroring(facts: Fingerprint) -> str:
    """What mirrored training images were worth to a probe, to end a reason; '' where unknown."""
    gain = taken(facts, "flip_gain")
    if gain is None:
        return ""
    return (
        f"; to a probe, mirrored training images are worth {points(gain.value)} points"
        f" ({span(gain)}), which does not settle it"
    )


def of_scale(facts: Fingerprint, parts: str) -> str:
    """How large the patches are that tell `parts` apart, as far as the interval says on which side
    of FAR_PX.
    """
    scale = facts["discriminative_scale"]
    found = taken(facts, "discriminative_scale") or Interval(scale, scale, scale)
    if found.low >= FAR_PX:
        return f"it takes patches of {scale:.0f} px to tell {parts} apart"
    if found.high < FAR_PX:
        return f"patches of {scale:.0f} px already tell {parts} apart as well as larger ones"
    return (
        f"how large patches must be to tell {parts} apart is {UNCERTAIN} "
        f"({scale:.0f} px, {found.low:.0f} to {found.high:.0f})"
    )
