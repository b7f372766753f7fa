"""benchmarks/effects.py tells of simulated trainings what was planted in them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from convwise.evidence import effects as evidence
from studies import advice

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import effects

N = 4000


def row(parameter: str, role: str, accuracy: float, to: Any = 1) -> dict[str, Any]:
    """A training of which that share of the answers is right, the same ones first."""
    right = round(accuracy * N)
    as_is = parameter == effects.AS_IS
    return {"set": "a", "parameter": parameter, "from": None if as_is else 0,
            "to": None if as_is else to, "role": role, "seconds": 10.0 if role == "part" else 120.0,
            "final_seconds": 120.0, "seed": 0, "status": "done",
            "correct": "1" * right + "0" * (N - right), "accuracy": accuracy,
            "sealed": "1" * right + "0" * (N - right), "images_per_second": 100.0}  # fmt: skip


def rows(**late: float) -> list[dict[str, Any]]:
    """The net as it is at 90 %; each change told 5 points better early, and at the end as much as
    said.
    """
    found = [row(effects.AS_IS, "part", 0.9), row(effects.AS_IS, "final", 0.9)]
    for name, change in late.items():
        found += [
            row(name.replace("__", "."), "part", 0.95),
            row(name.replace("__", "."), "final", 0.9 + change),
        ]
    return found


@pytest.fixture(autouse=True)
def lasting(monkeypatch):
    """Changes last, so that what is counted here does not hang on what was fitted to real
    trainings.
    """
    for name, value in (("FADES", 1e-9), ("FADES_SPREAD", 0.0), ("DRIFT", 1e-4)):
        monkeypatch.setattr(evidence, name, value)


def test_signs_that_hold_and_signs_that_turn_are_counted():
    found = list(
        effects.compared(rows(stage__kernel_size=0.05, stage__filters=0.03, padding=-0.06))
    )
    text = "\n".join(effects.horizon(found))
    assert "| matters: the sign is kept | 3 | 2 | 1 |" in text
    assert "Turned: a, padding 0 to 1, told +5.0" in text
    assert "-6.0" in text.rpartition("after 10 s, ")[2]


def test_no_difference_is_held_to_its_point(monkeypatch):
    monkeypatch.setattr(
        effects.RunVariance, "known", lambda seconds: effects.RunVariance(1e-8, 50.0)
    )
    told = rows(padding=0.0, activation=0.04)
    for each in told:
        if each["role"] == "part":
            each |= {"correct": told[0]["correct"], "accuracy": 0.9}
    text = "\n".join(effects.horizon(list(effects.compared(told))))
    assert "| no difference: inside one point | 2 | 1 | 1 |" in text


def test_the_accuracy_told_is_held_to_that_of_the_net_that_was_chosen():
    """A change that is better early is chosen: its own accuracy is told, and nothing is gained by
    the choice.
    """
    rng, found = np.random.default_rng(0), rows(padding=0.02)
    for each in found:
        order = rng.permutation(N)
        each["correct"] = "".join(np.array(list(each["correct"]))[order])
    name, part, n, others, told, held = (
        list(effects.told_again(found, replays=200))[-1].strip("| ").split(" | ")
    )
    assert (name, part, n) == ("a", "1/12", f"{N:,}")
    assert float(others) > 95
    assert abs(float(told)) < 0.15
    assert 90 <= float(held) <= 99


def test_what_becomes_of_a_change_is_fitted_without_what_collapses(monkeypatch):
    """Ends made of the early changes by known constants; a net that does not train at all is left
    out.
    """
    monkeypatch.setattr(
        effects.RunVariance, "known", lambda seconds: effects.RunVariance(1e-8, 50.0)
    )
    rng, found, length = np.random.default_rng(2), [], np.log(12)
    for name in "abc":
        found += [{**each, "set": name} for each in rows()]
        found[-2] |= {"accuracy": 0.8}
        for number, early in enumerate(rng.normal(0, 0.05, 40)):
            left = 0.1 / (0.2 - early / 2)  # 20 % wrong after the part, 10 % at the end
            instead = 0.1 * length * rng.normal(0, 0.03)
            late = 0.9 + left * (1 - 0.25 * length) * early + instead
            for role, accuracy in (("part", 0.8 + early), ("final", late)):
                found.append({**row(f"x{number}", role, accuracy), "set": name})
        found += [{**row("broken", role, 0.1), "set": name} for role in ("part", "final")]
    for each in found:
        each["correct"] = "1" * round(each["accuracy"] * N) + "0" * (
            N - round(each["accuracy"] * N)
        )
    pairs = list(effects.compared(found))
    text = list(effects.fitted(pairs))
    assert "120 changes" in text[0]
    kept = [c for c in pairs if c.early.parameter != "broken"]
    fades, drift, _ = effects._likeliest(kept)
    assert (fades, drift) == (pytest.approx(0.25, abs=0.03), pytest.approx(0.03, abs=0.006))
    cells = [line.strip("| ").split(" | ") for line in text[-3:]]
    assert [(*row[:2], row[3]) for row in cells] == [(name, "40", "10.0") for name in "abc"]
    assert all(85 <= float(row[5]) <= 100 for row in cells)


def test_seeds_are_told_apart_early_and_together_at_the_end():
    """What is true at the end is the mean over both: +2 and +4 points."""
    found = rows(padding=0.02) + [{**each, "seed": 1} for each in rows(padding=0.04)]
    assert [c.late.accuracy_change for c in effects.compared(found)] == pytest.approx([0.03, 0.03])


def test_of_each_set_the_longest_trainings_count():
    shorter = [{**each, "final_seconds": 60.0} for each in rows(padding=-0.05)]
    (only,) = effects.compared([*shorter, *rows(padding=0.02)])
    assert only.late.accuracy_change == pytest.approx(0.02)


def test_the_size_of_an_effect_is_told_for_each_set():
    more = [{**each, "set": "b"} for each in rows(stage__kernel_size=0.01)]
    text = list(effects.sizes(list(effects.compared([*rows(stage__kernel_size=0.03), *more]))))
    assert text[0].endswith("| a | b |")
    assert text[-1] == "| stage.kernel_size | 0 to 1 | +2.0 | +3.0 | +1.0 |"


def test_what_has_not_ended_is_left_out():
    some = rows(padding=0.0)
    assert not list(effects.compared(some[:-1]))
    assert not list(effects.compared([{**each, "status": "failed"} for each in some]))


def test_changes_are_single_and_of_every_parameter_of_the_question():
    given = advice(shape=(32, 32, 3))
    found = list(effects.changes(given))
    assert found[0].configuration == given.configuration
    for change in found[1:]:
        assert {
            name
            for name in change.configuration
            if change.configuration[name] != given.configuration[name]
        } == {change.parameter}
    assert set(effects.PARAMETERS[:5]) <= {change.parameter for change in found}


def test_a_figure_comes_out(tmp_path):
    effects.draw(list(effects.compared(rows(padding=0.01))), tmp_path / "x.svg")
    assert "padding" in (tmp_path / "x.svg").read_text()


@pytest.mark.slow
def test_a_bank_is_filled_once(tmp_path):
    given = SimpleNamespace(results=tmp_path / "x.jsonl", part=2.0, final=4.0, data=None, workers=1,
                            pace=None, only=("stage.filters", (8, 12)),
                            roles=("part", "final"))  # fmt: skip
    effects.fill("digits", 0, given)
    written = effects.matrix.rows_of(given.results)
    assert {each["status"] for each in written} == {"done"}
    finals = [each for each in written if each["role"] == "final"]
    assert all(len(each["sealed"]) != len(each["correct"]) for each in finals)
    assert np.mean([each["sealed"].count("1") / len(each["sealed"]) for each in finals]) > 0.5
    effects.fill("digits", 0, given)
    assert effects.matrix.rows_of(given.results) == written
