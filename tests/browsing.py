"""A real browser, and a real server of a page: what the tests of the page need."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from studies import started

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip


@contextmanager
def launched() -> Iterator[Any]:
    """Chromium by playwright; the test is skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


def free_port() -> int:
    """One that nobody listens at now: tests in other processes take the usual one while a server is restarted."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Server:
    """Inside `with`, `convwise serve FOLDER` in a process of its own. address: as it was printed, with its token."""

    def __init__(self, folder: Path, *words: object) -> None:
        self.folder, self._words = folder, words

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.stop()

    def start(self) -> None:
        """Begin, and wait until it listens."""
        self.process: subprocess.Popen[str] = started("serve", self.folder, *self._words)
        assert self.process.stdout
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        if not found:
            raise AssertionError(f"{line}\n{self.process.communicate()}")
        self.address = found[0]
        self.root, _, self.token = self.address.partition("/?token=")
        self.port = self.root.rpartition(":")[2]

    def stop(self, how: signal.Signals = signal.SIGINT) -> int:
        """Ctrl-C; its exit code."""
        self.process.send_signal(how)
        self.process.communicate(timeout=60)
        return self.process.returncode
