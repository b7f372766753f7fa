"""`python tests/sealed.py COMMAND ...`: the command, without a way to the network.

Whoever sends something to an internet address, a lookup of a name included, is ended by the system
with SIGSYS: in C code as in Python, in children too. Local (UNIX) sockets are left alone, and so is
listening. It is a filter of seccomp (Linux; no rights are needed):
https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

CALLS = {"x86_64": (42, 44), "aarch64": (203, 206)}  # connect, sendto
SIZES = (16, 28)  # of an address: sockaddr_in, sockaddr_in6; the filter can see nothing else of it
LOAD, IF_EQUAL, RETURN = 0x20, 0x15, 0x06
KILL_PROCESS, ALLOW = 0x80000000, 0x7FFF0000
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2  # of prctl
# Places in seccomp_data; arguments are little-endian
NUMBER, THIRD, SIXTH = 0, 16 + 2 * 8, 16 + 5 * 8


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def seal() -> None:
    """From now on, for this process and its children."""
    connect, sendto = CALLS[platform.machine()]
    steps = _filter(((connect, THIRD), (sendto, SIXTH)))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = _Program(len(steps), ctypes.cast(code, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    for request in (
        (NO_NEW_PRIVILEGES, 1, 0, 0, 0),
        (SECCOMP, FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*request):
            raise OSError(ctypes.get_errno(), "no filter of system calls here")


def _filter(calls: tuple[tuple[int, int], ...]) -> list[tuple[int, int, int, int]]:
    """Steps (code, jump if so, jump if not, value): of each call, the size of its address is looked
    at.
    """
    steps = []
    for number, place in calls:
        steps += [
            (LOAD, 0, 0, NUMBER),
            (IF_EQUAL, 0, 4, number),
            (LOAD, 0, 0, place),
            (IF_EQUAL, 1, 0, SIZES[0]),
            (IF_EQUAL, 0, 1, SIZES[1]),
            (RETURN, 0, 0, KILL_PROCESS),
        ]
    return [*steps, (RETURN, 0, 0, ALLOW)]


if __name__ == "__main__":
    seal()
    os.execvp(sys.argv[1], sys.argv[1:])
