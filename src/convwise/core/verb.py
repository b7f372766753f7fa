"""The public verbs refuse an option that they do not have, and name those that they have."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from typing import ParamSpec, TypeVar

from convwise.core.problems import UnusableInput

P = ParamSpec("P")
T = TypeVar("T")


def verb(work: Callable[P, T]) -> Callable[P, T]:
    """`work` with its own signature; UnusableInput where it is given an option that it lacks."""
    known = list(inspect.signature(work).parameters)

    @wraps(work)
    def call(*args: P.args, **options: P.kwargs) -> T:
        for name in options:
            if name not in known:
                near = get_close_matches(name, known, 1)
                raise UnusableInput(f"convwise.{work.__name__}", f"does not take {name}",
                                    "some of " + ", ".join(known),
                                    f"{near[0]}=..." if near else "")  # fmt: skip
        return work(*args, **options)

    return call
