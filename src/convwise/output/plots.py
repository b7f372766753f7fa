"""The report's pictures: plots as SVG, made without a network, and images as PNG data URIs.

Plots are drawn in the light colours of COLOURS; `render` then turns each into a CSS variable, so
that the page decides, and dark mode needs no second plot.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from convwise.core.records import Effect, Result
from convwise.core.score import ACCURACY, Score, score_of

COLOURS = {
    "ink": "#22211e",
    "soft": "#6b6861",
    "line": "#e3e0d9",
    "accent": "#1b5e9b",
    "second": "#b5541c",
    "muted": "#a39f96",
    "paper": "#fcfbf8",
}
SHADE = (255, 132, 20)  # stands out from gray images, in either mode
VERDICT_COLOURS = {"matters": "accent", "no difference": "muted", "not resolved": "second"}
MOST_DOTS = 1000
WIDTH = 440  # px of a full plot's inside; with its axis it still reads on a phone
FONT = "Arial, Liberation Sans, Helvetica, sans-serif"  # one set of widths everywhere: labels fit as measured
AXIS = {
    "domain": False,
    "ticks": False,
    "gridColor": COLOURS["line"],
    "labelColor": COLOURS["soft"],
    "labelFontSize": 13,
    "labelFlush": False,
    "labelPadding": 6,
    "titleColor": COLOURS["soft"],
    "titleFontSize": 13,
    "titleFontWeight": "normal",
    "titlePadding": 10,
}
CONFIG: dict[str, Any] = {
    "aria": False,  # the figure's caption speaks; a label per mark would double the file
    "background": None,
    "font": FONT,
    "view": {"stroke": None},
    "axis": AXIS,
    "text": {"fontSize": 13},
    "legend": {"labelColor": COLOURS["soft"], "labelFontSize": 13, "title": None, "symbolSize": 70, "orient": "top"},
}


def render(chart: Any) -> str:
    """The chart as an SVG element to put into a page; it has no ids, so several can stand in one page."""
    import vl_convert

    svg = vl_convert.vegalite_to_svg(chart.to_dict(), config=CONFIG, allowed_base_urls=[])
    for label, colour in COLOURS.items():
        svg = svg.replace(f'"{colour}"', f'"var(--{label}, {colour})"')
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1)


def _data(rows: Sequence[Mapping[str, Any]]) -> Any:
    import altair

    return altair.Chart(altair.Data(values=[dict(row) for row in rows]))


def scored(results: Sequence[Result]) -> list[Result]:
    """The results that have a finite validation score."""
    return [r for r in results if r.status == "done" and r.score is not None and math.isfinite(r.score)]


def _up(results: Sequence[Result]) -> tuple[Score, str, dict[str, Any]]:
    """How scores are told, the title of an axis of them, and the format of its labels."""
    score = score_of(results[0].trial.net) if results else ACCURACY
    return score, f"validation {score.name}", {} if score.is_error else {"format": "~%"}


def cost_plot(results: Sequence[Result], front: Sequence[Result], marked: Mapping[str, str]) -> str:
    """Validation accuracy, or error, against macs (log axis): trainings after equal time, the front as a staircase.

    marked: trial id -> label of the trials to point out; the first is the chosen one. '' where
    there are fewer than two to compare.
    """
    import altair as alt

    rows = [_cost_row(r, marked) for r in scored(results) if r.cost.get("macs", 0) > 0]
    if len(rows) < 2:
        return ""
    steps = [_cost_row(r, marked) for r in scored(front) if r.cost.get("macs", 0) > 0]
    x = alt.X("macs:Q", scale=alt.Scale(type="log", nice=False, padding=16), title="multiply-accumulates of one image")
    x = x.axis(format=".3~s", tickCount=6, grid=False, labelOverlap=True)
    scale = alt.Scale(zero=False, nice=False, padding=12)  # nice would reach beyond 100 %
    _, title, form = _up(results)
    y = alt.Y("score:Q", scale=scale, title=title).axis(**form)
    line = _data(steps).mark_line(interpolate="step-after", color=COLOURS["accent"], strokeWidth=1.5, opacity=0.55)
    dots = _data([r for r in rows if not r["label"]]).mark_point(
        size=44, color=COLOURS["muted"], filled=True, opacity=1
    )
    chart = line.encode(x, y) + dots.encode(x, y)
    for row in (r for r in rows if r["label"]):
        chart += _pointed_out(row, x, y, chosen=row["label"] == next(iter(marked.values())))
    return render(chart.properties(width=WIDTH, height=280))


def _cost_row(result: Result, marked: Mapping[str, str]) -> dict[str, Any]:
    value = score_of(result.trial.net).value(result.score or 0.0)
    return {"macs": float(result.cost["macs"]), "score": value, "label": marked.get(result.trial.id, "")}


def _pointed_out(row: Mapping[str, Any], x: Any, y: Any, chosen: bool) -> Any:
    """One trial with its name beside it: above where chosen, below otherwise, so that two stay apart."""
    colour = COLOURS["accent" if chosen else "second"]
    base = _data([row]).encode(x, y)
    dot = base.mark_point(size=120, filled=True, color=colour, opacity=1)
    style = {"dy": -15 if chosen else 17, "fontWeight": 600, "fontSize": 13}
    halo = base.mark_text(**style, color=COLOURS["paper"], stroke=COLOURS["paper"], strokeWidth=5, strokeJoin="round")
    text = base.mark_text(**style, color=colour)
    return dot + halo.encode(text="label:N") + text.encode(text="label:N")


def forest_plot(effects: Sequence[Effect], labels: Sequence[str]) -> str:
    """Change of accuracy, in points, or of an error, with its 95 % interval: one row per effect, in the order given."""
    import altair as alt

    rows = [_effect_row(effect, label) for effect, label in zip(effects, labels, strict=True)]
    if not rows:
        return ""
    words = [word for word in VERDICT_COLOURS if any(row["verdict"] == word for row in rows)]
    scale = alt.Scale(domain=words, range=[COLOURS[VERDICT_COLOURS[word]] for word in words])
    colour = alt.Color("verdict:N", scale=scale)
    y = alt.Y("label:N", sort=None, title=None).axis(labelLimit=215, grid=False, labelColor=COLOURS["ink"])
    is_error = effects[0].score.is_error
    title = "change of the error, in the unit of the target" if is_error else "change of accuracy, percentage points"
    x = alt.X("change:Q", title=title)
    x = x.axis(tickCount=7, format="+~g", labelExpr="datum.value == 0 ? '0' : datum.label")
    base = _data(rows).encode(y=y, color=colour)
    zero = _data([{"zero": 0}]).mark_rule(color=COLOURS["soft"], strokeWidth=1).encode(x="zero:Q")
    span = base.mark_rule(strokeWidth=2.5, strokeCap="round", opacity=0.75).encode(x="low:Q", x2="high:Q")
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(x=x)
    return render((zero + span + dots).properties(width=290, height=alt.Step(28)))


def _effect_row(effect: Effect, label: str) -> dict[str, Any]:
    score, factor = effect.score, 1 if effect.score.is_error else 100
    found = [score.change(each) for each in (effect.accuracy_change, effect.low, effect.high)]
    change, low, high = (factor * each if math.isfinite(each) else None for each in found)
    return {"label": label, "change": change, "low": low, "high": high, "verdict": effect.verdict}


def measure_plot(curve: Sequence[tuple[float, float]], across: str, up: str) -> str:
    """The points behind a measure, small; '' where there are fewer than two. Log axis from three decades on."""
    import altair as alt

    rows = [{"x": x, "y": y} for x, y in curve if math.isfinite(x) and math.isfinite(y)]
    if len(rows) < 2:
        return ""
    x = alt.X("x:Q", title=across or None, scale=alt.Scale(zero=False, nice=False))
    x = x.axis(tickCount=4, grid=False, labelExpr="datum.value < 1000 ? datum.label : format(datum.value, '~s')")
    low, high = min(row["y"] for row in rows), max(row["y"] for row in rows)
    scale = alt.Scale(type="log", nice=False) if low > 0 and high > 1000 * low else alt.Scale(zero=False)
    y = alt.Y("y:Q", title=up or None, scale=scale).axis(tickCount=3, format="~s" if high >= 10_000 else "")
    line = _data(rows).mark_line(color=COLOURS["accent"], strokeWidth=1.8, point=_dots(rows)).encode(x, y)
    return render(line.properties(width=185, height=105))


def _dots(rows: Sequence[Any]) -> Any:
    return {"color": COLOURS["accent"], "size": 26} if len(rows) <= 16 else False


def learning_plot(results: Sequence[Result], marked: Mapping[str, str]) -> str:
    """Validation accuracy, or error, against seconds of training, a line each; '' where nothing was measured."""
    import altair as alt

    runs = [(r, _accuracies(r)) for r in results]
    rows = [row for result, points in runs for row in _curve(result, points, marked)]
    if not rows:
        return ""
    x = alt.X("seconds:Q", title="seconds of training").axis(grid=False, tickCount=7)
    _, title, form = _up(results)
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False)).axis(**form)
    chart = _data([]).mark_point()
    for label, style in zip(["", *reversed(list(marked.values()))], _styles(len(marked)), strict=True):
        mine = [row for row in rows if row["label"] == label]
        chart += _run(mine, x, y, **style)
    return render(chart.properties(width=WIDTH - 45, height=250))


def _styles(marked: int) -> list[dict[str, Any]]:
    """Grey for the crowd, then the marked runs, the chosen one (the last) on top."""
    crowd = {"colour": "muted", "width": 1.0, "opacity": 0.6, "dy": 0}
    others = [{"colour": "second", "width": 2.4, "opacity": 1.0, "dy": 8}] * (marked - 1)
    return [crowd, *others, {"colour": "accent", "width": 2.4, "opacity": 1.0, "dy": -8}]


def _run(rows: Sequence[Mapping[str, Any]], x: Any, y: Any, colour: str, width: float, opacity: float, dy: int) -> Any:
    """Lines, with a dot where each trial ended: all there is to see of one that was measured once."""
    ink = COLOURS[colour]
    ends = _data(list({row["trial"]: row for row in rows}.values())).encode(x, y)
    line = _data(rows).mark_line(color=ink, strokeWidth=width, opacity=opacity).encode(x, y, detail="trial:N")
    dots = ends.mark_point(color=ink, filled=True, size=14 + 16 * width, opacity=opacity)
    text = ends.mark_text(align="left", dx=9, dy=dy, color=ink, fontWeight=600, fontSize=13)
    return line + dots + text.encode(text="label:N")


def _accuracies(result: Result) -> list[tuple[float, float]]:
    """The curve, ending at the score: the points before it may be measured on a part of the validation images."""
    found = [(e.seconds, e.accuracy) for e in result.history if e.accuracy is not None and math.isfinite(e.accuracy)]
    known, score = result.score is not None and math.isfinite(result.score), score_of(result.trial.net)
    ended = [*found[:-1], (found[-1][0], result.score or 0.0)] if found and known else found
    return [(seconds, score.value(each)) for seconds, each in ended]


def _curve(result: Result, points: Sequence[tuple[float, float]], marked: Mapping[str, str]) -> list[dict[str, Any]]:
    trial, label = result.trial.id, marked.get(result.trial.id, "")
    return [{"seconds": s, "value": v, "trial": trial, "label": label} for s, v in points]


def loss_plot(result: Result) -> str:
    """Mean loss of each epoch against seconds; '' where there are fewer than two."""
    import altair as alt

    rows = [{"seconds": e.seconds, "loss": e.loss} for e in result.history if math.isfinite(e.loss)]
    if len(rows) < 2:
        return ""
    x = alt.X("seconds:Q", title="seconds of training").axis(grid=False, tickCount=7)
    y = alt.Y("loss:Q", title="training loss", scale=alt.Scale(zero=False))
    line = _data(rows).mark_line(color=COLOURS["accent"], strokeWidth=2.2).encode(x, y)
    return render(line.properties(width=WIDTH, height=180))


def confusion_plot(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """Counts (true, predicted) as a heat map, shaded by the share of the true class. Right: blue, wrong: rust."""
    import altair as alt

    cell = int(np.clip(420 // len(classes), 20, 60))
    rows = [_cell(matrix, classes, i, j) for i in range(len(classes)) for j in range(len(classes))]
    wide = max(map(len, classes)) * 7 > cell
    x = alt.X("predicted:N", sort=None).axis(grid=False, labelLimit=110, orient="top", labelAngle=-45 if wide else 0)
    y = alt.Y("true:N", sort=None).axis(grid=False, labelLimit=110)
    colour, shade = alt.Fill("colour:N", scale=None), alt.FillOpacity("shade:Q", scale=None)
    tiles = _data(rows).mark_rect(cornerRadius=2).encode(x, y, colour, shade)
    ink = alt.condition("datum.shade > 0.55", alt.value(COLOURS["paper"]), alt.value(COLOURS["ink"]))
    counts = _data([r for r in rows if r["count"]]).mark_text(fontSize=min(12, cell // 2)).encode(x, y, text="count:Q")
    plot = (tiles + counts.encode(color=ink)).properties(width=alt.Step(cell), height=alt.Step(cell))
    return render(plot.configure_scale(bandPaddingInner=0.06))


def _cell(matrix: np.ndarray, classes: Sequence[str], true: int, predicted: int) -> dict[str, Any]:
    count, whole = int(matrix[true, predicted]), max(int(matrix[true].sum()), 1)
    colour = "line" if not count else "accent" if true == predicted else "second"
    shade = 0.45 if not count else min(0.18 + 0.82 * math.sqrt(count / whole), 1.0)
    names = {"true": classes[true], "predicted": classes[predicted]}
    return {**names, "count": count, "shade": shade, "colour": COLOURS[colour]}


def predicted_plot(true: np.ndarray, predicted: np.ndarray, name: str) -> str:
    """Answers against true numbers, a dot each, and the line on which they are right."""
    import altair as alt

    ends = [float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))]
    scale = alt.Scale(domain=ends, nice=True, zero=False)
    x = alt.X("true:Q", title=f"true {name}", scale=scale).axis(tickCount=6)
    y = alt.Y("answer:Q", title=f"predicted {name}", scale=scale).axis(tickCount=6)
    line = _data([{"true": end, "answer": end} for end in ends]).mark_line(color=COLOURS["second"], strokeWidth=1.5)
    return render((_dotted(true, predicted).encode(x, y) + line.encode(x, y)).properties(width=340, height=340))


def residual_plot(true: np.ndarray, residuals: np.ndarray, name: str) -> str:
    """Answers less the true numbers, against these."""
    import altair as alt

    x = alt.X("true:Q", title=f"true {name}", scale=alt.Scale(zero=False)).axis(tickCount=6, grid=False)
    y = alt.Y("answer:Q", title="answer less truth").axis(tickCount=6)
    zero = _data([{"zero": 0}]).mark_rule(color=COLOURS["second"], strokeWidth=1.5).encode(y="zero:Q")
    return render((_dotted(true, residuals).encode(x, y) + zero).properties(width=WIDTH, height=220))


def _dotted(across: np.ndarray, up: np.ndarray) -> Any:
    """At most MOST_DOTS of the pairs as dots, every so many-th: the page must not hold 10,000."""
    step = -(-len(across) // MOST_DOTS)
    pairs = zip(across[::step].tolist(), up[::step].tolist(), strict=True)
    rows = [{"true": float(f"{a:.5g}"), "answer": float(f"{b:.5g}")} for a, b in pairs]
    return _data(rows).mark_point(filled=True, size=16, color=COLOURS["accent"], opacity=0.5)


def png(pixels: np.ndarray, at_most: int) -> str:
    """A uint8 image (h, w, c) as a PNG data URI, reduced to `at_most` px on its longer side, never enlarged."""
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] < 3 else pixels[..., :3]))
    image.thumbnail((at_most, at_most), Image.Resampling.LANCZOS)
    return _uri(image)


def shade(shares: np.ndarray) -> str:
    """Shares 0 to 1 (h, w) as a PNG data URI of one colour, to be laid over an image: 0 lets everything through."""
    layer = np.zeros((*shares.shape, 4), np.uint8)
    layer[..., :3], layer[..., 3] = SHADE, np.rint(shares * 225)
    return _uri(Image.fromarray(layer))


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
