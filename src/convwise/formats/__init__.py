"""Formats: what a chosen net is handed over as. Each is a module that is imported on use.

`save(folder, net, weights, classes)` writes the files of its row; `run(folder, pixels)` gives what
each of them answers by that framework's own forward. No file appears before all of them agree with
ours.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from convwise.core.activations import ACTIVATIONS
from convwise.core.net import Net
from convwise.core.problems import ConvwiseError, ExportMismatch, Unsupported, UnusableInput
from convwise.core.score import resolution
from convwise.core.temporary import folder_inside
from convwise.formats.written import Beside

if TYPE_CHECKING:  # `layer` writes its source lines without them, and answers sooner
    import numpy as np
    from numpy.typing import NDArray

    from convwise.formats.weights import Weights

__all__ = ["json", "keras", "lifted", "lowering", "onnx", "torch", "weights", "written"]


@dataclass(frozen=True)
class Format:
    """module: where it is done; files: what it writes into a folder, source code first.

    lacks: the layers and activations that it cannot express whatever their parameters are.
    source: whether the first file is a text, which the module's `render(net, classes)` gives.
    """

    module: str
    files: tuple[str, ...]
    lacks: frozenset[str] = frozenset()
    source: bool = False


FORMATS: dict[str, Format] = {
    "keras": Format(
        "convwise.formats.keras",
        ("model_keras.py", "model.keras"),
        lacks=frozenset(name for name, row in ACTIVATIONS.items() if not row.keras),
        source=True,
    ),
    "torch": Format("convwise.formats.torch", ("model_torch.py", "model.safetensors"), source=True),
    "onnx": Format("convwise.formats.onnx", ("model.onnx",)),
    "json": Format("convwise.formats.json", ("net.json",), source=True),
}
OURS = "torch"  # which is trained, and whose answers are those of the net
DRAFT = ".writing-"  # the name of a folder in which files are written until all are there
WRITTEN = tuple(file for row in FORMATS.values() for file in row.files)


def format_module(name: str) -> ModuleType:
    """The module of a format. UnusableInput where there is none of this name."""
    if name not in FORMATS:
        raise UnusableInput("format", f"is {name!r}", "one of " + ", ".join(FORMATS))
    return import_module(FORMATS[name].module)


def write(
    folder: str | Path,
    net: Net,
    weights: Weights,
    classes: Sequence[str],
    pixels: NDArray[np.uint8],
    formats: Sequence[str] = tuple(FORMATS),
    beside: Beside | None = None,
) -> dict[str, float]:
    """Write the net in every format, checked on pixels (n, height, width, channels).

    beside: what is told beside it, in sources and metadata. Returns the largest absolute difference
    to ours per format. ExportMismatch, and no file written, where one exceeds `resolution`;
    Unsupported where a format lacks a layer.
    """
    target, content = Path(folder), (net, weights, classes, beside or Beside())
    target.mkdir(parents=True, exist_ok=True)
    expected = _ours(net, weights, pixels)
    with folder_inside(target, DRAFT) as draft:
        differences = {form: _verified(form, draft, content, pixels, expected) for form in formats}
        for form in formats:
            for file in FORMATS[form].files:
                os.replace(draft / file, target / file)
    return differences


@dataclass(frozen=True)
class Handed:
    """What was written of a net.

    differences: the largest to ours, per format. left_out: why, per other format.
    """

    differences: dict[str, float]
    left_out: dict[str, str]


def hand_over(
    folder: str | Path,
    net: Net,
    weights: Weights,
    classes: Sequence[str],
    pixels: NDArray[np.uint8],
    formats: Sequence[str] = tuple(FORMATS),
    beside: Beside | None = None,
) -> Handed:
    """As `write`, but without formats that cannot express the net, or whose library is missing.

    Unsupported where that is PyTorch, which tells the answers that all others are compared with.
    """
    left_out: dict[str, str] = {}
    while True:
        able = [form for form in formats if form not in left_out]
        try:
            return Handed(write(folder, net, weights, classes, pixels, able, beside), left_out)
        except Unsupported as error:
            if error.format not in able or error.format == OURS:
                raise
            # The network is chosen already: a fix that asks for another layer would come too late.
            told = replace(error.problem, fix="") if error.layer else error.problem
            left_out[error.format] = str(told)


def export(folder: str | Path, to: str, out: str | Path | None = None) -> list[Path]:
    """Write the choice in `folder` in one more format, into `out` (the folder itself by default).

    Reads model.safetensors, and what it tells beside the net. The answers are compared on noise,
    since the images may be elsewhere.
    """
    import numpy as np

    format_module(to)  # so that an unknown name is refused before anything is read
    net, weights, classes = read(folder)
    beside = format_module("torch").beside(Path(folder) / "model.safetensors")
    noise = np.random.default_rng(0).integers(0, 256, (8, *net.input_shape), dtype=np.uint8)
    write(out or folder, net, weights, classes, noise, (to,), beside)
    return [Path(out or folder) / file for file in FORMATS[to].files]


def read(folder: str | Path) -> tuple[Net, Weights, tuple[str, ...]]:
    """Net, weights and class names of a folder that `write` filled, or UnusableInput."""
    path = Path(folder) / "model.safetensors"
    if not path.is_file():
        expected = "a folder that `convwise choose` wrote"
        raise UnusableInput(str(folder), "holds no model.safetensors", expected)
    result: tuple[Net, Weights, tuple[str, ...]] = format_module("torch").read(path)
    return result


def _ours(net: Net, weights: Weights, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    torch = format_module(OURS)
    module = torch.build(net)
    torch.load(module, net, weights)
    answer: NDArray[np.float32] = torch.forward(module, pixels)
    return answer


def _verified(
    form: str,
    folder: Path,
    content: tuple[Net, Weights, Sequence[str], Beside],
    pixels: NDArray[np.uint8],
    expected: NDArray[np.float32],
) -> float:
    """Save one format, run it, and compare."""
    try:
        format_module(form).save(folder, *content)
    except ConvwiseError:
        raise
    except ImportError as error:
        what = f"its library cannot be loaded ({error})"
        raise Unsupported(form, "", what, "install it") from error
    except Exception as error:  # each framework has words of its own for a disk that is full
        what = f"cannot be written ({error})"
        fix = "make room there, and run the same command again"
        raise ExportMismatch(f"{form} export", what, f"a model in {folder.parent}", fix) from error
    most, largest = resolution(content[0]), 0.0
    for given in _answers(form, folder, pixels):
        differences = _differences(given, expected, len(most))
        for difference, allowed in zip(differences, most, strict=True):
            if not difference <= allowed:  # not a number is a mismatch as well
                what = f"gives answers that differ by {difference:.3g} from the trained net"
                fix = "report this net (net.json) as a bug"
                raise ExportMismatch(f"{form} export", what, f"at most {allowed:g}", fix)
        largest = max(largest, *differences)
    return largest


def _answers(form: str, folder: Path, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    try:
        answers: list[NDArray[np.float32]] = format_module(form).run(folder, pixels)
    except Exception as error:  # whatever a framework says of a file that it cannot run
        what = f"cannot be run: {error}"
        raise ExportMismatch(f"{form} export", what, "a model that runs") from error
    return answers


def _differences(
    given: NDArray[np.float32], expected: NDArray[np.float32], units: int
) -> list[float]:
    """The largest difference of all outputs, or of each number where several have a unit."""
    import numpy as np

    if given.shape != expected.shape:
        return [float("nan")] * units
    found = np.abs(given.astype(np.float64) - expected)
    return found.max(0).tolist() if units > 1 else [float(found.max())]
