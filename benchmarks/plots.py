"""Error against macs, a panel for each set."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import altair as alt

from rivals import KINDS, RIVALS

if TYPE_CHECKING:
    from table import Cell

# Of KINDS, in their order
COLOURS = ("#d62728", "#7f7f7f", "#bcbd22", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e")
PANEL_PX, COLUMNS = 230, 3


def draw(cells: Iterable[Cell], path: Path) -> None:
    """Write path.svg and path.png: mean error of each method, with the spread over its seeds."""
    rows = [
        {
            "set": cell.set,
            "method": cell.method,
            "kind": RIVALS[cell.method].kind,
            "macs": cell.mean("macs"),
            "error": 100 * cell.error,
            "least": 100 * min(cell.errors.values()),
            "most": 100 * max(cell.errors.values()),
        }
        for cell in cells
    ]
    chart = panels(rows)
    path.parent.mkdir(exist_ok=True, parents=True)
    for suffix in (".svg", ".png"):
        chart.save(path.with_name(path.name + suffix))


def panels(rows: list[dict[str, object]]) -> alt.FacetChart:
    """Down and to the left is better; both axes are logarithmic."""
    macs = alt.X(
        "macs:Q",
        scale=alt.Scale(type="log", nice=False, padding=25),
        title="macs of one image",
        axis=alt.Axis(format="~s"),
    )
    error = {"scale": alt.Scale(type="log", nice=False, padding=15), "title": "error %"}
    scale = alt.Scale(domain=list(KINDS), range=list(COLOURS))
    base = alt.Chart().encode(x=macs, color=alt.Color("kind:N", scale=scale, title=""))
    spread = base.mark_rule(opacity=0.6).encode(y=alt.Y("least:Q", **error), y2="most:Q")
    points = base.mark_point(filled=True, size=45, opacity=1).encode(y=alt.Y("error:Q", **error))
    names = base.mark_text(align="left", dx=6, fontSize=8).encode(
        y=alt.Y("error:Q", **error), text="method:N"
    )
    layers = alt.layer(spread, points, names, data=alt.Data(values=rows))
    panel = layers.properties(width=PANEL_PX, height=PANEL_PX)
    return panel.facet(alt.Facet("set:N", title=None), columns=COLUMNS).resolve_scale(
        x="independent", y="independent"
    )
