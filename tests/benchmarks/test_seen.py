"""The zoo's oracle for receptive fields: right ones pass, wrong ones are told."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from convwise.core.calculus import Analysis, analyse
from convwise.formats.torch.lift import lift

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from seen import differs  # noqa: E402

SHAPE = 24, 20, 3


class Gated(nn.Module):
    """A map, times what its mean says of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.map(x)
        return x * x.mean((2, 3), keepdim=True).sigmoid()


class Attending(Gated):
    """A map, and what each of its places makes of all."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.map(x)
        rows = x.flatten(2)
        seen = rows @ (rows.transpose(1, 2) @ rows).softmax(1)
        return x + seen.view(x.shape)


NETS = {
    "windows": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(4, 4, 5)
    ),
    "an enlarged map": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.Upsample(scale_factor=2, mode="bilinear")
    ),
    "a global path": Gated,
    "a path to all": Attending,
    "a head": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 7), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    ),
}


def of_size(analysis: Analysis, larger: int) -> Analysis:
    """The same, with a field whose rows end so many px later."""
    field = analysis.total.field
    rows = replace(
        field.rows, phases=tuple(span and (span[0], span[1] + larger) for span in field.rows.phases)
    )
    wrong = replace(field, rows=rows)
    layers = tuple(
        replace(row, field=wrong) if row.field is field else row for row in analysis.layers
    )
    return Analysis(layers, replace(analysis.total, field=wrong))


@pytest.mark.parametrize("name", NETS)
def test_a_field_that_is_right_passes_and_one_that_is_not_is_told(name):
    module = NETS[name]().eval()
    analysis = analyse(lift(module, SHAPE).net)
    assert differs(module, SHAPE, analysis) == ""
    assert "does not see row" in differs(module, SHAPE, of_size(analysis, 1))
    assert "sees more" in differs(module, SHAPE, of_size(analysis, -1))
