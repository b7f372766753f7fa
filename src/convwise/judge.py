"""[Result] -> Verdict: which net to take, and what each parameter was worth.

Scores are compared example by example where two results answered the same validation examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from scipy import stats

from convwise.core.goal import Goal
from convwise.core.paired import cheapest_near, paired_difference, seed_variance
from convwise.core.records import Advice, Effect, Reason, Result, Verdict, VerdictWord
from convwise.core.space import Sample, Value

INDIFFERENT = 0.01  # accuracy: an interval inside +- one point is 'no difference'
CONFIDENCE = 0.95


def judge(results: Sequence[Result], goal: Goal, contrasts: dict[str, tuple[Value, Value]]) -> Verdict:
    """The choice among `results`, the effects of the designed experiment, the Pareto front.

    contrasts: choice -> (value before, value after) of the designed experiment. At least one
    result must have ended; results over a limit of the goal are never chosen.
    """
    able = [r for r in results if r.status == "done" and r.score is not None and not goal.excess(r.cost)]
    if not able:
        raise ValueError("no result keeps the goal's limits")
    rivals = _rivals(able)
    best = max(rivals, key=lambda r: r.score or 0)
    chosen, error = _one_standard_error(best, rivals)
    designed = measured_effects([r for r in results if r.trial.stage == "design" and r.score is not None], contrasts)
    known = {effect.parameter for effect in designed}
    single = [effect for effect in paired_effects(results) if effect.parameter not in known]
    effects = (*designed, *single)
    return Verdict(chosen, effects, _pareto(able), (_why(chosen, best, error, len(rivals)),), error)


def _rivals(able: Sequence[Result]) -> list[Result]:
    """The finalists, and whoever was trained about as long; without finalists, whoever was trained longest."""
    finalists = [r for r in able if r.trial.stage == "finalists"]
    length = max(_length(r) for r in finalists or able)
    return [r for r in able if r in finalists or 0.9 < _length(r) / length < 1.1]


def _length(result: Result) -> float:
    return result.trial.seconds or float(result.trial.epochs or 0)


def _one_standard_error(best: Result, rivals: Sequence[Result]) -> tuple[Result, float]:
    """The cheapest rival not worse than the best by more than one standard error, and that of the best's score."""
    n = max(len(best.correct), 1)
    error = sqrt(max((best.score or 0) * (1 - (best.score or 0)), 1 / n) / n)
    return cheapest_near(best, rivals), error


def _why(chosen: Result, best: Result, error: float, rivals: int) -> Reason:
    if chosen is best:
        because = f"the best of {rivals} finalists on the validation images ({100 * (best.score or 0):.1f} %)"
    else:
        because = (
            f"{100 * (chosen.score or 0):.1f} % on the validation images, within one standard error of the best "
            f"finalist ({100 * (best.score or 0):.1f} %) at {chosen.cost['macs'] / best.cost['macs']:.0%} of its macs"
        )
    return Reason("net", chosen.trial.net.id, because, "", "one-standard-error rule, Breiman et al. 1984")


def _pareto(able: Sequence[Result]) -> tuple[Result, ...]:
    """For each net its longest run; of these the ones that no other beats in both accuracy and macs, cheapest first."""
    longest: dict[str, Result] = {}
    for result in sorted(able, key=_length):
        longest[result.trial.net.id] = result
    front: list[Result] = []
    for result in sorted(longest.values(), key=lambda r: (r.cost["macs"], -(r.score or 0))):
        if not front or (result.score or 0) > (front[-1].score or 0):
            front.append(result)
    return tuple(front)


def paired_effects(results: Sequence[Result]) -> tuple[Effect, ...]:
    """One Effect for each single change of the plan that the rung tried at equal time, example by example.

    The variance is McNemar's over the examples both answered, and that of the two seeds: by theory, or
    as the plan's second run in the rung shows it, whichever is larger.
    """
    rung = sorted((r for r in results if r.trial.stage == "rung" and r.score is not None), key=lambda r: r.trial.id)
    again = [(rung[0].score or 0) - (r.score or 0) for r in rung[1:] if r.trial.net.id == rung[0].trial.net.id]
    seen = max((difference**2 for difference in again), default=0.0)
    effects: dict[str, Effect] = {}
    for other in rung[1:]:
        before, after = rung[0].trial.sample, other.trial.sample
        changed = [name for name in after if after[name] != before.get(name)]
        if len(changed) == 1 and changed[0] not in effects:
            effects[changed[0]] = _paired_effect(changed[0], rung[0], other, seen)
    return tuple(effects.values())


def _paired_effect(name: str, before: Result, after: Result, seen: float) -> Effect:
    change, error = paired_difference(after, before)
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * sqrt(error**2 + max(seed_variance(before, after), seen))
    ratio = before.images_per_second / after.images_per_second
    return _effect(name, (before.trial.sample[name], after.trial.sample[name]), change, half, ratio, 2)


def repeated_effect(name: str, values: tuple[Any, Any], pairs: Sequence[tuple[Result, Result]]) -> Effect:
    """The Effect of one change tried under several seeds: pairs (before, after) of one seed and the same examples.

    The variance is that over the examples, of each one's mean change, and that between seeds: by
    theory, or as the pairs differ among themselves, whichever is larger. Few pairs know the latter
    badly, so the interval is Student's, its freedom by Satterthwaite (Biometrics Bulletin 1946).
    """
    changes = np.array([_right(after) - _right(before) for before, after in pairs])
    examples = float(changes.mean(0).var(ddof=1)) / changes.shape[1]
    theory = float(np.mean([seed_variance(*pair) for pair in pairs])) / len(pairs)
    seen = float(changes.mean(1).var(ddof=1)) / len(pairs) if len(pairs) > 1 else 0.0
    variance, freedom = examples + max(theory, seen), np.inf
    if seen > theory:
        freedom = variance**2 / (seen**2 / (len(pairs) - 1) + examples**2 / (changes.shape[1] - 1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * sqrt(variance)
    ratio = float(np.exp(np.mean([np.log(a.images_per_second / b.images_per_second) for a, b in pairs])))
    return _effect(name, values, float(changes.mean()), half, ratio, 2 * len(pairs))


def _right(result: Result) -> np.ndarray:
    return np.array([c == "1" for c in result.correct], float)


@dataclass(frozen=True)
class _Fit:
    """Least squares of scores on factors: an estimate and a standard error each, degrees of freedom."""

    estimates: np.ndarray
    errors: np.ndarray
    freedom: int


def measured_effects(runs: Sequence[Result], contrasts: dict[str, tuple[Value, Value]]) -> tuple[Effect, ...]:
    """One Effect for each choice that the designed experiment varied, the largest first."""
    levels = np.array([[_level(r.trial.sample, name, pair) for name, pair in contrasts.items()] for r in runs])
    varied = [i for i in range(len(contrasts)) if runs and len(set(levels[:, i])) > 1]
    varied = varied[: len(runs) - 1]  # a failed run costs the last factor, not all
    if not varied:
        return ()
    fit = _least_squares(levels[:, varied], runs)
    slowness = np.log([1 / r.images_per_second for r in runs])
    ratios = np.exp(_solve(levels[:, varied], slowness)[0])
    width = stats.t.ppf((1 + CONFIDENCE) / 2, fit.freedom) * fit.errors
    pairs = [list(contrasts.items())[i] for i in varied]
    effects = [
        _effect(name, pair, float(estimate), float(half), float(ratio), len(runs))
        for (name, pair), estimate, half, ratio in zip(pairs, fit.estimates, width, ratios, strict=True)
    ]
    return tuple(sorted(effects, key=lambda effect: -abs(effect.accuracy_change)))


def _level(sample: Sample, name: str, pair: tuple[Value, Value]) -> float:
    return 1.0 if sample.get(name) == pair[1] else 0.0


def _solve(levels: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(effects, unscaled standard errors) of values ~ 1 + levels."""
    matrix = np.column_stack([levels, np.ones(len(levels))])
    inverse = np.linalg.pinv(matrix)
    return (inverse @ values)[:-1], np.sqrt((inverse**2).sum(1))[:-1]


def _least_squares(levels: np.ndarray, runs: Sequence[Result]) -> _Fit:
    scores = np.array([r.score for r in runs], float)
    estimates, unscaled = _solve(levels, scores)
    spread, freedom = _run_deviation(estimates / unscaled, scores, len(runs[0].correct))
    return _Fit(estimates, spread * unscaled, freedom)


def _run_deviation(standardised: np.ndarray, scores: np.ndarray, examples: int) -> tuple[float, int]:
    """(standard deviation of one run's score, degrees of freedom).

    A saturated design leaves no residual, so the deviation comes from the effects themselves:
    Lenth's pseudo standard error (Technometrics 1989) takes most effects as noise. It is not let
    under the binomial deviation of the validation part.
    """
    size = np.abs(standardised)
    first = 1.5 * float(np.median(size))
    kept = size[size < 2.5 * first] if first else size
    pseudo = 1.5 * float(np.median(kept)) if len(kept) else first
    mean = float(scores.mean())
    binomial = sqrt(max(mean * (1 - mean), 1 / examples) / examples) if examples else 0.0
    return max(pseudo, binomial), max(round(len(size) / 3), 1) if pseudo > binomial else 30


def _effect(name: str, pair: tuple[Value, Value], change: float, half: float, ratio: float, runs: int) -> Effect:
    low, high = change - half, change + half
    return Effect(name, pair[0], pair[1], change, low, high, ratio, verdict_word(low, high), runs)


def verdict_word(low: float, high: float) -> VerdictWord:
    """What an interval of an accuracy change says."""
    if low > 0 or high < 0:
        return "matters"
    return "no difference" if low > -INDIFFERENT and high < INDIFFERENT else "not resolved"


def improved(advice: Advice, base: Sample, effects: Sequence[Effect]) -> Sample:
    """The leader with every change whose measured effect is surely above 0: the predicted best."""
    better = {effect.parameter: effect.after for effect in effects if effect.low > 0}
    return advice.space.fit({**base, **better})


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    if not n:
        return 0.0, 1.0
    interval = stats.binomtest(right, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)
