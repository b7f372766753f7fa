"""The verb `check`: what a model costs and sees, what is wrong with it, and what its fixes are
worth on images.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from convwise import notebook
from convwise.core.clock import Clock, parse_duration
from convwise.core.places import CACHE_SIZE
from convwise.core.problems import UnusableInput
from convwise.core.progress import Watcher
from convwise.core.verb import verb
from convwise.formats.lifted import Lifted
from convwise.images.loading import Images, Within
from convwise.inspect import checking, models
from convwise.inspect.checking import Applied, Checked, Tried
from convwise.inspect.requests import InputShape

if TYPE_CHECKING:  # which loads the training: without `apply` nothing is trained
    from convwise.training.lab import Lab


@verb
def check(
    model: Any,
    images: Any = None,
    *,
    input_shape: InputShape | str | None = None,
    apply: bool = False,
    budget: str | float = "2m",
    watcher: Watcher | None = None,
    started: float | None = None,
    classes_from: str = "folder",
    skip_empty_classes: bool = False,
    follow_links: bool = False,
    cache_size: str | int = CACHE_SIZE,
    task: str | None = None,
) -> Checked:
    """What is wrong with a model; images, or where they are: what its field must cover.

    model: a .keras, .onnx, .pt2 or net .json file, a folder that `choose` wrote,
    'package.module:callable', or a live model of Keras or PyTorch. input_shape: (height, width,
    channels), or '224x224x3', of a model whose input size is free. apply: try each fix on the
    images within `budget`: the model is trained as it is and with the fix, and `applied` of the
    answer says what each was worth; a folder that `choose` wrote has its own images. watcher:
    called with the progress of that; by default a notebook shows it. started: when the budget began
    (time.monotonic); None: now. classes_from, skip_empty_classes, follow_links, cache_size, task:
    how images are read, as in `convwise.read`; of a folder that `choose` wrote the task is known.
    UnusableInput where the model or the images cannot be read, or where there are no images to
    apply the fixes on.
    """
    begun = time.monotonic() if started is None else started
    seconds = parse_duration(budget) if apply else None
    lifted = models.load(model, input_shape)
    how = reading(model, seconds, cache_size, task, classes_from=classes_from,
                  skip_empty_classes=skip_empty_classes,
                  follow_links=follow_links)  # fmt: skip
    lab = lab_of(Clock(seconds, begun), watcher or notebook.watcher()) if seconds else None
    return examined(lifted, model, images, how, lab)


def reading(
    model: Any, seconds: float | None, cache_size: str | int, task: str | None, **how: Any
) -> dict[str, Any]:
    """How images are read: to train on them within so many seconds, or only to look at them."""
    within = Within(seconds, cache_size=cache_size) if seconds else checking.to_look(cache_size)
    return {**how, "task": task or models.learnt_by(model), "within": within}


def lab_of(clock: Clock, watcher: Watcher) -> Lab:
    """Where fixes are tried: on this machine."""
    from convwise.training.lab import Lab
    from convwise.training.machine import ThisMachine

    return Lab(ThisMachine(), clock, watcher)


def examined(
    lifted: Lifted, model: Any, images: Any, how: Mapping[str, Any], lab: Lab | None
) -> Checked:
    """What `check` says of a model that was read. how: as `reading` gives it; lab: where fixes are
    tried, or None.
    """
    read = (
        checking.read_images(images, **how)
        if images is not None
        else _own_images(model, how)
        if lab
        else None
    )
    found = checking.checked(
        lifted, checking.scale_px(read, lifted.net.input_shape) if read is not None else None
    )
    return replace(found, applied=_applied(found, read, lab)) if lab and read is not None else found


def _own_images(model: Any, how: Mapping[str, Any]) -> Images:
    """The images that the network of a choice folder was chosen with. UnusableInput where there is
    no such folder.
    """
    from convwise.measuring import own_images

    if (found := own_images(model, how["within"].cache_size)) is None:
        raise UnusableInput(
            "--apply", "has nothing to train on", "images to try the fixes on", "--images IMAGES"
        )
    return found


def _applied(found: Checked, images: Images, lab: Lab) -> Applied | None:
    """Every fix tried, the gravest first; None where there is none. A budget that is too short is
    told, not raised.
    """
    from convwise.evidence import bench
    from convwise.evidence.experiment import TooShort
    from convwise.evidence.fixes import edited
    from convwise.evidence.records import Base, Edit, Terms

    net = found.lifted.net
    # Findings stand with the gravest first
    nets = [(finding.problem, edited(net, finding)) for finding in found.findings]
    tried = [(problem, other) for problem, other in nets if other is not None]
    if not tried:
        return None
    edits = [Edit(problem.fix, other) for problem, other in tried]
    try:
        answer = bench.measure_on(images, Base(net), edits, Terms(name="apply"), lab)
    except TooShort as error:
        return Applied({}, {}, (f"no fix was tried: {error}",))
    measured = {
        problem: Tried(str(one), one.effect)
        for (problem, _), one in zip(tried, answer.measured, strict=True)
    }
    return Applied(measured, {answer.score.name: answer.accuracy}, answer.notes)
