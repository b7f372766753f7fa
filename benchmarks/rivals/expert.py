"""The expert's fixed net: residual 3x3, one-cycle AdamW, label smoothing, for the whole time.

conv to w (stride 2 from 64 px on), conv to 2w, max pool, residual block at 2w, conv to 4w, max
pool, residual block at 4w, global average pool; BatchNorm and ReLU after each convolution.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from rivals.job import Job, Learnt, size_for
from rivals.loop import Plan, Prepared, trained

PEAK, DECAY, WARM_UP = 2e-3, 0.02, 0.15


def run(job: Job) -> Learnt:
    """options: width, the filters of the stem."""
    images = job.images
    size = size_for(images.base_shape)
    part = images.unsealed().at(*size)
    torch.manual_seed(job.seed)
    strides = 2 if max(size) >= 64 else 1
    net = expert(images.base_shape[2], len(images.classes), job.options["width"], strides)
    model = Prepared(net, part.pixels)
    batch = max(min(128, len(part) // 20), 4)
    plan = Plan(batch, "random" if job.mirror else "never", shift_px=2, smoothing=0.1)
    return trained(model, part, plan, [adamw(model)], job)


def expert(channels: int, classes: int, width: int, strides: int = 1) -> nn.Module:
    """float (n, channels, rows, columns) -> logits (n, classes)."""
    net = nn.Sequential(
        conv(channels, width, strides),
        conv(width, 2 * width),
        nn.MaxPool2d(2),
        Residual(2 * width),
        conv(2 * width, 4 * width),
        nn.MaxPool2d(2),
        Residual(4 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


def conv(before: int, after: int, strides: int = 1, active: bool = True) -> nn.Module:
    """3x3 convolution, BatchNorm, ReLU."""
    layers = [nn.Conv2d(before, after, 3, strides, 1, bias=False), nn.BatchNorm2d(after)]
    return nn.Sequential(*layers, nn.ReLU()) if active else nn.Sequential(*layers)


class Residual(nn.Module):
    """x + two 3x3 convolutions of x (He et al. 2016), then ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(width, width), conv(width, width, active=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.body(x)).relu()


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """One cycle: up in a line from a tenth, down by a cosine; biases and norms are not decayed."""
    many = [p for p in model.parameters() if p.ndim > 1]
    few = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": many, "weight_decay": DECAY}, {"params": few, "weight_decay": 0.0}]
    return torch.optim.AdamW([{**g, "peak": PEAK, "rate": one_cycle} for g in groups], lr=PEAK)


def one_cycle(done: float) -> float:
    """The rate's share of its peak after the share `done` of the time."""
    if done < WARM_UP:
        return 0.1 + 0.9 * done / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))
