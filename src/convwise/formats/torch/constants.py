"""What operators make of constants alone, weights among them: no layer comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from convwise.core.windows import Shape
from convwise.formats.torch.program import Node, is_float
from convwise.formats.torch.walk import Array, Walk


def worked_out(walk: Walk, node: Node) -> Array | None:
    """What a node makes of constants alone, where that is plain."""
    rule, shape = CONSTANTS.get(node.operator.removesuffix("_")), walk.program.shapes[node.name]
    if rule is None or prod(shape) > walk.work:
        return None
    arrays = [walk.number(value) for value in list(node.arguments.values())[:2]]
    if not arrays:
        return None
    try:
        made = rule(arrays, node.arguments, shape)
    except (ValueError, TypeError, KeyError, IndexError):
        return None
    known = [each for each in arrays if each is not None]
    if made is not None and not any(np.may_share_memory(made, each) for each in known):
        walk.work -= made.size
    return made


def _arithmetic(function: Callable[..., Array]) -> Callable[..., Array | None]:
    """A function of all that a node reads."""
    return lambda arrays, given, shape: (
        None if any(each is None for each in arrays) else function(*arrays)
    )


def _first(
    function: Callable[[Array, Mapping[str, Any], Shape], Array | None],
) -> Callable[..., Array | None]:
    """A function of the first that a node reads, of its other arguments and of its shape."""
    return lambda arrays, given, shape: (
        None if arrays[0] is None else function(arrays[0], given, shape)
    )


_UNMOVED = _first(lambda array, given, shape: array)
_RESHAPED = _first(lambda array, given, shape: array.reshape(shape))
_CAST = _first(lambda array, given, shape: array if is_float(given) else None)
_REPEATED = _first(lambda array, given, shape: np.broadcast_to(array, shape))
_SHAPED = ("view", "reshape", "flatten", "unsqueeze", "squeeze", "_unsafe_view")
_SAME = ("clone", "contiguous", "detach", "alias", "lift_fresh_copy", "type_as")
CONSTANTS: dict[str, Callable[..., Array | None]] = {
    **dict.fromkeys(_SHAPED, _RESHAPED),
    **dict.fromkeys(_SAME, _UNMOVED),
    **dict.fromkeys(("to", "_to_copy"), _CAST),
    **dict.fromkeys(("expand", "expand_as"), _REPEATED),
    "permute": _first(lambda array, given, shape: array.transpose(given["dims"])),
    "transpose": _first(lambda array, given, shape: array.swapaxes(given["dim0"], given["dim1"])),
    "t": _first(lambda array, given, shape: array.T),
    "numpy_T": _first(lambda array, given, shape: array.T),
    "add": _arithmetic(np.add),
    "sub": _arithmetic(np.subtract),
    "mul": _arithmetic(np.multiply),
    "div": _arithmetic(np.divide),
    "sqrt": _arithmetic(np.sqrt),
    "exp": _arithmetic(np.exp),
    "neg": _arithmetic(np.negative),
    "rsqrt": _arithmetic(lambda array: 1 / np.sqrt(array)),
    "pow": _arithmetic(np.power),
}
