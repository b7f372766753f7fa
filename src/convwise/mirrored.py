"""Whether the network handed over looks at the mirror image as well, and what that is worth."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import torch

from convwise.core.calculus import analyse
from convwise.core.records import Effect, Result, Views, from_json, to_json
from convwise.evidence.effects import RunVariance, effect_of
from convwise.notes import VIEWS
from convwise.session import Session
from convwise.training import train
from convwise.training.tasks import TASKS

MOST_IMAGES, LEAST_IMAGES = 1000, 50  # validation images that it is measured on
SHARE = 0.02  # of the time that is left, at most, for measuring it
CHANCE = (
    "; that is within chance, and at the end of other trainings it gained half a point to one on"
    " average"
)
FORWARD = 3.0  # times as many images a second are answered as are trained on


def decided(session: Session, chosen: Result, trained: bool, hurried: bool = False) -> Views:
    """One view or two, for the net that `chosen` goes on to train; it is the same each time that a
    study is asked.

    The second view is measured with the weights that never saw the validation images: what comes
    after may learn from them. So early and on so few images a gain of a point is within chance,
    while at the end there was one in each series where mirrored images had been trained on
    (docs/findings.md, 'a mirrored view'): so it is left out where it is surely worse. trained:
    whether mirrored images are, from here on if not before. hurried: there is no time to measure.
    """
    asked, notes = [chosen.trial.id, str(session.settings.views)], session.ledger.notes
    if VIEWS in notes and notes[VIEWS]["asked"] == asked:
        found: Views = from_json(Views, notes[VIEWS]["views"])
        return found
    views = _decided(session, chosen, trained, hurried)
    if not hurried:
        session.ledger.note(VIEWS, {"asked": asked, "views": to_json(views)})
    return views


def with_views(result: Result, views: Views) -> Result:
    """The result whose net is handed over, with as many views, and what that costs."""
    if views.count == 1:
        return result
    net = replace(result.trial.net, mirrored_view=True)
    return replace(
        result,
        trial=replace(result.trial, net=net),
        cost={**result.cost, **analyse(net).total.cost},
    )


def _decided(session: Session, chosen: Result, trained: bool, hurried: bool) -> Views:
    goal, asked = session.settings.goal, str(session.settings.views)
    if asked == "1" or (asked == "auto" and (goal.cheapest or not trained)):
        return Views()
    net = replace(chosen.trial.net, mirrored_view=True)
    cost = analyse(net).total.cost
    if "latency_ms" in {limit.metric for limit in goal.limits}:
        cost["latency_ms"] = session.lab.host.latency_ms(net)
    if over := goal.excess(cost):
        said = (
            "The mirror image is not averaged in: that would take the network over the limit of"
            f" {', '.join(over)}."
        )
        return Views(said=said)
    effect, images = (None, 0) if hurried else measured(session, chosen)
    if asked == "auto" and effect is None:
        return Views()
    worth = "not measured"
    if effect:
        worth = f"{effect.score.words} {effect.moved} ({effect.span} at 95 %)"
        worth += f" on {images:,} validation images, early in the training"
        worth += CHANCE if trained and effect.low <= 0 < effect.high else ""
    if asked == "auto" and effect and effect.high < 0:
        said = (
            f"Averaging in the answer to the mirror image was tried and dropped: {worth}. --views 2"
            " adds it."
        )
        return Views(1, effect, images, said)
    does = "The network's answer is the mean of its answers to an image and to its mirror image"
    warned = "" if trained else ", although it was not trained on mirrored images"
    said = f"{does}{warned}: {worth}. This takes twice the macs; --views 1 turns it off."
    return Views(2, effect, images, said)


def measured(session: Session, chosen: Result) -> tuple[Effect | None, int]:
    """(what the second view is worth, images): paired, by the same weights and images."""
    part = session.images.valid.at(*chosen.trial.net.input_shape[:2])
    seconds = SHARE * session.left
    fitting = (
        MOST_IMAGES if seconds == inf else int(seconds * FORWARD * chosen.images_per_second / 2)
    )
    step = -(-len(part.labels) // max(min(MOST_IMAGES, fitting), 1))
    labels = np.asarray(part.labels)[::step]
    if len(labels) < LEAST_IMAGES:
        return None, len(labels)
    pixels = np.ascontiguousarray(np.asarray(part.pixels)[::step])
    weights = train.load_weights(session.settings.work, chosen.trial.id)
    views = [
        train.answers(chosen.trial.net, weights, each) for each in (pixels, pixels[:, :, ::-1])
    ]
    before, after = (
        _answering(session, chosen, each, labels) for each in (views[0], (views[0] + views[1]) / 2)
    )
    after = replace(after, images_per_second=before.images_per_second / 2)
    effect = effect_of("views", (1, 2), [(before, after)], RunVariance(0.0, inf))
    return replace(effect, seconds=0.0), len(labels)


def _answering(session: Session, chosen: Result, answers: np.ndarray, labels: np.ndarray) -> Result:
    """The chosen result, as if it had answered so."""
    task = TASKS[session.settings.task]
    weighed = task.weighed(torch.from_numpy(answers), torch.from_numpy(labels), chosen.trial.score)
    outcomes = task.answered(answers, labels, chosen.trial.net)
    return replace(chosen, weighed=tuple(weighed.tolist()), **task.kept(outcomes, np.zeros(0)))
