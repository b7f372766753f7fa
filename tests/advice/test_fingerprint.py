"""The fingerprint against images whose answers are known, and its probes against naive
computations.
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import j0
from threadpoolctl import threadpool_limits

from convwise.advice import fingerprint, measures, pixels, probes
from convwise.advice.fingerprint import look
from convwise.advice.measures import MEASURES
from convwise.advice.pixels import dimension_of, resize
from convwise.advice.probes import LeaveOneOut, Probes, paired_loss, share_right, stratified
from convwise.advice.recipes import RECIPE_RULES
from convwise.advice.rules import RULES
from convwise.core.records import Fingerprint, from_json, to_json


@pytest.fixture(autouse=True)
def _one_blas_thread():
    """As in look: on a busy machine several threads are many times slower."""
    with threadpool_limits(1, "blas"):
        yield


@dataclass
class Part:
    pixels: np.ndarray
    labels: np.ndarray


def part(images: np.ndarray, labels: np.ndarray) -> Part:
    """Images as floats (n, h, w) or (n, h, w, c) around 128 -> a part."""
    images = images[..., None] if images.ndim == 3 else images
    return Part(np.clip(np.rint(images), 0, 255).astype(np.uint8), np.asarray(labels, np.int64))


def seen(images: np.ndarray, labels: np.ndarray, seed: int = 0) -> Fingerprint:
    classes = tuple(f"class {i}" for i in range(int(np.max(labels)) + 1))
    return look(part(images, labels), classes, seed=seed)


def names(found: Fingerprint) -> set[str]:
    return {measure.name for measure in found.measures}


def bench(images: np.ndarray, labels: np.ndarray) -> Probes:
    found = part(images, labels)
    return Probes(found.pixels, found.labels, seed=0)


def read(name: str, images: np.ndarray, labels: np.ndarray | None = None):
    """One measure alone."""
    labels = np.arange(len(images)) % 2 if labels is None else labels
    return next(row for row in MEASURES if row.name == name).read(bench(images, labels))


def noise(*shape: int, sigma: float = 20.0, seed: int = 0) -> np.ndarray:
    return 128 + sigma * np.random.default_rng(seed).normal(size=shape)


def gratings(count: int, size: int, frequency: float, seed: int = 0) -> np.ndarray:
    """Sine waves across, each with its own phase."""
    phase = np.random.default_rng(seed).uniform(0, 2 * np.pi, (count, 1, 1))
    return 128 + 100 * np.sin(
        2 * np.pi * frequency * np.arange(size)[None, None, :] + phase
    ) * np.ones((1, size, 1))


def two_classes(count: int = 200) -> np.ndarray:
    return np.arange(count) % 2


# --- the pixels


@pytest.mark.parametrize("frequency", [1 / 16, 1 / 8, 1 / 4])
def test_f95_of_a_grating_is_its_frequency(frequency: float) -> None:
    assert read("f95", gratings(40, 64, frequency)).value == pytest.approx(frequency, abs=1.5 / 64)


def test_f95_leaves_five_percent_above() -> None:
    shares = {4: 0.80, 16: 0.17, 28: 0.03}  # waves across 64 px -> share of the energy
    images = 128 + sum(
        np.sqrt(share) * (gratings(40, 64, wave / 64) - 128) for wave, share in shares.items()
    )
    assert read("f95", images).value == pytest.approx(16 / 64, abs=1.5 / 64)


@pytest.mark.parametrize("period", [8, 16])
def test_autocorrelation_of_a_grating_is_a_bessel_function(period: int) -> None:
    # The mean of cos(2 pi r cos(angle) / period) over angles is J0
    radius = np.linspace(0, period, 2000)
    expected = radius[np.argmax(j0(2 * np.pi * radius / period) < 1 / np.e)]
    assert read("autocorrelation_length", gratings(40, 64, 1 / period)).value == pytest.approx(
        expected, abs=0.35
    )


def test_white_noise_is_flat_uncorrelated_and_its_sigma_found() -> None:
    white = noise(60, 32, 32, sigma=20)
    assert read("spectral_slope", white).value == pytest.approx(0, abs=0.1)
    assert read("noise", white).value == pytest.approx(20, rel=0.05)
    assert read("autocorrelation_length", white).value < 1


def test_spectral_slope_of_a_power_law() -> None:
    size, rng = 64, np.random.default_rng(0)
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None, :])
    radius[0, 0] = np.inf
    waves = np.fft.fft2(rng.normal(size=(60, size, size))) / radius  # power ~ 1 / f^2
    images = np.fft.ifft2(waves).real
    assert read("spectral_slope", 128 + 30 * images / images.std()).value == pytest.approx(
        -2, abs=0.25
    )


def test_constant_images_give_no_spectrum_and_no_crash() -> None:
    found = seen(np.full((40, 16, 16), 7.0), two_classes(40))
    assert "f95" not in names(found)
    assert found["noise"] == 0


@pytest.mark.parametrize("dimension", [2, 5, 10])
def test_intrinsic_dimension_of_a_linear_manifold(dimension: int) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (2000, dimension)) @ rng.normal(size=(dimension, 60))
    assert dimension_of(points.astype(np.float32)) == pytest.approx(dimension, rel=0.2)


def test_alignment_tells_fixed_templates_from_shifted_ones() -> None:
    labels, rng = two_classes(), np.random.default_rng(0)
    templates = 128 + 60 * rng.normal(size=(2, 16, 16))
    fixed = templates[labels] + noise(200, 16, 16) - 128
    loose = np.stack([np.roll(image, rng.integers(0, 16, 2), axis=(0, 1)) for image in fixed])
    assert read("alignment", fixed, labels).value > 0.5
    assert read("alignment", loose, labels).value < 0.05


def test_alignment_without_structure_is_not_lifted_by_many_small_classes() -> None:
    assert read("alignment", noise(200, 16, 16), np.arange(200) % 50).value < 0.01


@pytest.mark.parametrize("wave", [2, 8])
def test_fisher_frequency_is_that_of_the_only_class_pattern(wave: int) -> None:
    size, labels = 32, two_classes()
    pattern = np.cos(np.pi * wave * (np.arange(size) + 0.5) / size)  # one DCT wave
    images = (
        noise(200, size, size)
        + 25 * np.where(labels, 1, -1)[:, None, None] * pattern[None, None, :]
    )
    assert read("fisher_frequency", images, labels).value == pytest.approx(
        wave / (2 * size), abs=0.01
    )


# --- the probes


def test_colour_gain_is_high_only_where_colour_tells() -> None:
    labels, rng = two_classes(), np.random.default_rng(0)
    hue = np.where(labels[:, None], [40.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    hue[:, 1] = -hue[:, 0] * 0.299 / 0.587  # red against green at the same luma
    coloured = noise(200, 16, 16, 1) + hue[:, None, None, :] + rng.normal(size=(200, 16, 16, 3))
    assert read("colour_gain", coloured, labels).low > 0.3
    tint = rng.normal(size=(200, 1, 1, 3)) * 15
    textured = gray_textures(labels)[..., None] + tint
    gain = read("colour_gain", textured, labels)
    assert abs(gain.value) < 0.05
    assert gain.low < 0.02


def gray_textures(labels: np.ndarray, size: int = 16) -> np.ndarray:
    """Stripes of period 4, upright or lying."""
    images = gratings(len(labels), size, 1 / 4)
    return (
        np.where(labels[:, None, None] > 0, images, images.transpose(0, 2, 1))
        + noise(len(labels), size, size)
        - 128
    )


def test_flip_cost_is_high_only_where_left_and_right_tell() -> None:
    labels = two_classes(400)
    ramp = np.linspace(-50, 50, 16)
    handed = noise(400, 16, 16) + np.where(labels, 1, -1)[:, None, None] * ramp[None, None, :]
    assert read("flip_cost", handed, labels).low > 0.8
    upright = handed.transpose(0, 2, 1)
    cost = read("flip_cost", upright, labels)
    assert cost.high < 0.05
    assert "mirror" in cost.meaning
    assert read("rotation_cost", upright, labels).low > 0.3


def test_mirrored_training_images_mislead_only_where_left_and_right_tell() -> None:
    labels = two_classes(400)
    ramp = np.linspace(-12, 12, 16)
    handed = noise(400, 16, 16) + np.where(labels, 1, -1)[:, None, None] * ramp[None, None, :]
    told = read("flip_gain", handed, labels)
    assert told.high < -0.05
    assert "they mislead" in told.meaning
    upright = read("flip_gain", handed.transpose(0, 2, 1), labels)
    assert upright.low <= 0.01 <= upright.high + 0.05
    assert "they mislead" not in upright.meaning


def test_shift_cost_is_high_only_where_place_tells() -> None:
    labels = two_classes()
    assert read("shift_cost", gray_textures(labels, 28), labels).high < 0.05
    bars = noise(200, 28, 28)
    for image, label in zip(bars, labels, strict=True):
        # 2 px down, a bar of class 0 is one of class 1
        image[11 + 2 * label : 13 + 2 * label] += 80
    assert read("shift_cost", bars, labels).low > 0.3


def test_resolution_sensitivity_is_high_only_for_fine_detail() -> None:
    labels, rng = two_classes(), np.random.default_rng(0)
    checker = 60 * (-1.0) ** np.add.outer(np.arange(32), np.arange(32))
    fine = noise(200, 32, 32) + labels[:, None, None] * checker
    loss = read("resolution_sensitivity", fine, labels)
    assert loss.low > 0.2
    assert [scale for scale, _ in loss.curve] == [1, 0.5, 0.25]
    rows, columns = np.mgrid[:32, :32]
    centre = 8 + 16 * labels[:, None, None] + rng.normal(size=(200, 1, 1))
    blobs = 100 * np.exp(-((rows - 16) ** 2 + (columns - centre) ** 2) / 40) + noise(200, 32, 32)
    assert read("resolution_sensitivity", blobs, labels).high < 0.03


def test_discriminative_scale_is_small_for_small_patterns_and_large_for_large_ones() -> None:
    labels, rng = two_classes(600), np.random.default_rng(0)
    near = noise(600, 32, 32)
    near += 30 * labels[:, None, None] * (-1.0) ** np.add.outer(np.arange(32), np.arange(32))
    assert read("discriminative_scale", near, labels).value == 3
    rows, columns = np.mgrid[:32, :32]  # faint slanted waves 16 px long: up or down, anywhere
    wave = (columns + np.where(labels, 1, -1)[:, None, None] * rows) / 22.6 + rng.random(
        (600, 1, 1)
    )
    far = noise(600, 32, 32, sigma=60) + 16 * np.sin(2 * np.pi * wave)
    found = read("discriminative_scale", far, labels)
    assert found.value >= 5, found.curve
    assert max(accuracy for _, accuracy in found.curve) > found.curve[0][1] + 0.2


def test_lengths_of_large_images_are_in_native_px() -> None:
    labels = two_classes()
    images = np.repeat(np.repeat(gray_textures(labels, 64), 2, axis=1), 2, axis=2)
    curve = read("discriminative_scale", images, labels).curve
    assert [scale for scale, _ in curve] == [6, 10, 14, 18, 26]


def test_data_sufficiency_sees_whether_more_images_help() -> None:
    rng, labels = np.random.default_rng(0), np.arange(400) % 4
    templates = rng.normal(size=(4, 16, 16)) * 12
    hard = noise(400, 16, 16, sigma=40) + templates[labels]
    learning = read("data_sufficiency", hard, labels)
    assert learning.low > 0
    hopeless = read("data_sufficiency", noise(400, 16, 16), labels)
    assert abs(hopeless.value) < 0.1
    assert learning.curve[-1][0] == 400


def test_probe_accuracy_of_random_labels_is_chance() -> None:
    one = bench(noise(400, 16, 16), np.random.default_rng(1).permutation(np.arange(400) % 4))
    assert one.probe((16, 16), 5).accuracy == pytest.approx(0.25, abs=0.07)


# --- the machinery, against naive computations


@pytest.mark.parametrize(("n", "d"), [(60, 12), (30, 50)])
def test_leave_one_out_is_refitting_without_each_image(n: int, d: int) -> None:
    """Also for changed features of the left-out image, and with more features than images."""
    rng, labels = np.random.default_rng(n), np.arange(n) % 3
    features = (rng.normal(size=(n, d)) + 0.6 * np.eye(3, d)[labels] * 2).astype(np.float32)
    changed = (features + rng.normal(size=(n, d)) * 0.5).astype(np.float32)
    fit = LeaveOneOut(features, labels)
    scaled, moved = fit._scaled(features).astype(float), fit._scaled(changed).astype(float)
    candidates = []
    for penalty in probes.PENALTIES:
        own, other, error = [], [], 0.0
        for i in range(n):
            rest = np.arange(n) != i
            target = np.eye(3)[labels[rest]] - 1 / 3
            gram = scaled[rest].T @ scaled[rest] + penalty * n * np.eye(d + 1)
            weights = np.linalg.solve(gram, scaled[rest].T @ target)
            error += float(((scaled[i] @ weights - np.eye(3)[labels[i]] + 1 / 3) ** 2).sum())
            own.append(np.argmax(scaled[i] @ weights) == labels[i])
            other.append(np.argmax(moved[i] @ weights) == labels[i])
        candidates.append((error, own, other))
    _, own, other = min(candidates)
    np.testing.assert_array_equal(fit.correct(), own)
    np.testing.assert_array_equal(fit.correct(changed), other)


@pytest.mark.parametrize("n", [60, 100, 300])
def test_leave_one_out_does_not_leak_the_label_where_features_outnumber_images(n: int) -> None:
    features = np.random.default_rng(n).normal(size=(n, 400)).astype(np.float32)
    labels = np.random.default_rng(n + 1).permutation(np.arange(n) % 2)
    assert LeaveOneOut(features, labels).correct().mean() == pytest.approx(0.5, abs=0.17)


def test_resize_is_the_mean_of_what_a_pixel_covers() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 8, 3)).astype(np.uint8)
    expected = images.reshape(3, 6, 2, 4, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(resize(images, (6, 4)), expected, atol=0.5001)
    third = resize(images, (5, 3))
    assert third.shape == (3, 5, 3, 3)
    assert third.mean() == pytest.approx(images.mean(), abs=0.5)


@given(size=st.integers(4, 40), patch=st.integers(1, 13), channels=st.sampled_from([1, 3]))
@settings(max_examples=40, deadline=None)
def test_patches_are_cut_from_the_image(size: int, patch: int, channels: int) -> None:
    patch = min(patch, size - 1)
    image = (
        np.random.default_rng(0).integers(0, 256, (1, size, size + 3, channels)).astype(np.uint8)
    )
    rows, columns = probes._positions(size, patch), probes._positions(size + 3, patch)
    cut = probes.patches(image, patch)
    assert 2 <= len(rows) <= probes.GRID
    for (i, row), (j, column) in [
        ((0, rows[0]), (0, columns[0])),
        ((len(rows) - 1, rows[-1]), (1, columns[1])),
    ]:
        naive = image[0, row : row + patch, column : column + patch].ravel()
        np.testing.assert_array_equal(cut[0, i * len(columns) + j], naive)


def test_patches_lie_in_the_middle_so_that_a_mirrored_image_is_cut_alike() -> None:
    for room in range(1, 200):
        places = probes._positions(room + 5, 5)
        assert abs(places[0] - (room - places[-1])) <= 1
        assert len(places) <= probes.GRID


@given(st.lists(st.integers(0, 4), min_size=5, max_size=200), st.integers(5, 60))
@settings(deadline=None)
def test_a_stratified_sample_holds_every_class_in_proportion(labels: list[int], most: int) -> None:
    every = np.array(labels)
    chosen = stratified(every, most, np.random.default_rng(0))
    assert len(set(chosen.tolist())) == len(chosen) == min(most, len(every))
    assert set(every[chosen]) == set(every)
    for label in set(labels):
        assert (every[chosen] == label).sum() == pytest.approx(
            (every == label).mean() * len(chosen), abs=5
        )


def test_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(0)
    inside = [share_right(rng.random(100) < 0.9) for _ in range(400)]
    assert np.mean([i.low <= 0.9 <= i.high for i in inside]) > 0.92
    pairs = []
    for _ in range(400):
        before = rng.random(200) < 0.8
        pairs.append(paired_loss(before, before & (rng.random(200) < 0.9)))
    assert np.mean([i.low <= 0.08 <= i.high for i in pairs]) > 0.92


# --- look


def test_input_shape_of_small_images_is_their_own() -> None:
    found = seen(noise(40, 28, 20), two_classes(40))
    assert found.input_shape == found.shape == (28, 20, 1)
    assert "28x20" in found.input_reason


def test_input_shape_shrinks_where_blobs_tell_and_not_where_detail_does() -> None:
    labels = two_classes(160)
    blobs = noise(160, 64, 64) + 60 * labels[:, None, None]
    assert seen(blobs, labels).input_shape == (32, 32, 1)
    checker = 60 * (-1.0) ** np.add.outer(np.arange(64), np.arange(64))
    fine = noise(160, 64, 64) + labels[:, None, None] * checker
    assert seen(fine, labels).input_shape == (64, 64, 1)


def test_input_shape_does_not_trust_a_probe_that_fails() -> None:
    assert seen(noise(160, 64, 64), two_classes(160)).input_shape == (64, 64, 1)


def test_input_shape_keeps_the_aspect_and_64_px_at_most() -> None:
    found = seen(noise(60, 96, 192), two_classes(60))  # no class signal: the probe is not trusted
    assert found.input_shape == (32, 64, 1)
    assert "96x192" in found.input_reason


def test_colourless_rgb_images_are_proposed_as_gray() -> None:
    images = np.repeat(noise(60, 16, 16, 1), 3, axis=-1)
    found = seen(images, two_classes(60))
    assert found.shape == (16, 16, 3)
    assert found.input_shape == (16, 16, 1)
    assert len(found.mean) == 1
    assert "colour_gain" not in names(found)


def test_mean_and_variance_are_those_of_pixels_over_255() -> None:
    images = noise(60, 16, 16, 3) + [0, 30, -30]
    found = seen(images, two_classes(60))
    pixels = part(images, two_classes(60)).pixels / 255
    np.testing.assert_allclose(found.mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(found.variance, pixels.var(axis=(0, 1, 2)), rtol=1e-9)


def test_the_same_seed_gives_the_same_fingerprint_and_plain_json() -> None:
    labels = np.arange(120) % 3
    images = noise(120, 12, 12) + 20 * labels[:, None, None]
    first, second = (to_json(seen(images, labels, seed=3)) for _ in range(2))
    first.pop("seconds"), second.pop("seconds")
    assert json.loads(json.dumps(first, allow_nan=False)) == first == second


def test_every_measure_of_the_table_is_taken_and_explained() -> None:
    labels = np.arange(200) % 4
    images = (
        noise(200, 28, 28, 3)
        + 25 * labels[:, None, None, None] * np.linspace(-1, 1, 28)[None, None, :, None]
    )
    found = seen(images, labels)
    assert {measure.name for measure in found.measures} == {row.name for row in MEASURES} | {
        "class_imbalance"
    }
    for measure in found.measures:
        assert measure.meaning.endswith(".")
        assert any(character.isdigit() for character in measure.meaning)
        assert measure.unit
        if measure.low is not None:
            assert measure.low <= measure.value + 1e-9
            assert measure.value <= measure.high + 1e-9


def test_one_class_leaves_measures_out() -> None:
    alone = seen(noise(40, 16, 16), np.zeros(40, int))
    assert "noise" in names(alone)
    assert "flip_cost" not in names(alone)


def test_class_imbalance_counts_all_images() -> None:
    found = seen(noise(60, 8, 8), np.array([0] * 45 + [1] * 15))
    assert found["class_imbalance"] == 3
    assert dict(found.classes) == {"class 0": 45, "class 1": 15}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6])
def test_tiny_images_do_not_crash(size: int) -> None:
    assert seen(noise(30, size, size), two_classes(30)).input_shape == (size, size, 1)


def test_what_decides_something_is_measured_first() -> None:
    order = [row.name for row in MEASURES]
    deciding = {rule.measure for rule in (*RULES, *RECIPE_RULES)} & set(order)
    assert deciding == set(order[: len(deciding)])
    assert {"resolution_sensitivity", "discriminative_scale"} <= deciding


def test_no_clock_decides_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine where every look at a clock costs an hour, the same facts are found."""
    labels = two_classes(120)
    large = (
        noise(120, 64, 64, 3)
        + 25 * labels[:, None, None, None] * np.linspace(-1, 1, 64)[None, None, :, None]
    )
    quick = look(part(large, labels), ("a", "b"))
    hours = itertools.count(0.0, 3600.0)
    for name in ("perf_counter", "thread_time", "process_time", "monotonic", "time"):
        monkeypatch.setattr(time, name, lambda: next(hours))
        for module in (fingerprint, measures, pixels, probes):
            monkeypatch.setattr(module, name, lambda: next(hours), raising=False)
    slow = look(part(large, labels), ("a", "b"))
    assert slow.seconds >= 3600
    assert replace(slow, seconds=quick.seconds) == quick
    assert names(quick) | {"data_sufficiency"} == {row.name for row in MEASURES} | {
        "class_imbalance"
    }
    assert from_json(Fingerprint, json.loads(json.dumps(to_json(quick)))) == quick


def test_in_a_short_budget_fewer_images_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = []

    class Counting(Probes):
        def __init__(self, pixels: np.ndarray, *rest: object, **how: object) -> None:
            looked_at.append(len(pixels))
            super().__init__(pixels, *rest, **how)

    monkeypatch.setattr(fingerprint, "Probes", Counting)
    images = part(noise(2500, 2, 2), two_classes(2500))  # too small to measure anything
    found = [look(images, ("a", "b"), budget=budget) for budget in (10.0, 75.0, 600.0)]
    assert looked_at == [500, 900, 2000]
    assert [each.images for each in found] == [2500] * 3  # the counts are of all
