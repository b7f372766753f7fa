"""Ctrl-C while a study runs: once, it asks for the best so far; once more, it ends at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ANSWER_SECONDS = 10.0  # after an interrupt the best so far is written
# A signal this soon after the first is the same wish: shells and make pass it on twice
REPEATED_SECONDS = 1.0


class Interrupts:
    """Inside `with`, the first interrupt raises KeyboardInterrupt, or waits where that would lose
    the answer.

    Only signals that raise KeyboardInterrupt already are taken: SIGINT as Python has it, SIGTERM
    where the command treats it as that. tell: called at once, to say that it was heard.
    """

    def __init__(self, tell: Callable[[], None] = lambda: None) -> None:
        self.tell = tell
        self.asked: float | None = None  # when, in time.monotonic seconds
        self._waits = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self._before = {
                each: signal.getsignal(each) for each in SIGNALS if callable(signal.getsignal(each))
            }
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
        with suppress(RuntimeError):  # it came in the midst of another line
            self.tell()
        if not self._waits:
            raise KeyboardInterrupt

    def left(self) -> float:
        """Seconds until what was asked for is to be written; infinite where nothing was asked."""
        return inf if self.asked is None else self.asked + ANSWER_SECONDS - time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, a first interrupt waits: it loses nothing that is being done."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
