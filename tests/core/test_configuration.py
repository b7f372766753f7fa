"""A configuration: typed values under the names that people type, grown and costed once."""

from __future__ import annotations

import json
import pickle
from collections import Counter

import numpy as np
import pytest

from convwise.core import calculus, configuration, space
from convwise.core.configuration import MEANING, Configuration
from convwise.core.problems import UnusableInput
from convwise.core.records import Advice, from_json, to_json
from convwise.formats import torch as torch_format
from nets import random_weights
from studies import WIDE, advice, wide_space

DRAFT = {name: values[0] for name, values in WIDE.items()}


def test_values_are_typed_and_read_as_they_are_typed():
    found = Configuration.of(wide_space(), {**DRAFT, "input.size": "64x48", "dropout": 0})
    assert (found.input_size, found["input.size"]) == ((64, 48), "64x48")
    assert (found.stage_filters, found["stage.filters"]) == (4, 4)
    assert isinstance(found.dropout, float)
    assert list(found) == list(MEANING)
    assert found == {**DRAFT, "input.size": "64x48", "dropout": 0.0}
    assert found != DRAFT
    assert hash(found) == hash(Configuration.of(wide_space(), dict(found)))
    assert json.loads(json.dumps(dict(found))) == found


def test_the_net_and_its_cost_are_worked_out_once(monkeypatch):
    done = Counter()

    def counted(name, function):
        def call(*args):
            done[name] += 1
            return function(*args)

        return call

    monkeypatch.setattr(configuration, "grow", counted("grow", configuration.grow))
    monkeypatch.setattr(space, "analyse", counted("analyse", calculus.analyse))
    fitted = wide_space().fit(DRAFT)
    for _ in range(3):
        assert all((fitted.net, fitted.cost, fitted.key, fitted.grown.stages))
    assert done == {"grow": 1, "analyse": 1}
    changes = sum(len(values) - 1 for values in WIDE.values())
    assert list(fitted.space.neighbours(fitted))
    assert done == {"grow": 1 + changes, "analyse": 1 + changes}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stage.colour": 3}, "stage.colour: is not a parameter of the search"),
        ({"input.size": "big"}, "rows x columns, such as 64x48"),
        ({"input.size": 64}, "rows x columns, such as 64x48"),
        ({"stage.filters": "many"}, "stage.filters: is 'many'; expected a whole number"),
        ({"dropout": "some"}, "dropout: is 'some'; expected a number"),
        ({"training.flip": 1}, "training.flip: is 1; expected true or false"),
        ({"block": 3}, "block: is 3; expected a word"),
    ],
)
def test_what_is_no_value_is_refused_in_a_sentence(change, said):
    with pytest.raises(UnusableInput, match=said):
        wide_space().fit({**DRAFT, **change})


def test_what_is_missing_is_named():
    with pytest.raises(UnusableInput, match=r"stage\.convs: has no value"):
        wide_space().fit({name: value for name, value in DRAFT.items() if name != "stage.convs"})


def test_advice_comes_back_from_json_with_its_net():
    given = advice(goal="accuracy where params<40k", shape=(24, 24, 1))
    again = from_json(Advice, json.loads(json.dumps(to_json(given))))
    assert (again, again.net, again.recipe) == (given, given.net, given.recipe)


def test_it_goes_to_another_process():
    fitted = wide_space().fit(DRAFT)
    again = pickle.loads(pickle.dumps(fitted))
    assert (again, again.net, again.cost) == (fitted, fitted.net, fitted.cost)


def test_a_supersampled_net_is_the_same_net_on_means_of_2x2_px():
    """Oracle: the net that is not supersampled, in PyTorch, on pixels that numpy has averaged."""
    torch = pytest.importorskip("torch")
    draft = {**DRAFT, "input.size": "9x16", "stem.kernel_size": 3}
    once, twice = (wide_space(3, supersampled=times).fit(draft).net for times in (1, 2))
    assert (once.input_shape, twice.input_shape) == ((9, 16, 3), (18, 32, 3))
    pixels = np.random.default_rng(3).integers(0, 256, (2, 18, 32, 3)).astype(np.float32)
    means = pixels.reshape(2, 9, 2, 16, 2, 3).mean((2, 4))
    weights, answers = random_weights(once, 5), []
    for net, given in ((once, means), (twice, pixels)):
        model = torch_format.build(net)
        torch_format.load(model, net, weights)
        with torch.no_grad():
            answers.append(model.eval()(torch.from_numpy(given).permute(0, 3, 1, 2)).numpy())
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-5)
