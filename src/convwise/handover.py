"""What is handed over, and what must be said beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from convwise.core.net import Net
from convwise.core.records import INTERRUPTED, Advice, Fingerprint, Result, Verdict, Views
from convwise.core.score import score_of
from convwise.core.task import kind_of
from convwise.formats.weights import Weights
from convwise.images.loading import Part, Seen
from convwise.mirrored import with_views
from convwise.output.deliver import Material
from convwise.plan import needed
from convwise.search.phases import FINAL
from convwise.session import OPENED, OPENED_FOR, Session
from convwise.training import train
from convwise.training.tasks import TASKS

MOST_OTHERWISE = 500  # images that are answered once more, resized otherwise


def material(session: Session, facts: Fingerprint, advice: Advice, verdict: Verdict, views: Views) -> Material:
    """Everything that is written; the sealed part is opened here, once."""
    ended = [r for r in session.results if r.trial.phase == FINAL.name]
    final = next((r for r in reversed(ended) if r.status == "done"), None)
    interrupted = all(r.reason == INTERRUPTED for r in ended)
    settings, images, chosen = session.settings, session.images, with_views(final or verdict.chosen, views)
    said = [*_caveats(session, chosen, ended, interrupted), *filter(None, [views.said])]
    task, notes = TASKS[settings.task], (*verdict.notes, *said)
    net = chosen.trial.net
    weights = train.load_weights(settings.work, chosen.trial.id)
    scored = images.test.open() if images.test else images.valid
    part, rough = scored.ways(*net.input_shape[:2])
    answers, labels = train.answers(net, weights, np.asarray(part.pixels)), np.asarray(part.labels)
    better = task.surely(answers, labels, settings.goal.score, net)
    notes = notes if better else (_learnt_nothing(session, chosen, interrupted), *notes)
    return Material(
        folder=settings.out,
        images=images,
        facts=facts,
        advice=advice,
        verdict=replace(verdict, notes=notes, chosen=with_views(verdict.chosen, views)),
        final=chosen if final else None,
        results=session.results,
        weights=weights,
        scored=part,
        kind="test" if images.test else "validation",
        answers=answers,
        baseline=task.baseline(labels, kind_of(settings.task).scored, net),
        better=better,
        otherwise=_otherwise(answers, rough, net, weights) if images.classes else {},
        provenance=_provenance(session, interrupted),
        clock=session.lab.clock,
        host=session.lab.host,
        task=settings.task,
        views=views,
    )


def _otherwise(answers: np.ndarray, rough: Part | None, net: Net, weights: Weights) -> dict[str, Any]:
    """How many images get the same class where they are resized without antialiasing, and of how many."""
    if rough is None:
        return {}
    rows = np.linspace(0, len(answers) - 1, min(len(answers), MOST_OTHERWISE), dtype=np.int64)
    told = train.answers(net, weights, np.asarray(rough.pixels[rows])).argmax(1)
    return {"n": len(rows), "same": int((told == answers[rows].argmax(1)).sum())}


def _learnt_nothing(session: Session, handed_over: Result, interrupted: bool) -> str:
    """What is said of a network that is not shown to be better than knowing nothing, and what would help."""
    parts = {r.trial.id: r for r in (*session.results, handed_over)}
    chain, images = [handed_over], len(session.images.train)
    while (before := parts.get(chain[-1].trial.resumes)) is not None:
        chain.append(before)
    views = sum(r.history[-1].images for r in chain if r.history) / images
    nothing = score_of(handed_over.trial.net).nothing.replace("always", "always answering")
    said = f"This network is not shown to be better than {nothing}."
    short = "The trainings were too short" if session.settings.trials else "The budget was too short"
    short = "It was interrupted too early" if interrupted else short
    return f"{said} {needed(views, images, session.lab.clock.elapsed, short)}."


def _caveats(session: Session, chosen: Result, ended: Sequence[Result], interrupted: bool) -> list[str]:
    """What the report must say beside the choice; ended: the final training, as often as it was begun."""
    said = ["The study was interrupted: this is the best network so far."] if interrupted else []
    if seen := session.images.facts.get("seen"):
        said.append(f"The study has read only {Seen(**seen)}: {Seen(**seen).why}.")
    if chosen.trial.phase != FINAL.name:
        why = f" ({ended[-1].reason})" if ended else ""
        said.append(
            f"There was no final training{why}: the weights are those of the trial, which did not train on the "
            "validation part."
        )
    if session.images.test and (times := _openings(session, chosen)) > 1:
        said.append(f"The sealed test part was opened {times} times, because the study had been interrupted before.")
    return said


def _openings(session: Session, chosen: Result) -> int:
    """How often the sealed part was opened, now included; the network that it was opened for last is no other one."""
    notes = session.ledger.notes
    times, before = notes.get(OPENED, 0), notes.get(OPENED_FOR)
    if before != chosen.trial.id:
        times += 1
        session.ledger.note(OPENED, times)
        session.ledger.note(OPENED_FOR, chosen.trial.id)
    return int(times)


def _provenance(session: Session, interrupted: bool) -> dict[str, Any]:
    settings, host = session.settings, session.lab.host
    return {
        "command": settings.command,
        "directory": os.getcwd(),
        "budget_seconds": settings.budget,
        "trials": settings.trials,
        "seed": settings.seed,
        "workers": session.workers,
        "engine": {"device": host.engine.device, "dtype": host.engine.dtype},
        "goal": settings.goal.text,
        "interrupted": interrupted,
        "machine": host.describe(),
    }
