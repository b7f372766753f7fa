"""Kills of a study at several of its moments, and what is said of those that were made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import kills
from studies import ENVIRONMENT
from test_house import ROOT

KILLS = ROOT / "benchmarks" / "kills.py"


@pytest.mark.slow
def test_a_study_that_is_killed_becomes_whole_by_the_same_command(tmp_path):
    """One kill of each way: of the group, of the study alone, and while it writes."""
    rows = tmp_path / "kills.jsonl"
    command = [sys.executable, str(KILLS), "3", "--beside", "3", "--results", str(rows)]
    subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [(row["way"], row["killed"], row["problems"]) for row in found] == [
        ("group", True, []), ("study alone", True, []), ("writing", True, []),
    ]  # fmt: skip


def test_the_documentation_tells_of_the_kills_that_were_made():
    told = subprocess.run(
        [sys.executable, str(KILLS), "--table"], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert told.stdout.strip() in (ROOT / "docs" / "reliability.md").read_text()


def test_the_rest_is_every_change_of_a_file_that_no_run_died_at():
    every = set(range(kills.CHANGES + 1))
    numbers = kills.rest(100, {0, 7})
    assert min(numbers) >= 100
    moments = [kills.planned(number).moment for number in numbers]
    assert sorted(moments) == sorted(every - {0, 7})
    assert {kills.planned(number).way for number in numbers} == {"writing"}
    assert kills.rest(100, every) == []
    made = {each["moment"] for each in kills.rows() if each["way"] == "writing"}
    assert every <= made
