"""What processes decoded ahead is found again; whatever becomes of them, all is read as ever."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest

from convwise.images import ahead, files, plain_jpeg, sources
from convwise.images.loading import Within, read
from convwise.images.store import Store
from imagesets import write_folder, write_zip

KEEPING = Within(cache_size="1GB")
KILLED = "import sys; sys.stdout.buffer.write(b'.'); sys.stdout.flush(); sys.stdin.buffer.read(1); sys.exit(9)"


@pytest.fixture(autouse=True)
def little(tmp_path, monkeypatch) -> None:
    """Few pictures are enough, and the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(ahead, "ENOUGH", 60)
    monkeypatch.setattr(ahead, "STEP", 8)
    monkeypatch.setattr(ahead, "THREADS", 2)


@pytest.fixture
def folder(tmp_path) -> Path:
    """80 pictures; one of them is cut off."""
    made = write_folder(tmp_path / "set", "ab", 40, 12, suffix=".jpg")
    (made / "b" / "0058.jpg").write_bytes((made / "b" / "0057.jpg").read_bytes()[:-30])
    return made


@pytest.fixture
def decoded_here(monkeypatch) -> list[int]:
    """How many pictures this process has decoded, each time."""
    found: list[int] = []
    whole = plain_jpeg.pictures

    def counted(data, size):
        read = whole(data, size)
        found.append(len(read))
        return read

    monkeypatch.setattr(plain_jpeg, "pictures", counted)
    return found


def told(images) -> tuple:
    parts = (images.train, images.valid, images.test.open())
    return images.content(), images.facts, [str(each) for each in images.problems], [part.names for part in parts]


def test_what_processes_have_decoded_is_found_again(folder, decoded_here):
    plain = read(folder)  # nothing can be kept, so no process is asked
    assert sum(decoded_here) == 79
    decoded_here.clear()
    assert told(read(folder, within=KEEPING)) == told(plain)
    assert sum(decoded_here) == 0


def test_processes_are_started_only_for_what_is_not_kept(folder, monkeypatch, decoded_here):
    read(folder, within=KEEPING)
    monkeypatch.setattr(ahead, "_started", lambda: pytest.fail("a process was started"))
    read(folder, within=KEEPING)
    assert sum(decoded_here) == 0


@pytest.mark.parametrize("code", ["raise SystemExit(3)", KILLED])
def test_processes_that_die_cost_nothing_but_time(code, folder, monkeypatch, decoded_here):
    plain = told(read(folder))
    decoded_here.clear()
    monkeypatch.setattr(ahead, "SERVE", code)
    assert told(read(folder, within=KEEPING)) == plain
    assert sum(decoded_here) == 79


def test_where_no_process_can_be_started_all_is_read_as_ever(folder, monkeypatch, decoded_here):
    plain = told(read(folder))
    decoded_here.clear()
    monkeypatch.setattr(ahead.sys, "executable", "/no/such/python")
    assert told(read(folder, within=KEEPING)) == plain
    assert sum(decoded_here) == 79


def test_a_process_ends_with_the_one_that_asks():
    with ahead._started() as process:
        assert process.stdin
        process.stdin.close()
        assert process.wait(30) == 0


def test_when_it_is_late_nothing_more_is_decoded_ahead(folder, monkeypatch, decoded_here):
    plain = told(read(folder))
    decoded_here.clear()
    late = iter([False, True, True])
    shelves = files.Shelves(Store.usual("1GB"), str(folder))
    ahead.decoded(files._opened, shelves, (12, 12), sources.find(folder).items, lambda: next(late))
    monkeypatch.setattr(ahead, "ENOUGH", 10**9)
    assert told(read(folder, within=KEEPING)) == plain
    assert sum(decoded_here) == 79 - ahead.STEP


def test_an_interrupt_ends_the_processes(folder, monkeypatch):
    started = []
    real = ahead._started

    @contextmanager
    def noted():
        with real() as process:
            started.append(process)
            yield process

    def interrupted() -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(ahead, "_started", noted)
    shelves = files.Shelves(Store.usual("1GB"), str(folder))
    with pytest.raises(KeyboardInterrupt):
        ahead.decoded(files._opened, shelves, (12, 12), sources.find(folder).items, interrupted)
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)


def test_what_stays_in_its_process_is_read_there(folder, tmp_path, monkeypatch, decoded_here):
    monkeypatch.setattr(ahead, "_started", lambda: pytest.fail("a process was started"))
    assert read(write_zip(tmp_path / "set.zip", folder), within=KEEPING).facts["read"] == 79
    assert sum(decoded_here) == 79
