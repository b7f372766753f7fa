"""Fuzz one reader, led by which of its lines an input reaches:

    python tests/fuzz/fuzz.py zip -max_total_time=600

What follows the reader's name goes to libFuzzer, https://llvm.org/docs/LibFuzzer.html. It stops at
the first traceback, at an input that takes longer than ten seconds, and at one that takes memory of
another order than its size. The input is then in crash-*, oom-* or timeout-*: put it into
tests/fuzz/corpus/READER/, where the tests read it from.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

with atheris.instrument_imports(
    include=["convwise", "zipfile", "tarfile", "csv", "numpy.lib", "PIL"]
):
    from targets import TARGETS, tried

    import convwise.images.loading  # noqa: F401
    import convwise.inspect.checking  # noqa: F401
    import convwise.inspect.models  # noqa: F401
    import convwise.output.choice  # noqa: F401
    from convwise.formats import format_module

ODD = (None, True, -1, 0, 1, 2, 3, 10**6, 2**31, 2**63, 10**30, 0.5, -1.5, 1e308, float("nan"), "",
       "a", "\x1b[2J", [],
       [0], [-1], [2, 3], [10**9] * 3, {}, {"a": 1}, "same", "valid", "relu",
       "9" * 400)  # fmt: skip
SLOWEST_SECONDS, MOST_MB = 10, 4000  # the frameworks alone take 700


def changed_json(data: bytes, most: int, seed: int) -> bytes:
    """A value of the JSON replaced, removed, doubled, or moved; of what is none, and now and then,
    bytes.
    """
    rng = random.Random(seed)
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        return atheris.Mutate(data, most)
    if rng.random() < 0.1:
        return atheris.Mutate(data, most)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        spots = list(_spots(whole))
        if not spots:
            break
        owner, key = rng.choice(spots)
        what = rng.random()
        if what < 0.55:
            owner[key] = json.loads(json.dumps(rng.choice(ODD)))
        elif what < 0.7:
            del owner[key]
        elif what < 0.85:
            other, place = rng.choice(spots)
            owner[key] = json.loads(json.dumps(other[place])) if _has(other, place) else None
        elif isinstance(owner, list):
            owner.insert(key, owner[key])
        else:
            owner[rng.choice(("name", "inputs", "class", "shape", "x"))] = owner[key]
    return json.dumps(whole).encode()[:most]


def _spots(value, limit=5000):
    """Every (container, key) of a JSON value."""
    waiting = [value]
    while waiting and limit:
        owner = waiting.pop()
        for key in (
            list(owner)
            if isinstance(owner, dict)
            else range(len(owner))
            if isinstance(owner, list)
            else ()
        ):
            limit -= 1
            yield owner, key
            waiting.append(owner[key])


def _has(owner, key) -> bool:
    return key in owner if isinstance(owner, dict) else key < len(owner)


def main() -> None:
    name, *options = sys.argv[1:]
    target = TARGETS[name]
    for each in ("torch", "keras", "onnx"):
        format_module(each)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    seeds = folder / "seeds"
    seeds.mkdir()
    for number, data in enumerate(target.seeds()):
        (seeds / str(number)).write_bytes(data)
    place = folder / "input"

    def one(data: bytes) -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        tried(target, data, place)

    one(b"")  # what is imported at the first input takes seconds that are not the input's
    corpus = [str(path) for path in [HERE / "corpus" / name] if path.is_dir()]
    limits = [
        f"-timeout={SLOWEST_SECONDS}",
        f"-rss_limit_mb={MOST_MB}",
        f"-malloc_limit_mb={MOST_MB}",
        "-max_len=100000",
    ]
    how = {"custom_mutator": changed_json} if target.is_json else {}
    atheris.Setup([sys.argv[0], *limits, *options, str(seeds), *corpus], one, **how)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
