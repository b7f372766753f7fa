"""What `choose` hands over, to look at and to work with: the folder, and the network in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convwise import formats
from convwise.core.cores import cores
from convwise.core.goal import UNEVEN, USUAL
from convwise.core.net import Net
from convwise.core.problems import UnusableInput
from convwise.core.records import Effect, described
from convwise.core.score import ACCURACY, Score, score_of
from convwise.core.shown import Bar, Screen, Shown, plain
from convwise.core.text import number, short
from convwise.output import answers, deliver, predicting
from convwise.output.bars import PROBE, side_by_side
from convwise.output.words import asked, beside, called, capital, is_chosen, spaced, spent

MOST_CLASSES = 12  # in one line
MOST_NUMBERS = 6  # a line each
SMALL = 1e6  # macs: who has fewer hardly asks for a smaller network


@dataclass(frozen=True, repr=False)
class Choice(Shown):
    """A network that was chosen, in its folder. record: choice.json as it is."""

    folder: Path
    record: Mapping[str, Any]

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the probabilities."""
        return tuple(self.record["data"]["classes"])

    @property
    def numbers(self) -> tuple[str, ...]:
        """What the numbers that the network answers are called, in order; none with classes."""
        return () if self.classes else tuple(predicting.outputs(self.record))

    @property
    def net(self) -> Net:
        """The chosen network."""
        return Net.from_json(self.record["net"])

    @property
    def accuracy(self) -> float:
        """On the sealed test images, or the validation images where nothing was sealed; `record`
        has its interval.

        UnusableInput where the network answers a number: that has an `error`.
        """
        return self._told("accuracy")

    @property
    def error(self) -> float:
        """The mean absolute error on the same images, in the target's unit; of several numbers, in
        their deviations.

        UnusableInput where there are classes.
        """
        return self._told("error")

    def _told(self, name: str) -> float:
        found = score_of(self.net).name
        if found != name:
            raise UnusableInput(str(self.folder), f"has no {name}", f".{found}", f"take .{found}")
        return float(self.record["test"][name])

    @property
    def is_chosen(self) -> bool:
        """Whether there is a choice: a network that is better than always the largest class, or
        always the median.

        One that is surely less accurate than the probe of `look` is none either.
        """
        return is_chosen(self.record["test"])

    @property
    def effects(self) -> tuple[Effect, ...]:
        """What was measured: a record for each change, with its interval and its verdict."""
        return tuple(deliver.effect_of(row) for row in self.record["effects"])

    def effects_frame(self) -> Any:
        """The effects as a pandas DataFrame, with the columns that they have in choice.json."""
        try:
            import pandas
        except ImportError as error:
            fix = "pip install pandas, or take .effects"
            what = "needs pandas, which is not installed"
            raise UnusableInput("effects_frame", what, "pandas", fix) from error
        rows, names = self.record["effects"], [each.name for each in fields(Effect)]
        columns = None if rows else [deliver.KEYS.get(name, name) for name in names]
        return pandas.DataFrame(rows, columns=columns)

    def predict(self, images: Any) -> NDArray[Any]:
        """The label of each image, (n,); '' for a file that cannot be read.

        Of a number float64 (n,), of several (n, k) in the order of `numbers`; NaN for such a file.

        images: a file, a folder (its files in sorted order, as `convwise.predict` names them), or
        an array (n, height, width, channels) of values in the range that was learnt from. They are
        prepared as the images that were trained on.
        """
        rows = predicting.predict(self.folder, images, cores())
        if len(self.numbers) > 1:
            unknown = dict.fromkeys(self.numbers, np.nan)
            told = [row.get("numbers", unknown) for row in rows]
            return np.array([[each[name] for name in self.numbers] for each in told], np.float64)
        if self.numbers:
            return np.array([row.get("number", np.nan) for row in rows], np.float64)
        return np.array([row["label"] for row in rows])

    def predict_proba(self, images: Any) -> NDArray[np.float64]:
        """The probability of each class, (n, classes) in the order of `classes`; NaN where a file
        cannot be read.

        UnusableInput where the network answers numbers.
        """
        if not self.classes:
            what, fix = "answers numbers, which have no probabilities", "take .predict"
            raise UnusableInput(str(self.folder), what, "a network for classes", fix)
        unknown = dict.fromkeys(self.classes, np.nan)
        found = predicting.predict(self.folder, images, cores())
        rows = [row.get("probabilities", unknown) for row in found]
        shares = np.array([[row[name] for name in self.classes] for row in rows], np.float64)
        # They come rounded to six digits
        return np.asarray(shares / shares.sum(axis=1, keepdims=True))

    def score(self, images: Any, labels: Any) -> float:
        """The share of `images` (as in `predict`) whose label is that in `labels`, (n,): names, or
        whole numbers.

        Of a network that answers numbers, the share of the variance of `labels`, (n,) or (n, k),
        that it explains (R2), the mean over the numbers, as the regressors of scikit-learn score.
        """
        given = np.asarray(labels)
        found = self.predict(images)
        if given.shape != found.shape:
            what = f"have the shape {given.shape} for {len(found)} images"
            raise UnusableInput("labels", what, f"one label for each image, {found.shape}")
        if self.numbers:
            from sklearn.metrics import r2_score  # type: ignore[import-untyped, unused-ignore]

            return float(r2_score(given.astype(np.float64), found))
        whole = given.dtype.kind == "f" and bool((given == np.rint(given)).all())
        return float(np.mean(found == (given.astype(np.int64) if whole else given).astype(np.str_)))

    def report(self) -> Path:
        """Where the report is, one HTML file that needs no internet."""
        return self._file("report.html", "a folder that `convwise choose` wrote whole")

    def keras(self) -> Any:
        """The trained network as a keras.Model: raw pixels 0 to 255, (n, height, width, channels),
        to probabilities.

        Loaded in Keras's safe mode. The backend is the one that KERAS_BACKEND names, else PyTorch.
        """
        formats.format_module("keras")  # which sets the backend where nothing else has
        import keras

        path = self._file("model.keras", "the model that `convwise choose` wrote", "keras")
        return keras.saving.load_model(path, compile=False, safe_mode=True)

    def torch(self) -> Any:
        """The trained network as a torch.nn.Module, ready to predict; from model.safetensors,
        without a pickle.

        float32 raw pixels 0 to 255, (n, channels, height, width), to probabilities.
        """
        torch = formats.format_module("torch")
        net, weights, _ = formats.read(self.folder)
        module = torch.build(net)
        torch.load(module, net, weights)
        return module.eval()

    def export(self, to: str, out: str | Path | None = None) -> list[Path]:
        """Write the network in one format, into `out` (else its own folder); the files written."""
        return formats.export(self.folder, to, out)

    def screen(self) -> Screen:
        """The answer: what was chosen, how sure it is, and what each parameter rests on."""
        first, *lines, last = summary(self.record, self.folder)
        cards = answers.cards_of(self.record, self.effects)
        why = [f"{card.tagged}: {'; '.join(card.tried) or card.because}" for card in cards]
        rows = [(card.title, card.value, each) for card, each in zip(cards, why, strict=True)]
        columns = ("parameter", "value", "rests on")
        return Screen(first, lines, columns, rows, [last], "the report", self._bars())

    def _bars(self) -> list[Bar]:
        """The goal's score beside that of knowing nothing, of the probe, and of other networks."""
        test, against = self.record["test"], self.record.get("against", ())
        rows = side_by_side(asked(test), score_of(self.net), test.get("probe"), against)
        return [
            Bar(row["name"], row["share"], spaced(row["text"]), row.get("low"), row.get("high"))
            for row in rows
        ]

    def _file(self, name: str, expected: str, to: str = "") -> Path:
        path = self.folder / name
        if not path.is_file():
            fix = f"convwise export {self.folder} --to {to}" if to else ""
            raise UnusableInput(str(path), "is missing", expected, fix)
        return path


def load(folder: str | Path) -> Choice:
    """The choice in a folder that `choose` wrote. UnusableInput where it is not one."""
    return Choice(Path(folder), deliver.read_choice(folder))


def _within(score: Score, test: Mapping[str, Any]) -> str:
    """'96.1 to 98.0 %', or '3.1 to 3.7'."""
    return f"{score.said(test['low']).removesuffix(' %')} to {score.said(test['high'])}"


def _probe_line(test: Mapping[str, Any]) -> Iterator[str]:
    """What `look` said a network must beat, and by how much this one does."""
    if probe := test.get("probe"):
        change = ACCURACY.moved(probe["accuracy_change"])
        span = ACCURACY.span(probe["change_low"], probe["change_high"])
        yield (
            f"{capital(PROBE)}: {ACCURACY.said(probe['accuracy'])} ({_within(ACCURACY, probe)} at"
            f" 95 %) on {probe['n']} training images; this network: {change} points ({span})"
        )


def _goal_line(score: Score, test: Mapping[str, Any]) -> Iterator[str]:
    """The score that the goal asks for, where that is not the one that is told anyway."""
    if (told := asked(test))["name"] != score.name:
        name, interval = capital(called(told["name"])), f"{_within(score, told)} at 95 %"
        value, guess = score.said(told["value"]), f"{score.nothing}: {score.said(told['baseline'])}"
        yield f"{name}, the goal: {value} ({interval}); {guess}"


def _recall_line(test: Mapping[str, Any]) -> Iterator[str]:
    """The share found of each class, where the small ones hardly move the accuracy."""
    rows = sorted(test.get("recall", {}).items(), key=lambda row: row[1]["recall"])
    counts = [found["n"] for _, found in rows]
    if rows and max(counts) > UNEVEN * min(counts):
        told = [f"{name} {100 * found['recall']:.0f} % of {found['n']}" for name, found in rows]
        more = f", and {len(told) - MOST_CLASSES} more" if len(told) > MOST_CLASSES else ""
        yield f"Recall of each class, worst first: {', '.join(told[:MOST_CLASSES])}{more}"


def _number_lines(test: Mapping[str, Any]) -> Iterator[str]:
    """How far off each of several numbers is, in its own unit."""
    rows = list(test.get("numbers", {}).items())
    for name, found in rows[:MOST_NUMBERS]:
        within = f"{number(found['low'])} to {number(found['high'])}"
        yield (
            f"{name}: off by {number(found['error'])} on average ({within} at 95 %); always the"
            f" median: {number(found['baseline'])}; R2 {found['r2']:.3f}"
        )
    if len(rows) > MOST_NUMBERS:
        yield f"{len(rows) - MOST_NUMBERS} more numbers are in choice.json and in the report"


def _changes(changed: Sequence[tuple[str, str, str]]) -> str:
    """As a sentence: 'stage.filters 64 to 96 or 48, padding same to valid'."""
    values: dict[str, list[str]] = {}
    for parameter, before, after in changed:
        values.setdefault(f"{parameter} {before} to", []).append(after)
    told = [f"{named} {' or '.join(after)}" for named, after in values.items()]
    return ", ".join(told) or "nothing"


def summary(record: Mapping[str, Any], folder: Path) -> list[str]:
    """What was chosen, how sure it is, and where the report is, in a few lines."""
    test, cost, score = record["test"], record["cost"], score_of(Net.from_json(record["net"]))
    kind, aside = "validation", " (slightly optimistic, as nothing was sealed)"
    if test["kind"] == "test":
        kind, aside = "sealed test", ""
    aside += f"; {score.nothing}: {score.said(test['baseline'])}" if "baseline" in test else ""
    aside += f"; R2 {test['r2']:.3f}" if "r2" in test else ""
    net = described(record["configuration"], record["net"]["input_shape"])
    lines = [f"Chosen: {net}"]
    if not is_chosen(test):
        lines = [f"No network was chosen. {record['notes'][0]}", f"Written anyway: {net}"]
    lines += [*_goal_line(score, test)]
    lines += [
        (
            f"{score.title}: {score.said(test[score.name])} ({_within(score, test)} at 95 %) on "
            f"{test['n']} {kind} images{aside}"
        ),
        *_probe_line(test),
        *_number_lines(test),
        f"Cost: {short(cost['params'])} parameters, {short(cost['macs'])} macs"
        + (f", {cost['latency_ms']:.2f} ms per image" if "latency_ms" in cost else ""),
    ]
    # A folder of version 0.1.0 has none
    lines += filter(None, [record.get("views", {}).get("said")])
    lines += [*_recall_line(test)]
    lines += [spaced(beside(row)) for row in record.get("against", ())]
    if record["effects"]:
        # A folder of version 0.1.0 has none
        seconds = max(e.get("seconds", 0) for e in record["effects"])
        length = f" after {seconds:.0f} s of training or less" if seconds else ""
        if all(e.get("expected_low") is not None for e in record["effects"]):
            length += "; the verdicts are about its end"
        last = {
            (e["parameter"], plain(e["from"]), plain(e["to"])): e["verdict"]
            for e in record["effects"]
        }
        words = ("matters", "no difference", "not resolved")
        matters, same, unknown = (
            _changes([key for key in last if last[key] == word]) for word in words
        )
        lines.append(
            f"Measured{length}. Matters: {matters}. No difference: {same}. Not resolved: {unknown}."
        )
    usual = USUAL.get(record.get("goal", {}).get("text", ""))
    if usual and is_chosen(test) and cost["macs"] > SMALL:
        lines.append(f"Smaller: choose --goal cheapest looks for the fewest macs with {usual}")
    if not record.get("goal", {}).get("kept", True):
        lines.append(f"The goal was not reached: {record['goal']['text']}")
    lines += [f"Left out: {why}" for why in record.get("left_out", {}).values()]
    lines += [f"Time: {time}"] if (time := spent(record["provenance"])) else []
    page = folder / "report.html"
    notes = record.get("notes", ())
    return [*lines, f"Report: {page}" if page.exists() or not notes else notes[-1]]
