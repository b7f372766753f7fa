"""The space: every sample grows into a net that real PyTorch runs with the shapes that were
promised.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convwise.core.calculus import analyse
from convwise.core.configuration import MEANING
from convwise.core.goal import Goal, Limit
from convwise.core.growth import MAX_FILTERS
from convwise.core.layers import Add, BatchNormalization, Conv2D, Dense, DepthwiseConv2D
from convwise.core.net import Net
from convwise.core.problems import Infeasible
from convwise.core.recipe import Recipe
from convwise.core.space import WIDTHS, LatencyModel, Space
from convwise.core.text import parse_size
from convwise.formats import torch as torch_format
from studies import WIDE, differing, wide_samples, wide_space

BASE = {name: values[0] for name, values in WIDE.items()} | {
    "input.size": "32x20", "stem.kernel_size": 3, "stage.count": 3, "stage.convs": 2,
    "stage.kernel_size": 3,
}  # fmt: skip
LATENCY = LatencyModel(per_layer=0.002, per_mac=2e-8, per_byte=1e-9)


def shapes_in_torch(net: Net) -> dict[str, tuple[int, ...]]:
    """What every layer really gives, channels last: read off PyTorch while it runs."""
    module, seen = torch_format.build(net).eval(), {}
    owner = {step.name: step.layer for step in torch_format.steps_of(net)}

    def keep(name: str):
        def hook(_module, _inputs, output: torch.Tensor) -> None:
            shape = tuple(output.shape[1:])
            seen[owner[name]] = (*shape[1:], shape[0]) if len(shape) == 3 else shape

        return hook

    for name, child in module.named_modules():
        if name in owner:
            child.register_forward_hook(keep(name))
    height, width, channels = net.input_shape
    with torch.inference_mode():
        output = module(torch.randint(0, 256, (2, channels, height, width)).float())
    assert torch.isfinite(output).all()
    assert torch.allclose(output.sum(1), torch.ones(2), atol=1e-4)
    return seen


def check_shapes(configuration, channels, classes):
    net = wide_space(channels, classes).fit(configuration).net
    assert net.input_shape == (*parse_size(configuration["input.size"]), channels)
    predicted = {row.name: row.output_shape for row in analyse(net).layers}
    seen = shapes_in_torch(net)
    assert seen == {name: predicted[name] for name in seen}
    assert seen[net.layers[-1].name] == (classes,)
    assert len(seen) == len(net.layers)


@settings(max_examples=25, deadline=None)
@given(wide_samples(), st.sampled_from((1, 3)), st.integers(2, 11))
def test_every_sample_grows_and_runs_with_the_predicted_shapes(configuration, channels, classes):
    check_shapes(configuration, channels, classes)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(wide_samples(), st.sampled_from((1, 3)), st.integers(2, 11))
def test_many_samples_grow_and_run(configuration, channels, classes):
    check_shapes(configuration, channels, classes)


@settings(max_examples=60, deadline=None)
@given(wide_samples(), st.integers(8, 64), st.integers(8, 64))
def test_any_image_size_grows(configuration, rows, columns):
    net = wide_space().fit({**configuration, "input.size": f"{rows}x{columns}"}).net
    assert analyse(net).layers[-1].output_shape == (3,)


@settings(max_examples=60, deadline=None)
@given(wide_samples())
def test_exact_costs_are_those_of_pytorch(configuration):
    space = wide_space()
    net = space.fit(configuration).net
    state = torch_format.build(net).state_dict()
    assert space.cost(net)["params"] == sum(
        v.numel() for k, v in state.items() if "num_batches" not in k
    )


limits = st.tuples(
    st.sampled_from(("params", "macs", "activation_bytes", "latency_ms")), st.floats(-0.5, 3.5)
)


def limited(pairs: list[tuple[str, float]], base: dict[str, float]) -> Goal:
    return Goal(
        "accuracy",
        tuple({m: Limit(m, base[m] / 10**power) for m, power in pairs}.values()),
        "a random goal",
    )


@settings(max_examples=30, deadline=None)
@given(wide_samples(), st.lists(limits, min_size=1, max_size=3))
def test_limits_hold_or_the_excess_is_told(configuration, pairs):
    free = wide_space(latency=LATENCY)
    goal = limited(pairs, free.fit(configuration).cost)
    space = Space(1, 3, free.mean, free.variance, free.hyperparameters, goal, LATENCY)
    try:
        fitted = space.fit(configuration)
    except Infeasible as error:
        fitted, ratios = (
            None,
            [float(r) for r in re.findall(r"(\d+\.\d) times its limit", str(error))],
        )
    if fitted is None:
        assert ratios
        assert all(ratio >= 1 for ratio in ratios)
        return
    cost = space.fit(configuration).cost
    assert all(cost[limit.metric] <= limit.at_most for limit in goal.limits)
    assert space.fit(fitted) == fitted
    legal = {each.name: each.legal for each in space.hyperparameters}
    assert all(value in legal[name] for name, value in fitted.items())


def test_fitting_never_widens():
    free = wide_space()
    configuration = {**BASE, "input.size": "64x48", "block": "plain", "stage.count": 1,
              "stage.convs": 1,
              "stem.kernel_size": 1, "stage.kernel_size": 1, "stage.filters": 4}  # fmt: skip
    goal = Goal("accuracy", (Limit("macs", free.fit(configuration).cost["macs"] / 10),), "a tenth")
    fitted = Space(1, 3, free.mean, free.variance, free.hyperparameters, goal).fit(configuration)
    assert fitted["stage.filters"] <= 4


@settings(max_examples=40, deadline=None)
@given(wide_samples())
def test_a_sample_inside_its_limits_is_left_alone(configuration):
    free = wide_space()
    cost = free.fit(configuration).cost
    goal = Goal(
        "accuracy", tuple(Limit(metric, value) for metric, value in cost.items()), "just met"
    )
    space = Space(1, 3, free.mean, free.variance, free.hyperparameters, goal)
    assert space.fit(configuration) == configuration
    assert space.fit(configuration).net == free.fit(configuration).net


def test_infeasible_names_the_limit_and_by_how_much():
    space = wide_space(goal="accuracy where params<10")
    with pytest.raises(Infeasible) as caught:
        space.fit(BASE)
    ratio = float(re.search(r"params (\d+\.\d) times", str(caught.value))[1])
    smallest = min(
        free.cost(free.fit({**BASE, **change, "stage.filters": 4}).net)["params"]
        for free in [wide_space()]
        for change in (
            {},
            {"block": "separable", "stage.convs": 1, "stage.count": 2, "input.size": "8x8"},
        )
    )
    assert ratio == pytest.approx(smallest / 10, abs=0.051)


@settings(max_examples=5, deadline=None)
@given(wide_samples())
def test_neighbours_are_all_single_changes_with_another_net_or_training(configuration):
    space = wide_space()
    here = space.fit(configuration)
    found = {}
    for name, value, changed in space.neighbours(here):
        assert differing(configuration, changed) == {name}
        assert changed[name] == value
        assert changed.key != here.key
        found[name, value] = changed
    for each in space.hyperparameters:  # and nothing was left out
        for value in each.values:
            other = space.fit({**configuration, each.name: value}).key
            assert (other != here.key) == ((each.name, value) in found)


def test_neighbours_under_limits_keep_them():
    space = wide_space(goal="accuracy where params<3k and macs<400k")
    configuration = space.fit(BASE)
    for _, _, changed in space.neighbours(configuration):
        cost = space.cost(changed.net)
        assert cost["params"] <= 3e3
        assert cost["macs"] <= 4e5


def test_growing_is_the_same_in_another_process_with_another_hash_seed():
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from studies import wide_space\n"
        "import random; rng = random.Random(7); space = wide_space()\n"
        "print(*(space.sample(rng).net.id for _ in range(20)))"
    )
    where = [str(Path(__file__).parents[1]), *(p for p in sys.path if p)]
    runs = [
        subprocess.run([sys.executable, "-c", code, *where], env={**os.environ,
        "PYTHONHASHSEED": seed},
                       capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert runs[0] == runs[1]
    assert len(set(runs[0].split())) == 20


@pytest.mark.parametrize("convs", [1, 2, 3, 4])
def test_residual_blocks_add_equal_shapes(convs):
    net = wide_space().fit({**BASE, "block": "residual", "stage.convs": convs}).net
    costs = analyse(net)
    adds = [layer for layer in net.layers if isinstance(layer, Add)]
    assert len(adds) == 3 * -(-convs // 2)
    for add in adds:
        assert len(add.inputs) == 2
        assert len({costs[name].output_shape for name in add.inputs}) == 1
    body = [layer for layer in net.layers if isinstance(layer, Conv2D) and "_conv" in layer.name]
    assert len(body) == 3 * convs


def test_a_whitening_stem_has_both_signs_of_every_direction_whatever_the_filters():
    """As many directions as a patch has numbers; its bias is learnt, and no normalisation
    follows.
    """
    for channels, kernel, filters in ((1, 2, 8), (3, 2, 24), (3, 3, 54), (3, 7, 294)):
        net = (
            wide_space(channels)
            .fit({**BASE, "stem": "whitening", "stem.kernel_size": kernel, "padding": "same"})
            .net
        )
        stem = net["stem"]
        assert (stem.filters, stem.padding, stem.use_bias, stem.activation) == (
            filters,
            "valid",
            True,
            "linear",
        )
        after = net.layers[[layer.name for layer in net.layers].index("stem") + 1]
        assert (after.name, after.op, after.activation) == ("stem_act", "Activation", "relu")
        assert analyse(net)["stem"].output_shape == (32 - kernel + 1, 20 - kernel + 1, filters)


def test_every_stage_of_a_pooled_net_halves_its_map_before_it_is_normalised():
    configuration = {**BASE, "block": "pooled", "input.size": "64x48", "stage.count": 3}
    for how, halved in (("MaxPooling2D", "stage1_pool"), ("strides", "stage1_conv1")):
        net = wide_space().fit({**configuration, "downsampling": how}).net
        costs, names = analyse(net), [layer.name for layer in net.layers]
        assert costs[halved].output_shape[:2] == (32, 24)
        assert [costs[f"stage{i}_conv2"].output_shape[:2] for i in (1, 2, 3)] == [
            (32, 24),
            (16, 12),
            (8, 6),
        ]
        assert (
            names.index("stage1_conv1")
            < names.index(halved) + 1
            <= names.index("stage1_conv1_norm")
        )
        assert net.is_chain


@pytest.mark.parametrize(("widening", "filters"), [(2, [4, 8, 16, 32]), (4, [4, 16, 16, 16])])
def test_widening_says_how_the_filters_grow(widening, filters):
    configuration = {**BASE, "input.size": "64x48", "stage.count": 4, "stage.widening": widening}
    net = wide_space().fit(configuration).net
    assert [net[f"stage{i}_conv2"].filters for i in (1, 2, 3, 4)] == filters


def test_the_running_statistics_follow_within_ten_steps():
    norms = [
        layer
        for layer in wide_space().fit(BASE).net.layers
        if isinstance(layer, BatchNormalization)
    ]
    assert {layer.momentum for layer in norms} == {0.6}
    assert 0.6**10 < 0.01  # of what they were ten steps before


# --- how a sample is trained ----------------------------------------------------------------------


def test_how_a_net_is_trained_follows_from_its_sample():
    space = wide_space(recipe=Recipe(optimizer="muon", shift_px=3))
    learned, whitened = (
        space.fit({**BASE, "stem": stem}).recipe for stem in ("learned", "whitening")
    )
    assert (learned.whitened, whitened.whitened) == ("", "stem")
    assert [space.fit({**BASE, "training.flip": flip}).recipe.flip for flip in (False, True)] == [
        False,
        True,
    ]
    starts = {
        block: space.fit({**BASE, "block": block}).recipe.identity_start for block in WIDE["block"]
    }
    # A sum passes on already
    assert starts == {"plain": True, "pooled": True, "residual": False, "separable": False}
    assert learned.shift_px == 3  # the rest is the space's own
    assert not wide_space(recipe=Recipe(optimizer="adamw")).fit(BASE).recipe.identity_start


def test_a_key_tells_apart_what_is_trained_in_another_way():
    space = wide_space()
    plain, mirrored = ({**BASE, "training.flip": flip} for flip in (False, True))
    assert space.fit(plain).net == space.fit(mirrored).net
    assert space.fit(plain).key != space.fit(mirrored).key
    assert space.fit(plain).key == space.fit(dict(reversed(plain.items()))).key


def test_a_sample_of_an_older_study_has_the_usual_values():
    names = ("stem", "stage.widening", "training.flip")
    old = {name: value for name, value in BASE.items() if name not in names}
    assert wide_space().fit(old).key == wide_space().fit({**old, "stem": "learned",
                      "stage.widening": 2, "training.flip": False}).key  # noqa: E501  # fmt: skip


def test_plain_is_a_chain_and_separable_has_no_wide_kernel_over_channels():
    space = wide_space()
    assert space.fit({**BASE, "block": "plain"}).net.is_chain
    separable = space.fit({**BASE, "block": "separable"}).net
    assert separable.is_chain
    wide = [c.name for c in separable.layers if isinstance(c, Conv2D) and c.kernel_size != (1, 1)]
    assert wide == ["stem"]
    deep = [layer for layer in separable.layers if isinstance(layer, DepthwiseConv2D)]
    assert [layer.kernel_size for layer in deep] == [(3, 3)] * 6
    for before, after in zip(separable.layers, separable.layers[3:], strict=False):
        if isinstance(before, DepthwiseConv2D):
            assert isinstance(after, Conv2D)


@pytest.mark.parametrize("block", WIDE["block"])
@pytest.mark.parametrize("how", WIDE["downsampling"])
def test_each_stage_halves_the_map_and_doubles_the_filters(block, how):
    """All but the first; a pooled net's first as well."""
    net = (
        wide_space()
        .fit({**BASE, "block": block, "downsampling": how, "input.size": "64x48", "stage.count": 4})
        .net
    )
    costs = analyse(net)
    ends = [costs[f"stage{i}_conv2"].output_shape for i in (1, 2, 3, 4)]
    whole = [(64, 48, 4), (32, 24, 8), (16, 12, 16), (8, 6, 32)]
    assert ends == ([(h // 2, w // 2, n) for h, w, n in whole] if block == "pooled" else whole)


def test_filters_are_capped():
    net = (
        wide_space()
        .fit({**BASE, "input.size": "64x64", "stage.filters": 128, "stage.count": 4})
        .net
    )
    filters = [layer.filters for layer in net.layers if isinstance(layer, Conv2D)]
    assert max(filters) == MAX_FILTERS == 512


@pytest.mark.parametrize(
    ("size", "strides", "stages"), [("8x8", 1, 3), ("8x8", 2, 2), ("64x48", 1, 4)]
)
def test_a_small_map_has_fewer_stages_than_were_asked(size, strides, stages):
    """From 8 px to 4 and to 2: below 4 px nothing is halved."""
    configuration = {**BASE, "input.size": size, "stem.strides": strides, "stage.count": 4}
    assert wide_space().fit(configuration).grown.stages == stages


def test_normalisation_replaces_biases():
    space = wide_space()
    with_norm, without = (
        space.fit({**BASE, "normalization": n}).net for n in WIDE["normalization"]
    )
    convs = [layer for layer in with_norm.layers if isinstance(layer, Conv2D)]
    assert sum(isinstance(layer, BatchNormalization) for layer in with_norm.layers) == len(convs)
    assert not any(layer.use_bias for layer in convs)
    assert not any(isinstance(layer, BatchNormalization) for layer in without.layers)
    assert all(layer.use_bias for layer in without.layers if isinstance(layer, (Conv2D, Dense)))


def test_valid_padding_loses_the_border_where_the_map_allows():
    net = wide_space().fit({**BASE, "padding": "valid", "stem.kernel_size": 7}).net
    assert analyse(net)["stem"].output_shape[:2] == (26, 14)
    tiny = (
        wide_space()
        .fit({**BASE, "padding": "valid", "stem.kernel_size": 7, "input.size": "8x8"})
        .net
    )
    # Under 4 px nothing would be left to convolve
    assert analyse(tiny)["stem"].output_shape[:2] == (8, 8)


def test_every_choice_has_a_meaning_and_reduced_values_are_legal():
    space = wide_space()
    assert list(MEANING) == [*dict.fromkeys(MEANING)]
    assert {each.name for each in space.hyperparameters} == set(MEANING)
    assert all(each.meaning for each in space.hyperparameters)
    assert set(WIDTHS) <= set(space["stage.filters"].legal)


def test_latency_predictions_grow_with_the_net():
    space = wide_space(latency=LATENCY)
    times = [space.cost(space.fit({**BASE, "stage.filters": w}).net)["latency_ms"] for w in WIDTHS]
    assert times == sorted(times)
    assert times[0] > 0
