"""One layer on one input: the lines are run in Keras and PyTorch, against loops; what is impossible
is explained.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from convwise.cli import layer as cli_layer
from convwise.core import layers as L
from convwise.core.activations import ACTIVATIONS, activation
from convwise.core.parameters import REQUIRED, Named, Word
from convwise.core.problems import ConvwiseError, ShapeError, UnusableInput
from convwise.formats.lowering.lines import torch_lines
from convwise.formats.lowering.torch import OWN
from convwise.inspect.single import KINDS, Answer, layer, made, steps
from framework_lines import keras_forward, on_tensorflow, torch_forward
from singles import single

CASES = 40
HEAVY = {
    "numpy",
    "torch",
    "keras",
    "tensorflow",
    "onnx",
    "onnxruntime",
    "scipy",
    "optuna",
    "pydantic",
    "rich",
}
ROOT = Path(__file__).parents[2]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command(cls=cli_layer.Words)(cli_layer.layer)


def run(*words: str):
    return CliRunner().invoke(app, list(words))


# --- the oracle: loops over the windows ----------------------------------------------------------


def weights_of(
    asked: L.Layer, shape: tuple[int, int, int], rng: np.random.Generator
) -> list[np.ndarray]:
    """Random weights in PyTorch's layouts and order."""
    if isinstance(asked, (L.MaxPooling2D, L.AveragePooling2D)):
        return []
    channels, kernel = shape[2], asked.kernel_size
    inside = channels * getattr(asked, "depth_multiplier", 1)
    shapes = {
        "Conv2D": [
            (getattr(asked, "filters", 0), channels // getattr(asked, "groups", 1), *kernel)
        ],
        "Conv2DTranspose": [
            (channels, getattr(asked, "filters", 0) // getattr(asked, "groups", 1), *kernel)
        ],
        "DepthwiseConv2D": [(inside, 1, *kernel)],
        "SeparableConv2D": [(inside, 1, *kernel), (getattr(asked, "filters", 0), inside, 1, 1)],
    }[asked.op]
    bias = [(getattr(asked, "filters", inside),)] if asked.use_bias else []
    return [rng.normal(size=size).astype(np.float32) for size in (*shapes, *bias)]


def padded(x: np.ndarray, pads: tuple[int, ...], value: float) -> np.ndarray:
    top, bottom, left, right = pads
    return np.pad(x, ((top, bottom), (left, right), (0, 0)), constant_values=value)


def convolved(
    x: np.ndarray, kernel: np.ndarray, strides, dilation, out: tuple[int, int], groups: int
) -> np.ndarray:
    filters, inputs, rows, columns = kernel.shape
    result = np.zeros((*out, filters))
    for i, j, f, q, r, c in product(*map(range, (*out, filters, inputs, rows, columns))):
        place = i * strides[0] + r * dilation[0], j * strides[1] + c * dilation[1]
        result[i, j, f] += kernel[f, q, r, c] * x[(*place, f // (filters // groups) * inputs + q)]
    return result


def spread(
    x: np.ndarray, kernel: np.ndarray, asked: L.Conv2DTranspose, found: Answer
) -> np.ndarray:
    inputs, filters, rows, columns = kernel.shape
    top, _, left, _ = found.pads
    result = np.zeros(found.output_shape)
    for i, j, q, f, r, c in product(*map(range, (*x.shape[:2], inputs, filters, rows, columns))):
        row = i * asked.strides[0] + r * asked.dilation_rate[0] - top
        column = j * asked.strides[1] + c * asked.dilation_rate[1] - left
        if 0 <= row < result.shape[0] and 0 <= column < result.shape[1]:
            result[row, column, q // (inputs // asked.groups) * filters + f] += (
                kernel[q, f, r, c] * x[i, j, q]
            )
    return result


def asked_pads(asked, shape) -> tuple[int, int, int, int]:
    """The padding that was asked for, without what ceil_mode adds; 'same' as TensorFlow's
    documentation has it.
    """
    if isinstance(asked.padding, tuple):
        return asked.padding
    more = [
        (-(-n // s) - 1) * s + k - n
        for n, s, k in zip(shape, asked.strides, asked.pool_size, strict=False)
    ]
    rows, columns = (max(total, 0) if asked.padding == "same" else 0 for total in more)
    return rows // 2, rows - rows // 2, columns // 2, columns - columns // 2


def pooled(x: np.ndarray, asked: L.Layer, found: Answer) -> np.ndarray:
    """Padding is no number; where it counts as zeros, what only ceil_mode reads still is none."""
    around = padded(x, found.pads, np.nan)
    if getattr(asked, "count_include_pad", False):
        zeros = padded(x, asked_pads(asked, x.shape), 0.0)
        around[: zeros.shape[0], : zeros.shape[1]] = zeros
    result = np.zeros(found.output_shape)
    for i, j in product(*map(range, found.output_shape[:2])):
        top, left = i * asked.strides[0], j * asked.strides[1]
        window = around[top : top + asked.pool_size[0], left : left + asked.pool_size[1]]
        result[i, j] = (np.nanmax if asked.op == "MaxPooling2D" else np.nanmean)(
            window, axis=(0, 1)
        )
    return result


AFTER: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "elu(alpha=0.5)": lambda x: np.where(x > 0, x, 0.5 * np.expm1(np.minimum(x, 0))),
}


def looped(asked: L.Layer, found: Answer, x: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    out = found.output_shape[:2]
    if isinstance(asked, (L.MaxPooling2D, L.AveragePooling2D)):
        return pooled(x, asked, found)
    if isinstance(asked, L.Conv2DTranspose):
        result = spread(x, weights[0], asked, found)
    else:
        groups = asked.groups if isinstance(asked, L.Conv2D) else x.shape[2]
        around = padded(x, found.pads, 0.0)
        result = convolved(around, weights[0], asked.strides, asked.dilation_rate, out, groups)
        if isinstance(asked, L.SeparableConv2D):
            result = result @ weights[1][:, :, 0, 0].T
    result = result + weights[-1] if asked.use_bias else result
    return AFTER[asked.activation](result)


def asked_for(kind: str, seed: int) -> tuple[dict, tuple[int, int, int]]:
    """The parameters of a random layer, and the shape of a map; output_padding of 0 is not
    given.
    """
    said, (shape,) = single(random.Random(f"{kind} {seed}"), kind)
    parameters = {p.name: getattr(said, p.name) for p in L.parameters(said)}
    given_ = {
        name: value for name, value in parameters.items() if name != "output_padding" or any(value)
    }
    return given_, (min(shape[0], 9), min(shape[1], 8), shape[2])


def drawn(kind: str, seed: int):
    """A random layer that fits, on a random map with weights: (layer, answer, map, weights), or
    None.
    """
    asked, shape = asked_for(kind, seed)
    numbers = np.random.default_rng(seed)
    try:
        found = layer(shape, kind, **asked)
    except ShapeError:
        return None
    if 0 in (*found.rows.sums, *found.columns.sums) and "Pooling" in kind:
        return None  # a window of nothing but padding has no largest value
    return (
        found.layer,
        found,
        numbers.normal(size=shape).astype(np.float32),
        weights_of(found.layer, shape, numbers),
    )


seeds = st.integers(0, 2**32)
each_kind = pytest.mark.parametrize("kind", KINDS)
# PyTorch and Keras say that an even 'same' or an uneven crop takes a copy.
quiet = pytest.mark.filterwarnings("ignore::UserWarning")


# Pools differ in rare cases
@pytest.mark.parametrize("kind", [*KINDS, *("MaxPooling2D", "AveragePooling2D") * 3])
@quiet
@settings(max_examples=CASES, deadline=None)
@given(seed=seeds)
def test_the_pytorch_lines_do_what_the_layer_does(kind, seed):
    if (case := drawn(kind, seed)) is None:
        return
    asked, found, x, weights = case
    if not found.torch:
        assert any(problem.where.startswith("PyTorch") for problem in found.problems)
        return
    given_ = torch_forward(found.torch, x, weights)
    np.testing.assert_allclose(
        given_, looped(asked, found, x, weights), atol=2e-4, err_msg=str(found.torch)
    )


@each_kind
@quiet
@settings(max_examples=CASES, deadline=None)
@given(seed=seeds)
def test_the_keras_lines_do_what_the_layer_does(kind, seed):
    if (case := drawn(kind, seed)) is None:
        return
    asked, found, x, weights = case
    if not found.keras:
        assert any(problem.where.startswith("Keras") for problem in found.problems)
    elif not any("different means" in problem.what for problem in found.problems):
        given_ = keras_forward(found.keras, kind, x, weights)
        np.testing.assert_allclose(
            given_, looped(asked, found, x, weights), atol=2e-4, err_msg=str(found.keras)
        )


@pytest.mark.slow
def test_the_keras_lines_do_so_on_tensorflow():
    cases = [(kind, drawn(kind, seed)) for kind in KINDS for seed in range(60)]
    kept = [
        (found.keras, kind, x, weights, looped(asked, found, x, weights))
        for kind, (asked, found, x, weights) in ((kind, case) for kind, case in cases if case)
        if found.keras
    ]
    assert len(kept) > 100
    for (lines, *_, expected), output in zip(
        kept, on_tensorflow([case[:4] for case in kept]), strict=True
    ):
        np.testing.assert_allclose(output, expected, atol=2e-4, err_msg=str(lines))


def test_most_random_layers_have_lines():
    """So that the two tests above do not pass by silence."""
    cases = [case for kind in KINDS for seed in range(40) if (case := drawn(kind, seed))]
    assert len(cases) > 150
    assert sum(bool(found.torch) for _, found, _, _ in cases) > 0.85 * len(cases)
    assert sum(bool(found.keras) for _, found, _, _ in cases) > 0.5 * len(cases)


@each_kind
@quiet
@settings(max_examples=CASES // 2, deadline=None)
@given(seed=seeds)
def test_the_pytorch_lines_are_those_of_the_export(kind, seed):
    import torch

    from convwise.core.net import Net
    from convwise.core.problems import Unsupported
    from convwise.formats import torch as written

    if (case := drawn(kind, seed)) is None or not case[1].torch:
        return
    asked, found, x, weights = case
    try:
        module = written.build(Net(found.input_shape, (asked,)))
    except Unsupported:
        return
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), weights, strict=True):
            parameter.copy_(torch.tensor(value))
        exported = module(torch.tensor(x).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    np.testing.assert_allclose(torch_forward(found.torch, x, weights), exported, atol=1e-5)


# --- what a step and a read are -------------------------------------------------------------------


@each_kind
@settings(max_examples=CASES, deadline=None)
@given(seed=seeds)
def test_reads_are_counted(kind, seed):
    """An input is read so often as a map of ones sends gradients back; here by loops over a row and
    a column.
    """
    if (case := drawn(kind, seed)) is None:
        return
    asked, found, *_ = case
    kernel = getattr(asked, "kernel_size", None) or asked.pool_size
    dilation = getattr(asked, "dilation_rate", (1, 1))
    for axis, along in enumerate((found.rows, found.columns)):
        reads, sums = [0] * along.size, [0] * along.outputs
        pairs = product(
            range(along.size if kind == "Conv2DTranspose" else along.outputs), range(kernel[axis])
        )
        for one, tap in pairs:
            other = one * asked.strides[axis] + tap * dilation[axis] - found.pads[2 * axis]
            place, output = (one, other) if kind == "Conv2DTranspose" else (other, one)
            if 0 <= place < along.size and 0 <= output < along.outputs:
                reads[place] += 1
                sums[output] += 1
        assert (list(along.reads), list(along.sums)) == (reads, sums)
        assert (along.size, along.outputs) == (found.input_shape[axis], found.output_shape[axis])


def test_the_example_of_the_design():
    found = layer((224, 224, 3), filters=64, kernel_size=7, strides=2, padding="same")
    assert found.output_shape == (112, 112, 64)
    assert found.pads == (2, 3, 2, 3)
    assert found.params == 7 * 7 * 3 * 64 + 64
    assert found.macs == 112 * 112 * 64 * 7 * 7 * 3
    assert found.activation_bytes == 4 * 112 * 112 * 64
    assert found.receptive_field == (7, 7)
    moved = 4 * (224 * 224 * 3 + found.params + 112 * 112 * 64)
    assert found.macs_per_byte == pytest.approx(found.macs / moved)
    assert found.keras == ('layers.Conv2D(64, 7, strides=2, padding="same")',)
    assert found.torch == ("nn.ZeroPad2d((2, 3, 2, 3))", "nn.Conv2d(3, 64, 7, stride=2)")
    (warning,) = [problem for problem in found.problems if problem.where == "Keras and PyTorch"]
    assert "1 px earlier" in warning.what


def test_what_the_warning_of_a_strided_same_says_is_so():
    """PyTorch's padding of 3 gives the same shape and other numbers: those of windows that start 1
    px earlier.
    """
    rng = np.random.default_rng(0)
    x, kernel = (
        rng.normal(size=(16, 16, 1)).astype(np.float32),
        [rng.normal(size=(2, 1, 7, 7)).astype(np.float32)],
    )
    found = layer((16, 16, 1), filters=2, kernel_size=7, strides=2, padding="same", use_bias=False)
    usual = ["nn.Conv2d(1, 2, 7, 2, 3, bias=False)"]
    ours, theirs = (torch_forward(lines, x, kernel) for lines in (found.torch, usual))
    assert ours.shape == theirs.shape
    assert not np.allclose(ours, theirs, atol=0.1)
    inside = np.s_[2:6, 2:6]
    moved = torch_forward(usual, np.roll(x, -1, axis=(0, 1)), kernel)
    np.testing.assert_allclose(moved[inside], ours[inside], atol=1e-4)


@each_kind
@settings(max_examples=CASES, deadline=None)
@given(seed=seeds)
def test_a_change_is_what_the_changed_layer_is(kind, seed):
    if (case := drawn(kind, seed)) is None:
        return
    _, found, *_ = case
    asked, shape = asked_for(kind, seed)
    for change in found.changes:
        names = change.parameter.split(" and ")
        assert all(asked.get(name) == change.before != change.after for name in names)
        changed = {**asked, **dict.fromkeys(names, change.after)}
        if change.output_shape is None:
            with pytest.raises(ConvwiseError):
                layer(shape, kind, **changed)
            assert change.problem
        else:
            then = layer(shape, kind, **changed)
            assert (change.output_shape, change.params, change.macs) == (
                then.output_shape,
                then.params,
                then.macs,
            )


@each_kind
def test_every_parameter_but_activations_and_words_has_a_step(kind):
    layer = KINDS[kind](**{p.name: 4 for p in L.parameters(KINDS[kind]) if p.default is REQUIRED})
    without = {p.name for p in L.parameters(layer) if not steps(layer, p, channels=4)}
    assert without == {p.name for p in L.parameters(layer) if isinstance(p, (Named, Word))}


def test_groups_step_to_what_divides():
    found = layer((8, 8, 12), filters=18, kernel_size=3, groups=2)
    assert [change.after for change in found.changes if change.parameter == "groups"] == [1, 3]


# --- Keras's output_padding -----------------------------------------------------------------------


OUTPUT_PADDINGS = [
    (3, 2, 0),
    (2, 3, 0),
    (3, 2, 1),
    (4, 3, 2),
    (4, 3, 1),
    (2, 3, 1),
    (5, 2, 1),
    (1, 2, 1),
]


@quiet
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("kernel", "stride", "extra"), OUTPUT_PADDINGS)
def test_output_padding_means_what_it_means_in_keras(padding, kernel, stride, extra):
    rng = np.random.default_rng(0)
    x, weights = (
        rng.normal(size=(5, 4, 2)),
        [
            rng.normal(size=(2, 3, kernel, kernel)),
            rng.normal(size=3),
        ],
    )
    x, weights = x.astype(np.float32), [each.astype(np.float32) for each in weights]
    keras = (
        f'layers.Conv2DTranspose(3, {kernel}, strides={stride}, padding="{padding}",'
        f" output_padding={extra})"
    )
    expected = keras_forward([keras], "Conv2DTranspose", x, weights)
    found = layer(x.shape, "Conv2DTranspose", filters=3, kernel_size=kernel, strides=stride,
                  padding=padding, output_padding=extra)  # fmt: skip
    assert found.output_shape == expected.shape
    np.testing.assert_allclose(
        keras_forward(found.keras, "Conv2DTranspose", x, weights), expected, atol=1e-4
    )
    np.testing.assert_allclose(torch_forward(found.torch, x, weights), expected, atol=1e-4)


@quiet
@pytest.mark.parametrize("extra", [None, 0, 1])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_step_beside_output_padding_gives_what_keras_gives(padding, extra):
    """Each step is of what was given: the kernel, the strides and the padding, as Keras combines
    them.
    """
    from keras import layers

    asked = {
        "filters": 4,
        "kernel_size": (3, 3),
        "strides": (2, 2),
        "padding": padding,
        "output_padding": extra,
    }
    found = layer((7, 5, 8), "Conv2DTranspose", **asked)
    shape = (None, 7, 5, 8)
    assert found.output_shape == tuple(
        layers.Conv2DTranspose(**asked).compute_output_shape(shape)[1:]
    )
    # Not in Keras
    steps = [
        change for change in found.changes if change.parameter not in ("groups", "dilation_rate")
    ]
    assert {change.parameter for change in steps} == {*asked, "use_bias"}
    for change in steps:
        told = {**asked, change.parameter: change.after}
        if change.output_shape is None:
            with pytest.raises(ValueError, match="strictly less than"):
                layers.Conv2DTranspose(**told)
        else:
            expected = layers.Conv2DTranspose(**told).compute_output_shape(shape)
            assert change.output_shape == tuple(expected[1:]), change


# --- activations ----------------------------------------------------------------------------------


def test_torch_nn_has_what_is_written():
    from torch import nn

    kinds = {row.torch.partition("(")[0] for row in ACTIVATIONS.values()}
    assert {kind for kind in kinds if not hasattr(nn, kind)} == kinds & OWN


CHANGED = ("elu(alpha=0.5)", "leaky_relu(negative_slope=0.01)", "relu(max_value=3.0)",
           "celu(alpha=2.0)",
           "hard_tanh(max_val=2.0)", "softplus(beta=2.0)")  # fmt: skip


@pytest.mark.parametrize("text", [*ACTIVATIONS, *CHANGED])
def test_activations_are_written_or_their_absence_is_said(text):
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(3, 3, 4)), [rng.normal(size=(4, 4, 1, 1)), rng.normal(size=4)]
    x, weights = 2 * x.astype(np.float32), [each.astype(np.float32) for each in weights]
    found = layer((3, 3, 4), filters=4, kernel_size=1, activation=text)
    said = [problem.where for problem in found.problems]
    keras, torch = (
        f"{name}, activation {activation(text)}" in said for name in ("Keras", "PyTorch")
    )
    assert any(line.startswith("#") for line in found.keras) == keras
    assert any(line.startswith("#") for line in found.torch) == torch
    if not keras and not torch:
        ours = torch_forward(found.torch, x, weights)
        np.testing.assert_allclose(
            keras_forward(found.keras, "Conv2D", x, weights), ours, atol=1e-4
        )


# --- findings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "asked", "said"),
    [
        ((9, 9, 3), {"kernel_size": 1, "strides": 3},
        "windows of 1x1 at strides 3x3 never read 89 % of the 9x9 map"),
        ((8, 9, 3), {"kernel_size": 2, "strides": 3, "padding": (0, 0, 0, 0)},
        "windows of 2x2 at strides 3x3 never"),
        ((10, 9, 3), {"kernel_size": 3, "strides": 2},
        "its windows never read the last 1 of 10 rows"),
        ((5, 5, 3), {"kernel_size": 7, "padding": "same"},
        "its kernel reaches 7x7 on a map of 5x5"),
        ((5, 5, 3), {"kernel_size": 1, "padding": (2, 0, 0, 0)},
        "2 of its 7 output rows see only padding; exp"),
        ((9, 9, 3), {"kernel_size": 3, "strides": 2, "dilation_rate": 2, "padding": "same"},
        "refuses strides 2x2"),
        ((9, 9, 3), {"kernel_size": 4, "padding": "same"}, "its even kernel 4x4"),
        ((8, 8, 3), {"type": "Conv2DTranspose", "kernel_size": 3, "strides": 2},
        "alternately sum 1 and 2 inputs"),
        ((7, 7, 3), {"type": "AveragePooling2D", "padding": "same"},
        "gives different means at the edge"),
        ((7, 7, 3), {"type": "AveragePooling2D", "strides": 1, "padding": "same"},
        "PyTorch: cannot exclude uneven"),
        ((7, 7, 3), {"type": "MaxPooling2D", "padding": (1, 0, 1, 0)},
        "(1, 0, 1, 0) of MaxPooling2D cannot be"),
        ((8, 8, 3), {"type": "DepthwiseConv2D", "kernel_size": 3, "strides": (1, 2)},
        "on TensorFlow does not accept"),
    ],
)  # fmt: skip
def test_a_finding_fires(shape, asked, said):
    filters = (
        {}
        if "Pooling" in asked.get("type", "") or "Depth" in asked.get("type", "")
        else {"filters": 8}
    )
    found = layer(shape, **{**filters, **asked})
    assert [str(problem) for problem in found.problems if said in str(problem)], found.problems


@pytest.mark.parametrize(
    ("shape", "asked"),
    [
        ((28, 28, 3), {"filters": 16, "kernel_size": 3, "padding": "same", "activation": "relu"}),
        ((27, 27, 3), {"filters": 16, "kernel_size": 3, "strides": 2}),
        ((8, 8, 16), {"type": "MaxPooling2D"}),
        (
            (8, 8, 16),
            {
                "type": "Conv2DTranspose",
                "filters": 8,
                "kernel_size": 4,
                "strides": 2,
                "padding": "same",
            },
        ),
        (
            (8, 8, 16),
            {"type": "SeparableConv2D", "filters": 8, "kernel_size": 3, "padding": "same"},
        ),
    ],
)
def test_an_ordinary_layer_has_no_findings(shape, asked):
    assert layer(shape, **asked).problems == ()


# --- impossible requests --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "asked", "clash", "fits"),
    [
        ((5, 6, 3), {"filters": 8, "kernel_size": 7}, "7x7 does not fit into a map of 5x6",
        "up to 5x6 or a map of"),
        ((5, 5, 3), {"filters": 8, "kernel_size": 3, "dilation_rate": 3}, "reaches over 7x7",
        "dilation_rate=1"),
        ((5, 5, 3), {"filters": 8, "kernel_size": 9, "padding": (1, 1, 1, 1)}, "9x9", "up to 7x7"),
        ((8, 8, 3), {"filters": 8, "kernel_size": 3, "groups": 2}, "3 input channels",
        "divide both 3 and 8: 1"),
        ((8, 8, 12), {"filters": 10, "kernel_size": 3, "groups": 4}, "10 filters",
        "filters 8 or 12"),
        ((2, 2, 3), {"type": "AveragePooling2D", "pool_size": 3}, "pool_size 3x3", "up to 2x2"),
        ((2, 2, 3), {"type": "Conv2DTranspose", "filters": 2, "kernel_size": 3, "padding": (2, 2, 2,
        2)},
         "removes all", "less than 4 rows"),
        ((4, 4, 3), {"type": "Conv2DTranspose", "filters": 2, "kernel_size": 3, "strides": 2,
        "output_padding": 2},
         "output_padding (2, 2) with strides (2, 2)", "below strides"),
    ],
)  # fmt: skip
def test_an_impossible_request_says_what_clashes_and_what_would_fit(shape, asked, clash, fits):
    with pytest.raises(ShapeError) as raised:
        layer(shape, **asked)
    assert clash in str(raised.value)
    assert fits in str(raised.value)


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_what_is_said_to_fit_does_fit(seed):
    rng = random.Random(seed)
    shape = (rng.randint(1, 6), rng.randint(1, 6), 3)
    asked = {"filters": 2, "kernel_size": (rng.randint(1, 9), rng.randint(1, 9)),
             "dilation_rate": rng.randint(1, 3),
             "padding": tuple(rng.randint(0, 1) for _ in range(4))}  # fmt: skip
    try:
        layer(shape, **asked)
    except ShapeError as error:
        rows, columns = map(int, re.search(r"kernel_size up to (\d+)x(\d+)", str(error)).groups())
        height, width = map(int, re.search(r"at least (\d+)x(\d+)", str(error)).groups())
        layer(shape, **{**asked, "kernel_size": (rows, columns)})
        layer((height, width, 3), **asked)
        layer(shape, **{**asked, "padding": "same"})
        for larger in ((rows + 1, columns), (rows, columns + 1)):
            with pytest.raises(ShapeError):
                layer(shape, **{**asked, "kernel_size": larger})


@pytest.mark.parametrize(
    ("kind", "asked", "said"),
    [("Conv3D", {}, "one of Conv2D"), ("Conv2D", {"kernel_size": 3}, "lacks filters"),
     ("MaxPooling2D", {"filters": 3}, "does not take filters"),
     ("Conv2D", {"filters": 0, "kernel_size": 3}, "at least 1")],
)  # fmt: skip
def test_wrong_parameters(kind, asked, said):
    with pytest.raises(UnusableInput, match=said):
        made(kind, asked)


HUGE = (
    (
        "1000000000x4x3",
        ("--kernel-size", "3"),
        "reads a map of 1000000000x4; expected at most 65,536",
    ),
    (
        "64x64x3",
        ("--kernel-size", "3", "--padding", "100000000"),
        "gives a map of 200000062x200000062",
    ),
    (
        "64x64x3",
        ("--kernel-size", "100000000", "--padding", "same"),
        "expected a whole number of at least 1, at most",
    ),
    ("64x64x3", ("--kernel-size", "9" * 5000), "expected a whole number"),
    ("9" * 5000 + "x4x3", ("--kernel-size", "3"), "HEIGHTxWIDTHxCHANNELS"),
)


@pytest.mark.parametrize(("shape", "words", "said"), HUGE, ids=range(len(HUGE)))
def test_numbers_too_large_to_list_are_refused(shape, words, said):
    ended = run(shape, "--filters", "4", *words)
    assert isinstance(ended.exception, ConvwiseError)
    assert said in str(ended.exception)


@pytest.mark.parametrize("words", [("--kernel-size", "9999"), ("--kernel-size", "65536",
                                   "--padding", "same"),
                                   ("--kernel-size", "65535", "--padding", "same", "--strides",
                                   "7")])  # fmt: skip
def test_the_largest_numbers_are_answered_in_seconds(words):
    started = time.process_time()
    assert run("65536x65536x3", "--filters", "4", *words).exit_code == 0
    assert time.process_time() - started < 10


# --- the command ----------------------------------------------------------------------------------


SIMPLE = (
    "224x224x3",
    "--filters",
    "64",
    "--kernel-size",
    "7",
    "--strides",
    "2",
    "--padding",
    "same",
)


def test_json_has_the_promised_keys():
    told = json.loads(run(*SIMPLE, "--json").stdout)
    assert told["output_shape"] == [112, 112, 64]
    assert told["pads"] == [2, 3, 2, 3]
    assert (told["params"], told["macs"], told["activation_bytes"]) == (9472, 118013952, 3211264)
    assert told["receptive_field"] == [7, 7]
    assert told["keras"] == ['layers.Conv2D(64, 7, strides=2, padding="same")']
    assert told["torch"] == ["nn.ZeroPad2d((2, 3, 2, 3))", "nn.Conv2d(3, 64, 7, stride=2)"]
    assert {"where", "what", "expected", "fix"} <= set(told["problems"][0])
    assert told["layer"] == {
        "type": "Conv2D",
        "filters": 64,
        "kernel_size": [7, 7],
        "strides": [2, 2],
        "padding": "same",
    }
    assert (told["measured_ms"], told["predicted_ms"]) == (None, None)


def test_the_text_says_it_in_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    told = run(*SIMPLE).stdout
    assert max(map(len, told.splitlines())) <= 80
    for word in ("112x112x64", "top 2, bottom 3", "9,472", "118,013,952",
                 "nn.ZeroPad2d((2, 3, 2, 3))", "--time",
                 "each row and column is read 2 to 4 times"):  # fmt: skip
        assert word in told


def test_the_picture():
    words = (
        "8x8x1",
        "--filters",
        "1",
        "--kernel-size",
        "3",
        "--strides",
        "2",
        "--padding",
        "1,0,0,0",
    )
    lines = run(*words).stdout.splitlines()
    start = lines.index("How often each input is read, along rows ('.' padding, 'x' never)")
    assert lines[start + 1 : start + 6] == [
        "  .12121211",
        "  ###  first window",
        "    ###  second",
        "        ###  last",
        "  each row is read 1 to 2 times",
    ]
    start = lines.index("How often each input is read, along columns ('.' padding, 'x' never)")
    assert lines[start + 1] == "  1121211x"
    assert lines[start + 5] == "  each column is read 1 to 2 times, but 1 of 8 never"


def test_the_picture_of_a_large_map_shows_its_ends():
    lines = run(*SIMPLE).stdout.splitlines()
    (strip,) = [line for line in lines if line.startswith("  ..")]
    assert strip == "  ..223343434343 ... 434343434332..."
    assert next(line for line in lines if line.endswith("  last")) == 29 * " " + "#######  last"


@pytest.mark.parametrize(
    ("words", "parameter", "value"),
    [(("--kernel-size", "3x5"), "kernel_size", [3, 5]), (("--padding", "1"), "padding", [1, 1, 1,
    1]),
     (("--padding", "1,2"), "padding", [1, 1, 2, 2]), (("--padding", "0,1,2,3"), "padding", [0, 1,
     2, 3]),
     (("--no-bias",), "use_bias", False), (("--activation", "swish"), "activation", "silu"),
     (("--dilation-rate", "2"), "dilation_rate", [2, 2]), (("--groups", "2"), "groups", 2)],
)  # fmt: skip
def test_options(words, parameter, value):
    ended = run("12x12x4", "--filters", "4", "--kernel-size", "3", *words, "--json")
    assert json.loads(ended.stdout)["layer"][parameter] == value


def test_options_of_pools():
    words = ("12x11x4", "--type", "AveragePooling2D", "--pool-size", "2", "--padding", "1")
    told, changed = (
        run(*words, "--json"),
        run(*words, "--ceil-mode", "--count-include-pad", "--json"),
    )
    before, after = json.loads(told.stdout), json.loads(changed.stdout)
    assert (before["layer"].get("ceil_mode"), after["layer"]["ceil_mode"]) == (None, True)
    assert (before["torch"], after["torch"]) == (
        ["nn.AvgPool2d(2, padding=1, count_include_pad=False)"],
        ["nn.AvgPool2d(2, padding=1)"])  # fmt: skip
    assert {"ceil_mode", "count_include_pad"} <= {
        change["parameter"] for change in after["changes"]
    }


def test_the_help_names_every_type():
    assert tuple(KINDS) == cli_layer.TYPES


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_by_command(kind):
    filters = ("--filters", "4") if kind in ("Conv2D", "SeparableConv2D", "Conv2DTranspose") else ()
    kernel = () if "Pooling" in kind else ("--kernel-size", "3")
    ended = run("12x10x4", "--type", kind.lower(), *filters, *kernel)
    assert ended.exit_code == 0
    assert ended.stdout.startswith(f"{kind} on 12x10x4 gives ")


@pytest.mark.parametrize(
    ("words", "said"),
    [(("12x12", "--filters", "4"), "HEIGHTxWIDTHxCHANNELS"), (("12x12x3",),
    "lacks filters and kernel_size"),
     (("0x12x3", "--filters", "4", "--kernel-size", "3"), "at least 1"), (("12x12x3", "--padding",
     "most"), "same, v"),
     (("12x12x3", "--kernel-size", "3x3x3"), "--kernel-size"), (("12x12x3", "--type", "Dense"),
     "one of Conv2D"),
     (("12x12x3", "--filters", "many"), "--filters"), (("12x12x3", "--groups", "2x2"), "--groups"),
     (("12x12x3", "--filters", "4", "--kernel-size", "3", "--activation", "glow"),
     "one of linear, relu")],
)  # fmt: skip
def test_wrong_usage(words, said):
    ended = run(*words)
    assert isinstance(ended.exception, ConvwiseError)
    assert ended.exception.exit_code == 2
    assert said in str(ended.exception)
    assert len(str(ended.exception).splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [(), ("12x12x3", "13x13x3"), ("12x12x3", "--sides", "4"), ("12x12x3", "--filters")],
    ids=str,
)
def test_wrong_usage_that_typer_finds(words):
    ended = run(*words)
    assert ended.exit_code == 2
    assert isinstance(ended.exception, SystemExit)


def test_help():
    told = run("--help").stdout
    assert all(
        f"--{name}" in told
        for name in ("filters", "kernel-size", "no-bias", "time", "output-padding")
    )


def test_the_command_loads_core_alone():
    """Which is why it starts at once."""
    code = (
        "import sys, typer; from convwise.cli.layer import Words, layer\napp ="
        " typer.Typer(rich_markup_mode=None, add_completion=False);"
        f" app.command(cls=Words)(layer)\napp({list(SIMPLE)}, standalone_mode=False)\nassert not"
        f" {HEAVY} & set(sys.modules), {HEAVY} & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "112x112x64" in done.stdout


def test_time_is_measured_when_asked(monkeypatch):
    from convwise.core.space import LatencyModel
    from convwise.training import machine

    monkeypatch.setattr(machine, "latency_model", lambda: LatencyModel(0.5, 1e-6, 0, margin=1.2))
    told = json.loads(
        run("8x8x3", "--filters", "4", "--kernel-size", "3", "--time", "--json").stdout
    )
    assert told["measured_ms"] > 0
    assert told["predicted_ms"] == pytest.approx(0.5 + 1e-6 * told["macs"])


def test_activation_with_arguments_goes_to_a_line_of_its_own():
    found = torch_lines(L.Conv2D(4, 3, activation="elu(alpha=0.5)"), (8, 8, 3))
    assert found.lines == ("nn.Conv2d(3, 4, 3)", "nn.ELU(alpha=0.5)")
