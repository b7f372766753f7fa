"""The report: what it says, that it is one closed file, and how a real browser shows it."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from browsing import barriers, launched
from convwise.advice.fingerprint import look
from convwise.core.layers import Add, Conv2D, Dense, Flatten
from convwise.core.net import Net
from convwise.core.records import Effect, Verdict
from convwise.output import drawings, plots, report, words
from convwise.output.answered import Scored, classify
from convwise.output.evidence import Evidence
from made_evidence import HOSTILE, evidence, longest, space

SECTIONS = ["choice", "tradeoff", "effects", "reasons", "network", "learning", "mistakes",
            "fingerprint", "problems",
            "code", "reproduce", "words"]  # fmt: skip


class Page(HTMLParser):
    """Tags, attributes and visible text of a page, read by the standard library."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._inside = "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        self.text += "" if self._inside in ("script", "style") else data


def written(folder: Path, **changes: Any) -> str:
    report.write(str(folder / "report.html"), evidence(**changes))
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    written(folder)
    return folder / "report.html"


def test_is_one_small_closed_file(whole: Path) -> None:
    text = whole.read_text(encoding="utf-8")
    assert len(text) < 3e6
    page = Page(text)
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "data", "action", "srcset"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, name, value[:60])
    urls = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert urls <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in text
    assert "url(" not in text.replace("url(#", "")


def test_sections_stand_in_order(whole: Path) -> None:
    page = Page(whole.read_text(encoding="utf-8"))
    assert [a["id"] for tag, a in page.tags if tag == "section"] == SECTIONS
    assert [a["href"] for tag, a in page.tags if tag == "a"][: len(SECTIONS)] == [
        f"#{id}" for id in SECTIONS
    ]
    # The others are of dots in plots
    assert whole.read_text(encoding="utf-8").count("· convwise</title>") == 1


def test_the_answers_come_first_then_the_bars(tmp_path: Path) -> None:
    text = written(tmp_path, estimate={**evidence().estimate, "baseline": 0.2})
    begin = [
        text.index(each)
        for each in ('<ul class="cards">', '<div class="bars scores"', '<dl class="lines">')
    ]
    assert begin == sorted(begin)


def test_hostile_names_stay_text(whole: Path) -> None:
    text = whole.read_text(encoding="utf-8")
    assert HOSTILE not in text
    page = Page(text)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert page.text.count("alert(") >= 4  # class bars, heat map, recall, the broken file
    assert f"test/{HOSTILE}.png" in page.text or f"photos/{HOSTILE}.png" in page.text


def test_ids_are_unique(whole: Path) -> None:
    ids = [a["id"] for _, a in Page(whole.read_text(encoding="utf-8")).tags if a.get("id")]
    assert len(ids) == len(set(ids))


def test_every_reference_inside_the_page_resolves(whole: Path) -> None:
    text = whole.read_text(encoding="utf-8")
    ids = {a["id"] for _, a in Page(text).tags if a.get("id")}
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= ids
    assert {a["href"][1:] for tag, a in Page(text).tags if tag == "a" and a["href"]} <= ids


def test_no_light_colour_is_left_in_the_plots(whole: Path) -> None:
    svgs = "".join(
        re.findall(r"<svg aria-hidden.*?</svg>", whole.read_text(encoding="utf-8"), re.DOTALL)
    )
    fixed = re.findall(r'(?:fill|stroke)="(#[0-9a-fA-F]{3,8}|black|white|rgb[^"]*)"', svgs)
    assert svgs.count("<svg") == 9
    assert not fixed


def test_what_was_measured_is_said(whole: Path) -> None:
    text = Page(whole.read_text(encoding="utf-8")).text
    case = evidence()
    assert f"{100 * case.estimate['accuracy']:.1f}\u202f%" in text
    assert f"{case.cost['params']:,.0f}" in text
    assert (
        "measured to matter after 8 s of training: stem.strides 1 → 2 (−3.4 points);"
        " stem.kernel_size 3 → 5" in text
    )
    assert (
        "After 8 s of training: activation relu → silu; dropout 0 → 0.2: take the cheaper" in text
    )
    assert "Not resolved in the time there was: head" in text
    assert "failed: out of memory" in text
    assert all(f"{layer.name}" in text for layer in case.net.layers)


def test_what_was_behind_early_and_is_taken_is_no_headline() -> None:
    case = evidence()
    chosen = case.verdict.chosen
    chosen = replace(
        chosen,
        trial=replace(
            chosen.trial, configuration={**chosen.trial.configuration, "training.flip": True}
        ),
    )
    behind = Effect("training.flip", False, True, -0.02, -0.03, -0.01, 1.0, "matters", 2, 8.0)
    for configuration, said in ((case.verdict.chosen, True), (chosen, False)):
        verdict = replace(
            case.verdict, chosen=configuration, effects=(*case.verdict.effects, behind)
        )
        lines = dict(report.summary(replace(case, verdict=verdict), case.cost))
        assert ("training.flip no → yes (−2.0 points)" in lines["Why"]) == said
    quiet_ = tuple(replace(e, verdict="not resolved") for e in case.verdict.effects)
    verdict = replace(case.verdict, chosen=chosen, effects=(*quiet_, behind))
    why = dict(report.summary(replace(case, verdict=verdict), case.cost))["Why"]
    assert why.startswith("No other single change of the ")


def test_where_nothing_mattered_the_largest_change_is_said() -> None:
    case = evidence()
    quiet_ = tuple(replace(e, verdict="not resolved") for e in case.verdict.effects[3:])
    lines = dict(
        report.summary(replace(case, verdict=replace(case.verdict, effects=quiet_)), case.cost)
    )
    told = (
        "No single change of the 4 tried was measured to matter; the largest, after 16 s of"
        " training"
    )
    assert lines["Why"] == f"{told}: training.flip no → yes (−1.2 points, −3.4 to +1.0)."
    lines = dict(
        report.summary(replace(case, verdict=replace(case.verdict, effects=())), case.cost)
    )
    assert "stem.kernel_size 5, patches of 5 px" in lines["Why"]
    assert "input.size" not in lines["Why"]  # its measure was not taken


def test_a_learning_curve_ends_at_the_score() -> None:
    """Points on the way are measured on 500 validation images at most, the score on all of them."""
    run = evidence().results[2]
    assert run.history[-1].accuracy != run.score
    points = plots._accuracies(run)
    assert points[-1] == (run.history[-1].seconds, run.score)
    assert points[:-1] == [(p.seconds, p.accuracy) for p in run.history[:-1]]


def test_every_curve_of_a_measure_has_axes() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    pixels = (
        rng.integers(0, 200, (200, 16, 16, 1))
        + 9 * labels[:, None, None, None] * (np.arange(16) > 8)[:, None]
    )
    part = SimpleNamespace(pixels=pixels.astype(np.uint8), labels=labels)
    found = look(part, ("a", "b"))
    assert set(report.AXES) == {m.name for m in found.measures if m.curve}
    drawn = report.fingerprint(found)["curves"]
    assert all(">probe accuracy<" in svg for name, svg in drawn if name == "data_sufficiency")
    assert all(svg.count("role-axis-title") == 2 for _, svg in drawn)


def test_how_other_programs_are_to_resize_is_told_with_what_was_seen() -> None:
    case = evidence()
    seen = replace(case, estimate={**case.estimate, "resized_otherwise": {"n": 372, "same": 364}})
    assert "Other programs" not in dict(report.summary(case, case.cost))
    line = dict(report.summary(seen, case.cost))["Other programs"]
    rows, columns, _ = case.net.input_shape
    assert line.startswith(
        f"Resize pictures to {rows}×{columns} with antialiasing: Pillow's BILINEAR"
    )
    assert line.endswith(
        "By nearest pixel, which is load_img's default, 97.8 % of 372 images get the same answer."
    )


def test_summary_is_four_lines_and_what_makes_no_difference() -> None:
    labels = [label for label, _ in report.summary(evidence(), evidence().cost)]
    assert labels == ["Accuracy", "Network", "Choice", "Why"]
    told = evidence().verdict.effects
    assert "take the cheaper" in report.same_line(told)
    head = next(e for e in told if e.verdict == "not resolved")
    again = report.same_line((*told, replace(head, verdict="no difference")))
    assert head.parameter in again.partition("take the cheaper")[0]
    assert head.parameter not in again.partition("take the cheaper")[2]


def _bare() -> dict[str, Any]:
    """One failed-free trial, nothing measured, nothing scored."""
    chosen = replace(evidence().verdict.chosen, score=None, history=(), cost={})
    facts = replace(evidence().fingerprint, measures=())
    empty = np.empty((0, 64, 64, 3), np.uint8)
    return {
        "verdict": Verdict(chosen, (), (), ()), "results": (chosen,), "fingerprint": facts,
        "problems": (),
        "estimate": {"kind": "validation", "accuracy": None, "low": None, "high": None, "n": 0},
        "pixels": empty,
        "labels": np.empty(0, int), "answers": np.empty((0, 6)), "names": (), "code": {},
        "cost": {},
        "differences": {}, "provenance": {}, "sight": None,
    }  # fmt: skip


def _many() -> tuple[str, ...]:
    return tuple(f"Greek/character{i:02d}" for i in range(100))


CASES: dict[str, dict[str, Any]] = {
    "bare": _bare(),
    "two classes, small and gray": {
        "shape": (8, 8, 1),
        "classes": ("benign", "malignant"),
        "n": 40,
    },
    "a hundred classes": {"shape": (28, 28, 1), "classes": _many(), "n": 300},
    "four channels": {"shape": (16, 20, 4), "n": 12},
    "no effects, no test": {
        "verdict": replace(evidence().verdict, effects=()),
        "estimate": {"kind": "validation", "accuracy": 0.9, "low": 0.85, "high": 0.94, "n": 240},
    },
    "no better than guessing": {
        "verdict": replace(
            evidence().verdict, notes=("The budget was too short.", "It was interrupted.")
        ),
        "estimate": {
            "kind": "test",
            "accuracy": 0.21,
            "low": 0.16,
            "high": 0.27,
            "n": 240,
            "baseline": 0.2,
            "better_than_guessing": False,
        },
    },
    "not finite": {
        "verdict": replace(
            evidence().verdict,
            effects=(Effect("head", "a", "b", 0.0, -np.inf, np.inf, 1.0, "not resolved"),),
        )
    },
    "broken file names": {
        "classes": ("a\udcffb", "b"),
        "n": 20,
        "names": tuple("\udcff" for _ in range(20)),
    },
    "longest": longest(),
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp("odd") for name in CASES}
    for name, folder in folders.items():
        written(folder, **CASES[name])
    return {name: folder / "report.html" for name, folder in folders.items()}


@pytest.mark.parametrize("name", CASES)
def test_degrades(odd: dict[str, Path], name: str) -> None:
    page = Page(odd[name].read_text(encoding="utf-8"))
    assert [a["id"] for tag, a in page.tags if tag == "section"] == SECTIONS
    assert not re.findall(r"\b(?:None(?! found)|nan|inf|Undefined)\b|\{\{", page.text)


def test_a_validation_estimate_is_called_so(odd: dict[str, Path]) -> None:
    text = Page(odd["no effects, no test"].read_text(encoding="utf-8")).text
    assert "Accuracy, validation estimate" in text
    assert "These images also helped to choose" in text
    assert "validation images are answered wrongly" in text
    assert "sealed test" not in text
    assert "The study itself measured no effect of a single parameter" in text
    assert "No other value was trained beside the advised network" in text


@pytest.mark.parametrize(
    ("provenance", "told"),
    [({"wall_seconds": 297.6, "budget_seconds": 300.0, "trials": None}, "298 s of 300"),
     ({"wall_seconds": 41.2, "budget_seconds": 600.0, "trials": 4}, "41 s"), ({}, "")],
)  # fmt: skip
def test_the_time_spent_is_told(provenance: dict[str, Any], told: str, tmp_path: Path) -> None:
    assert words.spent(provenance) == told
    with plots.left_out():
        written(tmp_path, provenance=provenance)
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert ("up to this report" in text) == bool(told)
    assert told in text


def test_a_network_no_better_than_guessing_is_not_called_the_choice(odd: dict[str, Path]) -> None:
    text = Page(odd["no better than guessing"].read_text(encoding="utf-8")).text
    assert "No network was chosen. The budget was too short." in text
    assert text.index("No network was chosen") < text.index("Multiply-accumulates")
    assert text.count("The budget was too short.") == 1
    assert "It was interrupted." in text
    assert "always the largest class" in text
    assert (
        "No network was chosen"
        not in Page(odd["no effects, no test"].read_text(encoding="utf-8")).text
    )


def test_a_value_that_the_trials_overruled_is_named() -> None:
    """The advice reasons for 16 filters; where the chosen net has 32, the table must not hide
    it.
    """
    case = evidence()
    configuration = {
        **case.verdict.chosen.trial.configuration,
        "stage.filters": 32,
        "stem.kernel_size": 5,
    }
    told = {
        r["row"].parameter: r["instead"]
        for r in report.reasons(case.verdict.reasons, (), configuration)
    }
    assert told == dict.fromkeys(told) | {"stage.filters": 32}


def test_a_reason_says_what_trials_said_of_it() -> None:
    verdict = evidence().verdict
    filters = replace(
        next(r for r in verdict.reasons if r.parameter == "stage.filters"), trials="refuted"
    )
    effect = Effect("stage.filters", 16, 24, 0.021, 0.004, 0.038, 1.4, "matters", 2, 8.0)
    row, other = report.reasons(
        (filters, replace(filters, parameter="padding", trials=None)), (effect,), {}
    )
    assert row["tried"] == "after 8 s of training: 16 → 24: +2.1 points (+0.4 to +3.8)"
    assert not other["tried"]
    page = report._page("reasons.html.j2", {"reasons": [row, other]})
    assert page.count("refuted</span>") == 1


def test_the_chosen_and_the_advised_training_are_pointed_out_by_their_first_parts() -> None:
    case = evidence()
    assert case.marked == {"t000": "chosen, as advised"}
    other = next(r for r in case.results if r.trial.configuration["stem.strides"] == 2)
    assert replace(case, verdict=replace(case.verdict, chosen=other)).marked == {
        other.trial.id: "chosen", "t000": "advised",
    }  # fmt: skip
    mirrored = next(r for r in case.results if r.trial.id == "t091")
    assert replace(case, verdict=replace(case.verdict, chosen=mirrored)).marked == {
        "t001": "chosen",
        "t000": "advised",
    }
    assert replace(case, advised={"n": 0}).marked == {"t000": "chosen"}


def test_a_learning_curve_joins_the_parts_of_one_training() -> None:
    case = evidence()
    whole = next(
        report.joined(training) for training in case.trainings if training[0].trial.id == "t000"
    )
    by_id = {r.trial.id: r for r in case.results}
    parts = [by_id[name] for name in ("t000", "t090", "t092")]
    points = [point for part in parts for point in part.history]
    assert [point.accuracy for point in whole.history] == [point.accuracy for point in points]
    seconds = [point.seconds for point in whole.history]
    assert seconds == sorted(set(seconds))
    assert seconds[-1] == pytest.approx(sum(part.history[-1].seconds for part in parts))
    assert whole.history[-1].images == sum(part.history[-1].images for part in parts)
    assert (whole.trial.id, whole.score) == ("t000", parts[-1].score)
    ended = [r.trial.id for r in case.results if r.status == "done" and r.trial.phase == "race"]
    assert sorted(r.trial.id for training in case.trainings for r in training) == sorted(ended)


def test_accuracy_and_cost_compare_equal_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that others did not have are no rivals: the leader's last one would win against
    everything.
    """
    case, drawn = evidence(), []
    monkeypatch.setattr(plots, "cost_plot", lambda results, *rest: drawn.extend(results) or "")
    report.tradeoff(case)
    assert {r.trial.id for r in drawn} == {
        r.trial.id
        for r in case.results
        if r.status == "done" and r.trial.span[0] == 0 and r.trial.phase == "race"
    }
    line = dict(report.summary(case, case.cost))["Choice"]
    first, last = case.results[0], case.verdict.chosen
    assert f"One of {len(case.trainings)} trainings; 1 trial failed." in line
    assert f"it had {report.percent(first.score)} in validation" in line
    # No error that no rule looked at
    assert line.endswith(f"At the end of the race: {report.percent(last.score)}.")


@pytest.mark.parametrize(
    ("part", "said"), [("all", "Nothing was held back"), ("train", "validation part was held")]
)
def test_the_final_training_says_what_it_saw(tmp_path: Path, part: str, said: str) -> None:
    case = evidence()
    final = replace(case.results[-1], trial=replace(case.results[-1].trial, part=part), score=0.9)
    results = (*case.results[:-1], final)
    assert replace(case, results=results).final is final
    with plots.left_out():
        text = " ".join(Page(written(tmp_path, results=results)).text.split())
    assert f"The rest of the chosen network's training{',' if part == 'all' else ':'}" in text
    assert said in text
    # That network is no part of the race
    assert len(replace(case, results=results).trainings) == len(case.trainings)


def mistakes(case: Evidence) -> dict[str, Any]:
    return classify.section(
        Scored(case.pixels, case.labels, case.answers, case.names, case.outputs, case.net)
    )


def test_many_classes_show_pairs_instead_of_a_map() -> None:
    shown = mistakes(evidence((28, 28, 1), _many(), 300))
    assert shown["plot"] == ""
    assert 0 < len(shown["pairs"]) <= classify.MOST_PAIRS
    counts = [pair["count"] for pair in shown["pairs"]]
    assert counts == sorted(counts, reverse=True)
    assert len(shown["recall"]) == 100


def test_mistakes_agree_with_a_plain_count() -> None:
    case = evidence()
    shown = mistakes(case)
    guesses = [max(range(6), key=lambda k: row[k]) for row in case.answers]
    wrong = [
        i
        for i, (guess, label) in enumerate(zip(guesses, case.labels, strict=True))
        if guess != label
    ]
    assert shown["wrong"] == len(wrong)
    assert sum(pair["count"] for pair in shown["pairs"]) == len(wrong)
    surest = max(wrong, key=lambda i: case.answers[i].max())
    first = shown["pictures"][0]
    assert (first["true"], first["file"]) == (case.outputs[case.labels[surest]], case.names[surest])
    for row in shown["recall"]:
        mine = [i for i, label in enumerate(case.labels) if case.outputs[label] == row["name"]]
        assert row["recall"] == pytest.approx(
            sum(guesses[i] == case.labels[i] for i in mine) / len(mine)
        )


def test_the_field_is_what_the_layer_reads() -> None:
    """Change one pixel after another and see which reach the middle output: naive, on a net of
    ones.
    """
    net = Net((9, 9, 1), (Conv2D(1, 3, 2, "same"), Conv2D(1, 3, 1, "same"), Flatten(), Dense(2)))
    case = evidence((9, 9, 1), ("a", "b"), 4)
    chosen = replace(case.verdict.chosen, trial=replace(case.verdict.chosen.trial, net=net))
    stages = report.fields(replace(case, verdict=replace(case.verdict, chosen=chosen)))["stages"]
    seen = {
        (y, x)
        for y in range(9) for x in range(9)
        for a in range(1, 4) for b in range(1, 4)  # the middle of 5 outputs, and its neighbours
        if abs(y - 2 * a) <= 1 and abs(x - 2 * b) <= 1
    }  # fmt: skip
    box = stages[-1]["box"]
    drawn = {
        (box["y"] + i, box["x"] + j) for i in range(box["height"]) for j in range(box["width"])
    }
    assert drawn == seen
    assert stages[-1]["share"] == pytest.approx(len(seen) / 81)


def test_what_the_net_really_uses_is_drawn_and_said(whole: Path, odd: dict[str, Path]) -> None:
    sight = evidence().sight
    assert sight is not None
    most = sight.holding(0.95)
    said = (
        f"within {sight.holding(0.5)}×{sight.holding(0.5)} px, and 95\xa0% within {most}×{most} px"
    )
    assert said in Page(whole.read_text(encoding="utf-8")).text
    box = report.fields(evidence())["used"]["most"]
    # A px is drawn from i to i + 1
    middle = box["x"] + box["width"] / 2 - 0.5, box["y"] + box["height"] / 2 - 0.5
    assert middle == (sight.centre[1], sight.centre[0])
    edge = replace(sight, map=np.eye(8, dtype=np.float32), centre=(1.0, 1.0), box=(0, 8, 0, 8))
    assert edge.holding(0.95) > 8  # a square around a middle that is near the edge
    assert (
        report.fields(replace(evidence((8, 8, 1), ("a", "b"), 4), sight=edge))["used"]["all"]
        == "8×8"
    )
    assert "What it uses in practice" not in odd["bare"].read_text(encoding="utf-8")
    assert report.fields(replace(evidence(), sight=None))["used"] is None


def _joined(paths: list[list[str]]) -> set[tuple[int, int]]:
    """The edges that the drawn lines stand for, by walking each line down from row to row."""
    edges, open_lines = set(), {}
    for row, drawn in enumerate(paths):
        ends = [re.match(r"M(\d+) 0(?:Q\1 50 10 50|V50)$", path) for path in drawn]
        for x in (found[1] for found in ends if found):
            edges.add((open_lines.pop(x), row))
        for path in drawn:
            if path == "M10 50V100":
                open_lines["10"] = row
            elif start := re.match(r"M10 50Q(\d+) 50 \1 100$", path):
                assert start[1] not in open_lines
                open_lines[start[1]] = row
        passing = {found[1] for path in drawn if (found := re.match(r"M(\d+) 0V100$", path))}
        started = {x for x, begun in open_lines.items() if begun == row}
        assert passing == set(open_lines) - started
    assert not open_lines
    return edges


@pytest.mark.parametrize("seed", range(6))
def test_wires_stand_for_the_edges(seed: int) -> None:
    rng = random.Random(seed)
    grown = space((32, 32, 3), 5)
    nets = [grown.sample(rng).net for _ in range(3)]
    a, b = Conv2D(4, 1, name="a"), Conv2D(4, 1, name="b", inputs=("input",))
    nets.append(
        Net((4, 4, 3), (a, b, Add(inputs=("a", "b"), name="c"), Add(inputs=("a", "c"), name="d")))
    )
    for net in nets:
        place = {"input": 0} | {layer.name: i for i, layer in enumerate(net.layers, 1)}
        edges = {(place[name], place[layer.name]) for layer in net.layers for name in layer.inputs}
        assert _joined(drawings._wires(net)[0]) == edges


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (report.short(25450), "25.4\u202fk"), (report.short(4.2e6), "4.20\u202fM"),
        (report.short(640), "640"),
        (report.short(None), "–"), (report.whole(25450), "25,450"), (report.percent(0.9731),
        "97.3\u202f%"),
        (report.percent(None), "–"), (report.points(-0.021), "\u22122.1"), (report.points(0.021),
        "+2.1"),
        (report.ms(4.3), "4.30"), (report.ms(123.4), "123"), (report.plain((3, 3)), "3, 3"),
        (report.plain(True), "yes"), (report.sig(-0.5), "\u22120.5"),
    ],
)  # fmt: skip
def test_numbers_in_words(shown: str, expected: str) -> None:
    assert shown == expected


def test_large_images_are_reduced(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 256, 256, 3), np.uint8)
    assert len(written(tmp_path, pixels=noise)) < 3e6


# Plots --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.9, 0.92, [0.9, 0.905, 0.91, 0.915, 0.92]),
        (0.1, 0.95, [0.2, 0.4, 0.6, 0.8]),
        (0.993, 0.9975, [0.993, 0.994, 0.995, 0.996, 0.997]),
    ],
)
def test_ticks_are_round_numbers_inside(low: float, high: float, expected: list[float]) -> None:
    assert plots.ticks(low, high) == pytest.approx(expected)


def test_every_axis_has_more_than_one_tick() -> None:
    rng = random.Random(0)
    for _ in range(300):
        low = 10 ** rng.uniform(-4, 9)
        high = low * 10 ** rng.uniform(0.02, 7)
        for found in (plots.ticks(low, high), plots.log_ticks(low, max(high, plots.NARROW * low))):
            assert 3 <= len(found) <= 12
            assert found == sorted(found)
            assert low * (1 - 1e-9) <= found[0]
            assert found[-1] <= max(high, plots.NARROW * low) * (1 + 1e-9)


def test_a_training_that_learnt_nothing_does_not_stretch_the_axis() -> None:
    scores = [0.90, 0.91, 0.915, 0.92, 0.925, 0.93]
    assert plots.fitting(scores) == (0.9, 0.93)
    assert plots.fitting([*scores, 0.1]) == (0.9, 0.93)
    assert plots.fitting([*scores, 0.1], always=[0.1]) == (0.1, 0.93)  # it is pointed out
    low, high = plots.fitting([0.9, 0.9])
    assert low < 0.9 < high


def test_dots_tell_their_configuration() -> None:
    case = evidence(n=0)
    shown = report.tradeoff(case)["plot"]
    told = re.findall(r"<title>([^<]*)</title>", shown)
    assert len(told) == len(case.trainings)
    assert any(
        "t002: like the chosen network, but with stem.kernel_size 5. " in each for each in told
    )
    assert any(": the chosen network. " in each for each in told)
    assert len(re.findall(r"<title>", report.learning(case)["plot"])) == len(case.trainings)


# In a real browser --------------------------------------------------------------------------------


class Seen:
    """A page in a browser that can reach nothing: what it asked for, and what it complained of."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page, self.asked, self.complaints = page, [], []
        page.route("**/*", self._answer)
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(path.as_uri())

    def _answer(self, route: Any) -> None:
        url = route.request.url
        if url.startswith("data:"):
            return route.continue_()
        self.asked.append(url)
        return route.continue_() if len(self.asked) == 1 else route.abort()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as running:
        yield running


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_in_a_browser(browser: Any, whole: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    seen = Seen(page, whole)
    page.wait_for_load_state("load")
    assert seen.asked == [whole.as_uri()]
    assert not seen.complaints
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(
        "[...document.querySelectorAll('section')].every(s => s.offsetHeight > 40)"
    )
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    ratios = page.evaluate(CONTRAST)
    assert len(ratios) > 50
    assert min(ratios) > 4.5
    page.close()


def test_on_a_phone_every_picture_is_whole(browser: Any, whole: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(whole.as_uri())
    wide = """[...document.querySelectorAll('svg, img, figure > div')]
      .map(e => [e, e.getBoundingClientRect()])
      .filter(([e, r]) => r.left < 0 || r.right > innerWidth
        || e.scrollWidth > e.clientWidth + 1 && e.matches('div'))
      .map(([e, r]) => `${e.tagName} ${r.left} ${r.right}`)"""
    assert page.evaluate(wide) == []
    page.close()


def test_a_tap_on_a_dot_tells_its_configuration(browser: Any, whole: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True)
    page.goto(whole.as_uri())
    dot = page.locator("#tradeoff path:has(> title)").first
    dot.scroll_into_view_if_needed()
    dot.tap(force=True)
    assert "like the chosen network, but with" in page.locator("#tradeoff output").inner_text()
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["as usual", "longest", "no better than guessing", "a hundred classes"]
)
def test_it_keeps_nobody_out(browser: Any, whole: Path, odd: dict[str, Path], name: str) -> None:
    """No barrier that axe knows, on a phone or a desk, light or dark; wide tables scroll inside,
    and not the page.
    """
    page = browser.new_page()
    page.goto((whole if name == "as usual" else odd[name]).as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert barriers(page) == []
    page.close()


@pytest.mark.parametrize("name", ["as usual", "longest"])
def test_on_paper_it_is_at_most_five_pages(
    browser: Any, whole: Path, odd: dict[str, Path], name: str
) -> None:
    page = browser.new_page()
    page.goto((whole if name == "as usual" else odd[name]).as_uri())
    sheets = re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))
    page.close()
    assert 1 <= len(sheets) <= 5


# Words and lines of every plot must stand out from the page: relative luminance as WCAG 2.1 defines
# it.
CONTRAST = """() => {
  const rgb = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = rgb(c).slice(0, 3).map(linear);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const page = light(getComputedStyle(document.body).backgroundColor);
  const ratio = c => { const l = light(c);
    return (Math.max(l, page) + 0.05) / (Math.min(l, page) + 0.05); };
  return [...document.querySelectorAll(
    'figure svg .role-axis-label text, figure svg .role-axis-title text')]
    .map(e => ratio(getComputedStyle(e).fill));
}"""


@pytest.mark.parametrize("name", ["bare", "a hundred classes", "two classes, small and gray"])
def test_odd_cases_in_a_browser(browser: Any, odd: dict[str, Path], name: str) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 900})
    seen = Seen(page, odd[name])
    assert len(seen.asked) == 1
    assert not seen.complaints
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.close()


def test_a_chart_keeps_the_size_of_its_words_on_a_phone(browser: Any, whole: Path) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 900})
    Seen(page, whole)
    heights = page.evaluate(
        "[...document.querySelectorAll('figure svg .role-axis-label text')].filter(e =>"
        " e.textContent).map(e => e.getBoundingClientRect().height)"
    )
    assert len(heights) > 50
    assert min(heights) > 9
    page.close()


def test_the_code_can_be_copied(browser: Any, whole: Path) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    seen = Seen(context.new_page(), whole)
    seen.page.locator("summary").first.click()
    seen.page.locator("details .code button").first.click()
    seen.page.wait_for_function(
        "document.querySelector('details .code button').textContent === 'Copied'"
    )
    assert seen.page.evaluate("navigator.clipboard.readText()") == evidence().code["model_keras.py"]
    assert not seen.complaints
    context.close()


BESIDE = {
    "model": "mine.keras", "title": "your network (<b>mine</b>)", "accuracy": 0.612,
    "chosen_accuracy": 0.715,
    "accuracy_change": 0.103, "low": 0.061, "high": 0.145, "time_ratio": 1.2, "verdict": "matters",
    "runs": 2,
    "seconds": 27.0, "n": 160, "cost": {"macs": 14_000_000}, "chosen_cost": {"macs": 6_000_000},
    "failed": "",
    "notes": ["it reads 1 channel instead of 3, as many as the images have"],
}  # fmt: skip


def test_another_network_stands_in_the_bars_after_the_same_time(tmp_path: Path) -> None:
    case = evidence(
        n=40,
        against=(BESIDE, {**BESIDE, "title": "LeNet-5", "failed": "its training failed (memory)"}),
    )
    names = [bar["name"] for bar in report.bars(case)]
    assert names == ["your network (<b>mine</b>), after 27 s", "the chosen network, after 27 s",
                     "this network, trained to its end"]  # fmt: skip
    report.write(tmp_path / "report.html", case)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<b>mine</b>" not in text
    told = Page(text).text
    assert (
        "Your network (<b>mine</b>): 61.2\u202f%, 14.0\u202fM macs; the chosen network: 71.5\u202f%"
        in told
    )
    assert (
        "The chosen network is 10.3 points better (6.1 to 14.5). It reads 1 channel instead of 3"
        in told
    )
    assert "LeNet-5 could not be compared: its training failed (memory)." in told
    assert "Compare only bars of the same length of training" in told
    assert not report.sections(evidence(n=40))["against"]


def test_trainings_to_be_compared_are_none_of_the_race() -> None:
    case = evidence()
    before = len(case.trainings), report.summary(case, case.cost)[2]
    rival, again = (replace(case.results[0].trial, id=f"b{i}", phase="beside") for i in range(2))
    more = (
        replace(case.results[0], trial=replace(rival, configuration={}), score=0.99),
        replace(case.results[0], trial=again),
    )
    beside = replace(case, results=(*case.results, *more))
    assert (len(beside.trainings), report.summary(beside, case.cost)[2]) == before
    assert [row["differs"] for row in report.trials(beside)[-2:]] == [
        "another network, for comparison",
        report.trials(case)[0]["differs"] or "newly trained, for comparison"
    ]  # fmt: skip
