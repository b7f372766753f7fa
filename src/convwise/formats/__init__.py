"""Formats: what a chosen net is handed over as. Each is a module with `save` and `run`, imported on use.

`save(folder, net, weights, classes)` writes the files of its row; `run(folder, pixels)` gives what each of them
answers by that framework's own forward. No file appears before all of them agree with ours.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from convwise.core.net import Net
from convwise.core.problems import ConvwiseError, ExportMismatch, UnusableInput
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
    """module: where it is done; files: what it writes into a folder, source code first."""

    module: str
    files: tuple[str, ...]


FORMATS: dict[str, Format] = {
    "keras": Format("convwise.formats.keras", ("model_keras.py", "model.keras")),
    "torch": Format("convwise.formats.torch", ("model_torch.py", "model.safetensors")),
    "onnx": Format("convwise.formats.onnx", ("model.onnx",)),
    "json": Format("convwise.formats.json", ("net.json",)),
}
DRAFT = ".writing-"  # what a folder is called in which files are written, until all are there
WRITTEN = tuple(file for row in FORMATS.values() for file in row.files)


def format_module(name: str) -> ModuleType:
    """The module of a format. UnusableInput where there is none of this name."""
    if name not in FORMATS:
        raise UnusableInput("format", f"is {name!r}", "one of " + ", ".join(FORMATS))
    return import_module(FORMATS[name].module)


def write(folder: str | Path, net: Net, weights: Weights, classes: Sequence[str], pixels: NDArray[np.uint8],
          formats: Sequence[str] = tuple(FORMATS), beside: Beside | None = None) -> dict[str, float]:  # fmt: skip
    """Write the net in every format, checked on pixels (n, height, width, channels).

    beside: what is told beside it, in sources and metadata. Returns the largest absolute difference to
    ours per format. ExportMismatch, and no file written, where one exceeds `resolution`; Unsupported where
    a format lacks a layer.
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


def export(folder: str | Path, to: str, out: str | Path | None = None) -> list[Path]:
    """Write the choice in `folder` in one more format, into `out` (the folder itself by default).

    Reads model.safetensors, and what it tells beside the net; checked on noise, since the images may be elsewhere.
    """
    import numpy as np

    format_module(to)  # so that an unknown name is refused before anything is read
    net, weights, classes = read(folder)
    beside = format_module("torch").beside(Path(folder) / "model.safetensors")
    noise = np.random.default_rng(0).integers(0, 256, (8, *net.input_shape), dtype=np.uint8)
    write(out or folder, net, weights, classes, noise, (to,), beside)
    return [Path(out or folder) / file for file in FORMATS[to].files]


def read(folder: str | Path) -> tuple[Net, Weights, tuple[str, ...]]:
    """Net, weights and class names of a folder that `write` filled. UnusableInput where it holds no model."""
    path = Path(folder) / "model.safetensors"
    if not path.is_file():
        raise UnusableInput(str(folder), "holds no model.safetensors", "a folder that `convwise choose` wrote")
    result: tuple[Net, Weights, tuple[str, ...]] = format_module("torch").read(path)
    return result


def _ours(net: Net, weights: Weights, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    torch = format_module("torch")
    module = torch.build(net)
    torch.load(module, net, weights)
    answer: NDArray[np.float32] = torch.forward(module, pixels)
    return answer


def _verified(form: str, folder: Path, content: tuple[Net, Weights, Sequence[str], Beside],
             pixels: NDArray[np.uint8], expected: NDArray[np.float32]) -> float:  # fmt: skip
    """Save one format, run it, and compare."""
    try:
        format_module(form).save(folder, *content)
    except ConvwiseError:
        raise
    except Exception as error:  # each framework has words of its own for a disk that is full
        what, fix = f"cannot be written ({error})", "make room there, and run the same command again"
        raise ExportMismatch(f"{form} export", what, f"a model in {folder.parent}", fix) from error
    difference = max((_difference(given, expected) for given in _answers(form, folder, pixels)), default=0.0)
    if not difference <= (most := resolution(content[0])):  # not a number is a mismatch as well
        what = f"gives answers that differ by {difference:.3g} from the trained net"
        raise ExportMismatch(f"{form} export", what, f"at most {most:g}", "report this net (net.json) as a bug")
    return difference


def _answers(form: str, folder: Path, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    try:
        answers: list[NDArray[np.float32]] = format_module(form).run(folder, pixels)
    except Exception as error:  # whatever a framework says of a file that it cannot run
        raise ExportMismatch(f"{form} export", f"cannot be run: {error}", "a model that runs") from error
    return answers


def _difference(given: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    import numpy as np

    if given.shape != expected.shape:
        return float("nan")
    return float(np.abs(given.astype(np.float64) - expected).max())
