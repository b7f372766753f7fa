"""The recipe's parts, each against numpy or a naive loop: augmentation, initial weights, Muon, the
running average.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convwise.core.layers import (
    Activation,
    Conv2D,
    Dense,
    GlobalAveragePooling2D,
    Normalization,
    Rescaling,
)
from convwise.core.net import Net
from convwise.core.recipe import Recipe
from convwise.formats import torch as torch_format
from convwise.training import batches, initial, optimizers

# --- augmentation --------------------------------------------------------------------------------


def reflected(position: int, size: int) -> int:
    """Where a px outside reads: the image continued as its own mirror image."""
    if not 0 <= position < size:
        position = -position if position < 0 else 2 * (size - 1) - position
    return min(max(position, 0), size - 1)


def shifted(image: np.ndarray, down: int, right: int, mirrored: bool) -> np.ndarray:
    """Each output pixel looks its source up by itself."""
    height, width, _ = image.shape
    out = np.empty_like(image)
    for y in range(height):
        for x in range(width):
            from_x = width - 1 - x if mirrored else x
            out[y, x] = image[reflected(y + down, height), reflected(from_x + right, width)]
    return out


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 9), st.integers(4, 9), st.booleans(), st.integers(0, 3), st.integers(0, 99))
def test_augmented_images_are_shifted_as_a_naive_loop_shifts_them(height, width, flip, shift, seed):
    """Every one is one of the images that whole shifts can make of it, mirrored where that was
    asked.
    """
    pixels = np.random.default_rng(seed).integers(0, 256, (5, height, width, 2), dtype=np.uint8)
    index = torch.tensor([4, 0, 0, 2])
    flips = torch.tensor([True, False, True, True]) if flip else None
    found = batches.augment(
        torch.from_numpy(pixels), index, shift, torch.Generator().manual_seed(seed), flips
    )
    for image, source, mirrored in zip(
        found.numpy(), index.tolist(), flips if flip else [False] * 4, strict=True
    ):
        steps = range(-shift, shift + 1)
        made = [
            shifted(pixels[source], down, right, bool(mirrored))
            for down in steps
            for right in steps
        ]
        assert any((image == other).all() for other in made)


def test_every_shift_up_to_the_largest_comes_as_often_as_the_others():
    """A line of numbers read from the middle: its value is the shift."""
    pixels = torch.arange(21, dtype=torch.uint8).reshape(1, 1, 21, 1)
    index = torch.zeros(7000, dtype=torch.int64)
    found = batches.augment(pixels, index, 3, torch.Generator().manual_seed(0))[:, 0, 10, 0]
    counts = torch.bincount(found.long(), minlength=21)
    assert counts[:7].sum() == counts[14:].sum() == 0
    assert 800 < int(counts[7:14].min()) <= int(counts.max()) < 1200


def test_edges_are_continued_as_mirror_images():
    """Shifted by two, 0 1 2 3 4 becomes 2 1 0 1 2 at one end and 2 3 4 3 2 at the other: the edge
    px is not doubled.
    """
    pixels, index = (
        torch.arange(5, dtype=torch.uint8).reshape(1, 1, 5, 1),
        torch.zeros(200, dtype=torch.int64),
    )
    found = batches.augment(pixels, index, 2, torch.Generator().manual_seed(0))[:, 0, :, 0]
    assert {tuple(row) for row in found.tolist()} == {
        (2, 1, 0, 1, 2), (1, 0, 1, 2, 3), (0, 1, 2, 3, 4), (1, 2, 3, 4, 3), (2, 3, 4, 3, 2),
    }  # fmt: skip


def test_a_box_of_each_image_comes_from_another_and_its_share_is_counted():
    """Images of one number each: what is not its own number is a box, the other's number, and that
    share of the px.
    """
    n, generator = 6, torch.Generator().manual_seed(3)
    images = torch.arange(n).float()[:, None, None, None].expand(n, 2, 7, 9)
    shares = []
    for _ in range(200):
        mixed, others, own = batches.boxed(images, generator)
        assert sorted(others.tolist()) == list(range(n))
        for number, other in enumerate(others.tolist()):
            inside = (
                (mixed[number] == other).numpy() if other != number else np.zeros((2, 7, 9), bool)
            )
            assert ((mixed[number].numpy() == number) | inside).all()
            rows, columns = np.flatnonzero(inside[0].any(1)), np.flatnonzero(inside[0].any(0))
            if rows.size:
                box = inside[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                assert box.all()
                assert own == pytest.approx(1 - box[0].size / 63)
        shares.append(own)
    assert (images[:, 0, 0, 0] == torch.arange(n)).all()
    assert min(shares) < 0.3
    assert 0.5 < np.mean(shares) < 0.65  # drawn evenly; whole px make a box a little smaller


# --- the weights that a training starts from -----------------------------------------------------


def whitened_net(channels: int, kernel: int) -> Net:
    stem = Conv2D(2 * channels * kernel**2, kernel, name="stem")
    moments = (0.5,) * channels, (0.06,) * channels
    body = (
        Rescaling(1 / 255),
        Normalization(*moments),
        stem,
        Activation("gelu"),
        GlobalAveragePooling2D(),
        Dense(2),
    )
    return Net((12, 14, channels), body)


def smooth_images(n: int, channels: int) -> torch.Tensor:
    """Neighbours and channels alike, as in photographs: patches of them vary mostly in one
    direction.
    """
    noise = np.random.default_rng(0).normal(size=(n, 16, 18, channels))
    for _ in range(4):
        noise = (noise[:, 1:] + noise[:, :-1])[:, :, 1:] + (noise[:, 1:] + noise[:, :-1])[:, :, :-1]
    noise += 2 * noise.mean(-1, keepdims=True)
    return torch.from_numpy(np.clip(128 + 40 * noise / noise.std(), 0, 255).astype(np.uint8))


@pytest.mark.parametrize(("channels", "kernel"), [(1, 2), (3, 2), (3, 3)])
def test_whitened_patches_are_uncorrelated_and_of_unit_variance(channels, kernel):
    """By numpy: cut every patch of the normalised images, apply the filters, and look at what comes
    out.
    """
    net, images = whitened_net(channels, kernel), smooth_images(300, channels)
    model = torch_format.build(net, logits=True)
    initial.initialise(model, Recipe(whitened="stem"), images)
    weight = model.stem.weight.detach().numpy().astype(float)
    x = (images.numpy() / 255 - 0.5) / np.sqrt(0.06)
    patches = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), (1, 2)).reshape(
        -1, channels * kernel**2
    )
    count = channels * kernel**2
    before = patches.T @ patches / len(patches)
    found = patches @ weight[:count].reshape(count, -1).T
    covariance = found.T @ found / len(found)
    off = covariance - np.diag(np.diag(covariance))
    assert np.abs(off).max() < 0.02
    variances = np.linalg.eigvalsh(before)[::-1]
    shrunk = variances / (variances + initial.SMALLEST_VARIANCE)  # noise is not blown up
    assert np.diag(covariance) == pytest.approx(shrunk, abs=0.03)
    assert shrunk[0] > 0.99
    assert (weight[count:] == -weight[:count]).all()  # both signs


def test_whitening_filters_stay_and_their_bias_is_learnt():
    model = torch_format.build(whitened_net(1, 2), logits=True)
    initial.freeze(model, Recipe(whitened="stem"))
    learnt = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "stem.weight" not in learnt
    assert "stem.bias" in learnt
    moved = {id(p) for m in optimizers.optimizers(model, Recipe(optimizer="muon"),
             False) for g in m.param_groups for p in g["params"]}  # noqa: E501  # fmt: skip
    assert id(model.stem.weight) not in moved


@pytest.mark.parametrize(
    "conv", [nn.Conv2d(4, 9, 3, padding=1), nn.Conv2d(5, 5, (5, 3), padding=(2, 1))]
)
def test_an_identity_start_passes_the_input_on(conv):
    initial.initialise(nn.Sequential(conv), Recipe(identity_start=True), torch.zeros(1, 1, 1, 1))
    x = torch.randn(2, conv.in_channels, 7, 8)
    assert torch.allclose(conv(x)[:, : conv.in_channels], x, atol=1e-5)
    assert (
        conv.weight.detach()[conv.in_channels :].abs().sum() > 0
        or conv.out_channels == conv.in_channels
    )


def test_an_identity_start_leaves_mixing_and_depthwise_convolutions_alone():
    for conv in (nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, groups=8)):
        torch.manual_seed(0)
        initial.initialise(
            nn.Sequential(conv), Recipe(identity_start=True), torch.zeros(1, 1, 1, 1)
        )
        begun = conv.weight.detach().clone()
        torch.manual_seed(0)
        initial.initialise(nn.Sequential(conv), Recipe(), torch.zeros(1, 1, 1, 1))
        assert torch.equal(begun, conv.weight)


def test_initial_weights_have_the_variance_of_he_per_group():
    """Depthwise too: taken over all groups, the fan would be as many times too large as there are
    channels.
    """
    torch.manual_seed(0)
    for conv in (nn.Conv2d(8, 64, 3), nn.Conv2d(512, 512, 3, groups=512), nn.Conv2d(64, 128, 1)):
        initial.initialise(nn.Sequential(conv), Recipe(), torch.zeros(1, 1, 1, 1))
        of_one_group = (
            conv.weight.shape[0] // conv.groups * conv.weight.shape[2] * conv.weight.shape[3]
        )
        assert float(conv.weight.detach().var()) == pytest.approx(2 / of_one_group, rel=0.15)
        assert not conv.bias.detach().any()


# --- optimizers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (6, 6)])
def test_orthogonalised_matrices_keep_their_directions_and_lose_their_lengths(shape):
    """By numpy's singular values: of 1 to 30 before, between 0.6 and 1.3 after, the singular
    vectors as they were.
    """
    rng = np.random.default_rng(0)
    u, _, v = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    values = np.linspace(30, 3, min(shape))
    matrix = torch.from_numpy(((u * values) @ v)[None]).float()
    found = optimizers.orthogonalised(matrix)[0].double().numpy()
    inside = u.T @ found @ v.T
    assert np.abs(inside - np.diag(np.diag(inside))).max() < 0.02
    assert np.diag(inside).min() > 0.3
    assert np.diag(inside).max() < 1.3
    assert values.max() / values.min() > 2.5 * np.diag(inside).max() / np.diag(inside).min()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_muon_turns_filters_and_keeps_the_length_that_means_nothing(layout):
    """Found here: filters that were not channels_last did not move at all, because a copy of them
    did.
    """
    torch.manual_seed(0)
    free, scaled = (
        nn.Parameter(torch.randn(6, 3, 3, 3).to(memory_format=layout)) for _ in range(2)
    )
    mover = optimizers.Muon([free, scaled], lr=0.1, scale_free=[free])
    before = scaled.detach().clone()
    for parameter in (free, scaled):
        parameter.grad = torch.randn_like(parameter)
    mover.step()
    assert float(free.detach().norm()) == pytest.approx(6**0.5, rel=0.1)
    step = (scaled.detach() - before).norm() / before.norm()
    assert 0.03 < float(step) < 0.15  # in proportion to its length
    assert float(((scaled.detach() - before) * scaled.grad).sum()) < 0  # downhill


def test_muon_reaches_the_minimum_of_a_quadratic():
    torch.manual_seed(0)
    target = torch.randn(8, 4, 3, 3)
    filters = nn.Parameter(torch.randn(8, 4, 3, 3))
    mover = optimizers.Muon([filters], lr=0.2, scale_free=[])
    for step in range(200):
        mover.param_groups[0]["lr"] = 0.2 * (1 - step / 200)
        filters.grad = (filters - target).detach()
        mover.step()
    assert float((filters - target).detach().norm()) < 0.1 * float(target.norm())


def small_model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1),
                         nn.Flatten(), nn.Linear(3, 2))  # noqa: E501  # fmt: skip


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_every_weight_is_moved_once_and_biases_do_not_decay(kind):
    model = small_model()
    movers = optimizers.optimizers(
        model, Recipe(optimizer=kind, learning_rate=0.4, weight_decay=0.3), False
    )
    groups = [(mover, group) for mover in movers for group in mover.param_groups]
    moved = [id(p) for _, group in groups for p in group["params"]]
    assert sorted(moved) == sorted(id(p) for p in model.parameters())
    by_muon = {
        id(p)
        for mover, group in groups
        for p in group["params"]
        if isinstance(mover, optimizers.Muon)
    }
    assert by_muon == ({id(model[0].weight), id(model[2].weight)} if kind == "muon" else set())
    decays = {id(p): group.get("weight_decay", 0.0) for _, group in groups for p in group["params"]}
    assert decays[id(model[4].weight)] == 0.3
    assert {
        decays[id(p)] for p in (model[1].weight, model[1].bias, model[2].bias, model[4].bias)
    } == {0.0}
    assert all(group["peak"] == group["lr"] for _, group in groups)


def test_only_filters_that_a_normalisation_follows_are_free_of_scale():
    model = small_model()
    muon = optimizers.optimizers(model, Recipe(optimizer="muon"), False)[0]
    assert muon.scale_free == {id(model[0].weight)}


def test_the_running_average_is_that_of_a_loop():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    average = optimizers.RunningAverage(model)
    mean = [p.detach().clone() for p in model.parameters()]
    for step in range(1, 24):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        live = [p.detach().clone() for p in model.parameters()]
        done = step / 24
        average.step(done)
        if step % 5 == 0:
            kept = 0.95**5 * done**3
            mean = [kept * m + (1 - kept) * p for m, p in zip(mean, live, strict=True)]
            live = mean
        assert all(
            torch.allclose(p, q, atol=1e-6) for p, q in zip(model.parameters(), live, strict=True)
        )
    average.end()
    assert all(
        torch.allclose(p, q, atol=1e-6) for p, q in zip(model.parameters(), mean, strict=True)
    )


def test_an_average_of_a_run_that_was_too_short_changes_nothing():
    model = nn.Linear(2, 1)
    average = optimizers.RunningAverage(model)
    with torch.no_grad():
        model.weight.fill_(7.0)
    average.step(0.1)
    average.end()
    assert (model.weight == 7.0).all()


def test_a_part_is_judged_by_the_mean_of_its_second_half():
    model = nn.Linear(1, 1, bias=False)
    tail, seen = optimizers.TailMean(model), []
    for step in range(10):
        with torch.no_grad():
            model.weight.fill_(float(step**2))
        tail.step(step / 10)
        seen.append(float(step**2))
    tail.end()
    assert float(model.weight.detach()) == pytest.approx(np.mean(seen[5:]))


def test_a_part_of_which_the_second_half_was_not_reached_is_left_as_it_is():
    model = nn.Linear(1, 1)
    tail, before = optimizers.TailMean(model), model.weight.detach().clone()
    tail.step(0.3)
    tail.end()
    assert torch.equal(model.weight, before)


def test_settling_measures_the_statistics_anew_over_all_that_is_given():
    """Batches of equal size: the mean over all, by numpy, whatever the momentum is outside; that
    stays.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.4))
    model[0].running_mean.fill_(99.0)
    batches_ = [torch.randn(16, 3, 4, 4) * 2 + i for i in range(5)]
    with optimizers.settling(model):
        for x in batches_:
            model(x)
    assert model[0].running_mean.numpy() == pytest.approx(
        np.concatenate(batches_).mean((0, 2, 3)), abs=1e-4
    )
    assert model[0].momentum == 0.4
    with pytest.raises(ZeroDivisionError), optimizers.settling(model):
        raise ZeroDivisionError
    assert model[0].momentum == 0.4
