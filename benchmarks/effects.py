"""Does an early effect hold at the end, and how large is each effect there? Single changes, trained
short and long.

    python benchmarks/effects.py bank SET [SET ...] [--part 20] [--final 480] [--seeds 0]
    python benchmarks/effects.py report

bank: of each set the advised net and its single changes, one thread each, side by side: as the race
trains them (the first `--part` seconds of a training of `--final` seconds, judged on the validation
part), and, under another seed, to the end of such a training, judged on the sealed test part as
well. Each training appends a row with its answers to benchmarks/results/effects.jsonl; the same
command goes on where it stopped. With --pace the trainings are as long as a machine of that pace
makes them, counted in images and not by the clock: so a fast machine fills the bank of a slow one.
report: of the effects told early, how many keep their sign, or stay inside one point, at the end;
the choice made again on resampled validation images, and whether the accuracy told with it holds;
every effect at the end over all sets: in benchmarks/effects.md and docs/effects.svg.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize, special

import matrix
import paces
import sets
from calibration import ANY
from convwise.core.configuration import Configuration
from convwise.core.intervals import Z95, wilson
from convwise.core.records import Effect, Result, Trial, to_json
from convwise.evidence import effects as evidence
from convwise.evidence.effects import RunVariance, carried, effect_of, trains, verdicts
from convwise.search import race

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "effects.jsonl"
WIDTHS = HERE / "results" / "widths.jsonl"
PAGE, FIGURE = HERE / "effects.md", HERE.parent / "docs" / "effects.svg"
PARAMETERS = (
    "stage.kernel_size", "stage.filters", "stem.strides", "padding", "activation",  # the question
    "downsampling", "normalization", "head", "stage.count", "stage.convs", "stem.kernel_size",
    "input.size", "block",
    "training.flip",
)  # fmt: skip
AS_IS = ""  # the parameter of the net that nothing was changed in
WITHIN = 0.01  # what 'no difference' promises
REPLAYS = 1000
HEAD = """# Effects, early and at the end

Written by `benchmarks/effects.py report` from the rows in `benchmarks/results/effects.jsonl`:
single changes of the advised network, trained for a short part as the race compares them, and to
the end of a whole training under another seed. On a 2-core machine, one thread a training, or, in
rows that name a pace, on a GPU in as many images.
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
        ends = list({(c.set, c.late.parameter, c.late.after): c for c in found}.values())
        draw(ends, FIGURE)
        parts = (
            horizon(found),
            fitted(found),
            told_again(rows),
            sizes(ends),
            widths(matrix.rows_of(WIDTHS)),
        )
        PAGE.write_text(
            "\n".join([*HEAD, *(line for part in parts for line in ("", *part))]) + "\n"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    modes = parser.add_subparsers(dest="mode", required=True)
    bank = modes.add_parser("bank")
    bank.add_argument("set", nargs="+", choices=sets.SETS)
    bank.add_argument("--part", type=float, default=20.0, help="seconds of the early trainings")
    bank.add_argument(
        "--final", type=float, default=480.0, help="seconds of the long ones, of one thread"
    )
    bank.add_argument("--seeds", type=int, nargs="+", default=[0])
    bank.add_argument("--workers", type=int, help="trainings side by side, by default one a core")
    bank.add_argument(
        "--pace",
        type=paces.pace,
        help="another machine's seconds per mac and per byte, as 2.8e-11,6.2e-10",
    )
    bank.add_argument(
        "--only",
        type=_only,
        help="the net as it is and these values of one parameter, as stage.filters=16,32",
    )
    bank.add_argument("--roles", nargs="+", choices=("part", "final"), default=["part", "final"])
    bank.add_argument("--data", type=Path, default=sets.DATA)
    modes.add_parser("report")
    return parser.parse_args()


def _only(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, values = text.partition("=")
    return name, tuple(int(value) for value in values.split(","))


# The bank -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """One change of the advised configuration; parameter is AS_IS for none."""

    parameter: str
    before: Any
    after: Any
    configuration: Configuration


def fill(name: str, seed: int, given: argparse.Namespace) -> None:
    """Train what is missing of one set."""
    from convwise.advice.advising import advise
    from convwise.advice.fingerprint import look
    from convwise.core.goal import Goal
    from convwise.images.loading import read
    from convwise.training import batches, train
    from convwise.training.machine import ThisMachine
    from convwise.training.runners import RUNNERS

    images, host = read(sets.source(name, given.data), seed=0), ThisMachine()
    workers = given.workers or host.cores
    facts = look(images.train, images.classes, seed=0)
    advice = advise(facts, Goal(), given.pace or host.pace, given.final, 1)
    lengths = {"part": given.part, "final": given.final}
    stands = {(r["parameter"], r["to"], r["role"],
              r["seconds"]) for r in matrix.rows_of(given.results) if (r["set"], r["seed"],
              r["final_seconds"]) == (name, seed, given.final)}  # fmt: skip
    wanted = [(change, role) for change in changes(advice, given.only) for role in given.roles
              if (change.parameter, change.after, role, lengths[role]) not in stands]  # fmt: skip
    if not wanted:
        return
    trials = {}
    for number, (change, role) in enumerate(wanted):
        trial = Trial(f"{role}-{number:02d}", role, dict(change.configuration),
                      change.configuration.net, change.configuration.recipe, lengths[role],
                      seed=2 * seed + (role == "final"), part="train", span=(0.0,
                      given.part / given.final if role == "part" else 1.0))  # fmt: skip
        trials[trial.id] = paces.counted(trial, given.pace, len(images.train)), change
    with tempfile.TemporaryDirectory(prefix="convwise-") as passing:
        folder = Path(passing)
        for trial, _ in trials.values():
            batches.Prepared(folder, images).ensure(trial.net)
        runner = RUNNERS["local"](
            partial(train.run, folder, host.engine, "classify"), host, workers
        )
        try:
            list(
                runner.run(
                    [
                        Trial(f"warm{n}", "warm", {}, advice.net, advice.recipe, epochs=1)
                        for n in range(workers)
                    ]
                )
            )
            for result in runner.run([trial for trial, _ in trials.values()]):
                trial, change = trials[result.trial.id]
                sealed = ""
                if trial.phase == "final" and result.status == "done":
                    weights, opened = train.load_weights(folder, trial.id), images.test.open()
                    pixels = np.asarray(opened.at(*trial.net.input_shape[:2]).pixels)
                    right = train.answers(trial.net, weights, pixels).argmax(1) == opened.labels
                    sealed = "".join("01"[int(each)] for each in right)
                _append(given, name, seed, host.engine.device, change, result, sealed)
        finally:
            runner.close()


def changes(advice: Any, only: tuple[str, tuple[int, ...]] | None = None) -> Iterator[Change]:
    """None, then the first other value of each parameter, and the second of those that people ask
    about; or `only`.
    """
    yield Change(AS_IS, None, None, advice.configuration)
    if only:
        name, values = only
        for value in values:
            if value != advice.configuration[name]:
                yield Change(
                    name,
                    advice.configuration[name],
                    value,
                    advice.space.fit({**advice.configuration, name: value}),
                )
        return
    taken: dict[str, int] = {}
    for name, value, configuration in advice.space.neighbours(advice.configuration):
        most = 2 if name in PARAMETERS[:2] else 1
        if (
            name in PARAMETERS
            and taken.get(name, 0) < most
            and configuration == {**advice.configuration, name: value}
        ):
            taken[name] = taken.get(name, 0) + 1
            yield Change(name, advice.configuration[name], value, configuration)


def _append(given: argparse.Namespace, name: str, seed: int, device: str, change: Change,
            result: Result, sealed: str) -> None:  # fmt: skip
    trial, pace = result.trial, given.pace
    row = {
        "set": name, "parameter": change.parameter, "from": change.before, "to": change.after,
        "role": trial.phase, "seconds": {"part": given.part, "final": given.final}[trial.phase],
        "final_seconds": given.final, "seed": seed, "pace": astuple(pace) if pace else None,
        "status": result.status, "reason": result.reason, "correct": result.correct,
        "accuracy": result.score, "sealed": sealed,
        "images_per_second": round(paces.speed(result, pace), 1), "epochs": trial.epochs,
        "device": device, "macs": result.cost.get("macs"),
        "sample": to_json(change.configuration), "load_1m": round(os.getloadavg()[0], 1),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine_kind": matrix.machine_kind(), "source": matrix.source_sum(),
        "versions": matrix.versions(),
    }  # fmt: skip
    matrix.append(given.results, row)
    said = f"{row['accuracy']:.4f}" if row["accuracy"] is not None else row["reason"]
    print(
        f"{name} {row['role']} {change.parameter or 'as advised'} {change.after}: {said}",
        file=sys.stderr,
    )


# What it says -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """One change of one set: the effect as the race tells it early, and as it is at the end.

    share: of the whole training that the part was; mistakes: the mean share of wrong answers of
    both nets after it; ended: that of the net as it is at the end, of sealed images.
    """

    set: str
    share: float
    early: Effect
    late: Effect
    mistakes: float
    ended: float

    @property
    def scoring(self) -> float:
        """Half the 95 % interval of the effect at the end: how well it is known itself."""
        return (self.late.high - self.late.low) / 2


def compared(rows: Iterable[dict[str, Any]]) -> Iterator[Compared]:
    """Every change of which all trainings ended; the early effects of a set, seed and length are
    told together.

    What is true at the end is the mean over all seeds.
    """
    found = list(banks(rows))
    for bank in found:
        ends = {other.seed: other.long for other in found if other.set == bank.set}.values()
        keys = [key for key in bank.short if key[0] != AS_IS]
        for key, told in zip(keys, bank.told(), strict=True):
            pairs = [(end[AS_IS, None], end[key]) for end in ends if key in end]
            mistakes = _mistakes(bank.short[AS_IS, None], bank.short[key])
            right, n = bank.right()
            late = _effect(pairs, "sealed")
            yield Compared(bank.set, bank.share, told, late, mistakes, 1 - right / n)


Rows = dict[tuple[str, Any], dict[str, Any]]  # (parameter, value) -> row


@dataclass(frozen=True)
class Bank:
    """Short and long trainings of one set, seed and length: the net as it is, and the changes that
    have both.
    """

    set: str
    seed: int
    part: float
    whole: float
    short: Rows
    long: Rows

    @property
    def share(self) -> float:
        """Of the whole training that the part is."""
        return self.part / self.whole

    def right(self) -> tuple[int, int]:
        """How many sealed images the net as it is gets right at the end, and of how many."""
        sealed = self.long[AS_IS, None]["sealed"]
        return sealed.count("1"), len(sealed)

    def told(self, short: Rows | None = None) -> tuple[Effect, ...]:
        """As the race tells the changes: what it says of the end."""
        rows = short or self.short
        before, ended = rows[AS_IS, None], 1 - wilson(*self.right())[0]
        effects = [carried(_effect([(before, after)], "correct"), _mistakes(before, after),
                   self.share, ended)
                   for key, after in rows.items() if key[0] != AS_IS]  # fmt: skip
        return verdicts(effects)


def banks(rows: Iterable[dict[str, Any]]) -> Iterator[Bank]:
    """All that has the net as it is. Of each set those of the longest trainings alone."""
    done = [row for row in rows if row["status"] == "done"]
    longest: dict[str, float] = {}
    for row in done:
        longest[row["set"]] = max(row["final_seconds"], longest.get(row["set"], 0.0))
    parts: dict[tuple[str, int, float], Rows] = {}
    ends: dict[tuple[str, int], Rows] = {}
    for row in done:
        if row["final_seconds"] == longest[row["set"]]:
            place = row["set"], row["seed"]
            mine = (
                ends.setdefault(place, {})
                if row["role"] == "final"
                else parts.setdefault((*place, row["seconds"]), {})
            )
            mine[row["parameter"], row["to"]] = row
    for (name, seed, seconds), short in parts.items():
        both = [key for key in short if key in ends.get((name, seed), {})]
        if (AS_IS, None) in both:
            long = ends[name, seed]
            yield Bank(
                name,
                seed,
                seconds,
                longest[name],
                {key: short[key] for key in both},
                {key: long[key] for key in both},
            )


def _effect(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], answers: str) -> Effect:
    """Of pairs of rows, as it is and changed."""
    runs = [
        tuple(Result(Trial(row["role"], row["role"], {}, ANY, seconds=row["seconds"]), "done",
        row["accuracy"],
                     row[answers],
                     images_per_second=row["images_per_second"]) for row in pair) for pair in pairs
    ]  # fmt: skip
    after = pairs[0][1]
    return effect_of(after["parameter"], (after["from"], after["to"]), [(a, b) for a, b in runs],
                     RunVariance.known([run for pair in runs for run in pair]))  # fmt: skip


def _mistakes(before: dict[str, Any], after: dict[str, Any]) -> float:
    return 1 - float(before["accuracy"] + after["accuracy"]) / 2


def fitted(found: list[Compared]) -> Iterator[str]:
    """The constants of evidence.carried, by maximum likelihood, from the changes that train at all;
    and how well those fitted without a set hold of it.
    """
    found = [c for c in found if trains(c.early, c.mistakes)]
    names = list(dict.fromkeys(c.set for c in found))
    if len(names) < 2:
        return
    everywhere = _likeliest(found)
    yield (
        f"From the part to the end of {len(found)} changes that train, each a share of the mistakes"
        " then: for each unit of log(whole / part) so much of a change is gone (FADES), and what"
        " comes instead has these deviations, of any change (DRIFT) and as a share of this one"
        f" (FADES_SPREAD): {_shown(everywhere)} fitted to all sets, {_shown(IN_USE)} in use: a"
        " little more than the largest of those fitted without one set. The next columns are what"
        " the constants fitted without a set say of it, and what those in use do: how many ends lie"
        " inside the 95 % interval (the noise of scoring added), how many changes are told to make"
        " no difference, and how many of those ended more than a point away."
    )
    yield ""
    yield (
        "| set | changes | mistakes early % | at the end % | fitted without it | inside % | no"
        " difference | beyond | inside %, in use | no difference | beyond |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for name in names:
        mine = [c for c in found if c.set == name]
        without = _likeliest([c for c in found if c.set != name])
        early, late = (
            100 * np.mean([getattr(c, at) for c in mine]) for at in ("mistakes", "ended")
        )
        yield (
            f"| {name} | {len(mine)} | {early:.1f} | {late:.1f} | {_shown(without)} |"
            f" {_holds(mine, without)} | {_holds(mine, IN_USE)} |"
        )


Constants = tuple[float, float, float]  # FADES, DRIFT, FADES_SPREAD
IN_USE: Constants = evidence.FADES, evidence.DRIFT, evidence.FADES_SPREAD


def _shown(constants: Constants) -> str:
    return ", ".join(f"{each:.2g}" for each in constants)


def _likeliest(found: Sequence[Compared]) -> Constants:
    """A change that was told several times counts once."""
    times = Counter((c.set, c.late.parameter, c.late.after) for c in found)
    weights = np.array([1 / times[c.set, c.late.parameter, c.late.after] for c in found])
    late = np.array([c.late.accuracy_change for c in found])
    noise = np.array([(c.scoring / Z95) ** 2 for c in found])

    def unlikely(logs: np.ndarray) -> float:
        mean, variance = _ends(found, tuple(np.exp(logs)))
        spread = variance + noise
        return float((weights * (np.log(spread) + (late - mean) ** 2 / spread)).sum())

    how = {"method": "Nelder-Mead", "options": {"maxiter": 4000, "xatol": 1e-4, "fatol": 1e-5}}
    return tuple(np.exp(optimize.minimize(unlikely, np.log([0.3, 0.02, 0.1]), **how).x))


def _ends(found: Sequence[Compared], constants: Constants) -> tuple[np.ndarray, np.ndarray]:
    """What `carried` expects of each change at the end, and the variance of it."""
    change = np.array([c.early.accuracy_change for c in found])
    error = np.array([(c.early.high - c.early.low) / 2 / Z95 for c in found])
    mistakes, share, ended = (
        np.array([getattr(c, name) for c in found]) for name in ("mistakes", "share", "ended")
    )
    mean, own, instead = evidence.faded(
        (change, error), np.maximum(mistakes, error), share, ended, constants
    )
    return mean, own + instead


def _holds(found: Sequence[Compared], constants: Constants) -> str:
    """Three cells: inside the interval, told to make no difference, and of these beyond a point."""
    mean, variance = _ends(found, constants)
    freedom = evidence.DRIFT_FREEDOM
    late = np.array([c.late.accuracy_change for c in found])
    both = np.sqrt(variance + [(c.scoring / Z95) ** 2 for c in found])
    inside = np.abs(late - mean) <= special.stdtrit(freedom, 0.975) * both
    same = special.stdtr(freedom, (np.abs(mean) - WITHIN) / np.sqrt(variance)) < evidence.ALPHA
    beyond = same & (np.abs(late) > WITHIN)
    return f"{100 * inside.mean():.0f} | {same.sum()} | {beyond.sum()}"


def horizon(found: list[Compared]) -> Iterator[str]:
    """Of what was told early: does it hold at the end?"""
    clear = [c for c in found if c.early.verdict == "matters"]
    same = [c for c in found if c.early.verdict == "no difference"]
    kept = [c for c in clear if c.late.accuracy_change * c.early.accuracy_change > 0]
    turned = [c for c in clear if c.late.verdict == "matters" and c not in kept]
    inside = [c for c in same if abs(c.late.accuracy_change) <= WITHIN]
    beyond = [c for c in same if c.late.low > WITHIN or c.late.high < -WITHIN]
    places = {c.set for c in found}
    there = sum(
        abs(c.late.accuracy_change - e.expected)
        <= np.hypot((e.expected_high - e.expected_low) / 2, c.scoring)
        for c in found
        for e in [c.early]
    )
    yield f"{len(found)} effects on {len(places)} sets: {', '.join(sorted(places))}."
    yield (
        f"{there} of them ({100 * there / len(found):.0f} %) ended inside the 95 % interval told"
        " for the end, the noise of scoring it added."
    )
    yield ""
    yield "| told early | effects | hold at the end | surely do not |"
    yield "|---|---|---|---|"
    yield f"| matters: the sign is kept | {len(clear)} | {len(kept)} | {len(turned)} |"
    yield f"| no difference: inside one point | {len(same)} | {len(inside)} | {len(beyond)} |"
    yield f"| not resolved | {len(found) - len(clear) - len(same)} | | |"
    for one in clear:
        if one not in kept:
            told, true = (
                f"{100 * e.accuracy_change:+.1f} ({100 * e.low:+.1f} to {100 * e.high:+.1f})"
                for e in (one.early, one.late)
            )
            change = f"{one.early.parameter} {one.early.before} to {one.early.after}"
            yield (
                f"\nTurned: {one.set}, {change}, told {told} after {one.early.seconds:g} s, {true}"
                " at the end."
            )


def told_again(rows: Iterable[dict[str, Any]], replays: int = REPLAYS) -> Iterator[str]:
    """The choice made again on validation images drawn with replacement, as `--test none` tells its
    accuracy.

    The validation images as they are stand for all there could be: what the chosen net gets right
    of them is the truth that its interval must hold.
    """
    rng = np.random.default_rng(0)
    yield (
        "| set | part | n | other choices % | told - true, points | the 95 % interval holds it % |"
    )
    yield "|---|---|---|---|---|---|"
    for bank in banks(rows):
        short, name = bank.short, bank.set
        early, late = (
            {key: _right(row["correct"]) for key, row in part.items()}
            for part in (short, bank.long)
        )
        n, told, held, others = len(early[AS_IS, None]), [], 0, 0
        # A part is judged by every k-th validation image where there are very many
        late = {key: right[:: -(-len(right) // n)] for key, right in late.items()}
        for _ in range(replays):
            drawn = rng.integers(0, n, n)
            some = {key: {**short[key], "correct": _answers(right[drawn]),
                    "accuracy": float(right[drawn].mean())}
                    for key, right in early.items()}  # fmt: skip
            better = race.adopted(bank.told(some))
            chosen = late[(better.parameter, better.after) if better else (AS_IS, None)]
            right, true = int(chosen[drawn].sum()), chosen.mean()
            low, high = wilson(right, n)
            told.append(right / n - true)
            held += low <= true <= high
            others += better is not None
        choices = (
            f"{100 * others / replays:.1f} | {100 * float(np.mean(told)):+.2f} |"
            f" {100 * held / replays:.1f}"
        )
        yield f"| {name} | 1/{1 / bank.share:.0f} | {n:,} | {choices} |"


def _right(answers: str) -> np.ndarray:
    return np.array([answer == "1" for answer in answers])


def _answers(right: np.ndarray) -> str:
    return "".join(np.where(right, "1", "0"))


def sizes(ends: list[Compared]) -> Iterator[str]:
    """Every effect at the end, parameter by parameter."""
    names = list(dict.fromkeys(c.set for c in ends))
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for one in ends:
        label = f"{one.late.before} to {one.late.after}"
        rows.setdefault((one.late.parameter, label), {})[one.set] = 100 * one.late.accuracy_change
    yield f"| parameter | change | median | {' | '.join(names)} |"
    yield "|---|---|---|" + "---|" * len(names)
    for parameter in PARAMETERS:
        for (name, label), points in rows.items():
            if name == parameter:
                cells = [f"{points[s]:+.1f}" if s in points else "" for s in names]
                yield (
                    f"| {parameter} | {label} | {np.median([*points.values()]):+.1f} |"
                    f" {' | '.join(cells)} |"
                )


def widths(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The advised net with other numbers of filters, trained to the end: how often an image is seen
    is what is left.
    """
    found: dict[tuple[str, float, int], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(
            (row["set"], row["final_seconds"], row["sample"]["stage.filters"]), []
        ).append(row)
    yield (
        "Filters and epochs: whole trainings of so many seconds of one thread, judged on sealed"
        " images (`bank --roles final --only stage.filters=16,32`)."
    )
    yield ""
    yield "| set | s | filters | million macs | epochs | accuracy % | spread | seeds | n |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for (name, seconds, filters), runs in sorted(found.items()):
        scores = [100 * _right(run["sealed"]).mean() for run in runs]
        first, spread = runs[0], f"{min(scores):.2f} to {max(scores):.2f}"
        yield (
            f"| {name} | {seconds:.0f} | {filters} | {first['macs'] / 1e6:.1f} |"
            f" {first['epochs']:.0f} | {np.mean(scores):.2f} | {spread} | {len(runs)} |"
            f" {len(first['sealed']):,} |"
        )


def draw(ends: list[Compared], path: Path) -> None:
    """Every effect at the end with its interval, a colour for each set, a row for each change."""
    import altair as alt

    rows = [
        {"parameter": c.late.parameter, "change": f"{c.late.before} to {c.late.after}",
        "set": c.set,
         "points": 100 * c.late.accuracy_change, "low": 100 * c.late.low,
         "high": 100 * c.late.high} for c in ends
    ]  # fmt: skip
    y = alt.Y("change:N", title=None)
    colour = alt.Color("set:N", title="")
    base = alt.Chart().encode(y=y, color=colour, yOffset="set:N")
    spread = base.mark_rule(opacity=0.5).encode(
        x=alt.X("low:Q", title="points of accuracy"), x2="high:Q"
    )
    layers = alt.layer(
        spread,
        base.mark_point(filled=True, size=30).encode(x="points:Q"),
        data=alt.Data(values=rows),
    )
    order = [name for name in PARAMETERS if any(row["parameter"] == name for row in rows)]
    header = alt.Header(labelAngle=0, labelAlign="left")
    chart = layers.properties(width=420).facet(
        row=alt.Row("parameter:N", sort=order, title=None, header=header)
    )
    chart.resolve_scale(y="independent").save(path)


if __name__ == "__main__":
    main()
