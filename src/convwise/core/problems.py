"""Findings and errors: the one form in which convwise says what is wrong.

The error tree:

    ConvwiseError            carries one Problem
    ├── UnusableInput        images, files or arguments that cannot be used     exit code 2
    ├── ShapeError           a layer that does not fit its input                exit code 2
    ├── Infeasible           a goal that no network can meet                    exit code 1
    ├── Unsupported          a net that a format cannot express, or not here    exit code 2
    └── ExportMismatch       a written model with answers of its own             exit code 2
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Problem:
    """One finding about data, a net or a request.

    where: the file, layer or argument concerned; what: what was found; expected: what should
    be there instead; fix: what to do about it; count: how many cases the finding stands for.
    """

    where: str
    what: str
    expected: str = ""
    fix: str = ""
    severity: Severity = "error"
    count: int = 1

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}"
        text += f"; expected {self.expected}" if self.expected else ""
        return text + (f". Fix: {self.fix}" if self.fix else "")


class ConvwiseError(Exception):
    """Base of every error that convwise raises on purpose; `problem` says what, and the fix."""

    exit_code = 2

    def __init__(self, where: str, what: str, expected: str = "", fix: str = "") -> None:
        self.problem = Problem(where, what, expected, fix)
        super().__init__(str(self.problem))


class UnusableInput(ConvwiseError):
    """Images, files or arguments that cannot be used."""


class ShapeError(ConvwiseError):
    """A layer that does not fit its input."""


class Infeasible(ConvwiseError):
    """A goal that no network can meet."""

    exit_code = 1


class Unsupported(ConvwiseError):
    """A layer that a format cannot express; without one, a format whose library is not there."""

    def __init__(self, format: str, layer: str, what: str, instead: str = "") -> None:
        self.format, self.layer = format, layer
        super().__init__(
            f"{format} export" + (f", layer {layer}" if layer else ""), what, fix=instead
        )


class ExportMismatch(ConvwiseError):
    """A written model whose answers are not those of the trained network."""


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
FORBIDDEN = {errno.EACCES, errno.EPERM}
UNUSABLE = {errno.ENAMETOOLONG, errno.ELOOP}
# What PyTorch and the loader of libraries say where there is no memory
NO_MEMORY = ("can't allocate memory", "failed to map segment")
LEAST_MEMORY = 2**30  # bytes of address space: what loading numpy, SciPy and PyTorch takes at least


def of_the_machine(error: BaseException, where: str) -> UnusableInput | None:
    """The message for a full or forbidden disk, an impossible name, or too little memory; None for
    any other error.

    where: what was being written, for an error that does not name it.
    """
    if isinstance(error, OSError) and error.errno in FORBIDDEN:
        what, fix = (
            f"cannot be opened ({error.strerror})",
            "grant permission, or choose another place",
        )
        return UnusableInput(
            str(error.filename or where), what, "a place that this user can read and write", fix
        )
    if isinstance(error, OSError) and error.errno in UNUSABLE:
        what = f"is no name for a file here ({error.strerror})"
        return UnusableInput(
            str(error.filename or where)[:100], what, "the path of a file or folder"
        )
    if isinstance(error, OSError) and error.errno in FULL:
        what, fix = (
            f"cannot be written ({error.strerror})",
            "make room there, and run the same command again",
        )
        return UnusableInput(
            str(error.filename or where), what, "a disk that has room and can be written to", fix
        )
    told = isinstance(error, (RuntimeError, ImportError)) and any(
        words in str(error) for words in NO_MEMORY
    )
    if isinstance(error, MemoryError) or told:
        what, fix = (
            "is not enough for this",
            "close other programs, raise the limit, or use smaller images",
        )
        return UnusableInput("memory", what, "more free memory", fix)
    return None


def refuse_little_memory() -> None:
    """UnusableInput where this process may not have the memory that its libraries take to load.

    To be asked before they are loaded: OpenBLAS ends the process then, with words of its own.
    """
    try:
        import resource
    except ModuleNotFoundError:  # Windows, where there is no such limit
        return
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    if allowed != resource.RLIM_INFINITY and allowed < LEAST_MEMORY:
        what = f"is limited to {allowed // 2**20} MiB for this process"
        expected = (
            f"at least {LEAST_MEMORY // 2**20} MiB, which loading numpy, SciPy and PyTorch takes"
        )
        raise UnusableInput("memory", what, expected, "raise the limit (ulimit -v), or remove it")
