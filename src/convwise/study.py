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
from convwise.handover import material
from convwise.images.loading import Images
from convwise.images.loading import read as read_images
from convwise.interrupts import Interrupts
from convwise.output import deliver, whole
from convwise.plan import Counted, planned, within_latency
from convwise.search import race, rivals
from convwise.search.phases import FINAL, RACE, Budget, Search, Wave
from convwise.search.searching import verdict, waves
from convwise.session import ADVICE, FACTS, Session
from convwise.settings import Settings
from convwise.training.batches import Store
from convwise.training.lab import Lab

# Counted studies (--trials) must not depend on the clock: a fixed pace stands for any machine.
NOMINAL_PACE = Pace(per_mac=6e-12, per_byte=4e-10)
STOPPING = "interrupted: the best network so far will be written in a few seconds; press Ctrl-C again to stop at once"
TOO_EARLY = "interrupted before the first training had ended: there is nothing to write"
Read = Callable[..., Images]
Look = Callable[..., Fingerprint]
Write = Callable[[deliver.Material], Path]


def run(settings: Settings, lab: Lab, read: Read = read_images, look: Look = look_at,
        write: Write = deliver.write) -> Path:  # fmt: skip
    """Read, look, advise, race, judge, refit, write; returns the folder written.

    Running it again continues an unfinished study. The first interrupt takes the best so far, which is then written
    within ten seconds or so; KeyboardInterrupt where it comes so early that there is none.
    """
    with Interrupts() as interrupts, ExitStack() as working:
        against.check(settings.against)
        workers = settings.workers or lab.host.workers
        slow = lab.host.slowness() if settings.trials is None else 1.0  # asked before our own processes compute
        runner = working.enter_context(closing(lab.start(settings.work, settings.task, workers)))  # they load meanwhile
        how = {"test": settings.test, "seed": settings.seed, "cache": settings.work / "images"}
        images = read(settings.source, **how, within=settings.within(lab.clock), **settings.reading)
        session = Session.open(settings, lab, images)
        if deliver.is_finished(settings.out):
            return _finished(session)
        session = session.continued()
        for said in images.said():
            session.tell("read", note=said)
        crew = Crew(session, runner, Store(settings.work, images))
        facts = session.kept(FACTS, Fingerprint, lambda: _look(session, look))
        advice = session.kept(ADVICE, Advice, lambda: _advise(session, facts))
        others = against.rivals(settings.against, images, advice)
        search = _search(session, advice, others, slow)
        interrupts.tell = lambda: session.tell("stopping", note=STOPPING)
        try:
            for wave in waves(search, crew.teach):
                crew.run(wave)
            judged = verdict(search)
            for wave in rivals.waves(search, others, judged.chosen):
                crew.run(wave)
            mirrors = race.onwards(advice, search.tried(RACE), judged.chosen).training_flip
            views = mirrored.decided(session, judged.chosen, mirrors)
            if not search.ended:  # else it ended before the study did: what is left is to write
                _refit(search, crew, judged, views)
        except KeyboardInterrupt:
            judged = _best_so_far(search, crew)
            views = mirrored.decided(session, judged.chosen, judged.chosen.trial.recipe.flip, hurried=True)
        working.close()
        with interrupts.waiting(), whole.together(settings.out) as beside:
            session.tell("writing", 0, deliver.STEPS)
            compared = rivals.compared(others, judged.chosen, session.results, len(images.train))
            found = replace(material(session, facts, advice, judged, views), folder=beside, against=compared)
            write(replace(found, left=lambda: min(session.left, interrupts.left()), tell=session.tell))
        return settings.out


# Read, look, advise -------------------------------------------------------------------------------


def _finished(session: Session) -> Path:
    out = session.settings.out
    session.tell("finished", note=f"{out} holds a finished study; for a new one, remove it or give another --out")
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


def _search(session: Session, advice: Advice, others: Sequence[rivals.Rival], slow: float) -> Search:
    """slow: how many seconds one second of work took before this study's own processes computed."""
    settings, sizes = session.settings, (len(session.images.train), len(session.images.valid))
    session.ledger.know(advice.space)
    budget: Budget = (
        planned(advice, sizes, session.lab, slow, session.workers, settings.evidence, [rival.net for rival in others])
        if settings.trials is None
        else Counted(settings.trials, session.workers, settings.goal.cheapest is not None)
    )  # fmt: skip
    return Search(advice, session, budget, settings.seed, wanted_epochs(sizes[0]) * sizes[0])


def _refit(search: Search, crew: Crew, judged: Verdict, views: Views) -> None:
    """The rest of the chosen net's training, by all workers together.

    It is on everything that is not sealed. Where nothing is sealed, the validation part stays out, so that
    the accuracy told is that of the network handed over.
    """
    before = search.tried(FINAL)  # brought to an early end, when the study was interrupted
    chosen, sealed = before[-1] if before else judged.chosen, crew.session.images.test
    scored = views.count * (sealed.size if sealed else len(crew.session.images.valid))
    seconds = search.budget.final_seconds(chosen, scored)
    if seconds is not None:
        threading.Thread(target=deliver.warm_up, daemon=True).start()
    trial = race.to_the_end(search, chosen, FINAL, seconds, "all" if sealed else "train")
    crew.run(Wave(FINAL, (replace(trial, id=f"{trial.id}-{len(before) + 1}" if before else trial.id),)))


def _best_so_far(search: Search, crew: Crew) -> Verdict:
    """The verdict on what there is, with what is trained now brought to an early end where that is of use."""
    if not search.tried(FINAL):
        crew.cut()
    if not any(result.status == "done" for result in crew.session.results):
        raise KeyboardInterrupt(TOO_EARLY)
    return verdict(search)
