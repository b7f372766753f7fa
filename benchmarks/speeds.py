"""Images a second that a plan predicts, beside those that the trainings of finished studies on this
machine had.

    python benchmarks/speeds.py DIR...

Each network, batch and number of workers of each folder that `choose` wrote appends a row to
benchmarks/results/speeds.jsonl. A study that ran beside other work says little: leave it out.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

from convwise.core.calculus import analyse
from convwise.core.net import Net
from convwise.core.records import Result, Trial, from_json
from convwise.feed import stored
from convwise.plan import image_seconds
from convwise.training.machine import ThisMachine

RESULTS = Path(__file__).parent / "results" / "speeds.jsonl"


def main() -> None:
    rows = [row for folder in sys.argv[1:] for row in measured(Path(folder))]
    with RESULTS.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    for row in rows:
        print(
            f"{row['source']}: {row['macs'] / 1e6:.1f}M macs, batch {row['batch']}, workers"
            f" {row['workers']}: predicted {row['predicted']:.0f}, measured {row['measured']:.0f}"
            f" ({row['trainings']})"
        )
    for alone in (True, False):
        ratios = [
            row["predicted"] / row["measured"] for row in rows if (row["workers"] == 1) == alone
        ]
        if ratios:
            middle, least, most = statistics.median(ratios), min(ratios), max(ratios)
            who = "one worker" if alone else "all together"
            print(
                f"{who}: predicted over measured {middle:.2f}, {least:.2f} to {most:.2f}"
                f" ({len(ratios)})"
            )


def measured(folder: Path) -> list[dict[str, object]]:
    """Of one study; trainings of one network in one way are one row, with their median."""
    choice, host = json.loads((folder / "choice.json").read_text()), ThisMachine()
    alike: dict[tuple[Net, int, int], list[float]] = defaultdict(list)
    for _, row in stored(folder / "study.db", 0)[0]:
        result = from_json(Result, row)
        trial: Trial = result.trial
        members = choice["provenance"]["workers"] if trial.threads > 1 else 1
        if result.images_per_second:
            alike[trial.net.shrunk, trial.recipe.batch_size, members].append(
                result.images_per_second
            )
    source, pace = Path(choice["data"]["source"]).name, host.pace
    return [
        {"source": source, **cost, "batch": batch, "workers": workers, "pace": asdict(pace),
         "predicted": 1 / image_seconds(cost, pace, batch, workers),
         "measured": statistics.median(found), "trainings": len(found), "machine": host.name}
        for (net, batch, workers), found in alike.items() for cost in [analyse(net).total.cost]
    ]  # fmt: skip


if __name__ == "__main__":
    main()
