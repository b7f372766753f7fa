"""A study's folder -> what the page shows of it, as plain JSON, read anew when it changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from convwise.core.net import Net
from convwise.core.problems import ConvwiseError, Infeasible
from convwise.core.progress import DOING
from convwise.core.records import Advice, Effect, Fingerprint, Result, from_json
from convwise.core.score import ACCURACY, Score, score_of
from convwise.feed import News, news, stored
from convwise.notes import ADVICE, FACTS, SETTINGS
from convwise.output import answers, deliver, plots
from convwise.output.bars import probed, side_by_side
from convwise.output.words import asked, beside, called, change, is_chosen, plain, told
from convwise.search.judge import judge
from convwise.search.phases import FINAL, PHASES

# Phases whose trials are not of the search: what `convwise measure` adds to a finished study, and
# other networks.
APART = ("measure", *(phase.name for phase in PHASES if phase.role == "comparison"))
NOTES = 6  # of those that a study has told, the last ones are shown


@dataclass(frozen=True)
class Known:
    """What a folder held at one moment. version: differs where anything but the time does."""

    version: str
    news: News
    results: tuple[Result, ...]
    notes: Mapping[str, Any]
    choice: Mapping[str, Any] | None

    @cached_property
    def advice(self) -> Advice | None:
        """What the study began with, once it has looked at the images."""
        return from_json(Advice, self.notes[ADVICE]) if ADVICE in self.notes else None

    @cached_property
    def facts(self) -> Fingerprint | None:
        """What the images are like, once it has looked at them."""
        return from_json(Fingerprint, self.notes[FACTS]) if FACTS in self.notes else None

    @property
    def phase(self) -> str:
        """'running', 'stopping', 'writing', 'finished', 'interrupted', 'stopped' or 'waiting'."""
        if self.news.running:
            phases = [each["stage"] for each in self.news.events]
            return next((each for each in ("writing", "stopping") if each in phases), "running")
        if self.choice:
            return "interrupted" if self.choice["provenance"].get("interrupted") else "finished"
        return "stopped" if self.notes else "waiting"

    @cached_property
    def effects(self) -> tuple[Effect, ...]:
        """As the folder tells them, or as far as they are known by now."""
        if self.choice and not self.news.running:
            return tuple(deliver.effect_of(row) for row in self.choice["effects"])
        try:
            return judge(self.advice, self.results).effects if self.advice else ()
        except Infeasible:  # nothing ended yet
            return ()

    @cached_property
    def plots(self) -> dict[str, str]:
        """The report's own pictures of what is known, as SVG; '' where there is nothing to draw."""
        first = [
            r
            for r in self.results
            if r.status == "done" and r.trial.span[0] == 0 and r.trial.phase != FINAL.name
        ]
        return {
            "effects": plots.forest_plot(self.effects, [change(effect) for effect in self.effects]),
            "cost": plots.cost_plot(first, [], self._marked(first), self._told),
        }

    def _told(self, result: Result) -> str:
        """What a dot says when it is pointed at."""
        advised: Mapping[str, Any] = self.advice.configuration if self.advice else {}
        changed = differs(advised, result.trial.configuration) or "as advised"
        return f"{result.trial.id}: {changed}. {told(result)} in validation"

    def _marked(self, first: Sequence[Result]) -> dict[str, str]:
        """The one trial that is pointed out: of the chosen network, or of the advised one."""
        configuration: Mapping[str, Any] = (
            self.choice["configuration"]
            if self.choice
            else self.advice.configuration
            if self.advice
            else {}
        )
        word = "chosen" if self.choice else "advised"
        return dict(
            [
                (r.trial.id, word)
                for r in first
                if not differs(configuration, r.trial.configuration)
            ][:1]
        )

    @property
    def score(self) -> Score:
        """How scores are told."""
        return (
            score_of(self.net, self.advice.space.goal.score if self.advice else "accuracy")
            if self.net
            else ACCURACY
        )

    @property
    def net(self) -> Net | None:
        """What is chosen, or else what is advised."""
        if self.choice and not self.news.running:
            return Net.from_json(self.choice["net"])
        return self.advice.net if self.advice else None

    @property
    def source(self) -> str:
        """Where the images are: as they were named, or as they are found from here."""
        held = self.choice["data"] if self.choice else self.notes.get(SETTINGS, {})
        provenance = self.choice["provenance"] if self.choice else {}
        directory = self.news.about.get("directory") or provenance.get("directory")
        return deliver.located(
            str(self.news.about.get("source") or held.get("source", "")), directory
        )


class Following:
    """One folder, looked at again and again, by several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: list[tuple[int, Result]] = []
        self._known: Known | None = None
        self.live: Sequence[Mapping[str, Any]] = ()  # the trainings that run now: see core.progress
        self._lock = threading.Lock()

    def look(self) -> Known:
        """What the folder holds now."""
        with self._lock:
            rows, notes = stored(self.folder / "study.db", self._rows[-1][0] if self._rows else 0)
            if not notes:
                self._rows = []
            self._rows += [(number, from_json(Result, row)) for number, row in rows]
            told = news(self.folder)
            self.live = told.events[-1].get("live") or () if told.running and told.events else ()
            mark = self.folder / "choice.json"
            written = mark.stat().st_mtime_ns if mark.is_file() else 0
            # What only says how far things are draws nothing anew
            lasting = sum(not each.get("live") for each in told.events)
            version = f"{lasting}.{told.running:d}.{len(self._rows)}.{len(notes)}.{written}"
            if self._known is None or self._known.version != version:
                results = tuple(
                    result for _, result in self._rows if result.trial.phase not in APART
                )
                self._known = Known(
                    version, told, results, notes, self._choice() if written else None
                )
            return self._known

    def _choice(self) -> Mapping[str, Any] | None:
        try:
            return deliver.read_choice(self.folder)
        except ConvwiseError:
            return None


def state(known: Known) -> dict[str, Any]:
    """Everything that is shown of a study but its plots."""
    about, events = known.news.about, known.news.events
    last = events[-1] if events else {}
    begun = [each for each in events if each.get("planned")]
    told = [each["note"] for each in events if each.get("note")]
    best = [
        {**each["best"], "baseline": each.get("baseline")} for each in events if each.get("best")
    ]
    return {
        "version": known.version,
        "phase": known.phase,
        "title": Path(known.source).name or known.source or "convwise",
        "source": known.source,
        "goal": about.get("goal") or (known.choice or {}).get("goal", {}).get("text", ""),
        "command": (
            about.get("command") or (known.choice or {}).get("provenance", {}).get("command", "")
        ),
        "stoppable": bool(known.news.running and about.get("stoppable")),
        "stage": last.get("stage", ""),
        "doing": DOING.get(last.get("stage", ""), ""),
        "done": begun[-1]["done"] if begun and begun[-1]["stage"] == last.get("stage") else 0,
        "planned": begun[-1]["planned"] if begun and begun[-1]["stage"] == last.get("stage") else 0,
        "notes": list(dict.fromkeys(told))[-NOTES:],
        "budget": about.get("budget_seconds") if about.get("trials") is None else None,
        "ends": _ends(last, about) if known.news.running else None,
        "scored": {
            "name": known.score.name,
            "words": called(known.score.name),
            "nothing": known.score.nothing,
        },
        "best": best[-1] if best else None,
        "bars": _bars(known, best[-1] if best else {}),
        "cards": [asdict(card) for card in _cards(known)],
        "net": known.net.id if known.net else None,
        "trainings": trainings(known),
        "effects": [_effect(effect) for effect in known.effects],
        "choice": _chosen(known.choice) if known.choice and not known.news.running else None,
        "now": time.time(),
    }


def _ends(last: Mapping[str, Any], about: Mapping[str, Any]) -> float | None:
    """When the budget is spent, in seconds of the epoch; None where trials are counted."""
    if about.get("trials") is not None:
        return None
    left = last.get("seconds_left")
    # The time left is none where the budget is overrun
    return last["time"] + left if left else about.get("ends")


def _cards(known: Known) -> list[answers.Card]:
    """The cards of the report; while there is no choice, of the advised network, with what is known
    by now.
    """
    if known.choice and not known.news.running:
        return answers.cards_of(known.choice, known.effects)
    return (
        answers.cards(known.advice.reasons, known.effects, known.advice.configuration)
        if known.advice
        else []
    )


def _bars(known: Known, best: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The bars of the report; before there is a choice, with the best so far in its place."""
    if known.choice and not known.news.running:
        test = known.choice["test"]
        own = "the chosen network" if is_chosen(test) else "the network trained"
        return side_by_side(
            asked(test), known.score, test.get("probe"), known.choice.get("against", ()), own
        )
    guessed = [each["baseline"] for each in known.news.events if each.get("baseline") is not None]
    told = {"value": best.get(known.score.name), "baseline": guessed[-1] if guessed else None}
    probe = probed(known.facts) if known.facts and known.score == ACCURACY else None
    return side_by_side(told, known.score, probe, own="best so far")


def _chosen(choice: Mapping[str, Any]) -> dict[str, Any]:
    provenance = choice["provenance"]
    return {
        "test": choice["test"],
        "cost": choice["cost"],
        "chosen": is_chosen(choice["test"]),
        "against": [beside(row) for row in choice.get("against", ())],
        "notes": choice["notes"],
        "kept": choice.get("goal", {}).get("kept", True),
        "seconds": provenance.get("wall_seconds"),
        "budget": provenance.get("budget_seconds") if not provenance.get("trials") else None,
    }


def _effect(effect: Effect) -> dict[str, Any]:
    named = {"before": plain(effect.before), "after": plain(effect.after), "said": change(effect)}
    return {**deliver.effect_row(effect), **named}


def trainings(known: Known) -> list[dict[str, Any]]:
    """A row for each training: what it changes of the advised network, and its accuracy, or error,
    after each part.
    """
    begun: dict[str, list[Result]] = {}
    first: dict[str, str] = {}  # trial -> the first one of its training
    for result in known.results:
        trial = result.trial
        first[trial.id] = first.get(trial.resumes, trial.id)
        begun.setdefault(first[trial.id], []).append(result)
    advised = known.advice.configuration if known.advice else {}
    chosen = known.choice["configuration"] if known.choice and not known.news.running else None
    return [
        {
            **_training(segments, advised),
            "chosen": chosen is not None and not differs(chosen, segments[0].trial.configuration),
        }
        for segments in begun.values()
    ]


def differs(configuration: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What the other configuration has at other values: 'stem.kernel_size 3 → 5; ...'."""
    changed = [
        name for name in configuration.keys() & other.keys() if configuration[name] != other[name]
    ]
    return "; ".join(
        f"{name} {plain(configuration[name])} → {plain(other[name])}" for name in sorted(changed)
    )


def _training(segments: Sequence[Result], advised: Mapping[str, Any]) -> dict[str, Any]:
    first, last = segments[0].trial, segments[-1]
    score = score_of(first.net, first.score)
    scores = [score.value(segment.score) for segment in segments if segment.score is not None]
    return {
        "id": first.id,
        "stage": last.trial.phase,
        "what": differs(advised, first.configuration) or "as advised",
        "parts": scores,
        "score": scores[-1] if scores else None,
        "params": last.cost.get("params"),
        "macs": last.cost.get("macs"),
        "seconds": sum(segment.seconds for segment in segments),
        "failed": last.reason if last.status == "failed" else "",
    }
