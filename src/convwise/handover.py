"""What is handed over, and what must be said beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np

from convwise.core.goal import Goal
from convwise.core.intervals import difference, wilson
from convwise.core.net import Net
from convwise.core.records import INTERRUPTED, Advice, Fingerprint, Probed, Result, Verdict, Views
from convwise.core.score import ACCURACY, score_of
from convwise.core.task import kind_of
from convwise.crew import Crew
from convwise.formats.weights import Weights
from convwise.images.loading import Part, Seen
from convwise.mirrored import decided, with_views
from convwise.notes import OPENED, OPENED_FOR
from convwise.output import whole
from convwise.output.deliver import STEPS, Material
from convwise.plan import needed
from convwise.search import rivals
from convwise.search.judge import at_the_end
from convwise.search.phases import FINAL, Search
from convwise.search.searching import verdict
from convwise.session import Session
from convwise.training import train
from convwise.training.tasks import TASKS

TOO_EARLY = "interrupted before the first training had ended: there is nothing to write"
MOST_OTHERWISE = 500  # images that are answered once more, resized otherwise
# After an interrupt: the share of the time that is left that scoring may take; images that are
# scored in any case; and those that show how long one takes
SCORING_SHARE, LEAST_SCORED, TIMED = 1 / 3, 200, 64


def best_so_far(search: Search, crew: Crew) -> tuple[Verdict, Views]:
    """What is handed over after an interrupt; what is trained now is brought to an early end where
    that is of use.
    """
    if not search.tried(FINAL):
        crew.cut()
    if not any(result.status == "done" for result in crew.session.results):
        raise KeyboardInterrupt(TOO_EARLY)
    judged = verdict(search)
    return judged, decided(
        crew.session, judged.chosen, judged.chosen.trial.recipe.flip, hurried=True
    )


def hand_over(
    session: Session, found: Material, write: Callable[[Material], Path], left: Callable[[], float]
) -> Path:
    """The folder, whole: what is written takes its place together. left: seconds that an interrupt
    leaves for it.
    """
    with whole.together(session.settings.out) as beside:
        write(
            replace(found, folder=beside, left=lambda: min(session.left, left()), tell=session.tell)
        )
    session.tell("finished")
    return session.settings.out


def material(session: Session, facts: Fingerprint, advice: Advice, verdict: Verdict, views: Views,
             others: Sequence[rivals.Rival] = (), left: Callable[[], float] = lambda: inf
             ) -> Material:  # fmt: skip
    """Everything that is written; the sealed part is opened here, once. others: what the choice was
    compared with. left: as in `hand_over`.
    """
    session.tell("writing", 0, STEPS)
    ended = [r for r in session.results if r.trial.phase == FINAL.name]
    final = next((r for r in reversed(ended) if r.status == "done"), None)
    interrupted = all(r.reason == INTERRUPTED for r in ended)
    settings, images, chosen = (
        session.settings,
        session.images,
        with_views(final or verdict.chosen, views),
    )
    said = [*_caveats(session, chosen, ended, interrupted), *filter(None, [views.said])]
    task, net = TASKS[settings.task], chosen.trial.net
    weights = train.load_weights(settings.work, chosen.trial.id)
    opened = images.test.open() if images.test else images.valid
    scored = _affordable(opened, net, weights, settings.seed, left)
    if len(scored) < len(opened):
        said.append(
            f"Only {len(scored):,} of the {len(opened):,}"
            f" {'sealed test' if images.test else 'validation'} images, drawn at random, were"
            " scored: there was no time for more."
        )
    part, rough = scored.ways(*net.input_shape[:2])
    answers, labels = train.answers(net, weights, np.asarray(part.pixels)), np.asarray(part.labels)
    better = task.surely(answers, labels, settings.goal.score, net)
    probe = beside_probe(facts, task.answered(answers, labels, net), net, settings.goal)
    mistakes = 1 - task.at_least(answers, labels, settings.goal.score, net)
    verdict = at_the_end(verdict, advice, session.results, mistakes)
    doubts = _doubts(net, better, probe)
    if not better or (probe and probe.verdict == "worse"):
        doubts[0] += f" {_what_helps(session, chosen, interrupted, better)}."
    return Material(
        folder=settings.out,
        images=images,
        facts=facts,
        advice=advice,
        verdict=replace(
            verdict,
            notes=(*doubts, *verdict.notes, *said),
            chosen=with_views(verdict.chosen, views),
        ),
        final=chosen if final else None,
        results=session.results,
        weights=weights,
        scored=part,
        kind="test" if images.test else "validation",
        answers=answers,
        baseline=task.baseline(labels, kind_of(settings.task).scored, net),
        better=better,
        probe=probe,
        otherwise=_otherwise(answers, rough, net, weights)
        if images.classes and left() == inf
        else {},
        provenance=_provenance(session, interrupted),
        clock=session.lab.clock,
        host=session.lab.host,
        against=rivals.compared(others, verdict.chosen, session.results, len(images.train)),
        task=settings.task,
        views=views,
    )


def _affordable(
    part: Part, net: Net, weights: Weights, seed: int, left: Callable[[], float]
) -> Part:
    """The images that are scored: all, or after an interrupt as many as there is time for, drawn at
    random.
    """
    if left() == inf or len(part) <= LEAST_SCORED:
        return part
    order, before = np.random.default_rng(seed).permutation(len(part)), left()
    some, _ = part[order[:TIMED]].ways(*net.input_shape[:2])
    train.answers(net, weights, np.asarray(some.pixels))
    now = left()
    count = max(int(SCORING_SHARE * now / max(before - now, 1e-9) * TIMED), LEAST_SCORED)
    return part if count >= len(part) else part[np.sort(order[:count])]


def _otherwise(
    answers: np.ndarray, rough: Part | None, net: Net, weights: Weights
) -> dict[str, Any]:
    """How many images get the same class if resized without antialiasing, and of how many."""
    if rough is None:
        return {}
    rows = np.linspace(0, len(answers) - 1, min(len(answers), MOST_OTHERWISE), dtype=np.int64)
    told = train.answers(net, weights, np.asarray(rough.pixels[rows])).argmax(1)
    return {"n": len(rows), "same": int((told == answers[rows].argmax(1)).sum())}


def beside_probe(facts: Fingerprint, right: np.ndarray, net: Net, goal: Goal) -> Probed | None:
    """The probe of `look` beside a network that answers the scored images so: right, bool (n,).

    None where there is no probe, or the goal's score is not what it measures. The probe looked at
    training images alone, so the two shares are of different images. A network with the accuracy
    that the goal names is never 'worse'.
    """
    if (
        "probe_accuracy" not in facts
        or not facts.looked_at
        or score_of(net, goal.score) != ACCURACY
        or not len(right)
    ):
        return None
    probe = facts.measure("probe_accuracy")
    found, known = (
        (int(right.sum()), len(right)),
        (
            round(probe.value * facts.looked_at),
            facts.looked_at,
        ),
    )
    (low, high), accuracy = difference(found, known), float(right.mean())
    enough = goal.cheapest and goal.cheapest.given and not goal.cheapest.missed(accuracy)
    verdict: Literal["better", "not better", "worse"] = "better" if low > 0 else "not better"
    verdict = "worse" if high < 0 and not enough else verdict
    return Probed(
        probe.value, *wilson(*known), facts.looked_at, accuracy - probe.value, low, high, verdict
    )


def _doubts(net: Net, better: bool, probe: Probed | None) -> list[str]:
    """What is said of a network that is not shown to beat knowing nothing, or the probe: first why
    it is no choice.
    """
    nothing = score_of(net).nothing.replace("always", "always answering")
    said = [] if better else [f"This network is not shown to be better than {nothing}."]
    if probe and probe.verdict != "better":
        less = "less accurate" if probe.change_high < 0 else "not shown to be more accurate"
        change, span = (
            ACCURACY.moved(probe.accuracy_change),
            ACCURACY.span(probe.change_low, probe.change_high),
        )
        ours, theirs = (
            ACCURACY.said(probe.accuracy + probe.accuracy_change),
            ACCURACY.said(probe.accuracy),
        )
        told = f"{ours} against {theirs} ({change} points, {span})"
        enough = (
            " The goal asks for no more."
            if probe.change_high < 0 and probe.verdict != "worse"
            else ""
        )
        probed = "the probe of `look`, a linear model on simple filters"
        said.append(f"This network is {less} than {probed}: {told}.{enough}")
    return said


def _what_helps(session: Session, handed_over: Result, interrupted: bool, better: bool) -> str:
    """What would make a network worth choosing; better: than knowing nothing."""
    known = {r.trial.id: r for r in (*session.results, handed_over)}
    chain, images = [handed_over], len(session.images.train)
    while (before := known.get(chain[-1].trial.resumes)) is not None:
        chain.append(before)
    views = sum(r.history[-1].images for r in chain if r.history) / images
    short = (
        "The trainings were too short" if session.settings.trials else "The budget was too short"
    )
    short = "It was interrupted too early" if interrupted else short
    linear = "take a linear model, such as RidgeClassifier of scikit-learn, on simple features"
    linear = (
        f"raise the limits of the goal, or {linear}" if session.settings.goal.limits else linear
    )
    return needed(
        views, images, session.lab.clock.elapsed, short, linear if better else "check the labels"
    )


def _caveats(
    session: Session, chosen: Result, ended: Sequence[Result], interrupted: bool
) -> list[str]:
    """What the report must say beside the choice. ended: each start of the final training."""
    said = ["The study was interrupted: this is the best network so far."] if interrupted else []
    if seen := session.images.facts.get("seen"):
        said.append(f"Only {Seen(**seen)}, were read: {Seen(**seen).why}.")
    if chosen.trial.phase != FINAL.name:
        why = f" ({ended[-1].reason})" if ended else ""
        said.append(
            f"There was no final training{why}: the weights are those of the trial, which did not"
            " train on the validation part."
        )
    if session.images.test and (times := _openings(session, chosen)) > 1:
        said.append(
            f"The sealed test part was opened {times} times, because the study had been interrupted"
            " before."
        )
    return said


def _openings(session: Session, chosen: Result) -> int:
    """How often the sealed part was opened, now included; the network that it was opened for last
    is no other one.
    """
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
