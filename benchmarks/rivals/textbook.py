"""Nets that people copy from textbooks, as people train them: Adam at its usual rate, batch 32.

The classes and channels are those of the images, the input size is the textbook's, and shifts and
flips are those of the other rivals.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convwise.core.layers import Rescaling
from convwise.core.net import Net
from convwise.core.textbook import KNOWN
from convwise.formats import torch as torch_format
from rivals.job import Job, Learnt
from rivals.loop import Plan, trained

sys.path.append(str(Path(__file__).parents[2]))  # for the examples
from examples.textbook import TEXTBOOK  # noqa: E402

NETS: dict[str, Net] = {
    **TEXTBOOK,
    "lenet_5": KNOWN["lenet5"].net((28, 28, 1), 10),
    "keras_mnist": KNOWN["keras-mnist"].net((28, 28, 1), 10),
}
RATE, BATCH = 1e-3, 32


def run(job: Job) -> Learnt:
    """options: net, one of NETS."""
    images = job.images
    net = adapted(NETS[job.options["net"]], images.base_shape[2], len(images.classes))
    part = images.unsealed().at(*net.input_shape[:2])
    torch.manual_seed(job.seed)
    model = torch_format.build(net, logits=True)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):  # as Keras begins
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    plan = Plan(BATCH, "random" if job.mirror else "never")
    return trained(model, part, plan, [adam(model)], job)


def adapted(net: Net, channels: int, classes: int) -> Net:
    """The net for so many channels and classes, with pixels / 255 in front."""
    *body, last = (replace(layer, inputs=()) for layer in net.layers)
    layers: list[Any] = [Rescaling(1 / 255), *body, replace(last, units=classes)]
    return Net((*net.input_shape[:2], channels), tuple(layers))


def adam(model: nn.Module) -> torch.optim.Optimizer:
    """Adam at a constant rate."""
    group = {"params": list(model.parameters()), "peak": RATE, "rate": lambda done: 1.0}
    return torch.optim.Adam([group], lr=RATE)
