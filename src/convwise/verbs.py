"""The public verbs: what `convwise.choose(...)` and its like do."""

from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from convwise import formats, notebook, study
from convwise.advice import fingerprint
from convwise.core.clock import Clock, parse_duration
from convwise.core.defaults import EVIDENCE
from convwise.core.goal import parse_goal
from convwise.core.parameters import at_least
from convwise.core.places import CACHE_SIZE, refuse_empty
from convwise.core.progress import Watcher
from convwise.core.records import Advice, Fingerprint
from convwise.core.task import kind_of
from convwise.core.verb import verb
from convwise.feed import Feed
from convwise.images.loading import Images, Within
from convwise.images.loading import read as read_images
from convwise.output import choice, deliver, predicting
from convwise.output.choice import Choice
from convwise.output.writer import Writer
from convwise.plan import planned, within_latency
from convwise.session import held, tidied, written
from convwise.settings import TRAINING_SHARE, Settings, folder_for, validate
from convwise.training.lab import Lab
from convwise.training.machine import ThisMachine
from convwise.training.runners import RUNNERS

Folder = str | os.PathLike[str]  # that `choose` wrote: its path, or a Choice


@verb
def read(
    source: Any,
    *,
    test: float | Literal["none"] | None = None,
    valid: float = 0.2,
    seed: int = 0,
    classes_from: str = "folder",
    skip_empty_classes: bool = False,
    follow_links: bool = False,
    cache_size: str | int = CACHE_SIZE,
    task: str = "classify",
) -> Images:
    """The images of `source`, decoded, checked and split as in `choose`, with the test part sealed
    (held out).

    test, valid: the shares to seal and to validate on if the source has no such part; 'none' seals
    nothing. classes_from: where the class of each file comes from: 'folder', its 'name', or a
    'csv'. skip_empty_classes: leave out classes that have no readable image, instead of stopping.
    follow_links: read files outside the folder that links point to. (All of these:
    images.sources.Reading.) cache_size: disk space for decoded files, shared by all commands and
    runs: '4GB', '500MB', or 0 for none. task: 'classify' reads a class for each image, 'regress'
    one number or several.
    """
    how = _reading(task, classes_from, skip_empty_classes, follow_links)
    how |= {"test": test, "valid": valid, "seed": seed, "within": Within(cache_size=cache_size)}
    return read_images(source, **how)


def _reading(
    task: str, classes_from: str, skip_empty_classes: bool, follow_links: bool
) -> dict[str, Any]:
    """What the options of a verb are called where images are read."""
    return {
        "task": task,
        "classes_from": classes_from,
        "skip_empty_classes": skip_empty_classes,
        "follow_links": follow_links,
    }


@verb
def choose(
    source: Any,
    *,
    budget: str | float = "10m",
    goal: str | None = None,
    task: str = "classify",
    test: float | Literal["none"] | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    workers: int | None = None,
    trials: int | None = None,
    evidence: float = EVIDENCE,
    runner: str = "local",
    against: Any = (),
    views: str | int = "auto",
    command: str = "",
    watcher: Watcher | None = None,
    started: float | None = None,
    classes_from: str = "folder",
    skip_empty_classes: bool = False,
    follow_links: bool = False,
    cache_size: str | int = CACHE_SIZE,
) -> Choice:
    """Choose a network for the images of `source` within `budget`, write it with its evidence, and
    return it.

    source: a path or name as on the command line, arrays (x, y), a torch Dataset or a
    tf.data.Dataset. budget: wall-clock time, '90s', '10m', or seconds. goal: as on the command
    line; None: the best accuracy, or the smallest error. task: what to learn, 'classify' for
    classes or 'regress' for one number or several. test: the share to seal if the source has no
    test part (None: 0.2), or 'none'.
    out: the folder to write, by default convwise-NAME, after the images. seed: for every random
    draw. workers: processes that train side by side, by default one per core, at most 8. trials:
    run this many trials instead of going by the clock. evidence: the share of the computing time
    for trials of other values, 0 to 0.5. runner: where trials run. against: a model as `check`
    takes it, or the name of a well-known one ('lenet5', 'keras-mnist', 'expert'), or a list of
    these: each is trained as well, and compared. views: 2 averages the network's answers to an
    image and to its mirror image, at twice the macs; 1 does not; 'auto' takes 2 if the network was
    trained on mirrored images, unless the goal asks for a low cost or 2 is certainly worse.
    command: the command line to record, if there was one. watcher: called with the progress; by
    default a notebook shows it. started: when the budget began (time.monotonic); None: now.
    classes_from, skip_empty_classes, follow_links, cache_size: as in `read`. If a tenth of the
    budget is not enough to read all files, only part of them is read, each class in proportion.
    """
    begun = time.monotonic() if started is None else started
    wanted = parse_goal(goal, kind_of(task).scored)
    others = tuple(against) if isinstance(against, (list, tuple)) else (against,)
    settings = Settings(source, parse_duration(budget), wanted, task, test, folder_for(source, out),
                        seed,
                        workers, trials, evidence, runner, command, classes_from,
                        skip_empty_classes,
                        follow_links, cache_size, others, views)  # fmt: skip
    validate(settings)
    clock = Clock(settings.budget, begun)
    feed = Feed.of(settings, clock, watcher or notebook.watcher())
    lab = Lab(ThisMachine(), clock, feed.tell, RUNNERS[settings.runner])
    with held(settings.out), tidied(settings), written(settings), feed, closing(Writer()) as writer:
        return choice.load(study.run(settings, lab, write=partial(deliver.write, export=writer)))


@verb
def load(folder: Folder) -> Choice:
    """The choice in a folder that `choose` wrote. UnusableInput where it is not one."""
    return choice.load(_path(folder))


@verb
def look(
    source: Any,
    *,
    budget: str | float = "10m",
    test: float | Literal["none"] | None = None,
    seed: int = 0,
    classes_from: str = "folder",
    skip_empty_classes: bool = False,
    follow_links: bool = False,
    cache_size: str | int = CACHE_SIZE,
    task: str = "classify",
) -> Fingerprint:
    """The fingerprint of the images of `source` (or of Images already read), without their test
    part.

    budget: that of the study it is for; a short one looks at fewer images. From a large set of
    files, only as many are read as are measured; how many there are is taken from the listing. The
    rest: as in `read`.
    """
    at_least("--seed", seed, 0)
    how = _reading(task, classes_from, skip_empty_classes, follow_links)
    seconds = parse_duration(budget)
    images = _to_look(source, seconds, cache_size, test=test, seed=seed, **how)
    about: dict[str, Any] = {"counts": images.counts(), "numbers": images.numbers}
    return fingerprint.look(images.train, images.classes, seed=seed, budget=seconds, **about)


def _to_look(source: Any, seconds: float, cache_size: str | int, **how: Any) -> Images:
    """No more of a large set of files than is measured for a study of so many seconds; or Images as
    they are.
    """
    if isinstance(source, Images):
        return source
    within = Within(seconds, most=fingerprint.wanted(seconds), cache_size=cache_size)
    return read_images(source, within=within, **how)


@verb
def advise(
    source: Any,
    *,
    goal: str | None = None,
    budget: str | float = "10m",
    seed: int = 0,
    classes_from: str = "folder",
    skip_empty_classes: bool = False,
    follow_links: bool = False,
    cache_size: str | int = CACHE_SIZE,
    task: str = "classify",
) -> Advice:
    """What to start with for the images of `source`, without training, and what the budget is
    enough for: its `plan`.

    budget, goal: what `choose` would be given. classes_from, skip_empty_classes, follow_links,
    cache_size, task: as in `read`.
    """
    how = _reading(task, classes_from, skip_empty_classes, follow_links)
    seconds = parse_duration(budget)
    images = _to_look(source, seconds, cache_size, seed=seed, **how)
    wanted = parse_goal(goal, kind_of(images.task).scored)
    facts, host = look(images, budget=seconds, seed=seed), ThisMachine()
    advised = within_latency(facts, wanted, host.pace, TRAINING_SHARE * seconds, host)
    train, lab = sum(images.counts()), Lab(host, Clock(seconds, time.monotonic()))
    sizes = train, round(train * len(images.valid) / len(images.train))
    return replace(advised, plan=str(planned(advised, sizes, lab, host.slowness())))


@verb
def predict(
    folder: Folder, images: Any, *, follow_links: bool = False, cache_size: str | int = CACHE_SIZE
) -> list[dict[str, Any]]:
    """A row for each image: path, label, and the probability of each class.

    follow_links, cache_size: as in `read`.
    """
    cores = ThisMachine().cores
    return predicting.predict(
        _path(folder), images, cores, follow_links=follow_links, cache_size=cache_size
    )


@verb
def export(folder: Folder, to: str, *, out: str | Path | None = None) -> list[Path]:
    """Write the network in `folder` again, in one format, into `out` (by default the folder
    itself): the files written.

    to: one of formats.FORMATS, such as 'keras' or 'onnx'. The written model is checked against the
    trained network.
    """
    return formats.export(_path(folder), to, out)


@verb
def report(folder: Folder) -> Path:
    """Where the report of a chosen network is: a single HTML file that works offline."""
    return load(folder).report()


def _path(folder: Folder) -> Path:
    """The folder's path; UnusableInput where its name is empty."""
    refuse_empty(folder, "the folder", "a folder that `convwise choose` wrote")
    return Path(folder)
