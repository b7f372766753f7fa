"""SIGKILL at every moment of `choose`, and the same command again: what a kill costs.

    python benchmarks/kills.py 100 --beside 4   # so many more rows in results/kills.jsonl
    python benchmarks/kills.py --rest           # at changes of files that none of them came to
    python benchmarks/kills.py --table          # what the rows say, as docs/reliability.md has it

Three ways take turns: some time after a line of progress, the whole process group; the same, the
study's process alone, so that its workers are orphans; and just before the study changes its n-th
file while it writes what it hands over, each file of it among them. Moments follow the golden
ratio, so that any number of rows covers all stages evenly. Linux: it reads /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "kills.jsonl"
WAYS = ("group", "study alone", "writing")
# Of files while a folder is written and moved, about: the n-th of them is never reached for a
# larger n
CHANGES = 36
# Lines of progress that a short study tells, and the time after each that is swept
EVENTS, SPAN_SECONDS = 7, 3.0
GOLDEN = (5**0.5 - 1) / 2
ORPHANS_SECONDS = 2.0  # that workers may live on without their study
DYING = "dies before "
MARK = "CONVWISE_KILLS"  # in the environment of every process of a run
# An empty folder in TMPDIR, which torch makes when it trains, killed or not
TORCHS = "torchinductor_"
# 1: the network is no better than guessing, or a goal is missed; the folder is whole all the same
ENDED = (0, 1)


@dataclass
class Kill:
    """How one run ended, and what was found afterwards; problems: what a kill must not do."""

    number: int
    way: str
    # The number of lines of progress, and a share of the span after it; of 'writing', the change
    moment: float
    stage: str = ""  # that was told last
    file: str = ""  # of 'writing': what was about to change
    killed: bool = True
    kept: int = 0  # results in the ledger after the kill
    orphan_seconds: float = 0.0
    accuracy: float = 0.0
    problems: list[str] = field(default_factory=list)


def planned(number: int) -> Kill:
    """How the run of this number is killed; the moments of each way follow the golden ratio."""
    way, turn = WAYS[number % len(WAYS)], number // len(WAYS) * GOLDEN % 1
    return Kill(number, way, round(turn * CHANGES) if way == "writing" else 1 + turn * EVENTS)


def rest(begun: int, done: set[float]) -> list[int]:
    """Numbers from `begun` on of runs that die at a change of a file at which none died yet."""
    firsts: dict[float, int] = {}
    for number in range(begun, begun + 20 * CHANGES):
        if (one := planned(number)).way == "writing" and one.moment not in done:
            firsts.setdefault(one.moment, number)
    return list(firsts.values())


def kill(number: int, command: list[str]) -> Kill:
    """One run of `choose` that is killed, then the same again to its end."""
    one = planned(number)
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder, temporary = Path(name) / "out", Path(name) / "tmp"
        temporary.mkdir()
        words = [*command, "--out", str(folder), "--json"]
        environment = {**os.environ, MARK: uuid.uuid4().hex, "TMPDIR": str(temporary)}
        with _watched(environment[MARK]) as processes:
            struck = _killed(one, words, environment)
            _until_alone(environment[MARK])
            one.orphan_seconds = time.monotonic() - struck
        kept = _ledger(folder)
        one.kept = len(kept)
        ended = subprocess.run(
            [sys.executable, "-m", "convwise", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode in ENDED and (folder / "choice.json").exists():
            one.problems += _amiss(folder, kept)
            one.accuracy = json.loads((folder / "choice.json").read_text())["test"]["accuracy"]
        else:
            one.problems.append(
                f"the same command ended with {ended.returncode}: {ended.stderr[-500:]}"
            )
        if one.killed and one.orphan_seconds > ORPHANS_SECONDS:
            one.problems.append(f"orphans lived for {one.orphan_seconds:.1f} s")
        left = [name for name in os.listdir(temporary) if not name.startswith(TORCHS)]
        one.problems += [f"left in TMPDIR: {name}" for name in left]
        shared = [
            name
            for name in os.listdir("/dev/shm")
            if processes & set(map(int, re.findall(r"\d+", name)))
        ]
        one.problems += [f"left in /dev/shm: {name}" for name in shared]
    return one


def _killed(one: Kill, words: list[str], environment: dict[str, str]) -> float:
    """Run until the moment has come; when that was."""
    how: dict[str, Any] = {
        "env": environment,
        "stderr": subprocess.PIPE,
        "stdout": subprocess.DEVNULL,
        "text": True,
    }
    if one.way == "writing":
        script = [sys.executable, __file__, "--dies-at", str(int(one.moment)), *words]
        study = subprocess.Popen(script, start_new_session=True, **how)
    else:
        study = subprocess.Popen(
            [sys.executable, "-m", "convwise", *words], start_new_session=True, **how
        )
    stop, told, struck = os.kill if one.way == "study alone" else os.killpg, 0, list[float]()

    def strike() -> None:
        struck.append(time.monotonic())
        with suppress(ProcessLookupError):
            stop(study.pid, signal.SIGKILL)

    assert study.stderr is not None
    for line in study.stderr:
        if line.startswith("{"):
            one.stage, told = (
                json.JSONDecoder().raw_decode(line)[0].get("stage", one.stage),
                told + 1,
            )
            if one.way != "writing" and told == int(one.moment):
                threading.Timer(one.moment % 1 * SPAN_SECONDS, strike).start()
        if DYING in line:  # perhaps behind what was being told
            one.file = line.partition(DYING)[2].strip()
    one.killed = study.wait() == -signal.SIGKILL
    return struck[0] if struck else time.monotonic()


def _until_alone(mark: str) -> None:
    """Wait until no process of the run is left, at most ten seconds."""
    started = time.monotonic()
    while _marked(mark) and time.monotonic() < started + 10:
        time.sleep(0.05)


@contextmanager
def _watched(mark: str) -> Iterator[set[int]]:
    """The processes that the run has had, while inside: what they leave in /dev/shm bears their
    numbers.
    """
    seen, over = set[int](), threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            seen.update(_marked(mark))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def _marked(mark: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


def _ledger(folder: Path) -> tuple[Any, ...]:
    from convwise.ledger import Ledger

    return Ledger(folder / "study.db").results if (folder / "study.db").exists() else ()


def _amiss(folder: Path, kept: tuple[Any, ...]) -> Iterator[str]:
    """What is wrong with a folder after the second run."""
    from convwise.ledger import Ledger
    from convwise.notes import OPENED
    from convwise.output.whole import OUTPUTS

    names = {path.name for path in folder.iterdir()}
    yield from (
        f"missing: {name}"
        for name in {*OUTPUTS, "study.db"} - names - {"suspects.csv", "outliers.csv"}
    )
    yield from (f"left: {name}" for name in names - {*OUTPUTS, "study.db"})
    ledger = Ledger(folder / "study.db")
    if ledger.results[: len(kept)] != kept:
        yield "results that were recorded before the kill are lost or changed"
    yield from (
        f"trained {n} times: {name}"
        for name, n in Counter(r.trial.id for r in ledger.results).items()
        if n > 1
    )
    yield from (f"failed: {r.trial.id}: {r.reason}" for r in ledger.results if r.status == "failed")
    if (opened := ledger.notes.get(OPENED, 0)) != 1:
        yield f"the sealed part was opened {opened} times"
    yield from _disagreeing(folder)


def _disagreeing(folder: Path) -> Iterator[str]:
    """Every file of the folder beside choice.json: the same network, the same answers."""
    import numpy as np

    from convwise import formats
    from convwise.core.net import Net
    from convwise.formats import json as net_json

    net = Net.from_json(json.loads((folder / "choice.json").read_text())["net"])
    pixels = np.random.default_rng(0).integers(0, 256, (8, *net.input_shape), dtype=np.uint8)
    expected = None
    for name in formats.FORMATS:
        for answer in formats.format_module(name).run(folder, pixels):
            expected = answer if expected is None else expected
            if not np.allclose(answer, expected, atol=1e-3):
                yield f"{name} answers otherwise than the first format"
    written = {
        "model.safetensors": formats.read(folder)[0],
        "net.json": net_json.read(folder / "net.json"),
    }
    yield from (
        f"{name} holds another network than choice.json"
        for name, other in written.items()
        if other != net
    )


# --- dying while writing --------------------------------------------------------------------------


def dying(at: int, words: list[str]) -> None:
    """`convwise WORDS` in this process, which kills its group before the `at`th change of a file
    once it writes.
    """
    from convwise.output.whole import DRAFT

    seen = -1

    def change(event: str, given: tuple[Any, ...]) -> None:
        nonlocal seen
        if event == "open":
            is_change = isinstance(given[2], int) and bool(given[2] & (os.O_WRONLY | os.O_RDWR))
        else:
            is_change = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir")
        if not is_change or (seen < 0 and DRAFT not in str(given[0])):
            return
        seen += 1
        if seen == at:
            os.write(2, f"{DYING}{event} {Path(str(given[0])).name}\n".encode())
            os.killpg(0, signal.SIGKILL)

    sys.addaudithook(change)
    sys.argv = ["convwise", *words]
    from convwise.cli.app import main as convwise

    convwise()


# --- rows -----------------------------------------------------------------------------------------


def row(one: Kill, command: list[str], seconds: float) -> dict[str, Any]:
    from convwise.training.machine import ThisMachine

    return {**vars(one), "command": " ".join(command), "seconds": round(seconds, 1),
            "load_1m": os.getloadavg()[0], "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": ThisMachine().describe()}  # fmt: skip


def rows(path: Path = RESULTS) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(found: list[dict[str, Any]]) -> str:
    """Kills by the stage that they came in, in the order of a study."""
    killed = [one for one in found if one["killed"]]
    stages = dict.fromkeys(
        one["stage"] or "start" for one in sorted(killed, key=lambda one: one["kept"])
    )
    lines = ["| stage at the kill | kills | with any problem afterwards |", "|---|---|---|"]
    for stage in stages:
        here = [one for one in killed if (one["stage"] or "start") == stage]
        lines.append(f"| {stage} | {len(here)} | {sum(bool(one['problems']) for one in here)} |")
    return "\n".join(
        [*lines, f"| all | {len(killed)} | {sum(bool(one['problems']) for one in killed)} |"]
    )


def main() -> None:
    if sys.argv[1:2] == ["--dies-at"]:
        dying(int(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(
        description="SIGKILL at every moment of choose, and the same command again"
    )
    parser.add_argument("count", type=int, nargs="?", default=0)
    parser.add_argument("--budget", type=float, default=20.0, help="seconds")
    parser.add_argument("--images", default="digits")
    parser.add_argument("--beside", type=int, default=1, help="so many runs side by side")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--rest", action="store_true", help="die at each change of a file at which no run died yet"
    )
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table:
        print(table(rows(given.results)))
        return
    command = ["choose", given.images, "--budget", f"{given.budget:g}s", "--workers", "2"]
    before = rows(given.results)
    begun = 1 + max((each["number"] for each in before), default=-1)
    at = {each["moment"] for each in before if each["way"] == "writing" and each["killed"]}
    numbers = rest(begun, at) if given.rest else range(begun, begun + given.count)

    def run(number: int) -> dict[str, Any]:
        started = time.monotonic()
        return row(kill(number, command), command, time.monotonic() - started)

    with ThreadPoolExecutor(given.beside) as pool:
        for found in pool.map(run, numbers):
            with given.results.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(found, flush=True)


if __name__ == "__main__":
    main()
