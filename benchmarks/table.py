"""Rows of the matrix as tables, figures and plots: writes benchmarks/README.md.

    python benchmarks/table.py

Reads benchmarks/results/matrix.jsonl (of matrix.py), and compare.jsonl for what was measured of
version 0.1.0. A table is of one kind of machine and one budget: nothing is compared across.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from scipy.stats import binom, rankdata

from convwise.core.intervals import wilson
from rivals import KINDS, RIVALS

HERE = Path(__file__).parent
README, MATRIX, COMPARED = (
    HERE / "README.md",
    HERE / "results" / "matrix.jsonl",
    HERE / "results" / "compare.jsonl",
)
FIXED = ("expert", "record")  # the kinds whose best in hindsight is the bar
Row = Mapping[str, Any]
HEAD = """# Benchmarks

`choose` beside rivals: the same images, the same machine, the same wall clock, start-up and scoring
included. Written by `benchmarks/table.py` from the rows in `benchmarks/results/matrix.jsonl`;
`benchmarks/matrix.py` runs what is missing, `benchmarks/rivals/` says what each rival is,
`benchmarks/sets.py` what the sets are.

```sh
python benchmarks/matrix.py --methods choose,advised,expert-32,record-0.5 \\
    --sets mnist-5k --budgets 300 --seeds 0-3
python benchmarks/table.py
```

{rivals}

Not run: **AutoKeras** fails on Keras 3.15, and **KerasTuner** is not among the packages that this
project pins; Optuna stands for the tuners. The record's recipe is scored on one view of each image,
as every other net is, not on six.

Accuracy is on the sealed test part of the set, which a run opens once, at its end. Where a set has
no test part of its own, the seed draws it, the same for every method. Error ratios: the error of a
method over that of its bar, paired by set and seed, never below half an example; the mean of the
logarithm over seeds for each set; then the median over sets, with the interval of ranks that holds
it with at least 95 % (six sets or more). The bar 'best fixed' is, for each set, the one of the
expert's and the record's nets with the smallest mean error: the best in hindsight, which nobody has
beforehand.

How often *matters* and *no difference* are wrong: [calibration.md](calibration.md).
"""
NUMBERS = """## Numbers instead of classes

`choose --task regress`, one seed a row: the mean absolute error on the sealed test part with its
95 % interval, beside that of always saying the median of the training images. digits-angle: by how
many degrees a digit was turned, from -60 to 60. cells-foreground: the percentage of a blood smear
that is stained. `benchmarks/sets.py` makes both.

| set | error | interval | the median's | R2 | n | macs | s | wall s | load | machine | ours at |
|---|---|---|---|---|---|---|---|---|---|---|---|"""
OLD = """## Version 0.1.0

Measured before the matrix, one seed a row: `choose` beside three fixed residual nets (two stages,
stem width 16, 32, 64, one-cycle AdamW in convwise's own trainer) and textbook nets in Keras on
TensorFlow, each for the same wall clock. Rows: `benchmarks/results/compare.jsonl`. The interval is
Wilson's, 95 %; differences inside the intervals are not shown to be differences. Load is the
machine's 1-minute average at the end of the run, two cores.

| set | method | accuracy % | interval | n | macs | params | latency ms | wall s | load | date |
|---|---|---|---|---|---|---|---|---|---|---|"""


RATIOS = (
    "| error of | over that of | sets | median ratio | 95 % interval | smallest | largest |",
    "|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class Cell:
    """The runs of one method on one set, a row for each seed."""

    set: str
    method: str
    rows: tuple[Row, ...]

    @property
    def errors(self) -> dict[int, float]:
        """seed -> error, at least half an example."""
        return {row["seed"]: max(1 - row["accuracy"], 0.5 / row["n"]) for row in self.rows}

    @property
    def error(self) -> float:
        return fmean(self.errors.values())

    def mean(self, name: str) -> float | None:
        """The mean of a column over the seeds; None where it is not known."""
        known = [row[name] for row in self.rows if row.get(name) is not None]
        return fmean(known) if known else None


def main() -> None:
    from plots import draw

    rows = read(MATRIX)
    for number, ((machine, budget), cells) in enumerate(tables(rows).items(), 1):
        print(f"plot {number}: {machine}, {budget:g} s")
        draw(cells, plot_path(machine, budget))
    README.write_text(text(rows, read(COMPARED)))


def read(path: Path) -> list[Row]:
    """Every row of a file of results, oldest first."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def plot_path(machine: str, budget: float) -> Path:
    """Where the plot of a table lies, without its suffix."""
    name = re.sub("[^a-z0-9]+", "-", machine.lower()).strip("-")
    return HERE / "results" / f"error-macs-{budget:g}s-{name}"


def tables(rows: Iterable[Row]) -> dict[tuple[str, float], list[Cell]]:
    """(kind of machine, budget) -> cells, of the rows that count.

    Of each method, set, budget and seed the latest finished row; of methods that run on our own
    source only rows of the newest source that ran this set on that machine, with that budget.
    """
    done = [row for row in rows if "accuracy" in row and row["method"] in RIVALS]
    newest = {
        (row["machine_kind"], row["budget"], row["method"], row["set"]): row["source"]
        for row in done
    }
    latest = {}
    for row in done:
        source = newest[row["machine_kind"], row["budget"], row["method"], row["set"]]
        if not RIVALS[row["method"]].ours or row["source"] == source:
            latest[row["machine_kind"], row["budget"], row["set"], row["method"], row["seed"]] = row
    grouped: dict[Any, dict[Any, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for machine, budget, name, method, seed in sorted(latest):
        row = latest[machine, budget, name, method, seed]
        grouped[machine, budget][name, method].append(row)
    return {
        key: [Cell(*which, tuple(some)) for which, some in cells.items()]
        for key, cells in grouped.items()
    }


# figures ---------------------------------------------------------------------------------------


def best_fixed(cells: Iterable[Cell]) -> dict[str, Cell]:
    """set -> the cell of the expert's and the record's nets with the smallest mean error."""
    fixed = [cell for cell in cells if RIVALS[cell.method].kind in FIXED]
    return {cell.set: cell for cell in sorted(fixed, key=lambda cell: -cell.error)}


def log_ratios(cells: Iterable[Cell], method: str, bars: Mapping[str, Cell]) -> dict[str, float]:
    """set -> mean over the shared seeds of log(error of `method` / error of the set's bar)."""
    found = {}
    for cell in cells:
        seeds = cell.errors.keys() & bars[cell.set].errors.keys() if cell.set in bars else set()
        if cell.method == method and seeds:
            found[cell.set] = fmean(
                math.log(cell.errors[s] / bars[cell.set].errors[s]) for s in seeds
            )
    return found


def median_interval(values: Iterable[float]) -> tuple[float, float] | None:
    """Two of the values that hold the median of where they come from with at least 95 %, whatever
    their distribution; None for fewer than six.

    The k-th smallest and the k-th largest hold it unless at most k - 1 of n lie on one side: twice
    the binomial tail (David & Nagaraja 2003, Order Statistics, section 7.1).
    """
    ordered = sorted(values)
    n = len(ordered)
    k = int(binom.ppf(0.025, n, 0.5)) if n else 0
    while k > 0 and 2 * binom.cdf(k - 1, n, 0.5) > 0.05:
        k -= 1
    return (ordered[k - 1], ordered[n - k]) if k > 0 else None


def mean_ranks(cells: Iterable[Cell]) -> dict[str, float]:
    """method -> mean over sets of its rank by mean error (1: best), over the seeds that all have.

    Only methods that ran on every set; ties share their ranks.
    """
    errors = {(cell.set, cell.method): cell.errors for cell in cells}
    names = sorted({name for name, _ in errors})
    methods = [m for m in RIVALS if all((name, m) in errors for name in names)]
    ranks = []
    for name in names if methods else []:
        shared = set.intersection(*(set(errors[name, m]) for m in methods))
        if shared:
            ranks.append(
                rankdata([fmean(errors[name, m][seed] for seed in shared) for m in methods])
            )
    return {m: fmean(float(r[i]) for r in ranks) for i, m in enumerate(methods) if ranks}


# text ------------------------------------------------------------------------------------------


def text(rows: list[Row], compared: list[Row]) -> str:
    """The whole of README.md."""
    parts = [HEAD.format(rivals=rival_list())]
    found = tables(rows)
    for (machine, budget), cells in found.items():
        parts += [section(machine, budget, cells, history(rows, machine, budget))]
    if not found:
        parts += ["No rows yet.\n"]
    if counted := [row for row in rows if "baseline" in row]:
        parts += [numbers(counted)]
    if failed := failures_of(rows):
        parts += [failures(failed)]
    return "\n".join([*parts, *old(compared)])


def rival_list() -> str:
    """A line for each kind of rival."""
    lines = []
    for kind, meaning in KINDS.items():
        names = ", ".join(f"`{name}`" for name, rival in RIVALS.items() if rival.kind == kind)
        lines.append(f"- **{kind}** ({names}): {meaning}")
    return "\n".join(lines)


def section(machine: str, budget: float, cells: list[Cell], earlier: list[str]) -> str:
    """One kind of machine, one budget: figures, plot, table."""
    rows = [row for cell in cells for row in cell.rows]
    newest = max(rows, key=lambda row: row["date"])
    told = ", ".join(f"{name} {version}" for name, version in newest["versions"].items())
    dates = sorted(row["date"][:10] for row in rows)
    path = plot_path(machine, budget)
    return "\n".join(
        [
            f"## {budget:g} s, {machine}\n",
            (
                f"{len(rows)} runs of {dates[0]} to {dates[-1]}; newest row: {told}; ours at"
                f" {ours_at(rows)}.\n"
            ),
            *summary(cells),
            *cheapest(cells),
            *earlier,
            f"![error against macs](results/{path.name}.svg)\n",
            (
                "Spread: smallest to largest accuracy over the seeds. Resolved: of kernel size,"
                " filters, strides, padding and activation, how many have a verdict (mean over the"
                " seeds). Load: mean 1-minute average at the end.\n"
            ),
            (
                "| set | method | accuracy % | spread | seeds | n | macs | params | latency ms |"
                " epochs | resolved | wall s | load |"
            ),
            "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
            *(line(cell) for cell in sorted(cells, key=lambda cell: (cell.set, cell.error))),
            "",
        ]
    )


def ours_at(rows: Iterable[Row]) -> str:
    """The commits that our own methods ran at."""
    found = {row["revision"] for row in rows if RIVALS[row["method"]].ours}
    return ", ".join(sorted(found)) or "no commit: none ran"


def cheapest(cells: list[Cell]) -> list[str]:
    """What the goals of cost save beside the best fixed net of each set, and what of its accuracy
    they give up.
    """
    bars, lines = best_fixed(cells), []
    for method in ("choose-wanted", "choose-cheapest"):
        mine = [
            (cell, bars[cell.set]) for cell in cells if cell.method == method and cell.set in bars
        ]
        if not mine:
            continue
        shares = [[share(cell, bar, name) for name in ("macs", "latency_ms")] for cell, bar in mine]
        for (cell, bar), (macs, latency) in zip(mine, shares, strict=True):
            points = 100 * (bar.error - cell.error)
            lines.append(
                f"| `{method}` | {cell.set} | {macs:.2f} | {latency:.2f} | {points:+.1f} |"
                f" {bar.method} |"
            )
        macs, latency = (median(column) for column in zip(*shares, strict=True))
        lines.append(f"| `{method}` | median of {len(mine)} | {macs:.2f} | {latency:.2f} | | |")
    head = (
        "Cost over that of the best fixed net: `choose-wanted` asks for the fewest macs at its"
        " accuracy less 0.3 points"
    )
    head += (
        " (`wanted` in `benchmarks/sets.py`), `choose-cheapest` at that of the best net found less"
        " 0.3 points.\n"
    )
    columns = [
        "| method | set | macs | latency | points of accuracy | best fixed |",
        "|---|---|---|---|---|---|",
    ]
    return [head, *columns, *lines, ""] if lines else []


def share(cell: Cell, bar: Cell, name: str) -> float:
    """A column of a cell over the same of its bar; not a number where one is not known."""
    ours, theirs = cell.mean(name), bar.mean(name)
    return ours / theirs if ours and theirs else math.nan


def summary(cells: list[Cell]) -> list[str]:
    """Mean ranks, and error ratios of the methods that run on our own source."""
    if len(methods := {cell.method for cell in cells}) == 1:
        return [f"Only `{methods.pop()}` was run: nothing stands beside it here.\n"]
    bars = {"best fixed": best_fixed(cells)}
    bars |= {"`advised`": {cell.set: cell for cell in cells if cell.method == "advised"}}
    ours = [name for name, rival in RIVALS.items() if rival.ours]
    lines = [
        ratio_line(method, name, log_ratios(cells, method, bar))
        for name, bar in bars.items() for method in ours if f"`{method}`" != name
    ]  # fmt: skip
    ranks = sorted(mean_ranks(cells).items(), key=lambda item: item[1])
    told = (
        ", ".join(f"`{method}` {rank:.2f}" for method, rank in ranks)
        or "no method ran on every set"
    )
    sets = len({cell.set for cell in cells})
    return [
        (
            f"Mean rank over {sets} {'set' if sets == 1 else 'sets'}, of the methods that ran on"
            f" each: {told}.\n"
        ),
        *RATIOS,
        *filter(None, lines),
        "",
    ]


def history(rows: list[Row], machine: str, budget: float) -> list[str]:
    """Before and after: `choose` over the best fixed, a line for each state of our source."""
    here = [
        r for r in rows if (r["machine_kind"], r["budget"]) == (machine, budget) and "accuracy" in r
    ]
    states = {row["source"]: row["revision"] for row in here if row["method"] == "choose"}
    lines = []
    for source, revision in states.items():
        ours = {name for name, rival in RIVALS.items() if rival.ours}
        (cells,) = tables(
            r for r in here if r["method"] not in ours or r["source"] == source
        ).values()
        logs = log_ratios(cells, "choose", best_fixed(cells))
        lines.append(ratio_line("choose", f"best fixed, at {revision}", logs))
    return (
        ["From state to state of the source:\n", *RATIOS, *filter(None, lines), ""]
        if len(states) > 1
        else []
    )


def ratio_line(method: str, bar: str, logs: Mapping[str, float]) -> str:
    """One row of ratios; '' where no set has both."""
    if not logs:
        return ""
    between = median_interval(logs.values())
    interval = (
        f"{math.exp(between[0]):.2f} to {math.exp(between[1]):.2f}" if between else "too few sets"
    )
    least, most = (
        f"{math.exp(logs[s]):.2f} ({s})" for s in (min(logs, key=logs.get), max(logs, key=logs.get))
    )
    return (
        f"| `{method}` | {bar} | {len(logs)} | {math.exp(median(logs.values())):.2f} | {interval} |"
        f" {least} | {most} |"
    )


def line(cell: Cell) -> str:
    """One row of the table."""
    accuracies = sorted(100 * row["accuracy"] for row in cell.rows)
    seeds = ", ".join(str(row["seed"]) for row in cell.rows)
    resolved = [len(row["resolved"]) for row in cell.rows if "resolved" in row]
    cells = [cell.set, cell.method, f"{fmean(accuracies):.2f}",
             f"{accuracies[0]:.2f} to {accuracies[-1]:.2f}", seeds, cell.rows[0]["n"],
             shown(cell.mean("macs"), "{:.1f}M", 1e6), shown(cell.mean("params"), "{:.0f}k", 1e3),
             shown(cell.mean("latency_ms"), "{:.2f}"), shown(cell.mean("epochs"), "{:.0f}"),
             f"{fmean(resolved):g}" if resolved else "", shown(cell.mean("wall_seconds"), "{:.0f}"),
             shown(cell.mean("load"), "{:.1f}")]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def shown(value: float | None, form: str, unit: float = 1) -> str:
    """A number in its unit; nothing where it is not known."""
    return "" if value is None else form.format(value / unit)


def numbers(rows: Iterable[Row]) -> str:
    """The runs on images that have numbers instead of classes, which none of the rivals learns."""
    lines = [
        f"| {r['set']} | {r['error']:.2f} | {r['low']:.2f} to {r['high']:.2f} |"
        f" {r['baseline']:.2f} | {r['r2']:.3f} | {r['n']} | {r['macs'] / 1e6:.1f}M |"
        f" {r['budget']:g} | {r['wall_seconds']:.0f} | {r['load']:.1f} | {r['machine_kind']} |"
        f" {r['revision']} |"
        for r in rows
    ]
    return "\n".join([NUMBERS, *lines, ""])


def failures_of(rows: Iterable[Row]) -> list[Row]:
    """The latest row of each run whose latest row is a failure."""
    latest = {
        (row["machine_kind"], row["budget"], row["set"], row["method"], row["seed"]): row
        for row in rows
    }
    return [row for row in latest.values() if row["status"] == "failed"]


def failures(rows: Iterable[Row]) -> str:
    """Runs that failed, each with its last line of error."""
    lines = [
        f"- {r['set']}, {r['method']}, {r['budget']:g} s, seed {r['seed']} ({r['date'][:10]}):"
        f" {r['error']}"
        for r in rows
    ]
    return "\n".join(["## Failed runs\n", *lines, ""])


# version 0.1.0 ---------------------------------------------------------------------------------


def old(rows: Iterable[Row]) -> list[str]:
    """The section of compare.jsonl: the latest row of each set, method, budget and seed."""
    latest = {(row["set"], row["method"], row["budget"], row["seed"]): row for row in rows}
    newest = max(latest.values(), key=lambda row: row["date"])["machine"]
    told = ", ".join(f"{name} {value}" for name, value in newest.items())
    lines = [
        old_line(row) for row in sorted(latest.values(), key=lambda r: (r["set"], -r["accuracy"]))
    ]
    return [OLD, *lines, f"\nMachine and versions of the newest row: {told}.\n"]


def old_line(row: Row) -> str:
    low, high = wilson(round(row["accuracy"] * row["n"]), row["n"])
    cells = [row["set"], row["method"], f"{100 * row['accuracy']:.1f}",
             f"{100 * low:.1f} to {100 * high:.1f}", row["n"], f"{row['macs'] / 1e6:.1f}M",
             f"{row['params'] / 1e3:.0f}k", shown(row.get("latency_ms"), "{:.2f}"),
             f"{row['wall_seconds']:.0f}", f"{row['load_1m']:.1f}", row["date"][:10]]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
