"""What is no module of images: what it is, and what to do next, in the words of its user."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from test_torch_lift import exported
from test_torch_lift_costs import Of, conv, total
from torch import nn

from convwise.core.problems import UnusableInput
from convwise.formats.torch.lift import lift, read

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE = 16, 16, 3


class Siamese(nn.Module):
    def forward(self, left, right):
        return left - right


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 12 * 12, 10)
    )


def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(
        nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), {nn.Linear}
    )


class Detector(nn.Module):
    """Takes a list of images, as those of torchvision do."""

    def __init__(self):
        super().__init__()
        self.backbone = conv(3, 4)

    def forward(self, images: list[torch.Tensor], targets=None):
        return [self.backbone(image[None]) for image in images]


def prepared() -> nn.Module:
    module = nn.Sequential(torch.ao.quantization.QuantStub(), conv(), nn.ReLU()).eval()
    module.qconfig = torch.ao.quantization.get_default_qconfig("x86")
    return torch.ao.quantization.prepare(module)


def looped(self, x):
    return torch.stack([self.c(image) for image in x])


def indexed(self, x):
    return torch.cat(
        [self.features(x[i : i + 1]) + self.features(x[i][None]) for i in range(len(x))]
    )


# A module, and what is said of it.
REFUSED = {
    "two inputs": (Siamese, r"has 2 inputs \(left, right\); expected one input"),
    "TorchScript": (lambda: torch.jit.script(conv()),
    "is TorchScript.*give the module that it was made from"),
    "quantised": (quantised, "is quantised.*before it was converted"),
    "lazy": (lambda: nn.LazyConv2d(8, 3), "weights are not made yet.*call it once"),
    "volumes": (lambda: nn.Sequential(nn.Conv3d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2)),
    "has Conv3d and no Conv2d"),
    "channels": (lambda: conv(5, 2), "reads 5 channels, not 3.*Fix: --input-shape 16x16x5"),
    "another size": (lenet, "reads 1 channel, not 3.*Fix: --input-shape 28x28x1"),
    "one at a time": (lambda: Of(lambda s, x: s.f(x.view(1, -1)), f=nn.Linear(768, 2)),
    "takes one image at a time"),
    "values": (lambda: Of(lambda s, x: s.backbone(x)[x > 0], backbone=conv(3, 3, padding=1)),
    r"\(\.backbone\)"),
    "a list": (Detector,
    r"several tensors \(images: list.*give the part of it that takes one \(\.backbone\)"),
    "a loop": (lambda: Of(looped, c=conv()), "splits the batch.*forward is the body of that loop"),
    "indexed": (lambda: Of(indexed, features=conv()), r"splits the batch.*\(\.features\)"),
    "prepared": (prepared, "is prepared for quantisation.*before it was prepared"),
    "a scripted part": (lambda: nn.Sequential(torch.jit.script(conv())),
    "has a part that is TorchScript"),
    "no forward": (lambda: nn.ModuleList([conv()]), "has no forward.*Sequential"),
    "a dict": (lambda: Of(lambda s, x: s.f(x["image"]), f=conv()),
    r"a module around it.*\(n, channels, hei"),
    "nothing": (lambda: Of(lambda s, x: s.f.weight, f=conv()),
    "no output that comes from its image.*Fix: return"),
    "foreign": (lambda: Of(lambda s, x: torch.from_numpy(x.numpy())),
    "cannot be traced.*torch.onnx.export"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_what_to_do(name):
    make, said = REFUSED[name]
    with pytest.raises(UnusableInput, match=said) as caught:
        lift(make(), SHAPE)
    text = str(caught.value)
    assert "97" not in text
    assert "__" not in text
    fix = re.search(r"--input-shape (\d+)x(\d+)x(\d+)", text)
    if fix:
        lift(make(), tuple(map(int, fix.groups())))


def test_the_module_is_left_as_it_was():
    module = lenet().train()
    with pytest.raises(UnusableInput):
        lift(module, SHAPE)
    assert module.training
    assert next(module.parameters()).device.type == "cpu"


class Keeping(nn.Module):
    """Keeps a grid of the last size, as heads of detectors do, and has one part that does not
    learn.
    """

    def __init__(self):
        super().__init__()
        self.c, self.norm, self.grid, self.seen = conv(3, 4, padding=1), nn.BatchNorm2d(4), None, []

    def forward(self, x):
        x = self.norm(self.c(x))
        if self.grid is None or self.grid.shape != x.shape[2:]:
            self.grid = torch.ones(x.shape[2:])
            self.seen.append(self.grid)
        return x + self.grid


def test_what_a_module_keeps_of_its_last_images_is_not_of_ours():
    module = Keeping().train()
    module.norm.eval()
    assert total(lift(module, SHAPE)).total == total(lift(module, SHAPE)).total
    assert (module.grid, module.seen) == (None, [])
    assert (module.training, module.c.training, module.norm.training) == (True, True, False)
    assert module(torch.ones(1, *SHAPE[2:], *SHAPE[:2])).isfinite().all()


# --- files with free sizes --------------------------------------------------------------------


def test_sizes_that_are_worked_out_from_the_images(tmp_path):
    """Pads that are differences of sizes, views of their products, sizes that are multiples."""

    def skip(self, x):
        wide, deep = self.a(x), self.u(F.max_pool2d(self.a(x), 2))
        rows, columns = wide.size(2) - deep.size(2), wide.size(3) - deep.size(3)
        deep = F.pad(deep, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        return torch.cat([wide, deep], 1).flatten(2).transpose(1, 2)

    module = Of(skip, a=conv(3, 4, padding=1), u=nn.ConvTranspose2d(4, 4, 2, 2))
    free = {
        "dynamic_shapes": (
            ({0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}),
        )
    }
    path = exported(Of(lambda s, x: s.m(x), m=module), SHAPE, tmp_path / "free.pt2", **free)
    with pytest.raises(UnusableInput, match=r"free input size.*Fix: --input-shape 224x224x3"):
        read(path)
    for shape in ((16, 16, 3), (17, 22, 3)):
        assert total(read(path, shape)).total == total(lift(module, shape)).total


def test_sizes_that_must_be_multiples(tmp_path):
    side = torch.export.Dim("side", min=1, max=16)
    module = nn.Sequential(conv(3, 4, 4, stride=4), nn.PixelShuffle(2))
    path = exported(module, SHAPE, tmp_path / "net.pt2", dynamic_shapes=({2: 4 * side},))
    assert read(path, (24, 16, 3)).net == lift(module, (24, 16, 3)).net
    with pytest.raises(
        UnusableInput, match=r"no images with a side of 25; expected sizes 4, 8, 12"
    ):
        read(path, (25, 16, 3))
    with pytest.raises(UnusableInput, match="is made for images of anyx16x3"):
        read(path, (24, 17, 3))
