"""The page in a real browser: every control, by keyboard, on a phone, in the dark, through
restarts, and live.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import pytest

pytest.importorskip("starlette")

from browsing import Server, axe, barriers, free_port, launched
from convwise.core.calculus import analyse
from convwise.core.net import Net
from convwise.training import machine
from studies import ENVIRONMENT, started

pytestmark = pytest.mark.slow  # a browser, and studies that it follows
PATIENCE = 120_000  # ms, on a busy machine
# Where bars and intervals begin and end, as shares of their row.
PLACES = """found => found.flatMap(each => {
  const own = each.getBoundingClientRect(), row = each.parentElement.getBoundingClientRect();
  return [(own.left - row.left) / row.width, (own.right - row.left) / row.width];
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as running:
        yield running


@pytest.fixture(scope="module")
def served(chosen: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served") / "study"
    shutil.copytree(chosen.folder, folder)
    with Server(folder, "--port", free_port()) as server:
        yield server


def opened(browser: Any, server: Server, ready: str = "#thumbs img", **how: Any) -> Any:
    """A fresh window on the page. complaints: what the browser said of it."""
    page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **how})
    page.set_default_timeout(PATIENCE)
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("dialog", lambda dialog: page.complaints.append(dialog.message))
    page.goto(server.address)
    page.wait_for_selector(ready)
    return page


@pytest.fixture
def page(browser: Any, served: Server) -> Iterator[Any]:
    window = opened(browser, served)
    yield window
    assert window.complaints == []
    window.close()


def net_of(folder: Path) -> Net:
    return Net.from_json(json.loads((folder / "choice.json").read_text())["net"])


def says(page: Any, selector: str, words: str, whole: bool = False) -> None:
    """Waits until an element says so: without evaluating a string there, which the page's policy
    forbids.
    """
    expect = pytest.importorskip("playwright.sync_api").expect(page.locator(selector))
    (expect.to_have_text if whole else expect.to_contain_text)(words, timeout=PATIENCE)


def total(page: Any, number: int, words: str) -> None:
    """Waits until one of the four totals is so."""
    says(page, f"#totals div:nth-child({number + 1}) dd", words)


# How it looks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_is_for_everybody(browser: Any, served: Server, width: int, scheme: str) -> None:
    """No barrier that axe knows, nothing beside the screen, nothing that the policy had to
    refuse.
    """
    page = opened(browser, served, viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.select_option("#stem-padding", "valid")
    page.fill("#stem-kernel_size", "99")
    says(page, "#problem", "needs 99x99 inputs")
    page.click("#more summary")
    page.click("#all-layers summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    names = "[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.hash))"
    assert page.evaluate(names)
    assert axe(page, least=31) == []
    assert page.complaints == []
    page.close()


def running(folder: Path) -> None:
    """What a study tells while it runs, as of now, into `folder`; it goes on for five minutes."""
    work = folder / ".study"
    work.mkdir()
    training = {"trial": "race-1-1", "done": 0.4, "epochs": 3.2, "accuracy": 0.91,
                "images_per_second": 800.0,
                "baseline": 0.345}  # fmt: skip
    best = {"trial": "race-0-0", "accuracy": 0.87, "params": 12_345, "macs": 6_789_000}
    about = {"budget_seconds": 600.0, "ends": time.time() + 400, "stoppable": True}
    note = "photos: 3 files cannot be read"
    told = {
        "stage": "race",
        "done": 0,
        "planned": 2,
        "best": best,
        "baseline": 0.345,
        "note": note,
        "live": [training],
    }
    events = [{"about": about}, told]
    (work / "events.jsonl").write_text(
        "".join(json.dumps({**each, "time": time.time()}) + "\n" for each in events)
    )
    os.utime(work / "events.jsonl", (time.time() + 300,) * 2)  # as if it were touched until then


@pytest.mark.slow
def test_a_running_study_keeps_nobody_out(
    browser: Any, chosen: SimpleNamespace, tmp_path: Path
) -> None:
    """Of which no file but the ledger is there yet."""
    (tmp_path / "study").mkdir()
    shutil.copy(chosen.folder / "study.db", tmp_path / "study")
    running(tmp_path / "study")
    with Server(tmp_path / "study", "--port", free_port()) as server:
        page = opened(browser, server, ready="#bench", reduced_motion="reduce")
        says(page, "#live", "race-1-1")
        says(page, "#phase", "running")
        page.wait_for_selector("#landed tr")
        assert page.is_visible("#stop")
        assert page.is_visible("#track")
        assert page.is_visible("#against")
        assert page.is_visible("#notes")
        assert barriers(page) == []
        assert page.complaints == []
        page.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("test", "goal", "words"),
    [
        ({"better_than_guessing": False}, {}, "No network was chosen."),
        ({}, {"kept": False}, "The goal was not reached."),
    ],
)
def test_a_study_without_a_choice_keeps_nobody_out(
    browser: Any,
    chosen: SimpleNamespace,
    tmp_path: Path,
    test: dict[str, Any],
    goal: dict[str, Any],
    words: str,
) -> None:
    shutil.copytree(chosen.folder, tmp_path / "study")
    file = tmp_path / "study" / "choice.json"
    choice = json.loads(file.read_text())
    choice["test"] |= test
    choice["goal"] |= goal
    choice["notes"] = ["The budget was too short.", *choice["notes"]]
    file.write_text(json.dumps(choice))
    with Server(tmp_path / "study", "--port", free_port()) as server:
        page = opened(browser, server)
        says(page, "#banner", words)
        assert barriers(page) == []
        assert page.complaints == []
        page.close()


def test_a_finished_study_is_opened(page: Any, served: Server) -> None:
    choice = json.loads((served.folder / "choice.json").read_text())
    assert page.inner_text("#phase") == "finished"
    assert page.inner_text("#accuracy") == f"{100 * choice['test']['accuracy']:.1f}\u202f%"
    assert f"{100 * choice['test']['baseline']:.1f}\u202f%" in page.inner_text("#accuracy-more")
    assert page.inner_text("#params") == f"{choice['cost']['params']:,}"
    assert page.locator("#measured tr").count() == len(choice["effects"])
    assert not page.is_visible("#stop")
    assert "stripes" in page.title()
    with page.expect_popup() as popup:
        page.click("#report")
    report = popup.value
    report.wait_for_load_state()
    assert "convwise report" in report.inner_text("body")
    assert report.evaluate("origin") == "null"
    report.close()


def test_it_shows_the_cards_and_bars_that_the_report_shows(
    browser: Any, page: Any, served: Server
) -> None:
    """The report is its frozen form: the same words, and bars and intervals of the same lengths."""
    report = browser.new_page(viewport={"width": 1280, "height": 900})
    report.goto((served.folder / "report.html").as_uri())
    cards = page.locator("#cards li").all_inner_texts()
    assert cards == report.locator(".cards li").all_inner_texts()
    assert len(cards) == 9
    assert any("measured on your images" in card for card in cards)
    assert any("convention, not tested" in card for card in cards)
    for part in ("em", "u", "i"):
        live, frozen = (where.locator(f".scores {part}") for where in (page, report))
        if part == "em":
            assert live.all_inner_texts() == frozen.all_inner_texts()
        else:
            assert live.evaluate_all(PLACES) == pytest.approx(
                frozen.evaluate_all(PLACES), abs=0.005
            )
    assert page.locator(".scores u").count() == 2, "of the probe, and of the network"
    assert page.locator(".scores i").last.get_attribute("class") == "own"
    test = json.loads((served.folder / "choice.json").read_text())["test"]
    low, high = (f"{100 * test[end]:.1f}\u202f%" for end in ("low", "high"))
    assert page.get_attribute("#bars", "aria-label").endswith(f"({low} to {high})")
    assert page.inner_text("#answer-is") == "The chosen network, parameter by parameter"
    report.close()


def test_what_is_not_chosen_is_told_first(
    browser: Any, chosen: SimpleNamespace, tmp_path: Path
) -> None:
    """Because the probe is more accurate; the parameters are then those of the network that was
    trained.
    """
    folder = tmp_path / "study"
    shutil.copytree(chosen.folder, folder)
    record = json.loads((folder / "choice.json").read_text())
    record["test"]["probe"]["verdict"] = "worse"
    record["notes"] = ["This network is less accurate than the probe.", "It was hot."]
    (folder / "choice.json").write_text(json.dumps(record))
    with Server(folder, "--port", free_port()) as server:
        page = opened(browser, server)
        assert (
            page.inner_text("#banner")
            == "No network was chosen. This network is less accurate than the probe."
        )
        assert page.locator("#notes li").all_inner_texts() == ["It was hot."]
        assert page.locator("#bars span").all_inner_texts()[-1] == "the network trained"
        assert (
            page.inner_text("#answer-is") == "The network that was trained, parameter by parameter"
        )
        assert page.complaints == []
        page.close()


# Every control ------------------------------------------------------------------------------------


def test_each_control_is_answered_by_the_calculus(page: Any, served: Server) -> None:
    net = net_of(served.folder)
    now = net["stem"].kernel_size[0]  # type: ignore[attr-defined]
    page.fill("#stem-kernel_size", str(now + 2))
    assert page.input_value("#stem-kernel_size-columns") == str(now + 2), "a square stays one"
    wanted = net.edit("stem", kernel_size=now + 2)
    total(page, 0, f"{analyse(wanted).total.params:,}")
    page.fill("#stem-kernel_size-columns", str(now))
    wanted = net.edit("stem", kernel_size=(now + 2, now))
    total(page, 0, f"{analyse(wanted).total.params:,}")
    page.fill("#stem-strides", "2")
    wanted = wanted.edit("stem", strides=2)
    total(page, 3, "×".join(map(str, analyse(wanted)["stem"].output_shape)))
    page.select_option("#stem-padding", "own")
    for side, px in (("top", 3), ("bottom", 2), ("left", 1), ("right", 4)):
        page.fill(f"#stem-padding-{side}", str(px))
    wanted = wanted.edit("stem", padding=(3, 2, 1, 4))
    total(page, 3, "×".join(map(str, analyse(wanted)["stem"].output_shape)))
    page.click("#more summary")
    page.set_checked("#stem-use_bias", not net["stem"].use_bias)  # type: ignore[attr-defined]
    wanted = wanted.edit("stem", use_bias=not net["stem"].use_bias)  # type: ignore[attr-defined]
    total(page, 0, f"{analyse(wanted).total.params:,}")
    assert page.locator("#changes li").count() == 4
    for left in (3, 2, 1, 0):
        page.locator("#changes button").first.click()
        page.wait_for_selector(f"#changes:not(:has(li:nth-child({left + 1})))", state="attached")
    total(page, 0, f"{analyse(net).total.params:,}")
    assert page.input_value("#stem-padding") == net["stem"].padding  # type: ignore[attr-defined]


def test_the_activation_behind_a_layer_stands_with_it(page: Any) -> None:
    label = page.locator("#parameters label", has_text="activation")
    control = page.locator(f"#{label.get_attribute('for')}")
    before = control.input_value()
    control.select_option("gelu" if before != "gelu" else "relu")
    page.wait_for_selector("#changes li")
    assert re.match(r"stem\w*\.activation", page.inner_text("#changes li"))


def test_the_field_moves_on_the_image(page: Any, served: Server) -> None:
    page.wait_for_selector("#sight .edge", state="attached")
    size = page.evaluate("document.querySelector('#sight .edge').getAttribute('width')")
    page.fill("#stem-kernel_size", "7")
    page.wait_for_selector("#sight .was")
    assert page.evaluate("document.querySelector('#sight .edge').getAttribute('width')") > size
    assert "7×7 px" in page.inner_text("#sight-says")
    before = page.get_attribute("#sight .edge", "y")
    page.focus("#at-row")
    page.keyboard.press("Home")
    page.wait_for_selector(f"#sight .edge:not([y='{before}'])", state="attached")
    shown = page.get_attribute("#sight image", "href")
    page.locator("#thumbs button").nth(2).click()
    assert page.get_attribute("#sight image", "href") != shown
    assert page.locator("#thumbs [aria-pressed=true]").count() == 1


def changed_and_back(control: Any) -> list[Callable[[], Any]]:
    """What changes a control of the page, and what brings it back."""
    kind = control.get_attribute("type")
    if kind == "checkbox":
        return [control.click, control.click]
    now = control.input_value()
    if kind == "number":
        return [partial(control.fill, f"{float(now) + 1:g}"), partial(control.fill, now)]
    values = control.locator("option").evaluate_all("all => all.map(each => each.value)")
    other = next(value for value in values if value not in (now, "own"))
    return [partial(control.select_option, other), partial(control.select_option, now)]


def test_every_control_is_answered_within_a_tenth_of_a_second(page: Any) -> None:
    """From the change until it is drawn, in the median over the controls of a convolution."""
    page.click("#more summary")
    waited = []
    controls = page.locator(
        "#parameters input, #parameters select, #others input, #others select"
    ).all()
    for control in [each for each in controls if each.is_visible()]:
        for act in changed_and_back(control):
            page.evaluate("delete document.getElementById('bench').dataset.ms")
            act()
            page.wait_for_selector("#bench[data-ms]", state="attached")
            waited.append(float(page.get_attribute("#bench", "data-ms")))
    assert len(waited) >= 2 * 8, "kernel size and strides have two numbers each"
    assert statistics.median(waited) < 100 * machine.slowness(), waited


@pytest.mark.parametrize(
    ("value", "words"),
    [("99", "needs 99x99 inputs"), ("0", "at least 1"), ("", "whole number"), ("2.5", "whole")],
)
def test_an_impossible_value_says_why(page: Any, value: str, words: str) -> None:
    page.select_option("#stem-padding", "valid")
    page.fill("#stem-kernel_size", value)
    says(page, "#problem", words)
    assert page.get_attribute("#problem", "role") == "alert"
    assert page.get_attribute("#stem-kernel_size", "aria-invalid") == "true"
    assert page.is_disabled("#test")
    assert page.is_disabled("#take")
    page.fill("#stem-kernel_size", "2")
    page.wait_for_selector("#problem", state="hidden")
    assert page.get_attribute("#stem-kernel_size", "aria-invalid") is None
    assert page.is_enabled("#take")


@pytest.mark.slow
def test_give_me_this_one(page: Any) -> None:
    page.fill("#stem-kernel_size", "6")
    page.wait_for_selector("#changes li")
    page.click("#take")
    page.wait_for_selector("#taken a")
    assert page.locator("#taken a").all_inner_texts() == [
        "model_keras.py",
        "model_torch.py",
        "net.json",
    ]
    with page.expect_download() as download:
        page.locator("#taken a").last.click()
    net = Net.from_json(json.loads(Path(download.value.path()).read_text()))
    assert net["stem"].kernel_size == (6, 6)  # type: ignore[attr-defined]
    assert barriers(page) == []


def test_it_works_by_keyboard(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
        if reached[-1] == "take":
            break
    wanted = [
        "report",
        "layer",
        "stem-kernel_size",
        "stem-filters",
        "stem-strides",
        "stem-padding",
        "at-row",
        "take",
    ]
    assert [each for each in reached if each in wanted] == wanted
    page.focus("#stem-kernel_size")
    page.keyboard.press("ArrowUp")
    page.wait_for_selector("#changes li")
    page.focus("#take")
    page.keyboard.press("Enter")
    page.wait_for_selector("#taken a")


# Restarts, and strangers --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_reload_and_a_restart_lose_nothing(
    browser: Any, chosen: SimpleNamespace, tmp_path: Path
) -> None:
    shutil.copytree(chosen.folder, tmp_path / "study")
    with Server(tmp_path / "study", "--port", free_port()) as server:
        page = opened(browser, server)
        page.fill("#stem-kernel_size", "5")
        page.wait_for_selector("#changes li")
        assert "token" not in page.url
        page.reload()
        page.wait_for_selector("#changes li")
        assert page.input_value("#stem-kernel_size") == "5"
        server.stop()
        page.wait_for_selector("#lost:visible")
        server.start()
        page.wait_for_selector("#lost", state="hidden")
        page.fill("#stem-kernel_size", "7")
        says(page, "#changes", "7×7")
        assert page.inner_text("#said") == "Connected again."
        server.stop()
        (tmp_path / "study" / ".page.json").write_text(
            json.dumps({"port": int(server.port), "token": "another"})
        )
        server.start()
        says(page, "#lost", "open the address that `convwise serve` printed")
        page.close()


def test_a_training_that_runs_is_told_live(
    browser: Any, chosen: SimpleNamespace, tmp_path: Path
) -> None:
    """And the network to change comes although nobody answered the first question for it."""
    shutil.copytree(chosen.folder, tmp_path / "study")
    running(tmp_path / "study")
    with Server(tmp_path / "study", "--port", free_port()) as server:
        page = browser.new_page()
        page.complaints = []
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.route("**/api/layers", lambda route: route.abort(), times=2)
        page.goto(server.address)
        beside = "(always the largest class: 34.5\u202f%)"
        says(
            page, "#live", f"race-1-1: epoch 3.2, 91.0\u202f% of the training images right {beside}"
        )
        page.wait_for_selector("#bench", timeout=PATIENCE)
        page.wait_for_selector("#lost", state="hidden")
        assert (
            page.inner_text("#answer-is")
            == "The network that the study starts with, parameter by parameter"
        )
        assert page.locator("#cards li").count() == 9
        assert page.complaints == []
        page.close()


def test_where_nobody_answers_nothing_is_lost_and_no_fault_is_told(
    browser: Any, chosen: SimpleNamespace, tmp_path: Path
) -> None:
    """Plots are drawn as soon as somebody answers again; a test that cannot be stopped says so."""
    shutil.copytree(chosen.folder, tmp_path / "study")
    with Server(tmp_path / "study", "--port", free_port()) as server:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.route("**/api/plots/**", lambda route: route.abort(), times=4)
        page.route("**/api/test/stop", lambda route: route.abort())
        page.goto(server.address)
        for name in ("cost", "effects"):
            page.wait_for_selector(f"#{name}-plot svg")
        page.evaluate("document.getElementById('test-stop').hidden = false")
        page.click("#test-stop")
        says(page, "#test-note", "Failed to fetch")
        assert faults == []
        page.close()


def test_names_are_never_markup(browser: Any, chosen: SimpleNamespace, tmp_path: Path) -> None:
    shutil.copytree(chosen.folder, tmp_path / "study")
    hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    choice = json.loads((tmp_path / "study" / "choice.json").read_text())
    choice["data"]["source"], choice["notes"] = hostile, [hostile]
    choice["effects"] = [
        {**effect, "parameter": hostile, "to": hostile} for effect in choice["effects"][:1]
    ]
    choice["net"]["layers"][2]["name"] = "stem"
    (tmp_path / "study" / "choice.json").write_text(json.dumps(choice))
    with Server(tmp_path / "study", "--port", free_port()) as server:
        page = opened(browser, server, ready="#notes li")
        page.wait_for_selector("#thumbs p")
        assert page.inner_text("#notes li") == hostile
        assert page.locator("img[src=x]").count() == 0
        assert page.locator("body script").count() == 0
        assert page.complaints == []
        page.close()


# Live ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_change_is_tested_on_the_images(
    browser: Any, chosen: SimpleNamespace, tmp_path: Path
) -> None:
    shutil.copytree(chosen.folder, tmp_path / "study")
    with Server(tmp_path / "study", "--port", free_port()) as server:
        page = opened(browser, server)
        assert page.is_disabled("#test"), "nothing is changed yet"
        page.fill("#stem-kernel_size", "6")
        page.wait_for_selector("#test:enabled")
        page.select_option("#budget", "1m")
        page.click("#test")
        page.wait_for_selector("#test-stop")
        page.wait_for_selector("#tests .interval", timeout=3 * PATIENCE)
        (effect,) = [
            e
            for e in json.loads((tmp_path / "study" / "choice.json").read_text())["effects"]
            if "by" in e
        ]
        assert (effect["parameter"], effect["to"]) == ("stem.kernel_size", "6")
        sign = "−" if effect["accuracy_change"] < 0 else "+"
        assert f"{sign}{abs(100 * effect['accuracy_change']):.1f} points" in page.inner_text(
            "#tests"
        )
        says(page, "#measured", "stem.kernel_size")
        page.click("#take")
        page.wait_for_selector("#taken a")
        assert barriers(page) == []
        page.click("#test")
        page.wait_for_selector("#test-stop")
        page.click("#test-stop")
        page.wait_for_selector("#test-stop", state="hidden")
        assert page.complaints == []
        page.close()


def test_other_networks_stand_beside_the_chosen_one(
    browser: Any, chosen: SimpleNamespace, tmp_path: Path
) -> None:
    """As `--against` left them in the folder: a bar for each after equal time, and what was found,
    in words.
    """
    folder = tmp_path / "study"
    shutil.copytree(chosen.folder, folder)
    record = json.loads((folder / "choice.json").read_text())
    row = {"model": "mine", "title": "your <i>network</i>", "accuracy": 0.612,
           "chosen_accuracy": 0.715, "low": 0.061,
           "accuracy_change": 0.103, "high": 0.145, "time_ratio": 1.2, "verdict": "matters",
           "runs": 2, "seconds": 27.0,
           "n": 160, "cost": {"macs": 14e6}, "chosen_cost": {"macs": 6e6}, "failed": "",
           "notes": []}  # fmt: skip
    failed = {**row, "title": "LeNet-5", "failed": "there was no time to train it"}
    (folder / "choice.json").write_text(json.dumps({**record, "against": [row, failed]}))
    with Server(folder, "--port", free_port()) as server:
        page = opened(browser, server, ready="#compared li")
        assert page.locator("#bars span").all_inner_texts() == [
            "always the largest class", "a probe without training",
            "your <i>network</i>, after 27 s",
            "the chosen network, after 27 s", "the chosen network, trained to its end"]  # fmt: skip
        assert page.locator("#bars em").all_inner_texts()[2:4] == ["61.2\u202f%", "71.5\u202f%"]
        widths = page.locator("#bars i").evaluate_all(
            "bars => bars.map(bar => bar.getBoundingClientRect().width)"
        )
        assert widths[2] / widths[3] == pytest.approx(0.612 / 0.715, rel=0.02)
        said = page.locator("#compared li").all_inner_texts()
        assert "The chosen network is 10.3 points better (6.1 to 14.5)." in said[0]
        assert said[1] == "LeNet-5 could not be compared: there was no time to train it."
        assert page.is_hidden("#shorter")
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.complaints == []
        page.close()


@pytest.mark.slow
def test_a_study_is_followed_from_start_to_end(browser: Any, tmp_path: Path) -> None:
    """Opened before it begins; the server restarted in the middle; stopped by the button; continued
    to its end.
    """
    with Server(tmp_path, "--port", free_port()) as server:
        page = opened(browser, server, ready="#phase")
        says(page, "#phase", "waiting for a study")
        words = ("choose", "digits", "--out", tmp_path, "--budget")
        study = started(*words, "3m")  # no machine is so slow that it ends before it is stopped
        says(page, "#phase", "running")
        clock = ticking(page)
        assert clock[0] > clock[-1], "it counts down"
        server.stop()
        page.wait_for_selector("#lost:visible")
        server.start()
        page.wait_for_selector("#lost", state="hidden")
        page.wait_for_selector("#landed tr", timeout=2 * PATIENCE)
        page.wait_for_selector("#against:visible")  # accuracy never stands alone
        page.wait_for_selector("#bench")
        assert page.is_disabled("#test"), "both need the whole machine"
        assert barriers(page) == []
        page.click("#stop")
        says(page, "#phase", "interrupted")
        study.communicate(timeout=300)
        assert study.returncode in (0, 1)
        shown(page, tmp_path)
        again = started(*words, "60s")
        says(page, "#phase", "running")
        page.reload()
        says(page, "#phase", "finished")
        again.communicate(timeout=300)
        shown(page, tmp_path)
        assert page.is_visible("#report")
        assert page.locator("#file-list a").count() >= 8
        assert [each for each in page.complaints if "ERR_CONNECTION_REFUSED" not in each] == []
        page.close()


def ticking(page: Any) -> list[float]:
    """Seconds left, as they are shown over four seconds."""
    says(page, "#clock", ":")
    seen = []
    for _ in range(4):
        minutes, _, seconds = page.inner_text("#clock").partition(":")
        seen.append(60 * float(minutes) + float(seconds))
        time.sleep(1.1)
    return seen


def shown(page: Any, folder: Path) -> None:
    """What is on the screen is what was written."""
    test = json.loads((folder / "choice.json").read_text())["test"]
    says(page, "#accuracy", f"{100 * test['accuracy']:.1f}\u202f%", whole=True)
    assert f"{test['n']} images" in page.inner_text("#accuracy-more")


@pytest.mark.slow
def test_choose_opens_a_page_that_stays(
    chosen: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opener, address = tmp_path / "browser", tmp_path / "address"
    opener.write_text(f'#!/bin/sh\necho "$1" > "{address}.new" && mv "{address}.new" "{address}"\n')
    opener.chmod(0o700)
    monkeypatch.setitem(ENVIRONMENT, "BROWSER", f"{opener} %s")
    folder = tmp_path / "study"
    study = started(
        "choose", chosen.images, "--trials", 2, "--workers", 1, "--out", folder, "--open"
    )
    assert study.stderr
    lines = iter(study.stderr.readline, "")
    assert any("stays open until Ctrl-C" in line for line in lines)
    with urlopen(address.read_text().strip(), timeout=60) as page:
        assert page.status == 200
    assert (folder / "choice.json").exists()
    study.send_signal(signal.SIGINT)
    assert "Report:" in study.communicate(timeout=60)[0]
    assert study.returncode in (0, 1)
    with pytest.raises(OSError, match="refused"):
        urlopen(address.read_text().strip(), timeout=60)
