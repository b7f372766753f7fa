"""Training: it learns, repeats itself bit by bit, keeps its time, and says why it failed."""

from __future__ import annotations

import math
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from convwise.core.calculus import analyse
from convwise.core.layers import (
    Activation,
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    Dense,
    GlobalAveragePooling2D,
    Normalization,
    Rescaling,
)
from convwise.core.net import Net
from convwise.core.progress import Live
from convwise.core.records import INTERRUPTED, Engine, Recipe, Trial
from convwise.formats import torch as torch_format
from convwise.training import batches, train
from convwise.training.batches import Examples
from convwise.training.runners.local import LocalRunner
from convwise.training.tasks import TASKS
from imagesets import striped
from labs import MadeHost

SIZE = 12
NET = Net(
    (SIZE, SIZE, 1),
    (Rescaling(1 / 255), Normalization((0.5,), (0.05,)), Conv2D(8, 5, padding="same",
    use_bias=False),
     BatchNormalization(), Activation("relu"), GlobalAveragePooling2D(), Dense(2,
     activation="softmax")),
)  # fmt: skip
FP32 = Engine("cpu", "float32")
RECIPE = Recipe(batch_size=32, learning_rate=0.02, shift_px=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Bars, upright or lying, stored as a study stores them."""
    where = tmp_path_factory.mktemp("bars")
    for name, per_class, seed in (("train", 96, 1), ("valid", 40, 2)):
        pixels, labels = striped(2, per_class, SIZE, seed=seed)
        batches.store(where, f"{SIZE}x{SIZE}", name, SimpleNamespace(pixels=pixels, labels=labels))
    return where


def trial(**fields) -> Trial:
    return Trial(
        **{
            "id": "t",
            "phase": "race",
            "configuration": {},
            "net": NET,
            "recipe": RECIPE,
            "epochs": 6,
            **fields,
        }
    )


# --- runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_small_net_learns_bars(folder, dtype, monkeypatch):
    monkeypatch.setattr(train, "CURVE_SHARE", 1.0)
    result, weights = train.train(trial(epochs=10), folder, Engine("cpu", dtype))
    assert result.status == "done"
    assert result.score > 0.9
    assert result.dtype == dtype
    assert len(result.correct) == 80
    assert result.correct.count("1") / 80 == result.score
    total = analyse(NET).total
    assert result.cost == {
        "params": total.params,
        "macs": total.macs,
        "activation_bytes": total.activation_bytes,
    }
    pixels, labels = striped(2, 40, SIZE, seed=2)
    answers = train.answers(NET, weights, pixels)
    assert answers.sum(1) == pytest.approx(np.ones(80), abs=1e-5)
    agree = (answers.argmax(1) == labels) == np.array([c == "1" for c in result.correct])
    assert agree.mean() >= (1.0 if dtype == "float32" else 0.97)
    points = [point.images for point in result.history]
    assert points == sorted(points)
    assert 6 <= len(points) <= train.CURVE_POINTS + 1
    assert result.history[-2].loss < result.history[0].loss
    assert result.images_per_second == pytest.approx(points[-1] / result.seconds)


def test_nothing_is_learnt_from_shuffled_labels(folder, tmp_path):
    pixels, labels = striped(2, 96, SIZE, seed=1)
    labels = np.random.default_rng(0).permutation(labels)
    batches.store(
        tmp_path, f"{SIZE}x{SIZE}", "train", SimpleNamespace(pixels=pixels, labels=labels)
    )
    pixels, labels = striped(2, 200, SIZE, seed=2)
    batches.store(
        tmp_path, f"{SIZE}x{SIZE}", "valid", SimpleNamespace(pixels=pixels, labels=labels)
    )
    result, _ = train.train(trial(), tmp_path, FP32)
    assert result.score < 0.75


def test_boxes_are_paid_for_in_both_labels_until_the_last_part_of_the_schedule(folder, monkeypatch):
    """What is mixed counts by its share; in the last part of the schedule images are whole."""
    seen, asked = [], TASKS["classify"].loss

    def loss(logits, labels, recipe):
        seen.append(labels)
        return asked(logits, labels, recipe)

    monkeypatch.setitem(TASKS, "classify", replace(TASKS["classify"], loss=loss))
    steps = 192 // 32
    result, _ = train.train(trial(recipe=replace(RECIPE, cutmix=1.0), epochs=10), folder, FP32)
    mixed = len(seen) - 10 * steps
    assert mixed == pytest.approx(train.BOXED_UNTIL * 10 * steps, abs=2)
    assert sorted(seen[0].tolist()) == sorted(seen[1].tolist())
    assert seen[0].tolist() != seen[1].tolist()
    assert result.score > 0.9
    seen.clear()
    train.train(trial(recipe=replace(RECIPE, cutmix=1.0), epochs=1, span=(0.9, 1.0)), folder, FP32)
    assert len(seen) == steps + 1  # the one that finds the end


def test_counted_runs_are_the_same_to_the_last_bit(folder):
    recipe = replace(RECIPE, flip=True, class_weights=(0.9, 1.1))
    for dtype in ("float32", "bfloat16"):
        runs = [
            train.train(trial(recipe=recipe, epochs=2, seed=5), folder, Engine("cpu", dtype))
            for _ in range(2)
        ]
        (one, first), (two, second) = runs
        assert (one.score, one.correct) == (two.score, two.correct)
        assert np.array_equal(*([p.loss for p in r.history] for r in (one, two)), equal_nan=True)
        assert first.keys() == second.keys()
        assert all((first[key] == second[key]).all() for key in first)
    other, weights = train.train(trial(recipe=recipe, epochs=2, seed=6), folder, FP32)
    assert any((weights[key] != first[key]).any() for key in first)


def test_counted_epochs_are_counted(folder):
    result, _ = train.train(trial(epochs=3), folder, FP32)
    assert result.history[-1].images == 3 * 192


def test_every_point_of_the_curve_has_a_loss(folder):
    result, _ = train.train(trial(epochs=3), folder, FP32)
    assert all(math.isfinite(point.loss) for point in result.history)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1.0, 2.5])
def test_a_timed_run_keeps_its_time(folder, seconds, monkeypatch):
    """By a clock that stands still while other processes have the core."""
    monkeypatch.setattr(
        train, "time", SimpleNamespace(monotonic=time.thread_time, perf_counter=time.perf_counter)
    )
    begun = time.thread_time()
    result, _ = train.train(trial(epochs=None, seconds=seconds), folder, FP32)
    step = 32 / result.images_per_second
    assert seconds <= result.seconds <= 1.2 * seconds + step
    assert time.thread_time() - begun < 1.2 * seconds + 2


class Zero:
    """An average that leaves zeros."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    def step(self, done: float) -> None:
        pass

    def end(self) -> None:
        for parameter in self.model.parameters():
            parameter.detach().zero_()


@pytest.mark.parametrize(
    ("average", "fields"),
    [
        ("RunningAverage", {"recipe": replace(RECIPE, average=True)}),
        ("TailMean", {"span": (0.2, 0.5)}),
    ],
)
def test_what_the_average_leaves_is_scored_and_handed_over(folder, monkeypatch, average, fields):
    monkeypatch.setattr(train, average, Zero)
    result, weights = train.train(trial(**fields, epochs=1), folder, FP32)
    assert not any(
        value.any()
        for key, value in weights.items()
        if not key.rpartition("/")[2].startswith("moving")
    )
    assert result.correct == "1" * 40 + "0" * 40  # the first class for all


def test_a_part_has_statistics_of_its_mean_weights(folder):
    """By numpy, over the training images as they are; those of the part were shifted by a px."""
    _, weights = train.train(trial(span=(0.0, 0.5), epochs=4), folder, FP32)
    model = torch_format.build(NET)
    torch_format.load(model, NET, weights)
    seen = []
    model.batchnormalization.register_forward_pre_hook(
        lambda module, given: seen.append(given[0].numpy())
    )
    with torch.no_grad():
        model(torch.from_numpy(striped(2, 96, SIZE, seed=1)[0]).permute(0, 3, 1, 2).float())
    mean, variance = seen[0].mean((0, 2, 3)), seen[0].var((0, 2, 3))
    assert weights["batchnormalization/moving_mean"] == pytest.approx(
        mean, abs=0.1 * float(variance.max()) ** 0.5
    )
    assert weights["batchnormalization/moving_variance"] == pytest.approx(variance, rel=0.25)


@pytest.mark.slow
def test_the_clock_stands_still_while_a_point_of_the_curve_is_measured(folder, monkeypatch):
    """Each of them seems to take a minute here: a timed training is no shorter for it."""
    spent, real = [0.0], train._Asked.outcomes
    clock = SimpleNamespace(
        monotonic=lambda: time.thread_time() + spent[0], perf_counter=time.perf_counter
    )

    def slow(*given):
        spent[0] += 60.0
        return real(*given)

    monkeypatch.setattr(train, "time", clock)
    monkeypatch.setattr(train._Asked, "outcomes", slow)
    result, _ = train.train(trial(epochs=None, seconds=1.0), folder, FP32)
    assert spent[0] >= 60.0 * train.CURVE_POINTS / 2
    assert 1.0 <= result.seconds < 2.0


def test_a_curve_has_fewer_points_where_they_would_take_long(folder, monkeypatch):
    """Its points together ask three images for 48 that are trained on, at most."""
    monkeypatch.setattr(train, "CURVE_SHARE", 1 / 48)
    result, _ = train.train(trial(epochs=20), folder, FP32)
    points = [point.images for point in result.history[:-1]]
    assert 0 < len(points) < train.CURVE_POINTS - 1
    valid = len(result.correct)
    for number, images in enumerate(points, 1):
        assert number * valid <= images / 16
    assert train.curve_images(valid, 16 * valid) == valid
    assert train.curve_images(10_000) == train.CURVE_POINTS * train.CURVE_IMAGES


class Member:
    """A line, and a team of two of which the other one is not there: the mean is one's own."""

    ending, size = False, 2

    def __init__(self, rank: int) -> None:
        self.rank, self.team, self.said = rank, self, []

    def tell(self, live: Live) -> None:
        pass

    def mean(self, values: np.ndarray) -> np.ndarray:
        self.said.append(values.copy())
        return values


def test_members_of_a_team_begin_alike_and_learn_from_other_images(folder):
    """Else two of them would learn no more than one."""
    members = [Member(0), Member(1), Member(0)]
    for member in members:
        train.train(trial(epochs=1), folder, FP32, line=member)
    # What each said after how far it is: its gradients
    first, second, again = (member.said[0][3:] for member in members)
    assert (first == again).all()
    assert not np.allclose(first, second)
    assert np.corrcoef(first, second)[0, 1] > 0.2  # of one net


class Listener:
    """A line on which a training is asked to end after `words` words of it."""

    team = None

    def __init__(self, words: float) -> None:
        self.words, self.heard = words, []

    @property
    def ending(self) -> bool:
        return len(self.heard) >= self.words

    def tell(self, live: Live) -> None:
        self.heard.append(live)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "span"), [("train", (0.0, 1.0)), ("all", (0.2, 1.0)), ("train", (0.0, 0.1))]
)
def test_asked_to_end_a_training_cools_down_and_gives_what_it_has(folder, monkeypatch, part, span):
    monkeypatch.setattr(train, "TELLING_SECONDS", 0.2)
    line, begun = Listener(6), time.monotonic()
    result, weights = train.train(
        trial(part=part, span=span, epochs=None, seconds=300.0), folder, FP32, line=line
    )
    assert time.monotonic() - begun < 60
    assert (result.status, result.reason) == ("done", INTERRUPTED)
    # Its rate has come down: nothing is left of its schedule
    assert result.trial.span == (span[0], 1.0)
    assert result.mirrored == ""
    pixels, labels = striped(2, 40, SIZE, seed=2)
    assert (train.answers(NET, weights, pixels).argmax(1) == labels).mean() > 0.8


def test_on_its_way_it_tells_how_far_it_is(folder, monkeypatch):
    monkeypatch.setattr(train, "TELLING_SECONDS", 0.0)
    line = Listener(math.inf)
    result, _ = train.train(trial(epochs=10), folder, FP32, line=line)
    assert [live.done for live in line.heard] == sorted(live.done for live in line.heard)
    assert line.heard[-1].epochs == pytest.approx(10, abs=0.5)
    answered = [live.accuracy for live in line.heard if live.accuracy is not None]
    assert np.mean(answered[:6]) < np.mean(answered[-6:])
    assert abs(np.mean(answered[-12:]) - result.score) < 0.2
    assert line.heard[-1].images_per_second > 0


def test_part_all_trains_on_both_parts_and_has_no_score(folder):
    result, _ = train.train(trial(part="all", epochs=2), folder, FP32)
    assert result.score is None
    assert result.correct == ""
    assert result.history[-1].images > 2 * (192 + 80) - 2 * 32
    assert all(point.accuracy is None for point in result.history)


def test_a_set_smaller_than_a_batch_is_trained_on(tmp_path):
    for name in ("train", "valid"):
        pixels, labels = striped(2, 3, SIZE)
        batches.store(
            tmp_path, f"{SIZE}x{SIZE}", name, SimpleNamespace(pixels=pixels, labels=labels)
        )
    result, _ = train.train(trial(epochs=4), tmp_path, FP32)
    assert 18 <= result.history[-1].images <= 24


def wild(**fields) -> Trial:
    """A run that explodes: without normalisation, with which even such a rate leaves finite
    numbers.
    """
    conv = Conv2D(4, 3, activation="relu")
    body = (Rescaling(1 / 255), conv, GlobalAveragePooling2D(), Dense(2, activation="softmax"))
    return trial(
        id="wild",
        net=Net((SIZE, SIZE, 1), body),
        recipe=replace(RECIPE, learning_rate=1e30),
        **fields,
    )


@pytest.mark.parametrize("limit", [{"epochs": 3}, {"epochs": None, "seconds": 1.0}])
def test_a_loss_that_is_no_number_is_an_error(folder, limit):
    with pytest.raises(train.TrainingFailed, match="not a number"):
        train.train(wild(**limit), folder, FP32)


@pytest.mark.slow
def test_a_loss_that_is_no_number_is_a_failed_result_and_its_worker_goes_on(folder):
    with closing(
        LocalRunner(partial(train.run, folder, FP32, "classify"), MadeHost(), 1)
    ) as runner:
        broken, good = runner.run([wild(), trial(id="good", epochs=10)])
    assert (broken.status, broken.score, broken.correct) == ("failed", None, "")
    assert "the loss is not a number" in broken.reason
    assert not train.weights_path(folder, "wild").exists()
    assert good.score > 0.9
    here, weights = train.train(trial(id="good", epochs=10), folder, FP32)
    kept = train.load_weights(folder, "good")
    assert here.correct == good.correct  # a worker does what this process does, to the last bit
    assert all((kept[key] == weights[key]).all() for key in weights)


def test_infinite_weights_fail(folder):
    _, weights = train.train(trial(epochs=1), folder, FP32)
    broken = {key: np.full_like(value, np.inf) for key, value in weights.items()}
    with pytest.raises(train.TrainingFailed):
        train.train(trial(epochs=1), folder, FP32, initial=broken)


def test_resumes_goes_on_from_the_weights_that_were_kept(folder):
    first = train.run(folder, FP32, "classify", trial(id="first", epochs=10))
    assert first.score > 0.9
    still = replace(RECIPE, learning_rate=0.0, weight_decay=0.0)
    kept = train.load_weights(folder, "first")
    _, weights = train.train(trial(recipe=still, epochs=1), folder, FP32, initial=kept)
    for key, value in kept.items():
        if not key.rpartition("/")[2].startswith("moving"):
            assert (weights[key] == value).all(), key
    resumed = train.run(
        folder, FP32, "classify", trial(id="second", resumes="first", recipe=still, epochs=1)
    )
    fresh = train.run(folder, FP32, "classify", trial(id="third", recipe=still, epochs=1))
    assert resumed.score > 0.85 > fresh.score


def test_weights_of_other_shapes_are_refused(folder):
    _, weights = train.train(trial(epochs=1), folder, FP32)
    other = NET.edit("conv2d", filters=9)
    with pytest.raises(Exception, match="conv2d"):
        train.train(trial(net=other, epochs=1), folder, FP32, initial=weights)


def test_validation_images_do_not_move_the_weights(folder, tmp_path):
    """The batch statistics come from training alone: other validation images, the same weights."""
    for name, seed in (("train", 1), ("valid", 2)):
        pixels, labels = striped(2, 96 if name == "train" else 40, SIZE, seed=seed)
        pixels = pixels if name == "train" else 255 - pixels
        batches.store(
            tmp_path, f"{SIZE}x{SIZE}", name, SimpleNamespace(pixels=pixels, labels=labels)
        )
    one, two = (train.train(trial(epochs=2), where, FP32)[1] for where in (folder, tmp_path))
    assert all((one[key] == two[key]).all() for key in one)


# --- the schedule --------------------------------------------------------------------------------


def test_one_cycle_rises_then_falls_to_nothing():
    at = [train.one_cycle(i / 1000) for i in range(1001)]
    top = int(np.argmax(at))
    assert at[0] == pytest.approx(0.1)
    assert top / 1000 == pytest.approx(train.WARM_UP, abs=0.002)
    assert max(at) == pytest.approx(1.0, abs=0.01)
    assert (np.diff(at[: top + 1]) > 0).all()
    assert (np.diff(at[top:]) < 0).all()
    assert at[-1] == pytest.approx(0, abs=1e-9)
    assert np.abs(np.diff(at)).max() < 0.01  # no jump
    half = train.WARM_UP + (1 - train.WARM_UP) / 2
    assert train.one_cycle(half) == pytest.approx(0.5)


def test_falling_is_a_line_to_nothing():
    assert [train.falling(done) for done in (0.0, 0.25, 1.0)] == pytest.approx([1.0, 0.75, 0.0])


def rates(
    folder, monkeypatch, span: tuple[float, float], recipe: Recipe = RECIPE, epochs: int = 1
) -> list[float]:
    """The learning rate of each step of a run, as a share of its peak."""
    seen: list[float] = []
    real = train._set_rate
    monkeypatch.setattr(
        train, "_set_rate", lambda movers, share: (seen.append(share), real(movers, share))
    )
    train.train(trial(span=span, recipe=recipe, epochs=epochs), folder, FP32)
    monkeypatch.setattr(train, "_set_rate", real)
    return seen


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_parts_have_the_rate_of_one_whole(folder, monkeypatch, optimizer):
    """Two epochs in one run, and one epoch of each half of the schedule: step by step the same
    rate.
    """
    recipe = replace(RECIPE, optimizer=optimizer)
    whole = rates(folder, monkeypatch, (0.0, 1.0), recipe, epochs=2)
    halves = [
        rate
        for span in ((0.0, 0.5), (0.5, 1.0))
        for rate in rates(folder, monkeypatch, span, recipe)
    ]
    # The last step of a run is not taken
    assert len(halves) == len(whole) - 1 or len(halves) == len(whole)
    first = halves[: len(whole) // 2]
    assert first == pytest.approx(whole[: len(first)])
    assert halves[-1] == pytest.approx(whole[-1], abs=1e-6)
    middle = train.falling(0.5) if optimizer == "muon" else train.one_cycle(0.5)
    assert rates(folder, monkeypatch, (0.5, 1.0), recipe)[0] == pytest.approx(middle, abs=0.02)


def test_a_part_of_a_run_is_one_point_of_its_curve(folder):
    part, _ = train.train(trial(span=(0.2, 0.5)), folder, FP32)
    assert len(part.history) == 1
    assert part.history[0].accuracy == part.score


def test_a_part_of_a_run_is_judged_by_some_images_the_whole_run_by_all(folder, monkeypatch):
    """Every third of 80: both classes stand one after the other."""
    monkeypatch.setattr(train, "SEGMENT_IMAGES", 30)
    part, weights = train.train(trial(span=(0.0, 0.5), epochs=4), folder, FP32)
    whole, _ = train.train(trial(epochs=4), folder, FP32)
    assert (len(part.correct), len(whole.correct)) == (27, 80)
    pixels, labels = (each[::3] for each in striped(2, 40, SIZE, seed=2))
    right = train.answers(NET, weights, pixels).argmax(1) == labels
    assert part.correct == "".join("01"[int(each)] for each in right)
    assert part.score == pytest.approx(right.mean())


def test_answers_to_mirrored_images_are_kept_where_none_were_trained_on(folder):
    """A lying bar mirrored is a lying bar: as many right as of the images themselves, about."""
    plain, weights = train.train(trial(epochs=10), folder, FP32)
    assert len(plain.mirrored) == 160
    assert plain.mirrored[:80] == plain.correct
    pixels, labels = striped(2, 40, SIZE, seed=2)
    found = train.answers(NET, weights, pixels[:, :, ::-1]).argmax(1) == labels
    assert plain.mirrored[80:] == "".join("01"[int(right)] for right in found)
    assert (
        train.train(trial(recipe=replace(RECIPE, flip=True), epochs=1), folder, FP32)[0].mirrored
        == ""
    )


def test_many_images_to_validate_on_do_not_keep_it_from_being_asked(tmp_path, monkeypatch):
    """Found on 60,000 images: no part of a training is twice as long as their validation part, and
    none was asked.
    """
    monkeypatch.setattr(train, "MIRRORED_IMAGES", 50)
    for name, per_class, seed in (("train", 96, 1), ("valid", 200, 2)):
        pixels, labels = striped(2, per_class, SIZE, seed=seed)
        batches.store(
            tmp_path, f"{SIZE}x{SIZE}", name, SimpleNamespace(pixels=pixels, labels=labels)
        )
    # 192 images, where 400 are validated on
    found, _ = train.train(trial(epochs=1), tmp_path, FP32)
    assert [len(view) for view in found.views] == [50, 50]


# --- augmentation, against loops -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "size", "count"), [(64, 32, 2), (70, 32, 2), (31, 32, 1), (32, 32, 1)]
)
def test_an_epoch_sees_each_image_once(n, size, count):
    pixels = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 2, 2, 1).contiguous()
    examples = Examples(pixels, torch.arange(n))
    stream = batches.batches(
        examples, Recipe(batch_size=size, shift_px=0), torch.Generator().manual_seed(1)
    )
    found = list(islice(stream, 2 * count))
    first, second = (
        torch.cat([y for _, y in epoch]).tolist() for epoch in (found[:count], found[count:])
    )
    for seen in (first, second):
        assert len(set(seen)) == len(seen) == count * min(n, size)
        assert seen != sorted(seen)
    assert first != second
    for x, y in found:
        assert x.shape[1:] == (1, 2, 2)
        assert x.dtype == torch.float32
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert (x[:, 0, 0, 0] == y).all()  # images keep their labels
    assert [len(y) for _, y in batches.in_order(examples, 30)] == [
        len(c) for c in torch.arange(n).split(30)
    ]


def test_over_two_epochs_every_image_is_seen_once_each_way():
    """Images that are not their own mirror image, without shifts: what comes is one or the
    other.
    """
    pixels = torch.randint(0, 256, (40, 3, 4, 1), generator=torch.Generator().manual_seed(1)).to(
        torch.uint8
    )
    examples = Examples(pixels, torch.arange(40))
    stream = batches.batches(
        examples, Recipe(batch_size=8, shift_px=0, flip=True), torch.Generator().manual_seed(0)
    )
    seen: dict[int, list[bool]] = {i: [] for i in range(40)}
    for _ in range(4 * 5):
        x, y = next(stream)
        for image, label in zip(x, y.tolist(), strict=True):
            as_is, mirrored = (
                torch.equal(image[0], p[..., 0].float())
                for p in (pixels[label], pixels[label].flip(1))
            )
            assert as_is != mirrored
            seen[label].append(mirrored)
    assert all(
        len(turns) == 4 and turns[0] != turns[1] and turns[:2] == turns[2:]
        for turns in seen.values()
    )
    # Half of them in the first epoch, about
    assert 10 < sum(turns[0] for turns in seen.values()) < 30


def test_without_flips_no_image_is_mirrored():
    pixels = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 4, 1).expand(8, 3, 4, 1).contiguous()
    stream = batches.batches(
        Examples(pixels, torch.arange(8)), Recipe(8, shift_px=0), torch.Generator()
    )
    for _ in range(3):
        assert (next(stream)[0] == pixels[0].permute(2, 0, 1).float()).all()


def test_stored_parts_come_back_one_after_the_other(tmp_path):
    parts = {name: SimpleNamespace(pixels=np.full((k, 4, 6, 3), k, np.uint8), labels=np.full(k,
             k)) for name, k in (("train", 3), ("valid", 2))}  # noqa: E501  # fmt: skip
    assert not batches.is_stored(tmp_path, "4x6", "train")
    for name, part in parts.items():
        batches.store(tmp_path, "4x6", name, part)
    assert batches.is_stored(tmp_path, "4x6", "valid")
    both = batches.load(tmp_path, "4x6", ("train", "valid"))
    assert both.labels.tolist() == [3, 3, 3, 2, 2]
    assert both.pixels[:, 0, 0, 0].tolist() == [3, 3, 3, 2, 2]
    assert len(both) == 5


def many(folder: Path, monkeypatch) -> tuple[Examples, Examples]:
    """The same images to train on, in memory and streamed from the disk."""
    rng = np.random.default_rng(5)
    for name, n in (("train", 30), ("valid", 11)):
        smooth, rough = (
            SimpleNamespace(pixels=rng.integers(0, 256, (n, 4, 6, 3), np.uint8)) for _ in range(2)
        )
        smooth.labels = rng.integers(0, 3, n)
        batches.store(folder, "4x6", name, smooth, rough)
    held = batches.load(folder, "4x6", ("train", "valid"), training=True)
    monkeypatch.setattr(batches, "RESIDENT", 0)
    return held, batches.load(folder, "4x6", ("train", "valid"), training=True)


@pytest.mark.parametrize("flip", [False, True])
def test_many_images_are_streamed_from_the_disk_in_the_same_batches(flip, tmp_path, monkeypatch):
    held, streamed = many(tmp_path, monkeypatch)
    assert isinstance(streamed.pixels, batches.Mapped)
    assert streamed.pixels.shape == held.pixels.shape == (82, 4, 6, 3)
    recipe = Recipe(batch_size=8, shift_px=1, flip=flip)
    two = [
        batches.batches(each, recipe, torch.Generator().manual_seed(0)) for each in (held, streamed)
    ]
    for _ in range(12):
        (x, y), (other_x, other_y) = map(next, two)
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)
        assert other_x.is_contiguous(memory_format=torch.channels_last)
    for (x, _), (other, _) in zip(
        batches.in_order(held, 7), batches.in_order(streamed, 7), strict=True
    ):
        assert torch.equal(x, other)
    assert torch.equal(held.pixels[::5], streamed.pixels[::5])


def test_streamed_images_train_the_same_weights(folder, monkeypatch):
    one, plain = train.train(trial(epochs=1), folder, FP32)
    monkeypatch.setattr(batches, "RESIDENT", 0)
    other, streamed = train.train(trial(epochs=1), folder, FP32)
    assert one.correct == other.correct
    for name, value in plain.items():
        np.testing.assert_array_equal(value, streamed[name])


def shrinking(net: Net, times: int) -> Net:
    """The same net on images so many times as large, which its first layer averages down."""
    rows, columns, channels = net.input_shape
    first = AveragePooling2D(times, name="smaller")
    return Net(
        (times * rows, times * columns, channels),
        (first, replace(net.layers[0], inputs=()), *net.layers[1:]),
    )


def test_images_are_averaged_once_where_the_first_layer_does_that(tmp_path):
    """Oracle: a loop over windows, and the same training on what it gives."""
    large = {}
    for name, per_class, seed in (("train", 40, 1), ("valid", 40, 2)):
        pixels, labels = striped(2, per_class, 2 * SIZE, seed=seed)
        large[name] = SimpleNamespace(pixels=pixels, labels=labels)
        small = np.empty((len(pixels), SIZE, SIZE, 1), np.uint8)
        for image, row, column in np.ndindex(small.shape[:3]):
            window = pixels[image, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].astype(float)
            small[image, row, column] = int(window.mean() + 0.5)
        batches.store(
            tmp_path / "small", f"{SIZE}x{SIZE}", name, SimpleNamespace(pixels=small, labels=labels)
        )
    net = shrinking(NET, 2)
    parts = {
        name: SimpleNamespace(ways=lambda rows, columns, stretched, part=part: (part, None))
        for name, part in large.items()
    }
    batches.Prepared(tmp_path / "large", SimpleNamespace(**parts)).ensure(net)
    one, weights = train.train(trial(), tmp_path / "small", FP32)
    other, same = train.train(trial(net=net), tmp_path / "large", FP32)
    assert other.trial.net == net
    assert one.correct == other.correct
    for name, value in weights.items():
        np.testing.assert_array_equal(value, same[name])
    answers = train.answers(net, same, large["valid"].pixels).argmax(1) == large["valid"].labels
    # But for the rounding
    assert np.mean(answers == [each == "1" for each in other.correct]) > 0.95


def test_an_array_that_is_a_file_already_is_not_written_twice(tmp_path):
    np.save(tmp_path / "whole.npy", np.arange(96, dtype=np.uint8).reshape(4, 4, 6, 1))
    whole = np.load(tmp_path / "whole.npy", mmap_mode="c")
    for name, pixels, linked in (
        ("whole", whole, True),
        ("half", whole[2:], False),
        ("turned", whole[:, ::-1], False),
    ):
        batches.store(
            tmp_path / name,
            "4x6",
            "train",
            SimpleNamespace(pixels=pixels, labels=np.zeros(len(pixels), int)),
        )
        stored = tmp_path / name / "4x6-train-pixels.npy"
        assert stored.samefile(tmp_path / "whole.npy") == linked
        np.testing.assert_array_equal(np.load(stored), pixels)


# --- tasks ---------------------------------------------------------------------------------------


def test_classes_have_a_loss_a_metric_and_a_baseline():
    task, labels = TASKS["classify"], torch.tensor([0, 1, 2, 1])
    right = 20.0 * torch.nn.functional.one_hot(labels, 3).float()
    wrong = right.roll(1, dims=1)
    for recipe in (Recipe(), Recipe(label_smoothing=0.0, class_weights=(1.0, 2.0, 0.5))):
        assert task.loss(right, labels, recipe) < task.loss(wrong, labels, recipe)
    assert task.outcomes(right, labels, NET).tolist() == [True] * 4
    assert not task.outcomes(wrong, labels, NET).any()
    assert task.weighed(right, labels, "accuracy").tolist() == []  # `outcomes` says it
    assert task.weighed(right, labels, "balanced_accuracy").tolist() == pytest.approx(
        [4 / 3, 2 / 3, 4 / 3, 2 / 3]
    )
    assert task.baseline(labels.numpy(), "accuracy", NET) == 0.5
    assert task.better(np.ones(40, bool), np.arange(40) % 4, NET)
    assert not task.better(np.zeros(40, bool), np.arange(40) % 4, NET)


def test_better_than_guessing_is_shown_by_pairs_of_answers():
    """On few images of a small class the interval of the accuracy says nothing, the pairs do."""
    better, labels = TASKS["classify"].better, np.repeat([0, 1], (976, 24))
    right = labels == 0  # what always answering the largest class gets
    assert not better(right, labels, NET)
    found = right.copy()
    found[976:996], found[:2] = True, False  # 20 of the small class, for 2 of the other
    assert better(found, labels, NET)
    for won, lost in ((5, 0), (4, 0), (9, 2), (8, 2), (20, 12)):
        some = right.copy()
        some[976 : 976 + won], some[:lost] = True, False
        assert better(some, labels, NET) == (
            stats.binomtest(won, won + lost, alternative="greater").pvalue < 0.05
        )
    assert not better(np.zeros(0, bool), np.zeros(0, int), NET)


def test_guessing_is_seldom_called_better():
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(400):
        labels = rng.integers(0, 5, 200)
        alarms.append(TASKS["classify"].better(rng.integers(0, 5, 200) == labels, labels, NET))
    assert np.mean(alarms) <= 0.05


def test_the_loss_is_the_weighted_cross_entropy():
    logits, labels, weights = torch.tensor([[1.0, 2.0], [0.5, -1.0]]), [1, 0], (0.5, 1.5)
    found = TASKS["classify"].loss(
        logits, torch.tensor(labels), Recipe(label_smoothing=0.0, class_weights=weights)
    )
    terms = [-math.log(math.exp(row[y]) / sum(math.exp(v) for v in row)) for row,
             y in zip(logits.tolist(), labels, strict=True)]  # noqa: E501  # fmt: skip
    expected = (1.5 * terms[0] + 0.5 * terms[1]) / 2.0
    assert float(found) == pytest.approx(expected, rel=1e-5)
