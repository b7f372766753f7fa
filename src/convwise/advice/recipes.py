"""RECIPE_RULES: how the advised networks are trained, but for what trials vary; as in rules.py."""

from __future__ import annotations

from math import sqrt

from convwise.advice.situation import Rule, Situation, always, numbers
from convwise.advice.thresholds import UNEVEN_FROM
from convwise.core.goal import SCORES
from convwise.core.recipe import AVERAGE_EVERY

SHIFT_SHARE = 0.07  # of the shorter side, by which images are shifted at most
BOXED_FROM = 15  # epochs from which images with a box of another help


def batch_size(s: Situation) -> int:
    """Twenty steps an epoch, between 32 and 256 images a step; a multiple of 16."""
    return min(max(16 * round(s.images / 20 / 16), 32), 256)


def shift_px(size: tuple[int, int]) -> int:
    """SHIFT_SHARE of the shorter side, one pixel at least."""
    return max(1, round(SHIFT_SHARE * min(size)))


def filter_rate(s: Situation) -> float:
    """Muon's 0.24 for twenty steps an epoch.

    Where a batch is a smaller share of the images, by the root of it less.
    """
    share = 20 * batch_size(s) / s.images
    return round(0.24 * min(sqrt(share), 1.0), 2)


def imbalance(s: Situation) -> float:
    """Images of the largest class over those of the smallest."""
    return max(s.facts.classes.values()) / max(min(s.facts.classes.values()), 1)


def class_weights(s: Situation) -> tuple[float, ...]:
    """Weights ~ 1 / sqrt(images of the class), mean 1, where uneven classes count alike."""
    if s.score == "accuracy" or imbalance(s) < UNEVEN_FROM:
        return ()
    raw = [max(count, 1) ** -0.5 for count in s.facts.classes.values()]
    return tuple(round(len(raw) * value / sum(raw), 4) for value in raw)


def why_weights(s: Situation) -> str:
    """The reason of `class_weights`, whichever they are."""
    times = f"the largest class has {imbalance(s):.1f} times the images of the smallest"
    if s.score == "accuracy":
        return (
            f"{times}; the goal counts every image equally, and so does the loss: weights would"
            " cost accuracy"
        )
    what = f"the goal, {SCORES[s.score]}, counts every class equally"
    if imbalance(s) < UNEVEN_FROM:
        return f"{times}, which is even enough for a loss that counts every image equally; {what}"
    return f"{times}; {what}, so images of rare classes weigh more in the loss"


def views(s: Situation) -> float:
    """How often the final training sees each image, about."""
    return s.epochs(int(s.chosen["stage.filters"]))


# The fields of the training recipe, as parameters that no trial varies.
RECIPE_RULES: tuple[Rule, ...] = (
    Rule(
        "batch_size",
        always,
        batch_size,
        lambda s: f"{s.images:,} images give {s.images // batch_size(s)} steps per epoch",
        "airbench94 (Jordan 2024) takes 1024 of 50,000: about fifty steps an epoch",
        "images",
    ),
    Rule(
        "optimizer",
        always,
        lambda s: "muon",
        lambda s: (
            "filters move along the orthogonalised gradient: nothing else tried helps a short"
            " training as much"
        ),
        "Jordan 2024, Muon; ours: docs/findings.md, 'the recipe decides'",
        "findings",
    ),
    Rule(
        "filter_rate",
        always,
        filter_rate,
        lambda s: (
            f"a batch is 1/{round(s.images / batch_size(s))} of the images: the smaller this share,"
            " the noisier a step and the lower the rate must be; with few images a high rate keeps"
            " the network from memorising them"
        ),
        "Jordan 2024, Muon; ours: docs/findings.md, 'many images want a smaller rate'",
        "images",
    ),
    Rule(
        "average",
        always,
        lambda s: True,
        lambda s: (
            f"every {AVERAGE_EVERY} steps the weights are set to their running average, which evens"
            " out a high learning rate"
        ),
        "Zhang et al. 2019; airbench94 (Jordan 2024)",
        "literature",
    ),
    Rule(
        "label_smoothing",
        numbers,
        lambda s: 0.0,
        lambda s: "the target is a number, so there is no probability to spread over other classes",
        "Szegedy et al. 2016",
        "target",
    ),
    Rule(
        "label_smoothing",
        always,
        lambda s: 0.2,
        lambda s: "keeps the network from becoming too confident about single images",
        "Szegedy et al. 2016; airbench94 (Jordan 2024)",
        "literature",
    ),
    Rule(
        "shift_px",
        always,
        lambda s: shift_px(s.size),
        lambda s: (
            f"images are shifted a little, by up to {100 * SHIFT_SHARE:.0f} % of the shorter side,"
            " so the network does not depend on exact positions"
        ),
        "airbench94 (Jordan 2024): translate 2 of 32 px",
        "input_shape",
    ),
    Rule(
        "cutmix",
        numbers,
        lambda s: 0.0,
        lambda s: (
            "the target is a number, and that of an image with a box from another one is unknown"
        ),
        "Yun et al. 2019, CutMix, is for classes",
        "target",
    ),
    Rule(
        "cutmix",
        lambda s: views(s) >= BOXED_FROM,
        lambda s: 0.5,
        lambda s: (
            f"each image is seen more than {BOXED_FROM} times, so in half of the batches a box cut"
            " from another image is pasted into it: the network cannot rely on a single part of it"
        ),
        "Yun et al. 2019, CutMix; ours: docs/findings.md, 'boxes of other images'",
        "findings",
    ),
    Rule(
        "cutmix",
        always,
        lambda s: 0.0,
        lambda s: (
            f"each image is seen about {views(s):.0f} times, too few to be memorised; boxes from"
            f" other images help from about {BOXED_FROM} times on"
        ),
        "ours: docs/findings.md, 'boxes of other images'",
        "findings",
    ),
    Rule(
        "class_weights",
        numbers,
        lambda s: (),
        lambda s: "the target is a number, so every image counts equally",
        "ours",
        "target",
    ),
    Rule(
        "class_weights",
        always,
        class_weights,
        why_weights,
        "King & Zeng 2001; Cui et al. 2019",
        "classes",
    ),
)
