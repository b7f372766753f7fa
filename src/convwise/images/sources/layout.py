"""Paths of pictures -> the part and the class of each: the same for folders and archives.

Class folders stand at one level, below folders that wrap them (photos/photos/cats) and below those
of the parts (seg_train/seg_train/forest). Where folders can be read in two ways they are refused.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from convwise.core.problems import Problem, UnusableInput
from convwise.images import kinds
from convwise.images.sources.found import (
    BY_WAY,
    PART_NAMES,
    PartName,
    counted,
    label_of,
    shown,
    some,
)
from convwise.images.sources.tree import Listing, Tree, by_suffix, nothing, tree_of

LAYOUT = (
    "one folder of images per class (cats/1.jpg, dogs/2.jpg), with or without train/, valid/ and"
    " test/ above"
)
# What people call a folder that only holds others.
WRAPPERS = frozenset({
    "images", "image", "imgs", "img", "data", "dataset", "datasets", "pictures", "photos",
    "jpegimages", "raw",
})  # fmt: skip
SPARE = frozenset({"trainval", "holdout", "heldout"})
COMPARED = 50  # folders at most that hold a name, when pairs with the same names are looked for


@dataclass(frozen=True)
class Place:
    """Where an image stands: its path in the source, its part, its class and its group."""

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


def role(name: str) -> PartName | None:
    """The part that a folder's name says: train, training_set, seg_train, TrainImages, train2017.

    train_val is all that is not test. None for other names.
    """
    found = {PART_NAMES[word] for word in _part_words(name)}
    return "train" if found == {"train", "valid"} else min(found) if len(found) == 1 else None


def _part_words(name: str) -> list[str]:
    """The words of a name that are in PART_NAMES."""
    held_out = re.compile(r"(hold|held)[\W_]*out", re.IGNORECASE)
    whole = held_out.sub(lambda match: f"{match[1]}out".lower(), name)
    words = (word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", whole))
    bare = (re.sub(r"(sets?|data|images?|imgs?)$", "", word) for word in words)
    return [word for word in bare if word in PART_NAMES]


def is_spare(name: str) -> bool:
    """Whether a folder is its part only where no other is: as trainval beside train."""
    words = set(_part_words(name))
    return bool(words & SPARE) or len({PART_NAMES[word] for word in words}) > 1


def arrange(where: str, listing: Listing) -> Arranged:
    """Part and class of every image, and what was left out; UnusableInput where it is not plain."""
    tree = tree_of(where, listing)
    if not tree.below:
        fix = f"image files are {', '.join(sorted(kinds.READ))}"
        raise UnusableInput(where, nothing(listing), LAYOUT, fix)
    level = _below_wrappers(tree)
    arranged = Arranged()
    if parts := _parts(where, level):
        _by_parts(where, level, parts, arranged)
    else:
        _by_classes(where, level, arranged)
    if not arranged.places:
        raise _loose(where, level)
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
    """The folder of each part, where the level is one of parts.

    UnusableInput where it could be one, or lacks train.
    """
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
            raise _loose(where, level, sorted(str(tree) for _, tree in named))
        return {}
    found = {}
    for part in sorted(roles):
        found[part] = _one_of(where, part, [tree for other, tree in named if other == part])
    _refuse_doubled(where, level)
    if rest and len(roles) == 1:
        beside = ", ".join(sorted(map(str, rest))[:5])
        what = f"{found['train']} looks like the training part, but {beside} beside it"
        fix = "move what is not a class elsewhere, or rename train/ if it is a class"
        raise UnusableInput(where, f"{what} can be read as classes", LAYOUT, fix)
    return found


def _one_of(where: str, part: PartName, trees: Sequence[Tree]) -> Tree:
    """The folder of a part: the only one, or the only one with class folders or a plain name."""
    nested = [tree for tree in trees if tree.full] or trees
    nested = [tree for tree in nested if not is_spare(tree.path.name)] or nested
    if len(nested) > 1:
        what = f"{' and '.join(sorted(map(str, nested)))} each look like the {part} part"
        fix = "move the other one away, or merge them"
        raise UnusableInput(where, what, f"one folder for {part}", fix)
    return nested[0]


def _by_parts(where: str, level: Tree, parts: Mapping[PartName, Tree], arranged: Arranged) -> None:
    arranged.homeless += level.images
    for part, top in parts.items():
        tree = _inside(top, part)
        _refuse_doubled(where, tree)
        if not tree.full or (not tree.nested and tree.only.lower() in WRAPPERS):
            if part == "train":
                raise _loose(where, tree, [str(tree)])
            what = f"{tree} holds {counted(tree.below, 'image')}, but no class folders: left out"
            arranged.problems.append(Problem(where, what, LAYOUT, "", "warning", tree.below))
            continue
        arranged.roles[part] = shown(str(tree.path))
        _take_classes(where, tree, part, arranged)
    for name, tree in level.folders.items():
        if role(name) and not tree.below:
            what = f"{tree} holds no image: the {role(name)} part is drawn from train, if there is"
            what += " one"
            arranged.problems.append(Problem(where, what, severity="warning"))
        elif tree.below and tree not in parts.values():
            what = f"{tree} is not a train, validation or test part: left out, with"
            what += f" {counted(tree.below, 'image')}"
            fix = "give it one of those names if it is one of them"
            arranged.problems.append(Problem(where, what, LAYOUT, fix, "warning", tree.below))


def _inside(tree: Tree, part: PartName) -> Tree:
    """The level of classes of a part: below seg_train/seg_train or train/images."""
    while len(tree.folders) == 1 and len(tree.nested) == 1 and not tree.images:
        if role(tree.only) != part and tree.only.lower() not in WRAPPERS:
            break
        tree = tree.nested[tree.only]
    return tree


# --- classes -------------------------------------------------------------------------------------


def _by_classes(where: str, level: Tree, arranged: Arranged) -> None:
    _refuse_doubled(where, level)
    only = "" if level.nested else level.only
    if only.lower() in WRAPPERS or role(only):
        return  # images/1.jpg: a folder of pictures, not a class
    if _has_parts_in_classes(where, level):
        _parts_in_classes(where, level, arranged)
    else:
        _take_classes(where, level, None, arranged)


def _has_parts_in_classes(where: str, level: Tree) -> bool:
    """Whether the folders in each class are parts; UnusableInput where they are in some only."""
    inner = {name: {role(each) for each in tree.full} for name, tree in sorted(level.full.items())}
    every = set().union(*inner.values()) if len(inner) > 1 else set()
    if None not in every and all(inner.values()) and ("train" in every or len(every) > 1):
        if "train" in every:
            return True
        there = sorted({f"{shown(each)}/" for tree in level.full.values() for each in tree.full})
        what = f"each class holds {some(there)}, but none holds train/"
        raise UnusableInput(where, what, LAYOUT, "call the folders to learn from train/")
    split = [name for name, roles in inner.items() if "train" in roles and len(roles - {None}) > 1]
    if not every or not split:
        return False
    more = [name for name in split if None in inner[name]]
    tree = level.full[(more or split)[0]]
    parts = " and ".join(sorted(f"{shown(each)}/" for each in tree.full if role(each)))
    beside = sorted(f"{shown(each)}/" for each in tree.full if not role(each))
    without = [str(level.full[name]) for name in inner if name not in split]
    but = f"{', '.join(without[:5])} without" if without else f"{', '.join(beside[:5])} beside them"
    what = f"{tree} holds the parts {parts}, but there is {but}"
    fix = f"{_asked(level, '{class}/**')} trains on all that is in no part,"
    fix += " or give each class the parts and nothing else"
    raise UnusableInput(where, what, "the same parts in each class", fix)


def _parts_in_classes(where: str, level: Tree, arranged: Arranged) -> None:
    """cats/train/1.jpg, cats/test/2.jpg, dogs/train/..."""
    if any(inner.full for tree in level.full.values() for inner in tree.full.values()):
        those = ", ".join(map(str, list(level.full.values())[:3]))
        what = f"each of {those} has its own train part and classes"
        raise UnusableInput(where, what, "one set of images", f"name one of them: {those}")
    arranged.homeless += [path for tree in (level, *level.full.values()) for path in tree.images]
    for name, tree in level.full.items():
        plain = {role(inner_name) for inner_name in tree.full if not is_spare(inner_name)}
        for inner_name, inner in tree.full.items():
            part = role(inner_name)
            if is_spare(inner_name) and part in plain:
                arranged.homeless += inner.images
                continue
            arranged.places += [Place(path, part, label_of(name)) for path in inner.images]
            arranged.roles |= {part: f"*/{shown(inner_name)}"} if part else {}
    _note_empty(level, arranged)


def _take_classes(where: str, level: Tree, part: PartName | None, arranged: Arranged) -> None:
    _refuse_two_levels(where, level)
    arranged.homeless += level.images
    for name, tree in level.full.items():
        label = label_of(name)
        arranged.places += [Place(path, part, label) for path in tree.everything()]
    if part in ("train", None):
        arranged.problems += _told_of_two_levels(where, level)
    _note_empty(level, arranged)


def _refuse_two_levels(where: str, level: Tree) -> None:
    """fold1/cats, fold1/dogs and fold2/cats, fold2/dogs: either level may be that of the classes.

    Or they are parts, copies or masks.
    """
    if not (alike := _alike(level)):
        return
    one, other = sorted(alike, key=lambda tree: -tree.below)
    inner = [name for name in _below(one).full if name in _below(other).full]
    outer = ", ".join(shown(tree.path.name) for tree in alike)
    between = "*/" * (len(_below(one).path.parts) - len(one.path.parts))
    pictures = next((f"{between}{name}/" for name in inner if name.lower() in WRAPPERS), "")
    ways = {
        f"{some(sorted(map(shown, inner)), 2)} of all": f"*/{between}{{class}}/**",
        f"those of {one} alone": f"{_literal(one.path.name)}/{between}{{class}}/**",
        outer: f"{{class}}/{_literal(pictures)}**",
    }
    what = f"{' and '.join(map(str, alike))} both hold {some(sorted(map(shown, inner)))}:"
    what += f" either these are the classes, or {outer} are"
    fix = "; ".join(f"{_asked(level, pattern)} takes {meant}" for meant, pattern in ways.items())
    fix += ". If they are parts, call them train/ and test/"
    raise UnusableInput(where, what, LAYOUT, fix)


def _alike(level: Tree) -> tuple[Tree, Tree] | None:
    """Two folders that hold the same names: two or more, and half of those of the smaller one."""
    holding: dict[str, list[str]] = {}
    inner = {name: set(_below(tree).full) for name, tree in sorted(level.nested.items())}
    for name, names in inner.items():
        shared = Counter(other for each in names for other in holding.get(each, [])[:COMPARED])
        for other, count in sorted(shared.items()):
            if count > 1 and 2 * count >= min(len(names), len(inner[other])):
                return level.full[other], level.full[name]
        for each in names:
            holding.setdefault(each, []).append(name)
    return None


def _below(tree: Tree) -> Tree:
    """The folder itself, or the first one in it that holds more than one folder of folders."""
    while len(tree.folders) == 1 and len(tree.nested) == 1 and not tree.images:
        tree = tree.nested[tree.only]
    return tree


def _told_of_two_levels(where: str, level: Tree) -> Iterator[Problem]:
    """What is said of classes with several folders in them, which may be the classes meant."""
    deep = [tree for _, tree in sorted(level.nested.items()) if len(_below(tree).full) > 1]
    if deep:
        held = [f"{tree} ({some(sorted(map(shown, _below(tree).full)), 3)})" for tree in deep]
        what = f"folders in the folder of a class count as that class: {some(held, 3)}"
        if len(deep) == len(level.full) > 1 and not any(tree.images for tree in deep):
            fix = f"{_asked(level, '**/{class}/*')}, if the inner folders are the classes"
            yield Problem(where, what, fix=fix, severity="warning", count=len(deep))
        else:
            yield Problem(where, what, severity="note", count=len(deep))


def _asked(level: Tree, pattern: str) -> str:
    """The option that takes classes by a pattern of what is below the level, as it is typed."""
    above = "".join("*/" if role(name) else f"{_literal(name)}/" for name in level.path.parts)
    return f"{BY_WAY} {shlex.quote(f'name:{above}{pattern}')}"


def _literal(name: str) -> str:
    """A name in a pattern; what is not plain matches anything."""
    return re.sub(r"[^\w ./()+-]+", "*", name)


def _note_empty(level: Tree, arranged: Arranged) -> None:
    for name, tree in level.folders.items():
        if not tree.below:
            holds = f"only {files}" if (files := by_suffix(tree.files())) else "no file"
            arranged.empty.setdefault(label_of(name), f"{tree} holds {holds}")


def _refuse_doubled(where: str, level: Tree) -> None:
    """pets/cats, pets/dogs and pets/pets/cats, pets/pets/dogs: the set, and a copy of it inside."""
    for name, tree in level.nested.items():
        others = set(level.full) - {name}
        if len(others) > 1 and others <= set(tree.full):
            those = ", ".join(map(shown, sorted(others)[:5]))
            what = f"holds {those} twice: here and again in {tree}"
            fix = f"move {tree} away, or name it instead"
            raise UnusableInput(where, what, "each image once", fix)


def _loose(where: str, level: Tree, folders: Sequence[str] = ()) -> UnusableInput:
    """What is said of images without class folders: in `folders`, or in the source itself."""
    holds = f"{' and '.join(folders)} hold" + "s" * (len(folders) == 1) if folders else "there are"
    what = f"{holds} {counted(level.below, 'image')}, but no class folders"
    named = {class_before_number(path.stem): path.name for path in level.everything()}
    told = [(label, name) for label, name in named.items() if label]
    fix = "put each class in a folder"
    if len(told) > 1:
        fix += f", give {BY_WAY} name (which takes {told[0][0]} from {shown(told[0][1])})"
    fix += f", or give {BY_WAY} csv where a table tells the classes"
    return UnusableInput(where, what, LAYOUT, fix)


# --- what was left out ---------------------------------------------------------------------------


def _left_out(
    where: str, others: Counter[str], homeless: Sequence[PurePosixPath]
) -> Iterator[Problem]:
    if others:
        what = f"files that are not images were ignored: {by_suffix(others)}"
        yield Problem(where, what, severity="note", count=others.total())
    if homeless:
        names = ", ".join(shown(str(path)) for path in homeless[:5])
        names += ", ..." if len(homeless) > 5 else ""
        count = counted(len(homeless), "image")
        what = f"ignored because they are in no class folder: {count}, {names}"
        yield Problem(where, what, LAYOUT, severity="warning", count=len(homeless))


def class_before_number(stem: str) -> str | None:
    """'cat' of cat.12, cat_003, cat (1) or cat12; 'type1' of type1_12; None of a mere number."""
    number = r"[(\[]?\d+[)\]]?"
    label = re.sub(rf"([\s._-]+{number})+$", "", stem)
    if label == stem:
        label = re.sub(rf"{number}$", "", stem)
    return label.strip(" ._-") or None
