"""Interrupts that wait until there is something to answer with."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held(after: float, tell: Callable[[], None]) -> Iterator[None]:
    """Inside, an interrupt after `after` seconds is told, and raised at the end; an earlier or a second one at once.

    Only signals that raise KeyboardInterrupt already are held: SIGINT as Python has it, SIGTERM where the
    command takes it as that.
    """
    begun, asked = time.monotonic(), list[int]()

    def stop(number: int, frame: Any) -> None:
        if asked or time.monotonic() - begun < after:
            raise KeyboardInterrupt
        asked.append(number)
        tell()

    main = threading.current_thread() is threading.main_thread()  # no other may set handlers
    before = {each: signal.getsignal(each) for each in SIGNALS if main and callable(signal.getsignal(each))}
    for each in before:
        signal.signal(each, stop)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    if asked:
        raise KeyboardInterrupt
