"""The workers of a study, and what a wave of trials needs before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from convwise.core.records import Result, Trial
from convwise.search.stages import Wave
from convwise.session import Session
from convwise.training import train
from convwise.training.batches import Store
from convwise.training.runners import Runner


@dataclass(frozen=True)
class Crew:
    """Runs trials, and records each result as it ends. store: the images, where `runner` finds them."""

    session: Session
    runner: Runner
    store: Store

    def run(self, wave: Wave) -> list[Result]:
        """The results of a wave, in the order of ending."""
        stage, results = wave.stage, []
        if wave.note:
            self.session.tell(stage.name, note=wave.note)
        self._prepare(wave.trials)
        self.session.tell(stage.name, wave.number, wave.planned)
        for result in self.runner.run(wave.trials):
            self._record(result)
            results.append(result)
        if not stage.alone:
            self.session.tell(stage.name, wave.number + 1, wave.planned)
        return results

    def here(self, trial: Trial) -> None:
        """Run one trial in this process, whatever the workers do."""
        self._prepare([trial])
        settings, host = self.session.settings, self.session.lab.host
        self._record(replace(train.run(settings.work, host.engine, settings.task, trial), host=host.name))

    def teach(self, teacher: Trial) -> None:
        """Store what a trained trial says of the images that others learn from."""
        train.teach(self.store.folder, teacher)

    def _prepare(self, trials: Sequence[Trial]) -> None:
        """The images at each size; and latencies, where the goal names them: beside trainings they would be longer."""
        for net in (trial.net for trial in trials):
            self.store.ensure(*net.input_shape[:2])
            if self._is_timed:
                self.session.lab.host.latency_ms(net)

    @property
    def _is_timed(self) -> bool:
        goal = self.session.settings.goal
        return "latency_ms" in {limit.metric for limit in goal.limits} | {goal.cheapest and goal.cheapest.metric}

    def _record(self, result: Result) -> None:
        if self._is_timed and result.cost:
            latency = self.session.lab.host.latency_ms(result.trial.net)
            result = replace(result, cost={**result.cost, "latency_ms": latency})
        self.session.record(result)
