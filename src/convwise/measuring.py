"""What is this one change worth, on my images? A model or a choice folder, edits -> effects, told
and kept.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from convwise.core.clock import Clock, parse_duration
from convwise.core.defaults import TEST_SHARE
from convwise.core.net import Net
from convwise.core.places import CACHE_SIZE, refuse_empty
from convwise.core.problems import ConvwiseError, UnusableInput
from convwise.core.progress import Progress, Watcher, quiet
from convwise.core.records import Advice, Effect, Recipe, from_json
from convwise.core.score import ACCURACY, Score
from convwise.core.shown import Screen, Shown
from convwise.core.text import number
from convwise.core.verb import verb
from convwise.evidence import edits
from convwise.evidence.bench import measure_on
from convwise.evidence.edits import Subject
from convwise.evidence.records import MOST_SEEDS, Base, Edit, Found, Measured, Memory, Record, Terms
from convwise.images.loading import Images, Within, read
from convwise.inspect.checking import read_images
from convwise.inspect.models import EXPECTED, learnt_by, load
from convwise.inspect.requests import InputShape
from convwise.interrupts import Interrupts
from convwise.ledger import Ledger
from convwise.notes import ADVICE
from convwise.output import deliver
from convwise.output.words import effect_cells, effect_columns, plain
from convwise.session import held
from convwise.training.host import Host
from convwise.training.lab import Lab
from convwise.training.machine import ThisMachine

BY = "measure"  # what made an effect, in choice.json; and the phase of its trials
WRITE_SECONDS = 3.0  # kept for what is written into a choice folder
Parameters = str | Mapping[str, Any] | Iterable[str]


@dataclass(frozen=True, repr=False)
class Measurement(Shown):
    """What was asked of a model, and what came of it.

    seconds: of each training; accuracy: of the network as it is, after so long, on the validation
    images, or its error, as `score` says; baseline: what knowing nothing of these images scores;
    measured: every edit, in the order tried; notes: what to know of all of them.
    """

    model: str
    seconds: float
    accuracy: float | None
    measured: tuple[Measured, ...]
    notes: tuple[str, ...]
    score: Score = ACCURACY
    baseline: float | None = None

    @property
    def unchanged(self) -> str:
        """How good the network is as it is, beside knowing nothing of the images; '' where that is
        not known.
        """
        if self.accuracy is None:
            return ""
        told = (
            f"unchanged: {self.score.said(self.accuracy)}{self.score.behind} on the validation"
            " images"
        )
        beside = (
            f"; {self.score.nothing}: {self.score.said(self.baseline)}"
            if self.baseline is not None
            else ""
        )
        return told + beside

    @property
    def effects(self) -> tuple[Effect, ...]:
        """Of the edits that were measured."""
        return tuple(one.effect for one in self.measured if one.effect)

    def screen(self) -> Screen:
        """A row for each effect, and what to know of them."""
        found = [one for one in self.measured if one.effect]
        rest = [f"{one.edit.parameter} {plain(one.edit.before)} → {plain(one.edit.after)}: {one}"
                for one in self.measured if not one.effect]  # fmt: skip
        told = f"after {number(self.seconds)} s of training" if found else "nothing was measured"
        return Screen(
            f"{self.model}: {'; '.join(filter(None, [told, self.unchanged]))}",
            (),
            effect_columns(self.effects),
            [effect_cells(effect) for effect in self.effects],
            (*(note for one in found for note in one.notes), *rest, *self.notes),
            ".effects",
        )

    def to_json(self) -> dict[str, Any]:
        """As `convwise measure --json` prints it; effects as in choice.json."""
        rest = [one for one in self.measured if one.effect is None]
        return {
            "model": self.model,
            "seconds": self.seconds,
            self.score.name: self.accuracy,
            "baseline": self.baseline,
            "effects": [{**deliver.effect_row(effect), "by": BY} for effect in self.effects],
            "not_measured": [
                {"parameter": one.edit.parameter, "from": one.edit.before, "to": one.edit.after,
                 "because": "; ".join(one.notes)} for one in rest
            ],
            "notes": list(self.notes),
        }  # fmt: skip


@verb
def measure(model: Any, images: Any = None, *, parameter: Parameters = (), most: int | None = None,
            budget: str | float = "10m", input_shape: InputShape | None = None,
            watcher: Watcher = quiet, started: float | None = None, classes_from: str = "folder",
            skip_empty_classes: bool = False, follow_links: bool = False,
            cache_size: str | int = CACHE_SIZE,
            task: str | None = None) -> Measurement:  # fmt: skip
    """What changes of a network are worth on images, inside `budget`: paired trainings of equal
    time.

    model: a folder that `choose` wrote, whose own images, recipe and ledger are used, and whose
    choice.json and report get the effects; or any model as in `check`, with images. parameter:
    'NAME=VALUE', several of them, or a mapping; without it the parameters that people ask about,
    the most doubtful first. most: so many changes at most, the first ones: a few with many pairs of
    trainings, instead of many with few. classes_from, skip_empty_classes, follow_links, cache_size,
    task: how images are read, as in `read`; of a folder the task is known. started: when the budget
    began (time.monotonic).
    KeyboardInterrupt gives what is measured so far; it goes on to the caller where that is nothing.
    """
    clock = Clock(parse_duration(budget), time.monotonic() if started is None else started)
    if images is not None:
        how: dict[str, Any] = {
            "skip_empty_classes": skip_empty_classes,
            "follow_links": follow_links,
        }
        how |= {
            "task": task or learnt_by(model),
            "within": Within(clock.budget, cache_size=cache_size),
        }
        images = read_images(images, classes_from=classes_from, **how)
    lab = Lab(ThisMachine(), clock, watcher)
    return measure_in(lab, model, images, parameter, input_shape, most, cache_size)


def own_images(model: Any, cache_size: str | int = CACHE_SIZE) -> Images | None:
    """The images that a network was chosen with, split as they were then; None where `model` is no
    choice folder.
    """
    chosen = _Chosen.read(model)
    return chosen.images(cache_size)[0] if chosen else None


def measure_in(lab: Lab, model: Any, images: Any = None, parameter: Parameters = (),
               input_shape: InputShape | None = None, most: int | None = None,
               cache_size: str | int = 0) -> Measurement:  # fmt: skip
    """The same in a lab, whose clock is the budget."""
    if most is not None and most < 1:
        raise UnusableInput("--most", f"is {most}", "a whole number of at least 1")
    model = os.fspath(model) if isinstance(model, os.PathLike) else model
    chosen = _Chosen.read(model)
    with held(chosen.folder) if chosen else nullcontext():
        subject = chosen.subject if chosen else Subject(load(model, input_shape).net)
        asked = _edits(subject, parameter, chosen.choice["effects"] if chosen else ())[:most]
        return _measured(
            lab,
            model,
            chosen,
            images,
            (subject, asked, MOST_SEEDS if most else Terms.seeds),
            cache_size,
        )


def _measured(lab: Lab, model: Any, chosen: _Chosen | None, images: Any, what: tuple[Subject,
              Sequence[Edit], int], cache_size: str | int) -> Measurement:  # fmt: skip
    """what: the network, the edits of it, and the pairs of trainings that are wanted for each."""
    subject, asked, seeds = what
    found_images, notes = _images(model, images, chosen, cache_size)
    terms, clock = Terms(seeds, name=BY), lab.clock
    record: Record = Memory()
    if chosen:
        clock = replace(clock, budget=clock.budget - WRITE_SECONDS)
        terms = Terms(
            seeds,
            most_seconds=chosen.most_seconds,
            name=f"{BY}-{_conditions(found_images, lab.host)}",
        )
        record, kept = chosen.record()
        notes += kept

    def stopping() -> None:
        lab.watcher(Progress(BY, 0, 0, None, None, "interrupted: writing what was measured"))

    with Interrupts(stopping) as interrupts:
        base = Base(subject.net, subject.recipe, dict(subject.configuration or {}))
        found = measure_on(found_images, base, asked, terms, replace(lab, clock=clock), record)
        if found.interrupted and not found.effects:
            raise KeyboardInterrupt
        with interrupts.waiting():
            if chosen:
                notes += [*_open(found), *chosen.keep(found)]
    notes = [*found.notes, *notes]
    return Measurement(str(model), found.seconds, found.accuracy, found.measured, tuple(notes),
                       found.score,
                       found.baseline)  # fmt: skip


def _open(found: Found) -> list[str]:
    """What more time would give: the trainings of a choice folder are kept, and further ones count
    with them.
    """
    left = sum(effect.verdict == "not resolved" for effect in found.effects)
    again = "run the same command again to add pairs of trainings and narrow the intervals"
    return [f"{left} of {len(found.effects)} changes are not resolved: {again}"] if left else []


def _edits(
    subject: Subject, parameter: Parameters, evidence: Sequence[Mapping[str, Any]]
) -> list[Edit]:
    if isinstance(parameter, Mapping):
        parameter = [f"{name}={value}" for name, value in parameter.items()]
    asked = [parameter] if isinstance(parameter, str) else list(parameter)
    found = [edits.named(subject, text) for text in asked] or edits.questions(subject, evidence)
    if not found:
        raise UnusableInput("the network", "has no convolution to change", "--parameter NAME=VALUE")
    return found


def _images(
    model: Any, images: Any, chosen: _Chosen | None, cache_size: str | int
) -> tuple[Images, list[str]]:
    """The images to train and score on, and what is to be said of them."""
    if images is not None:
        return read_images(images), []
    if chosen is None:
        raise UnusableInput(
            str(model), "is a network without images", "images to train it on", "--images IMAGES"
        )
    return chosen.images(cache_size)


def _conditions(images: Images, host: Host) -> str:
    """Stands for the images and the machine: results are used again only if both are the same."""
    about = host.describe()
    said = (images.content(), about["cpu"], about["cores"], host.engine)
    return f"{zlib.crc32(repr(said).encode()):08x}"


@dataclass(frozen=True)
class _Chosen:
    """A folder that `choose` wrote."""

    folder: Path
    choice: Mapping[str, Any]
    advice: Advice | None

    @staticmethod
    def read(model: Any) -> _Chosen | None:
        """The folder, or None where `model` is something else. UnusableInput for an empty name."""
        refuse_empty(model, "MODEL", EXPECTED)
        if not isinstance(model, (str, Path)) or not os.path.isfile(Path(model) / "choice.json"):
            return None
        folder = Path(model)
        choice = deliver.read_choice(folder)
        notes = Ledger(folder / "study.db").notes if (folder / "study.db").is_file() else {}
        return _Chosen(
            folder, choice, from_json(Advice, notes[ADVICE]) if ADVICE in notes else None
        )

    @property
    def subject(self) -> Subject:
        """Its network, with the space if the configuration still grows into just this network."""
        net, recipe = (
            Net.from_json(self.choice["net"]).one_view,
            from_json(Recipe, self.choice["training"]["recipe"]),
        )
        configuration = self.advice.space.fit(self.choice["configuration"]) if self.advice else None
        if configuration is None or configuration.net.id != net.id:
            return Subject(net, recipe)
        return Subject(net, configuration.recipe, configuration)

    @property
    def most_seconds(self) -> float:
        """As long as the final training, on one core."""
        workers = self.choice["provenance"].get("workers") or 1
        return float(max(self.choice["training"]["seconds"] * workers, 5.0))

    def images(self, cache_size: str | int) -> tuple[Images, list[str]]:
        """The images that it was chosen with, split as they were; the sealed part stays sealed."""
        data, seed = self.choice["data"], self.choice["provenance"]["seed"]
        everything = data["train"] + data["valid"] + data["test"]
        share = round(data["test"] / everything, 2)
        usual = data["facts"].get("own_test") or abs(share - TEST_SHARE) < 0.02
        try:
            within = Within(data["facts"].get("budget"), cache_size=cache_size)
            reading = {
                name: each
                for name, each in data["facts"].get("reading", {}).items()
                if name != "target"
            }
            how = {"seed": seed, "within": within, **reading, "task": learnt_by(self.folder)}
            source = deliver.located(data["source"], self.choice["provenance"].get("directory"))
            images = read(
                source, test="none" if not data["test"] else None if usual else share, **how
            )
        except ConvwiseError as error:
            what = f"its images, {data['source']}, can no longer be read ({error.problem.what})"
            fix = "--images IMAGES, or run the command where the images are"
            raise UnusableInput(
                str(self.folder), what, "the images that it was chosen with", fix
            ) from error
        if (len(images.train), len(images.valid)) == (data["train"], data["valid"]):
            return images, []
        then, now = data["train"] + data["valid"], len(images.train) + len(images.valid)
        return images, [
            f"{data['source']} has changed: it has {now} images to learn from, and had {then} in"
            " the study"
        ]

    def record(self) -> tuple[Record, list[str]]:
        """Its ledger, where its study is finished: one that is to be continued must find its own
        trials alone.
        """
        if self.choice["provenance"].get("interrupted"):
            return Memory(), [
                "its study was interrupted and can be continued: the trials were not added to"
                " study.db"
            ]
        if not (self.folder / "study.db").is_file():
            return Memory(), ["study.db is missing, so the trials were not kept"]
        ledger = Ledger(self.folder / "study.db")
        if self.advice:
            ledger.know(self.advice.space)
        return ledger, []

    def keep(self, found: Found) -> list[str]:
        """Effects into choice.json and the report; what is to be said of that."""
        if not found.effects:
            return []
        final, workers = (
            self.choice["training"]["seconds"],
            self.choice["provenance"].get("workers") or 1,
        )
        try:
            missed = deliver.add_effects(self.folder, found.effects, BY)
        except OSError as error:
            missed = (
                f"{self.folder} cannot be written ({error.strerror}): the effects were not added to"
                " choice.json"
            )
        longer = f"the network in {self.folder} was trained for {final:.0f} s by {workers} workers"
        notes = (
            [f"{longer}: after that, an effect may be different"]
            if final * workers > 2 * found.seconds
            else []
        )
        return [*notes, missed] if missed else notes
