"""One label for each image: cross entropy, accuracy, the largest class as baseline."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from convwise.core.records import Recipe


def loss(logits: torch.Tensor, labels: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Mean cross entropy of logits (n, classes), smoothed, weighted per class where the recipe says so."""
    weight = torch.tensor(recipe.class_weights, device=logits.device) if recipe.class_weights else None
    return functional.cross_entropy(logits, labels, weight, label_smoothing=recipe.label_smoothing)


def correct(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Whether each example's largest logit is its label: bool (n,)."""
    return logits.argmax(1) == labels


def baseline(labels: np.ndarray) -> float:
    """The share of the largest class: what always answering with it would score; 0 without labels."""
    return float(np.bincount(labels).max() / len(labels)) if len(labels) else 0.0
