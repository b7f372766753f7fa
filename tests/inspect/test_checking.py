"""`convwise check`: models of every kind to a net, and what is said of it as JSON, as text and as
exit code.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

import convwise
from convwise.cli import check as cli_check
from convwise.cli import console
from convwise.core import layers as L
from convwise.core.calculus import analyse
from convwise.core.net import Net
from convwise.core.problems import ShapeError, UnusableInput
from convwise.evidence import bench, records
from convwise.examining import check
from convwise.formats import json as net_json
from convwise.formats.lifted import Lifted
from convwise.inspect import checking, models
from convwise.inspect.checking import checked, to_json
from convwise.inspect.models import load
from imagesets import striped
from screens import is_a_screen

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(cli_check.check)

SOUND = Net((16, 16, 3), (L.Conv2D(16, 3, 2, "same", activation="relu", name="stem"), L.Conv2D(16,
            3, padding="same", activation="relu"), L.GlobalAveragePooling2D(), L.Dense(4,
            activation="softmax")))  # fmt: skip
WRONG = Net((16, 16, 3), (*SOUND.layers[:3], L.Dense(1, activation="softmax", name="out")))
OPAQUE = Net((16, 16, 3), (L.Conv2D(8, 3, name="conv"), L.Opaque("Fancy[op]", (14, 14, 8),
             name="odd"), L.Conv2D(8, 3, name="late")))  # fmt: skip


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "net.json"
    path.write_text(net_json.render(SOUND, ("a", "b", "c", "d")))
    return path


@pytest.fixture
def module(tmp_path, monkeypatch) -> Path:
    """A module of the user's own in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my_models.py"
    path.write_text(
        "from convwise.core.net import Net\n"
        "from convwise.core import layers as L\n"
        "def small(): return Net((8, 8, 1), (L.Conv2D(4, 3),))\n"
        "def sized(input_shape=(8, 8, 1), weights='imagenet'):\n"
        "    assert weights is None\n"
        "    return Net(input_shape, (L.Conv2D(4, 3),))\n"
        "ready = small()\n"
        "def broken(): raise KeyError('no such\\nthing')\n"
        "def leaves(): raise SystemExit(3)\n"
        "def wants(width): return width\n"
        "number = 7\n"
        "class Space: inner = small\n"
    )
    yield path
    sys.modules.pop("my_models", None)


# --- load -----------------------------------------------------------------------------------


def test_a_net_file_gives_its_net_and_classes(file):
    lifted = load(file)
    assert (lifted.net, lifted.classes) == (SOUND, ("a", "b", "c", "d"))
    assert load(str(file)).net == load(SOUND).net == load(lifted).net == SOUND


def test_a_choice_folder_is_read_with_and_without_weights(tmp_path):
    (tmp_path / "choice.json").write_text(json.dumps({"net": SOUND.to_json(), "data": {}}))
    assert load(tmp_path).net == SOUND
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UnusableInput, match="cannot be read"):
        load(tmp_path)


def test_weights_travel_and_stay_behind_where_they_do_not_fit(tmp_path):
    torch_format = pytest.importorskip("convwise.formats.torch")
    flat = Net(
        (8, 8, 1), (L.Conv2D(2, 3, name="conv"), L.Flatten(), L.Dense(3, activation="softmax"))
    )
    weights = torch_format.weights(torch_format.build(flat), flat)
    torch_format.save(tmp_path, flat, weights, ("a", "b", "c"))
    lifted = load(tmp_path / "model.safetensors")
    assert lifted.net == flat
    np.testing.assert_array_equal(lifted.weights["conv/kernel"], weights["conv/kernel"])
    assert load(tmp_path, (8, 8, 1)).weights
    other = load(tmp_path, (9, 9, 1))
    assert other.net.input_shape == (9, 9, 1)
    assert other.weights == {}


def _with(*layers: dict, **more: object) -> str:
    """A net's JSON, with layers and keys more."""
    conv = {"type": "Conv2D", "filters": 2, "kernel_size": 3}
    return json.dumps({"input_shape": [8, 8, 1], "layers": [conv, *layers], **more})


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("gone.keras", None, "does not exist"),
        ("net.json", "{", "is not JSON"),
        ("net.json", "[1]", "cannot be read"),
        (
            "net.json",
            '{"input_shape": [8, 8, 1], "layers": [{"type": "Lambda"}]}',
            "has type 'Lambda'",
        ),
        ("net.json", '{"input_shape": [8, 8, 1], "layers": [3]}', "is not a net"),
        ("net.json", '{"input_shape": [8, 8, 1], "layers": 3}', "cannot be read"),
        ("net.json", _with(classes=5), "has classes 5; expected a list of names"),
        ("net.json", _with(classes="ab"), "has classes 'ab'"),
        (
            "net.json",
            _with({"type": "Opaque", "operator": "x", "output_shape": []}),
            "Opaque.output_shape: is ()",
        ),
        (
            "net.json",
            _with({"type": "Opaque", "operator": "x", "output_shape": [5, 0, -5]}),
            "is (5, 0, -5)",
        ),
        (
            "net.json",
            _with({"type": "Dense", "units": 2, "shares": "conv2d"}),
            "expected an earlier Dense",
        ),
        ("model.h5", "", 'model.save("model.keras")'),
        ("model.py", "", "module:callable"),
        ("model", "", "file without a suffix"),
        ("model.safetensors", "", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence(tmp_path, name, text, said):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(UnusableInput) as error:
        load(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("start", ["[", '{"net": '])
def test_json_that_is_nested_too_deeply_is_said_in_one_sentence(tmp_path, start):
    (tmp_path / "net.json").write_text(start * 100_000)
    with pytest.raises(UnusableInput, match="is not JSON: maximum recursion depth"):
        load(tmp_path / "net.json")


def test_a_file_larger_than_any_net_is_not_read(tmp_path):
    with (tmp_path / "net.json").open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(UnusableInput, match="is larger than 16 MB"):
        load(tmp_path / "net.json")


def test_an_empty_folder_is_none(tmp_path):
    with pytest.raises(UnusableInput, match="holds neither"):
        load(tmp_path)


def test_a_net_that_does_not_fit_says_where():
    with pytest.raises(ShapeError, match="layer conv2d"):
        to_json(check(Net((2, 2, 1), (L.Conv2D(1, 3),))))


@pytest.mark.usefixtures("module")
def test_a_callable_is_called():
    before = list(sys.path)
    assert load("my_models:small").net.input_shape == (8, 8, 1)
    assert load("my_models:ready").net.input_shape == (8, 8, 1)
    assert load("my_models:Space.inner").net.input_shape == (8, 8, 1)
    assert load("my_models:sized").net.input_shape == (8, 8, 1)
    assert load("my_models:sized", (9, 7, 2)).net.input_shape == (9, 7, 2)
    assert sys.path == before


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "not_there_at_all:small",
            "cannot be imported: ModuleNotFoundError: No module named 'not_there_at_all'",
        ),
        ("my_models:smal", "has no smal; expected package.module:callable. Fix: small"),
        ("my_models:broken", "cannot be called: KeyError: 'no such"),
        ("my_models:leaves", "cannot be called: SystemExit: 3"),
        ("my_models:wants", "cannot be called: TypeError"),
        ("my_models:number", "is of type int"),
    ],
)
def test_a_callable_that_is_none_is_said_in_one_sentence(text, said):
    with pytest.raises(UnusableInput) as error:
        load(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_is_called_that_was_not_asked_for(tmp_path, monkeypatch):
    """A file of that name is a file, and importing does not happen for what is no callable."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    with pytest.raises(UnusableInput, match="is a .py"):
        load("trap.py")
    with pytest.raises(UnusableInput, match="does not exist"):
        load("trap")


def test_a_name_that_is_not_there_is_told_what_models_are_near(tmp_path):
    """A text beside it is no model, whatever it is called."""
    (tmp_path / "signs.txt").write_text("of signs")
    with pytest.raises(UnusableInput) as error:
        load(str(tmp_path / "signs"))
    assert not error.value.problem.fix
    (tmp_path / "sign").mkdir()
    (tmp_path / "signs.onnx").write_bytes(b"")
    with pytest.raises(UnusableInput) as error:
        load(str(tmp_path / "signs"))
    assert set(error.value.problem.fix.split(" or ")) == {
        str(tmp_path / "sign"),
        str(tmp_path / "signs.onnx"),
    }


def test_live_models_are_told_apart_by_their_classes_names(monkeypatch):
    def kind(package: str, name: str, *bases: type) -> type:
        return type(name, bases or (object,), {"__module__": f"{package}.inside"})

    asked: list[tuple[str, object]] = []
    reader = SimpleNamespace(lift=lambda live, shape: load(SOUND))
    monkeypatch.setattr(models, "import_module", lambda name: asked.append((name, 0)) or reader)
    module_kind = kind("torch", "Module")
    for made in (module_kind, kind("mine", "Net2", module_kind), kind("keras", "Model",
                 module_kind), kind("onnx", "ModelProto")):  # fmt: skip
        assert load(made(), (16, 16, 3)).net == SOUND
    with pytest.raises(UnusableInput, match=r"input_shape=\(224, 224, 3\)"):
        load(module_kind())
    assert [name.split(".")[2] for name, _ in asked] == ["torch", "torch", "keras", "onnx"]
    with pytest.raises(UnusableInput, match="is a dict"):
        load({})


def test_a_network_of_keras_applications_gets_no_error():
    found = checked(load("keras.applications:MobileNet", (64, 64, 3)))
    assert found.analysis.total.params == 4_253_864
    assert not found.is_wrong


def test_a_part_of_what_a_callable_makes_is_named_behind_it(tmp_path, monkeypatch):
    """And a refusal that tells to give that part says so as it is typed."""
    (tmp_path / "my_detectors.py").write_text(DETECTOR)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UnusableInput, match=r"Fix: give the part of it .*\(\.backbone\): (\S+)$"
    ) as error:
        load("my_detectors:detector", (16, 16, 3))
    typed = str(error.value).rpartition(" ")[2]
    assert typed == "my_detectors:detector.backbone"
    assert analyse(load(typed, (16, 16, 3)).net).total.params == 224
    assert analyse(load("my_detectors:Detector.backbone", (16, 16, 3)).net).total.params == 224
    with pytest.raises(
        UnusableInput, match="has no backbon; expected package.module:callable. Fix: backbone"
    ):
        load("my_detectors:detector.backbon", (16, 16, 3))


DETECTOR = """
import torch

class Detector(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Conv2d(3, 8, 3)

    def forward(self, images: list[torch.Tensor]):
        return [self.backbone(image[None]) for image in images]

def detector():
    return Detector()
"""


def test_a_live_module_is_read():
    nn = pytest.importorskip("torch.nn")
    lifted = load(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()), (10, 12, 3))
    assert analyse(lifted.net).total.params == 224


def test_a_pickle_is_not_opened(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"\x80\x04c__builtin__\neval\n.")
    with pytest.raises(UnusableInput):
        load(tmp_path / "model.pt")


# --- the answer -----------------------------------------------------------------------------


def test_the_answer_as_json_is_the_designs():
    answer = json.loads(json.dumps(to_json(check(SOUND))))
    assert answer["input_shape"] == [16, 16, 3]
    first = answer["layers"][0]
    expected = {"name": "stem", "op": "Conv2D", "inputs": ["input"], "output_shape": [8, 8, 16],
                "params": 27 * 16 + 16, "macs": 27 * 16 * 64,
                "activation_bytes": 4 * 16 * 64}  # fmt: skip
    assert {key: first[key] for key in expected} == expected
    field = first["receptive_field"]
    assert (field["size"], field["stride"], field["padding"]) == ([3, 3], [2, 2], [0, 0])
    total = analyse(SOUND).total
    assert {key: answer["total"][key] for key in ("params", "macs", "activation_bytes")} == {
        "params": total.params, "macs": total.macs, "activation_bytes": total.activation_bytes
    }  # fmt: skip
    assert answer["total"]["receptive_field"]["size"] == [7, 7]
    keys = {"where", "what", "expected", "fix", "severity", "count", "rule", "source", "layers"}
    assert all(set(row) == keys for row in answer["problems"])


def test_what_is_not_known_is_null():
    answer = to_json(check(OPAQUE))
    odd, late = answer["layers"][1:]
    assert (odd["op"], odd["operator"]) == ("Opaque", "Fancy[op]")
    assert odd["macs"] is odd["params"] is odd["receptive_field"] is late["receptive_field"] is None
    assert late["macs"] == 12 * 12 * 8 * 72
    total, least = answer["total"], answer["total"]["at_least"]
    assert total["unknown"] == ["odd"]
    assert {name for name, value in total.items() if value is None} == set(least)
    assert set(least) == {"params", "trainable", "macs", "elementwise", "activation_bytes",
                          "peak_bytes",
                          "receptive_field"}  # fmt: skip
    assert least["params"] == 8 * 27 + 8 + 8 * 72 + 8
    assert least["macs"] == 14 * 14 * 8 * 27 + 12 * 12 * 8 * 72
    assert least["receptive_field"] == {"size": [3, 3]}
    assert to_json(check(SOUND))["total"]["at_least"] == {}


def test_work_of_known_size_that_looks_where_nobody_knows_leaves_only_the_field_open():
    product = L.Opaque("MatMul", (14, 14, 8), 0, 1000, 0, name="product")
    total = to_json(check(Net((16, 16, 3), (L.Conv2D(8, 3), product))))["total"]
    assert total["macs"] == 14 * 14 * 8 * 27 + 1000
    assert total["params"] == 8 * 27 + 8
    assert set(total["at_least"]) == {"receptive_field"}


def test_places_that_attend_to_each_other_leave_the_field_open():
    """As in a vision transformer: patches of 4 px, and then everything with everything."""
    tokens = (
        L.Conv2D(8, 4, 4),
        L.Reshape((16, 8)),
        L.Opaque("Attention", (16, 8), 0, 4096, 0),
        L.Dense(8),
    )
    net = Net((16, 16, 3), (*tokens, L.Flatten(), L.Dense(3)))
    answer = to_json(check(net))
    assert answer["layers"][1]["receptive_field"]["size"] == [4, 4]
    assert answer["total"]["receptive_field"] is None
    assert answer["total"]["at_least"] == {"receptive_field": {"size": [4, 4]}}
    whole = to_json(check(Net((16, 16, 3), (*tokens[:2], *tokens[3:], L.Flatten()))))
    assert whole["layers"][-1]["receptive_field"]["size"] == [16, 16]


HEADS = Net((8, 8, 3), (L.Conv2D(4, 3, name="stem"), L.Conv2D(2, 1, name="aux"),
            L.Conv2D(9, 1, name="lost", inputs=("stem",)),
            L.Conv2D(5, 1, name="out", inputs=("stem",))))  # fmt: skip


def test_every_output_and_what_none_reads_are_counted_and_named():
    answer = to_json(check(Lifted(HEADS, outputs=("aux",))))
    assert answer["outputs"] == ["out", "aux"]
    assert answer["total"]["unread"] == ["lost"]
    assert answer["total"]["params"] == (27 * 4 + 4) + (4 * 2 + 2) + (4 * 9 + 9) + (4 * 5 + 5)
    said = {row["where"]: row["what"] for row in answer["problems"]}
    assert "2 outputs: out, aux" in said["model"]
    assert "10 parameters and 288 macs of the totals" in said["model"]
    assert "45 parameters and 1,296 macs are spent without effect" in said["lost"]


def test_squeeze_and_excitation_leaves_both_fields():
    """Of MobileNetV3-Small papers say 639 px; through its gates a unit sees the image and its
    padding.
    """
    gate = (
        L.GlobalAveragePooling2D(True, name="mean", inputs=("two",)),
        L.Conv2D(4, 1, name="gate"),
    )
    convs = L.Conv2D(4, 3, padding="same", name="one"), L.Conv2D(4, 3, padding="same", name="two")
    net = Net((16, 16, 3), (*convs, *gate, L.Multiply(inputs=("two", "gate")), L.Conv2D(4, 3)))
    field = to_json(check(net))["total"]["receptive_field"]
    assert field["convolutions"] == [7, 7]
    assert field["size"] == [16 + 4, 16 + 4]  # the padding of both convolutions besides


# --- the command ----------------------------------------------------------------------------


def run(*words: object) -> SimpleNamespace:
    ended = CliRunner().invoke(app, [str(word) for word in words])
    return SimpleNamespace(code=ended.exit_code, out=ended.stdout, error=ended.exception)


@pytest.fixture
def written(tmp_path):
    def write(net: Net) -> Path:
        (tmp_path / "some.json").write_text(json.dumps(net.to_json()))
        return tmp_path / "some.json"

    return write


def test_exit_codes(written):
    assert run(written(SOUND)).code == 0
    assert run(written(WRONG), "--json").code == 1
    assert isinstance(run("not_there.onnx").error, UnusableInput)


def test_json_is_all_that_is_printed(written):
    ended = run(written(WRONG), "--json")
    answer = json.loads(ended.out)
    assert answer["problems"][0]["severity"] == "error"
    assert answer["problems"][0]["where"] == "out"
    assert answer == to_json(check(WRONG))


@pytest.fixture
def wide(monkeypatch) -> None:
    """Standard output as it is, on any terminal."""
    monkeypatch.setenv("COLUMNS", "180")
    monkeypatch.setattr(cli_check, "out", console.out.__wrapped__)


@pytest.mark.usefixtures("wide")
def test_people_get_a_row_for_each_layer_and_the_worst_finding_first(written):
    lines = run(written(WRONG)).out.splitlines()
    for name in ("stem", "conv2d", "globalaveragepooling2d", "out"):
        assert sum(line.startswith(name + " ") for line in lines) == 1
    said = [line for line in lines if line.startswith("- ")]
    assert said[0].startswith("- error: out: takes the softmax of one number")
    total = analyse(WRONG).total
    assert any(
        line.startswith(f"Total: {total.params:,} params, {total.macs:,} macs, ") for line in lines
    )


def test_long_nets_are_whole_and_compact(written, monkeypatch):
    monkeypatch.setattr(cli_check, "out", lambda: Console(width=100))
    long = Net(
        (32, 32, 3), tuple(L.Conv2D(8, 3, padding="same", name=f"conv_{i}") for i in range(99))
    )
    lines = run(written(long)).out.splitlines()
    assert sum(line.startswith("conv_") for line in lines) == 99
    assert not any("reads" in line for line in lines[:2])


@pytest.mark.usefixtures("wide")
def test_names_are_printed_as_they_are(written):
    """Neither as rich's markup nor as its emojis."""
    path = written(OPAQUE).rename(written(OPAQUE).with_name("models [v1] car:fire:.json"))
    lines = run(path).out.splitlines()
    assert lines[0] == f"{path}: 3 layers on 16x16x3"
    assert any(line.startswith("odd ") and " Fancy[op]? " in line for line in lines)
    code = "from convwise.cli.console import err; err().print('antigravity:fire: [red]')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stderr == "antigravity:fire: [red]\n"


@pytest.mark.usefixtures("wide")
def test_unknown_costs_are_said(written):
    text = run(written(OPAQUE)).out
    assert "Total: at least 808 params, at least 125,280 macs, at least 17.2 kB of" in text.replace(
        "\n", " "
    )
    assert "Unknown: the cost of 1 layer;" in text
    assert "Field: unknown, at least 3 px" in text


def test_another_input_shape(written):
    assert json.loads(run(written(SOUND), "--input-shape", "20x24x3", "--json").out)[
        "input_shape"
    ] == [20, 24, 3]
    for text in ("224", "0x3x3", "axbxc", "1x2x3x4"):
        assert "--input-shape" in str(run(written(SOUND), "--input-shape", text).error)


def test_apply_asks_for_images(written):
    assert "--images" in str(run(written(SOUND), "--apply").error)
    with pytest.raises(UnusableInput, match="nothing to train on"):
        convwise.check(SOUND, apply=True)


def test_what_an_unknown_layer_gives_at_another_size_is_not_invented():
    assert load(OPAQUE, (16, 16, 3)).net == OPAQUE
    with pytest.raises(
        UnusableInput, match="is 18x16x3, but the output of odd is known only for 16x16x3"
    ):
        load(OPAQUE, (18, 16, 3))


def test_images_set_the_scale(written, monkeypatch):
    class Facts(dict):
        shape = (32, 32, 3)

    read = SimpleNamespace(train=0, classes=(), numbers=(), counts=list)
    monkeypatch.setattr(checking, "read_images", lambda images, **how: read)
    monkeypatch.setattr(
        checking, "look", lambda train, classes, counts, numbers: Facts(discriminative_scale=18.0)
    )
    answer = json.loads(run(written(SOUND), "--images", "some", "--json").out)
    (row,) = [row for row in answer["problems"] if row["rule"] == "field too small"]
    assert "less than the 9 px" in row["what"]  # 18 px of 32 are 9 px of 16


def test_apply_tries_what_a_program_can_edit(written, monkeypatch):
    """The fix of each problem ends with its measured effect; what has no edit is not tried."""
    asked = {}

    def measure_on(images, base, edits, terms, lab):
        asked.update(net=base.net, edits=edits, images=images, seconds=lab.clock.budget)
        measured = tuple(records.Measured(edit, notes=("no time",)) for edit in edits)
        return records.Found(measured, 0.5, notes=("n",))

    monkeypatch.setattr(bench, "measure_on", measure_on)
    monkeypatch.setattr(checking, "read_images", lambda images, **how: "images")
    monkeypatch.setattr(checking, "scale_px", lambda images, shape: None)
    wrong = Net((16, 16, 3), (L.Conv2D(16, 3, padding="same", activation="relu"), L.Dropout(0.0,
                name="drop"), L.Conv2D(16, 1, 2), *SOUND.layers[2:]))  # fmt: skip
    answer = json.loads(
        run(written(wrong), "--images", "some", "--apply", "--budget", "30s", "--json").out
    )
    tried = {row["rule"]: row["measured"] for row in answer["problems"] if "measured" in row}
    assert set(tried) >= {"strides skip inputs", "dead layers"}
    assert "loss assumed" not in tried
    assert set(tried.values()) == {"not measured: no time"}
    assert answer["applied"] == {"accuracy": 0.5, "notes": ["n"]}
    assert (asked["net"], asked["images"], asked["seconds"]) == (wrong, "images", 30)
    assert all(edit.net.id != wrong.id for edit in asked["edits"])
    found = convwise.check(wrong, "some", apply=True, budget="40s")
    assert (found.applied.scored, found.applied.notes, asked["seconds"]) == (
        {"accuracy": 0.5},
        ("n",),
        40,
    )
    rules = {each.problem: each.rule for each in found.findings}
    assert {rules[problem]: str(tried) for problem, tried in found.applied.tried.items()} == tried
    assert is_a_screen(found)
    assert "not measured: no time" in repr(found)
    assert convwise.check(wrong).applied is None


@pytest.mark.slow
def test_what_a_fix_is_worth_is_measured():
    """A network whose strides skip pixels, on stripes: really trained, as it is and with each
    fix.
    """
    wrong = Net((16, 16, 1), (L.Conv2D(8, 3, 4, activation="relu"), L.GlobalAveragePooling2D(),
                L.Dense(3, activation="softmax")))  # fmt: skip
    told = []
    found = convwise.check(wrong, striped(3, 60), apply=True, budget="30s", watcher=told.append)
    effects = [tried.effect for tried in found.applied.tried.values() if tried.effect]
    assert effects
    assert all(-1 <= effect.low <= effect.accuracy_change <= effect.high <= 1 for effect in effects)
    assert 0 < found.applied.scored["accuracy"] <= 1
    assert {each.phase for each in told} >= {"apply"}
