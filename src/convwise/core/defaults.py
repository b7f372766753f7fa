"""Defaults and bounds of a study's options, where the help can tell them and loads no library."""

from __future__ import annotations

TEST_SHARE = 0.2  # of the images, sealed where a source has no test part of its own
MOST_WORKERS = 8  # by default: a team's batch grows with its members
# Share of the core time for trials of other values; the rest trains the choice
EVIDENCE, MOST_EVIDENCE = 0.1, 0.5
