"""[Result] -> Verdict: which net to take, and what each change was worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from convwise.core.configuration import Configuration
from convwise.core.problems import Infeasible
from convwise.core.records import Advice, Effect, Reason, Result, Verdict
from convwise.evidence.effects import RunVariance, carried, effect_of, verdicts
from convwise.search import race
from convwise.search.phases import RACE
from convwise.search.ranking import front


def judge(advice: Advice, results: Sequence[Result]) -> Verdict:
    """The choice, the effects of what was tried beside it, and what no other net beats in both
    accuracy and macs.

    Infeasible where no training of the race ended whose net keeps the goal's limits, as measured.
    """
    ended = race.ended(results)
    raced = [r for r in ended if not advice.space.goal.excess(r.cost)]
    if not raced:
        failed = [r.reason for r in results if r.status == "failed"]
        what = f"no trial gave a usable network: {failed[0]}" if failed else "no trial ended"
        raise Infeasible(
            "choose", what, "at least one finished trial", "a larger --budget, or fewer limits"
        )
    effects = raced_effects(advice, ended)
    leading = race.leader(advice, raced)
    ours = race.segments(raced, leading.key) or [
        max(raced, key=lambda r: (r.trial.span, r.score or 0))
    ]
    space = advice.space
    edited = {
        e: race.segments(raced, space.fit({**leading, e.parameter: e.after}).key) for e in effects
    }
    better = race.adopted([effect for effect, theirs in edited.items() if theirs])
    chosen = edited[better][-1] if better else ours[-1]
    source = "ours: docs/findings.md, 'judging early turns effects round'"
    because = _because(advice, raced, chosen, effects, better)
    reason = Reason("net", chosen.trial.net.id, because, "trials", source)
    first = [r for r in raced if r.trial.span[0] == 0]  # equally long, whatever came after
    return Verdict(chosen, effects, front(first, "macs"), (reason,))


def _because(advice: Advice, raced: Sequence[Result], chosen: Result, effects: Sequence[Effect],
             better: Effect | None) -> str:  # fmt: skip
    if better:
        horizon = (
            f"after {better.seconds:.0f} s" if better.seconds else "after the same number of epochs"
        )
        change = f"{better.parameter} {better.after} instead of {better.before}"
        ahead = (
            f"{better.moved.removeprefix('+')} {'off' if better.score.is_error else 'ahead'}"
            f" {horizon}"
        )
        ahead += ": the advised network hardly learns"
        return f"the advised network with {change}, which was {ahead}"
    changed = {
        name: value
        for name, value in chosen.trial.configuration.items()
        if value != advice.configuration.get(name)
    }
    if changed.keys() - {race.FLIP}:
        what = ", ".join(f"{name} {value}" for name, value in changed.items())
        return (
            f"the advised network could not be used; this one, with {what}, was trained the longest"
        )
    net = "the advised network"
    if race.onwards(advice, raced, chosen).training_flip:
        net += ", trained on mirrored images as well"
    if not effects:
        return (
            f"{net}; no other was trained beside it, so nothing was tested: a larger budget leaves"
            " time for that"
        )
    return f"{net}; none of the {len(effects)} changes tried beside it was clearly better"


def at_the_end(
    verdict: Verdict, advice: Advice, results: Sequence[Result], mistakes: float
) -> Verdict:
    """The verdict once the chosen net is trained and scored: what its effects say of the end.

    mistakes: the largest share of wrong answers that it may have. The choice stays. Of a net from
    the ladder nothing changes: its effects are of the larger one that it stands for.
    """
    if verdict.chosen.trial.phase != RACE.name:
        return verdict
    return replace(verdict, effects=raced_effects(advice, race.ended(results), mistakes))


def raced_effects(
    advice: Advice, raced: Sequence[Result], mistakes: float = 1.0
) -> tuple[Effect, ...]:
    """One Effect for each single change of the advised net, or of its mirrored twin, after equally
    long trainings.

    They are told together: see evidence.verdicts. Each holds for its own length of training, not
    for a longer one. mistakes: of the trained net at the end, if known: see evidence.carried.
    """
    bases = [advice.configuration, *filter(None, [race.twin(advice)])]
    found = [effect for base in bases for effect in _against(advice, base, raced, mistakes)]
    return verdicts(found)


def _against(
    advice: Advice, base: Configuration, raced: Sequence[Result], mistakes: float
) -> Iterator[Effect]:
    before = race.segments(raced, base.key)
    seen: set[tuple[str, Any]] = set()
    for trial in [r.trial for r in raced if r.trial.span[0] == 0]:
        configuration = trial.configuration
        changed = [name for name in configuration if configuration[name] != base.get(name)]
        backwards = changed == [race.FLIP] and base is not advice.configuration
        if len(changed) != 1 or (changed[0], configuration[changed[0]]) in seen or backwards:
            continue
        seen.add((changed[0], configuration[changed[0]]))
        after = race.segments(raced, trial.key)
        common = min(len(before), len(after), race.FLIP_SEGMENTS)
        # A study that was continued may have segments of another length: they say nothing of each
        # other.
        alike = {r.trial.seconds for r in (*before[:common], *after[:common])}
        if len(alike) == 1 and race.tells(before[:common]) and race.tells(after[:common]):
            yield _effect(changed[0], before[:common], after[:common], mistakes)


def _effect(
    name: str, before: Sequence[Result], after: Sequence[Result], at_the_end: float
) -> Effect:
    """Of two trainings that have gone through as many segments."""
    seconds = sum(r.trial.seconds or 0.0 for r in before)
    values: tuple[Any, Any] = (
        before[-1].trial.configuration[name],
        after[-1].trial.configuration[name],
    )
    effect = effect_of(
        name, values, [(before[-1], after[-1])], RunVariance.known((before[-1], after[-1]))
    )
    mistakes = 1 - ((before[-1].score or 0.0) + (after[-1].score or 0.0)) / 2
    share = before[-1].trial.span[1]
    return carried(replace(effect, seconds=seconds), mistakes, share, at_the_end)
