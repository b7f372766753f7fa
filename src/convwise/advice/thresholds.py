"""From where on a measure says something else and a rule decides otherwise: one number for both."""

from __future__ import annotations

# Longer side up to which images are read as they are, and keep their size through the stem
SMALL_PX = 48
ALIGNED_FROM = 0.15  # share of the variance that class means explain, above which position matters
# From so many times the images of the smallest class in the largest on, the loss is weighted
UNEVEN_FROM = 1.5
