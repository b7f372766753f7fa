"""A configuration: a value for all that `choose` can vary, the net it grows into, and its cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from convwise.core.growth import Grown, grow
from convwise.core.net import Net
from convwise.core.parameters import Pair
from convwise.core.problems import UnusableInput
from convwise.core.recipe import Recipe
from convwise.core.text import parse_size, times

if TYPE_CHECKING:
    from convwise.core.space import Space

Value = int | float | str
KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a word",
         "Pair": "rows x columns, such as 64x48"}  # fmt: skip
# Some hyperparameters and their values, as people type them and records keep them
Draft = Mapping[str, Any]


def _hyperparameter(name: str, meaning: str, default: Any = MISSING) -> Any:
    """default: what a draft has that does not name the hyperparameter, as one of an older study."""
    return field(default=default, metadata={"name": name, "meaning": meaning})


@dataclass(frozen=True, eq=False, kw_only=True)
class Configuration(Mapping[str, Value]):
    """A value for every hyperparameter, typed; `Space.fit` makes it.

    As a mapping it has each value under the name of its hyperparameter, in the form in which people
    type it ('64x48'): it equals a draft with the same values. Those with the largest expected
    effect at a fixed time come first. The net and its cost are worked out once, when they are first
    asked for.
    """

    space: Space = field(repr=False)
    training_flip: bool = _hyperparameter(
        "training.flip",
        "whether training images are mirrored left to right, every other time",
        False,
    )
    stage_filters: int = _hyperparameter(
        "stage.filters", "filters of the first stage, and of a learnt stem; later stages have more"
    )
    stem_strides: int = _hyperparameter("stem.strides", "stride of the first convolution")
    input_size: Pair = _hyperparameter(
        "input.size", "rows x columns that the first convolution reads"
    )
    stage_count: int = _hyperparameter(
        "stage.count",
        "number of stages; each one halves the map, except the first one of a network that is not"
        " pooled",
    )
    stage_widening: int = _hyperparameter(
        "stage.widening",
        "filters of later stages: 2 doubles them at every halving, 4 gives all of them four times"
        " the first stage's",
        2,
    )
    block: str = _hyperparameter(
        "block",
        "how a stage's convolutions are joined: pooled (the first one's map is halved before it is"
        " normalised), plain chain, residual, or depthwise separable",
    )
    stem: str = _hyperparameter(
        "stem",
        "the first convolution: learnt, or fixed filters that whiten patches of the images",
        "learned",
    )
    stage_convs: int = _hyperparameter("stage.convs", "convolutions in each stage")
    stage_kernel_size: int = _hyperparameter(
        "stage.kernel_size", "kernel of the convolutions inside the stages"
    )
    stem_kernel_size: int = _hyperparameter("stem.kernel_size", "kernel of the first convolution")
    head: str = _hyperparameter("head", "what turns the last map into one row of numbers")
    downsampling: str = _hyperparameter("downsampling", "what halves the map")
    activation: str = _hyperparameter("activation", "the function after each convolution")
    normalization: str = _hyperparameter(
        "normalization", "what stands between a convolution and its activation"
    )
    padding: str = _hyperparameter(
        "padding",
        "padding of a learnt stem and of plain and pooled convolutions; residual and separable need"
        " 'same'",
    )
    dropout: float = _hyperparameter(
        "dropout", "share of the last row of numbers that is dropped in training"
    )

    @staticmethod
    def of(space: Space, draft: Draft) -> Configuration:
        """The draft's values, whatever their cost.

        UnusableInput where one is missing, unknown or of another kind.
        """
        if unknown := sorted(draft.keys() - _FIELDS.keys()):
            raise UnusableInput(
                unknown[0], "is not a parameter of the search", "one of " + ", ".join(_FIELDS)
            )
        values = {_FIELDS[name].name: _typed(_FIELDS[name], value) for name, value in draft.items()}
        needed = [name for name, declared in _FIELDS.items() if declared.default is MISSING]
        if missing := [name for name in needed if name not in draft]:
            raise UnusableInput(
                missing[0], "has no value", "a value for each of " + ", ".join(needed)
            )
        return Configuration(space=space, **values)

    # What follows from the values ------------------------------------------------------------

    @cached_property
    def grown(self) -> Grown:
        """The net, and what was made on the way."""
        return grow(self)

    @property
    def net(self) -> Net:
        return self.grown.net

    @cached_property
    def cost(self) -> dict[str, float]:
        """The metrics of a goal that can be known without running: exact, and latency predicted."""
        return self.space.cost(self.net)

    @cached_property
    def recipe(self) -> Recipe:
        """How the net is trained: what the values say, and what follows from its layers."""
        return replace(
            self.space.recipe,
            flip=self.training_flip,
            whitened="stem" if self.stem == "whitening" else "",
            identity_start=self.space.recipe.optimizer == "muon"
            and self.block in ("pooled", "plain"),
        )

    @property
    def key(self) -> tuple[str, Recipe]:
        """What tells two configurations apart: the net, and how it is trained."""
        return self.net.id, self.recipe

    # As a mapping ----------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Value:
        value = getattr(self, _FIELDS[name].name)
        return times(value) if isinstance(value, tuple) else value

    def __iter__(self) -> Iterator[str]:
        return iter(_FIELDS)

    def __len__(self) -> int:
        return len(_FIELDS)

    def __hash__(self) -> int:
        return hash(tuple(self.values()))


_FIELDS: dict[str, Field[Any]] = {
    each.metadata["name"]: each for each in fields(Configuration) if each.metadata
}
MEANING: dict[str, str] = {name: each.metadata["meaning"] for name, each in _FIELDS.items()}


def _typed(declared: Field[Any], value: Any) -> Any:
    """A value of a draft in the form that the field has."""
    name, kind = declared.metadata["name"], str(declared.type)
    try:
        if kind == "Pair":
            return parse_size(value)
        if kind == "float":
            return float(value)
    except (AttributeError, TypeError, ValueError):
        pass
    if type(value).__name__ != kind:
        raise UnusableInput(name, f"is {value!r}", KINDS[kind])
    return value
