"""plan.py: what a budget can do, and the sentence that says it."""

from __future__ import annotations

import json
import re
import statistics
import time
from dataclasses import replace
from pathlib import Path

import pytest

from convwise.core.clock import Clock, parse_duration
from convwise.core.records import Pace
from convwise.plan import BESIDE_SHARE, MOST_BESIDE, QUESTION, Plan, image_seconds, needed, planned
from convwise.training.lab import Lab
from labs import MadeHost
from studies import advice

SPEEDS = Path(__file__).parents[2] / "benchmarks" / "results" / "speeds.jsonl"


def plan(
    budget: float, image_seconds: float, workers: int = 2, images: int = 4000, evidence: float = 0.1
) -> Plan:
    sizes, clock = (images, images // 5), Clock(budget, time.monotonic())
    return Plan(clock, workers, image_seconds, sizes, evidence, team_speed=1 + 0.9 * (workers - 1))


def test_a_short_budget_trains_one_network_and_says_so():
    short = plan(120, 1e-2)
    assert short.waves()[0] == 1
    assert short.changes() == 0
    most = 120 * 1.9 / (1e-2 * 4000)
    assert 0.8 * most < short.epochs() < most
    assert str(short).startswith(
        f"in 2m this machine can train one network for about {short.epochs():.0f} epochs and"
        " test no"
    )


@pytest.mark.parametrize("alone", [True, False])
def test_speeds_are_predicted_as_studies_measured_them(alone):
    """Of nets from 0.5 to 390 million macs, on one machine: without a step's own time small ones
    would be far off.
    """
    rows = [json.loads(line) for line in SPEEDS.read_text().splitlines()]
    rows = [row for row in rows if (row["workers"] == 1) == alone]
    ratios = [
        row["measured"] * image_seconds(row, Pace(**row["pace"]), row["batch"], row["workers"])
        for row in rows
    ]
    assert len(rows) >= 7
    assert 0.8 < 1 / statistics.median(ratios) < 1.3
    assert 1 / max(ratios) > 0.5
    assert 1 / min(ratios) < 2.5


@pytest.mark.parametrize(("workers", "images"), [(1, 8000), (2, 8000), (4, 8000), (2, 300)])
def test_the_epochs_that_are_told_fill_the_budget(workers, images):
    host, clock = MadeHost(workers=workers, cores=workers), Clock(600, time.monotonic())
    told = planned(advice(), (images, images // 5), Lab(host, clock), 1.0, evidence=0.0)
    assert told.epochs() * images * told.image_seconds / told.team_speed == pytest.approx(
        600, rel=0.2
    )


def test_where_the_cheapest_is_asked_for_smaller_networks_get_the_rest():
    whole, quarter = plan(300, 1e-3), replace(plan(300, 1e-3), goes_until=0.25)
    assert 0.2 < quarter.epochs() / whole.epochs() < 0.3
    assert str(quarter).endswith("; after that, it tries smaller networks for about 4m")
    assert "smaller" not in str(whole)


@pytest.mark.parametrize("budget", ["20s", "45s", "60s", "90s", "2m", "150s", "1h5m"])
def test_the_budget_is_told_as_it_was_given(budget):
    assert str(plan(parse_duration(budget), 1e-3)).startswith(f"in {budget} this machine")


def test_what_was_spent_and_writing_train_nothing():
    half = replace(plan(40, 1e-3), clock=Clock(40, time.monotonic() - 20))
    assert half.epochs() < 0.5 * plan(40, 1e-3).epochs()


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("image_seconds", [2e-4, 1e-3, 5e-3])
def test_the_budget_that_is_named_is_enough(workers, image_seconds):
    told = plan(120, image_seconds, workers)
    assert plan(1.02 * told.enough(), image_seconds, workers).changes() >= QUESTION
    if told.changes() < QUESTION:
        assert plan(0.9 * told.enough(), image_seconds, workers).changes() < QUESTION


def test_more_time_and_faster_machines_test_more():
    counts = [plan(budget, 1e-3).changes() for budget in (20, 60, 120, 300, 600)]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert plan(120, 1e-4).changes() >= plan(120, 2e-3).changes()
    assert str(plan(600, 1e-4)).endswith("test about 5 changes to it")


def test_where_no_evidence_is_wanted_none_is_offered():
    assert plan(600, 1e-4, evidence=0.0).waves()[0] == 1
    assert str(plan(600, 1e-4, evidence=0.0)).endswith(" epochs")


def test_what_helps_where_nothing_was_learnt():
    assert (
        needed(2.0, 4000, 60.0)
        == "The budget was too short: each image was seen 2.0 times; about 20m would be needed"
    )
    assert needed(1.0, 4000, 5.0, "It was interrupted too early").startswith(
        "It was interrupted too early: each image"
    )
    # Of what was spent, not of a budget
    assert needed(1.0, 4000, 5.0).endswith("about 4m would be needed")
    assert needed(0.0, 4000, 60.0).startswith("The budget was too short")
    assert "check the labels" in needed(45.0, 4000, 60.0)


def test_what_is_to_be_compared_with_is_planned_and_said():
    alone = plan(300, 1e-3)
    beside = replace(alone, rivals=(2e-3,))
    allowed = beside.beside(1)
    assert allowed.waves == 1
    assert allowed.seconds is not None
    assert 0.1 * 300 < allowed.seconds < BESIDE_SHARE * 300
    assert beside.epochs() < alone.epochs()
    said = (
        f"; then it and the networks to compare it with train for about {allowed.seconds:.0f} s"
        " each"
    )
    assert str(beside).endswith(f"changes to it{said}")
    many = replace(alone, rivals=(2e-3,) * 9).beside(9)
    assert many.waves == 5
    assert many.seconds is not None
    assert many.waves * many.seconds < MOST_BESIDE * 300


@pytest.mark.parametrize("seconds", [1e-2, 0.3])
def test_where_there_is_no_time_to_compare_the_plan_names_a_budget_that_has_it(seconds):
    """Also for a network so slow that its validation alone takes most of the time."""
    short = replace(plan(20, 1e-3), rivals=(seconds,))
    assert short.beside(1).waves == 0
    assert short.set_aside == 0
    budget = re.search(
        r"there is no time left to compare it with other networks: --budget (\w+) would be enough$",
        str(short),
    )
    assert budget
    enough = parse_duration(budget[1])
    assert replace(short, clock=Clock(enough, time.monotonic())).beside(1).waves == 1
    assert replace(short, clock=Clock(0.7 * enough, time.monotonic())).beside(1).waves == 0
