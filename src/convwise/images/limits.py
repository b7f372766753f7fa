"""How much a source may ask for, in one table: what it may cost to open foreign files."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """most: in `unit`; why: what it keeps away, and why nothing sound comes near it."""

    most: int
    unit: str
    why: str


LIMITS: dict[str, Limit] = {
    "picture": Limit(10**8, "pixels",
    "1 GB of memory while it is decoded; the largest cameras have 10**8"),
    "at once": Limit(10**8, "pixels",
    "in all threads together: one of the largest, or ten of 10 megapixels"),
    "file": Limit(400 * 2**20, "bytes", "a picture of 10**8 RGB pixels, not compressed, is 300 MB"),
    "metadata": Limit(32 * 2**20, "bytes",
    "colour profiles and texts in a PNG, unpacked; profiles reach 4 MB"),
    "unpacked": Limit(16 * 2**30, "bytes",
    "for a whole archive: what a workstation can still hold in memory"),
    "unpacked by": Limit(200, "times",
    "deflate reaches 1,000 on zeros alone; masks stay under 100"),
    "unpacked free": Limit(256 * 2**20, "bytes",
    "up to this size any factor is allowed: small sets of flat pictures"),
    "files": Limit(2_000_000, "files", "each costs about 1 kB before a picture is read"),
    "depth": Limit(100, "folders", "nested: each costs a call, and Python allows 1,000"),
    "label": Limit(1000, "characters",
    "each label takes as much room as the longest; file systems stop at 255"),
    "manifest": Limit(2**27, "bytes",
    "a CSV of 2,000,000 rows; in memory it takes ten times as much"),
}  # fmt: skip

PICTURE, AT_ONCE, FILE, METADATA = (
    LIMITS[name].most for name in ("picture", "at once", "file", "metadata")
)
FILES, DEPTH, LABEL, MANIFEST, UNPACKED = (
    LIMITS[name].most for name in ("files", "depth", "label", "manifest", "unpacked")
)


def unpacked(packed: int) -> int:
    """How many bytes a file of `packed` bytes may unpack to."""
    return min(UNPACKED, LIMITS["unpacked free"].most + LIMITS["unpacked by"].most * packed)


def size(count: int) -> str:
    """Bytes in words: '6.0 GiB', '40 MiB'."""
    if count >= 2**50:
        return "over a million GiB"
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{max(count // 2**20, 1)} MiB"
