"""The sentence: images, facts, advice, trials, verdict, model, folder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from convwise import against, mirrored
from convwise.advice.fingerprint import look as look_at
from convwise.advice.rules import wanted_epochs
from convwise.core.records import Advice, Fingerprint, Pace, Verdict, Views
from convwise.crew import Crew
from convwise.handover import best_so_far, hand_over, material
from convwise.images.loading import Images
from convwise.images.loading import read as read_images
from convwise.interrupts import Interrupts
from convwise.notes import ADVICE, FACTS
from convwise.output import deliver
from convwise.plan import Counted, planned, within_latency
from convwise.search import race, rivals
from convwise.search.phases import FINAL, RACE, Budget, Search, Wave
from convwise.search.searching import verdict, waves
from convwise.session import Session
from convwise.settings import Settings
from convwise.training.batches import Prepared
from convwise.training.lab import Lab

# Counted studies (--trials) must not depend on the clock: a fixed pace stands for any machine.
NOMINAL_PACE = Pace(per_mac=6e-12, per_byte=4e-10)
STOPPING = (
    "interrupted: the best network so far will be written in a few seconds; press Ctrl-C again to"
    " stop at once"
)
Read = Callable[..., Images]
Look = Callable[..., Fingerprint]
Write = Callable[[deliver.Material], Path]


def run(settings: Settings, lab: Lab, read: Read = read_images, look: Look = look_at,
        write: Write = deliver.write) -> Path:  # fmt: skip
    """Read, look, advise, race, judge, refit, write; returns the folder written.

    Running it again continues an unfinished study. The first interrupt takes the best so far, which
    is then written within ten seconds or so; KeyboardInterrupt where it comes so early that there
    is none.
    """
    with Interrupts() as interrupts, ExitStack() as working:
        against.check(settings.against)
        # Slowness is measured before our own processes compute
        slow = lab.host.slowness() if settings.trials is None else 1.0
        # Workers load while images are read
        runner = lab.start(settings.work, settings.task, settings.workers or lab.host.workers)
        working.enter_context(closing(runner))
        images = _read(settings, lab, read)
        session = Session.open(settings, lab, images)
        if deliver.is_finished(settings.out):
            return _finished(session)
        session = _begun(session)
        facts = session.kept(FACTS, Fingerprint, lambda: _look(session, look))
        advice = session.kept(ADVICE, Advice, lambda: _advise(session, facts))
        others = against.rivals(settings.against, images, advice)
        search = _search(session, advice, others, slow)
        crew = Crew(session, runner, Prepared(settings.work, images))
        interrupts.tell = lambda: session.tell("stopping", note=STOPPING)
        try:
            for wave in waves(search, crew.teach):
                crew.run(wave)
            judged = verdict(search)
            for wave in rivals.waves(search, others, judged.chosen):
                crew.run(wave)
            views = _views(search, session, judged)
            _refit(search, crew, judged, views)
        except KeyboardInterrupt:
            judged, views = best_so_far(search, crew)
        working.close()
        with interrupts.waiting():
            found = material(session, facts, advice, judged, views, others, interrupts.left)
            return hand_over(session, found, write, interrupts.left)


# Read, look, advise -------------------------------------------------------------------------------


def _read(settings: Settings, lab: Lab, read: Read) -> Images:
    how = {"test": settings.test, "seed": settings.seed, "cache": settings.work / "images"}
    return read(settings.source, **how, within=settings.within(lab.clock), **settings.reading)


def _begun(session: Session) -> Session:
    """A new study, or the rest of one; what there is to know of its images is told."""
    session = session.continued()
    for said in session.images.said():
        session.tell("read", note=said)
    return session


def _finished(session: Session) -> Path:
    out = session.settings.out
    note = f"{out} holds a finished study; for a new one, remove it or give another --out"
    session.tell("finished", note=note)
    return out


def _look(session: Session, look: Look) -> Fingerprint:
    session.tell("look")
    images, settings = session.images, session.settings
    how = {"seed": settings.seed, "budget": settings.look_budget, "numbers": images.numbers}
    return look(images.train, images.classes, **how)


def _advise(session: Session, facts: Fingerprint) -> Advice:
    settings, host = session.settings, session.lab.host
    pace = host.pace if settings.trials is None else NOMINAL_PACE
    return within_latency(facts, settings.goal, pace, settings.training_seconds, host)


# Race, judge, refit -------------------------------------------------------------------------------


def _search(
    session: Session, advice: Advice, others: Sequence[rivals.Rival], slow: float
) -> Search:
    """slow: how many seconds one second of work took before this study's own processes computed."""
    settings, sizes = session.settings, (len(session.images.train), len(session.images.valid))
    session.ledger.know(advice.space)
    nets, workers = [rival.net for rival in others], session.workers
    budget: Budget
    if settings.trials is None:
        budget = planned(advice, sizes, session.lab, slow, workers, settings.evidence, nets)
    else:
        budget = Counted(settings.trials, workers, settings.goal.cheapest is not None)
    return Search(advice, session, budget, settings.seed, wanted_epochs(sizes[0]) * sizes[0])


def _views(search: Search, session: Session, judged: Verdict) -> Views:
    """One view of each image or two, for the chosen net as it goes on to train."""
    mirrors = race.onwards(search.advice, search.tried(RACE), judged.chosen).training_flip
    return mirrored.decided(session, judged.chosen, mirrors)


def _refit(search: Search, crew: Crew, judged: Verdict, views: Views) -> None:
    """The rest of the chosen net's training, by all workers together; nothing where only the
    writing is left.

    It is on everything that is not sealed. Where nothing is sealed, the validation part stays out,
    so that the accuracy told is that of the network handed over.
    """
    if search.ended:
        return
    before = search.tried(FINAL)  # brought to an early end, when the study was interrupted
    chosen, sealed = before[-1] if before else judged.chosen, crew.session.images.test
    scored = views.count * (sealed.size if sealed else len(crew.session.images.valid))
    seconds = search.budget.final_seconds(chosen, scored)
    if seconds is not None:
        threading.Thread(target=deliver.warm_up, daemon=True).start()
    trial = race.to_the_end(search, chosen, FINAL, seconds, "all" if sealed else "train")
    if before:
        trial = replace(trial, id=f"{trial.id}-{len(before) + 1}")
    crew.run(Wave(FINAL, (trial,)))
