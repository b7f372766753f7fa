"""Reads choice.json, which others may have changed: what is missing or wrong is reported."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from convwise.core import places
from convwise.core.net import Net
from convwise.core.problems import ConvwiseError, UnusableInput
from convwise.core.records import Reason, Recipe, from_json
from convwise.formats.json import MOST_BYTES
from convwise.images import limits

FILE = "choice.json"
EXPECTED, FIX = "a folder that `convwise choose` wrote", "run `convwise choose`"
# What every version wrote
WRITTEN = ("net", "configuration", "test", "cost", "effects", "data", "provenance")
NUMBER, FLAG, WORD = (int, float), (bool, type(None)), (str,)
MOST_BITS = 1000  # of a whole number: larger ones are no float
UNKNOWN = (*NUMBER, type(None))  # a number, or None where it is not known
# The kinds of what is read of it, where it is there: of a dict by its keys ('*' stands for the
# others), of a list of all in it, or of each of so many.
KINDS: dict[str, Any] = {
    "net": {"input_shape": [(int,)] * 3},
    "configuration": {"*": (str, int, float, bool, list)},
    "test": {
        **dict.fromkeys(("accuracy", "error", "low", "high", "baseline", "r2"), NUMBER),
        "kind": WORD,
        "n": (int,),
        "score": {"name": WORD, "*": NUMBER},
        "recall": {"*": {"*": NUMBER}},
        "numbers": {"*": {"*": NUMBER}},
        "probe": {"verdict": WORD, "*": NUMBER},
    },
    "cost": {"*": NUMBER},
    "effects": [
        {
            **dict.fromkeys(("parameter", "verdict", "score"), WORD),
            **dict.fromkeys(("accuracy_change", "error_change", "low", "high"), NUMBER),
            **dict.fromkeys(("time_ratio", "seconds", "deviation"), NUMBER),
            **dict.fromkeys(("p", "p_same", "expected"), UNKNOWN),
            **dict.fromkeys(("expected_low", "expected_high"), UNKNOWN),
            **dict.fromkeys(("runs", "numbers"), (int,)),
        }
    ],
    "against": [
        {
            **dict.fromkeys(("model", "title", "failed"), WORD),
            **dict.fromkeys(("verdict",), (*WORD, type(None))),
            **dict.fromkeys(("accuracy", "chosen_accuracy", "accuracy_change"), UNKNOWN),
            **dict.fromkeys(("error", "chosen_error", "error_change", "low", "high"), UNKNOWN),
            "error_standard_errors": [NUMBER] * 2,
            "seconds": NUMBER,
            "n": (int,),
            "numbers": (int,),
            **dict.fromkeys(("cost", "chosen_cost"), {"*": NUMBER}),
            "notes": [WORD],
        }
    ],
    "data": {
        "classes": [WORD],
        "number": WORD,
        "numbers": [WORD],
        "base_shape": [(int,)] * 3,
        "facts": {"scale": [NUMBER] * 2, "modes": {"*": (int,)}},
    },
    "task": WORD,
    "training": {
        "recipe": {
            **dict.fromkeys(("batch_size", "shift_px"), (int,)),
            **dict.fromkeys(("optimizer", "whitened"), WORD),
            **dict.fromkeys(("identity_start", "average", "flip"), FLAG),
            "class_weights": [NUMBER],
            "*": NUMBER,
        },
        "seconds": NUMBER,
        "dtype": WORD,
    },
    "provenance": {
        "interrupted": FLAG,
        **dict.fromkeys(("seed", "workers"), (int,)),
        "wall_seconds": NUMBER,
        "budget_seconds": UNKNOWN,
    },
    "notes": [WORD],
    "left_out": {"*": WORD},
    "views": {"count": (int,), "said": WORD},
    "goal": {"kept": FLAG, "text": WORD},
    "reasons": {
        **dict.fromkeys(
            ("verdict", "choices"), [{"parameter": WORD, "because": WORD, "source": WORD}]
        ),
        "layers": {},
    },
    "check": [{"rule": WORD, "where": WORD, "what": WORD, "answer": WORD}],
}


def called(numbers: Sequence[str]) -> dict[str, Any]:
    """What the numbers are called that are learnt, as `data` keeps it: one has a key of its own."""
    if len(numbers) > 1:
        return {"numbers": list(numbers)}
    return {"number": numbers[0]} if numbers else {}


def read(folder: Path, effect_of: Callable[[Any], Any]) -> dict[str, Any]:
    """choice.json of `folder`. UnusableInput where it is none; effect_of: reads one effect."""
    try:
        with (folder / FILE).open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise _refused(folder, f"is larger than {MOST_BYTES >> 20} MB")
        choice = json.loads(
            text.decode("utf-8"), object_pairs_hook=lambda pairs: _Mapping(folder, pairs)
        )
    except OSError as error:
        raise _unopened(folder, error) from error
    except (ValueError, RecursionError) as error:
        raise _refused(folder, "is damaged: it is not JSON") from error
    if isinstance(choice, dict) and "configuration" not in choice and "sample" in choice:
        choice["configuration"] = choice.pop("sample")  # as version 0.1.0 called it
    missing = [key for key in WRITTEN if not (isinstance(choice, dict) and key in choice)]
    if missing:
        raise _refused(folder, f"has no {', '.join(missing)}")
    if wrong := _misfit(choice, KINDS):
        raise _refused(folder, f"has an unexpected value at {wrong}")
    reasons = choice.get("reasons", {})
    for name, made, values in (
        ("net", Net.from_json, [choice["net"]]),
        ("effects", lambda row: hash(effect_of(row)), choice["effects"]),  # by its values
        ("reasons.choices", partial(from_json, Reason), reasons.get("choices", ())),
        ("reasons.verdict", partial(from_json, Reason), reasons.get("verdict", ())),
        ("training.recipe", partial(from_json, Recipe), [choice.get("training", {}).get("recipe")]),
        ("data.base_shape", _picture, [choice["data"].get("base_shape", (1, 1, 1))]),
    ):
        try:
            for value in values:
                made(value)
        except ConvwiseError as error:
            raise _refused(folder, f"has an unexpected value at {name}: {error}") from error
        except (
            TypeError,
            ValueError,
            LookupError,
            ArithmeticError,
            AttributeError,
            RecursionError,
        ) as error:
            raise _refused(folder, f"has an unexpected value at {name}") from error
    found: dict[str, Any] = choice
    return found


def _picture(shape: Sequence[int]) -> None:
    if min(shape) < 1 or prod(shape[:2]) > limits.PICTURE:
        raise ValueError("no picture has this shape")


def _unopened(folder: Path, error: OSError) -> UnusableInput:
    """Why choice.json could not be opened: what is missing, or what the system says."""
    if not os.path.lexists(folder):
        like = " or ".join(map(str, places.near(folder)))
        return UnusableInput(str(folder), "does not exist", EXPECTED, like or FIX)
    if not folder.is_dir():
        return UnusableInput(str(folder), "is not a folder", EXPECTED, FIX)
    if isinstance(error, FileNotFoundError):
        return UnusableInput(str(folder), f"holds no {FILE}", EXPECTED, FIX)
    return _refused(folder, f"cannot be read ({error.strerror or error})")


class _Mapping(dict[str, Any]):
    """One mapping of it: a key that is asked for and not there is a damage of the file."""

    def __init__(self, folder: Path, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self._folder = folder

    def __missing__(self, key: str) -> Any:
        raise _refused(self._folder, f"has no {key}")


def _refused(folder: Path, what: str) -> UnusableInput:
    return UnusableInput(str(folder), f"its {FILE} {what}", EXPECTED, FIX)


def _misfit(value: Any, kind: Any, where: str = "") -> str:
    """Where in it a value is not of its kind; '' where all are."""
    if isinstance(kind, tuple):
        fits = isinstance(value, kind) and (bool in kind or not isinstance(value, bool))
        fits = fits and not (isinstance(value, int) and value.bit_length() > MOST_BITS)
        return "" if fits else where
    if not isinstance(value, type(kind)):
        return where
    if isinstance(kind, list) and len(kind) not in (1, len(value)):
        return where
    if isinstance(kind, list):
        kind = kind * len(value) if len(kind) == 1 else kind
        pairs = [
            (f"{where}[{i}]", each, one)
            for i, (each, one) in enumerate(zip(value, kind, strict=True))
        ]
    else:
        other = kind.get("*")
        pairs = [
            (f"{where}.{key}".lstrip("."), each, kind.get(key, other))
            for key, each in value.items()
        ]
    return next(
        (
            wrong
            for place, each, one in pairs
            if one is not None and (wrong := _misfit(each, one, place))
        ),
        "",
    )
