"""Why a value is what it is: the record, and the reasons that are the same for all images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

TrialsWord = Literal["confirmed", "no difference", "refuted", "not resolved"]


@dataclass(frozen=True)
class Reason:
    """Why a parameter has its value.

    measure: what decided, a measure's name or one of rules.DECIDERS; source: of the rule; trials:
    what trials of other values said of the rule, None where there were none.
    """

    parameter: str
    value: Any
    because: str
    measure: str = ""
    source: str = ""
    trials: TrialsWord | None = None


def _standing(because: str, source: str, measure: str = "literature") -> Reason:
    return Reason("", None, because, measure, source)


# Of a parameter that growth says nothing of: no layer has one until a parameter is added to it.
DEFAULT = _standing("its usual value; no other one is searched", "Keras's default")
SUPERSAMPLED = _standing(
    "images come in at twice the size and are averaged in the network, so that it answers nearly"
    " the same, whichever program has resized them",
    "ours: docs/findings.md, 'images at twice the size'",
    "input_shape",
)
RAW_PIXELS = _standing(
    "pixels 0-255 become 0-1 inside the network, so that raw images can be given to it",
    "Keras guide: preprocessing layers inside the model",
)
MEAN = _standing("each channel gets mean 0 over the training images", "LeCun et al. 1998", "mean")
VARIANCE = _standing(
    "each channel gets standard deviation 1 over the training images",
    "LeCun et al. 1998",
    "variance",
)
CONSTANTS = _standing(
    "mean and variance are known before training: constants, not weights", "Keras guide"
)
ONE_FOR_EACH_CLASS = _standing(
    "one output for each class", "softmax regression, Bridle 1990", "classes"
)
PROBABILITIES = _standing("softmax makes the outputs probabilities that add up to 1", "Bridle 1990")
ONE_NUMBER = _standing(
    "one output for the number, without an activation: what is learnt has mean 0 and standard"
    " deviation 1",
    "linear regression",
)
SEVERAL_NUMBERS = _standing(
    "one output for each number, without an activation: each is learnt with mean 0 and deviation 1,"
    " so all count alike",
    "linear regression",
)
UNIT = _standing(
    "what is learnt has mean 0 and standard deviation 1; this brings it back to the unit of the"
    " target, so that exports answer in that unit",
    "LeCun et al. 1998, on inputs",
    "target",
)
A_ROW = _standing("the last layer reads a row of numbers, not a map", "Keras guide")
WHOLE_WINDOWS = _standing(
    "each window lies wholly inside the map, so no border has to be invented; an odd last row or"
    " column is left out",
    "Keras's default",
)
EPSILON = _standing(
    "avoids dividing by zero in a channel that has the same value everywhere", "Keras's default"
)
MOMENTUM = _standing(
    "the learning rate falls to zero at the end, so the running statistics must follow within ten"
    " steps",
    "airbench94 (Jordan 2024)",
)
SHIFT_AND_SCALE = _standing(
    "learnt, so that a normalised channel can still have any mean and deviation",
    "Ioffe & Szegedy 2015, section 3",
)
EVERY_DIRECTION = _standing(
    "one for each direction that a patch of the images can vary in, in both signs, because the"
    " activation after it drops one sign",
    "airbench94 (Jordan 2024)",
)
WHOLE_PATCHES = _standing(
    "each patch lies wholly inside the image, as an invented border could not be whitened",
    "airbench94 (Jordan 2024)",
)
LEARNT_BIAS = _standing(
    "the filters computed from the images stay fixed; a learnt bias sets a threshold for each",
    "airbench94 (Jordan 2024)",
)
DILATION = _standing(
    "1: every pixel under the kernel is read; halving the map widens the field at a lower cost",
    "Yu & Koltun 2016 on what dilation costs",
)
ONE_GROUP = _standing(
    "each output reads every channel; the separable block is the alternative that is tested",
    "Howard et al. 2017",
)
ONE_EACH = _standing(
    "one output for each channel; the 1x1 convolution after it mixes them", "Howard et al. 2017"
)
POINTWISE = _standing(
    "1x1: mixes the channels, after the depthwise convolution has looked at the neighbours",
    "Howard et al. 2017",
)
NO_BIAS = _standing(
    "the normalisation after it removes any constant, and adds its own",
    "Ioffe & Szegedy 2015, section 3.2",
)
BIAS = _standing(
    "a learnt offset for each output: no normalisation after it adds one", "Keras's default"
)
LATER = _standing(
    "the activation follows as a layer of its own, after the normalisation where there is one",
    "Ioffe & Szegedy 2015; He et al. 2016",
)
SHORTCUT = _standing(
    "1x1: only brings the block's input to the shape of its output, so that the two can be added",
    "He et al. 2016",
)
INSIDE = _standing(
    "1: the map keeps its size; it is halved at most once per stage", "He et al. 2016"
)
BLOCK_SIZE = _standing(
    "residual and separable blocks keep the size of the map, so that the sum fits and no map"
    " shrinks",
    "He et al. 2016; Howard et al. 2017",
)
SMALL_MAP = _standing(
    "'valid' would leave a map smaller than 4 px here", "the shape of the network", "input_shape"
)
