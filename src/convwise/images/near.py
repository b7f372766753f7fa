"""Near duplicates: pictures that are the same but for how they were stored or exposed.

Two pictures are near duplicates where one is the other stored again: compressed, scaled to another
size and back, or a little brighter. What was cut, shifted or turned is another picture here. The
perceptual hash is a gray thumbnail with its mean taken out and its length made 1: the distance of
two such hashes is how much the pictures differ, as a share of their contrast. The bits of a dHash
or pHash would be smaller, and take different pictures of thin strokes for one. Every match is
confirmed on the pixels, in colour.

Measured: pictures compressed at quality 50, scaled to three quarters and back, or a tenth brighter
lie 0.01 to 0.1 apart; the nearest different pictures of digits, letters, hands and clothes 0.11 to
0.6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from convwise.core.problems import Problem
from convwise.images import decode, stack
from convwise.images.decode import THUMBNAIL_PX, Pixels
from convwise.images.sources.found import counted
from convwise.images.stack import Stack
from convwise.images.targets import SIDES

CONFIRMED_PX = 64  # the longer side at which pixels are compared
HASHES_APART, PIXELS_APART = 0.1, 0.14  # distances at most, as shares of the contrast
LEAST_PIXELS = 64  # smaller pictures are alike by chance
LEAST_CONTRAST = 2.0  # gray levels: an even surface is like any other
BRIGHTER, CONTRASTS = 32.0, 1.5  # gray levels, and times: what exposure may change
# Candidates of a picture at most, so that a set of one picture in thousands of copies takes no
# longer
NEAREST = 8
BLOCK = 512  # pictures compared with all that can be near, at once

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """Two pictures that are nearly the same, each uint8 (h, w, c), with what is known of both."""

    names: tuple[str, str]
    labels: tuple[str, str]
    parts: tuple[str, str]
    pictures: tuple[Pixels, Pixels]

    def kept(self) -> Pair:
        """The same with pictures of its own, so that those that they were taken from can go."""
        return replace(self, pictures=(self.pictures[0].copy(), self.pictures[1].copy()))


def near(pixels: stack.Rows, rows: Ints, thumbnails: Pixels | None = None) -> Ints:
    """The pairs (m, 2) of positions in `rows`, first < second, whose pictures pixels[row] are near
    duplicates.

    pixels: (n, h, w, c); thumbnails: (n, values), decode.thumbnail of each. Of the many copies of
    one picture each is paired with a few. The time grows with the square of the number of rows.
    """
    if len(rows) < 2 or pixels.shape[1] * pixels.shape[2] < LEAST_PIXELS:
        return np.zeros((0, 2), np.int64)
    hashes, contrast = _hashes(
        _thumbnails(pixels, rows) if thumbnails is None else thumbnails[rows]
    )
    # Threads of BLAS wait by spinning, which is several times slower on a busy machine
    with threadpool_limits(1, "blas"):
        pairs = _candidates(hashes, contrast)
    good = [_confirmed(*(pixels[row] for row in rows[pair])) for pair in pairs]
    return np.asarray(pairs[np.array(good, bool)])


def chained(groups: Ints) -> Ints:
    """Pairs (n, 2) of rows that connect all rows of each group (n,)."""
    _, first, which = np.unique(groups, return_index=True, return_inverse=True)
    return np.stack([first[which], np.arange(len(groups))], axis=1)


def joined(groups: Ints, pairs: Ints) -> Ints:
    """The groups (n,) of pictures, with those made one that a pair (m, 2) of rows connects."""
    names, codes = np.unique(groups, return_inverse=True)
    first, second = codes[pairs[:, 0]], codes[pairs[:, 1]]
    graph = coo_array((np.ones(len(pairs), bool), (first, second)), (len(names), len(names)))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)[codes]


def _thumbnails(pixels: stack.Rows, rows: Ints) -> Pixels:
    def some(part: slice) -> bytes:
        return b"".join(decode.thumbnail(np.asarray(picture)) for picture in pixels[rows[part]])

    made = b"".join(stack.each(some, stack.chunks(len(rows))))
    return np.frombuffer(made, np.uint8).reshape(len(rows), THUMBNAIL_PX**2)


def _hashes(thumbnails: Pixels) -> tuple[Floats, Floats]:
    """(rows, values) of length 1 each, and the contrast of each picture in gray levels."""
    found = thumbnails.astype(np.float32)
    found -= found.mean(axis=1, keepdims=True)
    length = np.linalg.norm(found, axis=1)
    return found / np.maximum(length, 1e-6)[:, None], length / THUMBNAIL_PX


def _candidates(hashes: Floats, contrast: Floats) -> Ints:
    """Pairs whose hashes are near.

    They are sorted by where they lie along the axis of their largest variance: two hashes are at
    least as far apart as they are there, so each is compared with a window of the others.
    """
    some = hashes[:: max(1, len(hashes) // 1000)]
    axis = np.linalg.svd(some - some.mean(0), full_matrices=False)[2][0]
    place = hashes @ axis
    rows = np.argsort(place, kind="stable")
    rows = rows[contrast[rows] >= LEAST_CONTRAST]
    place = place[rows]
    enough = 1 - HASHES_APART**2 / 2  # of unit vectors, distance^2 = 2 - 2 * product
    found = [np.zeros((0, 2), np.int64)]
    for start in range(0, len(rows), BLOCK):
        mine = rows[start : start + BLOCK]
        stop = int(np.searchsorted(place, place[start + len(mine) - 1] + HASHES_APART, "right"))
        others = rows[start:stop]
        # The upper triangle leaves out a picture itself, and what it was compared with before
        alike = np.triu(hashes[mine] @ hashes[others].T, 1)
        for row in np.flatnonzero(alike.max(1) >= enough):
            best = np.argsort(-alike[row], kind="stable")[:NEAREST]
            best = best[alike[row, best] >= enough]
            found.append(
                np.sort(np.stack([np.full(len(best), mine[row]), others[best]], 1), axis=1)
            )
    pairs = np.concatenate(found)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _confirmed(one: Pixels, other: Pixels) -> bool:
    """Whether the pixels of two pictures (h, w, c) differ by little, in colour; exposure may differ
    a little.
    """
    height, width = one.shape[:2]
    scale = min(1.0, CONFIRMED_PX / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    a, b = (decode.resize(np.asarray(each), *size).astype(np.float32) for each in (one, other))
    if abs(float(a.mean() - b.mean())) > BRIGHTER:
        return False
    a, b = a - a.mean(), b - b.mean()
    lengths = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if max(lengths) > CONTRASTS * min(lengths):
        return False
    return float(np.linalg.norm(a / lengths[0] - b / lengths[1])) <= PIXELS_APART


def twins(all_: Stack, pairs: Ints, sides: Ints) -> list[Pair]:
    """Pairs (m, 2) of rows on these sides (m, 2) as they are told.

    Those on two sides come first, then those of two labels.
    """
    order = sorted(
        range(len(pairs)),
        key=lambda k: (sides[k, 0] == sides[k, 1], np.array_equal(*all_.labels[pairs[k]]), k),
    )
    return [_pair(all_, *pairs[k].tolist(), *sides[k].tolist()) for k in order]


def _pair(all_: Stack, one: int, other: int, side: int, other_side: int) -> Pair:
    return Pair(
        (all_.names[one], all_.names[other]),
        (str(all_.labels[one]), str(all_.labels[other])),
        (SIDES[side], SIDES[other_side]),
        (all_.pixels[one], all_.pixels[other]),
    )


def told(where: str, pairs: Sequence[Pair], classes: bool) -> Iterator[Problem]:
    """What is said of near duplicates: in two parts, in two classes, and the rest."""
    order = [*SIDES.values()]
    for parts in [(one, other) for one in order for other in order[order.index(one) + 1 :]]:
        across = [pair for pair in pairs if set(pair.parts) == set(parts)]
        if not across:
            continue
        what = f"{counted(len(across), 'pair')} of nearly the same picture in {' and '.join(parts)}"
        what += f", both kept: {_shown(across, 3)}"
        told = "accuracy reported is too high" if classes else "error reported is too low"
        fix = f"remove one of each, or the {told}; the report of choose shows them"
        yield Problem(where, what, "each picture in one part", fix, "warning", len(across))
    odd = [pair for pair in pairs if classes and len(set(pair.labels)) > 1]
    if odd:
        what = f"{counted(len(odd), 'pair')} of nearly the same picture in two classes:"
        what += f" {_shown(odd, 3)}"
        fix = "correct the wrong label"
        yield Problem(where, what, "one label for a picture", fix, "warning", len(odd))
    same = sum(len(set(pair.parts)) == 1 for pair in pairs)
    if same:
        what = f"{counted(same, 'pair')} of nearly the same picture in one part;"
        what += " a drawn split never separates them"
        yield Problem(where, what, severity="note", count=same)


def _shown(pairs: Sequence[Pair], most: int) -> str:
    """'a.png ~ b.png (cat, dog)' of some pairs; labels where they differ."""
    told = [
        f"{' ~ '.join(pair.names)}"
        + (f" ({', '.join(pair.labels)})" if len(set(pair.labels)) > 1 else "")
        for pair in pairs[:most]
    ]
    return "; ".join(told) + (f" and {len(pairs) - most} more" if len(pairs) > most else "")
