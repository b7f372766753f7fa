"""Images, nets -> a bench for one experiment: nets fitted, parts stored, workers timed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from math import prod, sqrt
from pathlib import Path

import numpy as np

from convwise.advice.advising import advise
from convwise.advice.fingerprint import look
from convwise.advice.recipes import shift_px
from convwise.advice.target import target_of
from convwise.core.calculus import analyse
from convwise.core.clock import Clock
from convwise.core.goal import Goal
from convwise.core.net import Net
from convwise.core.problems import ConvwiseError, UnusableInput
from convwise.core.progress import Progress
from convwise.core.records import Pace, Recipe, Trial
from convwise.core.temporary import temporary_folder
from convwise.evidence.experiment import NO_TIME, experiment, least_seconds, too_short
from convwise.evidence.fitting import Fitted, fitted
from convwise.evidence.records import Base, Bench, Edit, Found, Measured, Record, Terms
from convwise.formats import format_module
from convwise.images.decode import with_channels
from convwise.images.loading import Images, Part
from convwise.training import batches
from convwise.training.lab import Lab
from convwise.training.runners import Runner

MOST_BYTES = 2**28  # of the stored pixels of each part
STEP_BYTES = 2**31  # of the activations of one training step
SCORING_SHARE = 1 / 32  # of the time, at most, for one validation
LEAST_VALID = 50
MOMENT_IMAGES = 200
# Share of the time for fitting and building edits: of a large net with many there is no end
PREPARING_SHARE = 0.05
# The most of one epoch before the plan, which tells how fast trainings are here
WARM_SECONDS, WARM_IMAGES = 2.0, 1024
HOPELESS = 3.0  # a budget is refused without it where even the prediction is so many times over


def measure_on(images: Images, base: Base, edits: Sequence[Edit], terms: Terms, lab: Lab,
               record: Record | None = None) -> Found:  # fmt: skip
    """The measured effect of each edit of `base` on `images`, in a temporary folder, by workers of
    its own.

    The nets get an output for each class, or one for a number, and scaling in front where they have
    none. UnusableInput, ShapeError or Unsupported where the base cannot be trained on such images;
    TooShort as in `experiment`.
    """
    channels = base.net.input_shape[2]
    moments = _moments(images, channels)
    original = _prepared(base.net, images, moments)
    fit: list[Edit] = []
    refused: dict[int, Measured] = {}
    until = lab.clock.elapsed + PREPARING_SHARE * lab.clock.budget
    for number, edit in enumerate(edits):
        if fit and lab.clock.elapsed > until:
            refused[number] = Measured(edit, notes=(NO_TIME,))
            continue
        try:
            fit.append(replace(edit, net=_prepared(edit.net, images, moments, channels).net))
        except ConvwiseError as error:
            refused[number] = Measured(
                edit, notes=(f"the edited network cannot be trained: {error}",)
            )
    notes, found = list(original.notes), Found(())
    if late := sum(one.notes == (NO_TIME,) for one in refused.values()):
        notes.append(
            f"there was no time for {late} of {len(edits)} changes: use --parameter to name the"
            " ones you want"
        )
    if fit:
        try:
            with _opened(images, replace(base, net=original.net), fit, terms, lab) as made:
                notes += made.notes
                found = experiment(made.base, made.edits, made.bench, terms, record)
        except KeyboardInterrupt:
            notes.append("interrupted before any measurement finished")
            found = Found(tuple(Measured(edit, notes=(NO_TIME,)) for edit in fit), interrupted=True)
    rest = iter(found.measured)
    measured = tuple(
        refused.get(n) or replace(next(rest), edit=edit) for n, edit in enumerate(edits)
    )
    return replace(found, measured=measured, notes=(*notes, *found.notes))


# Nets ---------------------------------------------------------------------------------------------


# Mean and variance of pixels / 255, per channel
Moments = tuple[tuple[float, ...], tuple[float, ...]]


def _moments(images: Images, channels: int) -> Moments:
    if channels not in (1, 3):
        raise UnusableInput(
            "the network", f"reads {channels} channels", "1 or 3: the images are grey or colour"
        )
    step = -(-len(images.train) // MOMENT_IMAGES)
    pixels = with_channels(np.asarray(images.train.pixels[::step]), channels) / 255
    mean, variance = pixels.mean((0, 1, 2)), pixels.var((0, 1, 2)).clip(1e-6)
    return tuple(mean.tolist()), tuple(variance.tolist())


def _prepared(net: Net, images: Images, moments: Moments, channels: int | None = None) -> Fitted:
    """The net fitted to the images and buildable; an edited one must read as many `channels`."""
    if channels and net.input_shape[2] != channels:
        expected = f"{channels}, like the network itself"
        raise UnusableInput("the edited network", f"reads {net.input_shape[2]} channels", expected)
    target = target_of(images.numbers, images.train.labels) if images.numbers else None
    found = fitted(net, len(images.classes), *moments, target)
    format_module("torch").build(found.net, logits=True)
    return found


# The bench ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Made:
    """A bench, what is trained there, and what was changed for that to be possible."""

    bench: Bench
    base: Base
    edits: tuple[Edit, ...]
    notes: tuple[str, ...]


@contextmanager
def _opened(
    images: Images, base: Base, edits: Sequence[Edit], terms: Terms, lab: Lab
) -> Iterator[_Made]:
    """A temporary folder, and workers that have started; all nets are fitted."""
    workers, nets = lab.host.workers, [base.net, *(edit.net for edit in edits)]
    with (
        temporary_folder() as folder,
        closing(lab.start(folder, images.task, workers)) as runner,
    ):
        left = max(lab.clock.left, 0.0)
        lab.watcher(
            Progress("measure", 0, 0, None, left, "measuring how fast training is on this machine")
        )
        pace = lab.host.pace
        recipe, notes = in_memory(
            base.recipe or _advised(images, pace, terms, lab.clock, base.net), nets
        )
        base = replace(base, recipe=recipe)
        tried = [
            replace(edit, recipe=edit.recipe and in_memory(edit.recipe, nets)[0]) for edit in edits
        ]
        store = _Store(folder, images, base.net.input_shape[2], terms.seed)
        bench = _bench(store, runner, workers, pace, lab, nets)
        if (seconds := least_seconds(base, tried, bench)) > HOPELESS * lab.clock.left:
            raise too_short(lab.clock, seconds)
        few = int(min(WARM_IMAGES, max(WARM_SECONDS / _seconds(base.net, pace), 16)))
        pace = _timed(runner, replace(store, most=(few, few // 4)), base.net, recipe, workers, pace)
        yield _Made(_bench(store, runner, workers, pace, lab, nets), base, tuple(tried), notes)


@dataclass(frozen=True)
class _Store:
    """Puts the first `most` images of both parts, in a random order, into the folder."""

    folder: Path
    images: Images
    channels: int
    seed: int
    most: tuple[int, int] = (2**31, 2**31)

    def __call__(self, net: Net) -> None:
        for name, most in zip(("train", "valid"), self.most, strict=True):
            rng = np.random.default_rng(self.seed)
            part = _chosen(getattr(self.images, name), most, rng).with_channels(self.channels)
            batches.prepare(self.folder, net, name, part)


def _chosen(part: Part, count: int, rng: np.random.Generator) -> Part:
    if count >= len(part):
        return part
    rows = np.sort(rng.permutation(len(part))[:count])
    return part[rows]


def _bench(
    store: _Store, runner: Runner, workers: int, pace: Pace, lab: Lab, nets: Sequence[Net]
) -> Bench:
    """With as many validation images as the first net, the unchanged one, is scored on in time,
    and as many of both parts as all nets' inputs can be held of.
    """
    room = MOST_BYTES // max(prod(net.input_shape) for net in nets)
    image_seconds, valid = _seconds(nets[0], pace), len(store.images.valid)
    while valid > LEAST_VALID and valid * image_seconds / 3 > SCORING_SHARE * lab.clock.budget:
        valid //= 2  # by halves, so that the same budget finds the same number again
    some = replace(store, most=(min(len(store.images.train), room), min(valid, room)))
    labels = _chosen(store.images.valid, some.most[1], np.random.default_rng(store.seed)).labels
    return Bench(store.folder, runner, workers, pace, some.most[0], labels, some, lab.clock,
                 lab.watcher, store.images.task)  # fmt: skip


def _seconds(net: Net, pace: Pace) -> float:
    """Predicted seconds of one training image."""
    total = analyse(net).total
    return pace.seconds(total.macs, total.activation_bytes)


def _timed(
    runner: Runner, store: _Store, net: Net, recipe: Recipe, workers: int, pace: Pace
) -> Pace:
    """The pace as measured: one epoch of a few images of the net as it is, by all workers at once.

    It is one counted epoch, which a runner never ends for taking long: when it is over, all have
    started.
    """
    store(net)
    trials = [
        Trial(f"warm{n}", "warm", {}, net, recipe, epochs=1, seed=store.seed)
        for n in range(workers)
    ]
    done = [1 / r.images_per_second for r in runner.run(trials) if r.status == "done"]
    ratio = float(np.mean(done)) / _seconds(net, pace) if done else 1.0
    return Pace(ratio * pace.per_mac, ratio * pace.per_byte, ratio * pace.per_image)


def _advised(images: Images, pace: Pace, terms: Terms, clock: Clock, net: Net) -> Recipe:
    """What holds of the images for any net: the batch, the shift, the classes' weights.

    The optimizer is AdamW: Muon, whitening and identity start are for nets that the Space grows.
    """
    facts = look(
        images.train, images.classes, seed=terms.seed, budget=clock.budget, numbers=images.numbers
    )
    advised = advise(facts, Goal(), pace, clock.budget, 1).recipe
    shift = shift_px(net.shrunk.input_shape[:2])
    batch = min(advised.batch_size, 128)
    smoothing = min(advised.label_smoothing, Recipe.label_smoothing)  # none of a number
    return Recipe(
        batch_size=batch,
        shift_px=shift,
        label_smoothing=smoothing,
        class_weights=advised.class_weights,
    )


def in_memory(recipe: Recipe, nets: Sequence[Net]) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe with a batch whose activations and their gradients fit into STEP_BYTES."""
    each = max(analyse(net).total.activation_bytes for net in nets)
    batch = recipe.batch_size
    while batch > 8 and 2 * each * batch > STEP_BYTES:
        batch //= 2
    if batch == recipe.batch_size:
        return recipe, ()
    note = (
        f"batches of {batch} images instead of {recipe.batch_size}, because of the memory that a"
        " step needs"
    )
    rate = recipe.learning_rate * sqrt(batch / recipe.batch_size)
    return replace(recipe, batch_size=batch, learning_rate=rate), (note,)
