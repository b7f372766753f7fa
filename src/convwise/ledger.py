"""Every result, durable: an Optuna study, which Optuna and optuna-dashboard open as it is."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from convwise.core.problems import UnusableInput
from convwise.core.records import Result, from_json, to_json
from convwise.core.space import Space
from convwise.notes import RESULT

NAME = "convwise"


class Ledger:
    """The results of one study in a database: append, and read back after a crash.

    url: a path of an SQLite file, or a database URL. Only the process that owns the study writes.
    """

    def __init__(self, url: str | Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._url = str(url)
        text = url if isinstance(url, str) and "://" in url else f"sqlite:///{url}"
        _refuse_foreign(text)
        try:
            self._study = optuna.create_study(
                storage=text, study_name=NAME, direction="maximize", load_if_exists=True
            )
        except Exception as error:
            raise UnusableInput(
                str(url), f"is not a study that can be opened ({error})", "an Optuna database"
            ) from error
        self._distributions: dict[str, CategoricalDistribution] = {}
        stored = self._study.get_trials(deepcopy=False)
        self._results = [
            from_json(Result, t.user_attrs[RESULT]) for t in stored if RESULT in t.user_attrs
        ]

    @property
    def results(self) -> tuple[Result, ...]:
        """Every result, in the order in which they were recorded."""
        return tuple(self._results)

    def know(self, space: Space) -> None:
        """The space of the samples to come: Optuna keeps the legal values beside each. It must stay
        the same.
        """
        self._distributions = distributions(space)

    def append(self, result: Result) -> None:
        """Record one result; it is on disk when this returns."""
        configuration = dict(result.trial.configuration)
        known: dict[str, BaseDistribution] = {
            name: d
            for name, d in self._distributions.items()
            if configuration.get(name) in d.choices
        }
        attributes: dict[str, Any] = {
            "stage": result.trial.phase,
            "reason": result.reason,
            **result.cost,
        }
        trial = optuna.trial.create_trial(
            state=_state(result),
            value=result.score if result.status == "done" else None,
            params={name: configuration[name] for name in known},
            distributions=known,
            user_attrs={**attributes, RESULT: to_json(result)},
        )
        with self._writing():
            self._study.add_trial(trial)
        self._results.append(result)

    def note(self, key: str, value: Any) -> None:
        """Keep one fact about the study, as JSON."""
        with self._writing():
            self._study.set_user_attr(key, json.loads(json.dumps(value)))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """UnusableInput where the database cannot be written; what is in it stays."""
        try:
            yield
        except (StorageInternalError, SQLAlchemyError) as error:
            # The words of the database itself
            why = getattr(error.__cause__, "orig", error.__cause__ or error)
            what = f"can no longer be written to ({why})"
            fix = "make room there, and run the same command again"
            raise UnusableInput(self._url, what, "a disk that can be written to", fix) from error

    @property
    def notes(self) -> Mapping[str, Any]:
        return self._study.user_attrs


def distributions(space: Space) -> dict[str, CategoricalDistribution]:
    """Optuna's form of the space: every legal value of every choice."""
    return {each.name: CategoricalDistribution(each.legal) for each in space.hyperparameters}


def _state(result: Result) -> TrialState:
    """Optuna's word for it, which is 'pruned' for the final training: it has no score."""
    if result.status == "failed":
        return TrialState.FAIL
    return TrialState.PRUNED if result.score is None else TrialState.COMPLETE


def _refuse_foreign(url: str) -> None:
    """UnusableInput for an SQLite file that is not an Optuna study: Optuna would write its tables
    into it.
    """
    path = Path(url.removeprefix("sqlite:///"))
    if not url.startswith("sqlite:///") or not path.exists() or not path.stat().st_size:
        return
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
            tables = {
                name
                for (name,) in database.execute(
                    "select name from sqlite_master where type = 'table'"
                )
            }
    except sqlite3.DatabaseError as error:
        raise UnusableInput(
            str(path), f"is not a database ({error})", "an Optuna database"
        ) from error
    if tables and "studies" not in tables:
        raise UnusableInput(
            str(path),
            "is a database of something else",
            "an Optuna database",
            "choose another --out",
        )
