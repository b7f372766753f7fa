"""Kernels' gradients with images side by side, against PyTorch's own autograd."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convwise.training import narrow


@pytest.mark.parametrize(
    ("images", "channels", "filters", "size", "kernel", "biased"),
    [(16, 3, 5, (6, 6), (3, 3), True), (7, 4, 2, (3, 8), (5, 3), False), (10, 2, 3, (1, 1), (3, 3),
    True),
     (1, 3, 3, (5, 4), (3, 1), False), (12, 2, 4, (4, 3), (7, 5), True)],
)  # fmt: skip
def test_the_gradients_are_those_of_autograd(images, channels, filters, size, kernel, biased):
    conv = nn.Conv2d(
        channels, filters, kernel, padding=tuple(k // 2 for k in kernel), bias=biased
    ).double()
    x = torch.randn(images, channels, *size, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(images, filters, *size, dtype=torch.float64)
    wanted = torch.autograd.grad((conv(x) * weights).sum(), (x, *conv.parameters()))
    out = narrow.SideBySide.apply(x, conv.weight, conv.bias)
    torch.testing.assert_close(out, conv(x))
    found = torch.autograd.grad((out * weights).sum(), (x, *conv.parameters()))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_only_what_keeps_its_size_is_quickened():
    """And what is quickened gives the same model: its names, weights, answers and, in bf16, nearly
    its gradients.
    """
    others = (
        {"stride": 2},
        {"padding": 0},
        {"groups": 2},
        {"kernel_size": 1, "padding": 0},
        {"dilation": 2, "padding": 2},
    )
    convs = [
        nn.Conv2d(4, 4, **{"kernel_size": 3, "padding": 1, **other}) for other in ({}, *others)
    ]
    model = nn.Sequential(*convs)
    x = torch.randn(8, 4, 8, 8)

    def gradients():
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(x)
        out.float().square().sum().backward()
        return out.detach(), [p.grad.clone() for p in model.parameters()]

    before, kept = gradients(), {name: value.clone() for name, value in model.state_dict().items()}
    narrow.quicken(model)
    assert [type(conv) is narrow.NarrowConv2d for conv in convs] == [
        True,
        False,
        False,
        False,
        False,
        False,
    ]
    after = gradients()
    torch.testing.assert_close(after[0], before[0])
    for a, b in zip(after[1], before[1], strict=True):
        assert float((a - b).norm()) <= 0.02 * float(b.norm()) + 1e-6
    assert all(torch.equal(model.state_dict()[name], value) for name, value in kept.items())
