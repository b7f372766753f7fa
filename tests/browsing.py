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

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--disable-component-update",
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
    """One that nobody listens at now: tests in other processes take the usual one while a server is
    restarted.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Server:
    """Inside `with`, `convwise serve FOLDER` in a process of its own. address: as it was printed,
    with its token.
    """

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


# A phone and a desk, in px
SCREENS = [(width, scheme) for width in (390, 1280) for scheme in ("light", "dark")]


def axe(page: Any, least: int = 25) -> list[tuple[str, list[str]]]:
    """(rule, the elements that break it) for each barrier that axe finds; `least` rules pass, so
    that it has looked.
    """
    module = pytest.importorskip("axe_core_python")
    page.evaluate((Path(module.__file__).parent / "axe.min.js").read_text())
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) >= least
    return [(each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]]


def barriers(page: Any, least: int = 25) -> list[tuple[Any, ...]]:
    """What keeps somebody out, on a phone and a desk, light and dark: (width, scheme, what, where)
    of each.

    What axe finds, and where the page itself scrolls sideways.
    """
    found: list[tuple[Any, ...]] = []
    for width, scheme in SCREENS:
        page.set_viewport_size({"width": width, "height": 844})
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found += [(width, scheme, *each) for each in axe(page, least)]
        if (across := page.evaluate("document.documentElement.scrollWidth")) > width:
            found.append((width, scheme, "scrolls sideways", across))
    return found
