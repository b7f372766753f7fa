"""Nothing talks to the network: each command runs where whoever tries is ended by the system."""

from __future__ import annotations

import json
import platform
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from convwise.cli import app as cli
from convwise.ledger import Ledger
from imagesets import write_folder
from sealed import CALLS
from studies import ENVIRONMENT

SEALED = str(Path(__file__).with_name("sealed.py"))
CAN = sys.platform == "linux" and platform.machine() in CALLS and (
    subprocess.run([sys.executable, SEALED, "true"], stderr=subprocess.DEVNULL,
    check=False).returncode == 0
)  # fmt: skip
pytestmark = pytest.mark.skipif(
    not CAN, reason="no filter of system calls here: it is Linux's, and may be forbidden"
)
# In one process, which loads the frameworks once: IMAGES, CHOICE and OTHER stand for paths.
COMMANDS = {
    "choose": ["choose IMAGES --trials 2 --workers 1 --out CHOICE"],
    "look": ["look IMAGES", "look digits"],
    "advise": ["advise IMAGES"],
    "predict": ["predict CHOICE IMAGES"],
    "export": [f"export CHOICE --to {name}" for name in ("keras", "torch", "onnx", "json")],
    "report": ["report CHOICE"],
    "layer": ["layer 32x32x3 --filters 8 --kernel-size 3"],
    "check": ["check CHOICE", "check CHOICE/model.keras", "check CHOICE/model.onnx --images IMAGES",
              "check keras.applications:MobileNetV3Small --input-shape 64x64x3"],
}  # fmt: skip
SLOW = {  # each in a process of its own, since a budget begins with the process
    "choose": "choose IMAGES --budget 30s --out OTHER",
    "measure": "measure CHOICE --parameter activation=elu --budget 2m",
    "check": "check CHOICE --images IMAGES --apply --budget 60s",
}
RUN_ALL = """
import json, sys
from convwise.cli import app
for words in json.loads(sys.argv[1]):
    print(*words, flush=True)
    sys.argv = ["convwise", *words]
    try:
        app.main()
    except SystemExit as ended:
        assert ended.code in (None, 0, 1), ended.code
print("all of them")
"""


def sealed(*words: object, home: Path, **options: object) -> subprocess.Popen[str]:
    """`python WORDS` under the seal, as a user who has never run anything, and not as a CI service:
    some are kinder.
    """
    environment = {
        name: value for name, value in ENVIRONMENT.items() if name not in ("CI", "XDG_CACHE_HOME")
    }
    environment |= {"HOME": str(home)}
    return subprocess.Popen(
        [sys.executable, SEALED, sys.executable, *map(str, words)], stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


LOCAL = (
    "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print('listens',"
    " flush=True); "
)


@pytest.mark.parametrize(
    "what",
    ["socket.create_connection(s.getsockname())", "socket.getaddrinfo('example.org', 80)",
     "socket.socket(type=socket.SOCK_DGRAM).sendto(b'a', s.getsockname())"],
)  # fmt: skip
def test_the_seal_holds(home, what):
    """Also of a name that is looked up in C."""
    ended = sealed("-c", LOCAL + what, home=home)
    assert ended.communicate()[0] == "listens\n"
    assert ended.returncode == -signal.SIGSYS


def run_all(commands: list[str], where: Path, home: Path) -> None:
    lines = [line.split() for line in commands]
    for name in ("IMAGES", "CHOICE", "OTHER"):
        lines = [
            [word.replace(name, str(where / name.lower())) for word in words] for words in lines
        ]
    running = sealed("-c", RUN_ALL, json.dumps(lines), home=home, cwd=where)
    said, errors = running.communicate(timeout=500)
    assert running.returncode == 0, f"{said[-2000:]}\n{errors[-2000:]}"
    assert said.endswith("all of them\n")


@pytest.fixture(scope="module")
def ran(home, tmp_path_factory) -> Path:
    """A folder where all commands but `serve` and the slow ones have run, one after the other, in
    one process.
    """
    where = tmp_path_factory.mktemp("offline")
    write_folder(where / "images", ("a", "b"), 30, 12, "L")
    run_all([line for lines in COMMANDS.values() for line in lines], where, home)
    return where


def assert_no_worker_was_ended(folder: Path) -> None:
    assert [r.reason for r in Ledger(folder / "study.db").results if r.status == "failed"] == []


@pytest.mark.slow
def test_no_command_talks_to_the_network(ran):
    known = {info.name or info.callback.__name__ for info in cli.app.registered_commands}
    assert {*COMMANDS, *SLOW, "serve"} == known
    assert_no_worker_was_ended(ran / "choice")


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_nor_does_one_that_takes_its_budget(ran, home, name):
    run_all([SLOW[name]], ran, home)
    assert_no_worker_was_ended(ran / ("other" if name == "choose" else "choice"))


@pytest.mark.slow
def test_what_is_kept_in_the_home_is_our_own(ran, home):
    """Telemetry would begin by a name for this machine."""
    found = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    assert {name for name in found if not name.startswith(".cache/convwise/")} <= {
        ".keras/keras.json"
    }


@pytest.mark.slow
def test_the_page_only_answers(ran, home):
    serving = sealed("-m", "convwise", "serve", ran / "choice", home=home)
    address = serving.stdout.readline().rsplit(" ", 1)[-1].strip()
    with urllib.request.urlopen(address, timeout=60) as page:
        assert page.status == 200
    serving.send_signal(signal.SIGINT)
    serving.communicate(timeout=60)
    assert serving.returncode != -signal.SIGSYS
