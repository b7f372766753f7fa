"""Modules that are written in odd ways: what they answer with, how they are called, what their
numbers are.
"""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from test_torch_lift_costs import Of, conv, total
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convwise.core.problems import UnusableInput
from convwise.formats.torch.lift import lift, read
from convwise.inspect.checking import to_json

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE = 16, 16, 3


def macs(module: nn.Module) -> int:
    """By PyTorch's own count."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.zeros(1, SHAPE[2], *SHAPE[:2]))
    return counter.get_total_flops() // 2


@dataclass
class Answer:
    logits: torch.Tensor
    loss: Any = None


class Mapped(OrderedDict):
    pass


Pair = namedtuple("Pair", "logits count")


@pytest.mark.parametrize(
    "answer",
    [
        lambda y: {"logits": y, "n": 3, "name": "a", "none": None},
        lambda y: (y, [y.shape[2], 1.5], True),
        lambda y: Pair(y, 3),
        lambda y: Answer(y),
        lambda y: {"first": Answer(y, 0.5)},
        lambda y: Mapped(logits=y),
        lambda y: Answer(Mapped(logits=y), [y, Answer(y)]),
    ],
)
def test_an_answer_may_be_of_any_class_and_hold_numbers(answer):
    module = Of(lambda s, x: answer(s.c(x).relu()), c=conv())
    plain = Of(lambda s, x: s.c(x).relu(), c=module.c)
    hooks = dict(module._forward_hooks)
    assert lift(module, SHAPE).net == lift(plain, SHAPE).net
    assert dict(module._forward_hooks) == hooks


def test_a_compiled_module_is_read_as_it_was():
    module = nn.Sequential(conv(), nn.ReLU())
    assert lift(torch.compile(module), SHAPE).net == lift(module, SHAPE).net


class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = conv()

    def forward(self, *, pixel_values, labels=None):
        return self.c(pixel_values)


class ByAnyName(ByName):
    def forward(self, **batch):
        return self.c(batch["x"])


def test_images_may_be_taken_by_name_alone():
    assert lift(ByName(), SHAPE).net == lift(Of(lambda s, x: s.c(x), c=conv()), SHAPE).net
    with pytest.raises(
        UnusableInput, match=r"ByName: does not take images of 2x2x3.*Fix: --input-shape 224x224x3"
    ):
        lift(ByName(), (2, 2, 3))
    with pytest.raises(UnusableInput, match=r"by name \(\*\*batch\).*Fix: give a module around it"):
        lift(ByAnyName(), SHAPE)


def test_complex_numbers_are_no_layers_of_real_ones():
    """One product of complex numbers is several of real ones: how many is not known here."""
    module = Of(lambda s, x: s.c(x.to(torch.cfloat)).abs(), c=conv(3, 8, dtype=torch.cfloat))
    found = total(lift(module, SHAPE))
    assert found.total.params == sum(each.numel() for each in module.parameters())
    assert "c" in found.total.unknown
    assert macs(module) != 14 * 14 * 8 * 27


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.BatchNorm2d(8, eps=2.0),
        lambda: nn.BatchNorm2d(8, momentum=-1.0),
        lambda: nn.GroupNorm(2, 8, eps=5.0),
        lambda: nn.Dropout(1.0),
    ],
)
def test_settings_that_pytorch_takes_are_no_reason_to_refuse(make):
    module = nn.Sequential(conv(), make())
    found = total(lift(module, SHAPE)).total
    assert found.params == sum(each.numel() for each in module.parameters())
    assert (found.macs, found.unknown) == (macs(module), ())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: nn.BatchNorm2d(8, eps=float("nan")),
            r"1 \(batch_norm\): .*BatchNormalization.epsilon is nan",
        ),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(8 * 14 * 14, 0)),
            r"1.1 \(linear\): .*\(0,\): no numbers",
        ),
        (
            lambda: Of(lambda s, x: x[:, torch.zeros(0, dtype=int)]),
            r"1_index \(index\): .*\(0, 14, 14\): no numbers",
        ),
    ],
)
def test_the_operator_is_named_that_cannot_be_a_layer(make, said):
    with pytest.raises(UnusableInput, match=f"operator {said}"):
        lift(nn.Sequential(conv(), make()), SHAPE)


def test_nothing_beside_something_is_nothing():
    module = Of(lambda s, x: torch.cat([s.c(x)[:, :0], s.c(x)], 1), c=conv())
    assert lift(module, SHAPE).net.layers[-1].op == "Conv2D"


def test_one_number_for_each_image_is_an_answer():
    module = Of(lambda s, x: s.c(x).mean((1, 2, 3)), c=conv())
    answer = to_json(_checked(module))
    assert answer["layers"][-1]["output_shape"] == [1]
    assert answer["total"]["macs"] == macs(module)


def _checked(module):
    from convwise.inspect.checking import checked

    return checked(lift(module, SHAPE))


def test_an_embedding_moves_numbers():
    module = Of(
        lambda s, x: s.e(s.c(x).argmax(1).flatten(1)).mean(1), c=conv(), e=nn.Embedding(8, 5)
    )
    found = total(lift(module, SHAPE)).total
    assert (found.params, found.macs, found.unknown) == (264, macs(module), ())


def test_names_of_any_script_become_words():
    module = nn.Sequential(OrderedDict({"größe": conv(), "层": nn.ReLU(), "1x1": conv(8, 4, 1)}))
    assert [layer.name for layer in lift(module, SHAPE).net.layers] == [
        "gr_e",
        "layer",
        "layer_1x1",
    ]


def test_functions_of_torch_are_named_without_their_address():
    module = Of(lambda s, x: torch.vmap(lambda image: s.c(image[None])[0])(x), c=conv())
    first, second = (to_json(_checked(module)) for _ in range(2))
    assert first == second
    assert "0x" not in str(first)


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("part", [lambda x: x[0][None], lambda x: x[-1], lambda x: x[:1]])
def test_some_images_of_a_batch_are_no_network_of_one(part, batch, tmp_path):
    """As of a module that is called with a list. A file for one image cannot tell."""
    module = Of(lambda s, x: s.c(part(x)), c=conv())
    with pytest.raises(
        UnusableInput,
        match=r"some images of a batch.*Fix: give a module whose forward takes a batch",
    ):
        lift(module, SHAPE)
    program = torch.export.export(module.eval(), (torch.zeros(batch, 3, 16, 16),))
    torch.export.save(program, tmp_path / "net.pt2")
    if batch == 1:
        assert total(read(tmp_path / "net.pt2")).total.macs == macs(module)
        return
    with pytest.raises(UnusableInput, match="some images of a batch"):
        read(tmp_path / "net.pt2")


def test_a_module_that_was_exported_for_some_images_says_so():
    program = torch.export.export(
        nn.Sequential(conv(), nn.ReLU()).eval(), (torch.zeros(2, 3, 16, 16),)
    )
    with pytest.raises(
        UnusableInput, match=r"by torch.export for another number or size.*Fix: .*torch.export.save"
    ):
        lift(program.module(), SHAPE)


def cell_by_hand(self, x):
    """An LSTM cell of two products, as PyTorch's count sees them."""
    rows = self.c(x).mean((2, 3))
    gates = nn.functional.linear(rows, self.l.weight_ih) + nn.functional.linear(
        rows[:, :5] * 0, self.l.weight_hh
    )
    return gates[:, :5]


# A module, what it sees (rows and columns, or None), and the module that PyTorch counts, where it
# is another.
COUNTED = {
    "mean and deviation side by side": (
        lambda s, x: torch.cat([s.c(x).mean((2, 3)), s.c(x).std((2, 3))], 1),
        3,
    ),
    "mean and deviation at once": (lambda s, x: torch.cat(torch.std_mean(s.c(x), (2, 3)), 1), None),
    "least and most": (lambda s, x: torch.stack(torch.aminmax(s.c(x).flatten(2), dim=2), 1), None),
    "a product over an axis": (lambda s, x: torch.tensordot(s.c(x), s.w, ([1], [0])), None),
    "local responses": (lambda s, x: s.c2(s.lrn(s.c(x))), 5),
    "root mean squares": (lambda s, x: s.rms(s.c(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2), 3),
    "noise": (lambda s, x: s.c(x) + torch.randn_like(x[:, :1, 2:, 2:]), None),
}


@pytest.mark.parametrize("name", COUNTED)
def test_other_operators_are_counted_as_pytorch_counts(name):
    function, seen = COUNTED[name]
    module = Of(function, c=conv(), c2=conv(8, 4), w=nn.Parameter(torch.randn(8, 5)),
                rms=nn.RMSNorm(8), lrn=nn.LocalResponseNorm(4))  # fmt: skip
    found = total(lift(module, SHAPE)).total
    assert (found.macs, found.unknown) == (macs(module), ())
    assert (found.field.size if found.field.known else None) == (seen and (seen, seen))


def test_a_recurrent_cell_costs_its_two_products():
    parts = {"c": conv(), "l": nn.LSTMCell(8, 5)}
    module = Of(lambda s, x: s.l(s.c(x).mean((2, 3)))[0], **parts)
    found = total(lift(module, SHAPE)).total
    assert (found.macs, found.unknown) == (macs(Of(cell_by_hand, **parts)), ())
    assert found.params == sum(each.numel() for each in module.parameters())
