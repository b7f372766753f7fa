"""The page's server: who may ask it, and that its answers are those of real frameworks."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("starlette")

from browsing import Server
from convwise.core.layers import (
    LAYERS,
    Activation,
    Add,
    BatchNormalization,
    Conv2D,
    Dense,
    Flatten,
    GlobalAveragePooling2D,
    MaxPooling2D,
    parameters,
)
from convwise.core.net import Net
from convwise.core.parameters import Named
from convwise.core.problems import UnusableInput
from convwise.ledger import Ledger
from convwise.training import machine
from convwise.web import guard, whatif
from convwise.web.server import Page
from convwise.web.whatif import Change, answer, edited, joined, kind_of, layers
from studies import ENVIRONMENT, command


@pytest.fixture(scope="module")
def served(chosen: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served") / "study"
    shutil.copytree(chosen.folder, folder)
    with Server(folder) as server:
        yield server


def ask(
    server: Server, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one request; with the cookie and the origin of the page, unless
    said otherwise.
    """
    host = server.root.removeprefix("http://")
    given = {"Host": host, "Cookie": f"convwise-{server.port}={server.token}"}
    if body is not None:
        given |= {"Origin": server.root, "Content-Type": "application/json"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    link = http.client.HTTPConnection(host, timeout=60)
    link.putrequest(
        "GET" if body is None else "POST", path, skip_host=True, skip_accept_encoding=True
    )
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    for name, value in {
        **given,
        **({"Content-Length": str(len(data))} if data is not None else {}),
    }.items():
        if value:
            link.putheader(name, value)
    link.endheaders(data)
    found = link.getresponse()
    told = found.status, {name.lower(): value for name, value in found.getheaders()}, found.read()
    link.close()
    return told


def told(server: Server, path: str, body: Any = None) -> Any:
    status, _, text = ask(server, path, body)
    assert status == 200, text
    return json.loads(text)


# Who may ask --------------------------------------------------------------------------------------


def test_the_printed_address_opens_it_and_nothing_else_does(served: Server) -> None:
    status, headers, _ = ask(served, f"/?token={served.token}", Cookie="")
    assert status == 200
    cookie = headers["set-cookie"]
    assert all(word in cookie for word in (served.token, "HttpOnly", "SameSite=Strict"))
    for path in ("/", "/?token=", "/?token=wrong", "/api/state", f"/api/state?token={served.token}",
                 "/files/net.json",
                 "/report", "/static/page.js"):  # fmt: skip
        status, headers, text = ask(served, path, Cookie="")
        assert (status, "set-cookie" in headers) == (403, False), path
        assert b"open the address" in text
    assert ask(served, "/", Cookie=f"convwise-{served.port}=wrong")[0] == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost:1", "", "192.0.2.7"]
)
def test_another_host_is_refused(served: Server, host: str) -> None:
    assert ask(served, "/api/state", Host=host)[0] in (400, 421)
    assert ask(served, "/api/stop", {}, Host=host)[0] in (400, 421)


def test_localhost_is_this_machine_as_well(served: Server) -> None:
    assert ask(served, "/api/state", Host=f"localhost:{served.port}")[0] == 200


@pytest.mark.parametrize("path", ["what-if", "test", "test/stop", "stop", "export"])
def test_every_action_is_for_the_page_alone(served: Server, path: str) -> None:
    for origin in (
        "http://evil.example",
        "null",
        "",
        served.root + ".evil.example",
        served.root.replace("http", "https"),
    ):
        assert ask(served, f"/api/{path}", {}, Origin=origin)[0] == 403, origin
    assert ask(served, f"/api/{path}", {}, Content_Type="text/plain")[0] == 415
    assert ask(served, f"/api/{path}", b"[1]")[0] == 400
    assert ask(served, f"/api/{path}", b"{")[0] == 400
    assert ask(served, f"/api/{path}")[0] == 405
    assert ask(served, f"/api/{path}", b" " * (guard.MOST_BODY + 1))[0] == 413
    assert ask(served, f"/api/{path}", {}, Cookie="")[0] == 403


def test_the_policy_is_strict_everywhere(served: Server) -> None:
    for path in (
        "/",
        "/api/state",
        "/static/page.js",
        "/static/page.css",
        "/report.css",
        "/nowhere",
    ):
        _, headers, _ = ask(served, path)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == (
            "nosniff",
            "no-referrer",
        )
    page = ask(served, "/")[2].decode()
    assert "<style" not in page
    assert " style=" not in page
    assert page.count("<script") == page.count('<script type="module" src=') == 1
    assert "http" not in page.replace("https://", "http").split("<body>")[1]


def test_the_report_is_shown_as_from_nowhere(served: Server) -> None:
    status, headers, text = ask(served, "/report")
    assert status == 200
    assert text == (served.folder / "report.html").read_bytes()
    assert headers["content-security-policy"].startswith("sandbox allow-scripts;")
    assert "allow-same-origin" not in headers["content-security-policy"]


OUTSIDE = (".page.json", "../study/net.json", "%2e%2e/study/net.json", "what-if-../net.json",
           "what-if-0/../.page.json", "what-if-nothing/net.json", ".study/events.jsonl",
           "")  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_only_what_a_study_hands_over_can_be_taken(served: Server, name: str) -> None:
    assert ask(served, f"/files/{name}")[0] == 404
    assert ask(served, "/files/net.json")[2] == (served.folder / "net.json").read_bytes()


@pytest.mark.slow
def test_the_token_is_for_its_owner_and_outlives_the_server(served: Server, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(served.folder, folder, ignore=shutil.ignore_patterns(".page.json"))
    with Server(folder) as first:
        assert first.token != served.token
        assert stat.S_IMODE((folder / ".page.json").stat().st_mode) == 0o600
        address = first.address
        assert first.stop() == 0
        first.start()
        assert first.address == address
        assert first.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("host", "asked", "ours"),
    [
        ("127.0.0.1", "127.0.0.1:80", True),
        ("127.0.0.1", "[::1]:80", True),
        ("127.0.0.1", "192.168.1.2:80", False),
        ("0.0.0.0", "192.168.1.2:80", True),
        ("0.0.0.0", f"{socket.gethostname()}:80", True),
        ("0.0.0.0", "evil.example:80", False),
        ("lab.example", "lab.example:80", True),
        ("127.0.0.1", "127.0.0.1:81", False),
    ],
)
def test_which_names_are_of_this_machine(host: str, asked: str, ours: bool) -> None:
    assert guard.Door(host, 80, "token").is_ours(asked) == ours


# The command --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_folder_that_is_no_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("hello")
    for folder in (tmp_path, tmp_path / "gone"):
        ended = command("serve", folder)
        assert ended.returncode == 2
        assert "convwise choose" in ended.stderr
        assert "Traceback" not in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_port_that_is_taken_is_named(served: Server) -> None:
    ended = command("serve", served.folder, "--port", served.port)
    assert ended.returncode == 2
    assert f"port {served.port} is not available" in ended.stderr


def test_an_empty_folder_awaits_its_study(tmp_path: Path) -> None:
    with Server(tmp_path, "--port", 0) as server:
        state = told(server, "/api/state")
        assert (state["phase"], state["trainings"], state["files"], state["net"]) == (
            "waiting",
            [],
            [],
            None,
        )
        assert told(server, "/api/layers") == {"net": None}
        for path in ("what-if", "stop", "test", "export"):
            status, _, text = ask(server, f"/api/{path}", {})
            assert (status, list(json.loads(text))) == (409, ["error"])


def test_other_machines_are_let_in_on_request_alone(served: Server, tmp_path: Path) -> None:
    with Server(tmp_path, "--port", 0, "--host", "0.0.0.0") as server:
        server.process.send_signal(signal.SIGINT)
        assert "Anyone who can reach 0.0.0.0" in server.process.communicate(timeout=60)[1]


def test_the_server_loads_no_framework() -> None:
    """It stands beside a training, on the same machine."""
    code = "import sys, convwise.web.server; print({'torch', 'keras', 'optuna'} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    assert found.stdout == "set()\n"


# What it says -------------------------------------------------------------------------------------


def test_a_finished_study_is_told_as_its_files_tell_it(
    served: Server, chosen: SimpleNamespace
) -> None:
    state, choice = (
        told(served, "/api/state"),
        json.loads((chosen.folder / "choice.json").read_text()),
    )
    assert (state["phase"], state["title"]) == ("finished", "stripes")
    assert state["choice"]["test"] == choice["test"]
    assert [(e["parameter"], e["accuracy_change"], e["verdict"]) for e in state["effects"]] == [
        (e["parameter"], e["accuracy_change"], e["verdict"]) for e in choice["effects"]
    ]
    assert sum(each["chosen"] for each in state["trainings"]) == 1
    values = {card["title"]: (card["value"], card["tag"]) for card in state["cards"]}
    tested = {effect["parameter"] for effect in choice["effects"]}
    for title, name in (("Padding", "padding"), ("Activation", "activation"), ("Head", "head")):
        assert values[title][0] == choice["configuration"][name]
        assert (values[title][1] == "tested") == (name in tested)
    guess, probe, own = state["bars"]
    assert (guess["share"], probe["share"], own["share"]) == ( choice["test"]["baseline"],
        choice["test"]["probe"]["accuracy"], choice["test"]["accuracy"])  # fmt: skip
    assert (own["low"], own["high"]) == (choice["test"]["low"], choice["test"]["high"])
    assert "as advised" in [each["what"] for each in state["trainings"]]
    assert set(state["files"]) >= {
        "model_keras.py",
        "model_torch.py",
        "model.onnx",
        "choice.json",
        "study.db",
    }
    assert ask(served, f"/api/state?since={state['version']}")[0] == 204
    pictures = told(served, "/api/pictures")["pictures"]
    assert len(pictures) == 6
    assert all(each.startswith("data:image/png;base64,") for each in pictures)
    layers = told(served, "/api/layers")
    assert [each["name"] for each in layers["layers"]] == [
        each["name"] for each in choice["net"]["layers"]
    ]


def test_a_study_that_runs_has_the_cards_and_bars_of_what_is_known(
    chosen: SimpleNamespace, tmp_path: Path
) -> None:
    """Of the advised network, its best so far beside guessing and the probe: without a choice, and
    before one.
    """
    folder = tmp_path / "study"
    shutil.copytree(chosen.folder, folder)
    (folder / ".study").mkdir()
    events: list[dict[str, Any]] = [
        {"about": {}},
        {"stage": "race", "done": 0, "planned": 2, "baseline": 0.34},
    ]
    events.append(
        {**events[-1], "best": {"trial": "race-1-1", "accuracy": 0.9, "params": 1, "macs": 1}}
    )
    file = folder / ".study" / "events.jsonl"
    advised, probe = (
        Ledger(folder / "study.db").notes[key] for key in ("convwise:advice", "convwise:facts")
    )
    (known,) = [each["value"] for each in probe["measures"] if each["name"] == "probe_accuracy"]
    for told, bars in ((2, [0.34, known]), (3, [0.34, known, 0.9])):
        file.write_text(
            "".join(json.dumps({**each, "time": time.time()}) + "\n" for each in events[:told])
        )
        state = Page(folder).state("")
        assert state is not None
        assert (state["phase"], state["choice"]) == ("running", None)
        assert [bar["share"] for bar in state["bars"]] == bars
        values = {card["title"]: card["value"] for card in state["cards"]}
        assert values["Padding"] == advised["configuration"]["padding"]
        assert values["Kernel size"].startswith(f"{advised['configuration']['stage.kernel_size']}×")


def test_a_change_is_answered_at_once(served: Server) -> None:
    changes = [{"layer": "stem", "parameter": "kernel_size", "value": [5, 5]}]
    seconds = []
    for _ in range(10):
        begun = time.perf_counter()
        found = told(
            served, "/api/what-if", {"changes": changes, "layer": "stem", "at": [0.5, 0.5]}
        )
        seconds.append(time.perf_counter() - begun)
    assert found["seen"]["after"]["size"] == [5, 5]
    assert min(seconds) < 0.1 * machine.slowness()


@pytest.mark.slow
def test_what_is_given_can_be_built_by_its_framework(served: Server) -> None:
    from convwise.formats.keras import keras  # on the backend that is here

    changes = [{"layer": "stem", "parameter": "kernel_size", "value": [3, 5]}]
    given = told(served, "/api/export", {"changes": changes})
    assert not given["trained"]
    source = ask(served, f"/files/{given['files'][0]}")[2].decode()
    names: dict[str, Any] = {"__name__": "written"}
    exec(compile(source, "model_keras.py", "exec"), names)
    model = names["build_model"]()
    assert isinstance(model, keras.Model)
    stem = next(layer for layer in model.layers if layer.name == "stem")
    assert stem.kernel_size == (3, 5)
    found = told(served, "/api/what-if", {"changes": changes, "layer": "stem"})
    assert model.count_params() == found["total"]["after"]["params"]
    as_it_is = told(served, "/api/export", {"changes": []})
    assert as_it_is["trained"]
    assert "model.keras" in as_it_is["files"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("stem", "a list"),
        (["stem"], "layer, parameter and value"),
        ([{"layer": "gone", "parameter": "filters", "value": 3}], "is not in the network"),
        ([{"layer": "stem", "parameter": "name", "value": "x"}], "has no parameter"),
        ([{"layer": "stem", "parameter": "__class__", "value": "x"}], "has no parameter"),
    ],
)
def test_a_wrong_question_is_answered_in_words(served: Server, changes: Any, words: str) -> None:
    status, _, text = ask(served, "/api/what-if", {"changes": changes})
    answered = json.loads(text)
    assert words in (
        answered.get("error") or answered["problem"]["what"] + answered["problem"]["expected"]
    )
    status, _, text = ask(served, "/api/export", {"changes": changes})
    assert (status, words in json.loads(text)["error"]) == (409, True)
    assert ask(served, "/api/what-if", {"changes": [], "at": [2, "x"]})[0] in (400, 409)
    assert ask(served, "/api/what-if", {"changes": [], "at": [10**400, 0.5]})[0] == 400


def test_what_cannot_be_tested_says_why(served: Server) -> None:
    changes = [{"layer": "stem", "parameter": "kernel_size", "value": [5, 5]}]
    soon, short = ({"changes": changes, "budget": budget} for budget in ("soon", "1s"))
    for asked, words in (
        ({"changes": []}, "nothing is changed"),
        (short, "at least 20 s"),
        (soon, "a duration"),
    ):
        status, _, text = ask(served, "/api/test", asked)
        assert (status, words in json.loads(text)["error"]) == (409, True)
    status, _, text = ask(served, "/api/stop", {})
    assert (status, "no study that can" in json.loads(text)["error"]) == (409, True)


# What if ------------------------------------------------------------------------------------------

NET = Net((20, 16, 3), (
    Conv2D(8, 3, padding="same", name="first", activation="relu"),
    Conv2D(8, 3, padding="same", name="second"),
    Add(name="sum", inputs=("first", "second")),
    Conv2D(4, 5, strides=2, name="third"),
    GlobalAveragePooling2D(name="head"),
    Dense(3, name="out"),
))  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        [Change("third", "kernel_size", (7, 3))],
        [Change("third", "strides", (3, 1)), Change("third", "padding", (1, 2, 0, 3))],
        [Change("first", "filters", 5), Change("second", "filters", 5)],
        [
            Change("third", "dilation_rate", (2, 1)),
            Change("third", "strides", (1, 1)),
            Change("third", "use_bias", False),
        ],
    ],
)
def test_shapes_and_costs_are_those_of_pytorch(changes: list[Change]) -> None:
    import torch

    from convwise.formats import torch as format_torch

    found = answer(NET, changes, "third")
    net = edited(NET, changes)
    module = format_torch.build(net)
    assert found["total"]["after"]["params"] == sum(p.numel() for p in module.parameters())
    shapes: list[tuple[int, ...]] = []
    for each in module.modules():
        if isinstance(each, torch.nn.Conv2d):
            each.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[1:])))
    module(torch.zeros(1, 3, 20, 16))
    ours = [row["after"]["shape"] for row in found["rows"] if row["op"] == "Conv2D"]
    assert [[rows, columns, channels] for channels, rows, columns in shapes] == ours
    assert found["problem"] is None
    assert found["edited"] == net.id


@pytest.mark.parametrize("at", [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (0.3, 0.9)])
def test_what_an_output_sees_is_where_its_gradient_is(at: tuple[float, float]) -> None:
    import torch

    found = answer(NET, [Change("third", "kernel_size", (3, 5))], "third", at)["seen"]["after"]
    torch.manual_seed(0)
    convs = [
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.Conv2d(8, 8, 3, padding=1),
        torch.nn.Conv2d(8, 4, (3, 5), 2),
    ]
    image = torch.rand(1, 3, 20, 16, requires_grad=True)
    first = convs[0](image)
    out = convs[2](first + convs[1](first))
    row, column = found["unit"]
    out[0, :, row, column].sum().backward()
    assert image.grad is not None
    rows, columns = (image.grad[0].abs().sum((0, axis)).nonzero().flatten() for axis in (2, 1))
    box = found["box"]
    assert (box["y"], box["y"] + box["height"] - 1) == (int(rows.min()), int(rows.max()))
    assert (box["x"], box["x"] + box["width"] - 1) == (int(columns.min()), int(columns.max()))


def test_behind_global_pooling_there_is_no_place() -> None:
    assert answer(NET, [], "head")["seen"]["after"] is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Change("third", "kernel_size", (0, 3)), "at least 1"),
        (Change("third", "kernel_size", (None, 3)), "whole number"),
        (Change("third", "kernel_size", (99, 3)), "needs 99x3 inputs"),
        (Change("third", "padding", (-1, 0, 0, 0)), "'same', 'valid'"),
        (Change("third", "filters", 2.5), "whole number"),
        (Change("third", "filters", True), "whole number"),
        (Change("third", "groups", 3), "groups"),
        (Change("first", "activation", "nonsense"), "one of linear"),
        (Change("second", "strides", (2, 2)), "combines maps"),
    ],
)
def test_an_impossible_value_says_why(change: Change, words: str) -> None:
    found = answer(NET, [change], "third")
    assert words in " ".join(found["problem"].values())
    assert "rows" not in found


def test_joined_maps_are_changed_together() -> None:
    found = answer(NET, [Change("first", "filters", 6)], "first")
    assert "sum" in found["problem"]["where"]
    assert found["together"] == [{"layer": "second", "parameter": "filters", "value": 6}]
    more = [Change.from_json(row) for row in found["together"]]
    assert answer(NET, [Change("first", "filters", 6), *more], "first")["problem"] is None
    assert joined(NET, "first") == joined(NET, "second") == {"first", "second"}
    assert joined(NET, "third") == {"third"}
    assert answer(NET, [Change("third", "kernel_size", (99, 3))], "first")["together"] == []


@pytest.mark.parametrize("op", LAYERS)
def test_every_declared_parameter_has_a_control_or_is_of_many_numbers(op: str) -> None:
    for declared in parameters(LAYERS[op]):
        if not kind_of(declared):
            assert type(declared).__name__ in (
                "PoolStrides",
                "Dimensions",
                "Numbers",
                "Crops",
                "Outputs",
                "Known",
                "Word",
            )


def test_controls_say_what_is_declared() -> None:
    first = layers(NET)[0]["controls"]
    asked = [each["parameter"] for each in first if each["asked"]]
    assert asked == ["kernel_size", "filters", "strides", "padding", "activation"]
    declared = {each.name: each for each in parameters(Conv2D)}
    for control in first:
        assert control["meaning"] == declared[control["parameter"]].meaning
        assert control["legal"] == declared[control["parameter"]].legal
    words = next(each for each in first if each["parameter"] == "activation")
    assert isinstance(declared["activation"], Named)
    for option in words["options"]:
        assert (
            answer(NET, [Change("first", "activation", option)], "first")["problem"] is None
            or option == "relu"
        )


def test_the_activation_of_a_convolution_is_found_behind_its_normalisation() -> None:
    parts = (Conv2D(4, 3, name="a"), MaxPooling2D(), BatchNormalization(), Activation("relu",
             name="a_act"), Conv2D(4, 3, name="b"), Flatten(), Activation("relu",
             name="far"))  # fmt: skip
    found = {each["name"]: [c["layer"] for c in each["controls"] if c["parameter"] == "activation"]
             for each in layers(Net((20, 20, 1), parts))}  # fmt: skip
    assert (found["a"], found["a_act"], found["b"]) == (["a_act"], ["a_act"], ["b"])


def test_a_change_is_written_as_measure_reads_it() -> None:
    from convwise.evidence.edits import Subject, named

    for change in (Change("third", "kernel_size", (5, 5)), Change("third", "kernel_size", (3, 5)),
                   Change("third", "padding", (1, 2, 0, 3)), Change("third", "padding", "same"),
                   Change("third", "use_bias", False), Change("first", "activation",
                   "gelu")):  # fmt: skip
        if edited(NET, [change]).id != NET.id:
            assert named(Subject(NET), f"{change} &").net == edited(NET, [change])
    with pytest.raises(UnusableInput):
        whatif.Change.from_json({"layer": "a"})


def test_trainings_that_run_now_are_told_as_soon_as_the_study_tells_them(tmp_path: Path) -> None:
    """An event may have `live`: the page then shows how far each training is, and its accuracy."""
    work = tmp_path / ".study"
    work.mkdir()
    training = {
        "trial": "race-1-1",
        "done": 0.4,
        "epochs": 3.2,
        "accuracy": 0.91,
        "images_per_second": 800.0,
    }
    events = [{"about": {}}, {"stage": "race", "done": 0, "planned": 2, "live": [training]}]
    (work / "events.jsonl").write_text(
        "".join(json.dumps({**each, "time": time.time()}) + "\n" for each in events)
    )
    page = Page(tmp_path)
    first = page.state("")
    assert first is not None
    assert first["live"] == [training]
    assert page.state(first["version"]) is None
    with (work / "events.jsonl").open("a") as file:
        file.write(
            json.dumps(
                {"stage": "race", "live": [{**training, "epochs": 3.6}], "time": time.time()}
            )
            + "\n"
        )
    again = page.state(first["version"])
    assert again is not None
    assert again["live"][0]["epochs"] == 3.6
