"""Beside others: which networks can be compared with, how they are trained, and what is said of
them.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from convwise import against
from convwise.core.layers import (
    Conv2D,
    Dense,
    Flatten,
    GlobalAveragePooling2D,
    Normalization,
    Opaque,
    Rescaling,
)
from convwise.core.net import Net
from convwise.core.problems import UnusableInput
from convwise.core.recipe import Recipe
from convwise.core.records import Result, Trial
from convwise.core.textbook import KNOWN
from convwise.evidence.fitting import fitted
from convwise.formats import torch as torch_format
from convwise.images.loading import read
from convwise.output.words import beside, compared_bars
from convwise.search import rivals
from convwise.search.phases import BESIDE, Allowed, Search
from convwise.search.rivals import Rival
from imagesets import striped, write_folder
from labs import Serial, ask
from studies import TARGET, advice, scored

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
OWN = Net(
    (12, 12, 1),
    (Conv2D(4, 3, activation="relu"), GlobalAveragePooling2D(), Dense(3, activation="softmax")),
)
GIVEN = advice(shape=(12, 12, 1))
CHOSEN = scored(GIVEN.configuration, GIVEN.net, 0.9, how={"recipe": GIVEN.recipe})


class Budget:
    """Of so many workers, with room for one wave."""

    def __init__(self, workers: int, waves: int = 1) -> None:
        self.workers, self._waves = workers, waves

    def beside(self, rivals: int) -> Allowed:
        return Allowed(self._waves, None, 7.0)


class Kept:
    def __init__(self, *results: Result) -> None:
        self.results = results


def planned(workers: int, *ran: Result, waves: int = 1, given=GIVEN, rival=None) -> list[list]:
    search = Search(given, Kept(*ran), Budget(workers, waves), 0)  # type: ignore[arg-type]
    chosen = scored(given.configuration, given.net, 0.9, how={"recipe": given.recipe})
    others = [rival or Rival("mine", "your network", OWN)]
    return [list(wave.trials) for wave in rivals.waves(search, others, chosen)]


@pytest.fixture(scope="module")
def stripes(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images") / "stripes", ("a", "b", "c"), 30, 12, "L")


@pytest.fixture(scope="module")
def images(stripes):
    return read(str(stripes))


# --- which networks -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("shape", [(28, 28, 1), (20, 30, 3), (96, 64, 3)])
def test_known_networks_can_be_built_for_any_images(name, shape):
    net = KNOWN[name].net(shape, 7)
    module = torch_format.build(net)
    height, width, channels = net.input_shape
    assert channels == shape[2]
    assert module(torch.zeros(2, channels, height, width)).shape == (2, 7)


@pytest.mark.parametrize(("shape", "strides"), [((28, 28, 1), 1), ((96, 96, 3), 2)])
def test_the_fixed_net_is_the_one_of_the_benchmarks(shape, strides):
    """Which is written in PyTorch alone: as many weights, and the same answers with the same
    weights.
    """
    from rivals.expert import expert

    theirs = expert(shape[2], 7, 32, strides).eval()
    net = KNOWN["expert"].net(shape, 7)
    ours = torch_format.build(net, logits=True).eval()
    own = [p for name, p in ours.named_parameters() if name.endswith(("weight", "bias"))]
    assert [p.shape for p in own] == [p.shape for p in theirs.parameters()]
    with torch.no_grad():
        for mine, yours in zip(own, theirs.parameters(), strict=True):
            mine.copy_(yours)
        x = torch.randn(2, shape[2], *net.input_shape[:2])
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_the_own_network_is_fitted_to_classes_channels_and_scale(images):
    colour = Net((10, 10, 3), (Conv2D(4, 3), Flatten(), Dense(5, activation="softmax")))
    (found,) = against.rivals([colour], images, GIVEN)
    assert found.net.input_shape == (10, 10, 1)
    assert found.net.layers[-1].units == 3
    assert [type(layer).__name__ for layer in found.net.layers[:2]] == [
        "Rescaling",
        "Normalization",
    ]
    said = " ".join(found.notes)
    assert "it reads 1 channel instead of 3" in said
    assert "3 outputs instead of 5" in said


def test_a_module_for_images_of_any_size_is_read_at_the_advised_one(images):
    from torch import nn

    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    (found,) = against.rivals([module], images, GIVEN)
    assert found.net.input_shape == GIVEN.net.input_shape


def test_a_module_that_does_not_fit_is_refused_for_what_is_wrong(images):
    """It is read at the images' size: that no size was given is no reason any more."""
    from torch import nn

    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(999, 3))
    with pytest.raises(UnusableInput, match="does not take images of 12x12x1: .*999"):
        against.rivals([module], images, GIVEN)


def test_the_same_network_named_twice_is_trained_once(images):
    assert [rival.model for rival in against.rivals(["lenet5", "lenet5", OWN], images, GIVEN)] == [
        "lenet5",
        "Net",
    ]


OPAQUE = Net(
    (12, 12, 1),
    (Opaque(operator="FancyOp", output_shape=(12, 12, 4), name="odd"), Flatten(), Dense(3)),
)
MAP = Net((12, 12, 1), (Conv2D(4, 3),))
FIXED = Net((12, 12, 3), (Normalization((0.1, 0.2, 0.3), (1, 1, 1)), Flatten(), Dense(3)))
HUGE = Net((40_000, 40_000, 1), (GlobalAveragePooling2D(), Dense(3)))


@pytest.mark.parametrize(
    ("net", "what", "fix"),
    [
        (
            OPAQUE,
            r"has 1 layers? that convwise cannot read: odd \(FancyOp\)",
            "leave out --against",
        ),
        (MAP, "ends in a map", "leave out --against"),
        (FIXED, "reads 3 channels, but the images have 1", "a first layer"),
        (HUGE, r"would take \d+ GiB", "smaller images"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(images, net, what, fix):
    with pytest.raises(UnusableInput, match=what) as refused:
        against.rivals([net], images, GIVEN)
    assert fix in refused.value.problem.fix
    assert refused.value.problem.where == "--against Net"


def test_what_is_nowhere_is_refused_before_images_are_read(tmp_path):
    with pytest.raises(
        UnusableInput, match="no-such.keras: does not exist.*lenet5, keras-mnist, expert"
    ):
        ask("nowhere", tmp_path / "out", Serial(), [], against=("no-such.keras",)).run()
    against.check(["lenet5", "package.module:callable", OWN])


NUMBERS = advice(shape=(12, 12, 1), target=TARGET)
MODEL = Net(
    (12, 12, 1),
    (Conv2D(4, 3), GlobalAveragePooling2D(), Dense(1, activation="sigmoid"), Rescaling(9, -4)),
)


@pytest.mark.parametrize("model", [*KNOWN, MODEL, Net((12, 12, 1), (Flatten(), Dense(1))), OWN])
def test_every_network_answers_in_the_unit_of_the_numbers(model, images):
    """Whatever its own was: errors of both can be compared."""
    (found,) = against.rivals([model], images, NUMBERS)
    before, unit = found.net.layers[-2:]
    assert (before.units, before.activation) == (1, "linear")
    assert (unit.scale, unit.offset) == ((TARGET.deviations[0],), (TARGET.means[0],))
    heads = [note for note in found.notes if "output" in note]
    expected = {OWN: ["dense has one output instead of 3, without an activation: the number"],
                MODEL: ["dense has one output, without an activation: the number"]}  # fmt: skip
    assert heads == ([] if isinstance(model, str) else expected.get(model, []))


# --- the trainings --------------------------------------------------------------------------------


def test_both_are_trained_anew_side_by_side_for_as_long_in_the_same_order():
    ((chosen, other),) = planned(2)
    assert (chosen.net, other.net) == (GIVEN.net, OWN)
    assert chosen.seconds == other.seconds == 7.0
    assert chosen.seed == other.seed
    assert chosen.span == other.span == (0.0, 1.0)
    assert not chosen.resumes
    assert chosen.phase == other.phase == BESIDE.name


def test_workers_that_are_left_repeat_it_under_other_seeds():
    (wave,) = planned(6)
    assert [(t.net.id, t.seed) for t in wave] == [
        (n.id, s) for s in range(3) for n in (GIVEN.net, OWN)
    ]
    assert len({t.id for t in wave}) == 6


def test_a_continued_study_does_not_train_them_again():
    ((chosen, other),) = planned(2)
    ran = [ended(replace(trial, seconds=5.0), "01") for trial in (chosen, other)]
    ((again,),) = planned(2, ran[0])
    assert again.id == other.id
    assert again.seconds == 5.0  # as long as the one that it is compared with
    assert planned(2, *ran) == []


def test_where_there_is_no_time_nothing_is_trained():
    assert planned(2, waves=0) == []


def test_the_recipe_is_the_same_but_for_what_is_for_our_nets_alone():
    recipe = Recipe(
        256, "muon", whitened="stem", identity_start=True, flip=True, shift_px=2, cutmix=0.5
    )
    large = Net((24, 24, 1), OWN.layers)
    usual, notes = rivals.alike(recipe, OWN, large)
    assert usual == Recipe(256, "adamw", flip=True, shift_px=4, cutmix=0.5)
    assert notes == ()


# --- what they say --------------------------------------------------------------------------------


def ended(trial: Trial, correct: str) -> Result:
    """A training of which these answers came."""
    made = scored(
        trial.configuration, trial.net, correct.count("1") / len(correct), correct=correct
    )
    return replace(made, trial=trial)


def compared(theirs: str, ours: str):
    (wave,) = planned(2)
    ran = [ended(trial, correct) for trial, correct in zip(wave, (ours, theirs), strict=True)]
    (found,) = rivals.compared([Rival("mine", "your network (mine)", OWN)], CHOSEN, ran, 1000)
    return found


def row(found) -> dict:
    from convwise.output.deliver import comparison_row

    return comparison_row(found)


def test_they_are_compared_image_by_image():
    """Counted by hand: 30 images are won and 10 lost, of 200."""
    found = compared("0" * 30 + "1" * 10 + "1" * 160, "1" * 30 + "0" * 10 + "1" * 160)
    assert found.score == pytest.approx(170 / 200)
    assert found.chosen_score == pytest.approx(190 / 200)
    assert found.effect.accuracy_change == pytest.approx(20 / 200)
    assert 0 < found.effect.low < 0.1 < found.effect.high
    said = beside(row(found))
    assert said.startswith("Your network (mine): 85.0\u202f%, ")
    assert "after 7 s of training each, 200 validation images)" in said
    assert said.endswith(
        f"The chosen network is 10.0 points better ({100 * found.effect.low:.1f} to "
        f"{100 * found.effect.high:.1f})."
    )


def test_where_the_own_network_is_better_that_is_said():
    said = beside(row(compared("1" * 190 + "0" * 10, "1" * 150 + "0" * 50)))
    assert "Your network (mine) is 20.0 points better (" in said
    assert "−" not in said.rpartition("better")[2]


def test_a_difference_that_crosses_zero_is_never_told_as_one():
    rng = np.random.default_rng(0)
    a, b = ("".join(map(str, rng.integers(0, 2, 60))) for _ in range(2))
    found = compared(a, b)
    assert found.effect.low < 0 < found.effect.high
    assert "Which one is better is not resolved (" in beside(row(found))
    assert "better (" not in beside(row(found))


def test_equally_good_is_told_with_what_to_do():
    right = "1" * 9000 + "0" * 1000
    assert "They are equally good (" in beside(row(compared(right, right)))


def test_a_training_that_failed_is_told_and_draws_no_bar():
    (wave,) = planned(2)
    ran = [ended(wave[0], "01"), Result(wave[1], "failed", reason="memory")]
    (found,) = rivals.compared([Rival("mine", "your network", OWN)], CHOSEN, ran, 1000)
    assert beside(row(found)) == "Your network could not be compared: its training failed (memory)."
    assert compared_bars(row(found)) == []
    (found,) = rivals.compared([Rival("mine", "your network", OWN)], CHOSEN, [], 1000)
    assert (
        beside(row(found)) == "Your network could not be compared: there was no time to train it."
    )


def test_bars_stand_for_both_after_the_same_time():
    bars = compared_bars(row(compared("1" * 150 + "0" * 50, "1" * 180 + "0" * 20)))
    assert [bar[:2] for bar in bars] == [
        ("your network (mine), after 7 s", 0.75),
        ("the chosen network, after 7 s", 0.9),
    ]
    assert all(low < share < high for _, share, low, high in bars)


def test_errors_are_compared_in_their_unit():
    """By hand: the other network is off by 4 or 6 on each of 200 images, the chosen one by 1 less
    on each.
    """
    theirs = Rival("mine", "your network (mine)", fitted(OWN, 0, (0.5,), (0.05,), TARGET).net)
    (wave,) = planned(2, given=NUMBERS, rival=theirs)
    errors = np.where(np.arange(200) % 2, 4.0, 6.0)
    off, deviation = {False: errors, True: errors - 1}, TARGET.deviations[0]
    ran = [
        replace(
            scored(t.configuration, t.net, 0.9),
            trial=t,
            correct="",
            errors=tuple(off[bool(t.configuration)]),
            score=1 - float(off[bool(t.configuration)].mean()) / deviation,
        )
        for t in wave
    ]
    (found,) = rivals.compared([theirs], scored(NUMBERS.configuration, NUMBERS.net, 0.9), ran, 1000)
    told = row(found)
    assert (told["error"], told["chosen_error"]) == (pytest.approx(5.0), pytest.approx(4.0))
    assert told["error_change"] == pytest.approx(-1.0)
    assert told["low"] < -1.0 < told["high"] < 0
    said = beside(told)
    assert "Your network (mine): error 5, " in said
    assert "the chosen network: error 4, " in said
    assert "The error of the chosen network is 1 smaller (" in said
    assert not {"%", "points", "accuracy"} & set(said.replace("(", " ").split())
    (bar, _) = compared_bars(told)
    assert bar[0] == "your network (mine), after 7 s"
    # Their deviation is 1
    assert bar[2:] == pytest.approx((5 - 1.96 / 200**0.5, 5 + 1.96 / 200**0.5), rel=1e-4)


@pytest.mark.parametrize(("change", "low", "high", "verdict", "expected"), [
    (2.0, 1.0, 3.0, "matters", "The error of mine is 2 smaller (1 to 3)."),
    (-2.0, -3.0, -1.0, "matters", "The error of the chosen network is 2 smaller (1 to 3)."),
    (0.1, -0.2, 0.4, "no difference",
    "They are equally good (the error changes by 0.1, −0.2 to 0.4): take "
     "the cheaper."),
    (1.0, -1.0, 3.0, "not resolved",
    "Which one is better is not resolved (the error changes by 1, −1 to 3)."),
])  # fmt: skip
def test_whose_error_is_smaller_is_said(change, low, high, verdict, expected):
    made = {"title": "mine", "failed": "", "error": 5.0, "chosen_error": 5.0 + change,
            "error_change": change,
            "low": low, "high": high, "verdict": verdict, "seconds": 0, "n": 9, "cost": {},
            "chosen_cost": {}}  # fmt: skip
    assert beside(made).endswith(expected)


# --- a whole study --------------------------------------------------------------------------------


def test_a_study_compares_and_its_choice_stays_its_own(tmp_path):
    pixels, labels = striped(3, 30, 12)
    written: list = []
    told: list = []
    asked = ask((pixels, labels), tmp_path / "out", Serial(), written, watcher=told.append,
                trials=2, goal="accuracy where macs<60k", against=(OWN, "lenet5"))  # fmt: skip
    asked.run()
    mine, lenet = written[0].against
    assert (mine.title, lenet.title) == ("your network (Net)", "LeNet-5")
    assert mine.score is not None
    assert lenet.score is not None
    assert mine.chosen_score == lenet.chosen_score
    assert lenet.cost["params"] > 50_000  # limits are the choice's, not theirs
    assert written[0].chosen.trial.configuration
    assert all(progress.best.trial.phase != BESIDE.name for progress in told if progress.best)
    phases = [result.trial.phase for result in written[0].results]
    assert phases.count(BESIDE.name) == 3
    assert phases.index(BESIDE.name) > max(i for i, phase in enumerate(phases) if phase == "race")
    assert phases[-1] == "final"
