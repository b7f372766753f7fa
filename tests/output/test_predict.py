"""Predictions from a written folder: the same answers as the network that was trained."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

import convwise
from convwise.cli.predict import predict
from convwise.core.problems import UnusableInput
from convwise.images import decode
from convwise.images.loading import read
from convwise.output import deliver, predicting, tables
from imagesets import striped, write_folder, write_idx, write_zip
from parquets import write_parquet
from studies import ENVIRONMENT, command

X, Y = striped(2, 12, size=12)
X[0, 0, :2] = [[0], [255]]  # both ends of the range


@pytest.fixture(scope="module")
def rows(chosen):
    return convwise.predict(chosen.folder, chosen.images)


def from_source(folder, pixels: np.ndarray) -> np.ndarray:
    """What the generated PyTorch source answers: another framework, another file than
    model.onnx.
    """
    import torch

    space: dict = {"__name__": "model_torch"}
    exec((folder / "model_torch.py").read_text(), space)
    model = space["load"](str(folder / "model.safetensors"))
    with torch.no_grad():
        return model(torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float()).numpy()


def test_labels_and_probabilities_are_those_of_the_model(chosen, rows):
    choice = deliver.read_choice(chosen.folder)
    classes = choice["data"]["classes"]
    by_path = {row["path"]: row for row in rows}
    height, width, _ = choice["net"]["input_shape"]
    assert len(by_path) == 120
    for path, row in by_path.items():
        pixels = np.asarray(Image.open(path).resize((width, height)))[None, ..., None]
        expected = from_source(chosen.folder, pixels)[0]
        assert [row["probabilities"][name] for name in classes] == pytest.approx(
            expected.tolist(), abs=2e-4
        )
        assert row["label"] == classes[int(expected.argmax())]
    right = np.mean([row["label"] == row["path"].split("/")[-2] for row in rows])
    assert right > 0.8  # the images that it learnt from


def test_predictions_agree_with_the_sealed_accuracy(chosen, rows):
    by_name = {"/".join(row["path"].split("/")[-2:]): row["label"] for row in rows}
    images = read(chosen.images, seed=0)
    sealed = images.test.open()
    right = [
        by_name[name] == images.classes[label]
        for name, label in zip(sealed.names, sealed.labels, strict=True)
    ]
    assert np.mean(right) == pytest.approx(deliver.read_choice(chosen.folder)["test"]["accuracy"])


def test_csv_by_the_command_line(chosen, rows, tmp_path):
    ended = command("predict", chosen.folder, chosen.images, "--csv", tmp_path / "answers.csv")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""
    assert "120 images labelled, 0 unreadable" in ended.stderr
    with (tmp_path / "answers.csv").open(newline="") as file:
        read_back = list(csv.DictReader(file))
    assert list(read_back[0]) == ["path", "label", "4", "down", "up, or so"]
    assert [(r["path"], r["label"]) for r in read_back] == [(r["path"], r["label"]) for r in rows]
    for row in read_back:
        shares = [float(row[name]) for name in ("4", "down", "up, or so")]
        assert sum(shares) == pytest.approx(1, abs=1e-4)


def test_one_image_and_broken_ones(chosen, tmp_path):
    good = next(chosen.images.rglob("*.png"))
    (row,) = convwise.predict(chosen.folder, good)
    assert row["path"] == str(good)
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(good, folder / "good.png")
    (folder / "broken.png").write_bytes(b"not an image")
    (folder / "notes.txt").write_text("not even called one")
    broken, fine = convwise.predict(chosen.folder, folder)
    assert (broken["label"], fine["label"]) == ("", row["label"])
    assert broken["error"]
    assert "error" not in fine


def test_other_sizes_and_modes_are_brought_to_the_input(chosen, tmp_path):
    write_folder(tmp_path / "large", ("down",), 3, (30, 41), "RGBA")
    found = convwise.predict(chosen.folder, tmp_path / "large")
    assert len(found) == 3
    assert all(row["label"] in ("4", "down", "up, or so") for row in found)


def test_everything_that_choose_reads_is_labelled_the_same(chosen, rows, tmp_path):
    """A zip, a tar, an .npz, and a table: the same pictures, the same answers."""
    by_name = {"/".join(row["path"].split("/")[-2:]): row["label"] for row in rows}
    write_zip(tmp_path / "set.zip", chosen.images)
    with tarfile.open(tmp_path / "set.tgz", "w:gz") as archive:
        archive.add(chosen.images, ".")
    for source in (tmp_path / "set.zip", tmp_path / "set.tgz"):
        found = convwise.predict(chosen.folder, source)
        assert {row["path"].removeprefix("./"): row["label"] for row in found} == by_name
    np.savez(
        tmp_path / "set.npz", x=np.stack([np.asarray(Image.open(row["path"])) for row in rows])
    )
    found = convwise.predict(chosen.folder, tmp_path / "set.npz")
    assert [row["path"] for row in found[:2]] == ["images/0", "images/1"]
    assert [row["label"] for row in found] == [row["label"] for row in rows]
    table = tmp_path / "set" / "t.csv"
    shutil.copytree(chosen.images, tmp_path / "set")
    for text in ("path,label\n{},\n{},", "file\n{}\n{}", "id,width\n{},7\n{},8"):
        table.write_text(text.format(*by_name))
        found = convwise.predict(chosen.folder, table)
        assert {row["path"]: row["label"] for row in found} == dict(list(by_name.items())[:2])


def test_a_hugging_face_folder_whose_files_name_their_pictures_alike(chosen, rows, tmp_path):
    """Each picture has its own answer, also where two are called the same."""
    pixels = np.stack([np.asarray(Image.open(row["path"])) for row in rows[:60]])[..., None]
    for part, some in (("train", pixels[:40]), ("test", pixels[40:])):
        write_parquet(tmp_path / f"{part}-00000-of-00001.parquet", some, [0] * len(some))
    found = convwise.predict(chosen.folder, tmp_path)
    assert len(found) == 60
    assert len({row["path"] for row in found}) == 40
    order = [*rows[40:60], *rows[:40]]  # test stands before train
    assert [row["label"] for row in found] == [row["label"] for row in order]


def test_idx_files_are_labelled_the_same(chosen, rows, tmp_path):
    pixels = np.stack([np.asarray(Image.open(row["path"])) for row in rows[:20]])
    write_idx(tmp_path, "train", pixels, np.zeros(len(pixels)))
    assert [row["label"] for row in convwise.predict(chosen.folder, tmp_path)] == [
        row["label"] for row in rows[:20]
    ]


def test_what_was_decoded_once_is_found_again(chosen, rows, tmp_path, monkeypatch):
    """The second time nothing is decoded, and the answers are the same; without a cache everything
    is.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    decoded = []
    decode_one = decode.decode
    monkeypatch.setattr(decode, "decode", lambda *args: decoded.append(1) or decode_one(*args))
    for expected in (len(rows), 0):
        decoded.clear()
        assert convwise.predict(chosen.folder, chosen.images) == rows
        assert len(decoded) == expected
    convwise.predict(chosen.folder, chosen.images, cache_size=0)
    assert len(decoded) == len(rows)


def test_pictures_that_are_not_read_are_named_with_their_kind(chosen, tmp_path):
    good = next(chosen.images.rglob("*.png"))
    shutil.copy(good, tmp_path / "fine.jfif")
    shutil.copy(good, tmp_path / "without")
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    (tmp_path / "notes.txt").write_text("none")
    found = {row["path"].split("/")[-1]: row for row in convwise.predict(chosen.folder, tmp_path)}
    assert set(found) == {"fine.jfif", "without", "IMG_1.HEIC"}
    assert found["IMG_1.HEIC"]["error"] == "HEIC, which is not read: save it as PNG or JPEG"
    assert found["fine.jfif"]["label"] == found["without"]["label"] != ""


def test_no_cell_is_a_formula():
    """Numbers may begin with a sign; anything else of that kind gets an apostrophe."""
    rows = [{"path": "=cmd|' /C calc'!A0", "label": "-1", "probabilities": {"@x": 0.5, "-1": 0.5}}]
    rows += [{"path": name, "label": "+a"} for name in ("-2.png", "\t=1", "a=b.png")]
    file = io.StringIO()
    tables.write_csv(rows, ["@x", "-1"], file)
    written = list(csv.reader(io.StringIO(file.getvalue())))
    assert written[0] == ["path", "label", "'@x", "-1"]
    assert written[1] == ["'=cmd|' /C calc'!A0", "-1", "0.5", "0.5"]
    assert [row[:2] for row in written[2:]] == [
        ["'-2.png", "'+a"],
        ["'\t=1", "'+a"],
        ["a=b.png", "'+a"],
    ]


def test_csv_is_utf8_whatever_the_locale(chosen, tmp_path, monkeypatch):
    (tmp_path / "\u732b").mkdir()
    shutil.copy(next(chosen.images.rglob("*.png")), tmp_path / "\u732b" / "1.png")
    for name, value in (("LC_ALL", "C"), ("PYTHONCOERCECLOCALE", "0"), ("PYTHONUTF8", "0")):
        monkeypatch.setenv(name, value)
    done = subprocess.run(
        [sys.executable, "-m", "convwise", "predict", chosen.folder, tmp_path, "--csv",
        tmp_path / "a.csv"],
        env={**os.environ, "PYTHONPATH": ENVIRONMENT["PYTHONPATH"]}, capture_output=True,
        check=True,
    )  # fmt: skip
    assert b"1 images labelled" in done.stderr
    assert "\u732b/1.png" in (tmp_path / "a.csv").read_text(encoding="utf-8")


def test_what_is_no_image_at_all(chosen, run, tmp_path):
    """Exit 2 where nothing could be labelled, and the path once."""
    good = next(chosen.images.rglob("*.png"))
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:90])
    (tmp_path / "notes.txt").write_text("no image")
    for name in ("cut.png", "notes.txt"):
        with pytest.raises(UnusableInput, match="cannot be read") as caught:
            convwise.predict(chosen.folder, tmp_path / name)
        assert str(caught.value).count(name) == 1
    (tmp_path / "set").mkdir()
    for index in range(70):
        (tmp_path / "set" / f"{index:02d}.png").write_bytes(b"")
    code, out, err = run("predict", chosen.folder, tmp_path / "set")
    assert (code, out) == (2, "")
    assert "00.png: cannot be read (empty file), and neither can 69 more" in err


def test_arrays_are_labelled_as_their_files(chosen, rows):
    torch = pytest.importorskip("torch")
    some = rows[::10]
    pixels = np.stack([np.asarray(Image.open(row["path"])) for row in some])
    colours = np.repeat(pixels[..., None], 3, axis=3)
    for images in (
        pixels,
        pixels[..., None],
        colours,
        torch.from_numpy(colours).permute(0, 3, 1, 2).float(),
    ):
        found = convwise.predict(chosen.folder, images)
        assert [row["path"] for row in found] == [str(index) for index in range(len(some))]
        assert [row["probabilities"] for row in found] == [row["probabilities"] for row in some]


def test_arrays_on_another_scale_are_refused(chosen, rows):
    pixels = np.stack([np.asarray(Image.open(row["path"])) for row in rows[:5]])[..., None]
    with_gap = pixels.astype(float)
    with_gap[0, 0, 0] = np.nan
    for images, named in ((pixels / 255, "0 to 255"), (pixels.astype(np.uint16) * 257, "0 to 255"),
                          (pixels.astype(float) - 500, "0 to 255"), (with_gap, "NaN"), (pixels[0],
                          "one image"),
                          (pixels[:0], "no image"), (["a", "b"], "type <U1"), (7,
                          "shape")):  # fmt: skip
        with pytest.raises(UnusableInput, match=named):
            convwise.predict(chosen.folder, images)


def test_arrays_keep_the_scale_that_was_learnt_from(chosen, rows, tmp_path):
    folder = tmp_path / "chosen"
    shutil.copytree(chosen.folder, folder)
    choice = json.loads((folder / "choice.json").read_text())
    pixels = np.stack([np.asarray(Image.open(row["path"])) for row in rows[:5]])[..., None]
    for values, learnt in ((pixels / 255, (X / 255, Y)), (pixels / 127.5 - 1, (X / 127.5 - 1, Y))):
        choice["data"]["facts"]["scale"] = read(learnt).facts["scale"]
        (folder / "choice.json").write_text(json.dumps(choice))
        found = convwise.predict(folder, values)
        assert [row["probabilities"] for row in found] == [row["probabilities"] for row in rows[:5]]
        with pytest.raises(UnusableInput, match="values from"):
            convwise.predict(folder, pixels)


@pytest.mark.parametrize("model", [None, b"junk"])
def test_a_model_that_is_lost_or_broken(chosen, tmp_path, model):
    folder = tmp_path / "chosen"
    shutil.copytree(chosen.folder, folder)
    (folder / "model.onnx").unlink()
    if model:
        (folder / "model.onnx").write_bytes(model)
    with pytest.raises(UnusableInput, match=r"model\.onnx.*convwise export"):
        convwise.predict(folder, chosen.images)


@pytest.mark.parametrize("change", [
    lambda choice: choice["data"]["classes"].pop(),
    lambda choice: choice["data"]["classes"].append("more"),
    lambda choice: choice["net"].update(input_shape=[11, 12, 1]),
    lambda choice: choice["data"].update(base_shape=[12, 12, 3]),
])  # fmt: skip
def test_a_model_that_does_not_fit_its_choice(chosen, tmp_path, change):
    folder = tmp_path / "chosen"
    shutil.copytree(chosen.folder, folder)
    choice = json.loads((folder / "choice.json").read_text())
    change(choice)
    (folder / "choice.json").write_text(json.dumps(choice))
    with pytest.raises(UnusableInput, match=r"model\.onnx.* reads .* its choice\.json says"):
        convwise.predict(folder, chosen.images)


def test_where_the_csv_cannot_be_is_said_before_the_work(chosen, tmp_path, monkeypatch):
    monkeypatch.setattr(predicting, "predict", lambda *_: pytest.fail("it predicted first"))
    for file in (tmp_path / "no" / "answers.csv", tmp_path):
        with pytest.raises(UnusableInput, match="--csv"):
            predict(chosen.folder, chosen.images, file)
    assert not (tmp_path / "no").exists()


def test_no_choice_no_images(chosen, tmp_path):
    no = tmp_path / "no"
    for folder, images in (
        (tmp_path, chosen.images),
        (no, chosen.images),
        (chosen.folder, tmp_path),
        (chosen.folder, no),
    ):
        where = images if folder == chosen.folder else folder
        with pytest.raises(UnusableInput) as caught:
            convwise.predict(folder, images)
        assert str(where) in str(caught.value)


@pytest.mark.parametrize("name", ["label", "path", "error"])
def test_a_class_may_be_called_like_a_column(chosen, run, tmp_path, name):
    folder = tmp_path / "chosen"
    shutil.copytree(chosen.folder, folder)
    choice = json.loads((folder / "choice.json").read_text())
    choice["data"]["classes"][0] = name
    (folder / "choice.json").write_text(json.dumps(choice))
    image = next(chosen.images.rglob("*.png"))
    (row,) = convwise.predict(folder, image)
    assert row["path"] == str(image)
    assert row["label"] in choice["data"]["classes"]
    assert "error" not in row
    (written,) = csv.DictReader(io.StringIO(run("predict", folder, image)[1]))
    assert written["path"] == str(image)
    assert written["label"] == row["label"]
    assert (
        float(written[name if name == "error" else f"{name} (class)"]) == row["probabilities"][name]
    )


def test_what_is_missing_of_a_choice_is_said_in_words(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "convwise-photos").mkdir()
    (tmp_path / "odd" / "choice.json").mkdir(parents=True)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "choice.json").write_text("{")
    there = tmp_path / "convwise-photos"
    for name, said in (
        (
            "convwise-foto",
            f"does not exist; expected a folder that `convwise choose` wrote. Fix: {there}",
        ),
        ("convwise-photos", "holds no choice.json; expected"),
        ("file", "is not a folder; expected"),
        ("odd", "its choice.json cannot be read (Is a directory)"),
        ("damaged", "its choice.json is damaged: it is not JSON"),
    ):
        with pytest.raises(UnusableInput) as caught:
            deliver.read_choice(tmp_path / name)
        assert said in str(caught.value)
        assert "Error" not in str(caught.value)


@pytest.mark.parametrize("text", ["{}", "[1]", "7", "null", "[", '{"net": {}}'])
def test_a_choice_that_is_not_ours(tmp_path, text):
    (tmp_path / "choice.json").write_text(text)
    with pytest.raises(UnusableInput, match="expected a folder that `convwise choose` wrote"):
        deliver.read_choice(tmp_path)
