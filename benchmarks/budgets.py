"""How well `choose` keeps its time: its budget, and the ten seconds after an interrupt.

    python benchmarks/budgets.py 30s 2m 10m
    python benchmarks/budgets.py 2m --images photos.zip --busy 3                  # beside 3 others
    python benchmarks/budgets.py 10m --images photos.zip --busy 3 --interrupt 40  # after 40 s

busy: processes that compute all the time. Each run appends a row to results/budgets.jsonl, with
the wall clock from start to the end of the process. At most 5 % over is what is promised, 10 %
beside three busy processes; and that an interrupt is heard within 1 s and answered within 10.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from convwise.core.clock import parse_duration
from convwise.training.machine import ThisMachine

RESULTS = Path(__file__).parent / "results" / "budgets.jsonl"
BUSY = [sys.executable, "-c", "while True: pass"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("budgets", nargs="+")
    parser.add_argument("--images", default="digits", help="what choose is given")
    parser.add_argument("--busy", type=int, default=0, help="processes that run beside it")
    parser.add_argument("--interrupt", type=float, help="seconds after which it is interrupted")
    given = parser.parse_args()
    for budget in given.budgets:
        with busy(given.busy):
            row = measured(given.images, budget, given.interrupt)
        row |= {"busy": given.busy, "images": Path(given.images).name}
        with RESULTS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print({key: value for key, value in row.items() if key not in ("date", "machine")})


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Inside, so many other processes compute."""
    others = [subprocess.Popen(BUSY) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measured(images: str, budget: str, interrupt: float | None) -> dict[str, Any]:
    """One run; after `interrupt` seconds, where given, it is asked for the best so far."""
    with tempfile.TemporaryDirectory() as folder:
        before = time.monotonic()
        command = [sys.executable, "-m", "convwise", "choose", images, "--budget", budget,
                   "--out", folder, "--json"]  # fmt: skip
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        timer = threading.Timer(interrupt or 0.0, process.send_signal, [signal.SIGINT])
        if interrupt:
            timer.start()
        assert process.stderr
        told = [(time.monotonic() - before, line) for line in process.stderr]
        process.wait()
        timer.cancel()
        wall = time.monotonic() - before
        choice = json.loads((Path(folder) / "choice.json").read_text())
    seconds = parse_duration(budget)
    found = {"budget_seconds": seconds, "wall_seconds": wall, "over": wall / seconds - 1}
    if interrupt:
        heard = next(when for when, line in told if "interrupted: " in line)
        found = {
            "budget_seconds": seconds,
            "interrupted_after": interrupt,
            "heard_seconds": heard - interrupt,
            "written_seconds": wall - interrupt,
        }
    return {**found, "exit_code": process.returncode, "accuracy": choice["test"]["accuracy"],
            "n": choice["test"]["n"], "load_1m": os.getloadavg()[0],
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": ThisMachine().describe()}  # fmt: skip


if __name__ == "__main__":
    main()
