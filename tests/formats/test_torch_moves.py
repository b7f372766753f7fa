"""Operators that are no layer of ours: what they see, cost and hold is what PyTorch's own gradients
and counts say.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_torch_lift import exported
from test_torch_lift_costs import Of, conv, known_macs, parameters, total, weight
from torch import nn

from convwise.core import layers as L
from convwise.formats.torch.lift import lift, read
from convwise.formats.torch.places import placed, sight

pytestmark = pytest.mark.filterwarnings("ignore")
SIDE = 12
SHAPE = SIDE, SIDE, 3


def shuffled(x, groups=2):
    n, depth, height, width = x.shape
    return (
        x.view(n, groups, depth // groups, height, width)
        .transpose(1, 2)
        .reshape(n, depth, height, width)
    )


def halves(self, x):
    one, two = self.a(x).chunk(2, 1)
    return torch.cat([one, self.b(two)], 1)


def uneven(self, x):
    one, two, three = self.a(x).split([2, 4, 2], 1)
    return torch.cat([three, self.b(two)], 1)


def cascade(self, x):
    parts = torch.split(self.a(x), 4, 1)
    first = self.b(parts[0])
    return torch.cat([first, self.b(first + parts[1])], 1)


def unbound(self, x):
    x = self.a(x)
    one, two = x.view(x.shape[0], 2, 4, *x.shape[2:]).unbind(1)
    return self.b(two) + one


def selective(self, x):
    both = torch.stack([self.a(x)[:, :4], self.b(self.a(x)[:, 4:])], 1)
    gate = both.sum(1).mean((2, 3), keepdim=True)
    gate = torch.cat([gate, gate], 1).view(x.shape[0], 2, 4, 1, 1).softmax(1)
    return (both * gate).sum(1)


def focus(self, x):
    parts = [x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return self.c(torch.cat(parts, 1))


def up_to_corners(x):
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def attended(self, x):
    x = self.a(x)
    both = torch.cat(
        [x.mean(1, keepdim=True), x.amax(1, keepdim=True), x.max(1, keepdim=True)[0]], 1
    )
    return x * self.t(both).sigmoid()


def parted_last(self, x):
    """Channels last, as MambaOut parts and joins them."""
    kept, seen = self.a(x).permute(0, 2, 3, 1).split([4, 4], -1)
    seen = self.b(seen.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return torch.cat([kept, seen], -1).permute(0, 3, 1, 2)


def position_attended(self, x):
    """As MAnet's decoder does it."""
    x = self.a(x)
    places = x.flatten(2)
    scores = (places.transpose(1, 2) @ places / 8).view(len(x), -1).softmax(1)
    seen = scores.view(len(x), SIDE * SIDE, SIDE * SIDE) @ places.transpose(1, 2)
    return self.d(x + seen.transpose(1, 2).reshape(x.shape))


def in_context(self, x):
    """As GCNet's block does it: a mean over all places, each with a weight of its own."""
    x = self.a(x)
    weights = self.o(x).reshape(len(x), 1, -1).softmax(-1).unsqueeze(3)
    seen = (x.flatten(2).unsqueeze(1) @ weights).view(len(x), 8, 1, 1)
    return self.d(x + self.d(seen))


def heads_attended(self, x):
    x = self.a(x)
    heads = x.view(len(x), 2, 4, -1).transpose(2, 3)
    seen = F.scaled_dot_product_attention(heads, heads, heads)
    return self.d(x + seen.transpose(2, 3).reshape(x.shape))


def heads_parted(self, x):
    """Queries, keys and values of each head from one convolution, as CoAtNet has them."""
    x = self.a(x)
    parts = [each.transpose(-1, -2) for each in self.h(x).view(len(x), 2, 12, -1).chunk(3, 2)]
    return self.d(x + F.scaled_dot_product_attention(*parts).transpose(-1, -2).reshape(x.shape))


def linearly_attended(self, x):
    """As EfficientViT does it: queries meet what keys and values of all places sum up to, by which
    they are divided.
    """
    x = self.a(x)
    q, k, v = self.h(x).reshape(len(x), 2, 12, -1).transpose(-1, -2).chunk(3, -1)
    seen = q.relu() @ (k.relu().transpose(-1, -2) @ F.pad(v, (0, 1), value=1.0))
    seen = seen[..., :-1] / (seen[..., -1:] + 1e-5)
    return self.d(x + seen.transpose(-1, -2).reshape(x.shape))


def beside_parts(self, x):
    halves = F.pad(self.a(x).view(len(x), 2, 4, -1), (0, 0, 1, 1))
    return self.c(halves.reshape(len(x), 12, *x.shape[2:]))


def sobel(self, x):
    return F.conv2d(self.a(x), self.f.expand(8, 1, 3, 3), padding=1, groups=8)


def responses(self, x):
    x = self.a(x)
    norm = x.norm(p=2, dim=(2, 3), keepdim=True)
    return x + x * (norm / (norm.mean(1, keepdim=True) + 1e-6)) * self.g


def mixed(self, x):
    with torch.autocast("cpu", torch.bfloat16):
        x, y = (part.relu() for part in self.a(x).chunk(2, 1))
    return self.b(x.float()) + y + self.b(y.float())


def frozen(self, x):
    with torch.no_grad():
        with torch.autocast("cpu", enabled=False):
            y = self.e(x)
        y, same = y.relu(), x
    return torch.cat([self.d(self.a(same)), y], 1)


def windowed(self, x):
    x = self.a(x)
    n, depth, height, width = x.shape
    cut = (
        x.view(n, depth, height // 4, 4, width // 4, 4)
        .permute(0, 2, 4, 3, 5, 1)
        .reshape(-1, 4, 4, depth)
    )
    back = cut.relu().view(n, height // 4, width // 4, 4, 4, depth).permute(0, 5, 1, 3, 2, 4)
    return self.d(back.reshape(n, depth, height, width))


def decoded(self, x):
    return self.d(torch.cat([F.interpolate(self.e(x), scale_factor=2)[:, :4], self.a(x)[:, 4:]], 1))


def routed(self, x):
    """A kernel of each image's own, as conditionally parameterised convolutions take it."""
    kernels = (self.r(x.mean((2, 3))).sigmoid() @ self.k).view(len(x) * 8, 3, 3, 3)
    grouped = F.pad(x.reshape(1, len(x) * 3, SIDE, SIDE), (0, 1, 0, 1))
    made = F.conv2d(grouped, kernels, stride=2, groups=len(x))
    return self.d(made.permute(1, 0, 2, 3).view(len(x), 8, SIDE // 2, SIDE // 2))


PARTS = {"r": lambda: nn.Linear(3, 2), "k": lambda: weight(2, 8 * 27),
         "a": lambda: conv(3, 8, padding=1), "b": lambda: conv(4, 4, 5, padding=2),
         "c": lambda: conv(12, 4),
         "t": lambda: conv(3, 1, 7, padding=3), "g": lambda: weight(1), "f": lambda: torch.rand(1,
         1, 3, 3),
         "d": lambda: conv(8, 8, 3, stride=2, padding=1), "w": lambda: weight(8, 1, 1),
         "e": lambda: conv(3, 8, 3, stride=2, padding=1), "h": lambda: conv(8, 24, 1),
         "o": lambda: conv(8, 1, 7, padding=3),
         "p": lambda: torch.linspace(0, 1, SIDE).expand(1, 1, SIDE, SIDE)}  # fmt: skip


# A function of (module, images), and the parts of the module that it uses.
MOVED = {
    "halves": (halves, "ab"),
    "uneven": (uneven, "ab"),
    "cascade": (cascade, "ab"),
    "a view unbound": (unbound, "ab"),
    "selective kernels": (selective, "ab"),
    "shuffle and slice": (lambda s, x: s.b(shuffled(s.a(x))[:, 2:6]), "ab"),
    "channel shuffle": (lambda s, x: s.d(F.channel_shuffle(s.a(x), 4)), "ad"),
    "one channel": (lambda s, x: s.a(x)[:, 3:4] * s.a(x)[:, 2].unsqueeze(1), "a"),
    "squeezed": (lambda s, x: s.o(s.a(x)).squeeze(1).relu().unsqueeze(1), "ao"),
    "focus": (focus, "c"),
    "space to depth": (lambda s, x: s.c(F.pixel_unshuffle(x, 2)), "c"),
    "depth to space": (lambda s, x: F.pixel_shuffle(s.e(x), 2), "e"),
    "every second": (lambda s, x: s.a(x)[:, :, 1::2, ::3], "a"),
    "reflected": (lambda s, x: s.b(F.pad(s.a(x)[:, :4], (1, 2, 3, 1), mode="reflect")), "ab"),
    "channels of zeros": (lambda s, x: s.d(F.pad(s.a(x)[:, :5], (0, 0, 0, 0, 1, 2))), "ad"),
    "corners": (lambda s, x: F.interpolate(s.e(x), scale_factor=2, mode="bilinear",
    align_corners=True), "e"),
    "corners beside a map": (lambda s, x: torch.cat([s.a(x), up_to_corners(s.e(x))], 1), "ae"),
    "corners of corners": (lambda s, x: s.d(s.a(x) + up_to_corners(s.d(up_to_corners(s.e(x))))),
    "ade"),
    "a decoder": (decoded, "ade"),
    "lower precision": (mixed, "ab"),
    "a stack summed": (lambda s, x: s.d(torch.stack([s.a(x), s.a(x).relu(), s.a(x)]).sum(0)), "ad"),
    "a stack's mean": (lambda s, x: s.d(torch.stack([s.a(x), s.a(x).relu()]).mean(dim=0)), "ad"),
    "bicubic": (lambda s, x: F.interpolate(s.e(x), scale_factor=2, mode="bicubic"), "e"),
    "any size": (lambda s, x: F.interpolate(s.e(x), size=(9, 15), mode="bilinear"), "e"),
    "nearest to any size": (lambda s, x: F.interpolate(s.e(x), size=(9, 15)), "e"),
    "attention over places": (attended, "at"),
    "a grid of its size": (lambda s, x: s.a(x) * (torch.arange(SIDE).type_as(x) + x.new_ones(SIDE)),
    "a"),
    "channels last": (parted_last, "ab"),
    "places attend": (position_attended, "ad"),
    "global context": (in_context, "ado"),
    "heads attend": (heads_attended, "ad"),
    "heads in parts": (heads_parted, "ahd"),
    "linear attention": (linearly_attended, "ahd"),
    "numbers beside parts": (beside_parts, "ac"),
    "a learnt scale": (lambda s, x: s.a(x) * s.g + s.w, "agw"),
    "squares": (lambda s, x: s.a(x).square() + s.a(x).abs().sqrt().pow(3), "a"),
    "fixed filter": (sobel, "af"),
    "responses": (responses, "ag"),
    "dilated pool": (lambda s, x: F.max_pool2d(s.a(x), 3, 2, 1, dilation=2), "a"),
    "with places": (lambda s, x: s.a(torch.cat([x[:, :2], s.p.expand(len(x), 1, SIDE, SIDE)], 1)),
    "ap"),
}  # fmt: skip


def module_of(function, parts: str) -> nn.Module:
    torch.manual_seed(0)
    made = {name: PARTS[name]() for name in parts}
    fixed = {
        name: part for name, part in made.items() if not isinstance(part, (nn.Module, nn.Parameter))
    }
    module = Of(function, **{name: part for name, part in made.items() if name not in fixed})
    for name, part in fixed.items():
        module.register_buffer(name, part)
    for each in module.parameters():
        each.data.abs_()
    return module.eval()


def sights(module: nn.Module, unit: tuple[int, int]) -> list[tuple[int, int]]:
    """The first and last row and column with a gradient at one place of the output, over some
    images.
    """
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(40, 3, SIDE, SIDE, generator=generator).requires_grad_()
    module(images)[:, :, unit[0], unit[1]].sum().backward()
    seen = images.grad.abs().sum((0, 1)) > 0
    return [
        (int(axis.nonzero()[0]), int(axis.nonzero()[-1])) for axis in (seen.any(1), seen.any(0))
    ]


@pytest.mark.parametrize("name", MOVED)
def test_what_a_unit_sees_is_where_its_gradient_is(name):
    module = module_of(*MOVED[name])
    found = total(lift(module, SHAPE))
    last, field = found.layers[-1], found.layers[-1].field
    rows, columns = module(torch.zeros(2, 3, SIDE, SIDE)).shape[2:]
    assert last.output_shape[:2] == (rows, columns)
    assert field.known
    assert not found.total.unknown
    ends = (
        ()
        if name in ("reflected", "dilated pool")
        else ((0, 0), (rows - 1, columns - 1), (1, columns - 2))
    )
    # What is reflected at an end is told as if it lay beyond it
    for unit in ((rows // 2, columns // 2), *ends):
        ours = [
            axis.at(place) for axis, place in zip((field.rows, field.columns), unit, strict=True)
        ]
        assert [(max(a, 0), min(b, SIDE - 1)) for a, b in ours] == sights(module, unit), unit
    assert found.total.params == parameters(module)
    assert found.total.macs == known_macs(module, SIDE)


def test_files_say_the_same(tmp_path):
    for name in ("lower precision", "cascade", "selective kernels", "attention over places",
                 "responses", "any size",
                 "global context"):  # fmt: skip
        module = module_of(*MOVED[name])
        back = read(exported(module, SHAPE, tmp_path / "net.pt2"))
        assert back.net == lift(module, SHAPE).net


def test_what_runs_without_gradients_is_read_from_files_too(tmp_path):
    """There it is a graph of its own: what sees what is asked of the same module where it
    learns.
    """
    module, path = module_of(frozen, "ade"), tmp_path / "net.pt2"
    torch.export.save(torch.export.export(module, (torch.zeros(2, 3, SIDE, SIDE),)), path)
    found = total(read(path))
    assert (found.total.params, found.total.macs) == (parameters(module), known_macs(module, SIDE))
    assert (found.total.unknown, found.total.field.size) == ((), (5, 5))
    assert found.total.field == total(lift(module, SHAPE)).total.field


def test_a_kernel_of_each_images_own_moves_as_any_other(tmp_path):
    """Its window besides the whole map, of which the kernel is made."""
    module = module_of(routed, "rkd")
    found = total(lift(module, SHAPE))
    assert (found.total.params, found.total.macs) == (parameters(module), known_macs(module, SIDE))
    assert (found.total.unknown, found.total.field.known) == ((), True)
    assert found.total.field.size[0] >= SIDE
    still = Of(
        lambda s, x: s.net(x),
        net=nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), conv(3, 8, 3, stride=2), PARTS["d"]()),
    )
    assert found.total.field.windows == total(lift(still, SHAPE)).total.field.windows == (7, 7)
    assert (
        total(read(exported(module, SHAPE, tmp_path / "net.pt2"))).total.field == found.total.field
    )


def test_a_context_of_all_places_stands_beside_what_convolutions_see():
    """As squeeze and excitation does; a softmax over parts of the map is no such context."""
    field = total(lift(module_of(in_context, "ado"), SHAPE)).total.field
    assert (field.windows, min(field.size) >= SIDE) == ((5, 5), True)
    for parts in ((SIDE, SIDE), (4, -1)):
        module = module_of(
            lambda s, x, parts=parts: s.a(x).mean(1).view(len(x), *parts).softmax(-1), "a"
        )
        assert not total(lift(module, SHAPE)).total.field.known


@pytest.mark.parametrize(
    "function",
    [lambda s, x: s.d(s.a(x).view(len(x), 8, 2, -1)[:, :, :1].reshape(len(x), 8, SIDE // 2, SIDE)),
     lambda s, x: s.d(F.pad(s.a(x).view(len(x), 8, 2, -1), (0, SIDE, 1, 0)).reshape(len(x), 8, -1,
     SIDE)),
     lambda s, x: s.a(x).view(len(x), 2, 4, -1)[..., :4].transpose(-1, -2) @ s.a(x).view(len(x), 2,
     4, -1)],
    ids=["half of the rows", "more rows", "some places"],
)  # fmt: skip
def test_parts_that_do_not_have_all_places_have_no_known_field(function):
    assert not total(lift(module_of(function, "ad"), SHAPE)).total.field.known


def alike(tokens):
    return tokens @ tokens.transpose(-1, -2)


@pytest.mark.parametrize(
    "function",
    [lambda s, x: alike(s.a(x).flatten(2).transpose(1, 2)),
     lambda s, x: alike(s.a(x).view(len(x), 8, 3, -1).permute(0, 2, 3, 1)).softmax(-1),
     lambda s, x: (alike(s.a(x).flatten(2).transpose(1, 2)) + s.p.flatten(2).log()[0]).softmax(-1)],
    ids=["no softmax", "windows", "a mask"],
)  # fmt: skip
def test_places_that_do_not_see_all_others_have_no_known_field(function):
    assert not total(lift(module_of(function, "ap"), SHAPE)).total.field.known


def test_what_wraps_around_is_unknown_and_costs_no_macs():
    module = Of(lambda s, x: s.a(x).roll((2, 2), (2, 3)), a=conv(3, 8, padding=1))
    found = total(lift(module, SHAPE))
    assert not found.layers[-1].field.known
    assert (found.total.macs, found.total.unknown) == (known_macs(module, SIDE), ())


@pytest.mark.parametrize(
    "operator",
    [lambda s, x: torch.einsum("nchw,ndhw->ncd", s.a(x), s.a(x)),
     lambda s, x: torch.bmm(s.a(x).flatten(2), s.a(x).flatten(2).transpose(1, 2)),
     lambda s, x: F.conv1d(s.a(x).flatten(2), s.w, groups=4),
     lambda s, x: F.scaled_dot_product_attention(*[s.a(x).flatten(2).transpose(1, 2)] * 3),
     lambda s, x: F.conv2d(x.reshape(1, -1, SIDE, SIDE), s.k.expand(len(x), 8, 3, 3, 3).flatten(0,
     1) * x.mean(),
                           groups=len(x))],
    ids=["einsum", "bmm", "conv1d", "attention", "a kernel of its own"],
)  # fmt: skip
def test_products_are_counted_wherever_they_are(operator):
    module = Of(operator, a=conv(3, 8, padding=1), w=weight(12, 2, 3), k=weight(8, 3, 3, 3))
    found = total(lift(module, SHAPE))
    assert (found.total.macs, found.total.unknown) == (known_macs(module, SIDE), ())


def test_places_say_how_a_map_was_read():
    """Against the places of each operator on a map of numbers."""
    index = torch.from_numpy(placed((6, 4, 8), (2, 0, 1)).copy())[None]
    ways = {"same": F.channel_shuffle(index, 2), "nearest": F.pixel_shuffle(index, 2),
            "window": F.pixel_unshuffle(index, 2), "unknown": index.transpose(2, 3)}  # fmt: skip
    for word, places in ways.items():
        assert sight(places[0].numpy(), places[0].numpy(), (6, 4, 8)).moves == word
    tokens = index.flatten(2).transpose(1, 2)[0].numpy()
    assert sight(tokens, tokens, (6, 4, 8)).moves == "same"
    assert sight(np.flip(tokens, 0), np.flip(tokens, 0), (6, 4, 8)).moves == "unknown"
    assert isinstance(lift(module_of(*MOVED["halves"]), SHAPE).net.layers[1], L.Opaque)
