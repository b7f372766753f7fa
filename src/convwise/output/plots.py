"""The report's pictures: plots as SVG, made offline, and images as PNG data URIs.

Plots are drawn in the light colours of COLOURS; `render` then turns each into a CSS variable, so
that the page decides, and dark mode needs no second plot.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any

import numpy as np
from PIL import Image

from convwise.core.places import some_home
from convwise.core.records import Effect, Result
from convwise.core.score import ACCURACY, Score, score_of
from convwise.output.axes import fitting, log_ticks, ticks
from convwise.output.words import called

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
# Px of a full plot's inside; with its axis about 440, which can be read shrunk to a phone's 350
WIDTH = 370
ROWS = 44  # px of one effect: what was changed, and below it the interval
NARROW = 1.6  # a log axis reaches at least from 1 to this
# Fonts of one set of letter widths, so that labels fit as measured wherever they are shown
FONT = "Arial, Liberation Sans, Helvetica, sans-serif"
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
    "legend": {
        "labelColor": COLOURS["soft"],
        "labelFontSize": 13,
        "title": None,
        "symbolSize": 70,
        "orient": "top",
        "columnPadding": 24,
    },
}


# A mark that tells something when it is pointed at; browsers show a <title>, and no aria-label.
TOLD = re.compile(
    r'<path aria-label="([^"]*)" role="graphics-symbol" aria-roledescription="[^"]*"([^>]*?)/>'
)
LEFT_OUT = '<p class="empty">This plot was left out: there was no time to draw it.</p>'
_left_out: ContextVar[bool] = ContextVar("plots are left out", default=False)


@contextmanager
def left_out() -> Iterator[None]:
    """Inside, `render` says LEFT_OUT instead of drawing."""
    before = _left_out.set(True)
    try:
        yield
    finally:
        _left_out.reset(before)


def render(chart: Any) -> str:
    """The chart as an SVG element for a page; without ids, so that a page can hold several."""
    if _left_out.get():
        return LEFT_OUT
    import vl_convert

    svg = vl_convert.vegalite_to_svg(chart.to_dict(), config=CONFIG, allowed_base_urls=[])
    svg = TOLD.sub(r"<path\2><title>\1</title></path>", svg)
    for label, colour in COLOURS.items():
        svg = svg.replace(f'"{colour}"', f'"var(--{label}, {colour})"')
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1)


def altair() -> Any:
    """The plotting library, loaded on use."""
    with some_home():  # which it asks for as it is loaded; where there is none, any folder will do
        return import_module("altair")


def _data(rows: Sequence[Mapping[str, Any]]) -> Any:
    alt = altair()
    return alt.Chart(alt.Data(values=[dict(row) for row in rows]))


def scored(results: Sequence[Result]) -> list[Result]:
    """The results that have a finite validation score."""
    done = [r for r in results if r.status == "done" and r.score is not None]
    return [r for r in done if math.isfinite(r.score or 0.0)]


def _up(results: Sequence[Result]) -> tuple[Score, str, dict[str, Any]]:
    """How scores are told, the title of an axis of them, and the format of its labels."""
    score = score_of(results[0].trial.net, results[0].trial.score) if results else ACCURACY
    title = f"validation {score.title[0].lower()}{score.title[1:]}"
    return score, title, {} if score.is_error else {"format": "~%"}


def cost_plot(results: Sequence[Result], front: Sequence[Result], marked: Mapping[str, str],
              told: Callable[[Result], str] = lambda result: "") -> str:  # fmt: skip
    """Validation accuracy, or error, against macs (log axis): trainings after equal time, the front
    as a staircase.

    marked: trial id -> label of the trials to point out; the first is the chosen one. told: what a
    dot says of its training when it is pointed at. What lies apart below the others is a triangle
    at the edge. '' where there are fewer than two to compare.
    """
    alt = altair()

    known = [r for r in scored(results) if r.cost.get("macs", 0) > 0]
    if len(known) < 2:
        return ""
    score, title, form = _up(known)
    values = {r.trial.id: score.value(r.score or 0.0) for r in known}
    always = [value for id, value in values.items() if id in marked or score.is_error]
    low, high = fitting([*values.values()], always)
    rows = [_cost_row(r, marked, low, told) for r in known]
    steps = [_cost_row(r, marked, low, told) for r in scored(front)]
    steps = [row for row in steps if row["macs"] > 0 and not row["below"]]
    least, most = min(row["macs"] for row in rows), max(row["macs"] for row in rows)
    widened = max(NARROW * least / most, 1.0) ** 0.5
    least, most = least / widened, most * widened
    scale = alt.Scale(type="log", nice=False, domain=[least, most], padding=16)
    x = alt.X("macs:Q", title="multiply-accumulates of one image", scale=scale)
    x = x.axis(format=".3~s", values=log_ticks(least, most), grid=False, labelOverlap=True)
    # Not nice, which would reach beyond 100 %
    scale = alt.Scale(zero=False, nice=False, domain=[low, high], padding=14)
    y = alt.Y("score:Q", scale=scale, title=title).axis(**form, values=ticks(low, high))
    line = _data(steps).mark_line(
        interpolate="step-after", color=COLOURS["accent"], strokeWidth=1.5, opacity=0.55
    )
    crowd = _data([r for r in rows if not r["label"]])
    marks = alt.Scale(domain=[False, True], range=["circle", "triangle-down"])
    shape = alt.Shape("below:N", legend=None, scale=marks)
    dots = crowd.mark_point(size=56, color=COLOURS["muted"], filled=True, opacity=1, aria=True)
    chart = line.encode(x, y) + dots.encode(x, y, shape, description="told:N")
    for row in (r for r in rows if r["label"]):
        chart += _pointed_out(row, x, y, chosen=row["label"] == next(iter(marked.values())))
    return render(chart.properties(width=WIDTH, height=280))


def _cost_row(
    result: Result, marked: Mapping[str, str], low: float, told: Callable[[Result], str]
) -> dict[str, Any]:
    macs, score = result.cost.get("macs", 0), score_of(result.trial.net).value(result.score or 0.0)
    place = {"macs": float(macs), "score": max(score, low), "below": score < low}
    return {**place, "label": marked.get(result.trial.id, ""), "told": told(result)}


def _pointed_out(row: Mapping[str, Any], x: Any, y: Any, chosen: bool) -> Any:
    """One trial with its name: above it where chosen, else below, so that two stay apart."""
    colour = COLOURS["accent" if chosen else "second"]
    base = _data([row]).encode(x, y)
    dot = base.mark_point(size=120, filled=True, color=colour, opacity=1, aria=True)
    style = {"dy": -15 if chosen else 17, "fontWeight": 600, "fontSize": 13}
    paper = COLOURS["paper"]
    named = base.encode(text="label:N")
    halo = named.mark_text(**style, color=paper, stroke=paper, strokeWidth=5, strokeJoin="round")
    return dot.encode(description="told:N") + halo + named.mark_text(**style, color=colour)


def forest_plot(effects: Sequence[Effect], labels: Sequence[str]) -> str:
    """Changes of accuracy, in points, or of an error, with 95 % intervals, in the order given."""
    alt = altair()

    rows = [_effect_row(effect, label) for effect, label in zip(effects, labels, strict=True)]
    if not rows:
        return ""
    words = [word for word in VERDICT_COLOURS if any(row["verdict"] == word for row in rows)]
    scale = alt.Scale(domain=words, range=[COLOURS[VERDICT_COLOURS[word]] for word in words])
    colour = alt.Color("verdict:N", scale=scale)
    y = alt.Y("label:N", sort=None, axis=None)
    score = effects[0].score
    unit = f"{called(score.name)}, percentage points"
    if score.is_error:
        unit = "standard deviations" if score.numbers > 1 else "the unit of the target"
        unit = f"the error, in {unit}"
    x = alt.X("change:Q", title=f"change of {unit}")
    x = x.axis(tickCount=7, format="+~g", labelExpr="datum.value == 0 ? '0' : datum.label")
    base = _data(rows).encode(y=y, color=colour)
    zero = _data([{"zero": 0}]).mark_rule(color=COLOURS["soft"], strokeWidth=1).encode(x="zero:Q")
    span = base.mark_rule(strokeWidth=2.5, strokeCap="round", opacity=0.75, yOffset=8)
    span = span.encode(x="low:Q", x2="high:Q")
    dots = base.mark_point(filled=True, size=80, opacity=1, yOffset=8).encode(x=x)
    text = _data(rows).mark_text(align="left", color=COLOURS["ink"], yOffset=-10, limit=WIDTH + 40)
    named = text.encode(y=y, x=alt.value(0), text="label:N")
    return render((zero + span + dots + named).properties(width=WIDTH + 40, height=alt.Step(ROWS)))


def _effect_row(effect: Effect, label: str) -> dict[str, Any]:
    score, factor = effect.score, 1 if effect.score.is_error else 100
    found = [score.change(each) for each in (effect.accuracy_change, effect.low, effect.high)]
    change, low, high = (factor * each if math.isfinite(each) else None for each in found)
    return {"label": label, "change": change, "low": low, "high": high, "verdict": effect.verdict}


def measure_plot(curve: Sequence[tuple[float, float]], across: str, up: str) -> str:
    """The points behind a measure, small; '' where there are fewer than two.

    Log axis from three decades on.
    """
    alt = altair()

    rows = [{"x": x, "y": y} for x, y in curve if math.isfinite(x) and math.isfinite(y)]
    if len(rows) < 2:
        return ""
    x = alt.X("x:Q", title=across or None, scale=alt.Scale(zero=False, nice=False))
    short = "datum.value < 1000 ? datum.label : format(datum.value, '~s')"
    x = x.axis(tickCount=4, grid=False, labelExpr=short)
    low, high = min(row["y"] for row in rows), max(row["y"] for row in rows)
    wide = low > 0 and high > 1000 * low
    scale = alt.Scale(type="log", nice=False) if wide else alt.Scale(zero=False)
    y = alt.Y("y:Q", title=up or None, scale=scale)
    y = y.axis(tickCount=3, format="~s" if high >= 10_000 else "")
    dots = {"color": COLOURS["accent"], "size": 26} if len(rows) <= 16 else False
    line = _data(rows).mark_line(color=COLOURS["accent"], strokeWidth=1.8, point=dots).encode(x, y)
    return render(line.properties(width=185, height=105))


def learning_plot(results: Sequence[Result], marked: Mapping[str, str],
                  told: Callable[[Result], str] = lambda result: "") -> str:  # fmt: skip
    """Validation accuracy, or error, against seconds of training, a line each; '' where nothing was
    measured.

    told: what its last dot says of a training when it is pointed at.
    """
    alt = altair()

    rows, ends = list[dict[str, Any]](), list[float]()
    for result in results:
        id, points = result.trial.id, _accuracies(result)
        fixed = {"trial": id, "label": marked.get(id, ""), "told": told(result)}
        rows += [{"seconds": seconds, "value": value, **fixed} for seconds, value in points]
        ends += [value for _, value in points[-1:]]
    if not rows:
        return ""
    x = alt.X("seconds:Q", title="seconds of training").axis(grid=False, tickCount=7)
    score, title, form = _up(results)
    values = [row["value"] for row in rows]
    low, high = fitting(values if score.is_error else ends)
    # Where trainings ended, and as much again below for how they began
    low, high = max(min(values), 2 * low - high), max(high, *values)
    y = alt.Y("value:Q", title=title, scale=alt.Scale(nice=False, domain=[low, high], padding=22))
    y = y.axis(**form, values=ticks(low, high))
    chart = _data([]).mark_point()
    labels = ["", *reversed(list(marked.values()))]
    for label, style in zip(labels, _styles(len(marked)), strict=True):
        mine = [row for row in rows if row["label"] == label]
        chart += _run(mine, x, y, **style)
    return render(chart.properties(width=WIDTH - 45, height=250))


def _styles(marked: int) -> list[dict[str, Any]]:
    """Grey for the crowd, then the marked runs, the chosen one (the last) on top."""
    crowd = {"colour": "muted", "width": 1.0, "opacity": 0.6, "dy": 0}
    others = [{"colour": "second", "width": 2.4, "opacity": 1.0, "dy": 16}] * (marked - 1)
    return [crowd, *others, {"colour": "accent", "width": 2.4, "opacity": 1.0, "dy": -13}]


def _run(
    rows: Sequence[Mapping[str, Any]],
    x: Any,
    y: Any,
    colour: str,
    width: float,
    opacity: float,
    dy: int,
) -> Any:
    """Lines, with a dot where each trial ended, to see those that were measured once as well."""
    ink = COLOURS[colour]
    ends = _data(list({row["trial"]: row for row in rows}.values())).encode(x, y)
    line = _data(rows).mark_line(color=ink, strokeWidth=width, opacity=opacity, clip=True)
    dots = ends.mark_point(
        color=ink, filled=True, size=14 + 16 * width, opacity=opacity, clip=True, aria=True
    )
    dots = dots.encode(description="told:N")
    text = ends.mark_text(align="right", dx=6, dy=dy, color=ink, fontWeight=600, fontSize=13)
    return line.encode(x, y, detail="trial:N") + dots + text.encode(text="label:N")


def _accuracies(result: Result) -> list[tuple[float, float]]:
    """The curve, ending at the score: earlier points may be of a part of the validation images."""
    measured = [(e.seconds, e.accuracy) for e in result.history if e.accuracy is not None]
    found = [(seconds, each) for seconds, each in measured if math.isfinite(each)]
    if found and result.score is not None and math.isfinite(result.score):
        found[-1] = found[-1][0], result.score
    score = score_of(result.trial.net)
    return [(seconds, score.value(each)) for seconds, each in found]


def loss_plot(result: Result) -> str:
    """Mean loss of each epoch against seconds; '' where there are fewer than two."""
    alt = altair()

    rows = [{"seconds": e.seconds, "loss": e.loss} for e in result.history if math.isfinite(e.loss)]
    if len(rows) < 2:
        return ""
    x = alt.X("seconds:Q", title="seconds of training").axis(grid=False, tickCount=7)
    y = alt.Y("loss:Q", title="training loss", scale=alt.Scale(zero=False))
    line = _data(rows).mark_line(color=COLOURS["accent"], strokeWidth=2.2).encode(x, y)
    return render(line.properties(width=WIDTH, height=180))


def confusion_plot(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """Counts (true, predicted) as a heat map, shaded by the share of the true class.

    What is right is blue, what is wrong rust.
    """
    alt = altair()

    cell = int(np.clip((WIDTH - 20) // len(classes), 15, 50))
    rows = [_cell(matrix, classes, i, j) for i in range(len(classes)) for j in range(len(classes))]
    wide = max(map(len, classes)) * 7 > cell
    x = alt.X("predicted:N", sort=None)
    x = x.axis(grid=False, labelLimit=110, orient="top", labelAngle=-45 if wide else 0)
    y = alt.Y("true:N", sort=None).axis(grid=False, labelLimit=110)
    colour, shade = alt.Fill("colour:N", scale=None), alt.FillOpacity("shade:Q", scale=None)
    tiles = _data(rows).mark_rect(cornerRadius=2).encode(x, y, colour, shade)
    light, dark = alt.value(COLOURS["paper"]), alt.value(COLOURS["ink"])
    ink = alt.condition("datum.shade > 0.55", light, dark)
    counts = _data([r for r in rows if r["count"]]).mark_text(fontSize=min(12, cell // 2))
    plot = tiles + counts.encode(x, y, text="count:Q", color=ink)
    plot = plot.properties(width=alt.Step(cell), height=alt.Step(cell))
    return render(plot.configure_scale(bandPaddingInner=0.06))


def _cell(matrix: np.ndarray, classes: Sequence[str], true: int, predicted: int) -> dict[str, Any]:
    count, whole = int(matrix[true, predicted]), max(int(matrix[true].sum()), 1)
    colour = "line" if not count else "accent" if true == predicted else "second"
    shade = 0.45 if not count else min(0.18 + 0.82 * math.sqrt(count / whole), 1.0)
    names = {"true": classes[true], "predicted": classes[predicted]}
    return {**names, "count": count, "shade": shade, "colour": COLOURS[colour]}


def predicted_plot(true: np.ndarray, predicted: np.ndarray, name: str) -> str:
    """Answers against true numbers, a dot each, and the line on which they are right."""
    alt = altair()

    ends = [float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))]
    scale = alt.Scale(domain=ends, nice=True, zero=False)
    x = alt.X("true:Q", title=f"true {name}", scale=scale).axis(tickCount=6)
    y = alt.Y("answer:Q", title=f"predicted {name}", scale=scale).axis(tickCount=6)
    line = _data([{"true": end, "answer": end} for end in ends])
    line = line.mark_line(color=COLOURS["second"], strokeWidth=1.5)
    chart = _dotted(true, predicted).encode(x, y) + line.encode(x, y)
    return render(chart.properties(width=340, height=340))


def residual_plot(true: np.ndarray, residuals: np.ndarray, name: str) -> str:
    """Answers less the true numbers, against these."""
    alt = altair()

    x = alt.X("true:Q", title=f"true {name}", scale=alt.Scale(zero=False))
    x = x.axis(tickCount=6, grid=False)
    y = alt.Y("answer:Q", title="answer minus true number").axis(tickCount=6)
    zero = _data([{"zero": 0}]).mark_rule(color=COLOURS["second"], strokeWidth=1.5)
    chart = _dotted(true, residuals).encode(x, y) + zero.encode(y="zero:Q")
    return render(chart.properties(width=WIDTH, height=220))


def _dotted(across: np.ndarray, up: np.ndarray) -> Any:
    """At most MOST_DOTS of the pairs as dots, every so many-th: the page must not hold 10,000."""
    step = -(-len(across) // MOST_DOTS)
    pairs = zip(across[::step].tolist(), up[::step].tolist(), strict=True)
    rows = [{"true": float(f"{a:.5g}"), "answer": float(f"{b:.5g}")} for a, b in pairs]
    return _data(rows).mark_point(filled=True, size=16, color=COLOURS["accent"], opacity=0.5)


def png(pixels: np.ndarray, at_most: int) -> str:
    """A uint8 image (h, w, c) as a PNG data URI, its longer side reduced to `at_most` px."""
    shown = pixels[..., 0] if pixels.shape[-1] < 3 else pixels[..., :3]
    image = Image.fromarray(np.ascontiguousarray(shown))
    image.thumbnail((at_most, at_most), Image.Resampling.LANCZOS)
    return _uri(image)


def shade(shares: np.ndarray) -> str:
    """Shares 0 to 1 (h, w) as a PNG data URI of one colour to lay over an image; 0 is clear."""
    layer = np.zeros((*shares.shape, 4), np.uint8)
    layer[..., :3], layer[..., 3] = SHADE, np.rint(shares * 225)
    return _uri(Image.fromarray(layer))


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
