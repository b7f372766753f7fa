"""Folders that belong to one process at a time, and temporary ones that no kill leaves for good."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PREFIX = "convwise-run-"


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Inside, the folder is this process's. BlockingIOError where it is another's; False where
    nothing can be locked.

    It is the folder itself that is locked, by the system: the lock ends with the process, however
    that ends, and no file is left. Some systems, and some network file systems, have no such lock.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        yield False
        return
    place = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = True
        except BlockingIOError:
            raise
        except OSError:
            is_ours = False
        yield is_ours
    finally:
        os.close(place)


@contextmanager
def temporaries_in(folder: Path) -> Iterator[None]:
    """Inside, temporary files of every library are made in `folder`."""
    usual, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = usual


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is gone afterwards, for temporary files of every library too.

    What killed runs left goes first.
    """
    with folder_inside(tempfile.gettempdir(), PREFIX) as folder, temporaries_in(folder):
        yield folder


@contextmanager
def folder_inside(parent: str | Path, prefix: str) -> Iterator[Path]:
    """A folder of this name that is gone afterwards; what killed runs left in `parent` goes now."""
    remove_left(Path(parent), prefix)
    with ExitStack() as until_the_end:
        while True:
            folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
            # Another run may take it for one that was left, and remove it
            with suppress(BlockingIOError, FileNotFoundError):
                until_the_end.enter_context(locked(folder))
                if folder.exists():
                    break
        until_the_end.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def remove_left(parent: Path, prefix: str) -> None:
    """Remove this user's folders of this name that no process holds."""
    if not hasattr(os, "getuid"):  # Windows, where nothing can be locked
        return
    for folder in parent.glob(f"{prefix}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with locked(folder) as is_free:
                if is_free:
                    shutil.rmtree(folder, ignore_errors=True)
