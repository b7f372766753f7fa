"""Sets that do not fit into memory: what `look` and `choose` cost on very many small JPEGs.

    python benchmarks/large.py make 100000 large      # 64x64, ten classes of coloured stripes, all different
    python benchmarks/large.py look large             # any command of convwise, with its options
    python benchmarks/large.py choose large --budget 2m --out chosen
    python benchmarks/large.py decode large           # bare Pillow, one process: images a second of CPU time

Each run prints one JSON row: wall and CPU seconds of the command and all its workers, and the largest resident memory
of all together, with shared pages counted for each process that maps them (`rss_mb`) and in equal shares (`pss_mb`).
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES, SIZE, A_FOLDER = 10, 64, 1000
POLL_SECONDS = 1.0  # to ask for the memory of a large process takes a while itself


def main() -> None:
    what, *words = sys.argv[1:]
    if what == "make":
        made(int(words[0]), Path(words[1]))
    elif what == "decode":
        print(json.dumps(decoded(Path(words[0]))))
    else:
        print(json.dumps(measured([what, *words])))


def made(count: int, folder: Path) -> None:
    """`count` JPEGs in class folders below `folder`."""
    with ProcessPoolExecutor() as pool:
        list(pool.map(_some, [(folder, start, min(start + A_FOLDER, count)) for start in range(0, count, A_FOLDER)]))


def _some(job: tuple[Path, int, int]) -> None:
    folder, start, stop = job
    rng = np.random.default_rng(start)
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    for name in range(CLASSES):
        (folder / f"class{name}").mkdir(parents=True, exist_ok=True)
    for number in range(start, stop):
        label = number % CLASSES
        angle, phase = np.pi * label / CLASSES, rng.uniform(0, 2 * np.pi, 3)
        wave = np.sin(40 * (np.cos(angle) * columns + np.sin(angle) * rows)[..., None] + phase)
        pixels = 128 + rng.uniform(30, 80) * wave + rng.normal(0, 12, (SIZE, SIZE, 3))
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        picture.save(folder / f"class{label}" / f"{number:07d}.jpg", quality=85)


def decoded(folder: Path, most: int = 10_000) -> dict[str, Any]:
    """Bare Pillow on the first files: opened, decoded, nothing else."""
    files = sorted(folder.rglob("*.jpg"))[:most]
    for file in files:  # into the page cache
        file.read_bytes()
    before = time.process_time()
    for file in files:
        with Image.open(file) as image:
            image.load()
    seconds = time.process_time() - before
    return {"command": "bare Pillow", "images": len(files), "cpu_seconds": seconds, "a_second": len(files) / seconds}


def measured(words: list[str]) -> dict[str, Any]:
    """One command in a process of its own."""
    before = time.monotonic()
    run = subprocess.Popen([sys.executable, "-m", "convwise", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
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
        "command": " ".join(words), "exit": run.returncode, "wall_seconds": round(time.monotonic() - before, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1), "rss_mb": round(peak[0]), "pss_mb": round(peak[1]),
        "said": text.decode(errors="replace").splitlines()[-12:],
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
            total[place] += sum(int(line.split()[1]) / 1000 for line in lines if line.startswith(key))
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
