"""Runners: whatever a worker does, its trial is recorded and the others go on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from convwise.core.problems import UnusableInput
from convwise.core.records import Result, Trial
from convwise.training import machine
from convwise.training.runners import RUNNERS, Runner, local
from labs import MadeHost
from studies import lives, nth_net
from working import work


@pytest.fixture(autouse=True)
def _light_workers(tmp_path, monkeypatch):
    """Workers load PyTorch first, which takes seconds and is of no use here: they find an empty
    one.
    """
    (tmp_path / "torch.py").write_text("def set_num_threads(number): pass\n")
    monkeypatch.syspath_prepend(tmp_path)


HOST = MadeHost("a host")
every_runner = pytest.mark.parametrize("name", RUNNERS)


def started(name: str, workers: int = 2) -> tuple[Runner, int]:
    """A runner of so many workers, or of the one that it has, and how many they are."""
    try:
        return RUNNERS[name](work, HOST, workers), workers
    except UnusableInput:
        return RUNNERS[name](work, HOST, 1), 1


def two_workers(name: str) -> Runner:
    """A runner that trains two trials side by side; one that cannot is not asked about that."""
    runner, workers = started(name)
    if workers < 2:
        runner.close()
        pytest.skip(f"{name} has one worker")
    return runner


def trial(what: str, seconds: float | None = None) -> Trial:
    return Trial(what, "race", {}, nth_net(1), seconds=seconds, epochs=None if seconds else 1)


def seconds(work: float) -> float:
    """How long so many seconds of work take at this moment: a busy machine keeps workers waiting as
    well.
    """
    return work * machine.slowness()


def outcomes(results: list[Result]) -> dict[str, str]:
    return {r.trial.id: r.status for r in results}


@every_runner
def test_each_is_recorded_and_costs_only_itself(name):
    whats = [
        "return-1",
        "raise",
        "exit",
        "return-2",
        "kill",
        "memory",
        "tangle",
        "return-3",
        "return-4",
    ]
    with closing(started(name)[0]) as runner:
        results = list(runner.run([trial(what) for what in whats]))
        assert list(runner.run([])) == []
    assert [r.reason for r in results if "own process" in r.reason] == []  # see work
    assert sorted(r.trial.id for r in results) == sorted(whats)
    by_id = {r.trial.id: r for r in results}
    assert {what for what, r in by_id.items() if r.status == "done"} == {
        f"return-{i}" for i in (1, 2, 3, 4)
    }
    assert all(r.score is None for r in results if r.status == "failed")
    assert by_id["raise"].reason == "RuntimeError: a made-up error"
    assert by_id["memory"].reason == "MemoryError: cannot allocate"
    # The last is a result that cannot be sent
    assert all(by_id[what].reason for what in ("exit", "kill", "tangle"))
    assert str(os.getpid()) not in {r.reason for r in results}
    assert {r.host for r in results} == {"a host"}  # also of those that failed


def test_how_a_worker_ended_is_told():
    with closing(local.LocalRunner(work, HOST, 1)) as runner:
        ended, killed = runner.run([trial("exit"), trial("kill")])
    assert "exit code 7" in ended.reason
    assert "SIGKILL" in killed.reason


@every_runner
def test_results_come_as_they_end_from_two_workers(name, tmp_path):
    with closing(two_workers(name)) as runner:
        waits, results = f"wait-{tmp_path}/file", []
        for result in runner.run([trial(waits), trial("return-1"), trial("return-2")]):
            results.append(result)
            if result.trial.id == "return-2":
                (tmp_path / "file").touch()
        assert [r.trial.id for r in results] == ["return-1", "return-2", waits]
        assert len({r.reason for r in results}) == 2


@every_runner
def test_a_runner_can_be_used_again_after_a_death(name):
    with closing(RUNNERS[name](work, HOST, 1)) as runner:
        assert outcomes(list(runner.run([trial("exit"), trial("return-1")]))) == {
            "exit": "failed",
            "return-1": "done",
        }
        assert outcomes(list(runner.run([trial("return-2")]))) == {"return-2": "done"}


@every_runner
def test_close_ends_the_processes_even_in_the_midst(name, tmp_path):
    before = set(multiprocessing.active_children())
    runner, workers = started(name)
    files = [tmp_path / str(number) for number in range(workers)]

    def close_when_all_hang():
        while not all(file.exists() and file.read_text() for file in files):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
    threading.Thread(target=close_when_all_hang, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        list(runner.run([trial("return-1"), *(trial(f"hang-{file}") for file in files)]))
    runner.close()
    assert not any(lives(int(file.read_text())) for file in files)
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.slow
def test_a_trial_that_hangs_is_ended_after_its_time(monkeypatch):
    monkeypatch.setattr(local, "GRACE_SECONDS", seconds(4.0))
    begun = time.monotonic()
    with closing(local.LocalRunner(work, HOST, 1)) as runner:
        results = list(runner.run([trial("hang", seconds=0.1), trial("return-1", seconds=0.1)]))
    assert outcomes(results) == {"hang": "failed", "return-1": "done"}
    assert results[0].reason == "it took more than twice its time, and was ended"
    assert time.monotonic() - begun >= 0.2 + local.GRACE_SECONDS


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


@pytest.mark.slow
def test_a_worker_that_is_stopped_is_ended(monkeypatch):
    """Its trial has no time of its own; the next one goes on where it was."""
    monkeypatch.setattr(local, "SILENT_SECONDS", seconds(4.0))
    with closing(local.LocalRunner(work, HOST, 1)) as runner:
        results = list(runner.run([trial("stop"), trial("return-1")]))
    assert outcomes(results) == {"stop": "failed", "return-1": "done"}
    assert (
        results[0].reason
        == f"its worker gave no sign of life for {local.SILENT_SECONDS:.0f} s, and was ended"
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_a_worker_that_is_lost_while_it_starts_costs_a_trial_at_most(monkeypatch, how):
    monkeypatch.setattr(local, "LOADING_SECONDS", seconds(8.0))
    before = set(multiprocessing.active_children())
    with closing(local.LocalRunner(work, HOST, 1)) as runner:
        (starting,) = set(multiprocessing.active_children()) - before
        os.kill(starting.pid, how)
        results = list(runner.run([trial("return-1"), trial("return-2")]))
    assert outcomes(results)["return-2"] == "done"


@pytest.mark.slow
def test_what_a_stopped_worker_was_about_to_say_is_not_waited_for(monkeypatch):
    """Here it stops in the midst of a message."""
    monkeypatch.setattr(local, "SILENT_SECONDS", seconds(4.0))
    with closing(local.LocalRunner(work, HOST, 1)) as runner:
        results = list(runner.run([trial("half"), trial("return-1")]))
    assert outcomes(results) == {"half": "failed", "return-1": "done"}


STUDY = """
import multiprocessing, sys, time
if __name__ == "__main__":
    from training.test_runners import HOST, local, trial, work
    runner = local.LocalRunner(work, HOST, 2)
    if sys.argv[1] == "begun":
        next(runner.run([trial("return-1"), trial("hang"), trial("hang")]))
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="processes are looked at as on Linux"
)
@pytest.mark.parametrize("when", ["starting", "begun"])
def test_orphans_end_within_two_seconds(tmp_path, when):
    """The study's process is killed while its workers start, or work; they load what they do load.

    On a busy machine, as long as two seconds of work take there.
    """
    script = tmp_path / "killed" / "study.py"
    script.parent.mkdir()
    script.write_text(STUDY)
    tests = str(Path(__file__).parents[1])
    paths = [tests, *(path for path in sys.path if path and path != str(tmp_path))]
    environment, command = (
        {**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        [
            sys.executable,
            str(script),
            when,
        ],
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as study:
        workers = [int(pid) for pid in study.stdout.readline().split()]
        study.kill()
    assert len(workers) == 2
    until = time.monotonic() + seconds(2.0)
    while time.monotonic() < until and any(map(lives, workers)):
        time.sleep(0.05)
    left = [pid for pid in workers if lives(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@every_runner
@pytest.mark.timeout(30)
def test_no_workers_are_refused(name):
    for workers in (0, -1):
        with pytest.raises(UnusableInput):
            RUNNERS[name](work, HOST, workers)


@every_runner
def test_what_runs_is_brought_to_an_early_end_and_tells_how_far_it_is(name):
    def interrupt():
        while len(runner.live) < workers:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
    runner, workers = started(name)
    tell = [f"tell-{number}" for number in range(workers)]
    with closing(runner):
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            list(runner.run(map(trial, [*tell, "return-never"])))
        assert {live.trial for live in runner.live} == {*tell}
        assert outcomes(list(runner.cut(30.0))) == dict.fromkeys(tell, "done")
        assert outcomes(list(runner.run([trial("return")]))) == {"return": "done"}  # it can go on


# --- teams ---------------------------------------------------------------------------------------


@every_runner
def test_one_worker_runs_a_trial_for_all_alone(name):
    with closing(RUNNERS[name](work, HOST, 1)) as runner:
        assert outcomes(list(runner.run([together("return-1"), trial("return-2")]))) == {
            "return-1": "done", "return-2": "done"
        }  # fmt: skip


def together(what: str) -> Trial:
    return replace(trial(what), threads=2)


@every_runner
def test_a_trial_for_all_ends_once_and_its_members_compute_means(name):
    with closing(two_workers(name)) as runner:
        (result,) = runner.run([together("mean")])
        assert result.status == "done", result.reason
        assert result.score == 0.5  # the mean of 0 and 1
        trials = [trial("return-1"), together("mean"), trial("return-2")]
        assert outcomes(list(runner.run(trials))) == {
            "return-1": "done",
            "mean": "done",
            "return-2": "done",
        }


@every_runner
@pytest.mark.parametrize(
    "what", ["mean-raise-0", "mean-raise-1", "mean-exit-0", "mean-exit-1", "mean-kill-1"]
)
def test_a_member_that_fails_costs_the_teams_trial_only(name, what):
    begun = time.monotonic()
    with closing(two_workers(name)) as runner:
        results = list(runner.run([together(what), trial("return-1"), together("mean")]))
    assert outcomes(results) == {what: "failed", "return-1": "done", "mean": "done"}
    assert results[0].reason
    assert time.monotonic() - begun < seconds(20)  # nobody waits for the dead


@pytest.mark.slow
def test_a_member_that_dies_while_it_waits_for_the_others_is_missed():
    """It holds nothing that the others, or the study, would wait for."""
    before = set(multiprocessing.active_children())
    with closing(local.LocalRunner(work, HOST, 2)) as runner:
        first = min(
            set(multiprocessing.active_children()) - before, key=lambda process: process.pid
        )
        list(runner.run([trial("return-1"), trial("return-2")]))  # both have started
        late = seconds(4.0)
        killing = threading.Timer(late / 3, os.kill, (first.pid, signal.SIGKILL))
        killing.start()
        what = f"mean-sleep-{late:.0f}-1"  # the other one comes late
        results = list(runner.run([together(what), together("mean")]))
        killing.join()
    assert outcomes(results) == {what: "failed", "mean": "done"}
    assert "SIGKILL" in results[0].reason


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_member_that_is_stopped_costs_the_teams_trial_only(monkeypatch, rank):
    monkeypatch.setattr(local, "SILENT_SECONDS", seconds(4.0))
    with closing(local.LocalRunner(work, HOST, 2)) as runner:
        what = f"mean-stop-{rank}"
        results = list(runner.run([together(what), trial("return-1"), together("mean")]))
    assert outcomes(results) == {what: "failed", "return-1": "done", "mean": "done"}
    assert "no sign of life" in results[0].reason  # the cause, not that the other one missed it
