"""Ctrl-C while a study runs: once, it asks for the best so far; once more, it ends at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
REPEATED_SECONDS = 1.0  # a signal this soon after the first is the same wish: shells and make pass it on twice


class Interrupts:
    """Inside `with`, the first interrupt raises KeyboardInterrupt, or waits where that would lose the answer.

    Only signals that raise KeyboardInterrupt already are taken: SIGINT as Python has it, SIGTERM where the
    command treats it as that. tell: called when an interrupt waits.
    """

    def __init__(self, tell: Callable[[], None]) -> None:
        self.tell = tell
        self.asked: float | None = None  # when, in time.monotonic seconds
        self._patient_from = inf
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self._before = {each: signal.getsignal(each) for each in SIGNALS if callable(signal.getsignal(each))}
        for each in self._before:
            signal.signal(each, self._stop)
        return self

    def __exit__(self, *error: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _stop(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self.asked is not None:
            if now - self.asked > REPEATED_SECONDS:
                raise KeyboardInterrupt
            return
        self.asked = now
        if now < self._patient_from:
            raise KeyboardInterrupt
        self.tell()

    @contextmanager
    def waiting(self, after: float = 0.0) -> Iterator[None]:
        """Inside, from `after` seconds on, a first interrupt waits: look at `asked` afterwards."""
        self._patient_from = time.monotonic() + after
        try:
            yield
        finally:
            self._patient_from = inf
