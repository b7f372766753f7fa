"""scikit-learn's faces of `choose`: estimators that choose a network when they are fitted."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d, validate_data

from convwise import verbs
from convwise.core.problems import UnusableInput
from convwise.output import choice
from convwise.output.choice import Choice
from convwise.output.whole import OUTPUTS

MOST_CHANNELS = 4


class _Estimator(BaseEstimator):  # type: ignore[misc]
    """What both faces share: their parameters, the images, the one study, and the folder that goes
    with them.
    """

    task: ClassVar[str]

    def __init__(
        self,
        *,
        budget: str | float = "10m",
        goal: str | None = None,
        image_shape: tuple[int, ...] | None = None,
        out: str | Path | None = None,
        random_state: Any = 0,
        trials: int | None = None,
        workers: int | None = None,
    ) -> None:
        self.budget = budget
        self.goal = goal
        self.image_shape = image_shape
        self.out = out
        self.random_state = random_state
        self.trials = trials
        self.workers = workers

    def _fit(self, X: NDArray[Any], learnt: NDArray[Any]) -> Self:
        """Choose a network for images X as `fit` takes them. learnt: (n,), class names or numbers,
        or (n, k).
        """
        images = self._images(X)
        self.image_shape_ = images.shape[1:]
        self.n_features_in_ = prod(self.image_shape_)
        folder = _new_folder() if self.out is None else Path(self.out)
        try:
            self.choice_ = self._choose(images, learnt, folder)
        except BaseException as error:
            if self.out is None:
                shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, UnusableInput):
                raise ValueError(str(error)) from error
            raise
        if self.out is None:
            _kept_with(self.choice_, folder)
        return self

    def _choose(self, images: NDArray[Any], learnt: NDArray[Any], out: Path) -> Choice:
        whole = isinstance(self.random_state, (int, np.integer))
        seed = int(
            self.random_state if whole else check_random_state(self.random_state).randint(2**31 - 1)
        )
        return verbs.choose((images, learnt), budget=self.budget, goal=self.goal, task=self.task,
                            test="none", out=out, seed=seed, trials=self.trials,
                            workers=self.workers)  # fmt: skip

    def _answers(
        self, X: Any, answer: Callable[[Choice, NDArray[Any]], NDArray[Any]]
    ) -> NDArray[Any]:
        """What the chosen network answers to images as `fit` took them."""
        check_is_fitted(self)
        images = self._seen_before(X)
        try:
            return answer(self.choice_, images)
        except UnusableInput as error:
            raise ValueError(str(error)) from error

    # images --------------------------------------------------------------------------------------

    def _images(self, X: NDArray[Any]) -> NDArray[Any]:
        """(n, rows, columns, channels) of what `fit` takes."""
        if X.ndim == 2:
            X = self._shaped(X)
        images = X[..., None] if X.ndim == 3 else X
        if images.ndim != 4 or images.shape[3] > MOST_CHANNELS:
            expected = (
                "(n, rows, columns), (n, rows, columns, channels) with 1 to 4 channels, or (n,"
                " numbers)"
            )
            raise ValueError(f"X has the shape {X.shape}; expected {expected}")
        return images

    def _shaped(self, X: NDArray[Any]) -> NDArray[Any]:
        if self.image_shape is None:
            fix = "image_shape=(rows, columns), or (rows, columns, channels)"
            raise ValueError(
                f"X is flat, with {X.shape[1]} numbers per image; expected images, or {fix}"
            )
        try:
            return X.reshape(len(X), *self.image_shape)
        except ValueError as error:
            what = (
                f"X has {X.shape[1]} numbers per image, which does not fit"
                f" image_shape={self.image_shape}"
            )
            raise ValueError(what) from error

    def _seen_before(self, X: Any) -> NDArray[Any]:
        """The images of `predict`, which must be as those of `fit`."""
        given = check_array(X, allow_nd=True, dtype="numeric")
        images = self._images(
            validate_data(self, X, reset=False, dtype="numeric") if given.ndim == 2 else given
        )
        if images.shape[1:] != self.image_shape_:
            raise ValueError(
                f"X holds images {images.shape[1:]}; expected {self.image_shape_}, as in fit"
            )
        return images

    # scikit-learn --------------------------------------------------------------------------------

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.non_deterministic = self.trials is None  # by the clock
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = {**super().__getstate__()}
        if chosen := state.pop("choice_", None):
            files = [chosen.folder / name for name in OUTPUTS]
            state["_files"] = {path.name: path.read_bytes() for path in files if path.is_file()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        files = state.pop("_files", None)
        super().__setstate__(state)
        if files:
            folder = _new_folder()
            for name, content in files.items():
                (folder / name).write_bytes(content)
            self.choice_ = choice.load(folder)
            _kept_with(self.choice_, folder)


class ConvwiseClassifier(ClassifierMixin, _Estimator):  # type: ignore[misc]
    """Chooses a convolutional network that tells classes of images apart, and predicts with it.

    budget, goal, trials, workers: as in `convwise.choose`. image_shape: (rows, columns) or (rows,
    columns, channels) of images that come flat, one of them -1 for 'what is left'; images that come
    as (n, rows, columns[, channels]) need none. out: the folder to write; by default one that goes
    with the estimator. random_state: the seed. Nothing is sealed: a score comes from images that
    `fit` has not seen, as in scikit-learn.

    After `fit`: choice_ (the Choice, with its report and models), classes_, n_features_in_ (numbers
    in one image), image_shape_ (rows, columns, channels). A pickle holds the written files, all but
    study.db.
    """

    task = "classify"

    def fit(self, X: Any, y: Any) -> ConvwiseClassifier:
        """Choose a network for the images X, (n, rows, columns[, channels]) or flat (n, numbers),
        and labels y, (n,).

        Values are kept where they are in 0..255, else brought there. ValueError where they cannot
        be learnt from.
        """
        X, y = validate_data(self, X, y, allow_nd=True, dtype="numeric")
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        return self._fit(X, np.array(self._names())[codes])

    def predict(self, X: Any) -> NDArray[Any]:
        """The class of each image, (n,), as they were in y."""
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """The probability of each class, (n, classes), in the order of classes_."""
        shares = self._answers(X, Choice.predict_proba)
        return shares[:, [self.choice_.classes.index(name) for name in self._names()]]

    def _names(self) -> list[str]:
        """The classes as the choice names them: as text, or their numbers where two would have the
        same.
        """
        names = [str(name) for name in self.classes_]
        return (
            names
            if len(set(names)) == len(names)
            else [str(number) for number in range(len(names))]
        )


class ConvwiseRegressor(RegressorMixin, _Estimator):  # type: ignore[misc]
    """Chooses a convolutional network that answers a number for each image, or several, and
    predicts with it.

    All as ConvwiseClassifier, but for classes_, which there are none of. `score` is R2, the share
    of the variance that is explained, of several numbers the mean over them.
    """

    task = "regress"

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn may give it: y can have several columns."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any) -> ConvwiseRegressor:
        """Choose a network for the images X, (n, rows, columns[, channels]) or flat (n, numbers).

        y: the numbers, (n,) or (n, k). Values of X are kept where they are in 0..255, else brought
        there. ValueError where they cannot be learnt from.
        """
        how = {"y_numeric": True, "multi_output": True, "ensure_min_samples": 2}
        X, y = validate_data(self, X, y, allow_nd=True, dtype="numeric", **how)
        y = y.astype(np.float64)
        return self._fit(X, column_or_1d(y, warn=True) if y.ndim == 1 or y.shape[1] == 1 else y)

    def predict(self, X: Any) -> NDArray[np.float64]:
        """The number of each image, (n,), or its numbers, (n, k), in the units of y."""
        return self._answers(X, Choice.predict)


def _new_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="convwise-"))


def _kept_with(chosen: Choice, folder: Path) -> None:
    """The folder is there as long as the choice is."""
    weakref.finalize(chosen, shutil.rmtree, folder, ignore_errors=True)
