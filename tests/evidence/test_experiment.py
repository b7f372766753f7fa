"""Edits, tried: what surely helps is found to matter, what changes nothing never does, and failures
are told.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from convwise.core.calculus import analyse
from convwise.core.clock import Clock, parse_duration
from convwise.core.layers import (
    Activation,
    Add,
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Layer,
    MaxPooling2D,
    Normalization,
    Opaque,
    Rescaling,
    Reshape,
)
from convwise.core.net import Net
from convwise.core.problems import ConvwiseError, UnusableInput
from convwise.core.progress import Progress, quiet
from convwise.core.records import Pace, Recipe, Result, Trial
from convwise.evidence import bench, experiment
from convwise.evidence.bench import measure_on
from convwise.evidence.effects import repeated_effect
from convwise.evidence.experiment import TooShort
from convwise.evidence.fitting import Fitted, fitted
from convwise.evidence.records import MOST_SEEDS, Base, Bench, Edit, Found, Memory, Terms
from convwise.images.loading import Images, read
from convwise.training import batches, train
from convwise.training.lab import Lab
from convwise.training.machine import ThisMachine
from imagesets import striped
from labs import MadeHost, Serial
from studies import answers, nth_net

SIZE = 12
RECIPE = Recipe(batch_size=32, learning_rate=0.02, shift_px=1)
FAST = Pace(2e-11, 1e-9, 1e-5)


def stripes(classes: int = 3, per_class: int = 120, channels: int = 1, size: int = SIZE) -> Images:
    pixels, labels = striped(classes, per_class, size, channels)
    return read((pixels, labels), test="none", valid=0.4)


def net(
    *body: Layer,
    units: int = 3,
    shape: tuple[int, int, int] = (SIZE, SIZE, 1),
    last: str = "softmax",
) -> Net:
    return Net(shape, (*body, GlobalAveragePooling2D(), Dense(units, activation=last, name="out")))


SEEING = net(
    Conv2D(8, 5, padding="same", use_bias=False, name="conv"),
    BatchNormalization(),
    Activation("relu"),
)
# One pixel of each 16 is read, by a kernel of one: a direction cannot be seen.
BLIND = SEEING.edit("conv", kernel_size=1, strides=4)


# --- fitting a net to images ---------------------------------------------------------------------

SCALE = ((0.5,), (0.05,))
HEADS: dict[str, tuple[tuple[Layer, ...], int]] = {
    "a Dense": ((GlobalAveragePooling2D(), Dense(1000, activation="softmax")), 1),
    "a Dense, then its activation": ((Flatten(), Dense(1000), Dropout(0.2), Activation("softmax")),
    1),
    "one sigmoid": ((Flatten(), Dense(1, activation="sigmoid")), 2),
    "a convolution, pooled": ((Conv2D(1000, 1, activation="relu"), GlobalAveragePooling2D(),
    Activation("softmax")), 1),
    "a convolution, reshaped": (
        (GlobalAveragePooling2D(keepdims=True), Conv2D(1000, 1), Reshape((1000,)),
        Activation("softmax")), 1
    ),
    "features": ((BatchNormalization(), Activation("relu"), GlobalAveragePooling2D()), 1),
    "features of a larger kernel": ((Conv2D(16, 3), Flatten()), 1),
    "as many as there are classes": ((GlobalAveragePooling2D(), Dense(7, activation="softmax")), 0),
    "the images' own number of logits": ((GlobalAveragePooling2D(), Dense(7)), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_a_head_gets_the_classes(name):
    head, changes = HEADS[name]
    given = Net((8, 8, 1), (Rescaling(1 / 255), Conv2D(4, 3, padding="same", name="first"), *head))
    found = fitted(given, 7, *SCALE)
    assert analyse(found.net).layers[-1].output_shape == (7,)
    assert len(found.notes) == changes
    assert found.net["first"] == given["first"]
    last = [
        layer.activation for layer in found.net.layers if isinstance(layer, (Dense, Activation))
    ]
    assert "sigmoid" not in last
    assert changes or found.net == given


def test_raw_pixels_are_scaled_where_the_net_does_not():
    given = Net((8, 8, 1), (Conv2D(4, 1, name="a"), Conv2D(4, 1, name="b", inputs=("input",)),
                            Add(inputs=("a", "b")), Flatten(), Dense(2)))  # fmt: skip
    found = fitted(given, 2, *SCALE).net
    assert [type(layer) for layer in found.layers[:2]] == [Rescaling, Normalization]
    assert (found.layers[1].mean, found.layers[1].variance) == SCALE
    assert found["a"].inputs == found["b"].inputs == (found.layers[1].name,)
    assert sum("input" in layer.inputs for layer in found.layers) == 1
    for first in (Rescaling(1 / 255), Normalization((100.0,), (9.0,))):
        # Images that are resized are made smaller in the first layer
        for before in ((), (AveragePooling2D(2),)):
            own = Net((8, 8, 1), (*before, first, Flatten(), Dense(2)))
            assert fitted(own, 2, *SCALE) == Fitted(own)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ((Conv2D(4, 3),), "ends in a map"),
        ((Opaque("strange", (8, 8, 4), name="odd"), Flatten(), Dense(2)), "odd"),
    ],
)
def test_what_cannot_be_trained_is_said(body, words):
    with pytest.raises(UnusableInput, match=words):
        fitted(Net((8, 8, 1), body), 2, *SCALE)


# --- the statistics ------------------------------------------------------------------------------


def run(correct: str, seed: int = 0, rate: float = 1e5) -> Result:
    share = correct.count("1") / len(correct)
    return Result(
        Trial("t", "apply", {}, nth_net(1), seed=seed),
        "done",
        share,
        correct,
        images_per_second=rate,
    )


def shifted(correct: str, won: int) -> str:
    old, new = "01" if won > 0 else "10"
    return correct.replace(old, new, abs(won))


def pairs(changes: Sequence[int], n: int = 1000, rates: tuple[float, float] = (100.0, 100.0)):
    base = [answers(0.8, n, seed) for seed in range(len(changes))]
    return [(run(b, s, rates[0]), run(shifted(b, won), s, rates[1]))
            for s, (b, won) in enumerate(zip(base, changes, strict=True))]  # fmt: skip


def test_a_change_under_every_seed_matters_and_is_the_mean():
    effect = repeated_effect("fix", ("a", "b"), pairs([50, 60, 55], rates=(100.0, 50.0)))
    assert effect.accuracy_change == pytest.approx(0.055)
    assert effect.verdict == "matters"
    assert (effect.time_ratio, effect.runs) == (pytest.approx(2.0), 6)


def test_seeds_that_contradict_each_other_resolve_nothing():
    """One seed alone would be sure of it: the pairs' own spread must widen the interval."""
    assert repeated_effect("fix", ("a", "b"), pairs([60])).verdict == "matters"
    assert repeated_effect("fix", ("a", "b"), pairs([60, -20, 50])).verdict == "not resolved"


def test_the_interval_holds_what_it_says():
    """Made-up nets of one true accuracy, whose trainings spread by 5 points: about 5 % of intervals
    miss the zero.
    """
    rng, missed, runs = np.random.default_rng(0), 0, 200
    for _ in range(runs):
        made = []
        for seed in range(3):
            both = [rng.random(300) < 0.8 + rng.normal(0, 0.05) for _ in range(2)]
            made.append(tuple(run("".join("01"[int(c)] for c in each), seed) for each in both))
        effect = repeated_effect("fix", ("a", "b"), made)
        missed += effect.low > 0 or effect.high < 0
    assert missed / runs < 0.09  # 12 % with the normal distribution's quantile


# --- an experiment on a bench of its own ---------------------------------------------------------


def edits_of(*pairs: tuple[str, Net]) -> list[Edit]:
    return [Edit(label, edited) for label, edited in pairs]


def lab_of(runner, seconds: float, watcher=quiet, **host) -> Lab:
    """A lab whose budget begins now, by the runner's own clock where it has one."""
    now = getattr(runner, "now", time.monotonic)
    return Lab(MadeHost(**host), Clock(seconds, now(), now), watcher, runner)


def tried(runner, given: Net, edits: Sequence[tuple[str, Net]], images: Images,
          seconds: float = 12.0, record=None, watcher=quiet, host=(),
          **terms) -> Found:  # fmt: skip
    asked, lab = (
        Terms(**{"seeds": 1, "name": "apply", **terms}),
        lab_of(runner, seconds, watcher, **dict(host)),
    )
    return measure_on(images, Base(given, RECIPE), edits_of(*edits), asked, lab, record)


@pytest.mark.slow
def test_an_edit_that_opens_the_eyes_matters_and_a_failing_one_costs_only_itself():
    told: list[Progress] = []
    broken = SEEING.edit("conv", kernel_size=99, padding="valid")
    given = [("no shape", broken), ("sees", SEEING)]
    found = tried(
        Serial(), BLIND, given, stripes(), 60.0, watcher=told.append, most_seconds=2.0, most_seeds=1
    )
    bad, good = found.measured
    assert bad.effect is None
    assert "not measured: the edited network cannot be trained" in str(bad)
    assert good.effect.verdict == "matters"
    assert good.effect.low > 0.2
    assert good.effect.seconds == found.seconds >= 2
    assert found.accuracy < 0.6
    assert str(good).startswith(f"measured: {100 * good.effect.accuracy_change:+.1f} points (")
    assert f"after {found.seconds:g} s of training, matters" in str(good)
    assert [p.done for p in told[1:]] == list(range(told[1].planned + 1))
    assert "each answer takes about" in told[1].note
    assert any("no scaling of its own" in note for note in found.notes)


class Counted(Serial):
    """It trains some epochs, whatever the time, while the clock stands still: the same training,
    the same answers.
    """

    def now(self) -> float:
        return 0.0

    def result(self, trial: Trial) -> Result:
        return replace(super().result(replace(trial, seconds=None, epochs=2)), trial=trial)


def test_an_edit_that_changes_nothing_changes_no_answer():
    """What a pair shares leaves nothing to chance: weights to begin with, images, their order, the
    recipe.
    """
    terms = {"seeds": 3, "most_seeds": 3}
    same, other = tried(
        Counted(), SEEING, [("nothing", SEEING), ("less", BLIND)], stripes(), 60.0, **terms
    ).measured
    assert (same.effect.runs, same.effect.accuracy_change, same.effect.p) == (6, 0.0, 1.0)
    assert same.effect.verdict != "matters"
    assert other.effect.accuracy_change < 0


class Recorded:
    """A runner that trains nothing: it keeps the trials, answers as it is told, and lets the clock
    go on.
    """

    trials: list[Trial]

    def __init__(self, answer=lambda trial: replace(run("01" * 72), trial=trial)) -> None:
        self.answer, self.trials, self.clock = answer, [], [1000.0]

    def now(self) -> float:
        return self.clock[0]

    def __call__(self, work, host, workers):
        self.folder, self.workers = work.args[0], workers
        return self

    def run(self, trials):
        self.stored = {p.name: np.load(p) for p in self.folder.glob("*.npy")}
        for trial in trials:
            self.trials += [trial] if trial.phase == "apply" else []
            result = self.answer(trial)
            self.clock[0] += (trial.seconds or 0.0) + train.OVERHEAD_SECONDS
            yield result

    def close(self) -> None:
        self.closed = True


def test_pairs_share_their_seed_and_the_time_is_equal():
    runner = Recorded()
    tried(
        runner,
        BLIND,
        [("a", SEEING), ("b", SEEING.edit("conv", filters=4))],
        stripes(),
        seconds=90.0,
        seeds=3,
        seed=7,
    )
    seeds = {(t.net.id, t.seed) for t in runner.trials}
    assert len(runner.trials) == len(seeds) == 9
    assert {seed for _, seed in seeds} == {7000, 7001, 7002}
    assert len({t.seconds for t in runner.trials}) == 1
    assert 5 < runner.trials[0].seconds < 10
    assert {t.recipe for t in runner.trials} == {RECIPE}
    # Whole pairs first
    assert [t.seed for t in runner.trials] == sorted(t.seed for t in runner.trials)
    assert runner.closed


class Waves(Recorded):
    """It keeps how many train side by side as well."""

    waves: list[int]

    def run(self, trials):
        self.waves = [*getattr(self, "waves", ()), len(trials)]
        return super().run(trials)


@pytest.mark.parametrize(("workers", "edits"), [(2, 2), (4, 1), (8, 2), (8, 1)])
def test_no_training_has_more_of_the_machine_than_another(workers, edits):
    """The last ones have nobody beside them unless further seeds are trained there: they would see
    more images.
    """
    runner = Waves()
    terms = {"seeds": 3, "most_seeds": 3, "most_seconds": 5.0, "host": {"workers": workers}}
    found = tried(runner, SEEING, MANY[:edits], stripes(), seconds=100.0, **terms)
    assert set(runner.waves) == {workers}
    assert all(measured.effect.runs >= 6 for measured in found.measured)
    trained = {(t.net.id, t.seed) for t in runner.trials}
    assert len(trained) == len(runner.trials)


@pytest.mark.parametrize(("channels", "reads"), [(1, 3), (3, 1), (3, 3)])
def test_images_are_brought_to_the_nets_channels_size_and_classes(channels, reads):
    runner, images = Recorded(), stripes(channels=channels)
    given = net(Conv2D(8, 5, name="conv"), units=1000, shape=(20, 16, reads))
    found = tried(runner, given, [("wider", given.edit("conv", filters=9))], images)
    assert runner.stored["20x16-train-pixels.npy"].shape == (len(images.train), 20, 16, reads)
    assert {t.net.input_shape for t in runner.trials} == {(20, 16, reads)}
    assert {t.net["out"].units for t in runner.trials} == {3}
    assert "out has 3 outputs instead of 1000: one for each class" in found.notes


def test_nets_are_scaled_as_the_training_images_are():
    """Those to validate on are white here, and say nothing."""
    images = stripes()
    white = replace(images.valid, pixels=np.full_like(images.valid.pixels, 255))
    runner = Recorded()
    tried(runner, SEEING, [("fewer", SEEING.edit("conv", filters=4))], replace(images, valid=white))
    (layer,) = {
        layer for t in runner.trials for layer in t.net.layers if isinstance(layer, Normalization)
    }
    assert layer.mean == pytest.approx((images.train.pixels.mean() / 255,), abs=0.01)


def test_an_edit_may_read_another_size():
    runner = Recorded()
    tried(runner, SEEING, [("smaller", Net((8, 8, 1), SEEING.layers))], stripes())
    assert {"12x12-valid-pixels.npy", "8x8-valid-pixels.npy"} <= set(runner.stored)
    (refused,) = tried(
        runner, SEEING, [("colour", Net((12, 12, 3), SEEING.layers))], stripes()
    ).measured
    assert "reads 3 channels" in str(refused)


def test_an_edit_may_be_of_the_recipe_alone():
    runner, flipped = Recorded(), replace(RECIPE, flip=True)
    terms, edit = Terms(seeds=1, name="apply"), Edit("training.flip", SEEING, False, True, flipped)
    measure_on(stripes(), Base(SEEING, RECIPE), [edit], terms, lab_of(runner, 12.0))
    assert [t.recipe for t in runner.trials] == [RECIPE, flipped]
    assert len({t.id for t in runner.trials}) == 2


def test_large_nets_get_smaller_batches_and_fewer_images(monkeypatch):
    runner, images = Recorded(), stripes()
    monkeypatch.setattr(bench, "MOST_BYTES", 100 * SIZE * SIZE)
    monkeypatch.setattr(
        bench, "STEP_BYTES", 2 * 9 * analyse(fitted(SEEING, 3, *SCALE).net).total.activation_bytes
    )
    tried(runner, SEEING, [("fewer", SEEING.edit("conv", filters=4))], images)
    assert runner.stored[f"{SIZE}x{SIZE}-train-labels.npy"].shape == (100,)
    recipe = runner.trials[0].recipe
    assert recipe.batch_size == 8
    assert recipe.learning_rate == pytest.approx(RECIPE.learning_rate / 2)


# --- what a budget has room for ------------------------------------------------------------------

MANY = [(f"filters {n}", SEEING.edit("conv", filters=n)) for n in range(1, 8)]


def test_what_the_budget_does_not_afford_is_left_out_and_said_with_a_budget_that_does():
    runner = Recorded()
    found = tried(runner, SEEING, MANY, stripes(), seconds=10.0)
    left_out = [m.edit.parameter for m in found.measured if m.effect is None]
    assert [m.edit.parameter for m in found.measured] == [label for label, _ in MANY]
    assert 0 < len(left_out) < len(MANY)
    assert left_out == [label for label, _ in MANY][-len(left_out) :]
    assert len(runner.trials) == 1 + len(MANY) - len(left_out)
    assert str(found.measured[-1]) == "not measured: there was no time for it"
    (said,) = [
        note
        for note in found.notes
        if note.startswith(f"not enough time for {len(left_out)} of {len(MANY)}")
    ]
    assert said.endswith(" would test all")
    again = tried(
        runner,
        SEEING,
        MANY,
        stripes(),
        seconds=parse_duration(said.split("--budget ")[1].split()[0]),
    )
    assert all(m.effect for m in again.measured)


def test_few_seeds_before_few_edits():
    runner = Recorded()
    found = tried(runner, SEEING, MANY, stripes(), seconds=60.0, seeds=3)
    assert all(m.effect for m in found.measured)
    assert {trial.seed for trial in runner.trials[:16]} == {0, 1}  # two seeds instead of three
    # The rest of the time is for one more seed of the first ones, whatever was found.
    assert {trial.seed for trial in runner.trials[16:]} == {2}
    changed = [trial.net.id for trial in runner.trials[16:] if trial.net != SEEING]
    assert (
        changed == [trial.net.id for trial in runner.trials if trial.net != SEEING][: len(changed)]
    )


def test_a_budget_too_short_for_one_answer_says_what_it_costs_and_what_to_type():
    slow = lambda trial: replace(run("01" * 72), trial=trial, images_per_second=20.0)  # noqa: E731
    runner = Recorded(slow)
    with pytest.raises(
        TooShort, match=r"one answer takes about \d+ s of training on this machine"
    ) as refused:
        tried(runner, SEEING, MANY, stripes(), seconds=20.0, seeds=3)
    assert runner.trials == []
    flag, budget = refused.value.problem.fix.split()
    assert flag == "--budget"
    found = tried(runner, SEEING, MANY, stripes(), seconds=parse_duration(budget), seeds=3)
    assert found.measured[0].effect


def test_a_hopeless_budget_is_refused_before_any_training():
    started = []
    runner = Recorded(lambda trial: started.append(trial))
    with pytest.raises(TooShort, match="--budget"):
        tried(runner, SEEING, MANY, stripes(), host={"pace": Pace(1.0, 1.0, 1.0)})
    assert started == []


def test_trainings_that_take_longer_than_planned_do_not_break_the_budget():
    def answer(trial: Trial) -> Result:
        runner.clock[0] += 2 * (trial.seconds or 0.0)
        return replace(run("01" * 72), trial=trial)

    runner = Recorded(answer)
    begun = runner.clock[0]
    found = tried(runner, SEEING, MANY, stripes(), seconds=100.0)
    assert runner.clock[0] - begun <= 100.0
    assert any("longer than planned" in note for note in found.notes)
    assert found.measured[0].effect


def test_time_that_is_left_goes_into_what_was_left_out_and_then_into_seeds():
    def answer(trial: Trial) -> Result:
        runner.clock[0] -= trial.seconds or 0.0  # faster than planned
        return replace(run("01" * 72), trial=trial)

    runner = Recorded(answer)
    found = tried(runner, SEEING, MANY, stripes(), seconds=12.0)
    assert all(m.effect for m in found.measured)
    assert found.measured[0].effect.runs > 2
    assert not any("not enough time" in note for note in found.notes)


def test_a_dear_edit_takes_no_validation_images_from_the_others():
    """As many as the network as it is is scored on in time, whatever else could be asked."""

    def scored(*edits: tuple[str, Net]) -> list[str]:
        found = tried(Recorded(), SEEING, edits, stripes(), seconds=60.0)
        return [note for note in found.notes if "validation images" in note]

    dear = SEEING.edit("conv", filters=20_000)
    alone = scored(("a", MANY[0][1]))
    assert alone[0].endswith("144 validation images")
    assert scored(("a", MANY[0][1]), ("dear", dear))[0].endswith("144 validation images")


def test_no_training_is_longer_than_it_may_be_and_the_rest_goes_into_seeds():
    runner = Recorded()
    tried(runner, SEEING, MANY[:1], stripes(), seconds=200.0, seeds=3, most_seconds=5.0)
    assert {t.seconds for t in runner.trials} == {5.0}
    assert len(runner.trials) == 2 * MOST_SEEDS


def test_more_edits_than_can_be_looked_at_do_not_eat_the_time(monkeypatch):
    runner, prepare = Recorded(), bench._prepared

    def slow(*how):
        runner.clock[0] += 3.0
        return prepare(*how)

    monkeypatch.setattr(bench, "_prepared", slow)
    found = tried(runner, SEEING, MANY, stripes(), seconds=100.0)
    assert found.measured[0].effect
    assert found.measured[-1].effect is None
    assert any("changes: use --parameter" in note for note in found.notes)


# --- what goes wrong -----------------------------------------------------------------------------


def test_an_interrupt_gives_what_there_is():
    def answer(trial: Trial) -> Result:
        if trial.id.startswith("apply-02"):
            raise KeyboardInterrupt
        return replace(run("1" * 72 + "01" * 36), trial=trial)

    runner = Recorded(answer)
    found = tried(runner, BLIND, [("a", SEEING), ("b", SEEING)], stripes(), seconds=60.0, seeds=3)
    one, two = found.measured
    assert found.interrupted
    assert one.effect.runs == 2
    assert two.effect is None
    assert any("interrupted" in note for note in found.notes)


def test_an_interrupt_before_the_first_training_is_no_answer_and_no_error():
    def answer(trial: Trial) -> Result:
        raise KeyboardInterrupt

    runner = Recorded(answer)
    found = tried(runner, BLIND, [("a", SEEING)], stripes())
    assert (found.interrupted, found.effects) == (True, ())


def test_failed_trainings_are_told():
    def answer(trial: Trial) -> Result:
        worse = (trial.id[:8], trial.seed) in (("apply-01", 1), ("apply-00", 2))
        return (
            Result(trial, "failed", reason="out of memory")
            if worse
            else replace(run("01" * 72), trial=trial)
        )

    runner = Recorded(answer)
    (found,) = tried(runner, BLIND, [("a", SEEING)], stripes(), seconds=60.0, seeds=3).measured
    assert found.effect.runs == 2
    assert "1 of 3 trainings of the edited network failed: out of memory" in str(found)
    assert "1 of 3 trainings of the network as it is failed: out of memory" in str(found)


def test_nets_that_learnt_nothing_are_no_evidence():
    """One always gives one answer, the other none that is right: that they differ says nothing of
    the edit.
    """
    images = stripes()
    first = "".join("01"[int(label == 0)] for label in images.valid.labels)
    runner = Recorded(
        lambda trial: replace(
            run("0" * len(first) if "apply-01" in trial.id else first), trial=trial
        )
    )
    (found,) = tried(runner, BLIND, [("a", SEEING)], images, seconds=60.0, seeds=3).measured
    assert found.effect.verdict == "not resolved"
    assert "neither network beats" in str(found)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Net((SIZE, SIZE, 2), (Flatten(), Dense(3))), "2 channels"),
        (Net((SIZE, SIZE, 1), (Conv2D(3, 3),)), "ends in a map"),
        (Net((SIZE, SIZE, 1), (Opaque("odd", (3,)),)), "could not be read"),
        (Net((4, 4, 1), (MaxPooling2D(5), Flatten(), Dense(3))), "needs 5x5"),
    ],
)
def test_a_net_that_cannot_be_tried_is_refused(given, words):
    with pytest.raises(ConvwiseError, match=words):
        tried(Recorded(), given, [("same", given)], stripes())


# --- a record that is continued, a bench that is lent --------------------------------------------


def test_a_second_experiment_continues_with_more_seeds():
    images, record = stripes(), Memory()
    runner = Recorded(lambda trial: replace(run("01" * 72), trial=trial))
    one, other = MANY[:2]
    first = tried(runner, SEEING, [one], images, seconds=30.0, seeds=2, record=record)
    assert first.measured[0].effect.runs == 4
    assert len(runner.trials) == 4
    second = tried(runner, SEEING, [one], images, seconds=30.0, seeds=2, record=record)
    assert second.measured[0].effect.runs >= 8
    assert len({(t.net.id, t.seed, t.seconds) for t in runner.trials}) == len(runner.trials)
    before = len(runner.trials)
    third = tried(runner, SEEING, [other], images, seconds=30.0, seeds=2, record=record)
    assert third.measured[0].effect.runs >= 4
    assert {t.net["conv"].filters for t in runner.trials[before:]} >= {2}
    before = len(runner.trials)
    tried(runner, SEEING, [one], images, seconds=30.0, seeds=2, record=record, name="apply-others")
    # Nothing is taken over under another name
    assert {t.seed for t in runner.trials[before:]} == {0, 1}


def test_the_base_is_not_trained_again_for_another_edit():
    images, record = stripes(), Memory()
    runner = Recorded()
    tried(runner, SEEING, MANY[:1], images, seconds=30.0, seeds=2, record=record, most_seconds=4.0)
    before = len(runner.trials)
    (other,) = tried(
        runner, SEEING, MANY[1:2], images, seconds=30.0, seeds=1, record=record, most_seconds=4.0
    ).measured
    again = [t for t in runner.trials[before:] if t.net["conv"].filters == 8]
    assert other.effect
    assert {t.seed for t in again}.isdisjoint({0, 1})


@pytest.mark.slow
def test_a_study_lends_its_folder_and_runner(tmp_path):
    """No fitting, no warming, nothing stored: only the trainings."""
    images = stripes()
    for name in ("train", "valid"):
        batches.store(tmp_path, f"{SIZE}x{SIZE}", name, getattr(images, name))
    lab = lab_of(Serial(), 20.0)
    runner = lab.start(tmp_path, "classify", 1)
    asked: list[Net] = []
    lent = Bench(
        tmp_path, runner, 1, FAST, len(images.train), images.valid.labels, asked.append, lab.clock
    )
    scaled = Net(
        SEEING.input_shape, (Rescaling(1 / 255), Normalization((0.5,), (0.05,)), *SEEING.layers)
    )
    terms = Terms(seeds=1, most_seconds=2.0, most_seeds=1, name="evidence")
    edit = Edit("strides", scaled.edit("conv", kernel_size=1, strides=4), 1, 4)
    found = experiment.experiment(Base(scaled, RECIPE), [edit], lent, terms)
    (effect,) = found.effects
    assert (effect.parameter, effect.before, effect.after, effect.seconds) == ("strides", 1, 4, 2.0)
    assert effect.verdict == "matters"
    assert [net.input_shape[:2] for net in asked] == [(SIZE, SIZE)]
    assert list(tmp_path.glob("weights/*")) == []


@pytest.mark.slow
def test_digits_a_missing_activation_two_workers_and_the_images_own_recipe():
    """A chain of linear convolutions against the same with relu between, on digits, recipe and pace
    as found.

    An edit that changes nothing is measured beside it. Of such edits an honest interval calls one
    in twenty 'matters', so its word is no test; how far it moves is: an honest one stays within a
    few points, the other makes tens.
    """
    images = read("digits")
    body = [Conv2D(8, 3, padding="same", name=f"conv{i}") for i in range(3)]
    linear = net(*body, units=1000, shape=(8, 8, 3), last="linear")
    active = linear
    for i in range(3):
        active = active.edit(f"conv{i}", activation="relu")
    edits = edits_of(("activation", active), ("nothing", linear))
    found = measure_on(
        images,
        Base(linear),
        edits,
        Terms(seeds=3),
        Lab(ThisMachine(), Clock(60.0, time.monotonic())),
    )
    one, same = found.measured
    assert one.effect, found
    assert (one.effect.verdict, one.effect.low > 0) == ("matters", True), found
    assert abs(same.effect.accuracy_change) < one.effect.accuracy_change / 4, found
    assert same.effect.p > 1e-4, found
