"""Writes docs/parameters/*.svg: what each change was worth at the end of a whole training, a point
for each set.

Run from the repository's root, after `benchmarks/effects.py report`; it takes some seconds:

    PYTHONPATH=src:benchmarks python docs/figures.py
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import altair as alt

import effects
import matrix

FOLDER = Path(__file__).with_name("parameters")
INSIDE = 1.0  # points: what 'no difference' promises
# points: one for all pictures, so that they can be compared; larger effects have their own
AXIS = [-11.0, 5.0]


def rows(found: Iterable[effects.Compared]) -> list[dict[str, object]]:
    """One row for each change and set: points of accuracy, with their 95 % interval."""
    told = [(c.set, c.late) for c in found]
    return [
        {"parameter": e.parameter, "change": f"{e.before} to {e.after}", "set": name,
         "points": points(e.accuracy_change), "low": points(e.low),
         "high": points(e.high)} for name, e in told
    ]  # fmt: skip


def points(accuracy: float) -> float:
    """0.0123 -> 1.23."""
    return round(100 * accuracy, 2)


def figure(shown: list[dict[str, object]]) -> alt.LayerChart:
    """A row for each change and set; grey: less than a point."""
    changes = list(dict.fromkeys(str(row["change"]) for row in shown))
    for row in shown:
        row["row"] = row["set"] if len(changes) == 1 else f"{row['set']}: {row['change']}"
    wide = any(not AXIS[0] < float(str(row["points"])) < AXIS[1] for row in shown)
    scale = alt.Scale() if wide else alt.Scale(domain=AXIS, clamp=True)
    ticks = alt.Axis(format="+.0f", tickCount=6, titleFontWeight="normal")
    x = alt.X(
        "points:Q",
        scale=scale,
        title="points of accuracy at the end, and 95 % interval",
        axis=ticks,
    )
    y = alt.Y(
        "row:N", title=None, sort=None, axis=alt.Axis(labelLimit=400, labelPadding=8, ticks=False)
    )
    base = alt.Chart(alt.Data(values=shown)).encode(y=y, color=alt.value("#1f5fa8"))
    dots = base.mark_point(filled=True, size=55, opacity=1).encode(x=x)
    spread = base.mark_rule(clip=True).encode(x=alt.X("low:Q", scale=scale), x2="high:Q")
    grey = alt.Chart(alt.Data(values=[{"low": -INSIDE, "high": INSIDE}])).mark_rect(color="#e6e6e6")
    grey = grey.encode(x=alt.X("low:Q", scale=scale), x2="high:Q")
    title = (
        f"{shown[0]['parameter']}, {changes[0]}"
        if len(changes) == 1
        else str(shown[0]["parameter"])
    )
    chart = alt.layer(grey, spread, dots).properties(width=340, height={"step": 20}, title=title)
    padded = chart.properties(padding={"left": 45, "top": 5, "right": 15, "bottom": 5})
    return padded.configure_axis(labelFontSize=13, titleFontSize=13).configure_title(
        fontSize=14, anchor="start"
    )


def main() -> None:
    """Write a picture for each parameter."""
    found = list(effects.compared(matrix.rows_of(effects.RESULTS)))
    ends = list({(c.set, c.late.parameter, c.late.after): c for c in found}.values())
    FOLDER.mkdir(exist_ok=True)
    for name in effects.PARAMETERS:
        if shown := [row for row in rows(ends) if row["parameter"] == name]:
            figure(shown).save(FOLDER / f"{name}.svg")


if __name__ == "__main__":
    main()
