"""Files of torch.export that are hostile or odd: nothing in them costs more memory than they have
bytes for.
"""

from __future__ import annotations

import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_torch_lift import exported
from test_torch_lift_costs import Of, conv, total
from torch import nn

from convwise.core.problems import UnusableInput
from convwise.formats.torch.lift import lift, read

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE = 16, 16, 3
CONFIG, GRAPH = "data/weights/model_weights_config.json", "models/model.json"


def edited(path: Path, change: Callable[[dict[str, Any]], None], member: str = CONFIG) -> Path:
    """The file with one of its texts changed."""
    new = path.with_name(f"{path.stem}_.pt2")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(new, "w") as archive:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith(member):
                change(told := json.loads(data))
                data = json.dumps(told).encode()
            archive.writestr(info.filename, data)
    return new


def peak(act: Callable[[], object]) -> int:
    """The most bytes that Python and numpy hold while it runs."""
    tracemalloc.start()
    try:
        act()
    except UnusableInput:
        pass
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return most


def fully(sizes: int) -> nn.Module:
    return nn.Sequential(conv(3, 4), nn.Flatten(), nn.Linear(4 * 14 * 14, sizes))


def test_what_no_operator_reads_is_not_read(tmp_path):
    path = exported(fully(8), SHAPE, tmp_path / "net.pt2")

    def more(told):
        entry = told["config"]["2.weight"]
        told["config"] |= {f"more{i}": entry for i in range(5000)}

    # The texts themselves
    assert peak(lambda: read(edited(path, more))) < peak(lambda: read(path)) + 20_000_000


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_member_is_read_once_however_many_names_it_has(tmp_path, kind):
    """500 parameters that lie in one storage of 2 MB, each in another shape."""
    store = torch.zeros(500_000, dtype=kind)
    module = Of(
        lambda s, x: sum(getattr(s, f"w{i}")[0] for i in range(60)) * s.f(x), f=conv(3, 2).to(kind)
    )
    for i in range(60):
        module.register_buffer(f"w{i}", store[: 500_000 - i])
    program = torch.export.export(module.eval(), (torch.zeros(2, 3, 16, 16, dtype=kind),))
    torch.export.save(program, tmp_path / "net.pt2")
    assert peak(lambda: read(tmp_path / "net.pt2")) < 40_000_000


def test_numbers_that_are_worked_out_of_weights_are_bounded(tmp_path):
    def scaled(self, x):
        weight = self.w
        for _ in range(60):
            weight = weight * 1.01
        return torch.nn.functional.conv2d(x, weight)

    module = Of(scaled, w=nn.Parameter(torch.randn(512, 3, 32, 32)))
    path = exported(module, (32, 32, 3), tmp_path / "net.pt2")
    assert peak(lambda: read(path)) < 60 * 8 * module.w.numel()
    assert total(read(path)).total.macs == module.w.numel()


def test_a_tensor_that_repeats_its_numbers_is_read(tmp_path):
    module = Of(lambda s, x: s.c(x) + s.shift, c=conv(3, 4))
    module.register_buffer("shift", torch.full((1, 1, 1), 0.5).expand(4, 14, 14))
    assert read(exported(module, SHAPE, tmp_path / "net.pt2")).net == lift(module, SHAPE).net


def test_weights_that_are_nowhere_are_counted_each(tmp_path):
    with torch.device("meta"):
        module = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)).eval()
        program = torch.export.export(module, (torch.zeros(2, 3, 16, 16),))
    torch.export.save(program, tmp_path / "net.pt2")
    assert total(read(tmp_path / "net.pt2")).total.params == sum(
        each.numel() for each in module.parameters()
    )


def test_archives_that_say_more_than_they_hold_are_refused(tmp_path):
    path = exported(fully(2), SHAPE, tmp_path / "net.pt2")
    with pytest.raises(
        UnusableInput, match=r"stores 2.weight as \(2,\), which its graph takes for \(2, 784\)"
    ):
        read(
            edited(path, lambda told: told["config"].update({"2.weight": told["config"]["2.bias"]}))
        )
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    # The size of the last member, unpacked
    data[entry + 24 : entry + 28] = (2**31 - 1).to_bytes(4, "little")
    (tmp_path / "long.pt2").write_bytes(data)
    with pytest.raises(UnusableInput, match=r"says that it holds 2,147,\d+,\d+ bytes, but is \d"):
        read(tmp_path / "long.pt2")


@pytest.mark.parametrize(
    "size", [{"as_int": 10**400}, {"as_expr": {"expr_str": "Pow(" * 40 + "97" + ", 4)" * 40}}]
)
def test_sizes_beyond_any_tensor_are_refused(tmp_path, size):
    """Also powers of powers, which would take all memory."""
    path = exported(conv(), SHAPE, tmp_path / "net.pt2")

    def grown(told):
        told["graph_module"]["graph"]["tensor_values"]["conv2d"]["sizes"][2] = size

    with pytest.raises(
        UnusableInput, match="a side of more than 1,099,511,627,776; expected sides from 0 to"
    ):
        read(edited(path, grown, GRAPH))


# --- sizes that the images must have ------------------------------------------------------------


def test_a_fix_for_the_size_of_images_works_when_typed(tmp_path):
    one, two, square = (torch.export.Dim(name, min=1, max=16) for name in ("one", "two", "square"))
    stem = nn.Sequential(conv(3, 4, 4, stride=4), nn.ReLU())
    both = exported(stem, SHAPE, tmp_path / "both.pt2", dynamic_shapes=({2: 4 * one, 3: 4 * two},))
    with pytest.raises(
        UnusableInput, match="a side of 25; expected sizes 4, 8, 12.*Fix: --input-shape 24x28x3"
    ):
        read(both, (25, 31, 3))
    with pytest.raises(UnusableInput, match="anyxanyx3.*not 24x28x1.*Fix: --input-shape 24x28x3"):
        read(both, (24, 28, 1))
    with pytest.raises(UnusableInput, match="Fix: --input-shape 24x28x3"):
        read(both, (3, 24, 28))
    assert read(both, (24, 28, 3)).net == lift(stem, (24, 28, 3)).net
    squared = Of(lambda s, x: s.c(x) @ x, c=conv(3, 3, 1))
    path = exported(
        squared, SHAPE, tmp_path / "square.pt2", dynamic_shapes=({2: square, 3: square},)
    )
    with pytest.raises(
        UnusableInput, match=r"no images of 8x9x3.*a side of 8, not 9\. Fix: --input-shape 8x8x3"
    ):
        read(path, (8, 9, 3))
    assert read(path, (8, 8, 3)).net.input_shape == (8, 8, 3)
