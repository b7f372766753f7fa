"""How well `choose` keeps its budget: wall clock from start to the end of the process.

    python benchmarks/budgets.py 30s 2m 10m

Each run appends a row to benchmarks/results/budgets.jsonl; at most 5 % over is what is promised.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from convwise.core.clock import parse_duration
from convwise.training.machine import ThisMachine

RESULTS = Path(__file__).parent / "results" / "budgets.jsonl"


def main() -> None:
    for budget in sys.argv[1:]:
        row = measured(budget)
        with RESULTS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(
            {
                key: row[key]
                for key in ("budget_seconds", "wall_seconds", "over", "accuracy", "load_1m")
            }
        )


def measured(budget: str) -> dict[str, object]:
    """One run on scikit-learn's digits."""
    with tempfile.TemporaryDirectory() as folder:
        before = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "convwise",
            "choose",
            "digits",
            "--budget",
            budget,
            "--out",
            folder,
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wall = time.monotonic() - before
        choice = json.loads((Path(folder) / "choice.json").read_text())
    seconds = parse_duration(budget)
    return {"budget_seconds": seconds, "wall_seconds": wall, "over": wall / seconds - 1,
            "accuracy": choice["test"]["accuracy"], "load_1m": os.getloadavg()[0],
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": ThisMachine().describe()}  # fmt: skip


if __name__ == "__main__":
    main()
