"""What a folder or an archive holds: its paths, and the same as nested folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from convwise.core.problems import UnusableInput
from convwise.images import kinds, limits
from convwise.images.sources.found import shown

# Folders that machines add: thumbnails and other copies, never the pictures that were meant.
MACHINES = frozenset({
    "@eadir", "__macosx", "#recycle", "$recycle.bin", "@recycle", "thumbnails", "thumbs",
    "lost+found",
})  # fmt: skip


@dataclass(frozen=True)
class Listing:
    """What a folder or an archive holds, hidden things left out.

    pictures, others: files; folders: all of them.
    """

    pictures: Sequence[PurePosixPath]
    others: Sequence[PurePosixPath]
    folders: Sequence[PurePosixPath] = ()


def visible(path: PurePosixPath) -> bool:
    """False for hidden files and for what machines add, such as thumbnails."""
    return not any(piece.startswith(".") or piece.lower() in MACHINES for piece in path.parts)


@dataclass(eq=False)
class Tree:
    """A folder: what is in it, and how much below it. path: inside the source."""

    path: PurePosixPath
    folders: dict[str, Tree] = field(default_factory=dict)
    images: list[PurePosixPath] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    below: int = 0  # pictures, in folders inside this one too

    def __str__(self) -> str:
        return f"{shown(str(self.path))}/"

    def add(self, path: PurePosixPath, what: str) -> None:
        """Put a 'picture', an 'other' file or a 'folder' where its path says."""
        here, inside = self, path.parts if what == "folder" else path.parts[:-1]
        here.below += what == "picture"
        for name in inside:
            here = here.folders.get(name) or here.folders.setdefault(name, Tree(here.path / name))
            here.below += what == "picture"
        if what == "picture":
            here.images.append(path)
        elif what == "other":
            here.others[kinds.suffix(path.name) or "(no suffix)"] += 1

    @property
    def full(self) -> dict[str, Tree]:
        """The folders in it with pictures."""
        return {name: tree for name, tree in self.folders.items() if tree.below}

    @property
    def nested(self) -> dict[str, Tree]:
        """Those of them whose pictures stand in folders of their own."""
        return {name: tree for name, tree in self.full.items() if tree.full}

    @property
    def only(self) -> str:
        """The name of the only folder in it with pictures; '' where there are others, or none."""
        return next(iter(self.full)) if len(self.full) == 1 else ""

    def everything(self) -> Iterator[PurePosixPath]:
        """The paths of all pictures below."""
        yield from self.images
        for tree in self.folders.values():
            yield from tree.everything()

    def files(self) -> Counter[str]:
        """How many other files of each suffix are below."""
        return sum((tree.files() for tree in self.folders.values()), self.others.copy())


def tree_of(where: str, listing: Listing) -> Tree:
    """The listing as nested folders; UnusableInput where they are nested too deep."""
    root = Tree(PurePosixPath())
    holds = {"folder": listing.folders, "other": listing.others, "picture": listing.pictures}
    for what, paths in holds.items():
        for path in paths:
            if len(path.parts) > limits.DEPTH:
                told = f"{shown(str(path))[:40]}... is nested {len(path.parts)} folders deep"
                raise UnusableInput(where, told, f"at most {limits.DEPTH}", "move it up")
            root.add(path, what)
    return root


def nothing(listing: Listing) -> str:
    """What is said of a source without a picture."""
    files = by_suffix(Counter(kinds.suffix(path.name) or "(no suffix)" for path in listing.others))
    return f"holds no image, only {files}" if files else "holds no file"


def by_suffix(files: Counter[str]) -> str:
    """'3 .txt, 1 .pdf', of files counted by their suffixes."""
    return ", ".join(f"{count} {shown(suffix)}" for suffix, count in files.most_common(5))
