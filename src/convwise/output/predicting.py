"""Predictions from the folder that `choose` wrote: from anything it reads to rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from convwise.core.places import CACHE_SIZE
from convwise.core.problems import ConvwiseError, UnusableInput
from convwise.core.text import times
from convwise.images.loading import Picture, ValueRange, has_wide, pictures, resize
from convwise.output.answered import answered_by
from convwise.output.deliver import read_choice

CHUNK = 64  # images that are labelled together


def predict(
    folder: str | Path,
    images: Any,
    threads: int,
    *,
    follow_links: bool = False,
    cache_size: str | int = CACHE_SIZE,
) -> list[dict[str, Any]]:
    """{path, label, probabilities {class: p}} for each image, or {path, label, number}.

    UnusableInput where none can be read.

    images: an image file, a folder, whatever else `choose` reads by its name, or an array (n,
    height, width, channels) with values in the range that was learnt from; the path of an array's
    image is its index. Images go the way that the training images went: decoded, then resized once
    to the network's input size. One that cannot be read has the label '' and an 'error'. threads:
    that prepare and compute. cache_size: of what is kept of decoded files, '4GB', '500MB', or 0 for
    nothing.
    """
    choice = read_choice(folder)
    session = _session(Path(folder) / "model.onnx", choice, threads)
    facts, channels = choice["data"]["facts"], choice["data"]["base_shape"][2]
    value_range = ValueRange(*facts.get("scale", (0, 1)))
    with pictures(
        images, channels, value_range, follow_links, has_wide(facts.get("modes", {})), cache_size
    ) as every:
        chunks = (every[start : start + CHUNK] for start in range(0, len(every), CHUNK))
        rows = [row for some in chunks for row in _rows(session, choice, some, threads)]
    if all("error" in row for row in rows):
        others = f", and neither can {len(rows) - 1} more" if len(rows) > 1 else ""
        raise UnusableInput(
            rows[0]["path"], f"cannot be read ({rows[0]['error']}){others}", "images to label"
        )
    return rows


def _session(model: Path, choice: Mapping[str, Any], threads: int) -> Any:
    """What runs the model, which must read and answer what its choice.json says."""
    from convwise.formats import onnx

    expected, fix = (
        "the model that `convwise choose` wrote",
        f"convwise export {model.parent} --to onnx",
    )
    try:
        session = onnx.session(model, threads=threads)
        read, answered = (
            each[0].shape[1:] for each in (session.get_inputs(), session.get_outputs())
        )
    except Exception as error:  # ONNX Runtime's errors have no common base
        what = (
            f"cannot be read ({str(error).rpartition(':')[2].strip()})"
            if model.exists()
            else "is missing"
        )
        raise UnusableInput(str(model), what, expected, fix) from error
    (height, width, _), (*_, channels) = choice["net"]["input_shape"], choice["data"]["base_shape"]
    names = outputs(choice)
    if (read, answered) != ([channels, height, width], [len(names)]):
        reads, answers = times((*read[1:], *read[:1])), times(answered)
        what = (
            f"reads images of {reads} px and answers with {answers} numbers; its choice.json says"
            f" {times((height, width, channels))} px and {len(names)} numbers"
        )
        raise UnusableInput(str(model), what, expected, fix)
    return session


def _rows(
    session: Any, choice: Mapping[str, Any], some: Sequence[Picture], threads: int
) -> list[dict[str, Any]]:
    from convwise.formats import onnx

    names, row = outputs(choice), answered_by(choice).row
    with ThreadPoolExecutor(threads) as pool:
        ready = list(pool.map(lambda picture: _prepared(picture[1], choice), some))
    good = [pixels for pixels in ready if not isinstance(pixels, str)]
    answers = iter(onnx.forward(session, np.stack(good)) if good else ())
    return [
        (
            {"path": path, "label": "", "error": pixels}
            if isinstance(pixels, str)
            else {"path": path, **row(next(answers), names)}
        )
        for (path, _), pixels in zip(some, ready, strict=True)
    ]


def outputs(choice: Mapping[str, Any]) -> list[str]:
    """What an answer's numbers are called, by choice.json: the classes, or what was learnt."""
    data = choice["data"]
    return list(data["classes"] or data.get("numbers") or [data.get("number", "number")])


def _prepared(
    picture: Callable[[int, int], np.ndarray], choice: Mapping[str, Any]
) -> np.ndarray | str:
    """The picture as an input of the network, or why it cannot be read."""
    base, net = choice["data"]["base_shape"], choice["net"]["input_shape"]
    # Written by 0.1.0, whose training images were resized twice
    twice = "preparation" not in choice["data"]
    try:
        pixels = picture(*(base if twice else net)[:2])
    except ConvwiseError as error:
        return error.problem.what  # beside the path: it need not be said twice
    return resize(pixels, net[0], net[1])
