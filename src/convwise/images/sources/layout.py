"""Paths of pictures -> the part and the class of each: the same for folders and archives.

Class folders stand at one level, below folders that wrap them (photos/photos/cats) and below those
of the parts (seg_train/seg_train/forest). Where folders can be read in two ways they are refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from convwise.core.problems import Problem, UnusableInput
from convwise.images import kinds, limits
from convwise.images.sources.found import PART_NAMES, PartName, counted, label_of, shown

LAYOUT = "one folder of images per class (cats/1.jpg, dogs/2.jpg), with or without train/, valid/ and test/ above"
# What people call a folder that only holds others.
WRAPPERS = frozenset(
    {"images", "image", "imgs", "img", "data", "dataset", "datasets", "pictures", "photos", "jpegimages", "raw"}
)
# What machines add: thumbnails and other copies, never the pictures that were meant.
MACHINES = frozenset(
    {"@eadir", "__macosx", "#recycle", "$recycle.bin", "@recycle", "thumbnails", "thumbs", "lost+found"}
)
BY_NAME, BY_CSV = "--classes-from name", "--classes-from csv"


@dataclass(frozen=True)
class Listing:
    """What a folder or an archive holds, hidden things left out: files that are pictures, others, and all folders."""

    pictures: Sequence[PurePosixPath]
    others: Sequence[PurePosixPath]
    folders: Sequence[PurePosixPath] = ()


@dataclass(frozen=True)
class Place:
    """Where an image stands: its path in the source, its part, its class, and its group, as in Item."""

    path: PurePosixPath
    part: PartName | None
    label: str
    group: str = ""


@dataclass
class Arranged:
    """places: of every image that has one; the rest as in Found."""

    places: list[Place] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    empty: dict[str, str] = field(default_factory=dict)
    roles: dict[PartName, str] = field(default_factory=dict)
    homeless: list[PurePosixPath] = field(default_factory=list)  # beside the class folders
    numbers: tuple[str, ...] = ()
    grouped: str = ""


def visible(path: PurePosixPath) -> bool:
    """False for hidden files and for what machines add, such as thumbnails."""
    return not any(piece.startswith(".") or piece.lower() in MACHINES for piece in path.parts)


def role(name: str) -> PartName | None:
    """The part that a folder's name says: train, training_set, seg_train, TrainImages, train2017; None for others."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
    named = (PART_NAMES.get(re.sub(r"(sets?|data|images?|imgs?)$", "", word)) for word in words)
    found = {part for part in named if part}
    return min(found) if len(found) == 1 else None


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
    for what, paths in (("folder", listing.folders), ("other", listing.others), ("picture", listing.pictures)):
        for path in paths:
            if len(path.parts) > limits.DEPTH:
                told = f"{shown(str(path))[:40]}... is nested {len(path.parts)} folders deep"
                raise UnusableInput(where, told, f"at most {limits.DEPTH}", "move it up")
            root.add(path, what)
    return root


def arrange(where: str, listing: Listing) -> Arranged:
    """Part and class of every image, and what was left out; UnusableInput where that is not plain."""
    tree = tree_of(where, listing)
    if not tree.below:
        raise UnusableInput(where, nothing(listing), LAYOUT, f"image files are {', '.join(sorted(kinds.READ))}")
    level = _below_wrappers(tree)
    arranged = Arranged()
    if parts := _parts(where, level):
        _by_parts(where, level, parts, arranged)
    else:
        _by_classes(where, level, arranged)
    if not arranged.places:
        raise loose(where, [path.name for path in level.everything()])
    arranged.places.sort(key=lambda place: place.path.parts)
    arranged.problems += _left_out(where, tree.files(), sorted(arranged.homeless))
    return arranged


def _below_wrappers(level: Tree) -> Tree:
    """The first folder that is no wrapper: one that holds nothing but a folder of folders."""
    while len(level.full) == 1 and not level.images:
        ((name, inner),) = level.full.items()
        alone = len(level.folders) == 1 or name.lower() in WRAPPERS
        parts = "train" in map(role, inner.nested)
        if role(name) or not inner.full or inner.images or not (alone or parts):
            break
        level = inner
    return level


# --- parts ---------------------------------------------------------------------------------------


def _parts(where: str, level: Tree) -> dict[PartName, Tree]:
    """The folder of each part, where the level is one of parts; UnusableInput where it could be, or lacks train."""
    named = [(part, tree) for name, tree in level.full.items() if (part := role(name))]
    roles = {part for part, _ in named}
    rest = [tree for name, tree in level.full.items() if not role(name)]
    if "train" not in map(role, level.nested):
        all_parts = named and not rest and not level.images
        if all_parts and "train" not in roles and any(tree.full for _, tree in named):
            only = ", ".join(sorted(shown(tree.path.name) for _, tree in named))
            fix = "add train/, or name the folder of classes itself"
            raise UnusableInput(where, f"has {only} but no train", LAYOUT, fix)
        if all_parts and len(roles) == len(named) and (len(roles) > 1 or "train" in roles):
            raise loose(where, [path.name for path in level.everything()], sorted(str(tree) for _, tree in named))
        return {}
    found = {part: _one_of(where, part, [tree for other, tree in named if other == part]) for part in sorted(roles)}
    _refuse_doubled(where, level)
    if rest and len(roles) == 1:
        beside = ", ".join(sorted(map(str, rest))[:5])
        what = f"{found['train']} looks like the part to train on, but {beside} beside it"
        fix = "move what is not a class elsewhere, or rename train/ if it is a class"
        raise UnusableInput(where, f"{what} can be read as classes", LAYOUT, fix)
    return found


def _one_of(where: str, part: PartName, trees: Sequence[Tree]) -> Tree:
    """The folder of a part: the only one, or the only one with class folders."""
    nested = [tree for tree in trees if tree.full] or trees
    if len(nested) > 1:
        what = f"{' and '.join(sorted(map(str, nested)))} could each be the {part} part"
        raise UnusableInput(where, what, f"one folder for {part}", "move the other one away, or merge them")
    return nested[0]


def _by_parts(where: str, level: Tree, parts: Mapping[PartName, Tree], arranged: Arranged) -> None:
    arranged.homeless += level.images
    for part, top in parts.items():
        tree = _inside(top, part)
        _refuse_doubled(where, tree)
        if not tree.full or (len(tree.full) == 1 and not tree.nested and _only(tree).lower() in WRAPPERS):
            if part == "train":
                raise loose(where, [path.name for path in tree.everything()], [str(tree)])
            what = f"{tree} holds {counted(tree.below, 'image')}, but no class folders: left out"
            arranged.problems.append(Problem(where, what, LAYOUT, severity="warning", count=tree.below))
            continue
        arranged.roles[part] = shown(str(tree.path))
        _take_classes(tree, part, arranged)
    for name, tree in level.folders.items():
        if role(name) and not tree.below:
            what = f"{tree} holds no image: the {role(name)} part is drawn from train, if there is one"
            arranged.problems.append(Problem(where, what, severity="warning"))
        elif tree.below and tree not in parts.values():
            what = f"{tree} is not a train, validation or test part: left out, with {counted(tree.below, 'image')}"
            fix = "give it one of those names if it is one of them"
            arranged.problems.append(Problem(where, what, LAYOUT, fix, "warning", tree.below))


def _inside(tree: Tree, part: PartName) -> Tree:
    """The level of classes of a part: below seg_train/seg_train or train/images."""
    while len(tree.folders) == 1 and len(tree.nested) == 1 and not tree.images:
        name = _only(tree)
        if role(name) != part and name.lower() not in WRAPPERS:
            break
        tree = tree.nested[name]
    return tree


def _only(tree: Tree) -> str:
    return next(iter(tree.full))


# --- classes -------------------------------------------------------------------------------------


def _by_classes(where: str, level: Tree, arranged: Arranged) -> None:
    _refuse_doubled(where, level)
    if len(level.full) == 1 and not level.nested and (_only(level).lower() in WRAPPERS or role(_only(level))):
        return  # images/1.jpg: a folder of pictures, not a class
    inner = [{role(name) for name in tree.full} for tree in level.full.values()]
    if len(inner) > 1 and all(names and None not in names for names in inner) and all("train" in n for n in inner):
        _parts_in_classes(where, level, arranged)
    else:
        _take_classes(level, None, arranged)


def _parts_in_classes(where: str, level: Tree, arranged: Arranged) -> None:
    """cats/train/1.jpg, cats/test/2.jpg, dogs/train/..."""
    if any(inner.full for tree in level.full.values() for inner in tree.full.values()):
        some = ", ".join(map(str, list(level.full.values())[:3]))
        what = f"each of {some} has its own train part and classes"
        raise UnusableInput(where, what, "one set of images", f"name one of them: {some}")
    arranged.homeless += [path for tree in (level, *level.full.values()) for path in tree.images]
    for name, tree in level.full.items():
        for inner_name, inner in tree.full.items():
            part = role(inner_name)
            arranged.places += [Place(path, part, label_of(name)) for path in inner.images]
            arranged.roles |= {part: f"*/{shown(inner_name)}"} if part else {}
    _note_empty(level, arranged)


def _take_classes(level: Tree, part: PartName | None, arranged: Arranged) -> None:
    arranged.homeless += level.images
    for name, tree in level.full.items():
        label = label_of(name)
        arranged.places += [Place(path, part, label) for path in tree.everything()]
    _note_empty(level, arranged)


def _note_empty(level: Tree, arranged: Arranged) -> None:
    for name, tree in level.folders.items():
        if not tree.below:
            holds = f"only {files}" if (files := _counted(tree.files())) else "no file"
            arranged.empty.setdefault(label_of(name), f"{tree} holds {holds}")


def _refuse_doubled(where: str, level: Tree) -> None:
    """pets/cats, pets/dogs and pets/pets/cats, pets/pets/dogs: the set, and a copy of it inside."""
    for name, tree in level.nested.items():
        others = set(level.full) - {name}
        if len(others) > 1 and others <= set(tree.full):
            what = f"holds {', '.join(map(shown, sorted(others)[:5]))} twice: here and again in {tree}"
            raise UnusableInput(where, what, "each image once", f"move {tree} away, or name it instead")


def loose(where: str, names: Sequence[str], folders: Sequence[str] = ()) -> UnusableInput:
    """What is said of images without class folders: in `folders`, or in the source itself."""
    holds = f"{' and '.join(folders)} hold" + "s" * (len(folders) == 1) if folders else "there are"
    told = {label: name for name in names if (label := class_before_number(PurePosixPath(name).stem))}
    example = next(iter(told.items()), ("", ""))
    by_name = f", give {BY_NAME} (which takes {example[0]} from {shown(example[1])})" if len(told) > 1 else ""
    fix = f"put each class in a folder{by_name}, or give {BY_CSV} where a table tells the classes"
    return UnusableInput(where, f"{holds} {counted(len(names), 'image')}, but no class folders", LAYOUT, fix)


# --- what was left out ---------------------------------------------------------------------------


def _left_out(where: str, others: Counter[str], homeless: Sequence[PurePosixPath]) -> Iterator[Problem]:
    if others:
        what = f"files that are not images were ignored: {_counted(others)}"
        yield Problem(where, what, severity="note", count=others.total())
    if homeless:
        names = ", ".join(shown(str(path)) for path in homeless[:5]) + (", ..." if len(homeless) > 5 else "")
        what = f"ignored because they are in no class folder: {counted(len(homeless), 'image')}, {names}"
        yield Problem(where, what, LAYOUT, severity="warning", count=len(homeless))


def class_before_number(stem: str) -> str | None:
    """'cat' of cat.12, cat_003, cat (1) or cat12; 'type1' of type1_12; None where the name is a number."""
    number = r"[(\[]?\d+[)\]]?"
    label = re.sub(rf"([\s._-]+{number})+$", "", stem)
    if label == stem:
        label = re.sub(rf"{number}$", "", stem)
    return label.strip(" ._-") or None


def nothing(listing: Listing) -> str:
    """What is said of a source without a picture."""
    files = _counted(Counter(kinds.suffix(path.name) or "(no suffix)" for path in listing.others))
    return f"holds no image, only {files}" if files else "holds no file"


def _counted(files: Counter[str]) -> str:
    return ", ".join(f"{count} {shown(suffix)}" for suffix, count in files.most_common(5))
