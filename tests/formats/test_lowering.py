"""What the lowering knows of the frameworks without loading them, against the frameworks
themselves.
"""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
from torch import nn

from convwise.core import layers as L
from convwise.core.layers import LAYERS
from convwise.formats import keras as keras_format
from convwise.formats.lowering import keras, torch
from convwise.formats.lowering.calls import one
from convwise.formats.torch import modules

# Layers that become the Keras layer of the same name with the same parameters.
SAME_TERMS = [L.Conv2D, L.DepthwiseConv2D, L.SeparableConv2D, L.Conv2DTranspose,
              L.GlobalAveragePooling2D, L.GlobalMaxPooling2D, L.AdaptiveAveragePooling2D,
              L.AdaptiveMaxPooling2D, L.BatchNormalization, L.GroupNormalization,
              L.LayerNormalization, L.Activation, L.Dropout, L.SpatialDropout2D, L.AlphaDropout,
              L.GaussianDropout, L.GaussianNoise, L.Dense, L.Add, L.Subtract, L.Multiply, L.Average,
              L.Maximum, L.Minimum, L.Concatenate, L.UpSampling2D, L.Flatten]  # fmt: skip
NOT_KERAS = {"groups"}  # of Conv2DTranspose: refused, never passed


def signature(kind: type) -> dict[str, object]:
    found = inspect.signature(kind.__init__).parameters.values()
    return {each.name: one(each.default) for each in found}


@pytest.mark.parametrize("kind", torch.DEFAULTS)
def test_pytorchs_defaults(kind):
    known = signature(getattr(nn, kind, None) or modules.OWN[kind])
    assert {name: known[name] for name in torch.DEFAULTS[kind]} == dict(torch.DEFAULTS[kind])


@pytest.mark.parametrize("kind", keras.DEFAULTS)
def test_kerass_defaults(kind):
    known = signature(getattr(keras_format.layers, kind))
    assert {name: known[name] for name in keras.DEFAULTS[kind]} == dict(keras.DEFAULTS[kind])


@pytest.mark.parametrize("kind", SAME_TERMS, ids=lambda kind: kind.__name__)
def test_kerass_defaults_of_layers_that_are_ours(kind):
    known, ours = signature(getattr(keras_format.layers, kind.__name__)), keras.defaults(kind)
    optional = {
        name: value
        for name, value in ours.items()
        if name in known and known[name] is not inspect._empty
    }
    assert {name: known[name] for name in optional} == optional
    assert set(ours) - set(known) <= NOT_KERAS


def test_each_exception_is_one():
    for (kind, name), value in keras.DIFFERENT.items():
        assert value != next(p.default for p in L.parameters(LAYERS[kind]) if p.name == name)


def test_our_own_modules_are_known_by_name():
    assert set(modules.OWN) == torch.OWN
    assert not {name for name in torch.OWN if hasattr(nn, name)}


def test_no_framework_is_loaded():
    code = (
        "import sys; import convwise.formats.lowering.lines\n"
        "assert not {'numpy', 'torch', 'keras'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
