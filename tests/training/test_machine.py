"""The machine: its self-test sees what is wrong, its predictions grow with the work, its memory is
used.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convwise.core.layers import Conv2D, Dense, GlobalAveragePooling2D
from convwise.core.net import Net
from convwise.core.records import Engine, Pace
from convwise.core.space import LatencyModel
from convwise.training import machine
from studies import wide_space


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "convwise"


@pytest.fixture
def quick_probes(monkeypatch):
    monkeypatch.setattr(machine, "PROBES", ((8, 4, 3), (12, 8, 3), (16, 8, 1)))


# --- low precision -------------------------------------------------------------------------------


def test_this_machine_passes_or_trains_in_float32(empty_cache, monkeypatch):
    monkeypatch.setattr(machine, "_bf16_gain", lambda device: 2.0)
    dtype = machine.ThisMachine().engine.dtype
    assert dtype == ("bfloat16" if machine.bf16_agrees() else "float32")


def wrong_in_bf16(change):
    real = torch.nn.functional.conv2d

    def conv2d(x, weight, *args, **kwargs):
        return (
            change(real, x, weight, args, kwargs)
            if x.dtype == torch.bfloat16
            else real(x, weight, *args, **kwargs)
        )

    return conv2d


FAULTS = {
    "a wrong channel": lambda real, x, w, a, k: real(x, w, *a, **k).roll(1, dims=1),
    "a tenth too much": lambda real, x, w, a, k: 1.1 * real(x, w, *a, **k),
    "a transposed kernel": lambda real, x, w, a, k: real(x, w.transpose(2, 3), *a, **k),
    "wrong gradients only": (
        lambda real, x, w, a, k: (y := real(x, w, *a, **k)).detach() + 0.5 * (y - y.detach())
    ),
    "grouped kernels only": (
        lambda real, x, w, a, k: real(x, w, *a, **k) * (0.5 if k.get("groups", 1) > 1 else 1)
    ),
    "strides only": (
        lambda real, x, w, a, k: real(x, w, *a, **k) * (0.5 if k.get("stride", 1) != 1 else 1)
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_wrong_convolution_is_seen(fault, monkeypatch):
    monkeypatch.setattr(torch.nn.functional, "conv2d", wrong_in_bf16(FAULTS[fault]))
    assert not machine.bf16_agrees()


def test_not_a_number_is_seen(monkeypatch):
    nothing = wrong_in_bf16(lambda real, x, w, a, k: real(x, w, *a, **k) * float("nan"))
    monkeypatch.setattr(torch.nn.functional, "conv2d", nothing)
    assert not machine.bf16_agrees()


def test_wrong_or_slow_low_precision_is_not_used(empty_cache, monkeypatch):
    monkeypatch.setattr(machine, "bf16_agrees", lambda device: True)
    monkeypatch.setattr(machine, "_bf16_gain", lambda device: 1.05)
    assert machine._dtype("cpu") == "float32"
    monkeypatch.setattr(machine, "_bf16_gain", lambda device: 1.5)
    assert machine._dtype("cpu") == "bfloat16"
    monkeypatch.setattr(machine, "bf16_agrees", lambda device: False)
    assert machine._dtype("cpu") == "float32"


# --- pace and latency ----------------------------------------------------------------------------


def test_latency_is_measured_in_milliseconds():
    small, large = (
        Net((n, n, 3), (Conv2D(f, 3), GlobalAveragePooling2D(), Dense(2)))
        for n, f in ((8, 2), (64, 64))
    )
    fast, slow = machine.latency_ms(small, runs=9), machine.latency_ms(large, runs=9)
    assert 0.001 < fast < 50
    assert slow > 3 * fast


def test_fits_find_planted_costs():
    rows = [
        (float(a), float(b))
        for a, b in ((1e6, 1e4), (5e6, 2e4), (2e7, 9e5), (3e5, 8e5), (1e5, 1e3))
    ]
    times = [3e-11 * a + 2e-10 * b for a, b in rows]
    assert machine._fit(rows, times) == pytest.approx([3e-11, 2e-10])


def test_a_fit_is_never_negative():
    rows = [(1.0, 5.0), (2.0, 3.0), (3.0, 1.0)]
    assert machine._fit(rows, [1.0, 2.0, 3.0]) == pytest.approx([1.0, 0.0])
    assert min(machine._fit(rows, [1.0, 2.2, 3.4])) >= 0


amounts = st.floats(1, 1e9)


@given(amounts, amounts, st.floats(1, 10))
def test_the_pace_is_positive_and_grows(macs, values, factor):
    pace = Pace(per_mac=6e-12, per_byte=4e-10)
    assert 0 < pace.seconds(macs, values) <= pace.seconds(factor * macs, values)
    assert pace.seconds(macs, values) <= pace.seconds(macs, factor * values)


def test_what_is_measured_here_predicts_positive_growing_times(empty_cache, quick_probes):
    host = machine.ThisMachine()
    pace, model = host.pace, host.latency
    assert pace.per_mac >= 0
    assert pace.seconds(1e6, 1e5) > 0
    assert pace.seconds(1e7, 1e6) == pytest.approx(10 * pace.seconds(1e6, 1e5))
    base = {"input.size": "24x24", "stem.kernel_size": 3, "stem.strides": 1, "stage.count": 2,
            "stage.convs": 2,
            "stage.kernel_size": 3, "block": "plain", "downsampling": "strides", "padding": "same",
            "dropout": 0.0,
            "normalization": "none", "activation": "relu",
            "head": "GlobalAveragePooling2D"}  # fmt: skip
    space = wide_space(latency=model)
    times = [
        space.cost(space.fit({**base, "stage.filters": w}).net)["latency_ms"] for w in (4, 8, 12)
    ]
    assert 0 < times[0] <= times[1] <= times[2]


# --- memory --------------------------------------------------------------------------------------


def test_the_second_call_reads_what_the_first_measured(empty_cache, monkeypatch):
    asked = []

    def measured() -> LatencyModel:
        asked.append(1)
        return LatencyModel(0.002, 2e-8, 1e-9)

    monkeypatch.setattr(machine, "_latency_model", measured)
    first = machine.latency_model()
    assert machine.latency_model() == first == LatencyModel(0.002, 2e-8, 1e-9)
    assert len(asked) == 1
    (file,) = empty_cache.iterdir()
    assert file.name.startswith("latency-")


def test_the_pace_is_remembered_so_that_the_same_images_get_the_same_advice(
    empty_cache, monkeypatch
):
    """Measured under other load it would be another one, and another width; an engine has one of
    its own.
    """
    asked = []

    def measured(engine: Engine) -> Pace:
        asked.append(engine.dtype)
        return Pace(1e-12 * len(asked), 2e-10, 3e-7)

    monkeypatch.setattr(machine, "_pace", measured)
    first = machine.pace(Engine("cpu", "float32"))
    assert machine.pace(Engine("cpu", "float32")) == first == Pace(1e-12, 2e-10, 3e-7)
    assert machine.pace(Engine("cpu", "bfloat16")) == Pace(2e-12, 2e-10, 3e-7)
    assert asked == ["float32", "bfloat16"]


def test_a_gpu_is_named_and_has_a_pace_of_its_own(empty_cache, monkeypatch):
    """Its steps take as long as their launches, whatever the nets: that is told of each image."""
    assert "gpu" not in machine.ThisMachine().describe()
    usual = machine._remembered("x", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    host = machine.ThisMachine()
    assert host.describe()["gpu"] == "NVIDIA H200"
    assert host.name.startswith("NVIDIA H200, ")
    assert machine._remembered("x", lambda: 2) != usual
    monkeypatch.setattr(
        machine, "_seconds_per_image", lambda net, engine, batch: (2e-3 + 1e-12 * batch) / batch
    )
    pace = machine._pace(Engine("cuda", "float32"))
    assert pace.per_image == pytest.approx(2e-3 / machine.GPU_BATCH, rel=0.01)
    assert pace.seconds(1e6, 1e4) == pytest.approx(pace.seconds(1e4, 1e2), rel=0.01)


@pytest.mark.parametrize(
    ("held", "capability", "trains"),
    [
        ("sm_75 sm_80 sm_90 sm_120 compute_120", (6, 1), False),  # a GTX 1080, CUDA 13
        ("sm_75 sm_80 sm_86 sm_90", (8, 9), True),  # an RTX 4090 runs what is for 8.x
        ("sm_86", (8, 0), False),
        ("sm_80 compute_80", (10, 0), True),  # compiled when it is loaded
        ("sm_90a", (9, 0), True),
        ("gfx90a gfx942", (9, 4), True),  # AMD's have other names
        ("", (9, 0), True),
    ],
)
def test_a_gpu_that_pytorch_has_no_code_for_does_not_train(
    empty_cache, monkeypatch, held, capability, trains
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", held.split)
    monkeypatch.setattr(machine, "_dtype", lambda device: "float32")
    assert machine.engine().device == ("cuda" if trains else "cpu")
    assert machine.ThisMachine().name.startswith("a GPU, ") == trains


def test_other_probes_or_versions_are_measured_anew(empty_cache, monkeypatch):
    assert machine._remembered("x", lambda: 1) == 1
    assert machine._remembered("x", lambda: 2) == 1
    monkeypatch.setattr(machine, "PROBES", ((9, 9, 9),))
    assert machine._remembered("x", lambda: 3) == 3


def test_a_user_without_a_home_costs_only_the_memory(monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert machine._remembered("pace", lambda: [1.0]) == [1.0]


def test_a_spoilt_or_read_only_cache_costs_only_the_memory(empty_cache, monkeypatch):
    assert machine._remembered("x", lambda: 1) == 1
    (file,) = empty_cache.iterdir()
    file.write_text("{half a")
    assert machine._remembered("x", lambda: 2) == 2
    assert json.loads(file.read_text()) == 2
    (empty_cache.parent / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache.parent / "file"))
    assert machine._remembered("x", lambda: 4) == 4


def test_the_description_names_what_matters():
    host = machine.ThisMachine()
    found = host.describe()
    assert found["cores"] == host.cores == len(os.sched_getaffinity(0))
    assert found["cpu"] in host.name
    assert found["torch"] == torch.__version__
    assert {
        "convwise",
        "numpy",
        "keras",
        "onnxruntime",
        "optuna",
        "cpu",
        "system",
        "python",
    } <= set(found)
    json.dumps(found)


def test_the_description_leaves_out_what_is_not_installed(monkeypatch):
    monkeypatch.setattr(machine, "PACKAGES", ("torch", "no-such-package"))
    assert machine.ThisMachine().describe().keys() == {"cpu", "cores", "system", "python", "torch"}


HELD = """
import os
import subprocess
import sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from convwise.images import stack
from convwise.training.machine import ThisMachine
print(ThisMachine().cores, stack.THREADS)
"""


def test_a_process_held_to_one_core_computes_and_decodes_with_one_thread():
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]
