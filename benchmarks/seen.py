"""Whether the units of a module's last map see the px that a field says, by the NaNs that reach
them.

A NaN in the image spreads through convolutions, pools, activations and joins to every number that
is made of it, and to no other, also where a weight is 0. Left out is what core/field.py leaves out
as well, or says of all units alike: global pooling, the statistics of group normalisations, and
what places see that attend to all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from convwise.core.calculus import Analysis, LayerCost
from convwise.core.field import Axis

UPSAMPLED = ("upsample_bilinear2d", "_upsample_bilinear2d_aa")
STATISTICS = ("native_group_norm",)
PRODUCTS = ("bmm", "_scaled_dot_product_flash_attention_for_cpu")  # of places with places


class _Spreading(TorchDispatchMode):
    """Runs a module so that NaNs spread through windows alone, and keeps the last map of some
    sides.
    """

    def __init__(self, sides: Sequence[int]) -> None:
        super().__init__()
        height, width, channels = sides
        self.maps = {(channels, height, width): (2, 3), (height, width, channels): (1, 2)}
        self.last: tuple[Tensor, tuple[int, int]] | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = args[0] if args and isinstance(args[0], Tensor) else None
        lost = (
            given if given is not None and given.ndim == 4 and bool(given.isnan().any()) else None
        )
        made = (
            func(*args, **(kwargs or {}))
            if lost is None
            else _spread_on(func, lost, args[1:], kwargs or {})
        )
        if func.overloadpacket.__name__ in PRODUCTS:
            made = (
                made.nan_to_num() if isinstance(made, Tensor) else (made[0].nan_to_num(), *made[1:])
            )
        if (
            isinstance(made, Tensor)
            and made.is_floating_point()
            and tuple(made.shape[1:]) in self.maps
        ):
            self.last = made, self.maps[tuple(made.shape[1:])]
        return made


def _spread_on(func: Any, given: Tensor, more: Sequence[Any], kwargs: Any) -> Any:
    """What an operator gives for a map with NaNs, where they reach what reads them and nothing
    else.
    """
    name = func.overloadpacket.__name__
    if name in PRODUCTS:
        return func(given, *more, **kwargs)
    if name in UPSAMPLED:  # px of weight 0 are not seen
        reached = func(given.isnan().float(), *more, **kwargs) > 0
        return func(given.nan_to_num(), *more, **kwargs).masked_fill(reached, torch.nan)
    if name in STATISTICS:
        made = func(given.nan_to_num(), *more, **kwargs)
        return (made[0] + 0 * given, *made[1:])
    made = func(given, *more, **kwargs)
    return made.nan_to_num() if isinstance(made, Tensor) and _pooled(given, made) else made


def _pooled(given: Tensor, made: Tensor) -> bool:
    """Whether a whole map was made one row of numbers."""
    if made.ndim == 2:
        return min(given.shape[2:]) > 1 and made.numel() * 4 <= given.numel()
    ways = ((2, 3), (1, 2))
    return made.ndim == 4 and any(
        made.shape[a] == made.shape[b] == 1 and given.shape[a] * given.shape[b] > 1 for a, b in ways
    )


def differs(module: nn.Module, shape: Sequence[int], analysis: Analysis) -> str:
    """What of the px that the first and the last unit see is not so; '' where all is, '-' where
    there is no such map.

    shape: (height, width, channels) of the image.
    """
    height, width, channels = shape
    row = next(row for row in reversed(analysis.layers) if row.field is analysis.total.field)
    if len(row.output_shape) != 3 or not row.field.rows.step:
        return "-"
    last_unit = row.output_shape[0] - 1, row.output_shape[1] - 1
    first, last = _seen(row, (0, 0), (height, width)), _seen(row, last_unit, (height, width))
    image = torch.rand(6, channels, height, width)
    for i, ((top, bottom), (left, right)) in enumerate((first, last)):
        own = image[i, :, top : bottom + 1, left : right + 1].clone()
        image[i] = torch.nan
        image[i, :, top : bottom + 1, left : right + 1] = own
    image[2, :, first[0][1]] = torch.nan
    image[3, :, :, first[1][1]] = torch.nan
    image[4, :, last[0][0]] = torch.nan
    image[5, :, :, last[1][0]] = torch.nan
    spread = _spread(module, image, row)
    if spread is None:
        return "-"
    ends = (spread[:, 0, 0], spread[:, -1, -1])
    found = [not ends[0][0], not ends[1][1], ends[0][2], ends[0][3], ends[1][4], ends[1][5]]
    names = ("the first unit sees more", "the last unit sees more",
             f"the first does not see row {first[0][1]}",
             f"the first does not see column {first[1][1]}",
             f"the last does not see row {last[0][0]}",
             f"the last does not see column {last[1][0]}")  # fmt: skip
    return ", ".join(name for name, right in zip(names, found, strict=True) if not right)


def _seen(
    row: LayerCost, unit: tuple[int, int], sides: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    def along(axis: Axis, at: int, size: int) -> tuple[int, int]:
        first, last = axis.moving(at) or (0, 0)
        return min(max(first, 0), size - 1), min(max(last, 0), size - 1)

    return along(row.field.rows, unit[0], sides[0]), along(row.field.columns, unit[1], sides[1])


def _spread(module: nn.Module, image: Tensor, row: LayerCost) -> Tensor | None:
    """For each image, row and column of the last map, whether any of its channels is NaN."""
    # No Winograd: it spreads further
    before, torch.backends.mkldnn.enabled = torch.backends.mkldnn.enabled, False
    try:
        with torch.no_grad(), _Spreading(row.output_shape) as spreading:
            module(image)
    finally:
        torch.backends.mkldnn.enabled = before
    if spreading.last is None:
        return None
    made, (rows, _) = spreading.last
    return made.isnan().any(1 if rows == 2 else 3)
