"""What is told of the images: `look` and the reasons of `advise` agree, and claim no more than was
measured.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from convwise.advice import fingerprint, measures
from convwise.advice.fingerprint import look
from convwise.advice.measures import MEASURES
from convwise.advice.probes import Probes
from convwise.advice.recipes import RECIPE_RULES
from convwise.advice.rules import RULES
from convwise.advice.situation import Situation
from convwise.advice.telling import Interval
from convwise.core.records import Fingerprint, Measure
from studies import PACE, TARGET, advice, facts

NAMES = [row.name for row in MEASURES]


class Watched(Fingerprint):
    """A fingerprint that keeps the names of the measures that were asked for."""

    asked: set[str] = set()  # noqa: RUF012

    def __contains__(self, name: object) -> bool:
        self.asked.add(str(name))
        return super().__contains__(name)

    def measure(self, name: str) -> Measure:
        self.asked.add(name)
        return super().measure(name)


def taken(
    found: Fingerprint, value: float = 9.0, low: float = 3.0, high: float = 13.0
) -> Fingerprint:
    """With every measure of the table."""
    return replace(
        found, measures=tuple(Measure(name, value, "", "made up", low, high) for name in NAMES)
    )


def read_by_rules() -> dict[str, set[str]]:
    """Measure -> the parameters of which the rule that decides reads it, over several
    fingerprints.
    """
    found: dict[str, set[str]] = defaultdict(set)
    shapes = ((8, 8, 1), (12, 60, 3), (28, 28, 1), (64, 64, 3), (200, 120, 3))
    for shape, target in itertools.product(shapes, (None, TARGET)):
        made = facts(shape, (60, 300), target)
        side = [min(n, 64) for n in shape[:2]]
        made = replace(made, input_shape=(*side, shape[2]))
        chosen = advice(shape=shape, counts=(60, 300), target=target).configuration
        watched = Watched(**vars(taken(made)))
        situation = Situation(
            watched, PACE, 60.0, 2, {**chosen, "input.size": f"{side[0]}x{side[1]}"}
        )
        for prefix, rules in (("", RULES), ("training.", RECIPE_RULES)):
            for name in dict.fromkeys(rule.parameter for rule in rules):
                watched.asked.clear()
                rule = next(
                    rule for rule in rules if rule.parameter == name and rule.when(situation)
                )
                rule.then(situation), rule.because(situation), rule.tests(situation)
                # The ratio of these counts
                counted = {"class_imbalance"} if rule.measure == "classes" else set()
                for measure in watched.asked | counted:
                    found[measure].add(prefix + name)
    return found


@dataclass
class Part:
    pixels: np.ndarray
    labels: np.ndarray


def test_a_measure_names_the_parameters_whose_rules_read_it_and_no_others():
    read = read_by_rules()
    # These images tell nothing but their counts
    tiny = look(Part(np.zeros((9, 2, 2, 1), np.uint8), np.arange(9) % 2), ("a", "b"))
    told = {
        **{row.name: row.informs for row in MEASURES},
        **{m.name: m.informs for m in tiny.measures},
    }
    assert set(told) == {*NAMES, "class_imbalance"}
    assert {name: set(informs.split(", ")) for name, informs in told.items() if informs} == read
    assert {"f95", "noise", "rotation_cost"}.isdisjoint(read)


# Every interval: narrow and wide, below, around and above each number that a sentence compares one
# with.
CENTRES = (-0.3, -0.03, -0.005, 0.0, 0.004, 0.01, 0.015, 0.02, 0.03, 0.05, 0.06, 0.3)
INTERVALS = [
    Interval(at, at - half, at + half) for at in CENTRES for half in (0.001, 0.006, 0.03, 0.4)
]
Holds = Callable[[Interval], bool]
# What a sentence may say of an interval, and what must be true of all of it.
CLAIMS: dict[str, dict[str, Holds]] = {
    "resolution_sensitivity": {
        "it needs little of the finest detail": lambda i: i.high < 0.02,
        "it needs the finest detail": lambda i: i.low > 0.01,
    },
    "data_sufficiency": {
        "more images would help it little": lambda i: i.high < 0.05,
        "more images would help it": lambda i: i.low > 0.05,
    },
    "colour_gain": {
        "it hardly needs colour": lambda i: i.high < 0.01,
        "colour helps it": lambda i: i.low > 0,
    },
    "flip_gain": {"they mislead it": lambda i: i.high < 0, "they help it": lambda i: i.low > 0},
    "flip_cost": {
        "the classes look the same in a mirror": lambda i: i.high < 0.02,
        "left and right look different": lambda i: i.low > 0.01,
    },
    "rotation_cost": {
        "the classes look the same when turned": lambda i: i.high < 0.02,
        "which way is up carries meaning": lambda i: i.low > 0.01,
    },
    "shift_cost": {
        "the place of things hardly matters to it": lambda i: i.high < 0.02,
        "the place of things matters to it": lambda i: i.low > 0.01,
    },
    "probe_accuracy": {"a network must beat that": lambda i: True},
}
DIRECTIONS: dict[str, Holds] = {
    r"\bloses [\d.]+ points": lambda i: i.low > 0,
    r"\bgains [\d.]+ points": lambda i: i.high < 0,
}
IMPERATIVE = re.compile(
    r"\b(should|keep|train with|worth a test|safe|larger first|strides?|stem|pool\w*|augment\w*)\b"
)


def check_directions(text: str, of: Interval) -> None:
    """That 'loses' and 'gains' are said of an interval that holds no zero."""
    for word, holds in DIRECTIONS.items():
        assert holds(of) or not re.search(word, text), (text, of)


@pytest.fixture(scope="module")
def blobs() -> Probes:
    """Colour images of 64 px that a probe tells apart, so that every probe of a size is trusted."""
    labels = np.arange(60) % 2
    noise = (
        np.random.default_rng(0).normal(128, 20, (60, 64, 64, 3)) + 60 * labels[:, None, None, None]
    )
    return Probes(np.clip(noise, 0, 255).astype(np.uint8), labels, seed=0)


@pytest.fixture(scope="module")
def mistaken() -> Probes:
    """Noise, of which a probe gets some wrong, so that more images could help."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 12, 12, 3)).astype(np.uint8)
    return Probes(noise, np.arange(60) % 2, seed=0)


def test_no_measure_states_what_its_interval_leaves_open(monkeypatch, mistaken):
    told = set()
    # The interval is made up anyway
    monkeypatch.setattr(Probes, "changed", lambda self, _: self.best().correct)
    monkeypatch.setattr(Probes, "taught", lambda self, _: (self.best().correct,) * 2)
    for interval, row in itertools.product(INTERVALS, MEASURES):
        for name in ("paired_loss", "resampled", "share_right"):
            monkeypatch.setattr(measures, name, lambda *_, interval=interval: interval)
        if row.name == "discriminative_scale" or (reading := row.read(mistaken)) is None:
            continue
        assert not IMPERATIVE.search(reading.meaning), reading.meaning
        check_directions(reading.meaning, interval)
        assert (reading.low is None) == (row.name not in CLAIMS)
        if reading.low is None:
            continue
        assert (reading.value, reading.low, reading.high) == interval
        verdict = reading.meaning.rsplit(": ", 1)[1].removesuffix(".")
        true = {words for words, holds in CLAIMS[row.name].items() if holds(interval)}
        assert verdict in (true or {"too uncertain to say"}), (reading.meaning, interval)
        told.add((row.name, verdict))
    two_sided = {(name, words) for name, claims in CLAIMS.items() for words in claims}
    uncertain = {(name, "too uncertain to say") for name in CLAIMS if name != "probe_accuracy"}
    assert told == two_sided | uncertain


def test_the_reason_for_the_input_states_no_loss_that_its_interval_leaves_open(monkeypatch, blobs):
    """The size is what it was: half, or a quarter, where no loss of a point is likely."""
    told = set()
    for interval in INTERVALS:
        monkeypatch.setattr(measures, "paired_loss", lambda *_, interval=interval: interval)
        shape, reason = fingerprint._proposal(blobs)
        assert (shape == (32, 32, 3)) == (interval.low <= 0 or interval.value < 0.01)
        if shape == (32, 32, 3):
            check_directions(reason, interval)
            assert ("too uncertain to say" in reason) == (interval.high >= 0.02), (reason, interval)
            told.add("too uncertain to say" in reason)
    assert told == {True, False}


@pytest.mark.parametrize("side", [40, 64])
def test_no_reason_states_what_an_interval_leaves_open(side):
    shape = (side, side, 3)
    found = facts(shape)
    configuration = advice(shape=shape).configuration
    for interval in INTERVALS:
        situation = Situation(
            taken(found, *interval), PACE, 60.0, 2, {**configuration, "stem": "learned"}
        )
        for rule in (rule for rule in (*RULES, *RECIPE_RULES) if rule.when(situation)):
            check_directions(rule.because(situation), interval)
        said = {
            name: next(
                r.because(situation) for r in RULES if r.parameter == name and r.when(situation)
            )
            for name in ("stem.strides", "training.flip")
        }
        value, low, high = (f"{100 * number:.1f}" for number in interval)
        assert f"{value} points ({low} to {high})" in said["training.flip"]
        assert "but the size of the images alone decides" in said["stem.strides"]
        crosses = interval.low <= 0 <= interval.high
        assert ("shows no clear loss" in said["stem.strides"]) == crosses


@pytest.mark.parametrize(
    ("px", "low", "high", "words"),
    [
        (3, 3, 5, "patches of 3 px already tell the classes apart"),
        (3, 3, 9, "is too uncertain to say (3 px, 3 to 9)"),
        (9, 5, 13, "is too uncertain to say (9 px, 5 to 13)"),
        (9, 7, 13, "it takes patches of 9 px to tell the classes apart"),
    ],
)
def test_the_reason_for_the_first_kernel_knows_its_interval(px, low, high, words):
    found = facts((12, 12, 1))
    measure = Measure("discriminative_scale", px, "px", "made up", low, high)
    configuration = advice(shape=(12, 12, 1)).configuration
    situation = Situation(replace(found, measures=(measure,)), PACE, 60.0, 2, configuration)
    rule = next(
        rule for rule in RULES if rule.parameter == "stem.kernel_size" and rule.when(situation)
    )
    assert rule.then(situation) == 3
    assert words in rule.because(situation)
