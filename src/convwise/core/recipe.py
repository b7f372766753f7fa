"""How a trial is trained, apart from its net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AVERAGE_EVERY = 5  # steps after which the weights become their running average


@dataclass(frozen=True)
class Recipe:
    """How a trial is trained, apart from its net.

    optimizer: 'adamw' for every weight, with a one-cycle schedule; or 'muon' for the filters of
    convolutions (Jordan 2024), with AdamW for the rest, and a rate that falls to zero in a line.
    learning_rate: the highest of AdamW; filter_rate: the highest of Muon.
    whitened: name of the convolution whose filters whiten patches of the training images and stay
    as they are, or ''. identity_start: convolutions begin by passing their input on.
    average: every AVERAGE_EVERY steps the weights become their own running average (Zhang et al.
    2019). flip: mirror left-right, in turns; shift_px: random translation up to so many pixels;
    cutmix: share of the batches in which each image gets a box of another one, and that share of
    its label (Yun et al. 2019); class_weights: loss weight per class, or empty for equal weights.
    """

    batch_size: int = 128
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 3e-3
    filter_rate: float = 0.24
    weight_decay: float = 0.02
    label_smoothing: float = 0.1
    whitened: str = ""
    identity_start: bool = False
    average: bool = False
    flip: bool = False
    shift_px: int = 2
    cutmix: float = 0.0
    class_weights: tuple[float, ...] = ()
