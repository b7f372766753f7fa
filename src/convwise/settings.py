"""What a study is asked, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from convwise.core.clock import Clock
from convwise.core.defaults import EVIDENCE, MOST_EVIDENCE
from convwise.core.goal import Goal
from convwise.core.parameters import at_least
from convwise.core.places import CACHE_SIZE
from convwise.core.problems import UnusableInput
from convwise.images.loading import Within
from convwise.output.whole import OUTPUTS
from convwise.training.runners import RUNNERS
from convwise.training.tasks import TASKS

TRAINING_SHARE = 0.8  # of a budget's core time that the network handed over is trained for, about
ANSWER_SHARE = 0.1  # of the budget: an interrupt after it gets an answer
LATEST_SHARE = 0.4  # of the budget: reading ends by it, however slow it is
COUNTED_SECONDS = 300.0  # that a study of counted trials is advised for, on any machine
VIEWS = ("auto", "1", "2")  # 2: the image and its mirror image; auto: see mirrored.py


@dataclass(frozen=True)
class Settings:
    """What a study is asked: the flags of `convwise choose`."""

    source: Any
    budget: float = 600.0
    goal: Goal = Goal()
    task: str = "classify"
    test: float | Literal["none"] | None = None
    out: Path = Path("convwise-study")
    seed: int = 0
    workers: int | None = None
    trials: int | None = None
    evidence: float = EVIDENCE  # share of the core time for trials beside the leader
    runner: str = "local"
    command: str = ""
    # How the images are read: the fields of images.sources.Reading
    classes_from: str = "folder"
    skip_empty_classes: bool = False
    follow_links: bool = False
    cache_size: str | int = CACHE_SIZE
    against: tuple[Any, ...] = ()  # models that the choice is compared with
    views: str | int = "auto"  # of an image that the network handed over looks at: one of VIEWS

    @property
    def reading(self) -> dict[str, Any]:
        """How the images are to be read."""
        return {
            name: getattr(self, name)
            for name in ("task", "classes_from", "skip_empty_classes", "follow_links")
        }

    @property
    def work(self) -> Path:
        """What only an unfinished study needs: images at their input sizes, trials' weights."""
        return self.out / ".study"

    @property
    def ledger(self) -> Path:
        """Where every result is kept."""
        return self.out / "study.db"

    @property
    def look_budget(self) -> float:
        """The budget that the look at the images is for: how many are looked at hangs on it."""
        return self.budget if self.trials is None else COUNTED_SECONDS

    def within(self, clock: Clock) -> Within:
        """What reading may cost: a share of the budget. For counted trials everything is read."""
        if self.trials is not None:
            return Within(cache_size=self.cache_size)
        return Within(
            self.budget,
            lambda share: clock.until(share * LATEST_SHARE) <= 0,
            cache_size=self.cache_size,
        )

    @property
    def training_seconds(self) -> float:
        """Of core time that the network handed over is advised for."""
        return TRAINING_SHARE * (self.budget if self.trials is None else COUNTED_SECONDS)


def validate(settings: Settings) -> None:
    """UnusableInput where a name is in no table, a number is none, or the folder cannot be written
    or is another's.
    """
    named = (
        ("--task", settings.task, TASKS),
        ("--runner", settings.runner, RUNNERS),
        ("--views", settings.views, VIEWS),
    )
    for flag, name, table in named:
        if str(name) not in table:
            raise UnusableInput(flag, f"is {name!r}", "one of " + ", ".join(table))
    at_least("--workers", settings.workers, 1)
    at_least("--trials", settings.trials, 1)
    at_least("--seed", settings.seed, 0)
    if not 0 <= settings.evidence <= MOST_EVIDENCE:  # also where it is no number
        what, fix = (
            f"is {settings.evidence!r}",
            f"0 tests only the advised network; the default is {EVIDENCE}",
        )
        raise UnusableInput("--evidence", what, f"a share from 0 to {MOST_EVIDENCE}", fix)
    _check_folder(settings)


def _check_folder(settings: Settings) -> None:
    out = settings.out
    if not settings.ledger.exists() and (
        others := [name for name in OUTPUTS if (out / name).exists()]
    ):
        what = f"{out} holds {', '.join(others)}, but no study.db: convwise did not write them"
        raise UnusableInput(
            "--out",
            what,
            "a new folder, or the folder of an unfinished study",
            "choose another --out",
        )
    try:
        settings.work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnusableInput(
            "--out", f"{out} cannot be written ({error})", "a folder to write"
        ) from error


def folder_for(source: Any, out: str | Path | None) -> Path:
    """`out`, or else 'photos/' -> convwise-photos. UnusableInput where `out` is an empty name."""
    if isinstance(out, str) and not out.strip():
        raise UnusableInput(
            "--out", "is empty", "a folder to write", "name one, or leave --out out"
        )
    name = Path(source).stem if isinstance(source, (str, Path)) else "arrays"
    return Path(out or f"convwise-{name or 'images'}")
