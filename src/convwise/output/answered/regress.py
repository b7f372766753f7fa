"""Numbers: themselves, predicted against true, the residuals, and the largest errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from convwise.core.score import numbers_of
from convwise.core.text import number as shown
from convwise.output import plots
from convwise.output.answered.scored import Scored

MOST_ERRORS = 24  # pictures of the largest errors
MOST_PLOTS = 6  # of several numbers
FIFTHS = 5  # parts of the scored images, from low to high, whose errors are told apart
DIGITS = 7  # significant ones of a prediction: what float32 has


def row(answer: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The number, and the same as the label; or several numbers by their names, and together as the
    label.
    """
    words = [f"{float(each):.{DIGITS}g}" for each in answer]
    if len(words) == 1:
        return {"label": words[0], "number": float(words[0])}
    return {"label": ", ".join(words), "numbers": dict(zip(names, map(float, words), strict=True))}


def columns(names: Sequence[str]) -> list[str]:
    """The name of each number; one called path has the column 'path (number)'."""
    return [f"{name} (number)" if name == "path" else name for name in names]


def cells(row: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """The numbers; nothing where the image could not be read."""
    if len(names) == 1:
        return [row["label"]]
    return [f"{row['numbers'][name]:.{DIGITS}g}" if "numbers" in row else "" for name in names]


def told(estimate: Mapping[str, Any]) -> str:
    """How far off the answers are."""
    on = f"over {estimate['n']:,} images"
    if several := estimate.get("numbers"):
        on = (
            f"standard deviations on average over {len(several)} numbers and {estimate['n']:,}"
            " images"
        )
    off = f"off by {shown(estimate['error'])} {on if several else f'on average {on}'}"
    return (
        f"{off} (R² {estimate['r2']:.3f}: {100 * max(estimate['r2'], 0):.0f}\u202f% of the variance"
        " is explained)"
    )


def section(scored: Scored) -> dict[str, Any]:
    """Of each number predicted against true, and the largest errors as pictures.

    Of one number also the residuals, and the errors from low to high; of several, a row for each,
    and MOST_PLOTS plots.
    """
    if not len(scored.labels):
        return {"n": 0}
    true, predicted = (
        scored.labels.reshape(len(scored.labels), -1).astype(float),
        scored.answers.astype(float),
    )
    residuals, names = predicted - true, scored.outputs
    numbers = [
        _number(name, *columns) for name, *columns in zip(names, true.T, predicted.T, strict=True)
    ]
    for number in numbers[MOST_PLOTS:]:
        del number["plot"]
    return {
        "n": len(true),
        "numbers": numbers,
        **(_of_one(true[:, 0], residuals[:, 0], names[0]) if len(numbers) == 1 else {}),
        "pictures": list(_pictures(scored, true, predicted)),
        "pixelated": scored.pixelated,
    }


def _number(name: str, true: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """What is said of one number of all images, (n,) each."""
    residuals = predicted - true
    return {
        "name": name,
        "error": shown(float(np.abs(residuals).mean())),
        "nothing": shown(float(np.abs(true - np.median(true)).mean())),
        "bias": shown(abs(float(residuals.mean()))),
        "side": "high" if residuals.mean() > 0 else "low",
        "median": shown(float(np.median(np.abs(residuals)))),
        "tenth": shown(float(np.quantile(np.abs(residuals), 0.9))),
        "plot": plots.predicted_plot(true, predicted, name),
    }


def _of_one(true: np.ndarray, residuals: np.ndarray, name: str) -> dict[str, Any]:
    return {
        "residuals": plots.residual_plot(true, residuals, name),
        "parts": list(_parts(true, residuals)),
    }


def _pictures(scored: Scored, true: np.ndarray, predicted: np.ndarray) -> Iterator[dict[str, Any]]:
    """The images with the largest errors, of several numbers on average in their deviations, and
    the worst of each.
    """
    unit = numbers_of(scored.net)
    errors = np.abs(predicted - true) / np.array(unit.scale if unit else 1.0)
    for i in np.argsort(-errors.mean(1), kind="stable")[:MOST_ERRORS].tolist():
        worst = int(errors[i].argmax())
        name = f"{scored.outputs[worst]} " if len(scored.outputs) > 1 else ""
        said, truth = (name + shown(float(each[i, worst])) for each in (predicted, true))
        yield {**scored.picture(i), "true": truth, "predicted": said}


def _parts(true: np.ndarray, residuals: np.ndarray) -> Iterator[dict[str, Any]]:
    """The error and the mean residual of equal parts of the images, from low to high numbers."""
    for rows in np.array_split(np.argsort(true, kind="stable"), min(FIFTHS, len(true))):
        yield {
            "low": shown(float(true[rows].min())),
            "high": shown(float(true[rows].max())),
            "n": len(rows),
            "error": shown(float(np.abs(residuals[rows]).mean())),
            "bias": shown(float(residuals[rows].mean())),
        }
