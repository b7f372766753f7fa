"""Modules that move the batch, make their weights, or write in place: what is known of them is
right.
"""

from __future__ import annotations

import copy
import logging
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_torch_lift import assert_same, exported, moved
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convwise.core import layers as L
from convwise.core.calculus import Analysis
from convwise.core.problems import UnusableInput
from convwise.formats.lifted import Lifted
from convwise.formats.torch.lift import lift, read
from convwise.formats.torch.places import per_image
from convwise.inspect.checking import checked

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE = 32, 32, 3


class Of(nn.Module):
    """A function of (module, images), with modules and parameters by name."""

    def __init__(self, function, **parts) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def conv(inputs=3, filters=8, size=3, **more):
    return nn.Conv2d(inputs, filters, size, **more)


def weight(*shape):
    return nn.Parameter(torch.rand(shape) - 0.5)


def parameters(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def known_macs(module: nn.Module, side: int = 32) -> int:
    """Of convolutions and of all products, as PyTorch counts them where nothing is fused."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            copy.deepcopy(module).eval().to("meta")(torch.zeros(1, 3, side, side, device="meta"))
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    return counter.get_total_flops() // 2


def total(lifted: Lifted) -> Analysis:
    return checked(lifted).analysis


# --- unpooling, recurrence --------------------------------------------------------------------


def unpooled(self, x):
    one, first = F.max_pool2d(self.a(x), 2, return_indices=True)
    two, second = F.max_pool2d(self.b(one), 2, return_indices=True)
    return self.d(F.max_unpool2d(self.c(F.max_unpool2d(self.b(two), second, 2)), first, 2))


def test_numbers_go_back_into_the_windows_that_they_are_the_maxima_of():
    """The field against the px from which a NaN reaches a unit, in the middle and at an even and an
    odd place.
    """
    parts = {name: conv(8, 8, padding=1) for name in "bcd"}
    module = Of(unpooled, a=conv(3, 8, padding=1), **parts).eval()
    found = total(lift(module, SHAPE))
    assert found.total.macs == known_macs(module)
    assert {row.op for row in found.layers} == {"Conv2D", "MaxPooling2D", "Opaque"}
    field = found.total.field
    for row, column in ((13, 14), (16, 19)):
        images = torch.rand(1024, 3, 32, 32)
        for i in range(1024):
            images[i, :, i // 32, i % 32] += 1e6
        images = torch.cat([images, torch.rand(1, 3, 32, 32)])
        images[:1024] = images[1024] + (images[:1024] > 1e3) * 1e6
        with torch.no_grad():
            made = module(images)[:, :, row, column]
        seen = (made[:1024] != made[1024]).any(1).reshape(32, 32).nonzero()
        (top, left), (bottom, right) = seen.amin(0).tolist(), seen.amax(0).tolist()
        assert field.rows.at(row) == (top, bottom)
        assert field.columns.at(column) == (left, right)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("ways", [1, 2])
def test_recurrent_layers_cost_their_matrices_at_each_step(kind, ways):
    """Counted by the cells that do the same, whose products PyTorch counts."""
    cell = {nn.LSTM: nn.LSTMCell, nn.GRU: nn.GRUCell, nn.RNN: nn.RNNCell}[kind](3 * 32, 16).to(
        "meta"
    )
    module = Of(lambda s, x: s.r(x.permute(2, 0, 1, 3).flatten(2))[0].permute(1, 0, 2).flatten(1),
                r=kind(3 * 32, 16, bidirectional=ways == 2))  # fmt: skip
    with FlopCounterMode(display=False) as counter:
        cell(torch.zeros(1, 3 * 32, device="meta"))
    assert total(lift(module, SHAPE)).total.macs == 32 * ways * counter.get_total_flops() // 2


# --- the batch is not the first axis --------------------------------------------------------


def tokens(self, x):
    return self.p(x).flatten(2).transpose(1, 2)


def attention(self, x):
    x = tokens(self, x)
    return self.h(self.m(x, x, x, need_weights=False)[0].mean(1))


def tokens_first(self, x):
    return self.h(F.relu(self.m(tokens(self, x).transpose(0, 1)))).transpose(0, 1)


def merged(self, x):
    x = tokens(self, x)
    return self.h(F.relu(self.m(x.reshape(-1, 32)))).reshape(x.shape[0], 16, 10)


def windows(self, x):
    x = self.p(x).permute(0, 2, 3, 1)
    n, height, width, depth = x.shape
    x = (
        x.view(n, height // 2, 2, width // 2, 2, depth)
        .permute(0, 1, 3, 2, 4, 5)
        .reshape(-1, 4, depth)
    )
    return self.h(self.m(x)).view(n, -1, 10).mean(1)


def vit(self, x):
    x = torch.cat([self.cls.expand(x.shape[0], -1, -1), tokens(self, x)], 1) + self.pos
    return self.h(self.m(x)[:, 0])


def _moving(name: str) -> nn.Module:
    attends = nn.MultiheadAttention(32, 4, batch_first=True)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    encodes = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    plain = {"p": conv(3, 32, 8, stride=8), "h": nn.Linear(32, 10)}
    return {
        "attention": lambda: Of(attention, **plain, m=attends),
        "tokens first": lambda: Of(tokens_first, **plain, m=nn.Linear(32, 32)),
        "merged": lambda: Of(merged, **plain, m=nn.Linear(32, 32)),
        "windows": lambda: Of(windows, **plain, m=nn.Linear(32, 32)),
        "vit": lambda: Of(vit, **plain, m=encodes, cls=weight(1, 1, 32), pos=weight(1, 17, 32)),
    }[name]()


@pytest.mark.parametrize("name", ["attention", "tokens first", "merged", "windows", "vit"])
def test_the_batch_may_lie_anywhere(name, tmp_path):
    module = _moving(name)
    nets = [lift(module, SHAPE)]
    batch = torch.export.Dim("batch", min=2, max=64)
    for images, dynamic in ((1, None), (2, None), (16, None), (2, ({0: batch},))):
        path = tmp_path / "net.pt2"
        with torch.no_grad():
            program = torch.export.export(
                module.eval(), (torch.zeros(images, 3, 32, 32),), dynamic_shapes=dynamic
            )
        torch.export.save(program, path)
        nets.append(read(path))
    for lifted in nets:
        assert total(lifted).total.macs == known_macs(module)
        assert total(lifted).total.params == parameters(module)
    expected = tuple(module(torch.zeros(1, 3, 32, 32)).shape[1:])
    assert total(nets[0]).layers[-1].output_shape == expected


def test_windows_and_maps_that_lack_the_batch_in_front_are_unknown():
    lifted = lift(Of(lambda self, x: self.a(x.transpose(0, 1).reshape(x.shape)), a=conv()), SHAPE)
    assert [layer.op for layer in lifted.net.layers] == ["Opaque", "Opaque", "Conv2D"]
    lifted = lift(Of(lambda self, x: self.a(x.transpose(0, 1)[:, :3]), a=conv()), SHAPE)
    assert {layer.op for layer in lifted.net.layers} == {"Opaque"}
    assert total(lifted).total.params == 224


@pytest.mark.parametrize("batch", [1, 2, 97])
def test_sides_without_the_batch_hold_the_numbers_of_one_image(batch):
    for shape in (
        (batch, 8, 4),
        (8, batch, 4),
        (8, 4, batch),
        (8 * batch, 4),
        (3, 8 * batch, 4),
        (batch,),
        (8 * batch, 1),
    ):
        sides = per_image(shape, batch)
        assert torch.zeros(sides).numel() * batch == torch.zeros(shape).numel()
    assert per_image((8, batch, 4), batch) == (8, 4)
    assert per_image((16 * batch, 1), batch) == (16, 1)


# --- parameters that are made, tied, or left out ---------------------------------------------


def normed(kind):
    return nn.Sequential(kind(conv()), nn.ReLU(), kind(conv(8, 4)))


MADE = {
    "weight norm": lambda: normed(torch.nn.utils.parametrizations.weight_norm),
    "spectral norm": lambda: normed(torch.nn.utils.parametrizations.spectral_norm),
    "made twice": lambda: Of(lambda s, x: F.conv2d(F.conv2d(x, s.w.abs()), s.w.abs()), w=weight(3,
    3, 3, 3)),
    "read before": lambda: Of(lambda s, x: F.conv2d(x * s.w.abs().sum(), s.w), w=weight(3, 3, 3,
    3)),
    "turned": lambda: Of(lambda s, x: F.linear(F.linear(x.flatten(1), s.w), s.w.t()), w=weight(5,
    3072)),
    "viewed twice": lambda: Of(lambda s, x: F.conv2d(F.conv2d(x, s.w[:, :, None, None]), s.w[:, :,
    None, None]),
                               w=weight(3, 3)),
    "called twice": lambda: Of(lambda s, x: s.a(s.a(x)), a=conv(3, 3)),
    "one bias": lambda: Of(lambda s, x: F.conv2d(F.conv2d(x, s.v, s.b), s.w, s.b),
                           v=weight(3, 3, 3, 3), w=weight(3, 3, 1, 1), b=weight(3)),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_every_parameter_counts_once(name, tmp_path):
    module = MADE[name]()
    lifted = lift(module, SHAPE)
    assert total(lifted).total.params == parameters(module)
    assert read(exported(module, SHAPE, tmp_path / "net.pt2")).net == lifted.net


def test_weights_that_are_viewed_twice_are_shared():
    lifted = lift(MADE["viewed twice"](), SHAPE)
    assert [(layer.op, layer.shares) for layer in lifted.net.layers] == [
        ("Conv2D", ""),
        ("Conv2D", "conv"),
    ]


def test_parameters_that_nothing_reads_are_told(tmp_path):
    module = Of(lambda self, x: self.a(x), a=conv(), b=conv(8, 8))
    for lifted in (lift(module, SHAPE), read(exported(module, SHAPE, tmp_path / "net.pt2"))):
        (problem,) = lifted.problems
        assert (problem.severity, problem.count) == ("note", 2)
        assert "584 parameters that its forward never reads (b_bias, b_weight)" in problem.what
    assert not lift(conv(), SHAPE).problems


def test_work_that_does_not_depend_on_the_image_is_told(tmp_path):
    """As EdgeNeXt embeds its places: PyTorch's own count of the whole forward is what both numbers
    sum up to.
    """
    parts = {
        "a": conv(3, 8, padding=1),
        "b": conv(8, 8, padding=1),
        "places": weight(1, 8, *SHAPE[:2]),
    }
    module = Of(lambda self, x: self.a(x) + self.b(self.places), **parts)
    with FlopCounterMode(display=False) as counted:
        module(torch.zeros(1, SHAPE[2], *SHAPE[:2]))
    for lifted in (lift(module, SHAPE), read(exported(module, SHAPE, tmp_path / "net.pt2"))):
        (problem,) = lifted.problems
        besides = int(re.search(r"spends ([\d,]+) macs", problem.what).group(1).replace(",", ""))
        assert total(lifted).total.macs + besides == counted.get_total_flops() / 2
        assert besides == 9 * 8 * 8 * SHAPE[0] * SHAPE[1]


def test_what_is_held_twice_counts_once_and_is_read(tmp_path):
    """One module under two names, and one tensor in two modules."""
    shared = nn.Linear(3, 3)
    first, second = conv(3, 3, bias=False, padding=1), conv(3, 3, bias=False, padding=1)
    second.weight = first.weight
    for module in (
        nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Sequential(shared),
            nn.ReLU(),
            nn.Sequential(shared),
        ),
        nn.Sequential(first, nn.ReLU(), second),
    ):
        for lifted in (lift(module, SHAPE), read(exported(module, SHAPE, tmp_path / "net.pt2"))):
            assert total(lifted).total.params == parameters(module)
            assert [layer.shares for layer in lifted.net.layers][-1]
            assert not lifted.problems


def test_what_is_frozen_does_not_learn(tmp_path):
    module = nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8))
    module[0].requires_grad_(False)
    for lifted in (lift(module, SHAPE), read(exported(module, SHAPE, tmp_path / "net.pt2"))):
        found = total(lifted)
        assert found.total.params == parameters(module)
        assert found.total.trainable == sum(
            each.numel() for each in module.parameters() if each.requires_grad
        )
        assert [row.trainable for row in found.layers] == [0, 16, 0, 584]


def test_running_statistics_and_fixed_filters_are_buffers(tmp_path):
    module = Of(
        lambda s, x: F.conv2d(s.n(s.a(x)), s.f.expand(8, 1, 3, 3), groups=8),
        a=conv(),
        n=nn.BatchNorm2d(8),
    )
    module.register_buffer("f", torch.rand(1, 1, 3, 3))
    for lifted in (lift(module, SHAPE), read(exported(module, SHAPE, tmp_path / "net.pt2"))):
        assert [layer.op for layer in lifted.net.layers] == [
            "Conv2D",
            "BatchNormalization",
            "DepthwiseConv2D",
        ]
        assert total(lifted).total.params == parameters(module)
        assert list(lifted.buffers.values()) == [0, 16, 9]


def test_all_that_is_done_is_counted_also_for_other_outputs_or_none():
    parts = {"a": conv(), "b": conv(8, 4, 1), "c": conv(8, 16)}

    def heads(self, x):
        x = self.a(x)
        return {"first": self.b(x), "second": [self.c(x)]}

    def inner(self, x):
        x = self.a(x)
        return x, self.c(x)

    for function, last, others in (
        (heads, "b", ("c",)),
        (inner, "c", ("a",)),
        (lambda s, x: heads(s, x)["first"], "b", ()),
    ):
        module = Of(
            function,
            **{name: part for name, part in parts.items() if function is not inner or name != "b"},
        )
        lifted = lift(module, SHAPE)
        found = total(lifted)
        assert (lifted.net.layers[-1].name, lifted.outputs) == (last, others)
        assert (found.total.params, found.total.macs) == (parameters(module), known_macs(module))


def test_shapes_are_enough():
    with torch.device("meta"):
        module = nn.Sequential(
            conv(), nn.BatchNorm2d(8), nn.PReLU(8), nn.Flatten(), nn.Linear(7200, 5)
        )
    lifted = lift(module, SHAPE)
    assert not lifted.weights
    found = total(lifted).total
    assert (found.params, found.macs) == (parameters(module), 30 * 30 * 8 * 27 + 7200 * 5)


# --- written in place -------------------------------------------------------------------------


def assign(self, x):
    y = self.a(x)
    y[:, :4] = self.a(x)[:, 4:].relu()
    return self.b(y)


def zero(self, x):
    y = self.a(x)
    y[:, 0] = 0
    return self.b(y)


def double(self, x):
    y = self.a(x)
    y[:, :4].mul_(2)
    return self.b(y)


def fill(self, x):
    y = torch.zeros(x.shape[0], 8, *x.shape[2:])
    y[:, :3] = x
    return self.b(y)


def through_the_base(self, x):
    y = self.a(x)
    part = y[:, :4]
    y.mul_(2)
    return self.b(torch.cat([part, part], 1))


WRITTEN = {
    "assign": assign,
    "zero": zero,
    "double": double,
    "fill": fill,
    "through the base": through_the_base,
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_through_a_view_reaches_whoever_reads_it(name, tmp_path):
    module = Of(WRITTEN[name], b=conv(8, 4), **({} if name == "fill" else {"a": conv()}))
    lifted = lift(module, SHAPE)
    layers = {layer.name: layer for layer in lifted.net.layers}
    assert layers["b"].op == "Conv2D"
    before, writes = [layers["b"]], 0
    while before:
        before = [layers[name] for layer in before for name in layer.inputs if name in layers]
        writes += sum(
            getattr(layer, "operator", "") in ("copy_", "fill_", "mul_", "cat") for layer in before
        )
    assert writes
    assert total(lifted).total.params == parameters(module)
    assert read(exported(module, SHAPE, tmp_path / "net.pt2")).net == lifted.net


def test_a_constant_that_is_written_to_is_no_more_what_it_was():
    def masked(self, x):
        kernel = self.w.clone()
        kernel[:, 0] = 0
        return F.conv2d(x, kernel)

    lifted = lift(Of(masked, w=weight(4, 3, 3, 3)), SHAPE)
    assert [layer.op for layer in lifted.net.layers] == ["Conv2D"]
    assert (total(lifted).total.params, lifted.weights) == (108, {})


def test_whole_tensors_are_changed_in_place():
    def forward(self, x):
        y = self.a(x)
        y.mul_(2).relu_().clamp_(0, 3)
        z = y
        y += self.c(x)
        return self.b(z * 1.5)

    module = moved(Of(forward, a=conv(), b=conv(8, 4), c=conv()))
    lifted = lift(module, SHAPE)
    assert not [layer for layer in lifted.net.layers if isinstance(layer, L.Opaque)]
    assert_same(lifted, module)


# --- products and casts -----------------------------------------------------------------------


def test_addmm_is_dense_only_where_it_adds_a_constant_as_it_is():
    parts = {"w": weight(3072, 6), "b": weight(6), "v": weight(6, 6)}

    def residual(self, x):
        y = x.flatten(1) @ self.w
        return torch.addmm(y, y, self.v)

    for function, last in (
        (lambda s, x: torch.addmm(s.b, x.flatten(1), s.w), "Dense"),
        (lambda s, x: torch.addmm(s.b, x.flatten(1), s.w, beta=2), "Opaque"),
        (lambda s, x: torch.addmm(s.b, x.flatten(1), s.w, alpha=0.5), "Opaque"),
        (lambda s, x: torch.addmm(s.b[:1], x.flatten(1), s.w), "Opaque"),
        (residual, "Opaque"),
    ):
        module = moved(Of(function, **parts))
        lifted = lift(module, SHAPE)
        assert lifted.net.layers[-1].op == last
        if last == "Dense":
            assert_same(lifted, module)


def test_a_cast_to_whole_numbers_rounds(tmp_path):
    rounds = Of(lambda self, x: self.a((x * 4).to(torch.int32).float()), a=conv())
    for lifted in (lift(rounds, SHAPE), read(exported(rounds, SHAPE, tmp_path / "net.pt2"))):
        assert [layer.op for layer in lifted.net.layers] == ["Rescaling", "Opaque", "Conv2D"]
    same = moved(Of(lambda self, x: self.a(x.double().float()), a=conv()))
    for lifted in (lift(same, SHAPE), read(exported(same, SHAPE, Path(tmp_path, "same.pt2")))):
        assert [layer.op for layer in lifted.net.layers] == ["Conv2D"]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_module_of_another_floating_type_is_read(kind):
    module = moved(nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU())).to(kind)
    lifted = lift(module, SHAPE)
    assert [layer.op for layer in lifted.net.layers] == [
        "Conv2D",
        "BatchNormalization",
        "Activation",
    ]
    assert_same(lifted, module.float())


# --- refusals ---------------------------------------------------------------------------------


def refusal(module: nn.Module) -> str:
    with pytest.raises(UnusableInput) as caught:
        lift(module, SHAPE)
    return str(caught.value)


def test_a_refusal_names_the_line_that_branches_in_plain_words_and_prints_nothing(capfd):
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append  # type: ignore[method-assign]
    named = [
        logging.getLogger(name)
        for name in list(logging.root.manager.loggerDict)
        if name.startswith("torch")
    ]
    for logger in named:
        logger.addHandler(handler)
    try:
        branches = refusal(Of(lambda self, x: x if x.sum() > 0 else -x))
    finally:
        for logger in named:
            logger.removeHandler(handler)
    assert f"in {Path(__file__).name}, line " in branches
    assert "x if x.sum() > 0 else -x" in branches
    assert "unhinted" not in branches
    assert "branch on shapes only" in branches
    assert not records
    assert not capfd.readouterr().err
    assert not logging.root.manager.disable
