"""Trainings as long as another machine makes them, counted in images: a fast machine fills the bank
of a slow one.
"""

from __future__ import annotations

from dataclasses import replace

from convwise.core.calculus import analyse
from convwise.core.records import Pace, Result, Trial


def pace(text: str) -> Pace:
    """'2.8e-11,6.2e-10': seconds of one thread per mac and per byte of activations, as convwise
    keeps them.
    """
    return Pace(*(float(part) for part in text.split(",")))


def counted(trial: Trial, pace: Pace | None, images: int) -> Trial:
    """The same training, as long as a machine of that pace makes it on so many images; without one,
    by the clock.
    """
    if pace is None or trial.seconds is None:
        return trial
    return replace(
        trial, seconds=None, epochs=trial.seconds * _images_per_second(trial, pace) / images
    )


def speed(result: Result, pace: Pace | None) -> float:
    """Images a second: of that pace, or as it was."""
    return _images_per_second(result.trial, pace) if pace else result.images_per_second


def _images_per_second(trial: Trial, pace: Pace) -> float:
    total = analyse(trial.net).total
    return 1 / pace.seconds(total.macs, total.activation_bytes)
