"""How many cores there are to compute with."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores that this process may use: some of the machine's under taskset or in a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
