"""Temporary folders: gone afterwards, and after a kill with the next run, unless somebody works
there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from convwise.core import temporary
from convwise.core.temporary import PREFIX, locked, temporary_folder
from studies import ENVIRONMENT

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="where no folder can be locked nothing is removed"
)

WORKING = """
import time
from convwise.core.temporary import temporary_folder
with temporary_folder() as folder:
    (folder / "pixels.npy").write_bytes(b"1")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """Where temporary files are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@contextmanager
def working(place: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process, and the temporary folder that it works in."""
    environment = {**ENVIRONMENT, "TMPDIR": str(place)}
    with subprocess.Popen(
        [sys.executable, "-c", WORKING], stdout=subprocess.PIPE, text=True, env=environment
    ) as other:
        assert other.stdout is not None
        try:
            yield other, Path(other.stdout.readline().strip())
        finally:
            other.kill()


def test_nothing_is_left_afterwards_not_even_after_an_error(here):
    def work():
        with temporary_folder() as folder:
            assert folder.parent == here
            assert Path(tempfile.mkdtemp()).parent == folder
            raise ValueError("made up")

    usual = tempfile.gettempdir()
    with pytest.raises(ValueError, match="made up"):
        work()
    assert list(here.iterdir()) == []
    assert tempfile.gettempdir() == usual


def test_what_a_kill_leaves_goes_with_the_next_run_and_what_is_in_use_stays(here):
    with working(here) as (killed, left), working(here) as (_, used):
        assert (left / "pixels.npy").exists()
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert left.exists()
        with temporary_folder() as folder:
            assert {path for path in here.iterdir() if path != folder} == {used}
            assert (used / "pixels.npy").exists()


def test_what_is_not_a_folder_of_ours_stays(here, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "kept").touch()
    (here / f"{PREFIX}link").symlink_to(elsewhere)
    (here / f"{PREFIX}file").touch()
    (here / "convwise-other").mkdir()
    with temporary_folder():
        pass
    assert (elsewhere / "kept").exists()
    assert {path.name for path in here.iterdir()} == {
        f"{PREFIX}link",
        f"{PREFIX}file",
        "convwise-other",
    }


def test_a_new_folder_that_another_run_removes_is_made_again(here, monkeypatch):
    """Between its making and its lock, it looks like one that was left."""
    made, make = [], tempfile.mkdtemp

    def removed_at_once(**how):
        made.append(make(**how))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", removed_at_once)
    with temporary_folder() as folder:
        assert folder.exists()
        assert [str(folder)] == made[1:]


def test_where_nothing_can_be_locked_nothing_is_removed(here, monkeypatch):
    @contextmanager
    def unlocked(folder):
        yield False

    (left := here / f"{PREFIX}left").mkdir()
    monkeypatch.setattr(temporary, "locked", unlocked)
    with temporary_folder() as folder:
        assert {left, folder} == set(here.iterdir())
    assert list(here.iterdir()) == [left]


def test_a_lock_is_of_one_at_a_time(tmp_path):
    with locked(tmp_path) as first:
        assert first
        with pytest.raises(BlockingIOError), locked(tmp_path):
            pass
    with locked(tmp_path) as again:
        assert again
