"""The record holder's recipe by the clock: the net and training of airbench94, at any size.

Written after K. Jordan, '94% on CIFAR-10 in 3.29 seconds on a single GPU', arXiv 2404.00498 (2024),
and its source (KellerJordan/cifar10-airbench, legacy/airbench94.py and airbench94_muon.py); at
width 1 and 32x32x3 the net is theirs, weight for weight. Ours: rates go by the share of the time
instead of counted epochs, the batch is min(256, n / 40) instead of 1024, from 64 px on a 2x2
average pool stands in front, a group pools only a map of 4 px or more, BatchNorm's epsilon is 1e-5
instead of 1e-12 (with which line drawings give no number, or chance), and one view of an image is
scored instead of six. With Muon on the filters, biases and head keep the rates of airbench94, and
the averaging stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from rivals.job import Job, Learnt, size_for
from rivals.loop import Plan, Prepared, moments, trained
from rivals.muon import Muon

WIDTHS = (64, 256, 256)  # of the three groups
MOMENTUM, DECAY, BIAS_FACTOR = 0.85, 0.0153, 64.0
RATE = 11.5 / (1024 * (1 + 1 / (1 - MOMENTUM)))  # for the summed loss: 11.5 for 1,024 examples
MUON_RATE, MUON_MOMENTUM = 0.24, 0.6
BIAS_SHARE = 3 / 9.9  # of the time, in which the whitening's bias learns: 3 of 9.9 epochs
WHITENED_ON = 5000  # images


def run(job: Job) -> Learnt:
    """options: width, the factor on WIDTHS; muon, whether it steps the filters."""
    images = job.images
    size = size_for(images.base_shape)
    part = images.unsealed().at(*size)
    torch.manual_seed(job.seed)
    pool = 2 if max(size) >= 64 else 1
    net = Record(images.base_shape[2], len(images.classes), job.options["width"])
    net.whiten(patches_of(part.pixels, pool, job.seed))
    model = Prepared(net, part.pixels, pool)
    batch = max(min(256, len(part) // 40), 4)
    flip = "alternating" if job.mirror else "never"
    plan = Plan(batch, flip, shift_px=2, smoothing=0.2, summed=True, average_every=5)
    return trained(model, part, plan, optimizers(net, batch, job.options["muon"], job.dtype), job)


class Norm(nn.BatchNorm2d):
    """BatchNorm whose scale stays 1, and whose statistics follow fast."""

    def __init__(self, width: int) -> None:
        super().__init__(width, momentum=0.4)
        self.weight.requires_grad = False


class Group(nn.Module):
    """conv, pool, norm, GELU, conv, norm, GELU: what is dear is done on the smaller map."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm1 = Norm(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = Norm(after)
        for conv in (self.conv1, self.conv2):  # the first filters begin as the identity
            nn.init.dirac_(conv.weight.data[: conv.in_channels])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        if min(x.shape[2:]) >= 4:
            x = nn.functional.max_pool2d(x, 2)
        x = nn.functional.gelu(self.norm1(x))
        return nn.functional.gelu(self.norm2(self.conv2(x)))


class Record(nn.Module):
    """Normalised images (n, channels, rows, columns) -> logits (n, classes)."""

    def __init__(self, channels: int, classes: int, width: float = 1.0) -> None:
        super().__init__()
        widths = [round(width * each) for each in WIDTHS]
        self.stem = nn.Conv2d(channels, 2 * channels * 4, 2)
        self.stem.weight.requires_grad = False
        nn.init.zeros_(self.stem.bias)
        before = [self.stem.out_channels, *widths]
        self.groups = nn.Sequential(*(Group(a, b) for a, b in zip(before, widths, strict=False)))
        self.head = nn.Linear(widths[-1], classes, bias=False)

    def whiten(self, patches: torch.Tensor, eps: float = 5e-4) -> None:
        """The stem's filters: both signs of the eigenvectors of patches (n, channels, 2, 2), each
        over the root of its eigenvalue, so that what comes out is uncorrelated."""
        flat = patches.flatten(1).double()
        values, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
        filters = (vectors.T / (values[:, None] + eps).sqrt()).flip(0).view(-1, *patches.shape[1:])
        self.stem.weight.data.copy_(torch.cat([filters, -filters]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.groups(nn.functional.gelu(self.stem(x)))
        return self.head(x.amax((2, 3))) / 9


def patches_of(pixels: np.ndarray, pool: int, seed: int) -> torch.Tensor:
    """All 2x2 patches (n, channels, 2, 2) of up to WHITENED_ON normalised images."""
    some = np.random.default_rng(seed).permutation(len(pixels))[:WHITENED_ON]
    mean, deviation = moments(pixels)
    x = torch.from_numpy(pixels[np.sort(some)]).permute(0, 3, 1, 2).float()
    x = (x - mean[:, None, None]) / deviation[:, None, None]
    x = nn.functional.avg_pool2d(x, pool) if pool > 1 else x
    windows = x.unfold(2, 2, 1).unfold(3, 2, 1)  # (n, channels, rows, columns, 2, 2)
    return windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


def optimizers(
    net: Record, batch: int, muon: bool, dtype: str = "float32"
) -> list[torch.optim.Optimizer]:
    """Nesterov SGD; with muon it steps biases and head alone, and Muon the filters, in `dtype`."""
    decay = DECAY * batch / (1024 * (1 + 1 / (1 - MOMENTUM)))
    filters = [p for p in net.groups.parameters() if p.ndim == 4]
    norms = [p for p in net.groups.parameters() if p.ndim == 1 and p.requires_grad]
    stem = {"rate": lambda done: triangle(done) * (done < BIAS_SHARE)}
    rest = [net.head.weight] if muon else [*filters, net.head.weight]
    groups = [group(norms, BIAS_FACTOR * RATE, decay), group(rest, RATE, decay),
              group([net.stem.bias], RATE, decay) | stem]  # fmt: skip
    sgd = torch.optim.SGD(groups, lr=RATE, momentum=MOMENTUM, nesterov=True)
    if not muon:
        return [sgd]
    return [sgd, Muon(filters, MUON_RATE, MUON_MOMENTUM, triangle, getattr(torch, dtype))]


def group(params: list[Any], peak: float, decay: float) -> dict[str, Any]:
    """A group of SGD whose decay per step does not grow with its rate."""
    return {"params": params, "peak": peak, "weight_decay": decay / peak, "rate": triangle}


def triangle(done: float) -> float:
    """The rate's share of its peak after the share `done` of the time: from 0.2 up to 1 at 0.23,
    down to 0.07."""
    return float(np.interp(done, (0, 0.23, 1), (0.2, 1, 0.07)))
