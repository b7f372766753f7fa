"""One run of one rival on one set, in a process of its own; the last line printed is its row.

    python benchmarks/once.py SET RIVAL --budget 300 --seed 0

The budget is wall clock, from the start of this process to the answers on the sealed test part:
loading and reading count. matrix.py calls this.
"""

from __future__ import annotations

import time

STARTED = time.monotonic()

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import sets  # noqa: E402
from rivals import RIVALS, Job  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description="one run of one rival on one set")
    parser.add_argument("set", choices=sets.SETS)
    parser.add_argument("rival", choices=RIVALS)
    parser.add_argument("--budget", type=float, default=300.0, help="seconds of wall clock")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=sets.DATA, help="folder of the base sets")
    parser.add_argument("--cache", type=Path, default=sets.CACHE, help="folder for made sets")
    parser.add_argument("--keep", type=Path, help="keep the folder that choose writes, here")
    given = parser.parse_args()
    rival = RIVALS[given.rival]
    if sets.SETS[given.set].number and rival.kind != "choose":
        parser.error(f"{given.set} has numbers, which {given.rival} does not learn: choose does")
    job = Job(
        source=sets.source(given.set, given.data, given.cache),
        seed=given.seed,
        deadline=STARTED + given.budget,
        mirror=sets.SETS[given.set].mirror,
        threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
        options=rival.options,
        keep=given.keep,
        wanted=sets.SETS[given.set].wanted,
        task=sets.SETS[given.set].task,
    )
    print(json.dumps(row(rival, job)))


def row(rival: Any, job: Job) -> dict[str, Any]:
    """Run, score, and only then measure what takes time."""
    answer = rival.run(job)
    scored = answer.score(job)
    wall = time.monotonic() - STARTED
    return {**scored, "wall_seconds": wall, **answer.facts()}


if __name__ == "__main__":
    main()
