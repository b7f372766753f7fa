"""Nets as JSON: net.json, the net without its weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convwise.core.net import Net
from convwise.formats.weights import Weights

FILES = ("net.json",)


def render(net: Net, classes: Sequence[str] = ()) -> str:
    """The net's canonical JSON with the class names beside it; `Net.from_json` reads it."""
    return json.dumps({**net.to_json(), "classes": list(classes)}, indent=2, ensure_ascii=False) + "\n"


def save(folder: Path, net: Net, weights: Weights, classes: Sequence[str]) -> None:
    """Write net.json."""
    (folder / "net.json").write_text(render(net, classes), encoding="utf-8")


def read(path: Path) -> Net:
    """The net that `save` wrote, or any other net's JSON. UnusableInput where it is none."""
    return Net.from_json(json.loads(path.read_text(encoding="utf-8")))


def run(folder: Path, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Nothing to compare, as there are no weights; UnusableInput where the file cannot be read back."""
    read(folder / "net.json")
    return []
