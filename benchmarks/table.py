"""Rows of benchmarks/results/compare.jsonl as a Markdown table, the latest of each set, method, budget and seed.

python benchmarks/table.py > benchmarks/README.md
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from convwise.judge import wilson

RESULTS = Path(__file__).parent / "results" / "compare.jsonl"
HEAD = """# Benchmarks

`choose` beside an expert's fixed residual nets (stem width 16, 32, 64) and nets that people copy from textbooks, each
for the same wall clock on the same machine. Written by `benchmarks/table.py` from the rows in
`benchmarks/results/compare.jsonl`; `benchmarks/compare.py` says what each method is and runs one.

Accuracy is on the set's own sealed test part, with its 95 % interval (Wilson). One seed a row: differences inside the
intervals are not shown to be differences. Load is the machine's 1-minute average at the end of the run, two cores; the
run itself makes 1 to 2 of it, and what is above that was other work at low priority.

| set | method | accuracy % | interval | n | macs | params | latency ms | wall s | load | date |
|---|---|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    latest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in RESULTS.read_text().splitlines():
        row = json.loads(line)
        latest[row["set"], row["method"], row["budget"], row["seed"]] = row
    print(HEAD)
    for row in sorted(latest.values(), key=lambda r: (r["set"], -r["accuracy"])):
        print(_line(row))
    newest = max(latest.values(), key=lambda r: r["date"])["machine"]
    print("\nMachine and versions of the newest row: " + ", ".join(f"{k} {v}" for k, v in newest.items()) + ".")


def _line(row: dict[str, Any]) -> str:
    low, high = wilson(round(row["accuracy"] * row["n"]), row["n"])
    cells = [
        row["set"],
        row["method"],
        f"{100 * row['accuracy']:.1f}",
        f"{100 * low:.1f} to {100 * high:.1f}",
        row["n"],
    ]
    latency = f"{row['latency_ms']:.2f}" if "latency_ms" in row else ""
    cells += [f"{row['macs'] / 1e6:.1f}M", f"{row['params'] / 1e3:.0f}k", latency, f"{row['wall_seconds']:.0f}"]
    return "| " + " | ".join(map(str, [*cells, f"{row['load_1m']:.1f}", row["date"][:10]])) + " |"


if __name__ == "__main__":
    main()
