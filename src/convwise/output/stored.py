"""Reads choice.json again: it may have been changed by others, so what is missing or of another kind is reported."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from convwise.core.net import Net
from convwise.core.problems import ConvwiseError, UnusableInput
from convwise.formats.json import MOST_BYTES

FILE = "choice.json"
EXPECTED, FIX = "a folder that `convwise choose` wrote", "run `convwise choose`"
WRITTEN = ("net", "sample", "test", "cost", "effects", "data", "provenance")  # what every version wrote
NUMBER, FLAG, WORD = (int, float), (bool, type(None)), (str,)
UNKNOWN = (*NUMBER, type(None))  # a number, or None where it is not known
# The kinds of what is read of it, where it is there: of a dict by its keys ('*' stands for the others), of a list of
# all in it, or of each of so many.
KINDS: dict[str, Any] = {
    "net": {"input_shape": [(int,)]},
    "sample": {"*": (str, int, float, bool, list)},
    "test": {
        **dict.fromkeys(("accuracy", "error", "low", "high", "baseline", "r2"), NUMBER),
        "kind": WORD,
        "n": (int,),
        "score": {"name": WORD, "*": NUMBER},
        "recall": {"*": {"*": NUMBER}},
        "numbers": {"*": {"*": NUMBER}},
    },
    "cost": {"*": NUMBER},
    "effects": [{"parameter": WORD, "verdict": WORD, "seconds": NUMBER, "score": WORD, "numbers": (int,)}],
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
    "provenance": {"interrupted": FLAG, "wall_seconds": NUMBER, "budget_seconds": UNKNOWN},
    "notes": [WORD],
    "left_out": {"*": WORD},
    "views": {"count": (int,), "said": WORD},
    "goal": {"kept": FLAG, "text": WORD},
    "reasons": {"verdict": [{}], "choices": [{"parameter": WORD, "because": WORD, "source": WORD}], "layers": {}},
    "check": [{"where": WORD, "what": WORD, "answer": WORD}],
}


def called(numbers: Sequence[str]) -> dict[str, Any]:
    """What the numbers are called that are learnt, as `data` keeps it: one has a key of its own."""
    if len(numbers) > 1:
        return {"numbers": list(numbers)}
    return {"number": numbers[0]} if numbers else {}


def read(folder: Path, effect_of: Callable[[Any], Any]) -> dict[str, Any]:
    """choice.json of `folder`. UnusableInput where it is none, or of another kind; effect_of: reads one effect."""
    try:
        with (folder / FILE).open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise _refused(folder, f"is larger than {MOST_BYTES >> 20} MB")
        choice = json.loads(text.decode("utf-8"), object_pairs_hook=lambda pairs: _Mapping(folder, pairs))
    except (OSError, ValueError, RecursionError) as error:
        raise UnusableInput(str(folder), f"holds no choice ({type(error).__name__})", EXPECTED, FIX) from error
    missing = [key for key in WRITTEN if not (isinstance(choice, dict) and key in choice)]
    if missing:
        raise _refused(folder, f"has no {', '.join(missing)}")
    if wrong := _misfit(choice, KINDS):
        raise _refused(folder, f"has an unexpected value at {wrong}")
    for name, made, values in (("net", Net.from_json, [choice["net"]]), ("effects", effect_of, choice["effects"])):
        try:
            for value in values:
                made(value)
        except ConvwiseError as error:
            raise _refused(folder, f"has an unexpected value at {name}: {error}") from error
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
            raise _refused(folder, f"has an unexpected value at {name}") from error
    found: dict[str, Any] = choice
    return found


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
        return "" if fits else where
    if not isinstance(value, type(kind)):
        return where
    if isinstance(kind, list) and len(kind) not in (1, len(value)):
        return where
    if isinstance(kind, list):
        kind = kind * len(value) if len(kind) == 1 else kind
        pairs = [(f"{where}[{i}]", each, one) for i, (each, one) in enumerate(zip(value, kind, strict=True))]
    else:
        other = kind.get("*")
        pairs = [(f"{where}.{key}".lstrip("."), each, kind.get(key, other)) for key, each in value.items()]
    return next((wrong for place, each, one in pairs if one is not None and (wrong := _misfit(each, one, place))), "")
