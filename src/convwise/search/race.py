"""The race: one net trains on without a break; beside it others take its first steps, and are
compared at equal time.

What is ahead after a few seconds need not be ahead at the end: nets whose steps are cheap lead
early and lose late (docs/findings.md, 'judging early turns effects round'). So the advised net
keeps its place unless it hardly learns at all, and most of the time goes into one training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from convwise.core.configuration import Configuration
from convwise.core.intervals import Z95
from convwise.core.records import Advice, Effect, Recipe, Result, Trial
from convwise.evidence.paired import paired_difference
from convwise.search import STRATEGIES
from convwise.search.phases import RACE, TEACHER, Allowed, Phase, Search, Wave, last_number
from convwise.search.ranking import tried

FLIP = "training.flip"
PROPOSALS = 100  # changes at most, of which those come first that can be compared
LEAST_IMAGES = 2000  # that a segment must see before two of them are compared: less tells nothing
FLIP_SEGMENTS = 2  # that the mirrored and the unmirrored training take before one is chosen
HARMLESS = 0.05  # of the score that may be lost where mirroring is harmless: see `leader`
# The same as a share of what it has right: a net that has learnt little loses little, whatever a
# mirror image is
HARMLESS_SHARE = 0.1
WHOLE = 0.0, 1.0  # the span of a training that nothing goes on from
# Share of a step's time: a change whose steps are cheaper is not adopted for an early lead
SLOWER = 0.95


@dataclass(frozen=True)
class Entry:
    """One training to run next: a configuration, and the result it continues, or None at first."""

    configuration: Configuration
    after: Result | None = None


def waves(search: Search) -> Iterator[Wave]:
    """Wave after wave, as long as the budget allows."""
    budget, ran = search.budget, search.tried(RACE)
    allowed = budget.race(len(ran))
    before = last_number(ran)
    number = done = 0
    while most := allowed.room(budget.workers, number, done):
        entries = wave(search.advice, search.tried(RACE), budget.workers)[:most]
        if not entries:
            return
        name, said = (
            f"race-{before + number + 1}",
            (str(budget) if allowed.seconds and not number else ""),
        )
        trials = [
            _entered(search, entry, f"{name}-{slot}", allowed)
            for slot, entry in enumerate(entries, 1)
        ]
        yield Wave(RACE, tuple(trials), number, allowed.waves, said)
        if allowed.seconds and not any(tells([result]) for result in search.tried(RACE)):
            return  # slower than was predicted: what there is goes into one network
        number, done = number + 1, done + len(entries)


def _entered(search: Search, entry: Entry, id: str, allowed: Allowed) -> Trial:
    """The next segment of a training: as much of the schedule as its time is of the whole."""
    begun = entry.after.trial.span[1] if entry.after else 0.0
    span = (begun, min(begun + search.budget.segment_share(allowed), 0.99))
    trial = search.trial(id, RACE, entry.configuration, allowed.seconds)
    return replace(trial, span=span, resumes=entry.after.trial.id if entry.after else "")


def to_the_end(search: Search, chosen: Result, phase: Phase, seconds: float | None,
               part: Literal["train", "all"] = "train") -> Trial:  # fmt: skip
    """Go on with a training to the end of its schedule, by all workers together.

    One that has come to its end already goes on at the rate that a training so much longer has
    there: where little time is left, that is a low one, and nothing is lost.
    """
    ran, of_race = search.tried(RACE), chosen.trial.phase in (RACE.name, TEACHER.name)
    behind = segments(ran, chosen.trial.key) if of_race else []
    return replace(
        search.trial(phase.name, phase, onwards(search.advice, ran, chosen), seconds),
        part=part,
        threads=search.budget.threads,
        resumes=chosen.trial.id,
        span=(search.budget.trained_share(chosen, behind, seconds), 1.0),
        teacher=chosen.trial.teacher,
    )


def wave(advice: Advice, results: Sequence[Result], workers: int) -> list[Entry]:
    """What runs next, side by side on `workers`: the leader's next segment, then others.

    With one worker the leader waits while others take its first steps. What has failed is not run
    again.
    """
    leading = leader(advice, results)
    mine, broken = segments(results, leading.key), failed(results)
    runs = leading.key not in broken and (workers > 1 or not mine)
    entries = [Entry(leading, mine[-1] if mine else None)] if runs else []
    if (mirrored := twin(advice)) and not settled(advice, results):
        theirs = segments(results, mirrored.key)
        if workers == 1 and mine and len(theirs) >= len(mine):
            return [Entry(leading, mine[-1])]
        entries.append(Entry(mirrored, theirs[-1] if theirs else None))
    elif mirrored and not entries and not mine and mirrored.key not in broken:
        entries.append(Entry(mirrored))  # the advised training failed before its twin began
    left = workers - len(entries)
    if left > 0:
        beside = STRATEGIES[RACE.strategy](
            replace(advice, configuration=leading), results, PROPOSALS, 0
        )
        alike = [each for each in beside if each.training_flip == leading.training_flip]
        alike.sort(key=lambda each: not _would_tell(each, leading, mine))
        entries += [Entry(each) for each in alike[:left]]
    return entries[:workers]


def _would_tell(change: Configuration, leading: Configuration, mine: Sequence[Result]) -> bool:
    """Whether a first segment of the change will see enough images to be compared, by what those of
    the leader saw in the same time: an image takes about as long as it has macs.
    """
    seen = [r.history[-1].images for r in mine if r.trial.seconds is not None and r.history]
    share = leading.cost["macs"] / change.cost["macs"]
    return not seen or share * fmean(seen) >= LEAST_IMAGES


def segments(results: Sequence[Result], key: tuple[str, Recipe]) -> list[Result]:
    """The finished segments of one training, in order; a short answer to an interrupt is none.

    key: its trials'.
    """
    mine = [r for r in ended(results) if r.trial.key == key and r.trial.span != WHOLE]
    return sorted(mine, key=lambda r: r.trial.span)


def ended(results: Sequence[Result]) -> list[Result]:
    """What the race trained that has a score."""
    return [
        r
        for r in results
        if r.trial.phase == RACE.name and r.status == "done" and r.score is not None
    ]


def twin(advice: Advice) -> Configuration | None:
    """The advised configuration with mirrored training images, where the space has them."""
    if not any(each.name == FLIP and True in each.values for each in advice.space.hyperparameters):
        return None
    return advice.space.fit({**advice.configuration, FLIP: not advice.configuration.training_flip})


def failed(results: Sequence[Result]) -> set[tuple[str, Recipe]]:
    """The nets of which a training failed, each with its recipe."""
    return tried(r for r in results if r.status == "failed")


def settled(advice: Advice, results: Sequence[Result]) -> bool:
    """Whether the mirrored and unmirrored training can be compared, or one of them has failed."""
    pair = [advice.configuration, twin(advice) or advice.configuration]
    if any(each.key in failed(results) for each in pair):
        return True
    return all(len(segments(results, each.key)) >= FLIP_SEGMENTS for each in pair)


def leader(advice: Advice, results: Sequence[Result]) -> Configuration:
    """The advised configuration, or its mirrored twin where the trials say that mirroring is
    harmless.

    It is harmless where the net that never saw a mirrored image answers mirrored ones within
    HARMLESS as well as the others: a mirror image is then one more image of its class, not another
    class or none. Mirrored training is behind early, because it learns more, and gains late; so it
    may be behind in its first segments, but not surely by more than HARMLESS (docs/findings.md, 'is
    a mirror image another image of its class').
    """
    mirrored = twin(advice)
    if mirrored is None:
        return advice.configuration
    mine, theirs = segments(results, advice.configuration.key), segments(results, mirrored.key)
    if not mine and theirs:  # the advised training failed
        return mirrored
    if min(len(mine), len(theirs)) < FLIP_SEGMENTS:
        return advice.configuration
    plain, flipped = mine[FLIP_SEGMENTS - 1], theirs[FLIP_SEGMENTS - 1]
    if not (tells(mine[:FLIP_SEGMENTS]) and tells(theirs[:FLIP_SEGMENTS])):
        return advice.configuration
    change, error = paired_difference(flipped, plain)
    behind = change + Z95 * error < -HARMLESS
    return mirrored if mirrored_alike(mine[:FLIP_SEGMENTS]) and not behind else advice.configuration


def onwards(advice: Advice, results: Sequence[Result], chosen: Result) -> Configuration:
    """What the rest of the chosen training learns: its configuration, on mirrored images as well
    where they are safe.

    Where there was no time for the mirrored twin, what the net says of mirrored images decides
    alone. So early it does: after 2,000 images hand signs, digits and letters lose half of their
    right answers or more, photos of clothing, cells and infrared modules hardly any
    (docs/findings.md, 'is a mirror image another image of its class').
    """
    given, mirrored = advice.space.fit(chosen.trial.configuration), twin(advice)
    mine = segments(results, chosen.trial.key)
    asked = mirrored and not given.training_flip and not segments(results, mirrored.key)
    safe = asked and tells(mine) and mirrored_alike(mine[-1:])
    return advice.space.fit({**given, FLIP: True}) if safe else given


def mirrored_alike(results: Sequence[Result]) -> bool:
    """Whether a net that never saw a mirrored image always answers those as well as others."""
    halves = [result.views for result in results]
    asked, right = sum(len(as_is) for as_is, _ in halves), sum(sum(as_is) for as_is, _ in halves)
    lost = right - sum(sum(mirrored) for _, mirrored in halves)
    return bool(asked) and lost <= min(HARMLESS * asked, HARMLESS_SHARE * right)


def tells(run: Sequence[Result]) -> bool:
    """Whether a training saw enough images in these segments, one after the other, to compare."""
    counted = all(result.trial.seconds is None for result in run)  # as long as was asked for
    seen = [result.history[-1].images for result in run if result.history]
    return bool(seen) and (counted or sum(seen) >= LEAST_IMAGES)


def adopted(effects: Sequence[Effect]) -> Effect | None:
    """The change that takes the leader's place.

    Surely better at the end, so that the leader hardly learns at all.
    """
    better = [e for e in effects if e.verdict == "matters" and e.low > 0 and e.time_ratio >= SLOWER]
    return max((e for e in better if e.parameter != FLIP), key=lambda e: e.low, default=None)
