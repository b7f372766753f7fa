"""What is learnt of each image. A new kind of target is a file here and a row in TARGETS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from convwise.core.problems import Problem
from convwise.images.sources.found import Found, Reading
from convwise.images.stack import Stack
from convwise.images.targets import label, number
from convwise.images.targets.learnt import SIDES, Learnt

__all__ = ["SIDES", "TARGETS", "Learnt", "Target"]


@dataclass(frozen=True)
class Target:
    """One kind of target. check_found(found, reading): refuse what cannot be learnt before anything
    is decoded;

    check_decoded(found, stack, reading): the same of what could be decoded, or what is to be said
    of it; learnt(stack, found): what each image tells; check: refuse what is left after copies were
    dropped; strata(labels): what a share is drawn of alike; problems: what is to be said of the
    parts, train being
    these rows of the stack; said: what the images tell, in words.
    """

    check_found: Callable[[Found, Reading], None]
    check_decoded: Callable[[Found, Stack, Reading], list[Problem]]
    learnt: Callable[[Stack, Found], Learnt]
    check: Callable[..., None]
    strata: Callable[[NDArray[Any]], NDArray[Any]]
    problems: Callable[..., Iterator[Problem]]
    said: Callable[[Learnt, NDArray[Any]], str]


TARGETS: dict[str, Target] = {
    "label": Target(label.check_found, label.check_decoded, label.learnt, label.check, label.strata,
    label.problems,
                    label.said),
    "number": Target(number.check_found, number.check_decoded, number.learnt, number.check,
    number.strata,
                     number.problems, number.said),
}  # fmt: skip
