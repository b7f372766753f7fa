"""The ledger: results survive, and plain Optuna opens them."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from convwise.core.problems import UnusableInput
from convwise.core.records import Point, Recipe, Result, Trial, from_json, to_json
from convwise.ledger import NAME, Ledger, distributions
from studies import advice, failed, nth_net, scored, some_results, wide_samples, wide_space

GIVEN = advice(shape=(24, 24, 1))
RESULTS = some_results(GIVEN, 8)


def filled(path) -> Ledger:
    ledger = Ledger(path)
    ledger.know(GIVEN.space)
    for result in RESULTS:
        ledger.append(result)
    return ledger


def test_results_survive_reopening_in_order(tmp_path):
    assert filled(tmp_path / "study.db").results == tuple(RESULTS)
    assert Ledger(tmp_path / "study.db").results == tuple(RESULTS)
    assert Ledger(f"sqlite:///{tmp_path / 'study.db'}").results == tuple(RESULTS)


def test_each_result_is_on_disk_when_append_returns(tmp_path):
    """A process that appends and is killed at once loses nothing."""
    code = (
        "import os, sys; sys.path[:0] = sys.argv[2:]\n"
        "from test_ledger import GIVEN, RESULTS\n"
        "from convwise.ledger import Ledger\n"
        "ledger = Ledger(sys.argv[1])\n"
        "ledger.know(GIVEN.space)\n"
        "ledger.append(RESULTS[0]); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "study.db"
    ended = subprocess.run(
        [sys.executable, "-c", code, str(path), *(p for p in sys.path if p)], check=False
    )
    assert ended.returncode == -9
    assert Ledger(path).results == (RESULTS[0],)


def test_plain_optuna_opens_it(tmp_path):
    filled(tmp_path / "study.db")
    study = optuna.load_study(study_name=NAME, storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert len(study.trials) == len(RESULTS)
    for trial, result in zip(study.trials, RESULTS, strict=True):
        assert trial.params == result.trial.configuration
        if result.status == "failed":
            assert trial.state is TrialState.FAIL
            assert trial.user_attrs["reason"] == "made up"
        else:
            assert trial.state is TrialState.COMPLETE
            assert trial.value == result.score
            assert trial.user_attrs["macs"] == result.cost["macs"]
        assert trial.user_attrs["stage"] == result.trial.phase
    assert study.best_value == max(r.score for r in RESULTS if r.score)
    importances = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )  # noqa: E501
    assert importances


def test_the_final_training_has_no_score(tmp_path):
    ledger = Ledger(tmp_path / "study.db")
    ledger.know(GIVEN.space)
    ledger.append(
        Result(
            Trial("final", "final", GIVEN.configuration, GIVEN.net, part="all", seconds=3.0), "done"
        )
    )
    study = optuna.load_study(study_name=NAME, storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert study.trials[0].state is TrialState.PRUNED
    assert study.trials[0].value is None
    assert Ledger(tmp_path / "study.db").results == ledger.results


def test_a_score_of_nan_does_not_break_it(tmp_path):
    """A curve's mean loss is NaN where no step was taken between two points."""
    result = scored(
        GIVEN.configuration, GIVEN.net, 0.5, history=(Point(1.0, 64, float("nan"), 0.5),)
    )
    ledger = Ledger(tmp_path / "study.db")
    ledger.know(GIVEN.space)
    ledger.append(result)
    read = Ledger(tmp_path / "study.db").results[0]
    assert read.history[0].loss != read.history[0].loss
    assert read.score == 0.5


def test_notes_are_kept(tmp_path):
    Ledger(tmp_path / "study.db").note(
        "convwise:settings", {"seed": 3, "goal": "accuracy", "n": (1, 2)}
    )
    assert Ledger(tmp_path / "study.db").notes["convwise:settings"] == {
        "seed": 3,
        "goal": "accuracy",
        "n": [1, 2],
    }


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "study.db"
    path.write_text("These are my notes. " * 200)
    with pytest.raises(UnusableInput) as caught:
        Ledger(path)
    assert str(path) in str(caught.value)
    assert path.read_text().startswith("These are my notes.")


def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "study.db"
    with sqlite3.connect(path) as database:
        database.execute("create table people (name text)")
    with pytest.raises(UnusableInput):
        Ledger(path)


def test_unknown_urls_are_refused():
    with pytest.raises(UnusableInput):
        Ledger("nosuchdatabase://somewhere/x")


def test_a_folder_that_is_missing_is_refused(tmp_path):
    with pytest.raises(UnusableInput):
        Ledger(tmp_path / "nowhere" / "study.db")


@settings(max_examples=40, deadline=None)
@given(wide_samples())
def test_every_fitted_sample_fits_optunas_distributions(configuration):
    space = wide_space(goal="accuracy where params<5k and macs<2M")
    fitted, known = space.fit(configuration), distributions(space)
    assert set(known) == set(fitted)
    for name, value in fitted.items():
        assert known[name].choices[int(known[name].to_internal_repr(value))] == value


# --- records as JSON -----------------------------------------------------------------------------

numbers = st.floats(allow_nan=False, allow_infinity=False)
points = st.builds(Point, numbers, st.integers(0, 10**9), numbers, st.none() | numbers)
recipes = st.builds(Recipe, batch_size=st.integers(1, 512), learning_rate=numbers,
                    flip=st.booleans(), optimizer=st.sampled_from(("adamw", "muon")),
                    whitened=st.sampled_from(("", "stem")), identity_start=st.booleans(),
                    average=st.booleans(), filter_rate=numbers, class_weights=st.lists(numbers,
                    max_size=4).map(tuple))  # fmt: skip
trials = st.builds(
    Trial, st.text(max_size=9), st.sampled_from(("race", "final")), wide_samples(),
    st.integers(0, 9).map(nth_net), recipes, st.none() | numbers, st.none() | st.integers(1, 99),
    st.integers(0, 10**6), st.sampled_from(("train", "all")), st.text(max_size=9), st.integers(1,
    64),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)  # fmt: skip
results = st.builds(
    Result, trials, st.sampled_from(("done", "failed")), st.none() | numbers, st.text("01",
    max_size=30),
    st.dictionaries(st.sampled_from(("macs", "params", "latency_ms")), st.integers(0,
    10**9) | numbers),
    st.lists(points, max_size=3).map(tuple), numbers, numbers,
    st.sampled_from(("float32", "bfloat16")), st.text(max_size=30), st.text("01", max_size=20),
    st.text(max_size=9),
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(results)
def test_results_survive_json(result):
    assert from_json(Result, json.loads(json.dumps(to_json(result)))) == result
    assert from_json(Result, to_json(result)) == result


def test_json_of_a_later_version_is_read():
    data = to_json(failed(GIVEN.configuration, GIVEN.net))
    assert from_json(Result, {**data, "colour": "blue"}) == failed(GIVEN.configuration, GIVEN.net)
