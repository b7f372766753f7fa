"""Arrays that are mapped from files: whose memory can be given back."""

from __future__ import annotations

import mmap


def at_rest(array: object) -> None:
    """Give back the memory of an array that is mapped from a file and not wanted soon; on the disk
    it stays.

    The system would take it back as well, but only where it is short of it. Of any other array
    nothing changes.
    """
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
