"""The weights that a training starts from."""

from __future__ import annotations

import math

import torch
from torch import nn

from convwise.core.recipe import Recipe
from convwise.training.batches import Mapped

PATCH_IMAGES = 2000  # training images that the whitening is computed from, at most
# Added to each variance before anything is divided by it, so that noise is not blown up
SMALLEST_VARIANCE = 5e-4


def initialise(model: nn.Module, recipe: Recipe, images: torch.Tensor | Mapped) -> None:
    """Initial weights, in place; images: uint8 (n, height, width, channels), in any order.

    He et al. 2015 for convolutions (variance 2 / fan out, of one group), zero biases, Dense as in
    PyTorch. With identity_start a convolution begins by passing its input channels on (Zagoruyko &
    Komodakis 2017), and the last Dense begins with small weights, as airbench94 (Jordan 2024).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if recipe.identity_start and module.groups == 1 and module.kernel_size[0] > 1:
                nn.init.dirac_(module.weight.data[: module.in_channels])
    if recipe.identity_start:
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
        for module in last:
            module.weight.data.mul_(1 / 9)
    if recipe.whitened:
        whiten(model, recipe.whitened, images)


def freeze(model: nn.Module, recipe: Recipe) -> None:
    """The whitening filters stay as they are; their bias is learnt."""
    if recipe.whitened:
        model.get_submodule(recipe.whitened).weight.requires_grad_(False)


@torch.no_grad()
def whiten(model: nn.Module, name: str, images: torch.Tensor | Mapped) -> None:
    """Give the convolution `name` filters that decorrelate the patches it sees and bring them to
    variance 1.

    They are the eigenvectors of the patches' covariance over their deviations, first with one sign
    and then with the other, largest variance first. The patches are what the layers before `name`
    make of every k-th image.
    """
    conv = model.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    x = images[:: max(1, len(images) // PATCH_IMAGES)].permute(0, 3, 1, 2).float()
    for other, module in model.named_children():
        if other == name:
            break
        x = module(x)
    rows, columns = conv.kernel_size
    patches = (
        x.unfold(2, rows, 1)
        .unfold(3, columns, 1)
        .permute(0, 2, 3, 1, 4, 5)
        .flatten(3)
        .flatten(0, 2)
    )
    patches = patches[:: max(1, len(patches) // 200_000)].double()
    variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (directions / torch.sqrt(variances + SMALLEST_VARIANCE)).T.flip(0)
    filters = filters.reshape(-1, conv.in_channels, rows, columns)
    both = torch.cat([filters, -filters])[: conv.out_channels]
    conv.weight.data[: len(both)] = both.to(conv.weight.dtype)
