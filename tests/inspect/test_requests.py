"""What people type for a shape or a parameter, at both doors, and what they are told to do next."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import convwise
from convwise.cli import layer as cli_layer
from convwise.cli.check import parse_shape
from convwise.core import layers as L
from convwise.core.net import Net
from convwise.core.problems import ConvwiseError, ShapeError, UnusableInput
from convwise.examining import check
from convwise.inspect.models import load
from convwise.inspect.requests import INSTEAD, input_shape
from convwise.inspect.single import layer
from onnx_graphs import floats, model_of, node

app = typer.Typer(pretty_exceptions_enable=False)
app.command(cls=cli_layer.Words)(cli_layer.layer)
FREE = Net((8, 8, 3), (L.Conv2D(2, 3),))


@pytest.mark.parametrize(
    "given",
    ["32x24x3", "32X24X3", "32,24,3", "(32, 24, 3)", "32 x 24 x 3", "32x24x3,", (32, 24, 3), [32,
    24, 3],
     np.array([32, 24, 3]), tuple(np.int64(n) for n in (32, 24, 3))],
)  # fmt: skip
def test_a_shape_is_read_in_any_form(given):
    shape = input_shape(given)
    assert shape == (32, 24, 3)
    assert all(type(n) is int for n in shape)
    assert load(FREE, given).net.input_shape == (32, 24, 3)
    assert layer(given, filters=2, kernel_size=3).output_shape == (30, 22, 2)


@pytest.mark.parametrize(
    ("given", "said", "fix"),
    [
        (32, "one number", "input_shape=(32, 32, 3)"),
        (
            (32, 24),
            "without the channels",
            "input_shape=(32, 24, 3) for colour images, input_shape=(32, 24, 1) for",
        ),
        ((1, 32, 24, 3), "with the batch", "input_shape=(32, 24, 3)"),
        ((1, 3, 32, 24), "with the batch", "input_shape=(32, 24, 3)"),
        ((None, 32, 24, 3), "with the batch", "input_shape=(32, 24, 3)"),
        ((32, 24, 0), "is (32, 24, 0)", "input_shape=(224, 224, 3)"),
        ((32.0, 24, 3), "is (32.0, 24, 3)", "input_shape=(224, 224, 3)"),
        ("big", "is 'big'", "input_shape=(224, 224, 3)"),
        ({"height": 3}, "is {'height': 3}", "input_shape=(224, 224, 3)"),
    ],
)
def test_what_is_no_shape_is_said_with_one_that_would_be(given, said, fix):
    for call in (lambda: input_shape(given), lambda: check(FREE, input_shape=given)):
        with pytest.raises(UnusableInput) as error:
            call()
        assert said in error.value.problem.what
        assert error.value.problem.fix.startswith(fix)


def test_a_fix_for_a_shape_works_when_typed():
    with pytest.raises(UnusableInput) as error:
        parse_shape("1x3x32x24")
    option, shape = error.value.problem.fix.split()
    assert option == "--input-shape"
    assert parse_shape(shape) == (32, 24, 3)


def test_channels_that_come_first_are_told_apart_from_the_height():
    with pytest.raises(ShapeError) as error:
        check(FREE, input_shape=(1, 28, 28))
    assert "height 1, width 28 and 28 channels" in str(error.value)
    assert error.value.problem.fix == "input_shape=(28, 28, 1)"
    with pytest.raises(ShapeError) as error:
        layer("1x28x28", filters=4, kernel_size=3)
    assert error.value.problem.fix == "28x28x1"
    # A map of one row may be what is meant
    assert layer("1x28x28", filters=4, kernel_size=1).output_shape == (1, 28, 4)
    with pytest.raises(ConvwiseError, match="filters"):
        layer("1x28x28", kernel_size=3)


def test_channels_that_may_come_first_are_told_where_the_shape_fits():
    """64 channels of a 3x64 map are read as they stand, but few mean that."""
    (note,) = layer("3x64x64", filters=4, kernel_size=3).problems
    assert (note.severity, note.where) == ("note", "input")
    assert note.fix.startswith("64x64x3,")
    assert layer(note.fix.partition(",")[0], filters=4, kernel_size=3).problems == ()
    found = check(FREE, input_shape=(4, 28, 28))
    assert any(problem.fix.startswith("input_shape=(28, 28, 4)") for problem in found.problems)
    assert not any(
        "channels last" in problem.expected
        for problem in check(FREE, input_shape=(28, 28, 4)).problems
    )


def test_a_parameter_of_another_layer_names_that_layer():
    with pytest.raises(UnusableInput) as error:
        layer("32x32x3", pool_size=2)
    fix = error.value.problem.fix
    assert "MaxPooling2D" in fix
    assert layer("32x32x3", "MaxPooling2D", pool_size=2).output_shape == (16, 16, 3)


def test_what_a_parameter_is_stands_in_what_is_expected_and_is_no_fix():
    with pytest.raises(UnusableInput) as error:
        layer("32x32x3", filters=0, kernel_size=3)
    assert "output channels" in error.value.problem.expected
    assert error.value.problem.fix == ""


def test_errors_of_the_file_are_not_the_shapes(tmp_path):
    with pytest.raises(UnusableInput, match="does not exist"):
        check(tmp_path / "gone.keras", input_shape=(3, 32, 32))
    (tmp_path / "net.json").write_text("{")
    with pytest.raises(UnusableInput, match=rf"does not exist.*Fix: {tmp_path / 'net.json'}"):
        check(tmp_path / "nets.json")
    with pytest.raises(UnusableInput, match=r"net\.json: is not JSON"):
        check(tmp_path / "net.json", input_shape=(3, 32, 32))


def test_a_size_that_is_asked_for_is_typed_as_the_door_takes_it():
    model = model_of([node("Conv", "x,k")], {"k": floats(2, 1, 3, 3)}, ("n", 1, "h", "w"))
    with pytest.raises(UnusableInput) as error:
        load(model)
    assert error.value.problem.fix.startswith("input_shape=(224, 224, 1)")
    with pytest.raises(UnusableInput) as error:
        load(model, None, "--input-shape")
    option, shape, *_ = error.value.problem.fix.split()
    assert (option, parse_shape(shape)) == ("--input-shape", (224, 224, 1))


PLAIN = layer((12, 12, 4), filters=4, kernel_size=3, padding="same").layer


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ({"padding": "SAME"}, PLAIN.padding),
        ({"padding": "Valid"}, "valid"),
        ({"padding": "1"}, (1, 1, 1, 1)),
        ({"padding": "1,2"}, (1, 1, 2, 2)),
        ({"padding": "0x1x2x3"}, (0, 1, 2, 3)),
        ({"kernel_size": "3X5"}, (3, 5)),
        ({"kernel_size": "3,5"}, (3, 5)),
        ({"kernel_size": "(3, 5)"}, (3, 5)),
        ({"strides": "2"}, (2, 2)),
        ({"filters": "16"}, 16),
    ],
)
def test_words_mean_the_same_at_both_doors(typed, meant):
    asked = {"filters": "4", "kernel_size": "3", **typed}
    (name,) = typed
    assert getattr(layer("12x12x4", **asked).layer, name) == meant
    words = [word for key, value in asked.items() for word in (f"--{key.replace('_', '-')}", value)]
    ended = CliRunner().invoke(app, ["12x12x4", "--type", "CONV2D", *words, "--json"])
    assert ended.exit_code == 0, ended.exception
    told = json.loads(ended.stdout)["layer"].get(name, "valid")
    assert told == (list(meant) if isinstance(meant, tuple) else meant)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"padding": 1}, (1, 1, 1, 1)),
        ({"padding": (1, 2)}, (1, 1, 2, 2)),
        ({"padding": ((1, 0), (2, 3))}, (1, 0, 2, 3)),
        ({"kernel_size": np.array([3, 5])}, (3, 5)),
        ({"kernel_size": np.int64(5)}, (5, 5)),
        ({"filters": np.int32(16)}, 16),
        ({"use_bias": np.False_}, False),
    ],
)
def test_numbers_of_every_kind_are_numbers(given, meant):
    (name,) = given
    assert (
        getattr(
            convwise.layer(
                (12, 12, 4), "conv2d", **{"filters": 4, "kernel_size": 3, **given}
            ).layer,
            name,
        )
        == meant
    )


@pytest.mark.parametrize(("name", "value"), [("kernel_size", "large"), ("kernel_size", 2.5),
                                             ("filters", True),
                                             ("padding", -1), ("strides", "2x2x2")])  # fmt: skip
def test_what_is_no_value_is_said_with_the_parameters_name(name, value):
    with pytest.raises(UnusableInput, match=f"Conv2D.{name}: is "):
        layer("12x12x4", **{"filters": 4, "kernel_size": 3, name: value})


# --- models that are none -------------------------------------------------------------------


class Idle:
    """A class of somebody's own."""


@pytest.mark.parametrize(
    ("model", "said", "fix"),
    [
        (Idle, "is the class Idle", "Idle(...)"),
        (lambda: None, "is the function", "call it"),
        ({"conv.weight": 1}, "weights without their network", "load them into it"),
        (Idle(), "is of type Idle", ""),
        (
            type("Served", (), {"__module__": "tensorflow.saved_model"})(),
            "is of type Served",
            "tf2onnx.convert",
        ),
        (
            type("ExportedProgram", (), {"__module__": "torch.export", "__call__": print})(),
            "is of type",
            "model.pt2",
        ),
        (None, "is None", "return the model"),
    ],
)
def test_what_is_no_model_is_said_with_what_to_do(model, said, fix):
    with pytest.raises(UnusableInput) as error:
        check(model)
    assert said in error.value.problem.what
    assert fix in error.value.problem.fix


@pytest.mark.parametrize("suffix", INSTEAD)
def test_files_that_are_not_read_have_a_next_step(tmp_path, suffix):
    (tmp_path / f"model{suffix}").write_bytes(b"x")
    with pytest.raises(UnusableInput) as error:
        check(tmp_path / f"model{suffix}")
    assert error.value.problem.fix == INSTEAD[suffix]


def test_folders_of_others_have_a_next_step(tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/saved_model.pb").write_bytes(b"x")
    with pytest.raises(UnusableInput, match="tf2onnx.convert --saved-model"):
        check(tmp_path / "saved")
    (tmp_path / "net.onnx").write_bytes(b"x")
    with pytest.raises(UnusableInput, match="give a file in it: .*net.onnx"):
        check(tmp_path)
    with pytest.raises(UnusableInput, match=r"Fix: torchvision\.models:resnet18$"):
        check("torchvision.models.resnet18")


def test_a_model_that_prints_leaves_standard_output_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loud_one.py").write_text(
        "from convwise.core.net import Net\nfrom convwise.core import layers as"
        " L\nprint('imported')\ndef small():\n    print('made')\n    return Net((8, 8, 1),"
        " (L.Conv2D(4, 3),))\n"
    )
    assert load("loud_one:small").net.input_shape == (8, 8, 1)
    sys.modules.pop("loud_one")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "imported\nmade\n")
