"""What is given to `--against` -> networks that can be trained on the study's images, or a sentence
why one cannot.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from convwise.core.calculus import analyse
from convwise.core.layers import Opaque
from convwise.core.net import Net
from convwise.core.problems import ConvwiseError, UnusableInput
from convwise.core.records import Advice
from convwise.core.score import numbers_of
from convwise.core.text import times
from convwise.core.textbook import KNOWN
from convwise.evidence.fitting import fitted
from convwise.formats import format_module
from convwise.formats.lifted import SIZE
from convwise.images.loading import Images
from convwise.inspect.models import EXPECTED, is_named, load
from convwise.search.rivals import Rival

FLAG = "--against"
MOST_BYTES = 2**31  # of the stored images at the size that a network reads


def check(models: Sequence[Any]) -> None:
    """UnusableInput where a model is named that is nowhere: said before any image is read."""
    for model in models:
        named = isinstance(model, (str, os.PathLike))
        if (
            named
            and str(model) not in KNOWN
            and not os.path.exists(model)
            and not is_named(str(model))
        ):
            fix = (
                f"one of the networks that convwise knows ({', '.join(KNOWN)}), or the path of"
                " your own"
            )
            raise UnusableInput(f"{FLAG} {model}", "does not exist", EXPECTED, fix)


def rivals(models: Sequence[Any], images: Images, advice: Advice) -> tuple[Rival, ...]:
    """Each model as a network that reads these images, and answers as the chosen one does."""
    found = [_rival(model, images, advice) for model in models]
    ids = [rival.net.id for rival in found]
    return tuple(rival for number, rival in enumerate(found) if rival.net.id not in ids[:number])


def _rival(model: Any, images: Images, advice: Advice) -> Rival:
    classes, space, known = len(images.classes), advice.space, KNOWN.get(str(model))
    name = str(model) if isinstance(model, (str, os.PathLike)) else type(model).__name__
    where = f"{FLAG} {name}"
    size = (*advice.configuration.input_size, space.channels)
    net = known.net(images.base_shape, max(classes, 1)) if known else _own(model, size, where)
    if space.target and numbers_of(net):
        # The unit of such a net is that of the images that it was trained on
        net = Net(net.input_shape, net.layers[:-1])
    net, notes = _channels(net, space.channels, where)
    try:
        made = fitted(net, classes, space.mean, space.variance, space.target)
        format_module("torch").build(made.net, logits=True)
    except ConvwiseError as error:
        problem = error.problem
        what = f"cannot be trained here: {problem.where} {problem.what}"
        raise UnusableInput(where, what, problem.expected, _fix(model)) from error
    _check_room(made.net, images, where)
    title = (
        known.title
        if known
        else f"your network ({Path(name).name if os.path.exists(name) else name})"
    )
    return Rival(name, title, made.net, () if known else (*notes, *made.notes))


def _own(model: Any, shape: tuple[int, int, int], where: str) -> Net:
    """The network of a model; one that takes images of any size reads them at the advised size."""
    net = _loaded(model, shape)
    if opaque := [
        f"{layer.name} ({layer.operator})" for layer in net.layers if isinstance(layer, Opaque)
    ]:
        some = ", ".join(opaque[:3]) + (", ..." if len(opaque) > 3 else "")
        what = (
            f"cannot be trained here: it has {len(opaque)} layers that convwise cannot read: {some}"
        )
        raise UnusableInput(where, what, "layers that convwise knows", _fix(model))
    return net


def _loaded(model: Any, shape: tuple[int, int, int]) -> Net:
    try:
        return load(model).net
    except UnusableInput as error:
        refused: ConvwiseError = error
    for channels in dict.fromkeys((shape[2], 3, 1)):  # the weights of a module are for so many
        try:
            return load(model, (*shape[:2], channels)).net
        except ConvwiseError as error:
            if refused.problem.expected == SIZE:  # which it has now
                refused = error
    raise refused


def _fix(model: Any) -> str:
    said = (
        f"`convwise check {model}` shows the layer; "
        if isinstance(model, (str, os.PathLike))
        else ""
    )
    return f"{said}replace it with another, or leave out {FLAG}"


def _channels(net: Net, channels: int, where: str) -> tuple[Net, tuple[str, ...]]:
    """The net for images of so many channels: its first weights are new in any case."""
    height, width, own = net.input_shape
    if own == channels:
        return net, ()
    try:
        changed = replace(net, input_shape=(height, width, channels))
        analyse(changed)
    except ConvwiseError as error:
        what = (
            f"reads {own} channels, but the images have {channels}, and its input cannot be changed"
            " to that "
        )
        what += f"({error.problem.what})"
        fix = f"give it a first layer that takes {channels}"
        raise UnusableInput(where, what, f"{channels} channels", fix) from error
    return changed, (
        (
            f"it reads {channels} channel{'s' * (channels > 1)} instead of {own}, as many as the"
            " images have"
        ),
    )


def _check_room(net: Net, images: Images, where: str) -> None:
    height, width, channels = net.input_shape
    size = 2 * (len(images.train) + len(images.valid)) * height * width * channels
    if size > MOST_BYTES:
        what = (
            f"reads images of {times((height, width))}; at that size all of yours would take"
            f" {size / 2**30:.0f} GiB"
        )
        raise UnusableInput(
            where, what, f"at most {MOST_BYTES / 2**30:.0f} GiB", "a network for smaller images"
        )
