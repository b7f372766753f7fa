"""What files of several formats share: what is said of the net, and a picture made its input."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from convwise.core.net import Net
from convwise.core.score import numbers_of, several
from convwise.formats.lowering.calls import literal

# The same step as convwise.images.decode: load_image, then resize. Tests hold the two together.
_PREPARE = '''
def prepare(picture):
    """A file or a PIL image as the network's input, as in training: {gives}, values 0 to 255.

    To resize in another way, use one with antialiasing: tf.image.resize(..., antialias=True),
    keras.utils.load_img(..., interpolation="bilinear"),
    cv2.resize(..., interpolation=cv2.INTER_AREA).
    """
    import numpy as np
    from PIL import Image, ImageOps

    if not isinstance(picture, Image.Image):
        with Image.open(picture) as opened:
            return prepare(opened)
    height, width, channels = INPUT_SHAPE
    image = ImageOps.exif_transpose(picture)
    if image.mode.startswith(("I", "F")):  # more than 8 bits: {range}
        values = np.asarray(image).astype(float)
        {scaled}
        image = Image.fromarray(np.clip(np.rint(values), 0, 255).astype("uint8"))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("L" if channels == 1 else "RGB")
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.array(image).reshape(1, height, width, channels)
    return {returned}
'''


# What a source does as a program.
_MAIN = """if __name__ == "__main__":
    import sys

    names = sys.argv[1:] or sys.exit(__doc__)
    network = load()
    for name in names:
        answer = predict(name, network)
"""
_BEST = """        best = int(answer.argmax())
        print(CLASSES[best] if CLASSES else best, f"{float(answer[best]):.2f}")
"""
_NUMBER = """        print(f"{float(answer[0]):.6g}")
"""
_NUMBERS = """        named = zip(TARGETS, answer)
        print(", ".join(f"{name} {float(number):.6g}" for name, number in named))
"""


class Answer(NamedTuple):
    """What a net answers of a picture, what a source prints of it and gives, and its last lines."""

    output: str
    prints: str
    gives: str
    main: str


PROBABILITIES = Answer(
    "class probabilities",
    "prints the most probable class",
    "one number for each of CLASSES",
    _MAIN + _BEST,
)
NUMBER = Answer(
    "the number called TARGET",
    "prints the number",
    "an array of one number, TARGET",
    _MAIN + _NUMBER,
)
NUMBERS = Answer(
    "one number for each of TARGETS",
    "prints the numbers",
    "one number for each of TARGETS",
    _MAIN + _NUMBERS,
)


def answer_of(net: Net) -> Answer | None:
    """What a net answers of a picture; None where it reads none, or answers something else."""
    if net.input_shape[2] not in (1, 3):
        return None
    if unit := numbers_of(net):
        return NUMBER if len(unit.scale) == 1 else NUMBERS
    return PROBABILITIES if getattr(net.layers[-1], "activation", "") == "softmax" else None


def named(net: Net, classes: Sequence[str]) -> str:
    """The line of a source that names what the net answers."""
    if unit := numbers_of(net):
        count = len(unit.scale)
        names = list(classes) if len(classes) == count else several(count)
        return f"TARGET = {literal(names[0])}" if count == 1 else f"TARGETS = {literal(names)}"
    return f"CLASSES = {literal(list(classes))}"


@dataclass(frozen=True)
class Beside:
    """What is told beside a net.

    reasons: lines that ride in the sources as comments. wide: (offset, factor) of a set whose
    pictures had more than 8 bits: (value - offset) * factor is 0 to 255.
    """

    reasons: tuple[str, ...] = ()
    wide: tuple[float, float] | None = None

    @staticmethod
    def of(told: Mapping[str, Any]) -> Beside:
        """The inverse of what `about` says."""
        wide = told.get("wide")
        return Beside(tuple(told.get("reasons", ())), (wide[0], wide[1]) if wide else None)


NOTHING = Beside()


def prepare(beside: Beside, gives: str, returned: str) -> str:
    """The source of `prepare`.

    returned: an expression of `pixels`, uint8 (1, height, width, channels). gives: what that is.
    """
    fraction = "255 if 0 <= values.min() <= values.max() <= 1 else 1"
    scaled = f'values *= 1 / 257 if image.mode[0] == "I" else {fraction}'
    known = "65535 is white; floats from 0 to 1, or as they are"
    if beside.wide:
        offset, factor = beside.wide
        known = f"{offset:g} is black, {offset + 255 / factor:g} white"
        scaled = f"values = (values - {offset!r}) * {factor!r}"
    return _PREPARE.format(gives=gives, returned=returned, range=known, scaled=scaled)


def about(net: Net, classes: Sequence[str], beside: Beside = NOTHING) -> dict[str, Any]:
    """What rides in the metadata of each file, as JSON."""
    return {
        **asdict(beside),
        "net": net.to_json(),
        "classes": list(classes),  # of numbers: what they are called
        "input_shape": net.input_shape,
        "preparation": preparation(net),
    }


def preparation(net: Net) -> str:
    """From a picture to the net's input, in words."""
    height, width, channels = net.input_shape
    kind = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    return (
        f"upright by its EXIF tag, transparency over white, {kind}, one bilinear antialiased resize"
        f" (Pillow) to {height} rows and {width} columns, values 0 to 255"
    )


def comments(reasons: Sequence[str], indent: str = "    ") -> list[str]:
    """Reasons as lines of comment."""
    wrapper = textwrap.TextWrapper(
        100, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}#   "
    )
    return [line for reason in reasons for line in wrapper.wrap(reason)]
