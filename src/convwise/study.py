"""The sentence: images, facts, advice, trials, verdict, model, folder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

from convwise import against
from convwise.advice.fingerprint import look as look_at
from convwise.core.clock import Clock
from convwise.core.problems import Infeasible
from convwise.core.progress import Progress
from convwise.core.records import Advice, Fingerprint, Pace, Verdict
from convwise.crew import Crew
from convwise.handover import material
from convwise.images.loading import Images
from convwise.images.loading import read as read_images
from convwise.interrupts import Interrupts
from convwise.output import deliver, whole
from convwise.plan import Counted, planned, within_latency
from convwise.search import race, rivals
from convwise.search.searching import verdict, waves
from convwise.search.stages import FINAL, RACE, Budget, Search, Wave
from convwise.session import ADVICE, FACTS, Session
from convwise.settings import ANSWER_SHARE, Settings
from convwise.training.batches import Store
from convwise.training.lab import Lab

# Counted studies (--trials) must not depend on the clock: a fixed pace stands for any machine.
NOMINAL_PACE = Pace(per_mac=6e-12, per_byte=4e-10)
FIRST_ANSWER_SECONDS = 2.0
STOPPING = "interrupted: the best so far is written in a few seconds; once more ends at once"
Read = Callable[..., Images]
Look = Callable[..., Fingerprint]
Write = Callable[[deliver.Material], Path]


def run(settings: Settings, lab: Lab, read: Read = read_images, look: Look = look_at,
        write: Write = deliver.write) -> Path:  # fmt: skip
    """Read, look, advise, race, judge, refit, write; returns the folder written.

    Running it again continues an unfinished study. The first interrupt takes the best so far; Infeasible where it
    comes so early that there is none.
    """
    with Interrupts(lambda: _stopping(settings, lab)) as interrupts, ExitStack() as working:
        with _preparing(interrupts, lab.clock):
            against.check(settings.against)
            how = {"test": settings.test, "seed": settings.seed, "cache": settings.work / "images"}
            images = read(settings.source, **how, **settings.reading)
            session = Session.open(settings, lab, images)
            if deliver.is_finished(settings.out):
                return _finished(session)
            session = session.continued()
            for said in images.said():
                session.tell("read", note=said)
            interrupts.tell = lambda: session.tell("stopping", note=STOPPING)
            crew = working.enter_context(_crew(session))
            facts = session.kept(FACTS, Fingerprint, lambda: _look(session, look))
            advice = session.kept(ADVICE, Advice, lambda: _advise(session, facts))
            others = against.rivals(settings.against, images, advice)
            search = _search(session, advice, others)
        try:
            if interrupts.asked:
                raise KeyboardInterrupt
            for wave in waves(search, crew.teach):
                crew.run(wave)
            judged = verdict(advice, session.results)
            for wave in rivals.waves(search, others, judged.chosen):
                crew.run(wave)
            if not search.tried(FINAL):  # else it ended before the study did: what is left is to write
                _refit(search, crew, judged)
        except KeyboardInterrupt:
            judged = _best_so_far(search, crew)
        working.close()
        with interrupts.waiting(), whole.together(settings.out) as beside:
            session.tell("writing")
            beside_others = rivals.compared(others, judged.chosen, session.results, len(images.train))
            given = material(session, facts, advice, judged)
            write(replace(given, folder=beside, against=beside_others))
        return settings.out


# Read, look, advise -------------------------------------------------------------------------------


@contextmanager
def _preparing(interrupts: Interrupts, clock: Clock) -> Iterator[None]:
    """After a tenth of the budget an interrupt waits for the advised network; before that, it ends the study."""
    try:
        with interrupts.waiting(clock.until(ANSWER_SHARE)):
            yield
    except KeyboardInterrupt:
        what = "was interrupted while it read the images"
        raise Infeasible("choose", what, "an advised network", "let it run") from None


def _stopping(settings: Settings, lab: Lab) -> None:
    """Say that an interrupt was heard, and that an answer comes."""
    left = None if settings.trials is not None else max(lab.clock.left, 0)
    lab.watcher(Progress("stopping", 0, 0, None, left, STOPPING))


def _finished(session: Session) -> Path:
    out = session.settings.out
    session.tell("finished", note=f"{out} holds a finished study of this; remove it or give --out for a new one")
    return out


@contextmanager
def _crew(session: Session) -> Iterator[Crew]:
    """Workers, which load while the images are looked at."""
    settings = session.settings
    with closing(session.lab.start(settings.work, settings.task, session.workers)) as runner:
        yield Crew(session, runner, Store(settings.work, session.images))


def _look(session: Session, look: Look) -> Fingerprint:
    session.tell("look")
    images, settings = session.images, session.settings
    how = {"seed": settings.seed, "budget": settings.look_budget, "number": images.number}
    return look(images.train, images.classes, **how)


def _advise(session: Session, facts: Fingerprint) -> Advice:
    settings, host = session.settings, session.lab.host
    pace = host.pace if settings.trials is None else NOMINAL_PACE
    return within_latency(facts, settings.goal, pace, settings.training_seconds, host)


# Race, judge, refit -------------------------------------------------------------------------------


def _search(session: Session, advice: Advice, others: Sequence[rivals.Rival]) -> Search:
    settings, sizes = session.settings, (len(session.images.train), len(session.images.valid))
    session.ledger.know(advice.space)
    budget: Budget = (
        planned(advice, sizes, session.lab.clock, session.lab.host, session.workers, settings.evidence,
                [rival.net for rival in others])
        if settings.trials is None
        else Counted(settings.trials, session.workers, settings.goal.cheapest is not None)
    )  # fmt: skip
    return Search(advice, session, budget, settings.seed)


def _refit(search: Search, crew: Crew, judged: Verdict) -> None:
    """The rest of the chosen net's training, by all workers together.

    It is on everything that is not sealed. Where nothing is sealed, the validation part stays out, so that
    the accuracy told is that of the network handed over.
    """
    chosen, sealed = judged.chosen, crew.session.images.test
    seconds = search.budget.final_seconds(chosen, sealed.size if sealed else len(crew.session.images.valid))
    if seconds is not None:
        threading.Thread(target=deliver.warm_up, daemon=True).start()
    trial = race.to_the_end(search, chosen, FINAL, seconds, "all" if sealed else "train")
    crew.run(Wave(FINAL, (trial,)))


def _best_so_far(search: Search, crew: Crew) -> Verdict:
    """The verdict on what there is; where there is nothing yet, on the advised net after two seconds of training."""
    if not crew.session.results:
        crew.here(search.trial("race-0-1", RACE, search.advice.sample, FIRST_ANSWER_SECONDS))
    return verdict(search.advice, crew.session.results)
