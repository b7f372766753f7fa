"""How often the words 'matters' and 'no difference' are wrong: a bank of equal nets, compared with
each other.

    python benchmarks/calibration.py aa SET [SET ...] [--seconds 8 30 120] [--of 240] [--runs 46]
    python benchmarks/calibration.py report [--change 0.01 0.02 0.04]

aa: trains the advised net of each set so often, for each length, under different seeds, one thread
each, as many side by side as there are cores; each training appends a row with its answers to
benchmarks/results/aa.jsonl, and the same command again goes on where it stopped. report: false
alarms of the bank's pairs and triples, the variance of a whole run, which evidence/paired.py takes
for known, and how often losses are found that were made by turning right answers wrong: in
benchmarks/calibration.md. It replays experiments out of the bank and trains nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from datetime import UTC, datetime
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

import paces
from convwise.core.goal import Goal, parse_goal
from convwise.core.layers import Dense, GlobalAveragePooling2D, Rescaling
from convwise.core.net import Net
from convwise.core.records import Effect, Pace, Recipe, Result, Trial, from_json, to_json
from convwise.core.score import score_of
from convwise.core.task import kind_of
from convwise.evidence.effects import RunVariance, between_runs, effect_of
from convwise.evidence.paired import RUN_FREEDOM
from sets import SETS, source

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "aa.jsonl", HERE / "calibration.md"
ANY = Net((4, 4, 1), (GlobalAveragePooling2D(), Dense(2)))  # replays compare answers, not nets
NUMBER = (GlobalAveragePooling2D(), Dense(1))  # the same of a number, before its unit
REPLAYS = 1000  # experiments of several seeds, drawn from one bank
# Seconds of a training, and of the whole that it is the first part of, or its own
Length = tuple[float, float]
Bank = dict[tuple[str, Length], list[Result]]  # set and length -> runs of equal nets
Pairs = Sequence[tuple[Result, Result]]


def main() -> None:
    arguments = _arguments()
    if arguments.mode == "aa":
        for name in arguments.set:
            for seconds in arguments.seconds:
                fill(name, seconds, arguments)
    else:
        bank = banked(arguments.bank)
        PAGE.write_text(
            "\n".join([*PREFACE, *report(bank), "", *planted(bank, arguments.change)]) + "\n"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--bank", type=Path, default=RESULTS)
    modes = parser.add_subparsers(dest="mode", required=True)
    aa = modes.add_parser("aa")
    aa.add_argument("set", nargs="+", choices=SETS)
    aa.add_argument("--seconds", type=float, nargs="+", default=[8.0, 30.0, 120.0])
    aa.add_argument(
        "--of",
        type=float,
        help="of a training of so many seconds they are the first part, as in the race",
    )
    aa.add_argument("--runs", type=int, default=46)
    aa.add_argument("--goal", help="as of `choose`: the best net inside its limits is advised")
    aa.add_argument(
        "--pace",
        type=paces.pace,
        help="another machine's seconds per mac and per byte: benchmarks/paces.py",
    )
    aa.add_argument("--workers", type=int, help="trainings side by side, by default one a core")
    aa.add_argument("--examples", type=int, default=3000, help="validation images at most")
    aa.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    modes.add_parser("report").add_argument(
        "--change", type=float, nargs="+", default=[0.01, 0.02, 0.04]
    )
    return parser.parse_args()


# The bank -----------------------------------------------------------------------------------------


def fill(name: str, seconds: float, arguments: argparse.Namespace) -> None:
    """Train what is missing of one set and length; the net and recipe are those of the bank's first
    row.
    """
    from convwise.images.loading import read
    from convwise.training import batches, train
    from convwise.training.machine import ThisMachine
    from convwise.training.runners import RUNNERS

    asked = (name, seconds, arguments.of)
    rows = [
        row for row in _rows(arguments.bank) if (row["set"], row["seconds"], row.get("of")) == asked
    ]
    seeds = sorted(set(range(arguments.runs)) - {row["seed"] for row in rows})
    if not seeds:
        return
    task = SETS[name].task
    images, host = read(source(name, arguments.data), seed=0, task=task), ThisMachine()
    workers = arguments.workers or host.cores
    goal = parse_goal(arguments.goal, kind_of(task).scored)
    length = arguments.of or seconds
    net, recipe = (
        _kept(rows) if rows else _advised(images, goal, arguments.pace or host.pace, length)
    )
    span = (0.0, seconds / arguments.of if arguments.of else 1.0)
    trials = [
        Trial(f"aa-{seed:03d}", "aa", {}, net, recipe, seconds=seconds, seed=seed, span=span)
        for seed in seeds
    ]
    trials = [paces.counted(trial, arguments.pace, len(images.train)) for trial in trials]
    with tempfile.TemporaryDirectory(prefix="convwise-") as passing:
        folder = Path(passing)
        batches.Prepared(folder, images).ensure(net)
        runner = RUNNERS["local"](partial(train.run, folder, host.engine, task), host, workers)
        warm = [Trial(f"warm{n}", "warm", {}, net, recipe, epochs=1) for n in range(workers)]
        try:
            # Counted epochs are never ended for taking long: then all workers have started
            list(runner.run(warm))
            for result in runner.run(trials):
                if result.status == "failed":
                    print(f"{name}, seed {result.trial.seed}: {result.reason}", file=sys.stderr)
                    continue
                rows.append(_append(arguments, name, seconds, result, first=not rows))
                train.weights_path(folder, result.trial.id).unlink(missing_ok=True)
        finally:
            runner.close()


def _advised(images: Any, goal: Goal, pace: Pace, seconds: float) -> tuple[Net, Recipe]:
    """What a study would begin with that trains for so long."""
    from convwise.advice.advising import advise
    from convwise.advice.fingerprint import look

    facts = look(images.train, images.classes, seed=0, numbers=images.numbers)
    advice = advise(facts, goal, pace, seconds, 1)
    return advice.net, advice.recipe


def _kept(rows: Sequence[dict[str, Any]]) -> tuple[Net, Recipe]:
    first = next(row for row in rows if "net" in row)
    return Net.from_json(first["net"]), from_json(Recipe, first["recipe"])


def _append(
    arguments: argparse.Namespace, name: str, seconds: float, result: Result, first: bool
) -> dict[str, Any]:
    """The row written; the first of a set and length holds the net, the recipe and the machine as
    well.
    """
    from convwise.training.machine import ThisMachine

    # The images may be in the order of their classes
    every = -(-len(result.outcomes) // arguments.examples)
    row: dict[str, Any] = {
        "set": name,
        "seconds": seconds,
        "of": arguments.of,
        "seed": result.trial.seed,
        "score": result.score,
        "images_per_second": round(paces.speed(result, arguments.pace), 1),
        "load_1m": round(os.getloadavg()[0], 1),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    score = score_of(result.trial.net)
    if score.is_error:
        row |= {"errors": result.errors[::every], "deviation": score.deviation}
    else:
        row |= {"correct": result.correct[::every]}
    if first:
        row |= {"net": to_json(result.trial.net), "recipe": to_json(result.trial.recipe)}
        row |= {"pace": arguments.pace and astuple(arguments.pace), "epochs": result.trial.epochs}
        row |= {"dtype": result.dtype, "machine": ThisMachine().describe()}
    arguments.bank.parent.mkdir(parents=True, exist_ok=True)
    with arguments.bank.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(f"{name} {row['seconds']:g} s, seed {row['seed']}: {row['score']:.4f}", file=sys.stderr)
    return row


def _rows(bank: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in bank.read_text().splitlines()] if bank.exists() else []


def banked(bank: Path) -> Bank:
    """The runs of the bank by set and length, where there are two at least."""
    found: Bank = {}
    for row in _rows(bank):
        net = Net((4, 4, 1), (*NUMBER, Rescaling(row["deviation"]))) if "deviation" in row else ANY
        trial = Trial(str(row["seed"]), "aa", {}, net, seconds=row["seconds"], seed=row["seed"])
        result = Result(trial, "done", row["score"], row.get("correct", ""),
                        errors=tuple(row.get("errors", ())),
                        images_per_second=row["images_per_second"])  # fmt: skip
        length = row["seconds"], row.get("of") or row["seconds"]
        found.setdefault((row["set"], length), []).append(result)
    return {key: runs for key, runs in sorted(found.items()) if len(runs) > 1}


# Replays ------------------------------------------------------------------------------------------


def experiments(runs: Sequence[Result], seeds: int, rng: np.random.Generator) -> Iterator[Pairs]:
    """Experiments of so many pairs out of one bank: every pair there is, or REPLAYS draws of
    several.
    """
    if seeds == 1:
        yield from ([pair] for pair in combinations(runs, 2))
    elif len(runs) >= 2 * seeds:
        for _ in range(REPLAYS):
            drawn = [runs[i] for i in rng.permutation(len(runs))[: 2 * seeds]]
            yield list(zip(drawn[:seeds], drawn[seeds:], strict=True))


def told(pairs: Pairs, before: RunVariance) -> Effect:
    """As a study tells it: what was known before, updated by its repeats of the net as it is."""
    return effect_of(
        "edit", ("as it is", "edited"), pairs, before.updated([first for first, _ in pairs])
    )


def others(bank: Bank, name: str, length: Length) -> RunVariance:
    """What the other sets teach of runs of that length; without any, what evidence/paired.py
    says.
    """
    rest = [runs for (other, its), runs in bank.items() if its == length and other != name]
    return taught(rest) if rest else RunVariance.known(bank[name, length])


def named(length: Length) -> str:
    """'30', or '8 of 240' for the first part of a longer training."""
    seconds, whole = length
    return f"{seconds:g}" if seconds == whole else f"{seconds:g} of {whole:g}"


def taught(sets: Sequence[Sequence[Result]]) -> RunVariance:
    """The mean of the sets' run variances, and the degrees of freedom by which they scatter (2
    mean^2 / variance).

    The scatter that the estimates themselves have is taken off; with fewer than three sets the
    freedom stays that of evidence/paired.py.
    """
    found = [between_runs(runs) for runs in sets]
    estimates = np.array([between - flips for between, flips, _ in found])
    mean = max(float(estimates.mean()), 1e-7)
    if len(sets) < 3:
        return RunVariance(mean, RUN_FREEDOM)
    own = float(np.mean([2 * between**2 / freedom for between, _, freedom in found]))
    scatter = max(float(estimates.var(ddof=1)) - own, 2 * mean**2 / 50)
    return RunVariance(mean, max(2 * mean**2 / scatter, 1.0))


PREFACE = """# How often the words are wrong

Written by `benchmarks/calibration.py report` from the rows in `benchmarks/results/aa.jsonl`: the
advised net of each set, trained under different seeds, one thread each, two side by side on a
2-core AMD EPYC with AVX-512 bf16. '20 of 480' is the first 20 s of a training of 480, as the race
compares networks; other lengths are whole trainings.

""".splitlines()
HEAD = """
Equal nets compared: how often a difference 'matters' at nominal 5 %, the run variance as
evidence/paired.py has it and, in brackets, from the other sets; how often they are said to make 'no
difference', which is true.

| set | s | runs | n | accuracy % | images/s, sd % | flips | whole run \
| alarms %: 1 pair | 2 | 3 | same %: 1, 2, 3 |
|---|---|---|---|---|---|---|---|---|---|---|---|"""
FOOT = """
Flips and whole run: standard deviations of one run's accuracy, in points, by single answers and
beyond them (negative: runs differ by less than the flips alone would make).

Over the sets, by length:

| s | sets | standard deviation | degrees of freedom |
|---|---|---|---|"""


def report(bank: Bank) -> Iterator[str]:
    """False alarms and the variance of a run for each set and length, then what the table should
    hold.
    """
    yield HEAD
    for (name, length), runs in bank.items():
        yield _line(
            [name, named(length), *_spread(runs), *_alarms(runs, others(bank, name, length))]
        )
    yield FOOT
    for length in sorted({length for _, length in bank}):
        sets = [runs for (_, its), runs in bank.items() if its == length]
        found = taught(sets)
        yield _line(
            [named(length), len(sets), f"{found.variance**0.5:.4f}", f"{found.freedom:.1f}"]
        )


def _spread(runs: Sequence[Result]) -> Iterator[Any]:
    """How many runs, of how many examples, their accuracy, and by how much they differ."""
    between, flips, _ = between_runs(runs)
    speed = np.array([run.images_per_second for run in runs])
    beyond = between - flips
    yield from (
        len(runs),
        len(runs[0].outcomes),
        f"{100 * np.mean([run.outcomes for run in runs]):.1f}",
    )
    yield f"{100 * speed.std(ddof=1) / speed.mean():.1f}"
    yield f"{100 * flips**0.5:.2f}"
    yield f"{100 * float(np.sign(beyond)) * abs(beyond) ** 0.5:.2f}"


def _alarms(runs: Sequence[Result], rest: RunVariance) -> list[str]:
    """The share of 'matters' by the table (and by the other sets), for 1, 2, 3 pairs; of 'no
    difference'.
    """
    rng, alarms, same = np.random.default_rng(0), [], []
    for seeds in (1, 2, 3):
        tried = list(experiments(runs, seeds, rng))
        by_table, by_rest = (
            [told(p, prior).verdict for p in tried] for prior in (RunVariance.known(runs), rest)
        )
        alarms.append(f"{_percent(by_table, 'matters')} ({_percent(by_rest, 'matters')})")
        same.append(_percent(by_table, "no difference"))
    return [*alarms, ", ".join(same)]


def planted(bank: Bank, changes: Sequence[float]) -> Iterator[str]:
    """How often a planted loss is found, called nothing, or turned round."""
    rng = np.random.default_rng(0)
    yield (
        "A loss planted among equal nets: right answers made wrong at random, errors made larger.\n"
    )
    yield (
        "| set | s | pairs | loss, points | matters % | no difference % | wrong sign % | interval"
        " holds it % |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for (name, length), runs in bank.items():
        for seeds in (1, 2, 3):
            tried = list(experiments(runs, seeds, rng))
            for change in changes if tried else ():
                effects = [
                    told(_lost(pairs, change, rng), RunVariance.known(runs)) for pairs in tried
                ]
                words = [effect.verdict for effect in effects]
                turned = np.mean([effect.low > 0 for effect in effects])
                held = np.mean([effect.low <= -change <= effect.high for effect in effects])
                yield _line([name, named(length), seeds, f"{100 * change:g}", _percent(words,
                             "matters"), _percent(words, "no difference"), f"{100 * turned:.1f}",
                             f"{100 * held:.1f}"])  # fmt: skip


def _lost(pairs: Pairs, change: float, rng: np.random.Generator) -> Pairs:
    """The second of each pair with that share of its answers lost, on the same examples under every
    seed.
    """
    n = len(pairs[0][0].outcomes)
    hit, found = rng.random(n), []
    for before, after in pairs:
        if after.errors:  # half of the images are off by twice as much more
            more = 2 * change * score_of(after.trial.net).deviation * (hit < 0.5)
            found.append(
                (before, replace(after, errors=tuple((np.array(after.errors) + more).tolist())))
            )
            continue
        right = np.array([c == "1" for c in after.correct])
        kept = right & (hit >= change / max(right.mean(), change))
        correct = "".join("01"[int(c)] for c in kept)
        found.append((before, Result(after.trial, "done", float(kept.mean()), correct,
                                     images_per_second=after.images_per_second)))  # fmt: skip
    return found


def _percent(words: Sequence[str], word: str) -> str:
    return f"{100 * words.count(word) / len(words):.1f}" if words else "-"


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
