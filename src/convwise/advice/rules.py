"""RULES: when / then / because / source. What a fingerprint says about each parameter.

For each parameter the first rule that holds decides; later rules see what earlier parameters became.
`tests` are the values worth testing beside the value chosen. Trials can refute every rule. A rule
reads a measure only where it was taken: without it another rule says so, and takes the usual value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

from convwise.core.calculus import analyse
from convwise.core.configuration import Draft, Value
from convwise.core.records import Fingerprint, Pace
from convwise.core.space import WIDTHS, Space
from convwise.core.text import parse_size, times

# What can decide beside a measure: facts of the images, this machine, what was asked, tried, published, found by us.
DECIDERS = ("input_shape", "images", "classes", "target", "mean", "variance", "pace", "goal", "trials", "literature",
            "findings")  # fmt: skip
UNMEASURED = "not measured in this budget: "
SMALL_PX = 48  # longer side up to which images are read as they are, and keep their size through the stem
POOLED_FROM = 16  # px of the shorter side from which every stage can halve its map
WIDEST, NARROWEST = 64, 8  # filters of the first stage that a study starts with
STEPS_PER_SECOND_FIRST = "ours: docs/findings.md, 'what decides at a fixed time is the cost of a step'"


@dataclass(frozen=True)
class Situation:
    """What the rules look at: the images, the machine's pace, seconds and threads of the final training.

    score: what networks are compared by, of goal.SCORES.
    """

    facts: Fingerprint
    pace: Pace
    final_seconds: float
    threads: int
    chosen: Draft = field(default_factory=dict)
    score: str = "accuracy"

    @property
    def size(self) -> tuple[int, int]:
        return parse_size(self.chosen["input.size"])

    @property
    def supersampled(self) -> int:
        """How many times `size` the network takes images at: twice, where they are resized."""
        return 1 if self.facts.input_shape[:2] == self.facts.shape[:2] else 2

    @property
    def images(self) -> int:
        return self.facts.images

    @property
    def parts(self) -> str:
        """What probes tell apart."""
        return "the fifths of the numbers" if self.facts.target else "the classes"

    @property
    def map_px(self) -> int:
        """The shorter side of the map after the stem: whitening pads nothing, a learnt stem is 'same'."""
        side, strides = min(self.size), int(self.chosen["stem.strides"])
        if self.chosen["stem"] == "whitening":
            return (side - int(self.chosen["stem.kernel_size"])) // strides + 1
        return -(-side // strides)

    def epochs(self, filters: int) -> float:
        """Predicted epochs of the final training with so many filters in the first stage; all else must be chosen."""
        facts = self.facts
        space = Space(facts.input_shape[2], len(facts.classes), facts.mean, facts.variance, (), target=facts.target,
                      supersampled=self.supersampled)  # fmt: skip
        total = analyse(space.fit({**self.chosen, "stage.filters": filters}).net).total
        seconds = self.pace.seconds(total.macs, total.activation_bytes) * self.images / self.threads
        return self.final_seconds / seconds


@dataclass(frozen=True)
class Rule:
    """For `parameter`: when it holds, then its value, because of this, after this source; tests: also try.

    measure: what decides, as a Reason has it.
    """

    parameter: str
    when: Callable[[Situation], bool]
    then: Callable[[Situation], Any]
    because: Callable[[Situation], str]
    source: str
    measure: str
    tests: Callable[[Situation], tuple[Value, ...]] = lambda s: ()


def always(situation: Situation) -> bool:
    """Holds in every situation."""
    return True


def numbers(situation: Situation) -> bool:
    """Holds where the images have numbers instead of classes."""
    return situation.facts.target is not None


def measured(name: str) -> Callable[[Situation], bool]:
    """Holds where the measure `name` was taken."""
    return lambda s: name in s.facts


def other_sizes(s: Situation) -> tuple[str, ...]:
    """Three quarters and three halves of the proposed size, as far as the images reach; none for small images."""
    rows, columns, _ = s.facts.input_shape
    if max(rows, columns) <= SMALL_PX:
        return ()
    reachable = [f for f in (3 / 4, 3 / 2) if rows * f <= s.facts.shape[0] and columns * f <= s.facts.shape[1]]
    return tuple(times((8 * round(rows * f / 8), 8 * round(columns * f / 8))) for f in reachable)


def stages_for(s: Situation) -> int:
    """Stages of a pooled net: halvings that leave 2 px, at most three of a map under 40 px, four of a larger one.

    Of other nets: one, and one more for each halving that leaves a map of at least 4 px, at most four.
    """
    px, pooled = s.map_px, s.chosen["block"] == "pooled"
    count, most, least = (0, 3 if px < 40 else 4, 2) if pooled else (1, 4, 4)
    while px // 2 >= least and count < most:
        px, count = px // 2, count + 1
    return max(count, 1)


def wanted_epochs(images: int) -> float:
    """How often the training should see every image: 160,000 views, within 8 and 40 epochs."""
    return min(max(160_000 / images, 8), 40)


def fewest_epochs(images: int) -> float:
    """Below this a narrower net is better at equal time, above it a wider (docs/findings.md, 'width and epochs')."""
    return min(wanted_epochs(images), 17)


def width_for(s: Situation) -> int:
    """The most filters with which the final training still sees every image often enough."""
    affordable = [w for w in WIDTHS if NARROWEST <= w <= WIDEST and s.epochs(w) >= fewest_epochs(s.images)]
    return max(affordable, default=NARROWEST)


def why_width(s: Situation) -> str:
    """What holds of the chosen width: it is too much already, or as much as there is time for, or the widest start."""
    width, fewest = s.chosen["stage.filters"], fewest_epochs(s.images)
    epochs = s.epochs(width)
    seen, needs = f"with {width} filters the final training sees each of the {s.images:,} images", f"needs {fewest:.0f}"
    if width == WIDEST and epochs >= fewest:  # how often is not known well of a net whose steps are short
        return f"{seen} more than the {fewest:.0f} times that a wide one needs; even wider ones are left to the trials"
    seen += f" about {epochs:,.0f} times if nothing else runs"
    if epochs < fewest:
        return f"{seen}, although a wide network {needs}; {NARROWEST} is the narrowest width that a study starts with"
    return f"{seen}; a wide network {needs}, which {WIDTHS[WIDTHS.index(width) + 1]} filters would not allow"


def near_widths(s: Situation) -> tuple[int, ...]:
    """The widths of about two thirds and three halves of the chosen one, and half."""
    at = WIDTHS.index(s.chosen["stage.filters"])
    return tuple(WIDTHS[i] for i in (at - 1, at + 1, at - 2) if 1 <= i < len(WIDTHS))


def aligned(s: Situation) -> bool:
    """Whether classes differ by where things are: the class means hold much of the variance."""
    return "alignment" in s.facts and s.facts["alignment"] > 0.15


RULES: tuple[Rule, ...] = (
    Rule(
        "input.size",
        lambda s: "resolution_sensitivity" in s.facts and max(s.facts.shape[:2]) > SMALL_PX,
        lambda s: times(s.facts.input_shape[:2]),
        lambda s: s.facts.input_reason,
        "Richter, ICANN 2021: every net has a preferred input size, driven by its discriminative features",
        "resolution_sensitivity",
        other_sizes,
    ),
    Rule(
        "input.size",
        always,
        lambda s: times(s.facts.input_shape[:2]),
        lambda s: s.facts.input_reason,
        STEPS_PER_SECOND_FIRST,
        "input_shape",
        other_sizes,
    ),
    Rule(
        "block",
        lambda s: min(s.size) >= POOLED_FROM,
        lambda s: "pooled",
        lambda s: (
            "each stage halves its map right after its first convolution, so that normalisation, activation and the "
            "next convolution work on a quarter of it: more images per second at the same cost"
        ),
        "airbench94 (Jordan 2024); ours: docs/findings.md, 'the recipe decides'",
        "input_shape",
        lambda s: ("residual", "separable"),
    ),
    Rule(
        "block",
        always,
        lambda s: "residual",
        lambda s: (
            f"images of {s.chosen['input.size']} px are too small to be halved in every stage; adding a "
            "block's input to its output helps gradients through, and costs no parameters if the shape stays the same"
        ),
        "He et al. 2016",
        "input_shape",
        lambda s: ("plain", "separable"),
    ),
    Rule(
        "stem",
        lambda s: s.chosen["block"] == "pooled",
        lambda s: "whitening",
        lambda s: (
            "filters computed from the images to make neighbouring pixels and channels uncorrelated are as good as "
            "learnt ones from the first step on, and need no gradients"
        ),
        "airbench94 (Jordan 2024), after tysam-code 2023; Coates, Lee & Ng 2011",
        "literature",
    ),
    Rule(
        "stem",
        always,
        lambda s: "learned",
        lambda s: f"at {s.chosen['input.size']} px a whitening stem would cost a small map its last row and column",
        "ours: the smallest images have the least to lose",
        "input_shape",
    ),
    Rule(
        "stem.strides",
        lambda s: prod(s.size) >= SMALL_PX**2,
        lambda s: 2,
        lambda s: f"at {s.chosen['input.size']} px a stride of 2 cuts the cost of every step to a quarter",
        STEPS_PER_SECOND_FIRST,
        "input_shape",
        lambda s: (1,),
    ),
    Rule(
        "stem.strides",
        always,
        lambda s: 1,
        lambda s: f"the images are only {s.chosen['input.size']} px: a stride would leave the stages a map too small",
        "nnU-Net (Isensee et al. 2021): axes under twice the target are not pooled early",
        "input_shape",
        lambda s: (2,) if min(s.size) >= 16 else (),
    ),
    Rule(
        "stem.kernel_size",
        lambda s: s.chosen["stem"] == "whitening",
        lambda s: 2,
        lambda s: "2x2 patches whiten neighbouring pixels; their filters come in both signs, so that nothing is lost",
        "airbench94 (Jordan 2024)",
        "literature",
        lambda s: (3,),
    ),
    Rule(
        "stem.kernel_size",
        lambda s: "discriminative_scale" in s.facts and s.facts["discriminative_scale"] >= 7,
        lambda s: 3,
        lambda s: (
            f"it takes patches of {s.facts['discriminative_scale']:.0f} px to tell {s.parts} apart; a few "
            "layers after a 3x3 kernel see that far, at a lower cost than one large kernel"
        ),
        "Simonyan & Zisserman 2015: small kernels on top of each other",
        "discriminative_scale",
        lambda s: (5, 7, 1),
    ),
    Rule(
        "stem.kernel_size",
        measured("discriminative_scale"),
        lambda s: 3,
        lambda s: (
            f"patches of {s.facts['discriminative_scale']:.0f} px already tell {s.parts} apart as well as "
            "larger ones, and 3x3 is the cheapest kernel that sees neighbours"
        ),
        "Coates, Lee & Ng 2011; Simonyan & Zisserman 2015",
        "discriminative_scale",
        lambda s: (5, 7, 1),
    ),
    Rule(
        "stem.kernel_size",
        always,
        lambda s: 3,
        lambda s: UNMEASURED + "the usual value, the cheapest kernel that sees neighbours",
        "Simonyan & Zisserman 2015",
        "literature",
        lambda s: (5, 7, 1),
    ),
    Rule(
        "stage.kernel_size",
        always,
        lambda s: 3,
        lambda s: "two 3x3 kernels see as far as one 5x5, with 18 weights instead of 25 for each pair of channels",
        "Simonyan & Zisserman 2015",
        "literature",
        lambda s: (5,),
    ),
    Rule(
        "stage.count",
        always,
        stages_for,
        lambda s: (
            f"the map after the stem is {s.map_px} px; it is halved until a few px remain, so that the receptive "
            "field covers the whole image, and few layers come after the one where it does"
        ),
        "nnU-Net (Isensee et al. 2021); Richter et al., arXiv 2106.12307",
        "input_shape",
        lambda s: tuple(n for n in (stages_for(s) - 1, stages_for(s) + 1) if 1 <= n <= 5),
    ),
    Rule(
        "stage.widening",
        lambda s: s.chosen["block"] == "pooled",
        lambda s: 4,
        lambda s: "filters are cheapest on small maps, so there are four times as many from the second stage on",
        "airbench94 (Jordan 2024): 64, 256, 256",
        "literature",
        lambda s: (2,),
    ),
    Rule(
        "stage.widening",
        always,
        lambda s: 2,
        lambda s: "with twice as many filters on a map a quarter of the size, every stage costs about the same",
        "Simonyan & Zisserman 2015; He et al. 2016",
        "literature",
    ),
    Rule(
        "stage.convs",
        always,
        lambda s: 2,
        lambda s: "two convolutions per stage are the usual unit, and what a residual block needs",
        "nnU-Net (Isensee et al. 2021); He et al. 2016",
        "literature",
        lambda s: (1, 3),
    ),
    Rule(
        "downsampling",
        always,
        lambda s: "MaxPooling2D",
        lambda s: (
            "2x2 max pooling keeps a stage's strongest activations and has no weights; with a stride, 1x1 shortcuts "
            "would skip inputs"
        ),
        "airbench94 (Jordan 2024); Zhang 2019 on aliasing",
        "literature",
        lambda s: ("strides", "AveragePooling2D"),
    ),
    Rule(
        "padding",
        always,
        lambda s: "same",
        lambda s: (
            "more windows read the pixels at the border, and the map keeps its size: only strides and pools shrink it"
        ),
        "Keras guide; TensorFlow 'same'",
        "literature",
        lambda s: ("valid",),
    ),
    Rule(
        "normalization",
        always,
        lambda s: "BatchNormalization",
        lambda s: "allows a high learning rate, which a short training needs",
        "Ioffe & Szegedy 2015; ours: docs/findings.md (without it -6.2 points at equal time)",
        "findings",
        lambda s: ("none",),
    ),
    Rule(
        "activation",
        lambda s: s.chosen["block"] == "pooled",
        lambda s: "gelu",
        lambda s: "smooth, and cheap at this point: after the pool it works on a quarter of the map",
        "airbench94 (Jordan 2024); ours: docs/findings.md",
        "literature",
        lambda s: ("relu", "silu", "leaky_relu"),
    ),
    Rule(
        "activation",
        always,
        lambda s: "relu",
        lambda s: "the cheapest; smooth activations gain at most 0.3 points and take 5 to 8 % more time",
        "ours: docs/findings.md",
        "findings",
        lambda s: ("leaky_relu", "silu", "elu", "gelu"),
    ),
    Rule(
        "head",
        lambda s: s.chosen["block"] == "pooled",
        lambda s: "GlobalMaxPooling2D",
        lambda s: "keeps the strongest activation of each filter on the last, small map; needs no weights per position",
        "airbench94 (Jordan 2024)",
        "literature",
        lambda s: ("GlobalAveragePooling2D", "Flatten"),
    ),
    Rule(
        "head",
        aligned,
        lambda s: "GlobalAveragePooling2D",
        lambda s: (
            f"the mean over positions needs far fewer weights than a Flatten head, although position does carry "
            f"information here (alignment {s.facts['alignment']:.2f})"
        ),
        "Lin, Chen & Yan 2014",
        "alignment",
        lambda s: ("Flatten", "GlobalMaxPooling2D"),
    ),
    Rule(
        "head",
        measured("alignment"),
        lambda s: "GlobalAveragePooling2D",
        lambda s: (
            f"objects have no fixed position (alignment {s.facts['alignment']:.2f}), so the mean over positions "
            "loses little and needs no weights per position"
        ),
        "Lin, Chen & Yan 2014",
        "alignment",
        lambda s: ("GlobalMaxPooling2D", "Flatten"),
    ),
    Rule(
        "head",
        always,
        lambda s: "GlobalAveragePooling2D",
        lambda s: UNMEASURED + "the usual value, which needs no weights per position",
        "Lin, Chen & Yan 2014; He et al. 2016",
        "literature",
        lambda s: ("GlobalMaxPooling2D", "Flatten"),
    ),
    Rule(
        "training.flip",
        always,
        lambda s: False,
        lambda s: (
            "starts without mirroring, because a mirrored "
            + ("image can have another number" if numbers(s) else "letter, digit or sign can belong to another class")
            + "; a trial decides"
        ),
        "Simard, Steinkraus & Platt 2003: transformations that keep the class",
        "literature",
        lambda s: (True,),
    ),
    Rule(
        "dropout",
        lambda s: s.chosen["block"] == "pooled",
        lambda s: 0.0,
        lambda s: (
            f"{'' if numbers(s) else 'label smoothing and '}the averaged weights already keep a short training from "
            "memorising images"
        ),
        "airbench94 (Jordan 2024)",
        "literature",
        lambda s: (0.2,),
    ),
    Rule(
        "dropout",
        lambda s: s.images < 5000,
        lambda s: 0.2,
        lambda s: f"with only {s.images:,} training images, noise before the last layer guards against memorising them",
        "Srivastava et al. 2014",
        "images",
        lambda s: (0.0, 0.5),
    ),
    Rule(
        "dropout",
        always,
        lambda s: 0.0,
        lambda s: f"{s.images:,} training images cannot be memorised in the time there is",
        "Srivastava et al. 2014",
        "images",
        lambda s: (0.2,),
    ),
    Rule(
        "stage.filters",
        always,
        width_for,
        why_width,
        STEPS_PER_SECOND_FIRST,
        "pace",
        near_widths,
    ),
)
