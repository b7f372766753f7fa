"""The process that writes the model files beside the study: it writes what this process would, and
leaves nothing.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import pytest

from convwise import formats
from convwise.core.layers import Conv2D, Dense, GlobalAveragePooling2D, Rescaling
from convwise.core.net import Net
from convwise.core.problems import ExportMismatch
from convwise.formats import torch as torch_format
from convwise.output.writer import Writer
from studies import ENVIRONMENT, lives

NET = Net(
    (8, 8, 1),
    (Rescaling(1 / 255), Conv2D(4, 3), GlobalAveragePooling2D(), Dense(2, activation="softmax")),
)
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def weights():
    return torch_format.weights(torch_format.build(NET), NET)


@pytest.mark.slow
def test_it_writes_what_this_process_would(tmp_path, weights, monkeypatch):
    monkeypatch.setattr(formats, "hand_over", lambda *_, **__: pytest.fail("it was done here"))
    with closing(Writer()) as write:
        found = write(tmp_path / "beside", NET, weights, ("a", "b"), PIXELS)
    assert found.differences.keys() == formats.FORMATS.keys()
    assert all(difference < 1e-5 for difference in found.differences.values())
    assert found.left_out == {}
    net, kept, classes = formats.read(tmp_path / "beside")
    assert (net, classes) == (NET, ("a", "b"))
    assert all((kept[key] == weights[key]).all() for key in weights)


def test_where_it_is_gone_this_process_writes(tmp_path, weights):
    with closing(Writer()) as write:
        write._process.kill()
        write._process.join()
        found = write(tmp_path / "here", NET, weights, ("a", "b"), PIXELS, ("torch",))
    assert found.differences.keys() == {"torch"}
    assert (tmp_path / "here" / "model.safetensors").is_file()


@pytest.mark.slow
def test_what_goes_wrong_is_told_as_ever(tmp_path, weights):
    broken = {**weights, "dense/bias": np.full(2, np.nan, np.float32)}
    with closing(Writer()) as write, pytest.raises(ExportMismatch):
        write(tmp_path / "broken", NET, broken, ("a", "b"), PIXELS, ("torch",))


def test_it_ends_with_the_study():
    """Also while it loads: a kill of the study leaves nothing behind."""
    says = (
        "from convwise.output.writer import Writer as W; w = W(); print(w._process.pid,"
        " flush=True); input()"
    )
    guarded = f"if __name__ == '__main__':\n    {says}"
    how = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
    with subprocess.Popen([sys.executable, "-c", guarded], **how) as study:
        pid = int(study.stdout.readline())
        study.kill()
    until = time.monotonic() + 30
    while lives(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not lives(pid)
