"""Images as batches: shifted and mirrored by one gather, edges reflected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch

Flip = Literal["never", "random", "alternating"]


class Views:
    """Endless epochs in random order over uint8 pixels (n, rows, columns, channels), labels (n,).

    flip: 'random' mirrors half of the images of each batch; 'alternating' mirrors a random half in
    the first epoch and in each later epoch just those that the epoch before did not (Jordan 2024,
    arXiv 2404.00498, section 3.6). The last, smaller batch of an epoch is left out.
    """

    def __init__(
        self, pixels: np.ndarray, labels: np.ndarray, flip: Flip, shift_px: int, seed: int
    ) -> None:
        self.pixels = torch.from_numpy(np.ascontiguousarray(pixels))
        self.labels = torch.from_numpy(np.asarray(labels, np.int64))
        self.flip, self.shift_px = flip, shift_px
        self.generator = torch.Generator().manual_seed(seed)
        self.mirrored = torch.rand(len(self.labels), generator=self.generator) < 0.5

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """float (size, channels, rows, columns) in channels_last, 0 to 255, and labels (size,)."""
        size = min(size, len(self.labels))
        while True:
            order = torch.randperm(len(self.labels), generator=self.generator)
            for start in range(0, len(order) - size + 1, size):
                index = order[start : start + size]
                yield self.view(index), self.labels[index]
            self.mirrored = ~self.mirrored

    def view(self, index: torch.Tensor) -> torch.Tensor:
        """The images of `index`, each with a shift of its own, in rows and in columns."""
        rows, columns = (self.positions(n, len(index)) for n in self.pixels.shape[1:3])
        if self.flip != "never":
            random = torch.rand(len(index), generator=self.generator) < 0.5
            mirror = random if self.flip == "random" else self.mirrored[index]
            columns = torch.where(mirror[:, None], columns.flip(1), columns)
        taken = self.pixels[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return taken.permute(0, 3, 1, 2).float()  # a permuted (n, h, w, c) is channels_last

    def positions(self, size: int, count: int) -> torch.Tensor:
        """Where each output row reads: int64 (count, size), reflected at both edges."""
        most = min(self.shift_px, size - 1)
        shift = torch.randint(-most, most + 1, (count, 1), generator=self.generator)
        inside = (torch.arange(size) + shift).abs()
        return size - 1 - (size - 1 - inside).abs()
