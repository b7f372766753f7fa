"""Labels that the other images speak against: confident learning (Northcutt, Jiang & Chuang, JAIR
2021).

Each image is judged by a probe that was fitted without it. It is doubtful where the probe is as
sure of another class as it is, on average, of the images that carry that class's label. The
threshold of each class makes up for classes that the probe hardly knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convwise.advice.probes import Probe, Probes
from convwise.core.records import Fingerprint, Suspect

Doubles = NDArray[np.float64]
TRUSTED = 0.75  # accuracy of the probe
# Share of the images that are told at most: where more are doubtful it is the probe that fails
MOST_SHARE = 0.1


class Doubt(NamedTuple):
    """One label that is doubtful.

    row: of the image; suggested: another class; confidence: in it, 0 to 1.
    """

    row: int
    suggested: int
    confidence: float


def doubts(probe: Probe) -> list[Doubt]:
    """The doubtful labels, the most doubtful first: where another class is furthest ahead of the
    label.

    None where the probe itself errs too often to be believed.
    """
    if probe.accuracy < TRUSTED:
        return []
    fit = probe.fit
    sure, labels = shares(fit.scores()), fit.codes
    rows = np.arange(len(labels))
    usual = np.array([sure[labels == label, label].mean() for label in range(sure.shape[1])])
    other = np.where(sure >= usual, sure, -1.0)
    best = other.argmax(1)
    ahead = sure[rows, best] - sure[rows, labels]
    found = np.flatnonzero((other.max(1) > 0) & (best != labels) & (ahead > 0))
    found = found[np.argsort(-ahead[found], kind="stable")][: int(MOST_SHARE * len(labels))]
    return [
        Doubt(row, int(fit.classes[best[row]]), round(float(sure[row, best[row]]), 4))
        for row in found.tolist()
    ]


def suspects(
    probes: Probes, chosen: NDArray[np.int64], classes: Sequence[str]
) -> tuple[Suspect, ...]:
    """What the best probe made so far doubts of the labels.

    chosen: of each image of the bench, its row in the part.
    """
    best = max(probes.made(), key=lambda probe: probe.accuracy, default=None)
    if best is None or probes.classes < 2:
        return ()
    return tuple(
        Suspect(int(chosen[row]), classes[probes.labels[row]], classes[suggested], confidence)
        for row, suggested, confidence in doubts(best)
    )


def shown(facts: Fingerprint, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each suspect: path, label, suggested, confidence.

    names: of the images that were looked at.
    """
    return [
        {
            "path": names[s.row],
            "label": s.label,
            "suggested": s.suggested,
            "confidence": s.confidence,
        }
        for s in facts.suspects
    ]


def told(facts: Fingerprint, names: Sequence[str], most: int = 3) -> str:
    """What is said of the suspects in a sentence; '' where there are none."""
    if not facts.suspects:
        return ""
    first = shown(facts, names)[:most]
    rows = [
        f"{row['path']} (labelled {row['label']}, looks like {row['suggested']})" for row in first
    ]
    more = f" and {len(facts.suspects) - most} more" if len(facts.suspects) > most else ""
    plural = "labels look" if len(facts.suspects) > 1 else "label looks"
    return (
        f"{len(facts.suspects)} {plural} doubtful, of {facts.looked_at:,} images checked:"
        f" {', '.join(rows)}{more}"
    )


def shares(scores: NDArray[np.float32]) -> Doubles:
    """Scores (n, classes) of a regression onto class indicators, as shares that are 1 together."""
    kept = np.clip(scores.astype(np.float64) + 1 / scores.shape[1], 0, None)
    return np.asarray(kept / np.maximum(kept.sum(1, keepdims=True), 1e-9))
