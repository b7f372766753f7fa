"""What is installed: for users what running needs, and no framework that only tests compare
with.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from studies import ENVIRONMENT
from test_house import FILES, ROOT, imported

TESTS_ONLY = ("tensorflow", "jax", "pytest", "hypothesis", "playwright", "mypy", "ruff", "pandas",
              "IPython",
              "cv2", "ipykernel", "jupyter_client")  # fmt: skip


def pinned(file: str) -> dict[str, str]:
    """Name -> version in a file of requirements, of what is for this platform; every line is a pin
    or a comment.
    """
    lines = [
        line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")
    ]
    wanted = [one for one in map(Requirement, lines) if one.marker is None or one.marker.evaluate()]
    return {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in wanted}


def needed(names: list[str]) -> set[str]:
    """All that these packages need, by what they say of themselves where they are installed."""
    seen: set[str] = set()
    while names:
        name = canonicalize_name(names.pop())
        if name in seen:
            continue
        seen.add(name)
        for text in metadata.requires(name) or []:
            wanted = Requirement(text)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                names.append(wanted.name)
    return seen


def test_users_get_what_running_needs_and_tests_get_the_rest():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = [canonicalize_name(Requirement(text).name) for text in project["dependencies"]]
    users, tests = set(pinned("requirements.txt")), set(pinned("requirements-test.txt"))
    assert set(direct) <= users
    extras = [
        Requirement(text).name
        for some in project.get("optional-dependencies", {}).values()
        for text in some
    ]
    assert users - needed([*direct, *extras]) <= {"setuptools"}  # which installs convwise itself
    assert tests & needed(direct) == set()


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-test.txt"])
def test_what_is_pinned_is_what_is_installed_here(file):
    """Renewing one without the other is found here, and not by a user."""
    versions = {name: metadata.version(name).partition("+")[0] for name in pinned(file)}
    assert versions == pinned(file)


def test_the_package_imports_nothing_that_only_tests_have():
    """pandas and IPython are taken where they are: inside a function, on use."""
    allowed = {"pandas": "output/choice.py", "IPython": "notebook.py"}
    found = {(name.split(".")[0], str(path)) for path in FILES for name in imported(path)}
    wrong = [
        (name, path)
        for name, path in found
        if name in TESTS_ONLY and not path.endswith(allowed.get(name, "\0"))
    ]
    assert wrong == []


def test_make_installs_only_what_its_target_needs():
    lines = {}
    for target in ("demo", "lint", "test", "test-slow"):
        made = subprocess.run(
            ["make", "-Bn", target], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        lines[target] = [line for line in made.splitlines() if " install " in line]
    assert not any("requirements-test" in line for line in lines["demo"])
    assert any("-r requirements.txt" in line for line in lines["demo"])
    for target in ("lint", "test", "test-slow"):
        assert any("requirements-test.txt" in line for line in lines[target])
    assert not any(re.search(r" -q+ | --quiet", line) for found in lines.values() for line in found)


WITHOUT = """
import sys
for name in {names}:
    sys.modules[name] = None  # as where it is not installed
import numpy as np
from convwise import formats
from convwise.core.layers import Conv2D, Dense, GlobalAveragePooling2D
from convwise.core.net import Net
from convwise.formats.weights import layout
net = Net((8, 8, 1), (Conv2D(4, 3), GlobalAveragePooling2D(), Dense(2, activation="softmax")))
rng = np.random.default_rng(0)
weights = {{key: rng.normal(size=shape).astype(np.float32) for key, shape in layout(net).items()}}
pixels = rng.integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
print(formats.write({folder!r}, net, weights, ("a", "b"), pixels))
import keras
assert keras.backend.backend() == "torch"
model = keras.saving.load_model({folder!r} + "/model.keras")
assert model.predict(pixels, verbose=0).shape == (4, 2)
"""


@pytest.mark.slow
def test_every_format_is_written_and_read_without_tensorflow(tmp_path):
    code = WITHOUT.format(
        names=("tensorflow", "jax", "pandas", "IPython"), folder=str(tmp_path / "out")
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert Path(tmp_path / "out" / "model.keras").stat().st_size > 0
