"""Full disks, too little memory, nobody's home: one sentence and exit code 2, or an answer; never a
traceback.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import re
import resource
import shutil
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import convwise
from convwise import formats
from convwise.cli import app as cli
from convwise.core.layers import Dense, GlobalAveragePooling2D
from convwise.core.net import Net
from convwise.core.problems import UnusableInput, of_the_machine
from convwise.core.temporary import locked
from convwise.output import predicting
from convwise.output.whole import OUTPUTS
from imagesets import write_folder
from studies import ENVIRONMENT


@pytest.fixture
def said(monkeypatch, capsys):
    """`convwise WORDS` in this process: (exit code, stderr)."""
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))

    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["convwise", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        return code, capsys.readouterr().err

    return call


@contextmanager
def no_file_longer_than(size: int):
    """As a disk that is full: the system refuses to write more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("form", ["keras", "torch", "onnx", "json"])
def test_export_on_a_full_disk_changes_nothing(chosen, tmp_path, said, form):
    folder = shutil.copytree(chosen.folder, tmp_path / "chosen")
    before = contents(folder)
    with no_file_longer_than(100):
        code, told = said("export", folder, "--to", form)
    assert code == 2
    assert "cannot be written" in told
    assert "make room there" in told
    assert "Traceback" not in told
    assert contents(folder) == before
    assert [path for path in folder.iterdir() if path.is_dir()] == []


def test_what_a_killed_export_leaves_goes_with_the_next_one(chosen, tmp_path):
    shutil.copytree(chosen.folder, tmp_path / "copy")
    left, used = (tmp_path / "copy" / f"{formats.DRAFT}{name}" for name in ("left", "used"))
    for folder in (left, used):
        folder.mkdir()
        (folder / "net.json").write_text("half of i")
    with locked(used):  # as an export holds it that runs beside this one
        formats.export(tmp_path / "copy", "json")
        assert [folder.exists() for folder in (left, used)] == [False, True]
    formats.export(tmp_path / "copy", "json")
    assert not list((tmp_path / "copy").glob(f"{formats.DRAFT}*"))


def test_predict_on_a_full_disk_keeps_the_table_that_was_there(chosen, tmp_path, said):
    table = tmp_path / "table.csv"
    table.write_text("path,label\n")
    with no_file_longer_than(100):
        code, told = said("predict", chosen.folder, chosen.images, "--csv", table)
    assert code == 2
    assert f"{table}: cannot be written (File too large)" in told.replace("\n", "")
    assert table.read_text() == "path,label\n"
    assert list(tmp_path.iterdir()) == [table]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_behind_standard_output_is_told():
    with open("/dev/full", "w") as full:
        words = [
            sys.executable,
            "-m",
            "convwise",
            "layer",
            "8x8x1",
            "--filters",
            "2",
            "--kernel-size",
            "3",
        ]
        ended = subprocess.run(
            words, stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, check=False
        )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "No space left on device" in ended.stderr


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_too_little_memory_is_told(chosen, said, monkeypatch, error):
    def predict(*_, **__):
        raise error

    monkeypatch.setattr(predicting, "predict", predict)
    code, told = said("predict", chosen.folder, chosen.images)
    assert code == 2
    assert (
        "convwise: memory: is not enough for this; expected more free memory. Fix: close other"
        " programs" in told
    )


def test_a_library_that_cannot_be_mapped_is_too_little_memory():
    told = of_the_machine(
        ImportError("onnx.so: failed to map segment from shared object"), "the output"
    )
    assert told is not None
    assert told.exit_code == 2
    assert of_the_machine(ImportError("No module named 'onnx'"), "the output") is None


@pytest.mark.parametrize(
    ("words", "code"),
    [("look digits", 2), ("choose digits", 2), ("layer 8x8x1 --filters 2 --kernel-size 3", 0)],
)
def test_a_process_that_may_have_little_memory_is_told_before_libraries_end_it(words, code):
    few = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_AS, (700 << 20,) * 2); "
    few += "os.execv(sys.argv[1], sys.argv[1:])"
    ended = subprocess.run(
        [sys.executable, "-c", few, sys.executable, "-m", "convwise", *words.split()],
        env={**ENVIRONMENT, "COLUMNS": "200"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == code, ended.stderr
    if code:
        told = (
            "convwise: memory: is limited to 700 MiB for this process; expected at least 1024 MiB"
        )
        assert ended.stderr.startswith(told)
        assert len(ended.stderr.splitlines()) == 1


def test_a_place_that_may_not_be_used_is_not_called_full():
    told = str(of_the_machine(PermissionError(errno.EACCES, "Permission denied", "a.onnx"), "x"))
    assert told.startswith(
        "a.onnx: cannot be opened (Permission denied); expected a place that this user can read"
    )
    assert of_the_machine(ValueError("a fault of ours"), "x") is None
    assert of_the_machine(RuntimeError("a fault of ours"), "x") is None
    assert of_the_machine(FileNotFoundError(errno.ENOENT, "No such file", "a"), "x") is None


# --- clocks ---------------------------------------------------------------------------------------

# Runs in every process that Python starts with this folder on its path, workers too.
STOPPED_IN_1970 = """
import time
first = time.gmtime(0)
time.time, time.time_ns = (lambda: 0.0), (lambda: 0)
time.localtime = time.gmtime = lambda seconds=None: first
"""


def test_a_keras_file_is_written_where_the_clock_stands_before_what_a_zip_can_tell(
    tmp_path, monkeypatch
):
    net = Net((8, 8, 1), (GlobalAveragePooling2D(), Dense(2, activation="softmax")))
    weights = {"dense/kernel": np.ones((1, 2), np.float32), "dense/bias": np.zeros(2, np.float32)}
    first = time.gmtime(0)
    monkeypatch.setattr(time, "localtime", lambda seconds=None: first)
    formats.write(tmp_path, net, weights, ("a", "b"), np.zeros((1, 8, 8, 1), np.uint8), ("keras",))
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        assert {member.date_time[0] for member in archive.infolist()} == {1980}
    assert time.localtime().tm_year == 1970


def test_no_budget_hears_the_clock_of_the_wall():
    """It may stand still or jump: it only tells a page when something was, and which draft in the
    cache is old.
    """
    package = Path(formats.__file__).parents[1]
    asking = {
        path.name
        for path in package.rglob("*.py")
        if re.search(r"time\.time\(|datetime", path.read_text())
    }
    assert asking == {"feed.py", "following.py", "store.py"}


def a_study(folder: Path) -> list[str]:
    """The words of a study of half a minute, of stripes in the folder, into its `out`."""
    images = write_folder(folder / "stripes", ("a", "b"), 60, 12, "L")
    words = "choose", str(images), "--budget", "30s", "--out", str(folder / "out")
    return [sys.executable, "-m", "convwise", *words]


def assert_whole(folder: Path) -> None:
    """Every file is there that every set of images gets."""
    found = {path.name for path in folder.iterdir()}
    assert set(OUTPUTS) - {"suspects.csv", "outliers.csv"} <= found


@pytest.mark.slow
def test_a_study_under_a_stopped_clock_ends_in_time_and_whole(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(STOPPED_IN_1970)
    path = os.pathsep.join([str(tmp_path), ENVIRONMENT["PYTHONPATH"]])
    began = time.monotonic()
    ended = subprocess.run(
        a_study(tmp_path),
        env={**ENVIRONMENT, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert time.monotonic() - began < 3 * 30
    assert_whole(tmp_path / "out")


@pytest.mark.slow
def test_a_study_of_64_open_files_is_whole(tmp_path):
    few = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); "
    few += "os.execv(sys.argv[1], sys.argv[1:])"
    ended = subprocess.run(
        [sys.executable, "-c", few, *a_study(tmp_path)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert_whole(tmp_path / "out")


# --- users ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", ["report FOLDER", "look IMAGES", "predict FOLDER IMAGES", "check FOLDER"]
)
def test_a_user_whom_the_system_does_not_know_is_served(chosen, said, monkeypatch, words):
    def nobody(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    given = (
        words.replace("FOLDER", str(chosen.folder)).replace("IMAGES", str(chosen.images)).split()
    )
    code, told = said(*given)
    assert (code, "Traceback" in told) == (0, False)


def test_plots_are_drawn_for_a_user_without_a_home():
    """The plot library asks for the home folder as it is loaded."""
    program = "import os, pwd\n"
    program += "def nobody(number): raise KeyError(number)\n"
    program += "pwd.getpwuid = nobody; os.environ.pop('HOME', None)\n"
    program += "from convwise.output import plots\n"
    program += "print(plots.altair().__name__, 'HOME' in os.environ)"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.stdout.strip(), ended.returncode) == ("altair False", 0), ended.stderr


# --- names and numbers that cannot be -----------------------------------------------------------

LONG = "n" * 300


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("look", "digits", "--seed", "-1"),
            "--seed: is -1; expected a whole number of at least 0",
        ),
        (
            ("advise", "digits", "--seed", "-1"),
            "--seed: is -1; expected a whole number of at least 0",
        ),
        (("check", LONG), "does not exist"),
        (("check", f"{LONG}.onnx"), "does not exist"),
        (("check", f"{LONG}/{LONG}/net.json"), "does not exist"),
        (("check", ""), "is empty"),
        (("predict", LONG, "digits"), "does not exist"),
        (("export", LONG, "--to", "keras"), "is no name for a file here"),
        (("serve", LONG), "is no name for a file here"),
        (("choose", "digits", "--out", LONG), "is no name for a file here"),
        (("choose", "digits", "--against", LONG), "does not exist"),
    ],
)
def test_a_name_or_number_that_cannot_be_is_told_in_one_sentence(
    said, words, told, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, text = said(*words)
    assert (code, text.count("\n")) == (2, 1)
    assert told in text
    assert "Traceback" not in text


def test_the_verbs_refuse_them_as_well(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = np.zeros((20, 8, 8, 1), np.uint8), np.arange(20) % 2
    for act in (lambda: convwise.look((x, y), seed=-1), lambda: convwise.read((x, y), seed=2.5)):
        with pytest.raises(
            UnusableInput, match="--seed: is (-1|2.5); expected a whole number of at least 0"
        ):
            act()
    images = convwise.read((np.random.default_rng(0).integers(0, 255, x.shape, np.uint8), y))
    with pytest.raises(UnusableInput, match="--seed"):
        convwise.look(images, seed=-1)
    for name in (LONG, "a\0b"):
        with pytest.raises(UnusableInput, match="does not exist"):
            convwise.check(name)


def test_long_and_odd_names_in_a_file_leave_a_table(run, tmp_path):
    """An operator of 6,000 letters, beside a net's own layers."""
    layers = [
        {
            "type": "Opaque",
            "operator": "[/]\x1b[2J" + "odd" * 2000,
            "output_shape": [4, 4, 3],
            "params": 7,
        },
        {"type": "Conv2D", "filters": 2, "kernel_size": 3},
    ]
    (tmp_path / "net.json").write_text(json.dumps({"input_shape": [8, 8, 3], "layers": layers}))
    code, text, _ = run("check", "net.json")
    (row,) = [line for line in text.splitlines() if line.startswith("opaque")]
    assert (code, row.split()[-6:-4]) == (0, ["4x4x3", "7"])
    assert len(row) < 200
    assert "\x1b" not in text
