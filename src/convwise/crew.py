"""The workers of a study, and what a wave of trials needs before it starts."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from convwise.core.records import Result, Trial
from convwise.search.phases import FINAL, Wave
from convwise.session import Session
from convwise.training import train
from convwise.training.batches import Prepared
from convwise.training.runners import Runner

# How long a training takes at most to come to an early end, and where it is the only answer
CUT_SECONDS, FIRST_SECONDS = 4.0, 8.0
MOST_WORDS = 600  # on how far the trainings are, in one study


@dataclass(frozen=True)
class Crew:
    """Runs trials, and records each result as it ends. store: the images, for the `runner`."""

    session: Session
    runner: Runner
    store: Prepared

    def run(self, wave: Wave) -> list[Result]:
        """The results of a wave, in the order of ending."""
        phase, results = wave.phase, []
        if wave.note:
            self.session.tell(phase.name, note=wave.note)
        self._prepare(wave.trials)
        self.session.tell(phase.name, wave.number, wave.planned)
        with self._telling(wave):
            for result in self.runner.run(wave.trials):
                self._record(result)
                results.append(result)
        if not phase.alone:
            self.session.tell(phase.name, wave.number + 1, wave.planned)
        return results

    def cut(self) -> None:
        """Bring what runs to an early end; record the final training or the first, as answers."""
        seconds = CUT_SECONDS if self._has_answer else FIRST_SECONDS
        for result in sorted(self.runner.cut(seconds), key=lambda result: result.trial.id):
            if result.status == "done" and (
                result.trial.phase == FINAL.name or not self._has_answer
            ):
                self._record(result)

    @property
    def _has_answer(self) -> bool:
        return any(result.status == "done" for result in self.session.results)

    @contextmanager
    def _telling(self, wave: Wave) -> Iterator[None]:
        """Inside, the watcher hears how far the trainings are, every second or less often."""
        over, seconds = threading.Event(), max(self.session.settings.budget / MOST_WORDS, 1.0)

        def tell() -> None:
            while not over.wait(seconds):
                if live := tuple(self.runner.live):
                    self.session.tell(wave.phase.name, wave.number, wave.planned, live=live)

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def teach(self, teacher: Trial) -> None:
        """Store what a trained trial says of the images that others learn from."""
        train.teach(self.store.folder, teacher)

    def _prepare(self, trials: Sequence[Trial]) -> None:
        """The images at each size; and latencies, where the goal names them: beside trainings they
        would be longer.
        """
        for net in (trial.net for trial in trials):
            self.store.ensure(net)
            if self._is_timed:
                self.session.lab.host.latency_ms(net)

    @property
    def _is_timed(self) -> bool:
        goal = self.session.settings.goal
        return "latency_ms" in {limit.metric for limit in goal.limits} | {
            goal.cheapest and goal.cheapest.metric
        }

    def _record(self, result: Result) -> None:
        if self._is_timed and result.cost:
            latency = self.session.lab.host.latency_ms(result.trial.net)
            result = replace(result, cost={**result.cost, "latency_ms": latency})
        self.session.record(result)
