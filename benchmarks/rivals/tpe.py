"""Optuna's TPE with Hyperband on our Space, recipe and engine: another chooser, all else equal.

A trial is trained in rungs of UNIT_SHARE of the budget, each going on from the weights of the one
before, and is pruned between two; so many trials as there are workers run at once. The best then
has the last FINAL_SHARE of the budget, on everything unsealed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import optuna

from convwise.core.configuration import Configuration
from convwise.core.problems import ConvwiseError
from convwise.core.records import Trial
from convwise.training.batches import Prepared
from rivals.job import Job, Learnt
from rivals.ours import Workshop, advice_for, workshop

FINAL_SHARE = 0.45  # of the budget
RUNGS, KEEP_ONE_OF = 9, 3  # Hyperband's largest resource, and its reduction factor
UNIT_SHARE = 0.55 / 40  # of the budget: a worker gets through 40 rungs at most
SHORTEST_SECONDS = 0.5


@dataclass
class Running:
    """A trial of Optuna's between two rungs."""

    asked: Any
    configuration: Configuration
    trial: Trial
    rung: int = 0
    score: float = 0.0


def run(job: Job) -> Learnt:
    budget = job.left
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with workshop(job) as work:
        advice = advice_for(job)
        best = search(work, advice, job.deadline - FINAL_SHARE * budget, UNIT_SHARE * budget)
        return work.final(best.configuration if best else advice.configuration, advice.recipe)


def search(work: Workshop, advice: Any, until: float, unit: float) -> Running | None:
    """The best of the trials that got furthest; until: time.monotonic() at which it ends."""
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=work.job.seed),
        pruner=optuna.pruners.HyperbandPruner(1, RUNGS, KEEP_ONE_OF),
    )
    unit, running, ended = max(unit, SHORTEST_SECONDS), [], []
    while until - time.monotonic() > unit or not ended + running:
        while len(running) < work.workers:
            running.append(asked(study, advice))
        trials = [rung_of(work, each, unit) for each in running]
        results = {result.trial.id: result for result in work.runner.run(trials)}
        for each, trial in zip(list(running), trials, strict=True):
            each.trial, each.rung = trial, each.rung + 1
            if told(study, each, results[trial.id]):
                running.remove(each)
                ended.append(each)
    scored = [each for each in (*running, *ended) if each.rung]
    return max(scored, key=lambda each: (each.rung, each.score), default=None)


def asked(study: Any, advice: Any) -> Running:
    """What Optuna proposes next; a configuration inside the Space's limits."""
    trial = study.ask()
    wanted = {
        c.name: trial.suggest_categorical(c.name, c.values) for c in advice.space.hyperparameters
    }
    try:
        configuration = advice.space.fit(wanted)
    except ConvwiseError:
        configuration = advice.configuration
    return Running(
        trial,
        configuration,
        Trial(
            "",
            "tpe",
            configuration=dict(configuration),
            net=configuration.net,
            recipe=advice.recipe,
        ),
    )


def rung_of(work: Workshop, each: Running, seconds: float) -> Trial:
    """The next stretch of training, from the weights of the last."""
    Prepared(work.folder, work.job.images).ensure(each.trial.net)
    name = f"tpe-{each.asked.number}-{each.rung}"
    seed = 1000 * work.job.seed + each.asked.number
    return replace(each.trial, id=name, seconds=seconds, seed=seed, resumes=each.trial.id)


def told(study: Any, each: Running, result: Any) -> bool:
    """Tell Optuna; whether the trial has ended: failed, pruned, or trained for all rungs."""
    state = optuna.trial.TrialState
    if result.score is None:
        study.tell(each.asked, state=state.FAIL)
        each.rung = 0
        return True
    each.score = result.score
    each.asked.report(result.score, each.rung)
    if each.rung < RUNGS and not each.asked.should_prune():
        return False
    done = each.rung == RUNGS
    study.tell(each.asked, result.score if done else None, state=None if done else state.PRUNED)
    return True
