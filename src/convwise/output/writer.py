"""A process beside the study that loads the frameworks early, and writes the model files."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from convwise import formats
from convwise.core.layers import Dense, GlobalAveragePooling2D
from convwise.core.net import Net


class Writer:
    """Does what `formats.hand_over` does, called the same way, in a process that is ready for it.

    Loading Keras and ONNX Runtime takes longer than writing. Where the process is gone, or
    something goes wrong in it, it is done here: so the error is told as ever.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, tempfile.tempdir), daemon=True)
        self._process.start()
        theirs.close()

    def __call__(self, *what: Any, **how: Any) -> formats.Handed:
        """What was written."""
        found = None
        with suppress(OSError, EOFError):
            self._pipe.send((what, how))
            found = self._pipe.recv()
        return formats.hand_over(*what, **how) if found is None else found

    def close(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.join(5)
        self._pipe.close()


def _serve(pipe: Connection, temporary: str | None) -> None:
    """temporary: where the study's temporary files are, which the next run clears up."""
    tempfile.tempdir = temporary
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_study, daemon=True).start()
    _warm_up()

    # Only now: it takes seconds, in which an interrupt is to be ignored and the study's end noticed
    import torch

    # What is checked is little work, and threads wait for each other where others compute
    torch.set_num_threads(1)
    with suppress(OSError, EOFError):
        while True:
            what, how = pipe.recv()
            found = None
            with suppress(Exception):
                found = formats.hand_over(*what, **how)
            pipe.send(found)


def _end_with_the_study() -> None:
    study = multiprocessing.parent_process()
    if study:
        study.join()
        os._exit(0)


def _warm_up() -> None:
    """Load what writing needs, by writing a tiny net; an error comes again when it matters."""
    net = Net((8, 8, 1), (GlobalAveragePooling2D(), Dense(2, activation="softmax")))
    kernel = {"dense/kernel": np.zeros((1, 2), np.float32), "dense/bias": np.zeros(2, np.float32)}
    with suppress(Exception), tempfile.TemporaryDirectory() as folder:
        formats.hand_over(folder, net, kernel, ("a", "b"), np.zeros((1, 8, 8, 1), np.uint8))
