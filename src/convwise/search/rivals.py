"""Beside others: the chosen network and networks that were named, trained alike from the beginning,
and compared.

What a long training gave says nothing against a short one. So the chosen network is trained anew as
well, for as long as each of the others, on the same images, in the same order; they are compared
example by example.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from convwise.core.net import Net
from convwise.core.records import Comparison, Recipe, Result, Trial
from convwise.core.score import score_of
from convwise.evidence.bench import in_memory
from convwise.evidence.effects import repeated_effect
from convwise.evidence.paired import standard_error
from convwise.search.phases import BESIDE, Search, Wave
from convwise.search.race import WHOLE

FEW_VIEWS = 1.0  # of each image: a training that saw them less often says little of its network


@dataclass(frozen=True)
class Rival:
    """A network to be compared with.

    How it was named, what it is called, its net on these images, what was changed.
    """

    model: str
    title: str
    net: Net
    notes: tuple[str, ...] = ()


def alike(recipe: Recipe, chosen: Net, net: Net) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe of the chosen net for another one, without what is for the nets of the space
    alone.

    Those begin whitened or as an identity, and Muon's rates are for filters that a normalisation
    follows: AdamW trains any net. Shifts are the same share of the side.
    """
    shift = max(
        1,
        round(
            recipe.shift_px * min(net.shrunk.input_shape[:2]) / min(chosen.shrunk.input_shape[:2])
        ),
    )
    usual = replace(recipe, optimizer="adamw", whitened="", identity_start=False, shift_px=shift)
    return in_memory(usual, (net,))


def waves(search: Search, rivals: Sequence[Rival], chosen: Result) -> Iterator[Wave]:
    """All of them under one seed, then under others where workers are left and there is time."""
    if not rivals:
        return
    allowed, ran = search.budget.beside(len(rivals)), search.tried(BESIDE)
    seconds = ran[0].trial.seconds if ran else allowed.seconds
    ended, workers = {result.trial.id for result in ran}, search.budget.workers
    planned = [trial for trial in _trials(search, rivals, chosen, seconds) if trial.id not in ended]
    for number in range(allowed.waves):
        if wave := planned[number * workers : (number + 1) * workers]:
            yield Wave(BESIDE, tuple(wave), number, allowed.waves)


def _trials(
    search: Search, rivals: Sequence[Rival], chosen: Result, seconds: float | None
) -> list[Trial]:
    """One of each network for each seed; the same seed is the same order of the images."""
    values, recipe, own = chosen.trial.configuration, chosen.trial.recipe, chosen.trial.net
    arms = [
        (values, own, recipe),
        *(({}, rival.net, alike(recipe, own, rival.net)[0]) for rival in rivals),
    ]
    epochs = BESIDE.epochs if seconds is None else None
    first = Trial(
        "", BESIDE.name, values, own, recipe, seconds, epochs, 1000 * search.seed, span=WHOLE
    )
    return [
        replace(first, id=f"{BESIDE.name}-{'chosen' if given else 'other'}-{net.id}-{seed}",
        configuration=given,
                net=net, recipe=how, seed=first.seed + seed)
        for seed in range(max(search.budget.workers // len(arms), 1))
        for given, net, how in arms
    ]  # fmt: skip


def compared(
    rivals: Sequence[Rival], chosen: Result, results: Sequence[Result], images: int
) -> tuple[Comparison, ...]:
    """What became of each; images: to train on.

    The effect is that of the chosen network in the other's place.
    """
    ran = [r for r in results if r.trial.phase == BESIDE.name]
    ours = {
        r.trial.seed: r
        for r in ran
        if r.trial.configuration and r.trial.net.id == chosen.trial.net.id
    }
    theirs = [
        [r for r in ran if not r.trial.configuration and r.trial.net.id == rival.net.id]
        for rival in rivals
    ]
    return tuple(
        _compared(rival, chosen, (ours, ran), images)
        for rival, ran in zip(rivals, theirs, strict=True)
    )


def _compared(rival: Rival, chosen: Result, ran: tuple[Mapping[int, Result], Sequence[Result]],
              images: int) -> Comparison:  # fmt: skip
    """ran: the trainings of the chosen network by seed, and those of the other."""
    ours, theirs = ran
    both = [(r, ours.get(r.trial.seed)) for r in theirs]
    ended = [(r, own) for r, own in both if own and r.status == own.status == "done"]
    # Only pairs of which neither was cut short
    pairs = [(r, own) for r, own in ended if not r.reason and not own.reason]
    notes = (*rival.notes, *alike(chosen.trial.recipe, chosen.trial.net, rival.net)[1])
    cost = {name: value for r in theirs for name, value in r.cost.items()}
    told = Comparison(rival.model, rival.title, cost, chosen.cost, notes=notes,
                      told=score_of(rival.net, chosen.trial.score))  # fmt: skip
    if not pairs:
        failed = [r.reason for r in theirs if r.status == "failed"]
        return replace(
            told,
            failed=(
                f"its training failed ({failed[0]})" if failed else "there was no time to train it"
            ),
        )
    effect = repeated_effect("network", (rival.title, "the chosen network"), pairs)
    scores = [[r.score or 0.0 for r in side] for side in zip(*pairs, strict=True)]
    seen = pairs[0][0].history[-1].images / images if pairs[0][0].history else 0.0
    if seen < FEW_VIEWS:
        notes += (f"it saw each image only {seen:.1f} times, too few to say much about it",)
    means = [sum(side) / len(side) for side in scores]
    first, own = pairs[0]
    return replace(told, score=means[0], chosen_score=means[1], effect=effect,
                   seconds=effect.seconds, standard_errors=(standard_error(first),
                   standard_error(own)), images=len(first.outcomes), notes=notes)  # fmt: skip
