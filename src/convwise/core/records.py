"""The records that pass from room to room, each frozen and JSON in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from convwise.core.as_json import from_json as from_json
from convwise.core.as_json import to_json as to_json
from convwise.core.configuration import Configuration, Draft
from convwise.core.goal import Goal as Goal
from convwise.core.goal import Limit as Limit
from convwise.core.net import Net
from convwise.core.parameters import FIVE
from convwise.core.reasons import Reason as Reason
from convwise.core.reasons import TrialsWord as TrialsWord
from convwise.core.recipe import Recipe as Recipe
from convwise.core.score import ACCURACY, Score, Target, score_of
from convwise.core.shown import Screen, Shown, plain
from convwise.core.space import Space
from convwise.core.text import number, short, times

VerdictWord = Literal["matters", "no difference", "not resolved"]


@dataclass(frozen=True)
class Measure:
    """One number read off the images.

    name: as in the table of advice/measures.py; value: the number, in `unit`; low, high: its 95
    % interval where it is a probe's estimate, else None; meaning: one sentence in plain words;
    informs: the parameters whose rules of advice read it; curve: the points behind it (x, y), for
    plots.
    """

    name: str
    value: float
    unit: str
    meaning: str
    low: float | None = None
    high: float | None = None
    informs: str = ""
    curve: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Suspect:
    """An image to learn from whose label is doubtful.

    row: its place among them; confidence: in `suggested`, 0 to 1.
    """

    row: int
    label: str
    suggested: str
    confidence: float


@dataclass(frozen=True)
class Outlier:
    """An image to learn from that looks like none of the others. row: its place among them;
    distance: how far it is from its nearest ones, in interquartile ranges above the upper quartile
    of all images (see advice/outliers.py).
    """

    row: int
    label: str
    distance: float


@dataclass(frozen=True, repr=False)
class Fingerprint(Shown):
    """What a set of images is like: facts about the files, and measures of the pixels.

    suspects: the images whose labels the others speak against, the most doubtful first, of
    `looked_at`; outliers: those of them that look like none of the others, the farthest first;
    shape: (height, width, channels) of the images as read; classes: name -> train images, none
    where the images have numbers; input_shape: the proposed network input; input_reason: why;
    target: the numbers.
    """

    shape: tuple[int, int, int]
    images: int
    classes: Mapping[str, int]
    mean: tuple[float, ...]
    variance: tuple[float, ...]
    measures: tuple[Measure, ...]
    input_shape: tuple[int, int, int]
    input_reason: str
    seconds: float = 0.0
    suspects: tuple[Suspect, ...] = ()
    outliers: tuple[Outlier, ...] = ()
    looked_at: int = 0
    target: Target | None = None

    def __getitem__(self, name: str) -> float:
        """The value of the measure called `name`; KeyError where it was not taken."""
        return self.measure(name).value

    def measure(self, name: str) -> Measure:
        """The measure called `name`; KeyError where it was not taken."""
        for measure in self.measures:
            if measure.name == name:
                return measure
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return any(measure.name == name for measure in self.measures)

    @property
    def answers(self) -> str:
        """What the images tell, in words: 'in 10 classes', or 'angle from 0 to 359'."""
        return f"in {len(self.classes)} classes" if self.target is None else self.target.words

    def screen(self) -> Screen:
        """The counts, the proposed input, and a row for each measure."""
        rows = [(m.name, f"{number(m.value)} {m.unit}", m.meaning) for m in self.measures]
        proposed = f"Proposed input {times(self.input_shape)}: {self.input_reason}"
        return Screen(
            f"{self.images:,} images of {times(self.shape)} px to learn from, {self.answers}",
            (proposed,),
            ("measure", "value", "meaning"),
            rows,
            more=".measures",
        )


@dataclass(frozen=True)
class Trial:
    """One planned training run.

    configuration: the values of its configuration; none where its net is an edit that no space has.
    Exactly one of `seconds` (wall clock of the training loop) and `epochs` (counted, fractions of
    one too) is set. part: 'train' holds the validation part back, 'all' trains on everything not
    sealed.
    resumes: the id of the trial whose weights this one starts from, or ''.
    span: which share of the learning-rate schedule the run covers, (0, 1) for all of it: a trial
    that is to be continued covers the beginning, the one that resumes it the rest.
    teacher: the id of the trial whose answers it learns from, beside the labels, or ''.
    score: what its answers are scored by, as score.SCORES names it, or 'error'.
    """

    id: str
    # The keys are the words of version 0.1.0, whose studies go on
    phase: str = field(metadata={"key": "stage"})
    configuration: Draft = field(metadata={"key": "sample"})
    net: Net
    recipe: Recipe = Recipe()
    seconds: float | None = None
    epochs: float | None = None
    seed: int = 0
    part: Literal["train", "all"] = "train"
    resumes: str = ""
    threads: int = 1
    span: tuple[float, float] = (0.0, 1.0)
    teacher: str = ""
    score: str = "accuracy"

    @property
    def key(self) -> tuple[str, Recipe]:
        """What tells trainings apart, as `Configuration.key`: the net, and how it is trained."""
        return self.net.id, self.recipe


INTERRUPTED = "interrupted"  # the reason of a Result whose training was brought to an early end


@dataclass(frozen=True)
class Engine:
    """Where and how training computes: a torch device, and the dtype of its convolutions.

    beside: whether gradients on narrow maps are computed with several images side by side, see
    training/narrow.py.
    """

    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    beside: bool = False


STEP_SECONDS = 0.005  # of a training step, however few its images are
WEIGHT_BYTES = 16  # moved in a step for each weight: gradient, momentum, orthogonalisation, average


@dataclass(frozen=True)
class Pace:
    """Predicted training seconds on one thread.

    Of an image a sum over macs and activation bytes; of a step its own.
    """

    per_mac: float
    per_byte: float
    per_image: float = 0.0

    def seconds(self, macs: float, activation_bytes: float) -> float:
        return self.per_image + self.per_mac * macs + self.per_byte * activation_bytes

    def of_step(self, params: float) -> float:
        """Seconds of a step beside those of its images.

        Source: docs/findings.md, 'a step takes time of its own'.
        """
        return STEP_SECONDS + self.per_byte * WEIGHT_BYTES * params


@dataclass(frozen=True)
class Point:
    """One point of a learning curve.

    seconds: since the loop began; images: seen; loss: mean; accuracy: validation score.
    """

    seconds: float
    images: int
    loss: float
    accuracy: float | None = None


@dataclass(frozen=True)
class Result:
    """What became of a trial.

    One that was brought to an early end is 'done', with INTERRUPTED as its reason, and its span
    ends at 1.

    score: the mean of its outcomes on the validation part, of what the trial is scored by (None
    where it failed or part is 'all'; see core/score.py); correct: of classes, one '0' or '1' per
    validation example, in their order; weighed: what each example adds to the score where `correct`
    does not say it: where the goal counts classes alike; errors: of numbers, one absolute error
    each, in the target's unit; cost: params, macs, activation_bytes, and latency_ms where measured;
    reason: why it failed. mirrored, mirrored_errors: of a net that was not trained on mirrored
    images, the same as `correct` or `errors` of some validation examples as they are, then of the
    same ones mirrored. host: what the machine is called that it ran on.
    """

    trial: Trial
    status: Literal["done", "failed"]
    score: float | None = None
    correct: str = ""
    cost: Mapping[str, float] = field(default_factory=dict)
    history: tuple[Point, ...] = ()
    seconds: float = 0.0
    images_per_second: float = 0.0
    dtype: str = "float32"
    reason: str = ""
    mirrored: str = ""
    host: str = ""
    weighed: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    mirrored_errors: tuple[float, ...] = ()

    @property
    def told(self) -> str:
        """Its score, as people read it."""
        return score_of(self.trial.net, self.trial.score).told(self.score)

    @cached_property
    def outcomes(self) -> tuple[float, ...]:
        """One for each validation example, the higher the better: its score is their mean."""
        return self.weighed or self._outcomes(self.correct, self.errors)

    @property
    def views(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Outcomes of some validation examples as they are, and of the same ones mirrored.

        Of classes each is 1 or 0.
        """
        both = self._outcomes(self.mirrored, self.mirrored_errors)
        return both[: len(both) // 2], both[len(both) // 2 :]

    def _outcomes(self, correct: str, errors: Sequence[float]) -> tuple[float, ...]:
        score = score_of(self.trial.net)
        return tuple(float(each == "1") for each in correct) or tuple(map(score.score, errors))


@dataclass(frozen=True, repr=False)
class Advice(Shown):
    """What to start with: a space worth testing, its first configuration, a reason for each value.

    plan: what the budget is enough for on this machine, in a sentence; '' where nobody asked.
    """

    space: Space
    configuration: Configuration
    reasons: tuple[Reason, ...]
    plan: str = ""

    @property
    def net(self) -> Net:
        """The advised net."""
        return self.configuration.net

    @property
    def recipe(self) -> Recipe:
        """How the advised net is trained."""
        return self.configuration.recipe

    def to_json(self) -> dict[str, Any]:
        """With the net that the configuration grows into."""
        names = ("space", "configuration", "net", "reasons")
        return {name: to_json(getattr(self, name)) for name in names}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Advice:
        """The advice that `to_json` wrote; its configuration keeps the limits of the space."""
        space: Space = from_json(Space, data["space"])
        # Version 0.1.0 called a configuration a sample
        draft = data["configuration"] if "configuration" in data else data["sample"]
        return Advice(space, space.fit(draft), from_json(tuple[Reason, ...], data["reasons"]))

    def screen(self) -> Screen:
        """The network in a line, its cost, and a reason for each parameter, those of FIVE first."""
        cost = self.configuration.cost
        order = sorted(self.reasons, key=lambda r: r.parameter.rpartition(".")[2] not in FIVE)
        told = f"{short(cost['params'])} parameters, {short(cost['macs'])} multiply-accumulates"
        if "latency_ms" in cost:
            told += f", {cost['latency_ms']:.3g} ms per image (predicted)"
        time = (f"Time: {self.plan}",) if self.plan else ()
        return Screen(
            f"Start with: {described(self.configuration, self.net.input_shape)}",
            (f"{told}; the goal: {self.space.goal.text}", *time),
            ("parameter", "value", "because"),
            [(r.parameter, plain(r.value), r.because) for r in order],
            ("convwise.choose tests this on your images",),
            ".reasons",
        )


def described(values: Draft, input_shape: Sequence[int]) -> str:
    """The network of a configuration in one line."""
    stem, kernel = (
        times((size, size)) for size in (values["stem.kernel_size"], values["stage.kernel_size"])
    )
    stages, convs = (f"{values[name]} {word}{'s' * (values[name] != 1)}" for name, word in
                     (("stage.count", "stage"), ("stage.convs", "convolution")))  # fmt: skip
    taken, size = times(input_shape), times(input_shape[:2])
    # Folders of older versions may not have an input size
    if (first := values.get("input.size", size)) != size:
        taken += f", averaged to {first}"
    return (
        f"{values['block']} network for images of {taken}: {values.get('stem', 'learned')} {stem}"
        f" stem with stride {values['stem.strides']}, {stages} of {convs} of {kernel} starting with"
        f" {values['stage.filters']} filters, {values['activation']}, {values['head']}"
    )


@dataclass(frozen=True)
class Effect:
    """The measured effect of one change of one parameter, with its 95 % interval.

    accuracy_change, low, high: of the score (0.01 is one point of accuracy); score: how it is told;
    time_ratio: seconds per image after / before; runs: how many trials the estimate rests on;
    seconds: of training of each of them, the horizon that the effect was measured at (0 where
    epochs were counted); p: of a change as large by chance alone; p_same: of one as small although
    the truth is a whole point; expected: the change to expect of it again, where several effects
    were told together. Of a segment of a training, verdict, p, p_same and expected are of its end,
    and expected_low, expected_high the 95 % interval there. None: not known.
    """

    parameter: str
    before: Any
    after: Any
    accuracy_change: float
    low: float
    high: float
    time_ratio: float
    verdict: VerdictWord
    runs: int = 0
    seconds: float = 0.0
    p: float | None = None
    p_same: float | None = None
    expected: float | None = None
    expected_low: float | None = None
    expected_high: float | None = None
    score: Score = ACCURACY

    @property
    def moved(self) -> str:
        """What it changes, with its unit: '+2.1 points' of accuracy, '-0.31' of an error."""
        return self.score.moved(self.accuracy_change) + self.score.unit

    @property
    def span(self) -> str:
        """The 95 % interval of that: '+0.4 to +3.8'."""
        return self.score.span(self.low, self.high)


@dataclass(frozen=True)
class Comparison:
    """The chosen network beside another that was named, both trained anew, alike and equally long.

    model: as it was named; title: what it is called; cost, chosen_cost, score, chosen_score: as in
    Result, the latter after so many seconds (0 where epochs were counted) on so many validation
    images, the mean over their trainings; standard_errors: of both, over the images; effect: of the
    chosen network in its place; failed: why there is none; notes: what was changed, and what to
    know; told: how scores are told.
    """

    model: str
    title: str
    cost: Mapping[str, float]
    chosen_cost: Mapping[str, float]
    score: float | None = None
    chosen_score: float | None = None
    standard_errors: tuple[float, float] = (0.0, 0.0)
    effect: Effect | None = None
    seconds: float = 0.0
    images: int = 0
    failed: str = ""
    notes: tuple[str, ...] = ()
    told: Score = ACCURACY


@dataclass(frozen=True)
class Views:
    """How many views of an image the network handed over looks at, 2 with the mirrored one, and
    why.

    effect: of the second view on `images` validation images, with the same weights; None where that
    was not measured. said: the same in a sentence, '' where there is nothing to say.
    """

    count: int = 1
    effect: Effect | None = None
    images: int = 0
    said: str = ""


@dataclass(frozen=True)
class Probed:
    """The accuracy of the probe of `look`, beside which a chosen network's stands.

    accuracy, low, high: the share of n training images that it recognises, each by a fit that lacks
    that image, with its 95 % interval. accuracy_change, change_low, change_high: the network's
    accuracy on the scored images less that. verdict: 'worse' where the network is surely less
    accurate, and therefore not called chosen.
    """

    accuracy: float
    low: float
    high: float
    n: int
    accuracy_change: float
    change_low: float
    change_high: float
    verdict: Literal["better", "not better", "worse"]


@dataclass(frozen=True)
class Verdict:
    """The choice: the result chosen, the effects measured on the way, the Pareto front, and why."""

    chosen: Result
    effects: tuple[Effect, ...]
    alternatives: tuple[Result, ...]
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...] = ()
