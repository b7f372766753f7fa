"""Images that were scored, with what they say and what the network answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convwise.core.net import Net
from convwise.output import plots

THUMBNAIL_PX = 112


@dataclass(frozen=True)
class Scored:
    """pixels: uint8 (n, h, w, c); labels: (n,), or (n, k) of several numbers; answers:
    probabilities (n, classes), or

    numbers (n, k); names: files; outputs: what the outputs are called: the classes, or the numbers;
    net: what answers.
    """

    pixels: np.ndarray
    labels: np.ndarray
    answers: np.ndarray
    names: tuple[str, ...]
    outputs: tuple[str, ...]
    net: Net

    def picture(self, i: int) -> dict[str, str]:
        """One image and its file, for a page."""
        return {
            "image": plots.png(self.pixels[i], THUMBNAIL_PX),
            "file": self.names[i] if i < len(self.names) else "",
        }

    @property
    def pixelated(self) -> bool:
        """Whether a picture is shown larger than it is."""
        height, width = self.pixels.shape[1:3]
        return bool(max(height, width) < THUMBNAIL_PX)
