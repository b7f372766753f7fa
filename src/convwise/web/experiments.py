"""'Test it': `convwise measure` on a folder, in a process of its own; and 'give me this one'.

Processes of their own, so that the page answers at once, and never loads a framework.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convwise import formats
from convwise.core.net import Net
from convwise.core.problems import ConvwiseError, Problem, UnusableInput

PATIENCE_SECONDS = 20.0  # for what is measured to be written, where the page ends
SOURCES = {name: row.files[0] for name, row in formats.FORMATS.items() if row.source}


@dataclass
class Test:
    """One experiment: what was asked, and what has become of it. answer: as `convwise measure
    --json` prints it.
    """

    __test__ = False  # for pytest

    asked: str
    budget: str
    running: bool = True
    progress: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    answer: dict[str, Any] | None = None
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """As the page shows it."""
        return dict(self.__dict__)


class Experiments:
    """The experiments of one folder, one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tests: list[Test] = []
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    @property
    def running(self) -> bool:
        """Whether one goes on."""
        return any(test.running for test in self.tests)

    def start(self, parameter: str, budget: str) -> Test:
        """Begin to measure 'NAME=VALUE'. UnusableInput while another one runs."""
        with self._lock:
            if self.running:
                raise UnusableInput(
                    "test", "another test is running", "one at a time", "wait for it, or stop it"
                )
            command = [
                sys.executable,
                "-m",
                "convwise",
                "measure",
                str(self.folder),
                "--parameter",
                parameter,
            ]
            self._process = subprocess.Popen(
                [*command, "--budget", budget, "--json"], text=True, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
            test = Test(parameter, budget)
            self.tests.append(test)
        threading.Thread(target=self._follow, args=(self._process, test), daemon=True).start()
        return test

    def stop(self) -> None:
        """As Ctrl-C: what is measured is told and kept."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """Stop, and wait a while for it."""
        self.stop()
        if self._process:
            try:
                self._process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def _follow(self, process: subprocess.Popen[str], test: Test) -> None:
        assert process.stdout
        assert process.stderr
        said = []
        for line in process.stderr:
            try:
                test.progress = json.loads(line)
                test.notes += [note] if (note := test.progress.get("note")) else []
            except ValueError:
                said.append(line.strip())
        printed = process.stdout.read()
        process.wait()
        try:
            test.answer = json.loads(printed)
        except ValueError:
            told = [
                line.removeprefix("convwise: ") for line in said if line.startswith("convwise: ")
            ]
            test.error = " ".join(told) or (
                said[-1] if said else f"it ended with exit code {process.returncode}"
            )
        test.running = False


def written(folder: Path, net: Net, classes: Sequence[str]) -> list[Path]:
    """The sources of an edited net and its net.json, in a folder of their own inside `folder`: the
    new files.

    UnusableInput where a format cannot express it.
    """
    beside = folder / f"what-if-{net.id}"
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(_write, beside, net, classes).result()
    if isinstance(found, Problem):
        raise UnusableInput(found.where, found.what, found.expected, found.fix)
    return found


def _write(folder: Path, net: Net, classes: Sequence[str]) -> list[Path] | Problem:
    try:
        texts = {
            file: formats.format_module(name).render(net, classes) for name, file in SOURCES.items()
        }
    except ConvwiseError as error:
        return error.problem  # the error itself does not survive the way back
    folder.mkdir(exist_ok=True)
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    return [folder / file for file in texts]
