"""The estimators: scikit-learn's own checks on their faces, and one study behind each."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

import convwise
from convwise import ConvwiseClassifier, ConvwiseRegressor, formats
from convwise.core.layers import Dense, Flatten, Rescaling
from convwise.core.net import Net
from convwise.output.choice import Choice, load
from convwise.output.stored import called
from imagesets import striped


class Quick(ConvwiseClassifier):
    """Its network is chosen in no time: the nearest class mean, written and answered as any choice
    is.
    """

    def _choose(self, images: np.ndarray, names: np.ndarray, out: Path) -> Choice:
        found = convwise.read((images, names), test="none")
        part = found.unsealed()
        means = np.stack(
            [part.pixels[part.labels == k].mean(axis=0).ravel() for k in range(len(found.classes))]
        )
        net = Net(
            found.base_shape, (Flatten(), Dense(len(means), activation="softmax", name="last"))
        )
        sharp = 0.01  # so that no probability is rounded to 1
        return written(found, net, sharp * means.T, -sharp * (means**2).sum(axis=1) / 2, out)


class QuickNumbers(ConvwiseRegressor):
    """The same of numbers: least squares over the pixels."""

    def _choose(self, images: np.ndarray, numbers: np.ndarray, out: Path) -> Choice:
        found = convwise.read((images, numbers), test="none", task="regress")
        part = found.unsealed()
        pixels = part.pixels.reshape(len(part.pixels), -1).astype(float)
        y = part.labels.reshape(len(part.labels), -1)
        mean, unit = y.mean(0), np.where(y.std(0) > 0, y.std(0), 1.0)
        solved = np.linalg.lstsq(
            np.c_[pixels, np.ones(len(pixels))], (y - mean) / unit, rcond=1e-6
        )[0]
        last = Rescaling(tuple(unit.tolist()), tuple(mean.tolist()))
        net = Net(found.base_shape, (Flatten(), Dense(y.shape[1], name="last"), last))
        return written(found, net, solved[:-1], solved[-1], out)


def written(images, net: Net, kernel: np.ndarray, bias: np.ndarray, out: Path) -> Choice:
    """A folder as `choose` writes it, as far as a prediction needs it."""
    weights = {"last/kernel": kernel.astype(np.float32), "last/bias": bias.astype(np.float32)}
    formats.write(out, net, weights, images.classes, images.unsealed().pixels[:2], ("onnx",))
    data = {"classes": images.classes, **called(images.numbers), "base_shape": images.base_shape}
    record = {"net": net.to_json(), "configuration": {}, "test": {}, "cost": {}, "effects": [],
              "provenance": {},
              "data": {**data, "facts": dict(images.facts)}, "task": images.task}  # fmt: skip
    (out / "choice.json").write_text(json.dumps(record))
    return load(out)


@parametrize_with_checks(
    [Quick(image_shape=(1, -1), trials=1), QuickNumbers(image_shape=(1, -1), trials=1)]
)
def test_scikit_learn_agrees(estimator, check):
    """Its data are rows of numbers: images of one row."""
    check(estimator)


# The rest is what scikit-learn does not know of: images, and what was chosen.


@pytest.fixture(scope="module")
def stripes():
    """(x (n, 12, 12, 1), y of words): to be fitted, and to be scored on."""
    pixels, labels = striped(3, 30, 12)
    more, more_labels = striped(3, 10, 12, seed=1)
    names = np.array(["up", "down", "4"])
    return (pixels, names[labels]), (more, names[more_labels])


def test_images_come_with_rows_and_columns_or_flat(stripes):
    (x, y), (more, _) = stripes
    images = Quick().fit(x, y)
    assert (images.image_shape_, images.n_features_in_) == ((12, 12, 1), 144)
    expected = images.predict_proba(more)
    gray, flat = (
        Quick().fit(x[..., 0], y),
        Quick(image_shape=(12, 12)).fit(x.reshape(len(x), -1), y),
    )
    assert (gray.predict_proba(more[..., 0]) == expected).all()
    assert (flat.predict_proba(more.reshape(len(more), -1)) == expected).all()
    assert images.classes_.tolist() == ["4", "down", "up"]
    assert expected.shape == (30, 3)


def test_every_class_keeps_its_column(stripes):
    """classes_ are sorted as words, '10' first; a choice sorts numbers by their value."""
    (x, _), _ = stripes
    y = np.repeat(["10", "2", "33"], 30)
    found = Quick().fit(x, y)
    assert found.classes_.tolist() == ["10", "2", "33"]
    assert found.choice_.classes == ("2", "10", "33")
    assert (found.predict(x) == found.choice_.predict(x)).all()
    assert found.score(x, y) > 0.5


@pytest.mark.parametrize(("shape", "said"), [
    ((20, 144),
    r"X is flat, with 144 numbers per image; expected images, or image_shape=\(rows, columns\)"),
    ((20, 12, 12, 7), "X has the shape"), ((20, 1, 1, 12, 12), "X has the shape"),
])  # fmt: skip
def test_what_is_no_image_is_refused(shape, said):
    with pytest.raises(ValueError, match=said):
        Quick().fit(np.random.default_rng(0).integers(0, 256, shape), np.arange(20) % 2)


def test_an_image_shape_that_does_not_fit_is_named(stripes):
    (x, y), _ = stripes
    with pytest.raises(
        ValueError, match=r"144 numbers per image, which does not fit image_shape=\(10, 10\)"
    ):
        Quick(image_shape=(10, 10)).fit(x.reshape(len(x), -1), y)


def test_images_of_another_shape_are_refused(stripes):
    (x, y), _ = stripes
    with pytest.raises(ValueError, match=r"\(10, 12, 1\); expected \(12, 12, 1\), as in fit"):
        Quick().fit(x, y).predict(x[:, :10])


def test_it_stands_in_a_pipeline_and_is_cross_validated(stripes):
    (x, y), _ = stripes
    whole = make_pipeline(FunctionTransformer(lambda images: images // 2), Quick())
    assert whole.fit(x, y).score(x, y) > 0.5
    assert cross_val_score(Quick(), x, y, cv=3).min() > 0.3


def test_a_pickle_is_whole_without_the_folder(stripes):
    (x, y), (more, _) = stripes
    found = Quick().fit(x, y)
    expected, held, folder = found.predict_proba(more), pickle.dumps(found), found.choice_.folder
    del found
    assert not folder.exists()  # it goes with the estimator
    again = pickle.loads(held)
    assert (again.predict_proba(more) == expected).all()
    assert again.choice_.folder.is_dir()
    assert not hasattr(clone(again), "choice_")


def test_a_fit_that_fails_leaves_nothing(stripes, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (x, y), _ = stripes
    with pytest.raises(ValueError, match="fewer than two different images"):
        Quick().fit(x, np.arange(len(x)) > 0)
    assert list(tmp_path.iterdir()) == []
    found = Quick().fit(x, y).fit(x, y)
    assert [path for path in tmp_path.iterdir() if path.name.startswith("convwise-")] == [
        found.choice_.folder
    ]


@pytest.mark.slow
def test_a_study_stands_behind_it(stripes, tmp_path):
    (x, y), (more, names) = stripes
    found = ConvwiseClassifier(
        goal="accuracy where macs<100k", trials=2, workers=1, out=tmp_path / "chosen"
    )
    assert found.fit(x, y) is found
    assert found.choice_.folder == tmp_path / "chosen"
    assert found.choice_.record["data"]["test"] == 0  # nothing is sealed
    assert found.score(more, names) > 0.6
    assert found.choice_.report().is_file()
    again = pickle.loads(pickle.dumps(found))
    assert (again.predict(more) == found.predict(more)).all()
    assert again.choice_.report().parent != found.choice_.report().parent


@pytest.fixture(scope="module")
def brightness():
    """(x (n, 12, 12), y): a square of a brightness, which is the number, in thousandths; to fit,
    and to score on.
    """
    rng = np.random.default_rng(0)
    y = rng.uniform(40, 200, 120)
    x = rng.normal(30, 4, (120, 12, 12))
    x[:, 3:9, 3:9] += y[:, None, None]
    pixels = x.clip(0, 255).astype(np.uint8)
    return (pixels[:90], 1000 * y[:90]), (pixels[90:], 1000 * y[90:])


def test_numbers_come_back_in_their_unit_and_are_scored_by_r2(brightness):
    (x, y), (more, numbers) = brightness
    found = QuickNumbers().fit(x, y)
    assert found.predict(more) == pytest.approx(found.choice_.predict(more[..., None]))
    assert found.score(more, numbers) == pytest.approx(r2_score(numbers, found.predict(more)))
    assert found.score(more, numbers) > 0.9
    assert cross_val_score(QuickNumbers(), x, y, cv=3).min() > 0.5
    again = pickle.loads(pickle.dumps(found))
    assert (again.predict(more) == found.predict(more)).all()
    assert (type(clone(found)), clone(found).get_params()) == (QuickNumbers, found.get_params())


def test_several_numbers_come_back_in_the_order_of_y(brightness):
    (x, y), (more, numbers) = brightness
    both, others = (np.stack([each, -each / 1000], axis=1) for each in (y, numbers))
    found = QuickNumbers().fit(x, both)
    assert found.predict(more).shape == (30, 2)
    assert found.predict(more) == pytest.approx(found.choice_.predict(more[..., None]))
    assert found.score(more, others) == pytest.approx(r2_score(others, found.predict(more)))
    assert found.score(more, others) > 0.9
    assert found.choice_.score(more[..., None], others) == pytest.approx(found.score(more, others))


@pytest.mark.slow
def test_a_study_of_numbers_stands_behind_it(brightness, tmp_path):
    (x, y), (more, numbers) = brightness
    found = ConvwiseRegressor(
        goal="error where macs<100k", trials=2, workers=1, out=tmp_path / "chosen"
    )
    assert found.fit(x, y).score(more, numbers) > 0.3
    assert found.choice_.record["task"] == "regress"
    assert found.choice_.record["data"]["test"] == 0  # nothing is sealed
