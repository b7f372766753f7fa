"""Images that look like none of the others: a black frame, noise, a negative, a picture of
something else.

An image is as far out as the mean distance to its 10 nearest ones (Kuan & Mueller 2022, 'Back to
the basics: revisiting out-of-distribution detection baselines'). Its label plays no part. An image
is named where the logarithm of that distance is beyond the outer fence of all of them: more than 3
interquartile ranges above the upper quartile, 'far out' in the words of Tukey (1977, Exploratory
data analysis).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from convwise.advice.pixels import Doubles, Floats, gray, resize
from convwise.advice.probes import Probes
from convwise.core.records import Fingerprint, Outlier
from convwise.core.text import number

NEIGHBOURS = 10
FENCE = 3.0  # interquartile ranges
FEWEST = 50  # images, below which quartiles say too little
# Share of the images told at most: where more are far out they are a kind of their own, and none
# is named
MOST_SHARE = 0.1
CELLS = (4, 4)  # rows and columns whose mean brightness tells how light is spread


def outliers(
    probes: Probes, chosen: NDArray[np.int64], labels: NDArray[Any], classes: Sequence[str]
) -> tuple[Outlier, ...]:
    """The images that look like none of the others, the farthest first.

    chosen, labels: of each image of the probes its row in the part and its label, a number (or
    several, (n, k)) where there are no classes.
    """
    if len(chosen) < FEWEST or min(probes.size) < 4:
        return ()
    far = np.maximum(beyond(_patterns(probes)), beyond(_light(probes)))
    found = np.flatnonzero(far > FENCE)
    if len(found) > MOST_SHARE * len(chosen):
        return ()
    return tuple(
        Outlier(int(chosen[row]), _named(labels[row], classes), round(float(far[row]), 2))
        for row in found[np.argsort(-far[found], kind="stable")].tolist()
    )


def beyond(points: Floats) -> Doubles:
    """(n, d) -> (n,): how far each point lies from the others.

    In interquartile ranges above the upper quartile.
    """
    near = (
        NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute")
        .fit(points)
        .kneighbors()[0]
        .mean(axis=1)
    )
    usual = float(np.median(near))
    if usual == 0:  # most images have copies
        return np.zeros(len(points))
    logs = np.log(np.maximum(near, 1e-3 * usual))
    low, high = np.quantile(logs, [0.25, 0.75])
    return np.asarray((logs - high) / max(high - low, 1e-2))


def _patterns(probes: Probes) -> Floats:
    """(n, d): how much each quarter of an image answers to the filters of a probe.

    The roots of the answers are compared (Arandjelovic & Zisserman 2012), so that a few strong ones
    do not decide.
    """
    size = (probes.work.shape[1], probes.work.shape[2])
    roots = np.sqrt(probes.probe(size, min(5, min(size) - 1)).features)
    return np.asarray((roots - roots.mean(axis=0)) / (roots.std(axis=0) + 1e-6))


def _light(probes: Probes) -> Floats:
    """(n, d): how light is spread over an image, from 0 to 1, and its contrast and fine detail, in
    doublings.

    The detail is the mean absolute Laplacian, which is small where an image is blurred.
    """
    work, grey = probes.work, gray(probes.work)[..., 0].astype(np.float32)
    cells = resize(work, CELLS).reshape(len(work), -1) / np.float32(255)
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    detail = np.abs(4 * grey[:, 1:-1, 1:-1] - around).mean(axis=(1, 2))
    return np.column_stack([cells, np.log2(1 + grey.std(axis=(1, 2))), np.log2(1 + detail)])


def _named(label: Any, classes: Sequence[str]) -> str:
    return (
        classes[int(label)]
        if classes
        else ", ".join(number(float(each)) for each in np.ravel(label))
    )


def shown(facts: Fingerprint, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each outlier: path, label, distance. names: of the images that were looked at."""
    return [
        {"path": names[o.row], "label": o.label, "distance": o.distance} for o in facts.outliers
    ]


def told(facts: Fingerprint, names: Sequence[str], most: int = 3) -> str:
    """What is said of the outliers in a sentence; '' where there are none."""
    if not facts.outliers:
        return ""
    count = len(facts.outliers)
    rows = [f"{row['path']} ({row['label']})" for row in shown(facts, names)[:most]]
    more = f" and {count - most} more" if count > most else ""
    plural = "images look" if count > 1 else "image looks"
    return (
        f"{count} {plural} unlike all others, of {facts.looked_at:,} images checked:"
        f" {', '.join(rows)}{more}"
    )
