"""Very many small pictures, decoded ahead by a process for each core: what they keep is found on the shelves later.

A small picture takes as long in Python as in its decoder, and threads take turns there. Whatever goes wrong here costs
time alone: what was not kept is read as ever.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from convwise.images.shelves import File, Shelves
from convwise.images.sources import Item
from convwise.images.stack import THREADS
from convwise.images.store import Store

ENOUGH = 8_000  # pictures: fewer are read sooner than processes start
SERVE = f"from {__name__} import serve; serve()"  # what such a process runs
STEP = 512  # pictures that a process takes at a time
A_FEW = 16  # pictures that are looked up, to see whether all are kept

Work = Callable[[Shelves, tuple[int, int], Sequence[Item]], Any]


def decoded(work: Work, shelves: Shelves, size: tuple[int, int], items: Sequence[Item],
            is_late: Callable[[], bool]) -> None:  # fmt: skip
    """Have processes do work(shelves, size, some of the items), in order, until all are done or it is late.

    work: a function of a module, which puts what it finds on the shelves. Nothing is done where there are few items,
    where nothing can be kept, and where all is kept already.
    """
    possible = THREADS > 1 and shelves.store.folder is not None and sys.executable
    if len(items) < ENOUGH or not possible or _kept(shelves, size, items):
        return
    try:
        begin = pickle.dumps((work, shelves.store.folder, shelves.store.most, shelves.place, size))
        pickle.dumps(items[0])
    except Exception:  # what opens a file of an archive stays in its process
        return
    few = iter([items[start : start + STEP] for start in range(0, len(items), STEP)])
    taking = threading.Lock()

    def feed(process: subprocess.Popen[bytes]) -> None:
        assert process.stdin
        assert process.stdout
        with suppress(OSError):  # it died
            process.stdin.write(begin)
            process.stdin.flush()
            while process.stdout.read(1):
                with taking:
                    some = None if is_late() else next(few, None)
                if some is None:
                    break
                process.stdin.write(pickle.dumps(some))
                process.stdin.flush()
            process.stdin.close()
            process.wait()

    with suppress(OSError), ExitStack() as until_the_end:  # no process can be started
        processes = [until_the_end.enter_context(_started()) for _ in range(THREADS)]
        with ThreadPoolExecutor(THREADS) as pool:
            try:
                list(pool.map(feed, processes))
            finally:  # an interrupt: the threads wait for nobody
                for process in processes:
                    process.kill()
    shelves.store.look_again()


def _kept(shelves: Shelves, size: tuple[int, int], items: Sequence[Item]) -> bool:
    """Whether a few of the items are kept, from the first to the last."""
    facts = shelves.facts(*size)
    return all(File.kept(item, item.stamp(), None, facts) for item in items[:: len(items) // A_FEW + 1])


@contextmanager
def _started() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]


def serve() -> None:
    """In such a process: the work on what comes in, until nothing more does or the one that asked is gone."""
    told, out = sys.stdin.buffer, os.dup(1)
    os.dup2(2, 1)  # nothing else is printed into the pipe
    with suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        work, folder, most, place, size = pickle.load(told)
        shelves = Shelves(Store(Path(folder), most), place)
        try:
            while True:
                os.write(out, b".")
                work(shelves, size, pickle.load(told))
        finally:
            shelves.store.flush()
