"""Runners: whatever a worker does, its trial is recorded and the others go on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from contextlib import closing
from dataclasses import replace

import pytest

from convwise.core.records import Result, Trial
from convwise.training.runners import RUNNERS, local
from labs import MadeHost
from studies import nth_net
from working import work


@pytest.fixture(autouse=True)
def _light_workers(tmp_path, monkeypatch):
    """Workers load PyTorch first, which takes seconds and is of no use here: they find an empty one."""
    (tmp_path / "torch.py").write_text("def set_num_threads(number): pass\n")
    monkeypatch.syspath_prepend(tmp_path)


HOST = MadeHost("a host")
every_runner = pytest.mark.parametrize("name", RUNNERS)


def trial(what: str, seconds: float | None = None) -> Trial:
    return Trial(what, "race", {}, nth_net(1), seconds=seconds, epochs=None if seconds else 1)


def outcomes(results: list[Result]) -> dict[str, str]:
    return {r.trial.id: r.status for r in results}


@every_runner
def test_each_is_recorded_and_costs_only_itself(name):
    whats = ["return-1", "raise", "exit", "return-2", "kill", "memory", "tangle", "return-3", "return-4"]
    with closing(RUNNERS[name](work, HOST, 2)) as runner:
        results = list(runner.run([trial(what) for what in whats]))
    assert sorted(r.trial.id for r in results) == sorted(whats)
    by_id = {r.trial.id: r for r in results}
    assert {what for what, r in by_id.items() if r.status == "done"} == {f"return-{i}" for i in (1, 2, 3, 4)}
    assert all(r.score is None for r in results if r.status == "failed")
    assert by_id["raise"].reason == "RuntimeError: a made-up error"
    assert by_id["memory"].reason == "MemoryError: cannot allocate"
    assert "exit code 7" in by_id["exit"].reason
    assert "SIGKILL" in by_id["kill"].reason
    assert by_id["tangle"].reason  # a result that cannot be sent
    assert {r.host for r in results} == {"a host"}  # also of those that failed


@every_runner
def test_results_come_as_they_end_from_two_workers(name):
    with closing(RUNNERS[name](work, HOST, 2)) as runner:
        list(runner.run([trial("return-1"), trial("return-2")]))  # both have started
        results = list(runner.run([trial("sleep-1.5"), trial("sleep-0.1"), trial("return-3")]))
        assert [r.trial.id for r in results] == ["sleep-0.1", "return-3", "sleep-1.5"]
        assert len({r.reason for r in results}) == 2
        assert str(os.getpid()) not in {r.reason for r in results}
        assert list(runner.run([])) == []


@every_runner
def test_a_runner_can_be_used_again_after_a_death(name):
    with closing(RUNNERS[name](work, HOST, 1)) as runner:
        assert outcomes(list(runner.run([trial("exit"), trial("return-1")]))) == {"exit": "failed", "return-1": "done"}
        assert outcomes(list(runner.run([trial("return-2")]))) == {"return-2": "done"}


@every_runner
def test_close_ends_the_processes_even_in_the_midst(name):
    before = set(multiprocessing.active_children())
    runner = RUNNERS[name](work, HOST, 2)
    started = set(multiprocessing.active_children()) - before
    assert len(started) == 2
    results = runner.run([trial("return-1"), trial("hang"), trial("hang")])
    next(results)
    runner.close()
    assert not any(process.is_alive() for process in started)
    assert set(multiprocessing.active_children()) <= before


def test_a_trial_that_hangs_is_ended_after_its_time(monkeypatch):
    monkeypatch.setattr(local, "GRACE_SECONDS", 4.0)  # starting a worker counts, and takes a second
    begun = time.monotonic()
    with closing(local.LocalRunner(work, HOST, 1)) as runner:
        results = list(runner.run([trial("hang", seconds=0.1), trial("return-1", seconds=0.1)]))
    assert outcomes(results) == {"hang": "failed", "return-1": "done"}
    assert 4.2 <= time.monotonic() - begun < 25


def test_a_hang_is_not_called_out_of_memory(monkeypatch):
    monkeypatch.setattr(local, "GRACE_SECONDS", 0.0)
    with closing(local.LocalRunner(work, HOST, 1)) as runner:
        (result,) = runner.run([trial("hang", seconds=0.1)])
    assert "memory" not in result.reason
    assert "time" in result.reason


def test_workers_ignore_ctrl_c():
    with closing(local.LocalRunner(work, HOST, 1)) as runner:
        (first,) = runner.run([trial("return-1")])
        os.kill(int(first.reason), signal.SIGINT)
        (second,) = runner.run([trial("return-2")])
    assert second.status == "done"
    assert second.reason == first.reason  # the same process


def test_a_worker_that_died_idle_is_replaced():
    with closing(local.LocalRunner(work, HOST, 1)) as runner:
        (first,) = runner.run([trial("return-1")])
        os.kill(int(first.reason), signal.SIGKILL)
        time.sleep(0.2)
        results = list(runner.run([trial("return-2"), trial("return-3")]))
    assert outcomes(results)["return-3"] == "done"


@pytest.mark.timeout(30)
def test_no_workers_are_refused():
    from convwise.core.problems import UnusableInput

    for workers in (0, -1):
        with pytest.raises(UnusableInput):
            local.LocalRunner(work, HOST, workers)


# --- teams ---------------------------------------------------------------------------------------


def together(what: str) -> Trial:
    return replace(trial(what), threads=2)


@every_runner
def test_a_trial_for_all_ends_once_and_its_members_compute_means(name):
    with closing(RUNNERS[name](work, HOST, 2)) as runner:
        (result,) = runner.run([together("mean")])
        assert result.status == "done", result.reason
        assert result.score == 0.5  # the mean of 0 and 1
        trials = [trial("return-1"), together("mean"), trial("return-2")]
        assert outcomes(list(runner.run(trials))) == {"return-1": "done", "mean": "done", "return-2": "done"}


@every_runner
@pytest.mark.parametrize("what", ["mean-raise-0", "mean-raise-1", "mean-exit-0", "mean-exit-1", "mean-kill-1"])
def test_a_member_that_fails_costs_the_teams_trial_only(name, what):
    begun = time.monotonic()
    with closing(RUNNERS[name](work, HOST, 2)) as runner:
        results = list(runner.run([together(what), trial("return-1"), together("mean")]))
    assert outcomes(results) == {what: "failed", "return-1": "done", "mean": "done"}
    assert results[0].reason
    assert time.monotonic() - begun < 20  # nobody waits for the dead
