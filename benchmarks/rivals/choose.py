"""The command as a user runs it, in a process of its own; the accuracy, or error, is what it tells
itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from convwise.core.parameters import FIVE
from rivals.job import Job, Told


def run(job: Job) -> Told:
    """options: arguments, more words of the command line; wanted, whether to ask for the cheapest
    net that reaches the accuracy wanted of the set. Exit code 1, where it is not reached, is an
    answer as well.
    """
    words = ["--task", job.task, *job.options.get("arguments", ())]
    if job.options.get("wanted"):
        if job.wanted is None:
            raise RuntimeError("no accuracy is wanted of this set")
        words += ["--goal", f"macs where accuracy>={100 * job.wanted:g}%"]
    with tempfile.TemporaryDirectory() as passing:
        folder = Path(job.keep or passing)
        command = [sys.executable, "-m", "convwise", "choose", str(job.source), "--seed",
                   str(job.seed), "--budget", f"{job.left:.1f}s", "--out", str(folder),
                   *words]  # fmt: skip
        ended = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        if ended.returncode not in (0, 1) or not (folder / "choice.json").exists():
            raise RuntimeError((ended.stderr.strip().splitlines() or ["no word on stderr"])[-1])
        choice = json.loads((folder / "choice.json").read_text())
    told = (
        ("accuracy", "n")
        if job.task == "classify"
        else ("error", "low", "high", "baseline", "r2", "n")
    )
    scored = {name: choice["test"][name] for name in told}
    clear = [
        effect["parameter"] for effect in choice["effects"] if effect["verdict"] != "not resolved"
    ]
    resolved = sorted({name.rpartition(".")[2] for name in clear} & set(FIVE))
    known = {**choice["cost"], "sample": choice["configuration"],
             "input_size": choice["net"]["input_shape"][:2],
             "resolved": resolved}  # fmt: skip
    return Told(scored, known)
