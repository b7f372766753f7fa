"""Convolutions whose maps are narrow learn faster when several images lie side by side.

oneDNN reduces the gradient of a kernel along the width of the map; matrix units (AMX) take 32
columns at a time, so that a map of 6 columns leaves most of them idle. Eight images side by side,
with the padding between them, are one map of 56 columns: the same sums in another order.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

WIDEST = 8  # columns of a map that is called narrow
BESIDE = 8  # images side by side, at most
LEAST_GAIN = 1.1  # below, it is not worth another order of sums


def quicken(model: nn.Module) -> None:
    """Give the convolutions of `model` the faster gradients, in place."""
    for module in model.modules():
        if type(module) is nn.Conv2d and _keeps_the_size(module):
            module.__class__ = NarrowConv2d


def _keeps_the_size(conv: nn.Conv2d) -> bool:
    same = tuple(size // 2 for size in conv.kernel_size)
    return (
        (conv.stride, conv.dilation, conv.groups) == ((1, 1), (1, 1), 1)
        and conv.padding == same
        and any(same)
    )


class NarrowConv2d(nn.Conv2d):
    """A convolution with the faster gradients, if autocast asks for bf16 and the map is narrow."""

    def _conv_forward(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if input.shape[-1] > WIDEST or not torch.is_autocast_enabled("cpu"):
            return super()._conv_forward(input, weight, bias)  # type: ignore[no-any-return]
        low = [each if each is None else each.bfloat16() for each in (input, weight, bias)]
        return SideBySide.apply(*low)  # type: ignore[no-any-return, no-untyped-call]


class SideBySide(torch.autograd.Function):
    """conv2d of stride 1 that keeps the size: x (n, c, h, w), kernel (o, c, odd, odd), bias (o,) or
    None.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.biased = bias is not None
        return torch.conv2d(x, kernel, bias, padding=_padding(kernel))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,), (x, kernel) = gradients, ctx.saved_tensors
        of_x = (
            _gradients(gradient, x, kernel, (True, False, False))[0]
            if ctx.needs_input_grad[0]
            else None
        )
        gap = kernel.shape[-1] // 2
        wide = side_by_side(gradient, gap), side_by_side(x, gap)
        _, of_kernel, of_bias = _gradients(*wide, kernel, (False, True, ctx.biased))
        return of_x, of_kernel, of_bias


def side_by_side(maps: torch.Tensor, gap: int) -> torch.Tensor:
    """(n, c, h, w) as (n / k, c, h, k (w + gap)): k images in a row, each with `gap` columns of
    zeros behind it.
    """
    n, channels, height, width = maps.shape
    k = next(k for k in range(min(BESIDE, n), 0, -1) if n % k == 0)
    rows = maps.new_zeros((n // k, height, k, width + gap, channels))
    rows[:, :, :, :width] = (
        maps.permute(0, 2, 3, 1).reshape(n // k, k, height, width, channels).transpose(1, 2)
    )
    return rows.view(n // k, height, k * (width + gap), channels).permute(0, 3, 1, 2)


def _gradients(gradient: torch.Tensor, x: torch.Tensor, kernel: torch.Tensor,
               wanted: tuple[bool, bool, bool]) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """Of x, kernel and bias, those that are wanted."""
    found: tuple[torch.Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient,
        x,
        kernel,
        [len(kernel)],
        (1, 1),
        _padding(kernel),
        (1, 1),
        False,
        (0, 0),
        1,
        wanted,
    )
    return found


def _padding(kernel: torch.Tensor) -> tuple[int, int]:
    return kernel.shape[2] // 2, kernel.shape[3] // 2


def pays() -> bool:
    """Whether it is faster on this processor: both ways in turns on one thread, the best of five
    each.

    By the time that the thread ran: what is kept of this must not depend on what else the machine
    does.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    x, kernel = (
        torch.rand(64, 128, 6, 6, dtype=torch.bfloat16),
        torch.rand(128, 128, 3, 3, dtype=torch.bfloat16),
    )
    x = x.to(memory_format=torch.channels_last)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for beside in 5 * (False, True):
        before = time.thread_time()
        _gradients(
            *((side_by_side(x, 1), side_by_side(x, 1)) if beside else (x, x)),
            kernel,
            (False, True, False),
        )
        seconds[beside].append(time.thread_time() - before)
    torch.set_num_threads(threads)
    return min(seconds[False]) > LEAST_GAIN * min(seconds[True])
