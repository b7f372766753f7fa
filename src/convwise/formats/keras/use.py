"""One use of a Keras layer or operation, and what it becomes in our terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from convwise.core.layers import Layer
from convwise.core.problems import ConvwiseError
from convwise.core.windows import Shape


class Unreadable(Exception):
    """An operation that our layers cannot say: it becomes an Opaque layer."""


# What a rule ends in where it cannot say an operation: Keras also keeps values that are no numbers.
UNREADABLE = (Unreadable, ConvwiseError, ArithmeticError, TypeError, ValueError)


@dataclass(frozen=True)
class Use:
    """One use of a Keras layer or operation.

    shapes: of the maps it is called on, without the batch. arguments: the positional ones of the
    call, Keras's tensors among them.
    """

    op: Any
    shapes: Sequence[Shape]
    arguments: Sequence[Any] = ()

    @property
    def shape(self) -> Shape:
        return self.shapes[0]

    @property
    def keys(self) -> tuple[Any, ...]:
        """What x[...] is asked for, an item for each axis, the batch's first."""
        # From a file, Keras reads them as a list
        given = self.arguments[1] if len(self.arguments) > 1 else ()
        keys = tuple(given) if isinstance(given, (tuple, list)) else (given,)
        at = next((i for i, key in enumerate(keys) if key is Ellipsis), len(keys))
        rest = keys[at + 1 :]
        return (*keys[:at], *(slice(None),) * (len(self.shape) + 1 - at - len(rest)), *rest)


@dataclass(frozen=True)
class Piece:
    """A layer that a use becomes.

    reads: inputs of the use by number, -1 for the piece before.
    """

    layer: Layer
    reads: tuple[int, ...]


Rule = Callable[[Use], Sequence[Layer | Piece]]
