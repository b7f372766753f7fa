"""Writes docs/applications.md: every network of keras.applications, read by convwise at its default
input.

Run from the repository's root, some minutes on two cores (NASNet is not there on Keras's PyTorch
backend):

    KERAS_BACKEND=tensorflow PYTHONPATH=src python docs/applications.py
"""

from __future__ import annotations

import gc
import inspect
from pathlib import Path

import keras

from convwise.core.calculus import Analysis, analyse
from convwise.core.field import Axis
from convwise.formats.keras.lift import lift

# Of the networks that leave their size open: the weights were trained on it
DEFAULT = (224, 224, 3)
TABLE = Path(__file__).with_name("applications.md")
HEAD = """# The networks of keras.applications

What convwise reads in them, with Keras {version}; written by docs/applications.py, which says how
to run it. Every parameter is accounted for: params equal Keras's `count_params()`, and no layer is
Opaque.

Columns: input (height x width); params; macs in millions (multiply-accumulates of convolutions and
dense layers, bias excluded); the receptive field at the last layer that still has places, in px
along a row: its size and effective padding along the longest path, the size along the shortest, and
the stride (px between neighbouring units); border: the first convolution whose input field along
the shortest path covers the image already (Richter et al., arXiv 2106.12307), - where there is
none; peak: the most activation memory in float32 that one image needs, in MB.
Squeeze-and-excitation looks at the whole map: then the field is `all`, and what follows in brackets
is without it.

| network | input | params | macs, M | field | padding | shortest | stride | border | peak, MB |
|---|---|---:|---:|---:|---:|---:|---:|---|---:|
"""


def networks() -> list[str]:
    """The names of all networks, as Keras lists them."""
    return [name for name, made in vars(keras.applications).items() if inspect.isfunction(made)]


def row(name: str) -> str:
    """One row of the table. The network's weights are never made."""
    with keras.StatelessScope(initialize_variables=False):
        model = getattr(keras.applications, name)(weights=None)
    lifted = lift(model, DEFAULT if None in model.inputs[0].shape[1:] else None)
    costs = analyse(lifted.net)
    if costs.total.params != model.count_params() or costs.total.unknown:
        raise AssertionError(f"{name} is not read as it is")
    return f"| {' | '.join([name, *_cells(lifted.net.input_shape, costs)])} |"


def _cells(shape: tuple[int, int, int], costs: Analysis) -> list[str]:
    total = costs.total
    field = total.field
    return [
        f"{shape[0]}x{shape[1]}",
        f"{total.params:,}",
        f"{total.macs / 1e6:,.0f}",
        _size(field.rows),
        f"{field.rows.padding}",
        _size(field.short[0]),
        f"{field.rows.stride}{'' if field.aligned else ', misaligned'}",
        total.border or "-",
        f"{total.peak_bytes / 1e6:.1f}",
    ]


def _size(axis: Axis) -> str:
    """The moving field; 'all' where units see the whole map besides."""
    moving = Axis(axis.phases, axis.step)
    return f"all ({moving.size})" if axis.fixed else f"{moving.size}"


def main() -> None:
    """Write the table."""
    rows = []
    for name in networks():
        rows.append(row(name))
        print(rows[-1], flush=True)
        keras.utils.clear_session()
        gc.collect()
    TABLE.write_text(
        HEAD.format(version=keras.__version__) + "\n".join(rows) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
