"""The matrix of rivals x sets x budgets x seeds: runs what is missing, one run at a time.

    python benchmarks/matrix.py --methods choose,advised,expert-32,record-0.5 \\
        --sets mnist-5k,clothing-10 --budgets 300 --seeds 0-3 [--dry]

Each run is a process of its own with a hard time limit, and appends one row to
benchmarks/results/matrix.jsonl; a run that fails is a row too, with its last line of error. The
order is random: set, budget and seed first, and inside each of these all methods, one after the
other, so that what is compared stands close in time. Stopped, it goes on where it was: what stands
already, on this kind of machine, is not run again; a method that runs on our own source is, once
that source has changed (unless --keep-ours). A failure stands as well, until --retry.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sets
from rivals import RIVALS

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "matrix.jsonl"
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # what decides how fast a convolution is
SLACK, GRACE_SECONDS = 1.5, 120.0  # a run is ended after SLACK times its budget and GRACE_SECONDS


@dataclass(frozen=True)
class Run:
    """One cell of the matrix; budget in seconds of wall clock."""

    set: str
    method: str
    budget: float
    seed: int


@dataclass(frozen=True)
class Here:
    """Where and of what a row is: the kind of machine, and our own source as a checksum."""

    kind: str
    source: str


def main(words: Sequence[str] | None = None) -> None:
    given = arguments(words)
    here = Here(machine_kind(), source_sum())
    wanted = [Run(s, m, b, seed) for s in given.sets for m in given.methods
              for b in given.budgets for seed in given.seeds]  # fmt: skip
    missing = in_order(
        lacking(wanted, rows_of(given.results), here, given.keep_ours, given.retry), given.order
    )
    said = duration(sum(run.budget for run in missing))
    print(f"{here.kind}: {len(wanted) - len(missing)} stand, {len(missing)} to run, about {said}")
    for number, run in enumerate(missing, 1):
        print(
            f"{number}/{len(missing)} {run.set} {run.method} {run.budget:g} s seed {run.seed}",
            flush=True,
        )
        if not given.dry:
            row = ran(run, given.data, given.cache, here)
            append(given.results, row)
            print(f"    {told(row)}", flush=True)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="run what is missing of rivals x sets x budgets x seeds"
    )
    parser.add_argument(
        "--methods", type=names_of(RIVALS), default=list(RIVALS), help="a,b,... of RIVALS"
    )
    parser.add_argument(
        "--sets", type=names_of(sets.SETS), default=list(sets.BASES), help="a,b,... of SETS"
    )
    parser.add_argument("--budgets", type=numbers, default=[300.0], help="seconds: 300 or 120,300")
    parser.add_argument("--seeds", type=whole_numbers, default=[0], help="0-3 or 0,2")
    parser.add_argument("--order", type=int, default=0, help="seed of the random order")
    parser.add_argument(
        "--keep-ours", action="store_true", help="rows of an older source stand too"
    )
    parser.add_argument("--retry", action="store_true", help="run again what failed")
    parser.add_argument("--dry", action="store_true", help="only say what would be run")
    parser.add_argument("--data", type=Path, default=sets.DATA, help="folder of the base sets")
    parser.add_argument("--cache", type=Path, default=sets.CACHE, help="folder for made sets")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args(words)


def names_of(table: Iterable[str]) -> Any:
    """A parser of 'a,b,c', each a key of `table`."""

    def names(text: str) -> list[str]:
        found = [name for name in text.split(",") if name]
        if unknown := [name for name in found if name not in table]:
            raise argparse.ArgumentTypeError(
                f"no {', '.join(unknown)}; there are {', '.join(table)}"
            )
        return found

    return names


def numbers(text: str) -> list[float]:
    """'120,300' -> [120.0, 300.0]"""
    return [float(part) for part in text.split(",")]


def whole_numbers(text: str) -> list[int]:
    """'0-3,7' -> [0, 1, 2, 3, 7]"""
    ends = [part.split("-") for part in text.split(",")]
    return [n for end in ends for n in range(int(end[0]), int(end[-1]) + 1)]


# what stands -----------------------------------------------------------------------------------


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Every row that was written, oldest first."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def lacking(
    wanted: Iterable[Run],
    rows: Iterable[dict[str, Any]],
    here: Here,
    keep_ours: bool = False,
    retry: bool = False,
) -> list[Run]:
    """The runs for which no row stands; retry: a failed row does not stand."""
    standing = set()
    for row in rows:
        run = Run(row["set"], row["method"], row["budget"], row["seed"])
        ours = run.method in RIVALS and RIVALS[run.method].ours
        fits = row["machine_kind"] == here.kind and (
            keep_ours or not ours or row["source"] == here.source
        )
        if fits and (row["status"] == "done" or not retry):
            standing.add(run)
    return [run for run in wanted if run not in standing]


def in_order(runs: Iterable[Run], seed: int) -> list[Run]:
    """At random, in blocks of one set, budget and seed."""
    rng, blocks = random.Random(seed), {}
    for run in runs:
        blocks.setdefault((run.set, run.budget, run.seed), []).append(run)
    keys = list(blocks)
    rng.shuffle(keys)
    for key in keys:
        rng.shuffle(blocks[key])
    return [run for key in keys for run in blocks[key]]


# one run ---------------------------------------------------------------------------------------


def ran(run: Run, data: Path, cache: Path, here: Here) -> dict[str, Any]:
    """The row of a run, done or failed."""
    sets.source(run.set, data, cache)
    command = [sys.executable, str(HERE / "once.py"), run.set, run.method, "--budget",
               str(run.budget), "--seed", str(run.seed), "--data", str(data), "--cache",
               str(cache)]  # fmt: skip
    load_before = os.getloadavg()[0]
    found = answer(command, SLACK * run.budget + GRACE_SECONDS)
    return {"set": run.set, "method": run.method, "budget": run.budget, "seed": run.seed, **found,
            "load_before": load_before, "load": os.getloadavg()[0],
            "date": datetime.now(UTC).isoformat(timespec="seconds"), "machine_kind": here.kind,
            "source": here.source, "revision": revision(), "versions": versions()}  # fmt: skip


def answer(command: Sequence[str], limit_seconds: float) -> dict[str, Any]:
    """What the command prints last, with status 'done'; or 'failed', with the last error line."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          start_new_session=True) as process:  # fmt: skip
        try:
            printed, errors = process.communicate(timeout=limit_seconds)
        except subprocess.TimeoutExpired:
            end(process)
            return {"status": "failed", "error": f"ended after {limit_seconds:.0f} s"}
        except BaseException:  # an interrupt: nothing may run on
            end(process)
            raise
    if process.returncode:
        last = (errors.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        return {"status": "failed", "error": last[:300]}
    return {"status": "done", **json.loads(printed.strip().splitlines()[-1])}


def end(process: subprocess.Popen[str]) -> None:
    """End a run and all that it started: they are a session of their own."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def append(path: Path, row: dict[str, Any]) -> None:
    """One line more."""
    path.parent.mkdir(exist_ok=True, parents=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


# where -----------------------------------------------------------------------------------------


def machine_kind() -> str:
    """'AMD EPYC, 2 cores, avx2 avx512f avx512_bf16': machines of one kind can be compared."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    has = told.get("flags", "").split()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = told.get("model name") or platform.processor() or platform.machine()
    return f"{name}, {cores} cores, {' '.join(flag for flag in FLAGS if flag in has) or 'no AVX2'}"


def source_sum() -> str:
    """Twelve characters that stand for our own source as it is in this tree."""
    digest = hashlib.sha256()
    for path in sorted((HERE.parent / "src").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def revision() -> str:
    """The commit of this tree, '+' behind it where files differ from it; '' outside of git."""
    git = ["git", "-C", str(HERE)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain", "--", "../src", "rivals"],
                             capture_output=True, text=True)  # fmt: skip
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def versions() -> dict[str, str]:
    """Of the packages that matter, and of Python."""
    from convwise.training.machine import ThisMachine

    return {
        k: v
        for k, v in ThisMachine().describe().items()
        if k not in ("gpu", "cpu", "cores", "system")
    }


def duration(seconds: float) -> str:
    """4230 -> '1 h 10 min'"""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def told(row: dict[str, Any]) -> str:
    """A row in a few words."""
    if row["status"] == "failed":
        return f"failed: {row['error']}"
    macs = f"{row['macs'] / 1e6:.1f}M macs"
    score = f"{100 * row['accuracy']:.2f} %" if "accuracy" in row else f"off by {row['error']:.3g}"
    return f"{score} of {row['n']}, {macs}, {row['wall_seconds']:.0f} s"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and with it the run of now
    main()
