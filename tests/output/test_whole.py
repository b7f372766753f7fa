"""What is handed over stands in its folder together, whenever the study is killed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from convwise.core.temporary import folder_inside
from convwise.formats import DRAFT
from convwise.output import whole
from convwise.output.whole import OUTPUTS


class Killed(BaseException):
    """From now on nothing happens any more."""


def dying(monkeypatch, after: int) -> None:
    """Let so many changes of files happen, and then none: also not those that a death would not
    wait for.
    """
    left = [after]

    def counted(change):
        def call(*args, **how):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return change(*args, **how)

        return call

    for module, name in ((os, "replace"), (os, "unlink"), (os, "rmdir"), (shutil, "rmtree")):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))


def fill(folder: Path, text: str, but: str = "") -> None:
    for name in OUTPUTS:
        if name != but:
            (folder / name).write_text(text)


def held(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


NEW_WITHOUT_REPORT = {name: "new" for name in OUTPUTS if name != "report.html"} | {
    "study.db": "kept"
}
OLD = dict.fromkeys(OUTPUTS, "old") | {"study.db": "kept"}


def is_killed(folder: Path, monkeypatch, after: int) -> bool:
    """Write anew, without a report; whether so many changes of files were too few for it."""
    with monkeypatch.context() as patch:
        dying(patch, after)
        try:
            with whole.together(folder) as draft:
                fill(draft, "new", but="report.html")
        except Killed:
            return True
    return False


def test_a_kill_leaves_the_old_or_becomes_the_new(tmp_path, monkeypatch):
    """At each change of a file. What is not written anew, here the report, does not stay beside
    what is.
    """
    after, killed = 0, True
    while killed:
        folder = tmp_path / str(after)
        folder.mkdir()
        fill(folder, "old")
        (folder / "study.db").write_text("kept")
        killed = is_killed(folder, monkeypatch, after)
        if (folder / "choice.json").exists():  # says that all is whole
            assert held(folder) in (OLD, NEW_WITHOUT_REPORT)
        whole.finish(folder)
        assert held(folder) == (OLD if after == 0 else NEW_WITHOUT_REPORT)
        assert not [path for path in folder.iterdir() if path.is_dir()]
        after += 1
    assert after > 2 * len(OUTPUTS)


def test_an_error_leaves_what_was_there(tmp_path):
    fill(tmp_path, "old")
    (tmp_path / ".choice.json.writing").write_text("half")

    def full():
        with whole.together(tmp_path) as draft:
            fill(draft, "new")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        full()
    assert {path.name for path in tmp_path.iterdir()} == {*OUTPUTS, ".choice.json.writing"}
    whole.finish(tmp_path)
    assert held(tmp_path) == dict.fromkeys(OUTPUTS, "old")


def test_what_another_process_is_writing_stays(tmp_path):
    fill(tmp_path, "old")
    (tmp_path / f"{DRAFT}left").mkdir()
    with folder_inside(tmp_path, DRAFT) as theirs:
        (theirs / "model.onnx").write_text("half")
        whole.finish(tmp_path)
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [theirs.name]
        assert (theirs / "model.onnx").read_text() == "half"
