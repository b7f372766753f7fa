"""How many images a second the engine trains on, beside a plain eager loop over the same network.

    python benchmarks/engine.py --seconds 8 --rounds 3

ours: a training as `choose` ends it, by all cores together, with its augmentation, Muon, averages
and statistics. plain: what people write: one process with a thread for each core, eager PyTorch,
channels_last, SGD with Nesterov momentum, images that are in memory as float32 and are not
augmented. The rounds take turns, and each network is the advised one, of so many filters. One JSON
row for each network is printed, and appended to benchmarks/results/engine.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

import matrix
from convwise.advice.advising import advise
from convwise.advice.fingerprint import look
from convwise.core.goal import Goal
from convwise.core.records import Trial
from convwise.formats import json as net_json
from convwise.images.loading import read
from convwise.training import batches, train
from convwise.training.machine import ThisMachine
from convwise.training.runners import RUNNERS

RESULTS = Path(__file__).parent / "results" / "engine.jsonl"
IMAGES, CLASSES, BATCH = 4000, 10, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="of each training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[28, 64], help="px")
    parser.add_argument("--filters", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--plain", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plain:
        print(plain(*given.plain, given.seconds))
        return
    for size in given.sizes:
        for filters in given.filters:
            for dtype in given.dtypes:
                row = compared(size, filters, dtype, given.seconds, given.rounds)
                matrix.append(RESULTS, row)
                print(json.dumps(row))


def compared(size: int, filters: int, dtype: str, seconds: float, rounds: int) -> dict[str, object]:
    """Images a second of both, round after round."""
    rng, host = np.random.default_rng(0), ThisMachine()
    pixels = rng.integers(0, 256, (IMAGES, size, size, 3), dtype=np.uint8)
    images = read((pixels, rng.integers(0, CLASSES, IMAGES)), test="none")
    advice = advise(look(images.train, images.classes), Goal(), host.pace, 300, host.cores)
    configuration = advice.space.fit({**advice.configuration, "stage.filters": filters})
    recipe = replace(advice.recipe, batch_size=BATCH)
    told: dict[str, list[float]] = {"ours": [], "plain": []}
    with tempfile.TemporaryDirectory() as passing:
        folder = Path(passing)
        batches.Prepared(folder, images).ensure(configuration.net)
        (folder / "net.json").write_text(net_json.render(configuration.net))
        engine = replace(host.engine, dtype=dtype)  # type: ignore[arg-type]
        runner = RUNNERS["local"](partial(train.run, folder, engine, "classify"), host, host.cores)
        try:
            for number in range(rounds + 1):
                trial = Trial(f"{number}", "engine", dict(configuration), configuration.net, recipe,
                              seconds, threads=host.cores, part="all")  # fmt: skip
                (result,) = runner.run([trial])
                other = [sys.executable, __file__, "--seconds", str(seconds), "--plain",
                         json.dumps([str(folder / "net.json"), dtype, host.cores])]  # fmt: skip
                beside = float(
                    subprocess.run(other, check=True, stdout=subprocess.PIPE, text=True).stdout
                )
                if number:  # the first of each warms up
                    told["ours"].append(round(result.images_per_second))
                    told["plain"].append(round(beside))
        finally:
            runner.close()
    return {"size": size, "filters": filters, "dtype": dtype, "macs": configuration.cost["macs"],
            **told,
            "ratio": round(max(told["ours"]) / max(told["plain"]), 2),
            "load_1m": round(os.getloadavg()[0], 1),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine_kind": matrix.machine_kind(),
            "source": matrix.source_sum(), "versions": matrix.versions()}  # fmt: skip


def plain(file: str, dtype: str, threads: int, seconds: float) -> float:
    """Images a second of the loop that people write."""
    import torch

    from convwise.formats import torch as torch_format

    torch.set_num_threads(threads)
    net = net_json.read(Path(file))
    model = torch_format.build(net.shrunk, logits=True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    height, width, channels = net.shrunk.input_shape
    x = (255 * torch.rand(IMAGES, channels, height, width)).to(memory_format=torch.channels_last)
    y = torch.randint(0, CLASSES, (IMAGES,))
    mover = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    began, steps = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        some = torch.randint(0, IMAGES, (BATCH,))
        mover.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = torch.nn.functional.cross_entropy(model(x[some]).float(), y[some])
        loss.backward()
        mover.step()
        steps += 1
    return steps * BATCH / (time.monotonic() - began)


if __name__ == "__main__":
    main()
