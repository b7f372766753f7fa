"""This machine: what it is, whether its low precision can be trusted, how fast it trains and
answers.

Measured once per install and kept in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from scipy.optimize import nnls

from convwise.core.calculus import analyse
from convwise.core.cores import cores
from convwise.core.defaults import MOST_WORKERS
from convwise.core.layers import Conv2D, Dense, GlobalAveragePooling2D, MaxPooling2D
from convwise.core.net import Net
from convwise.core.places import cache_folder
from convwise.core.records import Engine, Pace, from_json, to_json
from convwise.core.space import LatencyModel

PACKAGES = ("convwise", "torch", "numpy", "keras", "onnxruntime", "optuna", "scikit-learn")
Dtype = Literal["float32", "bfloat16"]
# Largest relative error of a bf16 convolution against fp32, forward and gradients
BF16_TOLERANCE = 0.05
# Small nets around which training time and latency are fitted: (image size, filters, kernel size).
PROBES = ((16, 8, 3), (28, 16, 3), (28, 32, 3), (32, 32, 5), (48, 16, 3), (32, 64, 1))
GPU_BATCH = 128  # images of a step that the pace of a GPU is measured with


@dataclass(frozen=True)
class ThisMachine:
    """The host that this process runs on; each thing is measured when it is asked for first."""

    @cached_property
    def name(self) -> str:
        cores = f"{self.cores} core{'s' if self.cores > 1 else ''}"
        return ", ".join(filter(None, [_gpu(), _cpu(), cores]))

    @cached_property
    def engine(self) -> Engine:
        return engine()

    @cached_property
    def cores(self) -> int:
        return cores()

    @property
    def workers(self) -> int:
        # Each core trains one net; a GPU, one at a time
        return min(self.cores, MOST_WORKERS) if self.engine.device == "cpu" else 1

    @cached_property
    def pace(self) -> Pace:
        return pace(self.engine)

    @cached_property
    def latency(self) -> LatencyModel:
        return latency_model()

    def slowness(self) -> float:
        return slowness()

    def latency_ms(self, net: Net) -> float:
        return latency_ms(net)

    def describe(self) -> dict[str, Any]:
        return {
            **({"gpu": gpu} if (gpu := _gpu()) else {}),
            "cpu": _cpu(),
            "cores": self.cores,
            "system": platform.platform(),
            "python": platform.python_version(),
            **{name: version for name in PACKAGES if (version := _version(name))},
        }


def _version(package: str) -> str:
    """Its version, '' where it is not there: formats are left out whose library is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def slowness(seconds: float = 0.1) -> float:
    """How long so many seconds of work take at this moment, over what they take where nothing else
    runs.
    """
    began, worked = time.monotonic(), time.thread_time()
    while time.thread_time() - worked < seconds:
        pass
    return max((time.monotonic() - began) / seconds, 1.0)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpu() -> str:
    """What the GPU that trains is called; '' where there is none.

    PyTorch also finds GPUs that it holds no code for, such as old ones in a build for a new CUDA,
    and fails where it computes there; it warns of them itself. Code runs on all of its generation
    that came later; what can still be compiled, on all later ones (CUDA's binary compatibility).
    """
    import torch

    if not torch.cuda.is_available():
        return ""
    held = re.findall(r"(sm|compute)_(\d+)(\d)", " ".join(torch.cuda.get_arch_list()))
    major, minor = torch.cuda.get_device_capability()
    runs = [
        (int(first), int(second)) <= (major, minor) and (kind == "compute" or int(first) == major)
        for kind, first, second in held
    ]
    return torch.cuda.get_device_name() if any(runs) or not held else ""


def engine() -> Engine:
    """The engine for training: CUDA where there is one, bf16 where that is right and faster."""
    from convwise.training import narrow

    device = "cuda" if _gpu() else "cpu"
    dtype = _remembered(f"dtype-{device}", lambda: _dtype(device))
    # Kept, so that every process sums in the same order, and the same trials give the same network
    # again.
    beside = (device, dtype) == ("cpu", "bfloat16") and bool(
        _remembered("side-by-side", narrow.pays)
    )
    return Engine(device, cast(Dtype, dtype), beside)


def pace(engine: Engine) -> Pace:
    """How long training takes here per image, fitted on PROBES with one thread; a few seconds, once
    per install.

    It is kept, so that the same images get the same advice each time, whatever else the machine
    does.
    """
    found = _remembered(f"pace-{engine.device}-{engine.dtype}", lambda: to_json(_pace(engine)))
    return cast(Pace, from_json(Pace, found))


def _pace(engine: Engine) -> Pace:
    nets, on_gpu = [_probe_net(*probe) for probe in PROBES], engine.device == "cuda"
    totals = [analyse(net).total for net in nets]
    batch = GPU_BATCH if on_gpu else 32
    rounds = [[_seconds_per_image(net, engine, batch) for net in nets] for _ in range(3)]
    best = [min(times) for times in zip(*rounds, strict=True)]
    # A step on a GPU takes as long as it takes to launch its kernels, however small the net is
    rows = [(total.macs, total.activation_bytes, *[1] * on_gpu) for total in totals]
    return Pace(*_fit(rows, best))


def latency_model() -> LatencyModel:
    """Predicted latency of one image in ONNX Runtime on one thread, fitted on PROBES."""
    found = _remembered("latency", lambda: to_json(_latency_model()))
    return cast(LatencyModel, from_json(LatencyModel, found))


@cache
def latency_ms(net: Net, runs: int = 50) -> float:
    """Measured milliseconds of one image: batch 1, ONNX Runtime, one thread, median of `runs`.

    Weights do not matter for time, so they are drawn at random. Measured once in a process: what
    kept a limit when it was advised must not break it by noise when it is chosen.
    """
    from convwise.formats import onnx as onnx_format
    from convwise.formats import torch as torch_format

    weights = torch_format.weights(torch_format.build(net), net)
    session = onnx_format.session(onnx_format.build(net, weights), threads=1)
    height, width, channels = net.input_shape
    image = {session.get_inputs()[0].name: np.zeros((1, channels, height, width), np.float32)}
    return 1e3 * statistics.median(_times(lambda: session.run(None, image), runs))


def _times(call: Any, runs: int) -> list[float]:
    call()
    seconds = []
    for _ in range(runs):
        before = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - before)
    return seconds


def _dtype(device: str) -> str:
    return "bfloat16" if bf16_agrees(device) and _bf16_gain(device) > 1.1 else "float32"


def bf16_agrees(device: str = "cpu") -> bool:
    """Whether bf16 convolutions agree with fp32, also in gradients: some builds are wrong."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for channels, kernel, stride, groups in (
        (3, 3, 1, 1),
        (16, 3, 2, 1),
        (16, 5, 1, 16),
        (32, 1, 1, 1),
    ):
        x = torch.randn(4, channels, 17, 17, generator=generator).to(device)
        weight = torch.randn(32, channels // groups, kernel, kernel, generator=generator).to(device)
        exact, low = (
            _conv_and_gradients(x, weight, stride, groups, dtype)
            for dtype in (torch.float32, torch.bfloat16)
        )
        if any(
            not _relative_error(a, b) <= BF16_TOLERANCE for a, b in zip(exact, low, strict=True)
        ):
            return False
    return True


def _conv_and_gradients(
    x: Any, weight: Any, stride: int, groups: int, dtype: Any
) -> tuple[Any, ...]:
    import torch

    x, weight = (
        t.to(dtype).to(memory_format=torch.channels_last).requires_grad_() for t in (x, weight)
    )
    out = torch.nn.functional.conv2d(
        x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups
    )
    return out, *torch.autograd.grad(out.float().square().mean(), (x, weight))


def _relative_error(exact: Any, low: Any) -> float:
    return float((low.detach().float() - exact.detach()).norm() / exact.detach().norm())


def _bf16_gain(device: str) -> float:
    """How many times faster bf16 trains; measured in turns, best of three each, so that other load
    misleads less.
    """
    net = _probe_net(28, 32, 3)
    best: dict[Dtype, float] = {"bfloat16": float("inf"), "float32": float("inf")}
    for _ in range(3):
        for dtype in best:
            best[dtype] = min(best[dtype], _seconds_per_image(net, Engine(device, dtype)))
    return best["float32"] / best["bfloat16"]


def _probe_net(size: int, filters: int, kernel: int) -> Net:
    body = [Conv2D(filters, kernel, padding="same", activation="relu"), MaxPooling2D(2)]
    body += [
        Conv2D(2 * filters, kernel, padding="same", activation="relu"),
        GlobalAveragePooling2D(),
        Dense(10),
    ]
    return Net((size, size, 3), tuple(body))


def _seconds_per_image(net: Net, engine: Engine, batch: int = 32) -> float:
    """Best of five training steps on one thread, forward and backward, per image."""
    import torch

    from convwise.formats import torch as torch_format

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    model = torch_format.build(net, logits=True).to(engine.device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    height, width, channels = net.input_shape
    x = torch.rand(batch, channels, height, width, device=engine.device).to(
        memory_format=torch.channels_last
    )

    def step() -> None:
        with torch.autocast(
            engine.device, dtype=torch.bfloat16, enabled=engine.dtype == "bfloat16"
        ):
            loss = model(x).float().square().mean()
        loss.backward()
        if engine.device == "cuda":
            torch.cuda.synchronize()

    seconds = min(_times(step, 5))
    torch.set_num_threads(before)
    return seconds / batch


def _latency_model() -> LatencyModel:
    nets = [_probe_net(*probe) for probe in PROBES]
    totals = [
        (len(net.layers), analyse(net).total.macs, analyse(net).total.activation_bytes)
        for net in nets
    ]
    return LatencyModel(*_fit(totals, [latency_ms(net) for net in nets]))


def _fit(rows: Iterable[tuple[float, ...]], times: list[float]) -> list[float]:
    """Non-negative least squares of the relative error: small nets count as much as large ones."""
    matrix = np.array(list(rows), float) / np.array(times)[:, None]
    scale = matrix.max(0)
    found, _ = nnls(matrix / scale, np.ones(len(times)))
    return [float(value) for value in found / scale]


def _remembered(key: str, measure: Any) -> Any:
    """The value kept for `key` on this install, measured where there is none."""
    versions = metadata.version("torch"), _version("onnxruntime")
    text = json.dumps([_cpu(), cores(), *versions, PROBES, *filter(None, [_gpu()])])
    name = f"{key}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    folder = cache_folder()
    if folder is None:
        return measure()
    path = folder / name
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        value = measure()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    except OSError:  # a read-only home costs only the memory
        pass
    return value
