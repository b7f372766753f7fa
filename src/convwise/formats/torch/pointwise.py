"""Numbers one by one: activations, joins, constants. See rules.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf, prod

import numpy as np

from convwise.core import layers as L
from convwise.core.activations import spelled
from convwise.core.layers import Layer
from convwise.formats.torch.module_calls import name_of
from convwise.formats.torch.places import Seen, placed
from convwise.formats.torch.program import Node
from convwise.formats.torch.walk import MOST_MOVED, Array, Found, Rule, Walk


def like(made: Seen, seen: Seen) -> Seen:
    """What a layer made of moved numbers is moved as they were."""
    if seen.places is None:
        return made
    if made.shape == seen.shape:
        return Seen(made.value, made.shape, seen.places)
    if len(made.shape) <= 1 or not seen.order:
        return made
    return Seen(made.value, made.shape, placed(made.shape, seen.order))


def unary(walk: Walk, node: Node, layer: Layer, value: str = "") -> Seen | None:
    """A layer that takes each number on its own, wherever it lies."""
    seen = walk.seen(node.arguments[value] if value else next(iter(node.arguments.values())))
    return seen and like(walk.add(node, layer, seen), seen)


def _activation(name: str, **arguments: tuple[str, float]) -> Rule:
    """arguments: of ours, the operator's name and default of each."""

    def rule(walk: Walk, node: Node) -> Seen | None:
        given = {ours: node.arguments.get(*theirs) for ours, theirs in arguments.items()}
        return unary(walk, node, L.Activation(spelled(name, **given)))

    return rule


def _over_channels(name: str) -> Rule:
    def rule(walk: Walk, node: Node) -> Seen | None:
        seen, dim = walk.first(node), node.arguments.get("dim", -1)
        return unary(walk, node, L.Activation(name)) if seen and over_channels(seen, dim) else None

    return rule


def over_channels(seen: Seen, dim: int) -> bool:
    """Whether the tensor's axis is our last one."""
    rank, order = len(seen.shape), seen.order if len(seen.shape) > 1 else (0,)
    return order is not None and dim % (rank + 1) > 0 and order[dim % (rank + 1) - 1] == rank - 1


def _hard_tanh(walk: Walk, node: Node) -> Seen | None:
    given = node.arguments
    module = node.operator.startswith("hardtanh")
    names = (("min_val", -1.0), ("max_val", 1.0)) if module else (("min", None), ("max", None))
    low, high = (given.get(key, default) for key, default in names)
    low, high = -inf if low is None else low, inf if high is None else high
    if not all(isinstance(n, (int, float)) for n in (low, high)):
        return None
    if low == 0 and (high == 6 or (high == inf and not module)):
        return unary(walk, node, L.Activation("relu6" if high == 6 else "relu"))
    return unary(walk, node, L.Activation(spelled("hard_tanh", min_val=low, max_val=high)))


def _elu(walk: Walk, node: Node) -> Seen | None:
    given = node.arguments
    if not given.get("scale", 1) == given.get("input_scale", 1) == 1:
        return None
    return unary(walk, node, L.Activation(spelled("elu", alpha=given.get("alpha", 1.0))))


def _gelu(walk: Walk, node: Node) -> Seen | None:
    name = "gelu_tanh" if node.arguments.get("approximate") == "tanh" else "gelu"
    return unary(walk, node, L.Activation(name))


def _rrelu(walk: Walk, node: Node) -> Seen | None:
    slope = (node.arguments.get("lower", 1 / 8) + node.arguments.get("upper", 1 / 3)) / 2
    return unary(walk, node, L.Activation(spelled("leaky_relu", negative_slope=slope)))


def _prelu(walk: Walk, node: Node) -> Seen | None:
    seen, alpha = walk.first(node), walk.number(node.arguments["weight"])
    if seen is None or alpha is None or len(seen.shape) not in (1, 3):
        return None
    seen, rank = walk.standard(seen), len(seen.shape)
    shared = tuple(range(1, rank + (alpha.size == 1)))
    alpha = alpha.reshape([1] * (rank - 1) + [-1])
    return walk.add(node, L.PReLU(shared), seen, weights={"alpha": alpha})


def _glu(walk: Walk, node: Node) -> Seen | None:
    seen = walk.seen(node.arguments["self"])
    if seen is None or not over_channels(seen, node.arguments.get("dim", -1)) or seen.order is None:
        return None
    return like(walk.add(node, L.GLU(), seen), seen)


def _dropout(kind: Callable[[float], Layer]) -> Rule:
    def rule(walk: Walk, node: Node) -> Seen | None:
        rate, seen = float(node.arguments.get("p", 0.5)), walk.first(node)
        maps = kind is not L.SpatialDropout2D or (seen is not None and len(seen.shape) == 3)
        return unary(walk, node, kind(rate)) if 0 <= rate < 1 and maps else seen

    return rule


# --- several inputs, and constants ----------------------------------------------------------


def _join(kind: type[Layer]) -> Rule:
    def rule(walk: Walk, node: Node) -> Found:
        first, second = (walk.seen(value) for value in list(node.arguments.values())[:2])
        if node.arguments.get("alpha", 1) != 1:
            return None
        if first and second:
            return joined(walk, node, kind, [first, second])
        constant = CONSTANT_JOINS.get(kind)
        return constant(walk, node) if constant else None

    return rule


def joined(walk: Walk, node: Node, kind: Callable[[], Layer], parts: Sequence[Seen]) -> Seen | None:
    """Several tensors into one, in our order, or all moved alike."""
    if len({len(part.torch_shape) for part in parts}) > 1:
        return None
    alike = parts[0].order is not None and len({part.order for part in parts}) == 1
    if not alike and len(parts[0].torch_shape) > 3:
        first = parts[0]
        same = all(
            part.shape == first.shape and np.array_equal(part.index, first.index) for part in parts
        )
        return replace(walk.add(node, kind(), *parts), places=parts[0].places) if same else None
    if not alike:
        parts = [walk.standard(part) for part in parts]
    made = walk.add(node, kind(), *parts)
    moved = next((part for part in parts if part.places is not None), None)
    return like(made, moved) if moved else made


def applied(walk: Walk, node: Node) -> Seen | None:
    """A function of each number, or of those at the same place, that is no layer of ours."""
    shape = walk.program.shapes[node.name][1:]
    parts = [walk.values[name] for name in dict.fromkeys(node.reads) if name in walk.values]
    main = next((part for part in parts if part.torch_shape == shape), None)
    if main is None or not all(_at_its_place(part, main) for part in parts if part is not main):
        return None
    layer = L.Opaque(node.operator, main.shape, 0, 0, max(1, len(parts) - 1) * prod(shape), "same")
    others = [part for part in parts if part is not main]
    return replace(walk.add(node, layer, main, *others), places=main.places)


def _at_its_place(part: Seen, main: Seen) -> bool:
    """Whether each number of a tensor meets only its own row and column, or is of no place."""
    if len(part.shape) == 1 or part.shape[:2] == (1, 1):
        return True
    if len(part.shape) > 3 and part.torch_shape[-2:] == (1, 1):
        return True
    if len(part.shape) != 3:
        return False
    if part.shape[:2] != main.shape[:2] or prod(main.shape) > MOST_MOVED:
        return False
    if part.order is not None and part.order == main.order:
        return True
    try:
        return bool(np.all(part.index // part.shape[2] == main.index // main.shape[2]))
    except ValueError:
        return False


def or_applied(rule: Rule) -> Rule:
    """The rule; where it gives none, a function at each place."""
    return lambda walk, node: rule(walk, node) or applied(walk, node)


def _concatenate(walk: Walk, node: Node) -> Seen | None:
    shapes, tensors = walk.program.shapes, node.arguments["tensors"]
    parts = [walk.seen(each) for each in tensors if 0 not in shapes.get(each.name, ())]
    whole, dim = [part for part in parts if part is not None], node.arguments.get("dim", 0)
    if len({len(part.torch_shape) for part in whole}) > 1:
        return None
    rank = len(whole[0].torch_shape)
    if len(parts) == len(whole) == 1:
        return whole[0]
    if rank == 1:
        whole = [part if len(part.shape) == 1 else walk.standard(part) for part in whole]
    if rank == 3 and dim % 4 == 1 and not all(over_channels(part, dim) for part in whole):
        whole = [walk.standard(part) for part in whole]
    if len(whole) < len(parts):  # the others are constants
        depth, *sides = walk.program.shapes[node.name][1:]
        layer = L.Opaque(node.operator, (*sides, depth), 0, 0, 0, "same")
        plain = rank == 3 and dim % 4 == 1 and all(part.places is None for part in whole)
        return walk.add(node, layer, *whole) if plain else None
    if rank == 1 and any(part.places is not None for part in whole):
        made = walk.add(node, L.Concatenate(), *whole)
        starts = np.cumsum([0, *(part.shape[0] for part in whole)])
        moved = [part.index + start for part, start in zip(whole, starts, strict=False)]
        return Seen(made.value, made.shape, np.concatenate(moved))
    axes = {over_channels(part, dim) for part in whole}
    return joined(walk, node, L.Concatenate, whole) if axes == {True} else None


def _constant(walk: Walk, node: Node) -> tuple[Seen, Array, bool] | None:
    """The tensor, the constant in our order, and whether the constant comes first.

    None where it is no constant.
    """
    first, second = list(node.arguments.values())[:2]
    swapped = walk.seen(first) is None
    first, second = (second, first) if swapped else (first, second)
    seen, value = walk.seen(first), walk.number(second)
    if seen is None or value is None or value.ndim > len(seen.shape) + 1:
        return None
    rank = len(seen.shape)
    value = value.reshape([1] * (rank + 1 - value.ndim) + list(value.shape))[0]
    if rank == 1 and (seen.places is None or value.size <= 1):
        turned = value
    elif rank == 1:
        turned = value[np.argsort(seen.index)]
    elif seen.order is None:
        return None
    else:
        turned = value.transpose(np.argsort(seen.order))
    per_channel = turned.size == turned.shape[-1] and turned.size in (1, seen.shape[-1])
    return (seen, turned.reshape(-1), swapped) if per_channel else None


def _added(sign: int) -> Rule:
    def rule(walk: Walk, node: Node) -> Seen | None:
        found = _constant(walk, node)
        if found is None:
            return None
        seen, value, swapped = found
        if _learnt(walk, node):
            return into_norm(walk, node, seen, "beta", value) if sign == 1 else None
        if swapped:
            return rescaled(walk, node, seen, np.asarray([sign]), value)
        return rescaled(walk, node, seen, np.asarray([1.0]), sign * value)

    return rule


def _multiplied(walk: Walk, node: Node) -> Seen | None:
    found = _constant(walk, node)
    if found is None:
        return None
    seen, value, _ = found
    if not _learnt(walk, node):
        return rescaled(walk, node, seen, value, np.zeros(1))
    if value.size != seen.shape[-1]:
        return None
    made = into_norm(walk, node, seen, "gamma", value)
    return made or like(walk.add(node, L.LayerScale(), seen, weights={"gamma": value}), seen)


def _learnt(walk: Walk, node: Node) -> bool:
    return any(walk.is_learnt(value) for value in list(node.arguments.values())[:2])


def into_norm(walk: Walk, node: Node, seen: Seen, key: str, value: Array) -> Seen | None:
    """The half of a normalisation that our own modules keep behind it: 'bn_scale' behind 'bn'."""
    if not walk.draft.layers:
        return None
    last, suffix = walk.draft.layers[-1], "scale" if key == "gamma" else "shift"
    if not isinstance(last, L.BatchNormalization | L.GroupNormalization):
        return None
    if name_of(node) != f"{last.name}_{suffix}":
        return None
    whole = replace(last, scale=True) if key == "gamma" else replace(last, center=True)
    walk.draft.layers[-1] = whole
    walk.draft.weights[f"{last.name}/{key}"] = np.ascontiguousarray(value, np.float32)
    walk.hold(last.name, walk.origin(node))
    return seen


def _reversed(walk: Walk, node: Node) -> Found:
    """other - self."""
    first, second, *rest = node.arguments.items()
    return _join(L.Subtract)(walk, replace(node, arguments=dict([second, first, *rest])))


def _divided(walk: Walk, node: Node) -> Seen | None:
    if all(walk.seen(value) for value in list(node.arguments.values())[:2]):
        return _soft_sign(walk, node)
    found = None if node.arguments.get("rounding_mode") else _constant(walk, node)
    if found is None or found[2] or not found[1].all():
        return None
    return rescaled(walk, node, found[0], 1 / found[1].astype(np.float64), np.zeros(1))


def _soft_sign(walk: Walk, node: Node) -> Seen | None:
    """x / (1 + |x|), as torch.nn.functional.softsign is taken apart."""
    over, under = node.reads
    added = walk.producer(under)
    if added is None or added.operator != "add" or len(added.reads) != 1:
        return None
    inner = walk.producer(added.reads[0])
    if inner is None or inner.operator != "abs" or inner.reads != (over,):
        return None
    if list(added.arguments.values())[1:2] != [1]:
        return None
    for name in (under, inner.name):
        walk.dropped(name)
    return unary(walk, node, L.Activation("softsign"))


def rescaled(walk: Walk, node: Node, seen: Seen, scale: Array, offset: Array) -> Seen:
    """Times and plus constants, in one with what the same module call did just before."""
    last = walk.draft.layers[-1] if walk.draft.layers else None
    producers = (walk.producer(name) for name in node.reads if name in walk.values)
    before = next(filter(None, producers), None)
    together = before is not None and before.call == node.call and walk.uses[before.name] == 1
    if isinstance(last, L.Rescaling) and together and walk.draft.source(seen.value) == last.name:
        scale, offset = np.asarray(last.scale) * scale, np.asarray(last.offset) * scale + offset
        parts = {**last.__dict__, "scale": _numbers(scale), "offset": _numbers(offset)}
        walk.draft.layers[-1] = L.Rescaling(**parts)
        walk.hold(last.name, walk.origin(node))
        return seen
    return like(walk.add(node, L.Rescaling(_numbers(scale), _numbers(offset)), seen), seen)


def _numbers(values: Array) -> tuple[float, ...]:
    flat = [float(n) for n in np.asarray(values).reshape(-1)]
    return (flat[0],) if len(set(flat)) == 1 else tuple(flat)


def _negative(walk: Walk, node: Node) -> Seen | None:
    seen = walk.seen(node.arguments["self"])
    return seen and rescaled(walk, node, seen, -np.ones(1), np.zeros(1))


CONSTANT_JOINS: dict[type[Layer], Rule] = {
    L.Add: _added(1),
    L.Subtract: _added(-1),
    L.Multiply: _multiplied,
}


POINTWISE: dict[str, Rule] = {
    "relu": _activation("relu"),
    "relu6": _activation("relu6"),
    "hardtanh": _hard_tanh,
    "clamp": _hard_tanh,
    "clamp_min": _hard_tanh,
    "clamp_max": _hard_tanh,
    "leaky_relu": _activation("leaky_relu", negative_slope=("negative_slope", 0.01)),
    "rrelu": _rrelu,
    "elu": _elu,
    "selu": _activation("selu"),
    "celu": _activation("celu", alpha=("alpha", 1.0)),
    "gelu": _gelu,
    "silu": _activation("silu"),
    "hardswish": _activation("hard_silu"),
    "mish": _activation("mish"),
    "softplus": _activation("softplus", beta=("beta", 1.0)),
    "tanh": _activation("tanh"),
    "sigmoid": _activation("sigmoid"),
    "hardsigmoid": _activation("hard_sigmoid"),
    "log_sigmoid": _activation("log_sigmoid"),
    "exp": _activation("exponential"),
    "softshrink": _activation("soft_shrink", threshold=("lambd", 0.5)),
    "hardshrink": _activation("hard_shrink", threshold=("lambd", 0.5)),
    "threshold": _activation("threshold", threshold=("threshold", 0.0), value=("value", 0.0)),
    "softmax": _over_channels("softmax"),
    "_softmax": _over_channels("softmax"),
    "log_softmax": _over_channels("log_softmax"),
    "_log_softmax": _over_channels("log_softmax"),
    "prelu": _prelu,
    "glu": _glu,
    "dropout": _dropout(L.Dropout),
    "feature_dropout": _dropout(L.SpatialDropout2D),
    "alpha_dropout": _dropout(L.AlphaDropout),
    "add": _join(L.Add),
    "sub": _join(L.Subtract),
    "mul": _join(L.Multiply),
    "maximum": _join(L.Maximum),
    "minimum": _join(L.Minimum),
    "div": _divided,
    "rsub": _reversed,
    "neg": _negative,
    "cat": _concatenate,
    "concat": _concatenate,
}
