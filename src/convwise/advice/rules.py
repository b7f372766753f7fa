"""RULES: when / then / because / source. What a fingerprint says about each parameter.

For each parameter the first rule that holds decides; later rules see what earlier parameters
became. `tests` are the values worth testing beside the value chosen. Trials can refute every rule.
A rule reads a measure only where it was taken: without it another rule says so, and takes the usual
value.
"""

from __future__ import annotations

from math import prod

from convwise.advice.situation import Rule, Situation, always, measured, numbers
from convwise.advice.telling import FAR_PX, beside_mirroring, beside_the_stride, of_scale
from convwise.advice.thresholds import ALIGNED_FROM, SMALL_PX
from convwise.core.space import WIDTHS
from convwise.core.text import times

UNMEASURED = "not measured in this budget: "
POOLED_FROM = 16  # px of the shorter side from which every stage can halve its map
WIDEST, NARROWEST = 64, 8  # filters of the first stage that a study starts with
COST_OF_A_STEP = "ours: docs/findings.md, 'what decides at a fixed time is the cost of a step'"


def other_sizes(s: Situation) -> tuple[str, ...]:
    """Three quarters and three halves of the proposed size, as far as the images reach.

    None for small images.
    """
    rows, columns, _ = s.facts.input_shape
    if max(rows, columns) <= SMALL_PX:
        return ()
    most = s.facts.shape
    reachable = [f for f in (3 / 4, 3 / 2) if rows * f <= most[0] and columns * f <= most[1]]
    return tuple(times((8 * round(rows * f / 8), 8 * round(columns * f / 8))) for f in reachable)


def stages_for(s: Situation) -> int:
    """Stages of a pooled net: halvings that leave 2 px, at most four, three of a map under 40 px.

    Of other nets: one, and one more for each halving that leaves a map of at least 4 px, at most
    four.
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
    """Below this a narrower net is better at equal time, above it a wider.

    Source: docs/findings.md, 'width and epochs'.
    """
    return min(wanted_epochs(images), 17)


def width_for(s: Situation) -> int:
    """The most filters with which the final training still sees every image often enough."""
    fewest = fewest_epochs(s.images)
    widths = [w for w in WIDTHS if NARROWEST <= w <= WIDEST]
    return max((w for w in widths if s.epochs(w) >= fewest), default=NARROWEST)


def why_width(s: Situation) -> str:
    """What holds of the chosen width: too much, all that there is time for, or the widest start."""
    width, fewest = s.chosen["stage.filters"], fewest_epochs(s.images)
    epochs = s.epochs(width)
    seen = f"with {width} filters the final training sees each of the {s.images:,} images"
    # How often is not said: of a net whose steps are short it is not known well
    if width == WIDEST and epochs >= fewest:
        return (
            f"{seen} more than the {fewest:.0f} times that a wide network needs; even wider"
            " networks are left to the trials"
        )
    seen += f" about {epochs:,.0f} times if nothing else runs"
    if epochs < fewest:
        return (
            f"{seen}, although a wide network needs {fewest:.0f}; {NARROWEST} is the narrowest"
            " width that a study starts with"
        )
    wider = WIDTHS[WIDTHS.index(width) + 1]
    return f"{seen}; a wide network needs {fewest:.0f}, which {wider} filters would not allow"


def near_widths(s: Situation) -> tuple[int, ...]:
    """The widths of about two thirds and three halves of the chosen one, and half."""
    at = WIDTHS.index(s.chosen["stage.filters"])
    return tuple(WIDTHS[i] for i in (at - 1, at + 1, at - 2) if 1 <= i < len(WIDTHS))


def aligned(s: Situation) -> bool:
    """Whether classes differ by where things are: the class means hold much of the variance."""
    return "alignment" in s.facts and s.facts["alignment"] > ALIGNED_FROM


def mirrored_can(s: Situation) -> str:
    """What can go wrong with a mirrored image, after 'a mirrored'."""
    if numbers(s):
        return "image can have another number"
    return "letter, digit or sign can belong to another class"


RULES: tuple[Rule, ...] = (
    Rule(
        "input.size",
        lambda s: "resolution_sensitivity" in s.facts and max(s.facts.shape[:2]) > SMALL_PX,
        lambda s: times(s.facts.input_shape[:2]),
        lambda s: s.facts.input_reason,
        "Richter, ICANN 2021: every net has a preferred input size, driven by its discriminative"
        " features",
        "resolution_sensitivity",
        other_sizes,
    ),
    Rule(
        "input.size",
        always,
        lambda s: times(s.facts.input_shape[:2]),
        lambda s: s.facts.input_reason,
        COST_OF_A_STEP,
        "input_shape",
        other_sizes,
    ),
    Rule(
        "block",
        lambda s: min(s.size) >= POOLED_FROM,
        lambda s: "pooled",
        lambda s: (
            "each stage halves its map right after its first convolution, so that normalisation,"
            " activation and the next convolution work on a quarter of it: more images per second"
            " at the same cost"
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
            f"images of {s.chosen['input.size']} px are too small to be halved in every stage;"
            " adding a block's input to its output helps gradients flow, and costs no parameters"
            " if the shape stays the same"
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
            "filters computed from the images to make neighbouring pixels and channels uncorrelated"
            " are as good as learnt ones from the first step on, and need no gradients"
        ),
        "airbench94 (Jordan 2024), after tysam-code 2023; Coates, Lee & Ng 2011",
        "literature",
    ),
    Rule(
        "stem",
        always,
        lambda s: "learned",
        lambda s: (
            f"at {s.chosen['input.size']} px a whitening stem would cost a small map its last row"
            " and column"
        ),
        "ours: the smallest images have the fewest pixels to spare",
        "input_shape",
    ),
    Rule(
        "stem.strides",
        lambda s: prod(s.size) >= SMALL_PX**2,
        lambda s: 2,
        lambda s: (
            f"at {s.chosen['input.size']} px a stride of 2 cuts the cost of every step to a quarter"
            + beside_the_stride(s.facts)
        ),
        COST_OF_A_STEP,
        "input_shape",
        lambda s: (1,),
    ),
    Rule(
        "stem.strides",
        always,
        lambda s: 1,
        lambda s: (
            f"the images are only {s.chosen['input.size']} px: a stride would leave the stages too"
            " small a map" + beside_the_stride(s.facts)
        ),
        "nnU-Net (Isensee et al. 2021): axes under twice the target are not pooled early",
        "input_shape",
        lambda s: (2,) if min(s.size) >= POOLED_FROM else (),
    ),
    Rule(
        "stem.kernel_size",
        lambda s: s.chosen["stem"] == "whitening",
        lambda s: 2,
        lambda s: (
            "2x2 patches whiten neighbouring pixels; their filters come in both signs, so that"
            " nothing is lost"
        ),
        "airbench94 (Jordan 2024)",
        "literature",
        lambda s: (3,),
    ),
    Rule(
        "stem.kernel_size",
        lambda s: "discriminative_scale" in s.facts and s.facts["discriminative_scale"] >= FAR_PX,
        lambda s: 3,
        lambda s: (
            f"{of_scale(s.facts, s.parts)}; a few layers after a 3x3 kernel see that far, at a"
            " lower cost than one large kernel"
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
            f"{of_scale(s.facts, s.parts)}, and 3x3 is the cheapest kernel that sees neighbours"
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
        lambda s: (
            "two 3x3 kernels see as far as one 5x5, with 18 weights instead of 25 for each pair of"
            " channels"
        ),
        "Simonyan & Zisserman 2015",
        "literature",
        lambda s: (5,),
    ),
    Rule(
        "stage.count",
        always,
        stages_for,
        lambda s: (
            f"the map after the stem is {s.map_px} px; it is halved until a few px remain, so that"
            " the receptive field covers the whole image, and few layers come after the one where"
            " it does"
        ),
        "nnU-Net (Isensee et al. 2021); Richter et al., arXiv 2106.12307",
        "input_shape",
        lambda s: tuple(n for n in (stages_for(s) - 1, stages_for(s) + 1) if 1 <= n <= 5),
    ),
    Rule(
        "stage.widening",
        lambda s: s.chosen["block"] == "pooled",
        lambda s: 4,
        lambda s: (
            "filters are cheapest on small maps, so there are four times as many from the second"
            " stage on"
        ),
        "airbench94 (Jordan 2024): 64, 256, 256",
        "literature",
        lambda s: (2,),
    ),
    Rule(
        "stage.widening",
        always,
        lambda s: 2,
        lambda s: (
            "with twice as many filters on a map a quarter of the size, every stage costs about the"
            " same"
        ),
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
            "2x2 max pooling keeps a stage's strongest activations and has no weights; with a"
            " stride, 1x1 shortcuts would skip inputs"
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
            "more windows read the pixels at the border, and the map keeps its size: only strides"
            " and pools shrink it"
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
        lambda s: (
            "smooth, and cheap at this point: after the pool it works on a quarter of the map"
        ),
        "airbench94 (Jordan 2024); ours: docs/findings.md",
        "literature",
        lambda s: ("relu", "silu", "leaky_relu"),
    ),
    Rule(
        "activation",
        always,
        lambda s: "relu",
        lambda s: (
            "the cheapest; smooth activations gain at most 0.3 points and take 5 to 8 % more time"
        ),
        "ours: docs/findings.md",
        "findings",
        lambda s: ("leaky_relu", "silu", "elu", "gelu"),
    ),
    Rule(
        "head",
        lambda s: s.chosen["block"] == "pooled",
        lambda s: "GlobalMaxPooling2D",
        lambda s: (
            "keeps the strongest activation of each filter on the last, small map; needs no weights"
            " per position"
        ),
        "airbench94 (Jordan 2024)",
        "literature",
        lambda s: ("GlobalAveragePooling2D", "Flatten"),
    ),
    Rule(
        "head",
        aligned,
        lambda s: "GlobalAveragePooling2D",
        lambda s: (
            "the mean over positions needs far fewer weights than a Flatten head, although"
            f" position does carry information here (alignment {s.facts['alignment']:.2f})"
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
            f"little that tells {s.parts} apart has a fixed place (alignment"
            f" {s.facts['alignment']:.2f}), so the mean over positions will do, which needs no"
            " weights per position"
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
            f"starts without mirroring, because a mirrored {mirrored_can(s)}; a trial decides"
            + beside_mirroring(s.facts)
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
            f"{'' if numbers(s) else 'label smoothing and '}the averaged weights already keep a"
            " short training from memorising images"
        ),
        "airbench94 (Jordan 2024)",
        "literature",
        lambda s: (0.2,),
    ),
    Rule(
        "dropout",
        lambda s: s.images < 5000,
        lambda s: 0.2,
        lambda s: (
            f"with only {s.images:,} training images, noise before the last layer guards against"
            " memorising them"
        ),
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
        COST_OF_A_STEP,
        "pace",
        near_widths,
    ),
)
