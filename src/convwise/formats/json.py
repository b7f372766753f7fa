"""Nets as JSON: net.json, the net without its weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise.core.net import Net
from convwise.core.problems import UnusableInput
from convwise.formats.weights import Weights
from convwise.formats.written import NOTHING, Beside

# At most so much text is parsed, which takes 40 times as much: a net of 1,000 layers has 0.1 MB
MOST_BYTES = 16 << 20


def render(net: Net, classes: Sequence[str] = ()) -> str:
    """The net's canonical JSON with the class names beside it; `Net.from_json` reads it."""
    told = {**net.to_json(), "classes": list(classes)}
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def save(
    folder: Path, net: Net, weights: Weights, classes: Sequence[str], beside: Beside = NOTHING
) -> None:
    """Write net.json; what stands beside it is in the formats that carry weights."""
    (folder / "net.json").write_text(render(net, classes), encoding="utf-8")


def parsed(path: Path) -> Any:
    """What a file holds. UnusableInput where it is not JSON, or larger than any net."""
    expected = "a net as `convwise export --to json` writes"
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise UnusableInput(str(path), f"is larger than {MOST_BYTES >> 20} MB", expected)
        return json.loads(text.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnusableInput(str(path), f"is not JSON: {error}", expected) from error


def read(path: Path) -> Net:
    """The net that `save` wrote, or any other net's JSON. UnusableInput where it is none."""
    return Net.from_json(parsed(path))


def run(folder: Path, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Nothing, as there are no weights; UnusableInput where the file cannot be read back."""
    read(folder / "net.json")
    return []
