"""What people type for a parameter of a layer: '7', '7x5', '7,5', 'SAME', numpy's numbers."""

from __future__ import annotations

from typing import Any

from convwise.core.parameters import (
    Count,
    Extra,
    Flag,
    Named,
    Number,
    Padding,
    Parameter,
    PoolStrides,
    Size,
    whole,
)
from convwise.core.problems import UnusableInput

# How many whole numbers each kind of parameter takes, and how that is said.
NUMBERS: dict[type[Parameter[Any, Any]], tuple[set[int], str]] = {
    Count: ({1}, "a whole number"),
    Size: ({1, 2}, "a whole number such as 3, or 3x5"),
    PoolStrides: ({1, 2}, "a whole number such as 3, or 3x5"),
    Extra: ({1, 2}, "a whole number such as 3, or 3x5"),
    Padding: ({1, 2, 4}, "same, valid, or numbers: N, ROWS,COLUMNS or TOP,BOTTOM,LEFT,RIGHT"),
}


def understood(declared: Parameter[Any, Any] | None, value: Any, where: str) -> Any:
    """What a parameter's value stands for, as people type it: '7', '7x5', '7,5', 'SAME', '0.5',
    numpy's numbers.

    Of padding one number stands for all sides, as in PyTorch, two for rows and columns. What is no
    word and no such number stays as it is. UnusableInput where a word means nothing.
    """
    if declared is None or value is None or isinstance(declared, Named):
        return value
    word = value.strip().lower() if isinstance(value, str) else value
    if isinstance(declared, Flag):
        return {"true": True, "false": False}.get(str(word).lower(), value)
    if isinstance(declared, Padding) and isinstance(word, str) and word in ("same", "valid"):
        return word
    if type(declared) not in NUMBERS:
        return _number(word, declared, where) if isinstance(word, str) else value
    numbers = _in_word(word) if isinstance(word, str) else _numbers(value)
    many, legal = NUMBERS[type(declared)]
    if len(numbers) not in many:
        if not isinstance(value, str):
            return value
        raise UnusableInput(where, f"is {value!r}", legal)
    if isinstance(declared, Padding):
        return numbers if len(numbers) == 4 else (numbers[0], numbers[0], numbers[-1], numbers[-1])
    return numbers if len(numbers) == 2 else numbers[0]


def _number(word: str, declared: Parameter[Any, Any], where: str) -> Any:
    if not isinstance(declared, Number):
        return word
    try:
        return float(word)
    except ValueError:
        raise UnusableInput(where, f"is {word!r}", declared.legal) from None


def _in_word(word: str) -> tuple[int, ...]:
    """The whole numbers in a word, none where it has anything else."""
    parts = word.strip("()[] ").replace("x", ",").replace(" ", "").split(",")
    return (
        tuple(map(int, parts))
        if all(part.isascii() and part.isdigit() and len(part) < 20 for part in parts)
        else ()
    )


def _numbers(value: Any) -> tuple[int, ...]:
    """The whole numbers in a value, in pairs or not; none where it has anything else."""
    each = (
        [value]
        if whole(value) is not None
        else list(value)
        if hasattr(value, "__len__")
        else [None]
    )
    flat = [n for part in each for n in (part if isinstance(part, (tuple, list)) else [part])]
    found = [whole(n) for n in flat]
    return tuple(n for n in found if n is not None) if None not in found else ()
