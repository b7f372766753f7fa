"""No parameter of a layer is dropped without a word: the calculus and every writer use it or refuse
it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from convwise.core import geometry, reasons
from convwise.core import layers as L
from convwise.core.calculus import analyse
from convwise.core.net import Net
from convwise.core.parameters import REQUIRED, Word, reading
from convwise.core.problems import ConvwiseError, ShapeError, Unsupported
from convwise.formats import FORMATS, format_module, weights
from convwise.formats.lowering import keras, torch
from convwise.formats.lowering.lines import keras_lines, torch_lines
from convwise.formats.onnx import lowering as onnx_lowering
from nets import random_weights
from singles import KINDS, net_of, singles, values
from studies import WIDE, wide_space

Written = Any


def writer(form: str) -> Callable[[Net], Written]:
    """What a format makes of a net: the calls that it builds and renders, or else the files that it
    writes.
    """
    module = format_module(form)
    if hasattr(module, "steps_of"):
        return module.steps_of

    def files(net: Net) -> Written:
        with TemporaryDirectory() as folder:
            module.save(Path(folder), net, random_weights(net), ())
            return [(Path(folder) / file).read_bytes() for file in FORMATS[form].files]

    return files


WRITERS = {form: writer(form) for form in FORMATS}
# Whom the parameters concern that a format need not say; all others it must use or refuse.
LEAVES = {"onnx": ("training",)}
DECLARED = {f"{kind}.{p.name}": (kind, p) for kind in KINDS for p in L.parameters(L.LAYERS[kind])}
declared = pytest.mark.parametrize(("kind", "parameter"), DECLARED.values(), ids=DECLARED)


def pairs(kind: str, name: str, turns: int = 60) -> Iterator[tuple[Net, Net]]:
    """Nets of one layer that differ in one parameter alone, where both are possible."""
    rng = random.Random(f"{kind} {name}")
    for _ in range(turns):
        shape = (rng.randint(3, 9), rng.randint(3, 9), rng.choice((1, 2, 4, 6)))
        one = values(kind, rng, shape)
        other = {**one, name: values(kind, rng, shape)[name]}
        layers = [L.LAYERS[kind](**each) for each in (one, other)]
        nets = [Net(shape, (replace(layer, name="layer"),)) for layer in layers]
        with suppress(ShapeError):
            for net in nets:
                analyse(net)
            if layers[0] != layers[1]:
                yield nets[0], nets[1]


@declared
def test_every_parameter_is_drawn(kind, parameter):
    assert len({getattr(layer, parameter.name) for layer, _ in singles(kind, 60)}) > 1


@declared
@pytest.mark.parametrize("form", WRITERS)
def test_every_writer_uses_a_parameter_or_refuses_it(form, kind, parameter):
    """Of two nets that differ in it alone two things are written, or one of the two is refused."""
    if parameter.concern in ("stored", *LEAVES.get(form, ())):
        return

    def written(net: Net) -> Written:
        try:
            return WRITERS[form](net)
        except Unsupported:
            return None

    both = [(written(one), written(other)) for one, other in pairs(kind, parameter.name)]
    assert both
    assert any(one != other for one, other in both) or both == [(None, None)] * len(both)


@declared
def test_the_calculus_reads_what_may_change_a_shape(kind, parameter):
    if parameter.concern != "shape":
        return
    read: set[str] = set()
    for layer, shapes in singles(kind, 60):
        net = net_of(layer, shapes)
        with suppress(ConvwiseError), reading(net.layers[-1]) as names:
            analyse(net)
        read |= names
    assert parameter.name in read


def test_the_concern_of_a_parameter_is_true():
    """One that concerns values or training alone changes neither shape, nor cost, nor what is
    seen.
    """
    for kind, parameter in DECLARED.values():
        if parameter.concern in ("values", "training"):
            for one, other in pairs(kind, parameter.name, 10):
                stored = getattr(one.layers[0], "adapted", False)
                assert stored or analyse(one).total == analyse(other).total, (kind, parameter.name)


def with_padding_mode(old: type[L.Layer], monkeypatch) -> type[L.Layer]:
    """The layer with one parameter more, in every table where it stands: as if someone had just
    added the field.
    """
    fields, notes = (
        {p.name: p for p in L.parameters(old)},
        {
            **old.__annotations__,
            "padding_mode": "Word",
        },
    )
    word = Word(("zeros", "reflect"), "zeros", "what the padding holds", "values")
    kind = L._layer(
        type(old.__name__, (old,), {**fields, "padding_mode": word, "__annotations__": notes})
    )
    for table in (geometry.GEOMETRY, keras.LOWER, torch.LOWER, onnx_lowering.LOWER):
        monkeypatch.setitem(table, kind, table[old])
    if (old, "kernel") in weights._AXES:
        monkeypatch.setitem(weights._AXES, (kind, "kernel"), weights._AXES[old, "kernel"])
    return kind


@pytest.fixture
def grown(monkeypatch) -> type[L.Layer]:
    return with_padding_mode(L.Conv2D, monkeypatch)


@pytest.mark.parametrize("form", WRITERS)
def test_a_new_parameter_is_refused_until_a_writer_knows_it(grown, form):
    """But by net.json, which says all that a layer declares."""
    write = WRITERS[form]
    usual, reflecting = (
        Net((8, 8, 2), (grown(3, 3, padding="same", padding_mode=mode, name="edge"),))
        for mode in ("zeros", "reflect")
    )
    said = write(usual)
    if form == "json":
        assert write(reflecting) != said
        return
    with pytest.raises(
        Unsupported, match=r"layer edge: padding_mode='reflect' of Conv2D.*padding_mode='zeros'"
    ):
        write(reflecting)


@pytest.mark.parametrize("old", [L.Conv2D, L.Conv2DTranspose, L.MaxPooling2D, L.AveragePooling2D])
@pytest.mark.parametrize("lines", [keras_lines, torch_lines])
def test_a_new_parameter_is_in_no_lines_until_they_say_it(old, lines, monkeypatch):
    kind = with_padding_mode(old, monkeypatch)
    given = {p.name: 3 for p in L.parameters(kind) if p.default is REQUIRED}
    words = {"padding": "same", "name": "edge"}
    assert lines(kind(**given, **words), (9, 9, 3)).lines
    refused = lines(kind(**given, **words, padding_mode="reflect"), (9, 9, 3))
    assert not refused.lines
    assert "padding_mode='reflect'" in refused.problems[0].what


@pytest.mark.parametrize("block", WIDE["block"])
def test_a_network_grows_with_a_new_parameter(grown, monkeypatch, block):
    """Each of its convolutions has the default of it, and says so."""
    monkeypatch.setattr(L, "Conv2D", grown)
    configuration = wide_space().fit(
        {**{name: values[-1] for name, values in WIDE.items()}, "block": block}
    )
    found = configuration.grown
    new = [layer.name for layer in found.net.layers if isinstance(layer, grown)]
    assert "stem" in new
    assert [found.why[name]["padding_mode"] for name in new] == [reasons.DEFAULT] * len(new)
    assert configuration.cost["params"] > 0


def test_what_is_read_is_known_of_one_layer_alone():
    one, other = L.Conv2D(3, 3), L.Conv2D(3, 3)
    with reading(one) as outer, reading(other) as inner:
        assert (one.filters, other.strides) == (3, (1, 1))
    assert (outer, inner) == ({"filters"}, {"strides"})
    with reading(one) as names:
        pass
    assert one.kernel_size == (3, 3)
    assert not names


def test_one_layout_gives_shapes_params_and_what_learns():
    layer, given = L.BatchNormalization(scale=False), (5, 5, 7)
    assert geometry.layer_weights(layer, given) == {
        "beta": (7,),
        "moving_mean": (7,),
        "moving_variance": (7,),
    }
    assert geometry.params_of(layer, given) == (21, 7)
    assert geometry.layer_weights(replace(layer, shares="other"), given) == {}
