"""scale.py: one scale for a whole set, of arrays and of files, and parts that are on different
ones.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from convwise.core.problems import UnusableInput
from convwise.images import value_range
from convwise.images.loading import pictures, read
from convwise.images.value_range import ValueRange, Values
from imagesets import striped

GRAY = striped(2, 8, size=12)[0][..., 0]
LABELS = np.repeat([0, 1], 8)
FULL = GRAY.copy()
FULL[0, 0, :2] = 0, 255


def files(root, values, format="tif", parts=("",)):
    """Class folders a and b of pictures of any mode, the same for each part; values (16, h, w)."""
    for part in parts:
        for index, (image, label) in enumerate(zip(values, LABELS, strict=True)):
            (root / part / "ab"[label]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / part / "ab"[label] / f"{index}.{format}")
    return root


def pixels(images):
    """Of a set of class folders that seals nothing, in the order of `files`."""
    part = images.unsealed()
    return part.pixels[np.argsort([int(name.split("/")[-1].split(".")[0]) for name in part.names])][
        ..., 0
    ]


def said(images) -> str:
    return " | ".join(map(str, images.problems))


# --- the range of values -------------------------------------------------------------------------


def naive_range(values: np.ndarray, ranges) -> tuple[float, float] | None:
    """The narrowest of `ranges` with all values in it, by a loop: what `range` is where no value
    strays.
    """
    for low, high in ranges:
        if all(low <= value <= high for value in values.reshape(-1).tolist()):
            return low, high
    return None


@given(
    arrays(st.sampled_from([np.uint8, np.int8, np.uint16, np.int32, np.bool_]), st.integers(1, 30))
)
def test_whole_numbers_against_a_loop(values):
    expected = naive_range(values, value_range.WHOLE) or (float(values.min()), float(values.max()))
    assert Values.of(values).range == expected


@given(arrays(np.float32, st.integers(1, 30), elements=st.floats(-2, 300, width=32)))
def test_floats_against_a_loop(values):
    ranges = [r for r in value_range.FLOAT if r != (0, 255) or values.max() > 255 / 8]
    expected = naive_range(values, ranges) or (float(values.min()), float(values.max()))
    assert Values.of(values).range == expected


@given(
    st.lists(
        arrays(st.sampled_from([np.uint8, np.uint16]), st.integers(1, 40)), min_size=2, max_size=4
    )
)
def test_the_sum_is_what_all_are_together(some):
    total = Values.of(some[0])
    for values in some[1:]:
        total += Values.of(values)
    together = Values.of(np.concatenate(some).astype(np.uint16))
    assert (total.count, total.low, total.high) == (together.count, together.low, together.high)
    if together.high > 255:
        assert total.range[1] >= 255


def test_one_hot_value_does_not_widen_the_range_but_a_sparse_picture_keeps_its_own():
    twelve = np.random.default_rng(0).integers(0, 4096, 5000)
    assert Values.of(np.append(twelve, 65535)).range == (0, 4095)
    assert Values.of(np.append(twelve, 65535)).count_outside == 1
    assert Values.of(np.append(twelve, np.full(50, 60000))).range == (0, 65535)
    sparse = np.zeros(100_000, np.uint16)
    sparse[:5] = 60_000
    assert Values.of(sparse).range == (0, 65535)
    stars = np.zeros(100_000, np.uint8)
    stars[0] = 200
    assert Values.of(stars).range == (0, 255)


def dark(scale: float, hot: float, share: float, seed: int = 0) -> np.ndarray:
    """Values of a dark 12-bit camera, exponential, of which a share is `hot`."""
    rng = np.random.default_rng(seed)
    values = np.clip(rng.exponential(scale, 200_000), 0, 4095)
    values[rng.choice(len(values), round(share * len(values)), replace=False)] = hot
    return values


@pytest.mark.parametrize("share", [0, 2e-5, 2.4e-4, 9e-4])
@pytest.mark.parametrize(("scale", "high"), [(800, 4095), (400, 4095)])
def test_hot_pixels_do_not_widen_the_range_of_a_dark_set(share, scale, high):
    values = Values.of(dark(scale, 65535, share).astype(np.uint16))
    assert values.range == (0, high)
    assert values.count_outside <= 2e-4 * values.count + share * values.count
    assert Values.of((dark(scale, 2**31 - 1, share)).astype(np.int32)).range == (0, high)


def test_hot_values_of_floats_do_not_either():
    values = np.clip(dark(400, 0, 0) / 4095, 0, 1).astype(np.float32)
    values[:40] = 5000
    assert Values.of(values).range == (0, 1)
    values[:4000] = 5000  # 2 %: they are no strays
    assert Values.of(values).range[1] == 5000


@pytest.mark.parametrize(
    "values",
    [
        # No gap between most and the rest
        np.clip(np.random.default_rng(0).lognormal(5, 1.5, 200_000), 0, 65535),
        dark(400, 65535, 5e-3),  # too many
        dark(1500, 65535, 5e-3),
        # On a ground
        np.where(
            np.arange(200_000) % 4000, np.random.default_rng(0).integers(0, 16, 200_000), 60_000
        ),
        np.where(np.arange(200_000) % 4000, 0, 60_000),  # of noise, and on an empty one
    ],
    ids=["a tail", "many", "many in a bright set", "sparse in noise", "sparse"],
)
def test_what_may_be_the_picture_itself_keeps_its_range(values):
    assert Values.of(values.astype(np.uint16)).range == (0, 65535)


def test_the_end_of_a_long_tail_is_no_stray():
    tail = np.random.default_rng(0).exponential(800, 200_000)
    assert np.mean(tail > 8191) < value_range.STRAY  # few, but all of them near
    assert Values.of(tail.astype(np.uint16)).range == (0, 16383)


@pytest.mark.parametrize(
    ("values", "crowded"),
    [
        (dark(400, 65535, 5e-3), 4095),
        (np.clip(np.random.default_rng(0).lognormal(5, 1.5, 200_000), 0, 65535), 8191),
        (np.where(np.arange(200_000) % 4000, 0, 60_000), None),  # an empty ground says nothing
        (np.arange(65536), None),
        (dark(400, 4095, 0), None),
    ],
)
def test_a_range_that_makes_nearly_all_dark_is_known(values, crowded):
    found = Values.of(values.astype(np.uint16))
    assert found.crowded == crowded
    if crowded:
        assert np.mean(values > crowded) <= 0.01
        assert np.mean(values > crowded // 2) > 0.01


def test_dark_sets_are_scaled_or_warned_of(tmp_path):
    hot = dark(400, 0, 0)[: 16 * 64 * 64].reshape(16, 64, 64).astype(np.uint16)
    hot[:, 0, 0] = 65535
    images = read(files(tmp_path / "hot", hot, "png"), test="none")
    assert "16 values outside that range clipped" in said(images)
    assert images.facts["scale"] == [0, 255 / 4095]
    hot[:, 0, :12] = 65535
    problems = read(files(tmp_path / "many", hot, "png"), test="none").problems
    (told,) = [
        each
        for each in problems
        if "become very dark: 99 % of their values are at most 2047" in each.what
    ]
    assert told.severity == "warning"
    assert "since 99 % of them are at most 2047" in said(read((hot, LABELS), test="none"))


@pytest.mark.parametrize(("shares", "high"), [((2e-4, 1.5e-3, 0), 4095), ((2e-4, 4e-3, 0), 65535)])
def test_parts_with_more_strays_than_others_are_on_one_scale(tmp_path, shares, high):
    for part, share in zip(("train", "val", "test"), shares, strict=True):
        values = (
            dark(400, 65535, share, seed=len(part))[: 16 * 64 * 64]
            .reshape(16, 64, 64)
            .astype(np.uint16)
        )
        files(tmp_path / part, values, "png")
    assert read(tmp_path).facts["scale"] == [0, 255 / high]


@pytest.mark.parametrize(("dtype", "bits"), [(np.int32, "32"), (np.uint16, "16")])
def test_pictures_are_called_by_their_bits(dtype, bits, tmp_path):
    images = read(files(tmp_path, FULL.astype(dtype) * 16), test="none")
    assert f"16 images of {bits} bits: only 12 bits are used" in said(images)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("factor", [1 / 255, 1])
def test_pictures_with_values_that_are_not_finite_are_named_as_unreadable(odd, factor, tmp_path):
    values = FULL.astype(np.float32) * np.float32(factor)
    values[3, 0, :2] = odd
    images = read(files(tmp_path, values), test="none")  # warnings are errors here
    assert images.facts["unreadable_files"] == {"a/3.tif": "holds NaN or infinite values, 2 of 144"}
    assert "15 images with float values" in said(images)
    assert "among" not in said(images)
    for wide in (True, False):
        with pictures(tmp_path, 1, ValueRange(0, 1 / factor), wide=wide) as every:
            (give,) = [give for name, give in every if name.endswith("a/3.tif")]
            with pytest.raises(UnusableInput, match="NaN or infinite values"):
                give(12, 12)


# --- files ---------------------------------------------------------------------------------------


def test_twelve_bits_are_brought_to_the_whole_range_with_and_without_a_hot_pixel(tmp_path):
    twelve = np.rint(FULL * (4095 / 255)).astype(np.uint16)
    hot = twelve.copy()
    hot[3, 0, 0] = 65535
    for name, values in (("plain", twelve), ("hot", hot)):
        images = read(files(tmp_path / name, values, "png"), test="none")
        np.testing.assert_array_equal(pixels(images)[4:], FULL[4:])
        assert images.facts["scale"] == [0, 255 / 4095]
        assert "only 12 bits are used, which would be very dark, so 0..4095 was scaled" in said(
            images
        )
    assert "1 value outside that range clipped" in said(images)


def test_floats_have_the_scale_of_their_set_and_not_one_each(tmp_path):
    """A dark picture in a set of 0..255 has values below 1, and stays dark."""
    values = FULL.astype(np.float32)
    values[5] /= 300
    images = read(files(tmp_path, values), test="none")
    assert pixels(images)[5].max() <= 1
    np.testing.assert_array_equal(np.delete(pixels(images), 5, 0), np.delete(FULL, 5, 0))
    assert "with float values" in said(images)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (FULL.astype(np.float32) / 255, FULL),
        (FULL.astype(np.float32) * 40 - 300, FULL),
        (FULL.astype(np.int32), FULL),
        (FULL.astype(np.int32) * 1000 - 5000, FULL),
        (FULL.astype(np.uint16) * 257, FULL),
    ],
    ids=["0..1", "any floats", "32 bits as 8", "32 bits", "16 bits"],
)
def test_every_kind_of_number_fills_the_range(values, expected, tmp_path):
    images = read(files(tmp_path, values), test="none")
    np.testing.assert_allclose(pixels(images).astype(int), expected, atol=1)
    offset, factor = images.facts["scale"]
    np.testing.assert_allclose((values.astype(float) - offset) * factor, expected, atol=0.6)


def test_files_are_labelled_by_the_scale_that_was_learnt_from(tmp_path):
    twelve = (FULL.astype(np.uint16) * 16)[:, :, :]
    images = read(files(tmp_path, twelve, "png"), test="none")
    names = [str(tmp_path / name) for name in images.unsealed().names]
    with pictures(tmp_path / "a", 1, ValueRange(*images.facts["scale"])) as every:
        for name, give in every:
            np.testing.assert_array_equal(
                give(*images.base_shape[:2]), images.unsealed().pixels[names.index(name)]
            )


def png_of_16_bits(colour: np.ndarray) -> bytes:
    """PNG 1.2, chapters 4 and 5: Pillow writes no colour of 16 bits. colour: uint16 (h, w, 3)."""
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour)
    header = struct.pack(">IIBBBBB", colour.shape[1], colour.shape[0], 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(
    ("factor", "message"), [(16, "the result is very dark"), (257, "per channel: reduced to 8")]
)
def test_colour_of_16_bits_is_told_and_whether_it_is_dark(factor, message, tmp_path):
    colour = striped(2, 8, 12, channels=3)[0].astype(np.uint16) * factor
    for index, (image, label) in enumerate(zip(colour, LABELS, strict=True)):
        (tmp_path / "ab"[label]).mkdir(exist_ok=True)
        (tmp_path / "ab"[label] / f"{index}.png").write_bytes(png_of_16_bits(image))
    assert message in said(read(tmp_path))


def test_wide_and_narrow_files_together_are_told(tmp_path):
    files(tmp_path, FULL, "png")
    files(tmp_path, FULL.astype(np.uint16) * 257 + 1, "tif")
    assert "16 images of more than 8 bits among 32" in said(read(tmp_path))


# --- parts ---------------------------------------------------------------------------------------

UNLIKE = [
    (FULL / 255, FULL.astype(float) + 1),
    (FULL, FULL / 255 + 0.001),
    (FULL.astype(np.uint16) * 257, FULL),
    (FULL, FULL // 128),
    (FULL / 127.5 - 1, FULL / 255),
    (FULL / 255, FULL / 127.5 - 1),
]


@pytest.mark.parametrize(("train", "other"), UNLIKE)
@pytest.mark.parametrize("part", ["val", "test"])
def test_arrays_of_parts_on_different_scales_are_refused(train, other, part, tmp_path):
    np.savez(
        tmp_path / "set.npz",
        **{"x_train": train, "y_train": LABELS, f"x_{part}": other, f"y_{part}": LABELS},
    )
    with pytest.raises(UnusableInput, match="parts are on different scales: train .*"):
        read(tmp_path / "set.npz")


@pytest.mark.parametrize("part", ["val", "test"])
def test_files_of_parts_on_different_scales_are_refused(part, tmp_path):
    files(tmp_path / "train", FULL.astype(np.float32) / 255)
    files(tmp_path / part, FULL.astype(np.float32) + 1)
    with pytest.raises(UnusableInput, match="parts are on different scales: train 0..1"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("train", "other"),
    [
        (FULL, FULL // 3),
        (FULL, np.zeros_like(FULL)),
        (FULL.astype(float), FULL),
        (FULL.astype(np.uint16) * 16, FULL.astype(np.uint16) * 10),
        (FULL / 50 - 2.1, FULL / 60 - 1.9),
    ],
)
def test_parts_that_are_only_darker_or_of_another_type_are_read(train, other, tmp_path):
    other = np.roll(other, 3, 1)  # other pictures
    np.savez(tmp_path / "set.npz", x_train=train, y_train=LABELS, x_test=other, y_test=LABELS)
    assert read(tmp_path / "set.npz").test.size == 16


# --- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [None, float("nan"), np.nan, np.float64("nan")])
@pytest.mark.parametrize("form", [list, lambda labels: np.array(labels, object)])
def test_missing_labels_are_no_classes(gone, form):
    labels = ["a", "b"] * 7 + ["a", gone]
    with pytest.raises(UnusableInput, match=r"1 of 16 labels are missing \(None or NaN\), at 15"):
        read((GRAY, form(labels)))
    with pytest.raises(UnusableInput, match="labels are missing"):
        read((GRAY, np.array([0.0, 1.0] * 7 + [0.0, np.nan])))


def test_missing_labels_in_masked_arrays_and_data_sets():
    with pytest.raises(UnusableInput, match="1 of 16 labels are missing"):
        read((GRAY, np.ma.array(LABELS, mask=np.arange(16) == 3)))
    for gone in (None, float("nan")):
        items = list(zip(GRAY, ["a", "b"] * 7 + ["a", gone], strict=True))
        with pytest.raises(UnusableInput, match="1 of 16 labels are missing"):
            read(Dataset(items))


class Dataset:
    """Like a torch Dataset."""

    def __init__(self, items) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        return self.items[index]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_labels_in_bytes(encoding):
    labels = np.array([name.encode(encoding) for name in ("v\u00f6gel", "hund")])[LABELS]
    assert read((GRAY, labels)).classes == ("hund", "v\u00f6gel")
