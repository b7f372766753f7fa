"""Classes: probabilities, a confusion matrix, and the surest mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from convwise.output import plots
from convwise.output.answered.scored import Scored
from convwise.output.words import percent

MAP_CLASSES = 25  # up to so many classes a heat map can be read
MOST_PAIRS, MOST_MISTAKES = 20, 24
TAKEN = ("path", "label")


def row(answer: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The label, and the probability of each class."""
    shares = {name: round(float(p), 6) for name, p in zip(names, answer, strict=True)}
    return {"label": names[int(answer.argmax())], "probabilities": shares}


def columns(names: Sequence[str]) -> list[str]:
    """label, and one for each class. A class called path or label has the column 'path (class)' or
    'label (class)'.
    """
    return ["label", *(f"{name} (class)" if name in TAKEN else name for name in names)]


def cells(row: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """The label, and the probabilities; nothing where the image could not be read."""
    shares = row.get("probabilities", {})
    return [row["label"], *(shares.get(name, "") for name in names)]


def told(estimate: Mapping[str, Any]) -> str:
    """How many of the scored images are right."""
    return f"{percent(estimate['accuracy'])} of {estimate['n']:,} images right"


def section(scored: Scored) -> dict[str, Any]:
    """The confusion matrix, or its largest cells where classes are many; the surest mistakes."""
    if not len(scored.labels):
        return {"n": 0, "wrong": 0}
    classes, labels, answers = scored.outputs, scored.labels, scored.answers
    predicted = answers.argmax(axis=1)
    matrix = np.zeros((len(classes),) * 2, dtype=int)
    np.add.at(matrix, (labels, predicted), 1)
    wrong = np.flatnonzero(predicted != labels)
    sure = answers[wrong, predicted[wrong]]
    worst = wrong[np.argsort(-sure, kind="stable")][:MOST_MISTAKES]
    return {
        "n": len(labels),
        "wrong": len(wrong),
        "plot": plots.confusion_plot(matrix, classes) if len(classes) <= MAP_CLASSES else "",
        "pairs": list(_pairs(matrix, classes)),
        "recall": _recall(matrix, classes),
        "pictures": [_picture(scored, int(i), int(predicted[i])) for i in worst],
        "pixelated": scored.pixelated,
    }


def _pairs(matrix: np.ndarray, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The cells off the diagonal, most images first."""
    off = matrix - np.diag(np.diag(matrix))
    for flat_index in np.argsort(-off, axis=None, kind="stable")[:MOST_PAIRS]:
        i, j = divmod(int(flat_index), len(classes))
        if off[i, j]:
            yield {
                "true": classes[i],
                "predicted": classes[j],
                "count": int(off[i, j]),
                "of": int(matrix[i].sum()),
            }


def _recall(matrix: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The share found of each class, worst first; classes without an image last, unknown."""
    rows = [
        {
            "name": name,
            "n": int(row.sum()),
            "recall": float(row[i] / row.sum()) if row.sum() else None,
        }
        for i, (name, row) in enumerate(zip(classes, matrix, strict=True))
    ]
    return sorted(rows, key=lambda row: (row["recall"] is None, row["recall"] or 0))


def _picture(scored: Scored, i: int, predicted: int) -> dict[str, Any]:
    true = int(scored.labels[i])
    return {
        **scored.picture(i),
        "true": scored.outputs[true],
        "predicted": scored.outputs[predicted],
        "sure": float(scored.answers[i, predicted]),
        "right": float(scored.answers[i, true]),
    }
