"""Modules of PyTorch, read: their nets answer as they do."""

from __future__ import annotations

import contextlib
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_formats import CASES, SPELLED, assert_close, net_of
from torch import nn

from convwise.core import layers as L
from convwise.core.activations import ACTIVATIONS
from convwise.core.layer_windows import transposed_crops
from convwise.core.net import Net
from convwise.core.problems import ShapeError, Unsupported, UnusableInput
from convwise.formats import torch as torch_format
from convwise.formats.lifted import Lifted
from convwise.formats.torch.lift import lift, read
from nets import canonical, random_net, random_weights

pytestmark = pytest.mark.filterwarnings("ignore")


def trained(net: Net, seed: int = 1) -> nn.Module:
    module = torch_format.build(net)
    torch_format.load(module, net, random_weights(net, seed))
    return module.eval()


def moved(module: nn.Module) -> nn.Module:
    """Weights and statistics far from their first values."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            spread = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(
                0.5 + spread
                if "var" in name
                else (spread - 0.4) / max(1, tensor[:1].numel()) ** 0.5
            )
    return module.eval()


def assert_same(lifted: Lifted, module: nn.Module, scale: float = 1.0) -> None:
    """The net's own module gives what the module that was read gives."""
    height, width, channels = lifted.net.input_shape
    pixels = (
        torch.rand(3, channels, height, width, generator=torch.Generator().manual_seed(1)) * scale
    )
    ours = torch_format.build(lifted.net)
    torch_format.load(ours, lifted.net, lifted.weights)
    with torch.no_grad():
        assert_close(ours.eval()(pixels).numpy(), module.eval()(pixels).numpy())


def assert_returns(net: Net) -> None:
    module = trained(net)
    back = lift(module, net.input_shape)
    assert canonical(back.net) == canonical(net)
    assert_same(back, module, 255.0)


# --- round trips ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_every_layer_returns(case):
    assert_returns(net_of(CASES[case]))


def test_every_activation_returns():
    calm = L.Activation("tanh")
    for name in (*ACTIVATIONS, *SPELLED):
        assert_returns(net_of((L.Conv2D(4, 1, activation=name), calm, L.Activation(name),
                               L.GlobalAveragePooling2D(), calm, L.Dense(3, activation=name), calm,
                               L.Activation(name))))  # fmt: skip


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1))
def test_random_nets_return(seed):
    with contextlib.suppress(Unsupported):
        assert_returns(random_net(random.Random(seed), everywhere=False))


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1), folder=st.just(None))
def test_random_nets_return_from_files(seed, folder, tmp_path_factory):
    net = random_net(random.Random(seed), everywhere=False)
    module, path = trained(net), tmp_path_factory.mktemp("pt2") / "net.pt2"
    exported(module, net.input_shape, path)
    back, live = read(path), lift(module, net.input_shape)
    assert back.net == live.net
    assert all(np.array_equal(back.weights[key], live.weights[key]) for key in live.weights)


def test_infinity_returns_from_a_file(tmp_path):
    """The padding of a max pool, which JSON cannot say as a number."""
    net = Net((6, 5, 4), (L.MaxPooling2D(2, 1, (1, 0, 1, 0)), L.Conv2D(2, 1)))
    back = read(exported(trained(net), net.input_shape, tmp_path / "net.pt2"))
    assert back.net == net


def exported(module: nn.Module, shape: tuple[int, int, int], path: Path, **more: object) -> Path:
    height, width, channels = shape
    with torch.no_grad():
        program = torch.export.export(
            module.eval(), (torch.zeros(2, channels, height, width),), **more
        )
    torch.export.save(program, path)
    return path


def test_a_shared_layer_is_one_module():
    net = Net((8, 8, 4), (
        L.Conv2D(4, 3, padding="same", activation="relu", name="conv"),
        L.BatchNormalization(name="norm"),
        L.Conv2D(4, 3, padding="same", activation="relu", name="again", shares="conv"),
        L.BatchNormalization(shares="norm", name="norm_again"),
        L.SeparableConv2D(4, 3, padding="same", name="deep"),
        L.SeparableConv2D(4, 3, padding="same", shares="deep", name="deeper"), L.Flatten(),
        L.Dense(2),
    ))  # fmt: skip
    module = trained(net)
    assert sum(name.startswith("conv.") for name in module.state_dict()) == 2
    space: dict = {"__name__": "model"}
    exec(torch_format.render(net), space)
    written = space["build_model"]()
    assert list(written.state_dict()) == list(module.state_dict())
    written.load_state_dict(module.state_dict())
    image = torch.rand(2, 4, 8, 8)
    assert_close(written.eval()(image).detach().numpy(), module(image).detach().numpy())
    assert_returns(net)


def test_a_shared_layer_that_is_another_module_is_refused():
    net = Net(
        (8, 8, 4), (L.Conv2D(4, 3, 2, "same", name="a"), L.Conv2D(4, 3, 1, "same", shares="a"))
    )
    with pytest.raises(
        Unsupported, match=r"layer conv2d: is Conv2d\(4, 4, 3, padding=1\), which a is not"
    ):
        torch_format.build(net)


# --- modules as people write them -----------------------------------------------------------


class Functional(nn.Module):
    """relu and pooling as functions, view by the size of the batch, a dropout, log_softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = (
            nn.Conv2d(1, 6, 5, padding=2),
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
        )
        self.drop, self.fc = nn.Dropout2d(0.1), nn.Linear(8 * 4 * 3, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.leaky_relu(self.drop(self.conv2(x)))
        x = x.view(x.size(0), -1)
        return F.log_softmax(self.fc(F.softsign(x)), dim=1)


class Residual(nn.Module):
    """In-place ReLU, a projected shortcut, statistics of the data in front, flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        first = nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(True)
        self.body = nn.Sequential(*first, nn.Conv2d(12, 12, 3, 1, 1))
        self.short = nn.Conv2d(8, 12, 1, 2)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(12, 4))

    def forward(self, x):
        x = self.stem((x - self.mean) / 0.25)
        out = self.body(x)
        out += self.short(x)
        return self.head(F.relu(out))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Sequential(nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 8), nn.Sigmoid())

    def forward(self, x):
        x = self.conv(x)
        b, c, _, _ = x.shape
        y = self.fc(F.adaptive_avg_pool2d(x, 1).view(b, c)).view(b, c, 1, 1)
        return (x * y.expand_as(x)).mean(dim=[2, 3])


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 3, padding="same")
        self.c = nn.Conv2d(3, 4, (1, 7), padding=(0, 3))
        self.pool, self.fc = nn.AvgPool2d(3, 1, 1), nn.Linear(12 * 9 * 10, 3)

    def forward(self, x):
        x = torch.cat([self.a(x), self.b(x), self.c(x), self.pool(x)], 1)
        return self.fc(torch.flatten(x, 1)).softmax(-1)


class ConvNext(nn.Module):
    """Channels last inside the block: LayerNorm and Linear on (n, height, width, channels), a layer
    scale.
    """

    def __init__(self) -> None:
        super().__init__()
        self.deep, self.norm = nn.Conv2d(4, 4, 7, padding=3, groups=4), nn.LayerNorm(4, eps=1e-6)
        self.up, self.act, self.down = nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 4)
        self.gamma, self.last = nn.Parameter(torch.full((4,), 0.3)), nn.LayerNorm(4)

    def forward(self, x):
        y = self.deep(x).permute(0, 2, 3, 1)
        y = self.gamma * self.down(self.act(self.up(self.norm(y))))
        x = x + y.permute(0, 3, 1, 2)
        return self.last(x.mean([-2, -1]))


class MobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True),
            nn.Conv2d(8, 16, 3, 2, 1, groups=8, bias=False), nn.BatchNorm2d(16), nn.Hardswish(),
            nn.Conv2d(16, 6, 1), nn.InstanceNorm2d(6, affine=True), nn.PReLU(6), nn.GroupNorm(3, 6),
        )  # fmt: skip
        self.classifier = nn.Linear(6, 3)

    def forward(self, x):
        return self.classifier(
            nn.functional.adaptive_avg_pool2d(self.block(x), (1, 1)).squeeze(3).squeeze(2)
        )


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 3, 2, 1, output_padding=1)
        self.smooth = nn.Upsample(scale_factor=2, mode="bilinear")
        self.out = nn.Conv2d(16, 3, 1)

    def forward(self, x):
        skip = torch.tanh(self.down(x))
        x = F.silu(self.deep(F.max_pool2d(skip, 2)))
        return self.out(torch.cat([skip, self.up(x), self.smooth(x)], dim=1))


class Twice(nn.Module):
    """One module called twice, ceil_mode, a crop, constants."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(3, 2, ceil_mode=True)

    def forward(self, x):
        x = self.pool(self.conv(F.elu(self.conv(x))))
        x = F.avg_pool2d(x[:, :, 1:, :-1], 2, ceil_mode=True, padding=1)
        return 1 - x.clamp(-0.3, 0.3) * 2


MODULES = {
    "Functional": (Functional, (16, 12, 1)), "Residual": (Residual, (13, 10, 3)),
    "SqueezeExcite": (SqueezeExcite, (9, 8, 3)), "Inception": (Inception, (9, 10, 3)),
    "ConvNext": (ConvNext, (9, 8, 4)), "MobileNet": (MobileNet, (9, 10, 3)), "UNet": (UNet, (8, 12,
    2)),
    "Twice": (Twice, (10, 11, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_modules_as_people_write_them(name, tmp_path):
    kind, shape = MODULES[name]
    module = moved(kind())
    lifted = lift(module, shape)
    assert not [layer for layer in lifted.net.layers if isinstance(layer, L.Opaque)]
    assert_same(lifted, module)
    assert sum(v.size for v in lifted.weights.values()) == sum(
        v.numel()
        for key, v in module.state_dict().items()
        if v.is_floating_point() and key != "mean"
    )
    again = read(exported(module, shape, tmp_path / "net.pt2"))
    assert again.net == lifted.net


def test_names_are_those_of_the_modules():
    lifted = lift(Residual(), (13, 10, 3))
    names = [layer.name for layer in lifted.net.layers]
    assert names[1:4] == ["stem_0", "stem_1", "stem_2"]
    assert names[-3:] == ["head_0", "head_1", "head_2"]
    twice = lift(Twice(), (10, 11, 4)).net
    assert (twice["conv_1"].shares, twice["conv_1"].op) == ("conv", "Conv2D")


class Odd(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(4, 4, 1), function

    def forward(self, x):
        return self.function(self.conv(x))


OPAQUE = {
    "divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "dilated pool": lambda x: F.max_pool2d(x, 2, dilation=2),
    "reflected": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "corners": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
    "shuffle": lambda x: F.pixel_shuffle(x, 2),
    "channel shuffle": (
        lambda x: x.view(x.shape[0], 2, 2, 6, 8).transpose(1, 2).reshape(x.shape) * 1.0
    ),
    "rows for columns": lambda x: F.max_pool2d(x.transpose(2, 3), 2),
    "square": lambda x: x.pow(2),
    "half": lambda x: x[:, :2],
    "largest pad": lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-1.0), 2),
    "softmax over rows": lambda x: x.softmax(2),
    "split": lambda x: torch.cat([part * 2 for part in x.chunk(2, 1)], 1),
}


@pytest.mark.parametrize("name", OPAQUE)
def test_what_is_no_layer_is_opaque_with_its_shape(name):
    module = Odd(OPAQUE[name])
    lifted = lift(module, (6, 8, 4))
    odd = [layer for layer in lifted.net.layers if isinstance(layer, L.Opaque)]
    assert odd
    assert lifted.net.layers[0] == L.Conv2D(4, 1, name="conv", inputs=("input",))
    answer = module(torch.zeros(2, 4, 6, 8))
    from convwise.core.calculus import analyse

    last = analyse(lifted.net).layers[-1].output_shape
    assert last == (*answer.shape[2:], answer.shape[1])


def test_a_map_that_is_made_of_a_row_and_a_row_in_torch_order():
    """flatten, two linears on halves joined, and a decoder that views a row as a map of one
    channel.
    """

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = (
                nn.Linear(3 * 4 * 5, 6),
                nn.Linear(3 * 4 * 5, 6),
                nn.BatchNorm1d(60),
            )
            self.up = nn.ConvTranspose2d(1, 2, (3, 2), 2)

        def forward(self, x):
            row = self.norm(x.flatten(1).relu())
            row = torch.cat([self.a(row), self.b(row)], 1)
            return self.up(row.view(-1, 1, 3, 4))

    module = moved(Decoder())
    assert_same(lift(module, (4, 5, 3)), module)


def test_what_is_changed_in_place_is_changed_for_all_who_read_it():
    """The shortcut of a block that begins with an in-place ReLU has passed the ReLU as well."""

    def block(x):
        y = F.relu(x, inplace=True).sigmoid()
        return y + x

    module = moved(Odd(block))
    lifted = lift(module, (6, 5, 4))
    assert lifted.net.layers[-1].inputs == ("sigmoid", "relu")
    assert_same(lifted, module)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_transposed_convolutions_by_hand(data):
    """Against loops: every input adds its kernel to the full output, of which the padding is
    taken.
    """
    size, two = (
        st.tuples(st.integers(1, 5), st.integers(1, 5)),
        st.tuples(st.integers(1, 3), st.integers(1, 3)),
    )
    kernel, strides, dilation = data.draw(size), data.draw(two), data.draw(two)
    padding = data.draw(st.sampled_from(["same", "valid"]) | st.tuples(*[st.integers(0, 2)] * 4))
    extra = data.draw(st.tuples(*(st.integers(0, s - 1) for s in strides)))
    groups = data.draw(st.sampled_from([1, 2]))
    layer = L.Conv2DTranspose(
        2 * groups, kernel, strides, padding, extra, dilation, groups, name="up"
    )
    net = Net((3, 4, 2 * groups), (layer,))
    try:
        given_crops = transposed_crops(layer)
        module = trained(net)
    except (ShapeError, Unsupported):
        return
    image = np.random.default_rng(0).normal(size=(3, 4, 2 * groups))
    weights = random_weights(net, 1)
    reach = [d * (n - 1) + 1 for n, d in zip(kernel, dilation, strict=True)]
    margin = 8
    sides = [(n - 1) * s + r + 2 * margin for n, s, r in zip((3, 4), strides, reach, strict=True)]
    full = np.zeros([*sides, 2 * groups])
    for i, j, a, b in np.ndindex(3, 4, *kernel):
        y, x = i * strides[0] + a * dilation[0] + margin, j * strides[1] + b * dilation[1] + margin
        for g in range(groups):
            part = slice(2 * g, 2 * g + 2)
            full[y, x, part] += weights["up/kernel"][a, b][:, part] @ image[i, j, part]
    top, bottom, left, right = given_crops
    rows, columns = full.shape[:2]
    inner = full[margin + top : rows - margin - bottom, margin + left : columns - margin - right]
    expected = inner + weights["up/bias"]
    answer = (
        module(torch.from_numpy(image).float().permute(2, 0, 1)[None])[0]
        .permute(1, 2, 0)
        .detach()
        .numpy()
    )
    assert_close(answer, expected)
    assert_returns(net)


# --- files and refusals ---------------------------------------------------------------------


def test_a_free_size_asks_for_the_input_shape(tmp_path):
    batch, side = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("side", min=16, max=64)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    module = moved(nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), *head))
    path = exported(
        module, (32, 32, 3), tmp_path / "free.pt2", dynamic_shapes=({0: batch, 2: side},)
    )
    with pytest.raises(UnusableInput, match="free input size.*--input-shape"):
        read(path)
    lifted = read(path, (40, 32, 3))
    assert lifted.net.input_shape == (40, 32, 3)
    assert_same(lifted, module)
    with pytest.raises(UnusableInput, match="is made for images of"):
        read(path, (40, 33, 3))


class Bomb:
    def __reduce__(self):
        return (open, (str(Bomb.target), "w"))


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.pt2"])
def test_a_pickle_is_refused_and_not_run(name, tmp_path):
    Bomb.target = tmp_path / "exploded"
    path = tmp_path / name
    torch.save({"bomb": Bomb()}, path)
    with pytest.raises(
        UnusableInput,
        match="pickle, which can run code" if name != "net.pt2" else "holds no models",
    ):
        read(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UnusableInput):
        read(path)
    assert not Bomb.target.exists()


def _edited(path: Path, member: str, change) -> Path:
    new = path.with_name(f"{path.stem}_.pt2")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(new, "w") as archive:
        for info in old.infolist():
            data = old.read(info)
            archive.writestr(
                info.filename, change(data) if info.filename.endswith(member) else data
            )
    return new


def test_what_is_pickled_inside_or_damaged_is_refused(tmp_path):
    Bomb.target = tmp_path / "exploded"
    path = exported(nn.Sequential(nn.Conv2d(1, 2, 3)), (5, 5, 1), tmp_path / "net.pt2")
    config, graph, bomb = "model_weights_config.json", "models/model.json", pickle.dumps(Bomb())
    pickled = _edited(
        path, config, lambda data: data.replace(b'"use_pickle": false', b'"use_pickle": true')
    )
    with pytest.raises(UnusableInput, match="is a pickle"):
        read(_edited(pickled, "weights/weight_0", lambda data: bomb))
    read(_edited(path, "sample_inputs/model.pt", lambda data: bomb))  # never looked at
    called = _edited(
        path, graph, lambda data: data.replace(b"torch.ops.aten.conv2d.default", b"torch.load")
    )
    assert read(called).net.layers[0].op == "Opaque"
    code = b'{"as_expr": {"expr_str": "open(\'' + str(Bomb.target).encode() + b"', 'w')\"}}"
    for change in (
        lambda data: data[: len(data) // 2],
        lambda data: b"[" * 100_000,
        lambda data: data.replace(b'"nodes"', b'"knots"'),
        lambda data: data.replace(b'"as_int": 5', b'"as_int": -5'),
        lambda data: data.replace(b'{"as_int": 3}', code),
    ):
        with pytest.raises(UnusableInput):
            read(_edited(path, graph, change))
    with pytest.raises(UnusableInput):
        read(
            _edited(
                path, config, lambda data: data.replace(b'"as_int": 2}', b'"as_int": 2000000000}')
            )
        )
    with pytest.raises(UnusableInput, match="too short"):
        read(_edited(path, "weights/weight_0", lambda data: data[:-8]))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnusableInput, match="torch.export.save"):
        read(path)
    assert not Bomb.target.exists()


def test_what_cannot_be_traced_says_why():
    class Branching(nn.Module):
        def forward(self, x):
            return x + 1 if x.sum() > 0 else x

    with pytest.raises(UnusableInput, match="Branching: cannot be traced by torch.export"):
        lift(Branching(), (4, 4, 1))
    with pytest.raises(UnusableInput, match=r"reads 5 channels, not 1.*--input-shape 4x4x5"):
        lift(nn.Conv2d(5, 2, 3), (4, 4, 1))
