"""sources/layout.py: which folders are parts and which are classes, and what is said of the
others.
"""

from __future__ import annotations

import re
import shlex
from pathlib import PurePosixPath

import pytest

from convwise.core.problems import UnusableInput
from convwise.images.loading import read
from convwise.images.sources import Reading
from convwise.images.sources.labels import arranged_by
from convwise.images.sources.layout import arrange, role
from convwise.images.sources.tree import Listing
from imagesets import write_folder, write_parts

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)  # as a phone begins it


def listing(
    *folders: str, count: int = 2, others: tuple[str, ...] = (), empty: tuple[str, ...] = ()
) -> Listing:
    """Pictures 0.png, 1.png, ... in each of the folders."""
    pictures = [
        PurePosixPath(folder, f"{index}.png") for folder in folders for index in range(count)
    ]
    parents = {parent for path in pictures for parent in path.parents if parent.name}
    return Listing(
        pictures, [PurePosixPath(p) for p in others], [*parents, *map(PurePosixPath, empty)]
    )


def classes(parts, *below: str) -> list[str]:
    return [f"{part}/{name}" for part in parts for name in below or ("cats", "dogs")]


def places(found) -> set[tuple[str | None, str]]:
    return {(place.part, place.label) for place in found.places}


def asked(said: str, there: Listing) -> list[set[tuple[str | None, str]]]:
    """(part, class) of every picture by each of the options that a message names, as they are
    typed.
    """
    ways = [shlex.split(way)[0] for way in re.findall(r"--classes-from ('[^']*'|[^\s;,]+)", said)]
    assert ways
    return [places(arranged_by(Reading(way), "set", there, lambda path: b"")) for way in ways]


def refused(*folders: str, **how) -> str:
    with pytest.raises(UnusableInput) as caught:
        arrange("set", listing(*folders, **how))
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *[
            (n, "train")
            for n in (
                "train",
                "TRAIN",
                "Training",
                "training_set",
                "seg_train",
                "TrainImages",
                "train2017",
            )
        ],
        *[(n, "train") for n in ("trainset", "flowers-train", "train_data", "train.1")],
        *[(n, "train") for n in ("trainval", "train_val", "TrainVal", "trainval2012")],
        *[(n, "test") for n in ("holdout", "hold_out", "HoldOut", "held-out", "HELD OUT set")],
        *[
            (n, "valid")
            for n in ("val", "valid", "dev", "validate", "Validation", "dev_set", "val2017", "eval")
        ],
        *[(n, "test") for n in ("test", "Testing", "test_set", "seg_test", "testdata")],
        *[
            (n, None)
            for n in (
                "cats",
                "trainers",
                "contest",
                "latest",
                "constraint",
                "train_test",
                "rival",
                "",
                "2017",
            )
        ],
    ],
)
def test_roles_by_pattern(name, part):
    assert role(name) == part


@pytest.mark.parametrize(
    ("train", "valid", "test"),
    [
        ("train", "dev", "test"),
        ("training_set", "validation_set", "test_set"),
        ("Training", "Validation", "Testing"),
        ("seg_train/seg_train", "seg_val/seg_val", "seg_test/seg_test"),
        ("images/train", "images/val", "images/test"),
        ("train/images", "val/images", "test/images"),
        ("data/set/train", "data/set/val", "data/set/test"),
    ],
)
def test_parts_are_recognised_and_told(train, valid, test):
    found = arrange("set", listing(*classes([train, valid, test])))
    assert places(found) == {(p, c) for p in ("train", "valid", "test") for c in ("cats", "dogs")}
    assert found.roles == {"train": train, "valid": valid, "test": test}
    assert found.problems == []


@pytest.mark.parametrize(
    ("folders", "roles"),
    [
        (["trainval", "test"], {"train": "trainval", "test": "test"}),
        (["train", "hold_out"], {"train": "train", "test": "hold_out"}),
        (
            ["train", "trainval", "val", "test", "holdout"],
            {"train": "train", "valid": "val", "test": "test"},
        ),
    ],
)
def test_trainval_and_holdout_are_parts_where_no_other_folder_is(folders, roles):
    found = arrange("set", listing(*classes(folders)))
    assert found.roles == roles
    told = [problem.what for problem in found.problems]
    assert {what.split("/")[0] for what in told} == set(folders) - set(roles.values())
    assert all("left out, with 4 images" in what for what in told)


def test_parts_below_each_class():
    found = arrange("set", listing("cats/train", "cats/test", "dogs/train", "dogs/test"))
    assert places(found) == {(p, c) for p in ("train", "test") for c in ("cats", "dogs")}
    folders = ["cats/train", "cats/test", "dogs/train", "owls/test"]
    assert places(arrange("set", listing(*folders))) == {
        ("train", "cats"), ("test", "cats"), ("train", "dogs"), ("test", "owls"),
    }  # fmt: skip
    folders = ["cats/train", "cats/trainval", "cats/test", "dogs/train", "dogs/test"]
    found = arrange("set", listing(*folders))
    assert [path.parts[1] for path in found.homeless] == ["trainval"] * 2


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (
            ["cats/test", "cats/train", "dogs"],
            "cats/ holds the parts test/ and train/, but there is dogs/ without",
        ),
        (["cats/test", "cats/train", "dogs/train", "dogs/x"], "but there is dogs/ without"),
        (
            ["cats/test", "cats/train", "dogs/masks", "dogs/test", "dogs/train"],
            "dogs/ holds the parts test/ and train/",
        ),
        (
            [f"{c}/{p}" for c in ("cats", "dogs") for p in ("masks", "test", "train")],
            "but there is masks/ beside them",
        ),
    ],
)
def test_parts_of_some_classes_only_are_refused_and_the_fix_learns_from_no_test_image(
    folders, said
):
    message = refused(*folders)
    assert said in message
    (found,) = asked(message, listing(*folders))
    assert found >= {("train", "cats"), ("test", "cats")}
    assert {label for _, label in found} == {"cats", "dogs"}


def test_parts_in_classes_without_train():
    said = refused("cats/val", "cats/test", "dogs/val", "dogs/test")
    assert "each class holds test/, val/, but none holds train/" in said


# --- the same folders in each --------------------------------------------------------------------

TWICE = [
    ("fold1", "fold2"), ("2023-01", "2023-02"), ("Augmented", "Original"), ("images", "masks"),
    ("pets", "pets (1)"),
    ("xtest", "xtrain"), ("entrenamiento", "prueba"), ("8863", "8864"), ("Bob's #1 {x}",
    "\u00e9t\u00e9 * 2"),
]  # fmt: skip


@pytest.mark.parametrize("outer", TWICE, ids=" ".join)
@pytest.mark.parametrize("above", ["", "data/", "train/"])
@pytest.mark.parametrize("between", ["", "/images"])
def test_folders_that_hold_the_same_names_are_refused_and_every_fix_works(outer, above, between):
    folders = [f"{above}{each}{between}/{name}" for each in outer for name in ("cats", "dogs")]
    there = listing(*folders)
    with pytest.raises(UnusableInput) as caught:
        arrange("set", there)
    said = str(caught.value)
    assert f"both hold cats, dogs: either these are the classes, or {', '.join(outer)} are" in said
    part = "train" if above == "train/" else None
    inner = {(part, "cats"), (part, "dogs")}
    assert asked(said, there) == [inner, inner, {(part, each) for each in outer}]
    one = re.findall(r"--classes-from ('[^']*'|[^\s;,]+)", said)[1]
    kept = arranged_by(Reading(shlex.split(one)[0]), "set", there, lambda path: b"").places
    assert len(kept) == len(there.pictures) / 2  # those of one folder alone


def test_masks_in_each_class_can_be_left_out_as_the_fix_says():
    folders = [f"{label}/{kind}" for label in ("COVID", "Normal") for kind in ("images", "masks")]
    there, said = listing(*folders), refused(*folders)
    assert "COVID/ and Normal/ both hold images, masks" in said
    way = shlex.split(re.findall(r"--classes-from ('[^']*')", said)[2])[0]
    found = arranged_by(Reading(way), "set", there, lambda path: b"")
    assert {place.path.parent.name for place in found.places} == {"images"}
    assert places(found) == {(None, "COVID"), (None, "Normal")}
    assert "4 images" in " ".join(map(str, found.problems))  # the masks are told


def test_two_levels_of_classes_are_told_and_the_fix_takes_the_inner_ones():
    for above, part in (("", None), ("train/", "train")):
        there = listing(
            *[f"{above}{each}" for each in ("animals/cat", "animals/dog", "cars/audi", "cars/bmw")]
        )
        found = arrange("set", there)
        assert places(found) == {(part, "animals"), (part, "cars")}
        (told,) = found.problems
        assert told.severity == "warning"
        assert "animals/ (cat, dog)" in told.what
        assert asked(str(told), there) == [{(part, name) for name in ("cat", "dog", "audi", "bmw")}]
    (told,) = arrange("set", listing("cats/2019", "cats/2020", "dogs")).problems  # dogs have none
    assert (told.severity, told.fix) == ("note", "")


def test_what_is_read_is_told_before_it_is_learnt(tmp_path):
    write_folder(tmp_path / "seg_train", per_class=10)
    write_folder(tmp_path / "seg_test", per_class=4, seed=9)
    images = read(tmp_path)
    assert (
        images.facts["read_as"]
        == "train 20 (seg_train/), test 8 (seg_test/), 2 classes; split into train 16, valid 4,"
        " sealed test 8"
    )
    assert images.said()[0] == f"{tmp_path}: read as: {images.facts['read_as']}"


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (classes(["train", "val", "dev"]), "dev/ and val/ each look like the valid part"),
        (
            classes(["train", "train_old", "test"]),
            "train/ and train_old/ each look like the train part",
        ),
        ([*classes(["train"]), "bus", "car"], "bus/, car/ beside it can be read as classes"),
        (
            ["bottle/train/good", "bottle/test/bad", "cable/train/good"],
            "has its own train part and classes",
        ),
        (["train", "test"], "test/ and train/ hold 4 images, but no class folders"),
        (["train"], "train/ holds 2 images, but no class folders"),
        ([*classes(["test"]), "train"], "train/"),
        (["images"], "there are 2 images, but no class folders"),
        (classes(["pets", "pets/pets"]), "holds cats, dogs twice: here and again in pets/pets/"),
        (classes(["x/train", "x/test", "x/x/train", "x/x/test"]), "holds test, train twice"),
        (classes(["test", "val"]), "has test, val but no train"),
    ],
)
def test_what_can_be_read_in_two_ways_or_in_none_is_refused(folders, said):
    assert said in refused(*folders)


def test_names_that_tell_classes_are_pointed_at():
    loose = Listing(
        [
            PurePosixPath(f"train/{name}.{index}.jpg")
            for name in ("cat", "dog")
            for index in range(3)
        ],
        [],
    )
    with pytest.raises(UnusableInput, match="--classes-from name"):
        arrange("set", loose)
    assert "--classes-from name" not in refused("train")  # 0.png, 1.png: they tell nothing


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (["train", "bus", "test"], {"train", "bus", "test"}),
        (["steam_train", "electric_train"], {"steam_train", "electric_train"}),
        (["pets/pets/cats", "pets/pets/dogs"], {"cats", "dogs"}),
        (["cats/2019", "cats/2020", "dogs"], {"cats", "dogs"}),
        # A few names alike are no sign
        ([*classes(["x"], *"abcde"), *classes(["y"], *"abfgh")], {"x", "y"}),
        (["toys/train", "toys/bus", "pets/cat", "pets/dog"], {"toys", "pets"}),
        (["cats/images", "dogs/images"], {"cats", "dogs"}),
        (["cats/test", "dogs/test"], {"cats", "dogs"}),
    ],
)
def test_these_are_classes(folders, labels):
    assert places(arrange("set", listing(*folders))) == {(None, label) for label in labels}


def test_what_is_beside_the_parts_is_told_with_its_true_reason():
    folders = [*classes(["train", "test"]), "seg_pred", "unseen/cats"]
    said = [str(problem) for problem in arrange("set", listing(*folders)).problems]
    assert any(
        "seg_pred/ is not a train, validation or test part: left out, with 2 images" in text
        for text in said
    )
    assert any("unseen/ is not" in text for text in said)
    (loose,) = arrange("set", listing(*classes(["train"]), "test/images")).problems
    assert "test/ holds 2 images, but no class folders" in loose.what


# --- a class never disappears --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "birds/ holds no file"),
        ({"notes.txt": b"x"}, "birds/ holds only 1 .txt"),
        ({".DS_Store": b"x"}, "birds/ holds no file"),
        ({"1.png": b"", "2.png": b"x"}, "none of 2 files can be read: "),
        ({"1.HEIC": HEIC, "2.heic": HEIC}, "none of 2 files can be read: HEIC, which is not read"),
        ({"1.nef": b"II*\0" + bytes(99)}, "none of 1 file can be read: a camera's raw file"),
        ({"@eaDir/1.png": b"x"}, "birds/ holds no file"),
    ],
)
@pytest.mark.parametrize("top", ["", "train"])
def test_a_class_without_an_image_is_refused_or_left_out_when_asked(tmp_path, files, why, top):
    (write_parts(tmp_path, ("train", "test")) if top else write_folder(tmp_path)) / "x"
    (tmp_path / top / "birds").mkdir()
    for name, data in files.items():
        (tmp_path / top / "birds" / name).parent.mkdir(exist_ok=True)
        (tmp_path / top / "birds" / name).write_bytes(data)
    with pytest.raises(UnusableInput) as caught:
        read(tmp_path)
    assert "1 class without an image: birds (" in str(caught.value)
    assert why in str(caught.value)
    assert "--skip-empty-classes" in str(caught.value)
    images = read(tmp_path, skip_empty_classes=True)
    assert images.classes == ("a", "b")
    assert any(
        "skipped 1 class without an image: birds (" in str(problem)
        and problem.severity == "warning"
        for problem in images.problems
    )


def test_a_class_that_only_the_test_part_has_is_told_as_before(tmp_path):
    write_parts(tmp_path, ("train", "test"))
    write_folder(tmp_path / "test", ("new",), 3, seed=77)
    assert any(
        "classes without training images" in str(problem) for problem in read(tmp_path).problems
    )


def test_pictures_under_other_suffixes_are_read(tmp_path):
    write_folder(tmp_path, "abc")
    for index, file in enumerate(sorted((tmp_path / "b").iterdir())):
        file.rename(file.with_suffix((".jfif", ".JPE", ".data", "", ".jpg_large", ".mpo")[index]))
    for file in sorted((tmp_path / "c").iterdir()):
        file.rename(file.with_suffix(".bin"))
    assert read(tmp_path).facts["read"] == 18


def test_thumbnails_that_machines_add_are_left_out_and_named(tmp_path):
    write_folder(tmp_path)
    write_folder(tmp_path / "a" / "@eaDir" / "0000.png", "x", 2, 4)
    images = read(tmp_path)
    assert images.facts["read"] == 12
    assert any(
        "such as thumbnails, were ignored: @eaDir" in str(problem) for problem in images.problems
    )


def test_avif_is_read(tmp_path):
    pytest.importorskip("PIL.AvifImagePlugin")
    write_folder(tmp_path, suffix=".avif")
    assert read(tmp_path).facts["read"] == 12
