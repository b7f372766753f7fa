"""Paired trainings -> Effect: what one change is worth, with an interval and a word for it.

Scores are as in core/score.py (0.01 is one point of accuracy, or a hundredth of a target's
deviation), variances their squares. A run is one training; it answers every validation example
right or wrong, or with an error. Two runs of the same net differ for two reasons: examples near the
border flip, each by itself, and the whole run comes out a little better or worse. The spread over
the examples of a paired change holds the first already (McNemar 1947); only the second, the run
variance, has to be added to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf, sqrt
from typing import Any

import numpy as np
from scipy import special

from convwise.core.records import Effect, Result, VerdictWord
from convwise.core.score import score_of
from convwise.evidence.paired import known_run_variance

INDIFFERENT = 0.01  # accuracy: a change surely smaller than one point is 'no difference'
CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE
CONTRADICTED = 0.1


# The variance of a run ----------------------------------------------------------------------------


@dataclass(frozen=True)
class RunVariance:
    """The variance of a whole run's accuracy beyond flips of examples, and how well it is known.

    variance: accuracy^2; freedom: degrees of freedom, as of a scaled inverse chi^2.
    """

    variance: float
    freedom: float

    @classmethod
    def known(cls, runs: Sequence[Result]) -> RunVariance:
        """What other sets say of such runs, by their mean share of mistakes."""
        return cls(*known_run_variance(1 - float(np.mean([_right(run).mean() for run in runs]))))

    def updated(self, *repeats: Sequence[Result]) -> RunVariance:
        """With what repeats show: each sequence holds runs of one net and length with other seeds.

        The variance between such runs, less what flips of single examples make of it, estimates the
        run variance; for two runs that is (d^2 - McNemar's variance) / 2. Prior and repeats are
        pooled by degrees of freedom (scaled inverse chi^2: Gelman et al., Bayesian Data Analysis,
        3rd edition, section 2.6), and 0 is the floor of the sum. Where flips drown the run variance
        the repeats say little about it, so they count for the share (run / (run + flips))^2 of
        their degrees of freedom: the variance of an estimate v is 2 v^2 / freedom. Repeats that
        contradict the prior (F test at 10 %: trainings that do not settle here) stand alone.
        """
        seen = [between_runs(runs) for runs in repeats if len(runs) > 1]
        own = sum(freedom for _, _, freedom in seen)
        if not own:
            return self
        total = sum(between * freedom for between, _, freedom in seen) / own
        flips = sum(flip * freedom for _, flip, freedom in seen) / own
        likely = max(self.variance, total - flips)
        counted = own * (likely / (likely + flips)) ** 2 if likely > 0 else 0.0
        freedom = 0.0 if self._contradicted(total, flips, own) else self.freedom
        pooled = (freedom * self.variance + counted * (total - flips)) / (freedom + counted)
        return RunVariance(max(pooled, 0.0), freedom + counted)

    def _contradicted(self, total: float, flips: float, own: float) -> bool:
        """Whether runs differ by more than the prior and their flips allow."""
        expected, freedom = self.variance + flips, self.freedom
        if not expected or not self.variance:
            return False
        freedom *= (expected / self.variance) ** 2
        return bool(special.fdtrc(own, freedom, total / expected) < CONTRADICTED)


def between_runs(runs: Sequence[Result]) -> tuple[float, float, int]:
    """(variance between the runs' accuracies, what flips of examples make of it, freedom).

    runs: two at least, of one net, on the same examples. The difference estimates the run variance.
    """
    right = np.array([_right(run) for run in runs])
    flips = float(right.var(0, ddof=1).mean()) / right.shape[1]
    return float(right.mean(1).var(ddof=1)), flips, len(runs) - 1


def _right(result: Result) -> np.ndarray:
    """The outcome of each example: of classes 1.0 where the run got it right, else 0.0."""
    return np.array(result.outcomes, np.float64)


# One effect ---------------------------------------------------------------------------------------


def effect_of(
    parameter: str,
    values: tuple[Any, Any],
    pairs: Sequence[tuple[Result, Result]],
    runs: RunVariance,
) -> Effect:
    """The Effect of one edit, from pairs (before, after) of one seed, length and set of examples.

    The change is the mean over pairs and examples. Its variance is that over the examples, of each
    one's mean change, divided by their number (McNemar's, for one pair), and 2 / pairs of the run
    variance. The interval is Student's, its degrees of freedom by Satterthwaite (Biometrics
    Bulletin 1946). 'no difference': two one-sided tests at 5 % against a whole point (Schuirmann
    1987). ValueError without pairs, or where they do not answer the same examples.
    """
    if not pairs or len({len(run.outcomes) for pair in pairs for run in pair} | {0}) != 2:
        raise ValueError(f"{parameter}: {len(pairs)} pairs, not all of the same examples")
    seen = np.array([[_right(run) for run in pair] for pair in pairs])  # (pairs, 2, examples)
    changes = (seen[:, 1] - seen[:, 0]).mean(0)
    # The size of one change: 1 for answers that are right or wrong
    flip = float((seen**2).sum() / (np.abs(seen).sum() or 1))
    score = score_of(pairs[0][0].trial.net, pairs[0][0].trial.score)
    change, examples = (
        float(changes.mean()),
        _over_examples(changes, flip, 0 if score.is_error else len(pairs)),
    )
    between = 2 * runs.variance / len(pairs)
    error = sqrt(examples + between)
    freedom = _satterthwaite((examples, max(len(changes) - 1, 1)), (between, runs.freedom))
    half = float(special.stdtrit(freedom, 1 - ALPHA / 2)) * error
    p = 2 * float(special.stdtr(freedom, -abs(change) / error))
    p_same = float(special.stdtr(freedom, (abs(change) - INDIFFERENT) / error))
    ratios = [before.images_per_second / after.images_per_second for before, after in pairs]
    return Effect(
        parameter,
        *values,
        accuracy_change=change,
        low=change - half,
        high=change + half,
        time_ratio=float(np.exp(np.log(ratios).mean())),
        verdict=_word(p < ALPHA, p_same),
        runs=2 * len(pairs),
        seconds=pairs[0][0].trial.seconds or 0.0,
        p=p,
        p_same=p_same,
        score=score,
    )


def _over_examples(changes: np.ndarray, flip: float, pairs: int) -> float:
    """The variance of the mean change over the examples, of classes with one flip more, of this
    size, than was seen.

    Few flips, or none, would claim too much: half a pair is added to each cell of McNemar's table
    (Agresti & Min, Statistics in Medicine 2005), here shared out over the pairs of trainings.
    pairs: 0 for errors, which differ for every example.
    """
    if not pairs:
        return max(float(changes.var(ddof=1)) / len(changes), 1e-12) if len(changes) > 1 else inf
    n = len(changes) + 2
    squares = float((changes**2).sum()) + flip**2 / pairs
    return (squares / n - (float(changes.sum()) / n) ** 2) / n


def _satterthwaite(*parts: tuple[float, float]) -> float:
    """Degrees of freedom of a sum of variances: parts of (variance, degrees of freedom)."""
    known = sum(variance**2 / freedom for variance, freedom in parts)
    return sum(variance for variance, _ in parts) ** 2 / known if known else inf


def _word(differs: bool, p_same: float) -> VerdictWord:
    if differs:
        return "matters"
    return "no difference" if p_same < ALPHA else "not resolved"


def repeated_effect(
    name: str, values: tuple[Any, Any], pairs: Sequence[tuple[Result, Result]]
) -> Effect:
    """The Effect of one change tried under several seeds: pairs (before, after) of one seed and the
    same examples.

    How the runs of each net differ among themselves goes into the run variance.
    """
    before, after = zip(*pairs, strict=True)
    return effect_of(
        name, values, pairs, RunVariance.known((*before, *after)).updated(before, after)
    )


# From a segment of a training to its end ----------------------------------------------------------

# What is ahead after a segment of a training need not be ahead at its end: cheap steps lead early
# and lose late. Fitted by benchmarks/effects.py (benchmarks/effects.md says on what, and how well
# it holds of a set that was left out). A change counts as a share of the mistakes, those after the
# segment or those at the end. Share of it that is gone at the end, for each unit of log(whole
# training / segment)
FADES = 0.29
# Deviations of what comes instead, for each unit until nothing is left: of any change, and as a
# share of this one; their degrees of freedom
DRIFT, FADES_SPREAD, DRIFT_FREEDOM = 0.018, 0.1, 20.0
# Degrees of freedom of what was measured after the segment, about: at least as many images
MEASURED_FREEDOM = 100.0
# A net never will train that has so small a share of the other's accuracy, at steps not so much
# slower
COLLAPSED, SLOW = 0.4, 1.5


def carried(effect: Effect, mistakes: float, share: float, at_the_end: float = 1.0) -> Effect:
    """An effect of a segment of a training, with what it says of the end: verdict, p, p_same and
    what to expect.

    mistakes: the mean share of wrong answers of both nets after the segment; share: of the
    whole training that the segment is; at_the_end: the share of wrong answers by then, if known. It
    is taken to be no more than after the segment. The change itself and its interval stay as they
    were measured. It matters where it did after the segment, with the same sign.
    """
    error = (effect.high - effect.low) / 2 / float(special.ndtri(1 - ALPHA / 2))
    if trains(effect, mistakes):
        constants = FADES, DRIFT, FADES_SPREAD
        change, own, drift = faded(
            (effect.accuracy_change, error), max(mistakes, error), share, at_the_end, constants
        )
    else:
        change, own, drift = effect.accuracy_change, error**2, 0.0
    change, deviation = float(change), sqrt(own + drift) or 1e-12
    freedom = _satterthwaite((own, MEASURED_FREEDOM), (drift, DRIFT_FREEDOM))
    half = float(special.stdtrit(freedom, 1 - ALPHA / 2)) * deviation
    p = 2 * float(special.stdtr(freedom, -abs(change) / deviation))
    p_same = float(special.stdtr(freedom, (abs(change) - INDIFFERENT) / deviation))
    differs = p < ALPHA and effect.verdict == "matters"
    return replace(effect, verdict=_word(differs, p_same), p=p, p_same=p_same, expected=change,
                   expected_low=change - half, expected_high=change + half)  # fmt: skip


def faded(
    measured: tuple[Any, Any],
    mistakes: Any,
    share: Any,
    at_the_end: Any,
    constants: tuple[float, float, float],
) -> tuple[Any, Any, Any]:
    """Of changes that train, (change, standard error) each, or arrays of them: what is expected of
    them at the end, and its variance, of what was measured and of what comes instead.

    constants: FADES, DRIFT and FADES_SPREAD, or what is fitted in their place; the rest is as
    `carried` has it.
    """
    (change, error), (fades, drift, spread) = measured, constants
    length = np.minimum(-np.log(share), 1 / fades)
    left = np.minimum(at_the_end / mistakes, 1.0)
    kept = left * (1 - fades * length)
    instead = (left * length) ** 2 * ((drift * mistakes) ** 2 + (spread * change) ** 2)
    return kept * change, (kept * error) ** 2, instead


def trains(effect: Effect, mistakes: float) -> bool:
    """Whether both nets learn.

    One does not whose accuracy is far below the other's after steps about as fast.
    """
    half = effect.accuracy_change / 2
    low, high = 1 - mistakes - abs(half), 1 - mistakes + abs(half)
    # How much slower the steps of the net are that is behind
    slower = effect.time_ratio if half < 0 else 1 / effect.time_ratio
    return low > COLLAPSED * high or slower > SLOW


# Several effects ----------------------------------------------------------------------------------


def verdicts(effects: Iterable[Effect]) -> tuple[Effect, ...]:
    """The effects told together, in order: which still matter, and what to expect of each again.

    'matters' remains where Benjamini & Hochberg (JRSS B 1995) find it among all of these, with 5 %
    false ones expected; intervals stay those of one effect. No word is made stronger, and an effect
    without `p` keeps its own. `expected` is the change shrunk towards 0: of several the largest was
    also the luckiest. It is the mean under a normal prior, its variance from the moments of all
    effects (Efron & Morris, JASA 1973), and no further from what was measured than one standard
    error, so that a single large effect among nothings remains (limited translation, JASA 1972).
    """
    told = list(effects)
    found = _discoveries([effect.p for effect in told if effect.p is not None])
    widths = np.array([effect.high - effect.low for effect in told])
    errors = widths / 2 / float(special.ndtri(1 - ALPHA / 2))
    changes = np.array([effect.accuracy_change for effect in told])
    spread = max(float((changes**2 - errors**2).mean()), 0.0) if told else 0.0
    return tuple(
        replace(
            effect,
            verdict=_weakened(effect, found),
            expected=(
                _shrunk(effect.accuracy_change, error, spread)
                if effect.expected is None
                else effect.expected
            ),
        )
        for effect, error in zip(told, errors.tolist(), strict=True)
    )


def _discoveries(ps: Sequence[float]) -> float:
    """The largest p-value that Benjamini & Hochberg reject at ALPHA, or -1."""
    ordered = sorted(ps)
    rejected = [p for rank, p in enumerate(ordered, 1) if p <= ALPHA * rank / len(ordered)]
    return max(rejected, default=-1.0)


def _weakened(effect: Effect, found: float) -> VerdictWord:
    if effect.verdict != "matters" or effect.p is None or effect.p <= found:
        return effect.verdict
    return _word(False, 1.0 if effect.p_same is None else effect.p_same)


def _shrunk(change: float, error: float, spread: float) -> float:
    """The mean under a normal prior of variance `spread`, one standard error away at most."""
    mean = change * spread / (spread + error**2) if error else change
    return min(max(mean, change - error), change + error)
