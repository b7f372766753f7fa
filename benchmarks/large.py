"""Sets that do not fit into memory: what `look` and `choose` cost on very many small JPEGs.

    python benchmarks/large.py make 100000 large      # 64x64, ten classes of stripes, all different
    python benchmarks/large.py look large             # any command of convwise, with its options
    python benchmarks/large.py choose large --budget 2m --out chosen
    python benchmarks/large.py rates large            # reading beside bare Pillow on all cores

Each run prints one JSON row: wall and CPU seconds of the command and all its workers, and the
largest resident memory of all together, with shared pages counted for each process that maps them
(`rss_mb`) and in equal shares (`pss_mb`).
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convwise.images import files, sources
from convwise.images.store import Store

CLASSES, SIZE, A_FOLDER, BANK = 10, 64, 1000, 1000
POLL_SECONDS = 1.0  # to ask for the memory of a large process takes a while itself


def main() -> None:
    what, *words = sys.argv[1:]
    if what == "make":
        made(int(words[0]), Path(words[1]))
    elif what == "rates":
        for row in rates(Path(words[0])):
            print(json.dumps(row), flush=True)
    else:
        print(json.dumps(measured([what, *words])))


def made(count: int, folder: Path) -> None:
    """`count` JPEGs in class folders below `folder`."""
    with ProcessPoolExecutor() as pool:
        list(
            pool.map(
                _some,
                [
                    (folder, start, min(start + A_FOLDER, count))
                    for start in range(0, count, A_FOLDER)
                ],
            )
        )


def _some(job: tuple[Path, int, int]) -> None:
    folder, start, stop = job
    rng = np.random.default_rng(start)
    for name in range(CLASSES):
        (folder / f"class{name}").mkdir(parents=True, exist_ok=True)
    for number in range(start, stop):
        label = number % CLASSES
        head, bank = _bank(label)
        rows = [
            bank[which][row] for row, which in enumerate(rng.integers(0, len(bank), len(bank[0])))
        ]
        marked = (data + bytes((0xFF, 0xD0 + row)) for row, data in enumerate(rows[:-1]))
        (folder / f"class{label}" / f"{number:07d}.jpg").write_bytes(
            b"".join((head, *marked, rows[-1]))
        )


@cache
def _bank(label: int) -> tuple[bytes, list[list[bytes]]]:
    """What all JPEGs of a class begin with, and the coded rows of blocks of BANK pictures.

    A million pictures are put together of them, each of rows of its own: to encode so many would
    take long.
    """
    rng = np.random.default_rng(label)
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    found = []
    for _ in range(BANK):
        angle, phase = np.pi * label / CLASSES, rng.uniform(0, 2 * np.pi, 3)
        wave = np.sin(40 * (np.cos(angle) * columns + np.sin(angle) * rows)[..., None] + phase)
        pixels = 128 + rng.uniform(30, 80) * wave + rng.normal(0, 12, (SIZE, SIZE, 3))
        file = BytesIO()
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        picture.save(file, "JPEG", quality=85, restart_marker_rows=1)
        head, scan = re.fullmatch(
            rb"(.*?\xff\xda\x00\x0c.{10})(.*)", file.getvalue(), re.DOTALL
        ).groups()  # type: ignore[union-attr]
        found.append(re.split(rb"\xff[\xd0-\xd7]", scan))
    return head, found


def rates(folder: Path, most: int = 20_000, times: int = 5) -> Iterator[dict[str, Any]]:
    """Microseconds an image of bare Pillow, of reading into an empty store, and of finding it
    again; in turn, `times`.

    Each as wall clock and as CPU time of all cores. Bare Pillow opens and decodes, and nothing
    else, in a process for each core.
    """
    found = sources.find(folder)
    found = replace(found, items=found.items[:most])
    paths = [str(folder / item.name) for item in found.items]
    for path in paths:  # into the page cache
        Path(path).read_bytes()
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores) as pool:
        list(pool.map(bare, [paths[:1]] * cores))
        for _ in range(times):
            begun = time.monotonic()
            cpu = sum(pool.map(bare, [paths[k::cores] for k in range(cores)]))
            each = {"bare": (time.monotonic() - begun, cpu)}
            with tempfile.TemporaryDirectory() as kept:
                for what in ("read", "again"):
                    # CPU time includes processes that have ended
                    begun, before = time.monotonic(), sum(os.times()[:4])
                    files.stacked(found, 128, Store(Path(kept), 10**11))
                    each[what] = time.monotonic() - begun, sum(os.times()[:4]) - before
            row = {f"{what}_{kind}_us": round(seconds / len(paths) * 1e6, 1) for what,
                   both in each.items()
                   for kind, seconds in zip(("wall", "cpu"), both, strict=True)}  # fmt: skip
            both = {
                f"of_bare_{kind}": round(each["bare"][k] / each["read"][k], 2)
                for k, kind in enumerate(("wall", "cpu"))
            }
            yield {
                "images": len(paths),
                "cores": cores,
                **row,
                **both,
                "load": round(os.getloadavg()[0], 1),
            }


def bare(paths: list[str]) -> float:
    """Pillow on some files: opened, decoded, nothing else. CPU seconds."""
    before = time.process_time()
    for path in paths:
        with Image.open(path) as image:
            image.load()
    return time.process_time() - before


def measured(words: list[str]) -> dict[str, Any]:
    """One command in a process of its own."""
    before = time.monotonic()
    run = subprocess.Popen(
        [sys.executable, "-m", "convwise", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    peak = [0.0, 0.0]
    said: Any = run.stdout
    os.set_blocking(said.fileno(), False)
    text = b""
    while run.poll() is None:
        peak = [max(pair) for pair in zip(peak, memory(run.pid), strict=True)]
        text += said.read() or b""
        time.sleep(POLL_SECONDS)
    text += said.read() or b""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "command": " ".join(words), "exit": run.returncode,
        "wall_seconds": round(time.monotonic() - before, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1), "rss_mb": round(peak[0]),
        "pss_mb": round(peak[1]), "said": text.decode(errors="replace").splitlines()[-12:],
    }  # fmt: skip


def memory(pid: int) -> tuple[float, float]:
    """MB of a process and all below it: (resident, proportional)."""
    total = [0.0, 0.0]
    for process in [pid, *below(pid)]:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        for place, key in enumerate(("Rss:", "Pss:")):
            total[place] += sum(
                int(line.split()[1]) / 1000 for line in lines if line.startswith(key)
            )
    return total[0], total[1]


def below(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [each for child in map(int, found) for each in (child, *below(child))]


if __name__ == "__main__":
    main()
