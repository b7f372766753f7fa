"""One real study for every test that only reads what a study wrote."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import settings

from imagesets import write_folder
from studies import command

# A landing is decided by the change, not by luck; `pytest --hypothesis-profile default` draws other cases each time.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")


@pytest.fixture(scope="session")
def chosen(tmp_path_factory) -> SimpleNamespace:
    """A counted study of stripes, by the command line: images, folder, and how the command ended."""
    where = tmp_path_factory.mktemp("study")
    images = write_folder(where / "stripes", ("down", "up, or so", "4"), 40, 12, "L")
    folder = where / "chosen"
    ended = command("choose", images, "--trials", 4, "--workers", 1, "--goal", "accuracy where macs<100k",
                    "--out", folder, "--json")  # fmt: skip
    return SimpleNamespace(images=images, folder=folder, ended=ended)
