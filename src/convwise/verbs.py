"""The public verbs: what `convwise.choose(...)` and its like do."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Literal

from convwise import formats, notebook, study
from convwise.advice.fingerprint import look as look_at
from convwise.core.clock import Clock, parse_duration
from convwise.core.goal import parse_goal
from convwise.core.progress import Watcher
from convwise.core.records import Advice, Fingerprint
from convwise.core.task import kind_of, task_of
from convwise.core.verb import verb
from convwise.feed import Feed
from convwise.images.loading import Images
from convwise.images.loading import read as read_images
from convwise.output import choice, deliver
from convwise.output.choice import Choice
from convwise.plan import within_latency
from convwise.session import held, tidied, written
from convwise.settings import TRAINING_SHARE, Settings, checked, folder_for
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
    task: str = "classify",
) -> Images:
    """The images of `source`, decoded, checked and split as `choose` does it, the test part sealed.

    test, valid: the shares to seal and to validate on, where the source has no such part; 'none' seals nothing.
    classes_from: what tells the class of a file: 'folder', its 'name', or a 'csv'. skip_empty_classes: leave out
    classes without a readable image, instead of refusing. follow_links: read what links point to outside of
    the folder. (All of them: images.sources.Reading.) task: 'classify' reads a class for each image, 'regress' a
    number.
    """
    how: dict[str, Any] = {
        "target": kind_of(task).target,
        "classes_from": classes_from,
        "skip_empty_classes": skip_empty_classes,
        "follow_links": follow_links,
    }
    return read_images(source, test=test, valid=valid, seed=seed, **how)


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
    evidence: float = 0.1,
    runner: str = "local",
    against: Any = (),
    command: str = "",
    watcher: Watcher | None = None,
    started: float | None = None,
    classes_from: str = "folder",
    skip_empty_classes: bool = False,
    follow_links: bool = False,
) -> Choice:
    """Choose a network for the images of `source` inside `budget`, write it with its evidence, and return it.

    source: a path or name as for the command line, arrays (x, y), a torch Dataset or a tf.data.Dataset.
    budget: wall clock, '90s', '10m', or seconds. goal: as for the command line; None: the best accuracy, or the least
    error. task: what is learnt, 'classify' for classes or 'regress' for a number.
    test: the share to seal where the source has no test part (0.2 where it is None), or 'none'.
    out: the folder to write, by default convwise-NAME of the images. seed: of every random draw.
    workers: processes that train side by side, by default one per core, at most 8. trials: so many trials
    instead of going by the clock. evidence: the share of the core time for trials of other values, 0 to 0.5.
    runner: where trials run. against: a model as `check` takes it, or the name of one that people
    know ('lenet5', 'keras-mnist', 'expert'), or a list of them: each is trained as well, and compared. command: the
    command line to note, if there was one. watcher: is told what goes on; by default that is shown where a
    notebook runs this. started: when the budget began (time.monotonic), now where it is None. classes_from,
    skip_empty_classes, follow_links: as in `read`.
    """
    begun = time.monotonic() if started is None else started
    wanted = parse_goal(goal, kind_of(task).scored)
    others = tuple(against) if isinstance(against, (list, tuple)) else (against,)
    settings = Settings(source, parse_duration(budget), wanted, task, test, folder_for(source, out), seed,
                        workers, trials, evidence, runner, command, classes_from, skip_empty_classes,
                        follow_links, others)  # fmt: skip
    checked(settings)
    clock = Clock(settings.budget, begun)
    feed = Feed.of(settings, clock, watcher or notebook.watcher())
    lab = Lab(ThisMachine(), clock, feed.tell, RUNNERS[settings.runner])
    with held(settings.out), tidied(settings), written(settings), feed:
        return choice.load(study.run(settings, lab))


@verb
def load(folder: Folder) -> Choice:
    """The choice in a folder that `choose` wrote. UnusableInput where it is not one."""
    return choice.load(Path(folder))


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
    task: str = "classify",
) -> Fingerprint:
    """The fingerprint of the images of `source` (or of Images already read), without their test part.

    budget: of the study that it is for; a short one looks at fewer images. The rest: as in `read`.
    """
    how: dict[str, Any] = {
        "classes_from": classes_from,
        "skip_empty_classes": skip_empty_classes,
        "follow_links": follow_links,
        "target": kind_of(task).target,
    }
    images = source if isinstance(source, Images) else read_images(source, test=test, seed=seed, **how)
    return look_at(images.train, images.classes, seed=seed, budget=parse_duration(budget), number=images.number)


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
    task: str = "classify",
) -> Advice:
    """What to start with for the images of `source`, without training.

    budget, goal: what `choose` would be given. classes_from, skip_empty_classes, follow_links, task: as in `read`.
    """
    how: dict[str, Any] = {"skip_empty_classes": skip_empty_classes, "follow_links": follow_links, "task": task}
    images = source if isinstance(source, Images) else read(source, seed=seed, classes_from=classes_from, **how)
    wanted = parse_goal(goal, kind_of(task_of(images.target)).scored)
    facts, host = look(images, budget=budget, seed=seed), ThisMachine()
    return within_latency(facts, wanted, host.pace, TRAINING_SHARE * parse_duration(budget), host)


@verb
def predict(folder: Folder, images: Any, *, follow_links: bool = False) -> list[dict[str, Any]]:
    """A row for each image: path, label, and the probability of each class. follow_links: as in `read`."""
    return deliver.predict(Path(folder), images, follow_links=follow_links)


@verb
def export(folder: Folder, to: str, *, out: str | Path | None = None) -> list[Path]:
    """Write the network in `folder` in one format again, into `out` (the folder itself by default): the files written.

    to: keras, torch, onnx or json. The written model is checked against the trained network.
    """
    return formats.export(Path(folder), to, out)


@verb
def report(folder: Folder) -> Path:
    """Where the report of a chosen network is: one HTML file that needs no internet."""
    return load(folder).report()
