"""Does an early effect hold at the end, and how large is each effect there? Single changes, trained short and long.

    python benchmarks/effects.py bank SET [SET ...] [--part 10] [--final 120] [--seeds 0]
    python benchmarks/effects.py report

bank: of each set the advised net and its single changes, one thread each, side by side: as the race
trains them (the first `--part` seconds of a training of `--final` seconds, judged on the validation
part), and, under another seed, to the end of such a training, judged on the sealed test part as well.
Each training appends a row with its answers to benchmarks/results/effects.jsonl; the same command goes
on where it stopped. report: of the effects told early, how many keep their sign, or stay inside one
point, at the end; the choice made again on resampled validation images, and whether the accuracy told
with it holds; every effect at the end over all sets: in benchmarks/effects.md and docs/effects.svg.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import matrix
import sets
from calibration import ANY
from convwise.core.records import Effect, Result, Trial, to_json
from convwise.evidence import COLLAPSED, RunVariance, carried, effect_of, verdicts
from convwise.judge import wilson
from convwise.search import race

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "effects.jsonl"
PAGE, FIGURE = HERE / "effects.md", HERE.parent / "docs" / "effects.svg"
PARAMETERS = (
    "stage.kernel_size", "stage.filters", "stem.strides", "padding", "activation",  # the question
    "downsampling", "normalization", "head", "stage.count", "stage.convs", "stem.kernel_size", "input.size", "block",
    "training.flip",
)  # fmt: skip
AS_IS = ""  # the parameter of the net that nothing was changed in
WITHIN = 0.01  # what 'no difference' promises
REPLAYS = 1000
HEAD = """# Effects, early and at the end

Written by `benchmarks/effects.py report` from the rows in `benchmarks/results/effects.jsonl`: single changes of the
advised network, trained for a short part as the race compares them, and to the end of a whole training under another
seed. One thread a training, two side by side.
""".splitlines()


def main() -> None:
    given = _arguments()
    if given.mode == "bank":
        for name in given.set:
            for seed in given.seeds:
                fill(name, seed, given)
    else:
        rows = matrix.rows_of(given.results)
        found = list(compared(rows))
        draw(found, FIGURE)
        PAGE.write_text(
            "\n".join([*HEAD, "", *horizon(found), "", *fitted(found), "", *told_again(rows), "", *sizes(found)]) + "\n"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--results", type=Path, default=RESULTS)
    modes = parser.add_subparsers(dest="mode", required=True)
    bank = modes.add_parser("bank")
    bank.add_argument("set", nargs="+", choices=sets.SETS)
    bank.add_argument("--part", type=float, default=10.0, help="seconds of the early trainings")
    bank.add_argument("--final", type=float, default=120.0, help="seconds of the long ones, of one thread")
    bank.add_argument("--seeds", type=int, nargs="+", default=[0])
    bank.add_argument("--data", type=Path, default=sets.DATA)
    modes.add_parser("report")
    return parser.parse_args()


# The bank -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """One change of the advised sample; parameter is AS_IS for none."""

    parameter: str
    before: Any
    after: Any
    sample: dict[str, Any]


def fill(name: str, seed: int, given: argparse.Namespace) -> None:
    """Train what is missing of one set."""
    from convwise import batches, machine, train
    from convwise.advice import advise
    from convwise.core.goal import Goal
    from convwise.fingerprint import look
    from convwise.images import read
    from convwise.runners import RUNNERS

    images, engine, workers = read(sets.source(name, given.data), seed=0), machine.engine(), machine.cores()
    facts = look(images.train, images.classes, seed=0)
    advice = advise(facts, Goal(), machine.pace(engine), given.final, 1)
    stands = {(r["parameter"], r["to"], r["role"]) for r in matrix.rows_of(given.results)
              if (r["set"], r["seed"], r["final_seconds"]) == (name, seed, given.final)}  # fmt: skip
    wanted = [(change, role) for change in changes(advice) for role in ("part", "final")
              if (change.parameter, change.after, role) not in stands]  # fmt: skip
    if not wanted:
        return
    trials = {}
    for number, (change, role) in enumerate(wanted):
        trial = Trial(f"{role}-{number:02d}", role, change.sample, advice.space.grow(change.sample),
                      advice.space.trained(change.sample), given.part if role == "part" else given.final,
                      seed=2 * seed + (role == "final"), part="train",
                      span=(0.0, given.part / given.final if role == "part" else 1.0))  # fmt: skip
        trials[trial.id] = trial, change
    with tempfile.TemporaryDirectory(prefix="convwise-") as passing:
        folder = Path(passing)
        for size in {trial.net.input_shape[:2] for trial, _ in trials.values()}:
            for part in ("train", "valid"):
                batches.store(folder, f"{size[0]}x{size[1]}", part, getattr(images, part).at(*size))
        runner = RUNNERS["local"](partial(train.run, folder, engine, "classify"), workers)
        try:
            list(
                runner.run([Trial(f"warm{n}", "warm", {}, advice.net, advice.recipe, epochs=1) for n in range(workers)])
            )
            for result in runner.run([trial for trial, _ in trials.values()]):
                trial, change = trials[result.trial.id]
                sealed = ""
                if trial.stage == "final" and result.status == "done":
                    weights, opened = train.load_weights(folder, trial.id), images.test.open()
                    pixels = np.asarray(opened.at(*trial.net.input_shape[:2]).pixels)
                    right = train.probabilities(trial.net, weights, pixels).argmax(1) == opened.labels
                    sealed = "".join("01"[int(each)] for each in right)
                _append(given, name, seed, change, result, sealed)
        finally:
            runner.close()


def changes(advice: Any) -> Iterator[Change]:
    """None, then the first other value of each parameter, and the second of those that people ask about."""
    yield Change(AS_IS, None, None, dict(advice.sample))
    taken: dict[str, int] = {}
    for name, value, sample in advice.space.neighbours(advice.sample):
        most = 2 if name in PARAMETERS[:2] else 1
        if name in PARAMETERS and taken.get(name, 0) < most and sample == {**advice.sample, name: value}:
            taken[name] = taken.get(name, 0) + 1
            yield Change(name, advice.sample[name], value, dict(sample))


def _append(given: argparse.Namespace, name: str, seed: int, change: Change, result: Result, sealed: str) -> None:
    row = {
        "set": name, "parameter": change.parameter, "from": change.before, "to": change.after,
        "role": result.trial.stage, "seconds": result.trial.seconds, "final_seconds": given.final, "seed": seed,
        "status": result.status, "reason": result.reason, "correct": result.correct,
        "accuracy": result.score, "sealed": sealed,
        "images_per_second": round(result.images_per_second, 1), "macs": result.cost.get("macs"),
        "sample": to_json(change.sample), "load_1m": round(os.getloadavg()[0], 1),
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "machine_kind": matrix.machine_kind(),
        "source": matrix.source_sum(), "versions": matrix.versions(),
    }  # fmt: skip
    matrix.append(given.results, row)
    said = f"{row['accuracy']:.4f}" if row["accuracy"] is not None else row["reason"]
    print(f"{name} {row['role']} {change.parameter or 'as advised'} {change.after}: {said}", file=sys.stderr)


# What it says -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """One change of one set: the effect as the race tells it early, and as it is at the end.

    mistakes: the mean share of wrong answers of both nets after the part.
    """

    set: str
    early: Effect
    late: Effect
    mistakes: float


def compared(rows: Iterable[dict[str, Any]]) -> Iterator[Compared]:
    """Every change of which all trainings ended; the early effects of a set are told together."""
    for name, short, long in banks(rows):
        keys = [key for key in short if key[0] != AS_IS]
        early = verdicts([_told(short[AS_IS, None], short[key]) for key in keys])
        for key, told in zip(keys, early, strict=True):
            late = _effect(long[AS_IS, None], long[key], "sealed")
            yield Compared(name, told, late, _mistakes(short[AS_IS, None], short[key]))


Rows = dict[tuple[str, Any], dict[str, Any]]  # (parameter, value) -> row


def banks(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[str, Rows, Rows]]:
    """(set, short trainings, long ones) of each set and seed: the net as it is, and the changes that have both."""
    groups: dict[tuple[str, int, float], dict[str, Rows]] = {}
    for row in rows:
        if row["status"] == "done":
            group = groups.setdefault((row["set"], row["seed"], row["final_seconds"]), {"part": {}, "final": {}})
            group[row["role"]][row["parameter"], row["to"]] = row
    for (name, *_), group in groups.items():
        both = [key for key in group["part"] if key in group["final"]]
        if (AS_IS, None) in both:
            yield name, {key: group["part"][key] for key in both}, {key: group["final"][key] for key in both}


def _effect(before: dict[str, Any], after: dict[str, Any], answers: str) -> Effect:
    pair = [
        Result(Trial(row["role"], row["role"], {}, ANY, seconds=row["seconds"]), "done", row["accuracy"],
               row[answers], images_per_second=row["images_per_second"]) for row in (before, after)
    ]  # fmt: skip
    values = (after["from"], after["to"])
    return effect_of(after["parameter"], values, [(pair[0], pair[1])], RunVariance.known(pair))


def _told(before: dict[str, Any], after: dict[str, Any]) -> Effect:
    """As the race tells it: what it says of the end."""
    return carried(_effect(before, after, "correct"), _mistakes(before, after))


def _mistakes(before: dict[str, Any], after: dict[str, Any]) -> float:
    return 1 - float(before["accuracy"] + after["accuracy"]) / 2


def fitted(found: list[Compared]) -> Iterator[str]:
    """The constants of evidence.carried: least squares, all in shares of the mistakes after the part.

    Of changes of less than COLLAPSED: a net that does not train at all says nothing of others.
    """
    found = [c for c in found if abs(c.early.accuracy_change) < COLLAPSED]
    if len({c.set for c in found}) < 2:
        return
    names = np.array([c.set for c in found])
    given = np.array([[c.early.accuracy_change / c.mistakes, np.log(c.early.time_ratio)] for c in found])
    ends = np.array([c.late.accuracy_change / c.mistakes for c in found])
    kept, cheaper = np.linalg.lstsq(given, ends, rcond=None)[0]
    left = np.zeros(len(found))
    for name in dict.fromkeys(names):
        mine = names == name
        left[mine] = ends[mine] - given[mine] @ np.linalg.lstsq(given[~mine], ends[~mine], rcond=None)[0]
    deviation = float(np.sqrt((left**2).mean()))
    half = float(np.median(np.abs(left)))
    yield (f"From the part to the end of {len(found)} changes, in shares of the mistakes after the part: "
           f"{kept:.2f} of the change, and "
           f"{cheaper:+.3f} for the logarithm of the time of a step; what is left, of a set that was not fitted to, "
           f"has a deviation of {deviation:.3f} (half of all lie within {half:.3f}).")  # fmt: skip


def horizon(found: list[Compared]) -> Iterator[str]:
    """Of what was told early: does it hold at the end?"""
    clear = [c for c in found if c.early.verdict == "matters"]
    same = [c for c in found if c.early.verdict == "no difference"]
    kept = [c for c in clear if c.late.accuracy_change * c.early.accuracy_change > 0]
    turned = [c for c in clear if c.late.verdict == "matters" and c not in kept]
    inside = [c for c in same if abs(c.late.accuracy_change) <= WITHIN]
    beyond = [c for c in same if c.late.low > WITHIN or c.late.high < -WITHIN]
    places = {c.set for c in found}
    there = sum((c.early.expected_low or 0) <= c.late.accuracy_change <= (c.early.expected_high or 0) for c in found)
    yield f"{len(found)} effects on {len(places)} sets: {', '.join(sorted(places))}."
    yield f"{there} of them ended inside the 95 % interval that was told for the end."
    yield ""
    yield "| told early | effects | hold at the end | surely do not |"
    yield "|---|---|---|---|"
    yield f"| matters: the sign is kept | {len(clear)} | {len(kept)} | {len(turned)} |"
    yield f"| no difference: inside one point | {len(same)} | {len(inside)} | {len(beyond)} |"
    yield f"| not resolved | {len(found) - len(clear) - len(same)} | | |"
    for one in clear:
        if one not in kept:
            told, true = (f"{100 * e.accuracy_change:+.1f} ({100 * e.low:+.1f} to {100 * e.high:+.1f})"
                          for e in (one.early, one.late))  # fmt: skip
            change = f"{one.early.parameter} {one.early.before} to {one.early.after}"
            yield f"\nTurned: {one.set}, {change}, told {told} after {one.early.seconds:g} s, {true} at the end."


def told_again(rows: Iterable[dict[str, Any]], replays: int = REPLAYS) -> Iterator[str]:
    """The choice made again on validation images drawn with replacement, as `--test none` tells its accuracy.

    The validation images as they are stand for all there could be: what the chosen net gets right of them is
    the truth that its interval must hold.
    """
    rng = np.random.default_rng(0)
    yield "| set | n | other choices % | told - true, points | the 95 % interval holds it % |"
    yield "|---|---|---|---|---|"
    for name, short, long in banks(rows):
        early, late = ({key: _right(row["correct"]) for key, row in bank.items()} for bank in (short, long))
        n, told, held, others = len(late[AS_IS, None]), [], 0, 0
        for _ in range(replays):
            drawn = rng.integers(0, n, n)
            some = {key: {**short[key], "correct": _answers(right[drawn]), "accuracy": float(right[drawn].mean())}
                    for key, right in early.items()}  # fmt: skip
            effects = verdicts([_told(some[AS_IS, None], some[key]) for key in some if key[0] != AS_IS])
            better = race.adopted(effects)
            chosen = late[(better.parameter, better.after) if better else (AS_IS, None)]
            right, true = int(chosen[drawn].sum()), chosen.mean()
            low, high = wilson(right, n)
            told.append(right / n - true)
            held += low <= true <= high
            others += better is not None
        yield (
            f"| {name} | {n:,} | {100 * others / replays:.1f} | {100 * float(np.mean(told)):+.2f} "
            f"| {100 * held / replays:.1f} |"
        )


def _right(answers: str) -> np.ndarray:
    return np.array([answer == "1" for answer in answers])


def _answers(right: np.ndarray) -> str:
    return "".join(np.where(right, "1", "0"))


def sizes(found: list[Compared]) -> Iterator[str]:
    """Every effect at the end, parameter by parameter."""
    names = list(dict.fromkeys(c.set for c in found))
    rows: dict[tuple[str, str], dict[str, list[Effect]]] = {}
    for one in found:
        label = f"{one.late.before} to {one.late.after}"
        rows.setdefault((one.late.parameter, label), {}).setdefault(one.set, []).append(one.late)
    yield f"| parameter | change | median | {' | '.join(names)} |"
    yield "|---|---|---|" + "---|" * len(names)
    for parameter in PARAMETERS:
        for (name, label), per_set in rows.items():
            if name == parameter:
                means = {s: float(np.mean([e.accuracy_change for e in effects])) for s, effects in per_set.items()}
                cells = [f"{100 * means[s]:+.1f}" if s in means else "" for s in names]
                median = 100 * float(np.median([*means.values()]))
                yield f"| {parameter} | {label} | {median:+.1f} | {' | '.join(cells)} |"


def draw(found: list[Compared], path: Path) -> None:
    """Every effect at the end with its interval, a colour for each set, a row for each change."""
    import altair as alt

    rows = [
        {"parameter": c.late.parameter, "change": f"{c.late.before} to {c.late.after}", "set": c.set,
         "points": 100 * c.late.accuracy_change, "low": 100 * c.late.low, "high": 100 * c.late.high} for c in found
    ]  # fmt: skip
    y = alt.Y("change:N", title=None)
    colour = alt.Color("set:N", title="")
    base = alt.Chart().encode(y=y, color=colour, yOffset="set:N")
    spread = base.mark_rule(opacity=0.5).encode(x=alt.X("low:Q", title="points of accuracy"), x2="high:Q")
    layers = alt.layer(spread, base.mark_point(filled=True, size=30).encode(x="points:Q"), data=alt.Data(values=rows))
    order = [name for name in PARAMETERS if any(row["parameter"] == name for row in rows)]
    header = alt.Header(labelAngle=0, labelAlign="left")
    chart = layers.properties(width=420).facet(row=alt.Row("parameter:N", sort=order, title=None, header=header))
    chart.resolve_scale(y="independent").save(path)


if __name__ == "__main__":
    main()
