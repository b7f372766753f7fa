"""benchmarks/calibration.py says of simulated banks what was planted in them."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from convwise.evidence.paired import known_run_variance
from trainings import HARDNESS, middle, run

FILE = Path(__file__).parents[2] / "benchmarks" / "calibration.py"
sys.path.append(str(FILE.parent))
spec = importlib.util.spec_from_file_location("calibration", FILE)
assert spec
assert spec.loader
calibration = importlib.util.module_from_spec(spec)
spec.loader.exec_module(calibration)


def bank(path: Path, deviation: float, sets: int = 6, runs: int = 20, n: int = 2000) -> Path:
    """Rows as trainings write them: of each set, equal nets whose whole runs differ by this."""
    rng, rows = np.random.default_rng(6), []
    for number in range(sets):
        logits = middle(0.9) + rng.normal(0, HARDNESS, n)
        for seed in range(runs):
            result = run(logits, deviation, rng)
            row = {"set": f"set {number}", "seconds": 10.0, "seed": seed, "score": result.score}
            rows.append(row | {"correct": result.correct, "images_per_second": 1000.0 + seed})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("planted", [0.0, 0.004, 0.02])
def test_a_bank_teaches_the_variance_of_a_run(planted, tmp_path):
    sets = list(calibration.banked(bank(tmp_path / "aa.jsonl", planted)).values())
    taught = calibration.taught(sets)
    assert taught.variance**0.5 == pytest.approx(planted, rel=0.25, abs=0.0015)
    assert taught.freedom >= 1


def cells(lines: list[str]) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("| set ")
    ][1:]


@pytest.mark.slow
def test_the_report_tells_false_alarms_and_rows_for_the_table(tmp_path):
    lines = "\n".join(
        calibration.report(calibration.banked(bank(tmp_path / "aa.jsonl", 0.004)))
    ).splitlines()
    rows = cells(lines)
    assert len(rows) == 6
    assert all(len(row) == 12 and row[2:4] == ["20", "2000"] for row in rows)
    # One pair, taught by the others
    alarms = np.array([float(row[8].split("(")[1].rstrip(")")) for row in rows])
    assert 2 <= alarms.mean() <= 8
    seconds, sets, deviation, _ = lines[-1].strip("| ").split(" | ")
    assert (seconds, sets) == ("10", "6")
    assert float(deviation) == pytest.approx(0.004, rel=0.25)


@pytest.mark.slow
def test_planted_losses_are_found(tmp_path):
    """With runs as they are expected, four points always and one point seldom; the sign never
    turns.
    """
    deviation = 0.5 * known_run_variance(0.1)[0] ** 0.5
    found = list(
        calibration.planted(
            calibration.banked(bank(tmp_path / "aa.jsonl", deviation, 1)), [0.01, 0.04]
        )
    )
    told = {
        (row[2], row[3]): [float(cell) for cell in row[4:]]
        for row in cells("\n".join(found).splitlines())
    }
    assert set(told) == {(pairs, loss) for pairs in "123" for loss in "14"}
    assert told["3", "4"][0] > 95
    assert told["3", "1"][0] < 60
    assert all(turned < 1 for _, _, turned, _ in told.values())
    assert all(held >= 90 for *_, held in told.values())


def test_numbers_are_told_in_hundredths_of_their_deviation(tmp_path):
    """Equal nets whose errors differ by an image's luck alone; then one that is off by more, as was
    planted.
    """
    rng, rows = np.random.default_rng(0), []
    hard = rng.gamma(2.0, 2.0, 400)
    for seed in range(8):
        errors = np.abs(hard + rng.normal(0, 0.5, 400))
        row = {
            "set": "set 0",
            "seconds": 10.0,
            "seed": seed,
            "score": 1 - errors.mean() / 20,
            "deviation": 20.0,
        }
        rows.append(row | {"errors": errors.tolist(), "images_per_second": 1000.0})
    path = tmp_path / "aa.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    banked = calibration.banked(path)
    told = cells("\n".join(calibration.report(banked)).splitlines())[0]
    assert told[2:4] == ["8", "400"]
    assert float(told[4]) == pytest.approx(
        100 * (1 - np.mean([row["errors"] for row in rows]) / 20), abs=0.06
    )
    assert float(told[6]) == pytest.approx(100 * 0.5 / 20 / 400**0.5, rel=0.1)
    found = cells(list(calibration.planted(banked, [0.02])))[0]
    assert float(found[4]) > 95
