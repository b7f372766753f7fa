"""What the tests of several rooms share: the same numbers each time, the command line, one real
study to read.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings

from convwise.cli import app as cli
from convwise.cli.console import out
from imagesets import write_folder
from studies import command

# A landing is decided by the change, not by luck; `pytest --hypothesis-profile default` draws other
# cases each time.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")


# Rooms whose tests train, wait, or are few and long: they begin first, so that none of their files
# is left for one worker alone at the end.
FIRST = ("fuzz", "benchmarks", "web", "study", "cli", "training", "search", "evidence")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order of their files, but for that."""
    items.sort(key=lambda item: item.path.parent.name not in FIRST)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Whatever draws numbers without a seed of its own draws the same ones each time."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """`convwise WORDS` in this process and an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    out.cache_clear()  # it keeps the width that it had first
    # main() shall not set them for other tests
    for name in ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["convwise", *map(str, words)])
        handler = signal.getsignal(signal.SIGTERM)
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        finally:
            signal.signal(signal.SIGTERM, handler)
        return code, *capsys.readouterr()

    yield call
    out.cache_clear()


@pytest.fixture(scope="session")
def chosen(tmp_path_factory) -> SimpleNamespace:
    """A counted study of stripes, by the command line: images, folder, and how the command ended.

    It is made once for all processes of a run; each has its own copy of the folder.
    """
    own = tmp_path_factory.mktemp("study") / "chosen"
    base = tmp_path_factory.getbasetemp()
    made = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made"
    with FileLock(f"{made}.lock"):
        images, said = made / "stripes", made / "said.json"
        if not said.exists():
            write_folder(images, ("down", "up, or so", "4"), 40, 12, "L")
            ended = command("choose", images, "--trials", 4, "--workers", 1, "--goal",
                            "accuracy where macs<100k",
                            "--out", made / "chosen", "--json")  # fmt: skip
            said.write_text(json.dumps([ended.returncode, ended.stdout, ended.stderr]))
    shutil.copytree(made / "chosen", own)
    code, out, err = json.loads(said.read_text())
    return SimpleNamespace(
        images=images, folder=own, ended=SimpleNamespace(returncode=code, stdout=out, stderr=err)
    )
