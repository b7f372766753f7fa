"""A number: itself, predicted against true, the residuals, and the largest errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from convwise.core.text import number as shown
from convwise.output import plots
from convwise.output.answered.scored import Scored

MOST_ERRORS = 24  # pictures of the largest errors
FIFTHS = 5  # parts of the scored images, from low to high, whose errors are told apart
DIGITS = 7  # significant ones of a prediction: what float32 has


def row(answer: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The number, under its name and as the label."""
    number = float(f"{float(answer[0]):.{DIGITS}g}")
    return {"label": f"{number:.{DIGITS}g}", "number": number}


def columns(names: Sequence[str]) -> list[str]:
    """The name of the number; one called path has the column 'path (number)'."""
    return [f"{name} (number)" if name == "path" else name for name in names]


def cells(row: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """The number; nothing where the image could not be read."""
    return [row["label"]]


def told(estimate: Mapping[str, Any]) -> str:
    """How far off the answers are."""
    off = f"off by {shown(estimate['error'])} on average over {estimate['n']:,} images"
    return f"{off} (R² {estimate['r2']:.3f}: {100 * max(estimate['r2'], 0):.0f}\u202f% of the variance is explained)"


def section(scored: Scored) -> dict[str, Any]:
    """Predicted against true, the residuals, the errors from low to high numbers, and the largest as pictures."""
    if not len(scored.labels):
        return {"n": 0}
    true, predicted = scored.labels.astype(float), scored.answers[:, 0].astype(float)
    residuals = predicted - true
    worst = np.argsort(-np.abs(residuals), kind="stable")[:MOST_ERRORS]
    return {
        "n": len(true),
        "name": scored.outputs[0],
        "bias": shown(abs(float(residuals.mean()))),
        "side": "high" if residuals.mean() > 0 else "low",
        "median": shown(float(np.median(np.abs(residuals)))),
        "tenth": shown(float(np.quantile(np.abs(residuals), 0.9))),
        "plot": plots.predicted_plot(true, predicted, scored.outputs[0]),
        "residuals": plots.residual_plot(true, residuals, scored.outputs[0]),
        "parts": list(_parts(true, residuals)),
        "pictures": [
            {**scored.picture(i), "true": shown(true[i]), "predicted": shown(predicted[i])} for i in worst.tolist()
        ],
        "pixelated": scored.pixelated,
    }


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
